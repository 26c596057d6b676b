//! Histories made by hand, one for each thing that cannot have happened, and one in which nothing has.

use atoll_types::{Address, B256};

use super::{Anomaly, check};
use crate::history::{Action, End, History, Move, Op, Place, Seen, Step, Tx, World};

const PURSE: Address = Address::repeat_byte(0xaa);

fn sender(client: u32) -> Address {
    Address::left_padding_from(&client.to_be_bytes())
}

fn append(list: u64, value: u64) -> Step {
    Step::Append { list, value }
}

fn read(list: u64) -> Step {
    Step::Read { list }
}

/// A history to which operations are added one after another, each begun after the one before ended.
struct Story {
    history: History,
    now: u64,
}

impl Story {
    fn new() -> Self {
        let world = World { books: 2, accounts: 2, balance: 10, purses: vec![PURSE] };
        let mut history = History { world, ..History::default() };
        history.ending.balances = vec![10; 4];
        history.ending.purses.insert(PURSE, 0);
        Self { history, now: 0 }
    }

    fn op(&mut self, client: u32, action: Action, tx: Option<Tx>, end: End) -> usize {
        let (begun, ended) = (self.now + 1, self.now + 2);
        self.now += 2;
        self.history.ops.push(Op { client, begun, ended, action, tx, end, told: Vec::new() });
        self.history.ops.len() - 1
    }

    /// A transaction of this client with the next nonce; its receipt is there at the end.
    fn tx(&mut self, client: u32, action: Action, end: End) -> usize {
        let ours = |op: &&Op| op.tx.is_some_and(|tx| tx.sender == sender(client));
        let nonce = self.history.ops.iter().filter(ours).count() as u64;
        let number = self.history.ops.len() as u64;
        let hash = B256::left_padding_from(&(number + 1).to_be_bytes());
        let tx = Tx { hash, sender: sender(client), nonce };
        let number = self.op(client, action, Some(tx), end.clone());
        let told = format!("receipt {number}");
        self.history.ops[number].told.push(told.clone());
        if end != End::Refused {
            let ok = end != End::Reverted;
            self.history.ending.receipts.insert(hash, (ok, told));
            self.history.ending.nonces.insert(tx.sender, nonce + 1);
        }
        number
    }

    /// Steps, and what those that read have seen.
    fn steps(&mut self, client: u32, steps: &[Step], seen: &[&[u64]]) -> usize {
        let seen = Seen::Lists(seen.iter().map(|list| list.to_vec()).collect());
        self.tx(client, Action::Steps(steps.to_vec()), End::Ok(seen))
    }

    /// All operations at the same time: no order but what they saw.
    fn at_once(mut self) -> Self {
        self.history.ops.iter_mut().for_each(|op| (op.begun, op.ended) = (1, 2));
        self
    }

    fn ends(mut self, lists: &[(u64, &[u64])]) -> Self {
        let lists = lists.iter().map(|(list, values)| (*list, values.to_vec()));
        self.history.ending.lists = lists.collect();
        self
    }

    fn found(&self) -> Vec<Anomaly> {
        let mut found: Vec<_> = check(&self.history).iter().map(|v| v.anomaly).collect();
        found.sort();
        found.dedup();
        found
    }
}

#[test]
fn what_one_machine_would_have_done_is_in_order() {
    let mut story = Story::new();
    story.steps(1, &[append(1, 11), read(2)], &[&[]]);
    story.steps(2, &[read(1), append(2, 21), read(2)], &[&[11], &[21]]);
    story.steps(1, &[append(1, 12), append(1, 13), read(1)], &[&[11, 12, 13]]);
    let (from, to) = (Place { book: 0, account: 0 }, Place { book: 1, account: 1 });
    story.tx(1, Action::Move(Move { from, to, amount: 4 }), End::Ok(Seen::Nothing));
    story.tx(1, Action::Move(Move { from, to, amount: 40 }), End::Reverted);
    story.op(2, Action::Totals, None, End::Ok(Seen::Balances(vec![6, 10, 10, 14])));
    story.tx(2, Action::Pay { to: PURSE, wei: 5 }, End::Ok(Seen::Nothing));
    let seen = Seen::Account { nonce: 0, balance: 5 };
    story.op(2, Action::Account(PURSE), None, End::Ok(seen));
    let unknown = story.tx(3, Action::Steps(vec![append(2, 22)]), End::Unknown);
    story.history.ops[unknown].told.clear();
    // It took effect after all.
    let hash = story.history.ops[unknown].tx.expect("a transaction").hash;
    story.history.ending.receipts.insert(hash, (true, "some".to_owned()));
    let reads = Action::Steps(vec![read(1), read(2)]);
    let lists = Seen::Lists(vec![vec![11, 12, 13], vec![21]]);
    story.op(1, reads, None, End::Ok(lists));
    story.history.ending.balances = vec![6, 10, 10, 14];
    story.history.ending.purses.insert(PURSE, 5);
    let story = story.ends(&[(1, &[11, 12, 13]), (2, &[21, 22])]);
    assert_eq!(story.found(), [], "{:?}", check(&story.history));
}

#[test]
fn a_lost_append_is_found() {
    let mut story = Story::new();
    story.steps(1, &[append(1, 11)], &[]);
    assert_eq!(story.ends(&[(1, &[])]).found(), [Anomaly::LostAppend]);
    // Also if it was seen once and is gone at the end.
    let mut story = Story::new();
    let unknown = story.tx(1, Action::Steps(vec![append(1, 11)]), End::Unknown);
    story.history.ops[unknown].told.clear();
    story.steps(2, &[read(1)], &[&[11]]);
    assert_eq!(story.ends(&[(1, &[])]).found(), [Anomaly::LostAppend]);
}

#[test]
fn an_append_that_is_there_twice_is_found() {
    let mut story = Story::new();
    story.steps(1, &[append(1, 11)], &[]);
    story.steps(1, &[append(1, 12)], &[]);
    let found = story.ends(&[(1, &[11, 12, 11])]).found();
    assert!(found.contains(&Anomaly::DuplicateAppend), "{found:?}");
}

#[test]
fn a_value_from_nowhere_is_found() {
    assert_eq!(Story::new().ends(&[(1, &[7])]).found(), [Anomaly::Garbage]);
}

#[test]
fn an_aborted_read_is_found() {
    for end in [End::Refused, End::Reverted] {
        let mut story = Story::new();
        story.tx(1, Action::Steps(vec![append(1, 11)]), end);
        story.steps(2, &[read(1)], &[&[11]]);
        assert_eq!(story.ends(&[(1, &[11])]).found(), [Anomaly::AbortedRead]);
    }
}

#[test]
fn half_a_transaction_that_is_read_is_found() {
    let mut story = Story::new();
    story.steps(1, &[append(1, 11), append(1, 12)], &[]);
    story.steps(2, &[read(1)], &[&[11]]);
    let found = story.at_once().ends(&[(1, &[11, 12])]).found();
    assert!(found.contains(&Anomaly::IntermediateRead), "{found:?}");
}

#[test]
fn an_own_append_that_is_not_seen_is_found() {
    let mut story = Story::new();
    story.steps(1, &[append(1, 11), read(1)], &[&[]]);
    assert_eq!(story.ends(&[(1, &[11])]).found(), [Anomaly::OwnAppendMissing]);
}

#[test]
fn reads_that_contradict_each_other_are_found() {
    let mut story = Story::new();
    story.steps(1, &[append(1, 11)], &[]);
    story.steps(2, &[append(1, 12)], &[]);
    story.steps(3, &[read(1)], &[&[12]]);
    let found = story.at_once().ends(&[(1, &[11, 12])]).found();
    assert_eq!(found, [Anomaly::IncompatibleOrder]);
}

#[test]
fn a_read_of_the_past_is_found() {
    let mut story = Story::new();
    story.steps(1, &[append(1, 11)], &[]);
    story.steps(2, &[read(1)], &[&[]]);
    assert_eq!(story.ends(&[(1, &[11])]).found(), [Anomaly::StaleRead]);
}

#[test]
fn writes_in_a_circle_are_found() {
    let mut story = Story::new();
    story.steps(1, &[append(1, 11), append(2, 21)], &[]);
    story.steps(2, &[append(1, 12), append(2, 22)], &[]);
    let found = story.at_once().ends(&[(1, &[11, 12]), (2, &[22, 21])]).found();
    assert_eq!(found, [Anomaly::G0]);
}

#[test]
fn a_dirty_read_cycle_is_found() {
    let mut story = Story::new();
    story.steps(1, &[append(1, 11), read(2)], &[&[21]]);
    story.steps(2, &[append(2, 21), read(1)], &[&[11]]);
    let found = story.at_once().ends(&[(1, &[11]), (2, &[21])]).found();
    assert_eq!(found, [Anomaly::G1c]);
}

#[test]
fn a_read_that_is_torn_between_two_lists_is_found() {
    let mut story = Story::new();
    story.steps(1, &[append(1, 11), append(2, 21)], &[]);
    story.steps(2, &[read(1), read(2)], &[&[11], &[]]);
    let found = story.at_once().ends(&[(1, &[11]), (2, &[21])]).found();
    assert_eq!(found, [Anomaly::GSingle]);
}

#[test]
fn write_skew_is_found() {
    let mut story = Story::new();
    story.steps(1, &[read(1), append(2, 21)], &[&[]]);
    story.steps(2, &[read(2), append(1, 11)], &[&[]]);
    let found = story.at_once().ends(&[(1, &[11]), (2, &[21])]).found();
    assert_eq!(found, [Anomaly::G2]);
}

#[test]
fn a_client_that_does_not_see_what_it_did_is_found() {
    let mut story = Story::new();
    story.steps(1, &[append(1, 11)], &[]);
    // At a cut: nobody but the client itself could know.
    let reads = Action::Steps(vec![read(1)]);
    story.op(1, reads, None, End::Ok(Seen::Lists(vec![vec![]])));
    assert_eq!(story.ends(&[(1, &[11])]).found(), [Anomaly::ClientOrder]);
}

#[test]
fn a_lost_acknowledgement_is_found() {
    let mut story = Story::new();
    story.steps(1, &[read(1)], &[&[]]);
    story.steps(1, &[read(1)], &[&[]]);
    let hash = story.history.ops[0].tx.expect("a transaction").hash;
    story.history.ending.receipts.remove(&hash);
    assert_eq!(story.found(), [Anomaly::LostAck, Anomaly::WrongNonce]);
}

#[test]
fn a_receipt_that_changes_is_found() {
    let mut story = Story::new();
    let number = story.steps(1, &[read(1)], &[&[]]);
    story.history.ops[number].told.push("another".to_owned());
    assert_eq!(story.found(), [Anomaly::ChangedReceipt]);
}

#[test]
fn what_was_refused_and_took_effect_is_found() {
    let mut story = Story::new();
    let number = story.tx(1, Action::Steps(vec![read(1)]), End::Refused);
    let tx = story.history.ops[number].tx.expect("a transaction");
    let told = story.history.ops[number].told[0].clone();
    story.history.ending.receipts.insert(tx.hash, (true, told));
    story.history.ending.nonces.insert(tx.sender, 1);
    assert_eq!(story.found(), [Anomaly::RefusedTookEffect]);
}

#[test]
fn two_transactions_of_one_nonce_are_found() {
    let mut story = Story::new();
    story.steps(1, &[read(1)], &[&[]]);
    let second = story.steps(1, &[read(1)], &[&[]]);
    story.history.ops[second].tx.as_mut().expect("a transaction").nonce = 0;
    story.history.ending.nonces.insert(sender(1), 1);
    assert_eq!(story.found(), [Anomaly::NonceTwice]);
}

#[test]
fn a_wrong_total_is_found() {
    let mut story = Story::new();
    story.op(1, Action::Totals, None, End::Ok(Seen::Balances(vec![10, 10, 10, 9])));
    assert_eq!(story.found(), [Anomaly::WrongTotal]);
}

#[test]
fn a_move_that_took_effect_twice_is_found() {
    let (from, to) = (Place { book: 0, account: 0 }, Place { book: 1, account: 0 });
    let mut story = Story::new();
    story.tx(1, Action::Move(Move { from, to, amount: 4 }), End::Ok(Seen::Nothing));
    story.history.ending.balances = vec![2, 10, 18, 10];
    assert_eq!(story.found(), [Anomaly::WrongBalance]);
}

#[test]
fn a_payment_that_took_effect_twice_or_never_is_found() {
    for held in [0, 10] {
        let mut story = Story::new();
        story.tx(1, Action::Pay { to: PURSE, wei: 5 }, End::Ok(Seen::Nothing));
        story.history.ending.purses.insert(PURSE, held);
        assert_eq!(story.found(), [Anomaly::WrongBalance]);
    }
}

#[test]
fn a_register_that_falls_is_found() {
    let mut story = Story::new();
    for client in [1, 2] {
        story.tx(client, Action::Pay { to: PURSE, wei: 5 }, End::Ok(Seen::Nothing));
    }
    for balance in [10, 5] {
        let seen = Seen::Account { nonce: 0, balance };
        story.op(3, Action::Account(PURSE), None, End::Ok(seen));
    }
    story.history.ending.purses.insert(PURSE, 10);
    assert_eq!(story.found(), [Anomaly::WentBack]);
}

#[test]
fn a_register_that_is_out_of_its_bounds_is_found() {
    for nonce in [0, 2] {
        let mut story = Story::new();
        story.steps(1, &[read(1)], &[&[]]);
        let seen = Seen::Account { nonce, balance: 0 };
        story.op(1, Action::Account(sender(1)), None, End::Ok(seen));
        assert_eq!(story.found(), [Anomaly::OutOfBounds], "{nonce}");
    }
}
