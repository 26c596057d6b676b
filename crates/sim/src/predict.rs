//! Prediction: runs on the newest state of all shards, to learn what a transaction uses.

use atoll_evm::{
    Ahead, Bytecode, Chain, CodeCache, Effects, Executor, Footing, Invalid, OnMissing, Outcome,
    StateView,
};
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

    fn block_hash(&self, number: u64) -> Option<B256> {
        let home = self.shards.get(usize::from(self.here.0))?;
        home.ledger.owner.block_hash(number)
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

/// Predicts a transaction after those of its sender that are under way, and notes what it does.
pub(crate) fn predict(
    tx: &Tx,
    (env, cut): (&BlockEnv, u64),
    view: &Newest<'_>,
    ahead: &Ahead,
) -> (Prediction, Option<(bool, Box<Effects>)>) {
    let sender = tx.sender();
    let account =
        view.read(&StateKey::Basic(sender)).map(|value| value.basic()).unwrap_or_default();
    let mut chain = Chain::new(view, sender, account);
    let behind =
        |reason: &str| (Prediction::Invalid { reason: reason.to_owned(), nonce_ahead: true }, None);
    if !chain.reach(tx.nonce(), ahead, cut) {
        return behind("an earlier one is not on its way");
    }
    let home = view.shards.get(usize::from(view.here.0));
    let pinned = home.is_some_and(|shard| shard.ledger.owner.is_pinned(&sender));
    let credit = !pinned && chain.takes_credit() && is_credit(tx, chain.state(), view.placement);
    if !credit && chain.awaits_debit() {
        return behind("an earlier payment is not debited yet");
    }
    let mut evm = Executor::new(env);
    let run = if credit {
        evm.debit(tx, chain.state())
    } else {
        evm.transact(tx, chain.state(), OnMissing::Assume)
    };
    let prediction = match run.outcome {
        Outcome::Executed(effects) => {
            let kind = if credit { Prediction::Credit } else { Prediction::Uses };
            return (kind(run.used), Some((credit, effects)));
        }
        Outcome::Invalid(invalid) => Prediction::Invalid {
            // On what is only predicted nothing is for certain.
            nonce_ahead: chain.footing() != Footing::Real
                || matches!(invalid, Invalid::NonceTooHigh { .. }),
            reason: invalid.to_string(),
        },
        Outcome::Missing => {
            let reason = "it needs code that nobody has".to_owned();
            Prediction::Invalid { reason, nonce_ahead: false }
        }
    };
    (prediction, None)
}

fn is_credit(tx: &Tx, state: &impl StateView, placement: &Placement) -> bool {
    let Some(to) = tx.to() else { return false };
    // With input it may be a call of a contract whose creation the shard of `to` has yet to see.
    tx.input().is_empty()
        && !tx.authorizes()
        && !is_precompile(&to)
        && placement.owner(&to) != placement.owner(&tx.sender())
        && state.read(&StateKey::Code(to)).is_some_and(|code| code.code().hash == KECCAK_EMPTY)
}

fn is_precompile(address: &Address) -> bool {
    let (high, low) = address.split_at(12);
    let low = u64::from_be_bytes(low.try_into().unwrap_or([0; 8]));
    high.iter().all(|byte| *byte == 0) && (low <= PRECOMPILES[0] || low == PRECOMPILES[1])
}
