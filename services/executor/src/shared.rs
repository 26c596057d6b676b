//! What the tasks of one executor share.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use atoll_api::{
    executor::ExecutorError,
    mempool::MempoolClient,
    router::RouterClient,
    state::{Quarantine, Read, StateClient, Tip},
};
use atoll_evm::{Ahead, Bytecode, CodeCache, Helpers, Job, Parallelism};
use atoll_fabric::{Context, watch};
use atoll_meter::{Counter, Work};
use atoll_types::{Address, B256, BlockEnv, Placement, ShardId, StateKey, Tx};
use tokio::sync::Notify;

use crate::{actor::ExecutorConfig, budget::Budget, cache::Cache, hashes::Hashes};

/// Bytes of analysed code kept.
const CODE_CACHE_BYTES: usize = 64 << 20;
/// Writes kept of transactions under way, for the predictions of their senders' later ones.
const AHEAD_WRITES: usize = 1 << 18;

/// Where the shard's chain stands, with the values that its next block runs with.
#[derive(Clone, Debug)]
pub(crate) struct Ground {
    pub tip: Tip,
    pub env: BlockEnv,
}

/// What has been counted since the start.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Local blocks, and the transactions that they include.
    pub local: Work,
    /// Groups, and the transactions in them.
    pub groups: Work,
    /// Requests to predict, and the predictions that needed nothing more.
    pub predictions: Work,
    /// Transactions of groups that used keys outside their set.
    pub wrong: Counter,
}

/// Helpers whose processor time is counted with the work that they help with.
struct Counted {
    helpers: Arc<dyn Helpers>,
    counts: Arc<Counts>,
    work: fn(&Counts) -> &Work,
}

impl Helpers for Counted {
    fn count(&self) -> usize {
        self.helpers.count()
    }

    fn idle(&self) -> usize {
        self.helpers.idle()
    }

    fn call(&self, most: usize, job: &Job) -> usize {
        let (counts, work, job) = (self.counts.clone(), self.work, job.clone());
        let counted: Job = Arc::new(move || work(&counts).measure(|| job()));
        self.helpers.call(most, &counted)
    }
}

/// Transactions that make an executor panic, remembered here at the most.
const MAX_QUARANTINED: usize = 8_192;

/// How many transactions fit a local block that does not take long to run: a cut that comes while
/// it runs is a run in vain.
#[derive(Debug)]
pub(crate) struct Pace {
    txs: AtomicU32,
    most: u32,
}

impl Pace {
    /// A fraction of the time between cuts.
    const RUN: Duration = Duration::from_millis(6);
    const LEAST: u32 = 32;

    fn new(most: u32) -> Self {
        Self { txs: AtomicU32::new(most), most }
    }

    /// For the next block.
    pub fn txs(&self) -> u32 {
        self.txs.load(Ordering::Relaxed)
    }

    /// Learns from a run. Only one block is run at a time.
    pub fn ran(&self, txs: usize, time: Duration) {
        let txs = u32::try_from(txs).unwrap_or(u32::MAX);
        let next = if time > Self::RUN {
            // Below `txs`, so it fits.
            (f64::from(txs) * Self::RUN.as_secs_f64() / time.as_secs_f64()) as u32
        } else {
            self.txs().max(txs.saturating_mul(2))
        };
        self.txs.store(next.max(Self::LEAST).min(self.most), Ordering::Relaxed);
    }
}

/// Shared by the loops and handlers of one executor.
pub(crate) struct Shared {
    pub config: ExecutorConfig,
    pub mempool: MempoolClient,
    pub state: StateClient,
    pub router: RouterClient,
    /// Of this executor at the mempool; rises when an answer may have been lost.
    pub session: AtomicU64,
    cache: RwLock<Cache>,
    codes: CodeCache,
    hashes: RwLock<Hashes>,
    /// `None` until the state has been heard from.
    pub ground: watch::Sender<Option<Ground>>,
    /// Payments to other shards that the next block debits.
    debits: Mutex<VecDeque<Tx>>,
    /// What changed between cuts has been taken in.
    pub followed: Notify,
    pub debit_came: Notify,
    /// Senders with a transaction across shards under way.
    pinned: Mutex<HashMap<Address, u32>>,
    /// What transactions under way are predicted to do.
    ahead: Mutex<Ahead>,
    budget: Mutex<Budget>,
    /// Transactions that make an executor panic.
    quarantined: Mutex<HashSet<B256>>,
    pub counts: Arc<Counts>,
    pub pace: Pace,
    /// Threads to help with local blocks, and with groups.
    pub local: Parallelism,
    pub groups: Parallelism,
}

impl Shared {
    pub fn new(
        config: ExecutorConfig,
        mempool: MempoolClient,
        state: StateClient,
        router: RouterClient,
        session: u64,
    ) -> Arc<Self> {
        let counts = Arc::new(Counts::default());
        let lanes = |work| {
            let helpers = config.helpers.clone();
            let helpers = Counted { helpers, counts: counts.clone(), work };
            Parallelism::new(Arc::new(helpers), config.stopwatch.clone())
        };
        Arc::new(Self {
            local: lanes(|counts| &counts.local),
            groups: lanes(|counts| &counts.groups),
            session: AtomicU64::new(session),
            cache: RwLock::new(Cache::new(config.cached_values)),
            pace: Pace::new(config.max_block_txs),
            budget: Mutex::new(Budget::new(config.speculative_gas)),
            config,
            mempool,
            state,
            router,
            codes: CodeCache::new(CODE_CACHE_BYTES),
            hashes: RwLock::default(),
            ground: watch::Sender::new(None),
            debits: Mutex::default(),
            followed: Notify::new(),
            debit_came: Notify::new(),
            pinned: Mutex::default(),
            ahead: Mutex::new(Ahead::new(AHEAD_WRITES)),
            quarantined: Mutex::default(),
            counts,
        })
    }

    pub fn shard(&self) -> ShardId {
        self.config.shard
    }

    pub fn placement(&self) -> &Placement {
        &self.config.placement
    }

    pub fn is_own(&self, key: &StateKey) -> bool {
        self.config.placement.owner_of(key) == self.config.shard
    }

    // A thread that panics ends the process, so a lock is never found poisoned by a live one.
    pub fn cache(&self) -> RwLockReadGuard<'_, Cache> {
        self.cache.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn cache_mut(&self) -> RwLockWriteGuard<'_, Cache> {
        self.cache.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn debits(&self) -> MutexGuard<'_, VecDeque<Tx>> {
        self.debits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn pinned(&self) -> MutexGuard<'_, HashMap<Address, u32>> {
        self.pinned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn ahead(&self) -> MutexGuard<'_, Ahead> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn budget(&self) -> MutexGuard<'_, Budget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes transactions that the state has put away. It is a cache of its list, begun again when it is
    /// full: what is missing is found by running it, and put away again.
    pub fn put_away<'a>(&self, txs: impl Iterator<Item = &'a B256>) {
        let mut known = self.quarantined();
        for tx in txs {
            if known.len() >= MAX_QUARANTINED {
                known.clear();
            }
            known.insert(*tx);
        }
    }

    pub fn quarantined(&self) -> MutexGuard<'_, HashSet<B256>> {
        self.quarantined.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the state keep transactions that have made this executor panic. If it cannot be told now,
    /// it is when they do so again.
    pub async fn quarantine(&self, txs: Vec<B256>) {
        let fresh: Vec<B256> = {
            let mut known = self.quarantined();
            txs.into_iter().filter(|tx| known.insert(*tx)).collect()
        };
        if fresh.is_empty() {
            return;
        }
        let context = Context::none().with_timeout(self.config.call_timeout);
        let kept = self.state.quarantine.call(context, Quarantine { txs: fresh.clone() }).await;
        if let Err(error) = kept {
            tracing::error!(%error, ?fresh, "these make the executor panic, and are not kept");
            let mut known = self.quarantined();
            fresh.iter().for_each(|tx| {
                known.remove(tx);
            });
        }
    }

    pub fn learn_hashes(&self, newest: u64, hashes: &[B256]) {
        self.hashes.write().unwrap_or_else(PoisonError::into_inner).add(newest, hashes);
    }

    /// Of a beacon block up to the cut that the ground is after.
    pub fn block_hash(&self, number: u64) -> Option<B256> {
        self.hashes.read().unwrap_or_else(PoisonError::into_inner).get(number)
    }

    pub fn code(&self, hash: &B256) -> Option<Bytecode> {
        self.codes.get(hash)
    }

    /// Moves the ground forward; news that comes late is passed over.
    pub fn stand_on(&self, tip: Tip, env: Option<BlockEnv>) {
        self.ground.send_if_modified(|ground| {
            let later = |old: &Ground| (tip.cut, tip.head) > (old.tip.cut, old.tip.head);
            if !ground.as_ref().is_none_or(later) {
                return false;
            }
            let env = env.or_else(|| ground.as_ref().map(|old| old.env));
            let fits = env.filter(|env| env.number == tip.cut);
            if let Some(env) = fits {
                *ground = Some(Ground { tip, env });
            }
            fits.is_some()
        });
    }

    /// Reads own keys and code into the caches. Returns the hashes that the state does not have.
    pub async fn fetch(
        &self,
        keys: Vec<StateKey>,
        codes: Vec<B256>,
    ) -> Result<Vec<B256>, ExecutorError> {
        if keys.is_empty() && codes.is_empty() {
            return Ok(Vec::new());
        }
        let read = Read { keys: keys.clone(), codes: codes.clone(), at: None, min_cut: 0 };
        let context = Context::none().with_timeout(self.config.call_timeout);
        let reply = self.state.read.call(context, read).await;
        let reply = reply.map_err(|e| ExecutorError::State { reason: e.to_string() })?;
        self.cache_mut().fill(&keys, &reply);
        let mut unknown = Vec::new();
        for (hash, code) in codes.into_iter().zip(reply.codes) {
            match code {
                Some(raw) => drop(self.codes.insert(raw)),
                None => unknown.push(hash),
            }
        }
        Ok(unknown)
    }
}
