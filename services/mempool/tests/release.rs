//! What goes to the executor, in which order, and what comes back.

mod support;

use atoll_api::mempool::{End, MempoolError};
use atoll_api::state::{Change, Ended, SenderTx};
use atoll_mempool::{Limits, Pool};
use atoll_types::{Basic, StateKey, StateValue, Tx};
use support::*;

fn pin(tx: &Tx) -> SenderTx {
    SenderTx { tx: *tx.hash(), sender: tx.sender(), nonce: tx.nonce() }
}

fn pinned(txs: &[&Tx]) -> Change {
    Change { pinned: txs.iter().map(|tx| pin(tx)).collect(), ..Change::default() }
}

fn ended(tx: &Tx, dropped: bool, cut: u64) -> Change {
    let dropped = dropped.then(|| "it cannot run".to_owned());
    let ended = vec![Ended { tx: pin(tx), dropped, gas_used: 0 }];
    Change { cut: Some(cut), ended, ..Change::default() }
}

fn wrote(tx: &Tx, account: Basic, cut: u64) -> Change {
    Change {
        cut: Some(cut),
        writes: vec![(StateKey::Basic(tx.sender()), StateValue::Basic(account))],
        ..Change::default()
    }
}

fn chain(sender: u8, prices: &[u128]) -> Vec<Tx> {
    let by = |(nonce, price): (usize, &u128)| tx(who(sender), nonce as u64, *price);
    prices.iter().enumerate().map(by).collect()
}

fn filled(txs: &[Tx]) -> Pool {
    let mut pool = pool(Limits::default());
    fill(&mut pool, txs);
    pool
}

#[test]
fn best_price_first_in_nonce_order_and_without_gaps() {
    let a = chain(1, &[20, 90, 10]);
    let b = chain(2, &[50, 5 + 7, 80]);
    let late = tx(who(2), 4, 1000);
    let mut pool = filled(&[&b[..], &a[..], &[late]].concat());
    let released = take_all(&mut pool);
    let order = [&b[0], &a[0], &a[1], &b[1], &b[2], &a[2]].map(Tx::clone);
    assert_eq!(released, order);
    assert_eq!(take_all(&mut pool), []);
    let status = pool.status();
    assert_eq!((status.pending, status.queued, status.under_way), (0, 1, 6));
}

#[test]
fn the_price_is_what_is_left_above_the_base_fee() {
    let with = |sender, cap, tip| Draft { cap, tip, ..draft(0, 0) }.by(who(sender));
    let (a, b, c) = (with(1, 100, 10), with(2, 45, 45), with(3, 30, 1));
    let legacy = draft(0, 38).legacy(who(4));
    let mut pool = filled(&[a.clone(), b.clone(), c.clone(), legacy.clone()]);
    pool.base_fee(30);
    assert_eq!(pool.take(1, 9, u64::MAX, 0), Ok(vec![b.clone(), a.clone(), legacy.clone(), c]));
    pool.base_fee(40);
    // One that cannot pay the base fee stays.
    assert_eq!(pool.take(2, 9, u64::MAX, 0), Ok(vec![a, b]));
    assert!(!pool.has_ready());
    pool.base_fee(0);
    assert_eq!(pool.take(2, 1, u64::MAX, 0), Ok(vec![legacy]));
    assert!(pool.has_ready());
}

#[test]
fn a_take_keeps_to_its_limits() {
    let gas = |sender, gas, price| Draft { gas, ..draft(0, price) }.by(who(sender));
    let (large, small) = (gas(1, 500_000, 90), gas(2, 30_000, 10));
    let mut pool = filled(&[large.clone(), small.clone()]);
    assert_eq!(pool.take(1, 0, u64::MAX, 0), Ok(vec![]));
    assert_eq!(pool.take(1, 9, 100_000, 0), Ok(vec![small]), "what does not fit is passed over");
    assert_eq!(pool.take(1, 9, 499_999, 0), Ok(vec![]));
    assert_eq!(pool.take(1, 9, 500_000, 0), Ok(vec![large]));

    let txs = chain(1, &[10, 10, 10]);
    let max_take_bytes = txs[0].raw().len() * 2;
    let mut pool = pool_with(Limits { max_take_bytes, ..Limits::default() }, &txs);
    assert_eq!(pool.take(1, 9, u64::MAX, 0).map(|txs| txs.len()), Ok(2));
    let mut pool = pool_with(Limits { max_take_txs: 1, ..Limits::default() }, &txs);
    assert_eq!(pool.take(1, 9, u64::MAX, 0).map(|txs| txs.len()), Ok(1));
}

fn pool_with(limits: Limits, txs: &[Tx]) -> Pool {
    let mut pool = pool(limits);
    fill(&mut pool, txs);
    pool
}

#[test]
fn nothing_is_released_before_it_is_known_what_is_under_way() {
    let mut pool = Pool::new(config(Limits::default()));
    fill(&mut pool, &chain(1, &[10]));
    assert!(!pool.has_ready());
    assert_eq!(take_all(&mut pool), []);
    pool.reset(0);
    assert_eq!(take_all(&mut pool).len(), 1);
}

#[test]
fn a_new_session_frees_what_was_taken_and_not_what_was_escalated() {
    let (a, b) = (chain(1, &[50, 50]), chain(2, &[10]));
    let mut pool = filled(&[&a[..], &b[..]].concat());
    assert_eq!(pool.take(5, 9, u64::MAX, 0).map(|txs| txs.len()), Ok(3));
    report(&mut pool, &a[0], End::Escalated);
    assert_eq!(pool.take(6, 9, u64::MAX, 0), Ok([&a[1..], &b].concat()));
    let old = MempoolError::OldSession { found: 5, newest: 6 };
    assert_eq!(pool.take(5, 9, u64::MAX, 0), Err(old));
}

#[test]
fn what_is_included_makes_way_for_the_next() {
    let txs = chain(1, &[10, 10, 10]);
    let mut pool = filled(&txs[..2]);
    assert_eq!(take_all(&mut pool), txs[..2]);
    // The second says that the first is in, too.
    report(&mut pool, &txs[1], End::Included);
    assert_eq!(pool.status(), Default::default());
    report(&mut pool, &txs[0], End::Included);
    assert!(pool.must_read(&who(1)), "a sender without transactions is forgotten");
    assert_eq!(submit(&mut pool, &txs[2], basic(2, RICH), 0), Ok(()));
    assert_eq!(take_all(&mut pool), txs[2..]);
}

#[test]
fn a_sender_with_transactions_keeps_its_nonce_and_is_read_again() {
    let txs = chain(1, &[10, 10, 10]);
    let mut pool = pool(Limits::default());
    let balance = 2 * 210_000;
    assert_eq!(submit(&mut pool, &txs[0], basic(0, balance), 0), Ok(()));
    assert_eq!(submit(&mut pool, &txs[1], basic(9, 9), 0), Ok(()), "not read again");
    take_all(&mut pool);
    report(&mut pool, &txs[0], End::Included);
    assert!(pool.must_read(&who(1)));
    // An answer from before that block is of no use: the balance would count twice.
    pool.learn(&[(who(1), basic(0, balance))], 0, 0);
    assert!(pool.must_read(&who(1)));
    assert!(pool.admit(txs[2].clone(), 0).is_err());
    assert_eq!(submit(&mut pool, &txs[2], basic(1, balance), 0), Ok(()));
}

#[test]
fn what_is_returned_can_be_taken_again_in_order() {
    let txs = chain(1, &[10, 10, 10]);
    let mut pool = filled(&txs);
    take_all(&mut pool);
    report(&mut pool, &txs[0], End::Returned);
    report(&mut pool, &txs[2], End::Returned);
    assert_eq!(take_all(&mut pool), [txs[0].clone(), txs[2].clone()]);
}

#[test]
fn what_is_dropped_leaves_a_gap_and_a_doubt() {
    let txs = chain(1, &[10, 10, 10]);
    let mut pool = filled(&txs);
    pool.take(1, 1, u64::MAX, 0).expect("the session");
    report(&mut pool, &txs[0], dropped());
    let status = pool.status();
    assert_eq!((status.pending, status.queued, status.under_way), (0, 2, 0));
    assert_eq!(take_all(&mut pool), []);
    assert!(pool.is_in_doubt(), "it is read at once");
    assert_eq!(pool.doubtful(9), [who(1)]);
    // Somebody else had used the nonce: the account says so.
    pool.learn(&[(who(1), basic(1, RICH))], 0, 0);
    assert_eq!(take_all(&mut pool), txs[1..]);
}

#[test]
fn later_ones_follow_an_escalated_transaction() {
    for is_dropped in [false, true] {
        let txs = chain(1, &[10, 10]);
        let mut pool = filled(&txs);
        pool.take(1, 1, u64::MAX, 0).expect("the session");
        report(&mut pool, &txs[0], End::Escalated);
        pool.change(&pinned(&[&txs[0]]), 0);
        report(&mut pool, &txs[0], End::Returned);
        assert_eq!(
            take_all(&mut pool),
            txs[1..],
            "the first is pinned, whatever the executor says"
        );
        report(&mut pool, &txs[1], End::Returned);
        pool.change(&ended(&txs[0], is_dropped, 3), 0);
        assert!(!pool.contains(txs[0].hash()));
        if is_dropped {
            // The nonce is free again, and the later one waits for it.
            assert_eq!(take_all(&mut pool), []);
            fill(&mut pool, &[tx(who(1), 0, 99)]);
            assert_eq!(take_all(&mut pool).len(), 2);
        } else {
            assert_eq!(take_all(&mut pool), txs[1..]);
        }
    }
}

#[test]
fn so_many_of_a_sender_are_under_way_and_no_more() {
    let limits = Limits { max_sender_under_way: 3, ..Limits::default() };
    let (txs, other) = (chain(1, &[10; 6]), tx(who(2), 0, 8));
    let mut pool = pool_with(limits, &[&txs[..], std::slice::from_ref(&other)].concat());
    assert_eq!(take_all(&mut pool), [&txs[..3], &[other]].concat());
    report(&mut pool, &txs[0], End::Escalated);
    // It is told twice, and counts once.
    pool.change(&pinned(&[&txs[0]]), 0);
    assert_eq!(take_all(&mut pool), []);
    report(&mut pool, &txs[1], End::Returned);
    assert_eq!(take_all(&mut pool), txs[1..2], "what came back goes first");
    pool.change(&ended(&txs[0], false, 1), 0);
    assert_eq!(take_all(&mut pool), txs[3..4]);
    // After a restart it is known from the state alone.
    let mut pool = pool_with(Limits { max_sender_under_way: 3, ..Limits::default() }, &txs[2..]);
    pool.change(&pinned(&[&txs[0], &txs[1]]), 0);
    assert_eq!(take_all(&mut pool), txs[2..3]);
}

#[test]
fn what_is_pinned_is_not_taken_in_and_no_gap() {
    use atoll_api::mempool::Refused;
    let txs = chain(1, &[10, 10, 10]);
    let mut pool = pool(Limits::default());
    pool.change(&pinned(&[&txs[0], &txs[1]]), 0);
    assert_eq!(submit(&mut pool, &txs[0], basic(0, RICH), 0), Err(Refused::AlreadyKnown));
    let other = tx(who(1), 1, 99);
    assert_eq!(submit(&mut pool, &other, basic(0, RICH), 0), Err(Refused::UnderWay));
    fill(&mut pool, &txs[2..]);
    assert_eq!(pool.status().pending, 1, "those under way are no gap");
    assert_eq!(take_all(&mut pool), txs[2..]);
}

#[test]
fn a_pin_that_comes_before_the_report_counts() {
    let txs = chain(1, &[10, 10]);
    let mut pool = filled(&txs);
    pool.take(1, 1, u64::MAX, 0).expect("the session");
    pool.change(&pinned(&[&txs[0]]), 0);
    let next = vec![txs[1].clone()];
    assert_eq!(pool.take(2, 9, u64::MAX, 0), Ok(next), "a new session does not free it");
    pool.change(&ended(&txs[0], false, 1), 0);
    report(&mut pool, &txs[0], End::Escalated);
    assert_eq!(pool.take(2, 9, u64::MAX, 0), Ok(vec![]));
}

#[test]
fn a_reset_forgets_pins_and_doubts_accounts() {
    let txs = chain(1, &[10]);
    let mut pool = filled(&txs);
    pool.change(&pinned(&txs.iter().collect::<Vec<_>>()), 0);
    assert_eq!(take_all(&mut pool), []);
    pool.reset(0);
    report(&mut pool, &txs[0], End::Returned);
    assert!(pool.is_in_doubt());
    assert_eq!(pool.doubtful(9), [who(1)]);
    assert_eq!(take_all(&mut pool), txs);
}

#[test]
fn an_escalated_transaction_that_is_not_shared_in_time_comes_back() {
    let limits = Limits { escalation_timeout_ms: 100, ..Limits::default() };
    let (lost, shared) = (tx(who(1), 0, 10), tx(who(2), 0, 10));
    let mut pool = pool_with(limits, &[lost.clone(), shared.clone()]);
    take_all(&mut pool);
    report(&mut pool, &lost, End::Escalated);
    report(&mut pool, &shared, End::Escalated);
    pool.change(&pinned(&[&shared]), 0);
    pool.expire(99, 9);
    assert!(!pool.has_ready());
    pool.expire(100, 9);
    assert_eq!(take_all(&mut pool), [lost]);
    assert_eq!(pool.metrics().escalations_lost.get(), 1);
}

#[test]
fn writes_of_others_refresh_accounts() {
    let txs = chain(1, &[10, 10, 10]);
    let mut pool = filled(&txs);
    // The balance does for one of them only: the rest can no longer run.
    pool.change(&wrote(&txs[0], basic(0, 210_000), 1), 0);
    assert_eq!((pool.status().pending, pool.status().queued), (1, 2));
    assert_eq!(take_all(&mut pool), txs[..1]);
    // It may have grown unseen, so it is looked after.
    report(&mut pool, &txs[0], End::Included);
    assert_eq!(pool.doubtful(9), [who(1)]);
    pool.change(&wrote(&txs[0], basic(2, 210_000), 2), 0);
    assert!(!pool.contains(txs[1].hash()), "the nonce went past it");
    assert_eq!(take_all(&mut pool), txs[2..]);
}

#[test]
fn what_is_older_than_what_is_known_is_passed_over() {
    let txs = chain(1, &[10, 10]);
    let mut pool = pool(Limits::default());
    let rich = basic(0, RICH);
    pool.hold(&[who(1)]);
    pool.learn(&[(who(1), rich)], 7, 0);
    for tx in &txs {
        assert_eq!(pool.admit(tx.clone(), 0), Ok(()));
    }
    pool.change(&wrote(&txs[0], basic(0, 0), 7), 0);
    assert_eq!(pool.status().pending, 2, "it was read after cut 7");
    pool.change(&wrote(&txs[0], basic(0, 210_000), 8), 0);
    pool.learn(&[(who(1), rich)], 7, 0);
    assert_eq!(pool.status().pending, 1, "it was read before cut 8");
    assert!(pool.must_read(&who(1)));
    pool.learn(&[(who(1), rich)], 8, 0);
    assert_eq!(pool.status().pending, 2);
}

#[test]
fn a_sender_is_not_forgotten_while_it_is_read() {
    let txs = chain(1, &[10, 10]);
    let mut pool = filled(&txs[..1]);
    pool.hold(&[who(1)]);
    take_all(&mut pool);
    report(&mut pool, &txs[0], End::Included);
    // Read before that block, answered after it.
    pool.learn(&[(who(1), basic(0, RICH))], 0, 0);
    assert_eq!(pool.admit(txs[1].clone(), 0).map_err(|e| e.to_string()[..12].to_owned()), Ok(()));
    pool.release(&[who(1)]);
    assert_eq!(take_all(&mut pool), txs[1..], "it is the next one, not a far-ahead one");
}

#[test]
fn senders_of_whom_nothing_can_go_on_are_looked_after_in_turns() {
    let far: Vec<_> = (1..=5).map(|n| tx(who(n), 3, 10)).collect();
    let mut pool = filled(&far);
    assert!(!pool.is_in_doubt());
    let mut seen: Vec<_> = (0..5).flat_map(|_| pool.doubtful(2)).collect();
    assert_eq!(seen.len(), 10);
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 5);
}

#[test]
fn what_cannot_run_expires_and_what_can_does_not() {
    let limits = Limits { expiry_ms: 1000, ..Limits::default() };
    let (good, far) = (chain(1, &[60, 60]), tx(who(2), 1, 60));
    let (poor, child) = (tx(who(3), 0, 10), tx(who(3), 1, 60));
    let all = [&good[..], &[far.clone(), poor.clone(), child.clone()]].concat();
    let mut pool = pool_with(limits, &all);
    pool.base_fee(50);
    assert!(!pool.expire(999, 99));
    assert_eq!(pool.status().pending + pool.status().queued, 5);
    assert!(pool.expire(1000, 1), "there are more");
    assert!(!pool.expire(1000, 99));
    assert!(!pool.contains(far.hash()) && !pool.contains(poor.hash()));
    assert!(good.iter().all(|tx| pool.contains(tx.hash())));
    assert_eq!(pool.metrics().expired.get() + u64::from(pool.contains(child.hash())), 3);
    pool.expire(2000, 99);
    assert!(!pool.contains(child.hash()));
    pool.expire(1_000_000, 99);
    assert_eq!(take_all(&mut pool), good);
    pool.expire(2_000_000, 99);
    assert_eq!(pool.status().under_way, 2, "what is under way does not expire");
}

#[test]
fn what_becomes_unable_to_run_gets_the_whole_time() {
    let limits = Limits { expiry_ms: 1000, ..Limits::default() };
    let txs = chain(1, &[10, 10]);
    let mut pool = pool_with(limits, &txs);
    let ends = [atoll_api::mempool::TxEnd { tx: *txs[0].hash(), end: dropped() }];
    pool.report(&ends, 900);
    pool.expire(1899, 9);
    assert!(pool.contains(txs[1].hash()));
    pool.expire(1900, 9);
    assert!(!pool.contains(txs[1].hash()));
    assert_eq!(pool.status(), Default::default());
}
