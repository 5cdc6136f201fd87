//! Tests: published vectors, and the client against a scripted server on loopback.

mod drand;
mod faceid;
mod sms;
mod vectors;
