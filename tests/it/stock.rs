//! Pieces moved by hand: booked with their rows, never below what orders hold.

use bson::doc;
use futures_util::future::join_all;
use it::{Answer, World, order_of};
use serde_json::{Value, json};

use crate::audit::{Edit, apply, database, undo};

fn event(action: &str, items: Value) -> Value {
    json!({ "action": action, "reason": "测试", "items": items })
}

async fn call(world: &World, event: Value) -> anyhow::Result<Answer> {
    world.client.call_service("stock", event).await
}

#[tokio::test]
async fn pieces_come_in_go_out_and_are_counted() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.client.login("demo").await?;
    let tea = json!({ "productId": "p-tea", "skuId": "s-grade3", "quantity": 2 });
    let mut both = event("in", json!([{ "productId": "p-apple", "quantity": 5 }, tea]));
    both["requestId"] = json!("stock-in-0001");
    let came = call(&world, both.clone()).await?;
    let items = json!([
        { "productId": "p-apple", "change": 5, "stock": 1005 },
        { "productId": "p-tea", "skuId": "s-grade3", "change": 2, "stock": 5 },
    ]);
    assert_eq!(came.ok()["items"], items);
    assert_eq!(call(&world, both).await?.ok()["replayed"], true);
    let out = call(&world, event("out", json!([{ "productId": "p-apple", "quantity": 10 }]))).await?;
    assert_eq!(out.ok()["items"][0]["stock"], 995);

    // Two are sold while somebody counts: the three that are missing are missing from what is there now.
    world.client.call("submitOrder", &token, order_of("p-apple", 2)).await?.ok();
    let count = event("count", json!([{ "productId": "p-apple", "expected": 995, "counted": 992 }]));
    assert_eq!(
        call(&world, count).await?.ok()["items"],
        json!([{ "productId": "p-apple", "change": -3, "stock": 990 }])
    );
    let same = event("count", json!([{ "productId": "p-rice", "expected": 500, "counted": 500 }]));
    assert_eq!(call(&world, same).await?.ok()["entryId"], Value::Null);

    let records = call(&world, json!({ "action": "records", "productId": "p-apple" })).await?;
    let rows = records.ok()["data"].as_array().unwrap();
    let kinds: Vec<(&Value, &Value)> = rows.iter().map(|row| (&row["kind"], &row["quantity"])).collect();
    assert_eq!(kinds.len(), 3, "{rows:?}");
    assert!(rows.iter().all(|row| row["by"] == "service local-crm" && row["orderId"] == Value::Null), "{rows:?}");
    let first = call(&world, json!({ "action": "records", "limit": 1 })).await?;
    let rest = json!({ "action": "records", "after": first.ok()["nextCursor"] });
    assert_eq!(call(&world, rest).await?.ok()["data"].as_array().unwrap().len(), 3);

    let low = call(&world, json!({ "action": "low", "limitPieces": 5 })).await?;
    let ids: Vec<&Value> = low.ok()["data"].as_array().unwrap().iter().map(|row| &row["productId"]).collect();
    assert_eq!(ids, ["p-tea", "p-last"]);
    assert_eq!(low.body["data"][0]["skus"], json!([{ "skuId": "s-grade3", "name": "珍藏", "stock": 5 }]));

    // All or nothing, and never what orders hold.
    let most = json!([{ "productId": "p-rice", "quantity": 1 }, { "productId": "p-last", "quantity": 2 }]);
    let refused = call(&world, event("out", most)).await?;
    refused.refused(409, "OUT_OF_STOCK");
    assert_eq!((&refused.body["details"]["available"], world.stock("p-rice").await?), (&json!(1), 500));
    let gone = call(&world, event("in", json!([{ "productId": "p-none", "quantity": 1 }]))).await?;
    gone.refused(404, "PRODUCT_NOT_FOUND");
    // Where there are SKUs, they hold the pieces.
    call(&world, event("in", json!([{ "productId": "p-tea", "quantity": 1 }])))
        .await?
        .refused(404, "PRODUCT_NOT_FOUND");
    for (event, field) in [
        (json!({ "action": "in", "items": [{ "productId": "p-apple", "quantity": 1 }] }), "reason"),
        (event("in", json!([])), "items"),
        (event("in", json!([{ "productId": "a b", "quantity": 1 }])), "items[0].productId"),
        (event("out", json!([{ "productId": "p-apple", "quantity": 0 }])), "items[0].quantity"),
        (event("count", json!([{ "productId": "p-apple", "counted": 1 }])), "items[0].expected"),
        (
            event("in", json!([{ "productId": "p-apple", "quantity": 1 }, { "productId": "p-apple", "quantity": 1 }])),
            "items[1].productId",
        ),
        (json!({ "action": "low", "limitPieces": -1 }), "limitPieces"),
        (json!({ "action": "lose" }), "action"),
    ] {
        let answer = call(&world, event.clone()).await?;
        answer.refused(400, "INVALID_ARGUMENT");
        assert_eq!(answer.body["details"]["field"], field, "{event}");
    }
    world.client.call("stock", &token, json!({ "action": "low" })).await?.refused(403, "FORBIDDEN");
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_last_piece_taken_out_and_bought_at_once_one_succeeds() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.client.login("demo").await?;
    for _ in 0..5 {
        let taken = (0..3).map(|_| call(&world, event("out", json!([{ "productId": "p-last", "quantity": 1 }]))));
        let bought = (0..3).map(|_| world.client.call("submitOrder", &token, order_of("p-last", 1)));
        let (taken, bought) = tokio::join!(join_all(taken), join_all(bought));
        let answers = taken.into_iter().chain(bought).collect::<Result<Vec<_>, _>>()?;
        assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 1, "{answers:?}");
        call(&world, event("in", json!([{ "productId": "p-last", "quantity": 1 }]))).await?.ok();
    }
    assert_eq!(world.stock("p-last").await?, 1);
    world.finish().await
}

#[tokio::test]
async fn a_deleted_product_is_nowhere_to_be_had_and_its_orders_stay() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("demo").await?;
    let order = c.call("submitOrder", &token, order_of("p-apple", 1)).await?.text("orderId");
    let delete = json!({ "productId": "p-apple" });
    for _ in 0..2 {
        assert_eq!(c.call_service("deleteProduct", delete.clone()).await?.ok()["deleted"], true);
    }
    c.call("products", "", json!({ "action": "get", "productId": "p-apple" })).await?.refused(404, "PRODUCT_NOT_FOUND");
    c.call("submitOrder", &token, order_of("p-apple", 1)).await?.refused(404, "PRODUCT_NOT_FOUND");
    call(&world, event("in", json!([{ "productId": "p-apple", "quantity": 1 }])))
        .await?
        .refused(404, "PRODUCT_NOT_FOUND");
    c.call("orders", &token, json!({ "action": "cancel", "orderId": order })).await?.ok();
    c.call_service("deleteProduct", json!({ "productId": "p-none" })).await?.refused(404, "PRODUCT_NOT_FOUND");
    c.call("deleteProduct", &token, delete).await?.refused(403, "FORBIDDEN");
    world.finish().await
}

#[tokio::test]
async fn the_audit_sees_damage_to_what_was_moved_by_hand() -> anyhow::Result<()> {
    let world = World::start().await?;
    let db = database(&world).await?;
    let moved = json!([{ "productId": "p-apple", "quantity": 5 }, { "productId": "p-rice", "quantity": 2 }]);
    let entry = call(&world, event("in", moved)).await?.text("entryId");
    world.client.call_service("deleteProduct", json!({ "productId": "p-eggs" })).await?.ok();
    assert_eq!(world.violations().await?, Vec::<String>::new());
    let row = format!("{entry}:1");
    let set = |collection, id: &str, fields| Edit::Update(collection, id.to_owned(), doc! { "$set": fields });
    for (name, edit) in [
        ("a row vanishes", Edit::Delete("records", row.clone())),
        ("a row tells another number", set("records", &row, doc! { "quantity": 4i64 })),
        ("a row tells the other direction", set("records", &row, doc! { "type": "out" })),
        ("a row tells of other goods", set("records", &row, doc! { "productId": "p-tea" })),
        ("a row tells no reason", Edit::Update("records", row.clone(), doc! { "$unset": { "reason": "" } })),
        ("a row is there twice", Edit::Copy("records", row.clone(), doc! { "_id": "copy" })),
        ("a row without an entry", Edit::Copy("records", row.clone(), doc! { "_id": "copy", "entryId": "stock:x:in" })),
        ("the entry is gone", Edit::Delete("ledger", entry.clone())),
        ("the entry is there under another name", Edit::Copy("ledger", entry.clone(), doc! { "_id": "lost:x:in" })),
        ("what is deleted is sold", set("shopProducts", "p-eggs", doc! { "status": "onSale" })),
    ] {
        let before = apply(&db, &edit).await?;
        let report = world.store.audit(world.app.clock.now()).await?;
        let names: Vec<&str> = report.violations.iter().map(|v| v.invariant).collect();
        assert!(names.contains(&"stock"), "{name}: {names:?}");
        undo(&db, before).await?;
    }
    world.finish().await
}
