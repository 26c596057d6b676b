//! Puts a cluster together: the one place that reads configuration, chooses where each actor
//! stands, opens ports and files, and knows the time. All of that it asks of a [`world::World`].

mod access;
pub mod backup;
pub mod bench;
pub mod certs;
pub mod check;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod genesis;
mod listen;
mod place;
mod ready;
pub mod replay;
pub mod secure;
mod slot;
mod storage;
pub mod telemetry;
pub mod up;
mod visitors;
pub mod world;
