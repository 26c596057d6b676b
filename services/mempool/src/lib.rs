//! `mempool`: pending transactions of a shard's senders, until the executor has run them.
//!
//! [`Pool`] is the logic, without clock, thread or socket; [`MempoolService`] the actor around it.

mod actor;
mod admit;
mod config;
mod core;
mod follow;
mod gas;
pub mod grpc;
mod metrics;
mod price;
mod release;
mod sender;

pub use crate::actor::{Clock, MempoolService};
pub use crate::config::{Config, Limits, MAX_TX_GAS};
pub use crate::core::Pool;
pub use crate::gas::intrinsic_gas;
pub use crate::metrics::{Counter, Metrics};
