//! Integration tests: a real database, real HTTP, a strict simulated WeChat. Every test that writes ends with the audit.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a helper of a test that panics has failed as it should"
)]

mod addresses;
mod audit;
mod audit_coins;
mod audit_coupons;
mod audit_draws;
mod audit_events;
mod audit_identity;
mod audit_messages;
mod audit_refunds;
mod audit_seals;
mod batch;
mod bench_small;
mod bills;
mod bills_late;
mod cart;
mod clients;
mod coins;
mod coupons;
mod crash;
mod crash_coins;
mod crash_coupons;
mod crash_refunds;
mod crm;
mod delivery;
mod event_host;
mod events;
mod examples;
mod exceptions;
mod freight;
mod freight_charge;
mod histories;
mod identity;
mod identity_card;
mod input;
mod input_shapes;
mod interleave;
mod linking;
mod lottery;
mod lottery_faults;
mod mall;
mod matrix;
mod messages;
mod migrate;
mod notify;
mod notify_faults;
mod orders_more;
mod outage;
mod owed;
mod parcels;
mod parcels_faults;
mod peers;
mod prepaid;
mod price;
mod products;
mod purchase;
mod race;
mod readme;
mod refunds;
mod refunds_money;
mod refunds_races;
mod refunds_wechat;
mod remembered;
mod replies;
mod reviews;
mod right;
mod seal;
mod settle;
mod shipping;
mod shipping_report;
mod signing;
mod staff;
mod states;
mod stock;
mod subscriptions;
mod template_values;
mod tender;
mod tidy;
mod timers;
mod token;
mod upstreams;
mod verify;
