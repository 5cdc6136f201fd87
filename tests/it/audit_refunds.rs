//! The audit must see each kind of damage to refunds and to what they gave back.

use bson::{Bson, doc};
use it::{World, order_of};
use serde_json::json;

use crate::audit::{Edit, apply, database, undo};
use crate::refunds::{applied, deliver, item, paid, refunded, shop};

#[tokio::test]
async fn the_audit_sees_damaged_refunds() -> anyhow::Result<()> {
    let world = World::start().await?;
    let db = database(&world).await?;
    let token = world.linked_member().await?;
    crate::coupons::issue(&world, "cp", json!({})).await?;
    let coupon = crate::coupons::claim(&world, &token, "cp").await?.text("userCouponId");
    // Every tender; one box is back, another is asked for.
    let mut event = order_of("p-apple", 1);
    event["items"] = json!([{ "productId": "p-apple", "quantity": 6 }, { "productId": "p-honey", "quantity": 2 }]);
    for (field, value) in [
        ("paymentMethod", json!("prepaid")),
        ("prepaidAmount", json!(30)),
        ("pointsUsed", json!(8)),
        ("userCouponId", json!(coupon)),
    ] {
        event[field] = value;
    }
    let mixed = paid(&world, &token, event.clone()).await?;
    let items = json!([{ "lineId": "1", "quantity": 4 }, { "lineId": "2", "quantity": 2 }]);
    let back = refunded(&world, &token, &mixed, json!({ "items": items })).await?;
    let back = back["refundId"].as_str().unwrap().to_owned();
    let open = applied(&world, &token, &mixed, json!({ "items": item(1, 1) })).await?;
    // One under way at WeChat, one that failed, one that staff settled, one that was refunded as a whole with its coupon.
    let alice = world.client.login("alice").await?;
    let plain = paid(&world, &alice, order_of("p-apple", 3)).await?;
    let refund = async |n: i64| -> anyhow::Result<String> {
        let id = applied(&world, &alice, &plain, json!({ "items": item(1, n) })).await?;
        shop(&world, "approve", &id, json!({})).await?.ok();
        world.client.timer("deliverOutbox").await?;
        world.client.advance(61).await?;
        Ok(id)
    };
    let settled = refund(1).await?;
    let abnormal = |id: &str| json!({ "outRefundNo": id, "status": "ABNORMAL", "notify": "once" });
    world.client.control("refund", abnormal(&settled)).await?.ok();
    shop(&world, "settle", &settled, json!({ "remark": "转账" })).await?.ok();
    let failed = refund(1).await?;
    world.client.control("refund", abnormal(&failed)).await?.ok();
    let waiting = refund(1).await?;
    crate::coupons::issue(&world, "cp-2", json!({})).await?;
    let second = crate::coupons::claim(&world, &alice, "cp-2").await?.text("userCouponId");
    let mut event = order_of("p-apple", 1);
    event["userCouponId"] = json!(second);
    let whole = paid(&world, &alice, event).await?;
    let id = applied(&world, &alice, &whole, json!({})).await?;
    shop(&world, "approve", &id, json!({})).await?.ok();
    let found = world.violations().await?;
    assert!(found.is_empty(), "nothing is damaged yet: {found:?}");

    let update = |id: &str, change| Edit::Update("refunds", id.to_owned(), change);
    let order = |id: &str, change| Edit::Update("orders", id.to_owned(), change);
    let key = |id: &str, what: &str| format!("afterSale:{id}:{what}");
    let deduction = format!("{mixed}|amount");
    let damages = [
        ("a refund vanishes", Edit::Delete("refunds", back.clone())),
        ("an applied refund vanishes", Edit::Delete("refunds", open.clone())),
        ("its order vanishes", Edit::Delete("orders", plain.clone())),
        ("its entry vanishes", Edit::Delete("ledger", key(&back, "back"))),
        ("what WeChat gave vanishes", Edit::Delete("ledger", key(&back, "paid"))),
        ("what staff gave vanishes", Edit::Delete("ledger", key(&settled, "paid"))),
        ("WeChat gave it unasked", Edit::Copy("ledger", key(&back, "paid"), doc! { "_id": key(&waiting, "paid") })),
        ("given back before approval", Edit::Copy("ledger", key(&back, "back"), doc! { "_id": key(&open, "back") })),
        ("an entry of no refund", Edit::Copy("ledger", key(&back, "back"), doc! { "_id": "afterSale:NONE-R1:back" })),
        ("refunded by hand", update(&waiting, doc! { "$set": { "status": "refunded" } })),
        ("approved by hand", update(&open, doc! { "$set": { "status": "refunding" } })),
        ("rejected after it was given", update(&back, doc! { "$set": { "status": "rejected" } })),
        ("more pieces than the plan", update(&open, doc! { "$inc": { "items.0.quantity": 1i64 } })),
        ("more is given", update(&back, doc! { "$inc": { "plan.given.paymentAmount": 1i64 } })),
        ("more is due", update(&open, doc! { "$inc": { "plan.lines.0.due.paymentAmount": 100_000i64 } })),
        (
            "more pieces than were bought",
            update(&open, doc! { "$inc": { "plan.lines.0.quantity": 6i64, "items.0.quantity": 6i64 } }),
        ),
        ("more points", update(&back, doc! { "$inc": { "plan.given.pointsUsed": 1i64 } })),
        ("points taken otherwise", update(&back, doc! { "$inc": { "given.pointsTaken": 1i64 } })),
        ("points owed otherwise", update(&back, doc! { "$inc": { "given.pointsOwed": 1i64 } })),
        ("stock that did not come back", update(&back, doc! { "$set": { "given.restocked": false } })),
        ("stock that waits for ever", update(&back, doc! { "$set": { "stockRelease": ["p-tea"] } })),
        ("a coupon that did not come back", update(&back, doc! { "$set": { "given.couponReturned": true } })),
        ("a coupon came back unsaid", update(&id, doc! { "$set": { "given.couponReturned": false } })),
        ("of somebody else", update(&back, doc! { "$set": { "userId": "u-nobody" } })),
        ("of another order", update(&open, doc! { "$set": { "orderId": &plain, "seq": 9i64 } })),
        ("counted otherwise", update(&open, doc! { "$set": { "seq": 7i64 } })),
        ("another revision", update(&open, doc! { "$inc": { "revision": 1i64 } })),
        ("a step that there is not", update(&back, doc! { "$pop": { "timeline": -1i32 } })),
        ("a number without reason", update(&open, doc! { "$set": { "numbers": [{ "outRefundNo": &open }] } })),
        (
            "a replaced number",
            update(&waiting, doc! { "$push": { "numbers": { "outRefundNo": format!("{waiting}-2") } } }),
        ),
        ("another number", update(&waiting, doc! { "$set": { "numbers.0.outRefundNo": "X" } })),
        ("WeChat never said so", update(&back, doc! { "$unset": { "numbers.0.state": "" } })),
        ("settled elsewhere", update(&back, doc! { "$set": { "settledElsewhere": true } })),
        ("not settled elsewhere", update(&settled, doc! { "$unset": { "settledElsewhere": "" } })),
        ("nobody asks WeChat", Edit::Delete("outbox", format!("afterSale:{waiting}:1"))),
        (
            "WeChat counts as asked",
            Edit::Update("outbox", format!("afterSale:{waiting}:1"), doc! { "$set": { "status": "delivered" } }),
        ),
        (
            "an item of no refund",
            Edit::Copy("outbox", format!("afterSale:{back}:1"), doc! { "_id": "afterSale:NONE-R1:1" }),
        ),
        ("the order forgets", order(&mixed, doc! { "$unset": { "refundState": "" } })),
        ("the order says more", order(&mixed, doc! { "$set": { "refundState": "refunded" } })),
        ("the order counts otherwise", order(&mixed, doc! { "$inc": { "refundRevision": 1i64 } })),
        ("a closed order", order(&plain, doc! { "$set": { "status": "closed" } })),
        ("a stock record vanishes", Edit::Delete("records", format!("{}:1", key(&back, "back")))),
        (
            "more stock came in",
            Edit::Update("records", format!("{}:1", key(&back, "back")), doc! { "$inc": { "quantity": 1i64 } }),
        ),
        (
            "prepaid gives more",
            Edit::Update("prepaidDeductions", deduction.clone(), doc! { "$inc": { "refunds.0.amount": 1i64 } }),
        ),
        (
            "prepaid gave nothing",
            Edit::Update("prepaidDeductions", deduction.clone(), doc! { "$unset": { "refunds": "" } }),
        ),
        (
            "prepaid is not all back",
            Edit::Update("prepaidDeductions", deduction, doc! { "$set": { "status": "deducted" } }),
        ),
        ("the coin stays", Edit::Delete("ledger", format!("order:{mixed}:coin-revoke"))),
        ("points owed by hand", Edit::Update("member_user", "u-lin".into(), doc! { "$inc": { "pointsOwed": 1i64 } })),
        (
            "unreadable",
            update(
                &open,
                doc! { "$set": { "plan": Bson::Document(doc! { "lines": [], "freight": 1i32, "given": 1i32 }) } },
            ),
        ),
    ];
    for (name, edit) in &damages {
        let step = apply(&db, edit).await.map_err(|e| e.context(*name))?;
        let report = world.store.audit(world.app.clock.now()).await?;
        let seen = |v: &store::audit::Violation| {
            ["refund", "order-effects", "prepaid", "outbox", "account-value", "coins"].contains(&v.invariant)
        };
        assert!(report.violations.iter().any(seen), "{name}: {:?}", report.violations);
        undo(&db, step).await?;
    }
    shop(&world, "retry", &failed, json!({})).await?.ok();
    deliver(&world).await?;
    world.finish().await
}
