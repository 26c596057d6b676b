//! One machine that does, one after another, what the protocol's serial order says.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use atoll_invariants::Property;
use atoll_types::{
    B256, Credit, CreditKind, GroupId, PartMessage, PlannedGroup, Receipt, ReceiptKind, ShardId,
    StateKey, StateValue, Tx, TxOutcome, U256, Verdict,
};

use crate::{
    ledger::{Broken, Fence, Ledger},
    scenario::Scenario,
    toy::{self, Ran},
    world::World,
};

type State = BTreeMap<StateKey, StateValue>;

struct Serial<'a> {
    scenario: &'a Scenario,
    world: &'a World,
    state: State,
    /// What each undecided group may write.
    open: BTreeMap<GroupId, BTreeMap<StateKey, Fence>>,
    /// Credits that travel with the lease of a group.
    travelling: HashMap<GroupId, Vec<Credit>>,
    undelivered: Vec<Credit>,
    /// Fees owed to the coinbase by its own shard.
    own_fees: U256,
    due: HashMap<(ShardId, ShardId), u64>,
}

/// Compares the state at every cut up to `last`, and every receipt on the way, with one machine.
/// All rounds before `last` are decided, and every shard knows it.
pub fn check(scenario: &Scenario, world: &World, last: u64) -> Result<(), Broken> {
    let mut serial = Serial {
        scenario,
        world,
        state: scenario.genesis.iter().copied().collect(),
        open: BTreeMap::new(),
        travelling: HashMap::new(),
        undelivered: Vec::new(),
        own_fees: U256::ZERO,
        due: HashMap::new(),
    };
    for cut in 1..=last {
        serial.locals(cut - 1)?;
        serial.decisions(cut);
        serial.credits(cut);
        for shard in &world.shards {
            serial.compare(&shard.ledger, cut)?;
        }
        let link = &world.beacon.chain[cut as usize - 1];
        for plan in &link.block.plan {
            serial.group(plan, cut < last)?;
        }
    }
    Ok(())
}

fn differs(detail: String) -> Broken {
    Broken::new(Property::SerialEquivalence, detail)
}

impl Serial<'_> {
    fn at(&self, key: &StateKey) -> StateValue {
        self.state.get(key).copied().unwrap_or(key.absent())
    }

    fn home(&self) -> ShardId {
        self.scenario.placement.owner(&self.scenario.planner.coinbase)
    }

    /// Local transactions between a cut and the next one.
    fn locals(&mut self, after: u64) -> Result<(), Broken> {
        for shard in &self.world.shards {
            let blocks = shard.ledger.history.blocks.iter();
            for block in blocks.filter(|block| block.round == after) {
                for local in &block.txs {
                    self.local(&local.tx, &local.receipt)?;
                }
                if block.shard == self.home() {
                    self.own_fees += block.fees;
                }
            }
        }
        Ok(())
    }

    fn local(&mut self, tx: &Tx, receipt: &Receipt) -> Result<(), Broken> {
        if receipt.kind == ReceiptKind::Local {
            return self.execute(tx, receipt);
        }
        let amount = self.scenario.program(tx.hash()).transfer.map_or(0, |(_, amount)| amount);
        let key = StateKey::Basic(tx.sender());
        let account = self.at(&key).basic();
        let left = toy::debit(tx, amount + self.scenario.fee, account)
            .ok_or_else(|| differs(format!("payment {tx:?} cannot be made")))?;
        self.state.insert(key, StateValue::Basic(left));
        Ok(())
    }

    fn execute(&mut self, tx: &Tx, receipt: &Receipt) -> Result<(), Broken> {
        let program = self.scenario.program(tx.hash());
        if !receipt.executed.status {
            // Included as failed.
            let key = StateKey::Basic(tx.sender());
            let left = toy::debit(tx, self.scenario.fee, self.at(&key).basic())
                .ok_or_else(|| differs(format!("{tx:?} cannot be charged")))?;
            self.state.insert(key, StateValue::Basic(left));
            return Ok(());
        }
        let run = toy::run(tx, program, self.scenario.fee, &|key| Some(self.at(key)));
        if run.ran != Ran::Executed(toy::output(receipt)) {
            let (number, gave) = (self.scenario.number(tx.hash()), toy::output(receipt));
            let one = run.ran;
            let detail = format!("transaction {number} gave {gave}, on one machine {one:?}");
            return Err(differs(detail));
        }
        self.state.extend(run.writes);
        Ok(())
    }

    /// Decisions of a cut. What a group did was done when it was planned.
    fn decisions(&mut self, cut: u64) {
        let decisions = &self.world.beacon.chain[cut as usize - 1].block.decisions;
        for decision in decisions {
            self.open.remove(&decision.group);
            let travelled = self.travelling.remove(&decision.group).unwrap_or_default();
            if matches!(decision.verdict, Verdict::Abort(_)) {
                self.undelivered.extend(travelled);
            }
            let own = self.result(decision.group).into_iter().flatten();
            let own = own.map(|message| &message.part).find(|part| part.owner == self.home());
            self.own_fees += own.map_or(U256::ZERO, |part| part.fees);
        }
    }

    /// The result that was committed, once all shards know that it was.
    fn result(&self, group: GroupId) -> Option<&[PartMessage]> {
        let ledgers = || self.world.shards.iter().map(|shard| &shard.ledger);
        let digest = ledgers().find_map(|ledger| *ledger.history.ended.get(&group)?)?;
        let result = ledgers().find_map(|ledger| ledger.history.results.get(&(group, digest)))?;
        Some(result)
    }

    fn credits(&mut self, cut: u64) {
        let mut credits = Vec::new();
        for entry in &self.world.beacon.chain[cut as usize - 1].block.credits {
            let done = self.due.insert((entry.from, entry.to), entry.up_to).unwrap_or(0);
            let sent = &self.world.shard(entry.from).ledger.history.sent;
            credits.extend((done + 1..=entry.up_to).filter_map(|seq| sent.get(&(entry.to, seq))));
        }
        let amount = std::mem::take(&mut self.own_fees);
        if !amount.is_zero() {
            let (from, to) = (self.home(), self.home());
            let account = self.scenario.planner.coinbase;
            let kind = CreditKind::Fees;
            credits.push(Credit { from, to, seq: 1, account, payer: account, amount, kind });
        }
        for credit in std::mem::take(&mut self.undelivered).into_iter().chain(credits) {
            let [basic, code] = [StateKey::Basic(credit.account), StateKey::Code(credit.account)];
            let payment = matches!(credit.kind, CreditKind::Payment { .. });
            let code_may_change = payment && self.is_fenced(&code, cut);
            if payment && !code_may_change && self.state.contains_key(&code) {
                // It goes back, as a credit of its own.
            } else if code_may_change || self.is_fenced(&basic, cut) {
                self.undelivered.push(credit);
            } else {
                self.pay(&credit);
            }
        }
    }

    /// Whether a group that is open at a cut may write a key.
    fn is_fenced(&self, key: &StateKey, cut: u64) -> bool {
        self.open.values().any(|fences| fences.get(key).is_some_and(|fence| fence.since < cut))
    }

    fn pay(&mut self, credit: &Credit) {
        let key = StateKey::Basic(credit.account);
        let mut account = self.at(&key).basic();
        account.balance += credit.amount;
        self.state.insert(key, StateValue::Basic(account));
    }

    /// Credits that travel with the lease of a group: its account is written, and in flight.
    fn travel(&mut self, plan: &PlannedGroup, fences: &BTreeMap<StateKey, Fence>) -> Vec<Credit> {
        let round = plan.id.round;
        let undelivered = std::mem::take(&mut self.undelivered);
        let (travelling, rest) = undelivered.into_iter().partition(|credit: &Credit| {
            let [basic, code] = [StateKey::Basic(credit.account), StateKey::Code(credit.account)];
            let payment = matches!(credit.kind, CreditKind::Payment { .. });
            fences.get(&basic).is_some_and(|fence| !fence.late)
                && self.is_fenced(&basic, round)
                && !(payment && self.is_fenced(&code, round))
        });
        self.undelivered = rest;
        travelling
    }

    /// A group at its place in the order. `decided`: it is part of what is compared.
    fn group(&mut self, plan: &PlannedGroup, decided: bool) -> Result<(), Broken> {
        // Shards that have leased late are not in the plan.
        let shards = self.world.shards.iter();
        let fences = shards.filter_map(|shard| shard.ledger.history.fences.get(&plan.id));
        let fences: BTreeMap<StateKey, Fence> =
            fences.flatten().map(|(key, fence)| (*key, *fence)).collect();
        let travelling = self.travel(plan, &fences);
        self.open.insert(plan.id, fences);
        let commits = self.result(plan.id).is_some();
        if commits {
            travelling.iter().for_each(|credit| self.pay(credit));
        }
        self.travelling.insert(plan.id, travelling);
        if !decided {
            return Ok(());
        }
        let Some(result) = self.result(plan.id).map(<[_]>::to_vec) else { return Ok(()) };
        let parts = || result.iter().map(|message| &message.part);
        let receipts: HashMap<B256, &Receipt> =
            parts().flat_map(|part| &part.receipts).map(|r| (r.tx, r)).collect();
        let outcomes: HashMap<B256, &TxOutcome> =
            parts().flat_map(|part| &part.outcomes).map(|(tx, end)| (*tx, end)).collect();
        for tx in &plan.txs {
            let scenario = self.scenario;
            let (body, program) = &scenario.txs[scenario.number(&tx.hash)];
            let outcome = outcomes.get(&tx.hash);
            let run = || toy::run(body, program, scenario.fee, &|key| Some(self.at(key))).ran;
            let holds = match outcome {
                Some(TxOutcome::Executed) => {
                    let receipt = receipts.get(&tx.hash);
                    let receipt = receipt.ok_or_else(|| differs("no receipt".into()))?;
                    self.execute(body, receipt)?;
                    true
                }
                // It has no effect, and comes back.
                Some(TxOutcome::Wrong { .. }) => true,
                Some(TxOutcome::Behind) => run() == Ran::Behind,
                Some(TxOutcome::Invalid { .. }) => run() == Ran::Invalid,
                None => false,
            };
            if !holds {
                let number = scenario.number(&tx.hash);
                return Err(differs(format!("transaction {number} ended as {outcome:?}")));
            }
        }
        Ok(())
    }

    /// A shard's state at a cut, by the epochs of its writes alone.
    fn compare(&self, ledger: &Ledger, cut: u64) -> Result<(), Broken> {
        let id = ledger.owner.shard();
        let mine = |key: &StateKey| self.scenario.placement.owner_of(key) == id;
        let genesis = self.scenario.genesis.iter().filter(|(key, _)| mine(key));
        let mut state: State = genesis.copied().collect();
        let mut newest: BTreeMap<StateKey, u64> = BTreeMap::new();
        for write in ledger.history.writes.iter().filter(|write| write.epoch < cut) {
            let before = newest.insert(write.key, write.epoch).unwrap_or(0);
            if before > write.epoch {
                return Err(differs(format!("writes of {:?} come in another order", write.key)));
            }
            state.insert(write.key, write.value);
        }
        let keys: BTreeSet<&StateKey> =
            self.state.keys().filter(|key| mine(key)).chain(state.keys()).collect();
        for key in keys {
            let (one, many) = (self.at(key), state.get(key).copied().unwrap_or(key.absent()));
            if one != many {
                let detail =
                    format!("at cut {cut} shard {id} has {key:?} = {many:?}, one machine {one:?}");
                return Err(differs(detail));
            }
        }
        Ok(())
    }
}
