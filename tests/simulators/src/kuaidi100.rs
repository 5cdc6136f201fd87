//! Parcels as Kuaidi100: signed queries, subscriptions, signed pushes, and the lock on numbers that are asked about too often.
//!
//! HTTP 200 for every refusal. Parcels come into being and move under `control/parcel`. Where the documents are silent this
//! guesses: a number that is asked about too early or too often is locked for a day, during which answers show what was known when
//! it was locked; a missing phone number or a salt that is too long is 700 when subscribing; a renewal within half an hour of the
//! end is 501, like a fifth one within 31 days; the coarse state of a fine code is its group's.

use std::collections::{BTreeMap, VecDeque};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::any;
use chrono::{DateTime, TimeDelta, Utc};
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode};
use md5::{Digest as _, Md5};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode, utf8_percent_encode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::control::Refused;
use crate::faults::{FaultMode, Target, afterwards, cut};
use crate::notice::NoticeResult;
use crate::{Sim, keys};

const BODY_MAX: usize = 256 * 1024;
const PARCELS_MAX: usize = 10_000;
const APART: TimeDelta = TimeDelta::minutes(30);
const DAY: TimeDelta = TimeDelta::hours(24);
const MONTH: TimeDelta = TimeDelta::days(31);
const QUERIES_PER_DAY: usize = 48;
const SUBSCRIPTIONS_PER_MONTH: usize = 4;
const SALT_MAX: usize = 32;
/// A refused push is repeated three times, 35 minutes apart; here at once.
const RETRIES: u32 = 3;
const TIMES_MAX: u32 = 50;
const ANSWER_MAX: usize = 2_000;

/// The companies it knows; the real list has some two thousand.
const COMPANIES: [&str; 21] = [
    "shunfeng",
    "shunfengkuaiyun",
    "zhongtong",
    "zhongtongkuaiyun",
    "yuantong",
    "shentong",
    "yunda",
    "yundakuaiyun",
    "jtexpress",
    "jd",
    "jingdongkuaiyun",
    "ems",
    "youzhengguonei",
    "youzhengdsbk",
    "youzhengbk",
    "debangkuaidi",
    "huitongkuaidi",
    "danniao",
    "zhaijisong",
    "annengwuliu",
    "kuayue",
];
const WANT_PHONE: [&str; 3] = ["shunfeng", "shunfengkuaiyun", "zhongtong"];

/// A parcel as Kuaidi100 knows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Parcel {
    /// The company that has it.
    pub com: String,
    /// The waybill number.
    pub num: String,
    /// The number that opens it, where one is wanted; without one any well-formed number does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phone: Option<String>,
    /// What happened, oldest first.
    #[serde(default)]
    pub nodes: Vec<ParcelNode>,
    /// Queries of the last day.
    #[serde(default)]
    pub queries: VecDeque<DateTime<Utc>>,
    /// Asked about too often: until then answers show the first `frozen` nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locked_until: Option<DateTime<Utc>>,
    /// How many nodes were known when it was locked.
    #[serde(default)]
    pub frozen: usize,
    /// Where news go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscription: Option<ParcelSubscription>,
    /// When it was subscribed to.
    #[serde(default)]
    pub subscribed: Vec<DateTime<Utc>>,
    /// When the last subscription ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<DateTime<Utc>>,
    /// The company was put right: what was said before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub com_old: Option<String>,
}

/// One thing that happened to a parcel.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParcelNode {
    /// When.
    pub at: DateTime<Utc>,
    /// Its code, coarse or fine.
    pub state: String,
    /// What.
    pub context: String,
    /// Where.
    pub location: String,
}

/// Where a parcel's news go.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParcelSubscription {
    /// The address, query string and all.
    pub callback_url: String,
    /// Signs pushes; without one they are unsigned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub salt: Option<String>,
    /// How much is told.
    pub resultv2: String,
}

/// All parcels, bounded.
#[derive(Default)]
pub(crate) struct Parcels {
    by_number: BTreeMap<(String, String), Parcel>,
    order: VecDeque<(String, String)>,
}

impl Parcels {
    pub(crate) fn put(&mut self, parcel: Parcel) {
        let key = (parcel.num.clone(), parcel.com.clone());
        if self.by_number.insert(key.clone(), parcel).is_none() {
            self.order.push_back(key);
        }
        while self.order.len() > PARCELS_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.by_number.remove(&oldest);
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    /// Oldest first.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Parcel> {
        self.order.iter().filter_map(|key| self.by_number.get(key))
    }

    fn get(&self, com: &str, num: &str) -> Option<&Parcel> {
        self.by_number.get(&(num.to_owned(), com.to_owned()))
    }

    /// The one a number means when no company is named: the newest that was not handed on to another.
    fn newest(&self, num: &str) -> Option<&Parcel> {
        self.iter().rev().find(|parcel| parcel.num == num)
    }
}

/// What becomes of a push.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PushMode {
    /// Sent once.
    #[default]
    Once,
    /// Lost.
    None,
    /// The same push several times at the same moment.
    Duplicate,
    /// One character changed after signing.
    Tampered,
    /// Signed with another salt.
    WrongSalt,
    /// Without `sign`.
    Unsigned,
    /// First the news, then what was known before.
    OutOfOrder,
}

/// The body of `POST control/parcel`: something happens to a parcel, which is made if it is new.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct MoveParcel {
    /// The company; may be left out for a parcel that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub com: Option<String>,
    /// The waybill number.
    pub num: String,
    /// A code of either set; without one nothing happens to the parcel, but a push goes out all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// What happened; default the code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// Where.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// When; default now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<DateTime<Utc>>,
    /// From now on the phone number that opens it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phone: Option<String>,
    /// `polling`, `shutdown`, `abort` or `updateall`; default `shutdown` when signed for, `abort` with `comNew`, else `polling`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// The company was wrong: this one has the parcel. Subscription and trace go on there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub com_new: Option<String>,
    /// What becomes of the push.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub push: Option<PushMode>,
    /// How often it is sent; default 2 for `duplicate`, else 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,
    /// Repeat a refused push up to three times.
    pub retry: bool,
}

/// The reply of `control/parcel`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MovedParcel {
    /// Always true.
    pub success: bool,
    /// The parcel as it is now.
    pub parcel: Parcel,
    /// HTTP status of the first delivery; null if nobody is subscribed, the push was lost, or there was no answer.
    pub push_status: Option<u16>,
    /// All deliveries, in order of sending.
    pub pushes: Vec<NoticeResult>,
}

/// `returnCode` and `message`.
#[derive(Debug)]
struct Refusal(String, String);

impl Refusal {
    fn new(code: &str, message: impl Into<String>) -> Self {
        Self(code.to_owned(), message.into())
    }

    fn incomplete(what: impl std::fmt::Display) -> Self {
        Self("400".to_owned(), format!("提交的数据不完整: {what}"))
    }
}

pub(crate) fn router(sim: Sim) -> Router {
    Router::new().route("/{*path}", any(entry)).with_state(sim)
}

async fn entry(State(sim): State<Sim>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let fault = sim.take_fault(Target::Kuaidi100, parts.uri.path());
    if let Some(fault) = &fault {
        match fault.mode {
            FaultMode::Timeout => {
                tokio::time::sleep(fault.delay(30_000)).await;
                return cut();
            }
            FaultMode::Reset => return cut(),
            FaultMode::ServerError => return plain(StatusCode::INTERNAL_SERVER_ERROR),
            FaultMode::TooMany => return refuse(&Refusal::new("502", "服务器繁忙 (injected)")),
            FaultMode::Errcode => return injected(fault.errcode.as_ref()),
            FaultMode::BadSignature | FaultMode::DropAfterCommit | FaultMode::Slow | FaultMode::Silence => {}
        }
    }
    let response = match (parts.uri.path(), to_bytes(body, BODY_MAX).await) {
        (_, Err(_)) => plain(StatusCode::PAYLOAD_TOO_LARGE),
        ("/poll/query.do", Ok(body)) => answer(query(&sim, &parts, &body)),
        ("/poll", Ok(body)) => answer(subscribe(&sim, &parts, &body)),
        _ => plain(StatusCode::NOT_FOUND),
    };
    afterwards(fault.as_ref(), response).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    com: String,
    num: String,
    #[serde(default)]
    phone: String,
    #[serde(default, rename = "from")]
    _from: String,
    #[serde(default)]
    to: String,
    #[serde(default)]
    resultv2: String,
    #[serde(default)]
    show: String,
    #[serde(default)]
    order: String,
    #[serde(default, rename = "lang")]
    _lang: String,
    #[serde(default, rename = "needCourierInfo")]
    _need_courier_info: bool,
}

fn query(sim: &Sim, parts: &Parts, body: &[u8]) -> Result<Value, Refusal> {
    let mut form = form(parts, body, &["customer", "sign", "signType", "param"])?;
    let mut field = |name: &str| form.remove(name).ok_or_else(|| Refusal::incomplete(format!("no {name}")));
    let (customer, sign, param) = (field("customer")?, field("sign")?, field("param")?);
    if field("signType").is_ok_and(|kind| kind != "MD5") {
        return Err(Refusal::new("503", "验证签名失败: only MD5 is simulated"));
    }
    let proper = md5(&[&param, keys::KUAIDI100_KEY, keys::KUAIDI100_CUSTOMER]);
    if customer != keys::KUAIDI100_CUSTOMER || sign != proper {
        let message = if sign.to_ascii_uppercase() == proper {
            "sign must be in upper case"
        } else {
            "sign is MD5(param + key + customer) over param exactly as sent"
        };
        return Err(Refusal::new("503", format!("验证签名失败: {message}")));
    }
    let query: Query = parse(&param).map_err(Refusal::incomplete)?;
    check_parcel(&query.com, &query.num)?;
    if !["", "0", "1", "2", "4", "6", "8"].contains(&query.resultv2.as_str()) {
        return Err(Refusal::incomplete("resultv2"));
    }
    if query.resultv2 == "8" && query.to.is_empty() {
        return Err(Refusal::incomplete("to is required with resultv2 8"));
    }
    if !["", "0"].contains(&query.show.as_str()) || !["", "desc", "asc"].contains(&query.order.as_str()) {
        return Err(Refusal::incomplete("show or order"));
    }
    let now = sim.now();
    let mut state = sim.state();
    let mut parcel =
        state.parcels().get(&query.com, &query.num).cloned().unwrap_or_else(|| parcel(&query.com, &query.num));
    if WANT_PHONE.contains(&query.com.as_str()) && !phone_opens(&query.com, &query.phone, parcel.phone.as_deref()) {
        return Err(Refusal::new("408", "快递公司参数异常：验证码错误"));
    }
    let visible = parcel.count_query(now);
    state.put_parcel(parcel.clone());
    if visible == 0 {
        return Err(Refusal::new("500", "查询无结果，请隔段时间再查"));
    }
    let nodes = parcel.nodes.get(..visible).unwrap_or_default();
    let mut result = result(&parcel, nodes, &query.resultv2);
    if query.order == "asc"
        && let Some(data) = result.get_mut("data").and_then(Value::as_array_mut)
    {
        data.reverse();
    }
    Ok(Value::Object(result))
}

fn parcel(com: &str, num: &str) -> Parcel {
    Parcel {
        com: com.to_owned(),
        num: num.to_owned(),
        phone: None,
        nodes: Vec::new(),
        queries: VecDeque::new(),
        locked_until: None,
        frozen: 0,
        subscription: None,
        subscribed: Vec::new(),
        ended_at: None,
        com_old: None,
    }
}

impl Parcel {
    /// Counts a query, locks the number if it came too early or was one too many, and tells how many nodes are shown.
    fn count_query(&mut self, now: DateTime<Utc>) -> usize {
        self.queries.retain(|at| now - *at < DAY);
        let early = self.queries.back().is_some_and(|last| now - *last < APART);
        self.queries.push_back(now);
        if self.locked_until.is_none_or(|until| until <= now) {
            self.locked_until = None;
            if early || self.queries.len() > QUERIES_PER_DAY {
                self.locked_until = Some(now + DAY);
                self.frozen = self.nodes.len();
            }
        }
        if self.locked_until.is_some() { self.frozen.min(self.nodes.len()) } else { self.nodes.len() }
    }
}

/// A trace as answers and pushes show it: newest first, fields and codes by `resultv2`.
fn result(parcel: &Parcel, nodes: &[ParcelNode], resultv2: &str) -> Map<String, Value> {
    let fine = matches!(resultv2, "4" | "6" | "8");
    let shown = |state: &str| if fine { state.to_owned() } else { coarse(state).to_owned() };
    let data: Vec<Value> = nodes
        .iter()
        .rev()
        .map(|node| {
            let time = beijing_text(node.at);
            let mut entry = json!({ "time": time, "ftime": time, "context": node.context, "location": node.location });
            if !matches!(resultv2, "" | "0")
                && let Some(fields) = entry.as_object_mut()
            {
                fields.insert("status".to_owned(), json!(node.context));
                fields.insert("statusCode".to_owned(), json!(shown(&node.state)));
                for name in ["areaCode", "areaName", "areaCenter", "areaPinYin"] {
                    fields.insert(name.to_owned(), Value::Null);
                }
            }
            entry
        })
        .collect();
    let state = nodes.last().map_or("0", |node| node.state.as_str());
    let mut result = Map::new();
    for (name, value) in [
        ("message", json!("ok")),
        ("nu", json!(parcel.num)),
        ("ischeck", json!(if coarse(state) == "3" { "1" } else { "0" })),
        ("com", json!(parcel.com)),
        ("status", json!("200")),
        ("state", json!(shown(state))),
        ("condition", json!("00")),
        ("data", json!(data)),
    ] {
        result.insert(name.to_owned(), value);
    }
    if fine {
        let place = json!({ "number": null, "name": null });
        result.insert("routeInfo".to_owned(), json!({ "from": place, "cur": place, "to": place }));
        result.insert("isLoop".to_owned(), json!(false));
    }
    if resultv2 == "8" {
        for name in ["arrivalTime", "totalTime", "remainTime", "predictedRoute"] {
            result.insert(name.to_owned(), Value::Null);
        }
    }
    result
}

/// The group of a fine code; a coarse one is its own.
fn coarse(state: &str) -> &str {
    match (state.len(), state.get(..1)) {
        (3, Some(group)) => group,
        (4, _) => "0",
        _ => state,
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Subscribe {
    company: String,
    number: String,
    #[serde(default, rename = "from")]
    _from: String,
    #[serde(default, rename = "to")]
    _to: String,
    key: String,
    parameters: SubscribeParameters,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct SubscribeParameters {
    #[serde(rename = "callbackurl")]
    callback_url: String,
    #[serde(default)]
    salt: String,
    #[serde(default)]
    resultv2: String,
    #[serde(default)]
    auto_com: String,
    #[serde(default, rename = "interCom")]
    _inter_com: String,
    #[serde(default, rename = "departureCountry")]
    _departure_country: String,
    #[serde(default, rename = "departureCom")]
    _departure_com: String,
    #[serde(default, rename = "destinationCountry")]
    _destination_country: String,
    #[serde(default, rename = "destinationCom")]
    _destination_com: String,
    #[serde(default)]
    phone: String,
}

fn subscribe(sim: &Sim, parts: &Parts, body: &[u8]) -> Result<Value, Refusal> {
    let bad = |what: &dyn std::fmt::Display| Refusal::new("700", format!("订阅方的订阅数据存在错误: {what}"));
    let mut form = form(parts, body, &["schema", "param"]).map_err(|Refusal(_, message)| bad(&message))?;
    if form.remove("schema").as_deref() != Some("json") {
        return Err(bad(&"schema must be json"));
    }
    let param = form.remove("param").ok_or_else(|| bad(&"no param"))?;
    let request: Subscribe = parse(&param).map_err(|error| bad(&error))?;
    if request.key != keys::KUAIDI100_KEY {
        return Err(Refusal::new("600", "您不是合法的订阅者（即授权Key出错）"));
    }
    let parameters = request.parameters;
    if request.company.is_empty() && parameters.auto_com != "1" {
        return Err(bad(&"company"));
    }
    if request.company.is_empty() {
        return Err(Refusal::new("702", "识别不到该单号对应的快递公司"));
    }
    check_parcel(&request.company, &request.number).map_err(|Refusal(_, message)| Refusal::new("701", message))?;
    let callback = &parameters.callback_url;
    if !(callback.starts_with("http://") || callback.starts_with("https://")) || callback.contains(['#', ' ']) {
        return Err(bad(&"callbackurl must be an absolute URL"));
    }
    if parameters.salt.len() > SALT_MAX {
        return Err(bad(&"salt is longer than 32"));
    }
    let now = sim.now();
    let mut state = sim.state();
    let known = state.parcels().get(&request.company, &request.number).cloned();
    let mut parcel = known.unwrap_or_else(|| parcel(&request.company, &request.number));
    let opens = phone_opens(&request.company, &parameters.phone, parcel.phone.as_deref());
    if WANT_PHONE.contains(&request.company.as_str()) && !opens {
        return Err(bad(&"phone"));
    }
    parcel.subscribed.retain(|at| now - *at < MONTH);
    let soon = parcel.ended_at.is_some_and(|ended| now - ended < APART);
    if parcel.subscription.is_some() || soon || parcel.subscribed.len() >= SUBSCRIPTIONS_PER_MONTH {
        return Err(Refusal::new("501", "重复订阅"));
    }
    parcel.subscribed.push(now);
    parcel.ended_at = None;
    parcel.subscription = Some(ParcelSubscription {
        callback_url: parameters.callback_url,
        salt: Some(parameters.salt).filter(|salt| !salt.is_empty()),
        resultv2: parameters.resultv2,
    });
    state.put_parcel(parcel);
    Ok(json!({ "result": true, "returnCode": "200", "message": "提交成功" }))
}

fn check_parcel(com: &str, num: &str) -> Result<(), Refusal> {
    if !(6..=32).contains(&num.chars().count()) {
        return Err(Refusal::incomplete("the number must have 6 to 32 characters"));
    }
    if !COMPANIES.contains(&com) {
        return Err(Refusal::new("400", format!("找不到对应公司: {com:?}")));
    }
    Ok(())
}

/// A mobile or landline number or the last four digits; for Zhongtong a bare four only as the tail of a virtual number, which
/// cannot be told from here.
fn phone_opens(com: &str, phone: &str, wanted: Option<&str>) -> bool {
    let digits: String = phone.chars().filter(char::is_ascii_digit).collect();
    let shaped = phone.chars().all(|c| c.is_ascii_digit() || c == '-')
        && (matches!(digits.len(), 10..=12) || (digits.len() == 4 && WANT_PHONE.contains(&com)));
    let tail = |text: &str| text.chars().rev().take(4).collect::<String>();
    shaped
        && wanted.is_none_or(|wanted| if digits.len() == 4 { tail(wanted) == tail(&digits) } else { wanted == phone })
}

/// A form with these fields and no others, each at most once.
fn form(parts: &Parts, body: &[u8], allowed: &[&str]) -> Result<BTreeMap<String, String>, Refusal> {
    let kind = parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let form = kind.split(';').next().is_some_and(|kind| kind.trim() == "application/x-www-form-urlencoded");
    if parts.method != Method::POST || !form {
        return Err(Refusal::incomplete("POST application/x-www-form-urlencoded"));
    }
    let mut fields = BTreeMap::new();
    for pair in body.split(|byte| *byte == b'&') {
        let mut halves = pair.splitn(2, |byte| *byte == b'=');
        let decode = |text: Option<&[u8]>| {
            let plus: Vec<u8> = text.unwrap_or_default().iter().map(|b| if *b == b'+' { b' ' } else { *b }).collect();
            percent_decode(&plus).decode_utf8().map(|text| text.into_owned())
        };
        let (Ok(name), Ok(value)) = (decode(halves.next()), decode(halves.next())) else {
            return Err(Refusal::incomplete("not UTF-8"));
        };
        if !allowed.contains(&name.as_str()) || fields.insert(name.clone(), value).is_some() {
            return Err(Refusal::incomplete(format!("{name:?} is unknown or comes twice")));
        }
    }
    Ok(fields)
}

fn parse<T: DeserializeOwned>(param: &str) -> Result<T, serde_json::Error> {
    serde_json::from_str(param)
}

fn md5(parts: &[&str]) -> String {
    hex::encode_upper(Md5::digest(parts.concat()))
}

/// As the service writes times: Beijing's, without a zone.
fn beijing_text(at: DateTime<Utc>) -> String {
    (at.naive_utc() + TimeDelta::hours(8)).format("%Y-%m-%d %H:%M:%S").to_string()
}

fn answer(result: Result<Value, Refusal>) -> Response {
    match result {
        Ok(value) => respond(&value),
        Err(refusal) => {
            tracing::debug!(code = refusal.0, "refused");
            refuse(&refusal)
        }
    }
}

fn refuse(Refusal(code, message): &Refusal) -> Response {
    respond(&json!({ "result": false, "returnCode": code, "message": message }))
}

/// A code as text in the documented shape; as a number in the one that some gateways use.
fn injected(code: Option<&Value>) -> Response {
    match code {
        Some(Value::Number(code)) => respond(&json!({ "status": code.to_string(), "message": "injected", "data": [] })),
        code => refuse(&Refusal::new(code.and_then(Value::as_str).unwrap_or("500"), "injected")),
    }
}

fn respond(value: &Value) -> Response {
    let mut response = Response::new(Body::from(value.to_string()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html;charset=UTF-8"));
    response
}

fn plain(status: StatusCode) -> Response {
    let mut response = Response::new(Body::from("injected or unknown"));
    *response.status_mut() = status;
    response
}

impl Sim {
    /// Something happens to a parcel, and whoever subscribed is told.
    pub async fn parcel(&self, request: &MoveParcel) -> Result<MovedParcel, Refused> {
        let (before, parcel, status) = self.commit_parcel(request)?;
        let mut pushes = Vec::new();
        // What ends with this push is still told by it.
        let subscription = parcel.subscription.clone().or_else(|| before.subscription.clone());
        if let Some(subscription) = subscription {
            let mode = request.push.unwrap_or_default();
            let news = push_param(&parcel, &parcel.nodes, &subscription, &status, request.com_new.as_deref());
            let times = match mode {
                PushMode::None => 0,
                PushMode::Duplicate => request.times.unwrap_or(2),
                _ => request.times.unwrap_or(1),
            };
            let deliveries = (0..times.min(TIMES_MAX)).map(|_| self.push(&subscription, &news, mode));
            pushes = futures_util::future::join_all(deliveries).await;
            for _ in 0..RETRIES {
                if !request.retry || mode == PushMode::None || pushes.iter().any(accepted) {
                    break;
                }
                pushes.push(self.push(&subscription, &news, mode).await);
            }
            if mode == PushMode::OutOfOrder {
                let old = push_param(&before, &before.nodes, &subscription, "polling", None);
                pushes.push(self.push(&subscription, &old, mode).await);
            }
        }
        Ok(MovedParcel { success: true, push_status: pushes.first().and_then(|push| push.status), parcel, pushes })
    }

    /// All parcels, newest first.
    pub fn parcels(&self, num: Option<&str>) -> Vec<Parcel> {
        self.state().parcels().iter().rev().filter(|parcel| num.is_none_or(|num| parcel.num == num)).cloned().collect()
    }

    /// The parcel before, after, and why it is pushed.
    fn commit_parcel(&self, request: &MoveParcel) -> Result<(Parcel, Parcel, String), Refused> {
        let refused = |message: &str| Refused { status: 400, code: "INVALID_ARGUMENT", message: message.to_owned() };
        let now = self.now();
        let mut state = self.state();
        let known = match &request.com {
            Some(com) => state.parcels().get(com, &request.num),
            None => state.parcels().newest(&request.num),
        };
        let before = match (known, &request.com) {
            (Some(parcel), _) => parcel.clone(),
            (None, Some(com)) => parcel(com, &request.num),
            (None, None) => return Err(refused("a parcel that is not known needs com")),
        };
        for com in [Some(&before.com), request.com_new.as_ref()].into_iter().flatten() {
            check_parcel(com, &request.num).map_err(|Refusal(_, message)| refused(&message))?;
        }
        let mut after = before.clone();
        if let Some(phone) = &request.phone {
            after.phone = Some(phone.clone());
        }
        if let Some(code) = &request.state {
            if !(1..=4).contains(&code.len()) || !code.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(refused("state must be a code such as 3 or 304"));
            }
            after.nodes.push(ParcelNode {
                at: request.at.unwrap_or(now),
                state: code.clone(),
                context: request.context.clone().unwrap_or_else(|| format!("状态{code}")),
                location: request.location.clone().unwrap_or_default(),
            });
            after.nodes.sort_by_key(|node| node.at);
        }
        let signed = after.nodes.last().is_some_and(|node| coarse(&node.state) == "3");
        let status = match (&request.status, &request.com_new) {
            (Some(status), _) if ["polling", "shutdown", "abort", "updateall"].contains(&status.as_str()) => {
                status.as_str()
            }
            (Some(_), _) => return Err(refused("status must be polling, shutdown, abort or updateall")),
            (None, Some(_)) => "abort",
            (None, None) if signed => "shutdown",
            (None, None) => "polling",
        };
        let told = after.clone();
        if let Some(com) = &request.com_new {
            let old = after.com.clone();
            state.put_parcel(Parcel { subscription: None, ended_at: Some(now), ..after.clone() });
            after = Parcel { com: com.clone(), com_old: Some(old), ..after };
        } else if matches!(status, "shutdown" | "abort") {
            after.subscription = None;
            after.ended_at = Some(now);
        }
        state.put_parcel(after.clone());
        // The push that tells of another company is the last one of the old.
        let after = if request.com_new.is_some() { told } else { after };
        Ok((before, after, status.to_owned()))
    }

    async fn push(&self, subscription: &ParcelSubscription, param: &str, mode: PushMode) -> NoticeResult {
        let mut form = String::new();
        if let Some(salt) = subscription.salt.as_deref().filter(|_| mode != PushMode::Unsigned) {
            let salt = if mode == PushMode::WrongSalt { "another-salt" } else { salt };
            form = format!("sign={}&", md5(&[param, salt]));
        }
        let sent = if mode == PushMode::Tampered { param.replacen("\"ok\"", "\"oK\"", 1) } else { param.to_owned() };
        form.push_str(&format!("param={}", utf8_percent_encode(&sent, NON_ALPHANUMERIC)));
        let answer = self
            .http()
            .post(&subscription.callback_url)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded; charset=UTF-8")
            .body(form)
            .send()
            .await;
        let failed = |status, error: reqwest::Error| NoticeResult {
            status,
            body: String::new(),
            error: Some(format!("{error:?}")),
        };
        match answer {
            Ok(response) => {
                let status = Some(response.status().as_u16());
                match response.text().await {
                    Ok(text) => NoticeResult { status, body: text.chars().take(ANSWER_MAX).collect(), error: None },
                    Err(error) => failed(status, error),
                }
            }
            Err(error) => failed(None, error),
        }
    }
}

fn push_param(
    parcel: &Parcel,
    nodes: &[ParcelNode],
    subscription: &ParcelSubscription,
    status: &str,
    com_new: Option<&str>,
) -> String {
    let corrected = parcel.com_old.is_some();
    json!({
        "status": status,
        "billstatus": if status == "shutdown" { "check" } else { "got" },
        "message": "",
        "autoCheck": if corrected { "1" } else { "0" },
        "comOld": com_new.map(|_| parcel.com.as_str()).or(parcel.com_old.as_deref()).unwrap_or_default(),
        "comNew": com_new.or(parcel.com_old.as_ref().map(|_| parcel.com.as_str())).unwrap_or_default(),
        "lastResult": result(parcel, nodes, &subscription.resultv2),
    })
    .to_string()
}

/// Only this ends repetition: HTTP 200 with `result` and `returnCode`.
fn accepted(push: &NoticeResult) -> bool {
    let body: Value = serde_json::from_str(&push.body).unwrap_or_default();
    push.status == Some(200)
        && body.get("result") == Some(&json!(true))
        && body.get("returnCode") == Some(&json!("200"))
}
