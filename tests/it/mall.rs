//! The points mall: goods for coins and points, for verified members, cancelled with everything given back.

use chrono::TimeDelta;
use futures_util::future::join_all;
use it::{World, order_of};
use serde_json::{Value, json};

use crate::coins::{give, mug, verified};

async fn coins(world: &World, token: &str) -> anyhow::Result<i64> {
    let answer = world.client.call("coins", token, json!({ "action": "account" })).await?;
    Ok(answer.ok()["balance"].as_i64().unwrap())
}

async fn points(world: &World, token: &str) -> anyhow::Result<i64> {
    let answer = world.client.call("getUserPoints", token, json!({})).await?;
    Ok(answer.ok()["points"].as_i64().unwrap())
}

async fn cancel(world: &World, token: &str, order: &str) -> anyhow::Result<it::Answer> {
    world.client.call("orders", token, json!({ "action": "cancel", "orderId": order })).await
}

#[tokio::test(flavor = "multi_thread")]
async fn coins_and_points_buy_goods_of_the_mall_for_verified_members() -> anyhow::Result<()> {
    let world = World::start().await?;
    let (c, now) = (&world.client, world.app.clock.now());
    verified(&world.store, "mia", now).await?;
    give(&world.store, "mia", "q1", 3, now).await?;
    let token = c.login("mia").await?;
    let list = c.call("pointsMall", &token, json!({ "action": "list" })).await?;
    let goods = list.ok()["data"].as_array().unwrap();
    assert_eq!(goods.iter().map(|g| g["_id"].clone()).collect::<Vec<_>>(), [json!("p-mug")]);
    assert_eq!(
        (&goods[0]["pointsPrice"], &goods[0]["coinPrice"], &goods[0]["stock"]),
        (&json!(5), &json!(1), &json!(80))
    );
    // Without a verified name nothing is told about goods, points or coins.
    let plain = c.login("demo").await?;
    c.call("pointsMall", &plain, mug(99)).await?.refused(403, "IDENTITY_REQUIRED");
    let made = c.call("pointsMall", &token, mug(2)).await?;
    assert_eq!(
        (&made.ok()["pointsUsed"], &made.body["coinsUsed"], &made.body["status"]),
        (&json!(10), &json!(2), &json!("paid"))
    );
    let id = made.text("orderId");
    assert_eq!(
        (coins(&world, &token).await?, points(&world, &token).await?, world.stock("p-mug").await?),
        (1, 990, 78)
    );
    let order = c.call("orders", &token, json!({ "action": "get", "orderId": id })).await?;
    for (field, value) in [
        ("type", json!("pointsMall")),
        ("totalAmount", json!(0)),
        ("paymentAmount", json!(0)),
        ("paymentMethod", json!("points")),
        ("coinsUsed", json!(2)),
        ("coinsEarned", json!(0)),
        ("pointsEarned", json!(0)),
        ("payments", json!([])),
    ] {
        assert_eq!(order.ok()[field], value, "{field}");
    }
    // Each thing that can be missing.
    let with = |field: &str, value: Value| {
        let mut event = mug(1);
        event[field] = value;
        event
    };
    c.call("pointsMall", &token, mug(2)).await?.refused(422, "COINS_INSUFFICIENT");
    give(&world.store, "mia", "q2", 300, now).await?;
    c.call("pointsMall", &token, mug(79)).await?.refused(409, "OUT_OF_STOCK");
    c.call("wxPay", &token, json!({ "orderId": id })).await?.refused(409, "ORDER_STATE_INVALID");
    for product in ["p-apple", "p-off", "p-none", "p-lottery"] {
        let answer = c.call("pointsMall", &token, with("productId", json!(product))).await?;
        answer.refused(404, "PRODUCT_NOT_FOUND");
    }
    for (field, value) in [
        ("addressId", json!("a-1")),
        ("address", Value::Null),
        ("quantity", json!(0)),
        ("quantity", json!(-1)),
        ("quantity", json!(100)),
        ("quantity", Value::Null),
        ("productId", json!("$ne")),
        ("skuId", json!("a b")),
    ] {
        let answer = c.call("pointsMall", &token, with(field, value)).await?;
        answer.refused(400, "INVALID_ARGUMENT");
        assert_eq!(answer.body["details"]["field"], field, "{answer:?}");
    }
    // For money they are not to be had.
    c.call("submitOrder", &token, order_of("p-mug", 1)).await?.refused(400, "INVALID_ARGUMENT");
    assert_eq!(
        (coins(&world, &token).await?, points(&world, &token).await?, world.stock("p-mug").await?),
        (301, 990, 78)
    );
    // Points run out before coins and pieces do.
    let drain = json!({ "openId": "o-mia", "points": 987, "type": "spend", "reason": "x" });
    c.call_service("addPoints", drain).await?.ok();
    assert_eq!(points(&world, &token).await?, 3);
    c.call("pointsMall", &token, mug(1)).await?.refused(422, "POINTS_INSUFFICIENT");
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_redemptions_at_once_as_many_succeed_as_coins_points_and_pieces_allow() -> anyhow::Result<()> {
    let world = World::start().await?;
    let now = world.app.clock.now();
    verified(&world.store, "mia", now).await?;
    let token = world.client.login("mia").await?;
    for (round, coins_there, wanted) in [(0, 1, 1), (1, 4, 2), (2, 3, 1)] {
        give(&world.store, "mia", &format!("race-{round}"), coins_there, now).await?;
        let calls = (0..8).map(|_| world.client.call("pointsMall", &token, mug(wanted)));
        let answers = join_all(calls).await.into_iter().collect::<Result<Vec<_>, _>>()?;
        let made = answers.iter().filter(|a| a.status == 200).count();
        assert_eq!(i64::try_from(made)?, coins_there / wanted, "{answers:?}");
        for refused in answers.iter().filter(|a| a.status != 200) {
            refused.refused(422, "COINS_INSUFFICIENT");
        }
        assert_eq!(coins(&world, &token).await?, 0);
    }
    assert_eq!(world.stock("p-mug").await?, 80 - 1 - 4 - 3);
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_redemption_sent_ten_times_is_one_order() -> anyhow::Result<()> {
    let world = World::start().await?;
    let now = world.app.clock.now();
    verified(&world.store, "mia", now).await?;
    give(&world.store, "mia", "twins", 1, now).await?;
    let token = world.client.login("mia").await?;
    let mut event = mug(1);
    event["requestId"] = json!("mall-twin-1");
    let calls = (0..10).map(|_| world.client.call("pointsMall", &token, event.clone()));
    let answers = join_all(calls).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    let ids: std::collections::BTreeSet<String> = answers.iter().map(|a| a.ok()["orderId"].to_string()).collect();
    assert_eq!(ids.len(), 1);
    assert_eq!(answers.iter().filter(|a| a.body["replayed"] != true).count(), 1);
    event["quantity"] = json!(2);
    world.client.call("pointsMall", &token, event).await?.refused(409, "IDEMPOTENCY_KEY_REUSED");
    assert_eq!(world.stock("p-mug").await?, 79);
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_gives_coins_points_and_pieces_back_once() -> anyhow::Result<()> {
    let world = World::start().await?;
    let (c, now) = (&world.client, world.app.clock.now());
    let user = verified(&world.store, "mia", now).await?;
    give(&world.store, "mia", "first", 1, now - TimeDelta::hours(30)).await?;
    give(&world.store, "mia", "second", 3, now).await?;
    let token = c.login("mia").await?;
    let before = world.store.coin_lots(&user).await?;
    let id = c.call("pointsMall", &token, mug(3)).await?.text("orderId");
    assert_eq!((coins(&world, &token).await?, points(&world, &token).await?), (1, 985));
    // Nobody else may.
    let other = c.login("demo").await?;
    cancel(&world, &other, &id).await?.refused(403, "FORBIDDEN");
    let answers = join_all((0..6).map(|_| cancel(&world, &token, &id))).await;
    for answer in answers {
        let answer = answer?;
        assert!(answer.status == 200 || answer.code() == "CONFLICT", "{answer:?}");
    }
    assert_eq!(cancel(&world, &token, &id).await?.ok()["status"], "closed");
    assert_eq!((coins(&world, &token).await?, points(&world, &token).await?), (4, 1000));
    assert_eq!(world.stock("p-mug").await?, 80);
    // Into the same lots, with the expiry that they had.
    let after = world.store.coin_lots(&user).await?;
    let shape = |lots: &[store::coins::CoinLot]| {
        lots.iter().map(|l| (l.id.clone(), l.remaining, l.expires_at)).collect::<Vec<_>>()
    };
    assert_eq!(shape(&before), shape(&after));
    let records = c.call("coins", &token, json!({ "action": "records" })).await?;
    let types: Vec<&Value> = records.ok()["data"].as_array().unwrap().iter().map(|r| &r["type"]).collect();
    assert_eq!(types.iter().filter(|t| **t == "return").count(), 2);
    let logs = c.call("getUserPoints", &token, json!({})).await?;
    let changes: Vec<&Value> = logs.ok()["logs"]["data"].as_array().unwrap().iter().map(|l| &l["change"]).collect();
    assert_eq!(changes, [&json!(15), &json!(-15)]);
    // What was bought for money stays.
    let mut apples = order_of("p-apple", 1);
    apples["paymentMethod"] = json!("balance");
    let bought = c.call("submitOrder", &token, apples).await?.text("orderId");
    cancel(&world, &token, &bought).await?.refused(409, "ORDER_STATE_INVALID");
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn coins_that_come_back_after_their_time_expire_once() -> anyhow::Result<()> {
    let world = World::start().await?;
    let (c, now) = (&world.client, world.app.clock.now());
    let user = verified(&world.store, "mia", now).await?;
    give(&world.store, "mia", "short", 5, now - TimeDelta::hours(47)).await?;
    let token = c.login("mia").await?;
    let one = c.call("pointsMall", &token, mug(1)).await?.text("orderId");
    let two = c.call("pointsMall", &token, mug(2)).await?.text("orderId");
    c.advance(3601).await?;
    // Two are written off, then one comes back and goes, then two.
    for (order, lots, gone) in [(None, 1, 2), (Some(one), 1, 3), (Some(two), 1, 5)] {
        if let Some(order) = order {
            assert_eq!(cancel(&world, &token, &order).await?.ok()["status"], "closed");
            assert_eq!(coins(&world, &token).await?, 0);
        }
        c.call("pointsMall", &token, mug(1)).await?.refused(422, "COINS_INSUFFICIENT");
        let swept = c.call_service("expireCoins", json!({})).await?;
        assert_eq!(swept.ok()["expiredLots"], lots);
        assert_eq!(world.store.coin_lots(&user).await?[0].expired, gone);
        assert_eq!(c.call_service("expireCoins", json!({})).await?.ok()["expiredLots"], 0);
    }
    assert_eq!(world.store.coin_lots(&user).await?[0].sweeps, 3);
    world.finish().await
}
