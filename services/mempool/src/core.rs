//! The pool: what is in it, and what may come in.
//!
//! Every rule of admission, order and eviction is here and in the modules beside it; nothing here
//! knows a clock, a socket or a thread. With n transactions in the pool and at most k of one sender
//! (a constant: [`Limits::max_sender_txs`]), admission is O(log n + k), plus the same for each
//! transaction that it pushes out; taking is O(log n) for each transaction and O(k) for each sender
//! of one. Nothing is linear in n but a reset.

use std::collections::BTreeSet;
use std::sync::Arc;

use alloy_primitives::{Address, B256, map::HashMap};
use atoll_api::{
    mempool::{Content, ContentReply, Pending, PendingReply, StatusReply},
    state::DroppedTx,
};
use atoll_types::Tx;

use crate::config::{Config, Limits};
use crate::metrics::Metrics;
use crate::price::{PriceIndex, Rank};
use crate::sender::{Mark, Pins, Place, Placed, Pooled, Sender};

/// Pending transactions of a shard's senders. See the [module](self) for what operations cost.
///
/// Time is handed in, in milliseconds of any clock that does not go back. If it jumps ahead,
/// transactions that cannot run expire early, and nothing else happens.
pub struct Pool {
    pub(crate) config: Config,
    pub(crate) metrics: Arc<Metrics>,
    /// Transactions that will not run, and why, until somebody takes them to tell.
    pub(crate) dropped: Vec<DroppedTx>,
    pub(crate) senders: HashMap<Address, Sender>,
    pub(crate) pins: HashMap<Address, Pins>,
    pub(crate) by_hash: HashMap<B256, Place>,
    pub(crate) size_bytes: usize,
    pub(crate) arrivals: u64,
    pub(crate) base_fee: u64,
    /// The next transaction of each sender that has one to release, by its own price.
    pub(crate) ready: PriceIndex,
    /// The last transaction of each sender, by the price of its path: first to be pushed out.
    pub(crate) pending_tails: PriceIndex,
    /// The same of senders whose last one is not runnable.
    pub(crate) queued_tails: PriceIndex,
    /// When to see whether a transaction has expired.
    pub(crate) due: BTreeSet<(u64, Address, u64)>,
    /// Senders with transactions taken.
    pub(crate) borrowers: BTreeSet<Address>,
    /// Senders of which nothing can go on unless their accounts change.
    pub(crate) stuck: BTreeSet<Address>,
    /// Where [`Pool::doubtful`] goes on.
    pub(crate) stuck_from: Address,
    /// Senders whose accounts should be read soon.
    pub(crate) urgent: BTreeSet<Address>,
    pending: usize,
    queued: usize,
    under_way: usize,
    pub(crate) session: u64,
    pub(crate) synced: bool,
    /// The volume of the shard's data is full.
    pub(crate) full: bool,
}

impl Pool {
    /// An empty pool. It releases nothing before the first [`Pool::reset`].
    pub fn new(config: Config) -> Self {
        Self {
            config,
            metrics: Arc::default(),
            dropped: Vec::new(),
            senders: HashMap::default(),
            pins: HashMap::default(),
            by_hash: HashMap::default(),
            size_bytes: 0,
            arrivals: 0,
            base_fee: 0,
            ready: PriceIndex::default(),
            pending_tails: PriceIndex::default(),
            queued_tails: PriceIndex::default(),
            due: BTreeSet::new(),
            borrowers: BTreeSet::new(),
            stuck: BTreeSet::new(),
            stuck_from: Address::ZERO,
            urgent: BTreeSet::new(),
            pending: 0,
            queued: 0,
            under_way: 0,
            session: 0,
            synced: false,
            full: false,
        }
    }

    pub fn limits(&self) -> &Limits {
        &self.config.limits
    }

    /// Whether a transaction is in the pool.
    pub fn contains(&self, tx: &B256) -> bool {
        self.by_hash.contains_key(tx)
    }

    /// Whether it is known what is under way across shards.
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    pub fn metrics(&self) -> Arc<Metrics> {
        self.metrics.clone()
    }

    /// Transactions that will not run and have not been told yet.
    pub fn take_dropped(&mut self) -> Vec<DroppedTx> {
        std::mem::take(&mut self.dropped)
    }

    pub(crate) fn drop_tx(&mut self, tx: &Tx, reason: String) {
        self.dropped.push(DroppedTx { tx: *tx.hash(), reason });
    }

    /// What there is of a sender, and a transaction.
    pub fn pending(&self, asked: &Pending) -> PendingReply {
        let sender = self.senders.get(&asked.sender).filter(|sender| sender.account.is_some());
        let place = self.by_hash.get(&asked.tx);
        let pooled = place.and_then(|(sender, nonce)| self.senders.get(sender)?.txs.get(nonce));
        PendingReply {
            next: sender.map(|sender| sender.run_end),
            tx: pooled.map(|pooled| pooled.tx.clone()),
        }
    }

    /// What there is, as far as it may be told at once.
    pub fn content(&self, asked: &Content) -> ContentReply {
        let of_one = asked.sender.and_then(|address| self.senders.get(&address));
        let all = asked.sender.is_none().then(|| self.senders.values()).into_iter().flatten();
        let most = asked.max_txs.min(Content::MAX_TXS) as usize;
        let (mut reply, mut bytes) = (ContentReply::default(), 0);
        for pooled in of_one.into_iter().chain(all).flat_map(|sender| sender.txs.values()) {
            bytes += pooled.size();
            if reply.pending.len() + reply.queued.len() >= most || bytes > Content::MAX_BYTES {
                reply.more = true;
                break;
            }
            let queued = pooled.mark == Mark::Free && !pooled.runnable;
            let list = if queued { &mut reply.queued } else { &mut reply.pending };
            list.push(pooled.tx.clone());
        }
        reply
    }

    /// How full the pool is; the first three do not overlap.
    pub fn status(&self) -> StatusReply {
        StatusReply {
            pending: self.pending as u64,
            queued: self.queued as u64,
            under_way: self.under_way as u64,
            size_bytes: self.size_bytes as u64,
        }
    }

    pub(crate) fn attach(&mut self, pooled: Pooled) {
        let (address, nonce) = (pooled.tx.sender(), pooled.tx.nonce());
        self.by_hash.insert(*pooled.tx.hash(), (address, nonce));
        self.size_bytes += pooled.size();
        self.due.insert((pooled.due_ms, address, nonce));
        let sender = self.senders.entry(address).or_default();
        sender.cost = sender.cost.saturating_add(pooled.cost);
        sender.txs.insert(nonce, pooled);
    }

    /// Takes a transaction out. The sender has to be reindexed after.
    pub(crate) fn detach(&mut self, (address, nonce): Place) -> Option<Pooled> {
        let sender = self.senders.get_mut(&address)?;
        let pooled = sender.txs.remove(&nonce)?;
        sender.cost -= pooled.cost;
        self.by_hash.remove(pooled.tx.hash());
        self.size_bytes -= pooled.size();
        self.due.remove(&(pooled.due_ms, address, nonce));
        Some(pooled)
    }

    /// Brings indices and counts up to date after a sender has changed.
    pub(crate) fn reindex(&mut self, address: &Address, now_ms: u64) {
        let Some(sender) = self.senders.get_mut(address) else {
            return;
        };
        let due = &mut self.due;
        let requeued_due_ms = now_ms.saturating_add(self.config.limits.expiry_ms);
        let max_under_way = self.config.limits.max_sender_under_way;
        let new = sender.walk(self.pins.get(address), max_under_way, |pooled| {
            let nonce = pooled.tx.nonce();
            due.remove(&(pooled.due_ms, *address, nonce));
            pooled.due_ms = requeued_due_ms;
            due.insert((pooled.due_ms, *address, nonce));
        });
        let old = std::mem::replace(&mut sender.placed, new);
        self.place(address, &old, &new);
    }

    fn place(&mut self, address: &Address, old: &Placed, new: &Placed) {
        self.set_head(old.head, new.head);
        if old.tail != new.tail {
            if let Some((tail, runnable)) = old.tail {
                self.tails(runnable).remove(tail);
            }
            if let Some((tail, runnable)) = new.tail {
                self.tails(runnable).insert(tail);
            }
        }
        self.pending = self.pending + new.pending - old.pending;
        self.queued = self.queued + new.queued - old.queued;
        let under_way = |placed: &Placed| placed.taken + placed.escalated;
        self.under_way = self.under_way + under_way(new) - under_way(old);
        if new.taken > 0 && old.taken == 0 {
            self.borrowers.insert(*address);
        } else if new.taken == 0 && old.taken > 0 {
            self.borrowers.remove(address);
        }
        if new.stuck && !old.stuck {
            self.stuck.insert(*address);
        } else if !new.stuck && old.stuck {
            self.stuck.remove(address);
        }
    }

    pub(crate) fn set_head(&mut self, old: Option<Rank>, new: Option<Rank>) {
        if old != new {
            if let Some(head) = old {
                self.ready.remove(head);
            }
            if let Some(head) = new {
                self.ready.insert(head);
            }
        }
    }

    fn tails(&mut self, runnable: bool) -> &mut PriceIndex {
        if runnable { &mut self.pending_tails } else { &mut self.queued_tails }
    }

    pub(crate) fn set_base_fee(&mut self, base_fee: u64) {
        self.base_fee = base_fee;
        self.ready.set_base_fee(base_fee);
        self.pending_tails.set_base_fee(base_fee);
        self.queued_tails.set_base_fee(base_fee);
    }

    pub(crate) fn forget_if_idle(&mut self, address: &Address) {
        if self.senders.get(address).is_some_and(Sender::is_idle) {
            self.senders.remove(address);
            self.urgent.remove(address);
        }
    }
}
