//! Draws: rounds, their lists and rankings, and the rights they gave.

use std::collections::{HashMap, HashSet};

use bson::{Bson, Document, doc};
use domain::draw::{
    BeaconSource, TicketId, TicketsHasher, beacon_of, commit, draw_key, rank, rules_hash, time_text, winners_count,
};
use futures_util::TryStreamExt;

use super::{Audit, BATCH, Batch, rules::legs};
use crate::Error;
use crate::book::Entry;
use crate::coins::CoinLot;
use crate::lottery::{Round, RoundStatus, Ticket};
use crate::orders::Order;
use crate::qualifications::{Qualification, QualificationStatus, Via};

const INVARIANT: &str = "draw";

impl Audit<'_> {
    pub(super) async fn draws(&mut self) -> Result<(), Error> {
        let mut after: Option<Bson> = None;
        loop {
            let batch: Batch<Round> = self.batch("lotteryRounds", INVARIANT, after).await?;
            for round in &batch.rows {
                let off = self.round_off(round).await?;
                for message in off {
                    self.violation(INVARIANT, message, format!("lotteryRounds/{}", round.id));
                }
            }
            match batch.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        self.rights_without_round().await?;
        self.entries_without_right().await
    }

    async fn round_off(&mut self, round: &Round) -> Result<Vec<String>, Error> {
        let mut off: Vec<String> = published_off(round).into_iter().map(str::to_owned).collect();
        let listed = !matches!(round.status, RoundStatus::Open | RoundStatus::Frozen);
        if listed != (round.list_run.is_some() && round.n.is_some() && round.tickets_hash.is_some()) {
            off.push("the list does not fit the state".to_owned());
        }
        let list = match &round.list_run {
            Some(run) => self.chunks(&format!("{}:{run}:tickets", round.id)).await?,
            None => Vec::new(),
        };
        if listed {
            let mut hasher = TicketsHasher::new();
            let ascending = list.iter().all(|id| hasher.push(id).is_ok());
            let whole = i64::try_from(list.len()) == Ok(round.tickets());
            if !ascending || !whole || Some(hasher.finish()) != round.tickets_hash {
                off.push("the list does not recompute to its hash".to_owned());
            }
            let mut stored = self.stored_tickets(&round.id).await?;
            stored.sort_unstable();
            if list.iter().any(|id| stored.binary_search(id).is_err()) {
                off.push("the list has a ticket that nobody signed up for".to_owned());
            }
            // One that came after the freeze is removed while the draw goes on.
            if round.status == RoundStatus::Settled && stored.len() != list.len() {
                off.push("a ticket is not in the list".to_owned());
            }
        }
        let ranking = match &round.rank_run {
            Some(run) => self.chunks(&format!("{}:{run}:ranking", round.id)).await?,
            None => Vec::new(),
        };
        off.extend(draw_off(round, list, &ranking).into_iter().map(str::to_owned));
        off.extend(self.rights_off(round, &ranking).await?);
        Ok(off)
    }

    async fn chunks(&mut self, prefix: &str) -> Result<Vec<TicketId>, Error> {
        let collection = self.collection("lotteryLists").await?;
        let filter = doc! { "_id": { "$gte": format!("{prefix}:"), "$lt": format!("{prefix};") } };
        let mut cursor = collection.find(filter).sort(doc! { "_id": 1 }).session(&mut self.session).await?;
        let chunks: Vec<Document> = cursor.stream(&mut self.session).try_collect().await?;
        let mut ids = Vec::new();
        for chunk in &chunks {
            ids.extend(chunk.get_binary_generic("ids").map(|b| crate::lottery::unpack(b)).unwrap_or_default());
        }
        Ok(ids)
    }

    async fn stored_tickets(&mut self, round: &str) -> Result<Vec<TicketId>, Error> {
        let collection = self.collection("lotteryTickets").await?;
        let find = collection.find(doc! { "roundId": round }).projection(doc! { "_id": 1 });
        let mut cursor = find.session(&mut self.session).await?;
        let rows: Vec<Document> = cursor.stream(&mut self.session).try_collect().await?;
        Ok(rows.iter().filter_map(|r| TicketId::parse(r.get_str("_id").unwrap_or_default())).collect())
    }

    /// What is wrong with the rights of a round.
    async fn rights_off(&mut self, round: &Round, ranking: &[TicketId]) -> Result<Vec<String>, Error> {
        let rights: Vec<Qualification> =
            self.matching("lotteryQualifications", "roundId", vec![round.id.clone()]).await?;
        let mut off = Vec::new();
        let count = |via: Via| i64::try_from(rights.iter().filter(|r| r.via == via).count()).unwrap_or(i64::MAX);
        let moved_up = round.next_waiting.saturating_sub(round.winners());
        if count(Via::Draw) != round.next_rank || count(Via::WaitingList) != moved_up {
            off.push("the rights are not those of the ranks that were served".to_owned());
        }
        let mut passed_on = 0i64;
        for part in rights.chunks(BATCH) {
            let keys = |f: &dyn Fn(&Qualification) -> String| part.iter().map(f).collect::<Vec<_>>();
            let mut booked = keys(&|r| Qualification::grant_key(&r.id));
            booked.extend(keys(&|r| Qualification::return_key(&r.id)));
            let entries: Vec<Entry> = self.matching("ledger", "_id", booked).await?;
            let entries: HashMap<&str, &Entry> = entries.iter().map(|e| (e.id.as_str(), e)).collect();
            let lots: Vec<CoinLot> =
                self.matching("activityCoinLots", "_id", keys(&|r| format!("win:{}", r.id))).await?;
            let tickets: Vec<Ticket> = self.matching("lotteryTickets", "_id", keys(&|r| r.ticket_id.clone())).await?;
            let tickets: HashMap<&str, &Ticket> = tickets.iter().map(|t| (t.id.as_str(), t)).collect();
            let held = part.iter().filter_map(|r| r.order_id.as_ref().map(|id| id.as_str().to_owned())).collect();
            let orders: Vec<Order> = self.matching("orders", "_id", held).await?;
            for right in part {
                let mut say = |message: &str| off.push(format!("{message}: {}", right.id));
                for message in right_off(round, right, ranking) {
                    say(message);
                }
                if !tickets.get(right.ticket_id.as_str()).is_some_and(|t| {
                    (&t.user_id, &t.open_id, &t.round_id) == (&right.user_id, &right.open_id, &right.round_id)
                }) {
                    say("a right belongs to somebody else than its ticket");
                }
                let coins = lots.iter().filter(|l| l.id == format!("win:{}", right.id));
                if coins.map(|l| (l.granted, l.user_id.clone())).collect::<Vec<_>>() != [(1, right.user_id.clone())] {
                    say("a win did not grant its one coin");
                }
                let order = right.order_id.as_ref().map(|id| orders.iter().find(|o| o.id == *id));
                let names_it = |o: Option<&Order>| {
                    o.is_some_and(|o| {
                        o.qualification_id.as_deref() == Some(right.id.as_str()) && o.user_id == right.user_id
                    })
                };
                let used = right.status == QualificationStatus::Used;
                if (used && order.is_none()) || order.is_some_and(|o| !names_it(o)) {
                    say("a right is used by no order that names it");
                }
                let grant = entries.get(Qualification::grant_key(&right.id).as_str());
                let wanted = (right.via == Via::Draw).then(|| right.grant_entry());
                if grant.map(|e| legs(e)) != wanted.as_ref().map(legs) {
                    say("the book did not take the pieces of a right off the shelf");
                }
                match entries.get(Qualification::return_key(&right.id).as_str()) {
                    Some(back) => {
                        let wanted = right.return_entry(back.at);
                        if right.status != QualificationStatus::Expired || legs(back) != legs(&wanted) {
                            say("the book put pieces back that the right does not say");
                        }
                    }
                    None if right.status == QualificationStatus::Expired => passed_on = passed_on.saturating_add(1),
                    None => {}
                }
            }
        }
        if passed_on != moved_up {
            off.push(format!("{passed_on} rights passed on, {moved_up} of the waiting list moved up"));
        }
        Ok(off)
    }

    async fn rights_without_round(&mut self) -> Result<(), Error> {
        let mut after: Option<Bson> = None;
        loop {
            let batch: Batch<Qualification> = self.batch("lotteryQualifications", INVARIANT, after).await?;
            let ids: HashSet<String> = batch.rows.iter().map(|r| r.round_id.clone()).collect();
            let rounds: Vec<Round> = self.matching("lotteryRounds", "_id", ids.into_iter().collect()).await?;
            for right in &batch.rows {
                if !rounds.iter().any(|r| r.id == right.round_id) {
                    let document = format!("lotteryQualifications/{}", right.id);
                    self.violation(INVARIANT, "a right of no round", document);
                }
            }
            match batch.next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }

    async fn entries_without_right(&mut self) -> Result<(), Error> {
        let of_rights = doc! { "$match": { "_id": { "$gte": "qualification:", "$lt": "qualification;" } } };
        let ids = self.ids_of("ledger", vec![of_rights]).await?;
        for part in ids.chunks(BATCH) {
            let right = |id: &String| id.split(':').nth(1).unwrap_or_default().to_owned();
            let rights: Vec<Qualification> =
                self.matching("lotteryQualifications", "_id", part.iter().map(right).collect()).await?;
            for id in part {
                if !rights.iter().any(|r| r.id == right(id)) {
                    self.violation(INVARIANT, "an entry of no right", format!("ledger/{id}"));
                }
            }
        }
        Ok(())
    }
}

fn seed_of(round: &Round) -> Option<[u8; 32]> {
    let mut seed = [0; 32];
    hex::decode_to_slice(round.seed.as_deref()?, &mut seed).ok()?;
    Some(seed)
}

/// What is wrong with what was published.
fn published_off(round: &Round) -> Vec<&'static str> {
    let mut off = Vec::new();
    let (opens, closes) = (time_text(round.opens_at), time_text(round.closes_at));
    if rules_hash(&round.activity_id, &round.id, &round.rules, &round.commit, &opens, &closes) != round.rules_hash {
        off.push("the rules are not those that were published");
    }
    if round.created_at > round.opens_at || round.opens_at >= round.closes_at {
        off.push("published after it opened, or never open");
    }
    if domain::vault::sealed_by(&round.secrets).is_none() {
        off.push("the secrets are not sealed");
    }
    let revealed = round.status.is_drawn() || round.status == RoundStatus::Void;
    if revealed != round.seed.is_some() {
        off.push("the seed is in clear before the draw, or not after it");
    }
    if round.seed.is_some() && seed_of(round).map(|seed| commit(&seed)).as_deref() != Some(round.commit.as_str()) {
        off.push("the seed is not the one that was committed to");
    }
    off
}

/// Whether the draw recomputes.
fn draw_off(round: &Round, list: Vec<TicketId>, ranking: &[TicketId]) -> Vec<&'static str> {
    let mut off = Vec::new();
    let drawn = round.status.is_drawn();
    let parts = [round.k.is_some(), round.rank_run.is_some(), round.drawn_at.is_some(), round.beacon.is_some()];
    if parts.contains(&!drawn) {
        off.push("the draw does not fit the state");
    }
    if !drawn {
        if round.next_rank != 0 || round.next_waiting != 0 {
            off.push("rights were given before the draw");
        }
        return off;
    }
    let beacon = round.beacon.as_deref().unwrap_or_default();
    let right_beacon = match round.rules.beacon.source {
        BeaconSource::None => Some(String::new()),
        BeaconSource::Public => round.public_value.as_ref().map(hex::encode),
        BeaconSource::Drand => round.beacon_signature.as_deref().and_then(beacon_of),
    };
    if right_beacon.as_deref() != Some(beacon) {
        off.push("the beacon is not the one that the rules name");
    }
    let n = u64::try_from(list.len()).unwrap_or(u64::MAX);
    let k = winners_count(round.rules.mode, round.rules.quota, round.rules.win_rate_bp, n);
    if u64::try_from(round.winners()) != Ok(k) || k > round.rules.quota {
        off.push("the number of winners is not what the rules say");
    }
    let recomputed = seed_of(round).map(|seed| {
        let key = draw_key(&seed, &round.id, round.tickets_hash.as_deref().unwrap_or_default(), beacon);
        rank(&key, list)
    });
    if recomputed.as_deref() != Some(ranking) {
        off.push("the ranking does not recompute from the seed");
    }
    let served = (0..=round.winners()).contains(&round.next_rank);
    if !served || !(round.winners()..=round.tickets()).contains(&round.next_waiting) {
        off.push("more ranks were served than there are");
    }
    off
}

/// What is wrong with a right by itself.
fn right_off(round: &Round, right: &Qualification, ranking: &[TicketId]) -> Vec<&'static str> {
    let mut off = Vec::new();
    let ticket = usize::try_from(right.rank).ok().and_then(|rank| ranking.get(rank)).map(TicketId::to_string);
    if ticket.as_deref() != Some(right.ticket_id.as_str())
        || right.id != Qualification::key(&round.id, &right.ticket_id)
    {
        off.push("a right does not belong to its rank");
    }
    let served = match right.via {
        Via::Draw => 0..round.next_rank.min(round.winners()),
        Via::WaitingList => round.winners()..round.next_waiting,
    };
    if !served.contains(&right.rank) {
        off.push("a right whose turn has not come");
    }
    if (&right.product_id, &right.sku_id, right.quantity) != (&round.product_id, &round.sku_id, round.quantity()) {
        off.push("a right for something else than was drawn");
    }
    let minutes = round.rules.qualification_minutes.and_then(|m| i64::try_from(m).ok()).unwrap_or(30);
    if (right.expire_time - right.granted_at).num_minutes() != minutes {
        off.push("a right does not last as long as the rules say");
    }
    off
}
