//! What the tasks of one router share.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use atoll_api::{
    beacon::BeaconClient, executor::ExecutorClient, mempool::MempoolClient, router::RouterClient,
    state::StateClient,
};
use atoll_fabric::Context;
use atoll_types::{B256, Placement, ShardId, SharedTx, Tx};
use tokio::sync::{Notify, Semaphore, watch};

use crate::{
    actor::RouterConfig,
    announce::Announcements,
    assemble::{Assembly, Complete},
    outbound::Outbound,
};

/// Hashes of code known to be with the own state that are remembered.
const KNOWN_CODES: usize = 65_536;

/// A transaction to be predicted.
#[derive(Clone, Debug)]
pub(crate) enum Job {
    /// From a local block that it did not fit.
    New(Tx),
    /// Came back from a round.
    Again(SharedTx),
}

impl Job {
    pub fn tx(&self) -> &Tx {
        match self {
            Self::New(tx) => tx,
            Self::Again(shared) => &shared.tx,
        }
    }
}

/// What has been counted since the start.
#[derive(Debug, Default)]
pub struct Counts {
    pub escalated: AtomicU64,
    pub predicted: AtomicU64,
    pub credits: AtomicU64,
    pub intents: AtomicU64,
    pub groups_run: AtomicU64,
    /// Messages to other shards.
    pub messages: AtomicU64,
    /// Messages from other shards that broke a rule.
    pub refused: AtomicU64,
}

impl Counts {
    pub(crate) fn add(counter: &AtomicU64, count: usize) {
        counter.fetch_add(count as u64, Ordering::Relaxed);
    }
}

/// Shared by the loops and handlers of one router.
pub(crate) struct Shared {
    pub config: RouterConfig,
    pub mempool: MempoolClient,
    pub executor: ExecutorClient,
    pub state: StateClient,
    pub beacon: BeaconClient,
    /// One for each other shard.
    pub peers: HashMap<ShardId, Peer>,
    pub announcements: Announcements,
    pub assembly: Mutex<Assembly>,
    /// Groups to be run.
    pub complete: Mutex<Vec<Complete>>,
    pub group_came: Notify,
    jobs: Mutex<VecDeque<Job>>,
    pub job_came: Notify,
    /// How many batches are predicted at a time.
    pub predicting: Arc<Semaphore>,
    /// Newest cut passed.
    pub cut: watch::Sender<u64>,
    known_codes: Mutex<HashSet<B256>>,
    pub counts: Arc<Counts>,
}

/// Another shard.
pub(crate) struct Peer {
    pub client: RouterClient,
    pub outbound: Outbound,
}

impl Shared {
    pub fn new(
        config: RouterConfig,
        mempool: MempoolClient,
        executor: ExecutorClient,
        state: StateClient,
        beacon: BeaconClient,
        peers: HashMap<ShardId, RouterClient>,
    ) -> Arc<Self> {
        let peer = |client| Peer { client, outbound: Outbound::default() };
        Arc::new(Self {
            predicting: Arc::new(Semaphore::new(config.predictions_at_a_time)),
            config,
            mempool,
            executor,
            state,
            beacon,
            peers: peers.into_iter().map(|(shard, client)| (shard, peer(client))).collect(),
            announcements: Announcements::default(),
            assembly: Mutex::default(),
            complete: Mutex::default(),
            group_came: Notify::new(),
            jobs: Mutex::default(),
            job_came: Notify::new(),
            cut: watch::Sender::new(0),
            known_codes: Mutex::default(),
            counts: Arc::default(),
        })
    }

    pub fn shard(&self) -> ShardId {
        self.config.shard
    }

    pub fn placement(&self) -> &Placement {
        &self.config.placement
    }

    pub fn context(&self) -> Context {
        Context::none().with_timeout(self.config.call_timeout)
    }

    pub fn jobs(&self) -> MutexGuard<'_, VecDeque<Job>> {
        lock(&self.jobs)
    }

    pub fn add_jobs(&self, jobs: impl IntoIterator<Item = Job>) {
        self.jobs().extend(jobs);
        self.job_came.notify_one();
    }

    pub fn known_codes(&self) -> MutexGuard<'_, HashSet<B256>> {
        let mut known = lock(&self.known_codes);
        if known.len() > KNOWN_CODES {
            known.clear();
        }
        known
    }
}

// A thread that panics ends the process, so a lock is never found poisoned by a live one.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
