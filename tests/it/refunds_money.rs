//! Refunds of every tender: what comes back is what was paid, to the fen, however it is split.

use chrono::TimeDelta;
use it::{World, order_of};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::refunds::{applied, apply, deliver, get, given_back, item, order, paid, refunded, ship, shop};

async fn points(world: &World, token: &str) -> anyhow::Result<i64> {
    let answer = world.client.call("getUserPoints", token, json!({})).await?;
    Ok(answer.ok()["points"].as_i64().unwrap())
}

async fn balances(world: &World) -> anyhow::Result<Vec<i64>> {
    let records = world.store.all_prepaid_records(&domain::CustomerId::parse("c-lin")?).await?;
    Ok(records.iter().map(|r| r.balance).collect())
}

/// Everything of the member that an order moves.
async fn purse(world: &World) -> anyhow::Result<(i64, i64, i64, i64, Vec<i64>)> {
    let member = world.store.member(&domain::UserId::parse("u-lin")?).await?.unwrap();
    let (points, balance, carry) = (member.points.get(), member.balance.get(), member.carry_fen.get());
    Ok((points, balance, carry, member.points_owed, balances(world).await?))
}

/// Apples, eggs and honey with a coupon, points, prepaid boxes and prepaid money; WeChat pays what is left.
fn mixed(coupon: &str, request: usize) -> Value {
    let mut event = order_of("p-apple", 1);
    event["items"] = json!([
        { "productId": "p-apple", "quantity": 7 },
        { "productId": "p-eggs", "quantity": 3 },
        { "productId": "p-tea", "skuId": "s-grade2", "quantity": 2 },
    ]);
    for (field, value) in [
        ("paymentMethod", json!("prepaid")),
        ("prepaidAmount", json!(67.89)),
        ("pointsUsed", json!(7)),
        ("userCouponId", json!(coupon)),
        ("requestId", json!(format!("mixed-{request:04}"))),
    ] {
        event[field] = value;
    }
    event
}

#[tokio::test]
async fn any_split_of_refunds_gives_back_what_was_paid() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.linked_member().await?;
    crate::coupons::issue(&world, "cp", json!({ "off": 13.37, "validDays": 5 })).await?;
    let coupon = crate::coupons::claim(&world, &token, "cp").await?.text("userCouponId");
    let mut rng = StdRng::seed_from_u64(20_261_121);
    let before = (purse(&world).await?, world.stock("p-apple").await?, world.stock("p-tea").await?);
    let mut all = 0;
    for round in 0..5 {
        let id = paid(&world, &token, mixed(&coupon, round)).await?;
        let bought = order(&world, &token, &id).await?;
        let payment = world.sim.orders(&id)[0].total_fen;
        assert!(payment > 0 && balances(&world).await? != before.0.4, "{bought}");
        let mut left = [7i64, 3, 2];
        // The first round takes everything at once.
        while left.iter().any(|n| *n > 0) {
            let take = left.map(|n| if round == 0 { n } else { rng.random_range(0..=n) });
            let items: Vec<Value> =
                (1..).zip(take).filter(|(_, n)| *n > 0).map(|(l, n)| item(l, n)[0].clone()).collect();
            if items.is_empty() {
                continue;
            }
            if rng.random_bool(0.3) {
                // One that comes to nothing in between.
                let none = applied(&world, &token, &id, json!({ "items": items })).await?;
                shop(&world, "reject", &none, json!({ "reason": "请重新申请" })).await?.ok();
            }
            refunded(&world, &token, &id, json!({ "items": items })).await?;
            left.iter_mut().zip(take).for_each(|(n, taken)| *n -= taken);
        }
        all += payment;
        assert_eq!(given_back(&world), all, "round {round}");
        let after = (purse(&world).await?, world.stock("p-apple").await?, world.stock("p-tea").await?);
        assert_eq!(after, before, "round {round}");
        assert_eq!(order(&world, &token, &id).await?["refundState"], "refunded");
    }
    world.finish().await
}

#[tokio::test]
async fn partial_refund_of_a_discounted_order_restores_only_its_part() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.linked_member().await?;
    crate::coupons::issue(&world, "cp", json!({ "off": 20 })).await?;
    let coupon = crate::coupons::claim(&world, &token, "cp").await?.text("userCouponId");
    // Two boxes of 50.00 and a coupon of 20.00, four points, 30.00 of prepaid money: 46.00 through WeChat.
    let mut event = order_of("p-apple", 2);
    for (field, value) in [
        ("paymentMethod", json!("prestore")),
        ("prepaidAmount", json!(30)),
        ("pointsUsed", json!(4)),
        ("userCouponId", json!(coupon)),
    ] {
        event[field] = value;
    }
    let id = paid(&world, &token, event).await?;
    assert_eq!((points(&world, &token).await?, balances(&world).await?), (16, vec![1000, 6000, 2, 3]));
    let half = refunded(&world, &token, &id, json!({ "items": item(1, 1) })).await?;
    assert_eq!(
        (&half["amount"], &half["paymentAmount"], &half["prepaidAmount"], &half["pointsReturned"]),
        (&json!(38), &json!(23), &json!(15), &json!(2))
    );
    assert_eq!(half["couponReturned"], false);
    assert_eq!((points(&world, &token).await?, balances(&world).await?), (18, vec![2500, 6000, 2, 3]));
    assert_eq!((given_back(&world), world.stock("p-apple").await?), (2300, 999));
    assert_eq!(order(&world, &token, &id).await?["refundState"], "partial");
    // The row of the deduction tells of it and still stands.
    let rows = world.client.call("prepaid", &token, json!({ "action": "deductions" })).await?;
    assert_eq!(rows.ok()["data"][0]["status"], "deducted", "{rows:?}");
    refunded(&world, &token, &id, json!({})).await?;
    assert_eq!((points(&world, &token).await?, balances(&world).await?), (20, vec![4000, 6000, 2, 3]));
    let rows = world.client.call("prepaid", &token, json!({ "action": "deductions" })).await?;
    assert_eq!(rows.ok()["data"][0]["status"], "restored", "{rows:?}");
    world.finish().await
}

#[tokio::test]
async fn a_balance_comes_back_at_once_and_without_wechat() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.client.login("demo").await?;
    let mut event = order_of("p-apple", 3);
    event["paymentMethod"] = json!("balance");
    let id = paid(&world, &token, event).await?;
    let balance = async || -> anyhow::Result<i64> {
        Ok(world.store.member(&domain::UserId::parse("u-demo")?).await?.unwrap().balance.get())
    };
    assert_eq!(balance().await?, 35_000);
    let refund = applied(&world, &token, &id, json!({ "items": item(1, 2) })).await?;
    let done = shop(&world, "approve", &refund, json!({})).await?;
    assert_eq!(
        (&done.ok()["refund"]["status"], &done.body["refund"]["balanceAmount"]),
        (&json!("refunded"), &json!(100))
    );
    assert_eq!((balance().await?, given_back(&world)), (45_000, 0));
    world.finish().await
}

#[tokio::test]
async fn points_that_were_spent_meanwhile_are_owed() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.client.login("alice").await?;
    let id = paid(&world, &token, order_of("p-apple", 10)).await?;
    assert_eq!(points(&world, &token).await?, 5);
    let spend = json!({ "openId": "o-alice", "points": 3, "type": "spend", "reason": "兑换" });
    world.client.call_service("addPoints", spend).await?.ok();
    // Half of 500.00 earned two points and a half: 250.00 that are left still earn two.
    let half = refunded(&world, &token, &id, json!({ "items": item(1, 5) })).await?;
    assert_eq!((&half["pointsTaken"], &half["pointsOwed"]), (&json!(2), &json!(1)));
    assert_eq!(points(&world, &token).await?, 0);
    let rest = refunded(&world, &token, &id, json!({})).await?;
    assert_eq!((&rest["pointsTaken"], &rest["pointsOwed"]), (&json!(0), &json!(2)));
    let member = world.store.member_by_open_id(&domain::OpenId::parse("o-alice")?).await?.unwrap();
    assert_eq!((member.points_owed, member.carry_fen.get()), (3, 0));
    world.finish().await
}

#[tokio::test]
async fn the_coin_of_an_order_is_taken_back_with_its_last_piece() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.client.login("alice").await?;
    let mut event = order_of("p-honey", 2);
    event["items"] = json!([{ "productId": "p-honey", "quantity": 2 }, { "productId": "p-apple", "quantity": 1 }]);
    let id = paid(&world, &token, event).await?;
    let coins = async || -> anyhow::Result<i64> {
        let answer = world.client.call("coins", &token, json!({ "action": "account" })).await?;
        Ok(answer.ok()["balance"].as_i64().unwrap())
    };
    assert_eq!(coins().await?, 1);
    refunded(&world, &token, &id, json!({ "items": item(1, 1) })).await?;
    assert_eq!(coins().await?, 1);
    let last = refunded(&world, &token, &id, json!({ "items": item(1, 1) })).await?;
    assert_eq!((&last["coinsTaken"], coins().await?), (&json!(1), 0));
    refunded(&world, &token, &id, json!({})).await?;
    world.finish().await
}

#[tokio::test]
async fn an_order_of_the_mall_is_recalled_before_and_refunded_after_shipping() -> anyhow::Result<()> {
    let world = World::start().await?;
    let (c, now) = (&world.client, world.app.clock.now());
    crate::coins::verified(&world.store, "mia", now).await?;
    crate::coins::give(&world.store, "mia", "a", 1, now - TimeDelta::hours(20)).await?;
    crate::coins::give(&world.store, "mia", "b", 2, now - TimeDelta::hours(10)).await?;
    let token = c.login("mia").await?;
    let id = c.call("pointsMall", &token, crate::coins::mug(3)).await?.text("orderId");
    apply(&world, &token, &id, json!({})).await?.refused(409, "ORDER_STATE_INVALID");
    ship(&world, &id).await?.ok();
    let coins = async || -> anyhow::Result<i64> {
        let answer = c.call("coins", &token, json!({ "action": "account" })).await?;
        Ok(answer.ok()["balance"].as_i64().unwrap())
    };
    assert_eq!((coins().await?, points(&world, &token).await?), (0, 985));
    let one = refunded(&world, &token, &id, json!({ "items": item(1, 1) })).await?;
    assert_eq!((&one["amount"], &one["pointsReturned"], &one["coinsReturned"]), (&json!(0), &json!(5), &json!(1)));
    assert_eq!((coins().await?, points(&world, &token).await?), (1, 990));
    // The mugs that the buyer keeps are not for sale; two that come back are.
    assert_eq!(world.stock("p-mug").await?, 77);
    let back = applied(&world, &token, &id, json!({ "type": "returnGoods" })).await?;
    shop(&world, "approve", &back, json!({})).await?.ok();
    let parcel = json!({ "action": "shipBack", "refundId": back, "expressCompany": "SF", "trackingNo": "1" });
    c.call("refunds", &token, parcel).await?.ok();
    // Coins that were spent come back to expire when they would have: those of the first lot are over by then.
    deliver(&world).await?;
    world.client.advance(30 * 3600).await?;
    shop(&world, "receive", &back, json!({})).await?.ok();
    assert_eq!(get(&world, &token, &back).await?["status"], "refunded");
    assert_eq!((coins().await?, points(&world, &token).await?, world.stock("p-mug").await?), (2, 1000, 79));
    c.timer("expireCoins").await?;
    assert_eq!(coins().await?, 2);
    world.finish().await
}

#[tokio::test]
async fn a_product_bought_twice_in_one_order_comes_back_once_each() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.linked_member().await?;
    let mut event = order_of("p-apple", 1);
    event["items"] = json!([{ "productId": "p-apple", "quantity": 3 }, { "productId": "p-apple", "quantity": 3 }]);
    event["paymentMethod"] = json!("prepaid");
    // Five of the six are prepaid, and the last is paid for.
    let made = world.client.call("submitOrder", &token, event.clone()).await?;
    assert_eq!((&made.ok()["paymentAmount"], balances(&world).await?), (&json!(50), vec![4000, 6000, 0, 0]));
    let cancel = json!({ "action": "cancel", "orderId": made.text("orderId") });
    world.client.call("orders", &token, cancel).await?.ok();
    assert_eq!(balances(&world).await?, [4000, 6000, 2, 3]);
    let id = paid(&world, &token, event).await?;
    // What is asked for twice is one line.
    let items = order(&world, &token, &id).await?["items"].clone();
    assert_eq!((items.as_array().map(Vec::len), &items[0]["quantity"]), (Some(1), &json!(6)));
    for _ in 0..2 {
        refunded(&world, &token, &id, json!({ "items": item(1, 1) })).await?;
    }
    refunded(&world, &token, &id, json!({})).await?;
    assert_eq!(balances(&world).await?, [4000, 6000, 2, 3]);
    assert_eq!((given_back(&world), world.stock("p-apple").await?), (5_000, 1_000));
    world.finish().await
}

#[tokio::test]
async fn an_order_from_before_its_price_was_kept_comes_back_all_the_same() -> anyhow::Result<()> {
    use bson::{Document, doc};
    let world = World::start().await?;
    let token = world.client.login("demo").await?;
    let mut event = order_of("p-apple", 3);
    event["items"] = json!([{ "productId": "p-apple", "quantity": 3 }, { "productId": "p-eggs", "quantity": 2 }]);
    event["pointsUsed"] = json!(11);
    let before = points(&world, &token).await?;
    let id = paid(&world, &token, event).await?;
    let db = crate::audit::database(&world).await?;
    let old = doc! { "$unset": { "priceProof": "", "pointsEarnFen": "", "refundRevision": "" } };
    db.collection::<Document>("orders").update_one(doc! { "_id": &id }, old).await?;
    for items in [item(1, 1), item(2, 1), item(1, 2)] {
        refunded(&world, &token, &id, json!({ "items": items })).await?;
    }
    refunded(&world, &token, &id, json!({})).await?;
    assert_eq!((given_back(&world), points(&world, &token).await?), (world.sim.orders("")[0].total_fen, before));
    world.finish().await
}

#[tokio::test]
async fn a_second_payment_of_a_refunded_order_goes_back_by_itself() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("alice").await?;
    let id = c.call("submitOrder", &token, order_of("p-apple", 1)).await?.text("orderId");
    c.call("wxPay", &token, json!({ "orderId": id })).await?.ok();
    // The first prepay has run out and another took its place; both are paid in the end.
    world.client.advance(20 * 60).await?;
    c.call("wxPay", &token, json!({ "orderId": id })).await?.ok();
    c.pay(&id, "once").await?;
    refunded(&world, &token, &id, json!({})).await?;
    c.pay(&id, "duplicate").await?;
    world.settle_down().await?;
    assert_eq!(
        (order(&world, &token, &id).await?["refundState"].clone(), given_back(&world)),
        (json!("refunded"), 5000)
    );
    world.finish().await
}

#[tokio::test]
async fn freight_comes_back_with_the_last_pieces_unless_it_was_used() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.linked_member().await?;
    let template = json!({ "name": "按件", "measure": "piece", "rules": [],
        "default": { "first": 1, "firstFee": 12, "further": 1, "furtherFee": 3 } });
    let create = json!({ "action": "create", "templateId": "ft-refund", "template": template });
    world.client.call_service("freight", create).await?.ok();
    let assign = json!({ "action": "assign", "templateId": "ft-refund", "productIds": ["p-rice"] });
    world.client.call_service("freight", assign).await?.ok();
    // 269.70 of rice and 18.00 of freight, 100.00 of it prepaid.
    let mut event = order_of("p-rice", 3);
    event["paymentMethod"] = json!("prestore");
    let before = purse(&world).await?;
    let id = paid(&world, &token, event.clone()).await?;
    assert_eq!(order(&world, &token, &id).await?["freightAmount"], 18);
    let first = refunded(&world, &token, &id, json!({ "items": item(1, 2) })).await?;
    assert_eq!(first["freightAmount"], 0);
    let last = refunded(&world, &token, &id, json!({})).await?;
    assert_eq!((&last["freightAmount"], purse(&world).await?), (&json!(18), before));
    let whole = world.sim.orders("")[0].total_fen;
    assert_eq!((whole, given_back(&world)), (18_770, 18_770));
    // Once it was shipped the freight is used.
    let shipped = paid(&world, &token, event).await?;
    ship(&world, &shipped).await?.ok();
    let kept = refunded(&world, &token, &shipped, json!({})).await?;
    assert_eq!((&kept["freightAmount"], &kept["amount"]), (&json!(0), &json!(269.7)));
    // Asked for last and given first, it does not bring the freight of what may still be withdrawn.
    let mut event = order_of("p-rice", 3);
    event["paymentMethod"] = json!("wechat");
    let id = paid(&world, &token, event).await?;
    let first = applied(&world, &token, &id, json!({ "items": item(1, 2) })).await?;
    let second = applied(&world, &token, &id, json!({})).await?;
    let early = shop(&world, "approve", &second, json!({})).await?;
    assert_eq!((&early.ok()["refund"]["freightAmount"], &early.body["refund"]["amount"]), (&json!(0), &json!(89.9)));
    let withdraw = json!({ "action": "withdraw", "refundId": first });
    world.client.call("refunds", &token, withdraw).await?.ok();
    let rest = refunded(&world, &token, &id, json!({})).await?;
    assert_eq!((&rest["freightAmount"], &rest["amount"]), (&json!(18), &json!(197.8)));
    world.finish().await
}

#[tokio::test]
async fn an_order_whose_price_was_changed_gives_back_what_was_paid() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("demo").await?;
    let now = world.app.clock.now();
    let staff = world.app.issue_staff_token("lily", &["orders".to_owned()], TimeDelta::hours(1), now)?.0;
    let mut event = order_of("p-apple", 3);
    event["items"] = json!([{ "productId": "p-apple", "quantity": 3 }, { "productId": "p-eggs", "quantity": 2 }]);
    event["pointsUsed"] = json!(7);
    let id = c.call("submitOrder", &token, event).await?.text("orderId");
    let change = json!({ "action": "changePrice", "orderId": id, "amount": 123.45, "reason": "老客户" });
    c.call("orders", &staff, change).await?.ok();
    c.call("wxPay", &token, json!({ "orderId": id })).await?.ok();
    assert_eq!(c.pay(&id, "once").await?.body["noticeStatus"], 204);
    for items in [item(2, 1), item(1, 2)] {
        refunded(&world, &token, &id, json!({ "items": items })).await?;
    }
    refunded(&world, &token, &id, json!({})).await?;
    assert_eq!((given_back(&world), points(&world, &token).await?), (12_345, 100));
    world.finish().await
}
