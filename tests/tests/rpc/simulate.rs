//! Calls that follow one another, in blocks that there are not.

use alloy_primitives::{Address, Bytes, U256};
use alloy_sol_types::SolCall as _;
use atoll_tests::{
    contracts::{Token, token},
    here::Shape,
    rpc::quantity,
};
use serde_json::json;

use super::start;

#[tokio::test(flavor = "multi_thread")]
async fn a_simulated_chain_goes_on_where_the_real_one_ends() -> anyhow::Result<()> {
    let (here, rpc) = start(Shape::new(2)).await?;
    let accounts = rpc.get("eth_accounts", json!([])).await?;
    let [alice, bob] = [&accounts[0], &accounts[1]];
    let hash =
        rpc.get("eth_sendTransaction", json!([{ "from": alice, "data": token("T")? }])).await?;
    let made = rpc.receipt(hash.as_str().unwrap_or_default()).await?;
    let token = &made["contractAddress"];
    let (a, b): (Address, Address) =
        (serde_json::from_value(alice.clone())?, serde_json::from_value(bob.clone())?);
    let mint = Bytes::from(Token::mintCall { to: a, amount: U256::from(9) }.abi_encode());
    let send = Bytes::from(Token::transferCall { to: b, value: U256::from(4) }.abi_encode());
    let of = |account| Bytes::from(Token::balanceOfCall { account }.abi_encode());
    // Returns its block's number: NUMBER PUSH0 MSTORE 32 PUSH0 RETURN
    let number = "0x435f5260205ff3";
    let nobody = Address::repeat_byte(0xab);
    let payload = json!({ "blockStateCalls": [
        { "calls": [{ "from": alice, "to": token, "data": mint }] },
        {
            "blockOverrides": { "time": "0xffffffff" },
            "stateOverrides": {
                nobody.to_string(): { "balance": "0x64" }, token.as_str().unwrap_or_default(): {},
                "0x00000000000000000000000000000000000000cc": { "code": number },
            },
            "calls": [
                { "from": alice, "to": token, "data": send },
                { "from": bob, "to": token, "data": of(b) },
                { "from": alice, "to": token, "data": send },
                { "from": alice, "to": token, "data": send },
                { "from": nobody, "to": bob, "value": "0x63" },
                { "to": "0x00000000000000000000000000000000000000cc" },
            ],
        },
    ] });
    let base = rpc.number("eth_blockNumber").await?;
    let blocks = rpc.get("eth_simulateV1", json!([payload, format!("{base:#x}")])).await?;
    let word = |n: u64| json!(format!("{n:#066x}"));
    let [first, second] = [&blocks[0], &blocks[1]];
    assert_eq!((quantity(&first["number"])?, quantity(&second["number"])?), (base + 1, base + 2));
    assert_eq!(
        (&second["parentHash"], &second["timestamp"]),
        (&first["hash"], &json!("0xffffffff"))
    );
    assert_eq!(first["calls"][0]["logs"][0]["blockHash"], first["hash"]);
    let calls = &second["calls"];
    assert_eq!((&calls[0]["status"], &calls[1]["returnData"]), (&json!("0x1"), &word(4)));
    assert_eq!((&calls[2]["status"], &calls[3]["status"]), (&json!("0x1"), &json!("0x0")));
    assert_eq!(calls[3]["error"]["code"], 3, "{calls}");
    assert_eq!(calls[4]["status"], "0x1", "the overridden balance is there: {calls}");
    assert_eq!(calls[5]["returnData"], word(base + 2));
    assert_eq!(second["transactions"].as_array().map(Vec::len), Some(6));
    // Nothing of it happened.
    let balance = json!([{ "to": token, "data": of(a) }, "latest"]);
    assert_eq!(rpc.get("eth_call", balance).await?, word(0));

    let refuse = async |payload| rpc.fail("eth_simulateV1", json!([payload])).await;
    assert_eq!(refuse(json!({ "validation": true })).await?.0, -32602);
    let back = json!({ "blockStateCalls": [{ "blockOverrides": { "number": "0x0" } }] });
    assert_eq!(refuse(back).await?.0, -38020);
    let many = json!({ "blockStateCalls": vec![json!({}); 257] });
    let (code, message) = refuse(many).await?;
    assert!(code == -38026 && message.contains("the limit"), "{code} {message}");
    here.stop().await;
    Ok(())
}
