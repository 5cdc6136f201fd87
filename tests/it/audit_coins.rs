//! The audit must see each kind of damage to coins and to points-mall orders.

use bson::{Bson, doc};
use chrono::TimeDelta;
use it::{World, order_of};
use serde_json::json;
use shop::coins::take_back;

use crate::audit::{Database, Edit, apply, database, undo};
use crate::coins::{give, mug, verified};

/// A shop with a lot of each fate.
struct Coins {
    world: World,
    db: Database,
    /// Its coin was spent, then taken back: it is owed.
    owed: String,
    /// Its coin was taken back.
    revoked: String,
    /// Its coin is there.
    kept: String,
    /// Took a coin of `win:a`.
    redeemed: String,
    /// Took another and gave it back.
    cancelled: String,
}

async fn shop() -> anyhow::Result<Coins> {
    let world = World::start().await?;
    let db = database(&world).await?;
    let (c, now) = (&world.client, world.app.clock.now());
    verified(&world.store, "mia", now).await?;
    let token = c.login("mia").await?;
    let honey = async || {
        let mut event = order_of("p-honey", 1);
        event["paymentMethod"] = json!("balance");
        anyhow::Ok(c.call("submitOrder", &token, event).await?.text("orderId"))
    };
    let redeem = async || anyhow::Ok(c.call("pointsMall", &token, mug(1)).await?.text("orderId"));
    let revoke = async |order: &str| {
        let order = world.store.order(&domain::OrderId::parse(order)?).await?.unwrap();
        let taken = world.store.transaction(|tx, _| {
            let order = &order;
            Box::pin(async move { take_back(tx, order, now).await })
        });
        taken.await?.ok_or_else(|| anyhow::anyhow!("nothing was taken back"))
    };
    let owed = honey().await?;
    redeem().await?;
    assert_eq!(revoke(&owed).await?.owed, 1);
    // One pays what is owed; it is owed itself when it is taken back, and the next one pays it.
    let paying = honey().await?;
    assert_eq!(revoke(&paying).await?.owed, 1);
    honey().await?;
    let revoked = honey().await?;
    assert_eq!(revoke(&revoked).await?.revoked, 1);
    let kept = honey().await?;
    give(&world.store, "mia", "dead", 3, now - TimeDelta::hours(49)).await?;
    c.timer("expireCoins").await?;
    give(&world.store, "mia", "a", 2, now - TimeDelta::hours(2)).await?;
    let redeemed = redeem().await?;
    let cancelled = redeem().await?;
    c.call("orders", &token, json!({ "action": "cancel", "orderId": cancelled })).await?.ok();
    let found = world.violations().await?;
    assert!(found.is_empty(), "nothing is damaged yet: {found:?}");
    Ok(Coins { world, db, owed, revoked, kept, redeemed, cancelled })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_sees_damage_to_coins_of_every_kind() -> anyhow::Result<()> {
    let Coins { world, db, owed, revoked, kept, redeemed, cancelled } = shop().await?;
    let now = world.app.clock.now();
    let date = |at: chrono::DateTime<chrono::Utc>| bson::DateTime::from_chrono(at);
    let entry = |order: &str, reason: &str| format!("order:{order}:{reason}");
    let set = |collection, id: &str, fields| Edit::Update(collection, id.to_owned(), doc! { "$set": fields });
    let inc = |collection, id: &str, fields| Edit::Update(collection, id.to_owned(), doc! { "$inc": fields });
    let delete = |collection, id: &str| Edit::Delete(collection, id.to_owned());
    let lot = "activityCoinLots";
    let rows = "activityCoinRecords";
    let tender = entry(&redeemed, "tender");
    let spent = format!("{tender}|win:a");
    let dead = "coins:win:dead:expire-1";
    let a = world.store.coin_lots(&domain::UserId::parse("u-mia")?).await?;
    let a = a.into_iter().find(|l| l.id == "win:a").unwrap();
    let legs = |account: &str, n: i64| {
        Bson::Array(vec![
            doc! { "account": "@coinsIssued", "asset": "coins", "amount": -n }.into(),
            doc! { "account": account, "asset": "coins", "amount": n }.into(),
        ])
    };
    let owed_legs = Bson::Array(vec![
        doc! { "account": "@coinsOwed", "asset": "coins", "amount": -2i64 }.into(),
        doc! { "account": "member_user/u-mia#coinsOwed", "asset": "coins", "amount": 2i64 }.into(),
    ]);
    let coins: &[&str] = &["coins"];
    let effects: &[&str] = &["order-effects"];
    let amounts: &[&str] = &["order-amounts"];
    let damages: Vec<(&str, &[&str], Vec<Edit>)> = vec![
        ("a coin appears", &["account-value"], vec![inc(lot, "win:a", doc! { "remaining": 1i64 })]),
        ("a lot was granted more", coins, vec![inc(lot, "win:a", doc! { "granted": 1i64 })]),
        ("a lot says more expired", coins, vec![inc(lot, "win:dead", doc! { "expired": 1i64 })]),
        ("a lot says nothing expired", coins, vec![set(lot, "win:dead", doc! { "expired": 0i64, "sweeps": 0i64 })]),
        ("a lot was swept once more", coins, vec![inc(lot, "win:dead", doc! { "sweeps": 1i64 })]),
        (
            "a lot says nothing was taken back",
            coins,
            vec![set(lot, &format!("order:{revoked}"), doc! { "revoked": 0i64 })],
        ),
        (
            "a lot lives longer",
            coins,
            vec![set(lot, "win:a", doc! { "expiresAt": date(a.expires_at + TimeDelta::milliseconds(1)) })],
        ),
        (
            "a lot is younger",
            coins,
            vec![set(
                lot,
                "win:a",
                doc! {
                "grantedAt": date(a.granted_at + TimeDelta::hours(1)), "expiresAt": date(a.expires_at + TimeDelta::hours(1)) },
            )],
        ),
        ("a lot changed hands", coins, vec![set(lot, "win:a", doc! { "userId": "u-demo" })]),
        ("a lot has another cause", coins, vec![set(lot, "win:a", doc! { "source": "order" })]),
        (
            "a lot of an order that did not grant it",
            coins,
            vec![set(lot, &format!("order:{kept}"), doc! { "sourceId": redeemed.clone() })],
        ),
        ("a lot vanishes", &["account-value", "coins"], vec![delete(lot, "win:a")]),
        ("a row vanishes", coins, vec![delete(rows, &spent)]),
        ("a row says more", coins, vec![inc(rows, &spent, doc! { "change": -1i64 })]),
        ("a row says another kind", coins, vec![set(rows, &spent, doc! { "type": "revoke" })]),
        ("a row names another order", coins, vec![set(rows, &spent, doc! { "orderId": kept.clone() })]),
        ("a row too many", coins, vec![Edit::Copy(rows, spent.clone(), doc! { "_id": "x|win:a" })]),
        ("a row of no lot", coins, vec![Edit::Copy(rows, spent.clone(), doc! { "_id": "x|y", "lotId": "win:none" })]),
        ("coins spent at their expiry", coins, vec![set("ledger", &tender, doc! { "at": date(a.expires_at) })]),
        ("coins expired early", coins, vec![set("ledger", dead, doc! { "at": date(now - TimeDelta::hours(2)) })]),
        ("an expiry vanishes", &["account-value"], vec![delete("ledger", dead)]),
        (
            "an expiry of another turn",
            coins,
            vec![
                Edit::Copy("ledger", dead.to_owned(), doc! { "_id": "coins:win:dead:expire-2" }),
                delete("ledger", dead),
            ],
        ),
        ("coins spent by somebody else", coins, vec![set("ledger", &tender, doc! { "userId": "u-demo" })]),
        (
            "coins under no rule",
            coins,
            vec![
                Edit::Insert(
                    "ledger",
                    doc! { "_id": "coins:win:a:gift", "at": date(now), "userId": "u-mia", "postings": legs("activityCoinLots/win:a#remaining", 1) },
                ),
                inc(lot, "win:a", doc! { "remaining": 1i64 }),
            ],
        ),
        ("coins are owed again", &["account-value"], vec![set("member_user", "u-mia", doc! { "coinsOwed": 1i64 })]),
        (
            "more is owed than was spent",
            coins,
            vec![
                set("ledger", &entry(&owed, "coin-revoke"), doc! { "postings": owed_legs.clone() }),
                set("member_user", "u-mia", doc! { "coinsOwed": 1i64 }),
            ],
        ),
        (
            "owed without a refund",
            coins,
            vec![
                Edit::Insert("ledger", doc! { "_id": "coins:u-mia:owe", "at": date(now), "postings": owed_legs }),
                set("member_user", "u-mia", doc! { "coinsOwed": 2i64 }),
            ],
        ),
        (
            "a coin taken back that no order granted",
            coins,
            vec![Edit::Copy(
                "ledger",
                entry(&owed, "coin-revoke"),
                doc! {
                "_id": entry(&redeemed, "coin-revoke"), "orderId": redeemed.clone(), "postings": [] },
            )],
        ),
        ("an order forgot its coin", &["order-amounts"], vec![set("orders", &kept, doc! { "coinsEarned": 0i64 })]),
        ("an order used more coins", effects, vec![inc("orders", &redeemed, doc! { "coinsUsed": 1i64 })]),
        ("a redemption used no coins", amounts, vec![set("orders", &redeemed, doc! { "coinsUsed": 0i64 })]),
        ("a redemption used no points", amounts, vec![set("orders", &redeemed, doc! { "pointsUsed": 0i64 })]),
        ("a redemption cost money", amounts, vec![set("orders", &redeemed, doc! { "totalAmount": 100i64 })]),
        ("a purchase used coins", amounts, vec![set("orders", &kept, doc! { "coinsUsed": 1i64 })]),
        (
            "a redemption is closed and gave nothing back",
            effects,
            vec![set("orders", &redeemed, doc! { "status": "closed" })],
        ),
        ("a cancelled redemption is paid", effects, vec![set("orders", &cancelled, doc! { "status": "paid" })]),
        (
            "a redemption was never paid",
            effects,
            vec![Edit::Update("orders", redeemed.clone(), doc! { "$unset": { "paidAt": "" } })],
        ),
        ("a cancelled sale was not taken back", effects, vec![delete("ledger", &entry(&cancelled, "settle-reversal"))]),
        ("points did not come back", effects, vec![delete("ledger", &entry(&cancelled, "tender-reversal"))]),
        (
            "pieces came back without a record",
            effects,
            vec![delete("records", &format!("{}:1", entry(&cancelled, "settle-reversal")))],
        ),
        (
            "coins went elsewhere",
            effects,
            vec![Edit::Update(
                "ledger",
                tender.clone(),
                doc! { "$set": { "postings.2.account": "activityCoinLots/win:a#remaining", "postings.2.amount": 0i64 } },
            )],
        ),
    ];
    let mut wrong = Vec::new();
    for (name, invariants, edits) in &damages {
        let mut undos = Vec::new();
        for edit in edits {
            undos.push(apply(&db, edit).await.map_err(|e| e.context(*name))?);
        }
        let report = world.store.audit(now).await?;
        let found: Vec<String> = report.violations.iter().map(|v| format!("{} {}", v.invariant, v.message)).collect();
        if !report.violations.iter().any(|v| invariants.contains(&v.invariant)) {
            wrong.push(format!("{name}: wanted {invariants:?}, got {found:?}"));
        }
        for step in undos.into_iter().rev() {
            undo(&db, step).await?;
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), damages.len(), wrong.join("\n"));
    world.finish().await
}
