//! The invariant `refund`: what is asked back of each order, what was given, and what the book says of it.

use std::collections::{BTreeSet, HashMap};

use bson::doc;
use domain::machine::refund::{EDGES, START, State};
use domain::refund::Taken;
use domain::{OrderType, SkuId};

use super::rules::{legs, pooled, posted_on};
use super::{Audit, key};
use crate::Error;
use crate::book::{self, Entry, Posting};
use crate::coins;
use crate::coupons::UserCoupon;
use crate::members::StockRecord;
use crate::orders::Order;
use crate::outbox::{OutboxItem, OutboxStatus};
use crate::prepaid::{PrepaidDeduction, PrepaidRecord, PrepaidType};
use crate::refunds::{Refund, refund_state};

const NAME: &str = "refund";

/// What belongs to the refunds of one order.
pub(super) struct Around<'a> {
    pub(super) entries: &'a HashMap<String, Entry>,
    pub(super) records: Vec<&'a StockRecord>,
    pub(super) deductions: Vec<&'a PrepaidDeduction>,
    pub(super) items: &'a [OutboxItem],
    pub(super) coupon: Option<&'a UserCoupon>,
    pub(super) coin_taken_back: bool,
}

impl Audit<'_> {
    pub(super) async fn refunds(&mut self) -> Result<(), Error> {
        let orderless = vec![
            doc! { "$lookup": { "from": "orders", "localField": "orderId", "foreignField": "_id", "as": "orders" } },
            doc! { "$match": { "orders": { "$size": 0i32 } } },
        ];
        let refundless = vec![
            doc! { "$match": { "_id": { "$regex": "^afterSale:" } } },
            doc! { "$set": { "refund": { "$arrayElemAt": [{ "$split": ["$_id", ":"] }, 1i32] } } },
            doc! { "$lookup": { "from": "refunds", "localField": "refund", "foreignField": "_id", "as": "refunds" } },
            doc! { "$match": { "refunds": { "$size": 0i32 } } },
        ];
        let owed = vec![doc! { "$match": {
            "_id": { "$not": { "$regex": "^(afterSale:.*:back$|repay:.*:points$|opening:)" } },
            "postings.account": { "$regex": "^member_user/.*#pointsOwed$" },
        } }];
        for (collection, pipeline, message) in [
            ("refunds", orderless, "is of an order that is not there"),
            ("ledger", refundless, "is of a refund that is not there"),
            ("ledger", owed, "changes owed points and neither is a refund nor pays any"),
        ] {
            for id in self.ids_of(collection, pipeline).await? {
                self.violation(NAME, message, format!("{collection}/{id}"));
            }
        }
        Ok(())
    }

    /// The refunds of these orders.
    pub(super) async fn check_refunds_of(
        &mut self,
        orders: &[Order],
        records: &[StockRecord],
        deductions: &[PrepaidDeduction],
        order_entries: &HashMap<&str, &Entry>,
    ) -> Result<(), Error> {
        let ids = orders.iter().map(|o| o.id.as_str().to_owned()).collect();
        let refunds: Vec<Refund> = self.matching("refunds", "orderId", ids).await?;
        let keys = refunds.iter().flat_map(|r| [r.back_key(), r.paid_key()]).collect();
        let entries: Vec<Entry> = self.matching("ledger", "_id", keys).await?;
        let entries: HashMap<String, Entry> = entries.into_iter().map(|e| (e.id.clone(), e)).collect();
        self.check_bill_days_of_refunds(&refunds).await?;
        let items: Vec<OutboxItem> =
            self.matching("outbox", "_id", refunds.iter().map(Refund::item_id).collect()).await?;
        let ids = orders.iter().filter_map(|o| o.user_coupon_id.as_ref().map(|id| id.as_str().to_owned())).collect();
        let coupons: Vec<UserCoupon> = self.matching("userCoupons", "_id", ids).await?;
        for order in orders {
            let mut own: Vec<Refund> = refunds.iter().filter(|r| r.order_id == order.id).cloned().collect();
            own.sort_by_key(|r| r.seq);
            let around = Around {
                entries: &entries,
                records: records
                    .iter()
                    .filter(|r| r.order_id.as_ref() == Some(&order.id) && r.entry_id.starts_with("afterSale:"))
                    .collect(),
                deductions: deductions
                    .iter()
                    .filter(|d| d.order_id == order.id.as_str() && d.entry_id == key(&order.id, "tender"))
                    .collect(),
                items: &items,
                coupon: coupons.iter().find(|c| Some(&c.id) == order.user_coupon_id.as_ref()),
                coin_taken_back: order_entries.contains_key(key(&order.id, "coin-revoke").as_str()),
            };
            for message in refunds_off(order, &own, &around) {
                self.violation(NAME, message, format!("orders/{}", order.id));
            }
            for refund in &own {
                for message in refund_off(order, refund, &around) {
                    self.violation(NAME, message, format!("refunds/{}", refund.id));
                }
            }
        }
        Ok(())
    }
}

/// What does not fit in an order's refunds taken together.
fn refunds_off(order: &Order, refunds: &[Refund], around: &Around<'_>) -> Vec<String> {
    let mut off = Vec::new();
    let mut say = |wrong: bool, message: &str| {
        if wrong {
            off.push(message.to_owned());
        }
    };
    let revisions: BTreeSet<i64> = refunds.iter().map(|r| r.revision).collect();
    say(revisions.len() != refunds.len(), "two refunds were changed at once");
    let newest = revisions.last().copied().unwrap_or(0);
    say(newest != order.refund_revision, "the order's refundRevision is not that of its newest refund");
    say(refunds.iter().zip(1i64..).any(|(r, n)| r.seq != n), "the refunds are not counted one after the other");
    say(!refunds.is_empty() && !order.status.is_paid(), "something is asked back of an order that is not paid");
    let numbers: Vec<&str> = refunds.iter().flat_map(|r| &r.numbers).map(|n| n.out_refund_no.as_str()).collect();
    let distinct: BTreeSet<&str> = numbers.iter().copied().collect();
    say(distinct.len() != numbers.len(), "two refunds have one number");
    match order.frozen() {
        Err(_) => say(!refunds.is_empty(), "what was paid cannot be told"),
        Ok(frozen) => {
            let standing = refunds.iter().filter(|r| r.stands()).map(|r| &r.plan);
            let within = Taken::by(&frozen, standing).is_ok_and(|taken| taken.is_within(&frozen));
            say(!within, "more is asked back than was paid");
            let state = refund_state(&frozen, refunds).unwrap_or_default();
            say(state != order.refund_state, "the order's refundState is not what its refunds make of it");
        }
    }
    let given = || refunds.iter().filter(|r| r.given.is_some());
    let returned = given().filter(|r| r.given.as_ref().is_some_and(|g| g.coupon_returned)).count();
    let back = around.coupon.is_some_and(|c| c.returned_from.contains(&order.id));
    say(returned != usize::from(back), "the coupon came back otherwise than the refunds say");
    let coins = given().fold(0i64, |sum, r| sum.saturating_add(r.plan.coins_earned));
    say(coins > 0 && !around.coin_taken_back, "the coin of a refunded order was not taken back");
    let restocked = given().filter(|r| r.given.as_ref().is_some_and(|g| g.restocked));
    let rows = restocked.fold(0usize, |sum, r| sum.saturating_add(r.items.len()));
    say(rows != around.records.len(), "other stock records than the refunds call for");
    off
}

/// What does not fit in a refund.
fn refund_off(order: &Order, refund: &Refund, around: &Around<'_>) -> Vec<String> {
    let mut off = Vec::new();
    let mut say = |wrong: bool, message: &str| {
        if wrong {
            off.push(message.to_owned());
        }
    };
    let owner = (&refund.user_id, &refund.open_id) == (&order.user_id, &order.open_id);
    say(!owner || refund.id != Refund::key(&order.id, refund.seq), "it is about something else than its key says");
    let steps = refund.timeline.iter().zip(refund.timeline.iter().skip(1));
    let walked = |a: State, b: State| EDGES.iter().any(|(from, _, to)| (*from, *to) == (a, b));
    let first = refund.timeline.first().is_some_and(|m| m.status == START);
    let last = refund.timeline.last().is_some_and(|m| m.status == refund.status);
    say(
        !first || !last || steps.clone().any(|(a, b)| !walked(a.status, b.status)),
        "its timeline is no walk of its states",
    );
    say(steps.clone().any(|(a, b)| a.at > b.at), "its timeline goes back in time");
    say(refund.refunded_at.is_some() != (refund.status == State::Refunded), "its end and its state do not fit");
    let fits = refund.items.len() == refund.plan.lines.len()
        && refund.items.iter().zip(&refund.plan.lines).all(|(item, line)| {
            (item.line_id.as_str(), item.quantity) == (line.line_id.as_str(), line.quantity)
                && order
                    .items
                    .iter()
                    .any(|l| l.line_id == item.line_id && l.product_id == item.product_id && l.sku_id == item.sku_id)
        });
    say(!fits, "its pieces are not those of its plan and order");
    say(!refund.plan.due().is_ok_and(|due| refund.plan.given.is_within(&due)), "more is given than is due");

    let give = &refund.plan.given;
    let gave = matches!(refund.status, State::Refunding | State::Refunded | State::Failed);
    let back = around.entries.get(&refund.back_key());
    say(
        gave != refund.given.is_some() || gave != back.is_some(),
        "what is ours went back, or did not, against its state",
    );
    if let (Some(given), Some(back)) = (&refund.given, back) {
        let expected = back_entry(order, refund, &around.deductions);
        let mut found = legs(back);
        found.retain(|(_, asset), _| *asset != "spend");
        let mut expected = legs(&expected);
        expected.retain(|_, amount| *amount != 0);
        say(pooled(found) != expected, "the book gives back something else than the refund says");
        let carry = posted_on(back, &book::member_account(&refund.user_id, "carryFen"));
        let points = given.points_taken.saturating_add(given.points_owed).saturating_mul(given.points_earn_fen);
        let mall = order.order_type == OrderType::PointsMall;
        let spend = if mall { 0 } else { give.payment_amount.get().saturating_add(give.balance_amount.get()) };
        say(
            points.saturating_sub(carry) != spend,
            "the points taken back are not those that the net spend no longer earns",
        );
        say(given.restocked != is_told(refund, &around.records), "the stock records are not what came back");
        let rows = around.deductions.iter().flat_map(|d| d.refunds.iter().map(move |r| (d, r)));
        let rows: Vec<_> = rows.filter(|(_, r)| r.refund_id == refund.id).collect();
        let sum = |kind: PrepaidType| {
            rows.iter().filter(|(d, _)| d.prepaid_type == kind).fold(0i64, |s, (_, r)| s.saturating_add(r.amount))
        };
        let prepaid = (sum(PrepaidType::Amount), sum(PrepaidType::Product));
        say(
            prepaid != (give.prepaid_amount.get(), give.prepaid_quantity),
            "prepaid rows say something else was given back",
        );
    }
    let products = |id: &domain::ProductId| refund.items.iter().any(|item| item.product_id == *id);
    let may_wait = refund.given.as_ref().is_some_and(|g| g.restocked) && refund.stock_release.iter().all(products);
    say(!refund.stock_release.is_empty() && !may_wait, "stock waits for release that it does not give back");

    let by_wechat = gave && !give.payment_amount.is_zero();
    say(refund.numbers.is_empty() == by_wechat, "it has a number at WeChat, or has none, against its amount");
    let mut unnumbered = Refund { numbers: Vec::new(), ..refund.clone() };
    for number in &refund.numbers {
        say(number.out_refund_no != unnumbered.next_number().out_refund_no, "a number is not the next one");
        unnumbered.numbers.push(number.clone());
    }
    let replaced = refund.numbers.iter().rev().skip(1);
    say(replaced.clone().any(|n| !n.is_closed()), "a number was replaced that WeChat has not closed");
    let done = refund.status == State::Refunded && by_wechat;
    let state = refund.number().and_then(|n| n.state.as_deref());
    say(done && !refund.settled_elsewhere && state != Some("SUCCESS"), "it is refunded and WeChat did not say so");
    let other = if refund.settled_elsewhere { book::ELSEWHERE } else { book::WECHAT };
    let paid = Entry::new("", refund.created_at).transfer("fen", book::REFUNDS, other, give.payment_amount.get());
    let found = around.entries.get(&refund.paid_key());
    let right = match (done, found) {
        (true, Some(found)) => legs(found) == legs(&paid),
        (false, None) => true,
        _ => false,
    };
    say(!right, "WeChat's part is in the book otherwise than the state says");
    let item = around.items.iter().find(|i| i.id == refund.item_id());
    let waits = refund.status == State::Refunding;
    say(waits && item.is_none_or(|i| i.status == OutboxStatus::Delivered), "a refund is owed that nobody will deliver");
    off
}

/// The entry that a refund's state calls for; the carried remainder is checked by itself.
fn back_entry(order: &Order, refund: &Refund, deductions: &[&PrepaidDeduction]) -> Entry {
    let give = &refund.plan.given;
    let member = |field: &str| book::member_account(&refund.user_id, field);
    let given = refund.given.as_ref();
    let (taken, owed) = given.map_or((0, 0), |g| (g.points_taken, g.points_owed));
    let mut entry = Entry::new("", order.created_at)
        .transfer("fen", book::SALES, book::REFUNDS, give.payment_amount.get())
        .transfer("fen", book::SALES, &member("balance"), give.balance_amount.get())
        .transfer("points", book::REDEEMED, &member("points"), give.points_used.get())
        .transfer("points", &member("points"), book::ISSUED, taken)
        .transfer("points", book::POINTS_OWED, &member("pointsOwed"), owed)
        .transfer(coins::ASSET, book::COINS_SPENT, super::rules::LOTS, give.coins_used);
    for row in deductions {
        let asset = row.prepaid_type.asset(row.product_id.as_ref());
        let other = if row.prepaid_type == PrepaidType::Amount { book::SALES } else { book::PREPAID_USED };
        for detail in row.refunds.iter().filter(|r| r.refund_id == refund.id).flat_map(|r| &r.details) {
            entry = entry.transfer(&asset, other, &PrepaidRecord::account(&detail.record_id), detail.amount);
        }
    }
    if given.is_some_and(|g| g.restocked) {
        for item in &refund.items {
            let sku = item.sku_id.as_ref().map(SkuId::as_str);
            let shelf = Posting::stock(item.product_id.as_str(), sku, item.quantity);
            entry = entry.transfer(&shelf.asset, book::SOLD, &shelf.account, item.quantity);
        }
    }
    entry
}

/// Whether there is a stock record for each line that came back.
fn is_told(refund: &Refund, records: &[&StockRecord]) -> bool {
    let entry = refund.back_key();
    refund.items.iter().all(|item| {
        records.iter().any(|r| {
            r.id == format!("{entry}:{}", item.line_id)
                && (r.entry_id.as_str(), r.record_type.as_str()) == (entry.as_str(), "in")
                && (&r.product_id, &r.sku_id, r.quantity) == (&item.product_id, &item.sku_id, item.quantity)
        })
    })
}
