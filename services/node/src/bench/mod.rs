//! `atoll bench`: the figures of docs/benchmarks.md, each with its baseline.
//!
//! Every load runs on a fresh cluster, in a process of its own. The loads take turns, so that a
//! machine whose speed drifts treats them alike, and a ratio is taken within one turn.

mod cluster;
mod figures;
mod loads;
mod measure;
mod report;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, bail};

use figures::{Figure, loads_of, select};
use loads::{FEW_ACCOUNTS, Load, Turn};
use measure::measure;
use report::Report;

/// Measures what the whole does, on clusters that it starts on loopback.
#[derive(Clone, Debug, clap::Args)]
pub struct BenchArgs {
    /// Figures by id, or by how their ids begin, such as `e2e,cross.tps` [default: all]
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub figures: Vec<String>,
    /// How often everything is measured
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub turns: u32,
    /// How long each load lasts
    #[arg(long, default_value = "8s", value_parser = atoll_load::duration)]
    pub duration: Duration,
    /// Accounts that send
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(2..))]
    pub accounts: u32,
    /// Shards, where a figure does not have its own number
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub shards: u16,
    /// Accounts of e2e.state and e2e.memory, compared with 10,000
    #[arg(
        long,
        default_value_t = 1_000_000,
        value_parser = clap::value_parser!(u32).range(i64::from(FEW_ACCOUNTS) + 1..=100_000_000)
    )]
    pub state_accounts: u32,
    /// Print one JSON object, with every value of every turn
    #[arg(long)]
    pub json: bool,
    /// Say what the figures are, and measure nothing
    #[arg(long)]
    pub list: bool,
}

/// Measures and prints. When `cancel` is ready, it ends with an error; clusters end with it.
pub async fn bench(args: BenchArgs, cancel: impl Future) -> anyhow::Result<()> {
    let figures = select(&args.figures)?;
    if args.list {
        print!("{}", report::list(&figures));
        return Ok(());
    }
    if args.duration.is_zero() {
        bail!("--duration must be longer than zero");
    }
    if cfg!(debug_assertions) {
        eprintln!("this is a debug build: its figures say nothing about speed");
    }
    let turns = tokio::select! {
        turns = all_turns(&args, &figures) => turns?,
        _ = cancel => bail!("interrupted"),
    };
    let report = Report { args: &args, figures: &figures, turns: &turns };
    if args.json {
        println!("{}", report.json());
    } else {
        print!("{}", report.markdown());
    }
    Ok(())
}

async fn all_turns(args: &BenchArgs, figures: &[&Figure]) -> anyhow::Result<Vec<Turn>> {
    let loads = loads_of(figures);
    let mut turns = Vec::new();
    for number in 1..=args.turns {
        eprintln!("turn {number} of {}", args.turns);
        turns.push(turn(args, &loads).await?);
    }
    Ok(turns)
}

/// Measures each load once.
async fn turn(args: &BenchArgs, loads: &BTreeSet<Load>) -> anyhow::Result<Turn> {
    let mut turn = Turn::default();
    for load in loads {
        let plan = load.plan();
        eprintln!("  {}", plan.name);
        let measured = measure(args, &plan, &turn).await;
        turn.0.insert(*load, measured.with_context(|| format!("load `{}`", plan.name))?);
    }
    Ok(turn)
}
