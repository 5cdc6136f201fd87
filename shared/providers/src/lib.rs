//! Upstreams that are not WeChat, one module each. Today: text messages and identity checks by Tencent Cloud, drand's
//! public randomness, and parcels by Kuaidi100.
//!
//! Owns: request signing, the wire, what each upstream error means for us. Must not know: any database, the environment, the
//! clock (it is handed in as [`Now`]), how often a person may ask, or what a verification code opens.
//! Of this project it takes `domain`, so that `?` works in its handlers, and the HTTP client of `upstream`.

#![warn(missing_docs)]

pub mod drand;
pub mod faceid;
pub mod kuaidi100;
pub mod sms;
pub mod tc3;
mod tencent;

#[cfg(test)]
mod tests;

pub use upstream::{Now, Secret, TransportError, TransportKind};
