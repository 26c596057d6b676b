//! `beacon`: orders and decides what crosses shards.

use atoll_fabric::Fault;
use atoll_types::{Anchor, BeaconBlock, Intent, ShardId};
use serde::{Deserialize, Serialize};

pub use crate::client::BeaconClient;

/// What a shard has for the beacon. Intents are announced again until a block names them.
#[derive(Clone, Debug)]
pub struct Announce {
    pub from: ShardId,
    pub intents: Vec<Intent>,
    pub anchor: Option<Anchor>,
}

/// Beacon blocks in order.
#[derive(Clone, Debug)]
pub struct Blocks {
    /// Number of the newest block that the caller has.
    pub after: u64,
    pub max: u32,
    /// Answer with nothing after this time, in milliseconds.
    pub wait_ms: u64,
}

#[derive(Clone, Debug)]
pub struct BlocksReply {
    pub blocks: Vec<BeaconBlock>,
}

/// Where the chain stands.
#[derive(Clone, Debug)]
pub struct Head;

#[derive(Clone, Debug)]
pub struct HeadReply {
    pub block: BeaconBlock,
    pub intents_waiting: u64,
    pub groups_open: u64,
}

/// Every error of the beacon service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum BeaconError {
    #[error("shard {shard} is not part of this cluster of {shards} shards")]
    NoSuchShard { shard: ShardId, shards: u16 },
    #[error("{limit} intents are waiting; announce again later")]
    TooManyIntents { limit: u64 },
    #[error("intent is malformed: {what}")]
    BadIntent { what: String },
    #[error("storage: {reason}")]
    Storage { reason: String },
    #[error(transparent)]
    Fault(#[from] Fault),
}
