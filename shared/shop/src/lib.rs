//! Operations that more than one function needs. Each is one paragraph of reading, one decision and one commit.
//!
//! It knows the store, WeChat Pay and the rules, but no HTTP.

pub mod address;
pub mod adjust;
pub mod after_sale;
pub mod assignments;
pub mod batch;
pub mod bills;
pub mod close;
pub mod coins;
pub mod coupons;
pub mod deliver;
pub mod delivery;
pub mod events;
pub mod identity;
pub mod linking;
pub mod lottery;
pub mod mall;
pub mod members;
pub mod messages;
pub mod offers;
pub mod owed;
pub mod parcels;
pub mod pictures;
pub mod place;
pub mod prepaid;
pub mod prepaid_views;
pub mod pricing;
pub mod reconcile;
pub mod refunds;
pub mod reminders;
pub mod reviews;
pub mod settle;
pub mod shipping;
pub mod texts;
pub mod together;
pub mod views;
