//! The audit must see messages and reports without their cause, and causes without what they call for.

use bson::{Bson, doc};
use chrono::TimeDelta;
use it::order_of;
use serde_json::json;

use crate::audit::{Edit, apply, database, undo};
use crate::coins::{give, verified};
use crate::events::{agree, world};
use crate::lottery::{activity_open_at, create, draw, people, sign_up};
use crate::shipping::{paid, ship};

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_sees_damage_to_what_was_told_and_reported() -> anyhow::Result<()> {
    let world = world().await?;
    let db = database(&world).await?;
    let (c, now) = (&world.client, world.app.clock.now());
    let token = c.login("alice").await?;
    let shipped = paid(&world, &token).await?;
    ship(&world, &shipped, "1").await?.ok();
    let waiting = paid(&world, &token).await?;
    let open = c.call("submitOrder", &token, order_of("p-apple", 1)).await?.text("orderId");
    let wrong = c.call("submitOrder", &token, order_of("p-apple", 1)).await?.text("orderId");
    c.call("wxPay", &token, json!({ "orderId": wrong })).await?.ok();
    c.pay(&wrong, "wrongAmount").await?;
    for _ in 0..3 {
        c.advance(60).await?;
        c.timer("deliverOutbox").await?;
    }
    verified(&world.store, "mia", now).await?;
    agree(&world, "mia", "coinExpiring", 1).await?;
    give(&world.store, "mia", "m", 1, now - TimeDelta::hours(46)).await?;
    c.timer("expireCoins").await?.ok();
    let activity = create(&world, activity_open_at(world.app.clock.now())).await?;
    for token in people(c, 6).await? {
        sign_up(c, &token, &activity).await?.ok();
    }
    c.advance(660).await?;
    draw(c).await?;
    let found = world.violations().await?;
    assert!(found.is_empty(), "nothing is damaged yet: {found:?}");

    let rows = world.store.peek("outbox", 100).await?;
    let id_of = |prefix: &str| {
        let found = rows.iter().find(|row| row["_id"].as_str().unwrap().starts_with(prefix));
        found.unwrap_or_else(|| panic!("no {prefix}: {rows:?}"))["_id"].as_str().unwrap().to_owned()
    };
    let (report, paid_id) = (format!("shipping:{shipped}:1"), format!("message:order:{shipped}:paid"));
    let refund = id_of(&format!("message:order:{wrong}:refund:"));
    let (coins, win) = (id_of("message:coins:"), id_of("message:lottery:"));
    let set = |collection, id: &str, fields| Edit::Update(collection, id.to_owned(), doc! { "$set": fields });
    let unset =
        |collection, id: &str, field: &str| Edit::Update(collection, id.to_owned(), doc! { "$unset": { field: "" } });
    let copy = |id: &str, changes| Edit::Copy("outbox", id.to_owned(), changes);
    let right = {
        let mut parts = win.rsplitn(2, ':');
        let ticket = parts.next().unwrap();
        let round = parts.next().unwrap().trim_start_matches("message:lottery:");
        format!("{round}-{ticket}")
    };
    let of = |order: &str| Bson::from(order);
    // A reminder that was tried again is useful for longer.
    let later = bson::DateTime::from_chrono(now + TimeDelta::days(2));
    let redriven = apply(&db, &set("outbox", &coins, doc! { "redrives": 1i64, "expiresAt": later })).await?;
    let found = world.violations().await?;
    assert!(found.is_empty(), "{found:?}");
    undo(&db, redriven).await?;
    for (name, invariant, edit) in [
        ("shipping data vanishes", "shipping", unset("orders", &shipped, "shipping")),
        ("an order is unshipped", "shipping", set("orders", &shipped, doc! { "status": "paid" })),
        ("an order is shipped without data", "shipping", set("orders", &waiting, doc! { "status": "shipped" })),
        ("the report is gone", "shipping", Edit::Delete("outbox", report.clone())),
        ("no report is said to be made", "event", set("orders", &shipped, doc! { "shipping.reported": false })),
        (
            "a report of what was not shipped",
            "event",
            copy(&report, doc! { "_id": format!("shipping:{waiting}:1"), "orderId": of(&waiting) }),
        ),
        (
            "a payment that nobody made is told",
            "event",
            copy(&paid_id, doc! { "_id": format!("message:order:{open}:paid"), "orderId": of(&open) }),
        ),
        (
            "a shipment that nobody made is told",
            "event",
            copy(&paid_id, doc! { "_id": format!("message:order:{waiting}:shipped"), "orderId": of(&waiting) }),
        ),
        (
            "somebody else is told",
            "event",
            set("outbox", &paid_id, doc! { "payload": r#"{"openId":"o-demo","template":"orderPaid","values":{}}"# }),
        ),
        ("an unknown order is told of", "event", copy(&paid_id, doc! { "_id": "message:order:20261121NONE:paid" })),
        (
            "a refund that nobody got is told",
            "event",
            copy(&refund, doc! { "_id": format!("message:order:{wrong}:refund:RFX") }),
        ),
        ("coins that expire otherwise are told", "event", unset("outbox", &coins, "expiresAt")),
        ("coins of somebody else are told", "event", copy(&coins, doc! { "_id": "message:coins:u-demo:2026-11-21" })),
        ("a draw without the ticket is told", "event", copy(&win, doc! { "_id": format!("{win}0") })),
        ("a right that was won is gone", "event", Edit::Delete("lotteryQualifications", right)),
    ] {
        let before = apply(&db, &edit).await?;
        let report = world.store.audit(world.app.clock.now()).await?;
        let names: Vec<&str> = report.violations.iter().map(|v| v.invariant).collect();
        assert!(names.contains(&invariant), "{name}: {names:?}");
        undo(&db, before).await?;
    }
    world.finish().await
}
