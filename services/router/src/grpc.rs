//! The gRPC side of the service.

use atoll_api::RouterClient;
use atoll_fabric::serve;
use atoll_wire::v1::{
    DeliverRequest, DeliverResponse, EscalateRequest, EscalateResponse, FetchRequest,
    FetchResponse, RouterStatsRequest, RouterStatsResponse,
    router_service_server::{RouterService, RouterServiceServer},
};
use tonic::{Request, Response, Status, async_trait};

/// Answers gRPC requests through links to the service.
pub struct Grpc(pub RouterClient);

/// A gRPC service that answers through `client`, with a limit on the length of each message.
pub fn server(client: RouterClient, max_message_bytes: usize) -> RouterServiceServer<Grpc> {
    RouterServiceServer::new(Grpc(client))
        .max_decoding_message_size(max_message_bytes)
        .max_encoding_message_size(max_message_bytes)
}

#[async_trait]
impl RouterService for Grpc {
    async fn escalate(
        &self,
        request: Request<EscalateRequest>,
    ) -> Result<Response<EscalateResponse>, Status> {
        serve(&*self.0.escalate, request).await
    }

    async fn deliver(
        &self,
        request: Request<DeliverRequest>,
    ) -> Result<Response<DeliverResponse>, Status> {
        serve(&*self.0.deliver, request).await
    }

    async fn fetch(
        &self,
        request: Request<FetchRequest>,
    ) -> Result<Response<FetchResponse>, Status> {
        serve(&*self.0.fetch, request).await
    }

    async fn router_stats(
        &self,
        request: Request<RouterStatsRequest>,
    ) -> Result<Response<RouterStatsResponse>, Status> {
        serve(&*self.0.stats, request).await
    }
}
