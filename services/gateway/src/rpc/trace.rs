//! `debug_trace…`: what transactions and calls did, in geth's words.

use std::sync::Arc;

use alloy_eips::{BlockId, BlockNumberOrTag};
use alloy_primitives::B256;
use alloy_rpc_types_eth::TransactionRequest;
use atoll_evm::{
    CallRequest, Executor, GethDebugTracingCallOptions, GethDebugTracingOptions, GethTrace,
    TraceOutcome, Tracer,
};
use atoll_fabric::Context;
use atoll_types::ReceiptKind;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::Shared;
use super::account::TRIES;
use super::block::Block;
use super::error::Failure;
use super::params::{Asked, Params, call_request};
use crate::call::{Attempt, Failed, Known, Patch, Point};
use crate::replay::{Replay, ReplayError, Step, Told, text};

/// A transaction's part of a traced block.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OfBlock {
    tx_hash: B256,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Shared {
    pub async fn trace(&self, method: &str, params: Params) -> Result<Box<RawValue>, Failure> {
        let _place = self.place()?;
        let context = self.context();
        let place = tokio::time::timeout(self.ledger.limits.patience(), self.traces.acquire());
        let _trace = place.await.map_err(|_| {
            let limit = self.ledger.limits.rpc.traces;
            Failure::limit(format!("{limit} traces are being made, the limit"))
        })?;
        match method {
            "debug_traceTransaction" => self.trace_transaction(&params, context).await,
            "debug_traceCall" => self.trace_call(&params, context).await,
            _ => self.trace_block(&params, context).await,
        }
    }

    fn tracer(&self, options: Option<GethDebugTracingOptions>) -> Result<Tracer, Failure> {
        // What it remembers is larger than the text that comes of it.
        let max_bytes = 2 * self.trace_bytes();
        Tracer::new(options.unwrap_or_default(), max_bytes)
            .map_err(|error| Failure::params(error.to_string()))
    }

    /// Longest text of traces, with room for what is around it.
    fn trace_bytes(&self) -> usize {
        let bytes = self.ledger.limits.rpc.response_bytes;
        usize::try_from(bytes - bytes / 8).unwrap_or(usize::MAX)
    }

    async fn trace_transaction(
        &self,
        params: &Params,
        context: Context,
    ) -> Result<Box<RawValue>, Failure> {
        let tracer = self.tracer(params.maybe(1, "options")?)?;
        let place = self.find(params.at(0, "hash")?).await?;
        let (block, index) = place.ok_or_else(|| Failure::server("transaction not found"))?;
        // What other shards' senders ran locally has touched nothing that this one uses.
        let shard = |at: usize| {
            let receipt = &block.entries[at].receipt;
            match receipt.kind {
                ReceiptKind::Group(_) => None,
                _ => Some(self.ledger.calls.placement.owner(&receipt.sender)),
            }
        };
        let before = (0..index).filter(|at| shard(*at).is_none() || shard(*at) == shard(index));
        let steps = before.map(|at| step(&block, at, false)).chain([step(&block, index, true)]);
        let told = self.replay(&block, steps.collect(), tracer, context).await?;
        let only = told.into_iter().next().ok_or_else(|| Failure::internal("nothing was told"))?;
        only.map_err(Failure::server)
    }

    async fn trace_block(
        &self,
        params: &Params,
        context: Context,
    ) -> Result<Box<RawValue>, Failure> {
        let tracer = self.tracer(params.maybe(1, "options")?)?;
        let id: BlockId = params.at(0, "block")?;
        let head = self.chain.head().await?;
        let number = self.number_of(&head, id).await?.ok_or_else(Failure::no_block)?;
        let block = self.chain.block(number).await?.ok_or_else(Failure::no_block)?;
        let steps = (0..block.entries.len()).map(|at| step(&block, at, true)).collect();
        let told = self.replay(&block, steps, tracer, context).await?;
        let all = block.entries.iter().zip(told).map(|(entry, told)| {
            let (result, error) = match told {
                Ok(trace) => (Some(trace), None),
                Err(reason) => (None, Some(reason)),
            };
            OfBlock { tx_hash: entry.receipt.tx, result, error }
        });
        raw(&all.collect::<Vec<_>>())
    }

    /// Executes transactions of a block anew, on the state before it.
    async fn replay(
        &self,
        block: &Block,
        steps: Vec<Step>,
        tracer: Tracer,
        context: Context,
    ) -> Result<Vec<Told>, Failure> {
        let head = self.chain.head().await?;
        let point = Point { cut: block.number(), min_cut: head.cut, env: block.env };
        let max_bytes = self.trace_bytes();
        let (env, rules, block) = (block.env, self.ledger.calls.rules, block.hash);
        let replay = Replay { env, rules, block, steps, tracer, max_bytes, context };
        let (replay, context) = (Arc::new(replay), self.context());
        let mut known = Known::with_room(self.ledger.limits.rpc.trace_keys);
        let job = {
            let replay = replay.clone();
            move |view: &Known| replay.run(view)
        };
        let accounts = replay.accounts().into_iter();
        let calls = &self.ledger.calls;
        let told = calls.complete(job, accounts, point, &mut known, &context).await?;
        told.map_err(|error| self.no_trace(error))
    }

    fn no_trace(&self, error: ReplayError) -> Failure {
        match error {
            ReplayError::Late => Failure::limit("the trace takes too long"),
            ReplayError::TooLong => Failure::limit(format!(
                "the trace is longer than {} bytes, the limit: ask with `limit`, `disableStack`, or \
                 another tracer",
                self.trace_bytes()
            )),
        }
    }

    async fn trace_call(
        &self,
        params: &Params,
        context: Context,
    ) -> Result<Box<RawValue>, Failure> {
        let request: TransactionRequest = params.at(0, "transaction")?;
        let options: Option<GethDebugTracingCallOptions> = params.maybe(2, "options")?;
        let options = options.unwrap_or_default();
        if options.tx_index.is_some() {
            return Err(Failure::params("option `txIndex` is not supported"));
        }
        let tracer = self.tracer(Some(options.tracing_options))?;
        let (state, block) = (options.state_overrides, options.block_overrides);
        let (asked, patch) =
            self.call_at(&request, params.maybe(1, "block")?, state, block).await?;
        let gas = request.gas.unwrap_or(u64::MAX).min(self.ledger.limits.call_gas);
        let request = Arc::new(call_request(&request, gas));
        let trace = self.traced(request, asked, Arc::new(patch), tracer, &context).await?;
        text(&trace, &mut self.trace_bytes()).map_err(|error| self.no_trace(error))
    }

    async fn traced(
        &self,
        request: Arc<CallRequest>,
        mut asked: Asked,
        patch: Arc<Patch>,
        tracer: Tracer,
        context: &Context,
    ) -> Result<Box<GethTrace>, Failure> {
        let (calls, env) = (&self.ledger.calls, asked.point.env);
        let rules = calls.rules;
        let accounts = [Some(request.from), request.to];
        let job = move |view: &Known| {
            let run = Executor::with_rules(&env, rules).trace_call(&request, view, &tracer);
            match run.outcome {
                TraceOutcome::Missing => Attempt::Lacks(run.missing, run.missing_codes),
                outcome => Attempt::Done(outcome),
            }
        };
        for left in (0..TRIES).rev() {
            let mut known = self.known(patch.clone());
            let first = accounts.into_iter().flatten();
            let point = Point { env, ..asked.point };
            match calls.complete(job.clone(), first, point, &mut known, context).await {
                Err(Failed::CutTooOld) if asked.newest && left > 0 => {
                    asked = self.asked(Some(BlockNumberOrTag::Latest.into())).await?;
                }
                Err(failed) => return Err(failed.into()),
                Ok(TraceOutcome::Done { trace, .. }) => return Ok(trace),
                Ok(TraceOutcome::TooLong) => return Err(self.no_trace(ReplayError::TooLong)),
                Ok(TraceOutcome::Invalid(reason)) => {
                    return Err(Failure::server(reason.to_string()));
                }
                Ok(TraceOutcome::Missing) => {
                    return Err(Failure::internal("a call lacks state at its end"));
                }
            }
        }
        Err(Failed::CutTooOld.into())
    }
}

/// A transaction of a block, to be executed anew.
fn step(block: &Block, index: usize, told: bool) -> Step {
    let entry = &block.entries[index];
    Step {
        tx: entry.tx.clone(),
        kind: entry.receipt.kind,
        status: entry.receipt.executed.status,
        gas_used: entry.receipt.executed.gas_used,
        told: told.then_some(index),
    }
}

fn raw(value: &impl Serialize) -> Result<Box<RawValue>, Failure> {
    to_raw_value(value).map_err(|error| Failure::internal(error.to_string()))
}
