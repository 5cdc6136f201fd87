//! The numbers a shop may set for itself.

/// Rules that come from configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShopRules {
    /// Fen of net paid spend that earn one point.
    pub points_earn_fen: i64,
    /// Fen that one point takes off an order.
    pub point_value_fen: i64,
    /// Minutes until an unpaid order closes.
    pub order_expire_minutes: i64,
}

impl Default for ShopRules {
    fn default() -> Self {
        Self { points_earn_fen: 10_000, point_value_fen: 100, order_expire_minutes: 30 }
    }
}
