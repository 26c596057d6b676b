//! Backpressure from shards that follow slowly: blocks come further apart for them, before they lag so
//! far that nothing is planned on them any more. One that is not heard of slows nobody down.

use std::collections::BTreeMap;

use atoll_types::ShardId;

/// What was last heard of a shard.
#[derive(Clone, Copy, Debug)]
struct Heard {
    /// Newest cut that it has passed.
    cut: u64,
    /// The newest block then.
    at: u64,
}

/// How far the shards are behind.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Blocks that a shard may lag before nothing is planned on it.
    max_lag: u64,
    heard: BTreeMap<ShardId, Heard>,
}

impl Pace {
    pub(crate) fn new(max_lag: u64) -> Self {
        Self { max_lag, heard: BTreeMap::new() }
    }

    /// A shard that has passed `cut` was heard of when the newest block was `head`.
    pub(crate) fn heard(&mut self, shard: ShardId, cut: u64, head: u64) {
        let heard = self.heard.entry(shard).or_insert(Heard { cut, at: head });
        *heard = Heard { cut: heard.cut.max(cut), at: head };
    }

    /// How far each shard is behind, as it was last heard of.
    pub(crate) fn lags(&self, head: u64) -> impl Iterator<Item = (ShardId, u64)> {
        self.heard.iter().map(move |(shard, heard)| (*shard, head.saturating_sub(heard.cut)))
    }

    /// How many times as long as usual to wait for the next block: 1 while all follow within a quarter
    /// of the lag that they may have, then with its square up to 16. Those that lag further are waited
    /// for only if all do.
    pub(crate) fn factor(&self, head: u64) -> u64 {
        let fresh = |heard: &&Heard| head.saturating_sub(heard.at) <= self.max_lag / 2;
        let lags = || self.heard.values().filter(fresh).map(|heard| head.saturating_sub(heard.cut));
        let slowest = lags().filter(|lag| *lag <= self.max_lag).max();
        // A quarter is 1.
        let share = 4 * slowest.or_else(|| lags().max()).unwrap_or(0).min(self.max_lag);
        (share * share / self.max_lag.pow(2).max(1)).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOW: ShardId = ShardId(0);
    const GONE: ShardId = ShardId(1);

    #[test]
    fn blocks_come_further_apart_for_a_slow_shard_and_not_for_one_that_is_gone() {
        let mut pace = Pace::new(100);
        assert_eq!(pace.factor(1_000), 1, "nobody was heard of");
        pace.heard(GONE, 1_000, 1_000);
        for (lag, factor) in [(0, 1), (25, 1), (40, 2), (50, 4), (75, 9), (100, 16), (400, 16)] {
            let head = 2_000 + lag;
            pace.heard(SLOW, 2_000, head);
            assert_eq!(pace.factor(head), factor, "a lag of {lag}");
        }
        // One that is too far behind to be planned on slows down nobody who is not.
        let mut beside = Pace::new(100);
        beside.heard(SLOW, 2_000, 2_400);
        beside.heard(ShardId(2), 2_399, 2_400);
        assert_eq!(beside.factor(2_400), 1);
        // An announcement that was overtaken changes nothing; having caught up does.
        pace.heard(SLOW, 2_450, 2_450);
        pace.heard(SLOW, 2_300, 2_450);
        assert_eq!(pace.factor(2_450), 1);
        // From its last word on it is waited for until it has lagged for half of what it may.
        assert_eq!(pace.factor(2_490), 2);
        assert_eq!(pace.factor(2_500), 4);
        assert_eq!(pace.factor(2_501), 1);
    }
}
