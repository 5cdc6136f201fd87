//! Who is told about assignments: kept by the CRM or by staff, one person per openid.

use it::World;
use serde_json::{Value, json};

#[tokio::test]
async fn the_crm_keeps_people_and_an_openid_is_one_persons() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let upsert = |user: &str, fields: Value| {
        let mut event = json!({ "action": "upsert", "userId": user });
        event.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        async move { c.call_service("staff", event).await }
    };
    upsert("s-new", json!({ "phone": "13700000009" })).await?.refused(400, "INVALID_ARGUMENT");
    let made = upsert("s-new", json!({ "name": "新导购", "openId": "o-new", "phone": "+8613700000009" })).await?;
    assert_eq!((made.ok()["phone"].as_str(), &made.body["active"]), (Some("13700000009"), &json!(true)));
    // Only what is named changes; empty takes away.
    let changed = upsert("s-new", json!({ "active": false, "phone": "" })).await?;
    assert_eq!((&changed.ok()["phone"], &changed.body["openId"]), (&Value::Null, &json!("o-new")));
    let found = c.call_service("staff", json!({ "action": "get", "userId": "s-new" })).await?;
    assert_eq!((&found.ok()["active"], found.text("name").as_str()), (&json!(false), "新导购"));

    upsert("s-zhang", json!({ "openId": "o-new" })).await?.refused(409, "CONFLICT");
    upsert("s-other", json!({ "name": "他人", "openId": "o-new" })).await?.refused(409, "CONFLICT");
    upsert("s-new", json!({ "openId": "" })).await?.ok();
    upsert("s-zhang", json!({ "openId": "o-new" })).await?.ok();
    // Two without one do not meet.
    upsert("s-more", json!({ "name": "又一位" })).await?.ok();

    for (field, bad) in [
        ("phone", json!("12345")),
        ("phone", json!(13700000009i64)),
        ("openId", json!("o new")),
        ("name", json!(" ")),
        ("active", json!("yes")),
        ("userId", json!("李 导购")),
        ("userId", json!("")),
    ] {
        let mut event = json!({ "action": "upsert", "userId": "s-new" });
        event[field] = bad;
        let answer = c.call_service("staff", event).await?;
        answer.refused(400, "INVALID_ARGUMENT");
        assert_eq!(answer.body["details"]["field"], field);
    }
    c.call_service("staff", json!({ "action": "get", "userId": "nobody" })).await?.refused(404, "NOT_FOUND");

    let mut seen = Vec::new();
    let mut after = Value::Null;
    loop {
        let page = c.call_service("staff", json!({ "action": "list", "limit": 2, "after": after })).await?;
        let rows = page.ok()["data"].as_array().unwrap().clone();
        seen.extend(rows.iter().map(|row| row["userId"].as_str().unwrap().to_owned()));
        after = page.body["nextCursor"].clone();
        if after.is_null() {
            break;
        }
    }
    seen.sort();
    assert_eq!(seen, ["s-gone", "s-li", "s-more", "s-new", "s-zhang"]);

    let event = json!({ "action": "upsert", "userId": "s-once", "name": "一次", "requestId": "staff-request-1" });
    c.call_service("staff", event.clone()).await?.ok();
    assert_eq!(c.call_service("staff", event.clone()).await?.ok()["replayed"], true);
    let mut other = event;
    other["name"] = json!("两次");
    c.call_service("staff", other).await?.refused(409, "IDEMPOTENCY_KEY_REUSED");
    let user = c.login("somebody").await?;
    c.call("staff", &user, json!({ "action": "list" })).await?.refused(403, "FORBIDDEN");
    world.finish().await
}
