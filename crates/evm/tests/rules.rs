//! Rules of older forks, against plain revm under the same ones.

mod common;

use alloy_primitives::{Address, Bytes, U256, hex};
use atoll_evm::{
    Blobs, BlockExecutor, EMPTY_ACCOUNT, Fees, Fork, Invalid, Mode, OnMissing, Outcome, Rules,
    Sequential, StateView,
};
use atoll_types::{CodeRef, KECCAK_EMPTY, StateKey, StateValue};
use common::*;

fn world(fork: Fork) -> World {
    let mut world = World::under(Rules::of(fork));
    world.put(account(1), 0, RICH, &[]);
    world
}

/// CREATE2 with salt 0 of a contract that keeps CALLVALUE in slot 1 when it is made, and its slot 1
/// plus one in slot 2 when it is called with a byte; without, it destroys itself.
fn factory(world: &mut World) -> (Address, Address) {
    // Called: CALLDATASIZE 8 JUMPI CALLER SELFDESTRUCT JUMPDEST 1 SLOAD 1 ADD 2 SSTORE STOP
    let runtime = hex!("36600657 33ff 5b 600154600101600255 00");
    let mut init = hex!("34600155 6010600f6000396010 6000f3").to_vec();
    init[7] = init.len() as u8;
    init.extend(runtime);
    let length = init.len() as u8;
    // CODECOPY(0, 13, length) CREATE2(CALLVALUE, 0, length, 0) STOP
    let mut code = vec![0x60, length, 0x60, 0, 0x60, 0, 0x39];
    code.extend([0x60, 0, 0x60, length, 0x60, 0, 0x34, 0xf5, 0x00]);
    code[3] = code.len() as u8;
    code.extend(&init);
    let factory = account(60);
    world.put(factory, 1, U256::ZERO, &code);
    (factory, factory.create2_from_code([0; 32], &init))
}

#[test]
fn a_contract_that_was_destroyed_comes_back_without_its_slots() {
    for fork in [Fork::PETERSBURG, Fork::ISTANBUL, Fork::MERGE, Fork::SHANGHAI, Fork::CANCUN] {
        let mut world = world(fork);
        let (factory, child) = factory(&mut world);
        let from = account(1);
        let kind = if fork < Fork::LONDON { Kind::Legacy } else { Kind::Fee };
        if fork < Fork::LONDON {
            world.env.base_fee = 0;
            world.executor = atoll_evm::Executor::with_rules(&world.env, world.rules);
        }
        let run = |world: &mut World, to, value, input: &[u8]| {
            let plan = Plan::new(from, to, world.nonce(from)).value(value);
            world.execute(&plan.input(input.to_vec()).kind(kind)).0
        };
        run(&mut world, factory, 5, &[]);
        assert_eq!(world.slot(child, U256::from(1)), U256::from(5), "{fork}");
        run(&mut world, child, 0, &[1]);
        let destroyed = run(&mut world, child, 0, &[]);
        run(&mut world, factory, 0, &[]);
        run(&mut world, child, 0, &[1]);
        let code = world.state.read(&StateKey::Code(child)).expect("a key").code();
        // Since Cancun it is not destroyed at all, and the second creation collides.
        let stays = fork >= Fork::CANCUN;
        assert_eq!(code.incarnation, u32::from(!stays), "{fork}");
        let gone = (
            StateKey::Code(child),
            StateValue::Code(CodeRef { hash: KECCAK_EMPTY, incarnation: 1 }),
        );
        assert_eq!(destroyed.writes.contains(&gone), !stays);
        assert_eq!(world.slot(child, U256::from(1)), U256::from(if stays { 5 } else { 0 }));
        assert_eq!(world.slot(child, U256::from(2)), U256::from(if stays { 6 } else { 1 }));
        world.compare_states();
    }
}

#[test]
fn a_touched_account_exists_before_eip_161_and_not_after() {
    for (fork, exists) in [(Fork::TANGERINE, true), (Fork::SPURIOUS_DRAGON, false)] {
        let mut world = world(fork);
        world.env.base_fee = 0;
        world.executor = atoll_evm::Executor::with_rules(&world.env, world.rules);
        let code = StateKey::Code(account(9));
        let plan = Plan::new(account(1), account(9), 0).kind(Kind::Legacy);
        let run = world.executor.transact(&plan.tx(), &world.state, OnMissing::Stop);
        let effects = run.outcome.executed().expect("effects");
        let mark = CodeRef { hash: EMPTY_ACCOUNT, incarnation: 0 };
        assert_eq!(effects.writes.contains(&(code, StateValue::Code(mark))), exists, "{fork}");
        assert!(effects.codes.is_empty());
        // An empty account that is touched since is gone.
        world.state.set(code, StateValue::Code(mark));
        let run = world.executor.transact(&plan.tx(), &world.state, OnMissing::Stop);
        let effects = run.outcome.executed().expect("effects");
        let cleared = effects.writes.contains(&(code, code.absent()));
        assert_eq!(cleared, !exists, "{fork}");
    }
}

#[test]
fn the_cap_on_gas_and_the_types_come_with_their_forks() {
    let large = Plan::new(account(1), account(2), 0).gas(20_000_000);
    let mut authorizes = Plan::new(account(1), account(2), 0).kind(Kind::Authorize);
    authorizes.authorizations = vec![authorize(&signer(1), account(3), 0, CHAIN)];
    let cases = [
        (large.clone(), Fork::PRAGUE, true),
        (large, Fork::OSAKA, false),
        (Plan::new(account(1), account(2), 0), Fork::BERLIN, false),
        (Plan::new(account(1), account(2), 0), Fork::LONDON, true),
        (Plan::new(account(1), account(2), 0).kind(Kind::Access), Fork::ISTANBUL, false),
        (authorizes.clone(), Fork::CANCUN, false),
        (authorizes, Fork::PRAGUE, true),
    ];
    for (plan, fork, runs) in cases {
        let run = world(fork).run(&plan);
        assert_eq!(run.outcome.executed().is_some(), runs, "{fork} {run:?}");
    }
}

#[test]
fn blob_transactions_run_where_the_rules_have_blobs() {
    let blobs = alloy_consensus::TxEip4844 {
        chain_id: CHAIN,
        nonce: 0,
        gas_limit: 50_000,
        max_fee_per_gas: 2 * u128::from(BASE_FEE),
        max_priority_fee_per_gas: 1,
        to: account(70),
        value: U256::ZERO,
        access_list: Default::default(),
        blob_versioned_hashes: vec![alloy_primitives::B256::with_last_byte(9) | blob_version(); 2],
        max_fee_per_blob_gas: 100,
        input: Bytes::new(),
    };
    let tx = replayed(blobs, account(1));
    let env = env();
    let fees = Fees::AtOnce;
    for (blobs, runs) in [
        (None, false),
        (Some(Blobs { base_fee: 100, max_per_tx: Some(2) }), true),
        (Some(Blobs { base_fee: 101, max_per_tx: None }), false),
        (Some(Blobs { base_fee: 100, max_per_tx: Some(1) }), false),
    ] {
        let mut world = world(Fork::OSAKA);
        // BLOBBASEFEE PUSH0 SSTORE
        world.put(account(70), 1, U256::ZERO, &hex!("4a5f55"));
        let rules = Rules { blobs, ..Rules::default() };
        let mut block = Sequential::new(&env, rules, fees, &world.state);
        let run = block.attempt(&tx, Mode::Transact);
        let Outcome::Executed(effects) = run.outcome else {
            assert!(!runs, "{blobs:?} {:?}", run.outcome);
            let refused = matches!(run.outcome, Outcome::Invalid(Invalid::Other(_)));
            assert!(refused, "{:?}", run.outcome);
            continue;
        };
        assert!(runs, "{blobs:?}");
        let slot = StateKey::Slot(account(70), 0, U256::ZERO);
        let price = StateValue::Slot(U256::from(100));
        assert!(effects.writes.contains(&(slot, price)));
        let gas = U256::from(effects.executed.gas_used) * U256::from(BASE_FEE);
        assert_eq!(effects.burned, gas + U256::from(2 * 131_072 * 100));
        block.keep(&effects);
        let paid = block.finish().writes.into_iter().filter_map(|(key, value)| match key {
            StateKey::Basic(_) => Some(value.basic().balance),
            _ => None,
        });
        assert_eq!(paid.sum::<U256>() + effects.burned, RICH, "conservation");
    }
}
