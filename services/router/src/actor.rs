//! The shell: loops beside the actor, and requests of the executor and of other shards' routers.

use std::{collections::HashMap, sync::Arc, time::Duration};

use atoll_api::{
    beacon::BeaconClient,
    executor::ExecutorClient,
    mempool::MempoolClient,
    router::{
        Deliver, DeliverReply, Escalate, Fetch, FetchReply, RouterClient, RouterError, RouterStats,
    },
    state::{
        AcceptParts, Read, Recall, ReceiveCredits, Refusal, Settle, Share, StateClient, StateError,
    },
};
use atoll_fabric::{Context, Cx, Fault, Handle, Reply, Service};
use atoll_telemetry::Stage;
use atoll_types::{LateAsk, LateLease, Placement, ShardId};

use crate::{
    announce, assemble, escalate, follow,
    jobs::Job,
    metrics::publish,
    outbound, refresh,
    shared::{Shared, lock},
};

/// How long a request for late leases waits for the cut that it speaks of.
const LATE_WAIT: Duration = Duration::from_secs(1);

/// What a router is told once.
#[derive(Clone)]
pub struct RouterConfig {
    pub shard: ShardId,
    pub chain_id: u64,
    pub placement: Placement,
    /// Rounds in which an intent may be planned, from when it is shared.
    pub valid_rounds: u64,
    /// Transactions predicted together at the most.
    pub max_batch: usize,
    pub predictions_at_a_time: usize,
    /// Transactions that may wait to be predicted.
    pub max_jobs: usize,
    /// How long something may be open before it is done again.
    pub refresh: Duration,
    pub call_timeout: Duration,
}

impl RouterConfig {
    pub fn new(shard: ShardId, chain_id: u64, placement: Placement) -> Self {
        Self {
            shard,
            chain_id,
            placement,
            valid_rounds: 1_200,
            max_batch: 512,
            predictions_at_a_time: 4,
            max_jobs: 65_536,
            refresh: Duration::from_secs(1),
            call_timeout: Duration::from_secs(10),
        }
    }
}

/// The `router` service of one shard.
pub struct RouterService {
    shared: Arc<Shared>,
}

impl RouterService {
    /// `peers` are the routers of all other shards.
    pub fn new(
        config: RouterConfig,
        mempool: MempoolClient,
        executor: ExecutorClient,
        state: StateClient,
        beacon: BeaconClient,
        peers: HashMap<ShardId, RouterClient>,
    ) -> Self {
        Self { shared: Shared::new(config, mempool, executor, state, beacon, peers) }
    }
}

impl Service for RouterService {
    const NAME: &'static str = "router";

    fn started(&mut self, cx: &mut Cx<'_, Self>) {
        let shared = || self.shared.clone();
        cx.spawn(follow::follow(shared()), |_, (), _| {});
        cx.spawn(announce::watch(shared()), |_, (), _| {});
        cx.spawn(announce::announce(shared()), |_, (), _| {});
        cx.spawn(escalate::escalate(shared()), |_, (), _| {});
        cx.spawn(refresh::refresh(shared()), |_, (), _| {});
        cx.spawn(assemble::run(shared()), |_, (), _| {});
        for to in self.shared.peers.keys() {
            cx.spawn(outbound::send(shared(), *to), |_, (), _| {});
        }
    }
}

impl Handle<Escalate> for RouterService {
    fn handle(&mut self, ask: Escalate, _: Context, reply: Reply<Escalate>, _: &mut Cx<'_, Self>) {
        let limit = self.shared.config.max_jobs;
        if self.shared.jobs().len() + ask.txs.len() > limit {
            let service = Self::NAME.to_owned();
            return reply.err(Fault::Overloaded { service, limit });
        }
        self.shared.counts.escalated.add(ask.txs.len());
        let shard = self.shared.shard();
        let new = |tx| {
            let (_stage, tx) = Stage::escalate(shard, &tx).over(tx);
            Job::New { tx, waits_since: None }
        };
        self.shared.add_jobs(ask.txs.into_iter().map(new));
        reply.ok(());
    }
}

impl Handle<Deliver> for RouterService {
    fn handle(
        &mut self,
        deliver: Deliver,
        _: Context,
        reply: Reply<Deliver>,
        cx: &mut Cx<'_, Self>,
    ) {
        if let Err(error) = self.check(&deliver) {
            count_rule(&self.shared, &error);
            return reply.err(error);
        }
        let shared = self.shared.clone();
        cx.spawn(take_in(self.shared.clone(), deliver), move |_, answer, _| {
            if let Err(error) = &answer {
                count_rule(&shared, error);
            }
            reply.send(answer);
        });
    }
}

impl RouterService {
    fn check(&self, deliver: &Deliver) -> Result<(), RouterError> {
        let (here, chain, epoch) = {
            let config = &self.shared.config;
            (config.shard, config.chain_id, config.placement.epoch)
        };
        if deliver.to != here {
            return Err(RouterError::NotForThisShard { found: deliver.to, here });
        }
        if deliver.chain_id != chain {
            let found = deliver.chain_id;
            return Err(Refusal::WrongChain { found, expected: chain }.into());
        }
        if deliver.epoch != epoch {
            return Err(Refusal::WrongEpoch { found: deliver.epoch, expected: epoch }.into());
        }
        if !self.shared.peers.contains_key(&deliver.from) {
            let what = format!("there is no other shard {}", deliver.from);
            return Err(Refusal::Malformed { what }.into());
        }
        if let Some(shared) = deliver.shared.iter().find(|tx| tx.origin != deliver.from) {
            let what = format!("shard {} shares for shard {}", deliver.from, shared.origin);
            return Err(Refusal::Malformed { what }.into());
        }
        Ok(())
    }
}

fn count_rule(shared: &Shared, error: &RouterError) {
    if let Some(rule) = error.rule() {
        shared.counts.refused.add(rule);
    }
}

/// Hands everything to whom it concerns, and answers when what has to be durable is.
async fn take_in(shared: Arc<Shared>, deliver: Deliver) -> Result<DeliverReply, RouterError> {
    let Deliver { from, shared: txs, leases, parts, credits, settlements, wants, flights, .. } =
        deliver;
    for lease in leases {
        if let Err(rule) = assemble::check_lease(&shared, from, &lease) {
            shared.counts.refused.add(rule.rule());
            tracing::warn!(shard = %from, %rule, "lease refused");
            continue;
        }
        let effects = lock(&shared.groups).lease(lease);
        assemble::carry_out(&shared, effects);
    }
    for want in wants {
        if let Err(rule) = assemble::check_want(&shared, &want) {
            shared.counts.refused.add(rule.rule());
            continue;
        }
        let effect = lock(&shared.groups).want(from, want);
        assemble::carry_out(&shared, effect);
    }
    for flight in flights {
        tokio::task::spawn_local(assemble::land(shared.clone(), from, flight));
    }
    let hold = async {
        if txs.is_empty() {
            return Ok(Vec::new());
        }
        let reply = shared.state.share.call(shared.context(), Share { txs }).await;
        reply.map(|reply| reply.refused)
    };
    let accept = async {
        if parts.is_empty() {
            return Ok(Vec::new());
        }
        let reply = shared.state.accept_parts.call(shared.context(), AcceptParts { parts }).await;
        reply.map(|reply| reply.refused)
    };
    // A settlement speaks of credits that may come with it, so it is taken in after them.
    let value = async {
        let mut received = 0;
        if !credits.is_empty() {
            let receive = ReceiveCredits { from, credits };
            received = shared.state.receive_credits.call(shared.context(), receive).await?.received;
        }
        let told = settlements.into_iter().filter(|s| s.by == from && s.from == shared.shard());
        for settlement in told {
            shared.state.settle.call(shared.context(), Settle { settlement }).await?;
        }
        Ok(received)
    };
    // Side by side, so that one sync of the log covers them all.
    let (held, accepted, received) = tokio::join!(hold, accept, value);
    let reply = DeliverReply {
        shared_refused: held.map_err(state)?,
        parts_refused: accepted.map_err(state)?,
        credits_received: received.map_err(state)?,
    };
    let refused = reply.shared_refused.iter().chain(&reply.parts_refused).flatten();
    refused.for_each(|rule| shared.counts.refused.add(rule.rule()));
    Ok(reply)
}

impl Handle<Fetch> for RouterService {
    fn handle(&mut self, fetch: Fetch, _: Context, reply: Reply<Fetch>, cx: &mut Cx<'_, Self>) {
        cx.spawn(look_up(self.shared.clone(), fetch), |_, answer, _| reply.send(answer));
    }
}

impl Handle<RouterStats> for RouterService {
    fn handle(
        &mut self,
        _: RouterStats,
        _: Context,
        reply: Reply<RouterStats>,
        _: &mut Cx<'_, Self>,
    ) {
        let stats = self.shared.counts.reply();
        publish(&self.shared, &stats);
        reply.ok(stats);
    }
}

async fn look_up(shared: Arc<Shared>, fetch: Fetch) -> Result<FetchReply, RouterError> {
    let Fetch { from, keys, codes, leases, results, late } = fetch;
    let mut reply = FetchReply::default();
    if !keys.is_empty() || !codes.is_empty() {
        let read = Read { keys, codes, at: None, min_cut: 0 };
        let values = shared.state.read.call(shared.context(), read).await.map_err(state)?;
        reply.values = values.values;
        reply.codes = values.codes;
    }
    if !leases.is_empty() || !results.is_empty() {
        let recall = Recall { leases, results, owner: from };
        let recalled = shared.state.recall.call(shared.context(), recall).await.map_err(state)?;
        reply.leases = recalled.leases;
        reply.parts = recalled.parts;
    }
    if !late.is_empty() {
        reply.late = late_leases(&shared, from, late).await.map_err(state)?;
    }
    Ok(reply)
}

/// Answers requests for late leases once this shard has passed the cuts of their groups. If it does
/// not come so far in time, those are left out, and will be asked for again.
async fn late_leases(
    shared: &Shared,
    from: ShardId,
    asks: Vec<LateAsk>,
) -> Result<Vec<LateLease>, StateError> {
    let newest = asks.iter().map(|ask| ask.group.round).max().unwrap_or(0);
    let mut cut = shared.cut.subscribe();
    let _ = tokio::time::timeout(LATE_WAIT, cut.wait_for(|cut| *cut >= newest)).await;
    let passed = shared.cut.get();
    let asks = asks.into_iter().filter(|ask| ask.group.round <= passed).collect();
    assemble::lease_late(shared, from, asks).await
}

fn state(error: StateError) -> RouterError {
    match error {
        StateError::Refused(rule) => RouterError::Refused(rule),
        StateError::Fault(fault) => RouterError::Fault(fault),
        other => RouterError::State { reason: other.to_string() },
    }
}
