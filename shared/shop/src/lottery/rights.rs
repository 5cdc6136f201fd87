//! Rights to buy: granted by rank, passed down the waiting list, or their pieces put back on the shelf.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, TimeDelta, Utc};
use domain::day::clock_text;
use domain::draw::{TicketId, Unused};
use domain::{Event, Tells, UserId};
use store::coins::CoinSource;
use store::lottery::{ListKind, Round, Ticket};
use store::qualifications::{Qualification, QualificationStatus, Via};
use store::{Error, Store, Tx, crashpoint};

use crate::coins::{self, NewLot};
use crate::events::reachable;
use crate::messages::{Message, item, mass_item};
use crate::owed;

/// Rights per transaction.
const GRANT: usize = 100;
/// Messages per transaction.
const TELL: usize = 1_000;

/// The ranking of a drawn round.
pub async fn ranking(store: &Store, round: &Round) -> Result<Vec<TicketId>, Error> {
    match &round.rank_run {
        Some(run) => store.list(&round.id, run, ListKind::Ranking).await,
        None => Err(Error::Invariant(format!("round {} has no ranking", round.id))),
    }
}

fn span(list: &[TicketId], from: i64, to: i64, max: usize) -> &[TicketId] {
    let (from, to) = (usize::try_from(from).unwrap_or(usize::MAX), usize::try_from(to).unwrap_or(0));
    list.get(from..to.min(from.saturating_add(max)).min(list.len())).unwrap_or_default()
}

fn after(from: i64, n: usize) -> i64 {
    from.saturating_add(i64::try_from(n).unwrap_or(i64::MAX))
}

/// Tickets in the order of `ids`; one that is gone is a broken list.
fn in_order(ids: &[TicketId], tickets: Vec<Ticket>) -> Result<Vec<Ticket>, Error> {
    let mut by_id: HashMap<String, Ticket> = tickets.into_iter().map(|t| (t.id.clone(), t)).collect();
    let take = |id: &TicketId| {
        by_id.remove(&id.to_string()).ok_or_else(|| Error::Invariant(format!("ticket {id} of a list is not there")))
    };
    ids.iter().map(take).collect()
}

fn message(round: &Round, ticket: &Ticket, result: &str, until: Option<DateTime<Utc>>) -> Message {
    let mut values = BTreeMap::from([
        ("activityName".to_owned(), round.activity_name.clone()),
        ("productName".to_owned(), round.product_name.clone()),
        ("result".to_owned(), result.to_owned()),
    ]);
    if let Some(until) = until {
        values.insert("expireTime".to_owned(), clock_text(until));
    }
    Message::new(ticket.open_id.clone(), Event::LotteryResult.as_str(), values)
}

/// What is told about a ticket, as a natural key.
fn told_key(round: &Round, ticket: &Ticket) -> String {
    format!("lottery:{}:{}", round.id, ticket.id)
}

fn right(round: &Round, ticket: &Ticket, rank: i64, via: Via, now: DateTime<Utc>) -> Qualification {
    let minutes = round.rules.qualification_minutes.and_then(|m| i64::try_from(m).ok()).unwrap_or(30);
    Qualification {
        id: Qualification::key(&round.id, &ticket.id),
        round_id: round.id.clone(),
        activity_id: round.activity_id.clone(),
        ticket_id: ticket.id.clone(),
        user_id: ticket.user_id.clone(),
        open_id: ticket.open_id.clone(),
        product_id: round.product_id.clone(),
        sku_id: round.sku_id.clone(),
        quantity: round.quantity(),
        rank,
        via,
        status: QualificationStatus::Active,
        order_id: None,
        granted_at: now,
        expire_time: now.checked_add_signed(TimeDelta::minutes(minutes)).unwrap_or(now),
    }
}

/// Rights, coins and messages for tickets from rank `from` on. Stock is the caller's.
async fn give(
    tx: &mut Tx,
    round: &Round,
    tickets: &[Ticket],
    from: i64,
    via: Via,
    tells: &Tells,
    now: DateTime<Utc>,
) -> Result<Vec<Qualification>, Error> {
    let (suffix, result) = match via {
        Via::Draw => ("", "中签"),
        Via::WaitingList => (":promoted", "候补中签"),
    };
    let told = tells.of(Event::LotteryResult).is_some();
    let mut granted = Vec::with_capacity(tickets.len());
    let mut rights = Vec::with_capacity(tickets.len());
    let mut messages = Vec::with_capacity(tickets.len());
    for (ticket, rank) in tickets.iter().zip(from..) {
        let right = right(round, ticket, rank, via, now);
        let lot = NewLot {
            id: format!("win:{}", right.id),
            user: &right.user_id,
            open_id: &right.open_id,
            amount: 1,
            source: CoinSource::Win,
            source_id: &right.id,
        };
        granted.push((&ticket.user_id, coins::grant(tx, lot, now).await?));
        if told {
            let message = message(round, ticket, result, Some(right.expire_time));
            let mut item = item(&format!("{}{suffix}", told_key(round, ticket)), &message, now)?;
            item.expires_at = Some(right.expire_time);
            messages.push(item);
        }
        rights.push(right);
    }
    let winners: Vec<&UserId> = granted.iter().map(|(user, _)| *user).collect();
    for member in tx.members_owing_coins(&winners).await? {
        if let Some((_, entry)) = granted.iter().find(|(user, _)| **user == member.id) {
            owed::collect_coins(tx, &member.id, member.coins_owed, entry, now).await?;
        }
    }
    tx.insert_rights(&rights).await?;
    tx.enqueue_all(&messages).await?;
    Ok(rights)
}

/// Grants the rights of the next ranks, as many as one transaction and the shelf hold; returns the rank reached, which is `from`
/// when the shelf is empty, and none when another run granted them.
pub async fn grant(
    store: &Store,
    round: &Round,
    ranking: &[TicketId],
    from: i64,
    tells: &Tells,
    now: DateTime<Utc>,
) -> Result<Option<i64>, Error> {
    let ids = span(ranking, from, round.winners(), GRANT);
    let winners = in_order(ids, store.tickets_by_id(ids).await?)?;
    let reached = store
        .transaction(|tx, _| {
            let winners = &winners;
            Box::pin(async move {
                let sku = round.sku_id.as_ref();
                let shelf = tx.on_shelf(&round.product_id, sku).await?;
                let pieces = round.quantity().max(1);
                let enough_for = usize::try_from(shelf.div_euclid(pieces)).unwrap_or(0);
                let winners = winners.get(..winners.len().min(enough_for)).unwrap_or_default();
                if winners.is_empty() {
                    return Ok(Some(from));
                }
                let reached = after(from, winners.len());
                if !tx.move_cursor(&round.id, "nextRank", from, reached).await? {
                    return Ok(None);
                }
                let taken = reached.saturating_sub(from).saturating_mul(pieces).saturating_neg();
                if !tx.move_shelf(&round.product_id, sku, taken).await? {
                    return Err(Error::Invariant(format!("the shelf of {} changed", round.product_id)));
                }
                let rights = give(tx, round, winners, from, Via::Draw, tells, now).await?;
                let entries: Vec<_> = rights.iter().map(Qualification::grant_entry).collect();
                tx.post_stock(&entries).await?;
                crashpoint("lottery.grant.inside").await;
                Ok(Some(reached))
            })
        })
        .await?;
    crashpoint("lottery.grant.committed").await;
    Ok(reached)
}

/// Tells the next of a list that they did not win; returns how far that is, and none when another run told them. Whom no message
/// can reach is passed over: a million losers who never agreed to one must not make a million documents.
pub async fn tell(
    store: &Store,
    round: &Round,
    list: &[TicketId],
    from: i64,
    result: &str,
    tells: &Tells,
    now: DateTime<Utc>,
) -> Result<Option<i64>, Error> {
    let mut messages = Vec::new();
    let mut reached = round.tickets();
    if tells.of(Event::LotteryResult).is_some() {
        let ids = span(list, from, reached, TELL);
        let tickets = in_order(ids, store.tickets_by_id(ids).await?)?;
        reached = after(from, tickets.len());
        let people = tickets.iter().map(|t| &t.open_id);
        let reachable = reachable(store, tells, Event::LotteryResult, people).await?;
        for ticket in tickets.iter().filter(|t| reachable.includes(&t.open_id)) {
            messages.push(mass_item(&told_key(round, ticket), &message(round, ticket, result, None), now)?);
        }
    }
    let moved = store
        .transaction(|tx, _| {
            let messages = &messages;
            Box::pin(async move {
                let moved = tx.move_cursor(&round.id, "told", from, reached).await?;
                if moved {
                    tx.enqueue_all(messages).await?;
                }
                crashpoint("lottery.tell.inside").await;
                Ok(moved)
            })
        })
        .await?;
    Ok(moved.then_some(reached))
}

/// What became of rights whose time ran out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ended {
    pub expired: i64,
    /// Went to the next of the waiting list.
    pub passed: i64,
    /// Pieces went back to the shelf.
    pub returned: i64,
}

/// Ends the next rights whose time ran out: each passes to the next of the waiting list or its pieces go back to the shelf.
/// Returns what happened, all zero when nothing was due.
///
/// A round whose rights cannot be ended (its product is gone, say) must not keep the others waiting: it is added to `failed`,
/// whose rounds are left alone.
pub async fn end_expired(
    store: &Store,
    failed: &mut Vec<String>,
    tells: &Tells,
    now: DateTime<Utc>,
) -> Result<Ended, Error> {
    let limit = i64::try_from(GRANT).unwrap_or(100);
    let mut by_round: BTreeMap<String, Vec<Qualification>> = BTreeMap::new();
    for right in store.expired_rights(failed, now, limit).await? {
        by_round.entry(right.round_id.clone()).or_default().push(right);
    }
    let mut sum = Ended::default();
    for (id, rights) in by_round {
        let ended = match end_of_round(store, &id, &rights, tells, now).await {
            Ok(ended) => ended,
            Err(error) if error.is_unavailable() => return Err(error),
            Err(error) => {
                tracing::error!(round = %id, ?error, "rights of a round were not ended");
                failed.push(id);
                continue;
            }
        };
        sum.expired = sum.expired.saturating_add(ended.expired);
        sum.passed = sum.passed.saturating_add(ended.passed);
        sum.returned = sum.returned.saturating_add(ended.returned);
        crashpoint("lottery.expired").await;
    }
    Ok(sum)
}

/// Whether unused rights of a round may pass on: the rules say so, somebody waits, and it is not too late.
fn may_pass(round: &Round, now: DateTime<Utc>) -> bool {
    round.rules.unused == Some(Unused::WaitingList)
        && round.status.is_drawn()
        && round.next_waiting < round.tickets()
        && round.pass_until().is_some_and(|until| now < until)
}

/// Whether they pass on now: all winners have theirs, too.
fn passes(round: &Round, now: DateTime<Utc>) -> bool {
    may_pass(round, now) && round.next_rank == round.winners()
}

async fn end_of_round(
    store: &Store,
    id: &str,
    rights: &[Qualification],
    tells: &Tells,
    now: DateTime<Utc>,
) -> Result<Ended, Error> {
    let missing = || Error::Invariant(format!("rights of a round {id} that is not there"));
    loop {
        let round = store.round(id).await?.ok_or_else(missing)?;
        // Whether rights pass on may change until the transaction looks; who is next changes only with the cursor.
        let next = match &round.rank_run {
            Some(run) if may_pass(&round, now) => {
                let from = usize::try_from(round.next_waiting).unwrap_or(usize::MAX);
                store.list_part(id, run, ListKind::Ranking, from, rights.len()).await?
            }
            _ => Vec::new(),
        };
        if let Some(ended) = end_with(store, &round, rights, &next, tells, now).await? {
            return Ok(ended);
        }
    }
}

/// Ends rights of a round, of whose waiting list `next` come first; none when that list has moved since it was read.
async fn end_with(
    store: &Store,
    read: &Round,
    rights: &[Qualification],
    next: &[TicketId],
    tells: &Tells,
    now: DateTime<Utc>,
) -> Result<Option<Ended>, Error> {
    let (id, from) = (&read.id, read.next_waiting);
    store
        .transaction(|tx, _| {
            Box::pin(async move {
                let round = tx.round(id).await?;
                let Some(round) = round.filter(|r| r.next_waiting == from) else { return Ok(None) };
                let mut ended = Vec::new();
                for right in rights {
                    if tx.expire_right(&right.id, now).await? {
                        ended.push(right);
                    }
                }
                let ids = next.get(..next.len().min(ended.len())).filter(|_| passes(&round, now)).unwrap_or_default();
                let next = in_order(ids, tx.tickets_by_id(ids).await?)?;
                if !next.is_empty() {
                    if !tx.move_cursor(id, "nextWaiting", from, after(from, next.len())).await? {
                        return Err(Error::Invariant(format!("the waiting list of {id} moved within a snapshot")));
                    }
                    give(tx, &round, &next, from, Via::WaitingList, tells, now).await?;
                }
                // As many pieces as passed on stay held; those of the others go back.
                let back = ended.get(next.len()..).unwrap_or_default();
                if let Some(first) = back.first() {
                    let pieces = back.iter().fold(0i64, |sum, r| sum.saturating_add(r.quantity));
                    if !tx.move_shelf(&first.product_id, first.sku_id.as_ref(), pieces).await? {
                        return Err(Error::Invariant(format!("no shelf for the pieces of {}", first.id)));
                    }
                    let entries: Vec<_> = back.iter().map(|r| r.return_entry(now)).collect();
                    tx.post_stock(&entries).await?;
                }
                crashpoint("lottery.expire.inside").await;
                let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
                let (expired, passed, returned) = (count(ended.len()), count(next.len()), count(back.len()));
                Ok(Some(Ended { expired, passed, returned }))
            })
        })
        .await
}
