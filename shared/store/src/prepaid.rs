//! `prepaidRecords` and `prepaidDeductions`: prepaid money (fen) and prepaid goods (pieces) of customers.

use bson::{Document, doc};
use chrono::{DateTime, Utc};
use domain::{CustomerId, ProductId, UserId};
use futures_util::TryStreamExt;
use serde::{Deserialize, Serialize};

use crate::page::{Page, PageRequest, Row};
use crate::{Error, Store, Tx, date};

/// What a record holds, and what a deduction takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PrepaidType {
    /// Fen; pays for anything.
    #[serde(rename = "amount")]
    Amount,
    /// Pieces of one product; pays for exactly that product.
    #[serde(rename = "product")]
    Product,
}

impl PrepaidType {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Amount => "amount",
            Self::Product => "product",
        }
    }

    /// The asset of the book that it is counted in.
    pub fn asset(self, product: Option<&ProductId>) -> String {
        match (self, product) {
            (Self::Product, Some(product)) => format!("pieces:{product}"),
            _ => "fen".to_owned(),
        }
    }
}

/// `prepaidRecords.linkStatus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LinkStatus {
    #[serde(rename = "linked")]
    Linked,
    #[serde(rename = "unlinked")]
    Unlinked,
}

/// One prepayment. `balance` is fen or pieces.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PrepaidRecord {
    #[serde(rename = "_id")]
    pub id: String,
    pub customer_id: CustomerId,
    #[serde(rename = "type")]
    pub prepaid_type: PrepaidType,
    pub asset: String,
    #[serde(deserialize_with = "domain::money::whole")]
    pub balance: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product_id: Option<ProductId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product_name: Option<String>,
    #[serde(default)]
    pub remark: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linked_user_id: Option<UserId>,
    #[serde(default, with = "date::option", skip_serializing_if = "Option::is_none")]
    pub link_time: Option<DateTime<Utc>>,
    pub link_status: LinkStatus,
    #[serde(with = "date")]
    pub created_at: DateTime<Utc>,
}

impl PrepaidRecord {
    /// The account of its balance.
    pub fn account(id: &str) -> String {
        format!("prepaidRecords/{id}#balance")
    }
}

impl Row for PrepaidRecord {
    fn position(&self) -> (DateTime<Utc>, &str) {
        (self.created_at, &self.id)
    }
}

/// `prepaidDeductions.status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeductionStatus {
    #[serde(rename = "deducted")]
    Deducted,
    /// Everything was given back.
    #[serde(rename = "restored")]
    Restored,
}

/// What one record gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeductionDetail {
    pub record_id: String,
    #[serde(deserialize_with = "domain::money::whole")]
    pub before: i64,
    #[serde(deserialize_with = "domain::money::whole")]
    pub deducted: i64,
    #[serde(deserialize_with = "domain::money::whole")]
    pub after: i64,
}

/// What one record got back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoredDetail {
    pub record_id: String,
    #[serde(deserialize_with = "domain::money::whole")]
    pub amount: i64,
}

/// What a refund of the order gave back of a deduction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeductionRefund {
    pub refund_id: String,
    #[serde(deserialize_with = "domain::money::whole")]
    pub amount: i64,
    pub details: Vec<RestoredDetail>,
    pub entry_id: String,
    #[serde(with = "date")]
    pub at: DateTime<Utc>,
}

/// What an order took from a customer's records of one type (and product).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PrepaidDeduction {
    /// [`PrepaidDeduction::key`]
    #[serde(rename = "_id")]
    pub id: String,
    pub customer_id: CustomerId,
    pub order_id: String,
    pub prepaid_type: PrepaidType,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product_id: Option<ProductId>,
    /// Asked for.
    #[serde(deserialize_with = "domain::money::whole")]
    pub total_amount: i64,
    /// Taken.
    #[serde(deserialize_with = "domain::money::whole")]
    pub deducted_amount: i64,
    pub details: Vec<DeductionDetail>,
    /// What refunds of the order gave back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refunds: Vec<DeductionRefund>,
    pub status: DeductionStatus,
    pub entry_id: String,
    #[serde(with = "date")]
    pub created_at: DateTime<Utc>,
    #[serde(default, with = "date::option", skip_serializing_if = "Option::is_none")]
    pub restored_at: Option<DateTime<Utc>>,
}

impl PrepaidDeduction {
    /// The natural key: an order takes from each type, and of goods from each product, once.
    pub fn key(order_id: &str, prepaid_type: PrepaidType, product: Option<&ProductId>) -> String {
        let product = product.map_or_else(String::new, |p| format!("|{p}"));
        format!("{order_id}|{}{product}", prepaid_type.as_str())
    }

    /// What refunds of the order gave back: fen or pieces.
    pub fn refunded(&self) -> i64 {
        self.refunds.iter().fold(0i64, |sum, refund| sum.saturating_add(refund.amount))
    }
}

impl Row for PrepaidDeduction {
    fn position(&self) -> (DateTime<Utc>, &str) {
        (self.created_at, &self.id)
    }
}

/// `updatePrepaidProduct`: what staff changed by hand. `_id` is the entry's.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PrepaidChange {
    #[serde(rename = "_id")]
    pub id: String,
    pub record_id: String,
    pub customer_id: CustomerId,
    /// `increase`, `decrease` or `set`.
    pub update_type: String,
    #[serde(deserialize_with = "domain::money::whole")]
    pub change: i64,
    #[serde(deserialize_with = "domain::money::whole")]
    pub balance: i64,
    pub reason: String,
    pub entry_id: String,
    #[serde(with = "date")]
    pub created_at: DateTime<Utc>,
}

impl Store {
    pub async fn prepaid_record(&self, id: &str) -> Result<Option<PrepaidRecord>, Error> {
        Ok(self.collection::<PrepaidRecord>("prepaidRecords").await?.find_one(doc! { "_id": id }).await?)
    }

    /// A customer's records, newest first.
    pub async fn prepaid_records(
        &self,
        customer: &CustomerId,
        page: &PageRequest,
    ) -> Result<Page<PrepaidRecord>, Error> {
        self.page("prepaidRecords", doc! { "customerId": customer.as_str() }, page).await
    }

    /// All of a customer's records, oldest first: the order in which they pay.
    pub async fn all_prepaid_records(&self, customer: &CustomerId) -> Result<Vec<PrepaidRecord>, Error> {
        let records = self.collection::<PrepaidRecord>("prepaidRecords").await?;
        let found = records.find(doc! { "customerId": customer.as_str() }).sort(doc! { "createdAt": 1, "_id": 1 });
        Ok(found.await?.try_collect().await?)
    }

    /// What was taken from a customer, newest first.
    pub async fn prepaid_deductions(
        &self,
        customer: &CustomerId,
        page: &PageRequest,
    ) -> Result<Page<PrepaidDeduction>, Error> {
        self.page("prepaidDeductions", doc! { "customerId": customer.as_str() }, page).await
    }

    pub async fn prepaid_deduction(&self, id: &str) -> Result<Option<PrepaidDeduction>, Error> {
        Ok(self.collection::<PrepaidDeduction>("prepaidDeductions").await?.find_one(doc! { "_id": id }).await?)
    }

    /// How often a customer's prepaid was used since an instant.
    pub async fn count_deductions_since(&self, customer: &CustomerId, since: DateTime<Utc>) -> Result<u64, Error> {
        let filter = doc! { "customerId": customer.as_str(), "createdAt": { "$gte": date::bson(since) } };
        Ok(self.collection::<Document>("prepaidDeductions").await?.count_documents(filter).await?)
    }
}

impl Tx {
    pub async fn prepaid_record(&mut self, id: &str) -> Result<Option<PrepaidRecord>, Error> {
        self.find_by_id("prepaidRecords", id).await
    }

    /// A customer's records of one asset that hold something, oldest first; of these ids only, if given.
    pub async fn paying_records(
        &mut self,
        customer: &CustomerId,
        asset: &str,
        ids: Option<&[String]>,
    ) -> Result<Vec<PrepaidRecord>, Error> {
        let mut filter = doc! { "customerId": customer.as_str(), "asset": asset, "balance": { "$gt": 0i64 } };
        if let Some(ids) = ids {
            filter.insert("_id", doc! { "$in": ids });
        }
        let records = self.collection::<PrepaidRecord>("prepaidRecords");
        let find = records.find(filter).sort(doc! { "createdAt": 1, "_id": 1 });
        let mut cursor = find.session(&mut self.session).await?;
        Ok(cursor.stream(&mut self.session).try_collect().await?)
    }

    pub async fn insert_prepaid_record(&mut self, record: &PrepaidRecord) -> Result<(), Error> {
        self.insert("prepaidRecords", record).await
    }

    pub async fn prepaid_deduction(&mut self, id: &str) -> Result<Option<PrepaidDeduction>, Error> {
        self.find_by_id("prepaidDeductions", id).await
    }

    pub async fn insert_prepaid_deduction(&mut self, deduction: &PrepaidDeduction) -> Result<(), Error> {
        self.insert("prepaidDeductions", deduction).await
    }

    /// What one of our orders took.
    pub async fn deductions_of(&mut self, order_id: &str) -> Result<Vec<PrepaidDeduction>, Error> {
        self.find("prepaidDeductions", doc! { "orderId": order_id }).await
    }

    /// Adds what a refund gives back; the row is restored once nothing is left. It must be as it was read.
    pub async fn refund_deduction(
        &mut self,
        row: &PrepaidDeduction,
        refund: &DeductionRefund,
        now: DateTime<Utc>,
    ) -> Result<(), Error> {
        let back = row.refunded().saturating_add(refund.amount);
        let mut change = doc! { "$push": { "refunds": bson::serialize_to_bson(refund)? } };
        if back >= row.deducted_amount {
            change.insert("$set", doc! { "status": "restored", "restoredAt": date::bson(now) });
        }
        let guard = doc! { "_id": &row.id, "status": "deducted", "refunds.refundId": { "$ne": &refund.refund_id } };
        if back <= row.deducted_amount && self.update("prepaidDeductions", guard, change).await? {
            return Ok(());
        }
        Err(Error::Invariant(format!("deduction {} cannot give back {}", row.id, refund.amount)))
    }

    /// `deducted → restored` for every row of an order; returns how many.
    pub async fn mark_deductions_restored(
        &mut self,
        entry_id: &str,
        order_id: &str,
        now: DateTime<Utc>,
    ) -> Result<u64, Error> {
        let rows = self.collection::<Document>("prepaidDeductions");
        let update = rows.update_many(
            doc! { "orderId": order_id, "entryId": entry_id, "status": "deducted" },
            doc! { "$set": { "status": "restored", "restoredAt": date::bson(now) } },
        );
        Ok(update.session(&mut self.session).await?.matched_count)
    }

    pub async fn insert_prepaid_change(&mut self, change: &PrepaidChange) -> Result<(), Error> {
        self.insert("updatePrepaidProduct", change).await
    }

    pub async fn prepaid_change(&mut self, id: &str) -> Result<Option<PrepaidChange>, Error> {
        self.find_by_id("updatePrepaidProduct", id).await
    }
}
