//! Tests: published vectors, and the client against a scripted server on loopback.

mod sms;
mod vectors;
