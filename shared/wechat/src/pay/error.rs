//! What can go wrong when talking to WeChat Pay, sorted by what a caller can do about it.
//!
//! Source: the error tables of each endpoint, e.g. pay.weixin.qq.com/doc/v3/merchant/4012791897. Branch on status and code; the
//! message varies and is for people.

use http::StatusCode;

use crate::crypto::{KeyError, SignatureError};
use crate::{TransportError, clip};
use upstream::BuildError;

/// A call to WeChat Pay did not give a proven result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// WeChat Pay answered with something other than success.
    #[error("refused with {status} {code}: {message} (request {request_id})", request_id = request_id.as_deref().unwrap_or("-"))]
    Rejected {
        /// The HTTP status.
        status: StatusCode,
        /// The error code in its current spelling (`ORDERNOTEXIST` reads `ORDER_NOT_EXIST`); `HTTP_<status>` when the body
        /// had none.
        code: String,
        /// WeChat's text, cut to 200 characters.
        message: String,
        /// `Request-ID`, which their support asks for.
        request_id: Option<String>,
        /// Whether the answer carried a valid signature. Errors usually do not: then `code` is a hint and must not close or
        /// re-open anything that holds money.
        signed: bool,
    },
    /// A success that is not proven to come from WeChat Pay. What happened there is unknown: query.
    #[error("the answer is not proven to come from WeChat Pay")]
    Unverified(#[source] SignatureError),
    /// No whole answer. What happened there is unknown: query.
    #[error("no answer from WeChat Pay")]
    Transport(#[from] TransportError),
    /// A proven success whose content is not what the documentation promises, or is about something else than was asked.
    #[error("unexpected answer from WeChat Pay: {0}")]
    Malformed(&'static str),
    /// The merchant has no platform certificates: it is in public-key mode, and its `PUB_KEY_ID_…` key must be configured.
    #[error("this merchant has no platform certificates; configure its WeChat Pay public key (PUB_KEY_ID_…)")]
    PublicKeyMode,
    /// The arguments or the configuration can never work; nothing was sent.
    #[error("{0}")]
    Misuse(&'static str),
    /// A key was unusable; nothing was sent.
    #[error("unusable key")]
    Key(#[from] KeyError),
    /// The HTTP client could not be built.
    #[error("could not build the HTTP client")]
    Build(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// Whether the request may have been carried out although it failed here. If so, ask (`query`, `query_refund`) before
    /// deciding anything, and never take a new number.
    pub fn outcome_unknown(&self) -> bool {
        match self {
            Self::Unverified(_) | Self::Transport(_) | Self::Malformed(_) => true,
            // 202 means "taken, not finished"; 429 on a refund can mean that the first request is being carried out.
            Self::Rejected { status, .. } => {
                status.is_server_error() || *status == StatusCode::ACCEPTED || *status == StatusCode::TOO_MANY_REQUESTS
            }
            Self::PublicKeyMode | Self::Misuse(_) | Self::Key(_) | Self::Build(_) => false,
        }
    }

    /// Whether the same request can succeed later without anybody changing anything. For refunds, query first even so.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unverified(_) | Self::Transport(_) => true,
            Self::Rejected { status, .. } => {
                status.is_server_error() || *status == StatusCode::ACCEPTED || *status == StatusCode::TOO_MANY_REQUESTS
            }
            Self::Malformed(_) | Self::PublicKeyMode | Self::Misuse(_) | Self::Key(_) | Self::Build(_) => false,
        }
    }

    /// The error code, when WeChat Pay gave one.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Rejected { code, .. } => Some(code),
            _ => None,
        }
    }

    pub(crate) fn is_rejection(&self, status: StatusCode, code: &str) -> bool {
        matches!(self, Self::Rejected { status: s, code: c, .. } if *s == status && c == code)
    }

    /// Read an error body. `detail` is left out on purpose: for a wrong signature it repeats what was signed.
    pub(crate) fn rejected(status: StatusCode, body: &[u8], request_id: Option<String>, signed: bool) -> Self {
        #[derive(serde::Deserialize)]
        struct Body {
            code: Option<String>,
            message: Option<String>,
        }
        let body: Option<Body> = serde_json::from_slice(body).ok();
        let (code, message) = body.map_or((None, None), |b| (b.code, b.message));
        Self::Rejected {
            status,
            code: code
                .filter(|code| !code.is_empty())
                .map_or_else(|| format!("HTTP_{}", status.as_u16()), |code| canonical_code(&code)),
            message: clip(message.as_deref().unwrap_or_default(), 200),
            request_id,
            signed,
        }
    }
}

impl From<BuildError> for Error {
    fn from(error: BuildError) -> Self {
        Self::Build(Box::new(error))
    }
}

/// Codes in their current spelling. Older endpoints and older pages leave the underscores out.
const CODES: &[&str] = &[
    "ACCOUNT_ERROR",
    "ALREADY_EXISTS",
    "APPID_MCHID_NOT_MATCH",
    "BANK_ERROR",
    "FREQUENCY_LIMITED",
    "INVALID_REQUEST",
    "MCH_NOT_EXISTS",
    "NOT_ENOUGH",
    "NO_AUTH",
    "NO_STATEMENT_EXIST",
    "OPENID_MISMATCH",
    "ORDER_CLOSED",
    "ORDER_NOT_EXIST",
    "ORDER_PAID",
    "OUT_TRADE_NO_USED",
    "PARAM_ERROR",
    "RATELIMIT_EXCEEDED",
    "RESOURCE_NOT_EXISTS",
    "RULE_LIMIT",
    "SERVICE_UNAVAILABLE",
    "SIGN_ERROR",
    "STATEMENT_CREATING",
    "SYSTEM_ERROR",
    "TRADE_ERROR",
    "TRADE_OVERDUE",
    "USER_ACCOUNT_ABNORMAL",
    "USER_PAYING",
];

pub(crate) fn canonical_code(code: &str) -> String {
    let code: String = code
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || *c == '_')
        .take(64)
        .collect::<String>()
        .to_ascii_uppercase();
    let bare = code.replace('_', "");
    CODES.iter().find(|known| known.replace('_', "") == bare).map_or(code, |known| (*known).to_owned())
}
