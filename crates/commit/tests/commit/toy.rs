//! A toy transaction language: enough to conflict, to depend on order, and to mispredict.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use alloy_consensus::{SignableTransaction, TxEnvelope, TxLegacy};
use alloy_eips::Encodable2718;
use alloy_primitives::{Signature, TxKind, keccak256};
use atoll_commit::Ready;
use atoll_types::{
    Address, B256, Basic, Bytes, CodeRef, Executed, KeySet, Part, Placement, PlannedGroup, Receipt,
    ReceiptKind, ShardId, SharedTx, StateKey, StateValue, Tx, TxOutcome, U256, Write, decode,
    encode,
};

pub const CHAIN: u64 = 7;
/// Every transaction pays so much to the coinbase, and burns so much.
pub const FEE: u64 = 3;
pub const BURNED: u64 = 2;

/// Deterministic random numbers (SplitMix64).
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    pub fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }
}

/// What a transaction does.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Program {
    /// Slots that the outcome depends on.
    pub reads: Vec<(Address, u8)>,
    /// Slots that get a new value, made of the old one and all that was read.
    pub writes: Vec<(Address, u8)>,
    /// A slot whose value says which of these contracts is written.
    pub dynamic: Option<((Address, u8), Vec<Address>)>,
    pub transfer: Option<(Address, u64)>,
}

pub fn slot((address, index): (Address, u8)) -> StateKey {
    StateKey::Slot(address, 0, U256::from(index))
}

/// A transaction that carries a program.
pub fn transaction(sender: Address, nonce: u64, gas_limit: u64, program: &Program) -> Tx {
    let body = TxLegacy {
        chain_id: Some(CHAIN),
        nonce,
        gas_price: 1,
        gas_limit,
        to: TxKind::Call(sender),
        value: U256::ZERO,
        input: encode(&(sender, program)).into(),
    };
    let signature = Signature::new(U256::from(1), U256::from(1), false);
    let raw = TxEnvelope::from(body.into_signed(signature)).encoded_2718();
    Tx::trusted(raw.into(), sender, None).unwrap()
}

pub fn program(tx: &Tx) -> Program {
    let alloy_consensus::TxEnvelope::Legacy(signed) = tx.envelope() else { panic!("not a toy") };
    decode::<(Address, Program)>(&signed.tx().input).unwrap().1
}

/// A payment and nothing else.
pub fn payment(tx: &Tx) -> Option<(Address, u64)> {
    let Program { reads, writes, dynamic, transfer } = program(tx);
    let plain = reads.is_empty() && writes.is_empty() && dynamic.is_none();
    transfer.filter(|_| plain)
}

#[derive(Clone, Debug, PartialEq)]
pub enum Ran {
    Executed(Bytes),
    Invalid(String),
    Behind,
}

/// What a run did.
pub struct Run {
    pub ran: Ran,
    pub used: KeySet,
    pub missing: BTreeSet<StateKey>,
    pub writes: BTreeMap<StateKey, StateValue>,
}

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

    fn mix(&mut self, at: (Address, u8), seed: U256) -> U256 {
        let key = slot(at);
        let old = self.get(key).slot();
        let new = U256::from_be_bytes(keccak256(encode(&(old, seed))).0);
        self.writes.insert(key, StateValue::Slot(new));
        old
    }

    fn end(self, ran: Ran) -> Run {
        let used = KeySet::new(self.reads, self.writes.keys().copied());
        let writes = if matches!(ran, Ran::Executed(_)) { self.writes } else { BTreeMap::new() };
        Run { ran, used, missing: self.missing, writes }
    }
}

/// Runs a transaction on a view; `None` is a key that is not at hand, and is taken to be absent.
pub fn run(tx: &Tx, view: &dyn Fn(&StateKey) -> Option<StateValue>) -> Run {
    let Program { reads, writes, dynamic, transfer } = program(tx);
    let mut machine =
        Machine { view, reads: BTreeSet::new(), writes: BTreeMap::new(), missing: BTreeSet::new() };
    let sender = StateKey::Basic(tx.sender());
    let mut account = machine.get(sender).basic();
    let amount = transfer.map_or(0, |(_, amount)| amount);
    let cost = U256::from(amount + FEE + BURNED);
    if machine.missing.is_empty() {
        if account.nonce < tx.nonce() {
            return machine.end(Ran::Behind);
        }
        if account.nonce > tx.nonce() || account.balance < cost {
            return machine.end(Ran::Invalid("nonce or funds".into()));
        }
    }
    account.nonce += 1;
    account.balance = account.balance.saturating_sub(cost);
    machine.writes.insert(sender, StateValue::Basic(account));
    let mut seed = U256::from_be_bytes(tx.hash().0);
    for at in reads {
        seed = seed.wrapping_mul(U256::from(31)).wrapping_add(machine.get(slot(at)).slot());
    }
    for at in writes {
        seed = seed.wrapping_add(machine.mix(at, seed));
    }
    if let Some((at, targets)) = dynamic {
        let value = machine.mix(at, seed);
        let target = targets[(value % U256::from(targets.len())).to::<usize>()];
        seed = seed.wrapping_add(machine.mix((target, 200), value));
    }
    if let Some((to, amount)) = transfer {
        machine.get(StateKey::Code(to));
        let key = StateKey::Basic(to);
        let mut account = machine.get(key).basic();
        account.balance += U256::from(amount);
        machine.writes.insert(key, StateValue::Basic(account));
    }
    machine.end(Ran::Executed(seed.to_be_bytes_vec().into()))
}

/// What is charged for a transaction whose prediction was wrong too often.
pub fn fail(tx: &Tx, account: Basic) -> Result<Basic, TxOutcome> {
    let cost = U256::from(FEE + BURNED);
    if account.nonce < tx.nonce() {
        return Err(TxOutcome::Behind);
    }
    if account.nonce > tx.nonce() || account.balance < cost {
        return Err(TxOutcome::Invalid { reason: "nonce or funds".into() });
    }
    Ok(Basic { nonce: account.nonce + 1, balance: account.balance - cost })
}

/// Takes a payment from its sender.
pub fn debit(tx: &Tx, amount: u64, account: Basic) -> Option<Basic> {
    let cost = U256::from(amount + FEE + BURNED);
    (account.nonce == tx.nonce() && account.balance >= cost)
        .then(|| Basic { nonce: account.nonce + 1, balance: account.balance - cost })
}

pub fn receipt(tx: &Tx, kind: ReceiptKind, round: u64, output: Option<Bytes>) -> Receipt {
    let executed = Executed {
        status: output.is_some(),
        gas_used: 1,
        effective_gas_price: 1,
        logs: Vec::new(),
        contract: None,
        output: output.unwrap_or_default(),
    };
    let sender = tx.sender();
    Receipt {
        tx: *tx.hash(),
        sender,
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

/// Runs a group on its leased values: every owner's part, ascending; or what it has to be leased
/// late.
pub fn run_group(placement: &Placement, ready: &Ready) -> Result<Vec<Part>, KeySet> {
    let Ready { group: plan, txs, values, late, .. } = ready;
    let leased: HashMap<StateKey, StateValue> = values.iter().copied().collect();
    let writable = txs.iter().flat_map(|tx| &tx.keys.writes).chain(&late.writes);
    let writable: BTreeSet<StateKey> = writable.copied().collect();
    let owners = plan.owners.iter().copied().chain(writable.iter().map(|k| placement.owner_of(k)));
    let mut parts: BTreeMap<ShardId, Part> =
        owners.map(|owner| (owner, empty_part(plan, owner))).collect();
    let mut state: BTreeMap<StateKey, StateValue> = BTreeMap::new();
    let mut lacking = KeySet::default();
    for shared in txs {
        let at = |key: &StateKey| state.get(key).or_else(|| leased.get(key)).copied();
        let Run { ran, used, missing, writes } = run(&shared.tx, &at);
        let unfenced = used.writes.iter().filter(|key| !writable.contains(key)).copied();
        let beyond = KeySet::new(missing, unfenced);
        let is_late = beyond.all().next().is_some();
        if is_late && !beyond.all().any(|key| late.refused.contains(key)) {
            lacking = lacking.union(&beyond);
            continue;
        }
        let Some(part) = parts.get_mut(&shared.origin) else { continue };
        let mut include = |output: Option<Bytes>| {
            part.fees += U256::from(FEE);
            part.burned += U256::from(BURNED);
            let kind = ReceiptKind::Group(plan.id);
            part.receipts.push(receipt(&shared.tx, kind, plan.id.round, output));
            TxOutcome::Executed
        };
        let outcome = if beyond.all().next().is_none() {
            match ran {
                Ran::Executed(output) => {
                    state.extend(writes);
                    include(Some(output))
                }
                Ran::Invalid(reason) => TxOutcome::Invalid { reason },
                Ran::Behind => TxOutcome::Behind,
            }
        } else if shared.wrong + 1 < SharedTx::MAX_WRONG {
            TxOutcome::Wrong { missing: beyond }
        } else {
            let sender = StateKey::Basic(shared.tx.sender());
            match fail(&shared.tx, at(&sender).unwrap_or(sender.absent()).basic()) {
                Ok(account) => {
                    state.insert(sender, StateValue::Basic(account));
                    include(None)
                }
                Err(outcome) => outcome,
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
        parts.get_mut(&placement.owner_of(&key)).unwrap().writes.push((key, *value));
    }
    Ok(parts.into_values().collect())
}

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

/// An address of a shard.
pub fn address_on(placement: &Placement, shard: ShardId, name: u64) -> Address {
    let at = |salt: u64| Address::from_word(keccak256(encode(&(name, salt))));
    (0..).map(at).find(|address| placement.owner(address) == shard).unwrap()
}

/// Accounts, some of them contracts, on every shard.
pub struct Cast {
    pub senders: Vec<Address>,
    pub contracts: Vec<Address>,
    pub coinbase: Address,
}

pub const BALANCE: u64 = 1_000_000;

impl Cast {
    pub fn new(placement: &Placement, senders: u64, contracts: u64) -> Self {
        let on = |base: u64, count: u64| {
            placement
                .all()
                .flat_map(|shard| (0..count).map(move |n| (shard, n)))
                .map(|(shard, n)| address_on(placement, shard, base + n))
                .collect()
        };
        let coinbase = address_on(placement, ShardId(0), 999);
        Self { senders: on(0, senders), contracts: on(500, contracts), coinbase }
    }

    pub fn genesis(&self) -> Vec<Write> {
        let funded = |address: &Address| {
            let basic = Basic { nonce: 0, balance: U256::from(BALANCE) };
            (StateKey::Basic(*address), StateValue::Basic(basic))
        };
        let code = |address: &Address| {
            let code = CodeRef { hash: B256::repeat_byte(1), incarnation: 0 };
            (StateKey::Code(*address), StateValue::Code(code))
        };
        self.senders.iter().map(funded).chain(self.contracts.iter().map(code)).collect()
    }
}
