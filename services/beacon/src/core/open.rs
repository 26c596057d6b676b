//! How the chain is opened, captured and closed: what it is besides its blocks stands in one
//! [`Rest`], in the marker of a clean stop as in a snapshot.

use std::{collections::VecDeque, sync::Arc};

use atoll_api::beacon::BeaconStatsReply;
use atoll_commit::{Planner, PlannerConfig};
use atoll_meter::Tally;
use atoll_store::{
    Index, Item, Log, OnEntry, Replay, Snapshot, SnapshotWriter, Snapshots, StoreError,
    read_snapshot,
};
use atoll_types::{B256, decode, digest, encode};
use serde::{Deserialize, Serialize};

use super::{Core, OpenError, Record};
use crate::acks::Acks;

/// Blocks that are read at a time.
const PIECE: usize = 256;

/// What the chain is besides its blocks.
#[derive(Clone, Serialize, Deserialize)]
pub struct Rest {
    /// Of the chain's beginning.
    pub genesis: B256,
    /// Number of the first log record that is not in it.
    pub next: u64,
    pub planner: Planner,
    /// Bytes of log since the last snapshot.
    tail_bytes: u64,
}

/// The chain at one instant, to be written beside it.
pub(crate) struct Captured {
    rest: Rest,
    index: Arc<dyn Index>,
}

impl Core {
    /// Opens the chain: from the index if it was stopped cleanly, else from the newest whole snapshot
    /// and the log behind it. The shape of the cluster must be what it began with; cadence and bounds
    /// may change.
    pub fn open(
        config: PlannerConfig,
        log: &mut dyn Log,
        index: Arc<dyn Index>,
        snapshots: Option<&Snapshots>,
    ) -> Result<Self, OpenError> {
        let genesis = genesis_of(&config);
        let none =
            snapshots.map_or(Ok(true), |found| Ok::<_, StoreError>(found.list()?.is_empty()))?;
        let marker = index.take_clean()?;
        let stopped = marker.as_deref().and_then(|bytes| decode::<Rest>(bytes).ok());
        // A record damaged at the end looks like one that a crash has torn; after a clean stop it is not.
        if let (Some(marker), Some(stop)) = (&marker, &stopped)
            && stop.next > log.next()
        {
            // The next start has to know too.
            index.mark_clean(marker)?;
            let (last, indexed) = (log.next() - 1, stop.next - 1);
            return Err(OpenError::LogLost { last, indexed });
        }
        if log.next() == 1 && none {
            log.append(&encode(&Record::Genesis { digest: genesis }))?;
            log.sync()?;
        }
        if log.first() == 1 && log.next() > 1 {
            check_genesis(log, genesis)?;
        }
        if let Some(stop) = stopped.filter(|stop| stop.next == log.next()) {
            return Self::whole(config, stop, index);
        }
        Self::rebuild(config, log, index, snapshots)
    }

    fn rebuild(
        config: PlannerConfig,
        log: &mut dyn Log,
        index: Arc<dyn Index>,
        snapshots: Option<&Snapshots>,
    ) -> Result<Self, OpenError> {
        let mut damaged = Vec::new();
        let start = match snapshots {
            Some(snapshots) => snapshots.newest_whole(log, &mut |snapshot, error| {
                tracing::warn!(%error, "a snapshot is damaged; using the one before it");
                damaged.push(snapshot.clone());
            })?,
            None => None,
        };
        index.wipe()?;
        let (mut core, from) = match &start {
            Some((snapshot, _)) => {
                let mut put = |key: &[u8], value: &[u8]| index.put(key, value);
                let rest = read_rest(snapshot, &mut put)?;
                let next = rest.next;
                (Self::whole(config, rest, index)?, next)
            }
            None => {
                let genesis = genesis_of(&config);
                let mut core = Self::new(Planner::new(config), index, genesis);
                core.publish(core.planner.head().clone())?;
                (core, 2)
            }
        };
        core.tail_bytes = 0;
        log.replay(from, &mut |number, bytes| -> Result<(), OpenError> {
            let failed = |reason| OpenError::Record { number, reason };
            core.tail_bytes += bytes.len() as u64;
            match decode::<Record>(bytes).map_err(|e| failed(e.to_string()))? {
                Record::Genesis { .. } => Err(failed("it is a second genesis record".into())),
                Record::Block(record) => {
                    let parent = core.planner.head().hash();
                    if record.block.parent != parent {
                        return Err(failed("its block does not follow from the one before".into()));
                    }
                    core.planner.apply(&record);
                    Ok(core.publish(record.block)?)
                }
            }
        })?;
        for (snapshot, snapshots) in damaged.iter().zip(snapshots.into_iter().cycle()) {
            let aside = snapshots.set_aside(snapshot)?;
            tracing::warn!(path = %aside.display(), "the damaged snapshot was moved here");
        }
        Ok(core)
    }

    fn whole(config: PlannerConfig, rest: Rest, index: Arc<dyn Index>) -> Result<Self, OpenError> {
        let (found, expected) = (rest.genesis, genesis_of(&config));
        if found != expected {
            return Err(OpenError::OtherGenesis { found, expected });
        }
        let mut core = Self::new(rest.planner, index, expected);
        core.planner.reconfigure(config);
        core.tail_bytes = rest.tail_bytes;
        Ok(core)
    }

    fn new(planner: Planner, index: Arc<dyn Index>, genesis: B256) -> Self {
        Self {
            planner,
            index,
            recent: VecDeque::new(),
            counts: BeaconStatsReply::default(),
            refused: Tally::default(),
            acks: Acks::default(),
            genesis,
            tail_bytes: 0,
        }
    }

    /// Bytes of log since the last snapshot, when this was opened.
    pub(crate) fn tail_bytes(&self) -> u64 {
        self.tail_bytes
    }

    fn rest(&self, next: u64, tail_bytes: u64) -> Rest {
        Rest { genesis: self.genesis, next, planner: self.planner.clone(), tail_bytes }
    }

    /// The chain as it is now, before log record number `next`.
    pub(crate) fn capture(&self, next: u64) -> Captured {
        Captured { rest: self.rest(next, 0), index: self.index.clone() }
    }

    /// Leaves the index complete and marked, so that the next start need not replay the log, which
    /// has had `tail_bytes` since the last snapshot.
    pub fn close(&self, next: u64, tail_bytes: u64) -> Result<(), StoreError> {
        self.index.mark_clean(&encode(&self.rest(next, tail_bytes)))
    }
}

impl Captured {
    /// Blocks never change, so those up to the captured one can be read whatever is put behind them.
    pub fn write(
        self,
        writer: &mut SnapshotWriter,
        go_on: &dyn Fn() -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        writer.meta(&encode(&self.rest))?;
        let last = self.rest.planner.head().number().to_be_bytes();
        let mut read = Vec::new();
        loop {
            go_on()?;
            let blocks = self.index.scan_after(&read, PIECE)?;
            for (number, block) in blocks.iter().filter(|(number, _)| number[..] <= last[..]) {
                writer.entry(number, block)?;
            }
            match blocks.into_iter().last() {
                Some((number, _)) if number[..] < last[..] => read = number,
                _ => return Ok(()),
            }
        }
    }
}

/// Reads what a snapshot says, and hands its blocks on.
pub fn read_rest(snapshot: &Snapshot, entry: OnEntry<'_>) -> Result<Rest, OpenError> {
    let mut meta = Vec::new();
    read_snapshot(&snapshot.path, &mut |item| -> Result<(), StoreError> {
        match item {
            Item::Meta(piece) => meta.extend_from_slice(piece),
            Item::Entry(key, value) => entry(key, value)?,
        }
        Ok(())
    })?;
    let path = snapshot.path.clone();
    let rest: Rest = decode(&meta)
        .map_err(|e| OpenError::Snapshot { path: path.clone(), reason: e.to_string() })?;
    if rest.next != snapshot.number {
        let reason = format!("it says that record {} follows it", rest.next);
        return Err(OpenError::Snapshot { path, reason });
    }
    Ok(rest)
}

/// The digest of what the chain begins with.
pub fn genesis_of(config: &PlannerConfig) -> B256 {
    let shape = (config.chain_id, config.shards, config.epoch, config.coinbase, config.gas_limit);
    digest("atoll/beacon", &(shape, config.base_fee, config.genesis_time_ms))
}

fn check_genesis(log: &dyn Log, expected: B256) -> Result<(), OpenError> {
    let mut found = None;
    log.visit(1, &mut |_, bytes| {
        found = decode::<Record>(bytes).ok();
        std::ops::ControlFlow::Break(())
    })?;
    match found {
        Some(Record::Genesis { digest }) if digest == expected => Ok(()),
        Some(Record::Genesis { digest: found }) => Err(OpenError::OtherGenesis { found, expected }),
        _ => Err(OpenError::Record { number: 1, reason: "it is not a genesis record".into() }),
    }
}
