//! Many transactions of a block at once, with the results of running one after another.
//!
//! An optimistic executor of the family of Block-STM (Gelashvili and others, 2022), made for blocks of
//! cheap transactions and few threads. One thread *leads*: it takes the transactions in order, on the
//! state that the kept ones have left, exactly as [`Sequential`] does. Others run transactions ahead
//! of it, on what those before are known or guessed to write. When the lead comes to one that was run
//! ahead, it looks whether all that the run depends on is still so: then that is its result, and if
//! not, it runs the transaction itself. So help can only save time, and nobody is waited for but while
//! a result is written down: a lead that finds a transaction half done runs another one meanwhile, or
//! the same.

mod ahead;
mod board;
mod costs;
mod crew;
mod each;
mod memory;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, OnceLock, PoisonError, RwLock},
};

use alloy_primitives::{Address, B256, map::HashMap};
use atoll_types::{BlockEnv, StateKey, StateValue, Tx, Write};

use self::{
    ahead::{Ahead, Kept, Settled, Tried},
    costs::{Estimate, Plan},
};
pub(crate) use self::{
    ahead::{Dependencies, Loose},
    memory::Trace,
};
pub use self::{
    costs::{Clock, Parallelism, Policy},
    crew::{Crew, Helpers, Job, Nobody},
};
use crate::{
    BlockExecutor, Bytecode, Changes, Effects, Executor, Fees, Hint, Mode, Outcome, Rules, Run,
    Sequential, StateView,
};

/// How often one in so many transactions is timed that run on one thread alone.
const SAMPLE: usize = 16;
/// The same of those that the lead runs while others help.
const AIDED_SAMPLE: usize = 4;
/// How many times a helper looks for work before it goes.
const LOOKS: usize = 200;
/// Results of no use after which a block is left to the lead, if they are most.
const BROKEN: usize = 12;

/// Runs a block with the help of other threads whenever that is faster.
pub struct Parallel<'v, V: StateView + Send + Sync + 'static> {
    lead: Sequential<'v, V>,
    base: &'v Arc<V>,
    lanes: &'v Parallelism,
    env: BlockEnv,
    rules: Rules,
    ahead: Option<Running<V>>,
    /// Attempts so far.
    count: usize,
    /// What was expected of what was announced last, when that was, and whether with help.
    expected: Option<(Estimate, u64, bool)>,
}

/// A list of transactions that are run ahead.
struct Running<V> {
    block: Arc<Block<V>>,
    plan: Plan,
    kept: Kept,
    /// The transaction that is attempted, or was last.
    at: Option<usize>,
    now: Now,
    /// Writes of the one that was run ahead that are to other values than it guessed.
    moved: Vec<Write>,
    useful: usize,
    broken: usize,
    /// Helpers that were called at the beginning.
    called: usize,
}

/// How it stands with the transaction that was attempted last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Now {
    /// It was run at its turn, and may be kept.
    Run,
    /// It has the result of when it was run ahead, whose writes stand in the memory already.
    Adopted,
    /// It is kept, or it was passed over.
    Past,
}

/// What the threads share.
struct Block<V> {
    base: Arc<V>,
    env: BlockEnv,
    rules: Rules,
    txs: Vec<Tx>,
    ahead: Ahead<Box<Speculation>>,
    /// Code that was created in the block so far.
    codes: RwLock<HashMap<B256, Bytecode>>,
    clock: Clock,
    /// When helpers were called, and how long it took until one began.
    called_ns: u64,
    woke_ns: OnceLock<u64>,
}

/// What came of a transaction ahead of its turn; nothing, if it panicked.
struct Speculation {
    run: Option<Run>,
    dependencies: Dependencies,
}

impl Tried for Box<Speculation> {
    fn dependencies(&self) -> &Dependencies {
        &self.dependencies
    }

    fn writes(&self) -> &[Write] {
        self.run.as_ref().map_or(&[], writes)
    }
}

fn writes(run: &Run) -> &[Write] {
    run.outcome.executed().map_or(&[], |effects| &effects.writes)
}

/// A view that says where its values are from.
pub(crate) trait Traced: StateView {
    fn trace(&self, key: &StateKey) -> (Option<StateValue>, Trace);
}

/// The state as a transaction ahead of its turn finds it.
struct Guess<'b, V> {
    block: &'b Block<V>,
    index: usize,
}

impl<V: StateView> StateView for Guess<'_, V> {
    fn read(&self, key: &StateKey) -> Option<StateValue> {
        self.trace(key).0
    }

    fn code(&self, hash: &B256) -> Option<Bytecode> {
        let codes = self.block.codes.read().unwrap_or_else(PoisonError::into_inner);
        let created = codes.get(hash).cloned();
        drop(codes);
        created.or_else(|| self.block.base.code(hash))
    }

    fn block_hash(&self, number: u64) -> Option<B256> {
        self.block.base.block_hash(number)
    }

    fn has_storage(&self, address: &Address) -> bool {
        self.block.base.has_storage(address)
    }
}

impl<V: StateView> Traced for Guess<'_, V> {
    fn trace(&self, key: &StateKey) -> (Option<StateValue>, Trace) {
        let (known, trace) = self.block.ahead.memory.before(key, self.index);
        (known.or_else(|| self.block.base.read(key)), trace)
    }
}

impl<V: StateView + Send + Sync> Block<V> {
    /// Runs a transaction that was claimed.
    fn speculate(&self, evm: &mut Executor, index: usize) {
        let view = Guess { block: self, index };
        let run = AssertUnwindSafe(|| evm.speculate(&self.txs[index], &view));
        // One that panics is left to its turn.
        let (run, dependencies) = catch_unwind(run).ok().unzip();
        let dependencies = dependencies.unwrap_or_default();
        self.ahead.put(index, Box::new(Speculation { run, dependencies }));
    }

    /// On another thread, until there is nothing more to do.
    fn help(&self) {
        self.woke_ns.get_or_init(|| (self.clock)().saturating_sub(self.called_ns));
        let mut evm = Executor::with_rules(&self.env, self.rules);
        let patient = |looks| {
            std::thread::yield_now();
            looks < LOOKS
        };
        let ahead = |index| self.speculate(&mut evm, index);
        self.ahead.board.help(ahead, patient);
    }
}

impl<V: StateView + Send + Sync + 'static> Running<V> {
    /// Where a transaction stands in the list, unless it was passed already.
    fn find(&mut self, tx: &Tx) -> Option<usize> {
        let next = self.at.map_or(0, |at| at + 1);
        let rest = self.block.txs.get(next..).unwrap_or_default();
        let index = next + rest.iter().position(|listed| listed.hash() == tx.hash())?;
        (next..index).for_each(|passed| self.block.ahead.skip(passed));
        self.at = Some(index);
        Some(index)
    }

    /// Calls whoever is idle; returns how many come.
    fn call(&self, lanes: &Parallelism) -> usize {
        let block = self.block.clone();
        let job: Job = Arc::new(move || block.help());
        lanes.helpers.call(self.block.txs.len(), &job)
    }

    /// Calls again whoever has gone, if there is something to do.
    fn call_again(&self, lanes: &Parallelism, index: usize) {
        let left = self.block.txs.len() - index;
        if index.is_multiple_of(SAMPLE) && left > SAMPLE && self.block.ahead.board.is_alone() {
            self.call(lanes);
        }
    }

    /// Whether a transaction is the one that was attempted last, and not kept. What it was guessed to
    /// write stays where it is: whoever finds it is wrong.
    fn is_again(&self, tx: &Tx) -> bool {
        let last = self.at.and_then(|at| self.block.txs.get(at));
        self.now != Now::Past && last.is_some_and(|last| last.hash() == tx.hash())
    }
}

impl<V> Drop for Running<V> {
    fn drop(&mut self) {
        self.block.ahead.board.close();
    }
}

impl<'v, V: StateView + Send + Sync + 'static> Parallel<'v, V> {
    /// On top of `base`, with a block's values and the threads that `lanes` has.
    pub fn new(
        env: &BlockEnv,
        rules: Rules,
        fees: Fees,
        base: &'v Arc<V>,
        lanes: &'v Parallelism,
    ) -> Self {
        let lead = Sequential::new(env, rules, fees, &**base);
        Self { lead, base, lanes, env: *env, rules, ahead: None, count: 0, expected: None }
    }

    fn is_forced(&self) -> bool {
        self.lanes.policy == Policy::Always
    }

    /// Ends the help there is.
    fn close(&mut self) {
        let Some(running) = self.ahead.take() else { return };
        if self.is_forced() || running.called == 0 {
            return;
        }
        // A helper that has not begun by now was of no use.
        let waited = || (self.lanes.clock)().saturating_sub(running.block.called_ns);
        self.lanes.woke(running.block.woke_ns.get().copied().unwrap_or_else(waited));
    }

    /// Ends what was announced last, and learns from it.
    fn end(&mut self) {
        self.close();
        if let Some((estimate, began, aided)) = self.expected.take() {
            self.lanes.took(estimate, aided, (self.lanes.clock)().saturating_sub(began));
        }
    }

    /// Runs a transaction at its turn; now and then it is timed.
    fn alone(&mut self, tx: &Tx, mode: Mode) -> Run {
        self.count += 1;
        let sampled = mode == Mode::Transact && self.count % SAMPLE == 1;
        if !sampled || self.lanes.helpers.count() == 0 {
            return self.lead.attempt(tx, mode);
        }
        let start = (self.lanes.clock)();
        let run = self.lead.attempt(tx, mode);
        self.lanes.ran(costs::kind(tx), (self.lanes.clock)().saturating_sub(start));
        run
    }

    /// Runs a transaction at its turn, while others help.
    fn aided(&mut self, running: &mut Running<V>, index: usize, tx: &Tx) -> Run {
        let clock = &*self.lanes.clock;
        let kind = running.plan.kinds[index];
        let cost = self.lanes.cost(kind);
        running.block.ahead.board.advance(index);
        let found = self.look(running, index, cost);
        let run = match found {
            Some(Ok((tried, moved))) => {
                running.useful += 1;
                self.lanes.tried(kind, true);
                running.moved = moved;
                self.adopt(running, index, tx, tried)
            }
            Some(Err(_)) => {
                running.broken += 1;
                self.lanes.tried(kind, false);
                None
            }
            None => None,
        };
        run.unwrap_or_else(|| {
            self.count += 1;
            if !self.count.is_multiple_of(AIDED_SAMPLE) {
                return self.lead.attempt(tx, Mode::Transact);
            }
            let start = clock();
            let run = self.lead.attempt(tx, Mode::Transact);
            self.lanes.ran(kind, clock().saturating_sub(start));
            run
        })
    }

    /// What came of a transaction that was run ahead.
    fn look(
        &mut self,
        running: &mut Running<V>,
        index: usize,
        cost_ns: u64,
    ) -> Option<Settled<Box<Speculation>>> {
        let (forced, clock) = (self.is_forced(), &*self.lanes.clock);
        let (block, board) = (&running.block, &running.block.ahead.board);
        let Sequential { evm, overlay, fees, .. } = &mut self.lead;
        // Who runs ahead cannot know what the coinbase has.
        evm.pay_coinbase(false);
        if forced && board.wait_for_claim(index, LOOKS) {
            block.speculate(evm, index);
        }
        let mut until = None;
        let patient = || {
            let now = clock();
            forced || now < *until.get_or_insert(now + 2 * cost_ns)
        };
        let ahead = |other| block.speculate(evm, other);
        let now = (&running.kept, |key: &StateKey| overlay.read(key));
        let found = block.ahead.settle(index, now, ahead, patient);
        evm.pay_coinbase(*fees == Fees::AtOnce);
        found
    }

    /// Makes a result that is good into that of the attempt. `None` if the transaction has to be run
    /// all the same.
    fn adopt(
        &mut self,
        running: &mut Running<V>,
        index: usize,
        tx: &Tx,
        tried: Box<Speculation>,
    ) -> Option<Run> {
        let ahead = &running.block.ahead;
        let mut run = tried.run?;
        let usable = run.missing_codes.is_empty();
        let coinbase = StateKey::Basic(self.env.coinbase);
        let uses = usable && run.used.writes.binary_search(&coinbase).is_ok();
        let missing = !usable || matches!(run.outcome, Outcome::Missing);
        let pays = match self.lead.fees {
            Fees::After => false,
            Fees::WhenUsed if uses && !missing => {
                ahead.retract(index, writes(&run));
                return Some(self.lead.attempt_paid(tx, Mode::Transact));
            }
            Fees::WhenUsed => false,
            Fees::AtOnce => true,
        };
        if !usable || (pays && (uses || missing)) {
            ahead.retract(index, writes(&run));
            return None;
        }
        if pays {
            // What is taken back if it comes to that; the state may panic, and does so for the attempt.
            let written: Vec<StateKey> = writes(&run).iter().map(|(key, _)| *key).collect();
            let pay = AssertUnwindSafe(|| self.lead.pay_after(&mut run));
            let Some(paid) = catch_unwind(pay).ok().flatten() else {
                ahead.memory.retract(index, &written);
                return None;
            };
            running.moved.extend(paid);
        }
        if let Outcome::Executed(effects) = &mut run.outcome {
            for (key, value) in &running.moved {
                if let Ok(at) = effects.writes.binary_search_by_key(key, |(written, _)| *written) {
                    effects.writes[at].1 = *value;
                }
            }
        }
        running.now = Now::Adopted;
        Some(run)
    }
}

impl<V: StateView + Send + Sync + 'static> BlockExecutor for Parallel<'_, V> {
    fn prepare(&mut self, hints: &[Hint<'_>]) {
        self.end();
        let estimate = self.lanes.estimate(hints);
        let began = (self.lanes.clock)();
        self.expected = Some((estimate, began, false));
        let Some(plan) = self.lanes.plan(hints, estimate) else { return };
        let ahead = Ahead::new(plan.after.clone(), plan.stride, self.lanes.seed);
        for (index, _) in hints.iter().enumerate().filter(|(_, hint)| hint.mode != Mode::Transact) {
            ahead.board.reserve(index);
        }
        let mut kept = Kept::default();
        let written = self.lead.overlay.written().iter();
        ahead.begin(&mut kept, written.map(|(key, value)| (*key, *value)));
        let block = Arc::new(Block {
            base: self.base.clone(),
            env: self.env,
            rules: self.rules,
            txs: hints.iter().map(|hint| hint.tx.clone()).collect(),
            ahead,
            codes: RwLock::new(self.lead.overlay.created().clone()),
            clock: self.lanes.clock.clone(),
            called_ns: (self.lanes.clock)(),
            woke_ns: OnceLock::new(),
        });
        let mut running = Running {
            block,
            plan,
            kept,
            at: None,
            now: Now::Past,
            moved: Vec::new(),
            useful: 0,
            broken: 0,
            called: 0,
        };
        running.called = running.call(self.lanes);
        if running.called > 0 || self.is_forced() {
            self.expected = Some((estimate, began, true));
            self.ahead = Some(running);
        }
    }

    fn attempt(&mut self, tx: &Tx, mode: Mode) -> Run {
        let Some(mut running) = self.ahead.take() else { return self.alone(tx, mode) };
        running.moved.clear();
        let Some(index) = running.find(tx) else {
            // Of what nobody has announced, the others would know nothing.
            let again = running.is_again(tx);
            running.now = Now::Run;
            self.ahead = Some(running);
            if !again {
                self.close();
            }
            return self.lead.attempt(tx, mode);
        };
        running.now = Now::Run;
        let owed = self.lead.owed;
        let run = if mode == Mode::Transact {
            running.call_again(self.lanes, index);
            self.aided(&mut running, index, tx)
        } else {
            running.block.ahead.board.advance(index);
            running.block.ahead.skip(index);
            self.lead.attempt(tx, mode)
        };
        if self.lead.owed != owed {
            // The coinbase has got what it was owed, of which the others know nothing.
            running.block.ahead.forget(&mut running.kept, &StateKey::Basic(self.env.coinbase));
        }
        let vain = running.broken > BROKEN && running.broken > running.useful;
        self.ahead = Some(running);
        if vain && !self.is_forced() {
            self.close();
        }
        run
    }

    fn keep(&mut self, effects: &Effects) {
        self.lead.keep(effects);
        let Some(running) = &mut self.ahead else { return };
        let (Some(at), ahead) = (running.at, &running.block.ahead) else { return };
        match running.now {
            Now::Run => ahead.keep(&mut running.kept, at, &effects.writes),
            Now::Adopted => {
                ahead.keep_result(&mut running.kept, at, &effects.writes);
                ahead.keep(&mut running.kept, at, &running.moved);
            }
            Now::Past => {}
        }
        running.now = Now::Past;
        if !effects.codes.is_empty() {
            let mut codes = running.block.codes.write().unwrap_or_else(PoisonError::into_inner);
            codes.clone_from(self.lead.overlay.created());
        }
    }

    fn finish(mut self) -> Changes {
        self.end();
        self.lead.finish()
    }
}
