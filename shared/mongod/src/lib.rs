//! A real MongoDB for the local cloud and for tests: finds or provisions a `mongod`, and runs it as a
//! single-node replica set (transactions need one) that never outlives the process that started it.
//!
//! Knows nothing about jinlu's data; it does not even link the MongoDB driver (see [`wire`]).
//! Everything here blocks; async callers use `spawn_blocking`.

mod provision;
mod server;
mod wire;

pub use provision::{default_cache_dir, find_or_provision};
pub use server::{CACHE_MIB, Mongod, Options, data_dir_is_in_use};
