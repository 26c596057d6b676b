//! The gRPC side of the service.

use atoll_api::StateClient;
use atoll_fabric::serve;
use atoll_wire::v1::{
    AcceptPartsRequest, AcceptPartsResponse, AppendRequest, AppendResponse, CutRequest,
    CutResponse, FeedRequest, FeedResponse, LeaseLateRequest, LeaseLateResponse, LookupRequest,
    LookupResponse, OutboxRequest, OutboxResponse, ProgressRequest, ProgressResponse, ProveRequest,
    ProveResponse, PutCodesRequest, PutCodesResponse, QuarantineRequest, QuarantineResponse,
    RanRequest, RanResponse, ReadRequest, ReadResponse, ReadSnapshotRequest, ReadSnapshotResponse,
    RecallRequest, RecallResponse, ReceiveCreditsRequest, ReceiveCreditsResponse, RoundsRunRequest,
    RoundsRunResponse, SettleRequest, SettleResponse, ShareRequest, ShareResponse,
    StoreResultsRequest, StoreResultsResponse, SyncRequest, SyncResponse, TakeSnapshotRequest,
    TakeSnapshotResponse, TellDroppedRequest, TellDroppedResponse, WatchRequest, WatchResponse,
    WithdrawRequest, WithdrawResponse,
    state_service_server::{StateService, StateServiceServer},
};
use tonic::{Request, Response, Status, async_trait};

/// Answers gRPC requests through links to the service.
pub struct Grpc(pub StateClient);

/// A gRPC service that answers through `client`, with a limit on the length of each message.
pub fn server(client: StateClient, max_message_bytes: usize) -> StateServiceServer<Grpc> {
    StateServiceServer::new(Grpc(client))
        .max_decoding_message_size(max_message_bytes)
        .max_encoding_message_size(max_message_bytes)
}

#[async_trait]
impl StateService for Grpc {
    async fn read(&self, request: Request<ReadRequest>) -> Result<Response<ReadResponse>, Status> {
        serve(&*self.0.read, request).await
    }

    async fn prove(
        &self,
        request: Request<ProveRequest>,
    ) -> Result<Response<ProveResponse>, Status> {
        serve(&*self.0.prove, request).await
    }

    async fn append(
        &self,
        request: Request<AppendRequest>,
    ) -> Result<Response<AppendResponse>, Status> {
        serve(&*self.0.append, request).await
    }

    async fn cut(&self, request: Request<CutRequest>) -> Result<Response<CutResponse>, Status> {
        serve(&*self.0.cut, request).await
    }

    async fn outbox(
        &self,
        request: Request<OutboxRequest>,
    ) -> Result<Response<OutboxResponse>, Status> {
        serve(&*self.0.outbox, request).await
    }

    async fn share(
        &self,
        request: Request<ShareRequest>,
    ) -> Result<Response<ShareResponse>, Status> {
        serve(&*self.0.share, request).await
    }

    async fn withdraw(
        &self,
        request: Request<WithdrawRequest>,
    ) -> Result<Response<WithdrawResponse>, Status> {
        serve(&*self.0.withdraw, request).await
    }

    async fn tell_dropped(
        &self,
        request: Request<TellDroppedRequest>,
    ) -> Result<Response<TellDroppedResponse>, Status> {
        serve(&*self.0.tell_dropped, request).await
    }

    async fn store_results(
        &self,
        request: Request<StoreResultsRequest>,
    ) -> Result<Response<StoreResultsResponse>, Status> {
        serve(&*self.0.store_results, request).await
    }

    async fn accept_parts(
        &self,
        request: Request<AcceptPartsRequest>,
    ) -> Result<Response<AcceptPartsResponse>, Status> {
        serve(&*self.0.accept_parts, request).await
    }

    async fn receive_credits(
        &self,
        request: Request<ReceiveCreditsRequest>,
    ) -> Result<Response<ReceiveCreditsResponse>, Status> {
        serve(&*self.0.receive_credits, request).await
    }

    async fn settle(
        &self,
        request: Request<SettleRequest>,
    ) -> Result<Response<SettleResponse>, Status> {
        serve(&*self.0.settle, request).await
    }

    async fn recall(
        &self,
        request: Request<RecallRequest>,
    ) -> Result<Response<RecallResponse>, Status> {
        serve(&*self.0.recall, request).await
    }

    async fn lease_late(
        &self,
        request: Request<LeaseLateRequest>,
    ) -> Result<Response<LeaseLateResponse>, Status> {
        serve(&*self.0.lease_late, request).await
    }

    async fn put_codes(
        &self,
        request: Request<PutCodesRequest>,
    ) -> Result<Response<PutCodesResponse>, Status> {
        serve(&*self.0.put_codes, request).await
    }

    async fn watch(
        &self,
        request: Request<WatchRequest>,
    ) -> Result<Response<WatchResponse>, Status> {
        serve(&*self.0.watch, request).await
    }

    async fn sync(&self, request: Request<SyncRequest>) -> Result<Response<SyncResponse>, Status> {
        serve(&*self.0.sync, request).await
    }

    async fn ran(&self, request: Request<RanRequest>) -> Result<Response<RanResponse>, Status> {
        serve(&*self.0.ran, request).await
    }

    async fn rounds_run(
        &self,
        request: Request<RoundsRunRequest>,
    ) -> Result<Response<RoundsRunResponse>, Status> {
        serve(&*self.0.rounds_run, request).await
    }

    async fn progress(
        &self,
        request: Request<ProgressRequest>,
    ) -> Result<Response<ProgressResponse>, Status> {
        serve(&*self.0.progress, request).await
    }

    async fn lookup(
        &self,
        request: Request<LookupRequest>,
    ) -> Result<Response<LookupResponse>, Status> {
        serve(&*self.0.lookup, request).await
    }

    async fn feed(&self, request: Request<FeedRequest>) -> Result<Response<FeedResponse>, Status> {
        serve(&*self.0.feed, request).await
    }

    async fn take_snapshot(
        &self,
        request: Request<TakeSnapshotRequest>,
    ) -> Result<Response<TakeSnapshotResponse>, Status> {
        serve(&*self.0.take_snapshot, request).await
    }

    async fn read_snapshot(
        &self,
        request: Request<ReadSnapshotRequest>,
    ) -> Result<Response<ReadSnapshotResponse>, Status> {
        serve(&*self.0.read_snapshot, request).await
    }

    async fn quarantine(
        &self,
        request: Request<QuarantineRequest>,
    ) -> Result<Response<QuarantineResponse>, Status> {
        serve(&*self.0.quarantine, request).await
    }
}
