//! WeChat's part of a refund: an outbox kind with its own rules, and what WeChat says of it in answers and notices.
//!
//! A refund keeps its number through every doubt: after any try it is asked for first, and only when WeChat has proven that a
//! number is CLOSED does staff's retry take a new one. What is unknown is never taken for a failure.

use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::machine::refund::{Event, State};
use domain::refund::{WechatLimit, wechat_takes};
use domain::{Failure, Fen, Refusal, Tells};
use serde::{Deserialize, Serialize};
use store::book::{self, Entry};
use store::payments::{ExceptionKind, ExceptionStatus, PaymentException};
use store::refunds::{Refund, RefundFailure};
use store::{Error, Store, Tx, crashpoint};
use wechat::pay::{self, RefundRequest, RefundStatus};

use super::{Case, give_back, invalid_state};
use crate::delivery::{Outcome, Why};

/// `outbox.kind`
pub const KIND: &str = "afterSaleRefund";

/// The payload of a refund in the outbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SendRefund {
    pub refund_id: String,
    pub out_refund_no: String,
}

/// What WeChat has proven of a refund: a signed answer or a signed notice.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    pub out_refund_no: &'a str,
    pub out_trade_no: &'a str,
    pub transaction_id: &'a str,
    pub status: &'a RefundStatus,
    /// Fen given back.
    pub amount: i64,
    /// When WeChat accepted it; notices do not say.
    pub accepted_at: Option<DateTime<Utc>>,
    /// `query`, `callback`, `refund` or `bill`: where we learned of it.
    pub source: &'static str,
}

impl<'a> Seen<'a> {
    pub fn of(refund: &'a pay::Refund, source: &'static str) -> Self {
        Self {
            out_refund_no: &refund.out_refund_no,
            out_trade_no: &refund.out_trade_no,
            transaction_id: &refund.transaction_id,
            status: &refund.status,
            amount: refund.amount_refund,
            accepted_at: refund.create_time,
            source,
        }
    }

    pub fn of_notice(notice: &'a pay::RefundNotice) -> Self {
        Self {
            out_refund_no: &notice.out_refund_no,
            out_trade_no: &notice.out_trade_no,
            transaction_id: &notice.transaction_id,
            status: &notice.status,
            amount: notice.amount_refund,
            accepted_at: None,
            source: "callback",
        }
    }

    fn fits(&self, case: &Case, refund: &Refund) -> bool {
        case.order.transaction_id.as_deref() == Some(self.transaction_id)
            && refund.plan.given.payment_amount.get() == self.amount
    }
}

fn later(reason: &'static str, text: impl Into<String>) -> Outcome {
    Outcome::later(Why::new(reason, text))
}

/// Asks WeChat Pay for the refund, or how it is going.
pub async fn deliver(
    store: &Store,
    client: &pay::Client,
    send: &SendRefund,
    tells: &Tells,
    now: DateTime<Utc>,
) -> Result<Outcome, Failure> {
    let number = send.out_refund_no.as_str();
    let Some(refund) = store.refund(&send.refund_id).await? else {
        return Ok(Outcome::Dead(Why::new("BAD_PAYLOAD", "there is no such refund")));
    };
    if let Some(outcome) = over(&refund, number) {
        return Ok(outcome);
    }
    let sent_before = refund.number().is_some_and(|n| n.last_sent_at.is_some());
    if sent_before {
        match client.query_refund(number).await {
            Ok(Some(found)) => return concluded(store, send, &Seen::of(&found, "query"), tells, now).await,
            Ok(None) => {}
            Err(error) => return Ok(later("REFUND_QUERY_FAILED", format!("refund query: {error}"))),
        }
    }
    let order = store.order(&refund.order_id).await?;
    let Some((transaction_id, paid_at, total)) =
        order.and_then(|o| Some((o.transaction_id?, o.paid_at?, o.payment_amount)))
    else {
        return Err(Failure::invariant(format!("refund {} is of an order that WeChat took no money for", refund.id)));
    };
    let all = store.refunds_of(&refund.order_id).await?;
    let others = all.iter().flat_map(|r| &r.numbers).filter(|n| n.out_refund_no != number);
    let sent: Vec<DateTime<Utc>> = others.filter_map(|n| n.last_sent_at).collect();
    match wechat_takes(paid_at, &sent, now) {
        Ok(()) => {}
        Err(WechatLimit::TooSoon { from }) => {
            let at_least = (from - now).to_std().unwrap_or(Duration::ZERO);
            let why = Why::new("REFUND_TOO_SOON", "WeChat wants a minute between two refunds of one payment");
            return Ok(Outcome::Later { why, at_least });
        }
        // A number that may be known there is WeChat's to refuse.
        Err(_) if sent_before => {}
        Err(WechatLimit::TooLate) => {
            return fail(store, send, "REFUND_TOO_LATE", "WeChat refunds for 365 days after the payment", now).await;
        }
        Err(WechatLimit::TooMany) => {
            return fail(store, send, "REFUND_TOO_MANY", "WeChat takes 50 refunds of one payment", now).await;
        }
    }
    // Before it leaves, so that whoever comes after knows that it may have.
    if !store.refund_sending(&refund.id, number, now).await? {
        return Ok(later("REFUND_CHANGED", "the refund was concluded meanwhile"));
    }
    crashpoint("refund.sending").await;
    let request = RefundRequest {
        transaction_id: &transaction_id,
        out_refund_no: number,
        refund_fen: refund.plan.given.payment_amount.get(),
        total_fen: total.get(),
        reason: &refund.reason,
        notify_url: client.notify_url(),
    };
    let answer = client.refund(&request).await;
    crashpoint("refund.sent").await;
    match answer {
        Ok(found) => concluded(store, send, &Seen::of(&found, "refund"), tells, now).await,
        Err(error) if error.outcome_unknown() || error.is_retryable() || error.code() == Some("NOT_ENOUGH") => {
            Ok(later("REFUND_FAILED", format!("refund: {error}")))
        }
        // Nothing was sent, or WeChat has said no.
        Err(error) => fail(store, send, "REFUND_REFUSED", &format!("refund: {error}"), now).await,
    }
}

/// How an item ends whose refund does not wait for WeChat under this number any more.
fn over(refund: &Refund, number: &str) -> Option<Outcome> {
    let why = |reason, text: &str| Why::new(reason, text.to_owned());
    let current = refund.number().is_some_and(|n| n.out_refund_no == number);
    match refund.status {
        State::Refunding if current => None,
        State::Refunded if current && !refund.settled_elsewhere => Some(Outcome::Delivered),
        State::Failed => {
            let text = refund.failure.as_ref().map_or("", |f| f.reason.as_str());
            Some(Outcome::Dead(why("REFUND_NOT_POSSIBLE", text)))
        }
        _ => Some(Outcome::Dead(why("REFUND_REPLACED", "the refund was concluded otherwise"))),
    }
}

async fn concluded(
    store: &Store,
    send: &SendRefund,
    seen: &Seen<'_>,
    tells: &Tells,
    now: DateTime<Utc>,
) -> Result<Outcome, Failure> {
    let refund = conclude(store, seen, tells, now).await?;
    let over = refund.as_ref().and_then(|refund| over(refund, &send.out_refund_no));
    Ok(over.unwrap_or_else(|| later("REFUND_PROCESSING", "WeChat is refunding")))
}

/// `refunding → failed` for a reason that staff see; the number stays.
async fn fail(
    store: &Store,
    send: &SendRefund,
    reason: &'static str,
    text: &str,
    now: DateTime<Utc>,
) -> Result<Outcome, Failure> {
    store
        .transaction(|tx, _| {
            Box::pin(async move {
                let (mut case, before) = Case::of_refund(tx, &send.refund_id).await?;
                if over(&before, &send.out_refund_no).is_some() {
                    return Ok(());
                }
                let mut after = before.clone();
                failed(&mut after, reason, text, now)?;
                case.save(tx, Some(&before), after).await.map(drop)
            })
        })
        .await?;
    Ok(Outcome::Dead(Why::new(reason, text)))
}

fn failed(refund: &mut Refund, reason: &str, text: &str, now: DateTime<Utc>) -> Result<(), Refusal> {
    refund.step(Event::Fail, "wechat", Some(reason), now)?;
    refund.failure = Some(RefundFailure { reason: reason.to_owned(), text: text.to_owned(), at: now });
    Ok(())
}

/// Acts on what WeChat has proven; again it changes nothing. Returns the refund as it is then; none if the number is not ours.
pub async fn conclude(
    store: &Store,
    seen: &Seen<'_>,
    tells: &Tells,
    now: DateTime<Utc>,
) -> Result<Option<Refund>, Failure> {
    // Most of what is said is said again.
    let known = store.refund_by_number(seen.out_refund_no).await?;
    if known.is_none() || matches!(seen.status, RefundStatus::Processing | RefundStatus::Unknown(_)) {
        if let (Some(refund), Some(at)) = (&known, seen.accepted_at)
            && refund.numbers.iter().any(|n| n.out_refund_no == seen.out_refund_no && n.accepted_at.is_none())
        {
            store.refund_accepted(seen.out_refund_no, at).await?;
        }
        return Ok(known);
    }
    let refund = store.transaction(|tx, _| Box::pin(async move { conclude_in(tx, seen, tells, now).await })).await?;
    crashpoint("refund.concluded").await;
    Ok(refund)
}

async fn conclude_in(tx: &mut Tx, seen: &Seen<'_>, tells: &Tells, now: DateTime<Utc>) -> Result<Option<Refund>, Error> {
    let Some(before) = tx.refund_by_number(seen.out_refund_no).await? else { return Ok(None) };
    let mut case = Case::load(tx, &before.order_id).await?;
    let mut after = before.clone();
    let waits = matches!(before.status, State::Refunding | State::Failed);
    let Some(number) = after.numbers.last_mut().filter(|n| n.out_refund_no == seen.out_refund_no) else {
        // A number that was given up as closed.
        if *seen.status == RefundStatus::Success {
            record(tx, ExceptionKind::RefundedTwice, seen, Some(&before), now).await?;
        }
        return Ok(Some(before));
    };
    let changed = match seen.status {
        RefundStatus::Success if !seen.fits(&case, &before) => {
            record(tx, ExceptionKind::RefundAmount, seen, Some(&before), now).await?;
            number.state = Some("SUCCESS".to_owned());
            let refunding = before.status == State::Refunding;
            if refunding {
                failed(&mut after, "REFUND_AMOUNT", "WeChat gave back another amount than it was asked for", now)?;
            }
            refunding
        }
        RefundStatus::Success if waits => {
            number.state = Some("SUCCESS".to_owned());
            after.step(Event::Succeed, "wechat", None, now)?;
            let entry = Entry::new(after.paid_key(), now).user(&after.user_id).order(&after.order_id);
            tx.post(&entry.transfer("fen", book::REFUNDS, book::WECHAT, seen.amount)).await?;
            give_back::tell_refunded(tx, &after, tells, now).await?;
            true
        }
        RefundStatus::Success => {
            if before.settled_elsewhere {
                record(tx, ExceptionKind::RefundedTwice, seen, Some(&before), now).await?;
            }
            false
        }
        RefundStatus::Closed | RefundStatus::Abnormal if waits => {
            let state = Some(seen.status.as_str().to_owned());
            let news = number.state != state && !number.is_closed();
            if news {
                number.state = state;
            }
            if before.status == State::Refunding {
                let closed = *seen.status == RefundStatus::Closed;
                let (reason, text) = if closed {
                    ("REFUND_CLOSED", "WeChat has closed the refund")
                } else {
                    ("REFUND_ABNORMAL", "WeChat cannot give the money back the way it came")
                };
                failed(&mut after, reason, text, now)?;
            }
            news || before.status == State::Refunding
        }
        _ => false,
    };
    if !changed {
        return Ok(Some(before));
    }
    // A bill that was compared before has to have it, too.
    if let Some(number) = after.numbers.last_mut().filter(|n| n.state.as_deref() == Some("SUCCESS")) {
        number.accepted_at = number.accepted_at.or(seen.accepted_at);
        if let (Some(at), None) = (number.accepted_at, &number.bill_day) {
            tx.learned_late(at, seen.source, now).await?;
        }
    }
    crashpoint("refund.concluding").await;
    Ok(Some(case.save(tx, Some(&before), after).await?))
}

/// Money that went back otherwise than we asked: for a person to look at, once per refund number.
async fn record(
    tx: &mut Tx,
    kind: ExceptionKind,
    seen: &Seen<'_>,
    refund: Option<&Refund>,
    now: DateTime<Utc>,
) -> Result<bool, Error> {
    let id = PaymentException::refund_key(seen.out_refund_no);
    if tx.exception(&id).await?.is_some() {
        return Ok(false);
    }
    let payment = tx.payment(seen.out_trade_no).await?;
    let exception = PaymentException {
        kind,
        out_trade_no: seen.out_trade_no.to_owned(),
        transaction_id: seen.transaction_id.to_owned(),
        order_id: refund.map(|r| r.order_id.clone()).or_else(|| payment.map(|p| p.order_id)),
        amount: Fen::new(seen.amount)?,
        expected_amount: refund.map(|r| r.plan.given.payment_amount),
        status: ExceptionStatus::Manual,
        out_refund_no: Some(seen.out_refund_no.to_owned()),
        day: None,
        bill_refund_no: None,
        refund_accepted_at: seen.accepted_at,
        refund_bill_day: None,
        settled_elsewhere: false,
        source: seen.source.to_owned(),
        created_at: now,
        resolved_at: None,
        resolved_by: None,
        remark: None,
        id: id.clone(),
    };
    tx.insert_exception(&exception).await?;
    tx.post(&Entry::new(id, now).transfer("fen", book::EXCEPTIONS, book::WECHAT, seen.amount)).await?;
    Ok(true)
}

/// What a notice says of a refund of ours. An amount that is not ours is not believed before WeChat was asked. False if the number
/// is none of ours.
pub async fn noticed(
    store: &Store,
    client: &pay::Client,
    seen: &Seen<'_>,
    tells: &Tells,
    now: DateTime<Utc>,
) -> Result<bool, Failure> {
    let Some(refund) = store.refund_by_number(seen.out_refund_no).await? else { return Ok(false) };
    if refund.plan.given.payment_amount.get() == seen.amount {
        return Ok(conclude(store, seen, tells, now).await?.is_some());
    }
    let found = client.query_refund(seen.out_refund_no).await?;
    let found = found.ok_or_else(|| Failure::Upstream("a notice of a refund that WeChat does not know".into()))?;
    Ok(conclude(store, &Seen::of(&found, "query"), tells, now).await?.is_some())
}

/// Records a refund that somebody made in the merchant portal, once WeChat says that it is there.
pub async fn record_portal_refund(
    store: &Store,
    client: &pay::Client,
    out_refund_no: &str,
    now: DateTime<Utc>,
) -> Result<(), Failure> {
    let found = client.query_refund(out_refund_no).await?;
    let found = found.ok_or_else(|| Failure::Upstream("a notice of a refund that WeChat does not know".into()))?;
    if found.status != RefundStatus::Success {
        return Ok(());
    }
    let seen = &Seen::of(&found, "query");
    let new = store
        .transaction(|tx, _| Box::pin(async move { record(tx, ExceptionKind::PortalRefund, seen, None, now).await }))
        .await?;
    if new {
        tracing::warn!("a refund was made in the merchant portal");
    }
    Ok(())
}

/// Before staff give WeChat's part another way: WeChat is asked what it knows. `ORDER_STATE_INVALID` if it has given the money
/// back after all, or still may; `UPSTREAM_ERROR` if it does not say.
pub async fn is_over(
    store: &Store,
    client: &pay::Client,
    id: &str,
    tells: &Tells,
    now: DateTime<Utc>,
) -> Result<(), Failure> {
    let Some(refund) = store.refund(id).await?.filter(|r| r.status == State::Failed) else { return Ok(()) };
    let Some(number) = refund.number().filter(|n| n.last_sent_at.is_some()) else { return Ok(()) };
    let Some(found) = client.query_refund(&number.out_refund_no).await? else { return Ok(()) };
    let refund = conclude(store, &Seen::of(&found, "query"), tells, now).await?;
    if refund.is_some_and(|refund| refund.status == State::Refunded) {
        return Err(invalid_state("微信支付已退款成功，无需再线下处理").into());
    }
    match found.status {
        RefundStatus::Processing | RefundStatus::Unknown(_) => {
            Err(invalid_state("微信支付正在退款，请稍后再试").into())
        }
        RefundStatus::Success | RefundStatus::Closed | RefundStatus::Abnormal => Ok(()),
    }
}
