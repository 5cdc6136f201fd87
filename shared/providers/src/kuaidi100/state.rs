//! Where a parcel is: Kuaidi100's codes, coarse and fine, in one table.
//!
//! With `resultv2` 4 or 8 the `state` of an answer is the fine code (`304`) and otherwise the coarse one (`3`), so a code is only
//! ever looked up here and never compared. The two sets do not overlap.

use domain::ParcelState;

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
