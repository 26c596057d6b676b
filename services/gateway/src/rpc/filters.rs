//! Filters that a client installs and then asks for what is new.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use alloy_eips::BlockNumberOrTag;
use alloy_primitives::U64;
use alloy_rpc_types_eth::{Filter, FilterBlockOption};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Shared;
use super::error::Failure;
use super::params::Params;
use super::quantity;
use crate::RpcLimits;

#[derive(Clone)]
enum Kind {
    Logs(Box<Filter>),
    Blocks,
    Pending,
}

#[derive(Clone)]
struct Installed {
    kind: Kind,
    /// The first block or pending transaction that was not told.
    next: u64,
    asked: Instant,
}

pub(crate) struct Filters {
    limits: RpcLimits,
    inner: Mutex<(u64, BTreeMap<u64, Installed>)>,
}

impl Filters {
    pub fn new(limits: RpcLimits) -> Self {
        Self { limits, inner: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, (u64, BTreeMap<u64, Installed>)> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, kind: Kind, next: u64) -> Result<Value, Failure> {
        let mut inner = self.lock();
        let (newest, installed) = &mut *inner;
        let now = Instant::now();
        installed.retain(|_, one| now.duration_since(one.asked) < self.limits.filter_idle);
        if installed.len() >= self.limits.filters {
            let limit = self.limits.filters;
            return Err(Failure::limit(format!("{limit} filters are installed, the limit")));
        }
        *newest += 1;
        installed.insert(*newest, Installed { kind, next, asked: now });
        Ok(quantity(*newest))
    }

    pub fn remove(&self, id: U64) -> bool {
        self.lock().1.remove(&id.to()).is_some()
    }

    fn get(&self, id: U64) -> Result<Installed, Failure> {
        let mut inner = self.lock();
        let found = inner.1.get_mut(&id.to()).ok_or_else(|| Failure::server("filter not found"))?;
        found.asked = Instant::now();
        Ok(found.clone())
    }

    fn told(&self, id: U64, next: u64) {
        if let Some(installed) = self.lock().1.get_mut(&id.to()) {
            installed.next = installed.next.max(next);
        }
    }
}

/// The blocks that a filter's own range leaves to what is new.
fn bounds(filter: &Filter) -> (u64, u64) {
    let FilterBlockOption::Range { from_block, to_block } = filter.block_option else {
        // One block by its hash: it was there before the filter.
        return (u64::MAX, 0);
    };
    let number = |block: Option<BlockNumberOrTag>| match block? {
        BlockNumberOrTag::Number(number) => Some(number),
        BlockNumberOrTag::Earliest => Some(0),
        _ => None,
    };
    (number(from_block).unwrap_or(0), number(to_block).unwrap_or(u64::MAX))
}

impl Shared {
    pub async fn new_filter(&self, params: &Params) -> Result<Value, Failure> {
        let filter = self.read_filter(params, 0)?;
        let next = self.chain.head().await?.latest + 1;
        self.filters.add(Kind::Logs(Box::new(filter)), next)
    }

    pub async fn new_block_filter(&self) -> Result<Value, Failure> {
        let next = self.chain.head().await?.latest + 1;
        self.filters.add(Kind::Blocks, next)
    }

    pub fn new_pending_filter(&self) -> Result<Value, Failure> {
        self.filters.add(Kind::Pending, self.sent.next())
    }

    pub async fn filter_changes(&self, params: &Params) -> Result<Value, Failure> {
        let id = params.at(0, "filter")?;
        let Installed { kind, next, .. } = self.filters.get(id)?;
        let latest = self.chain.head().await?.latest;
        let limit = self.ledger.limits.rpc.log_blocks;
        let last = latest.min(next.saturating_add(limit - 1));
        let (told, next) = match kind {
            Kind::Pending => {
                let (hashes, next) = self.sent.after(next);
                (json!(hashes), next)
            }
            _ if last < next => (json!([]), next),
            Kind::Blocks => {
                let mut hashes = Vec::new();
                for number in next..=last {
                    let block = self.chain.beacon_block(number, &self.context()).await?;
                    hashes.extend(block.map(|block| block.hash()));
                }
                (json!(hashes), last + 1)
            }
            Kind::Logs(filter) => {
                let (from, to) = bounds(&filter);
                let (first, end) = (next.max(from), last.min(to));
                let (logs, too_much) = match first <= end {
                    true => self.logs_between(&filter, first, end).await?,
                    false => (Vec::new(), None),
                };
                if let Some(block) = too_much.filter(|_| logs.is_empty()) {
                    // Told once, or nothing after it would ever be told.
                    self.filters.told(id, block + 1);
                    return Err(self.too_many_logs(block, block));
                }
                (json!(logs), too_much.unwrap_or(last + 1))
            }
        };
        self.filters.told(id, next);
        Ok(told)
    }

    pub async fn filter_logs(&self, params: &Params) -> Result<Value, Failure> {
        match self.filters.get(params.at(0, "filter")?)?.kind {
            Kind::Logs(filter) => self.logs_of(&filter).await,
            _ => Err(Failure::server("filter not found")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filters_own_range_bounds_what_is_new() {
        assert_eq!(bounds(&Filter::new()), (0, u64::MAX));
        assert_eq!(bounds(&Filter::new().from_block(5).to_block(9)), (5, 9));
        let latest = Filter::new().from_block(BlockNumberOrTag::Latest);
        assert_eq!(bounds(&latest), (0, u64::MAX));
        let (from, to) = bounds(&Filter::new().at_block_hash(alloy_primitives::B256::ZERO));
        assert!(from > to);
    }
}
