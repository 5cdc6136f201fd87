//! The draw, exactly: tickets, commitment, ranking, and the check of a public record.
//!
//! Everything here can be recomputed by anybody; `docs/draw.md` states it for strangers. Secrets, beacons and times come in.

mod chain;
mod record;
mod verify;

#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub use chain::{Chain, beacon_of};
pub use record::{BeaconRule, BeaconSource, Mode, Record, Rules, Status, Unused, VERSION, rules_hash, time_text};
pub use verify::{Fault, Place, Verdict, own_ticket, reused_secrets, round_time_fault, verify, verify_against};

/// What the key of a draw is bound to first, so that no other use of a seed can collide with it.
const KEY_LABEL: &[u8] = b"jinlu-draw-v1\n";

/// One hundred percent, in basis points.
pub const RATE_MAX_BP: u64 = 10_000;

/// A ticket of one round: public, yet it names nobody. 32 lower-case hexadecimal digits in texts, ordered by its bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TicketId([u8; 16]);

impl TicketId {
    /// Exactly 32 lower-case hexadecimal digits; none for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 16];
        let lower = text.bytes().all(|byte| !byte.is_ascii_uppercase());
        (lower && hex::decode_to_slice(text, &mut bytes).is_ok()).then_some(Self(bytes))
    }

    /// The text as ASCII, which is what gets hashed.
    fn ascii(self) -> [u8; 32] {
        let mut text = [0; 32];
        // Cannot fail: the buffer is twice as long as the bytes.
        let encoded = hex::encode_to_slice(self.0, &mut text);
        debug_assert!(encoded.is_ok());
        text
    }
}

impl From<[u8; 16]> for TicketId {
    fn from(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl From<TicketId> for [u8; 16] {
    fn from(ticket: TicketId) -> Self {
        ticket.0
    }
}

/// A text that is not a ticket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a ticket: must be 32 lower-case hexadecimal digits")]
pub struct NotATicket;

impl FromStr for TicketId {
    type Err = NotATicket;

    fn from_str(text: &str) -> Result<Self, NotATicket> {
        Self::parse(text).ok_or(NotATicket)
    }
}

impl TryFrom<String> for TicketId {
    type Error = NotATicket;

    fn try_from(text: String) -> Result<Self, NotATicket> {
        text.parse()
    }
}

impl From<TicketId> for String {
    fn from(ticket: TicketId) -> Self {
        hex::encode(ticket.0)
    }
}

impl fmt::Display for TicketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for TicketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// HMAC-SHA256 takes keys of any length, so the error never happens; an all-zero key would be the loud consequence.
fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::<Sha256>::new_from_slice(key).unwrap_or_else(|_| Hmac::<Sha256>::new(&Default::default()))
}

/// The first 16 bytes of HMAC-SHA256(`ticket_key`, `round_id` ‖ "\n" ‖ `open_id`).
///
/// The key is secret and belongs to one round, so that nobody can try openids against the public list.
pub fn ticket_id(ticket_key: &[u8; 32], round_id: &str, open_id: &str) -> TicketId {
    let mut mac = keyed(ticket_key);
    mac.update(round_id.as_bytes());
    mac.update(b"\n");
    mac.update(open_id.as_bytes());
    let digest: [u8; 32] = mac.finalize().into_bytes().into();
    let mut id = [0; 16];
    for (to, from) in id.iter_mut().zip(digest) {
        *to = from;
    }
    TicketId(id)
}

/// What is published before the round opens: SHA-256 of the seed's bytes, in hexadecimal.
pub fn commit(seed: &[u8; 32]) -> String {
    hex::encode(Sha256::digest(seed))
}

/// The list is not strictly ascending, so it is not the one list that a set of tickets has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ticket {0} is not above the one before it")]
pub struct NotAscending(pub TicketId);

/// `ticketsHash` over a list that may be read in batches: SHA-256 of every ticket's text, each followed by "\n".
#[derive(Clone, Debug, Default)]
pub struct TicketsHasher {
    hash: Sha256,
    last: Option<TicketId>,
    count: u64,
}

impl TicketsHasher {
    /// Of no tickets yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next ticket, which must be above all before.
    pub fn push(&mut self, ticket: &TicketId) -> Result<(), NotAscending> {
        if self.last.is_some_and(|last| last >= *ticket) {
            return Err(NotAscending(*ticket));
        }
        self.hash.update(ticket.ascii());
        self.hash.update(b"\n");
        self.last = Some(*ticket);
        self.count = self.count.saturating_add(1);
        Ok(())
    }

    /// How many tickets came.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The hash in hexadecimal.
    pub fn finish(self) -> String {
        hex::encode(self.hash.finalize())
    }
}

/// The key that ranks: HMAC-SHA256(`seed`, "jinlu-draw-v1\n" ‖ `round_id` ‖ "\n" ‖ `tickets_hash` ‖ "\n" ‖ `beacon_hex`), where hash
/// and beacon are the texts of the record.
pub fn draw_key(seed: &[u8; 32], round_id: &str, tickets_hash: &str, beacon_hex: &str) -> [u8; 32] {
    let mut mac = keyed(seed);
    mac.update(KEY_LABEL);
    for (part, end) in [(round_id, "\n"), (tickets_hash, "\n"), (beacon_hex, "")] {
        mac.update(part.as_bytes());
        mac.update(end.as_bytes());
    }
    mac.finalize().into_bytes().into()
}

/// All tickets in rank order: smallest HMAC-SHA256(`key`, ticket's text) first, ties by ticket. The order they come in does not
/// matter. 64 bytes of memory per ticket.
pub fn rank(key: &[u8; 32], tickets: Vec<TicketId>) -> Vec<TicketId> {
    // Keying costs as much as hashing, so the keyed state is made once.
    let keyed = keyed(key);
    let mut ranked: Vec<([u8; 32], TicketId)> = Vec::with_capacity(tickets.len());
    for ticket in &tickets {
        let mut mac = keyed.clone();
        mac.update(&ticket.ascii());
        ranked.push((mac.finalize().into_bytes().into(), *ticket));
    }
    ranked.sort_unstable();
    let mut tickets = tickets;
    for (to, (_, from)) in tickets.iter_mut().zip(&ranked) {
        *to = *from;
    }
    tickets
}

/// How many of `n` tickets win: `fixed` is min(quota, ⌊n · rate / 10000⌋), `auto` is min(quota, n). Without a rate `fixed` lets the
/// quota alone decide.
pub fn winners_count(mode: Mode, quota: u64, win_rate_bp: Option<u64>, n: u64) -> u64 {
    let rate = match mode {
        Mode::Fixed => win_rate_bp.unwrap_or(RATE_MAX_BP).min(RATE_MAX_BP),
        Mode::Auto => RATE_MAX_BP,
    };
    // At most n, so it fits again.
    let by_rate = u128::from(n) * u128::from(rate) / u128::from(RATE_MAX_BP);
    u64::try_from(by_rate).unwrap_or(n).min(quota)
}
