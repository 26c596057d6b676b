//! What a shard has run, round by round, for whoever makes one chain of all shards.

use alloy_primitives::Log;
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
    /// Only rounds whose logs may name one of each of these; then at most [`RoundsRun::MAX_NAMED`]
    /// rounds.
    pub named: Vec<LogNames>,
}

impl RoundsRun {
    /// Most rounds of one request.
    pub const MAX: u64 = 16_384;
    /// The same if each of them has to be looked at.
    pub const MAX_NAMED: u64 = 2_048;
}

/// Addresses or topics at one place of a log, any of which will do: a [`log_name`] of each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogNames {
    pub any: Vec<u32>,
}

/// A short hash of what a log names: its address at place 0, its topics after it. FNV-1a, folded: two
/// that are alike cost a look in vain.
pub fn log_name(place: u8, value: &[u8]) -> u32 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let hash = [place].iter().chain(value).fold(0xcbf2_9ce4_8422_2325, step);
    (hash ^ (hash >> 32)) as u32
}

/// All that a log names.
pub fn log_names(log: &Log) -> impl Iterator<Item = u32> + '_ {
    let topics =
        log.topics().iter().zip(1..).map(|(topic, place)| log_name(place, topic.as_slice()));
    topics.chain([log_name(0, log.address.as_slice())])
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
