//! What turns a handler into a cloud function: hosts, caller identity, input, envelope, limits, configuration, logs.
//!
//! A function crate names its input, its callers and its handler as a [`Function`] and hands it to [`run`].
//! Only this crate reads the environment and the clock, and only this crate names the web framework.
//! It knows nothing about any one function.

mod app;
mod caller;
mod clock;
pub mod config;
mod event;
mod function;
pub mod host;
mod input;
mod invoke;
pub mod logs;
mod session;
mod signature;
mod token_cache;

#[cfg(test)]
mod tests;

pub use app::{App, AppError, Context};
pub use caller::{Caller, Proof};
pub use clock::Clock;
pub use config::Config;
pub use function::{Accept, Function, Need, RawReply, RawRequest, Reply};
pub use host::{http_response, read_body, router, run};
pub use input::{BODY_BYTES_MAX, RequestKey};
pub use invoke::{Answer, Invocation, invoke, status, trace_id_of};
pub use signature::sign;
pub use token_cache::StoreTokens;

/// Whether a byte may stand in a request id, trace id or nonce.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

/// Choose the process's TLS implementation once. Where one was chosen before, that one stays.
pub(crate) fn install_tls_provider() {
    rustls::crypto::ring::default_provider().install_default().ok();
}
