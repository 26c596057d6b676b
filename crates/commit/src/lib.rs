//! The cross-shard commit protocol as state machines: no clock, no I/O, no randomness.
//!
//! [`Owner`] is a shard's side: fences, leases, parts, credits. [`Planner`] is the beacon's: order,
//! plan and decisions. `docs/protocol.md` has the rules that they keep.

mod grouping;
mod owner;
mod planner;

pub use owner::{CutEffects, EpochWrite, Owner, OwnerConfig, OwnerError};
pub use planner::{BeaconRecord, Planner, PlannerConfig};
