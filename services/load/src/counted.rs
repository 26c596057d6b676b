//! What the cluster itself has counted, and what of it comes to each transaction.

use std::fmt;

use atoll_wire::v1::{
    GetStatsResponse,
    get_stats_response::{Refused, Traffic, Work},
};
use serde::Serialize;

use crate::stats::Arrived;

/// Messages one way, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sent {
    messages: u64,
    bytes: u64,
}

/// Counters of all services at one instant, or what they have risen by since an earlier one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    between_shards: Sent,
    into_beacon: Sent,
    out_of_beacon: Sent,
    local: Work,
    groups: Work,
    predictions: Work,
    rounds: u64,
    beacon_cpu_ns: u64,
    wrong: u64,
    aborts: u64,
    late_asks: u64,
    refused: u64,
}

impl Counted {
    /// Sums an answer up; `None` if a service is missing from it.
    pub fn read(reply: &GetStatsResponse) -> Option<Self> {
        let beacon = reply.beacon.as_ref().filter(|beacon| beacon.reachable)?;
        let mut sum = Self {
            rounds: beacon.blocks,
            beacon_cpu_ns: beacon.cpu_ns,
            aborts: beacon.aborts,
            refused: refused(&beacon.refused),
            ..Self::default()
        };
        for shard in &reply.shards {
            if !shard.reachable {
                return None;
            }
            let [deliver, fetch, announce, blocks] =
                [shard.deliver, shard.fetch, shard.announce, shard.blocks]
                    .map(Option::unwrap_or_default);
            for traffic in [deliver, fetch] {
                sum.between_shards.add(requests(&traffic));
                sum.between_shards.add(replies(&traffic));
            }
            for traffic in [announce, blocks] {
                sum.into_beacon.add(requests(&traffic));
                sum.out_of_beacon.add(replies(&traffic));
            }
            add(&mut sum.local, shard.local);
            add(&mut sum.groups, shard.groups);
            add(&mut sum.predictions, shard.predictions);
            sum.wrong += shard.wrong;
            sum.late_asks += shard.late_asks;
            sum.refused += refused(&shard.refused);
        }
        Some(sum)
    }

    /// What has been counted since `before`; `None` if a service was started again in between.
    pub fn since(&self, before: &Self) -> Option<Self> {
        let sent = |after: Sent, before: Sent| {
            Some(Sent {
                messages: after.messages.checked_sub(before.messages)?,
                bytes: after.bytes.checked_sub(before.bytes)?,
            })
        };
        let work = |after: Work, before: Work| {
            Some(Work {
                batches: after.batches.checked_sub(before.batches)?,
                transactions: after.transactions.checked_sub(before.transactions)?,
                cpu_ns: after.cpu_ns.checked_sub(before.cpu_ns)?,
            })
        };
        Some(Self {
            between_shards: sent(self.between_shards, before.between_shards)?,
            into_beacon: sent(self.into_beacon, before.into_beacon)?,
            out_of_beacon: sent(self.out_of_beacon, before.out_of_beacon)?,
            local: work(self.local, before.local)?,
            groups: work(self.groups, before.groups)?,
            predictions: work(self.predictions, before.predictions)?,
            rounds: self.rounds.checked_sub(before.rounds)?,
            beacon_cpu_ns: self.beacon_cpu_ns.checked_sub(before.beacon_cpu_ns)?,
            wrong: self.wrong.checked_sub(before.wrong)?,
            aborts: self.aborts.checked_sub(before.aborts)?,
            late_asks: self.late_asks.checked_sub(before.late_asks)?,
            refused: self.refused.checked_sub(before.refused)?,
        })
    }
}

impl Sent {
    fn add(&mut self, other: Self) {
        self.messages += other.messages;
        self.bytes += other.bytes;
    }

    fn each(self, transactions: u64) -> PerTransaction {
        PerTransaction {
            messages: share(self.messages, transactions),
            bytes: share(self.bytes, transactions),
        }
    }
}

fn requests(traffic: &Traffic) -> Sent {
    Sent { messages: traffic.requests, bytes: traffic.request_bytes }
}

fn replies(traffic: &Traffic) -> Sent {
    Sent { messages: traffic.replies, bytes: traffic.reply_bytes }
}

fn add(sum: &mut Work, work: Option<Work>) {
    let work = work.unwrap_or_default();
    sum.batches += work.batches;
    sum.transactions += work.transactions;
    sum.cpu_ns += work.cpu_ns;
}

fn refused(counts: &[Refused]) -> u64 {
    counts.iter().map(|refused| refused.count).sum()
}

fn share(amount: u64, among: u64) -> f64 {
    if among == 0 { 0.0 } else { amount as f64 / among as f64 }
}

/// What transactions cost the cluster, by its own count over the measured time. Zero where there
/// were none.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Costs {
    /// Transactions that became final within the measured time.
    pub transactions: u64,
    /// Of which touched more than one shard.
    pub crossed: u64,
    /// Of which were ordered by the beacon.
    pub ordered: u64,
    /// Messages between shards, replies included, for each transaction.
    pub between_shards: PerTransaction,
    /// The same for each that touched more than one shard.
    pub between_shards_crossed: PerTransaction,
    /// Messages to the beacon for each transaction that it ordered.
    pub into_beacon: PerTransaction,
    /// What it replied, likewise.
    pub out_of_beacon: PerTransaction,
    /// Processor time of the beacon for each transaction that it ordered, in µs.
    pub beacon_cpu_us: f64,
    pub executor_cpu_us: ExecutorCpu,
    /// Transactions of all groups that were run, and how many groups.
    pub group_transactions: u64,
    pub groups: u64,
    /// Beacon blocks.
    pub rounds: u64,
    /// Transactions of groups that used keys outside their set.
    pub wrong: u64,
    /// Groups aborted.
    pub aborts: u64,
    /// Requests for keys that a group had not been leased.
    pub late_asks: u64,
    /// Messages between services that broke a rule.
    pub refused: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PerTransaction {
    pub messages: f64,
    pub bytes: f64,
}

/// Processor time of executor threads, in µs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ExecutorCpu {
    /// For each transaction in a local block.
    pub local: f64,
    /// For each transaction in a group that was run.
    pub group: f64,
    /// For each prediction that was complete, with all attempts at it.
    pub predict: f64,
    /// All of it, for each transaction that became final.
    pub all: f64,
}

impl Costs {
    pub(crate) fn new(counted: &Counted, arrived: &Arrived) -> Self {
        let Arrived { ended, crossed, ordered, .. } = *arrived;
        let us = |work: Work| share(work.cpu_ns, work.transactions) / 1_000.0;
        let Counted { local, groups, predictions, .. } = *counted;
        let all = local.cpu_ns + groups.cpu_ns + predictions.cpu_ns;
        Self {
            transactions: ended,
            crossed,
            ordered,
            between_shards: counted.between_shards.each(ended),
            between_shards_crossed: counted.between_shards.each(crossed),
            into_beacon: counted.into_beacon.each(ordered),
            out_of_beacon: counted.out_of_beacon.each(ordered),
            beacon_cpu_us: share(counted.beacon_cpu_ns, ordered) / 1_000.0,
            executor_cpu_us: ExecutorCpu {
                local: us(local),
                group: us(groups),
                predict: us(predictions),
                all: share(all, ended) / 1_000.0,
            },
            group_transactions: groups.transactions,
            groups: groups.batches,
            rounds: counted.rounds,
            wrong: counted.wrong,
            aborts: counted.aborts,
            late_asks: counted.late_asks,
            refused: counted.refused,
        }
    }
}

impl fmt::Display for Costs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (shards, crossed) = (&self.between_shards, &self.between_shards_crossed);
        writeln!(
            f,
            "between shards  {:.2} messages, {:.0} bytes a transaction; {:.2} messages, {:.0} bytes for each that crossed",
            shards.messages, shards.bytes, crossed.messages, crossed.bytes
        )?;
        let (into, out) = (&self.into_beacon, &self.out_of_beacon);
        writeln!(
            f,
            "beacon          {:.3} messages, {:.0} bytes in, {:.0} bytes out, {:.2} µs CPU for each transaction ordered",
            into.messages, into.bytes, out.bytes, self.beacon_cpu_us
        )?;
        let cpu = &self.executor_cpu_us;
        writeln!(
            f,
            "executors       {:.1} µs CPU a local transaction, {:.1} in a group, {:.1} a prediction; {:.1} in all",
            cpu.local, cpu.group, cpu.predict, cpu.all
        )?;
        writeln!(
            f,
            "groups          {} of {} transactions in {} rounds; {} wrong predictions, {} aborts, {} late leases asked for, {} refusals",
            self.groups,
            self.group_transactions,
            self.rounds,
            self.wrong,
            self.aborts,
            self.late_asks,
            self.refused
        )
    }
}

#[cfg(test)]
mod tests {
    use atoll_wire::v1::get_stats_response::{Beacon, Shard};

    use super::*;

    fn reply(times: u64) -> GetStatsResponse {
        let traffic = |n: u64| {
            let n = n * times;
            Some(Traffic { requests: n, request_bytes: 10 * n, replies: n, reply_bytes: n })
        };
        let work = |n: u64| {
            Some(Work { batches: times, transactions: n * times, cpu_ns: 3_000 * n * times })
        };
        let shard = |number| Shard {
            number,
            reachable: true,
            deliver: traffic(2),
            fetch: traffic(1),
            announce: traffic(5),
            blocks: traffic(1),
            local: work(7),
            groups: work(2),
            predictions: work(1),
            wrong: times,
            refused: vec![Refused { rule: "expired".into(), count: times }],
            ..Shard::default()
        };
        let beacon =
            Beacon { reachable: true, blocks: times, cpu_ns: 8_000 * times, ..Beacon::default() };
        GetStatsResponse { shards: vec![shard(0), shard(1)], beacon: Some(beacon) }
    }

    #[test]
    fn the_difference_is_shared_out() {
        let [before, after] = [1, 3].map(|times| Counted::read(&reply(times)).unwrap());
        let counted = after.since(&before).unwrap();
        let arrived = Arrived { ended: 8, crossed: 4, ordered: 2, ..Arrived::default() };
        let costs = Costs::new(&counted, &arrived);
        // Twice what one answer of two shards holds: 12 requests and 12 replies.
        assert_eq!(costs.between_shards, PerTransaction { messages: 3.0, bytes: 16.5 });
        assert_eq!(costs.between_shards_crossed.messages, 6.0);
        assert_eq!(costs.into_beacon, PerTransaction { messages: 12.0, bytes: 120.0 });
        assert_eq!(costs.out_of_beacon, PerTransaction { messages: 12.0, bytes: 12.0 });
        assert_eq!(costs.beacon_cpu_us, 8.0);
        let cpu = ExecutorCpu { local: 3.0, group: 3.0, predict: 3.0, all: 15.0 };
        assert_eq!(costs.executor_cpu_us, cpu);
        assert_eq!((costs.groups, costs.group_transactions, costs.rounds), (4, 8, 2));
        assert_eq!((costs.wrong, costs.refused), (4, 4));
    }

    #[test]
    fn who_is_missing_or_began_anew_makes_no_difference_of_use() {
        let mut missing = reply(1);
        missing.shards[1].reachable = false;
        assert_eq!(Counted::read(&missing), None);
        let [first, second] = [1, 2].map(|times| Counted::read(&reply(times)).unwrap());
        assert_eq!(first.since(&second), None);
        let nothing = Costs::new(&Counted::default(), &Arrived::default());
        assert_eq!(nothing.beacon_cpu_us, 0.0);
    }
}
