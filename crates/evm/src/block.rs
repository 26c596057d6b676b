//! Blocks and groups: transactions that run in order, each on what those before it left.

use std::panic::{AssertUnwindSafe, catch_unwind};

use atoll_types::{
    Address, Basic, BlockEnv, Bytes, KeySet, PANICS, StateKey, StateValue, Tx, U256, Write,
};

use crate::{Effects, Executor, Invalid, OnMissing, Outcome, Overlay, Rules, Run, StateView};

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

/// When the coinbase gets the priority fees of a block or group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fees {
    /// After it: see [`Changes::fees`].
    After,
    /// When a transaction uses the coinbase's balance, which then has the fees of all transactions
    /// before; and what nobody saw, after it.
    WhenUsed,
    /// With each transaction, as on Ethereum. Every transaction uses the coinbase's balance.
    AtOnce,
}

/// What a block or group changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The last value of each key that differs from before, sorted by key.
    pub writes: Vec<Write>,
    /// Code created, each once.
    pub codes: Vec<Bytes>,
    /// Priority fees in wei that are owed to the coinbase and not in its balance.
    pub fees: U256,
}

/// What is known of an attempt before it is made. Only a hint.
#[derive(Clone, Copy, Debug)]
pub struct Hint<'a> {
    pub tx: &'a Tx,
    pub mode: Mode,
    /// The keys that it is predicted to use.
    pub keys: Option<&'a KeySet>,
}

/// Runs the transactions of one block or group. An implementation may look ahead and run many at
/// once; the results are always those of attempts made one after another.
pub trait BlockExecutor {
    /// Says which transactions are about to be attempted, in this order.
    fn prepare(&mut self, _hints: &[Hint<'_>]) {}

    /// Runs a transaction on the state that the kept ones have left. It changes nothing by itself,
    /// but that under [`Fees::WhenUsed`] fees may have reached the coinbase.
    fn attempt(&mut self, tx: &Tx, mode: Mode) -> Run;

    /// Keeps the effects of the attempt that was made last.
    fn keep(&mut self, effects: &Effects);

    /// What all that was kept changes.
    fn finish(self) -> Changes;
}

/// One transaction at a time, on the calling thread.
pub struct Sequential<'v, V: StateView + ?Sized> {
    pub(crate) evm: Executor,
    pub(crate) overlay: Overlay<'v, V>,
    pub(crate) fees: Fees,
    /// Priority fees of kept transactions that the coinbase has not got.
    pub(crate) owed: U256,
    coinbase: Address,
}

impl<'v, V: StateView + ?Sized> Sequential<'v, V> {
    /// On top of `base`, with a block's values.
    pub fn new(env: &BlockEnv, rules: Rules, fees: Fees, base: &'v V) -> Self {
        let mut evm = Executor::with_rules(env, rules);
        evm.pay_coinbase(fees == Fees::AtOnce);
        let (overlay, owed, coinbase) = (Overlay::new(base), U256::ZERO, env.coinbase);
        Self { evm, overlay, fees, owed, coinbase }
    }

    fn once(&mut self, tx: &Tx, mode: Mode) -> Run {
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
            gas: 0,
        })
    }

    /// Runs a transaction that uses the coinbase's balance, under [`Fees::WhenUsed`].
    pub(crate) fn attempt_paid(&mut self, tx: &Tx, mode: Mode) -> Run {
        self.deposit();
        self.evm.pay_coinbase(true);
        let run = self.once(tx, mode);
        self.evm.pay_coinbase(false);
        run
    }

    /// Makes a run that has not paid the coinbase, nor used its balance, into one that has paid it at
    /// once; returns what the coinbase has then. `None` if that is another thing than adding to it.
    pub(crate) fn pay_after(&self, run: &mut Run) -> Option<Option<Write>> {
        let Outcome::Executed(effects) = &mut run.outcome else { return Some(None) };
        let (basic, code) = (StateKey::Basic(self.coinbase), StateKey::Code(self.coinbase));
        let had = self.overlay.read(&basic)?.basic();
        self.overlay.read(&code)?;
        if had == Default::default() || !self.evm.is_plain(&self.coinbase) {
            return None;
        }
        let KeySet { reads, writes } = &mut run.used;
        if let Err(at) = writes.binary_search(&basic) {
            writes.insert(at, basic);
        }
        if let (Err(at), Err(_)) = (reads.binary_search(&code), writes.binary_search(&code)) {
            reads.insert(at, code);
        }
        let fee = std::mem::take(&mut effects.fee);
        if fee.is_zero() {
            return Some(None);
        }
        let balance = had.balance.checked_add(fee)?;
        let paid = (basic, StateValue::Basic(Basic { balance, ..had }));
        let at = effects.writes.partition_point(|(key, _)| *key < basic);
        effects.writes.insert(at, paid);
        Some(Some(paid))
    }

    /// Puts the fees owed into the coinbase's balance.
    fn deposit(&mut self) {
        let key = StateKey::Basic(self.coinbase);
        let Some(value) = self.overlay.read(&key) else { return };
        let mut basic = value.basic();
        // No wei is created, so the sum cannot overflow; see `Owner::deposit_due`.
        basic.balance = basic.balance.saturating_add(std::mem::take(&mut self.owed));
        self.overlay.set(key, StateValue::Basic(basic));
    }
}

impl<V: StateView + ?Sized> BlockExecutor for Sequential<'_, V> {
    fn attempt(&mut self, tx: &Tx, mode: Mode) -> Run {
        let run = self.once(tx, mode);
        let uses = || run.used.writes.binary_search(&StateKey::Basic(self.coinbase)).is_ok();
        if self.fees != Fees::WhenUsed || matches!(run.outcome, Outcome::Missing) || !uses() {
            return run;
        }
        self.attempt_paid(tx, mode)
    }

    fn keep(&mut self, effects: &Effects) {
        self.overlay.apply(effects);
        self.owed += effects.fee;
    }

    fn finish(self) -> Changes {
        let codes = self.overlay.codes().to_vec();
        Changes { writes: self.overlay.into_writes(), codes, fees: self.owed }
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
        let mut block = Sequential::new(&env, Rules::default(), Fees::WhenUsed, &Broken);
        for _ in 0..2 {
            let run = block.attempt(&tx, Mode::Transact);
            assert!(matches!(run.outcome, Outcome::Invalid(Invalid::Other(why)) if why == PANICS));
        }
    }
}
