use std::fmt;

use alloy_primitives::U256;
use atoll_types::{BlockEnv, Executed, KeySet, StateKey, Tx, Write};
use revm::{
    context::{
        Context, Evm, FrameStack, JournalTr, LocalContext, Transaction, TxEnv,
        journal::JournalInner,
        result::{EVMError, ExecutionResult, HaltReason},
    },
    context_interface::journaled_state::{account::JournaledAccountTr, entry::JournalEntry},
    handler::{EthPrecompiles, Handler},
};

use crate::{
    CallEnd, CallOutcome, CallRequest, CallResult, CallRun, Effects, Fork, Invalid, OnMissing,
    Outcome, Rules, Run, StateView,
    db::{Db, Log, Seen, Used},
    effects,
    env::{self, Settings},
    handler::{AtollEvm, AtollHandler, Error, Frame, Instructions},
    journal::Tracked,
    parallel::{Dependencies, Traced},
};

/// Runs transactions of one block, one at a time. Cheap to make, and what it allocates it uses again.
/// It belongs to one thread (it is not `Send`). However a transaction ends, the executor is as good
/// as new for the next one.
pub struct Executor {
    pub(crate) settings: Settings,
    parts: Option<Parts>,
}

/// What revm can use again. It is taken out while a transaction runs: should revm panic, the next
/// transaction starts with new parts.
struct Parts {
    journal: JournalInner<JournalEntry>,
    local: LocalContext,
    frames: FrameStack<Frame>,
    log: Log,
}

/// Why an attempt gave no result.
pub(crate) enum Failure {
    Missing,
    Invalid(Invalid),
}

/// How a transaction is charged for without being executed.
#[derive(Clone, Copy)]
enum Charge {
    Debit,
    Fail,
}

impl Executor {
    /// An executor for transactions that run with a block's values, under a live chain's rules.
    pub fn new(env: &BlockEnv) -> Self {
        Self::with_rules(env, Rules::default())
    }

    /// An executor for transactions that run with a block's values and under its rules.
    pub fn with_rules(env: &BlockEnv, rules: Rules) -> Self {
        Self { settings: Settings::new(env, rules), parts: None }
    }

    /// Whether a transaction's priority fee goes to the coinbase before the transaction ends, as on
    /// Ethereum, or is handed out in [`crate::Effects::fee`], which is the default.
    pub fn pay_coinbase(&mut self, pays: bool) {
        self.settings.pays_coinbase = pays;
    }

    /// Whether an account is like any other under these rules: no precompile, and gone when empty.
    pub(crate) fn is_plain(&self, address: &alloy_primitives::Address) -> bool {
        let Settings { rules, precompiles, .. } = &self.settings;
        !rules.empty_accounts && !rules.keeps_empty() && !precompiles.contains(address)
    }

    /// Runs a transaction. A prediction is a run with [`OnMissing::Assume`].
    pub fn transact(&mut self, tx: &Tx, view: &dyn StateView, on_missing: OnMissing) -> Run {
        self.run(tx, (view, None), on_missing, transact).0
    }

    /// Runs a transaction, and says on what the outcome depends.
    pub(crate) fn speculate(&mut self, tx: &Tx, view: &dyn Traced) -> (Run, Dependencies) {
        self.run(tx, (view, Some(view)), OnMissing::Assume, transact)
    }

    /// The sender's side of a credit: a plain payment to an address on another shard that has no
    /// code. Checks, gas and price are as if it were executed; it uses `Basic` and `Code` of the
    /// sender and nothing else. The value leaves the sender and reaches nobody: the caller makes the
    /// credit.
    ///
    /// Whether the receiver has code is for the caller to know. A creation, a payment to oneself and
    /// a transaction with authorisations are refused as [`Invalid::Other`].
    pub fn debit(&mut self, tx: &Tx, view: &dyn StateView) -> Run {
        let to_another = tx.to().is_some_and(|to| to != tx.sender());
        if !to_another || tx.envelope().is_eip7702() {
            let reason = "not a plain payment to another account";
            return refused(Invalid::Other(reason.into()));
        }
        let body =
            |evm: &mut AtollEvm<'_>, settings: &Settings| charge(evm, settings, Charge::Debit);
        self.run(tx, (view, None), OnMissing::Stop, body).0
    }

    /// Includes a transaction as failed, for one whose prediction was wrong too often: status 0, all
    /// of the gas limit used and paid for, nonce + 1, and nothing else. Invalid for the same reasons
    /// for which running it would be.
    pub fn fail(&mut self, tx: &Tx, view: &dyn StateView) -> Run {
        let body =
            |evm: &mut AtollEvm<'_>, settings: &Settings| charge(evm, settings, Charge::Fail);
        self.run(tx, (view, None), OnMissing::Stop, body).0
    }

    /// Carries out a call that changes nothing. The caller's nonce and balance are used only if it
    /// sends value or creates. What the call would write counts as read.
    pub fn call(
        &mut self,
        request: &CallRequest,
        view: &dyn StateView,
        on_missing: OnMissing,
    ) -> CallRun {
        let tx = env::request(request, self.settings.tx.chain_id);
        let ignore_caller = request.value.is_zero() && request.to.is_some();
        let body =
            |evm: &mut AtollEvm<'_>, _: &Settings| AtollHandler::for_call(ignore_caller).run(evm);
        let (result, used) = self.attempt(true, tx, (view, None, on_missing), (), body, |_| &[]);
        let outcome = match result {
            _ if used.lacks() => CallOutcome::Missing,
            Ok(result) => CallOutcome::Done(call_result(result)),
            Err(Failure::Missing) => CallOutcome::Missing,
            Err(Failure::Invalid(reason)) => CallOutcome::Invalid(reason),
        };
        CallRun {
            outcome,
            used: used.keys,
            missing: used.missing,
            missing_codes: used.missing_codes,
        }
    }

    /// A call that others follow: what it changes is handed out, and its caller's nonce rises.
    pub fn call_in_order(
        &mut self,
        request: &CallRequest,
        view: &dyn StateView,
    ) -> (CallRun, Option<Box<Effects>>) {
        let tx = env::request(request, self.settings.tx.chain_id);
        let body = |evm: &mut AtollEvm<'_>, settings: &Settings| {
            let result = AtollHandler::for_call(false).run(evm)?;
            let executed = effects::executed(result.clone(), gas_price(evm));
            let Tracked { inner, db } = &mut evm.ctx.journaled_state;
            let effects = effects::collect(db, &inner.state, &evm.ctx.tx, settings, executed);
            Ok((result, Box::new(effects)))
        };
        let view = (view, None, OnMissing::Assume);
        let (result, used) = self.attempt(true, tx, view, (), body, |(_, e)| &e.writes);
        let (outcome, effects) = match result {
            _ if used.lacks() => (CallOutcome::Missing, None),
            Ok((result, effects)) => (CallOutcome::Done(call_result(result)), Some(effects)),
            Err(Failure::Missing) => (CallOutcome::Missing, None),
            Err(Failure::Invalid(reason)) => (CallOutcome::Invalid(reason), None),
        };
        let Used { keys, missing, missing_codes, .. } = used;
        (CallRun { outcome, used: keys, missing, missing_codes }, effects)
    }

    /// Runs `body` for a transaction and finds its effects.
    fn run(
        &mut self,
        tx: &Tx,
        (view, traced): (&dyn StateView, Option<&dyn Traced>),
        on_missing: OnMissing,
        body: impl FnOnce(&mut AtollEvm<'_>, &Settings) -> Result<Executed, Error>,
    ) -> (Run, Dependencies) {
        let tx = match env::transaction(tx, self.settings.rules) {
            Ok(tx) => tx,
            Err(reason) => return (refused(reason), Dependencies::default()),
        };
        let body = |evm: &mut AtollEvm<'_>, settings: &Settings| {
            let executed = body(evm, settings)?;
            let Tracked { inner, db } = &mut evm.ctx.journaled_state;
            let effects = effects::collect(db, &inner.state, &evm.ctx.tx, settings, executed);
            Ok(Box::new(effects))
        };
        let view = (view, traced, on_missing);
        let gas_limit = tx.gas_limit;
        let (result, mut used) = self.attempt(false, tx, view, (), body, |e| &e.writes);
        let gas = match &result {
            Ok(effects) => effects.executed.gas_used,
            Err(Failure::Missing) => gas_limit,
            Err(Failure::Invalid(_)) => 0,
        };
        used.write_if_read(StateKey::Basic(self.settings.block.beneficiary));
        let outcome = match result {
            _ if used.lacks() => Outcome::Missing,
            Ok(effects) => Outcome::Executed(effects),
            Err(Failure::Missing) => Outcome::Missing,
            Err(Failure::Invalid(reason)) => Outcome::Invalid(reason),
        };
        let Used { keys, dependencies, missing, missing_codes } = used;
        (Run { outcome, used: keys, missing, missing_codes, gas }, dependencies)
    }

    /// Builds revm around the parts, runs `body` on it and takes it apart again.
    pub(crate) fn attempt<T, I>(
        &mut self,
        is_call: bool,
        tx: TxEnv,
        (view, traced, on_missing): (&dyn StateView, Option<&dyn Traced>, OnMissing),
        inspector: I,
        body: impl FnOnce(&mut AtollEvm<'_, I>, &Settings) -> Result<T, Error>,
        writes: impl FnOnce(&T) -> &[Write],
    ) -> (Result<T, Failure>, Used) {
        let settings = &self.settings;
        let fork = settings.rules.fork;
        let parts = self.parts.take().unwrap_or_else(|| Parts::new(fork));
        let mut evm = Evm {
            ctx: Context {
                block: &settings.block,
                tx,
                cfg: if is_call { &settings.call } else { &settings.tx },
                journaled_state: Tracked {
                    inner: parts.journal,
                    db: Db::new(view, traced, on_missing, settings, parts.log),
                },
                chain: (),
                local: parts.local,
                error: Ok(()),
            },
            inspector,
            instruction: Instructions::new(&settings.gas),
            precompiles: EthPrecompiles { precompiles: settings.precompiles, spec: fork },
            frame_stack: parts.frames,
        };
        let result = body(&mut evm, settings).map_err(|error| failure(error, &evm));
        let Context { journaled_state: Tracked { mut inner, db }, local, .. } = evm.ctx;
        let mut log = db.log;
        let used = log.finish(result.as_ref().map_or(&[], writes), traced.is_some());
        let mut state = inner.finalize();
        env::clear(&mut state);
        inner.state = state;
        self.parts = Some(Parts { journal: inner, local, frames: evm.frame_stack, log });
        (result, used)
    }
}

impl Parts {
    fn new(fork: Fork) -> Self {
        let mut journal = JournalInner::new();
        journal.set_spec_id(fork);
        Self {
            journal,
            local: LocalContext::default(),
            frames: FrameStack::new(),
            log: Log::default(),
        }
    }
}

impl fmt::Debug for Executor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Executor").field("block", &self.settings.block).finish_non_exhaustive()
    }
}

/// Executes a transaction.
fn transact(evm: &mut AtollEvm<'_>, settings: &Settings) -> Result<Executed, Error> {
    let result = AtollHandler::for_tx(settings).run(evm)?;
    Ok(effects::executed(result, gas_price(evm)))
}

/// Charges the sender without executing anything.
fn charge(evm: &mut AtollEvm<'_>, settings: &Settings, how: Charge) -> Result<Executed, Error> {
    // Takes the fee for the whole gas limit, and raises the nonce unless it is a creation.
    let gas = AtollHandler::for_tx(settings).validate(evm)?;
    let price = gas_price(evm);
    let tx = &evm.ctx.tx;
    let gas_used = match how {
        Charge::Debit => gas.initial_total_gas().max(gas.floor_gas()),
        Charge::Fail => tx.gas_limit,
    };
    let unused = U256::from(tx.gas_limit - gas_used.min(tx.gas_limit)) * U256::from(price);
    let (value, is_create) = (tx.value, tx.kind.is_create());
    let mut sender = evm.ctx.journaled_state.load_account_mut(tx.caller)?.data;
    match how {
        Charge::Debit => {
            sender.incr_balance(unused);
            if !sender.decr_balance(value) {
                return Err(Error::Custom("the sender was charged too much".into()));
            }
        }
        Charge::Fail => {
            if is_create {
                sender.bump_nonce();
            }
        }
    }
    if settings.pays_coinbase {
        let tip = price.saturating_sub(settings.block.basefee.into());
        let fee = U256::from(gas_used) * U256::from(tip);
        evm.ctx.journaled_state.balance_incr(settings.block.beneficiary, fee)?;
    }
    Ok(Executed {
        status: matches!(how, Charge::Debit),
        gas_used,
        effective_gas_price: price,
        logs: Vec::new(),
        contract: None,
        output: Default::default(),
    })
}

/// In wei for each unit of gas.
pub(crate) fn gas_price<I>(evm: &AtollEvm<'_, I>) -> u128 {
    evm.ctx.tx.effective_gas_price(evm.ctx.block.basefee.into())
}

fn failure<I>(error: Error, evm: &AtollEvm<'_, I>) -> Failure {
    match error {
        EVMError::Database(_) => Failure::Missing,
        EVMError::Transaction(error) => {
            let Context { tx, block, .. } = &evm.ctx;
            let sender = evm.ctx.journaled_state.db.log.accounts.get(&tx.caller);
            let have = sender.map(Seen::basic).unwrap_or_default().balance;
            Failure::Invalid(Invalid::from_revm(error, tx, block, have))
        }
        other => Failure::Invalid(Invalid::Other(other.to_string())),
    }
}

/// A transaction that is refused whatever the state.
fn refused(reason: Invalid) -> Run {
    Run {
        outcome: Outcome::Invalid(reason),
        used: KeySet::default(),
        missing: Vec::new(),
        missing_codes: Vec::new(),
        gas: 0,
    }
}

fn call_result(result: ExecutionResult) -> CallResult {
    let end = match &result {
        ExecutionResult::Success { .. } => CallEnd::Success,
        ExecutionResult::Revert { .. } => CallEnd::Reverted,
        ExecutionResult::Halt { reason, .. } => {
            let out_of_gas = matches!(reason, HaltReason::OutOfGas(_));
            CallEnd::Halted {
                // geth has one message for all ways of running out of gas.
                reason: if out_of_gas { "out of gas".into() } else { reason.to_string() },
                out_of_gas,
            }
        }
    };
    CallResult {
        end,
        gas_used: result.tx_gas_used(),
        contract: result.created_address(),
        logs: result.logs().to_vec(),
        output: result.into_output().unwrap_or_default(),
    }
}
