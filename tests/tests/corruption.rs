//! What a start and a check make of a real data directory that the disk has damaged: bits that flip,
//! sectors that read as zeros, ends that are missing. Nothing may pass for what it is not.
//!
//! `ATOLL_DAMAGES=N` tries N places of each file in each way, `ATOLL_SEED` draws other ones.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use alloy_primitives::{Address, U256};
use alloy_sol_types::SolCall as _;
use anyhow::{Context as _, ensure};
use atoll::{
    check::inspect,
    config::{Chain, IndexKind, Storage},
    genesis::Genesis,
};
use atoll_state::TreeConfig;
use atoll_store::{Backend, Entries, FileLog, Index, Log as _, LogOptions, Snapshots, StoreError};
use atoll_tests::{
    contracts::{Hop, hop},
    here::{Here, Shape},
    wallet::{Plan, Wallet},
};
use atoll_types::encode;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

const SECTOR: usize = 512;
const CACHE_BYTES: u64 = 4 << 20;
const SEGMENT_BYTES: u64 = 16 << 10;

/// What a part has made of its files: where it stands, and every entry of its index.
#[derive(PartialEq)]
struct Picture {
    stands: Vec<u8>,
    entries: Entries,
}

/// How a start has ended.
enum Start {
    Refused(String),
    /// With the number of the log's next record, and whether it was told that an end was cut off.
    Up(Picture, u64, bool),
}

/// Opens a part as its process does.
fn start(dir: &Path, chain: &Chain, backend: Backend) -> Start {
    match opened(dir, chain, backend) {
        Ok((picture, next, cut)) => Start::Up(picture, next, cut),
        Err(error) => Start::Refused(format!("{error:#}")),
    }
}

fn opened(dir: &Path, chain: &Chain, backend: Backend) -> anyhow::Result<(Picture, u64, bool)> {
    let options = LogOptions { segment_bytes: SEGMENT_BYTES, ..LogOptions::default() };
    let mut log = FileLog::open(&dir.join("log"), options)?;
    let cut = log.opened().cut.is_some();
    let index = match backend.open(&dir.join("index"), CACHE_BYTES) {
        Err(StoreError::Corrupt { .. }) => backend.open_empty(&dir.join("index"), CACHE_BYTES),
        other => other,
    }?;
    let snapshots = Snapshots::open(&dir.join("snapshots"))?;
    let genesis = Genesis::new(chain)?;
    let stands = match dir.ends_with("beacon") {
        true => {
            let config = genesis.planner;
            let core = atoll_beacon::Core::open(config, &mut log, index.clone(), Some(&snapshots))?;
            encode(&core.planner().head().hash())
        }
        false => {
            let name = dir.file_name().and_then(|name| name.to_str()).context("a name")?;
            let id = name.strip_prefix("shard-").context("a shard")?.parse()?;
            let config = genesis.core_config(chain, id, 1_000, TreeConfig::default());
            let core = atoll_state::Core::open(&config, &mut log, index.clone(), Some(&snapshots))?;
            let tip = core.tip();
            let mut owner = core.owner().clone();
            owner.limit_shared(0);
            encode(&(tip.head, tip.cut, tip.digest, owner))
        }
    };
    let entries = all(&*index)?;
    Ok((Picture { stands, entries }, log.next(), cut))
}

fn all(index: &dyn Index) -> Result<Entries, StoreError> {
    let mut entries = Vec::new();
    index.scan_prefix(&[], &mut |key, value| entries.push((key.to_vec(), value.to_vec())))?;
    Ok(entries)
}

/// A cluster of two shards that has done a bit of everything, stopped cleanly.
async fn cluster(index: IndexKind) -> anyhow::Result<(tempfile::TempDir, Chain)> {
    let mut wallets: Vec<_> =
        (0..4).map(|n| Wallet::seeded("damage", 0, n)).collect::<anyhow::Result<_>>()?;
    let contract = wallets[0].address().create(0);
    let storage = Storage {
        index,
        snapshot_cuts: 8,
        snapshot_log_bytes: 0,
        segment_bytes: SEGMENT_BYTES,
        reserve_bytes: 0,
        min_free_bytes: 0,
        ..Storage::default()
    };
    let mut shape = Shape { storage, ..Shape::new(2) };
    for (wallet, shard) in wallets.iter().zip([0, 1, 0, 1]) {
        shape.balances.insert(wallet.address(), U256::from(10).pow(U256::from(20)));
        shape.placement.insert(wallet.address(), shard);
    }
    shape.placement.insert(contract, 0);
    let mut here = Here::start(&shape).await?;
    let deployment = wallets[0].sign(&Plan::create(hop(Address::ZERO)?))?;
    here.api.carry_out(&[deployment]).await?;
    for round in 0..8 {
        let mut txs = Vec::new();
        for from in 0..wallets.len() {
            let to = wallets[(from + 1 + round) % 4].address();
            txs.push(wallets[from].sign(&Plan::pay(to, 7))?);
            let call = Hop::hopCall { amount: U256::ONE, failAtEnd: false }.abi_encode();
            txs.push(wallets[from].sign(&Plan::call(contract, call))?);
        }
        here.api.carry_out(&txs).await?;
    }
    // A stop while something is being synced leaves no marker.
    for _ in 0..20 {
        let config = here.config.clone();
        let data = here.stop().await;
        let marker = |part| data.path().join(part).join("index/clean");
        if ["beacon", "shard-0", "shard-1"].map(marker).iter().all(|path| path.exists()) {
            return Ok((data, config.chain));
        }
        here = Here::open(config, data).await?;
    }
    anyhow::bail!("no stop has left every marker")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Flip,
    Zeros,
    Truncation,
}

/// Damages a file somewhere. False if that changes nothing.
fn damage(path: &Path, kind: Kind, rng: &mut StdRng) -> anyhow::Result<Option<usize>> {
    let whole = fs::read(path)?;
    let mut bytes = whole.clone();
    if bytes.is_empty() {
        return Ok(None);
    }
    let at = rng.random_range(0..bytes.len());
    match kind {
        Kind::Flip => bytes[at] ^= 1 << rng.random_range(0..8),
        Kind::Zeros => {
            let from = at / SECTOR * SECTOR;
            let to = (from + SECTOR).min(bytes.len());
            bytes[from..to].fill(0);
        }
        Kind::Truncation => bytes.truncate(at),
    }
    if bytes == whole {
        return Ok(None);
    }
    fs::write(path, bytes)?;
    Ok(Some(at))
}

/// Files of a part, and what each is.
fn files(part: &Path) -> anyhow::Result<Vec<(&'static str, PathBuf)>> {
    let mut files = Vec::new();
    for (what, below) in [("log", "log"), ("snapshot", "snapshots"), ("index", "index")] {
        let mut dirs = vec![part.join(below)];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir)? {
                let path = entry?.path();
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                match path.is_dir() {
                    true => dirs.push(path),
                    false if name == "lock" || name == "reserve" => {}
                    false => files.push((what, path)),
                }
            }
        }
    }
    if part.join("tree").exists() {
        files.push(("tree", part.join("tree")));
    }
    files.sort();
    Ok(files)
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy(&entry.path(), &target)?,
            false => drop(fs::copy(entry.path(), target)?),
        }
    }
    Ok(())
}

/// Counts by file, kind of damage and end.
type Counts = BTreeMap<(&'static str, Kind, &'static str), u64>;

struct Sweep<'a> {
    part: &'a Path,
    chain: &'a Chain,
    backend: Backend,
    /// What the part has made of its files while they were whole.
    whole: Picture,
    next: u64,
    scratch: tempfile::TempDir,
}

impl<'a> Sweep<'a> {
    fn new(part: &'a Path, chain: &'a Chain, backend: Backend) -> anyhow::Result<Self> {
        let scratch = tempfile::tempdir()?;
        let dir = scratch.path().join(part.file_name().context("a name")?);
        copy(part, &dir)?;
        ensure!(inspect(&dir, Some(chain))?.whole, "it is not whole to begin with");
        let Start::Up(whole, next, false) = start(&dir, chain, backend) else {
            anyhow::bail!("it does not start while it is whole");
        };
        Ok(Self { part, chain, backend, whole, next, scratch })
    }

    /// Damages a copy, after a clean stop or a crash; what a check and a start say of it.
    fn one(
        &self,
        file: &Path,
        kind: Kind,
        clean: bool,
        rng: &mut StdRng,
    ) -> anyhow::Result<Option<&'static str>> {
        let dir = self.scratch.path().join(self.part.file_name().context("a name")?);
        fs::remove_dir_all(&dir).context("the copy before")?;
        copy(self.part, &dir)?;
        let within = file.strip_prefix(self.part)?;
        if !clean {
            fs::remove_file(dir.join("index/clean"))?;
        }
        if !dir.join(within).exists() {
            return Ok(None);
        }
        let Some(at) = damage(&dir.join(within), kind, rng)? else { return Ok(None) };
        let what = || format!("{kind:?} at byte {at} of {}, clean: {clean}", file.display());
        let noticed = !inspect(&dir, Some(self.chain)).with_context(what)?.whole;
        Ok(Some(match start(&dir, self.chain, self.backend) {
            Start::Refused(error) => {
                ensure!(noticed, "{}: refused, and the check says nothing: {error}", what());
                "refused"
            }
            Start::Up(picture, _, _) if picture == self.whole => match noticed {
                true => "repaired, check names it",
                false => "no harm",
            },
            // After a crash, the end of the log may be what the crash has torn.
            Start::Up(_, next, cut) => {
                ensure!(!clean && next < self.next, "{}: a wrong state, and no word", what());
                if cut { "cut off as torn, said" } else { "end of the log gone" }
            }
        }))
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

async fn sweep(index: IndexKind, backend: Backend) -> anyhow::Result<()> {
    let (times, seed) = (number("ATOLL_DAMAGES", 0), number("ATOLL_SEED", 1));
    let parts = &["beacon", "shard-0", "shard-1"][..if times == 0 { 2 } else { 3 }];
    println!("{backend:?}, seed {seed}");
    let (data, chain) = cluster(index).await?;
    let mut rng = StdRng::seed_from_u64(seed);
    let mut counts = Counts::new();
    for part in parts {
        let part = data.path().join(part);
        let sweep = Sweep::new(&part, &chain, backend)?;
        for (place, (what, file)) in files(&part)?.into_iter().enumerate() {
            for kind in [Kind::Flip, Kind::Zeros, Kind::Truncation] {
                for round in 0..times.max(1) {
                    // What is wrong with an index after a crash is never looked at.
                    let clean =
                        (place as u64 + kind as u64 + round).is_multiple_of(2) || what == "index";
                    if let Some(end) = sweep.one(&file, kind, clean, &mut rng)? {
                        *counts.entry((what, kind, end)).or_default() += 1;
                    }
                }
            }
        }
    }
    for ((what, kind, end), count) in &counts {
        println!("{what:10} {kind:12} {end:28} {count:6}", kind = format!("{kind:?}"));
    }
    let total: u64 = counts.values().sum();
    println!("{total} in all; silent wrong answers: none");
    ensure!(counts.keys().any(|(.., end)| *end == "refused"), "nothing was refused");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_anywhere_is_refused_repaired_or_harmless_with_sled() {
    sweep(IndexKind::Sled, Backend::Sled).await.unwrap_or_else(|error| panic!("{error:?}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_anywhere_is_refused_repaired_or_harmless_with_redb() {
    sweep(IndexKind::Redb, Backend::Redb).await.unwrap_or_else(|error| panic!("{error:?}"));
}
