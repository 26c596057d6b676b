//! A short run of what `tests/chaos` does for long: processes are killed, stopped and cut off, disks
//! fill up, and what clients saw is what one machine would have done.

use std::time::Duration;

use atoll_chaos::{
    check::check,
    faults::{Fault, Lengths},
    mutate::MUTATIONS,
    run::{Options, run},
};
use rand::{SeedableRng as _, rngs::StdRng};

const SEED: u64 = 7;

#[tokio::test(flavor = "multi_thread")]
async fn processes_broken_on_purpose_lose_and_repeat_nothing() {
    // One round: each fault once, and kills between.
    let options = Options {
        atoll: env!("CARGO_BIN_EXE_atoll").into(),
        seed: SEED,
        length: Duration::ZERO,
        faults: vec![Fault::Kill, Fault::Stop, Fault::Disk, Fault::Net],
        clients: 6,
        think: Duration::from_millis(20),
        lengths: Lengths { episode: Duration::from_secs(1), stop: Duration::from_secs(2) },
        keep: None,
    };
    let report = run(&options).await.unwrap_or_else(|error| panic!("seed {SEED}: {error:?}"));
    println!("seed {SEED}\n{}", report.tally);
    println!("{} acknowledged", report.history.acknowledged());
    println!("recoveries {:?}", report.recoveries);
    assert!(report.violations.is_empty(), "seed {SEED}: {:#?}", report.violations);
    assert!(report.tally.killed() > 0 && report.history.acknowledged() > 0);
    // The same history, wrong in one place, is not accepted.
    let mut rng = StdRng::seed_from_u64(SEED);
    let mut applied = 0;
    for mutation in &MUTATIONS {
        let mut wrong = report.history.clone();
        if !(mutation.apply)(&mut wrong, &mut rng) {
            continue;
        }
        applied += 1;
        let found = check(&wrong);
        let anomalies: Vec<_> = found.iter().map(|violation| violation.anomaly).collect();
        assert!(anomalies.contains(&mutation.finds), "{}: {found:#?}", mutation.name);
    }
    println!("{applied} of {} mutations applied", MUTATIONS.len());
    assert!(applied > MUTATIONS.len() / 2, "too little has happened");
}
