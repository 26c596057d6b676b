//! A gateway that answers what a test wants and keeps what it was asked.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use atoll_wire::v1::ledger_service_server::{LedgerService, LedgerServiceServer};
use atoll_wire::v1::*;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tonic::codegen::BoxStream;
use tonic::transport::{Server, server::TcpIncoming};
use tonic::{Request, Response, Status, Streaming};

use crate::cli::{client::Client, target::Found};

/// Answers in their order; the last one stays.
type Answers<T> = VecDeque<Result<T, Status>>;

#[derive(Default)]
pub struct Script {
    pub cluster: GetClusterResponse,
    pub stats: GetStatsResponse,
    pub submit: Answers<()>,
    pub receipts: Answers<TransactionReceipt>,
    pub calls: Answers<CallResponse>,
    /// Number of the newest beacon block: `min_cut` above it is refused.
    pub newest: u64,
    pub submitted: Vec<bytes::Bytes>,
    pub called: Vec<CallRequest>,
    pub asked: Vec<GetReceiptRequest>,
    pub min_cuts: Vec<u64>,
}

#[derive(Clone, Default)]
pub struct Gateway(Arc<Mutex<Script>>);

/// A gateway, a client of it, and the directory where the client keeps its files.
pub struct Stage {
    pub gateway: Gateway,
    pub client: Client,
    pub found: Found,
    _home: TempDir,
}

impl Stage {
    pub async fn new(script: Script) -> Self {
        let gateway = Gateway(Arc::new(Mutex::new(script)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = Server::builder().add_service(LedgerServiceServer::new(gateway.clone()));
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        let home = tempfile::tempdir().unwrap();
        let found = Found { url, pid: None, home: home.path().to_owned(), tls: Default::default() };
        let client = Client::connect_to(found.clone()).await.unwrap();
        Self { gateway, client, found, _home: home }
    }
}

impl Gateway {
    pub fn with<T>(&self, look: impl FnOnce(&mut Script) -> T) -> T {
        look(&mut self.0.lock().unwrap())
    }
}

/// A refusal as a gateway makes it.
pub fn refused(status: Status, outcome: &'static str) -> Status {
    let mut status = status;
    status.metadata_mut().insert("atoll-outcome", outcome.parse().unwrap());
    status.metadata_mut().insert("grpc-retry-pushback-ms", 1.into());
    status
}

fn next<T: Clone>(answers: &mut Answers<T>) -> Result<T, Status> {
    match answers.len() {
        0 => Err(Status::internal("the test has no answer")),
        1 => answers[0].clone(),
        _ => answers.pop_front().unwrap(),
    }
}

fn check(script: &mut Script, min_cut: u64) -> Result<(), Status> {
    script.min_cuts.push(min_cut);
    match min_cut <= script.newest {
        true => Ok(()),
        false => Err(Status::out_of_range(format!("{min_cut} is above {}", script.newest))),
    }
}

#[tonic::async_trait]
impl LedgerService for Gateway {
    type SubmitTransactionsStream = BoxStream<SubmitTransactionsResponse>;
    type WatchReceiptsStream = BoxStream<WatchReceiptsResponse>;

    async fn submit_transaction(
        &self,
        request: Request<SubmitTransactionRequest>,
    ) -> Result<Response<SubmitTransactionResponse>, Status> {
        self.with(|script| {
            script.submitted.push(request.into_inner().transaction);
            next(&mut script.submit).map(|()| Response::new(Default::default()))
        })
    }

    async fn submit_transactions(
        &self,
        _: Request<Streaming<SubmitTransactionsRequest>>,
    ) -> Result<Response<Self::SubmitTransactionsStream>, Status> {
        Err(Status::unimplemented("no command does this"))
    }

    async fn get_receipt(
        &self,
        request: Request<GetReceiptRequest>,
    ) -> Result<Response<GetReceiptResponse>, Status> {
        self.with(|script| {
            let request = request.into_inner();
            script.asked.push(request.clone());
            let receipt = next(&mut script.receipts)?;
            let receipt = TransactionReceipt { hash: request.hash, ..receipt };
            Ok(Response::new(GetReceiptResponse { receipt: Some(receipt) }))
        })
    }

    async fn watch_receipts(
        &self,
        _: Request<WatchReceiptsRequest>,
    ) -> Result<Response<Self::WatchReceiptsStream>, Status> {
        Err(Status::unimplemented("no command does this"))
    }

    async fn get_account(
        &self,
        request: Request<GetAccountRequest>,
    ) -> Result<Response<GetAccountResponse>, Status> {
        self.with(|script| {
            check(script, request.into_inner().min_cut)?;
            Ok(Response::new(GetAccountResponse {
                nonce: 7,
                balance: vec![1, 0].into(),
                code_hash: alloy_primitives::KECCAK256_EMPTY.to_vec().into(),
                cut: script.newest,
                ..Default::default()
            }))
        })
    }

    async fn get_storage(
        &self,
        request: Request<GetStorageRequest>,
    ) -> Result<Response<GetStorageResponse>, Status> {
        self.with(|script| {
            check(script, request.into_inner().min_cut)?;
            Ok(Response::new(GetStorageResponse {
                value: vec![9; 32].into(),
                cut: script.newest,
                ..Default::default()
            }))
        })
    }

    async fn call(&self, request: Request<CallRequest>) -> Result<Response<CallResponse>, Status> {
        self.with(|script| {
            let request = request.into_inner();
            check(script, request.min_cut)?;
            script.called.push(request);
            next(&mut script.calls).map(Response::new)
        })
    }

    async fn get_proof(
        &self,
        _: Request<GetProofRequest>,
    ) -> Result<Response<GetProofResponse>, Status> {
        Err(Status::unimplemented("nobody asks this"))
    }

    async fn get_block(
        &self,
        _: Request<GetBlockRequest>,
    ) -> Result<Response<GetBlockResponse>, Status> {
        Err(Status::unimplemented("no command does this"))
    }

    async fn get_cluster(
        &self,
        _: Request<GetClusterRequest>,
    ) -> Result<Response<GetClusterResponse>, Status> {
        Ok(Response::new(self.with(|script| script.cluster.clone())))
    }

    async fn get_stats(
        &self,
        _: Request<GetStatsRequest>,
    ) -> Result<Response<GetStatsResponse>, Status> {
        Ok(Response::new(self.with(|script| script.stats.clone())))
    }
}
