//! The public API as the commands use it: retries what may be retried, carries the newest cut along,
//! and says of an error what happened, where, and what to do.

use std::time::Duration;

use alloy_primitives::{Address, B256, U256, keccak256};
use anyhow::{Context, anyhow};
use atoll_wire::v1::{
    CallRequest, CallResponse, GetAccountRequest, GetAccountResponse, GetClusterRequest,
    GetClusterResponse, GetProofRequest, GetProofResponse, GetReceiptRequest, GetStatsRequest,
    GetStatsResponse, GetStorageRequest, GetStorageResponse, SubmitTransactionRequest,
    TransactionFinality, TransactionReceipt, get_receipt_request::Wait,
    ledger_service_client::LedgerServiceClient,
};
use bytes::Bytes;
use tokio::time::{Instant, sleep};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};

use super::target::{Found, Target};

/// Time for a connection.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// Time for a reply: more than a gateway takes.
const REQUEST_TIME: Duration = Duration::from_secs(40);
/// Time that one request waits for a receipt.
const WAIT_TIME: Duration = Duration::from_secs(10);
/// Time between requests, where the gateway does not say.
const PAUSE: Duration = Duration::from_millis(200);
/// The most that the gateway can ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Times that a request is sent.
const TRIES: u32 = 5;
/// Time in which a cut that was seen has to be in a beacon block; else it is of another cluster.
const CUT_TIME: Duration = Duration::from_secs(2);
/// Largest reply, in bytes.
const REPLY_BYTES: usize = 16 << 20;

/// A connection to a gateway.
#[derive(Clone, Debug)]
pub struct Client {
    grpc: LedgerServiceClient<Channel>,
    found: Found,
    /// Read no older state than this; `None`: than what was seen before.
    min_cut: Option<u64>,
}

impl Client {
    /// Finds a gateway and connects to it.
    pub async fn connect(target: &Target) -> anyhow::Result<Self> {
        Self::connect_to(target.find()?).await
    }

    pub(super) async fn connect_to(found: Found) -> anyhow::Result<Self> {
        let url = &found.url;
        let endpoint = Endpoint::from_shared(url.clone())
            .with_context(|| format!("{url} is not an endpoint such as http://127.0.0.1:50051"))?
            .connect_timeout(CONNECT_TIME)
            .timeout(REQUEST_TIME)
            .tcp_nodelay(true);
        let channel = found.tls.connect(&endpoint).await.with_context(|| match found.pid {
            Some(pid) => format!(
                "cannot connect to {url}: is `atoll up` (process {pid}) still running? Start it \
                 again, or give --target"
            ),
            None => format!("cannot connect to {url}: is it the gRPC endpoint of a gateway?"),
        })?;
        let grpc = LedgerServiceClient::new(channel).max_decoding_message_size(REPLY_BYTES);
        Ok(Self { grpc, found, min_cut: None })
    }

    /// Reads no older state than `min_cut`, whatever was seen before.
    pub fn with_min_cut(self, min_cut: Option<u64>) -> Self {
        Self { min_cut, ..self }
    }

    pub fn url(&self) -> &str {
        &self.found.url
    }

    /// How the cluster stands, and the shards of addresses.
    pub async fn cluster(&self, addresses: &[Address]) -> anyhow::Result<GetClusterResponse> {
        let addresses = addresses.iter().map(|address| bytes(address.as_slice())).collect();
        let request = GetClusterRequest { addresses };
        self.read("cannot ask how the cluster stands", async |_| {
            self.grpc.clone().get_cluster(request.clone()).await
        })
        .await
    }

    /// What shards and beacon have counted.
    pub async fn stats(&self) -> anyhow::Result<GetStatsResponse> {
        self.read("cannot ask what was counted", async |_| {
            self.grpc.clone().get_stats(GetStatsRequest {}).await
        })
        .await
    }

    pub async fn account(
        &self,
        address: Address,
        with_code: bool,
    ) -> anyhow::Result<GetAccountResponse> {
        let doing = format!("cannot read account {address}");
        let address = bytes(address.as_slice());
        let reply = self
            .read(&doing, async |min_cut| {
                let address = address.clone();
                let request = GetAccountRequest { address, min_cut, with_code };
                self.grpc.clone().get_account(request).await
            })
            .await?;
        self.found.saw_cut(reply.cut);
        Ok(reply)
    }

    /// A storage slot; `slot` is a 256-bit number.
    pub async fn storage(
        &self,
        address: Address,
        slot: B256,
    ) -> anyhow::Result<GetStorageResponse> {
        let doing = format!("cannot read storage of {address}");
        let (address, slot) = (bytes(address.as_slice()), bytes(slot.as_slice()));
        let reply = self
            .read(&doing, async |min_cut| {
                let (address, slot) = (address.clone(), slot.clone());
                let request = GetStorageRequest { address, slot, min_cut };
                self.grpc.clone().get_storage(request).await
            })
            .await?;
        self.found.saw_cut(reply.cut);
        Ok(reply)
    }

    /// What an account and some of its slots held, with proofs.
    pub async fn proof(
        &self,
        address: Address,
        slots: &[U256],
    ) -> anyhow::Result<GetProofResponse> {
        let doing = format!("cannot get proofs of {address}");
        let address = bytes(address.as_slice());
        let slots: Vec<Bytes> = slots.iter().map(|slot| bytes(&slot.to_be_bytes::<32>())).collect();
        self.read(&doing, async |min_cut| {
            let (address, slots) = (address.clone(), slots.clone());
            let request = GetProofRequest { address, slots, min_cut };
            self.grpc.clone().get_proof(request).await
        })
        .await
    }

    /// Runs a call; `min_cut` is filled in.
    pub async fn call(&self, request: CallRequest) -> anyhow::Result<CallResponse> {
        let reply = self
            .read("cannot run the call", async |min_cut| {
                let request = CallRequest { min_cut, ..request.clone() };
                self.grpc.clone().call(request).await
            })
            .await?;
        self.found.saw_cut(reply.cut);
        Ok(reply)
    }

    /// Offers a signed transaction until it is taken or refused. Its hash.
    pub async fn submit(&self, raw: &[u8]) -> anyhow::Result<B256> {
        let hash = keccak256(raw);
        let request = SubmitTransactionRequest { transaction: bytes(raw) };
        let mut tried = 1;
        // Whether a try that failed may have reached its shard.
        let mut uncertain = false;
        loop {
            let reply = self.grpc.clone().submit_transaction(request.clone()).await;
            let status = match reply {
                Ok(_) => return Ok(hash),
                Err(status) => status,
            };
            if status.code() == Code::AlreadyExists {
                return Ok(hash);
            }
            // An earlier try, or somebody else who has these bytes, may have been faster.
            if outcome(&status) == Some("NONCE_TOO_LOW") && self.is_known(hash).await {
                return Ok(hash);
            }
            uncertain |= may_be_taken(&status);
            if !may_retry(&status) || tried == TRIES {
                let error = self.explain(&format!("transaction {hash} was not taken"), &status);
                if !uncertain || status.code() == Code::InvalidArgument {
                    return Err(error);
                }
                return Err(error.context(format!(
                    "it is not known whether transaction {hash} was taken: ask with `atoll receipt \
                     {hash}`; sending it again with the same nonce is safe"
                )));
            }
            tried += 1;
            sleep(pause(&status)).await;
        }
    }

    async fn is_known(&self, hash: B256) -> bool {
        let request = GetReceiptRequest {
            hash: bytes(hash.as_slice()),
            wait: Wait::None.into(),
            timeout_ms: 0,
        };
        let reply = self.grpc.clone().get_receipt(request).await;
        reply.is_ok_and(|reply| {
            let receipt = reply.into_inner().receipt;
            receipt.is_some_and(|receipt| receipt.finality() != TransactionFinality::Dropped)
        })
    }

    /// What is known of a transaction once it has come as far as `wait` says, or after `time`.
    /// `taken`: that it exists is known, so a gateway that does not know it is asked again.
    pub async fn receipt(
        &self,
        hash: B256,
        wait: Wait,
        time: Duration,
        taken: bool,
    ) -> anyhow::Result<TransactionReceipt> {
        let deadline = Instant::now() + time;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let step = left.min(WAIT_TIME).max(Duration::from_millis(1));
            let request = GetReceiptRequest {
                hash: bytes(hash.as_slice()),
                wait: wait.into(),
                timeout_ms: u64::try_from(step.as_millis()).unwrap_or(u64::MAX),
            };
            let reply = self.grpc.clone().get_receipt(request).await;
            let over = Instant::now() >= deadline;
            match reply {
                Ok(reply) => {
                    let receipt = reply.into_inner().receipt;
                    let receipt = receipt.context("the gateway's reply holds no receipt")?;
                    if over || has_come(&receipt, wait) {
                        self.found.saw_cut(receipt.cut);
                        return Ok(receipt);
                    }
                    sleep(Duration::from_millis(20)).await;
                }
                Err(status) => {
                    let unknown = taken && status.code() == Code::NotFound;
                    if over || !(unknown || may_retry(&status)) {
                        let doing = format!("cannot get the receipt of transaction {hash}");
                        return Err(self.explain(&doing, &status));
                    }
                    sleep(pause(&status).min(left)).await;
                }
            }
        }
    }

    /// Asks a question that changes nothing, with the cut that the answer must not be older than.
    async fn read<T>(
        &self,
        doing: &str,
        mut ask: impl AsyncFnMut(u64) -> Result<Response<T>, Status>,
    ) -> anyhow::Result<T> {
        let began = Instant::now();
        let mut min_cut = self.min_cut.unwrap_or_else(|| self.found.last_cut());
        let mut tried = 1;
        loop {
            let status = match ask(min_cut).await {
                Ok(reply) => return Ok(reply.into_inner()),
                Err(status) => status,
            };
            let ahead = status.code() == Code::OutOfRange && self.min_cut.is_none() && min_cut > 0;
            if ahead && began.elapsed() < CUT_TIME {
                // What was executed an instant ago is readable at the next cut.
                sleep(CUT_TIME / 20).await;
            } else if ahead {
                self.found.forget_cut();
                min_cut = 0;
            } else if may_retry(&status) && tried < TRIES {
                tried += 1;
                sleep(pause(&status)).await;
            } else {
                return Err(self.explain(doing, &status));
            }
        }
    }

    /// What happened, where, and what to do.
    fn explain(&self, doing: &str, status: &Status) -> anyhow::Error {
        let message = super::show::printable(status.message());
        let (url, code) = (self.url(), status.code());
        let error = match advice(status) {
            Some(advice) => anyhow!("{message} ({code:?} from {url}); {advice}"),
            None => anyhow!("{message} ({code:?} from {url})"),
        };
        error.context(doing.to_owned())
    }
}

/// Whether a receipt is as firm as was waited for.
pub fn has_come(receipt: &TransactionReceipt, wait: Wait) -> bool {
    use TransactionFinality::{Dropped, Executed, Final};
    match wait {
        Wait::Unspecified | Wait::None => true,
        Wait::Executed => matches!(receipt.finality(), Executed | Final | Dropped),
        Wait::Final => matches!(receipt.finality(), Final | Dropped),
    }
}

/// Bytes of a request.
pub fn bytes(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

fn outcome(status: &Status) -> Option<&str> {
    status.metadata().get("atoll-outcome")?.to_str().ok()
}

/// Whether a transaction may be on its shard although the gateway gave an error.
fn may_be_taken(status: &Status) -> bool {
    match (outcome(status), status.code()) {
        (Some(name), _) => name == "UNKNOWN",
        (None, Code::Unknown | Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled) => {
            true
        }
        _ => false,
    }
}

fn may_retry(status: &Status) -> bool {
    let code = status.code();
    let later = status.metadata().contains_key("grpc-retry-pushback-ms");
    matches!(code, Code::Unavailable | Code::Unknown)
        || code == Code::ResourceExhausted
            && later
            && !matches!(outcome(status), Some("SENDER_FULL" | "VOLUME_FULL"))
}

fn pause(status: &Status) -> Duration {
    let asked = status.metadata().get("grpc-retry-pushback-ms");
    let asked = asked.and_then(|pause| pause.to_str().ok()?.parse().ok());
    asked.map_or(PAUSE, Duration::from_millis).min(LONGEST_PAUSE)
}

fn advice(status: &Status) -> Option<&'static str> {
    let advice = match outcome(status) {
        Some("NONCE_TOO_LOW") => "leave out --nonce to use the next one",
        Some("NONCE_TOO_FAR" | "SENDER_FULL") => {
            "wait until the sender's earlier transactions are executed"
        }
        Some("VOLUME_FULL") => {
            "whoever runs that shard has to make room on its disk; then try again"
        }
        Some("INSUFFICIENT_FUNDS") => {
            "`atoll account ADDR` shows the balance; --gas and --max-fee count too"
        }
        Some("UNDERPRICED" | "UNDER_WAY") => {
            "give a higher --max-fee and --priority-fee, or the next --nonce if another \
             transaction of this sender is pending"
        }
        Some("INTRINSIC_GAS") => "give more --gas, or leave it out to have it estimated",
        Some("GAS_LIMIT") => "give less --gas; `atoll cluster` shows a block's",
        Some("WRONG_CHAIN") => "sign it for the chain id that `atoll cluster` shows",
        _ => match status.code() {
            Code::Unavailable | Code::Unknown | Code::ResourceExhausted => {
                "try again in a moment; `atoll cluster` shows which shards answer"
            }
            Code::DeadlineExceeded => {
                "a shard is behind or down: see `atoll cluster`; --min-cut 0 reads older state"
            }
            Code::OutOfRange => "`atoll cluster` shows the newest cut",
            Code::NotFound => "compare the hash, and whether it was sent to this cluster",
            Code::Unimplemented => "this is not a gateway of Atoll, or one of another version",
            _ => return None,
        },
    };
    Some(advice)
}
