//! What suites of tests ask a development node for.

use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_sol_types::SolCall as _;
use anyhow::Context as _;
use atoll_tests::{
    contracts::{Token, token},
    here::{Here, Shape},
    rpc::{Rpc, quantity},
};
use serde_json::{Value, json};

use super::start;

async fn balance(rpc: &Rpc, of: Address) -> anyhow::Result<U256> {
    Ok(serde_json::from_value(rpc.get("eth_getBalance", json!([of, "latest"])).await?)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_are_set_played_and_kept() -> anyhow::Result<()> {
    let (here, rpc) = start(Shape::new(3)).await?;
    // Some on each shard; one is set while its shard is at work.
    let all: Vec<Address> = (1..=6).map(Address::repeat_byte).collect();
    let accounts = rpc.get("eth_accounts", json!([])).await?;
    let mut sent = Vec::new();
    for (who, wei) in all.iter().zip(1u64..) {
        let pay = json!([{ "from": accounts[0], "to": who, "value": "0x1" }]);
        sent.push(rpc.get("eth_sendTransaction", pay).await?);
        let ether = U256::from(wei) * U256::from(10).pow(U256::from(18));
        rpc.get("anvil_setBalance", json!([who, ether])).await?;
        // The payment may come before or after.
        let now = balance(&rpc, *who).await?;
        assert!(now == ether || now == ether + U256::ONE, "{now}");
    }
    for hash in &sent {
        assert_eq!(rpc.receipt(hash.as_str().unwrap_or_default()).await?["status"], "0x1");
    }
    // Nonce, code and storage.
    let code = json!("0x5f545f5260205ff3");
    rpc.get("hardhat_setNonce", json!([all[0], "0x7"])).await?;
    assert_eq!(rpc.get("eth_getTransactionCount", json!([all[0], "latest"])).await?, "0x7");
    let (status, message) = rpc.fail("anvil_setNonce", json!([all[0], "0x6"])).await?;
    assert!(status == -32602 && message.contains("cannot fall"), "{message}");
    let contract = Address::repeat_byte(0x77);
    rpc.get("hardhat_setCode", json!([contract, code])).await?;
    assert_eq!(rpc.get("eth_getCode", json!([contract, "latest"])).await?, code);
    let word = B256::repeat_byte(5);
    assert_eq!(rpc.get("anvil_setStorageAt", json!([contract, "0x0", word])).await?, true);
    assert_eq!(rpc.get("eth_call", json!([{ "to": contract }, "latest"])).await?, json!(word));

    // Transactions of who has no key here: across shards too, and only while it is asked for.
    let from = all[0];
    let pay = |to: Address| json!([{ "from": from, "to": to, "value": "0x2", "gas": "0x5208" }]);
    assert_eq!(rpc.fail("eth_sendTransaction", pay(all[1])).await?.1, "unknown account");
    rpc.get("anvil_impersonateAccount", json!([from])).await?;
    for (to, nonce) in all[1..].iter().zip(7..) {
        let before = balance(&rpc, *to).await?;
        let hash = rpc.get("eth_sendTransaction", pay(*to)).await?;
        let receipt = rpc.receipt(hash.as_str().unwrap_or_default()).await?;
        assert_eq!((&receipt["status"], &receipt["from"]), (&json!("0x1"), &json!(from)));
        let tx = rpc.get("eth_getTransactionByHash", json!([hash])).await?;
        assert_eq!((&tx["from"], quantity(&tx["nonce"])?), (&json!(from), nonce));
        assert_eq!(balance(&rpc, *to).await?, before + U256::from(2));
    }
    rpc.get("anvil_stopImpersonatingAccount", json!([from])).await?;
    assert_eq!(rpc.fail("eth_sendTransaction", pay(all[1])).await?.1, "unknown account");

    // It is the chain's own: a replay of the log gives the same, and the books balance.
    let mut before = Vec::new();
    for who in &all {
        before.push(balance(&rpc, *who).await?);
    }
    let here = here.restart().await?;
    let rpc = Rpc(here.cluster.rpc.context("it serves JSON-RPC")?);
    for (who, wei) in all.iter().zip(before) {
        assert_eq!(balance(&rpc, *who).await?, wei);
    }
    assert_eq!(rpc.get("eth_getCode", json!([contract, "latest"])).await?, code);
    let config = here.config.clone();
    let data = here.stop().await;
    // Conservation, as far as all shards stand at one cut; and that each replays to its digest.
    let report = atoll::check::inspect(data.path(), Some(&config.chain))?;
    let whole = serde_json::to_string(&report)?;
    assert!(report.whole, "{whole}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_and_time_come_when_asked_for() -> anyhow::Result<()> {
    let (here, rpc) = start(Shape::new(2)).await?;
    let latest = async || rpc.get("eth_getBlockByNumber", json!(["latest", false])).await;
    let before = quantity(&latest().await?["number"])?;
    assert_eq!(rpc.get("evm_mine", json!([])).await?, "0x0");
    rpc.get("anvil_mine", json!(["0x3"])).await?;
    assert!(quantity(&latest().await?["number"])? >= before + 4);

    let then = quantity(&latest().await?["timestamp"])?;
    let day = 86_400;
    rpc.get("evm_increaseTime", json!([day])).await?;
    rpc.get("evm_mine", json!([])).await?;
    rpc.get("evm_mine", json!([])).await?;
    let now = quantity(&latest().await?["timestamp"])?;
    assert!(now >= then + day, "{now} after {then}");
    let at = now + 10 * day;
    rpc.get("evm_setNextBlockTimestamp", json!([at])).await?;
    rpc.get("evm_mine", json!([])).await?;
    rpc.get("evm_mine", json!([])).await?;
    assert!(quantity(&latest().await?["timestamp"])? >= at);
    let (code, message) = rpc.fail("evm_setNextBlockTimestamp", json!([then])).await?;
    assert!(code == -32602 && message.contains("does not go back"), "{message}");

    // A contract sees it, and a restart does not turn it back.
    let accounts = rpc.get("eth_accounts", json!([])).await?;
    let hash = rpc
        .get("eth_sendTransaction", json!([{ "from": accounts[0], "data": token("T")? }]))
        .await?;
    let receipt = rpc.receipt(hash.as_str().unwrap_or_default()).await?;
    assert_eq!(receipt["status"], "0x1");
    let here = here.restart().await?;
    let rpc = Rpc(here.cluster.rpc.context("it serves JSON-RPC")?);
    rpc.get("evm_mine", json!([])).await?;
    rpc.get("evm_mine", json!([])).await?;
    let block = rpc.get("eth_getBlockByNumber", json!(["latest", false])).await?;
    assert!(quantity(&block["timestamp"])? >= at);
    let held = Token::balanceOfCall { account: Address::ZERO }.abi_encode();
    let call = json!([{ "to": receipt["contractAddress"], "data": Bytes::from(held) }, "latest"]);
    assert!(rpc.get("eth_call", call).await?.is_string());
    here.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_development_node_says_what_it_is_and_what_it_cannot() -> anyhow::Result<()> {
    let (here, rpc) = start(Shape::new(1)).await?;
    let info = rpc.get("anvil_nodeInfo", json!([])).await?;
    assert_eq!(info["environment"]["chainId"], 31_337);
    let metadata = rpc.get("hardhat_metadata", json!([])).await?;
    assert_eq!(metadata["chainId"], 31_337);
    assert_eq!(rpc.get("evm_setAutomine", json!([true])).await?, true);
    assert!(rpc.fail("evm_setAutomine", json!([false])).await?.1.contains("held back"));
    for method in ["evm_snapshot", "evm_revert"] {
        let (code, message) = rpc.fail(method, json!(["0x1"])).await?;
        assert!(code == -32601 && message.contains("does not go back"), "{message}");
    }
    let high = U256::ONE << 160;
    let who = Address::repeat_byte(1);
    assert_eq!(rpc.fail("anvil_setBalance", json!([who, high])).await?.0, -32602);
    assert_eq!(rpc.fail("anvil_mine", json!(["0x101"])).await?.0, -32602);
    let config = here.config.clone();
    let data = here.stop().await;

    drop(data);
    // With a mnemonic of somebody's own none of it is there.
    let mut private = config;
    let words = "legal winner thank year wave sausage worth useful legal winner thank yellow";
    private.chain.genesis.mnemonic = Some(words.to_owned());
    let here = Here::open(private, tempfile::tempdir()?).await?;
    let rpc = Rpc(here.cluster.rpc.context("it serves JSON-RPC")?);
    let params: Value = json!([who, "0x1"]);
    for method in ["anvil_setBalance", "evm_mine", "anvil_impersonateAccount", "hardhat_metadata"] {
        assert_eq!(rpc.fail(method, params.clone()).await?.0, -32601, "{method}");
    }
    here.stop().await;
    Ok(())
}
