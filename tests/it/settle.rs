//! Notices, queries and closing: whatever comes, in whatever order, one order is paid once.

use futures_util::future::join_all;
use it::{World, order_of};
use serde_json::{Value, json};
use simulators::{Fault, FaultMode, Target};

async fn begun(world: &World, token: &str, quantity: i64) -> anyhow::Result<String> {
    let id = world.client.call("submitOrder", token, order_of("p-apple", quantity)).await?.text("orderId");
    world.client.call("wxPay", token, json!({ "orderId": id })).await?.ok();
    Ok(id)
}

async fn get(world: &World, token: &str, id: &str) -> anyhow::Result<Value> {
    Ok(world.client.call("orders", token, json!({ "action": "get", "orderId": id })).await?.ok().clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_notices_at_once_settle_once() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.client.login("alice").await?;
    let id = begun(&world, &token, 4).await?;
    let calls = (0..20).map(|_| {
        let (c, id) = (world.client.clone(), id.clone());
        async move { c.pay(&id, "once").await }
    });
    for answer in join_all(calls).await {
        assert_eq!(answer?.body["noticeStatus"], 204);
    }
    let order = get(&world, &token, &id).await?;
    assert_eq!(
        (&order["status"], &order["pointsEarned"], &order["paymentExceptions"]),
        (&json!("paid"), &json!(2), &json!([]))
    );
    assert_eq!(world.client.call("getUserPoints", &token, json!({})).await?.ok()["points"], 2);
    // Days later, and once more.
    world.client.advance(86_400).await?;
    assert_eq!(world.client.pay(&id, "duplicate").await?.body["noticeStatus"], 204);
    world.settle_down().await?;
    assert_eq!(world.client.call("getUserPoints", &token, json!({})).await?.ok()["points"], 2);
    world.finish().await
}

#[tokio::test]
async fn forged_notices_are_refused_and_change_nothing() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.client.login("alice").await?;
    let id = begun(&world, &token, 1).await?;
    for (mode, status) in [
        ("tampered", 401),
        ("signtest", 401),
        ("stale", 401),
        ("unknownSerial", 401),
        ("wrongKey", 401),
        ("brokenCiphertext", 500),
    ] {
        let answer = world.client.pay(&id, mode).await?;
        assert_eq!(answer.body["noticeStatus"], status, "{mode}: {answer:?}");
        let notice: Value = serde_json::from_str(answer.body["notices"][0]["body"].as_str().unwrap())?;
        assert_eq!(notice["code"], "FAIL", "{mode}");
        assert_eq!(get(&world, &token, &id).await?["status"], "pendingPayment", "{mode}");
    }
    for body in ["", "{}", "\u{0}"] {
        let answer = world.client.post("/payCallback", &[], body).await?;
        assert!((400..500).contains(&answer.status) && answer.code() == "FAIL", "{answer:?}");
    }
    // The old form is answered in the old form.
    let xml = "<xml><return_code>SUCCESS</return_code></xml>";
    assert!((400..500).contains(&world.client.post("/payCallback", &[], xml).await?.status));
    // Both kinds of platform key are good at once.
    assert_eq!(world.client.pay(&id, "certificate").await?.body["noticeStatus"], 204);
    assert_eq!(get(&world, &token, &id).await?["status"], "paid");
    world.finish().await
}

#[tokio::test]
async fn a_lost_notice_is_found_by_query_and_by_reconciliation() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let (queried, reconciled, expired) =
        (begun(&world, &token, 1).await?, begun(&world, &token, 1).await?, begun(&world, &token, 1).await?);
    for id in [&queried, &reconciled, &expired] {
        c.pay(id, "none").await?;
        assert_eq!(get(&world, &token, id).await?["status"], "pendingPayment");
    }
    let query = c.call("wxPay", &token, json!({ "orderId": queried, "action": "query" })).await?;
    assert_eq!((&query.ok()["status"], &query.body["tradeState"]), (&json!("paid"), &json!("SUCCESS")));
    // Paid at the last moment: closing finds out and the payment wins.
    world.client.advance(31 * 60).await?;
    c.timer("closeExpiredOrders").await?;
    c.timer("reconcilePayments").await?;
    for id in [&reconciled, &expired] {
        assert_eq!(get(&world, &token, id).await?["status"], "paid");
    }
    assert_eq!(c.pay(&reconciled, "once").await?.body["noticeStatus"], 204);
    world.finish().await
}

#[tokio::test]
async fn money_that_fits_no_order_is_recorded_and_goes_back() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    for mode in ["wrongAmount", "wrongAppid", "wrongMchid"] {
        let id = begun(&world, &token, 1).await?;
        assert_eq!(c.pay(&id, mode).await?.body["noticeStatus"], 204, "{mode}");
        let order = get(&world, &token, &id).await?;
        assert_eq!(
            (&order["status"], &order["paymentExceptions"][0]["kind"]),
            (&json!("pendingPayment"), &json!(mode)),
            "{order}"
        );
        // A later, honest report of the same transaction does not pay for what is being refunded.
        c.pay(&id, "once").await?;
        c.call("wxPay", &token, json!({ "orderId": id, "action": "query" })).await?.ok();
        world.client.advance(120).await?;
        c.timer("deliverOutbox").await?;
        world.client.advance(600).await?;
        c.timer("deliverOutbox").await?;
        let order = get(&world, &token, &id).await?;
        assert_eq!(
            (&order["status"], &order["paymentExceptions"][0]["status"]),
            (&json!("pendingPayment"), &json!("refunded")),
            "{order}"
        );
    }
    let sims = world.sim.orders("");
    assert!(sims.iter().all(|o| o.refunds.len() == 1), "each payment is refunded once");
    world.finish().await
}

/// Closing and changing ask about the open attempt and find a payment of another amount: it goes back, and pays for nothing.
#[tokio::test]
async fn a_wrong_payment_that_closing_finds_does_not_pay_the_order() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let (token, staff) = (c.login("alice").await?, world.staff("orders")?);
    let mut orders = Vec::new();
    for _ in 0..4 {
        let id = begun(&world, &token, 2).await?;
        // The ledger has another amount, and the notice of it is lost.
        let paid = c.control("pay", json!({ "orderId": id, "notify": "none", "amountFen": 1 })).await?;
        paid.ok();
        orders.push(id);
    }
    let [cancelled, changed, emptied, expired] = orders.as_slice() else { unreachable!() };
    let cancel = json!({ "action": "cancel", "orderId": cancelled, "reason": "不想要了" });
    assert_eq!(c.call("orders", &token, cancel).await?.ok()["status"], "closed");
    for (order, amount) in [(changed, 55), (emptied, 0)] {
        let change = json!({ "action": "changePrice", "orderId": order, "amount": amount, "reason": "补偿" });
        assert_eq!(c.call("orders", &staff, change).await?.ok()["paymentAmount"], amount);
    }
    // The new price is paid by an attempt of its own.
    assert_eq!(c.call("wxPay", &token, json!({ "orderId": changed })).await?.ok()["paymentAmount"], 55);
    c.pay(changed, "once").await?;
    c.advance(31 * 60).await?;
    let run = c.timer("closeExpiredOrders").await?;
    assert_eq!((&run.ok()["closed"], &run.body["paid"]), (&json!(1), &json!(0)), "{run:?}");
    for _ in 0..2 {
        c.advance(600).await?;
        c.timer("deliverOutbox").await?.ok();
    }
    for (order, status) in [(cancelled, "closed"), (changed, "paid"), (emptied, "paid"), (expired, "closed")] {
        let seen = get(&world, &token, order).await?;
        let exceptions = seen["paymentExceptions"].as_array().unwrap();
        assert_eq!((&seen["status"], exceptions.len()), (&json!(status), 1), "{seen}");
        assert_eq!(
            (&exceptions[0]["kind"], &exceptions[0]["status"], &exceptions[0]["amount"]),
            (&json!("wrongAmount"), &json!("refunded"), &json!(0.01)),
            "{seen}"
        );
    }
    let refunds: usize = orders.iter().flat_map(|id| world.sim.orders(id)).map(|order| order.refunds.len()).sum();
    assert_eq!(refunds, 4, "each went back once");
    world.finish().await
}

/// However many orders cannot be closed: those that expired after them are.
#[tokio::test]
async fn orders_that_cannot_be_closed_hold_up_no_others() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let mut older = Vec::new();
    for _ in 0..51 {
        older.push(begun(&world, &token, 1).await?);
    }
    c.advance(120).await?;
    let younger = [begun(&world, &token, 1).await?, begun(&world, &token, 1).await?];
    c.advance(31 * 60).await?;
    // WeChat answers nothing about those that were made in the first minutes.
    let minutes: std::collections::BTreeSet<&str> = older.iter().filter_map(|id| id.get(..12)).collect();
    for minute in minutes {
        world.sim.fault(Fault::some(Target::Wxpay, minute, FaultMode::ServerError, 1.0, 0));
    }
    for closed in [2, 0] {
        let run = c.timer("closeExpiredOrders").await?;
        let seen = [&run.ok()["closed"], &run.body["failed"], &run.body["remaining"]];
        assert_eq!(json!(seen), json!([closed, 51, true]), "each is tried once: {run:?}");
        for id in &younger {
            assert_eq!(get(&world, &token, id).await?["status"], "closed");
        }
        assert_eq!(get(&world, &token, &older[0]).await?["status"], "pendingPayment");
    }
    world.sim.fault(Fault::new(Target::Wxpay, FaultMode::ServerError, 0));
    let run = c.timer("closeExpiredOrders").await?;
    let seen = [&run.ok()["closed"], &run.body["failed"], &run.body["remaining"]];
    assert_eq!(json!(seen), json!([51, 0, false]), "{run:?}");
    world.finish().await
}

#[tokio::test]
async fn paid_after_close_goes_back_and_the_user_is_told() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let id = begun(&world, &token, 2).await?;
    // Paid, the notice lost; WeChat's answers to close and query are lost too, so that the shop closes on a wrong belief.
    let order = domain::OrderId::parse(&id)?;
    world.store.mark_payment_closed(&id).await?;
    c.call("orders", &token, json!({ "action": "cancel", "orderId": id })).await?.ok();
    assert_eq!(c.pay(&id, "once").await?.body["noticeStatus"], 204);
    let seen = get(&world, &token, &id).await?;
    assert_eq!((&seen["status"], &seen["paymentExceptions"][0]["kind"]), (&json!("closed"), &json!("paidAfterClose")));
    assert!(seen["paymentExceptions"][0]["message"].as_str().unwrap().contains("退回"));
    // The refund's own notice settles it, and the timer then finds it done.
    let refund = world.store.exceptions_of(&order).await?[0].out_refund_no.clone().unwrap();
    c.control("refund", json!({ "outRefundNo": refund, "notify": "duplicate" })).await?;
    let seen = get(&world, &token, &id).await?;
    assert_eq!(seen["paymentExceptions"][0]["status"], "refunded", "{seen}");
    world.client.advance(3600).await?;
    c.timer("deliverOutbox").await?;
    assert_eq!(world.store.outbox_pending().await?, 0);
    assert_eq!(world.client.call("getUserPoints", &token, json!({})).await?.ok()["points"], 0);
    assert_eq!(world.stock("p-apple").await?, 1000);
    world.finish().await
}

#[tokio::test]
async fn two_attempts_paid_for_one_order_pay_it_once() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let id = begun(&world, &token, 2).await?;
    // The first attempt is believed closed, so a second one begins; then both are paid.
    world.store.mark_payment_closed(&id).await?;
    c.call("wxPay", &token, json!({ "orderId": id })).await?.ok();
    for number in [id.clone(), format!("{id}P2")] {
        let paid = c.control("pay", json!({ "outTradeNo": number, "notify": "once" })).await?;
        assert_eq!(paid.body["noticeStatus"], 204, "{paid:?}");
    }
    let order = get(&world, &token, &id).await?;
    assert_eq!(
        (&order["status"], &order["paymentExceptions"][0]["kind"], &order["pointsEarned"]),
        (&json!("paid"), &json!("paidTwice"), &json!(1))
    );
    for _ in 0..2 {
        world.client.advance(600).await?;
        // Several processes deliver at once: each item has one deliverer.
        for run in join_all((0..6).map(|_| c.call_service("deliverOutbox", json!({})))).await {
            run?.ok();
        }
    }
    assert_eq!(get(&world, &token, &id).await?["paymentExceptions"][0]["status"], "refunded");
    let refunds: usize = world.sim.orders(&id).iter().map(|o| o.refunds.len()).sum();
    assert_eq!(refunds, 1);
    world.finish().await
}

#[tokio::test]
async fn an_upstream_that_lies_or_fails_decides_nothing() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let id = c.call("submitOrder", &token, order_of("p-apple", 1)).await?.text("orderId");
    for mode in ["500", "reset", "badSignature"] {
        c.control("faults", json!({ "target": "wxpay", "mode": mode, "count": 4 })).await?;
        let answer = c.call("wxPay", &token, json!({ "orderId": id })).await?;
        answer.refused(502, "UPSTREAM_ERROR");
        assert_eq!(answer.body["retryable"], true);
        c.control("faults", json!({ "target": "wxpay", "mode": mode, "count": 0 })).await?;
    }
    c.call("wxPay", &token, json!({ "orderId": id })).await?.ok();
    // Paid, but every answer about it is unproven: cancelling must not believe anything.
    c.pay(&id, "none").await?;
    c.control("faults", json!({ "target": "wxpay", "mode": "badSignature", "count": 10 })).await?;
    c.call("orders", &token, json!({ "action": "cancel", "orderId": id })).await?.refused(502, "UPSTREAM_ERROR");
    assert_eq!(get(&world, &token, &id).await?["status"], "pendingPayment");
    c.control("faults", json!({ "target": "wxpay", "mode": "badSignature", "count": 0 })).await?;
    c.call("orders", &token, json!({ "action": "cancel", "orderId": id })).await?.refused(409, "ORDER_STATE_INVALID");
    assert_eq!(get(&world, &token, &id).await?["status"], "paid");
    world.finish().await
}
