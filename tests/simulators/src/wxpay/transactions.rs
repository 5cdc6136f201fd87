//! JSAPI orders: prepay, query, close.

use chrono::{DateTime, FixedOffset, TimeDelta, Utc};
use http::{StatusCode, Uri};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Answer, Refusal, notify_url, number, parse, text};
use crate::crypto::random_hex;
use crate::state::{Order, Prepay, TradeState};
use crate::{Sim, beijing, keys, query_value};

/// `time_expire` may lie this far ahead.
const EXPIRE_MAX: TimeDelta = TimeDelta::days(15);
/// The largest amount the simulator believes: one hundred million yuan.
pub(super) const AMOUNT_MAX_FEN: i64 = 10_000_000_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PrepayRequest {
    appid: String,
    mchid: String,
    description: String,
    out_trade_no: String,
    time_expire: Option<String>,
    attach: Option<String>,
    notify_url: String,
    goods_tag: Option<String>,
    #[serde(rename = "support_fapiao")]
    _support_fapiao: Option<bool>,
    amount: Amount,
    payer: Payer,
    #[serde(rename = "detail")]
    _detail: Option<Detail>,
    #[serde(rename = "scene_info")]
    _scene_info: Option<SceneInfo>,
    #[serde(rename = "settle_info")]
    _settle_info: Option<SettleInfo>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Amount {
    total: i64,
    currency: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Payer {
    openid: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Detail {
    #[serde(rename = "cost_price")]
    _cost_price: Option<i64>,
    #[serde(rename = "invoice_id")]
    _invoice_id: Option<String>,
    #[serde(rename = "goods_detail")]
    _goods_detail: Option<Vec<Goods>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Goods {
    #[serde(rename = "merchant_goods_id")]
    _merchant_goods_id: String,
    #[serde(rename = "wechatpay_goods_id")]
    _wechatpay_goods_id: Option<String>,
    #[serde(rename = "goods_name")]
    _goods_name: Option<String>,
    #[serde(rename = "quantity")]
    _quantity: i64,
    #[serde(rename = "unit_price")]
    _unit_price: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SceneInfo {
    #[serde(rename = "payer_client_ip")]
    _payer_client_ip: String,
    #[serde(rename = "device_id")]
    _device_id: Option<String>,
    #[serde(rename = "store_info")]
    _store_info: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SettleInfo {
    #[serde(rename = "profit_sharing")]
    _profit_sharing: Option<bool>,
}

/// The first request fixes the order; a byte-equal one renews the `prepay_id`; any other is refused.
pub(super) fn prepay(sim: &Sim, body: &[u8], now: DateTime<Utc>) -> Result<Answer, Refusal> {
    let request: PrepayRequest = parse(body)?;
    let raw = std::str::from_utf8(body).map_err(|_| Refusal::param("body", "not UTF-8"))?;
    let expire = check(&request)?;
    let mut state = sim.state();
    let mut order = match state.order(&request.out_trade_no) {
        Some(order) => {
            refuse_again(order, raw, now)?;
            order.clone()
        }
        None => {
            if expire.is_some_and(|at| at > now + EXPIRE_MAX) {
                return Err(Refusal::param("time_expire", "more than 15 days ahead"));
            }
            Order {
                sequence: state.next_sequence(),
                out_trade_no: request.out_trade_no,
                description: request.description,
                attach: request.attach,
                notify_url: request.notify_url,
                open_id: request.payer.openid,
                total_fen: request.amount.total,
                paid_fen: None,
                // An earlier moment is moved, as the documentation says, not refused.
                time_expire: expire.map(|at| at.max(now + TimeDelta::minutes(1))),
                created_at: now,
                request: raw.to_owned(),
                prepays: Vec::new(),
                closed: false,
                transaction_id: None,
                paid_at: None,
                refunds: Vec::new(),
            }
        }
    };
    let day = beijing(now).chars().filter(char::is_ascii_digit).take(14).collect::<String>();
    let id = format!("wx{day}{}", random_hex::<10>());
    order.prepays.push(Prepay { id: id.clone(), created_at: now });
    state.put_order(order);
    Ok(Answer::Json(json!({ "prepay_id": id })))
}

fn check(request: &PrepayRequest) -> Result<Option<DateTime<Utc>>, Refusal> {
    if request.mchid != keys::MCHID {
        return Err(Refusal::param(
            "mchid",
            format!("{:?} is not the merchant that signed the request", request.mchid),
        ));
    }
    if request.appid != keys::APPID {
        return Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "APPID_MCHID_NOT_MATCH",
            format!("appid {:?} is not bound to mchid {}", request.appid, keys::MCHID),
        ));
    }
    text("description", &request.description, 1, 127)?;
    number("out_trade_no", &request.out_trade_no, 6, 32, "_-|*")?;
    if let Some(attach) = &request.attach {
        text("attach", attach, 1, 128)?;
    }
    if let Some(tag) = &request.goods_tag {
        text("goods_tag", tag, 1, 32)?;
    }
    notify_url(&request.notify_url, 255)?;
    if !(1..=AMOUNT_MAX_FEN).contains(&request.amount.total) {
        return Err(Refusal::param("amount.total", "must be a whole number of fen, at least 1"));
    }
    if request.amount.currency.as_deref().is_some_and(|currency| currency != "CNY") {
        return Err(Refusal::param("amount.currency", "must be CNY"));
    }
    text("payer.openid", &request.payer.openid, 1, 128)?;
    request.time_expire.as_deref().map(time_expire).transpose()
}

fn time_expire(value: &str) -> Result<DateTime<Utc>, Refusal> {
    // chrono reads more than RFC 3339 allows the payer's side to send: a space for the T, or more than 64 characters.
    if value.contains(' ') || value.len() > 64 {
        return Err(Refusal::param("time_expire", "not of the form 2015-05-20T13:29:35+08:00"));
    }
    DateTime::<FixedOffset>::parse_from_rfc3339(value)
        .map(|at| at.with_timezone(&Utc))
        .map_err(|_| Refusal::param("time_expire", "not of the form 2015-05-20T13:29:35+08:00"))
}

fn refuse_again(order: &Order, raw: &str, now: DateTime<Utc>) -> Result<(), Refusal> {
    match order.trade_state(now) {
        TradeState::Success | TradeState::Refund => {
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "ORDERPAID", "该订单已支付"));
        }
        TradeState::Closed => {
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "ORDER_CLOSED", "该订单已关闭，请重新下单"));
        }
        TradeState::NotPay => {}
    }
    if order.request != raw {
        let message =
            format!("商户订单号重复: the first request for this number differs ({})", difference(&order.request, raw));
        return Err(Refusal::new(StatusCode::FORBIDDEN, "OUT_TRADE_NO_USED", message));
    }
    if order.expired(now) {
        return Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "INVALID_REQUEST",
            "订单已过期，不能再支付: time_expire has passed",
        ));
    }
    Ok(())
}

fn difference(first: &str, second: &str) -> String {
    let fields = |text: &str| serde_json::from_str::<serde_json::Map<String, Value>>(text).unwrap_or_default();
    let (first, second) = (fields(first), fields(second));
    let mut names: Vec<&str> = first
        .keys()
        .chain(second.keys())
        .filter(|name| first.get(*name) != second.get(*name))
        .map(String::as_str)
        .collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        "same values, other bytes: replay the stored text".to_owned()
    } else {
        format!("fields: {}", names.join(", "))
    }
}

pub(super) fn by_out_trade_no(sim: &Sim, out_trade_no: &str, uri: &Uri, now: DateTime<Utc>) -> Result<Answer, Refusal> {
    merchant(uri)?;
    let state = sim.state();
    let order = state.order(out_trade_no).ok_or_else(no_order)?;
    Ok(Answer::Json(view(order, now)))
}

pub(super) fn by_transaction(
    sim: &Sim,
    transaction_id: &str,
    uri: &Uri,
    now: DateTime<Utc>,
) -> Result<Answer, Refusal> {
    merchant(uri)?;
    let state = sim.state();
    let order = state.order_of_transaction(transaction_id).ok_or_else(no_order)?;
    Ok(Answer::Json(view(order, now)))
}

fn no_order() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "ORDER_NOT_EXIST", "订单不存在")
}

fn merchant(uri: &Uri) -> Result<(), Refusal> {
    match query_value(uri, "mchid") {
        None => {
            let mut refusal = Refusal::param("mchid", "missing from the query string");
            refusal.detail = Some(json!({ "field": "mchid", "issue": "missing", "location": "query" }));
            Err(refusal)
        }
        Some(mchid) if mchid == keys::MCHID => Ok(()),
        // The real service answers as if the order did not exist; the message at least says why.
        Some(mchid) => Err(Refusal::new(
            StatusCode::NOT_FOUND,
            "ORDER_NOT_EXIST",
            format!("订单不存在: mchid {mchid:?} in the query is not {}", keys::MCHID),
        )),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CloseRequest {
    mchid: String,
}

/// Closing twice is fine; closing what is paid is not. The answer for an unknown number is a guess: the documents list none.
pub(super) fn close(sim: &Sim, out_trade_no: &str, body: &[u8], now: DateTime<Utc>) -> Result<Answer, Refusal> {
    let request: CloseRequest = parse(body)?;
    if request.mchid != keys::MCHID {
        return Err(Refusal::param(
            "mchid",
            format!("{:?} is not the merchant that signed the request", request.mchid),
        ));
    }
    let mut state = sim.state();
    let order = state.order(out_trade_no).ok_or_else(no_order)?;
    match order.trade_state(now) {
        TradeState::Success | TradeState::Refund => {
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "ORDER_PAID", "该订单已支付，不能关闭"));
        }
        TradeState::Closed => {}
        TradeState::NotPay => {
            let mut order = order.clone();
            order.closed = true;
            state.put_order(order);
        }
    }
    Ok(Answer::Empty)
}

/// The order as a query or a notice shows it.
pub(crate) fn view(order: &Order, now: DateTime<Utc>) -> Value {
    let trade_state = order.trade_state(now);
    let mut view = json!({
        "appid": keys::APPID,
        "mchid": keys::MCHID,
        "out_trade_no": order.out_trade_no,
        "trade_state": trade_state.as_str(),
        "trade_state_desc": trade_state.description(),
        "promotion_detail": [],
        "amount": { "total": order.ledger_fen(), "currency": "CNY", "payer_currency": "CNY" },
        "scene_info": { "device_id": "" },
    });
    if let (Some(transaction_id), Some(paid_at), Some(fields)) =
        (&order.transaction_id, order.paid_at, view.as_object_mut())
    {
        fields.insert("transaction_id".to_owned(), json!(transaction_id));
        fields.insert("trade_type".to_owned(), json!("JSAPI"));
        fields.insert("bank_type".to_owned(), json!("OTHERS"));
        fields.insert("attach".to_owned(), json!(order.attach.as_deref().unwrap_or("")));
        fields.insert("success_time".to_owned(), json!(beijing(paid_at)));
        fields.insert("payer".to_owned(), json!({ "openid": order.open_id }));
        let total = order.ledger_fen();
        fields.insert(
            "amount".to_owned(),
            json!({ "total": total, "payer_total": total, "currency": "CNY", "payer_currency": "CNY" }),
        );
    }
    view
}
