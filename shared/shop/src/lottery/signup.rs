//! Signing up: one insert, and then a look at whether the round was still open.
//!
//! The draw freezes a round before it reads the tickets, and a sign-up reads the round's status after its insert. So a sign-up that
//! still saw the round open is in the list, whatever happened in between; one that did not looks into the list.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use domain::draw::TicketId;
use domain::{Code, Failure, OpenId, Refusal};
use store::lottery::{Round, RoundStatus, Ticket};
use store::members::Standing;
use store::{Store, crashpoint};

use super::Secrets;
use super::publish::Publisher;
use super::record::Lists;
use crate::together::Together;
use crate::views::iso;

/// Rounds kept per process.
const CACHED_MAX: usize = 500;

/// A published round with its secrets. Nothing of it ever changes but its status, which is never taken from here.
pub struct Published {
    pub round: Round,
    pub secrets: Secrets,
}

/// What one process remembers of published rounds, and the reads that its sign-ups share.
#[derive(Default)]
pub struct Rounds {
    by_activity: Mutex<HashMap<String, Vec<Arc<Published>>>>,
    members: Together<OpenId, Standing>,
    statuses: Together<String, RoundStatus>,
}

impl Rounds {
    fn open_at(&self, activity: &str, now: DateTime<Utc>) -> Option<Arc<Published>> {
        let known = self.by_activity.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(activity)?.iter().find(|p| p.round.opens_at <= now && now < p.round.closes_at).cloned()
    }

    fn remember(&self, activity: &str, rounds: Vec<Arc<Published>>) {
        let mut known = self.by_activity.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= CACHED_MAX {
            known.clear();
        }
        known.insert(activity.to_owned(), rounds);
    }
}

/// A sign-up that counts.
#[derive(Debug, Clone)]
pub struct SignedUp {
    pub round_id: String,
    pub ticket_id: String,
    pub window_end: DateTime<Utc>,
    pub replayed: bool,
}

/// Who signs up for what. `request_key` identifies the command.
pub struct SignUp {
    pub activity_id: String,
    pub open_id: OpenId,
    pub request_key: Option<String>,
}

enum Found {
    Open(Arc<Published>),
    /// Closed, and when the next round opens, if that is known.
    Closed(Option<DateTime<Utc>>),
}

async fn open_round(rounds: &Rounds, publisher: Publisher<'_>, id: &str, now: DateTime<Utc>) -> Result<Found, Failure> {
    if let Some(found) = rounds.open_at(id, now) {
        return Ok(Found::Open(found));
    }
    let activity = publisher
        .store
        .activity(id)
        .await?
        .ok_or_else(|| Refusal::new(Code::NotFound).with_message("活动不存在").detail("activityId", id))?;
    let coming = publisher.publish(&activity, now).await?;
    // Only what opens soon is worth opening its secrets for.
    let mut opened = Vec::new();
    for round in coming.iter().take(2) {
        let secrets = Secrets::open(publisher.keys, round)?;
        opened.push(Arc::new(Published { round: round.clone(), secrets }));
    }
    rounds.remember(id, opened);
    Ok(match rounds.open_at(id, now) {
        Some(found) => Found::Open(found),
        None => Found::Closed(coming.iter().map(|r| r.opens_at).filter(|at| *at > now).min()),
    })
}

fn closed(next: Option<DateTime<Utc>>) -> Failure {
    let refusal = Refusal::new(Code::SignupClosed);
    Failure::Refused(match next {
        Some(at) => refusal.detail("nextWindowStart", iso(at)),
        None => refusal,
    })
}

/// Signs a user up for the open round of an activity.
///
/// `SIGNUP_CLOSED` outside of a window, `ALREADY_SIGNED_UP` for a second try, `NOT_FOUND` without such an activity.
pub async fn sign_up(
    rounds: &Rounds,
    lists: &Lists,
    publisher: Publisher<'_>,
    wish: &SignUp,
    now: DateTime<Utc>,
) -> Result<SignedUp, Failure> {
    let store = publisher.store;
    let member = rounds.members.get(wish.open_id.clone(), |ids| async move { store.standings(&ids).await }).await?;
    let member = match member {
        Some(member) if member.blocked => return Err(Code::UserBlocked.into()),
        Some(member) => member,
        None => return Err(Code::Unauthenticated.into()),
    };
    let published = match open_round(rounds, publisher, &wish.activity_id, now).await? {
        Found::Open(published) => published,
        Found::Closed(next) => {
            // A repeat of a sign-up that was made in time is answered as it was.
            return match repeated(store, wish).await? {
                Some(ticket) => confirm(store, rounds, lists, &ticket, None).await,
                None => Err(closed(next)),
            };
        }
    };
    let round = &published.round;
    let ticket = Ticket {
        id: published.secrets.ticket(&round.id, &wish.open_id).to_string(),
        round_id: round.id.clone(),
        activity_id: round.activity_id.clone(),
        user_id: member.user_id,
        open_id: wish.open_id.clone(),
        request_key: wish.request_key.clone(),
        at: now,
    };
    match store.insert_ticket(&ticket).await {
        Ok(()) => {}
        Err(error) if error.is_duplicate_of("lotteryTickets") => {
            if let Some(first) = repeated(store, wish).await? {
                return confirm(store, rounds, lists, &first, None).await;
            }
            let earlier = confirm(store, rounds, lists, &ticket, Some(&published)).await?;
            return Err(Refusal::new(Code::AlreadySignedUp)
                .detail("ticketId", earlier.ticket_id)
                .detail("roundId", earlier.round_id)
                .into());
        }
        Err(error) => return Err(error.into()),
    }
    crashpoint("lottery.inserted").await;
    let done = confirm(store, rounds, lists, &ticket, Some(&published)).await?;
    Ok(SignedUp { replayed: false, ..done })
}

/// The ticket that an earlier run of this command made.
async fn repeated(store: &Store, wish: &SignUp) -> Result<Option<Ticket>, Failure> {
    let Some(key) = &wish.request_key else { return Ok(None) };
    let Some(ticket) = store.ticket_by_request(key).await? else { return Ok(None) };
    if ticket.activity_id != wish.activity_id || ticket.open_id != wish.open_id {
        return Err(Code::IdempotencyKeyReused.into());
    }
    Ok(Some(ticket))
}

/// Answers for a ticket that is stored: it counts if the round is still open or the list has it.
async fn confirm(
    store: &Store,
    rounds: &Rounds,
    lists: &Lists,
    ticket: &Ticket,
    published: Option<&Published>,
) -> Result<SignedUp, Failure> {
    let unknown = || Failure::invariant(format!("ticket {} has no round", ticket.id));
    let (status, window_end) = match published {
        Some(Published { round, .. }) => {
            let read = |ids: Vec<String>| async move { store.round_statuses(&ids).await };
            let status = rounds.statuses.get(round.id.clone(), read).await?;
            (status.ok_or_else(unknown)?, round.closes_at)
        }
        None => {
            let round = store.round(&ticket.round_id).await?.ok_or_else(unknown)?;
            (round.status, round.closes_at)
        }
    };
    let counts = match status {
        RoundStatus::Open => true,
        RoundStatus::Frozen => return Err(Failure::Unavailable("the list of the round is being made".into())),
        _ => in_list(store, lists, ticket).await?,
    };
    if !counts {
        store.delete_ticket(&ticket.id).await?;
        return Err(closed(None));
    }
    let (round_id, ticket_id) = (ticket.round_id.clone(), ticket.id.clone());
    Ok(SignedUp { round_id, ticket_id, window_end, replayed: true })
}

async fn in_list(store: &Store, lists: &Lists, ticket: &Ticket) -> Result<bool, Failure> {
    let Some(round) = store.round(&ticket.round_id).await? else { return Ok(false) };
    let list = lists.tickets(store, &round).await?;
    Ok(TicketId::parse(&ticket.id).is_some_and(|id| list.binary_search(&id).is_ok()))
}
