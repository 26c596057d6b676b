//! What of a shard is durable: the real [`Owner`], the values of its keys, and what happened so
//! far, for the checks.

use std::{collections::BTreeMap, sync::Arc};

use atoll_commit::{CutEffects, EpochWrite, Owner, OwnerConfig};
use atoll_invariants::Property;
use atoll_types::{
    B256, BeaconBlock, Credit, Decision, GroupId, LocalBlock, Part, PartMessage, Receipt,
    ReceiptKind, Settlement, ShardId, SharedTx, StateKey, StateValue, TxRef, U256, Verdict, Write,
};
use serde::Serialize;

use crate::{
    canonical::{combine, fingerprint},
    scenario::Scenario,
    toy::CHAIN,
};

/// A property that does not hold, and what shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    pub property: &'static str,
    pub detail: String,
}

impl Broken {
    /// A property of [`Property`] that does not hold.
    pub fn new(property: Property, detail: impl Into<String>) -> Self {
        Self { property: property.id(), detail: detail.into() }
    }
}

/// The rule that a shard holds what a beacon block makes it do: no shard ever stops at a cut.
pub const DATA_BEFORE_ORDER: &str = "data-before-order";
/// The rule that what was read at a settled cut stays so.
pub const SETTLED_READS: &str = "settled-reads";

/// One entry of a shard's log.
#[derive(Clone, Debug)]
pub enum Input {
    Block(LocalBlock),
    /// A beacon block, and the hash of what it says.
    Cut(Arc<BeaconBlock>, u64),
    Share(SharedTx),
    Withdraw(TxRef),
    Result(GroupId, Vec<Part>),
    Part(PartMessage),
    Credits(ShardId, Vec<Credit>),
    Settle(Settlement),
    Grant(GroupId, Vec<Write>),
}

/// How the money of a shard stands at one of its cuts, in wei.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Purse {
    /// Balances, fees, burned, and credits held.
    pub here: U256,
    /// Sum of all credits ever sent, and of all ever received.
    pub sent: U256,
    pub received: U256,
}

/// Since when a group may write a key.
#[derive(Clone, Copy, Debug)]
pub struct Fence {
    /// The newest cut at that time.
    pub since: u64,
    /// It was leased late.
    pub late: bool,
}

/// What happened on a shard. No step looks at it, only checks do.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Every write, in the order in which it was applied.
    pub writes: Vec<EpochWrite>,
    pub receipts: Vec<Receipt>,
    pub blocks: Vec<Arc<LocalBlock>>,
    /// Groups of this shard that ended: with the digest applied, or with none.
    pub ended: BTreeMap<GroupId, Option<B256>>,
    /// Results kept here, by digest.
    pub results: BTreeMap<(GroupId, B256), Arc<Vec<PartMessage>>>,
    /// Keys that each group has fenced here.
    pub fences: BTreeMap<GroupId, BTreeMap<StateKey, Fence>>,
    /// By cut; those at cut 0 come first.
    pub purses: Vec<Purse>,
    pub sent: BTreeMap<(ShardId, u64), Credit>,
    received: U256,
    /// Newest settled cut that a block has named.
    settled: u64,
    /// Hash of all of this that a later check may look at, in its order.
    semantics: u64,
    /// Hash of the receipts, whose order no check looks at.
    told: u64,
}

/// What is durable: a function of the inputs.
#[derive(Clone)]
pub struct Ledger {
    pub owner: Owner,
    genesis: BTreeMap<StateKey, StateValue>,
    pub values: BTreeMap<StateKey, StateValue>,
    pub history: History,
}

impl Ledger {
    /// A shard's state after beacon block 0.
    pub fn new(scenario: &Scenario, shard: ShardId, genesis: &BeaconBlock) -> Self {
        let placement = scenario.placement.clone();
        let mine = scenario.genesis.iter().filter(|(key, _)| placement.owner_of(key) == shard);
        let values: BTreeMap<StateKey, StateValue> = mine.copied().collect();
        let config = OwnerConfig { chain_id: CHAIN, shard, placement, max_shared: 1_000 };
        #[cfg_attr(not(feature = "planted"), expect(unused_mut, reason = "it may get a bug"))]
        let mut owner = Owner::new(config, genesis);
        #[cfg(feature = "planted")]
        if let Some(bug) = scenario.bug {
            owner.plant(bug);
        }
        let genesis = values.clone();
        let mut ledger = Self { owner, genesis, values, history: History::default() };
        let purse = ledger.purse();
        ledger.history.purses.push(purse);
        ledger
    }

    /// The newest value of a key.
    pub fn value(&self, key: &StateKey) -> StateValue {
        self.values.get(key).copied().unwrap_or(key.absent())
    }

    /// The value of a key at a cut that was passed.
    pub fn value_at(&self, key: &StateKey, cut: u64) -> StateValue {
        let before = |write: &&EpochWrite| write.key == *key && write.epoch < cut;
        let first = || self.genesis.get(key).copied().unwrap_or(key.absent());
        self.history.writes.iter().rev().find(before).map_or_else(first, |write| write.value)
    }

    /// Hash of the state, histories that no check tells apart taken as one.
    pub fn fingerprint(&self) -> u64 {
        combine([fingerprint(&self.owner), self.history.semantics, self.history.told])
    }

    fn note<T: Serialize>(&mut self, what: &T) {
        self.history.semantics = combine([self.history.semantics, fingerprint(what)]);
    }

    /// Applies a write.
    pub fn write(&mut self, write: EpochWrite) -> Result<(), Broken> {
        let EpochWrite { key, value, epoch } = write;
        if epoch < self.history.settled {
            let settled = self.history.settled;
            let detail = format!("{key:?} changes in epoch {epoch}, cut {settled} was settled");
            return Err(Broken { property: SETTLED_READS, detail });
        }
        self.values.insert(key, value);
        self.history.writes.push(write);
        self.note(&(key, value, epoch));
        Ok(())
    }

    /// Takes in one entry of the log.
    pub fn apply(&mut self, input: &Input) -> Result<CutEffects, Broken> {
        let mut effects = CutEffects::default();
        match input {
            Input::Block(block) => self.block(block)?,
            Input::Cut(block, semantics) => effects = self.cut(block, *semantics)?,
            Input::Share(tx) => {
                self.owner.share(tx.clone());
            }
            Input::Withdraw(tx) => {
                self.owner.withdraw(*tx);
            }
            Input::Result(group, parts) => {
                self.owner.keep_result(*group, parts.clone());
                if let Some(result) = self.owner.result(*group)
                    && let Some(first) = result.first()
                {
                    let key = (*group, first.digest());
                    self.history.results.insert(key, Arc::new(result.to_vec()));
                }
            }
            Input::Part(part) => self.owner.keep_part(part.clone()),
            Input::Credits(from, credits) => {
                self.history.received += credits.iter().map(|credit| credit.amount).sum::<U256>();
                let ended = self.owner.receive(*from, credits);
                self.told(ended.into_iter().map(|(receipt, _)| receipt));
            }
            Input::Settle(settlement) => {
                let ended = self.owner.settle(*settlement);
                self.told(ended.into_iter().map(|(receipt, _)| receipt));
            }
            Input::Grant(group, values) => {
                effects.fenced = self.owner.grant(*group, values);
                let fence = Fence { since: self.owner.cut_number(), late: true };
                let keys = values.iter().map(|(key, _)| (*key, fence));
                self.history.fences.entry(*group).or_default().extend(keys);
                self.note(&(group, values, fence.since));
            }
        }
        self.note_sent();
        Ok(effects)
    }

    fn told(&mut self, receipts: impl IntoIterator<Item = Receipt>) {
        for receipt in receipts {
            self.history.told = self.history.told.wrapping_add(fingerprint(&receipt));
            self.history.receipts.push(receipt);
        }
    }

    fn note_sent(&mut self) {
        for to in self.owner.credit_receivers().collect::<Vec<_>>() {
            let sent = self.history.sent.range((to, 0)..=(to, u64::MAX));
            let known = sent.last().map_or(0, |((_, seq), _)| *seq);
            let fresh: Vec<Credit> = self.owner.credits_after(to, known).collect();
            self.history.sent.extend(fresh.into_iter().map(|credit| ((to, credit.seq), credit)));
        }
    }

    fn block(&mut self, block: &LocalBlock) -> Result<(), Broken> {
        if let Err(error) = self.owner.check_block(block, &[]) {
            return Err(Broken::new(Property::SerialEquivalence, error.to_string()));
        }
        self.append(block)
    }

    /// Takes in a block that nobody has checked.
    pub fn append(&mut self, block: &LocalBlock) -> Result<(), Broken> {
        for (key, value) in &block.writes {
            self.write(EpochWrite { key: *key, value: *value, epoch: block.round })?;
        }
        self.owner.append(block);
        for tx in &block.txs {
            self.note(&(block.round, &tx.receipt));
            if tx.receipt.kind == ReceiptKind::Local {
                self.history.receipts.push(tx.receipt.clone());
            }
        }
        self.history.blocks.push(Arc::new(block.clone()));
        Ok(())
    }

    fn cut(&mut self, block: &BeaconBlock, semantics: u64) -> Result<CutEffects, Broken> {
        if let Err(error) = self.owner.check_cut(block) {
            return Err(Broken { property: DATA_BEFORE_ORDER, detail: error.to_string() });
        }
        let here = self.owner.shard();
        let open = |end: &Decision| {
            let plan = self.owner.plan(end.group)?;
            Some((end.clone(), plan.owners.contains(&here)))
        };
        let ended: Vec<_> = block.decisions.iter().filter_map(open).collect();
        let values = &self.values;
        let view = |key: &StateKey| values.get(key).copied().unwrap_or(key.absent());
        let effects = self.owner.cut(block, &view);
        if let Some(violation) = effects.violations.first() {
            return Err(Broken { property: DATA_BEFORE_ORDER, detail: violation.clone() });
        }
        self.note(&semantics);
        for write in &effects.writes {
            self.write(*write)?;
        }
        self.told(effects.receipts.iter().cloned());
        for (end, owns) in ended {
            let applied = match end.verdict {
                Verdict::Commit { digest, late } if owns || late.contains(&self.owner.shard()) => {
                    Some(digest)
                }
                // It had leased late, and the result made no use of that.
                Verdict::Commit { .. } => continue,
                Verdict::Abort(_) => None,
            };
            self.history.ended.insert(end.group, applied);
        }
        for plan in &effects.opened {
            self.note_fences(plan.id);
        }
        self.history.settled = block.settled;
        // Before the purse is looked at: a credit may have gone back.
        self.note_sent();
        let purse = self.purse();
        self.history.purses.push(purse);
        Ok(effects)
    }

    /// What no ledger does: applies the writes of the newest commit once more.
    pub fn repeat_newest_commit(&mut self) -> Result<(), Broken> {
        let Some((group, Some(_))) = self.history.ended.last_key_value() else { return Ok(()) };
        let writes = self.history.writes.iter().filter(|write| write.epoch == group.round);
        for write in writes.copied().collect::<Vec<_>>() {
            self.write(write)?;
        }
        Ok(())
    }

    fn note_fences(&mut self, group: GroupId) {
        let Some(keys) = self.owner.keys(group) else { return };
        let fence = Fence { since: self.owner.cut_number(), late: false };
        let fences = keys.writes.iter().map(|key| (*key, fence)).collect();
        self.history.fences.insert(group, fences);
    }

    fn purse(&self) -> Purse {
        let balances: U256 = self.values.values().map(|value| value.basic().balance).sum();
        Purse {
            here: balances + self.owner.fees() + self.owner.burned() + self.owner.held_credits(),
            sent: self.history.sent.values().map(|credit| credit.amount).sum(),
            received: self.history.received,
        }
    }
}
