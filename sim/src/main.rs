//! `cargo run --release -p sim -- --seeds N`: runs of many seeds, and what went wrong in them.

use std::{collections::VecDeque, process::ExitCode, sync::Mutex, time::Duration};

use clap::Parser as _;
use sim::{
    faults::Counts,
    run::{Options, Planted, Report, run},
};

/// Runs the real services in a simulated world, and breaks it.
#[derive(Debug, clap::Parser)]
struct Arguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 10)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// How long things break in each run, in seconds of the simulated clock.
    #[arg(long, default_value_t = 30)]
    chaos: u64,
    /// Accounts that send transactions.
    #[arg(long, default_value_t = 6)]
    accounts: usize,
    /// Runs at a time, each on a thread of its own.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Put a bug into the disks, to see that it is found: `no-sync` or `late-log`.
    #[arg(long)]
    planted: Option<Planted>,
}

impl Arguments {
    fn options(&self, seed: u64) -> Options {
        Options {
            chaos: Duration::from_secs(self.chaos),
            accounts: self.accounts,
            planted: self.planted,
            ..Options::new(seed)
        }
    }

    /// The command that carries out one run again.
    fn command(&self, seed: u64) -> String {
        let Self { chaos, accounts, .. } = self;
        let planted = self.planted.map_or(String::new(), |bug| format!(" --planted {bug}"));
        format!(
            "cargo run --release -p sim -- --seeds 1 --from {seed} --chaos {chaos} --accounts \
             {accounts}{planted}"
        )
    }

    fn show(&self, report: &Report) {
        let Report { seed, shards, time, faults, acknowledged, violations, trace } = report;
        let (events, digest) = trace;
        println!(
            "seed {seed}: {shards} shards, {:.1} s, {acknowledged} acknowledged, faults: {faults}; \
             {events} events, digest {digest}",
            time.as_secs_f64()
        );
        for violation in violations {
            println!("  VIOLATION {violation}");
        }
        if !violations.is_empty() {
            println!("  again: {}", self.command(*seed));
        }
    }
}

fn main() -> ExitCode {
    atoll_tests::log();
    let arguments = Arguments::parse();
    let seeds: VecDeque<u64> = (arguments.from..arguments.from + arguments.seeds).collect();
    let (seeds, sums) = (Mutex::new(seeds), Mutex::new(Sums::default()));
    std::thread::scope(|scope| {
        for _ in 0..arguments.threads.max(1) {
            scope.spawn(|| {
                while let Some(seed) = seeds.lock().ok().and_then(|mut seeds| seeds.pop_front()) {
                    let ran = run(&arguments.options(seed));
                    let Ok(mut sums) = sums.lock() else { return };
                    match ran {
                        Ok(report) => {
                            arguments.show(&report);
                            sums.add(&report);
                        }
                        Err(error) => {
                            println!("seed {seed}: the simulation does not work: {error:#}");
                            println!("  again: {}", arguments.command(seed));
                            sums.bad.push(seed);
                        }
                    }
                }
            });
        }
    });
    let sums = sums.into_inner().unwrap_or_default();
    println!("{sums}");
    if sums.bad.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// All runs together.
#[derive(Default)]
struct Sums {
    runs: u64,
    time: Duration,
    faults: Counts,
    acknowledged: u64,
    bad: Vec<u64>,
}

impl Sums {
    fn add(&mut self, report: &Report) {
        self.runs += 1;
        self.time += report.time;
        self.faults.merge(&report.faults);
        self.acknowledged += report.acknowledged;
        if !report.violations.is_empty() {
            self.bad.push(report.seed);
        }
    }
}

impl std::fmt::Display for Sums {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "{} runs, {:.2} virtual hours, {} acknowledged",
            self.runs,
            self.time.as_secs_f64() / 3_600.0,
            self.acknowledged
        )?;
        writeln!(f, "faults: {}", self.faults)?;
        match self.bad.as_slice() {
            [] => f.write_str("no violations"),
            bad => write!(f, "{} seeds with violations: {bad:?}", bad.len()),
        }
    }
}
