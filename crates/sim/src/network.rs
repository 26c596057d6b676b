//! A network that loses, repeats, delays and reorders.

use std::collections::BTreeMap;

use crate::rng::Rng;

/// Ticks for which a shard stays slow.
pub const SLOW_TICKS: u64 = 40;

/// How bad a world is. All in percent unless it says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conditions {
    /// Messages lost.
    pub lost: u8,
    /// Messages that come twice.
    pub repeated: u8,
    /// Messages that take up to `late_ticks` longer than others, and are overtaken.
    pub late: u8,
    pub late_ticks: u8,
    /// How often a shard does nothing of what it could do at a tick.
    pub idle: u8,
    /// Predictions that are made on values of other shards from some cuts ago.
    pub stale: u8,
    /// Predictions that miss some of the keys.
    pub blind: u8,
    /// Periods of [`SLOW_TICKS`] in which one shard does hardly anything.
    pub slow: u8,
    /// Fewest ticks between two beacon blocks; 0 counts as 1.
    pub block_ticks: u8,
    /// How often a shard's pool forgets what it has handed out, of 10,000 ticks.
    pub forgetful: u16,
    /// Crashes and restarts of a shard, of 10,000 ticks.
    pub shard_crashes: u16,
    /// Of the beacon.
    pub beacon_crashes: u16,
}

impl Conditions {
    /// Everything arrives at the next tick, and nobody waits.
    pub const GOOD: Self = Self {
        lost: 0,
        repeated: 0,
        late: 0,
        late_ticks: 0,
        idle: 0,
        stale: 0,
        blind: 0,
        slow: 0,
        block_ticks: 1,
        forgetful: 0,
        shard_crashes: 0,
        beacon_crashes: 0,
    };
}

/// Messages under way.
#[derive(Debug)]
pub(crate) struct Network<T> {
    /// By the tick at which they arrive, and a number of their own.
    under_way: BTreeMap<(u64, u64), T>,
    sent: u64,
}

impl<T: Clone> Network<T> {
    pub fn new() -> Self {
        Self { under_way: BTreeMap::new(), sent: 0 }
    }

    pub fn send(&mut self, message: &T, now: u64, conditions: &Conditions, rng: &mut Rng) {
        if rng.percent(conditions.lost) {
            return;
        }
        let copies = 1 + u64::from(rng.percent(conditions.repeated));
        for _ in 0..copies {
            let late = rng.percent(conditions.late);
            let delay = if late { rng.below(u64::from(conditions.late_ticks) + 1) } else { 0 };
            self.sent += 1;
            self.under_way.insert((now + 1 + delay, self.sent), message.clone());
        }
    }

    /// The next message that has arrived.
    pub fn arrived(&mut self, now: u64) -> Option<T> {
        let first = self.under_way.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }
}
