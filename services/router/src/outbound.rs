//! What waits to be sent to one other shard: one message carries all of it.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use atoll_api::router::{Deliver, DeliverReply};
use atoll_fabric::Beat;
use atoll_types::{Credit, Flight, Lease, PartMessage, Settlement, ShardId, SharedTx, Want};
use tokio::sync::{Notify, oneshot};

use crate::shared::{Shared, lock};

const RETRY: Duration = Duration::from_millis(100);
/// Between two messages.
const MESSAGE_GAP: Duration = Duration::from_millis(3);
/// Items that may wait; more are left to the refresh.
const MAX_WAITING: usize = 65_536;
/// Transactions shared in one message at the most; keeps messages below the size limit.
const MAX_SHARED: usize = 4_096;

/// Said when a shared transaction is durable at the other shard, or was refused.
type Shared1 = (SharedTx, Option<oneshot::Sender<bool>>);

#[derive(Default)]
struct Waiting {
    shared: Vec<Shared1>,
    leases: Vec<Lease>,
    parts: Vec<PartMessage>,
    credits: Vec<Credit>,
    settlements: Vec<Settlement>,
    wants: Vec<Want>,
    flights: Vec<Flight>,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.shared.is_empty()
            && self.leases.is_empty()
            && self.parts.is_empty()
            && self.credits.is_empty()
            && self.settlements.is_empty()
            && self.wants.is_empty()
            && self.flights.is_empty()
    }
}

/// The queue to one shard.
#[derive(Default)]
pub(crate) struct Outbound {
    waiting: Mutex<Waiting>,
    came: Notify,
    /// Number of the newest credit that the other shard was told is settled.
    settled: AtomicU64,
}

impl Outbound {
    fn add<T>(&self, list: fn(&mut Waiting) -> &mut Vec<T>, items: impl IntoIterator<Item = T>) {
        let mut waiting = lock(&self.waiting);
        let list = list(&mut waiting);
        let room = MAX_WAITING.saturating_sub(list.len());
        list.extend(items.into_iter().take(room));
        drop(waiting);
        self.came.notify_one();
    }

    /// Shares a transaction; the receiver hears `true` when the other shard holds it durably.
    pub fn share(&self, tx: SharedTx) -> oneshot::Receiver<bool> {
        let (held, hears) = oneshot::channel();
        self.add(|waiting| &mut waiting.shared, [(tx, Some(held))]);
        hears
    }

    pub fn leases(&self, leases: impl IntoIterator<Item = Lease>) {
        self.add(|waiting| &mut waiting.leases, leases);
    }

    pub fn wants(&self, wants: impl IntoIterator<Item = Want>) {
        self.add(|waiting| &mut waiting.wants, wants);
    }

    pub fn flights(&self, flights: impl IntoIterator<Item = Flight>) {
        self.add(|waiting| &mut waiting.flights, flights);
    }

    pub fn parts(&self, parts: impl IntoIterator<Item = PartMessage>) {
        self.add(|waiting| &mut waiting.parts, parts);
    }

    pub fn credits(&self, credits: impl IntoIterator<Item = Credit>) {
        self.add(|waiting| &mut waiting.credits, credits);
    }

    /// Tells what became of credits, unless it was told before and `again` does not ask for it.
    pub fn settle(&self, settlement: Settlement, again: bool) {
        let told = self.settled.fetch_max(settlement.up_to, Ordering::Relaxed);
        if !again && told >= settlement.up_to {
            return;
        }
        self.add(|waiting| &mut waiting.settlements, [settlement]);
    }

    fn take(&self) -> Waiting {
        let mut waiting = lock(&self.waiting);
        let mut taken = std::mem::take(&mut *waiting);
        if taken.shared.len() > MAX_SHARED {
            waiting.shared = taken.shared.split_off(MAX_SHARED);
            self.came.notify_one();
        }
        // What an earlier message lost comes before what is newer: a gap would be refused.
        taken.credits.sort_unstable_by_key(|credit| credit.seq);
        taken.credits.dedup_by_key(|credit| credit.seq);
        taken
    }
}

/// Sends whatever waits, one message at a time: what comes meanwhile goes with the next one. What
/// cannot be delivered is dropped here; it stays in the state's outbox and is sent again from there.
/// Only credits stay: without them, newer ones would be refused as long as there are any.
pub(crate) async fn send(shared: Arc<Shared>, to: ShardId) {
    let Some(peer) = shared.peers.get(&to) else { return };
    let mut reachable = true;
    let mut beat = Beat::every(MESSAGE_GAP);
    loop {
        peer.outbound.came.notified().await;
        beat.wait().await;
        let taken = peer.outbound.take();
        if taken.is_empty() {
            continue;
        }
        let (txs, held): (Vec<_>, Vec<_>) = taken.shared.into_iter().unzip();
        let credits = taken.credits.clone();
        let deliver = Deliver {
            chain_id: shared.config.chain_id,
            epoch: shared.placement().epoch,
            from: shared.shard(),
            to,
            shared: txs,
            leases: taken.leases,
            parts: taken.parts,
            credits: taken.credits,
            settlements: taken.settlements,
            wants: taken.wants,
            flights: taken.flights,
        };
        match peer.client.deliver.call(shared.context(), deliver).await {
            Ok(reply) => {
                if !std::mem::replace(&mut reachable, true) {
                    tracing::info!(shard = %to, "shard is reached again");
                }
                delivered(to, &reply, held);
            }
            Err(error) => {
                // Said once, not with each message that is lost until it is reached again.
                // Settlements were noted as told when they were queued.
                peer.outbound.settled.store(0, Ordering::Relaxed);
                if std::mem::replace(&mut reachable, false) {
                    tracing::warn!(shard = %to, %error, "cannot deliver to a shard; it is sent again");
                }
                tokio::time::sleep(RETRY).await;
                peer.outbound.credits(credits);
            }
        }
    }
}

fn delivered(to: ShardId, reply: &DeliverReply, held: Vec<Option<oneshot::Sender<bool>>>) {
    for (refused, held) in reply.shared_refused.iter().zip(held) {
        if let Some(rule) = refused {
            tracing::warn!(shard = %to, %rule, "shard refuses a shared transaction");
        }
        if let Some(held) = held {
            // Nobody listens if the transaction is shared again by the refresh.
            let _ = held.send(refused.is_none());
        }
    }
    for rule in reply.parts_refused.iter().flatten() {
        tracing::debug!(shard = %to, %rule, "shard refuses a part");
    }
}
