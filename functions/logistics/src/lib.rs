//! `logistics`: where the parcels of orders are, for their buyers and for staff.

use domain::{Code, Failure, Refusal};
use edge::{Accept, Caller, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shop::members::{self, active_member};
use shop::parcels::{self, Known, NOT_CONFIGURED, PHONE_NEEDED, ParcelView, Waybill};
use shop::views::ShippingView;
use store::orders::{Order, Shipping};
use store::page::PageRequest;
use store::parcels::{Attention, ParcelFilter};

/// Of a phone number at most.
const PHONE_MAX: usize = 20;
const TEXT_MAX: usize = 64;

pub fn function() -> Function {
    Function::new("logistics", handle)
        .summary("物流：查询、订阅、在途包裹")
        .accepts(&[Accept::User, Accept::Staff("orders"), Accept::Service("orders")])
        .needs(&[Need::Store, Need::Session])
        .timeout(std::time::Duration::from_secs(20))
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum Action {
    /// Where a parcel is.
    Query,
    /// Has the news of an order's parcel pushed, also again.
    Subscribe,
    /// The parcels on their way to the user.
    Mine,
    /// The parcels that staff should look at.
    Marked,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Input {
    action: Action,
    /// For `query` and `subscribe`.
    order_id: Option<String>,
    /// For `query` by staff, in place of `orderId`: the courier by WeChat's id, e.g. `SF`.
    express_company: Option<String>,
    /// With `expressCompany`.
    tracking_no: Option<String>,
    /// With `expressCompany`: the sender's or receiver's, for couriers that tell nothing without it.
    phone: Option<String>,
    /// For `marked`: `returning`, `problem` or `lost`; all unless given.
    #[schemars(with = "Option<String>")]
    attention: Option<Attention>,
    /// For `mine` and `marked`: 1 to 100, 20 unless given.
    limit: Option<i64>,
    /// For `mine` and `marked`: `nextCursor` of the page before.
    after: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct QueryOutput {
    #[serde(skip_serializing_if = "Option::is_none")]
    order_id: Option<String>,
    /// As the order has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    shipping: Option<ShippingView>,
    /// Null where nobody but the shop knows of it.
    parcel: Option<ParcelView>,
    /// Why there is nothing newer.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SubscribeOutput {
    order_id: String,
    parcel: ParcelView,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    #[serde(flatten)]
    parcel: ParcelView,
    order_ids: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ListOutput {
    data: Vec<Row>,
    next_cursor: Option<String>,
}

async fn handle(ctx: Context, input: Input) -> Result<Reply, Failure> {
    match input.action {
        Action::Query if input.order_id.is_none() && is_shop(&ctx.caller) => query_waybill(&ctx, &input).await,
        Action::Query => query_order(&ctx, &input).await,
        Action::Subscribe => subscribe(&ctx, &input).await,
        Action::Mine => {
            let open_id = ctx.caller.acting_open_id(None)?;
            let member = active_member(ctx.store(), &open_id, Code::Unauthenticated).await?;
            list(&ctx, &input, ParcelFilter { on_way_to: Some(member.id), attention: None }).await
        }
        Action::Marked if !is_shop(&ctx.caller) => Err(Code::Forbidden.into()),
        Action::Marked => list(&ctx, &input, ParcelFilter { on_way_to: None, attention: input.attention }).await,
    }
}

/// Staff, or a server that acts for the shop.
fn is_shop(caller: &Caller) -> bool {
    matches!(caller, Caller::Staff { .. } | Caller::Service { .. })
}

/// The order, if the caller may see it.
async fn visible_order(ctx: &Context, id: Option<&str>) -> Result<Order, Failure> {
    let owner = if is_shop(&ctx.caller) { None } else { Some(ctx.caller.acting_open_id(None)?) };
    members::visible_order(ctx.store(), id, owner.as_ref()).await
}

async fn query_order(ctx: &Context, input: &Input) -> Result<Reply, Failure> {
    let order = visible_order(ctx, input.order_id.as_deref()).await?;
    let Some(shipping) = &order.shipping else {
        return Err(Refusal::new(Code::OrderStateInvalid).with_message("订单尚未发货").into());
    };
    let (tells, account) = (&ctx.rules().tells, ctx.kuaidi100());
    // Without an account nothing new is begun, but what is known is told.
    let parcel = match (&shipping.parcel, account) {
        (Some(shown), None) => ctx.store().parcel(&shown.id).await?,
        (None, None) => None,
        (_, Some(_)) => parcels::of_order(ctx.store(), tells, &order, false, ctx.now).await?,
    };
    let (parcel, reason) = match parcel {
        None => (None, account.is_none().then(|| NOT_CONFIGURED.to_owned())),
        Some(parcel) => {
            let Known { parcel, reason } = parcels::look(ctx.store(), account, tells, parcel, None, ctx.now).await?;
            (Some(parcel), reason)
        }
    };
    // As it is after the look.
    let parcel_shown = parcel.as_ref().map(|parcel| parcel.summary(&order));
    let shipping = Shipping { parcel: parcel_shown, ..shipping.clone() };
    Reply::of(&QueryOutput {
        order_id: Some(order.id.as_str().to_owned()),
        shipping: Some(ShippingView::from(&shipping)),
        parcel: parcel.as_ref().map(ParcelView::from),
        reason,
    })
}

async fn query_waybill(ctx: &Context, input: &Input) -> Result<Reply, Failure> {
    let text = |field: &str, value: &Option<String>, what: &'static str| {
        let value = value.as_deref().map(str::trim).filter(|text| (1..=TEXT_MAX).contains(&text.len()));
        value.map(str::to_owned).ok_or_else(|| Refusal::invalid(field, what))
    };
    let company = text("expressCompany", &input.express_company, "请指定 orderId，或 expressCompany 与 trackingNo")?;
    let number = text("trackingNo", &input.tracking_no, "请指定 trackingNo")?;
    let waybill = Waybill::of(&company, &number).map_err(|reason| match reason {
        "COMPANY_UNKNOWN" => Refusal::invalid("expressCompany", "不支持查询这家快递公司"),
        _ => Refusal::invalid("trackingNo", "trackingNo 应为 6 到 32 位字母、数字或连字符"),
    })?;
    let phone = input.phone.as_deref().map(str::trim).filter(|phone| !phone.is_empty());
    let good =
        |phone: &str| phone.len() <= PHONE_MAX && phone.bytes().all(|b| b.is_ascii_digit() || b"+-".contains(&b));
    if phone.is_some_and(|phone| !good(phone)) {
        return Err(Refusal::invalid("phone", "phone 格式不正确").into());
    }
    let account = ctx.kuaidi100();
    let parcel = match account {
        None => ctx.store().parcel(&waybill.key()).await?,
        Some(_) => Some(parcels::of_waybill(ctx.store(), &waybill, ctx.now).await?),
    };
    let (parcel, reason) = match parcel {
        None => (None, Some(NOT_CONFIGURED.to_owned())),
        Some(parcel) => {
            let tells = &ctx.rules().tells;
            let Known { parcel, reason } = parcels::look(ctx.store(), account, tells, parcel, phone, ctx.now).await?;
            (Some(parcel), reason)
        }
    };
    let unknown = parcel.as_ref().is_none_or(|parcel| parcel.traces.is_empty());
    if reason.as_deref() == Some(PHONE_NEEDED) && unknown {
        return Err(Refusal::invalid("phone", "这家快递公司需要收件人或寄件人的手机号").into());
    }
    Reply::of(&QueryOutput { order_id: None, shipping: None, parcel: parcel.as_ref().map(ParcelView::from), reason })
}

async fn subscribe(ctx: &Context, input: &Input) -> Result<Reply, Failure> {
    if !is_shop(&ctx.caller) {
        return Err(Code::Forbidden.into());
    }
    let order = visible_order(ctx, input.order_id.as_deref()).await?;
    if ctx.kuaidi100().is_none() {
        let refusal = Refusal::new(Code::Conflict).with_message("未配置快递100，无法订阅");
        return Err(refusal.detail("reason", NOT_CONFIGURED).into());
    }
    let parcel = parcels::of_order(ctx.store(), &ctx.rules().tells, &order, true, ctx.now).await?;
    let parcel = parcel.ok_or_else(|| {
        let message = "只有已支持的快递公司的快递单可以订阅";
        Refusal::new(Code::Conflict).with_message(message).detail("reason", "NOT_TRACKABLE")
    })?;
    Reply::of(&SubscribeOutput { order_id: order.id.as_str().to_owned(), parcel: ParcelView::from(&parcel) })
}

async fn list(ctx: &Context, input: &Input, filter: ParcelFilter) -> Result<Reply, Failure> {
    let request = PageRequest::parse(input.limit, input.after.as_deref())?;
    let page = ctx.store().parcels(&filter, &request).await?.map(|parcel| {
        // Others may have something in it, too.
        let theirs = parcel.orders.iter().filter(|o| filter.on_way_to.as_ref().is_none_or(|user| o.user_id == *user));
        let order_ids = theirs.map(|o| o.order_id.as_str().to_owned()).collect();
        Row { parcel: ParcelView::from(&parcel).brief(), order_ids }
    });
    Reply::of(&ListOutput { data: page.data, next_cursor: page.next_cursor })
}
