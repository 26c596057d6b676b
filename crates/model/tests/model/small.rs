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

macro_rules! explored {
    ($($test:ident: $name:literal),* $(,)?) => {
        $(#[test]
        fn $test() {
            holds($name);
        })*
    };
}

explored! {
    a_hot_key_of_two_shards: "hot key, two shards",
    a_hot_key_of_three_shards: "hot key, three shards",
    anchors_that_come_late: "fenced, anchors late",
    leases_that_come_late_to_a_shard_that_crashes: "fenced, leases late, a crash",
    a_credit_to_an_account_that_a_group_overwrites: "credits",
    a_credit_that_travels_with_a_lease: "travelling",
    a_forwarded_value_whose_group_ran_again: "unsure, a crash, a stray",
    a_beacon_that_crashes: "unsure, the beacon crashes",
    a_chain_that_falls_with_its_first_group: "chain, soon given up",
    a_chain_of_hot_rounds_under_an_absent_shard: "chain, waited for",
    values_between_executors: "flight",
    values_that_come_late_to_an_executor_that_crashes: "flight, leases late, a crash",
    late_leases_of_two_shards: "late, two shards",
    late_leases_of_three_shards: "late, three shards",
}

#[test]
fn every_entry_has_its_test() {
    let source = include_str!("small.rs");
    for entry in catalogue() {
        assert!(source.contains(&format!(": \"{}\",", entry.name)), "{} has no test", entry.name);
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
