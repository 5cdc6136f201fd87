//! WeChat Pay APIv3 as a strict peer: request signatures over the exact bytes, signed 2xx replies, unsigned errors.
//!
//! The URL a client signs must be the one on the request line. Mounted under a prefix (`/sim/wxpay/v3/…`), official clients
//! differ in whether a base URL's path is part of what they sign, so both the whole path and the path from `/v3` are accepted.

mod bills;
mod refunds;
mod transactions;

use std::borrow::Cow;
use std::collections::HashMap;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{OriginalUri, Request, State};
use axum::response::Response;
use axum::routing::any;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::crypto::{Signer, encrypt, random_hex};
use crate::faults::{FaultMode, Target, afterwards, cut};
use crate::{Error, Sim, beijing, keys};

pub(crate) use refunds::{notice_plaintext as refund_plaintext, trade_number};
pub(crate) use transactions::view as transaction_view;

const BODY_MAX: usize = 256 * 1024;
const SCHEME: &str = "WECHATPAY2-SHA256-RSA2048";
const SKEW_SECONDS_MAX: i64 = 300;

pub(crate) fn router(sim: Sim) -> Router {
    // One handler instead of routes: what is checked first (path, user agent, signature, body) is part of the simulation.
    Router::new().route("/{*path}", any(entry)).with_state(sim)
}

/// A refusal as APIv3 writes it.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    code: Cow<'static, str>,
    message: String,
    detail: Option<Value>,
}

impl Refusal {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code: Cow::Borrowed(code), message: message.into(), detail: None }
    }

    fn param(field: &str, issue: impl Into<String>) -> Self {
        let issue = issue.into();
        let mut refusal = Self::new(StatusCode::BAD_REQUEST, "PARAM_ERROR", format!("{field}: {issue}"));
        refusal.detail = Some(json!({ "field": field, "issue": issue, "location": "body" }));
        refusal
    }

    fn sign(issue: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "SIGN_ERROR", issue)
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        tracing::error!(error = %error, "the simulator itself failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "SYSTEM_ERROR", error.to_string())
    }
}

/// A good answer: 200 with JSON, 204 with nothing, or a file, which alone is not signed.
enum Answer {
    Json(Value),
    Empty,
    File(Vec<u8>),
}

/// A known method and path. Numbers are percent-decoded.
#[derive(Debug, PartialEq, Eq)]
enum Route {
    Prepay,
    ByOutTradeNo(String),
    ByTransaction(String),
    Close(String),
    RefundCreate,
    RefundQuery(String),
    Certificates,
    TradeBill,
    Download,
}

impl Route {
    /// The status of an unknown path (404) or method (405); both answer with an empty body.
    fn find(method: &Method, path: &str) -> Result<Self, StatusCode> {
        let parts: Vec<String> =
            path.split('/').skip(1).map(|part| percent_decode_str(part).decode_utf8_lossy().into_owned()).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let (expected, route) = match parts.as_slice() {
            ["v3", "pay", "transactions", "jsapi"] => (Method::POST, Self::Prepay),
            ["v3", "pay", "transactions", "out-trade-no", number] if !number.is_empty() => {
                (Method::GET, Self::ByOutTradeNo((*number).to_owned()))
            }
            ["v3", "pay", "transactions", "out-trade-no", number, "close"] if !number.is_empty() => {
                (Method::POST, Self::Close((*number).to_owned()))
            }
            ["v3", "pay", "transactions", "id", number] if !number.is_empty() => {
                (Method::GET, Self::ByTransaction((*number).to_owned()))
            }
            ["v3", "refund", "domestic", "refunds"] => (Method::POST, Self::RefundCreate),
            ["v3", "refund", "domestic", "refunds", number] if !number.is_empty() => {
                (Method::GET, Self::RefundQuery((*number).to_owned()))
            }
            ["v3", "certificates"] => (Method::GET, Self::Certificates),
            ["v3", "bill", "tradebill"] => (Method::GET, Self::TradeBill),
            ["v3", "billdownload", "file"] => (Method::GET, Self::Download),
            _ => return Err(StatusCode::NOT_FOUND),
        };
        if *method == expected { Ok(route) } else { Err(StatusCode::METHOD_NOT_ALLOWED) }
    }

    fn needs_user_agent(&self) -> bool {
        matches!(self, Self::RefundCreate | Self::RefundQuery(_) | Self::Certificates)
    }
}

/// Everything of a request that is signed or checked.
struct Call<'a> {
    method: &'a Method,
    /// Path and query as on the request line.
    original: &'a str,
    /// The same without the prefix the simulator is mounted under.
    inner: &'a str,
    headers: &'a HeaderMap,
    body: &'a [u8],
}

async fn entry(State(sim): State<Sim>, OriginalUri(original): OriginalUri, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let fault = sim.take_fault(Target::Wxpay, parts.uri.path());
    if let Some(fault) = &fault {
        match fault.mode {
            FaultMode::Timeout => {
                tokio::time::sleep(fault.delay(30_000)).await;
                return cut();
            }
            FaultMode::Reset => return cut(),
            FaultMode::ServerError => {
                return refuse(&Refusal::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "SYSTEM_ERROR",
                    "系统异常，请稍后重试 (injected)",
                ));
            }
            FaultMode::TooMany => {
                return refuse(&Refusal::new(
                    StatusCode::TOO_MANY_REQUESTS,
                    "FREQUENCY_LIMITED",
                    "频率超限 (injected)",
                ));
            }
            FaultMode::Errcode => return refuse(&injected(fault.errcode.as_ref())),
            FaultMode::BadSignature | FaultMode::DropAfterCommit | FaultMode::Silence | FaultMode::Slow => {}
        }
    }
    let Ok(body) = to_bytes(body, BODY_MAX).await else { return empty(StatusCode::PAYLOAD_TOO_LARGE) };
    let call = Call {
        method: &parts.method,
        original: path_and_query(&original),
        inner: path_and_query(&parts.uri),
        headers: &parts.headers,
        body: &body,
    };
    let response = match Route::find(&parts.method, parts.uri.path()) {
        Err(status) => empty(status),
        Ok(route) => {
            let wrong_key = fault.as_ref().is_some_and(|fault| fault.mode == FaultMode::BadSignature);
            let answered = answer(&sim, &route, &parts.uri, &call).and_then(|(answer, signer)| {
                let signer = if wrong_key { Signer::Wrong } else { signer };
                match answer {
                    Answer::File(bytes) => Ok(file(bytes, wrong_key)),
                    answer => Ok(signed(&sim, &answer, signer)?),
                }
            });
            answered.unwrap_or_else(|refusal| {
                tracing::debug!(status = refusal.status.as_u16(), code = %refusal.code, path = parts.uri.path(), "refused");
                refuse(&refusal)
            })
        }
    };
    afterwards(fault.as_ref(), response).await
}

fn answer(sim: &Sim, route: &Route, uri: &Uri, call: &Call<'_>) -> Result<(Answer, Signer), Refusal> {
    let now = sim.now();
    let missing = |name: &str| header(call.headers, name).is_none_or(str::is_empty);
    if route.needs_user_agent() && (missing(USER_AGENT.as_str()) || missing(ACCEPT.as_str())) {
        return Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "INVALID_REQUEST",
            "Http头缺少Accept或User-Agent: this interface requires both",
        ));
    }
    authenticate(sim, call, now)?;
    let signer = match header(call.headers, "wechatpay-serial") {
        None | Some(keys::PLATFORM_SERIAL) => Signer::Certificate,
        Some(keys::WECHATPAY_PUBLIC_KEY_ID) => Signer::PublicKey,
        Some(other) => {
            return Err(Refusal::new(
                StatusCode::BAD_REQUEST,
                "PARAM_ERROR",
                format!(
                    "Wechatpay-Serial {other:?} is neither this merchant's public key id nor a platform certificate"
                ),
            ));
        }
    };
    // A merchant without platform certificates gets the public key's signature whatever it asks for.
    let signer = if sim.config().public_key_only { Signer::PublicKey } else { signer };
    if !call.body.is_empty()
        && !header(call.headers, CONTENT_TYPE.as_str()).is_some_and(|value| value.starts_with("application/json"))
    {
        return Err(Refusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "INVALID_REQUEST",
            "a body needs Content-Type: application/json",
        ));
    }
    let answer = match route {
        Route::Prepay => transactions::prepay(sim, call.body, now)?,
        Route::ByOutTradeNo(number) => transactions::by_out_trade_no(sim, number, uri, now)?,
        Route::ByTransaction(number) => transactions::by_transaction(sim, number, uri, now)?,
        Route::Close(number) => transactions::close(sim, number, call.body, now)?,
        Route::RefundCreate => refunds::create(sim, call.body, now)?,
        Route::RefundQuery(number) => refunds::query(sim, number, now)?,
        Route::Certificates => certificates(sim)?,
        Route::TradeBill => bills::trade(sim, uri, call, now)?,
        Route::Download => bills::download(sim, uri, now)?,
    };
    Ok((answer, signer))
}

struct Authorization<'a> {
    nonce: &'a str,
    timestamp: &'a str,
    signature: &'a str,
}

fn parse_authorization(value: &str) -> Result<Authorization<'_>, Refusal> {
    let rest = value
        .strip_prefix(SCHEME)
        .and_then(|rest| rest.strip_prefix(' '))
        .ok_or_else(|| Refusal::sign(format!("Authorization must begin with \"{SCHEME} \" and one space")))?;
    let mut fields = HashMap::new();
    for part in rest.split(',') {
        let (name, quoted) = part
            .split_once('=')
            .ok_or_else(|| Refusal::sign(format!("Authorization: {part:?} is not name=\"value\"")))?;
        let inner = quoted.strip_prefix('"').and_then(|quoted| quoted.strip_suffix('"')).ok_or_else(|| {
            Refusal::sign(format!("Authorization: the value of {name:?} must stand in double quotes"))
        })?;
        if !["mchid", "nonce_str", "signature", "timestamp", "serial_no"].contains(&name) {
            return Err(Refusal::sign(format!("Authorization: unknown field {name:?} (no space after the comma)")));
        }
        if fields.insert(name, inner).is_some() {
            return Err(Refusal::sign(format!("Authorization: {name:?} appears twice")));
        }
    }
    let field = |name: &str| {
        fields
            .get(name)
            .copied()
            .filter(|value| !value.is_empty())
            .ok_or_else(|| Refusal::sign(format!("Authorization: {name:?} is missing")))
    };
    let mchid = field("mchid")?;
    if mchid != keys::MCHID {
        return Err(Refusal::sign(format!(
            "Authorization: mchid {mchid:?} is not a merchant here; expected {:?}",
            keys::MCHID
        )));
    }
    let serial = field("serial_no")?;
    if !serial.eq_ignore_ascii_case(keys::MERCHANT_SERIAL) {
        let hint = if serial == keys::WECHATPAY_PUBLIC_KEY_ID || serial == keys::PLATFORM_SERIAL {
            " (that is WeChat Pay's serial; serial_no is the merchant certificate's)"
        } else {
            ""
        };
        return Err(Refusal::sign(format!(
            "商户证书序列号有误: serial_no {serial:?}, expected {:?}{hint}",
            keys::MERCHANT_SERIAL
        )));
    }
    let nonce = field("nonce_str")?;
    if nonce.chars().count() > 32 {
        return Err(Refusal::sign("Authorization: nonce_str is longer than 32 characters"));
    }
    Ok(Authorization { nonce, timestamp: field("timestamp")?, signature: field("signature")? })
}

fn authenticate(sim: &Sim, call: &Call<'_>, now: DateTime<Utc>) -> Result<(), Refusal> {
    let value = call
        .headers
        .get(AUTHORIZATION)
        .ok_or_else(|| Refusal::sign("Http头Authorization值格式错误: the header is missing"))?;
    let value = value.to_str().map_err(|_| Refusal::sign("Authorization is not ASCII"))?;
    let authorization = parse_authorization(value)?;
    let timestamp: i64 =
        authorization.timestamp.parse().map_err(|_| Refusal::sign("Authorization: timestamp must be whole seconds"))?;
    let skew = now.timestamp().saturating_sub(timestamp);
    if skew.saturating_abs() > SKEW_SECONDS_MAX {
        return Err(Refusal::sign(format!(
            "Http头Authorization中的timestamp与发起请求的时间不得超过5分钟: timestamp {timestamp}, server {}",
            now.timestamp()
        )));
    }
    let signature = STANDARD
        .decode(authorization.signature)
        .map_err(|_| Refusal::sign("Authorization: signature is not standard base64 without line breaks"))?;
    let message = |url: &str| message(call.method.as_str(), url, &authorization, call.body);
    let candidates = [call.original, call.inner];
    if candidates.iter().any(|url| sim.keyring().merchant_signed(&message(url), &signature)) {
        return Ok(());
    }
    let expected = String::from_utf8_lossy(&message(call.original)).into_owned();
    let reason = diagnose(sim, call, &authorization, &signature);
    let mut refusal = Refusal::sign(format!(
        "错误的签名，验签失败: {reason}. The signed message should be {expected:?} (or with the path {:?})",
        call.inner
    ));
    refusal.detail = Some(json!({
        "field": "signature",
        "issue": "sign not match",
        "location": "authorization",
        "sign_information": {
            "method": call.method.as_str(),
            "url": call.original,
            "truncated_sign_message": expected,
            "sign_message_length": expected.len(),
        },
    }));
    Err(refusal)
}

fn message(method: &str, url: &str, authorization: &Authorization<'_>, body: &[u8]) -> Vec<u8> {
    let mut message = format!("{method}\n{url}\n{}\n{}\n", authorization.timestamp, authorization.nonce).into_bytes();
    message.extend_from_slice(body);
    message.push(b'\n');
    message
}

/// Tries the usual mistakes, so that the refusal can name the one that was made.
fn diagnose(sim: &Sim, call: &Call<'_>, authorization: &Authorization<'_>, signature: &[u8]) -> &'static str {
    let method = call.method.as_str();
    let matches = |message: &[u8]| sim.keyring().merchant_signed(message, signature);
    for url in [call.original, call.inner] {
        let full = message(method, url, authorization, call.body);
        if full.strip_suffix(b"\n").is_some_and(&matches) {
            return "the last line feed is missing from what was signed";
        }
        if let Some((path, _)) = url.split_once('?')
            && matches(&message(method, path, authorization, call.body))
        {
            return "the query string was left out of what was signed";
        }
        if matches(&message(&method.to_lowercase(), url, authorization, call.body)) {
            return "the method must be signed in upper case";
        }
        if let Some(host) = header(call.headers, "host")
            && ["http", "https"]
                .iter()
                .any(|scheme| matches(&message(method, &format!("{scheme}://{host}{url}"), authorization, call.body)))
        {
            return "scheme and host are not part of the signed URL";
        }
        let decoded = percent_decode_str(url).decode_utf8_lossy();
        if decoded != url && matches(&message(method, &decoded, authorization, call.body)) {
            return "the URL was signed before percent-encoding";
        }
        let swapped = Authorization {
            nonce: authorization.timestamp,
            timestamp: authorization.nonce,
            signature: authorization.signature,
        };
        if matches(&message(method, url, &swapped, call.body)) {
            return "timestamp and nonce were signed in the wrong order";
        }
        if call.body.is_empty() {
            if matches(&message(method, url, authorization, b"{}")) {
                return "a body was signed, but none was sent";
            }
        } else if matches(&message(method, url, authorization, b"")) {
            return "the body was left out of what was signed";
        } else if let Ok(value) = serde_json::from_slice::<Value>(call.body)
            && (matches(&message(method, url, authorization, value.to_string().as_bytes()))
                || serde_json::to_vec_pretty(&value)
                    .is_ok_and(|body| matches(&message(method, url, authorization, &body))))
        {
            return "another serialisation of the body was signed: sign the very bytes that are sent";
        }
    }
    "the signature fits no likely variant, so another key signed, or another body, timestamp, nonce or URL was signed than sent"
}

fn certificates(sim: &Sim) -> Result<Answer, Refusal> {
    if sim.config().public_key_only {
        return Err(Refusal::new(
            StatusCode::NOT_FOUND,
            "RESOURCE_NOT_EXISTS",
            "无可用的平台证书，请在商户平台-API安全申请使用微信支付公钥",
        ));
    }
    let nonce = random_hex::<6>();
    Ok(Answer::Json(json!({ "data": [{
        "serial_no": keys::PLATFORM_SERIAL,
        "effective_time": beijing(sim.keyring().platform_not_before),
        "expire_time": beijing(sim.keyring().platform_not_after),
        "encrypt_certificate": {
            "algorithm": "AEAD_AES_256_GCM",
            "nonce": nonce,
            "associated_data": "certificate",
            "ciphertext": encrypt(&nonce, "certificate", keys::PLATFORM_CERTIFICATE.as_bytes())?,
        },
    }] })))
}

/// Reads a JSON body: unknown fields, nulls and wrong types are `PARAM_ERROR`, as nothing else would tell the developer.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    let value: Value =
        serde_json::from_slice(body).map_err(|error| Refusal::param("body", format!("not JSON: {error}")))?;
    if let Some(path) = null_at(&value, String::new()) {
        return Err(Refusal::param(&path, "null; leave unused fields out"));
    }
    serde_json::from_slice(body).map_err(|error| Refusal::param("body", error.to_string()))
}

fn null_at(value: &Value, path: String) -> Option<String> {
    match value {
        Value::Null => Some(path),
        Value::Object(fields) => fields.iter().find_map(|(name, value)| {
            null_at(value, if path.is_empty() { name.clone() } else { format!("{path}.{name}") })
        }),
        Value::Array(items) => {
            items.iter().enumerate().find_map(|(index, value)| null_at(value, format!("{path}[{index}]")))
        }
        Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

/// A text of `min..=max` characters without control characters and, as APIv3 is said to demand, none outside the BMP.
fn text(field: &str, value: &str, min: usize, max: usize) -> Result<(), Refusal> {
    let length = value.chars().count();
    if length < min || length > max {
        return Err(Refusal::param(field, format!("{length} characters, allowed {min}..{max}")));
    }
    match value.chars().find(|character| character.is_control() || u32::from(*character) > 0xFFFF) {
        Some(character) => Err(Refusal::param(field, format!("contains the character {character:?}"))),
        None => Ok(()),
    }
}

/// A merchant's number: `min..=max` digits, letters and `extra`.
fn number(field: &str, value: &str, min: usize, max: usize, extra: &str) -> Result<(), Refusal> {
    text(field, value, min, max)?;
    match value.chars().find(|character| !character.is_ascii_alphanumeric() && !extra.contains(*character)) {
        Some(character) => {
            Err(Refusal::param(field, format!("contains {character:?}; allowed are digits, letters and {extra}")))
        }
        None => Ok(()),
    }
}

/// A notice address: absolute, without query. Plain http passes here, since nothing leaves this machine.
fn notify_url(value: &str, max: usize) -> Result<(), Refusal> {
    text("notify_url", value, 1, max)?;
    let absolute = value.starts_with("http://") || value.starts_with("https://");
    if !absolute || value.contains(['?', '#', ' ']) {
        return Err(Refusal::param("notify_url", "must be an absolute URL without query or fragment"));
    }
    Ok(())
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn path_and_query(uri: &Uri) -> &str {
    uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str)
}

fn injected(code: Option<&Value>) -> Refusal {
    let code = code.and_then(Value::as_str).unwrap_or("SYSTEM_ERROR");
    let status = match code {
        "SIGN_ERROR" => StatusCode::UNAUTHORIZED,
        "NO_AUTH"
        | "RULE_LIMIT"
        | "TRADE_ERROR"
        | "ACCOUNT_ERROR"
        | "OUT_TRADE_NO_USED"
        | "NOT_ENOUGH"
        | "USER_ACCOUNT_ABNORMAL" => StatusCode::FORBIDDEN,
        "ORDER_NOT_EXIST" | "RESOURCE_NOT_EXISTS" => StatusCode::NOT_FOUND,
        "FREQUENCY_LIMITED" | "RATELIMIT_EXCEEDED" => StatusCode::TOO_MANY_REQUESTS,
        "SYSTEM_ERROR" | "BANK_ERROR" => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::BAD_REQUEST,
    };
    Refusal { status, code: Cow::Owned(code.to_owned()), message: "injected".to_owned(), detail: None }
}

fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// Errors carry no signature: the real ones have been seen without any.
fn refuse(refusal: &Refusal) -> Response {
    let mut body = json!({ "code": refusal.code, "message": refusal.message });
    if let (Some(detail), Some(fields)) = (&refusal.detail, body.as_object_mut()) {
        fields.insert("detail".to_owned(), detail.clone());
    }
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = refusal.status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    insert(&mut response, "request-id", &random_hex::<16>());
    response
}

fn signed(sim: &Sim, answer: &Answer, signer: Signer) -> Result<Response, Error> {
    let (status, body) = match answer {
        Answer::Json(value) => (StatusCode::OK, value.to_string()),
        // Files do not come here.
        Answer::Empty | Answer::File(_) => (StatusCode::NO_CONTENT, String::new()),
    };
    let timestamp = sim.now().timestamp().to_string();
    let nonce = random_hex::<16>();
    let signature = sim.keyring().sign(signer, format!("{timestamp}\n{nonce}\n{body}\n").as_bytes())?;
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    if status != StatusCode::NO_CONTENT {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    }
    for (name, value) in [
        ("wechatpay-timestamp", timestamp.as_str()),
        ("wechatpay-nonce", nonce.as_str()),
        ("wechatpay-signature", signature.as_str()),
        ("wechatpay-serial", signer.serial()),
        ("wechatpay-signature-type", SCHEME),
        ("request-id", random_hex::<16>().as_str()),
    ] {
        insert(&mut response, name, value);
    }
    Ok(response)
}

/// A bill: unsigned. What breaks the signature elsewhere changes its last byte but two.
fn file(mut bytes: Vec<u8>, spoilt: bool) -> Response {
    if spoilt && let Some(byte) = bytes.iter_mut().rev().nth(2) {
        *byte ^= 1;
    }
    let mut response = Response::new(Body::from(bytes));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

fn insert(response: &mut Response, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(HeaderName::from_static(name), value);
    }
}
