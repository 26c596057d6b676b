//! JSON-RPC over HTTP and WebSocket, as Ethereum's wallets, libraries and tools speak it: to them the
//! cluster is one chain. [docs/json-rpc.md](../../../../docs/json-rpc.md) says what is served.

mod account;
mod batch;
mod block;
mod blocks;
mod bodies;
mod cache;
mod chain;
mod cors;
mod develop;
mod error;
mod estimate;
mod fees;
mod filters;
mod idle;
mod logs;
mod params;
mod send;
mod server;
mod sign;
mod simulate;
mod subscribe;
mod trace;
mod txpool;

use std::net::SocketAddr;
use std::sync::Arc;

use alloy_signer_local::PrivateKeySigner;
use atoll_fabric::Context;
use atoll_types::BeaconBlock;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinSet;

pub use self::chain::RpcLinks;
pub use self::develop::Clock;
pub use self::server::Rpc;

use self::cache::Cache;
use self::chain::Chain;
use self::develop::Development;
use self::error::Failure;
use self::filters::Filters;
use self::params::Params;
use self::send::Sent;
use crate::ledger::{Inner, Ledger};

/// What JSON-RPC is made of, besides a gateway.
pub struct RpcConfig {
    pub listen: SocketAddr,
    /// Shard 0 first.
    pub links: Vec<RpcLinks>,
    /// Beacon block 0.
    pub genesis: Arc<BeaconBlock>,
    /// Lets pages of any origin call it, and signs for `signers`.
    pub development: bool,
    pub signers: Vec<PrivateKeySigner>,
    /// The beacon's clock, where it can be set: in its own process, in development.
    pub clock: Option<Clock>,
}

/// What all requests share.
pub(crate) struct Shared {
    ledger: Arc<Inner>,
    chain: Arc<Chain>,
    filters: Filters,
    sent: Sent,
    signers: Vec<PrivateKeySigner>,
    development: Development,
    places: Semaphore,
    /// Places for traces that are made.
    traces: Semaphore,
    _tasks: JoinSet<()>,
}

/// Every method but those of subscriptions.
pub(crate) const METHODS: &[&str] = &[
    "web3_clientVersion",
    "web3_sha3",
    "net_version",
    "net_listening",
    "net_peerCount",
    "eth_chainId",
    "eth_protocolVersion",
    "eth_blockNumber",
    "eth_syncing",
    "eth_mining",
    "eth_hashrate",
    "eth_coinbase",
    "eth_gasPrice",
    "eth_maxPriorityFeePerGas",
    "eth_blobBaseFee",
    "eth_feeHistory",
    "eth_getBalance",
    "eth_getTransactionCount",
    "eth_getCode",
    "eth_getStorageAt",
    "eth_getProof",
    "eth_call",
    "eth_estimateGas",
    "eth_createAccessList",
    "eth_simulateV1",
    "eth_sendRawTransaction",
    "eth_sendRawTransactionSync",
    "eth_getTransactionReceipt",
    "eth_getTransactionByHash",
    "eth_getRawTransactionByHash",
    "eth_getBlockByNumber",
    "eth_getBlockByHash",
    "eth_getBlockTransactionCountByNumber",
    "eth_getBlockTransactionCountByHash",
    "eth_getTransactionByBlockNumberAndIndex",
    "eth_getTransactionByBlockHashAndIndex",
    "eth_getBlockReceipts",
    "eth_getUncleCountByBlockNumber",
    "eth_getUncleCountByBlockHash",
    "eth_getUncleByBlockNumberAndIndex",
    "eth_getUncleByBlockHashAndIndex",
    "eth_getLogs",
    "eth_newFilter",
    "eth_newBlockFilter",
    "eth_newPendingTransactionFilter",
    "eth_getFilterChanges",
    "eth_getFilterLogs",
    "eth_uninstallFilter",
    "eth_accounts",
    "txpool_status",
    "txpool_content",
    "txpool_contentFrom",
    "txpool_inspect",
    "atoll_getPlacement",
    "atoll_getTransaction",
];

/// Methods whose answers may be long texts.
pub(crate) const TRACE_METHODS: &[&str] = &[
    "debug_traceTransaction",
    "debug_traceCall",
    "debug_traceBlockByNumber",
    "debug_traceBlockByHash",
];

/// Methods of development mode: those of its accounts, and those of [`develop`].
pub(crate) const DEVELOPMENT_METHODS: &[&str] = &[
    "eth_sendTransaction",
    "eth_signTransaction",
    "eth_sign",
    "personal_sign",
    "eth_signTypedData_v4",
];

impl Shared {
    fn start(ledger: &Ledger, config: RpcConfig) -> Self {
        let ledger = ledger.0.clone();
        let limits = ledger.limits.clone();
        let chain = Arc::new(Chain {
            links: config.links,
            beacon: ledger.calls.beacon.clone(),
            genesis: config.genesis,
            head: tokio::sync::watch::Sender::new(None),
            cache: Arc::new(Cache::new(&limits.rpc)),
            assembling: Semaphore::new(limits.rpc.assembling),
            named: tokio::sync::OnceCell::new(),
            limits: limits.clone(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(chain.clone().follow());
        Self {
            filters: Filters::new(limits.rpc.clone()),
            sent: Sent::new(limits.rpc.pending_hashes),
            signers: config.signers,
            development: Development::new(config.clock),
            places: Semaphore::new(limits.rpc.requests),
            traces: Semaphore::new(limits.rpc.traces),
            ledger,
            chain,
            _tasks: tasks,
        }
    }

    fn context(&self) -> Context {
        Context::none().with_timeout(self.ledger.limits.patience())
    }

    /// A place among the requests that are under way.
    fn place(&self) -> Result<SemaphorePermit<'_>, Failure> {
        self.places.try_acquire().map_err(|_| {
            let limit = self.ledger.limits.rpc.requests;
            Failure::limit(format!("{limit} requests are under way, the limit"))
        })
    }

    pub async fn answer(&self, method: &str, params: Params) -> Result<Value, Failure> {
        let _place = self.place()?;
        match method {
            "web3_clientVersion" => {
                Ok(json!(format!("atoll/v{}/rust", self.ledger.queries.version)))
            }
            "web3_sha3" => {
                let bytes: alloy_primitives::Bytes = params.at(0, "data")?;
                Ok(json!(alloy_primitives::keccak256(bytes)))
            }
            "net_version" => Ok(json!(self.chain_id().to_string())),
            "net_listening" => Ok(json!(true)),
            "net_peerCount" | "eth_hashrate" => Ok(json!("0x0")),
            "eth_protocolVersion" => Ok(json!("0x41")),
            "eth_chainId" => Ok(quantity(self.chain_id())),
            "eth_blockNumber" => Ok(quantity(self.chain.head().await?.latest)),
            "eth_syncing" | "eth_mining" => Ok(json!(false)),
            "eth_coinbase" => Ok(json!(self.chain.head().await?.beacon.env.coinbase)),
            "eth_gasPrice" => self.gas_price().await,
            "eth_maxPriorityFeePerGas" => Ok(quantity(fees::PRIORITY_FEE)),
            "eth_blobBaseFee" => Ok(json!("0x1")),
            "eth_feeHistory" => self.fee_history(&params).await,
            "eth_accounts" => {
                Ok(json!(self.signers.iter().map(PrivateKeySigner::address).collect::<Vec<_>>()))
            }
            _ => self.answer_of_state(method, params).await,
        }
    }

    async fn answer_of_state(&self, method: &str, params: Params) -> Result<Value, Failure> {
        match method {
            "eth_getBalance" => self.balance(&params).await,
            "eth_getTransactionCount" => self.transaction_count(&params).await,
            "eth_getCode" => self.code(&params).await,
            "eth_getStorageAt" => self.storage_at(&params).await,
            "eth_getProof" => Err(Failure::new(
                -32601,
                "eth_getProof is not supported: the state's tree is not a Merkle Patricia tree; the \
                 gRPC API has GetProof",
            )),
            "eth_call" => self.call(&params).await,
            "eth_estimateGas" => self.estimate_gas(&params).await,
            "eth_createAccessList" => self.create_access_list(&params).await,
            "eth_simulateV1" => self.simulate(&params).await,
            "eth_sendRawTransaction" => self.send_raw(&params).await,
            "eth_sendRawTransactionSync" => self.send_raw_sync(&params).await,
            "eth_sendTransaction" => self.send_transaction(&params).await,
            "eth_signTransaction" => self.sign_transaction(&params).await,
            "eth_sign" => self.sign(params.at(0, "address")?, params.at(1, "message")?),
            "personal_sign" => self.sign(params.at(1, "address")?, params.at(0, "message")?),
            "eth_signTypedData_v4" => self.sign_typed_data(&params),
            "eth_getLogs" => self.get_logs(&params).await,
            "eth_newFilter" => self.new_filter(&params).await,
            "eth_newBlockFilter" => self.new_block_filter().await,
            "eth_newPendingTransactionFilter" => self.new_pending_filter(),
            "eth_getFilterChanges" => self.filter_changes(&params).await,
            "eth_getFilterLogs" => self.filter_logs(&params).await,
            "eth_uninstallFilter" => Ok(json!(self.filters.remove(params.at(0, "filter")?))),
            "txpool_status" => self.pool_status().await,
            "txpool_content" => self.pool_content(None, txpool::whole).await,
            "txpool_contentFrom" => {
                self.pool_content(Some(params.at(0, "address")?), txpool::whole).await
            }
            "txpool_inspect" => self.pool_content(None, txpool::summary).await,
            "atoll_getPlacement" => self.placement(&params),
            "atoll_getTransaction" => self.timeline(&params).await,
            _ if develop::METHODS.contains(&method) => self.develop(method, &params).await,
            _ => self.answer_of_blocks(method, params).await,
        }
    }

    fn chain_id(&self) -> u64 {
        self.ledger.queries.chain_id
    }
}

/// A number as Ethereum's JSON-RPC has it.
pub(crate) fn quantity(number: impl Into<u128>) -> Value {
    Value::String(format!("{:#x}", number.into()))
}
