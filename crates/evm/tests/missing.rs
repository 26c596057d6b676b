//! Views that lack keys.

mod common;

use alloy_primitives::{Address, B256, U256, hex};
use atoll_evm::{Bytecode, Executor, OnMissing, Outcome, Run, StateView};
use atoll_types::{CodeRef, StateKey, StateValue};
use common::*;

/// Runs until nothing is missing, with more keys each time; returns how often that was.
fn attempts(
    world: &World,
    plan: &Plan,
    known: Vec<StateKey>,
    on_missing: OnMissing,
) -> (usize, Run) {
    let mut executor = Executor::new(&world.env);
    let mut view = Only::new(&world.state, known);
    for attempt in 1..100 {
        let run = executor.transact(&plan.tx(), &view, on_missing);
        if run.missing.is_empty() {
            return (attempt, run);
        }
        assert!(matches!(run.outcome, Outcome::Missing));
        assert!(run.missing.iter().all(|key| run.used.all().any(|used| used == key)));
        view.keys.extend(run.missing);
    }
    panic!("it never has enough");
}

fn token_world() -> (World, Address) {
    let mut world = World::new();
    world.put(account(1), 0, RICH, &[]);
    let mut init = artifact("Token", "bytecode");
    let words = [0x60, 0x80, 1000, 0, 0].map(|word: u64| U256::from(word).to_be_bytes::<32>());
    init.extend(words.concat());
    let token = world.deploy(account(1), init);
    (world, token)
}

fn token_transfer(world: &World, token: Address, to: Address) -> Plan {
    let input = abi("transfer(address,uint256)", &[word(to), U256::from(7)]);
    Plan::new(account(1), token, world.nonce(account(1))).input(input)
}

#[test]
fn one_assuming_run_finds_all_keys_of_a_token_transfer() {
    let (world, token) = token_world();
    let plan = token_transfer(&world, token, account(50));
    let sender = [StateKey::Basic(account(1)), StateKey::Code(account(1))];
    let known = vec![sender[0], sender[1], StateKey::Code(token)];
    // The sender's token balance is missing: assumed to be zero, the transfer reverts before it gets
    // to the receiver's. With it, the rest is found at once.
    let slot = |who| StateKey::Slot(token, 0, mapping(0, who));
    let mut known_balance = known.clone();
    known_balance.push(slot(account(1)));
    let (count, run) = attempts(&world, &plan, known_balance, OnMissing::Assume);
    assert_eq!(count, 2);
    assert!(run.outcome.executed().expect("effects").executed.status);
    let (count, again) = attempts(&world, &plan, known, OnMissing::Assume);
    assert_eq!(count, 3);
    assert_eq!(run.used, again.used);

    // Somebody who has the token's code and mints to a new account needs one run.
    let mint = abi("mint(address,uint256)", &[word(account(50)), U256::from(7)]);
    let plan = plan.input(mint);
    let known = vec![sender[0], sender[1], StateKey::Code(token)];
    let (count, run) = attempts(&world, &plan, known, OnMissing::Assume);
    assert_eq!(count, 2, "one that finds the keys, one that has them");
    assert!(run.used.writes.contains(&slot(account(50))));
}

#[test]
fn stopping_tells_the_key_and_having_it_helps() {
    let (world, token) = token_world();
    let mint = abi("mint(address,uint256)", &[word(account(50)), U256::from(7)]);
    let plan = Plan::new(account(1), token, 1).input(mint);
    let (count, run) = attempts(&world, &plan, Vec::new(), OnMissing::Stop);
    let (fewer, assumed) = attempts(&world, &plan, Vec::new(), OnMissing::Assume);
    assert!(fewer < count);
    assert_eq!(run.used, assumed.used);
    assert_eq!(format!("{run:?}"), format!("{assumed:?}"));
    let whole = Executor::new(&world.env).transact(&plan.tx(), &world.state, OnMissing::Stop);
    assert_eq!(format!("{run:?}"), format!("{whole:?}"));
}

#[test]
fn missing_code_stops_in_any_case() {
    let (world, token) = token_world();
    let plan = token_transfer(&world, token, account(50));
    let mut executor = Executor::new(&world.env);
    let whole = executor.transact(&plan.tx(), &world.state, OnMissing::Stop);
    for on_missing in [OnMissing::Stop, OnMissing::Assume] {
        let mut view = Only::new(&world.state, whole.used.all().copied());
        view.codes = false;
        let run = executor.transact(&plan.tx(), &view, on_missing);
        assert!(matches!(run.outcome, Outcome::Missing));
        assert_eq!(run.missing, []);
        let hash = world.state.read(&StateKey::Code(token)).expect("a key").code().hash;
        assert_eq!(run.missing_codes, [hash]);
        view.codes = true;
        let run = executor.transact(&plan.tx(), &view, on_missing);
        assert!(run.outcome.executed().is_some());
    }
}

#[test]
fn slots_that_a_constructor_writes_are_needed() {
    let mut world = World::new();
    world.put(account(1), 0, RICH, &[]);
    let init = artifact("Child", "bytecode");
    let plan = Plan::new(account(1), None, 0).input(init);
    let whole = world.executor.transact(&plan.tx(), &world.state, OnMissing::Stop);
    let created = account(1).create(0);
    let parent = StateKey::Slot(created, 0, U256::ZERO);
    assert!(whole.used.writes.contains(&parent));
    let mut view = Only::new(&world.state, whole.used.all().copied());
    view.keys.remove(&parent);
    for on_missing in [OnMissing::Stop, OnMissing::Assume] {
        let run = world.executor.transact(&plan.tx(), &view, on_missing);
        assert!(matches!(run.outcome, Outcome::Missing));
        assert_eq!(run.missing, [parent]);
        assert_eq!(run.used, whole.used);
    }
    let (_, run) = attempts(&world, &plan, Vec::new(), OnMissing::Stop);
    assert_eq!(format!("{run:?}"), format!("{whole:?}"));
}

#[test]
fn an_executor_is_as_good_as_new_after_any_end() {
    let (mut world, token) = token_world();
    // Two levels down, after writes: PUSH0 SLOAD of a callee that is not there.
    world.put(account(60), 1, U256::ZERO, &hex!("5f5460015f55"));
    let mut outer = hex!("60015f555f5f5f5f5f73").to_vec();
    outer.extend(account(60).as_slice());
    outer.extend(hex!("5af1"));
    world.put(account(61), 1, U256::ZERO, &outer);
    let nested = Plan::new(account(1), account(61), 1);
    let fine = token_transfer(&world, token, account(50));
    let invalid = Plan::new(account(1), token, 9);
    let create = Plan::new(account(1), None, 1).input(artifact("Factory", "bytecode"));
    let expected = Executor::new(&world.env).transact(&fine.tx(), &world.state, OnMissing::Stop);
    let mut executor = Executor::new(&world.env);
    for plan in [&nested, &invalid, &create, &fine] {
        let used = executor.transact(&plan.tx(), &world.state, OnMissing::Stop).used;
        for key in used.all() {
            let mut view = Only::new(&world.state, used.all().copied());
            view.keys.remove(key);
            for on_missing in [OnMissing::Stop, OnMissing::Assume] {
                let run = executor.transact(&plan.tx(), &view, on_missing);
                assert!(matches!(run.outcome, Outcome::Missing), "{key:?}");
                assert_eq!(run.missing.first(), Some(key));
                let run = executor.transact(&fine.tx(), &world.state, OnMissing::Stop);
                assert_eq!(format!("{run:?}"), format!("{expected:?}"));
            }
        }
    }
}

#[test]
fn what_is_read_but_not_used_may_be_missing() {
    let mut world = World::new();
    world.put(account(1), 0, RICH, &[]);
    // EXTCODESIZE of a contract, then STATICCALL to it.
    let mut program = hex!("73").to_vec();
    program.extend(account(60).as_slice());
    program.extend(hex!("3b5f5f5f5f73"));
    program.extend(account(60).as_slice());
    program.extend(hex!("5afa"));
    world.put(account(61), 1, U256::from(5), &program);
    world.put(account(60), 1, U256::from(5), &hex!("00"));
    let plan = Plan::new(account(1), account(61), 0);
    let run = world.run(&plan);
    for contract in [account(60), account(61)] {
        assert!(run.used.reads.contains(&StateKey::Code(contract)));
        assert!(!run.used.all().any(|key| *key == StateKey::Basic(contract)));
    }
    // A payment does use it.
    let run = world.run(&Plan::new(account(1), account(61), 1).value(1));
    assert!(run.used.writes.contains(&StateKey::Basic(account(61))));
}

#[test]
fn slots_belong_to_the_incarnation_of_the_code() {
    let mut world = World::new();
    world.put(account(1), 0, RICH, &[]);
    // PUSH0 SLOAD PUSH1 1 ADD PUSH0 SSTORE
    let hash = world.state.insert_code(hex!("5f546001015f55").into());
    let code = CodeRef { hash, incarnation: 3 };
    let slot = |incarnation| StateKey::Slot(account(60), incarnation, U256::ZERO);
    let word = |word: u64| StateValue::Slot(U256::from(word));
    world.state.set(StateKey::Code(account(60)), StateValue::Code(code));
    world.state.set(slot(2), word(70));
    world.state.set(slot(3), word(5));
    let tx = Plan::new(account(1), account(60), 0).tx();
    let run = world.executor.transact(&tx, &world.state, OnMissing::Stop);
    let effects = run.outcome.executed().expect("effects");
    assert!(effects.writes.contains(&(slot(3), word(6))));
    assert_eq!(run.used.writes, [StateKey::Basic(account(1)), slot(3)]);

    // A contract made where one was destroyed keeps the incarnation.
    let created = account(1).create(0);
    let gone = CodeRef { incarnation: 7, ..CodeRef::default() };
    world.state.set(StateKey::Code(created), StateValue::Code(gone));
    let init = artifact("Child", "bytecode");
    let tx = Plan::new(account(1), None, 0).input(init).tx();
    let run = world.executor.transact(&tx, &world.state, OnMissing::Stop);
    let effects = run.outcome.executed().expect("effects");
    let parent = StateKey::Slot(created, 7, U256::ZERO);
    assert!(effects.writes.contains(&(parent, StateValue::Slot(common::word(account(1))))));
    let code = StateKey::Code(created);
    let written = effects.writes.iter().find(|(key, _)| *key == code);
    assert_eq!(written.expect("code is written").1.code().incarnation, 7);
}

struct Hashes<'a>(&'a dyn StateView);

impl StateView for Hashes<'_> {
    fn read(&self, key: &StateKey) -> Option<StateValue> {
        self.0.read(key)
    }

    fn code(&self, hash: &B256) -> Option<Bytecode> {
        self.0.code(hash)
    }

    fn block_hash(&self, number: u64) -> Option<B256> {
        (number == 1233).then_some(B256::repeat_byte(9))
    }
}

#[test]
fn block_hashes_come_from_the_view_and_are_zero_without() {
    let mut world = World::new();
    world.put(account(1), 0, RICH, &[]);
    // BLOCKHASH of the block before this one, and of the one before that, into slots 0 and 1.
    world.put(account(60), 1, U256::ZERO, &hex!("6001430340" "5f55" "6002430340" "600155"));
    let tx = Plan::new(account(1), account(60), 0).tx();
    let view = Hashes(&world.state);
    let run = world.executor.transact(&tx, &view, OnMissing::Stop);
    let effects = run.outcome.executed().expect("effects");
    let hash = StateValue::Slot(B256::repeat_byte(9).into());
    let slots: Vec<_> =
        effects.writes.iter().filter(|(key, _)| key.address() == account(60)).collect();
    assert_eq!(slots, [&(StateKey::Slot(account(60), 0, U256::ZERO), hash)]);
}
