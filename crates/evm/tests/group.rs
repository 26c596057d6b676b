//! Groups: what each owner's part says.

mod common;

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256, U256, hex};
use atoll_evm::{Bytecode, Group, GroupError, Rules, Source, StateView};
use atoll_types::{
    GroupId, KeySet, Part, Placement, PlannedGroup, ShardId, SharedTx, StateKey, TxOutcome, Write,
};
use common::*;

const SHARDS: u16 = 3;

/// A world whose accounts stand on shards, and the code of all of them.
struct Sharded {
    world: World,
    placement: Placement,
}

impl Source for Sharded {
    fn code(&self, hash: &B256) -> Option<Bytecode> {
        self.world.state.code(hash)
    }
}

impl Sharded {
    fn new(places: &[(Address, u16)]) -> Self {
        let placed: BTreeMap<_, _> =
            places.iter().map(|(a, shard)| (*a, ShardId(*shard))).collect();
        Self { world: World::new(), placement: Placement::new(SHARDS, placed) }
    }

    fn share(&self, plan: &Plan, keys: KeySet) -> SharedTx {
        let origin = self.placement.owner(&plan.from);
        SharedTx {
            tx: plan.tx(),
            origin,
            attempt: 0,
            wrong: 0,
            absences: 0,
            silences: 0,
            keys,
            last_valid_round: 9,
        }
    }

    fn plan(&self, txs: &[SharedTx]) -> PlannedGroup {
        let mut owners: Vec<_> =
            txs.iter().flat_map(|tx| tx.keys.owners(&self.placement)).collect();
        owners.sort_unstable();
        owners.dedup();
        PlannedGroup {
            id: GroupId { round: 3, index: 1 },
            executor: owners[0],
            owners,
            txs: txs.iter().map(SharedTx::reference).collect(),
            gas: 1,
        }
    }

    fn leased(&self, txs: &[SharedTx]) -> Vec<Write> {
        let keys = txs.iter().flat_map(|tx| tx.keys.all());
        keys.map(|key| (*key, self.world.state.read(key).expect("a key"))).collect()
    }

    fn run(&self, txs: &[SharedTx], values: &[Write]) -> Result<Vec<Part>, GroupError> {
        let (plan, env) = (self.plan(txs), env());
        let group = Group {
            placement: &self.placement,
            plan: &plan,
            env: &env,
            rules: Rules::default(),
            epoch: 0,
            txs,
            values,
            late_writes: &[],
            refused: &[],
        };
        group.run(self)
    }
}

#[test]
fn a_part_holds_every_fenced_key_changed_or_not() {
    let (alice, keeper, idle) = (account(1), account(2), account(3));
    let mut sharded = Sharded::new(&[(alice, 0), (keeper, 1), (idle, 2)]);
    sharded.world.put(alice, 0, RICH, &[]);
    // Keeps the first word of the call's data in slot 0.
    sharded.world.put(keeper, 1, U256::ZERO, &hex!("5f355f55"));
    sharded.world.store(keeper, U256::ZERO, U256::from(7));
    sharded.world.put(idle, 1, U256::from(5), &[]);
    let [kept, basic] = [StateKey::Slot(keeper, 0, U256::ZERO), StateKey::Basic(idle)];
    let reads = [StateKey::Code(alice), StateKey::Code(keeper)];
    let fenced = KeySet::new(reads, [StateKey::Basic(alice), kept, basic]);
    let word = |word: u64| U256::from(word).to_be_bytes::<32>().to_vec();
    // The second one leaves the slot as it was before the group.
    let txs = [8, 7].into_iter().enumerate().map(|(nonce, value)| {
        let plan = Plan::new(alice, keeper, nonce as u64).input(word(value));
        sharded.share(&plan, fenced.clone())
    });
    let txs: Vec<_> = txs.collect();
    let leased = sharded.leased(&txs);
    let parts = sharded.run(&txs, &leased).expect("parts");
    let keys = |part: &Part| part.writes.iter().map(|(key, _)| *key).collect::<Vec<_>>();
    assert_eq!(keys(&parts[0]), [StateKey::Basic(alice)]);
    assert_eq!(parts[0].receipts.len(), 2);
    assert!(parts[0].outcomes.iter().all(|(_, outcome)| *outcome == TxOutcome::Executed));
    assert_ne!(
        parts[0].writes[0].1,
        leased.iter().find(|w| w.0 == parts[0].writes[0].0).unwrap().1
    );
    let unchanged: Vec<_> = parts[1..].iter().flat_map(|part| part.writes.clone()).collect();
    assert_eq!(unchanged.iter().map(|(key, _)| *key).collect::<Vec<_>>(), [kept, basic]);
    assert!(unchanged.iter().all(|write| leased.contains(write)));

    let without: Vec<_> = leased.iter().copied().filter(|(key, _)| *key != basic).collect();
    assert_eq!(sharded.run(&txs, &without), Err(GroupError::NotLeased(basic)));
}

#[test]
fn a_group_asks_for_code_and_refuses_other_transactions() {
    let (alice, keeper) = (account(1), account(2));
    let mut sharded = Sharded::new(&[(alice, 0), (keeper, 1)]);
    sharded.world.put(alice, 0, RICH, &[]);
    sharded.world.put(keeper, 1, U256::ZERO, &hex!("5f355f55"));
    let reads = [StateKey::Code(alice), StateKey::Code(keeper)];
    let slot = StateKey::Slot(keeper, 0, U256::ZERO);
    let keys = KeySet::new(reads, [StateKey::Basic(alice), slot]);
    let tx = sharded.share(&Plan::new(alice, keeper, 0).input(vec![1; 32]), keys);
    let txs = [tx];
    let (plan, env, values) = (sharded.plan(&txs), env(), sharded.leased(&txs));
    let placement = &sharded.placement;
    let group = Group {
        placement,
        plan: &plan,
        env: &env,
        rules: Rules::default(),
        epoch: 0,
        txs: &txs,
        late_writes: &[],
        refused: &[],
        values: &values,
    };
    let hash = sharded.world.state.read(&StateKey::Code(keeper)).expect("a key").code().hash;
    let codes = atoll_evm::CodeCache::new(1 << 20);
    assert_eq!(group.run(&codes), Err(GroupError::Codes(vec![hash])));
    codes.insert(hex!("5f355f55").into());
    assert_eq!(group.run(&codes), group.run(&sharded));
    let other = Group { txs: &[], ..group };
    assert_eq!(other.run(&codes), Err(GroupError::OtherTransactions));
}
