//! `atoll up --genesis FILE --hardfork FORK`: a file as geth has it, and the chain that begins with it.

use std::fs;

use anyhow::Context as _;
use atoll::{
    cluster::Cluster,
    up::{OptionalPort, UpArgs},
};
use atoll_tests::rpc::Rpc;
use clap::Parser;
use serde_json::{Value, json};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    up: UpArgs,
}

/// Counts the leading zeros of its input's first word, by an instruction that came with Osaka.
const CLZ: &str = "0x5f351e5f5260205ff3";

fn genesis() -> Value {
    json!({
        "config": { "chainId": 4242, "homesteadBlock": 0, "londonBlock": 0, "pragueTime": 0 },
        "difficulty": "0x0",
        "gasLimit": "0x2faf080",
        "extraData": "0x",
        "alloc": {
            // With and without a prefix, in hexadecimal and in decimal digits.
            "00000000000000000000000000000000000a11ce": { "balance": "1000000000000000000" },
            "0x0000000000000000000000000000000000c0de01": {
                "balance": "0x5",
                "nonce": "0x9",
                // Returns slot 1.
                "code": "0x60015460005260206000f3",
                "storage": { format!("{:#066x}", 1): format!("{:#066x}", 77) },
            },
            "0x0000000000000000000000000000000000c0de02": { "balance": "0x0", "code": CLZ },
        },
    })
}

fn args(line: &str, dir: &std::path::Path) -> anyhow::Result<UpArgs> {
    let data = dir.join("data");
    let line = format!("up --shards 3 --listen 127.0.0.1:0 --data {} {line}", data.display());
    let mut up = Cli::try_parse_from(line.split_whitespace())?.up;
    up.rpc = Some(OptionalPort(Some("127.0.0.1:0".parse()?)));
    Ok(up)
}

async fn start(args: &UpArgs) -> anyhow::Result<(Cluster, Rpc)> {
    let cluster = Cluster::start(&args.config()?).await?;
    let rpc = Rpc(cluster.rpc.context("it serves JSON-RPC")?);
    Ok((cluster, rpc))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_genesis_of_geth_is_what_the_chain_begins_with() -> anyhow::Result<()> {
    atoll_tests::log();
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("genesis.json");
    fs::write(&file, genesis().to_string())?;
    let begin = args(&format!("--genesis {}", file.display()), dir.path())?;
    let (cluster, rpc) = start(&begin).await?;
    let contract = "0x0000000000000000000000000000000000c0de01";
    for (method, params, expected) in [
        ("eth_chainId", json!([]), json!("0x1092")),
        ("net_version", json!([]), json!("4242")),
        (
            "eth_getBalance",
            json!(["0x00000000000000000000000000000000000a11ce", "latest"]),
            json!("0xde0b6b3a7640000"),
        ),
        ("eth_getBalance", json!([contract, "latest"]), json!("0x5")),
        ("eth_getTransactionCount", json!([contract, "latest"]), json!("0x9")),
        ("eth_getCode", json!([contract, "latest"]), json!("0x60015460005260206000f3")),
        ("eth_getStorageAt", json!([contract, "0x1", "latest"]), json!(format!("{:#066x}", 77))),
        ("eth_call", json!([{ "to": contract }, "latest"]), json!(format!("{:#066x}", 77))),
    ] {
        assert_eq!(rpc.get(method, params).await?, expected, "{method}");
    }
    let block = rpc.get("eth_getBlockByNumber", json!(["latest", false])).await?;
    assert_eq!(block["gasLimit"], "0x2faf080");
    // The usual fork has the instruction; and the development accounts are there as well.
    let clz = json!([{ "to": "0x0000000000000000000000000000000000c0de02", "data": format!("{:#066x}", 1) }, "latest"]);
    assert_eq!(rpc.get("eth_call", clz.clone()).await?, json!(format!("{:#066x}", 255)));
    let accounts = rpc.get("eth_accounts", json!([])).await?;
    let pay = json!([{ "from": accounts[0], "to": contract, "data": "0x" }]);
    let hash = rpc.get("eth_sendTransaction", pay).await?;
    assert_eq!(rpc.receipt(hash.as_str().unwrap_or_default()).await?["status"], "0x1");
    cluster.stop().await;

    // It goes on without the file, and not as another chain.
    let (cluster, rpc) = start(&args("", dir.path())?).await?;
    assert_eq!(rpc.get("eth_chainId", json!([])).await?, "0x1092");
    cluster.stop().await;
    for other in ["--chain-id 1", "--hardfork prague", "--gas-limit 1000000"] {
        assert!(args(other, dir.path())?.config().is_err(), "{other}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_stays_at_the_fork_that_it_began_with() -> anyhow::Result<()> {
    atoll_tests::log();
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("genesis.json");
    fs::write(&file, genesis().to_string())?;
    let line = format!("--hardfork prague --chain-id 7 --genesis {}", file.display());
    let (cluster, rpc) = start(&args(&line, dir.path())?).await?;
    assert_eq!(rpc.get("eth_chainId", json!([])).await?, "0x7");
    let to = "0x0000000000000000000000000000000000c0de02";
    let clz = json!([{ "to": to, "data": format!("{:#066x}", 1) }, "latest"]);
    assert!(rpc.ask("eth_call", clz).await?["error"].is_object());
    // In a block too: there is no such instruction yet.
    let accounts = rpc.get("eth_accounts", json!([])).await?;
    let send = json!([{ "from": accounts[0], "to": to, "gas": "0x186a0" }]);
    let hash = rpc.get("eth_sendTransaction", send).await?;
    assert_eq!(rpc.receipt(hash.as_str().unwrap_or_default()).await?["status"], "0x0");
    cluster.stop().await;
    assert!(args("--hardfork cancun", dir.path()).is_err());
    Ok(())
}
