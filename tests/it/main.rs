//! Integration tests: a real database, real HTTP, a strict simulated WeChat. Every test that writes ends with the audit.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a helper of a test that panics has failed as it should"
)]

mod audit;
mod clients;
mod crash;
mod identity;
mod input;
mod interleave;
mod outage;
mod purchase;
mod race;
mod readme;
mod settle;
mod tender;
mod tidy;
