//! The executor against plain revm, one kind of transaction at a time.

mod common;

use alloy_eips::eip2930::{AccessList, AccessListItem};
use alloy_primitives::{Address, B256, Bytes, U256, address, hex};
use atoll_evm::{Invalid, OnMissing, Outcome, StateView};
use atoll_types::{KECCAK_EMPTY, StateKey, StateValue};
use common::*;

fn world() -> World {
    let mut world = World::new();
    for number in 1..=4 {
        world.put(account(number), 0, RICH, &[]);
    }
    world
}

fn basic(address: Address) -> StateKey {
    StateKey::Basic(address)
}

fn code(address: Address) -> StateKey {
    StateKey::Code(address)
}

#[test]
fn payments_of_every_type() {
    let mut world = world();
    let (from, new) = (account(1), account(90));
    for (nonce, kind) in [Kind::Legacy, Kind::Access, Kind::Fee].into_iter().enumerate() {
        let plan = Plan::new(from, new, nonce as u64).value(5).kind(kind);
        let (effects, run) = world.execute(&plan);
        assert_eq!(effects.executed.gas_used, 21_000);
        assert_eq!(effects.fee, U256::from(3 * 21_000));
        assert_eq!(effects.burned, U256::from(BASE_FEE) * U256::from(21_000));
        assert_eq!(run.used.writes, [basic(from), basic(new)]);
        assert_eq!(run.used.reads, [code(from), code(new)]);
    }
    world.execute(&Plan::new(from, from, 3).value(5));
    world.execute(&Plan::new(from, account(91), 4).value(0));
    world.compare_states();
}

#[test]
fn invalid_transactions_are_told_in_geths_words() {
    let mut world = world();
    let from = account(1);
    world.put(account(8), 0, U256::from(5), &[]);
    world.put(account(9), 0, RICH, &[0x00]);
    world.execute(&Plan::new(from, account(2), 0));
    let plan = |nonce| Plan::new(from, account(2), nonce);
    let underpriced = Plan { kind: Kind::Legacy, ..plan(1) };
    let cases = [
        (plan(0), "nonce too low"),
        (plan(2), "nonce too high"),
        (Plan::new(account(8), from, 0), "insufficient funds for gas * price + value"),
        (Plan { value: U256::MAX, ..plan(1) }, "insufficient funds for gas * price + value"),
        (Plan { tip: u128::MAX / 8, ..plan(1) }, "insufficient funds for gas * price + value"),
        (plan(1).gas(20_999), "intrinsic gas too low"),
        (plan(1).gas(21_500).input(vec![1; 30]), "insufficient gas for floor data gas cost"),
        (plan(1).gas((1 << 24) + 1), "transaction gas limit too high"),
        (Plan { to: None, ..plan(1) }.input(vec![0; 49_153]), "max initcode size exceeded"),
        (Plan::new(account(9), from, 0), "sender not an eoa"),
        (plan(u64::MAX), "nonce has max value"),
    ];
    for (plan, words) in cases {
        let run = world.run(&plan);
        let Outcome::Invalid(reason) = run.outcome else {
            panic!("{plan:?} {run:?}");
        };
        assert!(reason.to_string().starts_with(words), "{reason}");
        let stored = atoll_types::decode::<Invalid>(&atoll_types::encode(&reason));
        assert_eq!(stored.expect("a record"), reason);
    }
    world.env.base_fee *= 2;
    world.executor = atoll_evm::Executor::new(&world.env);
    let run = world.run(&underpriced);
    assert!(matches!(
        run.outcome,
        Outcome::Invalid(Invalid::FeeCapTooLow { base_fee, .. }) if base_fee == 2 * BASE_FEE
    ));
    world.env.gas_limit = 100_000;
    world.executor = atoll_evm::Executor::new(&world.env);
    let run = world.run(&plan(1));
    assert!(matches!(run.outcome, Outcome::Invalid(Invalid::BlockGasLimit { .. })));
}

#[test]
fn token_transfers_use_its_code_and_two_balances() {
    let mut world = world();
    let (alice, bob) = (account(1), account(2));
    let mut init = artifact("Token", "bytecode");
    let words = [0x60, 0x80, 1000, 0, 0].map(|word: u64| U256::from(word).to_be_bytes::<32>());
    init.extend(words.concat());
    let token = world.deploy(alice, init);
    let input = abi("transfer(address,uint256)", &[word(bob), U256::from(7)]);
    let (effects, run) = world.execute(&Plan::new(alice, token, 1).input(input.clone()));
    assert!(effects.executed.status);
    let slots = [alice, bob].map(|who| StateKey::Slot(token, 0, mapping(0, who)));
    let mut writes = vec![basic(alice), slots[0], slots[1]];
    writes.sort();
    assert_eq!(run.used.writes, writes);
    // Not the token's balance: nobody looks at it.
    let mut reads = vec![code(alice), code(token)];
    reads.sort();
    assert_eq!(run.used.reads, reads);
    assert_eq!(world.slot(token, mapping(0, bob)), U256::from(7));

    let too_much = abi("transfer(address,uint256)", &[word(bob), U256::from(5000)]);
    let (effects, run) = world.execute(&Plan::new(alice, token, 2).input(too_much));
    assert!(!effects.executed.status && !effects.executed.output.is_empty());
    assert_eq!(run.used.writes, [basic(alice)]);
    let (effects, _) = world.execute(&Plan::new(alice, token, 3).input(input).gas(25_000));
    assert!(!effects.executed.status);
    assert_eq!(effects.executed.gas_used, 25_000);
    world.compare_states();
}

#[test]
fn hops_write_to_all_or_to_none() {
    let mut world = world();
    let from = account(1);
    let mut next = Address::ZERO;
    let mut hops = Vec::new();
    for _ in 0..4 {
        let mut init = artifact("Hop", "bytecode");
        init.extend(word(next).to_be_bytes::<32>());
        next = world.deploy(from, init);
        hops.push(next);
    }
    for fails in [0u64, 1] {
        let input = abi("hop(uint256,bool)", &[U256::from(9), U256::from(fails)]);
        let plan = Plan::new(from, next, world.nonce(from)).input(input);
        let (effects, run) = world.execute(&plan);
        assert_eq!(effects.executed.status, fails == 0);
        assert_eq!(effects.executed.logs.len(), if fails == 0 { 4 } else { 0 });
        for hop in &hops {
            assert!(run.used.reads.contains(&code(*hop)));
            assert!(!run.used.all().any(|key| *key == basic(*hop)));
            let total = StateKey::Slot(*hop, 0, U256::ZERO);
            assert_eq!(run.used.writes.contains(&total), fails == 0);
            assert!(run.used.all().any(|key| *key == total));
        }
    }
    world.compare_states();
}

#[test]
fn creations_and_destruction_in_the_same_transaction() {
    let mut world = world();
    let from = account(1);
    let factory = world.deploy(from, artifact("Factory", "bytecode"));
    let salt = U256::from(77);
    let call = |world: &mut World, signature: &str, words: &[U256], value: u64| {
        let plan = Plan::new(from, factory, world.nonce(from));
        world.execute(&plan.input(abi(signature, words)).value(value))
    };
    let (effects, _) = call(&mut world, "childOf(bytes32)", &[salt], 0);
    let child = Address::from_slice(&effects.executed.output[12..]);

    // The child's salt can be used again and again; its balance goes to the heir, or burns.
    for heir in [account(95), account(95), child] {
        let words = [salt, U256::from(3), word(heir)];
        let (effects, run) = call(&mut world, "flash(bytes32,uint256,address)", &words, 11);
        assert!(effects.executed.status);
        assert_eq!(effects.executed.output[..], B256::with_last_byte(3)[..]);
        assert!(!run.used.writes.iter().any(|key| key.address() == child));
        assert!(run.used.reads.contains(&code(child)) && run.used.reads.contains(&basic(child)));
        assert_eq!(effects.codes, Vec::<Bytes>::new());
        let gas = U256::from(effects.executed.gas_used) * U256::from(BASE_FEE);
        let burns = U256::from(if heir == child { 11 } else { 0 });
        assert_eq!(effects.burned, gas + burns);
    }
    assert_eq!(world.basic(account(95)).balance, U256::from(22));

    let (effects, run) = call(&mut world, "create2(bytes32,uint256)", &[salt, U256::from(5)], 1);
    assert_eq!(effects.codes, [Bytes::from(artifact("Child", "deployedBytecode"))]);
    for key in [code(child), basic(child), StateKey::Slot(child, 0, U256::from(1))] {
        assert!(run.used.writes.contains(&key), "{key:?}");
    }
    let (effects, _) = call(&mut world, "create2(bytes32,uint256)", &[salt, U256::from(5)], 0);
    assert!(!effects.executed.status, "the address is taken");
    call(&mut world, "create(uint256)", &[U256::from(5)], 0);
    // In a later transaction a child only sends its balance away (EIP-6780).
    let destroy = abi("destroy(address)", &[word(account(96))]);
    let plan = Plan::new(from, child, world.nonce(from)).input(destroy);
    world.execute(&plan);
    assert_eq!(world.basic(account(96)).balance, U256::from(1));
    assert_ne!(world.state.read(&code(child)).expect("a key").code().hash, KECCAK_EMPTY);
    world.compare_states();
}

#[test]
fn a_contract_sees_the_blocks_values() {
    let mut world = world();
    let from = account(1);
    let probe = world.deploy(from, artifact("EnvProbe", "bytecode"));
    let (effects, run) = world.execute(&Plan::new(from, probe, 1).input(abi("record()", &[])));
    assert!(effects.executed.status);
    let env = env();
    let expected = [
        U256::from(env.number),
        U256::from(env.timestamp),
        U256::from_be_bytes(env.randomness.0),
        U256::from(env.base_fee),
        word(env.coinbase),
        U256::from(env.gas_limit),
        U256::from(env.chain_id),
    ];
    for (slot, value) in expected.into_iter().enumerate() {
        assert_eq!(world.slot(probe, U256::from(slot)), value);
    }
    // COINBASE names an address; it does not use the account.
    assert!(!run.used.all().any(|key| key.address() == COINBASE));
    world.compare_states();
}

#[test]
fn the_coinbase_is_used_only_by_who_uses_it() {
    let mut world = world();
    // COINBASE BALANCE PUSH0 SSTORE
    world.put(account(70), 1, U256::ZERO, &hex!("41315f55"));
    let plain = world.execute(&Plan::new(account(1), account(2), 0).value(1)).1;
    assert!(!plain.used.all().any(|key| key.address() == COINBASE));
    // The account that pays is warm in any case (EIP-3651), as the gas shows.
    let tipless = Plan { tip: 0, ..Plan::new(account(3), account(70), 0) };
    let mut fresh = common::World::new();
    fresh.put(account(3), 0, RICH, &[]);
    fresh.put(account(70), 1, U256::ZERO, &hex!("41315f55"));
    let (_, run) = fresh.execute(&tipless);
    // Counted as written: whoever looks at it has to have the fees of those before.
    assert!(run.used.writes.contains(&basic(COINBASE)));
    fresh.compare_states();

    let (_, run) = world.execute(&Plan::new(account(1), COINBASE, 1).value(9));
    assert!(run.used.writes.contains(&basic(COINBASE)));
    let (_, run) = world.execute(&Plan::new(account(2), COINBASE, 0).value(0));
    assert!(!run.used.all().any(|key| *key == basic(COINBASE)));
    world.compare_states();
}

#[test]
fn access_lists_warm_and_are_not_used_by_themselves() {
    let mut world = world();
    // PUSH1 1 SLOAD PUSH20 account(3) BALANCE
    let mut program = hex!("60015473").to_vec();
    program.extend(account(3).as_slice());
    program.push(0x31);
    world.put(account(70), 1, U256::ZERO, &program);
    let item =
        |address, slot| AccessListItem { address, storage_keys: vec![B256::with_last_byte(slot)] };
    for kind in [Kind::Access, Kind::Fee] {
        for list in [vec![], vec![item(account(70), 1), item(account(3), 0), item(account(88), 5)]]
        {
            let mut plan = Plan::new(account(1), account(70), world.nonce(account(1))).kind(kind);
            plan.access_list = AccessList(list);
            let (_, run) = world.execute(&plan);
            assert!(!run.used.all().any(|key| key.address() == account(88)));
            assert!(run.used.reads.contains(&basic(account(3))));
        }
    }
    world.compare_states();
}

#[test]
fn authorisations_delegate_and_clear() {
    let mut world = world();
    let from = account(1);
    // CALLER PUSH0 SSTORE
    world.put(account(70), 1, U256::ZERO, &hex!("335f55"));
    let (known, new) = (signer(7), signer(8));
    world.put(known.address(), 4, RICH, &[]);
    let mut plan = Plan::new(from, known.address(), 0).kind(Kind::Authorize);
    plan.authorizations = vec![
        authorize(&known, account(70), 4, CHAIN),
        authorize(&new, account(70), 0, 0),
        authorize(&new, account(70), 0, CHAIN),
        authorize(&signer(9), account(70), 3, CHAIN),
        authorize(&signer(10), account(70), 0, CHAIN + 1),
    ];
    let (effects, run) = world.execute(&plan);
    assert!(effects.executed.status);
    for authority in [&known, &new] {
        let who = authority.address();
        assert!(run.used.writes.contains(&basic(who)) && run.used.writes.contains(&code(who)));
    }
    // Two accounts, one delegate: one designator.
    assert_eq!(effects.codes.len(), 1);
    assert_eq!(effects.codes[0][..], [&hex!("ef0100")[..], account(70).as_slice()].concat());
    assert_eq!(world.slot(known.address(), U256::ZERO), word(from));
    assert!(run.used.reads.contains(&code(signer(9).address())));
    assert!(!run.used.all().any(|key| key.address() == signer(10).address()));

    // A delegated account still sends transactions, and another one calls it.
    world.execute(&Plan::new(known.address(), account(2), 5).value(1));
    world.execute(&Plan::new(from, new.address(), 1));
    let mut clear = Plan::new(from, account(2), 2).kind(Kind::Authorize);
    clear.authorizations = vec![authorize(&known, Address::ZERO, 6, CHAIN)];
    let (effects, _) = world.execute(&clear);
    assert!(effects.codes.is_empty());
    let cleared = (code(known.address()), StateValue::Code(Default::default()));
    assert!(effects.writes.contains(&cleared));
    world.compare_states();
}

#[test]
fn precompiles_run_without_their_keys() {
    let mut world = world();
    let from = account(1);
    for number in (1..=0x11u64).chain([0x100]) {
        let precompile = Address::left_padding_from(&number.to_be_bytes());
        let plan = Plan::new(from, precompile, world.nonce(from)).input(vec![1; 64]);
        let (_, run) = world.execute(&plan);
        assert!(!run.used.all().any(|key| key.address() == precompile), "{number}");
        let (_, run) = world.execute(&Plan::new(from, precompile, world.nonce(from)).value(1));
        assert!(!run.used.all().any(|key| *key == code(precompile)), "{number}");
        assert!(run.used.all().any(|key| *key == basic(precompile)), "{number}");
    }
    world.compare_states();
}

#[test]
fn a_new_account_costs_as_much_as_on_one_machine() {
    let mut world = world();
    let from = account(1);
    let target = address!("0x00000000000000000000000000000000deadbeef");
    // CALL(gas, target, 1, ..) with what little gas there is.
    let mut program = hex!("5f5f5f5f600173").to_vec();
    program.extend(target.as_slice());
    program.extend(hex!("5af1"));
    world.put(account(70), 1, U256::from(1000), &program);
    for gas in (21_000..70_000).step_by(1111) {
        let plan = Plan::new(from, account(70), world.nonce(from)).gas(gas);
        let run = world.executor.transact(&plan.tx(), &world.state, OnMissing::Stop);
        if run.used.reads.contains(&code(target)) {
            assert!(run.used.all().any(|key| *key == basic(target)), "{gas}");
        }
        world.run(&plan);
    }
    world.compare_states();
}
