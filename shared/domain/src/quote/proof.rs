//! The price proof: what a price was calculated from, and each step of it, so that anybody can do it again.

use serde::{Deserialize, Serialize};

use super::{Input, Quote, calculate};
use crate::money::whole;
use crate::{Fen, Refusal};

/// The version of this calculation. A change that could give any input another result raises it, and keeps the older one for
/// the proofs that name it.
pub const CALCULATOR: i64 = 1;

/// What a step does. The stored texts are a contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StepKind {
    /// The goods at list price.
    #[serde(rename = "goods")]
    Goods,
    #[serde(rename = "coupon")]
    Coupon,
    /// Added to what is to pay.
    #[serde(rename = "freight")]
    Freight,
    #[serde(rename = "freightCoupon")]
    FreightCoupon,
    #[serde(rename = "points")]
    Points,
    #[serde(rename = "prepaidGoods")]
    PrepaidGoods,
    #[serde(rename = "prepaidMoney")]
    PrepaidMoney,
    #[serde(rename = "balance")]
    Balance,
    /// What staff took off.
    #[serde(rename = "priceChange")]
    PriceChange,
    /// What the freight became.
    #[serde(rename = "freightChange")]
    FreightChange,
    /// What is left for WeChat Pay.
    #[serde(rename = "payment")]
    Payment,
}

/// One step: its amount, and what is to pay after it. In fen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    pub kind: StepKind,
    pub amount: Fen,
    pub left: Fen,
}

/// A rule that the price depends on, in the version that was applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleVersion {
    /// `shop`, `coupon` or `freight`.
    pub kind: String,
    pub id: String,
    #[serde(deserialize_with = "whole")]
    pub version: i64,
}

impl RuleVersion {
    pub(super) fn new(kind: &str, id: &str, version: i64) -> Self {
        Self { kind: kind.to_owned(), id: id.to_owned(), version }
    }
}

/// A price with everything it follows from. Kept with the order; amounts in fen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Proof {
    #[serde(deserialize_with = "whole")]
    pub calculator: i64,
    pub input: Input,
    pub versions: Vec<RuleVersion>,
    pub steps: Vec<Step>,
    pub quote: Quote,
}

/// Why a proof does not prove its price.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ProofError {
    #[error("calculator {0} is not known")]
    UnknownCalculator(i64),
    #[error("the recorded input is refused: {}", .0.message)]
    Refused(Refusal),
    #[error("the versions of the rules are not those of the input")]
    Versions,
    #[error("step {place} is recorded as {recorded:?} and recomputed as {recomputed:?}")]
    Step { place: usize, recorded: Option<Step>, recomputed: Option<Step> },
    #[error("the shares are not those that the input gives")]
    Quote,
}

/// Prices the input as [`super::calculate`] does and keeps how it came about. Templates that no line uses are left out.
pub fn prove(mut input: Input) -> Result<Proof, Refusal> {
    if let Some(sending) = &mut input.sending {
        sending.templates.retain(|t| input.lines.iter().any(|l| l.template_id.as_ref() == Some(&t.id)));
    }
    let run = calculate::run(&input)?;
    Ok(Proof { calculator: CALCULATOR, input, versions: run.versions, steps: run.steps, quote: run.quote })
}

/// Computes the price again from the recorded input and compares every step and every share.
///
/// It proves that the price follows from the input; whether the input was the truth (prices, balances, what the coupon said) is
/// for whoever knows the store at that time.
pub fn verify(proof: &Proof) -> Result<(), ProofError> {
    if proof.calculator != CALCULATOR {
        return Err(ProofError::UnknownCalculator(proof.calculator));
    }
    let run = calculate::run(&proof.input).map_err(ProofError::Refused)?;
    if run.versions != proof.versions {
        return Err(ProofError::Versions);
    }
    let most = run.steps.len().max(proof.steps.len());
    for place in 0..most {
        let (recorded, recomputed) = (proof.steps.get(place).copied(), run.steps.get(place).copied());
        if recorded != recomputed {
            return Err(ProofError::Step { place, recorded, recomputed });
        }
    }
    if run.quote == proof.quote { Ok(()) } else { Err(ProofError::Quote) }
}
