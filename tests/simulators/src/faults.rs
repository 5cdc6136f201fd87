//! Failures on request: the next `count` matching requests of a target fail in a chosen way.

use std::io;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Sim;

/// A simulated upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// WeChat Pay APIv3, under `/wxpay`.
    Wxpay,
    /// The Open API, under `/wechat`.
    Wechat,
    /// Text messages, under `/sms`.
    Sms,
    /// Public randomness, under `/drand`.
    Drand,
    /// The identity check, under `/faceid`.
    FaceId,
}

/// How a request fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FaultMode {
    /// Nothing happens and nothing is answered for `ms` (default 30 000); then the connection is cut.
    #[serde(rename = "timeout")]
    Timeout,
    /// HTTP 500 before anything happens.
    #[serde(rename = "500")]
    ServerError,
    /// HTTP 429 `FREQUENCY_LIMITED` before anything happens; on the Open API `45011`, for messages `RequestLimitExceeded`.
    #[serde(rename = "429")]
    TooMany,
    /// The request takes effect, its reply is signed with a key nobody knows (WeChat Pay), or its signature is
    /// another round's (drand).
    #[serde(rename = "badSignature")]
    BadSignature,
    /// The error in `errcode`: a number on the Open API, a code such as `SYSTEM_ERROR` on WeChat Pay or
    /// `LimitExceeded.PhoneNumberDailyLimit` for messages. Nothing happens.
    #[serde(rename = "errcode")]
    Errcode,
    /// The connection is cut before anything happens.
    #[serde(rename = "reset")]
    Reset,
    /// The request takes effect, then the connection is cut.
    #[serde(rename = "dropAfterCommit")]
    DropAfterCommit,
    /// The request takes effect at once; the reply comes `ms` later (default 6 000).
    #[serde(rename = "slow")]
    Slow,
}

/// A failure to inject; the body of `POST control/faults`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fault {
    /// Whose requests fail.
    pub target: Target,
    /// Only requests whose path contains this text, such as `/close`; a whole path with the mount fits too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// How.
    pub mode: FaultMode,
    /// For [`FaultMode::Errcode`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errcode: Option<Value>,
    /// How many requests; 0 removes the target's faults.
    #[serde(default = "one")]
    pub count: u32,
    /// Milliseconds for [`FaultMode::Timeout`] and [`FaultMode::Slow`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ms: Option<u64>,
}

fn one() -> u32 {
    1
}

impl Fault {
    /// A fault for the next `count` requests of `target`.
    pub fn new(target: Target, mode: FaultMode, count: u32) -> Self {
        Self { target, path: None, mode, errcode: None, count, ms: None }
    }

    pub(crate) fn delay(&self, default_ms: u64) -> Duration {
        Duration::from_millis(self.ms.unwrap_or(default_ms))
    }
}

impl Sim {
    /// Adds a fault behind those already waiting; `count` 0 removes all faults of the target.
    pub fn fault(&self, fault: Fault) {
        let mut faults = self.faults();
        if fault.count == 0 {
            faults.retain(|waiting| waiting.target != fault.target);
        } else {
            faults.push(fault);
        }
    }

    /// The faults still waiting, oldest first.
    pub fn waiting_faults(&self) -> Vec<Fault> {
        self.faults().clone()
    }

    /// Takes the oldest fault that matches, using up one of its count.
    pub(crate) fn take_fault(&self, target: Target, path: &str) -> Option<Fault> {
        let mut faults = self.faults();
        // A path copied from a request line, mount and all, ends with what is seen here.
        let fits = |part: &str| path.contains(part) || part.ends_with(path);
        let matching = |fault: &Fault| fault.target == target && fault.path.as_deref().is_none_or(fits);
        let fault = faults.iter_mut().find(|fault| matching(fault))?;
        fault.count = fault.count.saturating_sub(1);
        let taken = fault.clone();
        faults.retain(|fault| fault.count > 0);
        Some(taken)
    }
}

/// A reply whose body breaks off, so that the server cuts the connection instead of ending the message.
///
/// The status line may still reach the client; a body never does.
pub(crate) fn cut() -> Response {
    let broken = stream::once(async {
        Err::<Bytes, io::Error>(io::Error::new(io::ErrorKind::ConnectionReset, "fault injected"))
    });
    let mut response = Response::new(Body::from_stream(broken));
    *response.status_mut() = StatusCode::OK;
    response
}
