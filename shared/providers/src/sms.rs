//! Text messages, verification codes above all: Tencent Cloud SMS, `SendSms` of 2021-01-11.
//!
//! Its habits: HTTP 200 for nearly every failure, an error for the request as a whole or a status per number, and no key that
//! makes a repetition harmless. So the status decides, nothing is ever sent twice from here, and an answer that did not come
//! means that the person may hold a working code.
//!
//! Source: cloud.tencent.com/document/api/382/55981, with its list of codes.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::{Code, Failure, Refusal};
use http::StatusCode;
use serde::{Deserialize, Serialize};

pub use crate::tencent::Said;
use crate::tencent::{CallError, Endpoint, Service, SetupError, clean};
use crate::{Now, Secret};
use crate::{TransportError, TransportKind};

/// The service's own host.
pub const DEFAULT_BASE_URL: &str = "https://sms.tencentcloudapi.com";

const SERVICE: &str = "sms";
const ACTION: &str = "SendSms";
const VERSION: &str = "2021-01-11";

/// A parameter of a code template holds at most six digits.
const PARAMETER_DIGITS_MAX: usize = 6;

/// A message was not accepted, or nobody knows whether it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SmsError {
    /// Not a mainland mobile number, or one that does not exist. Final for this number.
    #[error("not a number that can receive messages ({0})")]
    InvalidNumber(Said),
    /// The person behind the number has unsubscribed. Final for this number.
    #[error("the number has unsubscribed ({0})")]
    Unsubscribed(Said),
    /// Too often for this number. Nothing was sent.
    #[error("too many messages to this number ({said})")]
    RateLimited {
        /// When the limit that was met may let the next one pass.
        retry_after: Duration,
        /// Which limit it was.
        said: Said,
    },
    /// Key, signature, template, package, quota or clock: somebody must act in the console. Nothing was sent.
    #[error("the SMS service refuses this configuration ({0})")]
    Config(Said),
    /// The service has no room for the request. Nothing was sent.
    #[error("the SMS service is busy ({0})")]
    Busy(Said),
    /// The service failed inside. Whether the message was sent is unknown.
    #[error("the SMS service failed ({0})")]
    Internal(Said),
    /// Any other code. Nothing was sent.
    #[error("refused by the SMS service ({0})")]
    Rejected(Said),
    /// An HTTP status other than 2xx.
    #[error("the SMS service answered {0}")]
    Http(StatusCode),
    /// No whole answer. Unless there was no connection, whether the message was sent is unknown.
    #[error("no answer from the SMS service")]
    Transport(#[from] TransportError),
    /// An answer that is not what the documentation promises. Whether the message was sent is unknown.
    #[error("unexpected answer from the SMS service: {0}")]
    Malformed(&'static str),
    /// The arguments or the configuration can never work; nothing was sent.
    #[error("{0}")]
    Misuse(&'static str),
    /// The HTTP client could not be built.
    #[error("could not build the HTTP client")]
    Build(#[source] domain::BoxError),
}

impl SmsError {
    /// Whether a message may be asked for again later without anybody changing anything. That is the person's choice and never
    /// the program's while [`SmsError::outcome_unknown`].
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::RateLimited { .. } | Self::Busy(_) | Self::Internal(_) | Self::Transport(_) => true,
            Self::Http(status) => status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS,
            _ => false,
        }
    }

    /// Whether the message may have been sent although the call failed: its code must stay valid, and the throttle must count it.
    pub fn outcome_unknown(&self) -> bool {
        match self {
            Self::Transport(error) => error.kind != TransportKind::Connect,
            Self::Internal(_) | Self::Malformed(_) => true,
            Self::Http(status) => status.is_server_error(),
            _ => false,
        }
    }

    /// What a refusal with this code means for us, whether it stands for the request or for the number.
    fn from_said(said: Said, now: DateTime<Utc>) -> Self {
        let limited = |retry_after, said| Self::RateLimited { retry_after, said };
        match said.code.as_str() {
            "InvalidParameterValue.IncorrectPhoneNumber" => Self::InvalidNumber(said),
            "FailedOperation.PhoneNumberInBlacklist" => Self::Unsubscribed(said),
            "LimitExceeded.PhoneNumberThirtySecondLimit" => limited(Duration::from_secs(30), said),
            // A rule of the account's own making, so its length is not known.
            "LimitExceeded.DeliveryFrequencyLimit" => limited(Duration::from_secs(60), said),
            "LimitExceeded.PhoneNumberOneHourLimit" => limited(Duration::from_secs(3600), said),
            "LimitExceeded.PhoneNumberDailyLimit" | "LimitExceeded.PhoneNumberSameContentDailyLimit" => {
                limited(until_beijing_midnight(now), said)
            }
            // Listed among the internal ones, but it means that our clock is off by more than ten minutes.
            "InternalError.RequestTimeException" => Self::Config(said),
            "FailedOperation.ContainSensitiveWord"
            | "FailedOperation.InsufficientBalanceInSmsPackage"
            | "FailedOperation.MarketingSendTimeConstraint"
            | "FailedOperation.SignatureIncorrectOrUnapproved"
            | "FailedOperation.TemplateIncorrectOrUnapproved"
            | "FailedOperation.TemplateParamSetNotMatchApprovedTemplate"
            | "FailedOperation.TemplateUnapprovedOrNotExist" => Self::Config(said),
            code => match code.split('.').next().unwrap_or_default() {
                "RequestLimitExceeded" | "ResourceInsufficient" | "ResourceUnavailable" => Self::Busy(said),
                "InternalError" => Self::Internal(said),
                "AuthFailure"
                | "InvalidAction"
                | "InvalidParameter"
                | "InvalidParameterValue"
                | "InvalidRequest"
                | "LimitExceeded"
                | "MissingParameter"
                | "NoSuchVersion"
                | "UnauthorizedOperation"
                | "UnknownParameter"
                | "UnsupportedOperation"
                | "UnsupportedProtocol"
                | "UnsupportedRegion" => Self::Config(said),
                _ => Self::Rejected(said),
            },
        }
    }
}

/// What the person is told, where it is theirs to know; the rest is "the upstream failed" or "we are misconfigured".
impl From<SmsError> for Failure {
    fn from(error: SmsError) -> Self {
        match error {
            SmsError::InvalidNumber(_) => Refusal::invalid("phone", "手机号码不正确").into(),
            SmsError::Unsubscribed(_) => Refusal::invalid("phone", "该号码已退订短信，请更换号码").into(),
            SmsError::RateLimited { retry_after, .. } => {
                Refusal::new(Code::RateLimited).detail("retryAfterSeconds", retry_after.as_secs()).into()
            }
            SmsError::Config(_) | SmsError::Misuse(_) | SmsError::Build(_) => Self::Internal(Box::new(error)),
            SmsError::Busy(_)
            | SmsError::Internal(_)
            | SmsError::Rejected(_)
            | SmsError::Http(_)
            | SmsError::Transport(_)
            | SmsError::Malformed(_) => Self::Upstream(Box::new(error)),
        }
    }
}

/// Everything a [`TencentSms`] needs.
#[derive(Clone)]
pub struct Config {
    /// Usually [`DEFAULT_BASE_URL`]. A path is allowed, for a local simulator; the signature covers `/` all the same.
    pub base_url: String,
    /// The API key's id.
    pub secret_id: String,
    /// The API key.
    pub secret_key: Secret,
    /// Where the account's signatures and templates live, such as `ap-guangzhou`.
    pub region: String,
    /// The SMS application's number.
    pub sdk_app_id: String,
    /// The approved signature's text, without its brackets.
    pub sign_name: String,
    /// The approved template of verification codes: `{1}` is the code, `{2}` the minutes it is valid.
    pub template_id: String,
    /// The longest one call may take, connecting included.
    pub timeout: Duration,
    /// The clock; more than five minutes off and the service refuses everything.
    pub now: Now,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("region", &self.region)
            .field("sdk_app_id", &self.sdk_app_id)
            .field("template_id", &self.template_id)
            .finish_non_exhaustive()
    }
}

/// A message the service has accepted. Whether it arrives is told by no one here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendReceipt {
    /// The service's number for the message, which delivery reports repeat.
    pub serial_no: String,
    /// The service's id of the request, for their support.
    pub request_id: String,
    /// How many messages are charged.
    pub fee: u64,
}

/// One SMS application with one template for codes. Make one per process and share it.
pub struct TencentSms {
    endpoint: Endpoint,
    config: Config,
}

impl fmt::Debug for TencentSms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TencentSms").field("config", &self.config).finish_non_exhaustive()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct SendSms<'a> {
    phone_number_set: [&'a str; 1],
    sms_sdk_app_id: &'a str,
    sign_name: &'a str,
    template_id: &'a str,
    template_param_set: &'a [&'a str],
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    send_status_set: Option<Vec<Status>>,
}

/// The status of one number.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Status {
    code: String,
    serial_no: Option<String>,
    fee: Option<u64>,
}

impl TencentSms {
    /// Check the configuration; nothing is sent.
    pub fn new(config: Config) -> Result<Self, SmsError> {
        let named = [&config.sdk_app_id, &config.sign_name, &config.template_id];
        if named.iter().any(|text| text.trim().is_empty()) {
            return Err(SmsError::Misuse("the SMS application, signature and template must not be empty"));
        }
        let service = Service { name: SERVICE, version: VERSION, region: Some(config.region.clone()) };
        let (id, key) = (&config.secret_id, &config.secret_key);
        let endpoint =
            Endpoint::new(service, &config.base_url, id, key, config.timeout).map_err(|error| match error {
                SetupError::Misuse(what) => SmsError::Misuse(what),
                SetupError::Build(source) => SmsError::Build(source),
            })?;
        Ok(Self { endpoint, config })
    }

    /// Send a verification code, once. `phone` is a mainland mobile number: eleven digits, bare or after `+86`, `86` or `0086`;
    /// `code` is up to six digits, and `minutes` how long it is valid, as the text says.
    ///
    /// There is no second attempt inside, and after [`SmsError::outcome_unknown`] there must be none outside either until the
    /// person asks for one.
    pub async fn send_code(&self, phone: &str, code: &str, minutes: u32) -> Result<SendReceipt, SmsError> {
        let minutes = minutes.to_string();
        let parameter = |text: &str| {
            (1..=PARAMETER_DIGITS_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
        };
        if !parameter(code) || !parameter(&minutes) || minutes == "0" {
            return Err(SmsError::Misuse("code and minutes must be one to six digits"));
        }
        self.submit(phone, &self.config.template_id, &[code, &minutes]).await
    }

    /// Send a message by another approved template, once; `params` are its variables in order. The same holds as for
    /// [`TencentSms::send_code`]: there is no second attempt inside, and none is right while the outcome is unknown.
    pub async fn send(&self, phone: &str, template_id: &str, params: &[&str]) -> Result<SendReceipt, SmsError> {
        if template_id.trim().is_empty() || params.iter().any(|param| param.trim().is_empty()) {
            return Err(SmsError::Misuse("the template and its variables must not be empty"));
        }
        self.submit(phone, template_id, params).await
    }

    async fn submit(&self, phone: &str, template_id: &str, params: &[&str]) -> Result<SendReceipt, SmsError> {
        let phone = e164(phone).ok_or_else(|| {
            SmsError::InvalidNumber(Said {
                code: "InvalidParameterValue.IncorrectPhoneNumber".to_owned(),
                request_id: "-".to_owned(),
            })
        })?;
        let request = SendSms {
            phone_number_set: [&phone],
            sms_sdk_app_id: &self.config.sdk_app_id,
            sign_name: &self.config.sign_name,
            template_id,
            template_param_set: params,
        };
        let payload = serde_json::to_vec(&request).map_err(|_| SmsError::Misuse("the request is not JSON"))?;
        let now = (self.config.now)();
        let answer = self.endpoint.call::<Answer>(ACTION, payload, now).await.map_err(|error| match error {
            CallError::Said(said) => SmsError::from_said(said, now),
            CallError::Http(status) => SmsError::Http(status),
            CallError::Transport(error) => SmsError::Transport(error),
            CallError::Malformed(what) => SmsError::Malformed(what),
        })?;
        let request_id = answer.request_id;
        let statuses = answer.fields.send_status_set.ok_or(SmsError::Malformed("neither error nor status"))?;
        let mut statuses = statuses.into_iter();
        let (Some(status), None) = (statuses.next(), statuses.next()) else {
            return Err(SmsError::Malformed("not one status for one number"));
        };
        if status.code != "Ok" {
            return Err(SmsError::from_said(Said { code: clean(&status.code), request_id }, now));
        }
        let serial_no = clean(status.serial_no.as_deref().unwrap_or_default());
        Ok(SendReceipt { serial_no, request_id, fee: status.fee.unwrap_or_default() })
    }
}

/// `+86` and the eleven digits of a mainland mobile number, however much of the prefix was there.
///
/// Numbers of other countries are refused: they need another template, cost many times as much, and are what message pumping
/// lives on.
fn e164(phone: &str) -> Option<String> {
    let national = ["+86", "0086", "86"].iter().find_map(|prefix| phone.strip_prefix(prefix)).unwrap_or(phone);
    let digits = national.len() == 11 && national.bytes().all(|byte| byte.is_ascii_digit());
    let mobile = matches!(national.as_bytes(), [b'1', b'3'..=b'9', ..]);
    (digits && mobile).then(|| format!("+86{national}"))
}

/// Limits "per day" end with Beijing's day, which has had no summer time since 1991.
fn until_beijing_midnight(now: DateTime<Utc>) -> Duration {
    const DAY: i64 = 86_400;
    let passed = now.timestamp().saturating_add(8 * 3_600).rem_euclid(DAY);
    Duration::from_secs(DAY.saturating_sub(passed).unsigned_abs())
}
