//! Giving back payments that fit no order: an outbox kind with its own rules.
//!
//! The refund number is made from the transaction, so the same money can be refunded once, however often this runs. After any
//! doubt the refund is queried before it is asked for again (pay.weixin.qq.com/doc/v3/merchant/4013071036).

use chrono::{DateTime, Utc};
use domain::{Code, Failure, Fen, Refusal, Tells};
use serde::{Deserialize, Serialize};
use store::book::{self, Entry};
use store::outbox::OutboxStatus;
use store::payments::{ExceptionKind, ExceptionStatus, PaymentException};
use store::{Error, Store, Tx};
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
    // Somebody may have dealt with it since it was given up.
    let exception = store.exception_by_refund(&order.out_refund_no).await?;
    if exception.is_some_and(|one| one.status == ExceptionStatus::Resolved) {
        return Ok(Outcome::Dead(Why::new("REFUND_REPLACED", "the money was given back another way")));
    }
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
                if !tx.resolve_exception(&exception.id, status, accepted_at, now).await? {
                    return match status {
                        ExceptionStatus::Refunded => given_twice(tx, &exception.id, word, now).await,
                        _ => Ok(()),
                    };
                }
                if status != ExceptionStatus::Refunded {
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

/// WeChat has given money back that staff had given back another way: for a person to look at, once.
async fn given_twice(tx: &mut Tx, id: &str, word: Word, now: DateTime<Utc>) -> Result<(), Error> {
    let Some(settled) = tx.exception(id).await?.filter(|one| one.status == ExceptionStatus::Resolved) else {
        return Ok(());
    };
    let number = settled.out_refund_no.clone().unwrap_or_default();
    let key = PaymentException::refund_key(&number);
    if tx.exception(&key).await?.is_some() {
        return Ok(());
    }
    tx.post(&Entry::new(key.clone(), now).transfer("fen", book::EXCEPTIONS, book::WECHAT, settled.amount.get()))
        .await?;
    tx.insert_exception(&PaymentException {
        id: key,
        kind: ExceptionKind::RefundedTwice,
        expected_amount: Some(Fen::ZERO),
        status: ExceptionStatus::Manual,
        // The number itself is the first record's.
        out_refund_no: None,
        bill_refund_no: Some(number),
        refund_accepted_at: word.accepted_at,
        refund_bill_day: None,
        settled_elsewhere: false,
        source: word.source.to_owned(),
        created_at: now,
        resolved_at: None,
        resolved_by: None,
        remark: None,
        ..settled
    })
    .await
}

/// Before staff deal with a refund that failed: WeChat is asked what it knows, and what it says is recorded. `ORDER_STATE_INVALID` if
/// it has given the money back after all, or still may; `UPSTREAM_ERROR` if it does not say. Returns whether it has heard of the
/// refund at all.
pub async fn is_over(
    store: &Store,
    client: &pay::Client,
    exception: &PaymentException,
    tells: &Tells,
    now: DateTime<Utc>,
) -> Result<bool, Failure> {
    let number = exception.out_refund_no.as_deref().unwrap_or_default();
    let Some(found) = client.query_refund(number).await? else { return Ok(false) };
    record_status(store, &Seen::of(&found, "query"), tells, now).await?;
    let refused = |message: &'static str| Refusal::new(Code::OrderStateInvalid).with_message(message);
    match found.status {
        RefundStatus::Success => Err(refused("微信支付已退款成功，无需再处理").into()),
        RefundStatus::Processing | RefundStatus::Unknown(_) => Err(refused("微信支付正在退款，请稍后再试").into()),
        RefundStatus::Closed | RefundStatus::Abnormal => Ok(true),
    }
}

/// Staff say what became of money that fits no order, or of a difference. What WeChat failed to give back is resolved only once it
/// was given back: through WeChat Pay by the merchant portal, which is recorded by itself, or `elsewhere`. [`is_over`] comes first.
///
/// `NOT_FOUND`; `CONFLICT` for another state, and where nothing says that the money went back.
pub async fn resolve(
    tx: &mut Tx,
    id: &str,
    by: &str,
    remark: &str,
    elsewhere: bool,
    now: DateTime<Utc>,
) -> Result<PaymentException, Error> {
    let before = find(tx, id).await?;
    match before.status {
        ExceptionStatus::Manual if !elsewhere => {}
        ExceptionStatus::RefundFailed if elsewhere => {
            let key = format!("refund:{}:elsewhere", before.out_refund_no.as_deref().unwrap_or_default());
            let amount = before.amount.get();
            tx.post(&Entry::new(key, now).transfer("fen", book::EXCEPTIONS, book::ELSEWHERE, amount)).await?;
        }
        ExceptionStatus::RefundFailed => {
            let back = tx.refunds_beside(&before.out_trade_no).await?;
            if Fen::sum(back.iter().map(|one| one.amount))? < before.amount {
                let text = "还没有这笔款项的退款记录：请先在商户平台退款，或线下退还后用 settle 登记";
                return Err(Refusal::new(Code::Conflict).with_message(text).into());
            }
        }
        _ => return Err(Refusal::new(Code::Conflict).with_message("这条异常不是待人工处理的状态").into()),
    }
    if !tx.resolve_by_hand(&before, by, remark, elsewhere, now).await? {
        return Err(Error::Invariant(format!("exception {id} changed within a snapshot")));
    }
    find(tx, id).await
}

/// Staff have a refund that WeChat refused sent again, under its number; one that was given up after too many tries is taken up
/// again. `NOT_FOUND`, `CONFLICT` for another state.
pub async fn retry(tx: &mut Tx, id: &str, now: DateTime<Utc>) -> Result<PaymentException, Error> {
    let before = find(tx, id).await?;
    let item = item_id(before.out_refund_no.as_deref().unwrap_or_default());
    let waits = before.status == ExceptionStatus::Refunding;
    if !waits && !tx.retry_exception(id).await? {
        return Err(Refusal::new(Code::Conflict).with_message("这条异常不是退款失败的状态").into());
    }
    let again = tx.redrive(&item, &[OutboxStatus::Dead], now, now).await?;
    if again.is_none() && !waits {
        return Err(Error::Invariant(format!("the failed refund of exception {id} is not dead in the outbox")));
    }
    find(tx, id).await
}

async fn find(tx: &mut Tx, id: &str) -> Result<PaymentException, Error> {
    let found = tx.exception(id).await?;
    found.ok_or_else(|| Refusal::new(Code::NotFound).with_message("没有这条异常记录").into())
}
