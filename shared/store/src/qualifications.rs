//! `lotteryQualifications`: rights to buy that a draw gave.

use bson::doc;
use chrono::{DateTime, Utc};
use domain::{OpenId, OrderId, ProductId, SkuId, UserId};
use serde::{Deserialize, Serialize};

use crate::{Error, Store, Tx, date};

/// `lotteryQualifications.status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum QualificationStatus {
    /// May be used until `expireTime`.
    #[serde(rename = "active")]
    Active,
    /// An order holds it.
    #[serde(rename = "used")]
    Used,
    /// Its time ran out; the pieces went to the next of the waiting list or back to the shelf.
    #[serde(rename = "expired")]
    Expired,
}

/// How a right came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Via {
    #[serde(rename = "draw")]
    Draw,
    #[serde(rename = "waitingList")]
    WaitingList,
}

/// A right to buy `quantity` pieces of one product until `expireTime`. `_id` is `{roundId}-{ticketId}`: one per ticket.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Qualification {
    #[serde(rename = "_id")]
    pub id: String,
    pub round_id: String,
    pub activity_id: String,
    /// The ticket that won, public.
    pub ticket_id: String,
    pub user_id: UserId,
    pub open_id: OpenId,
    pub product_id: ProductId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sku_id: Option<SkuId>,
    /// Pieces, exactly as many as the order must have.
    #[serde(deserialize_with = "domain::money::whole")]
    pub quantity: i64,
    /// The ticket's place in the ranking, from 0.
    #[serde(deserialize_with = "domain::money::whole")]
    pub rank: i64,
    pub via: Via,
    pub status: QualificationStatus,
    /// The order that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_id: Option<OrderId>,
    #[serde(with = "date")]
    pub granted_at: DateTime<Utc>,
    #[serde(with = "date")]
    pub expire_time: DateTime<Utc>,
}

impl Qualification {
    /// The `_id` of the right that a ticket of a round may have.
    pub fn key(round_id: &str, ticket_id: &str) -> String {
        format!("{round_id}-{ticket_id}")
    }
}

impl Store {
    pub async fn qualification(&self, id: &str) -> Result<Option<Qualification>, Error> {
        Ok(self.collection::<Qualification>("lotteryQualifications").await?.find_one(doc! { "_id": id }).await?)
    }
}

impl Tx {
    pub async fn qualification(&mut self, id: &str) -> Result<Option<Qualification>, Error> {
        self.find_by_id("lotteryQualifications", id).await
    }
}
