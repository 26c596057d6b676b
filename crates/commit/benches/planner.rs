//! What the beacon's state machine takes for a round, on one thread, in memory:
//! `cargo bench -p atoll-commit --bench planner`.
//!
//! Rounds of independent transactions of two shards each, with the keys of a token transfer; every
//! group is acknowledged by its owners and decided in the round after the next.
#![allow(clippy::disallowed_methods, reason = "a measurement reads the clock")]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use atoll_commit::{Planner, PlannerConfig};
use atoll_types::{
    Address, Anchor, B256, BeaconBlock, GroupAck, Intent, ShardId, ShardKeys, TxRef, encode,
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const SHARDS: u16 = 4;

fn intent(number: u64, round: u64) -> Intent {
    let word = |n: u64| mixed(number * 8 + n);
    let (home, away) = ((number % 4) as u16, ((number / 4) % 3) as u16);
    let away = if away >= home { away + 1 } else { away };
    let mut keys = vec![
        ShardKeys {
            shard: ShardId(home),
            reads: Default::default(),
            writes: [word(1)].into_iter().collect(),
        },
        ShardKeys {
            shard: ShardId(away),
            reads: [u64::from(away)].into_iter().collect(),
            writes: [word(2), word(3)].into_iter().collect(),
        },
    ];
    keys.sort_unstable_by_key(|keys| keys.shard);
    let mut hash = [0; 32];
    hash[24..].copy_from_slice(&word(0).to_le_bytes());
    Intent {
        tx: TxRef { hash: B256::new(hash), attempt: 1 },
        origin: ShardId(home),
        sender: word(1),
        nonce: 0,
        gas_limit: 100_000,
        halvings: 0,
        last_valid_round: round + 1_200,
        keys: keys.into_iter().collect(),
    }
}

/// A permutation of 64-bit numbers (splitmix64).
fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What a shard says when it has passed a block and holds the results of the one before.
fn anchor(shard: u16, cut: u64, before: &BeaconBlock) -> Anchor {
    let shard = ShardId(shard);
    let mine = before.plan.iter().filter(|group| group.owners.contains(&shard));
    let ack =
        |id| GroupAck { group: id, digest: B256::ZERO, sources: Vec::new(), late: Vec::new() };
    Anchor {
        shard,
        head: cut,
        cut,
        digest: B256::ZERO,
        gas_used: cut,
        acks: mine.map(|group| ack(group.id)).collect(),
        credits_sent: Vec::new(),
        credits_received: Vec::new(),
        root: None,
    }
}

/// A chain that goes on from round to round.
struct Chain {
    planner: Planner,
    round: u64,
    number: u64,
}

impl Chain {
    fn new() -> Self {
        let planner = Planner::new(PlannerConfig::new(1, SHARDS, Address::ZERO, 1_000));
        Self { planner, round: 0, number: 0 }
    }

    /// A round of `count` transactions; returns what it took to announce them, and to make the block.
    fn round(&mut self, count: u64) -> [Duration; 2] {
        let intents: Vec<Intent> =
            (0..count).map(|n| intent(self.number + n, self.round)).collect();
        let head = self.planner.head().clone();
        let anchors: Vec<Anchor> = (0..SHARDS).map(|s| anchor(s, self.round, &head)).collect();
        let began = Instant::now();
        for intent in intents {
            self.planner.announce(intent);
        }
        for anchor in anchors {
            self.planner.anchor(anchor);
        }
        let announced = Instant::now();
        let record = self.planner.make(2_000 + self.round, B256::ZERO);
        drop(black_box(encode(&record)));
        let planned: usize = record.block.plan.iter().map(|group| group.txs.len()).sum();
        drop(record);
        let made = announced.elapsed();
        assert_eq!(planned as u64, count, "everything that was announced is planned");
        self.number += count;
        self.round += 1;
        [announced - began, made]
    }
}

fn rounds(criterion: &mut Criterion) {
    for (step, name) in ["announce", "make"].into_iter().enumerate() {
        let mut group = criterion.benchmark_group(name);
        group.sample_size(20).measurement_time(Duration::from_secs(2));
        for count in [20, 200, 2_000] {
            group.throughput(Throughput::Elements(count));
            group.bench_function(count.to_string(), |bench| {
                let mut chain = Chain::new();
                bench.iter_custom(|rounds| (0..rounds).map(|_| chain.round(count)[step]).sum());
            });
        }
        group.finish();
    }
}

criterion_group!(benches, rounds);
criterion_main!(benches);
