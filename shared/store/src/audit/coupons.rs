//! Coupons are counted once, and they and the orders that use them name each other.

use std::collections::HashMap;

use bson::{Bson, Document, doc};
use domain::OrderStatus;
use domain::machine::coupon::State;
use futures_util::TryStreamExt;

use super::{Audit, Batch};
use crate::Error;
use crate::book;
use crate::coupons::{Coupon, UserCoupon, Via};
use crate::orders::Order;

const NAME: &str = "coupon";

impl Audit<'_> {
    pub(super) async fn coupons(&mut self) -> Result<(), Error> {
        let mut after: Option<Bson> = None;
        loop {
            let batch: Batch<Coupon> = self.batch("coupons", NAME, after).await?;
            for coupon in &batch.rows {
                for message in self.count_off(coupon).await? {
                    self.violation(NAME, message, format!("coupons/{}", coupon.id));
                }
            }
            match batch.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        let mut after: Option<Bson> = None;
        loop {
            let batch: Batch<UserCoupon> = self.batch("userCoupons", NAME, after).await?;
            let of = |id: &domain::OrderId| id.as_str().to_owned();
            let ids = batch.rows.iter().flat_map(|c| c.order_id.iter().chain(&c.returned_from).map(of)).collect();
            let orders: Vec<Order> = self.matching("orders", "_id", ids).await?;
            let orders: HashMap<&str, &Order> = orders.iter().map(|o| (o.id.as_str(), o)).collect();
            let ids = batch.rows.iter().map(|c| c.coupon_id.as_str().to_owned()).collect();
            let known: Vec<Coupon> = self.matching("coupons", "_id", ids).await?;
            for coupon in &batch.rows {
                let mut off = held_off(coupon, &orders);
                if !known.iter().any(|k| k.id == coupon.coupon_id) {
                    off.push("the coupon is of a definition that is not there");
                }
                for message in off {
                    self.violation(NAME, message, format!("userCoupons/{}", coupon.id));
                }
            }
            match batch.next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// What a definition has counted against what users hold of it.
    async fn count_off(&mut self, coupon: &Coupon) -> Result<Vec<String>, Error> {
        let collection = self.collection("userCoupons").await?;
        let pipeline = vec![
            doc! { "$match": { "couponId": coupon.id.as_str() } },
            doc! { "$group": { "_id": { "$eq": ["$status", State::Claiming.as_str()] }, "count": { "$sum": 1i64 } } },
        ];
        let mut cursor = collection.aggregate(pipeline).session(&mut self.session).await?;
        let rows: Vec<Document> = cursor.stream(&mut self.session).try_collect().await?;
        let open = rows.iter().filter(|r| !r.get_bool("_id").unwrap_or(false));
        let open = open.fold(0i64, |sum, r| sum.saturating_add(book::number(r, "count")));
        let ids: Vec<String> = coupon.markers.iter().map(|m| m.id.as_str().to_owned()).collect();
        let marked: Vec<UserCoupon> = self.matching("userCoupons", "_id", ids).await?;
        // A marker of a coupon that is open is counted with it.
        let opened = marked.iter().filter(|c| c.status != State::Claiming).count();
        let under_way = coupon.markers.len().saturating_sub(opened);
        let counted = open.saturating_add(i64::try_from(under_way).unwrap_or(i64::MAX));
        let mut off = Vec::new();
        if coupon.claimed != counted {
            off.push(format!("{} are counted and {counted} are handed out", coupon.claimed));
        }
        if coupon.total.is_some_and(|most| coupon.claimed > most) {
            off.push("more are handed out than there are".to_owned());
        }
        if coupon.terms.coupon_id != coupon.id {
            off.push("the terms are of another coupon".to_owned());
        }
        Ok(off)
    }

    /// The other way round: what each order says of its coupon.
    pub(super) async fn check_coupons_of(&mut self, orders: &[Order]) -> Result<(), Error> {
        let ids = orders.iter().filter_map(|o| o.user_coupon_id.as_ref().map(|id| id.as_str().to_owned())).collect();
        let held: Vec<UserCoupon> = self.matching("userCoupons", "_id", ids).await?;
        let held: HashMap<&str, &UserCoupon> = held.iter().map(|c| (c.id.as_str(), c)).collect();
        for order in orders {
            let coupon = order.user_coupon_id.as_ref().and_then(|id| held.get(id.as_str())).copied();
            if let Some(message) = order_off(order, coupon) {
                self.violation(NAME, message, format!("orders/{}", order.id));
            }
        }
        Ok(())
    }
}

/// Where a coupon does not fit its state and the orders that it names.
fn held_off(coupon: &UserCoupon, orders: &HashMap<&str, &Order>) -> Vec<&'static str> {
    let mut off = Vec::new();
    let named = |order: &&&Order| order.user_coupon_id.as_ref() == Some(&coupon.id) && order.user_id == coupon.user_id;
    let in_use = matches!(coupon.status, State::Locked | State::Used);
    if coupon.terms.coupon_id != coupon.coupon_id {
        off.push("the terms are of another coupon");
    }
    if (coupon.via == Via::Claim) != (coupon.seq > 0) {
        off.push("a claim is numbered, and nothing else is");
    }
    if in_use != coupon.order_id.is_some() || in_use != coupon.locked_at.is_some() {
        off.push("a coupon names an order exactly while one holds or used it");
    }
    if (coupon.status == State::Used) != coupon.used_at.is_some() {
        off.push("a coupon has the time of its use exactly if it is used");
    }
    if let Some(id) = &coupon.order_id {
        match orders.get(id.as_str()).filter(named) {
            None => off.push("the coupon is held by an order that is not there or does not name it"),
            Some(order) => {
                let fits = match order.status {
                    OrderStatus::PendingPayment => coupon.status == State::Locked,
                    OrderStatus::Paid | OrderStatus::Shipped | OrderStatus::Completed => coupon.status == State::Used,
                    OrderStatus::Closed => false,
                };
                if !fits {
                    off.push("the coupon's state does not fit its order's");
                }
                if !coupon.window().holds(order.created_at) {
                    off.push("the coupon is used outside of its window");
                }
                if coupon.returned_from.contains(id) {
                    off.push("the coupon came back from the order that holds it");
                }
            }
        }
    }
    let returned = |id: &domain::OrderId| orders.get(id.as_str()).filter(named).is_some_and(|o| o.status.is_paid());
    if !coupon.returned_from.iter().all(returned) {
        off.push("the coupon came back from an order that was not paid with it");
    }
    off
}

/// Where an order does not fit its coupon. A closed order released it, and others may have used it since.
fn order_off(order: &Order, coupon: Option<&UserCoupon>) -> Option<&'static str> {
    let priced = order.price_proof.as_ref().and_then(|p| p.input.coupon.as_ref());
    if priced.map(|held| &held.id) != order.user_coupon_id.as_ref() {
        return Some("the order's price is by another coupon than the order names");
    }
    order.user_coupon_id.as_ref()?;
    let Some(coupon) = coupon else { return Some("the order names a coupon that is not there") };
    if priced != Some(&coupon.held()) {
        return Some("the order's price is by other terms than the coupon has");
    }
    let holds = coupon.order_id.as_ref() == Some(&order.id);
    let returned = coupon.returned_from.contains(&order.id);
    match order.status {
        OrderStatus::Closed => holds.then_some("a closed order holds its coupon"),
        _ if holds || returned => None,
        _ => Some("the order does not hold its coupon"),
    }
}
