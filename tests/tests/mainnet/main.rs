//! Real blocks of Ethereum's mainnet, each with the state that it touches: run on one shard, and spread
//! over eight by the whole cross-shard protocol, they give the gas and the receipts that Ethereum
//! agreed on.
//!
//! The blocks stand in the folder that `ATOLL_MAINNET_BLOCKS` names, or beside the repository; without
//! them there is nothing to test.

mod block;
#[path = "../../../crates/evm/benches/blocks/paired.rs"]
mod paired;
mod read;

use std::{path::PathBuf, sync::Arc};

use alloy_consensus::proofs::calculate_receipt_root;
use alloy_primitives::{Bloom, logs_bloom};
use anyhow::{Context as _, ensure};
use atoll::replay::{Block, Memory, Ran, parallel, sequential, spread};
use atoll_evm::{
    BlockExecutor, Clock, Crew, Fees, Hint, Mode, Outcome, Parallel, Parallelism, Policy,
    Sequential,
};
use atoll_types::{Executed, KeySet, StateKey, U256};

use block::{Mainnet, receipts};

/// As the binary has it: help costs what memory costs that one thread takes and another gives back.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const SHARDS: u16 = 8;

/// The files, in the order of their blocks; `None` if there are none.
fn files() -> anyhow::Result<Option<Vec<PathBuf>>> {
    let given = std::env::var_os("ATOLL_MAINNET_BLOCKS").map(PathBuf::from);
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/mainnet");
    let folder = given.unwrap_or_else(|| beside.into());
    if !folder.is_dir() {
        println!("skipped: {} is no folder", folder.display());
        return Ok(None);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(number) = name.strip_suffix(".json.gz") {
            files.push((number.parse::<u64>().with_context(|| name.to_owned())?, path));
        }
    }
    files.sort();
    ensure!(!files.is_empty(), "{} has no blocks", folder.display());
    Ok(Some(files.into_iter().map(|(_, path)| path).collect()))
}

/// What was run is what the header says.
fn check(block: &Mainnet, ran: &[Executed]) -> anyhow::Result<()> {
    let gas: u64 = ran.iter().map(|executed| executed.gas_used).sum();
    ensure!(gas == block.gas_used, "gas used: {gas}, the header says {}", block.gas_used);
    let receipts = receipts(block, ran);
    let bloom: Bloom = logs_bloom(ran.iter().flat_map(|executed| &executed.logs));
    ensure!(bloom == block.logs_bloom, "logs bloom {bloom}");
    let root = calculate_receipt_root(&receipts);
    ensure!(root == block.receipts_root, "receipts root: {root}, not {}", block.receipts_root);
    Ok(())
}

/// Sets of keys for the block as groups. If any transaction uses the coinbase, all of them have to
/// run in the block's order, as they write what that one sees: then the block is one group.
fn keys(block: &Mainnet, ran: &[Ran]) -> (Vec<KeySet>, bool) {
    let [basic, code] = [StateKey::Basic, StateKey::Code].map(|key| key(block.env.coinbase));
    let used = ran.iter().any(|ran| ran.used.writes.contains(&basic));
    let keys = |ran: &Ran| match used {
        true => ran.used.union(&KeySet::new([code], [basic])),
        false => ran.used.clone(),
    };
    (ran.iter().map(keys).collect(), used)
}

fn executed(ran: &[Ran]) -> anyhow::Result<Vec<Executed>> {
    Ok(ran.iter().map(|ran| ran.outcome.clone()).collect::<Result<_, _>>()?)
}

fn one(block: &Mainnet, lanes: &[(&str, Parallelism)]) -> anyhow::Result<String> {
    let mut before = block.state.clone();
    block.open(&mut before);
    let runs = Block { env: &block.env, rules: block.rules, txs: &block.txs };

    let mut local: Memory = before.clone();
    let ran = sequential(&runs, Fees::WhenUsed, &mut local);
    let executed = executed(&ran)?;
    check(block, &executed).context("on one shard")?;

    // With threads that run ahead of one another it is the same, and so are the keys that were used.
    for (name, lanes) in lanes {
        for fees in [Fees::WhenUsed, Fees::AtOnce] {
            let (mut one, mut many) = (before.clone(), before.clone());
            let aided = parallel(&runs, fees, &mut many, lanes);
            ensure!(aided == sequential(&runs, fees, &mut one), "another result, {name}, {fees:?}");
            ensure!(many == one, "another state, {name}, {fees:?}");
        }
    }

    // Paid at once, as Ethereum does it, it is the same.
    let mut paid = before.clone();
    let at_once = sequential(&runs, Fees::AtOnce, &mut paid);
    ensure!(self::executed(&at_once)? == executed, "another result with fees at once");
    ensure!(paid == local, "another state with fees at once");

    let (keys, uses_coinbase) = keys(block, &ran);
    let across = spread(&runs, &keys, &before, SHARDS, None).context("across shards")?;
    for (name, lanes) in lanes {
        let aided = spread(&runs, &keys, &before, SHARDS, Some(lanes));
        let aided = aided.with_context(|| (*name).to_owned())?;
        ensure!(aided.ended == across.ended, "other receipts across shards, {name}");
        ensure!(aided.state == across.state, "another state across shards, {name}");
    }
    let receipts = across.ended.into_iter().collect::<Result<Vec<_>, _>>();
    let receipts = receipts.map_err(anyhow::Error::msg)?;
    let executed: Vec<_> = receipts.iter().map(|receipt| receipt.executed.clone()).collect();
    check(block, &executed).context("across shards")?;
    ensure!(across.state == local, "another state across shards");

    block.close(&mut local);
    let crossed = receipts.iter().filter(|receipt| receipt.shards.len() > 1).count();
    let widest = receipts.iter().map(|receipt| receipt.shards.len()).max().unwrap_or(0);
    let coinbase = if uses_coinbase { ", one uses the coinbase" } else { "" };
    Ok(format!(
        "{} transactions, {} gas, {crossed} across shards (up to {widest}), {} groups of up to {}{coinbase}",
        block.txs.len(),
        block.gas_used,
        across.groups,
        across.largest,
    ))
}

/// Threads that always run ahead, and threads that do when that is worth it.
fn lanes(helpers: usize) -> anyhow::Result<[(&'static str, Parallelism); 2]> {
    let start = std::time::Instant::now();
    let clock: Clock = Arc::new(move || start.elapsed().as_nanos() as u64);
    let crew = || {
        let start = |work| std::thread::Builder::new().spawn(work).map(drop);
        Crew::new(helpers, start).map(Arc::new)
    };
    let always = Parallelism::with_policy(crew()?, clock.clone(), Policy::Always);
    Ok([("always ahead", always), ("adaptive", Parallelism::new(crew()?, clock))])
}

#[test]
fn real_blocks_come_out_as_ethereum_had_them() -> anyhow::Result<()> {
    let Some(files) = files()? else { return Ok(()) };
    let (mut failed, lanes) = (0, lanes(2)?);
    for path in &files {
        let block = read::block(path).with_context(|| path.display().to_string())?;
        match one(&block, &lanes) {
            Ok(line) => println!("block {}, {}: {line}", block.env.number, block.rules.fork),
            Err(error) => {
                failed += 1;
                println!("block {}, {}: {error:#}", block.env.number, block.rules.fork);
            }
        }
    }
    ensure!(failed == 0, "{failed} of {} blocks fail", files.len());
    Ok(())
}

/// The other way round: a check that cannot fail says nothing.
#[test]
fn other_rules_are_noticed() -> anyhow::Result<()> {
    let Some(files) = files()? else { return Ok(()) };
    let mut block = read::block(&files[0])?;
    block.env.base_fee = 0;
    block.rules.fork = atoll_evm::Fork::ISTANBUL;
    assert!(one(&block, &[]).is_err(), "Byzantium's block under Istanbul's rules");
    let mut block = read::block(&files[0])?;
    let poor = StateKey::Basic(block.txs[0].sender());
    block.state.set(poor, atoll_types::StateValue::Basic(Default::default()));
    assert!(one(&block, &[]).is_err(), "a sender without {} wei", U256::ONE);
    Ok(())
}

/// How fast the blocks run with one thread to help, against none:
/// `cargo test --release -p atoll-tests --test mainnet -- --ignored --nocapture`. What is known of costs
/// is forgotten before each block and learned in its turns.
#[test]
#[ignore = "a measurement"]
fn speed_of_real_blocks() -> anyhow::Result<()> {
    const TURNS: usize = 40;
    let Some(files) = files()? else { return Ok(()) };
    let mut sums = [0.0; 2];
    for path in &files {
        let block = read::block(path)?;
        let mut before = block.state.clone();
        block.open(&mut before);
        let before = Arc::new(before);
        let [_, (_, lanes)] = lanes(1)?;
        let (env, rules, fees) = (&block.env, block.rules, Fees::WhenUsed);
        let mut paired = paired::Paired::default();
        for _ in 0..TURNS {
            let mut alone = || drive(&block, Sequential::new(env, rules, fees, &*before));
            let mut aided = || drive(&block, Parallel::new(env, rules, fees, &before, &lanes));
            paired.turn(&mut alone, &mut aided);
        }
        let each = paired.tell(&format!("block {}", block.env.number), block.txs.len());
        for (sum, each) in sums.iter_mut().zip(each) {
            *sum += each * block.txs.len() as f64 / 1e3;
        }
    }
    let [alone, aided] = sums;
    println!("all: {:.2} x; {alone:.0} ms alone, {aided:.0} with help", alone / aided);
    Ok(())
}

fn drive(block: &Mainnet, mut run: impl BlockExecutor) {
    let hint = |tx| Hint { tx, mode: Mode::Transact, keys: None };
    run.prepare(&block.txs.iter().map(hint).collect::<Vec<_>>());
    for tx in &block.txs {
        if let Outcome::Executed(effects) = run.attempt(tx, Mode::Transact).outcome {
            run.keep(&effects);
        }
    }
    run.finish();
}
