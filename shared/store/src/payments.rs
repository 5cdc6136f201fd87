//! `payments`: one document per attempt to pay an order through WeChat Pay, and `paymentExceptions`: money that came in but
//! fits no order.

use bson::doc;
use chrono::{DateTime, Utc};
use domain::{Fen, OpenId, OrderId, UserId};
use futures_util::TryStreamExt;
use serde::{Deserialize, Serialize};

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
    #[serde(default, with = "date::option", skip_serializing_if = "Option::is_none")]
    pub paid_at: Option<DateTime<Utc>>,
    #[serde(with = "date")]
    pub created_at: DateTime<Utc>,
    /// When reconciliation asks WeChat next; absent once the attempt is over.
    #[serde(default, with = "date::option", skip_serializing_if = "Option::is_none")]
    pub next_query_at: Option<DateTime<Utc>>,
    #[serde(default)]
    pub queries: i64,
}

/// Why money does not fit: a payment could not be settled, or a refund was not asked for so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
}

impl ExceptionKind {
    /// Whether money went back rather than came in.
    pub fn is_refund(self) -> bool {
        matches!(self, Self::PortalRefund | Self::RefundAmount | Self::RefundedTwice)
    }
}

/// `paymentExceptions.status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
}

impl ExceptionStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refunding => "refunding",
            Self::Refunded => "refunded",
            Self::RefundFailed => "refundFailed",
            Self::Manual => "manual",
        }
    }
}

/// Money that came in but fits no order.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PaymentException {
    /// `{outTradeNo}:{transactionId}` of a payment, [`PaymentException::refund_key`] of a refund.
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
    /// Where we learned of it: `callback`, `query`, `reconcile`, `close`.
    pub source: String,
    #[serde(with = "date")]
    pub created_at: DateTime<Utc>,
    #[serde(default, with = "date::option", skip_serializing_if = "Option::is_none")]
    pub resolved_at: Option<DateTime<Utc>>,
}

impl PaymentException {
    /// The key of a refund that does not fit, and of its entry in the book.
    pub fn refund_key(out_refund_no: &str) -> String {
        format!("refund:{out_refund_no}:exception")
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

    pub async fn exceptions_of(&self, order: &OrderId) -> Result<Vec<PaymentException>, Error> {
        let exceptions = self.collection::<PaymentException>("paymentExceptions").await?;
        Ok(exceptions
            .find(doc! { "orderId": order.as_str() })
            .sort(doc! { "createdAt": 1 })
            .await?
            .try_collect()
            .await?)
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

    /// Ends an attempt as paid or as an exception, under WeChat's transaction number; false if it had ended so already.
    pub async fn finish_payment(
        &mut self,
        out_trade_no: &str,
        status: PaymentStatus,
        transaction_id: &str,
        now: DateTime<Utc>,
    ) -> Result<bool, Error> {
        self.update(
            "payments",
            doc! { "_id": out_trade_no, "status": { "$in": ["created", "prepaid", "closed"] } },
            doc! {
                "$set": { "status": status.as_str(), "transactionId": transaction_id, "paidAt": date::bson(now) },
                "$unset": { "nextQueryAt": "" },
            },
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

    /// `refunding | refundFailed → refunded | refundFailed`; false if it was refunded already or is for a person to decide.
    pub async fn resolve_exception(
        &mut self,
        id: &str,
        status: ExceptionStatus,
        now: DateTime<Utc>,
    ) -> Result<bool, Error> {
        self.update(
            "paymentExceptions",
            doc! { "_id": id, "status": { "$in": ["refunding", "refundFailed"] } },
            doc! { "$set": { "status": status.as_str(), "resolvedAt": date::bson(now) } },
        )
        .await
    }
}
