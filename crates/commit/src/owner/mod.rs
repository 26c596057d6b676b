//! A shard's side of the protocol: what it has fenced, leased, shared, received and owes.
//!
//! Every method that changes the state is one input of the shard's log; replaying the inputs gives
//! the same state. Values of keys are not kept here: [`Owner::cut`] is handed a way to read them.

mod credits;
mod cut;
mod fences;
mod late;
mod lease;
mod parts;
mod reconcile;
mod share;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use atoll_types::{
    Address, Anchor, B256, BeaconBlock, BlockEnv, Bytes, Credit, GroupAck, GroupId, KeySet, Lease,
    LocalBlock, PartMessage, Placement, PlannedGroup, Receipt, Refusal, Settlement, ShardId,
    SharedTx, StateKey, StateValue, U256, Write, digest,
};
use serde::{Deserialize, Serialize};

use crate::planted::{Bug, Planted};

pub use cut::CutEffects;
use fences::Fences;
pub use late::Late;
pub use reconcile::NotOne;

/// Beacon blocks whose hashes are kept: the 256 before a block, and more rounds than a group can stay
/// undecided in a chain of such.
const KEPT_HASHES: usize = 8_192;

/// What an owner is told once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerConfig {
    pub chain_id: u64,
    pub shard: ShardId,
    pub placement: Placement,
    /// Most transactions that may be held before they are ordered.
    pub max_shared: u64,
}

/// A write and the place in the serial order that it has: it is part of the state at cut `c` if
/// and only if its epoch is less than `c`. A local block after cut τ has epoch τ, a group of round τ
/// too, a deposit at cut τ has τ - 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochWrite {
    pub key: StateKey,
    pub value: StateValue,
    pub epoch: u64,
}

/// Why an input cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OwnerError {
    #[error("block {number} on {parent} does not extend block {head} on {digest} after cut {cut}")]
    NotHead { number: u64, parent: B256, head: u64, digest: B256, cut: u64 },
    #[error("block touches {0:?}, which an undecided group has fenced")]
    Fenced(StateKey),
    #[error("block runs transaction {0} of a sender with a transaction across shards under way")]
    Pinned(B256),
    #[error("block of shard {here} touches {key:?} of shard {owner}")]
    Foreign { key: StateKey, owner: ShardId, here: ShardId },
    #[error("beacon block {found} does not follow {newest}")]
    CutGap { found: u64, newest: u64 },
    #[error("beacon block {0} does not extend the chain that this shard has followed")]
    OtherChain(u64),
    #[error("beacon block {number} asks for what this shard does not hold: {what}")]
    NotHeld { number: u64, what: String },
}

/// A group that is not decided.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Group {
    plan: PlannedGroup,
    env: BlockEnv,
    /// Keys of this shard that the group may use.
    keys: KeySet,
    /// What the executor gets; values in flight become known as their groups are decided.
    lease: Lease,
    /// Keys leased late to be written, with their values at the group's cut.
    granted: Vec<Write>,
    /// Every owner's part, if this shard executed the group.
    result: Option<Vec<PartMessage>>,
    /// This shard's part, with the digest of the whole result.
    part: Option<(PartMessage, B256)>,
}

/// Where a shared transaction stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Phase {
    /// Held by all owners or on its way there.
    Shared,
    Planned(GroupId),
    /// Came back: to be predicted again, once this cut is passed. Own transactions only.
    Returned {
        from: u64,
    },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Shared {
    tx: SharedTx,
    phase: Phase,
}

/// A credit under way to another shard, with the receipt that waits for its end.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Sent {
    credit: Credit,
    receipt: Option<Receipt>,
    /// Its value came back.
    returned: bool,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Outgoing {
    /// Sequence number of the newest credit.
    newest: u64,
    /// Those that no settlement has ended.
    open: VecDeque<Sent>,
    /// Settlements that wait for the credits that they speak of: the first one and the newest one.
    /// If each took the place of the one before, none might ever be met while credits flow.
    settlements: VecDeque<Settlement>,
}

impl Outgoing {
    /// An open credit; their numbers have no gaps.
    fn find(&mut self, seq: u64) -> Option<&mut Sent> {
        let first = self.open.front()?.credit.seq;
        self.open.get_mut(usize::try_from(seq.checked_sub(first)?).ok()?)
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Incoming {
    /// Held up to this number.
    received: u64,
    /// Held and not due yet.
    held: VecDeque<Credit>,
    /// Made due up to this number.
    due: u64,
}

/// The state machine of one shard.
#[derive(Clone, Serialize, Deserialize)]
pub struct Owner {
    config: OwnerConfig,
    head: u64,
    cut: u64,
    digest: B256,
    beacon: B256,
    /// Hashes of the newest beacon blocks, this one last: what `BLOCKHASH` gives.
    hashes: VecDeque<B256>,
    env: BlockEnv,
    /// Gas of receipts of this shard's senders since the chain began.
    gas_used: u64,
    /// Base fees burned since the chain began, in wei.
    burned: U256,
    /// Priority fees not yet sent to the coinbase, in wei.
    fees: U256,
    shared: BTreeMap<B256, Shared>,
    groups: BTreeMap<GroupId, Group>,
    /// Undecided groups that this shard owns nothing of, with their executors.
    others: BTreeMap<GroupId, ShardId>,
    /// Keys that undecided groups may write.
    fences: Fences,
    /// What committed groups have changed, by round, while a later group of that round is undecided: the
    /// lowest index of a group that changed a key.
    changed: BTreeMap<u64, BTreeMap<StateKey, u32>>,
    /// Newest cut after which a key was leased late.
    granted_at: u64,
    /// Groups with values in flight, by the group that these are from.
    flights: BTreeMap<GroupId, Vec<GroupId>>,
    /// Own transactions that came back for later, by the cut from which they are predicted again.
    delayed: BTreeMap<u64, Vec<B256>>,
    /// Own shared transactions, by sender: nonces and hashes.
    pinned: BTreeMap<Address, BTreeSet<(u64, B256)>>,
    outgoing: BTreeMap<ShardId, Outgoing>,
    /// Payments among them: receiver and sequence number by transaction.
    paying: BTreeMap<B256, (ShardId, u64)>,
    incoming: BTreeMap<ShardId, Incoming>,
    /// Due credits to fenced accounts, oldest first. Those that travel with a lease are there.
    undelivered: BTreeMap<Address, Vec<Credit>>,
    #[serde(skip)]
    bug: Bug,
}

impl Owner {
    /// The state after beacon block 0.
    pub fn new(config: OwnerConfig, genesis: &BeaconBlock) -> Self {
        Self {
            digest: digest("atoll/shard", &(config.chain_id, config.shard, genesis.hash())),
            config,
            head: 0,
            cut: 0,
            beacon: genesis.hash(),
            hashes: [genesis.hash()].into(),
            env: genesis.env,
            gas_used: 0,
            burned: U256::ZERO,
            fees: U256::ZERO,
            shared: BTreeMap::new(),
            groups: BTreeMap::new(),
            others: BTreeMap::new(),
            fences: Fences::default(),
            changed: BTreeMap::new(),
            granted_at: 0,
            flights: BTreeMap::new(),
            delayed: BTreeMap::new(),
            pinned: BTreeMap::new(),
            outgoing: BTreeMap::new(),
            paying: BTreeMap::new(),
            incoming: BTreeMap::new(),
            undelivered: BTreeMap::new(),
            bug: Bug::default(),
        }
    }

    /// Gives it a bug.
    #[cfg(feature = "planted")]
    pub fn plant(&mut self, bug: Planted) {
        self.bug.plant(bug);
    }

    /// Changes how many transactions may be held before they are ordered.
    pub fn limit_shared(&mut self, max_shared: u64) {
        self.config.max_shared = max_shared;
    }

    pub fn shard(&self) -> ShardId {
        self.config.shard
    }

    pub fn placement(&self) -> &Placement {
        &self.config.placement
    }

    /// Number of the newest block.
    pub fn head(&self) -> u64 {
        self.head
    }

    /// Newest cut passed.
    pub fn cut_number(&self) -> u64 {
        self.cut
    }

    /// Hash of the beacon block of the newest cut.
    pub fn beacon(&self) -> B256 {
        self.beacon
    }

    /// Digest of the shard's chain: every block and cut so far.
    pub fn digest(&self) -> B256 {
        self.digest
    }

    /// Hash of a beacon block that this shard has passed, if it is kept.
    pub fn block_hash(&self, number: u64) -> Option<B256> {
        let behind = usize::try_from(self.cut.checked_sub(number)?).ok()?;
        let at = self.hashes.len().checked_sub(1)?.checked_sub(behind)?;
        self.hashes.get(at).copied()
    }

    /// Hashes of the newest beacon blocks, at most `count`, that of the newest cut last.
    pub fn block_hashes(&self, count: usize) -> impl Iterator<Item = B256> {
        self.hashes.iter().skip(self.hashes.len().saturating_sub(count)).copied()
    }

    /// Values that blocks after the newest cut run with.
    pub fn env(&self) -> BlockEnv {
        self.env
    }

    /// Base fees burned since the chain began, in wei.
    pub fn burned(&self) -> U256 {
        self.burned
    }

    /// Priority fees not yet sent to the coinbase, in wei.
    pub fn fees(&self) -> U256 {
        self.fees
    }

    /// Credits held here and not in an account yet, in wei.
    pub fn held_credits(&self) -> U256 {
        let held = self.incoming.values().flat_map(|incoming| &incoming.held);
        held.chain(self.due_and_waiting()).map(|credit| credit.amount).sum()
    }

    /// Every credit sent to `to` after `after`, that is not settled, ascending.
    pub fn credits_after(&self, to: ShardId, after: u64) -> impl Iterator<Item = Credit> {
        let open = self.outgoing.get(&to).map(|outgoing| &outgoing.open);
        let first = move |open: &VecDeque<Sent>| open.partition_point(|s| s.credit.seq <= after);
        let sent = open.into_iter().flat_map(move |open| open.range(first(open)..));
        sent.map(|sent| sent.credit)
    }

    /// Shards to which credits were ever sent.
    pub fn credit_receivers(&self) -> impl Iterator<Item = ShardId> {
        self.outgoing.keys().copied()
    }

    /// Keys that local transactions may not touch.
    pub fn fenced(&self) -> impl Iterator<Item = &StateKey> {
        self.fences.keys()
    }

    /// How many those are.
    pub fn fence_count(&self) -> usize {
        self.fences.len()
    }

    /// Own transactions that are shared and not ended.
    pub fn own_shared(&self) -> impl Iterator<Item = &SharedTx> {
        let own = self.shared.values().filter(|shared| shared.tx.origin == self.config.shard);
        own.map(|shared| &shared.tx)
    }

    /// Whether a sender has a transaction across shards under way, and runs nothing locally.
    pub fn is_pinned(&self, sender: &Address) -> bool {
        self.pinned.contains_key(sender)
    }

    /// Own transactions that wait for the beacon to plan them.
    pub fn unplanned(&self) -> impl Iterator<Item = &SharedTx> {
        self.own_in(|phase| phase == Phase::Shared)
    }

    /// Own transactions that have to be predicted again now.
    pub fn returned(&self) -> impl Iterator<Item = &SharedTx> {
        self.own_in(|phase| matches!(phase, Phase::Returned { from } if from <= self.cut))
    }

    fn own_in(&self, is_meant: impl Fn(Phase) -> bool) -> impl Iterator<Item = &SharedTx> {
        let here = self.config.shard;
        let own = move |s: &&Shared| s.tx.origin == here && is_meant(s.phase);
        self.shared.values().filter(own).map(|shared| &shared.tx)
    }

    /// Whether a transaction of this shard's senders is under way across shards, or its payment is.
    pub fn is_pending(&self, tx: &B256) -> bool {
        let own = |shared: &Shared| shared.tx.origin == self.config.shard;
        self.shared.get(tx).is_some_and(own) || self.paying.contains_key(tx)
    }

    /// An open group as it was planned.
    pub fn plan(&self, group: GroupId) -> Option<&PlannedGroup> {
        self.groups.get(&group).map(|group| &group.plan)
    }

    /// The keys of this shard that an open group may use.
    pub fn keys(&self, group: GroupId) -> Option<&KeySet> {
        self.groups.get(&group).map(|group| &group.keys)
    }

    /// The lease of an open group.
    pub fn lease(&self, group: GroupId) -> Option<&Lease> {
        self.groups.get(&group).map(|group| &group.lease)
    }

    /// An open group that this shard executes and has no result of.
    pub fn run(&self, group: GroupId) -> Option<(&PlannedGroup, BlockEnv)> {
        let Group { plan, env, result, .. } = self.groups.get(&group)?;
        (plan.executor == self.config.shard && result.is_none()).then_some((plan, *env))
    }

    /// Open groups, with this shard's lease of each.
    pub fn open_groups(&self) -> impl Iterator<Item = (&PlannedGroup, &Lease)> {
        self.groups.values().map(|group| (&group.plan, &group.lease))
    }

    /// Open groups whose part is not here, and their executors.
    pub fn awaited(&self) -> impl Iterator<Item = &PlannedGroup> {
        self.groups.values().filter(|group| group.part.is_none()).map(|group| &group.plan)
    }

    /// The transactions of a group that concern this shard, in the group's order. It holds each:
    /// the beacon orders nothing that its owners do not hold.
    pub fn bodies<'a>(
        &'a self,
        group: &'a PlannedGroup,
    ) -> impl Iterator<Item = &'a SharedTx> + use<'a> {
        let held = |tx: &atoll_types::TxRef| {
            let shared = &self.shared.get(&tx.hash)?.tx;
            (shared.attempt == tx.attempt).then_some(shared)
        };
        group.txs.iter().filter_map(held)
    }

    /// What the beacon has to know, as of all inputs so far.
    pub fn anchor(&self) -> Anchor {
        let ack = |(id, group): (&GroupId, &Group)| {
            let (message, digest) = group.part.as_ref()?;
            let mut ack =
                GroupAck { group: *id, digest: *digest, sources: Vec::new(), late: Vec::new() };
            if group.plan.executor == self.config.shard {
                ack.sources.clone_from(&message.part.sources);
                let owners = message.manifest.iter().map(|(owner, _)| *owner);
                ack.late = owners.filter(|owner| !group.plan.owners.contains(owner)).collect();
            }
            Some(ack)
        };
        Anchor {
            shard: self.config.shard,
            head: self.head,
            cut: self.cut,
            digest: self.digest,
            gas_used: self.gas_used,
            acks: self.groups.iter().filter_map(ack).collect(),
            credits_sent: self.outgoing.iter().map(|(to, out)| (*to, out.newest)).collect(),
            credits_received: self
                .incoming
                .iter()
                .map(|(from, inc)| (*from, inc.received))
                .collect(),
            // Whoever keeps the values knows it.
            root: None,
        }
    }

    /// Checks that a local block may be appended, without changing anything. `reads` are keys that
    /// its transactions have used and not written.
    pub fn check_block(&self, block: &LocalBlock, reads: &[StateKey]) -> Result<(), OwnerError> {
        let tip = (self.head + 1, self.digest, self.cut, self.config.shard);
        if (block.number, block.parent, block.round, block.shard) != tip {
            return Err(OwnerError::NotHead {
                number: block.number,
                parent: block.parent,
                head: self.head,
                digest: self.digest,
                cut: self.cut,
            });
        }
        for (key, _) in &block.writes {
            let owner = self.config.placement.owner_of(key);
            if owner != self.config.shard {
                let here = self.config.shard;
                return Err(OwnerError::Foreign { key: *key, owner, here });
            }
            if self.fences.contains(key) {
                return Err(OwnerError::Fenced(*key));
            }
        }
        // Fences of the newest cut are known to whoever builds on it; those of late leases may not be.
        if self.granted_at == self.cut
            && let Some(key) = reads.iter().find(|key| self.fences.contains(key))
        {
            return Err(OwnerError::Fenced(*key));
        }
        match block.txs.iter().find(|tx| self.is_pinned(&tx.tx.sender())) {
            Some(local) => Err(OwnerError::Pinned(*local.tx.hash())),
            None => Ok(()),
        }
    }

    /// Takes in a local block that was checked. Its writes are the caller's to apply, with the
    /// newest cut as their epoch. Receipts of payments under way are kept until they have ended.
    pub fn append(&mut self, block: &LocalBlock) {
        if self.bug.is(Planted::LeaseAfterCut) {
            self.show_in_leases(&block.writes);
        }
        self.head = block.number;
        self.digest = digest("atoll/block", &(self.digest, block));
        self.fees += block.fees;
        self.burned += block.burned;
        let gas = |tx: &atoll_types::LocalTx| tx.receipt.executed.gas_used;
        self.gas_used += block.txs.iter().map(gas).sum::<u64>();
        for credit in &block.credits {
            let paid = |receipt: &&Receipt| matches!(credit.kind, atoll_types::CreditKind::Payment { tx } if tx == receipt.tx);
            let receipt = block.txs.iter().map(|tx| &tx.receipt).find(paid).cloned();
            self.send(*credit, receipt);
        }
    }
}

/// Code that a cut brings, with the writes that name it.
pub(crate) type Codes = Vec<Bytes>;

/// What a refused message gets.
pub(crate) type Checked<T = ()> = Result<T, Refusal>;
