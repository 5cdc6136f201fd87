//! Telling members that coins of theirs are about to expire.

use std::collections::{BTreeMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use domain::day::clock_text;
use domain::{BusinessDay, Event, OpenId, Tells, UserId};
use store::outbox::OutboxItem;
use store::reminders::{Cursor, Holding};
use store::{Error, Store, crashpoint};

use crate::events::{reachable, values};
use crate::messages::{Message, mass_item};

/// How long before their end coins are worth a message.
const AHEAD: TimeDelta = TimeDelta::hours(6);

/// What one batch did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reminded {
    /// Lots looked at; none when all are done.
    pub lots: i64,
    /// Messages written.
    pub messages: i64,
}

/// Looks at up to `limit` lots that expire soon and writes one message to each of their holders, unless they had one today.
///
/// Each lot is looked at once: a cursor moves with the messages, so that runs of two processes, and one after a crash, go on where
/// the other stopped. Nobody is told where the shop has no template, or where they did not agree.
pub async fn remind(store: &Store, tells: &Tells, limit: i64, now: DateTime<Utc>) -> Result<Reminded, Error> {
    if tells.of(Event::CoinExpiring).is_none() {
        return Ok(Reminded::default());
    }
    let read = store.coin_reminders_cursor().await?;
    let fresh = || Cursor { at: now, document: String::new() };
    // What expired meanwhile is past reminding.
    let from = read.clone().filter(|cursor| cursor.at > now).unwrap_or_else(fresh);
    let until = now.checked_add_signed(AHEAD).unwrap_or(now);
    let lots = store.expiring_lots(&from, until, limit).await?;
    let Some(last) = lots.last() else { return Ok(Reminded::default()) };
    let to = Cursor { at: last.expires_at, document: last.id.clone() };
    let holders: BTreeMap<String, OpenId> =
        lots.iter().map(|lot| (lot.user_id.as_str().to_owned(), lot.open_id.clone())).collect();
    let reach = reachable(store, tells, Event::CoinExpiring, holders.values()).await?;
    let users: Vec<String> =
        holders.iter().filter(|(_, open_id)| reach.includes(open_id)).map(|(user, _)| user.clone()).collect();
    let mut messages = Vec::new();
    for holding in store.holdings(&users, until, now).await? {
        if let Some(open_id) = holders.get(holding.user_id.as_str()) {
            messages.push(message(&holding, open_id, now)?);
        }
    }
    let ids: Vec<String> = messages.iter().map(|item| item.id.clone()).collect();
    let written = store
        .transaction(|tx, _| {
            let (read, to, ids, messages) = (read.as_ref(), &to, &ids, &messages);
            Box::pin(async move {
                if !tx.move_coin_reminders(read, to).await? {
                    return Ok(0);
                }
                let had: HashSet<String> = tx.enqueued(ids).await?;
                let new: Vec<OutboxItem> = messages.iter().filter(|item| !had.contains(&item.id)).cloned().collect();
                tx.enqueue_all(&new).await?;
                crashpoint("remind.inside").await;
                Ok(new.len())
            })
        })
        .await?;
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    Ok(Reminded { lots: count(lots.len()), messages: count(written) })
}

/// The key of what a user is told on a day.
fn key(user: &UserId, now: DateTime<Utc>) -> String {
    format!("coins:{user}:{}", BusinessDay::of(now))
}

fn message(holding: &Holding, open_id: &OpenId, now: DateTime<Utc>) -> Result<OutboxItem, Error> {
    let values = values([
        ("coins", holding.expiring.to_string()),
        ("balance", holding.balance.to_string()),
        ("expireTime", clock_text(holding.first)),
        ("status", "即将过期".to_owned()),
        ("reason", format!("{}枚活动币即将过期", holding.expiring)),
    ]);
    let told = Message::new(open_id.clone(), Event::CoinExpiring.as_str(), values);
    let mut item = mass_item(&key(&holding.user_id, now), &told, now)?;
    item.expires_at = Some(holding.first);
    Ok(item)
}
