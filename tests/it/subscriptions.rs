//! What users agree to: counted once per report, never without limit.

use futures_util::future::join_all;
use it::World;
use serde_json::{Value, json};

fn report(results: Value) -> Value {
    json!({ "action": "report", "results": results })
}

fn of<'a>(body: &'a Value, template: &str) -> &'a Value {
    let found = body["templates"].as_array().and_then(|list| list.iter().find(|one| one["templateId"] == template));
    found.unwrap_or(&Value::Null)
}

#[tokio::test]
async fn answers_are_counted_once_and_unknown_templates_are_named() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("subscriber").await?;
    let status = c.call("subscriptions", &token, json!({ "action": "status" })).await?;
    assert_eq!(status.ok()["templates"].as_array().unwrap().len(), 7);
    assert_eq!(of(&status.body, "local-assignment")["choice"], Value::Null);
    assert_eq!(of(&status.body, "local-assignment")["available"], 0);
    assert_eq!(of(&status.body, "local-lottery-result")["available"], Value::Null);

    let mut event = report(json!({
        "local-assignment": "accept", "local-order-paid": "reject", "local-lottery-result": "accept", "gone": "accept",
    }));
    event["requestId"] = json!("report-request-1");
    let first = c.call("subscriptions", &token, event.clone()).await?;
    assert_eq!((&first.ok()["recorded"], &first.body["ignored"]), (&json!(3), &json!(["gone"])));
    assert_eq!(of(&first.body, "local-assignment")["available"], 1);
    let again = c.call("subscriptions", &token, event.clone()).await?;
    assert_eq!(
        (&again.ok()["replayed"], of(&again.body, "local-assignment")),
        (&json!(true), of(&first.body, "local-assignment"))
    );
    event["results"]["local-assignment"] = json!("reject");
    c.call("subscriptions", &token, event).await?.refused(409, "IDEMPOTENCY_KEY_REUSED");

    c.call("subscriptions", &token, report(json!({ "local-assignment": "accept" }))).await?.ok();
    // A refusal now takes nothing away of what was agreed to before.
    let after = c.call("subscriptions", &token, report(json!({ "local-assignment": "ban" }))).await?;
    let assignment = of(after.ok(), "local-assignment");
    assert_eq!((&assignment["available"], &assignment["choice"]), (&json!(2), &json!("ban")));
    assert_eq!(assignment["names"], json!(["assignment"]));
    world.finish().await
}

#[tokio::test]
async fn wrong_reports_name_their_field_and_strangers_report_nothing() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("subscriber").await?;
    let many: serde_json::Map<String, Value> = (0..21).map(|n| (format!("t-{n}"), json!("accept"))).collect();
    for (event, field) in [
        (report(json!({ "local-assignment": "yes" })), "results.local-assignment"),
        (report(json!({ "local-assignment": 1 })), "results.local-assignment"),
        (report(json!({ "local-assignment": null })), "results.local-assignment"),
        (report(json!(["local-assignment"])), "results"),
        (report(Value::Null), "results"),
        (json!({ "action": "report" }), "results"),
        (report(Value::Object(many)), "results"),
        (json!({ "action": "take" }), "action"),
    ] {
        let answer = c.call("subscriptions", &token, event.clone()).await?;
        answer.refused(400, "INVALID_ARGUMENT");
        assert_eq!(answer.body["details"]["field"], field, "{event}");
    }
    let accept = report(json!({ "local-assignment": "accept" }));
    c.call("subscriptions", "", accept.clone()).await?.refused(401, "UNAUTHENTICATED");
    c.call_service("subscriptions", accept.clone()).await?.refused(403, "FORBIDDEN");
    let blocked = domain::OpenId::parse("o-blocked")?;
    let (blocked, _) = world.app.issue_user_token(&blocked, None, world.app.clock.now())?;
    c.call("subscriptions", &blocked, accept.clone()).await?.refused(403, "USER_BLOCKED");
    assert!(world.store.peek("subscriptions", 10).await?.iter().all(|row| row["openId"] == "o-staff"));
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_at_once_all_count_until_the_limit() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.client.login("eager").await?;
    let calls = (0..20).map(|_| {
        let (c, token) = (world.client.clone(), token.clone());
        async move { c.call("subscriptions", &token, report(json!({ "local-assignment": "accept" }))).await }
    });
    for answer in join_all(calls).await {
        answer?.ok();
    }
    let status = world.client.call("subscriptions", &token, json!({ "action": "status" })).await?;
    assert_eq!(of(status.ok(), "local-assignment")["available"], 20);

    let row = json!({
        "_id": "o-greedy|local-assignment", "openId": "o-greedy", "templateId": "local-assignment", "choice": "accept",
        "available": { "$numberLong": "999" }, "accepted": { "$numberLong": "999" }, "taken": { "$numberLong": "0" },
        "voided": { "$numberLong": "0" }, "updatedAt": { "$date": "2026-01-01T00:00:00Z" },
    });
    world.store.open_document("subscriptions", &row, world.app.clock.now()).await?;
    let greedy = world.client.login("greedy").await?;
    for wanted in [1000, 1000, 1000] {
        let answer =
            world.client.call("subscriptions", &greedy, report(json!({ "local-assignment": "accept" }))).await?;
        assert_eq!(of(answer.ok(), "local-assignment")["available"], wanted);
    }
    world.finish().await
}
