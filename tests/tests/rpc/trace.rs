//! What `debug_trace…` tells, also of transactions that crossed shards.

use alloy_primitives::{Address, Bytes, U256};
use alloy_sol_types::SolCall as _;
use atoll_tests::{
    check::{program, run},
    contracts::{Token, token},
    here::Shape,
    rpc::{Rpc, quantity},
};
use serde_json::{Value, json};

use super::start;

/// Cuts that shards keep, less some that pass meanwhile.
const KEPT: u64 = 200;

async fn sent(rpc: &Rpc, tx: Value) -> anyhow::Result<Value> {
    let hash = rpc.get("eth_sendTransaction", json!([tx])).await?;
    rpc.receipt(hash.as_str().unwrap_or_default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_traced_with_every_tracer() -> anyhow::Result<()> {
    let (here, rpc) = start(Shape::new(2)).await?;
    let accounts = rpc.get("eth_accounts", json!([])).await?;
    let made = sent(&rpc, json!({ "from": accounts[0], "data": token("T")? })).await?;
    let token = made["contractAddress"].clone();
    let trace = async |tx: &Value, options: Value| {
        rpc.get("debug_traceTransaction", json!([tx["transactionHash"], options])).await
    };
    let created = trace(&made, json!({ "tracer": "callTracer" })).await?;
    assert_eq!((&created["type"], &created["to"]), (&json!("CREATE"), &token));
    assert_eq!(created["gasUsed"], made["gasUsed"]);

    let (mut groups, mut local) = (0, 0);
    for account in accounts.as_array().into_iter().flatten() {
        let to: Address = serde_json::from_value(account.clone())?;
        let mint = Bytes::from(Token::mintCall { to, amount: U256::from(5) }.abi_encode());
        let receipt = sent(&rpc, json!({ "from": account, "to": token, "data": mint })).await?;
        let at = json!([receipt["transactionHash"]]);
        let kind = rpc.get("atoll_getTransaction", at).await?["kind"].clone();
        groups += usize::from(kind == "group");
        local += usize::from(kind == "local");

        let options = json!({ "tracer": "callTracer", "tracerConfig": { "withLog": true } });
        let call = trace(&receipt, options).await?;
        assert_eq!((&call["type"], &call["from"], &call["to"]), (&json!("CALL"), account, &token));
        assert_eq!((&call["gasUsed"], &call["input"]), (&receipt["gasUsed"], &json!(mint)));
        assert_eq!(call["logs"][0]["topics"], receipt["logs"][0]["topics"], "{kind}");

        let steps = trace(&receipt, json!({})).await?;
        assert_eq!((json!(quantity(&receipt["gasUsed"])?), false), (steps["gas"].clone(), false));
        let ops = steps["structLogs"].as_array().cloned().unwrap_or_default();
        assert!(ops.iter().any(|step| step["op"] == "SSTORE" && step["storage"].is_object()));
        let first = trace(&receipt, json!({ "limit": 3, "disableStack": true })).await?;
        assert_eq!(first["structLogs"].as_array().map(Vec::len), Some(3));
        assert!(first["structLogs"][0]["stack"].is_null());

        let state = trace(&receipt, json!({ "tracer": "prestateTracer" })).await?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (token, account) = (text(&token), text(account));
        assert!(state[&token]["code"].is_string() && state[&token]["storage"].is_object());
        let nonce = state[&account]["nonce"].as_u64().unwrap_or(0);
        let diff = json!({ "tracer": "prestateTracer", "tracerConfig": { "diffMode": true } });
        let diff = trace(&receipt, diff).await?;
        assert_eq!(diff["post"][&account]["nonce"], json!(nonce + 1));
        let stored = diff["post"][&token]["storage"].as_object();
        assert!(stored.is_some_and(|slots| !slots.is_empty()), "{diff}");

        let names = trace(&receipt, json!({ "tracer": "4byteTracer" })).await?;
        let mint =
            format!("{}-64", alloy_primitives::hex::encode_prefixed(Token::mintCall::SELECTOR));
        assert_eq!(names, json!({ mint: 1 }));
        assert_eq!(trace(&receipt, json!({ "tracer": "noopTracer" })).await?, json!({}));

        let whole = [receipt["blockNumber"].clone(), json!({ "tracer": "callTracer" })];
        let whole = rpc.get("debug_traceBlockByNumber", json!(whole)).await?;
        let own = whole.as_array().into_iter().flatten();
        let mut own = own.filter(|told| told["txHash"] == receipt["transactionHash"]);
        assert_eq!(own.next().map(|told| &told["result"]["gasUsed"]), Some(&receipt["gasUsed"]));
    }
    println!("{local} local, {groups} groups");
    assert!(local > 0 && groups > 0, "accounts are on both shards");
    here.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_traced_and_what_is_too_much_is_refused() -> anyhow::Result<()> {
    let (here, rpc) = start(Shape::new(2)).await?;
    let accounts = rpc.get("eth_accounts", json!([])).await?;
    let made = sent(&rpc, json!({ "from": accounts[0], "data": token("T")? })).await?;
    let token = made["contractAddress"].as_str().unwrap_or_default().to_owned();
    let send = Token::transferCall { to: Address::repeat_byte(1), value: U256::MAX }.abi_encode();
    let send = json!({ "from": accounts[1], "to": token, "data": Bytes::from(send) });
    let options = json!({ "tracer": "callTracer" });
    let call = rpc.get("debug_traceCall", json!([send, "latest", options])).await?;
    assert_eq!(call["error"], "execution reverted", "{call}");
    // With other code in its place: it returns 7.
    let seven = json!({
        "tracer": "callTracer", "stateOverrides": { token.clone(): { "code": "0x60075f5260205ff3" } },
    });
    let call = rpc.get("debug_traceCall", json!([send, "latest", seven])).await?;
    assert_eq!(call["output"], json!(format!("{:#066x}", 7)));

    // It never ends, and no answer holds what it does. JUMPDEST PUSH0 JUMP
    let endless = json!({ "stateOverrides": { token.clone(): { "code": "0x5b5f56" } } });
    let (code, message) = rpc.fail("debug_traceCall", json!([send, "latest", endless])).await?;
    assert!(code == -32005 && message.contains("the limit"), "{code} {message}");
    let (code, message) =
        rpc.fail("debug_traceCall", json!([send, "latest", { "tracer": "{ step: 1 }" }])).await?;
    assert!(code == -32602 && message.contains("is not there"), "{code} {message}");
    let nobody = json!([format!("{:#066x}", 1)]);
    let (_, message) = rpc.fail("debug_traceTransaction", nobody).await?;
    assert_eq!(message, "transaction not found");
    assert_eq!(rpc.fail("debug_traceBlockByNumber", json!(["0xffffff"])).await?.0, -32001);
    here.stop().await;
    Ok(())
}

/// What ran on four shards at once does the same again, in the order of the block.
#[tokio::test(flavor = "multi_thread")]
async fn blocks_of_four_shards_are_executed_again_with_the_same_end() -> anyhow::Result<()> {
    let program = program(4, 12, 3)?;
    let (here, rpc) = start(program.shape()).await?;
    let txs = run(&program, &here).await?;
    let last = txs.iter().map(|tx| tx.receipt.round).max().unwrap_or(0);
    rpc.closed(last).await?;
    let (mut same, mut blocks, mut other) = (0, 0, Vec::new());
    for number in (last.saturating_sub(KEPT)..=last).rev() {
        let place = json!([format!("{number:#x}"), { "tracer": "callTracer" }]);
        let receipts = rpc.get("eth_getBlockReceipts", json!([place[0]])).await?;
        let receipts = receipts.as_array().cloned().unwrap_or_default();
        if receipts.is_empty() {
            continue;
        }
        let answer = rpc.ask("debug_traceBlockByNumber", place).await?;
        let reason = answer["error"]["message"].as_str().unwrap_or_default();
        if reason.contains("no longer kept") {
            // A slow machine: the chain has gone on meanwhile.
            break;
        }
        assert!(reason.is_empty(), "block {number}: {reason}");
        let told = answer["result"].clone();
        let told = told.as_array().cloned().unwrap_or_default();
        assert_eq!(told.len(), receipts.len());
        blocks += 1;
        for (told, receipt) in told.iter().zip(&receipts) {
            assert_eq!(told["txHash"], receipt["transactionHash"]);
            let result = &told["result"];
            if !told["error"].is_null() {
                other.push(told["error"].to_string());
                continue;
            }
            assert_eq!(result["gasUsed"], receipt["gasUsed"], "{told} {receipt}");
            assert_eq!(result["error"].is_null(), receipt["status"] == "0x1", "{told} {receipt}");
            same += 1;
        }
    }
    println!("{same} the same in {blocks} blocks, {} with another end: {other:?}", other.len());
    assert!(same > 0 && other.len() * 10 < same, "{same}, {other:?}");
    here.stop().await;
    Ok(())
}
