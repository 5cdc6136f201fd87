//! What must reach the outside world: written in the transaction of its cause, delivered afterwards.

use bson::doc;
use chrono::{DateTime, TimeDelta, Utc};
use domain::OrderId;
use mongodb::options::ReturnDocument;
use serde::{Deserialize, Serialize};

use crate::{Error, Store, Tx, date};

/// After this many failed tries an item is dead until an operator looks.
pub const MAX_ATTEMPTS: i64 = 30;

/// `outbox.status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OutboxStatus {
    #[serde(rename = "pending")]
    Pending,
    #[serde(rename = "delivered")]
    Delivered,
    /// Ended without being delivered, as it should be: the user does not want it, or the shop does not send such messages.
    #[serde(rename = "skipped")]
    Skipped,
    /// It may have been delivered or not: nobody answered, or the process died over it. Not repeated by itself.
    #[serde(rename = "unknown")]
    Unknown,
    /// Given up until an operator looks.
    #[serde(rename = "dead")]
    Dead,
}

/// One try to deliver an item. Without an outcome it is under way, or the process died in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Try {
    /// Counts from 1.
    #[serde(deserialize_with = "domain::money::whole")]
    pub n: i64,
    #[serde(with = "date")]
    pub at: DateTime<Utc>,
    /// `delivered`, `retry`, `skipped`, `unknown` or `dead`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// Why, as a stable code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The other side's number for the error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errcode: Option<i64>,
    /// The other side's id of the request, for their support.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rid: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<i64>,
}

/// One thing to deliver, and the receipt of its delivery. `_id` is the natural key of what is delivered, so that it is enqueued
/// once.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OutboxItem {
    #[serde(rename = "_id")]
    pub id: String,
    /// `refund`, `shippingReport`, `message`, `massMessage` or `sms`. Kinds are delivered beside each other: a million mass
    /// messages do not wait in front of an order's message.
    pub kind: String,
    /// What to deliver, as JSON text of the kind's own type.
    pub payload: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_id: Option<OrderId>,
    /// Items of one queue are delivered one at a time, in the order in which they were made; for messages the openid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    pub status: OutboxStatus,
    /// Why it ended so, or why the last try failed, as a stable code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Tries begun.
    #[serde(deserialize_with = "domain::money::whole")]
    pub attempts: i64,
    /// Due from then on; while somebody delivers it, the end of their lease.
    #[serde(with = "date")]
    pub next_attempt_at: DateTime<Utc>,
    /// Raised by each claim: only the newest claimant may write the result.
    #[serde(default, deserialize_with = "domain::money::whole")]
    pub claim: i64,
    /// While somebody delivers it, the end of their lease.
    #[serde(default, with = "date::option", skip_serializing_if = "Option::is_none")]
    pub lease_until: Option<DateTime<Utc>>,
    /// Since when an exchange is under way whose repetition could do harm. Claimed with it, the item's outcome is unknown.
    #[serde(default, with = "date::option", skip_serializing_if = "Option::is_none")]
    pub sending_at: Option<DateTime<Utc>>,
    /// The newest tries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tries: Vec<Try>,
    /// `subscriptions._id` of which this message has taken one permission.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permission: Option<String>,
    /// Of no use from then on.
    #[serde(default, with = "date::option", skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<DateTime<Utc>>,
    /// How often an operator had it tried again after its end.
    #[serde(default, deserialize_with = "domain::money::whole")]
    pub redrives: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    #[serde(with = "date")]
    pub created_at: DateTime<Utc>,
    #[serde(default, with = "date::option", skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<DateTime<Utc>>,
}

impl OutboxItem {
    /// A new item, due at once.
    pub fn new(id: impl Into<String>, kind: &str, payload: &impl Serialize, now: DateTime<Utc>) -> Result<Self, Error> {
        Ok(Self {
            id: id.into(),
            kind: kind.to_owned(),
            payload: serde_json::to_string(payload).map_err(|e| Error::Invariant(format!("outbox payload: {e}")))?,
            order_id: None,
            queue: None,
            status: OutboxStatus::Pending,
            reason: None,
            attempts: 0,
            next_attempt_at: now,
            claim: 0,
            lease_until: None,
            sending_at: None,
            tries: Vec::new(),
            permission: None,
            expires_at: None,
            redrives: 0,
            last_error: None,
            created_at: now,
            finished_at: None,
        })
    }

    /// When to try again after `attempts` failures: 15 s, doubling, at most 6 h.
    pub fn retry_delay(attempts: i64) -> TimeDelta {
        let doublings = u32::try_from(attempts.clamp(0, 12)).unwrap_or(12);
        TimeDelta::seconds(15i64.saturating_mul(1i64 << doublings).min(6 * 3600))
    }
}

impl Store {
    /// Claims the next due item of one of these kinds for `lease`; nobody else gets it meanwhile.
    pub async fn claim_outbox(
        &self,
        kinds: &[&str],
        lease: TimeDelta,
        now: DateTime<Utc>,
    ) -> Result<Option<OutboxItem>, Error> {
        Ok(self
            .collection::<OutboxItem>("outbox")
            .await?
            .find_one_and_update(
                doc! { "status": "pending", "nextAttemptAt": { "$lte": date::bson(now) }, "kind": { "$in": kinds } },
                doc! { "$set": { "nextAttemptAt": date::bson(now + lease) }, "$inc": { "claim": 1i64, "attempts": 1i64 } },
            )
            .sort(doc! { "nextAttemptAt": 1 })
            .return_document(ReturnDocument::After)
            .await?)
    }

    /// Ends a claimed item as delivered.
    pub async fn outbox_delivered(&self, item: &OutboxItem, now: DateTime<Utc>) -> Result<(), Error> {
        self.outbox_write(item, doc! { "status": "delivered", "finishedAt": date::bson(now) }).await
    }

    /// Gives a claimed item back until `next`, with the reason; past the attempt limit it is dead. Returns whether it is dead.
    pub async fn outbox_retry(
        &self,
        item: &OutboxItem,
        reason: &str,
        next: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<bool, Error> {
        if item.attempts >= MAX_ATTEMPTS {
            self.outbox_dead(item, reason, now).await?;
            return Ok(true);
        }
        self.outbox_write(item, doc! { "nextAttemptAt": date::bson(next), "lastError": reason }).await?;
        Ok(false)
    }

    /// Ends a claimed item as undeliverable until an operator looks.
    pub async fn outbox_dead(&self, item: &OutboxItem, reason: &str, now: DateTime<Utc>) -> Result<(), Error> {
        self.outbox_write(item, doc! { "status": "dead", "lastError": reason, "finishedAt": date::bson(now) }).await
    }

    /// Ends a claimed item that nobody wants delivered.
    pub async fn outbox_skipped(&self, item: &OutboxItem, reason: &str, now: DateTime<Utc>) -> Result<(), Error> {
        self.outbox_write(item, doc! { "status": "skipped", "lastError": reason, "finishedAt": date::bson(now) }).await
    }

    async fn outbox_write(&self, item: &OutboxItem, set: bson::Document) -> Result<(), Error> {
        let guard = doc! { "_id": &item.id, "claim": item.claim, "status": "pending" };
        self.collection::<OutboxItem>("outbox").await?.update_one(guard, doc! { "$set": set }).await?;
        Ok(())
    }

    /// How many items wait.
    pub async fn outbox_pending(&self) -> Result<u64, Error> {
        Ok(self.collection::<OutboxItem>("outbox").await?.count_documents(doc! { "status": "pending" }).await?)
    }
}

impl Tx {
    /// Enqueues an item with the effect that causes it.
    pub async fn enqueue(&mut self, item: &OutboxItem) -> Result<(), Error> {
        self.insert("outbox", item).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_back_off_to_six_hours() {
        let seconds: Vec<i64> = [0, 1, 5, 11, 12, 99].map(|n| OutboxItem::retry_delay(n).num_seconds()).to_vec();
        assert_eq!(seconds, [15, 30, 480, 21600, 21600, 21600]);
    }
}
