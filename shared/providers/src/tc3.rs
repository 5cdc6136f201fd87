//! TC3-HMAC-SHA256, the signature of Tencent Cloud's API 3.0.
//!
//! Two traps: the credential's date is the UTC one, so code that takes Beijing's fails every day until 08:00; and the three
//! signed headers and the body must arrive exactly as signed.
//! (The gateway verifies a relative of this scheme, which the cloud development SDKs sign with; its canonical form differs.)
//!
//! Source: cloud.tencent.com/document/api/213/30654.

use chrono::{DateTime, Utc};
use ring::{digest, hmac};

use crate::Secret;

const ALGORITHM: &str = "TC3-HMAC-SHA256";

/// The `Content-Type` every [`Call`] is signed with; it must be sent in these very words.
pub const CONTENT_TYPE: &str = "application/json; charset=utf-8";

/// What of a request enters its signature. The method is POST, the path `/` whatever the URL's, the query empty.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    /// The product, such as `sms`: the first label of the real host.
    pub service: &'a str,
    /// The `Host` header as sent, with the port if the URL has an uncommon one.
    pub host: &'a str,
    /// The `X-TC-Action` header as sent.
    pub action: &'a str,
    /// The body, byte for byte.
    pub payload: &'a [u8],
}

/// The `Authorization` header of a call; `now` must be the one whose seconds are sent as `X-TC-Timestamp`.
pub fn authorization(secret_id: &str, secret_key: &Secret, call: &Call<'_>, now: DateTime<Utc>) -> String {
    let headers = [("content-type", CONTENT_TYPE), ("host", call.host), ("x-tc-action", call.action)];
    let canonical = canonical_request("POST", "", &headers, call.payload);
    let scope = scope(now, call.service);
    let key = signing_key(secret_key.expose(), now, call.service);
    let signature = hex::encode(mac(key.as_ref(), &string_to_sign(now, &scope, &canonical)));
    let names = signed_names(&headers);
    format!("{ALGORITHM} Credential={secret_id}/{scope}, SignedHeaders={names}, Signature={signature}")
}

/// `headers` are sorted, their names in lower case.
pub(crate) fn canonical_request(method: &str, query: &str, headers: &[(&str, &str)], payload: &[u8]) -> String {
    let lines: String =
        headers.iter().map(|(name, value)| format!("{name}:{}\n", value.trim().to_lowercase())).collect();
    format!("{method}\n/\n{query}\n{lines}\n{}\n{}", signed_names(headers), sha256(payload))
}

pub(crate) fn string_to_sign(now: DateTime<Utc>, scope: &str, canonical_request: &str) -> String {
    format!("{ALGORITHM}\n{}\n{scope}\n{}", now.timestamp(), sha256(canonical_request.as_bytes()))
}

pub(crate) fn scope(now: DateTime<Utc>, service: &str) -> String {
    format!("{}/{service}/tc3_request", date(now))
}

pub(crate) fn signing_key(secret_key: &str, now: DateTime<Utc>, service: &str) -> hmac::Tag {
    let key = mac(format!("TC3{secret_key}").as_bytes(), &date(now));
    let key = mac(key.as_ref(), service);
    mac(key.as_ref(), "tc3_request")
}

pub(crate) fn mac(key: &[u8], text: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes())
}

fn date(now: DateTime<Utc>) -> String {
    now.format("%Y-%m-%d").to_string()
}

fn signed_names(headers: &[(&str, &str)]) -> String {
    headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";")
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes))
}
