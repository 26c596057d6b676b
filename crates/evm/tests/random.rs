//! Random transactions between random contracts, against plain revm. Prints its seed;
//! `ATOLL_SEED` sets it.

mod common;

use alloy_primitives::{Address, U256, hex};
use atoll_evm::Outcome;
use common::{
    programs::{plan, program, rounds, seed},
    *,
};
use rand::{Rng, SeedableRng, rngs::StdRng};

fn sequence(seed: u64, counts: &mut Counts) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut world = World::new();
    let contracts: Vec<_> = (20..28).map(account).collect();
    let mut addresses = contracts.clone();
    addresses.extend((1..=7).map(|key| signer(key).address()));
    addresses.extend([
        account(98),
        account(99),
        Address::with_last_byte(4),
        Address::with_last_byte(1),
    ]);
    addresses.push(Address::left_padding_from(&hex!("bbbb")));
    // Without tips the coinbase can be used like any account: nothing is owed to it.
    let tip = u128::from(rng.random_bool(0.5)) * 5;
    if tip == 0 {
        addresses.push(common::COINBASE);
    }
    for key in 1..=5 {
        world.put(signer(key).address(), 0, RICH, &[]);
    }
    for contract in &contracts {
        let code = program(&mut rng, &addresses);
        let balance = U256::from(rng.random_range(0..2_000u64));
        world.put(*contract, 1, balance, &code);
        world.store(*contract, U256::ONE, U256::from(5));
    }
    for _ in 0..30 {
        let plan = plan(&mut rng, &|of| world.nonce(of), &addresses, tip);
        let run = world.run(&plan);
        let kind = match run.outcome {
            Outcome::Executed(effects) if !effects.executed.status => "failed",
            Outcome::Executed(effects) if !effects.codes.is_empty() => "new code",
            Outcome::Executed(effects) if effects.writes.len() > 2 => "many writes",
            Outcome::Executed(_) => "plain",
            Outcome::Invalid(_) => "invalid",
            Outcome::Missing => unreachable!("a state in memory has every key"),
        };
        *counts.entry(kind).or_default() += 1;
    }
    world.compare_states();
}

#[test]
fn random_sequences_equal_plain_revm() {
    let seed = seed();
    let mut counts = Counts::default();
    for round in 0..rounds(40) {
        sequence(seed.wrapping_add(round), &mut counts);
    }
    println!("{counts:?}");
    for kind in ["failed", "new code", "many writes", "plain", "invalid"] {
        assert!(counts.contains_key(kind), "no {kind} among {counts:?}");
    }
}
