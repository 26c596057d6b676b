//! Transactions in.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use alloy_consensus::TypedTransaction;
use alloy_eips::Encodable2718 as _;
use alloy_primitives::{Address, B256, Bytes, Signature, U256, map::HashMap};
use atoll_api::state::TxStatus;
use atoll_types::Tx;
use atoll_wire::v1::SubmitOutcome;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::Shared;
use super::error::Failure;
use super::params::Params;
use crate::outcome::Offered;

/// Transactions that came this way of late, numbered, for those who ask for them before they are in a
/// block. What came first goes first.
pub(crate) struct Sent {
    limit: usize,
    next: watch::Sender<u64>,
    inner: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    order: VecDeque<B256>,
    txs: HashMap<B256, Tx>,
    bytes: usize,
}

/// Memory for them.
const SENT_BYTES: usize = 32 << 20;

impl Sent {
    pub fn new(limit: usize) -> Self {
        Self { limit, next: watch::Sender::new(0), inner: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, tx: Tx) {
        let mut kept = self.lock();
        let (hash, size) = (*tx.hash(), tx.raw().len());
        if kept.txs.insert(hash, tx).is_some() {
            return;
        }
        kept.order.push_back(hash);
        kept.bytes += size;
        while kept.order.len() > self.limit || kept.bytes > SENT_BYTES {
            let Some(oldest) = kept.order.pop_front() else { break };
            let gone = kept.txs.remove(&oldest);
            kept.bytes -= gone.map_or(0, |tx| tx.raw().len());
        }
        self.next.send_modify(|next| *next += 1);
    }

    pub fn get(&self, hash: &B256) -> Option<Tx> {
        self.lock().txs.get(hash).cloned()
    }

    /// The number of the one that comes next.
    pub fn next(&self) -> u64 {
        *self.next.borrow()
    }

    pub fn follow(&self) -> watch::Receiver<u64> {
        self.next.subscribe()
    }

    /// Hashes from a number on, as far as they are kept, and the number after them.
    pub fn after(&self, number: u64) -> (Vec<B256>, u64) {
        let kept = self.lock();
        let next = *self.next.borrow();
        let count = usize::try_from(next.saturating_sub(number)).unwrap_or(usize::MAX);
        let skip = kept.order.len().saturating_sub(count);
        (kept.order.iter().skip(skip).copied().collect(), next)
    }
}

impl Shared {
    pub async fn send_raw(&self, params: &Params) -> Result<Value, Failure> {
        let raw: Bytes = params.at(0, "transaction")?;
        Ok(json!(self.submit(raw).await?))
    }

    pub async fn submit(&self, raw: Bytes) -> Result<B256, Failure> {
        let offered = self.ledger.singles.submit(&raw, None).await;
        let hash = told(offered)?;
        let sender = self.ledger.submitter.recent.get(&hash).map(|origin| origin.sender);
        if let Some(Ok(tx)) = sender.map(|sender| Tx::trusted(raw, sender, None)) {
            self.sent.add(tx);
        }
        Ok(hash)
    }

    /// Takes a transaction that nobody has signed, as one of `from`: for development alone. Its
    /// signature names the sender, so that no two senders have the same transaction.
    pub async fn submit_as(
        &self,
        from: Address,
        unsigned: TypedTransaction,
    ) -> Result<B256, Failure> {
        let signature = Signature::new(U256::from_be_slice(from.as_slice()), U256::ONE, false);
        let raw = unsigned.into_envelope(signature).encoded_2718().into();
        let tx = Tx::trusted(raw, from, None).map_err(|e| Failure::params(e.to_string()))?;
        let submitter = &self.ledger.submitter;
        let shard = submitter.placement.owner(&from);
        let offered = submitter.offer(shard, None, vec![tx.clone()]).await.pop();
        let hash = told(offered.ok_or_else(|| Failure::internal("the transaction has no end"))?)?;
        self.sent.add(tx);
        Ok(hash)
    }

    /// Takes transactions that came in one batch, in its order.
    pub async fn submit_together(&self, raws: &[Bytes]) -> Vec<Result<B256, Failure>> {
        let _place = match self.place() {
            Ok(place) => place,
            Err(failure) => return vec![Err(failure); raws.len()],
        };
        let ends = self.ledger.submitter.together(raws).await;
        let ends = ends.into_iter().map(|(offered, tx)| {
            let hash = told(offered)?;
            tx.into_iter().for_each(|tx| self.sent.add(tx));
            Ok(hash)
        });
        ends.collect()
    }

    /// EIP-7966: answers with the receipt.
    pub async fn send_raw_sync(&self, params: &Params) -> Result<Value, Failure> {
        let raw: Bytes = params.at(0, "transaction")?;
        let longest = self.ledger.limits.rpc.sync_wait;
        let wait = match params.value(1) {
            None | Some(Value::Null) => longest,
            Some(_) => Duration::from_millis(params.number(1, "timeout")?).min(longest),
        };
        let deadline = Instant::now() + wait;
        let mut head = self.chain.head.subscribe();
        let hash = self.submit(raw).await?;
        loop {
            head.borrow_and_update();
            if let Some((block, index)) = self.find(hash).await? {
                return Ok(json!(block.receipt(index)));
            }
            let status = self.ledger.receipts.look_up(hash, self.context()).await?;
            if let Some(TxStatus::Dropped { reason }) = status {
                return Err(Failure::server(reason));
            }
            if tokio::time::timeout_at(deadline, head.changed()).await.is_err() {
                let ms = wait.as_millis();
                let message = format!("the transaction was taken and has no receipt after {ms} ms");
                return Err(Failure::no_receipt_yet(hash, message));
            }
        }
    }
}

/// The hash of a transaction that was taken, or why it was not in the words of libraries.
fn told(offered: Offered) -> Result<B256, Failure> {
    match (offered.outcome, offered.hash) {
        (SubmitOutcome::Taken, Some(hash)) => Ok(hash),
        (SubmitOutcome::WrongChain, _) => {
            Err(Failure::server(format!("invalid sender: {}", offered.message)))
        }
        (SubmitOutcome::Overloaded | SubmitOutcome::MempoolFull, _) => {
            Err(Failure::limit(offered.message))
        }
        (SubmitOutcome::Undecodable | SubmitOutcome::UnsupportedType, _) => {
            Err(Failure::params(offered.message))
        }
        _ => Err(Failure::server(offered.message)),
    }
}
