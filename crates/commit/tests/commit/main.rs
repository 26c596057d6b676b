//! The protocol's state machines under a simulated, hostile network, and each of their rules alone.

mod executor;
mod groups;
mod ledger;
mod owner;
mod planner;
mod serial;
mod shard;
mod simulation;
mod toy;
mod world;
