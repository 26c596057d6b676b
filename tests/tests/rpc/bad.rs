//! What clients can get wrong, or do on purpose.

use atoll_tests::here::Shape;
use serde_json::{Value, json};

use super::start;

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_refused_by_name_and_disturbs_nobody() -> anyhow::Result<()> {
    let (here, rpc) = start(Shape::new(2)).await?;
    assert_eq!(rpc.fail("eth_fillTransaction", json!([{}])).await?.0, -32601);
    assert_eq!(rpc.fail("eth_getProof", json!([])).await?.0, -32601);

    let code = |body: &str| serde_json::from_str::<Value>(body).map(|v| v["error"]["code"].clone());
    let (_, body) = rpc.post(b"{\"jsonrpc\":\"2.0\",").await?;
    assert_eq!(code(&body)?, -32700, "{body}");
    let (_, body) = rpc.post(b"{\"jsonrpc\":\"2.0\",\"id\":1}").await?;
    assert_eq!(code(&body)?, -32600, "{body}");
    let deep = format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"eth_call\",\"params\":{}{}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    let (_, body) = rpc.post(deep.as_bytes()).await?;
    assert!(code(&body)?.as_i64().is_some_and(|code| code < 0), "{body}");
    let long = vec![b' '; 6 << 20];
    assert_eq!(rpc.post(&long).await?.0, 413);

    // A batch at the limit is answered, one beyond it is not.
    let one = json!({ "jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": [] });
    let (_, body) = rpc.post(json!(vec![one.clone(); 1024]).to_string().as_bytes()).await?;
    assert_eq!(serde_json::from_str::<Vec<Value>>(&body)?.len(), 1024);
    let (_, body) = rpc.post(json!(vec![one; 1025]).to_string().as_bytes()).await?;
    assert_eq!(code(&body)?, -32010, "{body}");

    let (zero, account) = (format!("{:#066x}", 0), format!("{:#042x}", 1));
    let authorization = json!({
        "chainId": "0x1", "address": account, "nonce": "0x0", "yParity": "0x0", "r": "0x1", "s": "0x1",
    });
    for (method, params, says) in [
        ("eth_getBalance", json!([]), "missing value for required argument 0"),
        ("eth_getBalance", json!(["0x12"]), "invalid argument 0 (address)"),
        ("eth_getBalance", json!({ "address": 1 }), "must be a list"),
        ("eth_getBlockByNumber", json!(["newest", false]), "invalid argument 0 (block)"),
        ("eth_call", json!([{ "to": 5 }]), "invalid argument 0 (transaction)"),
        ("eth_sendRawTransaction", json!(["0xff"]), "neither a type nor the list"),
        ("eth_getLogs", json!([{ "fromBlock": "0x5", "toBlock": "0x1" }]), "invalid"),
        ("eth_call", json!([{}, "latest", {}, { "blockHash": { "1": zero } }]), "blockHash"),
        (
            "eth_call",
            json!([{}, "latest", { account.clone(): { "movePrecompileToAddress": account } }]),
            "move",
        ),
        ("eth_estimateGas", json!([{ "authorizationList": [authorization] }]), "authorizationList"),
    ] {
        let (code, message) = rpc.fail(method, params.clone()).await?;
        assert_eq!(code, -32602, "{method} {params}: {message}");
        assert!(message.contains(says), "{method} {params}: {message}");
    }
    let (code, message) =
        rpc.fail("eth_getBalance", json!([format!("{:#042x}", 1), "0xffffff"])).await?;
    assert_eq!((code, message.as_str()), (-32001, "header not found"));
    assert_eq!(rpc.get("eth_getBlockByNumber", json!(["0xffffff", false])).await?, Value::Null);

    let topics = vec![json!(format!("{:#066x}", 1)); 2_000];
    let distinct: Vec<Value> =
        topics.iter().enumerate().map(|(n, _)| json!(format!("{n:#066x}"))).collect();
    let (code, message) = rpc.fail("eth_getLogs", json!([{ "topics": [distinct] }])).await?;
    assert!(code == -32005 && message.contains("the limit is 1024"), "{code} {message}");

    let (code, message) = rpc.fail("eth_getFilterChanges", json!(["0x77"])).await?;
    assert_eq!((code, message.as_str()), (-32000, "filter not found"));
    for _ in 0..1024 {
        rpc.get("eth_newBlockFilter", json!([])).await?;
    }
    let (code, message) = rpc.fail("eth_newBlockFilter", json!([])).await?;
    assert!(code == -32005 && message.contains("the limit"), "{code} {message}");
    assert_eq!(rpc.get("eth_uninstallFilter", json!(["0x1"])).await?, true);
    assert_eq!(rpc.get("eth_chainId", json!([])).await?, json!("0x7a69"));
    here.stop().await;
    Ok(())
}
