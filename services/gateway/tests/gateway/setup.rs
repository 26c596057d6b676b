//! A gateway on a port, clients of it, and signed transactions.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use alloy_consensus::{SignableTransaction, TxEip1559, TxEnvelope};
use alloy_eips::Encodable2718;
use alloy_primitives::{Signature, TxKind};
use alloy_signer::SignerSync;
use alloy_signer_local::PrivateKeySigner;
use atoll_api::state::ReceiptEvent;
use atoll_gateway::{Config, Ledger, Limits, Pool, Rpc, RpcConfig};
use atoll_types::{
    Address, B256, Executed, Finality, Placement, Receipt, ReceiptKind, ShardId, U256,
};
use atoll_wire::v1::ledger_service_client::LedgerServiceClient;
use bytes::Bytes;
use tokio::net::TcpListener;
use tonic::transport::{Channel, Endpoint};

use crate::fakes::{Beacon, Shard, beacon, beacon_links, block, shard, shard_links};

pub const CHAIN_ID: u64 = 31_337;

pub type Client = LedgerServiceClient<Channel>;

/// A gateway to two shards and a beacon.
pub struct Gateway {
    pub shards: [Shard; 2],
    pub beacon: Beacon,
    pub address: SocketAddr,
    pub rpc: Rpc,
    pub placement: Placement,
}

impl Gateway {
    pub async fn start() -> Self {
        Self::with(Limits::default(), []).await
    }

    /// `placed` says where single addresses are.
    pub async fn with(limits: Limits, placed: impl IntoIterator<Item = (Address, u16)>) -> Self {
        let (shards, beacon) = ([shard(), shard()], beacon());
        beacon.change(|script| script.blocks.push(block(1, 1)));
        let placed = placed.into_iter().map(|(address, shard)| (address, ShardId(shard)));
        let placement = Placement::new(2, placed.collect::<BTreeMap<_, _>>());
        let ledger = Ledger::start(Config {
            chain_id: CHAIN_ID,
            placement: placement.clone(),
            shards: shards.iter().map(shard_links).collect(),
            beacon: beacon_links(&beacon),
            recovery: Pool::start("recovery", 2, 4096).expect("threads"),
            calls: Pool::start("calls", 1, 64).expect("threads"),
            rules: atoll_evm::Rules::default(),
            limits: limits.clone(),
            version: "test".into(),
        });
        let rpc = RpcConfig {
            listen: "127.0.0.1:0".parse().expect("an address"),
            links: vec![],
            genesis: std::sync::Arc::new(block(0, 0)),
            development: false,
            signers: vec![],
            clock: None,
        };
        let rpc = Rpc::start(&ledger, rpc).await.expect("a free port");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let router = limits.server().add_service(ledger.into_server());
        tokio::spawn(router.serve_with_incoming(limits.door.open(listener, None)));
        for shard in &shards {
            shard.until(|script| script.followed.then_some(())).await;
        }
        Self { shards, beacon, address, rpc, placement }
    }

    pub fn endpoint(&self) -> Endpoint {
        Endpoint::from_shared(format!("http://{}", self.address)).expect("an address")
    }

    /// A client whose connection comes with its first request.
    pub fn client_soon(&self) -> Client {
        LedgerServiceClient::new(self.endpoint().connect_lazy())
    }

    /// A client with a connection of its own.
    pub async fn client(&self) -> Client {
        let channel = self.endpoint().connect().await.expect("the gateway listens");
        LedgerServiceClient::new(channel)
    }

    /// A signer whose account is on this shard; `salt` tells several of them apart.
    pub fn signer(&self, shard: u16, salt: u8) -> PrivateKeySigner {
        let signers = (1..=u8::MAX).map(|n| {
            let mut key = [salt; 32];
            key[0] = n;
            key[1] = 1;
            PrivateKeySigner::from_bytes(&B256::from(key)).expect("a key")
        });
        let here =
            |signer: &PrivateKeySigner| self.placement.owner(&signer.address()) == ShardId(shard);
        signers.into_iter().find(here).expect("one in two is")
    }
}

pub fn transfer(nonce: u64) -> TxEip1559 {
    TxEip1559 {
        chain_id: CHAIN_ID,
        nonce,
        gas_limit: 21_000,
        max_fee_per_gas: 100,
        max_priority_fee_per_gas: 1,
        to: TxKind::Call(Address::repeat_byte(0xaa)),
        value: U256::from(5),
        ..TxEip1559::default()
    }
}

/// Signs and encodes.
pub fn sign<T>(signer: &PrivateKeySigner, tx: T) -> Bytes
where
    T: SignableTransaction<Signature>,
    TxEnvelope: From<alloy_consensus::Signed<T>>,
{
    let signature = signer.sign_hash_sync(&tx.signature_hash()).expect("a signature");
    TxEnvelope::from(tx.into_signed(signature)).encoded_2718().into()
}

pub fn hash_of(raw: &[u8]) -> B256 {
    alloy_primitives::keccak256(raw)
}

/// A receipt of a local transaction with this much return data.
pub fn receipt(tx: B256, sender: Address, finality: Finality, output: usize) -> ReceiptEvent {
    let executed = Executed {
        status: true,
        gas_used: 21_000,
        effective_gas_price: 258,
        logs: vec![],
        contract: None,
        output: vec![9; output].into(),
    };
    ReceiptEvent {
        receipt: Receipt {
            tx,
            sender,
            nonce: 3,
            to: None,
            executed,
            kind: ReceiptKind::Local,
            shards: vec![ShardId(1)],
            round: 1,
            index: 2,
            block: 8,
        },
        finality,
        cut: 2,
    }
}
