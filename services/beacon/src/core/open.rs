//! How the chain is opened, captured and closed: what it is besides its blocks stands in one
//! [`Rest`], in the marker of a clean stop as in a snapshot.

use std::{collections::VecDeque, sync::Arc};

use atoll_api::beacon::BeaconStatsReply;
use atoll_commit::{Planner, PlannerConfig};
use atoll_journal::{First, OpenError, check_genesis, newest_whole, open, read_rest};
use atoll_meter::Tally;
use atoll_store::{Index, Log, Replay, SnapshotWriter, Snapshots, StoreError};
use atoll_types::{B256, decode, digest, encode};
use serde::{Deserialize, Serialize};

use super::{Core, Record};
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
    /// The oldest block that is kept.
    pub kept_from: u64,
    /// Bytes of log since the last snapshot.
    tail_bytes: u64,
}

impl atoll_journal::Rest for Rest {
    fn genesis(&self) -> B256 {
        self.genesis
    }

    fn next(&self) -> u64 {
        self.next
    }
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
        let first =
            First { digest: genesis, record: encode(&Record::Genesis { digest: genesis }), read };
        match open(log, index.as_ref(), snapshots, &first)? {
            Some(stop) => Ok(Self::whole(config, stop, index)),
            None => Self::rebuild(config, log, index, snapshots),
        }
    }

    fn rebuild(
        config: PlannerConfig,
        log: &mut dyn Log,
        index: Arc<dyn Index>,
        snapshots: Option<&Snapshots>,
    ) -> Result<Self, OpenError> {
        let (start, damaged) = newest_whole(snapshots, log)?;
        index.wipe()?;
        let (mut core, from) = match &start {
            Some(snapshot) => {
                let mut put = |key: &[u8], value: &[u8]| index.put(key, value);
                let rest: Rest = read_rest(snapshot, &mut put)?;
                check_genesis(&rest, genesis_of(&config))?;
                let next = rest.next;
                (Self::whole(config, rest, index), next)
            }
            None => {
                let genesis = genesis_of(&config);
                let mut core = Self::new(Planner::new(config), index, genesis);
                let head = core.planner.head().clone();
                let bytes = encode(&head);
                core.publish(head, &bytes)?;
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
                    let bytes = encode(&record.block);
                    Ok(core.publish(record.block, &bytes)?)
                }
            }
        })?;
        damaged.set_aside()?;
        Ok(core)
    }

    fn whole(config: PlannerConfig, rest: Rest, index: Arc<dyn Index>) -> Self {
        let mut core = Self::new(rest.planner, index, rest.genesis);
        core.planner.reconfigure(config);
        (core.kept_from, core.tail_bytes) = (rest.kept_from, rest.tail_bytes);
        core
    }

    fn new(planner: Planner, index: Arc<dyn Index>, genesis: B256) -> Self {
        Self {
            planner,
            index,
            recent: VecDeque::new(),
            counts: BeaconStatsReply::default(),
            refused: Tally::default(),
            acks: Acks::default(),
            kept_from: 0,
            genesis,
            tail_bytes: 0,
            record_bytes: 0,
        }
    }

    /// Bytes of log since the last snapshot, when this was opened.
    pub(crate) fn tail_bytes(&self) -> u64 {
        self.tail_bytes
    }

    fn rest(&self, next: u64, tail_bytes: u64) -> Rest {
        let (genesis, planner, kept_from) = (self.genesis, self.planner.clone(), self.kept_from);
        Rest { genesis, next, planner, kept_from, tail_bytes }
    }

    /// The chain as it is now, before log record number `next`. Blocks before number `keep` are forgotten as
    /// it is written, but for those that a shard may still have to follow.
    pub(crate) fn capture(&mut self, next: u64, keep: u64) -> Captured {
        self.kept_from = self.kept_from.max(keep.min(self.planner.passed_by_all()));
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
                if is_past(self.rest.kept_from, number) {
                    self.index.delete(number)?;
                } else {
                    writer.entry(number, block)?;
                }
            }
            match blocks.into_iter().last() {
                Some((number, _)) if number[..] < last[..] => read = number,
                _ => return Ok(()),
            }
        }
    }
}

/// Whether the key of an entry of the index is that of a block before a number.
pub fn is_past(kept_from: u64, key: &[u8]) -> bool {
    key < &kept_from.to_be_bytes()[..]
}

/// The digest of what the chain begins with.
pub fn genesis_of(config: &PlannerConfig) -> B256 {
    let shape = (config.chain_id, config.shards, config.epoch, config.coinbase, config.gas_limit);
    digest("atoll/beacon", &(shape, config.base_fee, config.genesis_time_ms))
}

/// The digest in a record that begins a log.
fn read(record: &[u8]) -> Option<B256> {
    match decode(record) {
        Ok(Record::Genesis { digest }) => Some(digest),
        _ => None,
    }
}
