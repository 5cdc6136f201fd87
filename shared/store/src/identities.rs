//! `identities`, the verified real names, and `accessLogs`, who had one decrypted.
//!
//! This module sees sealed texts and blind indexes only. Whoever opens one writes an [`AccessLog`] first.

use bson::{Document, doc};
use chrono::{DateTime, Utc};
use domain::vault::BlindIndex;
use domain::{Code, OrderId, Refusal, UserId};
use serde::{Deserialize, Serialize};

use crate::{Error, Store, Tx, date};

/// How often a user may try, and how often a number may be tried: so many in so many seconds.
const TRY_LIMITS: &[(u8, i64)] = &[(5, 3_600), (10, 86_400)];
/// How often the outside service is asked for one user: each answer is billed.
const BILLED_LIMITS: &[(u8, i64)] = &[(5, 86_400)];

/// What somebody agreed to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Consent {
    pub text_version: String,
    /// Hex SHA-256 of the text.
    pub text_hash: String,
    #[serde(with = "date")]
    pub at: DateTime<Utc>,
    pub channel: String,
    pub purpose: String,
    #[serde(default, with = "date::option", skip_serializing_if = "Option::is_none")]
    pub withdrawn_at: Option<DateTime<Utc>>,
}

/// Who confirmed a name and number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Confirmation {
    pub name: String,
    pub result: String,
    pub request_id: String,
    #[serde(with = "date")]
    pub at: DateTime<Utc>,
}

/// A verified real name; after an erasure only the consents are left.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    #[serde(rename = "_id")]
    pub user_id: UserId,
    /// Sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub real_name: Option<String>,
    /// Sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id_card: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub id_index: Vec<BlindIndex>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masked_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masked_id_card: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<Confirmation>,
    #[serde(default, with = "date::option", skip_serializing_if = "Option::is_none")]
    pub verified_at: Option<DateTime<Utc>>,
    #[serde(default, with = "date::option", skip_serializing_if = "Option::is_none")]
    pub erased_at: Option<DateTime<Utc>>,
    pub consent: Consent,
    #[serde(default)]
    pub earlier_consents: Vec<Consent>,
}

impl Identity {
    /// Where a field is stored, which its seal is bound to.
    pub fn place(user: &UserId, field: &str) -> String {
        format!("identities|{field}|{user}")
    }

    /// Whether it is there and not erased.
    pub fn is_live(&self) -> bool {
        self.erased_at.is_none()
    }

    /// Whether it is of this number, as far as the keys that both were indexed with can tell.
    pub fn is_of(&self, index: &[BlindIndex]) -> bool {
        self.id_index.iter().any(|own| index.contains(own))
    }
}

/// Who had something decrypted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Actor {
    /// `staff` or `command`
    pub kind: String,
    pub id: String,
}

/// One decryption, recorded before its outcome is handed out.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AccessLog {
    #[serde(rename = "_id")]
    pub id: String,
    #[serde(with = "date")]
    pub at: DateTime<Utc>,
    pub actor: Actor,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// The person concerned.
    pub user_id: UserId,
    pub collection: String,
    pub fields: Vec<String>,
    pub purpose: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub trace_id: String,
}

impl Store {
    pub async fn identity(&self, user: &UserId) -> Result<Option<Identity>, Error> {
        Ok(self.collection::<Identity>("identities").await?.find_one(doc! { "_id": user.as_str() }).await?)
    }

    /// Whether another user is verified with the number of this index.
    pub async fn number_is_anothers(&self, index: &[BlindIndex], user: &UserId) -> Result<bool, Error> {
        let macs: Vec<&str> = index.iter().map(|i| i.mac.as_str()).collect();
        let identities = self.collection::<Document>("identities").await?;
        let mut found =
            identities.find(doc! { "idIndex.mac": { "$in": macs } }).projection(doc! { "_id": 1i32 }).await?;
        while found.advance().await? {
            if found.deserialize_current()?.get_str("_id").ok() != Some(user.as_str()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Counts a try of this user with this number: 5 an hour, 10 a day, each. `RATE_LIMITED` with `retryAfterSeconds`.
    pub async fn count_identity_try(
        &self,
        user: &UserId,
        index: &[BlindIndex],
        now: DateTime<Utc>,
    ) -> Result<(), Error> {
        // The user first: whoever is over their own limit must not use up somebody's number.
        self.count(&format!("identity|user|{user}"), TRY_LIMITS, now).await?;
        match index.first() {
            Some(newest) => self.count(&format!("identity|number|{}", newest.mac), TRY_LIMITS, now).await,
            None => Ok(()),
        }
    }

    /// Counts a question to the outside service: 5 a day. `RATE_LIMITED` with `retryAfterSeconds`.
    pub async fn count_identity_question(&self, user: &UserId, now: DateTime<Utc>) -> Result<(), Error> {
        self.count(&format!("identity|billed|{user}"), BILLED_LIMITS, now).await
    }

    /// Records decryptions that are about to happen.
    pub async fn log_access(&self, logs: &[AccessLog]) -> Result<(), Error> {
        if !logs.is_empty() {
            self.collection::<AccessLog>("accessLogs").await?.insert_many(logs).await?;
        }
        Ok(())
    }
}

impl Tx {
    pub async fn identity(&mut self, user: &UserId) -> Result<Option<Identity>, Error> {
        self.find_by_id("identities", user.as_str()).await
    }

    /// Stores a verified name and marks the member; `Duplicate` of `identities` if the number is another user's, or if somebody
    /// else verified this user meanwhile. `None` if the member is gone or blocked, else what is stored: with the consents of
    /// the row that an erasure left, which it replaces.
    pub async fn put_identity(&mut self, mut identity: Identity) -> Result<Option<Identity>, Error> {
        let user = identity.user_id.as_str();
        let erased = doc! { "_id": user, "erasedAt": { "$exists": true } };
        let rows = self.collection::<Identity>("identities");
        if let Some(erased) = rows.find_one_and_delete(erased).session(&mut self.session).await? {
            identity.earlier_consents = erased.earlier_consents;
            identity.earlier_consents.push(erased.consent);
        }
        self.insert("identities", &identity).await?;
        let member = doc! { "_id": user, "blocked": { "$ne": true } };
        let known = self.update("member_user", member, doc! { "$set": { "isVerified": true } }).await?;
        Ok(known.then_some(identity))
    }

    /// Removes everything but the consents. False if there is nothing to erase.
    pub async fn erase_identity(&mut self, user: &UserId, now: DateTime<Utc>) -> Result<bool, Error> {
        let now = date::bson(now);
        let gone: Document = ["realName", "idCard", "idIndex", "maskedName", "maskedIdCard", "provider", "verifiedAt"]
            .into_iter()
            .map(|field| (field.to_owned(), bson::Bson::Int32(1)))
            .collect();
        let change = doc! { "$unset": gone, "$set": { "erasedAt": now.clone(), "consent.withdrawnAt": now } };
        let live = doc! { "_id": user.as_str(), "erasedAt": { "$exists": false } };
        if !self.update("identities", live, change).await? {
            return Ok(false);
        }
        // Whoever spends on the strength of the verification writes the member too, so that the two meet.
        let unverified = doc! { "$set": { "isVerified": false } };
        self.update("member_user", doc! { "_id": user.as_str() }, unverified).await
    }

    /// An order of the points mall of this user that is paid and has not arrived yet.
    pub async fn open_mall_order(&mut self, user: &UserId) -> Result<Option<OrderId>, Error> {
        let open = doc! {
            "userId": user.as_str(),
            "status": { "$in": ["paid", "shipped"] },
            "type": domain::OrderType::PointsMall.as_str(),
        };
        let orders = self.collection::<Document>("orders");
        let find = orders.find_one(open).projection(doc! { "_id": 1i32 });
        let found = find.session(&mut self.session).await?;
        let Some(found) = found else { return Ok(None) };
        let id = found.get_str("_id").map_err(|e| Error::Invariant(format!("order: {e}")))?;
        OrderId::parse(id).map(Some).map_err(|e| Error::Invariant(e.to_string()))
    }
}

/// What a user is told whose number another user has.
pub fn taken() -> Refusal {
    Refusal::new(Code::Conflict).with_message("该证件已被其他账号实名").detail("reason", "numberTaken")
}
