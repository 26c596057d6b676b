//! The shell: two loops beside the actor, and requests that run on the blocking pool.

use std::{sync::Arc, time::Duration};

use atoll_api::{
    executor::{Debit, ExecutorError, ExecutorStats, ExecutorStatsReply, Predict, RunGroups},
    mempool::MempoolClient,
    router::RouterClient,
    state::StateClient,
};
use atoll_evm::{Clock, Helpers, Rules};
use atoll_fabric::{Context, Cx, Fault, Handle, Machine, Reply, Service};
use atoll_types::{Placement, ShardId};

use crate::{
    block::build_blocks, follow::follow, group::run_groups, metrics::publish, predict::predict,
    shared::Shared,
};

/// What an executor is told once.
#[derive(Clone)]
pub struct ExecutorConfig {
    pub shard: ShardId,
    pub placement: Placement,
    /// Most transactions in a local block.
    pub max_block_txs: u32,
    /// Largest sum of gas limits in a local block.
    pub max_block_gas: u64,
    /// Values kept in memory at the most.
    pub cached_values: usize,
    /// Payments to other shards that may wait for a block.
    pub max_debits: usize,
    /// Gas that a sender's transactions may be run for to predict them, before some of it is paid.
    pub speculative_gas: u64,
    /// Ethereum's rules that transactions run under: those of the whole chain.
    pub rules: Rules,
    pub call_timeout: Duration,
    /// Threads that help to run blocks and groups, shared with others.
    pub helpers: Arc<dyn Helpers>,
    /// Nanoseconds, by which is decided when they do.
    pub stopwatch: Clock,
    /// What runs transactions.
    pub machine: Machine,
}

/// The `executor` service of one shard.
pub struct ExecutorService {
    shared: Arc<Shared>,
}

impl ExecutorService {
    /// `session` is a number that no executor of this shard has had before.
    pub fn new(
        config: ExecutorConfig,
        mempool: MempoolClient,
        state: StateClient,
        router: RouterClient,
        session: u64,
    ) -> Self {
        Self { shared: Shared::new(config, mempool, state, router, session) }
    }
}

impl Service for ExecutorService {
    const NAME: &'static str = "executor";

    fn started(&mut self, cx: &mut Cx<'_, Self>) {
        cx.spawn(follow(self.shared.clone()), |_, (), _| {});
        cx.spawn(build_blocks(self.shared.clone()), |_, (), _| {});
    }
}

impl Handle<Predict> for ExecutorService {
    fn handle(&mut self, ask: Predict, _: Context, reply: Reply<Predict>, cx: &mut Cx<'_, Self>) {
        cx.spawn(predict(self.shared.clone(), ask), |_, answer, _| reply.send(answer));
    }
}

impl Handle<RunGroups> for ExecutorService {
    fn handle(
        &mut self,
        run: RunGroups,
        _: Context,
        reply: Reply<RunGroups>,
        cx: &mut Cx<'_, Self>,
    ) {
        cx.spawn(run_groups(self.shared.clone(), run), |_, answer, _| reply.send(answer));
    }
}

impl Handle<Debit> for ExecutorService {
    fn handle(&mut self, debit: Debit, _: Context, reply: Reply<Debit>, _: &mut Cx<'_, Self>) {
        let limit = self.shared.config.max_debits;
        let mut waiting = self.shared.debits();
        if waiting.len() + debit.txs.len() > limit {
            let service = Self::NAME.to_owned();
            return reply.err(ExecutorError::Fault(Fault::Overloaded { service, limit }));
        }
        waiting.extend(debit.txs);
        self.shared.debit_came.notify_one();
        reply.ok(());
    }
}

impl Handle<ExecutorStats> for ExecutorService {
    fn handle(
        &mut self,
        _: ExecutorStats,
        _: Context,
        reply: Reply<ExecutorStats>,
        _: &mut Cx<'_, Self>,
    ) {
        let counts = &self.shared.counts;
        let stats = ExecutorStatsReply {
            local: counts.local.get(),
            groups: counts.groups.get(),
            predictions: counts.predictions.get(),
            wrong: counts.wrong.get(),
        };
        publish(&self.shared, &stats);
        reply.ok(stats);
    }
}
