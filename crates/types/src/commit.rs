//! What shards and the beacon say to one another to commit across shards.

use alloy_primitives::{Address, B256, Bytes, U256};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::{
    BlockEnv, GroupId, Placement, PlannedGroup, Receipt, ShardId, StateKey, StateRoot, Tx, TxRef,
    Write, digest,
};

/// The keys that a transaction is predicted to use. Both lists are sorted and disjoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeySet {
    /// Read and not written.
    pub reads: Vec<StateKey>,
    /// Written, and perhaps read.
    pub writes: Vec<StateKey>,
}

impl KeySet {
    /// Sorts, removes repetition, and takes written keys off the reads.
    pub fn new(
        reads: impl IntoIterator<Item = StateKey>,
        writes: impl IntoIterator<Item = StateKey>,
    ) -> Self {
        let mut writes: Vec<_> = writes.into_iter().collect();
        writes.sort_unstable();
        writes.dedup();
        let mut reads: Vec<_> =
            reads.into_iter().filter(|key| writes.binary_search(key).is_err()).collect();
        reads.sort_unstable();
        reads.dedup();
        Self { reads, writes }
    }

    /// Every key, reads first.
    pub fn all(&self) -> impl Iterator<Item = &StateKey> {
        self.reads.iter().chain(&self.writes)
    }

    /// The keys of both sets.
    pub fn union(&self, other: &Self) -> Self {
        Self::new(
            self.reads.iter().chain(&other.reads).copied(),
            self.writes.iter().chain(&other.writes).copied(),
        )
    }

    /// The shards that own any of the keys, ascending.
    pub fn owners(&self, placement: &Placement) -> Vec<ShardId> {
        let mut owners: Vec<_> = self.all().map(|key| placement.owner_of(key)).collect();
        owners.sort_unstable();
        owners.dedup();
        owners
    }
}

/// A transaction as every involved owner holds it before it is ordered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedTx {
    pub tx: Tx,
    /// The sender's shard.
    pub origin: ShardId,
    /// Number of this try, higher than those of all earlier ones. The key set belongs to the try.
    pub attempt: u32,
    /// How many tries ended in a wrong prediction. At [`Self::MAX_WRONG`] it is included as failed.
    pub wrong: u32,
    /// How many tries were aborted because a shard that it touches was missing.
    pub absences: u32,
    /// How many tries were aborted although everybody was there: each halves the gas of the groups
    /// that it may be in.
    pub silences: u32,
    pub keys: KeySet,
    /// The beacon plans it in no later round, and drops it after.
    pub last_valid_round: u64,
}

impl SharedTx {
    /// Wrong predictions after which a transaction is included as failed.
    pub const MAX_WRONG: u32 = 3;

    /// How plans name it.
    pub fn reference(&self) -> TxRef {
        TxRef { hash: *self.tx.hash(), attempt: self.attempt }
    }

    /// What the beacon orders of it.
    pub fn intent(&self, placement: &Placement) -> Intent {
        let mut keys = IntentKeys::new();
        let mut of = |key: &StateKey, list: fn(&mut ShardKeys) -> &mut Fingerprints| {
            let shard = placement.owner_of(key);
            let at = keys.iter().position(|keys| keys.shard == shard).unwrap_or_else(|| {
                keys.push(ShardKeys {
                    shard,
                    reads: Fingerprints::new(),
                    writes: Fingerprints::new(),
                });
                keys.len() - 1
            });
            list(&mut keys[at]).push(key.fingerprint());
        };
        self.keys.reads.iter().for_each(|key| of(key, |keys| &mut keys.reads));
        self.keys.writes.iter().for_each(|key| of(key, |keys| &mut keys.writes));
        keys.sort_unstable_by_key(|keys| keys.shard);
        Intent {
            tx: self.reference(),
            origin: self.origin,
            sender: StateKey::Basic(self.tx.sender()).fingerprint(),
            nonce: self.tx.nonce(),
            gas_limit: self.tx.gas_limit(),
            last_valid_round: self.last_valid_round,
            halvings: self.silences,
            keys,
        }
    }
}

/// In place for as many as a call of a token has: the beacon holds them by the thousand, and each line of
/// memory that an intent takes comes from the processor that has received it.
pub type Fingerprints = SmallVec<[u64; 2]>;

/// Fingerprints of the keys of one owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardKeys {
    pub shard: ShardId,
    pub reads: Fingerprints,
    pub writes: Fingerprints,
}

/// One entry for each owner, ascending.
pub type IntentKeys = SmallVec<[ShardKeys; 2]>;

/// What the beacon orders: a transaction without its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    pub tx: TxRef,
    pub origin: ShardId,
    /// Fingerprint of the sender's account.
    pub sender: u64,
    pub nonce: u64,
    pub gas_limit: u64,
    pub last_valid_round: u64,
    /// How often the gas of the groups that it may be in has been halved.
    pub halvings: u32,
    /// One entry for each owner, ascending.
    pub keys: IntentKeys,
}

/// A leased key whose value is still in flight: it is what this undecided group makes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InFlight {
    pub key: StateKey,
    pub group: GroupId,
    /// The shard that runs that group, and has the value.
    pub executor: ShardId,
}

/// An executor's request for values in flight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    /// The group whose result has the values.
    pub source: GroupId,
    /// The group that needs them.
    pub to: GroupId,
    pub keys: Vec<StateKey>,
}

/// Values in flight, from the executor of one group to that of a later one. The source's result is
/// durable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flight {
    pub source: GroupId,
    /// Digest of the source's result.
    pub digest: B256,
    pub to: GroupId,
    /// Of the keys asked for, those that the source had fenced, sorted.
    pub values: Vec<Write>,
    /// Code that the source has created, as far as the values name it.
    pub codes: Vec<Bytes>,
}

/// What an owner sends to a group's executor at the cut: a copy of the values of its keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub chain_id: u64,
    /// Placement epoch.
    pub epoch: u64,
    pub group: GroupId,
    pub from: ShardId,
    /// Values at the cut of the group's round, absence included, sorted by key.
    pub values: Vec<Write>,
    /// Keys whose values come from the executors of undecided groups instead, sorted.
    pub in_flight: Vec<InFlight>,
    /// Due payments to accounts among those, applied before the group's first transaction.
    pub credits: Vec<Credit>,
    /// Transactions of the group that do not concern the executor's shard, from their
    /// lowest-numbered owner.
    pub bodies: Vec<SharedTx>,
}

/// A group as its executor's shard holds it: what is to be run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupToRun {
    pub group: PlannedGroup,
    pub env: BlockEnv,
    /// Those that concern this shard; the others come with the leases.
    pub txs: Vec<SharedTx>,
}

/// An executor's request for keys outside of what a group was leased.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LateAsk {
    pub group: GroupId,
    pub keys: KeySet,
}

/// What an owner says to such a request: keys leased late, with their values at the group's cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LateLease {
    pub group: GroupId,
    pub from: ShardId,
    pub reads: Vec<Write>,
    /// Fenced for the group from now on: the owner has a part in it.
    pub writes: Vec<Write>,
    /// Something stands in the way, and nothing waits for it: the prediction was wrong.
    pub refused: Vec<StateKey>,
}

/// How one transaction's attempt in a group ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TxOutcome {
    /// It ran, or was included as failed: the part holds its receipt.
    Executed,
    /// It used keys outside its set; it comes back with them.
    Wrong { missing: KeySet },
    /// It can never run as it is (nonce, funds, fee cap); dropped without a receipt.
    Invalid { reason: String },
    /// An earlier nonce of the sender is not there yet; it comes back, no try counted.
    Behind,
}

/// What a group's result means for one owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    pub chain_id: u64,
    /// Placement epoch.
    pub epoch: u64,
    pub group: GroupId,
    pub executor: ShardId,
    pub owner: ShardId,
    /// The value of every key that the group has fenced at this owner, changed or not, sorted.
    pub writes: Vec<Write>,
    /// Code created at addresses of this owner.
    pub codes: Vec<Bytes>,
    /// Receipts of transactions whose sender this owner has.
    pub receipts: Vec<Receipt>,
    /// Ends of the attempts of transactions whose sender this owner has.
    pub outcomes: Vec<(B256, TxOutcome)>,
    /// Priority fees of those transactions in wei.
    pub fees: U256,
    /// Base fees of those transactions in wei, burned.
    pub burned: U256,
    /// Groups whose values in flight the result used, with the digests that it used them under.
    pub sources: Vec<GroupDigest>,
}

/// A part, and what is needed to check that it is of the result that all owners get.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartMessage {
    pub part: Part,
    /// Hash of each owner's part, ascending by owner.
    pub manifest: Vec<(ShardId, B256)>,
}

/// What running a group gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupResult {
    pub group: GroupId,
    /// One for each owner, ascending.
    pub parts: Vec<Part>,
}

impl Part {
    /// The part's hash, as it stands in the manifest.
    pub fn hash(&self) -> B256 {
        digest("atoll/part", self)
    }
}

impl PartMessage {
    /// The digest of the whole result.
    pub fn digest(&self) -> B256 {
        group_digest(self.part.chain_id, self.part.epoch, self.part.group, &self.manifest)
    }
}

/// Digest of a group's result: the list (owner, hash of part), bound to chain, epoch and group.
pub fn group_digest(
    chain_id: u64,
    epoch: u64,
    group: GroupId,
    manifest: &[(ShardId, B256)],
) -> B256 {
    digest("atoll/result", &(chain_id, epoch, group, manifest))
}

/// A group and its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupDigest {
    pub group: GroupId,
    pub digest: B256,
}

/// "I hold my part of this result, durably."
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupAck {
    pub group: GroupId,
    pub digest: B256,
    /// Said by the executor's shard alone: what the result was made from.
    pub sources: Vec<GroupDigest>,
    /// Said by the executor's shard alone: shards that became owners by late leases.
    pub late: Vec<ShardId>,
}

/// What a shard reports to the beacon. Each one replaces those before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    pub shard: ShardId,
    /// Number of the shard's newest durable block.
    pub head: u64,
    /// Newest cut passed.
    pub cut: u64,
    /// Digest of the shard's chain up to here.
    pub digest: B256,
    /// Gas of local blocks since the chain began; the beacon takes differences.
    pub gas_used: u64,
    /// Undecided groups of which the shard holds its part.
    pub acks: Vec<GroupAck>,
    /// For each receiver, the sequence number of the newest credit debited for it.
    pub credits_sent: Vec<(ShardId, u64)>,
    /// For each source, the sequence number up to which its credits are held here.
    pub credits_received: Vec<(ShardId, u64)>,
    /// The newest root that is known, of a settled cut.
    pub root: Option<StateRoot>,
}

/// Why a credit was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CreditKind {
    /// A transaction's payment.
    Payment { tx: B256 },
    /// The fees of a shard, on their way to the coinbase.
    Fees,
    /// A payment that could not be made, on its way back.
    Returned { tx: B256 },
}

/// Value on its way from one shard to another, exactly once by (`from`, `to`, `seq`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credit {
    pub from: ShardId,
    pub to: ShardId,
    /// From 1, without gaps, for each ordered pair of shards.
    pub seq: u64,
    pub account: Address,
    /// Who gets it back if the account turns out to be a contract.
    pub payer: Address,
    /// In wei.
    pub amount: U256,
    pub kind: CreditKind,
}

/// What became of the credits that `from` sent to `by`: all up to a number are deposited or on
/// their way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settlement {
    /// The shard that received the credits.
    pub by: ShardId,
    /// The shard that sent them.
    pub from: ShardId,
    pub up_to: u64,
    /// Newest credit from `by` to `from` at that moment. Once `from` holds this one, it holds
    /// every payment that came back, and the others were made.
    pub returned_up_to: u64,
    /// Cut at which the last of them was deposited.
    pub cut: u64,
}
