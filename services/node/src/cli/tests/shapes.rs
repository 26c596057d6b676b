//! What is shown: field names that programs rely on, and text for people.

use alloy_primitives::{Address, KECCAK256_EMPTY, U256};
use atoll_wire::v1::get_cluster_response::{Limits, Shard};
use atoll_wire::v1::get_stats_response as stats;
use atoll_wire::v1::{
    CallOutcome, CallResponse, GetAccountResponse, GetClusterResponse, GetStatsResponse,
    TransactionFinality, TransactionKind, TransactionLog, TransactionReceipt,
};
use serde_json::json;

use crate::cli::abi;
use crate::cli::account::{Account, Accounts};
use crate::cli::call::CallReport;
use crate::cli::cluster::ClusterReport;
use crate::cli::receipt::ReceiptReport;
use crate::cli::show::Report as _;
use crate::cli::stats::StatsReport;

const ONE: Address = Address::repeat_byte(0x11);
const TWO: Address = Address::repeat_byte(0x22);

fn hex(byte: &str, count: usize) -> String {
    format!("0x{}", byte.repeat(count))
}

fn group() -> TransactionReceipt {
    TransactionReceipt {
        hash: vec![0xaa; 32].into(),
        finality: TransactionFinality::Final.into(),
        status: true,
        gas_used: 30_000,
        effective_gas_price: U256::from(1_000_000_007).to_be_bytes_trimmed_vec().into(),
        logs: vec![TransactionLog {
            address: vec![0x22; 20].into(),
            topics: vec![vec![0xbb; 32].into()],
            data: vec![1, 2].into(),
        }],
        kind: TransactionKind::Group.into(),
        shards: vec![0, 2],
        shard_count: 2,
        round: 11,
        group_index: Some(3),
        index: 1,
        cut: 12,
        sender: vec![0x11; 20].into(),
        nonce: 5,
        to: vec![0x22; 20].into(),
        ..Default::default()
    }
}

#[test]
fn a_receipt() {
    let report = ReceiptReport::read(&group()).unwrap();
    assert!(report.check().is_ok());
    let expected = json!({
        "hash": hex("aa", 32),
        "finality": "final",
        "success": true,
        "revert_reason": null,
        "dropped_reason": null,
        "sender": hex("11", 20),
        "nonce": 5,
        "to": hex("22", 20),
        "contract_address": null,
        "kind": "group",
        "shards": [0, 2],
        "round": 11,
        "group_index": 3,
        "block": 0,
        "index": 1,
        "cut": 12,
        "gas_used": 30_000,
        "effective_gas_price": "1000000007",
        "fee": "30000000210000",
        "return_data": "0x",
        "logs": [{
            "address": hex("22", 20),
            "topics": [hex("bb", 32)],
            "data": "0x0102",
        }],
    });
    assert_eq!(report.json(), expected);
    let expected = format!(
        "hash    {}
result  succeeded, final (cut 12)
shards  0, 2
kind    group 3 of round 11, all or nothing on its shards
from    {} (nonce 5)
to      {}
gas     30000 at 1.000000007 gwei = 30000.00021 gwei
log     {} {} 2 bytes",
        hex("aa", 32),
        hex("11", 20),
        hex("22", 20),
        hex("22", 20),
        hex("bb", 32)
    );
    assert_eq!(report.text(), expected);
}

#[test]
fn receipts_that_did_not_go_well() {
    let failed = TransactionReceipt { status: false, logs: vec![], ..group() };
    let report = ReceiptReport::read(&failed).unwrap();
    assert_eq!(report.json()["success"], json!(false));
    assert_eq!(report.json()["revert_reason"], json!("no reason given"));
    assert!(report.check().unwrap_err().to_string().contains("failed: no reason given"));

    let dropped = TransactionReceipt {
        hash: vec![0xaa; 32].into(),
        finality: TransactionFinality::Dropped.into(),
        dropped_reason: "nonce 5 is taken".into(),
        ..Default::default()
    };
    let report = ReceiptReport::read(&dropped).unwrap();
    assert_eq!(report.json()["dropped_reason"], json!("nonce 5 is taken"));
    assert_eq!(report.json()["success"], json!(null));
    assert!(report.text().ends_with("dropped: nonce 5 is taken"), "{}", report.text());
    assert!(report.check().unwrap_err().to_string().contains("was dropped"));

    let pending = TransactionReceipt { hash: vec![0xaa; 32].into(), ..Default::default() };
    let report = ReceiptReport::read(&pending).unwrap();
    assert!(report.check().is_ok());
    for field in ["nonce", "cut", "gas_used", "fee", "block", "success", "kind", "sender"] {
        assert_eq!(report.json()[field], json!(null), "{field}");
    }
    let report = report.with_signed(ONE, 9, Some(TWO));
    assert_eq!(report.json()["nonce"], json!(9));
    assert_eq!(report.json()["sender"], json!(ONE.to_string()));

    // Whether it was deposited is known when it is final.
    let credit = TransactionReceipt {
        finality: TransactionFinality::Executed.into(),
        kind: TransactionKind::Credit.into(),
        ..group()
    };
    assert_eq!(ReceiptReport::read(&credit).unwrap().json()["success"], json!(null));

    let broken = TransactionReceipt { sender: vec![1; 19].into(), ..group() };
    let error = ReceiptReport::read(&broken).unwrap_err().to_string();
    assert_eq!(error, "the reply's `sender` has 19 bytes, not 20");
}

#[test]
fn accounts() {
    let reply = GetAccountResponse {
        nonce: 3,
        balance: U256::from(10).pow(U256::from(22)).to_be_bytes_trimmed_vec().into(),
        code_hash: KECCAK256_EMPTY.to_vec().into(),
        shard: 2,
        cut: 140,
        ..Default::default()
    };
    let mut account = Account::read(ONE, &reply).unwrap();
    let expected = format!(
        "address  {}\nshard    2\nbalance  10000 ether\nnonce    3\ncut      140",
        hex("11", 20)
    );
    assert_eq!(account.text(), expected);
    let list = Accounts(vec![account.clone()]);
    let expected = format!(
        "from  address{}  shard      balance  nonce\n   0  {}      2  10000 ether      3",
        " ".repeat(35),
        hex("11", 20)
    );
    assert_eq!(list.text(), expected);
    assert_eq!(
        list.json(),
        json!({ "accounts": [{
            "from": 0,
            "address": hex("11", 20),
            "shard": 2,
            "balance": "10000000000000000000000",
            "nonce": 3,
            "cut": 140,
        }]})
    );
    account.slot = Some((U256::from(4), U256::from(9).into()));
    assert_eq!(
        account.json(),
        json!({
            "address": hex("11", 20),
            "shard": 2,
            "balance": "10000000000000000000000",
            "nonce": 3,
            "code_hash": KECCAK256_EMPTY,
            "code_size_bytes": 0,
            "cut": 140,
            "slot": { "number": format!("0x{:064x}", 4), "value": format!("0x{:064x}", 9) },
        })
    );
    assert!(account.text().contains(&format!("slot 4   0x{:064x}", 9)), "{}", account.text());
}

#[test]
fn a_call() {
    let function = abi::function("get()(uint256 total, bool)").unwrap();
    let mut data = vec![0; 64];
    (data[31], data[63]) = (7, 1);
    let reply = CallResponse {
        outcome: CallOutcome::Succeeded.into(),
        return_data: data.clone().into(),
        gas_used: 24_000,
        cut: 12,
        ..Default::default()
    };
    let report = CallReport::read(ONE, Some(function.clone()), reply.clone()).unwrap();
    assert_eq!(report.text(), "total     7\nresult 1  true\ngas       24000\ncut       12");
    assert_eq!(
        report.json(),
        json!({
            "to": hex("11", 20),
            "outcome": "succeeded",
            "values": ["7", true],
            "return_data": alloy_primitives::hex::encode_prefixed(&data),
            "revert_reason": null,
            "halt_reason": null,
            "gas_used": 24_000,
            "logs": [],
            "cut": 12,
        })
    );
    let nothing = CallResponse { return_data: Default::default(), ..reply.clone() };
    let error = CallReport::read(ONE, Some(function), nothing).err().unwrap().to_string();
    assert!(error.contains("no contract with get()"), "{error}");

    let halted = CallResponse {
        outcome: CallOutcome::Halted.into(),
        message: "out of gas".into(),
        ..reply.clone()
    };
    let report = CallReport::read(ONE, None, halted).unwrap();
    assert_eq!(report.json()["halt_reason"], json!("out of gas"));
    assert!(report.check().unwrap_err().to_string().contains("failed at cut 12: out of gas"));
    let reverted = CallResponse { outcome: CallOutcome::Reverted.into(), ..reply };
    let report = CallReport::read(ONE, None, reverted).unwrap();
    assert!(report.check().unwrap_err().to_string().contains("reverted at cut 12: data 0x"));
}

#[test]
fn a_cluster() {
    let shard = |number, reachable| Shard { number, reachable, head: 90, cut: 40, lag: 2 };
    let reply = GetClusterResponse {
        chain_id: 31337,
        coinbase: vec![0x22; 20].into(),
        shards: vec![shard(0, true), shard(1, false)],
        beacon_head: 42,
        settled: 41,
        base_fee: 7,
        gas_limit: 30_000_000,
        version: "0.1.0".into(),
        limits: Some(Limits { batch_transactions: 10_000, ..Default::default() }),
        owners: vec![1],
        placement_epoch: 0,
        intents_waiting: 1,
        groups_open: 2,
    };
    let report = ClusterReport::read("http://h:1", vec![ONE], reply.clone()).unwrap();
    let expected = format!(
        "cluster      http://h:1, chain 31337, version 0.1.0
beacon       block 42, settled 41, base fee 7 wei
cross-shard  1 intent waiting, 2 groups open

shard  head  cut  lag  state
    0    90   40    2  ok
    1    90   40    2  does not answer

address{}  shard
{}      1",
        " ".repeat(35),
        hex("11", 20)
    );
    assert_eq!(report.text(), expected);
    let json = report.json();
    assert_eq!(json["shards"][1]["reachable"], json!(false));
    assert_eq!(json["placement"], json!([{ "address": hex("11", 20), "shard": 1 }]));
    assert_eq!(json["base_fee"], json!("7"));
    assert_eq!(json["limits"]["batch_transactions"], json!(10_000));
    let mut names: Vec<_> = json.as_object().unwrap().keys().collect();
    names.sort();
    let expected = [
        "base_fee",
        "beacon_head",
        "chain_id",
        "coinbase",
        "gas_limit",
        "groups_open",
        "intents_waiting",
        "limits",
        "placement",
        "placement_epoch",
        "settled",
        "shards",
        "target",
        "version",
    ];
    assert_eq!(names, expected);
    assert!(ClusterReport::read("http://h:1", vec![], reply).is_err());
}

#[test]
fn counters() {
    let traffic = |n| stats::Traffic {
        requests: n,
        request_bytes: 1_000 * n,
        replies: n,
        reply_bytes: 20 * n,
    };
    let work = |n| stats::Work { batches: 1, transactions: n, cpu_ns: 12_345_678 * n };
    let shard = stats::Shard {
        reachable: true,
        deliver: Some(traffic(30)),
        blocks: Some(traffic(1)),
        local: Some(work(7)),
        groups: Some(work(2)),
        wrong: 1,
        intents: 3,
        refused: vec![stats::Refused { rule: "expired".into(), count: 2 }],
        ..stats::Shard::default()
    };
    let beacon = stats::Beacon {
        reachable: true,
        blocks: 9,
        intents: 3,
        groups: 1,
        transactions: 3,
        commits: 1,
        cpu_ns: 1_000_000,
        ..stats::Beacon::default()
    };
    let away = stats::Shard { number: 1, ..stats::Shard::default() };
    let reply = GetStatsResponse { shards: vec![shard, away], beacon: Some(beacon) };
    let report = StatsReport { url: "http://h:1".into(), reply };
    let expected = "\
cluster  http://h:1
beacon   9 blocks, 3 intents, 0.001 s of CPU time
groups   1 group of 3 transactions, 1 committed, 0 aborted
refused  -

shard                           0  1
local transactions              7  ?
  CPU time                0.086 s  ?
transactions in groups          2  ?
  CPU time                0.025 s  ?
predictions                     0  ?
  CPU time                0.000 s  ?
wrong predictions               1  ?
values in flight sent           0  ?
late leases asked for           0  ?
  keys refused                  0  ?
escalated                       0  ?
credits                         0  ?
intents                         3  ?
messages: deliver              60  ?
  bytes                   30.6 kB  ?
messages: fetch                 0  ?
  bytes                       0 B  ?
messages: announce              0  ?
  bytes                       0 B  ?
messages: blocks                2  ?
  bytes                    1020 B  ?
refused                 expired 2  ?";
    assert_eq!(report.text(), expected);
    let json = report.json();
    assert_eq!(json["beacon"]["transactions"], json!(3));
    assert_eq!(json["shards"][0]["local"]["cpu_ns"], json!(86_419_746));
    assert_eq!(json["shards"][0]["deliver"]["request_bytes"], json!(30_000));
    assert_eq!(json["shards"][0]["refused"], json!({ "expired": 2 }));
    assert_eq!(json["shards"][1]["reachable"], json!(false));
}
