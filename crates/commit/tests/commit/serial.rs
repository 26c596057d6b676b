//! One machine that does, one after another, what the protocol's serial order says.

use std::collections::{BTreeMap, HashMap, HashSet};

use atoll_commit::BeaconRecord;
use atoll_types::{
    B256, Credit, CreditKind, GroupId, KeySet, LocalBlock, Part, Placement, PlannedGroup, Receipt,
    ReceiptKind, ShardId, StateKey, StateValue, Tx, TxOutcome, TxRef, U256, Verdict, Write,
};

use crate::{
    ledger::Input,
    shard::Shard,
    toy::{self, Cast, Ran},
    world::Seen,
};

type State = BTreeMap<StateKey, StateValue>;

struct Serial<'a> {
    placement: &'a Placement,
    state: State,
    keys: &'a HashMap<(u64, TxRef), KeySet>,
    bodies: HashMap<B256, Tx>,
    results: HashMap<GroupId, &'a [Part]>,
    commits: HashMap<GroupId, u64>,
    open: BTreeMap<GroupId, BTreeMap<StateKey, u64>>,
    /// What the owners together fenced for each group, and since which cut.
    fences: HashMap<GroupId, BTreeMap<StateKey, u64>>,
    undelivered: Vec<Credit>,
    /// Credits that travel with the lease of a group.
    travelling: HashMap<GroupId, Vec<Credit>>,
    /// Fees owed to the coinbase by its own shard.
    own_fees: U256,
    seen: Seen,
}

/// Compares every state at every cut, and every receipt.
pub fn check(
    (placement, cast, genesis): (&Placement, &Cast, &[Write]),
    chain: &[BeaconRecord],
    shards: &[Shard],
    keys: &HashMap<(u64, TxRef), KeySet>,
) -> Seen {
    let mut bodies = HashMap::new();
    let mut fences: HashMap<GroupId, BTreeMap<StateKey, u64>> = HashMap::new();
    for (group, keys) in shards.iter().flat_map(|shard| &shard.fences) {
        fences.entry(*group).or_default().extend(keys.iter().map(|(key, cut)| (*key, *cut)));
    }
    let mut results = HashMap::new();
    let mut blocks: Vec<Vec<&LocalBlock>> = vec![Vec::new(); chain.len() + 1];
    for shard in shards {
        for input in &shard.inputs {
            match input {
                Input::Share(shared) => {
                    bodies.insert(*shared.tx.hash(), shared.tx.clone());
                }
                Input::Block(block) => blocks[block.round as usize].push(block),
                Input::Result(group, parts) => {
                    results.entry(*group).or_insert(parts.as_slice());
                }
                _ => {}
            }
        }
    }
    let decisions =
        || chain.iter().flat_map(|record| record.block.decisions.iter().map(move |d| (d, record)));
    let commits = decisions()
        .filter(|(decision, _)| matches!(decision.verdict, Verdict::Commit { .. }))
        .map(|(decision, record)| (decision.group, record.block.number()))
        .collect();
    let mut serial = Serial {
        placement,
        state: genesis.iter().copied().collect(),
        keys,
        bodies,
        results,
        commits,
        open: BTreeMap::new(),
        fences,
        undelivered: Vec::new(),
        travelling: HashMap::new(),
        own_fees: U256::ZERO,
        seen: Seen::default(),
    };
    let mut shown: Vec<Shown> =
        shards.iter().map(|shard| Shown::new(shard, genesis, placement)).collect();
    let mut due: HashMap<(ShardId, ShardId), u64> = HashMap::new();
    let home = placement.owner(&cast.coinbase);
    for record in chain {
        let cut = record.block.number();
        for block in &blocks[cut as usize - 1] {
            block.txs.iter().for_each(|local| serial.local(&local.tx, &local.receipt));
            if block.shard == home {
                serial.own_fees += block.fees;
            }
        }
        for decision in &record.block.decisions {
            serial.open.remove(&decision.group);
            let travelled = serial.travelling.remove(&decision.group).unwrap_or_default();
            if !serial.commits.contains_key(&decision.group) {
                serial.undelivered.extend(travelled);
            }
            if serial.commits.contains_key(&decision.group) {
                let part = serial.results[&decision.group].iter().find(|part| part.owner == home);
                serial.own_fees += part.map_or(U256::ZERO, |part| part.fees);
            }
        }
        let mut credits = Vec::new();
        for entry in &record.block.credits {
            let done = due.insert((entry.from, entry.to), entry.up_to).unwrap_or(0);
            let sent = &shards[usize::from(entry.from.0)].sent;
            credits.extend((done + 1..=entry.up_to).map(|seq| sent[&(entry.to, seq)]));
        }
        let amount = std::mem::take(&mut serial.own_fees);
        if !amount.is_zero() {
            let (account, kind) = (cast.coinbase, CreditKind::Fees);
            credits.push(Credit {
                from: home,
                to: home,
                seq: 1,
                account,
                payer: account,
                amount,
                kind,
            });
        }
        serial.deposit(credits, cut);
        for shown in &mut shown {
            shown.advance(cut);
            let here = |key: &StateKey| placement.owner_of(key) == shown.id;
            let is_there = |(key, value): &(&StateKey, &StateValue)| **value != key.absent();
            let there = |state: &State| -> State {
                state.iter().filter(is_there).map(|(key, value)| (*key, *value)).collect()
            };
            let mut expected = there(&serial.state);
            expected.retain(|key, _| here(key));
            assert_eq!(
                there(&shown.state),
                expected,
                "serial-equivalence at cut {cut} of shard {}",
                shown.id
            );
        }
        for plan in &record.block.plan {
            serial.group(plan);
        }
    }
    serial.seen
}

impl Serial<'_> {
    fn at(&self, key: &StateKey) -> StateValue {
        self.state.get(key).copied().unwrap_or(key.absent())
    }

    fn local(&mut self, tx: &Tx, receipt: &Receipt) {
        if receipt.kind == ReceiptKind::Local {
            return self.execute(tx, receipt);
        }
        let (_, amount) = toy::payment(tx).unwrap();
        let key = StateKey::Basic(tx.sender());
        let left = toy::debit(tx, amount, self.at(&key).basic()).unwrap();
        self.state.insert(key, StateValue::Basic(left));
        self.seen.add("payments", 1);
    }

    fn execute(&mut self, tx: &Tx, receipt: &Receipt) {
        if receipt.executed.status {
            let run = toy::run(tx, &|key| Some(self.at(key)));
            assert_eq!(run.ran, Ran::Executed(receipt.executed.output.clone()), "{receipt:?}");
            self.state.extend(run.writes);
        } else {
            let key = StateKey::Basic(tx.sender());
            let left = toy::fail(tx, self.at(&key).basic()).unwrap();
            self.state.insert(key, StateValue::Basic(left));
            self.seen.add("included as failed", 1);
        }
    }

    /// Whether a group that is open at a cut may write a key.
    fn is_fenced(&self, key: &StateKey, cut: u64) -> bool {
        self.open.values().any(|fence| fence.get(key).is_some_and(|since| *since < cut))
    }

    fn deposit(&mut self, due: Vec<Credit>, cut: u64) {
        for credit in std::mem::take(&mut self.undelivered).into_iter().chain(due) {
            let [basic, code] = [StateKey::Basic(credit.account), StateKey::Code(credit.account)];
            let payment = matches!(credit.kind, CreditKind::Payment { .. });
            let code_may_change = payment && self.is_fenced(&code, cut);
            if payment && !code_may_change && self.state.contains_key(&code) {
                self.seen.add("payments sent back", 1);
            } else if code_may_change || self.is_fenced(&basic, cut) {
                self.undelivered.push(credit);
            } else {
                self.pay(&credit);
            }
        }
    }

    fn pay(&mut self, credit: &Credit) {
        let key = StateKey::Basic(credit.account);
        let mut account = self.at(&key).basic();
        account.balance += credit.amount;
        self.state.insert(key, StateValue::Basic(account));
    }

    fn group(&mut self, plan: &PlannedGroup) {
        let round = plan.id.round;
        let keys = |tx: &TxRef| &self.keys[&(round, *tx)];
        let writes = plan.txs.iter().flat_map(|tx| keys(tx).writes.iter().copied());
        let planned: HashSet<StateKey> = writes.collect();
        let fence = self.fences.remove(&plan.id).unwrap_or_default();
        if self.commits.contains_key(&plan.id) {
            let holds = planned.iter().all(|key| fence.contains_key(key));
            assert!(holds, "what commits was fenced by every owner");
        }
        for (other, theirs) in self.open.range(GroupId { round, index: 0 }..) {
            let shared = theirs.keys().find(|key| fence.contains_key(key));
            assert!(shared.is_none(), "{} and {other} may write {shared:?}", plan.id);
        }
        let travels = |credit: &mut Credit| {
            let [basic, code] = [StateKey::Basic(credit.account), StateKey::Code(credit.account)];
            let payment = matches!(credit.kind, CreditKind::Payment { .. });
            // A shard that was behind may have opened less of a group that is aborted.
            let leased = planned.contains(&basic) && fence.contains_key(&basic);
            leased && self.is_fenced(&basic, round) && !(payment && self.is_fenced(&code, round))
        };
        let mut undelivered = self.undelivered.clone();
        let travelling: Vec<Credit> = undelivered.extract_if(.., travels).collect();
        self.undelivered = undelivered;
        self.seen.add("credits that travelled", travelling.len() as u64);
        if self.commits.contains_key(&plan.id) {
            travelling.iter().for_each(|credit| self.pay(credit));
        }
        self.travelling.insert(plan.id, travelling);
        self.open.insert(plan.id, fence);
        let keys = |tx: &TxRef| &self.keys[&(round, *tx)];
        let owners: HashSet<ShardId> =
            plan.txs.iter().flat_map(|tx| keys(tx).owners(self.placement)).collect();
        assert_eq!(owners, plan.owners.iter().copied().collect());
        if !self.commits.contains_key(&plan.id) {
            return;
        }
        let parts = self.results[&plan.id];
        let receipts: HashMap<B256, &Receipt> =
            parts.iter().flat_map(|part| &part.receipts).map(|r| (r.tx, r)).collect();
        let outcomes: HashMap<B256, &TxOutcome> =
            parts.iter().flat_map(|part| &part.outcomes).map(|(tx, end)| (*tx, end)).collect();
        for tx in &plan.txs {
            let body = self.bodies[&tx.hash].clone();
            match outcomes[&tx.hash] {
                TxOutcome::Executed => {
                    self.seen.add("across shards", 1);
                    self.execute(&body, receipts[&tx.hash]);
                }
                TxOutcome::Wrong { .. } => self.seen.add("wrong", 1),
                TxOutcome::Behind => self.expect(&body, "behind", |ran| *ran == Ran::Behind),
                TxOutcome::Invalid { .. } => {
                    self.expect(&body, "invalid", |ran| matches!(ran, Ran::Invalid(_)));
                }
            }
        }
    }

    fn expect(&mut self, tx: &Tx, what: &'static str, holds: impl Fn(&Ran) -> bool) {
        let run = toy::run(tx, &|key| Some(self.at(key)));
        assert!(holds(&run.ran), "{what}: {:?}", run.ran);
        self.seen.add(what, 1);
    }
}

/// A shard's state at one cut after another, by the epochs of its writes alone.
struct Shown {
    id: ShardId,
    state: State,
    writes: Vec<(u64, StateKey, StateValue)>,
    next: usize,
}

impl Shown {
    fn new(shard: &Shard, genesis: &[Write], placement: &Placement) -> Self {
        let id = shard.id();
        let mut newest: HashMap<StateKey, u64> = HashMap::new();
        let mut writes = Vec::new();
        for write in &shard.ledger.writes {
            let before = newest.insert(write.key, write.epoch).unwrap_or(0);
            assert!(before <= write.epoch, "writes of a key come in the order of their epochs");
            writes.push((write.epoch, write.key, write.value));
        }
        writes.sort_by_key(|(epoch, ..)| *epoch);
        let mine = |(key, _): &&Write| placement.owner_of(key) == id;
        Self { id, state: genesis.iter().filter(mine).copied().collect(), writes, next: 0 }
    }

    fn advance(&mut self, cut: u64) {
        while let Some((epoch, key, value)) = self.writes.get(self.next)
            && *epoch < cut
        {
            self.state.insert(*key, *value);
            self.next += 1;
        }
    }
}
