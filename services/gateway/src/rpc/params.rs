//! Reads what a client has sent.

use alloy_eips::{BlockId, BlockNumberOrTag};
use alloy_primitives::{Address, B256, U64, U256};
use alloy_rpc_types_eth::state::StateOverride;
use alloy_rpc_types_eth::{BlockOverrides, TransactionRequest};
use atoll_evm::{CallRequest, bytecode};
use atoll_types::{BlockEnv, StateKey};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Shared;
use super::chain::Head;
use super::error::Failure;
use crate::call::{AccountPatch, Patch, Point};

/// The parameters of a request, by position.
pub(crate) struct Params(Vec<Value>);

impl From<Vec<Value>> for Params {
    fn from(values: Vec<Value>) -> Self {
        Self(values)
    }
}

impl Params {
    pub fn read(params: &jsonrpsee::types::Params<'_>) -> Result<Self, Failure> {
        let Some(text) = params.as_str() else {
            return Ok(Self(Vec::new()));
        };
        let list: Option<Vec<Value>> = serde_json::from_str(text)
            .map_err(|_| Failure::params("params must be a list, by position"))?;
        Ok(Self(list.unwrap_or_default()))
    }

    /// A parameter that has to be there.
    pub fn at<T: DeserializeOwned>(&self, index: usize, name: &str) -> Result<T, Failure> {
        self.maybe(index, name)?.ok_or_else(|| {
            Failure::params(format!("missing value for required argument {index} ({name})"))
        })
    }

    /// A parameter that may be absent or null.
    pub fn maybe<T: DeserializeOwned>(
        &self,
        index: usize,
        name: &str,
    ) -> Result<Option<T>, Failure> {
        match self.0.get(index) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => T::deserialize(value).map(Some).map_err(|error| {
                Failure::params(format!("invalid argument {index} ({name}): {error}"))
            }),
        }
    }

    pub fn value(&self, index: usize) -> Option<&Value> {
        self.0.get(index)
    }

    /// A number, as hexadecimal text or as JSON's own.
    pub fn number(&self, index: usize, name: &str) -> Result<u64, Failure> {
        match self.0.get(index).and_then(Value::as_u64) {
            Some(number) => Ok(number),
            None => Ok(self.at::<U64>(index, name)?.to()),
        }
    }

    /// A block's number or tag.
    pub fn block_number(&self, index: usize) -> Result<BlockNumberOrTag, Failure> {
        self.at(index, "block")
    }
}

/// Which place in history a request means.
pub(crate) struct Asked {
    pub point: Point,
    /// It is the newest one.
    pub newest: bool,
}

impl Shared {
    /// The number that a tag stands for; `None` if there is no such block yet.
    pub fn number_at(&self, head: &Head, block: BlockNumberOrTag) -> Option<u64> {
        match block {
            BlockNumberOrTag::Latest | BlockNumberOrTag::Pending => Some(head.latest),
            BlockNumberOrTag::Safe | BlockNumberOrTag::Finalized => Some(head.finalized),
            BlockNumberOrTag::Earliest => Some(0),
            BlockNumberOrTag::Number(number) => Some(number).filter(|n| *n <= head.latest),
        }
    }

    pub async fn number_of(&self, head: &Head, block: BlockId) -> Result<Option<u64>, Failure> {
        match block {
            BlockId::Number(block) => Ok(self.number_at(head, block)),
            BlockId::Hash(hash) => self.chain.number_of(hash.block_hash).await,
        }
    }

    /// The state after a block, as far as shards still keep it.
    pub async fn asked(&self, block: Option<BlockId>) -> Result<Asked, Failure> {
        let head = self.chain.head().await?;
        let number = self.number_of(&head, block.unwrap_or_default()).await?;
        let number = number.ok_or_else(Failure::no_block)?;
        let newest = number == head.latest;
        let beacon = self.chain.beacon_block(number, &self.context()).await?;
        let env = beacon.ok_or_else(Failure::no_block)?.env;
        // What is final everywhere shows at once in the newest state.
        let cut = if newest { head.cut } else { number + 1 };
        Ok(Asked { point: Point { cut, min_cut: head.cut, env }, newest })
    }

    /// Reads parameters of a call: request, block, overrides of state, overrides of the block.
    pub async fn read_call(
        &self,
        params: &Params,
    ) -> Result<(TransactionRequest, Asked, Patch), Failure> {
        let request: TransactionRequest = params.at(0, "transaction")?;
        let block = params.maybe(1, "block")?;
        let state = params.maybe(2, "state overrides")?;
        let overrides = params.maybe(3, "block overrides")?;
        let (asked, patch) = self.call_at(&request, block, state, overrides).await?;
        Ok((request, asked, patch))
    }

    /// Where a call runs, and what it sees instead of what is there.
    pub async fn call_at(
        &self,
        request: &TransactionRequest,
        block: Option<BlockId>,
        state: Option<StateOverride>,
        overrides: Option<BlockOverrides>,
    ) -> Result<(Asked, Patch), Failure> {
        check_carried(request)?;
        let mut asked = self.asked(block).await?;
        if let Some(overrides) = overrides {
            override_block(&mut asked.point.env, &overrides)?;
        }
        Ok((asked, patch(state.unwrap_or_default())?))
    }
}

/// Calls and estimates would be wrong without what they cannot be given.
pub(crate) fn check_carried(request: &TransactionRequest) -> Result<(), Failure> {
    if request.authorization_list.as_ref().is_some_and(|list| !list.is_empty()) {
        return Err(Failure::params(
            "`authorizationList` is not supported in calls and estimates; a transaction with one \
             needs its `gas` given (25000 for each authorization besides)",
        ));
    }
    Ok(())
}

/// What the EVM is told of a request.
pub(crate) fn call_request(request: &TransactionRequest, gas: u64) -> CallRequest {
    CallRequest {
        from: request.from.unwrap_or_default(),
        to: request.to.and_then(|to| to.to().copied()),
        gas: Some(gas),
        gas_price: request.gas_price.or(request.max_fee_per_gas).unwrap_or_default(),
        value: request.value.unwrap_or_default(),
        input: request.input.input().cloned().unwrap_or_default(),
        access_list: request.access_list.clone().unwrap_or_default(),
    }
}

pub(crate) fn override_block(env: &mut BlockEnv, with: &BlockOverrides) -> Result<(), Failure> {
    if with.block_hash.as_ref().is_some_and(|hashes| !hashes.is_empty()) {
        return Err(Failure::params("block override `blockHash` is not supported"));
    }
    let small = |number: U256| number.saturating_to::<u64>();
    env.number = with.number.map_or(env.number, small);
    env.timestamp = with.time.unwrap_or(env.timestamp);
    env.gas_limit = with.gas_limit.unwrap_or(env.gas_limit);
    env.coinbase = with.coinbase.unwrap_or(env.coinbase);
    env.randomness = with.random.unwrap_or(env.randomness);
    env.base_fee = with.base_fee.map_or(env.base_fee, small);
    Ok(())
}

pub(crate) fn patch(overrides: StateOverride) -> Result<Patch, Failure> {
    let mut patch = Patch::default();
    for (address, account) in overrides {
        if account.move_precompile_to.is_some() {
            return Err(Failure::params(
                "state override `movePrecompileToAddress` is not supported",
            ));
        }
        let code = account.code.map(|code| {
            let code = bytecode(code);
            let hash = code.hash_slow();
            patch.codes.insert(hash, code);
            hash
        });
        let whole = account.state.is_some();
        let slots = account.state.into_iter().chain(account.state_diff).flatten();
        let word = |word: B256| U256::from_be_bytes(word.0);
        let slots = slots.map(|(slot, value)| (word(slot), word(value))).collect();
        let (balance, nonce) = (account.balance, account.nonce);
        patch.accounts.insert(address, AccountPatch { balance, nonce, code, whole, slots });
    }
    Ok(patch)
}

/// Balance, nonce and code of an account.
pub(crate) fn account_keys(address: Address) -> [StateKey; 2] {
    [StateKey::Basic(address), StateKey::Code(address)]
}
