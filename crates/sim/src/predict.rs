//! Prediction: runs on the newest state of all shards, to learn what a transaction uses.

use atoll_evm::{Bytecode, CodeCache, Executor, Invalid, OnMissing, Outcome, StateView};
use atoll_types::{
    Address, B256, BlockEnv, KECCAK_EMPTY, KeySet, Placement, ShardId, StateKey, StateValue, Tx,
};

use crate::shard::Shard;

/// Highest address that Ethereum has given to a precompile in the low range, and P256VERIFY's.
const PRECOMPILES: [u64; 2] = [0x11, 0x100];

/// The newest values of a shard, and those of all others, whatever cut each of them has passed.
pub(crate) struct Newest<'a> {
    pub here: ShardId,
    /// Others' values are those of this cut, if it was passed.
    pub others_at: u64,
    pub shards: &'a [Shard],
    pub placement: &'a Placement,
    pub codes: &'a CodeCache,
}

impl StateView for Newest<'_> {
    fn read(&self, key: &StateKey) -> Option<StateValue> {
        let owner = self.placement.owner_of(key);
        let at = if owner == self.here { u64::MAX } else { self.others_at };
        let shard = self.shards.get(usize::from(owner.0));
        Some(shard.map_or(key.absent(), |shard| shard.ledger.values.at(key, at)))
    }

    fn code(&self, hash: &B256) -> Option<Bytecode> {
        self.codes.get(hash)
    }
}

/// What a transaction was found to be.
pub(crate) enum Prediction {
    /// A plain payment to an account of another shard without code.
    Credit(KeySet),
    Uses(KeySet),
    Invalid {
        reason: String,
        nonce_ahead: bool,
    },
}

pub(crate) fn predict(tx: &Tx, env: &BlockEnv, view: &Newest<'_>) -> Prediction {
    let mut evm = Executor::new(env);
    let credit = is_credit(tx, view);
    let run = if credit { evm.debit(tx, view) } else { evm.transact(tx, view, OnMissing::Assume) };
    match run.outcome {
        Outcome::Executed(_) if credit => Prediction::Credit(run.used),
        Outcome::Executed(_) => Prediction::Uses(run.used),
        Outcome::Invalid(invalid) => Prediction::Invalid {
            nonce_ahead: matches!(invalid, Invalid::NonceTooHigh { .. }),
            reason: invalid.to_string(),
        },
        Outcome::Missing => {
            let reason = "it needs code that nobody has".to_owned();
            Prediction::Invalid { reason, nonce_ahead: false }
        }
    }
}

fn is_credit(tx: &Tx, view: &Newest<'_>) -> bool {
    let Some(to) = tx.to() else { return false };
    // With input it may be a call of a contract whose creation the shard of `to` has yet to see.
    tx.input().is_empty()
        && !tx.authorizes()
        && !is_precompile(&to)
        && view.placement.owner(&to) != view.placement.owner(&tx.sender())
        && view.read(&StateKey::Code(to)).is_some_and(|code| code.code().hash == KECCAK_EMPTY)
}

fn is_precompile(address: &Address) -> bool {
    let (high, low) = address.split_at(12);
    let low = u64::from_be_bytes(low.try_into().unwrap_or([0; 8]));
    high.iter().all(|byte| *byte == 0) && (low <= PRECOMPILES[0] || low == PRECOMPILES[1])
}
