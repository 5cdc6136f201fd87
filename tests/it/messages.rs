//! Messages from the outbox to people: delivered once, kept for later, or given up with a reason.

use std::collections::BTreeMap;

use chrono::TimeDelta;
use domain::OpenId;
use it::post::{FREE, NOTE, NOTE_ID, Post, agreed, note};
use it::{Answer, World};
use serde_json::{Value, json};
use shop::deliver::Deliverer;
use shop::messages::{Message, item};
use simulators::{Fault, FaultMode, Target};
use store::outbox::OutboxStatus;

async fn enqueue(world: &World, id: &str, template: &str) -> anyhow::Result<()> {
    let values = [
        ("activityName", "九点抢签"),
        ("productName", "一个名字很长很长很长很长很长很长很长的商品"),
        ("result", "中签"),
    ];
    let values = values.map(|(k, v)| (k.to_owned(), v.to_owned())).into_iter().collect::<BTreeMap<_, _>>();
    let message = Message::new(OpenId::parse("o-lucky")?, template, values);
    let item = &item(id, &message, world.app.clock.now())?;
    world.store.transaction(|tx, _| Box::pin(async move { tx.enqueue(item).await })).await?;
    Ok(())
}

async fn state(world: &World, id: &str) -> anyhow::Result<(String, String)> {
    let rows = world.store.peek("outbox", 100).await?;
    let row = rows.iter().find(|row| row["_id"] == format!("message:{id}")).cloned().unwrap_or(Value::Null);
    Ok((
        row["status"].as_str().unwrap_or_default().to_owned(),
        row["lastError"].as_str().unwrap_or_default().to_owned(),
    ))
}

#[tokio::test]
async fn messages_are_delivered_or_end_with_a_reason() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    enqueue(&world, "a", "lotteryResult").await?;
    let run = c.timer("deliverOutbox").await?;
    assert_eq!(state(&world, "a").await?.0, "delivered", "{run:?}");
    let sent = world.sim.messages(Some("o-lucky"));
    assert_eq!((sent.len(), &sent[0].data["phrase2"]["value"]), (1, &json!("中签")));
    assert_eq!(sent[0].data["thing3"]["value"].as_str().unwrap().chars().count(), 20);

    enqueue(&world, "b", "somethingElse").await?;
    c.timer("deliverOutbox").await?;
    let (status, reason) = state(&world, "b").await?;
    assert!(status == "skipped" && reason.contains("somethingElse"), "{status} {reason}");

    let send = "/cgi-bin/message/subscribe/send";
    for (id, fault, wanted) in [
        ("c", json!({ "mode": "errcode", "errcode": 43101 }), "skipped"),
        ("d", json!({ "mode": "errcode", "errcode": 47003 }), "dead"),
        ("e", json!({ "mode": "dropAfterCommit" }), "unknown"),
        ("f", json!({ "mode": "errcode", "errcode": -1 }), "pending"),
        ("g", json!({ "mode": "errcode", "errcode": 45009 }), "pending"),
        ("h", json!({ "mode": "errcode", "errcode": 40001 }), "delivered"),
    ] {
        let mut fault = fault;
        fault["target"] = json!("wechat");
        fault["path"] = json!(send);
        fault["count"] = json!(1);
        c.control("faults", fault).await?.ok();
        enqueue(&world, id, "lotteryResult").await?;
        let run = c.timer("deliverOutbox").await?;
        let (status, reason) = state(&world, id).await?;
        assert_eq!(status, wanted, "{id}: {reason} {run:?}");
        if wanted == "pending" {
            c.advance(3_600).await?;
            c.timer("deliverOutbox").await?;
            assert_eq!(state(&world, id).await?.0, "delivered", "{id}");
        }
    }
    world.finish().await
}

/// An item of each end, with an assignment that `m-sent` tells: sent, refused, dead, unknown, queued, and a dead one of many.
async fn one_of_each(world: &World) -> anyhow::Result<Post> {
    let post = Post::of(world)?;
    let now = post.now();
    let steer = |mode, errcode: Option<i64>| {
        let mut fault = Fault::new(Target::Wechat, mode, 1);
        fault.path = Some("/cgi-bin/message/subscribe/send".to_owned());
        fault.errcode = errcode.map(Value::from);
        world.sim.fault(fault);
    };
    let mut told = note("m-sent", "o-demo", FREE, now)?;
    told.payload =
        json!({ "openId": "o-demo", "template": FREE, "values": { "no": "m-sent" }, "customerIds": ["c-1"] })
            .to_string();
    post.enqueue(&[told]).await?;
    post.run().await?;
    let (at, id) = (json!({ "$date": now.to_rfc3339() }), "c-1|o:o-demo|-");
    let row = json!({
        "_id": id, "customerId": "c-1", "assignedTo": "o:o-demo", "openId": "o-demo", "messageId": "message:m-sent",
        "replaced": ["message:m-refused"], "plannedAt": at, "createdAt": at,
    });
    post.store.open_document("assignments", &row, now).await?;
    for (i, (id, mode, errcode)) in [
        ("m-refused", FaultMode::Errcode, Some(43101)),
        ("m-dead", FaultMode::Errcode, Some(47003)),
        ("m-unknown", FaultMode::DropAfterCommit, None),
        ("m-mass", FaultMode::Errcode, Some(47003)),
        ("m-queued", FaultMode::Errcode, Some(-1)),
    ]
    .into_iter()
    .enumerate()
    {
        steer(mode, errcode);
        let mut item = note(id, "o-demo", FREE, now + TimeDelta::milliseconds(i64::try_from(i)? + 1))?;
        if id == "m-mass" {
            item.kind = "massMessage".to_owned();
        }
        post.enqueue(&[item]).await?;
        post.run().await?;
    }
    Ok(post)
}

fn ids(answer: &Answer) -> Vec<&str> {
    let data = answer.ok()["data"].as_array().unwrap();

    data.iter().map(|item| item["messageId"].as_str().unwrap().trim_start_matches("message:")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn receipts_are_listed_for_whom_they_concern() -> anyhow::Result<()> {
    let world = World::start().await?;
    one_of_each(&world).await?;
    let c = &world.client;
    let list = async |event: Value| c.call_service("messages", event).await;
    let all = ["m-queued", "m-mass", "m-unknown", "m-dead", "m-refused", "m-sent"];
    assert_eq!(ids(&list(json!({ "action": "list" })).await?), all);
    for (filter, expected) in [
        (json!({ "status": "queued" }), vec!["m-queued"]),
        (json!({ "status": "sent" }), vec!["m-sent"]),
        (json!({ "status": "refused" }), vec!["m-refused"]),
        (json!({ "status": "unknown" }), vec!["m-unknown"]),
        (json!({ "status": "dead" }), vec!["m-mass", "m-dead"]),
        (json!({ "status": "dead", "kind": "message" }), vec!["m-dead"]),
        (json!({ "kind": "massMessage" }), vec!["m-mass"]),
        (json!({ "kind": "sms" }), vec![]),
        (json!({ "openId": "o-demo", "status": "sent" }), vec!["m-sent"]),
        (json!({ "openId": "o-other" }), vec![]),
        (json!({ "customerId": "c-1" }), vec!["m-refused", "m-sent"]),
        (json!({ "customerId": "c-2" }), vec![]),
    ] {
        let mut event = filter.clone();
        event["action"] = json!("list");
        assert_eq!(ids(&list(event).await?), expected, "{filter}");
    }
    let first = list(json!({ "action": "list", "limit": 4 })).await?;
    let rest = list(json!({ "action": "list", "limit": 4, "after": first.body["nextCursor"] })).await?;
    assert_eq!([ids(&first), ids(&rest)].concat(), all);

    let get = |id: &str| json!({ "action": "get", "messageId": format!("message:{id}") });
    let sent = list(get("m-sent")).await?;
    let receipt = sent.ok();
    assert_eq!(
        (&receipt["status"], &receipt["attempts"], &receipt["reason"]),
        (&json!("sent"), &json!(1), &Value::Null)
    );
    assert_eq!((&receipt["customerIds"], &receipt["openId"]), (&json!(["c-1"]), &json!("o-demo")));
    assert_eq!((&receipt["nextAttemptAt"], &receipt["tries"][0]["outcome"]), (&Value::Null, &json!("delivered")));
    assert!(receipt["finishedAt"].is_string() && receipt["expiresAt"].is_string() && receipt.get("values").is_none());
    let dead = list(get("m-dead")).await?;
    let receipt = dead.ok();
    assert_eq!((&receipt["status"], &receipt["reason"]), (&json!("dead"), &json!("VALUES_REFUSED")));
    assert_eq!((&receipt["tries"][0]["errcode"], &receipt["message"]), (&json!(47003), &json!("消息内容与模板不符")));

    // Users see their own, without how it was sent.
    let (demo, other) = (c.login("demo").await?, c.login("other").await?);
    let own = c.call("messages", &demo, json!({ "action": "list" })).await?;
    assert_eq!(ids(&own), all);
    let receipt = c.call("messages", &demo, get("m-sent")).await?;
    assert_eq!(receipt.ok()["values"]["no"], json!("m-sent"));
    assert!(receipt.body.get("tries").is_none() && receipt.body.get("customerIds").is_none(), "{receipt:?}");
    assert!(ids(&c.call("messages", &other, json!({ "action": "list" })).await?).is_empty());
    c.call("messages", &other, get("m-sent")).await?.refused(404, "NOT_FOUND");
    c.call("messages", &other, json!({ "action": "list", "openId": "o-demo" })).await?.refused(403, "FORBIDDEN");
    c.call("messages", &demo, json!({ "action": "list", "customerId": "c-1" })).await?.refused(403, "FORBIDDEN");
    c.call("messages", &demo, json!({ "action": "list", "kind": "refund" })).await?.refused(403, "FORBIDDEN");
    let redrive = json!({ "action": "redrive", "messageId": "message:m-dead" });
    c.call("messages", &demo, redrive).await?.refused(403, "FORBIDDEN");

    // A service sees messages only, staff with the permission everything.
    let now = world.app.clock.now();
    let report = &store::outbox::OutboxItem::new("shipping:X", "shippingReport", &json!({}), now)?;
    world.store.transaction(|tx, _| Box::pin(async move { tx.enqueue(report).await })).await?;
    list(json!({ "action": "get", "messageId": "shipping:X" })).await?.refused(404, "NOT_FOUND");
    list(json!({ "action": "list", "kind": "shippingReport" })).await?.refused(403, "FORBIDDEN");
    let staff =
        |permission: &str| world.app.issue_staff_token("s-1", &[permission.to_owned()], TimeDelta::hours(1), now);
    let (token, _) = staff("messages")?;
    c.call("messages", &token, json!({ "action": "get", "messageId": "shipping:X" })).await?.ok();
    assert_eq!(
        c.call("messages", &token, json!({ "action": "list" })).await?.ok()["data"].as_array().unwrap().len(),
        7
    );
    let (token, _) = staff("lottery")?;
    c.call("messages", &token, json!({ "action": "list" })).await?.refused(403, "FORBIDDEN");
    c.call("messages", "", json!({ "action": "list" })).await?.refused(401, "UNAUTHENTICATED");

    for (event, field) in [
        (json!({}), "action"),
        (json!({ "action": "delete" }), "action"),
        (json!({ "action": "get" }), "messageId"),
        (json!({ "action": "get", "messageId": "" }), "messageId"),
        (json!({ "action": "get", "messageId": "x".repeat(257) }), "messageId"),
        (json!({ "action": "get", "messageId": { "$ne": 1 } }), "messageId"),
        (json!({ "action": "redrive", "messageId": "a\u{0}b" }), "messageId"),
        (json!({ "action": "redrive", "messageId": "message:m-dead", "mayRepeat": "yes" }), "mayRepeat"),
        (json!({ "action": "list", "status": "pending" }), "status"),
        (json!({ "action": "list", "kind": "mail" }), "kind"),
        (json!({ "action": "list", "openId": "" }), "openId"),
        (json!({ "action": "list", "customerId": "" }), "customerId"),
        (json!({ "action": "list", "limit": 0 }), "limit"),
        (json!({ "action": "list", "after": "zz" }), "after"),
    ] {
        let answer = list(event.clone()).await?;
        answer.refused(400, "INVALID_ARGUMENT");
        assert_eq!(answer.body["details"]["field"], field, "{event}");
    }
    world.store.drop_database().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_given_up_is_delivered_again_once() -> anyhow::Result<()> {
    let world = World::start().await?;
    let post = one_of_each(&world).await?;
    let (_, second) = world.another().await?;
    let c = &world.client;
    let redrive = |id: &str| json!({ "action": "redrive", "messageId": format!("message:{id}") });
    for id in ["m-sent", "m-refused", "m-queued", "m-unknown"] {
        c.call_service("messages", redrive(id)).await?.refused(409, "CONFLICT");
    }
    c.call_service("messages", redrive("m-none")).await?.refused(404, "NOT_FOUND");

    // Twice at once, by two processes: one of them does it.
    let (a, b) =
        tokio::join!(c.call_service("messages", redrive("m-dead")), second.call_service("messages", redrive("m-dead")));
    let (a, b) = (a?, b?);
    let (done, late) = if a.status == 200 { (&a, &b) } else { (&b, &a) };
    assert_eq!((&done.ok()["status"], &done.body["redrives"]), (&json!("queued"), &json!(1)));
    late.refused(409, "CONFLICT");
    // The same request twice is one, whatever became of the message meanwhile.
    let mut event = redrive("m-mass");
    event["requestId"] = json!("redrive-mass-1");
    let (a, b) =
        tokio::join!(c.call_service("messages", event.clone()), second.call_service("messages", event.clone()));
    let replayed = [&a?, &b?].map(|answer| answer.ok()["replayed"] == true);
    assert_eq!(replayed.iter().filter(|r| **r).count(), 1);
    world.client.advance(30).await?;
    post.run().await?;
    assert_eq!(c.call_service("messages", event).await?.ok()["status"], "sent");
    for id in ["m-dead", "m-mass"] {
        let item = post.item(id).await?;
        assert_eq!((item.status, item.attempts, item.redrives), (OutboxStatus::Delivered, 2, 1), "{id}");
    }
    // What may have arrived only for who says so.
    let mut event = redrive("m-unknown");
    event["mayRepeat"] = json!(true);
    c.call_service("messages", event).await?.ok();
    post.run().await?;
    let item = post.item("m-unknown").await?;
    assert_eq!((item.status, item.attempts), (OutboxStatus::Delivered, 2));
    let copies = world.sim.messages(None);
    let of = |no: &str| copies.iter().filter(|m| m.data["character_string1"]["value"] == no).count();
    assert_eq!((of("m-dead"), of("m-mass"), of("m-unknown")), (1, 1, 2));
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redriven_message_has_as_many_tries_as_a_new_one() -> anyhow::Result<()> {
    let world = World::start().await?;
    let post = Post::of(&world)?;
    agreed(&post.store, "o-a", NOTE_ID, 1, post.now()).await?;
    let mut item = note("a", "o-a", NOTE, post.now())?;
    item.expires_at = Some(post.now() - TimeDelta::hours(1));
    post.enqueue(&[item]).await?;
    post.run().await?;
    assert_eq!(post.status("a").await?, (OutboxStatus::Dead, "EXPIRED".to_owned()));
    // It is useful for another day, and takes a permission anew.
    let event = json!({ "action": "redrive", "messageId": "message:a" });
    let receipt = world.client.call_service("messages", event).await?;
    assert_eq!(receipt.ok()["status"], "queued");
    let item = post.item("a").await?;
    assert!(item.expires_at.is_some_and(|at| at > post.now() + TimeDelta::hours(23)));
    assert_eq!((item.counted(), item.claim), (0, 2));
    post.run().await?;
    assert_eq!(post.status("a").await?.0, OutboxStatus::Delivered);
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_had_no_template_is_sent_once_there_is_one() -> anyhow::Result<()> {
    let world = World::start().await?;
    let (post, c) = (Post::of(&world)?, &world.client);
    post.enqueue(&[note("event", "o-a", FREE, post.now())?, note("assigned", "o-b", NOTE, post.now())?]).await?;
    let without = Deliverer { templates: &[], ..post.deliverer() };
    let soon = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    assert_eq!(without.deliver_due(100, soon).await?.skipped, 2);
    assert_eq!(post.status("event").await?, (OutboxStatus::Skipped, "NO_TEMPLATE".to_owned()));
    let redrive = |id: &str| json!({ "action": "redrive", "messageId": format!("message:{id}") });
    assert_eq!(c.call_service("messages", redrive("event")).await?.ok()["status"], "queued");
    // An assignment is planned anew when it is told again.
    c.call_service("messages", redrive("assigned")).await?.refused(409, "CONFLICT");
    post.run().await?;
    assert_eq!(post.status("event").await?.0, OutboxStatus::Delivered);
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_is_found_in_the_messages_before_as_well() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let event = json!({ "customerId": "c-1", "customerName": "王小明", "assignedToUserId": "s-li" });
    let mut told = Vec::new();
    for _ in 0..3 {
        let answer = c.call_service("notifyAssignment", event.clone()).await?;
        told.insert(0, answer.ok()["results"][0]["messageId"].clone());
        c.advance(700).await?;
    }
    let listed = c.call_service("messages", json!({ "action": "list", "customerId": "c-1" })).await?;
    let rows = listed.ok()["data"].as_array().unwrap();
    assert!(rows.iter().all(|row| row["customerIds"] == json!(["c-1"])), "{rows:?}");
    assert_eq!(rows.iter().map(|row| row["messageId"].clone()).collect::<Vec<_>>(), told);
    world.finish().await
}
