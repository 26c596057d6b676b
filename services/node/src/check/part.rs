//! One state or beacon on disk.

use std::{
    fmt::Display,
    path::{Path, PathBuf},
    sync::Arc,
};

use atoll_commit::Owner;
use atoll_state::TreeConfig;
use atoll_store::{
    Backend, FrozenLog, Index, Log as _, MemoryIndex, Snapshots, StoreError, read_snapshot,
};
use atoll_types::{BeaconBlock, U256, decode, encode};
use serde::Serialize;

use super::BlockHash;
use crate::{config::Chain, genesis::Genesis};

/// Entries compared at a time.
const PIECE: usize = 1_024;
/// Memory that a check may use for the pages of an index.
const CACHE_BYTES: u64 = 64 << 20;

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    pub what: String,
    pub whole: bool,
    pub text: String,
}

/// A state or beacon on disk.
#[derive(Serialize)]
pub struct Part {
    pub dir: PathBuf,
    pub findings: Vec<Finding>,
    /// What the log and the snapshots lead to.
    #[serde(skip)]
    pub owner: Option<Owner>,
    /// Sum of all balances of a shard, in wei.
    #[serde(skip)]
    pub balances: Option<U256>,
    #[serde(skip)]
    pub(crate) blocks: Option<BlockHash>,
}

/// The shard whose state a directory holds, by its name.
pub(super) fn shard_of(dir: &Path) -> Option<u16> {
    dir.file_name()?.to_str()?.strip_prefix("shard-")?.parse().ok()
}

impl Part {
    /// Looks at everything in a directory. Fails if another process uses it, or the disk does not let
    /// it be read.
    pub(super) fn inspect(dir: &Path, known: Option<(&Chain, &Genesis)>) -> anyhow::Result<Self> {
        let (owner, balances, blocks) = (None, None, None);
        let findings = Vec::new();
        let mut part = Self { dir: dir.to_owned(), findings, owner, balances, blocks };
        let log_dir = dir.join("log");
        let log = match log_dir.is_dir().then(|| FrozenLog::open(&log_dir)) {
            Some(Ok(log)) => Some(log),
            Some(Err(error @ StoreError::Locked { .. })) => return Err(error.into()),
            Some(Err(error)) => {
                part.bad("log", error);
                None
            }
            None => {
                part.bad("log", format!("there is no {}", log_dir.display()));
                None
            }
        };
        if let Some(log) = &log {
            part.log(log);
        }
        let snapshots = Snapshots::frozen(&dir.join("snapshots"));
        part.snapshots(&snapshots)?;
        let marked = part.index(&dir.join("index"))?;
        if let Some(mut log) = log {
            match known {
                Some(known) => part.replay(known, &mut log, &snapshots, marked)?,
                None => part.good("replay", "not run: give --config for what the chain began with"),
            }
        }
        Ok(part)
    }

    fn add(&mut self, what: &str, whole: bool, text: impl Display) {
        self.findings.push(Finding { what: what.to_owned(), whole, text: text.to_string() });
    }

    fn good(&mut self, what: &str, text: impl Display) {
        self.add(what, true, text);
    }

    fn bad(&mut self, what: &str, text: impl Display) {
        self.add(what, false, text);
    }

    fn log(&mut self, log: &FrozenLog) {
        let opened = log.opened();
        let (first, next) = (log.first(), log.next());
        let records = match opened.records {
            0 => format!("no records, the next is number {next}"),
            count => format!("{count} records, {first} to {}", next - 1),
        };
        self.good("log", format!("{records}, in {} files", opened.segments));
        if let Some((path, offset)) = &opened.cut {
            let bytes = opened.cut_bytes;
            let what = "of a record that was never acknowledged; the next start cuts them off";
            let text =
                format!("{bytes} bytes at the end of {} (byte {offset}) {what}", path.display());
            self.good("log", text);
        }
    }

    fn snapshots(&mut self, snapshots: &Snapshots) -> Result<(), StoreError> {
        let found = snapshots.list()?;
        if found.is_empty() {
            self.good("snapshots", "none");
        }
        for snapshot in found {
            match read_snapshot(&snapshot.path, &mut |_| Ok::<_, StoreError>(())) {
                Ok(whole) => self.good(
                    "snapshot",
                    format!(
                        "of all records below {}: {} entries, {} bytes",
                        whole.number, whole.entries, whole.bytes
                    ),
                ),
                Err(error @ StoreError::Corrupt { .. }) => self.bad("snapshot", error),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whose the index is, if it can be used as it is.
    fn index(&mut self, dir: &Path) -> Result<Option<Backend>, StoreError> {
        let rebuilt = "the next start rebuilds it";
        if !dir.is_dir() {
            self.good("index", format!("none; {rebuilt}"));
            return Ok(None);
        }
        let Some(backend) = Backend::found(dir)? else {
            self.good("index", format!("empty; {rebuilt}"));
            return Ok(None);
        };
        match backend.is_as_left(dir)? {
            None => self.good("index", format!("no marker of a clean stop; {rebuilt}")),
            Some(false) => {
                let what = "is not as the clean stop has left it: look at the disk";
                self.bad("index", format!("{} {what}; {rebuilt}", dir.display()));
            }
            Some(true) => return Ok(Some(backend)),
        }
        Ok(None)
    }

    /// Runs the log on what the newest snapshot holds, and compares what comes out with the index.
    fn replay(
        &mut self,
        known: (&Chain, &Genesis),
        log: &mut FrozenLog,
        snapshots: &Snapshots,
        marked: Option<Backend>,
    ) -> anyhow::Result<()> {
        if log.next() == 1 && log.opened().records == 0 && snapshots.list()?.is_empty() {
            self.good("replay", "nothing to run");
            return Ok(());
        }
        let index = Arc::new(MemoryIndex::new());
        let rest = match shard_of(&self.dir) {
            Some(id) => self.replay_shard(known, id, log, snapshots, index.clone()),
            None => self.replay_beacon(known.1, log, snapshots, index.clone()),
        };
        let same = match rest {
            Ok(same) => same,
            Err(error) => {
                self.bad("replay", format!("{error:#}"));
                return Ok(());
            }
        };
        if let Some(backend) = marked {
            self.compare(backend, &self.dir.join("index"), index.as_ref(), same)?;
        }
        Ok(())
    }

    fn replay_shard(
        &mut self,
        (chain, genesis): (&Chain, &Genesis),
        id: u16,
        log: &mut FrozenLog,
        snapshots: &Snapshots,
        index: Arc<MemoryIndex>,
    ) -> anyhow::Result<Same> {
        let config = genesis.core_config(chain, id, 10_000, TreeConfig::default());
        let core = atoll_state::Core::open(&config, log, index.clone(), Some(snapshots))?;
        let tip = core.tip();
        let text =
            format!("shard {id} at cut {}, block {}, digest {}", tip.cut, tip.head, tip.digest);
        self.good("replay", text);
        let mut balances = U256::ZERO;
        index.scan_prefix(b"s", &mut |key, value| {
            balances += atoll_state::entry_balance(key, value).unwrap_or_default();
        })?;
        self.balances = Some(balances);
        self.owner = Some(core.owner().clone());
        let next = log.next();
        let state = |mut owner: Owner| {
            // A bound of the configuration, not of the chain.
            owner.limit_shared(0);
            encode(&owner)
        };
        let expected = state(core.owner().clone());
        Ok(Box::new(move |marker| {
            let rest = decode::<atoll_state::Rest>(marker).ok();
            rest.is_some_and(|rest| rest.next == next && state(rest.owner) == expected)
        }))
    }

    fn replay_beacon(
        &mut self,
        genesis: &Genesis,
        log: &mut FrozenLog,
        snapshots: &Snapshots,
        index: Arc<MemoryIndex>,
    ) -> anyhow::Result<Same> {
        let config = genesis.planner.clone();
        let core = atoll_beacon::Core::open(config, log, index.clone(), Some(snapshots))?;
        let (head, open) = (core.planner().head().hash(), core.planner().open());
        let number = core.planner().head().number();
        self.good("replay", format!("beacon at block {number}, hash {head}"));
        self.blocks = Some(Box::new(move |number| {
            let bytes = index.get(&number.to_be_bytes()).ok().flatten()?;
            Some(decode::<BeaconBlock>(&bytes).ok()?.hash())
        }));
        let next = log.next();
        Ok(Box::new(move |marker| {
            decode::<atoll_beacon::Rest>(marker).is_ok_and(|rest| {
                let found = (rest.next, rest.planner.head().hash(), rest.planner.open());
                found == (next, head, open)
            })
        }))
    }

    /// Compares an index, and its marker of a clean stop, with what a replay has made.
    fn compare(
        &mut self,
        backend: Backend,
        dir: &Path,
        replayed: &dyn Index,
        same: Same,
    ) -> anyhow::Result<()> {
        let index = match backend.open(dir, CACHE_BYTES) {
            Ok(index) => index,
            Err(error) => {
                self.bad("index", error);
                return Ok(());
            }
        };
        let marker = index.take_clean()?.unwrap_or_default();
        // A snapshot that was begun and given up may have forgotten some of what is past.
        let past = past_of(shard_of(&self.dir).is_some(), &marker);
        let differing = differing(&*index, replayed, &*past);
        // It is used as it is at the next start, as it would have been.
        if let Err(error) = index.mark_clean(&marker) {
            self.bad(
                "index",
                format!("its marker cannot be put back: {error}; the next start rebuilds it"),
            );
        }
        match differing {
            Ok((_, Some(key))) => {
                let key = alloy_primitives::hex::encode_prefixed(key);
                self.bad("index", format!("entry {key} is not what snapshot and log lead to"));
            }
            Ok((count, None)) if same(&marker) => {
                self.good("index", format!("{count} entries, as snapshot and log lead to"));
            }
            Ok(_) => self.bad("index", "its marker is not what snapshot and log lead to"),
            Err(error) => self.bad("index", error),
        }
        Ok(())
    }
}

/// Whether an entry, by key and value, is of what has been forgotten.
type Past = Box<dyn Fn(&[u8], &[u8]) -> bool>;
type Entry = (Vec<u8>, Vec<u8>);

/// Which entries are of what a shard, or the beacon, has forgotten, as its marker of a clean stop says.
fn past_of(is_shard: bool, marker: &[u8]) -> Past {
    if is_shard {
        let from = decode::<atoll_state::Rest>(marker).map_or(0, |rest| rest.kept_from);
        Box::new(move |key, value| atoll_state::is_past(from, key, value))
    } else {
        let from = decode::<atoll_beacon::Rest>(marker).map_or(0, |rest| rest.kept_from);
        Box::new(move |key, _| atoll_beacon::is_past(from, key))
    }
}

/// Whether a marker of a clean stop says what a replay has led to.
type Same = Box<dyn Fn(&[u8]) -> bool>;

/// How many entries two indices have in common, up to the first key at which they differ. Those that are
/// `past` may be in one of them or in both.
fn differing(
    a: &dyn Index,
    b: &dyn Index,
    past: &dyn Fn(&[u8], &[u8]) -> bool,
) -> Result<(u64, Option<Vec<u8>>), StoreError> {
    let (mut left, mut right) = (Walk::over(a, past), Walk::over(b, past));
    let mut count = 0;
    loop {
        let (left, right) = (left.next()?, right.next()?);
        if left != right {
            let keys = [left, right].into_iter().flatten().map(|(key, _)| key);
            return Ok((count, keys.min()));
        }
        if left.is_none() {
            return Ok((count, None));
        }
        count += 1;
    }
}

/// The entries of an index in the order of their keys, but for those that are `past`.
struct Walk<'a> {
    index: &'a dyn Index,
    past: &'a dyn Fn(&[u8], &[u8]) -> bool,
    piece: std::vec::IntoIter<Entry>,
    after: Vec<u8>,
}

impl<'a> Walk<'a> {
    fn over(index: &'a dyn Index, past: &'a dyn Fn(&[u8], &[u8]) -> bool) -> Self {
        Self { index, past, piece: Vec::new().into_iter(), after: Vec::new() }
    }

    fn next(&mut self) -> Result<Option<Entry>, StoreError> {
        loop {
            if let Some(entry) = self.piece.find(|(key, value)| !(self.past)(key, value)) {
                return Ok(Some(entry));
            }
            let piece = self.index.scan_after(&self.after, PIECE)?;
            let Some((last, _)) = piece.last() else {
                return Ok(None);
            };
            self.after.clone_from(last);
            self.piece = piece.into_iter();
        }
    }
}
