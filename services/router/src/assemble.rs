//! Groups that this shard executes: gathers their leases, has them run, and returns the parts.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use atoll_api::{
    executor::{GroupRun, RunGroups},
    router::Fetch,
    state::{GroupToRun, PutCodes, Read, StoreResults},
};
use atoll_types::{
    B256, GroupId, KECCAK_EMPTY, Lease, PartMessage, Refusal, ShardId, SharedTx, TxRef,
};

use crate::shared::{Counts, Shared, lock};

/// Leases kept of groups whose plan this shard has not seen yet.
const MAX_EARLY: usize = 16_384;

#[derive(Default)]
struct Gathering {
    group: Option<GroupToRun>,
    leases: BTreeMap<ShardId, Lease>,
}

/// Groups on their way from plan to result.
#[derive(Default)]
pub(crate) struct Assembly {
    gathering: HashMap<GroupId, Gathering>,
    /// Groups whose run is under way.
    running: HashSet<GroupId>,
}

/// A group with all its leases.
pub(crate) struct Complete {
    group: GroupToRun,
    leases: BTreeMap<ShardId, Lease>,
}

impl Assembly {
    /// A plan of which this shard is the executor. Repeated plans change nothing.
    pub fn plan(&mut self, group: GroupToRun) -> Option<Complete> {
        let id = group.group.id;
        if self.running.contains(&id) {
            return None;
        }
        self.gathering.entry(id).or_default().group = Some(group);
        self.complete(id)
    }

    /// A lease. If the group's plan is not known yet, it waits for it.
    pub fn lease(&mut self, lease: Lease) -> Option<Complete> {
        let id = lease.group;
        if self.running.contains(&id) {
            return None;
        }
        if !self.gathering.contains_key(&id) && self.gathering.len() >= MAX_EARLY {
            return None;
        }
        self.gathering.entry(id).or_default().leases.insert(lease.from, lease);
        self.complete(id)
    }

    fn complete(&mut self, id: GroupId) -> Option<Complete> {
        let gathering = self.gathering.get(&id)?;
        let owners = &gathering.group.as_ref()?.group.owners;
        if !owners.iter().all(|owner| gathering.leases.contains_key(owner)) {
            return None;
        }
        let Gathering { group, mut leases } = self.gathering.remove(&id)?;
        let group = group?;
        leases.retain(|from, _| group.group.owners.contains(from));
        self.running.insert(id);
        Some(Complete { group, leases })
    }

    /// The leases that are missing of groups whose plan is known.
    pub fn missing(&self) -> Vec<(GroupId, ShardId)> {
        let planned = self.gathering.iter().filter_map(|(id, gathering)| {
            let owners = &gathering.group.as_ref()?.group.owners;
            Some(owners.iter().filter(|o| !gathering.leases.contains_key(o)).map(|o| (*id, *o)))
        });
        planned.flatten().collect()
    }

    /// Forgets groups that are decided, given the ones that are open, and early leases of rounds
    /// long past.
    pub fn keep_only(&mut self, open: &HashSet<GroupId>, cut: u64) {
        self.gathering.retain(|id, gathering| {
            open.contains(id) || (gathering.group.is_none() && id.round + 64 > cut)
        });
    }

    fn ended(&mut self, id: GroupId) {
        self.running.remove(&id);
    }
}

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
    let foreign = lease.values.iter().map(|(key, _)| shared.placement().owner_of(key));
    match foreign.into_iter().find(|owner| *owner != from) {
        Some(owner) => Err(Refusal::NotOwner { owner, here: from }),
        None => Ok(()),
    }
}

/// Queues groups that have become complete.
pub(crate) fn start(shared: &Arc<Shared>, complete: Option<Complete>) {
    let Some(complete) = complete else { return };
    lock(&shared.complete).push(complete);
    shared.group_came.notify_one();
}

/// Runs whatever groups are complete, one batch at a time: what comes meanwhile is the next one.
pub(crate) async fn run(shared: Arc<Shared>) {
    loop {
        shared.group_came.notified().await;
        let batch = std::mem::take(&mut *lock(&shared.complete));
        let ids: Vec<GroupId> = batch.iter().map(|complete| complete.group.group.id).collect();
        if let Err(reason) = run_batch(&shared, batch).await {
            // The refresh finds groups without a result and has them run again.
            tracing::warn!(groups = ids.len(), reason, "groups have no result yet; trying again");
        }
        let mut assembly = lock(&shared.assembly);
        ids.into_iter().for_each(|id| assembly.ended(id));
    }
}

async fn run_batch(shared: &Arc<Shared>, batch: Vec<Complete>) -> Result<(), String> {
    bring_codes(shared, &batch).await?;
    let epoch = shared.placement().epoch;
    let mut groups = Vec::with_capacity(batch.len());
    for Complete { group: GroupToRun { group, env, txs }, mut leases } in batch {
        let sent = leases.values_mut().flat_map(|lease| std::mem::take(&mut lease.bodies));
        let mut bodies: HashMap<TxRef, SharedTx> =
            txs.into_iter().chain(sent).map(|tx| (tx.reference(), tx)).collect();
        let body = |tx: &TxRef| bodies.remove(tx);
        let Some(txs) = group.txs.iter().map(body).collect::<Option<_>>() else {
            tracing::warn!(group = %group.id, "no owner has sent the body of a transaction");
            continue;
        };
        let values = leases.into_values().flat_map(|lease| lease.values).collect();
        groups.push(GroupRun { group, env, epoch, txs, values });
    }
    let ran = shared.executor.run_groups.call(shared.context(), RunGroups { groups }).await;
    let results = ran.map_err(|e| e.to_string())?.results;
    Counts::add(&shared.counts.groups_run, results.len());
    let stored = shared.state.store_results.call(shared.context(), StoreResults { results }).await;
    let stored = stored.map_err(|e| e.to_string())?;
    for rule in stored.refused.iter().flatten() {
        // An abort may have come while the group ran.
        tracing::debug!(%rule, "own state refuses a result");
    }
    send_parts(shared, stored.parts);
    Ok(())
}

/// Sends each part to its owner. This shard's own is with its state already.
pub(crate) fn send_parts(shared: &Arc<Shared>, parts: Vec<PartMessage>) {
    let mut by_owner: HashMap<ShardId, Vec<PartMessage>> = HashMap::new();
    for message in parts {
        by_owner.entry(message.part.owner).or_default().push(message);
    }
    for (owner, parts) in by_owner {
        if let Some(peer) = shared.peers.get(&owner) {
            peer.outbound.parts(parts);
        }
    }
}

/// Brings code that leased accounts have, and this shard does not, to this shard's state.
async fn bring_codes(shared: &Arc<Shared>, batch: &[Complete]) -> Result<(), String> {
    let mut wanted: HashMap<ShardId, HashSet<B256>> = HashMap::new();
    {
        let known = shared.known_codes();
        let leases = batch.iter().flat_map(|complete| &complete.leases);
        for (from, lease) in leases.filter(|(from, _)| **from != shared.shard()) {
            let hashes = lease.values.iter().map(|(_, value)| value.code().hash);
            let unknown = hashes.filter(|hash| *hash != KECCAK_EMPTY && !known.contains(hash));
            wanted.entry(*from).or_default().extend(unknown);
        }
    }
    for (from, hashes) in wanted {
        fetch_codes(shared, from, hashes.into_iter().collect()).await?;
    }
    Ok(())
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
        let ask = Fetch {
            from: shared.shard(),
            keys: Vec::new(),
            codes: wanted,
            leases: Vec::new(),
            results: Vec::new(),
        };
        let reply = peer.client.fetch.call(shared.context(), ask).await;
        let codes = reply.map_err(|e| e.to_string())?.codes.into_iter().flatten().collect();
        let put = shared.state.put_codes.call(shared.context(), PutCodes { codes }).await;
        put.map_err(|e| e.to_string())?;
    }
    shared.known_codes().extend(hashes);
    Ok(())
}
