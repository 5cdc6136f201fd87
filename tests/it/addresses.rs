//! Addresses of members: their own, few, one default; those of the CRM to be used; orders copy them.

use bson::doc;
use futures_util::future::join_all;
use it::{Answer, World, order_of};
use serde_json::{Value, json};

use crate::audit::{Edit, apply, database};

fn place(detail: &str) -> Value {
    json!({ "userName": "张三", "telNumber": "13800138000", "provinceName": "浙江省", "cityName": "杭州市", "detailInfo": detail })
}

fn create(detail: &str) -> Value {
    json!({ "action": "create", "address": place(detail) })
}

async fn call(world: &World, token: &str, event: Value) -> anyhow::Result<Answer> {
    world.client.call("addresses", token, event).await
}

async fn listed(world: &World, token: &str) -> anyhow::Result<Vec<(String, bool)>> {
    let answer = call(world, token, json!({ "action": "list" })).await?;
    let rows = answer.ok()["data"].as_array().unwrap().clone();
    Ok(rows.iter().map(|row| (row["detail"].as_str().unwrap().to_owned(), row["isDefault"] == true)).collect())
}

fn rows(list: &[(&str, bool)]) -> Vec<(String, bool)> {
    list.iter().map(|(detail, default)| ((*detail).to_owned(), *default)).collect()
}

#[tokio::test]
async fn one_of_a_members_addresses_is_the_default() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.client.login("demo").await?;
    assert_eq!(listed(&world, &token).await?, []);
    let mut event = create("甲路 1 号");
    event["requestId"] = json!("address-create-1");
    let first = call(&world, &token, event.clone()).await?;
    assert_eq!((&first.ok()["isDefault"], &first.body["province"]), (&json!(true), &json!("浙江省")));
    let again = call(&world, &token, event).await?;
    assert_eq!((&again.ok()["replayed"], &again.body["_id"]), (&json!(true), &first.body["_id"]));
    world.client.advance(1).await?;
    let second = call(&world, &token, create("乙路 2 号")).await?;
    assert_eq!(second.ok()["isDefault"], false);
    world.client.advance(1).await?;
    let mut event = create("丙路 3 号");
    event["isDefault"] = json!(true);
    let third = call(&world, &token, event).await?.text("_id");
    let expected = rows(&[("丙路 3 号", true), ("乙路 2 号", false), ("甲路 1 号", false)]);
    assert_eq!(listed(&world, &token).await?, expected);

    let (first, second) = (first.text("_id"), second.text("_id"));
    call(&world, &token, json!({ "action": "setDefault", "addressId": first })).await?.ok();
    let change = json!({ "action": "update", "addressId": second, "address": place("丁路 4 号") });
    let changed = call(&world, &token, change).await?;
    assert_eq!((&changed.ok()["detail"], &changed.body["isDefault"]), (&json!("丁路 4 号"), &json!(false)));
    let gone = call(&world, &token, json!({ "action": "delete", "addressId": first })).await?;
    // The newest takes the place of the default.
    assert_eq!(gone.ok()["defaultAddressId"], json!(third));
    call(&world, &token, json!({ "action": "delete", "addressId": first })).await?.refused(404, "NOT_FOUND");
    assert_eq!(listed(&world, &token).await?, rows(&[("丙路 3 号", true), ("丁路 4 号", false)]));

    // Of nobody else's is told even that they are there.
    let other = world.client.login("mia").await?;
    for action in ["get", "setDefault", "delete"] {
        call(&world, &other, json!({ "action": action, "addressId": third })).await?.refused(404, "NOT_FOUND");
    }
    let theirs = json!({ "action": "update", "addressId": third, "address": place("x") });
    call(&world, &other, theirs).await?.refused(404, "NOT_FOUND");
    call(&world, "", json!({ "action": "list" })).await?.refused(401, "UNAUTHENTICATED");
    for (event, field) in [
        (json!({ "action": "create" }), "address"),
        (json!({ "action": "create", "address": { "name": "x", "phone": "1", "detail": " " } }), "address.detail"),
        (json!({ "action": "create", "address": { "name": "x", "phone": "abc", "detail": "y" } }), "address.phone"),
        (json!({ "action": "get" }), "addressId"),
        (json!({ "action": "get", "addressId": "a b" }), "addressId"),
        (json!({ "action": "drop" }), "action"),
    ] {
        let answer = call(&world, &token, event.clone()).await?;
        answer.refused(400, "INVALID_ARGUMENT");
        assert_eq!(answer.body["details"]["field"], field, "{event}");
    }
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_made_at_once_stay_within_twenty() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.client.login("demo").await?;
    for n in 0..16 {
        call(&world, &token, create(&format!("{n} 号"))).await?.ok();
    }
    let events: Vec<Value> = (0..8).map(|n| create(&format!("同时 {n} 号"))).collect();
    let answers = join_all(events.into_iter().map(|event| call(&world, &token, event))).await;
    let answers = answers.into_iter().collect::<Result<Vec<_>, _>>()?;
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 4, "{answers:?}");
    answers.iter().filter(|answer| answer.status != 200).for_each(|answer| answer.refused(409, "CONFLICT"));
    let rows = listed(&world, &token).await?;
    assert_eq!((rows.len(), rows.iter().filter(|(_, default)| *default).count()), (20, 1));
    world.finish().await
}

#[tokio::test]
async fn orders_go_to_an_address_by_its_id_and_keep_it() -> anyhow::Result<()> {
    let world = World::start().await?;
    let (c, now) = (&world.client, world.app.clock.now());
    let token = c.login("demo").await?;
    let id = call(&world, &token, create("甲路 1 号")).await?.text("_id");
    let to = |id: &str| {
        let mut event = order_of("p-apple", 1);
        event.as_object_mut().unwrap().remove("address");
        event["addressId"] = json!(id);
        event
    };
    let order = c.call("submitOrder", &token, to(&id)).await?.text("orderId");
    let change = json!({ "action": "update", "addressId": id, "address": place("乙路 2 号") });
    call(&world, &token, change).await?.ok();
    let kept = c.call("orders", &token, json!({ "action": "get", "orderId": order })).await?;
    assert_eq!(kept.ok()["address"]["detail"], "甲路 1 号");

    let other = c.login("mia").await?;
    let refused = c.call("submitOrder", &other, to(&id)).await?;
    refused.refused(404, "NOT_FOUND");
    assert_eq!(refused.body["details"]["field"], "addressId");
    c.call("submitOrder", &token, to("a b")).await?.refused(400, "INVALID_ARGUMENT");
    let mut both = order_of("p-apple", 1);
    both["addressId"] = json!(id);
    let refused = c.call("submitOrder", &token, both).await?;
    refused.refused(400, "INVALID_ARGUMENT");
    assert_eq!(refused.body["details"]["field"], "addressId");

    // What the CRM knows of somebody's customer is theirs to use, not to change.
    for (id, name) in [("a-crm", "李四"), ("a-half", "")] {
        let row = json!({
            "_id": id, "customerId": "c-demo", "name": name, "phone": "13900000000", "detail": "丙路 3 号",
            "createdAt": { "$date": "2026-01-01T00:00:00Z" },
        });
        world.store.open_document("customerAddresses", &row, now).await?;
    }
    c.call("submitOrder", &token, to("a-crm")).await?.refused(404, "NOT_FOUND");
    c.call("sendSMS", &token, json!({ "phone": "13800138000", "purpose": "bind" })).await?.ok();
    let linked = json!({ "openId": "o-demo", "phone": "13800138000", "name": "演示" });
    c.call_service("linkUserToCustomer", linked).await?.ok();
    assert_eq!(listed(&world, &token).await?.len(), 3);
    c.call("submitOrder", &token, to("a-crm")).await?.ok();
    c.call("submitOrder", &token, to("a-half")).await?.refused(400, "INVALID_ARGUMENT");
    call(&world, &token, json!({ "action": "delete", "addressId": "a-crm" })).await?.refused(403, "FORBIDDEN");
    call(&world, &token, json!({ "action": "setDefault", "addressId": "a-crm" })).await?.ok();
    assert_eq!(listed(&world, &token).await?[0], ("丙路 3 号".to_owned(), true));
    world.finish().await
}

#[tokio::test]
async fn a_default_that_went_with_its_customer_gives_way_to_the_next_address() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.linked_member().await?;
    let now = world.app.clock.now();
    let row = json!({
        "_id": "a-crm", "customerId": "c-lin", "name": "林女士", "phone": "13900000000", "detail": "丙路 3 号",
        "createdAt": { "$date": "2026-01-01T00:00:00Z" },
    });
    world.store.open_document("customerAddresses", &row, now).await?;
    call(&world, &token, json!({ "action": "setDefault", "addressId": "a-crm" })).await?.ok();
    assert_eq!(call(&world, &token, create("甲路 1 号")).await?.ok()["isDefault"], false);
    // The CRM moves the address to another customer.
    let moved = Edit::Update("customerAddresses", "a-crm".to_owned(), doc! { "$set": { "customerId": "c-demo" } });
    apply(&database(&world).await?, &moved).await?;
    assert_eq!(listed(&world, &token).await?, rows(&[("甲路 1 号", false)]));
    assert_eq!(call(&world, &token, create("乙路 2 号")).await?.ok()["isDefault"], true);
    assert!(listed(&world, &token).await?.contains(&("乙路 2 号".to_owned(), true)));
    world.finish().await
}
