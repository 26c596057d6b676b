//! `router`: a shard's side of everything that crosses shards.

use atoll_fabric::{Fault, Traffic};
use atoll_types::{
    B256, Bytes, Credit, Flight, GroupId, LateAsk, LateLease, Lease, PartMessage, ShardId,
    SharedTx, StateKey, StateValue, Tx, Want,
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
    pub wants: Vec<Want>,
    pub flights: Vec<Flight>,
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

/// Reads from another shard: values and code for prediction, late leases, and what was missed of
/// open groups.
#[derive(Clone, Debug, Default)]
pub struct Fetch {
    pub from: ShardId,
    pub keys: Vec<StateKey>,
    pub codes: Vec<B256>,
    pub leases: Vec<GroupId>,
    pub results: Vec<GroupId>,
    /// Keys that groups which the asking shard runs need beyond their leases.
    pub late: Vec<LateAsk>,
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
    /// In the order of the requests.
    pub late: Vec<LateLease>,
}

/// What the router has counted since it was started.
#[derive(Clone, Copy, Debug)]
pub struct RouterStats;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouterStatsReply {
    pub deliver: Traffic,
    pub fetch: Traffic,
    pub announce: Traffic,
    pub blocks: Traffic,
    /// Transactions that did not fit their shard's local block.
    pub escalated: u64,
    /// Of which were found to be payments to another shard.
    pub credits: u64,
    /// Intents announced, repeated ones included.
    pub intents: u64,
    /// Groups to whose executors values in flight were sent.
    pub flights: u64,
    /// Requests for late leases made.
    pub late_asks: u64,
    /// Keys refused to other executors that asked for late leases.
    pub late_refused: u64,
    /// Messages, and parts of messages, that broke a rule; by rule, ascending.
    pub refused: Vec<(String, u64)>,
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

impl RouterError {
    /// A name of the rule that a message has broken, for counting; `None` if it has broken none.
    pub const fn rule(&self) -> Option<&'static str> {
        match self {
            Self::NotForThisShard { .. } => Some("not_for_this_shard"),
            Self::Refused(refusal) => Some(refusal.rule()),
            Self::State { .. } | Self::Fault(_) => None,
        }
    }
}
