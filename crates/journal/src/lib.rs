//! Group commit for an actor: what it has changed is logged and synced beside it, and nothing that
//! could depend on a change leaves the actor before that change is durable. Snapshots, after which
//! the log is cut. And how all of it is opened again.

mod open;
mod snapshot;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use atoll_fabric::{Cx, Machine, Reply, Rpc, Service};
use atoll_meter::Work;
use atoll_store::{Log, StoreError};
use atoll_telemetry::metrics::{Timer, table::LOG_SYNC};

pub use open::{Damaged, First, OpenError, Rest, check_genesis, newest_whole, open, read_rest};
pub use snapshot::{GoOn, Keeper, SnapshotConfig, Snapshotting, Taken, snapshot};

/// How often a full volume is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Something to do once everything logged so far is durable.
type Release = Box<dyn FnOnce()>;

/// The log of one actor, and the replies that wait for it.
pub struct Journal {
    /// `None` while a sync is under way.
    log: Option<Box<dyn Log>>,
    /// Records that the next sync will cover.
    buffer: Vec<Vec<u8>>,
    /// Records logged since the start.
    logged: u64,
    /// Of which durable.
    synced: u64,
    waiting: VecDeque<(u64, Release)>,
    /// The volume is full: nothing new is to be recorded.
    low: bool,
    /// Records below this number are not needed any more.
    cut_before: u64,
    /// Bytes recorded since the start.
    bytes: u64,
    /// Syncs, the records that they covered, and the processor time for both.
    written: Arc<Work>,
}

/// An actor with a journal.
pub trait Journaled: Service {
    fn journal(&mut self) -> &mut Journal;

    /// What metrics call the shard; nothing for what belongs to none.
    fn shard_label(&self) -> String {
        String::new()
    }

    /// Called after each sync, when what was logged before it has become durable.
    fn synced(&mut self, _cx: &mut Cx<'_, Self>) {}
}

impl Journal {
    /// A journal on a log that has been opened and replayed.
    pub fn new(log: Box<dyn Log>) -> Self {
        Self {
            log: Some(log),
            buffer: Vec::new(),
            logged: 0,
            synced: 0,
            waiting: VecDeque::new(),
            low: false,
            cut_before: 0,
            bytes: 0,
            written: Arc::default(),
        }
    }

    /// Adds a record. Call [`pump`] before the handler ends.
    pub fn record(&mut self, record: Vec<u8>) {
        self.bytes += record.len() as u64;
        self.buffer.push(record);
        self.logged += 1;
    }

    /// Whether the volume of the log is full: changes have to be refused until it is not.
    pub fn is_low(&self) -> bool {
        self.low
    }

    /// Counts bytes that earlier runs have recorded.
    pub fn count_bytes(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// Bytes recorded since the start, and those counted.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Has the log forget records below number `before`, with the next sync.
    pub fn cut_before(&mut self, before: u64) {
        self.cut_before = self.cut_before.max(before);
    }

    /// Does something once everything recorded so far is durable.
    pub fn when_durable(&mut self, release: impl FnOnce() + 'static) {
        if self.is_idle() {
            release();
        } else {
            self.waiting.push_back((self.logged, Box::new(release)));
        }
    }

    /// Processor time for writing and syncing, in nanoseconds.
    pub fn cpu_ns(&self) -> u64 {
        self.written.get().cpu_ns
    }

    /// Whether everything recorded is durable.
    pub fn is_idle(&self) -> bool {
        self.synced == self.logged
    }

    /// Answers once everything recorded so far is durable.
    pub fn reply<M: Rpc>(&mut self, reply: Reply<M>, result: Result<M::Reply, M::Error>) {
        if self.is_idle() {
            reply.send(result);
        } else {
            self.waiting.push_back((self.logged, Box::new(move || reply.send(result))));
        }
    }

    fn release(&mut self) {
        while let Some((_, release)) = self.waiting.pop_front_if(|(at, _)| *at <= self.synced) {
            release();
        }
    }
}

/// What a pass over the log has come to.
struct Written {
    log: Box<dyn Log>,
    /// Records that there was no room for, in order.
    left: Vec<Vec<u8>>,
    low: bool,
    failed: Option<StoreError>,
}

/// Starts a sync of what is buffered, unless one is under way.
///
/// A log that fails to write or sync ends the process: retrying could acknowledge what is lost. A
/// full volume does not: what found no room is written when there is some.
pub fn pump<S: Journaled>(service: &mut S, cx: &mut Cx<'_, S>) {
    let journal = service.journal();
    if !journal.buffer.is_empty() && !journal.low {
        pass(service, cx);
    }
}

fn pass<S: Journaled>(service: &mut S, cx: &mut Cx<'_, S>) {
    let labels = vec![S::NAME.to_owned(), service.shard_label()];
    let journal = service.journal();
    let Some(log) = journal.log.take() else { return };
    let records = std::mem::take(&mut journal.buffer);
    let covered = journal.logged;
    let (written, before) = (journal.written.clone(), std::mem::take(&mut journal.cut_before));
    let write = move || {
        let (timer, count) = (Timer::start(), records.len());
        let done = written.measure(|| write_all(log, records, before));
        timer.stop(&LOG_SYNC, || labels, None);
        written.done(1, count - done.left.len());
        done
    };
    let written = cx.machine().run(write);
    cx.spawn(written, move |service, done, cx| {
        let done = done.unwrap_or_else(|error| stop(cx.machine(), &error.to_string()));
        if let Some(error) = done.failed {
            stop(cx.machine(), &error.to_string());
        }
        let journal = service.journal();
        journal.log = Some(done.log);
        journal.synced = covered - done.left.len() as u64;
        journal.buffer.splice(0..0, done.left);
        journal.release();
        if journal.low != done.low {
            journal.low = done.low;
            match done.low {
                true => tracing::error!("{}: the volume is full; changes are refused", S::NAME),
                false => tracing::info!("{}: the volume has room again", S::NAME),
            }
        }
        if done.low {
            cx.after(LOOK_AGAIN, pass);
        }
        service.synced(cx);
        pump(service, cx);
    });
}

fn write_all(mut log: Box<dyn Log>, records: Vec<Vec<u8>>, before: u64) -> Written {
    let mut left = records.into_iter();
    let mut failed = None;
    let mut full = false;
    while let Some(record) = left.as_slice().first() {
        match log.append(record) {
            Ok(_) => drop(left.next()),
            Err(StoreError::Full { .. }) => {
                full = true;
                break;
            }
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    failed = failed.or_else(|| log.sync().err());
    if failed.is_none()
        && before > 0
        && let Err(error) = log.cut(before)
    {
        tracing::warn!(%error, "cannot cut the log; it is tried again after the next snapshot");
    }
    let low = failed.is_none() && (log.is_low() || full);
    Written { log, left: left.collect(), low, failed }
}

fn stop(machine: &Machine, reason: &str) -> ! {
    tracing::error!(reason, "cannot write the log of record; ending the process");
    machine.end(reason)
}
