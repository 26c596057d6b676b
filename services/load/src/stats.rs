//! What is counted, and from when to when.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use tokio::time::Instant;

/// Counts and latencies of the transactions that were due within the measured time. All of them are
/// in one of `submitted`, or a failure that begins with `refused_`, `skipped`, `unanswered` or
/// `unsent`; all submitted ones are `final_`, `reverted`, `dropped` or `unresolved`.
#[derive(Debug)]
pub struct Stats {
    /// Start and end of the measured time; `None` measures everything.
    window: Option<(Instant, Instant)>,
    /// Transactions that were due.
    pub offered: u64,
    /// Transactions that the cluster took.
    pub submitted: u64,
    /// Transactions that became final and succeeded.
    pub finals: u64,
    /// Transactions that did not become final and succeed, by reason.
    pub failures: BTreeMap<String, u64>,
    /// Refusals by reason, those that a later attempt made good included.
    pub refusals: BTreeMap<&'static str, u64>,
    /// Attempts after a first one was refused or not answered.
    pub retries: u64,
    /// Final transactions, reverted ones included, that touched more than one shard.
    pub crossed: u64,
    /// Receipts that were asked for one by one, because the stream of receipts missed them: their
    /// latency is too high.
    pub asked: u64,
    /// What arrived within the measured time, whenever it was due.
    pub arrived: Arrived,
    /// From when a transaction was due to the receipt of a success, in µs.
    pub executed_us: Histogram<u64>,
    pub final_us: Histogram<u64>,
    /// Executed, of those that touched one shard.
    pub local_executed_us: Histogram<u64>,
    /// Final, of those that touched more.
    pub cross_final_us: Histogram<u64>,
    /// From when a transaction was due to when it was handed to its connection, in µs.
    pub lag_us: Histogram<u64>,
    /// The first failure in words.
    pub first_failure: Option<String>,
}

/// Events within the measured time; executed and final are those that succeeded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrived {
    pub submitted: u64,
    pub executed: u64,
    pub finals: u64,
    /// Final, whether they succeeded or not.
    pub ended: u64,
    /// Of which touched more than one shard.
    pub crossed: u64,
    /// Of which were in a group.
    pub ordered: u64,
}

impl Stats {
    /// Measures from the first instant until just before the second.
    pub fn new(window: Option<(Instant, Instant)>) -> Self {
        // Three digits from 1 µs to 1 h; only bounds that contradict each other are refused.
        let histogram = || {
            Histogram::new_with_bounds(1, 3_600_000_000, 3)
                .expect("bounds of the histogram are fixed")
        };
        Self {
            window,
            offered: 0,
            submitted: 0,
            finals: 0,
            failures: BTreeMap::new(),
            refusals: BTreeMap::new(),
            retries: 0,
            crossed: 0,
            asked: 0,
            arrived: Arrived::default(),
            executed_us: histogram(),
            final_us: histogram(),
            local_executed_us: histogram(),
            cross_final_us: histogram(),
            lag_us: histogram(),
            first_failure: None,
        }
    }

    /// Whether an instant is within the measured time.
    pub fn measures(&self, at: Instant) -> bool {
        self.window.is_none_or(|(from, to)| from <= at && at < to)
    }

    /// Ends the measured time early.
    pub fn cut_short(&mut self, at: Instant) {
        if let Some((_, to)) = &mut self.window {
            *to = at.min(*to);
        }
    }

    /// Length of the measured time in seconds.
    pub fn seconds(&self) -> f64 {
        self.window.map_or(0.0, |(from, to)| to.saturating_duration_since(from).as_secs_f64())
    }

    /// Counts a failure of `count` transactions.
    pub fn fail(&mut self, reason: impl Into<String>, count: u64) {
        if count > 0 {
            *self.failures.entry(reason.into()).or_default() += count;
        }
    }

    /// Number of all failures.
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    /// Remembers the first failure's reason.
    pub fn explain(&mut self, reason: impl FnOnce() -> String) {
        if self.first_failure.is_none() {
            self.first_failure = Some(reason());
        }
    }

    /// Records the time from `due` to `at`.
    pub fn record(histogram: &mut Histogram<u64>, due: Instant, at: Instant) {
        let us = at.saturating_duration_since(due).as_micros();
        histogram.saturating_record(u64::try_from(us).unwrap_or(u64::MAX).max(1));
    }
}

/// CPU time that this process has used, in seconds; 0 where there is no /proc.
pub fn cpu_seconds() -> f64 {
    // utime and stime are the 14th and 15th field; the 2nd, in parentheses, may hold spaces. Linux
    // counts them in hundredths of a second on every architecture.
    let used = || {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = |field: usize| fields.get(field)?.parse::<f64>().ok();
        Some((ticks(11)? + ticks(12)?) / 100.0)
    };
    used().unwrap_or(0.0)
}
