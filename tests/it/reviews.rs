//! Reviews: by who received the goods, once, and shown only after somebody has looked.

use bson::doc;
use futures_util::future::join_all;
use it::{Answer, World, database_name, mongod_uri, order_of, settle_down, violations};
use serde_json::{Value, json};
use simulators::{Fault, FaultMode, Target};
use store::{Store, StoreConfig};

use crate::audit::{Edit, apply, database, undo};
use crate::crash::{free_port, persist, start};

/// An order that is paid and received.
async fn received(client: &it::Client, token: &str, event: Value) -> anyhow::Result<String> {
    let id = client.call("submitOrder", token, event).await?.text("orderId");
    client.call("wxPay", token, json!({ "orderId": id })).await?.ok();
    client.pay(&id, "once").await?;
    let ship = json!({ "action": "ship", "orderId": id, "logistics": "pickup" });
    client.call_service("orders", ship).await?.ok();
    client.call("orders", token, json!({ "action": "confirmReceipt", "orderId": id })).await?.ok();
    Ok(id)
}

fn review(order: &str, more: Value) -> Value {
    let mut event = json!({ "action": "add", "orderId": order, "lineId": "1", "rating": 5, "text": "很甜" });
    event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    event
}

async fn listed(world: &World, more: Value) -> anyhow::Result<Value> {
    let mut event = json!({ "action": "list", "productId": "p-apple" });
    event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Ok(world.client.call("reviews", "", event).await?.ok().clone())
}

fn texts(list: &Value) -> Vec<&str> {
    list["data"].as_array().unwrap().iter().map(|row| row["text"].as_str().unwrap()).collect()
}

async fn moderate(world: &World, id: &str, decision: &str) -> anyhow::Result<Answer> {
    let event = json!({ "action": "moderate", "reviewId": id, "decision": decision, "reason": "与商品无关" });
    world.client.call_service("reviews", event).await
}

#[tokio::test]
async fn buyers_tell_what_they_received_and_everybody_reads_it() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let order = received(c, &token, order_of("p-apple", 1)).await?;
    let named =
        json!({ "nickname": "小明同学", "avatar": "https://thirdwx.qlogo.cn/a.png", "requestId": "review-0001" });
    let added = c.call("reviews", &token, review(&order, named.clone())).await?;
    assert_eq!(added.ok()["review"]["status"], "published", "{added:?}");
    assert_eq!(c.call("reviews", &token, review(&order, named.clone())).await?.ok()["replayed"], true);
    let twice = json!({ "text": "再说一遍" });
    c.call("reviews", &token, review(&order, twice)).await?.refused(409, "CONFLICT");
    let second = received(c, &token, order_of("p-apple", 1)).await?;
    let other = json!({ "rating": 2, "text": "", "anonymous": true, "nickname": "小明同学" });
    c.call("reviews", &token, review(&second, other)).await?.ok();

    let list = listed(&world, json!({})).await?;
    assert_eq!(texts(&list), ["", "很甜"]);
    assert_eq!(list["summary"], json!({ "count": 2, "average": 3.5, "ratings": [0, 1, 0, 0, 1] }));
    let (hidden, shown) = (&list["data"][0], &list["data"][1]);
    assert_eq!((&hidden["name"], &hidden["avatar"]), (&json!("匿名用户"), &Value::Null));
    assert_eq!((&shown["name"], &shown["avatar"]), (&json!("小**"), &json!("https://thirdwx.qlogo.cn/a.png")));
    let told = list.to_string();
    assert!(!told.contains("o-alice") && !told.contains("小明同学") && !told.contains(&order), "{told}");
    assert_eq!(texts(&listed(&world, json!({ "rating": 2 })).await?), [""]);
    let page = listed(&world, json!({ "limit": 1 })).await?;
    let rest = listed(&world, json!({ "limit": 1, "after": page["nextCursor"] })).await?;
    assert_eq!((texts(&page), texts(&rest), &rest["nextCursor"]), (vec![""], vec!["很甜"], &Value::Null));

    // The shop answers, its buyer takes the words back.
    let id = shown["reviewId"].as_str().unwrap();
    let reply = json!({ "action": "reply", "reviewId": id, "text": "谢谢支持" });
    c.call_service("reviews", reply.clone()).await?.ok();
    c.call("reviews", &token, reply).await?.refused(403, "FORBIDDEN");
    assert_eq!(listed(&world, json!({})).await?["data"][1]["reply"]["text"], "谢谢支持");
    let bob = c.login("bob").await?;
    let remove = json!({ "action": "remove", "reviewId": id });
    c.call("reviews", &bob, remove.clone()).await?.refused(404, "NOT_FOUND");
    for _ in 0..2 {
        assert_eq!(c.call("reviews", &token, remove.clone()).await?.ok()["review"]["text"], "");
    }
    let list = listed(&world, json!({})).await?;
    assert_eq!((list["data"].as_array().unwrap().len(), &list["summary"]["count"]), (1, &json!(1)));
    let mine = c.call("reviews", &token, json!({ "action": "mine" })).await?;
    assert_eq!(mine.ok()["data"][1]["status"], "removed");
    c.call("reviews", &token, review(&order, json!({}))).await?.refused(409, "CONFLICT");
    world.finish().await
}

#[tokio::test]
async fn only_who_received_the_goods_reviews_them_in_time() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let (token, bob) = (c.login("alice").await?, c.login("bob").await?);
    let paid = c.call("submitOrder", &token, order_of("p-apple", 1)).await?.text("orderId");
    c.call("wxPay", &token, json!({ "orderId": paid })).await?.ok();
    c.pay(&paid, "once").await?;
    c.call("reviews", &token, review(&paid, json!({}))).await?.refused(409, "ORDER_STATE_INVALID");
    let order = received(c, &token, order_of("p-apple", 1)).await?;
    c.call("reviews", &bob, review(&order, json!({}))).await?.refused(404, "ORDER_NOT_FOUND");
    c.call("reviews", "", review(&order, json!({}))).await?.refused(401, "UNAUTHENTICATED");
    c.call_service("reviews", review(&order, json!({}))).await?.refused(403, "FORBIDDEN");
    for (wrong, field) in [
        (json!({ "lineId": "2" }), "lineId"),
        (json!({ "lineId": "" }), "lineId"),
        (json!({ "rating": 0 }), "rating"),
        (json!({ "rating": 6 }), "rating"),
        (json!({ "rating": null }), "rating"),
        (json!({ "text": "字".repeat(501) }), "text"),
        (json!({ "text": "a\u{0}" }), "text"),
        (json!({ "nickname": "字".repeat(21) }), "nickname"),
        (json!({ "avatar": "http://a.example/a.png" }), "avatar"),
        (json!({ "images": ["javascript:alert(1)"] }), "images[0]"),
        (json!({ "images": vec!["cloud://a/b.png"; 10] }), "images"),
        (json!({ "orderId": "?" }), "orderId"),
    ] {
        let refused = c.call("reviews", &token, review(&order, wrong)).await?;
        refused.refused(400, "INVALID_ARGUMENT");
        assert_eq!(refused.body["details"]["field"], field, "{refused:?}");
    }
    c.call("reviews", &token, json!({ "action": "list", "productId": "p-apple", "status": "pending" }))
        .await?
        .refused(403, "FORBIDDEN");
    c.call("reviews", "", json!({ "action": "list" })).await?.refused(400, "INVALID_ARGUMENT");
    world.settle_down().await?;
    c.advance(91 * 86_400).await?;
    let token = c.login("alice").await?;
    c.call("reviews", &token, review(&order, json!({}))).await?.refused(409, "ORDER_STATE_INVALID");
    assert_eq!(
        listed(&world, json!({})).await?["summary"],
        json!({ "count": 0, "average": null, "ratings": [0, 0, 0, 0, 0] })
    );
    world.finish().await
}

#[tokio::test]
async fn nothing_is_shown_before_somebody_has_looked() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let mut orders = Vec::new();
    for _ in 0..5 {
        orders.push(received(c, &token, order_of("p-apple", 1)).await?);
    }
    let refused = c.call("reviews", &token, review(&orders[0], json!({ "text": "违规内容" }))).await?;
    refused.refused(400, "INVALID_ARGUMENT");
    assert_eq!(refused.body["details"]["field"], "text");
    c.call("reviews", &token, review(&orders[0], json!({ "nickname": "违规" })))
        .await?
        .refused(400, "INVALID_ARGUMENT");
    let doubtful = c.call("reviews", &token, review(&orders[0], json!({ "text": "可疑内容" }))).await?;
    let pictured = c.call("reviews", &token, review(&orders[1], json!({ "images": ["cloud://e/a.png"] }))).await?;
    let face = json!({ "nickname": "小明", "avatar": "https://img.example/a.png" });
    let faced = c.call("reviews", &token, review(&orders[4], face)).await?;
    for answer in [&doubtful, &pictured, &faced] {
        assert_eq!(answer.ok()["review"]["status"], "pending", "{answer:?}");
    }
    // WeChat is away, in one way and another.
    let path = Some("/msg_sec_check".to_owned());
    for (order, mode) in [(&orders[2], FaultMode::ServerError), (&orders[3], FaultMode::DropAfterCommit)] {
        world.sim.fault(Fault { path: path.clone(), ..Fault::new(Target::Wechat, mode, 3) });
        let text = if mode == FaultMode::ServerError { "很甜" } else { "违规内容" };
        let waits = c.call("reviews", &token, review(order, json!({ "text": text }))).await?;
        assert_eq!(waits.ok()["review"]["status"], "pending", "{waits:?}");
    }
    world.sim.fault(Fault::new(Target::Wechat, FaultMode::ServerError, 0));
    assert_eq!(listed(&world, json!({})).await?["data"], json!([]));
    c.timer("deliverOutbox").await?;
    let list = listed(&world, json!({})).await?;
    assert_eq!((texts(&list), &list["summary"]["count"]), (vec!["很甜"], &json!(1)));
    let hidden = c.call_service("reviews", json!({ "action": "list", "status": "hidden" })).await?;
    assert_eq!(hidden.ok()["data"][0]["check"], "risky");
    assert_eq!(hidden.body["data"][0]["reason"], "内容未通过微信安全检测");

    // Staff look at the rest.
    let pending = c.call_service("reviews", json!({ "action": "list", "status": "pending" })).await?;
    assert_eq!(pending.ok()["data"].as_array().unwrap().len(), 3);
    let (doubtful, pictured) =
        (doubtful.body["review"]["reviewId"].clone(), pictured.body["review"]["reviewId"].clone());
    let (doubtful, pictured) = (doubtful.as_str().unwrap(), pictured.as_str().unwrap());
    moderate(&world, pictured, "publish").await?.ok();
    moderate(&world, pictured, "publish").await?.refused(409, "CONFLICT");
    moderate(&world, doubtful, "hide").await?.ok();
    assert_eq!(listed(&world, json!({})).await?["summary"]["count"], 2);
    moderate(&world, pictured, "hide").await?.ok();
    assert_eq!(listed(&world, json!({})).await?["summary"]["count"], 1);
    moderate(&world, doubtful, "publish").await?.ok();
    moderate(&world, "nothing", "hide").await?.refused(404, "NOT_FOUND");
    let unreasoned = json!({ "action": "moderate", "reviewId": doubtful, "decision": "hide" });
    c.call_service("reviews", unreasoned).await?.refused(400, "INVALID_ARGUMENT");
    let shown = moderate(&world, pictured, "publish").await?;
    assert_eq!((&shown.ok()["review"]["reason"], &shown.body["review"]["status"]), (&Value::Null, &json!("published")));
    world.finish().await
}

/// The author has gone meanwhile, so WeChat checks no more: staff decide, and may do so before.
#[tokio::test]
async fn what_wechat_does_not_check_any_more_is_for_staff() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let order = received(c, &token, order_of("p-apple", 1)).await?;
        let path = Some("/msg_sec_check".to_owned());
        world.sim.fault(Fault { path, ..Fault::new(Target::Wechat, FaultMode::Reset, 1) });
        let waits = c.call("reviews", &token, review(&order, json!({}))).await?;
        ids.push(waits.ok()["review"]["reviewId"].as_str().unwrap().to_owned());
    }
    moderate(&world, &ids[0], "publish").await?.ok();
    c.call("reviews", &token, json!({ "action": "remove", "reviewId": ids[1] })).await?.ok();
    c.advance(3 * 3600).await?;
    c.timer("deliverOutbox").await?;
    let pending = c.call_service("reviews", json!({ "action": "list", "status": "pending" })).await?;
    let rows = pending.ok()["data"].as_array().unwrap();
    assert_eq!((rows.len(), &rows[0]["check"], &rows[0]["reviewId"]), (1, &json!("review"), &json!(ids[2])));
    let list = listed(&world, json!({})).await?;
    assert_eq!(list["data"].as_array().unwrap().len(), 1);
    let outbox = c.call_service("messages", json!({ "action": "list", "kind": "reviewCheck" })).await?;
    assert!(outbox.status == 403 || outbox.ok()["data"].as_array().unwrap().iter().all(|row| row["status"] == "sent"));
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_reviews_are_counted_and_one_line_is_reviewed_once() -> anyhow::Result<()> {
    let world = World::start().await?;
    let (_, second) = world.another().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let mut orders = Vec::new();
    for _ in 0..6 {
        orders.push(received(c, &token, order_of("p-apple", 1)).await?);
    }
    let adds = orders.iter().flat_map(|order| [c, &second, c].map(|client| (client, order)));
    let adds = adds.enumerate().map(|(i, (client, order))| {
        let (event, token) = (review(order, json!({ "rating": 1 + i % 5 })), &token);
        async move { persist(client, "reviews", token, event).await }
    });
    let mut added = 0;
    for answer in join_all(adds).await {
        let answer = answer?;
        match answer.code() {
            "" => added += 1,
            _ => answer.refused(409, "CONFLICT"),
        }
    }
    assert_eq!(added, 6);
    let list = listed(&world, json!({})).await?;
    assert_eq!(list["summary"]["count"], 6);
    // Everybody shows and hides at once.
    let ids: Vec<String> =
        list["data"].as_array().unwrap().iter().map(|row| row["reviewId"].as_str().unwrap().to_owned()).collect();
    let decisions = ids.iter().flat_map(|id| ["hide", "publish", "hide", "publish"].map(|decision| (id, decision)));
    let decided = join_all(decisions.map(|(id, decision)| moderate(&world, id, decision))).await;
    for answer in decided {
        let answer = answer?;
        assert!(answer.status == 200 || answer.code() == "CONFLICT" || answer.body["retryable"] == true, "{answer:?}");
    }
    let list = listed(&world, json!({})).await?;
    assert_eq!(list["summary"]["count"].as_u64(), Some(list["data"].as_array().unwrap().len() as u64));
    world.finish().await
}

#[tokio::test]
async fn the_audit_sees_damaged_reviews() -> anyhow::Result<()> {
    let world = World::start().await?;
    let db = database(&world).await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let mut ids = Vec::new();
    for images in [json!([]), json!(["cloud://e/a.png"])] {
        let order = received(c, &token, order_of("p-apple", 1)).await?;
        let added = c.call("reviews", &token, review(&order, json!({ "images": images }))).await?;
        ids.push(added.ok()["review"]["reviewId"].as_str().unwrap().to_owned());
    }
    let order = received(c, &token, order_of("p-apple", 1)).await?;
    let path = Some("/msg_sec_check".to_owned());
    world.sim.fault(Fault { path, ..Fault::new(Target::Wechat, FaultMode::Reset, 1) });
    let waits = c.call("reviews", &token, review(&order, json!({}))).await?.body["review"]["reviewId"].clone();
    let waits = waits.as_str().unwrap().to_owned();
    let found = world.violations().await?;
    assert!(found.is_empty(), "nothing is damaged yet: {found:?}");
    let (shown, pictured) = (&ids[0], &ids[1]);
    let change = |id: &str, change: bson::Document| Edit::Update("reviews", id.to_owned(), change);
    let damages = [
        ("stars from nowhere", Edit::Update("reviewStats", "p-apple".into(), doc! { "$set": { "ratings.0": 1i64 } })),
        ("stars vanish", Edit::Delete("reviewStats", "p-apple".into())),
        ("a review vanishes", Edit::Delete("reviews", shown.clone())),
        ("better than it was", change(shown, doc! { "$set": { "rating": 4i64 } })),
        ("hidden without a reason", change(shown, doc! { "$set": { "status": "hidden", "statsDue": true } })),
        ("shown unseen", change(pictured, doc! { "$set": { "status": "published", "statsDue": true } })),
        ("shown unchecked", change(&waits, doc! { "$set": { "status": "published", "statsDue": true } })),
        ("taken back and still there", change(shown, doc! { "$set": { "status": "removed", "statsDue": true } })),
        ("of another product", change(shown, doc! { "$set": { "productId": "p-tea", "statsDue": true } })),
        ("of another line", change(shown, doc! { "$set": { "lineId": "2" } })),
        ("of somebody else", change(shown, doc! { "$set": { "userId": "u-nobody" } })),
        ("moderated at no time", change(shown, doc! { "$set": { "moderatedBy": "staff x" } })),
        ("nobody will check it", Edit::Delete("outbox", format!("reviewCheck:{waits}"))),
    ];
    for (name, edit) in &damages {
        let step = apply(&db, edit).await.map_err(|e| e.context(*name))?;
        let report = world.store.audit(world.app.clock.now()).await?;
        assert!(report.violations.iter().any(|v| v.invariant == "review"), "{name}: {:?}", report.violations);
        undo(&db, step).await?;
    }
    world.finish().await
}

/// Killed between any two steps: the review is there once or not at all, and the stars are right.
#[tokio::test(flavor = "multi_thread")]
async fn killed_while_a_review_is_written() -> anyhow::Result<()> {
    for point in ["review.checked", "review.committed", "review.counted"] {
        let (uri, database, folder, port) = (mongod_uri().await?, database_name(), tempfile::tempdir()?, free_port()?);
        let host = start(&uri, &database, folder.path(), port, Some(point))?;
        let client = host.client.clone();
        let token = client.login("alice").await?;
        let order = received(&client, &token, order_of("p-apple", 1)).await?;
        let add = review(&order, json!({ "requestId": "review-0001" }));
        host.killed_at(point, async { client.call("reviews", &token, add.clone()).await.map(drop) }).await?;

        let host = start(&uri, &database, folder.path(), port, None)?;
        let c = &host.client;
        let list = json!({ "action": "list", "productId": "p-apple" });
        let seen = persist(c, "reviews", "", list.clone()).await?;
        let there = u64::from(point != "review.checked");
        assert_eq!(seen.ok()["summary"]["count"], there, "{point}: {seen:?}");
        assert_eq!(persist(c, "reviews", &token, add).await?.ok()["review"]["status"], "published", "{point}");
        assert_eq!(c.call("reviews", "", list).await?.ok()["summary"]["count"], 1, "{point}");
        settle_down(c).await?;
        let store = Store::new(StoreConfig::new(&uri, &database));
        #[expect(clippy::disallowed_methods, reason = "the host's clock was not moved")]
        let found = violations(&store, chrono::Utc::now()).await?;
        assert!(found.is_empty(), "{point}: {}", found.join("\n"));
        store.drop_database().await?;
    }
    Ok(())
}
