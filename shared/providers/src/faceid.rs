//! Whether a name and an identity number belong together: Tencent Cloud FaceID, `IdCardVerification` of 2018-03-01.
//!
//! Its habits: the outcome is a number in a string, *unknown* comes in four shades, and a match or mismatch is billed each time.
//! So only `"0"` is a match, whatever else the answer holds, and nothing is asked twice from here.
//!
//! Source: cloud.tencent.com/document/product/1007/33188, with its table of results.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::id_card::{IdNumber, RealName};
use http::StatusCode;
use serde::{Deserialize, Serialize};

pub use crate::tencent::Said;
use crate::tencent::{CallError, Endpoint, Service, SetupError, clean};
use crate::{Now, Secret, TransportError};

/// The service's own host.
pub const DEFAULT_BASE_URL: &str = "https://faceid.tencentcloudapi.com";

/// The name of this provider in stored results.
pub const NAME: &str = "tencent-faceid";

const SERVICE: &str = "faceid";
const ACTION: &str = "IdCardVerification";
const VERSION: &str = "2018-03-01";

/// What the register says. A name and number that do not match are an answer, not an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// They belong together.
    Match,
    /// They do not.
    Mismatch,
    /// The register has no such number: it may be wrong, or newer than the register's copy.
    NoRecord,
}

/// An answer of the register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// What it says.
    pub verdict: Verdict,
    /// Its own code for that, to be kept with the outcome.
    pub result: String,
    /// The service's id of the request, for their support.
    pub request_id: String,
    /// When it was asked.
    pub at: DateTime<Utc>,
}

/// Nobody knows whether they belong together.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FaceIdError {
    /// The register is not there now (-4, -6), or the service has no room for the request.
    #[error("the identity service cannot answer now ({0})")]
    Busy(Said),
    /// This name or number was asked for too often today, by whomever (-7).
    #[error("asked too often for this name or number today ({0})")]
    DailyLimit(Said),
    /// The service calls the number or the name malformed (-2, -3), although they were checked here.
    #[error("the identity service refuses the number or name as malformed ({0})")]
    Refused(Said),
    /// Key, signature, package or clock: somebody must act in the console.
    #[error("the identity service refuses this configuration ({0})")]
    Config(Said),
    /// Any other code or result.
    #[error("the identity service failed ({0})")]
    Other(Said),
    /// An HTTP status other than 2xx.
    #[error("the identity service answered {0}")]
    Http(StatusCode),
    /// No whole answer. It may be billed all the same.
    #[error("no answer from the identity service")]
    Transport(#[from] TransportError),
    /// An answer that is not what the documentation promises.
    #[error("unexpected answer from the identity service: {0}")]
    Malformed(&'static str),
    /// The configuration can never work.
    #[error("{0}")]
    Misuse(&'static str),
    /// The HTTP client could not be built.
    #[error("could not build the HTTP client")]
    Build(#[source] domain::BoxError),
}

impl FaceIdError {
    fn from_said(said: Said) -> Self {
        match said.code.split('.').next().unwrap_or_default() {
            "RequestLimitExceeded" | "LimitExceeded" | "ResourceInsufficient" | "ResourceUnavailable" => {
                Self::Busy(said)
            }
            "AuthFailure"
            | "InvalidAction"
            | "InvalidParameter"
            | "InvalidParameterValue"
            | "InvalidRequest"
            | "MissingParameter"
            | "NoSuchVersion"
            | "UnauthorizedOperation"
            | "UnknownParameter"
            | "UnsupportedOperation" => Self::Config(said),
            _ => Self::Other(said),
        }
    }

    /// Whether somebody must act before it can work.
    pub fn is_configuration(&self) -> bool {
        matches!(self, Self::Config(_) | Self::Misuse(_) | Self::Build(_))
    }
}

/// Everything a [`TencentFaceId`] needs.
#[derive(Clone)]
pub struct Config {
    /// Usually [`DEFAULT_BASE_URL`]. A path is allowed, for a local simulator.
    pub base_url: String,
    /// The API key's id.
    pub secret_id: String,
    /// The API key.
    pub secret_key: Secret,
    /// The longest one call may take, connecting included.
    pub timeout: Duration,
    /// The clock; more than five minutes off and the service refuses everything.
    pub now: Now,
}

/// The identity check under one key. Make one per process and share it.
pub struct TencentFaceId {
    endpoint: Endpoint,
    now: Now,
}

impl fmt::Debug for TencentFaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TencentFaceId").finish_non_exhaustive()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct IdCardVerification<'a> {
    id_card: &'a str,
    name: &'a str,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    result: String,
}

impl TencentFaceId {
    /// Check the configuration; nothing is sent.
    pub fn new(config: Config) -> Result<Self, FaceIdError> {
        let service = Service { name: SERVICE, version: VERSION, region: None };
        let Config { base_url, secret_id, secret_key, timeout, now } = config;
        let made = Endpoint::new(service, &base_url, &secret_id, &secret_key, timeout);
        let endpoint = made.map_err(|error| match error {
            SetupError::Misuse(what) => FaceIdError::Misuse(what),
            SetupError::Build(source) => FaceIdError::Build(source),
        })?;
        Ok(Self { endpoint, now })
    }

    /// Asks once. An error says nothing about the person.
    pub async fn check(&self, name: &RealName, number: &IdNumber) -> Result<Checked, FaceIdError> {
        let request = IdCardVerification { id_card: number.expose(), name: name.expose() };
        let payload = serde_json::to_vec(&request).map_err(|_| FaceIdError::Misuse("the request is not JSON"))?;
        let at = (self.now)();
        let answer = self.endpoint.call::<Answer>(ACTION, payload, at).await.map_err(|error| match error {
            CallError::Said(said) => FaceIdError::from_said(said),
            CallError::Http(status) => FaceIdError::Http(status),
            CallError::Transport(error) => FaceIdError::Transport(error),
            CallError::Malformed(what) => FaceIdError::Malformed(what),
        })?;
        let said = Said { code: clean(&answer.fields.result), request_id: answer.request_id };
        let verdict = match said.code.as_str() {
            "0" => Verdict::Match,
            "-1" => Verdict::Mismatch,
            "-5" => Verdict::NoRecord,
            "-2" | "-3" => return Err(FaceIdError::Refused(said)),
            "-4" | "-6" => return Err(FaceIdError::Busy(said)),
            "-7" => return Err(FaceIdError::DailyLimit(said)),
            _ => return Err(FaceIdError::Other(said)),
        };
        Ok(Checked { verdict, result: said.code, request_id: said.request_id, at })
    }
}
