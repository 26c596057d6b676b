//! The beacon's state machine: order, plan, decisions. Deterministic: a block is proposed from what
//! has been announced, and applying its record gives the same state wherever it is applied.

mod decide;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use alloy_primitives::map::{Entry, HashMap, HashSet};
use atoll_types::{
    Address, Anchor, Anchored, B256, BeaconBlock, BlockEnv, CreditsDue, GroupId, Intent,
    PlannedGroup, ShardId, TxRef, digest,
};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

#[cfg(feature = "planted")]
use crate::planted::Planted;
use crate::{
    grouping::{Caps, Draft, bundle, draft, in_nonce_order},
    planted::Bug,
};

/// Wei that the base fee never falls below.
const MIN_BASE_FEE: u64 = 7;
/// Reciprocal of the largest change of the base fee in twelve seconds (EIP-1559).
const BASE_FEE_CHANGE_DENOMINATOR: i128 = 8;
const BASE_FEE_PERIOD_S: i128 = 12;

/// What the planner is told once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PlannerConfig {
    pub chain_id: u64,
    pub shards: u16,
    /// Placement epoch.
    pub epoch: u64,
    pub coinbase: Address,
    /// `GASLIMIT`, constant.
    pub gas_limit: u64,
    /// Base fee of block 0 in wei.
    pub base_fee: u64,
    /// Gas of one shard in one second at which the base fee stays as it is.
    pub target_gas_per_second: u64,
    /// Time of block 0 in milliseconds since 1970.
    pub genesis_time_ms: u64,
    /// Largest sum of gas limits in a group.
    pub group_gas: u64,
    /// Largest sum of gas limits in a group that unites what shares no key: 0 unites nothing.
    pub bundle_gas: u64,
    /// Largest sum of gas limits in a round.
    pub round_gas: u64,
    /// Most transactions in a round.
    pub round_txs: u32,
    /// Most intents that wait at one time.
    pub max_waiting: u32,
    /// Blocks after which an undecided group is aborted (N).
    pub abort_after: u64,
    /// Most undecided groups that may write one key: what would be the next waits.
    pub max_chain: usize,
    /// Blocks that a shard may lag before nothing more is planned on it (D).
    pub max_lag: u64,
}

impl PlannerConfig {
    /// The bounds that a cluster of `shards` shards starts with.
    pub fn new(chain_id: u64, shards: u16, coinbase: Address, genesis_time_ms: u64) -> Self {
        Self {
            chain_id,
            shards,
            epoch: 0,
            coinbase,
            gas_limit: 1_000_000_000,
            base_fee: 1_000_000_000,
            target_gas_per_second: 500_000_000,
            genesis_time_ms,
            group_gas: 500_000_000,
            bundle_gas: 50_000_000,
            round_gas: 4_000_000_000,
            round_txs: 8_192,
            max_waiting: 131_072,
            abort_after: 200,
            max_chain: 16,
            max_lag: 100,
        }
    }
}

/// A block and what it was made from: enough to bring any planner to the state after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeaconRecord {
    pub block: Arc<BeaconBlock>,
    /// Intents of the plan, in the order of its groups and their transactions.
    pub intents: Vec<Intent>,
    /// Anchors taken in by this block.
    pub anchors: Vec<Anchor>,
}

/// A group that no block has decided.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Open {
    executor: ShardId,
    owners: Vec<ShardId>,
    writes: Vec<u64>,
    /// Groups that were undecided when it was planned, and may write what it uses.
    behind: Vec<GroupId>,
    /// Its own round, or the block that decided the last one that it was behind: from then on there was
    /// nothing more for it to wait for.
    since: u64,
}

/// What has become of an intent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Known {
    Waiting,
    Planned,
}

/// The beacon's whole state.
#[derive(Clone, Serialize, Deserialize)]
pub struct Planner {
    config: PlannerConfig,
    block: Arc<BeaconBlock>,
    hash: B256,
    waiting: VecDeque<Intent>,
    /// What waits and what was planned, until its last valid round: never planned again.
    known: HashMap<TxRef, Known>,
    /// What was planned, by its last valid round.
    planned_until: BTreeMap<u64, Vec<TxRef>>,
    open: BTreeMap<GroupId, Open>,
    /// Open groups that are behind an open group.
    followers: HashMap<GroupId, Vec<GroupId>>,
    /// Groups that were committed while some open group may have been waiting for them.
    committed: HashMap<GroupId, B256>,
    /// When they were, oldest first.
    committed_at: VecDeque<(u64, GroupId)>,
    /// For each fingerprint, the open groups that may write it, in the order of the plan.
    fenced: HashMap<u64, SmallVec<[GroupId; 1]>>,
    /// Newest anchor of each shard that was announced.
    announced: Vec<Option<Anchor>>,
    /// Newest anchor of each shard that a block has taken in.
    anchors: Vec<Option<Anchor>>,
    credits_due: BTreeMap<(ShardId, ShardId), u64>,
    /// Gas of each shard when the base fee was last changed.
    priced_gas: Vec<u64>,
    #[serde(skip)]
    bug: Bug,
}

impl Planner {
    /// The state after block 0, which every shard derives alike.
    pub fn new(config: PlannerConfig) -> Self {
        let block = genesis(&config);
        let shards = usize::from(config.shards);
        Self {
            hash: block.hash(),
            block: Arc::new(block),
            waiting: VecDeque::new(),
            known: HashMap::default(),
            planned_until: BTreeMap::new(),
            open: BTreeMap::new(),
            followers: HashMap::default(),
            committed: HashMap::default(),
            committed_at: VecDeque::new(),
            fenced: HashMap::default(),
            announced: vec![None; shards],
            anchors: vec![None; shards],
            credits_due: BTreeMap::new(),
            priced_gas: vec![0; shards],
            config,
            bug: Bug::default(),
        }
    }

    /// Gives it a bug.
    #[cfg(feature = "planted")]
    pub fn plant(&mut self, bug: Planted) {
        self.bug.plant(bug);
    }

    /// Changes bounds. What the chain began with has to stay.
    pub fn reconfigure(&mut self, config: PlannerConfig) {
        self.config = config;
    }

    /// What it was told.
    pub fn config(&self) -> &PlannerConfig {
        &self.config
    }

    /// The newest block.
    pub fn head(&self) -> &Arc<BeaconBlock> {
        &self.block
    }

    /// Intents that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Groups that no block has decided.
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// Whether another `count` intents may be announced.
    pub fn has_room(&self, count: usize) -> bool {
        self.waiting.len() + count <= self.config.max_waiting as usize
    }

    /// Takes an intent, unless it waits already, was planned before or is too late.
    /// Returns whether it is new.
    pub fn announce(&mut self, intent: Intent) -> bool {
        if intent.last_valid_round <= self.block.number() {
            return false;
        }
        match self.known.entry(intent.tx) {
            Entry::Occupied(_) => false,
            Entry::Vacant(new) => {
                new.insert(Known::Waiting);
                self.waiting.push_back(intent);
                true
            }
        }
    }

    /// Takes a shard's anchor. One that is older than the newest is ignored: shards' messages may
    /// arrive in any order.
    pub fn anchor(&mut self, mut anchor: Anchor) {
        let Some(slot) = self.announced.get_mut(usize::from(anchor.shard.0)) else {
            return;
        };
        // Acknowledgements are looked up by group.
        anchor.acks.sort_unstable_by_key(|ack| ack.group);
        if slot.as_ref().is_none_or(|old| progress(&anchor) >= progress(old)) {
            *slot = Some(anchor);
        }
    }

    /// Whether there is anything for a block to do.
    pub fn has_work(&self) -> bool {
        !self.open.is_empty()
            || !self.waiting.is_empty()
            || !self.due_credits().is_empty()
            || self.unanchored_heads()
    }

    fn unanchored_heads(&self) -> bool {
        self.announced.iter().zip(&self.anchors).any(|(announced, anchored)| {
            let head = |anchor: &Option<Anchor>| anchor.as_ref().map_or(0, |a| a.head);
            // The same state at a later cut can wait for the heartbeat: else each block would make
            // the next one.
            let root = |anchor: &Option<Anchor>| Some(anchor.as_ref()?.root?.root);
            head(announced) > head(anchored) || root(announced) != root(anchored)
        })
    }

    /// The next block: a function of this state, the time and the randomness handed in.
    pub fn propose(&self, now_ms: u64, randomness: B256) -> BeaconRecord {
        let number = self.block.number() + 1;
        let time_ms = now_ms.max(self.block.time_ms);
        let decisions = self.decide(number);
        let decided: HashSet<GroupId> = decisions.iter().map(|d| d.group).collect();
        let undecided = |key: u64| {
            let groups = self.fenced.get(&key).map_or(&[][..], SmallVec::as_slice);
            groups.iter().filter(|id| !decided.contains(*id))
        };
        let (plan, intents) = self.plan(number, undecided);
        let anchors: Vec<Anchor> = self
            .announced
            .iter()
            .zip(&self.anchors)
            .filter(|(announced, anchored)| announced != anchored)
            .filter_map(|(announced, _)| announced.clone())
            .collect();
        let still_open = self.open.keys().filter(|id| !decided.contains(id));
        let settled = still_open.map(|id| id.round).min().unwrap_or(number);
        let dropped = self
            .waiting
            .iter()
            .filter(|intent| intent.last_valid_round < number)
            .map(|intent| intent.tx)
            .collect();
        let block = BeaconBlock {
            env: BlockEnv {
                number,
                timestamp: time_ms / 1000,
                randomness,
                base_fee: self.base_fee(time_ms / 1000, &anchors),
                ..self.block.env
            },
            time_ms,
            parent: self.hash,
            epoch: self.config.epoch,
            decisions,
            credits: self.due_credits(),
            plan,
            dropped,
            anchors: anchors.iter().map(anchored).collect(),
            settled,
        };
        BeaconRecord { block: Arc::new(block), intents, anchors }
    }

    /// Brings the state to after a block.
    pub fn apply(&mut self, record: &BeaconRecord) {
        let block = &record.block;
        for anchor in &record.anchors {
            let shard = usize::from(anchor.shard.0);
            self.anchors[shard] = Some(anchor.clone());
            // In a replay nobody announces: what a block has taken in is the newest there is.
            let announced = &mut self.announced[shard];
            if announced.as_ref().is_none_or(|old| progress(anchor) > progress(old)) {
                *announced = Some(anchor.clone());
            }
        }
        for decision in &block.decisions {
            self.close(decision, block.number());
        }
        self.forget_commits();
        for due in &block.credits {
            self.credits_due.insert((due.from, due.to), due.up_to);
        }
        let mut intents = record.intents.iter();
        for group in &block.plan {
            let members: Vec<&Intent> = intents.by_ref().take(group.txs.len()).collect();
            self.open_group(group, &members);
        }
        for tx in &block.dropped {
            self.known.remove(tx);
        }
        if !(record.intents.is_empty() && block.dropped.is_empty()) {
            let known = &self.known;
            self.waiting.retain(|intent| known.get(&intent.tx) == Some(&Known::Waiting));
        }
        let later = self.planned_until.split_off(&block.number());
        for tx in std::mem::replace(&mut self.planned_until, later).into_values().flatten() {
            self.known.remove(&tx);
        }
        if block.env.timestamp > self.block.env.timestamp {
            self.priced_gas = self.gas_after(&record.anchors);
        }
        self.block = Arc::clone(block);
        self.hash = block.hash();
    }

    fn open_group(&mut self, group: &PlannedGroup, members: &[&Intent]) {
        let mut behind = Vec::new();
        let mut writes = Vec::new();
        for keys in members.iter().flat_map(|intent| &intent.keys) {
            let last = |key: &u64| self.fenced.get(key).and_then(|groups| groups.last()).copied();
            let others = keys.reads.iter().filter_map(last).filter(|id| *id != group.id);
            behind.extend(others);
            for key in &keys.writes {
                let groups = self.fenced.entry(*key).or_default();
                let last = groups.last().copied();
                if last != Some(group.id) {
                    behind.extend(last);
                    groups.push(group.id);
                    writes.push(*key);
                }
            }
        }
        behind.sort_unstable();
        behind.dedup();
        for intent in members {
            self.known.insert(intent.tx, Known::Planned);
            self.planned_until.entry(intent.last_valid_round).or_default().push(intent.tx);
        }
        for source in &behind {
            self.followers.entry(*source).or_default().push(group.id);
        }
        let (executor, owners) = (group.executor, group.owners.clone());
        self.open
            .insert(group.id, Open { executor, owners, writes, behind, since: group.id.round });
    }

    fn due_credits(&self) -> Vec<CreditsDue> {
        let mut due = Vec::new();
        for receiver in self.announced.iter().flatten() {
            for (from, received) in &receiver.credits_received {
                let Some(Some(source)) = self.announced.get(usize::from(from.0)) else {
                    continue;
                };
                let sent = source.credits_sent.iter().find(|(to, _)| *to == receiver.shard);
                let up_to = sent.map_or(0, |(_, sent)| *sent).min(*received);
                let before = self.credits_due.get(&(*from, receiver.shard)).copied().unwrap_or(0);
                if up_to > before {
                    due.push(CreditsDue { from: *from, to: receiver.shard, up_to });
                }
            }
        }
        due
    }

    /// `undecided` says which undecided groups write a key, in the order of the plan.
    fn plan<'a, U: Iterator<Item = &'a GroupId> + DoubleEndedIterator>(
        &self,
        number: u64,
        undecided: impl Fn(u64) -> U,
    ) -> (Vec<PlannedGroup>, Vec<Intent>) {
        let caps = Caps {
            group_gas: self.config.group_gas,
            round_gas: self.config.round_gas,
            round_txs: self.config.round_txs as usize,
            max_chain: self.config.max_chain,
            scan: 4 * self.config.round_txs as usize,
        };
        let absent = |shard: ShardId| {
            let cut = |anchor: &Anchor| anchor.cut;
            let passed =
                self.announced.get(usize::from(shard.0)).map(|a| a.as_ref().map_or(0, cut));
            passed.is_none_or(|cut| cut + self.config.max_lag < number)
        };
        let candidates: Vec<&Intent> =
            self.waiting.iter().filter(|intent| intent.last_valid_round >= number).collect();
        let chain = |key| undecided(key).count();
        let drafts = draft(candidates.iter().copied(), chain, absent, caps);
        let behind = |draft: &Draft| {
            let keys = draft.members.iter().flat_map(|at| &candidates[*at].keys);
            let used = keys.flat_map(|keys| keys.reads.iter().chain(&keys.writes));
            let mut groups: Vec<GroupId> =
                used.filter_map(|key| undecided(*key).next_back()).copied().collect();
            groups.sort_unstable();
            groups.dedup();
            groups
        };
        let drafts = bundle(drafts, self.config.bundle_gas, behind);
        let mut plan = Vec::with_capacity(drafts.len());
        let mut intents = Vec::with_capacity(drafts.iter().map(|draft| draft.members.len()).sum());
        for (index, draft) in drafts.into_iter().enumerate() {
            let mut members: Vec<&Intent> =
                draft.members.into_iter().map(|at| candidates[at]).collect();
            in_nonce_order(&mut members);
            plan.push(PlannedGroup {
                id: GroupId { round: number, index: index as u32 },
                executor: draft.executor,
                owners: draft.owners.into_vec(),
                txs: members.iter().map(|intent| intent.tx).collect(),
                gas: draft.gas,
            });
            intents.extend(members.into_iter().cloned());
        }
        (plan, intents)
    }

    fn gas_after(&self, anchors: &[Anchor]) -> Vec<u64> {
        let mut gas: Vec<u64> =
            self.anchors.iter().map(|a| a.as_ref().map_or(0, |a| a.gas_used)).collect();
        for anchor in anchors {
            gas[usize::from(anchor.shard.0)] = anchor.gas_used;
        }
        gas
    }

    /// EIP-1559's rule on the busiest shard's gas for each second, an eighth in twelve seconds at
    /// the most. It changes when the timestamp does.
    fn base_fee(&self, timestamp: u64, anchors: &[Anchor]) -> u64 {
        let fee = self.block.env.base_fee;
        let seconds = i128::from(timestamp - self.block.env.timestamp.min(timestamp));
        if seconds == 0 {
            return fee;
        }
        let gas = self.gas_after(anchors);
        let used = gas.iter().zip(&self.priced_gas).map(|(now, then)| now.saturating_sub(*then));
        let target = i128::from(self.config.target_gas_per_second.max(1));
        let rate = i128::from(used.max().unwrap_or(0)) / seconds;
        let excess = (rate - target).clamp(-target, target);
        let seconds = seconds.min(BASE_FEE_PERIOD_S);
        let scale = target * BASE_FEE_CHANGE_DENOMINATOR * BASE_FEE_PERIOD_S;
        let change = i128::from(fee) * excess * seconds / scale;
        let change = if excess > 0 { change.max(1) } else { change };
        u64::try_from(i128::from(fee) + change).unwrap_or(u64::MAX).max(MIN_BASE_FEE)
    }
}

/// Block 0, which orders nothing.
fn genesis(config: &PlannerConfig) -> BeaconBlock {
    BeaconBlock {
        env: BlockEnv {
            chain_id: config.chain_id,
            number: 0,
            timestamp: config.genesis_time_ms / 1000,
            randomness: digest("atoll/genesis", &(config.chain_id, config.genesis_time_ms)),
            base_fee: config.base_fee,
            coinbase: config.coinbase,
            gas_limit: config.gas_limit,
        },
        time_ms: config.genesis_time_ms,
        parent: B256::ZERO,
        epoch: config.epoch,
        decisions: Vec::new(),
        credits: Vec::new(),
        plan: Vec::new(),
        dropped: Vec::new(),
        anchors: Vec::new(),
        settled: 0,
    }
}

/// Rises with everything that a shard reports: at one cut and head it can only have acknowledged
/// more groups, received more credits and computed a later root.
fn progress(anchor: &Anchor) -> (u64, u64, u64, u64) {
    let received = anchor.credits_received.iter().map(|(_, seq)| *seq);
    let rest = received.fold(anchor.acks.len() as u64, u64::saturating_add);
    (anchor.cut, anchor.head, rest, anchor.root.map_or(0, |root| root.cut))
}

fn anchored(anchor: &Anchor) -> Anchored {
    let Anchor { shard, head, cut, digest, root, .. } = *anchor;
    Anchored { shard, head, cut, digest, root }
}
