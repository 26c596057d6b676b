//! `gateway`: the public API. It takes transactions to their senders' shards, tells clients what
//! became of them, and reads the state of all shards as one.
//!
//! It keeps nothing that cannot be lost. Any number of gateways may stand beside each other.

mod backlog;
mod call;
mod convert;
mod feed;
mod ledger;
mod limits;
mod links;
mod outcome;
mod pool;
mod prove;
mod query;
mod receipts;
mod recent;
mod replay;
mod rpc;
mod singles;
mod stats;
mod submit;

pub use ledger::{Config, Ledger};
pub use limits::{Limits, RpcLimits};
pub use links::{BeaconLinks, ShardLinks};
pub use pool::{Pool, PoolError, RecoveryPool};
pub use rpc::{Clock, Rpc, RpcConfig, RpcLinks};
