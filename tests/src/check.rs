//! Carries out a program on a cluster and compares it with one machine.

use crate::{
    compare::differences,
    here::Here,
    history::{Ended, History, no_fence_is_left},
    order::{self, serial_order},
    program::Program,
    replay::{self, Replay},
};

/// The program of a seed, or that of `ATOLL_SEED`; with `rounds` transactions of each sender, or
/// `ATOLL_ROUNDS`. Shows which.
pub fn program(shards: u16, seed: u64, rounds: usize) -> anyhow::Result<Program> {
    crate::log();
    let seed = from_environment("ATOLL_SEED").unwrap_or(seed);
    let rounds = from_environment("ATOLL_ROUNDS").map_or(rounds, |rounds| rounds as usize);
    println!("{shards} shards, ATOLL_SEED={seed} ATOLL_ROUNDS={rounds}");
    Program::new(seed, shards, rounds)
}

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// Carries out a program. If it does not come to its end, shows what is under way.
pub async fn run(program: &Program, here: &Here) -> anyhow::Result<Vec<Ended>> {
    let txs = program.run(here).await;
    if txs.is_err() {
        let found = here.describe().await;
        println!("{}", found.unwrap_or_else(|error| error.to_string()));
    }
    txs
}

/// Compares what a cluster has made of a program with one machine, and panics if they differ.
pub async fn compare(
    program: &Program,
    here: &Here,
    txs: Vec<Ended>,
) -> anyhow::Result<(order::Counts, replay::Counts)> {
    let history = History::of(here, txs).await?;
    let (steps, order) = serial_order(&history)?;
    let replay = Replay::run(&history, &steps);
    println!("{order:?}\n{:?}", replay.counts);
    let mut found = replay.differences.clone();
    found.extend(differences(&here.api, &history, &replay).await?);
    no_fence_is_left(here).await?;
    let (seed, shards) = (program.seed, program.world.placement.shards());
    assert!(found.is_empty(), "seed {seed}, {shards} shards:\n{}", found.join("\n"));
    Ok((order, replay.counts))
}
