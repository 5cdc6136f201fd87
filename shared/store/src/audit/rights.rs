//! Rights to buy and the orders that use them name each other.

use std::collections::HashMap;

use bson::Bson;
use domain::{OrderStatus, OrderType};

use super::{Audit, Batch};
use crate::Error;
use crate::orders::Order;
use crate::qualifications::{Qualification, QualificationStatus};

impl Audit<'_> {
    pub(super) async fn rights(&mut self) -> Result<(), Error> {
        let mut after: Option<Bson> = None;
        loop {
            let batch: Batch<Qualification> = self.batch("lotteryQualifications", "right", after).await?;
            let ids = batch.rows.iter().filter_map(|r| r.order_id.as_ref().map(|id| id.as_str().to_owned())).collect();
            let orders: Vec<Order> = self.matching("orders", "_id", ids).await?;
            let orders: HashMap<&str, &Order> = orders.iter().map(|o| (o.id.as_str(), o)).collect();
            for right in &batch.rows {
                let order = right.order_id.as_ref().and_then(|id| orders.get(id.as_str())).copied();
                for message in right_off(right, order) {
                    self.violation("right", message, format!("lotteryQualifications/{}", right.id));
                }
            }
            match batch.next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// The other way round: what each order says of its right.
    pub(super) async fn check_rights_of(&mut self, orders: &[Order]) -> Result<(), Error> {
        let ids = orders.iter().filter_map(|o| o.qualification_id.clone()).collect();
        let rights: Vec<Qualification> = self.matching("lotteryQualifications", "_id", ids).await?;
        let rights: HashMap<&str, &Qualification> = rights.iter().map(|r| (r.id.as_str(), r)).collect();
        for order in orders {
            let right = order.qualification_id.as_ref().and_then(|id| rights.get(id.as_str())).copied();
            if let Some(message) = order_off(order, right) {
                self.violation("right", message, format!("orders/{}", order.id));
            }
        }
        Ok(())
    }
}

/// Where a right does not fit the order that it names.
fn right_off(right: &Qualification, order: Option<&Order>) -> Vec<&'static str> {
    let mut off = Vec::new();
    if right.id != Qualification::key(&right.round_id, &right.ticket_id) {
        off.push("the right is about another ticket than its key says");
    }
    if (right.status == QualificationStatus::Used) != right.order_id.is_some() {
        off.push("a right is used exactly if an order holds it");
    }
    match order {
        None if right.order_id.is_some() => off.push("the right is used by an order that is not there"),
        None => {}
        Some(order) => {
            let exact = |l: &crate::orders::OrderItem| {
                (&l.product_id, &l.sku_id, l.quantity) == (&right.product_id, &right.sku_id, right.quantity)
            };
            if order.qualification_id.as_deref() != Some(right.id.as_str()) {
                off.push("the right is used by an order that does not name it");
            }
            if order.status == OrderStatus::Closed {
                off.push("the right is used by a closed order");
            }
            if order.user_id != right.user_id || order.open_id != right.open_id {
                off.push("the right is used by somebody else");
            }
            if order.items.len() != 1 || !order.items.iter().all(exact) {
                off.push("the right is used for other goods");
            }
            if order.created_at < right.granted_at || order.created_at >= right.expire_time {
                off.push("the right is used outside of its time");
            }
        }
    }
    off
}

/// Where an order does not fit its right. A closed order gave it back, and others may have used it since.
fn order_off(order: &Order, right: Option<&Qualification>) -> Option<&'static str> {
    if (order.order_type == OrderType::Lottery) != order.qualification_id.is_some() {
        return Some("an order of type lottery and a right to buy go together");
    }
    order.qualification_id.as_ref()?;
    match right {
        None => Some("the order names a right that is not there"),
        Some(right) if order.status == OrderStatus::Closed => {
            (right.order_id.as_ref() == Some(&order.id)).then_some("a closed order holds its right")
        }
        Some(right) => (right.order_id.as_ref() != Some(&order.id)).then_some("the order does not hold its right"),
    }
}
