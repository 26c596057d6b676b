//! A client: does one thing after another, and writes down what it saw.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use alloy_sol_types::SolCall as _;
use anyhow::{Context as _, ensure};
use atoll_tests::{
    api::{Api, word},
    contracts::Book,
    wallet::{Plan, Signed, Wallet},
};
use atoll_types::{Address, U256};
use atoll_wire::v1::{
    CallOutcome, CallRequest, GetAccountRequest, GetReceiptRequest, SubmitTransactionRequest,
    TransactionFinality, TransactionKind, TransactionReceipt, get_receipt_request::Wait,
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::sync::watch;
use tonic::Code;

use crate::{
    history::{Action, At, End, Move, Op, Place, Seen, Step, Tx},
    stage::{ACCOUNTS, LIVES, Stage},
};

/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(4);
/// How long a gateway is to wait for a receipt.
const RECEIPT_MS: u64 = 2_000;
/// Longest pause between two tries.
const PAUSE_MS: u64 = 100;
/// A number of clients that nobody is: what changes its identity gets `client + this`.
const LIFE: u32 = 1_000;

/// Where all clients write down what they saw.
#[derive(Clone)]
pub struct Recorder {
    start: Instant,
    ops: Arc<Mutex<Vec<Op>>>,
    /// Transactions that nobody knows the end of.
    unknown: Arc<Mutex<Vec<Signed>>>,
}

impl Recorder {
    pub fn new() -> Self {
        Self { start: Instant::now(), ops: Arc::default(), unknown: Arc::default() }
    }

    pub fn now(&self) -> At {
        self.start.elapsed().as_micros() as At
    }

    fn add(&self, op: Op) {
        self.ops.lock().unwrap_or_else(PoisonError::into_inner).push(op);
    }

    pub fn len(&self) -> usize {
        self.ops.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn take_unknown(&self) -> Vec<Signed> {
        std::mem::take(&mut *self.unknown.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn take(&self) -> Vec<Op> {
        std::mem::take(&mut *self.ops.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Default for Recorder {
    fn default() -> Self {
        Self::new()
    }
}

/// What became of a transaction.
pub enum Fate {
    Done(Box<TransactionReceipt>),
    /// It will never take effect.
    Refused,
    Unknown,
}

/// A receipt without what may change once it has been told: that it becomes final, and the cut at
/// which it can be read, of which a gateway knows a later one when it has seen it become final.
pub fn content(receipt: &TransactionReceipt) -> String {
    let finality = TransactionFinality::Unspecified.into();
    format!("{:?}", TransactionReceipt { finality, cut: 0, ..receipt.clone() })
}

pub struct Client {
    number: u32,
    life: u64,
    wallet: Wallet,
    api: Api,
    stage: Arc<Stage>,
    recorder: Recorder,
    rng: StdRng,
    /// The newest cut that it knows something of.
    cut: u64,
    /// Longest pause between two things.
    think: Duration,
}

impl Client {
    pub fn new(
        number: u32,
        api: Api,
        stage: Arc<Stage>,
        recorder: Recorder,
        think: Duration,
    ) -> anyhow::Result<Self> {
        let rng = StdRng::seed_from_u64(stage.seed ^ (u64::from(number) << 32));
        let wallet = stage.wallet(number, 0)?;
        Ok(Self { number, life: 0, wallet, api, stage, recorder, rng, cut: 0, think })
    }

    /// Goes on until it is told to stop.
    pub async fn run(mut self, stop: watch::Receiver<bool>) -> anyhow::Result<()> {
        while !*stop.borrow() {
            match self.rng.random_range(0..100) {
                0..50 => self.steps(&stop).await?,
                50..65 => self.move_(&stop).await?,
                65..75 => self.pay(&stop).await?,
                75..82 => self.totals().await?,
                82..90 => self.lists_at_a_cut().await?,
                _ => self.account().await?,
            }
            let pause = self.rng.random_range(0..=self.think.as_millis() as u64);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        Ok(())
    }

    async fn steps(&mut self, stop: &watch::Receiver<bool>) -> anyhow::Result<()> {
        let count = self.rng.random_range(1..=4);
        let mut steps: Vec<Step> = Vec::new();
        let active = self.stage.active();
        for _ in 0..count {
            steps.push(if self.rng.random_bool(0.5) {
                let (list, value) = self.stage.append(&mut self.rng);
                Step::Append { list, value }
            } else {
                Step::Read { list: active[self.rng.random_range(0..active.len())] }
            });
        }
        self.write(steps, stop).await
    }

    /// Appends to and reads a list of each book: it needs every shard. True if it was done.
    pub async fn touch_all(&mut self, stop: &watch::Receiver<bool>) -> anyhow::Result<bool> {
        let mut steps = Vec::new();
        for list in self.stage.active() {
            steps.push(Step::Read { list });
        }
        let (list, value) = self.stage.append(&mut self.rng);
        steps.push(Step::Append { list, value });
        let before = self.recorder.now();
        self.write(steps, stop).await?;
        let ops = self.recorder.ops.lock().unwrap_or_else(PoisonError::into_inner);
        let own = ops.iter().rev().find(|op| op.client % LIFE == self.number);
        Ok(own.is_some_and(|op| op.begun >= before && matches!(op.end, End::Ok(_))))
    }

    async fn write(
        &mut self,
        steps: Vec<Step>,
        stop: &watch::Receiver<bool>,
    ) -> anyhow::Result<()> {
        let entry = self.stage.books[self.rng.random_range(0..self.stage.books.len())];
        let plan = Plan::call(entry, run(&self.stage, &steps)).gas(2_000_000);
        self.transact(Action::Steps(steps), &plan, stop).await
    }

    async fn move_(&mut self, stop: &watch::Receiver<bool>) -> anyhow::Result<()> {
        let books = self.stage.books.clone();
        let mut place = || Place {
            book: self.rng.random_range(0..books.len()) as u16,
            account: self.rng.random_range(0..ACCOUNTS),
        };
        let (from, to) = (place(), place());
        let amount = self.rng.random_range(1..=400);
        let call = Book::moveCall {
            from: U256::from(from.account),
            to: books[usize::from(to.book)],
            account: U256::from(to.account),
            amount: U256::from(amount),
        };
        let plan = Plan::call(books[usize::from(from.book)], call.abi_encode());
        self.transact(Action::Move(Move { from, to, amount }), &plan, stop).await
    }

    async fn pay(&mut self, stop: &watch::Receiver<bool>) -> anyhow::Result<()> {
        let to = self.stage.purses[self.rng.random_range(0..self.stage.purses.len())];
        let wei = self.rng.random_range(1..1_000_000);
        self.transact(Action::Pay { to, wei }, &Plan::pay(to, wei), stop).await
    }

    async fn totals(&mut self) -> anyhow::Result<()> {
        let begun = self.recorder.now();
        let Some(data) = self.call(self.stage.books[0], totals(&self.stage)).await? else {
            return Ok(());
        };
        let held = Book::totalsCall::abi_decode_returns(&data)?;
        let held = held.into_iter().map(u64::try_from).collect::<Result<_, _>>()?;
        self.record(begun, Action::Totals, None, End::Ok(Seen::Balances(held)), Vec::new());
        Ok(())
    }

    async fn lists_at_a_cut(&mut self) -> anyhow::Result<()> {
        let begun = self.recorder.now();
        let steps: Vec<_> =
            self.stage.active().into_iter().map(|list| Step::Read { list }).collect();
        let Some(data) = self.call(self.stage.books[0], run(&self.stage, &steps)).await? else {
            return Ok(());
        };
        let end = End::Ok(Seen::Lists(lists(&steps, &data)?));
        self.record(begun, Action::Steps(steps), None, end, Vec::new());
        Ok(())
    }

    /// What a call returns, on the state of all shards at one cut, unless somebody cannot be reached.
    async fn call(&mut self, to: Address, data: Vec<u8>) -> anyhow::Result<Option<bytes::Bytes>> {
        let to = bytes::Bytes::copy_from_slice(to.as_slice());
        let (data, min_cut) = (data.into(), self.cut);
        let request = CallRequest { to, data, min_cut, ..CallRequest::default() };
        let mut client = self.api.client.clone();
        let Ok(Ok(reply)) = tokio::time::timeout(REQUEST, client.call(request)).await else {
            return Ok(None);
        };
        let reply = reply.into_inner();
        ensure!(reply.outcome() == CallOutcome::Succeeded, "a call did not succeed: {reply:?}");
        ensure!(reply.cut >= min_cut, "a call of cut {min_cut} or later: {}", reply.cut);
        self.cut = self.cut.max(reply.cut);
        Ok(Some(reply.return_data))
    }

    async fn account(&mut self) -> anyhow::Result<()> {
        let begun = self.recorder.now();
        let purse = self.rng.random_bool(0.5);
        let of = match purse {
            true => self.stage.purses[self.rng.random_range(0..self.stage.purses.len())],
            false => self.wallet.address(),
        };
        let address = bytes::Bytes::copy_from_slice(of.as_slice());
        let request = GetAccountRequest { address, min_cut: self.cut, with_code: false };
        let mut client = self.api.client.clone();
        let asked = tokio::time::timeout(REQUEST, client.get_account(request)).await;
        let Ok(Ok(reply)) = asked else { return Ok(()) };
        let reply = reply.into_inner();
        let balance = if purse { word(&reply.balance).try_into()? } else { 0 };
        let end = End::Ok(Seen::Account { nonce: reply.nonce, balance });
        self.record(begun, Action::Account(of), None, end, Vec::new());
        Ok(())
    }

    /// Sends a transaction and waits for its end, or for as long as it likes to.
    async fn transact(
        &mut self,
        action: Action,
        plan: &Plan,
        stop: &watch::Receiver<bool>,
    ) -> anyhow::Result<()> {
        let signed = self.wallet.sign_at(self.wallet.nonce, plan)?;
        let (sender, nonce) = (self.wallet.address(), self.wallet.nonce);
        let tx = Tx { hash: signed.hash, sender, nonce };
        let begun = self.recorder.now();
        // Some do not wait for long, and go on as somebody else.
        let impatient = self.rng.random_bool(0.1) && self.life + 1 < LIVES;
        let patience = impatient.then(|| Duration::from_millis(self.rng.random_range(200..4_000)));
        let wait = if self.rng.random_bool(0.5) { Wait::Executed } else { Wait::Final };
        let fate = bring_about(&self.api, &signed, wait, patience, stop, &mut self.rng).await?;
        let (end, told) = match fate {
            Fate::Done(receipt) => {
                self.wallet.nonce += 1;
                self.cut = self.cut.max(receipt.cut);
                (end(&action, &receipt)?, vec![content(&receipt)])
            }
            Fate::Refused => (End::Refused, Vec::new()),
            Fate::Unknown => (End::Unknown, Vec::new()),
        };
        let unknown = end == End::Unknown;
        self.record(begun, action, Some(tx), end, told);
        if unknown {
            let mut all = self.recorder.unknown.lock().unwrap_or_else(PoisonError::into_inner);
            all.push(signed);
            drop(all);
            self.life += 1;
            if self.life < LIVES {
                self.wallet = self.stage.wallet(self.number, self.life)?;
            }
        }
        Ok(())
    }

    fn record(&self, begun: At, action: Action, tx: Option<Tx>, end: End, told: Vec<String>) {
        let client = self.number + self.life as u32 * LIFE;
        self.recorder.add(Op { client, begun, ended: self.recorder.now(), action, tx, end, told });
    }
}

/// Call data of steps.
pub fn run(stage: &Stage, steps: &[Step]) -> Vec<u8> {
    let step = |step: &Step| match *step {
        Step::Append { list, value } => (list, value),
        Step::Read { list } => (list, 0),
    };
    let steps = steps.iter().map(step).map(|(list, value)| Book::Step {
        book: stage.book_of(list),
        list: U256::from(list),
        value: U256::from(value),
    });
    Book::runCall { steps: steps.collect() }.abi_encode()
}

/// Call data that reads all balances.
pub fn totals(stage: &Stage) -> Vec<u8> {
    let accounts = U256::from(ACCOUNTS);
    Book::totalsCall { books: stage.books.clone(), accounts }.abi_encode()
}

/// What steps that read have seen.
pub fn lists(steps: &[Step], returned: &[u8]) -> anyhow::Result<Vec<Vec<u64>>> {
    let seen = Book::runCall::abi_decode_returns(returned).context("what the books returned")?;
    ensure!(seen.len() == steps.len(), "{} lists of {} steps", seen.len(), steps.len());
    let reads = seen.into_iter().zip(steps).filter(|(_, step)| matches!(step, Step::Read { .. }));
    let list = |list: Vec<U256>| list.into_iter().map(u64::try_from).collect::<Result<_, _>>();
    Ok(reads.map(|(seen, _)| list(seen)).collect::<Result<_, _>>()?)
}

/// What a receipt says of an action.
fn end(action: &Action, receipt: &TransactionReceipt) -> anyhow::Result<End> {
    if !receipt.status {
        return Ok(End::Reverted);
    }
    Ok(End::Ok(match action {
        Action::Steps(steps) => Seen::Lists(lists(steps, &receipt.return_data)?),
        _ => Seen::Nothing,
    }))
}

/// Whether a shard has it, or has carried it out; or it may be tried again; or never.
enum Offer {
    Taken,
    Again,
    Never,
}

async fn offer(api: &Api, tx: &Signed) -> Offer {
    let request = SubmitTransactionRequest { transaction: tx.raw.0.clone() };
    let mut client = api.client.clone();
    let status = match tokio::time::timeout(REQUEST, client.submit_transaction(request)).await {
        Err(_) => return Offer::Again,
        Ok(Ok(_)) => return Offer::Taken,
        Ok(Err(status)) => status,
    };
    let outcome = status.metadata().get("atoll-outcome").and_then(|name| name.to_str().ok());
    match (status.code(), outcome) {
        (Code::AlreadyExists, _) | (_, Some("NONCE_TOO_LOW" | "UNDER_WAY")) => Offer::Taken,
        (Code::InvalidArgument | Code::FailedPrecondition, _) => Offer::Never,
        _ => Offer::Again,
    }
}

/// Offers a transaction, again and again, until its end is known.
pub async fn bring_about(
    api: &Api,
    tx: &Signed,
    wait: Wait,
    patience: Option<Duration>,
    stop: &watch::Receiver<bool>,
    rng: &mut StdRng,
) -> anyhow::Result<Fate> {
    let begun = Instant::now();
    let mut offers = 0;
    loop {
        let gave_up = patience.is_some_and(|patience| begun.elapsed() > patience);
        if gave_up || *stop.borrow() {
            return Ok(Fate::Unknown);
        }
        let offered = offer(api, tx).await;
        offers += 1;
        match offered {
            Offer::Never if offers == 1 => return Ok(Fate::Refused),
            // An earlier offer may have been taken after all.
            Offer::Never | Offer::Taken => {}
            Offer::Again => {
                pause(rng).await;
                continue;
            }
        }
        let hash = bytes::Bytes::copy_from_slice(tx.hash.as_slice());
        let request = GetReceiptRequest { hash, wait: wait.into(), timeout_ms: RECEIPT_MS };
        let mut client = api.client.clone();
        let asked = tokio::time::timeout(REQUEST, client.get_receipt(request)).await;
        let Ok(Ok(reply)) = asked else {
            pause(rng).await;
            continue;
        };
        let receipt = reply.into_inner().receipt.context("a reply without receipt")?;
        let credit = receipt.kind() == TransactionKind::Credit;
        match receipt.finality() {
            TransactionFinality::Final => return Ok(Fate::Done(Box::new(receipt))),
            // The status of a credit holds once it is final.
            TransactionFinality::Executed if wait == Wait::Executed && !credit => {
                return Ok(Fate::Done(Box::new(receipt)));
            }
            // What was offered again may be in a pool again.
            TransactionFinality::Dropped if offers == 1 => return Ok(Fate::Refused),
            TransactionFinality::Dropped => return Ok(Fate::Unknown),
            _ => pause(rng).await,
        }
    }
}

async fn pause(rng: &mut StdRng) {
    tokio::time::sleep(Duration::from_millis(rng.random_range(10..=PAUSE_MS))).await;
}
