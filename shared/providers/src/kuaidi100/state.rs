//! Where a parcel is: Kuaidi100's codes, coarse and fine, in one table.
//!
//! With `resultv2` 4 or 8 the `state` of an answer is the fine code (`304`) and otherwise the coarse one (`3`), so a code is only
//! ever looked up here and never compared. The two sets do not overlap.

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

/// A state with the code it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParcelStatus {
    /// What it means for us.
    pub state: ParcelState,
    /// As sent, coarse or fine; empty if there was none.
    pub code: String,
}

impl ParcelStatus {
    /// Look a code up. Anything unknown is kept as it came.
    pub fn of(code: &str) -> Self {
        let code = code.trim();
        let known = CODES.iter().find(|(known, ..)| *known == code);
        Self { state: known.map_or(ParcelState::Unknown, |(_, state, _)| *state), code: code.to_owned() }
    }

    /// Kuaidi100's own name of the code, such as 超时未签收.
    pub fn name(&self) -> Option<&'static str> {
        CODES.iter().find(|(known, ..)| *known == self.code).map(|(.., name)| *name)
    }
}

/// Code, meaning and name. 9 is not used.
pub const CODES: [(&str, ParcelState, &str); 36] = {
    use ParcelState::*;
    [
        ("0", InTransit, "在途"),
        ("1", Collected, "揽收"),
        ("2", Problem, "疑难"),
        ("3", Signed, "签收"),
        ("4", Returned, "退签"),
        ("5", Delivering, "派件"),
        ("6", Returning, "退回"),
        ("7", InTransit, "转投"),
        ("8", Customs, "清关"),
        ("10", Customs, "待清关"),
        ("11", Customs, "清关中"),
        ("12", Customs, "已清关"),
        ("13", Problem, "清关异常"),
        ("14", Returning, "拒签"),
        ("101", Ordered, "已下单"),
        ("102", Ordered, "待揽收"),
        ("103", Collected, "已揽收"),
        ("201", Problem, "超时未签收"),
        ("202", Problem, "超时未更新"),
        ("203", Problem, "拒收"),
        ("204", Problem, "派件异常"),
        ("205", Problem, "柜或驿站超时未取"),
        ("206", Problem, "无法联系"),
        ("207", Problem, "超区"),
        ("208", Problem, "滞留"),
        ("209", Problem, "破损"),
        ("210", Problem, "销单"),
        ("301", Signed, "本人签收"),
        ("302", Signed, "派件异常后签收"),
        ("303", Signed, "代签"),
        ("304", Signed, "投柜或站签收"),
        ("401", Cancelled, "已销单"),
        ("501", AtPickupPoint, "投柜或驿站"),
        ("1001", InTransit, "到达派件城市"),
        ("1002", InTransit, "干线"),
        ("1003", InTransit, "转递"),
    ]
};
