//! `beacon`: orders and decides what crosses shards. One validator, durable.

mod acks;
mod actor;
mod core;
pub mod grpc;
mod metrics;
mod pace;
mod snapshot;

pub use self::actor::{BeaconService, Cadence, Clock, Randomness};
pub use self::core::{Core, Rest, genesis_of, is_past};
