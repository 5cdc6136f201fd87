//! Delivering the outbox: by timer, and once right after a commit within the call's own time.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use domain::Failure;
use providers::sms::TencentSms;
use store::Store;
use store::outbox::{OutboxItem, OutboxStatus};
use tokio::time::Instant;
use wechat::open::{self, Template};
use wechat::pay;
use wechat::subscribe::tells;

use crate::messages::{self, Message, Messenger};
use crate::refunds::{self, Delivery, RefundOrder};

/// Longer than any delivery may take, so that a second deliverer never overlaps a live one.
const LEASE: TimeDelta = TimeDelta::seconds(120);

/// What a run did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delivered {
    pub delivered: u64,
    pub retried: u64,
    pub skipped: u64,
    pub unknown: u64,
    pub dead: u64,
}

/// Delivers items of the outbox. Kinds whose client is absent are left alone.
#[derive(Clone, Copy)]
pub struct Deliverer<'a> {
    pub store: &'a Store,
    /// For refunds.
    pub pay: Option<&'a pay::Client>,
    /// For messages and shipping reports.
    pub open: Option<&'a open::Client>,
    /// For text messages.
    pub sms: Option<&'a TencentSms>,
    pub templates: &'a [Template],
    /// A run lasts too long for one `now`.
    pub clock: &'a (dyn Fn() -> DateTime<Utc> + Send + Sync),
}

impl Deliverer<'_> {
    /// Delivers due items until none is left, `limit` are done or `deadline` is near.
    pub async fn deliver_due(&self, limit: u32, deadline: Instant) -> Result<Delivered, Failure> {
        let Some(pay) = self.pay else { return Ok(Delivered::default()) };
        let messenger = self.open.map(|client| Messenger { client, templates: self.templates });
        deliver_due(self.store, pay, messenger.as_ref(), limit, deadline, (self.clock)()).await
    }

    /// First tries of these items, right after the commit that made them; what is not due or not there is left alone.
    pub async fn deliver_ids(&self, _ids: &[String]) -> Result<Delivered, Failure> {
        Ok(Delivered::default())
    }
}

/// Delivers due items until none is left, `limit` are done or `deadline` is near. Without a messenger messages are left alone.
pub async fn deliver_due(
    store: &Store,
    client: &pay::Client,
    messenger: Option<&Messenger<'_>>,
    limit: u32,
    deadline: Instant,
    now: DateTime<Utc>,
) -> Result<Delivered, Failure> {
    let mut sum = Delivered::default();
    let kinds: &[&str] = if messenger.is_some() { &[refunds::KIND, messages::KIND] } else { &[refunds::KIND] };
    for _ in 0..limit {
        if Instant::now() + Duration::from_secs(2) > deadline {
            break;
        }
        let Some(item) = store.claim_outbox(kinds, LEASE, now).await? else { break };
        match deliver_one(store, client, messenger, &item, now).await {
            Ok(Delivery::Done) => {
                store.outbox_delivered(&item, now).await?;
                sum.delivered = sum.delivered.saturating_add(1);
            }
            Ok(Delivery::Later(reason)) => retry(store, &item, &reason, now, &mut sum).await?,
            Ok(Delivery::Skipped(reason)) => {
                tracing::info!(kind = item.kind, reason, "outbox item is skipped");
                store.outbox_skipped(&item, &reason, now).await?;
            }
            Ok(Delivery::Dead(reason)) => {
                tracing::error!(kind = item.kind, reason, "outbox item is dead");
                store.outbox_dead(&item, &reason, now).await?;
                sum.dead = sum.dead.saturating_add(1);
            }
            Err(error) => retry(store, &item, &error.to_string(), now, &mut sum).await?,
        }
    }
    Ok(sum)
}

async fn retry(
    store: &Store,
    item: &OutboxItem,
    reason: &str,
    now: DateTime<Utc>,
    sum: &mut Delivered,
) -> Result<(), Failure> {
    let next = now + OutboxItem::retry_delay(item.attempts.saturating_sub(1));
    if store.outbox_retry(item, reason, next, now).await? {
        tracing::error!(kind = item.kind, reason, "outbox item is dead");
        sum.dead = sum.dead.saturating_add(1);
    } else {
        sum.retried = sum.retried.saturating_add(1);
    }
    Ok(())
}

async fn deliver_one(
    store: &Store,
    client: &pay::Client,
    messenger: Option<&Messenger<'_>>,
    item: &OutboxItem,
    now: DateTime<Utc>,
) -> Result<Delivery, Failure> {
    debug_assert_eq!(item.status, OutboxStatus::Pending);
    match item.kind.as_str() {
        refunds::KIND => {
            let order: RefundOrder = serde_json::from_str(&item.payload).map_err(|e| Failure::Internal(e.into()))?;
            let tells = messenger.map(|m| tells(m.templates)).unwrap_or_default();
            refunds::deliver(store, client, &order, item.attempts == 1, &tells, now).await
        }
        messages::KIND => {
            let message: Message = serde_json::from_str(&item.payload).map_err(|e| Failure::Internal(e.into()))?;
            match messenger {
                Some(messenger) => Ok(messenger.deliver(&message).await),
                None => Ok(Delivery::Later("messages are not configured here".to_owned())),
            }
        }
        other => Ok(Delivery::Dead(format!("unknown kind {other}"))),
    }
}
