//! Where a parcel is, whoever says so.

use serde::{Deserialize, Serialize};

/// Where a parcel is, as far as an order needs to know. Stored under these names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ParcelState {
    /// A label exists, the parcel is not handed over.
    Ordered,
    /// The courier has it.
    Collected,
    /// On its way, changing carriers included.
    InTransit,
    /// At or before customs.
    Customs,
    /// In the courier's bag.
    Delivering,
    /// In a locker or shop, not yet picked up.
    AtPickupPoint,
    /// Received, by whomever.
    Signed,
    /// Something is wrong with it; it may still arrive. The code tells what.
    Problem,
    /// On its way back, or refused at the door.
    Returning,
    /// Back with the sender, who signed for it. Never a receipt.
    Returned,
    /// The label was cancelled.
    Cancelled,
    /// A code this table does not know. Keep what was known before.
    Unknown,
}

impl ParcelState {
    /// The receiver has the parcel; the only state that starts the wait for an automatic receipt.
    pub fn is_signed(self) -> bool {
        self == Self::Signed
    }

    /// The parcel does not go to the receiver: a task for staff, never a receipt.
    pub fn is_return(self) -> bool {
        matches!(self, Self::Returning | Self::Returned | Self::Cancelled)
    }

    /// Whether nothing further is expected.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Signed | Self::Returned | Self::Cancelled)
    }

    /// Short Chinese for the person waiting.
    pub fn message(self) -> &'static str {
        match self {
            Self::Ordered => "等待揽收",
            Self::Collected => "已揽收",
            Self::InTransit => "运输中",
            Self::Customs => "清关中",
            Self::Delivering => "派送中",
            Self::AtPickupPoint => "待取件",
            Self::Signed => "已签收",
            Self::Problem => "包裹异常",
            Self::Returning => "退回中",
            Self::Returned => "已退回",
            Self::Cancelled => "运单已取消",
            Self::Unknown => "暂无物流信息",
        }
    }
}
