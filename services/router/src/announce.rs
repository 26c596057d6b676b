//! What the beacon is told: intents, and the shard's anchor. And what the state has for others.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use atoll_api::{beacon::Announce, state::Watch};
use atoll_fabric::Context;
use atoll_types::{Anchor, Intent, Placement, ShardId, ShardKeys, SharedTx};
use tokio::sync::Notify;

use crate::shared::{Shared, lock};

const WAIT_MS: u64 = 10_000;
const RETRY: Duration = Duration::from_millis(100);
/// Intents announced in one message at the most.
const MAX_INTENTS: usize = 4_096;

#[derive(Default)]
struct Waiting {
    intents: Vec<Intent>,
    anchor: Option<Anchor>,
}

/// The queue to the beacon.
#[derive(Default)]
pub(crate) struct Announcements {
    waiting: Mutex<Waiting>,
    came: Notify,
}

impl Announcements {
    pub fn intents(&self, intents: impl IntoIterator<Item = Intent>) {
        lock(&self.waiting).intents.extend(intents);
        self.came.notify_one();
    }

    fn anchor(&self, anchor: Anchor) {
        lock(&self.waiting).anchor = Some(anchor);
        self.came.notify_one();
    }
}

/// What the beacon orders of a shared transaction.
pub(crate) fn intent(shared: &SharedTx, placement: &Placement) -> Intent {
    let mut keys: HashMap<ShardId, ShardKeys> = HashMap::new();
    let mut of = |key: &atoll_types::StateKey, list: fn(&mut ShardKeys) -> &mut Vec<u64>| {
        let shard = placement.owner_of(key);
        let empty = || ShardKeys { shard, reads: Vec::new(), writes: Vec::new() };
        list(keys.entry(shard).or_insert_with(empty)).push(key.fingerprint());
    };
    shared.keys.reads.iter().for_each(|key| of(key, |keys| &mut keys.reads));
    shared.keys.writes.iter().for_each(|key| of(key, |keys| &mut keys.writes));
    let mut keys: Vec<ShardKeys> = keys.into_values().collect();
    keys.sort_unstable_by_key(|keys| keys.shard);
    Intent {
        tx: shared.reference(),
        origin: shared.origin,
        sender: shared.tx.sender(),
        nonce: shared.tx.nonce(),
        gas_limit: shared.tx.gas_limit(),
        last_valid_round: shared.last_valid_round,
        keys,
    }
}

/// Tells the beacon whatever waits, one message at a time.
pub(crate) async fn announce(shared: Arc<Shared>) {
    loop {
        shared.announcements.came.notified().await;
        let (intents, anchor) = {
            let mut waiting = lock(&shared.announcements.waiting);
            let count = waiting.intents.len().min(MAX_INTENTS);
            let intents: Vec<Intent> = waiting.intents.drain(..count).collect();
            if !waiting.intents.is_empty() {
                shared.announcements.came.notify_one();
            }
            (intents, waiting.anchor.take())
        };
        let message = Announce { from: shared.shard(), intents, anchor: anchor.clone() };
        if let Err(error) = shared.beacon.announce.call(shared.context(), message).await {
            // The refresh announces intents again; the anchor has only this one chance until the
            // next one.
            tracing::warn!(%error, "cannot reach the beacon; trying again");
            tokio::time::sleep(RETRY).await;
            if let Some(anchor) = anchor {
                let mut waiting = lock(&shared.announcements.waiting);
                waiting.anchor.get_or_insert(anchor);
                shared.announcements.came.notify_one();
            }
        }
    }
}

/// Passes on the shard's anchors to the beacon and its credits to their receivers.
pub(crate) async fn watch(shared: Arc<Shared>) {
    let mut version = 0;
    let mut newest: HashMap<ShardId, u64> = HashMap::new();
    loop {
        let credits_after = newest.iter().map(|(shard, seq)| (*shard, *seq)).collect();
        let context = Context::none().with_timeout(Duration::from_millis(2 * WAIT_MS));
        let ask = Watch { version, credits_after, wait_ms: WAIT_MS };
        match shared.state.watch.call(context, ask).await {
            Ok(reply) => {
                if reply.version != version {
                    version = reply.version;
                    shared.announcements.anchor(reply.anchor);
                }
                let mut by_shard: HashMap<ShardId, Vec<_>> = HashMap::new();
                for credit in reply.credits {
                    newest.insert(credit.to, credit.seq);
                    by_shard.entry(credit.to).or_default().push(credit);
                }
                for (to, credits) in by_shard {
                    if let Some(peer) = shared.peers.get(&to) {
                        peer.outbound.credits(credits);
                    }
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot watch the shard's state; trying again");
                version = 0;
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}
