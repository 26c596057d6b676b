//! Few logs in many blocks. `ATOLL_BLOCKS=3000 cargo test -p atoll-tests --test rpc logs:: -- --nocapture`
//! shows how long it takes to find them.

use std::collections::BTreeSet;

use alloy_primitives::{Address, B256, U256};
use alloy_sol_types::SolCall as _;
use anyhow::ensure;
use atoll_tests::{
    PATIENCE,
    contracts::{Token, token},
    here::Shape,
    rpc::quantity,
    wallet::{Plan, Wallet},
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::start;

/// Every so many blocks one log names somebody who is looked for.
const SELDOM: u64 = 16;
/// Accounts that send, and how many transactions of each are under way.
const SENDERS: u64 = 4;
const AHEAD: u64 = 4;

#[tokio::test(flavor = "multi_thread")]
async fn few_logs_in_many_blocks_are_found() -> anyhow::Result<()> {
    let (here, rpc) = start(Shape::new(2)).await?;
    let wanted = std::env::var("ATOLL_BLOCKS").ok().and_then(|blocks| blocks.parse().ok());
    let wanted: u64 = wanted.unwrap_or(2 * SELDOM);
    let mut wallets = Wallet::development()?;
    let accounts = rpc.get("eth_accounts", json!([])).await?;
    let deploy = json!([{ "from": accounts[0], "data": token("T")? }]);
    let hash = rpc.get("eth_sendTransaction", deploy).await?;
    let made = rpc.receipt(hash.as_str().unwrap_or_default()).await?;
    let token: Address = serde_json::from_value(made["contractAddress"].clone())?;
    let begin = rpc.number("eth_blockNumber").await?;
    let (anybody, somebody) = (Address::repeat_byte(1), Address::repeat_byte(2));
    let (mut sent, mut named, mut next) = (0u64, Vec::new(), begin);
    let mut latest = begin;
    while latest < begin + wanted {
        let to = if latest >= next { somebody } else { anybody };
        let mint = Token::mintCall { to, amount: U256::from(1) }.abi_encode();
        // Not the account that has deployed it: its wallet here does not know.
        let wallet = &mut wallets[1 + (sent % SENDERS) as usize];
        let tx = wallet.sign(&Plan::call(token, mint).gas(200_000))?;
        let hash = rpc.get("eth_sendRawTransaction", json!([tx.raw])).await?;
        if to == somebody {
            named.push(hash);
            next = latest + SELDOM;
        }
        sent += 1;
        // A few of each sender are under way: hardly a block is empty.
        let wallet = wallet.address();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let nonce = rpc.get("eth_getTransactionCount", json!([wallet, "latest"])).await?;
            if quantity(&nonce)? + AHEAD >= sent / SENDERS {
                break;
            }
            ensure!(Instant::now() < deadline, "{wallet}: {nonce} of {sent}");
        }
        latest = rpc.number("eth_blockNumber").await?;
    }
    for hash in &named {
        let receipt = rpc.receipt(hash.as_str().unwrap_or_default()).await?;
        latest = latest.max(quantity(&receipt["blockNumber"])?);
    }
    let range = json!({ "fromBlock": format!("{begin:#x}"), "toBlock": format!("{latest:#x}") });
    let word = |address: Address| json!(B256::left_padding_from(address.as_slice()));
    for (says, address, topics) in [
        ("few of somebody", json!(token), json!([null, null, word(somebody)])),
        ("none of nobody", json!(token), json!([null, null, word(Address::repeat_byte(3))])),
        ("all of the token", json!(token), json!([])),
    ] {
        let mut filter = range.clone();
        (filter["address"], filter["topics"]) = (address, topics);
        let asked = Instant::now();
        let logs = rpc.get("eth_getLogs", json!([filter])).await?;
        let logs = logs.as_array().map_or(&[][..], Vec::as_slice);
        println!("{} blocks, {says}: {} logs in {:?}", latest - begin, logs.len(), asked.elapsed());
        let of = |log: &Value| log["transactionHash"].clone();
        match says {
            "few of somebody" => {
                let found: BTreeSet<String> = logs.iter().map(|log| of(log).to_string()).collect();
                let named: BTreeSet<String> = named.iter().map(Value::to_string).collect();
                assert_eq!(found, named);
            }
            "none of nobody" => assert!(logs.is_empty()),
            _ => assert!(logs.len() >= named.len()),
        }
    }
    here.stop().await;
    Ok(())
}
