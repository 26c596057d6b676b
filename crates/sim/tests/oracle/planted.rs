//! The suite has to be able to fail: with each planted bug it does, after few programs.

use std::panic::{AssertUnwindSafe, catch_unwind};

use atoll_commit::Planted;
use atoll_sim::World;
use proptest::strategy::{Strategy as _, ValueTree as _};

use crate::{SEED, number, runner, strategy};

/// Programs within which each bug is found.
const ENOUGH: usize = 3_000;

/// After how many programs a bug is found, and how it shows.
fn find(bug: Planted) -> Option<(usize, String)> {
    let mut runner = runner(number("ATOLL_SEED", SEED), 1);
    let cases = strategy::case();
    for count in 1..=ENOUGH {
        let case = cases.new_tree(&mut runner).expect("nothing is filtered").current();
        let run = || {
            let mut world = World::new(case.config());
            world.plant(bug);
            case.run_in(world)
        };
        // What is broken may break the one machine, too.
        let outcome = catch_unwind(AssertUnwindSafe(run));
        match outcome {
            Ok(Ok(_)) => {}
            Ok(Err(shows)) => return Some((count, shows)),
            Err(_) => return Some((count, "a panic".to_owned())),
        }
    }
    None
}

#[test]
fn every_planted_bug_is_found() {
    let mut missed = Vec::new();
    for bug in Planted::ALL {
        match find(bug) {
            Some((count, shows)) => {
                let shows: String = shows.chars().take(140).collect();
                println!("{bug:?}: found by program {count}: {shows}");
            }
            None => missed.push(bug),
        }
    }
    assert_eq!(missed, [], "planted and not found in {ENOUGH} programs");
}
