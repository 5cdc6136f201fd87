//! Asking WeChat Pay what became of an attempt to pay, and acting on the answer.

use chrono::{DateTime, TimeDelta, Utc};
use domain::{Failure, ShopRules};
use store::Store;
use store::payments::Payment;
use wechat::pay::{self, TradeState};

use crate::settle::{Merchant, Settlement, settle};

/// When to ask next after so many queries, in seconds; WeChat's documentation proposes such a plan (doc 4012075249).
const PLAN: [i64; 7] = [5, 30, 60, 180, 300, 600, 1800];

/// The pause before query number `queries + 1`.
pub fn query_delay(queries: i64) -> TimeDelta {
    let at = usize::try_from(queries).unwrap_or(0);
    TimeDelta::seconds(PLAN.get(at).copied().unwrap_or(1800))
}

/// What a query told us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checked {
    /// Paid; this is what settling made of it.
    Paid(Settlement),
    /// The payer can still pay.
    NotPaid,
    /// Closed at WeChat, never to be paid.
    Closed,
    /// WeChat says it has no such order. The answer is unsigned, so it is only a hint.
    Absent,
    /// WeChat said something this version does not know; nothing was decided.
    Unclear(String),
}

impl Checked {
    /// WeChat's word for it, for `wxPay {action:"query"}`.
    pub fn trade_state(&self) -> &str {
        match self {
            Self::Paid(_) => "SUCCESS",
            Self::NotPaid | Self::Absent => "NOTPAY",
            Self::Closed => "CLOSED",
            Self::Unclear(state) => state,
        }
    }
}

/// Queries one attempt, settles it if it is paid, and plans the next query if it is still open.
pub async fn check_payment(
    store: &Store,
    client: &pay::Client,
    rules: &ShopRules,
    payment: &Payment,
    source: &'static str,
    now: DateTime<Utc>,
) -> Result<Checked, Failure> {
    let next = now + query_delay(payment.queries.saturating_add(1));
    let answer = match client.query(&payment.out_trade_no).await {
        Ok(answer) => answer,
        Err(error) => {
            store.schedule_query(&payment.out_trade_no, next).await?;
            return Err(error.into());
        }
    };
    let checked = match &answer {
        None => Checked::Absent,
        Some(transaction) if transaction.out_trade_no != payment.out_trade_no => {
            return Err(Failure::Upstream("the answer is about another payment".into()));
        }
        Some(transaction) if transaction.is_paid() => {
            Checked::Paid(settle(store, Merchant::of(client), rules, transaction, source, now).await?)
        }
        Some(transaction) => match &transaction.trade_state {
            TradeState::NotPay | TradeState::UserPaying => Checked::NotPaid,
            TradeState::Closed | TradeState::Revoked => Checked::Closed,
            other => {
                tracing::warn!(state = other.as_str(), "unexpected trade state");
                Checked::Unclear(other.as_str().to_owned())
            }
        },
    };
    match &checked {
        Checked::Paid(_) => {}
        Checked::Closed => store.mark_payment_closed(&payment.out_trade_no).await?,
        Checked::NotPaid | Checked::Absent | Checked::Unclear(_) => {
            store.schedule_query(&payment.out_trade_no, next).await?
        }
    }
    Ok(checked)
}
