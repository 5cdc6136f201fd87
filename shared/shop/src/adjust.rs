//! Changing what an order costs, or where it goes, before it is paid.
//!
//! What the buyer could pay at the old price is closed at WeChat first. The transaction then changes the price only if no attempt
//! began meanwhile, and an attempt begins only at the price that it was made for: so no open attempt asks for another amount
//! than its order. What is paid at an old price all the same fits no order and is refunded.

use chrono::{DateTime, Utc};
use domain::quote::{Adjustment, Proof, adjust, check_unchanged};
use domain::{Code, Failure, Fen, OrderId, OrderStatus, Refusal, ShopRules, Yuan};
use serde::{Deserialize, Serialize};
use store::orders::{Address, CHANGES_MAX, Order, PriceChange};
use store::{CommandKey, Once, Store, crashpoint};
use wechat::pay;

use crate::address::place_of;
use crate::close::close_at_wechat;
use crate::settle::book_settlement;

/// What is to be changed.
#[derive(Clone, Debug)]
pub enum Change {
    /// Staff lower what is left to pay to this much.
    Price { to: Fen },
    /// Staff set the freight.
    Freight { to: Fen },
    /// The goods go elsewhere. Another price for that is refused unless it is accepted.
    Address { to: Address, accept_freight: bool },
}

/// A change on its way.
pub struct Changing<'a> {
    pub store: &'a Store,
    pub client: &'a pay::Client,
    pub rules: &'a ShopRules,
    pub order: &'a OrderId,
    pub change: &'a Change,
    /// Why; may be empty.
    pub reason: &'a str,
    /// `staff:…` or `buyer`.
    pub by: &'a str,
    pub key: Option<&'a CommandKey>,
    pub now: DateTime<Utc>,
}

/// An order at its new price. Amounts in yuan.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Changed {
    pub order_id: String,
    pub status: OrderStatus,
    pub total_amount: Yuan,
    pub freight_amount: Yuan,
    pub discount_amount: Yuan,
    pub payment_amount: Yuan,
}

impl From<&Order> for Changed {
    fn from(order: &Order) -> Self {
        Self {
            order_id: order.id.as_str().to_owned(),
            status: order.status,
            total_amount: Yuan(order.total_amount),
            freight_amount: Yuan(order.freight_amount),
            discount_amount: Yuan(order.discount_amount),
            payment_amount: Yuan(order.payment_amount),
        }
    }
}

/// Changes an order that waits for payment; one that nothing is left to pay for afterwards is settled at once. What is so already
/// changes nothing.
///
/// `ORDER_NOT_FOUND`; `ORDER_STATE_INVALID` for what is paid, closed or out of time; `AMOUNT_MISMATCH` for another freight at
/// another address; `CONFLICT` after too many changes; `INVALID_ARGUMENT` where the price cannot become so. `UPSTREAM_ERROR` when
/// WeChat gives no clear answer about an open attempt: nothing has changed.
pub async fn change_order(changing: &Changing<'_>) -> Result<Once<Changed>, Failure> {
    match (try_change(changing).await, changing.key) {
        // A twin of this command may have brought the order there.
        (Err(Failure::Refused(refusal)), Some(key)) => {
            changing.store.replay_of_twin(key).await?.ok_or(Failure::Refused(refusal))
        }
        (done, _) => done,
    }
}

async fn try_change(changing: &Changing<'_>) -> Result<Once<Changed>, Failure> {
    let Changing { store, client, rules, order: id, key, now, .. } = *changing;
    // A payment attempt or another change that begins meanwhile makes the guarded update miss; then look again.
    for _ in 0..5 {
        if let Some(key) = key
            && let Some(done) = store.replay(key).await?
        {
            return Ok(done);
        }
        let before = store.order(id).await?.ok_or(Code::OrderNotFound)?;
        let Some(after) = decide(&before, changing)? else {
            return Ok(Once { value: Changed::from(&before), replayed: true });
        };
        let priced = after.payment_amount != before.payment_amount;
        if priced {
            for payment in store.payments_of(id).await?.iter().filter(|p| p.status.is_open()) {
                if close_at_wechat(store, client, rules, payment, now).await? {
                    return Err(refused("订单已支付，不能修改").into());
                }
            }
            crashpoint("change.closedAtWechat").await;
        }
        let done = store
            .transaction(|tx, _| {
                let (before, after) = (&before, &after);
                Box::pin(async move {
                    if !tx.change_order(before, after).await? {
                        return Ok(None);
                    }
                    if priced {
                        tx.close_payments(id).await?;
                    }
                    let mut changed = Changed::from(after);
                    if after.payment_amount.is_zero() {
                        book_settlement(tx, after, None, rules, now).await?;
                        changed.status = OrderStatus::Paid;
                    }
                    if let Some(key) = key {
                        tx.remember(key, &changed, now).await?;
                    }
                    crashpoint("change.inside").await;
                    Ok(Some(changed))
                })
            })
            .await;
        crashpoint("change.committed").await;
        match done {
            Ok(Some(value)) => return Ok(Once { value, replayed: false }),
            Ok(None) => {}
            // A twin of this command may have been first: then the next look finds its reply.
            Err(store::Error::Duplicate { .. }) if key.is_some() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Refusal::new(Code::Conflict).into())
}

fn refused(message: &'static str) -> Refusal {
    Refusal::new(Code::OrderStateInvalid).with_message(message)
}

/// What the order becomes; none if it is so already. Pure.
fn decide(order: &Order, changing: &Changing<'_>) -> Result<Option<Order>, Refusal> {
    let state = |message| refused(message).detail("status", order.status.as_str());
    match order.status {
        OrderStatus::PendingPayment if order.expire_time <= changing.now => return Err(state("订单已超时")),
        OrderStatus::PendingPayment => {}
        OrderStatus::Closed => return Err(state("订单已关闭，不能修改")),
        OrderStatus::Paid | OrderStatus::Shipped | OrderStatus::Completed => {
            return Err(state("订单已支付，不能修改"));
        }
    }
    let (address, adjustment) = match changing.change {
        Change::Price { to } if *to == order.payment_amount => return Ok(None),
        Change::Price { to } => (&order.address, Adjustment::Price { to: *to }),
        Change::Freight { to } if *to == order.freight_amount => return Ok(None),
        Change::Freight { to } => (&order.address, Adjustment::Freight { to: *to }),
        Change::Address { to, .. } if *to == order.address => return Ok(None),
        Change::Address { to, .. } => (to, Adjustment::Place { to: place_of(to) }),
    };
    let mut after = order.clone();
    after.address = address.clone();
    let Some(proof) = &order.price_proof else {
        // Made before prices were proven, and then nothing was charged for sending.
        return match changing.change {
            Change::Address { .. } => Ok(Some(after)),
            Change::Price { .. } | Change::Freight { .. } => Err(state("订单没有价格凭证，不能改价")),
        };
    };
    if let (Adjustment::Place { to }, Some(_)) = (&adjustment, &proof.input.sending) {
        to.check()?;
    }
    if order.adjustments.len() >= CHANGES_MAX {
        let text = format!("一个订单最多修改 {CHANGES_MAX} 次");
        return Err(Refusal::new(Code::Conflict).with_message(text));
    }
    let adjusted = adjust(proof, adjustment.clone()).map_err(|refusal| match changing.change {
        Change::Address { .. } if refusal.details.get("field").is_some_and(|f| f == "freightAmount") => {
            state("该地址的运费低于已抵扣的运费，请取消后重新下单")
        }
        _ => refusal,
    })?;
    if let Change::Address { accept_freight: false, .. } = changing.change {
        check_unchanged(&proof.quote, &adjusted.quote)?;
    }
    reprice(&mut after, adjusted)?;
    after.adjustments.push(PriceChange {
        change: adjustment,
        payment_before: order.payment_amount,
        payment_after: after.payment_amount,
        reason: changing.reason.to_owned(),
        by: changing.by.to_owned(),
        at: changing.now,
    });
    Ok(Some(after))
}

/// Writes a price into the order that it is of.
fn reprice(order: &mut Order, proof: Proof) -> Result<(), Refusal> {
    let too_large = |_| crate::pricing::too_large();
    let total = &proof.quote.total;
    order.total_amount = total.amount;
    order.freight_amount = proof.quote.freight.amount;
    order.discount_amount = proof.quote.discount().map_err(too_large)?;
    order.payment_amount = total.payment_amount;
    for (item, share) in order.items.iter_mut().zip(&proof.quote.lines) {
        item.staff_discount = share.staff_discount;
        item.payable = share.payable().map_err(too_large)?;
    }
    order.price_proof = Some(proof);
    Ok(())
}
