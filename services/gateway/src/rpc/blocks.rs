//! Blocks, transactions and receipts.

use alloy_eips::{BlockId, BlockNumberOrTag};
use alloy_primitives::B256;
use atoll_api::mempool::Pending;
use atoll_api::state::TxStatus;
use atoll_types::{Address, Tx};
use futures::future;
use serde_json::{Value, json};
use std::sync::Arc;

use super::Shared;
use super::block::{self, Block};
use super::error::Failure;
use super::params::Params;
use super::quantity;

impl Shared {
    pub async fn answer_of_blocks(&self, method: &str, params: Params) -> Result<Value, Failure> {
        match method {
            "eth_getTransactionReceipt" => {
                let place = self.find(params.at(0, "hash")?).await?;
                Ok(json!(place.and_then(|(block, index)| block.receipt(index))))
            }
            "eth_getTransactionByHash" => self.transaction(params.at(0, "hash")?).await,
            "eth_getRawTransactionByHash" => {
                let hash = params.at(0, "hash")?;
                let place = self.find(hash).await?;
                let raw =
                    |(block, index): (Arc<Block>, usize)| block.entries[index].tx.raw().clone();
                Ok(json!(place.map(raw)))
            }
            "eth_getBlockByNumber" => {
                let full = params.maybe(1, "full")?.unwrap_or(false);
                if params.block_number(0)? == BlockNumberOrTag::Pending {
                    return self.pending_block().await;
                }
                Ok(json!(self.numbered(&params).await?.map(|block| block.json(full))))
            }
            "eth_getBlockByHash" => {
                let full = params.maybe(1, "full")?.unwrap_or(false);
                Ok(json!(self.hashed(&params).await?.map(|block| block.json(full))))
            }
            "eth_getBlockTransactionCountByNumber" => {
                let count = |block: Arc<Block>| quantity(block.entries.len() as u64);
                Ok(json!(self.numbered(&params).await?.map(count)))
            }
            "eth_getBlockTransactionCountByHash" => {
                let count = |block: Arc<Block>| quantity(block.entries.len() as u64);
                Ok(json!(self.hashed(&params).await?.map(count)))
            }
            "eth_getTransactionByBlockNumberAndIndex" => {
                let index = params.number(1, "index")?;
                Ok(json!(self.numbered(&params).await?.and_then(|b| b.transaction(index as usize))))
            }
            "eth_getTransactionByBlockHashAndIndex" => {
                let index = params.number(1, "index")?;
                Ok(json!(self.hashed(&params).await?.and_then(|b| b.transaction(index as usize))))
            }
            "eth_getBlockReceipts" => {
                let id: BlockId = params.at(0, "block")?;
                let head = self.chain.head().await?;
                let block = match self.number_of(&head, id).await? {
                    Some(number) => self.chain.block(number).await?,
                    None => None,
                };
                let all = |block: Arc<Block>| {
                    (0..block.entries.len()).filter_map(|at| block.receipt(at)).collect::<Vec<_>>()
                };
                Ok(json!(block.map(all)))
            }
            "eth_getUncleCountByBlockNumber" | "eth_getUncleCountByBlockHash" => Ok(json!("0x0")),
            "eth_getUncleByBlockNumberAndIndex" | "eth_getUncleByBlockHashAndIndex" => {
                Ok(Value::Null)
            }
            _ => Err(Failure::new(-32601, "Method not found")),
        }
    }

    async fn numbered(&self, params: &Params) -> Result<Option<Arc<Block>>, Failure> {
        let block = params.block_number(0)?;
        let head = self.chain.head().await?;
        match self.number_at(&head, block) {
            Some(number) => self.chain.block(number).await,
            None => Ok(None),
        }
    }

    async fn hashed(&self, params: &Params) -> Result<Option<Arc<Block>>, Failure> {
        let hash: B256 = params.at(0, "hash")?;
        match self.chain.number_of(hash).await? {
            Some(number) => self.chain.block(number).await,
            None => Ok(None),
        }
    }

    /// What comes after the newest closed block: nothing of it is decided.
    async fn pending_block(&self) -> Result<Value, Failure> {
        let head = self.chain.head().await?;
        let newest = self.chain.beacon_block(head.latest, &self.context()).await?;
        let parent = newest.ok_or_else(Failure::no_block)?.hash();
        let mut env = head.beacon.env;
        env.number = head.latest + 1;
        Ok(block::pending(&env, parent))
    }

    /// The closed block that holds a transaction, and its place there.
    pub async fn find(&self, hash: B256) -> Result<Option<(Arc<Block>, usize)>, Failure> {
        let status = self.ledger.receipts.look_up(hash, self.context()).await?;
        let Some(TxStatus::Done(event)) = status else {
            return Ok(None);
        };
        let Some(block) = self.chain.block(event.receipt.round).await? else {
            return Ok(None);
        };
        let place = block.position(&hash);
        Ok(place.map(|place| (block, place)))
    }

    async fn transaction(&self, hash: B256) -> Result<Value, Failure> {
        if let Some((block, index)) = self.find(hash).await? {
            return Ok(json!(block.transaction(index)));
        }
        Ok(match self.pending(hash).await? {
            Some(tx) => block::transaction(&tx, None),
            None => Value::Null,
        })
    }

    /// A transaction that is in no closed block, as far as this gateway or a pool has it.
    async fn pending(&self, hash: B256) -> Result<Option<Tx>, Failure> {
        if let Some(tx) = self.sent.get(&hash) {
            let end = self.ledger.receipts.look_up(hash, self.context()).await?;
            let dropped = matches!(end, Some(TxStatus::Dropped { .. }));
            return Ok((!dropped).then_some(tx));
        }
        let asked = self.chain.links.iter().map(|links| {
            links.pending.call(self.context(), Pending { sender: Address::ZERO, tx: hash })
        });
        let replies = future::join_all(asked).await;
        Ok(replies.into_iter().flatten().find_map(|reply| reply.tx))
    }
}
