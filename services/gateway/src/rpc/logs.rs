//! Logs of ranges of blocks.

use alloy_eips::BlockNumberOrTag;
use alloy_primitives::Log;
use alloy_rpc_types_eth::{Filter, FilterBlockOption};
use atoll_api::state::{LogNames, log_name};
use futures::{StreamExt as _, stream};
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
        let Some((first, last)) = self.range(filter).await? else {
            return Ok(json!([]));
        };
        let (logs, too_much) = self.logs_between(filter, first, last).await?;
        match too_much {
            None => Ok(json!(logs)),
            Some(block) => Err(self.too_many_logs(first, block)),
        }
    }

    /// What to do about `block`, whose logs do not fit in an answer that begins at `first`.
    pub fn too_many_logs(&self, first: u64, block: u64) -> Failure {
        let limits = &self.ledger.limits.rpc;
        let advice = match block.checked_sub(1).filter(|before| *before >= first) {
            Some(before) => format!("ask for blocks {first} to {before} first"),
            None => format!("block {block} alone has more, name addresses or topics"),
        };
        Failure::limit(format!(
            "query returns more than {} logs or {} bytes, the limit: {advice}",
            limits.logs, limits.response_bytes,
        ))
    }

    /// The logs of the blocks that fit in one answer, and the first block that does not.
    pub async fn logs_between(
        &self,
        filter: &Filter,
        first: u64,
        last: u64,
    ) -> Result<(Vec<Value>, Option<u64>), Failure> {
        let found = self.gather(filter, first, last);
        let found = tokio::time::timeout(self.ledger.limits.patience(), found).await;
        found.unwrap_or_else(|_| {
            Err(Failure::limit("query takes too long: ask for fewer blocks at a time"))
        })
    }

    async fn gather(
        &self,
        filter: &Filter,
        first: u64,
        last: u64,
    ) -> Result<(Vec<Value>, Option<u64>), Failure> {
        let limits = &self.ledger.limits.rpc;
        let (blocks, limit) = (last.saturating_sub(first) + 1, limits.log_blocks);
        if blocks > limit {
            return Err(Failure::limit(format!(
                "query spans {blocks} blocks, the limit is {limit}: ask for fewer at a time"
            )));
        }
        let most = usize::try_from(limits.response_bytes).unwrap_or(usize::MAX);
        let (mut logs, mut bytes) = (Vec::new(), 0usize);
        let numbers = self.chain.filled(first, last, &named(filter)).await?;
        let blocks = stream::iter(numbers).map(|number| async move {
            let block = self.chain.block(number).await?;
            block.ok_or_else(Failure::no_block)
        });
        let mut blocks = blocks.buffered(limits.assembling);
        while let Some(block) = blocks.next().await {
            let block = block?;
            let number = block.number();
            let mut count = logs.len();
            for (log, ..) in wanted(&block, filter) {
                (count, bytes) = (count + 1, bytes.saturating_add(weight(log)));
                if count > limits.logs || bytes > most {
                    return Ok((logs, Some(number)));
                }
            }
            logs.extend(logs_in(&block, filter));
        }
        Ok((logs, None))
    }
}

/// What the logs that a filter wants have to name.
fn named(filter: &Filter) -> Vec<LogNames> {
    let addresses = filter.address.iter().map(|address| log_name(0, address.as_slice()));
    let topics = filter.topics.iter().zip(1..).map(|(topics, place)| {
        topics.iter().map(|topic| log_name(place, topic.as_slice())).collect()
    });
    let all = [addresses.collect()].into_iter().chain(topics).map(|any| LogNames { any });
    all.filter(|names| !names.any.is_empty()).collect()
}

/// Logs of a block that a filter wants.
pub(crate) fn logs_in(block: &Block, filter: &Filter) -> Vec<Value> {
    wanted(block, filter).map(|(log, index, place)| block.log(log, index, place)).collect()
}

/// The same with the indices of their transactions and their own, without what JSON takes.
fn wanted<'a>(block: &'a Block, filter: &'a Filter) -> impl Iterator<Item = (&'a Log, usize, u64)> {
    let entries = if filter.matches_bloom(block.bloom) { block.entries.len() } else { 0 };
    let all = (0..entries)
        .flat_map(|index| block.logs_of(index).map(move |(log, place)| (log, index, place)));
    all.filter(|(log, ..)| {
        filter.matches_address(log.address) && filter.matches_topics(log.topics())
    })
}

/// About the length of a log's JSON.
fn weight(log: &Log) -> usize {
    768 + 2 * log.data.data.len()
}
