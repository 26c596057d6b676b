//! A toy transaction language on numbers: enough to conflict, to depend on order, and to end in
//! more than one way.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use alloy_consensus::{SignableTransaction, TxEnvelope, TxLegacy};
use alloy_eips::Encodable2718;
use alloy_primitives::{Signature, TxKind};
use atoll_commit::Ready;
use atoll_types::{
    Address, B256, Basic, Executed, KeySet, Part, Placement, PlannedGroup, Receipt, ReceiptKind,
    ShardId, SharedTx, StateKey, StateValue, Tx, TxOutcome, U256,
};
use serde::Serialize;

/// Chain id of every world.
pub const CHAIN: u64 = 7;

/// A storage slot: the contract and the slot's number.
pub type Cell = (Address, u8);

/// What a transaction does.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Program {
    /// Slots that the outcome depends on.
    pub reads: Vec<Cell>,
    /// Slots that get a new value, made of the old one and of all that was read.
    pub writes: Vec<Cell>,
    /// A slot, and two more: if the first one is zero the second one is written, if not the third.
    pub choice: Option<(Cell, Cell, Cell)>,
    /// A slot, and another one that is read unless the first one is zero.
    pub peek: Option<(Cell, Cell)>,
    pub transfer: Option<(Address, u64)>,
    /// Each run may end in one of two ways: with its effects, or as a wrong prediction. It stands
    /// for whatever makes two runs of one group differ.
    pub unsure: bool,
}

impl Program {
    /// The receiver and the amount, if it pays and does nothing else.
    pub fn payment(&self) -> Option<(Address, u64)> {
        let plain = self.reads.is_empty() && self.writes.is_empty() && self.choice.is_none();
        let plain = plain && self.peek.is_none();
        self.transfer.filter(|_| plain)
    }
}

/// The state key of a slot.
pub fn slot((address, index): Cell) -> StateKey {
    StateKey::Slot(address, 0, U256::from(index))
}

/// A transaction that no other is like. What it does is looked up by its hash.
pub fn transaction(sender: Address, nonce: u64, gas_limit: u64) -> Tx {
    let body = TxLegacy {
        chain_id: Some(CHAIN),
        nonce,
        gas_price: 1,
        gas_limit,
        to: TxKind::Call(sender),
        value: U256::ZERO,
        input: Default::default(),
    };
    let signature = Signature::new(U256::from(1), U256::from(1), false);
    let raw = TxEnvelope::from(body.into_signed(signature)).encoded_2718();
    // What was just encoded decodes.
    Tx::trusted(raw.into(), sender, None).expect("a legacy transaction")
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ran {
    /// With this output.
    Executed(u64),
    Invalid,
    Behind,
}

/// What a run did.
pub struct Run {
    pub ran: Ran,
    pub used: KeySet,
    /// Keys that it asked for and that were not at hand.
    pub missing: BTreeSet<StateKey>,
    /// Empty unless it was executed.
    pub writes: BTreeMap<StateKey, StateValue>,
}

/// The values a machine starts with, and what it did to them.
struct Machine<'a> {
    view: &'a dyn Fn(&StateKey) -> Option<StateValue>,
    reads: BTreeSet<StateKey>,
    writes: BTreeMap<StateKey, StateValue>,
    missing: BTreeSet<StateKey>,
}

impl Machine<'_> {
    fn get(&mut self, key: StateKey) -> StateValue {
        self.reads.insert(key);
        if let Some(value) = self.writes.get(&key) {
            return *value;
        }
        (self.view)(&key).unwrap_or_else(|| {
            self.missing.insert(key);
            key.absent()
        })
    }

    fn word(&mut self, at: Cell) -> u64 {
        self.get(slot(at)).slot().as_limbs()[0]
    }

    fn end(self, ran: Ran) -> Run {
        let used = KeySet::new(self.reads, self.writes.keys().copied());
        let writes = if matches!(ran, Ran::Executed(_)) { self.writes } else { BTreeMap::new() };
        Run { ran, used, missing: self.missing, writes }
    }
}

/// Runs a transaction on a view; `None` is a key that is not at hand, and is taken to be absent.
pub fn run(
    tx: &Tx,
    program: &Program,
    fee: u64,
    view: &dyn Fn(&StateKey) -> Option<StateValue>,
) -> Run {
    let mut machine =
        Machine { view, reads: BTreeSet::new(), writes: BTreeMap::new(), missing: BTreeSet::new() };
    let sender = StateKey::Basic(tx.sender());
    let mut account = machine.get(sender).basic();
    let cost = U256::from(program.transfer.map_or(0, |(_, amount)| amount) + fee);
    if machine.missing.is_empty() {
        if account.nonce < tx.nonce() {
            return machine.end(Ran::Behind);
        }
        if account.nonce > tx.nonce() || account.balance < cost {
            return machine.end(Ran::Invalid);
        }
    }
    account.nonce += 1;
    account.balance = account.balance.saturating_sub(cost);
    machine.writes.insert(sender, StateValue::Basic(account));
    // Order has to matter: neither reads nor writes commute.
    let mut seed = u64::from(tx.hash()[0]) + 1;
    for at in &program.reads {
        seed = seed.wrapping_mul(31).wrapping_add(machine.word(*at));
    }
    if let Some((at, other)) = program.peek
        && machine.word(at) != 0
    {
        seed = seed.wrapping_mul(31).wrapping_add(machine.word(other));
    }
    let chosen =
        program.choice.map(|(at, zero, other)| if machine.word(at) == 0 { zero } else { other });
    for at in program.writes.iter().chain(&chosen) {
        seed = seed.wrapping_mul(31).wrapping_add(machine.word(*at)).wrapping_add(1);
        machine.writes.insert(slot(*at), StateValue::Slot(U256::from(seed)));
    }
    if let Some((to, amount)) = program.transfer {
        machine.get(StateKey::Code(to));
        let key = StateKey::Basic(to);
        let mut account = machine.get(key).basic();
        account.balance += U256::from(amount);
        machine.writes.insert(key, StateValue::Basic(account));
    }
    machine.end(Ran::Executed(seed))
}

/// Takes a payment from its sender, if it can pay.
pub fn debit(tx: &Tx, cost: u64, account: Basic) -> Option<Basic> {
    let cost = U256::from(cost);
    (account.nonce == tx.nonce() && account.balance >= cost)
        .then(|| Basic { nonce: account.nonce + 1, balance: account.balance - cost })
}

/// A receipt; without output, a failed one.
pub fn receipt(tx: &Tx, kind: ReceiptKind, round: u64, output: Option<u64>) -> Receipt {
    let executed = Executed {
        status: output.is_some(),
        gas_used: 1,
        effective_gas_price: 1,
        logs: Vec::new(),
        contract: None,
        output: output.unwrap_or_default().to_be_bytes().into(),
    };
    Receipt {
        tx: *tx.hash(),
        sender: tx.sender(),
        nonce: tx.nonce(),
        to: None,
        executed,
        kind,
        shards: Vec::new(),
        round,
        index: 0,
        block: 0,
    }
}

/// How a group is run.
pub struct Rules<'a> {
    pub placement: &'a Placement,
    /// What transactions do.
    pub program: &'a dyn Fn(&B256) -> &'a Program,
    /// Fee of each transaction.
    pub fee: u64,
    /// Whether unsure transactions take effect.
    pub sure: bool,
}

/// Runs a group: every owner's part, ascending, each with every key that the group has fenced there;
/// or the keys that it has to be leased late.
pub fn run_group(rules: &Rules<'_>, ready: &Ready) -> Result<Vec<Part>, KeySet> {
    let Ready { group: plan, txs, values, late, .. } = ready;
    let leased: HashMap<StateKey, StateValue> = values.iter().copied().collect();
    let writable = txs.iter().flat_map(|tx| &tx.keys.writes).chain(&late.writes);
    let writable: BTreeSet<StateKey> = writable.copied().collect();
    let more = writable.iter().map(|key| rules.placement.owner_of(key));
    let owners = plan.owners.iter().copied().chain(more);
    let mut parts: BTreeMap<ShardId, Part> =
        owners.map(|owner| (owner, empty_part(plan, owner))).collect();
    let mut state: BTreeMap<StateKey, StateValue> = BTreeMap::new();
    let mut lacking = KeySet::default();
    for shared in txs {
        let program = (rules.program)(shared.tx.hash());
        let view = |key: &StateKey| state.get(key).or_else(|| leased.get(key)).copied();
        let Run { ran, used, missing, writes } = run(&shared.tx, program, rules.fee, &view);
        let unfenced = used.writes.iter().filter(|key| !writable.contains(key)).copied();
        let beyond = KeySet::new(missing, unfenced);
        let is_late = beyond.all().next().is_some();
        if is_late && !beyond.all().any(|key| late.refused.contains(key)) {
            lacking = lacking.union(&beyond);
            continue;
        }
        let Some(part) = parts.get_mut(&shared.origin) else { continue };
        let wrong = is_late || (program.unsure && !rules.sure);
        let mut include = |output: Option<u64>| {
            part.fees += U256::from(rules.fee);
            let kind = ReceiptKind::Group(plan.id);
            part.receipts.push(receipt(&shared.tx, kind, plan.id.round, output));
            TxOutcome::Executed
        };
        let outcome = match ran {
            _ if wrong && shared.wrong + 1 >= SharedTx::MAX_WRONG => {
                let sender = StateKey::Basic(shared.tx.sender());
                let account = view(&sender).unwrap_or(sender.absent()).basic();
                match debit(&shared.tx, rules.fee, account) {
                    Some(account) => {
                        state.insert(sender, StateValue::Basic(account));
                        include(None)
                    }
                    None => TxOutcome::Behind,
                }
            }
            _ if wrong => TxOutcome::Wrong { missing: beyond },
            Ran::Invalid => TxOutcome::Invalid { reason: "nonce or funds".into() },
            Ran::Behind => TxOutcome::Behind,
            Ran::Executed(output) => {
                state.extend(writes);
                include(Some(output))
            }
        };
        part.outcomes.push((*shared.tx.hash(), outcome));
    }
    if lacking.all().next().is_some() {
        return Err(lacking);
    }
    for key in writable {
        // An owner that was behind has leased less: the group is going to be aborted.
        let Some(value) = state.get(&key).or_else(|| leased.get(&key)) else { continue };
        if let Some(part) = parts.get_mut(&rules.placement.owner_of(&key)) {
            part.writes.push((key, *value));
        }
    }
    Ok(parts.into_values().collect())
}

/// A part in which nothing happens.
pub fn empty_part(plan: &PlannedGroup, owner: ShardId) -> Part {
    Part {
        chain_id: CHAIN,
        epoch: 0,
        group: plan.id,
        executor: plan.executor,
        owner,
        writes: Vec::new(),
        codes: Vec::new(),
        receipts: Vec::new(),
        outcomes: Vec::new(),
        fees: U256::ZERO,
        burned: U256::ZERO,
        sources: Vec::new(),
    }
}

/// The output in a receipt made by [`receipt`].
pub fn output(receipt: &Receipt) -> u64 {
    receipt.executed.output.as_ref().try_into().map_or(0, u64::from_be_bytes)
}

/// First bytes of a hash: enough to tell it from others in a trace.
pub fn short(hash: &B256) -> String {
    format!("{:02x}{:02x}", hash[0], hash[1])
}
