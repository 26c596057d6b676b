//! Random programs on a simulated cluster against one machine with plain revm.
//!
//! `ATOLL_CASES` says how many programs are run, `ATOLL_SEED` which ones. A failure prints the seed
//! and the smallest program that fails alike.

mod alone;
mod bytecode;
mod counts;
mod credits;
mod machine;
mod order;
#[cfg(feature = "planted")]
mod planted;
mod program;
mod strategy;

use std::cell::RefCell;

use counts::Counts;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

/// Programs of one run, unless `ATOLL_CASES` says otherwise.
const CASES: u32 = 3_000;
/// Where they begin, unless `ATOLL_SEED` says otherwise.
const SEED: u64 = 1;

/// What has to happen in a run of that many programs.
const NEEDED: [&str; 23] = [
    "aborts",
    "across shards",
    "behind",
    "created",
    "created and destroyed",
    "credits",
    "credits kept back",
    "credits with a lease",
    "dropped",
    "failed",
    "groups that pay the coinbase at once",
    "groups with values in flight",
    "included as failed",
    "late owners",
    "local",
    "logs",
    "of one sender together",
    "payments sent back",
    "refused in a group",
    "together",
    "uses of delegated accounts",
    "waiting for a nonce",
    "wrong",
];

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn runner(seed: u64, cases: u32) -> TestRunner {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

#[test]
fn random_programs_do_what_one_machine_does() {
    let (seed, cases) = (number("ATOLL_SEED", SEED), number("ATOLL_CASES", CASES.into()) as u32);
    println!("ATOLL_SEED={seed} ATOLL_CASES={cases}");
    let seen = RefCell::new(Counts::default());
    let outcome = runner(seed, cases).run(&strategy::case(), |case| {
        seen.borrow_mut().merge(&case.run().map_err(TestCaseError::fail)?);
        Ok(())
    });
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(reason, case)) => panic!("ATOLL_SEED={seed}: {reason}\n{case:#?}"),
        Err(TestError::Abort(reason)) => panic!("ATOLL_SEED={seed}: {reason}"),
    }
    let seen = seen.into_inner();
    println!("{:?}", seen.0);
    if cases >= CASES {
        let missing = NEEDED.iter().find(|what| !seen.0.contains_key(**what));
        assert_eq!(missing, None, "what never happens is not tested");
    }
}
