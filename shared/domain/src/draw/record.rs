//! What is published about a draw: before the window, while it is open, and after.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The version of record and algorithm.
pub const VERSION: u64 = 1;

/// How the number of winners follows from the number of tickets; see [`super::winners_count`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// A rate, and at most the quota.
    #[serde(rename = "fixed")]
    Fixed,
    /// The quota, however many tickets there are.
    #[serde(rename = "auto")]
    Auto,
}

impl Mode {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Fixed => "fixed",
            Self::Auto => "auto",
        }
    }
}

/// Where the value comes from that nobody knows before the close.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BeaconSource {
    /// There is none; only the commitment protects the draw.
    #[serde(rename = "none")]
    None,
    /// A round of a drand chain.
    #[serde(rename = "drand")]
    Drand,
    /// A public figure that is named beforehand and entered by the operator.
    #[serde(rename = "public")]
    Public,
}

impl BeaconSource {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Drand => "drand",
            Self::Public => "public",
        }
    }
}

/// Which beacon is mixed in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeaconRule {
    /// Its kind.
    pub source: BeaconSource,
    /// drand: the chain's hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<String>,
    /// drand: the round's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round: Option<u64>,
    /// public: the figure's name, exact enough that anybody can look it up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The instant at which the round is void if the beacon is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<String>,
}

/// What becomes of a right to buy that its winner did not use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unused {
    /// It passes to the next of the waiting list, until `passUntil`.
    #[serde(rename = "waitingList")]
    WaitingList,
    /// Its pieces go back to the shelf.
    #[serde(rename = "stock")]
    Stock,
}

impl Unused {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::WaitingList => "waitingList",
            Self::Stock => "stock",
        }
    }
}

/// The rules of a round, fixed before it opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rules {
    /// How winners are counted.
    pub mode: Mode,
    /// At most so many win.
    pub quota: u64,
    /// For [`Mode::Fixed`]: of 10,000 tickets so many win.
    #[serde(default)]
    pub win_rate_bp: Option<u64>,
    /// What is mixed in.
    pub beacon: BeaconRule,
    /// Pieces that one right buys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantity: Option<u64>,
    /// Minutes that a right lasts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qualification_minutes: Option<u64>,
    /// What becomes of unused rights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unused: Option<Unused>,
    /// Until when unused rights pass on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pass_until: Option<String>,
}

/// How far a round is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// Rules and commitment are published, the window has not opened.
    #[serde(rename = "announced")]
    Announced,
    /// Tickets can be had.
    #[serde(rename = "open")]
    Open,
    /// The list is frozen, the draw has not taken place.
    #[serde(rename = "closed")]
    Closed,
    /// Drawn; the seed is public.
    #[serde(rename = "drawn")]
    Drawn,
    /// Given up by a rule published in advance; nobody has won.
    #[serde(rename = "void")]
    Void,
}

impl Status {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Announced => "announced",
            Self::Open => "open",
            Self::Closed => "closed",
            Self::Drawn => "drawn",
            Self::Void => "void",
        }
    }
}

/// The public record of a round. Texts stay texts here, so that a check sees what was published and not what a parser made of it.
///
/// Before the draw `seed`, `k` and `drawnAt` are null, `beacon` is empty, and so are winners and waiting list; before the close
/// `ticketsHash` is null and `tickets` empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// [`VERSION`].
    pub version: u64,
    /// The activity.
    pub activity_id: String,
    /// The round, the only draw of its kind.
    pub round_id: String,
    /// Its rules.
    pub rules: Rules,
    /// [`rules_hash`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules_hash: Option<String>,
    /// SHA-256 of the seed, in hexadecimal.
    pub commit: String,
    /// 32 bytes in hexadecimal, once drawn.
    #[serde(default)]
    pub seed: Option<String>,
    /// The beacon in hexadecimal: a drand round's randomness, the UTF-8 text of a public figure, or nothing.
    #[serde(default)]
    pub beacon: String,
    /// The drand round's signature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beacon_signature: Option<String>,
    /// All tickets, ascending.
    #[serde(default)]
    pub tickets: Vec<String>,
    /// [`super::TicketsHasher`] over them.
    #[serde(default)]
    pub tickets_hash: Option<String>,
    /// How many win.
    #[serde(default)]
    pub k: Option<u64>,
    /// The first `k` in rank order.
    #[serde(default)]
    pub winners: Vec<String>,
    /// The others in rank order.
    #[serde(default)]
    pub waiting: Vec<String>,
    /// When the window opens (RFC 3339).
    pub opened_at: String,
    /// When it closes.
    pub closed_at: String,
    /// When the draw was made.
    #[serde(default)]
    pub drawn_at: Option<String>,
    /// How far the round is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// A sentence for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notice: Option<String>,
    /// Lists longer than an answer come in so many pages; a saved record holds them whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pages: Option<u64>,
}

impl Record {
    /// [`rules_hash`] of what this record says.
    pub fn expected_rules_hash(&self) -> String {
        rules_hash(&self.activity_id, &self.round_id, &self.rules, &self.commit, &self.opened_at, &self.closed_at)
    }
}

/// An instant as records write it: UTC with milliseconds, `2026-01-01T01:00:00.000Z`.
pub fn time_text(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// What is published before the window opens and binds everything that could be bent later: SHA-256, in hexadecimal, of the line
/// `jinlu-rules-v1` and then of a line `name=value` for each part in the order below, each line ended by "\n". What is absent is
/// empty; numbers are decimal; times are the texts of the record.
pub fn rules_hash(
    activity_id: &str,
    round_id: &str,
    rules: &Rules,
    commit: &str,
    opened_at: &str,
    closed_at: &str,
) -> String {
    let number = |value: Option<u64>| value.map(|value| value.to_string()).unwrap_or_default();
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let parts = [
        ("activityId", activity_id.to_owned()),
        ("roundId", round_id.to_owned()),
        ("openedAt", opened_at.to_owned()),
        ("closedAt", closed_at.to_owned()),
        ("commit", commit.to_owned()),
        ("mode", rules.mode.as_str().to_owned()),
        ("quota", rules.quota.to_string()),
        ("winRateBp", number(rules.win_rate_bp)),
        ("beacon.source", rules.beacon.source.as_str().to_owned()),
        ("beacon.chain", text(&rules.beacon.chain)),
        ("beacon.round", number(rules.beacon.round)),
        ("beacon.name", text(&rules.beacon.name)),
        ("beacon.deadline", text(&rules.beacon.deadline)),
        ("quantity", number(rules.quantity)),
        ("qualificationMinutes", number(rules.qualification_minutes)),
        ("unused", rules.unused.map(Unused::as_str).unwrap_or_default().to_owned()),
        ("passUntil", text(&rules.pass_until)),
    ];
    let mut hash = Sha256::new();
    hash.update(b"jinlu-rules-v1\n");
    for (name, value) in parts {
        hash.update(format!("{name}={value}\n"));
    }
    hex::encode(hash.finalize())
}
