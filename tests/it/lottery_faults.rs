//! Draws under faults: killed sign-ups, two processes at once, steps in any order, goods that vanish, rounds of many pages.

use bson::{Document, doc};
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;
use it::{Client, World, database_name, mongod_uri, order_of, violations};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};
use store::lottery::RoundStatus;
use store::{Store, StoreConfig};

use crate::crash::{free_port, start};
use crate::lottery::{
    activity_open_at, checked, create, draw, people, record, result, sign_up, signed_up, to_close, with,
};
use crate::verify::jinlu;

async fn database(world: &World) -> anyhow::Result<mongodb::Database> {
    let name = world.app.config.store.as_ref().map(|s| s.database.clone()).unwrap_or_default();
    Ok(mongodb::Client::with_uri_str(mongod_uri().await?).await?.database(&name))
}

#[expect(clippy::disallowed_methods, reason = "a host of its own has the machine's clock")]
fn machine_time() -> DateTime<Utc> {
    Utc::now()
}

/// An activity made at a host of its own, with an open round.
async fn open_activity(c: &Client) -> anyhow::Result<String> {
    let activity = with(activity_open_at(machine_time()), "quota", json!(2));
    let made = c.call_service("lotteryAdmin", json!({ "action": "create", "activity": activity })).await?;
    Ok(made.ok()["activityId"].as_str().unwrap_or_default().to_owned())
}

/// Draws until the rights are out: what was killed keeps its documents locked until the server gives it up.
async fn until_granted(c: &Client, store: &Store, round: &str) -> anyhow::Result<()> {
    for _ in 0..60 {
        c.call_service("lotteryDraw", json!({})).await?;
        if store.round(round).await?.is_some_and(|r| r.status == RoundStatus::Granted) {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
    anyhow::bail!("the round is not granted")
}

/// A process dies after it stored a sign-up and before it answered. `late`: the repeat comes after the draw.
async fn signs_up_although_killed(late: bool) -> anyhow::Result<()> {
    let (uri, database) = (mongod_uri().await?, database_name());
    let (folder, port) = (tempfile::tempdir()?, free_port()?);
    let host = start(&uri, &database, folder.path(), port, Some("lottery.inserted"))?;
    let c = host.client.clone();
    let id = open_activity(&c).await?;
    let token = c.login("cut-off").await?;
    let event = json!({ "action": "signUp", "activityId": id, "requestId": "sign-up-killed-1" });
    let (client, said, user) = (c.clone(), event.clone(), token.clone());
    host.killed_at("lottery.inserted", async move { client.call("lottery", &user, said).await.map(drop) }).await?;

    let host = start(&uri, &database, folder.path(), port, None)?;
    let c = host.client.clone();
    let store = Store::new(StoreConfig::new(&uri, &database));
    if !late {
        assert_eq!(c.call("lottery", &token, event.clone()).await?.ok()["replayed"], true);
        let other = json!({ "action": "signUp", "activityId": id, "requestId": "sign-up-killed-2" });
        c.call("lottery", &token, other).await?.refused(409, "ALREADY_SIGNED_UP");
    }
    let shown = c.call("lottery", "", json!({ "action": "get", "activityId": id })).await?;
    let round = shown.ok()["currentRound"]["roundId"].as_str().unwrap_or_default().to_owned();
    c.advance(700).await?;
    until_granted(&c, &store, &round).await?;
    let again = c.call("lottery", &token, event).await?;
    assert_eq!(again.ok()["replayed"], true);
    let record = checked(&record(&c, &round).await?)?;
    assert_eq!(record.tickets, [again.text("ticketId")]);
    assert_eq!(result(&c, &token, &round).await?["won"], true);
    let found = violations(&store, machine_time() + TimeDelta::hours(1)).await?;
    assert!(found.is_empty(), "{found:?}");
    store.drop_database().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_up_whose_process_was_killed_counts_once() -> anyhow::Result<()> {
    signs_up_although_killed(false).await?;
    signs_up_although_killed(true).await
}

/// Two processes draw the same round at the same moment and one of them dies at a step, if it gets that far.
#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_drawing_processes_is_killed() -> anyhow::Result<()> {
    let mut killed = 0;
    for point in ["lottery.frozen", "lottery.chunk", "lottery.ranked", "lottery.grant.committed", "lottery.tell.inside"]
    {
        let (uri, database) = (mongod_uri().await?, database_name());
        let (one, two) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let dying = start(&uri, &database, one.path(), free_port()?, Some(point))?;
        let other = start(&uri, &database, two.path(), free_port()?, None)?;
        let (a, b) = (dying.client.clone(), other.client.clone());
        let id = open_activity(&a).await?;
        let tokens = people(&a, 5).await?;
        let mut round = String::new();
        for (i, token) in tokens.iter().enumerate() {
            round = sign_up(if i % 2 == 0 { &a } else { &b }, token, &id).await?.text("roundId");
        }
        for client in [&a, &b] {
            client.advance(700).await?;
        }
        let work = async move { draw(&a).await.map(drop) };
        let (died, drew) = tokio::join!(dying.killed_at(point, work), b.call_service("lotteryDraw", json!({})));
        drew?;
        killed += usize::from(died.is_ok());
        let store = Store::new(StoreConfig::new(&uri, &database));
        until_granted(&b, &store, &round).await?;
        let record = checked(&record(&b, &round).await?)?;
        assert_eq!((record.tickets.len(), record.winners.len()), (5, 2), "{point}");
        let found = violations(&store, machine_time() + TimeDelta::hours(1)).await?;
        assert!(found.is_empty(), "{point}: {found:?}");
        let product = store.product(&domain::ProductId::parse("p-lottery")?).await?;
        assert_eq!(product.map(|p| p.stock), Some(48), "{point}");
        store.drop_database().await?;
    }
    assert!(killed > 0, "no process came as far as its end");
    Ok(())
}

#[derive(Debug, Clone, Copy)]
enum Step {
    SignUp(usize),
    Draw,
    DrawRound,
    Buy(usize),
    Pay(usize),
    CloseExpired,
    Cancel(usize),
    Result(usize),
    Advance(i64),
}

const USERS: usize = 4;

fn step() -> impl Strategy<Value = Step> {
    let user = 0..USERS;
    prop_oneof![
        4 => user.clone().prop_map(Step::SignUp),
        3 => Just(Step::Draw),
        1 => Just(Step::DrawRound),
        3 => user.clone().prop_map(Step::Buy),
        1 => user.clone().prop_map(Step::Pay),
        2 => Just(Step::CloseExpired),
        1 => user.clone().prop_map(Step::Cancel),
        1 => user.prop_map(Step::Result),
        3 => prop::sample::select(vec![20i64, 200, 660, 900, 1900]).prop_map(Step::Advance),
    ]
}

/// One activity with its people, seen through two processes.
struct Case<'a> {
    clients: [&'a Client; 2],
    activity: String,
    round: String,
    tokens: &'a [String],
    /// Who was told that they are in.
    accepted: std::sync::Mutex<Vec<(usize, String)>>,
}

impl Case<'_> {
    async fn orders(&self, user: usize) -> anyhow::Result<Vec<Value>> {
        let listed = self.clients[0].call("orders", &self.tokens[user], json!({ "action": "list" })).await?;
        let mine = |o: &&Value| o["qualificationId"].as_str().is_some_and(|q| q.starts_with(&self.round));
        Ok(listed.ok()["data"].as_array().into_iter().flatten().filter(mine).cloned().collect())
    }

    async fn run(&self, at: usize, step: Step) -> anyhow::Result<()> {
        let c = self.clients[at % 2];
        match step {
            Step::SignUp(user) => {
                let done = sign_up(c, &self.tokens[user], &self.activity).await?;
                if done.status == 200 && done.text("roundId") == self.round {
                    self.accepted.lock().unwrap().push((user, done.text("ticketId")));
                }
            }
            Step::Draw => drop(c.call_service("lotteryDraw", json!({})).await?),
            Step::DrawRound => drop(c.call_service("lotteryDraw", json!({ "roundId": self.round })).await?),
            Step::Buy(user) => {
                let right = result(c, &self.tokens[user], &self.round).await?["qualificationId"].clone();
                if right.is_string() {
                    let event = with(order_of("p-lottery", 1), "qualificationId", right);
                    c.call("submitOrder", &self.tokens[user], event).await?;
                }
            }
            Step::Pay(user) => {
                for order in self.orders(user).await? {
                    let id = order["orderId"].as_str().unwrap_or_default().to_owned();
                    c.call("wxPay", &self.tokens[user], json!({ "orderId": id })).await?;
                    c.pay(&id, "once").await?;
                }
            }
            Step::CloseExpired => drop(c.timer("closeExpiredOrders").await?),
            Step::Cancel(user) => {
                for order in self.orders(user).await? {
                    let event = json!({ "action": "cancel", "orderId": order["orderId"] });
                    c.call("orders", &self.tokens[user], event).await?;
                }
            }
            Step::Result(user) => drop(result(c, &self.tokens[user], &self.round).await?),
            Step::Advance(seconds) => drop(c.advance(seconds).await?),
        }
        Ok(())
    }
}

async fn case(world: &World, clients: [&Client; 2], tokens: &[String], groups: &[Vec<Step>]) -> anyhow::Result<()> {
    let shelf = world.stock("p-lottery").await?;
    let activity = with(activity_open_at(world.app.clock.now()), "quota", json!(2));
    let activity = create(world, activity).await?;
    let shown = clients[0].call("lottery", "", json!({ "action": "get", "activityId": activity })).await?;
    let round = shown.ok()["currentRound"]["roundId"].as_str().unwrap_or_default().to_owned();
    let case = Case { clients, activity, round, tokens, accepted: std::sync::Mutex::default() };
    let mut at = 0;
    for group in groups {
        let steps = group.iter().map(|step| {
            at += 1;
            case.run(at, *step)
        });
        for outcome in join_all(steps.collect::<Vec<_>>()).await {
            outcome?;
        }
    }
    let found = world.violations().await?;
    assert!(found.is_empty(), "on the way: {found:?}");
    // No round of the next days takes part: its activity ends here.
    let end = json!({ "action": "delete", "activityId": case.activity });
    clients[0].call_service("lotteryAdmin", end).await?.ok();
    clients[0].advance(700).await?;
    draw(clients[1]).await?;
    for _ in 0..2 {
        clients[0].advance(49 * 3600).await?;
        world.settle_down().await?;
        draw(clients[0]).await?;
        clients[0].timer("expireCoins").await?;
    }
    draw(clients[1]).await?;
    let record = checked(&record(clients[0], &case.round).await?)?;
    for (user, ticket) in case.accepted.lock().unwrap().iter() {
        assert!(record.tickets.contains(ticket), "user {user} was accepted and is missing");
    }
    let mut paid = 0;
    for user in 0..USERS {
        let bought = case.orders(user).await?.iter().filter(|o| o["status"] == "paid").count();
        assert!(bought <= 1, "one right, {bought} orders");
        paid += i64::try_from(bought)?;
    }
    assert_eq!(world.stock("p-lottery").await?, shelf - paid, "every piece that was not bought is back");
    let settled = world.store.round(&case.round).await?.map(|r| r.status);
    assert_eq!(settled, Some(RoundStatus::Settled));
    let found = world.violations().await?;
    assert!(found.is_empty(), "{found:?}");
    Ok(())
}

#[test]
fn any_interleaving_of_a_draw_comes_to_one_result() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let world = runtime.block_on(World::start()).unwrap();
    let (_gateway, second) = runtime.block_on(world.another()).unwrap();
    let number = std::cell::Cell::new(0);
    let config = Config { cases: 12, max_shrink_iters: 10, failure_persistence: None, ..Config::default() };
    let groups = prop::collection::vec(prop::collection::vec(step(), 1..5), 3..9);
    TestRunner::new(config)
        .run(&groups, |groups| {
            number.set(number.get() + 1);
            let outcome = runtime.block_on(async {
                let mut tokens = Vec::new();
                for user in 0..USERS {
                    tokens.push(world.client.login(&format!("draw{}x{user}", number.get())).await?);
                }
                case(&world, [&world.client, &second], &tokens, &groups).await
            });
            outcome.map_err(|e| TestCaseError::fail(e.to_string()))
        })
        .unwrap();
    runtime.block_on(world.finish()).unwrap();
}

#[tokio::test]
async fn goods_that_vanished_hold_up_no_other_round() -> anyhow::Result<()> {
    let stock = json!({ "quota": 1, "unused": "stock" });
    let (world, _, round, tokens) = signed_up(stock, 1).await?;
    let c = &world.client;
    let other = create(&world, with(activity_open_at(world.app.clock.now()), "productId", json!("p-honey"))).await?;
    let honey = world.stock("p-honey").await?;
    for token in &tokens {
        sign_up(c, token, &other).await?.ok();
    }
    to_close(&world, &round, 0).await?;
    draw(c).await?;
    assert_eq!(world.stock("p-honey").await?, honey - 1);
    let products = database(&world).await?.collection::<Document>("shopProducts");
    let gone = products.find_one_and_delete(doc! { "_id": "p-lottery" }).await?.unwrap();
    c.timer("deliverOutbox").await?.ok();
    c.advance(25 * 3600).await?;
    let ran = draw(c).await?;
    assert_eq!((&ran["expired"], &ran["returned"]), (&json!(1), &json!(1)), "{ran}");
    assert!(ran["skipped"].as_array().unwrap().contains(&json!({ "roundId": round, "reason": "FAILED" })), "{ran}");
    assert_eq!(world.stock("p-honey").await?, honey);
    assert_eq!(result(c, &tokens[0], &round).await?["qualificationStatus"], "expired");
    products.insert_one(gone).await?;
    assert_eq!(draw(c).await?["returned"], 1);
    world.finish().await
}

#[tokio::test]
async fn a_figure_entered_during_a_draw_is_drawn_with_at_once() -> anyhow::Result<()> {
    let public = json!({ "beacon": { "source": "public", "name": "上证指数收盘" } });
    let (world, id, round, _) = signed_up(public, 3).await?;
    let c = &world.client;
    let now = to_close(&world, &round, 0).await.map(|()| world.app.clock.now())?;
    // Nobody drew yet; entering it ends the sign-up, also for a process whose clock is behind.
    let enter = json!({ "action": "beacon", "roundId": round, "value": "三千点 3000.01" });
    let open = world.store.round(&round).await?.unwrap();
    c.call_service("lotteryAdmin", enter).await?.ok();
    let frozen = world.store.round(&round).await?.unwrap();
    assert_eq!((open.status, frozen.status), (RoundStatus::Open, RoundStatus::Frozen));
    // A draw that read the round before the figure was there neither puts it off nor gives it up.
    assert!(!world.store.postpone_round(&open, now + TimeDelta::hours(72)).await?);
    let before = store::lottery::Round { public_value: None, ..frozen };
    assert!(!world.store.postpone_round(&before, now + TimeDelta::hours(72)).await?);
    world.store.round_listed(&round, "nobody", 0, "").await?;
    assert!(!world.store.round_void(&round, &"0".repeat(64), now).await?);
    let db = database(&world).await?;
    let frozen_again = doc! { "$set": { "status": "frozen" }, "$unset": { "listRun": "", "n": "", "ticketsHash": "" } };
    db.collection::<Document>("lotteryRounds").update_one(doc! { "_id": &round }, frozen_again).await?;
    let drawn = draw(c).await?;
    assert_eq!(drawn["drawn"], json!([{ "roundId": round, "entries": 3, "winners": 3 }]), "{id}");
    let record = checked(&record(c, &round).await?)?;
    assert_eq!(record.beacon, hex::encode("三千点 3000.01"));
    world.finish().await
}

#[tokio::test]
async fn a_change_and_a_late_publisher_take_turns() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let now = world.app.clock.now();
    let future = |event: Value| with(event, "startTime", json!((now + TimeDelta::days(10)).to_rfc3339()));
    let id = create(&world, future(activity_open_at(now))).await?;
    let old = world.store.activity(&id).await?.unwrap();
    c.advance(1).await?;
    let change = |activity: Value| json!({ "action": "update", "activityId": id, "activity": activity });
    let updated =
        c.call_service("lotteryAdmin", change(json!({ "quota": 7, "winRateBp": 2500, "mode": "fixed" }))).await?;
    assert_eq!((&updated.ok()["activity"]["quota"], &updated.body["activity"]["winRateBp"]), (&json!(7), &json!(2500)));
    assert_eq!(updated.body["activity"]["windows"][0]["start"], old.windows[0].start.as_str());
    // A process that read the activity before the change publishes nothing by its old rules.
    let later = now + TimeDelta::days(9);
    let keys = world.app.field_keys().unwrap();
    let chain = domain::draw::Chain::local();
    let publisher = shop::lottery::publish::Publisher { store: &world.store, keys, chain: &chain };
    assert!(publisher.publish(&old, later).await?.is_empty());
    let new = world.store.activity(&id).await?.unwrap();
    let (a, b) = tokio::join!(publisher.publish(&new, later), publisher.publish(&new, later));
    let ids = |rounds: Vec<store::lottery::Round>| rounds.into_iter().map(|r| r.id).collect::<Vec<_>>();
    let (a, b) = (ids(a?), ids(b?));
    assert!(!a.is_empty() && a == b, "{a:?} {b:?}");
    assert_eq!(world.store.round(&a[0]).await?.unwrap().rules.quota, 7);
    world.finish().await
}

#[tokio::test]
async fn a_window_over_midnight_is_one_round() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let shanghai = chrono::FixedOffset::east_opt(8 * 3600).unwrap();
    let now = world.app.clock.now().with_timezone(&shanghai);
    let today = now.date_naive();
    let before = today.and_hms_opt(23, 55, 0).unwrap().and_local_timezone(shanghai).unwrap();
    let before = if before > now { before } else { before + TimeDelta::days(1) };
    let windows = json!([{ "start": "00:10", "end": "00:20" }, { "start": "23:50", "end": "00:10" }]);
    let id = create(&world, with(activity_open_at(now.to_utc()), "windows", windows)).await?;
    c.advance((before - now).num_seconds()).await?;
    let tokens = people(c, 3).await?;
    let first = sign_up(c, &tokens[0], &id).await?;
    let round = first.text("roundId");
    assert_eq!(round, format!("{id}-{}-2350", before.format("%Y%m%d")), "{first:?}");
    c.advance(600).await?;
    assert_eq!(sign_up(c, &tokens[1], &id).await?.text("roundId"), round);
    sign_up(c, &tokens[0], &id).await?.refused(409, "ALREADY_SIGNED_UP");
    to_close(&world, &round, 0).await?;
    let next = sign_up(c, &tokens[0], &id).await?.text("roundId");
    assert_eq!(next, format!("{id}-{}-0010", (before + TimeDelta::days(1)).format("%Y%m%d")));
    let drawn = draw(c).await?;
    assert!(drawn["drawn"].as_array().unwrap().contains(&json!({ "roundId": round, "entries": 2, "winners": 2 })));
    checked(&record(c, &round).await?)?;
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_of_many_pages_verifies() -> anyhow::Result<()> {
    const TICKETS: usize = 45_000;
    let (world, _, round, tokens) = signed_up(json!({ "quota": 3 }), 1).await?;
    let c = &world.client;
    let db = database(&world).await?;
    let tickets = db.collection::<Document>("lotteryTickets");
    let first = tickets.find_one(doc! { "roundId": &round }).await?.unwrap();
    let others: Vec<Document> = (1..TICKETS)
        .map(|_| {
            let mut ticket = first.clone();
            ticket.insert("_id", format!("{:032x}", rand::random::<u128>()));
            ticket
        })
        .collect();
    for part in others.chunks(5_000) {
        tickets.insert_many(part).await?;
    }
    to_close(&world, &round, 0).await?;
    let drawn = draw(c).await?;
    assert_eq!(drawn["drawn"][0]["entries"], TICKETS);
    until_granted(c, &world.store, &round).await?;
    let head = record(c, &round).await?;
    assert_eq!((&head["pages"], &head["tickets"], &head["winners"]), (&json!(3), &json!([]), &json!([])));
    let page = |n: Value| c.call("lottery", "", json!({ "action": "record", "roundId": round, "page": n }));
    let last = page(json!(2)).await?;
    assert_eq!(last.ok()["tickets"].as_array().map(Vec::len), Some(5_000));
    assert_eq!(last.body["ranking"].as_array().map(Vec::len), Some(5_000));
    page(json!(3)).await?.refused(400, "INVALID_ARGUMENT");
    page(json!(u64::MAX)).await?.refused(400, "INVALID_ARGUMENT");
    page(json!(-1)).await?.refused(400, "INVALID_ARGUMENT");
    // Parts over the border of two chunks are those of the whole.
    let stored = world.store.round(&round).await?.unwrap();
    let run = stored.rank_run.unwrap();
    let kind = store::lottery::ListKind::Ranking;
    let whole = world.store.list(&round, &run, kind).await?;
    assert_eq!(world.store.list_part(&round, &run, kind, 44_990, 20_000).await?, whole[44_990..]);
    assert!(world.store.list_part(&round, &run, kind, 50_000, 10).await?.is_empty());
    let folder = tempfile::tempdir()?;
    let saved = folder.path().join("record.json").to_str().unwrap().to_owned();
    let (base, asked) = (c.base.clone(), round.clone());
    let mine = result(c, &tokens[0], &round).await?["ticketId"].as_str().unwrap().to_owned();
    let (ok, text) = tokio::task::spawn_blocking(move || {
        let asked = jinlu(&["--cloud", &base, "--round", &asked, "--save", &saved, "--ticket", &mine]);
        let (again, text) = jinlu(&[&saved, "--announced", &saved]);
        (asked.0 && again, asked.1 + &text)
    })
    .await?;
    assert!(ok && text.contains("45000 tickets, 3 won"), "{text}");
    world.finish().await
}
