//! `atoll check`: whether a data directory is whole, without changing it.

mod part;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use atoll_commit::Owner;
use atoll_types::{B256, U256};
use serde::Serialize;

pub use self::part::{Finding, Part};

use crate::{
    config::{Chain, Config},
    genesis::Genesis,
    up,
};

/// Reads a data directory and says whether it is whole. The process that uses it has to be stopped.
#[derive(Clone, Debug, clap::Args)]
pub struct CheckArgs {
    /// A data directory, or the directory of one shard's state or of the beacon in it
    pub dir: PathBuf,
    /// The configuration of the process, for what the chain began with; a directory of `atoll up`
    /// has that itself
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// What was found.
#[derive(Serialize)]
pub struct Report {
    pub dir: PathBuf,
    pub whole: bool,
    pub parts: Vec<Part>,
    /// About all parts together.
    pub together: Vec<Finding>,
}

/// Checks a directory and prints what was found. Fails if it is not whole.
pub fn check(args: &CheckArgs) -> anyhow::Result<()> {
    let chain = match &args.config {
        Some(path) => Some(Config::load(path, std::env::vars(), &[])?.chain),
        None => up::read_chain(&args.dir).or_else(|_| up::read_chain(&args.dir.join("..")))?,
    };
    let report = inspect(&args.dir, chain.as_ref())?;
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        report.print();
    }
    if !report.whole {
        bail!("{} is not whole", args.dir.display());
    }
    Ok(())
}

/// Checks a directory.
pub fn inspect(dir: &Path, chain: Option<&Chain>) -> anyhow::Result<Report> {
    let genesis = chain.map(Genesis::new).transpose()?;
    let known = chain.zip(genesis.as_ref());
    let mut parts = Vec::new();
    for path in parts_of(dir)? {
        parts.push(Part::inspect(&path, known)?);
    }
    let together = match known {
        Some((chain, genesis)) => together(&parts, chain, genesis),
        None => Vec::new(),
    };
    let whole = parts.iter().flat_map(|part| &part.findings).chain(&together).all(|f| f.whole);
    Ok(Report { dir: dir.to_owned(), whole, parts, together })
}

/// Directories of a state or a beacon.
fn parts_of(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if dir.join("log").is_dir() || dir.join("snapshots").is_dir() {
        return Ok(vec![dir.canonicalize()?]);
    }
    let entries =
        std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let is_part = part::shard_of(&path).is_some() || path.ends_with("beacon");
        if is_part && path.is_dir() {
            found.push(path);
        }
    }
    if found.is_empty() {
        bail!("{} has no log, and neither a beacon nor a shard in it", dir.display());
    }
    found.sort();
    Ok(found)
}

/// What has to hold between the parts of a cluster that lie together.
fn together(parts: &[Part], chain: &Chain, genesis: &Genesis) -> Vec<Finding> {
    let beacon = parts.iter().find_map(|part| part.blocks.as_ref());
    let owners: Vec<Owner> = parts.iter().filter_map(|part| part.owner.clone()).collect();
    let mut findings = Vec::new();
    for owner in beacon.iter().flat_map(|_| &owners) {
        let (shard, cut) = (owner.shard(), owner.cut_number());
        let block = beacon.and_then(|blocks| blocks(cut));
        let follows = block == Some(owner.beacon());
        let text = match (follows, block) {
            (true, _) => format!("shard {shard} has followed this beacon, up to cut {cut}"),
            (false, None) => format!("shard {shard} has passed cut {cut}, which this beacon lacks"),
            (false, Some(_)) => format!("shard {shard} has followed another beacon at cut {cut}"),
        };
        findings.push(Finding { what: "chain".into(), whole: follows, text });
    }
    let cuts = || owners.iter().map(Owner::cut_number);
    if owners.len() == usize::from(chain.shards) && cuts().min() == cuts().max() {
        let mut owners = owners;
        owners.sort_by_key(Owner::shard);
        let balances = parts.iter().filter_map(|part| part.balances).sum();
        let one = Owner::reconcile(&mut owners).map_err(|error| error.to_string());
        let held = one.and_then(|()| books(&owners, balances, genesis.supply()));
        let whole = held.is_ok();
        let text = held.err().unwrap_or_else(|| "all wei of the genesis are accounted for".into());
        findings.push(Finding { what: "supply".into(), whole, text });
    }
    findings
}

/// Whether all wei are there, at one cut of all shards: `conservation`.
pub(crate) fn books(owners: &[Owner], balances: U256, supply: U256) -> Result<(), String> {
    let mut sum = balances;
    for owner in owners {
        sum += owner.fees() + owner.burned() + owner.held_credits();
        for other in owners {
            let heard = other.received(owner.shard());
            sum += owner.credits_after(other.shard(), heard).map(|c| c.amount).sum::<U256>();
        }
    }
    if sum == supply {
        return Ok(());
    }
    Err(format!("balances, fees and payments under way make {sum} wei, the genesis had {supply}"))
}

impl Report {
    fn print(&self) {
        let mark = |finding: &Finding| if finding.whole { "ok " } else { "BAD" };
        for part in &self.parts {
            println!("{}", part.dir.display());
            for finding in &part.findings {
                println!("  {} {:<10} {}", mark(finding), finding.what, finding.text);
            }
        }
        for finding in &self.together {
            println!("{} {:<12} {}", mark(finding), finding.what, finding.text);
        }
        println!("{}", if self.whole { "whole" } else { "NOT whole" });
    }
}

/// The hash of a block of the beacon.
pub(crate) type BlockHash = Box<dyn Fn(u64) -> Option<B256>>;
