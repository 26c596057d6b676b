//! `chaos`: breaks a cluster of processes for a while, and says what its clients saw.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context as _;
use atoll_chaos::{
    faults::{Fault, Lengths},
    run::{Options, Report, run},
};
use clap::Parser;

/// Breaks a cluster of real processes on purpose, and checks what its clients saw.
#[derive(Parser)]
struct Arguments {
    /// For how long
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// What is broken when, and what clients do, follows from it; how fast processes are does not
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long, value_delimiter = ',', default_value = "kill,stop,disk,net")]
    faults: Vec<Fault>,
    /// Clients at a time
    #[arg(long, default_value_t = 8)]
    clients: u32,
    /// Longest pause of a client between two things, in milliseconds
    #[arg(long, default_value_t = 100)]
    think_ms: u64,
    /// Longest time for which a process is stopped, in seconds
    #[arg(long, default_value_t = 30)]
    stop_seconds: u64,
    /// Longest time of everything else, in seconds
    #[arg(long, default_value_t = 12)]
    episode_seconds: u64,
    /// The binary; else the one beside this one
    #[arg(long)]
    atoll: Option<PathBuf>,
    /// Where the history and the logs go if anything is wrong
    #[arg(long, default_value = "chaos-failure")]
    keep: PathBuf,
}

impl Arguments {
    fn options(self) -> anyhow::Result<Options> {
        let beside = || anyhow::Ok(std::env::current_exe()?.with_file_name("atoll"));
        let atoll = self.atoll.map_or_else(beside, Ok)?;
        atoll.metadata().with_context(|| format!("build {} first", atoll.display()))?;
        Ok(Options {
            atoll,
            seed: self.seed,
            length: Duration::from_secs_f64(self.minutes * 60.0),
            faults: self.faults,
            clients: self.clients,
            think: Duration::from_millis(self.think_ms),
            lengths: Lengths {
                episode: Duration::from_secs(self.episode_seconds.max(1)),
                stop: Duration::from_secs(self.stop_seconds.max(1)),
            },
            keep: Some(self.keep),
        })
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let (seed, options) = {
        let arguments = Arguments::parse();
        (arguments.seed, arguments.options())
    };
    println!("seed             {seed}");
    let report = match options {
        Ok(options) => run(&options).await,
        Err(error) => Err(error),
    };
    match report {
        Ok(report) => {
            print(&report);
            if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("error: {error:?}");
            ExitCode::FAILURE
        }
    }
}

fn print(report: &Report) {
    let history = &report.history;
    println!("{}", report.tally);
    let sent = history.ops.iter().filter(|op| op.tx.is_some()).count();
    let reads = history.ops.len() - sent;
    println!("transactions     {sent}, acknowledged {}", history.acknowledged());
    println!("reads            {reads}");
    let longest = report.recoveries.iter().max().copied().unwrap_or_default();
    println!("recoveries       {}, the longest {longest:?}", report.recoveries.len());
    println!("violations       {}", report.violations.len());
    for violation in &report.violations {
        println!("{violation}");
    }
}
