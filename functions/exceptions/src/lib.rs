//! `exceptions`: money that fits no order, and what WeChat's bills and our books tell differently; staff list and resolve it.

use domain::money::Yuan;
use domain::{Code, Failure, Refusal, text};
use edge::{Accept, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shop::{refunds, views};
use store::page::PageRequest;
use store::payments::{ExceptionKind, ExceptionStatus, PaymentException};

/// Characters of a remark.
const REMARK_MAX: usize = 500;

pub fn function() -> Function {
    Function::new("exceptions", handle)
        .summary("异常款项与对账差异：查询、处理")
        .accepts(&[Accept::Service("orders"), Accept::Service("ops"), Accept::Staff("orders"), Accept::Staff("ops")])
        .needs(&[Need::Store, Need::Session, Need::Pay])
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum Action {
    List,
    Resolve,
    /// What WeChat failed to give back was given back otherwise than through WeChat Pay.
    Settle,
    /// Has a refund that WeChat refused sent again.
    Retry,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Input {
    action: Action,
    /// For `list`.
    status: Option<ExceptionStatus>,
    /// For `list`.
    kind: Option<ExceptionKind>,
    /// For `list`: only the differences of this day's bill, `YYYY-MM-DD`.
    date: Option<String>,
    /// For `list`: 1 to 100, 20 unless given.
    limit: Option<i64>,
    /// For `list`: `nextCursor` of the page before.
    after: Option<String>,
    /// For `resolve`: one in state `manual`, or `refundFailed` once it was refunded in the merchant portal. For `settle` and `retry`:
    /// one in state `refundFailed`.
    exception_id: Option<String>,
    /// For `resolve` and `settle`: what was found and done; at most 500 characters.
    remark: Option<String>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExceptionOutput {
    #[serde(rename = "_id")]
    id: String,
    exception_id: String,
    kind: ExceptionKind,
    status: ExceptionStatus,
    out_trade_no: String,
    transaction_id: String,
    order_id: Option<String>,
    /// Yuan that WeChat says were paid or given back.
    amount: Yuan,
    /// Yuan by our books.
    expected_amount: Option<Yuan>,
    out_refund_no: Option<String>,
    /// The bill's day, of a difference.
    date: Option<String>,
    source: String,
    created_at: String,
    resolved_at: Option<String>,
    resolved_by: Option<String>,
    remark: Option<String>,
}

impl From<PaymentException> for ExceptionOutput {
    fn from(exception: PaymentException) -> Self {
        Self {
            exception_id: exception.id.clone(),
            id: exception.id,
            kind: exception.kind,
            status: exception.status,
            out_trade_no: exception.out_trade_no,
            transaction_id: exception.transaction_id,
            order_id: exception.order_id.map(String::from),
            amount: Yuan(exception.amount),
            expected_amount: exception.expected_amount.map(Yuan),
            out_refund_no: exception.out_refund_no.or(exception.bill_refund_no),
            date: exception.day,
            source: exception.source,
            created_at: views::iso(exception.created_at),
            resolved_at: exception.resolved_at.map(views::iso),
            resolved_by: exception.resolved_by,
            remark: exception.remark,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ListOutput {
    data: Vec<ExceptionOutput>,
    next_cursor: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct ExceptionReply {
    exception: ExceptionOutput,
}

async fn handle(ctx: Context, input: Input) -> Result<Reply, Failure> {
    match input.action {
        Action::List => {
            let request = PageRequest::parse(input.limit, input.after.as_deref())?;
            let date = input.date.filter(|text| !text.is_empty());
            if date.as_deref().is_some_and(|text| domain::BusinessDay::parse(text).is_none()) {
                return Err(Refusal::invalid("date", "date 应为 YYYY-MM-DD 格式的日期").into());
            }
            let page = ctx.store().exceptions(input.status, input.kind, date.as_deref(), &request).await?;
            let page = page.map(ExceptionOutput::from);
            Reply::of(&ListOutput { data: page.data, next_cursor: page.next_cursor })
        }
        Action::Resolve | Action::Settle => {
            let remark = text::required("remark", input.remark.as_deref().unwrap_or_default(), REMARK_MAX)?;
            let elsewhere = matches!(input.action, Action::Settle);
            command(&ctx, &input, Command::Resolve { remark, elsewhere }).await
        }
        Action::Retry => command(&ctx, &input, Command::Retry).await,
    }
}

enum Command {
    Resolve { remark: String, elsewhere: bool },
    Retry,
}

async fn command(ctx: &Context, input: &Input, command: Command) -> Result<Reply, Failure> {
    let id = text::required("exceptionId", input.exception_id.as_deref().unwrap_or_default(), 200)?;
    let (by, key) = (ctx.caller.operator()?, ctx.command_key());
    if let Some(key) = &key
        && let Some(done) = ctx.store().replay::<ExceptionReply>(key).await?
    {
        return Ok(Reply::of(&done.value)?.with_replayed(true));
    }
    let failed = ctx.store().exception(&id).await?.filter(|one| one.status == ExceptionStatus::RefundFailed);
    if let Some(failed) = failed {
        let known = refunds::is_over(ctx.store(), ctx.pay()?, &failed, &ctx.rules().tells, ctx.now).await?;
        if known && matches!(command, Command::Retry) {
            let text = "微信支付已不能原路退回：请在商户平台处理，或线下退还后用 settle 登记";
            return Err(Refusal::new(Code::OrderStateInvalid).with_message(text).into());
        }
    }
    let done = ctx
        .store()
        .once(key.as_ref(), ctx.now, |tx, _| {
            let (id, by, command, now) = (&id, &by, &command, ctx.now);
            Box::pin(async move {
                let exception = match command {
                    Command::Resolve { remark, elsewhere } => {
                        refunds::resolve(tx, id, by, remark, *elsewhere, now).await?
                    }
                    Command::Retry => refunds::retry(tx, id, now).await?,
                };
                Ok(ExceptionReply { exception: exception.into() })
            })
        })
        .await?;
    Ok(Reply::of(&done.value)?.with_replayed(done.replayed))
}
