//! `wxPay`: begins or renews a WeChat payment for an order, or asks WeChat how it stands.
//!
//! The exact prepay request is stored before it is sent, and sent again byte for byte: WeChat refuses a repetition that differs
//! (pay.weixin.qq.com/doc/v3/merchant/4012791897).

use chrono::TimeDelta;
use domain::{Code, Failure, OrderId, OrderStatus, Refusal, Yuan};
use edge::{Accept, Context, Function, Need, Reply};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shop::members::active_member;
use shop::reconcile::{Checked, check_payment, query_delay};
use store::crashpoint;
use store::orders::Order;
use store::payments::{Payment, PaymentStatus};
use wechat::Personal;
use wechat::pay::{PayParams, PrepayId, PrepayOrder};

pub fn function() -> Function {
    Function::new("wxPay", handle)
        .summary("发起微信支付，或查询支付结果")
        .accepts(&[Accept::User])
        .needs(&[Need::Store, Need::Session, Need::Pay])
        .timeout(std::time::Duration::from_secs(20))
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum Action {
    #[default]
    Pay,
    Query,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Input {
    order_id: String,
    #[serde(default)]
    action: Action,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PayOutput {
    order_id: String,
    payment_amount: Yuan,
    payment: PayParams,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct QueryOutput {
    order_id: String,
    status: OrderStatus,
    trade_state: String,
}

/// A prepay id lives two hours; one this old is renewed.
const PREPAY_LIFE: TimeDelta = TimeDelta::minutes(110);

async fn handle(ctx: Context, input: Input) -> Result<Reply, Failure> {
    let id = OrderId::parse(&input.order_id).map_err(|_| Refusal::invalid("orderId", "orderId 格式不正确"))?;
    let member = active_member(ctx.store(), &ctx.caller.acting_open_id(None)?, Code::Unauthenticated).await?;
    let order = ctx.store().order(&id).await?.ok_or(Code::OrderNotFound)?;
    if order.user_id != member.id {
        return Err(Code::Forbidden.into());
    }
    match input.action {
        Action::Pay => pay(&ctx, order).await,
        Action::Query => query(&ctx, &order).await,
    }
}

async fn pay(ctx: &Context, mut order: Order) -> Result<Reply, Failure> {
    // A closed attempt, or one that begins at the same moment elsewhere, makes this look again.
    for _ in 0..4 {
        payable(ctx, &order)?;
        let payment = match ctx.store().payments_of(&order.id).await?.pop() {
            Some(payment) if payment.status.is_open() => payment,
            // The number of a settled or closed attempt is spent; the order still stands, so it gets a new one.
            last => match begin(ctx, &order, last.map_or(1, |p| p.attempt.saturating_add(1))).await? {
                Some(payment) => payment,
                None => {
                    order = reload(ctx, &order).await?;
                    continue;
                }
            },
        };
        crashpoint("pay.stored").await;
        if let Some(params) = prepaid(ctx, &payment).await? {
            return Reply::of(&PayOutput {
                order_id: order.id.as_str().to_owned(),
                payment_amount: Yuan(order.payment_amount),
                payment: params,
            });
        }
        order = reload(ctx, &order).await?;
    }
    Err(Code::Conflict.into())
}

async fn reload(ctx: &Context, order: &Order) -> Result<Order, Failure> {
    ctx.store().order(&order.id).await?.ok_or_else(|| Code::OrderNotFound.into())
}

fn payable(ctx: &Context, order: &Order) -> Result<(), Refusal> {
    let say = |message: &'static str| {
        Err(Refusal::new(Code::OrderStateInvalid).with_message(message).detail("status", order.status.as_str()))
    };
    match order.status {
        OrderStatus::PendingPayment if order.expire_time <= ctx.now => say("订单已超时，请重新下单"),
        OrderStatus::PendingPayment => Ok(()),
        OrderStatus::Closed => say("订单已关闭，请重新下单"),
        _ => say("订单已支付，请勿重复操作"),
    }
}

/// Stores a new attempt with its exact request; `None` if the order moved on meanwhile.
async fn begin(ctx: &Context, order: &Order, attempt: i64) -> Result<Option<Payment>, Failure> {
    let pay = ctx.pay()?;
    let out_trade_no = if attempt == 1 { order.id.as_str().to_owned() } else { format!("{}P{attempt}", order.id) };
    let description = order.items.first().map_or_else(
        || "商品".to_owned(),
        |first| match order.items.len() {
            1 => first.name.clone(),
            n => format!("{} 等 {n} 件商品", first.name),
        },
    );
    let request = pay.prepay_request(&PrepayOrder {
        out_trade_no: &out_trade_no,
        description: &description,
        amount_fen: order.payment_amount.get(),
        payer_openid: &Personal::new(order.open_id.as_str()),
        // WeChat moves an earlier moment to one minute ahead anyway.
        time_expire: order.expire_time.max(ctx.now + TimeDelta::seconds(61)),
        attach: None,
    })?;
    let payment = Payment {
        out_trade_no,
        order_id: order.id.clone(),
        user_id: order.user_id.clone(),
        open_id: order.open_id.clone(),
        attempt,
        amount: order.payment_amount,
        status: PaymentStatus::Created,
        request,
        prepay_id: None,
        prepay_at: None,
        transaction_id: None,
        paid_at: None,
        success_at: None,
        created_at: ctx.now,
        next_query_at: Some(ctx.now + query_delay(0)),
        queries: 0,
        bill_day: None,
    };
    let now = ctx.now;
    let stored = ctx
        .store()
        .transaction(|tx, _| {
            let payment = &payment;
            Box::pin(async move {
                if !tx.begin_payment_attempt(order, attempt, now).await? {
                    return Ok(false);
                }
                tx.insert_payment(payment).await?;
                Ok(true)
            })
        })
        .await;
    match stored {
        Ok(true) => Ok(Some(payment)),
        Ok(false) | Err(store::Error::Duplicate { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The parameters for `wx.requestPayment`; `None` if the attempt turned out to be over.
async fn prepaid(ctx: &Context, payment: &Payment) -> Result<Option<PayParams>, Failure> {
    let pay = ctx.pay()?;
    let fresh = payment.prepay_at.is_some_and(|at| ctx.now - at < PREPAY_LIFE);
    let prepay_id = match &payment.prepay_id {
        Some(id) if fresh => PrepayId::new(id.as_str()),
        _ => match pay.prepay(&payment.request).await {
            Ok(id) => {
                crashpoint("pay.prepaid").await;
                if !ctx.store().record_prepay(&payment.out_trade_no, id.as_str(), ctx.now).await? {
                    return Ok(None);
                }
                id
            }
            // Their refusal may mean paid, closed or used: only a query tells, and settles if it is paid.
            Err(error) if matches!(error, wechat::pay::Error::Rejected { .. }) && !error.is_retryable() => {
                return match check_payment(ctx.store(), pay, ctx.rules(), payment, "query", ctx.now).await? {
                    Checked::Paid(_) | Checked::Closed => Ok(None),
                    Checked::NotPaid | Checked::Absent | Checked::Unclear(_) => Err(error.into()),
                };
            }
            Err(error) => return Err(error.into()),
        },
    };
    Ok(Some(pay.pay_params(&prepay_id, ctx.now, &wechat::nonce())?))
}

async fn query(ctx: &Context, order: &Order) -> Result<Reply, Failure> {
    let last = ctx.store().payments_of(&order.id).await?.pop();
    let trade_state = match last {
        None => "NOTPAY".to_owned(),
        Some(payment) => match payment.status {
            PaymentStatus::Paid | PaymentStatus::Exception => "SUCCESS".to_owned(),
            PaymentStatus::Closed if order.status == OrderStatus::Closed => "CLOSED".to_owned(),
            _ => check_payment(ctx.store(), ctx.pay()?, ctx.rules(), &payment, "query", ctx.now)
                .await?
                .trade_state()
                .to_owned(),
        },
    };
    let order = reload(ctx, order).await?;
    Reply::of(&QueryOutput { order_id: order.id.as_str().to_owned(), status: order.status, trade_state })
}
