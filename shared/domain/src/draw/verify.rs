//! The check of a public record: by itself, against a copy saved earlier, and against other rounds.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::record::{BeaconSource, Record, Status, VERSION};
use super::{Chain, RATE_MAX_BP, TicketId, TicketsHasher, beacon_of, commit, draw_key, rank, winners_count};

/// Entries of a list that are named one by one; a record made to annoy has a million.
const NAMED_MAX: usize = 10;

/// Something that is wrong with a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The field, such as `winners` or `rules.quota`.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

impl Fault {
    /// A fault of a field.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// A draw that holds, as far as the record itself can tell; a drand signature is checked by whoever has the curve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// The round.
    pub round_id: String,
    /// How many tickets took part.
    pub n: u64,
    /// How many won.
    pub k: u64,
    /// What was mixed in.
    pub source: BeaconSource,
    /// Whether the record carries the hash of its rules.
    pub rules_hash: bool,
}

/// Where a ticket ended; places count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Place {
    /// It won.
    Winner(u64),
    /// Its place in the waiting list.
    Waiting(u64),
    /// It took part; there is no ranking yet.
    Listed,
}

/// Where a ticket is in a record; none if it did not take part, which is what a holder of a dropped ticket sees.
pub fn own_ticket(record: &Record, ticket: TicketId) -> Option<Place> {
    let text = ticket.to_string();
    let place = |list: &[String]| {
        let index = list.iter().position(|other| *other == text)?;
        Some(u64::try_from(index).unwrap_or(u64::MAX).saturating_add(1))
    };
    place(&record.winners)
        .map(Place::Winner)
        .or_else(|| place(&record.waiting).map(Place::Waiting))
        .or_else(|| record.tickets.contains(&text).then_some(Place::Listed))
}

/// Recompute everything that a record says, except for the curve arithmetic of a drand signature. All faults, in the order of the
/// record's fields.
pub fn verify(record: &Record) -> Result<Verdict, Vec<Fault>> {
    let mut check = Check { record, faults: Vec::new() };
    check.head();
    let seed = check.seed();
    check.beacon();
    let tickets = check.tickets();
    let n = u64::try_from(record.tickets.len()).unwrap_or(u64::MAX);
    check.k(n);
    if let (Some(seed), Some((tickets, hash))) = (seed, tickets) {
        let key = draw_key(&seed, &record.round_id, &hash, &record.beacon);
        check.ranking(&rank(&key, tickets));
    }
    check.times();
    if !check.faults.is_empty() {
        return Err(check.faults);
    }
    Ok(Verdict {
        round_id: record.round_id.clone(),
        n,
        k: record.k.unwrap_or_default(),
        source: record.rules.beacon.source,
        rules_hash: record.rules_hash.is_some(),
    })
}

struct Check<'a> {
    record: &'a Record,
    faults: Vec<Fault>,
}

impl Check<'_> {
    fn fault(&mut self, field: &str, message: impl Into<String>) {
        self.faults.push(Fault::new(field, message));
    }

    fn head(&mut self) {
        let record = self.record;
        if record.version != VERSION {
            self.fault("version", format!("this check knows version {VERSION}, the record says {}", record.version));
        }
        // Line breaks separate what is hashed, so inside a part they would make two different records hash alike.
        for (field, text) in texts(record) {
            if text.chars().any(char::is_control) {
                self.fault(field, "contains a line break or another control character");
            }
        }
        if record.round_id.is_empty() {
            self.fault("roundId", "is empty");
        }
        if let Some(rate) = record.rules.win_rate_bp.filter(|rate| *rate > RATE_MAX_BP) {
            self.fault("rules.winRateBp", format!("is {rate}, above {RATE_MAX_BP}"));
        }
        if let Some(said) = &record.rules_hash {
            let computed = record.expected_rules_hash();
            if *said != computed {
                self.fault(
                    "rulesHash",
                    format!(
                        "rules, roundId, activityId, times and commit give {computed}, the record says {}",
                        shown(said)
                    ),
                );
            }
        }
        if record.pages.is_some() && record.tickets.is_empty() {
            self.fault("pages", "the lists come in pages and are not here: fetch the whole record");
        }
        match record.status {
            None | Some(Status::Drawn) => {}
            Some(status) => self.fault("status", format!("is {}, so there is no draw to check", status.as_str())),
        }
    }

    /// The seed's bytes, if they are bytes at all; a seed that breaks the commitment still ranks, to show what else differs.
    fn seed(&mut self) -> Option<[u8; 32]> {
        let published = hex_bytes::<32>(&self.record.commit);
        if published.is_none() {
            self.fault("commit", "is not 64 lower-case hexadecimal digits");
        }
        let Some(seed) = &self.record.seed else {
            self.fault("seed", "is not revealed, so nothing can be checked");
            return None;
        };
        let Some(seed) = hex_bytes::<32>(seed) else {
            self.fault("seed", "is not 64 lower-case hexadecimal digits");
            return None;
        };
        if published.is_some() && commit(&seed) != self.record.commit {
            self.fault("seed", "SHA-256 of the seed is not the published commit");
        }
        Some(seed)
    }

    fn beacon(&mut self) {
        let record = self.record;
        let rule = &record.rules.beacon;
        if rule.source != BeaconSource::Drand {
            if record.beacon_signature.is_some() {
                self.fault("beaconSignature", format!("source {} has none", rule.source.as_str()));
            }
            if rule.chain.is_some() || rule.round.is_some() {
                self.fault("rules.beacon", format!("source {} has no chain and no round", rule.source.as_str()));
            }
        }
        if rule.source != BeaconSource::Public && rule.name.is_some() {
            self.fault("rules.beacon.name", format!("source {} has no name", rule.source.as_str()));
        }
        match rule.source {
            BeaconSource::None => {
                if !record.beacon.is_empty() {
                    self.fault("beacon", "must be empty for source none");
                }
            }
            BeaconSource::Public => {
                if rule.name.as_ref().is_none_or(|name| name.trim().is_empty()) {
                    self.fault("rules.beacon.name", "the public figure is not named");
                }
                let text = lower(&record.beacon).then(|| hex::decode(&record.beacon).ok()).flatten();
                if record.beacon.is_empty() {
                    self.fault("beacon", "is missing");
                } else if text.is_none_or(|bytes| std::str::from_utf8(&bytes).is_err()) {
                    self.fault("beacon", "is not UTF-8 text in lower-case hexadecimal digits");
                }
            }
            BeaconSource::Drand => self.drand(),
        }
    }

    fn drand(&mut self) {
        let record = self.record;
        let rule = &record.rules.beacon;
        let chain = rule.chain.as_deref().filter(|chain| hex_bytes::<32>(chain).is_some());
        if chain.is_none() {
            self.fault("rules.beacon.chain", "is not 64 lower-case hexadecimal digits");
        }
        match rule.round {
            None | Some(0) => self.fault("rules.beacon.round", "is missing"),
            Some(round) => {
                if let Some(chain) = chain.and_then(Chain::known) {
                    self.faults.extend(round_time_fault(record, &chain, round));
                }
            }
        }
        if hex_bytes::<32>(&record.beacon).is_none() {
            self.fault("beacon", "is not 64 lower-case hexadecimal digits");
        }
        match &record.beacon_signature {
            None => self.fault("beaconSignature", "is missing, so nobody can tell that drand published this beacon"),
            Some(signature) if hex_bytes::<48>(signature).is_none() => {
                self.fault("beaconSignature", "is not 96 lower-case hexadecimal digits");
            }
            Some(signature) => {
                if beacon_of(signature).as_ref() != Some(&record.beacon) {
                    self.fault("beacon", "is not SHA-256 of beaconSignature");
                }
            }
        }
    }

    /// The tickets as they should be listed, with their hash; none if one of them is no ticket.
    fn tickets(&mut self) -> Option<(Vec<TicketId>, String)> {
        let record = self.record;
        let mut tickets = Vec::with_capacity(record.tickets.len());
        for (text, place) in record.tickets.iter().zip(1_u64..) {
            match TicketId::parse(text) {
                Some(ticket) => tickets.push(ticket),
                None => {
                    let message = format!("place {place} is not 32 lower-case hexadecimal digits: {}", shown(text));
                    self.fault("tickets", message);
                    return None;
                }
            }
        }
        if let Some((above, below)) = tickets.iter().zip(tickets.iter().skip(1)).find(|(a, b)| a > b) {
            self.fault("tickets", format!("not sorted ascending: {below} comes after {above}"));
            tickets.sort_unstable();
        }
        if let Some((twice, _)) = tickets.iter().zip(tickets.iter().skip(1)).find(|(a, b)| a == b) {
            self.fault("tickets", format!("ticket {twice} is listed twice"));
            tickets.dedup();
        }
        let mut hasher = TicketsHasher::new();
        // Sorted and distinct by now, so that no push fails.
        let pushed = tickets.iter().try_for_each(|ticket| hasher.push(ticket));
        let hash = hasher.finish();
        match &record.tickets_hash {
            None => self.fault("ticketsHash", "is missing"),
            Some(said) if *said != hash => {
                let message = format!("the tickets give {hash}, the record says {}", shown(said));
                self.fault("ticketsHash", message);
            }
            Some(_) => {}
        }
        pushed.is_ok().then_some((tickets, hash))
    }

    fn k(&mut self, n: u64) {
        let rules = &self.record.rules;
        let computed = winners_count(rules.mode, rules.quota, rules.win_rate_bp, n);
        match self.record.k {
            None => self.fault("k", "is missing"),
            Some(said) if said != computed => {
                self.fault("k", format!("the rules give {computed} for {n} tickets, the record says {said}"));
            }
            Some(_) => {}
        }
    }

    /// Winners and waiting list against the true order. How many win is by the rules, whatever `k` says.
    fn ranking(&mut self, ranked: &[TicketId]) {
        let rules = &self.record.rules;
        let n = u64::try_from(ranked.len()).unwrap_or(u64::MAX);
        let k = winners_count(rules.mode, rules.quota, rules.win_rate_bp, n);
        let (winners, waiting) = ranked.split_at_checked(usize::try_from(k).unwrap_or(usize::MAX)).unwrap_or_default();
        let known: BTreeSet<TicketId> = match (&self.record.winners, &self.record.waiting) {
            (a, b) if agrees(a, winners) && agrees(b, waiting) => return,
            _ => ranked.iter().copied().collect(),
        };
        self.list("winners", &self.record.winners, winners, &known);
        self.list("waiting", &self.record.waiting, waiting, &known);
    }

    fn list(&mut self, field: &str, said: &[String], right: &[TicketId], known: &BTreeSet<TicketId>) {
        if said.len() != right.len() {
            // Which one it is: a stranger, a ticket of the other list, or one that was dropped.
            let (here, due): (BTreeSet<String>, BTreeSet<String>) =
                (said.iter().cloned().collect(), right.iter().map(TicketId::to_string).collect());
            let extra = here.difference(&due).next().map(|text| format!("; {} does not belong here", shown(text)));
            let gone = due.difference(&here).next().map(|text| format!("; {text} is missing"));
            let named = [extra, gone].into_iter().flatten().collect::<String>();
            self.fault(field, format!("should hold {} tickets, holds {}{named}", right.len(), said.len()));
        }
        let mut seen = BTreeSet::new();
        let strangers: Vec<String> = said
            .iter()
            .filter_map(|text| match TicketId::parse(text) {
                Some(ticket) if !known.contains(&ticket) => Some(format!("{ticket} is not among the tickets")),
                Some(ticket) if !seen.insert(ticket) => Some(format!("{ticket} is there twice")),
                Some(_) => None,
                None => Some(format!("{} is not a ticket", shown(text))),
            })
            .take(NAMED_MAX)
            .collect();
        for message in strangers {
            self.fault(field, message);
        }
        let wrong: Vec<_> = said
            .iter()
            .zip(right)
            .zip(1_u64..)
            .filter(|((said, right), _)| TicketId::parse(said).as_ref() != Some(*right))
            .collect();
        if let Some(((said, right), place)) = wrong.first() {
            let more = match wrong.len().saturating_sub(1) {
                0 => String::new(),
                more => format!(", and {more} more places differ"),
            };
            self.fault(field, format!("place {place} is {}, should be {right}{more}", shown(said)));
        }
    }

    fn times(&mut self) {
        let record = self.record;
        let opened = self.time("openedAt", Some(&record.opened_at));
        let closed = self.time("closedAt", Some(&record.closed_at));
        let drawn = self.time("drawnAt", record.drawn_at.as_deref());
        if let (Some(opened), Some(closed)) = (opened, closed)
            && opened >= closed
        {
            self.fault("closedAt", "is not after openedAt");
        }
        if let (Some(closed), Some(drawn)) = (closed, drawn)
            && drawn < closed
        {
            self.fault("drawnAt", "is before closedAt");
        }
    }

    fn time(&mut self, field: &str, text: Option<&str>) -> Option<DateTime<Utc>> {
        let time = text.and_then(instant);
        if time.is_none() {
            self.fault(field, "is not a time in RFC 3339");
        }
        time
    }
}

/// A round that was public when tickets could still be added, or a draw that claims to be older than its beacon.
///
/// [`verify`] asks this for the chains it knows; for others, whoever knows the chain asks.
pub fn round_time_fault(record: &Record, chain: &Chain, round: u64) -> Option<Fault> {
    let Some(published) = chain.time_of(round) else {
        return Some(Fault::new("rules.beacon.round", format!("there is no round {round}")));
    };
    if instant(&record.closed_at).is_some_and(|closed| published <= closed) {
        return Some(Fault::new("rules.beacon.round", format!("round {round} was published before the close")));
    }
    instant(record.drawn_at.as_deref()?)
        .filter(|drawn| *drawn < published)
        .map(|_| Fault::new("drawnAt", format!("is before round {round} was published")))
}

fn instant(text: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(text).ok().map(|time| time.to_utc())
}

fn agrees(said: &[String], right: &[TicketId]) -> bool {
    said.len() == right.len()
        && said.iter().zip(right).all(|(said, right)| TicketId::parse(said).as_ref() == Some(right))
}

fn lower(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

fn hex_bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    (lower(text) && hex::decode_to_slice(text, &mut bytes).is_ok()).then_some(bytes)
}

/// What somebody else wrote, fit for one line of a terminal.
fn shown(text: &str) -> String {
    let short: String = text.chars().take(80).collect();
    format!("{short:?}")
}

/// The texts that are hashed between line breaks.
fn texts(record: &Record) -> Vec<(&'static str, &str)> {
    let rules = &record.rules;
    let optional = [
        ("rules.beacon.chain", &rules.beacon.chain),
        ("rules.beacon.name", &rules.beacon.name),
        ("rules.beacon.deadline", &rules.beacon.deadline),
        ("rules.passUntil", &rules.pass_until),
    ];
    let mut texts = vec![
        ("activityId", record.activity_id.as_str()),
        ("roundId", &record.round_id),
        ("openedAt", &record.opened_at),
        ("closedAt", &record.closed_at),
    ];
    texts.extend(optional.into_iter().filter_map(|(name, text)| Some((name, text.as_deref()?))));
    texts
}

/// What was promised in a copy saved earlier and is otherwise now. This is what catches a second draw, a seed and commitment
/// changed together, rules changed with their hash, and, if the copy has the list, tickets that came late or vanished.
pub fn verify_against(record: &Record, announced: &Record) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut same = |field: &str, now: String, then: String| {
        if now != then {
            let message = format!("was announced as {}, is now {}", shown(&then), shown(&now));
            faults.push(Fault::new(field, message));
        }
    };
    let number = |value: Option<u64>| value.map_or_else(|| "none".to_owned(), |value| value.to_string());
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
    same("version", record.version.to_string(), announced.version.to_string());
    same("roundId", record.round_id.clone(), announced.round_id.clone());
    same("activityId", record.activity_id.clone(), announced.activity_id.clone());
    let (now, then) = (&record.rules, &announced.rules);
    same("rules.mode", now.mode.as_str().to_owned(), then.mode.as_str().to_owned());
    same("rules.quota", now.quota.to_string(), then.quota.to_string());
    same("rules.winRateBp", number(now.win_rate_bp), number(then.win_rate_bp));
    same("rules.beacon.source", now.beacon.source.as_str().to_owned(), then.beacon.source.as_str().to_owned());
    same("rules.beacon.chain", text(&now.beacon.chain), text(&then.beacon.chain));
    same("rules.beacon.round", number(now.beacon.round), number(then.beacon.round));
    same("rules.beacon.name", text(&now.beacon.name), text(&then.beacon.name));
    same("rules.beacon.deadline", text(&now.beacon.deadline), text(&then.beacon.deadline));
    same("rules.quantity", number(now.quantity), number(then.quantity));
    same("rules.qualificationMinutes", number(now.qualification_minutes), number(then.qualification_minutes));
    let unused = |value: Option<super::Unused>| value.map(super::Unused::as_str).unwrap_or("none").to_owned();
    same("rules.unused", unused(now.unused), unused(then.unused));
    same("rules.passUntil", text(&now.pass_until), text(&then.pass_until));
    // It adds nothing to its parts, so a copy without it is as good.
    if announced.rules_hash.is_some() {
        same("rulesHash", text(&record.rules_hash), text(&announced.rules_hash));
    }
    same("commit", record.commit.clone(), announced.commit.clone());
    same("openedAt", record.opened_at.clone(), announced.opened_at.clone());
    same("closedAt", record.closed_at.clone(), announced.closed_at.clone());
    if announced.tickets_hash.is_some() {
        same("ticketsHash", text(&record.tickets_hash), text(&announced.tickets_hash));
    }
    if announced.seed.is_some() {
        same("seed", text(&record.seed), text(&announced.seed));
        same("beacon", record.beacon.clone(), announced.beacon.clone());
        same("k", number(record.k), number(announced.k));
        same("drawnAt", text(&record.drawn_at), text(&announced.drawn_at));
        if record.winners != announced.winners {
            faults.push(Fault::new("winners", "are not those of the earlier copy"));
        }
        if record.waiting != announced.waiting {
            faults.push(Fault::new("waiting", "is not that of the earlier copy"));
        }
    }
    if announced.tickets_hash.is_some() || !announced.tickets.is_empty() {
        faults.extend(changed_tickets(record, announced));
    }
    faults
}

fn changed_tickets(record: &Record, announced: &Record) -> Vec<Fault> {
    // A paged copy has the hash without the list.
    if announced.tickets.is_empty() && announced.pages.is_some() {
        return Vec::new();
    }
    let now: BTreeSet<&str> = record.tickets.iter().map(String::as_str).collect();
    let then: BTreeSet<&str> = announced.tickets.iter().map(String::as_str).collect();
    let mut faults = Vec::new();
    let mut differ = |mut tickets: Vec<&str>, what: &str| {
        let more = match tickets.len() {
            0 => return,
            1 => String::new(),
            count => format!(", and {} more", count.saturating_sub(1)),
        };
        tickets.truncate(1);
        faults.push(Fault::new("tickets", format!("{} {what}{more}", tickets.concat())));
    };
    differ(now.difference(&then).copied().collect(), "was added after the list was frozen");
    differ(then.difference(&now).copied().collect(), "was in the frozen list and is gone");
    faults
}

/// Rounds that share what must be used once: whoever saw the seed of one knows half of the other's key before it closes.
pub fn reused_secrets(records: &[&Record]) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut commits: BTreeMap<&str, &str> = BTreeMap::new();
    let mut seeds: BTreeMap<&str, &str> = BTreeMap::new();
    for record in records {
        let round = record.round_id.as_str();
        if let Some(other) = commits.insert(&record.commit, round).filter(|other| *other != round) {
            faults.push(Fault::new("commit", format!("rounds {other} and {round} have the same commitment")));
        }
        let Some(seed) = record.seed.as_deref() else { continue };
        if let Some(other) = seeds.insert(seed, round).filter(|other| *other != round) {
            faults.push(Fault::new("seed", format!("rounds {other} and {round} have the same seed")));
        }
    }
    faults
}
