//! The service itself: what its requests share, and the way to each of them.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use async_trait::async_trait;
use atoll_evm::{CodeCache, Rules};
use atoll_fabric::Context;
use atoll_types::{Placement, ShardId, TraceContext};
use atoll_wire::v1::ledger_service_server::{LedgerService, LedgerServiceServer};
use atoll_wire::v1::{
    CallRequest, CallResponse, GetAccountRequest, GetAccountResponse, GetBlockRequest,
    GetBlockResponse, GetClusterRequest, GetClusterResponse, GetProofRequest, GetProofResponse,
    GetReceiptRequest, GetReceiptResponse, GetStatsRequest, GetStatsResponse, GetStorageRequest,
    GetStorageResponse, SubmitTransactionRequest, SubmitTransactionResponse,
    SubmitTransactionsRequest, WatchReceiptsRequest,
};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument;

use crate::backlog::Backlog;
use crate::call::Calls;
use crate::convert;
use crate::feed::{self, Hub};
use crate::query::Queries;
use crate::receipts::{Receipts, Watched};
use crate::recent::Recent;
use crate::singles::Singles;
use crate::submit::{Responses, Submitter, stream_room_kib};
use crate::{BeaconLinks, Limits, Pool, RecoveryPool, ShardLinks};

/// What a gateway is made of.
pub struct Config {
    pub chain_id: u64,
    pub placement: Placement,
    /// Shard 0 first, one for each shard of the placement.
    pub shards: Vec<ShardLinks>,
    pub beacon: BeaconLinks,
    /// Recovers signatures: a thread for each core.
    pub recovery: RecoveryPool,
    /// Runs calls. Not the same pool: a call takes thousands of times as long as a signature.
    pub calls: Pool,
    /// Ethereum's rules that calls run under.
    pub rules: Rules,
    pub limits: Limits,
    /// Told to clients.
    pub version: String,
}

/// The public API as a tonic service. Copies share everything; its tasks end with the last one.
#[derive(Clone)]
pub struct Ledger(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub limits: Limits,
    pub submitter: Arc<Submitter>,
    pub singles: Singles,
    pub receipts: Receipts,
    pub calls: Calls,
    pub queries: Queries,
    _tasks: JoinSet<()>,
}

impl Ledger {
    /// Starts to follow the shards' receipts.
    ///
    /// # Panics
    /// Outside of a tokio runtime, and if there are not as many links as shards.
    pub fn start(config: Config) -> Self {
        let Config { chain_id, placement, shards, beacon, recovery, calls, rules, limits, version } =
            config;
        assert_eq!(
            shards.len(),
            usize::from(placement.shards()),
            "one set of links for each shard"
        );
        let shards: Arc<[ShardLinks]> = shards.into();
        let recent = Arc::new(Recent::new(limits.recent_transactions));
        let backlog = Arc::new(Backlog::new(limits.watch_backlog_bytes, limits.watchers));
        let hub = Arc::new(Hub::new(recent.clone(), backlog));
        let mut tasks = JoinSet::new();
        for (number, links) in (0..).zip(shards.iter()) {
            tasks.spawn(feed::follow(hub.clone(), ShardId(number), links.clone()));
        }
        let submitter = Arc::new(Submitter {
            chain_id,
            placement: placement.clone(),
            shards: shards.clone(),
            recovery,
            recent,
            limits: limits.clone(),
            stream_room: Arc::new(Semaphore::new(stream_room_kib(&limits) as usize)),
            streams: Arc::new(Semaphore::new(limits.submit_streams)),
        });
        let singles = Singles::start(&submitter, &mut tasks);
        let receipts = Receipts {
            hub,
            shards: shards.clone(),
            limits: limits.clone(),
            waiters: Arc::new(Semaphore::new(limits.waiters)),
        };
        let calls = Calls {
            placement: placement.clone(),
            shards: shards.clone(),
            beacon: beacon.clone(),
            pool: calls,
            codes: Arc::new(CodeCache::new(limits.code_cache_bytes)),
            rules,
            limits: limits.clone(),
            places: Arc::new(Semaphore::new(limits.calls)),
        };
        let queries = Queries {
            chain_id,
            placement,
            shards,
            beacon,
            limits: limits.clone(),
            version,
            places: Arc::new(Semaphore::new(limits.reads)),
            newest_seen: AtomicU64::new(0),
        };
        Self(Arc::new(Inner {
            limits,
            submitter,
            singles,
            receipts,
            calls,
            queries,
            _tasks: tasks,
        }))
    }

    /// Trace and deadline of a request. A client's own deadline is the transport's business: when it
    /// has passed, the handler is dropped.
    fn context<T>(&self, request: &Request<T>) -> Context {
        let context = Context { trace: trace_of(request.metadata()), deadline: None };
        context.with_timeout(self.0.limits.patience())
    }

    /// The service for [`Limits::server`], with the limits on messages.
    pub fn into_server(self) -> LedgerServiceServer<Self> {
        let message_bytes = self.0.limits.message_bytes;
        LedgerServiceServer::new(self).max_decoding_message_size(message_bytes)
    }
}

fn trace_of(metadata: &MetadataMap) -> Option<TraceContext> {
    TraceContext::parse(metadata.get("traceparent")?.to_str().ok()?)
}

#[async_trait]
impl LedgerService for Ledger {
    type SubmitTransactionsStream = Responses;
    type WatchReceiptsStream = Watched;

    async fn submit_transaction(
        &self,
        request: Request<SubmitTransactionRequest>,
    ) -> Result<Response<SubmitTransactionResponse>, Status> {
        let trace = trace_of(request.metadata());
        let span = tracing::info_span!("submit", trace = trace.map(|trace| trace.header()));
        let bytes = request.into_inner().transaction;
        let offered = self.0.singles.submit(&bytes, trace).instrument(span).await;
        let hash = convert::hash(offered.into_status()?);
        Ok(Response::new(SubmitTransactionResponse { hash }))
    }

    async fn submit_transactions(
        &self,
        request: Request<Streaming<SubmitTransactionsRequest>>,
    ) -> Result<Response<Self::SubmitTransactionsStream>, Status> {
        let trace = trace_of(request.metadata());
        let submitter = self.0.submitter.clone();
        let responses = submitter.stream(request.into_inner(), trace)?;
        Ok(Response::new(responses))
    }

    async fn get_receipt(
        &self,
        request: Request<GetReceiptRequest>,
    ) -> Result<Response<GetReceiptResponse>, Status> {
        let context = self.context(&request);
        let receipt = self.0.receipts.get(request.into_inner(), context).await?;
        Ok(Response::new(GetReceiptResponse { receipt: Some(receipt) }))
    }

    async fn watch_receipts(
        &self,
        request: Request<WatchReceiptsRequest>,
    ) -> Result<Response<Self::WatchReceiptsStream>, Status> {
        let patience = self.0.limits.patience();
        let followed = tokio::time::timeout(patience, self.0.receipts.follows()).await;
        followed.map_err(|_| {
            Status::unavailable("not every shard's receipts can be followed yet; try again")
        })?;
        let watched = self.0.receipts.watch(request.into_inner())?;
        Ok(Response::new(watched))
    }

    async fn get_account(
        &self,
        request: Request<GetAccountRequest>,
    ) -> Result<Response<GetAccountResponse>, Status> {
        let context = self.context(&request);
        let response = self.0.queries.account(request.into_inner(), context).await;
        response.map(Response::new)
    }

    async fn get_storage(
        &self,
        request: Request<GetStorageRequest>,
    ) -> Result<Response<GetStorageResponse>, Status> {
        let context = self.context(&request);
        let response = self.0.queries.storage(request.into_inner(), context).await;
        response.map(Response::new)
    }

    async fn get_proof(
        &self,
        request: Request<GetProofRequest>,
    ) -> Result<Response<GetProofResponse>, Status> {
        let context = self.context(&request);
        let response = self.0.queries.prove(request.into_inner(), context).await;
        response.map(Response::new)
    }

    async fn call(&self, request: Request<CallRequest>) -> Result<Response<CallResponse>, Status> {
        let context = self.context(&request);
        let response = self.0.calls.call(request.into_inner(), context).await;
        response.map(Response::new)
    }

    async fn get_block(
        &self,
        request: Request<GetBlockRequest>,
    ) -> Result<Response<GetBlockResponse>, Status> {
        let context = self.context(&request);
        let response = self.0.queries.block(request.into_inner(), context).await;
        response.map(Response::new)
    }

    async fn get_cluster(
        &self,
        request: Request<GetClusterRequest>,
    ) -> Result<Response<GetClusterResponse>, Status> {
        let context = self.context(&request);
        let response = self.0.queries.cluster(request.into_inner(), context).await;
        response.map(Response::new)
    }

    async fn get_stats(
        &self,
        request: Request<GetStatsRequest>,
    ) -> Result<Response<GetStatsResponse>, Status> {
        let context = self.context(&request);
        self.0.queries.stats(context).await.map(Response::new)
    }
}
