//! The rule: what the wanted goods become as an order. Pure.

use chrono::{DateTime, TimeDelta, Utc};
use domain::pricing::{Line, Quote, check_claim, quote};
use domain::{Code, Fen, OrderId, OrderStatus, OrderType, PaymentMethod, Points, Refusal, ShopRules};
use shop::prepaid::Tender;
use store::members::Member;
use store::orders::{Order, OrderItem};
use store::prepaid::PrepaidRecord;
use store::products::Product;

use crate::input::{Command, Wanted};
use crate::prepaid::{self, Prepaid};

/// Prices the command at the store's prices and shapes the order; refuses what cannot be bought.
pub(crate) fn decide(
    command: &Command,
    products: &[Product],
    member: &Member,
    records: &[PrepaidRecord],
    rules: &ShopRules,
    id: OrderId,
    now: DateTime<Utc>,
) -> Result<Decision, Refusal> {
    let offers = command
        .lines
        .iter()
        .enumerate()
        .map(|(i, wanted)| Offer::find(i, wanted, products))
        .collect::<Result<Vec<_>, _>>()?;
    for (i, (wanted, offer)) in command.lines.iter().zip(&offers).enumerate() {
        check_claim(&format!("items[{i}].price"), wanted.claimed_price, offer.price)?;
    }
    let lines: Vec<Line> =
        command.lines.iter().zip(&offers).map(|(w, o)| Line { price: o.price, quantity: w.quantity }).collect();
    let quote = quote(&lines, command.points, rules.point_value_fen)?;
    let prepaid = prepaid::decide(command, &quote, member, records)?;
    let left = quote.payable.checked_sub(prepaid.total()?).map_err(|_| too_large())?;
    let (balance, payment) = match command.method {
        PaymentMethod::Balance => (left, Fen::ZERO),
        PaymentMethod::Wechat | PaymentMethod::Prestore | PaymentMethod::Prepaid => (Fen::ZERO, left),
    };
    check_claim("totalAmount", command.claimed_total, quote.total)?;
    check_claim("paymentAmount", command.claimed_payment, payment)?;
    // The deductions are guarded in the transaction; these two only spare the stock a detour.
    if command.points > member.points {
        return Err(Code::PointsInsufficient.into());
    }
    if balance > member.balance {
        return Err(Code::BalanceInsufficient.into());
    }
    let paid = payment.is_zero();
    let order = Order {
        id,
        user_id: member.id.clone(),
        open_id: member.open_id.clone(),
        order_type: OrderType::Normal,
        status: if paid { OrderStatus::Paid } else { OrderStatus::PendingPayment },
        items: items(command, &offers, &quote, &prepaid),
        total_amount: quote.total,
        discount_amount: quote.points_discount,
        points_used: command.points,
        balance_amount: balance,
        customer_id: prepaid.tender.as_ref().map(|t| t.customer.clone()),
        prepaid_goods_amount: prepaid.goods_value()?,
        prepaid_amount: prepaid.amount,
        payment_amount: payment,
        payment_method: command.method,
        address: command.address.clone(),
        remark: command.remark.clone(),
        created_at: now,
        expire_time: now + TimeDelta::minutes(rules.order_expire_minutes),
        paid_at: paid.then_some(now),
        transaction_id: None,
        closed_at: None,
        close_reason: None,
        points_earned: Points::ZERO,
        coins_used: 0,
        coins_earned: 0,
        qualification_id: None,
        payment_attempts: 0,
        stock_release: Vec::new(),
    };
    Ok(Decision { order, tender: prepaid.tender })
}

/// An order, and the prepaid money and goods that it uses.
pub(crate) struct Decision {
    pub(crate) order: Order,
    pub(crate) tender: Option<Tender>,
}

pub(crate) fn too_large() -> Refusal {
    Refusal::invalid("items", "订单金额超出范围")
}

/// What the store sells under a wanted line.
struct Offer<'a> {
    product: &'a Product,
    sku_name: Option<&'a str>,
    price: Fen,
}

impl<'a> Offer<'a> {
    fn find(i: usize, wanted: &Wanted, products: &'a [Product]) -> Result<Self, Refusal> {
        let missing = || Refusal::new(Code::ProductNotFound).detail("productId", wanted.product_id.as_str());
        let product = products.iter().find(|p| p.id == wanted.product_id && p.is_on_sale()).ok_or_else(missing)?;
        let field = format!("items[{i}].skuId");
        match &wanted.sku_id {
            None if product.skus.is_empty() => Ok(Self { product, sku_name: None, price: product.price }),
            None => Err(Refusal::invalid(&field, "请选择规格")),
            Some(id) => {
                let sku = product.sku(id).ok_or_else(|| missing().detail("skuId", id.as_str()))?;
                Ok(Self { product, sku_name: Some(&sku.name), price: sku.price })
            }
        }
    }
}

fn items(command: &Command, offers: &[Offer<'_>], quote: &Quote, prepaid: &Prepaid) -> Vec<OrderItem> {
    let lines = command.lines.iter().zip(offers).zip(&quote.lines).zip(&prepaid.lines).enumerate();
    lines
        .map(|(i, (((wanted, offer), priced), covered))| OrderItem {
            line_id: i.saturating_add(1).to_string(),
            product_id: wanted.product_id.clone(),
            sku_id: wanted.sku_id.clone(),
            name: offer.product.name.clone(),
            sku_name: offer.sku_name.map(str::to_owned),
            image: offer.product.images.first().cloned(),
            price: offer.price,
            quantity: wanted.quantity,
            amount: priced.amount,
            points_discount: priced.points_discount,
            payable: priced.payable,
            prepaid_quantity: covered.quantity,
            prepaid_covered: covered.value,
            grants_coin: offer.product.grants_coin,
        })
        .collect()
}
