//! The rule: which prepaid goods and how much prepaid money an order uses. Pure.

use std::collections::BTreeMap;

use domain::prepaid::covered_value;
use domain::pricing::Quote;
use domain::{Code, Fen, PaymentMethod, ProductId, Refusal};
use shop::prepaid::Tender;
use store::members::Member;
use store::prepaid::{PrepaidRecord, PrepaidType};

use crate::decide::too_large;
use crate::input::Command;

/// What prepaid goods pay of one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Covered {
    pub(crate) quantity: i64,
    /// Out of the line's payable amount.
    pub(crate) value: Fen,
}

/// What prepaid pays of an order.
pub(crate) struct Prepaid {
    pub(crate) lines: Vec<Covered>,
    pub(crate) amount: Fen,
    pub(crate) tender: Option<Tender>,
}

impl Prepaid {
    pub(crate) fn goods_value(&self) -> Result<Fen, Refusal> {
        Fen::sum(self.lines.iter().map(|l| l.value)).map_err(|_| too_large())
    }

    pub(crate) fn total(&self) -> Result<Fen, Refusal> {
        self.goods_value()?.checked_add(self.amount).map_err(|_| too_large())
    }
}

/// Goods first, then money. `records` are the customer's, whatever they hold.
pub(crate) fn decide(
    command: &Command,
    quote: &Quote,
    member: &Member,
    records: &[PrepaidRecord],
) -> Result<Prepaid, Refusal> {
    let nothing = Covered { quantity: 0, value: Fen::ZERO };
    let mut prepaid = Prepaid { lines: vec![nothing; command.lines.len()], amount: Fen::ZERO, tender: None };
    if !matches!(command.method, PaymentMethod::Prestore | PaymentMethod::Prepaid) {
        return Ok(prepaid);
    }
    let customer = member.customer_id.clone().ok_or_else(|| Refusal::new(Code::CustomerNotFound))?;
    let ids = command.prepaid_record_ids.as_deref();
    if let Some(unknown) = ids.and_then(|ids| ids.iter().find(|id| !records.iter().any(|r| r.id == **id))) {
        return Err(Refusal::invalid("prepaidRecordIds", "没有这条预存记录").detail("recordId", unknown.as_str()));
    }
    let usable: Vec<&PrepaidRecord> = records.iter().filter(|r| ids.is_none_or(|ids| ids.contains(&r.id))).collect();

    let mut pieces: BTreeMap<ProductId, i64> = BTreeMap::new();
    if command.method == PaymentMethod::Prepaid {
        pieces = cover(command, quote, &usable, &mut prepaid.lines)?;
    }
    let left = quote.payable.checked_sub(prepaid.goods_value()?).map_err(|_| too_large())?;
    prepaid.amount = money(command, left, &usable)?;
    if !pieces.is_empty() || !prepaid.amount.is_zero() {
        let (record_ids, amount) = (command.prepaid_record_ids.clone(), prepaid.amount);
        prepaid.tender = Some(Tender { customer, record_ids, pieces, amount });
    }
    Ok(prepaid)
}

/// Covers lines in their order with the pieces there are. Pieces of a product do not pay for its SKUs, which have prices of
/// their own.
fn cover(
    command: &Command,
    quote: &Quote,
    usable: &[&PrepaidRecord],
    lines: &mut [Covered],
) -> Result<BTreeMap<ProductId, i64>, Refusal> {
    let mut there: BTreeMap<&ProductId, i64> = BTreeMap::new();
    for record in usable.iter().filter(|r| r.prepaid_type == PrepaidType::Product) {
        if let Some(product) = &record.product_id {
            let sum = there.entry(product).or_default();
            *sum = sum.saturating_add(record.balance);
        }
    }
    let mut used: BTreeMap<ProductId, i64> = BTreeMap::new();
    let mut matched = false;
    for ((wanted, priced), covered) in command.lines.iter().zip(&quote.lines).zip(lines) {
        let Some(left) = there.get_mut(&wanted.product_id).filter(|_| wanted.sku_id.is_none()) else { continue };
        matched = true;
        let quantity = wanted.quantity.min(*left);
        if quantity > 0 {
            *left = left.saturating_sub(quantity);
            *covered = Covered { quantity, value: covered_value(priced.payable, quantity, wanted.quantity) };
            used.insert(wanted.product_id.clone(), quantity);
        }
    }
    match (matched, used.is_empty()) {
        (false, _) => Err(Refusal::new(Code::PrepaidProductMismatch)),
        (true, true) => Err(Refusal::new(Code::PrepaidInsufficient).with_message("预存商品数量不足")),
        (true, false) => Ok(used),
    }
}

/// The prepaid money to use of what is left to pay.
fn money(command: &Command, left: Fen, usable: &[&PrepaidRecord]) -> Result<Fen, Refusal> {
    let there =
        usable.iter().filter(|r| r.prepaid_type == PrepaidType::Amount).fold(0i64, |s, r| s.saturating_add(r.balance));
    let there = Fen::new(there).map_err(|_| too_large())?;
    let insufficient = || {
        let (required, available) = (domain::Yuan(command.prepaid_amount.unwrap_or(left)), domain::Yuan(there));
        Refusal::new(Code::PrepaidInsufficient)
            .detail("required", required.to_string())
            .detail("available", available.to_string())
    };
    match (command.method, command.prepaid_amount) {
        (PaymentMethod::Prepaid, None) => Ok(Fen::ZERO),
        (_, None) if there.is_zero() && !left.is_zero() => Err(insufficient()),
        (_, None) => Ok(left.min(there)),
        (_, Some(wanted)) if wanted.min(left) > there => Err(insufficient()),
        (_, Some(wanted)) => Ok(wanted.min(left)),
    }
}
