//! A whole cluster in one process without clocks, threads, sockets or disks: the protocol of
//! [`atoll_commit`] with the real EVM of [`atoll_evm`], on a simulated network that can lose, repeat,
//! delay and reorder, with shards and a beacon that can crash and restart.
//!
//! A [`World`] is a function of its [`Config`], the seed in it, and of what is submitted when. It
//! reports a broken property by its name; what the protocol's serial order makes of the same
//! transactions on one machine is for its user to compare: everything that was logged is there.

mod build;
mod groups;
mod ledger;
mod network;
mod pool;
mod predict;
mod rng;
mod shard;
mod values;
mod world;

pub use ledger::{Input, Ledger};
pub use network::{Conditions, SLOW_TICKS};
pub use rng::Rng;
pub use shard::Shard;
pub use values::Values;
pub use world::{Account, Config, World};
