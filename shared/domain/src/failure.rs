//! How an operation says no: a [`Refusal`] is a value for the caller, a [`Failure`] is everything
//! that can go wrong, with what only the logs may see kept as a source.

use std::borrow::Cow;
use std::error::Error;

use crate::Code;

/// A boxed cause, for the logs only.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// An expected refusal: a stable code, a message for people, details for programs.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("refused: {}", code.as_str())]
pub struct Refusal {
    pub code: Code,
    pub message: Cow<'static, str>,
    pub details: serde_json::Map<String, serde_json::Value>,
}

impl Refusal {
    /// A refusal with the code's own message and no details.
    pub fn new(code: Code) -> Self {
        Self { code, message: Cow::Borrowed(code.message()), details: serde_json::Map::new() }
    }

    /// `INVALID_ARGUMENT` that names the input field, as in `items[0].quantity`.
    pub fn invalid(field: &str, reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::InvalidArgument).with_message(reason).detail("field", field)
    }

    /// Replaces the message for people.
    pub fn with_message(mut self, message: impl Into<Cow<'static, str>>) -> Self {
        self.message = message.into();
        self
    }

    /// Adds one detail for programs.
    pub fn detail(mut self, key: &str, value: impl Into<serde_json::Value>) -> Self {
        self.details.insert(key.to_owned(), value.into());
        self
    }
}

impl From<Code> for Refusal {
    fn from(code: Code) -> Self {
        Self::new(code)
    }
}

/// Why an operation did not give its result.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The shop's rules say no; the caller is told.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Our own store cannot answer now; the effect is absent or will be found by the same `requestId`.
    #[error("store unavailable")]
    Unavailable(#[source] BoxError),
    /// An outside service failed or its answer could not be trusted.
    #[error("upstream failed")]
    Upstream(#[source] BoxError),
    /// The time limit ran out; the outcome is unknown to the caller.
    #[error("timed out")]
    Timeout,
    /// A bug or a broken document; the caller learns nothing but the trace id.
    #[error("internal error")]
    Internal(#[source] BoxError),
}

impl Failure {
    /// The wire code of this failure.
    pub fn code(&self) -> Code {
        match self {
            Failure::Refused(refusal) => refusal.code,
            Failure::Unavailable(_) => Code::Unavailable,
            Failure::Upstream(_) => Code::UpstreamError,
            Failure::Timeout => Code::Timeout,
            Failure::Internal(_) => Code::Internal,
        }
    }

    /// A failure that only a bug or a broken document can cause.
    pub fn invariant(what: impl Into<String>) -> Self {
        Failure::Internal(what.into().into())
    }
}

impl From<Code> for Failure {
    fn from(code: Code) -> Self {
        Failure::Refused(code.into())
    }
}
