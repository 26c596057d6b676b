//! The public API as this crate uses it.

use std::{path::Path, sync::Arc, time::Duration};

use alloy_primitives::{Address, B256, Bytes, U256};
use anyhow::{Context, bail, ensure};
use atoll_fabric::tls::to_host;
use atoll_wire::v1::{
    GetAccountRequest, GetClusterRequest, GetReceiptRequest, GetStatsRequest, SubmitOutcome,
    TransactionFinality, TransactionKind, TransactionReceipt, get_receipt_request::Wait,
    ledger_service_client::LedgerServiceClient, submit_transactions_response,
};
use futures::{StreamExt, TryStreamExt, stream};
use tokio::time::Instant;
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};

use crate::{
    args::{LoadArgs, Via},
    counted::Counted,
    rpc::Node,
};

pub type Client = LedgerServiceClient<Channel>;

/// Most addresses in one request.
pub const MOST_ADDRESSES: usize = 10_000;
/// Unary requests under way at a time.
const REQUESTS: usize = 32;
/// Largest message from the cluster, in bytes.
const MESSAGE_BYTES: usize = 64 << 20;

/// For certificates: milliseconds since 1970.
fn now_ms() -> u64 {
    std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_millis() as u64
}

/// A cluster, or another Ethereum node, and connections to it.
#[derive(Clone, Debug)]
pub struct Cluster {
    pub link: Link,
    pub chain: Chain,
}

/// How it is spoken to.
#[derive(Clone, Debug)]
pub enum Link {
    Grpc(Grpc),
    Rpc(Node),
}

/// What it is.
#[derive(Clone, Debug)]
pub struct Chain {
    pub chain_id: u64,
    /// 1 if it does not know of shards.
    pub shards: u16,
    /// In wei for each unit of gas.
    pub base_fee: u64,
    /// Most transactions of one batch.
    pub batch: usize,
    pub version: String,
}

impl Cluster {
    /// Connects, and asks what the cluster is.
    pub async fn connect(args: &LoadArgs) -> anyhow::Result<Self> {
        let (target, streams) = (&args.target, args.streams);
        let (link, mut chain) = match args.via {
            Via::Grpc => {
                let (grpc, chain) =
                    Grpc::connect(target, streams, args.tls_authority.as_deref()).await?;
                (Link::Grpc(grpc), chain)
            }
            Via::Rpc => {
                let (node, chain) = Node::connect(target, streams).await?;
                (Link::Rpc(node), chain)
            }
        };
        chain.batch = chain.batch.min(args.batch.into());
        Ok(Self { link, chain })
    }

    /// What the cluster has counted; `None` if it does not say.
    pub async fn counted(&self) -> Option<Counted> {
        match &self.link {
            Link::Grpc(grpc) => grpc.counted().await,
            Link::Rpc(_) => None,
        }
    }

    /// The shards of addresses.
    pub async fn shards_of(&self, addresses: &[Address]) -> anyhow::Result<Vec<u16>> {
        if self.chain.shards == 1 {
            return Ok(vec![0; addresses.len()]);
        }
        match &self.link {
            Link::Grpc(grpc) => grpc.shards_of(addresses).await,
            Link::Rpc(node) => node.shards_of(addresses, self.chain.shards).await,
        }
    }

    /// Nonce and balance of each address.
    pub async fn accounts(&self, addresses: &[Address]) -> anyhow::Result<Vec<(u64, U256)>> {
        match &self.link {
            Link::Grpc(grpc) => grpc.accounts(addresses).await,
            Link::Rpc(node) => node.accounts(addresses).await,
        }
    }

    /// What is known of transactions now; those of which nothing is known are left out.
    pub async fn receipts(&self, hashes: Vec<B256>) -> Vec<Event> {
        match &self.link {
            Link::Grpc(grpc) => grpc.receipts(hashes).await,
            Link::Rpc(node) => node.receipts(hashes).await,
        }
    }
}

/// Atoll's own API.
#[derive(Clone, Debug)]
pub struct Grpc {
    /// One for each stream.
    pub clients: Vec<Client>,
    shards: u16,
}

impl Grpc {
    /// Connects `streams` times and asks what the cluster is.
    ///
    /// # Errors
    /// What is wrong with the target, or with the cluster there.
    pub async fn connect(
        target: &str,
        streams: u16,
        authority: Option<&Path>,
    ) -> anyhow::Result<(Self, Chain)> {
        let scheme = if target.contains("://") { "" } else { "http://" };
        let endpoint = Endpoint::from_shared(format!("{scheme}{target}"))
            .with_context(|| format!("--target {target} is not a URL such as http://host:50051"))?
            .connect_timeout(Duration::from_secs(5))
            .tcp_nodelay(true)
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(16 << 20);
        let mut clients = Vec::new();
        for _ in 0..streams.max(1) {
            let channel = to_host(&endpoint, authority, Arc::new(now_ms)).await;
            let channel = channel.with_context(|| format!("cannot connect to {target}"))?;
            clients.push(Client::new(channel).max_decoding_message_size(MESSAGE_BYTES));
        }
        let info = clients[0]
            .get_cluster(GetClusterRequest::default())
            .await
            .with_context(|| format!("{target} does not answer GetCluster"))?
            .into_inner();
        ensure!(!info.shards.is_empty(), "{target} says that it has no shards");
        let away: Vec<_> =
            info.shards.iter().filter(|shard| !shard.reachable).map(|shard| shard.number).collect();
        ensure!(away.is_empty(), "shards {away:?} are not reachable");
        let highest = info.shards.iter().map(|shard| shard.number).max();
        let limits = info.limits.unwrap_or_default();
        let shards = u16::try_from(highest.unwrap_or(0) + 1).context("too many shards")?;
        let chain = Chain {
            chain_id: info.chain_id,
            shards,
            base_fee: info.base_fee,
            batch: match limits.batch_transactions {
                0 => 1_000,
                most => most.min(1_000) as usize,
            },
            version: info.version,
        };
        Ok((Self { clients, shards }, chain))
    }

    /// What the cluster has counted; `None` if it does not say.
    pub async fn counted(&self) -> Option<Counted> {
        let reply = self.clients[0].clone().get_stats(GetStatsRequest {}).await;
        Counted::read(reply.ok()?.get_ref())
    }

    /// The shards of addresses.
    pub async fn shards_of(&self, addresses: &[Address]) -> anyhow::Result<Vec<u16>> {
        let mut shards = Vec::with_capacity(addresses.len());
        for chunk in addresses.chunks(MOST_ADDRESSES) {
            let request = GetClusterRequest {
                addresses: chunk.iter().map(|a| bytes(a.as_slice())).collect(),
            };
            let info = self.clients[0].clone().get_cluster(request).await?.into_inner();
            ensure!(
                info.owners.len() == chunk.len(),
                "asked for the shards of {} addresses, got {}",
                chunk.len(),
                info.owners.len()
            );
            for owner in info.owners {
                match u16::try_from(owner) {
                    Ok(owner) if owner < self.shards => shards.push(owner),
                    _ => bail!("an address is on shard {owner}, which GetCluster does not list"),
                }
            }
        }
        Ok(shards)
    }

    /// Nonce and balance of each address.
    pub async fn accounts(&self, addresses: &[Address]) -> anyhow::Result<Vec<(u64, U256)>> {
        let ask = |(index, address): (usize, &Address)| {
            let request =
                GetAccountRequest { address: bytes(address.as_slice()), ..Default::default() };
            let mut client = self.clients[index % self.clients.len()].clone();
            let address = *address;
            async move {
                let account = client
                    .get_account(request)
                    .await
                    .with_context(|| format!("cannot read account {address}"))?
                    .into_inner();
                ensure!(account.balance.len() <= 32, "balance of more than 32 bytes");
                anyhow::Ok((account.nonce, U256::from_be_slice(&account.balance)))
            }
        };
        stream::iter(addresses.iter().enumerate().map(ask).collect::<Vec<_>>())
            .buffered(REQUESTS)
            .try_collect()
            .await
    }

    /// What is known of transactions now; those of which nothing is known are left out.
    pub async fn receipts(&self, hashes: Vec<B256>) -> Vec<Event> {
        let ask = |(index, hash): (usize, B256)| {
            let request = GetReceiptRequest {
                hash: bytes(hash.as_slice()),
                wait: Wait::None.into(),
                timeout_ms: 0,
            };
            let mut client = self.clients[index % self.clients.len()].clone();
            async move {
                let reply = client.get_receipt(request).await.ok()?.into_inner();
                let event = Event::read(&reply.receipt?, Instant::now())?;
                Some(Event { asked: true, ..event })
            }
        };
        stream::iter(hashes.into_iter().enumerate().map(ask).collect::<Vec<_>>())
            .buffer_unordered(REQUESTS)
            .filter_map(std::future::ready)
            .collect()
            .await
    }
}

fn bytes(slice: &[u8]) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(slice)
}

/// What the cluster said to one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Taken,
    Refused {
        /// Name of the outcome.
        code: &'static str,
        message: String,
        /// Whether a later attempt may be taken.
        passes: bool,
    },
}

impl Answer {
    /// Reads a result.
    pub fn read(result: submit_transactions_response::Result) -> Self {
        let outcome = result.outcome();
        use SubmitOutcome as O;
        if matches!(outcome, O::Taken | O::AlreadyKnown) {
            return Self::Taken;
        }
        let passes = matches!(
            outcome,
            O::NonceTooFar
                | O::SenderFull
                | O::MempoolFull
                | O::VolumeFull
                | O::Overloaded
                | O::Unavailable
                | O::Unknown
        );
        Self::Refused { code: code(outcome), message: result.message, passes }
    }

    /// For a transaction whose stream broke before an answer.
    pub fn lost() -> Self {
        Self::Refused {
            code: code(SubmitOutcome::Unknown),
            message: "the stream broke before it was answered".into(),
            passes: true,
        }
    }
}

/// The name of an outcome, as in `sender_full`.
fn code(outcome: SubmitOutcome) -> &'static str {
    use SubmitOutcome as O;
    match outcome {
        O::Unspecified => "unspecified",
        O::Taken => "taken",
        O::AlreadyKnown => "already_known",
        O::Undecodable => "undecodable",
        O::UnsupportedType => "unsupported_type",
        O::WrongChain => "wrong_chain",
        O::InvalidSignature => "invalid_signature",
        O::InvalidFields => "invalid_fields",
        O::NonceTooLow => "nonce_too_low",
        O::NonceTooFar => "nonce_too_far",
        O::InsufficientFunds => "insufficient_funds",
        O::Underpriced => "underpriced",
        O::UnderWay => "under_way",
        O::IntrinsicGas => "intrinsic_gas",
        O::GasLimit => "gas_limit",
        O::SenderFull => "sender_full",
        O::MempoolFull => "mempool_full",
        O::Overloaded => "overloaded",
        O::Unavailable => "unavailable",
        O::Unknown => "unknown",
        O::Internal => "internal",
        O::VolumeFull => "volume_full",
    }
}

/// How far a transaction has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    Pending,
    Executed,
    Final,
    Dropped(String),
}

/// How a transaction was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Not said: the message holds hash and finality only.
    Unknown,
    Local,
    Credit,
    Group,
}

/// News of a transaction.
#[derive(Clone, Debug)]
pub struct Event {
    pub hash: B256,
    pub stage: Stage,
    /// Whether it succeeded, if `kind` is known.
    pub status: bool,
    pub kind: Kind,
    /// Number of shards that took part, if `kind` is known.
    pub shards: u32,
    pub gas_used: u64,
    /// When it came.
    pub at: Instant,
    /// It was asked for with GetReceipt.
    pub asked: bool,
}

impl Event {
    /// Reads a receipt, compact or in full; `None` if it makes no sense.
    pub fn read(receipt: &TransactionReceipt, at: Instant) -> Option<Self> {
        let stage = match receipt.finality() {
            TransactionFinality::Unspecified => return None,
            TransactionFinality::Pending => Stage::Pending,
            TransactionFinality::Executed => Stage::Executed,
            TransactionFinality::Final => Stage::Final,
            TransactionFinality::Dropped => Stage::Dropped(receipt.dropped_reason.clone()),
        };
        let kind = match receipt.kind() {
            TransactionKind::Unspecified => Kind::Unknown,
            TransactionKind::Local => Kind::Local,
            TransactionKind::Credit => Kind::Credit,
            TransactionKind::Group => Kind::Group,
        };
        Some(Self {
            hash: B256::try_from(&receipt.hash[..]).ok()?,
            stage,
            status: receipt.status,
            kind,
            shards: receipt.shard_count.max(receipt.shards.len() as u32),
            gas_used: receipt.gas_used,
            at,
            asked: false,
        })
    }
}

/// Whether a stream that ended so may be opened again.
pub fn may_reopen(status: &tonic::Status) -> bool {
    !matches!(
        status.code(),
        Code::InvalidArgument
            | Code::Unimplemented
            | Code::PermissionDenied
            | Code::Unauthenticated
    )
}

/// A transaction's bytes for a request.
pub fn transaction(raw: &Bytes) -> bytes::Bytes {
    raw.0.clone()
}
