use atoll_evm::{BlockExecutor as _, Changes, Fees, Invalid, Mode, Outcome, Sequential};
use atoll_types::{Executed, KeySet};

use super::{Block, Memory};

/// What became of a transaction.
#[derive(Clone, Debug)]
pub struct Ran {
    /// What it did, or why it cannot run.
    pub outcome: Result<Executed, Invalid>,
    /// The keys that it used, where it stood in its block.
    pub used: KeySet,
}

/// Runs a block as a shard runs a local one, one transaction after another, and pays the coinbase
/// what it has not got by the end. What cannot run is left out.
pub fn sequential(block: &Block<'_>, fees: Fees, state: &mut Memory) -> Vec<Ran> {
    let mut run = Sequential::new(block.env, block.rules, fees, &*state);
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
    let Changes { writes, codes, fees } = run.finish();
    state.extend(writes);
    for code in codes {
        state.insert_code(code);
    }
    if !fees.is_zero() {
        state.give(block.env.coinbase, fees);
    }
    ended
}
