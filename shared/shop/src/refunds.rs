//! Giving back payments that fit no order: an outbox kind with its own rules.
//!
//! The refund number is made from the transaction, so the same money can be refunded once, however often this runs. After any
//! doubt the refund is queried before it is asked for again (pay.weixin.qq.com/doc/v3/merchant/4013071036).

use chrono::{DateTime, Utc};
use domain::{Failure, Tells};
use serde::{Deserialize, Serialize};
use store::Store;
use store::payments::ExceptionStatus;
use wechat::pay::{self, Refund, RefundRequest, RefundStatus};

use crate::after_sale::wechat::Seen;
use crate::delivery::{Outcome, Why};
use crate::events::{self, Refunded};

/// `outbox.kind`
pub const KIND: &str = "refund";

/// The payload of a refund in the outbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RefundOrder {
    pub out_trade_no: String,
    pub transaction_id: String,
    pub out_refund_no: String,
}

/// Our number for the refund of a whole payment.
pub fn refund_no(transaction_id: &str) -> String {
    format!("RF{transaction_id}")
}

/// `outbox._id` of a refund.
pub fn item_id(out_refund_no: &str) -> String {
    format!("refund:{out_refund_no}")
}

/// The key of the entry that books money which fits no order.
pub fn exception_key(transaction_id: &str) -> String {
    format!("payment:{transaction_id}:exception")
}

fn later(reason: &'static str, text: impl Into<String>) -> Outcome {
    Outcome::later(Why::new(reason, text))
}

/// Asks WeChat Pay for the refund, or how it is going.
pub async fn deliver(
    store: &Store,
    client: &pay::Client,
    order: &RefundOrder,
    first_try: bool,
    tells: &Tells,
    now: DateTime<Utc>,
) -> Result<Outcome, Failure> {
    if !first_try {
        match client.query_refund(&order.out_refund_no).await {
            Ok(Some(refund)) => return conclude(store, &refund, tells, now).await,
            Ok(None) => {}
            Err(error) => return Ok(later("REFUND_QUERY_FAILED", format!("refund query: {error}"))),
        }
    }
    // What WeChat really holds decides how much goes back, not what a notice claimed.
    let total = match client.query(&order.out_trade_no).await {
        Ok(Some(transaction)) if transaction.is_paid() => transaction.amount_total.unwrap_or(0),
        Ok(_) => return Ok(later("PAYMENT_NOT_PAID", "WeChat does not know the payment as paid")),
        Err(error) => return Ok(later("PAYMENT_QUERY_FAILED", format!("payment query: {error}"))),
    };
    let request = RefundRequest {
        transaction_id: &order.transaction_id,
        out_refund_no: &order.out_refund_no,
        refund_fen: total,
        total_fen: total,
        reason: "订单未成立，款项原路退回",
        notify_url: client.notify_url(),
    };
    match client.refund(&request).await {
        Ok(refund) => conclude(store, &refund, tells, now).await,
        Err(error) if error.outcome_unknown() || error.is_retryable() || error.code() == Some("NOT_ENOUGH") => {
            Ok(later("REFUND_FAILED", format!("refund: {error}")))
        }
        Err(error) => {
            let refused = Word { status: ExceptionStatus::RefundFailed, accepted_at: None, source: "refund" };
            record(store, &order.out_refund_no, refused, tells, now).await?;
            Ok(Outcome::Dead(Why::new("REFUND_REFUSED", format!("refund: {error}"))))
        }
    }
}

async fn conclude(store: &Store, refund: &Refund, tells: &Tells, now: DateTime<Utc>) -> Result<Outcome, Failure> {
    record_status(store, &Seen::of(refund, "query"), tells, now).await?;
    Ok(match &refund.status {
        RefundStatus::Success => Outcome::Delivered,
        RefundStatus::Processing | RefundStatus::Unknown(_) => later("REFUND_PROCESSING", "WeChat is refunding"),
        RefundStatus::Closed | RefundStatus::Abnormal => {
            Outcome::Dead(Why::new("REFUND_NOT_POSSIBLE", format!("WeChat says {}", refund.status.as_str())))
        }
    })
}

/// Records what WeChat has proven of a refund of ours, and tells the payer once the money is back. Unknown numbers change nothing;
/// returns whether the number is known.
pub async fn record_status(store: &Store, seen: &Seen<'_>, tells: &Tells, now: DateTime<Utc>) -> Result<bool, Failure> {
    let word = |status| Word { status, accepted_at: seen.accepted_at, source: seen.source };
    match seen.status {
        RefundStatus::Success => record(store, seen.out_refund_no, word(ExceptionStatus::Refunded), tells, now).await,
        RefundStatus::Closed | RefundStatus::Abnormal => {
            record(store, seen.out_refund_no, word(ExceptionStatus::RefundFailed), tells, now).await
        }
        RefundStatus::Processing | RefundStatus::Unknown(_) => {
            Ok(store.exception_by_refund(seen.out_refund_no).await?.is_some())
        }
    }
}

/// What a refund has become, and where we learned of it.
#[derive(Clone, Copy)]
struct Word {
    status: ExceptionStatus,
    accepted_at: Option<DateTime<Utc>>,
    source: &'static str,
}

async fn record(
    store: &Store,
    out_refund_no: &str,
    word: Word,
    tells: &Tells,
    now: DateTime<Utc>,
) -> Result<bool, Failure> {
    let Some(exception) = store.exception_by_refund(out_refund_no).await? else { return Ok(false) };
    let Word { status, accepted_at, source } = word;
    store
        .transaction(|tx, _| {
            let exception = &exception;
            Box::pin(async move {
                if !tx.resolve_exception(&exception.id, status, accepted_at, now).await?
                    || status != ExceptionStatus::Refunded
                {
                    return Ok(());
                }
                // A bill that was compared before has to have it, too.
                if let (Some(at), None) = (accepted_at, &exception.refund_bill_day) {
                    tx.learned_late(at, source, now).await?;
                }
                let key = exception_key(&exception.transaction_id);
                let entry = tx.entry(&key).await?.ok_or_else(|| store::Error::Invariant(format!("no entry {key}")))?;
                tx.post(&entry.reversal(format!("refund:{out_refund_no}:success"), now)).await?;
                let Some(order) = &exception.order_id else { return Ok(()) };
                let reason = events::refund_reason(exception.kind);
                let refunded = Refunded { out_refund_no, amount: exception.amount, reason };
                events::order_refunded(tx, order, &refunded, tells, now).await
            })
        })
        .await?;
    Ok(true)
}
