//! Assignments: each told once, one message per person and call, whoever calls, however often, from however many processes.

use std::collections::BTreeSet;

use edge::{App, Config};
use futures_util::future::join_all;
use gateway::Local;
use it::{Answer, Client, World};
use serde_json::{Value, json};

pub(crate) fn one(customer: &str, user: &str) -> Value {
    json!({ "customerId": customer, "customerName": "王小明", "assignedToUserId": user })
}

pub(crate) fn batch(entries: Vec<Value>) -> Value {
    json!({ "assignments": entries })
}

fn counts(answer: &Answer) -> (i64, i64, i64) {
    let count = |name: &str| answer.ok()[name].as_i64().unwrap();
    (count("sent"), count("queued"), count("refused"))
}

fn results(answer: &Answer) -> Vec<Value> {
    answer.ok()["results"].as_array().unwrap().clone()
}

pub(crate) fn messages(world: &World, open_id: &str) -> usize {
    world.sim.messages(Some(open_id)).len()
}

/// Somebody with so many permissions for messages.
pub(crate) async fn person(world: &World, n: usize, permissions: i64) -> anyhow::Result<()> {
    let now = world.app.clock.now();
    let (user, open_id) = (format!("s-{n}"), format!("o-s{n}"));
    let staff = json!({ "_id": user, "name": format!("导购{n}"), "openId": open_id, "active": true, "updatedAt": { "$date": "2026-01-01T00:00:00Z" } });
    world.store.open_document("staff", &staff, now).await?;
    let count = json!({ "$numberLong": permissions.to_string() });
    let row = json!({
        "_id": format!("{open_id}|local-assignment"), "openId": open_id, "templateId": "local-assignment", "choice": "accept",
        "available": count, "accepted": count, "taken": { "$numberLong": "0" }, "voided": { "$numberLong": "0" },
        "updatedAt": { "$date": "2026-01-01T00:00:00Z" },
    });
    Ok(world.store.open_document("subscriptions", &row, now).await?)
}

pub(crate) async fn permissions(world: &World, open_id: &str) -> anyhow::Result<(i64, i64)> {
    let rows = world.store.subscriptions(&domain::OpenId::parse(open_id)?).await?;
    Ok(rows.iter().find(|row| row.template_id == "local-assignment").map_or((0, 0), |row| (row.available, row.taken)))
}

/// The same shop with another configuration, as a process of its own.
pub(crate) async fn configured(world: &World, config: Config) -> anyhow::Result<Client> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let app = App::new(config, world.app.clock.clone())?;
    let (data_dir, database) = (String::new(), String::new());
    let place = Local { url: url.clone(), data_dir, database, timers_run: false, clock_file: None };
    let (_gateway, router) = jinlu::local::assemble(&app, &world.sim, place)?;
    tokio::spawn(async move { axum::serve(listener, router).await });
    Client::new(url)
}

#[tokio::test]
async fn one_person_gets_one_message_for_a_batch() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let mut first = one("c-1", "s-li");
    first["customerPhone"] = json!("13812345678");
    first["assignedByName"] = json!("店长");
    first["assignedAt"] = json!("2026-11-21T18:30:00+08:00");
    first["source"] = json!("门店");
    first["remark"] = json!("意向高🔥");
    let third = json!({ "customerId": "c-3", "customerName": "赵六", "assignedToOpenId": "o-staff" });
    let event = batch(vec![first, one("c-2", "s-li"), third, one("c-2", "s-li")]);
    let answer = c.call_service("notifyAssignment", event).await?;
    assert_eq!(counts(&answer), (4, 0, 0), "{answer:?}");
    let results = results(&answer);
    let customers: Vec<&str> = results.iter().map(|r| r["customerId"].as_str().unwrap()).collect();
    assert_eq!(customers, ["c-1", "c-2", "c-3", "c-2"]);
    let ids: BTreeSet<&str> = results.iter().map(|r| r["messageId"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 1);
    assert!(results.iter().all(|r| r["status"] == "sent" && r.get("reason").is_none()), "{results:?}");
    let sent = world.sim.messages(Some("o-staff"));
    assert_eq!(sent.len(), 1);
    let value = |key: &str| sent[0].data[key]["value"].as_str().unwrap_or_default().to_owned();
    assert_eq!((value("thing1").as_str(), value("phone_number2").as_str()), ("王小明等3位客户", "13812345678"));
    assert_eq!((value("thing3").as_str(), value("time4").as_str()), ("店长", "2026年11月21日 18:30"));
    assert_eq!(permissions(&world, "o-staff").await?, (99, 1));

    // A single one may stand at the top level; another customer is another message.
    let single = c.call_service("notifyAssignment", one("c-4", "s-li")).await?;
    assert_eq!(counts(&single), (1, 0, 0));
    assert_eq!(messages(&world, "o-staff"), 2);
    world.finish().await
}

#[tokio::test]
async fn every_way_in_that_may_tell_does() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let secret = edge::config::local::SERVICE_SECRET;
    let signed = |function: &str, payload: &str, nonce: &str| {
        let timestamp = world.app.clock.now().timestamp().to_string();
        let path = format!("/{function}");
        let signature = edge::sign(secret.as_bytes(), &timestamp, nonce, "EVENT", &path, payload.as_bytes());
        json!({ "key": "local-crm", "timestamp": timestamp, "nonce": nonce, "payload": payload, "signature": signature })
    };
    let path = "/tcb/invokecloudfunction?access_token=any&env=jinlu-local&name=notifyAssignment";
    let event = signed("notifyAssignment", &one("c-tcb", "s-li").to_string(), &it::wechat_nonce());
    let wrapped = c.post(path, &[], event.to_string()).await?;
    let inner: Value = serde_json::from_str(wrapped.body["resp_data"].as_str().unwrap_or_default())?;
    assert_eq!((&inner["success"], &inner["sent"]), (&json!(true), &json!(1)), "{wrapped:?}");
    // The same nonce again, then another function's signature.
    let replayed = c.post(path, &[], event.to_string()).await?;
    assert!(replayed.body["resp_data"].as_str().unwrap().contains("SIGNATURE_INVALID"), "{replayed:?}");
    let other = signed("addPoints", &one("c-tcb2", "s-li").to_string(), &it::wechat_nonce());
    let other = c.post(path, &[], other.to_string()).await?;
    assert!(other.body["resp_data"].as_str().unwrap().contains("SIGNATURE_INVALID"), "{other:?}");

    let staff = |permission: &str| {
        let hour = chrono::TimeDelta::hours(1);
        let permissions = [permission.to_owned()];
        world.app.issue_staff_token("a-1", &permissions, hour, world.app.clock.now()).map(|(token, _)| token)
    };
    let answer = c.call("notifyAssignment", &staff("notify")?, one("c-staff", "s-li")).await?;
    assert_eq!(counts(&answer), (1, 0, 0));
    c.call("notifyAssignment", &staff("orders")?, one("c-x", "s-li")).await?.refused(403, "FORBIDDEN");
    let user = c.login("staff").await?;
    c.call("notifyAssignment", &user, one("c-x", "s-li")).await?.refused(403, "FORBIDDEN");
    c.call("notifyAssignment", "", one("c-x", "s-li")).await?.refused(401, "UNAUTHENTICATED");
    assert_eq!(messages(&world, "o-staff"), 2);
    world.finish().await
}

#[tokio::test]
async fn what_cannot_be_told_says_why_and_may_be_told_later() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let stranger = json!({ "customerId": "c-5", "customerName": "王", "assignedToOpenId": "o-stranger" });
    let mut long = one("c-6", "s-li");
    long["customerName"] = json!("长".repeat(200));
    let mut emoji = one("c-7", "s-li");
    emoji["customerName"] = json!("👨‍👩‍👧‍👦🎉");
    emoji["customerPhone"] = Value::Null;
    let event = batch(vec![one("c-1", "nobody"), one("c-2", "s-gone"), one("c-3", "s-zhang"), stranger, long, emoji]);
    let answer = c.call_service("notifyAssignment", event.clone()).await?;
    assert_eq!(counts(&answer), (2, 0, 4), "{answer:?}");
    let reasons: Vec<Value> = results(&answer).iter().map(|r| r["reason"].clone()).collect();
    let wanted = ["ASSIGNEE_NOT_FOUND", "ASSIGNEE_INACTIVE", "NO_OPENID", "NO_SUBSCRIPTION"];
    assert_eq!(reasons[..4], wanted.map(Value::from));
    assert!(results(&answer)[..4].iter().all(|r| r.get("messageId").is_none()));

    // The person appears, comes back, gets an openid, subscribes: the same call now tells what it could not.
    let upsert = json!({ "action": "upsert", "userId": "s-zhang", "openId": "o-zhang" });
    c.call_service("staff", upsert).await?.ok();
    for name in ["zhang", "stranger"] {
        let token = c.login(name).await?;
        let report = json!({ "action": "report", "results": { "local-assignment": "accept" } });
        c.call("subscriptions", &token, report).await?.ok();
    }
    let answer = c.call_service("notifyAssignment", event.clone()).await?;
    assert_eq!(counts(&answer), (4, 0, 2), "{answer:?}");
    assert_eq!((messages(&world, "o-zhang"), messages(&world, "o-stranger"), messages(&world, "o-staff")), (1, 1, 1));
    // Nothing is left to tell.
    let answer = c.call_service("notifyAssignment", event).await?;
    assert_eq!((counts(&answer), messages(&world, "o-zhang")), ((4, 0, 2), 1));

    let config = Config { templates: Vec::new(), ..world.app.config.clone() };
    let bare = configured(&world, config).await?;
    let answer = bare.call_service("notifyAssignment", one("c-8", "s-li")).await?;
    assert_eq!(results(&answer)[0]["reason"], "NO_TEMPLATE");
    world.finish().await
}

#[tokio::test]
async fn wrong_input_names_its_field_and_plans_nothing() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let with = |name: &str, value: Value| {
        let mut bad = one("c-9", "s-li");
        if value.is_null() {
            bad.as_object_mut().unwrap().remove(name);
        } else {
            bad[name] = value;
        }
        bad
    };
    let good = || one("c-1", "s-li");
    for (event, field) in [
        (batch(Vec::new()), "assignments"),
        (batch((0..101).map(|n| one(&format!("c-{n}"), "s-li")).collect()), "assignments"),
        (json!({}), "assignments"),
        (json!({ "assignments": "c-1" }), "assignments"),
        (json!({ "assignments": { "0": good() } }), "assignments"),
        (json!({ "assignments": [good()], "wait": "no" }), "wait"),
        (batch(vec![good(), json!("c-1")]), "assignments[1]"),
        (batch(vec![good(), good(), good(), with("customerName", json!(7))]), "assignments[3].customerName"),
        (batch(vec![with("customerName", Value::Null)]), "assignments[0].customerName"),
        (batch(vec![with("customerId", json!(1))]), "assignments[0].customerId"),
        (batch(vec![with("customerPhone", json!(13812345678i64))]), "assignments[0].customerPhone"),
        (batch(vec![with("assignedAt", json!(1732185000))]), "assignments[0].assignedAt"),
        (batch(vec![with("assignedAt", json!("yesterday"))]), "assignments[0].assignedAt"),
        (batch(vec![with("remark", json!(["x"]))]), "assignments[0].remark"),
        (batch(vec![with("assignedToOpenId", json!("o-staff"))]), "assignments[0].assignedToUserId"),
        (batch(vec![with("assignedToUserId", Value::Null)]), "assignments[0].assignedToUserId"),
        (with("customerName", json!("长".repeat(201))), "customerName"),
    ] {
        let answer = c.call_service("notifyAssignment", event.clone()).await?;
        answer.refused(400, "INVALID_ARGUMENT");
        assert_eq!(answer.body["details"]["field"], field, "{event}");
    }
    assert!(world.store.peek("assignments", 10).await?.is_empty());
    assert_eq!(permissions(&world, "o-staff").await?, (100, 0));
    world.finish().await
}

#[tokio::test]
async fn a_request_counts_once_and_answers_with_what_became_of_it() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let mut event = batch(vec![one("c-1", "s-li"), one("c-2", "nobody")]);
    event["requestId"] = json!("notify-request-1");
    event["wait"] = json!(false);
    let first = c.call_service("notifyAssignment", event.clone()).await?;
    assert_eq!((counts(&first), first.body.get("replayed")), ((0, 1, 1), None));
    assert_eq!(messages(&world, "o-staff"), 0);
    let again = c.call_service("notifyAssignment", event.clone()).await?;
    assert_eq!((counts(&again), &again.body["replayed"]), ((0, 1, 1), &json!(true)));
    c.timer("deliverOutbox").await?.ok();
    let later = c.call_service("notifyAssignment", event.clone()).await?;
    assert_eq!((counts(&later), &later.body["replayed"]), ((1, 0, 1), &json!(true)));
    event["assignments"][0]["remark"] = json!("另一个");
    c.call_service("notifyAssignment", event).await?.refused(409, "IDEMPOTENCY_KEY_REUSED");
    assert_eq!((messages(&world, "o-staff"), permissions(&world, "o-staff").await?), (1, (99, 1)));
    world.finish().await
}

#[tokio::test]
async fn without_a_time_an_assignment_is_the_same_for_ten_minutes() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let mut timed = one("c-timed", "s-li");
    timed["assignedAt"] = json!("2026-11-21T10:00:00Z");
    let event = batch(vec![one("c-1", "s-li"), timed]);
    let tell = || c.call_service("notifyAssignment", event.clone());
    let first = tell().await?;
    assert_eq!(counts(&first), (2, 0, 0));
    c.advance(9 * 60).await?;
    let same = tell().await?;
    assert_eq!((results(&same), messages(&world, "o-staff")), (results(&first), 1));
    c.advance(70).await?;
    let another = tell().await?;
    assert_eq!((counts(&another), messages(&world, "o-staff")), ((2, 0, 0), 2));
    assert_ne!(results(&another)[0]["messageId"], results(&first)[0]["messageId"]);
    assert_eq!(results(&another)[1], results(&first)[1], "an assignment with its time is told once for good");
    // The same instant in another zone, and in milliseconds, is the same time.
    let mut zone = one("c-timed", "s-li");
    zone["assignedAt"] = json!("2026-11-21T18:00:00.000+08:00");
    assert_eq!(results(&c.call_service("notifyAssignment", zone).await?)[0], results(&first)[1]);
    assert_eq!(messages(&world, "o-staff"), 2);
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_batch_from_two_processes_at_once_is_told_once() -> anyhow::Result<()> {
    let world = World::start().await?;
    for n in 0..5 {
        person(&world, n, 10).await?;
    }
    let (_gateway, other) = world.another().await?;
    let entries: Vec<Value> = (0..100).map(|n| one(&format!("c-{n}"), &format!("s-{}", n % 5))).collect();
    let calls = (0..6).map(|n| {
        let client = if n % 2 == 0 { world.client.clone() } else { other.clone() };
        let event = batch(entries.clone());
        async move { client.call_service("notifyAssignment", event).await }
    });
    let answers = join_all(calls).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    let ids: BTreeSet<String> = answers
        .iter()
        .flat_map(results)
        .map(|r| r["messageId"].as_str().unwrap_or_else(|| panic!("{r}")).to_owned())
        .collect();
    assert_eq!(ids.len(), 5);
    world.settle_down().await?;
    for n in 0..5 {
        assert_eq!(messages(&world, &format!("o-s{n}")), 1);
        assert_eq!(permissions(&world, &format!("o-s{n}")).await?, (9, 1));
    }
    // A hundred for one person are one message, too.
    let all: Vec<Value> = (0..100).map(|n| one(&format!("d-{n}"), "s-1")).collect();
    let answer = world.client.call_service("notifyAssignment", batch(all)).await?;
    assert_eq!(counts(&answer), (100, 0, 0));
    let last = world.sim.messages(Some("o-s1")).pop().unwrap();
    assert_eq!(last.data["thing1"]["value"], "王小明等100位客户");
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_sent_more_than_they_allowed() -> anyhow::Result<()> {
    let world = World::start().await?;
    person(&world, 1, 3).await?;
    let calls = (0..8).map(|n| {
        let client = world.client.clone();
        async move { client.call_service("notifyAssignment", one(&format!("c-{n}"), "s-1")).await }
    });
    let answers = join_all(calls).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    let refused = answers.iter().filter(|a| results(a)[0]["reason"] == "NO_SUBSCRIPTION").count();
    assert_eq!(refused, 5, "{answers:?}");
    world.settle_down().await?;
    world.client.advance(60).await?;
    world.settle_down().await?;
    assert_eq!((messages(&world, "o-s1"), permissions(&world, "o-s1").await?), (3, (0, 3)));
    world.finish().await
}

#[tokio::test]
async fn what_wechat_does_not_let_through_is_refused_until_the_user_agrees_again() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    person(&world, 1, 5).await?;
    let refusal =
        json!({ "target": "wechat", "path": "subscribe/send", "mode": "errcode", "errcode": 43101, "count": 1 });
    c.control("faults", refusal).await?.ok();
    let answer = c.call_service("notifyAssignment", one("c-1", "s-1")).await?;
    assert_eq!((counts(&answer), &results(&answer)[0]["reason"]), ((0, 0, 1), &json!("NO_SUBSCRIPTION")));
    // It was worth nothing, and neither is what was left with it.
    assert_eq!(permissions(&world, "o-s1").await?, (0, 0));
    let answer = c.call_service("notifyAssignment", one("c-1", "s-1")).await?;
    assert_eq!(results(&answer)[0]["reason"], "NO_SUBSCRIPTION");
    let token = c.login("s1").await?;
    let report = json!({ "action": "report", "results": { "local-assignment": "accept" } });
    c.call("subscriptions", &token, report).await?.ok();
    let answer = c.call_service("notifyAssignment", one("c-1", "s-1")).await?;
    assert_eq!((counts(&answer), messages(&world, "o-s1")), ((1, 0, 0), 1));
    world.finish().await
}

#[tokio::test]
async fn an_unknown_outcome_is_said_and_not_sent_again() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let fault = json!({ "target": "wechat", "path": "subscribe/send", "mode": "dropAfterCommit", "count": 1 });
    c.control("faults", fault).await?.ok();
    let answer = c.call_service("notifyAssignment", one("c-1", "s-li")).await?;
    let result = &results(&answer)[0];
    assert_eq!((&result["status"], &result["reason"]), (&json!("refused"), &json!("OUTCOME_UNKNOWN")), "{answer:?}");
    let again = c.call_service("notifyAssignment", one("c-1", "s-li")).await?;
    assert_eq!(results(&again), results(&answer));
    world.settle_down().await?;
    assert_eq!((messages(&world, "o-staff"), permissions(&world, "o-staff").await?), (1, (99, 1)));
    world.finish().await
}
