//! Text messages as Tencent Cloud's `SendSms` of 2021-01-11: a strict TC3-HMAC-SHA256 signature, HTTP 200 for every refusal, and a
//! status for each number.
//!
//! The path that is signed is `/` wherever this is mounted, as for every call of the real API. Messages are only kept, to be read
//! under `control/sms`. Where the documents are silent this guesses: the code for a credential of another day or service, and that
//! a foreign number is an incorrect one.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::any;
use chrono::{DateTime, FixedOffset, NaiveDate, TimeDelta, Utc};
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::crypto::random_hex;
use crate::faults::{FaultMode, Target, cut};
use crate::state::{Sms, State as Memory};
use crate::{Sim, keys};

const BODY_MAX: usize = 256 * 1024;
const ALGORITHM: &str = "TC3-HMAC-SHA256";
const SERVICE: &str = "sms";
const ACTION: &str = "SendSms";
const VERSION: &str = "2021-01-11";
const SKEW_SECONDS_MAX: u64 = 300;
const NUMBERS_MAX: usize = 200;
const SESSION_CONTEXT_MAX: usize = 511;
/// Variables of [`keys::SMS_TEMPLATE`].
const TEMPLATE_PARAMS: usize = 2;
/// A variable of a code template.
const PARAM_DIGITS_MAX: usize = 6;
/// The service's default limits: one message of the same content, and messages of a Beijing day.
const SAME_CONTENT_APART: TimeDelta = TimeDelta::seconds(30);
const PER_DAY: usize = 10;

pub(crate) fn router(sim: Sim) -> Router {
    Router::new().route("/sms", any(entry)).route("/sms/", any(entry)).with_state(sim)
}

/// The eleven digits, however the number was written.
pub(crate) fn without_prefix(phone: &str) -> &str {
    ["+86", "0086", "86"].iter().find_map(|prefix| phone.strip_prefix(prefix)).unwrap_or(phone)
}

/// `Code` and `Message`, of a request or of a number.
#[derive(Debug)]
struct Refusal(String, String);

impl Refusal {
    fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self(code.into(), message.into())
    }

    fn missing(name: &str) -> Self {
        Self::new("MissingParameter", format!("The request is missing a required parameter `{name}`."))
    }

    fn kind(name: &str) -> Self {
        Self::new("InvalidParameter", format!("The value type of parameter `{name}` is not valid."))
    }

    fn authorization(message: impl Into<String>) -> Self {
        Self::new("AuthFailure.InvalidAuthorization", message)
    }

    fn signature(message: impl Into<String>) -> Self {
        Self::new("AuthFailure.SignatureFailure", message)
    }
}

async fn entry(State(sim): State<Sim>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let fault = sim.take_fault(Target::Sms, parts.uri.path().trim_end_matches('/'));
    let mut injected = None;
    if let Some(fault) = &fault {
        match fault.mode {
            FaultMode::Timeout => {
                tokio::time::sleep(fault.delay(30_000)).await;
                return cut();
            }
            FaultMode::Reset => return cut(),
            FaultMode::ServerError => {
                let mut response = Response::new(Body::from("injected"));
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                return response;
            }
            FaultMode::TooMany => return error(&Refusal::new("RequestLimitExceeded", "injected")),
            FaultMode::Errcode => injected = fault.errcode.as_ref().and_then(Value::as_str),
            FaultMode::BadSignature | FaultMode::DropAfterCommit | FaultMode::Slow => {}
        }
    }
    let response = match to_bytes(body, BODY_MAX).await {
        Ok(body) => match answer(&sim, &parts, &body, injected) {
            Ok(statuses) => respond(json!({ "SendStatusSet": statuses })),
            Err(refusal) => {
                tracing::debug!(code = refusal.0, "refused");
                error(&refusal)
            }
        },
        Err(_) => error(&Refusal::new("RequestSizeLimitExceeded", "the body is too long")),
    };
    match fault {
        Some(fault) if fault.mode == FaultMode::DropAfterCommit => cut(),
        Some(fault) if fault.mode == FaultMode::Slow => {
            tokio::time::sleep(fault.delay(6_000)).await;
            response
        }
        _ => response,
    }
}

fn answer(sim: &Sim, parts: &Parts, body: &[u8], injected: Option<&str>) -> Result<Vec<Value>, Refusal> {
    let now = sim.now();
    if parts.method != Method::POST {
        return Err(Refusal::new("UnsupportedProtocol", "use POST"));
    }
    let action = header(&parts.headers, "x-tc-action").map_err(|()| Refusal::missing("Action"))?;
    verify(parts, body, now)?;
    if header(&parts.headers, "x-tc-version") != Ok(VERSION) {
        return Err(Refusal::new("NoSuchVersion", format!("only version {VERSION} is simulated")));
    }
    if action != ACTION {
        return Err(Refusal::new("InvalidAction", format!("only {ACTION} is simulated")));
    }
    // The list of regions grows, so that only its shape is checked.
    match header(&parts.headers, "x-tc-region") {
        Err(()) => return Err(Refusal::missing("Region")),
        Ok(region) if region.starts_with("ap-") => {}
        Ok(_) => return Err(Refusal::new("UnsupportedRegion", "SMS has no such region")),
    }
    send(sim, body, now, injected)
}

/// A header that is there exactly once.
fn header<'h>(headers: &'h HeaderMap, name: &str) -> Result<&'h str, ()> {
    let mut values = headers.get_all(name).iter();
    match (values.next().and_then(|value| std::str::from_utf8(value.as_bytes()).ok()), values.next()) {
        (Some(value), None) if !value.is_empty() => Ok(value),
        _ => Err(()),
    }
}

fn verify(parts: &Parts, body: &[u8], now: DateTime<Utc>) -> Result<(), Refusal> {
    let headers = &parts.headers;
    let timestamp = header(headers, "x-tc-timestamp").map_err(|()| Refusal::missing("Timestamp"))?;
    let seconds: u64 = timestamp.parse().map_err(|_| Refusal::kind("Timestamp"))?;
    let instant = i64::try_from(seconds)
        .ok()
        .and_then(|seconds| DateTime::from_timestamp(seconds, 0))
        .ok_or_else(|| Refusal::kind("Timestamp"))?;

    let given = header(headers, AUTHORIZATION.as_str())
        .map_err(|()| Refusal::authorization("Authorization is missing or comes twice"))?;
    let given = given
        .strip_prefix(ALGORITHM)
        .and_then(|rest| rest.strip_prefix(' '))
        .ok_or_else(|| Refusal::authorization(format!("Authorization must begin with {ALGORITHM}")))?;
    let (mut credential, mut signed, mut signature) = (None, None, None);
    for pair in given.split(", ") {
        let slot = match pair.split_once('=') {
            Some(("Credential", value)) => (&mut credential, value),
            Some(("SignedHeaders", value)) => (&mut signed, value),
            Some(("Signature", value)) => (&mut signature, value),
            _ => return Err(Refusal::authorization("Authorization is Credential=…, SignedHeaders=…, Signature=…")),
        };
        if slot.0.replace(slot.1).is_some() {
            return Err(Refusal::authorization("a part of Authorization comes twice"));
        }
    }
    let (Some(credential), Some(signed), Some(signature)) = (credential, signed, signature) else {
        return Err(Refusal::authorization("a part of Authorization is missing"));
    };
    let [secret_id, date, service, "tc3_request"] = credential.split('/').collect::<Vec<_>>()[..] else {
        return Err(Refusal::authorization("Credential is SecretId/DATE/service/tc3_request"));
    };
    if secret_id != keys::SMS_SECRET_ID {
        return Err(Refusal::new("AuthFailure.SecretIdNotFound", "no such SecretId"));
    }
    if instant.signed_duration_since(now).num_seconds().unsigned_abs() > SKEW_SECONDS_MAX {
        return Err(Refusal::new("AuthFailure.SignatureExpire", "the timestamp is more than five minutes off"));
    }
    if date != instant.format("%Y-%m-%d").to_string() {
        return Err(Refusal::signature("the credential's date is not the UTC date of the timestamp"));
    }
    if service != SERVICE {
        return Err(Refusal::signature(format!("the credential's service is not {SERVICE}")));
    }

    let names: Vec<&str> = signed.split(';').collect();
    if !names.is_sorted_by(|a, b| a < b) || ["content-type", "host"].iter().any(|must| !names.contains(must)) {
        return Err(Refusal::authorization("SignedHeaders must be sorted, distinct, and name content-type and host"));
    }
    let mut lines = String::new();
    for name in &names {
        let value = header(headers, name)
            .map_err(|()| Refusal::signature(format!("the signed header {name} is missing or comes twice")))?;
        lines.push_str(&format!("{name}:{}\n", value.trim().to_lowercase()));
    }
    let query = parts.uri.query().unwrap_or_default();
    let canonical = format!("POST\n/\n{query}\n{lines}\n{signed}\n{}", sha256(body));
    let scope = format!("{date}/{SERVICE}/tc3_request");
    let string = format!("{ALGORITHM}\n{timestamp}\n{scope}\n{}", sha256(canonical.as_bytes()));
    let mut key = format!("TC3{}", keys::SMS_SECRET_KEY).into_bytes();
    for part in [date, SERVICE, "tc3_request"] {
        key = mac(&key, part)?.finalize().into_bytes().to_vec();
    }
    let decoded = hex::decode(signature).map_err(|_| Refusal::signature("Signature is not hexadecimal"))?;
    if signature.bytes().any(|byte| byte.is_ascii_uppercase()) || mac(&key, &string)?.verify_slice(&decoded).is_err() {
        // What should have been signed is no secret, and nearly always shows the mistake.
        return Err(Refusal::signature(format!("the signature does not match; signed must be {canonical:?}")));
    }

    let json = header(headers, CONTENT_TYPE.as_str())
        .is_ok_and(|value| value.split(';').next().is_some_and(|kind| kind.trim() == "application/json"));
    if json { Ok(()) } else { Err(Refusal::new("InvalidParameter", "Content-Type must be application/json")) }
}

fn mac(key: &[u8], text: &str) -> Result<Hmac<Sha256>, Refusal> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).map_err(|_| Refusal::new("InternalError", "unusable key"))?;
    mac.update(text.as_bytes());
    Ok(mac)
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// A well-formed request; whether it may be sent is said for each number.
struct SendSms {
    phones: Vec<String>,
    app_id: String,
    template_id: String,
    sign: Option<String>,
    params: Vec<String>,
    session_context: String,
}

impl SendSms {
    fn parse(body: &[u8]) -> Result<Self, Refusal> {
        let Ok(Value::Object(mut fields)) = serde_json::from_slice(body) else {
            return Err(Refusal::new("InvalidRequest", "the body is not a JSON object"));
        };
        let request = Self {
            phones: texts(&mut fields, "PhoneNumberSet")?.ok_or_else(|| Refusal::missing("PhoneNumberSet"))?,
            app_id: text(&mut fields, "SmsSdkAppId")?.ok_or_else(|| Refusal::missing("SmsSdkAppId"))?,
            template_id: text(&mut fields, "TemplateId")?.ok_or_else(|| Refusal::missing("TemplateId"))?,
            sign: text(&mut fields, "SignName")?,
            params: texts(&mut fields, "TemplateParamSet")?.unwrap_or_default(),
            session_context: text(&mut fields, "SessionContext")?.unwrap_or_default(),
        };
        for name in ["ExtendCode", "SenderId"] {
            text(&mut fields, name)?;
        }
        if let Some(name) = fields.keys().next() {
            return Err(Refusal::new("UnknownParameter", format!("The parameter `{name}` is not recognized.")));
        }
        if request.phones.is_empty() {
            return Err(Refusal::missing("PhoneNumberSet"));
        }
        if request.phones.len() > NUMBERS_MAX {
            return Err(Refusal::new("LimitExceeded.PhoneNumberCountLimit", "at most 200 numbers"));
        }
        if request.session_context.len() > SESSION_CONTEXT_MAX {
            return Err(Refusal::new("InvalidParameterValue", "SessionContext must be shorter than 512 bytes"));
        }
        Ok(request)
    }

    /// What holds for every number of the request.
    fn check(&self) -> Result<(), Refusal> {
        if self.app_id != keys::SMS_APP_ID {
            return Err(Refusal::new("InvalidParameterValue.SdkAppIdNotExist", "no such SmsSdkAppId"));
        }
        if self.sign.as_deref() != Some(keys::SMS_SIGN) {
            return Err(Refusal::new("FailedOperation.SignatureIncorrectOrUnapproved", "no such SignName"));
        }
        if self.template_id != keys::SMS_TEMPLATE {
            return Err(Refusal::new("FailedOperation.TemplateUnapprovedOrNotExist", "no such TemplateId"));
        }
        if self.params.len() != TEMPLATE_PARAMS {
            let message = format!("the template has {TEMPLATE_PARAMS} variables");
            return Err(Refusal::new("FailedOperation.TemplateParamSetNotMatchApprovedTemplate", message));
        }
        let good = |param: &String| param.len() <= PARAM_DIGITS_MAX && param.bytes().all(|byte| byte.is_ascii_digit());
        if !self.params.iter().all(good) {
            let message = "variables of a code template are 0 to 6 digits";
            return Err(Refusal::new("InvalidParameterValue.TemplateParameterFormatError", message));
        }
        Ok(())
    }

    /// What holds for one number, given as its eleven digits.
    fn check_number(&self, state: &Memory, phone: &str, now: DateTime<Utc>) -> Result<(), Refusal> {
        let mobile = matches!(phone.as_bytes(), [b'1', b'3'..=b'9', rest @ ..] if rest.len() == 9 && rest.iter().all(u8::is_ascii_digit));
        if !mobile {
            return Err(Refusal::new("InvalidParameterValue.IncorrectPhoneNumber", "not a mainland mobile number"));
        }
        let sent: Vec<&Sms> = state.newest_sms().filter(|sms| sms.phone == phone).collect();
        let same = |sms: &&Sms| sms.template_id == self.template_id && sms.params == self.params;
        if sent.iter().any(|sms| same(sms) && now - sms.sent_at < SAME_CONTENT_APART) {
            let message = "the same content within 30 seconds";
            return Err(Refusal::new("LimitExceeded.PhoneNumberThirtySecondLimit", message));
        }
        if sent.iter().filter(|sms| beijing_day(sms.sent_at) == beijing_day(now)).count() >= PER_DAY {
            return Err(Refusal::new("LimitExceeded.PhoneNumberDailyLimit", "ten messages on one day"));
        }
        Ok(())
    }
}

fn beijing_day(at: DateTime<Utc>) -> Option<NaiveDate> {
    FixedOffset::east_opt(8 * 3_600).map(|offset| at.with_timezone(&offset).date_naive())
}

fn text(fields: &mut Map<String, Value>, name: &str) -> Result<Option<String>, Refusal> {
    match fields.remove(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(Refusal::kind(name)),
    }
}

fn texts(fields: &mut Map<String, Value>, name: &str) -> Result<Option<Vec<String>>, Refusal> {
    match fields.remove(name) {
        None => Ok(None),
        Some(list) => serde_json::from_value(list).map(Some).map_err(|_| Refusal::kind(name)),
    }
}

/// Codes that stand for one number; the others refuse the request.
fn of_a_number(code: &str) -> bool {
    let groups =
        ["FailedOperation", "InternalError", "InvalidParameterValue", "LimitExceeded", "UnauthorizedOperation"];
    code.split_once('.').is_some_and(|(group, _)| groups.contains(&group))
}

fn send(sim: &Sim, body: &[u8], now: DateTime<Utc>, injected: Option<&str>) -> Result<Vec<Value>, Refusal> {
    let request = SendSms::parse(body)?;
    if let Some(code) = injected.filter(|code| !of_a_number(code)) {
        return Err(Refusal::new(code, "injected"));
    }
    let mut state = sim.state();
    let mut statuses = Vec::new();
    for given in &request.phones {
        let phone = without_prefix(given);
        let checked = match injected {
            Some(code) => Err(Refusal::new(code, "injected")),
            None => request.check().and_then(|()| request.check_number(&state, phone, now)),
        };
        let serial_no = match &checked {
            Ok(()) => format!("2640:{}{:010}", now.timestamp_millis(), rand::random::<u32>()),
            Err(_) => String::new(),
        };
        if checked.is_ok() {
            state.put_sms(Sms {
                serial_no: serial_no.clone(),
                phone: phone.to_owned(),
                code: request.params.first().cloned().unwrap_or_default(),
                template_id: request.template_id.clone(),
                params: request.params.clone(),
                sent_at: now,
            });
        }
        let Refusal(code, message) = checked.err().unwrap_or_else(|| Refusal::new("Ok", "send success"));
        statuses.push(json!({
            "SerialNo": serial_no,
            "PhoneNumber": format!("+86{phone}"),
            "Fee": u8::from(code == "Ok"),
            "SessionContext": request.session_context,
            "Code": code,
            "Message": message,
            "IsoCode": "CN",
        }));
    }
    Ok(statuses)
}

fn error(refusal: &Refusal) -> Response {
    respond(json!({ "Error": { "Code": refusal.0, "Message": refusal.1 } }))
}

/// HTTP 200 whatever happened.
fn respond(mut answer: Value) -> Response {
    if let Some(fields) = answer.as_object_mut() {
        let id = [random_hex::<4>(), random_hex::<2>(), random_hex::<2>(), random_hex::<2>(), random_hex::<6>()];
        fields.insert("RequestId".to_owned(), json!(id.join("-")));
    }
    let mut response = Response::new(Body::from(json!({ "Response": answer }).to_string()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
