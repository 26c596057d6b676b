//! Groups that this shard executes: gathers their leases, has them run, and returns the parts.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use atoll_api::{
    executor::{GroupRun, RunGroups, RunGroupsReply},
    router::Fetch,
    state::{LeaseLate, PutCodes, Read, StateError, StoreResults},
};
use atoll_commit::{ExecutorEffect, LateKeys, Ready};
use atoll_fabric::Context;
use atoll_types::{
    B256, Bytes, Flight, GroupId, GroupResult, KECCAK_EMPTY, LateAsk, LateLease, Lease,
    PartMessage, Refusal, ShardId, StateKey, Want,
};

use crate::shared::{Shared, lock};

/// How far ahead of this shard's newest cut the groups may be that others speak of, in rounds.
const MAX_AHEAD: u64 = 65_536;
/// How long another shard may take to send code that a group needs.
const CODE_TIMEOUT: Duration = Duration::from_secs(1);

/// Checks what can be said of a lease without the state.
pub(crate) fn check_lease(shared: &Shared, from: ShardId, lease: &Lease) -> Result<(), Refusal> {
    let expected = shared.config.chain_id;
    if lease.chain_id != expected {
        return Err(Refusal::WrongChain { found: lease.chain_id, expected });
    }
    let expected = shared.placement().epoch;
    if lease.epoch != expected {
        return Err(Refusal::WrongEpoch { found: lease.epoch, expected });
    }
    if lease.from != from {
        return Err(Refusal::Malformed {
            what: format!("lease of shard {} from {from}", lease.from),
        });
    }
    let owner = |key: &StateKey| shared.placement().owner_of(key);
    let accounts = lease.credits.iter().map(|credit| shared.placement().owner(&credit.account));
    let keys = lease.values.iter().map(|(key, _)| key);
    let keys = keys.chain(lease.in_flight.iter().map(|flight| &flight.key)).map(owner);
    if let Some(owner) = keys.chain(accounts).find(|owner| *owner != from) {
        return Err(Refusal::NotOwner { owner, here: from });
    }
    let ahead = lease.group.round.saturating_sub(shared.cut.get());
    if ahead > MAX_AHEAD || !lease.values.iter().all(|(key, value)| key.holds(value)) {
        return Err(Refusal::Malformed { what: format!("lease of shard {from}") });
    }
    Ok(())
}

/// Checks what can be said of a request for values in flight.
pub(crate) fn check_want(shared: &Shared, want: &Want) -> Result<(), Refusal> {
    let ahead = want.source.round.saturating_sub(shared.cut.get());
    if ahead > MAX_AHEAD {
        return Err(Refusal::GroupNotOpen { group: want.source });
    }
    Ok(())
}

/// Takes in values in flight, after the code that they name.
pub(crate) async fn land(shared: Arc<Shared>, from: ShardId, flight: Flight) {
    if !flight.values.iter().all(|(key, value)| key.holds(value)) {
        let rule = Refusal::Malformed { what: format!("values in flight of shard {from}") };
        return shared.counts.refused.add(rule.rule());
    }
    if !flight.codes.is_empty() {
        let put = PutCodes { codes: flight.codes.clone() };
        if let Err(error) = shared.state.put_codes.call(shared.context(), put).await {
            // The refresh asks for them again.
            tracing::warn!(%error, "cannot keep code in flight");
            return;
        }
    }
    let effect = lock(&shared.groups).flight(from, flight);
    carry_out(&shared, effect);
}

/// Checks what can be said of a late lease without the state.
fn check_late(shared: &Shared, from: ShardId, lease: &LateLease) -> Result<(), Refusal> {
    let leased = lease.reads.iter().chain(&lease.writes);
    let owner = |key: &StateKey| shared.placement().owner_of(key);
    if let Some((key, _)) = leased.clone().find(|(key, _)| owner(key) != from) {
        return Err(Refusal::NotOwner { owner: owner(key), here: from });
    }
    if lease.from != from || leased.clone().any(|(key, value)| !key.holds(value)) {
        return Err(Refusal::Malformed { what: format!("late lease of shard {from}") });
    }
    Ok(())
}

/// Does what the executor's state machine asks for.
pub(crate) fn carry_out(shared: &Arc<Shared>, effects: impl IntoIterator<Item = ExecutorEffect>) {
    let mut late: BTreeMap<ShardId, Vec<LateAsk>> = BTreeMap::new();
    for effect in effects {
        match effect {
            ExecutorEffect::Run(ready) => {
                lock(&shared.ready).push(*ready);
                shared.group_came.notify_one();
            }
            ExecutorEffect::Want { to, want } => {
                if let Some(peer) = shared.peers.get(&to) {
                    peer.outbound.wants([want]);
                }
            }
            ExecutorEffect::Flight { to, flight } => {
                shared.counts.flights.add(1);
                if let Some(peer) = shared.peers.get(&to) {
                    peer.outbound.flights([flight]);
                }
            }
            ExecutorEffect::Late { to, ask } => late.entry(to).or_default().push(ask),
        }
    }
    for (to, asks) in late {
        tokio::task::spawn_local(ask_late(shared.clone(), to, asks));
    }
}

/// Asks an owner for late leases. What is not answered is asked again by the refresh.
async fn ask_late(shared: Arc<Shared>, to: ShardId, asks: Vec<LateAsk>) {
    shared.counts.late_asks.add(asks.len());
    let leases = if to == shared.shard() {
        lease_late(&shared, to, asks).await.map_err(|error| error.to_string())
    } else {
        let Some(peer) = shared.peers.get(&to) else { return };
        let ask = Fetch { from: shared.shard(), late: asks, ..Fetch::default() };
        let reply = peer.client.fetch.call(shared.context(), ask).await;
        reply.map(|reply| reply.late).map_err(|error| error.to_string())
    };
    let leases = match leases {
        Ok(leases) => leases,
        Err(error) => {
            tracing::debug!(shard = %to, error, "no answer to a request for late leases");
            return;
        }
    };
    for lease in leases {
        if let Err(rule) = check_late(&shared, to, &lease) {
            shared.counts.refused.add(rule.rule());
            tracing::warn!(shard = %to, %rule, "late lease refused");
            continue;
        }
        let effect = lock(&shared.groups).late(lease);
        carry_out(&shared, effect);
    }
}

/// Answers another executor's requests for late leases, or this shard's own.
pub(crate) async fn lease_late(
    shared: &Shared,
    from: ShardId,
    asks: Vec<LateAsk>,
) -> Result<Vec<LateLease>, StateError> {
    let late = LeaseLate { from, asks };
    let reply = shared.state.lease_late.call(shared.context(), late).await?;
    shared.counts.late_refused.add(reply.refused.len());
    for rule in reply.refused {
        shared.counts.refused.add(rule.rule());
        tracing::debug!(shard = %from, %rule, "a late lease is refused");
    }
    Ok(reply.leases)
}

/// Runs whatever groups are ready, one batch at a time: what comes meanwhile is the next one.
pub(crate) async fn run(shared: Arc<Shared>) {
    loop {
        shared.group_came.notified().await;
        let batch = std::mem::take(&mut *lock(&shared.ready));
        let ids: Vec<GroupId> = batch.iter().map(|ready| ready.group.id).collect();
        if ids.is_empty() {
            continue;
        }
        match run_batch(&shared, batch).await {
            Ok(results) => {
                // The next groups may take their values from these results before those are durable:
                // if they are lost, so is whatever was made of them here.
                tokio::task::spawn_local(store(shared.clone(), results));
            }
            Err(reason) => {
                // The refresh finds groups without a result and has them run again.
                tracing::warn!(
                    groups = ids.len(),
                    reason,
                    "groups have no result yet; trying again"
                );
                let mut groups = lock(&shared.groups);
                ids.into_iter().for_each(|id| groups.gave_up(id));
            }
        }
    }
}

/// Returns the results of the groups that came to their end.
async fn run_batch(shared: &Arc<Shared>, batch: Vec<Ready>) -> Result<Vec<GroupResult>, String> {
    let batch = bring_codes(shared, batch).await;
    if batch.is_empty() {
        return Ok(Vec::new());
    }
    let epoch = shared.placement().epoch;
    let run = |ready: &Ready| {
        let Ready { group, env, txs, values, late, .. } = ready.clone();
        let LateKeys { writes: late_writes, refused, .. } = late;
        GroupRun { group, env, epoch, txs, values, late_writes, refused }
    };
    let ask = RunGroups { groups: batch.iter().map(run).collect() };
    let reply = shared.executor.run_groups.call(shared.context(), ask).await;
    let RunGroupsReply { results: ran, lacking } = reply.map_err(|error| error.to_string())?;
    let mut waiting: BTreeMap<GroupId, Ready> =
        batch.into_iter().map(|ready| (ready.group.id, ready)).collect();
    // Groups that take these values in flight may call what was created.
    let codes = ran.iter().flat_map(|result| &result.parts).flat_map(|part| &part.codes);
    let codes: Vec<Bytes> = codes.cloned().collect();
    if !codes.is_empty() {
        let put = shared.state.put_codes.call(shared.context(), PutCodes { codes }).await;
        put.map_err(|error| error.to_string())?;
    }
    let mut results = Vec::with_capacity(ran.len());
    let mut effects = Vec::new();
    {
        let mut groups = lock(&shared.groups);
        for mut result in ran {
            waiting.remove(&result.group);
            if let Some(more) = groups.ran(result.group, &mut result.parts) {
                effects.extend(more);
                results.push(result);
            }
        }
        for LateAsk { group, keys } in lacking {
            if let Some(ready) = waiting.remove(&group) {
                effects.extend(groups.lacks(ready, &keys, shared.placement()));
            }
        }
        waiting.into_keys().for_each(|id| groups.gave_up(id));
    }
    carry_out(shared, effects);
    Ok(results)
}

/// Keeps results, and sends the parts once they are durable.
async fn store(shared: Arc<Shared>, results: Vec<GroupResult>) {
    if results.is_empty() {
        return;
    }
    let ids: Vec<GroupId> = results.iter().map(|result| result.group).collect();
    let stored = shared.state.store_results.call(shared.context(), StoreResults { results }).await;
    let stored = match stored {
        Ok(stored) => stored,
        Err(error) => {
            tracing::warn!(groups = ids.len(), %error, "results are not kept yet; trying again");
            let mut groups = lock(&shared.groups);
            return ids.into_iter().for_each(|id| groups.gave_up(id));
        }
    };
    for rule in stored.refused.iter().flatten() {
        // An abort may have come while the group ran.
        tracing::debug!(%rule, "own state refuses a result");
    }
    kept(&shared, &stored.parts);
    send_parts(&shared, stored.parts);
}

/// Tells the executor's state machine which results are durable.
pub(crate) fn kept(shared: &Arc<Shared>, parts: &[PartMessage]) {
    for result in parts.chunk_by(|a, b| a.part.group == b.part.group) {
        let effects = lock(&shared.groups).kept(result[0].part.group, result);
        carry_out(shared, effects);
    }
}

/// Sends each part to its owner. This shard's own is with its state already.
pub(crate) fn send_parts(shared: &Arc<Shared>, parts: Vec<PartMessage>) {
    let mut by_owner: BTreeMap<ShardId, Vec<PartMessage>> = BTreeMap::new();
    for message in parts {
        by_owner.entry(message.part.owner).or_default().push(message);
    }
    for (owner, parts) in by_owner {
        if let Some(peer) = shared.peers.get(&owner) {
            peer.outbound.parts(parts);
        }
    }
}

/// Brings code that leased accounts have, and this shard does not, to this shard's state. Returns the
/// groups that have theirs; the others are given up, and tried again by the refresh.
async fn bring_codes(shared: &Arc<Shared>, batch: Vec<Ready>) -> Vec<Ready> {
    let mut wanted: BTreeMap<ShardId, BTreeSet<B256>> = BTreeMap::new();
    {
        let known = shared.known_codes();
        let codes = batch.iter().flat_map(|ready| &ready.codes);
        for (from, hash) in codes.filter(|(from, _)| *from != shared.shard()) {
            if *hash != KECCAK_EMPTY && !known.contains(hash) {
                wanted.entry(*from).or_default().insert(*hash);
            }
        }
    }
    let fetches = wanted.into_iter().map(async |(from, hashes)| {
        let fetched = fetch_codes(shared, from, hashes.into_iter().collect()).await;
        let error = fetched.err()?;
        tracing::warn!(shard = %from, error, "cannot fetch code; its groups are tried again");
        Some(from)
    });
    let failed = futures::future::join_all(fetches).await;
    let failed: HashSet<ShardId> = failed.into_iter().flatten().collect();
    if failed.is_empty() {
        return batch;
    }
    let lacks = |ready: &Ready| ready.codes.iter().any(|(from, _)| failed.contains(from));
    let (lacking, batch): (Vec<_>, Vec<_>) = batch.into_iter().partition(lacks);
    let mut groups = lock(&shared.groups);
    lacking.into_iter().for_each(|ready| groups.gave_up(ready.group.id));
    batch
}

/// Fetches code from another shard that the own state does not have.
pub(crate) async fn fetch_codes(
    shared: &Arc<Shared>,
    from: ShardId,
    hashes: Vec<B256>,
) -> Result<(), String> {
    if hashes.is_empty() {
        return Ok(());
    }
    let read = Read { keys: Vec::new(), codes: hashes.clone(), at: None, min_cut: 0 };
    let here = shared.state.read.call(shared.context(), read).await.map_err(|e| e.to_string())?;
    let held = |code: &Option<_>| code.is_some();
    let wanted: Vec<B256> = hashes
        .iter()
        .zip(&here.codes)
        .filter(|(_, code)| !held(code))
        .map(|(hash, _)| *hash)
        .collect();
    if !wanted.is_empty() {
        let peer = shared.peers.get(&from).ok_or_else(|| format!("no shard {from}"))?;
        let ask = Fetch { from: shared.shard(), codes: wanted.clone(), ..Fetch::default() };
        let context = Context::none().with_timeout(CODE_TIMEOUT);
        let reply = peer.client.fetch.call(context, ask).await.map_err(|e| e.to_string())?;
        // What an undecided group creates is not there yet: it comes with the values in flight.
        let absent = wanted.iter().zip(&reply.codes).filter(|(_, code)| code.is_none());
        let absent: HashSet<B256> = absent.map(|(hash, _)| *hash).collect();
        let codes = reply.codes.into_iter().flatten().collect();
        let put = shared.state.put_codes.call(shared.context(), PutCodes { codes }).await;
        put.map_err(|e| e.to_string())?;
        let found = hashes.into_iter().filter(|hash| !absent.contains(hash));
        shared.known_codes().extend(found);
        return Ok(());
    }
    shared.known_codes().extend(hashes);
    Ok(())
}
