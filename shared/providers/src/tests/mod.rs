//! Tests: published vectors, and the client against a scripted server on loopback.

mod drand;
mod faceid;
mod kuaidi100;
mod sms;
mod vectors;
