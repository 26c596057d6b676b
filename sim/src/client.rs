//! Clients of the simulated cluster: pay, move tokens and call chains of contracts through the public
//! API, send again what they do not know the end of, and remember everything they were told.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
    time::Duration,
};

use alloy_primitives::{Address, B256, U256};
use alloy_sol_types::SolCall as _;
use anyhow::Context as _;
use atoll_tests::{
    api::Api,
    contracts::{Hop, Token, hop, token},
    wallet::{Plan, Signed, Wallet},
};
use atoll_wire::v1::{
    GetReceiptRequest, SubmitTransactionRequest, TransactionFinality, TransactionKind,
    TransactionReceipt, get_receipt_request::Wait, ledger_service_client::LedgerServiceClient,
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tonic::transport::{Channel, Endpoint};

use crate::{net, trace::Trace};

/// Wei that every account begins with.
pub const BEGIN_WEI: u64 = 10_000_000_000_000_000_000;
/// Tokens that every account gets at first, of each kind.
const MINTED: u64 = 1_000_000;
/// How long a client waits for one answer.
const PATIENCE: Duration = Duration::from_secs(8);
/// Links of the chain of contracts that calls one another.
const HOPS: usize = 3;

/// Where the cluster's public API is found.
pub const GATEWAY: &str = "http://gateway:50051";

/// How far a run has come; the driver moves it forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Contracts are being created; nothing breaks.
    Setup,
    /// Things break.
    Chaos,
    /// Everything is whole again, and what was begun comes to its end.
    Healed,
    /// All machines have lost their power and are up again: everything told is asked for once more.
    Audit,
    Done,
}

/// What a transaction is to do, for the sums at the end.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Pay { to: usize, wei: u64 },
    Token { token: usize, to: usize, amount: u64 },
    Other,
}

/// A transaction, and what clients were told of it.
struct Told {
    deed: Deed,
    from: usize,
    executed: Option<TransactionReceipt>,
    done: Option<TransactionReceipt>,
}

/// What clients know, and what is wrong with it.
pub struct Book {
    pub phase: Cell<Phase>,
    /// Wallets that have nothing under way.
    idle: Cell<usize>,
    told: RefCell<BTreeMap<B256, Told>>,
    pub violations: RefCell<Vec<String>>,
    /// What each client waits for.
    waits: RefCell<BTreeMap<usize, String>>,
    accounts: usize,
    pub acknowledged: Cell<u64>,
}

impl Book {
    pub fn new(accounts: usize) -> Rc<Self> {
        Rc::new(Self {
            phase: Cell::new(Phase::Setup),
            idle: Cell::new(0),
            told: RefCell::default(),
            violations: RefCell::default(),
            waits: RefCell::default(),
            accounts,
            acknowledged: Cell::new(0),
        })
    }

    pub fn are_all_idle(&self) -> bool {
        self.idle.get() == self.accounts
    }

    pub fn waits(&self) -> String {
        let waits: Vec<String> =
            self.waits.borrow().iter().map(|(who, what)| format!("{who}: {what}")).collect();
        waits.join("; ")
    }

    pub fn violation(&self, what: String) {
        self.violations.borrow_mut().push(what);
    }

    /// Takes down what a client was told, and compares it with what was told before.
    fn hear(&self, hash: B256, receipt: &TransactionReceipt) {
        let mut told = self.told.borrow_mut();
        let Some(told) = told.get_mut(&hash) else { return };
        let finality = receipt.finality();
        let firm = [TransactionFinality::Executed, TransactionFinality::Final];
        if !firm.contains(&finality) {
            if told.executed.is_some() || told.done.is_some() {
                let known = if told.done.is_some() { "final" } else { "executed" };
                self.violation(format!(
                    "durable-ack: {hash} was told {known} and is now {finality:?}: {}",
                    receipt.dropped_reason
                ));
            }
            return;
        }
        let place = |r: &TransactionReceipt| {
            (r.kind, r.round, r.group_index, r.block, r.index, r.gas_used, r.nonce)
        };
        for before in [&told.executed, &told.done].into_iter().flatten() {
            // The status of a credit is known when it is final.
            let open = before.kind() == TransactionKind::Credit
                && before.finality() != TransactionFinality::Final;
            if place(before) != place(receipt) || !open && before.status != receipt.status {
                self.violation(format!(
                    "durable-ack: {hash} was told {before:?} and is now {receipt:?}"
                ));
            }
        }
        if told.done.is_some() && finality == TransactionFinality::Executed {
            self.violation(format!("durable-ack: {hash} was final and is only executed"));
        }
        let place = match finality {
            TransactionFinality::Final => &mut told.done,
            _ => &mut told.executed,
        };
        if place.is_none() {
            self.acknowledged.set(self.acknowledged.get() + 1);
            *place = Some(receipt.clone());
        }
    }
}

/// What all clients of a run share.
pub struct Clients {
    pub book: Rc<Book>,
    api: Api,
    trace: Trace,
    addresses: Vec<Address>,
    tokens: Vec<Address>,
    hops: Vec<Address>,
}

/// Keys of the accounts of a seed.
pub fn wallets(seed: u64, count: usize) -> anyhow::Result<Vec<Wallet>> {
    (0..count as u64).map(|index| Wallet::seeded("sim", seed, index)).collect()
}

/// Contracts that the first wallet creates: where they will be, in the order of its nonces.
pub fn contracts(wallets: &[Wallet], shards: u16) -> Vec<(Address, u16)> {
    let creator = wallets[0].address();
    (0..2 + HOPS as u64).map(|nonce| (creator.create(nonce), nonce as u16 % shards)).collect()
}

/// Runs all clients until the run is done.
pub async fn run(
    book: Rc<Book>,
    wallets: Vec<Wallet>,
    seed: u64,
    trace: Trace,
) -> anyhow::Result<()> {
    let endpoint = Endpoint::from_static(GATEWAY)
        .connect_timeout(Duration::from_secs(2))
        .http2_keep_alive_interval(Duration::from_secs(3))
        .keep_alive_timeout(Duration::from_secs(3))
        .keep_alive_while_idle(true);
    let channel: Channel = net::connect(&endpoint, "client", &trace);
    let client = LedgerServiceClient::new(channel).max_decoding_message_size(64 << 20);
    let made: Vec<Address> = contracts(&wallets, 1).into_iter().map(|(a, _)| a).collect();
    let clients = Rc::new(Clients {
        book,
        api: Api { client },
        trace,
        addresses: wallets.iter().map(Wallet::address).collect(),
        tokens: made[..2].to_vec(),
        hops: made[2..].to_vec(),
    });
    let mut wallets = wallets;
    clients.set_up(&mut wallets[0]).await?;
    clients.book.phase.set(Phase::Chaos);
    let all = wallets.into_iter().enumerate().map(|(index, wallet)| {
        let random = StdRng::seed_from_u64(seed ^ (index as u64 + 1) << 32);
        clients.clone().act(index, wallet, random)
    });
    futures::future::join_all(all).await;
    clients.reach(Phase::Audit).await;
    clients.audit().await?;
    clients.book.phase.set(Phase::Done);
    Ok(())
}

impl Clients {
    async fn reach(&self, phase: Phase) {
        while self.book.phase.get() < phase {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn set_up(&self, wallet: &mut Wallet) -> anyhow::Result<()> {
        let mut codes = vec![token("ONE")?, token("TWO")?];
        for link in 0..HOPS {
            codes.push(hop(self.hops.get(link + 1).copied().unwrap_or_default())?);
        }
        for code in codes {
            self.bring(0, wallet.sign(&Plan::create(code))?, Deed::Other).await;
        }
        for token in &self.tokens {
            for to in &self.addresses {
                let mint = Token::mintCall { to: *to, amount: U256::from(MINTED) };
                let plan = Plan::call(*token, mint.abi_encode()).gas(300_000);
                self.bring(0, wallet.sign(&plan)?, Deed::Other).await;
            }
        }
        let told = self.book.told.borrow();
        let failed = told.values().filter(|t| t.done.as_ref().is_none_or(|done| !done.status));
        anyhow::ensure!(failed.count() == 0, "contracts cannot be created");
        Ok(())
    }

    /// One account: bursts of transactions until everything is healed.
    async fn act(self: Rc<Self>, index: usize, mut wallet: Wallet, mut random: StdRng) {
        while self.book.phase.get() < Phase::Healed {
            let mut burst = Vec::new();
            for _ in 0..random.random_range(1..=3) {
                let (plan, deed) = self.plan(&mut random);
                match wallet.sign(&plan) {
                    Ok(signed) => burst.push((signed, deed)),
                    Err(error) => return self.book.violation(format!("cannot sign: {error}")),
                }
            }
            for (signed, deed) in &burst {
                self.note(index, signed.hash, *deed);
                self.offer(signed).await;
            }
            for (signed, deed) in burst {
                self.bring(index, signed, deed).await;
            }
            tokio::time::sleep(Duration::from_millis(random.random_range(0..500))).await;
        }
        self.book.idle.set(self.book.idle.get() + 1);
    }

    fn plan(&self, random: &mut StdRng) -> (Plan, Deed) {
        let to = random.random_range(0..self.addresses.len());
        match random.random_range(0..10) {
            0..=3 => {
                let wei = random.random_range(1..1_000_000);
                (Plan::pay(self.addresses[to], wei), Deed::Pay { to, wei })
            }
            4..=7 => {
                let token = random.random_range(0..self.tokens.len());
                let amount = random.random_range(1..100);
                let call =
                    Token::transferCall { to: self.addresses[to], value: U256::from(amount) };
                let plan = Plan::call(self.tokens[token], call.abi_encode()).gas(200_000);
                (plan, Deed::Token { token, to, amount })
            }
            _ => {
                let hop = random.random_range(0..self.hops.len());
                let fail = random.random_bool(0.2);
                let call = Hop::hopCall { amount: U256::from(1), failAtEnd: fail };
                (Plan::call(self.hops[hop], call.abi_encode()).gas(500_000), Deed::Other)
            }
        }
    }

    fn note(&self, from: usize, hash: B256, deed: Deed) {
        let told = Told { deed, from, executed: None, done: None };
        self.book.told.borrow_mut().entry(hash).or_insert(told);
    }

    /// Offers a transaction once. Whatever the answer is, sending it again is safe.
    async fn offer(&self, signed: &Signed) -> String {
        let request = SubmitTransactionRequest { transaction: signed.raw.0.clone() };
        let mut client = self.api.client.clone();
        let answer = tokio::time::timeout(PATIENCE, client.submit_transaction(request)).await;
        let answer = match answer {
            Ok(Ok(_)) => "taken".to_owned(),
            Ok(Err(status)) => {
                let outcome = status.metadata().get("atoll-outcome");
                let outcome = outcome.and_then(|o| o.to_str().ok()).unwrap_or_default();
                format!("{:?} {outcome} {}", status.code(), status.message())
            }
            Err(_) => "no answer".to_owned(),
        };
        self.trace.note("client", "offered", answer.as_bytes());
        answer
    }

    /// Offers a transaction until it is final.
    async fn bring(&self, from: usize, signed: Signed, deed: Deed) {
        self.note(from, signed.hash, deed);
        let mut offered = String::new();
        loop {
            let known = self.ask(signed.hash, Wait::Final).await;
            if known == Ok(TransactionFinality::Final) {
                break;
            }
            self.book
                .waits
                .borrow_mut()
                .insert(from, format!("{} is {known:?}, offered: {offered}", signed.hash));
            if known == Ok(TransactionFinality::Executed) {
                continue;
            }
            tokio::time::sleep(Duration::from_millis(150)).await;
            offered = self.offer(&signed).await;
        }
        self.book.waits.borrow_mut().remove(&from);
    }

    async fn ask(&self, hash: B256, wait: Wait) -> Result<TransactionFinality, String> {
        let request = GetReceiptRequest {
            hash: hash.to_vec().into(),
            wait: wait.into(),
            timeout_ms: PATIENCE.as_millis() as u64 / 4,
        };
        let mut client = self.api.client.clone();
        let answer = tokio::time::timeout(PATIENCE, client.get_receipt(request)).await;
        let receipt = match answer {
            Ok(Ok(reply)) => reply.into_inner().receipt.ok_or("a reply without a receipt")?,
            Ok(Err(status)) => return Err(format!("{:?} {}", status.code(), status.message())),
            Err(_) => return Err("no answer".to_owned()),
        };
        self.trace.note("client", "hears", format!("{receipt:?}").as_bytes());
        self.book.hear(hash, &receipt);
        Ok(receipt.finality())
    }

    /// Asks for everything again, and whether accounts and tokens are what the receipts lead to.
    async fn audit(&self) -> anyhow::Result<()> {
        let hashes: Vec<B256> = self.book.told.borrow().keys().copied().collect();
        for hash in hashes {
            let mut tries = 0;
            while self.ask(hash, Wait::Final).await != Ok(TransactionFinality::Final) {
                tries += 1;
                if tries > 60 {
                    self.book.violation(format!("durable-ack: {hash} was final and is not known"));
                    break;
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
        let count = self.addresses.len();
        let mut wei = vec![U256::from(BEGIN_WEI); count];
        let mut tokens = vec![vec![U256::from(MINTED); count]; self.tokens.len()];
        let mut nonces = vec![0_u64; count];
        let mut cut = 0;
        for Told { deed, from, done, .. } in self.book.told.borrow().values() {
            let Some(done) = done else { continue };
            cut = cut.max(done.cut);
            nonces[*from] += 1;
            let price = U256::from_be_slice(&done.effective_gas_price);
            wei[*from] -= price * U256::from(done.gas_used);
            match *deed {
                Deed::Pay { to, wei: amount } if done.status => {
                    wei[*from] -= U256::from(amount);
                    wei[to] += U256::from(amount);
                }
                Deed::Token { token, to, amount } if done.status => {
                    tokens[token][*from] -= U256::from(amount);
                    tokens[token][to] += U256::from(amount);
                }
                _ => {}
            }
        }
        for (index, address) in self.addresses.iter().enumerate() {
            let account =
                self.api.account(*address, cut).await.context("cannot read an account")?;
            let found = (account.nonce, account.balance);
            let expected = (nonces[index], wei[index]);
            if found != expected {
                let what = format!("exactly-once: {address} has {found:?}, not {expected:?}");
                self.book.violation(what);
            }
            for (token, balances) in self.tokens.iter().zip(&tokens) {
                let call = Token::balanceOfCall { account: *address };
                let reply = self.api.call(*token, call.abi_encode().into(), cut).await?;
                let found = U256::from_be_slice(&reply.return_data);
                if found != balances[index] {
                    let expected = balances[index];
                    let what = format!("atomicity: {address} has {found} {token}, not {expected}");
                    self.book.violation(what);
                }
            }
        }
        Ok(())
    }
}
