//! Carts: what goes in, what stands in the way of a line, and what two changes at once make of it.

use futures_util::future::join_all;
use it::{Answer, World};
use serde_json::{Value, json};

async fn call(world: &World, token: &str, event: Value) -> anyhow::Result<Answer> {
    world.client.call("cart", token, event).await
}

fn item(product: &str, quantity: i64) -> Value {
    json!({ "productId": product, "quantity": quantity })
}

fn add(items: Value) -> Value {
    json!({ "action": "add", "items": items })
}

/// Line, pieces and what is wrong with it.
fn lines(body: &Value) -> Vec<(&str, i64, &str)> {
    let line = |row: &Value| row["quantity"].as_i64().unwrap();
    let rows = body["data"].as_array().unwrap().iter();
    rows.map(|row| (row["lineId"].as_str().unwrap(), line(row), row["invalidReason"].as_str().unwrap_or(""))).collect()
}

#[tokio::test]
async fn lines_go_in_change_and_go() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.client.login("demo").await?;
    assert_eq!(lines(call(&world, &token, json!({ "action": "list" })).await?.ok()), []);
    let mut event = add(json!([item("p-apple", 2), { "productId": "p-tea", "skuId": "s-grade3", "quantity": 3 }]));
    event["requestId"] = json!("cart-add-0001");
    call(&world, &token, event.clone()).await?.ok();
    let again = call(&world, &token, event).await?;
    assert_eq!(again.ok()["replayed"], true);
    assert_eq!(lines(&again.body), [("p-tea/s-grade3", 3, ""), ("p-apple", 2, "")]);
    assert_eq!((&again.body["selectedQuantity"], &again.body["selectedAmount"]), (&json!(5), &json!(1864)));
    let more = call(&world, &token, add(json!([item("p-apple", 1), item("p-last", 1)]))).await?;
    assert_eq!(lines(more.ok()), [("p-last", 1, ""), ("p-apple", 3, ""), ("p-tea/s-grade3", 3, "")]);

    let update = json!({ "action": "update", "lineId": "p-last", "quantity": 2 });
    let updated = call(&world, &token, update).await?;
    assert_eq!(lines(updated.ok())[0], ("p-last", 2, "INSUFFICIENT"));
    assert_eq!(updated.body["selectedQuantity"], 6);
    let none = call(&world, &token, json!({ "action": "select", "selected": false })).await?;
    assert_eq!((&none.ok()["selectedQuantity"], &none.body["selectedAmount"]), (&json!(0), &json!(0)));
    let one =
        call(&world, &token, json!({ "action": "select", "selected": true, "lineIds": ["p-apple", "x"] })).await?;
    assert_eq!((&one.ok()["selectedQuantity"], &one.body["selectedAmount"]), (&json!(3), &json!(150)));
    let gone = call(&world, &token, json!({ "action": "remove", "lineIds": ["p-last", "x"] })).await?;
    assert_eq!(lines(gone.ok()), [("p-apple", 3, ""), ("p-tea/s-grade3", 3, "")]);
    assert_eq!(lines(call(&world, &token, json!({ "action": "clear" })).await?.ok()), []);

    for (event, status, code, field) in [
        (add(json!([])), 400, "INVALID_ARGUMENT", "items"),
        (add(json!([item("a b", 1)])), 400, "INVALID_ARGUMENT", "items[0].productId"),
        (add(json!([item("p-apple", 1), item("p-apple", 9999)])), 400, "INVALID_ARGUMENT", "items[1].quantity"),
        (add(json!([item("p-apple", 0)])), 400, "INVALID_ARGUMENT", "items[0].quantity"),
        (add(json!([item("p-tea", 1)])), 400, "INVALID_ARGUMENT", "items[0].skuId"),
        (add(json!([item("p-mug", 1)])), 400, "INVALID_ARGUMENT", "items[0].productId"),
        (json!({ "action": "update", "lineId": "p-apple" }), 400, "INVALID_ARGUMENT", "quantity"),
        (json!({ "action": "update", "lineId": "p-apple", "quantity": 1 }), 404, "NOT_FOUND", "lineId"),
        (json!({ "action": "remove" }), 400, "INVALID_ARGUMENT", "lineIds"),
        (json!({ "action": "select" }), 400, "INVALID_ARGUMENT", "selected"),
        (json!({ "action": "take" }), 400, "INVALID_ARGUMENT", "action"),
    ] {
        let answer = call(&world, &token, event.clone()).await?;
        answer.refused(status, code);
        assert_eq!(answer.body["details"]["field"], field, "{event}");
    }
    call(&world, &token, add(json!([item("p-apple", 1), item("p-off", 1)]))).await?.refused(404, "PRODUCT_NOT_FOUND");
    assert_eq!(lines(call(&world, &token, json!({ "action": "list" })).await?.ok()), []);
    call(&world, "", json!({ "action": "list" })).await?.refused(401, "UNAUTHENTICATED");
    world.finish().await
}

#[tokio::test]
async fn a_merge_keeps_the_greater_number_and_tells_what_it_left_out() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.client.login("demo").await?;
    call(&world, &token, add(json!([item("p-apple", 5), item("p-rice", 1)]))).await?.ok();
    let guest = [item("p-apple", 2), item("p-rice", 4), item("p-off", 1), item("p-mug", 1), item("p-lottery", 1)];
    let event = json!({ "action": "merge", "items": guest });
    for _ in 0..2 {
        let merged = call(&world, &token, event.clone()).await?;
        assert_eq!(lines(merged.ok()), [("p-rice", 4, ""), ("p-apple", 5, "")]);
        let skipped = json!([
            { "lineId": "p-off", "reason": "OFF_SHELF" }, { "lineId": "p-mug", "reason": "MALL_ONLY" },
            { "lineId": "p-lottery", "reason": "LOTTERY_ONLY" },
        ]);
        assert_eq!(merged.body["skipped"], skipped);
    }
    // Somebody else buys the last piece, and what was said of it before is true no longer.
    call(&world, &token, add(json!([item("p-last", 1)]))).await?.ok();
    let other = world.client.login("mia").await?;
    world.client.call("submitOrder", &other, it::order_of("p-last", 1)).await?.ok();
    let list = call(&world, &token, json!({ "action": "list" })).await?;
    assert_eq!(lines(list.ok())[0], ("p-last", 1, "SOLD_OUT"));
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_at_once_are_all_there_and_the_limit_holds() -> anyhow::Result<()> {
    let world = World::start().await?;
    let now = world.app.clock.now();
    let token = world.client.login("demo").await?;
    for n in 0..106 {
        let product = json!({
            "_id": format!("p-many-{n}"), "name": "货", "price": { "$numberLong": "100" }, "status": "onSale",
            "stock": { "$numberLong": "5" }, "skus": [], "createdAt": { "$date": "2026-01-01T00:00:00Z" },
        });
        world.store.open_document("shopProducts", &product, now).await?;
    }
    let many: Vec<Value> = (0..98).map(|n| item(&format!("p-many-{n}"), 1)).collect();
    call(&world, &token, add(json!(many))).await?.ok();
    let adds: Vec<Value> = (98..106).map(|n| add(json!([item(&format!("p-many-{n}"), 1)]))).collect();
    let answers = join_all(adds.into_iter().map(|event| call(&world, &token, event))).await;
    let answers = answers.into_iter().collect::<Result<Vec<_>, _>>()?;
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 2, "{answers:?}");
    answers.iter().filter(|answer| answer.status != 200).for_each(|answer| answer.refused(409, "CONFLICT"));
    let twice = (0..6).map(|_| call(&world, &token, add(json!([item("p-many-0", 1)]))));
    for answer in join_all(twice).await {
        answer?.ok();
    }
    let list = call(&world, &token, json!({ "action": "list" })).await?;
    assert_eq!(list.ok()["data"].as_array().unwrap().len(), 100);
    assert_eq!(lines(&list.body)[0], ("p-many-0", 7, "INSUFFICIENT"));
    let merge = json!({ "action": "merge", "items": [item("p-apple", 1)] });
    let merged = call(&world, &token, merge).await?;
    assert_eq!(merged.ok()["skipped"], json!([{ "lineId": "p-apple", "reason": "CART_FULL" }]));
    world.finish().await
}
