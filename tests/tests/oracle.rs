//! Whatever the number of shards: receipts, logs, gas and final state are those of one machine.

use atoll_tests::{
    compare::differences,
    here::Here,
    history::{History, no_fence_is_left},
    order::serial_order,
    program::Program,
    replay::Replay,
};

/// Transactions of each sender.
const ROUNDS: usize = 6;

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

async fn check(shards: u16, seed: u64) -> anyhow::Result<()> {
    let seed = from_environment("ATOLL_SEED").unwrap_or(seed);
    let rounds = from_environment("ATOLL_ROUNDS").map_or(ROUNDS, |rounds| rounds as usize);
    println!("{shards} shards, ATOLL_SEED={seed} ATOLL_ROUNDS={rounds}");
    let program = Program::new(seed, shards, rounds)?;
    let here = Here::start(&program.shape()).await?;
    let begun = std::time::Instant::now();
    let txs = program.run(&here.api).await?;
    println!("{} transactions in {:?}", txs.len(), begun.elapsed());
    let history = History::of(&here, txs).await?;
    println!("quiet after {:?}", begun.elapsed());
    let (steps, counts) = serial_order(&history)?;
    println!("{counts:?}");
    let replay = Replay::run(&history, &steps);
    println!("{:?}", replay.counts);
    let mut found = replay.differences.clone();
    found.extend(differences(&here.api, &history, &replay).await?);
    println!("compared after {:?}", begun.elapsed());
    no_fence_is_left(&here).await?;
    here.stop().await;
    assert!(found.is_empty(), "seed {seed}, {shards} shards:\n{}", found.join("\n"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_shard() -> anyhow::Result<()> {
    check(1, 1).await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_shards() -> anyhow::Result<()> {
    check(2, 2).await
}

#[tokio::test(flavor = "multi_thread")]
async fn four_shards() -> anyhow::Result<()> {
    check(4, 4).await
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_shards() -> anyhow::Result<()> {
    check(8, 8).await
}
