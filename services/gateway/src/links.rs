//! The requests of other services that the gateway makes.

use atoll_api::beacon::{BeaconStats, Blocks, Head};
use atoll_api::executor::ExecutorStats;
use atoll_api::mempool::Submit;
use atoll_api::router::RouterStats;
use atoll_api::state::{Feed, Lookup, Prove, Read};
use atoll_api::{BeaconClient, ExecutorClient, MempoolClient, RouterClient, StateClient};
use atoll_fabric::Link;

/// What the gateway asks of one shard.
#[derive(Clone)]
pub struct ShardLinks {
    pub submit: Link<Submit>,
    pub read: Link<Read>,
    pub prove: Link<Prove>,
    pub lookup: Link<Lookup>,
    pub feed: Link<Feed>,
    pub executor_stats: Link<ExecutorStats>,
    pub router_stats: Link<RouterStats>,
}

impl ShardLinks {
    /// Takes the links that are needed.
    pub fn new(
        mempool: &MempoolClient,
        executor: &ExecutorClient,
        state: &StateClient,
        router: &RouterClient,
    ) -> Self {
        Self {
            submit: mempool.submit.clone(),
            read: state.read.clone(),
            prove: state.prove.clone(),
            lookup: state.lookup.clone(),
            feed: state.feed.clone(),
            executor_stats: executor.stats.clone(),
            router_stats: router.stats.clone(),
        }
    }
}

/// What the gateway asks of the beacon.
#[derive(Clone)]
pub struct BeaconLinks {
    pub head: Link<Head>,
    pub blocks: Link<Blocks>,
    pub stats: Link<BeaconStats>,
}

impl BeaconLinks {
    /// Takes the links that are needed.
    pub fn new(beacon: &BeaconClient) -> Self {
        Self {
            head: beacon.head.clone(),
            blocks: beacon.blocks.clone(),
            stats: beacon.stats.clone(),
        }
    }
}
