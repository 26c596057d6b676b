//! Accounts, calls, and what only a chain of shards has.

use std::sync::Arc;

use alloy_primitives::{Address, B256, Bytes, U256};
use atoll_api::mempool::Pending;
use atoll_api::state::{Read, TxStatus};
use atoll_evm::{CallEnd, CallOutcome, CallResult};
use atoll_types::{KECCAK_EMPTY, ReceiptKind, StateKey, StateValue};
use serde_json::{Value, json};

use super::Shared;
use super::error::Failure;
use super::params::{Asked, Params, account_keys, call_request};
use super::quantity;
use crate::call::{Failed, Known, Patch, Point};
use crate::query::status_of;

/// Newest points that a request is tried at before it gives up: shards keep only recent ones.
pub(crate) const TRIES: usize = 3;

impl From<Failed> for Failure {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::CutTooOld => Self::server(
                "missing trie node: state at this block is no longer kept; shards keep that of the \
                 newest 256 blocks",
            ),
            Failed::Status(status) => status.into(),
        }
    }
}

impl Shared {
    /// Values of one account.
    pub async fn values(
        &self,
        asked: &Asked,
        keys: &[StateKey],
    ) -> Result<Vec<StateValue>, Failure> {
        let mut point = asked.point;
        for left in (0..TRIES).rev() {
            match self.ledger.calls.values(keys, point, &self.context()).await {
                Err(Failed::CutTooOld) if asked.newest && left > 0 => {
                    point = self.asked(None).await?.point;
                }
                other => return Ok(other?),
            }
        }
        Err(Failed::CutTooOld.into())
    }

    pub async fn balance(&self, params: &Params) -> Result<Value, Failure> {
        let address = params.at(0, "address")?;
        let asked = self.asked(params.maybe(1, "block")?).await?;
        let values = self.values(&asked, &[StateKey::Basic(address)]).await?;
        Ok(json!(values[0].basic().balance))
    }

    pub async fn transaction_count(&self, params: &Params) -> Result<Value, Failure> {
        let address: Address = params.at(0, "address")?;
        if params.value(1) == Some(&json!("pending")) {
            return Ok(quantity(self.next_nonce(address).await?));
        }
        let asked = self.asked(params.maybe(1, "block")?).await?;
        let values = self.values(&asked, &[StateKey::Basic(address)]).await?;
        Ok(quantity(values[0].basic().nonce))
    }

    /// The nonce that follows all of an account's transactions that can run.
    pub async fn next_nonce(&self, address: Address) -> Result<u64, Failure> {
        let shard = usize::from(self.ledger.calls.placement.owner(&address).0);
        let context = self.context();
        let pending = Pending { sender: address, tx: B256::ZERO };
        let pending = self.chain.links[shard].pending.call(context.clone(), pending).await;
        let pending = pending.map_err(|error| status_of(&error, &context))?;
        // After the pool: what leaves it in between is in the state.
        let keys = vec![StateKey::Basic(address)];
        let read = Read { keys, codes: vec![], at: None, min_cut: 0 };
        let read = self.ledger.calls.shards[shard].read.call(context.clone(), read).await;
        let read = read.map_err(|error| status_of(&error, &context))?;
        let nonce = read.values.first().map_or(0, |value| value.basic().nonce);
        Ok(pending.next.unwrap_or(0).max(nonce))
    }

    pub async fn code(&self, params: &Params) -> Result<Value, Failure> {
        let address: Address = params.at(0, "address")?;
        let asked = self.asked(params.maybe(1, "block")?).await?;
        let values = self.values(&asked, &[StateKey::Code(address)]).await?;
        let hash = values[0].code().hash;
        if hash == KECCAK_EMPTY {
            return Ok(json!("0x"));
        }
        let shard = self.ledger.calls.placement.owner(&address);
        let (context, codes) = (self.context(), vec![hash]);
        let read = Read { keys: vec![], codes, at: None, min_cut: 0 };
        let link = &self.ledger.calls.shards[usize::from(shard.0)].read;
        let reply = link.call(context.clone(), read).await;
        let reply = reply.map_err(|error| status_of(&error, &context))?;
        let code: Option<Bytes> = reply.codes.into_iter().next().flatten();
        code.map(|code| json!(code))
            .ok_or_else(|| Failure::internal(format!("shard {shard} does not have code {hash}")))
    }

    pub async fn storage_at(&self, params: &Params) -> Result<Value, Failure> {
        let address: Address = params.at(0, "address")?;
        let slot: U256 = params.at(1, "slot")?;
        let asked = self.asked(params.maybe(2, "block")?).await?;
        let code = self.values(&asked, &[StateKey::Code(address)]).await?;
        let key = StateKey::Slot(address, code[0].code().incarnation, slot);
        let values = self.values(&asked, &[key]).await?;
        Ok(json!(B256::from(values[0].slot())))
    }

    /// Runs a call, and says what it gave.
    pub async fn run(
        &self,
        request: atoll_evm::CallRequest,
        point: Point,
        known: &mut Known,
    ) -> Result<atoll_evm::CallRun, Failure> {
        let calls = &self.ledger.calls;
        let limit = self.ledger.limits.calls;
        let _place = calls
            .places
            .try_acquire()
            .map_err(|_| Failure::limit(format!("{limit} calls are under way, the limit")))?;
        Ok(calls.simulate(&Arc::new(request), point, known, &self.context()).await?)
    }

    pub async fn call(&self, params: &Params) -> Result<Value, Failure> {
        let (request, mut asked, patch) = self.read_call(params).await?;
        let gas = request.gas.unwrap_or(u64::MAX).min(self.ledger.limits.call_gas);
        let patch = Arc::new(patch);
        for left in (0..TRIES).rev() {
            let mut known = self.known(patch.clone());
            let simulated = {
                let calls = &self.ledger.calls;
                let limit = self.ledger.limits.calls;
                let _place = calls.places.try_acquire().map_err(|_| {
                    Failure::limit(format!("{limit} calls are under way, the limit"))
                })?;
                let request = Arc::new(call_request(&request, gas));
                calls.simulate(&request, asked.point, &mut known, &self.context()).await
            };
            match simulated {
                Err(Failed::CutTooOld) if asked.newest && left > 0 => {
                    let env = asked.point.env;
                    asked = self.asked(None).await?;
                    asked.point.env = env;
                }
                Err(failed) => return Err(failed.into()),
                Ok(run) => return Ok(json!(succeeded(run.outcome)?.output)),
            }
        }
        Err(Failed::CutTooOld.into())
    }

    pub fn known(&self, patch: Arc<Patch>) -> Known {
        Known::with(patch)
    }

    /// Which shard an address belongs to.
    pub fn placement(&self, params: &Params) -> Result<Value, Failure> {
        let placement = &self.ledger.calls.placement;
        let shard = placement.owner(&params.at(0, "address")?);
        Ok(json!({
            "shard": shard.0, "shards": placement.shards(), "epoch": placement.epoch,
        }))
    }

    /// Where a transaction is, and how it came there.
    pub async fn timeline(&self, params: &Params) -> Result<Value, Failure> {
        let hash = params.at(0, "hash")?;
        let head = self.chain.head().await?;
        Ok(match self.ledger.receipts.look_up(hash, self.context()).await? {
            None => Value::Null,
            Some(TxStatus::Pending) => json!({ "status": "pending" }),
            Some(TxStatus::Dropped { reason }) => json!({ "status": "dropped", "reason": reason }),
            Some(TxStatus::Done(event)) => {
                let receipt = &event.receipt;
                let shards: Vec<u16> = receipt.shards.iter().map(|shard| shard.0).collect();
                let (kind, group) = match receipt.kind {
                    ReceiptKind::Local => ("local", None),
                    ReceiptKind::Credit => ("credit", None),
                    ReceiptKind::Group(group) => ("group", Some(group.to_string())),
                };
                json!({
                    "status": match event.finality {
                        atoll_types::Finality::Executed => "executed",
                        atoll_types::Finality::Final => "final",
                    },
                    "kind": kind,
                    "group": group,
                    "shards": shards,
                    "senderShard": self.ledger.calls.placement.owner(&receipt.sender).0,
                    "round": quantity(receipt.round),
                    "shardBlock": quantity(receipt.block),
                    "index": quantity(u64::from(receipt.index)),
                    "cut": quantity(event.cut),
                    "closed": receipt.round <= head.latest,
                })
            }
        })
    }

    /// An account's balance and nonce.
    pub async fn basic(
        &self,
        asked: &Asked,
        address: Address,
        patch: &Patch,
    ) -> Result<U256, Failure> {
        let values = self.values(asked, &account_keys(address)).await?;
        let patched = patch.accounts.get(&address).and_then(|account| account.balance);
        Ok(patched.unwrap_or(values[0].basic().balance))
    }
}

/// What a call gave if it succeeded.
pub(crate) fn succeeded(outcome: CallOutcome) -> Result<CallResult, Failure> {
    match outcome {
        CallOutcome::Done(result) => match result.end {
            CallEnd::Success => Ok(result),
            CallEnd::Reverted => Err(Failure::reverted(&result.output)),
            CallEnd::Halted { reason, out_of_gas: true } => {
                Err(Failure::server(format!("out of gas: {reason}")))
            }
            CallEnd::Halted { reason, .. } => Err(Failure::server(reason)),
        },
        CallOutcome::Invalid(reason) => Err(Failure::server(reason.to_string())),
        CallOutcome::Missing => Err(Failure::internal("a call lacks state at its end")),
    }
}
