//! The price proof: what a price was calculated from, and each step of it, so that anybody can do it again.

use serde::{Deserialize, Serialize};

use super::{Adjustment, Input, Quote, calculate};
use crate::money::whole;
use crate::{Code, Fen, Refusal};

/// A version of the calculation. A change that could give any input another result makes a new one, and keeps the older ones for
/// the proofs that name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Calculator {
    /// Another place brought its own fee, whatever freight staff had set before.
    V1,
    /// Another place moves the freight by the difference of the fees.
    V2,
}

impl Calculator {
    /// What prices new orders.
    pub(super) const NEWEST: Self = Self::V2;

    fn number(self) -> i64 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
        }
    }

    fn of(number: i64) -> Option<Self> {
        [Self::V1, Self::V2].into_iter().find(|one| one.number() == number)
    }
}

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
    prove_with(Calculator::NEWEST, input)
}

pub(super) fn prove_with(calculator: Calculator, input: Input) -> Result<Proof, Refusal> {
    let run = calculate::run(&input, calculator)?;
    let (versions, steps, quote) = (run.versions, run.steps, run.quote);
    Ok(Proof { calculator: calculator.number(), input, versions, steps, quote })
}

/// The price after one more change, by the calculator that made it: one price follows from one calculator. Refuses as
/// [`super::calculate`] does; `CONFLICT` for the proof of a calculator that is not known here.
pub fn adjust(proof: &Proof, adjustment: Adjustment) -> Result<Proof, Refusal> {
    let calculator = Calculator::of(proof.calculator).ok_or(Code::Conflict)?;
    let mut input = proof.input.clone();
    input.adjustments.push(adjustment);
    prove_with(calculator, input)
}

/// What a proof's price was before all changes but the first `n`.
pub fn quote_before(proof: &Proof, n: usize) -> Result<Quote, Refusal> {
    let calculator = Calculator::of(proof.calculator).ok_or(Code::Conflict)?;
    let mut input = proof.input.clone();
    input.adjustments.truncate(n);
    Ok(calculate::run(&input, calculator)?.quote)
}

/// Computes the price again from the recorded input and compares every step and every share.
///
/// It proves that the price follows from the input; whether the input was the truth (prices, balances, what the coupon said) is
/// for whoever knows the store at that time.
pub fn verify(proof: &Proof) -> Result<(), ProofError> {
    let calculator = Calculator::of(proof.calculator).ok_or(ProofError::UnknownCalculator(proof.calculator))?;
    let run = calculate::run(&proof.input, calculator).map_err(ProofError::Refused)?;
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
