//! The service signature: how other servers prove who they are.
//!
//! Pure: verifying consults no store. That a nonce is used only once is checked afterwards, by whoever has verified.

use chrono::{DateTime, TimeDelta, Utc};
use domain::{Code, Refusal};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::config::ServiceKey;

/// How far a request's timestamp may lie from our clock, either way.
const WINDOW_SECONDS: i64 = 300;

/// The four values of a signed request, as presented.
#[derive(Clone, Copy)]
pub(crate) struct Presented<'a> {
    pub key: &'a str,
    pub timestamp: &'a str,
    pub nonce: &'a str,
    pub signature: &'a str,
}

/// A verified signature: whose it is, and until when its nonce must be remembered.
pub(crate) struct Verified<'a> {
    pub key: &'a ServiceKey,
    pub nonce_expires_at: DateTime<Utc>,
}

/// The signature of a request: lower-case hex of
/// `HMAC-SHA256(secret, timestamp "\n" nonce "\n" METHOD "\n" path "\n" hex(SHA-256(body)))`.
///
/// `timestamp` is Unix seconds as decimal text and `path` has no query. Where a signature travels inside an event,
/// the method is `EVENT` and the path `/` + function name. Exported for clients written in Rust.
pub fn sign(secret: &[u8], timestamp: &str, nonce: &str, method: &str, path: &str, body: &[u8]) -> String {
    let body_hash = hex::encode(Sha256::digest(body));
    let text = format!("{timestamp}\n{nonce}\n{method}\n{path}\n{body_hash}");
    match Hmac::<Sha256>::new_from_slice(secret) {
        Ok(mut mac) => {
            mac.update(text.as_bytes());
            hex::encode(mac.finalize().into_bytes())
        }
        // HMAC takes keys of every length, so this is never reached; an empty text matches no signature.
        Err(_) => String::new(),
    }
}

/// Check a signature over any one of `paths` (more than one where a route hides from us which path the client saw).
/// Every reason gives the same `SIGNATURE_INVALID`, with a hint that helps an honest client and tells a forger nothing.
pub(crate) fn verify<'a>(
    keys: &'a [ServiceKey],
    presented: Presented<'_>,
    method: &str,
    paths: &[&str],
    body: &[u8],
    nows: &[DateTime<Utc>],
) -> Result<Verified<'a>, Refusal> {
    if !nonce_is_well_formed(presented.nonce) {
        return Err(refused("nonce 须为 16 到 64 位字母、数字、下划线或连字符"));
    }
    let at = timestamp(presented.timestamp).ok_or_else(|| refused("timestamp 须为 Unix 秒"))?;
    let window = TimeDelta::seconds(WINDOW_SECONDS);
    if nows.iter().all(|now| (*now - at).abs() > window) {
        return Err(refused("timestamp 与服务器时间相差超过 5 分钟"));
    }
    let key = keys.iter().find(|key| key.id == presented.key).ok_or_else(|| refused("签名无效"))?;
    let matches = paths.iter().fold(false, |found, path| {
        let expected = sign(key.secret.expose().as_bytes(), presented.timestamp, presented.nonce, method, path, body);
        let same: bool = expected.as_bytes().ct_eq(presented.signature.as_bytes()).into();
        found | (same && !expected.is_empty())
    });
    if !matches {
        return Err(refused("签名无效"));
    }
    // One second past the moment when the timestamp alone gets it refused.
    let nonce_expires_at = at + window + TimeDelta::seconds(1);
    Ok(Verified { key, nonce_expires_at })
}

pub(crate) fn refused(message: &'static str) -> Refusal {
    Refusal::new(Code::SignatureInvalid).with_message(message)
}

fn timestamp(text: &str) -> Option<DateTime<Utc>> {
    let plain = (1..=12).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    if !plain {
        return None;
    }
    DateTime::from_timestamp(text.parse().ok()?, 0)
}

fn nonce_is_well_formed(nonce: &str) -> bool {
    (16..=64).contains(&nonce.len()) && nonce.bytes().all(crate::is_token_byte)
}
