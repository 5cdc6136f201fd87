//! Many orders in one call: each goes its own way by the state machine, and none stops the others.

use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::{Code, Failure, OrderId, OrderStatus, Refusal, ShopRules};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use store::{CommandKey, Once, Store};
use wechat::pay;

use crate::close::{Closed, close_order};
use crate::shipping::{self, Parcel};

/// More orders in one call are refused.
pub const ORDERS_MAX: usize = 100;

/// Closing one order may take a close and a query of WeChat: none is begun with less time left than this.
const ORDER_TIME: Duration = Duration::from_secs(12);

/// What is to become of one order.
#[derive(Clone, Debug)]
pub enum Step {
    Ship(Parcel),
    Complete,
    Close { reason: String },
}

/// One order of a call: its id as it came in, and what is to become of it if that could be read.
#[derive(Clone, Debug)]
pub struct Job {
    pub order_id: String,
    pub step: Result<Step, Refusal>,
}

/// How one order fared.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    pub order_id: String,
    pub success: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<OrderStatus>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub details: Map<String, Value>,
    /// Whether the same order may fare better in a later call.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retryable: bool,
}

/// How a call's orders fared, in its order.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcomes {
    pub results: Vec<Outcome>,
    pub succeeded: usize,
    pub failed: usize,
}

/// A call under way.
pub struct Batch<'a> {
    pub store: &'a Store,
    pub client: &'a pay::Client,
    pub rules: &'a ShopRules,
    /// `staff:…` or `service:…`.
    pub by: &'a str,
    pub key: Option<&'a CommandKey>,
    /// How much of the call's time is left.
    pub time_left: &'a (dyn Fn() -> Duration + Send + Sync),
    pub now: DateTime<Utc>,
}

/// `shipped → completed`; true if it was completed before. `ORDER_NOT_FOUND`; `ORDER_STATE_INVALID` for what is not shipped.
pub async fn complete_order(store: &Store, id: &OrderId, now: DateTime<Utc>) -> Result<bool, Failure> {
    if store.complete_order(id, now).await? {
        return Ok(false);
    }
    let order = store.order(id).await?.ok_or(Code::OrderNotFound)?;
    if order.status == OrderStatus::Completed {
        return Ok(true);
    }
    let refusal = Refusal::new(Code::OrderStateInvalid).with_message("订单还没有发货");
    Err(refusal.detail("status", order.status.as_str()).into())
}

impl Batch<'_> {
    /// Does them one after another. Every step is idempotent by the order's state, so that the call may be repeated; its outcome is
    /// remembered under the key unless something in it may fare better then.
    pub async fn run(&self, jobs: &[Job]) -> Result<Once<Outcomes>, Failure> {
        if let Some(key) = self.key
            && let Some(done) = self.store.replay(key).await?
        {
            return Ok(done);
        }
        let mut outcomes = Outcomes::default();
        for job in jobs {
            let outcome = self.outcome(job).await;
            let count = if outcome.success { &mut outcomes.succeeded } else { &mut outcomes.failed };
            *count = count.saturating_add(1);
            outcomes.results.push(outcome);
        }
        if self.key.is_none() || outcomes.results.iter().any(|o| o.retryable) {
            return Ok(Once { value: outcomes, replayed: false });
        }
        let outcomes = &outcomes;
        Ok(self.store.once(self.key, self.now, |_, _| Box::pin(async move { Ok(outcomes.clone()) })).await?)
    }

    async fn outcome(&self, job: &Job) -> Outcome {
        let done = match (&job.step, OrderId::parse(&job.order_id)) {
            (Err(refusal), _) => Err(refusal.clone().into()),
            (_, Err(_)) => Err(Refusal::invalid("orderId", "orderId 格式不正确").into()),
            (Ok(_), _) if (self.time_left)() < ORDER_TIME => Err(Failure::Timeout),
            (Ok(step), Ok(id)) => self.step(&id, step).await,
        };
        let order_id = job.order_id.clone();
        let plain = |success, status| Outcome {
            order_id: order_id.clone(),
            success,
            status,
            code: None,
            message: None,
            details: Map::new(),
            retryable: false,
        };
        match done {
            Ok(status) => plain(true, Some(status)),
            Err(failure) => {
                let code = failure.code();
                let outcome = Outcome { code: Some(code.as_str().to_owned()), ..plain(false, None) };
                match failure {
                    Failure::Refused(refusal) => Outcome {
                        message: Some(refusal.message.into_owned()),
                        details: refusal.details,
                        // Others were faster too often.
                        retryable: code == Code::Conflict,
                        ..outcome
                    },
                    other => {
                        tracing::warn!(order = %order_id, error = %other, "an order of a batch failed");
                        Outcome { message: Some(code.message().to_owned()), retryable: true, ..outcome }
                    }
                }
            }
        }
    }

    async fn step(&self, id: &OrderId, step: &Step) -> Result<OrderStatus, Failure> {
        let Self { store, client, rules, by, now, .. } = *self;
        match step {
            Step::Ship(parcel) => Ok(shipping::ship(store, rules, id, parcel, by, now).await?.status),
            Step::Complete => complete_order(store, id, now).await.map(|_| OrderStatus::Completed),
            Step::Close { reason } => match close_order(store, client, rules, id, reason, now).await? {
                Closed::Closed | Closed::AlreadyClosed => Ok(OrderStatus::Closed),
                Closed::Paid => Err(Refusal::new(Code::OrderStateInvalid).with_message("订单已支付，不能关闭").into()),
            },
        }
    }
}
