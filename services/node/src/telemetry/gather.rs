//! Asks the services of this process for what they have counted; they tell the metrics.

use std::time::Duration;

use atoll_api::{
    beacon::{BeaconClient, BeaconStats},
    executor::ExecutorStats,
    mempool::Status,
    router::RouterStats,
};
use atoll_fabric::{Context, Link};
use futures::future;

use super::process;
use crate::{
    cluster::ShardClients,
    config::{Config, Role},
};

/// A service that does not answer in this time keeps its last counts.
const PATIENCE: Duration = Duration::from_secs(2);

/// Brings the metrics of this process up to date.
#[derive(Clone, Default)]
pub struct Gatherer {
    mempools: Vec<Link<Status>>,
    executors: Vec<Link<ExecutorStats>>,
    routers: Vec<Link<RouterStats>>,
    beacon: Option<Link<BeaconStats>>,
}

impl Gatherer {
    /// Of all links of a process, those that stand in it.
    pub(crate) fn new(config: &Config, shards: &[ShardClients], beacon: &BeaconClient) -> Self {
        let mut gatherer = Self::default();
        for (id, clients) in (0..).zip(shards) {
            if config.hosts(id, Role::Mempool) {
                gatherer.mempools.push(clients.mempool.status.clone());
            }
            if config.hosts(id, Role::Executor) {
                gatherer.executors.push(clients.executor.stats.clone());
            }
            if config.hosts(id, Role::Router) {
                gatherer.routers.push(clients.router.stats.clone());
            }
        }
        gatherer.beacon = config.beacon.as_ref().map(|_| beacon.stats.clone());
        gatherer
    }

    /// Asks everybody at once. States tell by themselves, at each cut.
    pub async fn gather(&self) {
        let context = Context::none().with_timeout(PATIENCE);
        let mempools = self.mempools.iter().map(|link| link.call(context.clone(), Status));
        let executors = self.executors.iter().map(|link| link.call(context.clone(), ExecutorStats));
        let routers = self.routers.iter().map(|link| link.call(context.clone(), RouterStats));
        let beacon = self.beacon.iter().map(|link| link.call(context.clone(), BeaconStats));
        // Who does not answer has said nothing new.
        let _ = tokio::join!(
            future::join_all(mempools),
            future::join_all(executors),
            future::join_all(routers),
            future::join_all(beacon),
        );
        process::publish();
    }
}
