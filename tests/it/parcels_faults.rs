//! Parcels when processes die in the middle, and when somebody changes them behind the back of the store.

use bson::{Bson, doc};
use it::{database_name, mongod_uri, order_of, settle_down, violations};
use serde_json::{Value, json};
use store::outbox::OutboxStatus;
use store::{Store, StoreConfig};

use crate::audit::{Edit, apply, database, undo};
use crate::crash::{free_port, persist, start};
use crate::events::world;
use crate::parcels::moved;
use crate::shipping::{paid, parcel, ship};

const NUMBER: &str = "YT9000000001";

/// Ships an order, follows its parcel, has it looked at and signed for; every step may be repeated.
async fn deliver(client: &it::Client, request: &str, token: &str) -> anyhow::Result<String> {
    let mut event = order_of("p-apple", 1);
    event["requestId"] = json!(request);
    let order = persist(client, "submitOrder", token, event).await?.text("orderId");
    persist(client, "wxPay", token, json!({ "orderId": order })).await?;
    client.pay(&order, "once").await?;
    persist(client, "wxPay", token, json!({ "orderId": order, "action": "query" })).await?;
    for _ in 0..40 {
        let shipped = client.call_service("orders", parcel(&order, NUMBER)).await?;
        if shipped.body["retryable"] != true {
            shipped.ok();
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
    client.timer("deliverOutbox").await?;
    persist(client, "logistics", token, json!({ "action": "query", "orderId": order })).await?.ok();
    let event = json!({ "com": "yuantong", "num": NUMBER, "state": "301", "retry": true });
    client.control("parcel", event).await?.ok();
    client.timer("deliverOutbox").await?;
    Ok(order)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_loses_no_parcel() -> anyhow::Result<()> {
    let uri = mongod_uri().await?;
    for point in ["ship.inside", "parcel.subscribed", "parcel.asking", "parcel.inside", "parcel.received"] {
        let database = database_name();
        let data_dir = std::env::temp_dir().join(format!("jinlu-it-parcel-{}", database));
        let port = free_port()?;
        let host = start(&uri, &database, &data_dir, port, Some(point))?;
        let first = host.client.clone();
        let request = format!("parcel-{}", point.replace('.', "-"));
        host.killed_at(point, async {
            let token = first.login("alice").await?;
            deliver(&first, &request, &token).await?;
            Ok(())
        })
        .await?;
        // The simulators of the new life know nothing of the old one, as if the news had got lost.
        let host = start(&uri, &database, &data_dir, port, None)?;
        let c = &host.client;
        tokio::time::sleep(std::time::Duration::from_secs(13)).await;
        let token = c.login("alice").await?;
        let store = Store::new(StoreConfig::new(uri.as_str(), database.as_str()));
        let orders = store.peek("orders", 10).await?;
        assert_eq!(orders.len(), 1, "{point}");
        let order = orders[0]["_id"].as_str().unwrap().to_owned();
        let shipped = c.call_service("orders", parcel(&order, NUMBER)).await?;
        assert!(shipped.status == 200 || point == "ship.inside", "{point}: {shipped:?}");
        // The lease of what was being delivered runs out.
        c.advance(180).await?;
        settle_down(c).await?;
        let event = json!({ "com": "yuantong", "num": NUMBER, "state": "301", "retry": true });
        c.control("parcel", event).await?.ok();
        c.advance(5 * 3600).await?;
        c.call("logistics", &token, json!({ "action": "query", "orderId": order })).await?.ok();
        settle_down(c).await?;
        let parcels = store.peek("parcels", 10).await?;
        assert_eq!(parcels.len(), 1, "{point}");
        assert_eq!(parcels[0]["state"], "signed", "{point}: {}", parcels[0]);
        let subscription = store.outbox_item(&format!("parcel:YTO:{NUMBER}:1")).await?.unwrap();
        assert_eq!(subscription.status, OutboxStatus::Delivered, "{point}: {subscription:?}");
        let told = store.outbox_item(&format!("message:order:{order}:arrived")).await?;
        assert!(told.is_some(), "{point}");
        let now = chrono::DateTime::parse_from_rfc3339(
            shipped.body["shipping"]["shippedAt"].as_str().unwrap_or("2027-01-01T00:00:00Z"),
        )?;
        let found = violations(&store, now.to_utc() + chrono::TimeDelta::hours(6)).await?;
        assert!(found.is_empty(), "{point}: {found:?}");
        store.drop_database().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_sees_damaged_parcels() -> anyhow::Result<()> {
    let world = world().await?;
    let c = &world.client;
    let db = database(&world).await?;
    let token = c.login("alice").await?;
    let (signed, on_way) = ("YT9000000002", "YT9000000003");
    let mut orders = Vec::new();
    for number in [signed, on_way] {
        let order = paid(&world, &token).await?;
        ship(&world, &order, number).await?.ok();
        orders.push(order);
    }
    let loose = paid(&world, &token).await?;
    ship(&world, &loose, "1").await?.ok();
    c.timer("deliverOutbox").await?.ok();
    moved(&world, signed, json!({ "state": "3" })).await?;
    moved(&world, on_way, json!({ "state": "1002" })).await?;
    c.timer("deliverOutbox").await?.ok();
    let found = world.violations().await?;
    assert!(found.is_empty(), "nothing is damaged yet: {found:?}");
    let id = |number: &str| format!("YTO:{number}");
    let set = |collection, id: String, fields| Edit::Update(collection, id, doc! { "$set": fields });
    let now = bson::DateTime::from_chrono(world.app.clock.now());
    let arrived = format!("message:order:{}:arrived", orders[0]);
    for (name, invariant, edit) in [
        ("a parcel vanishes", "parcel", Edit::Delete("parcels", id(signed))),
        ("a state is moved back", "parcel", set("parcels", id(signed), doc! { "state": "inTransit" })),
        ("a receipt is forged", "parcel", set("orders", orders[1].clone(), doc! { "shipping.parcel.arrivedAt": now })),
        (
            "an arrival is forgotten",
            "parcel",
            Edit::Update("orders", orders[0].clone(), doc! { "$unset": { "shipping.parcel.arrivedAt": "" } }),
        ),
        (
            "an order forgets its parcel",
            "parcel",
            Edit::Update("orders", orders[1].clone(), doc! { "$unset": { "shipping.parcel": "" } }),
        ),
        ("a parcel forgets its order", "parcel", set("parcels", id(on_way), doc! { "orders": Bson::Array(vec![]) })),
        (
            "an order shows another parcel",
            "parcel",
            set("orders", orders[1].clone(), doc! { "shipping.parcel.id": id(signed) }),
        ),
        ("a mark is taken away", "parcel", set("parcels", id(on_way), doc! { "state": "returning" })),
        ("it was asked about too often", "parcel", set("parcels", id(on_way), doc! { "queries": [now, now] })),
        ("a trace is reordered", "parcel", set("parcels", id(on_way), doc! { "newestAt": now })),
        ("it is open for ever", "parcel", set("parcels", id(signed), doc! { "open": true })),
        ("its subscription is gone", "parcel", Edit::Delete("outbox", format!("parcel:{}:1", id(on_way)))),
        (
            "its subscription was not delivered",
            "parcel",
            set("parcels", id(on_way), doc! { "subscription.state": "pending" }),
        ),
        (
            "a subscription that nobody made",
            "parcel",
            Edit::Copy(
                "outbox",
                format!("parcel:{}:1", id(on_way)),
                doc! { "_id": format!("parcel:{}:7", id(on_way)) },
            ),
        ),
        (
            "an arrival that did not happen is told",
            "event",
            Edit::Copy(
                "outbox",
                arrived,
                doc! { "_id": format!("message:order:{}:arrived", orders[1]), "orderId": orders[1].as_str() },
            ),
        ),
    ] {
        let before = apply(&db, &edit).await?;
        let report = world.store.audit(world.app.clock.now()).await?;
        let names: Vec<&str> = report.violations.iter().map(|v| v.invariant).collect();
        assert!(names.contains(&invariant), "{name}: {names:?}");
        undo(&db, before).await?;
    }
    let audited: Value = serde_json::to_value(world.store.audit(world.app.clock.now()).await?.checked)?;
    assert_eq!(audited["parcels"], 2);
    world.finish().await
}
