//! Money that fits no order and that WeChat could not give back: staff have it tried again, or give it back another way, once.

use bson::doc;
use it::{Answer, World, order_of};
use serde_json::{Value, json};
use simulators::{LegacyMode, LegacyRefund};

use crate::audit::{Edit, apply, database, undo};

/// A payment that fits no order: the order, and its exception as staff see it.
pub(crate) async fn misfit(world: &World, token: &str) -> anyhow::Result<(String, Value)> {
    let c = &world.client;
    let order = c.call("submitOrder", token, order_of("p-apple", 1)).await?.text("orderId");
    c.call("wxPay", token, json!({ "orderId": order })).await?.ok();
    assert_eq!(c.pay(&order, "wrongAppid").await?.body["noticeStatus"], 204);
    let id = world.store.exceptions_of(&domain::OrderId::parse(&order)?).await?[0].id.clone();
    Ok((order, exception(world, &id).await?))
}

async fn exception(world: &World, id: &str) -> anyhow::Result<Value> {
    let list = world.client.call_service("exceptions", json!({ "action": "list", "limit": 100 })).await?;
    let rows = list.ok()["data"].as_array().unwrap().clone();
    Ok(rows.into_iter().find(|row| row["exceptionId"] == id).unwrap())
}

async fn act(world: &World, action: &str, of: &Value, more: Value) -> anyhow::Result<Answer> {
    let mut event = json!({ "action": action, "exceptionId": of["exceptionId"] });
    event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    world.client.call("exceptions", &world.staff("orders")?, event).await
}

async fn ends(world: &World, of: &Value, status: &str, notify: &str) -> anyhow::Result<()> {
    let event = json!({ "outRefundNo": of["outRefundNo"], "status": status, "notify": notify });
    world.client.control("refund", event).await?.ok();
    Ok(())
}

async fn status(world: &World, of: &Value) -> anyhow::Result<Value> {
    Ok(exception(world, of["exceptionId"].as_str().unwrap()).await?["status"].clone())
}

#[tokio::test]
async fn what_wechat_refused_is_tried_again_under_its_number() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let refused = json!({ "target": "wxpay", "path": "/v3/refund/domestic/refunds", "mode": "errcode",
        "errcode": "USER_ACCOUNT_ABNORMAL", "count": 1 });
    c.control("faults", refused).await?;
    let (order, failed) = misfit(&world, &token).await?;
    assert_eq!(failed["status"], "refundFailed");
    // Nothing says that it went back.
    act(&world, "resolve", &failed, json!({ "remark": "已处理" })).await?.refused(409, "CONFLICT");
    act(&world, "settle", &failed, json!({ "remark": " " })).await?.refused(400, "INVALID_ARGUMENT");
    let user = c.call("exceptions", &token, json!({ "action": "retry", "exceptionId": failed["exceptionId"] })).await?;
    user.refused(403, "FORBIDDEN");
    let key = json!({ "requestId": "retry-0001" });
    let again = act(&world, "retry", &failed, key.clone()).await?;
    assert_eq!(
        (&again.ok()["exception"]["status"], &again.body["exception"]["resolvedAt"]),
        (&json!("refunding"), &Value::Null)
    );
    assert_eq!(act(&world, "retry", &failed, key.clone()).await?.ok()["replayed"], true);
    for _ in 0..2 {
        c.advance(120).await?;
        c.timer("deliverOutbox").await?.ok();
    }
    assert_eq!(status(&world, &failed).await?, "refunded");
    assert_eq!(act(&world, "retry", &failed, key).await?.ok()["replayed"], true);
    act(&world, "retry", &failed, json!({})).await?.refused(409, "CONFLICT");
    act(&world, "settle", &failed, json!({ "remark": "转账" })).await?.refused(409, "CONFLICT");
    let refunds = &world.sim.orders(&order)[0].refunds;
    assert_eq!((refunds.len(), &json!(refunds[0].out_refund_no)), (1, &failed["outRefundNo"]));
    world.finish().await
}

#[tokio::test]
async fn what_is_given_back_another_way_is_asked_for_first_and_given_once() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let (order, failed) = misfit(&world, &token).await?;
    act(&world, "settle", &failed, json!({ "remark": "转账" })).await?.refused(409, "CONFLICT");
    ends(&world, &failed, "ABNORMAL", "once").await?;
    assert_eq!(status(&world, &failed).await?, "refundFailed");
    // The same number would end the same way.
    act(&world, "retry", &failed, json!({})).await?.refused(409, "ORDER_STATE_INVALID");
    c.control("faults", json!({ "target": "wxpay", "mode": "500", "count": 9 })).await?;
    act(&world, "settle", &failed, json!({ "remark": "转账" })).await?.refused(502, "UPSTREAM_ERROR");
    c.control("faults", json!({ "target": "wxpay", "mode": "500", "count": 0 })).await?;
    let settle = json!({ "remark": "转账 50 元", "requestId": "settle-0001" });
    let settled = act(&world, "settle", &failed, settle.clone()).await?;
    let seen = &settled.ok()["exception"];
    assert_eq!(
        (&seen["status"], &seen["resolvedBy"], &seen["remark"]),
        (&json!("resolved"), &json!("staff:lily"), &json!("转账 50 元"))
    );
    assert_eq!(act(&world, "settle", &failed, settle).await?.ok()["replayed"], true);
    for action in ["settle", "resolve", "retry"] {
        act(&world, action, &failed, json!({ "remark": "再来" })).await?.refused(409, "CONFLICT");
    }
    assert!(world.violations().await?.is_empty());
    // Staff repair it in the portal all the same: that is told, once, and nothing is undone.
    for _ in 0..2 {
        ends(&world, &failed, "SUCCESS", "duplicate").await?;
    }
    assert_eq!(status(&world, &failed).await?, "resolved");
    let twice = c.call_service("exceptions", json!({ "action": "list", "kind": "refundedTwice" })).await?;
    let rows = twice.ok()["data"].as_array().unwrap();
    assert_eq!(
        (rows.len(), &rows[0]["status"], &rows[0]["outRefundNo"]),
        (1, &json!("manual"), &failed["outRefundNo"])
    );
    act(&world, "resolve", &rows[0], json!({ "remark": "已追回" })).await?.ok();
    let view = c.call("orders", &token, json!({ "action": "get", "orderId": order })).await?;
    assert_eq!(view.ok()["paymentExceptions"].as_array().unwrap().len(), 2);

    // One that got through after all, its notice lost.
    let (_, failed) = misfit(&world, &token).await?;
    ends(&world, &failed, "ABNORMAL", "once").await?;
    ends(&world, &failed, "SUCCESS", "none").await?;
    act(&world, "settle", &failed, json!({ "remark": "转账" })).await?.refused(409, "ORDER_STATE_INVALID");
    assert_eq!(status(&world, &failed).await?, "refunded");
    c.timer("deliverOutbox").await?;
    world.finish().await
}

#[tokio::test]
async fn what_the_portal_gave_back_is_resolved() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let (order, failed) = misfit(&world, &token).await?;
    ends(&world, &failed, "CLOSED", "once").await?;
    let out_trade_no = world.sim.orders(&order)[0].out_trade_no.clone();
    for (fen, done) in [(2000, false), (3000, true)] {
        c.advance(61).await?;
        let by_hand = LegacyRefund {
            out_trade_no: Some(out_trade_no.clone()),
            refund_fen: Some(fen),
            notify: Some(LegacyMode::Once),
            ..LegacyRefund::default()
        };
        world.sim.legacy_refund(&by_hand).await.map_err(|refused| anyhow::anyhow!("{refused:?}"))?;
        let answer = act(&world, "resolve", &failed, json!({ "remark": "已在商户平台退款" })).await?;
        match done {
            false => answer.refused(409, "CONFLICT"),
            true => assert_eq!(answer.ok()["exception"]["status"], "resolved"),
        }
    }
    world.finish().await
}

#[tokio::test]
async fn the_audit_sees_damage_to_what_was_settled() -> anyhow::Result<()> {
    let world = World::start().await?;
    let db = database(&world).await?;
    let token = world.client.login("alice").await?;
    let (_, failed) = misfit(&world, &token).await?;
    ends(&world, &failed, "ABNORMAL", "once").await?;
    act(&world, "settle", &failed, json!({ "remark": "转账" })).await?.ok();
    assert!(world.violations().await?.is_empty(), "nothing is damaged yet");
    let id = failed["exceptionId"].as_str().unwrap().to_owned();
    let entry = format!("refund:{}:elsewhere", failed["outRefundNo"].as_str().unwrap());
    for (name, edit) in [
        ("never given", Edit::Update("paymentExceptions", id.clone(), doc! { "$unset": { "settledElsewhere": "" } })),
        ("given and failed", Edit::Update("paymentExceptions", id, doc! { "$set": { "status": "refundFailed" } })),
        ("given and not booked", Edit::Delete("ledger", entry)),
    ] {
        let step = apply(&db, &edit).await?;
        let report = world.store.audit(world.app.clock.now()).await?;
        assert!(report.violations.iter().any(|v| v.invariant == "payment"), "{name}: {:?}", report.violations);
        undo(&db, step).await?;
    }
    world.finish().await
}
