//! Random worlds. A failure prints its seed; `ATOLL_SEED` repeats it.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
};

use crate::world::World;

const WORLDS: u64 = 12;
const STEPS: u64 = 2_500;

#[test]
fn random_worlds_keep_every_property() {
    run(
        false,
        &[
            "aborts",
            "across shards",
            "commits",
            "credit gap",
            "credits kept back",
            "credits that travelled",
            "flights",
            "group not open",
            "in flight",
            "late leases",
            "not late",
            "payments sent back",
            "returned",
            "wrong",
        ],
    );
}

#[test]
fn random_worlds_that_go_back_to_a_cut_keep_every_property() {
    run(true, &["restored", "restored open", "unheard credits", "commits", "payments sent back"]);
}

fn run(restored: bool, needed: &[&str]) {
    let asked: Option<u64> = std::env::var("ATOLL_SEED").ok().and_then(|seed| seed.parse().ok());
    let first = asked.unwrap_or_else(|| RandomState::new().hash_one("atoll") >> 16);
    let worlds = if asked.is_some() { 1 } else { WORLDS };
    let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in first..first + worlds {
        println!("ATOLL_SEED={seed}");
        let mut world = World::new(seed);
        world.run(STEPS, restored);
        world.check();
        for (what, count) in world.seen.0 {
            *seen.entry(what).or_default() += count;
        }
    }
    println!("{seen:?}");
    // A simulation in which nothing goes wrong shows nothing.
    for what in needed.iter().filter(|_| asked.is_none()) {
        assert!(seen.get(what).is_some_and(|count| *count > 0), "there was no {what}: {seen:?}");
    }
}
