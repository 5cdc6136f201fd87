//! `orders`: a user's own orders, or all of them for staff; cancelling and changing what is not paid, shipping what is, and saying
//! that it has come.

mod staff;

use domain::{Code, Failure, Logistics, OrderId, OrderStatus, OrderType, Refusal, UserId, Yuan, text};
use edge::{Accept, Caller, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shop::address::{AddressInput, Destination};
use shop::adjust::{Change, Changing, change_order};
use shop::after_sale::view::RefundView;
use shop::batch::complete_order;
use shop::close::{Closed, close_order};
use shop::members::{self, active_member};
use shop::views::{ExceptionView, NoteView, OrderView, PaymentView, PriceChangeView};
use store::orders::{Order, OrderFilter};
use store::page::PageRequest;
use store::refunds::RefundState;

pub fn function() -> Function {
    Function::new("orders", handle)
        .summary("订单列表、详情、取消、收货、发货、改价、改地址、备注")
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
    /// The buyer has it.
    ConfirmReceipt,
    /// Where it goes, before it is paid.
    ChangeAddress,
    Ship,
    ShipBatch,
    /// What it costs, before it is paid.
    ChangePrice,
    Note,
    /// What it moved in the book.
    Book,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Input {
    action: Action,
    /// For all but `list` and `shipBatch`.
    order_id: Option<String>,
    /// For `list`: `pendingPayment`, `paid`, `shipped`, `completed` or `closed`.
    #[schemars(with = "Option<String>")]
    status: Option<OrderStatus>,
    /// For `list`: `normal`, `lottery` or `pointsMall`.
    #[serde(rename = "type")]
    #[schemars(with = "Option<String>")]
    order_type: Option<OrderType>,
    /// For `list` by staff: of this member.
    user_id: Option<String>,
    /// For `list` by staff: `applied`, `partial` or `refunded`.
    #[schemars(with = "Option<String>")]
    refund_state: Option<RefundState>,
    /// For `cancel` and `changePrice`.
    reason: Option<String>,
    /// For `ship`: `express`, `city`, `virtual` or `pickup`.
    #[schemars(with = "Option<String>")]
    logistics: Option<Logistics>,
    /// For `ship` by `express`: the courier by WeChat's id, e.g. `SF`.
    express_company: Option<String>,
    /// For `ship` by `express`.
    tracking_no: Option<String>,
    /// For `shipBatch`: 1 to 100.
    shipments: Option<Vec<staff::Shipment>>,
    /// For `changePrice`: what is left to pay becomes this much; lower than it is.
    #[schemars(with = "Option<f64>")]
    amount: Option<Yuan>,
    /// For `changePrice`, instead of `amount`: what sending costs.
    #[schemars(with = "Option<f64>")]
    freight_amount: Option<Yuan>,
    /// For `changeAddress`, as in `submitOrder`.
    address: Option<AddressInput>,
    /// For `changeAddress`, instead of `address`: one of the buyer's.
    address_id: Option<String>,
    /// For `changeAddress`: another freight for the new place is agreed to.
    accept_freight: Option<bool>,
    /// For `note`.
    text: Option<String>,
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
    /// For staff alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    notes: Option<Vec<NoteView>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    adjustments: Option<Vec<PriceChangeView>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StatusOutput {
    order_id: String,
    status: OrderStatus,
}

async fn handle(ctx: Context, input: Input) -> Result<Reply, Failure> {
    if matches!(ctx.caller, Caller::Service { .. }) && !matches!(input.action, Action::Ship | Action::ShipBatch) {
        return Err(Code::Forbidden.into());
    }
    match input.action {
        Action::Ship => staff::ship(&ctx, &input).await,
        Action::ShipBatch => staff::ship_batch(&ctx, input.shipments).await,
        Action::ChangePrice => staff::change_price(&ctx, &input).await,
        Action::Note => staff::note(&ctx, &input).await,
        Action::Book => staff::book(&ctx, &input).await,
        Action::ChangeAddress => change_address(&ctx, input).await,
        Action::ConfirmReceipt => {
            let order = visible_order(&ctx, input.order_id.as_deref()).await?;
            let replayed = complete_order(ctx.store(), &order.id, ctx.now).await?;
            let output = StatusOutput { order_id: order.id.as_str().to_owned(), status: OrderStatus::Completed };
            Ok(Reply::of(&output)?.with_replayed(replayed))
        }
        Action::List => list(&ctx, input).await,
        Action::Get => {
            let order = visible_order(&ctx, input.order_id.as_deref()).await?;
            let payments = ctx.store().payments_of(&order.id).await?;
            let exceptions = ctx.store().exceptions_of(&order.id).await?;
            let refunds = ctx.store().refunds_of(&order.id).await?;
            let for_staff = matches!(ctx.caller, Caller::Staff { .. });
            Reply::of(&GetOutput {
                order: OrderView::from(&order),
                payments: payments.iter().map(PaymentView::from).collect(),
                payment_exceptions: exceptions.iter().map(ExceptionView::from).collect(),
                refunds: refunds.iter().map(|refund| RefundView::of(refund, for_staff)).collect(),
                notes: for_staff.then(|| order.notes.iter().map(NoteView::from).collect()),
                adjustments: for_staff.then(|| order.adjustments.iter().map(PriceChangeView::from).collect()),
            })
        }
        Action::Cancel => {
            let reason = text::clean("reason", input.reason.as_deref().unwrap_or("用户取消"), 100)?;
            let order = visible_order(&ctx, input.order_id.as_deref()).await?;
            match close_order(ctx.store(), ctx.pay()?, ctx.rules(), &order.id, &reason, ctx.now).await? {
                Closed::Closed | Closed::AlreadyClosed => {
                    Reply::of(&StatusOutput { order_id: order.id.as_str().to_owned(), status: OrderStatus::Closed })
                }
                Closed::Paid => Err(Refusal::new(Code::OrderStateInvalid).with_message("订单已支付，不能取消").into()),
            }
        }
    }
}

async fn list(ctx: &Context, input: Input) -> Result<Reply, Failure> {
    let request = PageRequest::parse(input.limit, input.after.as_deref())?;
    let by_staff = matches!(ctx.caller, Caller::Staff { .. });
    // A user's list is their own, whoever is named.
    let user = match by_staff {
        true => input.user_id.as_deref().map(user_id).transpose()?,
        false => Some(active_member(ctx.store(), &ctx.caller.acting_open_id(None)?, Code::Unauthenticated).await?.id),
    };
    let filter =
        OrderFilter { user, status: input.status, order_type: input.order_type, refund_state: input.refund_state };
    let page = ctx.store().orders(&filter, &request).await?.map(|o| OrderView::from(&o));
    Reply::of(&ListOutput { data: page.data, next_cursor: page.next_cursor })
}

/// The buyer, or staff for them, has it sent elsewhere.
async fn change_address(ctx: &Context, input: Input) -> Result<Reply, Failure> {
    let destination = Destination::parse(input.address, input.address_id)?;
    let order = visible_order(ctx, input.order_id.as_deref()).await?;
    let buyer = active_member(ctx.store(), &order.open_id, Code::NotFound).await?;
    let to = destination.resolve(ctx.store(), &buyer).await?;
    let by = ctx.caller.operator().unwrap_or_else(|_| "buyer".to_owned());
    let change = Change::Address { to, accept_freight: input.accept_freight == Some(true) };
    change_by(ctx, &order.id, &change, "", &by).await
}

async fn change_by(ctx: &Context, order: &OrderId, change: &Change, reason: &str, by: &str) -> Result<Reply, Failure> {
    let key = ctx.command_key();
    let changing = Changing {
        store: ctx.store(),
        client: ctx.pay()?,
        rules: ctx.rules(),
        order,
        change,
        reason,
        by,
        key: key.as_ref(),
        now: ctx.now,
    };
    let done = change_order(&changing).await?;
    Ok(Reply::of(&done.value)?.with_replayed(done.replayed))
}

fn user_id(id: &str) -> Result<UserId, Refusal> {
    UserId::parse(id).map_err(|_| Refusal::invalid("userId", "userId 格式不正确"))
}

/// The order, if the caller may see it.
async fn visible_order(ctx: &Context, id: Option<&str>) -> Result<Order, Failure> {
    let owner = match ctx.caller {
        Caller::Staff { .. } => None,
        _ => Some(ctx.caller.acting_open_id(None)?),
    };
    members::visible_order(ctx.store(), id, owner.as_ref()).await
}
