//! Domestic refunds: the ledger never gives back more than was paid.

use chrono::{DateTime, TimeDelta, Utc};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::transactions::AMOUNT_MAX_FEN;
use super::{Answer, Refusal, notify_url, number, parse, text};
use crate::state::{Order, Refund, RefundStatus, State};
use crate::{Sim, beijing, keys};

const REFUNDS_MAX: usize = 50;
const BETWEEN_REFUNDS: TimeDelta = TimeDelta::minutes(1);
const REFUNDABLE: TimeDelta = TimeDelta::days(365);
/// Failing calls per second; further calls are refused whether good or bad.
const FAILING_PER_SECOND: usize = 6;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RefundRequest {
    transaction_id: Option<String>,
    out_trade_no: Option<String>,
    out_refund_no: String,
    reason: Option<String>,
    notify_url: Option<String>,
    funds_account: Option<String>,
    amount: Amount,
    #[serde(rename = "goods_detail")]
    _goods_detail: Option<Vec<Value>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Amount {
    refund: i64,
    total: i64,
    currency: String,
    #[serde(rename = "from")]
    _from: Option<Vec<Value>>,
}

pub(super) fn create(sim: &Sim, body: &[u8], now: DateTime<Utc>) -> Result<Answer, Refusal> {
    let mut state = sim.state();
    let second_ago = now - TimeDelta::seconds(1);
    state.failed_refunds.retain(|at| *at > second_ago && *at <= now);
    if state.failed_refunds.len() >= FAILING_PER_SECOND {
        return Err(Refusal::new(
            StatusCode::TOO_MANY_REQUESTS,
            "FREQUENCY_LIMITED",
            "频率超限: more than 6 failing refund calls within a second",
        ));
    }
    let result = accept(&mut state, body, now);
    if result.is_err() {
        state.failed_refunds.push_back(now);
    }
    result
}

fn accept(state: &mut State, body: &[u8], now: DateTime<Utc>) -> Result<Answer, Refusal> {
    let request: RefundRequest = parse(body)?;
    let json: Value = serde_json::from_slice(body).map_err(|error| Refusal::param("body", error.to_string()))?;
    check(&request)?;
    let order = match (&request.transaction_id, &request.out_trade_no) {
        (Some(id), None) => state.order_of_transaction(id),
        (None, Some(number)) => state.order(number),
        _ => return Err(Refusal::param("transaction_id", "give exactly one of transaction_id and out_trade_no")),
    };
    let order = order.filter(|order| order.transaction_id.is_some());
    if let Some(known) = state.order_of_refund(&request.out_refund_no) {
        return repeat(known, &request.out_refund_no, &json);
    }
    let mut order = order
        .ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, "RESOURCE_NOT_EXISTS", "订单不存在: unknown or not paid"))?
        .clone();
    if request.amount.total != order.ledger_fen() {
        let message = format!(
            "订单金额或退款金额与之前请求不一致: amount.total {} but the order's total is {}",
            request.amount.total,
            order.ledger_fen()
        );
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "INVALID_REQUEST", message));
    }
    if order.paid_at.is_none_or(|paid_at| now - paid_at > REFUNDABLE) {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "INVALID_REQUEST", "交易时间超过365天，不能退款"));
    }
    if order.refunds.len() >= REFUNDS_MAX {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "INVALID_REQUEST", "一笔订单最多支持50次部分退款"));
    }
    if order.refunds.iter().any(|refund| now - refund.created_at < BETWEEN_REFUNDS) {
        return Err(Refusal::new(
            StatusCode::TOO_MANY_REQUESTS,
            "FREQUENCY_LIMITED",
            "频率超限: refunds of one order must be one minute apart",
        ));
    }
    let left = order.ledger_fen().saturating_sub(order.refunded_fen());
    if request.amount.refund > left {
        return Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "INVALID_REQUEST",
            format!("申请退款金额大于订单可退金额: {} of {left} left", request.amount.refund),
        ));
    }
    let refund = Refund {
        refund_id: trade_number("5030", now),
        out_refund_no: request.out_refund_no,
        refund_fen: request.amount.refund,
        notify_url: request.notify_url,
        request: json,
        created_at: now,
        status: RefundStatus::Processing,
        success_at: None,
    };
    let view = view(&order, &refund);
    order.refunds.push(refund);
    state.put_order(order);
    Ok(Answer::Json(view))
}

fn check(request: &RefundRequest) -> Result<(), Refusal> {
    number("out_refund_no", &request.out_refund_no, 1, 64, "_-|*@")?;
    if let Some(reason) = &request.reason {
        text("reason", reason, 1, 80)?;
    }
    if let Some(url) = &request.notify_url {
        notify_url(url, 256)?;
    }
    if request.funds_account.as_deref().is_some_and(|account| !["AVAILABLE", "UNSETTLED"].contains(&account)) {
        return Err(Refusal::param("funds_account", "must be AVAILABLE or UNSETTLED"));
    }
    if request.amount.currency != "CNY" {
        return Err(Refusal::param("amount.currency", "must be CNY"));
    }
    if !(1..=AMOUNT_MAX_FEN).contains(&request.amount.refund) {
        return Err(Refusal::param("amount.refund", "must be a whole number of fen, at least 1"));
    }
    Ok(())
}

/// The same number again: the same refund if the request says the same, in whatever layout.
fn repeat(order: &Order, out_refund_no: &str, request: &Value) -> Result<Answer, Refusal> {
    let known = order.refunds.iter().find(|refund| refund.out_refund_no == out_refund_no);
    match known {
        Some(refund) if refund.request == *request => Ok(Answer::Json(view(order, refund))),
        _ => Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "INVALID_REQUEST",
            "订单金额或退款金额与之前请求不一致: this out_refund_no was used with other parameters",
        )),
    }
}

pub(super) fn query(sim: &Sim, out_refund_no: &str, now: DateTime<Utc>) -> Result<Answer, Refusal> {
    let missing = || Refusal::new(StatusCode::NOT_FOUND, "RESOURCE_NOT_EXISTS", "退款单不存在");
    let mut state = sim.state();
    let mut order = state.order_of_refund(out_refund_no).ok_or_else(missing)?.clone();
    let refund = order.refunds.iter_mut().find(|refund| refund.out_refund_no == out_refund_no).ok_or_else(missing)?;
    let settles = sim.config().settle_refunds_on_query && refund.status == RefundStatus::Processing;
    if settles {
        refund.status = RefundStatus::Success;
        refund.success_at = Some(now);
    }
    let refund = refund.clone();
    let view = view(&order, &refund);
    if settles {
        state.put_order(order);
    }
    Ok(Answer::Json(view))
}

fn view(order: &Order, refund: &Refund) -> Value {
    let (total, amount) = (order.ledger_fen(), refund.refund_fen);
    let mut view = json!({
        "refund_id": refund.refund_id,
        "out_refund_no": refund.out_refund_no,
        "transaction_id": order.transaction_id,
        "out_trade_no": order.out_trade_no,
        "channel": "ORIGINAL",
        "user_received_account": "支付用户零钱",
        "create_time": beijing(refund.created_at),
        "status": refund.status.as_str(),
        "funds_account": "AVAILABLE",
        "amount": {
            "total": total, "refund": amount, "payer_total": total, "payer_refund": amount, "settlement_refund": amount,
            "settlement_total": total, "discount_refund": 0, "refund_fee": 0, "currency": "CNY", "from": [],
        },
        "promotion_detail": [],
    });
    if let (Some(at), Some(fields)) = (refund.success_at, view.as_object_mut()) {
        fields.insert("success_time".to_owned(), json!(beijing(at)));
    }
    view
}

/// What a refund notice tells: `refund_status` where the API says `status`, no channel, no funds account.
pub(crate) fn notice_plaintext(order: &Order, refund: &Refund) -> Value {
    let mut view = json!({
        "mchid": keys::MCHID,
        "out_trade_no": order.out_trade_no,
        "transaction_id": order.transaction_id,
        "out_refund_no": refund.out_refund_no,
        "refund_id": refund.refund_id,
        "refund_status": refund.status.as_str(),
        "user_received_account": "支付用户零钱",
        "amount": { "total": order.ledger_fen(), "refund": refund.refund_fen, "payer_total": order.ledger_fen(), "payer_refund": refund.refund_fen },
    });
    if let (Some(at), Some(fields)) = (refund.success_at, view.as_object_mut()) {
        fields.insert("success_time".to_owned(), json!(beijing(at)));
    }
    view
}

/// A number of 28 digits in the shape of WeChat Pay's: prefix, day, randomness.
pub(crate) fn trade_number(prefix: &str, now: DateTime<Utc>) -> String {
    let day: String = beijing(now).chars().filter(char::is_ascii_digit).take(8).collect();
    let tail = rand::random::<u64>() % 10_000_000_000;
    let middle = rand::random::<u32>() % 1_000_000;
    format!("{prefix}{middle:06}{day}{tail:010}")
}
