//! The rules of the audit as functions over documents that were read: what does not fit, in words.

use std::collections::{BTreeMap, HashMap};

use domain::quote::{self, Proof, Share};
use domain::{Fen, OrderStatus, OrderType};

use super::{ORDER_REASONS, SYSTEM_ACCOUNTS, key};
use crate::book::{self, Entry, Posting};
use crate::coins;
use crate::members::StockRecord;
use crate::orders::{Order, OrderItem};
use crate::outbox::{OutboxItem, OutboxStatus};
use crate::payments::{ExceptionStatus, Payment, PaymentException, PaymentStatus};
use crate::prepaid::{DeductionStatus, PrepaidDeduction, PrepaidRecord, PrepaidType};

/// What is wrong with an entry by itself.
pub(super) fn entry_faults(entry: &Entry, originals: &[Entry]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut sums: BTreeMap<&str, i128> = BTreeMap::new();
    for posting in &entry.postings {
        let sum = sums.entry(&posting.asset).or_default();
        *sum = sum.saturating_add(i128::from(posting.amount));
        let kind = posting.asset.split(':').next().unwrap_or_default();
        let known = posting.account == book::OPENING
            || !posting.account.starts_with('@')
            || SYSTEM_ACCOUNTS.contains(&(posting.account.as_str(), kind));
        if !known {
            faults.push(format!("{} does not hold {}", posting.account, posting.asset));
        }
    }
    faults.extend(
        sums.iter().filter(|(_, sum)| **sum != 0).map(|(asset, sum)| format!("the entry is off by {sum} {asset}")),
    );
    if let Some(id) = &entry.reverses {
        match originals.iter().find(|o| o.id == *id) {
            None => faults.push("the entry reverses one that is not there".to_owned()),
            Some(original) if legs(&original.reversal("", entry.at)) != legs(entry) => {
                faults.push("the entry is not the reverse of its original".to_owned());
            }
            Some(_) => {}
        }
    }
    if entry.void && !entry.postings.is_empty() {
        faults.push("a void entry moves something".to_owned());
    }
    faults
}

/// An entry's legs as a set that can be compared: one sum per account and asset.
pub(super) fn legs(entry: &Entry) -> BTreeMap<(&str, &str), i64> {
    let mut legs: BTreeMap<(&str, &str), i64> = BTreeMap::new();
    for posting in &entry.postings {
        let sum = legs.entry((&posting.account, &posting.asset)).or_default();
        *sum = sum.saturating_add(posting.amount);
    }
    legs.retain(|_, amount| *amount != 0);
    legs
}

/// What does not add up in an order by itself.
pub(super) fn amounts_off(order: &Order) -> Vec<String> {
    let sum = |f: fn(&OrderItem) -> i64| order.items.iter().fold(0i64, |s, l| s.saturating_add(f(l)));
    let mut off = Vec::new();
    let mut check = |what: &str, left: i64, right: i64| {
        if left != right {
            off.push(format!("{what}: {left} is not {right}"));
        }
    };
    let (total, discount) = (order.total_amount.get(), order.discount_amount.get());
    let by_prepaid = order.prepaid_goods_amount.get().saturating_add(order.prepaid_amount.get());
    let tenders = by_prepaid.saturating_add(order.balance_amount.get()).saturating_add(order.payment_amount.get());
    check("prepaid goods = sum of lines", order.prepaid_goods_amount.get(), sum(|l| l.prepaid_covered.get()));
    let freight = order.freight_amount.get();
    let freight_off = freight_off(order);
    check("total = discount + tenders", total, discount.saturating_add(tenders));
    check("total = sum of lines + freight", total, sum(|l| l.amount.get()).saturating_add(freight));
    check("discount = sum of lines + freight", discount, sum(off_line).saturating_add(freight_off));
    let payable = sum(|l| l.payable.get()).saturating_add(freight).saturating_sub(freight_off);
    check("tenders = sum of payable + freight", tenders, payable);
    let mall = order.order_type == OrderType::PointsMall;
    if mall {
        check("a points-mall order costs no money", total, 0);
        check("a points-mall order costs points", order.points_used.get().min(1), 1);
    }
    check("coins are used in the points mall and nowhere else", order.coins_used.min(1), i64::from(mall));
    let grants = was_paid(order) && !mall && order.items.iter().any(|l| l.grants_coin);
    check("coins earned by what grants one", order.coins_earned, i64::from(grants));
    for line in &order.items {
        check("line amount", line.amount.get(), line.price.get().saturating_mul(line.quantity));
        check("line payable", line.payable.get(), line.amount.get().saturating_sub(off_line(line)));
    }
    off
}

/// What coupon, points and staff took off a line.
fn off_line(line: &OrderItem) -> i64 {
    [line.coupon_discount, line.points_discount, line.staff_discount]
        .iter()
        .fold(0, |sum, f| sum.saturating_add(f.get()))
}

/// What they took off the freight: only the price proof tells.
fn freight_off(order: &Order) -> i64 {
    let share = order.price_proof.as_ref().map(|p| p.quote.freight).unwrap_or_default();
    [share.coupon_discount, share.points_discount, share.staff_discount]
        .iter()
        .fold(0, |sum, f| sum.saturating_add(f.get()))
}

/// Where an order's price does not follow from its proof, or its amounts are not those of the proof.
pub(super) fn price_off(order: &Order) -> Vec<String> {
    let Some(proof) = &order.price_proof else { return Vec::new() };
    let mut off = Vec::new();
    if let Err(error) = quote::verify(proof) {
        off.push(format!("the price does not follow from its proof: {error}"));
    }
    let total = &proof.quote.total;
    let totals = Share {
        amount: order.total_amount,
        coupon_discount: total.coupon_discount,
        points_used: order.points_used,
        points_discount: Fen::sum([total.coupon_discount, total.staff_discount])
            .and_then(|others| order.discount_amount.checked_sub(others))
            .unwrap_or_default(),
        staff_discount: total.staff_discount,
        prepaid_quantity: order.items.iter().fold(0i64, |sum, l| sum.saturating_add(l.prepaid_quantity)),
        prepaid_covered: order.prepaid_goods_amount,
        prepaid_amount: order.prepaid_amount,
        balance_amount: order.balance_amount,
        payment_amount: order.payment_amount,
        coins_used: order.coins_used,
    };
    if totals != *total || order.freight_amount != proof.quote.freight.amount {
        off.push("the order's amounts are not those of its price proof".to_owned());
    }
    let lines = proof.input.lines.iter().zip(&proof.quote.lines);
    let same = |(item, (line, share)): (&OrderItem, (&quote::Line, &Share))| {
        (&item.product_id, &item.sku_id, item.price, item.quantity)
            == (&line.product_id, &line.sku_id, line.price, line.quantity)
            && (item.amount, item.coupon_discount, item.points_discount, item.staff_discount)
                == (share.amount, share.coupon_discount, share.points_discount, share.staff_discount)
            && (item.prepaid_quantity, item.prepaid_covered) == (share.prepaid_quantity, share.prepaid_covered)
    };
    let counts = (order.items.len(), order.items.len());
    if counts != (proof.input.lines.len(), proof.quote.lines.len()) || !order.items.iter().zip(lines).all(same) {
        off.push("the order's lines are not those of its price proof".to_owned());
    }
    off.extend(changes_off(order, proof));
    off
}

/// Where what was changed about an order's price is not what its proof adjusts, step by step.
fn changes_off(order: &Order, proof: &Proof) -> Vec<String> {
    let mut off = Vec::new();
    if !order.adjustments.iter().map(|c| &c.change).eq(&proof.input.adjustments) {
        off.push("the changes of the price are not those of its proof".to_owned());
    }
    for (i, change) in order.adjustments.iter().enumerate() {
        let next = order.adjustments.get(i.saturating_add(1)).map_or(order.payment_amount, |c| c.payment_before);
        if change.payment_after != next {
            off.push("a change of the price does not begin where the one before ended".to_owned());
        }
        // Without the changes from here on, the price was what this one found.
        let before = quote::quote_before(proof, i).map(|quote| quote.total.payment_amount);
        if before != Ok(change.payment_before) {
            off.push("a change of the price began at another one than its proof gives".to_owned());
        }
    }
    off
}

/// Whether an order asked for this much at some time.
fn was_asked(order: &Order, amount: Fen) -> bool {
    order.payment_amount == amount || order.adjustments.iter().any(|c| c.payment_before == amount)
}

/// What does not fit between an order's state and when it completed.
pub(super) fn completion_off(order: &Order) -> Option<&'static str> {
    if order.completed_at.is_some() != (order.status == OrderStatus::Completed) {
        return Some("a completed order knows when, and no other does");
    }
    let shipped = order.shipping.as_ref().map(|s| s.shipped_at);
    (order.completed_at < shipped.filter(|_| order.completed_at.is_some()))
        .then_some("the order was completed before it was shipped")
}

/// Whether an order was ever paid. A points-mall order is paid when it is made, and may be closed after that.
fn was_paid(order: &Order) -> bool {
    order.status.is_paid() || (order.order_type == OrderType::PointsMall && order.status == OrderStatus::Closed)
}

/// Stands for all the lots from which an order's coins come: the order does not know them.
pub(super) const LOTS: &str = "activityCoinLots";

/// Legs with the coin lots taken together.
pub(super) fn pooled<'a>(legs: BTreeMap<(&'a str, &'a str), i64>) -> BTreeMap<(&'a str, &'a str), i64> {
    let mut pooled: BTreeMap<(&str, &str), i64> = BTreeMap::new();
    for ((account, asset), amount) in legs {
        let account = if account.starts_with("activityCoinLots/") { LOTS } else { account };
        let sum = pooled.entry((account, asset)).or_default();
        *sum = sum.saturating_add(amount);
    }
    pooled
}

/// The entries that an order's state calls for; the carried remainder is left out, because it depends on what came before.
pub(super) fn expected_entries(order: &Order, deductions: &[&PrepaidDeduction]) -> BTreeMap<&'static str, Entry> {
    let member = |field: &str| book::member_account(&order.user_id, field);
    let entry = |reason: &str| Entry::new(key(&order.id, reason), order.created_at);
    let (mut reserve, mut settle) = (
        entry("reserve"),
        entry("settle").transfer("fen", book::WECHAT, book::SALES, order.payment_amount.get()).transfer(
            "points",
            book::ISSUED,
            &member("points"),
            order.points_earned.get(),
        ),
    );
    settle = settle.transfer(coins::ASSET, book::COINS_ISSUED, &order_coins(order), order.coins_earned);
    for line in &order.items {
        let sku = line.sku_id.as_ref().map(|s| s.as_str());
        let shelf = Posting::stock(line.product_id.as_str(), sku, line.quantity.saturating_neg());
        let asset = shelf.asset.clone();
        // The pieces of a right to buy left the shelf when it was granted.
        let from = match order.qualification_id {
            Some(_) => Posting::system(book::QUALIFIED, &asset, shelf.amount),
            None => shelf,
        };
        reserve.postings.extend([from, Posting::system(book::RESERVED, &asset, line.quantity)]);
        settle = settle.transfer(&asset, book::RESERVED, book::SOLD, line.quantity);
    }
    let mut tender = entry("tender")
        .transfer("points", &member("points"), book::REDEEMED, order.points_used.get())
        .transfer("fen", &member("balance"), book::SALES, order.balance_amount.get())
        .transfer(coins::ASSET, LOTS, book::COINS_SPENT, order.coins_used);
    for row in deductions {
        let asset = row.prepaid_type.asset(row.product_id.as_ref());
        let other = if row.prepaid_type == PrepaidType::Amount { book::SALES } else { book::PREPAID_USED };
        for detail in &row.details {
            tender = tender.transfer(&asset, &PrepaidRecord::account(&detail.record_id), other, detail.deducted);
        }
    }
    let mut expected = BTreeMap::new();
    if order.status == OrderStatus::Closed {
        expected.insert("reserve-reversal", reserve.reversal("", order.created_at));
        if !tender.postings.is_empty() {
            expected.insert("tender-reversal", tender.reversal("", order.created_at));
        }
    }
    if was_paid(order) {
        if order.status == OrderStatus::Closed {
            expected.insert("settle-reversal", settle.reversal("", order.created_at));
        }
        expected.insert("settle", settle);
    }
    if !tender.postings.is_empty() {
        expected.insert("tender", tender);
    }
    expected.insert("reserve", reserve);
    expected
}

/// The account of the coin that an order granted.
fn order_coins(order: &Order) -> String {
    coins::CoinLot::account(&format!("order:{}", order.id))
}

/// Where the book, the attempts and the stock records do not match an order's state.
pub(super) fn effects_off(
    order: &Order,
    entries: &HashMap<&str, &Entry>,
    payments: &[&Payment],
    records: &[&StockRecord],
    deductions: &[&PrepaidDeduction],
) -> Vec<String> {
    let mut off = Vec::new();
    if let Some(message) = tender_off(order, deductions) {
        off.push(message.to_owned());
    }
    let expected = expected_entries(order, deductions);
    // Taking a coin back is no matter of the order's state; the lots are checked with it.
    for reason in ORDER_REASONS.into_iter().filter(|r| *r != "coin-revoke") {
        let found = entries.get(key(&order.id, reason).as_str()).filter(|e| !e.void);
        match (expected.get(reason), found) {
            (None, None) => {}
            (Some(_), None) => off.push(format!("the entry {reason} is missing")),
            (None, Some(_)) => off.push(format!("the entry {reason} does not fit the state {}", order.status.as_str())),
            (Some(expected), Some(found)) => {
                let mut found_legs = legs(found);
                found_legs.retain(|(_, asset), _| *asset != "spend");
                if reason.starts_with("tender") {
                    found_legs = pooled(found_legs);
                }
                if found_legs != legs(expected) {
                    off.push(format!("the entry {reason} books something else than the order says"));
                }
            }
        }
    }
    let paid_by: Vec<&&Payment> = payments.iter().filter(|p| p.status == PaymentStatus::Paid).collect();
    let by_wechat = order.status.is_paid() && order.payment_amount.get() > 0;
    let fits = |p: &&&Payment| {
        p.transaction_id.is_some() && p.transaction_id == order.transaction_id && p.amount == order.payment_amount
    };
    if paid_by.len() != usize::from(by_wechat) || !paid_by.iter().all(fits) {
        off.push(
            "a paid order needs exactly one paid attempt with its amount and transaction, any other none".to_owned(),
        );
    }
    if order.transaction_id.is_some() != by_wechat || order.paid_at.is_some() != was_paid(order) {
        off.push("the payment's time or transaction does not fit the state".to_owned());
    }
    if payments.iter().any(|p| p.user_id != order.user_id || p.open_id != order.open_id) {
        off.push("an attempt to pay it belongs to somebody else".to_owned());
    }
    if order.status == OrderStatus::Closed && payments.iter().any(|p| p.status.is_open()) {
        off.push("an attempt to pay a closed order is open".to_owned());
    }
    let settle = key(&order.id, "settle");
    let back = format!("{settle}-reversal");
    let moves = |entry: &str, kind: &str, line: &OrderItem| {
        records.iter().any(|r| {
            r.id == format!("{entry}:{}", line.line_id)
                && (r.entry_id.as_str(), r.record_type.as_str()) == (entry, kind)
                && (&r.product_id, &r.sku_id, r.quantity) == (&line.product_id, &line.sku_id, line.quantity)
        })
    };
    let out = if was_paid(order) { order.items.as_slice() } else { &[] };
    let came_back = if order.status == OrderStatus::Closed { out } else { &[] };
    if records.len() != out.len().saturating_add(came_back.len())
        || !out.iter().all(|line| moves(&settle, "out", line))
        || !came_back.iter().all(|line| moves(&back, "in", line))
    {
        off.push("the stock records do not match the lines".to_owned());
    }
    let products = order.shelf_products();
    let waits = !order.stock_release.is_empty();
    if waits && (order.status != OrderStatus::Closed || order.stock_release.iter().any(|p| !products.contains(p))) {
        off.push("stock waits for release that the order does not hold".to_owned());
    }
    off
}

/// Whether the prepaid rows of an order are what its amounts and lines say.
pub(super) fn tender_off(order: &Order, deductions: &[&PrepaidDeduction]) -> Option<&'static str> {
    let closed = order.status == OrderStatus::Closed;
    let fits = |d: &&PrepaidDeduction| {
        let restored = closed || d.refunded() == d.deducted_amount;
        d.entry_id == key(&order.id, "tender")
            && Some(&d.customer_id) == order.customer_id.as_ref()
            && (d.status == DeductionStatus::Restored) == restored
    };
    if !deductions.iter().all(fits) {
        return Some("a prepaid deduction belongs to another entry, customer or state");
    }
    let mut taken: BTreeMap<Option<&str>, i64> = BTreeMap::new();
    for row in deductions {
        let sum = taken.entry(row.product_id.as_ref().map(|p| p.as_str())).or_default();
        *sum = sum.saturating_add(row.deducted_amount);
    }
    let mut wanted: BTreeMap<Option<&str>, i64> = BTreeMap::new();
    wanted.insert(None, order.prepaid_amount.get());
    for line in &order.items {
        let sum = wanted.entry(Some(line.product_id.as_str())).or_default();
        *sum = sum.saturating_add(line.prepaid_quantity);
    }
    wanted.retain(|_, n| *n != 0);
    (taken != wanted).then_some("the prepaid deductions are not what the order used")
}

/// What an entry posts on one account.
pub(super) fn posted_on(entry: &Entry, account: &str) -> i64 {
    entry.postings.iter().filter(|p| p.account == account).fold(0i64, |sum, p| sum.saturating_add(p.amount))
}

/// The entry that gives a deduction back, if it was.
pub(super) fn given_back(row: &PrepaidDeduction) -> String {
    if row.entry_id.starts_with("order:") {
        format!("{}-reversal", row.entry_id)
    } else {
        format!("prepaid:{}:restore", row.id)
    }
}

/// What does not add up in a deduction, and where it differs from the book.
pub(super) fn deduction_off<'e>(
    row: &PrepaidDeduction,
    entry_of: impl Fn(&str) -> Option<&'e Entry>,
) -> Vec<&'static str> {
    let (entry, reversed) = (entry_of(&row.entry_id), entry_of(&given_back(row)).is_some());
    let given_back = reversed || (!row.refunds.is_empty() && row.refunded() == row.deducted_amount);
    let mut off = Vec::new();
    let per_record = |record: &str| {
        let parts = row.refunds.iter().flat_map(|r| &r.details).filter(|d| d.record_id == record);
        parts.fold(0i64, |sum, part| sum.saturating_add(part.amount))
    };
    if (reversed && !row.refunds.is_empty()) || row.details.iter().any(|d| per_record(&d.record_id) > d.deducted) {
        off.push("more was given back than was taken");
    }
    for refund in &row.refunds {
        let sum = refund.details.iter().fold(0i64, |sum, d| sum.saturating_add(d.amount));
        let booked = entry_of(&refund.entry_id).is_some_and(|entry| {
            refund.details.iter().all(|d| posted_on(entry, &PrepaidRecord::account(&d.record_id)) == d.amount)
        });
        let known = refund.details.iter().all(|d| row.details.iter().any(|t| t.record_id == d.record_id));
        if sum != refund.amount || refund.amount < 1 || !booked || !known {
            off.push("a refund gave back something else than the row says");
        }
    }
    let sum = row.details.iter().fold(0i64, |sum, d| sum.saturating_add(d.deducted));
    if sum != row.deducted_amount || row.deducted_amount > row.total_amount {
        off.push("the details do not add up to what was taken");
    }
    if row.details.iter().any(|d| d.before.saturating_sub(d.deducted) != d.after || d.deducted <= 0 || d.after < 0) {
        off.push("a detail does not add up");
    }
    let taken = |e: &Entry| {
        row.details.iter().all(|d| posted_on(e, &PrepaidRecord::account(&d.record_id)) == d.deducted.saturating_neg())
    };
    if !entry.is_some_and(taken) {
        off.push("the book did not take what the row says");
    }
    if given_back != (row.status == DeductionStatus::Restored) || row.restored_at.is_some() != given_back {
        off.push("given back in the book and not in the row, or the other way round");
    }
    if row.id != PrepaidDeduction::key(&row.order_id, row.prepaid_type, row.product_id.as_ref()) {
        off.push("the row is about something else than its key says");
    }
    off
}

/// What does not fit in an attempt to pay.
pub(super) fn payment_off(
    payment: &Payment,
    order: Option<&Order>,
    exceptions: &[&PaymentException],
) -> Vec<&'static str> {
    let mut off = Vec::new();
    match order {
        None => off.push("the attempt belongs to no order"),
        Some(order) => {
            // What was asked for at an earlier price is closed; paid all the same, it is an exception.
            let over = matches!(payment.status, PaymentStatus::Closed | PaymentStatus::Exception);
            if payment.amount != order.payment_amount && !(over && was_asked(order, payment.amount)) {
                off.push("the attempt asks for another amount than its order");
            }
            if payment.status == PaymentStatus::Paid && !order.status.is_paid() {
                off.push("a paid attempt of an order that is not paid");
            }
        }
    }
    let recorded = exceptions.iter().any(|e| Some(&e.transaction_id) == payment.transaction_id.as_ref());
    if (payment.status == PaymentStatus::Exception) != recorded {
        off.push("the attempt and the recorded exceptions do not match");
    }
    if payment.status.is_open() != payment.next_query_at.is_some() {
        off.push("an open attempt that nobody will ask about, or a finished one that is still asked about");
    }
    let paid = matches!(payment.status, PaymentStatus::Paid | PaymentStatus::Exception);
    if payment.transaction_id.is_some() != paid {
        off.push("a transaction without a payment, or the other way round");
    }
    off
}

pub(super) fn money_in(exception: &PaymentException) -> String {
    if exception.kind.is_refund() {
        return exception.id.clone();
    }
    format!("payment:{}:exception", exception.transaction_id)
}

pub(super) fn money_back(out_refund_no: &str) -> String {
    format!("refund:{out_refund_no}:success")
}

pub(super) fn money_elsewhere(out_refund_no: &str) -> String {
    format!("refund:{out_refund_no}:elsewhere")
}

/// What does not fit in money that fits no order.
pub(super) fn exception_off(
    exception: &PaymentException,
    money_in: Option<&Entry>,
    money_back: Option<&Entry>,
    money_elsewhere: Option<&Entry>,
    item: Option<&OutboxItem>,
) -> Vec<&'static str> {
    let mut off = Vec::new();
    if exception.kind.is_refund() {
        let expected = Entry::new("", exception.created_at);
        let expected = expected.transfer("fen", book::EXCEPTIONS, book::WECHAT, exception.amount.get());
        if money_in.map(legs) != Some(legs(&expected)) {
            off.push("the money is not in the book as it went back");
        }
        let number = exception.out_refund_no.as_deref().or(exception.bill_refund_no.as_deref());
        if number.map(PaymentException::refund_key) != Some(exception.id.clone()) {
            off.push("the record is about another refund than its key says");
        }
        off.extend(resolution_off(exception));
        return off;
    }
    let expected =
        Entry::new("", exception.created_at).transfer("fen", book::WECHAT, book::EXCEPTIONS, exception.amount.get());
    if money_in.map(legs) != Some(legs(&expected)) {
        off.push("the money is not in the book as it came in");
    }
    if exception.id != format!("{}:{}", exception.out_trade_no, exception.transaction_id) {
        off.push("the record is about another payment than its key says");
    }
    let back = money_back.is_some();
    if back != (exception.status == ExceptionStatus::Refunded) {
        off.push("the refund in the book does not match the record");
    }
    let elsewhere =
        Entry::new("", exception.created_at).transfer("fen", book::EXCEPTIONS, book::ELSEWHERE, exception.amount.get());
    let expected = exception.settled_elsewhere.then(|| legs(&elsewhere));
    if money_elsewhere.map(legs) != expected {
        off.push("the money was given back another way in the book, and not in the record, or the other way round");
    }
    if exception.settled_elsewhere && exception.status != ExceptionStatus::Resolved {
        off.push("what was given back another way is resolved");
    }
    let to_deliver = exception.status == ExceptionStatus::Refunding;
    if to_deliver && !item.is_some_and(|i| i.status != OutboxStatus::Delivered) {
        off.push("a refund is owed that nobody will deliver");
    }
    off.extend(resolution_off(exception));
    off
}

/// What does not fit in how an exception was resolved.
pub(super) fn resolution_off(exception: &PaymentException) -> Option<&'static str> {
    let by_hand = exception.status == ExceptionStatus::Resolved;
    let told = exception.resolved_by.is_some() && exception.remark.is_some();
    let open = matches!(exception.status, ExceptionStatus::Refunding | ExceptionStatus::Manual);
    if by_hand != told || exception.resolved_by.is_some() != exception.remark.is_some() {
        return Some("who resolves an exception by hand says what was found, and nobody else does");
    }
    (open == exception.resolved_at.is_some()).then_some("an exception has the time of its end exactly if it has ended")
}
