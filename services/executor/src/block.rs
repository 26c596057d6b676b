//! Local blocks: takes pending transactions, runs what this shard can run alone, and appends it.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
};

use alloy_primitives::map::{HashMap, HashSet};
use atoll_api::{
    executor::ExecutorError,
    mempool::{End, Report, Take, TxEnd},
    router::Escalate,
    state::{Append, StateError, Sync},
};
use atoll_evm::{
    BlockExecutor, Bytecode, Changes, Effects, Fees, Hint, Invalid, Mode, Outcome, Parallel,
    StateView,
};
use atoll_fabric::{Beat, Context, Fault, Waits};
use atoll_telemetry::{metrics::Timer, stages};
use atoll_types::{
    Address, B256, Credit, CreditKind, LocalBlock, LocalTx, PANICS, Receipt, ReceiptKind, StateKey,
    StateValue, Tx, U256,
};
use tokio::time::Instant;

use crate::{
    shared::{Ground, Shared},
    turns::in_turn,
};

/// How often a block is begun again because values were not at hand; each time those are fetched.
const MAX_PASSES: usize = 256;
/// Between two blocks: what comes meanwhile shares one, and the sync of the log.
const BLOCK_GAP: std::time::Duration = std::time::Duration::from_millis(4);
const RETRY: std::time::Duration = std::time::Duration::from_millis(100);

/// This shard's values that a local transaction may use: what is cached and not fenced.
struct LocalView(Arc<Shared>);

impl StateView for LocalView {
    fn read(&self, key: &StateKey) -> Option<StateValue> {
        let cache = self.0.cache();
        if cache.is_fenced(key) { None } else { cache.get(key) }
    }

    fn code(&self, hash: &B256) -> Option<Bytecode> {
        self.0.code(hash)
    }

    fn block_hash(&self, number: u64) -> Option<B256> {
        self.0.block_hash(number)
    }
}

/// A transaction for the next block.
#[derive(Clone)]
struct Candidate {
    tx: Tx,
    /// Known to be a plain payment to an account of another shard without code.
    credit: bool,
}

impl Candidate {
    fn mode(&self) -> Mode {
        if self.credit { Mode::Debit } else { Mode::Transact }
    }

    fn hint(&self) -> Hint<'_> {
        Hint { tx: &self.tx, mode: self.mode(), keys: None }
    }
}

/// What became of the candidates.
#[derive(Default)]
struct Built {
    txs: Vec<LocalTx>,
    credits: Vec<Credit>,
    fees: U256,
    burned: U256,
    /// Keys that what is in `txs` has used.
    used: HashSet<StateKey>,
    /// Do not fit this shard alone.
    escalated: Vec<Tx>,
    ends: Vec<TxEnd>,
    /// Have made the executor panic.
    panicked: Vec<B256>,
}

/// Takes, runs, appends, reports; never ends by itself; dropped with the actor.
pub(crate) async fn build_blocks(shared: Arc<Shared>) {
    let mut ground = shared.ground.subscribe();
    // Kept across rounds of the loop: dropping it would lose what the pool has handed out.
    let mut taking = None;
    let mut beat = Beat::every(BLOCK_GAP);
    loop {
        beat.wait().await;
        let take = taking.get_or_insert_with(|| Box::pin(take(shared.clone())));
        let taken = tokio::select! {
            biased;
            taken = take => {
                taking = None;
                taken
            }
            () = shared.debit_came.notified() => Vec::new(),
        };
        let candidates: Vec<Candidate> = {
            let mut debits = shared.debits();
            let count = debits.len().min(shared.config.max_block_txs as usize);
            if debits.len() > count {
                shared.debit_came.notify_one();
            }
            debits.drain(..count).map(|tx| Candidate { tx, credit: true }).collect()
        };
        let taken = taken.into_iter().map(|tx| Candidate { tx, credit: false });
        let candidates: Vec<Candidate> = candidates.into_iter().chain(taken).collect();
        let candidates = in_turn(candidates, |c| (c.tx.sender(), c.tx.nonce()));
        while !candidates.is_empty() {
            // Fails only if the sender is gone, and it is in `shared`.
            let Ok(standing) = ground.wait_for(Option::is_some).await else {
                return;
            };
            let Some(standing) = standing else { continue };
            match one_block(&shared, &standing, candidates.clone()).await {
                Ok(()) => break,
                Err(Again::Moved) => {
                    tracing::debug!("a block was run in vain: the chain has moved");
                    let moved =
                        |g: &Option<Ground>| g.as_ref().is_some_and(|g| g.tip != standing.tip);
                    // A cut is told by `follow` within this time; if there was none, the answer to
                    // an append was lost.
                    if tokio::time::timeout(RETRY, ground.wait_for(moved)).await.is_err() {
                        look_again(&shared).await;
                    }
                }
                // The fence or pin that stands in the way is on its way here.
                Err(Again::Changed) => {
                    let _ = tokio::time::timeout(RETRY, shared.followed.notified()).await;
                }
                Err(Again::Later(reason)) => {
                    tracing::warn!(reason, "cannot append a block; trying again");
                    tokio::time::sleep(RETRY).await;
                    look_again(&shared).await;
                }
            }
        }
    }
}

/// Why a block has to be built once more.
enum Again {
    /// The shard's chain is elsewhere.
    Moved,
    /// A fence or a pin was not known here.
    Changed,
    Later(String),
}

/// Finds out whether the own block is the head, when it is not known whether it was appended. A newer
/// cut is left to `follow`, which brings what changed with it.
async fn look_again(shared: &Arc<Shared>) {
    let context = Context::none().with_timeout(shared.config.call_timeout);
    let reply = shared.state.sync.call(context, Sync { after: 0, wait_ms: 0, full: false }).await;
    if let Ok(reply) = reply
        && shared.ground.with(|ground| ground.as_ref().is_some_and(|g| g.tip.cut == reply.tip.cut))
    {
        shared.stand_on(reply.tip, None);
    }
}

async fn take(shared: Arc<Shared>) -> Vec<Tx> {
    let config = &shared.config;
    loop {
        let ask = Take {
            session: shared.session.load(Ordering::Relaxed),
            max_txs: shared.pace.txs(),
            max_gas: config.max_block_gas,
            wait_ms: 5_000,
        };
        let context = Context::none().with_timeout(2 * config.call_timeout);
        match shared.mempool.take.call(context, ask).await {
            Ok(reply) if reply.txs.is_empty() => {}
            Ok(reply) => return reply.txs,
            Err(error) => {
                tracing::warn!(%error, "cannot take transactions; trying again");
                // What was handed out in an answer that was lost comes free with a new session.
                shared.session.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn one_block(
    shared: &Arc<Shared>,
    ground: &Ground,
    candidates: Vec<Candidate>,
) -> Result<(), Again> {
    let _stages = stages("run", shared.shard(), candidates.iter().map(|c| &c.tx));
    let (runner, at) = (shared.clone(), ground.clone());
    let work = move |waits: &Waits| {
        let (start, count, timer) = (Instant::now(), candidates.len(), Timer::start());
        let built = runner.counts.local.measure(|| run_all(&runner, &at, candidates, waits));
        runner.pace.ran(count, start.elapsed());
        timer.stage("execute", runner.shard());
        built
    };
    let built = shared.config.machine.run_waiting(work).await;
    let (built, writes, codes) =
        built.map_err(|e| Again::Later(e.to_string()))?.map_err(|stop| match stop {
            Stop::Moved => Again::Moved,
            Stop::Failed(error) => Again::Later(error.to_string()),
        })?;
    let Built { txs, credits, fees, burned, mut used, escalated, mut ends, panicked } = built;
    shared.quarantine(panicked).await;
    if !txs.is_empty() {
        let block = LocalBlock {
            shard: shared.shard(),
            number: ground.tip.head + 1,
            parent: ground.tip.digest,
            round: ground.tip.cut,
            txs,
            writes,
            codes,
            credits,
            fees,
            burned,
        };
        let included = block.txs.iter().map(|local| *local.tx.hash());
        ends.extend(included.map(|tx| TxEnd { tx, end: End::Included }));
        block.writes.iter().for_each(|(key, _)| {
            used.remove(key);
        });
        let included = block.txs.len();
        let mut paid = Vec::new();
        if !shared.budget().is_clear() {
            let pays = |local: &LocalTx| (local.tx.sender(), local.receipt.executed.gas_used);
            paid.extend(block.txs.iter().map(pays));
        }
        append(shared, block, used.into_iter().collect()).await?;
        shared.counts.local.done(1, included);
        paid.into_iter().for_each(|(sender, gas)| shared.budget().paid(&sender, gas));
    }
    hand_over(shared, escalated, ends).await;
    Ok(())
}

async fn append(
    shared: &Arc<Shared>,
    block: LocalBlock,
    reads: Vec<StateKey>,
) -> Result<(), Again> {
    let (number, writes) = (block.number, block.writes.clone());
    shared.cache_mut().apply(number, &writes);
    let context = Context::none().with_timeout(shared.config.call_timeout);
    match shared.state.append.call(context, Append { block, reads }).await {
        Ok(tip) => {
            shared.stand_on(tip, None);
            Ok(())
        }
        Err(error) => {
            shared.cache_mut().undo(number, &writes);
            Err(match error {
                StateError::NotHead { .. } => Again::Moved,
                StateError::Fenced { .. } | StateError::Pinned { .. } => Again::Changed,
                error => Again::Later(error.to_string()),
            })
        }
    }
}

/// Tells the mempool how transactions ended, and the router which ones are its to bring about.
async fn hand_over(shared: &Arc<Shared>, escalated: Vec<Tx>, mut ends: Vec<TxEnd>) {
    let context = || Context::none().with_timeout(shared.config.call_timeout);
    ends.extend(escalated.iter().map(|tx| TxEnd { tx: *tx.hash(), end: End::Escalated }));
    report(shared, ends).await;
    if escalated.is_empty() {
        return;
    }
    let hashes: Vec<B256> = escalated.iter().map(|tx| *tx.hash()).collect();
    if let Err(error) = shared.router.escalate.call(context(), Escalate { txs: escalated }).await {
        tracing::warn!(%error, count = hashes.len(), "router takes no transactions; back to the pool");
        let ends = hashes.into_iter().map(|tx| TxEnd { tx, end: End::Returned }).collect();
        report(shared, ends).await;
    }
}

async fn report(shared: &Arc<Shared>, ends: Vec<TxEnd>) {
    if ends.is_empty() {
        return;
    }
    loop {
        let context = Context::none().with_timeout(shared.config.call_timeout);
        match shared.mempool.report.call(context, Report { ends: ends.clone() }).await {
            Ok(()) => return,
            Err(atoll_api::mempool::MempoolError::Fault(Fault::Stopped { .. })) => return,
            Err(error) => {
                tracing::warn!(%error, "cannot report to the pool; trying again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

type Finished = (Built, Vec<atoll_types::Write>, Vec<atoll_types::Bytes>);

/// Why a run of a block did not come to its end.
enum Stop {
    /// The chain is not where the block would be appended.
    Moved,
    Failed(ExecutorError),
}

impl From<ExecutorError> for Stop {
    fn from(error: ExecutorError) -> Self {
        Self::Failed(error)
    }
}

/// Runs the candidates in order, each sender's in nonce order. On a blocking thread.
fn run_all(
    shared: &Arc<Shared>,
    ground: &Ground,
    candidates: Vec<Candidate>,
    waits: &Waits,
) -> Result<Finished, Stop> {
    waits.until(shared.fetch(first_keys(shared, &candidates), Vec::new()))?;
    let view = Arc::new(LocalView(shared.clone()));
    let (env, rules) = (&ground.env, shared.config.rules);
    let mut run = Runner {
        shared,
        ground,
        block: Parallel::new(env, rules, Fees::WhenUsed, &view, &shared.local),
        built: Built::default(),
        behind: HashMap::default(),
        attempts: 0,
    };
    let mut waiting = candidates;
    for _ in 0..MAX_PASSES {
        let (keys, codes, again) = run.pass(waiting)?;
        waiting = again;
        if waiting.is_empty() {
            break;
        }
        waits.until(shared.fetch(keys, codes))?;
    }
    let returned = waiting.into_iter().map(|c| (*c.tx.hash(), End::Returned));
    run.built.ends.extend(returned.map(|(tx, end)| TxEnd { tx, end }));
    let Runner { block, mut built, attempts, .. } = run;
    tracing::debug!(attempts, included = built.txs.len(), "a block was run");
    let Changes { writes, codes, fees } = block.finish();
    built.fees = fees;
    Ok((built, writes, codes))
}

/// Keys that every transaction uses, as far as they are this shard's and not at hand.
fn first_keys(shared: &Shared, candidates: &[Candidate]) -> Vec<StateKey> {
    let accounts = candidates.iter().flat_map(|c| [Some(c.tx.sender()), c.tx.to()]).flatten();
    let cache = shared.cache();
    let keys = accounts.flat_map(|a| [StateKey::Basic(a), StateKey::Code(a)]);
    let missing = keys.filter(|key| cache.get(key).is_none() && shared.is_own(key));
    let missing: BTreeSet<StateKey> = missing.collect();
    missing.into_iter().collect()
}

/// Why a sender's later transactions cannot be in this block.
#[derive(Clone, Copy, PartialEq)]
enum Behind {
    /// An earlier one waits for values: they are run after it.
    Values,
    /// An earlier one is not in this block: they go back.
    Gone,
    /// An earlier one goes across shards: they follow it.
    Across,
}

/// What has to be fetched: values, codes, and for which transactions.
type Wanted = (Vec<StateKey>, Vec<B256>, Vec<Candidate>);

struct Runner<'a> {
    shared: &'a Shared,
    ground: &'a Ground,
    block: Parallel<'a, LocalView>,
    built: Built,
    behind: HashMap<Address, Behind>,
    /// Runs of transactions, those for which values were missing with them.
    attempts: usize,
}

impl Runner<'_> {
    /// Runs what can be run. Returns what has to be fetched, and for whom. Stops when a cut has come:
    /// it changes the block's values, and nothing of this run could be kept.
    fn pass(&mut self, candidates: Vec<Candidate>) -> Result<Wanted, Stop> {
        let (mut keys, mut codes) = (HashSet::<StateKey>::default(), HashSet::<B256>::default());
        let mut again = Vec::new();
        self.behind.retain(|_, behind| *behind != Behind::Values);
        self.block.prepare(&candidates.iter().map(Candidate::hint).collect::<Vec<_>>());
        for candidate in candidates {
            let sender = candidate.tx.sender();
            match self.behind.get(&sender) {
                Some(Behind::Values) => {
                    again.push(candidate);
                    continue;
                }
                Some(Behind::Gone) => {
                    self.end(&candidate.tx, End::Returned);
                    continue;
                }
                Some(Behind::Across) => {
                    self.built.escalated.push(candidate.tx);
                    continue;
                }
                None if self.shared.pinned().contains_key(&sender) => {
                    self.behind.insert(sender, Behind::Across);
                    self.built.escalated.push(candidate.tx);
                    continue;
                }
                None if self.shared.quarantined().contains(candidate.tx.hash()) => {
                    self.refuse(&candidate.tx, &Invalid::Other(PANICS.to_owned()));
                    continue;
                }
                None => {}
            }
            if self.has_moved() {
                return Err(Stop::Moved);
            }
            self.attempts += 1;
            let run = self.block.attempt(&candidate.tx, candidate.mode());
            match run.outcome {
                Outcome::Executed(effects) => {
                    self.built.used.extend(run.used.all());
                    self.include(&candidate, *effects);
                }
                // The pool gives out none whose earlier ones are not on their way.
                Outcome::Invalid(Invalid::NonceTooHigh { .. }) => {
                    self.behind.insert(sender, Behind::Across);
                    self.built.escalated.push(candidate.tx);
                }
                Outcome::Invalid(invalid) => self.refuse(&candidate.tx, &invalid),
                Outcome::Missing if self.is_local(&run.missing) => {
                    keys.extend(run.missing);
                    codes.extend(run.missing_codes);
                    self.behind.insert(sender, Behind::Values);
                    again.push(candidate);
                }
                Outcome::Missing => {
                    self.behind.insert(sender, Behind::Across);
                    self.built.escalated.push(candidate.tx);
                }
            }
        }
        // In an order that does not change from run to run.
        let (mut keys, mut codes): (Vec<_>, Vec<_>) =
            (keys.into_iter().collect(), codes.into_iter().collect());
        keys.sort_unstable();
        codes.sort_unstable();
        Ok((keys, codes, again))
    }

    fn has_moved(&self) -> bool {
        self.shared.ground.with(|ground| ground.as_ref().is_none_or(|g| g.tip != self.ground.tip))
    }

    fn end(&mut self, tx: &Tx, end: End) {
        self.built.ends.push(TxEnd { tx: *tx.hash(), end });
    }

    /// Whether missing keys are only not at hand, rather than fenced or another shard's.
    fn is_local(&self, missing: &[StateKey]) -> bool {
        let cache = self.shared.cache();
        missing.iter().all(|key| self.shared.is_own(key) && !cache.is_fenced(key))
    }

    fn refuse(&mut self, tx: &Tx, invalid: &Invalid) {
        if matches!(invalid, Invalid::Other(reason) if reason == PANICS) {
            self.built.panicked.push(*tx.hash());
        }
        self.end(tx, End::Dropped { reason: invalid.to_string() });
        self.behind.insert(tx.sender(), Behind::Gone);
    }

    fn include(&mut self, candidate: &Candidate, effects: Effects) {
        let (tx, shard) = (&candidate.tx, self.shared.shard());
        self.block.keep(&effects);
        self.built.burned += effects.burned;
        let mut shards = vec![shard];
        // A debit is always a call, so it has a receiver.
        if let (true, Some(account)) = (candidate.credit, tx.to()) {
            let to = self.shared.placement().owner(&account);
            shards.push(to);
            shards.sort_unstable();
            self.built.credits.push(Credit {
                from: shard,
                to,
                seq: 0,
                account,
                payer: tx.sender(),
                amount: tx.value(),
                kind: CreditKind::Payment { tx: *tx.hash() },
            });
        }
        let receipt = Receipt {
            tx: *tx.hash(),
            sender: tx.sender(),
            nonce: tx.nonce(),
            to: tx.to(),
            executed: effects.executed,
            kind: if candidate.credit { ReceiptKind::Credit } else { ReceiptKind::Local },
            shards,
            round: self.ground.tip.cut,
            index: self.built.txs.len() as u32,
            block: self.ground.tip.head + 1,
        };
        self.built.txs.push(LocalTx { tx: tx.clone(), receipt });
    }
}
