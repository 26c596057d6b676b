//! The cross-shard commit protocol as state machines: no clock, no I/O, no randomness.
//!
//! [`Owner`] is a shard's side: fences, leases, parts, credits. [`Executor`] gathers what the groups
//! need that a shard runs. [`Planner`] is the beacon's side: order, plan and decisions.
//! `docs/protocol.md` has the rules that they keep.

mod executor;
mod grouping;
mod owner;
mod planner;
mod planted;
mod touched;
mod turns;

pub use executor::{Executor, ExecutorEffect, LateKeys, Ready};
pub use owner::{CutEffects, EpochWrite, Late, NotOne, Owner, OwnerConfig, OwnerError};
pub use planner::{BeaconRecord, Planner, PlannerConfig};
#[cfg(feature = "planted")]
pub use planted::{Planted, plant_everywhere};
pub use touched::Touched;
pub use turns::Turns;
