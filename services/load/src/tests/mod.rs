//! Whole runs against a ledger in this process.

mod fake;
mod flight;

use std::{collections::BTreeMap, future::pending, sync::Arc, time::Duration};

use alloy_primitives::Address;
use alloy_signer_local::MnemonicBuilder;
use atoll_wire::v1::SubmitOutcome;
use clap::Parser;
use fake::{Policy, Verdict, serve};
use tokio::sync::Notify;

use crate::{DEV_MNEMONIC, LoadArgs, Summary, run, sign};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    load: LoadArgs,
}

fn funders() -> Vec<Address> {
    let nth = |index| MnemonicBuilder::from_phrase_nth(DEV_MNEMONIC, index).address();
    (0..10).map(nth).collect()
}

/// Runs a command line against a ledger of three shards.
async fn load(line: &str, policy: Policy) -> Summary {
    let target = serve(3, &funders(), policy).await;
    let line = format!("load --target {target} --seed 7 --warmup 0s --streams 3 {line}");
    let args = Cli::try_parse_from(line.split_whitespace()).unwrap_or_else(|e| panic!("{e}"));
    match run(args.load, pending::<()>()).await {
        Ok(summary) => summary,
        Err(error) => panic!("{error:#}"),
    }
}

/// The addresses of the accounts of a run with seed 7.
fn accounts(count: u32) -> Vec<Address> {
    sign::addresses(&sign::keys("account", 7, count).unwrap())
}

fn failures(expected: &[(&str, u64)]) -> BTreeMap<String, u64> {
    let owned = expected.iter().map(|(reason, count)| (reason.to_string(), *count));
    owned.collect()
}

/// Every workload with its contracts, run by revm: nothing fails, gas limits suffice, and the share
/// that crosses, seen by the ledger from the accounts touched, is the one asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_workload_runs() {
    for workload in ["transfer", "erc20", "amm", "multihop", "mix"] {
        let line =
            format!("--workload {workload} --accounts 30 --cross 50 --rate 1200 --duration 500ms");
        let summary = load(&line, Policy::default()).await;
        assert_eq!(summary.failures, failures(&[]), "{workload}: {:?}", summary.first_failure);
        assert_eq!((summary.offered, summary.submitted, summary.finals), (600, 600, 600));
        let share = summary.cross_share.unwrap();
        assert!((0.4..0.6).contains(&share), "{workload}: {share} crossed");
        assert!(summary.tps.finals > 0.0 && summary.latency_ms.finals.max > 0.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_extremes_of_crossing_are_exact() {
    for (cross, expected) in [(0, 0.0), (100, 1.0)] {
        for workload in ["transfer", "erc20", "amm", "multihop"] {
            let line = format!(
                "--workload {workload} --accounts 30 --cross {cross} --zipf 1 --rate 600 --duration 500ms"
            );
            let summary = load(&line, Policy::default()).await;
            assert_eq!(summary.failures, failures(&[]), "{workload}: {:?}", summary.first_failure);
            assert_eq!(summary.cross_share, Some(expected), "{workload}");
        }
    }
}

/// 20 accounts with 50 transactions each; every kind of failure, and each counted once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_are_counted_exactly() {
    let all = accounts(20);
    let judge = move |tx: &atoll_types::Tx, first: bool| {
        let account = all.iter().position(|address| *address == tx.sender());
        match (account, tx.nonce()) {
            // Every account of the run has this once: refused, and taken the second time.
            (Some(_), 3) if first => Verdict::Refuse(SubmitOutcome::MempoolFull),
            (Some(0), 5) => Verdict::Refuse(SubmitOutcome::InsufficientFunds),
            (Some(0), 6..) => Verdict::Refuse(SubmitOutcome::NonceTooFar),
            (Some(1), 7) => Verdict::Drop,
            (Some(2), 10) => Verdict::Revert,
            _ => Verdict::Run,
        }
    };
    let policy =
        Policy { judge: Box::new(judge), delay: Duration::from_millis(5), ..Policy::default() };
    let line = "--accounts 20 --cross 30 --rate 1000 --duration 1s --drain 1s";
    let summary = load(line, policy).await;
    assert_eq!(summary.offered, 1_000);
    let count = |reason: &str| summary.failures.get(reason).copied().unwrap_or(0);
    let first_account = count("refused_insufficient_funds") + count("refused_nonce_too_far");
    assert_eq!(count("refused_insufficient_funds"), 1);
    assert_eq!(count("dropped"), 1);
    assert_eq!(count("reverted"), 1);
    // The rest of accounts 0 and 1 was not sent, or could never run.
    let stuck = count("unresolved");
    assert_eq!(first_account + stuck + count("skipped"), 45 + 42);
    assert_eq!(summary.failures.values().sum::<u64>(), 45 + 43 + 1);
    assert_eq!(summary.finals, 1_000 - 45 - 43 - 1);
    assert_eq!(summary.submitted, summary.finals + stuck + 2);
    assert_eq!(summary.refusals["mempool_full"], 20);
    assert!(summary.retries >= 20);
    assert!(summary.tps.finals > 0.0 && summary.tps.finals <= summary.finals as f64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_stream_and_lost_receipts_lose_nothing() {
    let policy =
        Policy { delay: Duration::from_millis(2), break_at: 60, lose: 13, ..Policy::default() };
    let summary = load("--accounts 20 --cross 30 --rate 500 --duration 1s", policy).await;
    assert_eq!(summary.failures, failures(&[]), "{:?}", summary.first_failure);
    assert_eq!((summary.offered, summary.submitted, summary.finals), (500, 500, 500));
    // What the broken stream did not answer.
    assert!(summary.refusals["unknown"] > 0);
    assert!(summary.generator.receipts_missed > 0 && summary.generator.receipts_asked > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_fast_as_possible_keeps_to_its_window() {
    let policy = Policy { delay: Duration::from_millis(20), ..Policy::default() };
    let line = "--accounts 20 --rate max --window 10 --duration 1s --presign 2000";
    let summary = load(line, policy).await;
    assert_eq!(summary.failures, failures(&[]));
    // Ten in 20 ms or somewhat more.
    assert!((20.0..=500.0).contains(&summary.tps.finals), "{}", summary.tps.finals);
    assert!(summary.latency_ms.finals.p50 >= 20.0);
}

/// A ledger that stands still for 400 ms delays everything that is due meanwhile, not one transaction.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn latency_counts_from_when_a_transaction_was_due() {
    let slow = accounts(20)[0];
    let judge = move |tx: &atoll_types::Tx, first: bool| {
        if tx.sender() == slow && tx.nonce() == 5 && first {
            std::thread::sleep(Duration::from_millis(400));
        }
        Verdict::Run
    };
    let policy = Policy { judge: Box::new(judge), ..Policy::default() };
    let summary = load("--accounts 20 --rate 500 --duration 1s", policy).await;
    assert_eq!((summary.offered, summary.finals), (500, 500));
    // 200 of 500 are due in that time: the slowest tenth of all waits for 300 ms or more.
    assert!(summary.latency_ms.finals.p90 >= 290.0, "{}", summary.latency_ms.finals.p90);
    assert!(summary.generator.lag_ms.p50 < 290.0, "the generator itself went on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_run_sums_up_what_it_has() {
    let enough = Arc::new(Notify::new());
    let told = enough.clone();
    let all = accounts(10);
    let judge = move |tx: &atoll_types::Tx, _: bool| {
        if tx.sender() == all[0] && tx.nonce() == 20 {
            told.notify_one();
        }
        Verdict::Run
    };
    let policy = Policy { judge: Box::new(judge), ..Policy::default() };
    let target = serve(3, &funders(), policy).await;
    let line = "--seed 7 --accounts 10 --rate 200 --warmup 0s --duration 60s";
    let line = format!("load --target {target} {line}");
    let args = Cli::parse_from(line.split(' ')).load;
    let summary = run(args, enough.notified()).await.unwrap();
    assert!(summary.offered >= 200 && summary.offered == summary.finals);
    assert!(summary.config.measured_seconds < 50.0);
    assert_eq!(summary.failures, failures(&[]));
}

/// How long the setup of many accounts takes: `cargo test -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn setup_of_many_accounts() {
    let line = "--workload mix --accounts 5000 --cross 20 --rate 200 --duration 1s";
    let started = std::time::Instant::now();
    let summary = load(line, Policy::default()).await;
    println!("{:?}\n{summary}", started.elapsed());
}

#[tokio::test]
async fn without_funds_the_setup_says_so() {
    let target = serve(1, &[], Policy::default()).await;
    let args = Cli::parse_from(["load", "--target", &target]).load;
    let error = run(args, pending::<()>()).await.unwrap_err();
    assert!(error.to_string().contains("have nothing"), "{error:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_json_has_the_documented_shape() {
    let line = "--accounts 10 --cross 20 --rate 200 --duration 500ms --json";
    let summary = load(line, Policy::default()).await;
    let json: serde_json::Value = serde_json::from_str(&summary.json().unwrap()).unwrap();
    assert_eq!(json["workload"], "transfer");
    for stage in ["submitted", "executed", "final"] {
        assert!(json["tps"][stage].is_number(), "{json}");
    }
    for stage in ["executed", "final"] {
        for value in ["p50", "p90", "p99", "p999", "max"] {
            assert!(json["latency_ms"][stage][value].is_number(), "{json}");
        }
    }
    assert!(json["cross_share"].is_number() && json["failures"].is_object());
    assert_eq!((&json["submitted"], &json["final"]), (&100.into(), &100.into()));
    assert_eq!(json["config"]["seed"], 7);
    assert_eq!(json["config"]["duration"], 0.5);
    assert!(json["config"].get("mnemonic").is_none());
    let table = summary.to_string();
    assert!(table.contains("p99.9 ms") && table.contains("failures  none"), "{table}");
}
