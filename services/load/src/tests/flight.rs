//! The state machine by itself, with a clock that the tests turn.

use std::time::Duration;

use alloy_primitives::{B256, Bytes, U256};
use tokio::time::Instant;

use crate::{
    flight::Flight,
    sign::Signed,
    stats::Stats,
    wire::{Answer, Event, Kind, Stage},
};

/// Names the transaction of an account and nonce.
fn hash(sender: u32, nonce: u64) -> B256 {
    B256::from(U256::from(u64::from(sender) << 32 | nonce))
}

fn refused(code: &'static str, passes: bool) -> Answer {
    Answer::Refused { code, message: String::new(), passes }
}

fn event(hash: B256, stage: Stage, kind: Kind, status: bool, at: Instant) -> Event {
    Event { hash, stage, status, kind, shards: 2, gas_used: 0, at, asked: false }
}

struct Test {
    flight: Flight,
    now: Instant,
}

impl Test {
    fn new(per_account: u32) -> Self {
        let flight = Flight::new(Stats::new(None), 4, 2, per_account);
        Self { flight, now: Instant::now() }
    }

    fn offer(&mut self, sender: u32, nonces: std::ops::Range<u64>) {
        for nonce in nonces {
            let raw = Bytes::from_static(b"tx");
            let signed = Signed { sender, nonce, hash: hash(sender, nonce), raw };
            self.flight.offer(signed, self.now, self.now);
        }
    }

    fn answer(&mut self, sender: u32, nonce: u64, answer: &Answer) {
        self.flight.answered(&hash(sender, nonce), answer, self.now);
    }

    fn news(&mut self, sender: u32, nonce: u64, stage: Stage, kind: Kind, status: bool) {
        let event = event(hash(sender, nonce), stage, kind, status, self.now);
        self.flight.receipt(&event);
    }

    fn done(&mut self, sender: u32, nonce: u64) {
        self.news(sender, nonce, Stage::Final, Kind::Local, true);
    }

    fn pass(&mut self, ms: u64) {
        self.now += Duration::from_millis(ms);
        self.flight.wake(self.now);
    }

    /// What would be written now.
    fn written(&mut self) -> Vec<B256> {
        let batches = self.flight.outbox().flat_map(|(_, batch)| batch);
        batches.map(|out| out.hash).collect()
    }
}

#[test]
fn an_account_has_no_more_under_way_than_it_may() {
    let mut test = Test::new(2);
    test.offer(1, 0..4);
    assert_eq!(test.written(), [hash(1, 0), hash(1, 1)]);
    test.answer(1, 0, &Answer::Taken);
    assert!(test.written().is_empty());
    test.done(1, 0);
    assert_eq!(test.written(), [hash(1, 2)]);
}

#[test]
fn later_nonces_wait_for_one_that_is_tried_again() {
    let mut test = Test::new(100);
    test.offer(0, 0..3);
    assert_eq!(test.written().len(), 3);
    for nonce in 0..3 {
        test.answer(0, nonce, &refused("mempool_full", true));
    }
    test.offer(0, 3..4);
    assert!(test.written().is_empty());
    test.pass(19);
    assert!(test.written().is_empty());
    test.pass(1);
    // One is tried; when it is taken, the rest follows.
    assert_eq!(test.written(), [hash(0, 0)]);
    test.answer(0, 0, &refused("mempool_full", true));
    test.pass(39);
    assert!(test.written().is_empty());
    test.pass(1);
    assert_eq!(test.written(), [hash(0, 0)]);
    test.answer(0, 0, &Answer::Taken);
    assert_eq!(test.written(), [hash(0, 1), hash(0, 2), hash(0, 3)]);
    for nonce in 0..4 {
        test.done(0, nonce);
    }
    let stats = test.flight.close();
    assert_eq!((stats.offered, stats.submitted, stats.finals), (4, 4, 4));
    assert_eq!((stats.retries, stats.refusals["mempool_full"]), (4, 4));
    assert!(stats.failures.is_empty());
}

#[test]
fn an_account_is_retired_after_too_many_refusals() {
    let mut test = Test::new(100);
    test.offer(0, 0..2);
    let mut attempts = 0;
    while test.written().contains(&hash(0, 0)) {
        attempts += 1;
        test.answer(0, 0, &refused("overloaded", true));
        test.answer(0, 1, &Answer::Taken);
        test.pass(1_000);
    }
    assert!(attempts > 5);
    test.offer(0, 2..3);
    let stats = test.flight.close();
    let failures: Vec<_> = stats.failures.into_iter().collect();
    let expected = [("refused_overloaded", 1), ("skipped", 1), ("unresolved", 1)];
    assert_eq!(failures, expected.map(|(reason, count)| (reason.to_owned(), count)));
}

#[test]
fn what_can_never_finish_takes_no_room() {
    let mut test = Test::new(100);
    test.offer(0, 0..5);
    test.offer(1, 0..2);
    test.answer(0, 0, &Answer::Taken);
    test.answer(0, 3, &Answer::Taken);
    assert_eq!((test.flight.outstanding(), test.flight.moving()), (7, 7));
    test.news(0, 1, Stage::Dropped("gone".into()), Kind::Unknown, false);
    assert_eq!((test.flight.outstanding(), test.flight.moving()), (6, 2));
    // What is known of the retired account later changes nothing of that.
    test.done(0, 0);
    test.answer(0, 2, &refused("mempool_full", true));
    assert_eq!((test.flight.outstanding(), test.flight.moving()), (4, 2));
    let stats = test.flight.close();
    assert_eq!(stats.failures["unresolved"], 1);
    assert_eq!(stats.failures["unanswered"], 3);
    assert_eq!(stats.failures["refused_mempool_full"], 1);
    assert_eq!(stats.failed() + stats.finals, stats.offered);
}

#[test]
fn a_lost_answer_is_no_refusal_of_what_was_taken() {
    let mut test = Test::new(100);
    test.offer(0, 0..2);
    test.written();
    test.answer(0, 0, &Answer::lost());
    test.answer(0, 1, &Answer::lost());
    // The first was taken all the same; its receipt comes before it is sent again.
    test.done(0, 0);
    test.pass(20);
    assert_eq!(test.written(), [hash(0, 1)]);
    // So was the second, which runs before it is sent again.
    test.answer(0, 1, &refused("nonce_too_low", false));
    test.done(0, 1);
    let stats = test.flight.close();
    assert_eq!((stats.submitted, stats.finals, stats.retries), (2, 2, 1));
    assert!(stats.failures.is_empty());
}

#[test]
fn how_a_transaction_ended_is_never_guessed() {
    let mut test = Test::new(100);
    test.offer(0, 0..4);
    // Executed and failed: the short report that it is final does not say so again.
    test.news(0, 0, Stage::Executed, Kind::Group, false);
    test.news(0, 0, Stage::Final, Kind::Unknown, false);
    // Executed and succeeded, likewise.
    test.news(0, 1, Stage::Executed, Kind::Local, true);
    test.news(0, 1, Stage::Final, Kind::Unknown, false);
    // A credit's status before it is final means nothing.
    test.news(0, 2, Stage::Executed, Kind::Credit, true);
    test.news(0, 2, Stage::Final, Kind::Unknown, false);
    // The first report was missed.
    test.news(0, 3, Stage::Final, Kind::Unknown, false);
    let unclear = test.flight.unclear();
    assert_eq!(unclear, [hash(0, 2), hash(0, 3)]);
    test.news(0, 2, Stage::Final, Kind::Credit, false);
    test.news(0, 3, Stage::Final, Kind::Local, true);
    // Said twice: counted once.
    test.done(0, 3);
    let stats = test.flight.close();
    assert_eq!((stats.finals, stats.failures["reverted"]), (2, 2));
    assert_eq!((stats.arrived.executed, stats.arrived.finals), (2, 2));
    assert_eq!(stats.crossed, 4);
}

#[test]
fn latency_is_from_due_to_receipt() {
    let mut test = Test::new(100);
    let due = test.now;
    // Sent 50 ms late.
    test.pass(50);
    let signed = Signed { sender: 0, nonce: 0, hash: hash(0, 0), raw: Bytes::new() };
    test.flight.offer(signed, due, test.now);
    test.pass(30);
    test.news(0, 0, Stage::Executed, Kind::Local, true);
    test.pass(70);
    test.news(0, 0, Stage::Final, Kind::Unknown, false);
    let stats = test.flight.close();
    let near = |us: u64, wanted: u64| assert!(us.abs_diff(wanted) <= wanted / 500, "{us}");
    near(stats.lag_us.max(), 50_000);
    near(stats.executed_us.max(), 80_000);
    near(stats.final_us.max(), 150_000);
}
