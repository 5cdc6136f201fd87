//! Messages from the outbox to people: delivered once, kept for later, or given up with a reason.

use std::collections::BTreeMap;

use domain::OpenId;
use it::World;
use serde_json::{Value, json};
use shop::messages::{Message, item};

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
        ("e", json!({ "mode": "dropAfterCommit" }), "dead"),
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
        c.timer("deliverOutbox").await?;
        let (status, reason) = state(&world, id).await?;
        assert_eq!(status, wanted, "{id}: {reason}");
        if wanted == "pending" {
            c.advance(60).await?;
            c.timer("deliverOutbox").await?;
            assert_eq!(state(&world, id).await?.0, "delivered", "{id}");
        }
    }
    world.finish().await
}
