//! How a try ends: what the outcome of an exchange means for its item, and writing it.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use domain::Failure;
use store::outbox::{End, Fate, Held, MAX_ATTEMPTS, OutboxItem, OutboxStatus, Tried};
use store::{Error, crashpoint};
use tokio::time::Instant;

use super::{Deliverer, Settled, is_harmful, is_message, is_refund, later, payload};
use crate::assignments;
use crate::delivery::{Outcome, Why};
use crate::messages::{self, Message, NO_SUBSCRIPTION, OUTCOME_UNKNOWN};

/// Before the one repetition of a message whose outcome is unknown.
const RESEND_AFTER: Duration = Duration::from_secs(60);
/// How often a result is written before it is lost.
const WRITES: u32 = 6;

/// A message, and the template of the text that takes its place.
type InsteadOf<'a> = (&'a Message, &'a str);

/// The longest pause between two tries.
fn longest_pause(kind: &str) -> TimeDelta {
    if is_refund(kind) { TimeDelta::hours(6) } else { TimeDelta::hours(1) }
}

impl Deliverer<'_> {
    /// Writes what became of the item. `started` is when its try began; without one there was none, or it died.
    pub(super) async fn end(
        &self,
        item: &OutboxItem,
        outcome: Outcome,
        started: Option<Instant>,
    ) -> Result<Settled, Failure> {
        let now = (self.clock)();
        let verdict = self.verdict(item, outcome, started.is_some(), now);
        let elapsed = started.map_or(0, |started| i64::try_from(started.elapsed().as_millis()).unwrap_or(i64::MAX));
        let why = verdict.why.as_ref();
        let end = End {
            fate: verdict.fate,
            tried: started.is_some().then(|| Tried {
                outcome: verdict.told,
                errcode: why.and_then(|why| why.errcode),
                rid: why.and_then(|why| why.rid.as_deref()),
                duration_ms: elapsed,
            }),
            why: why.map(|why| (why.reason, why.text.as_str())),
            held: verdict.held,
        };
        let refused = verdict.settled == Settled::Skipped && why.is_some_and(|why| why.reason == NO_SUBSCRIPTION);
        let message = payload::<Message>(item).ok().filter(|_| refused);
        let ours = match message.as_ref().zip(self.text_template) {
            Some(text) => self.write_with_text(item, &end, text, now).await,
            None => self.write(item, &end, None, now).await,
        };
        if let Some(rests_until) = verdict.rests_until {
            self.pause(&item.kind, why.map_or("", |why| why.reason), rests_until).await;
        }
        let ours = ours?;
        let (kind, settled) = (item.kind.as_str(), verdict.settled);
        if let Some(Why { reason, text, errcode, rid }) = why {
            match settled {
                Settled::Dead => tracing::error!(kind, reason, text, errcode, rid, "outbox item is dead"),
                Settled::Unknown => tracing::warn!(kind, reason, text, errcode, rid, "outbox item may have arrived"),
                _ => tracing::info!(kind, reason, text, errcode, rid, outcome = verdict.told, "not delivered"),
            }
        }
        if !ours {
            tracing::warn!(kind, "an outbox item was claimed by another before its result was written");
            return Ok(Settled::Lost);
        }
        match (settled, verdict.rests_until) {
            (Settled::Retried, Some(until)) => Ok(Settled::PutBack(Some(until))),
            _ => Ok(settled),
        }
    }

    /// Ends a try of which nobody knows whether it has begun, but that nothing was sent in it. If it has not, this changes nothing,
    /// and the lease runs out.
    pub(super) async fn call_off(&self, item: &OutboxItem) -> Result<Settled, Failure> {
        let now = (self.clock)();
        let (reason, text) = ("STORE_UNAVAILABLE", "the store did not answer before the exchange; nothing was sent");
        let end = End {
            fate: Fate::Again { at: now + self.usual_pause(item), counts: false },
            tried: Some(Tried { outcome: "retry", errcode: None, rid: None, duration_ms: 0 }),
            why: Some((reason, text)),
            held: Held::Kept,
        };
        tracing::warn!(kind = item.kind, reason, text, "not delivered");
        let begun = OutboxItem { attempts: item.attempts.saturating_add(1), ..item.clone() };
        Ok(if self.write(&begun, &end, None, now).await? { Settled::Retried } else { Settled::Lost })
    }

    /// Ends a message that the user does not allow together with the order of a text in its place, so that whoever dies in between
    /// leaves neither. Where there can be no text the message ends all the same, for what WeChat said about it is certain.
    async fn write_with_text(
        &self,
        item: &OutboxItem,
        end: &End<'_>,
        text: InsteadOf<'_>,
        now: DateTime<Utc>,
    ) -> Result<bool, Error> {
        match self.write(item, end, Some(text), now).await {
            Err(error) if !error.is_unavailable() => {
                tracing::error!(error = error.to_string(), "no text could be planned in a message's place");
                self.write(item, end, None, now).await
            }
            done => done,
        }
    }

    /// The result of an exchange is worth some effort: without it the outcome is unknown.
    async fn write(
        &self,
        item: &OutboxItem,
        end: &End<'_>,
        text: Option<InsteadOf<'_>>,
        now: DateTime<Utc>,
    ) -> Result<bool, Error> {
        for attempt in 1..=WRITES {
            match self.write_once(item, end, text, now).await {
                Err(error) if error.is_unavailable() && attempt < WRITES => {
                    tokio::time::sleep(Duration::from_millis(100 << attempt)).await;
                }
                // It may have been written the time before, only its answer was lost: nobody else ends this claim.
                Ok(false) if attempt > 1 => {
                    let found = self.store.outbox_item(&item.id).await?;
                    return Ok(found.is_some_and(|found| found.claim == item.claim && found.lease_until.is_none()));
                }
                done => return done,
            }
        }
        Ok(false)
    }

    async fn write_once(
        &self,
        item: &OutboxItem,
        end: &End<'_>,
        text: Option<InsteadOf<'_>>,
        now: DateTime<Utc>,
    ) -> Result<bool, Error> {
        let Some((message, template)) = text else { return self.store.outbox_end(item, end, now).await };
        let both = self.store.transaction(|tx, _| {
            Box::pin(async move {
                let ours = tx.outbox_end(item, end, now).await?;
                if ours {
                    assignments::text_instead(tx, &item.id, message, template, now).await?;
                }
                crashpoint("deliver.texted").await;
                Ok(ours)
            })
        });
        both.await
    }

    /// How long until the next try, unless there is a reason to wait longer.
    fn usual_pause(&self, item: &OutboxItem) -> TimeDelta {
        OutboxItem::retry_delay(item.counted(), longest_pause(&item.kind), rand::random())
    }

    fn verdict(&self, item: &OutboxItem, outcome: Outcome, tried: bool, now: DateTime<Utc>) -> Verdict {
        // An earlier exchange that nobody saw the end of: whatever follows, it may have arrived then.
        let earlier = item.tries.iter().filter(|t| !tried || t.n != item.attempts);
        let open = |t: &&store::outbox::Try| t.outcome.as_deref().is_none_or(|outcome| outcome == "unknown");
        let unseen = if is_harmful(&item.kind) { earlier.filter(open).count() } else { 0 };
        match outcome {
            Outcome::Delivered => Verdict::last(Settled::Delivered, None, Held::Kept),
            Outcome::Later { why, .. } if item.counted() >= MAX_ATTEMPTS => {
                let text = why.text.clone();
                let why = Why { text, ..why.because("ATTEMPTS_EXHAUSTED") };
                Verdict::unless_seen(unseen, Settled::Dead, why, Held::GivenBack)
            }
            Outcome::Later { why, at_least } => self.again(item, why, "retry", at_least, now),
            Outcome::Paused { why, pause } => {
                let until = later(now, pause);
                Verdict {
                    fate: Fate::Again { at: until, counts: false },
                    settled: Settled::Retried,
                    told: "retry",
                    why: Some(why),
                    held: Held::Kept,
                    rests_until: Some(until),
                }
            }
            Outcome::Skipped(why) if why.reason == NO_SUBSCRIPTION && tried => {
                let tried_at = item.tries.last().map_or(now, |t| t.at);
                Verdict::unless_seen(unseen, Settled::Skipped, why, Held::Voided { tried_at })
            }
            Outcome::Skipped(why) => Verdict::unless_seen(unseen, Settled::Skipped, why, Held::GivenBack),
            Outcome::Dead(why) => Verdict::unless_seen(unseen, Settled::Dead, why, Held::GivenBack),
            Outcome::Unknown(why) => {
                // A try that died is among the earlier ones: it is this one.
                let before = if tried { unseen } else { unseen.saturating_sub(1) };
                if before == 0 && self.resends(item) {
                    return self.again(item, why, "unknown", RESEND_AFTER, now);
                }
                Verdict::last(Settled::Unknown, Some(why), Held::Kept)
            }
        }
    }

    fn again(
        &self,
        item: &OutboxItem,
        why: Why,
        told: &'static str,
        at_least: Duration,
        now: DateTime<Utc>,
    ) -> Verdict {
        let at = (now + self.usual_pause(item)).max(later(now, at_least));
        // What expires meanwhile is given up on time.
        let at = item.expires_at.map_or(at, |expires| at.min(expires));
        Verdict {
            fate: Fate::Again { at, counts: true },
            settled: Settled::Retried,
            told,
            why: Some(why),
            held: Held::Kept,
            rests_until: None,
        }
    }

    /// Whether policy allows one repetition of an item whose outcome is unknown.
    fn resends(&self, item: &OutboxItem) -> bool {
        let message: Option<Message> = payload(item).ok().filter(|_| is_message(&item.kind));
        message.is_some_and(|message| messages::resends(message.template(self.templates)))
    }
}

/// What to write at the end of a claim.
struct Verdict {
    fate: Fate,
    settled: Settled,
    /// The outcome in the receipt.
    told: &'static str,
    why: Option<Why>,
    held: Held,
    rests_until: Option<DateTime<Utc>>,
}

impl Verdict {
    fn last(settled: Settled, why: Option<Why>, held: Held) -> Self {
        let (status, told) = match settled {
            Settled::Delivered => (OutboxStatus::Delivered, "delivered"),
            Settled::Skipped => (OutboxStatus::Skipped, "skipped"),
            Settled::Unknown => (OutboxStatus::Unknown, "unknown"),
            _ => (OutboxStatus::Dead, "dead"),
        };
        Self { fate: Fate::Final(status), settled, told, why, held, rests_until: None }
    }

    /// An end without delivery. If an earlier try may have delivered it, nobody can say that it was not.
    fn unless_seen(unseen: usize, settled: Settled, why: Why, held: Held) -> Self {
        if unseen == 0 {
            return Self::last(settled, Some(why), held);
        }
        let told = Self::last(settled, None, held).told;
        let text = format!("an earlier try may have delivered it; then {}: {}", why.reason, why.text);
        let why = Why { text, ..why.because(OUTCOME_UNKNOWN) };
        Self { told, ..Self::last(Settled::Unknown, Some(why), Held::Kept) }
    }
}
