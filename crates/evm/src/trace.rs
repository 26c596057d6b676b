//! What a transaction or a call did on its way, as geth's tracers tell it.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use alloy_primitives::{Address, B256, Log as EvmLog, U256};
use alloy_rpc_types_trace::geth::{GethDebugBuiltInTracerType, GethDebugTracerType};
pub use alloy_rpc_types_trace::geth::{
    GethDebugTracingCallOptions, GethDebugTracingOptions, GethTrace,
};
use atoll_types::{Basic, KECCAK_EMPTY, StateKey, Tx};
use revm::{
    DatabaseRef,
    bytecode::opcode,
    context::result::{ExecutionResult, ResultAndState},
    context_interface::{ContextTr as _, context::ContextError},
    inspector::{Inspector, InspectorHandler as _},
    interpreter::{
        CallInputs, CallOutcome, CreateInputs, CreateOutcome, Interpreter,
        interpreter::EthInterpreter,
        interpreter_types::{InputsTr as _, Jumps as _, ReturnData as _},
    },
    state::AccountInfo,
};
use revm_inspectors::tracing::{DebugInspector, TransactionContext};

use crate::{
    Bytecode, CallRequest, Effects, Executor, Invalid, OnMissing, StateView,
    db::{EMPTY_ACCOUNT, Missing},
    effects,
    env::{self, Settings},
    executor::{Failure, gas_price},
    handler::{AtollContext, AtollEvm, AtollHandler, Error},
    journal::Tracked,
};

/// About what a step of the struct logger takes besides its stack, in bytes; and a call's frame.
const STEP_BYTES: usize = 256;
const FRAME_BYTES: usize = 512;
/// A slot in the storage that is shown with each access of one, as text.
const SLOT_BYTES: usize = 160;

/// One of geth's tracers, and how much it may tell.
#[derive(Clone, Debug)]
pub struct Tracer {
    options: GethDebugTracingOptions,
    max_bytes: usize,
}

/// Why there is no such tracer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TracerError {
    #[error(
        "tracer `{0}` is not there; there are callTracer, flatCallTracer, prestateTracer, \
         4byteTracer, muxTracer, noopTracer, and the struct logger without a name"
    )]
    Unknown(String),
    #[error("invalid tracerConfig")]
    Config,
}

/// Where a transaction stands.
#[derive(Clone, Copy, Debug, Default)]
pub struct TracePlace {
    pub block: Option<B256>,
    pub tx: Option<B256>,
    pub index: Option<usize>,
}

/// An attempt to trace. The fields are those of [`crate::Run`].
#[derive(Clone, Debug)]
pub struct TraceRun {
    pub outcome: TraceOutcome,
    pub missing: Vec<StateKey>,
    pub missing_codes: Vec<B256>,
}

/// How an attempt to trace ended.
#[derive(Clone, Debug)]
pub enum TraceOutcome {
    Done {
        trace: Box<GethTrace>,
        /// Of a transaction; a call has none.
        effects: Option<Box<Effects>>,
    },
    /// It cannot be run on this state.
    Invalid(Invalid),
    /// It does more than the tracer may tell.
    TooLong,
    /// The view lacks something that it needs.
    Missing,
}

impl Tracer {
    /// The tracer that options ask for. What it remembers of one execution, and so about what its
    /// answer takes, is at most `max_bytes`.
    ///
    /// # Errors
    /// If there is no such tracer, or its configuration makes no sense.
    pub fn new(options: GethDebugTracingOptions, max_bytes: usize) -> Result<Self, TracerError> {
        use GethDebugBuiltInTracerType as Kind;
        match &options.tracer {
            None => {}
            Some(GethDebugTracerType::BuiltInTracer(
                Kind::FourByteTracer
                | Kind::CallTracer
                | Kind::FlatCallTracer
                | Kind::PreStateTracer
                | Kind::MuxTracer
                | Kind::NoopTracer,
            )) => {}
            Some(other) if other.as_str().is_empty() => {}
            Some(other) => return Err(TracerError::Unknown(short(other.as_str()))),
        }
        let tracer = Self { options, max_bytes };
        tracer.inspector()?;
        Ok(tracer)
    }

    fn inspector(&self) -> Result<Bounded, TracerError> {
        let inner = DebugInspector::new(self.options.clone()).map_err(|_| TracerError::Config)?;
        let steps = match &inner {
            DebugInspector::Default(_, config) => Some(Steps {
                left: config.limit.filter(|limit| *limit > 0).unwrap_or(u64::MAX),
                stack: !config.disable_stack.unwrap_or_default(),
                memory: config.is_memory_enabled(),
                returned: config.is_return_data_enabled(),
                storage: config.is_storage_enabled().then(BTreeMap::new),
            }),
            _ => None,
        };
        Ok(Bounded { inner, steps, left: self.max_bytes, over: false })
    }
}

/// The beginning of a name, which may be a whole program.
fn short(name: &str) -> String {
    name.chars().take(64).collect()
}

/// What the struct logger remembers of a step.
struct Steps {
    /// How many more.
    left: u64,
    stack: bool,
    memory: bool,
    returned: bool,
    /// Slots that each account has shown.
    storage: Option<BTreeMap<Address, BTreeSet<U256>>>,
}

/// A tracer that ends the execution when it has too much to tell.
pub(crate) struct Bounded {
    inner: DebugInspector,
    steps: Option<Steps>,
    left: usize,
    over: bool,
}

impl Bounded {
    fn take(&mut self, bytes: usize, context: &mut AtollContext<'_>) {
        self.over |= bytes > self.left;
        self.left = self.left.saturating_sub(bytes);
        if self.over && context.error().is_ok() {
            *context.error() = Err(ContextError::Custom("the trace is too long".to_owned()));
        }
    }

    /// About the size of what is remembered of the next step.
    fn weight(&mut self, interp: &Interpreter) -> usize {
        let Some(steps) = self.steps.as_mut().filter(|steps| steps.left > 0) else { return 0 };
        steps.left -= 1;
        let stack = interp.stack.data();
        let mut weight = STEP_BYTES;
        weight += if steps.stack { 32 * stack.len() } else { 0 };
        weight += if steps.memory { 2 * interp.memory.len() } else { 0 };
        weight += if steps.returned { 2 * interp.return_data.buffer().len() } else { 0 };
        if let Some(shown) = &mut steps.storage
            && matches!(interp.bytecode.opcode(), opcode::SLOAD | opcode::SSTORE)
            && let Some(slot) = stack.last()
        {
            let slots = shown.entry(interp.input.target_address()).or_default();
            slots.insert(*slot);
            weight += SLOT_BYTES * slots.len();
        }
        weight
    }
}

impl<'v> Inspector<AtollContext<'v>, EthInterpreter> for Bounded {
    fn initialize_interp(&mut self, interp: &mut Interpreter, context: &mut AtollContext<'v>) {
        self.inner.initialize_interp(interp, context);
    }

    fn step(&mut self, interp: &mut Interpreter, context: &mut AtollContext<'v>) {
        let weight = self.weight(interp);
        self.take(weight, context);
        if self.over {
            interp.halt_fatal();
        } else {
            self.inner.step(interp, context);
        }
    }

    fn step_end(&mut self, interp: &mut Interpreter, context: &mut AtollContext<'v>) {
        self.inner.step_end(interp, context);
    }

    fn log(&mut self, context: &mut AtollContext<'v>, log: EvmLog) {
        self.take(FRAME_BYTES + 2 * log.data.data.len(), context);
        self.inner.log(context, log);
    }

    fn log_full(&mut self, interp: &mut Interpreter, context: &mut AtollContext<'v>, log: EvmLog) {
        self.take(FRAME_BYTES + 2 * log.data.data.len(), context);
        self.inner.log_full(interp, context, log);
    }

    fn call(
        &mut self,
        context: &mut AtollContext<'v>,
        inputs: &mut CallInputs,
    ) -> Option<CallOutcome> {
        self.take(FRAME_BYTES + 2 * inputs.input.len(), context);
        self.inner.call(context, inputs)
    }

    fn call_end(
        &mut self,
        context: &mut AtollContext<'v>,
        inputs: &CallInputs,
        outcome: &mut CallOutcome,
    ) {
        self.take(2 * outcome.result.output.len(), context);
        self.inner.call_end(context, inputs, outcome);
    }

    fn create(
        &mut self,
        context: &mut AtollContext<'v>,
        inputs: &mut CreateInputs,
    ) -> Option<CreateOutcome> {
        self.take(FRAME_BYTES + 2 * inputs.init_code().len(), context);
        self.inner.create(context, inputs)
    }

    fn create_end(
        &mut self,
        context: &mut AtollContext<'v>,
        inputs: &CreateInputs,
        outcome: &mut CreateOutcome,
    ) {
        self.take(2 * outcome.result.output.len(), context);
        self.inner.create_end(context, inputs, outcome);
    }

    fn selfdestruct(&mut self, contract: Address, target: Address, value: U256) {
        Inspector::<AtollContext<'v>>::selfdestruct(&mut self.inner, contract, target, value);
    }
}

/// The state before, for tracers that show it. What it lacks counts as empty, and is noted.
struct Before<'v> {
    view: &'v dyn StateView,
    missing: RefCell<(Vec<StateKey>, Vec<B256>)>,
}

impl DatabaseRef for Before<'_> {
    type Error = Missing;

    fn basic_ref(&self, address: Address) -> Result<Option<AccountInfo>, Missing> {
        let [basic, code] = [StateKey::Basic(address), StateKey::Code(address)].map(|key| {
            self.view.read(&key).unwrap_or_else(|| {
                self.missing.borrow_mut().0.push(key);
                key.absent()
            })
        });
        let Basic { nonce, balance } = basic.basic();
        let hash = code.code().hash;
        let code_hash = if hash == EMPTY_ACCOUNT { KECCAK_EMPTY } else { hash };
        Ok(Some(AccountInfo { balance, nonce, code_hash, account_id: None, code: None }))
    }

    fn code_by_hash_ref(&self, hash: B256) -> Result<Bytecode, Missing> {
        Ok(self.view.code(&hash).unwrap_or_else(|| {
            self.missing.borrow_mut().1.push(hash);
            Bytecode::default()
        }))
    }

    /// Tracers take the slots out of the execution.
    fn storage_ref(&self, _: Address, _: U256) -> Result<U256, Missing> {
        Ok(U256::ZERO)
    }

    fn block_hash_ref(&self, number: u64) -> Result<B256, Missing> {
        Ok(self.view.block_hash(number).unwrap_or_default())
    }
}

impl Executor {
    /// Runs a transaction and tells what it did. Keys that are missing are assumed to be absent, to
    /// find more of them; see [`OnMissing::Assume`].
    pub fn trace(
        &mut self,
        tx: &Tx,
        view: &dyn StateView,
        tracer: &Tracer,
        place: TracePlace,
    ) -> TraceRun {
        let tx = match env::transaction(tx, self.settings.rules) {
            Ok(tx) => tx,
            Err(reason) => return ended(TraceOutcome::Invalid(reason)),
        };
        let body =
            |evm: &mut AtollEvm<'_, Bounded>, settings: &Settings, before: &mut Before<'_>| {
                let result = AtollHandler::for_tx(settings).inspect_run(evm)?;
                let trace = told(evm, &result, place, before)?;
                let executed = effects::executed(result, gas_price(evm));
                let Tracked { inner, db } = &mut evm.ctx.journaled_state;
                let effects = effects::collect(db, &inner.state, &evm.ctx.tx, settings, executed);
                Ok((trace, Some(Box::new(effects))))
            };
        self.looked_on(false, tx, view, tracer, body)
    }

    /// Carries out a call and tells what it did.
    pub fn trace_call(
        &mut self,
        request: &CallRequest,
        view: &dyn StateView,
        tracer: &Tracer,
    ) -> TraceRun {
        let tx = env::request(request, self.settings.tx.chain_id);
        let body = |evm: &mut AtollEvm<'_, Bounded>, _: &Settings, before: &mut Before<'_>| {
            let result = AtollHandler::for_call(false).inspect_run(evm)?;
            Ok((told(evm, &result, TracePlace::default(), before)?, None))
        };
        self.looked_on(true, tx, view, tracer, body)
    }

    fn looked_on(
        &mut self,
        is_call: bool,
        tx: revm::context::TxEnv,
        view: &dyn StateView,
        tracer: &Tracer,
        body: impl FnOnce(
            &mut AtollEvm<'_, Bounded>,
            &Settings,
            &mut Before<'_>,
        ) -> Result<(Box<GethTrace>, Option<Box<Effects>>), Error>,
    ) -> TraceRun {
        // It was made once already.
        let Ok(inspector) = tracer.inspector() else {
            return ended(TraceOutcome::Invalid(Invalid::Other("invalid tracer".to_owned())));
        };
        let mut before = Before { view, missing: RefCell::default() };
        let mut over = false;
        let looked = |evm: &mut AtollEvm<'_, Bounded>, settings: &Settings| {
            let done = body(evm, settings, &mut before);
            over = evm.inspector.over;
            done
        };
        let view = (view, None, OnMissing::Assume);
        let (result, used) = self.attempt(is_call, tx, view, inspector, looked, |(_, effects)| {
            effects.as_deref().map_or(&[], |effects| &effects.writes)
        });
        let lacks = used.lacks();
        let (mut missing, mut missing_codes) = before.missing.into_inner();
        let lacks = lacks || !(missing.is_empty() && missing_codes.is_empty());
        missing.extend(used.missing);
        missing_codes.extend(used.missing_codes);
        let outcome = match result {
            _ if lacks => TraceOutcome::Missing,
            _ if over => TraceOutcome::TooLong,
            Ok((trace, effects)) => TraceOutcome::Done { trace, effects },
            Err(Failure::Missing) => TraceOutcome::Missing,
            Err(Failure::Invalid(reason)) => TraceOutcome::Invalid(reason),
        };
        TraceRun { outcome, missing, missing_codes }
    }
}

fn ended(outcome: TraceOutcome) -> TraceRun {
    TraceRun { outcome, missing: Vec::new(), missing_codes: Vec::new() }
}

fn told(
    evm: &mut AtollEvm<'_, Bounded>,
    result: &ExecutionResult,
    place: TracePlace,
    before: &mut Before<'_>,
) -> Result<Box<GethTrace>, Error> {
    let state = evm.ctx.journaled_state.inner.state.clone();
    let result = ResultAndState { result: result.clone(), state };
    let context =
        TransactionContext { block_hash: place.block, tx_index: place.index, tx_hash: place.tx };
    let (inspector, ctx) = (&mut evm.inspector.inner, &evm.ctx);
    let trace = inspector.get_result(Some(context), &ctx.tx, ctx.block, &result, before);
    trace.map(Box::new).map_err(|error| Error::Custom(error.to_string()))
}
