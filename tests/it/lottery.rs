//! Draws from the first window to the last right: publication, sign-up, freeze, draw, rights, waiting list, records.

use std::collections::BTreeSet;

use chrono::{DateTime, FixedOffset, TimeDelta, Utc};
use domain::draw::{Record, verify};
use it::{Answer, Client, World, database_name, mongod_uri, violations};
use serde_json::{Value, json};
use store::lottery::RoundStatus;
use store::{Store, StoreConfig};

use crate::crash::{free_port, start};

/// `HH:MM` in Shanghai, `minutes` from now.
fn clock_time(now: DateTime<Utc>, minutes: i64) -> String {
    let shanghai = FixedOffset::east_opt(8 * 3600).unwrap();
    (now + TimeDelta::minutes(minutes)).with_timezone(&shanghai).format("%H:%M").to_string()
}

/// An activity whose window is open now and for the next nine to ten minutes.
pub(crate) fn activity_open_at(now: DateTime<Utc>) -> Value {
    json!({
        "activityName": "限量纪念酒", "productId": "p-lottery",
        "windows": [{ "start": clock_time(now, -1), "end": clock_time(now, 10) }],
        "startTime": (now - TimeDelta::days(1)).to_rfc3339(), "endTime": (now + TimeDelta::days(30)).to_rfc3339(),
        "mode": "auto", "quota": 5,
    })
}

pub(crate) fn with(mut event: Value, field: &str, value: Value) -> Value {
    event[field] = value;
    event
}

pub(crate) async fn create(world: &World, activity: Value) -> anyhow::Result<String> {
    let made = world.client.call_service("lotteryAdmin", json!({ "action": "create", "activity": activity })).await?;
    made.ok();
    Ok(made.text("activityId"))
}

pub(crate) async fn sign_up(c: &Client, token: &str, activity: &str) -> anyhow::Result<Answer> {
    c.call("lottery", token, json!({ "action": "signUp", "activityId": activity })).await
}

pub(crate) async fn draw(c: &Client) -> anyhow::Result<Value> {
    let answer = c.call_service("lotteryDraw", json!({})).await?;
    answer.ok();
    Ok(answer.body)
}

pub(crate) async fn record(c: &Client, round: &str) -> anyhow::Result<Value> {
    let answer = c.call("lottery", "", json!({ "action": "record", "roundId": round })).await?;
    answer.ok();
    Ok(answer.body)
}

pub(crate) async fn result(c: &Client, token: &str, round: &str) -> anyhow::Result<Value> {
    let answer = c.call("lottery", token, json!({ "action": "result", "roundId": round })).await?;
    answer.ok();
    Ok(answer.body)
}

pub(crate) async fn people(c: &Client, n: usize) -> anyhow::Result<Vec<String>> {
    let mut tokens = Vec::new();
    for i in 0..n {
        tokens.push(c.login(&format!("p{i}")).await?);
    }
    Ok(tokens)
}

/// A world with an open round and `n` people in it.
pub(crate) async fn signed_up(change: Value, n: usize) -> anyhow::Result<(World, String, String, Vec<String>)> {
    let world = World::start().await?;
    let mut activity = activity_open_at(world.app.clock.now());
    for (name, value) in change.as_object().into_iter().flatten() {
        activity[name] = value.clone();
    }
    let id = create(&world, activity).await?;
    let tokens = people(&world.client, n).await?;
    let mut round = String::new();
    for token in &tokens {
        let done = sign_up(&world.client, token, &id).await?;
        assert_eq!(done.ok()["status"], "signedUp");
        round = done.text("roundId");
    }
    Ok((world, id, round, tokens))
}

fn won(results: &[Value]) -> usize {
    results.iter().filter(|r| r["won"] == true).count()
}

async fn results(c: &Client, tokens: &[String], round: &str) -> anyhow::Result<Vec<Value>> {
    let mut all = Vec::new();
    for token in tokens {
        all.push(result(c, token, round).await?);
    }
    Ok(all)
}

#[tokio::test]
async fn a_round_from_its_window_to_its_last_right() -> anyhow::Result<()> {
    let (world, id, round, tokens) = signed_up(json!({}), 20).await?;
    let c = &world.client;
    let stranger = c.login("stranger").await?;

    // Once per user and round.
    let again = sign_up(c, &tokens[0], &id).await?;
    again.refused(409, "ALREADY_SIGNED_UP");
    assert_eq!(again.body["details"]["roundId"], round.as_str());
    let mine = result(c, &tokens[0], &round).await?;
    assert_eq!((&mine["status"], &mine["ticketId"]), (&json!("signedUp"), &again.body["details"]["ticketId"]));
    assert_eq!(result(c, &stranger, &round).await?["status"], "notSignedUp");

    let before = record(c, &round).await?;
    assert_eq!((&before["seed"], &before["k"], &before["status"]), (&json!(null), &json!(null), &json!("open")));
    assert_eq!(before["tickets"], json!([]));
    assert!(before["notice"].as_str().is_some_and(|n| n.contains("承诺")));
    let shown = c.call("lottery", "", json!({ "action": "get", "activityId": id })).await?;
    assert_eq!(shown.ok()["currentRound"]["commit"], before["commit"]);
    let listed = c.call("lottery", "", json!({ "action": "list" })).await?;
    assert_eq!(listed.ok()["data"][0]["currentRound"]["rulesHash"], before["rulesHash"]);

    // Not before the close.
    let early = c.call_service("lotteryDraw", json!({ "roundId": round })).await?;
    assert_eq!(early.ok()["skipped"][0]["reason"], "NOT_CLOSED");
    c.advance(660).await?;
    let late = sign_up(c, &stranger, &id).await?;
    late.refused(422, "SIGNUP_CLOSED");
    assert!(late.body["details"]["nextWindowStart"].is_string(), "{late:?}");

    let drawn = draw(c).await?;
    assert_eq!(drawn["drawn"], json!([{ "roundId": round, "entries": 20, "winners": 5 }]), "{drawn}");
    let after = record(c, &round).await?;
    for field in ["commit", "rules", "rulesHash", "openedAt", "closedAt"] {
        assert_eq!(before[field], after[field], "{field}");
    }
    let checked: Record = serde_json::from_value(after.clone())?;
    assert!(verify(&checked).is_ok(), "{:?}", verify(&checked).err());
    let text = after.to_string();
    assert!(!text.contains("o-p") && !text.contains("u-"), "the record names somebody: {text}");
    assert_eq!(world.stock("p-lottery").await?, 45);
    let all = results(c, &tokens, &round).await?;
    assert_eq!(won(&all), 5);
    for mine in &all {
        let listed = checked.winners.iter().any(|t| mine["ticketId"] == t.as_str());
        assert_eq!(mine["won"] == true, listed);
        assert_eq!(mine["status"], if listed { "won" } else { "waiting" });
        assert_eq!(mine["qualificationId"].is_string(), listed);
    }
    // Nothing happens twice.
    assert_eq!(draw(c).await?["drawn"], json!([]));
    assert!(world.violations().await?.is_empty(), "{:?}", world.violations().await?);

    // Nobody buys: three times down the waiting list, then back to the shelf.
    for turn in 1..=4 {
        c.advance(1801).await?;
        let ran = draw(c).await?;
        let back = if turn == 4 { 5 } else { 0 };
        assert_eq!((&ran["expired"], &ran["passed"], &ran["returned"]), (&json!(5), &json!(5 - back), &json!(back)));
        assert!(world.violations().await?.is_empty(), "{:?}", world.violations().await?);
    }
    assert_eq!(world.stock("p-lottery").await?, 50);
    assert_eq!(won(&results(c, &tokens, &round).await?), 20);
    let stats = c.call_service("lotteryAdmin", json!({ "action": "stats", "activityId": id })).await?;
    let sums = ["entries", "winners", "expired", "active", "used", "waiting"].map(|f| stats.ok()[f].clone());
    assert_eq!(sums, [20, 5, 20, 0, 0, 0].map(|n| json!(n)));
    c.timer("deliverOutbox").await?.ok();
    c.advance(24 * 3600).await?;
    draw(c).await?;
    let records =
        c.call_service("lotteryAdmin", json!({ "action": "records", "activityId": id, "limit": 100 })).await?;
    let settled = records.ok()["data"].as_array().unwrap().iter().filter(|r| r["status"] == "settled").count();
    assert!(settled >= 1, "{records:?}");
    world.finish().await
}

/// Moves the clock to `seconds` after the close of a round.
pub(crate) async fn to_close(world: &World, round: &str, seconds: i64) -> anyhow::Result<()> {
    let closes = world.store.round(round).await?.unwrap().closes_at;
    let wait = (closes - world.app.clock.now()).num_seconds() + 1 + seconds;
    world.client.advance(wait).await?.ok();
    Ok(())
}

pub(crate) fn checked(record: &Value) -> anyhow::Result<Record> {
    let record: Record = serde_json::from_value(record.clone())?;
    assert!(verify(&record).is_ok(), "{:?}", verify(&record).err());
    Ok(record)
}

#[tokio::test]
async fn a_sign_up_counts_once() -> anyhow::Result<()> {
    let (world, id, round, _) = signed_up(json!({}), 1).await?;
    let c = &world.client;
    let other = create(&world, activity_open_at(world.app.clock.now())).await?;
    let token = c.login("twin").await?;
    let (a, b) = tokio::join!(sign_up(c, &token, &id), sign_up(c, &token, &id));
    let mut statuses = [a?.status, b?.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409]);

    let token = c.login("again").await?;
    let event = json!({ "action": "signUp", "activityId": id, "requestId": "sign-up-000001" });
    let first = c.call("lottery", &token, event.clone()).await?;
    assert_eq!(first.ok()["replayed"], json!(null));
    for wait in [0, 3600] {
        c.advance(wait).await?;
        let again = c.call("lottery", &token, event.clone()).await?;
        assert_eq!((&again.ok()["replayed"], &again.body["ticketId"]), (&json!(true), &first.body["ticketId"]));
    }
    let reused = c.call("lottery", &token, with(event.clone(), "activityId", json!(other))).await?;
    reused.refused(409, "IDEMPOTENCY_KEY_REUSED");
    sign_up(c, "", &id).await?.refused(401, "UNAUTHENTICATED");
    sign_up(c, &token, "la-none").await?.refused(404, "NOT_FOUND");

    // While the list is made, nobody can say whether a repeat counts; afterwards the list says it.
    world.store.freeze_round(&round, world.app.clock.now()).await?;
    let unknown = c.call("lottery", &token, event.clone()).await?;
    unknown.refused(503, "UNAVAILABLE");
    draw(c).await?;
    assert_eq!(c.call("lottery", &token, event).await?.ok()["replayed"], true);
    assert_eq!(record(c, &round).await?["tickets"].as_array().map(Vec::len), Some(3));
    world.finish().await
}

#[tokio::test]
async fn an_entered_figure_is_mixed_in_once() -> anyhow::Result<()> {
    let beacon = json!({ "beacon": { "source": "public", "name": "福彩双色球" }, "mode": "fixed", "winRateBp": 5000 });
    let (world, _, round, tokens) = signed_up(beacon, 5).await?;
    let c = &world.client;
    let enter = async |value: &str| {
        c.call_service("lotteryAdmin", json!({ "action": "beacon", "roundId": round, "value": value })).await
    };
    enter("01 02 03").await?.refused(409, "CONFLICT");
    to_close(&world, &round, 0).await?;
    let waits = c.call_service("lotteryDraw", json!({ "roundId": round })).await?;
    assert_eq!(waits.ok()["skipped"], json!([{ "roundId": round, "reason": "BEACON_PENDING" }]));
    assert_eq!(record(c, &round).await?["seed"], json!(null));
    // A ticket that a frozen process inserts after the list stands never counts.
    let mut late =
        world.store.ticket(result(c, &tokens[0], &round).await?["ticketId"].as_str().unwrap()).await?.unwrap();
    late.id = "f".repeat(32);
    world.store.insert_ticket(&late).await?;
    enter("").await?.refused(400, "INVALID_ARGUMENT");
    enter("01 02\n03").await?.refused(400, "INVALID_ARGUMENT");
    enter("01 02 03").await?.ok();
    assert_eq!(enter("01 02 03").await?.ok()["replayed"], true);
    enter("01 02 04").await?.refused(409, "CONFLICT");
    // Several at once come to one result.
    let (a, b, d) = tokio::join!(draw(c), draw(c), draw(c));
    let drawn = [a?, b?, d?].iter().filter(|a| a["drawn"].as_array().is_some_and(|d| !d.is_empty())).count();
    assert_eq!(drawn, 1);
    draw(c).await?;
    let record = checked(&record(c, &round).await?)?;
    assert_eq!((record.tickets.len(), record.k, record.beacon.as_str()), (5, Some(2), "3031203032203033"));
    assert!(world.store.ticket(&late.id).await?.is_none(), "a late ticket stays");
    assert_eq!(world.stock("p-lottery").await?, 48);
    world.finish().await
}

#[tokio::test]
async fn drand_decides_when_it_is_there() -> anyhow::Result<()> {
    let (world, _, round, _) = signed_up(json!({ "beacon": { "source": "drand" } }), 6).await?;
    let c = &world.client;
    to_close(&world, &round, 0).await?;
    let reason = async || {
        let ran = c.call_service("lotteryDraw", json!({ "roundId": round })).await?;
        anyhow::Ok(ran.ok()["skipped"][0]["reason"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(reason().await?, "BEACON_PENDING");
    c.advance(60).await?;
    c.control("faults", json!({ "target": "drand", "mode": "500", "count": 1 })).await?.ok();
    assert_eq!(reason().await?, "BEACON_UNAVAILABLE");
    c.advance(30).await?;
    assert_eq!(draw(c).await?["drawn"][0]["winners"], 5);
    let record = checked(&record(c, &round).await?)?;
    assert!(record.beacon_signature.is_some_and(|s| s.len() == 96));
    world.finish().await
}

#[tokio::test]
async fn without_its_beacon_a_round_is_void() -> anyhow::Result<()> {
    let public = json!({ "beacon": { "source": "public", "name": "上证指数" } });
    let (world, _, round, tokens) = signed_up(public, 3).await?;
    let c = &world.client;
    to_close(&world, &round, 72 * 3600).await?;
    let ran = draw(c).await?;
    assert!(ran["skipped"].as_array().unwrap().contains(&json!({ "roundId": round, "reason": "VOID" })), "{ran}");
    let late = json!({ "action": "beacon", "roundId": round, "value": "3000" });
    c.call_service("lotteryAdmin", late).await?.refused(409, "CONFLICT");
    let record = record(c, &round).await?;
    assert_eq!((&record["status"], &record["winners"]), (&json!("void"), &json!([])));
    assert!(record["seed"].is_string());
    for token in &tokens {
        assert_eq!(result(c, token, &round).await?["status"], "void");
    }
    assert_eq!(world.stock("p-lottery").await?, 50);
    world.finish().await
}

#[tokio::test]
async fn unused_rights_and_short_stock() -> anyhow::Result<()> {
    let (world, _, round, tokens) = signed_up(json!({ "unused": "stock", "quota": 1, "quantity": 2 }), 3).await?;
    let c = &world.client;
    to_close(&world, &round, 0).await?;
    draw(c).await?;
    assert_eq!(world.stock("p-lottery").await?, 48);
    c.advance(1801).await?;
    let ran = draw(c).await?;
    assert_eq!((&ran["expired"], &ran["returned"]), (&json!(1), &json!(1)));
    assert_eq!(world.stock("p-lottery").await?, 50);

    // One piece for three winners: one after the other.
    let mut activity = activity_open_at(world.app.clock.now());
    activity["productId"] = json!("p-last");
    let id = create(&world, activity).await?;
    let mut round = String::new();
    for token in &tokens {
        round = sign_up(c, token, &id).await?.text("roundId");
    }
    to_close(&world, &round, 0).await?;
    let ran = draw(c).await?;
    assert_eq!(ran["drawn"][0]["winners"], 3);
    assert_eq!(ran["skipped"][0]["reason"], "OUT_OF_STOCK");
    let rights = async || {
        let all = results(c, &tokens, &round).await?;
        anyhow::Ok(all.iter().filter(|r| r["qualificationId"].is_string()).count())
    };
    for turn in 1..=3 {
        assert_eq!((rights().await?, world.stock("p-last").await?), (turn, 0));
        c.advance(1801).await?;
        assert_eq!(draw(c).await?["returned"], 1);
        c.call_service("lotteryDraw", json!({ "roundId": round })).await?.ok();
    }
    assert_eq!(world.stock("p-last").await?, 1);
    world.finish().await
}

#[tokio::test]
async fn rounds_are_clipped_and_published_rules_stay() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let now = world.app.clock.now();
    let mut activity = activity_open_at(now);
    let (start, end) = (now + TimeDelta::minutes(2), now + TimeDelta::minutes(5));
    activity["startTime"] = json!(start.to_rfc3339());
    activity["endTime"] = json!(end.to_rfc3339());
    let event = json!({ "action": "create", "activity": activity, "requestId": "create-000001" });
    let made = c.call_service("lotteryAdmin", event.clone()).await?;
    let again = c.call_service("lotteryAdmin", event).await?;
    assert_eq!((&again.ok()["replayed"], &again.body["activityId"]), (&json!(true), &made.ok()["activityId"]));
    assert_eq!(made.body["announcedRounds"].as_array().map(Vec::len), Some(1));
    let round = made.body["announcedRounds"][0].as_str().unwrap().to_owned();
    let before = record(c, &round).await?;
    assert_eq!(before["openedAt"], domain::draw::time_text(start));
    assert_eq!(before["closedAt"], domain::draw::time_text(end));
    assert_eq!(before["status"], "announced");
    let id = made.text("activityId");
    let token = c.login("early").await?;
    let early = sign_up(c, &token, &id).await?;
    early.refused(422, "SIGNUP_CLOSED");
    assert_eq!(early.body["details"]["nextWindowStart"], before["openedAt"]);

    let changed = with(activity_open_at(now), "quota", json!(1));
    let updated = json!({ "action": "update", "activityId": id, "activity": changed });
    let updated = c.call_service("lotteryAdmin", updated).await?;
    assert_eq!(updated.ok()["activity"]["quota"], 1);
    assert_eq!(record(c, &round).await?["rules"], before["rules"]);
    let rounds: BTreeSet<String> =
        updated.body["announcedRounds"].as_array().unwrap().iter().map(|r| r.as_str().unwrap().to_owned()).collect();
    assert!(rounds.contains(&round) && rounds.len() >= 2, "{rounds:?}");
    let deleted = c.call_service("lotteryAdmin", json!({ "action": "delete", "activityId": id })).await?;
    assert_eq!(deleted.ok()["activity"]["status"], "deleted");
    c.advance(150).await?;
    sign_up(c, &token, &id).await?.ok();
    world.finish().await
}

#[tokio::test]
async fn operators_are_told_which_field_is_wrong() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let good = activity_open_at(world.app.clock.now());
    let window = |start: &str, end: &str| json!([{ "start": start, "end": end }]);
    for (field, value, named) in [
        ("activityName", json!(""), "activity.activityName"),
        ("activityName", json!("a\u{0}b"), "activity.activityName"),
        ("productId", json!("p-none"), "activity.productId"),
        ("productId", json!("p-tea"), "activity.skuId"),
        ("skuId", json!("s-none"), "activity.skuId"),
        ("windows", json!([]), "activity.windows"),
        ("windows", window("9:00", "10:00"), "activity.windows[0].start"),
        ("windows", window("09:00", "25:00"), "activity.windows[0].end"),
        ("windows", window("09:00", "09:00"), "activity.windows[0].end"),
        ("startTime", json!("yesterday"), "activity.startTime"),
        ("endTime", json!("2020-01-01T00:00:00Z"), "activity.endTime"),
        ("endTime", json!("2099-01-01T00:00:00Z"), "activity.endTime"),
        ("winRateBp", json!(10_001), "activity.winRateBp"),
        ("mode", json!(null), "activity.mode"),
        ("quota", json!(null), "activity.quota"),
        ("windows", json!(null), "activity.windows"),
        ("quota", json!(0), "activity.quota"),
        ("quota", json!(1_000_001), "activity.quota"),
        ("qualificationMinutes", json!(0), "activity.qualificationMinutes"),
        ("quantity", json!(0), "activity.quantity"),
        ("beacon", json!({ "source": "public" }), "activity.beacon.name"),
        ("mode", json!("luck"), "activity.mode"),
        ("unused", json!("bin"), "activity.unused"),
    ] {
        let event = json!({ "action": "create", "activity": with(good.clone(), field, value.clone()) });
        let answer = c.call_service("lotteryAdmin", event).await?;
        answer.refused(400, "INVALID_ARGUMENT");
        assert_eq!(answer.body["details"]["field"], named, "{field} {value}");
    }
    let token = c.login("nobody").await?;
    let event = json!({ "action": "create", "activity": good });
    c.call("lotteryAdmin", &token, event.clone()).await?.refused(403, "FORBIDDEN");
    c.call("lotteryAdmin", "", event).await?.refused(401, "UNAUTHENTICATED");
    c.call("lotteryDraw", &token, json!({})).await?.refused(403, "FORBIDDEN");
    world.finish().await
}

/// Kills the draw at a step; what the next process makes of it must be the one result that the committed seed has.
async fn drawn_although_killed(point: &str) -> anyhow::Result<()> {
    let (uri, database) = (mongod_uri().await?, database_name());
    let (folder, port) = (tempfile::tempdir()?, free_port()?);
    let host = start(&uri, &database, folder.path(), port, Some(point))?;
    let c = host.client.clone();
    #[expect(clippy::disallowed_methods, reason = "the host's clock is the machine's")]
    let now = Utc::now();
    let made = c
        .call_service(
            "lotteryAdmin",
            json!({ "action": "create", "activity": with(activity_open_at(now), "quota", json!(2)) }),
        )
        .await?;
    let id = made.ok()["activityId"].as_str().unwrap().to_owned();
    let tokens = people(&c, 4).await?;
    let mut round = String::new();
    for token in &tokens {
        round = sign_up(&c, token, &id).await?.text("roundId");
    }
    let client = c.clone();
    let work = async move {
        client.advance(700).await?;
        draw(&client).await?;
        client.advance(1801).await?;
        draw(&client).await.map(drop)
    };
    host.killed_at(point, work).await?;

    let host = start(&uri, &database, folder.path(), port, None)?;
    let c = host.client.clone();
    let store = Store::new(StoreConfig::new(&uri, &database));
    c.advance(700).await?;
    let mut expired = 0;
    for _ in 0..60 {
        // A killed transaction keeps its documents locked until the server gives it up.
        let ran = c.call_service("lotteryDraw", json!({})).await?;
        // The host's clock goes on where it was: the rights may end right now.
        expired += ran.body["expired"].as_i64().unwrap_or(0);
        let granted = store.round(&round).await?.is_some_and(|r| matches!(r.status, RoundStatus::Granted));
        if ran.status == 200 && granted {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
    let record = checked(&record(&c, &round).await?)?;
    assert_eq!((record.tickets.len(), record.winners.len()), (4, 2), "{point}");
    if expired == 0 {
        c.advance(1801).await?;
    }
    for _ in 0..60 {
        if expired > 0 {
            break;
        }
        let ran = c.call_service("lotteryDraw", json!({})).await?;
        expired += ran.body["expired"].as_i64().unwrap_or(0);
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
    assert_eq!(expired, 2, "{point}");
    let found = violations(&store, now + TimeDelta::hours(2)).await?;
    assert!(found.is_empty(), "{point}: {found:?}");
    assert_eq!(store.product(&domain::ProductId::parse("p-lottery")?).await?.map(|p| p.stock), Some(48), "{point}");
    store.drop_database().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_drawing() -> anyhow::Result<()> {
    for point in ["lottery.frozen", "lottery.chunk", "lottery.listed", "lottery.ranked", "lottery.drawn"] {
        drawn_although_killed(point).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_granting() -> anyhow::Result<()> {
    for point in
        ["lottery.grant.inside", "lottery.grant.committed", "lottery.rights", "lottery.tell.inside", "lottery.granted"]
    {
        drawn_although_killed(point).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_passing_on() -> anyhow::Result<()> {
    drawn_although_killed("lottery.expire.inside").await
}

/// A world with a drawn round of six people, three of whom have won.
pub(crate) async fn drawn_round() -> anyhow::Result<(World, String)> {
    let (world, _, round, _) = signed_up(json!({ "quota": 3 }), 6).await?;
    to_close(&world, &round, 0).await?;
    draw(&world.client).await?;
    Ok((world, round))
}

/// The right of the last winner, and its ticket.
pub(crate) async fn last_right(world: &World, round: &str) -> anyhow::Result<(String, String)> {
    let record = checked(&record(&world.client, round).await?)?;
    let ticket = record.winners.last().cloned().unwrap_or_default();
    Ok((store::qualifications::Qualification::key(round, &ticket), ticket))
}
