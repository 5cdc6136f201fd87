//! Text messages as Tencent Cloud's `SendSms` of 2021-01-11: a strict TC3-HMAC-SHA256 signature, HTTP 200 for every refusal, and a
//! status for each number.
//!
//! The path that is signed is `/` wherever this is mounted, as for every call of the real API. Messages are only kept, to be read
//! under `control/sms`. Where the documents are silent this guesses: the code for a credential of another day or service, and that
//! a foreign number is an incorrect one.

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::any;
use chrono::{DateTime, FixedOffset, NaiveDate, TimeDelta, Utc};
use http::Method;
use http::request::Parts;
use serde_json::{Map, Value, json};

use crate::faults::Target;
use crate::state::{Sms, State as Memory};
use crate::tc3::{self, Credential, Refusal, header, text};
use crate::{Sim, keys};

const CREDENTIAL: Credential =
    Credential { service: "sms", secret_id: keys::SMS_SECRET_ID, secret_key: keys::SMS_SECRET_KEY };
const ACTION: &str = "SendSms";
const VERSION: &str = "2021-01-11";
const NUMBERS_MAX: usize = 200;
const SESSION_CONTEXT_MAX: usize = 511;
/// Variables of either template.
const TEMPLATE_PARAMS: usize = 2;
/// A variable of a code template.
const PARAM_DIGITS_MAX: usize = 6;
/// A variable of [`keys::SMS_ASSIGNMENT_TEMPLATE`].
const PARAM_CHARS_MAX: usize = 20;
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

async fn entry(State(sim): State<Sim>, request: Request) -> Response {
    tc3::serve(&sim, Target::Sms, request, |parts, body, injected| {
        Ok(json!({ "SendStatusSet": answer(&sim, parts, body, injected)? }))
    })
    .await
}

fn answer(sim: &Sim, parts: &Parts, body: &[u8], injected: Option<&str>) -> Result<Vec<Value>, Refusal> {
    let now = sim.now();
    if parts.method != Method::POST {
        return Err(Refusal::new("UnsupportedProtocol", "use POST"));
    }
    let action = header(&parts.headers, "x-tc-action").map_err(|()| Refusal::missing("Action"))?;
    tc3::verify(&CREDENTIAL, parts, body, now)?;
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
        let is_code = self.template_id == keys::SMS_TEMPLATE;
        if !is_code && self.template_id != keys::SMS_ASSIGNMENT_TEMPLATE {
            return Err(Refusal::new("FailedOperation.TemplateUnapprovedOrNotExist", "no such TemplateId"));
        }
        if self.params.len() != TEMPLATE_PARAMS {
            let message = format!("the template has {TEMPLATE_PARAMS} variables");
            return Err(Refusal::new("FailedOperation.TemplateParamSetNotMatchApprovedTemplate", message));
        }
        let good = |param: &String| match is_code {
            true => param.len() <= PARAM_DIGITS_MAX && param.bytes().all(|byte| byte.is_ascii_digit()),
            false => (1..=PARAM_CHARS_MAX).contains(&param.chars().count()),
        };
        if !self.params.iter().all(good) {
            let message = "variables of a code template are 0 to 6 digits, the others 1 to 20 characters";
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
