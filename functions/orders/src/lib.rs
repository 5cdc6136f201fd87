//! `orders`: a user's own orders, or all of them for staff; cancelling what is not paid, shipping what is.

use domain::{Code, Failure, Logistics, OrderId, OrderStatus, OrderType, Refusal, text};
use edge::{Accept, Caller, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shop::after_sale::view::RefundView;
use shop::close::{Closed, close_order};
use shop::members::active_member;
use shop::shipping::{self, Parcel};
use shop::views::{ExceptionView, OrderView, PaymentView, ShippingView};
use store::orders::{Order, OrderFilter};
use store::page::PageRequest;

pub fn function() -> Function {
    Function::new("orders", handle)
        .summary("订单列表、详情、取消、发货")
        .accepts(&[Accept::User, Accept::Staff("orders"), Accept::Service("orders")])
        .needs(&[Need::Store, Need::Session, Need::Pay])
        .timeout(std::time::Duration::from_secs(20))
}

#[derive(PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum Action {
    List,
    Get,
    Cancel,
    Ship,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Input {
    action: Action,
    /// For `get`, `cancel` and `ship`.
    order_id: Option<String>,
    /// For `list`: `pendingPayment`, `paid`, `shipped`, `completed` or `closed`.
    #[schemars(with = "Option<String>")]
    status: Option<OrderStatus>,
    /// For `list`: `normal`, `lottery` or `pointsMall`.
    #[serde(rename = "type")]
    #[schemars(with = "Option<String>")]
    order_type: Option<OrderType>,
    /// For `cancel`.
    reason: Option<String>,
    /// For `ship`: `express`, `city`, `virtual` or `pickup`.
    #[schemars(with = "Option<String>")]
    logistics: Option<Logistics>,
    /// For `ship` by `express`: the courier by WeChat's id, e.g. `SF`.
    express_company: Option<String>,
    /// For `ship` by `express`.
    tracking_no: Option<String>,
    /// For `list`: 1 to 100, 20 unless given.
    limit: Option<i64>,
    /// For `list`: `nextCursor` of the page before.
    after: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ListOutput {
    data: Vec<OrderView>,
    next_cursor: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GetOutput {
    #[serde(flatten)]
    order: OrderView,
    payments: Vec<PaymentView>,
    /// Money that came in but did not pay this order, and what becomes of it.
    payment_exceptions: Vec<ExceptionView>,
    /// What was ever asked back of it, oldest first.
    refunds: Vec<RefundView>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CancelOutput {
    order_id: String,
    status: OrderStatus,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShipOutput {
    order_id: String,
    status: OrderStatus,
    shipping: ShippingView,
}

async fn handle(ctx: Context, input: Input) -> Result<Reply, Failure> {
    if matches!(ctx.caller, Caller::Service { .. }) && input.action != Action::Ship {
        return Err(Code::Forbidden.into());
    }
    match input.action {
        Action::Ship => ship(&ctx, &input).await,
        Action::List => list(&ctx, input).await,
        Action::Get => {
            let order = visible_order(&ctx, input.order_id).await?;
            let payments = ctx.store().payments_of(&order.id).await?;
            let exceptions = ctx.store().exceptions_of(&order.id).await?;
            let refunds = ctx.store().refunds_of(&order.id).await?;
            let for_staff = matches!(ctx.caller, Caller::Staff { .. });
            Reply::of(&GetOutput {
                order: OrderView::from(&order),
                payments: payments.iter().map(PaymentView::from).collect(),
                payment_exceptions: exceptions.iter().map(ExceptionView::from).collect(),
                refunds: refunds.iter().map(|refund| RefundView::of(refund, for_staff)).collect(),
            })
        }
        Action::Cancel => {
            let reason = text::clean("reason", input.reason.as_deref().unwrap_or("用户取消"), 100)?;
            let order = visible_order(&ctx, input.order_id).await?;
            match close_order(ctx.store(), ctx.pay()?, ctx.rules(), &order.id, &reason, ctx.now).await? {
                Closed::Closed | Closed::AlreadyClosed => {
                    Reply::of(&CancelOutput { order_id: order.id.as_str().to_owned(), status: OrderStatus::Closed })
                }
                Closed::Paid => Err(Refusal::new(Code::OrderStateInvalid).with_message("订单已支付，不能取消").into()),
            }
        }
    }
}

async fn list(ctx: &Context, input: Input) -> Result<Reply, Failure> {
    let request = PageRequest::parse(input.limit, input.after.as_deref())?;
    let user = match ctx.caller {
        Caller::Staff { .. } => None,
        _ => Some(active_member(ctx.store(), &ctx.caller.acting_open_id(None)?, Code::Unauthenticated).await?.id),
    };
    let filter = OrderFilter { user, status: input.status, order_type: input.order_type };
    let page = ctx.store().orders(&filter, &request).await?.map(|o| OrderView::from(&o));
    Reply::of(&ListOutput { data: page.data, next_cursor: page.next_cursor })
}

/// Only the shop ships: staff, or a server that acts for it.
async fn ship(ctx: &Context, input: &Input) -> Result<Reply, Failure> {
    let by = match &ctx.caller {
        Caller::Staff { id, .. } => format!("staff:{id}"),
        Caller::Service { key_id, .. } => format!("service:{key_id}"),
        _ => return Err(Code::Forbidden.into()),
    };
    let id = order_id(input.order_id.as_deref())?;
    let logistics = input.logistics.ok_or_else(|| Refusal::invalid("logistics", "请指定 logistics"))?;
    let parcel = Parcel::parse(logistics, input.express_company.as_deref(), input.tracking_no.as_deref())?;
    let shipped = shipping::ship(ctx.store(), ctx.rules(), &id, &parcel, &by, ctx.now).await?;
    let output = ShipOutput {
        order_id: id.as_str().to_owned(),
        status: shipped.status,
        shipping: ShippingView::from(&shipped.shipping),
    };
    Ok(Reply::of(&output)?.with_replayed(shipped.replayed))
}

fn order_id(id: Option<&str>) -> Result<OrderId, Refusal> {
    let id = id.ok_or_else(|| Refusal::invalid("orderId", "请指定 orderId"))?;
    OrderId::parse(id).map_err(|_| Refusal::invalid("orderId", "orderId 格式不正确"))
}

/// The order, if the caller may see it.
async fn visible_order(ctx: &Context, id: Option<String>) -> Result<Order, Failure> {
    let id = order_id(id.as_deref())?;
    let order = ctx.store().order(&id).await?.ok_or(Code::OrderNotFound)?;
    if !matches!(ctx.caller, Caller::Staff { .. }) {
        let member = active_member(ctx.store(), &ctx.caller.acting_open_id(None)?, Code::Unauthenticated).await?;
        if order.user_id != member.id {
            return Err(Code::Forbidden.into());
        }
    }
    Ok(order)
}
