//! How often Kuaidi100 may be asked. Breaking these rules locks a number for a day, during which nothing about it is updated.
//!
//! Every request that was sent counts, whatever became of it, so write its time down before sending.
//! Source: api.kuaidi100.com/document, "实时查询" and "锁单后果".

use chrono::{DateTime, TimeDelta, Utc};

/// Two queries of one number are at least this far apart.
pub const QUERIES_APART: TimeDelta = TimeDelta::minutes(30);
/// More queries of one number in 24 hours lock it.
pub const QUERIES_PER_DAY: usize = 48;
/// More subscriptions of one company and number in a month are refused.
pub const SUBSCRIPTIONS_PER_MONTH: usize = 4;

const DAY: TimeDelta = TimeDelta::hours(24);
/// Which month is meant is not said; the longest one is on the safe side.
const MONTH: TimeDelta = TimeDelta::days(31);

/// Whether a number may be queried now, given when it was; otherwise when it may be. Order and age of the times do not matter.
pub fn may_query(last_queries: &[DateTime<Utc>], now: DateTime<Utc>) -> Result<(), DateTime<Utc>> {
    let apart = last_queries.iter().max().map(|last| *last + QUERIES_APART);
    allowed([apart, room(last_queries, QUERIES_PER_DAY, DAY)], now)
}

/// Whether a company and number may be subscribed to now, given when they were and when the last subscription ended with `abort`
/// or `shutdown`; otherwise when they may be.
pub fn may_subscribe(
    last_subscriptions: &[DateTime<Utc>],
    ended: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Result<(), DateTime<Utc>> {
    let apart = ended.map(|ended| ended + QUERIES_APART);
    allowed([apart, room(last_subscriptions, SUBSCRIPTIONS_PER_MONTH, MONTH)], now)
}

/// When one more fits among at most `max` in any `window`.
fn room(times: &[DateTime<Utc>], max: usize, window: TimeDelta) -> Option<DateTime<Utc>> {
    let mut times = times.to_vec();
    times.sort_unstable_by(|a, b| b.cmp(a));
    times.get(max.saturating_sub(1)).map(|oldest_that_counts| *oldest_that_counts + window)
}

fn allowed(limits: [Option<DateTime<Utc>>; 2], now: DateTime<Utc>) -> Result<(), DateTime<Utc>> {
    match limits.into_iter().flatten().max() {
        Some(at) if now < at => Err(at),
        _ => Ok(()),
    }
}
