//! The rule: which prepaid goods and how much prepaid money an order may use, and what it takes of them. Pure.

use std::collections::BTreeMap;

use domain::quote::{Pieces, Purse, Quote, Want};
use domain::{Code, CustomerId, Fen, PaymentMethod, ProductId, Refusal};
use shop::prepaid::Tender;
use store::members::Member;
use store::prepaid::{PrepaidRecord, PrepaidType};

use crate::decide::too_large;
use crate::input::Command;

/// What a customer's prepaid records offer an order.
pub(crate) struct Offered {
    customer: CustomerId,
    /// None: none are to be used.
    pub(crate) goods: Option<Vec<Pieces>>,
    pub(crate) money: Option<Purse>,
}

impl Offered {
    /// `records` are the customer's, whatever they hold. None if the order is not paid by prepaid.
    pub(crate) fn of(command: &Command, member: &Member, records: &[PrepaidRecord]) -> Result<Option<Self>, Refusal> {
        if !matches!(command.method, PaymentMethod::Prestore | PaymentMethod::Prepaid) {
            return Ok(None);
        }
        let customer = member.customer_id.clone().ok_or_else(|| Refusal::new(Code::CustomerNotFound))?;
        let ids = command.prepaid_record_ids.as_deref();
        if let Some(unknown) = ids.and_then(|ids| ids.iter().find(|id| !records.iter().any(|r| r.id == **id))) {
            return Err(Refusal::invalid("prepaidRecordIds", "没有这条预存记录").detail("recordId", unknown.as_str()));
        }
        let usable: Vec<&PrepaidRecord> =
            records.iter().filter(|r| ids.is_none_or(|ids| ids.contains(&r.id))).collect();
        let by_goods = command.method == PaymentMethod::Prepaid;
        let want = match command.prepaid_amount {
            Some(amount) => Some(Want::Amount { amount }),
            None if by_goods => None,
            None => Some(Want::Most),
        };
        let money = match want {
            Some(want) => Some(Purse { available: money_in(&usable)?, want }),
            None => None,
        };
        Ok(Some(Self { customer, goods: by_goods.then(|| pieces_in(command, &usable)), money }))
    }

    /// What the order takes of it.
    pub(crate) fn tender(self, command: &Command, quote: &Quote) -> Option<Tender> {
        let mut pieces: BTreeMap<ProductId, i64> = BTreeMap::new();
        for (wanted, share) in command.lines.iter().zip(&quote.lines).filter(|(_, s)| s.prepaid_quantity > 0) {
            let sum = pieces.entry(wanted.product_id.clone()).or_default();
            *sum = sum.saturating_add(share.prepaid_quantity);
        }
        let amount = quote.total.prepaid_amount;
        let takes = !pieces.is_empty() || !amount.is_zero();
        takes.then(|| Tender {
            customer: self.customer,
            record_ids: command.prepaid_record_ids.clone(),
            pieces,
            amount,
        })
    }
}

fn money_in(usable: &[&PrepaidRecord]) -> Result<Fen, Refusal> {
    let money = usable.iter().filter(|r| r.prepaid_type == PrepaidType::Amount);
    Fen::new(money.fold(0i64, |sum, r| sum.saturating_add(r.balance))).map_err(|_| too_large())
}

/// The pieces of wanted products, by product.
fn pieces_in(command: &Command, usable: &[&PrepaidRecord]) -> Vec<Pieces> {
    let mut there: BTreeMap<&ProductId, i64> = BTreeMap::new();
    for record in usable.iter().filter(|r| r.prepaid_type == PrepaidType::Product) {
        let product = record.product_id.as_ref();
        if let Some(product) = product.filter(|p| command.lines.iter().any(|l| l.product_id == **p)) {
            let sum = there.entry(product).or_default();
            *sum = sum.saturating_add(record.balance);
        }
    }
    there.into_iter().map(|(product, pieces)| Pieces { product_id: product.clone(), pieces }).collect()
}
