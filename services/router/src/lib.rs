//! `router`: one shard's side of everything that crosses shards: prediction, sharing, leases,
//! returns, credits. It keeps nothing that it could not learn again from the shard's state.

mod actor;
mod announce;
mod assemble;
mod escalate;
mod follow;
pub mod grpc;
mod hints;
mod jobs;
mod metrics;
mod outbound;
mod refresh;
mod shared;

pub use self::actor::{RouterConfig, RouterService};
