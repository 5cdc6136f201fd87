//! `orders`: a user's own orders, or all of them for staff; cancelling what is not paid.

use domain::{Code, Failure, OrderId, OrderStatus, OrderType, Refusal, text};
use edge::{Accept, Caller, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shop::close::{Closed, close_order};
use shop::members::active_member;
use shop::views::{ExceptionView, OrderView, PaymentView};
use store::orders::{Order, OrderFilter};
use store::page::PageRequest;

pub fn function() -> Function {
    Function::new("orders", handle)
        .summary("订单列表、详情、取消")
        .accepts(&[Accept::User, Accept::Staff("orders")])
        .needs(&[Need::Store, Need::Session, Need::Pay])
        .timeout(std::time::Duration::from_secs(20))
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum Action {
    List,
    Get,
    Cancel,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Input {
    action: Action,
    /// For `get` and `cancel`.
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
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CancelOutput {
    order_id: String,
    status: OrderStatus,
}

async fn handle(ctx: Context, input: Input) -> Result<Reply, Failure> {
    match input.action {
        Action::List => list(&ctx, input).await,
        Action::Get => {
            let order = visible_order(&ctx, input.order_id).await?;
            let payments = ctx.store().payments_of(&order.id).await?;
            let exceptions = ctx.store().exceptions_of(&order.id).await?;
            Reply::of(&GetOutput {
                order: OrderView::from(&order),
                payments: payments.iter().map(PaymentView::from).collect(),
                payment_exceptions: exceptions.iter().map(ExceptionView::from).collect(),
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

/// The order, if the caller may see it.
async fn visible_order(ctx: &Context, id: Option<String>) -> Result<Order, Failure> {
    let id = id.ok_or_else(|| Refusal::invalid("orderId", "请指定 orderId"))?;
    let id = OrderId::parse(&id).map_err(|_| Refusal::invalid("orderId", "orderId 格式不正确"))?;
    let order = ctx.store().order(&id).await?.ok_or(Code::OrderNotFound)?;
    if !matches!(ctx.caller, Caller::Staff { .. }) {
        let member = active_member(ctx.store(), &ctx.caller.acting_open_id(None)?, Code::Unauthenticated).await?;
        if order.user_id != member.id {
            return Err(Code::Forbidden.into());
        }
    }
    Ok(order)
}
