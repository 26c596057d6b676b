//! A ledger in this process: one machine that runs transactions with revm and says that they were
//! run by as many shards as one likes.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use alloy_primitives::{Address, B256, TxKind, U256};
use atoll_types::{Placement, Tx};
use atoll_wire::v1::{
    CallRequest, CallResponse, GetAccountRequest, GetAccountResponse, GetBlockRequest,
    GetBlockResponse, GetClusterRequest, GetClusterResponse, GetProofRequest, GetProofResponse,
    GetReceiptRequest, GetReceiptResponse, GetStatsRequest, GetStatsResponse, GetStorageRequest,
    GetStorageResponse, SubmitOutcome, SubmitTransactionRequest, SubmitTransactionResponse,
    SubmitTransactionsRequest, SubmitTransactionsResponse, TransactionFinality, TransactionKind,
    TransactionReceipt, WatchReceiptsRequest, WatchReceiptsResponse,
    get_cluster_response::Shard,
    ledger_service_server::{LedgerService, LedgerServiceServer},
    submit_transactions_response,
};
use bytes::Bytes;
use revm::{
    Context, DatabaseCommit, DatabaseRef, ExecuteEvm, MainBuilder, MainContext,
    context::TxEnv,
    database::{CacheDB, EmptyDB},
    state::AccountInfo,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tonic::{Request, Response, Status, Streaming};

pub const CHAIN: u64 = 31_337;

/// What the ledger does with a transaction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    Run,
    Refuse(SubmitOutcome),
    Drop,
    Revert,
}

type Judge = dyn Fn(&Tx, bool) -> Verdict + Send + Sync;

/// How the ledger misbehaves.
pub struct Policy {
    /// Told the transaction and whether it is seen for the first time.
    pub judge: Box<Judge>,
    /// From taking a transaction to its receipts.
    pub delay: Duration,
    /// The submission stream breaks once, after it has taken this batch and before it answers.
    pub break_at: u64,
    /// Every so many receipts one is lost, and said to be so; 0: none.
    pub lose: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self { judge: Box::new(|_, _| Verdict::Run), delay: Duration::ZERO, break_at: 0, lose: 0 }
    }
}

pub struct Fake {
    world: Mutex<World>,
    policy: Policy,
    placement: Placement,
}

type Watcher = mpsc::UnboundedSender<Result<WatchReceiptsResponse, Status>>;

struct World {
    db: CacheDB<EmptyDB>,
    pools: HashMap<Address, BTreeMap<u64, Tx>>,
    seen: HashSet<B256>,
    receipts: HashMap<B256, TransactionReceipt>,
    watchers: Vec<(HashSet<Bytes>, Watcher)>,
    batches: u64,
    events: u64,
}

/// Serves a ledger whose `rich` accounts have 10,000 ether each.
pub async fn serve(shards: u16, rich: &[Address], policy: Policy) -> String {
    let mut db = CacheDB::new(EmptyDB::default());
    for address in rich {
        let balance = U256::from(10).pow(U256::from(22));
        db.insert_account_info(*address, AccountInfo::from_balance(balance));
    }
    let world = World {
        db,
        pools: HashMap::new(),
        seen: HashSet::new(),
        receipts: HashMap::new(),
        watchers: Vec::new(),
        batches: 0,
        events: 0,
    };
    let fake = Fake {
        world: Mutex::new(world),
        policy,
        placement: Placement::new(shards, BTreeMap::new()),
    };
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = tokio::net::TcpListener::bind(any).await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tonic::transport::Server::builder()
        .add_service(LedgerServiceServer::from_arc(Arc::new(Handle(Arc::new(fake)))))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(server);
    format!("http://{address}")
}

impl Fake {
    fn shard(&self, address: &Address) -> u32 {
        self.placement.owner(address).0.into()
    }

    /// Takes or refuses a transaction; those that can be run then are returned with their receipts.
    fn take(&self, raw: &Bytes) -> (B256, SubmitOutcome, Vec<TransactionReceipt>) {
        let tx = match Tx::recover(raw.clone().into(), CHAIN, None) {
            Ok(tx) => tx,
            Err(error) => panic!("the load generator sent nonsense: {error}"),
        };
        let hash = *tx.hash();
        let world = &mut *self.world.lock().unwrap();
        let first = world.seen.insert(hash);
        let verdict = (self.policy.judge)(&tx, first);
        if let Verdict::Refuse(outcome) = verdict {
            return (hash, outcome, vec![]);
        }
        let next = world.db.basic_ref(tx.sender()).unwrap().unwrap_or_default().nonce;
        if tx.nonce() < next {
            return (hash, SubmitOutcome::NonceTooLow, vec![]);
        }
        let pool = world.pools.entry(tx.sender()).or_default();
        if pool.len() >= 256 {
            return (hash, SubmitOutcome::SenderFull, vec![]);
        }
        if verdict == Verdict::Drop {
            let receipt = TransactionReceipt {
                hash: Bytes::copy_from_slice(hash.as_slice()),
                finality: TransactionFinality::Dropped.into(),
                dropped_reason: "told to".into(),
                sender: Bytes::copy_from_slice(tx.sender().as_slice()),
                ..Default::default()
            };
            return (hash, SubmitOutcome::Taken, vec![receipt]);
        }
        if pool.insert(tx.nonce(), tx.clone()).is_some() {
            return (hash, SubmitOutcome::AlreadyKnown, vec![]);
        }
        let mut receipts = Vec::new();
        let mut next = next;
        while let Some(tx) = world.pools.get_mut(&tx.sender()).and_then(|pool| pool.remove(&next)) {
            let mut receipt = self.execute(world, &tx);
            receipt.status &= (self.policy.judge)(&tx, false) != Verdict::Revert;
            world.receipts.insert(*tx.hash(), receipt.clone());
            receipts.push(receipt);
            next += 1;
        }
        (hash, SubmitOutcome::Taken, receipts)
    }

    fn execute(&self, world: &mut World, tx: &Tx) -> TransactionReceipt {
        let env = TxEnv::builder()
            .caller(tx.sender())
            .nonce(tx.nonce())
            .gas_limit(tx.gas_limit())
            .gas_price(tx.max_fee_per_gas())
            .gas_priority_fee(Some(tx.priority_fee()))
            .kind(tx.to().map_or(TxKind::Create, TxKind::Call))
            .value(tx.value())
            .data(alloy_consensus::Transaction::input(tx.envelope()).clone())
            .chain_id(Some(CHAIN))
            .build()
            .unwrap();
        let coinbase = Address::repeat_byte(0xcb);
        let run = Context::mainnet()
            .with_db(&mut world.db)
            .modify_cfg_chained(|cfg| cfg.chain_id = CHAIN)
            .modify_block_chained(|block| {
                block.basefee = 1_000_000_000;
                block.beneficiary = coinbase;
                block.timestamp = U256::from(1_700_000_000);
            })
            .build_mainnet()
            .transact(env)
            .unwrap_or_else(|error| panic!("{tx:?} cannot run: {error}"));
        let owners = run.state.keys().filter(|address| **address != coinbase);
        let mut shards: Vec<_> = owners.map(|address| self.shard(address)).collect();
        shards.sort_unstable();
        shards.dedup();
        let payment = tx.to().is_some_and(|to| run.state[&to].info.is_empty_code_hash());
        let kind = match (shards.len(), payment) {
            (1, _) => TransactionKind::Local,
            (_, true) => TransactionKind::Credit,
            (_, false) => TransactionKind::Group,
        };
        world.db.commit(run.state);
        TransactionReceipt {
            hash: Bytes::copy_from_slice(tx.hash().as_slice()),
            finality: TransactionFinality::Final.into(),
            status: run.result.is_success(),
            gas_used: run.result.tx_gas_used(),
            kind: kind.into(),
            shard_count: shards.len() as u32,
            sender: Bytes::copy_from_slice(tx.sender().as_slice()),
            nonce: tx.nonce(),
            ..Default::default()
        }
    }

    /// Tells the watchers: first that it is executed, then, in few words, that it is final.
    fn publish(&self, receipts: Vec<TransactionReceipt>) {
        let world = &mut *self.world.lock().unwrap();
        for full in receipts {
            let credit = full.kind() == TransactionKind::Credit;
            let executed = TransactionReceipt {
                finality: TransactionFinality::Executed.into(),
                // Must not be believed.
                status: full.status && !credit,
                ..full.clone()
            };
            let short = TransactionReceipt {
                hash: full.hash.clone(),
                finality: TransactionFinality::Final.into(),
                ..Default::default()
            };
            // A credit's second report may or may not say how it ended.
            let last = if credit && full.nonce % 2 == 0 { full.clone() } else { short };
            let reports = match full.finality() {
                TransactionFinality::Dropped => vec![full.clone()],
                _ => vec![executed, last],
            };
            for report in reports {
                world.events += 1;
                let lost = self.policy.lose > 0 && world.events.is_multiple_of(self.policy.lose);
                let response = WatchReceiptsResponse {
                    receipts: if lost { vec![] } else { vec![report] },
                    lost: lost.into(),
                };
                for (senders, watcher) in &world.watchers {
                    if lost || senders.contains(&full.sender) {
                        watcher.send(Ok(response.clone())).ok();
                    }
                }
            }
        }
    }
}

struct Handle(Arc<Fake>);

type Reply<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl LedgerService for Handle {
    type SubmitTransactionsStream =
        UnboundedReceiverStream<Result<SubmitTransactionsResponse, Status>>;
    type WatchReceiptsStream = UnboundedReceiverStream<Result<WatchReceiptsResponse, Status>>;

    async fn submit_transactions(
        &self,
        request: Request<Streaming<SubmitTransactionsRequest>>,
    ) -> Reply<Self::SubmitTransactionsStream> {
        let (answers, stream) = mpsc::unbounded_channel();
        let mut batches = request.into_inner();
        let fake = self.0.clone();
        tokio::spawn(async move {
            while let Ok(Some(batch)) = batches.message().await {
                let mut results = Vec::new();
                let mut receipts = Vec::new();
                for raw in &batch.transactions {
                    let (hash, outcome, news) = fake.take(raw);
                    receipts.extend(news);
                    results.push(submit_transactions_response::Result {
                        hash: Bytes::copy_from_slice(hash.as_slice()),
                        outcome: outcome.into(),
                        message: outcome.as_str_name().into(),
                    });
                }
                let late = fake.clone();
                if fake.policy.delay.is_zero() {
                    late.publish(receipts);
                } else {
                    tokio::spawn(async move {
                        tokio::time::sleep(late.policy.delay).await;
                        late.publish(receipts);
                    });
                }
                let number = {
                    let mut world = fake.world.lock().unwrap();
                    world.batches += 1;
                    world.batches
                };
                if number == fake.policy.break_at {
                    answers.send(Err(Status::unavailable("told to break"))).ok();
                    return;
                }
                let batch = batch.batch;
                answers.send(Ok(SubmitTransactionsResponse { batch, results })).ok();
            }
        });
        Ok(Response::new(UnboundedReceiverStream::new(stream)))
    }

    async fn watch_receipts(
        &self,
        request: Request<WatchReceiptsRequest>,
    ) -> Reply<Self::WatchReceiptsStream> {
        let (watcher, stream) = mpsc::unbounded_channel();
        let request = request.into_inner();
        assert!(request.compact && request.senders.len() <= 10_000);
        let senders = request.senders.into_iter().collect();
        self.0.world.lock().unwrap().watchers.push((senders, watcher));
        Ok(Response::new(UnboundedReceiverStream::new(stream)))
    }

    async fn get_receipt(&self, request: Request<GetReceiptRequest>) -> Reply<GetReceiptResponse> {
        let hash = B256::from_slice(&request.into_inner().hash);
        let receipt = self.0.world.lock().unwrap().receipts.get(&hash).cloned();
        match receipt {
            Some(receipt) => Ok(Response::new(GetReceiptResponse { receipt: Some(receipt) })),
            None => Err(Status::not_found("unknown transaction")),
        }
    }

    async fn get_account(&self, request: Request<GetAccountRequest>) -> Reply<GetAccountResponse> {
        let address = Address::from_slice(&request.into_inner().address);
        let world = self.0.world.lock().unwrap();
        let account = world.db.basic_ref(address).unwrap().unwrap_or_default();
        Ok(Response::new(GetAccountResponse {
            nonce: account.nonce,
            balance: account.balance.to_be_bytes_trimmed_vec().into(),
            shard: self.0.shard(&address),
            ..Default::default()
        }))
    }

    async fn get_cluster(&self, request: Request<GetClusterRequest>) -> Reply<GetClusterResponse> {
        let addresses = request.into_inner().addresses;
        assert!(addresses.len() <= 10_000);
        let shard = |number| Shard { number, reachable: true, ..Default::default() };
        let owner = |address: Bytes| self.0.shard(&Address::from_slice(&address));
        Ok(Response::new(GetClusterResponse {
            chain_id: CHAIN,
            shards: (0..self.0.placement.shards().into()).map(shard).collect(),
            base_fee: 1_000_000_000,
            version: "fake".into(),
            owners: addresses.into_iter().map(owner).collect(),
            ..Default::default()
        }))
    }

    async fn get_stats(&self, _: Request<GetStatsRequest>) -> Reply<GetStatsResponse> {
        Err(Status::unimplemented("nothing is counted"))
    }

    async fn submit_transaction(
        &self,
        _: Request<SubmitTransactionRequest>,
    ) -> Reply<SubmitTransactionResponse> {
        Err(Status::unimplemented("not used"))
    }

    async fn get_storage(&self, _: Request<GetStorageRequest>) -> Reply<GetStorageResponse> {
        Err(Status::unimplemented("not used"))
    }

    async fn call(&self, _: Request<CallRequest>) -> Reply<CallResponse> {
        Err(Status::unimplemented("not used"))
    }

    async fn get_proof(
        &self,
        _: Request<GetProofRequest>,
    ) -> Result<Response<GetProofResponse>, Status> {
        Err(Status::unimplemented("nobody asks this"))
    }

    async fn get_block(&self, _: Request<GetBlockRequest>) -> Reply<GetBlockResponse> {
        Err(Status::unimplemented("not used"))
    }
}
