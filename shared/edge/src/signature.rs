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

/// How long a nonce is remembered beyond the moment when its timestamp alone gets it refused: the database removes it by
/// its own clock, which may run ahead of ours.
const NONCE_SLACK_SECONDS: i64 = 60;

/// How many keys of one id may be live: the old and the new secret of a rotation.
pub(crate) const KEYS_PER_ID_MAX: usize = 2;

/// What is computed with where there is no key, so that asking for an unknown one takes as long as for a known one.
/// It never verifies anything.
const NO_SECRET: &[u8] = b"no such key, and none that anybody could present";

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
    mac(secret, timestamp, nonce, method, path, &hex::encode(Sha256::digest(body)))
}

fn mac(secret: &[u8], timestamp: &str, nonce: &str, method: &str, path: &str, body_hash: &str) -> String {
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
/// Every reason gives the same `SIGNATURE_INVALID`; `details.reason` helps an honest client and tells a forger nothing:
/// an unknown key, a wrong secret and an altered request are one and the same, and take the same time.
pub(crate) fn verify<'a>(
    keys: &'a [ServiceKey],
    presented: Presented<'_>,
    method: &str,
    paths: &[&str],
    body: &[u8],
    nows: &[DateTime<Utc>],
) -> Result<Verified<'a>, Refusal> {
    if !nonce_is_well_formed(presented.nonce) {
        return Err(refused(Reason::Form, "nonce 须为 16 到 64 位字母、数字、下划线或连字符"));
    }
    let at = timestamp(presented.timestamp).ok_or_else(|| refused(Reason::Form, "timestamp 须为 Unix 秒，不带小数"))?;
    let window = TimeDelta::seconds(WINDOW_SECONDS);
    if nows.iter().all(|now| (*now - at).abs() > window) {
        let refusal = refused(Reason::Timestamp, "timestamp 与服务器时间相差超过 5 分钟");
        // Ours, so that a client whose clock is wrong can say what time it is here.
        return Err(match nows.first() {
            Some(now) => refusal.detail("serverTime", now.timestamp()),
            None => refusal,
        });
    }
    // Always as many secrets as one id may have, and no early end: the time tells neither whether an id exists, nor
    // which of its secrets was nearly right.
    let body_hash = hex::encode(Sha256::digest(body));
    let mut live = keys.iter().filter(|key| key.id == presented.key);
    let mut verified = None;
    for _ in 0..KEYS_PER_ID_MAX {
        let key = live.next();
        let secret = key.map_or(NO_SECRET, |key| key.secret.expose().as_bytes());
        let matches = paths.iter().fold(false, |found, path| {
            let expected = mac(secret, presented.timestamp, presented.nonce, method, path, &body_hash);
            let same: bool = expected.as_bytes().ct_eq(presented.signature.as_bytes()).into();
            found | (same && !expected.is_empty())
        });
        if matches {
            verified = verified.or(key);
        }
    }
    let key = verified.ok_or_else(|| refused(Reason::Signature, "签名无效"))?;
    let nonce_expires_at = at + window + TimeDelta::seconds(NONCE_SLACK_SECONDS);
    Ok(Verified { key, nonce_expires_at })
}

/// `details.reason` of a `SIGNATURE_INVALID`. A contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// A part is missing, there twice, or not of the prescribed form.
    Form,
    /// The timestamp is too far from our clock; `details.serverTime` tells ours.
    Timestamp,
    /// The key is unknown, or this is not its signature of this request.
    Signature,
    /// The request was sent before, or its nonce for another one.
    Nonce,
}

impl Reason {
    fn as_str(self) -> &'static str {
        match self {
            Self::Form => "form",
            Self::Timestamp => "timestamp",
            Self::Signature => "signature",
            Self::Nonce => "nonce",
        }
    }
}

pub(crate) fn refused(reason: Reason, message: &'static str) -> Refusal {
    Refusal::new(Code::SignatureInvalid).with_message(message).detail("reason", reason.as_str())
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
