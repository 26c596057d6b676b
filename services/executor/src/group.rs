//! Groups: runs transactions of many shards on leased values, and splits what comes out by owner.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use alloy_primitives::keccak256;
use atoll_api::executor::{ExecutorError, GroupRun, RunGroups, RunGroupsReply};
use atoll_evm::{
    BlockExecutor, Bytecode, Changes, Effects, Invalid, Mode, Outcome, Run, Sequential, StateView,
};
use atoll_telemetry::stages;
use atoll_types::{
    B256, Bytes, GroupResult, KeySet, Part, Receipt, ReceiptKind, ShardId, SharedTx, StateKey,
    StateValue, TxOutcome, U256,
};

use crate::shared::Shared;

const MAX_PASSES: usize = 1_024;

/// The leased values and nothing else.
struct Leased<'a> {
    shared: &'a Shared,
    values: HashMap<StateKey, StateValue>,
}

impl StateView for Leased<'_> {
    fn read(&self, key: &StateKey) -> Option<StateValue> {
        self.values.get(key).copied()
    }

    fn code(&self, hash: &B256) -> Option<Bytecode> {
        self.shared.code(hash)
    }
}

/// Runs groups. The same request gives the same reply, wherever and however often it is run.
pub(crate) async fn run_groups(
    shared: Arc<Shared>,
    request: RunGroups,
) -> Result<RunGroupsReply, ExecutorError> {
    let txs = request.groups.iter().flat_map(|run| run.txs.iter().map(|shared| &shared.tx));
    let _stages = stages("run", shared.shard(), txs);
    let handle = tokio::runtime::Handle::current();
    let work = move || {
        let run = |run: GroupRun| match run_one(&shared, &run, &handle) {
            Ok(parts) => Some(GroupResult { group: run.group.id, parts }),
            Err(error) => {
                tracing::warn!(group = %run.group.id, %error, "group does not run");
                None
            }
        };
        request.groups.into_iter().filter_map(run).collect()
    };
    let results = tokio::task::spawn_blocking(work).await;
    let results = results.map_err(|e| ExecutorError::BadGroup { what: e.to_string() })?;
    Ok(RunGroupsReply { results })
}

/// On the blocking pool.
fn run_one(
    shared: &Shared,
    run: &GroupRun,
    handle: &tokio::runtime::Handle,
) -> Result<Vec<Part>, ExecutorError> {
    let listed = run.txs.iter().map(SharedTx::reference);
    if !listed.eq(run.group.txs.iter().copied()) {
        let what = format!("group {} lists other transactions", run.group.id);
        return Err(ExecutorError::BadGroup { what });
    }
    let leased = Leased { shared, values: run.values.iter().copied().collect() };
    let writable: HashSet<StateKey> =
        run.txs.iter().flat_map(|tx| &tx.keys.writes).copied().collect();
    for _ in 0..MAX_PASSES {
        match Group::new(shared, run, &leased, &writable).run() {
            Ok(parts) => return Ok(parts),
            // Code is read from this shard's state, where the router has put it.
            Err(codes) => {
                let unknown = handle.block_on(shared.fetch(Vec::new(), codes))?;
                if let Some(hash) = unknown.first() {
                    let what = format!("code {hash} is not with this shard's state");
                    return Err(ExecutorError::BadGroup { what });
                }
            }
        }
    }
    Err(ExecutorError::BadGroup { what: "it needs code without end".into() })
}

struct Group<'a> {
    shared: &'a Shared,
    request: &'a GroupRun,
    writable: &'a HashSet<StateKey>,
    leased: &'a Leased<'a>,
    block: Sequential<'a, Leased<'a>>,
    parts: BTreeMap<ShardId, Part>,
}

impl<'a> Group<'a> {
    fn new(
        shared: &'a Shared,
        request: &'a GroupRun,
        leased: &'a Leased<'a>,
        writable: &'a HashSet<StateKey>,
    ) -> Self {
        let part = |owner: &ShardId| {
            let part = Part {
                chain_id: request.env.chain_id,
                epoch: request.epoch,
                group: request.group.id,
                executor: request.group.executor,
                owner: *owner,
                writes: Vec::new(),
                codes: Vec::new(),
                receipts: Vec::new(),
                outcomes: Vec::new(),
                fees: U256::ZERO,
                burned: U256::ZERO,
                sources: Vec::new(),
            };
            (*owner, part)
        };
        Self {
            shared,
            request,
            writable,
            leased,
            block: Sequential::new(&request.env, leased),
            parts: request.group.owners.iter().map(part).collect(),
        }
    }

    /// Every owner's part, ascending; or the hashes of code that has to be fetched first.
    fn run(mut self) -> Result<Vec<Part>, Vec<B256>> {
        self.block.prepare(&self.request.txs.iter().map(|shared| &shared.tx).collect::<Vec<_>>());
        for (index, tx) in self.request.txs.iter().enumerate() {
            let outcome = self.one(index as u32, tx)?;
            if outcome != TxOutcome::Executed {
                let (hash, attempt, wrong) = (tx.tx.hash(), tx.attempt, tx.wrong);
                tracing::debug!(group = %self.request.group.id, tx = %hash, attempt, wrong, ?outcome, "attempt has no effect");
            }
            if let Some(part) = self.parts.get_mut(&tx.origin) {
                part.outcomes.push((*tx.tx.hash(), outcome));
            }
        }
        Ok(self.split())
    }

    fn one(&mut self, index: u32, shared: &SharedTx) -> Result<TxOutcome, Vec<B256>> {
        let run = self.block.attempt(&shared.tx, Mode::Transact);
        if !run.missing_codes.is_empty() && run.missing.is_empty() {
            return Err(run.missing_codes);
        }
        let missing = self.beyond(&run);
        if let Some(missing) = missing {
            return Ok(self.wrong(index, shared, missing));
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

    /// What a run used beyond what was leased to read and fenced to write.
    fn beyond(&self, run: &Run) -> Option<KeySet> {
        let unfenced = run.used.writes.iter().filter(|key| !self.writable.contains(key));
        let beyond = KeySet::new(run.missing.iter().copied(), unfenced.copied());
        (beyond.all().next().is_some()).then(|| {
            // Everything that the run was found to use comes along: one attempt, not one a key.
            let unleased = |key: &&StateKey| !self.leased.values.contains_key(key);
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
            kind: ReceiptKind::Group(self.request.group.id),
            shards: shared.keys.owners(self.shared.placement()),
            round: self.request.env.number,
            index,
            block: 0,
        });
    }

    fn split(self) -> Vec<Part> {
        let Self { shared, block, mut parts, .. } = self;
        let Changes { writes, codes } = block.finish();
        let codes: HashMap<B256, Bytes> =
            codes.into_iter().map(|code| (keccak256(&code), code)).collect();
        for (key, value) in writes {
            let Some(part) = parts.get_mut(&shared.placement().owner_of(&key)) else { continue };
            let created = matches!(key, StateKey::Code(_)).then(|| codes.get(&value.code().hash));
            if let Some(code) = created.flatten()
                && !part.codes.contains(code)
            {
                part.codes.push(code.clone());
            }
            part.writes.push((key, value));
        }
        parts.into_values().collect()
    }
}

fn refused(invalid: &Invalid) -> TxOutcome {
    match invalid {
        Invalid::NonceTooHigh { .. } => TxOutcome::Behind,
        other => TxOutcome::Invalid { reason: other.to_string() },
    }
}
