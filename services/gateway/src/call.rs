//! `Call`: runs a message call on the state of all shards at one cut.
//!
//! The call is run on what is known of the cut, what it lacks is fetched from the owners, and so on
//! until it lacks nothing. Only that last run counts.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use alloy_primitives::{Address, B256, map::HashMap};
use atoll_api::beacon::Blocks;
use atoll_api::state::{Read, StateError};
use atoll_evm::{
    Bytecode, CallEnd, CallOutcome, CallRequest, CallResult, CallRun, CodeCache, Executor,
    OnMissing, Rules, StateView,
};
use atoll_fabric::Context;
use atoll_types::{
    Basic, BeaconBlock, BlockEnv, Bytes, CodeRef, KECCAK_EMPTY, Placement, ShardId, StateKey,
    StateValue, U256,
};
use atoll_wire::v1;
use futures::future;
use tokio::sync::Semaphore;
use tonic::Status;

use crate::outcome::exhausted;
use crate::pool::PoolError;
use crate::query::{check_cut, status_of};
use crate::{BeaconLinks, Limits, Pool, ShardLinks, convert};

/// Cuts that a call is tried at before it gives up.
const TRIES: usize = 3;
/// Time in milliseconds for which the beacon is asked to hold a request for its next block.
const BEACON_WAIT_MS: u64 = 5_000;

/// What every call shares.
pub(crate) struct Calls {
    pub placement: Placement,
    pub shards: Arc<[ShardLinks]>,
    pub beacon: BeaconLinks,
    pub pool: Pool,
    pub codes: Arc<CodeCache>,
    pub rules: Rules,
    pub limits: Limits,
    pub places: Arc<Semaphore>,
}

/// Values that a call is to see instead of those of the state.
#[derive(Clone, Debug, Default)]
pub(crate) struct Patch {
    pub accounts: HashMap<Address, AccountPatch>,
    pub codes: HashMap<B256, Bytecode>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct AccountPatch {
    pub balance: Option<U256>,
    pub nonce: Option<u64>,
    pub code: Option<B256>,
    /// All other slots are empty.
    pub whole: bool,
    pub slots: HashMap<U256, U256>,
}

impl Patch {
    fn apply(&self, key: &StateKey, value: StateValue) -> StateValue {
        let Some(account) = self.accounts.get(&key.address()) else {
            return value;
        };
        match (key, value) {
            (_, StateValue::Basic(basic)) => StateValue::Basic(Basic {
                nonce: account.nonce.unwrap_or(basic.nonce),
                balance: account.balance.unwrap_or(basic.balance),
            }),
            (_, StateValue::Code(code)) => {
                StateValue::Code(CodeRef { hash: account.code.unwrap_or(code.hash), ..code })
            }
            (StateKey::Slot(_, _, slot), StateValue::Slot(word)) => {
                let other = if account.whole { U256::ZERO } else { word };
                StateValue::Slot(account.slots.get(slot).copied().unwrap_or(other))
            }
            (_, value) => value,
        }
    }
}

/// What an attempt came to.
pub(crate) enum Attempt<T> {
    /// It needs these keys and these codes too.
    Lacks(Vec<StateKey>, Vec<B256>),
    Done(T),
}

/// What is known of the state at the cut.
#[derive(Default)]
pub(crate) struct Known {
    /// What is seen instead.
    pub patch: Arc<Patch>,
    /// Keys that it may come to hold, if they are more than those of a call.
    max_keys: usize,
    values: HashMap<StateKey, StateValue>,
    /// Code that this call needs, for as long as it runs: the cache may lose it.
    codes: HashMap<B256, Bytecode>,
    hashes: HashMap<u64, B256>,
    /// Beacon blocks whose hashes the last run asked for in vain.
    blocks_wanted: RefCell<BTreeSet<u64>>,
}

impl StateView for Known {
    fn read(&self, key: &StateKey) -> Option<StateValue> {
        let value = self.values.get(key).copied()?;
        Some(if self.patch.accounts.is_empty() { value } else { self.patch.apply(key, value) })
    }

    fn code(&self, hash: &B256) -> Option<Bytecode> {
        self.patch.codes.get(hash).or_else(|| self.codes.get(hash)).cloned()
    }

    fn block_hash(&self, number: u64) -> Option<B256> {
        let hash = self.hashes.get(&number).copied();
        if hash.is_none() {
            self.blocks_wanted.borrow_mut().insert(number);
        }
        hash
    }
}

impl Known {
    pub fn with(patch: Arc<Patch>) -> Self {
        Self { patch, ..Self::default() }
    }

    /// That may come to hold so many keys.
    pub fn with_room(max_keys: usize) -> Self {
        Self { max_keys, ..Self::default() }
    }

    /// Hashes of code that an account has and that is not here, each once.
    fn missing_codes(&self) -> Vec<B256> {
        let hash = |value: &StateValue| match value {
            StateValue::Code(code) if code.hash != KECCAK_EMPTY => Some(code.hash),
            _ => None,
        };
        let hashes = self.values.values().filter_map(hash);
        let missing = hashes.filter(|hash| !self.codes.contains_key(hash));
        missing.collect::<BTreeSet<_>>().into_iter().collect()
    }
}

/// A place in the chain's history, and the values that a call there sees.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point {
    pub cut: u64,
    /// All shards are to have passed this cut.
    pub min_cut: u64,
    pub env: BlockEnv,
}

/// Why a call has no result at a cut.
pub(crate) enum Failed {
    /// The shards no longer keep it.
    CutTooOld,
    Status(Status),
}

impl From<Status> for Failed {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl Calls {
    pub async fn call(
        &self,
        request: v1::CallRequest,
        context: Context,
    ) -> Result<v1::CallResponse, Status> {
        let limit = self.limits.calls;
        let _place = self
            .places
            .try_acquire()
            .map_err(|_| exhausted(format!("{limit} calls are under way, the limit")))?;
        let mut min_cut = request.min_cut;
        let request = Arc::new(self.read_request(request)?);
        for _ in 0..TRIES {
            let head = self.settled(min_cut, &context).await?;
            let cut = head.settled;
            let env = self.env_of(&head, &context).await?;
            let point = Point { cut, min_cut: head.number(), env };
            match self.run_at(&request, point, &context).await {
                Ok(result) => return respond(result, cut),
                Err(Failed::CutTooOld) => min_cut = cut + 1,
                Err(Failed::Status(status)) => return Err(status),
            }
        }
        Err(Status::unavailable("the shards drop old state faster than this call reads it; retry"))
    }

    fn read_request(&self, request: v1::CallRequest) -> Result<CallRequest, Status> {
        let address = |field, bytes: &[u8]| match bytes {
            [] => Ok(None),
            bytes => convert::read_address(field, bytes).map(Some),
        };
        let cap = self.limits.call_gas;
        Ok(CallRequest {
            from: address("from", &request.from)?.unwrap_or(Address::ZERO),
            to: address("to", &request.to)?,
            gas: Some(if request.gas == 0 { cap } else { request.gas.min(cap) }),
            value: convert::read_number("value", &request.value)?,
            input: Bytes::from(request.data),
            ..CallRequest::default()
        })
    }

    /// The newest beacon block, or the first one that has settled `min_cut`.
    async fn settled(&self, min_cut: u64, context: &Context) -> Result<Arc<BeaconBlock>, Status> {
        let mut head = self.beacon.newest(context).await?.block;
        check_cut(min_cut, head.number())?;
        while head.settled < min_cut {
            if context.expired() {
                return Err(Status::deadline_exceeded(format!(
                    "cut {min_cut} is not settled, the newest one that is is {}",
                    head.settled
                )));
            }
            let wait_ms = context.remaining().map_or(BEACON_WAIT_MS, |left| {
                u64::try_from(left.as_millis()).unwrap_or(u64::MAX).min(BEACON_WAIT_MS)
            });
            let request = Blocks { after: head.number(), max: 64, wait_ms };
            let blocks = self.beacon.blocks.call(context.clone(), request).await;
            let blocks = blocks.map_err(|error| status_of(&error, context))?.blocks;
            if let Some(newest) = blocks.into_iter().last() {
                head = newest;
            }
        }
        Ok(head)
    }

    /// The values that the call sees: those of the block of the cut.
    async fn env_of(&self, head: &BeaconBlock, context: &Context) -> Result<BlockEnv, Status> {
        let cut = head.settled;
        if cut == head.number() {
            return Ok(head.env);
        }
        Ok(self.block(cut, context).await?.env)
    }

    async fn block(&self, number: u64, context: &Context) -> Result<Arc<BeaconBlock>, Status> {
        let block = self.beacon.block(number, context).await?;
        block.ok_or_else(|| {
            Status::unavailable(format!("the beacon does not keep block {number}; retry"))
        })
    }

    async fn run_at(
        &self,
        request: &Arc<CallRequest>,
        point: Point,
        context: &Context,
    ) -> Result<CallResult, Failed> {
        match self.simulate(request, point, &mut Known::default(), context).await?.outcome {
            CallOutcome::Done(result) => Ok(result),
            CallOutcome::Invalid(reason) => {
                Err(Status::failed_precondition(reason.to_string()).into())
            }
            CallOutcome::Missing => Err(Status::internal("a call lacks state at its end").into()),
        }
    }

    /// Runs a call until it lacks nothing. What it learns stays in `known`, for calls at the same point.
    pub async fn simulate(
        &self,
        request: &Arc<CallRequest>,
        point: Point,
        known: &mut Known,
        context: &Context,
    ) -> Result<CallRun, Failed> {
        let (env, rules, call) = (point.env, self.rules, request.clone());
        let job = move |view: &Known| {
            let run = Executor::with_rules(&env, rules).call(&call, view, OnMissing::Assume);
            match run.outcome {
                CallOutcome::Missing => Attempt::Lacks(run.missing, run.missing_codes),
                CallOutcome::Done(_) | CallOutcome::Invalid(_) => Attempt::Done(run),
            }
        };
        let first = [Some(request.from), request.to];
        self.complete(job, first.into_iter().flatten(), point, known, context).await
    }

    /// Makes attempts until one lacks nothing. `first` are accounts that it needs in any case.
    pub async fn complete<T: Send + 'static>(
        &self,
        job: impl Fn(&Known) -> Attempt<T> + Clone + Send + 'static,
        first: impl Iterator<Item = Address>,
        point: Point,
        known: &mut Known,
        context: &Context,
    ) -> Result<T, Failed> {
        let Point { cut, min_cut, .. } = point;
        let first = first.flat_map(|address| [StateKey::Basic(address), StateKey::Code(address)]);
        let first: BTreeSet<StateKey> = first.collect();
        let mut wanted: (Vec<StateKey>, Vec<B256>) = (first.into_iter().collect(), Vec::new());
        wanted.0.retain(|key| !known.values.contains_key(key));
        for _ in 0..self.limits.call_passes {
            self.fetch(known, wanted, cut, min_cut, context).await?;
            // Who needs to know what code an account has nearly always runs it.
            let codes = known.missing_codes();
            if !codes.is_empty() {
                let wanted = (Vec::new(), codes);
                self.fetch(known, wanted, cut, min_cut, context).await?;
            }
            if let Some(hash) = known.missing_codes().first() {
                let status = Status::internal(format!("no shard has code {hash}"));
                return Err(status.into());
            }
            let attempt = self.attempt(job.clone(), known).await?;
            let blocks = known.blocks_wanted.take();
            for number in &blocks {
                let hash = self.block(*number, context).await?.hash();
                known.hashes.insert(*number, hash);
            }
            match attempt {
                Attempt::Lacks(keys, codes) => wanted = (keys, codes),
                Attempt::Done(_) if !blocks.is_empty() => wanted = Default::default(),
                Attempt::Done(done) => return Ok(done),
            }
            if context.expired() {
                let status = Status::deadline_exceeded("the call did not end in time");
                return Err(status.into());
            }
        }
        let limit = self.limits.call_passes;
        let status = Status::resource_exhausted(format!(
            "the call still reads new state after {limit} runs, the limit"
        ));
        Err(status.into())
    }

    /// Makes one attempt on the pool, on what is known.
    async fn attempt<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Known) -> T + Send + 'static,
        known: &mut Known,
    ) -> Result<T, Status> {
        let view = std::mem::take(known);
        match self.pool.run(move || (job(&view), view)).await {
            Ok((done, view)) => {
                *known = view;
                Ok(done)
            }
            Err(error @ PoolError::Full { .. }) => Err(exhausted(error.to_string())),
            Err(error @ PoolError::Panicked { .. }) => Err(Status::internal(error.to_string())),
        }
    }

    /// Values of keys at a cut.
    pub async fn values(
        &self,
        keys: &[StateKey],
        point: Point,
        context: &Context,
    ) -> Result<Vec<StateValue>, Failed> {
        let mut known = Known::default();
        let wanted = (keys.to_vec(), Vec::new());
        self.fetch(&mut known, wanted, point.cut, point.min_cut, context).await?;
        let value = |key: &StateKey| known.read(key).unwrap_or_else(|| key.absent());
        Ok(keys.iter().map(value).collect())
    }

    /// Gets keys and code from their owners, all at the cut.
    async fn fetch(
        &self,
        known: &mut Known,
        (keys, codes): (Vec<StateKey>, Vec<B256>),
        cut: u64,
        min_cut: u64,
        context: &Context,
    ) -> Result<(), Failed> {
        let limit = self.limits.call_keys.max(known.max_keys);
        if known.values.len() + keys.len() > limit {
            let status =
                Status::resource_exhausted(format!("the call reads over {limit} keys, the limit"));
            return Err(status.into());
        }
        let mut reads: BTreeMap<ShardId, (Vec<StateKey>, Vec<B256>)> = BTreeMap::new();
        for key in keys {
            reads.entry(self.placement.owner_of(&key)).or_default().0.push(key);
        }
        for hash in codes {
            if let Some(code) = self.codes.get(&hash) {
                known.codes.insert(hash, code);
                continue;
            }
            for shard in self.holders(known, hash) {
                reads.entry(shard).or_default().1.push(hash);
            }
        }
        let asked = reads.into_iter().map(|(shard, (keys, codes))| async move {
            let read = Read { keys: keys.clone(), codes: codes.clone(), at: Some(cut), min_cut };
            let link = &self.shards[usize::from(shard.0)].read;
            (keys, codes, link.call(context.clone(), read).await)
        });
        for (keys, codes, reply) in future::join_all(asked).await {
            let reply = reply.map_err(|error| match error {
                StateError::CutTooOld { .. } => Failed::CutTooOld,
                error => Failed::Status(status_of(&error, context)),
            })?;
            let fits = reply.values.len() == keys.len()
                && reply.codes.len() == codes.len()
                && keys.iter().zip(&reply.values).all(|(key, value)| key.holds(value));
            if !fits {
                let status = Status::internal("a shard answered other keys than it was asked for");
                return Err(status.into());
            }
            known.values.extend(keys.into_iter().zip(reply.values));
            for (hash, code) in codes.into_iter().zip(reply.codes) {
                if let Some(code) = code {
                    known.codes.insert(hash, self.codes.insert(code));
                }
            }
        }
        Ok(())
    }

    /// The shard of an account that has this code, if one is known; else all of them.
    fn holders(&self, known: &Known, hash: B256) -> Vec<ShardId> {
        let has = |value: &StateValue| matches!(value, StateValue::Code(code) if code.hash == hash);
        let account = known.values.iter().find(|(_, value)| has(value));
        match account {
            Some((key, _)) => vec![self.placement.owner_of(key)],
            None => self.placement.all().collect(),
        }
    }
}

fn respond(result: CallResult, cut: u64) -> Result<v1::CallResponse, Status> {
    let (outcome, message) = match result.end {
        CallEnd::Success => (v1::CallOutcome::Succeeded, String::new()),
        CallEnd::Reverted => (v1::CallOutcome::Reverted, String::new()),
        CallEnd::Halted { reason, .. } => (v1::CallOutcome::Halted, reason),
    };
    Ok(v1::CallResponse {
        outcome: outcome.into(),
        return_data: result.output.0,
        gas_used: result.gas_used,
        logs: convert::logs(result.logs),
        cut,
        message,
        contract_address: result.contract.map(convert::address).unwrap_or_default(),
    })
}
