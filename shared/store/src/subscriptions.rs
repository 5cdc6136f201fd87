//! `subscriptions`: how many messages of a template each user has agreed to.
//!
//! WeChat lets one message through for each accepted one-time subscription and tells nobody how many are left, so they are counted
//! here. A message takes one in the transaction in which it is planned or begun; one that was certainly not sent gives it back.

use bson::{Bson, doc};
use chrono::{DateTime, Utc};
use domain::OpenId;
use futures_util::TryStreamExt;
use serde::{Deserialize, Serialize};

use crate::{Error, Store, Tx, date};

/// More than anybody will ever be sent; a client that claims acceptances nobody gave gets no further.
const AVAILABLE_MAX: i64 = 1_000;

/// `subscriptions.choice`: what the user answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Choice {
    #[serde(rename = "accept")]
    Accept,
    #[serde(rename = "reject")]
    Reject,
    /// Forbidden by WeChat or by the user's settings.
    #[serde(rename = "ban")]
    Ban,
}

/// One user's agreement to one template, in messages. `accepted = available + taken + voided`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Subscription {
    #[serde(rename = "_id")]
    pub id: String,
    pub open_id: OpenId,
    pub template_id: String,
    pub choice: Choice,
    #[serde(deserialize_with = "domain::money::whole")]
    pub available: i64,
    #[serde(deserialize_with = "domain::money::whole")]
    pub accepted: i64,
    /// Held or used by messages of the outbox.
    #[serde(deserialize_with = "domain::money::whole")]
    pub taken: i64,
    /// Found to be worth nothing when WeChat refused a message.
    #[serde(deserialize_with = "domain::money::whole")]
    pub voided: i64,
    #[serde(default, with = "date::option", skip_serializing_if = "Option::is_none")]
    pub accepted_at: Option<DateTime<Utc>>,
    #[serde(with = "date")]
    pub updated_at: DateTime<Utc>,
}

impl Subscription {
    /// `_id` of a user's agreement to a template.
    pub fn key(open_id: &OpenId, template_id: &str) -> String {
        format!("{}|{template_id}", open_id.as_str())
    }
}

impl Store {
    /// All agreements of a user.
    pub async fn subscriptions(&self, open_id: &OpenId) -> Result<Vec<Subscription>, Error> {
        let found = self.collection::<Subscription>("subscriptions").await?;
        Ok(found.find(doc! { "openId": open_id.as_str() }).await?.try_collect().await?)
    }

    /// Which of these agreements still allow a message.
    pub async fn permitted(&self, ids: &[String]) -> Result<Vec<String>, Error> {
        let found = self.collection::<Subscription>("subscriptions").await?;
        let filter = doc! { "_id": { "$in": ids }, "available": { "$gte": 1i64 } };
        let rows: Vec<Subscription> = found.find(filter).await?.try_collect().await?;
        Ok(rows.into_iter().map(|row| row.id).collect())
    }
}

/// What became of the message is certain all the same, so it ends; the audit shows the sums that do not fit.
fn nobody_gave(id: &str) {
    let template_id = id.split_once('|').map_or("", |(_, template_id)| template_id);
    tracing::error!(template_id, "INVARIANT_PERMISSION a message held a permission that nobody gave");
}

impl Tx {
    /// Takes one message's worth of an agreement; false when none is left. The caller writes the id to `outbox.permission` in the
    /// same transaction.
    pub async fn take_permission(&mut self, id: &str, now: DateTime<Utc>) -> Result<bool, Error> {
        let change = doc! { "$inc": { "available": -1i64, "taken": 1i64 }, "$set": { "updatedAt": date::bson(now) } };
        self.update("subscriptions", doc! { "_id": id, "available": { "$gte": 1i64 } }, change).await
    }

    /// Takes one message's worth of each of these agreements, which are different ones; answers those that had one left.
    pub async fn take_permissions(&mut self, ids: &[String], now: DateTime<Utc>) -> Result<Vec<String>, Error> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let left = doc! { "_id": { "$in": ids }, "available": { "$gte": 1i64 } };
        let rows: Vec<Subscription> = self.find("subscriptions", left).await?;
        let taken: Vec<String> = rows.into_iter().map(|row| row.id).collect();
        if taken.is_empty() {
            return Ok(taken);
        }
        let guard = doc! { "_id": { "$in": &taken }, "available": { "$gte": 1i64 } };
        let change = doc! { "$inc": { "available": -1i64, "taken": 1i64 }, "$set": { "updatedAt": date::bson(now) } };
        let target = self.collection::<bson::Document>("subscriptions");
        let result = target.update_many(guard, change).session(&mut self.session).await?;
        if u64::try_from(taken.len()) == Ok(result.matched_count) {
            return Ok(taken);
        }
        Err(Error::Invariant("permissions changed within a transaction".to_owned()))
    }

    /// Gives back what a message took that was certainly not sent.
    pub async fn give_back_permission(&mut self, id: &str, now: DateTime<Utc>) -> Result<(), Error> {
        let change = doc! { "$inc": { "available": 1i64, "taken": -1i64 }, "$set": { "updatedAt": date::bson(now) } };
        if !self.update("subscriptions", doc! { "_id": id, "taken": { "$gte": 1i64 } }, change).await? {
            nobody_gave(id);
        }
        Ok(())
    }

    /// Writes off what a message took and WeChat did not honour, and what is left with it, unless the user agreed again after
    /// `tried_at`.
    pub async fn void_permission(
        &mut self,
        id: &str,
        tried_at: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<(), Error> {
        let newer = doc! { "$gt": ["$acceptedAt", date::bson(tried_at)] };
        let change = vec![doc! { "$set": {
            "taken": { "$subtract": ["$taken", 1i64] },
            "voided": { "$add": ["$voided", 1i64, { "$cond": [newer.clone(), 0i64, "$available"] }] },
            "available": { "$cond": [newer, "$available", 0i64] },
            "updatedAt": date::bson(now),
        } }];
        let target = self.collection::<bson::Document>("subscriptions");
        let guard = doc! { "_id": id, "taken": { "$gte": 1i64 } };
        let result = target.update_one(guard, change).session(&mut self.session).await?;
        if result.matched_count == 0 {
            nobody_gave(id);
        }
        Ok(())
    }

    /// All agreements of a user.
    pub async fn subscriptions(&mut self, open_id: &OpenId) -> Result<Vec<Subscription>, Error> {
        self.find("subscriptions", doc! { "openId": open_id.as_str() }).await
    }

    /// Records a user's answer; `accept` allows one more message, up to a thousand.
    pub async fn record_choice(
        &mut self,
        open_id: &OpenId,
        template_id: &str,
        choice: Choice,
        now: DateTime<Utc>,
    ) -> Result<(), Error> {
        let so_far = |field: &str| doc! { "$ifNull": [format!("${field}"), 0i64] };
        let more = match choice {
            Choice::Accept => {
                doc! { "$cond": [{ "$lt": [so_far("available"), AVAILABLE_MAX] }, 1i64, 0i64] }
            }
            Choice::Reject | Choice::Ban => doc! { "$literal": 0i64 },
        };
        let mut set = doc! {
            "openId": { "$literal": open_id.as_str() },
            "templateId": { "$literal": template_id },
            "choice": bson::serialize_to_bson(&choice).unwrap_or(Bson::Null),
            "available": { "$add": [so_far("available"), more.clone()] },
            "accepted": { "$add": [so_far("accepted"), more] },
            "taken": so_far("taken"),
            "voided": so_far("voided"),
            "updatedAt": date::bson(now),
        };
        if choice == Choice::Accept {
            set.insert("acceptedAt", date::bson(now));
        }
        let id = Subscription::key(open_id, template_id);
        let target = self.collection::<bson::Document>("subscriptions");
        let update = target.update_one(doc! { "_id": id }, vec![doc! { "$set": set }]);
        update.upsert(true).session(&mut self.session).await?;
        Ok(())
    }
}
