//! Reads, calls, and transactions by the development accounts.

use alloy_primitives::{Address, U256};
use alloy_sol_types::SolCall as _;
use atoll_tests::{
    contracts::{Token, token},
    here::Shape,
    rpc::quantity,
    wallet::{Plan, Wallet},
};
use serde_json::json;

use super::start;

#[tokio::test(flavor = "multi_thread")]
async fn a_token_by_the_means_of_a_development_node() -> anyhow::Result<()> {
    let (here, rpc) = start(Shape::new(2)).await?;
    let accounts = rpc.get("eth_accounts", json!([])).await?;
    let [alice, bob] = [&accounts[0], &accounts[1]];
    let deploy = json!([{ "from": alice, "data": token("T")? }]);
    let hash = rpc.get("eth_sendTransaction", deploy).await?;
    let receipt = rpc.receipt(hash.as_str().unwrap_or_default()).await?;
    assert_eq!(receipt["status"], "0x1");
    let token = receipt["contractAddress"].clone();
    assert!(rpc.get("eth_getCode", json!([token, "latest"])).await?.as_str() > Some("0x"));
    assert_eq!(quantity(&rpc.get("eth_getTransactionCount", json!([alice, "latest"])).await?)?, 1);

    // Whoever waits for a receipt sees what it did.
    let filter = rpc.get("eth_newFilter", json!([{ "address": token }])).await?;
    let to: Address = serde_json::from_value(bob.clone())?;
    let mint = Token::mintCall { to, amount: U256::from(5) }.abi_encode();
    let mint = json!({ "from": alice, "to": token, "data": alloy_primitives::Bytes::from(mint) });
    let gas = quantity(&rpc.get("eth_estimateGas", json!([mint])).await?)?;
    let hash = rpc.get("eth_sendTransaction", json!([mint])).await?;
    let receipt = rpc.receipt(hash.as_str().unwrap_or_default()).await?;
    assert!(quantity(&receipt["gasUsed"])? <= gas);
    assert!(rpc.number("eth_blockNumber").await? >= quantity(&receipt["blockNumber"])?);
    let logs = rpc.get("eth_getFilterChanges", json!([filter])).await?;
    assert_eq!(logs, receipt["logs"]);
    assert_eq!(rpc.get("eth_getFilterChanges", json!([filter])).await?, json!([]));

    let balance = Token::balanceOfCall { account: to }.abi_encode();
    let balance = json!({ "to": token, "data": alloy_primitives::Bytes::from(balance) });
    let word = |n: u64| json!(format!("{n:#066x}"));
    assert_eq!(rpc.get("eth_call", json!([balance, "latest"])).await?, word(5));
    // At the block before, and with other code in its place: it returns 7.
    let before = format!("{:#x}", quantity(&receipt["blockNumber"])? - 1);
    assert_eq!(rpc.get("eth_call", json!([balance, before])).await?, word(0));
    let code = json!({ token.as_str().unwrap_or_default(): { "code": "0x60075f5260205ff3" } });
    assert_eq!(rpc.get("eth_call", json!([balance, "latest", code])).await?, word(7));

    // Too much: it reverts with the contract's own error.
    let send = Token::transferCall { to, value: U256::MAX }.abi_encode();
    let send = json!({ "from": bob, "to": token, "data": alloy_primitives::Bytes::from(send) });
    let (code, message) = rpc.fail("eth_call", json!([send, "latest"])).await?;
    assert_eq!((code, message.as_str()), (3, "execution reverted"));
    assert_eq!(rpc.fail("eth_estimateGas", json!([send])).await?.0, 3);
    let list = rpc.get("eth_createAccessList", json!([mint])).await?;
    assert_eq!(list["accessList"][0]["address"], token, "{list}");
    here.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_transactions_are_refused_in_the_words_of_geth() -> anyhow::Result<()> {
    let (here, rpc) = start(Shape::new(2)).await?;
    let mut wallet = Wallet::development()?.remove(0);
    let pay = Plan::pay(Address::repeat_byte(7), 1).gas(21_000);
    let first = wallet.sign(&pay)?;
    let sent = rpc.get("eth_sendRawTransactionSync", json!([first.raw])).await?;
    assert_eq!((&sent["status"], &sent["gasUsed"]), (&json!("0x1"), &json!("0x5208")));
    assert_eq!(sent["transactionHash"], json!(first.hash));
    // The payment shows in the newest state, wherever the payee is.
    let payee = json!([Address::repeat_byte(7), "latest"]);
    assert_eq!(rpc.get("eth_getBalance", payee).await?, "0x1");

    let send = async |raw: &alloy_primitives::Bytes| {
        rpc.fail("eth_sendRawTransaction", json!([raw])).await
    };
    let (code, message) = send(&first.raw).await?;
    assert!(code == -32000 && message.starts_with("nonce too low"), "{code} {message}");
    // One that waits for an earlier nonce, and is known.
    let waits = wallet.sign_at(3, &pay)?;
    let hash = rpc.get("eth_sendRawTransaction", json!([waits.raw])).await?;
    assert_eq!(send(&waits.raw).await?.1, "already known");
    let pending = rpc.get("eth_getTransactionByHash", json!([hash])).await?;
    assert_eq!((&pending["hash"], &pending["blockNumber"]), (&hash, &json!(null)));
    let other = Plan { value: U256::from(2), ..pay.clone() };
    let (_, message) = send(&wallet.sign_at(3, &other)?.raw).await?;
    assert!(message.starts_with("replacement transaction underpriced"), "{message}");
    let rich = Plan { value: U256::from(10).pow(U256::from(30)), ..pay.clone() };
    let (_, message) = send(&wallet.sign_at(1, &rich)?.raw).await?;
    assert!(message.starts_with("insufficient funds for gas * price + value"), "{message}");
    let (_, message) = send(&wallet.sign_at(1, &pay.clone().gas(20_000))?.raw).await?;
    assert!(message.starts_with("intrinsic gas too low"), "{message}");
    here.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_in_the_pools_is_told() -> anyhow::Result<()> {
    let (here, rpc) = start(Shape::new(2)).await?;
    let none = json!({ "pending": "0x0", "queued": "0x0" });
    assert_eq!(rpc.get("txpool_status", json!([])).await?, none);
    // Two senders, whose transactions wait for earlier nonces.
    let pay = Plan::pay(Address::repeat_byte(7), 1).gas(21_000);
    let mut sent = Vec::new();
    for wallet in Wallet::development()?.iter_mut().take(4) {
        let waits = wallet.sign_at(3, &pay)?;
        rpc.get("eth_sendRawTransaction", json!([waits.raw])).await?;
        sent.push((wallet.address(), waits.hash));
    }
    let four = json!({ "pending": "0x0", "queued": "0x4" });
    assert_eq!(rpc.get("txpool_status", json!([])).await?, four);
    let content = rpc.get("txpool_content", json!([])).await?;
    let inspect = rpc.get("txpool_inspect", json!([])).await?;
    assert_eq!(content["pending"], json!({}));
    for (sender, hash) in sent {
        let of_one = &content["queued"][sender.to_string()];
        assert_eq!(of_one["3"]["hash"], json!(hash), "{content}");
        let says = inspect["queued"][sender.to_string()]["3"].as_str().unwrap_or_default();
        assert!(says.contains(": 1 wei + 21000 gas"), "{says}");
        let alone = rpc.get("txpool_contentFrom", json!([sender])).await?;
        assert_eq!((&alone["queued"], &alone["pending"]), (of_one, &json!({})));
    }
    here.stop().await;
    Ok(())
}
