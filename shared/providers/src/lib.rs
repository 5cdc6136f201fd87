//! Upstreams that are not WeChat, one module each. Today: text messages through Tencent Cloud.
//!
//! Owns: request signing, the wire, what each upstream error means for us. Must not know: any database, the environment, the
//! clock (it is handed in as [`Now`]), how often a person may ask, or what a verification code opens.
//! The only thing taken from this project is `domain`, so that `?` works in its handlers.

#![warn(missing_docs)]

pub mod sms;
pub mod tc3;
mod transport;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, Utc};

pub use transport::{TransportError, TransportKind};

/// Where this crate learns the time. Handed in, so that tests can stand still and move it by hand.
pub type Now = Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>;

/// A key that must never be printed.
///
/// There is no `Display`, no `Serialize`, and `Debug` shows nothing, so it reaches a log only by calling [`Secret::expose`].
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Wrap a secret.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}
