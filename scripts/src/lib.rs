//! One command for people: the local cloud, the self-hosted server, and what an operator needs around the database.

mod audit;
pub mod bench;
pub mod cli;
mod database;
mod dev;
mod init;
pub mod local;
mod migrate;
mod package;
mod reconcile;
mod rotate_keys;
pub mod selfcheck;
mod serve;
mod staff_token;
mod types;
mod verify_draw;
