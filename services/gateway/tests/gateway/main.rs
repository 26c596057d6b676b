//! The public API as a client sees it: a tonic server on a port of this machine, and shards and a
//! beacon that are scripted.

mod call;
mod fakes;
mod proof;
mod query;
mod receipts;
mod rpc;
mod setup;
mod submit;
mod transport;
