//! How a refund looks on the wire: yuan and ISO times.

use domain::machine::refund::State;
use domain::{Fen, Yuan};
use serde::{Deserialize, Serialize};
use store::refunds::{Moment, Refund, RefundFailure, RefundType, ReturnParcel};

use crate::views::iso;

/// Pieces of a line that come back, and what is due for them in money.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RefundItemView {
    pub line_id: String,
    pub product_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sku_id: Option<String>,
    pub name: String,
    pub quantity: i64,
    pub amount: Yuan,
}

/// A step of a refund. `by` is `user`, `shop` or `wechat`; staff see which of them it was.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MomentView {
    pub status: State,
    pub at: String,
    pub by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remark: Option<String>,
}

/// How the goods come back.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReturnParcelView {
    pub express_company: String,
    pub tracking_no: String,
    pub at: String,
}

impl From<&ReturnParcel> for ReturnParcelView {
    fn from(parcel: &ReturnParcel) -> Self {
        let (express_company, tracking_no) = (parcel.express_company.clone(), parcel.tracking_no.clone());
        Self { express_company, tracking_no, at: iso(parcel.at) }
    }
}

/// Why WeChat's part failed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailureView {
    pub reason: String,
    pub text: String,
    pub at: String,
}

impl From<&RefundFailure> for FailureView {
    fn from(failure: &RefundFailure) -> Self {
        Self { reason: failure.reason.clone(), text: failure.text.clone(), at: iso(failure.at) }
    }
}

/// A refund. Amounts in yuan.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RefundView {
    #[serde(rename = "_id")]
    pub id: String,
    pub refund_id: String,
    pub order_id: String,
    #[serde(rename = "type")]
    pub refund_type: RefundType,
    pub status: State,
    pub items: Vec<RefundItemView>,
    /// All money that goes back, and the tenders that it goes back to.
    pub amount: Yuan,
    pub payment_amount: Yuan,
    pub balance_amount: Yuan,
    pub prepaid_amount: Yuan,
    pub prepaid_pieces: i64,
    /// The freight in what is due.
    pub freight_amount: Yuan,
    /// All that is due; staff may give less.
    pub due_amount: Yuan,
    /// Points that the order used.
    pub points_returned: i64,
    /// Points that the order had earned: taken back, and owed because they were spent.
    pub points_taken: i64,
    pub points_owed: i64,
    pub coins_returned: i64,
    pub coins_taken: i64,
    pub coins_owed: i64,
    pub coupon_returned: bool,
    /// The pieces are for sale again.
    pub restocked: bool,
    pub reason: String,
    pub description: String,
    pub images: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub return_parcel: Option<ReturnParcelView>,
    /// For staff.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureView>,
    /// For staff: the number that counts at WeChat Pay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_refund_no: Option<String>,
    /// Staff gave WeChat's part another way.
    pub settled_elsewhere: bool,
    pub timeline: Vec<MomentView>,
    pub created_at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refunded_at: Option<String>,
}

impl RefundView {
    /// `for_staff` shows who did it, why WeChat's part failed, and its number.
    pub fn of(refund: &Refund, for_staff: bool) -> Self {
        let money = |share: &domain::quote::Share| Yuan(share.money().unwrap_or(Fen::ZERO));
        let give = &refund.plan.given;
        let due = refund.plan.due().unwrap_or(*give);
        let given = refund.given.as_ref();
        let item = |(item, line): (&store::refunds::RefundItem, &domain::refund::PlanLine)| RefundItemView {
            line_id: item.line_id.clone(),
            product_id: item.product_id.as_str().to_owned(),
            sku_id: item.sku_id.as_ref().map(|sku| sku.as_str().to_owned()),
            name: item.name.clone(),
            quantity: item.quantity,
            amount: money(&line.due),
        };
        Self {
            id: refund.id.clone(),
            refund_id: refund.id.clone(),
            order_id: refund.order_id.as_str().to_owned(),
            refund_type: refund.refund_type,
            status: refund.status,
            items: refund.items.iter().zip(&refund.plan.lines).map(item).collect(),
            amount: money(give),
            payment_amount: Yuan(give.payment_amount),
            balance_amount: Yuan(give.balance_amount),
            prepaid_amount: Yuan(give.prepaid_amount),
            prepaid_pieces: give.prepaid_quantity,
            freight_amount: money(&refund.plan.freight),
            due_amount: money(&due),
            points_returned: give.points_used.get(),
            points_taken: given.map_or(0, |g| g.points_taken),
            points_owed: given.map_or(0, |g| g.points_owed),
            coins_returned: give.coins_used,
            coins_taken: given.map_or(0, |g| g.coins_taken),
            coins_owed: given.map_or(0, |g| g.coins_owed),
            coupon_returned: given.is_some_and(|g| g.coupon_returned),
            restocked: given.is_some_and(|g| g.restocked),
            reason: refund.reason.clone(),
            description: refund.description.clone(),
            images: refund.images.clone(),
            return_parcel: refund.return_parcel.as_ref().map(ReturnParcelView::from),
            failure: refund.failure.as_ref().filter(|_| for_staff).map(FailureView::from),
            out_refund_no: refund.number().filter(|_| for_staff).map(|n| n.out_refund_no.clone()),
            settled_elsewhere: refund.settled_elsewhere,
            timeline: refund.timeline.iter().map(|moment| moment_view(moment, for_staff)).collect(),
            created_at: iso(refund.created_at),
            refunded_at: refund.refunded_at.map(iso),
        }
    }
}

fn moment_view(moment: &Moment, for_staff: bool) -> MomentView {
    let by = match moment.by.as_str() {
        by if for_staff || by == "user" || by == "wechat" => by,
        _ => "shop",
    };
    // What WeChat says when it fails is for staff.
    let remark = moment.remark.clone().filter(|_| for_staff || moment.by != "wechat");
    MomentView { status: moment.status, at: iso(moment.at), by: by.to_owned(), remark }
}
