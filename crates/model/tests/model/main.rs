//! The protocol's state machines in every interleaving of small worlds.

mod planted;
mod small;
