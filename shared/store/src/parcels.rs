//! `parcels`: where couriers' parcels are, as far as anybody has told us, and when their service may be asked again.
//!
//! A parcel is written as a whole by whoever has read it, guarded by its `revision`. What its orders show of it is written to them in
//! the same transaction.

use bson::{Bson, Document, doc};
use chrono::{DateTime, TimeDelta, Utc};
use domain::{OrderId, ParcelState, UserId};
use futures_util::TryStreamExt;
use serde::{Deserialize, Serialize};

use crate::orders::{Order, ParcelSummary};
use crate::page::{Page, PageRequest, Row};
use crate::{Error, Store, Tx, date};

const PARCELS: &str = "parcels";

/// Entries of a trace that are kept, the newest ones.
pub const TRACES_KEPT: usize = 100;
/// Orders in one parcel at most.
pub const ORDERS_MAX: usize = 100;
/// Pushes that are told apart from repeated ones.
const PUSHES_KEPT: usize = 20;
/// Queries and subscriptions that are remembered; more in their time are not allowed anyway.
const TIMES_KEPT: usize = 48;
/// A parcel that no order of ours is in is forgotten after so long.
const KEEP: TimeDelta = TimeDelta::days(30);
/// Couriers' clocks, and labels that are printed before the money is in.
const TOO_EARLY: TimeDelta = TimeDelta::hours(24);

/// What staff should look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Attention {
    /// It goes back, or is back, or its label was cancelled.
    Returning,
    /// Something is wrong with it; it may still arrive.
    Problem,
    /// Nobody tells its news any more, and it has not arrived.
    Lost,
}

impl Attention {
    /// As it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Returning => "returning",
            Self::Problem => "problem",
            Self::Lost => "lost",
        }
    }
}

/// An order in a parcel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParcelOrder {
    pub order_id: OrderId,
    pub user_id: UserId,
}

/// One entry of a trace. Its text may name people, so `Debug` does not show it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParcelTrace {
    #[serde(with = "date")]
    pub at: DateTime<Utc>,
    /// In the courier's words, without phone numbers.
    pub text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// The state at that moment, where it is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<ParcelState>,
}

impl std::fmt::Debug for ParcelTrace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ParcelTrace").field("at", &self.at).field("state", &self.state).finish_non_exhaustive()
    }
}

/// How the subscription to a parcel's news stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Following {
    /// In the outbox.
    Pending,
    /// News come.
    Active,
    /// The parcel was signed for; no more news come.
    Ended,
    /// Given up by the courier service.
    Aborted,
    /// Refused by the courier service.
    Refused,
}

/// The newest subscription to a parcel's news.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParcelSubscription {
    /// Counts from 1.
    #[serde(deserialize_with = "domain::money::whole")]
    pub n: i64,
    pub state: Following,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A time in a list of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct At(#[serde(with = "date")] pub DateTime<Utc>);

/// A parcel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Parcel {
    /// See [`Parcel::key`].
    #[serde(rename = "_id")]
    pub id: String,
    /// Our code of the company that it was given to.
    pub company: String,
    /// The courier service's code of the company that has it; another one where the service found that we were wrong.
    pub com: String,
    pub number: String,
    /// Names it to the courier service; random.
    #[serde(rename = "ref")]
    pub reference: String,
    #[serde(default)]
    pub orders: Vec<ParcelOrder>,
    pub state: ParcelState,
    /// The courier service's code of the state, or a newer one that we do not know.
    #[serde(default)]
    pub code: String,
    /// When the newest entry happened.
    #[serde(default, with = "date::option", skip_serializing_if = "Option::is_none")]
    pub newest_at: Option<DateTime<Utc>>,
    /// Entries that the newest answer or push had, kept or not.
    #[serde(default, deserialize_with = "domain::money::whole")]
    pub trace_count: i64,
    /// Newest first.
    #[serde(default)]
    pub traces: Vec<ParcelTrace>,
    #[serde(default, with = "date::option", skip_serializing_if = "Option::is_none")]
    pub signed_at: Option<DateTime<Utc>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attention: Option<Attention>,
    /// More is expected to happen to it.
    pub open: bool,
    /// When the courier service was asked, oldest first.
    #[serde(default)]
    pub queries: Vec<At>,
    /// Not asked before.
    #[serde(default, with = "date::option", skip_serializing_if = "Option::is_none")]
    pub next_query_at: Option<DateTime<Utc>>,
    /// Queries in a row that told nothing.
    #[serde(default, deserialize_with = "domain::money::whole")]
    pub failures: i64,
    /// What the last query failed with, as a stable code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscription: Option<ParcelSubscription>,
    /// When the courier service took a subscription, oldest first.
    #[serde(default)]
    pub subscribed: Vec<At>,
    /// When the last one ended.
    #[serde(default, with = "date::option", skip_serializing_if = "Option::is_none")]
    pub unsubscribed_at: Option<DateTime<Utc>>,
    #[serde(default, with = "date::option", skip_serializing_if = "Option::is_none")]
    pub last_push_at: Option<DateTime<Utc>>,
    /// What the newest pushes are known by.
    #[serde(default)]
    pub pushes: Vec<String>,
    /// Raised by each write.
    #[serde(default, deserialize_with = "domain::money::whole")]
    pub revision: i64,
    #[serde(with = "date")]
    pub created_at: DateTime<Utc>,
    #[serde(with = "date")]
    pub updated_at: DateTime<Utc>,
    /// Forgotten then; only what no order is in.
    #[serde(default, with = "date::option", skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<DateTime<Utc>>,
}

impl Parcel {
    /// `_id`: one document for one parcel, however its number was typed.
    pub fn key(company: &str, number: &str) -> String {
        format!("{company}:{}", number.to_ascii_uppercase())
    }

    /// A parcel of which nothing is known yet.
    pub fn new(company: &str, com: &str, number: &str, now: DateTime<Utc>) -> Result<Self, Error> {
        Ok(Self {
            id: Self::key(company, number),
            company: company.to_owned(),
            com: com.to_owned(),
            number: number.to_ascii_uppercase(),
            reference: hex::encode(crate::random::<16>()?),
            orders: Vec::new(),
            state: ParcelState::Unknown,
            code: String::new(),
            newest_at: None,
            trace_count: 0,
            traces: Vec::new(),
            signed_at: None,
            attention: None,
            open: true,
            queries: Vec::new(),
            next_query_at: None,
            failures: 0,
            query_error: None,
            subscription: None,
            subscribed: Vec::new(),
            unsubscribed_at: None,
            last_push_at: None,
            pushes: Vec::new(),
            revision: 0,
            created_at: now,
            updated_at: now,
            expires_at: Some(now + KEEP),
        })
    }

    /// Notes that an order is in it.
    pub fn add_order(&mut self, order: &Order) {
        let known = self.orders.iter().any(|o| o.order_id == order.id);
        if !known {
            self.orders.push(ParcelOrder { order_id: order.id.clone(), user_id: order.user_id.clone() });
            self.expires_at = None;
        }
    }

    /// When an order arrived with it. A receipt from before the order was paid is another parcel's with the same number.
    pub fn arrived_at(&self, order: &Order) -> Option<DateTime<Utc>> {
        let paid = order.paid_at.unwrap_or(order.created_at);
        self.signed_at.filter(|at| *at + TOO_EARLY >= paid)
    }

    /// What an order shows of it.
    pub fn summary(&self, order: &Order) -> ParcelSummary {
        ParcelSummary {
            id: self.id.clone(),
            state: self.state,
            at: self.newest_at,
            arrived_at: self.arrived_at(order),
            attention: self.attention,
        }
    }

    /// Notes that a query was made.
    pub fn asked(&mut self, now: DateTime<Utc>) {
        remember(&mut self.queries, At(now), TIMES_KEPT);
    }

    /// Notes that a subscription was taken.
    pub fn followed(&mut self, now: DateTime<Utc>) {
        remember(&mut self.subscribed, At(now), TIMES_KEPT);
    }

    /// Notes a push; false if it was seen before.
    pub fn pushed(&mut self, known_by: String, now: DateTime<Utc>) -> bool {
        if self.pushes.contains(&known_by) {
            return false;
        }
        remember(&mut self.pushes, known_by, PUSHES_KEPT);
        self.last_push_at = Some(now);
        true
    }
}

fn remember<T>(list: &mut Vec<T>, item: T, max: usize) {
    list.push(item);
    let over = list.len().saturating_sub(max);
    list.drain(..over);
}

impl Row for Parcel {
    fn position(&self) -> (DateTime<Utc>, &str) {
        (self.created_at, &self.id)
    }
}

/// Which parcels a list shows.
#[derive(Clone, Debug, Default)]
pub struct ParcelFilter {
    /// Those on their way to this user.
    pub on_way_to: Option<UserId>,
    /// Those that staff should look at, for this or any reason.
    pub attention: Option<Attention>,
}

/// What a write sets: everything but what never changes, and what is counted.
fn change_of(parcel: &Parcel) -> Result<Document, Error> {
    let mut set = bson::serialize_to_document(parcel)?;
    for fixed in ["_id", "ref", "createdAt", "revision"] {
        set.remove(fixed);
    }
    let optional = [
        "newestAt",
        "signedAt",
        "attention",
        "nextQueryAt",
        "queryError",
        "subscription",
        "unsubscribedAt",
        "lastPushAt",
        "expiresAt",
    ];
    let unset: Document = optional
        .into_iter()
        .filter(|name| !set.contains_key(name))
        .map(|name| (name.to_owned(), Bson::from("")))
        .collect();
    let mut change = doc! { "$set": set, "$inc": { "revision": 1i64 } };
    if !unset.is_empty() {
        change.insert("$unset", unset);
    }
    Ok(change)
}

fn as_read(parcel: &Parcel) -> Document {
    doc! { "_id": &parcel.id, "revision": parcel.revision }
}

impl Store {
    pub async fn parcel(&self, id: &str) -> Result<Option<Parcel>, Error> {
        Ok(self.collection::<Parcel>(PARCELS).await?.find_one(doc! { "_id": id }).await?)
    }

    /// Writes a parcel as it was read and changed; false if somebody has written it since.
    pub async fn write_parcel(&self, parcel: &Parcel) -> Result<bool, Error> {
        let change = change_of(parcel)?;
        Ok(self.collection::<Parcel>(PARCELS).await?.update_one(as_read(parcel), change).await?.matched_count == 1)
    }

    /// Keeps a parcel unless there is one already; returns the one that is kept.
    pub async fn keep_parcel(&self, parcel: Parcel) -> Result<Parcel, Error> {
        match self.collection::<Parcel>(PARCELS).await?.insert_one(&parcel).await.map_err(Error::from) {
            Ok(_) => Ok(parcel),
            Err(error) if error.is_duplicate_of(PARCELS) => {
                let found = self.parcel(&parcel.id).await?;
                found.ok_or_else(|| Error::Invariant("a parcel is there and is not".to_owned()))
            }
            Err(error) => Err(error),
        }
    }

    /// Followed parcels of which nothing was heard since `before`, those from after `made_after`; the longest silent ones first.
    pub async fn silent_parcels(
        &self,
        before: DateTime<Utc>,
        made_after: DateTime<Utc>,
        limit: i64,
    ) -> Result<Vec<Parcel>, Error> {
        let silent = doc! {
            "open": true,
            "updatedAt": { "$lte": date::bson(before) },
            "createdAt": { "$gt": date::bson(made_after) },
            "subscription": { "$exists": true },
        };
        let parcels = self.collection::<Parcel>(PARCELS).await?;
        Ok(parcels.find(silent).sort(doc! { "updatedAt": 1 }).limit(limit).await?.try_collect().await?)
    }

    /// Parcels, newest first.
    pub async fn parcels(&self, filter: &ParcelFilter, page: &PageRequest) -> Result<Page<Parcel>, Error> {
        let mut query = doc! {};
        if let Some(user) = &filter.on_way_to {
            query.insert("orders.userId", user.as_str());
            query.insert("open", true);
        }
        match filter.attention {
            Some(attention) => drop(query.insert("attention", attention.as_str())),
            None if filter.on_way_to.is_none() => {
                drop(query.insert("attention", doc! { "$exists": true }));
            }
            None => {}
        }
        self.page(PARCELS, query, page).await
    }
}

impl Tx {
    pub async fn parcel(&mut self, id: &str) -> Result<Option<Parcel>, Error> {
        self.find_by_id(PARCELS, id).await
    }

    /// By what it is called in the addresses that its pushes come to.
    pub async fn parcel_by_ref(&mut self, reference: &str) -> Result<Option<Parcel>, Error> {
        Ok(self.find(PARCELS, doc! { "ref": reference }).await?.pop())
    }

    pub async fn insert_parcel(&mut self, parcel: &Parcel) -> Result<(), Error> {
        self.insert(PARCELS, parcel).await
    }

    /// Writes a parcel as it was read and changed.
    pub async fn write_parcel(&mut self, parcel: &Parcel) -> Result<(), Error> {
        match self.update(PARCELS, as_read(parcel), change_of(parcel)?).await? {
            true => Ok(()),
            false => Err(Error::Invariant(format!("parcel {} changed within a snapshot", parcel.id))),
        }
    }

    /// Shows an order how its parcel is; false if the order is not in that parcel.
    pub async fn show_parcel(&mut self, order: &OrderId, summary: &ParcelSummary) -> Result<bool, Error> {
        let guard = doc! { "_id": order.as_str(), "shipping.parcel.id": &summary.id };
        self.update("orders", guard, doc! { "$set": { "shipping.parcel": bson::serialize_to_bson(summary)? } }).await
    }

    /// Puts an order that was shipped already into a parcel; false if it is in one.
    pub async fn put_into_parcel(&mut self, order: &OrderId, summary: &ParcelSummary) -> Result<bool, Error> {
        let guard = doc! {
            "_id": order.as_str(), "shipping.logistics": "express", "shipping.parcel": { "$exists": false },
        };
        let change = doc! {
            "$set": { "shipping.parcel": bson::serialize_to_bson(summary)? }, "$unset": { "shipping.untracked": "" },
        };
        self.update("orders", guard, change).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_stay_as_short_as_they_may_be() {
        let now = DateTime::from_timestamp(0, 0).unwrap();
        let mut parcel = Parcel::new("YTO", "yuantong", "yt123456", now).unwrap();
        assert_eq!((parcel.id.as_str(), parcel.number.as_str()), ("YTO:YT123456", "YT123456"));
        for n in 0..100 {
            assert!(parcel.pushed(format!("p{n}"), now));
            parcel.asked(now);
        }
        assert!(!parcel.pushed("p99".to_owned(), now) && parcel.pushed("p0".to_owned(), now));
        assert_eq!((parcel.pushes.len(), parcel.queries.len()), (PUSHES_KEPT, TIMES_KEPT));
    }

    #[test]
    fn a_write_leaves_alone_what_never_changes_and_takes_away_what_is_gone() {
        let now = DateTime::from_timestamp(0, 0).unwrap();
        let change = change_of(&Parcel::new("YTO", "yuantong", "YT123456", now).unwrap()).unwrap();
        let (set, unset) = (change.get_document("$set").unwrap(), change.get_document("$unset").unwrap());
        assert!(!set.contains_key("_id") && !set.contains_key("ref") && set.contains_key("state"));
        assert!(unset.contains_key("signedAt") && !unset.contains_key("expiresAt"));
    }
}
