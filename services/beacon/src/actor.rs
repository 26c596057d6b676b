//! The shell: when blocks are made, and who waits for them.

use std::{sync::Arc, time::Duration};

use atoll_api::beacon::{
    Announce, BeaconStats, BeaconStatsReply, Blocks, Head, TakeBeaconSnapshot,
};
use atoll_fabric::{Context, Cx, Handle, Reply, Service};
use atoll_journal::{Journal, Journaled, Keeper, SnapshotConfig, pump};
use atoll_meter::thread_cpu_ns;
use atoll_store::{Log, Snapshots};
use atoll_telemetry::metrics::{Timer, table};
use atoll_types::B256;

use crate::{core::Core, pace::Pace};

/// Milliseconds since 1970.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;
/// Fresh random bytes: `PREVRANDAO` of the next block.
pub type Randomness = Arc<dyn Fn() -> B256 + Send + Sync>;

/// When blocks are made, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Cadence {
    /// Longest time between blocks while there is work.
    pub block_ms: u64,
    /// Shortest time, for a block that is early because every open group can be decided.
    pub min_block_ms: u64,
    /// Time between blocks while there is none.
    pub heartbeat_ms: u64,
}

impl Default for Cadence {
    fn default() -> Self {
        Self { block_ms: 50, min_block_ms: 10, heartbeat_ms: 2_000 }
    }
}

/// The `beacon` service.
pub struct BeaconService {
    pub(crate) core: Core,
    pub(crate) journal: Journal,
    pub(crate) log_next: u64,
    pub(crate) keeper: Option<Keeper>,
    /// Who waits for a snapshot, and at which block.
    pub(crate) snapshots: Vec<(u64, Reply<TakeBeaconSnapshot>)>,
    cadence: Cadence,
    pub(crate) pace: Pace,
    clock: Clock,
    randomness: Randomness,
    made_ms: u64,
    /// When the next look at the cadence is due, if a timer is set.
    look_ms: Option<u64>,
    waiting: Vec<(u64, Blocks, Reply<Blocks>)>,
    next_waiter: u64,
}

impl BeaconService {
    /// A service on a core that was opened from `log`.
    pub fn new(
        core: Core,
        log: Box<dyn Log>,
        cadence: Cadence,
        clock: Clock,
        randomness: Randomness,
    ) -> Self {
        Self {
            pace: Pace::new(core.planner().config().max_lag),
            core,
            log_next: log.next(),
            journal: Journal::new(log),
            keeper: None,
            snapshots: Vec::new(),
            cadence,
            // The first block is made at once: after a restart, shards can be read at its cut.
            made_ms: 0,
            clock,
            randomness,
            look_ms: None,
            waiting: Vec::new(),
            next_waiter: 0,
        }
    }

    /// Has it take snapshots, and cut its log behind them.
    #[must_use]
    pub fn with_snapshots(mut self, snapshots: Snapshots, config: SnapshotConfig) -> Self {
        let head = self.core.planner().head().number();
        self.keeper = Some(Keeper::new(snapshots, config, head));
        self.journal.count_bytes(self.core.tail_bytes());
        self
    }

    /// When the next block is due, as of what is known now.
    fn due_ms(&self) -> u64 {
        let planner = self.core.planner();
        let wait = if planner.all_decidable() {
            self.cadence.min_block_ms
        } else if planner.has_work() {
            self.cadence.block_ms
        } else {
            self.cadence.heartbeat_ms
        };
        // A heartbeat is not stretched: who waits for a block counts on it.
        let longest = wait.max(self.cadence.heartbeat_ms);
        let wait = (wait * self.pace.factor(planner.head().number())).min(longest);
        self.made_ms.saturating_add(wait)
    }

    /// Makes a block if one is due, and sets the timer for the next look.
    fn look(&mut self, cx: &mut Cx<'_, Self>) {
        let now = (self.clock)();
        // A clock set back must not stop the chain.
        self.made_ms = self.made_ms.min(now);
        // One block is synced before the next is made: their cadence is the group commit.
        let low = self.journal.is_low();
        if self.due_ms() <= now && self.journal.is_idle() && !low {
            self.make(now, cx);
        }
        // On a full volume it is the journal that looks again, and says so when it has synced.
        let due = self.due_ms().max(now + if low { self.cadence.heartbeat_ms } else { 1 });
        if self.look_ms.is_none_or(|set| due < set) {
            self.look_ms = Some(due);
            cx.after(Duration::from_millis(due - now), move |service, cx| {
                if service.look_ms == Some(due) {
                    service.look_ms = None;
                }
                service.look(cx);
            });
        }
    }

    fn make(&mut self, now_ms: u64, cx: &mut Cx<'_, Self>) {
        let timer = Timer::start();
        match self.core.make(now_ms, (self.randomness)()) {
            Ok(record) => {
                self.journal.record(record);
                self.log_next += 1;
            }
            Err(error) => {
                tracing::error!(%error, "cannot index a block; ending the process");
                cx.machine().end(&error.to_string());
            }
        }
        timer.stop(&table::STAGE, || vec!["order".to_owned(), String::new()], None);
        self.made_ms = now_ms;
        for (_, asked, reply) in std::mem::take(&mut self.waiting) {
            let answer = self.core.blocks(&asked);
            self.journal.reply(reply, answer);
        }
        self.made(cx);
        pump(self, cx);
    }
}

impl Service for BeaconService {
    const NAME: &'static str = "beacon";

    fn started(&mut self, cx: &mut Cx<'_, Self>) {
        self.look(cx);
    }

    fn stopped(&mut self) {
        if let Some(keeper) = &self.keeper {
            keeper.stop();
        }
        if !self.journal.is_idle() {
            return;
        }
        let bytes = self.journal.bytes();
        let tail = self.keeper.as_ref().map_or(bytes, |keeper| keeper.since(bytes));
        if let Err(error) = self.core.close(self.log_next, tail) {
            tracing::warn!(%error, "no clean stop; the next start replays the log");
        }
    }
}

impl Journaled for BeaconService {
    fn journal(&mut self) -> &mut Journal {
        &mut self.journal
    }

    fn synced(&mut self, cx: &mut Cx<'_, Self>) {
        self.look(cx);
    }
}

impl Handle<Announce> for BeaconService {
    fn handle(
        &mut self,
        announce: Announce,
        _: Context,
        reply: Reply<Announce>,
        cx: &mut Cx<'_, Self>,
    ) {
        let (from, cut) = (announce.from, announce.anchor.as_ref().map(|anchor| anchor.cut));
        let taken = self.core.announce(announce);
        if let (Ok(_), Some(cut)) = (&taken, cut) {
            self.pace.heard(from, cut, self.core.planner().head().number());
        }
        reply.send(taken);
        self.look(cx);
    }
}

impl Handle<Head> for BeaconService {
    fn handle(&mut self, _: Head, _: Context, reply: Reply<Head>, _: &mut Cx<'_, Self>) {
        let head = self.core.head();
        self.journal.reply(reply, Ok(head));
    }
}

impl Handle<BeaconStats> for BeaconService {
    fn handle(
        &mut self,
        _: BeaconStats,
        _: Context,
        reply: Reply<BeaconStats>,
        _: &mut Cx<'_, Self>,
    ) {
        // The thread is the beacon's own: mailbox, timers and waiting callers are in its time.
        let cpu_ns = thread_cpu_ns() + self.journal.cpu_ns();
        let stats = BeaconStatsReply { cpu_ns, ..self.core.stats() };
        self.publish(&stats);
        reply.ok(stats);
    }
}

impl Handle<Blocks> for BeaconService {
    fn handle(&mut self, asked: Blocks, _: Context, reply: Reply<Blocks>, cx: &mut Cx<'_, Self>) {
        let newest = self.core.planner().head().number();
        if asked.after < newest || asked.wait_ms == 0 {
            let answer = self.core.blocks(&asked);
            return self.journal.reply(reply, answer);
        }
        self.next_waiter += 1;
        let (id, wait_ms) = (self.next_waiter, asked.wait_ms);
        self.waiting.retain(|(.., reply)| !reply.is_abandoned());
        self.waiting.push((id, asked, reply));
        // Before that a block is made, and answers.
        if wait_ms > self.cadence.heartbeat_ms {
            return;
        }
        cx.after(Duration::from_millis(wait_ms), move |service, _| {
            if let Some(at) = service.waiting.iter().position(|(waiter, ..)| *waiter == id) {
                let (_, asked, reply) = service.waiting.swap_remove(at);
                let answer = service.core.blocks(&asked);
                service.journal.reply(reply, answer);
            }
        });
    }
}
