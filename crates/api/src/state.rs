//! `state`: the one writer of a shard. It holds committed state, the shard's chain and all protocol
//! state, and nothing that it has answered for is lost.

use std::sync::Arc;

use atoll_fabric::Fault;
use atoll_types::{
    Address, Anchor, B256, BeaconBlock, BlockEnv, Bytes, Credit, Finality, GroupId, GroupResult,
    LateAsk, LateLease, Lease, LocalBlock, PartMessage, PlannedGroup, Receipt, ShardId, SharedTx,
    StateKey, StateRoot, StateValue, TxRef, U256, Write,
};
pub use atoll_types::{GroupToRun, Refusal};
use serde::{Deserialize, Serialize};

mod rounds;

pub use self::rounds::{
    LogNames, Progress, ProgressReply, Ran, RanReply, RanTx, RoundsRun, RoundsRunReply, log_name,
    log_names,
};
pub use crate::client::StateClient;

/// Reads values, all at one instant of the shard's history.
#[derive(Clone, Debug)]
pub struct Read {
    pub keys: Vec<StateKey>,
    /// Hashes of code to be returned with the values.
    pub codes: Vec<B256>,
    /// The cut to read at; `None` for the newest state.
    pub at: Option<u64>,
    /// Answer only once this cut has been passed (0: at once).
    pub min_cut: u64,
}

#[derive(Clone, Debug)]
pub struct ReadReply {
    /// In the order of the keys asked for.
    pub values: Vec<StateValue>,
    /// In the order of the hashes asked for; `None` where this shard does not have the code.
    pub codes: Vec<Option<Bytes>>,
    /// Newest cut passed.
    pub cut: u64,
    /// Number of the newest block.
    pub head: u64,
}

/// Asks for proofs of what an account held at the newest published root.
#[derive(Clone, Debug)]
pub struct Prove {
    pub address: Address,
    /// Of its present incarnation.
    pub slots: Vec<U256>,
    /// The root must be of this cut or a later one (0: any).
    pub min_cut: u64,
}

impl Prove {
    /// Most slots of one request.
    pub const MAX_SLOTS: usize = 32;
}

#[derive(Clone, Debug)]
pub struct ProveReply {
    /// The shard's root, and the settled cut that it is of.
    pub root: StateRoot,
    /// Number of the beacon block that has taken it in.
    pub block: u64,
    /// Nonce and balance, then code, then the slots as they were asked for.
    pub cells: Vec<ProvenCell>,
}

/// A cell and a proof that it held this: an encoded [`atoll_proof::Proof`].
#[derive(Clone, Debug)]
pub struct ProvenCell {
    pub cell: Write,
    pub proof: Bytes,
}

/// Appends a block. Answered when it is durable.
#[derive(Clone, Debug)]
pub struct Append {
    pub block: LocalBlock,
    /// Keys that its transactions have used and not written.
    pub reads: Vec<StateKey>,
}

/// What the next block is built on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tip {
    pub head: u64,
    pub cut: u64,
    /// Digest of the shard's chain.
    pub digest: B256,
}

/// Handles a beacon block: the shard's cut of that number. Answered when it is durable. A block
/// that was handled before answers with what is still open of it.
#[derive(Clone, Debug)]
pub struct Cut {
    pub block: BeaconBlock,
}

/// What the router has to carry out after a cut.
#[derive(Clone, Debug, Default)]
pub struct CutReply {
    /// Newest cut passed.
    pub cut: u64,
    /// Groups that this shard executes, with the bodies and key sets of their transactions.
    pub run: Vec<GroupToRun>,
    /// Leases to send to other shards' executors and to this one's.
    pub leases: Vec<LeaseOut>,
    /// Own transactions that came back and have to be predicted again.
    pub returned: Vec<SharedTx>,
    /// What became of credits that others sent here.
    pub settlements: Vec<Settlement>,
}

#[derive(Clone, Debug)]
pub struct LeaseOut {
    /// The executor's shard.
    pub to: ShardId,
    pub lease: Lease,
}

/// What became of the credits that `from` sent to `by`, up to a sequence number.
pub use atoll_types::Settlement;

/// Everything of the protocol that is open: what a router that has lost all needs to go on.
#[derive(Clone, Debug, Default)]
pub struct Outbox;

#[derive(Clone, Debug, Default)]
pub struct OutboxReply {
    /// As after a cut: groups to run that have no result yet, every lease of an open group, returned
    /// transactions, newest settlements.
    pub open: CutReply,
    /// Own transactions that are shared and in no plan yet.
    pub unplanned: Vec<SharedTx>,
    /// Results of open groups that this shard executed.
    pub results: Vec<PartMessage>,
    /// Open groups whose part this shard has not got yet, and their executor.
    pub awaited: Vec<PlannedGroup>,
    /// Credits that no settlement has confirmed.
    pub credits: Vec<Credit>,
}

/// Keeps transactions that are about to be ordered. Answered when they are durable.
#[derive(Clone, Debug)]
pub struct Share {
    pub txs: Vec<SharedTx>,
}

#[derive(Clone, Debug)]
pub struct ShareReply {
    /// For each transaction in order: `None`, or the rule that it breaks.
    pub refused: Vec<Option<Refusal>>,
}

/// Gives up an own transaction that came back and can no longer run.
#[derive(Clone, Debug)]
pub struct Withdraw {
    pub tx: TxRef,
    /// Told to the sender.
    pub reason: String,
}

/// Tells those who watch that own transactions have ended without a receipt: they left the pool. It
/// is not durable; one that turns out to have a receipt is passed over.
#[derive(Clone, Debug)]
pub struct TellDropped {
    pub txs: Vec<DroppedTx>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DroppedTx {
    pub tx: B256,
    /// Told to the sender.
    pub reason: String,
}

/// Keeps that transactions make the executor panic, so that they are not run again. Answered when it is
/// durable.
#[derive(Clone, Debug)]
pub struct Quarantine {
    pub txs: Vec<B256>,
}

/// Keeps results of groups that this shard executed, and its own part of each. Answered when they
/// are durable; of a group that has a result already, that one is answered.
#[derive(Clone, Debug)]
pub struct StoreResults {
    pub results: Vec<GroupResult>,
}

#[derive(Clone, Debug)]
pub struct StoreResultsReply {
    /// Every part of the results that are kept.
    pub parts: Vec<PartMessage>,
    /// For each result in order: `None`, or the rule that it breaks.
    pub refused: Vec<Option<Refusal>>,
}

/// Keeps parts of results. Answered when they are durable.
#[derive(Clone, Debug)]
pub struct AcceptParts {
    pub parts: Vec<PartMessage>,
}

#[derive(Clone, Debug)]
pub struct AcceptPartsReply {
    /// For each part in order: `None`, or the rule that it breaks.
    pub refused: Vec<Option<Refusal>>,
}

/// Keeps credits until the beacon makes them due. Answered when they are durable.
#[derive(Clone, Debug)]
pub struct ReceiveCredits {
    pub from: ShardId,
    /// Ascending, without gaps.
    pub credits: Vec<Credit>,
}

#[derive(Clone, Debug)]
pub struct ReceiveCreditsReply {
    /// Credits of that shard are held up to this number.
    pub received: u64,
}

/// Notes what became of credits sent. Answered when it is durable.
#[derive(Clone, Debug)]
pub struct Settle {
    pub settlement: Settlement,
}

/// The leases of open groups that this shard owns keys of, and results that it has. For an executor
/// or owner that missed them.
#[derive(Clone, Debug)]
pub struct Recall {
    pub leases: Vec<GroupId>,
    /// Groups that this shard executed whose part for `owner` is wanted.
    pub results: Vec<GroupId>,
    pub owner: ShardId,
}

#[derive(Clone, Debug, Default)]
pub struct RecallReply {
    /// Those that there are.
    pub leases: Vec<Lease>,
    pub parts: Vec<PartMessage>,
}

/// Leases keys late to groups that have found that they need them. Answered when what is fenced for
/// it is durable.
#[derive(Clone, Debug)]
pub struct LeaseLate {
    /// The shard that runs the groups.
    pub from: ShardId,
    pub asks: Vec<LateAsk>,
}

#[derive(Clone, Debug)]
pub struct LeaseLateReply {
    /// In the order of the requests.
    pub leases: Vec<LateLease>,
    /// The rules that refused keys would break.
    pub refused: Vec<Refusal>,
}

/// Caches code of other shards.
#[derive(Clone, Debug)]
pub struct PutCodes {
    pub codes: Vec<Bytes>,
}

/// Waits for something to report to the beacon or to other shards.
#[derive(Clone, Debug)]
pub struct Watch {
    /// Version of the anchor that the caller has (0: none).
    pub version: u64,
    /// For each receiver, the newest credit that the caller has.
    pub credits_after: Vec<(ShardId, u64)>,
    /// Answer with what there is after this time, in milliseconds.
    pub wait_ms: u64,
}

#[derive(Clone, Debug)]
pub struct WatchReply {
    pub version: u64,
    pub anchor: Anchor,
    /// Credits newer than those that the caller has, ascending for each receiver.
    pub credits: Vec<Credit>,
}

/// What changed on the shard other than by its own blocks: for the executor and the mempool.
#[derive(Clone, Debug)]
pub struct Sync {
    /// Number of the newest change that the caller has (0: none, start over).
    pub after: u64,
    /// Answer with nothing after this time, in milliseconds.
    pub wait_ms: u64,
    /// Whether the caller takes the volume for full. Answered at once where that is wrong.
    pub full: bool,
}

#[derive(Clone, Debug)]
pub struct SyncReply {
    /// True if the caller must forget what it knows: the changes then start from nothing.
    pub reset: bool,
    pub changes: Vec<Change>,
    pub tip: Tip,
    /// Values that blocks after the newest cut run with.
    pub env: BlockEnv,
    /// Hashes of beacon blocks up to the newest cut, that one's last: of all cuts among the changes,
    /// or with `reset` of as many as are kept.
    pub hashes: Vec<B256>,
    /// Whether the volume of the shard's data is full: blocks are refused until it is not.
    pub full: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Change {
    /// From 1, without gaps.
    pub number: u64,
    /// The cut that made it; `None` for a change between cuts.
    pub cut: Option<u64>,
    pub writes: Vec<Write>,
    /// Keys that local transactions may no longer touch.
    pub fenced: Vec<StateKey>,
    /// Keys that they may touch again.
    pub unfenced: Vec<StateKey>,
    /// Own transactions that are now shared; their senders run nothing locally.
    pub pinned: Vec<SenderTx>,
    /// Own shared transactions that have ended.
    pub ended: Vec<Ended>,
    /// Transactions that are not to be run.
    pub quarantined: Vec<B256>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SenderTx {
    pub tx: B256,
    pub sender: atoll_types::Address,
    pub nonce: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    pub tx: SenderTx,
    /// `None` if it has a receipt, else why it was dropped.
    pub dropped: Option<String>,
    /// Of its receipt.
    pub gas_used: u64,
}

/// What is known of transactions whose senders belong to this shard.
#[derive(Clone, Debug)]
pub struct Lookup {
    pub txs: Vec<B256>,
}

#[derive(Clone, Debug)]
pub struct LookupReply {
    /// In the order asked for; `None` where this shard knows nothing.
    pub statuses: Vec<Option<TxStatus>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "nearly all are receipts")]
pub enum TxStatus {
    /// Shared with other shards, not decided.
    Pending,
    Done(ReceiptEvent),
    Dropped {
        reason: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiptEvent {
    pub receipt: Receipt,
    pub finality: Finality,
    /// A cut at which what it did can be read.
    pub cut: u64,
}

/// The shard's receipts as they come.
#[derive(Clone, Debug)]
pub struct Feed {
    /// Number of the newest event that the caller has; [`Feed::NEWEST`] to begin now.
    pub after: u64,
    /// At most so many events.
    pub max: u32,
    /// Answer with nothing after this time, in milliseconds.
    pub wait_ms: u64,
}

impl Feed {
    /// As `after`: begin with the next event.
    pub const NEWEST: u64 = u64::MAX;
}

#[derive(Clone, Debug)]
pub struct FeedReply {
    /// The number to ask after next.
    pub next: u64,
    /// Events that the caller asked for and that are no longer kept.
    pub lost: u64,
    pub events: Vec<FeedEvent>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedEvent {
    /// Shared by those who keep it and those who are told.
    Receipt(Arc<ReceiptEvent>),
    /// These transactions, reported as executed before, are final now.
    Finalized {
        txs: Vec<B256>,
        cut: u64,
    },
    Dropped {
        tx: B256,
        reason: String,
    },
}

/// Takes a snapshot at a cut to come, for a backup. Answered when it is durable. To be repeated until it
/// is answered.
#[derive(Clone, Debug)]
pub struct TakeSnapshot {
    pub cut: u64,
}

/// A snapshot that was taken for a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotTaken {
    /// Number of the first log record that is not in it. It names the snapshot.
    pub number: u64,
    pub bytes: u64,
    /// BLAKE3 of its content.
    pub digest: B256,
}

/// Reads a piece of the snapshot that was taken last for a backup.
#[derive(Clone, Debug)]
pub struct ReadSnapshot {
    pub number: u64,
    pub offset: u64,
}

/// As many bytes as fit a message; none at the end.
#[derive(Clone, Debug)]
pub struct SnapshotPiece {
    pub piece: Bytes,
}

/// Bytes in a piece of a snapshot.
pub const PIECE_BYTES: usize = 1 << 20;

/// Every error of the state service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum StateError {
    #[error(
        "block {number} on {parent} does not extend the head, block {head} on {digest} after cut {cut}"
    )]
    NotHead { number: u64, parent: B256, head: u64, digest: B256, cut: u64 },
    #[error("block touches {key:?}, which an undecided group has fenced")]
    Fenced { key: StateKey },
    #[error(
        "block runs transaction {tx} of a sender who has a transaction across shards under way"
    )]
    Pinned { tx: B256 },
    #[error("beacon block {found} does not follow {newest}, the newest one handled here")]
    CutGap { found: u64, newest: u64 },
    #[error("beacon block {number} has another parent than the chain of this shard")]
    OtherBeaconChain { number: u64 },
    #[error("beacon block {number} needs what this shard does not hold: {what}")]
    NotHeld { number: u64, what: String },
    #[error("cut {asked} is older than {oldest}, the oldest one kept")]
    CutTooOld { asked: u64, oldest: u64 },
    #[error(
        "pruned history unavailable: what ran in round {asked} is not kept any more, the oldest round \
         that is kept is {oldest}"
    )]
    Pruned { asked: u64, oldest: u64 },
    #[error("no root of cut {asked} or a later one has been published in time; try again")]
    NoRoot { asked: u64 },
    #[error("cut {asked} has not been reached, the newest one is {newest}")]
    CutAhead { asked: u64, newest: u64 },
    #[error("{0}")]
    Refused(#[from] Refusal),
    #[error("storage: {reason}")]
    Storage { reason: String },
    #[error(
        "the volume of shard {shard}'s data is full: changes are refused until there is room, reads \
         go on; free some on the volume of the data directory of the process that holds this shard's \
         state, or enlarge it"
    )]
    Full { shard: ShardId },
    #[error("no snapshot at cut {cut}: {reason}; ask for a later one")]
    NoSnapshot { cut: u64, reason: String },
    #[error("no snapshot at cut {cut}: another one is being written; ask again when it is done")]
    SnapshotBusy { cut: u64 },
    #[error(transparent)]
    Fault(#[from] Fault),
}
