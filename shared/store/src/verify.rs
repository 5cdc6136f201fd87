//! `verifyCodes`, the codes that prove a phone, and `rateLimits`, how often somebody did something.
//!
//! A code itself is never stored, only its HMAC; who may guess and how often is decided by guarded updates of one document, so
//! that it holds across processes and restarts.

use bson::{Bson, Document, doc};
use chrono::{DateTime, TimeDelta, Utc};
use domain::{Code, Refusal, UserId};
use hmac::{Hmac, KeyInit, Mac};
use mongodb::options::ReturnDocument;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::members::Phone;
use crate::{Error, Store, Tx, date};

/// How long a code is valid.
pub const CODE_MINUTES: u32 = 5;
/// How often one code may be tried; each try counts, a right one too.
pub const TRIES_MAX: i64 = 5;

/// How often a code may be asked for: so many in so many seconds. Ascending, the last one being what a row remembers.
const SENDING_LIMITS: &[(u8, i64)] = &[(1, 60), (5, 3_600), (10, 86_400)];

/// What codes are hashed with.
#[derive(Clone)]
pub struct CodeKey(Hmac<Sha256>);

impl CodeKey {
    pub fn new(secret: &[u8]) -> Self {
        // An HMAC key may have any length, so there is nothing to fail; were it to, a key of nothing would match no code.
        Self(Hmac::new_from_slice(secret).unwrap_or_else(|_| Hmac::new(&Default::default())))
    }

    /// Binds the code to whom and what it is for, so that it opens nothing else.
    fn hash(&self, subject: &CodeSubject<'_>, code: &str) -> String {
        let mut mac = self.0.clone();
        for part in [subject.phone, subject.user.as_str(), subject.purpose, code] {
            mac.update(part.as_bytes());
            mac.update(b"\n");
        }
        hex::encode(mac.finalize().into_bytes())
    }
}

impl std::fmt::Debug for CodeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CodeKey(…)")
    }
}

/// Who proves what, and what for.
#[derive(Clone, Copy, Debug)]
pub struct CodeSubject<'a> {
    pub user: &'a UserId,
    pub phone: &'a str,
    pub purpose: &'a str,
}

impl CodeSubject<'_> {
    fn id(&self) -> String {
        format!("{}|{}|{}", self.purpose, self.user, self.phone)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct VerifyCode {
    /// `purpose|user|phone`: a new code replaces the one before.
    #[serde(rename = "_id")]
    id: String,
    user_id: UserId,
    phone: Phone,
    purpose: String,
    code_hash: String,
    #[serde(deserialize_with = "domain::money::whole")]
    tries: i64,
    #[serde(with = "date")]
    created_at: DateTime<Utc>,
    #[serde(with = "date")]
    expires_at: DateTime<Utc>,
    #[serde(default, with = "date::option", skip_serializing_if = "Option::is_none")]
    used_at: Option<DateTime<Utc>>,
}

/// A right code, not consumed yet: that happens with its effect, by [`Tx::use_code`].
#[derive(Clone, Debug)]
pub struct RightCode {
    id: String,
    hash: String,
}

#[derive(Deserialize)]
struct RateLimit {
    /// Newest first.
    at: Vec<bson::DateTime>,
}

impl Store {
    /// Counts one code asked for by this user and for this phone: once a minute, 5 an hour, 10 a day, each. `RATE_LIMITED` with
    /// `retryAfterSeconds`, which counts nothing for the limit that was met.
    pub async fn count_sending(&self, subject: &CodeSubject<'_>, now: DateTime<Utc>) -> Result<(), Error> {
        // The user first: whoever is over their own limit must not use up somebody's phone.
        self.count(&format!("sms|user|{}", subject.user), SENDING_LIMITS, now).await?;
        self.count(&format!("sms|phone|{}", subject.phone), SENDING_LIMITS, now).await
    }

    /// Counts one more of whatever `id` says, unless that is over one of the limits: at most ten in any of them, ascending.
    pub(crate) async fn count(&self, id: &str, limits: &[(u8, i64)], now: DateTime<Utc>) -> Result<(), Error> {
        let within = |&(count, seconds): &(u8, i64)| {
            let oldest = format!("at.{}", count.saturating_sub(1));
            Bson::Document(doc! { oldest: { "$gt": date::bson(now - TimeDelta::seconds(seconds)) } })
        };
        let over: Vec<Bson> = limits.iter().map(within).collect();
        let (kept, longest) = limits.last().copied().unwrap_or((10, 86_400));
        let result = self
            .collection::<Document>("rateLimits")
            .await?
            .update_one(
                doc! { "_id": id, "$nor": over },
                doc! {
                    "$push": { "at": { "$each": [date::bson(now)], "$position": 0i32, "$slice": i32::from(kept) } },
                    "$set": { "expiresAt": date::bson(now + TimeDelta::seconds(longest)) },
                },
            )
            .upsert(true)
            .await;
        match result.map_err(Error::from) {
            Ok(_) => Ok(()),
            // The upsert meets the row that the guard did not let through.
            Err(Error::Duplicate { .. }) => {
                let row = self.collection::<RateLimit>("rateLimits").await?.find_one(doc! { "_id": id }).await?;
                let wait = row.map_or(1, |row| seconds_to_wait(limits, &row.at, now));
                Err(Refusal::new(Code::RateLimited).detail("retryAfterSeconds", wait).into())
            }
            Err(error) => Err(error),
        }
    }

    /// Records a code, in place of any earlier one. Returns when it expires.
    pub async fn put_code(
        &self,
        key: &CodeKey,
        subject: &CodeSubject<'_>,
        code: &str,
        now: DateTime<Utc>,
    ) -> Result<DateTime<Utc>, Error> {
        let expires_at = now + TimeDelta::minutes(i64::from(CODE_MINUTES));
        let row = VerifyCode {
            id: subject.id(),
            user_id: subject.user.clone(),
            phone: Phone(subject.phone.to_owned()),
            purpose: subject.purpose.to_owned(),
            code_hash: key.hash(subject, code),
            tries: 0,
            created_at: now,
            expires_at,
            used_at: None,
        };
        let codes = self.collection::<VerifyCode>("verifyCodes").await?;
        codes.replace_one(doc! { "_id": &row.id }, &row).upsert(true).await?;
        Ok(expires_at)
    }

    /// Forgets a code that certainly reached nobody.
    pub async fn drop_code(&self, key: &CodeKey, subject: &CodeSubject<'_>, code: &str) -> Result<(), Error> {
        let codes = self.collection::<Document>("verifyCodes").await?;
        codes.delete_one(doc! { "_id": subject.id(), "codeHash": key.hash(subject, code) }).await?;
        Ok(())
    }

    /// Counts a try, then compares. `VERIFY_CODE_INVALID`, or `VERIFY_CODE_EXPIRED` once the time or the tries are over.
    pub async fn try_code(
        &self,
        key: &CodeKey,
        subject: &CodeSubject<'_>,
        code: &str,
        now: DateTime<Utc>,
    ) -> Result<RightCode, Error> {
        let id = subject.id();
        let codes = self.collection::<VerifyCode>("verifyCodes").await?;
        // Counted before it is compared, so that guesses at once count as many.
        let counted = codes
            .find_one_and_update(
                doc! { "_id": &id, "expiresAt": { "$gt": date::bson(now) }, "tries": { "$lt": TRIES_MAX } },
                doc! { "$inc": { "tries": 1i64 } },
            )
            .return_document(ReturnDocument::After)
            .await?;
        let Some(row) = counted else {
            let known = codes.find_one(doc! { "_id": &id }).await?.is_some();
            return Err(if known { Code::VerifyCodeExpired } else { Code::VerifyCodeInvalid }.into());
        };
        let hash = key.hash(subject, code);
        if bool::from(hash.as_bytes().ct_eq(row.code_hash.as_bytes())) {
            return Ok(RightCode { id, hash });
        }
        let left = TRIES_MAX.saturating_sub(row.tries);
        Err(Refusal::new(Code::VerifyCodeInvalid).detail("remainingTries", left).into())
    }
}

/// Until the limits let the next one pass, at least 1.
fn seconds_to_wait(limits: &[(u8, i64)], at: &[bson::DateTime], now: DateTime<Utc>) -> i64 {
    limits
        .iter()
        .filter_map(|(count, seconds)| {
            let oldest = at.get(usize::from(count.saturating_sub(1)))?.to_chrono();
            let wait = (oldest + TimeDelta::seconds(*seconds)).signed_duration_since(now);
            Some(wait.num_milliseconds().saturating_add(999).div_euclid(1_000))
        })
        .max()
        .unwrap_or(1)
        .max(1)
}

impl Tx {
    /// Consumes a right code; false if it was used already or replaced since.
    pub async fn use_code(&mut self, code: &RightCode, now: DateTime<Utc>) -> Result<bool, Error> {
        let unused = doc! { "_id": &code.id, "codeHash": &code.hash, "usedAt": { "$exists": false } };
        self.update("verifyCodes", unused, doc! { "$set": { "usedAt": date::bson(now) } }).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_bound_to_whom_and_what_it_is_for() {
        let key = CodeKey::new(b"0123456789abcdef0123456789abcdef");
        let (a, b) = (UserId::parse("u-a").unwrap(), UserId::parse("u-b").unwrap());
        let subject = CodeSubject { user: &a, phone: "13900000001", purpose: "bind" };
        let hash = key.hash(&subject, "123456");
        assert_eq!((hash.len(), &hash), (64, &key.hash(&subject, "123456")));
        let others = [
            key.hash(&subject, "123457"),
            key.hash(&CodeSubject { user: &b, ..subject }, "123456"),
            key.hash(&CodeSubject { phone: "13900000002", ..subject }, "123456"),
            key.hash(&CodeSubject { purpose: "pay", ..subject }, "123456"),
            CodeKey::new(b"another").hash(&subject, "123456"),
        ];
        assert!(others.iter().all(|other| *other != hash));
        assert_eq!(format!("{key:?}"), "CodeKey(…)");
    }

    #[test]
    fn the_longest_wait_counts() {
        let now: DateTime<Utc> = "2026-11-21T08:00:00Z".parse().unwrap();
        let ago = |seconds: i64| bson::DateTime::from_chrono(now - TimeDelta::seconds(seconds));
        assert_eq!(seconds_to_wait(SENDING_LIMITS, &[ago(10)], now), 50);
        assert_eq!(seconds_to_wait(SENDING_LIMITS, &[ago(61), ago(122), ago(183), ago(244), ago(600)], now), 3_000);
        assert_eq!(seconds_to_wait(SENDING_LIMITS, &[], now), 1);
    }
}
