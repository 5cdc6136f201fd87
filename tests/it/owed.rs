//! Points and coins that were spent before a refund could take them back are paid with the next ones, and never had twice.

use bson::doc;
use futures_util::future::join_all;
use it::{World, database_name, mongod_uri, order_of, settle_down, violations};
use serde_json::{Value, json};
use store::{Store, StoreConfig};

use crate::audit::{Edit, apply, database, undo};
use crate::coins::{mug, verified};
use crate::crash::{free_port, persist, start};
use crate::refunds::{applied, deliver, item, paid, refunded, shop};

/// Points that are there and points that are owed, as the member reads them.
async fn points(world: &World, token: &str) -> anyhow::Result<(i64, i64)> {
    let seen = world.client.call("getUserPoints", token, json!({})).await?;
    Ok((seen.ok()["points"].as_i64().unwrap(), seen.body["owed"].as_i64().unwrap()))
}

/// Coins that can be spent and coins that are owed.
async fn coins(world: &World, token: &str) -> anyhow::Result<(i64, i64)> {
    let seen = world.client.call("coins", token, json!({ "action": "account" })).await?;
    Ok((seen.ok()["balance"].as_i64().unwrap(), seen.body["owed"].as_i64().unwrap()))
}

async fn earn(world: &World, points: i64, request: &str) -> anyhow::Result<Value> {
    let event =
        json!({ "openId": "o-alice", "points": points, "type": "earn", "reason": "赠送", "requestId": request });
    Ok(world.client.call_service("addPoints", event).await?.ok().clone())
}

/// An order for 500.00, which earns five points, and one that uses them; then the first is refunded.
async fn owing(world: &World, token: &str, pays: bool) -> anyhow::Result<(String, String)> {
    let first = paid(world, token, order_of("p-apple", 10)).await?;
    assert_eq!(points(world, token).await?, (5, 0));
    let mut event = order_of("p-apple", 10);
    event["pointsUsed"] = json!(5);
    let second = match pays {
        true => paid(world, token, event).await?,
        false => world.client.call("submitOrder", token, event).await?.text("orderId"),
    };
    refunded(world, token, &first, json!({})).await?;
    Ok((first, second))
}

#[tokio::test]
async fn points_of_a_refunded_order_do_not_come_back_with_the_order_that_spent_them() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.client.login("alice").await?;
    let (_, second) = owing(&world, &token, false).await?;
    assert_eq!(points(&world, &token).await?, (0, 5));
    world.client.call("orders", &token, json!({ "action": "cancel", "orderId": second })).await?.ok();
    assert_eq!(points(&world, &token).await?, (0, 0));
    // The newest first, each as it was after its own change.
    let log = world.client.call("getUserPoints", &token, json!({ "limit": 2 })).await?.ok()["logs"]["data"].clone();
    let row = |n: usize| json!([log[n]["change"], log[n]["points"], log[n]["type"], log[n]["orderId"]]);
    assert_eq!((row(0), row(1)), (json!([-5, 0, "spend", second]), json!([5, 5, "return", second])));
    world.finish().await
}

#[tokio::test]
async fn whoever_brings_everything_back_is_where_they_began() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.client.login("alice").await?;
    let (_, second) = owing(&world, &token, true).await?;
    let (left, owed) = points(&world, &token).await?;
    assert_eq!(left.min(owed), 0, "{left} {owed}");
    refunded(&world, &token, &second, json!({ "items": item(1, 3) })).await?;
    refunded(&world, &token, &second, json!({})).await?;
    assert_eq!(points(&world, &token).await?, (0, 0));
    let member = world.store.member_by_open_id(&domain::OpenId::parse("o-alice")?).await?.unwrap();
    assert_eq!(member.carry_fen.get(), 0);
    world.finish().await
}

#[tokio::test]
async fn points_that_are_given_or_earned_pay_what_is_owed_first() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.client.login("alice").await?;
    owing(&world, &token, false).await?;
    let given = earn(&world, 2, "gift-of-two").await?;
    assert_eq!((&given["points"], &given["change"]), (&json!(0), &json!(2)));
    assert_eq!(points(&world, &token).await?, (0, 3));
    // Again, it says the same and takes nothing more.
    let again = earn(&world, 2, "gift-of-two").await?;
    assert_eq!((&again["points"], &again["logId"]), (&json!(0), &given["logId"]));
    assert_eq!(points(&world, &token).await?, (0, 3));
    paid(&world, &token, order_of("p-apple", 4)).await?;
    assert_eq!(points(&world, &token).await?, (0, 1));
    assert_eq!(earn(&world, 4, "gift-of-four").await?["points"], 3);
    assert_eq!(points(&world, &token).await?, (3, 0));
    // Without a number of the command, the order, type and reason count once.
    let event = json!({ "openId": "o-alice", "points": 1, "type": "earn", "reason": "评价", "orderId": "X1" });
    for _ in 0..2 {
        assert_eq!(world.client.call_service("addPoints", event.clone()).await?.ok()["points"], 4);
    }
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn gifts_refunds_and_cancels_at_once_leave_nobody_owing_with_points() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.client.login("alice").await?;
    let (_, second) = owing(&world, &token, false).await?;
    let third = paid(&world, &token, order_of("p-apple", 6)).await?;
    let back = applied(&world, &token, &third, json!({})).await?;
    let gifts = ["gift-one", "gift-two", "gift-three", "gift-four"].into_iter().zip(1..);
    let gifts = gifts.map(|(request, points)| earn(&world, points, request));
    let cancel = world.client.call("orders", &token, json!({ "action": "cancel", "orderId": second }));
    let (gifts, approve, cancel) = tokio::join!(join_all(gifts), shop(&world, "approve", &back, json!({})), cancel);
    gifts.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    approve?.ok();
    cancel?.ok();
    deliver(&world).await?;
    // Five that came back and ten that were given pay the five of the first order; the third leaves nothing.
    assert_eq!(points(&world, &token).await?, (10, 0));
    world.finish().await
}

#[tokio::test]
async fn coins_that_are_won_earned_or_come_back_pay_what_is_owed() -> anyhow::Result<()> {
    let world = World::start().await?;
    let (c, now) = (&world.client, world.app.clock.now());
    verified(&world.store, "mia", now).await?;
    let token = c.login("mia").await?;
    let honey = async || paid(&world, &token, order_of("p-honey", 1)).await;
    let redeem = async || anyhow::Ok(c.call("pointsMall", &token, mug(1)).await?.text("orderId"));
    // Earned: the next order's coin pays for the one that went into the mug.
    let first = honey().await?;
    redeem().await?;
    refunded(&world, &token, &first, json!({})).await?;
    assert_eq!(coins(&world, &token).await?, (0, 1));
    let second = honey().await?;
    assert_eq!(coins(&world, &token).await?, (0, 0));
    c.call("pointsMall", &token, mug(1)).await?.refused(422, "COINS_INSUFFICIENT");
    // What paid a debt is a debt itself when its order is refunded.
    refunded(&world, &token, &second, json!({})).await?;
    assert_eq!(coins(&world, &token).await?, (0, 1));
    // Won: the same.
    let round = crate::lottery::create(&world, crate::lottery::activity_open_at(world.app.clock.now())).await?;
    crate::lottery::sign_up(c, &token, &round).await?.ok();
    c.advance(660).await?;
    crate::lottery::draw(c).await?;
    assert_eq!(coins(&world, &token).await?, (0, 0));
    // Two coins: one goes into a mug, the other pays for it at once.
    let third = honey().await?;
    let mug = redeem().await?;
    honey().await?;
    assert_eq!(coins(&world, &token).await?, (1, 0));
    refunded(&world, &token, &third, json!({})).await?;
    assert_eq!(coins(&world, &token).await?, (0, 0));
    c.call("orders", &token, json!({ "action": "cancel", "orderId": mug })).await?.ok();
    assert_eq!(coins(&world, &token).await?, (1, 0));
    world.finish().await
}

#[tokio::test]
async fn a_coin_that_comes_back_dead_pays_what_is_owed_for_it() -> anyhow::Result<()> {
    let world = World::start().await?;
    let (c, now) = (&world.client, world.app.clock.now());
    verified(&world.store, "mia", now).await?;
    let token = c.login("mia").await?;
    let order = paid(&world, &token, order_of("p-honey", 1)).await?;
    let mug = c.call("pointsMall", &token, mug(1)).await?.text("orderId");
    refunded(&world, &token, &order, json!({})).await?;
    c.advance(49 * 3600).await?;
    assert_eq!(coins(&world, &token).await?, (0, 1));
    c.call("orders", &token, json!({ "action": "cancel", "orderId": mug })).await?.ok();
    c.timer("expireCoins").await?;
    assert_eq!(coins(&world, &token).await?, (0, 0));
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_owed_points_are_paid() -> anyhow::Result<()> {
    let point = "repay.inside";
    let (uri, name, folder, port) = (mongod_uri().await?, database_name(), tempfile::tempdir()?, free_port()?);
    let gift = json!({
        "openId": "o-ower", "points": 7, "type": "earn", "reason": "赠送", "requestId": "killed-gift",
    });
    let host = start(&uri, &name, folder.path(), port, Some(point))?;
    let store = Store::new(StoreConfig::new(&uri, &name));
    #[expect(clippy::disallowed_methods, reason = "any time before the gift will do")]
    let now = chrono::Utc::now();
    let member = json!({
        "_id": "u-ower", "openId": "o-ower", "points": 0, "pointsOwed": 5, "level": 1, "balance": 0, "carryFen": 0,
    });
    store.open_document("member_user", &member, now).await?;
    let client = host.client.clone();
    let killed = async { client.call_service("addPoints", gift.clone()).await.map(drop) };
    host.killed_at(point, killed).await?;
    let host = start(&uri, &name, folder.path(), port, None)?;
    // The transaction of the killed process may hold the member for some seconds.
    for _ in 0..40 {
        if host.client.call_service("addPoints", gift.clone()).await?.body["retryable"] != true {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
    let token = host.client.login("ower").await?;
    let seen = persist(&host.client, "getUserPoints", &token, json!({})).await?;
    assert_eq!((&seen.ok()["points"], &seen.body["owed"]), (&json!(2), &json!(0)));
    settle_down(&host.client).await?;
    #[expect(clippy::disallowed_methods, reason = "the audit's clock only has to be near")]
    let found = violations(&store, chrono::Utc::now()).await?;
    assert!(found.is_empty(), "{found:?}");
    store.drop_database().await?;
    Ok(())
}

#[tokio::test]
async fn the_audit_sees_damage_to_what_is_owed() -> anyhow::Result<()> {
    let world = World::start().await?;
    let db = database(&world).await?;
    verified(&world.store, "mia", world.app.clock.now()).await?;
    let (alice, mia) = (world.client.login("alice").await?, world.client.login("mia").await?);
    let (_, second) = owing(&world, &alice, false).await?;
    world.client.call("orders", &alice, json!({ "action": "cancel", "orderId": second })).await?.ok();
    let honey = paid(&world, &mia, order_of("p-honey", 1)).await?;
    world.client.call("pointsMall", &mia, mug(1)).await?.ok();
    refunded(&world, &mia, &honey, json!({})).await?;
    let third = paid(&world, &mia, order_of("p-honey", 1)).await?;
    let found = world.violations().await?;
    assert!(found.is_empty(), "nothing is damaged yet: {found:?}");

    let points = format!("repay:order:{second}:tender-reversal:points");
    let coins = format!("repay:order:{third}:settle:coins");
    let ledger = |id: &str, change| Edit::Update("ledger", id.to_owned(), change);
    let later = bson::DateTime::from_chrono(world.app.clock.now() + chrono::TimeDelta::hours(1));
    let legs = |amount: i64| {
        doc! { "$set": { "postings.0.amount": -amount, "postings.1.amount": amount,
        "postings.2.amount": -amount, "postings.3.amount": amount } }
    };
    let damages: Vec<(&str, &str, Edit)> = vec![
        ("the payment of points vanishes", "account-value", Edit::Delete("ledger", points.clone())),
        ("the payment of coins vanishes", "account-value", Edit::Delete("ledger", coins.clone())),
        ("its row vanishes", "statement", Edit::Delete("member_points_log", points.clone())),
        ("its coin's row vanishes", "coins", Edit::Delete("activityCoinRecords", format!("{coins}|order:{third}"))),
        ("nothing came in", "owed", Edit::Delete("ledger", format!("order:{second}:tender-reversal"))),
        ("paid by another order's", "owed", ledger(&points, doc! { "$set": { "orderId": &third } })),
        ("paid later", "owed", ledger(&points, doc! { "$set": { "at": later } })),
        ("coins paid later", "owed", ledger(&coins, doc! { "$set": { "at": later } })),
        ("more was taken than came in", "owed", ledger(&points, legs(6))),
        ("more was taken than is owed", "owed", ledger(&points, doc! { "$inc": { "postings.0.amount": -1i64 } })),
        ("nothing was taken", "owed", ledger(&coins, doc! { "$set": { "postings": [] } })),
        (
            "a debt beside points",
            "owed",
            Edit::Update("member_user", "u-mia".into(), doc! { "$set": { "pointsOwed": 1i64 } }),
        ),
        ("no debt was paid", "owed", ledger(&points, doc! { "$set": { "userId": "u-mia" } })),
        (
            "points owed by nobody's refund",
            "refund",
            Edit::Copy("ledger", points.clone(), doc! { "_id": "x:y:points" }),
        ),
        ("coins owed by nobody's refund", "coins", Edit::Copy("ledger", coins.clone(), doc! { "_id": "x:y:coins" })),
    ];
    for (name, invariant, edit) in &damages {
        let step = apply(&db, edit).await.map_err(|e| e.context(*name))?;
        let report = world.store.audit(world.app.clock.now()).await?;
        let seen = |v: &store::audit::Violation| v.invariant == *invariant;
        assert!(report.violations.iter().any(seen), "{name}: {:?}", report.violations);
        undo(&db, step).await?;
    }
    world.finish().await
}
