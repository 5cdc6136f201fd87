//! Prepaid money and goods: putting in, taking for an order, giving back, correcting; alone, in crowds and in any order.

use std::collections::BTreeMap;

use edge::App;
use futures_util::future::join_all;
use gateway::{Gateway, Options};
use it::{Answer, Client, World};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

/// A customer of the test's own, who has nothing yet.
async fn customer(world: &World, id: &str, phone: &str) -> anyhow::Result<()> {
    let document = json!({ "_id": id, "name": format!("客户{id}"), "phone": phone, "status": "active" });
    Ok(world.store.open_document("customers", &document, world.app.clock.now()).await?)
}

/// The customer `c-own`, linked to the user `o-linked`; returns the user's token.
async fn linked(world: &World) -> anyhow::Result<String> {
    let now = world.app.clock.now();
    let customer = json!({
        "_id": "c-own", "name": "本人", "phone": "13700000001", "status": "active",
        "linkedUserId": "u-linked", "linkedOpenId": "o-linked", "linkTime": { "$date": now.to_rfc3339() },
    });
    let member = json!({
        "_id": "u-linked", "openId": "o-linked", "nickName": "关联用户", "phone": "13700000001", "customerId": "c-own",
        "points": 0, "level": 1, "balance": 0, "carryFen": 0, "isVerified": false, "blocked": false,
    });
    world.store.open_document("customers", &customer, now).await?;
    world.store.open_document("member_user", &member, now).await?;
    world.client.login("linked").await
}

async fn add(c: &Client, customer: &str, yuan: Value) -> anyhow::Result<String> {
    let event = json!({ "customerId": customer, "type": "amount", "amount": yuan });
    let made = c.call_service("addPrestore", event).await?;
    assert_eq!(made.ok()["balance"], yuan);
    Ok(made.text("recordId"))
}

async fn add_goods(c: &Client, customer: &str, product: &str, pieces: i64) -> anyhow::Result<String> {
    let event = json!({ "customerId": customer, "type": "product", "quantity": pieces, "productId": product });
    let made = c.call_service("addPrestore", event).await?;
    assert_eq!(made.ok()["balance"], pieces);
    Ok(made.text("recordId"))
}

fn take(customer: &str, order: &str, yuan: Value) -> Value {
    json!({ "customerId": customer, "orderId": order, "amount": yuan, "prepaidType": "amount" })
}

fn take_goods(customer: &str, order: &str, product: &str, pieces: Value) -> Value {
    json!({ "customerId": customer, "orderId": order, "amount": pieces, "prepaidType": "product", "productId": product })
}

fn with(mut event: Value, field: &str, value: Value) -> Value {
    event[field] = value;
    event
}

async fn balance(world: &World, record: &str) -> anyhow::Result<i64> {
    Ok(world.store.prepaid_record(record).await?.map_or(0, |r| r.balance))
}

/// What a customer still has: fen, and pieces by product.
async fn holdings(world: &World, id: &str) -> anyhow::Result<(i64, BTreeMap<String, i64>)> {
    let records = world.store.all_prepaid_records(&domain::CustomerId::parse(id)?).await?;
    let (mut fen, mut pieces) = (0, BTreeMap::new());
    for record in records {
        match record.product_id {
            None => fen += record.balance,
            Some(product) => *pieces.entry(product.as_str().to_owned()).or_insert(0) += record.balance,
        }
    }
    Ok((fen, pieces))
}

/// Another instance on the same database.
async fn instance(world: &World) -> anyhow::Result<Client> {
    let app = App::new(world.app.config.clone(), world.app.clock.clone())?;
    let options = Options { env_id: "prod-1a2b3c".to_owned(), tc3: None, local: None };
    let router = Gateway::new(app, gateway::functions(), Vec::new(), options).router();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let client = Client::new(format!("http://{}", listener.local_addr()?))?;
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(client)
}

#[tokio::test]
async fn money_is_put_in_taken_and_given_back() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    customer(&world, "c-1", "13700000009").await?;
    let event = json!({ "customerId": "c-1", "type": "amount", "amount": "30.50", "remark": "充值", "requestId": "put-000001" });
    let first = c.call_service("addPrestore", event.clone()).await?;
    let again = c.call_service("addPrestore", event.clone()).await?;
    assert_eq!((&first.ok()["balance"], &first.body["replayed"]), (&json!(30.5), &json!(null)));
    assert_eq!((&again.ok()["recordId"], &again.body["replayed"]), (&first.body["recordId"], &json!(true)));
    c.call_service("addPrestore", with(event, "amount", json!(31))).await?.refused(409, "IDEMPOTENCY_KEY_REUSED");
    world.client.advance(1).await?;
    let second = add(c, "c-1", json!(100)).await?;
    let first = first.text("recordId");

    // As old clients send it: a text, or a number with its zeros, and no requestId. The oldest record pays first.
    let taken = c.call_service("updatePrepaidBalance", take("c-1", "CRM_1", json!("50.00"))).await?;
    assert_eq!(
        taken.ok()["details"],
        json!([
            { "recordId": first, "before": 30.5, "deducted": 30.5, "after": 0 },
            { "recordId": second, "before": 100, "deducted": 19.5, "after": 80.5 },
        ])
    );
    let sums =
        |a: &Answer| [&a.body["totalAmount"], &a.body["deductedAmount"], &a.body["remainingBalance"]].map(Value::clone);
    assert_eq!(sums(&taken), [json!(50), json!(50), json!(80.5)]);
    let raw = r#"{"customerId":"c-1","orderId":"CRM_1","amount":50.00,"prepaidType":"amount","productId":"p-apple"}"#;
    let raw: Value = serde_json::from_str(raw)?;
    let again = c.call_service("updatePrepaidBalance", raw).await?;
    assert_eq!((sums(&again), &again.ok()["replayed"]), (sums(&taken), &json!(true)));
    assert_eq!(
        (&again.body["deductionId"], &again.body["details"]),
        (&taken.body["deductionId"], &taken.body["details"])
    );
    c.call_service("updatePrepaidBalance", take("c-1", "CRM_1", json!(50.01))).await?.refused(409, "CONFLICT");

    // More than there is: all or nothing, unless a part will do.
    let much = take("c-1", "CRM_2", json!(80.51));
    let refused = c.call_service("updatePrepaidBalance", much.clone()).await?;
    refused.refused(422, "PREPAID_INSUFFICIENT");
    assert_eq!(balance(&world, &second).await?, 8050);
    let part = c.call_service("updatePrepaidBalance", with(much.clone(), "allowPartial", json!(true))).await?;
    assert_eq!(sums(&part), [json!(80.51), json!(80.5), json!(0)]);
    assert_eq!(c.call_service("updatePrepaidBalance", much).await?.ok()["replayed"], true);
    let none = with(take("c-1", "CRM_3", json!(1)), "allowPartial", json!(true));
    c.call_service("updatePrepaidBalance", none).await?.refused(422, "PREPAID_INSUFFICIENT");

    // Given back to the very records, once, and then the order is done with.
    let back = json!({ "customerId": "c-1", "orderId": "CRM_1", "prepaidType": "amount", "restore": true });
    for replayed in [json!(null), json!(true)] {
        let restored = c.call_service("updatePrepaidBalance", back.clone()).await?;
        assert_eq!((&restored.ok()["replayed"], &restored.body["status"]), (&replayed, &json!("restored")));
        assert_eq!(sums(&restored), [json!(50), json!(50), json!(50)]);
        assert_eq!((balance(&world, &first).await?, balance(&world, &second).await?), (3050, 1950));
    }
    c.call_service("updatePrepaidBalance", take("c-1", "CRM_1", json!(50))).await?.refused(409, "CONFLICT");
    let unknown = with(back.clone(), "orderId", json!("CRM_9"));
    c.call_service("updatePrepaidBalance", unknown).await?.refused(404, "NOT_FOUND");
    let others = with(back, "customerId", json!("c-wang"));
    c.call_service("updatePrepaidBalance", others).await?.refused(404, "NOT_FOUND");
    world.finish().await
}

#[tokio::test]
async fn goods_pay_in_whole_pieces_of_their_own_product() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    customer(&world, "c-1", "13700000009").await?;
    customer(&world, "c-2", "13700000010").await?;
    let apples = add_goods(c, "c-1", "p-apple", 3).await?;
    let more = add_goods(c, "c-1", "p-apple", 4).await?;
    let gone = add_goods(c, "c-1", "p-no-longer-sold", 2).await?;
    let money = add(c, "c-1", json!(10)).await?;
    let others = add_goods(c, "c-2", "p-apple", 9).await?;
    let stored = world.store.prepaid_record(&apples).await?.unwrap();
    assert!(stored.product_name.is_some_and(|name| name.contains("苹果")));

    let taken = c.call_service("updatePrepaidBalance", take_goods("c-1", "o-1", "p-apple", json!(5))).await?;
    assert_eq!((&taken.ok()["deductedAmount"], &taken.body["remainingBalance"]), (&json!(5), &json!(2)));
    // Another product of the same order is another deduction.
    let taken =
        c.call_service("updatePrepaidBalance", take_goods("c-1", "o-1", "p-no-longer-sold", json!("1"))).await?;
    assert_eq!((&taken.ok()["remainingBalance"], &taken.body["replayed"]), (&json!(1), &json!(null)));
    let back = json!({ "customerId": "c-1", "orderId": "o-1", "prepaidType": "product", "recordIds": [gone], "restore": true });
    c.call_service("updatePrepaidBalance", back).await?.ok();
    assert_eq!(balance(&world, &gone).await?, 2);
    let sum = balance(&world, &apples).await? + balance(&world, &more).await?;
    assert_eq!(sum, 2, "the other deduction of the order must stand");

    let named = |order: &str, ids: Value, product: Value| json!({ "customerId": "c-1", "orderId": order, "amount": 1, "prepaidType": "product", "recordIds": ids, "productId": product });
    // Records of one product fix it.
    let taken = c.call_service("updatePrepaidBalance", named("o-2", json!([apples, more]), json!(null))).await?;
    assert_eq!(taken.ok()["deductionId"], "o-2|product|p-apple");
    for (ids, product, status, code) in [
        (json!([gone]), json!("p-apple"), 422, "PREPAID_PRODUCT_MISMATCH"),
        (json!([money]), json!("p-apple"), 422, "PREPAID_PRODUCT_MISMATCH"),
        (json!([money]), json!(null), 422, "PREPAID_PRODUCT_MISMATCH"),
        (json!([apples, gone]), json!("p-apple"), 422, "PREPAID_PRODUCT_MISMATCH"),
        (json!([apples, gone]), json!(null), 400, "INVALID_ARGUMENT"),
        // Another's record and one that is not there are answered alike.
        (json!([others]), json!("p-apple"), 404, "NOT_FOUND"),
        (json!(["pr-none"]), json!("p-apple"), 404, "NOT_FOUND"),
    ] {
        let answer = c.call_service("updatePrepaidBalance", named("o-3", ids.clone(), product)).await?;
        assert_eq!((answer.status, answer.code()), (status, code), "{ids}: {answer:?}");
    }
    let by_money = with(take("c-1", "o-3", json!(1)), "recordIds", json!([apples]));
    c.call_service("updatePrepaidBalance", by_money).await?.refused(422, "PREPAID_PRODUCT_MISMATCH");
    // A part is for money alone.
    let part = with(take_goods("c-1", "o-4", "p-apple", json!(2)), "allowPartial", json!(true));
    c.call_service("updatePrepaidBalance", part).await?.refused(422, "PREPAID_INSUFFICIENT");
    let (fen, pieces) = holdings(&world, "c-1").await?;
    assert_eq!((fen, pieces["p-apple"], pieces["p-no-longer-sold"]), (1000, 1, 2));
    world.finish().await
}

#[tokio::test]
async fn a_user_has_their_own_customer_and_learns_of_no_other() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let own = linked(&world).await?;
    let stranger = c.login("stranger").await?;
    add(c, "c-own", json!(20)).await?;
    add_goods(c, "c-own", "p-apple", 2).await?;
    for event in [json!({ "action": "records" }), json!({ "action": "records", "customerId": "c-own" })] {
        let listed = c.call("prepaid", &own, event).await?;
        let rows = listed.ok()["data"].as_array().unwrap();
        assert_eq!(rows.len(), 2);
        for row in rows {
            assert_eq!((&row["linkStatus"], &row["remark"]), (&json!("linked"), &json!(null)));
        }
    }
    let paid = with(take("c-own", "o-1", json!(5)), "customerPhone", json!("13700000001"));
    assert_eq!(c.call("updatePrepaidBalance", &own, paid.clone()).await?.ok()["remainingBalance"], 15);
    let wrong = with(with(paid, "customerPhone", json!("13800138000")), "orderId", json!("o-2"));
    c.call("updatePrepaidBalance", &own, wrong.clone()).await?.refused(403, "FORBIDDEN");
    let answer = c.call_service("updatePrepaidBalance", wrong).await?;
    answer.refused(400, "INVALID_ARGUMENT");
    assert_eq!(answer.body["details"]["field"], "customerPhone");
    let back = json!({ "customerId": "c-own", "orderId": "o-1", "prepaidType": "amount", "restore": true });
    c.call("updatePrepaidBalance", &own, back.clone()).await?.refused(403, "FORBIDDEN");

    // Another's and one that does not exist: the same words.
    for token in [&own, &stranger] {
        let mut said = Vec::new();
        for id in ["c-demo", "c-none"] {
            for (name, event) in [
                ("updatePrepaidBalance", take(id, "o-9", json!(1))),
                ("updatePrepaidBalance", with(take(id, "o-9", json!(1)), "customerPhone", json!("13800138000"))),
                ("updatePrepaidBalance", with(take(id, "o-9", json!(1)), "restore", json!(true))),
                ("prepaid", json!({ "action": "stats", "customerId": id })),
                ("prepaid", json!({ "action": "records", "customerId": id })),
            ] {
                let answer = c.call(name, token, event).await?;
                answer.refused(403, "FORBIDDEN");
                said.push((id, answer.body["message"].clone()));
            }
        }
        let (there, not_there): (Vec<_>, Vec<_>) = said.into_iter().partition(|(id, _)| *id == "c-demo");
        assert!(there.iter().map(|s| &s.1).eq(not_there.iter().map(|s| &s.1)));
    }
    c.call("prepaid", &stranger, json!({ "action": "records" })).await?.refused(404, "CUSTOMER_NOT_FOUND");
    for name in ["addPrestore", "updatePrepaidProduct"] {
        c.call(name, &own, json!({})).await?.refused(403, "FORBIDDEN");
        c.call(name, "", json!({})).await?.refused(401, "UNAUTHENTICATED");
    }
    for (name, event) in [
        ("updatePrepaidBalance", take("c-none", "o-9", json!(1))),
        ("prepaid", json!({ "action": "stats", "customerId": "c-none" })),
        ("addPrestore", json!({ "customerId": "c-none", "type": "amount", "amount": 1 })),
    ] {
        c.call_service(name, event).await?.refused(404, "CUSTOMER_NOT_FOUND");
    }
    // Staff by their permission.
    let staff = |permission: &str| {
        let (permissions, hour) = (vec![permission.to_owned()], chrono::TimeDelta::hours(1));
        world.app.issue_staff_token("s-1", &permissions, hour, world.app.clock.now()).map(|(token, _)| token)
    };
    let (clerk, other) = (staff("prepaid")?, staff("orders")?);
    c.call("updatePrepaidBalance", &other, back.clone()).await?.refused(403, "FORBIDDEN");
    assert_eq!(c.call("updatePrepaidBalance", &clerk, back).await?.ok()["remainingBalance"], 20);
    world.finish().await
}

#[tokio::test]
async fn lists_are_paged_and_the_sums_are_of_this_month() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    customer(&world, "c-1", "13700000009").await?;
    for _ in 0..3 {
        add(c, "c-1", json!(10.01)).await?;
        add_goods(c, "c-1", "p-apple", 2).await?;
        add_goods(c, "c-1", "p-tea", 1).await?;
    }
    for order in ["o-1", "o-2", "o-3"] {
        c.call_service("updatePrepaidBalance", take("c-1", order, json!(1))).await?.ok();
    }
    for (action, count) in [("records", 9), ("deductions", 3)] {
        let (mut seen, mut after) = (std::collections::BTreeSet::new(), String::new());
        loop {
            let event = json!({ "action": action, "customerId": "c-1", "limit": 2, "after": after });
            let page = c.call_service("prepaid", event).await?;
            let rows = page.ok()["data"].as_array().unwrap();
            assert!(rows.len() <= 2);
            for row in rows {
                assert!(seen.insert(row["_id"].as_str().unwrap().to_owned()), "twice: {row}");
                assert_eq!(row["customerId"], "c-1");
            }
            match page.body["nextCursor"].as_str() {
                Some(cursor) => after = cursor.to_owned(),
                None => break,
            }
        }
        assert_eq!(seen.len(), count, "{action}");
    }
    let stats = c.call_service("prepaid", json!({ "action": "stats", "customerId": "c-1" })).await?;
    assert_eq!((&stats.ok()["totalAmount"], &stats.body["deductionsThisMonth"]), (&json!(27.03), &json!(3)));
    let pieces: Vec<_> =
        stats.body["products"].as_array().unwrap().iter().map(|p| (&p["productId"], &p["pieces"])).collect();
    assert_eq!(pieces, [(&json!("p-apple"), &json!(6)), (&json!("p-tea"), &json!(3))]);
    c.advance(32 * 86_400).await?;
    let later = c.call_service("prepaid", json!({ "action": "stats", "customerId": "c-1" })).await?;
    assert_eq!(later.ok()["deductionsThisMonth"], 0);
    c.call_service("prepaid", json!({ "action": "stats" })).await?.refused(400, "INVALID_ARGUMENT");
    world.finish().await
}

#[tokio::test]
async fn goods_are_corrected_by_hand_and_money_is_not() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    customer(&world, "c-1", "13700000009").await?;
    let (apples, money) = (add_goods(c, "c-1", "p-apple", 3).await?, add(c, "c-1", json!(9)).await?);
    let event = |kind: &str, n: i64| json!({ "recordId": apples, "updateType": kind, "quantity": n, "reason": "盘点" });
    for (kind, n, expected) in [("increase", 4, 7), ("decrease", 2, 5), ("set", 9, 9), ("set", 9, 9), ("set", 0, 0)] {
        assert_eq!(c.call_service("updatePrepaidProduct", event(kind, n)).await?.ok()["balance"], expected);
        assert_eq!(balance(&world, &apples).await?, expected);
    }
    let keyed = with(event("increase", 6), "requestId", json!("fix-000001"));
    for replayed in [json!(null), json!(true)] {
        let answer = c.call_service("updatePrepaidProduct", keyed.clone()).await?;
        assert_eq!((&answer.ok()["balance"], &answer.body["replayed"]), (&json!(6), &replayed));
    }
    c.call_service("updatePrepaidProduct", with(keyed, "quantity", json!(7)))
        .await?
        .refused(409, "IDEMPOTENCY_KEY_REUSED");
    c.call_service("updatePrepaidProduct", event("decrease", 7)).await?.refused(422, "PREPAID_INSUFFICIENT");
    let of = |id: &str| with(event("set", 1), "recordId", json!(id));
    c.call_service("updatePrepaidProduct", of(&money)).await?.refused(422, "PREPAID_PRODUCT_MISMATCH");
    c.call_service("updatePrepaidProduct", of("pr-none")).await?.refused(404, "NOT_FOUND");
    assert_eq!((balance(&world, &apples).await?, balance(&world, &money).await?), (6, 900));
    assert_eq!(world.store.peek("updatePrepaidProduct", 100).await?.len(), 6);
    world.finish().await
}

#[tokio::test]
async fn bad_input_names_its_field_and_changes_nothing() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let amount = json!({ "customerId": "c-demo", "type": "amount", "amount": 1 });
    let goods = json!({ "customerId": "c-demo", "type": "product", "quantity": 1, "productId": "p-apple" });
    let deduct = take("c-demo", "o-1", json!(1));
    let pieces = take_goods("c-demo", "o-1", "p-apple", json!(1));
    let fix = json!({ "recordId": "pr-demo-apple", "updateType": "set", "quantity": 1, "reason": "x" });
    let list = json!({ "action": "records", "customerId": "c-demo" });
    let long = "x".repeat(65);
    let no_amounts = json!([null, 0, -1, 0.001, 1.005, "1e3", "", " 1", true, [], {}, "NaN", 1e22, 100_000_000_000.01]);
    let no_ids = json!([null, 5, "", "a b", "{\"$gt\":\"\"}", { "$gt": "" }, ["c-demo"], long]);
    let table = [
        ("addPrestore", &amount, "amount", no_amounts.clone()),
        ("addPrestore", &amount, "customerId", no_ids.clone()),
        ("addPrestore", &amount, "type", json!([null, "", "gift", 1, {}])),
        ("addPrestore", &amount, "remark", json!([5, "a\0b", "\u{202e}x", "字".repeat(201)])),
        ("addPrestore", &amount, "requestId", json!(["short", 5, {}])),
        ("addPrestore", &goods, "quantity", json!([null, 0, -1, 1.5, "x", 1_000_000_000_001i64, 1e22])),
        ("addPrestore", &goods, "productId", no_ids.clone()),
        ("addPrestore", &goods, "productName", json!([5, "a\0b", "字".repeat(101)])),
        ("updatePrepaidBalance", &deduct, "amount", no_amounts),
        ("updatePrepaidBalance", &deduct, "customerId", no_ids),
        ("updatePrepaidBalance", &deduct, "orderId", json!([null, 5, "", "a|b", "a b", "订单", long, {}])),
        ("updatePrepaidBalance", &deduct, "prepaidType", json!([null, "", "coins", 5])),
        ("updatePrepaidBalance", &deduct, "recordIds", json!(["x", 5, {}, [], [""], [long], vec!["r"; 101]])),
        ("updatePrepaidBalance", &deduct, "customerPhone", json!([5, {}, "13800138001"])),
        ("updatePrepaidBalance", &deduct, "allowPartial", json!(["yes", 1])),
        ("updatePrepaidBalance", &deduct, "restore", json!(["yes", 1])),
        ("updatePrepaidBalance", &pieces, "amount", json!([null, 0, 0.5, 1.5, "1.01", -1])),
        ("updatePrepaidBalance", &pieces, "productId", json!([null, "", 5, "a b", long])),
        ("updatePrepaidProduct", &fix, "recordId", json!([null, 5, "", long])),
        ("updatePrepaidProduct", &fix, "updateType", json!([null, "add", 5])),
        ("updatePrepaidProduct", &fix, "quantity", json!([null, -1, 1.5, "x", 1_000_000_000_001i64])),
        ("updatePrepaidProduct", &fix, "reason", json!([null, "", " ", 5, "a\0b", "字".repeat(101)])),
        ("prepaid", &list, "action", json!([null, "all", 5])),
        ("prepaid", &list, "customerId", json!([null, 5, "", "a b", {}])),
        ("prepaid", &list, "limit", json!([0, 101, -1, 1.5, "x"])),
        ("prepaid", &list, "after", json!(["x", "zz", 5])),
    ];
    for (name, base, field, values) in table {
        for value in values.as_array().unwrap() {
            let answer = c.call_service(name, with(base.clone(), field, value.clone())).await?;
            assert_eq!((answer.status, answer.code()), (400, "INVALID_ARGUMENT"), "{name} {field} {value}: {answer:?}");
            let named = answer.body["details"]["field"].as_str().unwrap_or_default();
            assert!(named.starts_with(field), "{name} {field} {value}: {answer:?}");
        }
    }
    let (fen, pieces) = holdings(&world, "c-demo").await?;
    assert_eq!((fen, pieces["p-apple"]), (10_000, 5));
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_at_once_take_what_is_there_and_no_more() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    customer(&world, "c-1", "13700000009").await?;
    let mut records = Vec::new();
    for yuan in [33.33, 33.33, 33.34] {
        records.push(add(c, "c-1", json!(yuan)).await?);
    }
    let calls = (0..64).map(|i| c.call_service("updatePrepaidBalance", take("c-1", &format!("crowd-{i}"), json!(10))));
    let answers = join_all(calls).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    let (good, bad): (Vec<_>, Vec<_>) = answers.iter().partition(|a| a.status == 200);
    for answer in bad {
        answer.refused(422, "PREPAID_INSUFFICIENT");
    }
    assert_eq!(good.len(), 10);
    assert_eq!(holdings(&world, "c-1").await?.0, 0);
    // Every record's history is one chain from what was put in down to nothing.
    for (record, put_in) in records.iter().zip([3333, 3333, 3334]) {
        let page = store::page::PageRequest::parse(Some(100), None)?;
        let rows = world.store.prepaid_deductions(&domain::CustomerId::parse("c-1")?, &page).await?.data;
        let details = rows.iter().flat_map(|row| &row.details).filter(|d| d.record_id == *record);
        let mut steps: Vec<_> = details.map(|d| (d.before, d.deducted, d.after)).collect();
        steps.sort_unstable_by(|a, b| b.cmp(a));
        let mut standing = put_in;
        for (before, deducted, after) in steps {
            assert_eq!((before, before - deducted), (standing, after), "{record}");
            standing = after;
        }
        assert_eq!(standing, 0, "{record}");
    }
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_instances_asked_for_one_order_deduct_once() -> anyhow::Result<()> {
    let world = World::start().await?;
    customer(&world, "c-1", "13700000009").await?;
    let records = [add(&world.client, "c-1", json!(50)).await?, add(&world.client, "c-1", json!(50)).await?];
    let clients = [instance(&world).await?, instance(&world).await?];
    let mut left = 10_000;
    for round in 0..8 {
        let order = format!("twin-{round}");
        // In odd rounds each names another record, so that only the natural key can tell them to be one.
        let event = |i: usize| match round % 2 {
            0 => take("c-1", &order, json!(5)),
            _ => with(take("c-1", &order, json!(5)), "recordIds", json!([records[i % 2]])),
        };
        let calls = (0..4).map(|i| clients[i % 2].call_service("updatePrepaidBalance", event(i)));
        let answers = join_all(calls).await.into_iter().collect::<Result<Vec<_>, _>>()?;
        for answer in &answers {
            assert_eq!(answer.ok()["deductionId"], answers[0].body["deductionId"]);
            assert_eq!(answer.body["details"], answers[0].body["details"]);
        }
        assert_eq!(answers.iter().filter(|a| a.body["replayed"] != true).count(), 1);
        left -= 500;
        assert_eq!(holdings(&world, "c-1").await?.0, left);
        clients[0].call_service("updatePrepaidBalance", take("c-1", &order, json!(6))).await?.refused(409, "CONFLICT");

        // Given back by both at once: once.
        if round >= 6 {
            let back = json!({ "customerId": "c-1", "orderId": order, "prepaidType": "amount", "restore": true });
            let calls = (0..4).map(|i| clients[i % 2].call_service("updatePrepaidBalance", back.clone()));
            let answers = join_all(calls).await.into_iter().collect::<Result<Vec<_>, _>>()?;
            let first = answers.iter().filter(|a| a.ok()["replayed"] != true).count();
            left += 500;
            assert_eq!((first, holdings(&world, "c-1").await?.0), (1, left));
        }
    }
    // Different amounts at once: one wins, the others hear of the conflict.
    let calls = (1..5).map(|n| clients[0].call_service("updatePrepaidBalance", take("c-1", "duel", json!(n))));
    let answers = join_all(calls).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    for answer in answers.iter().filter(|a| a.status != 200) {
        answer.refused(409, "CONFLICT");
    }
    assert_eq!(answers.iter().filter(|a| a.status == 200).count(), 1);
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_added_during_a_link_is_linked_too() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    for round in 0..4 {
        let (id, phone, user) = (format!("c-{round}"), format!("1370000010{round}"), format!("late{round}"));
        customer(&world, &id, &phone).await?;
        add(c, &id, json!(1)).await?;
        c.login(&user).await?;
        let event = json!({ "customerId": id, "type": "amount", "amount": 1 });
        let mut calls: Vec<_> = (0..6).map(|_| c.call_service("addPrestore", event.clone())).collect();
        calls.insert(3, c.call_service("linkUserToCustomer", json!({ "openId": format!("o-{user}"), "phone": phone })));
        for answer in join_all(calls).await {
            answer?.ok();
        }
        let records = world.store.all_prepaid_records(&domain::CustomerId::parse(&id)?).await?;
        assert_eq!(records.len(), 7);
        assert!(records.iter().all(|r| r.linked_user_id.is_some() && r.link_time.is_some()), "{records:?}");
    }
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_added_and_taken_during_a_merge_is_not_left_behind() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    for round in 0..4 {
        let (source, target) = (format!("c-s{round}"), format!("c-t{round}"));
        customer(&world, &source, &format!("1370000020{round}")).await?;
        customer(&world, &target, &format!("1370000030{round}")).await?;
        add(c, &source, json!(50)).await?;
        let event = json!({ "customerId": source, "type": "amount", "amount": 1 });
        let merge = json!({ "action": "merge", "sourceId": source, "targetId": target });
        let adding = (0..4).map(|_| c.call_service("addPrestore", event.clone()));
        let taking =
            (0..4).map(|i| c.call_service("updatePrepaidBalance", take(&source, &format!("m-{round}-{i}"), json!(5))));
        let (merged, added, taken) =
            tokio::join!(c.call_service("customers", merge), join_all(adding), join_all(taking));
        merged?.ok();
        let mut expected = 5000;
        for (answers, change) in [(added, 100), (taken, -500)] {
            for answer in answers {
                let answer = answer?;
                match answer.status {
                    200 => expected += change,
                    _ => answer.refused(404, "CUSTOMER_NOT_FOUND"),
                }
            }
        }
        assert!(world.store.all_prepaid_records(&domain::CustomerId::parse(&source)?).await?.is_empty());
        assert_eq!(holdings(&world, &target).await?.0, expected);
        // What the source's orders took can still be given back.
        let deductions = world.store.peek("prepaidDeductions", 100).await?;
        for row in deductions.iter().filter(|d| d["customerId"] == source.as_str()) {
            let back =
                json!({ "customerId": target, "orderId": row["orderId"], "prepaidType": "amount", "restore": true });
            c.call_service("updatePrepaidBalance", back).await?.ok();
            expected += 500;
        }
        assert_eq!(holdings(&world, &target).await?.0, expected);
    }
    world.finish().await
}

#[derive(Debug, Clone)]
enum Step {
    Add(i64),
    AddGoods(i64),
    Take { order: u8, fen: i64, partly: bool },
    TakeGoods { order: u8, pieces: i64 },
    Restore { order: u8, goods: bool },
    Correct { kind: &'static str, pieces: i64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (1i64..5000).prop_map(Step::Add),
        1 => (1i64..9).prop_map(Step::AddGoods),
        4 => (0u8..6, 1i64..6000, any::<bool>()).prop_map(|(order, fen, partly)| Step::Take { order, fen, partly }),
        2 => (0u8..6, 1i64..9).prop_map(|(order, pieces)| Step::TakeGoods { order, pieces }),
        2 => (0u8..6, any::<bool>()).prop_map(|(order, goods)| Step::Restore { order, goods }),
        1 => (prop::sample::select(vec!["increase", "decrease", "set"]), 1i64..9).prop_map(|(kind, pieces)| Step::Correct { kind, pieces }),
    ]
}

/// One deduction as the model has it.
#[derive(Clone, Copy)]
struct Taken {
    asked: i64,
    got: i64,
    restored: bool,
}

/// What must be true, counted in the simplest way: sums, not records.
#[derive(Default)]
struct Model {
    fen: i64,
    pieces: i64,
    taken: BTreeMap<(u8, bool), Taken>,
    /// The first record of goods and what it must hold cannot be told from sums; corrections are judged by the reply.
    goods: Option<String>,
}

impl Model {
    /// The status and code that a deduction must have, after which the model has it booked.
    fn take(&mut self, order: u8, goods: bool, asked: i64, partly: bool) -> (u16, &'static str) {
        let held = if goods { &mut self.pieces } else { &mut self.fen };
        match self.taken.get(&(order, goods)) {
            Some(t) if t.asked == asked && !t.restored => return (200, ""),
            Some(_) => return (409, "CONFLICT"),
            None => {}
        }
        let got = asked.min(*held);
        if got < asked && !(partly && got > 0) {
            return (422, "PREPAID_INSUFFICIENT");
        }
        *held -= got;
        self.taken.insert((order, goods), Taken { asked, got, restored: false });
        (200, "")
    }

    fn restore(&mut self, order: u8, goods: bool) -> (u16, &'static str) {
        match self.taken.get_mut(&(order, goods)) {
            None => (404, "NOT_FOUND"),
            Some(t) => {
                if !t.restored {
                    t.restored = true;
                    *(if goods { &mut self.pieces } else { &mut self.fen }) += t.got;
                }
                (200, "")
            }
        }
    }
}

fn yuan(fen: i64) -> String {
    format!("{}.{:02}", fen / 100, fen % 100)
}

async fn run(world: &World, id: &str, model: &mut Model, step: &Step) -> anyhow::Result<()> {
    let c = &world.client;
    let order = |n: u8| format!("{id}-{n}");
    let (answer, expected) = match *step {
        Step::Add(fen) => {
            model.fen += fen;
            let event = json!({ "customerId": id, "type": "amount", "amount": yuan(fen) });
            (c.call_service("addPrestore", event).await?, (200, ""))
        }
        Step::AddGoods(pieces) => {
            model.pieces += pieces;
            let record = add_goods(c, id, "p-apple", pieces).await?;
            model.goods.get_or_insert(record);
            return Ok(());
        }
        Step::Take { order: n, fen, partly } => {
            let event = with(take(id, &order(n), json!(yuan(fen))), "allowPartial", json!(partly));
            (c.call_service("updatePrepaidBalance", event).await?, model.take(n, false, fen, partly))
        }
        Step::TakeGoods { order: n, pieces } => {
            let event = take_goods(id, &order(n), "p-apple", json!(pieces));
            (c.call_service("updatePrepaidBalance", event).await?, model.take(n, true, pieces, false))
        }
        Step::Restore { order: n, goods } => {
            let mut event = with(take_goods(id, &order(n), "p-apple", json!(null)), "restore", json!(true));
            if !goods {
                event["prepaidType"] = json!("amount");
            }
            (c.call_service("updatePrepaidBalance", event).await?, model.restore(n, goods))
        }
        Step::Correct { kind, pieces } => {
            let Some(record) = &model.goods else { return Ok(()) };
            let before = balance(world, record).await?;
            let after = match kind {
                "increase" => before + pieces,
                "decrease" => before - pieces,
                _ => pieces,
            };
            let event = json!({ "recordId": record, "updateType": kind, "quantity": pieces, "reason": "盘点" });
            let answer = c.call_service("updatePrepaidProduct", event).await?;
            if after >= 0 {
                assert_eq!(answer.ok()["balance"], after);
                model.pieces += after - before;
                return Ok(());
            }
            (answer, (422, "PREPAID_INSUFFICIENT"))
        }
    };
    anyhow::ensure!((answer.status, answer.code()) == expected, "{step:?}: {answer:?}, expected {expected:?}");
    Ok(())
}

async fn case(world: &World, number: u32, steps: &[Step]) -> anyhow::Result<()> {
    let id = format!("c-case{number}");
    customer(world, &id, &format!("137{number:08}")).await?;
    let mut model = Model::default();
    for step in steps {
        run(world, &id, &mut model, step).await?;
        let (fen, pieces) = holdings(world, &id).await?;
        let pieces = pieces.values().sum::<i64>();
        anyhow::ensure!(
            (fen, pieces) == (model.fen, model.pieces),
            "after {step:?}: {fen} fen, {pieces} pieces, expected {} and {}",
            model.fen,
            model.pieces
        );
    }
    let found = world.violations().await?;
    anyhow::ensure!(found.is_empty(), "{found:?}");
    Ok(())
}

/// One world for all cases of a property.
fn property<S: Strategy>(cases: u32, strategy: &S, check: impl AsyncFn(&World, u32, S::Value) -> anyhow::Result<()>) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let world = runtime.block_on(World::start()).unwrap();
    let number = std::cell::Cell::new(0);
    let config = Config { cases, max_shrink_iters: 20, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(strategy, |value| {
            number.set(number.get() + 1);
            runtime.block_on(check(&world, number.get(), value)).map_err(|e| TestCaseError::fail(e.to_string()))
        })
        .unwrap();
    runtime.block_on(world.finish()).unwrap();
}

#[test]
fn any_sequence_leaves_what_the_sums_say() {
    let steps = prop::collection::vec(step(), 4..24);
    property(20, &steps, async |world, number, steps: Vec<Step>| case(world, number, &steps).await);
}

#[test]
fn any_split_gives_the_same_total_to_the_fen() {
    let parts = prop::collection::vec(1i64..100_000, 1..8);
    let split = (parts.clone(), parts);
    property(12, &split, async |world, number, (put_in, taken): (Vec<i64>, Vec<i64>)| {
        let (c, id) = (&world.client, format!("c-split{number}"));
        customer(world, &id, &format!("136{number:08}")).await?;
        for fen in &put_in {
            c.call_service("addPrestore", json!({ "customerId": id, "type": "amount", "amount": yuan(*fen) }))
                .await?
                .ok();
        }
        let mut left: i64 = put_in.iter().sum();
        for (i, fen) in taken.iter().enumerate() {
            // As a number, so that it goes through a double on its way.
            let number: Value = serde_json::from_str(&yuan(*fen))?;
            let event = with(take(&id, &format!("{id}-{i}"), number), "allowPartial", json!(true));
            let answer = c.call_service("updatePrepaidBalance", event).await?;
            let got = left.min(*fen);
            if got == 0 {
                answer.refused(422, "PREPAID_INSUFFICIENT");
                continue;
            }
            left -= got;
            let fen_of = |v: &Value| serde_json::from_value::<domain::Yuan>(v.clone()).map(|y| y.0.get());
            let details = answer.ok()["details"].as_array().cloned().unwrap_or_default();
            let parts = details.iter().map(|d| fen_of(&d["deducted"])).collect::<Result<Vec<_>, _>>()?;
            assert_eq!((parts.iter().sum::<i64>(), fen_of(&answer.body["deductedAmount"])?), (got, got));
            assert_eq!(fen_of(&answer.body["remainingBalance"])?, left);
        }
        assert_eq!(holdings(world, &id).await?.0, left);
        Ok(())
    });
}
