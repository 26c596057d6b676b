//! Ethereum's blocks are the serial order that one machine with plain revm confirms.

use std::collections::BTreeMap;

use alloy_consensus::{
    ReceiptEnvelope, TxEnvelope,
    proofs::{calculate_receipt_root, calculate_transaction_root},
};
use alloy_primitives::{B256, Bloom};
use alloy_rpc_types_eth::{Transaction, TransactionReceipt};
use anyhow::Context as _;
use atoll_tests::{
    check::{compare, program, run},
    here::Shape,
    history::{Ended, History},
    order::{Step, serial_order},
    rpc::{Rpc, quantity},
};
use serde_json::{Value, json};

use super::start;

/// Transactions of each sender.
const ROUNDS: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn blocks_of_four_shards_are_one_chain_in_the_serial_order() -> anyhow::Result<()> {
    let program = program(4, 11, ROUNDS)?;
    let (here, rpc) = start(program.shape()).await?;
    let txs = run(&program, &here).await?;
    // What one machine makes of the order, in receipts, logs, gas and state, is what the cluster says.
    let (counts, _) = compare(&program, &here, txs.clone()).await?;
    assert!(counts.groups > 0 && counts.credits > 0 && counts.local > 0, "{counts:?}");
    let history = History::of(&here, txs).await?;
    let (steps, _) = serial_order(&history)?;
    let expected = steps.iter().filter_map(|step| match step {
        Step::Run { tx, env, .. } => Some((*tx, env.number)),
        _ => None,
    });
    let expected: Vec<(B256, u64)> = expected.collect();
    let last = expected.iter().map(|(_, round)| *round).max().unwrap_or(0);
    rpc.closed(last).await?;

    let mut parent = json!(B256::ZERO);
    let mut listed = Vec::new();
    for number in 0..=last {
        let place = json!([format!("{number:#x}"), true]);
        let block = rpc.get("eth_getBlockByNumber", place).await?;
        assert_eq!(quantity(&block["number"])?, number);
        assert_eq!(block["parentHash"], parent, "block {number}");
        parent = block["hash"].clone();
        check_block(&rpc, &block, &history, &mut listed).await?;
    }
    assert_eq!(listed, expected, "each transaction is in one block, in the serial order");

    // The same logs by range as by block.
    let all = json!([{ "fromBlock": "0x0", "toBlock": format!("{last:#x}") }]);
    let logs = rpc.get("eth_getLogs", all).await?;
    let told = logs.as_array().map_or(0, Vec::len);
    let kept: usize = history.txs.values().map(logs_of).sum();
    assert_eq!(told, kept);
    each_is_found_by_what_it_names(&rpc, last, logs.as_array().map_or(&[], Vec::as_slice)).await?;
    here.stop().await;
    Ok(())
}

/// Filters find just those that a client would pick out of all.
async fn each_is_found_by_what_it_names(rpc: &Rpc, last: u64, all: &[Value]) -> anyhow::Result<()> {
    let range = json!({ "fromBlock": "0x0", "toBlock": format!("{last:#x}") });
    let (mut few, nobody) = (0, format!("{:#066x}", 0xdead));
    for log in all.iter().step_by(all.len() / 8 + 1) {
        let (address, topic) = (&log["address"], &log["topics"][0]);
        for (address, topic) in [(address, &Value::Null), (&Value::Null, topic), (address, topic)] {
            let mut filter = range.clone();
            filter["address"] = address.clone();
            filter["topics"] = json!([topic]);
            let picked = all.iter().filter(|log| {
                (address.is_null() || log["address"] == *address)
                    && (topic.is_null() || log["topics"][0] == *topic)
            });
            let picked: Vec<&Value> = picked.collect();
            few += usize::from(picked.len() < all.len());
            assert_eq!(rpc.get("eth_getLogs", json!([filter])).await?, json!(picked), "{filter}");
            filter["topics"] = json!([[nobody, topic], nobody]);
            assert_eq!(rpc.get("eth_getLogs", json!([filter])).await?, json!([]), "{filter}");
        }
    }
    assert!(few > 0, "{} logs are all alike", all.len());
    Ok(())
}

fn logs_of(ended: &Ended) -> usize {
    ended.receipt.logs.len()
}

/// Recomputes what a library can, from what is on the wire.
async fn check_block(
    rpc: &Rpc,
    block: &Value,
    history: &History,
    listed: &mut Vec<(B256, u64)>,
) -> anyhow::Result<()> {
    let number = quantity(&block["number"])?;
    let txs: Vec<Transaction> = serde_json::from_value(block["transactions"].clone())?;
    let envelopes: Vec<TxEnvelope> = txs.iter().map(|tx| tx.inner.inner().clone()).collect();
    assert_eq!(block["transactionsRoot"], json!(calculate_transaction_root(&envelopes)));
    let told = rpc.get("eth_getBlockReceipts", json!([block["number"]])).await?;
    let receipts: Vec<TransactionReceipt> = serde_json::from_value(told.clone())?;
    assert_eq!(receipts.len(), txs.len());
    let (mut gas, mut next_log, mut bloom) = (0, 0, Bloom::ZERO);
    for (index, (tx, receipt)) in txs.iter().zip(&receipts).enumerate() {
        let hash = receipt.transaction_hash;
        gas += receipt.gas_used;
        assert_eq!(receipt.inner.cumulative_gas_used(), gas, "{hash}");
        let places = (tx.transaction_index, receipt.transaction_index);
        assert_eq!(places, (Some(index as u64), Some(index as u64)));
        assert_eq!(*tx.inner.tx_hash(), hash);
        for log in receipt.inner.logs() {
            assert_eq!(log.log_index, Some(next_log));
            next_log += 1;
            bloom.accrue_log(&log.inner);
        }
        let known = &history.txs[&hash].receipt;
        assert_eq!((receipt.gas_used, receipt.status()), (known.gas_used, known.status), "{hash}");
        assert_eq!(receipt.inner.logs().len(), known.logs.len());
        listed.push((hash, number));
        // Alone it says the same as with its block.
        let alone = rpc.get("eth_getTransactionReceipt", json!([hash])).await?;
        assert_eq!(alone, told[index]);
    }
    let plain = receipts.iter().map(|receipt| {
        let receipt = receipt.inner.clone();
        receipt.map_logs(|log| log.inner)
    });
    let plain: Vec<ReceiptEnvelope> = plain.collect();
    assert_eq!(block["receiptsRoot"], json!(calculate_receipt_root(&plain)), "block {number}");
    assert_eq!(block["logsBloom"], json!(bloom));
    assert_eq!(quantity(&block["gasUsed"])?, gas);
    Ok(())
}

/// Another gateway's answers would be these too: they follow from what shards have kept.
#[tokio::test(flavor = "multi_thread")]
async fn blocks_are_the_same_after_a_restart() -> anyhow::Result<()> {
    let program = program(2, 5, 2)?;
    let (here, rpc) = start(program.shape()).await?;
    let txs = run(&program, &here).await?;
    let last = txs.iter().map(|tx| tx.receipt.round).max().unwrap_or(0);
    rpc.closed(last).await?;
    let before = blocks(&rpc, last).await?;
    let here = here.restart().await?;
    let rpc = Rpc(here.cluster.rpc.unwrap_or(rpc.0));
    rpc.closed(last).await?;
    assert_eq!(blocks(&rpc, last).await?, before);
    here.stop().await;
    Ok(())
}

async fn blocks(rpc: &Rpc, last: u64) -> anyhow::Result<BTreeMap<u64, (Value, Value)>> {
    let mut blocks = BTreeMap::new();
    for number in 0..=last {
        let name = format!("{number:#x}");
        let block = rpc.get("eth_getBlockByNumber", json!([name, true])).await?;
        let receipts = rpc.get("eth_getBlockReceipts", json!([name])).await?;
        blocks.insert(number, (block, receipts));
    }
    Ok(blocks)
}

#[tokio::test(flavor = "multi_thread")]
async fn history_that_is_not_kept_is_refused_as_such() -> anyhow::Result<()> {
    let mut shape = Shape::new(2);
    shape.beacon.heartbeat_ms = 10;
    shape.storage.kept_rounds = 8;
    shape.storage.snapshot_cuts = 4;
    let (here, rpc) = start(shape).await?;
    let accounts = rpc.get("eth_accounts", json!([])).await?;
    let pay = json!([{ "from": accounts[0], "to": accounts[1], "value": "0x5" }]);
    let hash = rpc.get("eth_sendTransaction", pay).await?;
    let receipt = rpc.receipt(hash.as_str().unwrap_or_default()).await?;
    let number = quantity(&receipt["blockNumber"])?;
    let balance = rpc.get("eth_getBalance", json!([accounts[0], "latest"])).await?;
    rpc.closed(number + 40).await?;
    // A gateway that has not put the block together before.
    let here = here.restart().await?;
    let rpc = Rpc(here.cluster.rpc.context("it serves JSON-RPC")?);
    let old = format!("{number:#x}");
    let logs = json!([{ "fromBlock": old, "toBlock": "latest" }]);
    let block = json!([old, true]);
    for (method, params) in [("eth_getBlockByNumber", block), ("eth_getLogs", logs)] {
        let (code, message) = rpc.fail(method, params).await?;
        assert_eq!(code, 4444, "{method}: {message}");
        assert!(message.starts_with("pruned history unavailable"), "{message}");
    }
    assert_eq!(rpc.get("eth_getTransactionReceipt", json!([hash])).await?, Value::Null);
    assert_eq!(rpc.get("eth_getBalance", json!([accounts[0], "latest"])).await?, balance);
    let latest = rpc.get("eth_getBlockByNumber", json!(["latest", true])).await?;
    assert!(quantity(&latest["number"])? > number);
    let by_hash = rpc.get("eth_getBlockByHash", json!([latest["hash"], false])).await?;
    assert_eq!(by_hash["number"], latest["number"]);
    here.stop().await;
    Ok(())
}
