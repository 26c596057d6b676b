//! What a shard has run, round by round, for whoever makes one chain of all shards.

use atoll_types::{Receipt, Tx};

/// Asks for what the shard's senders ran in one round: transactions of groups in the order of the
/// plan, then those of the shard's blocks. All of it only once the round is decided.
#[derive(Clone, Debug)]
pub struct Ran {
    pub round: u64,
    /// How many of them the caller has.
    pub skip: u32,
}

#[derive(Clone, Debug)]
pub struct RanReply {
    /// As many as fit a message.
    pub txs: Vec<RanTx>,
    pub more: bool,
}

/// A transaction that was run. The receipt of a payment to another shard that has not ended is as if
/// it were made.
#[derive(Clone, Debug)]
pub struct RanTx {
    pub tx: Tx,
    pub receipt: Receipt,
}

/// Asks in which rounds of a range the shard's senders ran anything.
#[derive(Clone, Debug)]
pub struct RoundsRun {
    pub first: u64,
    /// Included; at most [`RoundsRun::MAX`] rounds.
    pub last: u64,
}

impl RoundsRun {
    /// Most rounds of one request.
    pub const MAX: u64 = 16_384;
}

#[derive(Clone, Debug, Default)]
pub struct RoundsRunReply {
    /// Ascending.
    pub rounds: Vec<u64>,
}

/// Asks how far the shard has come, once it has passed a cut.
#[derive(Clone, Debug)]
pub struct Progress {
    pub min_cut: u64,
}

#[derive(Clone, Debug)]
pub struct ProgressReply {
    /// Newest cut passed.
    pub cut: u64,
    /// Every payment to another shard that was debited in a round before this one has ended.
    pub ended_before: u64,
    /// A cut at which what those did can be read.
    pub ended_at: u64,
}
