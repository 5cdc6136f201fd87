//! Draws for the right to buy: publishing rounds, signing up, drawing, and what becomes of the rights.
//!
//! Who holds which secret: a round's seed and ticket key are made by the operating system's generator when the round is published
//! and are stored sealed; only the commitment to the seed is public until the draw reveals it. The ticket key is never revealed.

pub mod draw;
pub mod publish;
pub mod record;
pub mod rights;
pub mod signup;
pub mod windows;

use domain::draw::{TicketId, ticket_id};
use domain::vault::{FieldKeys, NONCE_BYTES};
use domain::{Failure, Refusal};
use store::lottery::Round;
use store::random;

/// The secrets of a round.
#[derive(Clone)]
pub struct Secrets {
    pub seed: [u8; 32],
    /// Makes tickets of openids. Whoever had it could try openids against the public list.
    ticket_key: [u8; 32],
}

/// The id of an activity or a round, which nobody enters by heart: a strange one is a mistake.
pub fn named(field: &str, text: Option<String>) -> Result<String, Refusal> {
    let text = text.ok_or_else(|| Refusal::invalid(field, format!("请指定 {field}")))?;
    let plain = (1..=96).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    if plain { Ok(text) } else { Err(Refusal::invalid(field, format!("{field} 格式不正确"))) }
}

fn place(round_id: &str) -> String {
    format!("lotteryRounds|secrets|{round_id}")
}

impl Secrets {
    /// New ones.
    pub fn make() -> Result<Self, Failure> {
        Ok(Self { seed: random()?, ticket_key: random()? })
    }

    /// As they are stored with the round.
    pub fn seal(&self, keys: &FieldKeys, round_id: &str) -> Result<String, Failure> {
        let plain = [self.seed, self.ticket_key].concat();
        let nonce = random::<NONCE_BYTES>()?;
        keys.seal(nonce, &place(round_id), &plain).map_err(|error| Failure::Internal(Box::new(error)))
    }

    /// The secrets of a stored round.
    pub fn open(keys: &FieldKeys, round: &Round) -> Result<Self, Failure> {
        let plain = keys.open(&place(&round.id), &round.secrets).map_err(|error| Failure::Internal(Box::new(error)))?;
        let broken = || Failure::invariant(format!("the secrets of round {} have the wrong length", round.id));
        let (seed, ticket_key) = plain.split_at_checked(32).ok_or_else(broken)?;
        Ok(Self {
            seed: seed.try_into().map_err(|_| broken())?,
            ticket_key: ticket_key.try_into().map_err(|_| broken())?,
        })
    }

    /// The ticket of a user in the round.
    pub fn ticket(&self, round_id: &str, open_id: &domain::OpenId) -> TicketId {
        ticket_id(&self.ticket_key, round_id, open_id.as_str())
    }
}
