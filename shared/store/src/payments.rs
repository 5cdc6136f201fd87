//! `payments`: one document per attempt to pay an order through WeChat Pay, and `paymentExceptions`: money that came in but
//! fits no order, or that WeChat's bill and our books tell differently.

use bson::doc;
use chrono::{DateTime, Utc};
use domain::{Fen, OpenId, OrderId, UserId};
use futures_util::TryStreamExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::page::{Page, PageRequest, Row};
use crate::{Error, Store, Tx, date};

/// `payments.status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PaymentStatus {
    /// The request is stored; whether WeChat has it is unknown.
    #[serde(rename = "created")]
    Created,
    /// WeChat gave a prepay id; the user may pay.
    #[serde(rename = "prepaid")]
    Prepaid,
    /// Paid and settled.
    #[serde(rename = "paid")]
    Paid,
    /// Closed at WeChat, or never known there, and never to be paid.
    #[serde(rename = "closed")]
    Closed,
    /// Paid in a way that fits no order; see `paymentExceptions`.
    #[serde(rename = "exception")]
    Exception,
}

impl PaymentStatus {
    /// Whether the payer may still pay it.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Created | Self::Prepaid)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Prepaid => "prepaid",
            Self::Paid => "paid",
            Self::Closed => "closed",
            Self::Exception => "exception",
        }
    }
}

/// An attempt to pay. `_id` is the `out_trade_no`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Payment {
    #[serde(rename = "_id")]
    pub out_trade_no: String,
    pub order_id: OrderId,
    pub user_id: UserId,
    pub open_id: OpenId,
    #[serde(deserialize_with = "domain::money::whole")]
    pub attempt: i64,
    pub amount: Fen,
    pub status: PaymentStatus,
    /// The exact body of the prepay request: asking again must send the same bytes.
    pub request: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prepay_id: Option<String>,
    #[serde(default, with = "date::option", skip_serializing_if = "Option::is_none")]
    pub prepay_at: Option<DateTime<Utc>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transaction_id: Option<String>,
    /// When we learned that it was paid.
    #[serde(default, with = "date::option", skip_serializing_if = "Option::is_none")]
    pub paid_at: Option<DateTime<Utc>>,
    /// When it was paid by WeChat's clock: the bill of that day has it.
    #[serde(default, with = "date::option", skip_serializing_if = "Option::is_none")]
    pub success_at: Option<DateTime<Utc>>,
    #[serde(with = "date")]
    pub created_at: DateTime<Utc>,
    /// When reconciliation asks WeChat next; absent once the attempt is over.
    #[serde(default, with = "date::option", skip_serializing_if = "Option::is_none")]
    pub next_query_at: Option<DateTime<Utc>>,
    #[serde(default)]
    pub queries: i64,
    /// The business day whose bill has it as we do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bill_day: Option<String>,
}

/// Why money does not fit: a payment could not be settled, a refund was not asked for so, or a bill and our books differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ExceptionKind {
    #[serde(rename = "unknownPayment")]
    UnknownPayment,
    #[serde(rename = "wrongAmount")]
    WrongAmount,
    #[serde(rename = "wrongCurrency")]
    WrongCurrency,
    #[serde(rename = "wrongAppid")]
    WrongAppid,
    #[serde(rename = "wrongMchid")]
    WrongMchid,
    #[serde(rename = "paidAfterClose")]
    PaidAfterClose,
    #[serde(rename = "paidTwice")]
    PaidTwice,
    /// A refund that somebody made in the merchant portal.
    #[serde(rename = "portalRefund")]
    PortalRefund,
    /// WeChat gave back another amount than a refund of ours asked for.
    #[serde(rename = "refundAmount")]
    RefundAmount,
    /// WeChat gave money back that had gone back another way.
    #[serde(rename = "refundedTwice")]
    RefundedTwice,
    /// The bill has a payment that we never asked for.
    #[serde(rename = "billUnknownPayment")]
    BillUnknownPayment,
    /// A payment of ours is not in the bill of its day.
    #[serde(rename = "billMissingPayment")]
    BillMissingPayment,
    /// The bill has another amount.
    #[serde(rename = "billAmount")]
    BillAmount,
    /// The bill has it paid and WeChat does not say so, or the other way round.
    #[serde(rename = "billState")]
    BillState,
    /// The bill has a refund that we did not make.
    #[serde(rename = "billUnknownRefund")]
    BillUnknownRefund,
    /// A refund of ours is not in the bill of its day.
    #[serde(rename = "billMissingRefund")]
    BillMissingRefund,
    /// The bill has another amount of a refund.
    #[serde(rename = "billRefundAmount")]
    BillRefundAmount,
    /// The bill has a refund as failed that we have as done.
    #[serde(rename = "billRefundState")]
    BillRefundState,
}

impl ExceptionKind {
    /// Whether money went back rather than came in.
    pub fn is_refund(self) -> bool {
        matches!(self, Self::PortalRefund | Self::RefundAmount | Self::RefundedTwice)
    }

    /// Whether it is a difference between a bill and our books, which books nothing by itself.
    pub fn is_difference(self) -> bool {
        match self {
            Self::UnknownPayment
            | Self::WrongAmount
            | Self::WrongCurrency
            | Self::WrongAppid
            | Self::WrongMchid
            | Self::PaidAfterClose
            | Self::PaidTwice
            | Self::PortalRefund
            | Self::RefundAmount
            | Self::RefundedTwice => false,
            Self::BillUnknownPayment
            | Self::BillMissingPayment
            | Self::BillAmount
            | Self::BillState
            | Self::BillUnknownRefund
            | Self::BillMissingRefund
            | Self::BillRefundAmount
            | Self::BillRefundState => true,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnknownPayment => "unknownPayment",
            Self::WrongAmount => "wrongAmount",
            Self::WrongCurrency => "wrongCurrency",
            Self::WrongAppid => "wrongAppid",
            Self::WrongMchid => "wrongMchid",
            Self::PaidAfterClose => "paidAfterClose",
            Self::PaidTwice => "paidTwice",
            Self::PortalRefund => "portalRefund",
            Self::RefundAmount => "refundAmount",
            Self::RefundedTwice => "refundedTwice",
            Self::BillUnknownPayment => "billUnknownPayment",
            Self::BillMissingPayment => "billMissingPayment",
            Self::BillAmount => "billAmount",
            Self::BillState => "billState",
            Self::BillUnknownRefund => "billUnknownRefund",
            Self::BillMissingRefund => "billMissingRefund",
            Self::BillRefundAmount => "billRefundAmount",
            Self::BillRefundState => "billRefundState",
        }
    }
}

/// `paymentExceptions.status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ExceptionStatus {
    /// A refund waits in the outbox or at WeChat.
    #[serde(rename = "refunding")]
    Refunding,
    #[serde(rename = "refunded")]
    Refunded,
    /// WeChat cannot refund it by itself: an operator must act.
    #[serde(rename = "refundFailed")]
    RefundFailed,
    /// Not ours to refund blindly: an operator must look.
    #[serde(rename = "manual")]
    Manual,
    /// Somebody looked and says why it is settled.
    #[serde(rename = "resolved")]
    Resolved,
}

impl ExceptionStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refunding => "refunding",
            Self::Refunded => "refunded",
            Self::RefundFailed => "refundFailed",
            Self::Manual => "manual",
            Self::Resolved => "resolved",
        }
    }
}

/// Money that came in but fits no order, or a difference between a bill and our books.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PaymentException {
    /// `{outTradeNo}:{transactionId}` of a payment, [`PaymentException::refund_key`] of a refund,
    /// [`PaymentException::difference_id`] of a difference.
    #[serde(rename = "_id")]
    pub id: String,
    pub kind: ExceptionKind,
    pub out_trade_no: String,
    pub transaction_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_id: Option<OrderId>,
    /// What WeChat said was paid, or given back.
    pub amount: Fen,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_amount: Option<Fen>,
    pub status: ExceptionStatus,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_refund_no: Option<String>,
    /// When WeChat accepted the refund: the bill of that day has it.
    #[serde(default, with = "date::option", skip_serializing_if = "Option::is_none")]
    pub refund_accepted_at: Option<DateTime<Utc>>,
    /// The business day whose bill has the refund as we do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refund_bill_day: Option<String>,
    /// Of a difference: the day of the bill.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub day: Option<String>,
    /// Of a difference about a refund: its number, which is ours if we made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bill_refund_no: Option<String>,
    /// Where we learned of it: `callback`, `query`, `reconcile`, `close`, `bill`, `file`.
    pub source: String,
    #[serde(with = "date")]
    pub created_at: DateTime<Utc>,
    #[serde(default, with = "date::option", skip_serializing_if = "Option::is_none")]
    pub resolved_at: Option<DateTime<Utc>>,
    /// Staff gave the money back otherwise than through WeChat Pay.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub settled_elsewhere: bool,
    /// Who resolved it by hand, and what they found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved_by: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remark: Option<String>,
}

impl PaymentException {
    /// The key of a refund that does not fit, and of its entry in the book.
    pub fn refund_key(out_refund_no: &str) -> String {
        format!("refund:{out_refund_no}:exception")
    }

    /// The key of a difference: the same one found again, by whomever, has the same.
    pub fn difference_id(day: &str, kind: ExceptionKind, number: &str) -> String {
        format!("bill:{day}:{}:{number}", kind.as_str())
    }
}

impl Row for PaymentException {
    fn position(&self) -> (DateTime<Utc>, &str) {
        (self.created_at, &self.id)
    }
}

impl Store {
    pub async fn payment(&self, out_trade_no: &str) -> Result<Option<Payment>, Error> {
        Ok(self.collection::<Payment>("payments").await?.find_one(doc! { "_id": out_trade_no }).await?)
    }

    /// The attempts to pay an order, oldest first.
    pub async fn payments_of(&self, order: &OrderId) -> Result<Vec<Payment>, Error> {
        let payments = self.collection::<Payment>("payments").await?;
        Ok(payments.find(doc! { "orderId": order.as_str() }).sort(doc! { "attempt": 1 }).await?.try_collect().await?)
    }

    /// Money that came in for an order and did not fit it.
    pub async fn exceptions_of(&self, order: &OrderId) -> Result<Vec<PaymentException>, Error> {
        let exceptions = self.collection::<PaymentException>("paymentExceptions").await?;
        Ok(exceptions
            .find(doc! { "orderId": order.as_str(), "day": { "$exists": false } })
            .sort(doc! { "createdAt": 1 })
            .await?
            .try_collect()
            .await?)
    }

    pub async fn exception(&self, id: &str) -> Result<Option<PaymentException>, Error> {
        Ok(self.collection::<PaymentException>("paymentExceptions").await?.find_one(doc! { "_id": id }).await?)
    }

    /// Exceptions, newest first.
    pub async fn exceptions(
        &self,
        status: Option<ExceptionStatus>,
        kind: Option<ExceptionKind>,
        day: Option<&str>,
        request: &PageRequest,
    ) -> Result<Page<PaymentException>, Error> {
        let mut filter = doc! { "createdAt": { "$gt": date::bson(DateTime::<Utc>::UNIX_EPOCH) } };
        if let Some(status) = status {
            filter.insert("status", status.as_str());
        }
        if let Some(kind) = kind {
            filter.insert("kind", kind.as_str());
        }
        if let Some(day) = day {
            filter.insert("day", day);
        }
        self.page("paymentExceptions", filter, request).await
    }

    pub async fn exception_by_refund(&self, out_refund_no: &str) -> Result<Option<PaymentException>, Error> {
        let found = self.collection::<PaymentException>("paymentExceptions").await?;
        Ok(found.find_one(doc! { "outRefundNo": out_refund_no }).await?)
    }

    /// Open attempts whose next query is due, oldest first.
    pub async fn payments_to_query(&self, now: DateTime<Utc>, limit: i64) -> Result<Vec<Payment>, Error> {
        Ok(self
            .collection::<Payment>("payments")
            .await?
            .find(doc! { "nextQueryAt": { "$lte": date::bson(now) } })
            .sort(doc! { "nextQueryAt": 1 })
            .limit(limit)
            .await?
            .try_collect()
            .await?)
    }

    /// Records that WeChat knows the attempt under this prepay id; false if the attempt is over.
    pub async fn record_prepay(&self, out_trade_no: &str, prepay_id: &str, now: DateTime<Utc>) -> Result<bool, Error> {
        let done = self
            .collection::<Payment>("payments")
            .await?
            .update_one(
                doc! { "_id": out_trade_no, "status": { "$in": ["created", "prepaid"] } },
                doc! { "$set": { "status": "prepaid", "prepayId": prepay_id, "prepayAt": date::bson(now) } },
            )
            .await?;
        Ok(done.matched_count == 1)
    }

    /// Sets when reconciliation asks next about an open attempt.
    pub async fn schedule_query(&self, out_trade_no: &str, next: DateTime<Utc>) -> Result<(), Error> {
        self.collection::<Payment>("payments")
            .await?
            .update_one(
                doc! { "_id": out_trade_no, "status": { "$in": ["created", "prepaid"] } },
                doc! { "$set": { "nextQueryAt": date::bson(next) }, "$inc": { "queries": 1i64 } },
            )
            .await?;
        Ok(())
    }

    /// Marks an open attempt as closed at WeChat.
    pub async fn mark_payment_closed(&self, out_trade_no: &str) -> Result<(), Error> {
        self.collection::<Payment>("payments")
            .await?
            .update_one(
                doc! { "_id": out_trade_no, "status": { "$in": ["created", "prepaid"] } },
                doc! { "$set": { "status": "closed" }, "$unset": { "nextQueryAt": "" } },
            )
            .await?;
        Ok(())
    }
}

impl Tx {
    pub async fn payment(&mut self, out_trade_no: &str) -> Result<Option<Payment>, Error> {
        self.find_by_id("payments", out_trade_no).await
    }

    pub async fn insert_payment(&mut self, payment: &Payment) -> Result<(), Error> {
        self.insert("payments", payment).await
    }

    /// Ends an attempt as paid or as an exception, under WeChat's transaction number and at WeChat's time, if it says one; false if
    /// it had ended so already.
    pub async fn finish_payment(
        &mut self,
        out_trade_no: &str,
        status: PaymentStatus,
        transaction_id: &str,
        success_at: Option<DateTime<Utc>>,
        now: DateTime<Utc>,
    ) -> Result<bool, Error> {
        let mut set = doc! { "status": status.as_str(), "transactionId": transaction_id, "paidAt": date::bson(now) };
        if let Some(at) = success_at {
            set.insert("successAt", date::bson(at));
        }
        self.update(
            "payments",
            doc! { "_id": out_trade_no, "status": { "$in": ["created", "prepaid", "closed"] } },
            doc! { "$set": set, "$unset": { "nextQueryAt": "" } },
        )
        .await
    }

    /// Closes whatever attempts of an order are still open.
    pub async fn close_payments(&mut self, order: &OrderId) -> Result<(), Error> {
        let payments = self.collection::<bson::Document>("payments");
        payments
            .update_many(
                doc! { "orderId": order.as_str(), "status": { "$in": ["created", "prepaid"] } },
                doc! { "$set": { "status": "closed" }, "$unset": { "nextQueryAt": "" } },
            )
            .session(&mut self.session)
            .await?;
        Ok(())
    }

    pub async fn exception(&mut self, id: &str) -> Result<Option<PaymentException>, Error> {
        self.find_by_id("paymentExceptions", id).await
    }

    pub async fn insert_exception(&mut self, exception: &PaymentException) -> Result<(), Error> {
        self.insert("paymentExceptions", exception).await
    }

    /// `refunding | refundFailed → refunded | refundFailed`, of a refund that WeChat accepted then, if it says so; false if it was
    /// refunded already or is for a person to decide.
    pub async fn resolve_exception(
        &mut self,
        id: &str,
        status: ExceptionStatus,
        accepted_at: Option<DateTime<Utc>>,
        now: DateTime<Utc>,
    ) -> Result<bool, Error> {
        let mut set = doc! { "status": status.as_str(), "resolvedAt": date::bson(now) };
        if let Some(at) = accepted_at {
            set.insert("refundAcceptedAt", date::bson(at));
        }
        let guard = doc! { "_id": id, "status": { "$in": ["refunding", "refundFailed"] } };
        self.update("paymentExceptions", guard, doc! { "$set": set }).await
    }

    /// `manual | refundFailed → resolved` by somebody who looked; false if it is in another state than it was read.
    pub async fn resolve_by_hand(
        &mut self,
        before: &PaymentException,
        by: &str,
        remark: &str,
        settled_elsewhere: bool,
        now: DateTime<Utc>,
    ) -> Result<bool, Error> {
        let mut set = doc! {
            "status": "resolved", "resolvedAt": date::bson(now), "resolvedBy": by, "remark": remark,
        };
        if settled_elsewhere {
            set.insert("settledElsewhere", true);
        }
        let guard = doc! { "_id": &before.id, "status": before.status.as_str() };
        self.update("paymentExceptions", guard, doc! { "$set": set }).await
    }

    /// `refundFailed → refunding`; false if it is in another state.
    pub async fn retry_exception(&mut self, id: &str) -> Result<bool, Error> {
        let change = doc! { "$set": { "status": "refunding" }, "$unset": { "resolvedAt": "" } };
        self.update("paymentExceptions", doc! { "_id": id, "status": "refundFailed" }, change).await
    }

    /// What is recorded of money that went back for a payment otherwise than the shop asked.
    pub async fn refunds_beside(&mut self, out_trade_no: &str) -> Result<Vec<PaymentException>, Error> {
        let found: Vec<PaymentException> = self.find("paymentExceptions", doc! { "outTradeNo": out_trade_no }).await?;
        Ok(found.into_iter().filter(|one| one.kind.is_refund()).collect())
    }
}
