//! Tests: published vectors, and both clients against a scripted server on loopback.

mod bill;
mod content;
mod legacy;
mod open;
mod pay;
mod shipping;
mod subscribe;
mod vectors;

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::OriginalUri;
use axum::http::{HeaderMap, Method, Response};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;

use crate::Now;
use crate::crypto::{MerchantKey, PlatformKeys};

/// Published test data; its `note`, `licenses` and `source` fields say where each entry comes from.
fn vectors() -> Value {
    serde_json::from_str(include_str!("../../tests-data/wechatpay.json")).unwrap()
}

fn pem(name: &str) -> String {
    vectors()["keys"][name]["pem"].as_str().unwrap().to_owned()
}

/// Serial of `java-wechat-pay-certificate`, which plays WeChat Pay here.
const PLATFORM_SERIAL: &str = "440024045C4A427599D09BB4E3DE0279F2E813FD";
const PUBLIC_SERIAL: &str = "PUB_KEY_ID_0114232134912410000000000000";
const MERCHANT_SERIAL: &str = "5F1C72E2A8931B72A2E13AF8DEE92471EB397115";

/// The published merchant key.
fn merchant_key() -> MerchantKey {
    MerchantKey::from_pem(MERCHANT_SERIAL, &pem("java-merchant-private-key")).unwrap()
}

/// WeChat Pay's side of the signatures.
fn platform_signer() -> MerchantKey {
    MerchantKey::from_pem(PLATFORM_SERIAL, &pem("java-wechat-pay-private-key")).unwrap()
}

fn public_keys() -> PlatformKeys {
    let keys = PlatformKeys::new();
    keys.add_pem(PUBLIC_SERIAL, &pem("java-wechat-pay-public-key")).unwrap();
    keys
}

/// A clock moved by hand. Starts while the published certificates were valid.
#[derive(Clone)]
struct Clock(Arc<AtomicI64>);

impl Clock {
    fn new() -> Self {
        Self(Arc::new(AtomicI64::new(1_717_200_000)))
    }

    fn time(&self) -> DateTime<Utc> {
        DateTime::from_timestamp(self.0.load(Ordering::SeqCst), 0).unwrap()
    }

    fn advance(&self, by: TimeDelta) {
        self.0.fetch_add(by.num_seconds(), Ordering::SeqCst);
    }

    fn now(&self) -> Now {
        let clock = self.clone();
        Arc::new(move || clock.time())
    }
}

/// A request as the server saw it.
#[derive(Clone, Debug)]
struct Seen {
    method: String,
    /// Path and query as on the request line.
    target: String,
    headers: HeaderMap,
    body: String,
}

#[derive(Clone, Default)]
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: String,
    delay: Duration,
}

impl Answer {
    fn new(status: u16, body: impl Into<String>) -> Self {
        Self { status, body: body.into(), ..Self::default() }
    }

    /// Sign as WeChat Pay does.
    fn signed(self, serial: &str, at: DateTime<Utc>) -> Self {
        let body = self.body.clone();
        self.signed_over(&body, serial, at)
    }

    /// Sign other bytes than those that are sent.
    fn signed_over(mut self, body: &str, serial: &str, at: DateTime<Utc>) -> Self {
        self.headers = signature_headers(body, serial, at);
        self
    }

    fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.retain(|(n, _)| *n != name);
        self.headers.push((name, value.to_owned()));
        self
    }
}

fn signature_headers(body: &str, serial: &str, at: DateTime<Utc>) -> Vec<(&'static str, String)> {
    let timestamp = at.timestamp();
    let nonce = crate::nonce();
    let signature = platform_signer().sign(format!("{timestamp}\n{nonce}\n{body}\n").as_bytes()).unwrap();
    vec![
        ("Wechatpay-Timestamp", timestamp.to_string()),
        ("Wechatpay-Nonce", nonce),
        ("Wechatpay-Signature", signature),
        ("Wechatpay-Serial", serial.to_owned()),
        ("Wechatpay-Signature-Type", "WECHATPAY2-SHA256-RSA2048".to_owned()),
        ("Request-ID", "08A1-268435461".to_owned()),
    ]
}

struct Server {
    url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    /// Answer every request by `script`, which also gets how many came before.
    async fn start(script: impl Fn(&Seen, usize) -> Answer + Send + Sync + 'static) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (script, log) = (Arc::new(script), seen.clone());
        let router = axum::Router::new().fallback(
            move |method: Method, OriginalUri(uri): OriginalUri, headers: HeaderMap, body: Bytes| {
                let (script, log) = (script.clone(), log.clone());
                async move {
                    let request = Seen {
                        method: method.to_string(),
                        target: uri.path_and_query().unwrap().to_string(),
                        headers,
                        body: String::from_utf8(body.to_vec()).unwrap(),
                    };
                    let count = {
                        let mut log = log.lock().unwrap();
                        log.push(request.clone());
                        log.len() - 1
                    };
                    let answer = script(&request, count);
                    tokio::time::sleep(answer.delay).await;
                    let mut response = Response::builder().status(answer.status);
                    for (name, value) in answer.headers {
                        response = response.header(name, value);
                    }
                    response.body(axum::body::Body::from(answer.body)).unwrap()
                }
            },
        );
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, seen }
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    fn count_of(&self, path: &str) -> usize {
        self.seen().iter().filter(|seen| seen.target.split('?').next() == Some(path)).count()
    }
}

/// An address where nobody listens.
async fn closed_port() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// Everything a log would print about an error, by both formats.
fn printed(error: &dyn std::error::Error) -> String {
    let mut text = format!("{error:?}");
    let mut next = Some(error);
    while let Some(error) = next {
        text.push_str(&format!(" | {error}"));
        next = error.source();
    }
    text
}
