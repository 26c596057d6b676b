//! A world that exists twice: as keys for the executor, and in plain revm's database.
#![allow(dead_code)]

pub mod programs;

use std::collections::BTreeSet;

use alloy_consensus::{SignableTransaction, TxEip1559, TxEip2930, TxEip7702, TxLegacy};
use alloy_eips::{
    Encodable2718,
    eip2930::AccessList,
    eip7702::{Authorization, SignedAuthorization},
};
use alloy_primitives::{
    Address, B256, Bytes, Signature, TxKind, U256, address, hex, keccak256, map::HashMap,
};
use alloy_signer::SignerSync;
use alloy_signer_local::PrivateKeySigner;
use atoll_evm::{
    Bytecode, Effects, Empty, Executor, OnMissing, Outcome, Overlay, Rules, Run, StateView,
};
use atoll_types::{Basic, BlockEnv, CodeRef, StateKey, StateValue, Tx};
use revm::{
    Context, Database, DatabaseCommit, ExecuteEvm, MainBuilder, MainContext,
    context::{
        TxEnv,
        either::Either,
        result::{EVMError, ExecutionResult, InvalidTransaction},
    },
    database::{AccountState, CacheDB, EmptyDB},
    state::AccountInfo,
};

pub const CHAIN: u64 = 4217;
pub const BASE_FEE: u64 = 1_000_000_000;
pub const COINBASE: Address = address!("0xc01bc01bc01bc01bc01bc01bc01bc01bc01bc01b");
/// More than any test spends.
pub const RICH: U256 = U256::from_limbs([0, 1 << 20, 0, 0]);

pub type OracleResult = Result<ExecutionResult, EVMError<std::convert::Infallible>>;

pub fn env() -> BlockEnv {
    BlockEnv {
        chain_id: CHAIN,
        number: 1234,
        timestamp: 1_800_000_000,
        randomness: B256::repeat_byte(0x5a),
        base_fee: BASE_FEE,
        coinbase: COINBASE,
        gas_limit: 60_000_000,
    }
}

pub fn account(number: u8) -> Address {
    Address::left_padding_from(&[0xaa, number, 0, 0, 0, 0, 0, number])
}

pub fn signer(number: u8) -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&B256::repeat_byte(number)).expect("a key")
}

/// What a test says of a transaction; the rest is the same for all.
#[derive(Clone, Debug)]
pub struct Plan {
    pub from: Address,
    pub to: Option<Address>,
    pub nonce: u64,
    pub gas: u64,
    pub value: U256,
    pub input: Bytes,
    pub kind: Kind,
    /// Above the base fee, in wei.
    pub tip: u128,
    pub access_list: AccessList,
    pub authorizations: Vec<SignedAuthorization>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Legacy,
    Access,
    Fee,
    Authorize,
}

impl Plan {
    pub fn new(from: Address, to: impl Into<Option<Address>>, nonce: u64) -> Self {
        Self {
            from,
            to: to.into(),
            nonce,
            gas: 1_000_000,
            value: U256::ZERO,
            input: Bytes::new(),
            kind: Kind::Fee,
            tip: 3,
            access_list: AccessList::default(),
            authorizations: Vec::new(),
        }
    }

    pub fn value(mut self, value: u64) -> Self {
        self.value = U256::from(value);
        self
    }

    pub fn input(mut self, input: impl Into<Bytes>) -> Self {
        self.input = input.into();
        self
    }

    pub fn gas(mut self, gas: u64) -> Self {
        self.gas = gas;
        self
    }

    pub fn kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    fn price(&self) -> u128 {
        u128::from(BASE_FEE) + self.tip
    }

    /// The transaction, with a signature that nobody checks: its sender is taken on trust.
    pub fn tx(&self) -> Tx {
        let kind = self.to.map_or(TxKind::Create, TxKind::Call);
        let raw = match self.kind {
            Kind::Legacy => seal(TxLegacy {
                chain_id: Some(CHAIN),
                nonce: self.nonce,
                gas_price: self.price(),
                gas_limit: self.gas,
                to: kind,
                value: self.value,
                input: self.input.clone(),
            }),
            Kind::Access => seal(TxEip2930 {
                chain_id: CHAIN,
                nonce: self.nonce,
                gas_price: self.price(),
                gas_limit: self.gas,
                to: kind,
                value: self.value,
                access_list: self.access_list.clone(),
                input: self.input.clone(),
            }),
            Kind::Fee => seal(TxEip1559 {
                chain_id: CHAIN,
                nonce: self.nonce,
                gas_limit: self.gas,
                max_fee_per_gas: 2 * self.price(),
                max_priority_fee_per_gas: self.tip,
                to: kind,
                value: self.value,
                access_list: self.access_list.clone(),
                input: self.input.clone(),
            }),
            Kind::Authorize => seal(TxEip7702 {
                chain_id: CHAIN,
                nonce: self.nonce,
                gas_limit: self.gas,
                max_fee_per_gas: 2 * self.price(),
                max_priority_fee_per_gas: self.tip,
                to: self.to.unwrap_or_default(),
                value: self.value,
                access_list: self.access_list.clone(),
                authorization_list: self.authorizations.clone(),
                input: self.input.clone(),
            }),
        };
        Tx::trusted(raw, self.from, None).expect("a transaction")
    }

    /// The same for plain revm, put together without the crate's own conversion.
    pub fn oracle(&self) -> TxEnv {
        let priced = matches!(self.kind, Kind::Fee | Kind::Authorize);
        let authorized = self.kind == Kind::Authorize;
        let authorizations = if authorized { &self.authorizations[..] } else { &[] };
        TxEnv {
            tx_type: match self.kind {
                Kind::Legacy => 0,
                Kind::Access => 1,
                Kind::Fee => 2,
                Kind::Authorize => 4,
            },
            caller: self.from,
            gas_limit: self.gas,
            gas_price: if priced { 2 * self.price() } else { self.price() },
            kind: self.to.map_or(TxKind::Create, TxKind::Call),
            value: self.value,
            data: self.input.clone(),
            nonce: self.nonce,
            chain_id: Some(CHAIN),
            access_list: match self.kind {
                Kind::Legacy => AccessList::default(),
                _ => self.access_list.clone(),
            },
            gas_priority_fee: priced.then_some(self.tip),
            blob_hashes: Vec::new(),
            max_fee_per_blob_gas: 0,
            authorization_list: authorizations.iter().cloned().map(Either::Left).collect(),
        }
    }
}

fn seal<T: SignableTransaction<Signature>>(tx: T) -> Bytes
where
    alloy_consensus::TxEnvelope: From<alloy_consensus::Signed<T>>,
{
    let signed = tx.into_signed(Signature::test_signature());
    alloy_consensus::TxEnvelope::from(signed).encoded_2718().into()
}

pub fn authorize(
    key: &PrivateKeySigner,
    to: Address,
    nonce: u64,
    chain: u64,
) -> SignedAuthorization {
    let authorization = Authorization { chain_id: U256::from(chain), address: to, nonce };
    let hash = authorization.signature_hash();
    authorization.into_signed(key.sign_hash_sync(&hash).expect("a signature"))
}

/// Call data: selector and words.
pub fn abi(signature: &str, words: &[U256]) -> Bytes {
    let mut data = keccak256(signature)[..4].to_vec();
    for word in words {
        data.extend(word.to_be_bytes::<32>());
    }
    data.into()
}

pub fn word(address: Address) -> U256 {
    U256::from_be_slice(address.as_slice())
}

/// A field of a contract's artefact, `bytecode` or `deployedBytecode`.
pub fn artifact(name: &str, field: &str) -> Vec<u8> {
    let root = env!("CARGO_MANIFEST_DIR");
    let path = format!("{root}/../../contracts/artifacts/{name}.json");
    let text = std::fs::read_to_string(path).expect("an artefact");
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    hex::decode(json[field].as_str().expect("code")).expect("hex")
}

/// Slot of `mapping(address => uint256)` number `index`.
pub fn mapping(index: u64, address: Address) -> U256 {
    let mut data = [0; 64];
    data[12..32].copy_from_slice(address.as_slice());
    data[32..].copy_from_slice(&U256::from(index).to_be_bytes::<32>());
    U256::from_be_bytes(keccak256(data).0)
}

/// Some keys of a view, and all of its code.
pub struct Only<'a> {
    pub base: &'a dyn StateView,
    pub keys: BTreeSet<StateKey>,
    pub codes: bool,
}

impl<'a> Only<'a> {
    pub fn new(base: &'a dyn StateView, keys: impl IntoIterator<Item = StateKey>) -> Self {
        Self { base, keys: keys.into_iter().collect(), codes: true }
    }
}

impl StateView for Only<'_> {
    fn read(&self, key: &StateKey) -> Option<StateValue> {
        self.keys.contains(key).then(|| self.base.read(key))?
    }

    fn code(&self, hash: &B256) -> Option<Bytecode> {
        self.codes.then(|| self.base.code(hash))?
    }
}

pub struct World {
    pub env: BlockEnv,
    pub rules: Rules,
    pub state: Overlay<'static, Empty>,
    pub oracle: CacheDB<EmptyDB>,
    pub executor: Executor,
    /// Owed to the coinbase.
    pub fees: U256,
    pub burned: U256,
    /// All balances at the start.
    pub supply: U256,
}

impl World {
    pub fn new() -> Self {
        Self::under(Rules::default())
    }

    pub fn under(rules: Rules) -> Self {
        Self {
            env: env(),
            rules,
            state: Overlay::new(&Empty),
            oracle: CacheDB::new(EmptyDB::new()),
            executor: Executor::with_rules(&env(), rules),
            fees: U256::ZERO,
            burned: U256::ZERO,
            supply: U256::ZERO,
        }
    }

    pub fn put(&mut self, address: Address, nonce: u64, balance: U256, code: &[u8]) {
        let raw = Bytes::copy_from_slice(code);
        let hash = self.state.insert_code(raw.clone());
        let basic = Basic { nonce, balance };
        let code = CodeRef { hash, incarnation: 0 };
        self.state.set(StateKey::Basic(address), StateValue::Basic(basic));
        self.state.set(StateKey::Code(address), StateValue::Code(code));
        let info = AccountInfo::new(balance, nonce, hash, atoll_evm::bytecode(raw));
        self.oracle.insert_account_info(address, info);
        self.supply += balance;
    }

    pub fn store(&mut self, address: Address, slot: U256, word: U256) {
        self.state.set(StateKey::Slot(address, 0, slot), StateValue::Slot(word));
        self.oracle.insert_account_storage(address, slot, word).expect("no error");
    }

    pub fn nonce(&self, address: Address) -> u64 {
        self.basic(address).nonce
    }

    pub fn basic(&self, address: Address) -> Basic {
        let value = self.state.read(&StateKey::Basic(address));
        value.expect("a state in memory has every key").basic()
    }

    pub fn slot(&self, address: Address, slot: U256) -> U256 {
        let code = self.state.read(&StateKey::Code(address)).expect("a key").code();
        let value = self.state.read(&StateKey::Slot(address, code.incarnation, slot));
        value.expect("a state in memory has every key").slot()
    }

    /// Runs a transaction on both sides, compares, and keeps what it did.
    pub fn run(&mut self, plan: &Plan) -> Run {
        let tx = plan.tx();
        let run = self.executor.transact(&tx, &self.state, OnMissing::Stop);
        self.check_used(&tx, &run);
        let oracle = self.run_oracle(plan);
        match (&run.outcome, oracle) {
            (Outcome::Executed(effects), Ok(result)) => {
                compare(effects, &result);
                self.apply(effects);
            }
            (Outcome::Invalid(_), Err(EVMError::Transaction(_))) => {
                assert!(run.used.writes.is_empty());
            }
            (ours, theirs) => panic!("{plan:?}\nours {ours:?}\ntheirs {theirs:?}"),
        }
        run
    }

    /// Runs it and returns the effects; panics if there are none.
    pub fn execute(&mut self, plan: &Plan) -> (Effects, Run) {
        let run = self.run(plan);
        let effects = run.outcome.executed().unwrap_or_else(|| panic!("{run:?}"));
        (effects.clone(), run)
    }

    /// Deploys code that a creation transaction returns.
    pub fn deploy(&mut self, from: Address, init: impl Into<Bytes>) -> Address {
        let plan = Plan::new(from, None, self.nonce(from)).input(init).gas(10_000_000);
        let (effects, _) = self.execute(&plan);
        effects.executed.contract.expect("the creation succeeds")
    }

    fn apply(&mut self, effects: &Effects) {
        self.state.apply(effects);
        self.fees += effects.fee;
        self.burned += effects.burned;
    }

    pub fn run_oracle(&mut self, plan: &Plan) -> OracleResult {
        let (env, fork) = (&self.env, self.rules.fork);
        let context = Context::mainnet()
            .with_db(&mut self.oracle)
            .modify_cfg_chained(|cfg| {
                cfg.chain_id = env.chain_id;
                cfg.set_spec_and_mainnet_gas_params(fork);
            })
            .modify_block_chained(|block| {
                block.number = U256::from(env.number);
                block.timestamp = U256::from(env.timestamp);
                block.prevrandao = Some(env.randomness);
                block.basefee = env.base_fee;
                block.beneficiary = env.coinbase;
                block.gas_limit = env.gas_limit;
            });
        let mut result = context.build_mainnet().transact(plan.oracle())?;
        // EIP-161, which `CacheDB` leaves to its users: what is touched and empty is removed.
        for account in result.state.values_mut() {
            if account.is_touched() && account.is_empty() {
                account.mark_selfdestruct();
            }
        }
        self.oracle.commit(result.state);
        Ok(result.result)
    }

    /// Nothing but the used keys is needed, and with each of them missing the run ends as missing.
    fn check_used(&self, tx: &Tx, run: &Run) {
        let mut executor = Executor::with_rules(&self.env, self.rules);
        let view = Only::new(&self.state, run.used.all().copied());
        let again = executor.transact(tx, &view, OnMissing::Stop);
        assert_eq!(again.missing, [], "under-approximated: {run:?}");
        assert_eq!(format!("{run:?}"), format!("{again:?}"));
        for key in run.used.all() {
            let mut view = Only::new(&self.state, run.used.all().copied());
            view.keys.remove(key);
            let lacking = executor.transact(tx, &view, OnMissing::Stop);
            assert!(matches!(lacking.outcome, Outcome::Missing), "{key:?}");
            assert!(lacking.missing.contains(key), "{key:?} {lacking:?}");
            assert!(lacking.used.all().any(|used| used == key), "{key:?}");
        }
    }

    /// Every key of both sides has the same value, but for the coinbase, whose fees are owed.
    pub fn compare_states(&mut self) {
        let mut sum = U256::ZERO;
        let accounts: Vec<_> = self.oracle.cache.accounts.keys().copied().collect();
        for address in accounts {
            let info = self.oracle.basic(address).expect("no error").unwrap_or_default();
            let mut ours = self.basic(address);
            sum += ours.balance;
            if address == self.env.coinbase {
                ours.balance += self.fees;
            }
            assert_eq!((ours.nonce, ours.balance), (info.nonce, info.balance), "{address}");
            let code = self.state.read(&StateKey::Code(address)).expect("a key").code();
            assert_eq!(code.hash, info.code_hash, "{address}");
            let account = &self.oracle.cache.accounts[&address];
            if account.account_state == AccountState::NotExisting {
                continue;
            }
            for (slot, word) in &account.storage {
                assert_eq!(self.slot(address, *slot), *word, "{address} {slot}");
            }
        }
        assert_eq!(sum + self.fees + self.burned, self.supply, "conservation");
        for (key, value) in self.state.clone().into_writes() {
            if let (StateKey::Slot(address, incarnation, slot), StateValue::Slot(word)) =
                (key, value)
            {
                let code = self.state.read(&StateKey::Code(address)).expect("a key").code();
                let word = if code.incarnation == incarnation { word } else { continue };
                assert_eq!(self.oracle.storage(address, slot), Ok(word), "{key:?}");
            } else {
                assert!(self.oracle.cache.accounts.contains_key(&key.address()), "{key:?}");
            }
        }
    }
}

fn compare(effects: &Effects, result: &ExecutionResult) {
    let ours = &effects.executed;
    assert_eq!(ours.status, result.is_success());
    assert_eq!(ours.gas_used, result.tx_gas_used());
    assert_eq!(ours.contract, result.created_address());
    assert_eq!(ours.logs, result.logs());
    if ours.contract.is_none() {
        let output = result.output().cloned().unwrap_or_default();
        assert_eq!(ours.output, output);
    }
    assert!(effects.writes.is_sorted_by_key(|(key, _)| *key));
    for (key, value) in &effects.writes {
        assert!(key.holds(value));
    }
}

/// What plain revm finds wrong with a transaction.
pub fn complaint(result: OracleResult) -> InvalidTransaction {
    match result {
        Err(EVMError::Transaction(error)) => error,
        other => panic!("{other:?}"),
    }
}

pub type Counts = HashMap<&'static str, usize>;

/// A transaction that only a replay takes.
pub fn replayed<T: SignableTransaction<Signature>>(tx: T, from: Address) -> Tx
where
    alloy_consensus::TxEnvelope: From<alloy_consensus::Signed<T>>,
{
    Tx::replayed(seal(tx), from).expect("a transaction")
}

/// First byte of a blob's hash (EIP-4844).
pub fn blob_version() -> B256 {
    let mut hash = B256::ZERO;
    hash[0] = 1;
    hash
}
