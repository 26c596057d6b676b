//! The simulation as a test: a few seeds, that a seed gives the same run, and that bugs are found.

use std::time::Duration;

use sim::{
    planted::Planted,
    run::{Options, Report, run},
};

fn short(seed: u64) -> Options {
    let (chaos, patience) = (Duration::from_secs(8), Duration::from_secs(90));
    Options { chaos, patience, accounts: 4, ..Options::new(seed) }
}

fn show(report: &Report) {
    let Report { seed, time, faults, acknowledged, trace, violations, .. } = report;
    println!("seed {seed}: {time:?}, {acknowledged} acknowledged, {faults}; {trace:?}");
    violations.iter().for_each(|violation| println!("  {violation}"));
}

#[test]
fn the_real_services_work_in_the_simulated_world() -> anyhow::Result<()> {
    atoll_tests::log();
    let report = run(&Options { chaos: Duration::ZERO, ..short(1) })?;
    show(&report);
    assert!(report.violations.is_empty() && report.acknowledged > 0);
    Ok(())
}

#[test]
fn a_seed_gives_the_same_run_byte_for_byte() -> anyhow::Result<()> {
    atoll_tests::log();
    let mut traces = Vec::new();
    for seed in [2, 5] {
        // Side by side, so that what the two have in common is in another state for each.
        let [one, two] = [(); 2].map(|()| std::thread::spawn(move || run(&short(seed))));
        let (one, two) = (one.join().expect("no panic")?, two.join().expect("no panic")?);
        show(&one);
        assert_eq!((one.trace, one.time), (two.trace, two.time), "seed {seed}");
        traces.push(one.trace);
    }
    assert_ne!(traces[0], traces[1]);
    Ok(())
}

#[test]
fn a_few_seeds_break_in_every_way_and_lose_nothing() -> anyhow::Result<()> {
    atoll_tests::log();
    for seed in 10..13 {
        let report = run(&short(seed))?;
        show(&report);
        assert!(report.violations.is_empty(), "seed {seed}: {:?}", report.violations);
    }
    Ok(())
}

/// The first seed whose run shows a bug by a violation of `property`, and that without the bug the same
/// run shows nothing.
fn is_found(bug: Planted, property: &str, only: Option<&str>) -> anyhow::Result<bool> {
    let only = only.map(str::to_owned);
    for seed in 100..112 {
        let plain = Options { only: only.clone(), ..short(seed) };
        let report = run(&Options { planted: Some(bug), ..plain.clone() })?;
        if report.violations.iter().any(|violation| violation.starts_with(property)) {
            println!("{bug}:");
            show(&report);
            let without = run(&plain)?;
            assert!(without.violations.is_empty(), "without the bug: {:?}", without.violations);
            return Ok(true);
        }
    }
    Ok(false)
}

#[test]
fn a_planted_missing_sync_is_found() -> anyhow::Result<()> {
    assert!(is_found(Planted::NoSync, "durable-ack", None)?);
    Ok(())
}

#[test]
fn a_planted_acknowledgement_before_the_log_is_found() -> anyhow::Result<()> {
    assert!(is_found(Planted::LateLog, "durable-ack", Some("cut-at-answer"))?);
    Ok(())
}

#[cfg(feature = "planted")]
#[test]
fn planted_bugs_in_the_protocol_are_found() -> anyhow::Result<()> {
    use atoll_commit::Planted::{DecideTwice, DepositTwice};

    for bug in [DepositTwice, DecideTwice] {
        assert!(is_found(Planted::Protocol(bug), "", None)?, "{bug:?} is not found");
    }
    Ok(())
}
