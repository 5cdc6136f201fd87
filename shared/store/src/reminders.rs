//! Coins that are about to expire, each lot looked at once.
//!
//! A cursor in `cursors` walks through the lots in the order of their expiry. A new lot expires two days after it was granted, far
//! ahead of the cursor, so none is passed over; coins that an order gives back behind it are not looked at again.

use std::collections::HashSet;

use bson::{Document, doc};
use chrono::{DateTime, Utc};
use domain::UserId;
use futures_util::TryStreamExt;
use serde::{Deserialize, Serialize};

use crate::coins::CoinLot;
use crate::{Error, Store, Tx, date};

const CURSOR: &str = "coinReminders";

/// How far the reminders have come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cursor {
    #[serde(with = "date")]
    pub at: DateTime<Utc>,
    /// The last lot of those that expire at that moment.
    pub document: String,
}

/// A user's coins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Holding {
    #[serde(rename = "_id")]
    pub user_id: UserId,
    #[serde(deserialize_with = "domain::money::whole")]
    pub balance: i64,
    /// The part of `balance` that is about to expire.
    #[serde(deserialize_with = "domain::money::whole")]
    pub expiring: i64,
    /// When the first of them expire.
    #[serde(with = "date")]
    pub first: DateTime<Utc>,
}

impl Store {
    /// Where the next lots to look at begin; none before the first run.
    pub async fn coin_reminders_cursor(&self) -> Result<Option<Cursor>, Error> {
        Ok(self.collection::<Cursor>("cursors").await?.find_one(doc! { "_id": CURSOR }).await?)
    }

    /// Up to `limit` lots with coins after the cursor that expire until `until`, the first to expire first.
    pub async fn expiring_lots(&self, after: &Cursor, until: DateTime<Utc>, limit: i64) -> Result<Vec<CoinLot>, Error> {
        let at = date::bson(after.at);
        let filter = doc! {
            "remaining": { "$gt": 0i64 },
            "expiresAt": { "$gte": at.clone(), "$lte": date::bson(until) },
            "$or": [ { "expiresAt": { "$gt": at } }, { "_id": { "$gt": &after.document } } ],
        };
        let lots = self.collection::<CoinLot>("activityCoinLots").await?;
        // The index of what can be spent, in its order; with an index of its own per branch of the `$or` it would be sorted.
        let hint = mongodb::options::Hint::Name("expiresAt_remaining".to_owned());
        let find = lots.find(filter).sort(doc! { "expiresAt": 1, "_id": 1 }).hint(hint).limit(limit);
        Ok(find.await?.try_collect().await?)
    }

    /// What these users hold at `now`, of which that part is expiring whose time is over at `until`; who holds nothing is left out.
    pub async fn holdings(
        &self,
        users: &[String],
        until: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<Vec<Holding>, Error> {
        let soon = doc! { "$lte": ["$expiresAt", date::bson(until)] };
        let held = doc! {
            "userId": { "$in": users }, "expiresAt": { "$gt": date::bson(now) }, "remaining": { "$gt": 0i64 },
        };
        let pipeline = vec![
            doc! { "$match": held },
            doc! { "$group": {
                "_id": "$userId",
                "balance": { "$sum": "$remaining" },
                "expiring": { "$sum": { "$cond": [soon, "$remaining", 0i64] } },
                "first": { "$min": "$expiresAt" },
            } },
        ];
        let lots = self.collection::<Document>("activityCoinLots").await?;
        let found: Vec<Document> = lots.aggregate(pipeline).await?.try_collect().await?;
        Ok(found.into_iter().map(bson::deserialize_from_document).collect::<Result<_, _>>()?)
    }
}

impl Tx {
    /// Moves the cursor; false if it is not where it was read.
    pub async fn move_coin_reminders(&mut self, from: Option<&Cursor>, to: &Cursor) -> Result<bool, Error> {
        let to = bson::serialize_to_document(to)?;
        let Some(from) = from else {
            if self.find_by_id::<Document>("cursors", CURSOR).await?.is_some() {
                return Ok(false);
            }
            let mut first = doc! { "_id": CURSOR };
            first.extend(to);
            self.insert("cursors", &first).await?;
            return Ok(true);
        };
        let guard = doc! { "_id": CURSOR, "at": date::bson(from.at), "document": &from.document };
        self.update("cursors", guard, doc! { "$set": to }).await
    }

    /// Which of these items there are.
    pub async fn enqueued(&mut self, ids: &[String]) -> Result<HashSet<String>, Error> {
        let target = self.collection::<Document>("outbox");
        let find = target.find(doc! { "_id": { "$in": ids } }).projection(doc! { "_id": 1 });
        let mut cursor = find.session(&mut self.session).await?;
        let rows: Vec<Document> = cursor.stream(&mut self.session).try_collect().await?;
        Ok(rows.iter().filter_map(|row| row.get_str("_id").ok().map(str::to_owned)).collect())
    }
}
