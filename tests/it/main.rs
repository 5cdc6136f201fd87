//! Integration tests: a real database, real HTTP, a strict simulated WeChat. Every test that writes ends with the audit.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a helper of a test that panics has failed as it should"
)]

mod audit;
mod audit_coins;
mod audit_draws;
mod audit_identity;
mod audit_seals;
mod bench_small;
mod clients;
mod coins;
mod crash;
mod crash_coins;
mod examples;
mod identity;
mod identity_card;
mod input;
mod interleave;
mod linking;
mod lottery;
mod lottery_faults;
mod mall;
mod messages;
mod migrate;
mod outage;
mod prepaid;
mod purchase;
mod race;
mod readme;
mod right;
mod seal;
mod settle;
mod tender;
mod tidy;
mod timers;
mod verify;
