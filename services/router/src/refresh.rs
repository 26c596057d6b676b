//! Does again what has not had its effect: messages get lost, and routers and their peers restart.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use atoll_api::{
    router::Fetch,
    state::{AcceptParts, CutReply, Outbox, OutboxReply},
};
use atoll_commit::ExecutorEffect;
use atoll_types::{Address, B256, GroupId, PartMessage, ShardId, TxRef};

use crate::{
    assemble::{self, kept, send_parts},
    escalate::{announce, announce_when_held, share},
    follow::carry_out,
    jobs::Job,
    shared::{Shared, lock},
};

/// What was open at the last look. Only what is open at two looks in a row is done again.
#[derive(Default)]
struct Seen {
    unplanned: HashSet<TxRef>,
    returned: HashSet<TxRef>,
    groups: HashSet<GroupId>,
    awaited: HashSet<GroupId>,
    credits: HashSet<(ShardId, u64)>,
}

/// Looks at what is open, now and then.
pub(crate) async fn refresh(shared: Arc<Shared>) {
    let mut seen = Seen::default();
    // A router that starts has done nothing yet of what is open.
    let mut first = true;
    loop {
        tokio::time::sleep(shared.config.refresh).await;
        let waiting: Vec<_> = lock(&shared.turns).waiting().collect();
        match shared.state.outbox.call(shared.context(), Outbox).await {
            Ok(outbox) => {
                forget_ended(&shared, waiting, &outbox);
                seen = again(&shared, outbox, &seen, first).await;
                first = false;
            }
            Err(error) => {
                tracing::warn!(%error, "cannot reach the shard's state; trying again");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Transactions that were to be announced and have ended hold nobody up any more.
fn forget_ended(shared: &Shared, waiting: Vec<(Address, u64, B256)>, outbox: &OutboxReply) {
    let open = outbox.unplanned.iter().chain(&outbox.open.returned);
    let open: HashSet<&B256> = open.map(|shared| shared.tx.hash()).collect();
    for (sender, nonce, tx) in waiting.into_iter().filter(|(.., tx)| !open.contains(tx)) {
        announce(shared, lock(&shared.turns).leave(&sender, nonce, &tx));
    }
}

async fn again(shared: &Arc<Shared>, outbox: OutboxReply, seen: &Seen, first: bool) -> Seen {
    let OutboxReply { open, unplanned, results, awaited, credits } = outbox;
    let groups: HashSet<GroupId> = open
        .leases
        .iter()
        .map(|out| out.lease.group)
        .chain(open.run.iter().map(|group| group.group.id))
        .collect();
    let now = Seen {
        unplanned: unplanned.iter().map(|tx| tx.reference()).collect(),
        returned: open.returned.iter().map(|tx| tx.reference()).collect(),
        awaited: awaited.iter().map(|group| group.id).collect(),
        credits: credits.iter().map(|credit| (credit.to, credit.seq)).collect(),
        groups,
    };
    lock(&shared.groups).keep_only(&now.groups, open.cut);
    let CutReply { cut, run, leases, returned, settlements } = open;
    let stuck = |group: &GroupId| first || seen.groups.contains(group);
    carry_out(
        shared,
        CutReply {
            cut,
            run: run.into_iter().filter(|group| stuck(&group.group.id)).collect(),
            leases: leases.into_iter().filter(|out| stuck(&out.lease.group)).collect(),
            returned: Vec::new(),
            settlements: Vec::new(),
        },
    );
    if !first {
        let returned = returned.into_iter().filter(|tx| seen.returned.contains(&tx.reference()));
        shared.add_jobs(returned.map(Job::Again));
    }
    for settlement in settlements {
        if let Some(peer) = shared.peers.get(&settlement.from) {
            // One that its receiver took before its cut is not durable there, so none is ever told for good.
            peer.outbound.settle(settlement, true);
        }
    }
    let stuck_credits =
        credits.into_iter().filter(|credit| seen.credits.contains(&(credit.to, credit.seq)));
    for credit in stuck_credits {
        if let Some(peer) = shared.peers.get(&credit.to) {
            peer.outbound.credits([credit]);
        }
    }
    let stuck_txs = unplanned
        .into_iter()
        .filter(|tx| first || seen.unplanned.contains(&tx.reference()))
        .collect();
    // Sharing waits for all owners: one that does not answer is not to hold up the rest.
    if let Ok(permit) = shared.sharing.clone().try_acquire_owned() {
        let shared = shared.clone();
        tokio::task::spawn_local(async move {
            let (sharing, _) = share(&shared, stuck_txs).await;
            announce_when_held(&shared, sharing.into_iter()).await;
            drop(permit);
        });
    }
    let unknown: Vec<PartMessage> = {
        let groups = lock(&shared.groups);
        let unknown = |message: &&PartMessage| !groups.is_kept(message.part.group);
        results.iter().filter(unknown).cloned().collect()
    };
    // After a restart, or if the answer was lost.
    kept(shared, &unknown);
    let stuck_parts = results.into_iter().filter(|message| stuck(&message.part.group)).collect();
    send_parts(shared, stuck_parts);
    let stuck_awaited = awaited.into_iter().filter(|group| seen.awaited.contains(&group.id));
    let (missing, wanted) = {
        let mut groups = lock(&shared.groups);
        (groups.missing(), groups.again())
    };
    let missing = missing.into_iter().filter(|(group, _)| stuck(group)).collect();
    assemble::carry_out(
        shared,
        wanted.into_iter().filter(|effect| {
            let runs = matches!(effect, ExecutorEffect::Run(_));
            runs || stuck(&needs(effect))
        }),
    );
    let parts = stuck_awaited.map(|group| (group.id, group.executor)).collect();
    pull(shared, missing, parts);
    now
}

/// The group that waits for an answer.
fn needs(effect: &ExecutorEffect) -> GroupId {
    match effect {
        ExecutorEffect::Run(ready) => ready.group.id,
        ExecutorEffect::Want { want, .. } => want.to,
        ExecutorEffect::Flight { flight, .. } => flight.to,
        ExecutorEffect::Late { ask, .. } => ask.group,
    }
}

/// Asks for leases and parts that should have come.
fn pull(shared: &Arc<Shared>, leases: Vec<(GroupId, ShardId)>, parts: Vec<(GroupId, ShardId)>) {
    let from: BTreeSet<ShardId> = leases.iter().chain(&parts).map(|(_, shard)| *shard).collect();
    for from in from.iter().filter(|from| **from != shared.shard()) {
        let of = |list: &[(GroupId, ShardId)]| {
            list.iter().filter(|(_, shard)| shard == from).map(|(group, _)| *group).collect()
        };
        let (leases, results) = (of(&leases), of(&parts));
        let ask = Fetch { from: shared.shard(), leases, results, ..Fetch::default() };
        // One that does not answer does not hold up the others, and is asked once at a time.
        if lock(&shared.pulling).insert(*from) {
            let (shared, from) = (shared.clone(), *from);
            tokio::task::spawn_local(async move {
                pull_from(&shared, from, ask).await;
                lock(&shared.pulling).remove(&from);
            });
        }
    }
}

async fn pull_from(shared: &Arc<Shared>, from: ShardId, ask: Fetch) {
    let Some(peer) = shared.peers.get(&from) else { return };
    let reply = match peer.client.fetch.call(shared.context(), ask).await {
        Ok(reply) => reply,
        Err(error) => {
            tracing::debug!(shard = %from, %error, "shard does not answer");
            return;
        }
    };
    for lease in reply.leases {
        if assemble::check_lease(shared, from, &lease).is_ok() {
            let effects = lock(&shared.groups).lease(lease);
            assemble::carry_out(shared, effects);
        }
    }
    if !reply.parts.is_empty() {
        let accept = AcceptParts { parts: reply.parts };
        if let Err(error) = shared.state.accept_parts.call(shared.context(), accept).await {
            tracing::warn!(%error, "cannot keep parts");
        }
    }
}
