//! Parcels by Kuaidi100: followed from their shipping to their receipt, asked about by the rules, believed only when it is proven.

use futures_util::future::join_all;
use it::{Answer, World};
use serde_json::{Value, json};
use simulators::{Fault, FaultMode, Parcel, Target};
use store::outbox::OutboxStatus;

use crate::events::{agree, world};
use crate::input::snapshot;
use crate::shipping::{paid, ship};

/// What Kuaidi100 wants to hear.
fn accepted() -> Value {
    json!({ "result": true, "returnCode": "200", "message": "成功" })
}

/// Something happens to a parcel of Yuantong.
pub(crate) async fn moved(world: &World, number: &str, change: Value) -> anyhow::Result<Value> {
    let mut event = json!({ "com": "yuantong", "num": number });
    event.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    Ok(world.client.control("parcel", event).await?.ok().clone())
}

/// The statuses of the pushes that it caused.
fn statuses(moved: &Value) -> Vec<u64> {
    moved["pushes"].as_array().unwrap().iter().map(|push| push["status"].as_u64().unwrap_or(0)).collect()
}

pub(crate) fn simulated(world: &World, number: &str) -> Parcel {
    world.sim.parcels(Some(number)).first().cloned().unwrap()
}

async fn query(world: &World, token: &str, order: &str) -> anyhow::Result<Answer> {
    world.client.call("logistics", token, json!({ "action": "query", "orderId": order })).await
}

/// What the order shows of its parcel.
async fn shown(world: &World, token: &str, order: &str) -> anyhow::Result<Value> {
    let order = world.client.call("orders", token, json!({ "action": "get", "orderId": order })).await?;
    Ok(order.ok()["shipping"]["parcel"].clone())
}

/// An order on its way whose parcel is followed.
async fn followed(world: &World, token: &str, number: &str) -> anyhow::Result<String> {
    let order = paid(world, token).await?;
    ship(world, &order, number).await?.ok();
    world.client.timer("deliverOutbox").await?.ok();
    assert!(simulated(world, number).subscription.is_some());
    Ok(order)
}

async fn item(world: &World, id: &str) -> anyhow::Result<(OutboxStatus, String)> {
    let item = world.store.outbox_item(id).await?.ok_or_else(|| anyhow::anyhow!("no {id}"))?;
    Ok((item.status, item.reason.unwrap_or_default()))
}

/// A body that Kuaidi100 would push to this subscription.
fn pushed(world: &World, subscription: &str, number: &str, code: &str) -> String {
    let beijing = world.app.clock.now() + chrono::TimeDelta::hours(8) + chrono::TimeDelta::minutes(1);
    let time = beijing.format("%Y-%m-%d %H:%M:%S").to_string();
    let data = json!([{ "ftime": time, "context": "ok" }]);
    let param = json!({ "status": "polling", "lastResult": { "nu": number, "state": code, "data": data } }).to_string();
    let salt = world.app.kuaidi100().unwrap().salt(subscription);
    format!("sign={}&param={param}", providers::kuaidi100::push::sign(&param, &salt))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parcel_is_followed_from_its_shipping_to_its_receipt() -> anyhow::Result<()> {
    let world = world().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    agree(&world, "alice", "orderArrived", 3).await?;
    let order = followed(&world, &token, "YT0000000001").await?;
    assert_eq!(shown(&world, &token, &order).await?["state"], "unknown");
    let on_way =
        moved(&world, "YT0000000001", json!({ "state": "1002", "context": "快递员 13900139000 已揽件" })).await?;
    assert_eq!(statuses(&on_way), [200]);
    let body: Value = serde_json::from_str(on_way["pushes"][0]["body"].as_str().unwrap())?;
    assert_eq!(body, accepted());
    let seen = query(&world, &token, &order).await?;
    let parcel = &seen.ok()["parcel"];
    assert_eq!((&parcel["state"], &parcel["stateText"]), (&json!("inTransit"), &json!("运输中")), "{parcel}");
    assert_eq!(parcel["traces"][0]["text"], "快递员 139****9000 已揽件");
    assert_eq!((&parcel["companyName"], &parcel["following"]), (&json!("圆通速递"), &json!("active")));
    assert!(simulated(&world, "YT0000000001").queries.is_empty(), "the push had told everything");
    let mine = c.call("logistics", &token, json!({ "action": "mine" })).await?;
    assert_eq!(mine.ok()["data"][0]["orderIds"], json!([order]));

    c.advance(3600).await?;
    let signed = moved(&world, "YT0000000001", json!({ "state": "304", "push": "duplicate", "times": 4 })).await?;
    assert_eq!(statuses(&signed), [200; 4]);
    for _ in 0..2 {
        c.timer("deliverOutbox").await?.ok();
    }
    let arrived = shown(&world, &token, &order).await?;
    assert_eq!((&arrived["state"], &arrived["stateText"]), (&json!("signed"), &json!("已签收")));
    assert!(arrived["arrivedAt"].is_string(), "{arrived}");
    let view = c.call("orders", &token, json!({ "action": "get", "orderId": order })).await?;
    assert_eq!(view.ok()["status"], "shipped", "the buyer confirms");
    assert_eq!(item(&world, &format!("message:order:{order}:arrived")).await?.0, OutboxStatus::Delivered);
    let told = world.sim.messages(Some("o-alice")).iter().filter(|m| m.template_id == "t-orderArrived").count();
    assert_eq!(told, 1);
    let mine = c.call("logistics", &token, json!({ "action": "mine" })).await?;
    assert_eq!(mine.ok()["data"], json!([]), "nothing is on its way any more");
    // What is over is not asked about.
    c.advance(86_400).await?;
    query(&world, &token, &order).await?.ok();
    assert!(simulated(&world, "YT0000000001").queries.is_empty());
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_proven_changes_nothing() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let number = "YT0000000002";
    let order = followed(&world, &token, number).await?;
    moved(&world, number, json!({ "state": "1" })).await?;
    let before = snapshot(&world).await?;
    for mode in ["tampered", "wrongSalt", "unsigned"] {
        let lied = moved(&world, number, json!({ "state": "3", "status": "polling", "push": mode })).await?;
        assert_eq!(statuses(&lied), [401], "{mode}");
    }
    let url = simulated(&world, number).subscription.unwrap().callback_url;
    let name = url.split_once("subscription=").unwrap().1.to_owned();
    let (reference, _) = name.split_once('-').unwrap();
    let send = async |subscription: &str, body: String| {
        c.post(&format!("/logisticsCallback?subscription={subscription}"), &[], body).await
    };
    let good = pushed(&world, &name, number, "3");
    for (subscription, body, status) in [
        // One subscription's push is not another's.
        (format!("{reference}-2"), good.clone(), 401),
        (format!("{:032x}-1", 7), good.clone(), 401),
        (name.clone(), good.replace("\"ok\"", "\"oK\""), 401),
        (name.clone(), format!("{good}&param={{}}"), 400),
        (name.clone(), "x".repeat(1000), 400),
        ("x".to_owned(), good.clone(), 400),
        // Proven, and about nothing that we know: Kuaidi100 tries again.
        (format!("{:032x}-1", 7), pushed(&world, &format!("{:032x}-1", 7), number, "3"), 404),
        (name.clone(), pushed(&world, &name, "YT0000009999", "3"), 400),
    ] {
        let answer = send(&subscription, body).await?;
        assert_eq!((answer.status, &answer.body["result"]), (status, &json!(false)), "{subscription}: {answer:?}");
    }
    assert_eq!(c.post("/logisticsCallback", &[], good.clone()).await?.status, 400);
    assert_eq!(c.post("/logisticsCallback?subscription=x-1", &[], "x".repeat(102_401)).await?.status, 413);
    before.stands(&world).await?;
    assert_eq!(send(&name, good).await?.body, accepted());
    assert_eq!(shown(&world, &token, &order).await?["state"], "signed");
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn late_and_reordered_news_never_lead_back() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let number = "YT0000000003";
    let order = followed(&world, &token, number).await?;
    for (code, state) in [("103", "collected"), ("1002", "inTransit"), ("5", "delivering"), ("301", "signed")] {
        c.advance(60).await?;
        let news = moved(&world, number, json!({ "state": code, "push": "outOfOrder" })).await?;
        assert!(statuses(&news).iter().all(|status| *status == 200), "{news}");
        assert_eq!(shown(&world, &token, &order).await?["state"], state);
    }
    let parcel = query(&world, &token, &order).await?;
    assert_eq!(parcel.ok()["parcel"]["traces"].as_array().map(Vec::len), Some(4));
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn news_that_got_lost_are_asked_for() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let (asked, silent) = ("YT0000000004", "YT0000000005");
    let orders = (followed(&world, &token, asked).await?, followed(&world, &token, silent).await?);
    for number in [asked, silent] {
        moved(&world, number, json!({ "state": "1" })).await?;
        moved(&world, number, json!({ "state": "3", "push": "none" })).await?;
    }
    // As long as news may come by themselves nobody is asked.
    c.advance(3 * 3600).await?;
    assert_eq!(query(&world, &token, &orders.0).await?.ok()["parcel"]["state"], "collected");
    c.advance(3600).await?;
    assert_eq!(query(&world, &token, &orders.0).await?.ok()["parcel"]["state"], "signed");
    assert_eq!(c.timer("followParcels").await?.ok()["asked"], 0);
    c.advance(20 * 3600).await?;
    let run = c.timer("followParcels").await?;
    assert_eq!(run.ok()["asked"], 1, "{run:?}");
    for order in [&orders.0, &orders.1] {
        let parcel = shown(&world, &token, order).await?;
        assert!(parcel["state"] == "signed" && parcel["arrivedAt"].is_string(), "{parcel}");
    }
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_who_ask_at_once_are_one_query() -> anyhow::Result<()> {
    let world = World::start().await?;
    let (_gateway, other) = world.another().await?;
    let token = world.client.login("alice").await?;
    let number = "YT0000000006";
    let order = paid(&world, &token).await?;
    ship(&world, &order, number).await?.ok();
    moved(&world, number, json!({ "state": "1002" })).await?;
    let waybill = json!({ "action": "query", "expressCompany": "YTO", "trackingNo": number.to_lowercase() });
    for wait in [0, 1500, 300] {
        world.client.advance(wait).await?;
        let calls = (0..16).map(|i| {
            let client = if i % 2 == 0 { &world.client } else { &other };
            let (token, order, waybill) = (&token, &order, &waybill);
            async move {
                match i % 4 {
                    0 | 1 => client.call("logistics", token, json!({ "action": "query", "orderId": order })).await,
                    _ => client.call_service("logistics", waybill.clone()).await,
                }
            }
        });
        for answer in join_all(calls).await {
            answer?.ok();
        }
        let queries = simulated(&world, number).queries.len();
        assert_eq!(queries, if wait == 300 { 2 } else { 1 }, "after {wait} s");
    }
    let seen = query(&world, &token, &order).await?;
    assert_eq!(seen.ok()["parcel"]["state"], "inTransit");
    assert!(simulated(&world, number).locked_until.is_none());
    world.client.timer("deliverOutbox").await?.ok();
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_orders_in_one_parcel_arrive_together() -> anyhow::Result<()> {
    let world = world().await?;
    let c = &world.client;
    let (alice, bob) = (c.login("alice").await?, c.login("bob").await?);
    let number = "YT0000000007";
    let (first, second) = (paid(&world, &alice).await?, paid(&world, &bob).await?);
    let (a, b) = tokio::join!(ship(&world, &first, number), ship(&world, &second, number));
    a?.ok();
    b?.ok();
    c.timer("deliverOutbox").await?.ok();
    assert_eq!(simulated(&world, number).subscribed.len(), 1);
    let mine = c.call("logistics", &bob, json!({ "action": "mine" })).await?;
    assert_eq!(mine.ok()["data"][0]["orderIds"], json!([second]), "whose else it is stays unsaid");
    moved(&world, number, json!({ "state": "301" })).await?;
    for (token, order) in [(&alice, &first), (&bob, &second)] {
        assert_eq!(shown(&world, token, order).await?["state"], "signed");
        assert_eq!(item(&world, &format!("message:order:{order}:arrived")).await?.0, OutboxStatus::Pending);
    }
    // One that joins a parcel that has arrived has arrived, and its buyer hears both, once.
    c.timer("deliverOutbox").await?.ok();
    agree(&world, "bob", "orderShipped", 3).await?;
    agree(&world, "bob", "orderArrived", 3).await?;
    let third = paid(&world, &bob).await?;
    for _ in 0..2 {
        ship(&world, &third, number).await?.ok();
    }
    assert!(shown(&world, &bob, &third).await?["arrivedAt"].is_string());
    c.advance(1).await?;
    for _ in 0..2 {
        c.timer("deliverOutbox").await?.ok();
    }
    let told: Vec<String> = world.sim.messages(Some("o-bob")).into_iter().map(|m| m.template_id).collect();
    assert_eq!(told, ["t-orderShipped", "t-orderArrived"]);
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_was_given_up_is_renewed_once() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let number = "YT0000000008";
    let order = followed(&world, &token, number).await?;
    let id = format!("parcel:YTO:{number}");
    let end = moved(&world, number, json!({ "status": "abort", "push": "duplicate" })).await?;
    assert_eq!(statuses(&end), [200, 200]);
    c.timer("deliverOutbox").await?.ok();
    assert_eq!(item(&world, &format!("{id}:2")).await?.0, OutboxStatus::Pending, "not within half an hour");
    c.advance(1801).await?;
    c.timer("deliverOutbox").await?.ok();
    assert_eq!(simulated(&world, number).subscribed.len(), 2);
    moved(&world, number, json!({ "state": "2", "context": "地址不详" })).await?;
    let marked = c.call_service("logistics", json!({ "action": "marked", "attention": "problem" })).await?;
    assert_eq!(marked.ok()["data"][0]["orderIds"], json!([order]));
    moved(&world, number, json!({ "state": "0", "status": "abort" })).await?;
    assert_eq!(shown(&world, &token, &order).await?["attention"], "lost");
    assert!(item(&world, &format!("{id}:3")).await.is_err());
    // Staff may try again.
    c.advance(1801).await?;
    let again = json!({ "action": "subscribe", "orderId": order });
    assert_eq!(c.call_service("logistics", again.clone()).await?.ok()["parcel"]["following"], "pending");
    c.timer("deliverOutbox").await?.ok();
    assert_eq!(c.call_service("logistics", again).await?.ok()["parcel"]["following"], "active");
    assert_eq!(shown(&world, &token, &order).await?["attention"], Value::Null);
    moved(&world, number, json!({ "state": "14" })).await?;
    let parcel = shown(&world, &token, &order).await?;
    assert_eq!((&parcel["attention"], &parcel["arrivedAt"]), (&json!("returning"), &Value::Null));
    let marked = c.call_service("logistics", json!({ "action": "marked" })).await?;
    assert_eq!(marked.ok()["data"].as_array().map(Vec::len), Some(1));
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_company_that_was_put_right_keeps_its_news() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let number = "YT0000000009";
    let order = followed(&world, &token, number).await?;
    moved(&world, number, json!({ "state": "1", "comNew": "yunda" })).await?;
    let event = json!({ "com": "yunda", "num": number, "state": "3" });
    assert_eq!(c.control("parcel", event).await?.ok()["pushStatus"], 200);
    let seen = query(&world, &token, &order).await?;
    assert_eq!(
        (&seen.ok()["parcel"]["companyName"], &seen.body["parcel"]["state"]),
        (&json!("韵达快递"), &json!("signed"))
    );
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_account_the_shop_tells_what_it_knows() -> anyhow::Result<()> {
    let world = World::start_with(|config| config.kuaidi100 = None).await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let order = paid(&world, &token).await?;
    query(&world, &token, &order).await?.refused(409, "ORDER_STATE_INVALID");
    ship(&world, &order, "YT0000000010").await?.ok();
    let seen = query(&world, &token, &order).await?;
    assert_eq!((&seen.ok()["parcel"], &seen.body["reason"]), (&Value::Null, &json!("NOT_CONFIGURED")));
    assert_eq!(seen.body["shipping"]["trackingNo"], "YT0000000010");
    let waybill = json!({ "action": "query", "expressCompany": "YTO", "trackingNo": "YT0000000010" });
    assert_eq!(c.call_service("logistics", waybill).await?.ok()["reason"], "NOT_CONFIGURED");
    let event = json!({ "action": "subscribe", "orderId": order });
    c.call_service("logistics", event).await?.refused(409, "CONFLICT");
    assert_eq!(c.post("/logisticsCallback?subscription=x-1", &[], "param={}").await?.status, 503);
    c.timer("followParcels").await?.ok();
    c.timer("deliverOutbox").await?.ok();
    assert!(world.sim.parcels(None).is_empty());
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_sees_what_is_theirs() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let (alice, eve) = (c.login("alice").await?, c.login("eve").await?);
    let order = paid(&world, &alice).await?;
    let mut event = crate::shipping::parcel(&order, "SF0000000011");
    event["expressCompany"] = json!("SF");
    c.call_service("orders", event).await?.ok();
    c.timer("deliverOutbox").await?.ok();
    query(&world, &eve, &order).await?.refused(403, "FORBIDDEN");
    query(&world, &alice, "20261121000000000NONENONE").await?.refused(404, "ORDER_NOT_FOUND");
    query(&world, &alice, "x y").await?.refused(400, "INVALID_ARGUMENT");
    let ask = |event: Value| c.call("logistics", &alice, event);
    ask(json!({ "action": "query", "expressCompany": "SF", "trackingNo": "SF0000000011" }))
        .await?
        .refused(400, "INVALID_ARGUMENT");
    ask(json!({ "action": "subscribe", "orderId": order })).await?.refused(403, "FORBIDDEN");
    ask(json!({ "action": "marked" })).await?.refused(403, "FORBIDDEN");
    ask(json!({ "action": "mine", "limit": 101 })).await?.refused(400, "INVALID_ARGUMENT");
    let staff = |company: &str, number: &str, phone: Option<&str>| {
        let event = json!({ "action": "query", "expressCompany": company, "trackingNo": number, "phone": phone });
        async move { c.call_service("logistics", event).await }
    };
    for (company, number, phone, field) in [
        ("NOBODY", "SF0000000011", None, "expressCompany"),
        ("SF", "1", None, "trackingNo"),
        ("SF", "SF0000000012", Some("x"), "phone"),
        ("SF", "SF0000000012", None, "phone"),
    ] {
        let answer = staff(company, number, phone).await?;
        answer.refused(400, "INVALID_ARGUMENT");
        assert_eq!(answer.body["details"]["field"], field, "{answer:?}");
    }
    // Of the order's own parcel the phone is known, and its tail is enough.
    let own = staff("SF", "SF0000000011", None).await?;
    assert_eq!(own.ok()["reason"], "NO_TRACE");
    let event = json!({ "com": "shunfeng", "num": "SF0000000012", "phone": "13900139000", "state": "501" });
    c.control("parcel", event).await?.ok();
    let other = staff("SF", "SF0000000012", Some("13900139000")).await?;
    assert_eq!(other.ok()["parcel"]["state"], "atPickupPoint");
    let stored = serde_json::to_string(&world.store.peek("parcels", 100).await?)?;
    assert!(!stored.contains("13900139000") && !stored.contains("13800138000"), "{stored}");
    // What nobody can follow says why.
    let order = paid(&world, &alice).await?;
    ship(&world, &order, "1").await?.ok();
    let view = c.call("orders", &alice, json!({ "action": "get", "orderId": order })).await?;
    assert_eq!(view.ok()["shipping"]["untracked"], "NUMBER_UNKNOWN");
    let seen = query(&world, &alice, &order).await?;
    assert_eq!(seen.ok()["parcel"], Value::Null);
    let event = json!({ "action": "subscribe", "orderId": order });
    c.call_service("logistics", event).await?.refused(409, "CONFLICT");
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_kuaidi100_answers_decides_about_a_subscription() -> anyhow::Result<()> {
    use OutboxStatus::{Dead, Delivered, Pending};
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let cases = [
        (FaultMode::Errcode, Some("501"), Delivered, ""),
        (FaultMode::Errcode, Some("500"), Pending, "KUAIDI100_BUSY"),
        (FaultMode::ServerError, None, Pending, "KUAIDI100_BUSY"),
        (FaultMode::Reset, None, Pending, "KUAIDI100_BUSY"),
        // It was taken, and nobody heard so.
        (FaultMode::DropAfterCommit, None, Pending, "KUAIDI100_BUSY"),
        (FaultMode::Errcode, Some("700"), Dead, "REFUSED_BY_KUAIDI100"),
        (FaultMode::Errcode, Some("701"), Dead, "REFUSED_BY_KUAIDI100"),
        (FaultMode::Errcode, Some("601"), Pending, "KUAIDI100_ACCOUNT"),
    ];
    for (at, (mode, errcode, status, reason)) in cases.into_iter().enumerate() {
        let number = format!("YT1000000{at:03}");
        let order = paid(&world, &token).await?;
        ship(&world, &order, &number).await?.ok();
        let mut fault = Fault::new(Target::Kuaidi100, mode, 1);
        fault.errcode = errcode.map(Value::from);
        world.sim.fault(fault);
        c.timer("deliverOutbox").await?.ok();
        let id = format!("parcel:YTO:{number}:1");
        assert_eq!(item(&world, &id).await?, (status, reason.to_owned()), "{mode:?} {errcode:?}");
        if status == Pending {
            c.advance(660).await?;
            c.timer("deliverOutbox").await?.ok();
            assert_eq!(item(&world, &id).await?.0, Delivered, "{mode:?} {errcode:?}");
            assert_eq!(simulated(&world, &number).subscribed.len(), 1);
        }
        if status == Dead {
            let event = json!({ "action": "subscribe", "orderId": order });
            c.call_service("logistics", event).await?.ok();
            c.timer("deliverOutbox").await?.ok();
            assert_eq!(item(&world, &format!("parcel:YTO:{number}:2")).await?.0, Delivered);
        }
    }
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_fails_tells_what_is_known_and_waits() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let number = "YT0000000013";
    moved(&world, number, json!({ "state": "1002" })).await?;
    let event = json!({ "action": "query", "expressCompany": "yto", "trackingNo": number });
    let mut wait = 30;
    for mode in [FaultMode::ServerError, FaultMode::Reset, FaultMode::Timeout, FaultMode::TooMany] {
        world.sim.fault(Fault::new(Target::Kuaidi100, mode, 1));
        let answer = c.call_service("logistics", event.clone()).await?;
        assert_eq!((&answer.ok()["reason"], &answer.body["parcel"]["state"]), (&json!("UPSTREAM"), &json!("unknown")));
        // Whatever became of it, it counts.
        c.advance(wait * 60 - 60).await?;
        let answer = c.call_service("logistics", event.clone()).await?;
        assert_eq!(answer.ok()["parcel"]["state"], "unknown");
        c.advance(60).await?;
        wait = (wait * 2).min(240);
    }
    let answer = c.call_service("logistics", event).await?;
    assert_eq!((&answer.ok()["reason"], &answer.body["parcel"]["state"]), (&Value::Null, &json!("inTransit")));
    assert!(simulated(&world, number).locked_until.is_none());
    world.finish().await
}
