//! The parts of the test alone: generated code does what it is meant to, and a world is a function of
//! its seed.

use proptest::strategy::{Strategy as _, ValueTree as _};

use crate::{
    bytecode::{Call, Child, Guard, Op, Step, Target},
    program::{Act, Action, Amount, Case, Contract, Envelope, Gas, Nonce, Person, Weather},
    runner, strategy,
};

fn call(to: Person) -> Action {
    Action {
        from: 0,
        wait: 0,
        nonce: Nonce::Next,
        envelope: Envelope::Fee,
        gas: Gas::Enough,
        tip: 1,
        act: Act::Call { to, seed: 5, fuel: 2, amount: Amount::Wei(3) },
    }
}

fn case(steps: Vec<Step>) -> Case {
    let other = Contract { steps: Vec::new(), eager: true, slots: vec![1, 2, 3] };
    Case {
        shards: 3,
        seed: 1,
        homes: (0..20).collect(),
        coinbase: Person::Coinbase,
        weather: Weather::Fair,
        block_ticks: 1,
        contracts: vec![Contract { steps, eager: false, slots: vec![3, 1, 0, 2] }, other],
        actions: vec![call(Person::Contract(0))],
    }
}

#[test]
fn each_operation_runs_to_its_end() {
    let other = Target::Contract(1);
    let mut ops = vec![
        Op::Load(1),
        Op::LoadStored(0),
        Op::Store(2),
        Op::StoreStored(1),
        Op::StoreComputed,
        Op::Increment(3),
        Op::Clear(0),
        Op::Transient(1),
        Op::Pay { target: other, value: 1 },
        Op::Log(0),
        Op::Log(2),
    ];
    ops.extend((0..16).map(Op::Environment));
    ops.extend([0, 1, 255].map(Op::Ancestor));
    let targets = [other, Target::Stored(1), Target::Computed, Target::Own, Target::Caller];
    for target in targets {
        ops.extend((0..3).map(|which| Op::Account(which, target)));
        for call in [
            Call::Plain { value: 0 },
            Call::Plain { value: 1 },
            Call::Delegate,
            Call::Static,
            Call::Code { value: 1 },
        ] {
            ops.push(Op::Call { call, target, tight: false, strict: false });
        }
    }
    ops.push(Op::Call { call: Call::Static, target: other, tight: true, strict: true });
    for child in [
        Child::Mortal,
        Child::Counter,
        Child::Refusing,
        Child::Empty,
        Child::Writing,
        Child::Stillborn,
        Child::Failing,
    ] {
        for salt in [None, Some(1)] {
            ops.push(Op::Create { child, value: 1, salt, called: true });
        }
    }
    for op in ops {
        let steps = [op, Op::Log(1)].map(|op| Step { guard: Guard::Always, op });
        let (world, _) = case(steps.to_vec()).play().expect("nothing is broken");
        let receipt = world.receipts().next().expect("it has a receipt");
        let log = receipt.executed.logs.last();
        assert!(receipt.executed.status && log.is_some(), "{op:?}: {:?}", receipt.executed);
    }
}

#[test]
fn operations_that_end_a_call_end_it() {
    let ends = [Op::Revert, Op::Invalid, Op::Loop, Op::SelfDestruct(Target::Contract(1))];
    for op in ends {
        let steps = [op, Op::Log(1)].map(|op| Step { guard: Guard::Always, op });
        let (world, _) = case(steps.to_vec()).play().expect("nothing is broken");
        let receipt = world.receipts().next().expect("it has a receipt");
        assert_eq!(receipt.executed.status, matches!(op, Op::SelfDestruct(_)), "{op:?}");
        assert!(receipt.executed.logs.is_empty());
    }
}

#[test]
fn guards_hold() {
    // The accumulator is 5 at first: bit 1 is not set. Slots 0 and 1 are odd, slot 2 is not.
    for (guard, runs) in [
        (Guard::Bit(0), true),
        (Guard::Bit(1), false),
        (Guard::Odd(0), true),
        (Guard::Odd(2), false),
    ] {
        let steps = vec![Step { guard, op: Op::Log(1) }];
        let (world, _) = case(steps).play().expect("nothing is broken");
        let receipt = world.receipts().next().expect("it has a receipt");
        assert_eq!(!receipt.executed.logs.is_empty(), runs, "{guard:?}");
    }
}

#[test]
fn a_world_is_a_function_of_its_seed() {
    let mut runner = runner(7, 1);
    for _ in 0..10 {
        let case = strategy::case().new_tree(&mut runner).expect("a case").current();
        let head = || {
            let (world, _) = case.play().expect("nothing is broken");
            let digests = world.shards().iter().map(|shard| shard.ledger().owner.digest());
            (world.chain().last().map(|record| record.block.hash()), digests.collect::<Vec<_>>())
        };
        assert_eq!(head(), head());
    }
}
