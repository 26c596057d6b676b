//! `atoll restore`: data directories from a backup.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use atoll_commit::Owner;
use atoll_state::TreeConfig;
use atoll_store::{FileLog, Item, LogOptions, Snapshot, Snapshots, StoreError, read_snapshot};
use atoll_types::{U256, encode};

use super::{File, MANIFEST, Manifest, is_empty, names, path_of, take::check_file};
use crate::{check::books, config, genesis::Genesis, storage, up};

/// Makes a data directory from a backup.
#[derive(Clone, Debug, clap::Args)]
pub struct RestoreArgs {
    /// Directory of the backup
    pub backup: PathBuf,
    /// The data directory: not there, or empty
    #[arg(long)]
    pub data: PathBuf,
    /// Restore this part alone, for the process that holds it: `beacon`, or `shard-` and a number;
    /// several times for several. All parts of a cluster have to be restored, from the same backup
    #[arg(long, value_name = "PART")]
    pub only: Vec<String>,
}

/// What a backup holds besides the entries.
struct States {
    beacon: atoll_beacon::Rest,
    shards: Vec<atoll_state::Rest>,
}

/// Restores a backup, after everything in it has been checked.
pub fn restore(args: &RestoreArgs) -> anyhow::Result<()> {
    let (backup, data) = (&args.backup, &args.data);
    ensure!(is_empty(data)?, "{} is not empty; give another directory", data.display());
    let manifest = Manifest::read(backup)?;
    let known: Vec<String> = names(&manifest.chain).collect();
    if let Some(part) = args.only.iter().find(|part| !known.contains(part)) {
        bail!("this backup has no part {part}; it has {}", known.join(", "));
    }
    for file in &manifest.files {
        check_file(backup, file)?;
    }
    let states = read(backup, &manifest)?;
    fs::create_dir_all(data).with_context(|| format!("cannot make {}", data.display()))?;
    let wanted = |file: &&File| args.only.is_empty() || args.only.contains(&file.name);
    for (at, file) in manifest.files.iter().enumerate().filter(|(_, file)| wanted(file)) {
        let rest = match at {
            0 => encode(&states.beacon),
            shard => encode(&states.shards[shard - 1]),
        };
        write(&path_of(backup, &file.name), &data.join(&file.name), file.number, &rest)
            .with_context(|| format!("cannot restore {} in {}", file.name, data.display()))?;
    }
    if args.only.is_empty() {
        // Last: without it `up` does not take the directory for one of its own.
        up::write_chain(data, &manifest.chain)?;
    }
    println!(
        "restored {} at cut {} in {}",
        if args.only.is_empty() { "everything".to_owned() } else { args.only.join(", ") },
        manifest.cut,
        data.display()
    );
    Ok(())
}

/// Reads all states, makes them one state of the cluster, and checks that it can be one.
fn read(backup: &Path, manifest: &Manifest) -> anyhow::Result<States> {
    let genesis = Genesis::new(&manifest.chain)?;
    let (first, rest) = manifest.files.split_first().context("an empty backup")?;
    let snapshot = |file: &File| Snapshot {
        number: file.number,
        path: path_of(backup, &file.name),
        bytes: file.bytes,
    };
    let beacon: atoll_beacon::Rest =
        atoll_journal::read_rest(&snapshot(first), &mut |_, _| Ok(()))?;
    ensure!(
        beacon.genesis == atoll_beacon::genesis_of(&genesis.planner),
        "the beacon's snapshot is of another chain than {MANIFEST} says"
    );
    let mut shards = Vec::new();
    let mut balances = U256::ZERO;
    for (file, id) in rest.iter().zip(0..) {
        let mut add = |key: &[u8], value: &[u8]| {
            balances += atoll_state::entry_balance(key, value).unwrap_or_default();
            Ok(())
        };
        let shard: atoll_state::Rest = atoll_journal::read_rest(&snapshot(file), &mut add)?;
        let config = genesis.core_config(&manifest.chain, id, 0, TreeConfig::default());
        ensure!(
            shard.genesis == atoll_state::genesis_of(&config),
            "the snapshot of {} is of another chain than {MANIFEST} says",
            file.name
        );
        shards.push(shard);
    }
    let mut owners: Vec<Owner> = shards.iter().map(|shard| shard.owner.clone()).collect();
    Owner::reconcile(&mut owners)?;
    let head = beacon.planner.head();
    for owner in &owners {
        ensure!(
            (owner.cut_number(), owner.beacon()) == (head.number(), head.hash()),
            "shard {} stands at cut {}, the beacon at another block {}",
            owner.shard(),
            owner.cut_number(),
            head.number()
        );
    }
    ensure!(head.number() == manifest.cut, "the files are not of cut {}", manifest.cut);
    books(&owners, balances, genesis.supply()).map_err(anyhow::Error::msg)?;
    for (shard, owner) in shards.iter_mut().zip(owners) {
        shard.owner = owner;
    }
    Ok(States { beacon, shards })
}

/// Writes a snapshot with another rest, and the log that goes on behind it.
fn write(from: &Path, dir: &Path, number: u64, rest: &[u8]) -> anyhow::Result<()> {
    let snapshots = Snapshots::open(&dir.join("snapshots"))?;
    let mut writer = snapshots.begin(number)?;
    writer.meta(rest)?;
    read_snapshot(from, &mut |item| -> Result<(), StoreError> {
        match item {
            Item::Meta(_) => Ok(()),
            Item::Entry(key, value) => writer.entry(key, value),
        }
    })?;
    writer.finish()?;
    writer.publish()?;
    let options = storage::log_options(&config::Storage::default());
    FileLog::open(&dir.join("log"), LogOptions { first: number, ..options })?;
    Ok(())
}
