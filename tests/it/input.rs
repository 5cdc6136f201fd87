//! Bad input to every function: the right status, code and field, nothing written, nothing of the inside in the reply.

use std::collections::BTreeSet;

use it::{Answer, Client, World, order_of};
use serde_json::{Value, json};

/// Every document that a call could change. Nonces, leases and cached access tokens are not what a call is about.
#[derive(PartialEq)]
pub(crate) struct Snapshot(BTreeSet<String>);

pub(crate) async fn snapshot(world: &World) -> anyhow::Result<Snapshot> {
    let mut documents = BTreeSet::new();
    // Reads show what a majority has; markers are pulled without waiting for one. This write waits for all before it.
    let now = world.app.clock.now();
    world.store.acquire_lease("snapshot", "test", chrono::TimeDelta::zero(), now).await?;
    for definition in store::collections::definitions()? {
        let name = definition.name.as_str();
        if ["accessTokens", "leases", "nonces"].contains(&name) {
            continue;
        }
        for document in world.store.peek(name, 10_000).await? {
            documents.insert(format!("{name} {document}"));
        }
    }
    Ok(Snapshot(documents))
}

impl Snapshot {
    /// The documents that are new, gone or different.
    fn changes(&self, after: &Self) -> Vec<String> {
        let gone = self.0.difference(&after.0).map(|d| format!("- {d}"));
        gone.chain(after.0.difference(&self.0).map(|d| format!("+ {d}"))).collect()
    }

    /// Asserts that nothing has been written since.
    pub(crate) async fn stands(&self, world: &World) -> anyhow::Result<()> {
        let changes = self.changes(&snapshot(world).await?);
        assert!(changes.is_empty(), "the database changed:\n{}", changes.join("\n"));
        Ok(())
    }
}

/// Who sends a case.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum As {
    User,
    Service,
    Nobody,
}

/// One bad call and the answer it must get.
pub(crate) struct Case {
    who: As,
    function: &'static str,
    body: Vec<u8>,
    status: u16,
    code: &'static str,
    field: Option<String>,
}

fn case(who: As, function: &'static str, body: impl Into<Vec<u8>>, status: u16, code: &'static str) -> Case {
    Case { who, function, body: body.into(), status, code, field: None }
}

/// A case of `INVALID_ARGUMENT` on `field`.
pub(crate) fn invalid(who: As, function: &'static str, body: impl Into<Vec<u8>>, field: &str) -> Case {
    Case { field: Some(field.to_owned()), ..case(who, function, body, 400, "INVALID_ARGUMENT") }
}

/// The event with the value at `path` replaced by raw JSON text, which may be what `Value` cannot hold.
pub(crate) fn with(event: &Value, path: &str, raw: &str) -> String {
    let mut event = event.clone();
    let (parent, name) = path.rsplit_once('/').unwrap();
    let parent = if parent.is_empty() { &mut event } else { event.pointer_mut(parent).unwrap() };
    match parent {
        Value::Array(items) => items[name.parse::<usize>().unwrap()] = json!("@@"),
        other => other[name] = json!("@@"),
    }
    event.to_string().replace("\"@@\"", raw)
}

fn without(event: &Value, path: &str) -> String {
    let mut event = event.clone();
    let (parent, name) = path.rsplit_once('/').unwrap();
    let parent = if parent.is_empty() { &mut event } else { event.pointer_mut(parent).unwrap() };
    parent.as_object_mut().unwrap().remove(name);
    event.to_string()
}

/// `/items/0/quantity` as the reply names it: `items[0].quantity`.
pub(crate) fn named(path: &str) -> String {
    path.trim_start_matches('/').split('/').fold(String::new(), |text, part| {
        if part.bytes().all(|b| b.is_ascii_digit()) {
            format!("{text}[{part}]")
        } else if text.is_empty() {
            part.to_owned()
        } else {
            format!("{text}.{part}")
        }
    })
}

/// Sends bytes as they are.
async fn send(
    client: &Client,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Vec<u8>,
) -> anyhow::Result<Answer> {
    let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).build()?;
    let mut request = http.request(method.parse()?, format!("{}{path}", client.base));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let reply = request.body(body).send().await?;
    let status = reply.status().as_u16();
    let body = reply.bytes().await?;
    Ok(Answer { status, body: serde_json::from_slice(&body).unwrap_or(Value::Null) })
}

/// What every reply in the envelope keeps to.
#[track_caller]
pub(crate) fn check_envelope(answer: &Answer, what: &str) {
    let body = answer.body.as_object().unwrap_or_else(|| panic!("{what}: no object: {answer:?}"));
    let trace = body["requestId"].as_str().unwrap_or_default();
    assert!((8..=64).contains(&trace.len()), "{what}: {answer:?}");
    if body["success"] == true {
        assert!(!body.contains_key("code") && answer.status == 200, "{what}: {answer:?}");
        return;
    }
    assert_eq!(body["success"], false, "{what}: {answer:?}");
    assert!(body["retryable"].is_boolean() && answer.status >= 400, "{what}: {answer:?}");
    // `message` is for the person holding the phone.
    assert!(body["message"].as_str().is_some_and(|m| !m.is_ascii()), "{what}: {answer:?}");
    let text = answer.body.to_string().to_lowercase();
    for inside in [
        "mongo",
        "database",
        "bson",
        "serde",
        "driver",
        "e11000",
        "invariant",
        "panic",
        ".rs",
        ", expected ",
        "invalid type",
        "unknown variant",
        "at line",
        "column",
        "stack",
        "0x",
        "sha256",
        "openid\":\"o-",
    ] {
        assert!(!text.contains(inside), "{what}: the reply says {inside:?}: {answer:?}");
    }
}

/// Sends every case; each must be refused as it says and leave the database as it was. Reports all that do not.
pub(crate) async fn check(world: &World, token: &str, cases: Vec<Case>) -> anyhow::Result<()> {
    let mut wrong = Vec::new();
    let mut before = snapshot(world).await?;
    let mut cases = cases.into_iter().peekable();
    while let Some(case) = cases.next() {
        let shown = String::from_utf8_lossy(&case.body).chars().take(160).collect::<String>();
        let what = format!("{} {:?} {shown}", case.function, case.who);
        let answer = send_as(world, token, case.who, case.function, case.body).await?;
        check_envelope(&answer, &what);
        let field = answer.body["details"]["field"].as_str().map(str::to_owned);
        if (answer.status, answer.code()) != (case.status, case.code) || case.field.is_some() && field != case.field {
            wrong.push(format!(
                "{what}\n    wanted {} {} {:?}\n    got    {answer:?}",
                case.status, case.code, case.field
            ));
        }
        // Reading everything takes a while: once after all cases of a function in a row.
        if cases.peek().is_some_and(|next| next.function == case.function) {
            continue;
        }
        let after = snapshot(world).await?;
        if before != after {
            let changes = before.changes(&after).join("\n");
            wrong.push(format!("{}\n    the database changed:\n{changes}", case.function));
            before = after;
        }
    }
    assert!(wrong.is_empty(), "{} wrong answers:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}

/// Calls a function as one of these, with a body of any bytes.
pub(crate) async fn send_as(
    world: &World,
    token: &str,
    who: As,
    function: &str,
    body: Vec<u8>,
) -> anyhow::Result<Answer> {
    let path = format!("/{function}");
    match who {
        As::User => send(&world.client, "POST", &path, &[("x-app-session", token)], body).await,
        As::Nobody => send(&world.client, "POST", &path, &[], body).await,
        As::Service => send_signed(world, &path, body).await,
    }
}

/// Somebody who may call a function.
pub(crate) fn usual_caller(function: &str) -> As {
    match function {
        "submitOrder" | "wxPay" | "orders" | "getUserPoints" | "generateOrderId" | "sendSMS" => As::User,
        "addresses" | "cart" | "coins" | "coupons" | "logistics" | "lottery" | "pointsMall" | "subscriptions"
        | "verifyIdentity" => As::User,
        "login" | "products" => As::Nobody,
        _ => As::Service,
    }
}

/// As the CRM, with a body of any bytes.
async fn send_signed(world: &World, path: &str, body: Vec<u8>) -> anyhow::Result<Answer> {
    let timestamp = world.app.clock.now().timestamp().to_string();
    let nonce = it::wechat_nonce();
    let secret = edge::config::local::SERVICE_SECRET.as_bytes();
    let signature = edge::sign(secret, &timestamp, &nonce, "POST", path, &body);
    let headers = [
        ("x-jinlu-key", edge::config::local::SERVICE_KEY_ID),
        ("x-jinlu-timestamp", &timestamp),
        ("x-jinlu-nonce", &nonce),
        ("x-jinlu-signature", &signature),
    ];
    send(&world.client, "POST", path, &headers, body).await
}

#[tokio::test]
async fn submit_order_names_the_field_that_is_wrong() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.client.login("demo").await?;
    let base = order_of("p-apple", 1);
    let mut cases = Vec::new();
    let mut bad = |path: &str, values: &[&str]| {
        for raw in values {
            cases.push(invalid(As::User, "submitOrder", with(&base, path, raw), &named(path)));
        }
    };
    bad("/items", &["null", "\"x\"", "5", "{}", "true", "[]"]);
    bad("/items/0", &["null", "\"x\"", "5", "true", "[]"]);
    // A list in the place of an object is a wrong type, even if its elements would fit in order.
    bad("/items/0", &[r#"["p-apple",null,1,null]"#]);
    bad("/items/0/productId", &["null", "5", "{}", "[]", "true", "\"\"", "\"a b\"", "\"订单\"", r#"{"$gt":""}"#]);
    bad("/items/0/productId", &[r#""{\"$ne\":1}""#, r#""$where""#, "\"p-apple\\u0000\"", r#""../p-apple""#]);
    bad("/items/0/skuId", &["5", "{}", "[]", r#""a b""#, r#"{"$exists":true}"#]);
    let quantities = [
        "0",
        "-1",
        "1.5",
        "\"1\"",
        "\"x\"",
        "null",
        "true",
        "[]",
        "{}",
        "10000",
        "9223372036854775807",
        "9223372036854775808",
        "-9223372036854775808",
        "1e400",
        "-1e400",
        "-0",
        "-0.0",
        "1e-7",
        r#"{"$inc":1}"#,
    ];
    bad("/items/0/quantity", &quantities);
    bad("/items/0/price", &["true", "[]", "{}", "\"x\"", "0.001", "\"12.3.4\"", "-1", "\"NaN\"", "1e400", "\"1e3\""]);
    for field in ["/totalAmount", "/paymentAmount"] {
        bad(
            field,
            &["true", "[]", "{}", "\"x\"", "0.001", "50.001", "\"12.3.4\"", "\"50.000\"", "-1", "\"NaN\"", "1e400"],
        );
        bad(field, &["\"\"", "\" 50\"", "\"５０\"", "100000000000.01", "99999999999999999999"]);
    }
    bad("/paymentMethod", &["null", "5", "{}", "[]", "\"cash\"", "\"WECHAT\"", "\"\""]);
    bad("/pointsUsed", &["-1", "1.5", "\"5\"", "true", "[]", "51", "9223372036854775807", "1000000000001", "1e400"]);
    bad("/address", &["null", "\"x\"", "5", "[]", r#"["张三","13800138000","","","","文三路 1 号"]"#]);
    bad("/address/name", &["null", "5", "\"\"", "\"  \"", r#""a\u0000b""#, r#""\u202egpj""#, r#"{"$gt":""}"#]);
    bad("/address/phone", &["null", "13800138000", "\"\"", "\"abc\"", "\"138001380001380013800\"", r#""138\u0000""#]);
    bad("/address/detail", &["null", "5", "\"\"", r#""\u2066x""#, r#""\u001b[2J""#]);
    bad("/address/city", &["null", "5", r#""a\u0000b""#]);
    bad("/remark", &["5", "[]", "{}", "true", r#""a\u0000b""#, r#""\u202egpj.exe""#, r#""\u2067x""#, r#""\u0007""#]);
    bad("/remark", &[&format!("\"{}\"", "字".repeat(201)), &format!("\"{}\"", "🦌".repeat(201))]);
    bad("/address/name", &[&format!("\"{}\"", "名".repeat(51))]);
    bad("/openId", &["5", "[]", "{}", "true"]);
    bad("/userCouponId", &["5", "{}"]);
    let requests =
        ["\"short-7\"", "12345678", "{}", "[]", "true", "\"has space\"", "\"点点点点点点点点\"", r#""abcdefg\u0000""#];
    bad("/requestId", &requests);
    bad("/requestId", &[&format!("\"{}\"", "r".repeat(65)), r#"{"$gt":""}"#]);
    for path in ["/items", "/items/0/productId", "/items/0/quantity", "/paymentMethod", "/address", "/address/name"] {
        cases.push(invalid(As::User, "submitOrder", without(&base, path), &named(path)));
    }

    // Lines: none too many, and the same goods are counted together.
    let lines = |n: usize| {
        let mut event = base.clone();
        event["items"] = (0..n).map(|_| json!({ "productId": "p-apple", "quantity": 1 })).collect();
        event
    };
    cases.push(invalid(As::User, "submitOrder", lines(101).to_string(), "items"));
    let mut twice = lines(2);
    twice["items"][0]["quantity"] = json!(9999);
    cases.push(invalid(As::User, "submitOrder", twice.to_string(), "items[1].quantity"));
    // A SKU must be chosen where there are any.
    cases.push(invalid(As::User, "submitOrder", order_of("p-tea", 1).to_string(), "items[0].skuId"));
    // A field that is there twice has no one meaning.
    let doubled = base.to_string().replacen('{', r#"{"paymentMethod":"balance","#, 1);
    cases.push(invalid(As::User, "submitOrder", doubled, "paymentMethod"));
    check(&world, &token, cases).await?;
    world.finish().await
}

#[tokio::test]
async fn submit_order_refuses_what_the_shop_does_not_sell_or_take() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.client.login("demo").await?;
    let base = order_of("p-apple", 1);
    let order =
        |status, code, path: &str, raw: &str| case(As::User, "submitOrder", with(&base, path, raw), status, code);
    let mismatch =
        |path: &str, raw: &str| Case { field: Some(named(path)), ..order(409, "AMOUNT_MISMATCH", path, raw) };
    let cases = vec![
        order(404, "PRODUCT_NOT_FOUND", "/items/0/productId", "\"p-nope\""),
        order(404, "PRODUCT_NOT_FOUND", "/items/0/productId", "\"p-off\""),
        order(404, "PRODUCT_NOT_FOUND", "/items/0/productId", "\"__proto__\""),
        order(404, "PRODUCT_NOT_FOUND", "/items/0/productId", "\"constructor\""),
        order(404, "PRODUCT_NOT_FOUND", "/items/0/skuId", "\"s-grade1\""),
        order(409, "OUT_OF_STOCK", "/items/0/quantity", "1001"),
        mismatch("/items/0/price", "49.99"),
        mismatch("/items/0/price", "0"),
        mismatch("/items/0/price", "-0"),
        mismatch("/items/0/price", "\"0.01\""),
        mismatch("/totalAmount", "49"),
        mismatch("/totalAmount", "\"0.01\""),
        mismatch("/paymentAmount", "0"),
        mismatch("/paymentAmount", "\"50.01\""),
        order(422, "COUPON_NOT_APPLICABLE", "/userCouponId", "\"coupon-1\""),
        order(422, "QUALIFICATION_INVALID", "/qualificationId", "\"q-1\""),
        order(422, "QUALIFICATION_INVALID", "/items/0/productId", "\"p-lottery\""),
        invalid(As::User, "submitOrder", with(&base, "/items/0/productId", "\"p-mug\""), "items[0].productId"),
        order(403, "FORBIDDEN", "/openId", "\"o-alice\""),
        order(403, "FORBIDDEN", "/openId", "\"\""),
        // 100 points are there, 101 are not; the goods would be worth more.
        case(
            As::User,
            "submitOrder",
            {
                let mut event = order_of("p-rice", 20);
                event["pointsUsed"] = json!(101);
                event.to_string()
            },
            422,
            "POINTS_INSUFFICIENT",
        ),
        case(
            As::User,
            "submitOrder",
            {
                let mut event = order_of("p-rice", 20);
                event["paymentMethod"] = json!("balance");
                event.to_string()
            },
            422,
            "BALANCE_INSUFFICIENT",
        ),
        // A service must say for whom, and for somebody who exists.
        invalid(As::Service, "submitOrder", base.to_string(), "openId"),
        invalid(As::Service, "submitOrder", with(&base, "/openId", "\"a b\""), "openId"),
    ];
    check(&world, &token, cases).await?;
    world.finish().await
}

#[tokio::test]
async fn the_other_functions_name_the_field_that_is_wrong() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.client.login("demo").await?;
    let order = world.client.call("submitOrder", &token, order_of("p-apple", 1)).await?.text("orderId");
    let mut cases = Vec::new();
    let mut bad = |who: As, function: &'static str, base: &Value, path: &str, values: &[&str]| {
        for raw in values {
            cases.push(invalid(who, function, with(base, path, raw), &named(path)));
        }
    };
    let limits = ["0", "-1", "101", "1.5", "\"20\"", "[]", "1e400", "9223372036854775808", "true"];
    // Not hex; hex of no UTF-8; of no cursor; of a time beyond all dates.
    let cursors = [
        "5",
        "{}",
        "\"zz\"",
        "\"abc\"",
        "\"ff\"",
        "\"00\"",
        "\"7b7d\"",
        r#"{"$gt":""}"#,
        "\"39393939393939393939393939393939393920702d31\"",
        "\"393232333337323033363835343737353830372078\"",
    ];
    let ids = ["5", "{}", "[]", "\"\"", "\"bad id\"", "\"订单\"", "\"a\\u0000\"", r#"{"$ne":null}"#, r#""$where""#];
    let long = format!("\"{}\"", "9".repeat(33));

    let list = json!({ "action": "list" });
    bad(As::Nobody, "products", &list, "/action", &["null", "5", "\"drop\"", "[]", "{}"]);
    bad(As::Nobody, "products", &list, "/limit", &limits);
    bad(As::Nobody, "products", &list, "/after", &cursors);
    bad(As::Nobody, "products", &list, "/category", &["5", "{}", "\"\"", r#""a\u0000""#, r#"{"$gt":""}"#]);
    let get = json!({ "action": "get", "productId": "p-apple" });
    bad(As::Nobody, "products", &get, "/productId", &ids);

    let list = json!({ "action": "list" });
    bad(As::User, "orders", &list, "/action", &["null", "5", "\"drop\"", "\"confirm\"", "{}"]);
    bad(As::User, "orders", &list, "/limit", &limits);
    bad(As::User, "orders", &list, "/after", &cursors);
    bad(As::User, "orders", &list, "/status", &["5", "\"nope\"", "{}", r#"{"$ne":"closed"}"#]);
    bad(As::User, "orders", &list, "/type", &["5", "\"nope\"", "[]"]);
    let get = json!({ "action": "get", "orderId": order });
    bad(As::User, "orders", &get, "/orderId", &ids);
    bad(As::User, "orders", &get, "/orderId", &[&long]);
    let cancel = json!({ "action": "cancel", "orderId": order });
    bad(As::User, "orders", &cancel, "/orderId", &ids);
    bad(As::User, "orders", &cancel, "/reason", &["5", "{}", r#""a\u0000b""#, r#""\u202egpj""#]);
    bad(As::User, "orders", &cancel, "/reason", &[&format!("\"{}\"", "字".repeat(101))]);

    bad(As::User, "orders", &list, "/userId", &["5", "{}"]);
    bad(As::User, "orders", &list, "/refundState", &["5", "\"nope\"", "{}"]);
    let confirm = json!({ "action": "confirmReceipt", "orderId": order });
    bad(As::User, "orders", &confirm, "/orderId", &ids);
    let place = json!({ "name": "张三", "phone": "13800138000", "detail": "文三路 1 号" });
    let moved = json!({ "action": "changeAddress", "orderId": order, "address": place });
    bad(As::User, "orders", &moved, "/orderId", &ids);
    bad(As::User, "orders", &moved, "/acceptFreight", &["5", "\"true\"", "{}"]);
    bad(As::User, "orders", &moved, "/address/phone", &["null", "5", "\"abc\"", "{}"]);
    let many = json!({ "orderIds": [order], "status": "closed" });
    bad(As::Service, "batchUpdateOrders", &many, "/status", &["null", "5", "\"paid\"", "\"refunded\"", "{}"]);
    bad(As::Service, "batchUpdateOrders", &many, "/orderIds", &["null", "5", "{}", "[]"]);
    bad(As::Service, "batchUpdateOrders", &many, "/reason", &["5", "{}", r#""a\u0000b""#]);
    bad(As::Service, "batchUpdateOrders", &many, "/logistics", &["5", "\"horse\"", "{}"]);
    bad(As::Service, "batchUpdateOrders", &many, "/requestId", &["5", "\"short\"", "{}"]);

    let pay = json!({ "orderId": order });
    bad(As::User, "wxPay", &pay, "/orderId", &ids);
    bad(As::User, "wxPay", &pay, "/orderId", &["null", &long]);
    bad(As::User, "wxPay", &pay, "/action", &["null", "5", "\"refund\"", "{}"]);

    let none = json!({});
    bad(As::User, "getUserPoints", &none, "/limit", &limits);
    bad(As::User, "getUserPoints", &none, "/after", &cursors);
    bad(As::User, "getUserPoints", &none, "/userId", &ids);
    bad(As::User, "getUserPoints", &none, "/openId", &["5", "{}", "[]"]);
    bad(As::Service, "getUserPoints", &none, "/openId", &ids);

    let points = json!({ "openId": "o-demo", "points": 1, "type": "earn", "reason": "测试" });
    let numbers = [
        "0",
        "-1",
        "-0",
        "1.5",
        "\"1\"",
        "null",
        "true",
        "[]",
        "1e400",
        "9223372036854775807",
        "9223372036854775808",
        "-9223372036854775808",
        "1000000000001",
        r#"{"$inc":1}"#,
    ];
    bad(As::Service, "addPoints", &points, "/points", &numbers);
    bad(As::Service, "addPoints", &points, "/type", &["null", "5", "\"gift\"", "\"\"", "{}"]);
    bad(As::Service, "addPoints", &points, "/reason", &["null", "5", "\"\"", "\" \"", r#""a\u0000b""#, r#""\u202ex""#]);
    bad(As::Service, "addPoints", &points, "/reason", &[&format!("\"{}\"", "字".repeat(101))]);
    bad(As::Service, "addPoints", &points, "/orderId", &["5", "{}", "\"bad id\"", &long]);
    bad(As::Service, "addPoints", &points, "/openId", &ids);
    bad(As::Service, "addPoints", &points, "/userId", &["5", "{}", "\"u-demo\""]);
    bad(As::Service, "addPoints", &points, "/requestId", &["5", "\"short\"", "{}"]);
    let spend = json!({ "openId": "o-demo", "points": 1, "type": "spend", "reason": "测试" });
    bad(As::Service, "addPoints", &spend, "/points", &["-9223372036854775808", "0", "1000000000001"]);

    let login = json!({ "code": "dev-demo" });
    bad(
        As::Nobody,
        "login",
        &login,
        "/code",
        &["null", "5", "{}", "[]", "\"\"", "\"a b\"", "\"微信\"", r#""dev-\u0000""#],
    );
    bad(As::Nobody, "login", &login, "/code", &[&format!("\"dev-{}\"", "x".repeat(256)), r#"{"$ne":null}"#]);
    bad(As::Nobody, "login", &login, "/phoneCode", &["5", "{}", "\"\"", "\"a b\""]);
    for name in [
        "generateOrderId",
        "closeExpiredOrders",
        "reconcilePayments",
        "settleStockMarkers",
        "deliverOutbox",
        "autoComplete",
    ] {
        bad(As::Service, name, &none, "/requestId", &["5", "\"short\"", "{}"]);
    }

    for (who, function, body, field) in [
        (As::User, "orders", json!({}), "action"),
        (As::User, "orders", json!({ "action": "get" }), "orderId"),
        (As::User, "orders", json!({ "action": "cancel" }), "orderId"),
        (As::User, "orders", json!({ "action": "confirmReceipt" }), "orderId"),
        (As::User, "orders", json!({ "action": "changeAddress", "orderId": order }), "address"),
        (As::User, "wxPay", json!({}), "orderId"),
        (As::Nobody, "products", json!({ "action": "get" }), "productId"),
        (As::Nobody, "login", json!({}), "code"),
        (As::Service, "getUserPoints", json!({}), "openId"),
        (As::Service, "addPoints", json!({ "points": 1, "type": "earn", "reason": "x" }), "userId"),
        (As::Service, "addPoints", json!({ "openId": "o-demo", "type": "earn", "reason": "x" }), "points"),
    ] {
        cases.push(invalid(who, function, body.to_string(), field));
    }
    let unknown = "20260101000000000AAAAAAAA";
    for (who, function, body, status, code) in [
        (As::Nobody, "products", json!({ "action": "get", "productId": "p-off" }), 404, "PRODUCT_NOT_FOUND"),
        (As::Nobody, "products", json!({ "action": "get", "productId": "__proto__" }), 404, "PRODUCT_NOT_FOUND"),
        (As::User, "orders", json!({ "action": "get", "orderId": unknown }), 404, "ORDER_NOT_FOUND"),
        (As::User, "orders", json!({ "action": "cancel", "orderId": unknown }), 404, "ORDER_NOT_FOUND"),
        (As::User, "wxPay", json!({ "orderId": unknown }), 404, "ORDER_NOT_FOUND"),
        (As::Service, "getUserPoints", json!({ "openId": "o-nobody" }), 404, "NOT_FOUND"),
        (As::Service, "getUserPoints", json!({ "userId": "__proto__" }), 404, "NOT_FOUND"),
        (
            As::Service,
            "addPoints",
            json!({ "openId": "o-nobody", "points": 1, "type": "earn", "reason": "x" }),
            404,
            "NOT_FOUND",
        ),
        (
            As::Service,
            "addPoints",
            json!({ "openId": "o-demo", "points": 101, "type": "spend", "reason": "x" }),
            422,
            "POINTS_INSUFFICIENT",
        ),
        (As::Nobody, "login", json!({ "code": "nope" }), 401, "UNAUTHENTICATED"),
        (As::Nobody, "login", json!({ "code": "dev-newcomer", "phoneCode": "nope" }), 401, "UNAUTHENTICATED"),
    ] {
        cases.push(case(who, function, body.to_string(), status, code));
    }
    check(&world, &token, cases).await?;
    world.finish().await
}

#[tokio::test]
async fn what_is_no_json_object_reaches_no_function() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("demo").await?;
    let deep = |open: &str, close: &str| format!("{}{}", open.repeat(10_000), close.repeat(10_000));
    let bodies: Vec<(&str, Vec<u8>)> = vec![
        ("broken", br#"{"action":"#.to_vec()),
        ("cut in a string", br#"{"action":"li"#.to_vec()),
        ("trailing comma", br#"{"action":"list",}"#.to_vec()),
        ("two objects", br#"{"action":"list"}{"action":"list"}"#.to_vec()),
        ("single quotes", br#"{'action':'list'}"#.to_vec()),
        ("a comment", br#"{"action":"list"/**/}"#.to_vec()),
        ("array", b"[]".to_vec()),
        ("array of fields", br#"["list"]"#.to_vec()),
        ("string", br#""list""#.to_vec()),
        ("null", b"null".to_vec()),
        ("number", b"5".to_vec()),
        ("true", b"true".to_vec()),
        ("NaN", br#"{"action":"list","limit":NaN}"#.to_vec()),
        ("Infinity", br#"{"action":"list","limit":-Infinity}"#.to_vec()),
        ("hex number", br#"{"action":"list","limit":0x10}"#.to_vec()),
        ("leading zero", br#"{"action":"list","limit":010}"#.to_vec()),
        ("a form", b"action=list&limit=1".to_vec()),
        ("invalid UTF-8", b"{\"action\":\"list\",\"x\":\"\xff\xfe\"}".to_vec()),
        ("overlong UTF-8", b"{\"action\":\"list\",\"x\":\"\xc0\x80\"}".to_vec()),
        ("half a surrogate pair", br#"{"action":"list","x":"\ud800"}"#.to_vec()),
        ("UTF-16", "{\"action\":\"list\"}".encode_utf16().flat_map(u16::to_le_bytes).collect()),
        ("raw NUL in a string", b"{\"action\":\"list\",\"x\":\"\0\"}".to_vec()),
        ("deep arrays", deep("[", "]").into_bytes()),
        ("deep objects", format!("{}1{}", r#"{"a":"#.repeat(10_000), "}".repeat(10_000)).into_bytes()),
        ("deep in a field", format!(r#"{{"action":"list","a":{}}}"#, deep("[", "]")).into_bytes()),
    ];
    let functions = gateway::functions();
    let mut cases = Vec::new();
    for function in functions.iter().filter(|f| !f.is_raw()) {
        let who = usual_caller(function.name());
        for (_, body) in &bodies {
            cases.push(case(who, function.name(), body.clone(), 400, "INVALID_JSON"));
        }
    }
    check(&world, &token, cases).await?;

    // The provider's door has its own form of answer, and what is not signed by the provider never gets in.
    let before = snapshot(&world).await?;
    let unsigned = br#"{"id":"1","event_type":"TRANSACTION.SUCCESS","resource":{}}"#;
    for body in bodies.into_iter().map(|(_, body)| body).chain([Vec::new(), unsigned.to_vec()]) {
        let answer = send(c, "POST", "/payCallback", &[], body).await?;
        assert!((400..500).contains(&answer.status) && answer.body["code"] == "FAIL", "{answer:?}");
        assert!(answer.body["message"].as_str().is_some_and(|m| !m.is_empty()), "{answer:?}");
    }
    for path in ["/logisticsCallback", "/logisticsCallback?subscription=x", "/logisticsCallback?subscription=x-1"] {
        for body in [&b""[..], b"param={}", b"sign=00&param={}", b"{}", b"\xff"] {
            let answer = send(c, "POST", path, &[], body.to_vec()).await?;
            assert!((400..500).contains(&answer.status) && answer.body["result"] == false, "{answer:?}");
        }
    }
    // An empty body stands for an empty event.
    for body in [&b""[..], b"  \n", b"{}"] {
        let listed = send(c, "POST", "/products", &[], body.to_vec()).await?;
        check_envelope(&listed, "empty");
        assert_eq!(listed.ok()["data"].as_array().map(Vec::len), Some(10));
        let refused = send(c, "POST", "/submitOrder", &[("x-app-session", &token)], body.to_vec()).await?;
        refused.refused(400, "INVALID_ARGUMENT");
        assert_eq!(refused.body["details"]["field"], "items");
    }
    before.stands(&world).await?;
    world.finish().await
}

#[tokio::test]
async fn a_body_may_be_100_kb_and_no_byte_more() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("demo").await?;
    let limit = 100 * 1024;
    let of = |length: usize| {
        let mut event = order_of("p-apple", 1).to_string();
        event.truncate(event.len() - 1);
        event.push_str(r#","padding":""#);
        let fill = length - event.len() - 2;
        format!(r#"{event}{}"}}"#, "x".repeat(fill))
    };
    let headers = [("x-app-session", token.as_str())];
    let before = snapshot(&world).await?;
    for length in [limit + 1, 200 * 1024, 5 * 1024 * 1024] {
        for path in ["/submitOrder", "/v1/functions/submitOrder"] {
            let answer = send(c, "POST", path, &headers, of(length).into_bytes()).await?;
            answer.refused(413, "PAYLOAD_TOO_LARGE");
            check_envelope(&answer, "too large");
        }
        assert_eq!(send(c, "POST", "/payCallback", &[], vec![b'x'; length]).await?.status, 413);
    }
    before.stands(&world).await?;
    let body = of(limit).into_bytes();
    assert_eq!(body.len(), limit);
    send(c, "POST", "/submitOrder", &headers, body).await?.ok();
    assert_eq!(world.stock("p-apple").await?, 999);
    world.finish().await
}

#[tokio::test]
async fn unknown_functions_and_other_methods() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let before = snapshot(&world).await?;
    let long = format!("/{}", "x".repeat(300));
    for path in
        ["/nope", "/v1/functions/nope", "/v1/functions/", "/Login", "/login/", "/__proto__", "/a/b/c", "/%00", &long]
    {
        for method in ["POST", "GET"] {
            let answer = send(c, method, path, &[], b"{}".to_vec()).await?;
            answer.refused(404, "FUNCTION_NOT_FOUND");
            check_envelope(&answer, path);
        }
    }
    for function in gateway::functions() {
        for method in ["GET", "PUT", "DELETE", "PATCH", "HEAD"] {
            for path in [format!("/{}", function.name()), format!("/v1/functions/{}", function.name())] {
                let answer = send(c, method, &path, &[], b"{}".to_vec()).await?;
                assert_eq!(answer.status, 405, "{method} {path}: {answer:?}");
                assert!(answer.body["success"] != true, "{method} {path}: {answer:?}");
            }
        }
    }
    before.stands(&world).await?;
    world.finish().await
}

#[tokio::test]
async fn what_people_type_comes_back_exactly() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("demo").await?;
    let texts = [
        "多放辣🌶️，谢谢👨‍👩‍👧‍👦",
        "第一行\n第二行\t完",
        r#"{"$gt":""} '); DROP TABLE orders; --"#,
        "<script>alert(1)</script> ${7*7} %s \\ / \"",
        "e\u{301} ≠ é · \u{1F1E8}\u{1F1F3} · 𠮷",
        &"字".repeat(200),
        &"🦌".repeat(200),
    ];
    for text in texts {
        let mut event = order_of("p-sticker", 1);
        event["remark"] = json!(text);
        event["address"]["detail"] = json!(text.chars().take(100).collect::<String>());
        let made = c.call("submitOrder", &token, event).await?;
        let id = made.ok()["orderId"].clone();
        let seen = c.call("orders", &token, json!({ "action": "get", "orderId": id })).await?;
        assert_eq!(seen.ok()["remark"], text);
        check_envelope(&seen, text);
    }
    let reason = "活动🎉奖励 <b>";
    let event = json!({ "openId": "o-demo", "points": 3, "type": "earn", "reason": reason });
    c.call_service("addPoints", event).await?.ok();
    let points = c.call("getUserPoints", &token, json!({})).await?;
    assert_eq!(points.ok()["logs"]["data"][0]["reason"], reason);
    world.finish().await
}

#[tokio::test]
async fn a_price_that_the_client_sends_is_only_compared() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("demo").await?;
    for (price, total, payment) in [
        (json!(50), json!(100), json!(90)),
        (json!("50.00"), json!("100.0"), json!("90")),
        (json!(50.0), json!(100.0), json!(90.0)),
        (Value::Null, Value::Null, Value::Null),
    ] {
        let mut event = order_of("p-apple", 2);
        event["items"][0]["price"] = price;
        event["totalAmount"] = total;
        event["paymentAmount"] = payment;
        event["pointsUsed"] = json!(10);
        let made = c.call("submitOrder", &token, event).await?;
        assert_eq!((&made.ok()["totalAmount"], &made.body["paymentAmount"]), (&json!(100), &json!(90)));
        check_envelope(&made, "order");
    }
    // Amounts that the server alone decides are not taken from the input.
    let mut event = order_of("p-rice", 1);
    for (field, value) in [
        ("discountAmount", json!(89)),
        ("balanceAmount", json!(89)),
        ("status", json!("paid")),
        ("orderId", json!("20260101000000000AAAAAAAA")),
        ("_id", json!("20260101000000000AAAAAAAA")),
        ("userId", json!("u-other")),
        ("expireTime", json!("2099-01-01T00:00:00Z")),
        ("pointsEarned", json!(1000)),
        ("__proto__", json!({ "admin": true })),
    ] {
        event[field] = value;
    }
    event["items"][0]["amount"] = json!(0.01);
    event["items"][0]["payable"] = json!(0);
    let made = c.call("submitOrder", &token, event).await?;
    assert_eq!(
        (&made.ok()["status"], &made.body["paymentAmount"], &made.body["discountAmount"]),
        (&json!("pendingPayment"), &json!(89.9), &json!(0))
    );
    assert_ne!(made.body["orderId"], "20260101000000000AAAAAAAA");
    world.finish().await
}

#[tokio::test]
async fn a_request_id_belongs_to_one_caller_and_one_input() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let (demo, alice) = (c.login("demo").await?, c.login("alice").await?);
    let mut event = order_of("p-apple", 1);
    event["requestId"] = json!("request-0001");
    let first = c.call("submitOrder", &demo, event.clone()).await?;
    let id = first.ok()["orderId"].clone();
    assert!(first.body.get("replayed").is_none());
    let again = c.call("submitOrder", &demo, event.clone()).await?;
    assert_eq!((&again.ok()["orderId"], &again.body["replayed"]), (&id, &json!(true)));
    // The order of the fields is not part of what was asked for.
    let turned: Vec<String> =
        event.as_object().unwrap().iter().rev().map(|(name, value)| format!("{}:{value}", json!(name))).collect();
    let headers = [("x-app-session", demo.as_str())];
    let turned = c.post("/submitOrder", &headers, format!("{{{}}}", turned.join(", "))).await?;
    assert_eq!((&turned.ok()["orderId"], &turned.body["replayed"]), (&id, &json!(true)));
    // Somebody else's key is another key, and so is the same text for another function.
    let other = c.call("submitOrder", &alice, event.clone()).await?;
    assert!(other.ok()["orderId"] != id && other.body.get("replayed").is_none());
    let mut for_demo = event.clone();
    for_demo["openId"] = json!("o-demo");
    let service = c.call_service("submitOrder", for_demo).await?;
    assert!(service.ok()["orderId"] != id && service.body.get("replayed").is_none());

    let before = snapshot(&world).await?;
    for (path, raw) in [
        ("/items/0/quantity", "2"),
        ("/remark", "\"x\""),
        ("/paymentMethod", "\"balance\""),
        ("/address/name", "\"李四\""),
        ("/pointsUsed", "0"),
        ("/unknownField", "1"),
    ] {
        let answer = c.post("/submitOrder", &headers, with(&event, path, raw)).await?;
        answer.refused(409, "IDEMPOTENCY_KEY_REUSED");
        check_envelope(&answer, path);
    }
    before.stands(&world).await?;

    let points = |points: i64| json!({ "openId": "o-demo", "points": points, "type": "earn", "reason": "x", "requestId": "request-0001" });
    let added = c.call_service("addPoints", points(5)).await?;
    assert_eq!(added.ok()["points"], 105);
    let repeated = c.call_service("addPoints", points(5)).await?;
    assert_eq!((&repeated.ok()["logId"], &repeated.body["replayed"]), (&added.body["logId"], &json!(true)));
    c.call_service("addPoints", points(6)).await?.refused(409, "IDEMPOTENCY_KEY_REUSED");
    // A refused command leaves its key free.
    let mut short = order_of("p-last", 2);
    short["requestId"] = json!("request-0002");
    c.call("submitOrder", &demo, short.clone()).await?.refused(409, "OUT_OF_STOCK");
    short["items"][0]["quantity"] = json!(1);
    c.call("submitOrder", &demo, short).await?.ok();
    // Both ends of the allowed length.
    for key in ["r-000001".to_owned(), "r".repeat(64)] {
        let mut event = order_of("p-sticker", 1);
        event["requestId"] = json!(key);
        c.call("submitOrder", &demo, event).await?.ok();
    }
    world.finish().await
}

#[tokio::test]
async fn points_cannot_grow_beyond_what_can_be_read() -> anyhow::Result<()> {
    let world = World::start().await?;
    let c = &world.client;
    let token = c.login("demo").await?;
    let earn = |points: i64| json!({ "openId": "o-demo", "points": points, "type": "earn", "reason": "x" });
    let before = snapshot(&world).await?;
    // 100 are there already: the sum would pass the limit that every reader of the member checks.
    let answer = c.call_service("addPoints", earn(1_000_000_000_000)).await?;
    answer.refused(400, "INVALID_ARGUMENT");
    assert_eq!(answer.body["details"]["field"], "points");
    before.stands(&world).await?;
    c.call_service("addPoints", earn(1_000_000_000_000 - 100)).await?.ok();
    c.call_service("addPoints", earn(1)).await?.refused(400, "INVALID_ARGUMENT");
    assert_eq!(c.call("getUserPoints", &token, json!({})).await?.ok()["points"], 1_000_000_000_000i64);
    c.login("demo").await?;
    world.finish().await
}
