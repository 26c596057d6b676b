//! Group commit for an actor: what it has changed is logged and synced beside it, and nothing that
//! could depend on a change leaves the actor before that change is durable.

use std::{collections::VecDeque, sync::Arc};

use atoll_fabric::{Cx, Reply, Rpc, Service};
use atoll_meter::Work;
use atoll_store::{Log, StoreError};

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
    /// Syncs, the records that they covered, and the processor time for both.
    written: Arc<Work>,
}

/// An actor with a journal.
pub trait Journaled: Service {
    fn journal(&mut self) -> &mut Journal;

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
            written: Arc::default(),
        }
    }

    /// Adds a record. Call [`pump`] before the handler ends.
    pub fn record(&mut self, record: Vec<u8>) {
        self.buffer.push(record);
        self.logged += 1;
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

/// Starts a sync of what is buffered, unless one is under way.
///
/// A log that fails to write or sync ends the process: retrying could acknowledge what is lost.
pub fn pump<S: Journaled>(service: &mut S, cx: &mut Cx<'_, S>) {
    let journal = service.journal();
    if journal.buffer.is_empty() {
        return;
    }
    let Some(mut log) = journal.log.take() else { return };
    let records = std::mem::take(&mut journal.buffer);
    let covered = journal.logged;
    let written = journal.written.clone();
    let write = move || {
        let result = written.measure(|| write_all(log.as_mut(), &records));
        written.done(1, records.len());
        (log, result)
    };
    cx.spawn(tokio::task::spawn_blocking(write), move |service, done, cx| {
        let log = match done {
            Ok((log, Ok(()))) => log,
            Ok((_, Err(error))) => stop(&error.to_string()),
            Err(error) => stop(&error.to_string()),
        };
        let journal = service.journal();
        journal.log = Some(log);
        journal.synced = covered;
        journal.release();
        service.synced(cx);
        pump(service, cx);
    });
}

fn write_all(log: &mut dyn Log, records: &[Vec<u8>]) -> Result<(), StoreError> {
    for record in records {
        log.append(record)?;
    }
    log.sync()
}

fn stop(reason: &str) -> ! {
    tracing::error!(reason, "cannot write the log of record; ending the process");
    std::process::abort()
}
