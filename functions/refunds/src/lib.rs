//! `refunds`: after-sale (售后). Buyers ask, send back and withdraw; staff, or a server that acts for them, approve, receive,
//! reject, and see to what WeChat did not give back.

use std::time::Duration;

use domain::machine::refund::State;
use domain::refund::Wanted;
use domain::{Code, Failure, Fen, Refusal, UserId, Yuan, text};
use edge::{Accept, Caller, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shop::after_sale::view::RefundView;
use shop::after_sale::{self, Actor, Apply, Done};
use shop::members::{active_member, order_id};
use store::page::PageRequest;
use store::refunds::{Refund, RefundFilter, RefundType};
use store::{Error, Tx};

const ITEMS_MAX: usize = 100;
const REFUND_ID_MAX: usize = 64;

pub fn function() -> Function {
    Function::new("refunds", handle)
        .summary("售后：申请、审核、退货、退款")
        .accepts(&[Accept::User, Accept::Staff("refunds"), Accept::Service("orders")])
        .needs(&[Need::Store, Need::Session, Need::Pay])
        .timeout(Duration::from_secs(20))
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum Action {
    /// Ask for a refund.
    Apply,
    Withdraw,
    /// The goods are on their way back.
    ShipBack,
    Approve,
    Reject,
    /// The goods are here.
    Receive,
    /// Have WeChat asked again.
    Retry,
    /// WeChat's part was given another way.
    Settle,
    List,
    Get,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct ItemInput {
    line_id: String,
    quantity: i64,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Input {
    action: Action,
    /// For `apply`; for `list`: only of this order.
    order_id: Option<String>,
    /// For all but `apply` and `list`.
    refund_id: Option<String>,
    /// For `apply`: `refundOnly` (unless given) or `returnGoods`.
    #[serde(rename = "type")]
    #[schemars(with = "Option<String>")]
    refund_type: Option<RefundType>,
    /// For `apply`: all pieces that are left, unless given.
    items: Option<Vec<ItemInput>>,
    /// For `apply` and `approve`: yuan, if less than is due.
    #[schemars(with = "Option<f64>")]
    amount: Option<Yuan>,
    /// For `apply` and `reject`: at most 100 characters.
    reason: Option<String>,
    /// For `apply`: at most 500 characters.
    description: Option<String>,
    /// For `apply`: at most 9.
    images: Option<Vec<String>>,
    /// For `shipBack`.
    express_company: Option<String>,
    /// For `shipBack`.
    tracking_no: Option<String>,
    /// For `approve`, `receive` and `settle`: at most 200 characters.
    remark: Option<String>,
    /// For `list`.
    #[schemars(with = "Option<String>")]
    status: Option<State>,
    /// For `list`: 1 to 100, 20 unless given.
    limit: Option<i64>,
    /// For `list`: `nextCursor` of the page before.
    after: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RefundOutput {
    refund: RefundView,
    /// It was so already.
    #[serde(skip)]
    before: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ListOutput {
    data: Vec<RefundView>,
    next_cursor: Option<String>,
}

/// Who calls: a user about what is theirs, or the shop.
struct Who {
    by: String,
    user: Option<UserId>,
}

impl Who {
    async fn of(ctx: &Context) -> Result<Self, Failure> {
        if let Ok(by) = ctx.caller.operator() {
            return Ok(Self { by, user: None });
        }
        let open_id = ctx.caller.acting_open_id(None)?;
        let member = active_member(ctx.store(), &open_id, Code::Unauthenticated).await?;
        Ok(Self { by: "user".to_owned(), user: Some(member.id) })
    }

    fn actor(&self) -> Actor<'_> {
        Actor { by: &self.by, user: self.user.as_ref() }
    }

    fn is_shop(&self) -> bool {
        self.user.is_none()
    }
}

async fn handle(ctx: Context, input: Input) -> Result<Reply, Failure> {
    let who = Who::of(&ctx).await?;
    let users_alone = matches!(input.action, Action::Withdraw | Action::ShipBack);
    let shop_alone =
        matches!(input.action, Action::Approve | Action::Reject | Action::Receive | Action::Retry | Action::Settle);
    // A server carries out what staff decide; it does not ask for anything.
    let asks = input.action == Action::Apply && matches!(ctx.caller, Caller::Service { .. });
    if (users_alone && who.is_shop()) || (shop_alone && !who.is_shop()) || asks {
        return Err(Code::Forbidden.into());
    }
    match input.action {
        Action::List => list(&ctx, &who, input).await,
        Action::Get => {
            let refund = ctx.store().refund(&refund_id(&input)?).await?.ok_or(Code::NotFound)?;
            who.actor().may_touch(&refund.user_id)?;
            Reply::of(&RefundOutput { refund: RefundView::of(&refund, who.is_shop()), before: false })
        }
        Action::Settle => {
            after_sale::wechat::is_over(ctx.store(), ctx.pay()?, &refund_id(&input)?, &ctx.rules().tells, ctx.now)
                .await?;
            command(&ctx, &who, input).await
        }
        _ => command(&ctx, &who, input).await,
    }
}

async fn list(ctx: &Context, who: &Who, input: Input) -> Result<Reply, Failure> {
    let request = PageRequest::parse(input.limit, input.after.as_deref())?;
    let order = input.order_id.as_deref().map(|id| order_id(Some(id))).transpose()?;
    if let (Some(order), Some(user)) = (&order, &who.user) {
        let order = ctx.store().order(order).await?.ok_or(Code::OrderNotFound)?;
        if order.user_id != *user {
            return Err(Code::Forbidden.into());
        }
    }
    let filter = RefundFilter { user: who.user.clone(), order, status: input.status };
    let page = ctx.store().refunds(&filter, &request).await?.map(|r| RefundView::of(&r, who.is_shop()));
    Reply::of(&ListOutput { data: page.data, next_cursor: page.next_cursor })
}

/// A command with its checked input.
enum Command {
    Apply(Apply),
    Withdraw { id: String },
    ShipBack { id: String, company: String, number: String },
    Approve { id: String, amount: Option<Fen>, remark: Option<String> },
    Reject { id: String, reason: String },
    Receive { id: String, remark: Option<String> },
    Retry { id: String },
    Settle { id: String, remark: String },
}

fn parse(input: Input) -> Result<Command, Refusal> {
    let needed =
        |field: &str, value: &Option<String>, max| text::required(field, value.as_deref().unwrap_or_default(), max);
    let remark = || input.remark.as_deref().map(|text| text::clean("remark", text, 200)).transpose();
    let id = || refund_id(&input);
    Ok(match input.action {
        Action::Withdraw => Command::Withdraw { id: id()? },
        Action::ShipBack => Command::ShipBack {
            id: id()?,
            company: needed("expressCompany", &input.express_company, 32)?,
            number: tracking_no(&needed("trackingNo", &input.tracking_no, 128)?)?,
        },
        Action::Approve => Command::Approve { id: id()?, amount: input.amount.map(|a| a.0), remark: remark()? },
        Action::Reject => Command::Reject { id: id()?, reason: needed("reason", &input.reason, 100)? },
        Action::Receive => Command::Receive { id: id()?, remark: remark()? },
        Action::Retry => Command::Retry { id: id()? },
        Action::Settle => Command::Settle { id: id()?, remark: needed("remark", &input.remark, 200)? },
        Action::List | Action::Get => return Err(Refusal::invalid("action", "不是一个命令")),
        Action::Apply => Command::Apply(Apply {
            order: order_id(input.order_id.as_deref())?,
            refund_type: input.refund_type.unwrap_or(RefundType::RefundOnly),
            amount: input.amount.map(|a| a.0),
            reason: needed("reason", &input.reason, 100)?,
            description: text::clean("description", input.description.as_deref().unwrap_or_default(), 500)?,
            images: shop::pictures::parse("images", input.images.unwrap_or_default())?,
            items: input.items.map(items).transpose()?,
        }),
    })
}

async fn command(ctx: &Context, who: &Who, input: Input) -> Result<Reply, Failure> {
    let command = parse(input)?;
    let key = ctx.command_key();
    let done = ctx
        .store()
        .once(key.as_ref(), ctx.now, |tx, _| {
            let command = &command;
            Box::pin(async move {
                let Done { refund, replayed } = run(ctx, tx, who, command).await?;
                Ok(RefundOutput { refund: RefundView::of(&refund, who.is_shop()), before: replayed })
            })
        })
        .await?;
    if let Some(refund) = ctx.store().refund(&done.value.refund.id).await? {
        after_sale::finish_release(ctx.store(), &refund).await?;
    }
    let replayed = done.replayed || done.value.before;
    Ok(Reply::of(&done.value)?.with_replayed(replayed))
}

async fn run(ctx: &Context, tx: &mut Tx, who: &Who, command: &Command) -> Result<Done, Error> {
    let (rules, actor, by, now) = (ctx.rules(), who.actor(), who.by.as_str(), ctx.now);
    let new = |refund: Refund| Done { refund, replayed: false };
    match command {
        Command::Apply(apply) => after_sale::apply(tx, rules, actor, apply, now).await.map(new),
        Command::Withdraw { id } => after_sale::withdraw(tx, actor, id, now).await,
        Command::ShipBack { id, company, number } => after_sale::ship_back(tx, actor, id, company, number, now).await,
        Command::Approve { id, amount, remark } => {
            after_sale::approve(tx, rules, by, id, *amount, remark.as_deref(), now).await
        }
        Command::Reject { id, reason } => after_sale::reject(tx, by, id, reason, now).await,
        Command::Receive { id, remark } => after_sale::receive(tx, rules, by, id, remark.as_deref(), now).await,
        Command::Retry { id } => after_sale::retry(tx, by, id, now).await,
        Command::Settle { id, remark } => after_sale::settle(tx, by, id, remark, now).await,
    }
}

fn refund_id(input: &Input) -> Result<String, Refusal> {
    let id = input.refund_id.as_deref().unwrap_or_default();
    if id.is_empty() {
        return Err(Refusal::invalid("refundId", "请指定 refundId"));
    }
    if id.len() > REFUND_ID_MAX || !id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Err(Refusal::invalid("refundId", "refundId 格式不正确"));
    }
    Ok(id.to_owned())
}

fn tracking_no(text: &str) -> Result<String, Refusal> {
    if text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
        return Ok(text.to_owned());
    }
    Err(Refusal::invalid("trackingNo", "trackingNo 格式不正确"))
}

fn items(items: Vec<ItemInput>) -> Result<Vec<Wanted>, Refusal> {
    if items.is_empty() || items.len() > ITEMS_MAX {
        return Err(Refusal::invalid("items", format!("items 应有 1 到 {ITEMS_MAX} 项")));
    }
    Ok(items.into_iter().map(|item| Wanted { line_id: item.line_id, quantity: item.quantity }).collect())
}
