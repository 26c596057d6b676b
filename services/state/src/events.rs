//! Receipts: as events for those who watch, and by hash for those who ask.

use std::collections::{HashMap, VecDeque};

use atoll_api::state::{Feed, FeedEvent, FeedReply, ReceiptEvent};
use atoll_types::{B256, Finality, Receipt, ReceiptKind};
use serde::{Deserialize, Serialize};

/// Events kept for watchers.
const KEPT_EVENTS: usize = 131_072;
/// Reasons kept for transactions that were dropped.
const KEPT_DROPPED: usize = 16_384;

/// A receipt as it is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub receipt: Receipt,
    /// A cut at which what it did can be read.
    pub cut: u64,
}

#[derive(Default)]
pub(crate) struct Events {
    kept: VecDeque<FeedEvent>,
    newest: u64,
    dropped: HashMap<B256, String>,
    dropped_order: VecDeque<B256>,
    /// Blocks that the beacon has not anchored, with their transactions.
    unanchored: VecDeque<(u64, Vec<B256>)>,
    /// Newest block that it has.
    anchored: u64,
}

impl Events {
    pub fn newest(&self) -> u64 {
        self.newest
    }

    pub fn anchored(&self) -> u64 {
        self.anchored
    }

    pub fn anchored_at(anchored: u64) -> Self {
        Self { anchored, ..Self::default() }
    }

    /// Numbers go on from what no earlier run of the shard has used, given the number of its next
    /// log record: a record makes far fewer than 2^20 events.
    pub fn number_from(&mut self, next_record: u64) {
        self.newest = next_record << 20;
    }

    pub fn push(&mut self, event: FeedEvent) {
        self.newest += 1;
        self.kept.push_back(event);
        if self.kept.len() > KEPT_EVENTS {
            self.kept.pop_front();
        }
    }

    pub fn drop_tx(&mut self, tx: B256, reason: String) {
        self.remember_drop(tx, reason.clone());
        self.push(FeedEvent::Dropped { tx, reason });
    }

    /// Keeps why a transaction was dropped, for those who ask.
    pub fn remember_drop(&mut self, tx: B256, reason: String) {
        if self.dropped.insert(tx, reason).is_none() {
            self.dropped_order.push_back(tx);
        }
        if self.dropped_order.len() > KEPT_DROPPED
            && let Some(oldest) = self.dropped_order.pop_front()
        {
            self.dropped.remove(&oldest);
        }
    }

    /// All that are kept, oldest first.
    pub fn all_dropped(&self) -> Vec<(B256, String)> {
        let reason = |tx: &B256| Some((*tx, self.dropped.get(tx)?.clone()));
        self.dropped_order.iter().filter_map(reason).collect()
    }

    pub fn dropped(&self, tx: &B256) -> Option<&String> {
        self.dropped.get(tx)
    }

    /// Blocks not anchored yet, for a clean stop.
    pub fn unanchored(&self) -> &VecDeque<(u64, Vec<B256>)> {
        &self.unanchored
    }

    pub fn add_block(&mut self, number: u64, txs: Vec<B256>) {
        self.unanchored.push_back((number, txs));
    }

    /// The beacon has anchored a block: it and those before it are final.
    pub fn anchor(&mut self, head: u64, cut: u64) {
        self.anchored = self.anchored.max(head);
        while let Some((_, txs)) = self.unanchored.pop_front_if(|(number, _)| *number <= head) {
            if !txs.is_empty() {
                self.push(FeedEvent::Finalized { txs, cut });
            }
        }
    }

    /// How firm a receipt is.
    pub fn finality(&self, receipt: &Receipt) -> Finality {
        let open = receipt.kind == ReceiptKind::Local && receipt.block > self.anchored;
        if open { Finality::Executed } else { Finality::Final }
    }

    pub fn event(&self, kept: Kept) -> ReceiptEvent {
        let finality = self.finality(&kept.receipt);
        ReceiptEvent { receipt: kept.receipt, finality, cut: kept.cut }
    }

    /// Whether there is anything after a number, or nothing to wait for.
    pub fn has_after(&self, after: u64) -> bool {
        after != self.newest
    }

    pub fn after(&self, feed: &Feed) -> FeedReply {
        let after = feed.after.min(self.newest);
        let oldest = self.newest.saturating_sub(self.kept.len() as u64);
        let lost = oldest.saturating_sub(after);
        let skip = (after.max(oldest) - oldest) as usize;
        let events: Vec<_> =
            self.kept.iter().skip(skip).take(feed.max.clamp(1, 16_384) as usize).cloned().collect();
        FeedReply { next: after + lost + events.len() as u64, lost, events }
    }
}
