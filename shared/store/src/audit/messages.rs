//! Items of the outbox, permissions to send messages, and the assignments that messages tell of.

use std::collections::BTreeMap;

use bson::{Bson, Document, doc};
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::TryStreamExt;
use mongodb::options::Hint;
use serde::Deserialize;

use super::{Audit, Batch};
use crate::Error;
use crate::outbox::{MAX_ATTEMPTS, OutboxItem, OutboxStatus};
use crate::subscriptions::Subscription;

/// How long a delivery may be tried; the outbox gives up long before.
const WAIT_MAX: TimeDelta = TimeDelta::days(14);
/// How long after its expiry an item may still wait for somebody to give it up.
const LATE_MAX: TimeDelta = TimeDelta::days(1);
/// So many tries are kept.
const TRIES_KEPT: i64 = 30;

/// A row of `assignments`, as far as it matters here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    #[serde(rename = "_id")]
    id: String,
    customer_id: String,
    message_id: Option<String>,
    #[serde(with = "crate::date")]
    planned_at: DateTime<Utc>,
}

/// What a message about assignments says.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Told {
    customer_ids: Vec<String>,
}

fn told(item: &OutboxItem) -> Vec<String> {
    serde_json::from_str::<Told>(&item.payload).unwrap_or_default().customer_ids
}

fn is_message(item: &OutboxItem) -> bool {
    item.kind == "message" || item.kind == "massMessage"
}

/// What is wrong with an item by itself.
pub(super) fn item_off(item: &OutboxItem, now: DateTime<Utc>) -> Vec<&'static str> {
    let mut off = Vec::new();
    let mut say = |wrong: bool, what: &'static str| {
        if wrong {
            off.push(what);
        }
    };
    let waits = item.status == OutboxStatus::Pending;
    let late = item.expires_at.is_some_and(|expires| now - expires > LATE_MAX);
    say(waits && item.redrives == 0 && now - item.created_at > WAIT_MAX, "undelivered for two weeks and not dead");
    say(waits && late, "waits long after it was of any use");
    say(waits && item.counted() > MAX_ATTEMPTS, "was tried more often than it may be");
    say(waits == item.finished_at.is_some(), "its end and its state do not fit");
    say(!waits && item.lease_until.is_some(), "has ended and is still leased");
    say(!waits && item.sending_at.is_some(), "has ended and is still being sent");
    say(waits && item.sending_at.is_some() && item.lease_until.is_none(), "is being sent by nobody");
    let harmful = is_message(item) || item.kind == "sms";
    say(item.sending_at.is_some() && !harmful, "is marked as if repeating it did harm");
    let delivered = item.status == OutboxStatus::Delivered;
    // Written by a version that kept no tries and no reasons.
    let old = item.tries.is_empty() && item.attempts > 0;
    let explained = item.reason.is_some() || (old && item.last_error.is_some());
    say(!waits && !delivered && !explained, "was not delivered and nobody knows why");

    let outcome = |at: usize| item.tries.get(at).and_then(|t| t.outcome.as_deref());
    let n_tries = i64::try_from(item.tries.len()).unwrap_or(i64::MAX);
    // Tries that such a version made are missing before the first; the numbers show any other gap.
    say(n_tries > item.attempts.min(TRIES_KEPT), "its tries are not those that it counts");
    let first = item.attempts.saturating_sub(n_tries).saturating_add(1);
    say(item.tries.iter().zip(first..).any(|(t, n)| t.n != n), "its tries are not numbered one after the other");
    say(
        item.tries.iter().any(|t| t.outcome.is_some() != t.duration_ms.is_some()),
        "a try has an outcome or a duration without the other",
    );
    let last = item.tries.len().saturating_sub(1);
    say(!old && delivered != (outcome(last) == Some("delivered")), "its state is not what its last try says");
    say((0..last).any(|at| outcome(at) == Some("delivered")), "it was tried again after it was delivered");
    say(item.uncounted > item.attempts || item.uncounted < 0, "more tries do not count than were made");

    say(item.permission.is_some() && !is_message(item), "holds a permission that it has no use for");
    let gave_back = matches!(item.status, OutboxStatus::Skipped | OutboxStatus::Dead);
    say(item.permission.is_some() && gave_back, "holds a permission although nothing was sent");
    let owner = item.permission.as_deref().and_then(|p| p.split_once('|')).map(|(open_id, _)| open_id);
    // A message without a queue is an old one, too.
    say(
        item.permission.is_some() && item.queue.is_some() && owner != item.queue.as_deref(),
        "holds somebody else's permission",
    );
    off
}

impl Audit<'_> {
    /// A text that names a message was ordered in the transaction in which that message ended because nobody allowed it.
    pub(super) async fn check_texts_of(&mut self, items: &[OutboxItem]) -> Result<(), Error> {
        let of = |item: &OutboxItem| Some(item.id.strip_suffix(":sms").filter(|_| item.kind == "sms")?.to_owned());
        let messages: Vec<OutboxItem> = self.matching("outbox", "_id", items.iter().filter_map(of).collect()).await?;
        for (text, id) in items.iter().filter_map(|item| Some((item, of(item)?))) {
            let replaced = |message: &OutboxItem| {
                message.status == OutboxStatus::Skipped && message.reason.as_deref() == Some("NO_SUBSCRIPTION")
            };
            // Without a message the text was planned in the first place.
            if messages.iter().any(|message| message.id == id && !replaced(message)) {
                let path = format!("outbox/{}", text.id);
                self.violation("outbox", "a text takes the place of a message that was not refused", path);
            }
        }
        Ok(())
    }

    /// Every permission that a user gave is there, with a message, or void; and the messages hold what they are said to hold.
    pub(super) async fn subscriptions(&mut self) -> Result<(), Error> {
        let mut after: Option<Bson> = None;
        loop {
            let batch: Batch<Subscription> = self.batch("subscriptions", "subscription", after).await?;
            let ids: Vec<String> = batch.rows.iter().map(|s| s.id.clone()).collect();
            let held = self.permissions_held(&ids).await?;
            for row in &batch.rows {
                let mut say =
                    |message: &str| self.violation("subscription", message, format!("subscriptions/{}", row.id));
                if row.id != Subscription::key(&row.open_id, &row.template_id) {
                    say("is somebody else's than its key says");
                }
                let parts = [row.available, row.taken, row.voided];
                if parts.iter().chain([&row.accepted]).any(|n| *n < 0) {
                    say("counts less than nothing");
                }
                if parts.iter().fold(0i64, |sum, n| sum.saturating_add(*n)) != row.accepted {
                    say("accepted is not available, taken and voided together");
                }
                if row.taken != held.get(&row.id).copied().unwrap_or(0) {
                    say("taken is not what messages hold");
                }
            }
            match batch.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        self.permissions_of_nobody().await
    }

    async fn permissions_held(&mut self, ids: &[String]) -> Result<BTreeMap<String, i64>, Error> {
        let collection = self.collection("outbox").await?;
        let pipeline = vec![
            doc! { "$match": { "permission": { "$in": ids } } },
            doc! { "$group": { "_id": "$permission", "n": { "$sum": 1i64 } } },
        ];
        let mut cursor = collection.aggregate(pipeline).session(&mut self.session).await?;
        let rows: Vec<Document> = cursor.stream(&mut self.session).try_collect().await?;
        let count = |row: &Document| Some((row.get_str("_id").ok()?.to_owned(), crate::book::number(row, "n")));
        Ok(rows.iter().filter_map(count).collect())
    }

    async fn permissions_of_nobody(&mut self) -> Result<(), Error> {
        let collection = self.collection("outbox").await?;
        let pipeline = vec![
            doc! { "$match": { "permission": { "$exists": true } } },
            doc! { "$group": { "_id": "$permission", "item": { "$first": "$_id" } } },
            doc! { "$lookup": { "from": "subscriptions", "localField": "_id", "foreignField": "_id", "as": "given" } },
            doc! { "$match": { "given": { "$size": 0i32 } } },
        ];
        let hint = Hint::Name("permission".to_owned());
        let run = collection.aggregate(pipeline).hint(hint).allow_disk_use(true);
        let mut cursor = run.session(&mut self.session).await?;
        let rows: Vec<Document> = cursor.stream(&mut self.session).try_collect().await?;
        for row in rows {
            let item = row.get_str("item").unwrap_or("?");
            self.violation("subscription", "a message holds a permission that nobody gave", format!("outbox/{item}"));
        }
        Ok(())
    }

    /// Whoever was assigned a customer is told so by a message that names the customer.
    pub(super) async fn assignments(&mut self) -> Result<(), Error> {
        let mut after: Option<Bson> = None;
        loop {
            let batch: Batch<Row> = self.batch("assignments", "assignment", after).await?;
            let messages = batch.rows.iter().filter_map(|r| r.message_id.clone()).collect();
            let items: Vec<OutboxItem> = self.matching("outbox", "_id", messages).await?;
            let items: BTreeMap<&str, &OutboxItem> = items.iter().map(|i| (i.id.as_str(), i)).collect();
            for row in &batch.rows {
                let mut say = |message: &str| self.violation("assignment", message, format!("assignments/{}", row.id));
                if !row.id.starts_with(&format!("{}|", row.customer_id)) {
                    say("is about another customer than its key says");
                }
                let Some(message) = &row.message_id else { continue };
                match items.get(message.as_str()) {
                    None => say("is told by a message that is not there"),
                    Some(item) if !told(item).contains(&row.customer_id) => {
                        say("is told by a message that does not name the customer");
                    }
                    Some(_) => {}
                }
            }
            match batch.next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// What these delivered messages tell of was assigned: by them, or planned anew since.
    pub(super) async fn told_of_assignments(&mut self, items: &[OutboxItem]) -> Result<(), Error> {
        let delivered = |i: &&OutboxItem| i.kind == "message" && i.status == OutboxStatus::Delivered;
        let telling: Vec<(&OutboxItem, Vec<String>)> =
            items.iter().filter(delivered).map(|i| (i, told(i))).filter(|(_, told)| !told.is_empty()).collect();
        let customers = telling.iter().flat_map(|(_, told)| told.clone()).collect();
        let rows: Vec<Row> = self.matching("assignments", "customerId", customers).await?;
        let mut by_customer: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
        for row in &rows {
            by_customer.entry(row.customer_id.as_str()).or_default().push(row);
        }
        for (item, told) in telling {
            let known = told.iter().all(|customer| {
                by_customer.get(customer.as_str()).is_some_and(|rows| {
                    rows.iter().any(|r| r.message_id.as_deref() == Some(&item.id) || r.planned_at > item.created_at)
                })
            });
            if !known {
                self.violation("assignment", "was told and never made", format!("outbox/{}", item.id));
            }
        }
        Ok(())
    }
}
