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

impl Tx {
    /// Takes one message's worth of an agreement; false when none is left. The caller writes the id to `outbox.permission` in the
    /// same transaction.
    pub async fn take_permission(&mut self, id: &str, now: DateTime<Utc>) -> Result<bool, Error> {
        let change = doc! { "$inc": { "available": -1i64, "taken": 1i64 }, "$set": { "updatedAt": date::bson(now) } };
        self.update("subscriptions", doc! { "_id": id, "available": { "$gte": 1i64 } }, change).await
    }

    /// Gives back what a message took that was certainly not sent.
    pub async fn give_back_permission(&mut self, id: &str, now: DateTime<Utc>) -> Result<(), Error> {
        let change = doc! { "$inc": { "available": 1i64, "taken": -1i64 }, "$set": { "updatedAt": date::bson(now) } };
        if self.update("subscriptions", doc! { "_id": id, "taken": { "$gte": 1i64 } }, change).await? {
            return Ok(());
        }
        Err(Error::Invariant("a message held a permission that nobody gave".to_owned()))
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
        if result.matched_count == 1 {
            return Ok(());
        }
        Err(Error::Invariant("a message held a permission that nobody gave".to_owned()))
    }

    /// Records a user's answer; `accept` allows one more message.
    pub async fn record_choice(
        &mut self,
        open_id: &OpenId,
        template_id: &str,
        choice: Choice,
        now: DateTime<Utc>,
    ) -> Result<(), Error> {
        let id = Subscription::key(open_id, template_id);
        let one = i64::from(choice == Choice::Accept);
        let mut set =
            doc! { "choice": bson::serialize_to_bson(&choice).unwrap_or(Bson::Null), "updatedAt": date::bson(now) };
        if choice == Choice::Accept {
            set.insert("acceptedAt", date::bson(now));
        }
        let change = doc! {
            "$inc": { "available": one, "accepted": one },
            "$set": set,
            "$setOnInsert": { "openId": open_id.as_str(), "templateId": template_id, "taken": 0i64, "voided": 0i64 },
        };
        let target = self.collection::<bson::Document>("subscriptions");
        target.update_one(doc! { "_id": id }, change).upsert(true).session(&mut self.session).await?;
        Ok(())
    }
}
