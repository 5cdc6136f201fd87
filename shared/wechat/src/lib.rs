//! WeChat Pay APIv3 for a direct merchant, and the part of the mini-program Open API that a mall needs.
//!
//! Owns: request signing, verification of responses and notices, the two HTTP clients, the access token.
//! Must not know: any database, the environment, the clock (it is handed in as [`Now`]), or what an order is worth.
//! Of this project it takes `domain::Failure`, so that `?` works in its handlers, and the HTTP client of `upstream`.

#![warn(missing_docs)]

pub mod content;
pub mod crypto;
pub mod open;
pub mod pay;
pub mod shipping;
pub mod subscribe;

#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Deref;

pub use upstream::{Now, Secret, TransportError, TransportKind};

/// The longest answer read. The largest real one, a list of platform certificates, is a few kilobytes.
const ANSWER_MAX_BYTES: usize = 1 << 20;

/// Idle connections may be kept: what is lost on a dead one is queried before it is sent again.
const IDLE_PER_HOST: usize = usize::MAX;

/// Text that identifies a person (openid, phone number). Reads like a `&str`; `Debug` shows the last four characters only.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Personal(String);

impl Personal {
    /// Wrap a personal value.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value in full.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The value in full, by value.
    pub fn into_string(self) -> String {
        self.0
    }
}

impl Deref for Personal {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Personal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.chars().count();
        let shown = if count > 8 { 4 } else { 0 };
        let tail: String = self.0.chars().skip(count - shown).collect();
        write!(f, "***{tail}")
    }
}

/// A fresh `nonce_str`: 32 upper-case hex characters, the longest the payment pages accept.
pub fn nonce() -> String {
    hex::encode_upper(rand::random::<[u8; 16]>())
}

/// A handler that cannot go on because of WeChat says so with `?`. What a caller can act on (`InvalidCode`,
/// `OUT_TRADE_NO_USED` …) it should match first; here everything unmatched becomes "the upstream failed" or "we are misconfigured".
impl From<pay::Error> for domain::Failure {
    fn from(error: pay::Error) -> Self {
        match error {
            pay::Error::Rejected { .. }
            | pay::Error::Unverified(_)
            | pay::Error::Transport(_)
            | pay::Error::Malformed(_) => Self::Upstream(Box::new(error)),
            pay::Error::PublicKeyMode | pay::Error::Misuse(_) | pay::Error::Key(_) | pay::Error::Build(_) => {
                Self::Internal(Box::new(error))
            }
        }
    }
}

impl From<open::Error> for domain::Failure {
    fn from(error: open::Error) -> Self {
        match error {
            open::Error::Token(error) => (*error).into(),
            open::Error::Config { .. } | open::Error::Misuse(_) | open::Error::Build(_) => {
                Self::Internal(Box::new(error))
            }
            _ => Self::Upstream(Box::new(error)),
        }
    }
}

/// Upstream text for people: control characters out, at most `max` characters.
pub(crate) fn clip(text: &str, max: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(max).collect()
}
