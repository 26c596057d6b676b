//! Prints what the beacon's state machine takes for each transaction that it orders, on one thread,
//! in memory: `cargo run --release -p atoll-commit --example planner`.
//!
//! Rounds of independent transactions of two shards each, with the keys of a token transfer; every
//! group is acknowledged by its owners and decided in the round after the next.
#![allow(clippy::disallowed_methods, reason = "a measurement reads the clock")]

use std::time::{Duration, Instant};

use atoll_commit::{Planner, PlannerConfig};
use atoll_types::{
    Address, Anchor, B256, BeaconBlock, GroupAck, Intent, ShardId, ShardKeys, TxRef, encode,
};

const SHARDS: u16 = 4;
const ROUNDS: u64 = 300;

fn intent(number: u64) -> Intent {
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
    hash[..8].copy_from_slice(&word(0).to_le_bytes());
    Intent {
        tx: TxRef { hash: B256::new(hash), attempt: 1 },
        origin: ShardId(home),
        sender: word(1),
        nonce: 0,
        gas_limit: 100_000,
        halvings: 0,
        last_valid_round: number + 1_200,
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

fn main() {
    println!("transactions a round   announce   anchor   propose   apply   encode   all, µs each");
    for count in [1, 20, 200, 2_000] {
        let mut planner = Planner::new(PlannerConfig::new(1, SHARDS, Address::ZERO, 1_000));
        let mut number = 0;
        let mut took = [Duration::ZERO; 5];
        let mut planned = 0;
        for round in 0..ROUNDS {
            let intents: Vec<Intent> = (0..count).map(|n| intent(number + n)).collect();
            let intents = intents
                .into_iter()
                .map(|intent| Intent { last_valid_round: round + 1_200, ..intent });
            let intents: Vec<Intent> = intents.collect();
            number += count;
            let head = planner.head().clone();
            let anchors: Vec<Anchor> = (0..SHARDS).map(|s| anchor(s, round, &head)).collect();
            let mut step = 0;
            let mut time = |work: &mut dyn FnMut()| {
                let start = Instant::now();
                work();
                took[step] += start.elapsed();
                step += 1;
            };
            let mut intents = Some(intents);
            time(&mut || {
                for intent in intents.take().into_iter().flatten() {
                    planner.announce(intent);
                }
            });
            let mut anchors = Some(anchors);
            time(&mut || {
                for anchor in anchors.take().into_iter().flatten() {
                    planner.anchor(anchor);
                }
            });
            let mut record = None;
            time(&mut || record = Some(planner.propose(2_000 + round, B256::ZERO)));
            let record = record.take().expect("it was just made");
            time(&mut || planner.apply(&record));
            time(&mut || drop(std::hint::black_box(encode(&record))));
            planned += record.block.plan.iter().map(|group| group.txs.len() as u64).sum::<u64>();
        }
        assert_eq!(planned, number, "everything that was announced was planned");
        let each = |time: &Duration| time.as_secs_f64() * 1e6 / number as f64;
        let all = took.iter().map(each).sum::<f64>();
        let [announce, anchor, propose, apply, encode] = took.map(|time| each(&time));
        println!(
            "{count:>20} {announce:>10.2} {anchor:>8.2} {propose:>9.2} {apply:>7.2} {encode:>8.2} {all:>14.2}"
        );
    }
}
