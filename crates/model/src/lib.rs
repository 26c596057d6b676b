//! A model checker for the cross-shard commit protocol: every interleaving of a small world, within
//! bounds, on the very state machines that run in production.
//!
//! [`CommitModel`] is a transition system for [`stateright`]: a state is a [`World`] of shards, a
//! beacon and messages, a step is an [`Action`]. `docs/model.md` has bounds, reductions, properties
//! and figures.

mod beacon;
mod canonical;
pub mod catalogue;
mod finish;
mod ledger;
mod message;
mod model;
pub mod report;
mod run;
mod scenario;
mod serial;
mod shard;
pub mod situations;
mod toy;
pub mod walk;
mod world;

pub use canonical::fingerprint;
pub use ledger::{Broken, DATA_BEFORE_ORDER, SETTLED_READS};
pub use model::{CommitModel, Planted};
pub use scenario::{
    BALANCE, Bounds, Builder, Scenario, chain, credits, fenced, flight, hot_key, late, late_fenced,
    travelling, unsure,
};
pub use toy::{Cell, Program};
pub use world::{Action, World};
