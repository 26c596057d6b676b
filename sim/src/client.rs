//! Clients of the simulated cluster: pay, move tokens and call chains of contracts through the public
//! API, send again what they do not know the end of, and remember everything they were told.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use alloy_primitives::{Address, B256, U256};
use alloy_sol_types::SolCall as _;
use atoll_tests::{
    api::Api,
    contracts::Token,
    wallet::{Plan, Signed, Wallet},
};
use atoll_types::Placement;
use atoll_wire::v1::{
    GetReceiptRequest, SubmitTransactionRequest, TransactionFinality, TransactionKind,
    TransactionReceipt, get_receipt_request::Wait, ledger_service_client::LedgerServiceClient,
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};

use crate::{
    net::{self, Card},
    trace::Trace,
    traffic::{Cast, Deed, Mix},
};

/// Wei that every account begins with.
pub const BEGIN_WEI: u64 = 18_000_000_000_000_000_000;
/// Tokens that every account gets at first, of each kind.
pub(crate) const MINTED: u64 = 1_000_000;
/// How long a client waits for one answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(8);
/// Books, each with accounts that hold so much at first, and lists.
pub(crate) const BOOKS: usize = 3;
pub(crate) const BOOK_ACCOUNTS: usize = 4;
pub(crate) const HELD: u64 = 1_000;
pub(crate) const LISTS: usize = 3;

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

/// A transaction, and what clients were told of it.
pub(crate) struct Told {
    pub deed: Deed,
    pub from: usize,
    pub signed: Signed,
    executed: Option<TransactionReceipt>,
    pub done: Option<TransactionReceipt>,
}

/// What clients know, and what is wrong with it.
pub struct Book {
    pub phase: Cell<Phase>,
    /// Wallets that have nothing under way.
    idle: Cell<usize>,
    pub(crate) told: RefCell<BTreeMap<B256, Told>>,
    pub violations: RefCell<Vec<String>>,
    /// What each client waits for.
    waits: RefCell<BTreeMap<usize, String>>,
    accounts: usize,
    pub acknowledged: Cell<u64>,
    placement: Placement,
    /// The shard behind the newest answer that a transaction was executed.
    answered: Cell<Option<u16>>,
    /// Values appended to lists so far.
    values: Cell<u64>,
    /// How often all books were read at one cut.
    pub cuts_read: Cell<u64>,
}

impl Book {
    pub fn new(accounts: usize, placement: Placement) -> Rc<Self> {
        Rc::new(Self {
            phase: Cell::new(Phase::Setup),
            idle: Cell::new(0),
            told: RefCell::default(),
            violations: RefCell::default(),
            waits: RefCell::default(),
            accounts,
            acknowledged: Cell::new(0),
            placement,
            answered: Cell::new(None),
            values: Cell::new(0),
            cuts_read: Cell::new(0),
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

    /// The shard behind the last answer that a transaction was executed, once.
    pub fn take_answered(&self) -> Option<u16> {
        self.answered.take()
    }

    pub fn violation(&self, what: String) {
        let mut violations = self.violations.borrow_mut();
        if !violations.contains(&what) {
            violations.push(what);
        }
    }

    /// Somebody was told that nobody knows a transaction.
    fn hear_unknown(&self, hash: B256) {
        let told = self.told.borrow();
        if told.get(&hash).is_some_and(|told| told.executed.is_some() || told.done.is_some()) {
            self.violation(format!("durable-ack: {hash} was executed and is not known"));
        }
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
            if finality == TransactionFinality::Executed {
                let sender = Address::try_from(&receipt.sender[..]).unwrap_or_default();
                self.answered.set(Some(self.placement.owner(&sender).0));
            }
            *place = Some(receipt.clone());
        }
    }
}

/// What all clients of a run share.
pub struct Clients {
    pub book: Rc<Book>,
    pub(crate) api: Api,
    trace: Trace,
    pub(crate) cast: Arc<Cast>,
    mix: Mix,
    /// Of everybody who sends transactions.
    pub(crate) addresses: Vec<Address>,
}

/// Runs all clients until the run is done.
pub async fn run(book: Rc<Book>, cast: Arc<Cast>, seed: u64, trace: Trace) -> anyhow::Result<()> {
    let endpoint = Endpoint::from_static(GATEWAY)
        .connect_timeout(Duration::from_secs(2))
        .http2_keep_alive_interval(Duration::from_secs(3))
        .keep_alive_timeout(Duration::from_secs(3))
        .keep_alive_while_idle(true);
    let channel: Channel = net::connect(
        &endpoint,
        &Card::new("client", &trace, Arc::new(AtomicBool::new(true)), Arc::default()),
    );
    let client = LedgerServiceClient::new(channel).max_decoding_message_size(64 << 20);
    let clients = Rc::new(Clients {
        book,
        api: Api { client },
        trace,
        addresses: cast.senders().map(Wallet::address).collect(),
        mix: Mix::new(seed),
        cast: cast.clone(),
    });
    let mut wallets = cast.wallets.clone();
    clients.set_up(&mut wallets).await?;
    clients.book.phase.set(Phase::Chaos);
    let all = wallets.into_iter().enumerate().map(|(index, wallet)| {
        let random = StdRng::seed_from_u64(seed ^ (index as u64 + 1) << 32);
        clients.clone().act(index, wallet, random)
    });
    futures::future::join(futures::future::join_all(all), clients.watch()).await;
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

    /// Creates all contracts, and gives everybody tokens of all kinds.
    async fn set_up(&self, wallets: &mut [Wallet]) -> anyhow::Result<()> {
        let Cast { world, tokens, .. } = &*self.cast;
        let mut created = Vec::new();
        for code in self.cast.codes()? {
            created.push((0, wallets[0].sign(&Plan::create(code))?));
        }
        for (at, plan) in world.deployments()?.iter().enumerate() {
            created.push((wallets.len() + at, world.deployers[at].sign_at(0, plan)?));
        }
        self.bring_all(created).await;
        let mut given = Vec::new();
        for token in tokens {
            for wallet in &self.cast.wallets {
                let mint = Token::mintCall { to: wallet.address(), amount: U256::from(MINTED) };
                let plan = Plan::call(*token, mint.abi_encode()).gas(300_000);
                given.push((0, wallets[0].sign(&plan)?));
            }
        }
        given.push((0, wallets[0].sign(&world.pair())?));
        for (from, wallet) in wallets.iter_mut().enumerate() {
            for plan in world.fund(&wallet.clone()) {
                given.push((from, wallet.sign(&plan)?));
            }
        }
        self.bring_all(given).await;
        let liquidity = world.liquidity().into_iter().flatten();
        let liquidity = liquidity.map(|plan| anyhow::Ok((0, wallets[0].sign(&plan)?)));
        self.bring_all(liquidity.collect::<anyhow::Result<_>>()?).await;
        let told = self.book.told.borrow();
        let failed = told.values().filter(|t| t.done.as_ref().is_none_or(|done| !done.status));
        anyhow::ensure!(failed.count() == 0, "contracts cannot be created");
        Ok(())
    }

    /// Offers transactions in this order, and waits until all are final.
    async fn bring_all(&self, all: Vec<(usize, Signed)>) {
        for (from, signed) in &all {
            self.note(*from, signed, Deed::Other { wei: U256::ZERO });
            self.offer(signed).await;
        }
        let brought = all.iter().map(|(from, signed)| self.bring(*from, signed));
        futures::future::join_all(brought).await;
    }

    /// One account: bursts of transactions until everything is healed.
    async fn act(self: Rc<Self>, index: usize, mut wallet: Wallet, mut random: StdRng) {
        while self.book.phase.get() < Phase::Healed {
            self.look_at_authority(&mut random).await;
            let mut burst = Vec::new();
            for _ in 0..self.mix.burst(&mut random) {
                match self.plan(index, &mut wallet, &mut random) {
                    Ok(signed) => burst.push(signed),
                    Err(error) => return self.book.violation(format!("cannot sign: {error}")),
                }
            }
            for signed in &burst {
                self.offer(signed).await;
            }
            for signed in &burst {
                // Some want to know at once when it is executed.
                if random.random_bool(0.5) {
                    let _ = self.ask(signed.hash, Wait::Executed).await;
                }
            }
            for signed in &burst {
                self.bring(index, signed).await;
            }
            tokio::time::sleep(Duration::from_millis(random.random_range(0..500))).await;
        }
        self.book.idle.set(self.book.idle.get() + 1);
    }

    fn plan(
        &self,
        from: usize,
        wallet: &mut Wallet,
        random: &mut StdRng,
    ) -> anyhow::Result<Signed> {
        let mut values = self.book.values.get();
        let (plan, deed) = self.cast.plan(&self.mix, from, &mut values, random)?;
        self.book.values.set(values);
        let signed = wallet.sign(&plan)?;
        self.note(from, &signed, deed);
        Ok(signed)
    }

    /// So that the next authorisation of somebody has the right nonce.
    async fn look_at_authority(&self, random: &mut StdRng) {
        let authorities = &self.cast.world.authorities;
        let authority = &authorities[random.random_range(0..authorities.len())];
        let known = tokio::time::timeout(PATIENCE, self.api.account(authority.address(), 0)).await;
        if let Ok(Ok(account)) = known {
            authority.nonce_is(account.nonce);
        }
    }

    fn note(&self, from: usize, signed: &Signed, deed: Deed) {
        let told = Told { deed, from, signed: signed.clone(), executed: None, done: None };
        self.book.told.borrow_mut().entry(signed.hash).or_insert(told);
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
    async fn bring(&self, from: usize, signed: &Signed) {
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
            offered = self.offer(signed).await;
        }
        self.book.waits.borrow_mut().remove(&from);
    }

    pub(crate) async fn ask(&self, hash: B256, wait: Wait) -> Result<TransactionFinality, String> {
        let request = GetReceiptRequest {
            hash: hash.to_vec().into(),
            wait: wait.into(),
            timeout_ms: PATIENCE.as_millis() as u64 / 4,
        };
        let mut client = self.api.client.clone();
        let answer = tokio::time::timeout(PATIENCE, client.get_receipt(request)).await;
        let receipt = match answer {
            Ok(Ok(reply)) => reply.into_inner().receipt.ok_or("a reply without a receipt")?,
            Ok(Err(status)) => {
                if status.code() == Code::NotFound {
                    self.book.hear_unknown(hash);
                }
                return Err(format!("{:?} {}", status.code(), status.message()));
            }
            Err(_) => return Err("no answer".to_owned()),
        };
        self.trace.note("client", "hears", format!("{receipt:?}").as_bytes());
        self.book.hear(hash, &receipt);
        Ok(receipt.finality())
    }
}
