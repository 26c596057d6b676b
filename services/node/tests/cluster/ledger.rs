//! What a client sees: acknowledged receipts, and whether the books balance.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, btree_map::Entry},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, ensure};
use atoll_tests::{
    PATIENCE,
    api::{Api, word},
    processes::{Processes, until},
    wallet::Signed,
};
use atoll_types::{Address, B256, U256};
use atoll_wire::v1::{
    GetBlockRequest, GetReceiptRequest, SubmitTransactionRequest, TransactionFinality,
    TransactionKind, TransactionReceipt, WatchReceiptsRequest, get_receipt_request::Wait,
};
use tokio::{sync::watch, task::JoinHandle, time::Instant};
use tonic::Code;

use crate::ATOLL;

const PAUSE: Duration = Duration::from_millis(50);

/// A receipt without what may change once it has been told: that it becomes final.
fn content(receipt: &TransactionReceipt) -> TransactionReceipt {
    let finality = TransactionFinality::Unspecified.into();
    TransactionReceipt { finality, ..receipt.clone() }
}

fn hash_of(receipt: &TransactionReceipt) -> B256 {
    B256::from_slice(&receipt.hash)
}

#[derive(Default)]
struct Seen {
    receipts: HashMap<B256, TransactionReceipt>,
    /// Receipts that were told twice, with another content.
    contradictions: Vec<String>,
    /// Events that the gateway says it missed.
    lost: u64,
}

/// Everything that clients are told is executed or final, from when it is made.
pub struct Acks {
    seen: Arc<Mutex<Seen>>,
    count: watch::Receiver<usize>,
    task: JoinHandle<()>,
}

impl Drop for Acks {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Acks {
    /// Watches all receipts; when the stream ends it is opened again.
    pub async fn watch(api: &Api) -> anyhow::Result<Self> {
        let mut client = api.client.clone();
        let mut stream = client.watch_receipts(WatchReceiptsRequest::default()).await?.into_inner();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (told, count) = watch::channel(0);
        let sees = seen.clone();
        let task = tokio::spawn(async move {
            loop {
                while let Ok(Some(response)) = stream.message().await {
                    let mut seen = lock(&sees);
                    seen.lost = seen.lost.saturating_add(response.lost);
                    response.receipts.iter().for_each(|receipt| seen.take(receipt));
                    told.send_replace(seen.receipts.len());
                }
                stream = loop {
                    match client.watch_receipts(WatchReceiptsRequest::default()).await {
                        Ok(stream) => break stream.into_inner(),
                        Err(_) => tokio::time::sleep(PAUSE).await,
                    }
                };
            }
        });
        Ok(Self { seen, count, task })
    }

    /// Waits until so many transactions have been acknowledged.
    pub async fn reach(&self, count: usize) -> anyhow::Result<()> {
        let mut told = self.count.clone();
        let reached = told.wait_for(|told| *told >= count);
        let reached = tokio::time::timeout(PATIENCE, reached).await;
        reached.with_context(|| format!("{count} acknowledgements do not come"))??;
        Ok(())
    }

    pub fn count(&self) -> usize {
        *self.count.borrow()
    }

    /// Events that the gateway says it missed.
    pub fn lost(&self) -> u64 {
        lock(&self.seen).lost
    }

    /// What has been acknowledged so far.
    pub fn all(&self) -> Vec<TransactionReceipt> {
        lock(&self.seen).receipts.values().cloned().collect()
    }

    /// What has been acknowledged, once that is every transaction of everybody who has sent any.
    pub async fn complete(&self, cluster: &Processes) -> anyhow::Result<Vec<TransactionReceipt>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let all = self.all();
            match incomplete(cluster, &all).await? {
                None => return Ok(all),
                Some(what) => ensure!(Instant::now() < deadline, "{what}"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// What was told before still holds.
    pub async fn still(&self, api: &Api, told: &[TransactionReceipt]) -> anyhow::Result<()> {
        let hashes: Vec<_> = told.iter().map(hash_of).collect();
        for (told, found) in told.iter().zip(api.ends_of(&hashes).await?) {
            ensure!(content(told) == content(&found), "{told:?} became {found:?}");
        }
        Ok(())
    }

    /// `durable-ack` and `exactly-once`: nobody was told two things, and what was told holds.
    pub async fn hold(&self, api: &Api) -> anyhow::Result<()> {
        let contradictions = lock(&self.seen).contradictions.clone();
        ensure!(contradictions.is_empty(), "receipts changed: {contradictions:?}");
        let told = self.all();
        let hashes: Vec<_> = told.iter().map(hash_of).collect();
        for (told, found) in told.iter().zip(api.ends_of(&hashes).await?) {
            ensure!(found.finality() == TransactionFinality::Final, "{told:?} became {found:?}");
            ensure!(content(told) == content(&found), "{told:?} became {found:?}");
        }
        Ok(())
    }
}

impl Seen {
    fn take(&mut self, receipt: &TransactionReceipt) {
        // "It is final now", without content.
        if receipt.kind() == TransactionKind::Unspecified {
            return;
        }
        let told = self.receipts.entry(hash_of(receipt)).or_insert_with(|| receipt.clone());
        if content(told) != content(receipt) {
            self.contradictions.push(format!("{told:?}, then {receipt:?}"));
        }
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How often a transaction was offered, and how often it was not taken.
pub static TRIED: AtomicU64 = AtomicU64::new(0);
pub static REFUSED: AtomicU64 = AtomicU64::new(0);

/// Offers a transaction once. True if its shard has it, or has carried it out.
pub async fn offer(api: &Api, tx: &Signed) -> anyhow::Result<bool> {
    let taken = offer_once(api, tx).await?;
    TRIED.fetch_add(1, Ordering::Relaxed);
    REFUSED.fetch_add(u64::from(!taken), Ordering::Relaxed);
    Ok(taken)
}

async fn offer_once(api: &Api, tx: &Signed) -> anyhow::Result<bool> {
    let request = SubmitTransactionRequest { transaction: tx.raw.0.clone() };
    let Err(status) = api.client.clone().submit_transaction(request).await else {
        return Ok(true);
    };
    let outcome = status.metadata().get("atoll-outcome").and_then(|name| name.to_str().ok());
    match (status.code(), outcome) {
        (Code::AlreadyExists, _) | (_, Some("NONCE_TOO_LOW" | "UNDER_WAY")) => Ok(true),
        (Code::ResourceExhausted | Code::Unavailable, _) => Ok(false),
        // The gateway went while it was asked.
        (Code::Unknown | Code::Cancelled, _) => Ok(false),
        _ => Err(status).with_context(|| format!("{} is not taken", tx.hash)),
    }
}

/// Offers a transaction, again and again, until it is final: whatever ends meanwhile.
pub async fn bring_about(api: &Api, tx: &Signed) -> anyhow::Result<TransactionReceipt> {
    let deadline = Instant::now() + PATIENCE;
    let mut last = String::new();
    while Instant::now() < deadline {
        if !offer(api, tx).await? {
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        let hash = bytes::Bytes::copy_from_slice(tx.hash.as_slice());
        let request = GetReceiptRequest { hash, wait: Wait::Final.into(), timeout_ms: 3_000 };
        match api.client.clone().get_receipt(request).await {
            Ok(reply) => {
                let receipt = reply.into_inner().receipt.context("a reply without receipt")?;
                last = format!("{receipt:?}");
                match receipt.finality() {
                    TransactionFinality::Final => return Ok(receipt),
                    TransactionFinality::Dropped => break,
                    _ => {}
                }
            }
            Err(status) => {
                last = status.to_string();
                let passes = matches!(
                    status.code(),
                    Code::Unavailable
                        | Code::ResourceExhausted
                        | Code::NotFound
                        | Code::Unknown
                        | Code::Cancelled
                        | Code::DeadlineExceeded
                );
                ensure!(passes, "cannot ask for the receipt of {}: {status}", tx.hash);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    let now = api.cluster().await;
    anyhow::bail!("{} is not final; known last: {last}; the cluster now: {now:?}", tx.hash)
}

/// Everyone whom receipts name.
fn named(receipts: &[TransactionReceipt]) -> BTreeSet<Address> {
    let of = |receipt: &TransactionReceipt| {
        let fields = [&receipt.sender, &receipt.to, &receipt.contract_address];
        fields.map(|field| Address::try_from(&field[..]).ok())
    };
    receipts.iter().flat_map(of).flatten().collect()
}

/// A sender who has not one receipt for each of its nonces (`nonce-order`).
async fn incomplete(
    cluster: &Processes,
    receipts: &[TransactionReceipt],
) -> anyhow::Result<Option<String>> {
    let genesis = cluster.genesis()?;
    let begins: BTreeMap<Address, u64> =
        genesis.accounts.iter().map(|account| (account.address, account.nonce)).collect();
    let mut told: BTreeMap<Address, BTreeSet<u64>> =
        begins.keys().map(|address| (*address, BTreeSet::new())).collect();
    for receipt in receipts {
        told.entry(Address::try_from(&receipt.sender[..])?).or_default().insert(receipt.nonce);
    }
    for (sender, told) in told {
        let nonce = cluster.api.account(sender, 0).await?.nonce;
        let first = begins.get(&sender).copied().unwrap_or_default();
        if !told.iter().copied().eq(first..nonce) {
            return Ok(Some(format!("{sender} has nonce {nonce} and receipts of {told:?}")));
        }
    }
    Ok(None)
}

/// `conservation`, from what the public API tells: once nothing is under way, all balances and the
/// base fees burned make up what there was at genesis. Returns what was burned.
///
/// `receipts` are those of all transactions so far.
pub async fn balance_the_books(
    cluster: &Processes,
    receipts: &[TransactionReceipt],
) -> anyhow::Result<U256> {
    let api = &cluster.api;
    if let Some(what) = incomplete(cluster, receipts).await? {
        anyhow::bail!("{what}");
    }
    let genesis = cluster.genesis()?;
    let burned = burned(api, receipts, genesis.block.env.base_fee).await?;
    let mut accounts = named(receipts);
    accounts.extend(genesis.accounts.iter().map(|account| account.address));
    accounts.insert(cluster.plan.chain.coinbase);
    until("nothing is under way", async || {
        let now = api.cluster().await?;
        Ok((now.groups_open == 0 && now.intents_waiting == 0).then_some(()))
    })
    .await?;
    // Priority fees reach the coinbase some cuts later.
    let supply = genesis.supply();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut sum = burned;
        for account in &accounts {
            sum += api.account(*account, 0).await?.balance;
        }
        if sum == supply {
            prove(cluster, &accounts).await?;
            return Ok(burned);
        }
        ensure!(sum < supply, "{} wei were created", sum - supply);
        ensure!(Instant::now() < deadline, "{} wei of {supply} are missing", supply - sum);
        tokio::time::sleep(PAUSE).await;
    }
}

/// What `atoll proof` verifies of some accounts is what they hold, now that nothing is under way.
async fn prove(cluster: &Processes, accounts: &BTreeSet<Address>) -> anyhow::Result<()> {
    let head = cluster.api.cluster().await?.beacon_head.to_string();
    for account in accounts.iter().step_by(accounts.len().div_ceil(6)) {
        let (address, url) = (account.to_string(), cluster.url());
        let line = ["proof", &address, "0", "--target", &url, "--min-cut", &head, "--json"];
        let run = std::process::Command::new(ATOLL).args(line).output()?;
        let said = String::from_utf8_lossy(&run.stderr);
        ensure!(run.status.success(), "no proof of {address}: {said}");
        let proven: serde_json::Value = serde_json::from_slice(&run.stdout)?;
        let held = cluster.api.account(*account, 0).await?;
        ensure!(proven["balance"] == held.balance.to_string(), "{proven}, but {}", held.balance);
        ensure!(proven["nonce"] == held.nonce, "{proven}, but nonce {}", held.nonce);
    }
    Ok(())
}

async fn burned(
    api: &Api,
    receipts: &[TransactionReceipt],
    genesis_fee: u64,
) -> anyhow::Result<U256> {
    let mut base_fees = BTreeMap::from([(0, genesis_fee)]);
    let mut burned = U256::ZERO;
    for receipt in receipts {
        let base_fee = match base_fees.entry(receipt.round) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(unknown) => {
                let request = GetBlockRequest { number: Some(receipt.round) };
                let block = api.client.clone().get_block(request).await?.into_inner().block;
                *unknown.insert(block.context("a reply without block")?.base_fee)
            }
        };
        let base_fee = U256::from(base_fee);
        let price = word(&receipt.effective_gas_price);
        ensure!(price >= base_fee, "{receipt:?} paid less than the base fee {base_fee}");
        burned += base_fee * U256::from(receipt.gas_used);
    }
    Ok(burned)
}
