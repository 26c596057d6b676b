//! Groups: runs transactions of many shards on leased values, and splits what comes out by owner.

use std::{collections::BTreeMap, sync::Arc};

use alloy_primitives::{
    keccak256,
    map::{HashMap, HashSet},
};
use atoll_types::{
    Address, B256, BlockEnv, Bytes, KeySet, Part, Placement, PlannedGroup, Receipt, ReceiptKind,
    ShardId, SharedTx, StateKey, StateValue, TxOutcome, U256, Write,
};

use crate::{
    BlockExecutor, Bytecode, Changes, CodeCache, Effects, Fees, Hint, Invalid, Mode, Outcome,
    Parallel, Parallelism, Rules, Run, Sequential, StateView,
};

/// What a group reads that is the same on every shard, and so needs no lease.
pub trait Source {
    /// Code by its hash; `None` if it is not at hand. See [`StateView::code`].
    fn code(&self, hash: &B256) -> Option<Bytecode>;

    /// See [`StateView::block_hash`].
    fn block_hash(&self, number: u64) -> Option<B256> {
        let _ = number;
        None
    }

    /// See [`StateView::has_storage`].
    fn has_storage(&self, address: &Address) -> bool {
        let _ = address;
        false
    }
}

impl Source for CodeCache {
    fn code(&self, hash: &B256) -> Option<Bytecode> {
        self.get(hash)
    }
}

/// A group and everything that it runs on. The same group gives the same parts, wherever and however
/// often it is run.
#[derive(Clone, Copy, Debug)]
pub struct Group<'a> {
    pub placement: &'a Placement,
    pub plan: &'a PlannedGroup,
    pub env: &'a BlockEnv,
    pub rules: Rules,
    /// Placement epoch.
    pub epoch: u64,
    /// In the order of the plan.
    pub txs: &'a [SharedTx],
    /// The value of every key that the transactions are predicted to use, or were found to.
    pub values: &'a [Write],
    /// Keys among them that were leased late to be written.
    pub late_writes: &'a [StateKey],
    /// Keys that cannot be had: whoever needs one was predicted wrongly.
    pub refused: &'a [StateKey],
}

/// Why a group gave no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// Code that has to be fetched first, by hash. Then the group is run anew.
    #[error("it needs code that is not at hand: {0:?}")]
    Codes(Vec<B256>),
    /// Keys that have to be leased late, or refused, first. Then the group is run anew.
    #[error("it needs {0:?} beyond what it was leased")]
    Lacks(KeySet),
    #[error("it lists other transactions than its plan")]
    OtherTransactions,
    #[error("it has no value of {0:?}, which it may write")]
    NotLeased(StateKey),
}

macro_rules! forward {
    ($($pointer:ty),*) => {$(
        impl<S: Source + ?Sized> Source for $pointer {
            fn code(&self, hash: &B256) -> Option<Bytecode> {
                (**self).code(hash)
            }

            fn block_hash(&self, number: u64) -> Option<B256> {
                (**self).block_hash(number)
            }

            fn has_storage(&self, address: &Address) -> bool {
                (**self).has_storage(address)
            }
        }
    )*};
}

forward!(&S, Arc<S>);

impl Group<'_> {
    /// Runs the group: every owner's part, ascending. An owner's part holds the value of every key
    /// that the group has fenced there, changed or not.
    pub fn run(&self, source: &dyn Source) -> Result<Vec<Part>, GroupError> {
        let leased = self.leased(source);
        let fenced = self.fenced();
        let block = Sequential::new(self.env, self.rules, self.fees(&fenced), &leased);
        self.run_by(block, &leased, &fenced)
    }

    /// The same, with the help of other threads where that is faster.
    pub fn run_with<S: Source + Send + Sync + 'static>(
        &self,
        source: S,
        lanes: &Parallelism,
    ) -> Result<Vec<Part>, GroupError> {
        let leased = Arc::new(self.leased(source));
        let fenced = self.fenced();
        let block = Parallel::new(self.env, self.rules, self.fees(&fenced), &leased, lanes);
        self.run_by(block, &leased, &fenced)
    }

    fn leased<S: Source>(&self, source: S) -> Leased<S> {
        Leased { source, values: self.values.iter().copied().collect() }
    }

    fn fenced(&self) -> HashSet<StateKey> {
        let planned = self.txs.iter().flat_map(|tx| &tx.keys.writes);
        planned.chain(self.late_writes).copied().collect()
    }

    /// If the group has the coinbase's balance, its transactions pay into it. Otherwise none of them
    /// sees it.
    fn fees(&self, fenced: &HashSet<StateKey>) -> Fees {
        let coinbase = StateKey::Basic(self.env.coinbase);
        if fenced.contains(&coinbase) { Fees::AtOnce } else { Fees::After }
    }

    fn run_by<S: Source>(
        &self,
        block: impl BlockExecutor,
        leased: &Leased<S>,
        fenced: &HashSet<StateKey>,
    ) -> Result<Vec<Part>, GroupError> {
        let listed = self.txs.iter().map(SharedTx::reference);
        if !listed.eq(self.plan.txs.iter().copied()) {
            return Err(GroupError::OtherTransactions);
        }
        let late = self.late_writes.iter().map(|key| self.placement.owner_of(key));
        let owners = self.plan.owners.iter().copied().chain(late);
        Running {
            group: self,
            values: &leased.values,
            fenced,
            block,
            parts: owners.map(|owner| (owner, self.part(owner))).collect(),
            lacking: Default::default(),
            refused: self.refused.iter().copied().collect(),
        }
        .run()
    }

    fn part(&self, owner: ShardId) -> Part {
        Part {
            chain_id: self.env.chain_id,
            epoch: self.epoch,
            group: self.plan.id,
            executor: self.plan.executor,
            owner,
            writes: Vec::new(),
            codes: Vec::new(),
            receipts: Vec::new(),
            outcomes: Vec::new(),
            fees: U256::ZERO,
            burned: U256::ZERO,
            sources: Vec::new(),
        }
    }
}

/// The leased values and nothing else.
struct Leased<S> {
    source: S,
    values: HashMap<StateKey, StateValue>,
}

impl<S: Source> StateView for Leased<S> {
    fn read(&self, key: &StateKey) -> Option<StateValue> {
        self.values.get(key).copied()
    }

    fn code(&self, hash: &B256) -> Option<Bytecode> {
        self.source.code(hash)
    }

    fn block_hash(&self, number: u64) -> Option<B256> {
        self.source.block_hash(number)
    }

    fn has_storage(&self, address: &Address) -> bool {
        self.source.has_storage(address)
    }
}

struct Running<'a, B> {
    group: &'a Group<'a>,
    /// What was leased.
    values: &'a HashMap<StateKey, StateValue>,
    fenced: &'a HashSet<StateKey>,
    block: B,
    parts: BTreeMap<ShardId, Part>,
    /// Keys to be read and written that have to be leased late before there can be a result.
    lacking: (Vec<StateKey>, Vec<StateKey>),
    refused: HashSet<StateKey>,
}

impl<B: BlockExecutor> Running<'_, B> {
    fn run(mut self) -> Result<Vec<Part>, GroupError> {
        let txs = self.group.txs;
        let hints = txs.iter().map(|shared| {
            let SharedTx { tx, keys, .. } = shared;
            Hint { tx, mode: Mode::Transact, keys: Some(keys) }
        });
        self.block.prepare(&hints.collect::<Vec<_>>());
        for (index, tx) in txs.iter().enumerate() {
            let outcome = self.one(index as u32, tx)?;
            if let Some(part) = self.parts.get_mut(&tx.origin) {
                part.outcomes.push((*tx.tx.hash(), outcome));
            }
        }
        let (reads, writes) = std::mem::take(&mut self.lacking);
        if !reads.is_empty() || !writes.is_empty() {
            return Err(GroupError::Lacks(KeySet::new(reads, writes)));
        }
        self.split()
    }

    fn one(&mut self, index: u32, shared: &SharedTx) -> Result<TxOutcome, GroupError> {
        let run = self.block.attempt(&shared.tx, Mode::Transact);
        if !run.missing_codes.is_empty() && run.missing.is_empty() {
            return Err(GroupError::Codes(run.missing_codes));
        }
        if let Some(missing) = self.beyond(&run) {
            if missing.all().any(|key| self.refused.contains(key)) {
                return Ok(self.wrong(index, shared, missing));
            }
            return Ok(self.lacks(run, missing));
        }
        Ok(match run.outcome {
            Outcome::Executed(effects) => {
                self.include(index, shared, *effects);
                TxOutcome::Executed
            }
            Outcome::Invalid(invalid) => refused(&invalid),
            // Without missing keys and code there is an outcome of another kind.
            Outcome::Missing => TxOutcome::Wrong { missing: run.used },
        })
    }

    /// The group is going to be run again with these keys. What comes after it is run all the same, as
    /// well as can be told, to find out what else is lacking.
    fn lacks(&mut self, run: Run, missing: KeySet) -> TxOutcome {
        let reads = missing.reads.iter().filter(|key| !self.values.contains_key(key));
        let writes = missing.writes.iter().filter(|key| !self.fenced.contains(key));
        self.lacking.0.extend(reads);
        self.lacking.1.extend(writes);
        if let Outcome::Executed(effects) = &run.outcome {
            self.block.keep(effects);
        }
        TxOutcome::Wrong { missing }
    }

    /// What a run used beyond what was leased to read and fenced to write.
    fn beyond(&self, run: &Run) -> Option<KeySet> {
        let unfenced = run.used.writes.iter().filter(|key| !self.fenced.contains(key));
        let beyond = KeySet::new(run.missing.iter().copied(), unfenced.copied());
        (beyond.all().next().is_some()).then(|| {
            // Everything that the run was found to use comes along: one attempt, not one a key.
            let unleased = |key: &&StateKey| !self.values.contains_key(key);
            let reads = run.used.reads.iter().filter(unleased);
            beyond.union(&KeySet::new(reads.copied(), run.used.writes.iter().copied()))
        })
    }

    /// A wrong prediction changes nothing and comes back; one too many is included as failed.
    fn wrong(&mut self, index: u32, shared: &SharedTx, missing: KeySet) -> TxOutcome {
        if shared.wrong + 1 < SharedTx::MAX_WRONG {
            return TxOutcome::Wrong { missing };
        }
        let run = self.block.attempt(&shared.tx, Mode::Fail);
        match run.outcome {
            Outcome::Executed(effects) => {
                self.include(index, shared, *effects);
                TxOutcome::Executed
            }
            Outcome::Invalid(invalid) => refused(&invalid),
            Outcome::Missing => TxOutcome::Wrong { missing: run.used },
        }
    }

    fn include(&mut self, index: u32, shared: &SharedTx, effects: Effects) {
        self.block.keep(&effects);
        let shards = self.shards(shared, &effects);
        let Some(part) = self.parts.get_mut(&shared.origin) else { return };
        part.fees += effects.fee;
        part.burned += effects.burned;
        let tx = &shared.tx;
        part.receipts.push(Receipt {
            tx: *tx.hash(),
            sender: tx.sender(),
            nonce: tx.nonce(),
            to: tx.to(),
            executed: effects.executed,
            kind: ReceiptKind::Group(self.group.plan.id),
            shards,
            round: self.group.env.number,
            index,
            block: 0,
        });
    }

    /// The shards that a transaction has involved.
    fn shards(&self, shared: &SharedTx, effects: &Effects) -> Vec<ShardId> {
        let placement = self.group.placement;
        let mut shards = shared.keys.owners(placement);
        if !self.group.late_writes.is_empty() {
            shards.extend(effects.writes.iter().map(|(key, _)| placement.owner_of(key)));
            shards.sort_unstable();
            shards.dedup();
        }
        shards
    }

    fn split(self) -> Result<Vec<Part>, GroupError> {
        let Self { group, values, fenced, block, mut parts, .. } = self;
        let Changes { writes, codes, fees: _ } = block.finish();
        let codes: HashMap<B256, Bytes> =
            codes.into_iter().map(|code| (keccak256(&code), code)).collect();
        let changed: HashMap<StateKey, StateValue> = writes.into_iter().collect();
        let mut keys: Vec<StateKey> = fenced.iter().copied().collect();
        keys.sort_unstable();
        for key in keys {
            let Some(part) = parts.get_mut(&group.placement.owner_of(&key)) else { continue };
            let value = changed.get(&key).or_else(|| values.get(&key));
            let value = *value.ok_or(GroupError::NotLeased(key))?;
            let created = matches!(key, StateKey::Code(_)).then(|| codes.get(&value.code().hash));
            if let Some(code) = created.flatten()
                && !part.codes.contains(code)
            {
                part.codes.push(code.clone());
            }
            part.writes.push((key, value));
        }
        Ok(parts.into_values().collect())
    }
}

fn refused(invalid: &Invalid) -> TxOutcome {
    match invalid {
        Invalid::NonceTooHigh { .. } => TxOutcome::Behind,
        other => TxOutcome::Invalid { reason: other.to_string() },
    }
}
