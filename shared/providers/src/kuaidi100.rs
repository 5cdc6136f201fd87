//! Parcels by Kuaidi100 (快递100): ask where one is, subscribe to its news, and read what is pushed.
//!
//! Its habits: HTTP 200 for every failure, in several shapes; codes that mean one thing when asking and another when subscribing;
//! states in two sets of codes; and a lock on every number that is asked about too often ([`lock`]). So the code decides, and
//! nothing is sent twice from here.
//!
//! Waybill numbers and phone numbers are in no error and no log. Upstream texts are not kept; for 400 the known sentence is named.
//!
//! Source: api.kuaidi100.com/document, "实时查询" and "推送"; java-demo of Kuaidi100.

mod account;
mod company;
pub mod lock;
pub mod push;
mod state;
mod trace;

use std::fmt;
use std::time::{Duration, Instant};

use domain::{Failure, Refusal};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use md5::{Digest as _, Md5};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Url;
use serde::{Deserialize, Serialize};
use upstream::{Reply, client, exchange};

pub use self::account::Account;
pub use self::company::{COMPANIES, Company};
pub use self::state::{CODES, ParcelStatus};
pub use self::trace::{Node, Route, Trace, advances, beijing_time};
use self::trace::{WireTrace, scalar};
use crate::tencent::clean;
use crate::{Secret, TransportError};
pub use domain::ParcelState;

/// Kuaidi100's own host.
pub const DEFAULT_BASE_URL: &str = "https://poll.kuaidi100.com";

/// The longest answer read. A long trace is some fifty kilobytes.
const ANSWER_MAX_BYTES: usize = 1 << 20;

/// The longest salt of a subscription.
const SALT_MAX: usize = 32;

/// No trace, or no subscription.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Kuaidi100Error {
    /// Nothing is known of this number yet, or it belongs to another company.
    #[error("Kuaidi100 knows nothing of this number ({0})")]
    NoTrace(Said),
    /// The phone number of sender or receiver is missing or is not theirs. Without one nothing was sent.
    #[error("Kuaidi100 wants the phone number of sender or receiver ({0})")]
    PhoneNeeded(Said),
    /// The request can never work: company, number, callback address or contract.
    #[error("Kuaidi100 refuses the request ({0})")]
    Refused(Said),
    /// Wrong key, customer or signature, or nothing left to spend: nothing works until somebody acts.
    #[error("Kuaidi100 refuses the account ({0})")]
    Account(Said),
    /// The service failed or is busy. A subscription may answer so to wrong parameters too.
    #[error("Kuaidi100 failed ({0})")]
    Busy(Said),
    /// Any other code.
    #[error("Kuaidi100 answered with an unknown code ({0})")]
    Unknown(Said),
    /// An HTTP status other than 2xx.
    #[error("Kuaidi100 answered {0}")]
    Http(StatusCode),
    /// No whole answer. Unless there was no connection, the request may have counted.
    #[error("no answer from Kuaidi100")]
    Transport(#[from] TransportError),
    /// An answer that is not what the documentation promises, or is about another parcel.
    #[error("unexpected answer from Kuaidi100: {0}")]
    Malformed(&'static str),
    /// The arguments or the configuration can never work; nothing was sent.
    #[error("{0}")]
    Misuse(&'static str),
    /// The HTTP client could not be built.
    #[error("could not build the HTTP client")]
    Build(#[source] domain::BoxError),
}

/// What to do about a [`Kuaidi100Error`]. Whatever it says, [`lock::may_query`] has the last word on asking again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It passes by itself: again with growing pauses.
    Retry,
    /// There is nothing to tell yet: again in half an hour at the earliest.
    WaitHalfHour,
    /// A person must give the phone number.
    AskPhone,
    /// A person must put this request right; others work.
    Config,
    /// Nothing works until an operator acts.
    Alarm,
}

impl Kuaidi100Error {
    /// What to do about it.
    pub fn class(&self) -> Class {
        match self {
            Self::NoTrace(_) => Class::WaitHalfHour,
            Self::PhoneNeeded(_) => Class::AskPhone,
            Self::Refused(_) | Self::Misuse(_) => Class::Config,
            Self::Account(_) | Self::Build(_) => Class::Alarm,
            Self::Busy(_) | Self::Transport(_) => Class::Retry,
            Self::Http(status) if status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS => Class::Retry,
            Self::Http(_) => Class::Alarm,
            // What it means is not known, and asking often is what gets numbers locked.
            Self::Unknown(_) | Self::Malformed(_) => Class::WaitHalfHour,
        }
    }

    /// What a query's code means. 201 is what some of its gateways say for 500.
    fn of_query(said: Said) -> Self {
        match said.code.as_str() {
            "200" | "201" | "500" => Self::NoTrace(said),
            "400" => Self::Refused(said),
            "408" => Self::PhoneNeeded(said),
            "501" | "502" => Self::Busy(said),
            "503" | "600" | "601" => Self::Account(said),
            _ => Self::Unknown(said),
        }
    }

    /// What a subscription's code means; 501 is no failure and does not come here.
    fn of_subscription(said: Said) -> Self {
        match said.code.as_str() {
            "700" | "701" | "702" => Self::Refused(said),
            "600" | "601" => Self::Account(said),
            "500" => Self::Busy(said),
            _ => Self::Unknown(said),
        }
    }
}

/// What a handler that cannot go on says. [`Kuaidi100Error::NoTrace`] is an answer more than a failure: match it first.
impl From<Kuaidi100Error> for Failure {
    fn from(error: Kuaidi100Error) -> Self {
        match error.class() {
            Class::AskPhone => Refusal::invalid("phone", "请填写收件人或寄件人的手机号").into(),
            Class::Config | Class::Alarm => Self::Internal(Box::new(error)),
            Class::Retry | Class::WaitHalfHour => Self::Upstream(Box::new(error)),
        }
    }
}

/// What the service said, in words that are safe to log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// `returnCode` or `status`.
    pub code: String,
    /// Which of the sentences of a 400 it was, where it is a known one.
    pub reason: Option<&'static str>,
}

/// One code stands for four mistakes, so the sentence matters.
const REASONS: [&str; 5] = ["提交的数据不完整", "找不到对应公司", "不支持此快递公司", "没授权", "您不是合法的订阅者"];

impl Said {
    fn new(code: &str, message: Option<&str>) -> Self {
        let message = message.unwrap_or_default();
        Self { code: clean(code), reason: REASONS.into_iter().find(|reason| message.contains(reason)) }
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason {
            Some(reason) => write!(f, "{}, {reason}", self.code),
            None => f.write_str(&self.code),
        }
    }
}

/// Everything a [`Kuaidi100`] needs.
#[derive(Clone)]
pub struct Config {
    /// Usually [`DEFAULT_BASE_URL`]. A path is allowed, for a local simulator.
    pub base_url: String,
    /// The company's number, in upper-case hexadecimal.
    pub customer: String,
    /// The authorisation key. Signs queries, and travels inside subscriptions.
    pub key: Secret,
    /// The longest one call may take, connecting included. Kuaidi100's own clients wait five seconds.
    pub timeout: Duration,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").field("base_url", &self.base_url).finish_non_exhaustive()
    }
}

/// `resultv2`: how much an answer tells, and in which codes it says its state. [`ParcelStatus::of`] reads all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResultForm {
    /// The trace alone, coarse codes.
    Plain,
    /// With districts and the state of each entry, coarse codes.
    Districts,
    /// With routes, fine codes.
    #[default]
    Advanced,
    /// With the expected arrival too; wants [`Query::to`].
    Arrival,
}

impl ResultForm {
    fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "0",
            Self::Districts => "1",
            Self::Advanced => "4",
            Self::Arrival => "8",
        }
    }
}

/// Which parcel.
#[derive(Clone, Copy)]
pub struct Query<'a> {
    /// Kuaidi100's code of the company ([`Company::kuaidi100`]).
    pub company: &'a str,
    /// The waybill number, 6 to 32 letters and digits.
    pub number: &'a str,
    /// Of sender or receiver; sent only to the companies that want it, see [`Company::needs_phone`].
    pub phone: Option<&'a str>,
    /// Province, city and district it was sent from, where known.
    pub from: Option<&'a str>,
    /// Province, city and district it was sent to, where known.
    pub to: Option<&'a str>,
    /// How much to tell.
    pub form: ResultForm,
}

impl fmt::Debug for Query<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Query").field("company", &self.company).field("form", &self.form).finish_non_exhaustive()
    }
}

/// Which parcel's news, and where they go.
#[derive(Clone, Copy)]
pub struct Subscription<'a> {
    /// Kuaidi100's code of the company.
    pub company: &'a str,
    /// The waybill number.
    pub number: &'a str,
    /// As for a query.
    pub phone: Option<&'a str>,
    /// As for a query.
    pub from: Option<&'a str>,
    /// As for a query.
    pub to: Option<&'a str>,
    /// Where pushes go. Its query string comes back untouched: put our own id there.
    pub callback_url: &'a str,
    /// Signs the pushes; 16 to 32 letters and digits, random, one per subscription, kept with it.
    pub salt: &'a Secret,
    /// How much to tell.
    pub form: ResultForm,
}

impl fmt::Debug for Subscription<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("company", &self.company).field("form", &self.form).finish_non_exhaustive()
    }
}

/// A parcel's news will come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subscribed {
    /// From now on.
    New,
    /// It is being followed already, or for the fifth time this month: pushes go where, and are signed with what, an earlier
    /// subscription said.
    Already,
}

/// One account. Make one per process and share it.
pub struct Kuaidi100 {
    http: reqwest::Client,
    base: String,
    customer: String,
    key: Secret,
}

impl fmt::Debug for Kuaidi100 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kuaidi100").field("base", &self.base).finish_non_exhaustive()
    }
}

#[derive(Serialize)]
struct QueryParam<'a> {
    com: &'a str,
    num: &'a str,
    phone: &'a str,
    from: &'a str,
    to: &'a str,
    resultv2: &'a str,
    show: &'a str,
    order: &'a str,
}

#[derive(Serialize)]
struct SubscribeParam<'a> {
    company: &'a str,
    number: &'a str,
    from: &'a str,
    to: &'a str,
    key: &'a str,
    parameters: SubscribeParameters<'a>,
}

#[derive(Serialize)]
struct SubscribeParameters<'a> {
    callbackurl: &'a str,
    salt: &'a str,
    resultv2: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    phone: &'a str,
}

#[derive(Deserialize)]
struct Acknowledgement {
    #[serde(default, deserialize_with = "scalar")]
    result: Option<String>,
    #[serde(default, rename = "returnCode", deserialize_with = "scalar")]
    return_code: Option<String>,
    #[serde(default, deserialize_with = "scalar")]
    message: Option<String>,
}

impl Kuaidi100 {
    /// Check the configuration; nothing is sent.
    pub fn new(config: Config) -> Result<Self, Kuaidi100Error> {
        if !is_address(&config.base_url, false) {
            return Err(Kuaidi100Error::Misuse(
                "the Kuaidi100 base URL must be http(s) without query, fragment or user",
            ));
        }
        if config.customer.trim().is_empty() || config.key.expose().trim().is_empty() {
            return Err(Kuaidi100Error::Misuse("the Kuaidi100 customer and key must not be empty"));
        }
        let http = client(config.timeout, 0).map_err(|error| Kuaidi100Error::Build(Box::new(error)))?;
        let base = config.base_url.trim_end_matches('/').to_owned();
        Ok(Self { http, base, customer: config.customer, key: config.key })
    }

    /// Where a parcel is, asked once. Ask [`lock::may_query`] before, and count this as a query whatever comes of it.
    pub async fn query(&self, query: &Query<'_>) -> Result<Trace, Kuaidi100Error> {
        let param = query_param(query)?;
        let signature = sign(&param, &self.key, &self.customer);
        let form = [("customer", self.customer.as_str()), ("sign", signature.as_str()), ("param", param.as_str())];
        let body = self.post("/poll/query.do", &form).await?;
        // The parser's message can quote values, so it is not kept.
        let wire: WireTrace = serde_json::from_slice(&body).map_err(|_| Kuaidi100Error::Malformed("not a trace"))?;
        let found = wire.return_code.is_none() && wire.status.as_deref() == Some("200") && !wire.data.is_empty();
        if !found {
            let code = wire.return_code.as_deref().or(wire.status.as_deref());
            let code = code.ok_or(Kuaidi100Error::Malformed("neither a trace nor a code"))?;
            return Err(Kuaidi100Error::of_query(Said::new(code, wire.message.as_deref())));
        }
        let trace = Trace::from(wire);
        if trace.number.as_deref().is_some_and(|number| !number.trim().eq_ignore_ascii_case(query.number)) {
            return Err(Kuaidi100Error::Malformed("the answer is about another parcel"));
        }
        Ok(trace)
    }

    /// Have a parcel's news pushed, asked once. Repeating it is harmless but counts, see [`lock::may_subscribe`].
    pub async fn subscribe(&self, subscription: &Subscription<'_>) -> Result<Subscribed, Kuaidi100Error> {
        check_parcel(subscription.company, subscription.number)?;
        let phone = phone_for(subscription.company, subscription.phone)?;
        let salt = subscription.salt.expose();
        // Shorter ones can be tried out by whoever has seen a push.
        if !(16..=SALT_MAX).contains(&salt.len()) || !salt.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(Kuaidi100Error::Misuse("the salt of a subscription must be 16 to 32 letters and digits"));
        }
        if !is_address(subscription.callback_url, true) {
            return Err(Kuaidi100Error::Misuse("the callback must be a full http(s) URL without fragment or user"));
        }
        let param = write_json(&SubscribeParam {
            company: subscription.company,
            number: subscription.number,
            from: subscription.from.unwrap_or_default(),
            to: subscription.to.unwrap_or_default(),
            key: self.key.expose(),
            parameters: SubscribeParameters {
                callbackurl: subscription.callback_url,
                salt,
                resultv2: subscription.form.as_str(),
                phone: &phone,
            },
        })?;
        let body = self.post("/poll", &[("schema", "json"), ("param", param.as_str())]).await?;
        let answer: Acknowledgement =
            serde_json::from_slice(&body).map_err(|_| Kuaidi100Error::Malformed("not an acknowledgement"))?;
        let code = answer.return_code.as_deref().ok_or(Kuaidi100Error::Malformed("an acknowledgement without code"))?;
        match code {
            "200" if answer.result.as_deref() == Some("true") => Ok(Subscribed::New),
            "501" => Ok(Subscribed::Already),
            _ => Err(Kuaidi100Error::of_subscription(Said::new(code, answer.message.as_deref()))),
        }
    }

    /// Send a form once; the body of a 2xx answer.
    async fn post(&self, path: &str, form: &[(&str, &str)]) -> Result<Vec<u8>, Kuaidi100Error> {
        let body: Vec<String> = form
            .iter()
            .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)))
            .collect();
        let request = self
            .http
            .post(format!("{}{path}", self.base))
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded; charset=utf-8")
            .body(body.join("&"));
        let started = Instant::now();
        let reply = exchange(request, ANSWER_MAX_BYTES).await;
        let duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let Reply { status, body, .. } = reply.inspect_err(|error| {
            tracing::debug!(path, kind = %error.kind, duration_ms, "Kuaidi100 did not answer");
        })?;
        tracing::debug!(path, status = status.as_u16(), duration_ms, "Kuaidi100 answered");
        if status.is_success() { Ok(body) } else { Err(Kuaidi100Error::Http(status)) }
    }
}

/// MD5 over `param` as it is sent, the key and the customer, in upper-case hexadecimal.
pub fn sign(param: &str, key: &Secret, customer: &str) -> String {
    hex::encode_upper(Md5::new().chain_update(param).chain_update(key.expose()).chain_update(customer).finalize())
}

/// The text that is signed and sent.
pub(crate) fn query_param(query: &Query<'_>) -> Result<String, Kuaidi100Error> {
    check_parcel(query.company, query.number)?;
    if query.form == ResultForm::Arrival && query.to.is_none_or(str::is_empty) {
        return Err(Kuaidi100Error::Misuse("an expected arrival wants to know where the parcel goes"));
    }
    write_json(&QueryParam {
        com: query.company,
        num: query.number,
        phone: &phone_for(query.company, query.phone)?,
        from: query.from.unwrap_or_default(),
        to: query.to.unwrap_or_default(),
        resultv2: query.form.as_str(),
        show: "0",
        order: "desc",
    })
}

fn write_json(value: &impl Serialize) -> Result<String, Kuaidi100Error> {
    serde_json::to_string(value).map_err(|_| Kuaidi100Error::Misuse("the request cannot be written as JSON"))
}

/// Whether this can be a waybill number at all: 6 to 32 letters, digits and hyphens.
pub fn is_waybill_number(text: &str) -> bool {
    (6..=32).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn check_parcel(company: &str, number: &str) -> Result<(), Kuaidi100Error> {
    let code = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if company.is_empty() || company.len() > 64 || !company.bytes().all(code) {
        return Err(Kuaidi100Error::Misuse("a company code is lower-case letters and digits"));
    }
    if !is_waybill_number(number) {
        return Err(Kuaidi100Error::Misuse("a waybill number is 6 to 32 letters, digits and hyphens"));
    }
    Ok(())
}

/// What of a phone number is sent: nothing where it is not asked for, four digits of a virtual number, no landline extension.
fn phone_for(company: &str, phone: Option<&str>) -> Result<String, Kuaidi100Error> {
    if !company::needs_phone(company) {
        return Ok(String::new());
    }
    let missing = || Kuaidi100Error::PhoneNeeded(Said::new("408", None));
    let phone: String = phone.unwrap_or_default().chars().filter(|c| !c.is_whitespace()).collect();
    let phone = ["+86", "0086"].iter().find_map(|prefix| phone.strip_prefix(prefix)).unwrap_or(&phone);
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let parts: Vec<&str> = phone.split('-').collect();
    if !parts.iter().all(|part| digits(part)) {
        return Err(missing());
    }
    let mobile = |text: &str| text.len() == 11 && text.starts_with('1');
    let area = |text: &str| text.starts_with('0') && matches!(text.len(), 3 | 4);
    let local = |text: &str| matches!(text.len(), 7 | 8);
    match parts.as_slice() {
        [whole] if mobile(whole) || (whole.starts_with('0') && matches!(whole.len(), 10..=12)) => {
            Ok((*whole).to_owned())
        }
        [four] if four.len() == 4 && company::takes_four_digits(company) => Ok((*four).to_owned()),
        // A virtual number changes; what stands behind the hyphen are the last four digits of the real one.
        [whole, four] if mobile(whole) && four.len() == 4 => Ok((*four).to_owned()),
        [code, number] | [code, number, _] if area(code) && local(number) => Ok(format!("{code}-{number}")),
        _ => Err(missing()),
    }
}

fn is_address(text: &str, with_query: bool) -> bool {
    Url::parse(text).is_ok_and(|url| {
        let anonymous = url.username().is_empty() && url.password().is_none();
        let plain = url.fragment().is_none() && (with_query || url.query().is_none());
        matches!(url.scheme(), "http" | "https") && url.has_host() && anonymous && plain
    })
}
