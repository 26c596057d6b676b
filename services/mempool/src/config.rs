//! What the pool is told at start-up: where it stands, and every limit.

use std::sync::Arc;

use atoll_types::{MAX_TX_BYTES, Placement, ShardId};
use serde::{Deserialize, Serialize};

/// Most gas that one transaction may ask for (EIP-7825).
pub const MAX_TX_GAS: u64 = 1 << 24;

/// What a pool is started with.
#[derive(Clone, Debug)]
pub struct Config {
    /// The shard whose senders the pool serves.
    pub shard: ShardId,
    /// Tells which senders those are.
    pub placement: Arc<Placement>,
    pub limits: Limits,
}

/// Every limit of the pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Transactions in the pool.
    pub max_txs: usize,
    /// Their encoded size, in bytes. At least [`MAX_TX_BYTES`].
    pub max_bytes: usize,
    /// Transactions of one sender.
    pub max_sender_txs: usize,
    /// Transactions of one sender that are with the executor or under way across shards.
    pub max_sender_under_way: usize,
    /// How far a nonce may be ahead of the sender's next one.
    pub max_nonce_gap: u64,
    /// Least max fee per gas, in wei. The default is the lowest base fee that EIP-1559's rule falls
    /// to: whoever offers less could not run even then.
    pub min_fee_per_gas: u128,
    /// What a replacement has to add to both fees, in percent.
    pub replacement_percent: u32,
    /// `GASLIMIT`. A transaction may ask for at most this and [`MAX_TX_GAS`].
    pub block_gas_limit: u64,
    /// A transaction that cannot run is dropped after this time, in milliseconds.
    pub expiry_ms: u64,
    /// An escalated transaction that is not shared within this time (the router may have forgotten
    /// it) can be taken again, in milliseconds.
    pub escalation_timeout_ms: u64,
    /// Transactions in one answer to `Take`.
    pub max_take_txs: usize,
    /// Their encoded size, in bytes; keeps the answer within what a message may have.
    pub max_take_bytes: usize,
    /// Longest time that `Take` waits, in milliseconds.
    pub max_wait_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_txs: 200_000,
            max_bytes: 256 << 20,
            max_sender_txs: 256,
            max_sender_under_way: 128,
            max_nonce_gap: 1024,
            min_fee_per_gas: 7,
            replacement_percent: 10,
            block_gas_limit: 60_000_000,
            expiry_ms: 10 * 60 * 1000,
            escalation_timeout_ms: 60 * 1000,
            max_take_txs: 16_384,
            max_take_bytes: 16 << 20,
            max_wait_ms: 60 * 1000,
        }
    }
}

impl Limits {
    /// Most gas that a transaction may ask for.
    pub fn max_tx_gas(&self) -> u64 {
        self.block_gas_limit.min(MAX_TX_GAS)
    }
}

// Else a pool or an answer could never hold the largest transaction.
const _: () = assert!(MAX_TX_BYTES <= 1 << 20);
