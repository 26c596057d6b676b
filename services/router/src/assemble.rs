//! Groups that this shard executes: gathers their leases, has them run, and returns the parts.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use atoll_api::{
    executor::RunGroup,
    router::Fetch,
    state::{AcceptParts, GroupToRun, PutCodes, Read, StoreResult},
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

/// Runs groups as they become complete, each beside the others.
pub(crate) fn start(shared: &Arc<Shared>, complete: Option<Complete>) {
    let Some(complete) = complete else { return };
    let shared = shared.clone();
    tokio::task::spawn_local(async move {
        let id = complete.group.group.id;
        if let Err(reason) = run(&shared, complete).await {
            // The refresh finds the group without a result and has it run again.
            tracing::warn!(group = %id, reason, "group has no result yet; trying again");
        }
        lock(&shared.assembly).ended(id);
    });
}

async fn run(shared: &Arc<Shared>, complete: Complete) -> Result<(), String> {
    let Complete { group: GroupToRun { group, env, txs }, mut leases } = complete;
    let id = group.id;
    bring_codes(shared, &leases).await?;
    let sent = leases.values_mut().flat_map(|lease| std::mem::take(&mut lease.bodies));
    let mut bodies: HashMap<TxRef, SharedTx> =
        txs.into_iter().chain(sent).map(|tx| (tx.reference(), tx)).collect();
    let body = |tx: &TxRef| bodies.remove(tx).ok_or_else(|| format!("no body of {}", tx.hash));
    let txs = group.txs.iter().map(body).collect::<Result<_, _>>()?;
    let values = leases.into_values().flat_map(|lease| lease.values).collect();
    let epoch = shared.placement().epoch;
    let ask = RunGroup { group, env, epoch, txs, values };
    let result = shared.executor.run_group.call(shared.context(), ask).await;
    let parts = result.map_err(|e| e.to_string())?.parts;
    let store = StoreResult { group: id, parts };
    let stored = shared.state.store_result.call(shared.context(), store).await;
    let parts = stored.map_err(|e| e.to_string())?.parts;
    Counts::add(&shared.counts.groups_run, 1);
    send_parts(shared, parts).await
}

/// Sends each part to its owner, this shard included.
pub(crate) async fn send_parts(
    shared: &Arc<Shared>,
    parts: Vec<PartMessage>,
) -> Result<(), String> {
    let (own, others): (Vec<_>, Vec<_>) =
        parts.into_iter().partition(|message| message.part.owner == shared.shard());
    for message in others {
        if let Some(peer) = shared.peers.get(&message.part.owner) {
            peer.outbound.parts([message]);
        }
    }
    if own.is_empty() {
        return Ok(());
    }
    let accept = AcceptParts { parts: own };
    let reply = shared.state.accept_parts.call(shared.context(), accept).await;
    let refused = reply.map_err(|e| e.to_string())?.refused;
    match refused.into_iter().flatten().next() {
        Some(rule) => Err(rule.to_string()),
        None => Ok(()),
    }
}

/// Brings code that leased accounts have, and this shard does not, to this shard's state.
async fn bring_codes(
    shared: &Arc<Shared>,
    leases: &BTreeMap<ShardId, Lease>,
) -> Result<(), String> {
    for (from, lease) in leases.iter().filter(|(from, _)| **from != shared.shard()) {
        let hashes: HashSet<B256> = {
            let known = shared.known_codes();
            let hashes = lease.values.iter().map(|(_, value)| value.code().hash);
            hashes.filter(|hash| *hash != KECCAK_EMPTY && !known.contains(hash)).collect()
        };
        fetch_codes(shared, *from, hashes.into_iter().collect()).await?;
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
