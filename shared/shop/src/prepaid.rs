//! Prepaid money and goods (预存): putting in, taking for an order, giving back, and correcting by hand.
//!
//! A deduction's row has a natural key – the order, the type and the product – so that an order takes once, however often it is
//! asked for. Several records pay oldest first, all or nothing unless a part is allowed.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use domain::prepaid::{draw, drawn};
use domain::{Code, CustomerId, Fen, ProductId, Refusal};
use store::book::{self, Entry, Posting};
use store::customers::Customer;
use store::prepaid::{
    DeductionDetail, DeductionStatus, LinkStatus, PrepaidChange, PrepaidDeduction, PrepaidRecord, PrepaidType,
};
use store::{Error, Tx, crashpoint};

/// What is to be taken. `amount` is fen for money, pieces for goods, at least 1.
#[derive(Clone, Copy, Debug)]
pub struct Deduct<'a> {
    pub customer: &'a CustomerId,
    pub order_id: &'a str,
    pub prepaid_type: PrepaidType,
    /// Required for goods.
    pub product: Option<&'a ProductId>,
    pub amount: i64,
    /// Only these records may pay.
    pub record_ids: Option<&'a [String]>,
    /// Take what is there, if it is anything; for money only.
    pub allow_partial: bool,
}

/// The entry that takes for one order, type and product outside of our own orders.
pub fn deduct_key(deduction_id: &str) -> String {
    format!("prepaid:{deduction_id}:deduct")
}

/// The refusal when records do not hold enough. `available` and `wanted` are in the asset's unit.
fn insufficient(prepaid_type: PrepaidType, wanted: i64, available: i64) -> Error {
    let refusal = Refusal::new(Code::PrepaidInsufficient).detail("prepaidType", prepaid_type.as_str());
    let say = |n: i64| match prepaid_type {
        PrepaidType::Amount => Fen::new(n).map_or_else(|_| n.to_string(), |fen| domain::Yuan(fen).to_string()),
        PrepaidType::Product => n.to_string(),
    };
    refusal.detail("required", say(wanted)).detail("available", say(available)).into()
}

/// One deduction that is about to be booked: its row, and its legs.
struct Planned {
    row: PrepaidDeduction,
    legs: Vec<Posting>,
}

async fn plan(tx: &mut Tx, deduct: &Deduct<'_>, entry_id: &str, now: DateTime<Utc>) -> Result<Planned, Error> {
    let asset = deduct.prepaid_type.asset(deduct.product);
    let records = tx.paying_records(deduct.customer, &asset, deduct.record_ids).await?;
    let balances: Vec<i64> = records.iter().map(|r| r.balance).collect();
    let draws = draw(&balances, deduct.amount);
    let taken = drawn(&draws);
    let partly = deduct.allow_partial && deduct.prepaid_type == PrepaidType::Amount && taken > 0;
    if taken < deduct.amount && !partly {
        return Err(insufficient(deduct.prepaid_type, deduct.amount, taken));
    }
    let drawn_from = || draws.iter().filter_map(|d| records.get(d.index).map(|r| (r, d)));
    let legs = drawn_from()
        .map(|(r, d)| Posting {
            account: PrepaidRecord::account(&r.id),
            asset: asset.clone(),
            amount: d.take.saturating_neg(),
        })
        .collect();
    let details = drawn_from()
        .map(|(r, d)| DeductionDetail {
            record_id: r.id.clone(),
            before: d.before,
            deducted: d.take,
            after: d.before.saturating_sub(d.take),
        })
        .collect();
    let row = PrepaidDeduction {
        id: PrepaidDeduction::key(deduct.order_id, deduct.prepaid_type, deduct.product),
        customer_id: deduct.customer.clone(),
        order_id: deduct.order_id.to_owned(),
        prepaid_type: deduct.prepaid_type,
        product_id: deduct.product.cloned(),
        total_amount: deduct.amount,
        deducted_amount: taken,
        details,
        refunds: Vec::new(),
        status: DeductionStatus::Deducted,
        entry_id: entry_id.to_owned(),
        created_at: now,
        restored_at: None,
    };
    Ok(Planned { row, legs })
}

/// Takes once per order, type and product. A repeat with the same amount answers the first row and `true`; with another amount,
/// or after it was given back, `CONFLICT`. `PREPAID_INSUFFICIENT` writes nothing.
pub async fn deduct(tx: &mut Tx, deduct: &Deduct<'_>, now: DateTime<Utc>) -> Result<(PrepaidDeduction, bool), Error> {
    let id = PrepaidDeduction::key(deduct.order_id, deduct.prepaid_type, deduct.product);
    if let Some(earlier) = tx.prepaid_deduction(&id).await? {
        let same = earlier.customer_id == *deduct.customer
            && earlier.total_amount == deduct.amount
            && earlier.status == DeductionStatus::Deducted;
        return if same { Ok((earlier, true)) } else { Err(Code::Conflict.into()) };
    }
    let planned = plan(tx, deduct, &deduct_key(&id), now).await?;
    let asset = deduct.prepaid_type.asset(deduct.product);
    let mut entry = Entry::new(deduct_key(&id), now);
    entry.postings = planned.legs;
    entry.postings.push(Posting::system(book::PREPAID_USED, &asset, planned.row.deducted_amount));
    tx.post(&entry).await?;
    crashpoint("deduct.inside").await;
    tx.insert_prepaid_deduction(&planned.row).await?;
    Ok((planned.row, false))
}

/// Gives back everything that [`deduct`] took under this key, to the records it came from. `NOT_FOUND` if nothing was taken;
/// repeating it changes nothing and answers `true`.
pub async fn restore(tx: &mut Tx, id: &str, now: DateTime<Utc>) -> Result<(PrepaidDeduction, bool), Error> {
    let row = tx.prepaid_deduction(id).await?.ok_or(Code::NotFound)?;
    if row.status == DeductionStatus::Restored {
        return Ok((row, true));
    }
    if row.entry_id != deduct_key(id) {
        let message = "这笔扣减属于商城订单，请取消或退款该订单";
        return Err(Refusal::new(Code::Conflict).with_message(message).into());
    }
    let entry = tx.entry(&row.entry_id).await?.ok_or_else(|| Error::Invariant(format!("no entry {}", row.entry_id)))?;
    tx.post(&entry.reversal(format!("prepaid:{id}:restore"), now)).await?;
    crashpoint("restore.inside").await;
    tx.mark_deductions_restored(&row.entry_id, &row.order_id, now).await?;
    Ok((PrepaidDeduction { status: DeductionStatus::Restored, restored_at: Some(now), ..row }, false))
}

/// Prepaid money and goods that one of our orders uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tender {
    pub customer: CustomerId,
    pub record_ids: Option<Vec<String>>,
    /// Pieces by product.
    pub pieces: BTreeMap<ProductId, i64>,
    pub amount: Fen,
}

/// The legs and rows of an order's prepaid tender, for its tender entry. Exactly what was decided, or `PREPAID_INSUFFICIENT`.
pub async fn tender(
    tx: &mut Tx,
    tender: &Tender,
    order_id: &str,
    entry_id: &str,
    now: DateTime<Utc>,
) -> Result<Vec<Posting>, Error> {
    let take = |prepaid_type, product, amount| Deduct {
        customer: &tender.customer,
        order_id,
        prepaid_type,
        product,
        amount,
        record_ids: tender.record_ids.as_deref(),
        allow_partial: false,
    };
    let mut wanted: Vec<Deduct<'_>> =
        tender.pieces.iter().map(|(product, n)| take(PrepaidType::Product, Some(product), *n)).collect();
    if !tender.amount.is_zero() {
        wanted.push(take(PrepaidType::Amount, None, tender.amount.get()));
    }
    let mut postings = Vec::new();
    for deduct in &wanted {
        let planned = plan(tx, deduct, entry_id, now).await?;
        let asset = deduct.prepaid_type.asset(deduct.product);
        // Money becomes a sale; goods were sold when they were prepaid.
        let other = if deduct.prepaid_type == PrepaidType::Amount { book::SALES } else { book::PREPAID_USED };
        postings.extend(planned.legs);
        postings.push(Posting::system(other, &asset, planned.row.deducted_amount));
        tx.insert_prepaid_deduction(&planned.row).await?;
    }
    Ok(postings)
}

/// A new record. `amount` is fen or pieces, at least 1.
#[derive(Clone, Debug)]
pub struct Deposit {
    pub record_id: String,
    pub prepaid_type: PrepaidType,
    pub amount: i64,
    pub product: Option<ProductId>,
    pub product_name: Option<String>,
    pub remark: String,
}

/// Puts money or goods in for a customer. A linked customer's record is linked at once. `CUSTOMER_NOT_FOUND`.
pub async fn deposit(
    tx: &mut Tx,
    customer: &CustomerId,
    deposit: &Deposit,
    now: DateTime<Utc>,
) -> Result<PrepaidRecord, Error> {
    // A link or a merge at the same time would not see the new record, and it would not see them.
    if !tx.hold_customer(customer, now).await? {
        return Err(Code::CustomerNotFound.into());
    }
    let customer: Customer = tx.customer(customer).await?.filter(Customer::is_active).ok_or(Code::CustomerNotFound)?;
    let asset = deposit.prepaid_type.asset(deposit.product.as_ref());
    let linked = customer.linked_user_id.is_some();
    let record = PrepaidRecord {
        id: deposit.record_id.clone(),
        customer_id: customer.id,
        prepaid_type: deposit.prepaid_type,
        asset: asset.clone(),
        balance: 0,
        product_id: deposit.product.clone(),
        product_name: deposit.product_name.clone(),
        remark: deposit.remark.clone(),
        linked_user_id: customer.linked_user_id,
        link_time: linked.then_some(now),
        link_status: if linked { LinkStatus::Linked } else { LinkStatus::Unlinked },
        created_at: now,
    };
    tx.insert_prepaid_record(&record).await?;
    let account = PrepaidRecord::account(&record.id);
    let entry = Entry::new(format!("prepaid:{}:deposit", record.id), now).transfer(
        &asset,
        book::DEPOSITS,
        &account,
        deposit.amount,
    );
    tx.post(&entry).await?;
    Ok(PrepaidRecord { balance: deposit.amount, ..record })
}

/// How a record of goods is corrected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Correction {
    Increase(i64),
    Decrease(i64),
    Set(i64),
}

/// Corrects the pieces of a record by hand, under `entry_id`. `NOT_FOUND`, `PREPAID_PRODUCT_MISMATCH` on a record of money,
/// `PREPAID_INSUFFICIENT` below zero. A correction that changes nothing is booked as nothing but has its row.
pub async fn correct(
    tx: &mut Tx,
    record_id: &str,
    correction: Correction,
    reason: &str,
    entry_id: &str,
    now: DateTime<Utc>,
) -> Result<PrepaidChange, Error> {
    let record = tx.prepaid_record(record_id).await?.ok_or(Code::NotFound)?;
    if record.prepaid_type != PrepaidType::Product {
        return Err(Code::PrepaidProductMismatch.into());
    }
    let (update_type, change) = match correction {
        Correction::Increase(n) => ("increase", n),
        Correction::Decrease(n) => ("decrease", n.saturating_neg()),
        Correction::Set(n) => ("set", n.saturating_sub(record.balance)),
    };
    if record.balance.saturating_add(change) < 0 {
        return Err(insufficient(PrepaidType::Product, change.saturating_neg(), record.balance));
    }
    let account = PrepaidRecord::account(&record.id);
    let entry = Entry::new(entry_id, now).transfer(&record.asset, book::DEPOSITS, &account, change);
    tx.post(&entry).await?;
    let row = PrepaidChange {
        id: entry_id.to_owned(),
        record_id: record.id,
        customer_id: record.customer_id,
        update_type: update_type.to_owned(),
        change,
        balance: record.balance.saturating_add(change),
        reason: reason.to_owned(),
        entry_id: entry_id.to_owned(),
        created_at: now,
    };
    tx.insert_prepaid_change(&row).await?;
    Ok(row)
}
