//! The shell around [`Core`]: carries out what it says, holds replies until what they depend on is
//! durable, and answers those who wait for something to happen.

use std::{collections::VecDeque, time::Duration};

use atoll_api::state::{
    AcceptParts, Append, Cut, Feed, LeaseLate, Lookup, Outbox, Progress, Prove, PutCodes,
    Quarantine, Ran, Read, Recall, ReceiveCredits, RoundsRun, Settle, Share, StateError,
    StoreResults, Sync, TakeSnapshot, TellDropped, Watch, WatchReply, Withdraw,
};
use atoll_fabric::{Context, Cx, Fault, Handle, Machine, Reply, Rpc, Service};
use atoll_journal::{Journal, Journaled, Keeper, SnapshotConfig, pump};
use atoll_store::{Log, Snapshots};
use atoll_telemetry::metrics::Timer;
use atoll_types::{Anchor, encode};

use crate::{
    core::{Core, Done},
    values::MOST_WAITING,
};

/// Longest time that a caller may wait for something to happen.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// Longest time that a caller waits for a root: several heartbeats of the beacon.
const ROOT_WAIT: Duration = Duration::from_secs(8);

/// A caller that waits for something to happen.
struct Waiter<M: Rpc> {
    id: u64,
    message: M,
    reply: Reply<M>,
}

/// The `state` service of one shard.
pub struct StateService {
    pub(crate) core: Core,
    pub(crate) journal: Journal,
    pub(crate) log_next: u64,
    /// Newest anchor told, and its version.
    anchor: Anchor,
    version: u64,
    next_waiter: u64,
    /// Local blocks that no cut has taken in, with when they were appended.
    pub(crate) unanchored: VecDeque<(u64, Timer)>,
    readers: Vec<Waiter<Read>>,
    progresses: Vec<Waiter<Progress>>,
    syncs: Vec<Waiter<Sync>>,
    feeds: Vec<Waiter<Feed>>,
    watches: Vec<Waiter<Watch>>,
    proofs: Vec<Waiter<Prove>>,
    indexing: bool,
    pub(crate) keeper: Option<Keeper>,
    /// Who waits for a snapshot, and at which cut.
    pub(crate) snapshots: Vec<(u64, Reply<TakeSnapshot>)>,
}

impl StateService {
    /// A service on a core that was opened from `log`.
    pub fn new(core: Core, log: Box<dyn Log>) -> Self {
        Self {
            anchor: core.anchor(),
            core,
            log_next: log.next(),
            journal: Journal::new(log),
            version: 1,
            next_waiter: 0,
            unanchored: VecDeque::new(),
            readers: Vec::new(),
            progresses: Vec::new(),
            syncs: Vec::new(),
            feeds: Vec::new(),
            watches: Vec::new(),
            proofs: Vec::new(),
            indexing: false,
            keeper: None,
            snapshots: Vec::new(),
        }
    }

    /// Has it take snapshots, and cut its log behind them.
    #[must_use]
    pub fn with_snapshots(mut self, snapshots: Snapshots, config: SnapshotConfig) -> Self {
        let cut = self.core.owner().cut_number();
        self.keeper = Some(Keeper::new(snapshots, config, cut));
        self.journal.count_bytes(self.core.tail_bytes());
        self
    }

    /// Logs what an operation did, and answers once it is durable.
    fn done<M: Rpc<Error = StateError>>(
        &mut self,
        reply: Reply<M>,
        result: Result<Done<M::Reply>, StateError>,
        cx: &mut Cx<'_, Self>,
    ) {
        let changed = matches!(&result, Ok((_, Some(_))));
        let answer = match result {
            Ok((answer, record)) => {
                if let Some(record) = record {
                    self.journal.record(encode(&record));
                    self.log_next += 1;
                }
                Ok(answer)
            }
            Err(StateError::Storage { reason }) => {
                // The change may be half done in memory; the log is whole. Starting again rebuilds.
                tracing::error!(reason, "cannot apply a change; ending the process");
                cx.machine().end(&reason)
            }
            Err(error) => Err(error),
        };
        self.journal.reply(reply, answer);
        if changed {
            if let Some(error) = self.core.wrong_root.take() {
                tracing::error!(%error, "the beacon holds another root; ending the process");
                cx.machine().end(&error.to_string());
            }
            self.wake();
            pump(self, cx);
            self.compute_root(cx);
        }
    }

    /// Refuses a change while there is no room for it.
    fn check_room(&self) -> Result<(), StateError> {
        match self.journal.is_low() {
            true => Err(StateError::Full { shard: self.core.owner().shard() }),
            false => Ok(()),
        }
    }

    /// Settlements that came before the cut that they were made after.
    fn settle_early(&mut self, cx: &mut Cx<'_, Self>) {
        let mut is_news = false;
        for settlement in self.core.take_early() {
            let result = self.core.settle(settlement);
            match result {
                Ok((_, Some(record))) => {
                    self.journal.record(encode(&record));
                    self.log_next += 1;
                    is_news = true;
                }
                Ok((_, None)) => {}
                Err(error) => {
                    tracing::error!(%error, "cannot apply a change; ending the process");
                    cx.machine().end(&error.to_string())
                }
            }
        }
        if is_news {
            self.wake();
        }
        pump(self, cx);
    }

    /// Answers everybody for whom something has happened, once it is durable.
    fn wake(&mut self) {
        let cut = self.core.owner().cut_number();
        for waiter in take(&mut self.readers, |read| read.min_cut <= cut) {
            let result = self.core.read(&waiter.message);
            self.journal.reply(waiter.reply, result);
        }
        for waiter in take(&mut self.progresses, |asked| asked.min_cut <= cut) {
            let answer = self.core.progress();
            self.journal.reply(waiter.reply, Ok(answer));
        }
        let (newest, full) = (self.core.changes.newest(), self.journal.is_low());
        for waiter in take(&mut self.syncs, |sync| sync.after != newest || sync.full != full) {
            let answer = self.core.sync(waiter.message.after, full);
            self.journal.reply(waiter.reply, Ok(answer));
        }
        if !self.proofs.is_empty() {
            for Waiter { id, message, reply } in std::mem::take(&mut self.proofs) {
                match self.core.prove(&message) {
                    Some(proven) => self.journal.reply(reply, proven),
                    None => self.proofs.push(Waiter { id, message, reply }),
                }
            }
        }
        let events = &self.core.events;
        for waiter in take(&mut self.feeds, |feed| events.has_after(feed.after)) {
            self.journal.reply(waiter.reply, Ok(events.after(&waiter.message)));
        }
        if !self.watches.is_empty() {
            self.renew_anchor();
            let (version, core) = (self.version, &self.core);
            let news =
                |watch: &Watch| watch.version != version || !core.credits_for(watch).is_empty();
            for waiter in take(&mut self.watches, news) {
                let answer = self.watch_reply(&waiter.message);
                self.journal.reply(waiter.reply, Ok(answer));
            }
        }
    }

    fn renew_anchor(&mut self) {
        let anchor = self.core.anchor();
        if anchor != self.anchor {
            self.anchor = anchor;
            self.version += 1;
        }
    }

    fn watch_reply(&self, watch: &Watch) -> WatchReply {
        WatchReply {
            version: self.version,
            anchor: self.anchor.clone(),
            credits: self.core.credits_for(watch),
        }
    }

    /// Brings the tree to the cut that is due, beside the actor.
    fn compute_root(&mut self, cx: &mut Cx<'_, Self>) {
        let Some(job) = self.core.roots.next_job() else {
            return;
        };
        let computed = cx.machine().run(move || job.run());
        cx.spawn(computed, |service, result, cx| {
            let root = match result {
                Ok(Ok(root)) => root,
                Ok(Err(error)) => give_up(cx.machine(), &error),
                Err(error) => give_up(cx.machine(), &error),
            };
            service.core.roots.done(root);
            service.wake();
            pump(service, cx);
        });
    }

    /// Hands what has gathered to the index, beside the actor.
    fn index(&mut self, cx: &mut Cx<'_, Self>) {
        // On a full volume sled would break for good.
        if self.indexing || self.journal.is_low() {
            return;
        }
        let Some(entries) = self.core.values.take_due() else {
            return;
        };
        self.indexing = true;
        let putter = self.core.values.putter();
        let put = cx.machine().run(move || putter.put_all(&entries));
        cx.spawn(put, |service, result, cx| {
            let error = match result {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(error) => Some(error.to_string()),
            };
            if let Some(reason) = error {
                tracing::error!(reason, "cannot write the index; ending the process");
                cx.machine().end(&reason);
            }
            service.indexing = false;
            service.core.values.entries_put();
            service.index(cx);
        });
    }

    /// Keeps a caller waiting, for `wait_ms` at the most; then `late` answers.
    fn wait<M: Rpc>(
        &mut self,
        (message, reply): (M, Reply<M>),
        wait_ms: u64,
        list: fn(&mut Self) -> &mut Vec<Waiter<M>>,
        late: fn(&mut Self, M, Reply<M>),
        cx: &mut Cx<'_, Self>,
    ) {
        self.next_waiter += 1;
        let id = self.next_waiter;
        list(self).retain(|waiter| !waiter.reply.is_abandoned());
        list(self).push(Waiter { id, message, reply });
        let wait = Duration::from_millis(wait_ms).min(MAX_WAIT);
        cx.after(wait, move |service, _| {
            let waiting = list(service);
            if let Some(at) = waiting.iter().position(|waiter| waiter.id == id) {
                let Waiter { message, reply, .. } = waiting.swap_remove(at);
                late(service, message, reply);
            }
        });
    }
}

/// What is in memory is neither what it was nor what it was to be; the log is whole.
fn give_up(machine: &Machine, error: &dyn std::fmt::Display) -> ! {
    tracing::error!(%error, "cannot compute a root; ending the process");
    machine.end(&error.to_string())
}

/// Takes those out of a list for whom something has happened.
fn take<M: Rpc>(list: &mut Vec<Waiter<M>>, happened: impl Fn(&M) -> bool) -> Vec<Waiter<M>> {
    list.extract_if(.., |waiter| happened(&waiter.message)).collect()
}

impl Service for StateService {
    const NAME: &'static str = "state";

    fn stopped(&mut self) {
        // Records that were not synced are in memory only; the marker would claim them. A writer
        // beside the actor could still put an older value over a newer one.
        if let Some(keeper) = &self.keeper {
            keeper.stop();
        }
        if !self.journal.is_idle() || self.indexing {
            return;
        }
        let bytes = self.journal.bytes();
        let tail = self.keeper.as_ref().map_or(bytes, |keeper| keeper.since(bytes));
        if let Err(error) = self.core.close(self.log_next, tail) {
            tracing::warn!(%error, "no clean stop; the next start replays the log");
        }
    }
}

impl Journaled for StateService {
    fn journal(&mut self) -> &mut Journal {
        &mut self.journal
    }

    fn shard_label(&self) -> String {
        self.core.owner().shard().to_string()
    }

    fn synced(&mut self, cx: &mut Cx<'_, Self>) {
        // Who has to know that the volume is full, or is not any more.
        let full = self.journal.is_low();
        if self.syncs.iter().any(|waiter| waiter.message.full != full) {
            self.wake();
        }
        self.index(cx);
    }
}

/// Requests that change the state: the operation, logged and answered when durable.
macro_rules! changes {
    ($($request:ident => |$core:ident, $message:ident| $operation:expr;)*) => {$(
        impl Handle<$request> for StateService {
            fn handle(
                &mut self,
                $message: $request,
                _: Context,
                reply: Reply<$request>,
                cx: &mut Cx<'_, Self>,
            ) {
                if let Err(full) = self.check_room() {
                    return reply.err(full);
                }
                let $core = &mut self.core;
                let result = $operation;
                self.done(reply, result, cx);
            }
        }
    )*};
}

/// Requests that look at the state as it is.
macro_rules! looks {
    ($($request:ident => |$core:ident, $message:ident| $operation:expr;)*) => {$(
        impl Handle<$request> for StateService {
            fn handle(
                &mut self,
                $message: $request,
                _: Context,
                reply: Reply<$request>,
                _: &mut Cx<'_, Self>,
            ) {
                let $core = &mut self.core;
                let result = $operation;
                self.journal.reply(reply, result);
            }
        }
    )*};
}

changes! {
    Share => |core, message| core.share(message);
    Withdraw => |core, message| core.withdraw(message);
    Quarantine => |core, message| core.quarantine(message.txs);
    StoreResults => |core, message| core.store_results(message.results);
    AcceptParts => |core, message| core.accept_parts(message.parts);
    ReceiveCredits => |core, message| core.receive_credits(message);
    Settle => |core, message| core.settle(message.settlement);
    LeaseLate => |core, message| core.lease_late(message);
    PutCodes => |core, message| core.put_codes(message.codes);
}

looks! {
    Outbox => |core, _message| Ok(core.outbox());
    Recall => |core, message| Ok(core.recall(&message));
    Ran => |core, message| core.ran(&message);
    RoundsRun => |core, message| core.rounds_run(&message);
    Lookup => |core, message| core.lookup(&message);
}

impl Handle<Append> for StateService {
    fn handle(&mut self, block: Append, _: Context, reply: Reply<Append>, cx: &mut Cx<'_, Self>) {
        if let Err(full) = self.check_room() {
            return reply.err(full);
        }
        if self.core.values.is_behind() {
            let behind = Fault::Overloaded { service: "index".into(), limit: MOST_WAITING };
            return reply.err(behind);
        }
        let timer = Timer::start();
        let result = self.core.append(block);
        if result.is_ok() {
            self.appended(timer);
        }
        self.done(reply, result, cx);
    }
}

impl Handle<Cut> for StateService {
    fn handle(&mut self, cut: Cut, _: Context, reply: Reply<Cut>, cx: &mut Cx<'_, Self>) {
        if let Err(full) = self.check_room() {
            return reply.err(full);
        }
        let before = self.core.owner().cut_number();
        let (timer, anchored) = (Timer::start(), self.anchored(&cut.block));
        let result = self.core.cut(cut);
        self.done(reply, result, cx);
        self.finals();
        if self.core.owner().cut_number() > before {
            timer.stage("apply", self.core.owner().shard());
            self.publish(anchored);
            self.passed_cut(cx);
            self.settle_early(cx);
        }
    }
}

impl Handle<TellDropped> for StateService {
    fn handle(
        &mut self,
        told: TellDropped,
        _: Context,
        reply: Reply<TellDropped>,
        _: &mut Cx<'_, Self>,
    ) {
        let result = self.core.tell_dropped(told.txs);
        self.journal.reply(reply, result);
        self.wake();
    }
}

impl Handle<Read> for StateService {
    fn handle(&mut self, read: Read, _: Context, reply: Reply<Read>, cx: &mut Cx<'_, Self>) {
        if read.min_cut <= self.core.owner().cut_number() {
            let result = self.core.read(&read);
            return self.journal.reply(reply, result);
        }
        let late = |service: &mut Self, read: Read, reply: Reply<Read>| {
            let newest = service.core.owner().cut_number();
            reply.err(StateError::CutAhead { asked: read.min_cut, newest });
        };
        let wait_ms = MAX_WAIT.as_millis() as u64;
        self.wait((read, reply), wait_ms, |service| &mut service.readers, late, cx);
    }
}

impl Handle<Progress> for StateService {
    fn handle(
        &mut self,
        asked: Progress,
        _: Context,
        reply: Reply<Progress>,
        cx: &mut Cx<'_, Self>,
    ) {
        if asked.min_cut <= self.core.owner().cut_number() {
            let answer = self.core.progress();
            return self.journal.reply(reply, Ok(answer));
        }
        let late = |service: &mut Self, asked: Progress, reply: Reply<Progress>| {
            let newest = service.core.owner().cut_number();
            reply.err(StateError::CutAhead { asked: asked.min_cut, newest });
        };
        let wait_ms = MAX_WAIT.as_millis() as u64;
        self.wait((asked, reply), wait_ms, |service| &mut service.progresses, late, cx);
    }
}

impl Handle<Prove> for StateService {
    fn handle(&mut self, prove: Prove, _: Context, reply: Reply<Prove>, cx: &mut Cx<'_, Self>) {
        if let Some(proven) = self.core.prove(&prove) {
            return self.journal.reply(reply, proven);
        }
        let late = |_: &mut Self, prove: Prove, reply: Reply<Prove>| {
            reply.err(StateError::NoRoot { asked: prove.min_cut });
        };
        let wait_ms = ROOT_WAIT.as_millis() as u64;
        self.wait((prove, reply), wait_ms, |service| &mut service.proofs, late, cx);
    }
}

impl Handle<Sync> for StateService {
    fn handle(&mut self, sync: Sync, _: Context, reply: Reply<Sync>, cx: &mut Cx<'_, Self>) {
        let full = self.journal.is_low();
        let news = sync.after != self.core.changes.newest() || sync.full != full;
        if news || sync.after == 0 || sync.wait_ms == 0 {
            let answer = self.core.sync(sync.after, full);
            return self.journal.reply(reply, Ok(answer));
        }
        let late = |service: &mut Self, sync: Sync, reply: Reply<Sync>| {
            let answer = service.core.sync(sync.after, service.journal.is_low());
            service.journal.reply(reply, Ok(answer));
        };
        let wait_ms = sync.wait_ms;
        self.wait((sync, reply), wait_ms, |service| &mut service.syncs, late, cx);
    }
}

impl Handle<Feed> for StateService {
    fn handle(&mut self, mut feed: Feed, _: Context, reply: Reply<Feed>, cx: &mut Cx<'_, Self>) {
        let events = &self.core.events;
        if feed.after == Feed::NEWEST {
            feed.after = events.newest();
        }
        if events.has_after(feed.after) || feed.wait_ms == 0 {
            let answer = events.after(&feed);
            return self.journal.reply(reply, Ok(answer));
        }
        let late = |service: &mut Self, feed: Feed, reply: Reply<Feed>| {
            let answer = service.core.events.after(&feed);
            service.journal.reply(reply, Ok(answer));
        };
        let wait_ms = feed.wait_ms;
        self.wait((feed, reply), wait_ms, |service| &mut service.feeds, late, cx);
    }
}

impl Handle<Watch> for StateService {
    fn handle(&mut self, watch: Watch, _: Context, reply: Reply<Watch>, cx: &mut Cx<'_, Self>) {
        self.renew_anchor();
        let news = watch.version != self.version || !self.core.credits_for(&watch).is_empty();
        if news || watch.wait_ms == 0 {
            let answer = self.watch_reply(&watch);
            return self.journal.reply(reply, Ok(answer));
        }
        let late = |service: &mut Self, watch: Watch, reply: Reply<Watch>| {
            let answer = service.watch_reply(&watch);
            service.journal.reply(reply, Ok(answer));
        };
        let wait_ms = watch.wait_ms;
        self.wait((watch, reply), wait_ms, |service| &mut service.watches, late, cx);
    }
}
