//! `lotteryActivities`: what is drawn, when, by which rules.

use bson::doc;
use chrono::{DateTime, Utc};
use domain::draw::{BeaconSource, Mode, Unused};
use domain::{ProductId, SkuId};
use futures_util::TryStreamExt;
use serde::{Deserialize, Serialize};

use crate::page::{Page, PageRequest, Row};
use crate::{Error, Store, Tx, date};

/// A daily window in Shanghai, `HH:MM` each. An end that is not after the start is on the next day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    pub start: String,
    pub end: String,
}

/// Which beacon the rounds of an activity mix in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeaconChoice {
    pub source: BeaconSource,
    /// Which public figure, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// `lotteryActivities.status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ActivityStatus {
    #[serde(rename = "active")]
    Active,
    /// No new rounds; those already announced run to their end.
    #[serde(rename = "deleted")]
    Deleted,
}

/// A draw activity. Changing it changes only rounds that are not published yet.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Activity {
    #[serde(rename = "_id")]
    pub id: String,
    pub activity_name: String,
    pub product_id: ProductId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sku_id: Option<SkuId>,
    pub windows: Vec<Window>,
    #[serde(with = "date")]
    pub start_time: DateTime<Utc>,
    #[serde(with = "date")]
    pub end_time: DateTime<Utc>,
    pub mode: Mode,
    /// Basis points, for `fixed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub win_rate_bp: Option<u64>,
    /// Winners per round, at most.
    pub quota: u64,
    pub qualification_minutes: u64,
    /// Pieces per winner.
    pub quantity: u64,
    pub beacon: BeaconChoice,
    pub unused: Unused,
    pub status: ActivityStatus,
    #[serde(with = "date")]
    pub created_at: DateTime<Utc>,
    #[serde(with = "date")]
    pub updated_at: DateTime<Utc>,
}

impl Row for Activity {
    fn position(&self) -> (DateTime<Utc>, &str) {
        (self.created_at, &self.id)
    }
}

impl Store {
    pub async fn activity(&self, id: &str) -> Result<Option<Activity>, Error> {
        Ok(self.collection::<Activity>("lotteryActivities").await?.find_one(doc! { "_id": id }).await?)
    }

    /// Activities that were not deleted, newest first.
    pub async fn activities(&self, page: &PageRequest) -> Result<Page<Activity>, Error> {
        self.page("lotteryActivities", doc! { "status": "active" }, page).await
    }

    /// Activities that may have rounds to publish.
    pub async fn live_activities(&self, now: DateTime<Utc>) -> Result<Vec<Activity>, Error> {
        let filter = doc! { "status": "active", "endTime": { "$gt": date::bson(now) } };
        Ok(self.collection::<Activity>("lotteryActivities").await?.find(filter).await?.try_collect().await?)
    }
}

impl Tx {
    pub async fn insert_activity(&mut self, activity: &Activity) -> Result<(), Error> {
        self.insert("lotteryActivities", activity).await
    }

    /// Writes what an operator may change; false when the activity is not there, was deleted, or changed since `read`.
    pub async fn update_activity(&mut self, activity: &Activity, read: DateTime<Utc>) -> Result<bool, Error> {
        let mut set = bson::serialize_to_document(activity)?;
        for fixed in ["_id", "createdAt", "status"] {
            set.remove(fixed);
        }
        let mut unset = bson::Document::new();
        for field in ["skuId", "winRateBp"] {
            if !set.contains_key(field) {
                unset.insert(field, "");
            }
        }
        let mut change = doc! { "$set": set };
        if !unset.is_empty() {
            change.insert("$unset", unset);
        }
        let guard = doc! { "_id": &activity.id, "status": "active", "updatedAt": date::bson(read) };
        self.update("lotteryActivities", guard, change).await
    }

    /// Ends an activity; false when it is not there.
    pub async fn delete_activity(&mut self, id: &str, now: DateTime<Utc>) -> Result<bool, Error> {
        let change = doc! { "$set": { "status": "deleted", "updatedAt": date::bson(now) } };
        self.update("lotteryActivities", doc! { "_id": id }, change).await
    }

    pub async fn activity(&mut self, id: &str) -> Result<Option<Activity>, Error> {
        self.find_by_id("lotteryActivities", id).await
    }
}
