//! Debits, transactions included as failed, and calls.

mod common;

use alloy_eips::eip2930::{AccessList, AccessListItem};
use alloy_primitives::{B256, Bytes, U256, hex};
use atoll_evm::{CallEnd, CallOutcome, CallRequest, CallResult, Invalid, OnMissing, Outcome};
use atoll_types::{Basic, KeySet, StateKey, StateValue};
use common::*;

fn world() -> World {
    let mut world = World::new();
    world.put(account(1), 5, RICH, &[]);
    world
}

fn sender_keys() -> [StateKey; 2] {
    [StateKey::Basic(account(1)), StateKey::Code(account(1))]
}

#[test]
fn a_debit_is_the_senders_side_of_the_transfer() {
    let mut world = world();
    let [basic, code] = sender_keys();
    let payment = Plan::new(account(1), account(9), 5).value(123);
    let mut listed = payment.clone().kind(Kind::Access);
    listed.access_list =
        AccessList(vec![AccessListItem { address: account(3), storage_keys: vec![B256::ZERO; 2] }]);
    let plans = [
        payment.clone().kind(Kind::Legacy),
        payment.clone(),
        payment.clone().gas(21_000),
        payment.clone().value(0),
        payment.clone().input(vec![1; 500]),
        payment.clone().input(vec![0; 500]),
        listed,
    ];
    for plan in plans {
        let tx = plan.tx();
        let whole = world.executor.transact(&tx, &world.state, OnMissing::Stop);
        let whole = whole.outcome.executed().expect("effects").clone();
        let view = Only::new(&world.state, sender_keys());
        let run = world.executor.debit(&tx, &view);
        let ours = run.outcome.executed().expect("effects");
        assert_eq!(ours.executed, whole.executed);
        assert_eq!((ours.fee, ours.burned), (whole.fee, whole.burned));
        let mut writes = whole.writes;
        writes.retain(|(key, _)| *key == basic);
        assert_eq!(ours.writes, writes);
        assert_eq!(run.used, KeySet::new([code], [basic]));
        // And the oracle agrees with the whole.
        let mut other = self::world();
        other.run(&plan);
        assert_eq!(other.basic(account(1)), ours.writes[0].1.basic());
    }
}

#[test]
fn a_debit_is_refused_for_what_is_no_payment_to_another() {
    let mut world = world();
    let mut authorizes = Plan::new(account(1), account(9), 5).kind(Kind::Authorize);
    authorizes.authorizations = vec![authorize(&signer(1), account(9), 0, CHAIN)];
    let itself = Plan::new(account(1), account(1), 5);
    for plan in [authorizes, itself, Plan::new(account(1), None, 5)] {
        let run = world.executor.debit(&plan.tx(), &world.state);
        assert!(matches!(run.outcome, Outcome::Invalid(Invalid::Other(_))));
    }
    let poor = Plan { value: RICH, ..Plan::new(account(1), account(9), 5) };
    let run = world.executor.debit(&poor.tx(), &world.state);
    assert!(matches!(run.outcome, Outcome::Invalid(Invalid::InsufficientFunds { .. })));
    let late = Plan::new(account(1), account(9), 4);
    let run = world.executor.debit(&late.tx(), &world.state);
    let expected = Invalid::NonceTooLow { tx: 4, state: 5 };
    assert!(matches!(run.outcome, Outcome::Invalid(reason) if reason == expected));
    world.put(account(2), 0, RICH, &hex!("00"));
    let contract = Plan::new(account(2), account(9), 0);
    let run = world.executor.debit(&contract.tx(), &world.state);
    assert!(matches!(run.outcome, Outcome::Invalid(Invalid::SenderHasCode { .. })));
    let run = world.executor.debit(&late.tx(), &Only::new(&world.state, []));
    assert!(matches!(run.outcome, Outcome::Missing));
    let mut missing = run.missing;
    missing.extend(run.used.reads);
    assert!(missing.contains(&sender_keys()[1]));
}

#[test]
fn included_as_failed_costs_all_gas_and_does_nothing_else() {
    let mut world = world();
    let [basic, code] = sender_keys();
    let mut authorizes = Plan::new(account(1), account(9), 5).kind(Kind::Authorize).value(77);
    authorizes.authorizations = vec![authorize(&signer(1), account(9), 0, CHAIN)];
    let plans = [
        Plan::new(account(1), account(9), 5).value(77).gas(100_000),
        Plan::new(account(1), None, 5).value(77).input(vec![0; 9]),
        authorizes,
    ];
    for plan in plans {
        let view = Only::new(&world.state, sender_keys());
        let run = world.executor.fail(&plan.tx(), &view);
        let effects = run.outcome.executed().expect("effects");
        let executed = &effects.executed;
        assert!(!executed.status && executed.logs.is_empty() && executed.contract.is_none());
        assert_eq!(executed.gas_used, plan.gas);
        let gas = U256::from(plan.gas);
        assert_eq!(effects.fee, gas * U256::from(plan.tip));
        assert_eq!(effects.burned, gas * U256::from(BASE_FEE));
        let balance = RICH - effects.fee - effects.burned;
        let after = Basic { nonce: 6, balance };
        assert_eq!(effects.writes, [(basic, StateValue::Basic(after))]);
        assert_eq!(effects.codes, Vec::<Bytes>::new());
        assert_eq!(run.used, KeySet::new([code], [basic]));
    }
    let ahead = Plan::new(account(1), account(9), 6);
    let run = world.executor.fail(&ahead.tx(), &world.state);
    let expected = Invalid::NonceTooHigh { tx: 6, state: 5 };
    assert!(matches!(run.outcome, Outcome::Invalid(reason) if reason == expected));
}

fn call(world: &mut World, request: &CallRequest) -> CallResult {
    let run = world.executor.call(request, &world.state, OnMissing::Stop);
    assert!(run.used.writes.is_empty());
    let view = Only::new(&world.state, run.used.all().copied());
    let again = world.executor.call(request, &view, OnMissing::Stop);
    assert_eq!(format!("{run:?}"), format!("{again:?}"));
    let CallOutcome::Done(result) = run.outcome else {
        panic!("{run:?}");
    };
    result
}

#[test]
fn calls_need_no_nonce_balance_or_fee() {
    let mut world = world();
    let init = artifact("EnvProbe", "bytecode");
    let probe = world.deploy(account(1), init.clone());
    let plan = Plan::new(account(1), probe, 6).input(abi("record()", &[]));
    world.execute(&plan);
    let request = CallRequest {
        from: account(77),
        to: Some(probe),
        input: abi("number()", &[]),
        ..CallRequest::default()
    };
    let run = world.executor.call(&request, &world.state, OnMissing::Stop);
    assert!(!run.used.all().any(|key| key.address() == account(77)));
    let result = call(&mut world, &request);
    assert_eq!(
        (result.end, &result.output[..]),
        (CallEnd::Success, &U256::from(1234).to_be_bytes::<32>()[..])
    );

    let unknown = CallRequest { input: vec![1; 4].into(), ..request.clone() };
    assert_eq!(call(&mut world, &unknown).end, CallEnd::Reverted);
    let short = CallRequest { gas: Some(21_200), ..request.clone() };
    let result = call(&mut world, &short);
    assert!(matches!(result.end, CallEnd::Halted { out_of_gas: true, .. }));
    assert_eq!(result.gas_used, 21_200);
    let shorter = CallRequest { gas: Some(20_000), ..request.clone() };
    let run = world.executor.call(&shorter, &world.state, OnMissing::Stop);
    assert!(matches!(run.outcome, CallOutcome::Invalid(Invalid::IntrinsicGas { .. })));

    let create = CallRequest { to: None, input: init.into(), ..request.clone() };
    let result = call(&mut world, &create);
    assert_eq!(result.contract, Some(account(77).create(0)));
    assert_eq!(result.output[..], artifact("EnvProbe", "deployedBytecode")[..]);
    let paying = CallRequest { to: Some(account(3)), value: U256::ONE, ..request };
    let result = call(&mut world, &paying);
    assert!(matches!(result.end, CallEnd::Halted { out_of_gas: false, .. }), "{result:?}");
    let paying = CallRequest { from: account(1), gas: Some(u64::MAX), ..paying };
    assert_eq!(call(&mut world, &paying).end, CallEnd::Success);
    // Nothing of it stays.
    let plan = Plan::new(account(1), account(3), 7).value(1);
    world.execute(&plan);
    world.compare_states();
}
