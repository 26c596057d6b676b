//! Random programs: who does what, on which shards, in which weather.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    sync::LazyLock,
};

use alloy_consensus::{SignableTransaction, TxEip1559, TxEip2930, TxEip7702, TxEnvelope, TxLegacy};
use alloy_eips::{
    Encodable2718 as _,
    eip2930::{AccessList, AccessListItem},
    eip7702::{Authorization, SignedAuthorization},
};
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256, keccak256};
use alloy_signer::SignerSync as _;
use alloy_signer_local::PrivateKeySigner;
use atoll_commit::PlannerConfig;
use atoll_invariants::Violation;
use atoll_sim::{Account, Conditions, Config, World};
use atoll_types::{Basic, Placement, ShardId, StateKey, Tx};

use crate::{
    bytecode::{self, MAX_CONTRACTS, Step},
    counts::Counts,
    order,
};

pub const CHAIN: u64 = 7;
/// Accounts with keys; the last ones are only ever authorities and receivers.
pub const WALLETS: u8 = 10;
pub const SENDERS: u8 = 8;
/// The sender that has too little for most of what it wants.
const POOR: u8 = 7;
const RICH: u64 = 10_000_000_000_000_000_000;
const POOR_BALANCE: u64 = 110_000_000_000_000_000;
const BASE_FEE: u64 = 1_000_000_000;
const MAX_FEE: u128 = 100_000_000_000;
/// How many accounts are placed on chosen shards.
pub const PLACED: usize = WALLETS as usize + MAX_CONTRACTS as usize + 3;

static KEYS: LazyLock<Vec<PrivateKeySigner>> = LazyLock::new(|| {
    let key = |index: u8| PrivateKeySigner::from_bytes(&keccak256([index])).expect("a valid key");
    (0..WALLETS).map(key).collect()
});

/// Somebody whom a transaction or a contract is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Person {
    Wallet(u8),
    Contract(u8),
    Coinbase,
    /// An account without key; the second one is not there at first.
    Stranger(u8),
    Precompile(u8),
    /// What a wallet creates with its transaction of this nonce.
    Created {
        by: u8,
        nonce: u8,
    },
}

impl Person {
    pub fn address(self) -> Address {
        match self {
            Self::Wallet(index) => KEYS[usize::from(index % WALLETS)].address(),
            Self::Contract(index) => bytecode::contract(index),
            Self::Coinbase => Address::repeat_byte(0xcb),
            Self::Stranger(index) => Address::repeat_byte(0xe0 + index % 2),
            Self::Precompile(index) => Address::with_last_byte([1, 2, 4][usize::from(index % 3)]),
            Self::Created { by, nonce } => Self::Wallet(by).address().create(u64::from(nonce)),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    Wei(u8),
    /// A good part of what a rich sender has.
    Much,
}

impl Amount {
    fn wei(self) -> U256 {
        match self {
            Self::Wei(wei) => U256::from(wei),
            Self::Much => U256::from(RICH / 5 * 2),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delegation {
    pub authority: u8,
    /// `None` takes the delegation away.
    pub delegate: Option<Person>,
    /// How far its nonce is from what it seems to have to be.
    pub ahead: u8,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    Pay {
        to: Person,
        amount: Amount,
    },
    Call {
        to: Person,
        seed: u8,
        fuel: u8,
        amount: Amount,
    },
    /// The code of a generated contract once more.
    Deploy {
        code: u8,
        amount: Amount,
    },
    Delegate {
        list: Vec<Delegation>,
        to: Person,
        seed: u8,
        fuel: u8,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gas {
    /// Little more than what a payment takes.
    Tight,
    Some,
    Enough,
}

impl Gas {
    fn limit(self) -> u64 {
        match self {
            Self::Tight => 30_000,
            Self::Some => 120_000,
            Self::Enough => 900_000,
        }
    }
}

/// One transaction, and when it is submitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    pub from: u8,
    /// Ticks after the one before it.
    pub wait: u8,
    pub nonce: Nonce,
    pub envelope: Envelope,
    pub gas: Gas,
    /// In gwei.
    pub tip: u8,
    pub act: Act,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nonce {
    Next,
    /// Leaves a gap.
    Skip,
    /// Fills the oldest gap, if there is one.
    Fill,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Envelope {
    Fee,
    Legacy,
    /// With an access list that may have nothing to do with it.
    Access(Person),
    /// With a fee cap that the base fee may exceed.
    Capped,
}

/// A program and the world that runs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    pub shards: u16,
    pub seed: u64,
    /// Shards of the placed accounts.
    pub homes: Vec<u8>,
    pub coinbase: Person,
    pub weather: Weather,
    /// Ticks between beacon blocks.
    pub block_ticks: u8,
    pub contracts: Vec<Contract>,
    pub actions: Vec<Action>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contract {
    pub steps: Vec<Step>,
    /// Runs also when it is paid without input.
    pub eager: bool,
    pub slots: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    Fair,
    Rough,
    /// With crashes.
    Storm,
}

impl Weather {
    fn conditions(self) -> Conditions {
        match self {
            Self::Fair => Conditions { blind: 15, ..Conditions::GOOD },
            Self::Rough => Conditions {
                lost: 3,
                repeated: 10,
                late: 25,
                late_ticks: 5,
                idle: 20,
                stale: 20,
                blind: 10,
                forgetful: 100,
                ..Conditions::GOOD
            },
            Self::Storm => Conditions {
                lost: 15,
                repeated: 15,
                late: 35,
                late_ticks: 25,
                idle: 40,
                stale: 50,
                blind: 30,
                slow: 50,
                forgetful: 100,
                shard_crashes: 60,
                beacon_crashes: 60,
                ..Conditions::GOOD
            },
        }
    }
}

impl Contract {
    pub fn code(&self) -> Bytes {
        bytecode::runtime(&self.steps, self.eager)
    }

    fn account(&self) -> Account {
        let slots = self.slots.iter().zip(0u8..);
        let storage = slots.filter(|(word, _)| **word != 0);
        let storage = storage.map(|(word, slot)| (U256::from(slot), U256::from(*word)));
        let basic = Basic { nonce: 1, balance: U256::from(1_000) };
        Account { basic, code: self.code(), storage: storage.collect() }
    }
}

impl Case {
    pub fn config(&self) -> Config {
        let placed = (0..WALLETS).map(Person::Wallet);
        let placed = placed.chain((0..MAX_CONTRACTS).map(Person::Contract));
        let placed = placed.chain([Person::Coinbase, Person::Stranger(0), Person::Stranger(1)]);
        let homes = self.homes.iter().map(|home| ShardId(u16::from(*home) % self.shards));
        let exceptions = placed.map(Person::address).zip(homes).collect();
        let mut genesis = BTreeMap::new();
        for index in 0..WALLETS {
            let balance = U256::from(if index == POOR { POOR_BALANCE } else { RICH });
            let basic = Basic { nonce: 0, balance };
            let account = Account { basic, ..Account::default() };
            genesis.insert(Person::Wallet(index).address(), account);
        }
        let stranger =
            Account { basic: Basic { nonce: 0, balance: U256::from(5) }, ..Account::default() };
        genesis.insert(Person::Stranger(0).address(), stranger);
        for (contract, index) in self.contracts.iter().zip(0..MAX_CONTRACTS) {
            genesis.insert(bytecode::contract(index), contract.account());
        }
        let fair = self.weather == Weather::Fair;
        let planner = PlannerConfig {
            base_fee: BASE_FEE,
            target_gas_per_second: 1_000_000,
            gas_limit: 30_000_000,
            group_gas: 5_000_000,
            bundle_gas: [0, 600_000, 5_000_000][self.seed as usize % 3],
            round_txs: 24,
            abort_after: if fair { 40 } else { 8 + self.seed % 12 },
            max_lag: 20,
            max_chain: [1, 2, 4, 16][self.seed as usize % 4],
            ..PlannerConfig::new(CHAIN, self.shards, self.coinbase.address(), 1_000_000)
        };
        Config {
            seed: self.seed,
            placement: Placement::new(self.shards, exceptions),
            planner,
            genesis,
            valid_rounds: if fair { 100 } else { 40 },
            conditions: Conditions { block_ticks: self.block_ticks, ..self.weather.conditions() },
        }
    }

    /// Runs the program and compares it with one machine. An error says what is broken.
    pub fn run(&self) -> Result<Counts, String> {
        self.run_in(World::new(self.config()))
    }

    /// Runs the program in a world that was made for it.
    pub fn run_in(&self, world: World) -> Result<Counts, String> {
        let (mut world, txs) = self.play_in(world).map_err(|violation| violation.to_string())?;
        world.check().map_err(|violation| violation.to_string())?;
        let counts = order::compare(&world, &txs)?;
        // Where nothing is lost and nobody is slow, every group ends by a commit.
        match counts.0.get("aborts") {
            Some(aborts) if self.weather == Weather::Fair => {
                Err(format!("fence-ends: {aborts} groups were aborted in fair weather"))
            }
            _ => Ok(counts),
        }
    }

    /// Runs the program until everything has settled. Returns what was submitted, too.
    pub fn play(&self) -> Result<(World, HashMap<B256, Tx>), Violation> {
        self.play_in(World::new(self.config()))
    }

    fn play_in(&self, mut world: World) -> Result<(World, HashMap<B256, Tx>), Violation> {
        let mut script = Script { case: self, senders: Default::default(), txs: HashMap::new() };
        for action in &self.actions {
            for _ in 0..action.wait {
                world.tick()?;
            }
            script.submit(&mut world, action);
        }
        script.settle(&mut world)?;
        Ok((world, script.txs))
    }
}

/// The nonces that a sender has used.
#[derive(Default)]
struct Nonces {
    next: u64,
    skipped: Vec<u64>,
}

struct Script<'a> {
    case: &'a Case,
    senders: [Nonces; SENDERS as usize],
    txs: HashMap<B256, Tx>,
}

impl Script<'_> {
    fn submit(&mut self, world: &mut World, action: &Action) {
        let nonces = &mut self.senders[usize::from(action.from % SENDERS)];
        let nonce = match action.nonce {
            Nonce::Fill if !nonces.skipped.is_empty() => nonces.skipped.remove(0),
            Nonce::Skip => {
                nonces.skipped.push(nonces.next);
                nonces.next += 2;
                nonces.next - 1
            }
            Nonce::Next | Nonce::Fill => {
                nonces.next += 1;
                nonces.next - 1
            }
        };
        let tx = action.tx(nonce, self.case, world);
        if world.submit(tx.clone()) {
            self.txs.insert(*tx.hash(), tx);
        }
    }

    /// After a while everybody gets on with it, and all that was begun has to end.
    fn settle(&self, world: &mut World) -> Result<(), Violation> {
        if self.case.weather != Weather::Fair && world.settle(200).is_ok() {
            return Ok(());
        }
        world.set_conditions(Conditions::GOOD);
        world.settle(5_000)
    }
}

impl Action {
    fn tx(&self, nonce: u64, case: &Case, world: &World) -> Tx {
        let sender = Person::Wallet(self.from % SENDERS).address();
        let (to, value, input) = match &self.act {
            Act::Pay { to, amount } => (to.address().into(), amount.wei(), Bytes::new()),
            Act::Call { to, seed, fuel, amount } => {
                (to.address().into(), amount.wei(), bytecode::input(*seed, *fuel))
            }
            Act::Deploy { code, amount } => {
                let contract = &case.contracts[usize::from(*code) % case.contracts.len()];
                let code = bytecode::deployment(&contract.code());
                (TxKind::Create, amount.wei(), code)
            }
            Act::Delegate { list, to, seed, fuel } => {
                let list = list.iter().map(|one| one.sign(sender, world)).collect();
                let tx = TxEip7702 {
                    chain_id: CHAIN,
                    nonce,
                    gas_limit: self.gas.limit(),
                    max_fee_per_gas: MAX_FEE,
                    max_priority_fee_per_gas: self.tip(),
                    to: to.address(),
                    value: U256::ZERO,
                    access_list: AccessList::default(),
                    authorization_list: list,
                    input: bytecode::input(*seed, *fuel),
                };
                return signed(tx, sender);
            }
        };
        self.envelope(nonce, to, value, input, sender)
    }

    fn tip(&self) -> u128 {
        u128::from(self.tip) * 1_000_000_000
    }

    fn envelope(&self, nonce: u64, to: TxKind, value: U256, input: Bytes, sender: Address) -> Tx {
        let (chain_id, gas_limit) = (CHAIN, self.gas.limit());
        let gas_price = 2 * u128::from(BASE_FEE);
        match self.envelope {
            Envelope::Legacy => {
                let chain_id = Some(chain_id);
                signed(TxLegacy { chain_id, nonce, gas_price, gas_limit, to, value, input }, sender)
            }
            Envelope::Access(person) => {
                let address = person.address();
                let storage_keys = vec![B256::ZERO, B256::with_last_byte(1)];
                let access_list = AccessList(vec![AccessListItem { address, storage_keys }]);
                let tx = TxEip2930 {
                    chain_id,
                    nonce,
                    gas_price,
                    gas_limit,
                    to,
                    value,
                    access_list,
                    input,
                };
                signed(tx, sender)
            }
            Envelope::Fee | Envelope::Capped => {
                let capped = self.envelope == Envelope::Capped;
                let max_fee_per_gas = if capped { u128::from(BASE_FEE) } else { MAX_FEE };
                let tx = TxEip1559 {
                    chain_id,
                    nonce,
                    gas_limit,
                    max_fee_per_gas,
                    max_priority_fee_per_gas: self.tip().min(max_fee_per_gas),
                    to,
                    value,
                    access_list: AccessList::default(),
                    input,
                };
                signed(tx, sender)
            }
        }
    }
}

/// Nobody looks at the signature of a transaction that was taken in, but it tells those of different
/// senders apart.
fn signed<T>(tx: T, sender: Address) -> Tx
where
    T: SignableTransaction<Signature>,
    TxEnvelope: From<alloy_consensus::Signed<T>>,
{
    let signature = Signature::new(sender.into_word().into(), U256::ONE, false);
    let envelope = TxEnvelope::from(tx.into_signed(signature));
    Tx::trusted(envelope.encoded_2718().into(), sender, None)
        .expect("a transaction of a known type")
}

impl Delegation {
    fn sign(&self, sender: Address, world: &World) -> SignedAuthorization {
        let address = Person::Wallet(self.authority).address();
        let now = world.value(&StateKey::Basic(address)).basic().nonce;
        let nonce = now + u64::from(address == sender) + u64::from(self.ahead);
        let delegate = self.delegate.map_or(Address::ZERO, Person::address);
        authorize(self.authority % WALLETS, delegate, nonce)
    }
}

thread_local! {
    /// Signing takes long, and the same is signed again and again.
    static SIGNED: RefCell<HashMap<(u8, Address, u64), SignedAuthorization>> = RefCell::default();
}

fn authorize(authority: u8, address: Address, nonce: u64) -> SignedAuthorization {
    let sign = || {
        let authorization = Authorization { chain_id: U256::from(CHAIN), address, nonce };
        let hash = authorization.signature_hash();
        let key = &KEYS[usize::from(authority)];
        authorization.into_signed(key.sign_hash_sync(&hash).expect("a key in memory signs"))
    };
    SIGNED.with_borrow_mut(|signed| {
        signed.entry((authority, address, nonce)).or_insert_with(sign).clone()
    })
}
