//! What is ours goes back: one entry in the book with its rows, in the transaction that approves.

use chrono::{DateTime, Utc};
use domain::machine::refund::Event;
use domain::prepaid;
use domain::refund::{Taken, Wanted};
use domain::{OrderStatus, OrderType, Points, ShopRules, SkuId, Tells};
use store::book::{self, Entry, Posting};
use store::coins::ASSET;
use store::members::{PointsLog, StockRecord};
use store::orders::Order;
use store::outbox::OutboxItem;
use store::prepaid::{DeductionRefund, PrepaidDeduction, PrepaidRecord, PrepaidType, RestoredDetail};
use store::refunds::{Given, Refund, RefundType};
use store::{Error, Tx};

use super::Case;
use super::wechat::{KIND, SendRefund};
use crate::events::{self, Refunded};
use crate::{coins, owed, settle};

/// Gives back what is ours of an approved refund, orders WeChat's part, and moves the refund on.
pub(super) async fn give_back(
    tx: &mut Tx,
    case: &Case,
    refund: &mut Refund,
    rules: &ShopRules,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let order = &case.order;
    let give = refund.plan.given;
    let member = |field: &str| book::member_account(&refund.user_id, field);
    let mut entry = Entry::new(refund.back_key(), now)
        .user(&refund.user_id)
        .order(&refund.order_id)
        .transfer("fen", book::SALES, book::REFUNDS, give.payment_amount.get())
        .transfer("fen", book::SALES, &member("balance"), give.balance_amount.get());
    let prepaid = prepaid_back(tx, refund, &entry.id, now).await?;
    entry.postings.extend(prepaid);
    let points = points_back(tx, order, refund, rules, &mut entry).await?;
    let spent = coins_back(tx, case, refund).await?;
    entry.postings.extend(spent);
    // Pieces that were never sent, or that came back, are for sale again; those that the buyer keeps are not.
    let restocked = order.status == OrderStatus::Paid || refund.refund_type == RefundType::ReturnGoods;
    if restocked {
        entry.postings.extend(refund.items.iter().flat_map(|item| {
            let shelf =
                Posting::stock(item.product_id.as_str(), item.sku_id.as_ref().map(SkuId::as_str), item.quantity);
            [Posting::system(book::SOLD, &shelf.asset, item.quantity.saturating_neg()), shelf]
        }));
        tx.insert_stock_records(&stock_records(refund, &entry.id, now)).await?;
        for item in &refund.items {
            if !refund.stock_release.contains(&item.product_id) {
                refund.stock_release.push(item.product_id.clone());
            }
        }
    }
    if points.owed > 0 {
        tx.open_points_owed(&refund.user_id).await?;
    }
    let after = tx.post(&entry).await?;
    log_points(tx, refund, &entry, after.get(&member("points")), now).await?;
    coins::log_return(tx, order, &entry, now).await?;
    owed::collect(tx, &entry, &after, now).await?;
    let granted = if refund.plan.coins_earned > 0 { coins::take_back(tx, order, now).await? } else { None };
    let granted = granted.unwrap_or_default();
    refund.given = Some(Given {
        at: now,
        restocked,
        points_taken: points.taken,
        points_owed: points.owed,
        points_earn_fen: points.earn_fen,
        coins_taken: granted.revoked,
        coins_owed: granted.owed,
        coupon_returned: coupon_back(tx, case, refund, rules).await?,
    });
    if give.payment_amount.is_zero() {
        refund.step(Event::Finish, "shop", None, now)?;
        return tell_refunded(tx, refund, &rules.tells, now).await;
    }
    refund.step(Event::Send, "shop", None, now)?;
    refund.numbers.push(refund.next_number());
    send(tx, refund, now).await
}

/// Orders WeChat's part under the newest number.
pub(super) async fn send(tx: &mut Tx, refund: &mut Refund, now: DateTime<Utc>) -> Result<(), Error> {
    let Some(number) = refund.number() else {
        return Err(Error::Invariant(format!("refund {} has no number", refund.id)));
    };
    let order = SendRefund { refund_id: refund.id.clone(), out_refund_no: number.out_refund_no.clone() };
    refund.sends = refund.sends.saturating_add(1);
    let mut item = OutboxItem::new(refund.item_id(), KIND, &order, now)?;
    item.order_id = Some(refund.order_id.clone());
    tx.enqueue(&item).await
}

/// Tells the buyer that the money is back, if it was any.
pub(super) async fn tell_refunded(
    tx: &mut Tx,
    refund: &Refund,
    tells: &Tells,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let amount = refund.plan.given.money()?;
    if amount.is_zero() {
        return Ok(());
    }
    let news = Refunded { out_refund_no: &refund.id, amount, reason: &refund.reason };
    events::order_refunded(tx, &refund.order_id, &news, tells, now).await
}

/// Prepaid money and pieces go back to the records that gave them, the last first, and onto the rows of what was taken.
async fn prepaid_back(tx: &mut Tx, refund: &Refund, entry_id: &str, now: DateTime<Utc>) -> Result<Vec<Posting>, Error> {
    let mut postings = Vec::new();
    let key = settle::tender_key(&refund.order_id);
    let rows = tx.deductions_of(refund.order_id.as_str()).await?;
    for row in rows.into_iter().filter(|row| row.entry_id == key) {
        let amount = match (row.prepaid_type, &row.product_id) {
            (PrepaidType::Amount, _) => refund.plan.given.prepaid_amount.get(),
            (PrepaidType::Product, product) => pieces_back(refund, product.as_ref().map(|p| p.as_str())),
        };
        if amount == 0 {
            continue;
        }
        let details = details_back(&row, amount);
        let asset = row.prepaid_type.asset(row.product_id.as_ref());
        let other = if row.prepaid_type == PrepaidType::Amount { book::SALES } else { book::PREPAID_USED };
        for detail in &details {
            let account = PrepaidRecord::account(&detail.record_id);
            postings.push(Posting::system(other, &asset, detail.amount.saturating_neg()));
            postings.push(Posting::system(&account, &asset, detail.amount));
        }
        let (refund_id, entry_id) = (refund.id.clone(), entry_id.to_owned());
        tx.refund_deduction(&row, &DeductionRefund { refund_id, amount, details, entry_id, at: now }, now).await?;
    }
    let back =
        postings.iter().filter(|p| p.asset == "fen" && p.amount > 0).fold(0i64, |s, p| s.saturating_add(p.amount));
    if back != refund.plan.given.prepaid_amount.get() {
        return Err(Error::Invariant(format!("refund {} gives back prepaid money that was not taken", refund.id)));
    }
    Ok(postings)
}

fn details_back(row: &PrepaidDeduction, amount: i64) -> Vec<RestoredDetail> {
    let takes: Vec<i64> = row.details.iter().map(|d| d.deducted).collect();
    let parts = prepaid::give_back(&takes, row.refunded(), amount);
    let detail = |(detail, amount): (&store::prepaid::DeductionDetail, i64)| RestoredDetail {
        record_id: detail.record_id.clone(),
        amount,
    };
    row.details.iter().zip(parts).filter(|(_, part)| *part > 0).map(detail).collect()
}

/// Prepaid pieces of one product among what a refund gives back.
fn pieces_back(refund: &Refund, product: Option<&str>) -> i64 {
    let lines = refund.plan.lines.iter().zip(&refund.items);
    let of_product = lines.filter(|(_, item)| Some(item.product_id.as_str()) == product);
    of_product.fold(0i64, |sum, (line, _)| sum.saturating_add(line.due.prepaid_quantity))
}

/// What a refund does to points.
struct PointsBack {
    taken: i64,
    owed: i64,
    earn_fen: i64,
}

/// Points that the order used come back; those that it earned and its net spend no longer earns are taken, as far as the member
/// has them, and owed beyond that.
async fn points_back(
    tx: &mut Tx,
    order: &Order,
    refund: &Refund,
    rules: &ShopRules,
    entry: &mut Entry,
) -> Result<PointsBack, Error> {
    let give = refund.plan.given;
    let member = tx.member(&refund.user_id).await?;
    let member = member.ok_or_else(|| Error::Invariant(format!("order {} has no member", order.id)))?;
    let account = |field: &str| book::member_account(&refund.user_id, field);
    let earn_fen = order.points_earn_fen.unwrap_or(rules.points_earn_fen);
    let back = match order.order_type {
        OrderType::PointsMall => domain::points::TakenBack { points: Points::ZERO, carry: member.carry_fen },
        OrderType::Normal | OrderType::Lottery => {
            let spend = give.payment_amount.checked_add(give.balance_amount)?;
            domain::points::take_back(member.carry_fen, spend, earn_fen)?
        }
    };
    let (returned, wanted) = (give.points_used.get(), back.points.get());
    let taken = wanted.min(member.points.get().saturating_add(returned));
    let owed = wanted.saturating_sub(taken);
    // One leg per account: what comes back and what is taken meet in it.
    for (name, amount) in [
        (book::REDEEMED, returned.saturating_neg()),
        (book::ISSUED, taken),
        (account("points").as_str(), returned.saturating_sub(taken)),
    ] {
        if amount != 0 {
            entry.postings.push(Posting::system(name, "points", amount));
        }
    }
    let carry = back.carry.get().saturating_sub(member.carry_fen.get());
    for (asset, from, to, amount) in
        [("points", book::POINTS_OWED, account("pointsOwed"), owed), ("spend", book::SPEND, account("carryFen"), carry)]
    {
        if amount != 0 {
            entry.postings.push(Posting::system(from, asset, amount.saturating_neg()));
            entry.postings.push(Posting::system(&to, asset, amount));
        }
    }
    Ok(PointsBack { taken, owed, earn_fen })
}

async fn log_points(
    tx: &mut Tx,
    refund: &Refund,
    entry: &Entry,
    after: Option<&i64>,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let Some(points) = after.copied() else { return Ok(()) };
    let account = book::member_account(&refund.user_id, "points");
    let change = entry.postings.iter().filter(|p| p.account == account).fold(0i64, |s, p| s.saturating_add(p.amount));
    tx.insert_points_log(&PointsLog {
        id: entry.id.clone(),
        user_id: refund.user_id.clone(),
        open_id: refund.open_id.clone(),
        change,
        points,
        log_type: if change > 0 { "return" } else { "spend" }.to_owned(),
        reason: if change > 0 { "退款退回积分" } else { "退款扣回积分" }.to_owned(),
        order_id: Some(refund.order_id.clone()),
        entry_id: entry.id.clone(),
        created_at: now,
    })
    .await
}

/// Coins that a points-mall order cost go back into the lots they came from, the last first, to expire as they would have.
async fn coins_back(tx: &mut Tx, case: &Case, refund: &Refund) -> Result<Vec<Posting>, Error> {
    let coins = refund.plan.given.coins_used;
    if coins == 0 {
        return Ok(Vec::new());
    }
    let key = settle::tender_key(&refund.order_id);
    let tender = tx.entry(&key).await?.ok_or_else(|| Error::Invariant(format!("no entry {key}")))?;
    let lots: Vec<&Posting> = tender.postings.iter().filter(|p| p.asset == ASSET && p.amount < 0).collect();
    let takes: Vec<i64> = lots.iter().map(|p| p.amount.saturating_neg()).collect();
    let given = case.refunds.iter().filter(|r| r.given.is_some());
    let before = given.fold(0i64, |sum, r| sum.saturating_add(r.plan.given.coins_used));
    let mut postings = vec![Posting::system(book::COINS_SPENT, ASSET, coins.saturating_neg())];
    for (lot, part) in lots.into_iter().zip(prepaid::give_back(&takes, before, coins)) {
        if part > 0 {
            postings.push(Posting::system(&lot.account, ASSET, part));
        }
    }
    Ok(postings)
}

/// The coupon can be used again where the shop's rule says so: the order was refunded as a whole before it was shipped.
async fn coupon_back(tx: &mut Tx, case: &Case, refund: &Refund, rules: &ShopRules) -> Result<bool, Error> {
    let order = &case.order;
    let Some(coupon) = order.user_coupon_id.as_ref().filter(|_| rules.coupon_return) else { return Ok(false) };
    if order.status != OrderStatus::Paid {
        return Ok(false);
    }
    let others = case.refunds.iter().filter(|r| r.given.is_some() && r.id != refund.id);
    let taken = Taken::by(&case.frozen, others.map(|r| &r.plan).chain([&refund.plan]))?;
    if !Wanted::rest(&case.frozen, &taken).is_empty() {
        return Ok(false);
    }
    let returned = tx.return_user_coupon(coupon, &order.id).await?;
    if !returned {
        settle::not_held(coupon, &order.id);
    }
    Ok(returned)
}

fn stock_records(refund: &Refund, entry_id: &str, now: DateTime<Utc>) -> Vec<StockRecord> {
    let record = |item: &store::refunds::RefundItem| StockRecord {
        id: format!("{entry_id}:{}", item.line_id),
        record_type: "in".to_owned(),
        product_id: item.product_id.clone(),
        sku_id: item.sku_id.clone(),
        quantity: item.quantity,
        order_id: Some(refund.order_id.clone()),
        kind: None,
        reason: None,
        by: None,
        entry_id: entry_id.to_owned(),
        created_at: now,
    };
    refund.items.iter().map(record).collect()
}
