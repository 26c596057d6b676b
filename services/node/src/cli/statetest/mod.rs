//! `atoll statetest`: runs Ethereum's state tests through this project's executor, on one shard or
//! across many.
//!
//! The format is that of the filled `GeneralStateTests` of ethereum/tests and of the `state_tests`
//! of execution-spec-tests: an environment, a state, a transaction in variants, and for each fork
//! what has to come out. Each case is one line of JSON on standard output.

mod case;
mod read;
mod transaction;
mod world;

#[cfg(test)]
mod tests;

use std::{
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use atoll_evm::{Parallelism, Policy};
use clap::{Args, ValueEnum};
use serde_json::Value;

use case::Case;
pub use case::Line;

use crate::place::{helpers, stopwatch};

/// What `atoll statetest` can be told.
#[derive(Args, Clone, Debug)]
pub struct StatetestArgs {
    /// JSON files, or folders that hold them
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// What runs the transactions
    #[arg(long, value_enum, default_value_t = Kind::Sequential)]
    pub executor: Kind,

    /// Spread the accounts over this many shards and go through the cross-shard protocol
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub shards: u16,

    /// Only cases of this fork, such as Cancun
    #[arg(long, value_name = "NAME")]
    pub fork: Option<String>,
}

/// An executor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// One transaction after another
    Sequential,
    /// Many at a time
    Parallel,
}

/// How many cases ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    passed: usize,
    failed: usize,
    unreadable: usize,
}

/// Runs every case and prints its line. An error if any fails, or if a file cannot be read.
pub fn run(args: &StatetestArgs) -> anyhow::Result<()> {
    let lanes = lanes(args.executor)?;
    let mut count = Count::default();
    let mut output = BufWriter::new(std::io::stdout().lock());
    for path in &args.files {
        for file in files(path) {
            match file.and_then(|file| read(&file)) {
                Ok(tests) => {
                    for (name, test) in &tests {
                        each(args, lanes.as_ref(), name, test, &mut |line| {
                            let counted =
                                if line.pass { &mut count.passed } else { &mut count.failed };
                            *counted += 1;
                            serde_json::to_writer(&mut output, &line)?;
                            output.write_all(b"\n")
                        })?;
                    }
                    output.flush()?;
                }
                Err(error) => {
                    count.unreadable += 1;
                    eprintln!("error: {error:#}");
                }
            }
        }
    }
    output.flush()?;
    let Count { passed, failed, unreadable } = count;
    match (failed, unreadable) {
        (0, 0) if passed == 0 => bail!("no case{}", of(args.fork.as_deref())),
        (0, 0) => Ok(()),
        (failed, 0) => bail!("{failed} of {} cases fail", passed + failed),
        (failed, files) => {
            bail!("{failed} of {} cases fail, {files} files cannot be read", passed + failed)
        }
    }
}

/// What runs transactions, if not one thread. No transaction then runs any other way, however cheap it
/// is.
fn lanes(kind: Kind) -> anyhow::Result<Option<Parallelism>> {
    /// So that threads of the executor meet, whatever the machine has.
    const THREADS: usize = 3;
    if kind == Kind::Sequential {
        return Ok(None);
    }
    let helpers = helpers(THREADS)?;
    Ok(Some(Parallelism::with_policy(helpers, stopwatch(), Policy::Always)))
}

fn of(fork: Option<&str>) -> String {
    fork.map(|fork| format!(" of fork {fork}")).unwrap_or_default()
}

/// The cases of one test.
fn each(
    args: &StatetestArgs,
    lanes: Option<&Parallelism>,
    name: &str,
    test: &Value,
    report: &mut dyn FnMut(Line) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let Some(forks) = test["post"].as_object() else {
        return report(Line::broken(name, "", "it is no state test: `post` is no object"));
    };
    for (fork, posts) in forks {
        let wanted = |wanted: &str| {
            let same = wanted.eq_ignore_ascii_case(fork);
            same || world::fork(wanted).is_some_and(|w| world::fork(fork) == Some(w))
        };
        if !args.fork.as_deref().is_none_or(wanted) {
            continue;
        }
        let Some(posts) = posts.as_array() else {
            report(Line::broken(name, fork, "`post` of the fork is no list"))?;
            continue;
        };
        for post in posts {
            report(Case { name, fork, test, post }.run(args.shards, lanes))?;
        }
    }
    Ok(())
}

/// The files that a path means: itself, or what a folder holds that ends in `.json`, in order.
fn files(path: &Path) -> Vec<anyhow::Result<PathBuf>> {
    if !path.is_dir() {
        return vec![Ok(path.to_owned())];
    }
    let listed = || -> std::io::Result<Vec<PathBuf>> {
        let mut found = std::fs::read_dir(path)?
            .map(|entry| Ok(entry?.path()))
            .collect::<std::io::Result<Vec<_>>>()?;
        found.sort();
        Ok(found)
    };
    let found = match listed() {
        Ok(found) => found,
        Err(error) => {
            let error = anyhow::Error::new(error);
            return vec![Err(error.context(format!("cannot read {}", path.display())))];
        }
    };
    let wanted = |path: &PathBuf| path.is_dir() || path.extension().is_some_and(|e| e == "json");
    found.iter().filter(|path| wanted(path)).flat_map(|path| files(path)).collect()
}

fn read(path: &Path) -> anyhow::Result<serde_json::Map<String, Value>> {
    let what = || format!("cannot read {}", path.display());
    let text = std::fs::read(path).with_context(what)?;
    match serde_json::from_slice(&text).with_context(what)? {
        Value::Object(tests) => Ok(tests),
        _ => bail!("cannot read {}: it is no object of tests", path.display()),
    }
}
