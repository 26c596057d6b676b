//! `beacon`: orders and decides what crosses shards.

use std::sync::Arc;

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
    /// Acknowledgements of the anchor that are left out because they came with earlier ones.
    pub earlier_acks: u32,
}

#[derive(Clone, Debug)]
pub struct AnnounceReply {
    /// The acknowledgements left out are not known here, so the anchor was not taken: it has to be
    /// sent whole.
    pub whole: bool,
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
    pub blocks: Vec<Arc<BeaconBlock>>,
}

/// Where the chain stands.
#[derive(Clone, Debug)]
pub struct Head;

#[derive(Clone, Debug)]
pub struct HeadReply {
    pub block: Arc<BeaconBlock>,
    pub intents_waiting: u64,
    pub groups_open: u64,
}

/// What the beacon has counted since it was started.
#[derive(Clone, Copy, Debug)]
pub struct BeaconStats;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BeaconStatsReply {
    /// Blocks made.
    pub blocks: u64,
    /// Intents that were new.
    pub intents: u64,
    /// Groups planned, and the transactions in them.
    pub groups: u64,
    pub txs: u64,
    pub commits: u64,
    pub aborts: u64,
    /// Processor time of the thread that the beacon stands on and of writing its log.
    pub cpu_ns: u64,
    /// Announcements that were refused; by reason, ascending.
    pub refused: Vec<(String, u64)>,
}

/// Takes a snapshot at a block to come, for a backup. Answered when it is durable. To be repeated until
/// it is answered.
#[derive(Clone, Debug)]
pub struct TakeBeaconSnapshot {
    pub block: u64,
}

/// Reads a piece of the snapshot that was taken last for a backup.
#[derive(Clone, Debug)]
pub struct ReadBeaconSnapshot {
    pub number: u64,
    pub offset: u64,
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
    #[error(
        "pruned history unavailable: beacon block {asked} is not kept any more, the oldest one that is \
         kept is {oldest}; a shard that needs an older one has to be restored from a backup"
    )]
    Pruned { asked: u64, oldest: u64 },
    #[error("storage: {reason}")]
    Storage { reason: String },
    #[error("no snapshot at block {block}: {reason}; ask for a later one")]
    NoSnapshot { block: u64, reason: String },
    #[error(
        "no snapshot at block {block}: another one is being written; ask again when it is done"
    )]
    SnapshotBusy { block: u64 },
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl BeaconError {
    /// A name of the reason, for counting.
    pub const fn rule(&self) -> &'static str {
        match self {
            Self::NoSuchShard { .. } => "no_such_shard",
            Self::TooManyIntents { .. } => "too_many_intents",
            Self::BadIntent { .. } => "bad_intent",
            Self::Pruned { .. } => "pruned",
            Self::Storage { .. } => "storage",
            Self::NoSnapshot { .. } => "no_snapshot",
            Self::SnapshotBusy { .. } => "snapshot_busy",
            Self::Fault(_) => "fault",
        }
    }
}
