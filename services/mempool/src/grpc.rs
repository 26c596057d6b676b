//! The gRPC side of the service.

use atoll_api::MempoolClient;
use atoll_fabric::serve;
use atoll_wire::v1::{
    ContentRequest, ContentResponse, MempoolServiceStatusRequest, MempoolServiceStatusResponse,
    MempoolServiceSubmitRequest, MempoolServiceSubmitResponse, PendingRequest, PendingResponse,
    ReportRequest, ReportResponse, TakeRequest, TakeResponse,
    mempool_service_server::{MempoolService, MempoolServiceServer},
};
use tonic::{Request, Response, Status, async_trait};

/// Answers gRPC requests through links to the service.
pub struct Grpc(pub MempoolClient);

/// A gRPC service that answers through `client`, with a limit on the length of each message.
pub fn server(client: MempoolClient, max_message_bytes: usize) -> MempoolServiceServer<Grpc> {
    MempoolServiceServer::new(Grpc(client))
        .max_decoding_message_size(max_message_bytes)
        .max_encoding_message_size(max_message_bytes)
}

#[async_trait]
impl MempoolService for Grpc {
    async fn submit(
        &self,
        request: Request<MempoolServiceSubmitRequest>,
    ) -> Result<Response<MempoolServiceSubmitResponse>, Status> {
        serve(&*self.0.submit, request).await
    }

    async fn take(&self, request: Request<TakeRequest>) -> Result<Response<TakeResponse>, Status> {
        serve(&*self.0.take, request).await
    }

    async fn report(
        &self,
        request: Request<ReportRequest>,
    ) -> Result<Response<ReportResponse>, Status> {
        serve(&*self.0.report, request).await
    }

    async fn pending(
        &self,
        request: Request<PendingRequest>,
    ) -> Result<Response<PendingResponse>, Status> {
        serve(&*self.0.pending, request).await
    }

    async fn content(
        &self,
        request: Request<ContentRequest>,
    ) -> Result<Response<ContentResponse>, Status> {
        serve(&*self.0.content, request).await
    }

    async fn status(
        &self,
        request: Request<MempoolServiceStatusRequest>,
    ) -> Result<Response<MempoolServiceStatusResponse>, Status> {
        serve(&*self.0.status, request).await
    }
}
