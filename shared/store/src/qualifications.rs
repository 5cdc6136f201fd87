//! `lotteryQualifications`: rights to buy that a draw gave.

use bson::doc;
use chrono::{DateTime, Utc};
use domain::{Code, OpenId, OrderId, ProductId, Refusal, SkuId, UserId};
use serde::{Deserialize, Serialize};

use crate::book::{self, Entry};
use crate::stock::reserve_key;
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

    /// Whether it holds for exactly these pieces now; `QUALIFICATION_INVALID` with a stable `details.reason` if not.
    pub fn check(
        &self,
        product: &ProductId,
        sku: Option<&SkuId>,
        quantity: i64,
        now: DateTime<Utc>,
    ) -> Result<(), Refusal> {
        if self.status == QualificationStatus::Used {
            return Err(invalid("USED", "该购买资格已使用"));
        }
        if self.status == QualificationStatus::Expired || self.expire_time <= now {
            return Err(invalid("EXPIRED", "购买资格已过期"));
        }
        if (&self.product_id, self.sku_id.as_ref()) != (product, sku) {
            return Err(invalid("PRODUCT_MISMATCH", "购买资格不适用于该商品"));
        }
        if self.quantity != quantity {
            let message = format!("购买资格限购 {} 件，数量须一致", self.quantity);
            return Err(invalid("QUANTITY_MISMATCH", message).detail("quantity", self.quantity));
        }
        Ok(())
    }

    /// The asset of the pieces that it holds.
    pub fn asset(&self) -> String {
        book::stock_asset(self.product_id.as_str(), self.sku_id.as_ref().map(SkuId::as_str))
    }

    /// The entry that books the reservation of an order that uses it: the pieces left the shelf when the right was granted.
    pub fn reserve_entry(&self, order: &OrderId, now: DateTime<Utc>) -> Entry {
        Entry::new(reserve_key(order), now).order(order).transfer(
            &self.asset(),
            book::QUALIFIED,
            book::RESERVED,
            self.quantity,
        )
    }
}

/// `QUALIFICATION_INVALID`; programs read `details.reason`.
pub fn invalid(reason: &str, message: impl Into<std::borrow::Cow<'static, str>>) -> Refusal {
    Refusal::new(Code::QualificationInvalid).with_message(message).detail("reason", reason)
}

/// The same answer for a right that is not there and one of somebody else.
pub fn not_found() -> Refusal {
    invalid("NOT_FOUND", "没有这个购买资格")
}

impl Store {
    pub async fn qualification(&self, id: &str) -> Result<Option<Qualification>, Error> {
        Ok(self.collection::<Qualification>("lotteryQualifications").await?.find_one(doc! { "_id": id }).await?)
    }
}

impl Tx {
    /// `active → used` by an order; `QUALIFICATION_INVALID` if another was first or its time is over.
    pub async fn use_qualification(
        &mut self,
        right: &Qualification,
        order: &OrderId,
        now: DateTime<Utc>,
    ) -> Result<(), Error> {
        let guard = doc! {
            "_id": &right.id, "status": "active", "expireTime": { "$gt": date::bson(now) },
            "userId": right.user_id.as_str(), "productId": right.product_id.as_str(), "quantity": right.quantity,
            // A filter for null finds the field that is absent.
            "skuId": right.sku_id.as_ref().map(SkuId::as_str),
        };
        let change = doc! { "$set": { "status": "used", "orderId": order.as_str() } };
        if self.update("lotteryQualifications", guard, change).await? {
            return Ok(());
        }
        let current = self.qualification(&right.id).await?;
        let current = current.filter(|q| q.user_id == right.user_id).ok_or_else(not_found)?;
        current.check(&right.product_id, right.sku_id.as_ref(), right.quantity, now)?;
        Err(Error::Invariant(format!("the right {} can be used and cannot", right.id)))
    }

    /// `used → active` when the order that holds it closes unpaid. Its time is not prolonged: where it is over, the right
    /// expires as any other.
    pub async fn give_back_qualification(&mut self, id: &str, order: &OrderId) -> Result<(), Error> {
        let guard = doc! { "_id": id, "status": "used", "orderId": order.as_str() };
        let change = doc! { "$set": { "status": "active" }, "$unset": { "orderId": "" } };
        if self.update("lotteryQualifications", guard, change).await? {
            return Ok(());
        }
        Err(Error::Invariant(format!("the right {id} is not held by its order {order}")))
    }

    pub async fn qualification(&mut self, id: &str) -> Result<Option<Qualification>, Error> {
        self.find_by_id("lotteryQualifications", id).await
    }
}
