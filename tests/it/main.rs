//! Integration tests: a real database, real HTTP, a strict simulated WeChat. Every test that writes ends with the audit.

mod clients;
mod crash;
mod interleave;
mod outage;
mod purchase;
mod race;
mod settle;
