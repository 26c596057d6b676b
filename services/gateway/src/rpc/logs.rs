//! Logs of ranges of blocks.

use alloy_eips::BlockNumberOrTag;
use alloy_rpc_types_eth::{Filter, FilterBlockOption};
use serde_json::{Value, json};

use super::Shared;
use super::block::Block;
use super::error::Failure;
use super::params::Params;

impl Shared {
    /// A filter within the limits on its size.
    pub fn read_filter(&self, params: &Params, index: usize) -> Result<Filter, Failure> {
        let filter: Filter = params.maybe(index, "filter")?.unwrap_or_default();
        self.check_filter(filter)
    }

    pub fn check_filter(&self, filter: Filter) -> Result<Filter, Failure> {
        let limit = self.ledger.limits.rpc.filter_values;
        let topics: usize = filter.topics.iter().map(|topic| topic.iter().count()).sum();
        let found = topics + filter.address.iter().count();
        if found > limit {
            let message =
                format!("the filter names {found} addresses and topics, the limit is {limit}");
            return Err(Failure::limit(message));
        }
        Ok(filter)
    }

    pub async fn get_logs(&self, params: &Params) -> Result<Value, Failure> {
        let filter = self.read_filter(params, 0)?;
        self.logs_of(&filter).await
    }

    /// The blocks that a filter is about: the first and the last.
    pub async fn range(&self, filter: &Filter) -> Result<Option<(u64, u64)>, Failure> {
        let head = self.chain.head().await?;
        match &filter.block_option {
            FilterBlockOption::AtBlockHash(hash) => {
                let number = self.chain.number_of(*hash).await?;
                let number = number.ok_or_else(|| Failure::server("unknown block"))?;
                Ok(Some((number, number)))
            }
            FilterBlockOption::Range { from_block, to_block } => {
                let named = |block: &Option<BlockNumberOrTag>| block.and_then(|b| b.as_number());
                if named(from_block).zip(named(to_block)).is_some_and(|(from, to)| from > to) {
                    return Err(Failure::params("invalid block range params"));
                }
                let at = |block| self.number_at(&head, block);
                let to = at(to_block.unwrap_or_default()).unwrap_or(head.latest);
                let Some(from) = at(from_block.unwrap_or_default()) else {
                    // It begins in the future.
                    return Ok(None);
                };
                if from > to {
                    return Err(Failure::params("invalid block range params"));
                }
                Ok(Some((from, to)))
            }
        }
    }

    pub async fn logs_of(&self, filter: &Filter) -> Result<Value, Failure> {
        match self.range(filter).await? {
            Some((first, last)) => Ok(json!(self.logs_between(filter, first, last).await?)),
            None => Ok(json!([])),
        }
    }

    pub async fn logs_between(
        &self,
        filter: &Filter,
        first: u64,
        last: u64,
    ) -> Result<Vec<Value>, Failure> {
        let limits = &self.ledger.limits.rpc;
        let (blocks, limit) = (last.saturating_sub(first) + 1, limits.log_blocks);
        if blocks > limit {
            return Err(Failure::limit(format!(
                "query spans {blocks} blocks, the limit is {limit}: ask for fewer at a time"
            )));
        }
        let mut logs = Vec::new();
        for number in self.chain.filled(first, last).await? {
            let Some(block) = self.chain.block(number).await? else {
                break;
            };
            logs.extend(logs_in(&block, filter));
            if logs.len() > limits.logs {
                return Err(Failure::limit(format!(
                    "query returns more than {} logs, the limit: ask for blocks {first} to {} first",
                    limits.logs,
                    number.saturating_sub(1).max(first),
                )));
            }
        }
        Ok(logs)
    }
}

/// Logs of a block that a filter wants.
pub(crate) fn logs_in(block: &Block, filter: &Filter) -> Vec<Value> {
    if !filter.matches_bloom(block.bloom) {
        return Vec::new();
    }
    let mut logs = Vec::new();
    for index in 0..block.entries.len() {
        for (log, place) in block.logs_of(index) {
            if filter.matches_address(log.address) && filter.matches_topics(log.topics()) {
                logs.push(block.log(log, index, place));
            }
        }
    }
    logs
}
