//! `eth_simulateV1`: calls that follow one another, in blocks that there are not.

use std::sync::Arc;

use alloy_consensus::proofs::{calculate_receipt_root, calculate_transaction_root};
use alloy_consensus::{
    EMPTY_OMMER_ROOT_HASH, Eip658Value, Header, ReceiptEnvelope, ReceiptWithBloom,
    SignableTransaction as _, TxEip1559, TxEnvelope, transaction::Recovered,
};
use alloy_primitives::{B256, Bloom, Log, Signature, U64, U256};
use alloy_rpc_types_eth::simulate::{SimBlock, SimulatePayload};
use alloy_rpc_types_eth::{Transaction, TransactionRequest};
use atoll_evm::{
    CallEnd, CallOutcome, CallRequest, CallResult, Executor, Overlay, Rules, StateView as _,
};
use atoll_fabric::Context;
use atoll_types::{Address, Basic, BlockEnv, CodeRef, StateKey, StateValue};
use serde_json::{Value, json};

use super::Shared;
use super::account::TRIES;
use super::block::header;
use super::error::Failure;
use super::params::{Params, call_request, check_carried, override_block, patch};
use crate::call::{AccountPatch, Attempt, Failed, Known, Patch};

/// Codes of the method's own.
const NUMBERS: i32 = -38020;
const TIMES: i32 = -38021;
const TOO_MANY: i32 = -38026;
const BLOCK_GAS: i32 = -38015;
const HALTED: i32 = -32015;
/// Seconds between two blocks.
const STEP: u64 = 1;
/// Added to an account's incarnation to void its slots: no account is destroyed so often.
const VOIDED: u32 = 1 << 31;

/// What is simulated.
struct Simulation {
    blocks: Vec<Planned>,
    rules: Rules,
    /// Gas of all calls.
    gas: u64,
    context: Context,
}

struct Planned {
    env: BlockEnv,
    patch: Patch,
    calls: Vec<TransactionRequest>,
}

/// A call that was carried out: its nonce, its gas limit, what it gave.
type Ran = (u64, u64, CallResult);

impl Shared {
    pub async fn simulate(&self, params: &Params) -> Result<Value, Failure> {
        let payload: SimulatePayload = params.at(0, "payload")?;
        for (asked, name) in
            [(payload.validation, "validation"), (payload.trace_transfers, "traceTransfers")]
        {
            if asked {
                return Err(Failure::params(format!("`{name}` is not supported")));
            }
        }
        let limits = &self.ledger.limits;
        let (blocks, calls) = (limits.rpc.simulated_blocks, limits.rpc.simulated_calls);
        let count: usize = payload.block_state_calls.iter().map(|block| block.calls.len()).sum();
        if payload.block_state_calls.len() > blocks || count > calls {
            let message = format!("more than {blocks} blocks or {calls} calls, the limit");
            return Err(Failure::new(TOO_MANY, message));
        }
        let block = params.maybe(1, "block")?;
        let mut asked = self.asked(block).await?;
        let context = self.context();
        let planned = planned(asked.point.env, payload.block_state_calls)?;
        let simulation = Arc::new(Simulation {
            blocks: planned,
            rules: self.ledger.calls.rules,
            gas: limits.call_gas,
            context: context.clone(),
        });
        let parent = self.chain.beacon_block(asked.point.env.number, &context).await?;
        let parent = parent.ok_or_else(Failure::no_block)?.hash();
        let _place = self.ledger.calls.places.try_acquire().map_err(|_| {
            Failure::limit(format!("{} calls are under way, the limit", limits.calls))
        })?;
        for left in (0..TRIES).rev() {
            let mut known = Known::default();
            let job = {
                let simulation = simulation.clone();
                move |view: &Known| simulation.run(view)
            };
            let calls = &self.ledger.calls;
            match calls.complete(job, [].into_iter(), asked.point, &mut known, &context).await {
                Err(Failed::CutTooOld) if asked.newest && left > 0 => {
                    asked = self.asked(None).await?;
                }
                Err(failed) => return Err(failed.into()),
                Ok(ran) => {
                    return told(&simulation, ran?, parent, payload.return_full_transactions);
                }
            }
        }
        Err(Failed::CutTooOld.into())
    }
}

/// The blocks with their values: each follows the one before.
fn planned(base: BlockEnv, blocks: Vec<SimBlock>) -> Result<Vec<Planned>, Failure> {
    let mut before = base;
    let mut all = Vec::with_capacity(blocks.len());
    for block in blocks {
        let number = before.number.saturating_add(1);
        let timestamp = before.timestamp.saturating_add(STEP);
        // Nothing is charged, so that gas has no price.
        let mut env = BlockEnv { number, timestamp, base_fee: 0, ..before };
        override_block(&mut env, &block.block_overrides.unwrap_or_default())?;
        if env.number != number {
            let message = format!("block numbers must follow one another: {number} comes next");
            return Err(Failure::new(NUMBERS, message));
        }
        if env.timestamp <= before.timestamp {
            return Err(Failure::new(TIMES, "block timestamps must be in order"));
        }
        block.calls.iter().try_for_each(check_carried)?;
        let patch = patch(block.state_overrides.unwrap_or_default())?;
        all.push(Planned { env, patch, calls: block.calls });
        before = env;
    }
    Ok(all)
}

impl Simulation {
    fn run(&self, view: &Known) -> Attempt<Result<Vec<Vec<Ran>>, Failure>> {
        let mut state = Overlay::new(view);
        let (mut keys, mut codes) = (Vec::new(), Vec::new());
        let (mut left, mut all) = (self.gas, Vec::new());
        for block in &self.blocks {
            for (address, account) in &block.patch.accounts {
                replace(&mut state, *address, account, &block.patch, &mut keys);
            }
            let mut evm = Executor::with_rules(&block.env, self.rules);
            let (mut ran, mut room) = (Vec::new(), block.env.gas_limit);
            for request in &block.calls {
                if self.context.expired() {
                    let late = Failure::limit("the simulation takes too long");
                    return Attempt::Done(Err(late));
                }
                let gas = request.gas.unwrap_or(room).min(left);
                if request.gas.is_some_and(|gas| gas > room) || gas == 0 {
                    let message = format!("block gas limit reached: {room} are left");
                    return Attempt::Done(Err(Failure::new(BLOCK_GAS, message)));
                }
                let call: CallRequest = call_request(request, gas);
                let nonce = nonce_of(&state, call.from, &mut keys);
                let (run, effects) = evm.call_in_order(&call, &state);
                keys.extend(run.missing);
                codes.extend(run.missing_codes);
                match run.outcome {
                    CallOutcome::Missing => continue,
                    CallOutcome::Invalid(_) if !keys.is_empty() => continue,
                    CallOutcome::Invalid(reason) => {
                        return Attempt::Done(Err(Failure::server(reason.to_string())));
                    }
                    CallOutcome::Done(result) => {
                        (room, left) = (
                            room.saturating_sub(result.gas_used),
                            left - result.gas_used.min(left),
                        );
                        ran.push((nonce, gas, result));
                    }
                }
                effects.iter().for_each(|effects| state.apply(effects));
            }
            all.push(ran);
        }
        if keys.is_empty() && codes.is_empty() {
            return Attempt::Done(Ok(all));
        }
        keys.sort_unstable();
        keys.dedup();
        codes.sort_unstable();
        codes.dedup();
        Attempt::Lacks(keys, codes)
    }
}

/// A value as it is, or that it is missing.
fn read(state: &Overlay<'_, Known>, key: StateKey, missing: &mut Vec<StateKey>) -> StateValue {
    state.read(&key).unwrap_or_else(|| {
        missing.push(key);
        key.absent()
    })
}

fn nonce_of(state: &Overlay<'_, Known>, address: Address, missing: &mut Vec<StateKey>) -> u64 {
    read(state, StateKey::Basic(address), missing).basic().nonce
}

/// Puts something else in an account's place.
fn replace(
    state: &mut Overlay<'_, Known>,
    address: Address,
    with: &AccountPatch,
    patch: &Patch,
    missing: &mut Vec<StateKey>,
) {
    let (basic_key, code_key) = (StateKey::Basic(address), StateKey::Code(address));
    let basic = read(state, basic_key, missing).basic();
    let nonce = with.nonce.unwrap_or(basic.nonce);
    let balance = with.balance.unwrap_or(basic.balance);
    state.set(basic_key, StateValue::Basic(Basic { nonce, balance }));
    let CodeRef { mut hash, mut incarnation } = read(state, code_key, missing).code();
    if let Some(code) = with.code.and_then(|hash| patch.codes.get(&hash)) {
        hash = state.insert_code(code.original_bytes());
    }
    if with.whole {
        incarnation = if incarnation < VOIDED { incarnation + VOIDED } else { incarnation + 1 };
    }
    state.set(code_key, StateValue::Code(CodeRef { hash, incarnation }));
    for (slot, word) in &with.slots {
        let key = StateKey::Slot(address, incarnation, *slot);
        state.set(key, StateValue::Slot(*word));
    }
}

/// The blocks as they would be, each with what its calls gave.
fn told(
    simulation: &Simulation,
    ran: Vec<Vec<Ran>>,
    mut parent: B256,
    full: bool,
) -> Result<Value, Failure> {
    let mut blocks = Vec::with_capacity(ran.len());
    for (block, ran) in simulation.blocks.iter().zip(ran) {
        let (hash, told) = block_of(block, &ran, parent, full)?;
        parent = hash;
        blocks.push(told);
    }
    Ok(Value::Array(blocks))
}

fn block_of(
    block: &Planned,
    ran: &[Ran],
    parent: B256,
    full: bool,
) -> Result<(B256, Value), Failure> {
    let env = &block.env;
    let (mut txs, mut receipts) = (Vec::with_capacity(ran.len()), Vec::with_capacity(ran.len()));
    let (mut used, mut bloom) = (0u64, Bloom::ZERO);
    for (request, (nonce, gas, result)) in block.calls.iter().zip(ran) {
        txs.push(unsigned(request, env.chain_id, *nonce, *gas));
        used = used.saturating_add(result.gas_used);
        let success = result.end == CallEnd::Success;
        let receipt = ReceiptWithBloom::from(alloy_consensus::Receipt {
            status: Eip658Value::Eip658(success),
            cumulative_gas_used: used,
            logs: if success { result.logs.clone() } else { Vec::new() },
        });
        bloom |= receipt.logs_bloom;
        receipts.push(ReceiptEnvelope::Eip1559(receipt));
    }
    let (transactions_root, receipts_root) =
        (calculate_transaction_root(&txs), calculate_receipt_root(&receipts));
    let hash = Header {
        parent_hash: parent,
        ommers_hash: EMPTY_OMMER_ROOT_HASH,
        beneficiary: env.coinbase,
        transactions_root,
        receipts_root,
        logs_bloom: bloom,
        number: env.number,
        gas_limit: env.gas_limit,
        gas_used: used,
        timestamp: env.timestamp,
        mix_hash: env.randomness,
        base_fee_per_gas: Some(env.base_fee),
        // Nothing says what the state's root would be.
        state_root: B256::ZERO,
        ..Header::default()
    };
    let hash = hash.hash_slow();
    let mut told = header(env, parent);
    told["hash"] = json!(hash);
    told["transactionsRoot"] = json!(transactions_root);
    told["receiptsRoot"] = json!(receipts_root);
    told["logsBloom"] = json!(bloom);
    told["gasUsed"] = json!(U64::from(used));
    told["uncles"] = json!([]);
    let mut place = 0;
    let calls = ran.iter().zip(&txs).enumerate().map(|(index, ((_, _, result), tx))| {
        call(result, |log| {
            place += 1;
            log_of(log, env, hash, *tx.tx_hash(), (index, place - 1))
        })
    });
    told["calls"] = calls.collect();
    let listed = txs.into_iter().zip(&block.calls).enumerate().map(|(index, (tx, request))| {
        if !full {
            return Ok(json!(tx.tx_hash()));
        }
        let whole = Transaction {
            inner: Recovered::new_unchecked(tx, request.from.unwrap_or_default()),
            block_hash: Some(hash),
            block_number: Some(env.number),
            transaction_index: Some(index as u64),
            effective_gas_price: Some(u128::from(env.base_fee)),
            block_timestamp: Some(env.timestamp),
        };
        serde_json::to_value(whole).map_err(|error| Failure::internal(error.to_string()))
    });
    told["transactions"] = listed.collect::<Result<Value, Failure>>()?;
    Ok((hash, told))
}

/// The transaction that a call would be, signed by nobody.
fn unsigned(request: &TransactionRequest, chain_id: u64, nonce: u64, gas: u64) -> TxEnvelope {
    let tx = TxEip1559 {
        chain_id,
        nonce: request.nonce.unwrap_or(nonce),
        gas_limit: gas,
        max_fee_per_gas: request.max_fee_per_gas.or(request.gas_price).unwrap_or_default(),
        max_priority_fee_per_gas: request.max_priority_fee_per_gas.unwrap_or_default(),
        to: request.to.unwrap_or_default(),
        value: request.value.unwrap_or_default(),
        access_list: request.access_list.clone().unwrap_or_default(),
        input: request.input.input().cloned().unwrap_or_default(),
    };
    tx.into_signed(Signature::new(U256::ZERO, U256::ZERO, false)).into()
}

fn call(result: &CallResult, log: impl FnMut(&Log) -> Value) -> Value {
    let success = result.end == CallEnd::Success;
    let logs: Vec<Value> = if success { result.logs.iter().map(log).collect() } else { vec![] };
    let mut told = json!({
        "returnData": result.output,
        "logs": logs,
        "gasUsed": U64::from(result.gas_used),
        "status": U64::from(u8::from(success)),
    });
    match &result.end {
        CallEnd::Success => {}
        CallEnd::Reverted => {
            let Failure { code, message, data } = Failure::reverted(&result.output);
            told["error"] = json!({ "code": code, "message": message, "data": data });
        }
        CallEnd::Halted { reason, .. } => {
            told["error"] = json!({ "code": HALTED, "message": reason });
        }
    }
    told
}

fn log_of(log: &Log, env: &BlockEnv, block: B256, tx: B256, (index, place): (usize, u64)) -> Value {
    json!({
        "address": log.address,
        "topics": log.topics(),
        "data": log.data.data,
        "blockHash": block,
        "blockNumber": U64::from(env.number),
        "blockTimestamp": U64::from(env.timestamp),
        "transactionHash": tx,
        "transactionIndex": U64::from(index),
        "logIndex": U64::from(place),
        "removed": false,
    })
}
