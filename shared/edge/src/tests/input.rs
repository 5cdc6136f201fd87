//! Bodies: what is taken, and which field a refusal names.

use std::sync::Mutex;

use domain::{OrderId, Yuan};

use super::*;
use crate::{BODY_BYTES_MAX, RequestKey};

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "only parsed")]
struct Input {
    order_id: String,
    #[serde(default)]
    items: Vec<Item>,
    #[serde(default)]
    pay: Option<Way>,
    #[serde(default)]
    weight: Option<f64>,
    #[serde(default)]
    #[schemars(with = "Option<f64>")]
    amount: Option<Yuan>,
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    parent: Option<OrderId>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "only parsed")]
struct Item {
    product_id: String,
    quantity: i64,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum Way {
    Wechat,
    Balance,
}

fn takes_input() -> Function {
    Function::new("takesInput", async |_: Context, _: Input| Reply::of(&())).accepts(&[Accept::Anonymous])
}

async fn answer(text: impl Into<Bytes>) -> Answer {
    call(&app(), &takes_input(), http("/"), &[], text).await
}

#[tokio::test]
async fn a_wrong_field_is_named() {
    let cases = [
        ("{}", "orderId", "缺少字段 orderId"),
        (r#"{"orderId":5}"#, "orderId", "字段 orderId 类型不正确"),
        (r#"{"orderId":null}"#, "orderId", "字段 orderId 类型不正确"),
        (r#"{"orderId":"1","items":{}}"#, "items", "字段 items 类型不正确"),
        (r#"{"orderId":"1","items":[{"productId":"p"}]}"#, "items[0].quantity", "缺少字段 items[0].quantity"),
        (
            r#"{"orderId":"1","items":[{"productId":"p","quantity":"2"}]}"#,
            "items[0].quantity",
            "字段 items[0].quantity 类型不正确",
        ),
        (
            r#"{"orderId":"1","items":[{"productId":"p","quantity":1.5}]}"#,
            "items[0].quantity",
            "字段 items[0].quantity 类型不正确",
        ),
        (r#"{"orderId":"1","pay":"cash"}"#, "pay", "字段 pay 的值不正确"),
        (r#"{"orderId":"1","pay":"现金"}"#, "pay", "字段 pay 的值不正确"),
        (r#"{"orderId":"1","weight":1e400}"#, "weight", "字段 weight 超出范围"),
        (
            r#"{"orderId":"1","items":[{"productId":"p","quantity":1e400}]}"#,
            "items[0].quantity",
            "字段 items[0].quantity 超出范围",
        ),
        (r#"{"orderId":"1","orderId":"2"}"#, "orderId", "字段 orderId 重复"),
        (r#"{"orderId":"1","parent":"a b"}"#, "parent", "字段 parent 的值不正确"),
        (r#"{"orderId":"1","requestId":"short"}"#, "requestId", "requestId 须为 8 到 64 位字母、数字、下划线或连字符"),
        (r#"{"orderId":"1","requestId":12345678}"#, "requestId", "requestId 须为 8 到 64 位字母、数字、下划线或连字符"),
        (
            r#"{"orderId":"1","requestId":"has spaces"}"#,
            "requestId",
            "requestId 须为 8 到 64 位字母、数字、下划线或连字符",
        ),
    ];
    for (text, field, message) in cases {
        let answer = answer(text).await;
        assert_eq!((answer.status, code(&answer)), (400, "INVALID_ARGUMENT"), "{text}");
        assert_eq!(body(&answer)["details"]["field"], field, "{text}");
        assert_eq!(body(&answer)["message"], message, "{text}");
    }
    let answer = answer(r#"{"orderId":"1","amount":0.001}"#).await;
    assert_eq!(body(&answer)["details"]["field"], "amount");
}

#[tokio::test]
async fn what_is_not_an_object_is_invalid_json() {
    let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
    let deep_field = format!(r#"{{"orderId":"1","x":{deep}}}"#);
    let cases: [&[u8]; 14] = [
        b"[]",
        b"null",
        b"1",
        b"\"x\"",
        b"{",
        b"{}{}",
        b"{\"a\":}",
        b"{'a':1}",
        b"NaN",
        b"{\"a\":NaN}",
        b"{\"orderId\":\"\xff\"}",
        b"\xef\xbb\xbf{}",
        b"{\"orderId\":\"\\ud800\"}",
        deep_field.as_bytes(),
    ];
    for text in cases {
        let answer = answer(Bytes::copy_from_slice(text)).await;
        let shown = String::from_utf8_lossy(text).chars().take(40).collect::<String>();
        assert_eq!((answer.status, code(&answer)), (400, "INVALID_JSON"), "{shown}");
    }
    // A number that no field of ours could hold, where no field of ours is.
    assert_eq!(code(&answer(r#"{"orderId":"1","unknown":1e400}"#).await), "INVALID_JSON");
}

#[tokio::test]
async fn unknown_fields_are_ignored_and_an_empty_body_is_an_empty_object() {
    assert_eq!(answer(r#"{"orderId":"1","extra":{"deep":[1,2]}}"#).await.status, 200);
    assert_eq!(answer(" {\"orderId\":\"1\"}\n").await.status, 200);
    for text in ["", " \r\n"] {
        assert_eq!(call(&app(), &whoami(&[Accept::Anonymous]), http("/"), &[], text).await.status, 200);
    }
}

#[tokio::test]
async fn a_body_of_100_kb_is_the_longest() {
    let padded = |total: usize| {
        let text = r#"{"orderId":""}"#;
        format!(r#"{{"orderId":"{}"}}"#, "x".repeat(total - text.len()))
    };
    assert_eq!(answer(padded(BODY_BYTES_MAX)).await.status, 200);
    let long = answer(padded(BODY_BYTES_MAX + 1)).await;
    assert_eq!((long.status, code(&long)), (413, "PAYLOAD_TOO_LARGE"));
}

async fn request_key(text: &'static str) -> Option<RequestKey> {
    let seen = Arc::new(Mutex::new(None));
    let keep = Arc::clone(&seen);
    let function = Function::new("keeps", move |context: Context, _: Nothing| {
        *keep.lock().unwrap() = context.request;
        async { Reply::of(&()) }
    })
    .accepts(&[Accept::Anonymous]);
    assert_eq!(call(&app(), &function, http("/"), &[], text).await.status, 200);
    seen.lock().unwrap().take()
}

#[tokio::test]
async fn the_input_hash_knows_content_and_not_form() {
    assert_eq!(request_key("{}").await, None);
    assert_eq!(request_key(r#"{"requestId":null}"#).await, None);
    let key = request_key(r#"{"requestId":"req-00001","a":[1,{"x":"1","y":2}],"b":true}"#).await.unwrap();
    assert_eq!(key.id, "req-00001");
    // Stored with every command: a change here makes repeats look like other requests.
    assert_eq!(key.input_hash, "e240f44132b8b8ac28ce91811cc155ee9e3c915e9b1ca199eb87d2c18bf3c08a");
    let same =
        request_key(r#" { "b": true, "a": [1, {"y":2, "x":"\u0031"}], "requestId": "req-00002" }"#).await.unwrap();
    assert_eq!(same.input_hash, key.input_hash);
    let others = [
        r#"{"requestId":"req-00001","a":[1,{"x":1,"y":2}],"b":true}"#,
        r#"{"requestId":"req-00001","a":[1],"b":true}"#,
        r#"{"requestId":"req-00001","a":[1,{"x":"1","y":2}]}"#,
        r#"{"requestId":"req-00001","a":[1,{"x":"1","y":2}],"b":true,"requestId2":"x"}"#,
    ];
    for text in others {
        assert_ne!(request_key(text).await.unwrap().input_hash, key.input_hash, "{text}");
    }
}

#[test]
fn the_schema_is_the_inputs() {
    let schema = takes_input().input_schema();
    assert_eq!(schema["type"], "object");
    assert_eq!(schema["required"], json!(["orderId"]));
    assert_eq!(schema["properties"]["orderId"]["type"], "string");
}
