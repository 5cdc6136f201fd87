//! The public record of a round, and what one user learns of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use domain::draw::{BeaconSource, Record, Status, TicketId, Unused, VERSION, time_text};
use domain::vault::FieldKeys;
use domain::{Failure, OpenId, Refusal};
use serde::Serialize;
use store::Store;
use store::lottery::{ListKind, Round, RoundStatus};
use store::qualifications::{Qualification, QualificationStatus};

use super::Secrets;
use crate::views::iso;

/// Tickets that a record holds in itself, and in each page where there are more.
pub const PAGE: usize = 20_000;

/// Lists kept per process: 16 MB for a million tickets.
const CACHED_MAX: usize = 4;

/// Finished lists that one process remembers. A list never changes, so neither does what is kept here.
#[derive(Default)]
pub struct Lists {
    by_run: Mutex<HashMap<String, Arc<Vec<TicketId>>>>,
}

impl Lists {
    async fn get(
        &self,
        store: &Store,
        round: &str,
        run: Option<&str>,
        kind: ListKind,
    ) -> Result<Arc<Vec<TicketId>>, Failure> {
        let Some(run) = run else { return Ok(Arc::default()) };
        let key = format!("{round}:{run}");
        if let Some(list) = self.by_run.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(Arc::clone(list));
        }
        let list = Arc::new(store.list(round, run, kind).await?);
        let mut known = self.by_run.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= CACHED_MAX {
            known.clear();
        }
        known.insert(key, Arc::clone(&list));
        Ok(list)
    }

    pub(super) async fn tickets(&self, store: &Store, round: &Round) -> Result<Arc<Vec<TicketId>>, Failure> {
        self.get(store, &round.id, round.list_run.as_deref(), ListKind::Tickets).await
    }

    async fn ranking(&self, store: &Store, round: &Round) -> Result<Arc<Vec<TicketId>>, Failure> {
        self.get(store, &round.id, round.rank_run.as_deref(), ListKind::Ranking).await
    }
}

/// One page of a large record.
#[derive(Serialize)]
pub struct RecordPage {
    pub tickets: Vec<String>,
    /// Winners, then the waiting list.
    pub ranking: Vec<String>,
}

/// One page's worth of a list from a place on. Read from the database each time: anybody may ask for records, of any rounds in any
/// order, and must not make a process hold many whole lists.
async fn part(
    store: &Store,
    round: &Round,
    run: Option<&str>,
    kind: ListKind,
    from: usize,
) -> Result<Vec<String>, Failure> {
    let Some(run) = run else { return Ok(Vec::new()) };
    let ids = store.list_part(&round.id, run, kind, from, PAGE).await?;
    Ok(ids.iter().map(TicketId::to_string).collect())
}

fn notice(round: &Round, status: Status) -> String {
    let guard = match round.rules.beacon.source {
        BeaconSource::None => "本场不使用外部随机信标，抽签结果仅由事先公布的种子承诺（commit）保证。",
        BeaconSource::Drand => "抽签结果由事先承诺的种子与报名截止后才产生的 drand 公开随机数共同决定。",
        BeaconSource::Public => "抽签结果由事先承诺的种子与报名截止后录入的公开数据共同决定。",
    };
    match status {
        Status::Void => format!("{guard}公开信标未在公布的期限内出现，本场作废，无人中签。"),
        _ => guard.to_owned(),
    }
}

/// The record of a round as it may be known now.
pub async fn record(store: &Store, round: &Round, now: DateTime<Utc>) -> Result<Record, Failure> {
    let status = round.public_status(now);
    let drawn = round.status.is_drawn();
    let whole = usize::try_from(round.tickets()).is_ok_and(|n| n <= PAGE);
    let (mut tickets, mut winners, mut waiting) = (Vec::new(), Vec::new(), Vec::new());
    if whole {
        tickets = part(store, round, round.list_run.as_deref(), ListKind::Tickets, 0).await?;
        if drawn {
            let ranking = part(store, round, round.rank_run.as_deref(), ListKind::Ranking, 0).await?;
            let k = usize::try_from(round.winners()).unwrap_or(0).min(ranking.len());
            let (first, rest) = ranking.split_at_checked(k).unwrap_or_default();
            (winners, waiting) = (first.to_vec(), rest.to_vec());
        }
    }
    Ok(Record {
        version: VERSION,
        activity_id: round.activity_id.clone(),
        round_id: round.id.clone(),
        rules: round.rules.clone(),
        rules_hash: Some(round.rules_hash.clone()),
        commit: round.commit.clone(),
        seed: round.seed.clone(),
        beacon: round.beacon.clone().unwrap_or_default(),
        beacon_signature: round.beacon_signature.clone(),
        tickets,
        tickets_hash: round.tickets_hash.clone(),
        k: round.k.and_then(|k| u64::try_from(k).ok()),
        winners,
        waiting,
        opened_at: time_text(round.opens_at),
        closed_at: time_text(round.closes_at),
        drawn_at: round.drawn_at.map(time_text),
        status: Some(status),
        notice: Some(notice(round, status)),
        pages: if whole { None } else { Some(pages(round)) },
    })
}

fn pages(round: &Round) -> u64 {
    let page = u64::try_from(PAGE).unwrap_or(1);
    u64::try_from(round.tickets()).unwrap_or(0).div_ceil(page)
}

/// One page of a record that is too large to be given whole.
pub async fn record_page(store: &Store, round: &Round, page: u64) -> Result<RecordPage, Failure> {
    if page >= pages(round) {
        return Err(Refusal::invalid("page", "没有这一页").into());
    }
    let from = usize::try_from(page).unwrap_or(usize::MAX).saturating_mul(PAGE);
    let tickets = part(store, round, round.list_run.as_deref(), ListKind::Tickets, from).await?;
    let ranking = part(store, round, round.rank_run.as_deref(), ListKind::Ranking, from).await?;
    Ok(RecordPage { tickets, ranking })
}

/// What a user learns about a round.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UserResult {
    pub round_id: String,
    /// `notSignedUp`, `signedUp`, `drawing`, `won`, `waiting`, `lost` or `void`.
    pub status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub won: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ticket_id: Option<String>,
    /// Place in the ranking, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qualification_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qualification_status: Option<QualificationStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expire_time: Option<String>,
}

/// How a round went for a user.
pub async fn result(
    store: &Store,
    keys: &FieldKeys,
    lists: &Lists,
    round: &Round,
    open_id: &OpenId,
    now: DateTime<Utc>,
) -> Result<UserResult, Failure> {
    let ticket = Secrets::open(keys, round)?.ticket(&round.id, open_id);
    let base = UserResult { round_id: round.id.clone(), status: "notSignedUp", ..UserResult::default() };
    let signed = UserResult { ticket_id: Some(ticket.to_string()), ..base.clone() };
    match round.status {
        RoundStatus::Open | RoundStatus::Frozen => {
            let found = store.ticket(&ticket.to_string()).await?.is_some();
            let open = round.status == RoundStatus::Open && now < round.closes_at;
            let status = if open { "signedUp" } else { "drawing" };
            return Ok(if found { UserResult { status, ..signed } } else { base });
        }
        RoundStatus::Listed | RoundStatus::Void => {
            let found = lists.tickets(store, round).await?.binary_search(&ticket).is_ok();
            if !found {
                return Ok(base);
            }
            let void = round.status == RoundStatus::Void;
            let status = if void { "void" } else { "drawing" };
            return Ok(UserResult { status, won: void.then_some(false), ..signed });
        }
        RoundStatus::Drawn | RoundStatus::Granted | RoundStatus::Settled => {}
    }
    let place = lists.ranking(store, round).await?.iter().position(|id| *id == ticket);
    let Some(rank) = place.and_then(|p| i64::try_from(p).ok()) else { return Ok(base) };
    let signed = UserResult { rank: Some(rank), ..signed };
    let right = store.qualification(&Qualification::key(&round.id, &ticket.to_string())).await?;
    if let Some(right) = right {
        return Ok(UserResult {
            status: "won",
            won: Some(true),
            qualification_id: Some(right.id),
            // Its time may be over before the timer has ended it.
            qualification_status: Some(match right.status {
                QualificationStatus::Active if right.expire_time <= now => QualificationStatus::Expired,
                status => status,
            }),
            expire_time: Some(iso(right.expire_time)),
            ..signed
        });
    }
    // A winner whose right is under way, one who may still move up, or neither.
    let won = rank < round.winners();
    let passing = round.rules.unused == Some(Unused::WaitingList)
        && rank >= round.next_waiting
        && round.pass_until().is_some_and(|until| now < until)
        && round.status != RoundStatus::Settled;
    let status = if won {
        "won"
    } else if passing {
        "waiting"
    } else {
        "lost"
    };
    Ok(UserResult { status, won: Some(won), ..signed })
}
