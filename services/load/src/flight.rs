//! What is under way: one state machine without I/O that decides what is sent when, and what has
//! become of it.
//!
//! The transactions of an account are sent in nonce order. One that is refused for a reason that
//! passes (a full pool, a shard that does not answer) is sent again after a pause, and the later ones
//! of its account wait for it. A reason that stays, a transaction that the cluster drops, or too many
//! refusals in a row retire the account, for nonces after a gap can never run: what it had to send is
//! counted as `skipped`.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap},
    time::Duration,
};

use alloy_primitives::{B256, Bytes};
use tokio::time::Instant;

use crate::{
    sign::Signed,
    stats::Stats,
    wire::{Answer, Event, Kind, Stage},
};

/// Refusals in a row after which an account is retired: about eight seconds.
const ATTEMPTS: u32 = 13;

/// Pause after the given number of refusals in a row.
fn pause(refusals: u32) -> Duration {
    Duration::from_millis(20 << refusals.saturating_sub(1).min(6)).min(Duration::from_secs(1))
}

/// A transaction to be written to a stream.
#[derive(Clone, Debug)]
pub struct Outgoing {
    pub hash: B256,
    pub raw: Bytes,
}

/// Everything that was offered and is not finished.
pub struct Flight {
    pub stats: Stats,
    table: HashMap<B256, Entry>,
    accounts: Vec<Account>,
    /// When accounts may try again.
    wakes: BinaryHeap<Reverse<(Instant, u32)>>,
    /// To be sent, for each stream.
    outbox: Vec<Vec<Outgoing>>,
    /// Most unfinished transactions of one account.
    per_account: u32,
    /// Final, but how they ended has to be asked for.
    unclear: Vec<B256>,
    /// Under way of retired accounts: they may never finish.
    stuck: usize,
}

#[derive(Default)]
struct Account {
    /// By nonce: not sent yet, or to be sent again.
    waiting: BTreeMap<u64, B256>,
    /// Sent and not finished.
    under_way: u32,
    /// Sent and not answered.
    unanswered: u32,
    /// Refusals since one was taken. While there are any, one at a time is tried.
    refusals: u32,
    /// Nothing is sent before this.
    wake: Option<Instant>,
    retired: bool,
}

struct Entry {
    raw: Bytes,
    account: u32,
    nonce: u64,
    due: Instant,
    measured: bool,
    state: State,
    attempts: u32,
    /// Reason of the last refusal.
    refused: Option<&'static str>,
    /// An attempt may have been taken although it was not answered so.
    doubtful: bool,
    executed: Option<Executed>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Sent,
    Taken,
}

#[derive(Clone, Copy)]
struct Executed {
    status: bool,
    kind: Kind,
    shards: u32,
    at: Instant,
}

impl Flight {
    /// For accounts 0..`accounts`, at most `per_account` unfinished transactions of each.
    pub fn new(stats: Stats, accounts: usize, streams: usize, per_account: u32) -> Self {
        let mut all = Vec::new();
        all.resize_with(accounts, Account::default);
        Self {
            stats,
            table: HashMap::new(),
            accounts: all,
            wakes: BinaryHeap::new(),
            outbox: vec![Vec::new(); streams.max(1)],
            per_account,
            unclear: Vec::new(),
            stuck: 0,
        }
    }

    /// Number of unfinished transactions.
    pub fn outstanding(&self) -> usize {
        self.table.len()
    }

    /// Number of unfinished transactions without those of retired accounts: what a window limits.
    pub fn moving(&self) -> usize {
        self.table.len() - self.stuck
    }

    /// Takes the next transaction of its account, which was due at `due`. False if the account is
    /// retired.
    pub fn offer(&mut self, signed: Signed, due: Instant, now: Instant) -> bool {
        let measured = self.stats.measures(due);
        if measured {
            self.stats.offered += 1;
        }
        let Signed { sender, nonce, hash, raw } = signed;
        let account = &mut self.accounts[sender as usize];
        if account.retired {
            self.stats.fail("skipped", measured.into());
            return false;
        }
        account.waiting.insert(nonce, hash);
        let entry = Entry {
            raw,
            account: sender,
            nonce,
            due,
            measured,
            state: State::Waiting,
            attempts: 0,
            refused: None,
            doubtful: false,
            executed: None,
        };
        self.table.insert(hash, entry);
        self.pump(sender, now);
        true
    }

    /// Sends what an account may send now.
    fn pump(&mut self, index: u32, now: Instant) {
        let account = &mut self.accounts[index as usize];
        if account.wake.is_some_and(|wake| wake > now) {
            return;
        }
        account.wake = None;
        while account.under_way < self.per_account
            && (account.refusals == 0 || account.unanswered == 0)
            && let Some((_, hash)) = account.waiting.pop_first()
        {
            let Some(entry) = self.table.get_mut(&hash) else {
                continue;
            };
            account.under_way += 1;
            account.unanswered += 1;
            entry.state = State::Sent;
            if entry.attempts > 0 {
                self.stats.retries += u64::from(entry.measured);
            } else if entry.measured {
                Stats::record(&mut self.stats.lag_us, entry.due, now);
            }
            entry.attempts += 1;
            let stream = index as usize % self.outbox.len();
            self.outbox[stream].push(Outgoing { hash, raw: entry.raw.clone() });
        }
    }

    /// What has to be written, by stream.
    pub fn outbox(&mut self) -> impl Iterator<Item = (usize, Vec<Outgoing>)> + '_ {
        let full = self.outbox.iter_mut().enumerate();
        full.filter(|(_, batch)| !batch.is_empty())
            .map(|(stream, batch)| (stream, std::mem::take(batch)))
    }

    /// When `wake` has something to do.
    pub fn next_wake(&self) -> Option<Instant> {
        self.wakes.peek().map(|Reverse((at, _))| *at)
    }

    /// Lets accounts try again whose pause is over.
    pub fn wake(&mut self, now: Instant) {
        while let Some(Reverse((at, index))) = self.wakes.peek().copied()
            && at <= now
        {
            self.wakes.pop();
            self.pump(index, now);
        }
    }

    /// What the cluster said to an attempt.
    pub fn answered(&mut self, hash: &B256, answer: &Answer, now: Instant) {
        let Some(entry) = self.table.get_mut(hash) else {
            return;
        };
        if entry.state != State::Sent {
            return;
        }
        let index = entry.account;
        let refusal = match answer {
            Answer::Taken => None,
            Answer::Refused { code, .. } if *code == "nonce_too_low" && entry.doubtful => None,
            Answer::Refused { code, message, passes } => Some((*code, message, *passes)),
        };
        let Some((code, message, passes)) = refusal else {
            self.taken(hash, now);
            self.pump(index, now);
            return;
        };
        if entry.measured {
            *self.stats.refusals.entry(code).or_default() += 1;
        }
        entry.refused = Some(code);
        entry.doubtful |= code == "unknown";
        entry.state = State::Waiting;
        let nonce = entry.nonce;
        let account = &mut self.accounts[index as usize];
        account.under_way -= 1;
        account.unanswered -= 1;
        self.stuck -= usize::from(account.retired);
        account.waiting.insert(nonce, *hash);
        if account.wake.is_none() {
            account.refusals += 1;
            let wake = now + pause(account.refusals);
            account.wake = Some(wake);
            self.wakes.push(Reverse((wake, index)));
        }
        if !passes || account.retired || account.refusals >= ATTEMPTS {
            self.stats.explain(|| format!("refused as {code}: {message}"));
            self.retire(index);
        }
    }

    fn taken(&mut self, hash: &B256, now: Instant) {
        let Some(entry) = self.table.get_mut(hash) else {
            return;
        };
        let account = &mut self.accounts[entry.account as usize];
        match entry.state {
            State::Taken => return,
            State::Sent => account.unanswered -= 1,
            // It was taken although the answer was lost, or said otherwise.
            State::Waiting => {
                account.waiting.remove(&entry.nonce);
                account.under_way += 1;
            }
        }
        account.refusals = 0;
        entry.state = State::Taken;
        entry.raw = Bytes::new();
        self.stats.submitted += u64::from(entry.measured);
        self.stats.arrived.submitted += u64::from(self.stats.measures(now));
    }

    /// What a receipt says.
    pub fn receipt(&mut self, event: &Event) {
        let Some(entry) = self.table.get_mut(&event.hash) else {
            return;
        };
        let seen =
            |status| Executed { status, kind: event.kind, shards: event.shards, at: event.at };
        match &event.stage {
            Stage::Pending => {}
            Stage::Executed => {
                // The status of a credit holds only once it is final.
                if event.kind != Kind::Credit && entry.executed.is_none() {
                    entry.executed = Some(seen(event.status));
                    self.stats.arrived.executed +=
                        u64::from(event.status && self.stats.measures(event.at));
                }
                self.taken(&event.hash, event.at);
            }
            Stage::Final => {
                let outcome = match (event.kind, entry.executed) {
                    (Kind::Unknown, Some(executed)) => executed,
                    (Kind::Unknown, None) => {
                        self.unclear.push(event.hash);
                        return;
                    }
                    (_, Some(executed)) => Executed { at: executed.at, ..seen(event.status) },
                    (_, None) => seen(event.status),
                };
                let first = entry.executed.is_none();
                self.taken(&event.hash, event.at);
                self.finalised(event, outcome, first);
            }
            Stage::Dropped(reason) => {
                self.taken(&event.hash, event.at);
                let Some(entry) = self.finish(&event.hash) else {
                    return;
                };
                self.stats.fail("dropped", entry.measured.into());
                self.stats.explain(|| format!("dropped: {reason}"));
                self.retire(entry.account);
            }
        }
    }

    fn finalised(&mut self, event: &Event, outcome: Executed, first: bool) {
        let Some(entry) = self.finish(&event.hash) else {
            return;
        };
        let stats = &mut self.stats;
        let within = u64::from(outcome.status && stats.measures(event.at));
        stats.arrived.executed += if first { within } else { 0 };
        stats.arrived.finals += within;
        if stats.measures(event.at) {
            stats.arrived.ended += 1;
            stats.arrived.crossed += u64::from(outcome.shards > 1);
            stats.arrived.ordered += u64::from(outcome.kind == Kind::Group);
        }
        if entry.measured {
            stats.crossed += u64::from(outcome.shards > 1);
            stats.asked += u64::from(event.asked);
            if outcome.status {
                stats.finals += 1;
                Stats::record(&mut stats.executed_us, entry.due, outcome.at);
                Stats::record(&mut stats.final_us, entry.due, event.at);
                if outcome.shards > 1 {
                    Stats::record(&mut stats.cross_final_us, entry.due, event.at);
                } else {
                    Stats::record(&mut stats.local_executed_us, entry.due, outcome.at);
                }
            } else {
                stats.fail("reverted", 1);
            }
        }
        if !outcome.status {
            let gas = event.gas_used;
            let hash = event.hash;
            stats.explain(|| format!("transaction {hash} failed ({:?}, {gas} gas)", outcome.kind));
        }
        self.pump(entry.account, event.at);
    }

    fn finish(&mut self, hash: &B256) -> Option<Entry> {
        let entry = self.table.remove(hash)?;
        let account = &mut self.accounts[entry.account as usize];
        account.under_way -= 1;
        self.stuck -= usize::from(account.retired);
        Some(entry)
    }

    /// Stops using an account.
    fn retire(&mut self, index: u32) {
        let account = &mut self.accounts[index as usize];
        if !account.retired {
            account.retired = true;
            self.stuck += account.under_way as usize;
        }
        for hash in std::mem::take(&mut account.waiting).into_values() {
            if let Some(entry) = self.table.remove(&hash) {
                Self::give_up(&mut self.stats, &entry);
            }
        }
    }

    fn give_up(stats: &mut Stats, entry: &Entry) {
        if entry.measured {
            match (entry.state, entry.refused) {
                (State::Taken, _) => stats.fail("unresolved", 1),
                (State::Sent, _) => stats.fail("unanswered", 1),
                (State::Waiting, Some(code)) => stats.fail(format!("refused_{code}"), 1),
                (State::Waiting, None) => stats.fail("skipped", 1),
            }
        }
    }

    /// Transactions whose end has to be asked for, since the stream did not say.
    pub fn unclear(&mut self) -> Vec<B256> {
        std::mem::take(&mut self.unclear)
    }

    /// Everything that was sent and is not finished.
    pub fn sent(&self) -> Vec<B256> {
        let sent = self.table.iter().filter(|(_, entry)| entry.attempts > 0);
        sent.map(|(hash, _)| *hash).collect()
    }

    /// Counts what is unfinished as failed.
    pub fn close(mut self) -> Stats {
        for entry in self.table.values() {
            Self::give_up(&mut self.stats, entry);
        }
        if !self.table.is_empty() {
            let left = self.table.len();
            self.stats.explain(|| format!("{left} transactions were not final in time"));
        }
        self.stats
    }
}
