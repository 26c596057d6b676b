use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use anyhow::{Context as _, bail, ensure};
use atoll_commit::{CutEffects, Owner, OwnerConfig, Planner, PlannerConfig};
use atoll_evm::{Group, Parallelism};
use atoll_types::{
    B256, BlockEnv, KeySet, Placement, PlannedGroup, Receipt, SharedTx, TxRef, Write,
};

use super::{Block, Memory};

/// Rounds after which a world that has not come to rest never will.
const MAX_ROUNDS: u64 = 64;

/// What a block came to across shards.
#[derive(Clone, Debug)]
pub struct Spread {
    /// In the order of the block: the receipt, or why the transaction cannot run.
    pub ended: Vec<Result<Receipt, String>>,
    /// Of all shards together.
    pub state: Memory,
    pub groups: usize,
    /// Most transactions in one group.
    pub largest: usize,
}

/// Runs a block across shards, by the whole protocol: every transaction is shared, ordered, leased
/// for, run in a group, parted, acknowledged and committed. `keys` are the sets that they are predicted to use; one that is too small is an error, and so is an empty one. `lanes`: what runs the
/// groups, if not one transaction after another.
pub fn spread(
    block: &Block<'_>,
    keys: &[KeySet],
    state: &Memory,
    shards: u16,
    lanes: Option<&Parallelism>,
) -> anyhow::Result<Spread> {
    let mut world = World::new(block, state, shards, lanes);
    world.share(block, keys)?;
    for _ in 0..MAX_ROUNDS {
        world.round(block)?;
        if world.ended.len() == block.txs.len() && world.rests() {
            return world.finish(block);
        }
    }
    let open = block.txs.len() - world.ended.len();
    bail!("{open} transactions are not decided after {MAX_ROUNDS} rounds")
}

struct Shard {
    owner: Owner,
    state: Memory,
}

struct World<'l> {
    lanes: Option<&'l Parallelism>,
    placement: Placement,
    planner: Planner,
    shards: Vec<Shard>,
    ended: HashMap<B256, Result<Receipt, String>>,
    /// Code and block hashes, which are the same on every shard.
    source: Arc<Memory>,
    groups: usize,
    largest: usize,
}

impl<'l> World<'l> {
    fn new(block: &Block<'_>, state: &Memory, shards: u16, lanes: Option<&'l Parallelism>) -> Self {
        let BlockEnv { chain_id, coinbase, .. } = *block.env;
        let placement = Placement::new(shards, BTreeMap::new());
        let planner = Planner::new(PlannerConfig {
            // One block is one round, however large.
            group_gas: u64::MAX,
            round_gas: u64::MAX,
            round_txs: u32::MAX / 8,
            max_waiting: u32::MAX,
            ..PlannerConfig::new(chain_id, shards, coinbase, 0)
        });
        let shard = |shard| {
            let config =
                OwnerConfig { chain_id, shard, placement: placement.clone(), max_shared: u64::MAX };
            let mut own = Memory::default();
            let mine = state.iter().filter(|(key, _)| placement.owner_of(key) == shard);
            own.extend(mine.map(|(key, value)| (*key, *value)));
            Shard { owner: Owner::new(config, planner.head()), state: own }
        };
        let shards = placement.all().map(shard).collect();
        let (ended, source) = (HashMap::new(), Arc::new(state.clone()));
        Self { lanes, placement, planner, shards, ended, source, groups: 0, largest: 0 }
    }

    /// Data before order: every owner holds every transaction that concerns it.
    fn share(&mut self, block: &Block<'_>, keys: &[KeySet]) -> anyhow::Result<()> {
        ensure!(keys.len() == block.txs.len(), "a key set for each transaction");
        for (tx, keys) in block.txs.iter().zip(keys) {
            let shared = SharedTx {
                tx: tx.clone(),
                origin: self.placement.owner(&tx.sender()),
                attempt: 0,
                wrong: 0,
                absences: 0,
                silences: 0,
                keys: keys.clone(),
                last_valid_round: MAX_ROUNDS,
            };
            for owner in keys.owners(&self.placement) {
                let owner = &mut self.shards[usize::from(owner.0)].owner;
                ensure!(owner.check_share(&shared)?, "{} is in the block twice", tx.hash());
                owner.share(shared.clone());
            }
            self.planner.announce(shared.intent(&self.placement));
        }
        Ok(())
    }

    /// One beacon block: anchors in, every shard's cut, and the groups that it plans.
    fn round(&mut self, block: &Block<'_>) -> anyhow::Result<()> {
        self.exchange_credits()?;
        for shard in &self.shards {
            self.planner.anchor(shard.owner.anchor());
        }
        let record = self.planner.propose(0, B256::ZERO);
        self.planner.apply(&record);
        for shard in &mut self.shards {
            let Shard { owner, state } = shard;
            owner.check_cut(&record.block)?;
            let CutEffects { writes, codes, receipts, returned, dropped, violations, .. } =
                owner.cut(&record.block, &|key| state.get(key));
            ensure!(violations.is_empty(), "{violations:?}");
            ensure!(returned.is_empty(), "came back: {returned:?}");
            state.extend(writes.into_iter().map(|write| (write.key, write.value)));
            for code in codes {
                Arc::make_mut(&mut self.source).insert_code(code);
            }
            self.ended.extend(receipts.into_iter().map(|receipt| (receipt.tx, Ok(receipt))));
            let dropped = dropped.into_iter().map(|(tx, why)| (*tx.tx.hash(), Err(why)));
            self.ended.extend(dropped);
        }
        for group in &record.block.plan {
            self.run(block, group).with_context(|| format!("group {}", group.id))?;
        }
        self.groups += record.block.plan.len();
        let largest = record.block.plan.iter().map(|group| group.txs.len()).max();
        self.largest = self.largest.max(largest.unwrap_or(0));
        Ok(())
    }

    /// At the executor: the leases of all owners in, every owner's part out.
    fn run(&mut self, block: &Block<'_>, plan: &PlannedGroup) -> anyhow::Result<()> {
        let executor = usize::from(plan.executor.0);
        let mut values: Vec<Write> = Vec::new();
        let mut bodies: HashMap<TxRef, SharedTx> = HashMap::new();
        bodies.extend(
            self.shards[executor].owner.bodies(plan).map(|tx| (tx.reference(), tx.clone())),
        );
        for owner in &plan.owners {
            let lease = self.shards[usize::from(owner.0)].owner.lease(plan.id);
            let lease = lease.with_context(|| format!("no lease of shard {owner}"))?;
            values.extend(&lease.values);
            bodies.extend(lease.bodies.iter().map(|tx| (tx.reference(), tx.clone())));
        }
        let txs: Option<Vec<SharedTx>> = plan.txs.iter().map(|tx| bodies.remove(tx)).collect();
        let group = Group {
            placement: &self.placement,
            plan,
            env: block.env,
            rules: block.rules,
            epoch: self.placement.epoch,
            txs: &txs.context("no owner has sent the body of a transaction")?,
            values: &values,
            late_writes: &[],
            refused: &[],
        };
        let parts = match self.lanes {
            None => group.run(&self.source)?,
            Some(lanes) => group.run_with(self.source.clone(), lanes)?,
        };
        let owner = &mut self.shards[executor].owner;
        owner.check_result(plan.id, &parts)?;
        owner.keep_result(plan.id, parts);
        let messages = owner.result(plan.id).context("the result was not kept")?.to_vec();
        for message in messages {
            let owner = &mut self.shards[usize::from(message.part.owner.0)].owner;
            if owner.check_part(&message)? {
                owner.keep_part(message);
            }
        }
        Ok(())
    }

    fn exchange_credits(&mut self) -> anyhow::Result<()> {
        for from in self.placement.all() {
            for to in self.placement.all().filter(|to| *to != from) {
                let received = self.shards[usize::from(to.0)].owner.received(from);
                let sender = &self.shards[usize::from(from.0)].owner;
                let credits: Vec<_> = sender.credits_after(to, received).collect();
                let receiver = &mut self.shards[usize::from(to.0)].owner;
                receiver.check_credits(from, &credits)?;
                receiver.receive(from, &credits);
            }
        }
        Ok(())
    }

    /// Whether nothing is fenced and no wei is under way.
    fn rests(&self) -> bool {
        self.shards.iter().all(|Shard { owner, .. }| {
            let sent = |to| {
                owner
                    .credits_after(to, self.shards[usize::from(to.0)].owner.received(owner.shard()))
                    .next()
                    .is_some()
            };
            owner.fenced().next().is_none()
                && owner.fees().is_zero()
                && owner.held_credits().is_zero()
                && !owner.credit_receivers().any(sent)
        })
    }

    fn finish(mut self, block: &Block<'_>) -> anyhow::Result<Spread> {
        let take = |tx: &atoll_types::Tx| {
            self.ended.remove(tx.hash()).with_context(|| format!("{} has no end", tx.hash()))
        };
        let ended = block.txs.iter().map(take).collect::<anyhow::Result<_>>()?;
        let mut state = Memory::default();
        for shard in &self.shards {
            state.extend(shard.state.iter().map(|(key, value)| (*key, *value)));
        }
        Ok(Spread { ended, state, groups: self.groups, largest: self.largest })
    }
}
