//! When the coinbase gets its fees, and who sees them.

mod common;

use alloy_primitives::{Address, B256, U256, hex};
use atoll_evm::{
    BlockExecutor, Bytecode, Changes, Fees, Group, Mode, Outcome, Rules, Sequential, Source,
    StateView,
};
use atoll_types::{
    GroupId, KeySet, Placement, PlannedGroup, ShardId, SharedTx, StateKey, StateValue, TxOutcome,
};
use common::*;

/// Keeps the coinbase's balance in the slot that the call's data names: COINBASE BALANCE PUSH0
/// CALLDATALOAD SSTORE.
const LOOK: [u8; 5] = hex!("41315f3555");

fn world() -> World {
    let mut world = World::new();
    for number in 1..=3 {
        world.put(account(number), 0, RICH, &[]);
    }
    world.put(account(70), 1, U256::ZERO, &LOOK);
    world.put(COINBASE, 0, U256::from(1_000), &[]);
    world
}

fn look(from: Address, nonce: u64, slot: u64) -> Plan {
    Plan::new(from, account(70), nonce).input(U256::from(slot).to_be_bytes::<32>().to_vec())
}

fn plans() -> Vec<Plan> {
    let [a, b, c] = [1, 2, 3].map(account);
    let from_a = |nonce| Plan::new(a, b, nonce).value(1);
    vec![
        from_a(0),
        Plan::new(b, c, 0).value(1),
        look(c, 0, 1),
        from_a(1),
        // Pays the coinbase itself, and is no smaller for it.
        Plan::new(b, COINBASE, 1).value(7),
        look(c, 1, 2),
        look(a, 2, 3),
        from_a(3),
    ]
}

/// What the three looks found, and the coinbase's balance after the block.
fn seen(changes: &Changes) -> ([U256; 3], U256) {
    let value = |key| changes.writes.iter().find(|(k, _)| *k == key).map(|(_, value)| *value);
    let slot = |at: u64| value(StateKey::Slot(account(70), 0, U256::from(at)));
    let slots = [1, 2, 3].map(|at| slot(at).expect("a look").slot());
    let kept = value(StateKey::Basic(COINBASE)).expect("it is paid").basic().balance;
    (slots, kept)
}

/// One machine with plain revm.
fn oracle() -> ([U256; 3], U256) {
    let mut world = world();
    for plan in plans() {
        world.run_oracle(&plan).expect("it runs");
    }
    let probe = &world.oracle.cache.accounts[&account(70)].storage;
    let slots = [1, 2, 3].map(|at| probe[&U256::from(at)]);
    (slots, world.oracle.cache.accounts[&COINBASE].info.balance)
}

fn run(fees: Fees) -> Changes {
    let world = world();
    let mut block = Sequential::new(&world.env, Rules::default(), fees, &world.state);
    for plan in plans() {
        let run = block.attempt(&plan.tx(), Mode::Transact);
        let Outcome::Executed(effects) = run.outcome else { panic!("{run:?}") };
        assert!(effects.executed.status);
        block.keep(&effects);
    }
    block.finish()
}

#[test]
fn fees_at_once_are_what_ethereum_pays() {
    let changes = run(Fees::AtOnce);
    assert_eq!(seen(&changes), oracle());
    assert_eq!(changes.fees, U256::ZERO);
}

#[test]
fn fees_are_visible_when_somebody_looks_and_owed_when_nobody_does() {
    let changes = run(Fees::WhenUsed);
    let (slots, balance) = oracle();
    // The last one paid after the last look.
    let unseen = U256::from(3 * 21_000);
    assert_eq!(changes.fees, unseen);
    assert_eq!(seen(&changes), (slots, balance - unseen));
    // Everything is paid after the block.
    let after = run(Fees::After);
    assert_eq!(seen(&after).0[2], U256::from(1_007));
    assert_eq!(seen(&after).1 + after.fees, balance);
}

struct Codes(World);

impl Source for Codes {
    fn code(&self, hash: &B256) -> Option<Bytecode> {
        self.0.state.code(hash)
    }
}

#[test]
fn a_group_that_has_the_coinbases_key_pays_at_once() {
    let world = world();
    let placement = Placement::new(8, Default::default());
    let mut block = Sequential::new(&world.env, Rules::default(), Fees::WhenUsed, &world.state);
    let mut txs = Vec::new();
    for plan in plans() {
        let tx = plan.tx();
        let run = block.attempt(&tx, Mode::Transact);
        let Outcome::Executed(effects) = run.outcome else { panic!("{run:?}") };
        block.keep(&effects);
        let origin = placement.owner(&plan.from);
        // As the sender's shard would predict it: without paying.
        let mut alone = atoll_evm::Executor::new(&world.env);
        let mut base = atoll_evm::Overlay::new(&world.state);
        let basic = atoll_types::Basic { nonce: plan.nonce, balance: RICH };
        base.set(StateKey::Basic(plan.from), StateValue::Basic(basic));
        let keys = alone.transact(&tx, &base, atoll_evm::OnMissing::Stop).used;
        txs.push(SharedTx {
            tx,
            origin,
            attempt: 0,
            wrong: 0,
            absences: 0,
            silences: 0,
            keys,
            last_valid_round: 9,
        });
    }
    let uses = |tx: &SharedTx| tx.keys.writes.contains(&StateKey::Basic(COINBASE));
    assert_eq!(txs.iter().filter(|tx| uses(tx)).count(), 4);
    let keys = txs.iter().fold(KeySet::default(), |keys, tx| keys.union(&tx.keys));
    let values: Vec<_> =
        keys.all().map(|key| (*key, world.state.read(key).expect("a key"))).collect();
    let plan = PlannedGroup {
        id: GroupId { round: 1, index: 0 },
        executor: ShardId(0),
        owners: keys.owners(&placement),
        txs: txs.iter().map(SharedTx::reference).collect(),
        gas: 1,
    };
    let env = world.env;
    let (rules, txs, values) = (Rules::default(), &txs[..], &values[..]);
    let group = Group {
        placement: &placement,
        plan: &plan,
        env: &env,
        rules,
        epoch: 0,
        txs,
        values,
        late_writes: &[],
        refused: &[],
    };
    let parts = group.run(&Codes(world)).expect("parts");
    let ends = parts.iter().flat_map(|part| &part.outcomes);
    assert!(ends.clone().all(|(_, end)| *end == TxOutcome::Executed) && ends.count() == 8);
    assert!(parts.iter().all(|part| part.fees.is_zero()));
    let writes = parts.into_iter().flat_map(|part| part.writes).collect();
    let changes = Changes { writes, codes: Vec::new(), fees: U256::ZERO };
    assert_eq!(seen(&changes), oracle());
}
