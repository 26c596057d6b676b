//! What a shard answers after a crash and after a clean stop, from a log, an index and snapshots that are
//! whole or are not.

use super::*;

#[test]
fn a_crash_and_a_clean_stop_change_no_answer() {
    let mut stage = Stage::new();
    stage.live();
    let expected = stage.face();
    let status = |stage: &mut Stage, at: usize| {
        stage.core.lookup(&Lookup { txs: vec![stage.txs[at]] }).unwrap().statuses.remove(0)
    };
    assert!(matches!(status(&mut stage, 0), Some(TxStatus::Done(_))));
    assert!(matches!(status(&mut stage, 1), Some(TxStatus::Pending)), "a payment");
    assert!(matches!(status(&mut stage, 4), Some(TxStatus::Dropped { .. })));
    assert!(matches!(status(&mut stage, 5), Some(TxStatus::Pending)), "in a group");
    for _ in 0..2 {
        stage.crash();
        assert_eq!(stage.face(), expected);
        stage.stop();
        assert_eq!(stage.face(), expected);
    }
    // A stop counts for the log that it was made with, and once.
    stage.core.close(stage.log.next(), 0).unwrap();
    let change = |stage: &mut Stage| stage.cut(|_| {});
    change(&mut stage);
    let later = stage.face();
    stage.reopen();
    assert_eq!(stage.face(), later, "the marker is of an older log");
    stage.stop();
    change(&mut stage);
    let later = stage.face();
    stage.crash();
    assert_eq!(stage.face(), later, "the marker was used up");
}

#[test]
fn entries_half_way_to_the_index_survive_a_clean_stop() {
    let mut stage = Stage::new();
    stage.live();
    let expected = stage.face();
    let entries = stage.core.values.take_entries();
    assert!(entries.is_some_and(|entries| !entries.is_empty()));
    let slot = (stage.slot(), StateValue::Slot(U256::from(13)));
    stage.core.values.set(slot.0, slot.1);
    stage.stop();
    assert_eq!(stage.face(), expected);
}

#[test]
fn another_genesis_is_refused_and_another_bound_is_not() {
    let mut stage = Stage::new();
    stage.live();
    let expected = stage.face();
    stage.core.close(stage.log.next(), 0).unwrap();
    let open = |stage: &mut Stage, config: &CoreConfig| {
        Core::open(
            config,
            &mut stage.log.clone(),
            Arc::new(stage.index.clone()),
            Some(&stage.snapshots),
        )
    };
    let mut other = stage.config.clone();
    other.accounts = Arc::new(Vec::new());
    assert!(matches!(
        open(&mut stage, &other),
        Err(OpenError::Chain(atoll_journal::OpenError::OtherGenesis { .. }))
    ));
    let mut other = stage.config.clone();
    other.owner.shard = THERE;
    assert!(matches!(
        open(&mut stage, &other),
        Err(OpenError::Chain(atoll_journal::OpenError::OtherGenesis { .. }))
    ));
    let mut other = stage.config.clone();
    other.genesis.env.base_fee = 1;
    assert!(matches!(
        open(&mut stage, &other),
        Err(OpenError::Chain(atoll_journal::OpenError::OtherGenesis { .. }))
    ));
    stage.config.owner.max_shared = 2;
    stage.reopen();
    assert_eq!(stage.face(), expected);
    let refused = stage.share(stage.shared(9, 1));
    assert_eq!(refused, Some(Refusal::TooManyShared { limit: 2 }));
    stage.crash();
    assert_eq!(stage.face(), expected);
}

#[test]
fn a_start_from_a_snapshot_knows_the_past_since_then() {
    let mut stage = Stage::new();
    stage.every = 4;
    stage.live();
    stage.crash();
    for (cut, word) in [(4, 12), (5, 13), (6, 13)] {
        assert_eq!(stage.word(Some(cut)), word, "at cut {cut}");
    }
    let read = Read { keys: vec![], codes: vec![], at: Some(3), min_cut: 0 };
    let old = StateError::CutTooOld { asked: 3, oldest: 4 };
    assert_eq!(stage.core.read(&read).unwrap_err(), old);
}

#[test]
fn a_damaged_snapshot_gives_way_to_the_one_before_and_then_to_a_refusal() {
    let mut stage = Stage::new();
    stage.live();
    while stage.snapshots.list().unwrap().len() < 2 || stage.log.first() == 1 {
        stage.cut(|_| {});
    }
    let expected = stage.face();
    let damage = |stage: &Stage| {
        let newest = stage.snapshots.list().unwrap().pop().unwrap();
        let mut bytes = std::fs::read(&newest.path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&newest.path, bytes).unwrap();
        newest.number
    };
    let first = damage(&stage);
    stage.crash();
    assert_eq!(stage.face(), expected);
    let left: Vec<u64> = stage.snapshots.list().unwrap().iter().map(|s| s.number).collect();
    assert!(left.len() == 1 && left[0] < first, "{left:?}");
    damage(&stage);
    stage.log.append(b"torn").unwrap();
    stage.log.crash();
    let index = Arc::new(stage.index.clone());
    let refused = Core::open(&stage.config, &mut stage.log, index, Some(&stage.snapshots));
    let refused = refused.err().unwrap().to_string();
    assert!(refused.contains(".snap is damaged at byte"), "{refused}");
    assert!(refused.contains("atoll restore"), "{refused}");
}
