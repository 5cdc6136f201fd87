//! The numbers a shop may set for itself.

use std::collections::BTreeMap;

/// Rules that come from configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShopRules {
    /// Fen of net paid spend that earn one point.
    pub points_earn_fen: i64,
    /// Fen that one point takes off an order.
    pub point_value_fen: i64,
    /// Minutes until an unpaid order closes.
    pub order_expire_minutes: i64,
    /// Days after its completion in which a buyer may still ask for a refund of an order.
    pub refund_days: i64,
    /// Whether the coupon of an order that is refunded as a whole before it is shipped can be used again.
    pub coupon_return: bool,
    /// Days after shipping until an order completes by itself.
    pub auto_complete_days: i64,
    /// Which events people are told by message.
    pub tells: Tells,
    /// Whether shipments of what was paid through WeChat are reported to it.
    pub shipping_reports: bool,
    /// Whether the news of parcels are subscribed to when they are shipped.
    pub parcels_followed: bool,
}

impl Default for ShopRules {
    fn default() -> Self {
        Self {
            points_earn_fen: 10_000,
            point_value_fen: 100,
            order_expire_minutes: 30,
            refund_days: 15,
            coupon_return: true,
            auto_complete_days: 10,
            tells: Tells::default(),
            shipping_reports: true,
            parcels_followed: false,
        }
    }
}

/// What a user can be told by message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Event {
    OrderPaid,
    OrderShipped,
    OrderArrived,
    OrderRefunded,
    LotteryResult,
    CoinExpiring,
}

impl Event {
    pub const ALL: [Self; 6] = [
        Self::OrderPaid,
        Self::OrderShipped,
        Self::OrderArrived,
        Self::OrderRefunded,
        Self::LotteryResult,
        Self::CoinExpiring,
    ];

    /// The name of its template in the configuration and in the outbox.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OrderPaid => "orderPaid",
            Self::OrderShipped => "orderShipped",
            Self::OrderArrived => "orderArrived",
            Self::OrderRefunded => "orderRefunded",
            Self::LotteryResult => "lotteryResult",
            Self::CoinExpiring => "coinExpiring",
        }
    }
}

/// How users agree to the messages about an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Consent {
    /// Once for all messages of a long-term template.
    LongTerm,
    /// For each message of this template.
    EachTime { template_id: String },
    /// Whoever delivers the messages knows; here only the event's name is.
    Elsewhere,
}

/// The events that the shop tells: those that have a template, here or where messages are delivered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tells(BTreeMap<Event, Consent>);

impl Tells {
    pub fn new(events: impl IntoIterator<Item = (Event, Consent)>) -> Self {
        Self(events.into_iter().collect())
    }

    /// These as well, of which only the names are known.
    pub fn and_elsewhere(mut self, events: &[Event]) -> Self {
        for event in events {
            self.0.entry(*event).or_insert(Consent::Elsewhere);
        }
        self
    }

    /// Whether this event is told, and how users agree to it.
    pub fn of(&self, event: Event) -> Option<&Consent> {
        self.0.get(&event)
    }
}
