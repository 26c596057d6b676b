//! Follows the receipts of every shard and hands them to those who wait for them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use alloy_primitives::{Address, B256, map::HashMap};
use atoll_api::state::{Feed, FeedEvent, FeedReply, Lookup, ReceiptEvent, StateError, TxStatus};
use atoll_fabric::{Context, watch};
use atoll_types::{Finality, ShardId};

use crate::ShardLinks;
use crate::backlog::Backlog;
use crate::recent::{Origin, Recent};

/// Events taken from a shard at a time.
const EVENTS_AT_ONCE: u32 = 1024;
/// How long a shard without events keeps the gateway waiting.
const FEED_WAIT: Duration = Duration::from_secs(10);
/// Time for a reply besides that.
const FEED_SLACK: Duration = Duration::from_secs(5);
/// Pause after a feed that failed.
const FEED_PAUSE: Duration = Duration::from_millis(250);

/// Events of one shard.
pub(crate) struct Batch {
    /// Events before these that the gateway did not get.
    pub lost: u64,
    pub events: Vec<Event>,
}

/// As [`FeedEvent`], one transaction each, with its sender as far as that is known.
pub(crate) enum Event {
    Receipt(Arc<ReceiptEvent>),
    Finalized { tx: B256, sender: Option<Address>, cut: u64 },
    Dropped { tx: B256, sender: Option<Address>, reason: String },
}

impl Event {
    pub fn tx(&self) -> B256 {
        match self {
            Self::Receipt(event) => event.receipt.tx,
            Self::Finalized { tx, .. } | Self::Dropped { tx, .. } => *tx,
        }
    }

    pub fn sender(&self) -> Option<Address> {
        match self {
            Self::Receipt(event) => Some(event.receipt.sender),
            Self::Finalized { sender, .. } | Self::Dropped { sender, .. } => *sender,
        }
    }

    fn set_sender(&mut self, found: Address) {
        if let Self::Finalized { sender, .. } | Self::Dropped { sender, .. } = self {
            *sender = Some(found);
        }
    }

    /// About what it takes in memory and on the wire, in bytes.
    pub fn size_bytes(&self) -> usize {
        let variable = match self {
            Self::Receipt(event) => {
                let executed = &event.receipt.executed;
                let log =
                    |log: &atoll_types::Log| 64 + 40 * log.topics().len() + log.data.data.len();
                executed.logs.iter().map(log).sum::<usize>() + executed.output.len() + 192
            }
            Self::Finalized { .. } => 0,
            Self::Dropped { reason, .. } => reason.len(),
        };
        128 + variable
    }
}

/// What has happened to a transaction since someone began to wait for it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notice {
    /// What the feed said last, if that is all there is to know.
    pub status: Option<TxStatus>,
    /// The feed did not say all: look it up.
    pub look_up: bool,
}

impl Notice {
    fn take_in(&mut self, event: &Event) {
        match (event, &mut self.status) {
            (Event::Receipt(receipt), _) => self.status = Some(TxStatus::Done((**receipt).clone())),
            (Event::Dropped { reason, .. }, _) => {
                let reason = reason.clone();
                self.status = Some(TxStatus::Dropped { reason });
            }
            (Event::Finalized { cut, .. }, Some(TxStatus::Done(receipt))) => {
                receipt.finality = Finality::Final;
                receipt.cut = receipt.cut.max(*cut);
            }
            (Event::Finalized { .. }, _) => self.look_up = true,
        }
    }
}

type Waiting = HashMap<B256, watch::Sender<Notice>>;

/// Where the feeds of all shards meet those who wait.
pub(crate) struct Hub {
    pub recent: Arc<Recent>,
    pub backlog: Arc<Backlog>,
    waiting: Mutex<Waiting>,
    /// Shards whose receipts are followed.
    followed: watch::Sender<usize>,
}

/// Someone's wait for one transaction.
pub(crate) struct Wait {
    hub: Arc<Hub>,
    tx: B256,
    pub notice: watch::Receiver<Notice>,
}

impl Drop for Wait {
    fn drop(&mut self) {
        let mut waiting = self.hub.waiting();
        // This one is still counted.
        if waiting.get(&self.tx).is_some_and(|notices| notices.receiver_count() <= 1) {
            waiting.remove(&self.tx);
        }
    }
}

impl Hub {
    pub fn new(recent: Arc<Recent>, backlog: Arc<Backlog>) -> Self {
        let followed = watch::Sender::new(0);
        Self { recent, backlog, waiting: Mutex::default(), followed }
    }

    /// Waits until the receipts of `shards` shards are followed: what happens before that is told to
    /// nobody.
    pub async fn follows(&self, shards: usize) {
        // Fails only if the sender is gone, and it is in here.
        let _ = self.followed.subscribe().wait_for(|followed| *followed >= shards).await;
    }

    /// Everything that the feeds say of `tx` from now on. Look it up after this, not before.
    pub fn wait(self: &Arc<Self>, tx: B256) -> Wait {
        let notice = self.waiting().entry(tx).or_default().subscribe();
        Wait { hub: self.clone(), tx, notice }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, shard: ShardId, batch: Batch) {
        // What ends after its receipt is known from then.
        self.recent.extend(batch.events.iter().filter_map(|event| match event {
            Event::Finalized { .. } => None,
            event => Some((event.tx(), Origin { shard, sender: event.sender()? })),
        }));
        {
            let waiting = self.waiting();
            if !waiting.is_empty() {
                for event in &batch.events {
                    if let Some(notices) = waiting.get(&event.tx()) {
                        notices.send_modify(|notice| notice.take_in(event));
                    }
                }
            }
        }
        if batch.lost > 0 {
            self.look_up_all();
        }
        self.backlog.push(Arc::new(batch));
    }

    /// Events may have been missed.
    fn look_up_all(&self) {
        let waiting = self.waiting();
        // In an order that does not change from run to run.
        let mut all: Vec<_> = waiting.iter().collect();
        all.sort_unstable_by_key(|(tx, _)| **tx);
        for (_, notices) in all {
            notices.send_modify(|notice| notice.look_up = true);
        }
    }
}

/// Follows one shard for ever.
pub(crate) async fn follow(hub: Arc<Hub>, shard: ShardId, links: ShardLinks) {
    let mut after = Feed::NEWEST;
    loop {
        let begins = after == Feed::NEWEST;
        match ask(&links, after).await {
            Ok(reply) => {
                after = reply.next;
                if begins {
                    hub.followed.send_modify(|followed| *followed += 1);
                    hub.look_up_all();
                }
                if !reply.events.is_empty() || reply.lost > 0 {
                    let batch = resolve(&hub, &links, reply).await;
                    hub.publish(shard, batch);
                }
            }
            Err(error) => {
                tracing::warn!(%shard, %error, "cannot follow receipts; trying again");
                tokio::time::sleep(FEED_PAUSE).await;
            }
        }
    }
}

async fn ask(links: &ShardLinks, after: u64) -> Result<FeedReply, StateError> {
    // At first only the place to begin at is wanted.
    let wait = if after == Feed::NEWEST { Duration::ZERO } else { FEED_WAIT };
    let request = Feed {
        after,
        max: EVENTS_AT_ONCE,
        wait_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
    };
    let context = Context::none().with_timeout(wait + FEED_SLACK);
    links.feed.call(context, request).await
}

/// One event for each transaction, with its sender.
async fn resolve(hub: &Hub, links: &ShardLinks, reply: FeedReply) -> Batch {
    let mut events = Vec::with_capacity(reply.events.len());
    for event in reply.events {
        match event {
            FeedEvent::Receipt(event) => events.push(Event::Receipt(event)),
            FeedEvent::Finalized { txs, cut } => {
                let sender = None;
                events.extend(txs.into_iter().map(|tx| Event::Finalized { tx, sender, cut }));
            }
            FeedEvent::Dropped { tx, reason } => {
                events.push(Event::Dropped { tx, sender: None, reason })
            }
        }
    }
    name_senders(hub, links, &mut events).await;
    Batch { lost: reply.lost, events }
}

/// Finds the senders of transactions that a feed only names: most were seen here of late, the rest may
/// have their receipts beside them, and the shard has those of the others.
async fn name_senders(hub: &Hub, links: &ShardLinks, events: &mut [Event]) {
    let nameless: Vec<usize> =
        (0..events.len()).filter(|at| events[*at].sender().is_none()).collect();
    let txs: Vec<B256> = nameless.iter().map(|at| events[*at].tx()).collect();
    let mut unknown = Vec::new();
    for (at, origin) in nameless.into_iter().zip(hub.recent.of_all(&txs)) {
        match origin {
            Some(origin) => events[at].set_sender(origin.sender),
            None => unknown.push(at),
        }
    }
    if unknown.is_empty() {
        return;
    }
    let mut senders: HashMap<B256, Address> =
        events.iter().filter_map(|event| Some((event.tx(), event.sender()?))).collect();
    let of_others = unknown.iter().map(|at| &events[*at]).filter(|event| {
        matches!(event, Event::Finalized { .. }) && !senders.contains_key(&event.tx())
    });
    let txs: Vec<B256> = of_others.map(Event::tx).collect();
    if !txs.is_empty() && hub.backlog.is_watched() {
        let context = Context::none().with_timeout(FEED_SLACK);
        match links.lookup.call(context, Lookup { txs }).await {
            Ok(reply) => senders.extend(reply.statuses.into_iter().filter_map(|status| {
                let Some(TxStatus::Done(event)) = status else {
                    return None;
                };
                Some((event.receipt.tx, event.receipt.sender))
            })),
            Err(error) => {
                tracing::warn!(%error, "cannot look up senders; their watchers miss finality");
            }
        }
    }
    for at in unknown {
        if let Some(sender) = senders.get(&events[at].tx()) {
            events[at].set_sender(*sender);
        }
    }
}
