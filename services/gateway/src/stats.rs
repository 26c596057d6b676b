//! `GetStats`: what every service has counted, in one answer.

use atoll_api::beacon::{BeaconStats, BeaconStatsReply};
use atoll_api::executor::{ExecutorStats, ExecutorStatsReply};
use atoll_api::router::{RouterStats, RouterStatsReply};
use atoll_fabric::{Context, Traffic};
use atoll_wire::v1::{GetStatsResponse, get_stats_response as wire};
use futures::future;
use tonic::Status;

use crate::query::Queries;

impl Queries {
    /// Asks everybody at once. Who does not answer is left out, and said to be.
    pub async fn stats(&self, context: Context) -> Result<GetStatsResponse, Status> {
        let _place = self.place()?;
        let context = context.with_timeout(self.limits.request_timeout / 10);
        let shards = (0..).zip(self.shards.iter()).map(|(number, links)| {
            let context = &context;
            async move {
                let executor = links.executor_stats.call(context.clone(), ExecutorStats);
                let router = links.router_stats.call(context.clone(), RouterStats);
                let (executor, router) = future::join(executor, router).await;
                match (executor, router) {
                    (Ok(executor), Ok(router)) => shard(number, executor, router),
                    _ => wire::Shard { number, ..wire::Shard::default() },
                }
            }
        });
        let beacon = self.beacon.stats.call(context.clone(), BeaconStats);
        let (shards, beacon) = future::join(future::join_all(shards), beacon).await;
        let beacon = Some(beacon.map(beacon_stats).unwrap_or_default());
        Ok(GetStatsResponse { shards, beacon })
    }
}

fn traffic(traffic: Traffic) -> Option<wire::Traffic> {
    let Traffic { requests, request_bytes, replies, reply_bytes } = traffic;
    Some(wire::Traffic { requests, request_bytes, replies, reply_bytes })
}

fn refused(counts: Vec<(String, u64)>) -> Vec<wire::Refused> {
    counts.into_iter().map(|(rule, count)| wire::Refused { rule, count }).collect()
}

fn shard(number: u32, executor: ExecutorStatsReply, router: RouterStatsReply) -> wire::Shard {
    let work = |work: atoll_meter::WorkDone| {
        let atoll_meter::WorkDone { batches, items, cpu_ns } = work;
        Some(wire::Work { batches, transactions: items, cpu_ns })
    };
    wire::Shard {
        number,
        reachable: true,
        deliver: traffic(router.deliver),
        fetch: traffic(router.fetch),
        announce: traffic(router.announce),
        blocks: traffic(router.blocks),
        local: work(executor.local),
        groups: work(executor.groups),
        predictions: work(executor.predictions),
        wrong: executor.wrong,
        escalated: router.escalated,
        credits: router.credits,
        intents: router.intents,
        flights: router.flights,
        late_asks: router.late_asks,
        late_refused: router.late_refused,
        refused: refused(router.refused),
    }
}

fn beacon_stats(stats: BeaconStatsReply) -> wire::Beacon {
    wire::Beacon {
        reachable: true,
        blocks: stats.blocks,
        intents: stats.intents,
        groups: stats.groups,
        transactions: stats.txs,
        commits: stats.commits,
        aborts: stats.aborts,
        cpu_ns: stats.cpu_ns,
        refused: refused(stats.refused),
    }
}
