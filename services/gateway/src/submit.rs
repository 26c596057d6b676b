//! Takes signed bytes, recovers senders on the pool, and offers them to the senders' shards: streams
//! of batches, and what they share with single transactions.

use std::collections::BTreeMap;
use std::sync::Arc;

use alloy_primitives::B256;
use atoll_api::mempool::Submit;
use atoll_fabric::Context;
use atoll_telemetry::{
    Stage,
    metrics::{Timer, table},
};
use atoll_types::{Bytes, MAX_TX_BYTES, Placement, ShardId, TraceContext, Tx, TxError};
use atoll_wire::v1::{SubmitTransactionsRequest, SubmitTransactionsResponse};
use futures::{StreamExt, future, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use tracing::Instrument;

use crate::outcome::{Offered, exhausted};
use crate::recent::{Origin, Recent};
use crate::{Limits, RecoveryPool, ShardLinks};

/// Signatures recovered in one job of the pool.
const RECOVERED_AT_ONCE: usize = 64;
/// Batches of one stream between their arrival and the client's reading of the answer.
const STREAM_BATCHES: usize = 4;
/// Batches of one stream that are recovered at a time.
const STREAM_RECOVERIES: usize = 2;

/// The responses of one stream of batches.
pub(crate) type Responses = ReceiverStream<Result<SubmitTransactionsResponse, Status>>;

/// Bytes as they came, with the trace that they came under.
pub(crate) struct Raw {
    bytes: Bytes,
    trace: Option<TraceContext>,
}

impl Raw {
    // A copy: what a message is decoded to keeps all of that message in memory. What is too long is
    // not copied, only told.
    pub fn new(bytes: &[u8], trace: Option<TraceContext>) -> Result<Self, Offered> {
        if bytes.len() > MAX_TX_BYTES {
            return Err(Offered::unreadable(&TxError::Oversized {
                size: bytes.len(),
                limit: MAX_TX_BYTES,
            }));
        }
        Ok(Self { bytes: Bytes::copy_from_slice(bytes), trace })
    }

    fn recover(self, chain_id: u64) -> Result<Tx, Offered> {
        let Self { bytes, trace } = self;
        // Types end at 0x7f (EIP-2718), and what follows is neither a type nor a list.
        let has_type = bytes.first().is_some_and(|first| *first < 0x80);
        let recovered = Tx::recover(bytes, chain_id, trace);
        recovered.map_err(|error| match error {
            TxError::UnsupportedType { .. } if !has_type => {
                let reason = "neither a type nor the list of a legacy transaction".into();
                Offered::unreadable(&TxError::Undecodable { reason })
            }
            error => Offered::unreadable(&error),
        })
    }
}

/// What every submission shares.
pub(crate) struct Submitter {
    pub chain_id: u64,
    pub placement: Placement,
    pub shards: Arc<[ShardLinks]>,
    pub recovery: RecoveryPool,
    pub recent: Arc<Recent>,
    pub limits: Limits,
    /// Room for transactions of streams, in KiB.
    pub stream_room: Arc<Semaphore>,
    pub streams: Arc<Semaphore>,
}

impl Submitter {
    /// Starts a stream of batches. It is read as fast as there is room for it, and not at all while
    /// the client does not read the answers.
    pub fn stream(
        self: Arc<Self>,
        requests: Streaming<SubmitTransactionsRequest>,
        trace: Option<TraceContext>,
    ) -> Result<Responses, Status> {
        let limit = self.limits.submit_streams;
        let seat = self.streams.clone().try_acquire_owned().map_err(|_| {
            exhausted(format!("{limit} streams of transactions are open, the limit"))
        })?;
        let (responses, answers) = mpsc::channel(STREAM_BATCHES);
        let pipeline = async move {
            let closed = responses.clone();
            tokio::select! {
                () = self.pipeline(requests, responses, trace) => {}
                () = closed.closed() => {}
            }
            drop(seat);
        };
        tokio::spawn(pipeline);
        Ok(ReceiverStream::new(answers))
    }

    async fn pipeline(
        self: Arc<Self>,
        requests: Streaming<SubmitTransactionsRequest>,
        responses: mpsc::Sender<Result<SubmitTransactionsResponse, Status>>,
        trace: Option<TraceContext>,
    ) {
        // The place for the answer comes first: whatever has room can then go on to its end, even
        // if the client never reads.
        let arriving = stream::unfold((self.clone(), requests), |(submitter, mut requests)| {
            let responses = responses.clone();
            async move {
                let place = responses.reserve_owned().await.ok()?;
                let request = requests.message().await.transpose()?;
                let admitted = match request {
                    Ok(request) => submitter.admit(request).await,
                    Err(status) => Err(status),
                };
                Some(((place, admitted), (submitter, requests)))
            }
        });
        let recovered = arriving.map(|(place, admitted)| {
            let submitter = self.clone();
            async move {
                let recovered = match admitted {
                    Ok((request, room)) => {
                        let copy = |raw: &bytes::Bytes| Raw::new(raw, trace);
                        let raws = request.transactions.iter().map(copy).collect();
                        Ok((request.batch, submitter.recover(raws).await, room))
                    }
                    Err(status) => Err(status),
                };
                (place, recovered)
            }
        });
        let mut recovered = std::pin::pin!(recovered.buffered(STREAM_RECOVERIES));
        while let Some((place, recovered)) = recovered.next().await {
            match recovered {
                Ok((batch, txs, room)) => {
                    let offered = self.deliver(trace, txs).await;
                    drop(room);
                    let results = offered.into_iter().map(Offered::into_wire).collect();
                    place.send(Ok(SubmitTransactionsResponse { batch, results }));
                }
                Err(status) => {
                    place.send(Err(status));
                    return;
                }
            }
        }
    }

    /// Waits until there is room for the batch.
    async fn admit(
        &self,
        request: SubmitTransactionsRequest,
    ) -> Result<(SubmitTransactionsRequest, OwnedSemaphorePermit), Status> {
        let (found, limit) = (request.transactions.len(), self.limits.batch_transactions);
        if found > limit {
            return Err(Status::invalid_argument(format!(
                "batch {} has {found} transactions, the limit is {limit}",
                request.batch
            )));
        }
        let size = size_kib(&request.transactions);
        let room = self.stream_room.clone();
        match room.acquire_many_owned(size.min(stream_room_kib(&self.limits))).await {
            Ok(room) => Ok((request, room)),
            Err(_) => Err(Status::unavailable("the gateway is stopping")),
        }
    }

    /// Takes transactions that came together, once there is room for them, and waits for their
    /// ends; with each what was read of it.
    pub async fn together(&self, raws: &[Bytes]) -> Vec<(Offered, Option<Tx>)> {
        let size = size_kib(raws).min(stream_room_kib(&self.limits));
        let room = self.stream_room.acquire_many(size);
        let Ok(Ok(_room)) = tokio::time::timeout(self.limits.patience(), room).await else {
            let late = "too many transactions are under way; retry after a pause";
            return vec![(Offered::overloaded(late), None); raws.len()];
        };
        let copies = raws.iter().map(|raw| Raw::new(raw, None)).collect();
        let txs = self.recover(copies).await;
        let read: Vec<Option<Tx>> = txs.iter().map(|tx| tx.as_ref().ok().cloned()).collect();
        self.deliver(None, txs).await.into_iter().zip(read).collect()
    }

    /// Decodes transactions and recovers their senders, in order.
    pub async fn recover(&self, raws: Vec<Result<Raw, Offered>>) -> Vec<Result<Tx, Offered>> {
        let chain_id = self.chain_id;
        let mut jobs = Vec::new();
        let mut raws = raws.into_iter();
        loop {
            let chunk: Vec<_> = raws.by_ref().take(RECOVERED_AT_ONCE).collect();
            if chunk.is_empty() {
                break;
            }
            jobs.push(async move {
                let length = chunk.len();
                let recover = move |raw: Result<Raw, Offered>| raw?.recover(chain_id);
                let job = move || {
                    let timer = Timer::start();
                    let txs = chunk.into_iter().map(recover).collect::<Vec<_>>();
                    timer.stop(&table::STAGE, || vec!["recover".to_owned(), String::new()], None);
                    txs
                };
                match self.recovery.run(job).await {
                    Ok(txs) => txs,
                    Err(error) => vec![Err(Offered::not_recovered(&error)); length],
                }
            });
        }
        future::join_all(jobs).await.into_iter().flatten().collect()
    }

    /// Offers transactions to their senders' shards, in order, all shards at the same time.
    async fn deliver(
        &self,
        trace: Option<TraceContext>,
        recovered: Vec<Result<Tx, Offered>>,
    ) -> Vec<Offered> {
        let mut ends: Vec<Option<Offered>> = Vec::with_capacity(recovered.len());
        let mut by_shard: BTreeMap<ShardId, (Vec<usize>, Vec<Tx>)> = BTreeMap::new();
        for (index, tx) in recovered.into_iter().enumerate() {
            match tx {
                Ok(tx) => {
                    let shard = by_shard.entry(self.placement.owner(&tx.sender())).or_default();
                    shard.0.push(index);
                    shard.1.push(tx);
                    ends.push(None);
                }
                Err(refused) => ends.push(Some(refused)),
            }
        }
        let offers = by_shard.into_iter().map(|(shard, (indices, txs))| async move {
            (indices, self.offer(shard, trace, txs).await)
        });
        for (indices, offered) in future::join_all(offers).await {
            for (index, offered) in indices.into_iter().zip(offered) {
                ends[index] = Some(offered);
            }
        }
        ends.into_iter().flatten().collect()
    }

    /// Offers transactions to one shard.
    pub async fn offer(
        &self,
        shard: ShardId,
        trace: Option<TraceContext>,
        txs: Vec<Tx>,
    ) -> Vec<Offered> {
        // Each transaction's stages hang under its submit.
        let (_stages, txs): (Vec<Stage>, Vec<Tx>) =
            txs.into_iter().map(|tx| Stage::submit(shard, &tx).over(tx)).unzip();
        let named: Vec<(B256, _)> = txs.iter().map(|tx| (*tx.hash(), tx.sender())).collect();
        let context = Context { trace, deadline: None };
        let context = context.with_timeout(self.limits.offer_timeout);
        let span = tracing::debug_span!("offer", shard = shard.0, transactions = txs.len());
        let submit = &self.shards[usize::from(shard.0)].submit;
        let timer = Timer::start();
        let reply = submit.call(context, Submit { txs }).instrument(span).await;
        timer.stop(&table::STAGE, || vec!["submit".to_owned(), shard.to_string()], trace);
        let refused = match reply {
            Ok(reply) if reply.refused.len() == named.len() => reply.refused,
            Ok(reply) => {
                let reason = format!(
                    "shard {shard} answered for {} of {} transactions",
                    reply.refused.len(),
                    named.len()
                );
                let fault = atoll_fabric::Fault::Internal { reason };
                return failed(shard, trace, &named, &fault.into());
            }
            Err(error) => return failed(shard, trace, &named, &error),
        };
        let known = named.iter().zip(&refused).filter(|(_, refused)| {
            matches!(refused, None | Some(atoll_api::mempool::Refused::AlreadyKnown))
        });
        self.recent.extend(known.map(|((hash, sender), _)| {
            let sender = *sender;
            (*hash, Origin { shard, sender })
        }));
        let ends = named.iter().zip(&refused);
        ends.map(|((hash, _), refused)| match refused {
            None => Offered::taken(*hash),
            Some(refused) => Offered::refused(*hash, refused),
        })
        .collect()
    }
}

fn failed(
    shard: ShardId,
    trace: Option<TraceContext>,
    named: &[(B256, alloy_primitives::Address)],
    error: &atoll_api::mempool::MempoolError,
) -> Vec<Offered> {
    let (transactions, trace_id) = (named.len(), trace.map(|t| format!("{:032x}", t.trace_id)));
    tracing::warn!(%shard, %error, transactions, trace_id, "cannot offer transactions");
    let failed = |(hash, _): &(B256, _)| Offered::failed(*hash, error);
    named.iter().map(failed).collect()
}

/// What transactions count as: each a whole number of KiB, which makes up for what surrounds it.
pub(crate) fn size_kib(raws: &[impl AsRef<[u8]>]) -> u32 {
    let size = |raw: &[u8]| u32::try_from(raw.len() / 1024 + 1).unwrap_or(u32::MAX);
    raws.iter().fold(0, |sum: u32, raw| sum.saturating_add(size(raw.as_ref())))
}

/// Room for streams, in KiB: what single transactions leave. At least one batch fits, however large it is.
pub(crate) fn stream_room_kib(limits: &Limits) -> u32 {
    u32::try_from(limits.submit_bytes / 1024 / 4 * 3).unwrap_or(u32::MAX).max(1)
}
