//! Transactions of an Ethereum block executed anew, in listed order on the state before it, to tell
//! what they did.

use std::fmt;
use std::io;

use alloy_primitives::{Address, B256};
use atoll_evm::{
    Bytecode, Effects, Executor, GethTrace, OnMissing, Outcome, Overlay, Rules, StateView,
    TraceOutcome, TracePlace, Tracer,
};
use atoll_fabric::Context;
use atoll_types::{BlockEnv, ReceiptKind, StateKey, StateValue, Tx};
use serde_json::value::RawValue;

use crate::call::{Attempt, Known};

/// What is executed, and what is told of it.
pub(crate) struct Replay {
    pub env: BlockEnv,
    pub rules: Rules,
    /// Hash of the block.
    pub block: B256,
    pub steps: Vec<Step>,
    pub tracer: Tracer,
    /// Length of all texts together.
    pub max_bytes: usize,
    pub context: Context,
}

/// A transaction, and what its receipt says.
pub(crate) struct Step {
    pub tx: Tx,
    pub kind: ReceiptKind,
    pub status: bool,
    pub gas_used: u64,
    /// Its index in the block, if what it did is to be told.
    pub told: Option<usize>,
}

/// What is told of one transaction: its trace, or why there is none.
pub(crate) type Told = Result<Box<RawValue>, String>;

/// Why nothing can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReplayError {
    Late,
    TooLong,
}

/// One step's end.
enum End {
    Executed(Box<Effects>, Option<Box<GethTrace>>),
    Refused(String),
    TooLong,
    Lacks(Vec<StateKey>, Vec<B256>),
}

/// The receiver of a payment to another shard, which has no code where the payment is debited.
struct Codeless<'a>(&'a dyn StateView, Option<Address>);

impl StateView for Codeless<'_> {
    fn read(&self, key: &StateKey) -> Option<StateValue> {
        match key {
            StateKey::Code(address) if Some(*address) == self.1 => Some(key.absent()),
            key => self.0.read(key),
        }
    }

    fn code(&self, hash: &B256) -> Option<Bytecode> {
        self.0.code(hash)
    }

    fn block_hash(&self, number: u64) -> Option<B256> {
        self.0.block_hash(number)
    }

    fn has_storage(&self, address: &Address) -> bool {
        self.0.has_storage(address)
    }
}

impl Replay {
    /// Accounts that are needed in any case.
    pub fn accounts(&self) -> Vec<Address> {
        let both = |step: &Step| [Some(step.tx.sender()), step.tx.to()];
        let all = self.steps.iter().flat_map(both).flatten();
        all.chain([self.env.coinbase]).collect()
    }

    /// One attempt: what it lacks, or what there is to tell.
    pub fn run(&self, view: &Known) -> Attempt<Result<Vec<Told>, ReplayError>> {
        match self.pass(view, false) {
            // Only now, for what is told on the way to what is missing is told in vain.
            Attempt::Done(Ok(_)) => self.pass(view, true),
            other => other,
        }
    }

    fn pass(&self, view: &Known, telling: bool) -> Attempt<Result<Vec<Told>, ReplayError>> {
        let mut evm = Executor::with_rules(&self.env, self.rules);
        evm.pay_coinbase(true);
        let mut state = Overlay::new(view);
        let (mut keys, mut codes) = (Vec::new(), Vec::new());
        let (mut told, mut left) = (Vec::new(), self.max_bytes);
        for step in &self.steps {
            if self.context.expired() {
                return Attempt::Done(Err(ReplayError::Late));
            }
            let index = step.told.filter(|_| telling);
            let (effects, said) = match self.step(&mut evm, &state, step, index) {
                End::Lacks(more_keys, more_codes) => {
                    keys.extend(more_keys);
                    codes.extend(more_codes);
                    continue;
                }
                End::TooLong => return Attempt::Done(Err(ReplayError::TooLong)),
                End::Refused(reason) => (None, Err(reason)),
                End::Executed(effects, trace) => match said(step, &effects, trace, &mut left) {
                    Ok(said) => (Some(effects), said),
                    Err(error) => return Attempt::Done(Err(error)),
                },
            };
            if index.is_some() {
                told.push(said);
            }
            let effects = effects.filter(|effects| step.agrees(effects));
            // One that was included as failed, for its predictions were wrong.
            let charged = || match evm.fail(&step.tx, &state).outcome {
                Outcome::Executed(effects) => Some(effects).filter(|charged| step.agrees(charged)),
                _ => None,
            };
            if let Some(effects) = effects.or_else(charged) {
                state.apply(&effects);
            }
        }
        if keys.is_empty() && codes.is_empty() {
            return Attempt::Done(Ok(told));
        }
        keys.sort_unstable();
        keys.dedup();
        codes.sort_unstable();
        codes.dedup();
        Attempt::Lacks(keys, codes)
    }

    fn step(
        &self,
        evm: &mut Executor,
        state: &Overlay<'_, Known>,
        step: &Step,
        index: Option<usize>,
    ) -> End {
        let is_payment = step.kind == ReceiptKind::Credit;
        if !is_payment && index.is_none() {
            return end(evm.transact(&step.tx, state, OnMissing::Assume), None);
        }
        let mut trace = None;
        if let Some(index) = index {
            let place = TracePlace {
                block: Some(self.block),
                tx: Some(*step.tx.hash()),
                index: Some(index),
            };
            let view = Codeless(state, step.tx.to().filter(|_| is_payment));
            let run = evm.trace(&step.tx, &view, &self.tracer, place);
            match run.outcome {
                TraceOutcome::Missing => return End::Lacks(run.missing, run.missing_codes),
                TraceOutcome::TooLong => return End::TooLong,
                TraceOutcome::Invalid(reason) => return End::Refused(reason.to_string()),
                TraceOutcome::Done { trace: done, effects: Some(effects) } if !is_payment => {
                    return End::Executed(effects, Some(done));
                }
                TraceOutcome::Done { trace: done, .. } => trace = Some(done),
            }
        }
        // What the receiver gets is in the state from a later cut on.
        end(evm.debit(&step.tx, state), trace)
    }
}

impl Step {
    fn agrees(&self, effects: &Effects) -> bool {
        let executed = &effects.executed;
        // Whether a payment to another shard arrives is known later.
        let status = self.kind == ReceiptKind::Credit || executed.status == self.status;
        status && executed.gas_used == self.gas_used
    }
}

fn end(run: atoll_evm::Run, trace: Option<Box<GethTrace>>) -> End {
    match run.outcome {
        Outcome::Executed(effects) => End::Executed(effects, trace),
        Outcome::Invalid(reason) => End::Refused(reason.to_string()),
        Outcome::Missing => End::Lacks(run.missing, run.missing_codes),
    }
}

/// The text of a trace of what the receipt says too.
fn said(
    step: &Step,
    effects: &Effects,
    trace: Option<Box<GethTrace>>,
    left: &mut usize,
) -> Result<Told, ReplayError> {
    if !step.agrees(effects) {
        let (found, kept) = (effects.executed.gas_used, step.gas_used);
        return Ok(Err(format!(
            "re-execution in the order of the block ends otherwise than on its shards: gas used \
             {found}, the receipt says {kept}"
        )));
    }
    if step.kind == ReceiptKind::Credit && !step.status {
        return Ok(Err("the payment came back: its receiver on another shard has code".to_owned()));
    }
    match trace {
        Some(trace) => text(&trace, left).map(Ok),
        None => Ok(Err("there is no trace".to_owned())),
    }
}

/// A trace as JSON, unless it is longer than what is left.
pub(crate) fn text(trace: &GethTrace, left: &mut usize) -> Result<Box<RawValue>, ReplayError> {
    let mut text = Text { bytes: Vec::new(), left: *left };
    serde_json::to_writer(&mut text, trace).map_err(|_| ReplayError::TooLong)?;
    *left = text.left;
    let text = String::from_utf8(text.bytes).map_err(|_| ReplayError::TooLong)?;
    RawValue::from_string(text).map_err(|_| ReplayError::TooLong)
}

struct Text {
    bytes: Vec<u8>,
    left: usize,
}

impl io::Write for Text {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let left = self.left.checked_sub(bytes.len());
        self.left = left.ok_or_else(|| io::Error::other("too long"))?;
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replay").field("block", &self.block).finish_non_exhaustive()
    }
}
