//! Draws for the right to buy: activities, rounds, tickets, the frozen lists, and how rights come and go.
//!
//! A round's `status` guards every step of its draw, so that two draws at once and a draw that was killed half-way lead to the
//! same result as one that ran through.

mod activities;
mod rights;
mod rounds;
mod tickets;

pub use activities::{Activity, ActivityStatus, BeaconChoice, Window};
pub use rounds::{Drawn, Round, RoundStatus, RoundTotals};
pub(crate) use tickets::unpack;
pub use tickets::{CHUNK, ListKind, Ticket};
