//! What ran in rounds that are not kept any more.

use atoll_api::state::{Ran, RoundsRun};

use super::*;
use crate::rounds::is_past;

fn ran(stage: &Stage, round: u64) -> Result<usize, StateError> {
    Ok(stage.core.ran(&Ran { round, skip: 0 })?.txs.len())
}

fn is_known(stage: &Stage, at: usize) -> bool {
    let reply = stage.core.lookup(&Lookup { txs: vec![stage.txs[at]] }).unwrap();
    reply.statuses[0].is_some()
}

#[test]
fn what_ran_before_the_rounds_that_are_kept_is_forgotten_at_a_snapshot() {
    let mut stage = Stage::new();
    stage.every = 1_000;
    stage.live();
    assert_eq!([0, 1, 2, 4].map(|round| ran(&stage, round)), [Ok(1), Ok(1), Ok(1), Ok(1)]);
    let word = stage.word(None);
    stage.keep = 2;
    stage.snapshot();
    let check = |stage: &mut Stage| {
        // A payment of round 1 is under way.
        let pruned = StateError::Pruned { asked: 0, oldest: 1 };
        assert_eq!(ran(stage, 0), Err(pruned.clone()));
        assert_eq!([1, 2, 4].map(|round| ran(stage, round)), [Ok(1), Ok(1), Ok(1)]);
        let filled =
            |first| stage.core.rounds_run(&RoundsRun { first, last: 9, named: Vec::new() });
        assert_eq!(filled(0).unwrap_err(), pruned);
        assert_eq!(filled(1).unwrap().rounds, [1, 2, 4]);
        assert_eq!(stage.word(None), word);
        let entries = stage.index.scan_after(&[], usize::MAX).unwrap();
        assert!(entries.iter().all(|(key, value)| !is_past(1, key, value)));
    };
    check(&mut stage);
    for _ in 0..2 {
        stage.crash();
        check(&mut stage);
        stage.stop();
        check(&mut stage);
    }
    // Less is not kept because more is asked for.
    stage.keep = 0;
    stage.snapshot();
    check(&mut stage);
}

#[test]
fn a_payment_that_has_not_ended_is_kept() {
    let mut stage = Stage::new();
    stage.every = 1_000;
    let basic = |balance| StateValue::Basic(Basic { nonce: 1, balance: U256::from(balance) });
    let (alice, bob, paid) = (stage.alice, stage.bob, basic(990));
    stage.append(
        vec![(transaction(alice, 0), ReceiptKind::Local)],
        vec![(StateKey::Basic(alice), basic(995))],
    );
    stage.cut(|_| {});
    stage.append(
        vec![(transaction(bob, 0), ReceiptKind::Credit)],
        vec![(StateKey::Basic(bob), paid)],
    );
    (0..5).for_each(|_| stage.cut(|_| {}));
    stage.keep = 5;
    stage.snapshot();
    assert_eq!(ran(&stage, 0), Err(StateError::Pruned { asked: 0, oldest: 1 }));
    assert_eq!(ran(&stage, 1), Ok(1));
    assert!(!is_known(&stage, 0));
    // Fees of both blocks have gone there too.
    let settlement = Settlement { by: THERE, from: HERE, up_to: 3, returned_up_to: 0, cut: 5 };
    let done = stage.core.settle(settlement);
    stage.done(done);
    stage.snapshot();
    assert_eq!(ran(&stage, 1), Err(StateError::Pruned { asked: 1, oldest: 5 }));
    assert!(is_known(&stage, 1), "its receipt is of the cut at which it ended");
}
