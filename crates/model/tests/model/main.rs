//! The protocol's state machines in every interleaving of small worlds.

#[cfg(feature = "planted")]
mod core;
mod planted;
mod small;
