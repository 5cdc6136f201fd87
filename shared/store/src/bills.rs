//! `bills`: which days were compared with WeChat Pay's bills, and what our books know of such a day.
//!
//! The newest document is also where the daily run goes on. A difference is a document of `paymentExceptions` under a key of its
//! own, inserted together with the count in the day's document, so that the two agree however often and by whomever a day is
//! compared.

use bson::{Bson, Document, doc};
use chrono::{DateTime, TimeDelta, Utc};
use domain::{BusinessDay, Fen, OrderId};
use futures_util::TryStreamExt;
use mongodb::options::ReturnDocument;
use serde::{Deserialize, Serialize};

use crate::payments::{ExceptionStatus, Payment, PaymentException};
use crate::refunds::{Refund, RefundNumber};
use crate::{Error, Store, Tx, crashpoint, date};

const BILLS: &str = "bills";
const EXCEPTIONS: &str = "paymentExceptions";
const REFUNDS: &str = "refunds";

/// WeChat makes the bill of a day in the morning after it: before that nobody can have compared it.
pub const BILL_READY_AFTER: TimeDelta = TimeDelta::hours(9);
/// WeChat keeps bills for three months.
pub const BILL_KEPT_DAYS: u64 = 88;

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
    /// How often something of the day was learned after its bill may have been compared.
    #[serde(default, deserialize_with = "domain::money::whole")]
    pub late: i64,
    /// The bill whose comparison is not finished, and how many of its rows are compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compared_sha1: Option<String>,
    #[serde(default, deserialize_with = "domain::money::whole")]
    pub compared_rows: i64,
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
    /// [`Bill::late`] when the comparison began.
    pub late: i64,
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
    pub accepted_at: Option<DateTime<Utc>>,
    pub bill_day: Option<String>,
}

impl KnownRefund {
    /// What WeChat was asked under each number of a refund. It says nothing of the payment: the order knows that.
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
            accepted_at: number.accepted_at,
            bill_day: number.bill_day.clone(),
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
            out_refund_no: exception.out_refund_no.or(exception.bill_refund_no).unwrap_or_default(),
            out_trade_no: exception.out_trade_no,
            transaction_id: exception.transaction_id,
            order_id: exception.order_id,
            amount: exception.amount,
            progress,
            accepted_at: exception.refund_accepted_at,
            bill_day: exception.refund_bill_day,
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

    /// Writes down that a day is being compared, and returns how far that was before. One that was compared before stays so.
    pub async fn begin_bill(&self, day: BusinessDay, now: DateTime<Utc>) -> Result<Bill, Error> {
        let bills = self.collection::<Bill>(BILLS).await?;
        let begin = || {
            let change = doc! {
                "$setOnInsert": { "status": "open", "differences": 0i64, "createdAt": date::bson(now) },
                "$inc": { "tries": 1i64 },
            };
            let begin = bills.find_one_and_update(doc! { "_id": day.to_string() }, change);
            begin.upsert(true).return_document(ReturnDocument::After)
        };
        let begun = match begin().await.map_err(Error::from) {
            // Somebody else inserted it at the same moment.
            Err(error) if error.is_duplicate_of(BILLS) => begin().await?,
            other => other?,
        };
        begun.ok_or_else(|| Error::Invariant(format!("the day {day} was begun and is not there")))
    }

    /// Writes down how many rows of a bill are compared, so that a run that has no more time is gone on with.
    pub async fn bill_compared(&self, day: BusinessDay, sha1: &str, rows: i64) -> Result<(), Error> {
        let bills = self.collection::<Document>(BILLS).await?;
        let further = doc! { "$max": { "comparedRows": rows } };
        let same = doc! { "_id": day.to_string(), "comparedSha1": sha1 };
        if bills.update_one(same, further).await?.matched_count == 0 {
            let change = doc! { "$set": { "comparedSha1": sha1, "comparedRows": rows } };
            bills.update_one(doc! { "_id": day.to_string() }, change).await?;
        }
        Ok(())
    }

    /// Writes down what a bill adds up to, once all of it was compared; false if something of the day was learned meanwhile, which
    /// the comparison may have missed.
    pub async fn finish_bill(&self, day: BusinessDay, done: &Finished<'_>, now: DateTime<Utc>) -> Result<bool, Error> {
        let mut set = doc! {
            "status": done.status.as_str(),
            "payments": done.totals.payments,
            "paidFen": done.totals.paid_fen,
            "refunds": done.totals.refunds,
            "refundFen": done.totals.refund_fen,
            "source": done.source,
            "finishedAt": date::bson(now),
        };
        let mut unset = doc! { "nextAttemptAt": "", "lastError": "", "comparedSha1": "", "comparedRows": "" };
        match done.sha1 {
            Some(sha1) => drop(set.insert("sha1", sha1)),
            None => drop(unset.insert("sha1", "")),
        }
        let bills = self.collection::<Document>(BILLS).await?;
        let mut guard = doc! { "_id": day.to_string(), "late": done.late };
        if done.late == 0 {
            guard.insert("late", doc! { "$in": [0i64, Bson::Null] });
        }
        Ok(bills.update_one(guard, doc! { "$set": set, "$unset": unset }).await?.matched_count == 1)
    }

    /// Leaves a day for later.
    pub async fn postpone_bill(&self, day: BusinessDay, why: &str, next: DateTime<Utc>) -> Result<(), Error> {
        let guard = doc! { "_id": day.to_string(), "status": "open" };
        let change = doc! { "$set": { "nextAttemptAt": date::bson(next), "lastError": why } };
        self.collection::<Document>(BILLS).await?.update_one(guard, change).await?;
        Ok(())
    }

    /// Whether a difference is recorded already.
    pub async fn is_recorded(&self, id: &str) -> Result<bool, Error> {
        let rows = self.collection::<Document>(EXCEPTIONS).await?;
        Ok(rows.find_one(doc! { "_id": id }).projection(doc! { "_id": 1i32 }).await?.is_some())
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

    /// The same of refunds.
    pub async fn mark_refunds_billed(&self, numbers: &[&str], day: BusinessDay) -> Result<(), Error> {
        if numbers.is_empty() {
            return Ok(());
        }
        let day = day.to_string();
        let refunds = self.collection::<Document>(REFUNDS).await?;
        let change = doc! { "$set": { "numbers.$[number].billDay": &day } };
        let unbilled = doc! { "number.outRefundNo": { "$in": numbers }, "number.billDay": { "$exists": false } };
        let mark = refunds.update_many(doc! { "numbers.outRefundNo": { "$in": numbers } }, change);
        mark.array_filters([unbilled]).await?;
        let rows = self.collection::<Document>(EXCEPTIONS).await?;
        let wanted = doc! { "outRefundNo": { "$in": numbers }, "refundBillDay": { "$exists": false } };
        rows.update_many(wanted, doc! { "$set": { "refundBillDay": day } }).await?;
        Ok(())
    }

    /// Writes down when a payment was paid by WeChat's clock, where nobody said so when it was settled. Unless that is on the day
    /// that is being compared, its day is compared again, if it was.
    pub async fn payment_succeeded(
        &self,
        out_trade_no: &str,
        at: DateTime<Utc>,
        compared: BusinessDay,
        now: DateTime<Utc>,
    ) -> Result<(), Error> {
        self.transaction(|tx, _| {
            Box::pin(async move {
                let guard = doc! { "_id": out_trade_no, "successAt": { "$exists": false } };
                if tx.update("payments", guard, doc! { "$set": { "successAt": date::bson(at) } }).await? {
                    tx.learned_late(at, placed_by(at, compared), now).await?;
                }
                Ok(())
            })
        })
        .await
    }

    /// Writes down when WeChat accepted a refund of an order.
    pub async fn refund_accepted(&self, out_refund_no: &str, at: DateTime<Utc>) -> Result<(), Error> {
        let refunds = self.collection::<Document>(REFUNDS).await?;
        refunds.update_one(unplaced_number(out_refund_no), placed_number(at)).await?;
        Ok(())
    }

    /// Writes down when WeChat accepted a refund that is done, of an order or of money that fits none. Unless that is on the day that
    /// is being compared, its day is compared again, if it was.
    pub async fn refund_placed(
        &self,
        refund: &KnownRefund,
        at: DateTime<Utc>,
        compared: BusinessDay,
        now: DateTime<Utc>,
    ) -> Result<(), Error> {
        let number = refund.out_refund_no.as_str();
        self.transaction(|tx, _| {
            Box::pin(async move {
                let misfit = doc! { "outRefundNo": number, "refundAcceptedAt": { "$exists": false } };
                let placed = doc! { "$set": { "refundAcceptedAt": date::bson(at) } };
                let of_order = tx.update(REFUNDS, unplaced_number(number), placed_number(at)).await?;
                if (of_order || tx.update(EXCEPTIONS, misfit, placed).await?) && refund.bill_day.is_none() {
                    tx.learned_late(at, placed_by(at, compared), now).await?;
                }
                Ok(())
            })
        })
        .await
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
        let keys: Vec<String> = numbers.iter().map(|number| PaymentException::refund_key(number)).collect();
        let found: Vec<PaymentException> = rows.find(doc! { "_id": { "$in": keys } }).await?.try_collect().await?;
        known.extend(found.into_iter().map(KnownRefund::from));
        Ok(known)
    }

    /// The payments that we learned of on a day without being told when they were paid, oldest first.
    pub async fn payments_learned_on(
        &self,
        day: BusinessDay,
        after: Option<&Position>,
        limit: i64,
    ) -> Result<Vec<Payment>, Error> {
        let payments = self.collection::<Payment>("payments").await?;
        let mut filter = within("paidAt", day, after);
        filter.extend(doc! { "successAt": { "$exists": false }, "billDay": { "$exists": false } });
        Ok(payments.find(filter).sort(doc! { "paidAt": 1, "_id": 1 }).limit(limit).await?.try_collect().await?)
    }

    /// The payments that were paid on a day by WeChat's clock and that its bill was not found to have, oldest first.
    pub async fn payments_of_day(
        &self,
        day: BusinessDay,
        after: Option<&Position>,
        limit: i64,
    ) -> Result<Vec<Payment>, Error> {
        let payments = self.collection::<Payment>("payments").await?;
        let mut filter = within("successAt", day, after);
        filter.insert("billDay", doc! { "$exists": false });
        Ok(payments.find(filter).sort(doc! { "successAt": 1, "_id": 1 }).limit(limit).await?.try_collect().await?)
    }

    /// The refunds which we learned on a day to be done without being told when they were accepted, and that no bill was found to
    /// have, oldest first: those of money that fits no order, or those of orders.
    pub async fn refunds_learned_on(
        &self,
        day: BusinessDay,
        of_orders: bool,
        after: Option<&Position>,
        limit: i64,
    ) -> Result<Vec<(Position, Vec<KnownRefund>)>, Error> {
        let unplaced = |known: &KnownRefund| {
            known.progress == RefundProgress::Done && known.accepted_at.is_none() && known.bill_day.is_none()
        };
        if of_orders {
            let refunds = self.collection::<Refund>(REFUNDS).await?;
            let find = refunds.find(within("refundedAt", day, after)).sort(doc! { "refundedAt": 1, "_id": 1 });
            let found: Vec<Refund> = find.limit(limit).await?.try_collect().await?;
            let row = |one: &Refund| {
                let known = KnownRefund::of(one).into_iter().filter(unplaced).collect();
                ((one.refunded_at.unwrap_or_default(), one.id.clone()), known)
            };
            return Ok(found.iter().map(row).collect());
        }
        let rows = self.collection::<PaymentException>(EXCEPTIONS).await?;
        let mut filter = within("resolvedAt", day, after);
        filter.extend(doc! {
            "status": "refunded", "refundAcceptedAt": { "$exists": false }, "refundBillDay": { "$exists": false },
        });
        let find = rows.find(filter).sort(doc! { "resolvedAt": 1, "_id": 1 });
        let found: Vec<PaymentException> = find.limit(limit).await?.try_collect().await?;
        let row = |one: PaymentException| ((one.resolved_at.unwrap_or_default(), one.id.clone()), vec![one.into()]);
        Ok(found.into_iter().map(row).collect())
    }

    /// The refunds that WeChat accepted on a day and has done, and that its bill was not found to have: those of money that fits no
    /// order, or those of orders.
    pub async fn refunds_of_day(
        &self,
        day: BusinessDay,
        of_orders: bool,
        after: Option<&Position>,
        limit: i64,
    ) -> Result<Vec<(Position, Vec<KnownRefund>)>, Error> {
        let on_day = doc! { "$gte": date::bson(day.start()), "$lt": date::bson(day.end()) };
        if of_orders {
            let refunds = self.collection::<Refund>(REFUNDS).await?;
            let missing = doc! { "acceptedAt": on_day, "state": "SUCCESS", "billDay": { "$exists": false } };
            let mut filter = doc! { "numbers": { "$elemMatch": missing } };
            if let Some((_, id)) = after {
                filter.insert("_id", doc! { "$gt": id });
            }
            let find = refunds.find(filter).sort(doc! { "_id": 1 }).limit(limit);
            let found: Vec<Refund> = find.await?.try_collect().await?;
            let is_missing = |known: &KnownRefund| {
                known.progress == RefundProgress::Done
                    && known.bill_day.is_none()
                    && known.accepted_at.map(BusinessDay::of) == Some(day)
            };
            let row = |one: &Refund| {
                let known = KnownRefund::of(one).into_iter().filter(is_missing).collect();
                ((one.created_at, one.id.clone()), known)
            };
            return Ok(found.iter().map(row).collect());
        }
        let rows = self.collection::<PaymentException>(EXCEPTIONS).await?;
        let mut filter = within("refundAcceptedAt", day, after);
        filter.extend(doc! { "status": "refunded", "refundBillDay": { "$exists": false } });
        let find = rows.find(filter).sort(doc! { "refundAcceptedAt": 1, "_id": 1 });
        let found: Vec<PaymentException> = find.limit(limit).await?.try_collect().await?;
        let row =
            |one: PaymentException| ((one.refund_accepted_at.unwrap_or_default(), one.id.clone()), vec![one.into()]);
        Ok(found.into_iter().map(row).collect())
    }
}

impl Tx {
    /// Something was learned that the bill of the day of `at` has to have, and that bill may have been compared already: it is
    /// compared again. What a bill itself has told (`source` is `bill`) the comparison under way will still look at.
    pub async fn learned_late(&mut self, at: DateTime<Utc>, source: &str, now: DateTime<Utc>) -> Result<(), Error> {
        let day = BusinessDay::of(at);
        let kept = TimeDelta::days(i64::try_from(BILL_KEPT_DAYS).unwrap_or(i64::MAX));
        if now < day.end() + BILL_READY_AFTER || now >= day.end() + kept {
            return Ok(());
        }
        let change = doc! {
            "$setOnInsert": { "differences": 0i64, "tries": 0i64, "createdAt": date::bson(now) },
            "$set": { "status": "open" },
            "$unset": { "finishedAt": "", "nextAttemptAt": "" },
            "$inc": { "late": i64::from(source != "bill") },
        };
        let bills = self.collection::<Document>(BILLS);
        bills.update_one(doc! { "_id": day.to_string() }, change).upsert(true).session(&mut self.session).await?;
        Ok(())
    }
}

/// What is of the day that is being compared is looked at by that comparison.
fn placed_by(at: DateTime<Utc>, compared: BusinessDay) -> &'static str {
    if BusinessDay::of(at) == compared { "bill" } else { "query" }
}

/// A refund of an order of which it is not known when WeChat accepted it.
fn unplaced_number(out_refund_no: &str) -> Document {
    let unplaced = doc! { "outRefundNo": out_refund_no, "acceptedAt": { "$exists": false } };
    doc! { "numbers.outRefundNo": out_refund_no, "numbers": { "$elemMatch": unplaced } }
}

fn placed_number(at: DateTime<Utc>) -> Document {
    doc! { "$set": { "numbers.$.acceptedAt": date::bson(at) } }
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
