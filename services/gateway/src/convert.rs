//! Between the domain and the messages of the public API.

use alloy_primitives::{Address, B256, Log, U256};
use atoll_api::state::ReceiptEvent;
use atoll_types::{BeaconBlock, Finality, Receipt, ReceiptKind, ShardId, Verdict};
use atoll_wire::v1::{
    LedgerBlock, TransactionFinality, TransactionKind, TransactionLog, TransactionReceipt,
    ledger_block,
};
use bytes::Bytes;
use tonic::Status;

pub(crate) fn hash(hash: B256) -> Bytes {
    Bytes::copy_from_slice(hash.as_slice())
}

pub(crate) fn address(address: Address) -> Bytes {
    Bytes::copy_from_slice(address.as_slice())
}

/// Without leading zeros.
pub(crate) fn number(number: U256) -> Bytes {
    Bytes::from(number.to_be_bytes_trimmed_vec())
}

fn shards(shards: &[ShardId]) -> Vec<u32> {
    shards.iter().map(|shard| u32::from(shard.0)).collect()
}

pub(crate) fn read_hash(field: &str, bytes: &[u8]) -> Result<B256, Status> {
    B256::try_from(bytes).map_err(|_| wrong_length(field, "32", bytes.len()))
}

pub(crate) fn read_address(field: &str, bytes: &[u8]) -> Result<Address, Status> {
    Address::try_from(bytes).map_err(|_| wrong_length(field, "20", bytes.len()))
}

pub(crate) fn read_number(field: &str, bytes: &[u8]) -> Result<U256, Status> {
    U256::try_from_be_slice(bytes)
        .filter(|_| bytes.len() <= 32)
        .ok_or_else(|| wrong_length(field, "at most 32", bytes.len()))
}

fn wrong_length(field: &str, expected: &str, found: usize) -> Status {
    Status::invalid_argument(format!(
        "field `{field}` must be {expected} bytes long, it is {found}"
    ))
}

pub(crate) fn logs(logs: Vec<Log>) -> Vec<TransactionLog> {
    let wire = |log: Log| TransactionLog {
        address: address(log.address),
        topics: log.topics().iter().copied().map(hash).collect(),
        data: log.data.data.0,
    };
    logs.into_iter().map(wire).collect()
}

/// What can be said of a transaction that has not been executed.
pub(crate) fn bare(
    tx: B256,
    finality: TransactionFinality,
    sender: Option<Address>,
) -> TransactionReceipt {
    TransactionReceipt {
        hash: hash(tx),
        finality: finality.into(),
        sender: sender.map(address).unwrap_or_default(),
        ..TransactionReceipt::default()
    }
}

/// The part of a receipt that watchers get who asked for little.
pub(crate) fn compact(event: &ReceiptEvent) -> TransactionReceipt {
    let receipt = &event.receipt;
    TransactionReceipt {
        hash: hash(receipt.tx),
        finality: finality(event.finality).into(),
        status: receipt.executed.status,
        gas_used: receipt.executed.gas_used,
        kind: kind(receipt).into(),
        shard_count: u32::try_from(receipt.shards.len()).unwrap_or(u32::MAX),
        cut: event.cut,
        ..TransactionReceipt::default()
    }
}

pub(crate) fn receipt(event: &ReceiptEvent) -> TransactionReceipt {
    let receipt = &event.receipt;
    let executed = &receipt.executed;
    TransactionReceipt {
        effective_gas_price: number(U256::from(executed.effective_gas_price)),
        logs: logs(executed.logs.clone()),
        contract_address: executed.contract.map(address).unwrap_or_default(),
        return_data: executed.output.0.clone(),
        shards: shards(&receipt.shards),
        round: receipt.round,
        group_index: match receipt.kind {
            ReceiptKind::Group(group) => Some(group.index),
            ReceiptKind::Local | ReceiptKind::Credit => None,
        },
        block: receipt.block,
        index: receipt.index,
        sender: address(receipt.sender),
        nonce: receipt.nonce,
        to: receipt.to.map(address).unwrap_or_default(),
        ..compact(event)
    }
}

fn finality(finality: Finality) -> TransactionFinality {
    match finality {
        Finality::Executed => TransactionFinality::Executed,
        Finality::Final => TransactionFinality::Final,
    }
}

fn kind(receipt: &Receipt) -> TransactionKind {
    match receipt.kind {
        ReceiptKind::Local => TransactionKind::Local,
        ReceiptKind::Credit => TransactionKind::Credit,
        ReceiptKind::Group(_) => TransactionKind::Group,
    }
}

pub(crate) fn block(block: &BeaconBlock) -> LedgerBlock {
    LedgerBlock {
        hash: hash(block.hash()),
        number: block.env.number,
        parent: hash(block.parent),
        timestamp: block.env.timestamp,
        time_ms: block.time_ms,
        randomness: hash(block.env.randomness),
        base_fee: block.env.base_fee,
        coinbase: address(block.env.coinbase),
        gas_limit: block.env.gas_limit,
        placement_epoch: block.epoch,
        plan: groups(block),
        decisions: decisions(block),
        credits: block
            .credits
            .iter()
            .map(|due| ledger_block::Credits {
                from: due.from.0.into(),
                to: due.to.0.into(),
                up_to: due.up_to,
            })
            .collect(),
        dropped: block.dropped.iter().map(|tx| hash(tx.hash)).collect(),
        anchors: block
            .anchors
            .iter()
            .map(|anchor| ledger_block::ShardAnchor {
                shard: anchor.shard.0.into(),
                head: anchor.head,
                cut: anchor.cut,
                digest: hash(anchor.digest),
                root: anchor.root.map(|root| hash(root.root)).unwrap_or_default(),
                root_cut: anchor.root.map_or(0, |root| root.cut),
            })
            .collect(),
        settled: block.settled,
    }
}

fn groups(block: &BeaconBlock) -> Vec<ledger_block::Group> {
    let group = |group: &atoll_types::PlannedGroup| ledger_block::Group {
        index: group.id.index,
        executor: group.executor.0.into(),
        owners: shards(&group.owners),
        transactions: group.txs.iter().map(|tx| hash(tx.hash)).collect(),
        gas: group.gas,
    };
    block.plan.iter().map(group).collect()
}

fn decisions(block: &BeaconBlock) -> Vec<ledger_block::Decision> {
    let decision = |decision: &atoll_types::Decision| ledger_block::Decision {
        round: decision.group.round,
        index: decision.group.index,
        commit: matches!(decision.verdict, Verdict::Commit { .. }),
        digest: match decision.verdict {
            Verdict::Commit { digest, .. } => hash(digest),
            Verdict::Abort(_) => Bytes::new(),
        },
    };
    block.decisions.iter().map(decision).collect()
}
