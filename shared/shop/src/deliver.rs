//! Delivering the outbox: by timer, and once right after a commit within the call's own time.
//!
//! Each item goes the same way: it is claimed, waits for its turn in its queue, a try begins, the exchange is made, the try ends.
//! An exchange whose repetition could do harm leaves a mark from the second to the last step; who finds the mark on an item that
//! nobody delivers any more knows that its outcome is unknown.

mod board;
mod end;

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use domain::{Failure, Tells};
use futures_util::{StreamExt, future, stream};
use providers::kuaidi100::Account;
use providers::sms::TencentSms;
use serde::de::DeserializeOwned;
use store::outbox::{Begin, Begun, MAX_ATTEMPTS, OutboxItem};
use store::subscriptions::Subscription;
use store::{Error, Store, crashpoint};
use tokio::time::Instant;
use wechat::open::{self, Template};
use wechat::pay;

use self::board::{Next, Run};
use crate::after_sale::wechat::{self as after_sale, SendRefund};
use crate::delivery::{Outcome, Why};
use crate::messages::{self, Message, NO_SUBSCRIPTION, NO_TEMPLATE, OUTCOME_UNKNOWN};
use crate::parcels::{self, Follow};
use crate::refunds::{self, RefundOrder};
use crate::reviews::{self, CheckReview};
use crate::shipping;
use crate::texts::{self, Text};

/// All kinds, in the order in which a run looks after them.
const KINDS: [&str; 8] = [
    refunds::KIND,
    after_sale::KIND,
    shipping::KIND,
    messages::KIND,
    texts::KIND,
    parcels::KIND,
    reviews::KIND,
    messages::MASS_KIND,
];

/// Longer than any delivery may take, so that a second deliverer never overlaps a live one.
const LEASE: TimeDelta = TimeDelta::seconds(120);
/// Exchanges at a time, and how many of them may be of one kind: the others find room when a flood is on.
const WORKERS: usize = 16;
const PER_KIND: usize = 12;
/// First tries at a time.
const FIRST_TRIES: usize = 8;
/// So many messages to one person are sent in a row before others have their turn.
const IN_A_ROW: u32 = 20;
const IDLE: Duration = Duration::from_millis(50);
/// The first pause of a message whose predecessor is under way, and what each further predecessor adds.
const TURN: TimeDelta = TimeDelta::seconds(1);
const TURN_EACH_MS: i64 = 100;
const AHEAD_MAX: u64 = 600;
/// What took longer to get an access token is put back, for it may need another one in the middle of its exchange.
const READY_MAX: Duration = Duration::from_secs(5);

/// What a run did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delivered {
    pub delivered: u64,
    pub retried: u64,
    pub skipped: u64,
    pub unknown: u64,
    pub dead: u64,
}

/// What became of a claimed item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Settled {
    Delivered,
    Retried,
    Skipped,
    Unknown,
    Dead,
    /// It is not its turn, or its kind rests until then.
    PutBack(Option<DateTime<Utc>>),
    /// Somebody else has claimed it.
    Lost,
}

impl Settled {
    fn is_final(self) -> bool {
        matches!(self, Self::Delivered | Self::Skipped | Self::Unknown | Self::Dead)
    }
}

impl Delivered {
    fn count(&mut self, settled: Settled) {
        let counter = match settled {
            Settled::Delivered => &mut self.delivered,
            Settled::Retried => &mut self.retried,
            Settled::Skipped => &mut self.skipped,
            Settled::Unknown => &mut self.unknown,
            Settled::Dead => &mut self.dead,
            Settled::PutBack(_) | Settled::Lost => return,
        };
        *counter = counter.saturating_add(1);
    }
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
    /// For subscriptions to the news of parcels.
    pub kuaidi100: Option<&'a Account>,
    /// The approved template of text messages in place of those that nobody allowed, where the shop wants them.
    pub text_template: Option<&'a str>,
    pub templates: &'a [Template],
    /// What a refund that succeeds is told by.
    pub tells: &'a Tells,
    /// A run lasts too long for one `now`.
    pub clock: &'a (dyn Fn() -> DateTime<Utc> + Send + Sync),
}

/// Kinds that rest together.
fn group(kind: &str) -> &str {
    if is_message(kind) { "wechat" } else { kind }
}

/// Under what all processes find that a kind rests.
fn pause_name(kind: &str) -> String {
    format!("pause|{}", group(kind))
}

/// An error that concerns one item is for the log, and the others go on; without the store nothing does.
fn concerning_one<T, E: Into<Failure>>(result: Result<T, E>) -> Result<Option<T>, Failure> {
    match result.map_err(Into::into) {
        Ok(value) => Ok(Some(value)),
        Err(error @ Failure::Unavailable(_)) => Err(error),
        Err(error) => {
            let error: &dyn std::error::Error = &error;
            tracing::error!(error, "an outbox item was left alone until its lease ends");
            Ok(None)
        }
    }
}

fn is_message(kind: &str) -> bool {
    kind == messages::KIND || kind == messages::MASS_KIND
}

/// Whether doing it twice could do harm. A refund has a number of its own, and a report replaces the one before.
fn is_harmful(kind: &str) -> bool {
    is_message(kind) || kind == texts::KIND
}

fn is_refund(kind: &str) -> bool {
    kind == refunds::KIND || kind == after_sale::KIND
}

fn payload<T: DeserializeOwned>(item: &OutboxItem) -> Result<T, Why> {
    // The parser's message can quote values, so it is not kept.
    serde_json::from_str(&item.payload).map_err(|_| Why::new("BAD_PAYLOAD", "the payload is not of its kind's type"))
}

fn later(now: DateTime<Utc>, pause: Duration) -> DateTime<Utc> {
    TimeDelta::from_std(pause).ok().and_then(|pause| now.checked_add_signed(pause)).unwrap_or(now)
}

impl Deliverer<'_> {
    /// Delivers due items until none is left or `limit` are done. From `deadline` on it takes no more and waits for those that it
    /// has, which may take another 45 s. An error is the store's absence; one that concerns a single item is logged.
    pub async fn deliver_due(&self, limit: u32, deadline: Instant) -> Result<Delivered, Failure> {
        let kinds = self.kinds();
        let others: Vec<&'static str> = KINDS.into_iter().filter(|kind| !kinds.contains(kind)).collect();
        self.run(&kinds, &others, limit, deadline).await
    }

    /// The same for one kind alone; the others are some other function's.
    pub async fn deliver_due_of(&self, kind: &str, limit: u32, deadline: Instant) -> Result<Delivered, Failure> {
        let kinds: Vec<&'static str> = self.kinds().into_iter().filter(|known| *known == kind).collect();
        self.run(&kinds, &[], limit, deadline).await
    }

    async fn run(
        &self,
        kinds: &[&'static str],
        others: &[&'static str],
        limit: u32,
        deadline: Instant,
    ) -> Result<Delivered, Failure> {
        let mut lanes = Vec::new();
        for kind in kinds {
            let rests_until = self.paused(kind).await?;
            lanes.push((*kind, rests_until));
        }
        let run = Run::new(lanes, limit, deadline);
        let work = future::join_all((0..WORKERS).map(|_| self.work(&run)));
        let others = others.iter().map(|kind| self.without_client(&run, kind));
        let (worked, looked_after) = future::join(work, future::join_all(others)).await;
        let sum = run.sum();
        match worked.into_iter().chain(looked_after).find_map(Result::err) {
            None => Ok(sum),
            Some(error) => {
                tracing::warn!(?sum, "the store went away during a run");
                Err(error)
            }
        }
    }

    /// What nobody can deliver here ends all the same when it is of no use any more, and an operator hears of the rest.
    async fn without_client(&self, run: &Run, kind: &'static str) -> Result<(), Failure> {
        // Which `followParcels` delivers where this function lacks the account.
        if kind == parcels::KIND {
            return Ok(());
        }
        while run.another() {
            match concerning_one(self.store.claim_expired(kind, LEASE, (self.clock)()).await)?.flatten() {
                Some(item) => {
                    if let Some(settled) = concerning_one(self.deliver(item).await)? {
                        run.settled(settled);
                    }
                }
                None => {
                    run.uncharge();
                    break;
                }
            }
        }
        let waiting = concerning_one(self.store.outbox_pending_of(kind).await)?.unwrap_or(0);
        if waiting > 0 {
            let missing = match kind {
                refunds::KIND | after_sale::KIND => "WXPAY_MCHID and its companions",
                texts::KIND => "SMS_SECRET_ID and its companions",
                _ => "WECHAT_APPID and WECHAT_SECRET",
            };
            tracing::warn!(kind, waiting, missing, "items wait for a configuration that is missing here");
        }
        Ok(())
    }

    /// Until when a kind rests, if it does.
    async fn paused(&self, kind: &str) -> Result<Option<DateTime<Utc>>, Error> {
        let found = self.store.pause(&pause_name(kind)).await?;
        Ok(found.map(|(_, until)| until).filter(|until| *until > (self.clock)()))
    }

    /// Lets a kind rest in all processes. Those that do not hear of it find out by themselves.
    async fn pause(&self, kind: &str, reason: &str, until: DateTime<Utc>) {
        if let Err(error) = self.store.set_pause(&pause_name(kind), reason, until).await {
            tracing::warn!(kind, error = error.to_string(), "a pause was not shared");
        }
    }

    /// First tries of these items, right after the commit that made them; what is not due or not there is left alone.
    pub async fn deliver_ids(&self, ids: &[String]) -> Result<Delivered, Failure> {
        let kinds = self.kinds();
        let mut tries = Vec::with_capacity(ids.len());
        for id in ids {
            tries.push(self.first_try(id, &kinds));
        }
        let results: Vec<_> = stream::iter(tries).buffer_unordered(FIRST_TRIES).collect().await;
        let mut sum = Delivered::default();
        let mut failed = None;
        for result in results {
            // As in a run, the others have gone on.
            match concerning_one(result) {
                Ok(settled) => sum.count(settled.unwrap_or(Settled::Lost)),
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(sum), Err)
    }

    async fn first_try(&self, id: &str, kinds: &[&str]) -> Result<Settled, Failure> {
        let now = (self.clock)();
        match self.store.claim_outbox_item(id, kinds, now, LEASE, now).await? {
            Some(item) => self.deliver(item).await,
            None => Ok(Settled::Lost),
        }
    }

    /// The kinds that this process can deliver.
    fn kinds(&self) -> Vec<&'static str> {
        let can = |kind: &&str| match *kind {
            refunds::KIND | after_sale::KIND => self.pay.is_some(),
            texts::KIND => self.sms.is_some(),
            parcels::KIND => self.kuaidi100.is_some(),
            _ => self.open.is_some(),
        };
        KINDS.into_iter().filter(can).collect()
    }

    async fn work(&self, run: &Run) -> Result<(), Failure> {
        loop {
            let kind = match run.next((self.clock)()) {
                Next::Kind(kind) => kind,
                Next::Wait => {
                    tokio::time::sleep(IDLE).await;
                    continue;
                }
                Next::Stop => return Ok(()),
            };
            let result = concerning_one(self.turn(run, kind).await);
            // After an error the others go first.
            let (found, rests_until) = *result.as_ref().ok().and_then(Option::as_ref).unwrap_or(&(false, None));
            run.leave(kind, found, rests_until);
            result?;
        }
    }

    /// Delivers the next item of a kind, and what follows it in its queue. Returns whether there was one, and until when the kind
    /// rests if it was found to.
    async fn turn(&self, run: &Run, kind: &'static str) -> Result<(bool, Option<DateTime<Utc>>), Failure> {
        let Some(mut item) = self.store.claim_outbox(kind, LEASE, (self.clock)()).await? else {
            return Ok((false, None));
        };
        for row in 1..=IN_A_ROW {
            let done = item.clone();
            let Some(settled) = concerning_one(self.deliver(item).await)? else { return Ok((true, None)) };
            run.settled(settled);
            if let Settled::PutBack(rests_until) = settled {
                run.uncharge();
                return Ok((true, rests_until));
            }
            if !settled.is_final() || done.queue.is_none() {
                break;
            }
            if row == IN_A_ROW || !run.another() {
                self.hasten_next(&done).await?;
                break;
            }
            match self.claim_next(&done).await? {
                Some(next) => item = next,
                None => {
                    run.uncharge();
                    break;
                }
            }
        }
        Ok((true, None))
    }

    /// The next of the same queue, even if it was put back behind the one that is done now.
    async fn claim_next(&self, done: &OutboxItem) -> Result<Option<OutboxItem>, Failure> {
        let now = (self.clock)();
        let Some(next) = self.store.outbox_next(done).await? else { return Ok(None) };
        let by = if next.attempts == 0 { turn_after(now, AHEAD_MAX) } else { now };
        Ok(self.store.claim_outbox_item(&next.id, &[&done.kind], by, LEASE, now).await?)
    }

    /// Lets the next of a queue wait like one that has just become due, in place of the pause that it was put back for.
    async fn hasten_next(&self, done: &OutboxItem) -> Result<(), Failure> {
        let now = (self.clock)();
        match self.store.outbox_next(done).await? {
            Some(next) if next.attempts == 0 => {
                Ok(self.store.outbox_hasten(&next.id, turn_after(now, AHEAD_MAX), now).await?)
            }
            _ => Ok(()),
        }
    }

    /// One claimed item, to the end of its try.
    async fn deliver(&self, item: OutboxItem) -> Result<Settled, Failure> {
        crashpoint("deliver.claimed").await;
        let now = (self.clock)();
        if item.sending_at.is_some() {
            // Whoever had it died between asking and hearing the answer.
            return self.end(&item, Outcome::Unknown(Why::new(OUTCOME_UNKNOWN, "nobody saw the answer")), None).await;
        }
        if item.expires_at.is_some_and(|expires| expires <= now) {
            return self.end(&item, Outcome::Dead(Why::new("EXPIRED", "it was of no use any more")), None).await;
        }
        if item.counted() >= MAX_ATTEMPTS {
            let why = Why::new("ATTEMPTS_EXHAUSTED", "every try died");
            return self.end(&item, Outcome::Dead(why), None).await;
        }
        if let Some((first, count)) = self.store.outbox_before(&item, AHEAD_MAX).await? {
            let under_way = first.lease_until.is_some_and(|until| until > now);
            let next = turn_after(if under_way { now } else { first.next_attempt_at.max(now) }, count);
            let settled = self.put_back(&item, next, None).await?;
            // Whoever has ended the one before it meanwhile could not claim this one.
            if self.store.outbox_next(&item).await?.is_some_and(|next| next.id == item.id) {
                self.store.outbox_hasten(&item.id, turn_after(now, AHEAD_MAX), now).await?;
            }
            return Ok(settled);
        }
        let done = match item.kind.as_str() {
            refunds::KIND => self.refund(&item).await,
            after_sale::KIND => self.after_sale(&item).await,
            shipping::KIND => self.report(&item).await,
            texts::KIND => self.text(&item).await,
            parcels::KIND => self.follow(&item).await,
            reviews::KIND => self.review(&item).await,
            // Of other kinds none is claimed.
            _ => self.message(&item).await,
        };
        match done {
            Ok(settled) => settled,
            Err(why) => self.end(&item, Outcome::Dead(why), None).await,
        }
    }

    async fn refund(&self, item: &OutboxItem) -> Result<Result<Settled, Failure>, Why> {
        let order: RefundOrder = payload(item)?;
        Ok(match self.pay {
            None => self.put_back(item, item.next_attempt_at, None).await,
            Some(pay) => {
                self.attempt(item, None, async |begun| {
                    refunds::deliver(self.store, pay, &order, begun.attempts == 1, self.tells, (self.clock)()).await
                })
                .await
            }
        })
    }

    async fn after_sale(&self, item: &OutboxItem) -> Result<Result<Settled, Failure>, Why> {
        let send: SendRefund = payload(item)?;
        Ok(match self.pay {
            None => self.put_back(item, item.next_attempt_at, None).await,
            Some(pay) => {
                self.attempt(item, None, async |_| {
                    after_sale::deliver(self.store, pay, &send, self.tells, (self.clock)()).await
                })
                .await
            }
        })
    }

    async fn report(&self, item: &OutboxItem) -> Result<Result<Settled, Failure>, Why> {
        let report: shipping::Report = payload(item)?;
        let Some(open) = self.open else { return Ok(self.put_back(item, item.next_attempt_at, None).await) };
        Ok(self
            .attempt(item, None, async |begun| {
                let attempt = shipping::Attempt::of(begun);
                Ok(shipping::deliver(open, &report, attempt, (self.clock)()).await)
            })
            .await)
    }

    async fn message(&self, item: &OutboxItem) -> Result<Result<Settled, Failure>, Why> {
        let message: Message = payload(item)?;
        let Some(open) = self.open else { return Ok(self.put_back(item, item.next_attempt_at, None).await) };
        Ok(self.send(item, &message, open).await)
    }

    async fn review(&self, item: &OutboxItem) -> Result<Result<Settled, Failure>, Why> {
        let check: CheckReview = payload(item)?;
        let Some(open) = self.open else { return Ok(self.put_back(item, item.next_attempt_at, None).await) };
        Ok(self.attempt(item, None, async |_| reviews::deliver(self.store, open, &check).await).await)
    }

    async fn text(&self, item: &OutboxItem) -> Result<Result<Settled, Failure>, Why> {
        let text: Text = payload(item)?;
        Ok(match self.sms {
            None => self.put_back(item, item.next_attempt_at, None).await,
            Some(sms) => self.attempt(item, None, async |_| Ok(texts::deliver(sms, &text).await)).await,
        })
    }

    async fn follow(&self, item: &OutboxItem) -> Result<Result<Settled, Failure>, Why> {
        let follow: Follow = payload(item)?;
        Ok(match self.kuaidi100 {
            None => self.put_back(item, item.next_attempt_at, None).await,
            Some(account) => {
                let exchange =
                    async |_: &OutboxItem| parcels::deliver(self.store, account, &follow, (self.clock)()).await;
                self.attempt(item, None, exchange).await
            }
        })
    }

    async fn send(&self, item: &OutboxItem, message: &Message, open: &open::Client) -> Result<Settled, Failure> {
        let Some(template) = message.template(self.templates) else {
            let text = format!("no template {} is configured", message.template);
            return self.end(item, Outcome::Skipped(Why::new(NO_TEMPLATE, text)), None).await;
        };
        if let Some(until) = self.paused(&item.kind).await? {
            return self.put_back(item, until, Some(until)).await;
        }
        let asked = Instant::now();
        let token = messages::ready(open).await;
        match token {
            Err(Outcome::Paused { why, pause }) => {
                let until = later((self.clock)(), pause);
                tracing::warn!(
                    reason = why.reason,
                    errcode = why.errcode,
                    rid = why.rid,
                    "no access token for messages"
                );
                let settled = self.put_back(item, until, Some(until)).await;
                self.pause(&item.kind, why.reason, until).await;
                settled
            }
            Err(outcome) => self.attempt_harmless(item, async |_| Ok(outcome)).await,
            // It may take as long again within the exchange, which must not be cut off: the next try has its token at once.
            Ok(()) if asked.elapsed() > READY_MAX => self.put_back(item, (self.clock)(), None).await,
            Ok(()) => {
                let permission = Subscription::key(&message.open_id, &template.template_id);
                let permission = (!template.long_term).then_some(permission.as_str());
                self.attempt(item, permission, async |_| Ok(messages::send(open, template, message).await)).await
            }
        }
    }

    /// Begins a try, makes the exchange and ends the try.
    async fn attempt(
        &self,
        item: &OutboxItem,
        permission: Option<&str>,
        exchange: impl AsyncFnOnce(&OutboxItem) -> Result<Outcome, Failure>,
    ) -> Result<Settled, Failure> {
        let begin = Begin { harmful: is_harmful(&item.kind), permission, lease: LEASE };
        self.attempt_as(item, &begin, exchange).await
    }

    /// The same where nothing that matters leaves this process.
    async fn attempt_harmless(
        &self,
        item: &OutboxItem,
        exchange: impl AsyncFnOnce(&OutboxItem) -> Result<Outcome, Failure>,
    ) -> Result<Settled, Failure> {
        let begin = Begin { harmful: false, permission: item.permission.as_deref(), lease: LEASE };
        self.attempt_as(item, &begin, exchange).await
    }

    async fn attempt_as(
        &self,
        item: &OutboxItem,
        begin: &Begin<'_>,
        exchange: impl AsyncFnOnce(&OutboxItem) -> Result<Outcome, Failure>,
    ) -> Result<Settled, Failure> {
        let begun = match self.store.outbox_begin(item, begin, (self.clock)()).await {
            Ok(Begun::Yes(begun)) => begun,
            Ok(Begun::Lost) => return Ok(Settled::Lost),
            Err(error) if error.is_unavailable() => return self.call_off(item).await,
            Err(error) => return Err(error.into()),
            Ok(Begun::NoPermission) => {
                let why = Why::new(NO_SUBSCRIPTION, "the user allows no message of this template");
                return self.end(item, Outcome::Skipped(why), None).await;
            }
        };
        crashpoint("deliver.begun").await;
        let started = Instant::now();
        let outcome = match exchange(&begun).await {
            Ok(outcome) => outcome,
            Err(error) => Outcome::later(Why::new("INTERNAL", error.to_string())),
        };
        crashpoint("deliver.sent").await;
        let settled = self.end(&begun, outcome, Some(started)).await;
        crashpoint("deliver.ended").await;
        settled
    }

    async fn put_back(
        &self,
        item: &OutboxItem,
        next: DateTime<Utc>,
        rests_until: Option<DateTime<Utc>>,
    ) -> Result<Settled, Failure> {
        let ours = self.store.outbox_put_back(item, next).await?;
        Ok(if ours { Settled::PutBack(rests_until) } else { Settled::Lost })
    }
}

/// When to look again at a message that has so many others before it.
fn turn_after(at: DateTime<Utc>, before: u64) -> DateTime<Utc> {
    let more = i64::try_from(before.saturating_sub(1)).unwrap_or(0).saturating_mul(TURN_EACH_MS);
    at + TURN + TimeDelta::milliseconds(more)
}
