//! *Settle*: the one operation that turns a proven payment into a paid order with all its effects.
//!
//! Callback, query and reconciliation all come here, in any order and as often as they like; one transaction decides. What is
//! paid but fits no order becomes a payment exception with a refund in the outbox, in one transaction too.

use chrono::{DateTime, Utc};
use domain::{Code, Failure, Fen, OrderId, OrderStatus, OrderType, Points, ShopRules, UserCouponId};
use store::book::{self, Entry, Posting};
use store::members::{PointsLog, StockRecord};
use store::orders::{Earned, Order};
use store::outbox::OutboxItem;
use store::payments::{ExceptionKind, ExceptionStatus, Payment, PaymentException, PaymentStatus};
use store::{Error, Store, Tx, crashpoint, stock};
use wechat::pay::Transaction;

use crate::prepaid::{self, Tender};
use crate::refunds::{self, RefundOrder};
use crate::{coins, events, owed};

/// What became of a report about a payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// The order is paid by this payment, now.
    Settled,
    /// It was dealt with before; nothing changed.
    AlreadySettled,
    /// The money fits no order; recorded, and refunded where that is safe.
    Exception(ExceptionKind),
    /// WeChat does not say that it is paid.
    NotPaid,
}

/// Who we are to WeChat Pay.
#[derive(Clone, Copy, Debug)]
pub struct Merchant<'a> {
    pub appid: &'a str,
    pub mchid: &'a str,
}

impl<'a> Merchant<'a> {
    pub fn of(pay: &'a wechat::pay::Client) -> Self {
        Self { appid: pay.appid(), mchid: pay.mchid() }
    }
}

/// A payment that WeChat has proven.
struct Evidence<'a> {
    transaction: &'a Transaction,
    transaction_id: &'a str,
    amount: Fen,
    source: &'static str,
}

/// Settles what a proven transaction says. `source` is `callback`, `query`, `reconcile`, `close` or `bill`.
///
/// The caller has verified the report's signature. At most one settlement happens per order.
pub async fn settle(
    store: &Store,
    merchant: Merchant<'_>,
    rules: &ShopRules,
    transaction: &Transaction,
    source: &'static str,
    now: DateTime<Utc>,
) -> Result<Settlement, Failure> {
    if !transaction.is_paid() {
        return Ok(Settlement::NotPaid);
    }
    let (Some(transaction_id), Some(amount)) = (transaction.transaction_id.as_deref(), transaction.amount_total) else {
        return Err(Failure::Upstream("a paid transaction without its number or amount".into()));
    };
    let amount = Fen::new(amount).map_err(|e| Failure::Upstream(e.into()))?;
    let evidence = Evidence { transaction, transaction_id, amount, source };
    let settlement = store
        .transaction(|tx, _| {
            let evidence = &evidence;
            Box::pin(async move { decide(tx, merchant, rules, evidence, now).await })
        })
        .await?;
    crashpoint("settle.committed").await;
    match settlement {
        Settlement::Settled => tracing::info!(source, "payment settled"),
        Settlement::Exception(kind) => tracing::warn!(source, ?kind, "payment exception"),
        Settlement::AlreadySettled | Settlement::NotPaid => {}
    }
    Ok(settlement)
}

async fn decide(
    tx: &mut Tx,
    merchant: Merchant<'_>,
    rules: &ShopRules,
    evidence: &Evidence<'_>,
    now: DateTime<Utc>,
) -> Result<Settlement, Error> {
    let out_trade_no = &evidence.transaction.out_trade_no;
    let exception_id = format!("{out_trade_no}:{}", evidence.transaction_id);
    let payment = tx.payment(out_trade_no).await?;
    let known = payment.as_ref().is_some_and(|p| {
        p.transaction_id.as_deref() == Some(evidence.transaction_id)
            && matches!(p.status, PaymentStatus::Paid | PaymentStatus::Exception)
    });
    if known || tx.exception(&exception_id).await?.is_some() {
        return Ok(Settlement::AlreadySettled);
    }
    let Some(payment) = payment else {
        return record(tx, &exception_id, None, ExceptionKind::UnknownPayment, evidence, now).await;
    };
    let order = tx
        .order(&payment.order_id)
        .await?
        .ok_or_else(|| Error::Invariant(format!("payment {out_trade_no} has no order")))?;
    match misfit(merchant, &payment, &order, evidence) {
        Some(kind) => record(tx, &exception_id, Some(&payment), kind, evidence, now).await,
        None => {
            finish(tx, out_trade_no, PaymentStatus::Paid, evidence, now).await?;
            crashpoint("settle.inside").await;
            book_settlement(tx, &order, Some(evidence.transaction_id), rules, now).await?;
            Ok(Settlement::Settled)
        }
    }
}

/// Ends the attempt. One that belongs to a day whose bill may have been compared already has that day compared again.
async fn finish(
    tx: &mut Tx,
    out_trade_no: &str,
    status: PaymentStatus,
    evidence: &Evidence<'_>,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let success_at = evidence.transaction.success_time;
    tx.finish_payment(out_trade_no, status, evidence.transaction_id, success_at, now).await?;
    match success_at {
        Some(at) => tx.learned_late(at, evidence.source, now).await,
        None => Ok(()),
    }
}

/// Why the payment does not pay its order.
fn misfit(merchant: Merchant<'_>, payment: &Payment, order: &Order, evidence: &Evidence<'_>) -> Option<ExceptionKind> {
    let transaction = evidence.transaction;
    if transaction.mchid != merchant.mchid {
        Some(ExceptionKind::WrongMchid)
    } else if transaction.appid != merchant.appid {
        Some(ExceptionKind::WrongAppid)
    } else if transaction.currency.as_deref().is_some_and(|c| c != "CNY") {
        Some(ExceptionKind::WrongCurrency)
    } else if evidence.amount != payment.amount || payment.amount != order.payment_amount {
        Some(ExceptionKind::WrongAmount)
    } else if order.status.is_paid() || payment.transaction_id.is_some() {
        Some(ExceptionKind::PaidTwice)
    } else if order.status == OrderStatus::Closed {
        Some(ExceptionKind::PaidAfterClose)
    } else {
        None
    }
}

async fn record(
    tx: &mut Tx,
    id: &str,
    payment: Option<&Payment>,
    kind: ExceptionKind,
    evidence: &Evidence<'_>,
    now: DateTime<Utc>,
) -> Result<Settlement, Error> {
    // A payment we never asked for may belong to another system of the same merchant: a person decides.
    let refund = payment.map(|_| refunds::refund_no(evidence.transaction_id));
    let exception = PaymentException {
        id: id.to_owned(),
        kind,
        out_trade_no: evidence.transaction.out_trade_no.clone(),
        transaction_id: evidence.transaction_id.to_owned(),
        order_id: payment.map(|p| p.order_id.clone()),
        amount: evidence.amount,
        expected_amount: payment.map(|p| p.amount),
        status: if refund.is_some() { ExceptionStatus::Refunding } else { ExceptionStatus::Manual },
        out_refund_no: refund.clone(),
        day: None,
        bill_refund_no: None,
        refund_accepted_at: None,
        refund_bill_day: None,
        settled_elsewhere: false,
        source: evidence.source.to_owned(),
        created_at: now,
        resolved_at: None,
        resolved_by: None,
        remark: None,
    };
    tx.insert_exception(&exception).await?;
    let entry = Entry::new(refunds::exception_key(evidence.transaction_id), now).transfer(
        "fen",
        book::WECHAT,
        book::EXCEPTIONS,
        evidence.amount.get(),
    );
    tx.post(&entry).await?;
    if let (Some(payment), Some(out_refund_no)) = (payment, refund) {
        finish(tx, &payment.out_trade_no, PaymentStatus::Exception, evidence, now).await?;
        let refund = RefundOrder {
            out_trade_no: payment.out_trade_no.clone(),
            transaction_id: evidence.transaction_id.to_owned(),
            out_refund_no: out_refund_no.clone(),
        };
        let mut item = OutboxItem::new(refunds::item_id(&out_refund_no), refunds::KIND, &refund, now)?;
        item.order_id = Some(payment.order_id.clone());
        tx.enqueue(&item).await?;
    }
    Ok(Settlement::Exception(kind))
}

/// `pendingPayment → paid` with every effect: money, earned points, remainder and coin, pieces sold, stock records.
///
/// Runs in the caller's transaction; the key of the entry makes a second run impossible.
pub async fn book_settlement(
    tx: &mut Tx,
    order: &Order,
    transaction_id: Option<&str>,
    rules: &ShopRules,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let earned = book_effects(tx, order, rules, now).await?;
    if !tx.mark_order_paid(&order.id, transaction_id, earned, now).await? {
        return Err(Error::Invariant(format!("order {} left pendingPayment while it was settled", order.id)));
    }
    Ok(())
}

/// Books the effects of a paid order and returns what it earned. For an order that is inserted as paid.
pub async fn book_effects(tx: &mut Tx, order: &Order, rules: &ShopRules, now: DateTime<Utc>) -> Result<Earned, Error> {
    let member = tx
        .member(&order.user_id)
        .await?
        .ok_or_else(|| Error::Invariant(format!("order {} has no member", order.id)))?;
    // The member is written below, so that an erasure of the real name at the same moment meets this transaction.
    if order.order_type == OrderType::PointsMall && !member.is_verified {
        return Err(Code::IdentityRequired.into());
    }
    let earned = match order.order_type {
        // Nothing was spent, so not even a remainder of older orders may become a point here.
        OrderType::PointsMall => domain::points::Earned { points: Points::ZERO, carry: member.carry_fen },
        OrderType::Normal | OrderType::Lottery => {
            domain::points::earn(member.carry_fen, order.net_spend()?, rules.points_earn_fen)?
        }
    };
    let mut entry = settle_entry(order, member.carry_fen, earned, now);
    entry.postings.extend(coins::grant_for_order(tx, order, &entry.id, now).await?);
    let after = tx.post(&entry).await?;
    log_points(tx, order, &entry, "earn", "购物返积分", &after, now).await?;
    owed::collect(tx, &entry, &after, now).await?;
    events::order_paid(tx, order, rules, now).await?;
    // What was paid stays paid, whatever somebody did to the coupon: its share of the price is frozen in the order.
    if let Some(coupon) = &order.user_coupon_id
        && !tx.use_user_coupon(coupon, &order.id, now).await?
    {
        not_held(coupon, &order.id);
    }
    tx.insert_stock_records(&stock_records(order, "out", &entry.id, now)).await?;
    let (points, coins) = (earned.points, coins::earned_by(order));
    Ok(Earned { points, points_earn_fen: rules.points_earn_fen, coins })
}

fn settle_entry(order: &Order, carry: Fen, earned: domain::points::Earned, now: DateTime<Utc>) -> Entry {
    let member = |field: &str| book::member_account(&order.user_id, field);
    let carry_change = earned.carry.get().saturating_sub(carry.get());
    let mut entry = Entry::new(settle_key(&order.id), now)
        .user(&order.user_id)
        .order(&order.id)
        .transfer("fen", book::WECHAT, book::SALES, order.payment_amount.get())
        .transfer("spend", book::SPEND, &member("carryFen"), carry_change)
        .transfer("points", book::ISSUED, &member("points"), earned.points.get());
    for line in &order.items {
        let asset = book::stock_asset(line.product_id.as_str(), line.sku_id.as_ref().map(|s| s.as_str()));
        entry.postings.push(Posting::system(book::RESERVED, &asset, line.quantity.saturating_neg()));
        entry.postings.push(Posting::system(book::SOLD, &asset, line.quantity));
    }
    entry
}

fn stock_records(order: &Order, record_type: &str, entry_id: &str, now: DateTime<Utc>) -> Vec<StockRecord> {
    let record = |line: &store::orders::OrderItem| StockRecord {
        id: format!("{entry_id}:{}", line.line_id),
        record_type: record_type.to_owned(),
        product_id: line.product_id.clone(),
        sku_id: line.sku_id.clone(),
        quantity: line.quantity,
        order_id: Some(order.id.clone()),
        kind: None,
        reason: None,
        by: None,
        entry_id: entry_id.to_owned(),
        created_at: now,
    };
    order.items.iter().map(record).collect()
}

/// The key of the entry that settles an order.
pub fn settle_key(order: &OrderId) -> String {
    format!("order:{order}:settle")
}

/// The key of the entry that takes points and balance for an order.
pub fn tender_key(order: &OrderId) -> String {
    format!("order:{order}:tender")
}

/// Takes the points, the coins, the balance and the prepaid money and goods that an order uses, with their statement rows.
/// Nothing if it uses none.
pub async fn book_tender(
    tx: &mut Tx,
    order: &Order,
    prepaid: Option<&Tender>,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let member = |field: &str| book::member_account(&order.user_id, field);
    let mut entry = Entry::new(tender_key(&order.id), now)
        .user(&order.user_id)
        .order(&order.id)
        .transfer("points", &member("points"), book::REDEEMED, order.points_used.get())
        .transfer("fen", &member("balance"), book::SALES, order.balance_amount.get());
    if let Some(prepaid) = prepaid {
        entry.postings.extend(prepaid::tender(tx, prepaid, order.id.as_str(), &entry.id, now).await?);
    }
    if order.coins_used > 0
        && let Some(member) = tx.member(&order.user_id).await?
    {
        // A grant writes lots alone, so it may pass by a refund that has just noted what is owed.
        owed::collect_coins(tx, &order.user_id, member.coins_owed, &entry, now).await?;
    }
    entry.postings.extend(coins::spend(tx, order, &entry.id, now).await?);
    if entry.postings.is_empty() {
        return Ok(());
    }
    let after = tx.post(&entry).await?;
    let reason = if order.order_type == OrderType::PointsMall { "积分商城兑换" } else { "下单抵扣" };
    log_points(tx, order, &entry, "spend", reason, &after, now).await
}

/// Gives back what [`book_tender`] took, what was reserved or sold and the right to buy that it used, when an order closes.
pub async fn book_close(tx: &mut Tx, order: &Order, now: DateTime<Utc>) -> Result<(), Error> {
    for reason in [settle_key(&order.id), stock::reserve_key(&order.id), tender_key(&order.id)] {
        let Some(entry) = tx.entry(&reason).await? else { continue };
        let reversal = entry.reversal(format!("{reason}-reversal"), now);
        let after = tx.post(&reversal).await?;
        tx.mark_deductions_restored(&reason, order.id.as_str(), now).await?;
        log_points(tx, order, &reversal, "return", "订单关闭退回", &after, now).await?;
        coins::log_return(tx, order, &reversal, now).await?;
        owed::collect(tx, &reversal, &after, now).await?;
        if reason == settle_key(&order.id) {
            tx.insert_stock_records(&stock_records(order, "in", &reversal.id, now)).await?;
        }
    }
    if let Some(coupon) = &order.user_coupon_id
        && !tx.release_user_coupon(coupon, &order.id).await?
    {
        not_held(coupon, &order.id);
    }
    if let Some(right) = &order.qualification_id {
        tx.give_back_qualification(right, &order.id).await?;
    }
    Ok(())
}

pub(crate) fn not_held(coupon: &UserCouponId, order: &OrderId) {
    let (coupon, order) = (coupon.as_str(), order.as_str());
    tracing::error!(coupon, order, "INVARIANT_COUPON the order does not hold its coupon; see `jinlu audit`");
}

/// Writes the statement row of an entry if it moves the member's points.
async fn log_points(
    tx: &mut Tx,
    order: &Order,
    entry: &Entry,
    log_type: &str,
    reason: &str,
    after: &std::collections::BTreeMap<String, i64>,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let account = book::member_account(&order.user_id, "points");
    let Some(posting) = entry.postings.iter().find(|p| p.account == account) else { return Ok(()) };
    tx.insert_points_log(&PointsLog {
        id: entry.id.clone(),
        user_id: order.user_id.clone(),
        open_id: order.open_id.clone(),
        change: posting.amount,
        points: after.get(&account).copied().unwrap_or(0),
        log_type: log_type.to_owned(),
        reason: reason.to_owned(),
        order_id: Some(order.id.clone()),
        entry_id: entry.id.clone(),
        created_at: now,
    })
    .await
}
