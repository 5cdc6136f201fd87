//! Wrong types in every field of every function, by the functions' own schemas: each is refused by its name and changes nothing.
//! And, for the shop's functions, values that have the right type and are wrong all the same.

use it::World;
use serde_json::{Value, json};

use crate::input::{As, Case, check, check_envelope, invalid, named, send_as, snapshot, usual_caller, with};

/// The part of a schema that stands for itself, behind a reference and beside `null`.
fn plain<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    if let Some(reference) = schema["$ref"].as_str() {
        return plain(root, root.pointer(reference.trim_start_matches('#')).unwrap());
    }
    let options = schema["anyOf"].as_array().into_iter().flatten();
    match options.map(|option| plain(root, option)).find(|option| option["type"] != "null") {
        Some(option) => option,
        None => schema,
    }
}

/// The JSON types that a schema takes; none where it does not say.
fn types(schema: &Value) -> Vec<&str> {
    let one_of = || schema["oneOf"].as_array().into_iter().flatten().flat_map(types);
    match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ if schema["enum"].is_array() || schema["const"].is_string() => vec!["string"],
        _ => one_of().collect(),
    }
}

/// A value of the right type with no more in it than there must be.
fn filled(root: &Value, schema: &Value) -> Value {
    let schema = plain(root, schema);
    let first = |schema: &Value| schema["enum"].get(0).or(schema.get("const")).cloned();
    if let Some(value) = first(schema).or_else(|| schema["oneOf"].get(0).and_then(first)) {
        return value;
    }
    match types(schema).first().copied() {
        Some("string") => json!("x"),
        Some("integer" | "number") => json!(1),
        Some("boolean") => json!(true),
        Some("array") => json!([]),
        _ => {
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            required
                .map(|name| (name.to_owned(), filled(root, &schema["properties"][name])))
                .collect::<serde_json::Map<_, _>>()
                .into()
        }
    }
}

/// Values that are wrong somewhere, and where: pointers into them.
fn wrong(root: &Value, schema: &Value) -> Vec<(String, Value)> {
    let nullable = schema["anyOf"].as_array().is_some_and(|options| options.iter().any(|one| one["type"] == "null"));
    let schema = plain(root, schema);
    let types = types(schema);
    let mut found = Vec::new();
    if types.is_empty() {
        return found;
    }
    for (name, value) in [
        ("integer", json!(5)),
        ("string", json!("\u{7}")),
        ("boolean", json!(true)),
        ("array", json!([[]])),
        ("object", json!({ "$gt": "" })),
        ("null", Value::Null),
    ] {
        let fits =
            types.contains(&name) || (name == "integer" && types.contains(&"number")) || (name == "null" && nullable);
        if !fits {
            found.push((String::new(), value));
        }
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        for (path, value) in wrong(root, property) {
            let mut object = filled(root, schema);
            object[name.as_str()] = value;
            found.push((format!("/{name}{path}"), object));
        }
    }
    if schema["items"].is_object() {
        let items = wrong(root, &schema["items"]).into_iter();
        found.extend(items.map(|(path, value)| (format!("/0{path}"), json!([value]))));
    }
    found
}

#[tokio::test]
async fn every_field_of_every_function_refuses_other_types() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.client.login("demo").await?;
    let mut failed = Vec::new();
    for function in gateway::functions().iter().filter(|function| !function.is_raw()) {
        let (name, schema) = (function.name(), function.input_schema());
        let before = snapshot(&world).await?;
        let mut cases = vec![("/requestId".to_owned(), json!({ "requestId": 5 }))];
        // The whole of it is no field.
        cases.extend(wrong(&schema, &schema).into_iter().filter(|(path, _)| !path.is_empty()));
        let fields = schema["properties"].as_object().map_or(0, serde_json::Map::len);
        assert!(cases.len() > fields, "{name}: no case for some field");
        for (path, mut event) in cases {
            if path == "/requestId" {
                let mut whole = filled(&schema, &schema);
                if let Some(fields) = whole.as_object_mut() {
                    fields.append(event.as_object_mut().unwrap());
                }
                event = if whole.is_object() { whole } else { event };
            }
            // Of a kind that says nothing, nothing else is read.
            if name == "updatePrepaidBalance" && event["prepaidType"] == "x" {
                event["prepaidType"] = json!("amount");
            }
            let answer = send_as(&world, &token, usual_caller(name), name, event.to_string().into_bytes()).await?;
            check_envelope(&answer, &format!("{name} {event}"));
            let field = answer.body["details"]["field"].as_str().unwrap_or_default();
            if (answer.status, answer.code(), field) != (400, "INVALID_ARGUMENT", named(&path).as_str()) {
                failed.push(format!("{name} {event}\n    wanted {}\n    got {answer:?}", named(&path)));
            }
        }
        before.stands(&world).await?;
    }
    assert!(failed.is_empty(), "{} wrong answers:\n{}", failed.len(), failed.join("\n"));
    world.finish().await
}

#[tokio::test]
async fn the_shop_names_the_field_whose_value_is_wrong() -> anyhow::Result<()> {
    let world = World::start().await?;
    let token = world.client.login("demo").await?;
    let limits = ["0", "-1", "101", "1.5", "9223372036854775808"];
    let cursors = ["\"zz\"", "\"ff\"", "\"7b7d\"", r#""39393939393939393939393939393939393920702d31""#];
    let texts = ["\"\"", r#""a\u0000b""#, r#""\u202egpj""#];
    let ids = ["\"\"", "\"bad id\"", "\"订单\"", "\"a\\u0000\"", r#""$where""#];
    let long = |chars: usize| format!("\"{}\"", "字".repeat(chars));
    let order = "20260101000000000AAAAAAAA";
    let mut cases: Vec<Case> = Vec::new();
    let mut bad = |who: As, function: &'static str, base: &Value, path: &str, values: &[&str]| {
        cases.extend(values.iter().map(|raw| invalid(who, function, with(base, path, raw), &named(path))));
    };
    let action = |name: &str| json!({ "action": name });

    for (who, function, name) in [
        (As::User, "refunds", "list"),
        (As::User, "logistics", "mine"),
        (As::User, "reviews", "mine"),
        (As::Service, "stock", "records"),
        (As::Service, "freight", "list"),
        (As::User, "prepaid", "records"),
        (As::User, "coupons", "list"),
        (As::User, "coupons", "mine"),
        (As::Service, "couponAdmin", "list"),
        (As::User, "coins", "records"),
        (As::User, "pointsMall", "list"),
        (As::User, "lottery", "list"),
        (As::Service, "staff", "list"),
        (As::Service, "messages", "list"),
        (As::Service, "exceptions", "list"),
    ] {
        bad(who, function, &action(name), "/limit", &limits);
        bad(who, function, &action(name), "/after", &cursors);
    }

    let item = json!([{ "productId": "p-apple", "quantity": 1 }]);
    for name in ["add", "merge"] {
        let add = json!({ "action": name, "items": item });
        bad(As::User, "cart", &add, "/items", &["[]"]);
        bad(As::User, "cart", &add, "/items/0/productId", &ids);
        bad(As::User, "cart", &add, "/items/0/quantity", &["0", "-1", "1.5", "10000"]);
    }
    let place = json!({ "name": "张三", "phone": "13800138000", "detail": "文三路 1 号" });
    let create = json!({ "action": "create", "address": place });
    bad(As::User, "addresses", &create, "/address/name", &texts);
    bad(As::User, "addresses", &create, "/address/name", &[&long(51)]);
    bad(As::User, "addresses", &create, "/address/phone", &["\"abc\"", "\"\""]);
    bad(As::User, "addresses", &create, "/address/detail", &texts);
    for name in ["get", "update", "delete", "setDefault"] {
        let event = json!({ "action": name, "addressId": "a-1", "address": place });
        bad(As::User, "addresses", &event, "/addressId", &["\"\""]);
    }

    let apply = json!({ "action": "apply", "orderId": order, "reason": "不想要了" });
    bad(As::User, "refunds", &apply, "/orderId", &ids);
    bad(As::User, "refunds", &apply, "/reason", &texts);
    bad(As::User, "refunds", &apply, "/reason", &[&long(101)]);
    bad(As::User, "refunds", &apply, "/description", &[&long(501), r#""a\u0000b""#]);
    bad(As::User, "refunds", &apply, "/items", &["[]"]);
    bad(As::User, "refunds", &apply, "/type", &["\"gift\"", "\"\""]);
    bad(As::User, "refunds", &apply, "/amount", &["-1", "0.001", "\"1e3\""]);
    for (who, name) in [
        (As::User, "withdraw"),
        (As::User, "shipBack"),
        (As::User, "get"),
        (As::Service, "approve"),
        (As::Service, "reject"),
        (As::Service, "receive"),
        (As::Service, "retry"),
        (As::Service, "settle"),
    ] {
        let event = json!({ "action": name, "refundId": "r-1" });
        bad(who, "refunds", &event, "/refundId", &["\"\"", "\"a b\"", r#""$where""#]);
    }
    let list = json!({ "action": "list" });
    bad(As::User, "refunds", &list, "/status", &["\"nope\""]);
    bad(As::User, "refunds", &list, "/orderId", &["\"bad id\""]);

    let query = json!({ "action": "query", "orderId": order });
    bad(As::User, "logistics", &query, "/orderId", &ids);
    let waybill = json!({ "action": "query", "expressCompany": "YTO", "trackingNo": "YT1" });
    bad(As::Service, "logistics", &waybill, "/trackingNo", &["\"\"", "\"a b\""]);
    bad(As::Service, "logistics", &waybill, "/expressCompany", &["\"\"", "\"nobody\""]);
    bad(As::Service, "logistics", &action("marked"), "/attention", &["\"nope\""]);

    let add = json!({ "action": "add", "orderId": order, "lineId": "1", "rating": 5, "text": "好" });
    bad(As::User, "reviews", &add, "/orderId", &ids);
    bad(As::User, "reviews", &add, "/lineId", &["\"\"", &long(11)]);
    bad(As::User, "reviews", &add, "/rating", &["0", "6", "4.5"]);
    bad(As::User, "reviews", &add, "/text", &[&long(501), r#""a\u0000b""#]);
    bad(As::User, "reviews", &add, "/nickname", &[&long(21)]);
    bad(As::User, "reviews", &add, "/avatar", &["\"ftp://a\"", "\"http://a/b.png\""]);
    let reply = json!({ "action": "reply", "reviewId": "0123", "text": "谢谢" });
    bad(As::Service, "reviews", &reply, "/reviewId", &["\"\""]);
    bad(As::Service, "reviews", &reply, "/text", &texts);
    let hide = json!({ "action": "moderate", "reviewId": "0123", "decision": "hide", "reason": "广告" });
    bad(As::Service, "reviews", &hide, "/reason", &texts);
    bad(As::Service, "reviews", &hide, "/reason", &[&long(201)]);
    bad(As::Service, "reviews", &hide, "/decision", &["null", "\"burn\""]);

    let moves = json!({ "action": "in", "items": item, "reason": "到货" });
    bad(As::Service, "stock", &moves, "/items", &["[]"]);
    bad(As::Service, "stock", &moves, "/items/0/productId", &ids);
    bad(As::Service, "stock", &moves, "/items/0/quantity", &["0", "-1", "1.5"]);
    bad(As::Service, "stock", &moves, "/reason", &texts);
    bad(As::Service, "stock", &action("records"), "/productId", &["\"bad id\""]);
    bad(As::Service, "deleteProduct", &json!({}), "/productId", &ids);

    let preview = json!({ "action": "preview", "items": item });
    bad(As::User, "coupons", &preview, "/items", &["[]"]);
    bad(As::User, "coupons", &preview, "/items/0/productId", &ids);
    bad(As::User, "coupons", &preview, "/items/0/quantity", &["0", "-1", "1.5"]);
    bad(As::User, "coupons", &preview, "/pointsUsed", &["-1", "1.5"]);
    bad(As::User, "coupons", &json!({ "action": "claim" }), "/couponId", &ids);
    bad(As::User, "coupons", &action("mine"), "/status", &["\"nope\""]);
    let coupon = json!({
        "name": "满减券", "type": "off", "off": 10, "validDays": 1,
        "claimFrom": "2026-01-01T00:00:00Z", "claimUntil": "2027-01-01T00:00:00Z",
    });
    let create = json!({ "action": "create", "couponId": "cp-1", "coupon": coupon });
    bad(As::Service, "couponAdmin", &create, "/couponId", &ids);
    bad(As::Service, "couponAdmin", &create, "/coupon/name", &texts);
    bad(As::Service, "couponAdmin", &create, "/coupon/off", &["0", "-1", "0.001"]);
    bad(As::Service, "couponAdmin", &create, "/coupon/claimFrom", &["\"\"", "\"昨天\"", "\"2026-13-01\""]);
    bad(As::Service, "couponAdmin", &create, "/coupon/perUser", &["0", "-1"]);
    bad(As::Service, "couponAdmin", &create, "/coupon/total", &["0", "-1"]);

    bad(As::Service, "exceptions", &action("list"), "/date", &["\"2026-13-01\"", "\"昨天\""]);
    bad(As::Service, "exceptions", &action("list"), "/status", &["\"nope\""]);
    let resolve = json!({ "action": "resolve", "exceptionId": "billAmount:1", "remark": "门店" });
    bad(As::Service, "exceptions", &resolve, "/exceptionId", &["\"\""]);
    bad(As::Service, "exceptions", &resolve, "/remark", &texts);
    bad(As::Service, "exceptions", &resolve, "/remark", &[&long(501)]);
    bad(As::Service, "reconcileBill", &json!({}), "/date", &["\"2026-13-01\"", "\"昨天\"", "\"2099-01-01\""]);
    check(&world, &token, cases).await?;
    world.finish().await
}
