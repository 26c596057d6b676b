//! The checker finds what is wrong: mistakes put in on purpose, each with its shortest trace.

use std::time::Duration;

use atoll_model::{
    Bounds, CommitModel, DATA_BEFORE_ORDER, Planted, SETTLED_READS, Scenario, credits, fenced,
    hot_key,
    report::{Search, explore},
    unsure,
};

/// Looks for a mistake and asserts that it breaks a property. Prints the trace.
fn finds(scenario: Scenario, bounds: Bounds, planted: Planted, property: &str) {
    let model = CommitModel::new(scenario, bounds).plant(planted);
    let report = explore(model, Search::Breadth, 1, Duration::from_secs(60));
    println!("{planted:?}\n{report}");
    assert!(report.broken.contains_key(property), "{planted:?} breaks no {property}");
}

fn blocks(blocks: u64) -> Bounds {
    Bounds { blocks, ..Bounds::default() }
}

#[test]
fn an_acknowledgement_before_the_sync_is_found() {
    let bounds = Bounds { crashes: 1, idle_crashes: true, ..blocks(3) };
    finds(unsure(), bounds, Planted::AckBeforeSync, DATA_BEFORE_ORDER);
}

#[test]
fn a_commit_before_all_have_acknowledged_is_found() {
    finds(unsure(), blocks(3), Planted::CommitBeforeAcks, DATA_BEFORE_ORDER);
}

#[test]
fn a_commit_applied_twice_is_found() {
    let bounds = Bounds { crashes: 1, idle_crashes: true, ..blocks(3) };
    finds(fenced(), bounds, Planted::CommitTwice, SETTLED_READS);
}

#[test]
fn a_local_block_that_ignores_a_fence_is_found() {
    finds(fenced(), blocks(3), Planted::FenceIgnored, "serial-equivalence");
}

#[test]
fn a_lease_read_after_the_cut_is_found() {
    finds(hot_key(2), blocks(3), Planted::LateLease, "serial-equivalence");
}

#[test]
fn a_group_run_in_another_order_is_found() {
    finds(hot_key(2), blocks(3), Planted::OtherOrder, "serial-equivalence");
}

#[test]
fn a_credit_that_comes_back_empty_is_found() {
    finds(credits(), blocks(2), Planted::ReturnLost, "serial-equivalence");
}
