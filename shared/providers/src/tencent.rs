//! One exchange with Tencent Cloud's API 3.0: sign, send, open the envelope. What a code means is each module's own.
//!
//! HTTP 200 for nearly every failure, then `{"Response":{"Error":{"Code","Message"},"RequestId"}}`. Upstream texts are not kept,
//! for they may repeat personal data; of an answer only its code and request id get into errors.

use std::fmt;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use http::StatusCode;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use reqwest::Url;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use upstream::{Reply, client, exchange};

use crate::tc3::{self, Call};
use crate::{Secret, TransportError};

/// The longest answer read. Real ones are a few hundred bytes.
const ANSWER_MAX_BYTES: usize = 64 * 1024;

/// What the service said, in words that are safe to log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Its code, such as `LimitExceeded.PhoneNumberDailyLimit`.
    pub code: String,
    /// Its id of the request, for their support; `-` when nothing was sent.
    pub request_id: String,
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, request {}", self.code, self.request_id)
    }
}

/// Why there is no endpoint.
pub(crate) enum SetupError {
    Misuse(&'static str),
    Build(domain::BoxError),
}

/// Why there is no answer to judge.
pub(crate) enum CallError {
    /// The request as a whole was refused.
    Said(Said),
    Http(StatusCode),
    Transport(TransportError),
    Malformed(&'static str),
}

/// What of a service never changes.
pub(crate) struct Service {
    /// The product, as it is signed.
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
    /// Where the service has regions.
    pub(crate) region: Option<String>,
}

/// One service under one key.
pub(crate) struct Endpoint {
    http: reqwest::Client,
    url: Url,
    /// The `Host` header, which is signed.
    host: String,
    service: Service,
    secret_id: String,
    secret_key: Secret,
}

/// An answer without an error.
pub(crate) struct Answer<T> {
    pub(crate) request_id: String,
    pub(crate) fields: T,
}

#[derive(Deserialize)]
struct Envelope {
    #[serde(rename = "Response")]
    response: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Head {
    error: Option<ErrorCode>,
    request_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ErrorCode {
    code: String,
}

impl Endpoint {
    /// Check what can be checked; nothing is sent. A path in the address is allowed, for a local simulator; the signature covers
    /// `/` all the same.
    pub(crate) fn new(
        service: Service,
        base_url: &str,
        secret_id: &str,
        secret_key: &Secret,
        timeout: Duration,
    ) -> Result<Self, SetupError> {
        let url = Url::parse(base_url).map_err(|_| SetupError::Misuse("the base URL is not a URL"))?;
        let anonymous = url.username().is_empty() && url.password().is_none();
        let plain = url.query().is_none() && url.fragment().is_none() && anonymous;
        let host = match (url.host_str(), url.port()) {
            (Some(host), None) => host.to_owned(),
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (None, _) => return Err(SetupError::Misuse("the base URL has no host")),
        };
        if !matches!(url.scheme(), "http" | "https") || !plain {
            return Err(SetupError::Misuse("the base URL must be http(s) without query, fragment or user"));
        }
        // Both become parts of headers; the id stands before a slash, in a list.
        let header_text = |text: &str| {
            !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'/' | b','))
        };
        if !header_text(secret_id) || !service.region.as_deref().is_none_or(header_text) {
            return Err(SetupError::Misuse("the secret id and region must be visible ASCII"));
        }
        if secret_key.expose().trim().is_empty() {
            return Err(SetupError::Misuse("the secret key must not be empty"));
        }
        let http = client(timeout, 0).map_err(|error| SetupError::Build(Box::new(error)))?;
        Ok(Self { http, url, host, service, secret_id: secret_id.to_owned(), secret_key: secret_key.clone() })
    }

    /// Sign the payload, send those very bytes once, and read the answer.
    pub(crate) async fn call<T: DeserializeOwned>(
        &self,
        action: &str,
        payload: Vec<u8>,
        now: DateTime<Utc>,
    ) -> Result<Answer<T>, CallError> {
        let service = self.service.name;
        let call = Call { service, host: &self.host, action, payload: &payload };
        let authorization = tc3::authorization(&self.secret_id, &self.secret_key, &call, now);
        let mut request = self
            .http
            .post(self.url.clone())
            .header(HOST, &self.host)
            .header(CONTENT_TYPE, tc3::CONTENT_TYPE)
            .header(AUTHORIZATION, authorization)
            .header("X-TC-Action", action)
            .header("X-TC-Version", self.service.version)
            .header("X-TC-Timestamp", now.timestamp());
        if let Some(region) = &self.service.region {
            request = request.header("X-TC-Region", region);
        }
        let started = Instant::now();
        let reply = exchange(request.body(payload), ANSWER_MAX_BYTES).await;
        let duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let Reply { status, body, .. } = reply.map_err(|error| {
            tracing::debug!(service, action, kind = %error.kind, duration_ms, "Tencent Cloud did not answer");
            CallError::Transport(error)
        })?;
        tracing::debug!(service, action, status = status.as_u16(), duration_ms, "Tencent Cloud answered");
        if !status.is_success() {
            return Err(CallError::Http(status));
        }
        // The parser's messages can quote values, so they are not kept.
        let malformed = |_| CallError::Malformed("not the envelope");
        let Envelope { response } = serde_json::from_slice(&body).map_err(malformed)?;
        let head = Head::deserialize(&response).map_err(malformed)?;
        let request_id = clean(head.request_id.as_deref().unwrap_or_default());
        if let Some(error) = head.error {
            return Err(CallError::Said(Said { code: clean(&error.code), request_id }));
        }
        let fields = serde_json::from_value(response).map_err(malformed)?;
        Ok(Answer { request_id, fields })
    }
}

/// An upstream id or code as it may be logged.
pub(crate) fn clean(text: &str) -> String {
    let known = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    let text: String = text.chars().filter(known).take(100).collect();
    if text.is_empty() { "-".to_owned() } else { text }
}
