//! The shop's vocabulary and its pure rules.
//!
//! Nothing here does IO, reads a clock or draws a random number: time and randomness come in as
//! arguments, so every rule can be tested as a table or a property.

pub mod code;
pub mod coins;
pub mod coupon;
pub mod day;
pub mod draw;
pub mod failure;
pub mod freight;
pub mod id_card;
pub mod ids;
pub mod machine;
pub mod money;
pub mod order;
pub mod parcel;
pub mod points;
pub mod prepaid;
pub mod pricing;
pub mod quote;
pub mod refund;
pub mod rules;
pub mod search;
pub mod text;
pub mod vault;

pub use code::Code;
pub use day::BusinessDay;
pub use failure::{BoxError, Failure, Refusal};
pub use ids::{CouponId, CustomerId, OpenId, OrderId, ProductId, SkuId, StaffId, TemplateId, UserCouponId, UserId};
pub use money::{Fen, Points, Yuan};
pub use order::{Logistics, OrderStatus, OrderType, PaymentMethod};
pub use parcel::ParcelState;
pub use rules::{Consent, Event, ShopRules, Tells};
