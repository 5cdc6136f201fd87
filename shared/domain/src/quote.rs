//! The one calculator: what an order costs and who pays which part of it. Cart preview, submission and refunds all use it.
//!
//! The order of deductions is fixed: goods at list price → one coupon → freight, less what a 免运费 coupon takes off it → points →
//! prepaid goods → prepaid money → balance → WeChat Pay. Freight is paid with money; points pay for it only if the shop's
//! rules say so, and prepaid goods never do. What is changed about a price after that ([`Adjustment`]) moves only what is left for
//! WeChat Pay.
//!
//! Every deduction is spread over what it applies to in proportion to what is left there, by largest remainder, in fen. Lines are
//! worked on in an order of their own (product, SKU, …), so that no total depends on how the lines were listed.

mod calculate;
mod proof;
mod share;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

pub use proof::{Proof, ProofError, RuleVersion, Step, StepKind, adjust, prove, quote_before, verify};
pub use share::Share;

use crate::money::{AmountError, whole};
use crate::{Code, Fen, Points, ProductId, Refusal, ShopRules, SkuId, TemplateId, Yuan, coupon, freight};

/// One line at the store's price.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    pub product_id: ProductId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sku_id: Option<SkuId>,
    #[serde(default)]
    pub category: String,
    pub price: Fen,
    #[serde(deserialize_with = "whole")]
    pub quantity: i64,
    /// Grams of one piece.
    #[serde(default, deserialize_with = "whole")]
    pub weight_g: i64,
    /// None: sent for nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_id: Option<TemplateId>,
}

/// How freight is found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sending {
    pub templates: Vec<freight::Template>,
    pub to: freight::Destination,
}

/// Prepaid pieces of one product that may be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pieces {
    pub product_id: ProductId,
    #[serde(deserialize_with = "whole")]
    pub pieces: i64,
}

/// How much of a purse is wanted; never more than what is left to pay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum Want {
    /// As much as there is; refused only if there is nothing at all.
    #[serde(rename = "most")]
    Most,
    /// This much.
    #[serde(rename = "amount")]
    Amount { amount: Fen },
    /// All that is left.
    #[serde(rename = "rest")]
    Rest,
}

/// Money that may be used, and how much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Purse {
    pub available: Fen,
    pub want: Want,
}

/// The shop's own numbers that pricing uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rules {
    /// Counts the shop's changes of its rules.
    #[serde(deserialize_with = "whole")]
    pub version: i64,
    /// Fen that one point takes off.
    #[serde(deserialize_with = "whole")]
    pub point_value_fen: i64,
    /// Whether points pay for freight too.
    #[serde(default)]
    pub points_pay_freight: bool,
}

impl From<&ShopRules> for Rules {
    fn from(rules: &ShopRules) -> Self {
        Self { version: 1, point_value_fen: rules.point_value_fen, points_pay_freight: false }
    }
}

/// Everything that a price depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    pub lines: Vec<Line>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coupon: Option<coupon::Held>,
    #[serde(default)]
    pub points: Points,
    /// None: none are to be used. They pay for lines without a SKU, which have the product's own price.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prepaid_goods: Option<Vec<Pieces>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prepaid_money: Option<Purse>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balance: Option<Purse>,
    /// None: nothing has to be sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sending: Option<Sending>,
    pub rules: Rules,
    /// What was changed about the price since, one after another.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adjustments: Vec<Adjustment>,
    /// When it is priced: decides whether the coupon is within its window.
    pub now: DateTime<Utc>,
}

/// A change of a price before it is paid. It moves only what is left for WeChat Pay: what coupon, points, prepaid and balance pay
/// was taken when the order was made and stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all_fields = "camelCase")]
pub enum Adjustment {
    /// Staff lower what is left to pay to this much; every line and the freight bear their part.
    #[serde(rename = "price")]
    Price { to: Fen },
    /// Staff set the freight.
    #[serde(rename = "freight")]
    Freight { to: Fen },
    /// The goods go elsewhere. Where the templates ask for another fee than for the place before, the freight moves by the
    /// difference: what staff set it to is an agreement about the place before.
    #[serde(rename = "place")]
    Place { to: freight::Destination },
}

/// A priced order. Every share adds up, and `total` is the sum of all lines and the freight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Quote {
    /// In the order of the input.
    pub lines: Vec<Share>,
    pub freight: Share,
    pub total: Share,
}

impl Quote {
    /// What coupon, points and staff took off: neither paid nor a tender.
    pub fn discount(&self) -> Result<Fen, AmountError> {
        self.total.discount()
    }
}

/// Prices an order.
///
/// An adjustment that cannot be made is `INVALID_ARGUMENT` on `amount` (with `details.max`), on `freightAmount` (with
/// `details.min`) or on `address`.
///
/// Whether the member *has* the points is not known here; the guarded deduction decides that. Refuses with
/// `INVALID_ARGUMENT` (lines, amounts, points beyond what they may pay for, a place that is not delivered to),
/// `COUPON_NOT_APPLICABLE`, `PREPAID_PRODUCT_MISMATCH`, `PREPAID_INSUFFICIENT`, `BALANCE_INSUFFICIENT`.
pub fn calculate(input: &Input) -> Result<Quote, Refusal> {
    Ok(calculate::run(input, proof::Calculator::NEWEST)?.quote)
}

/// Compares what a buyer was shown with what it costs now; a difference is `AMOUNT_MISMATCH` with each total that differs, in
/// yuan, under the names that [`crate::pricing::check_claim`] uses.
pub fn check_unchanged(shown: &Quote, now: &Quote) -> Result<(), Refusal> {
    let totals = |q: &Quote| {
        [
            ("totalAmount", q.total.amount),
            ("freightAmount", q.freight.amount),
            ("couponDiscount", q.total.coupon_discount),
            ("pointsDiscount", q.total.points_discount),
            ("prepaidGoodsAmount", q.total.prepaid_covered),
            ("prepaidAmount", q.total.prepaid_amount),
            ("balanceAmount", q.total.balance_amount),
            ("paymentAmount", q.total.payment_amount),
        ]
    };
    let pairs = totals(shown).into_iter().zip(totals(now)).filter(|(shown, now)| shown != now);
    let differences: Vec<serde_json::Value> = pairs
        .map(|((field, shown), (_, now))| {
            let (expected, actual) = (Yuan(now).to_string(), Yuan(shown).to_string());
            serde_json::json!({ "field": field, "expected": expected, "actual": actual })
        })
        .collect();
    if differences.is_empty() {
        return Ok(());
    }
    Err(Refusal::new(Code::AmountMismatch).detail("differences", differences))
}

#[cfg(test)]
pub(crate) mod tests;
