//! Steering: the payer pays, a refund completes, a permission is granted, a request fails. The same operations are methods of
//! [`Sim`] for tests in the same process.

use std::collections::BTreeMap;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::any;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, StatusCode, Uri};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::faults::{Fault, FaultMode, Target};
use crate::notice::{Event, NoticeMode, NoticeResult};
use crate::state::{Duplicate, Message, Order, Quota, RefundStatus, Shipping, Sms, TradeState};
use crate::wxpay::{refund_plaintext, trade_number, transaction_view};
use crate::{Error, Sim, keys, query_value, sms};

const BODY_MAX: usize = 256 * 1024;
/// The newest orders or messages shown at once.
const LIST_MAX: usize = 200;
/// What one may ask for at most.
const PAGE_MAX: usize = 20_000;

/// The body of `POST control/pay`. One of `order_id`, `prepay_id`, `out_trade_no` or `payment` says what is paid.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Pay {
    /// The shop's order: the newest order whose `out_trade_no` is this or starts with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order_id: Option<String>,
    /// A `prepay_id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prepay_id: Option<String>,
    /// The exact merchant number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub out_trade_no: Option<String>,
    /// What the mini program hands to `wx.requestPayment`: its `paySign` is checked, as the payer's phone would.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payment: Option<Payment>,
    /// What becomes of the notice; default as configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notify: Option<NoticeMode>,
    /// How often it is sent at the same moment; default 2 for `duplicate`, else 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,
    /// Repeat a refused notice up to six times within two seconds.
    pub retry: bool,
    /// The ledger records this amount instead of the order's total.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub amount_fen: Option<i64>,
}

/// Parameters of `wx.requestPayment`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Payment {
    /// Seconds, as text.
    pub time_stamp: String,
    /// Any text.
    pub nonce_str: String,
    /// `prepay_id=…`.
    pub package: String,
    /// `RSA`.
    pub sign_type: String,
    /// The merchant's signature over appid and the three fields above it.
    pub pay_sign: String,
}

/// The reply of `control/pay` and `control/refund`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PaidReply {
    /// Always true.
    pub success: bool,
    /// The merchant's number.
    pub out_trade_no: String,
    /// WeChat Pay's number.
    pub transaction_id: String,
    /// Refunds only: the merchant's refund number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_refund_no: Option<String>,
    /// Refunds only: where it stands now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<RefundStatus>,
    /// It was paid before; only the notice was sent again.
    pub already_paid: bool,
    /// HTTP status of the first delivery; null if there was no notice or no answer.
    pub notice_status: Option<u16>,
    /// All deliveries, in order of sending.
    pub notices: Vec<NoticeResult>,
}

/// The body of `POST control/refund`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CompleteRefund {
    /// The merchant's refund number.
    pub out_refund_no: String,
    /// How it ends; default `SUCCESS`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<RefundStatus>,
    /// What becomes of the notice; default as configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notify: Option<NoticeMode>,
    /// As for a payment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,
    /// As for a payment.
    pub retry: bool,
}

/// The body of `POST control/subscribe`: sets how many messages of a template a user still accepts.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Subscribe {
    /// The user.
    pub open_id: String,
    /// The template.
    pub template_id: String,
    /// Added to what is left; 0 sets it to nothing, so that the next message meets 43101.
    pub count: u32,
}

/// The body of `POST control/bill`: from now on the bills differ from the ledger in one row.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ChangeBill {
    /// The merchant's number of a refund or a payment, or the order that its number begins with.
    pub number: String,
    /// What is wrong with its row.
    pub mode: BillMode,
    /// For [`BillMode::Amount`] and [`BillMode::Extra`].
    #[serde(default)]
    pub fen: i64,
}

/// What is wrong with a row of the bills.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum BillMode {
    /// It is not there.
    Missing,
    /// It has another amount.
    Amount,
    /// It is there, and nobody ever paid it: a payment at this moment.
    Extra,
    /// The bill has the refund as failed.
    Failed,
    /// The row is as in the ledger again; an extra one is gone.
    None,
}

/// The body of `POST control/shipping`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ShippingRules {
    /// How long after its payment an order is not yet known to the reports of shipping.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag_seconds: Option<u32>,
    /// The user confirms the receipt of this order: its `out_trade_no` or the start of it. No further report is taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confirm_order_id: Option<String>,
}

/// Why a steering call did nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// HTTP status.
    pub status: u16,
    /// `NOT_FOUND`, `INVALID_ARGUMENT`, `ORDER_CLOSED`, `ORDER_EXPIRED`, `PREPAY_EXPIRED`, `PAY_SIGN_INVALID`, `REFUND_FINAL` or `INTERNAL`.
    pub code: &'static str,
    /// For the developer.
    pub message: String,
}

impl Refused {
    fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    fn argument(message: impl Into<String>) -> Self {
        Self::new(400, "INVALID_ARGUMENT", message)
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::new(500, "INTERNAL", error.to_string())
    }
}

impl Sim {
    /// The payer pays, and the notice goes out. Paying what is paid changes nothing but sends the notice again.
    pub async fn pay(&self, pay: &Pay) -> Result<PaidReply, Refused> {
        let (order, already_paid) = self.commit_payment(pay)?;
        let mode = pay.notify.unwrap_or(self.config().notify);
        let mut plaintext = transaction_view(&order, self.now());
        if let Some(fields) = plaintext.as_object_mut() {
            // A repeated notice of a refunded order still tells of the payment.
            fields.insert("trade_state".to_owned(), json!("SUCCESS"));
            fields.insert("trade_state_desc".to_owned(), json!(TradeState::Success.description()));
        }
        let event =
            Event {
                event_type: "TRANSACTION.SUCCESS", original_type: "transaction", summary: "支付成功", plaintext
            };
        let notices = self.notify(&order.notify_url, &event, mode, pay.times, pay.retry).await?;
        Ok(reply(&order, already_paid, notices))
    }

    fn commit_payment(&self, pay: &Pay) -> Result<(Order, bool), Refused> {
        let now = self.now();
        if pay.amount_fen.is_some_and(|amount| amount < 1) {
            return Err(Refused::argument("amountFen must be at least 1"));
        }
        let mut state = self.state();
        let order = match (&pay.order_id, &pay.prepay_id, &pay.out_trade_no, &pay.payment) {
            (Some(id), None, None, None) if !id.is_empty() => state.newest_with_prefix(id),
            (None, Some(id), None, None) => state.order_of_prepay(id),
            (None, None, Some(number), None) => state.order(number),
            (None, None, None, Some(payment)) => state.order_of_prepay(self.check_payment(payment)?),
            _ => return Err(Refused::argument("give exactly one of orderId, prepayId, outTradeNo, payment")),
        };
        let order = order.ok_or_else(|| Refused::new(404, "NOT_FOUND", "no prepay for this order"))?;
        if order.transaction_id.is_some() {
            return Ok((order.clone(), true));
        }
        if order.trade_state(now) == TradeState::Closed {
            return Err(Refused::new(409, "ORDER_CLOSED", format!("{} is closed", order.out_trade_no)));
        }
        if order.expired(now) {
            return Err(Refused::new(
                409,
                "ORDER_EXPIRED",
                format!("time_expire of {} has passed", order.out_trade_no),
            ));
        }
        let named = pay
            .prepay_id
            .as_deref()
            .or_else(|| pay.payment.as_ref().and_then(|payment| payment.package.strip_prefix("prepay_id=")));
        let prepay = match named {
            Some(id) => order.prepays.iter().find(|prepay| prepay.id == id),
            None => order.prepays.last(),
        };
        if !prepay.is_some_and(|prepay| Order::prepay_valid(prepay, now)) {
            return Err(Refused::new(409, "PREPAY_EXPIRED", "the prepay_id is older than two hours"));
        }
        let mut order = order.clone();
        order.transaction_id = Some(trade_number("4200", now));
        order.paid_at = Some(now);
        order.paid_fen = pay.amount_fen.filter(|amount| *amount != order.total_fen);
        state.put_order(order.clone());
        Ok((order, false))
    }

    /// The `prepay_id` of a payment whose `paySign` the merchant's key made.
    fn check_payment<'a>(&self, payment: &'a Payment) -> Result<&'a str, Refused> {
        let invalid = |message: &str| Refused::new(400, "PAY_SIGN_INVALID", message);
        let id = payment.package.strip_prefix("prepay_id=").ok_or_else(|| invalid("package must be prepay_id=…"))?;
        if payment.sign_type != "RSA" {
            return Err(invalid("signType must be RSA"));
        }
        let message = format!("{}\n{}\n{}\n{}\n", keys::APPID, payment.time_stamp, payment.nonce_str, payment.package);
        let signature = STANDARD.decode(&payment.pay_sign).map_err(|_| invalid("paySign is not base64"))?;
        if !self.keyring().merchant_signed(message.as_bytes(), &signature) {
            return Err(invalid(&format!("paySign does not verify; signed must be {message:?}")));
        }
        Ok(id)
    }

    /// Ends a refund and sends its notice, if the refund asked for one. A finished refund only has its notice repeated.
    pub async fn complete_refund(&self, request: &CompleteRefund) -> Result<PaidReply, Refused> {
        let order = self.commit_refund(request)?;
        let refund = order.refunds.iter().find(|refund| refund.out_refund_no == request.out_refund_no);
        let refund = refund.ok_or_else(|| Refused::new(404, "NOT_FOUND", "no such refund"))?;
        let (event_type, summary) = match refund.status {
            RefundStatus::Abnormal => ("REFUND.ABNORMAL", "退款异常"),
            RefundStatus::Closed => ("REFUND.CLOSED", "退款关闭"),
            RefundStatus::Success | RefundStatus::Processing => ("REFUND.SUCCESS", "退款成功"),
        };
        let event = Event { event_type, original_type: "refund", summary, plaintext: refund_plaintext(&order, refund) };
        let notices = match &refund.notify_url {
            Some(url) => {
                let mode = request.notify.unwrap_or(self.config().notify);
                self.notify(url, &event, mode, request.times, request.retry).await?
            }
            None => Vec::new(),
        };
        let mut reply = reply(&order, true, notices);
        reply.out_refund_no = Some(refund.out_refund_no.clone());
        reply.status = Some(refund.status);
        Ok(reply)
    }

    fn commit_refund(&self, request: &CompleteRefund) -> Result<Order, Refused> {
        let missing = || Refused::new(404, "NOT_FOUND", "no refund with this outRefundNo");
        let now = self.now();
        let mut state = self.state();
        let mut order = state.order_of_refund(&request.out_refund_no).ok_or_else(missing)?.clone();
        let refund = order
            .refunds
            .iter_mut()
            .find(|refund| refund.out_refund_no == request.out_refund_no)
            .ok_or_else(missing)?;
        let wanted = request.status.unwrap_or(match refund.status {
            RefundStatus::Processing => RefundStatus::Success,
            known => known,
        });
        if wanted == RefundStatus::Processing {
            return Err(Refused::argument("status must be SUCCESS, ABNORMAL or CLOSED"));
        }
        if wanted == refund.status {
            return Ok(order);
        }
        // An abnormal refund can still be repaired; a successful or failed one is final.
        if !matches!(refund.status, RefundStatus::Processing | RefundStatus::Abnormal) {
            return Err(Refused::new(409, "REFUND_FINAL", format!("the refund is {}", refund.status.as_str())));
        }
        refund.status = wanted;
        refund.success_at = (wanted == RefundStatus::Success).then_some(now);
        state.put_order(order.clone());
        Ok(order)
    }

    /// Grants permissions for subscribe messages; from then on the pair is counted.
    pub fn subscribe(&self, subscribe: &Subscribe) -> u32 {
        let mut state = self.state();
        let left = state.quota(&subscribe.open_id, &subscribe.template_id).unwrap_or(0);
        let left = if subscribe.count == 0 { 0 } else { left.saturating_add(subscribe.count) };
        state.put_quota(&subscribe.open_id, &subscribe.template_id, left);
        left
    }

    /// Accepted subscribe messages, oldest first.
    pub fn messages(&self, open_id: Option<&str>) -> Vec<Message> {
        self.state()
            .messages()
            .filter(|message| open_id.is_none_or(|open_id| message.open_id == open_id))
            .cloned()
            .collect()
    }

    /// Messages that say the same to the same person as another one does.
    pub fn duplicates(&self) -> Vec<Duplicate> {
        let mut groups: BTreeMap<(String, String, String), Duplicate> = BTreeMap::new();
        for message in self.state().messages() {
            let key = (message.open_id.clone(), message.template_id.clone(), message.data.to_string());
            let group = groups.entry(key).or_insert_with(|| Duplicate {
                open_id: message.open_id.clone(),
                template_id: message.template_id.clone(),
                data: message.data.clone(),
                msg_ids: Vec::new(),
            });
            group.msg_ids.push(message.msg_id);
        }
        groups.into_values().filter(|group| group.msg_ids.len() > 1).collect()
    }

    /// What is left of granted permissions, by user and template.
    pub fn quotas(&self, open_id: Option<&str>) -> Vec<Quota> {
        let mut quotas: Vec<_> =
            self.state().quotas().filter(|quota| open_id.is_none_or(|open_id| quota.open_id == open_id)).collect();
        quotas.sort_by(|a, b| (&a.open_id, &a.template_id).cmp(&(&b.open_id, &b.template_id)));
        quotas
    }

    /// What was reported about the shipping of orders whose number begins with `prefix`, newest order first.
    pub fn shipping(&self, prefix: &str) -> Vec<Shipping> {
        let state = self.state();
        let orders = state.newest_orders().filter(|order| order.out_trade_no.starts_with(prefix));
        orders.filter_map(|order| state.shipping(order.transaction_id.as_deref()?)).cloned().collect()
    }

    /// Makes the bills differ from the ledger. Forgotten at a restart.
    pub fn change_bill(&self, change: ChangeBill) {
        let at = self.now();
        let mut state = self.state();
        state.bill_changes.retain(|(_, known)| known.number != change.number);
        if change.mode != BillMode::None {
            state.bill_changes.push((at, change));
        }
    }

    /// Changes how reports of shipping are taken.
    pub fn rule_shipping(&self, rules: &ShippingRules) -> Result<(), Refused> {
        let mut state = self.state();
        if let Some(seconds) = rules.lag_seconds {
            state.shipping_lag = chrono::TimeDelta::seconds(i64::from(seconds));
        }
        if let Some(prefix) = &rules.confirm_order_id {
            let order = state.newest_with_prefix(prefix).and_then(|order| order.transaction_id.clone());
            let shipping = order.and_then(|id| state.shipping(&id).cloned());
            let mut shipping = shipping.ok_or_else(|| Refused::new(404, "NOT_FOUND", "no shipping of this order"))?;
            shipping.confirmed = true;
            state.put_shipping(shipping);
        }
        Ok(())
    }

    /// Accepted text messages, newest first; `phone` with or without its prefix.
    pub fn sms(&self, phone: Option<&str>) -> Vec<Sms> {
        let phone = phone.map(sms::without_prefix);
        self.state().newest_sms().filter(|sms| phone.is_none_or(|phone| sms.phone == phone)).cloned().collect()
    }

    /// Orders whose number begins with `prefix`, newest first.
    pub fn orders(&self, prefix: &str) -> Vec<Order> {
        self.state().newest_orders().filter(|order| order.out_trade_no.starts_with(prefix)).cloned().collect()
    }
}

fn reply(order: &Order, already_paid: bool, notices: Vec<NoticeResult>) -> PaidReply {
    PaidReply {
        success: true,
        out_trade_no: order.out_trade_no.clone(),
        transaction_id: order.transaction_id.clone().unwrap_or_default(),
        out_refund_no: None,
        status: None,
        already_paid,
        notice_status: notices.first().and_then(|notice| notice.status),
        notices,
    }
}

pub(crate) fn router(sim: Sim) -> Router {
    Router::new().route("/{*path}", any(entry)).with_state(sim)
}

async fn entry(State(sim): State<Sim>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let result = match to_bytes(body, BODY_MAX).await {
        Ok(body) => answer(&sim, &parts.method, &parts.uri, &body).await,
        Err(error) => Err(Refused::argument(format!("unreadable body: {error}"))),
    };
    match result {
        Ok(value) => json_response(200, &value),
        Err(refused) => json_response(
            refused.status,
            &json!({ "success": false, "code": refused.code, "message": refused.message }),
        ),
    }
}

async fn answer(sim: &Sim, method: &Method, uri: &Uri, body: &[u8]) -> Result<Value, Refused> {
    match (method.as_str(), uri.path()) {
        ("POST", "/pay") => to_value(&sim.pay(&parse(body)?).await?),
        ("POST", "/refund") => to_value(&sim.complete_refund(&parse(body)?).await?),
        ("POST", "/legacyRefund") => to_value(&sim.legacy_refund(&parse(body)?).await?),
        ("POST", "/bill") => {
            sim.change_bill(parse(body)?);
            Ok(json!({ "success": true }))
        }
        ("POST", "/subscribe") => {
            let left = sim.subscribe(&parse(body)?);
            Ok(json!({ "success": true, "left": left }))
        }
        ("POST", "/faults") => {
            let fault: Fault = parse(body)?;
            check(&fault)?;
            sim.fault(fault);
            Ok(json!({ "success": true, "faults": sim.waiting_faults() }))
        }
        ("GET", "/faults") => Ok(json!({ "success": true, "faults": sim.waiting_faults() })),
        ("POST", "/tokens/revoke") => {
            sim.revoke_tokens();
            Ok(json!({ "success": true }))
        }
        ("GET", "/messages") => {
            let number = |name: &str| query_value(uri, name).and_then(|value| value.parse::<u64>().ok());
            let limit = number("limit").and_then(|limit| usize::try_from(limit).ok()).unwrap_or(LIST_MAX).min(PAGE_MAX);
            let messages = sim.messages(query_value(uri, "openId").as_deref());
            let total = messages.len();
            let messages: Vec<Message> = match number("after") {
                // A page in the order of sending.
                Some(after) => messages.into_iter().filter(|message| message.msg_id > after).take(limit).collect(),
                None => messages.into_iter().skip(total.saturating_sub(limit)).collect(),
            };
            Ok(json!({ "success": true, "total": total, "messages": messages }))
        }
        ("GET", "/duplicates") => Ok(json!({ "success": true, "duplicates": sim.duplicates() })),
        ("GET", "/quota") => {
            let quotas = sim.quotas(query_value(uri, "openId").as_deref());
            Ok(json!({ "success": true, "quotas": quotas.into_iter().take(PAGE_MAX).collect::<Vec<_>>() }))
        }
        ("GET", "/requests") => Ok(json!({ "success": true, "requests": sim.all_requests() })),
        ("POST", "/shipping") => {
            sim.rule_shipping(&parse(body)?)?;
            Ok(json!({ "success": true }))
        }
        ("GET", "/shipping") => {
            let prefix = query_value(uri, "outTradeNo").or_else(|| query_value(uri, "orderId")).unwrap_or_default();
            let shipping = sim.shipping(&prefix);
            Ok(json!({ "success": true, "shipping": shipping.into_iter().take(LIST_MAX).collect::<Vec<_>>() }))
        }
        ("GET", "/sms") => {
            let messages = sim.sms(query_value(uri, "phone").as_deref());
            Ok(json!({ "success": true, "messages": messages.into_iter().take(LIST_MAX).collect::<Vec<_>>() }))
        }
        ("POST", "/parcel") => to_value(&sim.parcel(&parse(body)?).await?),
        ("GET", "/parcel") => {
            let parcels = sim.parcels(query_value(uri, "num").as_deref());
            Ok(json!({ "success": true, "parcels": parcels.into_iter().take(LIST_MAX).collect::<Vec<_>>() }))
        }
        ("GET", "/orders") => {
            let prefix = query_value(uri, "outTradeNo").or_else(|| query_value(uri, "orderId")).unwrap_or_default();
            let now = sim.now();
            let orders = sim
                .orders(&prefix)
                .iter()
                .take(LIST_MAX)
                .map(|order| shown(order, now))
                .collect::<Result<Vec<_>, _>>()?;
            Ok(json!({ "success": true, "orders": orders }))
        }
        (_, path) => Err(Refused::new(404, "NOT_FOUND", format!("no steering call {method} {path}"))),
    }
}

fn shown(order: &Order, now: chrono::DateTime<chrono::Utc>) -> Result<Value, Refused> {
    let mut value = to_value(order)?;
    if let Some(fields) = value.as_object_mut() {
        fields.insert("tradeState".to_owned(), json!(order.trade_state(now).as_str()));
    }
    Ok(value)
}

fn check(fault: &Fault) -> Result<(), Refused> {
    if fault.rate.is_some_and(|rate| !(0.0..=1.0).contains(&rate)) {
        return Err(Refused::argument("rate must be from 0 to 1"));
    }
    match (fault.target, fault.mode, &fault.errcode) {
        (Target::Wechat | Target::Sms | Target::FaceId | Target::Kuaidi100, FaultMode::BadSignature, _) => {
            Err(Refused::argument("only WeChat Pay signs its replies; badSignature is for wxpay"))
        }
        (Target::Wechat | Target::Kuaidi100, FaultMode::Errcode, Some(Value::Number(_)))
        | (
            Target::Wxpay | Target::Sms | Target::FaceId | Target::Kuaidi100,
            FaultMode::Errcode,
            Some(Value::String(_)),
        ) => Ok(()),
        (_, FaultMode::Errcode, _) => Err(Refused::argument(
            "errcode must be a number for wechat, a code such as \"SYSTEM_ERROR\" for wxpay, \"LimitExceeded.PhoneNumberDailyLimit\" for sms and faceid, \"601\" or 601 for kuaidi100",
        )),
        _ => Ok(()),
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refused> {
    serde_json::from_slice(body).map_err(|error| Refused::argument(error.to_string()))
}

fn to_value(value: &impl Serialize) -> Result<Value, Refused> {
    serde_json::to_value(value).map_err(|error| Error::Json(error).into())
}

fn json_response(status: u16, value: &Value) -> Response {
    let mut response = Response::new(Body::from(value.to_string()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    response
}
