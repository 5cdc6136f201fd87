//! What is for sale: found by filters, by price, by what people type.

use it::World;
use serde_json::{Value, json};

fn ids(body: &Value) -> Vec<&str> {
    body["data"].as_array().unwrap().iter().map(|row| row["_id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn lists_are_filtered_and_sorted_and_paged() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let list = |more: Value| {
        let mut event = json!({ "action": "list" });
        event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        c.call("products", "", event)
    };
    let all = list(json!({})).await?;
    assert_eq!(ids(all.ok()).len(), 10);
    let mall = list(json!({ "saleMode": "mall" })).await?;
    assert_eq!(ids(mall.ok()), ["p-mug"]);
    let plain = list(json!({ "saleMode": "shop", "priceMin": 45.5, "priceMax": 89.9 })).await?;
    assert_eq!(ids(plain.ok()), ["p-apple", "p-rice", "p-eggs", "p-last"]);

    // By price, page by page, there and back.
    let mut seen = Vec::new();
    let mut after = Value::Null;
    loop {
        let mut more = json!({ "sort": "priceAsc", "limit": 2 });
        if after != Value::Null {
            more["after"] = after;
        }
        let page = list(more).await?;
        seen.extend(ids(page.ok()).into_iter().map(str::to_owned));
        after = page.body["nextCursor"].clone();
        if after == Value::Null {
            break;
        }
    }
    let rising =
        ["p-sticker", "p-mug", "p-eggs", "p-apple", "p-last", "p-rice", "p-honey", "p-oil", "p-tea", "p-lottery"];
    assert_eq!(seen, rising);
    let falling = list(json!({ "sort": "priceDesc" })).await?;
    assert_eq!(ids(falling.ok()), rising.iter().rev().copied().collect::<Vec<_>>());
    let some = list(json!({ "category": "文创", "sort": "priceDesc", "limit": 1 })).await?;
    assert_eq!(ids(some.ok()), ["p-last"]);

    let token = c.login("demo").await?;
    c.call("submitOrder", &token, it::order_of("p-last", 1)).await?.ok();
    let gone = list(json!({ "category": "文创" })).await?;
    assert_eq!(ids(gone.ok()), ["p-sticker", "p-last"]);
    assert_eq!((&gone.body["data"][1]["soldOut"], &gone.body["data"][0]["soldOut"]), (&json!(true), &json!(false)));
    for sort in ["newest", "priceAsc"] {
        let there = list(json!({ "category": "文创", "inStock": true, "sort": sort })).await?;
        assert_eq!(ids(there.ok()), ["p-sticker"]);
    }
    // The second page of a list of what is in stock.
    let first = list(json!({ "inStock": true, "limit": 4 })).await?;
    let second = list(json!({ "inStock": true, "limit": 20, "after": first.ok()["nextCursor"] })).await?;
    assert_eq!((ids(&first.body).len(), ids(second.ok()).len()), (4, 5));
    for (more, field) in [
        (json!({ "sort": "best" }), "sort"),
        (json!({ "sort": "priceAsc", "after": "zz" }), "after"),
        (json!({ "sort": "priceAsc", "limit": 0 }), "limit"),
        (json!({ "priceMin": -1 }), "priceMin"),
        (json!({ "priceMin": 2, "priceMax": 1 }), "priceMax"),
        (json!({ "saleMode": "x" }), "saleMode"),
    ] {
        let answer = list(more.clone()).await?;
        answer.refused(400, "INVALID_ARGUMENT");
        assert_eq!(answer.body["details"]["field"], field, "{more}");
    }
    let categories = c.call("products", "", json!({ "action": "categories" })).await?;
    let rows = categories.ok()["data"].as_array().unwrap();
    assert_eq!(rows.len(), 8);
    assert!(rows.contains(&json!({ "name": "文创", "count": 2 })), "{rows:?}");
    world.finish().await
}

#[tokio::test]
async fn people_find_goods_by_chinese_pinyin_and_initials() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let old = json!({
        "_id": "p-jam", "name": "苹果酱", "category": "调料", "price": { "$numberLong": "100" }, "status": "onSale",
        "stock": { "$numberLong": "0" }, "skus": [], "createdAt": { "$date": "2026-02-01T00:00:00Z" },
    });
    world.store.open_document("shopProducts", &old, world.app.clock.now()).await?;
    for (query, found) in [
        ("苹果", &["p-jam", "p-apple"][..]),
        ("pingguo", &["p-jam", "p-apple"]),
        ("lcpg", &["p-apple"]),
        ("longj", &["p-tea"]),
        ("特级", &["p-tea"]),
        ("wucheng", &[]),
        ("大米 10kg", &["p-rice"]),
        ("挂历", &[]),
        ("？！", &[]),
    ] {
        let answer = c.call("products", "", json!({ "action": "search", "query": query })).await?;
        assert_eq!(ids(answer.ok()), found, "{query}");
    }
    let some = c.call("products", "", json!({ "action": "search", "query": "苹果", "inStock": true })).await?;
    assert_eq!(ids(some.ok()), ["p-apple"]);
    let first = c.call("products", "", json!({ "action": "search", "query": "苹果", "limit": 1 })).await?;
    let rest = json!({ "action": "search", "query": "苹果", "limit": 1, "after": first.ok()["nextCursor"] });
    let rest = c.call("products", "", rest).await?;
    assert_eq!((ids(rest.ok()), &rest.body["nextCursor"]), (vec!["p-apple"], &Value::Null));
    for query in [json!(" "), json!("字".repeat(41)), json!(5), json!({ "$ne": "" }), Value::Null] {
        let answer = c.call("products", "", json!({ "action": "search", "query": query })).await?;
        answer.refused(400, "INVALID_ARGUMENT");
        assert_eq!(answer.body["details"]["field"], "query", "{query}");
    }
    world.finish().await
}
