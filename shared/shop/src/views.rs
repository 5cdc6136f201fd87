//! How documents look on the wire: yuan, ISO times, no openid of others, no internal fields.

use chrono::{DateTime, SecondsFormat, Utc};
use domain::quote::Adjustment;
use domain::{Logistics, OrderStatus, OrderType, ParcelState, PaymentMethod, Yuan};
use serde::{Deserialize, Serialize};
use store::orders::{Address, Note, Order, OrderItem, ParcelSummary, PriceChange, Shipping};
use store::parcels::Attention;
use store::payments::{ExceptionKind, ExceptionStatus, Payment, PaymentException, PaymentStatus};
use store::refunds::RefundState;

/// ISO 8601 with milliseconds and `Z`.
pub fn iso(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// A line of an order. Amounts in yuan.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ItemView {
    pub line_id: String,
    pub product_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sku_id: Option<String>,
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sku_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    pub price: Yuan,
    pub quantity: i64,
    pub amount: Yuan,
    pub discount: Yuan,
    /// What this line still costs: after discounts and prepaid goods.
    pub payable: Yuan,
    pub prepaid_quantity: i64,
}

impl From<&OrderItem> for ItemView {
    fn from(item: &OrderItem) -> Self {
        Self {
            line_id: item.line_id.clone(),
            product_id: item.product_id.as_str().to_owned(),
            sku_id: item.sku_id.as_ref().map(|s| s.as_str().to_owned()),
            name: item.name.clone(),
            sku_name: item.sku_name.clone(),
            image: item.image.clone(),
            price: Yuan(item.price),
            quantity: item.quantity,
            amount: Yuan(item.amount),
            discount: Yuan(item.discount()),
            payable: Yuan(item.payable.checked_sub(item.prepaid_covered).unwrap_or(domain::Fen::ZERO)),
            prepaid_quantity: item.prepaid_quantity,
        }
    }
}

/// How an order was shipped.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ShippingView {
    pub logistics: Logistics,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub express_company: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracking_no: Option<String>,
    pub shipped_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parcel: Option<ParcelSummaryView>,
    /// Why its parcel is not followed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub untracked: Option<String>,
}

/// Where an order's parcel is.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ParcelSummaryView {
    pub state: ParcelState,
    pub state_text: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arrived_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attention: Option<Attention>,
}

impl From<&ParcelSummary> for ParcelSummaryView {
    fn from(parcel: &ParcelSummary) -> Self {
        Self {
            state: parcel.state,
            state_text: parcel.state.message(),
            updated_at: parcel.at.map(iso),
            arrived_at: parcel.arrived_at.map(iso),
            attention: parcel.attention,
        }
    }
}

impl From<&Shipping> for ShippingView {
    fn from(shipping: &Shipping) -> Self {
        Self {
            logistics: shipping.logistics,
            express_company: shipping.express_company.clone(),
            tracking_no: shipping.tracking_no.clone(),
            shipped_at: iso(shipping.shipped_at),
            parcel: shipping.parcel.as_ref().map(ParcelSummaryView::from),
            untracked: shipping.untracked.clone(),
        }
    }
}

/// An order. Amounts in yuan.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OrderView {
    #[serde(rename = "_id")]
    pub id: String,
    pub order_id: String,
    #[serde(rename = "type")]
    pub order_type: OrderType,
    pub status: OrderStatus,
    pub items: Vec<ItemView>,
    pub total_amount: Yuan,
    pub discount_amount: Yuan,
    pub coupon_discount: Yuan,
    /// Of the discount, what staff took off.
    pub staff_discount: Yuan,
    pub freight_amount: Yuan,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_coupon_id: Option<String>,
    pub prepaid_amount: Yuan,
    pub balance_amount: Yuan,
    pub points_used: i64,
    pub payment_amount: Yuan,
    pub payment_method: PaymentMethod,
    pub address: Address,
    pub remark: String,
    pub points_earned: i64,
    pub coins_used: i64,
    pub coins_earned: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qualification_id: Option<String>,
    pub created_at: String,
    pub expire_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paid_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transaction_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shipping: Option<ShippingView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refund_state: Option<RefundState>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closed_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub close_reason: Option<String>,
}

impl From<&Order> for OrderView {
    fn from(order: &Order) -> Self {
        Self {
            id: order.id.as_str().to_owned(),
            order_id: order.id.as_str().to_owned(),
            order_type: order.order_type,
            status: order.status,
            items: order.items.iter().map(ItemView::from).collect(),
            total_amount: Yuan(order.total_amount),
            discount_amount: Yuan(order.discount_amount),
            coupon_discount: Yuan(order.coupon_discount()),
            staff_discount: Yuan(order.staff_discount()),
            freight_amount: Yuan(order.freight_amount),
            user_coupon_id: order.user_coupon_id.as_ref().map(|id| id.as_str().to_owned()),
            prepaid_amount: Yuan(order.prepaid_total().unwrap_or(order.prepaid_amount)),
            balance_amount: Yuan(order.balance_amount),
            points_used: order.points_used.get(),
            payment_amount: Yuan(order.payment_amount),
            payment_method: order.payment_method,
            address: order.address.clone(),
            remark: order.remark.clone(),
            points_earned: order.points_earned.get(),
            coins_used: order.coins_used,
            coins_earned: order.coins_earned,
            qualification_id: order.qualification_id.clone(),
            created_at: iso(order.created_at),
            expire_time: iso(order.expire_time),
            paid_at: order.paid_at.map(iso),
            transaction_id: order.transaction_id.clone(),
            shipping: order.shipping.as_ref().map(ShippingView::from),
            refund_state: order.refund_state,
            completed_at: order.completed_at.map(iso),
            closed_at: order.closed_at.map(iso),
            close_reason: order.close_reason.clone(),
        }
    }
}

/// A note, for staff.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NoteView {
    pub text: String,
    pub by: String,
    pub at: String,
}

impl From<&Note> for NoteView {
    fn from(note: &Note) -> Self {
        Self { text: note.text.clone(), by: note.by.clone(), at: iso(note.at) }
    }
}

/// A change of what an order costs, for staff. Amounts in yuan.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PriceChangeView {
    /// `price`, `freight` or `place`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub payment_before: Yuan,
    pub payment_after: Yuan,
    pub reason: String,
    pub by: String,
    pub at: String,
}

impl From<&PriceChange> for PriceChangeView {
    fn from(change: &PriceChange) -> Self {
        Self {
            kind: match change.change {
                Adjustment::Price { .. } => "price",
                Adjustment::Freight { .. } => "freight",
                Adjustment::Place { .. } => "place",
            },
            payment_before: Yuan(change.payment_before),
            payment_after: Yuan(change.payment_after),
            reason: change.reason.clone(),
            by: change.by.clone(),
            at: iso(change.at),
        }
    }
}

/// An attempt to pay, as its payer may see it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PaymentView {
    pub out_trade_no: String,
    pub status: PaymentStatus,
    pub amount: Yuan,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transaction_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paid_at: Option<String>,
}

impl From<&Payment> for PaymentView {
    fn from(payment: &Payment) -> Self {
        Self {
            out_trade_no: payment.out_trade_no.clone(),
            status: payment.status,
            amount: Yuan(payment.amount),
            transaction_id: payment.transaction_id.clone(),
            paid_at: payment.paid_at.map(iso),
        }
    }
}

/// Money that came in but did not pay the order, and what becomes of it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExceptionView {
    pub kind: ExceptionKind,
    pub amount: Yuan,
    pub status: ExceptionStatus,
    pub message: &'static str,
    pub transaction_id: String,
    pub created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolved_at: Option<String>,
}

impl From<&PaymentException> for ExceptionView {
    fn from(exception: &PaymentException) -> Self {
        let message = match exception.status {
            _ if exception.kind == ExceptionKind::PortalRefund => "商家已为这笔付款办理退款",
            _ if exception.kind.is_refund() => "这笔退款商家正在核实",
            ExceptionStatus::Refunding => "这笔付款未能用于订单，正在原路退回",
            ExceptionStatus::Refunded => "这笔付款未能用于订单，已原路退回",
            ExceptionStatus::RefundFailed => "这笔付款未能用于订单，退款遇到问题，商家正在处理",
            ExceptionStatus::Manual => "这笔付款未能用于订单，商家正在核实",
            ExceptionStatus::Resolved => "这笔付款未能用于订单，商家已处理",
        };
        Self {
            kind: exception.kind,
            amount: Yuan(exception.amount),
            status: exception.status,
            message,
            transaction_id: exception.transaction_id.clone(),
            created_at: iso(exception.created_at),
            resolved_at: exception.resolved_at.map(iso),
        }
    }
}
