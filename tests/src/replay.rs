//! Runs the serial order on one machine with plain revm, and compares what comes out with what the
//! cluster said.

use std::collections::{BTreeMap, HashMap, VecDeque};

use alloy_consensus::Transaction as _;
use alloy_primitives::{Address, B256, U256, keccak256};
use atoll_types::{BlockEnv, Credit, CreditKind, Executed, KECCAK_EMPTY, ShardId};
use atoll_wire::v1::TransactionFinality;
use revm::{
    Context, Database as _, DatabaseCommit as _, ExecuteEvm as _, MainBuilder as _,
    MainContext as _,
    context::{TxEnv, either::Either, result::ExecutionResult},
    database::{CacheDB, EmptyDB},
    primitives::{TxKind, hardfork::SpecId},
    state::EvmState,
};

use crate::{
    api::ran,
    history::{Ended, History},
    order::{Arrival, Place, Step},
};

/// Wrong predictions after which a transaction is included as failed.
const MAX_WRONG: u32 = 3;

/// One machine, and what it has found.
pub struct Replay<'a> {
    history: &'a History,
    state: CacheDB<EmptyDB>,
    /// Priority fee of each transaction that the coinbase did not get at once, in wei.
    tips: HashMap<B256, U256>,
    /// Fees on their way to the coinbase from other shards, oldest first.
    fees: HashMap<ShardId, VecDeque<U256>>,
    /// Fees of the coinbase's own shard, by cut.
    own_fees: HashMap<u64, U256>,
    paying: HashMap<B256, Paying>,
    burned: U256,
    pub counts: Counts,
    /// Where the cluster and the one machine differ, in words.
    pub differences: Vec<String>,
}

/// What was seen on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub succeeded: usize,
    pub failed: usize,
    /// Third wrong predictions.
    pub included_as_failed: usize,
    pub created: usize,
    pub returned: usize,
}

/// A payment that has left its payer.
#[derive(Clone, Copy, Debug)]
struct Paying {
    value: U256,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    OnItsWay,
    Arrived,
    /// The account has code: the value goes back.
    Refused,
    Returned,
}

/// An account and its storage, as it has to be in the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    pub nonce: u64,
    pub balance: U256,
    pub code_hash: B256,
    pub storage: BTreeMap<U256, U256>,
}

impl<'a> Replay<'a> {
    /// Carries out every step.
    pub fn run(history: &'a History, steps: &[Step]) -> Self {
        let mut state = CacheDB::new(EmptyDB::new());
        for (address, account) in &history.genesis {
            let code = revm::bytecode::Bytecode::new_raw(account.code.clone());
            let info = revm::state::AccountInfo::from_balance(account.balance)
                .with_nonce(account.nonce)
                .with_code_and_hash(code.clone(), code.hash_slow());
            state.insert_account_info(*address, info);
        }
        for block in &history.beacon {
            let number = U256::from(block.number());
            state.cache.block_hashes.insert(number, block.hash());
        }
        let mut replay = Self {
            history,
            state,
            tips: HashMap::new(),
            fees: HashMap::new(),
            own_fees: HashMap::new(),
            paying: HashMap::new(),
            burned: U256::ZERO,
            counts: Counts::default(),
            differences: Vec::new(),
        };
        for step in steps {
            match step {
                Step::Run { tx, env, place, shown } => replay.one(*tx, env, *place, *shown),
                Step::Gather { fees } => replay.gather(*fees),
                Step::Fees { shard, cut, txs, gathered } => {
                    replay.pay_fees(*shard, *cut, txs, *gathered);
                }
                Step::Deposit { credit, .. } => replay.deposit(credit),
            }
        }
        replay.check_payments();
        replay
    }

    fn differ(&mut self, what: String) {
        self.differences.push(what);
    }

    fn one(&mut self, hash: B256, env: &BlockEnv, place: Place, shown: bool) {
        let Some(ended) = self.history.txs.get(&hash) else {
            return self.differ(format!("{hash} was sent by nobody"));
        };
        let told = match ran(&ended.receipt) {
            Ok(told) => told,
            Err(error) => return self.differ(format!("receipt of {hash}: {error:#}")),
        };
        let as_failed = matches!(place, Place::Group { wrong } if wrong + 1 >= MAX_WRONG)
            && !told.status
            && told.gas_used == ended.envelope.gas_limit();
        let mut tx = transaction(ended);
        let payee = tx.kind;
        if place == Place::Debit {
            // To an address that nobody knows, so that nothing but the payer changes.
            tx.kind = TxKind::Call(nobody());
        }
        let (price, value) = (price(&tx, env), tx.value);
        let mut ran = match run(&mut self.state, tx.clone(), env, shown) {
            Ok(ran) => ran,
            Err(error) => {
                return self.differ(format!("{hash} took effect as {place:?}: revm: {error}"));
            }
        };
        let mut expected = executed(ran.0, price);
        if as_failed && expected != told {
            expected = failed(tx.gas_limit, price);
            ran.1 = self.charge_as_failed(&tx, price, env, shown);
            self.counts.included_as_failed += 1;
        }
        let mut told = told;
        if place == Place::Debit {
            // Whether the payment arrived is compared when it has.
            told.status = expected.status;
            self.paying.insert(hash, Paying { value, stage: Stage::OnItsWay });
        }
        if told != expected {
            self.differ(format!("{hash} as {place:?} to {payee:?}: {told:?}, revm: {expected:?}"));
        }
        let gas = U256::from(expected.gas_used);
        let tip = gas * U256::from(price - u128::from(env.base_fee));
        self.tips.insert(hash, if shown { U256::ZERO } else { tip });
        self.counts.succeeded += usize::from(expected.status);
        self.counts.failed += usize::from(!expected.status);
        self.counts.created += usize::from(expected.status && expected.contract.is_some());
        self.burned = self.burned.wrapping_add(self.lost(&ran.1));
        if place == Place::Debit {
            self.burned = self.burned.wrapping_sub(value);
        }
        self.state.commit(ran.1);
        let tip = self.tips[&hash];
        self.burned = self.burned.wrapping_sub(tip);
    }

    /// What the protocol charges for one wrong prediction too many.
    fn charge_as_failed(
        &mut self,
        tx: &TxEnv,
        price: u128,
        env: &BlockEnv,
        shown: bool,
    ) -> EvmState {
        let mut info = self.state.basic(tx.caller).ok().flatten().unwrap_or_default();
        info.nonce += 1;
        info.balance = info.balance.saturating_sub(U256::from(tx.gas_limit) * U256::from(price));
        let touched = |info| revm::state::Account::from(info).with_touched_mark();
        let mut changes = EvmState::from_iter([(tx.caller, touched(info))]);
        if shown {
            let mut info = self.state.basic(env.coinbase).ok().flatten().unwrap_or_default();
            info.balance += U256::from(tx.gas_limit) * U256::from(price - u128::from(env.base_fee));
            changes.insert(env.coinbase, touched(info));
        }
        changes
    }

    /// By how much all balances together fall.
    fn lost(&mut self, changes: &EvmState) -> U256 {
        let mut lost = U256::ZERO;
        for (address, account) in changes.iter().filter(|(_, account)| account.is_touched()) {
            let before = self.state.basic(*address).ok().flatten().unwrap_or_default().balance;
            let gone = account.is_selfdestructed();
            let after = if gone { U256::ZERO } else { account.info.balance };
            lost = lost.wrapping_add(before).wrapping_sub(after);
        }
        lost
    }

    fn gather(&mut self, fees: U256) {
        let coinbase = self.coinbase();
        let mut info = self.state.basic(coinbase).ok().flatten().unwrap_or_default();
        match info.balance.checked_sub(fees) {
            Some(left) => info.balance = left,
            None => self.differ(format!("fees of {fees}, the coinbase has {}", info.balance)),
        }
        self.state.insert_account_info(coinbase, info);
    }

    fn pay_fees(&mut self, shard: ShardId, cut: u64, txs: &[B256], gathered: U256) {
        let mut sum = gathered;
        for tx in txs {
            match self.tips.get(tx) {
                Some(tip) => sum += *tip,
                None => self.differ(format!("fee of {tx} left shard {shard} before it ran")),
            }
        }
        if self.history.owner(&self.coinbase()) == shard {
            self.own_fees.insert(cut, sum);
        } else if !sum.is_zero() {
            self.fees.entry(shard).or_default().push_back(sum);
        }
    }

    fn coinbase(&self) -> Address {
        self.history.beacon.first().map(|block| block.env.coinbase).unwrap_or_default()
    }

    fn deposit(&mut self, arrival: &Arrival) {
        let credit = match arrival {
            Arrival::OwnFees { cut, .. } => {
                let sum = self.own_fees.remove(cut).unwrap_or_default();
                return self.give(self.coinbase(), sum);
            }
            Arrival::Sent(credit) => credit,
        };
        match credit.kind {
            CreditKind::Fees => {
                let sum = self.fees.entry(credit.from).or_default().pop_front();
                if sum != Some(credit.amount) || credit.account != self.coinbase() {
                    self.differ(format!("fees {credit:?}, one machine: {sum:?}"));
                }
                self.give(self.coinbase(), sum.unwrap_or_default());
            }
            CreditKind::Payment { tx } => self.payment(tx, credit),
            CreditKind::Returned { tx } => self.returned(tx, credit),
        }
    }

    fn payment(&mut self, tx: B256, credit: &Credit) {
        let Some((ended, paying)) = self.paid(tx) else {
            return self.differ(format!("{credit:?} arrived and was not debited"));
        };
        let expected = (ended.envelope.to(), ended.sender, paying.value);
        let said = (Some(credit.account), credit.payer, credit.amount);
        if said != expected || paying.stage != Stage::OnItsWay {
            self.differ(format!(
                "{credit:?} arrived for {expected:?}, which is {:?}",
                paying.stage
            ));
        }
        let account = self.state.basic(credit.account).ok().flatten().unwrap_or_default();
        let refused = account.code_hash != KECCAK_EMPTY && !account.code_hash.is_zero();
        let stage = if refused { Stage::Refused } else { Stage::Arrived };
        self.paying.insert(tx, Paying { stage, ..paying });
        if !refused {
            self.give(credit.account, paying.value);
        }
    }

    fn returned(&mut self, tx: B256, credit: &Credit) {
        let Some((ended, paying)) = self.paid(tx) else {
            return self.differ(format!("{credit:?} came back and was not debited"));
        };
        let said = (credit.account, credit.amount);
        if said != (ended.sender, paying.value) || paying.stage != Stage::Refused {
            self.differ(format!("{credit:?} came back of a payment that is {:?}", paying.stage));
        }
        self.counts.returned += 1;
        self.paying.insert(tx, Paying { stage: Stage::Returned, ..paying });
        self.give(ended.sender, paying.value);
    }

    fn paid(&self, tx: B256) -> Option<(&'a Ended, Paying)> {
        Some((self.history.txs.get(&tx)?, *self.paying.get(&tx)?))
    }

    fn give(&mut self, to: Address, amount: U256) {
        if amount.is_zero() {
            return;
        }
        let mut info = self.state.basic(to).ok().flatten().unwrap_or_default();
        info.balance += amount;
        self.state.insert_account_info(to, info);
    }

    fn check_payments(&mut self) {
        for (tx, Paying { stage, .. }) in self.paying.clone() {
            let told = self.history.txs.get(&tx).is_some_and(|tx| tx.receipt.status);
            let same = match stage {
                Stage::Arrived => told,
                Stage::Returned => !told,
                Stage::OnItsWay | Stage::Refused => false,
            };
            if !same {
                self.differ(format!("payment {tx} is {stage:?}, its receipt says {told}"));
            }
        }
        for (shard, fees) in self.fees.clone() {
            if !fees.is_empty() {
                self.differ(format!("fees of shard {shard} never arrived: {fees:?}"));
            }
        }
        let dropped = |tx: &&Ended| tx.receipt.finality() == TransactionFinality::Dropped;
        let charged = self.history.txs.values().filter(dropped);
        let charged = charged.filter(|tx| self.tips.contains_key(tx.envelope.tx_hash())).count();
        if charged > 0 {
            self.differ(format!("{charged} dropped transactions took effect"));
        }
    }

    /// All wei that have ceased to exist.
    pub fn burned(&self) -> U256 {
        self.burned
    }

    /// Every account that was ever used, as it is in the end.
    pub fn accounts(&self) -> BTreeMap<Address, Expected> {
        let account = |(address, account): (&Address, &revm::database::DbAccount)| {
            let info = account.info().unwrap_or_default();
            let storage = account.storage.iter().map(|(slot, word)| (*slot, *word));
            let none = info.code_hash.is_zero();
            let expected = Expected {
                nonce: info.nonce,
                balance: info.balance,
                code_hash: if none { KECCAK_EMPTY } else { info.code_hash },
                storage: storage.collect(),
            };
            (*address, expected)
        };
        self.state.cache.accounts.iter().map(account).collect()
    }
}

/// An address that no transaction of a test ever uses.
fn nobody() -> Address {
    Address::from_word(keccak256("nobody"))
}

/// In wei for each unit of gas.
fn price(tx: &TxEnv, env: &BlockEnv) -> u128 {
    match tx.gas_priority_fee {
        Some(tip) => tx.gas_price.min(u128::from(env.base_fee) + tip),
        None => tx.gas_price,
    }
}

/// A signed transaction as plain revm takes it.
fn transaction(ended: &Ended) -> TxEnv {
    let tx = &ended.envelope;
    let authorizations = tx.authorization_list().unwrap_or_default();
    TxEnv {
        tx_type: tx.tx_type() as u8,
        caller: ended.sender,
        gas_limit: tx.gas_limit(),
        gas_price: tx.max_fee_per_gas(),
        kind: tx.kind(),
        value: tx.value(),
        data: tx.input().clone(),
        nonce: tx.nonce(),
        chain_id: tx.chain_id(),
        access_list: tx.access_list().cloned().unwrap_or_default(),
        gas_priority_fee: tx.max_priority_fee_per_gas(),
        authorization_list: authorizations.iter().cloned().map(Either::Left).collect(),
        ..TxEnv::default()
    }
}

/// Runs a transaction with plain revm. A priority fee that is not shown is taken off the coinbase
/// again: the cluster pays it later, as a credit. What is sent to nobody is taken away too.
fn run(
    state: &mut CacheDB<EmptyDB>,
    tx: TxEnv,
    env: &BlockEnv,
    shown: bool,
) -> Result<(ExecutionResult, EvmState), String> {
    let price = price(&tx, env);
    let context = Context::mainnet()
        .with_db(&mut *state)
        .modify_cfg_chained(|cfg| {
            cfg.chain_id = env.chain_id;
            cfg.set_spec_and_mainnet_gas_params(SpecId::OSAKA);
        })
        .modify_block_chained(|block| {
            block.number = U256::from(env.number);
            block.timestamp = U256::from(env.timestamp);
            block.prevrandao = Some(env.randomness);
            block.basefee = env.base_fee;
            block.beneficiary = env.coinbase;
            block.gas_limit = env.gas_limit;
        });
    let ran = context.build_mainnet().transact(tx).map_err(|error| error.to_string())?;
    let (result, mut changes) = (ran.result, ran.state);
    let gas = U256::from(result.tx_gas_used());
    let tip = gas * U256::from(price - u128::from(env.base_fee));
    if let Some(coinbase) = changes.get_mut(&env.coinbase).filter(|_| !shown) {
        coinbase.info.balance -= tip;
    }
    changes.remove(&nobody());
    for account in changes.values_mut() {
        // EIP-161, which `CacheDB` leaves to its users: what is touched and empty is removed.
        if account.is_touched() && account.is_empty() {
            account.mark_selfdestruct();
        }
    }
    Ok((result, changes))
}

/// The receipt's content for what revm gives.
fn executed(result: ExecutionResult, price: u128) -> Executed {
    let status = result.is_success();
    let contract = result.created_address();
    let logs = if status { result.logs().to_vec() } else { Vec::new() };
    let gas_used = result.tx_gas_used();
    let output = result.into_output().unwrap_or_default();
    Executed {
        status,
        gas_used,
        effective_gas_price: price,
        logs,
        contract: contract.filter(|_| status),
        // A creation's output would repeat the code.
        output: if status && contract.is_some() { Default::default() } else { output },
    }
}

/// The receipt of one wrong prediction too many.
fn failed(gas_limit: u64, price: u128) -> Executed {
    Executed {
        status: false,
        gas_used: gas_limit,
        effective_gas_price: price,
        logs: Vec::new(),
        contract: None,
        output: Default::default(),
    }
}
