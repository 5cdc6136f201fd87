//! Freight templates: kept whole, changed by one at a time, not deleted under a product.

use futures_util::future::join_all;
use it::{Answer, World};
use serde_json::{Value, json};

async fn call(world: &World, event: Value) -> anyhow::Result<Answer> {
    world.client.call_service("freight", event).await
}

fn template(name: &str) -> Value {
    let tariff = json!({ "first": 1, "firstFee": 8, "further": 1, "furtherFee": 2.5, "freeOverAmount": 99 });
    json!({
        "name": name, "measure": "piece", "default": tariff,
        "rules": [
            { "places": [{ "province": "新疆" }, { "province": "西藏", "city": "拉萨市" }], "tariff": null },
            { "places": [{ "province": "浙江省" }], "tariff": { "first": 1, "firstFee": 0, "further": 0, "furtherFee": 0 } },
        ],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn templates_are_made_changed_given_to_products_and_deleted() -> anyhow::Result<()> {
    let world = World::start().await?;
    let create = json!({ "action": "create", "templateId": "ft-1", "template": template("全国") });
    let made = call(&world, create.clone()).await?;
    assert_eq!((&made.ok()["version"], &made.body["default"]["furtherFee"]), (&json!(1), &json!(2.5)));
    assert_eq!(made.body["rules"][0]["tariff"], Value::Null);
    call(&world, create).await?.refused(409, "CONFLICT");
    // Of those who read the same version, one changes it.
    let change = json!({ "action": "update", "templateId": "ft-1", "version": 1, "template": template("全国二") });
    let answers = join_all((0..5).map(|_| call(&world, change.clone()))).await;
    let answers = answers.into_iter().collect::<Result<Vec<_>, _>>()?;
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 1, "{answers:?}");
    let got = call(&world, json!({ "action": "get", "templateId": "ft-1" })).await?;
    assert_eq!((&got.ok()["version"], &got.body["name"]), (&json!(2), &json!("全国二")));
    let list = call(&world, json!({ "action": "list" })).await?;
    let ids: Vec<&Value> = list.ok()["data"].as_array().unwrap().iter().map(|row| &row["_id"]).collect();
    assert_eq!(ids, ["ft-1", "ft-heavy"]);

    let assign = |template: Value| json!({ "action": "assign", "templateId": template, "productIds": ["p-apple", "p-rice"], "weightG": 5000 });
    assert_eq!(call(&world, assign(json!("ft-1"))).await?.ok()["assigned"], 2);
    let product = world.store.product(&domain::ProductId::parse("p-apple")?).await?.unwrap();
    let sent_by = product.freight_template_id.map(String::from);
    assert_eq!((sent_by.as_deref(), product.weight_g), (Some("ft-1"), 5000));
    let delete = json!({ "action": "delete", "templateId": "ft-1" });
    call(&world, delete.clone()).await?.refused(409, "CONFLICT");
    call(&world, assign(json!("ft-none"))).await?.refused(404, "NOT_FOUND");
    call(&world, assign(Value::Null)).await?.ok();
    call(&world, delete.clone()).await?.ok();
    call(&world, delete).await?.refused(404, "NOT_FOUND");

    let with = |path: &str, value: Value| {
        let mut event = json!({ "action": "create", "template": template("x") });
        *event.pointer_mut(path).unwrap() = value;
        event
    };
    for (event, field) in [
        (json!({ "action": "create" }), "template"),
        (with("/template/name", json!(" ")), "template.name"),
        (with("/template/measure", json!("mile")), "template.measure"),
        (with("/template/default/first", json!(-1)), "tariff"),
        (with("/template/default/firstFee", json!(-1)), "template.default.firstFee"),
        (with("/template/rules/1/places/0/province", json!("新疆维吾尔自治区")), "rules[1].places"),
        (json!({ "action": "update", "templateId": "ft-1", "template": template("x") }), "version"),
        (json!({ "action": "get" }), "templateId"),
        (json!({ "action": "assign", "productIds": [] }), "productIds"),
        (json!({ "action": "assign", "productIds": ["a b"] }), "productIds[0]"),
        (json!({ "action": "assign", "productIds": ["p-apple"], "weightG": -1 }), "weightG"),
    ] {
        let answer = call(&world, event.clone()).await?;
        answer.refused(400, "INVALID_ARGUMENT");
        assert_eq!(answer.body["details"]["field"], field, "{event}");
    }
    let token = world.client.login("demo").await?;
    world.client.call("freight", &token, json!({ "action": "list" })).await?.refused(403, "FORBIDDEN");
    world.finish().await
}
