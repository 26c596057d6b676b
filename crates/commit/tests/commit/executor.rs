//! The rules of an executor, each by itself.

use std::collections::HashSet;

use alloy_primitives::keccak256;
use atoll_commit::{Executor, ExecutorEffect, Ready};
use atoll_types::{
    Address, B256, Bytes, CodeRef, Flight, GroupId, GroupToRun, InFlight, KeySet, LateLease, Lease,
    Part, PartMessage, Placement, PlannedGroup, ShardId, StateKey, StateValue, U256, Want, Write,
};

use crate::{
    toy::{CHAIN, empty_part},
    world::planner_config,
};

const HERE: ShardId = ShardId(0);
const THERE: ShardId = ShardId(1);

fn group(round: u64) -> GroupId {
    GroupId { round, index: 0 }
}

fn slot(n: u64) -> StateKey {
    StateKey::Slot(Address::repeat_byte(1), 0, U256::from(n))
}

fn word(n: u64) -> StateValue {
    StateValue::Slot(U256::from(n))
}

fn plan(id: GroupId, executor: ShardId) -> PlannedGroup {
    PlannedGroup { id, executor, owners: vec![HERE], txs: Vec::new(), gas: 0 }
}

fn to_run(id: GroupId) -> GroupToRun {
    let config = planner_config(2, Address::ZERO);
    let env = atoll_commit::Planner::new(config).head().env;
    GroupToRun { group: plan(id, HERE), env, txs: Vec::new() }
}

fn lease(id: GroupId, values: Vec<Write>, in_flight: Vec<InFlight>) -> Lease {
    let (credits, bodies) = (Vec::new(), Vec::new());
    let (chain_id, group) = (CHAIN, id);
    Lease { chain_id, epoch: 0, group, from: HERE, values, in_flight, credits, bodies }
}

fn result(id: GroupId, writes: Vec<Write>) -> Vec<Part> {
    vec![Part { writes, ..empty_part(&plan(id, HERE), HERE) }]
}

fn message(parts: &[Part]) -> PartMessage {
    let manifest = parts.iter().map(|part| (part.owner, part.hash())).collect();
    PartMessage { part: parts[0].clone(), manifest }
}

fn ready(effects: impl IntoIterator<Item = ExecutorEffect>) -> Option<Ready> {
    effects.into_iter().find_map(|effect| match effect {
        ExecutorEffect::Run(ready) => Some(*ready),
        _ => None,
    })
}

/// An executor with a group of round 1 that is under way.
fn with_one() -> (Executor, Ready) {
    let mut executor = Executor::new(HERE);
    assert_eq!(executor.plan(to_run(group(1))), []);
    let effects = executor.lease(lease(group(1), vec![(slot(1), word(1))], Vec::new()));
    let ready = ready(effects).expect("it has all that it needs");
    (executor, ready)
}

fn behind(executor: ShardId) -> Lease {
    let flight = InFlight { key: slot(1), group: group(1), executor };
    lease(group(2), Vec::new(), vec![flight])
}

#[test]
fn a_group_waits_for_the_values_of_one_that_runs_here_and_names_it() {
    let (mut executor, _) = with_one();
    executor.plan(to_run(group(2)));
    assert_eq!(executor.lease(behind(HERE)), []);
    let mut first = result(group(1), vec![(slot(1), word(7))]);
    let effects = executor.ran(group(1), &mut first).expect("it is under way");
    let second = ready(effects).expect("what it has waited for is here");
    assert_eq!(second.values, [(slot(1), word(7))]);
    let mut parts = result(group(2), vec![(slot(1), word(8))]);
    executor.ran(group(2), &mut parts);
    let digest = message(&first).digest();
    assert_eq!(parts[0].sources.len(), 1);
    assert_eq!((parts[0].sources[0].group, parts[0].sources[0].digest), (group(1), digest));
    // A result of a group that is not under way counts for nothing.
    assert_eq!(executor.ran(group(2), &mut parts), None);
}

#[test]
fn values_leave_for_another_executor_when_they_are_durable_and_with_the_code_they_name() {
    let (mut executor, _) = with_one();
    let code = Bytes::from_static(b"code");
    let account = StateKey::Code(Address::repeat_byte(1));
    let created = StateValue::Code(CodeRef { hash: keccak256(&code), incarnation: 0 });
    let mut parts = result(group(1), vec![(account, created), (slot(1), word(7))]);
    parts[0].codes.push(code.clone());
    executor.ran(group(1), &mut parts);
    let want = Want { source: group(1), to: group(2), keys: vec![account, slot(9)] };
    assert_eq!(executor.want(THERE, want.clone()), None, "it is not durable yet");
    assert_eq!(executor.want(THERE, want), None);
    let message = message(&parts);
    let effects = executor.kept(group(1), std::slice::from_ref(&message));
    let flight = Flight {
        source: group(1),
        digest: message.digest(),
        to: group(2),
        values: vec![(account, created)],
        codes: vec![code],
    };
    assert_eq!(effects, [ExecutorEffect::Flight { to: THERE, flight }], "once");
}

#[test]
fn values_in_flight_count_only_from_the_executor_that_the_owner_names() {
    let mut executor = Executor::new(HERE);
    executor.plan(to_run(group(2)));
    let want = Want { source: group(1), to: group(2), keys: vec![slot(1)] };
    let asks = vec![ExecutorEffect::Want { to: THERE, want }];
    assert_eq!(executor.lease(behind(THERE)), asks);
    assert_eq!(executor.again(), asks, "an answer may be lost");
    let flight = |key| Flight {
        source: group(1),
        digest: B256::repeat_byte(3),
        to: group(2),
        values: vec![(key, word(7))],
        codes: Vec::new(),
    };
    assert_eq!(executor.flight(ShardId(2), flight(slot(1))), None);
    assert_eq!(executor.flight(THERE, flight(slot(2))), None);
    let ready = ready(executor.flight(THERE, flight(slot(1)))).expect("it has the value");
    assert_eq!(ready.values, [(slot(1), word(7))]);
}

#[test]
fn a_lease_that_comes_again_says_what_has_become_of_values_in_flight() {
    let mut executor = Executor::new(HERE);
    executor.plan(to_run(group(2)));
    executor.lease(behind(THERE));
    assert_eq!(executor.missing(), [(group(2), HERE)]);
    let landed = lease(group(2), vec![(slot(1), word(7))], Vec::new());
    let ready = ready(executor.lease(landed)).expect("nothing is in flight any more");
    assert_eq!(ready.values, [(slot(1), word(7))]);
    let mut parts = result(group(2), Vec::new());
    executor.ran(group(2), &mut parts);
    assert_eq!(parts[0].sources, []);
}

#[test]
fn a_late_lease_is_asked_for_and_an_owner_that_never_answers_refuses() {
    let (mut executor, run) = with_one();
    let placement = Placement::new(1, Default::default());
    let keys = KeySet::new([slot(2)], [slot(3)]);
    let asks = executor.lacks(run, &keys, &placement);
    assert_eq!(asks.len(), 1);
    let granted = LateLease {
        group: group(1),
        from: HERE,
        reads: vec![(slot(2), word(2))],
        writes: vec![(slot(3), word(3))],
        refused: Vec::new(),
    };
    let run = ready(executor.late(granted.clone())).expect("all have answered");
    assert_eq!(run.values, [(slot(1), word(1)), (slot(2), word(2)), (slot(3), word(3))]);
    assert_eq!((&run.late.writes[..], &run.late.refused[..]), (&[slot(3)][..], &[][..]));
    assert_eq!(executor.late(granted), None, "nobody has asked again");
    // Another key, and nobody answers.
    let keys = KeySet::new([slot(4)], []);
    let asks = executor.lacks(run, &keys, &placement);
    let mut asked = 0;
    let run = loop {
        let effects = executor.again();
        if let Some(run) = ready(effects.clone()) {
            break run;
        }
        asked += 1;
        assert_eq!(effects, asks);
    };
    assert_eq!((asked, &run.late.refused[..]), (3, &[slot(4)][..]));
}

#[test]
fn a_group_planned_after_a_look_at_what_is_open_is_not_forgotten() {
    let (mut executor, _) = with_one();
    executor.plan(to_run(group(2)));
    executor.lease(behind(HERE));
    // The look was at cut 0: it knows of neither group.
    executor.keep_only(&HashSet::new(), 0);
    let mut parts = result(group(1), vec![(slot(1), word(7))]);
    let effects = executor.ran(group(1), &mut parts).expect("it is under way");
    assert!(ready(effects).is_some());
    // At cut 2 both would have been open.
    executor.keep_only(&HashSet::new(), 2);
    assert_eq!(executor.want(THERE, Want { source: group(1), to: group(3), keys: vec![] }), None);
    assert!(!executor.is_kept(group(1)));
}
