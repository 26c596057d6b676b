//! Snapshots of what an actor has made of its log, written beside it.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use atoll_fabric::{Cx, Panicked};
use atoll_store::{SnapshotWriter, Snapshots, StoreError, Summary};

use crate::Journaled;

/// Snapshots asked for at cuts to come, at the most.
const MAX_ASKED: usize = 16;
/// How far ahead a cut may be that nothing else is begun before, lest it be in the way.
const AHEAD: u64 = 1_024;

/// When snapshots are taken, and how many are kept.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotConfig {
    /// Bytes of log after which one is taken, or as many as the last one has, whichever is more: so
    /// no more than about half of what is written is snapshots. 0: never for this reason.
    pub log_bytes: u64,
    /// Cuts after which one is taken. 0: never for this reason.
    pub cuts: u64,
    /// Snapshots kept, at least 2: if the disk damages one, the one before is still a start.
    pub kept: usize,
    /// One is given up when the volume has no more room than this, in bytes: the log needs it more.
    pub min_free_bytes: u64,
    /// Newest rounds whose blocks, transactions and receipts stay when one is taken. 0: all.
    pub rounds: u64,
}

impl Default for SnapshotConfig {
    fn default() -> Self {
        Self { log_bytes: 256 << 20, cuts: 0, kept: 2, min_free_bytes: 0, rounds: 0 }
    }
}

/// A snapshot that is durable under its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The cut, or beacon block, that it was taken at.
    pub cut: u64,
    pub summary: Summary,
}

/// The snapshots of one actor.
pub struct Keeper {
    snapshots: Snapshots,
    config: SnapshotConfig,
    /// What the log has had since the start when the last one was begun.
    begun_bytes: u64,
    begun_cut: u64,
    /// Size of the last one.
    size: u64,
    /// The cut of the one that is being written.
    writing: Option<u64>,
    /// Cuts that one is wanted at, for a backup.
    asked: BTreeSet<u64>,
    /// The last one that was wanted: it is kept until there is another.
    spared: Option<Taken>,
    stop: Arc<AtomicBool>,
}

/// An actor that takes snapshots.
pub trait Snapshotting: Journaled {
    /// `None` if it takes none.
    fn keeper(&mut self) -> Option<&mut Keeper>;

    /// One that was begun at a cut is there, or was given up.
    fn taken(&mut self, cut: u64, taken: Result<Taken, StoreError>);
}

impl Keeper {
    /// `cut` is where the actor stands.
    /// What the log has had since the last one counts, also before the start.
    pub fn new(snapshots: Snapshots, config: SnapshotConfig, cut: u64) -> Self {
        let size = snapshots.list().ok().and_then(|found| Some(found.last()?.bytes));
        Self {
            snapshots,
            config,
            begun_bytes: 0,
            begun_cut: cut,
            size: size.unwrap_or(0),
            writing: None,
            asked: BTreeSet::new(),
            spared: None,
            stop: Arc::default(),
        }
    }

    pub fn snapshots(&self) -> &Snapshots {
        &self.snapshots
    }

    /// The oldest round that stays in a snapshot at this cut.
    pub fn keeps_from(&self, cut: u64) -> u64 {
        match self.config.rounds {
            0 => 0,
            rounds => cut.saturating_sub(rounds),
        }
    }

    /// The last one that was asked for, if it was at this cut.
    pub fn at(&self, cut: u64) -> Option<Taken> {
        self.spared.filter(|taken| taken.cut == cut)
    }

    /// Whether one at this cut is being written.
    pub fn is_writing(&self, cut: u64) -> bool {
        self.writing == Some(cut)
    }

    /// Whether one at another cut is being written.
    pub fn is_busy(&self, cut: u64) -> bool {
        self.writing.is_some_and(|writing| writing != cut)
    }

    /// Wants one at a cut to come. False if too many are wanted.
    pub fn ask(&mut self, cut: u64) -> bool {
        let room = self.asked.len() < MAX_ASKED || self.asked.contains(&cut);
        if room {
            self.asked.insert(cut);
        }
        room
    }

    /// Whether one is to be taken at this cut, now. `bytes` is what the log has had since the start.
    pub fn is_due(&mut self, cut: u64, bytes: u64, low: bool) -> bool {
        let SnapshotConfig { log_bytes, cuts, .. } = self.config;
        let grown = log_bytes > 0 && self.since(bytes) >= log_bytes.max(self.size);
        let passed = cuts > 0 && cut >= self.begun_cut + cuts;
        let waits = self.asked.range(cut + 1..=cut.saturating_add(AHEAD)).next().is_some();
        let due = self.asked.contains(&cut) || (grown || passed) && !waits;
        // One that was asked for is told that another is being written.
        let due = due && self.writing.is_none() && !low;
        if due {
            (self.begun_bytes, self.begun_cut) = (bytes, cut);
        }
        due
    }

    /// Cuts up to this one have gone by. Returns whether one was wanted at it.
    pub fn passed(&mut self, cut: u64) -> bool {
        let wanted = self.asked.contains(&cut);
        self.asked = self.asked.split_off(&(cut + 1));
        wanted
    }

    /// Bytes that the log has had since the last one, given those since the start.
    pub fn since(&self, bytes: u64) -> u64 {
        bytes - self.begun_bytes
    }

    /// Has the one that is being written given up, and waits for nothing: whoever runs blocking
    /// threads waits for them.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }
}

/// To be called between pieces of work: an error if the actor stops.
pub type GoOn<'a> = &'a dyn Fn() -> Result<(), StoreError>;

/// Writes what `write` has captured of the actor at this instant, at cut `cut` and before log record
/// `number`, beside the actor. The log is cut when it is durable.
pub fn snapshot<S: Snapshotting>(
    service: &mut S,
    cx: &mut Cx<'_, S>,
    (cut, number, wanted): (u64, u64, bool),
    write: impl FnOnce(&mut SnapshotWriter, GoOn<'_>) -> Result<(), StoreError> + Send + 'static,
) {
    let (tell, durable) = tokio::sync::oneshot::channel();
    // If the actor stops before, nobody is told, and nothing gets its name.
    service.journal().when_durable(move || {
        let _ = tell.send(());
    });
    let Some(keeper) = service.keeper() else { return };
    keeper.writing = Some(cut);
    let (snapshots, stop) = (keeper.snapshots.clone(), keeper.stop.clone());
    let SnapshotConfig { kept, min_free_bytes, .. } = keeper.config;
    let spared: Vec<u64> = match (wanted, keeper.spared) {
        (false, Some(taken)) => vec![taken.summary.number],
        _ => Vec::new(),
    };
    let machine = cx.machine().clone();
    let (stopped_early, publishing) = (stopped(&snapshots), snapshots.clone());
    let work = move || -> Result<(SnapshotWriter, Summary), StoreError> {
        let mut writer = snapshots.begin(number)?;
        let go_on = || match stop.load(Ordering::Acquire) {
            true => Err(stopped(&snapshots)),
            false => snapshots.check_room(min_free_bytes),
        };
        write(&mut writer, &go_on)?;
        go_on()?;
        let summary = writer.finish()?;
        Ok((writer, summary))
    };
    let written = machine.run(work);
    let published = async move {
        let (writer, summary) = match written.await? {
            Ok(written) => written,
            Err(error) => return Ok(Err(error)),
        };
        if durable.await.is_err() {
            return Ok(Err(stopped_early));
        }
        let publish = move || {
            writer.publish()?;
            Ok((summary, publishing.prune(kept, &spared)?))
        };
        machine.run(publish).await
    };
    cx.spawn(published, move |service, done: Result<_, Panicked>, _| {
        let Some(keeper) = service.keeper() else { return };
        keeper.writing = None;
        let taken = match done {
            Ok(Ok((summary, before))) => {
                let taken = Taken { cut, summary };
                keeper.size = summary.bytes;
                if wanted {
                    keeper.spared = Some(taken);
                }
                service.journal().cut_before(before.unwrap_or(0));
                let (bytes, entries) = (summary.bytes, summary.entries);
                tracing::info!(service = S::NAME, cut, bytes, entries, "snapshot taken");
                Ok(taken)
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, cut, "no snapshot; the log is kept until there is one");
                Err(error)
            }
            Err(error) => panic!("a snapshot panicked: {error}"),
        };
        service.taken(cut, taken);
    });
}

/// What a snapshot is given up with when its actor stops.
fn stopped(snapshots: &Snapshots) -> StoreError {
    let path = snapshots.dir().to_path_buf();
    StoreError::Io { op: "take a snapshot in", path, reason: "the process is stopping".into() }
}
