//! A cluster, and the good transaction that has to succeed after everything else.

use alloy_consensus::{SignableTransaction, TxEip1559, TxEnvelope};
use alloy_eips::Encodable2718 as _;
use alloy_primitives::{Address, Bytes, Signature, TxKind, U256};
use alloy_signer::SignerSync as _;
use atoll_tests::{
    CHAIN_ID,
    api::Api,
    here::{Here, Shape},
    wallet::{Plan, Wallet},
};
use tonic::transport::{Channel, Endpoint};

pub type Client = atoll_wire::v1::ledger_service_client::LedgerServiceClient<Channel>;

/// A cluster of two shards.
pub struct Target {
    pub here: Here,
    /// The development accounts. The last one is for good transactions only.
    pub wallets: Vec<Wallet>,
}

impl Target {
    pub async fn start() -> Self {
        let here = Here::start(&Shape::new(2)).await.expect("a cluster");
        Self { here, wallets: Wallet::development().expect("keys") }
    }

    pub fn address(&self) -> std::net::SocketAddr {
        self.here.cluster.gateway.expect("it has a gateway")
    }

    pub fn endpoint(&self) -> Endpoint {
        Endpoint::from_shared(format!("http://{}", self.address())).expect("an address")
    }

    /// A client with a connection of its own.
    pub async fn client(&self) -> Client {
        Client::new(self.endpoint().connect().await.expect("the gateway listens"))
    }

    /// The process is unharmed: over the connection of `api`, a transaction from one shard to the
    /// other becomes final.
    pub async fn is_unharmed_for(&mut self, api: &Api) {
        let placement = &self.here.cluster.placement;
        let wallet = self.wallets.last_mut().expect("there are ten");
        let home = placement.owner(&wallet.address());
        let mut strangers = (0..=u8::MAX).map(Address::repeat_byte);
        let other = strangers.find(|to| placement.owner(to) != home).expect("one in two is");
        let tx = wallet.sign(&Plan::pay(other, 1)).expect("a signature");
        let receipts = api.carry_out(&[tx]).await.expect("the next good transaction succeeds");
        assert_eq!(receipts[0].shards, [0, 1]);
    }

    pub async fn is_unharmed(&mut self) {
        let api = Api { client: self.client().await };
        self.is_unharmed_for(&api).await;
    }
}

/// A good payment, for tests to spoil.
pub fn payment(nonce: u64) -> TxEip1559 {
    TxEip1559 {
        chain_id: CHAIN_ID,
        nonce,
        gas_limit: 21_000,
        max_fee_per_gas: 100_000_000_000,
        max_priority_fee_per_gas: 1_000_000_000,
        to: TxKind::Call(Address::repeat_byte(0xaa)),
        value: U256::ONE,
        ..TxEip1559::default()
    }
}

/// Signs and encodes.
pub fn sign<T>(wallet: &Wallet, tx: T) -> Bytes
where
    T: SignableTransaction<Signature>,
    TxEnvelope: From<alloy_consensus::Signed<T>>,
{
    let signature = wallet.key.sign_hash_sync(&tx.signature_hash()).expect("a signature");
    seal(tx, signature)
}

pub fn seal<T>(tx: T, signature: Signature) -> Bytes
where
    T: SignableTransaction<Signature>,
    TxEnvelope: From<alloy_consensus::Signed<T>>,
{
    TxEnvelope::from(tx.into_signed(signature)).encoded_2718().into()
}
