//! What was told or reported has its cause, and what had to be reported is in the outbox.

use std::collections::{HashMap, HashSet};

use bson::{Bson, Document, doc};
use domain::machine::refund::State;
use domain::{OrderStatus, OrderType};
use futures_util::TryStreamExt;
use serde_json::Value;

use super::Audit;
use super::rules::completion_off;
use crate::coins::CoinLot;
use crate::lottery::Ticket;
use crate::orders::Order;
use crate::outbox::OutboxItem;
use crate::payments::{ExceptionStatus, PaymentException};
use crate::qualifications::Qualification;
use crate::refunds::Refund;
use crate::{Error, date};

/// What an item of the outbox is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause<'a> {
    Paid { order: &'a str },
    Shipped { order: &'a str },
    Arrived { order: &'a str },
    Refunded { order: &'a str, refund: &'a str },
    Coins { user: &'a str },
    Draw { round: &'a str, ticket: &'a str },
    Report { order: &'a str },
}

impl<'a> Cause<'a> {
    /// None for items about something else.
    fn of(id: &'a str) -> Option<Self> {
        if let Some(rest) = id.strip_prefix("shipping:") {
            return Some(Self::Report { order: rest.split_once(':').map_or(rest, |(order, _)| order) });
        }
        let (about, rest) = id.strip_prefix("message:")?.split_once(':')?;
        match about {
            "order" => match rest.split_once(':')? {
                (order, "paid") => Some(Self::Paid { order }),
                (order, "shipped") => Some(Self::Shipped { order }),
                (order, "arrived") => Some(Self::Arrived { order }),
                (order, what) => Some(Self::Refunded { order, refund: what.strip_prefix("refund:")? }),
            },
            "coins" => Some(Self::Coins { user: rest.rsplit_once(':')?.0 }),
            "lottery" => {
                let (round, ticket) = rest.strip_suffix(":promoted").unwrap_or(rest).rsplit_once(':')?;
                Some(Self::Draw { round, ticket })
            }
            _ => None,
        }
    }

    fn order(self) -> Option<&'a str> {
        match self {
            Self::Paid { order }
            | Self::Shipped { order }
            | Self::Arrived { order }
            | Self::Refunded { order, .. }
            | Self::Report { order } => Some(order),
            Self::Coins { .. } | Self::Draw { .. } => None,
        }
    }
}

/// The documents that a batch of items is about.
#[derive(Default)]
struct Causes {
    orders: HashMap<String, Order>,
    exceptions: Vec<PaymentException>,
    refunds: Vec<Refund>,
    lots: Vec<CoinLot>,
    tickets: HashMap<String, Ticket>,
    rights: HashMap<String, Qualification>,
}

impl Audit<'_> {
    /// An order has shipping data exactly from its shipping on, and a report that it says it has is in the outbox.
    pub(super) async fn check_shipping_of(&mut self, orders: &[Order]) -> Result<(), Error> {
        let reported = |order: &&Order| order.shipping.as_ref().is_some_and(|shipping| shipping.reported);
        let ids = orders.iter().filter(reported).map(|order| format!("shipping:{}:1", order.id)).collect();
        let items: Vec<OutboxItem> = self.matching("outbox", "_id", ids).await?;
        let reports: HashSet<&str> = items.iter().map(|item| item.id.as_str()).collect();
        for order in orders {
            let mut say = |message: &str| self.violation("shipping", message, format!("orders/{}", order.id));
            let shipped = matches!(order.status, OrderStatus::Shipped | OrderStatus::Completed);
            if shipped != order.shipping.is_some() {
                say("an order has shipping data exactly if it was shipped");
            }
            if let Some(message) = completion_off(order) {
                say(message);
            }
            if reported(&order) && order.transaction_id.is_none() {
                say("a shipment is reported to WeChat that it took no money for");
            }
            if reported(&order) && !reports.contains(format!("shipping:{}:1", order.id).as_str()) {
                say("the report of a shipment is not in the outbox");
            }
        }
        Ok(())
    }

    /// Items about orders, coins and draws have their cause, and reach the person it concerns.
    pub(super) async fn check_causes_of(&mut self, items: &[OutboxItem]) -> Result<(), Error> {
        let causes = self.causes(items).await?;
        for item in items {
            if let Some(message) = Cause::of(&item.id).and_then(|cause| cause_off(item, cause, &causes)) {
                self.violation("event", message, format!("outbox/{}", item.id));
            }
        }
        Ok(())
    }

    async fn causes(&mut self, items: &[OutboxItem]) -> Result<Causes, Error> {
        let about: Vec<Cause<'_>> = items.iter().filter_map(|item| Cause::of(&item.id)).collect();
        let owned = |text: &str| text.to_owned();
        let orders = about.iter().filter_map(|cause| cause.order().map(owned)).collect();
        let (mut refunds, mut users, mut tickets, mut rights) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for cause in about {
            match cause {
                Cause::Refunded { refund, .. } => refunds.push(owned(refund)),
                Cause::Coins { user } => users.push(owned(user)),
                Cause::Draw { round, ticket } => {
                    tickets.push(owned(ticket));
                    rights.push(Qualification::key(round, ticket));
                }
                _ => {}
            }
        }
        let orders: Vec<Order> = self.matching("orders", "_id", orders).await?;
        let tickets: Vec<Ticket> = self.matching("lotteryTickets", "_id", tickets).await?;
        let rights: Vec<Qualification> = self.matching("lotteryQualifications", "_id", rights).await?;
        Ok(Causes {
            orders: orders.into_iter().map(|o| (o.id.as_str().to_owned(), o)).collect(),
            refunds: self.matching("refunds", "_id", refunds.clone()).await?,
            exceptions: self.matching("paymentExceptions", "outRefundNo", refunds).await?,
            lots: self.lots_of(users, items).await?,
            tickets: tickets.into_iter().map(|t| (t.id.clone(), t)).collect(),
            rights: rights.into_iter().map(|r| (r.id.clone(), r)).collect(),
        })
    }

    /// These users' lots that expire when one of these items does; all of them where one was redriven, which has another term since.
    async fn lots_of(&mut self, users: Vec<String>, items: &[OutboxItem]) -> Result<Vec<CoinLot>, Error> {
        if users.is_empty() {
            return Ok(Vec::new());
        }
        let redriven = |item: &&OutboxItem| item.redrives > 0;
        let again: Vec<&str> = items.iter().filter(redriven).filter_map(|item| told_of_coins(&item.id)).collect();
        let ends: Vec<Bson> = items.iter().filter_map(|item| item.expires_at).map(date::bson).collect();
        let filter = doc! { "$or": [{ "userId": { "$in": users }, "expiresAt": { "$in": ends } }, { "userId": { "$in": again } }] };
        let lots = self.collection("activityCoinLots").await?;
        let mut cursor = lots.find(filter).session(&mut self.session).await?;
        let found: Vec<Document> = cursor.stream(&mut self.session).try_collect().await?;
        Ok(found.into_iter().filter_map(|lot| bson::deserialize_from_document(lot).ok()).collect())
    }
}

/// The user whom an item tells of coins that expire.
fn told_of_coins(id: &str) -> Option<&str> {
    match Cause::of(id)? {
        Cause::Coins { user } => Some(user),
        _ => None,
    }
}

/// Why an item is not what its cause calls for.
fn cause_off(item: &OutboxItem, cause: Cause<'_>, causes: &Causes) -> Option<&'static str> {
    let payload: Value = serde_json::from_str(&item.payload).unwrap_or_default();
    let text = |field: &str| payload.get(field).and_then(Value::as_str);
    let order = cause.order().and_then(|id| causes.orders.get(id));
    let to = |open_id: &str| text("openId") == Some(open_id);
    if cause.order().is_some() {
        let Some(order) = order else { return Some("it is about an order that is not there") };
        if item.order_id.as_ref() != Some(&order.id) || !to(order.open_id.as_str()) {
            return Some("it does not go to the buyer of its order");
        }
    }
    let (holds, message) = match cause {
        Cause::Paid { .. } => (order.is_some_and(was_paid), "it tells of a payment of an order that is not paid"),
        Cause::Shipped { .. } => {
            (order.is_some_and(|o| o.shipping.is_some()), "it tells of the shipping of an order that is not shipped")
        }
        Cause::Arrived { .. } => {
            let parcel = order.and_then(|o| o.shipping.as_ref()?.parcel.as_ref());
            (parcel.is_some_and(|p| p.arrived_at.is_some()), "it tells of a parcel that has not arrived")
        }
        Cause::Refunded { refund, .. } => {
            let back = causes.exceptions.iter().any(|e| {
                e.out_refund_no.as_deref() == Some(refund)
                    && e.status == ExceptionStatus::Refunded
                    && e.order_id == item.order_id
            });
            let after_sale = causes
                .refunds
                .iter()
                .any(|r| r.id == refund && r.status == State::Refunded && Some(&r.order_id) == item.order_id.as_ref());
            (back || after_sale, "it tells of a refund that nobody got")
        }
        Cause::Coins { user } => {
            let held = causes.lots.iter().any(|lot| {
                let then = item.redrives > 0 || Some(lot.expires_at) == item.expires_at;
                lot.user_id.as_str() == user && then && to(lot.open_id.as_str())
            });
            (held, "it tells of coins that do not expire then")
        }
        Cause::Draw { round, ticket } => {
            let drawn = causes.tickets.get(ticket);
            let own = drawn.is_some_and(|t| t.round_id == round && to(t.open_id.as_str()));
            let right = causes.rights.get(&Qualification::key(round, ticket));
            // Those with a term of their own go to winners; there were none before.
            let lucky = item.kind != "message" || item.expires_at.is_none() || right.is_some();
            (own && lucky, "it tells of a draw that did not end so")
        }
        Cause::Report { .. } => {
            let told = order.filter(|o| o.shipping.as_ref().is_some_and(|s| s.reported));
            let paid = told.and_then(|o| o.transaction_id.as_deref());
            (paid.is_some() && text("transactionId") == paid, "it reports a shipment that nobody made")
        }
    };
    (!holds).then_some(message)
}

/// A points-mall order is paid when it is made, and may be closed after that.
fn was_paid(order: &Order) -> bool {
    order.status.is_paid() || (order.order_type == OrderType::PointsMall && order.status == OrderStatus::Closed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_tell_what_an_item_is_about() {
        for (id, cause) in [
            ("message:order:A1:paid", Some(Cause::Paid { order: "A1" })),
            ("message:order:A1:shipped", Some(Cause::Shipped { order: "A1" })),
            ("message:order:A1:arrived", Some(Cause::Arrived { order: "A1" })),
            ("message:order:A1:refund:RF1", Some(Cause::Refunded { order: "A1", refund: "RF1" })),
            ("message:coins:u-1:2026-11-21", Some(Cause::Coins { user: "u-1" })),
            ("message:lottery:r-1:t1", Some(Cause::Draw { round: "r-1", ticket: "t1" })),
            ("message:lottery:r-1:t1:promoted", Some(Cause::Draw { round: "r-1", ticket: "t1" })),
            ("shipping:A1:2", Some(Cause::Report { order: "A1" })),
            ("message:a", None),
            ("message:assignment:a", None),
            ("refund:RF1", None),
        ] {
            assert_eq!(Cause::of(id), cause, "{id}");
        }
    }
}
