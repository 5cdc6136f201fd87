//! The points mall: goods for coins and points, without money, for members whose real name is verified.

use chrono::{DateTime, Utc};
use domain::{
    Code, Failure, Fen, OpenId, OrderId, OrderStatus, OrderType, PaymentMethod, Points, ProductId, Refusal, ShopRules,
    SkuId,
};
use serde::Serialize;
use serde_json::Value;
use store::members::Member;
use store::orders::{Address, Order, OrderItem};
use store::products::{Product, SaleMode};
use store::{CommandKey, Once, Store};

use crate::address::Destination;
use crate::coins;
use crate::members::active_member;
use crate::place::{self, Making};

/// More pieces at once are refused.
pub const QUANTITY_MAX: i64 = 99;

/// More coins at once are refused: each may come from a lot of its own, and the entry that takes them must stay small.
const COINS_MAX: i64 = 500;

/// What a member wants.
#[derive(Clone, Debug)]
pub struct Redeem {
    pub product_id: ProductId,
    pub sku_id: Option<SkuId>,
    pub quantity: i64,
    pub destination: Destination,
}

/// The reply.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Redeemed<'a> {
    order_id: &'a str,
    points_used: i64,
    coins_used: i64,
    status: OrderStatus,
}

/// A redemption on its way to an order.
#[derive(Clone, Copy)]
pub struct Redeeming<'a> {
    pub store: &'a Store,
    pub rules: &'a ShopRules,
    pub open_id: &'a OpenId,
    pub redeem: &'a Redeem,
    pub key: Option<&'a CommandKey>,
    /// A number for the order, made anew for each try.
    pub random: fn() -> u64,
    pub now: DateTime<Utc>,
}

/// Makes an order that is paid at once with coins and points, at most once per key.
///
/// `IDENTITY_REQUIRED` before anything else; `PRODUCT_NOT_FOUND` also for goods that are not of the mall;
/// `POINTS_INSUFFICIENT`, `COINS_INSUFFICIENT`, `OUT_OF_STOCK`.
pub async fn redeem(redeeming: &Redeeming<'_>) -> Result<Once<Value>, Failure> {
    place::once(redeeming.store, redeeming.key, || Box::pin(try_once(redeeming))).await
}

async fn try_once(redeeming: &Redeeming<'_>) -> Result<Option<Value>, Failure> {
    let Redeeming { store, rules, open_id, redeem, key, random, now } = *redeeming;
    let member = active_member(store, open_id, Code::Unauthenticated).await?;
    if !member.is_verified {
        return Err(Code::IdentityRequired.into());
    }
    let product = store.product(&redeem.product_id).await?;
    let address = redeem.destination.resolve(store, &member).await?;
    let order = decide(redeem, product.as_ref(), &member, address, OrderId::generate(now, random()), now)?;
    // The deduction is guarded in the transaction; this only spares the stock a detour.
    if coins::account(store, &member.id, now).await?.balance < order.coins_used {
        return Err(Code::CoinsInsufficient.into());
    }
    let reply = serde_json::to_value(Redeemed {
        order_id: order.id.as_str(),
        points_used: order.points_used.get(),
        coins_used: order.coins_used,
        status: order.status,
    })
    .map_err(|e| Failure::Internal(e.into()))?;
    place::make(&Making { store, rules, order: &order, tender: None, right: None, reply: &reply, key, now }).await
}

/// The order that a redemption becomes.
fn decide(
    redeem: &Redeem,
    product: Option<&Product>,
    member: &Member,
    address: Address,
    id: OrderId,
    now: DateTime<Utc>,
) -> Result<Order, Refusal> {
    let missing = || Refusal::new(Code::ProductNotFound).detail("productId", redeem.product_id.as_str());
    let product = product.filter(|p| p.is_on_sale() && p.sale_mode == SaleMode::Mall).ok_or_else(missing)?;
    let sku = match &redeem.sku_id {
        None if product.skus.is_empty() => None,
        None => return Err(Refusal::invalid("skuId", "请选择规格")),
        Some(id) => Some(product.sku(id).ok_or_else(|| missing().detail("skuId", id.as_str()))?),
    };
    // Goods without a price of both kinds are not ready to be had.
    if product.points_price < 1 || product.coin_price < 1 {
        return Err(missing());
    }
    let too_many = || Refusal::invalid("quantity", "兑换数量超出范围");
    let times = |price: i64| price.checked_mul(redeem.quantity).ok_or_else(too_many);
    let points = Points::new(times(product.points_price)?).map_err(|_| too_many())?;
    let coins_used = times(product.coin_price)?;
    if coins_used > COINS_MAX {
        return Err(too_many());
    }
    if points > member.points {
        return Err(Code::PointsInsufficient.into());
    }
    let item = OrderItem {
        line_id: "1".to_owned(),
        product_id: product.id.clone(),
        sku_id: redeem.sku_id.clone(),
        name: product.name.clone(),
        sku_name: sku.map(|s| s.name.clone()),
        image: product.images.first().cloned(),
        price: Fen::ZERO,
        quantity: redeem.quantity,
        amount: Fen::ZERO,
        coupon_discount: Fen::ZERO,
        points_discount: Fen::ZERO,
        staff_discount: Fen::ZERO,
        payable: Fen::ZERO,
        prepaid_quantity: 0,
        prepaid_covered: Fen::ZERO,
        grants_coin: false,
    };
    Ok(Order {
        id,
        user_id: member.id.clone(),
        open_id: member.open_id.clone(),
        order_type: OrderType::PointsMall,
        status: OrderStatus::Paid,
        items: vec![item],
        total_amount: Fen::ZERO,
        freight_amount: Fen::ZERO,
        discount_amount: Fen::ZERO,
        points_used: points,
        balance_amount: Fen::ZERO,
        customer_id: None,
        prepaid_goods_amount: Fen::ZERO,
        prepaid_amount: Fen::ZERO,
        payment_amount: Fen::ZERO,
        payment_method: PaymentMethod::Points,
        address,
        remark: String::new(),
        created_at: now,
        expire_time: now,
        paid_at: Some(now),
        transaction_id: None,
        shipping: None,
        closed_at: None,
        close_reason: None,
        completed_at: None,
        points_earned: Points::ZERO,
        points_earn_fen: None,
        coins_used,
        coins_earned: 0,
        qualification_id: None,
        user_coupon_id: None,
        payment_attempts: 0,
        stock_release: Vec::new(),
        refund_revision: 0,
        refund_state: None,
        price_proof: None,
        adjustments: Vec::new(),
        notes: Vec::new(),
    })
}
