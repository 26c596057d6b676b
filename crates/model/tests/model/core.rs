//! Bugs planted in the state machines themselves: `cargo test -p atoll-model --features planted core`.

use std::time::Duration;

use atoll_commit::Planted;
use atoll_model::{
    Bounds, CommitModel, chain, credits, fenced, hot_key, late, late_fenced,
    report::{Search, explore},
    travelling, unsure,
};

/// Looks for a bug in one world after another. Prints what it breaks first, and how.
fn finds(bug: Planted) {
    let small = |blocks| Bounds { blocks, ..Bounds::default() };
    let reruns = Bounds { crashes: 1, reruns: true, ..small(2) };
    let worlds = match bug {
        Planted::SkipFence | Planted::DecideTwice | Planted::CommitEarly => {
            vec![(fenced(), small(3))]
        }
        Planted::KeepFence => vec![(chain(2), small(3))],
        Planted::DepositTwice | Planted::LoseReturned => vec![(credits(), small(2))],
        Planted::LoseTravelling => vec![(travelling(2), small(3))],
        Planted::LeaseAfterCut => vec![(hot_key(2), reruns)],
        Planted::OtherPart | Planted::OtherSource => vec![(unsure(), reruns)],
        Planted::CommitBeforeSource => vec![(unsure(), small(3)), (chain(3), small(3))],
        // The model has no two transactions of one nonce: the pool's part.
        Planted::ForgetPin => Vec::new(),
        // No world has an owner that passes the commit of one group before another of its round asks.
        Planted::LateDespiteCommit => Vec::new(),
        Planted::LateAfterUse | Planted::LateDespiteFence => {
            vec![(late(2), small(3)), (late_fenced(), small(2))]
        }
    };
    for (mut scenario, bounds) in worlds {
        scenario.bug = Some(bug);
        let model = CommitModel::new(scenario, bounds);
        let report = explore(model, Search::Breadth, 1, Duration::from_secs(60));
        println!("{bug:?}\n{report}");
        if !report.broken.is_empty() {
            return;
        }
    }
    panic!("{bug:?} is not found");
}

macro_rules! found {
    ($($test:ident: $bug:ident),* $(,)?) => {
        $(#[test]
        fn $test() {
            finds(Planted::$bug);
        })*
    };
}

found! {
    skip_fence: SkipFence,
    keep_fence: KeepFence,
    decide_twice: DecideTwice,
    deposit_twice: DepositTwice,
    lose_returned: LoseReturned,
    lose_travelling: LoseTravelling,
    lease_after_cut: LeaseAfterCut,
    commit_early: CommitEarly,
    other_part: OtherPart,
    other_source: OtherSource,
    commit_before_source: CommitBeforeSource,
    late_after_use: LateAfterUse,
    late_despite_fence: LateDespiteFence,
}
