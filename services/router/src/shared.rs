//! What the tasks of one router share.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use atoll_api::{
    beacon::BeaconClient,
    executor::ExecutorClient,
    mempool::MempoolClient,
    router::{RouterClient, RouterStatsReply},
    state::StateClient,
};
use atoll_commit::{Executor, Ready, Turns};
use atoll_fabric::{Context, Meter, Metered, watch};
use atoll_meter::{Counter, Tally};
use atoll_types::{B256, Placement, ShardId};
use tokio::sync::{Notify, Semaphore};

use crate::{
    actor::RouterConfig,
    announce::Announcements,
    hints::Hints,
    jobs::{Job, Jobs},
    outbound::Outbound,
};

/// Hashes of code known to be with the own state that are remembered.
const KNOWN_CODES: usize = 65_536;

/// One message in so many is encoded to learn its length, where none has to be.
const SAMPLED: u64 = 4;

/// What has been counted since the start.
#[derive(Debug)]
pub(crate) struct Counts {
    pub escalated: Counter,
    pub credits: Counter,
    pub intents: Counter,
    /// Groups to whose executors values in flight were sent.
    pub flights: Counter,
    /// Requests for late leases made.
    pub late_asks: Counter,
    /// Keys refused to other executors that asked for late leases.
    pub late_refused: Counter,
    /// Messages, and parts of messages, that broke a rule.
    pub refused: Tally,
    deliver: Arc<Meter>,
    fetch: Arc<Meter>,
    announce: Arc<Meter>,
    blocks: Arc<Meter>,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            escalated: Counter::default(),
            credits: Counter::default(),
            intents: Counter::default(),
            flights: Counter::default(),
            late_asks: Counter::default(),
            late_refused: Counter::default(),
            refused: Tally::default(),
            deliver: Meter::new(SAMPLED),
            fetch: Meter::new(SAMPLED),
            // Intents are short, and what the beacon takes in has to be known exactly.
            announce: Meter::new(1),
            blocks: Meter::new(SAMPLED),
        }
    }
}

impl Counts {
    pub fn reply(&self) -> RouterStatsReply {
        RouterStatsReply {
            deliver: self.deliver.get(),
            fetch: self.fetch.get(),
            announce: self.announce.get(),
            blocks: self.blocks.get(),
            escalated: self.escalated.get(),
            credits: self.credits.get(),
            intents: self.intents.get(),
            flights: self.flights.get(),
            late_asks: self.late_asks.get(),
            late_refused: self.late_refused.get(),
            refused: self.refused.get(),
        }
    }

    /// The same links, counted.
    fn peer(&self, client: RouterClient) -> RouterClient {
        RouterClient {
            deliver: Metered::link(client.deliver, &self.deliver),
            fetch: Metered::link(client.fetch, &self.fetch),
            ..client
        }
    }

    /// The same links, counted.
    fn beacon(&self, client: BeaconClient) -> BeaconClient {
        BeaconClient {
            announce: Metered::link(client.announce, &self.announce),
            blocks: Metered::link(client.blocks, &self.blocks),
            ..client
        }
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
    pub peers: BTreeMap<ShardId, Peer>,
    pub announcements: Announcements,
    /// Groups that this shard executes.
    pub groups: Mutex<Executor>,
    /// Those to be run.
    pub ready: Mutex<Vec<Ready>>,
    pub group_came: Notify,
    jobs: Mutex<Jobs>,
    pub job_came: Notify,
    /// In which order intents are announced.
    pub turns: Mutex<Turns>,
    /// How many batches are predicted at a time.
    pub predicting: Arc<Semaphore>,
    /// Newest cut passed.
    pub cut: watch::Sender<u64>,
    known_codes: Mutex<HashSet<B256>>,
    /// Shards that are being asked for what was missed.
    pub pulling: Mutex<HashSet<ShardId>>,
    /// Whether what hangs is being shared again.
    pub sharing: Arc<Semaphore>,
    pub hints: Mutex<Hints>,
    pub counts: Counts,
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
        let counts = Counts::default();
        let peer = |client| Peer { client: counts.peer(client), outbound: Outbound::default() };
        Arc::new(Self {
            predicting: Arc::new(Semaphore::new(config.predictions_at_a_time)),
            groups: Mutex::new(Executor::new(config.shard)),
            config,
            mempool,
            executor,
            state,
            beacon: counts.beacon(beacon),
            peers: peers.into_iter().map(|(shard, client)| (shard, peer(client))).collect(),
            announcements: Announcements::default(),
            ready: Mutex::default(),
            group_came: Notify::new(),
            jobs: Mutex::default(),
            turns: Mutex::default(),
            job_came: Notify::new(),
            cut: watch::Sender::new(0),
            known_codes: Mutex::default(),
            pulling: Mutex::default(),
            sharing: Arc::new(Semaphore::new(1)),
            hints: Mutex::default(),
            counts,
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

    pub fn jobs(&self) -> MutexGuard<'_, Jobs> {
        lock(&self.jobs)
    }

    pub fn add_jobs(&self, jobs: impl IntoIterator<Item = Job>) {
        self.jobs().add(jobs);
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
