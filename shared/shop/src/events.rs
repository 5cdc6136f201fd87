//! What happened, told to the people it happened to: one message per event, written to the outbox in the transaction of its cause.
//!
//! An event without a template in the configuration is not told. Each message carries every value that its event has, by name, so
//! that any template can show any of them; docs/OPERATIONS.md lists them.

use std::collections::{BTreeMap, HashSet};

use chrono::{DateTime, Utc};
use domain::day::clock_text;
use domain::{Consent, Event, Fen, Logistics, OpenId, OrderId, ShopRules, Tells, Yuan};
use providers::kuaidi100::Company;
use store::orders::{Order, Shipping};
use store::outbox::OutboxItem;
use store::payments::ExceptionKind;
use store::subscriptions::Subscription;
use store::{Error, Store, Tx};
use wechat::subscribe::{THING_MAX, cut};

use crate::messages::{Message, item};

pub(crate) fn values<const N: usize>(pairs: [(&str, String); N]) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Of these people those whom a message about `event` can reach: everybody where one agreement is for all messages, or where only
/// the delivery knows who agreed. Nobody where the event is not told.
pub(crate) async fn reachable<'p>(
    store: &Store,
    tells: &Tells,
    event: Event,
    people: impl Iterator<Item = &'p OpenId>,
) -> Result<Reachable, Error> {
    match tells.of(event) {
        None => Ok(Reachable::Nobody),
        Some(Consent::LongTerm | Consent::Elsewhere) => Ok(Reachable::Everybody),
        Some(Consent::EachTime { template_id }) => {
            let ids: Vec<String> = people.map(|open_id| Subscription::key(open_id, template_id)).collect();
            let permitted = store.permitted(&ids).await?.into_iter().collect();
            Ok(Reachable::Permitted { template_id: template_id.clone(), permitted })
        }
    }
}

/// Whom a mass message can reach.
pub(crate) enum Reachable {
    Nobody,
    Everybody,
    Permitted { template_id: String, permitted: HashSet<String> },
}

impl Reachable {
    pub(crate) fn includes(&self, open_id: &OpenId) -> bool {
        match self {
            Self::Nobody => false,
            Self::Everybody => true,
            Self::Permitted { template_id, permitted } => permitted.contains(&Subscription::key(open_id, template_id)),
        }
    }
}

/// What an order's message can say.
struct OrderNews<'a> {
    status: &'a str,
    amount: Fen,
    at: DateTime<Utc>,
    shipping: Option<&'a Shipping>,
    reason: &'a str,
}

fn order_message(
    order: &Order,
    event: Event,
    key: &str,
    news: &OrderNews<'_>,
    now: DateTime<Utc>,
) -> Result<OutboxItem, Error> {
    let values = values([
        ("orderNo", order.id.as_str().to_owned()),
        ("amount", format!("{}元", Yuan(news.amount))),
        ("products", products(order)),
        ("time", clock_text(news.at)),
        ("status", news.status.to_owned()),
        ("expressCompany", news.shipping.map(carrier).unwrap_or_default()),
        ("trackingNo", news.shipping.and_then(|s| s.tracking_no.clone()).unwrap_or_default()),
        ("reason", news.reason.to_owned()),
    ]);
    let told = Message::new(order.open_id.clone(), event.as_str(), values);
    let mut item = item(&format!("order:{}:{key}", order.id), &told, now)?;
    item.order_id = Some(order.id.clone());
    Ok(item)
}

/// `苹果等3件`, short enough for a template; the name alone of a single piece.
fn products(order: &Order) -> String {
    let pieces = order.items.iter().fold(0i64, |sum, line| sum.saturating_add(line.quantity));
    let suffix = if pieces > 1 { format!("等{pieces}件") } else { String::new() };
    let name = order.items.first().map_or("", |line| line.name.as_str());
    let room = THING_MAX.saturating_sub(suffix.chars().count());
    format!("{}{suffix}", cut(name, room))
}

/// Who brings the goods, for people.
fn carrier(shipping: &Shipping) -> String {
    match shipping.logistics {
        Logistics::City => "同城配送".to_owned(),
        Logistics::Virtual => "无需物流".to_owned(),
        Logistics::Pickup => "到店自提".to_owned(),
        Logistics::Express => {
            let code = shipping.express_company.as_deref().unwrap_or_default();
            Company::of(code).map_or(code, |company| company.name).to_owned()
        }
    }
}

/// What the buyer pays for an order, whatever with.
fn price(order: &Order) -> Fen {
    order.total_amount.checked_sub(order.discount_amount).unwrap_or(order.payment_amount)
}

/// Tells the buyer that an order is paid.
pub(crate) async fn order_paid(tx: &mut Tx, order: &Order, rules: &ShopRules, now: DateTime<Utc>) -> Result<(), Error> {
    if rules.tells.of(Event::OrderPaid).is_none() {
        return Ok(());
    }
    let news = OrderNews { status: "已支付", amount: price(order), at: now, shipping: None, reason: "" };
    tx.enqueue(&order_message(order, Event::OrderPaid, "paid", &news, now)?).await
}

/// Tells the buyer that an order is on its way.
pub(crate) async fn order_shipped(
    tx: &mut Tx,
    order: &Order,
    shipping: &Shipping,
    rules: &ShopRules,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    if rules.tells.of(Event::OrderShipped).is_none() {
        return Ok(());
    }
    let (at, shipping) = (shipping.shipped_at, Some(shipping));
    let news = OrderNews { status: "已发货", amount: price(order), at, shipping, reason: "" };
    tx.enqueue(&order_message(order, Event::OrderShipped, "shipped", &news, now)?).await
}

/// Tells the buyer that their parcel was signed for.
pub(crate) async fn order_arrived(
    tx: &mut Tx,
    order: &Order,
    shipping: &Shipping,
    at: DateTime<Utc>,
    tells: &Tells,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    if tells.of(Event::OrderArrived).is_none() {
        return Ok(());
    }
    let news = OrderNews { status: "已签收", amount: price(order), at, shipping: Some(shipping), reason: "" };
    tx.enqueue(&order_message(order, Event::OrderArrived, "arrived", &news, now)?).await
}

/// A refund that WeChat has confirmed.
#[derive(Clone, Copy, Debug)]
pub struct Refunded<'a> {
    pub out_refund_no: &'a str,
    pub amount: Fen,
    /// For the buyer.
    pub reason: &'a str,
}

/// Tells the buyer that money has gone back, once per refund.
pub async fn order_refunded(
    tx: &mut Tx,
    order: &OrderId,
    refund: &Refunded<'_>,
    tells: &Tells,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    if tells.of(Event::OrderRefunded).is_none() {
        return Ok(());
    }
    let order = tx.order(order).await?.ok_or_else(|| Error::Invariant(format!("a refund of no order {order}")))?;
    let news = OrderNews { status: "已退款", amount: refund.amount, at: now, shipping: None, reason: refund.reason };
    let key = format!("refund:{}", refund.out_refund_no);
    tx.enqueue(&order_message(&order, Event::OrderRefunded, &key, &news, now)?).await
}

/// Why a payment went back, for its payer.
pub(crate) fn refund_reason(kind: ExceptionKind) -> &'static str {
    match kind {
        ExceptionKind::PaidTwice => "订单重复支付",
        ExceptionKind::PaidAfterClose => "付款时订单已关闭",
        ExceptionKind::WrongAmount => "付款金额与订单不符",
        ExceptionKind::UnknownPayment
        | ExceptionKind::WrongCurrency
        | ExceptionKind::WrongAppid
        | ExceptionKind::WrongMchid
        | ExceptionKind::PortalRefund
        | ExceptionKind::RefundAmount
        | ExceptionKind::RefundedTwice
        | ExceptionKind::BillUnknownPayment
        | ExceptionKind::BillMissingPayment
        | ExceptionKind::BillAmount
        | ExceptionKind::BillState
        | ExceptionKind::BillUnknownRefund
        | ExceptionKind::BillMissingRefund
        | ExceptionKind::BillRefundAmount
        | ExceptionKind::BillRefundState => "付款未能用于订单",
    }
}
