//! Which shard a transaction belongs to: those that this gateway has seen of late.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use alloy_primitives::{Address, B256, map::HashMap};
use atoll_types::ShardId;

/// The sender of a transaction and its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub shard: ShardId,
    pub sender: Address,
}

/// A map of limited size; what came first goes first.
pub(crate) struct Recent {
    limit: usize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    origins: HashMap<B256, Origin>,
    order: VecDeque<B256>,
}

impl Recent {
    pub fn new(limit: usize) -> Self {
        Self { limit, inner: Mutex::default() }
    }

    pub fn extend(&self, seen: impl IntoIterator<Item = (B256, Origin)>) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        for (tx, origin) in seen {
            if inner.origins.insert(tx, origin).is_none() {
                inner.order.push_back(tx);
            }
            if inner.order.len() > self.limit
                && let Some(oldest) = inner.order.pop_front()
            {
                inner.origins.remove(&oldest);
            }
        }
    }

    /// What is known of many.
    pub fn of_all(&self, txs: &[B256]) -> Vec<Option<Origin>> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        txs.iter().map(|tx| inner.origins.get(tx).copied()).collect()
    }

    pub fn get(&self, tx: &B256) -> Option<Origin> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.origins.get(tx).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten_first() {
        let recent = Recent::new(2);
        let tx = B256::repeat_byte;
        let origin = Origin { shard: ShardId(1), sender: Address::ZERO };
        recent.extend([1, 1, 2].map(|n| (tx(n), origin)));
        assert_eq!(recent.get(&tx(1)), Some(origin));
        recent.extend([(tx(3), origin)]);
        assert_eq!(recent.get(&tx(1)), None);
        assert!([2, 3].iter().all(|n| recent.get(&tx(*n)).is_some()));
    }
}
