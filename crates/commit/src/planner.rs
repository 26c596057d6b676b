//! The beacon's state machine: order, plan, decisions. Deterministic: a block is proposed from what
//! has been announced, and applying its record gives the same state wherever it is applied.

mod decide;
mod fee;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use alloy_primitives::map::{HashMap, HashSet};
use atoll_types::{
    Address, Anchor, Anchored, B256, BeaconBlock, BlockEnv, CreditsDue, GroupId, Intent,
    PlannedGroup, ShardId, TxRef, digest,
};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

#[cfg(feature = "planted")]
use crate::planted::Planted;
use crate::{
    grouping::{Caps, Chain, Drafts, draft, in_nonce_order},
    planted::Bug,
};

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
    pub anchors: Vec<Arc<Anchor>>,
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

/// What the planner remembers of a transaction and its attempt: there are hundreds of thousands of them, and they
/// are looked up in no order, so each byte counts. Two that have the name in common by chance, or because somebody
/// has found such a pair with 2^32 hashes, are taken for one until the first is forgotten: the other waits, and
/// its next attempt has another name.
fn name_of(tx: &TxRef) -> u64 {
    let [.., a, b, c, d, e, f, g, h] = tx.hash.0;
    // Odd, so that attempts of one transaction never share a name.
    let attempt = u64::from(tx.attempt).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    u64::from_be_bytes([a, b, c, d, e, f, g, h]) ^ attempt
}

/// A block to be made, and what it is made from.
struct Next {
    block: BeaconBlock,
    /// Where the intents of its plan stand among those that wait, in the order of the plan.
    order: Vec<usize>,
    anchors: Vec<Arc<Anchor>>,
}

/// The beacon's whole state.
#[derive(Clone, Serialize, Deserialize)]
pub struct Planner {
    config: PlannerConfig,
    block: Arc<BeaconBlock>,
    hash: B256,
    waiting: VecDeque<Intent>,
    /// What waits and what was planned, by [`name_of`], until its last valid round: never planned again.
    known: HashSet<u64>,
    /// What was planned, by its last valid round.
    planned_until: BTreeMap<u64, Vec<u64>>,
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
    announced: Vec<Option<Arc<Anchor>>>,
    /// Newest anchor of each shard that a block has taken in.
    anchors: Vec<Option<Arc<Anchor>>>,
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
            known: HashSet::default(),
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

    /// The newest block that every shard has passed, as far as blocks have taken it in.
    pub fn passed_by_all(&self) -> u64 {
        let passed = |anchor: &Option<Arc<Anchor>>| anchor.as_ref().map_or(0, |anchor| anchor.cut);
        self.anchors.iter().map(passed).min().unwrap_or(0)
    }

    /// Intents that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Groups that no block has decided.
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// The first group planned of those.
    pub fn oldest_open(&self) -> Option<GroupId> {
        self.open.keys().next().copied()
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
        let is_new = self.known.insert(name_of(&intent.tx));
        if is_new {
            self.waiting.push_back(intent);
        }
        is_new
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
            *slot = Some(Arc::new(anchor));
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
            let head = |anchor: &Option<Arc<Anchor>>| anchor.as_ref().map_or(0, |a| a.head);
            // The same state at a later cut can wait for the heartbeat: else each block would make
            // the next one.
            let root = |anchor: &Option<Arc<Anchor>>| Some(anchor.as_ref()?.root?.root);
            head(announced) > head(anchored) || root(announced) != root(anchored)
        })
    }

    /// The next block: a function of this state, the time and the randomness handed in.
    pub fn propose(&self, now_ms: u64, randomness: B256) -> BeaconRecord {
        let Next { block, order, anchors } = self.next(now_ms, randomness);
        let intents = order.iter().map(|at| self.waiting[*at].clone()).collect();
        BeaconRecord { block: Arc::new(block), intents, anchors }
    }

    /// Makes the next block: proposes it and applies it, for less.
    pub fn make(&mut self, now_ms: u64, randomness: B256) -> BeaconRecord {
        let Next { block, order, anchors } = self.next(now_ms, randomness);
        let mut stays = vec![true; self.waiting.len()];
        let mut take = |at: &usize| {
            stays[*at] = false;
            let Intent { tx, origin, sender, nonce, gas_limit, last_valid_round, halvings, .. } =
                self.waiting[*at];
            let keys = std::mem::take(&mut self.waiting[*at].keys);
            Intent { tx, origin, sender, nonce, gas_limit, last_valid_round, halvings, keys }
        };
        let intents = order.iter().map(&mut take).collect();
        let record = BeaconRecord { block: Arc::new(block), intents, anchors };
        let number = record.block.number();
        let mut stays = stays.into_iter();
        self.waiting
            .retain(|intent| stays.next().unwrap_or(true) && intent.last_valid_round >= number);
        self.advance(&record);
        record
    }

    /// Brings the state to after a block.
    pub fn apply(&mut self, record: &BeaconRecord) {
        let planned: HashSet<TxRef> = record.intents.iter().map(|intent| intent.tx).collect();
        let number = record.block.number();
        self.known.extend(planned.iter().map(name_of));
        self.waiting
            .retain(|intent| intent.last_valid_round >= number && !planned.contains(&intent.tx));
        self.advance(record);
    }

    fn next(&self, now_ms: u64, randomness: B256) -> Next {
        let number = self.block.number() + 1;
        let time_ms = now_ms.max(self.block.time_ms);
        let decisions = self.decide(number);
        // They are ascending.
        let is_open = |id: &GroupId| decisions.binary_search_by_key(id, |d| d.group).is_err();
        let undecided = |key: u64| {
            let Some(groups) = self.fenced.get(&key) else { return (0, None) };
            let groups = groups.iter().filter(|id| is_open(id));
            groups.fold((0, None), |(count, _), last| (count + 1, Some(*last)))
        };
        let (plan, order) = self.plan(number, undecided);
        let anchors: Vec<Arc<Anchor>> = self
            .announced
            .iter()
            .zip(&self.anchors)
            .filter(|(announced, anchored)| announced != anchored)
            .filter_map(|(announced, _)| announced.clone())
            .collect();
        let settled = self.open.keys().find(|id| is_open(id)).map_or(number, |id| id.round);
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
            anchors: anchors.iter().map(|anchor| anchored(anchor)).collect(),
            settled,
        };
        Next { block, order, anchors }
    }

    /// Everything that a block changes but which intents wait.
    fn advance(&mut self, record: &BeaconRecord) {
        let block = &record.block;
        for anchor in &record.anchors {
            let shard = usize::from(anchor.shard.0);
            self.anchors[shard] = Some(Arc::clone(anchor));
            // In a replay nobody announces: what a block has taken in is the newest there is.
            let announced = &mut self.announced[shard];
            if announced.as_ref().is_none_or(|old| progress(anchor) > progress(old)) {
                *announced = Some(Arc::clone(anchor));
            }
        }
        for decision in &block.decisions {
            self.close(decision, block.number());
        }
        self.forget_commits();
        for due in &block.credits {
            self.credits_due.insert((due.from, due.to), due.up_to);
        }
        let mut intents = &record.intents[..];
        for group in &block.plan {
            let (members, rest) = intents.split_at(group.txs.len().min(intents.len()));
            intents = rest;
            self.open_group(group, members);
        }
        for planned in record.intents.chunk_by(|a, b| a.last_valid_round == b.last_valid_round) {
            let until = self.planned_until.entry(planned[0].last_valid_round).or_default();
            until.extend(planned.iter().map(|intent| name_of(&intent.tx)));
        }
        for tx in &block.dropped {
            self.known.remove(&name_of(tx));
        }
        while let Some(until) = self.planned_until.first_entry()
            && *until.key() < block.number()
        {
            for name in until.remove() {
                self.known.remove(&name);
            }
        }
        if block.env.timestamp > self.block.env.timestamp {
            self.priced_gas = self.gas_after(&record.anchors);
        }
        self.block = Arc::clone(block);
        self.hash = block.hash();
    }

    fn open_group(&mut self, group: &PlannedGroup, members: &[Intent]) {
        let mut behind = Vec::new();
        let written =
            |intent: &Intent| intent.keys.iter().map(|keys| keys.writes.len()).sum::<usize>();
        let mut writes = Vec::with_capacity(members.iter().map(written).sum());
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

    /// The groups of a round, and where their transactions stand among those that wait. `undecided` says
    /// how many undecided groups write a key, and which is the last.
    fn plan(
        &self,
        number: u64,
        undecided: impl Fn(u64) -> Chain,
    ) -> (Vec<PlannedGroup>, Vec<usize>) {
        let caps = Caps {
            group_gas: self.config.group_gas,
            round_gas: self.config.round_gas,
            round_txs: self.config.round_txs as usize,
            max_chain: self.config.max_chain,
            scan: 4 * self.config.round_txs as usize,
            bundle_gas: self.config.bundle_gas,
        };
        let absent = |shard: ShardId| {
            let cut = |anchor: &Arc<Anchor>| anchor.cut;
            let passed =
                self.announced.get(usize::from(shard.0)).map(|a| a.as_ref().map_or(0, cut));
            passed.is_none_or(|cut| cut + self.config.max_lag < number)
        };
        let waiting = self.waiting.iter().enumerate();
        let waiting = waiting.filter(|(_, intent)| intent.last_valid_round >= number);
        let Drafts { groups, mut members } = draft(waiting, undecided, absent, caps);
        let mut plan = Vec::with_capacity(groups.len());
        let mut rest = &mut members[..];
        for (index, draft) in groups.into_iter().enumerate() {
            let (members, behind) = rest.split_at_mut(draft.count);
            rest = behind;
            in_nonce_order(members);
            plan.push(PlannedGroup {
                id: GroupId { round: number, index: index as u32 },
                executor: draft.executor,
                owners: draft.owners.into_vec(),
                txs: members.iter().map(|(_, intent)| intent.tx).collect(),
                gas: draft.gas,
            });
        }
        (plan, members.into_iter().map(|(position, _)| position).collect())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_attempt_of_each_transaction_has_a_name_of_its_own() {
        let txs = (0..64u64).map(|tx| digest("test", &tx));
        let attempts = txs.flat_map(|hash| (0..64).map(move |attempt| TxRef { hash, attempt }));
        let names: HashSet<u64> = attempts.map(|tx| name_of(&tx)).collect();
        assert_eq!(names.len(), 64 * 64);
    }
}
