//! The states of an order and the moves between them.

use serde::{Deserialize, Serialize};

use crate::machine::order as machine;

/// `orders.status`. The stored texts are a contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum OrderStatus {
    #[serde(rename = "pendingPayment")]
    PendingPayment,
    #[serde(rename = "paid")]
    Paid,
    #[serde(rename = "shipped")]
    Shipped,
    #[serde(rename = "completed")]
    Completed,
    #[serde(rename = "closed")]
    Closed,
}

impl OrderStatus {
    pub const ALL: [Self; 5] = [Self::PendingPayment, Self::Paid, Self::Shipped, Self::Completed, Self::Closed];

    /// The text in the store and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PendingPayment => "pendingPayment",
            Self::Paid => "paid",
            Self::Shipped => "shipped",
            Self::Completed => "completed",
            Self::Closed => "closed",
        }
    }

    /// Whether money has been taken for it: paid, or any state that only a paid order reaches.
    pub fn is_paid(self) -> bool {
        matches!(self, Self::Paid | Self::Shipped | Self::Completed)
    }

    /// Whether the state machine ([`crate::machine::order`]) has an edge from here to `next` for an order of this type.
    ///
    /// What was paid is not closed, it is refunded. A points-mall order is paid at once with points and coins, of which the
    /// buyer has had no money's worth before it is shipped: so it alone goes from paid to closed.
    pub fn may_become(self, order_type: OrderType, next: Self) -> bool {
        machine::EDGES
            .iter()
            .any(|(from, event, to)| (*from, *to) == (self, next) && machine::is_for(*event, order_type))
    }
}

/// `orders.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum OrderType {
    #[serde(rename = "normal")]
    Normal,
    #[serde(rename = "lottery")]
    Lottery,
    #[serde(rename = "pointsMall")]
    PointsMall,
}

impl OrderType {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Lottery => "lottery",
            Self::PointsMall => "pointsMall",
        }
    }
}

/// `orders.paymentMethod`: what covers the payable amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PaymentMethod {
    #[serde(rename = "wechat")]
    Wechat,
    #[serde(rename = "balance")]
    Balance,
    /// Prepaid money; the remainder is paid through WeChat.
    #[serde(rename = "prestore")]
    Prestore,
    /// Prepaid goods, and prepaid money if asked for; the remainder is paid through WeChat.
    #[serde(rename = "prepaid")]
    Prepaid,
    /// Points and coins; nothing is payable. Only in the points mall.
    #[serde(rename = "points")]
    Points,
}

/// `orders.shipping.logistics`: how goods reach the buyer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Logistics {
    /// A parcel of a courier, with a tracking number.
    #[serde(rename = "express")]
    Express,
    /// Brought by somebody of the same city.
    #[serde(rename = "city")]
    City,
    /// Nothing is carried.
    #[serde(rename = "virtual")]
    Virtual,
    /// The buyer fetches it.
    #[serde(rename = "pickup")]
    Pickup,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_texts_are_a_contract() {
        let texts: Vec<_> = OrderStatus::ALL.iter().map(|s| serde_json::to_string(s).unwrap()).collect();
        assert_eq!(texts, ["\"pendingPayment\"", "\"paid\"", "\"shipped\"", "\"completed\"", "\"closed\""]);
        for status in OrderStatus::ALL {
            assert_eq!(serde_json::to_string(&status).unwrap(), format!("\"{}\"", status.as_str()));
        }
    }

    #[test]
    fn the_ways_of_shipping_are_a_contract() {
        let all = [Logistics::Express, Logistics::City, Logistics::Virtual, Logistics::Pickup];
        let texts = all.map(|l| serde_json::to_string(&l).unwrap());
        assert_eq!(texts, ["\"express\"", "\"city\"", "\"virtual\"", "\"pickup\""]);
    }

    #[test]
    fn a_closed_order_stays_closed_and_paid_is_reached_only_from_pending() {
        for from in OrderStatus::ALL {
            for order_type in [OrderType::Normal, OrderType::Lottery, OrderType::PointsMall] {
                assert!(!OrderStatus::Closed.may_become(order_type, from));
                let pending = from == OrderStatus::PendingPayment;
                assert_eq!(from.may_become(order_type, OrderStatus::Paid), pending);
            }
        }
    }

    #[test]
    fn these_are_all_moves() {
        use OrderStatus::{Closed, Completed, Paid, PendingPayment, Shipped};
        let all = [(PendingPayment, Paid), (PendingPayment, Closed), (Paid, Shipped), (Shipped, Completed)];
        for from in OrderStatus::ALL {
            for next in OrderStatus::ALL {
                let mall = (from, next) == (Paid, Closed);
                assert_eq!(from.may_become(OrderType::Normal, next), all.contains(&(from, next)));
                assert_eq!(from.may_become(OrderType::Lottery, next), all.contains(&(from, next)));
                assert_eq!(from.may_become(OrderType::PointsMall, next), mall || all.contains(&(from, next)));
            }
        }
    }

    #[test]
    fn of_what_is_paid_only_a_points_mall_order_may_be_closed() {
        let close = |status: OrderStatus, of| status.may_become(of, OrderStatus::Closed);
        assert!(close(OrderStatus::Paid, OrderType::PointsMall));
        for of in [OrderType::Normal, OrderType::Lottery] {
            assert!(close(OrderStatus::PendingPayment, of) && !close(OrderStatus::Paid, of));
        }
        for status in [OrderStatus::Shipped, OrderStatus::Completed] {
            assert!(!close(status, OrderType::PointsMall));
        }
    }
}
