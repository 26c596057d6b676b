//! What suites of tests ask a development node for: accounts set to what a test needs, transactions of
//! accounts without keys, blocks and time at will. [Decision 38](../../../../docs/decisions/0038-development-blocks.md)
//! says how a chain that is durable and sharded does it.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use atoll_api::state::{Append, Read, StateError};
use atoll_types::{CodeRef, KECCAK_EMPTY, LocalBlock, ShardId, StateKey, StateValue, Write};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Shared;
use super::error::Failure;
use super::params::Params;
use super::quantity;
use crate::query::status_of;

/// The methods, refused outside development like those that nobody knows.
pub(crate) const METHODS: &[&str] = &[
    "evm_mine",
    "anvil_mine",
    "hardhat_mine",
    "evm_increaseTime",
    "anvil_increaseTime",
    "evm_setNextBlockTimestamp",
    "anvil_setNextBlockTimestamp",
    "anvil_setBalance",
    "hardhat_setBalance",
    "anvil_setCode",
    "hardhat_setCode",
    "anvil_setNonce",
    "hardhat_setNonce",
    "anvil_setStorageAt",
    "hardhat_setStorageAt",
    "anvil_impersonateAccount",
    "hardhat_impersonateAccount",
    "anvil_stopImpersonatingAccount",
    "hardhat_stopImpersonatingAccount",
    "anvil_autoImpersonateAccount",
    "anvil_nodeInfo",
    "hardhat_metadata",
    "evm_setAutomine",
    "anvil_getAutomine",
    "hardhat_getAutomine",
    "evm_snapshot",
    "evm_revert",
];

/// Accounts that may be impersonated at a time.
const IMPERSONATED: usize = 1_024;
/// Blocks that one request makes.
const MOST_MINED: u64 = 256;
/// Time for a shard to take what is set, however busy it is.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause before it is tried again.
const PAUSE: Duration = Duration::from_millis(5);
/// Longest code that is set.
const MOST_CODE: usize = 128 << 10;
/// Highest balance that is set, in bits: so that sums of any number of them do not overflow.
const BALANCE_BITS: usize = 160;
/// Furthest that the clock is set ahead: about 30,000 years.
const MOST_AHEAD_S: u64 = 1 << 40;

/// The clock of the beacon, which development may set ahead.
#[derive(Clone)]
pub struct Clock {
    /// Milliseconds since 1970, as the machine has it.
    pub now_ms: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// What the beacon adds to that.
    pub ahead_ms: Arc<AtomicU64>,
}

impl Clock {
    /// What the beacon is told.
    pub fn told_ms(&self) -> u64 {
        (self.now_ms)().saturating_add(self.ahead_ms.load(Ordering::Relaxed))
    }
}

/// What development has changed in this gateway.
pub(crate) struct Development {
    played: Mutex<HashSet<Address>>,
    everybody: AtomicBool,
    clock: Option<Clock>,
}

impl Development {
    pub fn new(clock: Option<Clock>) -> Self {
        Self { played: Mutex::default(), everybody: AtomicBool::new(false), clock }
    }

    fn played(&self) -> MutexGuard<'_, HashSet<Address>> {
        self.played.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether transactions of an account are taken without its signature.
    pub fn plays(&self, address: &Address) -> bool {
        self.everybody.load(Ordering::Relaxed) || self.played().contains(address)
    }

    fn clock(&self) -> Result<&Clock, Failure> {
        self.clock.as_ref().ok_or_else(|| {
            Failure::server("the beacon is in another process: its clock cannot be set from here")
        })
    }
}

impl Shared {
    pub async fn develop(&self, method: &str, params: &Params) -> Result<Value, Failure> {
        let (_, verb) = method.split_once('_').unwrap_or_default();
        match verb {
            "mine" => self.mine(method, params).await,
            "increaseTime" => {
                let seconds = params.number(0, "seconds")?;
                let clock = self.development.clock()?;
                let ahead = clock.ahead_ms.load(Ordering::Relaxed) / 1_000;
                let ahead = ahead.saturating_add(seconds);
                self.set_ahead(clock, ahead.saturating_mul(1_000))?;
                Ok(json!(ahead))
            }
            "setNextBlockTimestamp" => {
                self.set_time(params.number(0, "timestamp")?).await?;
                Ok(Value::Null)
            }
            "setBalance" => {
                let balance: U256 = params.at(1, "balance")?;
                if balance.bit_len() > BALANCE_BITS {
                    let most = format!("balances up to 2^{BALANCE_BITS} - 1 wei are supported");
                    return Err(Failure::params(most));
                }
                let set = |address, mut basic: atoll_types::Basic, _| {
                    basic.balance = balance;
                    Ok(((StateKey::Basic(address), StateValue::Basic(basic)), None))
                };
                self.set(params.at(0, "address")?, set).await
            }
            "setNonce" => {
                let nonce = params.number(1, "nonce")?;
                let set = |address, mut basic: atoll_types::Basic, _| {
                    if nonce < basic.nonce {
                        let held = basic.nonce;
                        return Err(Failure::params(format!(
                            "the nonce is {held}: it cannot fall"
                        )));
                    }
                    basic.nonce = nonce;
                    Ok(((StateKey::Basic(address), StateValue::Basic(basic)), None))
                };
                self.set(params.at(0, "address")?, set).await
            }
            "setCode" => self.set_code(params).await,
            "setStorageAt" => {
                let (slot, word): (U256, U256) = (params.at(1, "slot")?, params.at(2, "value")?);
                let set = |address, _, code: CodeRef| {
                    let key = StateKey::Slot(address, code.incarnation, slot);
                    Ok(((key, StateValue::Slot(word)), None))
                };
                self.set(params.at(0, "address")?, set).await?;
                Ok(json!(true))
            }
            _ => self.develop_more(verb, params).await,
        }
    }

    async fn develop_more(&self, verb: &str, params: &Params) -> Result<Value, Failure> {
        let development = &self.development;
        match verb {
            "impersonateAccount" => {
                let mut played = development.played();
                if played.len() >= IMPERSONATED {
                    let limit = format!("{IMPERSONATED} accounts are impersonated, the limit");
                    return Err(Failure::limit(limit));
                }
                played.insert(params.at(0, "address")?);
                Ok(Value::Null)
            }
            "stopImpersonatingAccount" => {
                development.played().remove(&params.at::<Address>(0, "address")?);
                Ok(Value::Null)
            }
            "autoImpersonateAccount" => {
                development.everybody.store(params.at(0, "enabled")?, Ordering::Relaxed);
                Ok(Value::Null)
            }
            "setAutomine" => match params.at(0, "enabled")? {
                true => Ok(json!(true)),
                false => Err(Failure::server(
                    "blocks cannot be held back: whatever can run is run at once on each shard",
                )),
            },
            "getAutomine" => Ok(json!(true)),
            "snapshot" | "revert" => Err(Failure::new(
                -32601,
                "evm_snapshot and evm_revert are not supported: the chain is durable on each of its \
                 shards and does not go back; begin a new one with --fresh, or deploy anew",
            )),
            "metadata" => {
                let head = self.chain.head().await?;
                let hash = self.hash_of(head.latest).await?;
                Ok(json!({
                    "clientVersion": format!("atoll/v{}/rust", self.ledger.queries.version),
                    "chainId": self.chain_id(),
                    "instanceId": self.chain.genesis.hash(),
                    "latestBlockNumber": head.latest,
                    "latestBlockHash": hash,
                }))
            }
            "nodeInfo" => {
                let head = self.chain.head().await?;
                let env = head.beacon.env;
                Ok(json!({
                    "currentBlockNumber": quantity(head.latest),
                    "currentBlockTimestamp": env.timestamp,
                    "currentBlockHash": self.hash_of(head.latest).await?,
                    "hardFork": "osaka",
                    "transactionOrder": "fees",
                    "environment": {
                        "baseFee": quantity(env.base_fee),
                        "chainId": self.chain_id(),
                        "gasLimit": quantity(env.gas_limit),
                        "gasPrice": self.gas_price().await?,
                    },
                    "forkConfig": {},
                }))
            }
            _ => Err(Failure::new(-32601, "Method not found")),
        }
    }

    async fn hash_of(&self, number: u64) -> Result<B256, Failure> {
        let block = self.chain.beacon_block(number, &self.context()).await?;
        Ok(block.ok_or_else(Failure::no_block)?.hash())
    }

    fn set_ahead(&self, clock: &Clock, ahead_ms: u64) -> Result<(), Failure> {
        if ahead_ms > MOST_AHEAD_S * 1_000 {
            return Err(Failure::params(format!("more than {MOST_AHEAD_S} s ahead, the limit")));
        }
        clock.ahead_ms.store(ahead_ms, Ordering::Relaxed);
        Ok(())
    }

    /// The blocks to come have at least this time.
    async fn set_time(&self, timestamp: u64) -> Result<(), Failure> {
        let clock = self.development.clock()?;
        let newest = self.chain.head().await?.beacon.env.timestamp;
        let ahead = timestamp.saturating_mul(1_000).checked_sub((clock.now_ms)());
        let (Some(ahead), true) = (ahead, timestamp >= newest) else {
            let wrong = format!("the newest block is of {newest}, and the clock does not go back");
            return Err(Failure::params(wrong));
        };
        self.set_ahead(clock, ahead)
    }

    /// Has blocks closed: a block of a shard that holds nothing is news to the beacon.
    async fn mine(&self, method: &str, params: &Params) -> Result<Value, Failure> {
        let one = method == "evm_mine";
        let mut blocks = 1;
        if let Some(given) = params.value(0).filter(|given| !given.is_null()) {
            match (one, given.get("timestamp")) {
                (true, None) => self.set_time(params.number(0, "timestamp")?).await?,
                (true, Some(timestamp)) => {
                    let timestamp = Params::from(vec![timestamp.clone()]);
                    self.set_time(timestamp.number(0, "timestamp")?).await?;
                }
                (false, _) => blocks = params.number(0, "blocks")?,
            }
        }
        if blocks > MOST_MINED {
            return Err(Failure::params(format!("{MOST_MINED} blocks at a time are the limit")));
        }
        let mut head = self.chain.head.subscribe();
        let latest = self.chain.head().await?.latest;
        for number in latest + 1..=latest + blocks {
            let cut = self.append(ShardId(0), |_| Ok(Setting::default()), &[]).await?;
            let closed = head.wait_for(|head| {
                head.as_ref().is_some_and(|head| head.latest >= number && head.cut > cut)
            });
            let closed = tokio::time::timeout(PATIENCE, closed).await;
            if !matches!(closed, Ok(Ok(_))) {
                return Err(Failure::server(format!("block {number} is not closed in time")));
            }
        }
        Ok(if one { json!("0x0") } else { Value::Null })
    }

    async fn set_code(&self, params: &Params) -> Result<Value, Failure> {
        let code: Bytes = params.at(1, "code")?;
        if code.len() > MOST_CODE {
            return Err(Failure::params(format!("code of more than {MOST_CODE} bytes, the limit")));
        }
        let hash = if code.is_empty() { KECCAK_EMPTY } else { keccak256(&code) };
        let set = |address, _, held: CodeRef| {
            let value = StateValue::Code(CodeRef { hash, ..held });
            Ok(((StateKey::Code(address), value), Some(code.clone()).filter(|c| !c.is_empty())))
        };
        self.set(params.at(0, "address")?, set).await
    }

    /// Sets one value of an account, given what it holds, and waits until `latest` shows it.
    async fn set(
        &self,
        address: Address,
        set: impl Fn(Address, atoll_types::Basic, CodeRef) -> Result<(Write, Option<Bytes>), Failure>,
    ) -> Result<Value, Failure> {
        let keys = [StateKey::Basic(address), StateKey::Code(address)];
        let build = |held: &[StateValue]| {
            let [basic, code] = [0, 1].map(|at| held.get(at).copied());
            let basic = basic.map(|value| value.basic()).unwrap_or_default();
            let code = code.map(|value| value.code()).unwrap_or_default();
            let (write, added) = set(address, basic, code)?;
            let mut burned = U256::ZERO;
            if let StateKey::Basic(_) = write.0 {
                // Modulo 2^256: what a chain of development creates is burned less.
                burned = basic.balance.wrapping_sub(write.1.basic().balance);
            }
            Ok(Setting { writes: vec![write], codes: added.into_iter().collect(), burned })
        };
        let shard = self.ledger.calls.placement.owner(&address);
        let cut = self.append(shard, build, &keys).await?;
        let mut head = self.chain.head.subscribe();
        let shown = head.wait_for(|head| head.as_ref().is_some_and(|head| head.cut > cut));
        match tokio::time::timeout(PATIENCE, shown).await {
            Ok(Ok(_)) => Ok(Value::Null),
            _ => Err(Failure::server("it is set, and shows once every shard has followed")),
        }
    }

    /// Appends a block that sets values to a shard: built on what it stands on, or not at all. The
    /// newest cut before it.
    async fn append(
        &self,
        shard: ShardId,
        build: impl Fn(&[StateValue]) -> Result<Setting, Failure>,
        keys: &[StateKey],
    ) -> Result<u64, Failure> {
        let append = &self.chain.links[usize::from(shard.0)].append;
        let read = &self.ledger.calls.shards[usize::from(shard.0)].read;
        let deadline = Instant::now() + PATIENCE;
        let mut newest = Setting::default().block(shard, 0, B256::ZERO, 0);
        loop {
            let context = self.context();
            let appended =
                append.call(context.clone(), Append { block: newest.clone(), reads: vec![] });
            let (head, digest, cut) = match appended.await {
                Ok(_) => return Ok(newest.round),
                // A block that stands on nothing asks for this.
                Err(StateError::NotHead { head, digest, cut, .. }) => (head, digest, cut),
                Err(StateError::Fenced { .. }) => {
                    newest = Setting::default().block(shard, 0, B256::ZERO, 0);
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                Err(error) => return Err(status_of(&error, &context).into()),
            };
            if Instant::now() >= deadline {
                return Err(Failure::server(format!("shard {shard} is too busy; try again")));
            }
            let wanted = Read { keys: keys.to_vec(), codes: vec![], at: None, min_cut: 0 };
            let held = read.call(context.clone(), wanted).await;
            let held = held.map_err(|error| status_of(&error, &context))?;
            if (held.head, held.cut) == (head, cut) {
                newest = build(&held.values)?.block(shard, head + 1, digest, cut);
            }
        }
    }
}

/// What a block without transactions sets.
#[derive(Default)]
struct Setting {
    writes: Vec<Write>,
    codes: Vec<Bytes>,
    burned: U256,
}

impl Setting {
    fn block(self, shard: ShardId, number: u64, parent: B256, round: u64) -> LocalBlock {
        LocalBlock {
            shard,
            number,
            parent,
            round,
            txs: Vec::new(),
            writes: self.writes,
            codes: self.codes,
            credits: Vec::new(),
            fees: U256::ZERO,
            burned: self.burned,
        }
    }
}
