//! `router`: a shard's side of everything that crosses shards.

use atoll_fabric::Fault;
use atoll_types::{
    B256, Bytes, Credit, GroupId, Lease, PartMessage, ShardId, SharedTx, StateKey, StateValue, Tx,
};
use serde::{Deserialize, Serialize};

pub use crate::client::RouterClient;
use crate::state::{Refusal, Settlement};

/// Hands over transactions of this shard's senders that cannot run in a local block.
#[derive(Clone, Debug)]
pub struct Escalate {
    pub txs: Vec<Tx>,
}

/// Everything that one shard has for another at one time. Answered when what has to be durable is.
#[derive(Clone, Debug)]
pub struct Deliver {
    pub chain_id: u64,
    /// Placement epoch.
    pub epoch: u64,
    pub from: ShardId,
    pub to: ShardId,
    pub shared: Vec<SharedTx>,
    pub leases: Vec<Lease>,
    pub parts: Vec<PartMessage>,
    pub credits: Vec<Credit>,
    pub settlements: Vec<Settlement>,
}

#[derive(Clone, Debug, Default)]
pub struct DeliverReply {
    /// For each shared transaction in order: `None`, or the rule that it breaks.
    pub shared_refused: Vec<Option<Refusal>>,
    /// For each part in order.
    pub parts_refused: Vec<Option<Refusal>>,
    /// Credits of the sending shard are held up to this number; 0 if none were sent.
    pub credits_received: u64,
}

/// Reads from another shard: values and code for prediction, and what was missed of open groups.
#[derive(Clone, Debug)]
pub struct Fetch {
    pub from: ShardId,
    pub keys: Vec<StateKey>,
    pub codes: Vec<B256>,
    pub leases: Vec<GroupId>,
    pub results: Vec<GroupId>,
}

#[derive(Clone, Debug, Default)]
pub struct FetchReply {
    /// In the order of the keys asked for.
    pub values: Vec<StateValue>,
    /// In the order of the hashes asked for.
    pub codes: Vec<Option<Bytes>>,
    /// Those that there are.
    pub leases: Vec<Lease>,
    /// Those that there are, of the asking shard.
    pub parts: Vec<PartMessage>,
}

/// Every error of the router service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum RouterError {
    #[error("message is for shard {found}, this is shard {here}")]
    NotForThisShard { found: ShardId, here: ShardId },
    #[error("{0}")]
    Refused(#[from] Refusal),
    #[error("cannot reach the shard's state: {reason}")]
    State { reason: String },
    #[error(transparent)]
    Fault(#[from] Fault),
}
