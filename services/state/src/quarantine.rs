//! Transactions that are not run, because they make the executor panic.

use std::collections::{BTreeSet, VecDeque};

use atoll_types::B256;
use serde::{Deserialize, Serialize};

/// Hashes kept. Each is a defect that somebody has to mend.
const KEPT: usize = 4_096;

/// The newest of them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Quarantine {
    txs: BTreeSet<B256>,
    /// Oldest first.
    order: VecDeque<B256>,
}

impl Quarantine {
    /// Returns false if it is in already.
    pub fn add(&mut self, tx: B256) -> bool {
        let new = self.txs.insert(tx);
        if new {
            self.order.push_back(tx);
        }
        if self.order.len() > KEPT
            && let Some(oldest) = self.order.pop_front()
        {
            self.txs.remove(&oldest);
        }
        new
    }

    pub fn contains(&self, tx: &B256) -> bool {
        self.txs.contains(tx)
    }

    pub fn all(&self) -> impl Iterator<Item = &B256> {
        self.order.iter()
    }
}
