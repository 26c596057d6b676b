//! What is durable of a shard: a function of the inputs in its log.

use std::sync::Arc;

use atoll_commit::{CutEffects, EpochWrite, Owner, OwnerConfig, OwnerError};
use atoll_evm::CodeCache;
use atoll_invariants::{Property, Violation};
use atoll_types::{
    BeaconBlock, Bytes, Credit, GroupId, LocalBlock, LocalTx, Part, PartMessage, Receipt,
    ReceiptKind, Settlement, ShardId, SharedTx, StateKey, StateValue, TxRef, Write,
};

use crate::values::Values;

/// What the shard's log holds.
#[derive(Clone, Debug)]
pub enum Input {
    Block(LocalBlock),
    Cut(BeaconBlock),
    Share(SharedTx),
    Withdraw(TxRef),
    Result(GroupId, Vec<Part>),
    Part(PartMessage),
    Credits(ShardId, Vec<Credit>),
    Settle(Settlement),
    /// Keys leased late to a group, to be written.
    Grant(GroupId, Vec<Write>),
}

/// A shard's owner, values and receipts.
#[derive(Clone)]
pub struct Ledger {
    pub owner: Owner,
    pub values: Values,
    /// Final ones, in the order in which they became so.
    pub receipts: Vec<Receipt>,
    codes: Arc<CodeCache>,
}

impl Ledger {
    pub(crate) fn new(
        config: OwnerConfig,
        beacon: &BeaconBlock,
        genesis: &[Write],
        codes: Arc<CodeCache>,
    ) -> Self {
        let mine = |(key, _): &&Write| config.placement.owner_of(key) == config.shard;
        let values = Values::new(genesis.iter().filter(mine).copied());
        Self { owner: Owner::new(config, beacon), values, receipts: Vec::new(), codes }
    }

    pub fn shard(&self) -> ShardId {
        self.owner.shard()
    }

    /// The newest value of a key of this shard.
    pub fn value(&self, key: &StateKey) -> StateValue {
        self.values.get(key)
    }

    /// Applies one input. An error means that a property is broken.
    pub(crate) fn apply(&mut self, input: &Input) -> Result<CutEffects, Violation> {
        let mut effects = CutEffects::default();
        match input {
            Input::Block(block) => self.append(block)?,
            Input::Cut(block) => effects = self.cut(block)?,
            Input::Share(shared) => {
                self.owner.share(shared.clone());
            }
            Input::Withdraw(tx) => {
                let withdrawn = self.owner.withdraw(*tx);
                effects.dropped.extend(withdrawn.map(|tx| (tx, "withdrawn".to_owned())));
            }
            Input::Result(group, parts) => self.owner.keep_result(*group, parts.clone()),
            Input::Part(part) => self.owner.keep_part(part.clone()),
            Input::Credits(from, credits) => {
                let ended = self.owner.receive(*from, credits);
                self.receipts.extend(ended.into_iter().map(|(receipt, _)| receipt));
            }
            Input::Settle(settlement) => {
                let ended = self.owner.settle(*settlement);
                self.receipts.extend(ended.into_iter().map(|(receipt, _)| receipt));
            }
            Input::Grant(group, values) => effects.fenced = self.owner.grant(*group, values),
        }
        Ok(effects)
    }

    fn append(&mut self, block: &LocalBlock) -> Result<(), Violation> {
        self.owner.check_block(block, &[]).map_err(|error| self.refused(&error))?;
        for (key, value) in &block.writes {
            self.write(&EpochWrite { key: *key, value: *value, epoch: block.round })?;
        }
        self.keep_codes(&block.codes);
        self.owner.append(block);
        let local = |tx: &&LocalTx| tx.receipt.kind == ReceiptKind::Local;
        self.receipts.extend(block.txs.iter().filter(local).map(|tx| tx.receipt.clone()));
        Ok(())
    }

    fn cut(&mut self, block: &BeaconBlock) -> Result<CutEffects, Violation> {
        self.owner.check_cut(block).map_err(|error| self.refused(&error))?;
        let values = &self.values;
        let effects = self.owner.cut(block, &|key| values.get(key));
        if let Some(detail) = effects.violations.first() {
            let detail = format!("shard {}: {detail}", self.shard());
            return Err(Violation { property: Property::SerialEquivalence, detail });
        }
        self.keep_codes(&effects.codes);
        for write in &effects.writes {
            self.write(write)?;
        }
        self.receipts.extend(effects.receipts.iter().cloned());
        Ok(effects)
    }

    fn write(&mut self, write: &EpochWrite) -> Result<(), Violation> {
        if self.values.write(write) {
            return Ok(());
        }
        let detail = format!("{write:?} comes after a write of a later epoch");
        Err(Violation { property: Property::SerialEquivalence, detail })
    }

    fn keep_codes(&self, codes: &[Bytes]) {
        for code in codes {
            self.codes.insert(code.clone());
        }
    }

    pub(crate) fn refused(&self, error: &OwnerError) -> Violation {
        let property = match error {
            OwnerError::NotHeld { .. } => Property::Atomicity,
            OwnerError::Pinned(_) => Property::NonceOrder,
            OwnerError::NotHead { .. } | OwnerError::CutGap { .. } | OwnerError::OtherChain(_) => {
                Property::Determinism
            }
            OwnerError::Fenced(_) | OwnerError::Foreign { .. } => Property::SerialEquivalence,
        };
        Violation { property, detail: format!("shard {}: {error}", self.shard()) }
    }

    /// Whether all that can be seen of two ledgers is the same.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let [here, there] = [&self.owner, &other.owner];
        let money = |owner: &Owner| (owner.burned(), owner.fees(), owner.held_credits());
        let credits = |owner: &Owner| -> Vec<Credit> {
            owner.credit_receivers().flat_map(|to| owner.credits_after(to, 0)).collect()
        };
        let fenced = |owner: &Owner| {
            let mut keys: Vec<StateKey> = owner.fenced().copied().collect();
            keys.sort_unstable();
            keys
        };
        self.values == other.values
            && self.receipts == other.receipts
            && here.anchor() == there.anchor()
            && fenced(here) == fenced(there)
            && here.open_groups().eq(there.open_groups())
            && here.awaited().eq(there.awaited())
            && here.results().eq(there.results())
            && here.own_shared().eq(there.own_shared())
            && here.unplanned().eq(there.unplanned())
            && here.returned().eq(there.returned())
            && money(here) == money(there)
            && credits(here) == credits(there)
            && here.settlements() == there.settlements()
    }
}
