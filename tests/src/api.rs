//! A client of the public API: asks, and waits with a deadline.

use std::time::Duration;

use alloy_primitives::{Address, B256, Bytes, Log, U256};
use anyhow::{Context as _, bail};
use atoll_types::Executed;
use atoll_wire::v1::{
    CallRequest, CallResponse, GetAccountRequest, GetClusterRequest, GetClusterResponse,
    GetReceiptRequest, GetStorageRequest, SubmitOutcome, SubmitTransactionRequest,
    TransactionFinality, TransactionReceipt, get_receipt_request::Wait,
    ledger_service_client::LedgerServiceClient,
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::time::Instant;
use tonic::{
    Code, Response, Status,
    transport::{Channel, Endpoint},
};

use crate::{PATIENCE, wallet::Signed};

/// Requests of one batch under way at a time; a connection may have 256.
const REQUESTS: usize = 64;
/// Pause before what was refused for a while is tried again.
pub(crate) const RETRY: Duration = Duration::from_millis(50);
const MESSAGE_BYTES: usize = 64 << 20;

type Client = LedgerServiceClient<Channel>;

/// A connection to a cluster. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Api {
    pub client: Client,
}

/// An account as the API tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub nonce: u64,
    pub balance: U256,
    pub code_hash: B256,
    /// The shard that owns it.
    pub shard: u16,
}

impl Api {
    /// Connects to `http://host:port` as soon as something listens there.
    pub async fn connect(url: &str) -> anyhow::Result<Self> {
        let endpoint = Endpoint::from_shared(url.to_owned())
            .with_context(|| format!("{url} is no URL"))?
            .tcp_nodelay(true);
        let deadline = Instant::now() + PATIENCE;
        loop {
            match endpoint.connect().await {
                Ok(channel) => {
                    let client = LedgerServiceClient::new(channel);
                    return Ok(Self { client: client.max_decoding_message_size(MESSAGE_BYTES) });
                }
                Err(error) if Instant::now() >= deadline => {
                    return Err(error).with_context(|| format!("cannot connect to {url}"));
                }
                Err(_) => tokio::time::sleep(RETRY).await,
            }
        }
    }

    /// Offers a transaction until it is taken. Safe to repeat, also after a restart of the cluster.
    pub async fn submit(&self, tx: &Signed) -> anyhow::Result<()> {
        match self.offer(tx).await? {
            SubmitOutcome::Taken | SubmitOutcome::AlreadyKnown => Ok(()),
            other => bail!("{} is not taken: {}", tx.hash, other.as_str_name()),
        }
    }

    /// Offers a transaction until it is taken or refused for good.
    pub async fn offer(&self, tx: &Signed) -> anyhow::Result<SubmitOutcome> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let request = SubmitTransactionRequest { transaction: tx.raw.0.clone() };
            let Err(status) = self.client.clone().submit_transaction(request).await else {
                return Ok(SubmitOutcome::Taken);
            };
            let outcome = status.metadata().get("atoll-outcome").and_then(|o| o.to_str().ok());
            let outcome = outcome
                .and_then(|name| SubmitOutcome::from_str_name(&format!("SUBMIT_OUTCOME_{name}")));
            let passes = match outcome {
                None => status.code() == Code::Unavailable,
                Some(outcome) => matches!(
                    outcome,
                    SubmitOutcome::MempoolFull
                        | SubmitOutcome::SenderFull
                        | SubmitOutcome::VolumeFull
                        | SubmitOutcome::Overloaded
                        | SubmitOutcome::Unavailable
                        | SubmitOutcome::Unknown
                ),
            };
            if passes && Instant::now() < deadline {
                tokio::time::sleep(RETRY).await;
                continue;
            }
            return outcome.with_context(|| format!("{} is not taken: {status}", tx.hash));
        }
    }

    /// Offers transactions, each one after those before it were taken.
    pub async fn submit_all(&self, txs: &[Signed]) -> anyhow::Result<()> {
        for tx in txs {
            self.submit(tx).await?;
        }
        Ok(())
    }

    /// The receipt of a transaction as soon as it is final, or was dropped.
    pub async fn end_of(&self, hash: B256) -> anyhow::Result<TransactionReceipt> {
        self.wait(hash, Wait::Final).await
    }

    /// As [`Api::end_of`], and offers the transaction again while it is pending: a pool that stops
    /// forgets.
    pub async fn bring_to_end(&self, tx: &Signed) -> anyhow::Result<TransactionReceipt> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let known = self.known(tx.hash, Wait::Final, 2_000).await?;
            let ends = [TransactionFinality::Final, TransactionFinality::Dropped];
            if ends.contains(&known.finality()) {
                return Ok(known);
            }
            let outcome = self.offer(tx).await?.as_str_name();
            if Instant::now() >= deadline {
                bail!("{} is not done after {PATIENCE:?}, offered again: {outcome}", tx.hash);
            }
        }
    }

    /// The receipt of a transaction as soon as it is executed or final, or was dropped.
    pub async fn executed(&self, hash: B256) -> anyhow::Result<TransactionReceipt> {
        self.wait(hash, Wait::Executed).await
    }

    async fn wait(&self, hash: B256, wait: Wait) -> anyhow::Result<TransactionReceipt> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let known = self.known(hash, wait, 0).await?;
            let enough = match known.finality() {
                TransactionFinality::Final | TransactionFinality::Dropped => true,
                TransactionFinality::Executed => wait == Wait::Executed,
                _ => false,
            };
            if enough {
                return Ok(known);
            }
            if Instant::now() >= deadline {
                bail!("{hash} is not done after {PATIENCE:?}, only {:?}", known.finality());
            }
        }
    }

    /// What is known of a transaction at the latest after so many milliseconds; 0: as long as the
    /// gateway waits.
    pub async fn known(
        &self,
        hash: B256,
        wait: Wait,
        timeout_ms: u64,
    ) -> anyhow::Result<TransactionReceipt> {
        let deadline = Instant::now() + PATIENCE;
        let request =
            GetReceiptRequest { hash: wire(hash.as_slice()), wait: wait.into(), timeout_ms };
        loop {
            let status = match self.client.clone().get_receipt(request.clone()).await {
                Ok(reply) => return reply.into_inner().receipt.context("a reply without receipt"),
                Err(status) => status,
            };
            let passes = matches!(
                status.code(),
                Code::Unavailable | Code::ResourceExhausted | Code::NotFound
            );
            if !passes || Instant::now() >= deadline {
                return Err(status).with_context(|| format!("no receipt of {hash}"));
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// The ends of many transactions, in their order.
    pub async fn ends_of(&self, hashes: &[B256]) -> anyhow::Result<Vec<TransactionReceipt>> {
        let all: Vec<_> = hashes.iter().map(|hash| self.end_of(*hash)).collect();
        stream::iter(all).buffered(REQUESTS).try_collect().await
    }

    /// Offers transactions and returns their final receipts. A transaction that was dropped or
    /// failed is an error.
    pub async fn carry_out(&self, txs: &[Signed]) -> anyhow::Result<Vec<TransactionReceipt>> {
        self.submit_all(txs).await?;
        let hashes: Vec<_> = txs.iter().map(|tx| tx.hash).collect();
        let receipts = self.ends_of(&hashes).await?;
        for receipt in &receipts {
            let hash = B256::from_slice(&receipt.hash);
            match receipt.finality() {
                TransactionFinality::Final if receipt.status => {}
                TransactionFinality::Final => bail!("{hash} failed: {receipt:?}"),
                _ => bail!("{hash} was dropped: {}", receipt.dropped_reason),
            }
        }
        Ok(receipts)
    }

    /// An account as it is once its shard has passed `min_cut`.
    pub async fn account(&self, address: Address, min_cut: u64) -> anyhow::Result<Account> {
        let request =
            GetAccountRequest { address: wire(address.as_slice()), min_cut, with_code: false };
        let ask = |mut client: Client, request| async move { client.get_account(request).await };
        let account = self.patiently(request, ask).await?;
        Ok(Account {
            nonce: account.nonce,
            balance: word(&account.balance),
            code_hash: B256::try_from(&account.code_hash[..])?,
            shard: u16::try_from(account.shard)?,
        })
    }

    /// A storage slot as it is once its shard has passed `min_cut`.
    pub async fn storage(
        &self,
        address: Address,
        slot: U256,
        min_cut: u64,
    ) -> anyhow::Result<U256> {
        let slot = wire(&slot.to_be_bytes::<32>());
        let request = GetStorageRequest { address: wire(address.as_slice()), slot, min_cut };
        let ask = |mut client: Client, request| async move { client.get_storage(request).await };
        Ok(word(&self.patiently(request, ask).await?.value))
    }

    /// Asks until there is an answer: a shard may be away for a while.
    async fn patiently<M: Clone, R, F>(
        &self,
        request: M,
        ask: impl Fn(Client, M) -> F,
    ) -> anyhow::Result<R>
    where
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = match ask(self.client.clone(), request.clone()).await {
                Ok(reply) => return Ok(reply.into_inner()),
                Err(status) => status,
            };
            let passes = [Code::Unavailable, Code::DeadlineExceeded, Code::ResourceExhausted];
            if !passes.contains(&status.code()) || Instant::now() >= deadline {
                return Err(status.into());
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Calls a contract without changing anything.
    pub async fn call(
        &self,
        to: Address,
        input: Bytes,
        min_cut: u64,
    ) -> anyhow::Result<CallResponse> {
        let request =
            CallRequest { to: wire(to.as_slice()), data: input.0, min_cut, ..Default::default() };
        Ok(self.client.clone().call(request).await?.into_inner())
    }

    /// How the cluster stands.
    pub async fn cluster(&self) -> anyhow::Result<GetClusterResponse> {
        Ok(self.client.clone().get_cluster(GetClusterRequest::default()).await?.into_inner())
    }
}

/// What a receipt says of running the transaction.
pub fn ran(receipt: &TransactionReceipt) -> anyhow::Result<Executed> {
    let log = |log: &atoll_wire::v1::TransactionLog| {
        let topics = log.topics.iter().map(|topic| B256::try_from(&topic[..]));
        let topics = topics.collect::<Result<_, _>>()?;
        let address = Address::try_from(&log.address[..])?;
        Log::new(address, topics, log.data.clone().into()).context("more than four topics")
    };
    let contract = &receipt.contract_address;
    Ok(Executed {
        status: receipt.status,
        gas_used: receipt.gas_used,
        effective_gas_price: word(&receipt.effective_gas_price).try_into()?,
        logs: receipt.logs.iter().map(log).collect::<anyhow::Result<_>>()?,
        contract: (!contract.is_empty()).then(|| Address::try_from(&contract[..])).transpose()?,
        output: receipt.return_data.clone().into(),
    })
}

/// A number of the API.
pub fn word(bytes: &[u8]) -> U256 {
    U256::from_be_slice(bytes)
}

fn wire(slice: &[u8]) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(slice)
}
