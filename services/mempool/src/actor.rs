//! The actor around the pool: reads accounts, follows the shard's state, keeps takers waiting.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::Address;
use atoll_api::convert::MAX_ITEMS;
use atoll_api::mempool::{
    Content, MempoolError, Pending, Report, Status, StatusReply, Submit, SubmitReply, Take,
    TakeReply,
};
use atoll_api::state::{Read, StateError, Sync, SyncReply, TellDropped};
use atoll_fabric::{Context, Cx, Fault, Handle, Link, Malformed, Reply, Service};
use atoll_telemetry::{Stage, metrics::Timer};
use atoll_types::{Basic, StateKey, Tx};
use tokio::sync::oneshot;

use crate::core::Pool;

/// Milliseconds of a clock that does not go back.
pub type Clock = Arc<dyn Fn() -> u64 + Send + std::marker::Sync>;

const TICK: Duration = Duration::from_secs(1);
const READ_TIMEOUT: Duration = Duration::from_secs(5);
const SYNC_WAIT_MS: u64 = 20_000;
const SYNC_TIMEOUT: Duration = Duration::from_secs(30);
const MIN_BACK_OFF: Duration = Duration::from_millis(50);
const MAX_BACK_OFF: Duration = Duration::from_secs(5);
/// Transactions looked at for expiry in one turn.
const EXPIRE_A_TURN: usize = 4096;
/// Accounts of doubtful senders read at a time.
const DOUBTFUL_A_READ: usize = 512;

/// The mempool as a service. Started with the links of a
/// [`StateClient`](atoll_api::StateClient) to `read`, `sync` and `tell_dropped`.
pub struct MempoolService {
    pool: Pool,
    read: Link<Read>,
    sync: Link<Sync>,
    tell_dropped: Link<TellDropped>,
    clock: Clock,
    /// Number of the newest change of the shard's state that the pool has; 0: none.
    newest_change: u64,
    sync_back_off: Duration,
    waiting: VecDeque<Waiter>,
    waiters: u64,
    reading_doubtful: bool,
}

/// Accounts, and the newest cut when they were read.
type Accounts = Result<(Vec<(Address, Basic)>, u64), StateError>;

/// A take without an answer yet.
struct Waiter {
    id: u64,
    take: Take,
    reply: Reply<Take>,
    /// Ends the timer when dropped.
    _timer: oneshot::Sender<()>,
}

/// A batch of transactions while its senders' accounts are read.
struct Batch {
    reply: Reply<Submit>,
    answer: SubmitReply,
    /// Those that nothing speaks against so far, with their places in the answer.
    txs: Vec<(usize, Tx)>,
}

impl Service for MempoolService {
    const NAME: &'static str = "mempool";

    fn started(&mut self, cx: &mut Cx<'_, Self>) {
        self.follow(cx);
        self.tick(cx);
    }
}

impl MempoolService {
    pub fn new(
        pool: Pool,
        read: Link<Read>,
        sync: Link<Sync>,
        tell_dropped: Link<TellDropped>,
        clock: Clock,
    ) -> Self {
        Self {
            pool,
            read,
            sync,
            tell_dropped,
            clock,
            newest_change: 0,
            sync_back_off: MIN_BACK_OFF,
            waiting: VecDeque::new(),
            waiters: 0,
            reading_doubtful: false,
        }
    }

    fn now_ms(&self) -> u64 {
        (self.clock)()
    }

    fn admit(&mut self, mut batch: Batch) {
        let now_ms = self.now_ms();
        let (shard, timer) = (self.pool.config.shard, Timer::start());
        for (place, tx) in batch.txs {
            let _stage = Stage::enter("admit", shard, &tx);
            batch.answer.refused[place] = self.pool.admit(tx, now_ms).err();
        }
        timer.stage("admit", shard);
        batch.reply.ok(batch.answer);
        self.wake();
    }

    fn accounts(
        &self,
        senders: &[Address],
        context: Context,
    ) -> impl Future<Output = Accounts> + use<> {
        let read = self.read.clone();
        let senders = senders.to_vec();
        let request = Read {
            keys: senders.iter().copied().map(StateKey::Basic).collect(),
            codes: Vec::new(),
            at: None,
            min_cut: 0,
        };
        async move {
            let context = context.with_timeout(READ_TIMEOUT);
            let reply = read.call(context, request).await?;
            if reply.values.len() != senders.len() {
                let (asked, got) = (senders.len(), reply.values.len());
                let reason = format!("asked for {asked} values, got {got}");
                return Err(Fault::Internal { reason }.into());
            }
            let values = reply.values.iter().map(|value| value.basic());
            Ok((senders.into_iter().zip(values).collect(), reply.cut))
        }
    }

    /// Asks for changes of the shard's state, now and for as long as the service stands.
    fn follow(&mut self, cx: &mut Cx<'_, Self>) {
        let sync = self.sync.clone();
        let request =
            Sync { after: self.newest_change, wait_ms: SYNC_WAIT_MS, full: self.pool.is_full() };
        let context = Context::none().with_timeout(SYNC_TIMEOUT);
        cx.spawn(async move { sync.call(context, request).await }, |service, result, cx| {
            match result {
                Ok(reply) => service.synced(reply, cx),
                Err(error) => {
                    tracing::warn!(%error, "cannot follow the shard's state");
                    service.follow_later(cx);
                }
            }
        });
    }

    fn follow_later(&mut self, cx: &mut Cx<'_, Self>) {
        let delay = self.sync_back_off;
        self.sync_back_off = (delay * 2).min(MAX_BACK_OFF);
        cx.after(delay, Self::follow);
    }

    fn synced(&mut self, reply: SyncReply, cx: &mut Cx<'_, Self>) {
        let now_ms = self.now_ms();
        let start = self.newest_change == 0;
        // A state without any change answers "start over" each time.
        let nothing = reply.reset && reply.changes.is_empty();
        if !(nothing && start && self.pool.is_synced()) && (reply.reset || start) {
            self.pool.reset(now_ms);
            self.newest_change = 0;
        }
        self.pool.base_fee(reply.env.base_fee);
        self.pool.set_full(reply.full);
        for change in &reply.changes {
            if !reply.reset && change.number <= self.newest_change {
                continue;
            }
            if !reply.reset && change.number != self.newest_change + 1 {
                let (newest, found) = (self.newest_change, change.number);
                tracing::error!(newest, found, "changes of the state are missing; starting over");
                self.newest_change = 0;
                self.follow_later(cx);
                return;
            }
            self.pool.change(change, now_ms);
            self.newest_change = change.number;
        }
        self.wake();
        self.read_if_in_doubt(cx);
        if nothing {
            self.follow_later(cx);
        } else {
            self.sync_back_off = MIN_BACK_OFF;
            self.follow(cx);
        }
    }

    fn tick(&mut self, cx: &mut Cx<'_, Self>) {
        let more = self.pool.expire(self.now_ms(), EXPIRE_A_TURN);
        self.tell(cx);
        self.wake();
        self.read_doubtful(cx);
        let delay = if more { Duration::ZERO } else { TICK };
        cx.after(delay, Self::tick);
    }

    fn read_if_in_doubt(&mut self, cx: &mut Cx<'_, Self>) {
        if self.pool.is_in_doubt() {
            self.read_doubtful(cx);
        }
    }

    /// Reads accounts that the pool is not sure of; one such read at a time.
    fn read_doubtful(&mut self, cx: &mut Cx<'_, Self>) {
        if self.reading_doubtful {
            return;
        }
        let senders = self.pool.doubtful(DOUBTFUL_A_READ);
        if senders.is_empty() {
            return;
        }
        self.reading_doubtful = true;
        self.pool.hold(&senders);
        let accounts = self.accounts(&senders, Context::none());
        cx.spawn(accounts, move |service, accounts, cx| {
            service.reading_doubtful = false;
            match accounts {
                Ok((accounts, cut)) => {
                    let now_ms = service.now_ms();
                    service.pool.learn(&accounts, cut, now_ms);
                    service.pool.release(&senders);
                    service.wake();
                    service.read_if_in_doubt(cx);
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot read accounts again; trying at the next tick");
                    senders.iter().for_each(|sender| service.pool.doubt(sender));
                    service.pool.release(&senders);
                }
            }
        });
    }

    /// Gives what has become executable to those who wait for it.
    /// Has the senders told of what will not run. Whoever asks before hears that it is pending.
    fn tell(&mut self, cx: &mut Cx<'_, Self>) {
        let txs = self.pool.take_dropped();
        if txs.is_empty() {
            return;
        }
        let link = self.tell_dropped.clone();
        let context = Context::none().with_timeout(READ_TIMEOUT);
        cx.spawn(async move { link.call(context, TellDropped { txs }).await }, |_, told, _| {
            if let Err(error) = told {
                tracing::warn!(%error, "senders are not told of dropped transactions");
            }
        });
    }

    fn wake(&mut self) {
        if self.waiting.is_empty() || !self.pool.has_ready() {
            return;
        }
        for waiter in std::mem::take(&mut self.waiting) {
            // What is given to a caller that has gone would be stuck until the next session.
            if waiter.reply.is_abandoned() {
                continue;
            }
            match self.take(&waiter.take) {
                Ok(txs) if txs.is_empty() => self.waiting.push_back(waiter),
                Ok(txs) => waiter.reply.ok(TakeReply { txs }),
                Err(error) => waiter.reply.err(error),
            }
        }
    }

    fn take(&mut self, take: &Take) -> Result<Vec<Tx>, MempoolError> {
        let now_ms = self.now_ms();
        let &Take { session, max_txs, max_gas, .. } = take;
        self.pool.take(session, max_txs, max_gas, now_ms)
    }

    fn wait(&mut self, take: Take, reply: Reply<Take>, cx: &mut Cx<'_, Self>) {
        let wait = Duration::from_millis(take.wait_ms.min(self.pool.limits().max_wait_ms));
        let (timer, answered) = oneshot::channel::<()>();
        self.waiters += 1;
        let id = self.waiters;
        self.waiting.push_back(Waiter { id, take, reply, _timer: timer });
        cx.spawn(tokio::time::timeout(wait, answered), move |service, _, _| {
            let place = service.waiting.iter().position(|waiter| waiter.id == id);
            if let Some(waiter) = place.and_then(|place| service.waiting.remove(place)) {
                waiter.reply.ok(TakeReply { txs: Vec::new() });
            }
        });
    }

    /// Tells takers of older sessions that they have been replaced.
    fn turn_away(&mut self, newest: u64) {
        for waiter in std::mem::take(&mut self.waiting) {
            let found = waiter.take.session;
            if found < newest {
                waiter.reply.err(MempoolError::OldSession { found, newest });
            } else {
                self.waiting.push_back(waiter);
            }
        }
    }
}

impl Handle<Submit> for MempoolService {
    fn handle(
        &mut self,
        Submit { txs }: Submit,
        context: Context,
        reply: Reply<Submit>,
        cx: &mut Cx<'_, Self>,
    ) {
        if txs.len() > MAX_ITEMS {
            let malformed = Malformed::new("txs", format!("at most {MAX_ITEMS} transactions"));
            return reply.err(Fault::from(malformed));
        }
        let mut batch = Batch {
            reply,
            answer: SubmitReply { refused: Vec::with_capacity(txs.len()) },
            txs: Vec::with_capacity(txs.len()),
        };
        let mut senders = BTreeSet::new();
        for (place, tx) in txs.into_iter().enumerate() {
            let refused = self.pool.check(&tx).err();
            if refused.is_none() {
                if self.pool.must_read(&tx.sender()) {
                    senders.insert(tx.sender());
                }
                batch.txs.push((place, tx));
            }
            batch.answer.refused.push(refused);
        }
        if senders.is_empty() {
            return self.admit(batch);
        }
        // Held while they are read, all of them: none may be forgotten before the batch is in.
        let read: Vec<_> = senders.into_iter().collect();
        let held: Vec<_> = batch.txs.iter().map(|(_, tx)| tx.sender()).collect();
        self.pool.hold(&held);
        let accounts = self.accounts(&read, context);
        cx.spawn(accounts, move |service, accounts, cx| {
            match accounts {
                Ok((accounts, cut)) => {
                    let now_ms = service.now_ms();
                    service.pool.learn(&accounts, cut, now_ms);
                    service.admit(batch);
                }
                Err(error) => {
                    let reason = error.to_string();
                    batch.reply.err(MempoolError::State { reason });
                }
            }
            service.pool.release(&held);
            service.read_if_in_doubt(cx);
        });
    }
}

impl Handle<Take> for MempoolService {
    fn handle(&mut self, take: Take, _: Context, reply: Reply<Take>, cx: &mut Cx<'_, Self>) {
        match self.take(&take) {
            Err(error) => reply.err(error),
            Ok(txs) => {
                self.turn_away(take.session);
                if txs.is_empty() && take.wait_ms > 0 {
                    self.wait(take, reply, cx);
                } else {
                    reply.ok(TakeReply { txs });
                }
            }
        }
    }
}

impl Handle<Report> for MempoolService {
    fn handle(&mut self, report: Report, _: Context, reply: Reply<Report>, cx: &mut Cx<'_, Self>) {
        let now_ms = self.now_ms();
        self.pool.report(&report.ends, now_ms);
        reply.ok(());
        self.tell(cx);
        self.wake();
        self.read_if_in_doubt(cx);
    }
}

impl Handle<Pending> for MempoolService {
    fn handle(&mut self, asked: Pending, _: Context, reply: Reply<Pending>, _: &mut Cx<'_, Self>) {
        reply.ok(self.pool.pending(&asked));
    }
}

impl Handle<Content> for MempoolService {
    fn handle(&mut self, asked: Content, _: Context, reply: Reply<Content>, _: &mut Cx<'_, Self>) {
        reply.ok(self.pool.content(&asked));
    }
}

impl Handle<Status> for MempoolService {
    fn handle(&mut self, _: Status, _: Context, reply: Reply<Status>, _: &mut Cx<'_, Self>) {
        let status: StatusReply = self.pool.status();
        self.pool.metrics.publish(&self.pool.config, &status);
        reply.ok(status);
    }
}
