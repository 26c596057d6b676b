//! `cargo run --release -p sim -- --seeds N`: runs of many seeds, and what went wrong in them.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    process::ExitCode,
    sync::Mutex,
    time::Duration,
};

use clap::Parser as _;
use sim::{
    faults::Counts,
    planted::Planted,
    run::{Options, Report, run},
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
    /// How long what was begun may take once all is whole, in seconds of the simulated clock.
    #[arg(long, default_value_t = 300)]
    patience: u64,
    /// Accounts that send transactions.
    #[arg(long, default_value_t = 6)]
    accounts: usize,
    /// Runs at a time, each on a thread of its own.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Break things in one way only: a kind of fault as in the sums at the end.
    #[arg(long)]
    only: Option<String>,
    /// Put a bug into the cluster, to see that it is found; `all`: one after the other, each until it
    /// is, in so many seeds at the most. Those of the protocol need `--features planted`, which no release is built with.
    #[arg(long)]
    planted: Option<String>,
}

impl Arguments {
    fn options(&self, seed: u64, planted: Option<Planted>) -> Options {
        Options {
            chaos: Duration::from_secs(self.chaos),
            patience: Duration::from_secs(self.patience),
            accounts: self.accounts,
            only: self.only.clone(),
            planted,
            ..Options::new(seed)
        }
    }

    /// The command that carries out one run again.
    fn command(&self, seed: u64, planted: Option<Planted>) -> String {
        let Self { chaos, accounts, patience, .. } = self;
        let only = self.only.as_ref().map_or(String::new(), |kind| format!(" --only {kind}"));
        let build = if planted.is_some() { "--features planted" } else { "--release" };
        let planted = planted.map_or(String::new(), |bug| format!(" --planted {bug}"));
        format!(
            "cargo run {build} -p sim -- --seeds 1 --from {seed} --chaos {chaos} --accounts \
             {accounts} --patience {patience}{only}{planted}"
        )
    }

    fn show(&self, report: &Report, planted: Option<Planted>) {
        let Report { seed, layout, time, faults, acknowledged, violations, trace, .. } = report;
        let split = layout.split.map_or(String::new(), |shard| format!(" ({shard} is split)"));
        let shards = layout.shards;
        let (events, digest) = trace;
        println!(
            "seed {seed}: {shards} shards{split}, {:.1} s, {acknowledged} acknowledged, faults: {faults}; \
             {events} events, digest {digest}",
            time.as_secs_f64()
        );
        for violation in violations {
            println!("  VIOLATION {violation}");
        }
        if !violations.is_empty() {
            println!("  again: {}", self.command(*seed, planted));
        }
    }
}

fn main() -> ExitCode {
    atoll_tests::log();
    let arguments = Arguments::parse();
    let bug = match arguments.planted.as_deref() {
        None => None,
        Some("all") => return all_bugs(&arguments),
        Some(name) => match name.parse() {
            Ok(bug) => Some(bug),
            Err(error) => {
                eprintln!("{error}");
                return ExitCode::FAILURE;
            }
        },
    };
    let sums = runs(&arguments, bug, false);
    println!("{sums}");
    if sums.bad.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Plants one bug after the other. Fails if one is not found, or if there is one that nobody planted.
fn all_bugs(arguments: &Arguments) -> ExitCode {
    let mut table = Vec::new();
    for bug in [None].into_iter().chain(Planted::all().into_iter().map(Some)) {
        let sums = runs(arguments, bug, bug.is_some());
        let name = bug.map_or("none".to_owned(), |bug| bug.to_string());
        let kinds: Vec<&str> = sums.kinds.keys().map(String::as_str).collect();
        let found = match sums.bad.iter().min() {
            Some(seed) => format!("seed {seed}, run {}", seed - arguments.from + 1),
            None => format!("not in {} runs", sums.runs),
        };
        println!("| {name} | {found} | {} |", kinds.join(", "));
        table.push(sums.bad.is_empty() == bug.is_none());
    }
    if table.iter().all(|good| *good) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// All seeds, or those up to the first that shows a bug.
fn runs(arguments: &Arguments, bug: Option<Planted>, until_found: bool) -> Sums {
    let seeds: VecDeque<u64> = (arguments.from..arguments.from + arguments.seeds).collect();
    let (seeds, sums) = (Mutex::new(seeds), Mutex::new(Sums::default()));
    std::thread::scope(|scope| {
        for _ in 0..arguments.threads.max(1) {
            scope.spawn(|| {
                while let Some(seed) = seeds.lock().ok().and_then(|mut seeds| seeds.pop_front()) {
                    let ran = run(&arguments.options(seed, bug));
                    let Ok(mut sums) = sums.lock() else { return };
                    match ran {
                        Ok(report) => {
                            arguments.show(&report, bug);
                            sums.add(&report);
                        }
                        Err(error) => {
                            println!("seed {seed}: the simulation does not work: {error:#}");
                            println!("  again: {}", arguments.command(seed, bug));
                            sums.bad.push(seed);
                        }
                    }
                    if until_found
                        && !sums.bad.is_empty()
                        && let Ok(mut seeds) = seeds.lock()
                    {
                        seeds.clear();
                    }
                }
            });
        }
    });
    sums.into_inner().unwrap_or_default()
}

/// All runs together.
#[derive(Default)]
struct Sums {
    runs: u64,
    time: Duration,
    faults: Counts,
    compared: Counts,
    acknowledged: u64,
    cuts_read: u64,
    bad: Vec<u64>,
    /// Seeds for each property that was violated.
    kinds: BTreeMap<String, u64>,
}

impl Sums {
    fn add(&mut self, report: &Report) {
        self.runs += 1;
        self.time += report.time;
        self.faults.merge(&report.faults);
        self.compared.merge(&report.compared);
        self.acknowledged += report.acknowledged;
        self.cuts_read += report.cuts_read;
        let kind = |violation: &String| violation.split(':').next().unwrap_or_default().to_owned();
        let kinds: BTreeSet<String> = report.violations.iter().map(kind).collect();
        for kind in kinds {
            *self.kinds.entry(kind).or_default() += 1;
        }
        if !report.violations.is_empty() {
            self.bad.push(report.seed);
        }
    }
}

impl std::fmt::Display for Sums {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "{} runs, {:.2} virtual hours, {} acknowledged, books read at {} cuts",
            self.runs,
            self.time.as_secs_f64() / 3_600.0,
            self.acknowledged,
            self.cuts_read
        )?;
        writeln!(f, "faults: {}", self.faults)?;
        writeln!(f, "compared with one machine: {}", self.compared)?;
        match self.bad.as_slice() {
            [] => f.write_str("no violations"),
            bad => write!(f, "{} seeds with violations: {bad:?}", bad.len()),
        }
    }
}
