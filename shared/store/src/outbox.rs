//! What must reach the outside world: written in the transaction of its cause, delivered afterwards.
//!
//! Whoever delivers an item claims it for the time of a lease, begins a try, and ends it. Each claim raises `claim`, and every
//! later write is guarded by it: who was frozen in between finds that the item is no longer theirs and writes nothing. What may
//! be tried again, and when, is decided by the caller.

use std::fmt;

use bson::{Bson, Document, doc};
use chrono::{DateTime, TimeDelta, Utc};
use domain::OrderId;
use futures_util::TryStreamExt;
use mongodb::options::{Hint, ReturnDocument};
use serde::{Deserialize, Serialize};

use crate::page::{Page, PageRequest, Row};
use crate::{Error, Store, Tx, date};

/// After this many failed tries an item is dead until an operator looks.
pub const MAX_ATTEMPTS: i64 = 30;
/// So many tries are kept.
const TRIES_KEPT: i64 = 30;
/// `outbox.reason` of an item that this version cannot read.
const UNREADABLE: &str = "UNREADABLE";
/// The index that holds the order of all queues.
const QUEUE_INDEX: &str = "queue_pending";
/// Of one customer so many messages can be listed.
const ABOUT_MAX: i64 = 500;

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

impl OutboxStatus {
    pub const ALL: [Self; 5] = [Self::Pending, Self::Delivered, Self::Skipped, Self::Unknown, Self::Dead];

    /// As it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Skipped => "skipped",
            Self::Unknown => "unknown",
            Self::Dead => "dead",
        }
    }
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
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OutboxItem {
    #[serde(rename = "_id")]
    pub id: String,
    /// `refund`, `shippingReport`, `message`, `massMessage`, `sms` or `parcelSubscription`. Kinds are delivered beside each other: a million mass
    /// messages do not wait in front of an order's message.
    pub kind: String,
    /// What to deliver, as JSON text of the kind's own type.
    pub payload: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_id: Option<OrderId>,
    /// Items of one queue and kind are delivered one at a time, in the order in which they were made; for messages the openid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    pub status: OutboxStatus,
    /// Why it ended so, or why the last try failed, as a stable code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Tries begun.
    #[serde(deserialize_with = "domain::money::whole")]
    pub attempts: i64,
    /// Those of them that do not count towards the limit: before it was redriven, and while everything rested.
    #[serde(default, deserialize_with = "domain::money::whole")]
    pub uncounted: i64,
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

/// Without the payload, which names people.
impl fmt::Debug for OutboxItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutboxItem")
            .field("id", &self.id)
            .field("kind", &self.kind)
            .field("status", &self.status)
            .field("reason", &self.reason)
            .field("attempts", &self.attempts)
            .field("uncounted", &self.uncounted)
            .field("next_attempt_at", &self.next_attempt_at)
            .field("claim", &self.claim)
            .field("lease_until", &self.lease_until)
            .field("sending_at", &self.sending_at)
            .field("tries", &self.tries)
            .field("expires_at", &self.expires_at)
            .field("redrives", &self.redrives)
            .field("last_error", &self.last_error)
            .field("created_at", &self.created_at)
            .field("finished_at", &self.finished_at)
            .finish_non_exhaustive()
    }
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
            uncounted: 0,
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

    /// How many tries count towards the limit.
    pub fn counted(&self) -> i64 {
        self.attempts.saturating_sub(self.uncounted)
    }

    /// When to try again after `failures`: 15 s, doubling, at most `cap`; a fifth more or less, as `random` says, so that what
    /// failed together is not tried together.
    pub fn retry_delay(failures: i64, cap: TimeDelta, random: u32) -> TimeDelta {
        let doublings = u32::try_from(failures.saturating_sub(1).clamp(0, 12)).unwrap_or(12);
        let seconds = 15i64.saturating_mul(1i64 << doublings).min(cap.num_seconds());
        TimeDelta::milliseconds(seconds.saturating_mul(800 + i64::from(random % 401)))
    }
}

impl Row for OutboxItem {
    fn position(&self) -> (DateTime<Utc>, &str) {
        (self.created_at, &self.id)
    }
}

/// An item that waits, as far as its turn in its queue is concerned.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Waiting {
    #[serde(rename = "_id")]
    pub id: String,
    #[serde(deserialize_with = "domain::money::whole")]
    pub attempts: i64,
    #[serde(with = "date")]
    pub next_attempt_at: DateTime<Utc>,
    #[serde(default, with = "date::option")]
    pub lease_until: Option<DateTime<Utc>>,
}

impl Waiting {
    fn fields() -> Document {
        doc! { "attempts": 1i32, "nextAttemptAt": 1i32, "leaseUntil": 1i32 }
    }
}

/// What a try needs before it may begin.
#[derive(Clone, Copy, Debug)]
pub struct Begin<'a> {
    /// Repeating the exchange could do harm: should the process die in it, the outcome is unknown.
    pub harmful: bool,
    /// `subscriptions._id` of which the item must hold one.
    pub permission: Option<&'a str>,
    pub lease: TimeDelta,
}

/// Whether a try has begun.
#[derive(Debug)]
pub enum Begun {
    /// The item as it is now.
    Yes(Box<OutboxItem>),
    /// The user allows no message; the item is as it was.
    NoPermission,
    /// Somebody else has claimed the item.
    Lost,
}

/// What becomes of an item at the end of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It ends. Not [`OutboxStatus::Pending`].
    Final(OutboxStatus),
    /// It waits until then; `counts` says whether the try counts towards the limit.
    Again { at: DateTime<Utc>, counts: bool },
}

/// What becomes of the permission that an item holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// It stays with the item.
    Kept,
    /// The message was certainly not sent.
    GivenBack,
    /// WeChat did not honour it; see [`Tx::void_permission`].
    Voided { tried_at: DateTime<Utc> },
}

/// How the try of a claim ended.
#[derive(Clone, Copy, Debug)]
pub struct Tried<'a> {
    pub outcome: &'static str,
    pub errcode: Option<i64>,
    pub rid: Option<&'a str>,
    pub duration_ms: i64,
}

/// The end of a claim.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    pub fate: Fate,
    /// None where no try has begun, or nobody knows how it ended.
    pub tried: Option<Tried<'a>>,
    /// A stable code and a text for operators; none when all went well.
    pub why: Option<(&'a str, &'a str)>,
    pub held: Held,
}

/// Which items to list.
#[derive(Clone, Debug, Default)]
pub struct OutboxFilter<'a> {
    pub status: Option<OutboxStatus>,
    pub kinds: &'a [&'a str],
    pub queue: Option<&'a str>,
    pub ids: Option<Vec<String>>,
}

fn ours(item: &OutboxItem) -> Document {
    doc! { "_id": &item.id, "claim": item.claim, "status": "pending" }
}

fn begin_update(item: &OutboxItem, begin: &Begin<'_>, now: DateTime<Utc>) -> Document {
    let until = date::bson(now + begin.lease);
    let mut set = doc! { "nextAttemptAt": until.clone(), "leaseUntil": until };
    if begin.harmful {
        set.insert("sendingAt", date::bson(now));
    }
    let begun = doc! { "n": item.attempts.saturating_add(1), "at": date::bson(now) };
    doc! {
        "$set": set,
        "$inc": { "attempts": 1i64 },
        "$push": { "tries": { "$each": [begun], "$slice": -TRIES_KEPT } },
    }
}

fn end_guard(item: &OutboxItem, end: &End<'_>) -> Document {
    let mut guard = ours(item);
    // An end gives the lease back, so one that is written again finds nothing to end.
    guard.insert("leaseUntil", doc! { "$exists": true });
    if end.tried.is_some() {
        guard.insert("tries.n", item.attempts);
    }
    guard
}

fn end_update(end: &End<'_>, now: DateTime<Utc>) -> Document {
    let mut set = Document::new();
    let mut unset = doc! { "leaseUntil": "", "sendingAt": "" };
    let mut inc = Document::new();
    match end.fate {
        Fate::Final(status) => {
            set.insert("status", status.as_str());
            set.insert("finishedAt", date::bson(now));
            set.insert("nextAttemptAt", date::bson(now));
        }
        Fate::Again { at, counts } => {
            set.insert("nextAttemptAt", date::bson(at));
            if !counts && end.tried.is_some() {
                inc.insert("uncounted", 1i64);
            }
        }
    }
    match end.why {
        Some((reason, text)) => {
            set.insert("reason", reason);
            set.insert("lastError", text);
        }
        None => {
            unset.insert("reason", "");
            unset.insert("lastError", "");
        }
    }
    if let Some(tried) = &end.tried {
        set.insert("tries.$.outcome", tried.outcome);
        set.insert("tries.$.durationMs", tried.duration_ms);
        if let Some((reason, _)) = end.why {
            set.insert("tries.$.reason", reason);
        }
        if let Some(errcode) = tried.errcode {
            set.insert("tries.$.errcode", errcode);
        }
        if let Some(rid) = tried.rid {
            set.insert("tries.$.rid", rid);
        }
    }
    if end.held != Held::Kept {
        unset.insert("permission", "");
    }
    let mut update = doc! { "$set": set, "$unset": unset };
    if !inc.is_empty() {
        update.insert("$inc", inc);
    }
    update
}

impl Store {
    /// Claims the next due item of a kind for `lease`; nobody else gets it meanwhile.
    pub async fn claim_outbox(
        &self,
        kind: &str,
        lease: TimeDelta,
        now: DateTime<Utc>,
    ) -> Result<Option<OutboxItem>, Error> {
        let due = doc! { "kind": kind, "status": "pending", "nextAttemptAt": { "$lte": date::bson(now) } };
        self.claim(due, lease, now).await
    }

    /// Claims one item of these kinds, if it is due at `by` and nobody delivers it.
    pub async fn claim_outbox_item(
        &self,
        id: &str,
        kinds: &[&str],
        by: DateTime<Utc>,
        lease: TimeDelta,
        now: DateTime<Utc>,
    ) -> Result<Option<OutboxItem>, Error> {
        let due = doc! {
            "_id": id,
            "kind": { "$in": kinds },
            "status": "pending",
            "nextAttemptAt": { "$lte": date::bson(by) },
            "$or": [{ "leaseUntil": { "$exists": false } }, { "leaseUntil": { "$lte": date::bson(now) } }],
        };
        self.claim(due, lease, now).await
    }

    async fn claim(&self, due: Document, lease: TimeDelta, now: DateTime<Utc>) -> Result<Option<OutboxItem>, Error> {
        let until = date::bson(now + lease);
        let change =
            doc! { "$set": { "nextAttemptAt": until.clone(), "leaseUntil": until }, "$inc": { "claim": 1i64 } };
        let outbox = self.collection::<Document>("outbox").await?;
        loop {
            let claim = outbox.find_one_and_update(due.clone(), change.clone()).sort(doc! { "nextAttemptAt": 1 });
            let Some(claimed) = claim.return_document(ReturnDocument::After).await? else { return Ok(None) };
            match bson::deserialize_from_document(claimed.clone()) {
                Ok(item) => return Ok(Some(item)),
                Err(error) => self.end_unreadable(&claimed, &error, now).await?,
            }
        }
    }

    /// An item that nobody can read ends, so that what waits behind it has its turn.
    async fn end_unreadable(
        &self,
        claimed: &Document,
        error: &bson::error::Error,
        now: DateTime<Utc>,
    ) -> Result<(), Error> {
        let field = |name: &str| claimed.get(name).cloned().unwrap_or(Bson::Null);
        let id = claimed.get_str("_id").unwrap_or_default();
        tracing::error!(id, error = error.to_string(), "INVARIANT_OUTBOX_SHAPE an outbox item cannot be read");
        let status = if claimed.contains_key("sendingAt") { OutboxStatus::Unknown } else { OutboxStatus::Dead };
        let change = doc! {
            "$set": {
                "status": status.as_str(),
                "reason": UNREADABLE,
                "lastError": "the item is not of the shape that this version knows",
                "finishedAt": date::bson(now),
                "nextAttemptAt": date::bson(now),
            },
            "$unset": { "leaseUntil": "", "sendingAt": "" },
        };
        let guard = doc! { "_id": field("_id"), "claim": field("claim"), "status": "pending" };
        self.collection::<Document>("outbox").await?.update_one(guard, change).await?;
        Ok(())
    }

    /// Claims the next item of a kind that nobody can deliver here and that is of no use any more.
    pub async fn claim_expired(
        &self,
        kind: &str,
        lease: TimeDelta,
        now: DateTime<Utc>,
    ) -> Result<Option<OutboxItem>, Error> {
        let now_bson = date::bson(now);
        let due = doc! {
            "kind": kind,
            "status": "pending",
            "nextAttemptAt": { "$lte": now_bson.clone() },
            "expiresAt": { "$lte": now_bson },
        };
        self.claim(due, lease, now).await
    }

    /// The first item of the same queue and kind that must be delivered before this one, and how many there are, up to `max`.
    pub async fn outbox_before(&self, item: &OutboxItem, max: u64) -> Result<Option<(Waiting, u64)>, Error> {
        let Some(queue) = &item.queue else { return Ok(None) };
        let at = date::bson(item.created_at);
        let older = doc! {
            "kind": &item.kind,
            "queue": queue,
            "status": "pending",
            "$or": [{ "createdAt": { "$lt": at.clone() } }, { "createdAt": at, "_id": { "$lt": &item.id } }],
        };
        let outbox = self.collection::<Waiting>("outbox").await?;
        let first = outbox.find_one(older.clone()).sort(doc! { "createdAt": 1, "_id": 1 });
        let Some(first) = first.projection(Waiting::fields()).await? else { return Ok(None) };
        // Answered from the index alone, for in a long queue everybody asks.
        let count = outbox.count_documents(older).hint(Hint::Name(QUEUE_INDEX.to_owned())).limit(max).await?;
        Ok(Some((first, count.max(1))))
    }

    /// The first item that waits in the queue of this one.
    pub async fn outbox_next(&self, item: &OutboxItem) -> Result<Option<Waiting>, Error> {
        let Some(queue) = &item.queue else { return Ok(None) };
        let waiting = doc! { "kind": &item.kind, "queue": queue, "status": "pending" };
        let outbox = self.collection::<Waiting>("outbox").await?;
        let first = outbox.find_one(waiting).sort(doc! { "createdAt": 1, "_id": 1 });
        Ok(first.projection(Waiting::fields()).await?)
    }

    /// Makes an item due that was put back until `by` at the latest, unless somebody has claimed it.
    pub async fn outbox_hasten(&self, id: &str, by: DateTime<Utc>, now: DateTime<Utc>) -> Result<(), Error> {
        let put_back = doc! {
            "_id": id,
            "status": "pending",
            "leaseUntil": { "$exists": false },
            "nextAttemptAt": { "$gt": date::bson(now), "$lte": date::bson(by) },
        };
        let change = doc! { "$set": { "nextAttemptAt": date::bson(now) } };
        self.collection::<Document>("outbox").await?.update_one(put_back, change).await?;
        Ok(())
    }

    /// Gives a claimed item back until `next`, as if it had not been claimed; false when somebody else has claimed it.
    pub async fn outbox_put_back(&self, item: &OutboxItem, next: DateTime<Utc>) -> Result<bool, Error> {
        let change = doc! { "$set": { "nextAttemptAt": date::bson(next) }, "$unset": { "leaseUntil": "" } };
        let outbox = self.collection::<OutboxItem>("outbox").await?;
        Ok(outbox.update_one(ours(item), change).await?.matched_count == 1)
    }

    /// Begins a try of a claimed item: from here on it counts, and the lease runs anew. Takes the permission that the item must
    /// hold, in one transaction with it; one of another template is given back.
    pub async fn outbox_begin(&self, item: &OutboxItem, begin: &Begin<'_>, now: DateTime<Utc>) -> Result<Begun, Error> {
        let change = begin_update(item, begin, now);
        if item.permission.as_deref() == begin.permission {
            let outbox = self.collection::<OutboxItem>("outbox").await?;
            let begun = outbox.find_one_and_update(ours(item), change).return_document(ReturnDocument::After).await?;
            return Ok(begun.map_or(Begun::Lost, |item| Begun::Yes(Box::new(item))));
        }
        self.transaction(|tx, _| {
            let mut change = change.clone();
            Box::pin(async move {
                if let Some(wanted) = begin.permission
                    && !tx.take_permission(wanted, now).await?
                {
                    return Ok(Begun::NoPermission);
                }
                match (begin.permission, change.get_document_mut("$set")) {
                    (Some(wanted), Ok(set)) => drop(set.insert("permission", wanted)),
                    _ => drop(change.insert("$unset", doc! { "permission": "" })),
                }
                if let Some(held) = &item.permission {
                    tx.give_back_permission(held, now).await?;
                }
                let outbox = tx.collection::<OutboxItem>("outbox");
                let begun = outbox
                    .find_one_and_update(ours(item), change)
                    .return_document(ReturnDocument::After)
                    .session(&mut tx.session)
                    .await?;
                match begun {
                    Some(item) => Ok(Begun::Yes(Box::new(item))),
                    None => Err(Error::Lost),
                }
            })
        })
        .await
        .or_else(|error| if matches!(error, Error::Lost) { Ok(Begun::Lost) } else { Err(error) })
    }

    /// Ends a claim with what becomes of the item, its try and its permission; false when somebody else has claimed it.
    pub async fn outbox_end(&self, item: &OutboxItem, end: &End<'_>, now: DateTime<Utc>) -> Result<bool, Error> {
        if end.held == Held::Kept || item.permission.is_none() {
            let outbox = self.collection::<OutboxItem>("outbox").await?;
            return Ok(outbox.update_one(end_guard(item, end), end_update(end, now)).await?.matched_count == 1);
        }
        self.transaction(|tx, _| Box::pin(tx.outbox_end(item, end, now))).await
    }

    /// How many items wait.
    pub async fn outbox_pending(&self) -> Result<u64, Error> {
        Ok(self.collection::<OutboxItem>("outbox").await?.count_documents(doc! { "status": "pending" }).await?)
    }

    /// How many items of a kind wait.
    pub async fn outbox_pending_of(&self, kind: &str) -> Result<u64, Error> {
        let waiting = doc! { "kind": kind, "status": "pending" };
        Ok(self.collection::<OutboxItem>("outbox").await?.count_documents(waiting).await?)
    }

    pub async fn outbox_item(&self, id: &str) -> Result<Option<OutboxItem>, Error> {
        Ok(self.collection::<OutboxItem>("outbox").await?.find_one(doc! { "_id": id }).await?)
    }

    /// Items, newest first. One that cannot be read is left out, and the log names it.
    pub async fn outbox_items(
        &self,
        filter: &OutboxFilter<'_>,
        request: &PageRequest,
    ) -> Result<Page<OutboxItem>, Error> {
        let mut wanted = Document::new();
        if let Some(status) = filter.status {
            wanted.insert("status", status.as_str());
        }
        match filter.kinds {
            [] => {}
            [one] => drop(wanted.insert("kind", *one)),
            several => drop(wanted.insert("kind", doc! { "$in": several })),
        }
        if let Some(queue) = filter.queue {
            wanted.insert("queue", queue);
        }
        if let Some(ids) = &filter.ids {
            wanted.insert("_id", doc! { "$in": ids });
        }
        let page: Page<Document> = self.page("outbox", wanted, request).await?;
        let read = |row: Document| {
            let id = row.get_str("_id").unwrap_or_default().to_owned();
            bson::deserialize_from_document(row)
                .inspect_err(|error| {
                    let error = error.to_string();
                    tracing::error!(id, error, "INVARIANT_OUTBOX_SHAPE an outbox item cannot be read");
                })
                .ok()
        };
        Ok(Page { data: page.data.into_iter().filter_map(read).collect(), next_cursor: page.next_cursor })
    }

    /// The newest messages about the assignment of a customer, by `_id`, with those that others have replaced.
    pub async fn messages_about(&self, customer_id: &str) -> Result<Vec<String>, Error> {
        let rows = self.collection::<Document>("assignments").await?;
        let wanted = doc! { "customerId": customer_id };
        let found = rows.find(wanted).sort(doc! { "createdAt": -1 }).limit(ABOUT_MAX).await?;
        let rows: Vec<Document> = found.try_collect().await?;
        let of = |row: &Document| {
            let earlier = row.get_array("replaced").ok().cloned().unwrap_or_default();
            let ids: Vec<String> =
                earlier.iter().chain(row.get("messageId")).filter_map(Bson::as_str).map(str::to_owned).collect();
            ids
        };
        let mut ids: Vec<String> = rows.iter().flat_map(of).collect();
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }
}

impl Tx {
    /// Enqueues an item with the effect that causes it.
    pub async fn enqueue(&mut self, item: &OutboxItem) -> Result<(), Error> {
        self.insert("outbox", item).await
    }

    /// As [`Store::outbox_end`], with what else follows from the end.
    pub async fn outbox_end(&mut self, item: &OutboxItem, end: &End<'_>, now: DateTime<Utc>) -> Result<bool, Error> {
        if !self.update("outbox", end_guard(item, end), end_update(end, now)).await? {
            return Ok(false);
        }
        match (item.permission.as_deref(), end.held) {
            (None, _) | (_, Held::Kept) => {}
            (Some(permission), Held::Voided { tried_at }) => self.void_permission(permission, tried_at, now).await?,
            (Some(permission), Held::GivenBack) => self.give_back_permission(permission, now).await?,
        }
        Ok(true)
    }

    pub async fn outbox_item(&mut self, id: &str) -> Result<Option<OutboxItem>, Error> {
        self.find_by_id("outbox", id).await
    }

    /// Has an item that ended in one of these states delivered again, with as many tries as a new one; one that had become useless
    /// is useful until `useful_until`. Returns the item, and none when it is in no such state.
    pub async fn redrive(
        &mut self,
        id: &str,
        from: &[OutboxStatus],
        useful_until: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<Option<OutboxItem>, Error> {
        let from: Vec<&str> = from.iter().map(|status| status.as_str()).collect();
        let over = doc! { "$lte": ["$expiresAt", date::bson(now)] };
        let expires = doc! { "$cond": [{ "$eq": [{ "$type": "$expiresAt" }, "missing"] }, "$$REMOVE",
        { "$cond": [over, date::bson(useful_until), "$expiresAt"] }] };
        let number = |field: &str| doc! { "$ifNull": [field, 0i64] };
        let change = vec![
            doc! { "$set": {
                "status": "pending",
                "nextAttemptAt": date::bson(now),
                "uncounted": number("$attempts"),
                "redrives": { "$add": [number("$redrives"), 1i64] },
                // A deliverer that does not know how its last write went must not write again.
                "claim": { "$add": [number("$claim"), 1i64] },
                "expiresAt": expires,
            } },
            doc! { "$unset": ["finishedAt", "leaseUntil", "sendingAt"] },
        ];
        let outbox = self.collection::<OutboxItem>("outbox");
        let redriven = outbox
            .find_one_and_update(doc! { "_id": id, "status": { "$in": from } }, change)
            .return_document(ReturnDocument::After)
            .session(&mut self.session)
            .await?;
        Ok(redriven)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_back_off_to_the_cap_with_a_fifth_of_jitter() {
        let delay =
            |failures, hours, random| OutboxItem::retry_delay(failures, TimeDelta::hours(hours), random).num_seconds();
        let middle: Vec<i64> = [0, 1, 2, 6, 12, 13, 99].map(|n| delay(n, 6, 200)).to_vec();
        assert_eq!(middle, [15, 15, 30, 480, 21600, 21600, 21600]);
        assert_eq!([delay(1, 1, 0), delay(1, 1, 400), delay(1, 1, 401)], [12, 18, 12]);
        assert_eq!([delay(40, 1, 0), delay(40, 1, 400)], [2880, 4320]);
    }

    #[test]
    fn what_is_debugged_tells_nothing_about_people() {
        let now = DateTime::from_timestamp(0, 0).unwrap();
        let payload = serde_json::json!({ "openId": "o-secret", "values": { "customerPhone": "13800138000" } });
        let mut item = OutboxItem::new("message:a", "message", &payload, now).unwrap();
        item.queue = Some("o-secret".to_owned());
        item.permission = Some("o-secret|t".to_owned());
        let shown = format!("{item:?}");
        assert!(shown.contains("message:a") && !shown.contains("o-secret") && !shown.contains("138"), "{shown}");
    }

    #[test]
    fn statuses_are_stored_by_their_names() {
        for status in OutboxStatus::ALL {
            assert_eq!(bson::serialize_to_bson(&status).unwrap(), bson::Bson::String(status.as_str().to_owned()));
        }
    }
}
