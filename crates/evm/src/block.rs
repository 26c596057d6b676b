//! Blocks and groups: transactions that run in order, each on what those before it left.

use std::panic::{AssertUnwindSafe, catch_unwind};

use atoll_types::{BlockEnv, Bytes, KeySet, Tx, Write};

use crate::{Effects, Executor, Invalid, OnMissing, Outcome, Overlay, Run, StateView};

/// Why a transaction is dropped that makes the executor panic: run again, it would do so again.
const PANICS: &str = "the transaction makes the executor panic; please report its hash";

/// How a transaction is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// As Ethereum does, finding as many of the missing keys as it can.
    Transact,
    /// As the sender's side of a payment to another shard: see [`Executor::debit`].
    Debit,
    /// Included as failed: see [`Executor::fail`].
    Fail,
}

/// What a block or group changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The last value of each key that differs from before, sorted by key.
    pub writes: Vec<Write>,
    /// Code created, each once.
    pub codes: Vec<Bytes>,
}

/// Runs the transactions of one block or group. An implementation may look ahead and run many at
/// once; the results are always those of attempts made one after another.
pub trait BlockExecutor {
    /// Says which transactions are about to be attempted, in this order, most likely as
    /// [`Mode::Transact`]. Only a hint.
    fn prepare(&mut self, _txs: &[&Tx]) {}

    /// Runs a transaction on the state that the kept ones have left. It changes nothing by itself.
    fn attempt(&mut self, tx: &Tx, mode: Mode) -> Run;

    /// Keeps the effects of the attempt that was made last.
    fn keep(&mut self, effects: &Effects);

    /// What all that was kept changes.
    fn finish(self) -> Changes;
}

/// One transaction at a time, on the calling thread.
pub struct Sequential<'v, V: StateView + ?Sized> {
    evm: Executor,
    overlay: Overlay<'v, V>,
}

impl<'v, V: StateView + ?Sized> Sequential<'v, V> {
    /// On top of `base`, with a block's values.
    pub fn new(env: &BlockEnv, base: &'v V) -> Self {
        Self { evm: Executor::new(env), overlay: Overlay::new(base) }
    }
}

impl<V: StateView + ?Sized> BlockExecutor for Sequential<'_, V> {
    fn attempt(&mut self, tx: &Tx, mode: Mode) -> Run {
        let (evm, overlay) = (&mut self.evm, &self.overlay);
        // The executor is as good as new after a panic, and the overlay is only read.
        let run = AssertUnwindSafe(|| match mode {
            Mode::Transact => evm.transact(tx, overlay, OnMissing::Assume),
            Mode::Debit => evm.debit(tx, overlay),
            Mode::Fail => evm.fail(tx, overlay),
        });
        catch_unwind(run).unwrap_or_else(|_| Run {
            outcome: Outcome::Invalid(Invalid::Other(PANICS.to_owned())),
            used: KeySet::default(),
            missing: Vec::new(),
            missing_codes: Vec::new(),
        })
    }

    fn keep(&mut self, effects: &Effects) {
        self.overlay.apply(effects);
    }

    fn finish(self) -> Changes {
        let codes = self.overlay.codes().to_vec();
        Changes { writes: self.overlay.into_writes(), codes }
    }
}

#[cfg(test)]
mod tests {
    use atoll_types::{Address, B256, StateKey, StateValue};

    use super::*;
    use crate::Bytecode;

    /// Stands for a defect somewhere below.
    struct Broken;

    impl StateView for Broken {
        fn read(&self, key: &StateKey) -> Option<StateValue> {
            panic!("a defect, found by {key:?}")
        }

        fn code(&self, _: &B256) -> Option<Bytecode> {
            None
        }
    }

    #[test]
    fn a_panicking_transaction_is_refused_and_the_next_one_runs() {
        let env = BlockEnv {
            chain_id: 1,
            number: 1,
            timestamp: 1,
            randomness: B256::ZERO,
            base_fee: 7,
            coinbase: Address::ZERO,
            gas_limit: 30_000_000,
        };
        // A legacy payment; the signature is not looked at.
        let raw = alloy_primitives::hex!(
            "f85f800a82520894000000000000000000000000000000000000000101801ba0\
             1111111111111111111111111111111111111111111111111111111111111111a0\
             1111111111111111111111111111111111111111111111111111111111111111"
        );
        let tx = Tx::trusted(Bytes::from(raw.to_vec()), Address::repeat_byte(1), None);
        let tx = tx.expect("it is a well-formed transaction");
        let mut block = Sequential::new(&env, &Broken);
        for _ in 0..2 {
            let run = block.attempt(&tx, Mode::Transact);
            assert!(matches!(run.outcome, Outcome::Invalid(Invalid::Other(why)) if why == PANICS));
        }
    }
}
