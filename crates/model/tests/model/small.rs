//! Small worlds, all of them.

use std::time::Duration;

use atoll_model::{
    CommitModel,
    catalogue::catalogue,
    report::{Search, explore},
    walk::{random_scenario, walk, wild},
};

fn from_env(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(otherwise)
}

/// Explores an entry of the catalogue to the end.
fn holds(name: &str) {
    let entries = catalogue();
    let entry = entries.iter().find(|entry| entry.name == name).unwrap();
    let more = from_env("ATOLL_MODEL_BLOCKS", 0);
    let report = explore(entry.model(more), Search::Depth, 1, Duration::from_secs(1_800));
    println!("{report}");
    assert!(report.complete);
    assert!(report.broken.is_empty(), "{report}");
    assert!(report.missed.is_empty(), "{report}");
}

#[test]
fn a_hot_key_of_two_shards() {
    holds("hot key, two shards");
}

#[test]
fn a_hot_key_of_three_shards() {
    holds("hot key, three shards");
}

#[test]
fn anchors_that_come_late() {
    holds("fenced, anchors late");
}

#[test]
fn leases_that_come_late_to_a_shard_that_crashes() {
    holds("fenced, leases late, a crash");
}

#[test]
fn a_credit_to_an_account_that_a_group_overwrites() {
    holds("credits");
}

#[test]
fn a_credit_that_travels_with_a_lease() {
    holds("travelling");
}

#[test]
fn a_forwarded_value_whose_group_ran_again() {
    holds("unsure, a crash, a stray");
}

#[test]
fn a_beacon_that_crashes() {
    holds("unsure, the beacon crashes");
}

#[test]
fn a_chain_that_falls_with_its_first_group() {
    holds("chain, soon given up");
}

#[test]
fn a_chain_of_hot_rounds_under_an_absent_shard() {
    holds("chain, waited for");
}

#[test]
fn values_between_executors() {
    holds("flight");
}

#[test]
fn values_that_come_late_to_an_executor_that_crashes() {
    holds("flight, leases late, a crash");
}

#[test]
fn late_leases_of_two_shards() {
    holds("late, two shards");
}

#[test]
fn a_late_lease_of_a_key_that_another_group_writes() {
    holds("late, fenced");
}

#[test]
fn late_leases_of_three_shards() {
    holds("late, three shards");
}

#[test]
fn every_entry_has_its_test() {
    let source = include_str!("small.rs");
    for entry in catalogue() {
        assert!(
            source.contains(&format!("holds(\"{}\");", entry.name)),
            "{} has no test",
            entry.name
        );
    }
}

#[test]
fn random_walks_through_larger_worlds() {
    let (seed, walks) = (from_env("ATOLL_SEED", 1), from_env("ATOLL_MODEL_WALKS", 150));
    for seed in seed..seed + walks {
        let model = CommitModel::new(random_scenario(seed, 8), wild());
        if let Err(stumble) = walk(&model, seed, 400) {
            let (broken, trace) = (stumble.broken, stumble.trace);
            panic!("ATOLL_SEED={seed}:\n{trace} => {}: {}", broken.property, broken.detail);
        }
    }
}
