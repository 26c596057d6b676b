//! The serial order that the protocol page defines, carried out on one machine with plain revm.
//!
//! For each round: what leaves and reaches accounts at the cuts of that number (fees, credits), the
//! groups of the round in the beacon's order, then each shard's blocks up to its next cut.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use atoll_sim::{Input, World};
use atoll_types::{
    AbortCause, B256, BeaconBlock, Credit, GroupId, LocalBlock, Part, PlannedGroup, Receipt,
    ReceiptKind, ShardId, SharedTx, StateKey, StateValue, Tx, TxOutcome, TxRef, U256, Verdict,
    group_digest,
};

use crate::{
    counts::Counts,
    credits::{Arrival, Payment},
    machine::{Machine, Place},
};

pub(crate) type Found<T = ()> = Result<T, String>;

/// Compares a settled world with one machine: every receipt, and the state at every cut.
pub fn compare(world: &World, txs: &HashMap<B256, Tx>) -> Found<Counts> {
    let mut order = Order::new(world, txs)?;
    for round in 0..=world.chain().len() as u64 {
        let block = round.checked_sub(1).map(|at| &world.chain()[at as usize].block);
        if let Some(block) = block {
            for at in 0..order.shards.len() {
                order.cut(at, block)?;
            }
        }
        order.compare_cut(round)?;
        for group in block.map_or(&[][..], |block| &block.plan) {
            order.group(group).map_err(|what| format!("group {}: {what}", group.id))?;
        }
        for at in 0..order.shards.len() {
            order.until_cut(at)?;
        }
    }
    order.finish()
}

pub(crate) type Keys = BTreeMap<StateKey, u64>;

/// As much of a shard as decides when credits reach their accounts.
pub(crate) struct Shard<'a> {
    pub(crate) id: ShardId,
    pub(crate) inputs: &'a [Input],
    /// Transactions that took effect and whose fees have not left.
    pub(crate) fees: Vec<B256>,
    /// Fees of blocks that the coinbase has lost again: see [`Order::block`].
    pub(crate) gathered: U256,
    pub(crate) shared: HashMap<TxRef, &'a SharedTx>,
    /// What open groups may write, and after which cut that was fenced.
    pub(crate) open: BTreeMap<GroupId, &'a Keys>,
    pub(crate) held: BTreeMap<ShardId, VecDeque<Credit>>,
    pub(crate) undelivered: Vec<Arrival>,
    /// Credits that travel with the lease of a group.
    pub(crate) travelling: HashMap<GroupId, Vec<Arrival>>,
    /// Keys that were written, by epoch.
    pub(crate) written: BTreeMap<u64, Vec<StateKey>>,
}

/// Whether a key is among those that were fenced before a cut.
pub(crate) fn is_fenced(keys: &Keys, key: &StateKey, cut: u64) -> bool {
    keys.get(key).is_some_and(|since| *since < cut)
}

pub(crate) struct Order<'a> {
    pub(crate) world: &'a World,
    pub(crate) txs: &'a HashMap<B256, Tx>,
    pub(crate) receipts: HashMap<B256, &'a Receipt>,
    pub(crate) commits: HashMap<GroupId, B256>,
    /// Results that were logged, by digest.
    pub(crate) results: HashMap<B256, &'a [Part]>,
    pub(crate) shards: Vec<Shard<'a>>,
    pub(crate) machine: Machine,
    pub(crate) seen: HashSet<B256>,
    pub(crate) wrong: HashMap<B256, u32>,
    pub(crate) payments: HashMap<B256, Payment>,
    /// Fees that have left each shard for the coinbase on another one, oldest first, until they
    /// arrive.
    pub(crate) fees: HashMap<ShardId, Vec<Option<U256>>>,
    pub(crate) counts: Counts,
}

impl<'a> Order<'a> {
    fn new(world: &'a World, txs: &'a HashMap<B256, Tx>) -> Found<Self> {
        let mut receipts = HashMap::new();
        for receipt in world.receipts() {
            if let Some(other) = receipts.insert(receipt.tx, receipt) {
                return Err(format!("exactly-once: {other:?} and {receipt:?}"));
            }
        }
        let decisions = world.chain().iter().flat_map(|record| &record.block.decisions);
        let mut counts = Counts::default();
        let mut commit = |decision: &atoll_types::Decision| match &decision.verdict {
            Verdict::Commit { digest, late } => {
                counts.add("late owners", late.len());
                Some((decision.group, *digest))
            }
            Verdict::Abort(cause) => {
                counts.add("aborts", 1);
                counts.add(
                    match cause {
                        AbortCause::Missing(_) => "aborts: an owner is missing",
                        AbortCause::Silent => "aborts: silent",
                        AbortCause::Dependant => "aborts: dependants",
                    },
                    1,
                );
                None
            }
        };
        let commits = decisions.filter_map(&mut commit).collect();
        let mut results = HashMap::new();
        for input in world.shards().iter().flat_map(|shard| shard.inputs()) {
            let Input::Result(group, parts) = input else { continue };
            let manifest: Vec<_> = parts.iter().map(|part| (part.owner, part.hash())).collect();
            let chain_id = world.config().planner.chain_id;
            let epoch = world.config().placement.epoch;
            results.insert(group_digest(chain_id, epoch, *group, &manifest), parts.as_slice());
        }
        Ok(Self {
            world,
            txs,
            receipts,
            commits,
            results,
            shards: world.shards().iter().map(Shard::new).collect(),
            machine: Self::machine(world),
            seen: HashSet::new(),
            wrong: HashMap::new(),
            payments: HashMap::new(),
            fees: HashMap::new(),
            counts,
        })
    }

    fn machine(world: &World) -> Machine {
        let mut machine = Machine::new(world.config());
        machine.know_block(atoll_commit::Planner::new(world.config().planner.clone()).head());
        world.chain().iter().for_each(|record| machine.know_block(&record.block));
        machine
    }

    fn home(&self, tx: &B256) -> Option<ShardId> {
        let tx = self.txs.get(tx)?;
        Some(self.world.config().placement.owner(&tx.sender()))
    }

    fn result(&self, group: GroupId) -> Found<Option<&'a [Part]>> {
        let Some(digest) = self.commits.get(&group) else { return Ok(None) };
        let parts = self.results.get(digest).copied();
        parts.map(Some).ok_or_else(|| format!("atomicity: nobody has result {digest} of {group}"))
    }

    /// What leaves and reaches accounts at a shard's cut.
    fn cut(&mut self, at: usize, block: &BeaconBlock) -> Found {
        let Some((Input::Cut(cut), rest)) = self.shards[at].inputs.split_first() else {
            return Err(format!("shard {at} has no cut {}", block.number()));
        };
        if cut != block {
            return Err(format!("shard {at} has another cut {}", block.number()));
        }
        self.shards[at].inputs = rest;
        let id = self.shards[at].id;
        for decision in &block.decisions {
            for part in self.result(decision.group)?.unwrap_or_default() {
                let executed = part.outcomes.iter().filter(|(_, o)| *o == TxOutcome::Executed);
                let mine = executed.map(|(tx, _)| *tx).filter(|tx| self.home(tx) == Some(id));
                let mine: Vec<_> = mine.collect();
                self.shards[at].fees.extend(mine);
            }
            let shard = &mut self.shards[at];
            shard.open.remove(&decision.group);
            let travelled = shard.travelling.remove(&decision.group).unwrap_or_default();
            if !self.commits.contains_key(&decision.group) {
                shard.undelivered.extend(travelled);
            }
        }
        self.deposit_due(at, block)?;
        for group in &block.plan {
            self.fence(at, group)?;
        }
        Ok(())
    }

    /// A shard that is behind may have opened less of a group that is aborted since; what commits was
    /// fenced as it was shared.
    fn fence(&mut self, at: usize, group: &PlannedGroup) -> Found {
        let shard = &mut self.shards[at];
        let (id, round) = (group.id, group.id.round);
        let fenced = self.world.shards()[at].fenced(id);
        let planned = || fenced.into_iter().flatten().filter(|(_, since)| **since == round);
        if self.commits.contains_key(&id) {
            let placement = &self.world.config().placement;
            let txs = group.txs.iter().filter_map(|tx| shard.shared.get(tx));
            let writes = txs.flat_map(|tx| &tx.keys.writes);
            let mut shared = writes.filter(|key| placement.owner_of(key) == shard.id);
            let is_fenced = |key: &StateKey| planned().any(|(fenced, _)| fenced == key);
            if let Some(key) = shared.find(|key| !is_fenced(key)) {
                return Err(format!("shard {at} has not fenced {key:?} for group {id}"));
            }
        }
        // A payment to an account in flight is made before the first transaction of a group that
        // writes it, if nothing else may give the account code.
        let mut travels = |arrival: &mut Arrival| {
            let (basic, code) = arrival.keys(self.machine.coinbase);
            planned().any(|(key, _)| *key == basic)
                && shard.open.values().any(|keys| is_fenced(keys, &basic, round))
                && !(arrival.is_payment()
                    && shard.open.values().any(|keys| is_fenced(keys, &code, round)))
        };
        let travelling: Vec<_> = shard.undelivered.extract_if(.., &mut travels).collect();
        self.counts.add("credits with a lease", travelling.len());
        if !travelling.is_empty() {
            shard.travelling.insert(id, travelling);
        }
        if let Some(fenced) = fenced {
            shard.open.insert(id, fenced);
        }
        Ok(())
    }

    /// Runs a shard's blocks up to its next cut.
    fn until_cut(&mut self, at: usize) -> Found {
        while let Some((input, rest)) = self.shards[at].inputs.split_first() {
            match input {
                Input::Cut(_) => return Ok(()),
                Input::Block(block) => {
                    self.block(at, block)?;
                    self.shards[at].fees.extend(block.txs.iter().map(|tx| *tx.tx.hash()));
                }
                Input::Share(shared) => {
                    self.shards[at].shared.insert(shared.reference(), shared);
                }
                Input::Credits(from, credits) => {
                    self.shards[at].held.entry(*from).or_default().extend(credits);
                }
                Input::Withdraw(_)
                | Input::Result(..)
                | Input::Part(_)
                | Input::Settle(_)
                | Input::Grant(..) => {}
            }
            self.shards[at].inputs = rest;
        }
        Ok(())
    }

    /// On the coinbase's own shard every transaction pays it at once: who uses its balance sees the
    /// fees of its block. What nobody looked at leaves it again, to arrive at the next cut.
    fn block(&mut self, at: usize, block: &'a LocalBlock) -> Found {
        let shown = self.world.config().placement.owner(&self.machine.coinbase) == block.shard;
        for local in &block.txs {
            let hash = *local.tx.hash();
            let place = match local.receipt.kind {
                ReceiptKind::Local => Place::Local,
                ReceiptKind::Credit => Place::Debit,
                ReceiptKind::Group(group) => return Err(format!("{hash} is of group {group}")),
            };
            self.counts.add(if place == Place::Debit { "credits" } else { "local" }, 1);
            if place == Place::Debit {
                self.payments.insert(hash, Payment::OnItsWay);
            }
            let final_receipt = self.take(hash)?;
            let mut same = local.receipt.clone();
            if place == Place::Debit {
                same.executed.status = final_receipt.executed.status;
            }
            if same != *final_receipt {
                return Err(format!("{same:?} became {final_receipt:?}"));
            }
            self.run(hash, block.round, place, shown, &local.receipt)?;
        }
        if shown {
            self.machine.take(self.machine.coinbase, block.fees)?;
            self.shards[at].gathered += block.fees;
        }
        Ok(())
    }

    fn group(&mut self, group: &PlannedGroup) -> Found {
        let Some(parts) = self.result(group.id)? else { return Ok(()) };
        self.counts.add("groups", 1);
        for at in 0..self.shards.len() {
            let travelling = self.shards[at].travelling.get(&group.id).cloned();
            travelling.iter().flatten().try_for_each(|arrival| self.arrive(arrival))?;
        }
        // A group that may use the coinbase's balance pays into it at once.
        let coinbase = StateKey::Basic(self.machine.coinbase);
        let shown = parts.iter().flat_map(|part| &part.writes).any(|(key, _)| *key == coinbase);
        self.counts.add("groups that pay the coinbase at once", usize::from(shown));
        let in_flight = parts.iter().any(|part| !part.sources.is_empty());
        self.counts.add("groups with values in flight", usize::from(in_flight));
        let together = if group.txs.len() > 1 { group.txs.len() } else { 0 };
        self.counts.add("together", together);
        let outcomes: HashMap<B256, &TxOutcome> =
            parts.iter().flat_map(|part| &part.outcomes).map(|(tx, end)| (*tx, end)).collect();
        let receipts: HashMap<B256, &Receipt> =
            parts.iter().flat_map(|part| &part.receipts).map(|r| (r.tx, r)).collect();
        let mut senders = HashSet::new();
        for TxRef { hash, .. } in &group.txs {
            let outcome = outcomes.get(hash).ok_or_else(|| format!("no outcome of {hash}"))?;
            match outcome {
                TxOutcome::Executed => {
                    let receipt =
                        receipts.get(hash).ok_or_else(|| format!("no receipt: {hash}"))?;
                    if self.take(*hash)? != *receipt {
                        return Err(format!("{hash} has another receipt in the group"));
                    }
                    self.counts.add("across shards", 1);
                    let sender = self.txs.get(hash).map(Tx::sender);
                    self.counts.add("of one sender together", usize::from(!senders.insert(sender)));
                    let wrong = self.wrong.get(hash).copied().unwrap_or(0);
                    let place = Place::Group { wrong };
                    self.run(*hash, group.id.round, place, shown, receipt)?;
                }
                TxOutcome::Wrong { .. } => {
                    self.counts.add("wrong", 1);
                    *self.wrong.entry(*hash).or_default() += 1;
                }
                TxOutcome::Behind | TxOutcome::Invalid { .. } => {
                    self.counts.add("refused in a group", 1);
                    self.counts.add("behind", usize::from(**outcome == TxOutcome::Behind));
                    let tx = self.txs.get(hash).ok_or_else(|| format!("nobody sent {hash}"))?;
                    let env = self.world.chain()[group.id.round as usize - 1].block.env;
                    self.machine.expect_invalid(tx, &env)?;
                }
            }
        }
        Ok(())
    }

    fn run(
        &mut self,
        hash: B256,
        round: u64,
        place: Place,
        shown: bool,
        receipt: &Receipt,
    ) -> Found {
        if receipt.round != round {
            return Err(format!("{hash} says round {}, it is in {round}", receipt.round));
        }
        let tx = self.txs.get(&hash).ok_or_else(|| format!("nobody sent {hash}"))?;
        let env = match round.checked_sub(1) {
            Some(at) => self.world.chain()[at as usize].block.env,
            None => atoll_commit::Planner::new(self.world.config().planner.clone()).head().env,
        };
        let succeeded = receipt.executed.status;
        self.counts.add(if succeeded { "succeeded" } else { "failed" }, 1);
        self.counts.add("logs", receipt.executed.logs.len());
        let as_failed = self.machine.run(tx, &env, (place, shown), &receipt.executed)?;
        self.counts.add("included as failed", usize::from(as_failed));
        Ok(())
    }

    /// The receipt of a transaction that takes its place in the order.
    fn take(&mut self, hash: B256) -> Found<&'a Receipt> {
        if !self.seen.insert(hash) {
            return Err(format!("exactly-once: {hash} took effect twice"));
        }
        let receipt = self.receipts.get(&hash).copied();
        receipt.ok_or_else(|| format!("{hash} took effect and has no final receipt"))
    }

    /// The shards' values at a cut, by the epochs of their writes, against the machine's.
    fn compare_cut(&mut self, cut: u64) -> Found {
        let mut keys: BTreeSet<StateKey> = std::mem::take(&mut self.machine.touched);
        if let Some(epoch) = cut.checked_sub(1) {
            for shard in &mut self.shards {
                keys.extend(shard.written.remove(&epoch).unwrap_or_default());
            }
        }
        for key in keys {
            let owner = usize::from(self.world.config().placement.owner_of(&key).0);
            let found = self.world.shards()[owner].ledger().values.at(&key, cut);
            self.same(&key, found, cut)?;
        }
        Ok(())
    }

    fn same(&mut self, key: &StateKey, found: StateValue, cut: u64) -> Found {
        let expected = self.machine.value(key);
        let same = match (found, expected) {
            (StateValue::Code(found), StateValue::Code(expected)) => found.hash == expected.hash,
            (found, expected) => found == expected,
        };
        if same {
            return Ok(());
        }
        Err(format!("serial-equivalence: {key:?} is {found:?} at cut {cut}, revm: {expected:?}"))
    }

    fn finish(mut self) -> Found<Counts> {
        for shard in self.world.shards() {
            for (key, value) in shard.ledger().values.newest() {
                self.same(key, value, u64::MAX)?;
            }
        }
        for key in self.machine.keys() {
            self.same(&key, self.world.value(&key), u64::MAX)?;
        }
        self.credits_have_ended()?;
        if let Some(hash) = self.receipts.keys().find(|hash| !self.seen.contains(*hash)) {
            return Err(format!("{hash} has a receipt and took no effect"));
        }
        self.every_transaction_ends()?;
        self.counts.merge(&self.machine.counts);
        Ok(self.counts)
    }

    fn every_transaction_ends(&mut self) -> Found {
        let mut dropped = HashSet::new();
        for (tx, reason) in self.world.shards().iter().flat_map(|shard| shard.dropped()) {
            self.counts.add("dropped", 1);
            dropped.insert(*tx);
            if self.seen.contains(tx) {
                return Err(format!(
                    "{tx} was dropped ({reason}) and took effect: {:?}",
                    self.receipts.get(tx)
                ));
            }
        }
        for (hash, tx) in self.txs {
            let nonce = self.world.value(&StateKey::Basic(tx.sender())).basic().nonce;
            let waits = nonce < tx.nonce();
            self.counts.add("waiting for a nonce", usize::from(waits));
            if !waits && !self.seen.contains(hash) && !dropped.contains(hash) {
                return Err(format!("{tx:?} never ended, the account's nonce is {nonce}"));
            }
        }
        Ok(())
    }
}

impl<'a> Shard<'a> {
    fn new(shard: &'a atoll_sim::Shard) -> Self {
        let mut written: BTreeMap<u64, Vec<StateKey>> = BTreeMap::new();
        for (key, epoch, _) in shard.ledger().values.history() {
            written.entry(epoch).or_default().push(*key);
        }
        Self {
            id: shard.id(),
            inputs: shard.inputs(),
            fees: Vec::new(),
            gathered: U256::ZERO,
            shared: HashMap::new(),
            open: BTreeMap::new(),
            held: BTreeMap::new(),
            undelivered: Vec::new(),
            travelling: HashMap::new(),
            written,
        }
    }
}
