//! Closed blocks that were asked for of late, and the names of the newest ones.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use alloy_primitives::{B256, map::HashMap};
use atoll_types::BeaconBlock;
use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared, WeakShared};

use super::block::Block;
use super::error::Failure;
use crate::RpcLimits;

/// What comes of looking for a block.
type Found = Result<Option<Arc<Block>>, Failure>;

/// Blocks by number. What came first goes first.
pub(crate) struct Cache {
    max_bytes: usize,
    max_blocks: usize,
    max_names: usize,
    inner: Mutex<Cached>,
}

#[derive(Default)]
struct Cached {
    blocks: HashMap<u64, Arc<Block>>,
    hashes: HashMap<B256, u64>,
    order: VecDeque<u64>,
    bytes: usize,
    /// Blocks that somebody is putting together: whoever wants one waits for the same.
    coming: HashMap<u64, WeakShared<BoxFuture<'static, Found>>>,
    names: HashMap<B256, u64>,
    named: BTreeMap<u64, B256>,
}

/// Takes a block out of those that are coming, be it here or given up by all who waited.
struct Coming(Arc<Cache>, u64);

impl Drop for Coming {
    fn drop(&mut self) {
        self.0.lock().coming.remove(&self.1);
    }
}

impl Cache {
    pub fn new(limits: &RpcLimits) -> Self {
        let max_names = usize::try_from(limits.hash_search_blocks).unwrap_or(usize::MAX);
        let (max_bytes, max_blocks) = (limits.block_cache_bytes, limits.block_cache_blocks);
        Self { max_bytes, max_blocks, max_names, inner: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Cached> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A block that is held, or that `find` finds: once, however many ask for it meanwhile.
    pub async fn get_or<F>(self: &Arc<Self>, number: u64, find: impl FnOnce() -> F) -> Found
    where
        F: Future<Output = Found> + Send + 'static,
    {
        let coming: Shared<_> = {
            let mut inner = self.lock();
            if let Some(block) = inner.blocks.get(&number) {
                return Ok(Some(block.clone()));
            }
            match inner.coming.get(&number).and_then(WeakShared::upgrade) {
                Some(coming) => coming,
                None => {
                    let (cache, find) = (self.clone(), find());
                    let coming = async move {
                        let coming = Coming(cache, number);
                        let found = find.await;
                        if let Ok(Some(block)) = &found {
                            coming.0.put(block.clone());
                        }
                        found
                    };
                    let coming = coming.boxed().shared();
                    inner.coming.extend(coming.downgrade().map(|weak| (number, weak)));
                    coming
                }
            }
        };
        coming.await
    }

    fn put(&self, block: Arc<Block>) {
        let mut inner = self.lock();
        let (number, hash, weight) = (block.number(), block.hash, block.weight());
        if inner.blocks.insert(number, block).is_some() {
            return;
        }
        inner.hashes.insert(hash, number);
        inner.order.push_back(number);
        inner.bytes += weight;
        while inner.order.len() > self.max_blocks.max(1)
            || inner.bytes > self.max_bytes && inner.order.len() > 1
        {
            let oldest = inner.order.pop_front();
            if let Some(oldest) = oldest.and_then(|oldest| inner.blocks.remove(&oldest)) {
                inner.hashes.remove(&oldest.hash);
                inner.bytes -= oldest.weight();
            }
        }
    }

    pub fn number_of(&self, hash: &B256) -> Option<u64> {
        let inner = self.lock();
        inner.hashes.get(hash).or_else(|| inner.names.get(hash)).copied()
    }

    /// Learns the hashes of blocks from those that follow them.
    pub fn name(&self, blocks: &[Arc<BeaconBlock>]) {
        let mut inner = self.lock();
        for block in blocks {
            let Some(number) = block.number().checked_sub(1) else { continue };
            inner.names.insert(block.parent, number);
            inner.named.insert(number, block.parent);
            if inner.named.len() > self.max_names
                && let Some((_, oldest)) = inner.named.pop_first()
            {
                inner.names.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use atoll_types::BlockEnv;
    use futures::future;

    use super::*;

    fn block(number: u64) -> Arc<Block> {
        let zero = B256::ZERO;
        Arc::new(Block {
            hash: B256::from(alloy_primitives::U256::from(number)),
            parent: zero,
            env: BlockEnv {
                chain_id: 1,
                number,
                timestamp: 0,
                randomness: zero,
                base_fee: 7,
                coinbase: Default::default(),
                gas_limit: 1,
            },
            entries: Vec::new(),
            transactions_root: zero,
            receipts_root: zero,
            bloom: Default::default(),
            gas_used: 0,
        })
    }

    #[tokio::test]
    async fn a_block_is_put_together_once_for_all_who_wait_and_few_are_kept() {
        let limits = RpcLimits { block_cache_blocks: 2, ..RpcLimits::default() };
        let cache = Arc::new(Cache::new(&limits));
        let found = Arc::new(AtomicUsize::new(0));
        let get = |number| {
            let found = found.clone();
            cache.get_or(number, move || async move {
                found.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                Ok(Some(block(number)))
            })
        };
        for got in future::join_all((0..100).map(|_| get(7))).await {
            assert_eq!(got.expect("it is found").expect("it is there").number(), 7);
        }
        assert_eq!(found.load(Ordering::Relaxed), 1);
        let _ = (get(8).await, get(9).await, get(9).await);
        assert_eq!(found.load(Ordering::Relaxed), 3);
        assert_eq!(cache.number_of(&block(7).hash), None, "7 went when 9 came");
        assert_eq!(cache.number_of(&block(9).hash), Some(9));
        let _ = get(7).await;
        assert_eq!(found.load(Ordering::Relaxed), 4);
        assert!(cache.lock().coming.is_empty());
    }

    #[tokio::test]
    async fn a_failure_is_told_to_all_who_wait_and_the_next_one_tries_again() {
        let cache = Arc::new(Cache::new(&RpcLimits::default()));
        let fail = || async {
            tokio::task::yield_now().await;
            Err(Failure::server("no"))
        };
        let both =
            future::join(cache.get_or(1, fail), cache.get_or(1, || async { Ok(None) })).await;
        assert!(both.0.is_err() && both.1.is_err());
        // Given up before its end.
        assert!(cache.get_or(1, future::pending).now_or_never().is_none());
        let got = cache.get_or(1, || async { Ok(Some(block(1))) }).await;
        assert!(got.is_ok_and(|block| block.is_some()));
    }
}
