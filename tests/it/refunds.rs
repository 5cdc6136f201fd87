//! After-sale: what was paid comes back, piece by piece, once, and to where it came from.

use it::{Answer, World, order_of};
use serde_json::{Value, json};

/// An order that is paid: through WeChat as far as something is left for it.
pub(crate) async fn paid(world: &World, token: &str, event: Value) -> anyhow::Result<String> {
    let made = world.client.call("submitOrder", token, event).await?;
    let id = made.ok()["orderId"].as_str().unwrap().to_owned();
    if made.body["status"] != "paid" {
        world.client.call("wxPay", token, json!({ "orderId": id })).await?.ok();
        assert_eq!(world.client.pay(&id, "once").await?.body["noticeStatus"], 204);
    }
    Ok(id)
}

pub(crate) async fn apply(world: &World, token: &str, order: &str, more: Value) -> anyhow::Result<Answer> {
    let mut event = json!({ "action": "apply", "orderId": order, "reason": "不想要了" });
    event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    world.client.call("refunds", token, event).await
}

/// Asks for a refund and returns its id.
pub(crate) async fn applied(world: &World, token: &str, order: &str, more: Value) -> anyhow::Result<String> {
    Ok(apply(world, token, order, more).await?.ok()["refund"]["refundId"].as_str().unwrap().to_owned())
}

/// What the shop does, as its server.
pub(crate) async fn shop(world: &World, action: &str, refund: &str, more: Value) -> anyhow::Result<Answer> {
    let mut event = json!({ "action": action, "refundId": refund });
    event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    world.client.call_service("refunds", event).await
}

pub(crate) async fn get(world: &World, token: &str, refund: &str) -> anyhow::Result<Value> {
    let got = world.client.call("refunds", token, json!({ "action": "get", "refundId": refund })).await?;
    Ok(got.ok()["refund"].clone())
}

pub(crate) async fn order(world: &World, token: &str, id: &str) -> anyhow::Result<Value> {
    let mut got = world.client.call("orders", token, json!({ "action": "get", "orderId": id })).await?.ok().clone();
    got.as_object_mut().unwrap().remove("requestId");
    Ok(got)
}

/// Lets WeChat finish what it was asked for.
pub(crate) async fn deliver(world: &World) -> anyhow::Result<()> {
    for _ in 0..3 {
        world.client.timer("deliverOutbox").await?;
        world.client.advance(70).await?;
    }
    Ok(())
}

/// Asks for these pieces, approves and has WeChat finish it.
pub(crate) async fn refunded(world: &World, token: &str, order: &str, more: Value) -> anyhow::Result<Value> {
    let id = applied(world, token, order, more).await?;
    shop(world, "approve", &id, json!({})).await?.ok();
    deliver(world).await?;
    let refund = get(world, token, &id).await?;
    assert_eq!(refund["status"], "refunded", "{refund}");
    Ok(refund)
}

pub(crate) async fn ship(world: &World, order: &str) -> anyhow::Result<Answer> {
    let event = json!({ "action": "ship", "orderId": order, "logistics": "pickup" });
    world.client.call_service("orders", event).await
}

pub(crate) fn item(line: i64, quantity: i64) -> Value {
    json!([{ "lineId": line.to_string(), "quantity": quantity }])
}

/// The fen that the simulated WeChat has given back.
pub(crate) fn given_back(world: &World) -> i64 {
    world.sim.orders("").iter().flat_map(|o| &o.refunds).map(|r| r.refund_fen).sum()
}

#[tokio::test]
async fn an_unshipped_order_comes_back_line_by_line() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.client.login("alice").await?;
    let mut event = order_of("p-apple", 3);
    event["items"] = json!([{ "productId": "p-apple", "quantity": 3 }, { "productId": "p-eggs", "quantity": 1 }]);
    let id = paid(&world, &token, event).await?;
    assert_eq!((world.stock("p-apple").await?, world.stock("p-eggs").await?), (997, 299));

    let refund = applied(&world, &token, &id, json!({ "items": item(1, 2) })).await?;
    assert_eq!(refund, format!("{id}-R1"));
    let seen = get(&world, &token, &refund).await?;
    assert_eq!(
        (&seen["status"], &seen["amount"], &seen["paymentAmount"]),
        (&json!("applied"), &json!(100), &json!(100))
    );
    assert_eq!(order(&world, &token, &id).await?["refundState"], "applied");

    let done = shop(&world, "approve", &refund, json!({})).await?;
    assert_eq!(done.ok()["refund"]["status"], "refunding");
    // What is ours is back at once, WeChat's part is on its way.
    assert_eq!(world.stock("p-apple").await?, 999);
    let again = shop(&world, "approve", &refund, json!({})).await?;
    assert_eq!((&again.ok()["replayed"], &again.body["refund"]["status"]), (&json!(true), &json!("refunding")));
    deliver(&world).await?;
    assert_eq!(get(&world, &token, &refund).await?["status"], "refunded");
    let seen = order(&world, &token, &id).await?;
    assert_eq!((&seen["refundState"], &seen["refunds"][0]["amount"]), (&json!("partial"), &json!(100)));

    // What is left, all at once; a second one for the same pieces is refused.
    apply(&world, &token, &id, json!({ "items": item(1, 2) })).await?.refused(400, "INVALID_ARGUMENT");
    let rest = refunded(&world, &token, &id, json!({})).await?;
    let total = world.sim.orders("")[0].total_fen;
    assert_eq!(given_back(&world), total, "{rest}");
    assert_eq!(order(&world, &token, &id).await?["refundState"], "refunded");
    assert_eq!((world.stock("p-apple").await?, world.stock("p-eggs").await?), (1000, 300));
    apply(&world, &token, &id, json!({})).await?.refused(409, "ORDER_STATE_INVALID");
    ship(&world, &id).await?.refused(409, "ORDER_STATE_INVALID");
    world.finish().await
}

#[tokio::test]
async fn goods_that_come_back_go_on_the_shelf_and_goods_that_stay_do_not() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.client.login("alice").await?;
    let id = paid(&world, &token, order_of("p-apple", 3)).await?;
    apply(&world, &token, &id, json!({ "type": "returnGoods" })).await?.refused(400, "INVALID_ARGUMENT");
    ship(&world, &id).await?.ok();
    // One that the buyer keeps: money alone.
    let kept = refunded(&world, &token, &id, json!({ "items": item(1, 1), "amount": 20 })).await?;
    assert_eq!((&kept["amount"], &kept["dueAmount"], &kept["restocked"]), (&json!(20), &json!(50), &json!(false)));
    assert_eq!(world.stock("p-apple").await?, 997);
    // Two that come back.
    let refund = applied(&world, &token, &id, json!({ "type": "returnGoods" })).await?;
    let parcel = json!({ "action": "shipBack", "refundId": refund, "expressCompany": "SF", "trackingNo": "SF123" });
    world.client.call("refunds", &token, parcel.clone()).await?.refused(409, "ORDER_STATE_INVALID");
    let agreed = shop(&world, "approve", &refund, json!({ "remark": "请寄回" })).await?;
    assert_eq!(agreed.ok()["refund"]["status"], "returning");
    let sent = world.client.call("refunds", &token, parcel.clone()).await?;
    assert_eq!(sent.ok()["refund"]["status"], "shippedBack");
    assert_eq!(world.client.call("refunds", &token, parcel).await?.ok()["replayed"], true);
    let other = json!({ "action": "shipBack", "refundId": refund, "expressCompany": "SF", "trackingNo": "SF999" });
    world.client.call("refunds", &token, other).await?.refused(409, "ORDER_STATE_INVALID");
    let withdraw = json!({ "action": "withdraw", "refundId": refund });
    world.client.call("refunds", &token, withdraw).await?.refused(409, "ORDER_STATE_INVALID");
    shop(&world, "receive", &refund, json!({})).await?.ok();
    assert_eq!(shop(&world, "receive", &refund, json!({})).await?.ok()["replayed"], true);
    assert_eq!(world.stock("p-apple").await?, 999);
    deliver(&world).await?;
    let seen = get(&world, &token, &refund).await?;
    assert_eq!((&seen["status"], &seen["amount"]), (&json!("refunded"), &json!(100)));
    let walk: Vec<&str> = seen["timeline"].as_array().unwrap().iter().map(|m| m["status"].as_str().unwrap()).collect();
    assert_eq!(walk, ["applied", "returning", "shippedBack", "approved", "refunding", "refunded"]);
    // What was withheld of the first piece stays with the shop.
    assert_eq!(given_back(&world), 12_000);
    world.finish().await
}

#[tokio::test]
async fn refunds_are_ones_own_and_staff_decide() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let (alice, bob) = (c.login("alice").await?, c.login("bob").await?);
    let now = world.app.clock.now();
    let staff = |permission: &str| {
        let permissions = [permission.to_owned()];
        world.app.issue_staff_token("lily", &permissions, chrono::TimeDelta::hours(1), now).map(|(token, _)| token)
    };
    let (lily, other) = (staff("refunds")?, staff("orders")?);
    let id = paid(&world, &alice, order_of("p-apple", 4)).await?;
    apply(&world, &bob, &id, json!({})).await?.refused(403, "FORBIDDEN");
    apply(&world, &other, &id, json!({})).await?.refused(403, "FORBIDDEN");
    apply(&world, "", &id, json!({})).await?.refused(401, "UNAUTHENTICATED");
    c.call_service("refunds", json!({ "action": "apply", "orderId": id, "reason": "x" }))
        .await?
        .refused(403, "FORBIDDEN");
    let refund = applied(&world, &alice, &id, json!({ "items": item(1, 1) })).await?;
    for action in ["get", "withdraw"] {
        let event = json!({ "action": action, "refundId": refund });
        c.call("refunds", &bob, event).await?.refused(403, "FORBIDDEN");
    }
    let parcel = json!({ "action": "shipBack", "refundId": refund, "expressCompany": "SF", "trackingNo": "1" });
    c.call("refunds", &bob, parcel).await?.refused(403, "FORBIDDEN");
    for action in ["approve", "reject", "receive", "retry", "settle"] {
        let event = json!({ "action": action, "refundId": refund, "reason": "x", "remark": "x" });
        c.call("refunds", &alice, event).await?.refused(403, "FORBIDDEN");
    }
    c.call("refunds", &bob, json!({ "action": "list", "orderId": id })).await?.refused(403, "FORBIDDEN");
    let list = async |token: &str, more: Value| -> anyhow::Result<usize> {
        let mut event = json!({ "action": "list" });
        event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Ok(c.call("refunds", token, event).await?.ok()["data"].as_array().unwrap().len())
    };
    assert_eq!((list(&alice, json!({})).await?, list(&bob, json!({})).await?), (1, 0));
    assert_eq!(list(&lily, json!({ "status": "applied" })).await?, 1);
    assert_eq!(list(&lily, json!({ "orderId": id, "status": "refunded" })).await?, 0);

    // Staff say no; the pieces are free again. The buyer takes the next one back.
    let no = json!({ "action": "reject", "refundId": refund, "reason": "已开封" });
    assert_eq!(c.call("refunds", &lily, no.clone()).await?.ok()["refund"]["status"], "rejected");
    assert_eq!(c.call("refunds", &lily, no).await?.ok()["replayed"], true);
    shop(&world, "approve", &refund, json!({})).await?.refused(409, "ORDER_STATE_INVALID");
    let seen = get(&world, &alice, &refund).await?;
    assert_eq!((&seen["timeline"][1]["by"], &seen["timeline"][1]["remark"]), (&json!("shop"), &json!("已开封")));
    assert!(order(&world, &alice, &id).await?.get("refundState").is_none());
    let second = applied(&world, &alice, &id, json!({})).await?;
    let back = json!({ "action": "withdraw", "refundId": second });
    assert_eq!(c.call("refunds", &alice, back.clone()).await?.ok()["refund"]["status"], "withdrawn");
    assert_eq!(c.call("refunds", &alice, back).await?.ok()["replayed"], true);

    // Staff ask for the buyer, and give less than is due.
    let third = applied(&world, &lily, &id, json!({ "items": item(1, 2) })).await?;
    let most = json!({ "action": "approve", "refundId": third, "amount": 100.01 });
    let refused = c.call("refunds", &lily, most).await?;
    refused.refused(400, "INVALID_ARGUMENT");
    assert_eq!(refused.body["details"]["max"], "100.00");
    let some = json!({ "action": "approve", "refundId": third, "amount": 60 });
    assert_eq!(c.call("refunds", &lily, some.clone()).await?.ok()["refund"]["amount"], 60);
    assert_eq!(c.call("refunds", &lily, some).await?.ok()["replayed"], true);
    let otherwise = json!({ "action": "approve", "refundId": third, "amount": 70 });
    c.call("refunds", &lily, otherwise).await?.refused(409, "CONFLICT");
    deliver(&world).await?;
    let seen = get(&world, &lily, &third).await?;
    assert_eq!((&seen["status"], &seen["timeline"][1]["by"]), (&json!("refunded"), &json!("staff:lily")));

    for (event, field) in [
        (json!({ "action": "apply", "orderId": id }), "reason"),
        (json!({ "action": "apply", "reason": "x" }), "orderId"),
        (json!({ "action": "apply", "orderId": id, "reason": "x", "items": [] }), "items"),
        (json!({ "action": "apply", "orderId": id, "reason": "x", "items": item(9, 1) }), "items[0].lineId"),
        (json!({ "action": "apply", "orderId": id, "reason": "x", "items": item(1, 3) }), "items[0].quantity"),
        (json!({ "action": "apply", "orderId": id, "reason": "x", "amount": 1000 }), "amount"),
        (json!({ "action": "apply", "orderId": id, "reason": "x", "images": vec!["cloud://a/b.png"; 10] }), "images"),
        (json!({ "action": "apply", "orderId": id, "reason": "x", "images": ["javascript:alert(1)"] }), "images[0]"),
        (json!({ "action": "get", "refundId": "$ne" }), "refundId"),
        (json!({ "action": "get" }), "refundId"),
    ] {
        let answer = c.call("refunds", &alice, event).await?;
        answer.refused(400, "INVALID_ARGUMENT");
        assert_eq!(answer.body["details"]["field"], field, "{answer:?}");
    }
    c.call("refunds", &alice, json!({ "action": "get", "refundId": "NONE-R1" })).await?.refused(404, "NOT_FOUND");
    apply(&world, &alice, "20260101000000000AAAAAAAA", json!({})).await?.refused(404, "ORDER_NOT_FOUND");
    let unpaid = c.call("submitOrder", &alice, order_of("p-apple", 1)).await?.text("orderId");
    apply(&world, &alice, &unpaid, json!({})).await?.refused(409, "ORDER_STATE_INVALID");
    world.finish().await
}

#[tokio::test]
async fn one_request_id_is_one_refund() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.client.login("alice").await?;
    let id = paid(&world, &token, order_of("p-apple", 4)).await?;
    let more = json!({ "items": item(1, 1), "requestId": "refund-request-1" });
    let first = apply(&world, &token, &id, more.clone()).await?;
    let again = apply(&world, &token, &id, more).await?;
    assert_eq!((&again.ok()["refund"], &again.body["replayed"]), (&first.ok()["refund"], &json!(true)));
    let other = json!({ "items": item(1, 2), "requestId": "refund-request-1" });
    apply(&world, &token, &id, other).await?.refused(409, "IDEMPOTENCY_KEY_REUSED");
    world.finish().await
}

#[tokio::test]
async fn a_coupon_comes_back_once() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("demo").await?;
    crate::coupons::issue(&world, "cp", json!({ "validDays": 5 })).await?;
    let coupon = crate::coupons::claim(&world, &token, "cp").await?.text("userCouponId");
    let status = async || -> anyhow::Result<Value> {
        let mine = c.call("coupons", &token, json!({ "action": "mine" })).await?;
        Ok(mine.ok()["data"][0]["status"].clone())
    };
    let with_coupon = |quantity: i64| {
        let mut event = order_of("p-apple", quantity);
        event["userCouponId"] = json!(coupon);
        event
    };
    let id = paid(&world, &token, with_coupon(2)).await?;
    refunded(&world, &token, &id, json!({ "items": item(1, 1) })).await?;
    assert_eq!(status().await?, "used", "a part is no reason");
    let last = refunded(&world, &token, &id, json!({})).await?;
    assert_eq!((&last["couponReturned"], status().await?), (&json!(true), json!("unused")));
    // It pays again, and what is said again of the first order does not free it.
    let second = paid(&world, &token, with_coupon(2)).await?;
    let number = last["refundId"].as_str().unwrap();
    c.control("refund", json!({ "outRefundNo": number, "notify": "duplicate" })).await?.ok();
    shop(&world, "approve", number, json!({})).await?.ok();
    assert_eq!(status().await?, "used");
    // Once it is shipped it is used up.
    ship(&world, &second).await?.ok();
    let kept = refunded(&world, &token, &second, json!({})).await?;
    assert_eq!((&kept["couponReturned"], status().await?), (&json!(false), json!("used")));
    world.finish().await
}

#[tokio::test]
async fn a_shop_may_keep_coupons_used() -> anyhow::Result<()> {
    let world = World::start_with(|config| config.rules.coupon_return = false).await?;
    let token = world.client.login("demo").await?;
    crate::coupons::issue(&world, "cp", json!({})).await?;
    let coupon = crate::coupons::claim(&world, &token, "cp").await?.text("userCouponId");
    let mut event = order_of("p-apple", 1);
    event["userCouponId"] = json!(coupon);
    let id = paid(&world, &token, event).await?;
    assert_eq!(refunded(&world, &token, &id, json!({})).await?["couponReturned"], false);
    world.finish().await
}

#[tokio::test]
async fn a_late_notice_does_not_reopen_a_refunded_order() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let id = paid(&world, &token, order_of("p-apple", 2)).await?;
    let refund = refunded(&world, &token, &id, json!({})).await?;
    let before = (order(&world, &token, &id).await?, world.stock("p-apple").await?);
    for notify in ["once", "duplicate"] {
        assert_eq!(c.pay(&id, notify).await?.body["noticeStatus"], 204);
    }
    c.call("wxPay", &token, json!({ "orderId": id, "action": "query" })).await?.ok();
    let number = refund["refundId"].as_str().unwrap();
    c.control("refund", json!({ "outRefundNo": number, "notify": "duplicate" })).await?.ok();
    world.settle_down().await?;
    assert_eq!((order(&world, &token, &id).await?, world.stock("p-apple").await?), before);
    ship(&world, &id).await?.refused(409, "ORDER_STATE_INVALID");
    world.finish().await
}

#[tokio::test]
async fn what_is_asked_back_is_decided_before_the_rest_is_shipped() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.client.login("alice").await?;
    let id = paid(&world, &token, order_of("p-apple", 3)).await?;
    let stock = world.stock("p-apple").await?;
    let first = applied(&world, &token, &id, json!({ "items": item(1, 1) })).await?;
    let second = applied(&world, &token, &id, json!({ "items": item(1, 1) })).await?;
    let undecided = ship(&world, &id).await?;
    undecided.refused(409, "ORDER_STATE_INVALID");
    assert_eq!(undecided.body["details"]["reason"], "REFUND_UNDECIDED");
    shop(&world, "approve", &first, json!({})).await?.ok();
    ship(&world, &id).await?.refused(409, "ORDER_STATE_INVALID");
    shop(&world, "reject", &second, json!({ "reason": "已拣货" })).await?.ok();
    ship(&world, &id).await?.ok();
    // The piece that was decided before is for sale again, the others are on their way.
    assert_eq!(world.stock("p-apple").await?, stock + 1);
    deliver(&world).await?;
    world.finish().await
}

#[tokio::test]
async fn goods_that_are_brought_back_are_received_without_a_parcel() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.client.login("alice").await?;
    let id = paid(&world, &token, order_of("p-apple", 2)).await?;
    ship(&world, &id).await?.ok();
    let stock = world.stock("p-apple").await?;
    let refund = applied(&world, &token, &id, json!({ "type": "returnGoods" })).await?;
    shop(&world, "receive", &refund, json!({})).await?.refused(409, "ORDER_STATE_INVALID");
    shop(&world, "approve", &refund, json!({})).await?.ok();
    let received = shop(&world, "receive", &refund, json!({})).await?;
    assert_eq!((&received.ok()["refund"]["restocked"], world.stock("p-apple").await?), (&json!(true), stock + 2));
    deliver(&world).await?;
    world.finish().await
}

#[tokio::test]
async fn a_year_after_the_payment_only_the_shop_may_begin() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.client.login("alice").await?;
    let id = paid(&world, &token, order_of("p-apple", 1)).await?;
    deliver(&world).await?;
    world.client.advance(366 * 86_400).await?;
    let token = world.client.login("alice").await?;
    apply(&world, &token, &id, json!({})).await?.refused(409, "ORDER_STATE_INVALID");
    let now = world.app.clock.now();
    let staff = world.app.issue_staff_token("lily", &["refunds".to_owned()], chrono::TimeDelta::hours(1), now)?.0;
    let refund = applied(&world, &staff, &id, json!({})).await?;
    shop(&world, "approve", &refund, json!({})).await?.ok();
    deliver(&world).await?;
    let seen = get(&world, &staff, &refund).await?;
    assert_eq!((&seen["status"], &seen["failure"]["reason"]), (&json!("failed"), &json!("REFUND_TOO_LATE")));
    // WeChat was never asked; the shop gives the money another way.
    assert_eq!(given_back(&world), 0);
    let settled = shop(&world, "settle", &refund, json!({ "remark": "转账 50 元" })).await?;
    assert_eq!(
        (&settled.ok()["refund"]["status"], &settled.body["refund"]["settledElsewhere"]),
        (&json!("refunded"), &json!(true))
    );
    assert_eq!(shop(&world, "settle", &refund, json!({ "remark": "转账 50 元" })).await?.ok()["replayed"], true);
    world.finish().await
}

#[tokio::test]
async fn a_completed_order_can_be_refunded_for_some_days() -> anyhow::Result<()> {
    use bson::{DateTime, doc};
    let world = World::start().await?;
    let token = world.client.login("alice").await?;
    let id = paid(&world, &token, order_of("p-apple", 2)).await?;
    ship(&world, &id).await?.ok();
    let db = crate::audit::database(&world).await?;
    let done = doc! { "$set": { "status": "completed", "completedAt": DateTime::from_chrono(world.app.clock.now()) } };
    db.collection::<bson::Document>("orders").update_one(doc! { "_id": &id }, done).await?;
    deliver(&world).await?;
    world.client.advance(14 * 86_400).await?;
    let token = world.client.login("alice").await?;
    refunded(&world, &token, &id, json!({ "items": item(1, 1) })).await?;
    world.client.advance(86_400).await?;
    let token = world.client.login("alice").await?;
    apply(&world, &token, &id, json!({})).await?.refused(409, "ORDER_STATE_INVALID");
    world.finish().await
}

#[tokio::test]
async fn the_buyer_is_told_once_that_the_money_is_back() -> anyhow::Result<()> {
    let world = crate::events::world().await?;
    let token = world.client.login("demo").await?;
    crate::events::agree(&world, "demo", "orderRefunded", 5).await?;
    let id = paid(&world, &token, order_of("p-apple", 2)).await?;
    let refund = applied(&world, &token, &id, json!({ "items": item(1, 1) })).await?;
    shop(&world, "approve", &refund, json!({})).await?.ok();
    let key = format!("message:order:{id}:refund:{refund}");
    assert!(world.store.outbox_item(&key).await?.is_none(), "nobody is told before WeChat says so");
    deliver(&world).await?;
    let number = json!({ "outRefundNo": refund, "notify": "duplicate" });
    world.client.control("refund", number).await?.ok();
    let told = world.store.outbox_item(&key).await?.unwrap();
    let payload: Value = serde_json::from_str(&told.payload)?;
    assert_eq!((&payload["values"]["amount"], &payload["values"]["reason"]), (&json!("50.00元"), &json!("不想要了")));
    // What comes back without WeChat is told, too.
    let mut event = order_of("p-apple", 1);
    event["paymentMethod"] = json!("balance");
    let second = paid(&world, &token, event).await?;
    let refund = applied(&world, &token, &second, json!({})).await?;
    shop(&world, "approve", &refund, json!({})).await?.ok();
    assert!(world.store.outbox_item(&format!("message:order:{second}:refund:{refund}")).await?.is_some());
    world.finish().await
}

#[tokio::test]
async fn what_a_right_bought_goes_back_to_the_shelf() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.client.login("winner").await?;
    let right = crate::right::win(&world.client, &token, 1, world.app.clock.now()).await?;
    let stock = world.stock("p-lottery").await?;
    let mut event = order_of("p-lottery", 1);
    event["qualificationId"] = json!(right);
    let id = paid(&world, &token, event).await?;
    assert_eq!(world.stock("p-lottery").await?, stock);
    refunded(&world, &token, &id, json!({})).await?;
    assert_eq!(world.stock("p-lottery").await?, stock + 1);
    let found = world.store.qualification(&right).await?.and_then(|q| q.order_id);
    assert_eq!(found.map(|o| o.as_str().to_owned()), Some(id), "the right is used up");
    world.finish().await
}

#[tokio::test]
async fn pieces_of_an_sku_go_back_to_that_sku() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.client.login("alice").await?;
    let mut event = order_of("p-tea", 1);
    event["items"] = json!([{ "productId": "p-tea", "skuId": "s-grade2", "quantity": 3 }]);
    let skus = async || -> anyhow::Result<Vec<i64>> {
        let tea = world.store.product(&domain::ProductId::parse("p-tea")?).await?.unwrap();
        Ok(tea.skus.iter().map(|sku| sku.stock).collect())
    };
    let before = skus().await?;
    let id = paid(&world, &token, event).await?;
    refunded(&world, &token, &id, json!({ "items": item(1, 2) })).await?;
    let left: Vec<i64> = before.iter().zip(skus().await?).map(|(before, now)| before - now).collect();
    assert_eq!(left.iter().sum::<i64>(), 1);
    refunded(&world, &token, &id, json!({})).await?;
    assert_eq!((skus().await?, given_back(&world)), (before, world.sim.orders("")[0].total_fen));
    world.finish().await
}
