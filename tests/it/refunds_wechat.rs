//! WeChat's part of a refund: one number through every doubt, a new one only after CLOSED, and nobody paid twice.

use futures_util::future::join_all;
use it::{World, order_of};
use serde_json::{Value, json};

use crate::refunds::{applied, deliver, get, given_back, item, order, paid, shop};

/// The numbers that the simulated WeChat knows.
fn numbers(world: &World) -> Vec<String> {
    world.sim.orders("").iter().flat_map(|o| &o.refunds).map(|r| r.out_refund_no.clone()).collect()
}

async fn fault(world: &World, path: &str, mode: &str, errcode: Option<&str>, count: u32) -> anyhow::Result<()> {
    let mut event = json!({ "target": "wxpay", "path": path, "mode": mode, "count": count, "ms": 10 });
    if let Some(errcode) = errcode {
        event["errcode"] = json!(errcode);
    }
    assert_eq!(world.client.control("faults", event).await?.status, 200);
    Ok(())
}

/// WeChat cannot give it back, and says so.
async fn abnormal(world: &World, refund: &str) -> anyhow::Result<()> {
    world.client.timer("deliverOutbox").await?;
    let event = json!({ "outRefundNo": refund, "status": "ABNORMAL", "notify": "once" });
    world.client.control("refund", event).await?.ok();
    Ok(())
}

/// An approved refund of one of three boxes, which WeChat has not heard of.
async fn approved(world: &World, token: &str) -> anyhow::Result<(String, String)> {
    let id = paid(world, token, order_of("p-apple", 3)).await?;
    let refund = applied(world, token, &id, json!({ "items": item(1, 1) })).await?;
    shop(world, "approve", &refund, json!({})).await?.ok();
    Ok((id, refund))
}

const REFUNDS: &str = "/v3/refund/domestic/refunds";

#[tokio::test]
async fn refund_is_retried_under_its_own_number() -> anyhow::Result<()> {
    for (mode, errcode) in [
        ("dropAfterCommit", None),
        ("badSignature", None),
        ("500", None),
        ("429", None),
        ("reset", None),
        ("timeout", None),
        ("silence", None),
        ("errcode", Some("NOT_ENOUGH")),
        ("errcode", Some("SYSTEM_ERROR")),
    ] {
        let world = World::start().await?;
        let token = world.client.login("alice").await?;
        let (_, refund) = approved(&world, &token).await?;
        fault(&world, REFUNDS, mode, errcode, 2).await?;
        world.client.timer("deliverOutbox").await?;
        let seen = get(&world, &token, &refund).await?;
        assert_eq!(seen["status"], "refunding", "{mode}: {seen}");
        for _ in 0..6 {
            world.client.advance(70).await?;
            world.client.timer("deliverOutbox").await?;
        }
        assert_eq!(get(&world, &token, &refund).await?["status"], "refunded", "{mode}");
        assert_eq!((numbers(&world), given_back(&world)), (vec![refund], 5000), "{mode} {errcode:?}");
        world.finish().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_refusal_is_shown_to_staff_and_tried_again_under_the_same_number() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.client.login("alice").await?;
    let now = world.app.clock.now();
    let staff = world.app.issue_staff_token("lily", &["refunds".to_owned()], chrono::TimeDelta::hours(1), now)?.0;
    let (id, refund) = approved(&world, &token).await?;
    fault(&world, REFUNDS, "errcode", Some("USER_ACCOUNT_ABNORMAL"), 1).await?;
    world.client.timer("deliverOutbox").await?;
    let seen = get(&world, &staff, &refund).await?;
    assert_eq!((&seen["status"], &seen["failure"]["reason"]), (&json!("failed"), &json!("REFUND_REFUSED")));
    assert!(get(&world, &token, &refund).await?.get("failure").is_none(), "that is for staff");
    assert_eq!(order(&world, &token, &id).await?["refundState"], "applied");
    let again = shop(&world, "retry", &refund, json!({})).await?;
    assert_eq!(again.ok()["refund"]["status"], "refunding");
    assert_eq!(shop(&world, "retry", &refund, json!({})).await?.ok()["replayed"], true);
    deliver(&world).await?;
    assert_eq!(get(&world, &token, &refund).await?["status"], "refunded");
    assert_eq!(numbers(&world), [refund]);
    world.finish().await
}

#[tokio::test]
async fn only_a_closed_number_is_replaced() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let (_, refund) = approved(&world, &token).await?;
    c.timer("deliverOutbox").await?;
    let closed = json!({ "outRefundNo": refund, "status": "CLOSED", "notify": "duplicate" });
    assert_eq!(c.control("refund", closed).await?.body["noticeStatus"], 204);
    assert_eq!(get(&world, &token, &refund).await?["status"], "failed");
    let again = shop(&world, "retry", &refund, json!({})).await?;
    let second = again.ok()["refund"]["outRefundNo"].as_str().unwrap().to_owned();
    assert_eq!(second, format!("{refund}-2"));
    // A late repetition about the old number changes nothing.
    c.control("refund", json!({ "outRefundNo": refund, "notify": "once" })).await?;
    assert_eq!(get(&world, &token, &refund).await?["status"], "refunding");
    deliver(&world).await?;
    c.advance(120).await?;
    deliver(&world).await?;
    assert_eq!(get(&world, &token, &refund).await?["status"], "refunded");
    assert_eq!(numbers(&world), [refund, second]);
    world.finish().await
}

#[tokio::test]
async fn an_abnormal_refund_waits_for_staff_and_keeps_its_number() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let (_, refund) = approved(&world, &token).await?;
    abnormal(&world, &refund).await?;
    assert_eq!(get(&world, &token, &refund).await?["status"], "failed");
    // Tried again it is what it was.
    shop(&world, "retry", &refund, json!({})).await?.ok();
    deliver(&world).await?;
    assert_eq!(get(&world, &token, &refund).await?["status"], "failed");
    // Staff repair it in the portal, and WeChat tells.
    let repaired = json!({ "outRefundNo": refund, "status": "SUCCESS", "notify": "duplicate" });
    assert_eq!(c.control("refund", repaired).await?.body["noticeStatus"], 204);
    assert_eq!(get(&world, &token, &refund).await?["status"], "refunded");
    shop(&world, "settle", &refund, json!({ "remark": "转账" })).await?.refused(409, "ORDER_STATE_INVALID");
    assert_eq!((numbers(&world), given_back(&world)), (vec![refund], 5000));
    world.finish().await
}

#[tokio::test]
async fn what_staff_settle_is_asked_for_first() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let (_, refund) = approved(&world, &token).await?;
    // WeChat took it and the shop heard a refusal.
    abnormal(&world, &refund).await?;
    fault(&world, REFUNDS, "500", None, 2).await?;
    let settle = json!({ "remark": "转账 50 元" });
    shop(&world, "settle", &refund, settle.clone()).await?.refused(502, "UPSTREAM_ERROR");
    assert_eq!(get(&world, &token, &refund).await?["status"], "failed");
    // The notice got lost: it is back after all.
    let repaired = json!({ "outRefundNo": refund, "status": "SUCCESS", "notify": "none" });
    c.control("refund", repaired).await?.ok();
    shop(&world, "settle", &refund, settle).await?.refused(409, "ORDER_STATE_INVALID");
    let seen = get(&world, &token, &refund).await?;
    assert_eq!((&seen["status"], &seen["settledElsewhere"]), (&json!("refunded"), &json!(false)));
    world.finish().await
}

#[tokio::test]
async fn money_that_goes_back_a_second_time_is_recorded() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let (id, refund) = approved(&world, &token).await?;
    abnormal(&world, &refund).await?;
    shop(&world, "settle", &refund, json!({ "remark": "转账 50 元" })).await?.ok();
    let repaired = json!({ "outRefundNo": refund, "status": "SUCCESS", "notify": "duplicate" });
    c.control("refund", repaired).await?.ok();
    let seen = order(&world, &token, &id).await?;
    let kinds: Vec<&Value> = seen["paymentExceptions"].as_array().unwrap().iter().map(|e| &e["kind"]).collect();
    assert_eq!(kinds, [&json!("refundedTwice")]);
    assert_eq!(get(&world, &token, &refund).await?["settledElsewhere"], true);
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn notices_come_early_often_and_in_any_order() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let (id, refund) = approved(&world, &token).await?;
    // WeChat has it, its answer is lost, and the notice is there before anybody asks again.
    fault(&world, REFUNDS, "dropAfterCommit", None, 1).await?;
    c.timer("deliverOutbox").await?;
    let calls = (0..8).map(|_| {
        let (c, refund) = (c.clone(), refund.clone());
        async move { c.control("refund", json!({ "outRefundNo": refund, "notify": "duplicate" })).await }
    });
    for answer in join_all(calls).await {
        assert_eq!(answer?.body["noticeStatus"], 204);
    }
    assert_eq!(get(&world, &token, &refund).await?["status"], "refunded");
    for mode in ["tampered", "signtest", "wrongAmount"] {
        c.control("refund", json!({ "outRefundNo": refund, "notify": mode })).await?;
    }
    deliver(&world).await?;
    c.pay(&id, "duplicate").await?;
    let seen = order(&world, &token, &id).await?;
    assert_eq!(
        (&seen["status"], &seen["refundState"], &seen["paymentExceptions"]),
        (&json!("paid"), &json!("partial"), &json!([]))
    );
    assert_eq!((numbers(&world), world.store.outbox_pending().await?), (vec![refund], 0));
    world.finish().await
}

#[tokio::test]
async fn a_notice_of_another_amount_is_not_believed_before_wechat_says_so() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let (_, refund) = approved(&world, &token).await?;
    c.timer("deliverOutbox").await?;
    let wrong = json!({ "outRefundNo": refund, "notify": "wrongAmount" });
    assert_eq!(c.control("refund", wrong).await?.body["noticeStatus"], 204);
    assert_eq!(get(&world, &token, &refund).await?["status"], "refunded");
    world.finish().await
}

#[tokio::test]
async fn refunds_of_the_portal_are_recorded_once_wechat_confirms_them() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let id = paid(&world, &token, order_of("p-apple", 3)).await?;
    let portal = |more: Value| {
        let mut event = json!({ "outTradeNo": id, "refundFen": 1000 });
        event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        event
    };
    for (mode, status) in [("doctype", 400), ("wrongKey", 400)] {
        let answer = c.control("legacyRefund", portal(json!({ "notify": mode }))).await?;
        assert_eq!(answer.body["noticeStatus"], status, "{mode}: {answer:?}");
        assert!(answer.body["notices"][0]["body"].as_str().unwrap().contains("FAIL"), "{answer:?}");
        assert_eq!(order(&world, &token, &id).await?["paymentExceptions"], json!([]), "{mode}");
    }
    // What the notice claims is not what is recorded.
    let answer = c.control("legacyRefund", portal(json!({ "notify": "wrongAmount", "times": 2 }))).await?;
    assert_eq!(answer.body["noticeStatus"], 200, "{answer:?}");
    assert!(answer.body["notices"][0]["body"].as_str().unwrap().contains("SUCCESS"), "{answer:?}");
    let number = answer.text("outRefundNo");
    c.control("legacyRefund", json!({ "outRefundNo": number, "notify": "duplicate" })).await?.ok();
    let seen = order(&world, &token, &id).await?;
    let exceptions = seen["paymentExceptions"].as_array().unwrap();
    assert_eq!(exceptions.len(), 1, "{seen}");
    assert_eq!((&exceptions[0]["kind"], &exceptions[0]["amount"]), (&json!("portalRefund"), &json!(10)));
    assert!(seen.get("refundState").is_none());

    // Three portal refunds leave 120.00: a refund of ours within them works, and its notice may come in XML, too.
    c.advance(120).await?;
    let refund = applied(&world, &token, &id, json!({ "items": item(1, 1) })).await?;
    shop(&world, "approve", &refund, json!({})).await?.ok();
    c.timer("deliverOutbox").await?;
    let url = format!("{}/payCallback", c.base);
    let xml = json!({ "outRefundNo": refund, "notify": "duplicate", "url": url });
    assert_eq!(c.control("legacyRefund", xml).await?.body["noticeStatus"], 200);
    assert_eq!(get(&world, &token, &refund).await?["status"], "refunded");
    // What is not left any more is WeChat's to refuse, and staff see it.
    c.advance(120).await?;
    let rest = applied(&world, &token, &id, json!({})).await?;
    shop(&world, "approve", &rest, json!({})).await?.ok();
    deliver(&world).await?;
    assert_eq!(get(&world, &token, &rest).await?["status"], "failed");
    world.finish().await
}

#[tokio::test]
async fn without_the_old_key_xml_is_refused() -> anyhow::Result<()> {
    let world = World::start_with(|config| {
        if let Some(pay) = &mut config.pay {
            pay.api_v2_key = None;
        }
    })
    .await?;
    let token = world.client.login("alice").await?;
    let id = paid(&world, &token, order_of("p-apple", 1)).await?;
    let answer = world.client.control("legacyRefund", json!({ "outTradeNo": id, "refundFen": 1 })).await?;
    let status = answer.body["noticeStatus"].as_u64().unwrap();
    assert!((400..500).contains(&status), "{answer:?}");
    assert_eq!(order(&world, &token, &id).await?["paymentExceptions"], json!([]));
    world.finish().await
}

#[tokio::test]
async fn two_refunds_of_one_payment_go_a_minute_apart() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let id = paid(&world, &token, order_of("p-apple", 3)).await?;
    let mut refunds = Vec::new();
    for _ in 0..3 {
        let refund = applied(&world, &token, &id, json!({ "items": item(1, 1) })).await?;
        shop(&world, "approve", &refund, json!({})).await?.ok();
        refunds.push(refund);
    }
    for _ in 0..12 {
        c.timer("deliverOutbox").await?;
        c.advance(61).await?;
    }
    for refund in &refunds {
        assert_eq!(get(&world, &token, refund).await?["status"], "refunded");
    }
    let mut known = numbers(&world);
    known.sort();
    assert_eq!((known, given_back(&world)), (refunds, 15_000));
    world.finish().await
}

#[tokio::test]
async fn what_was_given_up_is_taken_up_again_by_staff() -> anyhow::Result<()> {
    use bson::{DateTime, Document, doc};
    let world = World::start().await?;
    let token = world.client.login("alice").await?;
    let (_, refund) = approved(&world, &token).await?;
    let db = crate::audit::database(&world).await?;
    let dead = doc! { "status": "dead", "reason": "ATTEMPTS_EXHAUSTED", "finishedAt": DateTime::from_chrono(world.app.clock.now()) };
    let filter = doc! { "_id": format!("afterSale:{refund}:1") };
    db.collection::<Document>("outbox").update_one(filter, doc! { "$set": dead }).await?;
    deliver(&world).await?;
    assert_eq!((get(&world, &token, &refund).await?["status"].clone(), given_back(&world)), (json!("refunding"), 0));
    assert!(shop(&world, "retry", &refund, json!({})).await?.ok().get("replayed").is_none());
    assert_eq!(shop(&world, "retry", &refund, json!({})).await?.ok()["replayed"], true);
    deliver(&world).await?;
    assert_eq!(
        (get(&world, &token, &refund).await?["status"].clone(), numbers(&world)),
        (json!("refunded"), vec![refund])
    );
    world.finish().await
}
