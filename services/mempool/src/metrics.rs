//! Counters of what the pool did, since it was made.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use atoll_api::mempool::{Refused, StatusReply};
use atoll_telemetry::metrics::{is_installed, set_count, table};

use crate::config::Config;

/// A count that only rises. Readable from any thread.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    pub(crate) fn add(&self, count: usize) {
        self.0.fetch_add(count as u64, Relaxed);
    }
}

/// Transactions by what happened to them.
#[derive(Debug, Default)]
pub struct Metrics {
    pub admitted: Counter,
    /// Of those admitted, the ones that took the place of another.
    pub replaced: Counter,
    refused: [Counter; REASONS.len()],
    /// Pushed out of a full pool.
    pub evicted: Counter,
    /// Dropped because they could not run for too long.
    pub expired: Counter,
    /// Given to the executor; a transaction that is taken twice counts twice.
    pub taken: Counter,
    /// Escalated, not shared in time, and made takeable again.
    pub escalations_lost: Counter,
}

const REASONS: [&str; 13] = [
    "already_known",
    "nonce_too_low",
    "nonce_too_far",
    "insufficient_funds",
    "underpriced",
    "replacement_underpriced",
    "under_way",
    "mempool_full",
    "sender_full",
    "intrinsic_gas",
    "gas_limit",
    "wrong_shard",
    "volume_full",
];

impl Metrics {
    /// Transactions refused, by reason.
    pub fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> {
        REASONS.into_iter().zip(self.refused.iter().map(Counter::get))
    }

    /// Tells the process's metrics.
    pub(crate) fn publish(&self, config: &Config, status: &StatusReply) {
        if !is_installed() {
            return;
        }
        let shard = config.shard.to_string();
        let labels = |first: &str| [first.to_owned(), shard.clone()];
        for (event, counter) in [
            ("admitted", &self.admitted),
            ("replaced", &self.replaced),
            ("evicted", &self.evicted),
            ("expired", &self.expired),
            ("taken", &self.taken),
            ("escalation_lost", &self.escalations_lost),
        ] {
            set_count(&table::MEMPOOL_EVENTS, &labels(event), counter.get());
        }
        for (reason, count) in self.refused() {
            set_count(&table::MEMPOOL_REFUSED, &labels(reason), count);
        }
        let StatusReply { pending, queued, under_way, size_bytes } = *status;
        for (state, count) in [("pending", pending), ("queued", queued), ("under_way", under_way)] {
            set_count(&table::MEMPOOL_TXS, &labels(state), count);
        }
        let one = [shard.clone()];
        set_count(&table::MEMPOOL_SIZE, &one, size_bytes);
        set_count(&table::MEMPOOL_SIZE_LIMIT, &one, config.limits.max_bytes as u64);
        set_count(&table::MEMPOOL_TXS_LIMIT, &one, config.limits.max_txs as u64);
    }

    pub(crate) fn count_refused(&self, refused: &Refused) {
        let reason = match refused {
            Refused::AlreadyKnown => 0,
            Refused::NonceTooLow { .. } => 1,
            Refused::NonceTooFar { .. } => 2,
            Refused::InsufficientFunds { .. } => 3,
            Refused::Underpriced { .. } => 4,
            Refused::ReplacementUnderpriced { .. } => 5,
            Refused::UnderWay => 6,
            Refused::MempoolFull { .. } => 7,
            Refused::SenderFull { .. } => 8,
            Refused::IntrinsicGas { .. } => 9,
            Refused::GasLimit { .. } => 10,
            Refused::WrongShard { .. } => 11,
            Refused::VolumeFull { .. } => 12,
        };
        self.refused[reason].add(1);
    }
}
