//! One file a service: its requests and its error enum. Conversions to protobuf stand beside them in
//! `convert`, clients in `client`.

pub mod beacon;
mod client;
mod code;
pub mod convert;
pub mod executor;
pub mod mempool;
pub mod router;
pub mod state;

pub use client::{BeaconClient, ExecutorClient, MempoolClient, RouterClient, StateClient};
