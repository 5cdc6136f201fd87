//! Drawing a round, step by step. Each step is guarded by the round's status, so it can be repeated, raced and killed.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use domain::draw::{BeaconSource, TicketId, TicketsHasher, draw_key, rank, winners_count};
use domain::vault::FieldKeys;
use domain::{Failure, Tells};
use providers::drand;
use store::lottery::{CHUNK, Drawn, ListKind, Round, RoundStatus};
use store::{Store, crashpoint};
use tokio::time::Instant;

use super::{Secrets, random, rights};

/// Left of the time limit when no further step is begun.
const MARGIN: Duration = Duration::from_secs(15);

/// How soon to ask again for a beacon that should be there.
const ASK_AGAIN: TimeDelta = TimeDelta::seconds(20);

/// How often a finished round with rights that may still be used is looked at.
const LOOK_AGAIN: TimeDelta = TimeDelta::minutes(10);

/// What drawing stands on.
#[derive(Clone, Copy)]
pub struct Drawer<'a> {
    pub store: &'a Store,
    pub keys: &'a FieldKeys,
    pub drand: &'a drand::Client,
    /// Whether people are told how it ended.
    pub tells: &'a Tells,
    pub now: DateTime<Utc>,
    /// When the call is given up.
    pub deadline: Instant,
}

/// What became of a round in one run.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// The draw was finished by this run: tickets and winners.
    pub drawn: Option<(i64, i64)>,
    /// Why it is not further.
    pub skipped: Option<&'static str>,
}

/// The beacon of a listed round.
enum Beacon {
    Value {
        hex: String,
        signature: Option<String>,
    },
    Pending {
        reason: &'static str,
        next: DateTime<Utc>,
    },
    /// It did not appear in time.
    Missing,
}

/// One step of a round.
enum Step {
    On,
    Stop(Option<&'static str>),
}

impl Drawer<'_> {
    /// Whether there is time for a further step.
    pub fn has_time(&self) -> bool {
        self.deadline.saturating_duration_since(Instant::now()) > MARGIN
    }

    /// Takes a round as far as it goes now.
    pub async fn advance(&self, id: &str) -> Result<Outcome, Failure> {
        let mut outcome = Outcome::default();
        loop {
            let Some(round) = self.store.round(id).await? else { return Ok(outcome) };
            if !self.has_time() {
                outcome.skipped = Some("OUT_OF_TIME");
                return Ok(outcome);
            }
            let step = match round.status {
                RoundStatus::Open if self.now < round.closes_at => Step::Stop(Some("NOT_CLOSED")),
                RoundStatus::Open => {
                    self.store.freeze_round(id, self.now).await?;
                    crashpoint("lottery.frozen").await;
                    Step::On
                }
                RoundStatus::Frozen => self.make_list(&round).await?,
                RoundStatus::Listed => {
                    let (step, drawn) = self.draw(&round).await?;
                    outcome.drawn = outcome.drawn.or(drawn);
                    step
                }
                RoundStatus::Drawn => self.hand_out(&round).await?,
                RoundStatus::Void => self.tell_void(&round).await?,
                RoundStatus::Granted => self.settle(&round).await?,
                RoundStatus::Settled => Step::Stop(None),
            };
            if let Step::Stop(reason) = step {
                outcome.skipped = reason;
                return Ok(outcome);
            }
        }
    }

    /// The tickets in ascending order, in chunks, and their hash.
    async fn make_list(&self, round: &Round) -> Result<Step, Failure> {
        let run = hex::encode(random::<8>()?);
        let mut hasher = TicketsHasher::new();
        let mut after: Option<TicketId> = None;
        for index in 0.. {
            let limit = i64::try_from(CHUNK).unwrap_or(i64::MAX);
            let ids = self.store.ticket_ids(&round.id, after, limit).await?;
            for id in &ids {
                hasher.push(id).map_err(|error| Failure::Internal(Box::new(error)))?;
            }
            if !ids.is_empty() {
                self.store.put_chunk(&round.id, &run, ListKind::Tickets, index, &ids).await?;
                crashpoint("lottery.chunk").await;
            }
            after = ids.last().copied();
            if ids.len() < CHUNK {
                break;
            }
        }
        let n = i64::try_from(hasher.count()).map_err(|_| Failure::invariant("too many tickets"))?;
        if !self.store.round_listed(&round.id, &run, n, &hasher.finish()).await? {
            self.store.delete_run(&round.id, &run).await?;
        }
        crashpoint("lottery.listed").await;
        Ok(Step::On)
    }

    async fn beacon(&self, round: &Round) -> Result<Beacon, Failure> {
        let late = round.deadline().is_some_and(|deadline| deadline <= self.now);
        let rule = &round.rules.beacon;
        match rule.source {
            BeaconSource::None => Ok(Beacon::Value { hex: String::new(), signature: None }),
            BeaconSource::Public => Ok(match &round.public_value {
                Some(value) => Beacon::Value { hex: hex::encode(value), signature: None },
                None if late => Beacon::Missing,
                // Entering it brings the round back at once.
                None => Beacon::Pending { reason: "BEACON_PENDING", next: round.deadline().unwrap_or(self.now) },
            }),
            BeaconSource::Drand => {
                let reason = if rule.chain.as_deref() == Some(self.drand.chain().hash.as_str()) {
                    let number = rule.round.unwrap_or_default();
                    match self.drand.fetch(number).await {
                        // One that is there is used, however late the draw: it was public in time.
                        Ok(Some(beacon)) => {
                            return Ok(Beacon::Value { hex: beacon.randomness, signature: Some(beacon.signature) });
                        }
                        Ok(None) => "BEACON_PENDING",
                        Err(error) => {
                            tracing::warn!(round = %round.id, %error, "the beacon cannot be had");
                            "BEACON_UNAVAILABLE"
                        }
                    }
                } else {
                    tracing::error!(round = %round.id, "the round was published for another drand chain than is configured");
                    "BEACON_UNAVAILABLE"
                };
                Ok(if late { Beacon::Missing } else { Beacon::Pending { reason, next: self.now + ASK_AGAIN } })
            }
        }
    }

    /// Ranks the list with seed and beacon; returns tickets and winners when this run was the first.
    async fn draw(&self, round: &Round) -> Result<(Step, Option<(i64, i64)>), Failure> {
        let secrets = Secrets::open(self.keys, round)?;
        let seed = hex::encode(secrets.seed);
        let (beacon, beacon_signature) = match self.beacon(round).await? {
            Beacon::Value { hex, signature } => (hex, signature),
            Beacon::Pending { reason, next } => {
                self.store.postpone_round(round, next).await?;
                return Ok((Step::Stop(Some(reason)), None));
            }
            Beacon::Missing => {
                self.store.round_void(&round.id, &seed, self.now).await?;
                crashpoint("lottery.void").await;
                return Ok((Step::On, None));
            }
        };
        let (Some(list_run), Some(hash)) = (&round.list_run, &round.tickets_hash) else {
            return Err(Failure::invariant(format!("round {} is listed without a list", round.id)));
        };
        let tickets = self.store.list(&round.id, list_run, ListKind::Tickets).await?;
        if i64::try_from(tickets.len()) != Ok(round.tickets()) {
            return Err(Failure::invariant(format!("the list of round {} is not whole", round.id)));
        }
        let key = draw_key(&secrets.seed, &round.id, hash, &beacon);
        let ranked = tokio::task::spawn_blocking(move || rank(&key, tickets))
            .await
            .map_err(|error| Failure::Internal(Box::new(error)))?;
        let rank_run = hex::encode(random::<8>()?);
        for (index, ids) in ranked.chunks(CHUNK).enumerate() {
            self.store.put_chunk(&round.id, &rank_run, ListKind::Ranking, index, ids).await?;
        }
        crashpoint("lottery.ranked").await;
        let rules = &round.rules;
        let n = u64::try_from(ranked.len()).unwrap_or(u64::MAX);
        let k = i64::try_from(winners_count(rules.mode, rules.quota, rules.win_rate_bp, n))
            .map_err(|_| Failure::invariant("too many winners"))?;
        let drawn = Drawn { k, seed, beacon, beacon_signature, rank_run };
        let first = self.store.round_drawn(&round.id, &drawn, self.now).await?;
        if !first {
            self.store.delete_run(&round.id, &drawn.rank_run).await?;
        }
        crashpoint("lottery.drawn").await;
        Ok((Step::On, first.then_some((round.tickets(), k))))
    }

    /// Rights for the winners, then word for everybody else.
    async fn hand_out(&self, round: &Round) -> Result<Step, Failure> {
        let ranking = rights::ranking(self.store, round).await?;
        let mut short = false;
        let mut next = round.next_rank;
        while next < round.winners() {
            if !self.has_time() {
                return Ok(Step::Stop(Some("OUT_OF_TIME")));
            }
            match rights::grant(self.store, round, &ranking, next, self.tells, self.now).await? {
                Some(reached) if reached > next => next = reached,
                Some(_) => {
                    short = true;
                    break;
                }
                // Another run was faster.
                None => return Ok(Step::On),
            }
        }
        crashpoint("lottery.rights").await;
        if !self.tell(round, &ranking, "未中签").await? {
            return Ok(Step::Stop(Some("OUT_OF_TIME")));
        }
        if short {
            self.store.postpone_round(round, self.now + TimeDelta::seconds(30)).await?;
            return Ok(Step::Stop(Some("OUT_OF_STOCK")));
        }
        self.clean_up(round).await?;
        let next = round.pass_until().unwrap_or(self.now).max(self.now + LOOK_AGAIN);
        if let Some(fresh) = self.store.round(&round.id).await? {
            self.store.round_granted(&fresh, next).await?;
        }
        crashpoint("lottery.granted").await;
        Ok(Step::Stop(None))
    }

    /// Tells everybody in `list` from the round's cursor on; false when time ran out.
    async fn tell(&self, round: &Round, list: &[TicketId], result: &str) -> Result<bool, Failure> {
        let mut told = round.told;
        while told < round.tickets() {
            if !self.has_time() {
                return Ok(false);
            }
            match rights::tell(self.store, round, list, told, result, self.tells, self.now).await? {
                Some(reached) => told = reached,
                // Another run was faster: go on where it is.
                None => match self.store.round(&round.id).await? {
                    Some(fresh) => told = fresh.told.max(told),
                    None => return Ok(true),
                },
            }
        }
        Ok(true)
    }

    async fn tell_void(&self, round: &Round) -> Result<Step, Failure> {
        let list = match &round.list_run {
            Some(run) => self.store.list(&round.id, run, ListKind::Tickets).await?,
            None => Vec::new(),
        };
        if !self.tell(round, &list, "本场作废").await? {
            return Ok(Step::Stop(Some("OUT_OF_TIME")));
        }
        self.clean_up(round).await?;
        self.store.round_settled(round).await?;
        Ok(Step::Stop(Some("VOID")))
    }

    /// Removes what killed processes left: chunks of runs that were not first, and tickets that came after the freeze.
    async fn clean_up(&self, round: &Round) -> Result<(), Failure> {
        let keep: Vec<&str> = [&round.list_run, &round.rank_run].into_iter().flatten().map(String::as_str).collect();
        self.store.delete_other_runs(&round.id, &keep).await?;
        self.delete_late_tickets(round).await
    }

    async fn delete_late_tickets(&self, round: &Round) -> Result<(), Failure> {
        if self.store.count_tickets(&round.id).await? == round.tickets() {
            return Ok(());
        }
        let Some(run) = &round.list_run else { return Ok(()) };
        let list = self.store.list(&round.id, run, ListKind::Tickets).await?;
        let mut after = None;
        loop {
            let ids = self.store.ticket_ids(&round.id, after, 10_000).await?;
            for id in ids.iter().filter(|id| list.binary_search(id).is_err()) {
                self.store.delete_ticket(&id.to_string()).await?;
            }
            after = ids.last().copied();
            if after.is_none() {
                return Ok(());
            }
        }
    }

    /// Ends a round once no right of it may be used or passed on any more.
    async fn settle(&self, round: &Round) -> Result<Step, Failure> {
        let passing = round.pass_until().is_some_and(|until| self.now < until);
        if passing || self.store.has_active_rights(&round.id).await? {
            let next = round.pass_until().unwrap_or(self.now).max(self.now + LOOK_AGAIN);
            self.store.postpone_round(round, next).await?;
            return Ok(Step::Stop(None));
        }
        self.delete_late_tickets(round).await?;
        self.store.round_settled(round).await?;
        Ok(Step::On)
    }
}
