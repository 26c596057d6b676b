//! The gRPC side of the service.

use atoll_api::BeaconClient;
use atoll_fabric::serve;
use atoll_wire::v1::{
    AnnounceRequest, AnnounceResponse, BeaconStatsRequest, BeaconStatsResponse, BlocksRequest,
    BlocksResponse, HeadRequest, HeadResponse, ReadBeaconSnapshotRequest,
    ReadBeaconSnapshotResponse, TakeBeaconSnapshotRequest, TakeBeaconSnapshotResponse,
    beacon_service_server::{BeaconService, BeaconServiceServer},
};
use tonic::{Request, Response, Status, async_trait};

/// Answers gRPC requests through links to the service.
pub struct Grpc(pub BeaconClient);

/// A gRPC service that answers through `client`, with a limit on the length of each message.
pub fn server(client: BeaconClient, max_message_bytes: usize) -> BeaconServiceServer<Grpc> {
    BeaconServiceServer::new(Grpc(client))
        .max_decoding_message_size(max_message_bytes)
        .max_encoding_message_size(max_message_bytes)
}

#[async_trait]
impl BeaconService for Grpc {
    async fn announce(
        &self,
        request: Request<AnnounceRequest>,
    ) -> Result<Response<AnnounceResponse>, Status> {
        serve(&*self.0.announce, request).await
    }

    async fn blocks(
        &self,
        request: Request<BlocksRequest>,
    ) -> Result<Response<BlocksResponse>, Status> {
        serve(&*self.0.blocks, request).await
    }

    async fn head(&self, request: Request<HeadRequest>) -> Result<Response<HeadResponse>, Status> {
        serve(&*self.0.head, request).await
    }

    async fn beacon_stats(
        &self,
        request: Request<BeaconStatsRequest>,
    ) -> Result<Response<BeaconStatsResponse>, Status> {
        serve(&*self.0.stats, request).await
    }

    async fn take_beacon_snapshot(
        &self,
        request: Request<TakeBeaconSnapshotRequest>,
    ) -> Result<Response<TakeBeaconSnapshotResponse>, Status> {
        serve(&*self.0.take_snapshot, request).await
    }

    async fn read_beacon_snapshot(
        &self,
        request: Request<ReadBeaconSnapshotRequest>,
    ) -> Result<Response<ReadBeaconSnapshotResponse>, Status> {
        serve(&*self.0.read_snapshot, request).await
    }
}
