//! The gRPC side of the service.

use atoll_api::ExecutorClient;
use atoll_fabric::serve;
use atoll_wire::v1::{
    DebitRequest, DebitResponse, ExecutorStatsRequest, ExecutorStatsResponse, PredictRequest,
    PredictResponse, RunGroupsRequest, RunGroupsResponse,
    executor_service_server::{ExecutorService, ExecutorServiceServer},
};
use tonic::{Request, Response, Status, async_trait};

/// Answers gRPC requests through links to the service.
pub struct Grpc(pub ExecutorClient);

/// A gRPC service that answers through `client`, with a limit on the length of each message.
pub fn server(client: ExecutorClient, max_message_bytes: usize) -> ExecutorServiceServer<Grpc> {
    ExecutorServiceServer::new(Grpc(client))
        .max_decoding_message_size(max_message_bytes)
        .max_encoding_message_size(max_message_bytes)
}

#[async_trait]
impl ExecutorService for Grpc {
    async fn predict(
        &self,
        request: Request<PredictRequest>,
    ) -> Result<Response<PredictResponse>, Status> {
        serve(&*self.0.predict, request).await
    }

    async fn debit(
        &self,
        request: Request<DebitRequest>,
    ) -> Result<Response<DebitResponse>, Status> {
        serve(&*self.0.debit, request).await
    }

    async fn run_groups(
        &self,
        request: Request<RunGroupsRequest>,
    ) -> Result<Response<RunGroupsResponse>, Status> {
        serve(&*self.0.run_groups, request).await
    }

    async fn executor_stats(
        &self,
        request: Request<ExecutorStatsRequest>,
    ) -> Result<Response<ExecutorStatsResponse>, Status> {
        serve(&*self.0.stats, request).await
    }
}
