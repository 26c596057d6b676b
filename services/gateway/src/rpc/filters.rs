//! Filters that a client installs and then asks for what is new.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use alloy_primitives::U64;
use alloy_rpc_types_eth::Filter;
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
            Kind::Logs(filter) => (json!(self.logs_between(&filter, next, last).await?), last + 1),
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
