//! `bills`: which days were compared with WeChat Pay's bills, and what our books know of such a day.
//!
//! The newest document is also where the daily run goes on. A difference is a document of `paymentExceptions` under a key of its
//! own, inserted together with the count in the day's document, so that the two agree however often and by whomever a day is
//! compared.

use bson::{Bson, Document, doc};
use chrono::{DateTime, Utc};
use domain::{BusinessDay, Fen, OrderId};
use futures_util::TryStreamExt;
use serde::{Deserialize, Serialize};

use crate::payments::{ExceptionStatus, Payment, PaymentException};
use crate::refunds::{Refund, RefundNumber};
use crate::{Error, Store, crashpoint, date};

const BILLS: &str = "bills";
const EXCEPTIONS: &str = "paymentExceptions";
const REFUNDS: &str = "refunds";

/// `bills.status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BillStatus {
    /// Not compared to the end yet.
    #[serde(rename = "open")]
    Open,
    #[serde(rename = "done")]
    Done,
    /// A day without any trade.
    #[serde(rename = "none")]
    None,
}

impl BillStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Done => "done",
            Self::None => "none",
        }
    }
}

/// A day whose bill was or has to be compared.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bill {
    /// `YYYY-MM-DD`
    #[serde(rename = "_id")]
    pub day: String,
    pub status: BillStatus,
    /// Documents of `paymentExceptions` with this day.
    #[serde(deserialize_with = "domain::money::whole")]
    pub differences: i64,
    /// Rows and fen of the bill, once it was compared.
    #[serde(default, deserialize_with = "domain::money::whole")]
    pub payments: i64,
    #[serde(default, deserialize_with = "domain::money::whole")]
    pub paid_fen: i64,
    #[serde(default, deserialize_with = "domain::money::whole")]
    pub refunds: i64,
    #[serde(default, deserialize_with = "domain::money::whole")]
    pub refund_fen: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha1: Option<String>,
    #[serde(deserialize_with = "domain::money::whole")]
    pub tries: i64,
    #[serde(default, with = "date::option", skip_serializing_if = "Option::is_none")]
    pub next_attempt_at: Option<DateTime<Utc>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    #[serde(with = "date")]
    pub created_at: DateTime<Utc>,
    #[serde(default, with = "date::option", skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<DateTime<Utc>>,
}

/// What a bill adds up to, in rows and fen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BillTotals {
    pub payments: i64,
    pub paid_fen: i64,
    pub refunds: i64,
    pub refund_fen: i64,
}

/// How a comparison ended.
#[derive(Clone, Copy, Debug)]
pub struct Finished<'a> {
    pub status: BillStatus,
    pub totals: BillTotals,
    pub source: &'a str,
    pub sha1: Option<&'a str>,
}

/// How far a refund of ours is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefundProgress {
    UnderWay,
    Done,
    Failed,
}

/// A refund that the shop made.
#[derive(Clone, Debug)]
pub struct KnownRefund {
    pub out_refund_no: String,
    pub out_trade_no: String,
    pub transaction_id: String,
    pub order_id: Option<OrderId>,
    pub amount: Fen,
    pub progress: RefundProgress,
}

impl KnownRefund {
    /// What WeChat was asked under each number of a refund. It says nothing of the payment: WeChat knows that by its own number.
    fn of(refund: &Refund) -> Vec<Self> {
        let known = |number: &RefundNumber| Self {
            out_refund_no: number.out_refund_no.clone(),
            out_trade_no: String::new(),
            transaction_id: String::new(),
            order_id: Some(refund.order_id.clone()),
            amount: refund.plan.given.payment_amount,
            progress: match number.state.as_deref() {
                Some("SUCCESS") => RefundProgress::Done,
                Some(_) => RefundProgress::Failed,
                None => RefundProgress::UnderWay,
            },
        };
        refund.numbers.iter().map(known).collect()
    }
}

impl From<PaymentException> for KnownRefund {
    fn from(exception: PaymentException) -> Self {
        let progress = match exception.status {
            ExceptionStatus::Refunding => RefundProgress::UnderWay,
            ExceptionStatus::Refunded => RefundProgress::Done,
            // WeChat said that it was done before it was recorded.
            _ if exception.kind.is_refund() => RefundProgress::Done,
            ExceptionStatus::RefundFailed | ExceptionStatus::Manual | ExceptionStatus::Resolved => {
                RefundProgress::Failed
            }
        };
        Self {
            out_refund_no: exception.out_refund_no.unwrap_or_default(),
            out_trade_no: exception.out_trade_no,
            transaction_id: exception.transaction_id,
            order_id: exception.order_id,
            amount: exception.amount,
            progress,
        }
    }
}

/// Where a page over a day goes on: the time and the number of the last row.
pub type Position = (DateTime<Utc>, String);

impl Store {
    pub async fn bill(&self, day: BusinessDay) -> Result<Option<Bill>, Error> {
        Ok(self.collection::<Bill>(BILLS).await?.find_one(doc! { "_id": day.to_string() }).await?)
    }

    /// The days from `from` on that have a document, in order.
    pub async fn bills_from(&self, from: BusinessDay, limit: i64) -> Result<Vec<Bill>, Error> {
        let bills = self.collection::<Bill>(BILLS).await?;
        let find = bills.find(doc! { "_id": { "$gte": from.to_string() } }).sort(doc! { "_id": 1 });
        Ok(find.limit(limit).await?.try_collect().await?)
    }

    /// Writes down that a day is being compared. One that was compared before stays so.
    pub async fn begin_bill(&self, day: BusinessDay, now: DateTime<Utc>) -> Result<(), Error> {
        let change = doc! {
            "$setOnInsert": { "status": "open", "differences": 0i64, "createdAt": date::bson(now) },
            "$inc": { "tries": 1i64 },
        };
        let bills = self.collection::<Document>(BILLS).await?;
        let begun = bills.update_one(doc! { "_id": day.to_string() }, change.clone()).upsert(true).await;
        match begun.map_err(Error::from) {
            Ok(_) => Ok(()),
            // Somebody else inserted it at the same moment.
            Err(error) if error.is_duplicate_of(BILLS) => {
                bills.update_one(doc! { "_id": day.to_string() }, change).await?;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Writes down what a bill adds up to, once all of it was compared.
    pub async fn finish_bill(&self, day: BusinessDay, done: &Finished<'_>, now: DateTime<Utc>) -> Result<(), Error> {
        let mut set = doc! {
            "status": done.status.as_str(),
            "payments": done.totals.payments,
            "paidFen": done.totals.paid_fen,
            "refunds": done.totals.refunds,
            "refundFen": done.totals.refund_fen,
            "source": done.source,
            "finishedAt": date::bson(now),
        };
        let mut unset = doc! { "nextAttemptAt": "", "lastError": "" };
        match done.sha1 {
            Some(sha1) => drop(set.insert("sha1", sha1)),
            None => drop(unset.insert("sha1", "")),
        }
        let bills = self.collection::<Document>(BILLS).await?;
        bills.update_one(doc! { "_id": day.to_string() }, doc! { "$set": set, "$unset": unset }).await?;
        Ok(())
    }

    /// Leaves a day for later.
    pub async fn postpone_bill(&self, day: BusinessDay, why: &str, next: DateTime<Utc>) -> Result<(), Error> {
        let guard = doc! { "_id": day.to_string(), "status": "open" };
        let change = doc! { "$set": { "nextAttemptAt": date::bson(next), "lastError": why } };
        self.collection::<Document>(BILLS).await?.update_one(guard, change).await?;
        Ok(())
    }

    /// Which of these differences are not recorded yet.
    pub async fn new_differences(&self, found: Vec<PaymentException>) -> Result<Vec<PaymentException>, Error> {
        if found.is_empty() {
            return Ok(found);
        }
        let ids: Vec<&str> = found.iter().map(|one| one.id.as_str()).collect();
        let rows = self.collection::<Document>(EXCEPTIONS).await?;
        let known = rows.find(doc! { "_id": { "$in": ids } }).projection(doc! { "_id": 1i32 });
        let known: Vec<Document> = known.await?.try_collect().await?;
        let is_new = |one: &PaymentException| !known.iter().any(|row| row.get_str("_id").is_ok_and(|id| id == one.id));
        Ok(found.into_iter().filter(is_new).collect())
    }

    /// Records a difference and counts it in its day; false if it was recorded before.
    pub async fn record_difference(&self, difference: &PaymentException) -> Result<bool, Error> {
        let recorded = self
            .transaction(|tx, _| {
                Box::pin(async move {
                    if tx.exception(&difference.id).await?.is_some() {
                        return Ok(false);
                    }
                    tx.insert_exception(difference).await?;
                    crashpoint("bill.inside").await;
                    let day = difference.day.as_deref().unwrap_or_default();
                    if !tx.update(BILLS, doc! { "_id": day }, doc! { "$inc": { "differences": 1i64 } }).await? {
                        return Err(Error::Invariant(format!("a difference of {day}, which was not begun")));
                    }
                    Ok(true)
                })
            })
            .await;
        match recorded {
            Err(error) if error.is_duplicate_of(EXCEPTIONS) => Ok(false),
            other => other,
        }
    }

    /// Writes down that these payments are in a day's bill as they are with us.
    pub async fn mark_billed(&self, numbers: &[&str], day: BusinessDay) -> Result<(), Error> {
        if numbers.is_empty() {
            return Ok(());
        }
        let wanted = doc! { "_id": { "$in": numbers }, "billDay": { "$exists": false } };
        let payments = self.collection::<Document>("payments").await?;
        payments.update_many(wanted, doc! { "$set": { "billDay": day.to_string() } }).await?;
        Ok(())
    }

    pub async fn payments_by_number(&self, numbers: &[&str]) -> Result<Vec<Payment>, Error> {
        let payments = self.collection::<Payment>("payments").await?;
        Ok(payments.find(doc! { "_id": { "$in": numbers } }).await?.try_collect().await?)
    }

    /// What is recorded of payments that fit no order, by WeChat's numbers and ours.
    pub async fn misfits_by_number(&self, numbers: &[(&str, &str)]) -> Result<Vec<PaymentException>, Error> {
        let ids: Vec<String> = numbers.iter().map(|(ours, theirs)| format!("{ours}:{theirs}")).collect();
        let rows = self.collection::<PaymentException>(EXCEPTIONS).await?;
        Ok(rows.find(doc! { "_id": { "$in": ids } }).await?.try_collect().await?)
    }

    /// The refunds that the shop made, or knows of, under these numbers. What is recorded of one as an exception comes last.
    pub async fn known_refunds(&self, numbers: &[&str]) -> Result<Vec<KnownRefund>, Error> {
        let refunds = self.collection::<Refund>(REFUNDS).await?;
        let found: Vec<Refund> =
            refunds.find(doc! { "numbers.outRefundNo": { "$in": numbers } }).await?.try_collect().await?;
        let mut known: Vec<KnownRefund> = found.iter().flat_map(KnownRefund::of).collect();
        let rows = self.collection::<PaymentException>(EXCEPTIONS).await?;
        let found: Vec<PaymentException> =
            rows.find(doc! { "outRefundNo": { "$in": numbers } }).await?.try_collect().await?;
        known.extend(found.into_iter().map(KnownRefund::from));
        Ok(known)
    }

    /// The payments that we learned of on a day, oldest first.
    pub async fn payments_of_day(
        &self,
        day: BusinessDay,
        after: Option<&Position>,
        limit: i64,
    ) -> Result<Vec<Payment>, Error> {
        let payments = self.collection::<Payment>("payments").await?;
        let find = payments.find(within("paidAt", day, after)).sort(doc! { "paidAt": 1, "_id": 1 });
        Ok(find.limit(limit).await?.try_collect().await?)
    }

    /// The refunds of payments that fit no order which we learned on a day to be done, oldest first.
    pub async fn misfits_refunded_on(
        &self,
        day: BusinessDay,
        after: Option<&Position>,
        limit: i64,
    ) -> Result<Vec<(Position, Vec<KnownRefund>)>, Error> {
        let rows = self.collection::<PaymentException>(EXCEPTIONS).await?;
        let mut filter = within("resolvedAt", day, after);
        filter.insert("status", "refunded");
        let find = rows.find(filter).sort(doc! { "resolvedAt": 1, "_id": 1 });
        let found: Vec<PaymentException> = find.limit(limit).await?.try_collect().await?;
        let row = |one: PaymentException| ((one.resolved_at.unwrap_or_default(), one.id.clone()), vec![one.into()]);
        Ok(found.into_iter().map(row).collect())
    }

    /// The refunds of orders which we learned on a day to be done, oldest first.
    pub async fn orders_refunded_on(
        &self,
        day: BusinessDay,
        after: Option<&Position>,
        limit: i64,
    ) -> Result<Vec<(Position, Vec<KnownRefund>)>, Error> {
        let refunds = self.collection::<Refund>(REFUNDS).await?;
        let find = refunds.find(within("refundedAt", day, after)).sort(doc! { "refundedAt": 1, "_id": 1 });
        let found: Vec<Refund> = find.limit(limit).await?.try_collect().await?;
        let row = |one: &Refund| {
            let done = KnownRefund::of(one).into_iter().filter(|known| known.progress == RefundProgress::Done);
            ((one.refunded_at.unwrap_or_default(), one.id.clone()), done.collect())
        };
        Ok(found.iter().map(row).collect())
    }
}

/// Rows whose `field` is on a day, after a position.
fn within(field: &str, day: BusinessDay, after: Option<&Position>) -> Document {
    let mut filter = doc! { field: { "$gte": date::bson(day.start()), "$lt": date::bson(day.end()) } };
    if let Some((at, id)) = after {
        let at = date::bson(*at);
        filter.insert(
            "$or",
            Bson::Array(vec![
                Bson::Document(doc! { field: { "$gt": at.clone() } }),
                Bson::Document(doc! { field: at, "_id": { "$gt": id } }),
            ]),
        );
    }
    filter
}
