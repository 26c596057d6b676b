//! What surrounds the transaction: the fork, the block, the state before, and the state's root.

use std::collections::BTreeMap;

use alloy_consensus::{
    TrieAccount,
    proofs::{state_root_unhashed, storage_root_unhashed},
};
use alloy_eips::eip4844::fake_exponential;
use alloy_primitives::{Address, B256, U256, keccak256};
use anyhow::Context as _;
use atoll_evm::{Blobs, EMPTY_ACCOUNT, Fork, Rules};
use atoll_types::{Basic, BlockEnv, CodeRef, KECCAK_EMPTY, StateKey, StateValue};
use serde_json::Value;

use super::read::{address, bytes, field, hash, number, required, word};
use crate::replay::Memory;

/// Base fee that a test of London or later means if it says nothing.
const DEFAULT_BASE_FEE: u64 = 0x0a;
/// Blocks that `BLOCKHASH` can see.
const BLOCK_HASHES: u64 = 256;
/// Of the smallest price of blob gas, in wei.
const MIN_BLOB_BASE_FEE: u128 = 1;
/// EIP-4844 and EIP-7691: how fast the price of blob gas follows the excess.
const CANCUN_FRACTION: u64 = 3_338_477;
const PRAGUE_FRACTION: u64 = 5_007_716;
/// EIP-7594: most blobs of a transaction, since Osaka.
const MAX_BLOBS_PER_TX: u64 = 6;

/// The fork that a test names. Constantinople is none of them: its rules for SSTORE (EIP-1283) were
/// never used on mainnet.
pub(super) fn fork(name: &str) -> Option<Fork> {
    Some(match name.to_ascii_lowercase().as_str() {
        "frontier" => Fork::FRONTIER,
        "homestead" => Fork::HOMESTEAD,
        "eip150" | "tangerinewhistle" => Fork::TANGERINE,
        "eip158" | "spuriousdragon" => Fork::SPURIOUS_DRAGON,
        "byzantium" => Fork::BYZANTIUM,
        "constantinoplefix" | "petersburg" => Fork::PETERSBURG,
        "istanbul" | "muirglacier" => Fork::ISTANBUL,
        "berlin" => Fork::BERLIN,
        "london" | "arrowglacier" | "grayglacier" => Fork::LONDON,
        "paris" | "merge" => Fork::MERGE,
        "shanghai" => Fork::SHANGHAI,
        "cancun" => Fork::CANCUN,
        "prague" => Fork::PRAGUE,
        // The others change nothing but how many blobs there are, which the test says.
        "osaka" | "bpo1" | "bpo2" | "bpo3" | "bpo4" | "bpo5" => Fork::OSAKA,
        _ => return None,
    })
}

/// The block's values.
pub(super) fn env(test: &Value, fork: Fork) -> anyhow::Result<BlockEnv> {
    let env = required(test, "env")?;
    let chain_id = match field(test, "config").and_then(|config| field(config, "chainid")) {
        Some(id) => number(id).context("chainid")?,
        None => 1,
    };
    let or = |name: &str, default: U256| -> anyhow::Result<U256> {
        field(env, name).map_or(Ok(default), word).with_context(|| name.to_owned())
    };
    let difficulty = or("currentDifficulty", U256::ZERO)?;
    let merged = fork.is_enabled_in(Fork::MERGE);
    let base_fee = match fork.is_enabled_in(Fork::LONDON) {
        true => or("currentBaseFee", U256::from(DEFAULT_BASE_FEE))?,
        false => U256::ZERO,
    };
    Ok(BlockEnv {
        chain_id,
        number: number(required(env, "currentNumber")?).context("currentNumber")?,
        timestamp: number(required(env, "currentTimestamp")?).context("currentTimestamp")?,
        randomness: match merged {
            true => or("currentRandom", U256::ZERO)?.into(),
            false => difficulty.into(),
        },
        base_fee: u64::try_from(base_fee).context("currentBaseFee")?,
        coinbase: address(required(env, "currentCoinbase")?).context("currentCoinbase")?,
        // Some tests have a limit that nothing can reach.
        gas_limit: required(env, "currentGasLimit").and_then(word)?.saturating_to(),
    })
}

/// The rules of a fork, with what the test says of blobs.
pub(super) fn rules(test: &Value, name: &str, fork: Fork) -> anyhow::Result<Rules> {
    if !fork.is_enabled_in(Fork::CANCUN) {
        // No blob is ever paid for: the fork does not know them.
        let blobs = Some(Blobs { base_fee: 0, max_per_tx: None });
        return Ok(Rules { blobs, empty_accounts: true, ..Rules::of(fork) });
    }
    let schedule = field(test, "config").and_then(|config| field(config, "blobSchedule"));
    let schedule = schedule.and_then(|schedule| field(schedule, name));
    let said = |name: &str| {
        let value = schedule.and_then(|schedule| field(schedule, name));
        value.map(number).transpose().with_context(|| format!("blobSchedule: {name}"))
    };
    let prague = fork.is_enabled_in(Fork::PRAGUE);
    let fraction = said("baseFeeUpdateFraction")?;
    let fraction = fraction.unwrap_or(if prague { PRAGUE_FRACTION } else { CANCUN_FRACTION });
    let max = said("max")?.unwrap_or(if prague { 9 } else { 6 });
    let osaka = fork.is_enabled_in(Fork::OSAKA);
    let env = required(test, "env")?;
    let excess = field(env, "currentExcessBlobGas").map_or(Ok(0), number);
    let excess = excess.context("currentExcessBlobGas")?;
    let base_fee = fake_exponential(MIN_BLOB_BASE_FEE, excess.into(), fraction.max(1).into());
    let max_per_tx = Some(if osaka { max.min(MAX_BLOBS_PER_TX) } else { max });
    let blobs = Some(Blobs { base_fee, max_per_tx });
    Ok(Rules { blobs, empty_accounts: true, ..Rules::of(fork) })
}

/// The state before.
pub(super) fn state(test: &Value, block: u64) -> anyhow::Result<Memory> {
    let mut state = Memory::default();
    for number in block.saturating_sub(BLOCK_HASHES)..block {
        state.block_hashes.insert(number, keccak256(number.to_string()));
    }
    let accounts = required(test, "pre")?.as_object().context("`pre` is no object")?;
    for (key, account) in accounts {
        let named = || format!("`pre` of {key}");
        let of = address(&Value::String(key.clone())).with_context(named)?;
        put(&mut state, of, account).with_context(named)?;
    }
    Ok(state)
}

fn put(state: &mut Memory, of: Address, account: &Value) -> anyhow::Result<()> {
    let nonce = field(account, "nonce").map_or(Ok(0), number).context("nonce")?;
    let balance = field(account, "balance").map_or(Ok(U256::ZERO), word).context("balance")?;
    let code = field(account, "code").map(bytes).transpose().context("code")?.unwrap_or_default();
    let basic = Basic { nonce, balance };
    let hash = match code.is_empty() {
        // It is there, although it is empty.
        true if basic == Basic::default() => EMPTY_ACCOUNT,
        true => KECCAK_EMPTY,
        false => state.insert_code(code),
    };
    state.set(StateKey::Basic(of), StateValue::Basic(basic));
    state.set(StateKey::Code(of), StateValue::Code(CodeRef { hash, incarnation: 0 }));
    let storage = field(account, "storage").and_then(Value::as_object);
    for (slot, value) in storage.into_iter().flatten() {
        let slot = word(&Value::String(slot.clone())).context("a slot")?;
        let value = word(value).with_context(|| format!("slot {slot}"))?;
        state.set(StateKey::Slot(of, 0, slot), StateValue::Slot(value));
    }
    Ok(())
}

/// The coinbase is touched after the transaction, whatever became of that: it gets a reward of
/// nothing for the block. Before EIP-161 it exists then; since, it does not if it is empty.
pub(super) fn touch_coinbase(state: &mut Memory, env: &BlockEnv, fork: Fork) {
    let key = StateKey::Code(env.coinbase);
    let code = state.get(&key).code();
    let basic = state.get(&StateKey::Basic(env.coinbase)).basic();
    let hash = match (basic == Basic::default(), code.hash) {
        (true, KECCAK_EMPTY) if !fork.is_enabled_in(Fork::SPURIOUS_DRAGON) => EMPTY_ACCOUNT,
        (true, EMPTY_ACCOUNT) if fork.is_enabled_in(Fork::SPURIOUS_DRAGON) => KECCAK_EMPTY,
        (_, hash) => hash,
    };
    state.set(key, StateValue::Code(CodeRef { hash, ..code }));
}

#[derive(Default)]
struct Account {
    basic: Basic,
    code: CodeRef,
    slots: BTreeMap<(u32, U256), U256>,
}

/// Root of the trie of all accounts.
pub(super) fn root(state: &Memory) -> B256 {
    let mut accounts: BTreeMap<Address, Account> = BTreeMap::new();
    for (key, value) in state.iter() {
        let account = accounts.entry(key.address()).or_default();
        match key {
            StateKey::Basic(_) => account.basic = value.basic(),
            StateKey::Code(_) => account.code = value.code(),
            StateKey::Slot(_, incarnation, slot) => {
                account.slots.insert((*incarnation, *slot), value.slot());
            }
        }
    }
    let exists =
        |account: &Account| account.basic != Basic::default() || account.code.hash != KECCAK_EMPTY;
    let leaf = |(address, account): (Address, Account)| {
        let Account { basic, code, slots } = account;
        let slots =
            slots.into_iter().filter(|((incarnation, _), _)| *incarnation == code.incarnation);
        let storage_root =
            storage_root_unhashed(slots.map(|((_, slot), word)| (B256::from(slot), word)));
        let code_hash = if code.hash == EMPTY_ACCOUNT { KECCAK_EMPTY } else { code.hash };
        let Basic { nonce, balance } = basic;
        (address, TrieAccount { nonce, balance, storage_root, code_hash })
    };
    state_root_unhashed(accounts.into_iter().filter(|(_, account)| exists(account)).map(leaf))
}

/// Hash of the logs of a transaction.
pub(super) fn logs_hash(logs: &[alloy_primitives::Log]) -> B256 {
    let mut out = Vec::new();
    alloy_rlp::encode_list(logs, &mut out);
    keccak256(out)
}

/// A hash that a test expects.
pub(super) fn expected(post: &Value, name: &str) -> anyhow::Result<B256> {
    required(post, name).and_then(hash).with_context(|| format!("`{name}`"))
}
