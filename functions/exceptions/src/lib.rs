//! `exceptions`: money that fits no order, and what WeChat's bills and our books tell differently; staff list and resolve it.

use domain::money::Yuan;
use domain::{Code, Failure, Refusal, text};
use edge::{Accept, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shop::views;
use store::page::PageRequest;
use store::payments::{ExceptionKind, ExceptionStatus, PaymentException};

/// Characters of a remark.
const REMARK_MAX: usize = 500;

pub fn function() -> Function {
    Function::new("exceptions", handle)
        .summary("异常款项与对账差异：查询、处理")
        .accepts(&[Accept::Service("orders"), Accept::Service("ops"), Accept::Staff("orders"), Accept::Staff("ops")])
        .needs(&[Need::Store, Need::Session])
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum Action {
    List,
    Resolve,
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
    /// For `resolve`: one in state `manual`.
    exception_id: Option<String>,
    /// For `resolve`: what was found and done; at most 500 characters.
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
struct ResolveOutput {
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
        Action::Resolve => resolve(&ctx, input).await,
    }
}

async fn resolve(ctx: &Context, input: Input) -> Result<Reply, Failure> {
    let id = text::required("exceptionId", &input.exception_id.unwrap_or_default(), 200)?;
    let remark = text::required("remark", &input.remark.unwrap_or_default(), REMARK_MAX)?;
    let by = ctx.caller.operator()?;
    let done = ctx
        .store()
        .once(ctx.command_key().as_ref(), ctx.now, |tx, _| {
            let (id, remark, by, now) = (&id, &remark, &by, ctx.now);
            Box::pin(async move {
                if tx.exception(id).await?.is_none() {
                    return Err(Refusal::new(Code::NotFound).with_message("没有这条异常记录").into());
                }
                if !tx.resolve_by_hand(id, by, remark, now).await? {
                    return Err(Refusal::new(Code::Conflict).with_message("这条异常不是待人工处理的状态").into());
                }
                let exception = tx.exception(id).await?.ok_or(Code::NotFound)?;
                Ok(ResolveOutput { exception: exception.into() })
            })
        })
        .await?;
    Ok(Reply::of(&done.value)?.with_replayed(done.replayed))
}
