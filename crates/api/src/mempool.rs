//! `mempool`: pending transactions of a shard's senders.

use atoll_fabric::Fault;
use atoll_types::{Address, B256, ShardId, Tx, U256};
use serde::{Deserialize, Serialize};

pub use crate::client::MempoolClient;

/// Offers transactions whose senders are known and belong to this shard.
#[derive(Clone, Debug)]
pub struct Submit {
    pub txs: Vec<Tx>,
}

#[derive(Clone, Debug)]
pub struct SubmitReply {
    /// For each transaction in order: `None` if it was taken, else why not.
    pub refused: Vec<Option<Refused>>,
}

/// Why a transaction was not taken. The wording is what Ethereum libraries look for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Refused {
    #[error("already known")]
    AlreadyKnown,
    #[error("nonce too low: next nonce {next}, tx nonce {found}")]
    NonceTooLow { next: u64, found: u64 },
    #[error("nonce too far ahead: next nonce {next}, tx nonce {found}, at most {limit} ahead")]
    NonceTooFar { next: u64, found: u64, limit: u64 },
    #[error(
        "insufficient funds for gas * price + value: have {have}, want {want} with the sender's pending transactions"
    )]
    InsufficientFunds { have: U256, want: U256 },
    #[error("transaction underpriced: max fee per gas {found}, minimum {minimum}")]
    Underpriced { found: u128, minimum: u128 },
    #[error("replacement transaction underpriced: fee {found}, needed {needed}")]
    ReplacementUnderpriced { found: u128, needed: u128 },
    #[error("a transaction with this nonce is being executed and cannot be replaced")]
    UnderWay,
    #[error("mempool full: {limit} {unit}")]
    MempoolFull { limit: u64, unit: String },
    #[error("too many pending transactions of this sender: limit {limit}")]
    SenderFull { limit: u64 },
    #[error("intrinsic gas too low: have {found}, want {needed}")]
    IntrinsicGas { found: u64, needed: u64 },
    #[error("exceeds block gas limit: {found}, limit {limit}")]
    GasLimit { found: u64, limit: u64 },
    #[error("sender belongs to shard {owner}, this is shard {here}")]
    WrongShard { owner: ShardId, here: ShardId },
    #[error("the volume of shard {shard}'s data is full; try again when an operator has made room")]
    VolumeFull { shard: ShardId },
}

/// Takes transactions that can run now, in nonce order for each sender, best price first. They stay
/// in the pool, marked, until they are reported on.
#[derive(Clone, Debug)]
pub struct Take {
    /// Chosen by the executor when it starts; a new one frees what an older one had taken.
    pub session: u64,
    pub max_txs: u32,
    /// Sum of gas limits.
    pub max_gas: u64,
    /// Answer with nothing after this time, in milliseconds.
    pub wait_ms: u64,
}

#[derive(Clone, Debug)]
pub struct TakeReply {
    pub txs: Vec<Tx>,
}

/// Says what became of transactions taken.
#[derive(Clone, Debug)]
pub struct Report {
    pub ends: Vec<TxEnd>,
}

#[derive(Clone, Debug)]
pub struct TxEnd {
    pub tx: B256,
    pub end: End,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// In a block: the sender's next nonce follows.
    Included,
    /// On its way across shards: stays, and the sender's later nonces follow it.
    Escalated,
    /// Can be taken again.
    Returned,
    /// Can never run.
    Dropped { reason: String },
}

/// Asks what the pool has of a sender, and for a transaction.
#[derive(Clone, Debug)]
pub struct Pending {
    pub sender: Address,
    pub tx: B256,
}

#[derive(Clone, Debug)]
pub struct PendingReply {
    /// The first nonce that nothing of the sender has that can run; `None` if the pool does not know
    /// the sender.
    pub next: Option<u64>,
    pub tx: Option<Tx>,
}

/// Asks what the pool holds.
#[derive(Clone, Debug)]
pub struct Content {
    /// Of this sender only; `None` for all.
    pub sender: Option<Address>,
    pub max_txs: u32,
}

impl Content {
    /// Most transactions of one answer, and about their most bytes.
    pub const MAX_TXS: u32 = 4_096;
    pub const MAX_BYTES: usize = 4 << 20;
}

/// Each sender's in the order of nonces.
#[derive(Clone, Debug, Default)]
pub struct ContentReply {
    /// Can run now, or as soon as the sender's earlier ones have, or are under way.
    pub pending: Vec<Tx>,
    /// Wait for an earlier nonce that is not there, or for funds.
    pub queued: Vec<Tx>,
    /// There are more.
    pub more: bool,
}

/// How full the pool is.
#[derive(Clone, Debug)]
pub struct Status;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatusReply {
    /// Can run now or as soon as the sender's earlier ones have.
    pub pending: u64,
    /// Wait for an earlier nonce that is not there.
    pub queued: u64,
    /// Taken and not reported on, or on their way across shards.
    pub under_way: u64,
    /// Encoded size of them all.
    pub size_bytes: u64,
}

/// Every error of the mempool service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum MempoolError {
    #[error("session {found} has been replaced by session {newest}")]
    OldSession { found: u64, newest: u64 },
    #[error("cannot read the senders' accounts: {reason}")]
    State { reason: String },
    #[error(transparent)]
    Fault(#[from] Fault),
}
