//! Many orders in one call: each fares by itself, and the same call again changes nothing.

use futures_util::future::join_all;
use it::{Answer, World, order_of};
use serde_json::{Value, json};

use crate::coins::{give, verified};
use crate::shipping::{paid, ship};

async fn update(world: &World, event: Value) -> anyhow::Result<Answer> {
    world.client.call_service("batchUpdateOrders", event).await
}

/// Each order's status, or the code of its refusal.
fn fates(answer: &Answer) -> Vec<String> {
    let results = answer.ok()["results"].as_array().unwrap();
    let fate = |r: &Value| r["status"].as_str().or(r["code"].as_str()).unwrap_or_default().to_owned();
    assert!(results.iter().all(|r| r["success"] == json!(r["code"].is_null())), "{answer:?}");
    results.iter().map(fate).collect()
}

async fn status(world: &World, token: &str, order: &str) -> anyhow::Result<Value> {
    let got = world.client.call("orders", token, json!({ "action": "get", "orderId": order })).await?;
    Ok(got.ok()["status"].clone())
}

#[tokio::test]
async fn one_status_for_many_orders_with_a_result_for_each() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let (one, two) = (paid(&world, &token).await?, paid(&world, &token).await?);
    let open = c.call("submitOrder", &token, order_of("p-eggs", 3)).await?.text("orderId");
    let unknown = "20261121000000000NONENONE";
    let event = json!({
        "orderIds": [one, open, unknown, "a b", two, one], "status": "shipped",
        "expressCompany": "YTO", "trackingNo": "YT1", "requestId": "batch-0001",
    });
    let shipped = update(&world, event.clone()).await?;
    let expected = ["shipped", "ORDER_STATE_INVALID", "ORDER_NOT_FOUND", "INVALID_ARGUMENT", "shipped", "shipped"];
    assert_eq!(fates(&shipped), expected);
    assert_eq!((&shipped.body["succeeded"], &shipped.body["failed"]), (&json!(3), &json!(3)));
    assert_eq!(
        (&shipped.body["results"][3]["details"]["field"], &shipped.body["results"][0]["orderId"]),
        (&json!("orderId"), &json!(one))
    );
    assert!(shipped.body["results"][1]["message"].as_str().is_some_and(|m| !m.is_empty()));
    let again = update(&world, event.clone()).await?;
    assert_eq!((&again.ok()["replayed"], fates(&again)), (&json!(true), fates(&shipped)));
    let mut other = event;
    other["trackingNo"] = json!("YT2");
    update(&world, other.clone()).await?.refused(409, "IDEMPOTENCY_KEY_REUSED");
    // Without the key the state answers: the same parcel is no news, another one is refused.
    other.as_object_mut().unwrap().remove("requestId");
    assert_eq!(fates(&update(&world, other).await?)[0], "ORDER_STATE_INVALID");

    let mixed = json!({ "orders": [
        { "orderId": one, "status": "completed" },
        { "orderId": open, "status": "closed", "reason": "客户不要了" },
        { "orderId": two, "status": "closed" },
        { "orderId": two, "status": "paid" },
        { "orderId": two },
        { "orderId": two, "status": "shipped", "logistics": "pickup", "trackingNo": "1" },
        { "orderId": two, "status": "completed" },
    ] });
    let done = update(&world, mixed).await?;
    let expected = [
        "completed",
        "closed",
        "ORDER_STATE_INVALID",
        "INVALID_ARGUMENT",
        "INVALID_ARGUMENT",
        "INVALID_ARGUMENT",
        "completed",
    ];
    assert_eq!(fates(&done), expected);
    assert_eq!(world.stock("p-eggs").await?, 300);
    let seen = c.call("orders", &token, json!({ "action": "get", "orderId": open })).await?;
    assert_eq!(seen.ok()["closeReason"], "客户不要了");

    let many: Vec<String> = (0..101).map(|_| one.clone()).collect();
    for (event, field) in [
        (json!({}), "orderIds"),
        (json!({ "orderIds": [], "status": "closed" }), "orderIds"),
        (json!({ "orderIds": many, "status": "closed" }), "orderIds"),
        (json!({ "orderIds": [5], "status": "closed" }), "orderIds[0]"),
        (json!({ "orders": [] }), "orders"),
        (
            json!({ "orders": [{ "orderId": one, "status": "closed" }], "orderIds": [one], "status": "closed" }),
            "orders",
        ),
        (json!({ "orderIds": [one] }), "status"),
        (json!({ "orderIds": [one], "status": "refunded" }), "status"),
        (json!({ "orderIds": [one], "status": "shipped" }), "expressCompany"),
        (json!({ "orderIds": [one], "status": "shipped", "logistics": "horse" }), "logistics"),
        (json!({ "orders": [{ "status": "closed" }] }), "orders[0].orderId"),
    ] {
        let answer = update(&world, event.clone()).await?;
        answer.refused(400, "INVALID_ARGUMENT");
        assert_eq!(answer.body["details"]["field"], field, "{event}");
    }
    let event = json!({ "orderIds": [one], "status": "closed" });
    c.call("batchUpdateOrders", &token, event.clone()).await?.refused(403, "FORBIDDEN");
    c.call("batchUpdateOrders", &world.staff("orders")?, event).await?.ok();
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn many_parcels_are_shipped_in_one_call_also_when_it_is_sent_often() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let mut orders = Vec::new();
    for _ in 0..6 {
        orders.push(paid(&world, &token).await?);
    }
    let shipments: Vec<Value> = orders
        .iter()
        .enumerate()
        .map(|(n, order)| match n {
            0 => json!({ "orderId": order, "logistics": "express", "expressCompany": "YTO" }),
            1 => json!({ "orderId": order, "logistics": "pickup" }),
            _ => json!({ "orderId": order, "logistics": "express", "expressCompany": "YTO", "trackingNo": format!("YT{n}") }),
        })
        .collect();
    let event = json!({ "action": "shipBatch", "shipments": shipments, "requestId": "ship-batch-1" });
    for answer in join_all((0..5).map(|_| c.call_service("orders", event.clone()))).await {
        let answer = answer?;
        let expected = ["INVALID_ARGUMENT", "shipped", "shipped", "shipped", "shipped", "shipped"];
        assert_eq!(fates(&answer), expected);
    }
    assert_eq!(status(&world, &token, &orders[0]).await?, "paid");
    c.timer("deliverOutbox").await?.ok();
    for order in &orders[1..] {
        assert_eq!(world.sim.shipping(order).iter().map(|s| s.reports).sum::<u32>(), 1);
    }
    c.call("orders", &token, event).await?.refused(403, "FORBIDDEN");
    for shipments in [json!([]), Value::Null, json!(vec![json!({ "orderId": orders[0] }); 101])] {
        let answer = c.call_service("orders", json!({ "action": "shipBatch", "shipments": shipments })).await?;
        answer.refused(400, "INVALID_ARGUMENT");
        assert_eq!(answer.body["details"]["field"], "shipments");
    }
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_meet_single_commands_and_one_of_them_is_right() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let now = world.app.clock.now();
    verified(&world.store, "mia", now).await?;
    give(&world.store, "mia", "m", 8, now).await?;
    let token = c.login("mia").await?;
    for round in 0..6 {
        // A points-mall order may still be cancelled: shipped or closed, and never both.
        let mut event = order_of("p-mug", 1);
        event["action"] = json!("redeem");
        event["productId"] = json!("p-mug");
        event["quantity"] = json!(1);
        let mall = c.call("pointsMall", &token, event).await?.text("orderId");
        let open = c.call("submitOrder", &token, order_of("p-eggs", 1)).await?.text("orderId");
        c.call("wxPay", &token, json!({ "orderId": open })).await?.ok();
        let close = json!({ "orderIds": [mall, open], "status": "closed" });
        let number = format!("YT{round}");
        let (closed, shipped, paid) =
            tokio::join!(update(&world, close), ship(&world, &mall, &number), c.pay(&open, "once"));
        closed?.ok();
        shipped?;
        paid?;
        // A notice that met the closing is sent again.
        c.timer("reconcilePayments").await?.ok();
        let ends = [status(&world, &token, &mall).await?, status(&world, &token, &open).await?];
        assert!(matches!(ends[0].as_str(), Some("shipped" | "closed")), "{ends:?}");
        assert!(matches!(ends[1].as_str(), Some("paid" | "closed" | "pendingPayment")), "{ends:?}");
    }
    for _ in 0..2 {
        c.advance(600).await?;
        it::settle_down(c).await?;
    }
    world.finish().await
}
