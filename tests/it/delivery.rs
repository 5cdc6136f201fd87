//! The outbox's engine: every answer of WeChat leads to one state, items are tried by one at a time and in order, and neither a
//! killed process nor a frozen one sends anything twice.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::time::Duration;

use bson::{Document, doc};
use chrono::TimeDelta;
use it::post::{FREE, Killed, NOTE, NOTE_ID, Place, Post, TWICE, agreed, note};
use it::{World, violations};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use shop::deliver::{Delivered, Deliverer};
use simulators::{Fault, FaultMode, Target};
use store::outbox::{Begin, Begun, End, Fate, Held, OutboxItem, OutboxStatus, Tried};
use store::subscriptions::{Choice, Subscription};

use crate::audit::database;

const SEND: &str = "/cgi-bin/message/subscribe/send";
const PROGRAM: &str = env!("CARGO_BIN_EXE_jinlu-it");

fn fault(world: &World, mode: FaultMode, errcode: Option<i64>, ms: Option<u64>) {
    let mut fault = Fault::new(Target::Wechat, mode, 1);
    fault.path = Some(SEND.to_owned());
    fault.errcode = errcode.map(Value::from);
    fault.ms = ms;
    world.sim.fault(fault);
}

/// How often each message has arrived.
fn arrived(world: &World) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for message in world.sim.messages(None) {
        let no = message.data["character_string1"]["value"].as_str().unwrap_or_default().to_owned();
        *counts.entry(no).or_default() += 1;
    }
    counts
}

async fn quota(post: &Post, open_id: &str, template_id: &str) -> anyhow::Result<(i64, i64, i64)> {
    let rows = post.store.subscriptions(&domain::OpenId::parse(open_id)?).await?;
    let row = rows.into_iter().find(|r| r.template_id == template_id).unwrap();
    Ok((row.available, row.taken, row.voided))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_leads_to_one_state() -> anyhow::Result<()> {
    use FaultMode::{DropAfterCommit, Errcode, Reset, ServerError, Slow, Timeout, TooMany};
    use OutboxStatus::{Dead, Delivered, Pending, Skipped, Unknown};
    let world = World::start().await?;
    let post = Post::of(&world)?;
    // Answer, state, reason, what is left of two permissions (available, taken, void), messages that arrived.
    let code = |code: i64| (Errcode, Some(code), None);
    let table = [
        ((Slow, None, Some(0)), Delivered, "", (1, 1, 0), 1),
        (code(43101), Skipped, "NO_SUBSCRIPTION", (0, 0, 2), 0),
        (code(40003), Dead, "OPENID_INVALID", (2, 0, 0), 0),
        (code(40037), Dead, "TEMPLATE_INVALID", (2, 0, 0), 0),
        (code(43107), Dead, "MESSAGES_BANNED", (2, 0, 0), 0),
        (code(45168), Dead, "SENSITIVE_WORD", (2, 0, 0), 0),
        (code(47003), Dead, "VALUES_REFUSED", (2, 0, 0), 0),
        (code(40013), Dead, "WECHAT_CONFIG", (2, 0, 0), 0),
        (code(48001), Dead, "REFUSED_BY_WECHAT", (2, 0, 0), 0),
        (code(40001), Delivered, "", (1, 1, 0), 1),
        (code(42001), Delivered, "", (1, 1, 0), 1),
        (code(-1), Pending, "WECHAT_BUSY", (1, 1, 0), 0),
        (code(43108), Pending, "CONCURRENT_MESSAGE", (1, 1, 0), 0),
        ((ServerError, None, None), Unknown, "OUTCOME_UNKNOWN", (1, 1, 0), 0),
        ((Reset, None, None), Unknown, "OUTCOME_UNKNOWN", (1, 1, 0), 0),
        ((DropAfterCommit, None, None), Unknown, "OUTCOME_UNKNOWN", (1, 1, 0), 1),
        ((Timeout, None, Some(2_000)), Unknown, "OUTCOME_UNKNOWN", (1, 1, 0), 0),
        ((Slow, None, Some(2_000)), Unknown, "OUTCOME_UNKNOWN", (1, 1, 0), 1),
        ((TooMany, None, None), Pending, "WECHAT_LIMIT", (1, 1, 0), 0),
        (code(45011), Pending, "WECHAT_LIMIT", (1, 1, 0), 0),
        (code(45009), Pending, "WECHAT_LIMIT", (1, 1, 0), 0),
    ];
    for (i, ((mode, errcode, ms), status, reason, left, copies)) in table.into_iter().enumerate() {
        let (id, open_id) = (format!("row-{i}"), format!("o-row-{i}"));
        let what = format!("{mode:?} {errcode:?} {ms:?}");
        agreed(&post.store, &open_id, NOTE_ID, 2, post.now()).await?;
        fault(&world, mode, errcode, ms);
        post.enqueue(&[note(&id, &open_id, NOTE, post.now())?]).await?;
        post.run().await?;
        let item = post.item(&id).await?;
        assert_eq!((item.status, item.reason.as_deref().unwrap_or_default()), (status, reason), "{what}");
        assert_eq!(quota(&post, &open_id, NOTE_ID).await?, left, "{what}");
        assert_eq!(world.sim.messages(Some(&open_id)).len(), copies, "{what}");
        assert_eq!((item.attempts, item.tries.len()), (1, 1), "{what}");
        assert_eq!(
            item.tries[0].errcode,
            errcode.filter(|_| !reason.is_empty()).or((mode == TooMany).then_some(45011))
        );
        assert!(
            item.tries[0].duration_ms.is_some() && item.lease_until.is_none() && item.sending_at.is_none(),
            "{what}"
        );
        let rests = reason == "WECHAT_LIMIT";
        assert_eq!(item.uncounted, i64::from(rests), "{what}");
        if status == Pending {
            let long = errcode == Some(45009);
            if rests {
                // Nobody else's message is sent meanwhile, by no process.
                post.enqueue(&[note(&format!("{id}-free"), "o-free", FREE, post.now())?]).await?;
                Post::of(&world)?.run().await?;
                assert_eq!(post.item(&format!("{id}-free")).await?.attempts, 0, "{what}");
            }
            world.client.advance(if long { 3_590 } else { 8 }).await?;
            post.run().await?;
            assert_eq!(post.item(&id).await?.attempts, 1, "{what}: too early");
            world.client.advance(60).await?;
            post.run().await?;
            assert_eq!(post.status(&id).await?.0, Delivered, "{what}");
            assert_eq!(quota(&post, &open_id, NOTE_ID).await?, left, "{what}");
        }
    }
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_need_not_be_sent_is_not_tried() -> anyhow::Result<()> {
    let world = World::start().await?;
    let post = Post::of(&world)?;
    let now = post.now();
    agreed(&post.store, "o-a", NOTE_ID, 1, now).await?;
    let mut expired = note("expired", "o-a", NOTE, now)?;
    expired.expires_at = Some(now);
    let mut strange = note("strange", "o-c", NOTE, now)?;
    strange.payload = "{}".to_owned();
    post.enqueue(&[expired, strange, note("nobody", "o-b", NOTE, now)?, note("none", "o-d", "coinExpiring", now)?])
        .await?;
    post.run().await?;
    assert_eq!(post.status("expired").await?, (OutboxStatus::Dead, "EXPIRED".to_owned()));
    assert_eq!(post.status("strange").await?, (OutboxStatus::Dead, "BAD_PAYLOAD".to_owned()));
    assert_eq!(post.status("nobody").await?, (OutboxStatus::Skipped, "NO_SUBSCRIPTION".to_owned()));
    assert_eq!(post.status("none").await?, (OutboxStatus::Skipped, "NO_TEMPLATE".to_owned()));
    assert_eq!(quota(&post, "o-a", NOTE_ID).await?, (1, 0, 0));
    assert!(world.sim.messages(None).is_empty());
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn tries_end_at_their_limit_and_the_permission_comes_back() -> anyhow::Result<()> {
    let world = World::start().await?;
    let post = Post::of(&world)?;
    agreed(&post.store, "o-a", NOTE_ID, 1, post.now()).await?;
    let mut item = note("a", "o-a", NOTE, post.now())?;
    item.expires_at = None;
    post.enqueue(&[item]).await?;
    for _ in 0..30 {
        fault(&world, FaultMode::Errcode, Some(-1), None);
        post.run().await?;
        world.client.advance(4_400).await?;
    }
    let item = post.item("a").await?;
    assert_eq!((item.status, item.reason.as_deref()), (OutboxStatus::Dead, Some("ATTEMPTS_EXHAUSTED")));
    assert_eq!((item.attempts, item.tries.len()), (30, 30));
    assert_eq!(quota(&post, "o-a", NOTE_ID).await?, (1, 0, 0));
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_may_ask_for_one_repetition() -> anyhow::Result<()> {
    let world = World::start().await?;
    let post = Post::of(&world)?;
    agreed(&post.store, "o-a", "t-twice", 1, post.now()).await?;
    agreed(&post.store, "o-b", "t-twice", 1, post.now()).await?;
    agreed(&post.store, "o-c", "t-twice", 1, post.now()).await?;
    for (id, mode, errcode) in
        [("a", FaultMode::DropAfterCommit, None), ("b", FaultMode::Reset, None), ("c", FaultMode::Errcode, Some(43101))]
    {
        fault(&world, FaultMode::DropAfterCommit, None, None);
        post.enqueue(&[note(id, &format!("o-{id}"), TWICE, post.now())?]).await?;
        post.run().await?;
        assert_eq!(post.status(id).await?, (OutboxStatus::Pending, "OUTCOME_UNKNOWN".to_owned()));
        world.client.advance(59).await?;
        post.run().await?;
        assert_eq!(post.item(id).await?.attempts, 1, "not within a minute");
        world.client.advance(2).await?;
        fault(&world, mode, errcode, None);
        post.run().await?;
        // A refusal of the second does not tell what became of the first.
        assert_eq!(post.status(id).await?, (OutboxStatus::Unknown, "OUTCOME_UNKNOWN".to_owned()), "{id}");
        assert_eq!(post.item(id).await?.attempts, 2);
        assert_eq!(quota(&post, &format!("o-{id}"), "t-twice").await?, (0, 1, 0));
    }
    assert_eq!(arrived(&world), BTreeMap::from([("a".to_owned(), 2), ("b".to_owned(), 1), ("c".to_owned(), 1)]));
    world.client.advance(7_200).await?;
    post.run().await?;
    assert_eq!(world.sim.messages(None).len(), 4, "never a third time");
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_permission_is_void_unless_the_user_agreed_since() -> anyhow::Result<()> {
    let world = World::start().await?;
    let post = Post::of(&world)?;
    agreed(&post.store, "o-a", NOTE_ID, 3, post.now()).await?;
    agreed(&post.store, "o-b", NOTE_ID, 3, post.now()).await?;
    let (user, soon) = (domain::OpenId::parse("o-b")?, post.now() + TimeDelta::hours(1));
    let again = post.store.transaction(|tx, _| {
        let user = &user;
        Box::pin(async move { tx.record_choice(user, NOTE_ID, Choice::Accept, soon).await })
    });
    again.await?;
    for id in ["a", "b"] {
        fault(&world, FaultMode::Errcode, Some(43101), None);
        post.enqueue(&[note(id, &format!("o-{id}"), NOTE, post.now())?]).await?;
        post.run().await?;
    }
    assert_eq!(quota(&post, "o-a", NOTE_ID).await?, (0, 0, 3));
    assert_eq!(quota(&post, "o-b", NOTE_ID).await?, (3, 0, 1));
    // The next one is not even sent.
    post.enqueue(&[note("c", "o-a", NOTE, post.now())?, note("d", "o-b", NOTE, post.now())?]).await?;
    post.run().await?;
    assert_eq!((post.status("c").await?.0, post.item("c").await?.attempts), (OutboxStatus::Skipped, 0));
    assert_eq!(post.status("d").await?.0, OutboxStatus::Delivered);
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_to_one_person_arrive_in_order() -> anyhow::Result<()> {
    let world = World::start().await?;
    let (post, other) = (Post::of(&world)?, Post::of(&world)?);
    let mut items = Vec::new();
    for i in 0..120 {
        // Of one instant, told apart by their ids alone, or of different ones.
        let at = post.now() + TimeDelta::milliseconds(i / 9);
        items.push(note(&format!("{i:03}"), &format!("o-{}", i % 3), FREE, at)?);
    }
    items.reverse();
    post.enqueue(&items).await?;
    world.client.advance(1).await?;
    // The very first must wait, and all behind it with it.
    fault(&world, FaultMode::Errcode, Some(-1), None);
    for _ in 0..20 {
        let (a, b) = tokio::join!(post.run(), other.run());
        a?;
        b?;
        world.client.advance(20).await?;
    }
    for person in 0..3 {
        let seen: Vec<String> = world
            .sim
            .messages(Some(&format!("o-{person}")))
            .iter()
            .map(|m| m.data["character_string1"]["value"].as_str().unwrap().to_owned())
            .collect();
        let mut sorted = seen.clone();
        sorted.sort_unstable();
        assert_eq!((seen.len(), &seen), (40, &sorted), "{person}");
    }
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_queue_is_delivered_in_one_run() -> anyhow::Result<()> {
    let world = World::start().await?;
    let post = Post::of(&world)?;
    let now = post.now();
    let items = (0..50).map(|i| note(&format!("{i:02}"), "o-a", FREE, now)).collect::<anyhow::Result<Vec<_>>>()?;
    post.enqueue(&items).await?;
    // The clock stands still, so what is put back for a moment stays behind unless somebody comes back for it.
    let clock = move || now;
    let deliverer = Deliverer { clock: &clock, ..post.deliverer() };
    let sum = deliverer.deliver_due(50, tokio::time::Instant::now() + Duration::from_secs(30)).await?;
    assert_eq!((sum.delivered, post.store.outbox_pending().await?), (50, 0), "{sum:?}");
    let seen: Vec<String> = world
        .sim
        .messages(Some("o-a"))
        .iter()
        .map(|m| m.data["character_string1"]["value"].as_str().unwrap().to_owned())
        .collect();
    assert!(seen.is_sorted() && seen.len() == 50, "{seen:?}");
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn how_many_are_ahead_is_read_from_the_index_alone() -> anyhow::Result<()> {
    let world = World::start().await?;
    let (db, post) = (database(&world).await?, Post::of(&world)?);
    let now = post.now();
    let items = (0..50).map(|i| note(&format!("{i:02}"), "o-a", FREE, now)).collect::<anyhow::Result<Vec<_>>>()?;
    post.enqueue(&items).await?;
    let (_, ahead) = post.store.outbox_before(&items[40], 600).await?.unwrap();
    assert_eq!(ahead, 40);
    let at = bson::DateTime::from_chrono(now);
    let older = doc! {
        "kind": "message", "queue": "o-a", "status": "pending",
        "$or": [{ "createdAt": { "$lt": at } }, { "createdAt": at, "_id": { "$lt": "message:40" } }],
    };
    let count = doc! {
        "aggregate": "outbox", "cursor": {}, "hint": "queue_pending",
        "pipeline": [{ "$match": older }, { "$limit": 600i64 }, { "$group": { "_id": 1i32, "n": { "$sum": 1i32 } } }],
    };
    let plan = db.run_command(doc! { "explain": count, "verbosity": "executionStats" }).await?.to_string();
    assert!(plan.contains("totalDocsExamined\": 0"), "{plan}");
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_can_deliver_here_ends_when_it_is_of_no_use() -> anyhow::Result<()> {
    let world = World::start().await?;
    let post = Post::of(&world)?;
    let now = post.now();
    let text = |id: &str| -> anyhow::Result<OutboxItem> {
        let item = note(id, "o-a", NOTE, now)?;
        Ok(OutboxItem { kind: "sms".to_owned(), expires_at: Some(now + TimeDelta::hours(1)), ..item })
    };
    let mut stays = text("stays")?;
    stays.expires_at = Some(now + TimeDelta::hours(3));
    post.enqueue(&[text("over")?, stays]).await?;
    assert_eq!(post.run().await?, Delivered::default());
    world.client.advance(3_601).await?;
    assert_eq!(post.run().await?.dead, 1);
    assert_eq!(post.status("over").await?, (OutboxStatus::Dead, "EXPIRED".to_owned()));
    assert_eq!((post.status("stays").await?.0, post.item("stays").await?.claim), (OutboxStatus::Pending, 0));
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_broken_item_stops_no_other() -> anyhow::Result<()> {
    let world = World::start().await?;
    let (db, post) = (database(&world).await?, Post::of(&world)?);
    let now = post.now();
    // One that cannot be read, in front of its queue; one whose try cannot begin; one with a permission that nobody gave.
    let mut unreadable = bson::serialize_to_document(&note("unreadable", "o-a", FREE, now)?)?;
    unreadable.insert("orderId", "");
    db.collection::<Document>("outbox").insert_one(unreadable).await?;
    let mut held = note("held", "o-c", NOTE, now)?;
    held.permission = Some(format!("o-c|{NOTE_ID}"));
    let after = now + TimeDelta::milliseconds(1);
    let others = (0..30).map(|i| note(&format!("other-{i}"), &format!("o-{i}"), FREE, after));
    post.enqueue(&[note("behind", "o-a", FREE, after)?, note("bad", "o-b", FREE, now)?, held]).await?;
    post.enqueue(&others.collect::<anyhow::Result<Vec<_>>>()?).await?;
    let listed = world.client.call_service("messages", serde_json::json!({ "action": "list", "limit": 100 })).await?;
    assert_eq!(listed.ok()["data"].as_array().map(Vec::len), Some(33));
    let only = doc! { "$or": [{ "_id": { "$ne": "message:bad" } }, { "attempts": 0i64 }] };
    db.run_command(doc! { "collMod": "outbox", "validator": only }).await?;
    world.client.advance(1).await?;
    let mut broken = Fault::new(Target::Wechat, FaultMode::Errcode, 1);
    broken.path = Some(SEND.to_owned());
    broken.errcode = Some(Value::from(47003));
    world.sim.fault(broken);
    post.deliverer().deliver_ids(&["message:held".to_owned()]).await?;
    assert_eq!(post.status("held").await?, (OutboxStatus::Dead, "VALUES_REFUSED".to_owned()));
    let sum = post.run().await?;
    assert_eq!((sum.delivered, post.store.outbox_pending().await?), (31, 1), "{sum:?}");
    assert_eq!(post.item("bad").await?.attempts, 0);
    let ended = db.collection::<Document>("outbox").find_one(doc! { "_id": "message:unreadable" }).await?.unwrap();
    assert_eq!((ended.get_str("status")?, ended.get_str("reason")?), ("dead", "UNREADABLE"));
    world.store.drop_database().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_is_written_although_its_pause_is_not() -> anyhow::Result<()> {
    let world = World::start().await?;
    let (db, post) = (database(&world).await?, Post::of(&world)?);
    let nobody_rests = doc! { "_id": { "$ne": "pause|wechat" } };
    db.run_command(doc! { "collMod": "leases", "validator": nobody_rests }).await?;
    fault(&world, FaultMode::Errcode, Some(45011), None);
    post.enqueue(&[note("a", "o-a", FREE, post.now())?]).await?;
    post.run().await?;
    let item = post.item("a").await?;
    assert_eq!((item.attempts, item.uncounted, item.sending_at), (1, 1, None));
    assert_eq!(item.tries[0].reason.as_deref(), Some("WECHAT_LIMIT"));
    world.client.advance(70).await?;
    post.run().await?;
    assert_eq!(post.status("a").await?.0, OutboxStatus::Delivered);
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_is_written_twice_counts_once() -> anyhow::Result<()> {
    let world = World::start().await?;
    let post = Post::of(&world)?;
    let lease = TimeDelta::seconds(120);
    post.enqueue(&[note("a", "o-a", FREE, post.now())?]).await?;
    let claimed = post.store.claim_outbox("message", lease, post.now()).await?.unwrap();
    let begin = Begin { harmful: true, permission: None, lease };
    let Begun::Yes(begun) = post.store.outbox_begin(&claimed, &begin, post.now()).await? else {
        anyhow::bail!("it did not begin")
    };
    let end = End {
        fate: Fate::Again { at: post.now(), counts: false },
        tried: Some(Tried { outcome: "retry", errcode: None, rid: None, duration_ms: 1 }),
        why: Some(("WECHAT_LIMIT", "wait")),
        held: Held::Kept,
    };
    assert!(post.store.outbox_end(&begun, &end, post.now()).await?);
    assert!(!post.store.outbox_end(&begun, &end, post.now()).await?);
    assert_eq!(post.item("a").await?.uncounted, 1);
    post.run().await?;
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_says_what_it_did_although_the_rest_cannot_be_counted() -> anyhow::Result<()> {
    let world = World::start().await?;
    let (db, post) = (database(&world).await?, Post::of(&world)?);
    post.enqueue(&[note("a", "o-a", FREE, post.now())?]).await?;
    // The server refuses to count without an index.
    let outbox = db.collection::<Document>("outbox");
    outbox.drop_index("status_createdAt").await?;
    let ran = world.client.timer("deliverOutbox").await?;
    assert_eq!((&ran.ok()["delivered"], &ran.body["pending"]), (&Value::from(1), &Value::Null), "{ran:?}");
    world.store.drop_database().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_one_kind_keeps_no_other_waiting() -> anyhow::Result<()> {
    let world = World::start().await?;
    let post = Post::of(&world)?;
    let flood = (0..400).map(|i| {
        let item = note(&format!("flood-{i}"), &format!("o-{i}"), FREE, post.now())?;
        Ok(OutboxItem { kind: "massMessage".to_owned(), ..item })
    });
    post.enqueue(&flood.collect::<anyhow::Result<Vec<_>>>()?).await?;
    post.enqueue(&[note("paid", "o-1", FREE, post.now())?]).await?;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    let sum = post.deliverer().deliver_due(40, deadline).await?;
    assert!(sum.delivered <= 40, "{sum:?}");
    assert_eq!(post.status("paid").await?.0, OutboxStatus::Delivered);
    while post.store.outbox_pending().await? > 0 {
        post.run().await?;
    }
    assert_eq!(world.sim.messages(None).len(), 401);
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_items_are_each_tried_by_one_process_at_a_time() -> anyhow::Result<()> {
    let world = World::start().await?;
    let place = Place::of(&world, 1)?;
    let post = Post::at(&place)?;
    let mut items = Vec::new();
    for i in 0..1_000 {
        items.push(note(&format!("{i:04}"), &format!("o-{}", i % 250), FREE, post.now())?);
    }
    post.enqueue(&items).await?;
    let _another = place.spawn(PROGRAM, None)?;
    let (second, third) = (Post::at(&place)?, Post::at(&place)?);
    for _ in 0..600 {
        let (a, b) = tokio::join!(second.run(), third.run());
        a?;
        b?;
        if post.store.outbox_pending().await? == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let counts = arrived(&world);
    assert_eq!((counts.len(), counts.values().copied().max()), (1_000, Some(1)));
    for i in 0..1_000 {
        let item = post.item(&format!("{i:04}")).await?;
        assert_eq!((item.status, item.attempts, item.tries.len()), (OutboxStatus::Delivered, 1, 1), "{i}");
    }
    world.finish().await
}

/// Waits until a process has reached its crash point.
async fn reached(process: &mut Killed, name: &str) -> anyhow::Result<()> {
    let (errors, wanted) = (process.0.stderr.take().unwrap(), format!("crashpoint {name}"));
    let found = tokio::task::spawn_blocking(move || {
        BufReader::new(errors).lines().map_while(Result::ok).any(|line| line == wanted)
    });
    anyhow::ensure!(tokio::time::timeout(Duration::from_secs(60), found).await??, "{name} was not reached");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_step_nothing_is_sent_twice() -> anyhow::Result<()> {
    for (point, status, copies, tries) in [
        ("deliver.claimed", OutboxStatus::Delivered, 1, 1),
        ("deliver.begun", OutboxStatus::Unknown, 0, 1),
        ("deliver.sent", OutboxStatus::Unknown, 1, 1),
        ("deliver.ended", OutboxStatus::Delivered, 1, 1),
    ] {
        let world = World::start().await?;
        let post = Post::of(&world)?;
        agreed(&post.store, "o-a", NOTE_ID, 2, post.now()).await?;
        post.enqueue(&[note("a", "o-a", NOTE, post.now())?]).await?;
        let mut process = Place::of(&world, 1)?.spawn(PROGRAM, Some(point))?;
        reached(&mut process, point).await?;
        process.kill();
        if status != OutboxStatus::Delivered || point == "deliver.claimed" {
            post.run().await?;
            assert_eq!(post.status("a").await?.0, OutboxStatus::Pending, "{point}: the lease stands");
        }
        world.client.advance(121).await?;
        post.run().await?;
        let item = post.item("a").await?;
        assert_eq!((item.status, arrived(&world).get("a").copied().unwrap_or(0)), (status, copies), "{point}");
        assert_eq!((item.attempts, item.tries.len()), (tries, 1), "{point}");
        assert_eq!(item.tries[0].outcome.is_none(), status == OutboxStatus::Unknown, "{point}: {:?}", item.tries);
        assert_eq!(quota(&post, "o-a", NOTE_ID).await?, (1, 1, 0), "{point}");
        world.client.advance(7_200).await?;
        post.run().await?;
        assert_eq!(arrived(&world).get("a").copied().unwrap_or(0), copies, "{point}");
        world.finish().await?;
    }
    Ok(())
}

/// A message that nobody allowed ends with the order of the text in its place, or not at all.
#[tokio::test(flavor = "multi_thread")]
async fn killed_between_a_refused_message_and_its_text_neither_is_there() -> anyhow::Result<()> {
    use OutboxStatus::{Pending, Skipped, Unknown};
    // Whether WeChat refuses it or the shop knows without asking, and what whoever comes next makes of the killed try.
    for (asked, point, left, end, texts) in [
        (false, "deliver.texted", Pending, Skipped, 1),
        (true, "deliver.texted", Pending, Unknown, 0),
        (true, "deliver.ended", Skipped, Skipped, 1),
    ] {
        let world = World::start().await?;
        let post = Post::of(&world)?;
        let staff = serde_json::json!({ "action": "upsert", "userId": "s-wang", "name": "王导购", "openId": "o-wang", "phone": "13700000009" });
        let staff = world.client.call_service("staff", staff).await?;
        assert_eq!(staff.ok()["active"], true);
        if asked {
            agreed(&post.store, "o-wang", NOTE_ID, 2, post.now()).await?;
            fault(&world, FaultMode::Errcode, Some(43101), None);
        }
        post.enqueue(&[note("a", "o-wang", NOTE, post.now())?]).await?;
        let mut process = Place::of(&world, 1)?.spawn(PROGRAM, Some(point))?;
        reached(&mut process, point).await?;
        let text = async || post.store.outbox_item("message:a:sms").await;
        assert_eq!(post.item("a").await?.status, left, "{point}");
        assert_eq!(text().await?.is_some(), left == Skipped, "{point}");
        process.kill();
        // The server gives the killed transaction up.
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        world.client.advance(121).await?;
        while post.item("a").await?.status == Pending {
            anyhow::ensure!(tokio::time::Instant::now() < deadline, "{point}: the message hangs");
            post.run().await.ok();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        assert_eq!(post.item("a").await?.status, end, "{point} {asked}");
        assert_eq!(i32::from(text().await?.is_some()), texts, "{point} {asked}");
        assert!(arrived(&world).is_empty());
        world.finish().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_wakes_up_too_late_writes_nothing() -> anyhow::Result<()> {
    let world = World::start().await?;
    let post = Post::of(&world)?;
    let lease = TimeDelta::seconds(120);
    let end = End {
        fate: Fate::Again { at: post.now(), counts: true },
        tried: Some(Tried { outcome: "retry", errcode: None, rid: None, duration_ms: 1 }),
        why: Some(("WECHAT_BUSY", "late")),
        held: Held::GivenBack,
    };
    for begun in [false, true] {
        let (id, open_id) = (format!("late-{begun}"), format!("o-{begun}"));
        agreed(&post.store, &open_id, NOTE_ID, 2, post.now()).await?;
        post.enqueue(&[note(&id, &open_id, NOTE, post.now())?]).await?;
        let mut frozen = post.store.claim_outbox("message", lease, post.now()).await?.unwrap();
        let permission = Subscription::key(&domain::OpenId::parse(&open_id)?, NOTE_ID);
        let begin = Begin { harmful: true, permission: Some(&permission), lease };
        if begun {
            let Begun::Yes(item) = post.store.outbox_begin(&frozen, &begin, post.now()).await? else {
                anyhow::bail!("it did not begin")
            };
            frozen = *item;
        }
        post.run().await?;
        assert_eq!(post.status(&id).await?.0, OutboxStatus::Pending, "the lease stands");
        world.client.advance(121).await?;
        post.run().await?;
        let expected = if begun { OutboxStatus::Unknown } else { OutboxStatus::Delivered };
        assert_eq!(post.status(&id).await?.0, expected);
        let late = post.store.outbox_begin(&frozen, &begin, post.now()).await?;
        assert!(matches!(late, Begun::Lost), "{late:?}");
        let other = Begin { permission: None, ..begin };
        assert!(matches!(post.store.outbox_begin(&frozen, &other, post.now()).await?, Begun::Lost));
        assert!(!post.store.outbox_end(&frozen, &end, post.now()).await?);
        assert!(!post.store.outbox_put_back(&frozen, post.now()).await?);
        assert_eq!(post.status(&id).await?.0, expected);
        assert_eq!(quota(&post, &open_id, NOTE_ID).await?, (1, 1, 0));
    }
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn first_tries_take_what_is_theirs_alone() -> anyhow::Result<()> {
    let world = World::start().await?;
    let post = Post::of(&world)?;
    let now = post.now();
    let items = ["a", "b", "c"].map(|id| note(id, &format!("o-{id}"), FREE, now).unwrap());
    post.enqueue(&items).await?;
    let ids: Vec<String> = ["a", "b", "x"].map(|id| format!("message:{id}")).to_vec();
    let posts = [Post::of(&world)?, Post::of(&world)?];
    let [first, second] = posts.each_ref().map(Post::deliverer);
    let (one, two) = tokio::join!(first.deliver_ids(&ids), second.deliver_ids(&ids));
    assert_eq!(one?.delivered + two?.delivered, 2);
    assert_eq!(arrived(&world).keys().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(post.status("c").await?.0, OutboxStatus::Pending);
    post.run().await?;
    world.finish().await
}

/// What the next requests meet: mostly nothing, else an error code, silence or a cut line.
fn misfortunes(world: &World, n: usize, rng: &mut StdRng) -> BTreeMap<&'static str, u64> {
    let codes = [-1, -1, -1, 43108, 43108, 40001, 47003, 47003, 40003, 43101];
    let mut planned: BTreeMap<&'static str, u64> = BTreeMap::new();
    for i in 0..n {
        let (name, mode, errcode, ms) = match rng.random_range(0..1_000) {
            0..100 => ("code", FaultMode::Errcode, Some(codes[rng.random_range(0..codes.len())]), None),
            100..125 => ("unknown", FaultMode::Timeout, None, Some(2_000)),
            125..150 => ("unknown", FaultMode::Slow, None, Some(2_000)),
            150..160 => ("unknown", FaultMode::Reset, None, None),
            160..170 => ("unknown", FaultMode::DropAfterCommit, None, None),
            _ if i % 700 == 350 => ("rest", FaultMode::Errcode, Some(45011), None),
            _ => ("none", FaultMode::Slow, None, Some(0)),
        };
        *planned.entry(name).or_default() += 1;
        fault(world, mode, errcode, ms);
    }
    planned
}

/// With `JINLU_LONG=1` ten thousand messages, else a tenth.
#[tokio::test(flavor = "multi_thread")]
async fn of_ten_thousand_messages_each_deliverable_one_arrives_once() -> anyhow::Result<()> {
    #[expect(clippy::disallowed_methods, reason = "whoever runs the tests says how long they may take")]
    let long = std::env::var("JINLU_LONG").is_ok_and(|value| value == "1");
    let (n, people) = if long { (10_000, 2_500) } else { (1_000, 250) };
    let world = World::start().await?;
    let place = Place::of(&world, 20)?;
    let post = Post::at(&place)?;
    let each = i64::try_from(n / people)?;
    for person in 0..people {
        agreed(&post.store, &format!("o-{person}"), NOTE_ID, each, post.now()).await?;
    }
    let planned = misfortunes(&world, n, &mut StdRng::seed_from_u64(17));
    let at = post.now();
    let items = (0..n).map(|i| {
        let mut item = note(&format!("{i:05}"), &format!("o-{}", i % people), NOTE, at)?;
        item.expires_at = None;
        Ok(item)
    });
    post.enqueue(&items.collect::<anyhow::Result<Vec<_>>>()?).await?;

    let mut first = place.spawn(PROGRAM, None)?;
    let (mut second, mut killed_at, mut revoked) = (None, None, 0);
    let started = tokio::time::Instant::now();
    while post.store.outbox_pending().await? > 0 {
        anyhow::ensure!(started.elapsed() < Duration::from_secs(600), "{} wait", post.store.outbox_pending().await?);
        let sent = world.sim.messages(None).len();
        if sent > (revoked + 1) * n / 5 {
            world.sim.revoke_tokens();
            revoked += 1;
        }
        if sent > n / 3 && killed_at.is_none() {
            first.kill();
            killed_at = Some(sent);
        }
        if sent > n / 2 && second.is_none() {
            second = Some(place.spawn(PROGRAM, None)?);
        }
        // Here, too, but not all of it: the others must have their share. After the kill somebody must go on.
        if killed_at.is_some() {
            let deadline = tokio::time::Instant::now() + Duration::from_millis(500);
            post.deliverer().deliver_due(200, deadline).await?;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(killed_at.is_some() && revoked >= 2, "{killed_at:?} {revoked}");

    let counts = arrived(&world);
    let mut ends: BTreeMap<String, u64> = BTreeMap::new();
    let (mut unknown_tries, mut died_in, mut open_copies, mut delivered) = (0, 0, 0, 0);
    for i in 0..n {
        let no = format!("{i:05}");
        let item = post.item(&no).await?;
        let copies = counts.get(&no).copied().unwrap_or(0);
        let reason = item.reason.clone().unwrap_or_default();
        *ends.entry(format!("{:?} {reason}", item.status)).or_default() += 1;
        let unclear = item.tries.iter().filter(|t| t.outcome.as_deref().is_none_or(|o| o == "unknown")).count();
        match item.status {
            OutboxStatus::Delivered => assert_eq!(copies, 1, "{no}"),
            OutboxStatus::Unknown => assert!(copies <= 1, "{no} came {copies} times"),
            _ => assert_eq!(copies, 0, "{no} {item:?}"),
        }
        assert_eq!(unclear, usize::from(item.status == OutboxStatus::Unknown), "{no}: {:?}", item.tries);
        delivered += u64::from(item.status == OutboxStatus::Delivered);
        if item.status == OutboxStatus::Unknown {
            open_copies += copies;
            let died = item.tries.iter().any(|t| t.outcome.is_none());
            died_in += u64::from(died);
            unknown_tries += u64::from(!died);
        }
        assert!(item.finished_at.is_some(), "{no}");
    }
    let left = world.sim.waiting_faults();
    let left = u64::try_from(left.iter().filter(|f| !matches!(f.mode, FaultMode::Errcode) && f.ms != Some(0)).count())?;
    println!(
        "{n} messages in {:?}: {ends:?}; planned {planned:?}, {left} not met; died in {died_in}",
        started.elapsed()
    );
    assert_eq!(u64::try_from(world.sim.messages(None).len())?, delivered + open_copies);
    // Whoever was killed was at work on twelve at most, and took what its requests would have met with it.
    let met = planned["unknown"] - left;
    // Of a thousand one may be answered too late by a busy machine, without a fault.
    let late = u64::try_from(n / 1_000)?;
    assert!(
        died_in <= 12 && (met.saturating_sub(12)..=met + late).contains(&unknown_tries),
        "{met} {unknown_tries} {died_in}"
    );
    let reasons: BTreeSet<&str> = ends.keys().map(String::as_str).collect();
    let allowed = [
        "Delivered ",
        "Unknown OUTCOME_UNKNOWN",
        "Skipped NO_SUBSCRIPTION",
        "Dead VALUES_REFUSED",
        "Dead OPENID_INVALID",
    ];
    assert!(reasons.iter().all(|reason| allowed.contains(reason)), "{reasons:?}");
    drop(second);
    let found = violations(&post.store, post.now()).await?;
    assert!(found.is_empty(), "{}", found.join("\n"));
    world.store.drop_database().await?;
    Ok(())
}
