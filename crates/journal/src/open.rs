//! How what a service has on disk is opened: what it is besides the entries of its index stands in
//! one [`Rest`], in the marker of a clean stop as in a snapshot.

use std::{ops::ControlFlow, path::PathBuf};

use atoll_store::{Index, Item, Log, OnEntry, Snapshot, Snapshots, StoreError, read_snapshot};
use atoll_types::{B256, decode};
use serde::de::DeserializeOwned;

/// Why what is on disk cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("log record {number} cannot be taken: {reason}")]
    Record { number: u64, reason: String },
    #[error(
        "the data belongs to another chain: its genesis is {found}, the configured one is {expected}; use another data directory, or start afresh"
    )]
    OtherGenesis { found: B256, expected: B256 },
    #[error(
        "snapshot {} cannot be read: {reason}; run the version that wrote it, and report it", path.display()
    )]
    Snapshot { path: PathBuf, reason: String },
    #[error(
        "the log of record ends with record {last}, and the index was stopped cleanly with those up to {indexed}: what lies between was acknowledged and is lost; check the disk and restore the whole cluster from a backup"
    )]
    LogLost { last: u64, indexed: u64 },
}

/// What a service is besides the entries of its index.
pub trait Rest: DeserializeOwned {
    /// Digest of what its chain begins with.
    fn genesis(&self) -> B256;

    /// Number of the first log record that is not in it.
    fn next(&self) -> u64;
}

/// The record that a log begins with.
pub struct First {
    /// Of what the chain begins with.
    pub digest: B256,
    pub record: Vec<u8>,
    /// The digest that such a record holds.
    pub read: fn(&[u8]) -> Option<B256>,
}

/// Begins the log if nothing is there yet, and checks that it is of the chain that `first` begins.
/// Returns what a clean stop has left, if the index is as the log leads to; else the caller rebuilds
/// the index from [`newest_whole`].
pub fn open<R: Rest>(
    log: &mut dyn Log,
    index: &dyn Index,
    snapshots: Option<&Snapshots>,
    first: &First,
) -> Result<Option<R>, OpenError> {
    let marker = index.take_clean()?;
    let stopped = marker.as_deref().and_then(|bytes| decode::<R>(bytes).ok());
    // A record damaged at the end looks like one that a crash has torn; after a clean stop it is not.
    if let (Some(marker), Some(stop)) = (&marker, &stopped)
        && stop.next() > log.next()
    {
        // The next start has to know too.
        index.mark_clean(marker)?;
        let (last, indexed) = (log.next() - 1, stop.next() - 1);
        return Err(OpenError::LogLost { last, indexed });
    }
    let none = snapshots.map_or(Ok(true), |found| found.list().map(|list| list.is_empty()))?;
    if log.next() == 1 && none {
        log.append(&first.record)?;
        log.sync()?;
    }
    if log.first() == 1 && log.next() > 1 {
        check_first(log, first)?;
    }
    let Some(stop) = stopped.filter(|stop| stop.next() == log.next()) else { return Ok(None) };
    check_genesis(&stop, first.digest)?;
    Ok(Some(stop))
}

fn check_first(log: &dyn Log, first: &First) -> Result<(), OpenError> {
    let mut found = None;
    log.visit(1, &mut |_, bytes| {
        found = (first.read)(bytes);
        ControlFlow::Break(())
    })?;
    match found {
        Some(digest) if digest == first.digest => Ok(()),
        Some(found) => Err(OpenError::OtherGenesis { found, expected: first.digest }),
        None => Err(OpenError::Record { number: 1, reason: "it is not a genesis record".into() }),
    }
}

/// Checks that `rest` is of the chain with this genesis.
pub fn check_genesis(rest: &impl Rest, expected: B256) -> Result<(), OpenError> {
    let found = rest.genesis();
    if found == expected { Ok(()) } else { Err(OpenError::OtherGenesis { found, expected }) }
}

/// Snapshots that were passed over because they are damaged.
pub struct Damaged<'a> {
    snapshots: Option<&'a Snapshots>,
    found: Vec<Snapshot>,
}

/// The newest whole snapshot that the log joins, if there is any.
pub fn newest_whole<'a>(
    snapshots: Option<&'a Snapshots>,
    log: &dyn Log,
) -> Result<(Option<Snapshot>, Damaged<'a>), OpenError> {
    let mut found = Vec::new();
    let newest = match snapshots {
        Some(snapshots) => snapshots.newest_whole(log, &mut |snapshot, error| {
            tracing::warn!(%error, "a snapshot is damaged; using the one before it");
            found.push(snapshot.clone());
        })?,
        None => None,
    };
    Ok((newest.map(|(snapshot, _)| snapshot), Damaged { snapshots, found }))
}

impl Damaged<'_> {
    /// Puts them where no start looks. To be called when the start has done without them.
    pub fn set_aside(self) -> Result<(), StoreError> {
        for (snapshot, snapshots) in self.found.iter().zip(self.snapshots.into_iter().cycle()) {
            let aside = snapshots.set_aside(snapshot)?;
            tracing::warn!(path = %aside.display(), "the damaged snapshot was moved here");
        }
        Ok(())
    }
}

/// Reads what a snapshot says, and hands its entries on.
pub fn read_rest<R: Rest>(snapshot: &Snapshot, entry: OnEntry<'_>) -> Result<R, OpenError> {
    let mut meta = Vec::new();
    read_snapshot(&snapshot.path, &mut |item| -> Result<(), StoreError> {
        match item {
            Item::Meta(piece) => meta.extend_from_slice(piece),
            Item::Entry(key, value) => entry(key, value)?,
        }
        Ok(())
    })?;
    let path = snapshot.path.clone();
    let rest: R = decode(&meta)
        .map_err(|e| OpenError::Snapshot { path: path.clone(), reason: e.to_string() })?;
    if rest.next() != snapshot.number {
        let reason = format!("it says that record {} follows it", rest.next());
        return Err(OpenError::Snapshot { path, reason });
    }
    Ok(rest)
}
