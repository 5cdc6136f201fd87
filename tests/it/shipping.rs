//! Shipping: once, by the shop alone, and reported to WeChat exactly once whatever happens on the way.

use futures_util::future::join_all;
use it::{Answer, World, database_name, mongod_uri, order_of, settle_down, violations};
use serde_json::{Value, json};
use simulators::{Fault, FaultMode, Target};
use store::outbox::{OutboxItem, OutboxStatus};
use store::{Store, StoreConfig};

use crate::coins::{give, mug, verified};
use crate::crash::{free_port, start};

const UPLOAD: &str = "upload_shipping_info";

/// An order of `o-NAME` that is paid through WeChat.
pub(crate) async fn paid(world: &World, token: &str) -> anyhow::Result<String> {
    let mut event = order_of("p-apple", 2);
    event["items"].as_array_mut().unwrap().push(json!({ "productId": "p-honey", "quantity": 1 }));
    let id = world.client.call("submitOrder", token, event).await?.text("orderId");
    world.client.call("wxPay", token, json!({ "orderId": id })).await?.ok();
    world.client.pay(&id, "once").await?.ok();
    Ok(id)
}

pub(crate) fn parcel(order: &str, number: &str) -> Value {
    json!({ "action": "ship", "orderId": order, "logistics": "express", "expressCompany": "YTO", "trackingNo": number })
}

pub(crate) async fn ship(world: &World, order: &str, number: &str) -> anyhow::Result<Answer> {
    world.client.call_service("orders", parcel(order, number)).await
}

async fn item(store: &Store, order: &str) -> anyhow::Result<Option<OutboxItem>> {
    Ok(store.outbox_item(&format!("shipping:{order}:1")).await?)
}

/// How the report of an order stands, and why.
async fn report(world: &World, order: &str) -> anyhow::Result<(OutboxStatus, String)> {
    let item = item(&world.store, order).await?.unwrap();
    Ok((item.status, item.reason.unwrap_or_default()))
}

/// How many reports of the order WeChat has taken.
fn taken(world: &World, order: &str) -> u32 {
    world.sim.shipping(order).iter().map(|s| s.reports).sum()
}

fn fault(world: &World, mode: FaultMode, path: &str, errcode: Option<i64>) {
    let mut fault = Fault::new(Target::Wechat, mode, 1);
    fault.path = Some(path.to_owned());
    fault.errcode = errcode.map(Value::from);
    world.sim.fault(fault);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_shipped_is_reported_as_wechat_wants_it() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let (yto, sf, pickup) = (paid(&world, &token).await?, paid(&world, &token).await?, paid(&world, &token).await?);
    let shipped = ship(&world, &yto, "YT123-4").await?;
    assert_eq!((&shipped.ok()["status"], &shipped.body["orderId"]), (&json!("shipped"), &json!(yto)));
    let shipping = &shipped.body["shipping"];
    assert_eq!((&shipping["logistics"], &shipping["trackingNo"]), (&json!("express"), &json!("YT123-4")));
    let mut event = parcel(&sf, "SF1");
    event["expressCompany"] = json!("SF");
    c.call_service("orders", event).await?.ok();
    let event = json!({ "action": "ship", "orderId": pickup, "logistics": "pickup" });
    c.call_service("orders", event).await?.ok();
    c.timer("deliverOutbox").await?;
    for order in [&yto, &sf, &pickup] {
        assert_eq!(report(&world, order).await?.0, OutboxStatus::Delivered, "{order}");
        assert_eq!(taken(&world, order), 1);
    }
    let seen = serde_json::to_value(world.sim.shipping(&yto))?;
    let sent = &seen[0]["shippingList"][0];
    assert_eq!((&seen[0]["logisticsType"], &sent["tracking_no"]), (&json!(1), &json!("YT123-4")), "{seen}");
    let text = sent["item_desc"].as_str().unwrap();
    assert!(text.contains("×2；") && text.ends_with("×1"), "{text}");
    let seen = serde_json::to_value(world.sim.shipping(&sf))?;
    assert_eq!(seen[0]["shippingList"][0]["contact"]["receiver_contact"], "138****8000", "{seen}");
    let seen = serde_json::to_value(world.sim.shipping(&pickup))?;
    assert_eq!(seen[0]["logisticsType"], 4);
    let view = c.call("orders", &token, json!({ "action": "get", "orderId": yto })).await?;
    assert_eq!((&view.ok()["status"], &view.body["shipping"]), (&json!("shipped"), shipping));
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_shop_ships_and_only_what_is_paid() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let open = c.call("submitOrder", &token, order_of("p-apple", 1)).await?.text("orderId");
    ship(&world, &open, "1").await?.refused(409, "ORDER_STATE_INVALID");
    ship(&world, "20261121000000000NONENONE", "1").await?.refused(404, "ORDER_NOT_FOUND");
    let order = paid(&world, &token).await?;
    c.call("orders", &token, parcel(&order, "1")).await?.refused(403, "FORBIDDEN");
    c.call_service("orders", json!({ "action": "list" })).await?.refused(403, "FORBIDDEN");
    let with = |field: &str, value: Value| {
        let mut event = parcel(&order, "1");
        event[field] = value;
        event
    };
    for (field, value) in [
        ("logistics", json!("horse")),
        ("logistics", Value::Null),
        ("logistics", json!("virtual")),
        ("expressCompany", json!("顺丰")),
        ("expressCompany", Value::Null),
        ("trackingNo", json!("1\n")),
        ("trackingNo", json!("")),
        ("trackingNo", json!("单号")),
        ("trackingNo", json!("1".repeat(129))),
    ] {
        let answer = c.call_service("orders", with(field, value.clone())).await?;
        if value != json!("1\n") {
            answer.refused(400, "INVALID_ARGUMENT");
        }
    }
    let shipped = ship(&world, &order, "1").await?;
    assert_eq!(shipped.ok()["replayed"], true, "the number with a line break was trimmed");
    // The same again, and something else.
    c.advance(60).await?;
    let again = ship(&world, &order, "1").await?;
    assert_eq!((&again.ok()["replayed"], &again.body["shipping"]), (&json!(true), &shipped.body["shipping"]));
    ship(&world, &order, "2").await?.refused(409, "ORDER_STATE_INVALID");
    let event = json!({ "action": "cancel", "orderId": order });
    c.call("orders", &token, event).await?.refused(409, "ORDER_STATE_INVALID");
    // What WeChat took no money for is shipped, and there is nothing to report.
    verified(&world.store, "rich", world.app.clock.now()).await?;
    let rich = c.login("rich").await?;
    let mut event = order_of("p-apple", 1);
    event["paymentMethod"] = json!("balance");
    let by_balance = c.call("submitOrder", &rich, event).await?.text("orderId");
    ship(&world, &by_balance, "3").await?.ok();
    assert!(item(&world.store, &by_balance).await?.is_none());
    c.timer("deliverOutbox").await?;
    assert_eq!((taken(&world, &order), taken(&world, &by_balance)), (1, 0));
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shop_without_trade_management_reports_nothing() -> anyhow::Result<()> {
    let world = World::start_with(|config| config.rules.shipping_reports = false).await?;
    let token = world.client.login("alice").await?;
    let order = paid(&world, &token).await?;
    ship(&world, &order, "1").await?.ok();
    world.client.timer("deliverOutbox").await?;
    assert!(item(&world.store, &order).await?.is_none() && taken(&world, &order) == 0);
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_ships_and_cancels_at_once_one_wins() -> anyhow::Result<()> {
    let world = World::start().await?;
    let (c, now) = (&world.client, world.app.clock.now());
    verified(&world.store, "mia", now).await?;
    let token = c.login("mia").await?;
    let alice = c.login("alice").await?;
    for round in 0..4 {
        let order = paid(&world, &alice).await?;
        let answers = join_all((0..6).map(|i| ship(&world, &order, if i % 2 == 0 { "A" } else { "B" }))).await;
        let answers = answers.into_iter().collect::<Result<Vec<_>, _>>()?;
        let good: Vec<&Answer> = answers.iter().filter(|a| a.status == 200).collect();
        let numbers: Vec<&Value> = good.iter().map(|a| &a.body["shipping"]["trackingNo"]).collect();
        assert!(!numbers.is_empty() && numbers.iter().all(|n| *n == numbers[0]), "{answers:?}");
        assert_eq!(good.iter().filter(|a| a.body["replayed"] != true).count(), 1, "{answers:?}");

        give(&world.store, "mia", &format!("ship-{round}"), 1, now).await?;
        let order = c.call("pointsMall", &token, mug(1)).await?.text("orderId");
        let cancel = c.call("orders", &token, json!({ "action": "cancel", "orderId": order }));
        let (shipped, cancelled) = tokio::join!(ship(&world, &order, "M"), cancel);
        let (shipped, cancelled) = (shipped?, cancelled?);
        assert_ne!(shipped.status == 200, cancelled.status == 200, "{shipped:?} {cancelled:?}");
        let view = c.call("orders", &token, json!({ "action": "get", "orderId": order })).await?;
        let state = if shipped.status == 200 { "shipped" } else { "closed" };
        assert_eq!(view.ok()["status"], state);
    }
    c.timer("deliverOutbox").await?;
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_that_wechat_does_not_know_yet_is_reported_later() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    c.control("shipping", json!({ "lagSeconds": 90 })).await?.ok();
    let order = paid(&world, &token).await?;
    ship(&world, &order, "1").await?.ok();
    c.timer("deliverOutbox").await?;
    assert_eq!(report(&world, &order).await?, (OutboxStatus::Pending, "PAYMENT_NOT_KNOWN".to_owned()));
    // Not before a minute is over.
    c.advance(50).await?;
    c.timer("deliverOutbox").await?;
    assert_eq!(item(&world.store, &order).await?.unwrap().attempts, 1);
    c.advance(70).await?;
    c.timer("deliverOutbox").await?;
    assert_eq!((report(&world, &order).await?.0, taken(&world, &order)), (OutboxStatus::Delivered, 1));
    // One that it never gets to know is given up after six hours.
    c.control("shipping", json!({ "lagSeconds": 1_000_000 })).await?.ok();
    let order = paid(&world, &token).await?;
    ship(&world, &order, "1").await?.ok();
    for hour in 0..6 {
        c.timer("deliverOutbox").await?;
        assert_eq!(report(&world, &order).await?.0, OutboxStatus::Pending, "after {hour} hours");
        c.advance(3600).await?;
    }
    c.advance(3600).await?;
    c.timer("deliverOutbox").await?;
    assert_eq!(report(&world, &order).await?, (OutboxStatus::Dead, "PAYMENT_NOT_KNOWN".to_owned()));
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_wechat_answers_decides_about_a_report() -> anyhow::Result<()> {
    use OutboxStatus::{Dead, Delivered, Pending};
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let mut cases = vec![
        // Unchanged is as good as done.
        (10_060_023, Delivered, ""),
        (-1, Pending, "REFUSED_BY_WECHAT"),
        (10_060_012, Pending, "REFUSED_BY_WECHAT"),
        (10_060_019, Pending, "REFUSED_BY_WECHAT"),
        // It takes nothing, and does not know the parcel.
        (10_060_002, Dead, "REFUSED_BY_WECHAT"),
        (10_060_003, Dead, "REFUSED_BY_WECHAT"),
        (10_060_004, Dead, "REFUSED_BY_WECHAT"),
    ];
    let fix = [
        10_060_005,
        10_060_006,
        10_060_007,
        10_060_008,
        10_060_009,
        10_060_014,
        10_060_020,
        10_060_024,
        10_060_025,
        10_060_026,
        10_060_031,
        268_485_194,
        268_485_195,
        268_485_196,
        268_485_197,
        268_485_216,
        268_485_224,
        268_485_226,
        268_485_227,
        268_485_228,
        47_001,
    ];
    cases.extend(fix.map(|code| (code, Dead, "DATA_REFUSED")));
    for (code, status, reason) in cases {
        let order = paid(&world, &token).await?;
        ship(&world, &order, "1").await?.ok();
        fault(&world, FaultMode::Errcode, UPLOAD, Some(code));
        c.timer("deliverOutbox").await?;
        assert_eq!(report(&world, &order).await?, (status, reason.to_owned()), "{code}");
        let item = item(&world.store, &order).await?.unwrap();
        assert_eq!(item.tries.last().unwrap().errcode, Some(code).filter(|_| status != Delivered), "{code}");
        if status == Pending {
            c.advance(30).await?;
            c.timer("deliverOutbox").await?;
            assert_eq!((report(&world, &order).await?.0, taken(&world, &order)), (Delivered, 1), "{code}");
        }
    }
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn after_any_doubt_a_report_reaches_wechat_once() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let unknown = (OutboxStatus::Pending, "OUTCOME_UNKNOWN".to_owned());
    for (mode, with_effect) in [(FaultMode::DropAfterCommit, 1), (FaultMode::Reset, 0), (FaultMode::ServerError, 0)] {
        let order = paid(&world, &token).await?;
        ship(&world, &order, "1").await?.ok();
        fault(&world, mode, UPLOAD, None);
        c.timer("deliverOutbox").await?;
        assert_eq!((report(&world, &order).await?, taken(&world, &order)), (unknown.clone(), with_effect), "{mode:?}");
        // As long as nobody says what became of it, nothing is sent again.
        c.advance(30).await?;
        fault(&world, FaultMode::ServerError, "get_order", None);
        c.timer("deliverOutbox").await?;
        assert_eq!((report(&world, &order).await?, taken(&world, &order)), (unknown.clone(), with_effect), "{mode:?}");
        c.advance(120).await?;
        c.timer("deliverOutbox").await?;
        assert_eq!((report(&world, &order).await?.0, taken(&world, &order)), (OutboxStatus::Delivered, 1), "{mode:?}");
    }
    // The answer got lost, and meanwhile the user confirmed the receipt.
    let order = paid(&world, &token).await?;
    ship(&world, &order, "1").await?.ok();
    fault(&world, FaultMode::DropAfterCommit, UPLOAD, None);
    c.timer("deliverOutbox").await?;
    c.control("shipping", json!({ "confirmOrderId": order })).await?.ok();
    c.advance(30).await?;
    c.timer("deliverOutbox").await?;
    assert_eq!((report(&world, &order).await?.0, taken(&world, &order)), (OutboxStatus::Delivered, 1));
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_reported_in_the_portal_counts_if_it_is_the_same() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let open = world.app.open_api().unwrap();
    for (number, code, status) in
        [("1", 10_060_002, OutboxStatus::Delivered), ("other", 10_060_003, OutboxStatus::Dead)]
    {
        let order = paid(&world, &token).await?;
        let document = world.store.order(&domain::OrderId::parse(&order)?).await?.unwrap();
        let by_hand = wechat::shipping::ShippingReport {
            order_key: wechat::shipping::OrderKey::Transaction(document.transaction_id.unwrap()),
            logistics: wechat::shipping::Logistics::Express,
            parcel: wechat::shipping::Parcel {
                tracking_no: Some(number.to_owned()),
                express_company: Some("YTO".to_owned()),
                item_desc: "苹果".to_owned(),
                receiver_phone: None,
            },
            upload_time: world.app.clock.now(),
            openid: wechat::Personal::new("o-alice"),
        };
        open.upload_shipping_info(&by_hand).await?;
        ship(&world, &order, "1").await?.ok();
        fault(&world, FaultMode::Errcode, UPLOAD, Some(code));
        c.timer("deliverOutbox").await?;
        assert_eq!((report(&world, &order).await?.0, taken(&world, &order)), (status, 1), "{number}");
    }
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_that_went_back_is_not_reported() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.client.login("alice").await?;
    let order = paid(&world, &token).await?;
    let document = world.store.order(&domain::OrderId::parse(&order)?).await?.unwrap();
    let (transaction_id, total) = (document.transaction_id.unwrap(), document.payment_amount.get());
    // In the merchant portal, past this shop.
    let pay = world.app.pay().unwrap();
    let refund = wechat::pay::RefundRequest {
        transaction_id: &transaction_id,
        out_refund_no: "BYHAND1",
        refund_fen: total,
        total_fen: total,
        reason: "x",
        notify_url: pay.notify_url(),
    };
    pay.refund(&refund).await?;
    world.client.advance(60).await?;
    ship(&world, &order, "1").await?.ok();
    world.client.timer("deliverOutbox").await?;
    assert_eq!(report(&world, &order).await?, (OutboxStatus::Dead, "PAYMENT_REFUNDED".to_owned()));
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_killed_around_a_shipment_reports_it_once() -> anyhow::Result<()> {
    for point in ["ship.inside", "ship.committed", "deliver.begun", "deliver.sent"] {
        let (uri, database, port) = (mongod_uri().await?, database_name(), free_port()?);
        let dir = tempfile::tempdir()?;
        let host = start(&uri, &database, dir.path(), port, None)?;
        let c = host.client.clone();
        let token = c.login("alice").await?;
        let id = c.call("submitOrder", &token, order_of("p-apple", 1)).await?.text("orderId");
        c.call("wxPay", &token, json!({ "orderId": id })).await?.ok();
        c.pay(&id, "once").await?.ok();
        drop(host);

        let host = start(&uri, &database, dir.path(), port, Some(point))?;
        let c = host.client.clone();
        let event = parcel(&id, "1");
        let again = event.clone();
        host.killed_at(point, async move {
            c.call_service("orders", event).await?;
            c.timer("deliverOutbox").await?;
            Ok(())
        })
        .await?;

        let host = start(&uri, &database, dir.path(), port, None)?;
        let c = host.client.clone();
        // What the killed process left locked is free again after the server's own limit.
        for _ in 0..40 {
            if c.call_service("orders", again.clone()).await?.status == 200 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        }
        c.advance(180).await?;
        settle_down(&c).await?;
        c.advance(180).await?;
        settle_down(&c).await?;
        let store = Store::new(StoreConfig::new(uri.as_str(), database.as_str()));
        let item = item(&store, &id).await?.unwrap();
        assert_eq!(item.status, OutboxStatus::Delivered, "{point}: {item:?}");
        let seen = c.get(&format!("/sim/control/shipping?prefix={id}")).await?;
        assert_eq!(seen["shipping"][0]["reports"], 1, "{point}: {seen}");
        #[expect(clippy::disallowed_methods, reason = "the audit's clock only has to be near")]
        let found = violations(&store, chrono::Utc::now()).await?;
        assert!(found.is_empty(), "{point}: {found:?}");
        store.drop_database().await?;
    }
    Ok(())
}
