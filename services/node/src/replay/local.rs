use std::sync::Arc;

use atoll_evm::{
    BlockExecutor, Changes, Fees, Hint, Invalid, Mode, Outcome, Parallel, Parallelism, Sequential,
};
use atoll_types::{Executed, KeySet};

use super::{Block, Memory};

/// What became of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// What it did, or why it cannot run.
    pub outcome: Result<Executed, Invalid>,
    /// The keys that it used, where it stood in its block.
    pub used: KeySet,
}

/// Runs a block as a shard runs a local one, one transaction after another, and pays the coinbase
/// what it has not got by the end. What cannot run is left out.
pub fn sequential(block: &Block<'_>, fees: Fees, state: &mut Memory) -> Vec<Ran> {
    let (ended, changes) = run(block, Sequential::new(block.env, block.rules, fees, &*state));
    settle(block, changes, state);
    ended
}

/// The same with the help of other threads.
pub fn parallel(
    block: &Block<'_>,
    fees: Fees,
    state: &mut Memory,
    lanes: &Parallelism,
) -> Vec<Ran> {
    let before = Arc::new(std::mem::take(state));
    let (ended, changes) = run(block, Parallel::new(block.env, block.rules, fees, &before, lanes));
    // A helper may be about to notice that there is nothing more to do.
    *state = Arc::unwrap_or_clone(before);
    settle(block, changes, state);
    ended
}

fn run(block: &Block<'_>, mut run: impl BlockExecutor) -> (Vec<Ran>, Changes) {
    let hint = |tx| Hint { tx, mode: Mode::Transact, keys: None };
    run.prepare(&block.txs.iter().map(hint).collect::<Vec<_>>());
    let mut ended = Vec::with_capacity(block.txs.len());
    for tx in block.txs {
        let attempt = run.attempt(tx, Mode::Transact);
        let outcome = match attempt.outcome {
            Outcome::Executed(effects) => {
                run.keep(&effects);
                Ok(effects.executed)
            }
            Outcome::Invalid(invalid) => Err(invalid),
            // A state in memory has every key; code may be missing from a damaged one.
            Outcome::Missing => {
                let codes = attempt.missing_codes;
                Err(Invalid::Other(format!("code is not at hand: {codes:?}")))
            }
        };
        ended.push(Ran { outcome, used: attempt.used });
    }
    (ended, run.finish())
}

fn settle(block: &Block<'_>, changes: Changes, state: &mut Memory) {
    let Changes { writes, codes, fees } = changes;
    state.extend(writes);
    for code in codes {
        state.insert_code(code);
    }
    if !fees.is_zero() {
        state.give(block.env.coinbase, fees);
    }
}
