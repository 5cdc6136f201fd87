//! The simulators seen from outside: requests signed by hand, replies and notices verified with `ring`.

mod bills;
mod drand;
mod faults;
mod kuaidi100;
mod legacy;
mod shipping;
mod sms;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, TimeZone as _, Utc};
use http::{HeaderMap, StatusCode};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair, UnparsedPublicKey};
use serde_json::{Value, json};
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::{Sim, SimConfig, keys};

#[derive(Clone)]
struct TestClock(Arc<Mutex<DateTime<Utc>>>);

impl TestClock {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Utc.with_ymd_and_hms(2026, 11, 21, 2, 0, 0).unwrap())))
    }

    fn now(&self) -> DateTime<Utc> {
        *self.0.lock().unwrap()
    }

    fn advance(&self, by: TimeDelta) {
        *self.0.lock().unwrap() += by;
    }
}

struct Got {
    status: u16,
    headers: HeaderMap,
    body: String,
}

impl Got {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    #[track_caller]
    fn signed_by(self, serial: &str, key: &[u8]) -> Self {
        assert_eq!(self.header("wechatpay-serial"), serial, "{}", self.body);
        assert_eq!(self.header("wechatpay-signature-type"), "WECHATPAY2-SHA256-RSA2048");
        assert!(!self.header("request-id").is_empty());
        assert!(verified(&self.headers, self.body.as_bytes(), key));
        self
    }

    #[track_caller]
    fn good(self) -> Self {
        self.signed_by(keys::WECHATPAY_PUBLIC_KEY_ID, &public_key(keys::WECHATPAY_PUBLIC_KEY))
    }

    /// An error: unsigned, with this code.
    #[track_caller]
    fn refused(self, status: u16, code: &str) -> String {
        assert_eq!(self.status, status, "{}", self.body);
        assert!(self.headers.get("wechatpay-signature").is_none());
        assert_eq!(self.json()["code"], code, "{}", self.body);
        self.json()["message"].as_str().unwrap().to_owned()
    }
}

fn public_key(pem: &str) -> Vec<u8> {
    let der = crate::crypto::pem_body(pem).unwrap();
    let (_, info) = SubjectPublicKeyInfo::from_der(&der).unwrap();
    info.subject_public_key.data.to_vec()
}

fn certificate_key(pem: &str) -> Vec<u8> {
    let der = crate::crypto::pem_body(pem).unwrap();
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).unwrap();
    certificate.public_key().subject_public_key.data.to_vec()
}

fn verified(headers: &HeaderMap, body: &[u8], key: &[u8]) -> bool {
    let header = |name: &str| headers.get(name).unwrap().to_str().unwrap();
    let mut message = format!("{}\n{}\n", header("wechatpay-timestamp"), header("wechatpay-nonce")).into_bytes();
    message.extend_from_slice(body);
    message.push(b'\n');
    let Ok(signature) = STANDARD.decode(header("wechatpay-signature")) else { return false };
    UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key).verify(&message, &signature).is_ok()
}

fn rsa_sign(pem: &str, message: &str) -> String {
    let key = RsaKeyPair::from_pkcs8(&crate::crypto::pem_body(pem).unwrap()).unwrap();
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature).unwrap();
    STANDARD.encode(signature)
}

fn decrypt(resource: &Value) -> Option<Vec<u8>> {
    let text = |name: &str| resource[name].as_str().unwrap();
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, keys::API_V3_KEY.as_bytes()).unwrap());
    let nonce = Nonce::try_assume_unique_for_key(text("nonce").as_bytes()).unwrap();
    let mut buffer = STANDARD.decode(text("ciphertext")).unwrap();
    key.open_in_place(nonce, Aad::from(text("associated_data").as_bytes()), &mut buffer)
        .ok()
        .map(|plain| plain.to_vec())
}

async fn serve(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    format!("http://{address}")
}

type Received = Arc<Mutex<Vec<(HeaderMap, Bytes)>>>;

/// A merchant that writes down every notice and answers with the next of `statuses`, at last with 204.
async fn receiver(statuses: &[u16]) -> (String, Received) {
    let received = Received::default();
    let statuses = Arc::new(Mutex::new(statuses.to_vec()));
    let state = (Arc::clone(&received), statuses);
    let handler = |State((received, statuses)): State<(Received, Arc<Mutex<Vec<u16>>>)>,
                   headers: HeaderMap,
                   body: Bytes| async move {
        received.lock().unwrap().push((headers, body));
        let mut statuses = statuses.lock().unwrap();
        let status = if statuses.is_empty() { 204 } else { statuses.remove(0) };
        StatusCode::from_u16(status).unwrap()
    };
    let base = serve(Router::new().fallback(handler).with_state(state)).await;
    (format!("{base}/payCallback"), received)
}

struct World {
    sim: Sim,
    clock: TestClock,
    base: String,
    http: reqwest::Client,
}

/// How a request is made; the default is a proper one.
struct Made<'a> {
    method: &'a str,
    path: &'a str,
    body: &'a str,
    serial: Option<&'a str>,
    user_agent: bool,
    /// What is signed in place of the proper message.
    message: Option<fn(&str) -> String>,
    key: &'a str,
    /// Changes the finished `Authorization`.
    authorization: fn(String) -> String,
    signed_path: Option<&'a str>,
    age: TimeDelta,
}

impl<'a> Made<'a> {
    fn new(method: &'a str, path: &'a str, body: &'a str) -> Self {
        Self {
            method,
            path,
            body,
            serial: Some(keys::WECHATPAY_PUBLIC_KEY_ID),
            user_agent: true,
            message: None,
            key: keys::MERCHANT_PRIVATE_KEY,
            authorization: |value| value,
            signed_path: None,
            age: TimeDelta::zero(),
        }
    }
}

impl World {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut SimConfig)) -> Self {
        let clock = TestClock::new();
        let reader = clock.clone();
        let mut config = SimConfig::new(move || reader.now());
        change(&mut config);
        let sim = Sim::new(config).unwrap();
        let base = serve(Router::new().nest("/sim", sim.router())).await;
        let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
        Self { sim, clock, base, http }
    }

    async fn try_make(&self, made: Made<'_>) -> Result<Got, reqwest::Error> {
        let path = format!("/sim/wxpay{}", made.path);
        let signed = made.signed_path.unwrap_or(&path);
        let timestamp = (self.clock.now() - made.age).timestamp();
        let proper = format!("{}\n{signed}\n{timestamp}\nnonce0123456789\n{}\n", made.method, made.body);
        let message = made.message.map_or(proper.clone(), |change| change(&proper));
        let signature = rsa_sign(made.key, &message);
        let authorization = format!(
            "WECHATPAY2-SHA256-RSA2048 mchid=\"{}\",nonce_str=\"nonce0123456789\",signature=\"{signature}\",timestamp=\"{timestamp}\",serial_no=\"{}\"",
            keys::MCHID,
            keys::MERCHANT_SERIAL
        );
        let mut request = self
            .http
            .request(made.method.parse().unwrap(), format!("{}{path}", self.base))
            .header("Authorization", (made.authorization)(authorization))
            .header("Accept", "application/json");
        if made.user_agent {
            request = request.header("User-Agent", "test");
        }
        if let Some(serial) = made.serial {
            request = request.header("Wechatpay-Serial", serial);
        }
        if !made.body.is_empty() {
            request = request.header("Content-Type", "application/json").body(made.body.to_owned());
        }
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Got { status, headers, body: response.text().await? })
    }

    async fn make(&self, made: Made<'_>) -> Got {
        self.try_make(made).await.unwrap()
    }

    async fn post(&self, path: &str, body: &Value) -> Got {
        self.make(Made::new("POST", path, &body.to_string())).await
    }

    async fn get(&self, path: &str) -> Got {
        self.make(Made::new("GET", path, "")).await
    }

    async fn prepay(&self, number: &str, notify_url: &str) -> String {
        let got = self.post("/v3/pay/transactions/jsapi", &prepay(number, notify_url)).await.good();
        assert_eq!(got.status, 200);
        got.json()["prepay_id"].as_str().unwrap().to_owned()
    }

    async fn trade_state(&self, number: &str) -> String {
        let got = self.get(&format!("/v3/pay/transactions/out-trade-no/{number}?mchid={}", keys::MCHID)).await.good();
        got.json()["trade_state"].as_str().unwrap().to_owned()
    }

    async fn control(&self, path: &str, body: Value) -> Got {
        let response =
            self.http.post(format!("{}/sim/control{path}", self.base)).body(body.to_string()).send().await.unwrap();
        Got {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response.text().await.unwrap(),
        }
    }

    async fn look(&self, path: &str) -> Value {
        let response = self.http.get(format!("{}/sim/control{path}", self.base)).send().await.unwrap();
        serde_json::from_str(&response.text().await.unwrap()).unwrap()
    }

    async fn wechat_get(&self, path: &str) -> Value {
        let response = self.http.get(format!("{}/sim/wechat{path}", self.base)).send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/plain");
        serde_json::from_str(&response.text().await.unwrap()).unwrap()
    }

    async fn wechat_post(&self, path: &str, body: &Value) -> Value {
        let response =
            self.http.post(format!("{}/sim/wechat{path}", self.base)).body(body.to_string()).send().await.unwrap();
        assert_eq!(response.status(), 200);
        serde_json::from_str(&response.text().await.unwrap()).unwrap()
    }

    async fn stable_token(&self, force: bool) -> Value {
        let body = json!({ "grant_type": "client_credential", "appid": keys::APPID, "secret": keys::APP_SECRET, "force_refresh": force });
        self.wechat_post("/cgi-bin/stable_token", &body).await
    }
}

fn prepay(number: &str, notify_url: &str) -> Value {
    json!({
        "appid": keys::APPID, "mchid": keys::MCHID, "description": "苹果 5 斤", "out_trade_no": number, "attach": "order",
        "time_expire": "2026-11-21T10:30:00+08:00", "notify_url": notify_url, "amount": { "total": 1234, "currency": "CNY" },
        "payer": { "openid": "o-alice" },
    })
}

fn refund(number: &str, refund_number: &str, fen: i64, notify_url: &str) -> Value {
    json!({
        "out_trade_no": number, "out_refund_no": refund_number, "reason": "不要了", "notify_url": notify_url,
        "amount": { "refund": fen, "total": 1234, "currency": "CNY" },
    })
}

const NOWHERE: &str = "http://127.0.0.1:9/payCallback";

#[test]
fn keys_and_certificates_belong_together() {
    for (certificate, key, serial) in [
        (keys::MERCHANT_CERTIFICATE, keys::MERCHANT_PRIVATE_KEY, keys::MERCHANT_SERIAL),
        (keys::PLATFORM_CERTIFICATE, keys::PLATFORM_PRIVATE_KEY, keys::PLATFORM_SERIAL),
    ] {
        let der = crate::crypto::pem_body(certificate).unwrap();
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).unwrap();
        assert_eq!(hex::encode_upper(parsed.raw_serial()), serial);
        let signature = STANDARD.decode(rsa_sign(key, "x")).unwrap();
        assert!(
            UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, certificate_key(certificate))
                .verify(b"x", &signature)
                .is_ok()
        );
    }
    for (public, private) in
        [(keys::WECHATPAY_PUBLIC_KEY, keys::WECHATPAY_PRIVATE_KEY), (keys::WRONG_PUBLIC_KEY, keys::WRONG_PRIVATE_KEY)]
    {
        let signature = STANDARD.decode(rsa_sign(private, "x")).unwrap();
        assert!(
            UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, public_key(public)).verify(b"x", &signature).is_ok()
        );
    }
    assert_eq!(keys::API_V3_KEY.len(), 32);
}

#[tokio::test]
async fn an_order_is_paid_notified_refunded_and_queried() {
    let world = World::new().await;
    let (url, received) = receiver(&[]).await;
    let prepay_id = world.prepay("order-1_1", &url).await;
    assert!(prepay_id.starts_with("wx20261121100000"), "{prepay_id}");
    assert_eq!(world.trade_state("order-1_1").await, "NOTPAY");

    let paid = world.control("/pay", json!({ "orderId": "order-1" })).await;
    assert_eq!(paid.status, 200, "{}", paid.body);
    let paid = paid.json();
    assert_eq!(
        (&paid["success"], &paid["outTradeNo"], &paid["noticeStatus"]),
        (&json!(true), &json!("order-1_1"), &json!(204))
    );
    let transaction_id = paid["transactionId"].as_str().unwrap();
    assert_eq!(transaction_id.len(), 28);

    let (headers, body) = received.lock().unwrap()[0].clone();
    assert!(verified(&headers, &body, &public_key(keys::WECHATPAY_PUBLIC_KEY)));
    let notice: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(notice["event_type"], "TRANSACTION.SUCCESS");
    let plain: Value = serde_json::from_slice(&decrypt(&notice["resource"]).unwrap()).unwrap();
    assert_eq!(plain["amount"]["total"], 1234);
    assert_eq!(plain["transaction_id"], transaction_id);
    assert_eq!(plain["payer"]["openid"], "o-alice");
    assert_eq!(plain["success_time"], "2026-11-21T10:00:00+08:00");

    let by_id =
        world.get(&format!("/v3/pay/transactions/id/{transaction_id}?mchid={}", keys::MCHID)).await.good().json();
    assert_eq!(
        (&by_id["trade_state"], &by_id["attach"], &by_id["trade_type"]),
        (&json!("SUCCESS"), &json!("order"), &json!("JSAPI"))
    );

    let created =
        world.post("/v3/refund/domestic/refunds", &refund("order-1_1", "refund-1", 234, &url)).await.good().json();
    assert_eq!(
        (&created["status"], &created["amount"]["refund"], &created["transaction_id"]),
        (&json!("PROCESSING"), &json!(234), &json!(transaction_id))
    );
    assert_eq!(world.trade_state("order-1_1").await, "REFUND");
    let queried = world.get("/v3/refund/domestic/refunds/refund-1").await.good().json();
    assert_eq!(
        (&queried["status"], &queried["success_time"]),
        (&json!("SUCCESS"), &json!("2026-11-21T10:00:00+08:00"))
    );

    let told = world.control("/refund", json!({ "outRefundNo": "refund-1" })).await.json();
    assert_eq!((&told["noticeStatus"], &told["status"]), (&json!(204), &json!("SUCCESS")));
    let (headers, body) = received.lock().unwrap()[1].clone();
    assert!(verified(&headers, &body, &public_key(keys::WECHATPAY_PUBLIC_KEY)));
    let notice: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(notice["event_type"], "REFUND.SUCCESS");
    let plain: Value = serde_json::from_slice(&decrypt(&notice["resource"]).unwrap()).unwrap();
    assert_eq!((&plain["refund_status"], &plain["out_refund_no"]), (&json!("SUCCESS"), &json!("refund-1")));
    assert!(plain.get("status").is_none());
}

#[tokio::test]
async fn replies_are_signed_with_the_key_the_request_names() {
    let world = World::new().await;
    let platform = certificate_key(keys::PLATFORM_CERTIFICATE);
    for serial in [None, Some(keys::PLATFORM_SERIAL)] {
        let made = Made { serial, ..Made::new("GET", "/v3/certificates", "") };
        world.make(made).await.signed_by(keys::PLATFORM_SERIAL, &platform);
    }
    let got = world.get("/v3/certificates").await.good().json();
    let listed = &got["data"][0];
    assert_eq!(listed["serial_no"], keys::PLATFORM_SERIAL);
    assert_eq!(decrypt(&listed["encrypt_certificate"]).unwrap(), keys::PLATFORM_CERTIFICATE.as_bytes());

    let unknown = Made { serial: Some("PUB_KEY_ID_1"), ..Made::new("GET", "/v3/certificates", "") };
    world.make(unknown).await.refused(400, "PARAM_ERROR");

    let world = World::with(|config| config.public_key_only = true).await;
    world.get("/v3/certificates").await.refused(404, "RESOURCE_NOT_EXISTS");
}

#[tokio::test]
async fn the_path_may_be_signed_with_or_without_the_mount() {
    let world = World::new().await;
    let made = Made { signed_path: Some("/v3/certificates"), ..Made::new("GET", "/v3/certificates", "") };
    world.make(made).await.good();
    let made = Made { signed_path: Some("/wxpay/v3/certificates"), ..Made::new("GET", "/v3/certificates", "") };
    world.make(made).await.refused(401, "SIGN_ERROR");
}

#[tokio::test]
async fn a_wrong_signature_is_refused_and_explained() {
    let world = World::new().await;
    let query = format!("/v3/pay/transactions/out-trade-no/order-1?mchid={}", keys::MCHID);
    let body = r#"{ "mchid":"1900000001" }"#;
    let close = "/v3/pay/transactions/out-trade-no/order-1/close";
    let get = || Made::new("GET", &query, "");
    let post = || Made::new("POST", close, body);
    let cases: Vec<(Made<'_>, &str)> = vec![
        (Made { key: keys::WRONG_PRIVATE_KEY, ..get() }, "another key"),
        (Made { signed_path: Some("/sim/wxpay/v3/pay/transactions/out-trade-no/order-1"), ..get() }, "query string"),
        (Made { message: Some(|message| message.strip_suffix('\n').unwrap().to_owned()), ..get() }, "line feed"),
        (Made { message: Some(|message| message.to_lowercase()), ..get() }, "upper case"),
        (
            Made {
                message: Some(|message| message.replace("{ \"mchid\":\"1900000001\" }", "{\"mchid\":\"1900000001\"}")),
                ..post()
            },
            "serialisation",
        ),
        (Made { message: Some(|message| message.replace("{ \"mchid\":\"1900000001\" }", "")), ..post() }, "left out"),
        (
            Made { authorization: |value| value.replace("WECHATPAY2-SHA256-RSA2048", "WECHATPAY2-RSA"), ..get() },
            "begin with",
        ),
        (Made { authorization: |value| value.replace(",nonce_str", ", nonce_str"), ..get() }, "unknown field"),
        (Made { authorization: |value| value.replace(keys::MCHID, "1900000002"), ..get() }, "not a merchant"),
        (
            Made { authorization: |value| value.replace(keys::MERCHANT_SERIAL, keys::PLATFORM_SERIAL), ..get() },
            "merchant certificate's",
        ),
        (
            Made { authorization: |value| value.replace("nonce_str=\"nonce0123456789\",", ""), ..get() },
            "\"nonce_str\" is missing",
        ),
        (Made { authorization: |value| value.replace("signature=\"", "signature=\"*"), ..get() }, "base64"),
        (Made { authorization: |value| value.replace("nonce0123456789", "nonce0123456780"), ..get() }, "another key"),
        (Made { age: TimeDelta::seconds(301), ..get() }, "5分钟"),
        (Made { age: TimeDelta::seconds(-301), ..get() }, "5分钟"),
    ];
    for (made, explained) in cases {
        let message = world.make(made).await.refused(401, "SIGN_ERROR");
        assert!(message.contains(explained), "{explained:?} not in {message}");
    }
    let message = world.make(Made { key: keys::WRONG_PRIVATE_KEY, ..post() }).await;
    let shown = message.json()["detail"]["sign_information"]["truncated_sign_message"].as_str().unwrap().to_owned();
    assert!(
        shown.starts_with("POST\n/sim/wxpay/v3/pay/transactions/out-trade-no/order-1/close\n")
            && shown.ends_with("\n{ \"mchid\":\"1900000001\" }\n")
    );

    // Within five minutes a clock may differ.
    world.make(Made { age: TimeDelta::seconds(300), ..get() }).await.refused(404, "ORDER_NOT_EXIST");
}

#[tokio::test]
async fn unknown_paths_answer_empty_and_some_want_a_user_agent() {
    let world = World::new().await;
    for (method, path, status) in
        [("GET", "/v3/nothing", 404), ("GET", "/v3/pay/transactions/jsapi", 405), ("POST", "/v3/certificates", 405)]
    {
        let got = world.make(Made::new(method, path, "")).await;
        assert_eq!((got.status, got.body.as_str()), (status, ""), "{method} {path}");
        assert!(got.headers.get("wechatpay-signature").is_none());
    }
    for path in ["/v3/certificates", "/v3/refund/domestic/refunds/refund-1"] {
        // Before the signature is looked at.
        let made = Made { user_agent: false, key: keys::WRONG_PRIVATE_KEY, ..Made::new("GET", path, "") };
        world.make(made).await.refused(400, "INVALID_REQUEST");
    }
    let body = prepay("order-1", NOWHERE).to_string();
    world.make(Made { user_agent: false, ..Made::new("POST", "/v3/pay/transactions/jsapi", &body) }).await.good();
}

#[tokio::test]
async fn a_prepay_with_a_wrong_field_is_refused() {
    let world = World::new().await;
    let long = "长".repeat(128);
    let cases = [
        ("/appid", json!("wxother"), "APPID_MCHID_NOT_MATCH"),
        ("/mchid", json!("1900000002"), "PARAM_ERROR"),
        ("/description", json!(""), "PARAM_ERROR"),
        ("/description", json!(long), "PARAM_ERROR"),
        ("/description", json!("苹果🍎"), "PARAM_ERROR"),
        ("/description", json!("a\nb"), "PARAM_ERROR"),
        ("/out_trade_no", json!("abcde"), "PARAM_ERROR"),
        ("/out_trade_no", json!("a".repeat(33)), "PARAM_ERROR"),
        ("/out_trade_no", json!("order 1"), "PARAM_ERROR"),
        ("/attach", Value::Null, "PARAM_ERROR"),
        ("/time_expire", json!("2026-11-21 10:30:00"), "PARAM_ERROR"),
        ("/time_expire", json!("2026-12-21T10:30:00+08:00"), "PARAM_ERROR"),
        ("/notify_url", json!("example.com/a"), "PARAM_ERROR"),
        ("/notify_url", json!("https://example.com/a?b=c"), "PARAM_ERROR"),
        ("/amount/total", json!(0), "PARAM_ERROR"),
        ("/amount/total", json!(1.5), "PARAM_ERROR"),
        ("/amount/total", json!("1"), "PARAM_ERROR"),
        ("/amount/currency", json!("USD"), "PARAM_ERROR"),
        ("/payer/openid", json!(""), "PARAM_ERROR"),
    ];
    for (pointer, value, code) in cases {
        let mut body = prepay("order-1", NOWHERE);
        *body.pointer_mut(pointer).unwrap() = value.clone();
        let message = world.post("/v3/pay/transactions/jsapi", &body).await.refused(400, code);
        assert!(!message.is_empty(), "{pointer} {value}");
    }
    for unknown in ["", "/amount", "/payer"] {
        let mut body = prepay("order-1", NOWHERE);
        body.pointer_mut(unknown).unwrap().as_object_mut().unwrap().insert("extra".to_owned(), json!(1));
        assert!(world.post("/v3/pay/transactions/jsapi", &body).await.refused(400, "PARAM_ERROR").contains("extra"));
    }
    let mut body = prepay("order-1", NOWHERE);
    body.as_object_mut().unwrap().remove("payer");
    assert!(world.post("/v3/pay/transactions/jsapi", &body).await.refused(400, "PARAM_ERROR").contains("payer"));
    assert!(world.sim.orders("").is_empty());
}

#[tokio::test]
async fn a_prepay_is_renewed_only_by_the_same_bytes() {
    let world = World::new().await;
    let first = world.prepay("order-1", NOWHERE).await;
    let second = world.prepay("order-1", NOWHERE).await;
    assert_ne!(first, second);

    let mut other = prepay("order-1", NOWHERE);
    other["amount"]["total"] = json!(1);
    let message = world.post("/v3/pay/transactions/jsapi", &other).await.refused(403, "OUT_TRADE_NO_USED");
    assert!(message.contains("amount"), "{message}");
    let spaced = serde_json::to_string_pretty(&prepay("order-1", NOWHERE)).unwrap();
    let message =
        world.make(Made::new("POST", "/v3/pay/transactions/jsapi", &spaced)).await.refused(403, "OUT_TRADE_NO_USED");
    assert!(message.contains("other bytes"), "{message}");

    // Either prepay can be paid.
    assert_eq!(world.control("/pay", json!({ "prepayId": first, "notify": "none" })).await.status, 200);
    world.post("/v3/pay/transactions/jsapi", &prepay("order-1", NOWHERE)).await.refused(400, "ORDERPAID");
    world
        .post("/v3/pay/transactions/out-trade-no/order-1/close", &json!({ "mchid": keys::MCHID }))
        .await
        .refused(400, "ORDER_PAID");
}

#[tokio::test]
async fn a_closed_or_expired_order_cannot_be_paid() {
    let world = World::new().await;
    world.prepay("order-1", NOWHERE).await;
    let close = "/v3/pay/transactions/out-trade-no/order-1/close";
    for _ in 0..2 {
        let got = world.post(close, &json!({ "mchid": keys::MCHID })).await.good();
        assert_eq!((got.status, got.body.as_str()), (204, ""));
    }
    assert_eq!(world.trade_state("order-1").await, "CLOSED");
    world.post("/v3/pay/transactions/jsapi", &prepay("order-1", NOWHERE)).await.refused(400, "ORDER_CLOSED");
    world.control("/pay", json!({ "orderId": "order-1" })).await.refused(409, "ORDER_CLOSED");
    world.post(close, &json!({ "mchid": keys::MCHID, "more": 1 })).await.refused(400, "PARAM_ERROR");
    world.post(close, &json!({ "mchid": "1" })).await.refused(400, "PARAM_ERROR");
    world
        .post("/v3/pay/transactions/out-trade-no/order-9/close", &json!({ "mchid": keys::MCHID }))
        .await
        .refused(404, "ORDER_NOT_EXIST");

    world.prepay("order-2", NOWHERE).await;
    world.clock.advance(TimeDelta::minutes(31));
    world.control("/pay", json!({ "orderId": "order-2" })).await.refused(409, "ORDER_EXPIRED");
    assert_eq!(world.trade_state("order-2").await, "NOTPAY");
    world.post("/v3/pay/transactions/jsapi", &prepay("order-2", NOWHERE)).await.refused(400, "INVALID_REQUEST");

    let mut body = prepay("order-3", NOWHERE);
    body.as_object_mut().unwrap().remove("time_expire");
    world.post("/v3/pay/transactions/jsapi", &body).await.good();
    world.clock.advance(TimeDelta::minutes(121));
    world.control("/pay", json!({ "orderId": "order-3" })).await.refused(409, "PREPAY_EXPIRED");
    world.post("/v3/pay/transactions/jsapi", &body).await.good();
    assert_eq!(world.control("/pay", json!({ "orderId": "order-3", "notify": "none" })).await.status, 200);
    world.control("/pay", json!({ "orderId": "order-9" })).await.refused(404, "NOT_FOUND");
    world.control("/pay", json!({})).await.refused(400, "INVALID_ARGUMENT");
    world.control("/pay", json!({ "orderId": "order-3", "notfy": "none" })).await.refused(400, "INVALID_ARGUMENT");
}

#[tokio::test]
async fn a_query_names_the_merchant() {
    let world = World::new().await;
    world.prepay("order-1", NOWHERE).await;
    world.get("/v3/pay/transactions/out-trade-no/order-1").await.refused(400, "PARAM_ERROR");
    world.get("/v3/pay/transactions/out-trade-no/order-1?mchid=1900000002").await.refused(404, "ORDER_NOT_EXIST");
    world.get("/v3/pay/transactions/out-trade-no/order-2?mchid=1900000001").await.refused(404, "ORDER_NOT_EXIST");
    world.get("/v3/pay/transactions/id/4200?mchid=1900000001").await.refused(404, "ORDER_NOT_EXIST");
    let unpaid = world.get("/v3/pay/transactions/out-trade-no/order-1?mchid=1900000001").await.good().json();
    assert!(unpaid.get("transaction_id").is_none() && unpaid.get("attach").is_none());
}

#[tokio::test]
async fn refunds_never_exceed_what_was_paid() {
    let world = World::new().await;
    let path = "/v3/refund/domestic/refunds";
    world.prepay("order-1", NOWHERE).await;
    world.post(path, &refund("order-1", "r-1", 1, NOWHERE)).await.refused(404, "RESOURCE_NOT_EXISTS");
    world.control("/pay", json!({ "orderId": "order-1", "notify": "none" })).await;
    world.post(path, &refund("order-1", "r-1", 1235, NOWHERE)).await.refused(400, "INVALID_REQUEST");
    let mut total = refund("order-1", "r-1", 1, NOWHERE);
    total["amount"]["total"] = json!(1233);
    world.post(path, &total).await.refused(400, "INVALID_REQUEST");

    world.post(path, &refund("order-1", "r-1", 1000, NOWHERE)).await.good();
    // The same number is the same refund, in whatever layout.
    let pretty = serde_json::to_string_pretty(&refund("order-1", "r-1", 1000, NOWHERE)).unwrap();
    assert_eq!(world.make(Made::new("POST", path, &pretty)).await.good().json()["status"], "PROCESSING");
    world.post(path, &refund("order-1", "r-1", 999, NOWHERE)).await.refused(400, "INVALID_REQUEST");

    world.post(path, &refund("order-1", "r-2", 100, NOWHERE)).await.refused(429, "FREQUENCY_LIMITED");
    world.clock.advance(TimeDelta::seconds(60));
    world.post(path, &refund("order-1", "r-2", 235, NOWHERE)).await.refused(400, "INVALID_REQUEST");
    world.post(path, &refund("order-1", "r-2", 234, NOWHERE)).await.good();
    world.clock.advance(TimeDelta::seconds(60));

    // A refund that failed gives its money back to the ledger; a new number may try again.
    world.control("/refund", json!({ "outRefundNo": "r-2", "status": "CLOSED", "notify": "none" })).await;
    world.post(path, &refund("order-1", "r-3", 234, NOWHERE)).await.good();
    world.control("/refund", json!({ "outRefundNo": "r-2", "status": "SUCCESS" })).await.refused(409, "REFUND_FINAL");
    let abnormal =
        world.control("/refund", json!({ "outRefundNo": "r-3", "status": "ABNORMAL", "notify": "none" })).await.json();
    assert_eq!((&abnormal["status"], &abnormal["noticeStatus"]), (&json!("ABNORMAL"), &Value::Null));
    assert_eq!(world.get("/v3/refund/domestic/refunds/r-3").await.good().json()["status"], "ABNORMAL");
    world.get("/v3/refund/domestic/refunds/r-9").await.refused(404, "RESOURCE_NOT_EXISTS");

    world.clock.advance(TimeDelta::days(366));
    world.post(path, &refund("order-1", "r-4", 1, NOWHERE)).await.refused(400, "INVALID_REQUEST");
}

#[tokio::test]
async fn refund_fields_and_failing_calls_are_limited() {
    let world = World::new().await;
    let path = "/v3/refund/domestic/refunds";
    world.prepay("order-1", NOWHERE).await;
    world.control("/pay", json!({ "orderId": "order-1", "notify": "none" })).await;
    let cases = [
        ("/out_refund_no", json!("r 1")),
        ("/out_refund_no", json!("r".repeat(65))),
        ("/reason", json!("因".repeat(81))),
        ("/notify_url", json!("")),
        ("/amount/currency", json!("USD")),
        ("/amount/refund", json!(0)),
    ];
    for (pointer, value) in cases {
        world.clock.advance(TimeDelta::seconds(2));
        let mut body = refund("order-1", "r-1", 1, NOWHERE);
        *body.pointer_mut(pointer).unwrap() = value;
        world.post(path, &body).await.refused(400, "PARAM_ERROR");
    }
    world.clock.advance(TimeDelta::seconds(2));
    for _ in 0..6 {
        world.post(path, &refund("order-9", "r-1", 1, NOWHERE)).await.refused(404, "RESOURCE_NOT_EXISTS");
    }
    world.post(path, &refund("order-1", "r-1", 1, NOWHERE)).await.refused(429, "FREQUENCY_LIMITED");
    world.clock.advance(TimeDelta::seconds(1));
    world.post(path, &refund("order-1", "r-1", 1, NOWHERE)).await.good();
}

#[tokio::test]
async fn at_most_fifty_refunds_per_order() {
    let world = World::new().await;
    let path = "/v3/refund/domestic/refunds";
    world.prepay("order-1", NOWHERE).await;
    world.control("/pay", json!({ "orderId": "order-1", "notify": "none" })).await;
    for index in 0..50 {
        world.post(path, &refund("order-1", &format!("r-{index}"), 1, NOWHERE)).await.good();
        world.clock.advance(TimeDelta::seconds(60));
    }
    assert!(
        world.post(path, &refund("order-1", "r-50", 1, NOWHERE)).await.refused(400, "INVALID_REQUEST").contains("50")
    );
}

#[tokio::test]
async fn every_kind_of_notice_has_its_defect_and_no_other() {
    let world = World::new().await;
    let (url, received) = receiver(&[]).await;
    world.prepay("order-1", &url).await;
    let public = public_key(keys::WECHATPAY_PUBLIC_KEY);
    let platform = certificate_key(keys::PLATFORM_CERTIFICATE);
    // mode, deliveries, verifies under the public key, decrypts, total
    let cases = [
        ("once", 1, true, true, 1234),
        ("none", 0, true, true, 1234),
        ("duplicate", 2, true, true, 1234),
        ("tampered", 1, false, true, 1234),
        ("signtest", 1, false, true, 1234),
        ("wrongAmount", 1, true, true, 1235),
        ("stale", 1, true, true, 1234),
        ("unknownSerial", 1, false, true, 1234),
        ("wrongKey", 1, false, true, 1234),
        ("certificate", 1, false, true, 1234),
        ("brokenCiphertext", 1, true, false, 1234),
        ("wrongAppid", 1, true, true, 1234),
        ("wrongMchid", 1, true, true, 1234),
    ];
    for (mode, deliveries, verifies, decrypts, total) in cases {
        received.lock().unwrap().clear();
        let reply = world.control("/pay", json!({ "orderId": "order-1", "notify": mode })).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        assert_eq!(reply.json()["alreadyPaid"], json!(mode != "once"));
        assert_eq!(reply.json()["notices"].as_array().unwrap().len(), deliveries, "{mode}");
        let got = received.lock().unwrap().clone();
        assert_eq!(got.len(), deliveries, "{mode}");
        for (headers, body) in &got {
            let header = |name: &str| headers[name].to_str().unwrap().to_owned();
            assert_eq!(verified(headers, body, &public), verifies, "{mode}");
            assert_eq!(verified(headers, body, &platform), mode == "certificate", "{mode}");
            let serial = match mode {
                "certificate" => keys::PLATFORM_SERIAL,
                "unknownSerial" => keys::UNKNOWN_SERIAL,
                _ => keys::WECHATPAY_PUBLIC_KEY_ID,
            };
            assert_eq!(header("wechatpay-serial"), serial, "{mode}");
            let age = world.clock.now().timestamp() - header("wechatpay-timestamp").parse::<i64>().unwrap();
            assert_eq!(age, if mode == "stale" { 600 } else { 0 }, "{mode}");
            assert_eq!(header("wechatpay-signature").starts_with("WECHATPAY/SIGNTEST/"), mode == "signtest");
            let notice: Value = serde_json::from_slice(body).unwrap();
            assert!(notice["id"].as_str().unwrap().len() <= 36);
            let plain = decrypt(&notice["resource"]);
            assert_eq!(plain.is_some(), decrypts, "{mode}");
            if let Some(plain) = plain {
                let plain: Value = serde_json::from_slice(&plain).unwrap();
                assert_eq!(plain["amount"]["total"], total, "{mode}");
                assert_eq!(plain["appid"] == keys::APPID, mode != "wrongAppid");
                assert_eq!(plain["mchid"] == keys::MCHID, mode != "wrongMchid");
            }
        }
        if mode == "duplicate" {
            assert_eq!(got[0].1, got[1].1);
            assert_ne!(got[0].0["wechatpay-nonce"], got[1].0["wechatpay-nonce"]);
        }
    }
    // The ledger was never wrong.
    let view = world.get("/v3/pay/transactions/out-trade-no/order-1?mchid=1900000001").await.good().json();
    assert_eq!(view["amount"]["total"], 1234);
}

#[tokio::test]
async fn a_refused_notice_is_repeated_only_on_request() {
    let world = World::new().await;
    let (url, received) = receiver(&[500, 500, 500]).await;
    world.prepay("order-1", &url).await;
    let once = world.control("/pay", json!({ "outTradeNo": "order-1" })).await.json();
    assert_eq!((&once["noticeStatus"], once["notices"].as_array().unwrap().len()), (&json!(500), 1));
    let again = world.control("/pay", json!({ "outTradeNo": "order-1", "retry": true })).await.json();
    let statuses: Vec<_> =
        again["notices"].as_array().unwrap().iter().map(|notice| notice["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [500, 500, 204]);
    let got = received.lock().unwrap().clone();
    assert!(got.iter().all(|(headers, body)| verified(headers, body, &public_key(keys::WECHATPAY_PUBLIC_KEY))));

    world.prepay("order-2", NOWHERE).await;
    let unreachable = world.control("/pay", json!({ "outTradeNo": "order-2" })).await.json();
    assert_eq!(unreachable["noticeStatus"], Value::Null);
    assert!(unreachable["notices"][0]["error"].is_string());
}

#[tokio::test]
async fn the_payer_checks_pay_sign() {
    let world = World::new().await;
    let id = world.prepay("order-1", NOWHERE).await;
    let message = format!("{}\n1\nn\nprepay_id={id}\n", keys::APPID);
    let mut payment = json!({ "timeStamp": "1", "nonceStr": "n", "package": format!("prepay_id={id}"), "signType": "RSA", "paySign": rsa_sign(keys::WRONG_PRIVATE_KEY, &message) });
    world.control("/pay", json!({ "payment": payment })).await.refused(400, "PAY_SIGN_INVALID");
    payment["paySign"] = json!(rsa_sign(keys::MERCHANT_PRIVATE_KEY, &message));
    let paid = world.control("/pay", json!({ "payment": payment, "notify": "none", "amountFen": 1 })).await.json();
    assert_eq!(paid["success"], true);
    let view = world.get("/v3/pay/transactions/out-trade-no/order-1?mchid=1900000001").await.good().json();
    assert_eq!(view["amount"]["total"], 1, "the ledger follows amountFen");
}

#[tokio::test]
async fn the_newest_attempt_of_an_order_is_paid() {
    let world = World::new().await;
    world.prepay("order-1", NOWHERE).await;
    world.prepay("order-1_2", NOWHERE).await;
    let paid = world.control("/pay", json!({ "orderId": "order-1", "notify": "none" })).await.json();
    assert_eq!(paid["outTradeNo"], "order-1_2");
    let orders = world.look("/orders?orderId=order-1").await;
    assert_eq!(
        (&orders["orders"][0]["tradeState"], &orders["orders"][1]["tradeState"]),
        (&json!("SUCCESS"), &json!("NOTPAY"))
    );
}

fn state_file(folder: &Path) -> PathBuf {
    folder.join("deep").join("simulators.jsonl")
}

#[tokio::test]
async fn a_restarted_upstream_remembers() {
    let folder = tempfile::tempdir().unwrap();
    let first = World::with(|config| config.state_file = Some(state_file(folder.path()))).await;
    let token = first.stable_token(false).await["access_token"].clone();
    for number in ["order-1", "order-2", "order-3"] {
        first.prepay(number, NOWHERE).await;
    }
    let paid = first.control("/pay", json!({ "orderId": "order-1", "notify": "none" })).await.json();
    first.post("/v3/refund/domestic/refunds", &refund("order-1", "r-1", 5, NOWHERE)).await.good();
    first.post("/v3/pay/transactions/out-trade-no/order-2/close", &json!({ "mchid": keys::MCHID })).await.good();
    first.control("/subscribe", json!({ "openId": "o-alice", "templateId": "t", "count": 2 })).await;
    let login = format!(
        "/sns/jscode2session?appid={}&secret={}&js_code=once-a&grant_type=authorization_code",
        keys::APPID,
        keys::APP_SECRET
    );
    assert_eq!(first.wechat_get(&login).await["openid"], "o-a");
    let path = format!("/cgi-bin/message/subscribe/send?access_token={}", token.as_str().unwrap());
    let message = json!({ "touser": "o-alice", "template_id": "t", "data": { "thing1": { "value": "好" } } });
    assert_eq!(first.wechat_post(&path, &message).await["errcode"], 0);

    // A kill in mid-write leaves half a line behind.
    use std::io::Write as _;
    let mut file = std::fs::OpenOptions::new().append(true).open(state_file(folder.path())).unwrap();
    file.write_all(b"{\"order\":{\"sequ").unwrap();

    for _ in 0..2 {
        let second = World::with(|config| config.state_file = Some(state_file(folder.path()))).await;
        let transaction = paid["transactionId"].as_str().unwrap();
        let view =
            second.get(&format!("/v3/pay/transactions/id/{transaction}?mchid={}", keys::MCHID)).await.good().json();
        assert_eq!(view["trade_state"], "REFUND");
        assert_eq!(second.trade_state("order-2").await, "CLOSED");
        assert_eq!(second.trade_state("order-3").await, "NOTPAY");
        second.post("/v3/refund/domestic/refunds", &refund("order-1", "r-1", 5, NOWHERE)).await.good();
        second.prepay("order-3", NOWHERE).await;
        assert_eq!(second.stable_token(false).await["access_token"], token);
        assert_eq!(second.wechat_get(&login).await["errcode"], 40163);
        assert_eq!(second.look("/messages?openId=o-alice").await["messages"].as_array().unwrap().len(), 1);
        assert_eq!(second.sim.state().quota("o-alice", "t"), Some(1));
        assert!(!state_file(folder.path()).with_extension("jsonl.tmp").exists());
    }
}

#[tokio::test]
async fn a_growing_journal_is_rewritten() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::with(|config| config.state_file = Some(state_file(folder.path()))).await;
    world.prepay("order-1", NOWHERE).await;
    for count in 0..2_000 {
        world.sim.subscribe(&crate::Subscribe { open_id: "o-alice".to_owned(), template_id: "t".to_owned(), count });
    }
    let lines = std::fs::read_to_string(state_file(folder.path())).unwrap().lines().count();
    assert!(lines < 1_200, "{lines}");
}

#[test]
fn a_foreign_state_file_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other");
    std::fs::write(&path, "not ours\nat all\n").unwrap();
    let mut config = SimConfig::new(|| DateTime::<Utc>::UNIX_EPOCH);
    config.state_file = Some(path.clone());
    assert!(Sim::new(config).is_err());
    assert_eq!(std::fs::read_to_string(path).unwrap(), "not ours\nat all\n");
}

#[tokio::test]
async fn faults_fail_the_next_requests_and_no_more() {
    let world = World::new().await;
    let query = "/v3/pay/transactions/out-trade-no/order-1?mchid=1900000001";
    world.prepay("order-1", NOWHERE).await;
    let fault = |mode: &str| json!({ "target": "wxpay", "mode": mode, "count": 1, "ms": 20 });

    for mode in ["timeout", "reset"] {
        world.control("/faults", fault(mode)).await;
        assert!(world.try_make(Made::new("GET", query, "")).await.is_err(), "{mode}");
    }
    world.control("/faults", json!({ "target": "wxpay", "mode": "500", "count": 2 })).await;
    world.get(query).await.refused(500, "SYSTEM_ERROR");
    world.get(query).await.refused(500, "SYSTEM_ERROR");
    world.get(query).await.good();
    world.control("/faults", fault("429")).await;
    world.get(query).await.refused(429, "FREQUENCY_LIMITED");
    world
        .control("/faults", json!({ "target": "wxpay", "mode": "errcode", "errcode": "RULE_LIMIT", "count": 1 }))
        .await;
    world.get(query).await.refused(403, "RULE_LIMIT");

    world.control("/faults", fault("badSignature")).await;
    let got = world.get(query).await;
    assert_eq!((got.status, got.header("wechatpay-serial")), (200, keys::WECHATPAY_PUBLIC_KEY_ID));
    assert!(!verified(&got.headers, got.body.as_bytes(), &public_key(keys::WECHATPAY_PUBLIC_KEY)));

    let body = prepay("order-2", NOWHERE).to_string();
    world.control("/faults", fault("dropAfterCommit")).await;
    assert!(world.try_make(Made::new("POST", "/v3/pay/transactions/jsapi", &body)).await.is_err());
    assert_eq!(world.trade_state("order-2").await, "NOTPAY", "it was created all the same");

    world.control("/faults", json!({ "target": "wxpay", "mode": "slow", "ms": 100 })).await;
    let (result, created) = tokio::join!(world.prepay("order-3", NOWHERE), async {
        // The effect comes first, so that a client that gave up finds it.
        while world.sim.orders("order-3").is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        true
    });
    assert!(created && result.starts_with("wx"));

    // Only matching paths count.
    world.control("/faults", json!({ "target": "wxpay", "path": "/close", "mode": "500" })).await;
    world.get(query).await.good();
    world
        .post("/v3/pay/transactions/out-trade-no/order-1/close", &json!({ "mchid": keys::MCHID }))
        .await
        .refused(500, "SYSTEM_ERROR");
    assert_eq!(world.trade_state("order-1").await, "NOTPAY");
    world.control("/faults", json!({ "target": "wxpay", "path": "/sim/wxpay/v3/certificates", "mode": "500" })).await;
    world.get(query).await.good();
    world.get("/v3/certificates").await.refused(500, "SYSTEM_ERROR");
    world.control("/faults", json!({ "target": "wxpay", "mode": "500", "count": 9 })).await;
    world.control("/faults", json!({ "target": "wxpay", "mode": "500", "count": 0 })).await;
    assert_eq!(world.look("/faults").await["faults"], json!([]));

    world.control("/faults", json!({ "target": "wechat", "mode": "errcode", "errcode": -1 })).await;
    assert_eq!(world.stable_token(false).await["errcode"], -1);
    assert!(world.stable_token(false).await["access_token"].is_string());
    for wrong in [
        json!({ "target": "wechat", "mode": "badSignature" }),
        json!({ "target": "wechat", "mode": "errcode", "errcode": "X" }),
        json!({ "target": "wxpay", "mode": "errcode" }),
        json!({ "target": "nobody", "mode": "500" }),
    ] {
        world.control("/faults", wrong).await.refused(400, "INVALID_ARGUMENT");
    }
}

#[tokio::test]
async fn a_host_may_add_its_own_steering_beside_ours() {
    let world = World::new().await;
    let own = axum::routing::post(|| async { "own" });
    let own = Router::new().route("/clock", own);
    let base = serve(Router::new().nest("/sim/control", own).nest("/sim", world.sim.router())).await;
    let post = async |path: &str| world.http.post(format!("{base}{path}")).send().await.unwrap().text().await.unwrap();
    assert_eq!(post("/sim/control/clock").await, "own");
    assert!(post("/sim/control/nothing").await.contains("NOT_FOUND"));
    assert!(post("/sim/control/tokens/revoke").await.contains("true"));
}

#[tokio::test]
async fn login_codes_become_open_ids() {
    let world = World::new().await;
    let login = |code: &str| {
        format!(
            "/sns/jscode2session?appid={}&secret={}&js_code={code}&grant_type=authorization_code",
            keys::APPID,
            keys::APP_SECRET
        )
    };
    for _ in 0..2 {
        let session = world.wechat_get(&login("dev-alice")).await;
        assert_eq!((&session["openid"], &session["unionid"]), (&json!("o-alice"), &json!("u-alice")));
        assert_eq!(STANDARD.decode(session["session_key"].as_str().unwrap()).unwrap().len(), 16);
        assert!(session.get("errcode").is_none());
    }
    assert_eq!(world.wechat_get(&login("once-bob")).await["openid"], "o-bob");
    assert_eq!(world.wechat_get(&login("once-bob")).await["errcode"], 40163);
    for (code, errcode) in [("wrong", 40029), ("dev-", 40029), ("dev-a%20b", 40029), ("", 41008)] {
        assert_eq!(world.wechat_get(&login(code)).await["errcode"], errcode, "{code}");
    }
    assert_eq!(world.wechat_get(&login("dev-a").replace(keys::APPID, "wx1")).await["errcode"], 40013);
    assert_eq!(world.wechat_get(&login("dev-a").replace(keys::APP_SECRET, "x")).await["errcode"], 40125);
    assert_eq!(world.wechat_get(&login("dev-a").replace("authorization_code", "x")).await["errcode"], 40002);
}

#[tokio::test]
async fn a_stable_token_is_stable_and_the_old_one_overlaps() {
    let world = World::new().await;
    let phone = async |token: &Value| {
        let path = format!("/wxa/business/getuserphonenumber?access_token={}", token.as_str().unwrap());
        world.wechat_post(&path, &json!({ "code": "phone-13900000001" })).await
    };
    let first = world.stable_token(false).await;
    assert_eq!(first["expires_in"], 7200);
    world.clock.advance(TimeDelta::seconds(6_000));
    let same = world.stable_token(false).await;
    assert_eq!((&same["access_token"], &same["expires_in"]), (&first["access_token"], &json!(1200)));
    let number = phone(&first["access_token"]).await;
    assert_eq!(
        (&number["phone_info"]["purePhoneNumber"], &number["phone_info"]["watermark"]["appid"]),
        (&json!("13900000001"), &json!(keys::APPID))
    );

    world.clock.advance(TimeDelta::seconds(1_000));
    let renewed = world.stable_token(false).await;
    assert_ne!(renewed["access_token"], first["access_token"]);
    assert_eq!(phone(&first["access_token"]).await["errcode"], 0, "both are valid for a while");
    world.clock.advance(TimeDelta::seconds(201));
    assert_eq!(phone(&first["access_token"]).await["errcode"], 42001);

    let forced = world.stable_token(true).await;
    assert_ne!(forced["access_token"], renewed["access_token"]);
    assert_eq!(phone(&renewed["access_token"]).await["errcode"], 40001);
    assert_eq!(world.stable_token(true).await["errcode"], 45011);
    assert_eq!(phone(&json!("nonsense")).await["errcode"], 40001);

    let old = format!("/cgi-bin/token?grant_type=client_credential&appid={}&secret={}", keys::APPID, keys::APP_SECRET);
    let legacy = world.wechat_get(&old).await;
    assert_ne!(world.wechat_get(&old).await["access_token"], legacy["access_token"]);
    assert_eq!(phone(&legacy["access_token"]).await["errcode"], 0);
    assert_eq!(phone(&forced["access_token"]).await["errcode"], 0, "the two kinds are isolated");
    world.clock.advance(TimeDelta::seconds(300));
    assert_eq!(phone(&legacy["access_token"]).await["errcode"], 42001);

    assert_eq!(world.control("/tokens/revoke", json!({})).await.status, 200);
    assert_eq!(phone(&forced["access_token"]).await["errcode"], 40001);
    assert_ne!(world.stable_token(false).await["access_token"], forced["access_token"]);
    assert_eq!(world.wechat_post("/wxa/business/getuserphonenumber", &json!({})).await["errcode"], 41001);
    let form = world
        .http
        .post(format!("{}/sim/wechat/cgi-bin/stable_token", world.base))
        .body("grant_type=client_credential")
        .send()
        .await
        .unwrap();
    assert!(form.text().await.unwrap().contains("47001"));
}

#[tokio::test]
async fn subscribe_messages_are_checked_counted_and_kept() {
    let world = World::new().await;
    let token = world.stable_token(false).await["access_token"].as_str().unwrap().to_owned();
    let path = format!("/cgi-bin/message/subscribe/send?access_token={token}");
    let message = |key: &str, value: &str| json!({ "touser": "o-alice", "template_id": "t", "page": "pages/a", "data": { key: { "value": value } }, "miniprogram_state": "formal", "lang": "zh_CN" });
    let cases = [
        ("thing1", "二十个汉字二十个汉字二十个汉字二十个汉字", 0),
        ("thing1", "二十一个汉字二十一个汉字二十一个汉字二十一", 47003),
        ("thing1", "", 47003),
        ("thing1", "a\u{7}", 47003),
        ("thing", "a", 47003),
        ("what1", "a", 47003),
        ("number2", "12.50", 0),
        ("number2", "十", 47003),
        ("character_string3", "ORDER-20261121", 0),
        ("character_string3", "订单", 47003),
        ("time4", "2026年11月21日 10:00", 0),
        ("date5", "2026-11-21", 0),
        ("amount6", "￥12.34元", 0),
        ("amount6", "12345678901", 47003),
        ("phrase7", "已发货", 0),
        ("phrase7", "shipped", 47003),
        ("phrase7", "已发货并签收", 47003),
        ("name8", "李小明", 0),
        ("name8", "李小明Ming", 0),
        ("name8", "abcdefghijklmnopqrst", 0),
        ("name8", "abcdefghijklmnopqrstu", 47003),
        ("name8", "李小明2", 47003),
        ("name8", "一二三四五六七八九十一", 47003),
        ("thing1", "👨‍👩‍👧👨‍👩‍👧", 0),
        ("thing1", "👨‍👩‍👧👨‍👩‍👧👨‍👩‍👧", 47003),
        ("number2", "-5", 47003),
        ("number2", "1.2.3", 47003),
        ("number2", "5.", 47003),
        ("number2", "123456789012345678901234567890123", 47003),
        ("letter9", "abc", 0),
        ("letter9", "abc1", 47003),
        ("symbol9", "!?", 0),
        ("symbol9", "a", 47003),
        ("symbol9", "!!!!!!", 47003),
        ("time4", "10:00", 0),
        ("time4", "2026年11月21日 10:00~2026年11月22日 11:00", 0),
        ("time4", "25:00", 47003),
        ("time4", "2026年11月21日", 47003),
        ("time4", "10:00~11:00~12:00", 47003),
        ("date5", "2026年11月21日 10:00", 0),
        ("date5", "2026年2月30日", 47003),
        ("date5", "11月21日", 47003),
        ("amount6", "1,234", 47003),
        ("amount6", "￥￥1", 47003),
        ("phone_number9", "+86-0766-66888866", 0),
        ("phone_number9", "138****0001", 47003),
        ("phone_number9", "--", 47003),
        ("car_number9", "粤A8Z888挂", 0),
        ("car_number9", "粤A8挂88", 47003),
        ("enum9", "任意", 0),
        ("const9", "任意", 0),
    ];
    let mut accepted = 0;
    for (key, value, errcode) in cases {
        let reply = world.wechat_post(&path, &message(key, value)).await;
        assert_eq!(reply["errcode"], errcode, "{key} {value:?}: {reply}");
        accepted += usize::from(errcode == 0);
    }
    let kept = world.look("/messages?openId=o-alice").await;
    assert_eq!(kept["messages"].as_array().unwrap().len(), accepted);
    assert_eq!(
        (&kept["messages"][1]["templateId"], &kept["messages"][1]["data"]["number2"]["value"]),
        (&json!("t"), &json!("12.50"))
    );
    assert_eq!(world.look("/messages?openId=o-bob").await["messages"], json!([]));

    // Once granted, a pair is counted.
    world.control("/subscribe", json!({ "openId": "o-alice", "templateId": "t", "count": 1 })).await;
    assert_eq!(world.wechat_post(&path, &message("thing1", "好")).await["errcode"], 0);
    assert_eq!(world.wechat_post(&path, &message("thing1", "好")).await["errcode"], 43101);

    let strict = World::with(|config| config.strict_quota = true).await;
    let token = strict.stable_token(false).await["access_token"].as_str().unwrap().to_owned();
    let path = format!("/cgi-bin/message/subscribe/send?access_token={token}");
    assert_eq!(strict.wechat_post(&path, &message("thing1", "好")).await["errcode"], 43101);
    strict.control("/subscribe", json!({ "openId": "o-alice", "templateId": "t", "count": 1 })).await;
    assert_eq!(strict.wechat_post(&path, &message("thing1", "好")).await["errcode"], 0);
}
