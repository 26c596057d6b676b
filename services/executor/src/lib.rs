//! `executor`: runs the transactions of one shard.

mod actor;
mod block;
mod budget;
mod cache;
mod follow;
mod group;
pub mod grpc;
mod hashes;
mod metrics;
mod predict;
mod shared;
mod turns;

pub use self::actor::{ExecutorConfig, ExecutorService};
