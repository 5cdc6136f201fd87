//! What the simulated services of Tencent Cloud share: the strict TC3-HMAC-SHA256 signature, HTTP 200 for every refusal, faults.
//!
//! The path that is signed is `/` wherever a service is mounted, as for every call of the real API. Where the documents are silent
//! this guesses: the code for a credential of another day or service.

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::response::Response;
use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::Sim;
use crate::crypto::random_hex;
use crate::faults::{FaultMode, Target, afterwards, cut};

const BODY_MAX: usize = 256 * 1024;
const ALGORITHM: &str = "TC3-HMAC-SHA256";
const SKEW_SECONDS_MAX: u64 = 300;

/// The one key that a service knows.
pub(crate) struct Credential {
    pub(crate) service: &'static str,
    pub(crate) secret_id: &'static str,
    pub(crate) secret_key: &'static str,
}

/// `Code` and `Message`, of a request or of a number.
#[derive(Debug)]
pub(crate) struct Refusal(pub(crate) String, pub(crate) String);

impl Refusal {
    pub(crate) fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self(code.into(), message.into())
    }

    pub(crate) fn missing(name: &str) -> Self {
        Self::new("MissingParameter", format!("The request is missing a required parameter `{name}`."))
    }

    pub(crate) fn kind(name: &str) -> Self {
        Self::new("InvalidParameter", format!("The value type of parameter `{name}` is not valid."))
    }

    fn authorization(message: impl Into<String>) -> Self {
        Self::new("AuthFailure.InvalidAuthorization", message)
    }

    fn signature(message: impl Into<String>) -> Self {
        Self::new("AuthFailure.SignatureFailure", message)
    }
}

/// Serves one request, with the fault that waits for it. `answer` gives the fields of the answer, and is told the code to refuse
/// with, if one is injected.
pub(crate) async fn serve(
    sim: &Sim,
    target: Target,
    request: Request,
    answer: impl FnOnce(&Parts, &[u8], Option<&str>) -> Result<Value, Refusal>,
) -> Response {
    let (parts, body) = request.into_parts();
    let fault = sim.take_fault(target, parts.uri.path().trim_end_matches('/'));
    let mut injected = None;
    if let Some(fault) = &fault {
        match fault.mode {
            FaultMode::Timeout => {
                tokio::time::sleep(fault.delay(30_000)).await;
                return cut();
            }
            FaultMode::Reset => return cut(),
            FaultMode::ServerError => {
                let mut response = Response::new(Body::from("injected"));
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                return response;
            }
            FaultMode::TooMany => return error(&Refusal::new("RequestLimitExceeded", "injected")),
            FaultMode::Errcode => injected = fault.errcode.as_ref().and_then(Value::as_str),
            FaultMode::BadSignature | FaultMode::DropAfterCommit | FaultMode::Silence | FaultMode::Slow => {}
        }
    }
    let response = match to_bytes(body, BODY_MAX).await {
        Ok(body) => match answer(&parts, &body, injected) {
            Ok(fields) => respond(fields),
            Err(refusal) => {
                tracing::debug!(code = refusal.0, "refused");
                error(&refusal)
            }
        },
        Err(_) => error(&Refusal::new("RequestSizeLimitExceeded", "the body is too long")),
    };
    afterwards(fault.as_ref(), response).await
}

/// A header that is there exactly once.
pub(crate) fn header<'h>(headers: &'h HeaderMap, name: &str) -> Result<&'h str, ()> {
    let mut values = headers.get_all(name).iter();
    match (values.next().and_then(|value| std::str::from_utf8(value.as_bytes()).ok()), values.next()) {
        (Some(value), None) if !value.is_empty() => Ok(value),
        _ => Err(()),
    }
}

/// Checks everything that is signed, and that the body is JSON.
pub(crate) fn verify(own: &Credential, parts: &Parts, body: &[u8], now: DateTime<Utc>) -> Result<(), Refusal> {
    let headers = &parts.headers;
    let timestamp = header(headers, "x-tc-timestamp").map_err(|()| Refusal::missing("Timestamp"))?;
    let seconds: u64 = timestamp.parse().map_err(|_| Refusal::kind("Timestamp"))?;
    let instant = i64::try_from(seconds)
        .ok()
        .and_then(|seconds| DateTime::from_timestamp(seconds, 0))
        .ok_or_else(|| Refusal::kind("Timestamp"))?;

    let given = header(headers, AUTHORIZATION.as_str())
        .map_err(|()| Refusal::authorization("Authorization is missing or comes twice"))?;
    let given = given
        .strip_prefix(ALGORITHM)
        .and_then(|rest| rest.strip_prefix(' '))
        .ok_or_else(|| Refusal::authorization(format!("Authorization must begin with {ALGORITHM}")))?;
    let (mut credential, mut signed, mut signature) = (None, None, None);
    for pair in given.split(", ") {
        let slot = match pair.split_once('=') {
            Some(("Credential", value)) => (&mut credential, value),
            Some(("SignedHeaders", value)) => (&mut signed, value),
            Some(("Signature", value)) => (&mut signature, value),
            _ => return Err(Refusal::authorization("Authorization is Credential=…, SignedHeaders=…, Signature=…")),
        };
        if slot.0.replace(slot.1).is_some() {
            return Err(Refusal::authorization("a part of Authorization comes twice"));
        }
    }
    let (Some(credential), Some(signed), Some(signature)) = (credential, signed, signature) else {
        return Err(Refusal::authorization("a part of Authorization is missing"));
    };
    let [secret_id, date, service, "tc3_request"] = credential.split('/').collect::<Vec<_>>()[..] else {
        return Err(Refusal::authorization("Credential is SecretId/DATE/service/tc3_request"));
    };
    if secret_id != own.secret_id {
        return Err(Refusal::new("AuthFailure.SecretIdNotFound", "no such SecretId"));
    }
    if instant.signed_duration_since(now).num_seconds().unsigned_abs() > SKEW_SECONDS_MAX {
        return Err(Refusal::new("AuthFailure.SignatureExpire", "the timestamp is more than five minutes off"));
    }
    if date != instant.format("%Y-%m-%d").to_string() {
        return Err(Refusal::signature("the credential's date is not the UTC date of the timestamp"));
    }
    if service != own.service {
        return Err(Refusal::signature(format!("the credential's service is not {}", own.service)));
    }

    let names: Vec<&str> = signed.split(';').collect();
    if !names.is_sorted_by(|a, b| a < b) || ["content-type", "host"].iter().any(|must| !names.contains(must)) {
        return Err(Refusal::authorization("SignedHeaders must be sorted, distinct, and name content-type and host"));
    }
    let mut lines = String::new();
    for name in &names {
        let value = header(headers, name)
            .map_err(|()| Refusal::signature(format!("the signed header {name} is missing or comes twice")))?;
        lines.push_str(&format!("{name}:{}\n", value.trim().to_lowercase()));
    }
    let query = parts.uri.query().unwrap_or_default();
    let canonical = format!("POST\n/\n{query}\n{lines}\n{signed}\n{}", sha256(body));
    let scope = format!("{date}/{}/tc3_request", own.service);
    let string = format!("{ALGORITHM}\n{timestamp}\n{scope}\n{}", sha256(canonical.as_bytes()));
    let mut key = format!("TC3{}", own.secret_key).into_bytes();
    for part in [date, own.service, "tc3_request"] {
        key = mac(&key, part)?.finalize().into_bytes().to_vec();
    }
    let decoded = hex::decode(signature).map_err(|_| Refusal::signature("Signature is not hexadecimal"))?;
    if signature.bytes().any(|byte| byte.is_ascii_uppercase()) || mac(&key, &string)?.verify_slice(&decoded).is_err() {
        // What should have been signed is no secret, and nearly always shows the mistake.
        return Err(Refusal::signature(format!("the signature does not match; signed must be {canonical:?}")));
    }

    let json = header(headers, CONTENT_TYPE.as_str())
        .is_ok_and(|value| value.split(';').next().is_some_and(|kind| kind.trim() == "application/json"));
    if json { Ok(()) } else { Err(Refusal::new("InvalidParameter", "Content-Type must be application/json")) }
}

fn mac(key: &[u8], text: &str) -> Result<Hmac<Sha256>, Refusal> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).map_err(|_| Refusal::new("InternalError", "unusable key"))?;
    mac.update(text.as_bytes());
    Ok(mac)
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// A text that may be absent, taken out of the fields.
pub(crate) fn text(fields: &mut Map<String, Value>, name: &str) -> Result<Option<String>, Refusal> {
    match fields.remove(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(Refusal::kind(name)),
    }
}

fn error(refusal: &Refusal) -> Response {
    respond(json!({ "Error": { "Code": refusal.0, "Message": refusal.1 } }))
}

/// HTTP 200 whatever happened.
fn respond(mut answer: Value) -> Response {
    if let Some(fields) = answer.as_object_mut() {
        let id = [random_hex::<4>(), random_hex::<2>(), random_hex::<2>(), random_hex::<2>(), random_hex::<6>()];
        fields.insert("RequestId".to_owned(), json!(id.join("-")));
    }
    let mut response = Response::new(Body::from(json!({ "Response": answer }).to_string()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
