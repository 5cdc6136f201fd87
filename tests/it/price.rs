//! Prices that staff change before they are paid: the old one can be paid no more, and the proof follows.

use bson::{Bson, doc};
use futures_util::future::join_all;
use it::{Answer, World, database_name, mongod_uri, order_of, settle_down, violations};
use jinlu::local;
use serde_json::{Value, json};
use store::{Store, StoreConfig};

use crate::audit::{Edit, apply, database, undo};
use crate::crash::{free_port, persist, start};

fn change(order: &str, more: Value) -> Value {
    let mut event = json!({ "action": "changePrice", "orderId": order, "reason": "老客户优惠" });
    event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    event
}

async fn changed(world: &World, order: &str, more: Value) -> anyhow::Result<Answer> {
    world.client.call("orders", &world.staff("orders")?, change(order, more)).await
}

async fn get(world: &World, token: &str, order: &str) -> anyhow::Result<Value> {
    Ok(world.client.call("orders", token, json!({ "action": "get", "orderId": order })).await?.ok().clone())
}

/// An order of `p-oil` and apples, of 246.00 with 18.00 of freight.
async fn submitted(world: &World, token: &str) -> anyhow::Result<String> {
    let mut event = order_of("p-oil", 1);
    event["items"].as_array_mut().unwrap().push(json!({ "productId": "p-apple", "quantity": 2 }));
    Ok(world.client.call("submitOrder", token, event).await?.text("orderId"))
}

async fn pay_params(world: &World, token: &str, order: &str) -> anyhow::Result<Answer> {
    world.client.call("wxPay", token, json!({ "orderId": order })).await
}

#[tokio::test]
async fn what_is_left_to_pay_is_lowered_and_paid_at_the_new_price() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let order = submitted(&world, &token).await?;
    assert_eq!(pay_params(&world, &token, &order).await?.ok()["paymentAmount"], 246);
    let mut event = change(&order, json!({ "amount": 200.5 }));
    event["requestId"] = json!("price-0001");
    let staff = world.staff("orders")?;
    let first = c.call("orders", &staff, event.clone()).await?;
    let amounts =
        |a: &Answer| ["totalAmount", "freightAmount", "discountAmount", "paymentAmount"].map(|f| a.ok()[f].clone());
    assert_eq!(json!(amounts(&first)), json!([246, 18, 45.5, 200.5]));
    assert_eq!(c.call("orders", &staff, event.clone()).await?.ok()["replayed"], true);
    event["amount"] = json!(100);
    c.call("orders", &staff, event).await?.refused(409, "IDEMPOTENCY_KEY_REUSED");
    let free = changed(&world, &order, json!({ "freightAmount": 3.5 })).await?;
    assert_eq!(free.ok()["freightAmount"], 3.5);
    let seen = get(&world, &token, &order).await?;
    assert_eq!((&seen["staffDiscount"], &seen["payments"][0]["status"]), (&json!(45.5), &json!("closed")));
    let lines: f64 = seen["items"].as_array().unwrap().iter().map(|i| i["payable"].as_f64().unwrap()).sum();
    assert!(lines < 228.0);

    let left = seen["paymentAmount"].clone();
    assert_eq!(pay_params(&world, &token, &order).await?.ok()["paymentAmount"], left);
    c.pay(&order, "once").await?;
    let seen = get(&world, &staff, &order).await?;
    assert_eq!((&seen["status"], seen["payments"].as_array().unwrap().len()), (&json!("paid"), 2));
    let history = seen["adjustments"].as_array().unwrap();
    assert_eq!(
        (history.len(), &history[0]["paymentBefore"], &history[1]["paymentAfter"], &history[0]["reason"]),
        (2, &json!(246), &left, &json!("老客户优惠"))
    );
    changed(&world, &order, json!({ "amount": 1 })).await?.refused(409, "ORDER_STATE_INVALID");
    world.finish().await
}

#[tokio::test]
async fn a_price_that_cannot_be_is_refused() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let order = submitted(&world, &token).await?;
    c.call("orders", &token, change(&order, json!({ "amount": 1 }))).await?.refused(403, "FORBIDDEN");
    c.call_service("orders", change(&order, json!({ "amount": 1 }))).await?.refused(403, "FORBIDDEN");
    for (more, field) in [
        (json!({}), "amount"),
        (json!({ "amount": 246.01 }), "amount"),
        (json!({ "amount": -1 }), "amount"),
        (json!({ "amount": 1, "freightAmount": 1 }), "freightAmount"),
        (json!({ "amount": 1, "reason": " " }), "reason"),
        (json!({ "freightAmount": 1.234 }), "freightAmount"),
    ] {
        let answer = changed(&world, &order, more.clone()).await?;
        answer.refused(400, "INVALID_ARGUMENT");
        assert_eq!(answer.body["details"]["field"], field, "{more}");
    }
    // Already so: nothing is written.
    assert_eq!(changed(&world, &order, json!({ "amount": 246 })).await?.ok()["replayed"], true);
    changed(&world, "20261121000000000NONENONE", json!({ "amount": 1 })).await?.refused(404, "ORDER_NOT_FOUND");
    for fen in 1..=20 {
        changed(&world, &order, json!({ "freightAmount": f64::from(fen) / 100.0 })).await?.ok();
    }
    changed(&world, &order, json!({ "freightAmount": 0 })).await?.refused(409, "CONFLICT");
    c.advance(31 * 60).await?;
    let late = submitted(&world, &token).await?;
    c.call("orders", &token, json!({ "action": "cancel", "orderId": late })).await?.ok();
    for order in [&order, &late] {
        changed(&world, order, json!({ "amount": 1 })).await?.refused(409, "ORDER_STATE_INVALID");
    }
    world.finish().await
}

#[tokio::test]
async fn a_price_of_nothing_is_paid_at_once() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = world.linked_member().await?;
    let mut event = order_of("p-oil", 1);
    event["paymentMethod"] = json!("prestore");
    event["prepaidAmount"] = json!(100);
    event["pointsUsed"] = json!(10);
    let order = c.call("submitOrder", &token, event).await?.text("orderId");
    pay_params(&world, &token, &order).await?.ok();
    let mut event = change(&order, json!({ "amount": 0 }));
    event["requestId"] = json!("free-0001");
    let staff = world.staff("orders")?;
    let free = c.call("orders", &staff, event.clone()).await?;
    assert_eq!((&free.ok()["status"], &free.body["paymentAmount"]), (&json!("paid"), &json!(0)));
    assert_eq!(c.call("orders", &staff, event).await?.ok()["replayed"], true);
    let seen = get(&world, &token, &order).await?;
    assert_eq!(
        (
            &seen["status"],
            &seen["prepaidAmount"],
            &seen["pointsUsed"],
            &seen["discountAmount"],
            &seen["payments"][0]["status"]
        ),
        (&json!("paid"), &json!(100), &json!(10), &json!(46), &json!("closed"))
    );
    pay_params(&world, &token, &order).await?.refused(409, "ORDER_STATE_INVALID");
    world.finish().await
}

#[tokio::test]
async fn a_payment_of_the_old_price_goes_back() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let order = submitted(&world, &token).await?;
    pay_params(&world, &token, &order).await?.ok();
    // The shop believes wrongly that WeChat has closed the attempt.
    world.store.mark_payment_closed(&order).await?;
    changed(&world, &order, json!({ "amount": 200 })).await?.ok();
    assert_eq!(
        c.control("pay", json!({ "outTradeNo": order, "notify": "duplicate" })).await?.body["noticeStatus"],
        204
    );
    let seen = get(&world, &token, &order).await?;
    assert_eq!(
        (&seen["status"], &seen["paymentExceptions"][0]["kind"], &seen["paymentExceptions"][0]["amount"]),
        (&json!("pendingPayment"), &json!("wrongAmount"), &json!(246))
    );
    assert_eq!(pay_params(&world, &token, &order).await?.ok()["paymentAmount"], 200);
    c.pay(&order, "once").await?;
    for _ in 0..2 {
        c.advance(600).await?;
        c.timer("deliverOutbox").await?.ok();
    }
    let seen = get(&world, &token, &order).await?;
    assert_eq!((&seen["status"], &seen["paymentExceptions"][0]["status"]), (&json!("paid"), &json!("refunded")));
    // One that was paid before the price changed pays the order, and the price stays.
    let order = submitted(&world, &token).await?;
    pay_params(&world, &token, &order).await?.ok();
    c.pay(&order, "none").await?;
    changed(&world, &order, json!({ "amount": 1 })).await?.refused(409, "ORDER_STATE_INVALID");
    assert_eq!(get(&world, &token, &order).await?["status"], "paid");
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn changing_paying_and_cancelling_at_once_leave_one_truth() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let staff = world.staff("orders")?;
    for round in 0..10 {
        let order = submitted(&world, &token).await?;
        if round % 2 == 0 {
            pay_params(&world, &token, &order).await?.ok();
        }
        let price = |amount: i64| c.call("orders", &staff, change(&order, json!({ "amount": amount })));
        let cancel = async {
            match round % 3 {
                0 => Some(c.call("orders", &token, json!({ "action": "cancel", "orderId": order })).await),
                _ => None,
            }
        };
        let (a, b, pay, paid, cancelled) = tokio::join!(
            price(200),
            price(if round % 5 == 4 { 0 } else { 150 }),
            pay_params(&world, &token, &order),
            c.pay(&order, "once"),
            cancel
        );
        for answer in [a?, b?, pay?].into_iter().chain(cancelled.transpose()?) {
            assert!(
                answer.status == 200
                    || answer.status == 409
                    || answer.body["retryable"] == true
                    || answer.status == 400,
                "{answer:?}"
            );
        }
        paid?;
        // A buyer who still may pays.
        if pay_params(&world, &token, &order).await?.status == 200 {
            c.pay(&order, "once").await?;
        }
        let seen = get(&world, &token, &order).await?;
        assert!(matches!(seen["status"].as_str(), Some("paid" | "closed")), "{seen}");
    }
    for _ in 0..3 {
        c.advance(600).await?;
        settle_down(c).await?;
    }
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_change_sent_often_is_made_once() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let staff = world.staff("orders")?;
    let order = submitted(&world, &token).await?;
    pay_params(&world, &token, &order).await?.ok();
    let mut event = change(&order, json!({ "amount": 0 }));
    event["requestId"] = json!("often-0001");
    for answer in join_all((0..8).map(|_| c.call("orders", &staff, event.clone()))).await {
        assert_eq!(answer?.ok()["status"], "paid");
    }
    assert_eq!(get(&world, &staff, &order).await?["adjustments"].as_array().unwrap().len(), 1);
    world.finish().await
}

/// Changes the price of an order with an open attempt, and pays what is left.
async fn haggle(client: &it::Client, staff: &str, amount: i64) -> anyhow::Result<Value> {
    let token = client.login("demo").await?;
    let mut event = order_of("p-oil", 1);
    event["requestId"] = json!("haggle-order");
    let order = persist(client, "submitOrder", &token, event).await?.text("orderId");
    let pay = json!({ "orderId": order });
    let begun = persist(client, "wxPay", &token, pay.clone()).await?;
    let mut event = change(&order, json!({ "amount": amount }));
    event["requestId"] = json!("haggle-price");
    let changed = persist(client, "orders", staff, event).await?;
    assert_eq!(changed.ok()["paymentAmount"], amount, "{begun:?}");
    if amount > 0 {
        assert_eq!(persist(client, "wxPay", &token, pay).await?.ok()["paymentAmount"], amount);
        for _ in 0..40 {
            if client.pay(&order, "once").await?.body["noticeStatus"] == 204 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        }
    }
    Ok(client.call("orders", &token, json!({ "action": "get", "orderId": order })).await?.body)
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_changing_a_price() -> anyhow::Result<()> {
    for (point, amount) in [
        ("change.closedAtWechat", 100),
        ("change.inside", 100),
        ("change.committed", 100),
        ("change.closedAtWechat", 0),
        ("change.inside", 0),
        ("change.committed", 0),
    ] {
        let (uri, database, folder, port) = (mongod_uri().await?, database_name(), tempfile::tempdir()?, free_port()?);
        let clock = edge::Clock::system();
        let config = local::config(&format!("http://127.0.0.1:{port}"), port, &uri, &database);
        let app = edge::App::new(config, clock.clone())?;
        let staff = app.issue_staff_token("lily", &["orders".to_owned()], chrono::TimeDelta::hours(9), clock.now())?.0;
        let host = start(&uri, &database, folder.path(), port, Some(point))?;
        let client = host.client.clone();
        host.killed_at(point, async { haggle(&client, &staff, amount).await.map(drop) }).await?;
        let host = start(&uri, &database, folder.path(), port, None)?;
        let order = haggle(&host.client, &staff, amount).await?;
        assert_eq!((&order["status"], &order["paymentAmount"]), (&json!("paid"), &json!(amount)), "{point}: {order}");
        host.client.advance(3600).await?;
        settle_down(&host.client).await?;
        let store = Store::new(StoreConfig::new(&uri, &database));
        let found = violations(&store, clock.now()).await?;
        assert!(found.is_empty(), "{point}: {found:?}");
        store.drop_database().await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_audit_sees_damage_to_changed_prices_and_completed_orders() -> anyhow::Result<()> {
    let world = World::start().await?;
    let db = database(&world).await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let order = submitted(&world, &token).await?;
    pay_params(&world, &token, &order).await?.ok();
    changed(&world, &order, json!({ "amount": 200 })).await?.ok();
    changed(&world, &order, json!({ "freightAmount": 5 })).await?.ok();
    pay_params(&world, &token, &order).await?.ok();
    c.pay(&order, "once").await?;
    let done = crate::shipping::paid(&world, &token).await?;
    crate::shipping::ship(&world, &done, "1").await?.ok();
    c.call("orders", &token, json!({ "action": "confirmReceipt", "orderId": done })).await?.ok();
    let found = world.violations().await?;
    assert!(found.is_empty(), "nothing is damaged yet: {found:?}");

    let long_ago = bson::DateTime::from_millis(0);
    let set = |collection, id: &str, fields| Edit::Update(collection, id.to_owned(), doc! { "$set": fields });
    let unset = |id: &str, field: &str| Edit::Update("orders", id.to_owned(), doc! { "$unset": { field: "" } });
    for (name, invariants, edit) in [
        (
            "a change asks for less",
            &["order-price"][..],
            set("orders", &order, doc! { "priceProof.input.adjustments.0.to": 19_999i64 }),
        ),
        (
            "a change vanishes from the proof",
            &["order-price"],
            set("orders", &order, doc! { "priceProof.input.adjustments": Bson::Array(vec![]) }),
        ),
        ("a change vanishes from the order", &["order-price"], unset(&order, "adjustments")),
        (
            "a change began elsewhere",
            &["order-price"],
            set("orders", &order, doc! { "adjustments.0.paymentBefore": 1i64 }),
        ),
        (
            "a change ended elsewhere",
            &["order-price"],
            set("orders", &order, doc! { "adjustments.1.paymentAfter": 1i64 }),
        ),
        (
            "a line bears another part",
            &["order-amounts"],
            set("orders", &order, doc! { "items.0.staffDiscount": 1i64 }),
        ),
        ("the freight is the old one", &["order-amounts"], set("orders", &order, doc! { "freightAmount": 1800i64 })),
        (
            "an attempt asked for what was never the price",
            &["payment"],
            set("payments", &order, doc! { "amount": 24_599i64 }),
        ),
        ("completed at no time", &["shipping"], unset(&done, "completedAt")),
        ("completed before it was shipped", &["shipping"], set("orders", &done, doc! { "completedAt": long_ago })),
        ("completed and only paid", &["shipping"], set("orders", &order, doc! { "completedAt": long_ago })),
    ] {
        let before = apply(&db, &edit).await?;
        let report = world.store.audit(world.app.clock.now()).await?;
        let seen: std::collections::BTreeSet<&str> = report.violations.iter().map(|v| v.invariant).collect();
        assert!(seen.iter().any(|i| invariants.contains(i)), "{name}: {seen:?}");
        undo(&db, before).await?;
    }
    world.finish().await
}
