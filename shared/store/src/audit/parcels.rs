//! Parcels agree with themselves, with the orders that are in them, and with what the outbox subscribed to.

use std::collections::HashMap;

use bson::Bson;
use chrono::TimeDelta;
use domain::{Logistics, ParcelState};

use super::{Audit, Batch};
use crate::Error;
use crate::orders::Order;
use crate::outbox::{OutboxItem, OutboxStatus};
use crate::parcels::{Attention, Following, Parcel, ParcelSubscription, TRACES_KEPT};

const NAME: &str = "parcel";

/// Kuaidi100 locks a number that is asked about more often.
const QUERIES_APART: TimeDelta = TimeDelta::minutes(30);

/// `outbox._id` of a subscription.
fn item_id(parcel: &Parcel, subscription: &ParcelSubscription) -> String {
    format!("parcel:{}:{}", parcel.id, subscription.n)
}

/// The parcel and the number of the subscription that an item of the outbox is about.
fn about(item: &OutboxItem) -> Option<(&str, i64)> {
    let (parcel, n) = item.id.strip_prefix("parcel:")?.rsplit_once(':')?;
    Some((parcel, n.parse().ok()?))
}

impl Audit<'_> {
    pub(super) async fn parcels(&mut self) -> Result<(), Error> {
        let mut after: Option<Bson> = None;
        loop {
            let batch: Batch<Parcel> = self.batch("parcels", NAME, after).await?;
            let ids = batch.rows.iter().flat_map(|p| p.orders.iter().map(|o| o.order_id.as_str().to_owned())).collect();
            let orders: Vec<Order> = self.matching("orders", "_id", ids).await?;
            let orders: HashMap<&str, &Order> = orders.iter().map(|o| (o.id.as_str(), o)).collect();
            let ids = batch.rows.iter().filter_map(|p| p.subscription.as_ref().map(|s| item_id(p, s))).collect();
            let items: Vec<OutboxItem> = self.matching("outbox", "_id", ids).await?;
            let items: HashMap<&str, &OutboxItem> = items.iter().map(|i| (i.id.as_str(), i)).collect();
            for parcel in &batch.rows {
                let mut off = parcel_off(parcel);
                off.extend(orders_off(parcel, &orders));
                if let Some(subscription) = &parcel.subscription {
                    let item = items.get(item_id(parcel, subscription).as_str());
                    off.extend(subscription_off(
                        subscription.state,
                        item.map(|i| i.status),
                        parcel.last_push_at.is_some(),
                    ));
                }
                for message in off {
                    self.violation(NAME, message, format!("parcels/{}", parcel.id));
                }
            }
            match batch.next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// An order that shows a parcel was sent with it, and is in it.
    pub(super) async fn check_parcels_of(&mut self, orders: &[Order]) -> Result<(), Error> {
        let shown = |order: &Order| order.shipping.as_ref().and_then(|s| s.parcel.as_ref()).map(|p| p.id.clone());
        let parcels: Vec<Parcel> = self.matching("parcels", "_id", orders.iter().filter_map(shown).collect()).await?;
        for order in orders {
            let (Some(id), Some(shipping)) = (shown(order), &order.shipping) else { continue };
            let parcel = parcels.iter().find(|p| p.id == id);
            let mut say = |message: &str| self.violation(NAME, message, format!("orders/{}", order.id));
            if !parcel.is_some_and(|p| p.orders.iter().any(|o| o.order_id == order.id)) {
                say("the order shows a parcel that it is not in");
            }
            let number = shipping.tracking_no.as_deref().unwrap_or_default().to_ascii_uppercase();
            if shipping.logistics != Logistics::Express || !id.ends_with(&format!(":{number}")) {
                say("the order shows another parcel than it was sent with");
            }
            if shipping.untracked.is_some() {
                say("the order shows a parcel, and that there is none");
            }
        }
        Ok(())
    }

    /// Subscriptions in the outbox are those that parcels have made.
    pub(super) async fn check_subscriptions_of(&mut self, items: &[OutboxItem]) -> Result<(), Error> {
        let ids = items.iter().filter_map(|item| Some(about(item)?.0.to_owned())).collect();
        let parcels: Vec<Parcel> = self.matching("parcels", "_id", ids).await?;
        for item in items.iter().filter(|item| item.kind == "parcelSubscription") {
            let parcel = about(item).and_then(|(id, n)| Some((parcels.iter().find(|p| p.id == id)?, n)));
            let made = parcel.is_some_and(|(parcel, n)| {
                let newest = parcel.subscription.as_ref().map_or(0, |s| s.n);
                (1..=newest).contains(&n) && !parcel.orders.is_empty()
            });
            if !made {
                self.violation(NAME, "a subscription that no parcel of an order made", format!("outbox/{}", item.id));
            }
        }
        Ok(())
    }
}

/// What is wrong with a parcel by itself.
fn parcel_off(parcel: &Parcel) -> Vec<&'static str> {
    let mut off = Vec::new();
    let mut say = |wrong: bool, what: &'static str| {
        if wrong {
            off.push(what);
        }
    };
    say(parcel.id != Parcel::key(&parcel.company, &parcel.number), "its key is another parcel's");
    say(parcel.open == parcel.state.is_final(), "is open or not, other than its state says");
    say(parcel.signed_at.is_some() != parcel.state.is_signed(), "was signed for, or not, other than its state says");
    let attention = match parcel.attention {
        None => !parcel.state.is_return() && parcel.state != ParcelState::Problem,
        // One that was signed for may still come back.
        Some(Attention::Returning) => parcel.state.is_return() || parcel.state.is_signed(),
        Some(Attention::Problem) => parcel.state == ParcelState::Problem,
        Some(Attention::Lost) => !parcel.state.is_final(),
    };
    say(!attention, "staff are asked to look at it, or not, other than its state says");
    let sorted = parcel.traces.windows(2).all(|pair| matches!(pair, [newer, older] if newer.at >= older.at));
    say(!sorted || parcel.traces.len() > TRACES_KEPT, "its trace is not in order");
    say(parcel.traces.first().map(|t| t.at) != parcel.newest_at, "its newest entry is not its newest time");
    say(i64::try_from(parcel.traces.len()).unwrap_or(i64::MAX) > parcel.trace_count, "keeps more entries than came");
    let apart = parcel.queries.windows(2).all(|pair| matches!(pair, [a, b] if b.0 - a.0 >= QUERIES_APART));
    say(!apart, "was asked about more often than Kuaidi100 allows");
    say(
        parcel.expires_at.is_some() != parcel.orders.is_empty(),
        "will be forgotten, or not, other than its orders say",
    );
    say(parcel.orders.is_empty() && parcel.subscription.is_some(), "is followed for nobody");
    off
}

/// What its orders show of it is what it is.
fn orders_off(parcel: &Parcel, orders: &HashMap<&str, &Order>) -> Vec<&'static str> {
    let mut off = Vec::new();
    for entry in &parcel.orders {
        match orders.get(entry.order_id.as_str()) {
            None => off.push("an order in it is not there"),
            Some(order) => {
                if order.user_id != entry.user_id {
                    off.push("an order in it is somebody else's");
                }
                if order.shipping.as_ref().and_then(|s| s.parcel.as_ref()) != Some(&parcel.summary(order)) {
                    off.push("an order in it shows it otherwise than it is");
                }
            }
        }
    }
    off
}

/// A subscription stands as its delivery says, or as its news do: they may come although every answer got lost.
fn subscription_off(state: Following, item: Option<OutboxStatus>, has_news: bool) -> Option<&'static str> {
    use OutboxStatus::{Dead, Delivered, Pending, Skipped, Unknown};
    let Some(status) = item else { return Some("its subscription is not in the outbox") };
    let fits = match state {
        Following::Pending => status != Delivered,
        // The answer is written down before the delivery ends.
        Following::Active | Following::Aborted => has_news || matches!(status, Delivered | Pending),
        Following::Ended => has_news || matches!(status, Delivered | Pending | Skipped),
        Following::Refused => matches!(status, Pending | Dead | Skipped | Unknown),
    };
    (!fits).then_some("its subscription stands otherwise than its delivery says")
}
