//! The rule: what the wanted goods become as an order. Pure.

use chrono::{DateTime, TimeDelta, Utc};
use domain::pricing::check_claim;
use domain::quote::{Input, Purse, Quote, Share, Want, prove};
use domain::{Code, OrderId, OrderStatus, OrderType, PaymentMethod, Points, Refusal, ShopRules};
use shop::offers::Offer;
use shop::prepaid::Tender;
use store::coupons::{self, UserCoupon};
use store::members::Member;
use store::orders::{Order, OrderItem};
use store::prepaid::PrepaidRecord;
use store::products::{Product, SaleMode};
use store::qualifications::{self, Qualification};

use crate::input::{Command, Wanted};
use crate::prepaid::Offered;

/// Prices the command at the store's prices and shapes the order; refuses what cannot be bought.
pub(crate) fn decide(
    command: &Command,
    known: &Known,
    rules: &ShopRules,
    id: OrderId,
    now: DateTime<Utc>,
) -> Result<Decision, Refusal> {
    let Known { member, products, records, right, coupon } = known;
    let right =
        command.qualification_id.as_ref().map(|_| check_right(command, right.as_ref(), member, now)).transpose()?;
    let offers = command
        .lines
        .iter()
        .enumerate()
        .map(|(i, w)| Offer::find(i, &w.product_id, w.sku_id.as_ref(), products))
        .collect::<Result<Vec<_>, _>>()?;
    for (i, (wanted, offer)) in command.lines.iter().zip(&offers).enumerate() {
        check_sale_mode(i, offer.product, right)?;
        check_claim(&format!("items[{i}].price"), wanted.claimed_price, offer.price)?;
    }
    let held = command.user_coupon_id.as_ref().map(|_| check_coupon(coupon.as_ref(), member, now)).transpose()?;
    let offered = Offered::of(command, member, records)?;
    let by_balance = command.method == PaymentMethod::Balance;
    let proof = prove(Input {
        lines: command.lines.iter().zip(&offers).map(|(wanted, offer)| offer.line(wanted.quantity)).collect(),
        coupon: held.map(UserCoupon::held),
        points: command.points,
        prepaid_goods: offered.as_ref().and_then(|o| o.goods.clone()),
        prepaid_money: offered.as_ref().and_then(|o| o.money),
        balance: by_balance.then_some(Purse { available: member.balance, want: Want::Rest }),
        sending: None,
        rules: rules.into(),
        now,
    })?;
    let (quote, total) = (&proof.quote, proof.quote.total);
    check_claim("totalAmount", command.claimed_total, total.amount)?;
    check_claim("paymentAmount", command.claimed_payment, total.payment_amount)?;
    // The deductions are guarded in the transaction; this and what the purses offer only spare the stock a detour.
    if command.points > member.points {
        return Err(Code::PointsInsufficient.into());
    }
    let tender = offered.and_then(|o| o.tender(command, quote));
    let paid = total.payment_amount.is_zero();
    let order = Order {
        id,
        user_id: member.id.clone(),
        open_id: member.open_id.clone(),
        order_type: if right.is_some() { OrderType::Lottery } else { OrderType::Normal },
        status: if paid { OrderStatus::Paid } else { OrderStatus::PendingPayment },
        items: items(command, &offers, quote)?,
        total_amount: total.amount,
        freight_amount: quote.freight.amount,
        discount_amount: quote.discount().map_err(|_| too_large())?,
        points_used: total.points_used,
        balance_amount: total.balance_amount,
        customer_id: tender.as_ref().map(|t| t.customer.clone()),
        prepaid_goods_amount: total.prepaid_covered,
        prepaid_amount: total.prepaid_amount,
        payment_amount: total.payment_amount,
        payment_method: command.method,
        address: command.address.clone(),
        remark: command.remark.clone(),
        created_at: now,
        expire_time: now + TimeDelta::minutes(rules.order_expire_minutes),
        paid_at: paid.then_some(now),
        transaction_id: None,
        shipping: None,
        closed_at: None,
        close_reason: None,
        points_earned: Points::ZERO,
        coins_used: 0,
        coins_earned: 0,
        qualification_id: right.map(|r| r.id.clone()),
        user_coupon_id: held.map(|h| h.id.clone()),
        payment_attempts: 0,
        stock_release: Vec::new(),
        price_proof: Some(proof),
    };
    Ok(Decision { order, tender, right: right.cloned() })
}

/// What the store knows of a command's subjects.
pub(crate) struct Known {
    pub(crate) member: Member,
    pub(crate) products: Vec<Product>,
    /// The customer's prepaid records, if they may be used.
    pub(crate) records: Vec<PrepaidRecord>,
    /// The right to buy that the command names, whosever it is.
    pub(crate) right: Option<Qualification>,
    /// The coupon that the command names, whosever it is.
    pub(crate) coupon: Option<UserCoupon>,
}

/// The coupon that the command names, if it is the member's and unused. The transaction guards that again; whether it fits the
/// goods is for the price to say.
fn check_coupon<'a>(
    coupon: Option<&'a UserCoupon>,
    member: &Member,
    now: DateTime<Utc>,
) -> Result<&'a UserCoupon, Refusal> {
    let coupon = coupon.filter(|c| c.user_id == member.id).ok_or_else(coupons::not_found)?;
    coupon.check(now)?;
    Ok(coupon)
}

/// The right that the command names, if it is the member's and for exactly the wanted goods.
fn check_right<'a>(
    command: &Command,
    right: Option<&'a Qualification>,
    member: &Member,
    now: DateTime<Utc>,
) -> Result<&'a Qualification, Refusal> {
    let right = right.filter(|r| r.user_id == member.id).ok_or_else(qualifications::not_found)?;
    // Whether it still holds is told before what it is for.
    right.check(&right.product_id, right.sku_id.as_ref(), right.quantity, now)?;
    let [line] = command.lines.as_slice() else {
        return Err(qualifications::invalid("PRODUCT_MISMATCH", "使用购买资格时只能购买该商品"));
    };
    right.check(&line.product_id, line.sku_id.as_ref(), line.quantity, now)?;
    Ok(right)
}

/// Whether the product may be bought in this way.
fn check_sale_mode(i: usize, product: &Product, right: Option<&Qualification>) -> Result<(), Refusal> {
    match (product.sale_mode, right) {
        (SaleMode::Shop, _) | (SaleMode::Lottery, Some(_)) => Ok(()),
        (SaleMode::Lottery, None) => Err(qualifications::invalid("REQUIRED", "该商品需中签后凭购买资格购买")
            .detail("productId", product.id.as_str())),
        (SaleMode::Mall, _) => Err(Refusal::invalid(&format!("items[{i}].productId"), "该商品只能在积分商城兑换")),
    }
}

/// An order, and the prepaid money and goods and the right to buy that it uses.
pub(crate) struct Decision {
    pub(crate) order: Order,
    pub(crate) tender: Option<Tender>,
    pub(crate) right: Option<Qualification>,
}

pub(crate) fn too_large() -> Refusal {
    Refusal::invalid("items", "订单金额超出范围")
}

fn items(command: &Command, offers: &[Offer<'_>], quote: &Quote) -> Result<Vec<OrderItem>, Refusal> {
    let lines = command.lines.iter().zip(offers).zip(&quote.lines).enumerate();
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
            payable: share.payable().map_err(|_| too_large())?,
            prepaid_quantity: share.prepaid_quantity,
            prepaid_covered: share.prepaid_covered,
            grants_coin: offer.product.grants_coin,
        })
    };
    lines.map(item).collect()
}
