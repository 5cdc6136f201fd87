//! Making the order: read, decide, make.

use chrono::{DateTime, Utc};
use domain::{Code, Failure, OpenId, OrderId, OrderStatus, ShopRules, Yuan};
use serde::Serialize;
use shop::place::{Making, make};
use shop::pricing::Known;
use shop::views::{self, ItemView};
use store::orders::Order;
use store::{CommandKey, Once, Store};

use crate::decide::{Decision, decide};
use crate::input::Command;

/// Whom the order is for.
pub(crate) struct Buyer {
    pub(crate) open_id: OpenId,
    /// What to answer if the shop does not know them.
    pub(crate) code_if_unknown: Code,
}

/// The reply. Amounts in yuan.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Output {
    order_id: String,
    status: OrderStatus,
    total_amount: Yuan,
    discount_amount: Yuan,
    /// Of the discount, what the coupon took off.
    coupon_discount: Yuan,
    freight_amount: Yuan,
    prepaid_amount: Yuan,
    balance_amount: Yuan,
    points_used: i64,
    payment_amount: Yuan,
    expire_time: String,
    items: Vec<ItemView>,
}

fn output(order: &Order) -> Result<serde_json::Value, Failure> {
    let output = Output {
        order_id: order.id.as_str().to_owned(),
        status: order.status,
        total_amount: Yuan(order.total_amount),
        discount_amount: Yuan(order.discount_amount),
        coupon_discount: Yuan(order.coupon_discount()),
        freight_amount: Yuan(order.freight_amount),
        prepaid_amount: Yuan(order.prepaid_total()?),
        balance_amount: Yuan(order.balance_amount),
        points_used: order.points_used.get(),
        payment_amount: Yuan(order.payment_amount),
        expire_time: views::iso(order.expire_time),
        items: order.items.iter().map(ItemView::from).collect(),
    };
    serde_json::to_value(output).map_err(|e| Failure::Internal(e.into()))
}

/// One command on its way to an order.
pub(crate) struct Placing<'a> {
    pub(crate) store: &'a Store,
    pub(crate) rules: &'a ShopRules,
    pub(crate) buyer: &'a Buyer,
    pub(crate) command: &'a Command,
    pub(crate) key: Option<&'a CommandKey>,
    pub(crate) now: DateTime<Utc>,
}

/// Makes the order at most once per key and answers with its reply.
pub(crate) async fn place(placing: &Placing<'_>) -> Result<Once<serde_json::Value>, Failure> {
    shop::place::once(placing.store, placing.key, || Box::pin(try_once(placing))).await
}

/// `None` when it must be tried again.
async fn try_once(placing: &Placing<'_>) -> Result<Option<serde_json::Value>, Failure> {
    let Placing { store, rules, buyer, command, key, now } = *placing;
    let known = Known::read(store, &command.wish, &buyer.open_id, buyer.code_if_unknown).await?;
    let address = command.destination.resolve(store, &known.member).await?;
    let id = OrderId::generate(now, rand::random());
    let Decision { order, tender, right } = decide(command, &known, &address, rules, id, now)?;
    let reply = output(&order)?;
    let (tender, right) = (tender.as_ref(), right.as_ref());
    make(&Making { store, rules, order: &order, tender, right, reply: &reply, key, now }).await
}
