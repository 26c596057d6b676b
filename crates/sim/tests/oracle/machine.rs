//! One machine: plain revm under the Osaka rules on a database in memory.

use std::collections::{BTreeSet, HashMap};

use alloy_consensus::Transaction as _;
use alloy_primitives::{Address, B256, U256};
use atoll_sim::Config;
use atoll_types::{
    Basic, BeaconBlock, BlockEnv, CodeRef, Executed, KECCAK_EMPTY, SharedTx, StateKey, StateValue,
    Tx,
};
use revm::{
    Context, Database as _, DatabaseCommit as _, ExecuteEvm as _, MainBuilder as _,
    MainContext as _,
    bytecode::Bytecode,
    context::{TxEnv, either::Either, result::ExecutionResult},
    database::{CacheDB, EmptyDB},
    primitives::{TxKind, hardfork::SpecId},
    state::{AccountInfo, EvmState},
};

use crate::counts::Counts;

/// Where a transaction ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Local,
    /// The payer's side of a payment to another shard.
    Debit,
    /// With the number of wrong predictions before.
    Group {
        wrong: u32,
    },
}

/// An address that no transaction of a test ever uses.
const NOBODY: Address = Address::repeat_byte(0x9b);

pub struct Machine {
    state: CacheDB<EmptyDB>,
    pub coinbase: Address,
    /// Priority fee of each transaction that ran, in wei.
    pub tips: HashMap<B256, U256>,
    /// Keys that may have changed since this was last emptied.
    pub touched: BTreeSet<StateKey>,
    pub counts: Counts,
}

impl Machine {
    pub fn new(config: &Config) -> Self {
        let mut state = CacheDB::new(EmptyDB::new());
        for (address, account) in &config.genesis {
            let Basic { nonce, balance } = account.basic;
            let code = Bytecode::new_raw(account.code.clone());
            let info = AccountInfo::new(balance, nonce, code.hash_slow(), code);
            state.insert_account_info(*address, info);
            for (slot, word) in &account.storage {
                // An in-memory database that is empty below does not fail.
                let _ = state.insert_account_storage(*address, *slot, *word);
            }
        }
        let coinbase = config.planner.coinbase;
        let (tips, touched) = (HashMap::new(), BTreeSet::new());
        Self { state, coinbase, tips, touched, counts: Counts::default() }
    }

    /// What `BLOCKHASH` gives of a block.
    pub fn know_block(&mut self, block: &BeaconBlock) {
        self.state.cache.block_hashes.insert(U256::from(block.number()), block.hash());
    }

    fn info(&mut self, address: &Address) -> AccountInfo {
        self.state.basic(*address).ok().flatten().unwrap_or_default()
    }

    pub fn has_code(&mut self, address: &Address) -> bool {
        let hash = self.info(address).code_hash;
        hash != KECCAK_EMPTY && !hash.is_zero()
    }

    pub fn value(&mut self, key: &StateKey) -> StateValue {
        match key {
            StateKey::Basic(address) => {
                let AccountInfo { nonce, balance, .. } = self.info(address);
                StateValue::Basic(Basic { nonce, balance })
            }
            StateKey::Code(address) => {
                let hash = self.info(address).code_hash;
                let hash = if hash.is_zero() { KECCAK_EMPTY } else { hash };
                StateValue::Code(CodeRef { hash, incarnation: 0 })
            }
            StateKey::Slot(address, _, slot) => {
                StateValue::Slot(self.state.storage(*address, *slot).unwrap_or_default())
            }
        }
    }

    /// Every key that the machine knows of.
    pub fn keys(&self) -> Vec<StateKey> {
        let keys = |(address, account): (&Address, &revm::database::DbAccount)| {
            let slots = account.storage.keys().map(|slot| StateKey::Slot(*address, 0, *slot));
            let mut keys: Vec<_> = slots.collect();
            keys.extend([StateKey::Basic(*address), StateKey::Code(*address)]);
            keys
        };
        self.state.cache.accounts.iter().flat_map(keys).collect()
    }

    pub fn give(&mut self, to: Address, amount: U256) {
        if amount.is_zero() {
            return;
        }
        let mut info = self.info(&to);
        info.balance += amount;
        self.state.insert_account_info(to, info);
        self.touched.insert(StateKey::Basic(to));
    }

    pub fn take(&mut self, from: Address, amount: U256) -> Result<(), String> {
        let mut info = self.info(&from);
        let left = info.balance.checked_sub(amount);
        info.balance = left.ok_or_else(|| format!("{from} has less than {amount}"))?;
        if !amount.is_zero() {
            self.state.insert_account_info(from, info);
            self.touched.insert(StateKey::Basic(from));
        }
        Ok(())
    }

    /// A transaction that was found to be impossible at this place is so here.
    pub fn expect_invalid(&mut self, tx: &Tx, env: &BlockEnv) -> Result<(), String> {
        match transact(&mut self.state, transaction(tx), env, false) {
            Ok((result, _)) => Err(format!("{tx:?} was refused, revm: {result:?}")),
            Err(_) => Ok(()),
        }
    }

    /// Runs a transaction and compares what comes out with what was told. `shown`: the coinbase gets
    /// the priority fee at once. True if it was charged for one wrong prediction too many.
    pub fn run(
        &mut self,
        tx: &Tx,
        env: &BlockEnv,
        (place, shown): (Place, bool),
        told: &Executed,
    ) -> Result<bool, String> {
        let mut request = transaction(tx);
        if place == Place::Debit {
            // To an address that nobody knows, so that nothing but the payer changes.
            request.kind = TxKind::Call(NOBODY);
        }
        let price = price(&request, env);
        let ran = transact(&mut self.state, request.clone(), env, shown);
        let (result, mut changes) =
            ran.map_err(|error| format!("{tx:?} took effect as {place:?}: revm: {error}"))?;
        let mut expected = executed(result, price);
        let last = matches!(place, Place::Group { wrong } if wrong + 1 >= SharedTx::MAX_WRONG);
        let as_failed = last && expected != *told && *told == failed(tx.gas_limit(), price);
        if as_failed {
            expected = told.clone();
            changes = self.charge_as_failed(&request, price);
            if shown {
                let tip = U256::from(tx.gas_limit()) * tip_price(price, env);
                self.commit(std::mem::take(&mut changes));
                self.give(env.coinbase, tip);
            }
        }
        if *told != expected {
            return Err(format!(
                "serial-equivalence: {tx:?} as {place:?} to {:?}: {told:?}, revm: {expected:?}",
                tx.to()
            ));
        }
        let tip = U256::from(expected.gas_used) * tip_price(price, env);
        self.tips.insert(*tx.hash(), if shown { U256::ZERO } else { tip });
        self.commit(changes);
        Ok(as_failed)
    }

    fn commit(&mut self, changes: EvmState) {
        for (address, account) in &changes {
            let code = account.info.code.as_ref();
            let delegated = code.is_some_and(|code| code.is_eip7702());
            let destroyed = account.is_created() && account.is_selfdestructed();
            self.counts.add("uses of delegated accounts", usize::from(delegated));
            self.counts.add("created", usize::from(account.is_created()));
            self.counts.add("created and destroyed", usize::from(destroyed));
            self.touched.extend([StateKey::Basic(*address), StateKey::Code(*address)]);
            let slots = account.storage.iter().filter(|(_, slot)| slot.is_changed());
            self.touched.extend(slots.map(|(slot, _)| StateKey::Slot(*address, 0, *slot)));
        }
        self.state.commit(changes);
    }

    /// What the protocol charges for one wrong prediction too many.
    fn charge_as_failed(&mut self, tx: &TxEnv, price: u128) -> EvmState {
        let mut info = self.info(&tx.caller);
        info.nonce += 1;
        info.balance = info.balance.saturating_sub(U256::from(tx.gas_limit) * U256::from(price));
        let account = revm::state::Account::from(info).with_touched_mark();
        EvmState::from_iter([(tx.caller, account)])
    }
}

/// In wei for each unit of gas.
fn price(tx: &TxEnv, env: &BlockEnv) -> u128 {
    match tx.gas_priority_fee {
        Some(tip) => tx.gas_price.min(u128::from(env.base_fee) + tip),
        None => tx.gas_price,
    }
}

/// What the coinbase gets for each unit of gas, in wei.
fn tip_price(price: u128, env: &BlockEnv) -> U256 {
    U256::from(price - u128::from(env.base_fee))
}

/// A signed transaction as plain revm takes it.
fn transaction(tx: &Tx) -> TxEnv {
    let envelope = tx.envelope();
    let authorizations = envelope.authorization_list().unwrap_or_default();
    TxEnv {
        tx_type: envelope.tx_type() as u8,
        caller: tx.sender(),
        gas_limit: envelope.gas_limit(),
        gas_price: envelope.max_fee_per_gas(),
        kind: envelope.kind(),
        value: envelope.value(),
        data: envelope.input().clone(),
        nonce: envelope.nonce(),
        chain_id: envelope.chain_id(),
        access_list: envelope.access_list().cloned().unwrap_or_default(),
        gas_priority_fee: envelope.max_priority_fee_per_gas(),
        authorization_list: authorizations.iter().cloned().map(Either::Left).collect(),
        ..TxEnv::default()
    }
}

/// Runs a transaction with plain revm. A priority fee that is not `shown` is taken off the coinbase
/// again: it arrives later, as a credit. What is sent to nobody is taken away too.
fn transact(
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
    let tip = U256::from(result.tx_gas_used()) * tip_price(price, env);
    if let Some(coinbase) = changes.get_mut(&env.coinbase).filter(|_| !shown) {
        coinbase.info.balance -= tip;
    }
    changes.remove(&NOBODY);
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
