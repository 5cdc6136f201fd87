//! Proving a phone, linking users to customers one to one, and merging customers.

use std::collections::BTreeSet;

use domain::{CustomerId, OpenId};
use futures_util::future::join_all;
use it::{Answer, Client, World};
use serde_json::{Value, json};
use store::customers::Customer;
use store::prepaid::{LinkStatus, PrepaidRecord};

const DEMO_PHONE: &str = "13800138000";
/// Two demo customers have it.
const SHARED_PHONE: &str = "13900000001";

async fn send(world: &World, token: &str, phone: &str) -> anyhow::Result<Answer> {
    world.client.call("sendSMS", token, json!({ "phone": phone, "purpose": "bind" })).await
}

/// The code of the newest message to a phone.
fn code_of(world: &World, phone: &str) -> String {
    world.sim.sms(Some(phone)).first().map(|sms| sms.code.clone()).unwrap_or_default()
}

/// Another code than the right one.
fn wrong(code: &str, n: u32) -> String {
    format!("{:06}", (code.parse::<u32>().unwrap() + 1 + n) % 1_000_000)
}

async fn link(world: &World, token: &str, phone: &str, code: &str) -> anyhow::Result<Answer> {
    world.client.call("linkUserToCustomer", token, json!({ "phone": phone, "verifyCode": code })).await
}

async fn link_by_wechat(client: &Client, token: &str, phone: &str) -> anyhow::Result<Answer> {
    client.call("linkUserToCustomer", token, json!({ "phoneCode": format!("phone-{phone}") })).await
}

async fn customers(world: &World, event: Value) -> anyhow::Result<Answer> {
    world.client.call_service("customers", event).await
}

async fn customer(world: &World, id: &str) -> Customer {
    world.store.customer(&CustomerId::parse(id).unwrap()).await.unwrap().unwrap()
}

async fn records(world: &World, id: &str) -> Vec<PrepaidRecord> {
    world.store.all_prepaid_records(&CustomerId::parse(id).unwrap()).await.unwrap()
}

/// What member the openid is, as `(customer, phone)`.
async fn member(world: &World, name: &str) -> (Option<String>, Option<String>) {
    let open_id = OpenId::parse(&format!("o-{name}")).unwrap();
    let member = world.store.member_by_open_id(&open_id).await.unwrap().unwrap();
    (member.customer_id.map(String::from), member.phone.map(|phone| phone.0))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_links_the_user_the_customer_and_all_records() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.client.login("xiaolu").await?;
    let sent = send(&world, &token, "+8613800138000").await?;
    assert_eq!(sent.ok()["retryAfterSeconds"], 60);
    let code = code_of(&world, DEMO_PHONE);
    let event = json!({ "requestId": "link-once-1", "phone": DEMO_PHONE, "verifyCode": code });
    let linked = world.client.call("linkUserToCustomer", &token, event.clone()).await?;
    assert_eq!(linked.ok()["customerId"], "c-demo");
    assert_eq!((&linked.body["linkedRecords"], &linked.body["message"]), (&json!(2), &json!("关联成功")));

    let demo = customer(&world, "c-demo").await;
    assert_eq!(demo.linked_open_id.as_ref().map(OpenId::as_str), Some("o-xiaolu"));
    for record in records(&world, "c-demo").await {
        assert_eq!((record.link_status, &record.linked_user_id), (LinkStatus::Linked, &demo.linked_user_id));
        assert_eq!(record.link_time, demo.link_time);
    }
    assert_eq!(member(&world, "xiaolu").await, (Some("c-demo".to_owned()), Some(DEMO_PHONE.to_owned())));

    // A lost reply: by the key, and without one by the same code.
    let again = world.client.call("linkUserToCustomer", &token, event).await?;
    assert_eq!((&again.ok()["replayed"], &again.body["customerId"]), (&json!(true), &json!("c-demo")));
    assert_eq!(link(&world, &token, DEMO_PHONE, &code).await?.ok()["linkedRecords"], 2);
    link(&world, &token, DEMO_PHONE, &wrong(&code, 0)).await?.refused(422, "VERIFY_CODE_INVALID");
    assert_eq!(customer(&world, "c-demo").await.link_time, demo.link_time);
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn wechats_own_phone_code_proves_a_phone_too_and_the_name_decides() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.client.login("wang").await?;
    let call = |event: Value| world.client.call("linkUserToCustomer", &token, event);
    let code = format!("phone-{SHARED_PHONE}");
    call(json!({ "phoneCode": code })).await?.refused(422, "CUSTOMER_AMBIGUOUS");
    call(json!({ "phoneCode": code, "name": "王五" })).await?.refused(422, "CUSTOMER_AMBIGUOUS");
    call(json!({ "phoneCode": code, "phone": DEMO_PHONE })).await?.refused(422, "VERIFY_CODE_INVALID");
    call(json!({ "phoneCode": "nonsense" })).await?.refused(422, "VERIFY_CODE_INVALID");
    call(json!({ "phoneCode": "phone-13700000000" })).await?.refused(404, "CUSTOMER_NOT_FOUND");
    call(json!({ "phone": SHARED_PHONE })).await?.refused(400, "INVALID_ARGUMENT");
    call(json!({ "phone": SHARED_PHONE, "verifyCode": "123456" })).await?.refused(422, "VERIFY_CODE_INVALID");
    call(json!({ "phone": "12345", "verifyCode": "123456" })).await?.refused(400, "INVALID_ARGUMENT");
    let done = call(json!({ "phoneCode": code, "phone": SHARED_PHONE, "name": "王晓明" })).await?;
    assert_eq!((&done.ok()["customerId"], &done.body["linkedRecords"]), (&json!("c-wang-2"), &json!(0)));
    // Again, without saying which of the two: the same one.
    assert_eq!(call(json!({ "phoneCode": code })).await?.ok()["customerId"], "c-wang-2");
    call(json!({ "phoneCode": code, "name": "王小明" })).await?.refused(409, "CUSTOMER_ALREADY_LINKED");
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_links_without_a_code_and_nobody_links_for_another() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.client.login("served").await?;
    world.client.login("other").await?;
    let event = json!({ "openId": "o-other", "phone": DEMO_PHONE, "verifyCode": "123456" });
    world.client.call("linkUserToCustomer", &token, event.clone()).await?.refused(403, "FORBIDDEN");
    world.client.call("linkUserToCustomer", "", event).await?.refused(401, "UNAUTHENTICATED");
    world
        .client
        .call("sendSMS", "", json!({ "phone": DEMO_PHONE, "purpose": "bind" }))
        .await?
        .refused(401, "UNAUTHENTICATED");
    world
        .client
        .call("customers", &token, json!({ "action": "get", "customerId": "c-demo" }))
        .await?
        .refused(403, "FORBIDDEN");
    world
        .client
        .call("customers", &token, json!({ "action": "get", "customerId": "c-none" }))
        .await?
        .refused(403, "FORBIDDEN");

    let service = |event: Value| world.client.call_service("linkUserToCustomer", event);
    service(json!({ "phone": DEMO_PHONE })).await?.refused(400, "INVALID_ARGUMENT");
    service(json!({ "openId": "o-served" })).await?.refused(400, "INVALID_ARGUMENT");
    service(json!({ "openId": "o-nobody", "phone": DEMO_PHONE })).await?.refused(404, "NOT_FOUND");
    service(json!({ "openId": "o-blocked", "phone": DEMO_PHONE })).await?.refused(403, "USER_BLOCKED");
    let done = service(json!({ "openId": "o-served", "phone": DEMO_PHONE })).await?;
    assert_eq!((&done.ok()["customerId"], &done.body["linkedRecords"]), (&json!("c-demo"), &json!(2)));

    // One phone, one user; one customer, one user; one user, one customer.
    service(json!({ "openId": "o-other", "phone": DEMO_PHONE })).await?.refused(409, "PHONE_ALREADY_LINKED");
    customers(&world, json!({ "action": "upsert", "customerId": "c-demo", "phone": "13800138001" })).await?.ok();
    service(json!({ "openId": "o-other", "phone": "13800138001" })).await?.refused(409, "CUSTOMER_ALREADY_LINKED");
    let event = json!({ "openId": "o-served", "phone": SHARED_PHONE, "name": "王小明" });
    service(event).await?.refused(409, "CUSTOMER_ALREADY_LINKED");
    assert_eq!(member(&world, "other").await, (None, None));
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_users_for_one_phone_and_one_user_for_two_customers_make_one_link_each() -> anyhow::Result<()> {
    let world = World::start().await?;
    let mut tokens = Vec::new();
    for i in 0..8 {
        tokens.push(world.client.login(&format!("rival{i}")).await?);
    }
    let answers = join_all(tokens.iter().map(|token| link_by_wechat(&world.client, token, DEMO_PHONE))).await;
    let answers = answers.into_iter().collect::<Result<Vec<_>, _>>()?;
    assert_eq!(answers.iter().filter(|a| a.status == 200).count(), 1, "{answers:?}");
    for answer in answers.iter().filter(|a| a.status != 200) {
        answer.refused(
            409,
            if answer.code() == "CUSTOMER_ALREADY_LINKED" { answer.code() } else { "PHONE_ALREADY_LINKED" },
        );
    }

    for phone in ["13700000001", "13700000002"] {
        let event = json!({ "action": "upsert", "customerId": format!("c-{phone}"), "name": "双", "phone": phone });
        customers(&world, event).await?.ok();
    }
    let token = world.client.login("greedy").await?;
    let phones = ["13700000001", "13700000002"];
    let calls = (0..8).map(|i| link_by_wechat(&world.client, &token, phones[i % 2]));
    let answers = join_all(calls).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    let got: BTreeSet<String> = answers.iter().filter(|a| a.status == 200).map(|a| a.text("customerId")).collect();
    assert_eq!(got.len(), 1, "{answers:?}");
    for answer in answers.iter().filter(|a| a.status != 200) {
        answer.refused(409, "CUSTOMER_ALREADY_LINKED");
    }
    let mut linked = 0;
    for phone in phones {
        linked += usize::from(customer(&world, &format!("c-{phone}")).await.linked_user_id.is_some());
    }
    assert_eq!((linked, member(&world, "greedy").await.0), (1, got.into_iter().next()));
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sixth_try_is_refused_even_with_the_right_code() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.client.login("guesser").await?;
    send(&world, &token, DEMO_PHONE).await?.ok();
    let code = code_of(&world, DEMO_PHONE);
    for n in 0..5 {
        let answer = link(&world, &token, DEMO_PHONE, &wrong(&code, n)).await?;
        answer.refused(422, "VERIFY_CODE_INVALID");
        assert_eq!(answer.body["details"]["remainingTries"], 4 - n);
    }
    link(&world, &token, DEMO_PHONE, &code).await?.refused(422, "VERIFY_CODE_EXPIRED");

    // At once they count as many.
    world.client.advance(61).await?;
    send(&world, &token, DEMO_PHONE).await?.ok();
    let code = code_of(&world, DEMO_PHONE);
    let guesses: Vec<String> = (0..20).map(|n| wrong(&code, n)).collect();
    let answers = join_all(guesses.iter().map(|guess| link(&world, &token, DEMO_PHONE, guess))).await;
    let answers = answers.into_iter().collect::<Result<Vec<_>, _>>()?;
    assert_eq!(answers.iter().filter(|a| a.code() == "VERIFY_CODE_INVALID").count(), 5);
    assert_eq!(answers.iter().filter(|a| a.code() == "VERIFY_CODE_EXPIRED").count(), 15);
    link(&world, &token, DEMO_PHONE, &code).await?.refused(422, "VERIFY_CODE_EXPIRED");

    // And a new code works.
    world.client.advance(61).await?;
    send(&world, &token, DEMO_PHONE).await?.ok();
    link(&world, &token, DEMO_PHONE, &code_of(&world, DEMO_PHONE)).await?.ok();
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_is_good_for_its_user_its_phone_and_its_time() -> anyhow::Result<()> {
    let world = World::start().await?;
    let (alice, bob) = (world.client.login("alice").await?, world.client.login("bob").await?);
    send(&world, &alice, DEMO_PHONE).await?.ok();
    let code = code_of(&world, DEMO_PHONE);
    link(&world, &bob, DEMO_PHONE, &code).await?.refused(422, "VERIFY_CODE_INVALID");
    link(&world, &alice, SHARED_PHONE, &code).await?.refused(422, "VERIFY_CODE_INVALID");
    // Refused for another reason, it is not used up.
    customers(&world, json!({ "action": "upsert", "customerId": "c-demo", "phone": "13700000009" })).await?.ok();
    link(&world, &alice, DEMO_PHONE, &code).await?.refused(404, "CUSTOMER_NOT_FOUND");
    customers(&world, json!({ "action": "upsert", "customerId": "c-demo", "phone": DEMO_PHONE })).await?.ok();
    world.client.advance(301).await?;
    link(&world, &alice, DEMO_PHONE, &code).await?.refused(422, "VERIFY_CODE_EXPIRED");

    // A later code ends the one before.
    send(&world, &alice, DEMO_PHONE).await?.ok();
    let older = code_of(&world, DEMO_PHONE);
    world.client.advance(61).await?;
    send(&world, &alice, DEMO_PHONE).await?.ok();
    let newer = code_of(&world, DEMO_PHONE);
    if older != newer {
        link(&world, &alice, DEMO_PHONE, &older).await?.refused(422, "VERIFY_CODE_INVALID");
    }
    link(&world, &alice, DEMO_PHONE, &newer).await?.ok();
    // Used: it opens no other link.
    customers(&world, json!({ "action": "upsert", "customerId": "c-demo", "phone": "13700000009" })).await?.ok();
    customers(&world, json!({ "action": "upsert", "customerId": "c-new", "name": "新", "phone": DEMO_PHONE }))
        .await?
        .ok();
    link(&world, &alice, DEMO_PHONE, &newer).await?.refused(422, "VERIFY_CODE_EXPIRED");
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn codes_are_limited_per_phone_and_per_user_across_processes() -> anyhow::Result<()> {
    let world = World::start().await?;
    let (alice, bob) = (world.client.login("alice").await?, world.client.login("bob").await?);
    let event = |phone: &str| json!({ "phone": phone, "purpose": "bind" });
    // Many at once are one.
    let calls = (0..10).map(|_| send(&world, &alice, DEMO_PHONE));
    let answers = join_all(calls).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    assert_eq!(answers.iter().filter(|a| a.status == 200).count(), 1, "{answers:?}");

    let other = world.another().await?.1;
    let limited = other.call("sendSMS", &alice, event("13700000003")).await?;
    limited.refused(429, "RATE_LIMITED");
    let wait = limited.body["details"]["retryAfterSeconds"].as_i64().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    other.call("sendSMS", &bob, event(DEMO_PHONE)).await?.refused(429, "RATE_LIMITED");

    // Five an hour.
    for _ in 0..4 {
        world.client.advance(61).await?;
        send(&world, &alice, DEMO_PHONE).await?.ok();
    }
    world.client.advance(61).await?;
    let limited = other.call("sendSMS", &alice, event(DEMO_PHONE)).await?;
    limited.refused(429, "RATE_LIMITED");
    let wait = limited.body["details"]["retryAfterSeconds"].as_i64().unwrap();
    assert!((3_000..3_600).contains(&wait), "{wait}");
    // Ten a day.
    for _ in 0..5 {
        world.client.advance(3_601).await?;
        send(&world, &alice, DEMO_PHONE).await?.ok();
    }
    world.client.advance(3_601).await?;
    let limited = send(&world, &alice, DEMO_PHONE).await?;
    limited.refused(429, "RATE_LIMITED");
    assert!(limited.body["details"]["retryAfterSeconds"].as_i64().unwrap() > 3_600);
    assert_eq!(world.sim.sms(Some(DEMO_PHONE)).len(), 10);
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn known_and_unknown_phones_get_equal_answers() -> anyhow::Result<()> {
    let world = World::start().await?;
    let shape = |answer: &Answer| answer.ok().as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let (a, b) = (world.client.login("a").await?, world.client.login("b").await?);
    let (known, unknown) = (send(&world, &a, DEMO_PHONE).await?, send(&world, &b, "13700000004").await?);
    assert_eq!((shape(&known), known.status), (shape(&unknown), unknown.status));
    assert_eq!(known.body["retryAfterSeconds"], unknown.body["retryAfterSeconds"]);
    let code = code_of(&world, "13700000004");
    link(&world, &b, "13700000004", &code).await?.refused(404, "CUSTOMER_NOT_FOUND");
    // Without the proof nothing is told either.
    for phone in [DEMO_PHONE, "13700000005"] {
        link(&world, &b, phone, "123456").await?.refused(422, "VERIFY_CODE_INVALID");
    }
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_provider_says_is_told_and_a_lost_answer_leaves_the_code_good() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.client.login("unlucky").await?;
    let fault = |mode: &str, errcode: Value| {
        let event = json!({ "target": "sms", "mode": mode, "errcode": errcode, "count": 1 });
        let client = world.client.clone();
        async move { client.control("faults", event).await }
    };
    fault("errcode", json!("LimitExceeded.PhoneNumberDailyLimit")).await?;
    send(&world, &token, DEMO_PHONE).await?.refused(429, "RATE_LIMITED");
    world.client.advance(61).await?;
    fault("errcode", json!("FailedOperation.PhoneNumberInBlacklist")).await?;
    send(&world, &token, DEMO_PHONE).await?.refused(400, "INVALID_ARGUMENT");
    world.client.advance(61).await?;
    fault("errcode", json!("FailedOperation.TemplateIncorrectOrUnapproved")).await?;
    send(&world, &token, DEMO_PHONE).await?.refused(500, "INTERNAL");
    assert!(world.sim.sms(Some(DEMO_PHONE)).is_empty());
    world.client.advance(61).await?;
    fault("dropAfterCommit", Value::Null).await?;
    send(&world, &token, DEMO_PHONE).await?.refused(502, "UPSTREAM_ERROR");
    send(&world, &token, DEMO_PHONE).await?.refused(429, "RATE_LIMITED");
    link(&world, &token, DEMO_PHONE, &code_of(&world, DEMO_PHONE)).await?.ok();
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_is_another_members_does_not_stop_a_sign_in() -> anyhow::Result<()> {
    let world = World::start().await?;
    let code = format!("phone-{SHARED_PHONE}");
    let login = |name: &str| json!({ "code": format!("dev-{name}"), "phoneCode": code });
    let first = world.client.call("login", "", login("first")).await?;
    assert_eq!(first.ok()["user"]["phone"], SHARED_PHONE);
    for is_new in [true, false] {
        let second = world.client.call("login", "", login("second")).await?;
        assert_eq!((&second.ok()["user"]["phone"], &second.body["isNew"]), (&Value::Null, &json!(is_new)));
    }
    let token = world.client.login("second").await?;
    let event = json!({ "phoneCode": code, "name": "王小明" });
    world.client.call("linkUserToCustomer", &token, event).await?.refused(409, "PHONE_ALREADY_LINKED");
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_crm_registers_and_finds_customers() -> anyhow::Result<()> {
    let world = World::start().await?;
    let event = json!({ "requestId": "upsert-1", "action": "upsert", "name": "赵六", "phone": "+8613600000001" });
    let made = customers(&world, event.clone()).await?;
    let id = made.ok()["customerId"].as_str().unwrap().to_owned();
    let again = customers(&world, event).await?;
    assert_eq!((again.ok()["replayed"].clone(), again.text("customerId")), (json!(true), id.clone()));
    let changed = customers(&world, json!({ "action": "upsert", "customerId": id, "remark": "老客户" })).await?;
    assert_eq!(changed.ok()["remark"], "老客户");
    assert_eq!((&changed.body["name"], &changed.body["phone"]), (&json!("赵六"), &json!("13600000001")));
    let got = customers(&world, json!({ "action": "get", "customerId": id })).await?;
    assert_eq!((&got.ok()["status"], &got.body["linkedUserId"]), (&json!("active"), &Value::Null));

    let found = customers(&world, json!({ "action": "search", "phone": SHARED_PHONE })).await?;
    assert_eq!(found.ok()["data"].as_array().unwrap().len(), 2);
    let found = customers(&world, json!({ "action": "search", "phone": SHARED_PHONE, "limit": 1 })).await?;
    let cursor = found.text("nextCursor");
    let next = json!({ "action": "search", "phone": SHARED_PHONE, "limit": 1, "after": cursor });
    assert_ne!(customers(&world, next).await?.ok()["data"][0]["_id"], found.body["data"][0]["_id"]);
    let found = customers(&world, json!({ "action": "search", "name": "王" })).await?;
    assert_eq!(found.ok()["data"].as_array().unwrap().len(), 2);
    customers(&world, json!({ "action": "search" })).await?.refused(400, "INVALID_ARGUMENT");
    customers(&world, json!({ "action": "upsert" })).await?.refused(400, "INVALID_ARGUMENT");
    customers(&world, json!({ "action": "upsert", "name": "甲", "phone": "1" }))
        .await?
        .refused(400, "INVALID_ARGUMENT");
    customers(&world, json!({ "action": "get", "customerId": "c-none" })).await?.refused(404, "CUSTOMER_NOT_FOUND");

    let staff = |permission: &str| {
        let app = &world.app;
        app.issue_staff_token("alice", &[permission.to_owned()], chrono::TimeDelta::hours(1), app.clock.now())
            .unwrap()
            .0
    };
    let event = json!({ "action": "get", "customerId": "c-demo" });
    world.client.call("customers", &staff("customers"), event.clone()).await?.ok();
    world.client.call("customers", &staff("points"), event).await?.refused(403, "FORBIDDEN");
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merge_moves_records_addresses_and_the_link_and_can_be_undone() -> anyhow::Result<()> {
    let world = World::start().await?;
    let now = world.app.clock.now();
    let address = json!({ "_id": "a-1", "customerId": "c-demo", "detail": "文三路 1 号" });
    world.store.open_document("customerAddresses", &address, now).await?;
    let token = world.client.login("demo").await?;
    link_by_wechat(&world.client, &token, DEMO_PHONE).await?.ok();
    let before = records(&world, "c-demo").await;

    let event = json!({ "requestId": "merge-it-1", "action": "merge", "sourceId": "c-demo", "targetId": "c-wang" });
    let merged = customers(&world, event.clone()).await?;
    let merge_id = merged.ok()["mergeId"].as_str().unwrap().to_owned();
    assert_eq!((&merged.body["movedRecords"], &merged.body["movedAddresses"]), (&json!(2), &json!(1)));
    assert_eq!((&merged.body["movedLink"], &merged.body["status"]), (&json!(true), &json!("merged")));
    assert_eq!(customers(&world, event).await?.ok()["mergeId"], merge_id.as_str());
    let (source, target) = (customer(&world, "c-demo").await, customer(&world, "c-wang").await);
    assert_eq!((source.is_active(), source.linked_user_id), (false, None));
    assert_eq!(target.linked_open_id.as_ref().map(OpenId::as_str), Some("o-demo"));
    assert_eq!(member(&world, "demo").await.0.as_deref(), Some("c-wang"));
    let moved = records(&world, "c-wang").await;
    assert_eq!((moved.len(), records(&world, "c-demo").await.len()), (2, 0));
    assert!(moved.iter().all(|r| r.link_status == LinkStatus::Linked && r.linked_user_id == target.linked_user_id));
    // Nobody links to, changes or merges what is merged.
    let other = world.client.login("other").await?;
    link_by_wechat(&world.client, &other, "13800138002").await?.refused(404, "CUSTOMER_NOT_FOUND");
    customers(&world, json!({ "action": "upsert", "customerId": "c-demo", "name": "x" }))
        .await?
        .refused(409, "CONFLICT");
    let event = json!({ "action": "merge", "sourceId": "c-demo", "targetId": "c-wang-2" });
    customers(&world, event).await?.refused(409, "CONFLICT");
    assert!(world.violations().await?.is_empty(), "{:?}", world.violations().await?);

    let undo = json!({ "action": "unmerge", "mergeId": merge_id });
    assert_eq!(customers(&world, undo.clone()).await?.ok()["status"], "undone");
    customers(&world, undo).await?.refused(409, "CONFLICT");
    let after = records(&world, "c-demo").await;
    assert_eq!(format!("{before:?}"), format!("{after:?}"));
    assert_eq!(member(&world, "demo").await.0.as_deref(), Some("c-demo"));
    assert_eq!(customer(&world, "c-wang").await.linked_user_id, None);
    assert!(customer(&world, "c-demo").await.is_active());
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn merges_that_cannot_be_are_refused() -> anyhow::Result<()> {
    let world = World::start().await?;
    let merge = |source: &'static str, target: &'static str| {
        customers(&world, json!({ "action": "merge", "sourceId": source, "targetId": target }))
    };
    merge("c-demo", "c-demo").await?.refused(400, "INVALID_ARGUMENT");
    merge("c-demo", "c-none").await?.refused(404, "CUSTOMER_NOT_FOUND");
    let unmerge = |id: String| customers(&world, json!({ "action": "unmerge", "mergeId": id }));
    unmerge("m-none".to_owned()).await?.refused(404, "NOT_FOUND");
    for (name, phone, customer) in [("one", DEMO_PHONE, "演示客户"), ("two", SHARED_PHONE, "王小明")] {
        world.client.login(name).await?;
        let event = json!({ "openId": format!("o-{name}"), "phone": phone, "name": customer });
        world.client.call_service("linkUserToCustomer", event).await?.ok();
    }
    merge("c-demo", "c-wang").await?.refused(409, "CUSTOMER_ALREADY_LINKED");

    // Into a linked one, what comes is linked; then it moves on, and cannot be taken back from the first.
    let first = merge("c-demo", "c-wang-2").await?.text("mergeId");
    let second = merge("c-wang-2", "c-new").await?;
    second.refused(404, "CUSTOMER_NOT_FOUND");
    customers(&world, json!({ "action": "upsert", "customerId": "c-new", "name": "新" })).await?.ok();
    let second = merge("c-wang-2", "c-new").await?.text("mergeId");
    unmerge(first.clone()).await?.refused(409, "CONFLICT");
    assert_eq!(records(&world, "c-new").await.len(), 2);
    unmerge(second).await?.ok();
    unmerge(first).await?.ok();
    assert_eq!(member(&world, "one").await.0.as_deref(), Some("c-demo"));
    // Many at once: one merge, and undone once.
    let answers = join_all((0..6).map(|_| merge("c-demo", "c-new"))).await;
    let answers = answers.into_iter().collect::<Result<Vec<_>, _>>()?;
    let made: Vec<&Answer> = answers.iter().filter(|a| a.status == 200).collect();
    assert_eq!(made.len(), 1, "{answers:?}");
    let id = made[0].text("mergeId");
    let answers = join_all((0..6).map(|_| unmerge(id.clone()))).await;
    let answers = answers.into_iter().collect::<Result<Vec<_>, _>>()?;
    assert_eq!(answers.iter().filter(|a| a.status == 200).count(), 1, "{answers:?}");
    assert_eq!(records(&world, "c-demo").await.len(), 2);
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_named() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.client.login("clumsy").await?;
    let bad = [
        ("sendSMS", json!({}), "phone"),
        ("sendSMS", json!({ "phone": 13_800_138_000_i64, "purpose": "bind" }), "phone"),
        ("sendSMS", json!({ "phone": "138 0013 8000", "purpose": "bind" }), "phone"),
        ("sendSMS", json!({ "phone": "+85251234567", "purpose": "bind" }), "phone"),
        ("sendSMS", json!({ "phone": DEMO_PHONE, "purpose": "pay" }), "purpose"),
        ("sendSMS", json!({ "phone": DEMO_PHONE }), "purpose"),
        ("linkUserToCustomer", json!({ "verifyCode": "123456" }), "phone"),
        ("linkUserToCustomer", json!({ "phone": DEMO_PHONE, "verifyCode": 123_456 }), "verifyCode"),
        ("linkUserToCustomer", json!({ "phone": DEMO_PHONE, "verifyCode": "12345" }), "verifyCode"),
        ("linkUserToCustomer", json!({ "phone": DEMO_PHONE, "verifyCode": "一二三四五六" }), "verifyCode"),
        ("linkUserToCustomer", json!({ "phone": DEMO_PHONE, "phoneCode": "a b" }), "phoneCode"),
        ("linkUserToCustomer", json!({ "phone": DEMO_PHONE, "phoneCode": "x", "verifyCode": "123456" }), "phoneCode"),
        ("linkUserToCustomer", json!({ "phoneCode": "phone-13800138000", "name": "a\u{0}b" }), "name"),
    ];
    for (name, event, field) in bad {
        let answer = world.client.call(name, &token, event).await?;
        answer.refused(400, "INVALID_ARGUMENT");
        assert_eq!(answer.body["details"]["field"], field, "{name}: {answer:?}");
    }
    assert!(world.sim.sms(None).is_empty());
    world.finish().await
}

/// Whatever is merged, undone, linked, taken and given back in any order: the books add up, and every record has its customer's link.
#[tokio::test(flavor = "multi_thread")]
async fn any_sequence_of_merges_and_deductions_adds_up() -> anyhow::Result<()> {
    use rand::{RngExt, SeedableRng};
    const IDS: [&str; 3] = ["c-demo", "c-wang", "c-wang-2"];
    let world = World::start().await?;
    let seed = rand::random::<u64>();
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let mut merges = Vec::new();
    for name in ["p", "q"] {
        world.client.login(name).await?;
    }
    for step in 0..80 {
        let (one, two) = (IDS[random.random_range(0..3)], IDS[random.random_range(0..3)]);
        let service = |name: &'static str, event: Value| {
            let client = world.client.clone();
            async move { client.call_service(name, event).await }
        };
        let order = format!("crm-{}", random.random_range(0..12));
        let answer = match random.random_range(0..7) {
            0 | 1 => {
                let answer =
                    service("customers", json!({ "action": "merge", "sourceId": one, "targetId": two })).await?;
                merges.extend(answer.body["mergeId"].as_str().map(str::to_owned));
                answer
            }
            2 if !merges.is_empty() => {
                let id = &merges[random.random_range(0..merges.len())];
                service("customers", json!({ "action": "unmerge", "mergeId": id })).await?
            }
            3 => {
                let who = if random.random() { "o-p" } else { "o-q" };
                let (phone, name) =
                    if one == "c-demo" { (DEMO_PHONE, "演示客户") } else { (SHARED_PHONE, "王小明") };
                service("linkUserToCustomer", json!({ "openId": who, "phone": phone, "name": name })).await?
            }
            4 => service("addPrestore", json!({ "customerId": one, "type": "amount", "amount": 1.5 })).await?,
            5 => {
                let event = json!({ "customerId": one, "amount": 7.25, "orderId": order, "prepaidType": "amount" });
                service("updatePrepaidBalance", event).await?
            }
            _ => {
                let event = json!({ "customerId": one, "amount": 7.25, "orderId": order, "prepaidType": "amount", "restore": true });
                service("updatePrepaidBalance", event).await?
            }
        };
        assert!(answer.status < 500, "seed {seed}, step {step}: {answer:?}");
        for id in IDS {
            let link = customer(&world, id).await.linked_user_id;
            for record in records(&world, id).await {
                assert_eq!(record.linked_user_id, link, "seed {seed}, step {step}: {record:?}");
            }
        }
        let found = world.violations().await?;
        assert!(found.is_empty(), "seed {seed}, step {step}: {found:?}");
    }
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_in_during_a_link_and_a_merge_is_linked_and_moved_too() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.client.login("busy").await?;
    let client = &world.client;
    let deposits = |customer: &'static str, count: usize| {
        join_all((0..count).map(move |_| {
            let client = client.clone();
            let event = json!({ "customerId": customer, "type": "amount", "amount": 1 });
            async move { client.call_service("addPrestore", event).await }
        }))
    };
    let (made, linked) = tokio::join!(deposits("c-demo", 12), link_by_wechat(&world.client, &token, DEMO_PHONE));
    linked?.ok();
    for answer in made {
        answer?.ok();
    }
    let all = records(&world, "c-demo").await;
    assert_eq!((all.len(), all.iter().filter(|r| r.linked_user_id.is_none()).count()), (14, 0));

    let event = json!({ "action": "merge", "sourceId": "c-demo", "targetId": "c-wang" });
    let (made, merged) = tokio::join!(deposits("c-demo", 12), customers(&world, event));
    merged?.ok();
    let made = made.into_iter().collect::<Result<Vec<_>, _>>()?;
    for late in made.iter().filter(|a| a.status != 200) {
        late.refused(404, "CUSTOMER_NOT_FOUND");
    }
    let count = 14 + made.iter().filter(|a| a.status == 200).count();
    let all = records(&world, "c-wang").await;
    assert_eq!((all.len(), all.iter().filter(|r| r.linked_user_id.is_none()).count()), (count, 0));
    assert!(records(&world, "c-demo").await.is_empty());
    world.finish().await
}
