//! A closed block as Ethereum has it, and its JSON.

use alloy_consensus::proofs::{calculate_receipt_root, calculate_transaction_root};
use alloy_consensus::transaction::Recovered;
use alloy_consensus::{EMPTY_OMMER_ROOT_HASH, Eip658Value, ReceiptEnvelope, ReceiptWithBloom};
use alloy_primitives::{B64, B256, Bloom, Log, U64, U256};
use alloy_rpc_types_eth::Transaction;
use atoll_api::state::RanTx;
use atoll_types::{BeaconBlock, BlockEnv, Receipt, Tx};
use serde_json::{Value, json};

/// A transaction of a block.
pub(crate) struct Entry {
    pub tx: Tx,
    pub receipt: Receipt,
    /// Gas of the block up to here.
    pub cumulative_gas: u64,
    /// Index in the block of its first log.
    pub first_log: u64,
    pub bloom: Bloom,
}

/// A closed block.
pub(crate) struct Block {
    pub hash: B256,
    pub parent: B256,
    pub env: BlockEnv,
    pub entries: Vec<Entry>,
    pub transactions_root: B256,
    pub receipts_root: B256,
    pub bloom: Bloom,
    pub gas_used: u64,
}

impl Block {
    pub fn new(beacon: &BeaconBlock, ran: Vec<RanTx>) -> Self {
        let (mut gas, mut logs) = (0u64, 0);
        let mut entries = Vec::with_capacity(ran.len());
        let mut envelopes = Vec::with_capacity(ran.len());
        let mut bloom = Bloom::ZERO;
        for RanTx { tx, receipt } in ran {
            gas = gas.saturating_add(receipt.executed.gas_used);
            let plain = ReceiptWithBloom::from(alloy_consensus::Receipt {
                status: Eip658Value::Eip658(receipt.executed.status),
                cumulative_gas_used: gas,
                logs: receipt.executed.logs.clone(),
            });
            let own = plain.logs_bloom;
            bloom |= own;
            envelopes.push(ReceiptEnvelope::from_typed(tx.envelope().tx_type(), plain));
            let first_log = logs;
            logs += receipt.executed.logs.len() as u64;
            entries.push(Entry { tx, receipt, cumulative_gas: gas, first_log, bloom: own });
        }
        let txs: Vec<_> = entries.iter().map(|entry| entry.tx.envelope()).collect();
        Self {
            hash: beacon.hash(),
            parent: beacon.parent,
            env: beacon.env,
            transactions_root: calculate_transaction_root(&txs),
            receipts_root: calculate_receipt_root(&envelopes),
            bloom,
            gas_used: gas,
            entries,
        }
    }

    pub fn number(&self) -> u64 {
        self.env.number
    }

    /// About what it takes in memory, in bytes.
    pub fn weight(&self) -> usize {
        let logs = |entry: &Entry| {
            entry.receipt.executed.logs.iter().map(|log| 192 + log.data.data.len()).sum::<usize>()
        };
        let entry = |entry: &Entry| {
            1_536 + 2 * entry.tx.raw().len() + entry.receipt.executed.output.len() + logs(entry)
        };
        1_024 + self.entries.iter().map(entry).sum::<usize>()
    }

    fn size(&self) -> usize {
        600 + self.entries.iter().map(|entry| entry.tx.raw().len() + 4).sum::<usize>()
    }

    /// The header's fields.
    pub fn header(&self) -> Value {
        let hash = json!(self.hash);
        let mut header = header(&self.env, self.parent);
        header["hash"] = hash;
        header["transactionsRoot"] = json!(self.transactions_root);
        header["receiptsRoot"] = json!(self.receipts_root);
        header["logsBloom"] = json!(self.bloom);
        header["gasUsed"] = json!(U64::from(self.gas_used));
        header["size"] = json!(U64::from(self.size()));
        header
    }

    pub fn json(&self, full: bool) -> Value {
        let mut block = self.header();
        let one = |index: usize| match full {
            true => self.transaction(index).unwrap_or_default(),
            false => json!(self.entries[index].receipt.tx),
        };
        block["transactions"] = (0..self.entries.len()).map(one).collect();
        block["uncles"] = json!([]);
        block
    }

    pub fn position(&self, tx: &B256) -> Option<usize> {
        self.entries.iter().position(|entry| entry.receipt.tx == *tx)
    }

    pub fn transaction(&self, index: usize) -> Option<Value> {
        let entry = self.entries.get(index)?;
        Some(transaction(&entry.tx, Some((self, index, entry))))
    }

    pub fn receipt(&self, index: usize) -> Option<Value> {
        let Entry { tx, receipt, cumulative_gas, bloom, .. } = self.entries.get(index)?;
        let executed = &receipt.executed;
        let logs = self.logs_of(index).map(|(log, place)| self.log(log, index, place));
        Some(json!({
            "transactionHash": receipt.tx,
            "transactionIndex": U64::from(index),
            "blockHash": self.hash,
            "blockNumber": U64::from(self.number()),
            "from": receipt.sender,
            "to": receipt.to,
            "cumulativeGasUsed": U64::from(*cumulative_gas),
            "gasUsed": U64::from(executed.gas_used),
            "effectiveGasPrice": U256::from(executed.effective_gas_price),
            // As geth has it: where a failed one would have been, too.
            "contractAddress": receipt.to.is_none().then(|| receipt.sender.create(receipt.nonce)),
            "logs": logs.collect::<Vec<_>>(),
            "logsBloom": bloom,
            "type": U64::from(tx.envelope().tx_type() as u8),
            "status": U64::from(u8::from(executed.status)),
        }))
    }

    /// Logs of a transaction with their indices in the block.
    pub fn logs_of(&self, index: usize) -> impl Iterator<Item = (&Log, u64)> {
        self.entries
            .get(index)
            .into_iter()
            .flat_map(|entry| entry.receipt.executed.logs.iter().zip(entry.first_log..))
    }

    pub fn log(&self, log: &Log, index: usize, place: u64) -> Value {
        json!({
            "address": log.address,
            "topics": log.topics(),
            "data": log.data.data,
            "blockHash": self.hash,
            "blockNumber": U64::from(self.number()),
            "blockTimestamp": U64::from(self.env.timestamp),
            "transactionHash": self.entries[index].receipt.tx,
            "transactionIndex": U64::from(index),
            "logIndex": U64::from(place),
            "removed": false,
        })
    }
}

/// A transaction; one that is in no block yet is pending.
pub(crate) fn transaction(tx: &Tx, place: Option<(&Block, usize, &Entry)>) -> Value {
    let price = place.map(|(.., entry)| entry.receipt.executed.effective_gas_price);
    let told = Transaction {
        inner: Recovered::new_unchecked(tx.envelope().clone(), tx.sender()),
        block_hash: place.map(|(block, ..)| block.hash),
        block_number: place.map(|(block, ..)| block.number()),
        transaction_index: place.map(|(_, index, _)| index as u64),
        effective_gas_price: Some(price.unwrap_or_else(|| tx.max_fee_per_gas())),
        block_timestamp: place.map(|(block, ..)| block.env.timestamp),
    };
    // Nothing in it can fail to be JSON.
    serde_json::to_value(told).unwrap_or_default()
}

/// A block that holds nothing: what follows `parent`, with the values of `env`.
pub(crate) fn pending(env: &BlockEnv, parent: B256) -> Value {
    let mut block = header(env, parent);
    block["transactions"] = json!([]);
    block["uncles"] = json!([]);
    block
}

pub(crate) fn header(env: &BlockEnv, parent: B256) -> Value {
    let empty = alloy_consensus::EMPTY_ROOT_HASH;
    json!({
        "hash": null,
        "parentHash": parent,
        "sha3Uncles": EMPTY_OMMER_ROOT_HASH,
        "miner": env.coinbase,
        "stateRoot": B256::ZERO,
        "transactionsRoot": empty,
        "receiptsRoot": empty,
        "logsBloom": Bloom::ZERO,
        "difficulty": "0x0",
        "totalDifficulty": "0x0",
        "number": U64::from(env.number),
        "gasLimit": U64::from(env.gas_limit),
        "gasUsed": "0x0",
        "timestamp": U64::from(env.timestamp),
        "extraData": "0x",
        "mixHash": env.randomness,
        "nonce": B64::ZERO,
        "baseFeePerGas": U64::from(env.base_fee),
        "size": "0x258",
    })
}
