//! The rule: what the wanted goods become as an order. Pure.

use chrono::{DateTime, TimeDelta, Utc};
use domain::pricing::check_claim;
use domain::quote::{Quote, Share, check_unchanged};
use domain::{Code, Fen, OrderId, OrderStatus, OrderType, Points, Refusal, ShopRules};
use shop::address::place_of;
use shop::offers::Offer;
use shop::prepaid::Tender;
use shop::pricing::{Known, Priced, Wanted, Wish, price, too_large};
use store::orders::{Address, Order, OrderItem};
use store::qualifications::Qualification;

use crate::input::Command;

/// Prices the command at the store's prices and shapes the order; refuses what cannot be bought.
pub(crate) fn decide(
    command: &Command,
    known: &Known,
    address: &Address,
    rules: &ShopRules,
    id: OrderId,
    now: DateTime<Utc>,
) -> Result<Decision, Refusal> {
    let (wish, member) = (&command.wish, &known.member);
    let Priced { offers, proof, tender, right } = price(wish, known, Some(&place_of(address)), rules, now)?;
    let (quote, total) = (&proof.quote, proof.quote.total);
    if let Some(shown) = &command.shown {
        check_unchanged(shown, quote)?;
    }
    check_claim("totalAmount", command.claimed_total, total.amount)?;
    check_claim("paymentAmount", command.claimed_payment, total.payment_amount)?;
    // The deductions are guarded in the transaction; this and what the purses offer only spare the stock a detour.
    if wish.points > member.points {
        return Err(Code::PointsInsufficient.into());
    }
    let paid = total.payment_amount.is_zero();
    let order = Order {
        id,
        user_id: member.id.clone(),
        open_id: member.open_id.clone(),
        order_type: if right.is_some() { OrderType::Lottery } else { OrderType::Normal },
        status: if paid { OrderStatus::Paid } else { OrderStatus::PendingPayment },
        items: items(wish, &offers, quote)?,
        total_amount: total.amount,
        freight_amount: quote.freight.amount,
        discount_amount: quote.discount().map_err(|_| too_large())?,
        points_used: total.points_used,
        balance_amount: total.balance_amount,
        customer_id: tender.as_ref().map(|t| t.customer.clone()),
        prepaid_goods_amount: total.prepaid_covered,
        prepaid_amount: total.prepaid_amount,
        payment_amount: total.payment_amount,
        payment_method: wish.method,
        address: address.clone(),
        remark: command.remark.clone(),
        created_at: now,
        expire_time: now + TimeDelta::minutes(rules.order_expire_minutes),
        paid_at: paid.then_some(now),
        transaction_id: None,
        shipping: None,
        closed_at: None,
        close_reason: None,
        completed_at: None,
        points_earned: Points::ZERO,
        points_earn_fen: None,
        coins_used: 0,
        coins_earned: 0,
        qualification_id: right.map(|r| r.id.clone()),
        user_coupon_id: wish.user_coupon_id.clone(),
        payment_attempts: 0,
        stock_release: Vec::new(),
        refund_revision: 0,
        refund_state: None,
        price_proof: Some(proof),
        adjustments: Vec::new(),
        notes: Vec::new(),
    };
    Ok(Decision { order, tender, right: right.cloned() })
}

/// An order, and the prepaid money and goods and the right to buy that it uses.
pub(crate) struct Decision {
    pub(crate) order: Order,
    pub(crate) tender: Option<Tender>,
    pub(crate) right: Option<Qualification>,
}

fn items(wish: &Wish, offers: &[Offer<'_>], quote: &Quote) -> Result<Vec<OrderItem>, Refusal> {
    let lines = wish.lines.iter().zip(offers).zip(&quote.lines).enumerate();
    let item = |(i, ((wanted, offer), share)): (usize, ((&Wanted, &Offer<'_>), &Share))| {
        Ok(OrderItem {
            line_id: i.saturating_add(1).to_string(),
            product_id: wanted.product_id.clone(),
            sku_id: wanted.sku_id.clone(),
            name: offer.product.name.clone(),
            sku_name: offer.sku.map(|s| s.name.clone()),
            image: offer.product.images.first().cloned(),
            price: offer.price,
            quantity: wanted.quantity,
            amount: share.amount,
            coupon_discount: share.coupon_discount,
            points_discount: share.points_discount,
            staff_discount: Fen::ZERO,
            payable: share.payable().map_err(|_| too_large())?,
            prepaid_quantity: share.prepaid_quantity,
            prepaid_covered: share.prepaid_covered,
            grants_coin: offer.product.grants_coin,
        })
    };
    lines.map(item).collect()
}
