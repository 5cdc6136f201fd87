//! What the clients of outside services share: the HTTP client, bounded answers, keys that cannot be printed, a clock handed in.
//!
//! Knows no service, no database, and nothing of this project.

#![warn(missing_docs)]

mod transport;

use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::Deserialize;

pub use transport::{BuildError, Reply, TransportError, TransportKind, client, exchange};

/// Where a client learns the time. Handed in, so that tests can stand still and move it by hand.
pub type Now = Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>;

/// A value that must never be printed: app secret, session key, access token.
///
/// There is no `Display`, no `Serialize`, and `Debug` shows nothing, so it reaches a log only by calling [`Secret::expose`].
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wrap a secret.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself. Every call is a place to look at when secrets leak.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}
