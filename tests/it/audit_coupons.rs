//! The audit sees what was done to coupons behind the back of the store, and claims that broke off are settled.

use bson::{Document, doc};
use it::{World, order_of};
use serde_json::json;

use crate::audit::{Edit, apply, database, undo};
use crate::coupons::{claim, issue};

#[tokio::test]
async fn the_audit_sees_damaged_coupons() -> anyhow::Result<()> {
    let world = World::start().await?;
    let db = database(&world).await?;
    let c = &world.client;
    let token = c.login("demo").await?;
    issue(&world, "cp", json!({ "total": 3 })).await?;
    let mut coupons = Vec::new();
    for _ in 0..3 {
        coupons.push(claim(&world, &token, "cp").await?.text("userCouponId"));
    }
    let mut orders = Vec::new();
    for coupon in &coupons[..2] {
        let mut event = order_of("p-apple", 1);
        event["userCouponId"] = json!(coupon);
        orders.push(c.call("submitOrder", &token, event).await?.text("orderId"));
    }
    c.call("wxPay", &token, json!({ "orderId": orders[0] })).await?.ok();
    c.pay(&orders[0], "once").await?;
    let found = world.violations().await?;
    assert!(found.is_empty(), "nothing is damaged yet: {found:?}");

    let (used, locked, unused) = (&coupons[0], &coupons[1], &coupons[2]);
    let held = |id: &str, change: Document| Edit::Update("userCoupons", id.to_owned(), change);
    let damages = [
        ("counted once more", Edit::Update("coupons", "cp".into(), doc! { "$inc": { "claimed": 1i64 } })),
        ("more than there are", Edit::Update("coupons", "cp".into(), doc! { "$set": { "total": 2i64 } })),
        ("a coupon vanishes", Edit::Delete("userCoupons", unused.clone())),
        ("its definition vanishes", Edit::Delete("coupons", "cp".into())),
        ("handed out uncounted", Edit::Copy("userCoupons", unused.clone(), doc! { "_id": "copy", "seq": 9i64 })),
        ("used again", held(used, doc! { "$set": { "status": "unused" } })),
        ("free while an order holds it", held(locked, doc! { "$set": { "status": "unused" } })),
        ("used before it is paid", held(locked, doc! { "$set": { "status": "used" } })),
        ("locked after it is paid", held(used, doc! { "$set": { "status": "locked" } })),
        ("held by another order", held(used, doc! { "$set": { "orderId": &orders[1] } })),
        ("of somebody else", held(used, doc! { "$set": { "userId": "u-nobody" } })),
        ("worth more than it was", held(used, doc! { "$inc": { "terms.benefit.off": 1i64 } })),
        ("used outside of its window", held(used, doc! { "$set": { "validUntil": bson::DateTime::from_millis(0) } })),
        ("returned and still used", held(used, doc! { "$set": { "returnedFrom": [&orders[0]] } })),
        ("returned by an unpaid order", held(unused, doc! { "$set": { "returnedFrom": [&orders[1]] } })),
        ("the order forgets it", Edit::Update("orders", orders[0].clone(), doc! { "$unset": { "userCouponId": "" } })),
        (
            "the order names another",
            Edit::Update("orders", orders[0].clone(), doc! { "$set": { "userCouponId": unused } }),
        ),
    ];
    for (name, edit) in &damages {
        let step = apply(&db, edit).await.map_err(|e| e.context(*name))?;
        let report = world.store.audit(world.app.clock.now()).await?;
        assert!(report.violations.iter().any(|v| v.invariant == "coupon"), "{name}: {:?}", report.violations);
        undo(&db, step).await?;
    }
    world.finish().await
}

/// Every moment at which a claim can break off, as it stands in the database then.
#[tokio::test]
async fn claims_that_broke_off_are_settled() -> anyhow::Result<()> {
    let world = World::start().await?;
    let db = database(&world).await?;
    let token = world.client.login("demo").await?;
    issue(&world, "cp", json!({ "total": 4, "perUser": 4 })).await?;
    let mut coupons = Vec::new();
    for _ in 0..3 {
        coupons.push(claim(&world, &token, "cp").await?.text("userCouponId"));
    }
    let at = bson::DateTime::from_chrono(world.app.clock.now());
    let marker = |id: &str| doc! { "id": id, "at": at };
    let edits = [
        // Inserted and not counted.
        Edit::Update("userCoupons", coupons[0].clone(), doc! { "$set": { "status": "claiming" } }),
        Edit::Update("coupons", "cp".into(), doc! { "$inc": { "claimed": -1i64 } }),
        // Counted and not opened.
        Edit::Update("userCoupons", coupons[1].clone(), doc! { "$set": { "status": "claiming" } }),
        Edit::Update("coupons", "cp".into(), doc! { "$push": { "markers": marker(&coupons[1]) } }),
        // Opened, its marker still there.
        Edit::Update("coupons", "cp".into(), doc! { "$push": { "markers": marker(&coupons[2]) } }),
        // Counted after it was taken for dead and removed.
        Edit::Update(
            "coupons",
            "cp".into(),
            doc! { "$inc": { "claimed": 1i64 }, "$push": { "markers": marker("gone") } },
        ),
    ];
    for (i, edit) in edits.iter().enumerate() {
        apply(&db, edit).await?;
        // Half of the first two steps is no state that a claim leaves behind.
        if i != 0 && i != 2 {
            assert_eq!(world.violations().await?, Vec::<String>::new());
        }
    }
    world.client.advance(61).await?;
    let run = world.client.call_service("expireCoupons", json!({})).await?;
    assert_eq!((&run.ok()["opened"], &run.body["removed"], &run.body["uncounted"]), (&json!(1), &json!(1), &json!(1)));
    let stats = world.client.call_service("couponAdmin", json!({ "action": "stats", "couponId": "cp" })).await?;
    assert_eq!((&stats.ok()["claimed"], &stats.body["states"]["unused"]), (&json!(2), &json!(2)));
    // The number that was freed is used again.
    claim(&world, &token, "cp").await?.ok();
    claim(&world, &token, "cp").await?.ok();
    claim(&world, &token, "cp").await?.refused(422, "COUPON_NOT_APPLICABLE");
    world.finish().await
}
