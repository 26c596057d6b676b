//! The actor: through its mailbox, with a state service that does what the test says.

mod support;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use alloy_primitives::{Address, B256};
use async_trait::async_trait;
use atoll_api::MempoolClient;
use atoll_api::mempool::{
    End, MempoolError, Refused, Report, Status, Submit, SubmitReply, Take, TxEnd,
};
use atoll_api::state::{
    Change, DroppedTx, Ended, Read, ReadReply, SenderTx, StateError, Sync, SyncReply, TellDropped,
    Tip,
};
use atoll_fabric::{Call, Context, Fault, Local, Place};
use atoll_mempool::{Limits, MempoolService, Pool};
use atoll_types::{Basic, BlockEnv, StateValue, Tx};
use support::*;
use tokio::sync::watch;

/// Long enough for a test never to reach it, unless something that should come does not.
const LONG_MS: u64 = 30_000;

#[derive(Default)]
struct Shard {
    accounts: BTreeMap<Address, Basic>,
    changes: Vec<Change>,
    /// Changes before this one are no longer kept.
    first: usize,
    base_fee: u64,
    /// So many calls of `sync` fail from now on.
    sync_failures: u32,
    /// Reads of this account fail.
    unreadable: Option<Address>,
    reads: Vec<Vec<Address>>,
    /// What each caller of `sync` said it had.
    asked_after: Vec<u64>,
    is_silent: bool,
    told: Vec<DroppedTx>,
}

#[derive(Clone)]
struct FakeState(Arc<watch::Sender<()>>, Arc<Mutex<Shard>>);

impl FakeState {
    fn change<T>(&self, change: impl FnOnce(&mut Shard) -> T) -> T {
        let result = change(&mut self.1.lock().expect("no panic"));
        self.0.send_replace(());
        result
    }

    async fn until(&self, is_so: impl Fn(&Shard) -> bool) {
        let mut changed = self.0.subscribe();
        while !is_so(&self.1.lock().expect("no panic")) {
            let wait = tokio::time::timeout(Duration::from_millis(LONG_MS), changed.changed());
            wait.await.expect("it never came to that").expect("a sender");
        }
    }

    fn fails(failures: &mut u32) -> Result<(), StateError> {
        if *failures == 0 {
            return Ok(());
        }
        *failures -= 1;
        let reason = "nobody there".to_owned();
        Err(Fault::Unreachable { reason }.into())
    }

    /// Adds a change and waits until the pool has it.
    async fn push(&self, change: Change) {
        let number = self.change(|shard| {
            let number = shard.changes.len() as u64 + 1;
            shard.changes.push(Change { number, ..change });
            number
        });
        self.until(|shard| shard.asked_after.last() == Some(&number)).await;
    }
}

#[async_trait]
impl Call<Read> for FakeState {
    async fn call(&self, _: Context, read: Read) -> Result<ReadReply, StateError> {
        self.change(|shard| {
            let senders: Vec<_> = read.keys.iter().map(|key| key.address()).collect();
            let account = |sender| shard.accounts.get(sender).copied().unwrap_or_default();
            let values = senders.iter().map(account).map(StateValue::Basic).collect();
            let fails = senders.iter().any(|sender| Some(*sender) == shard.unreadable);
            shard.reads.push(senders);
            Self::fails(&mut u32::from(fails))?;
            Ok(ReadReply { values, codes: vec![], cut: 0, head: 0 })
        })
    }
}

#[async_trait]
impl Call<Sync> for FakeState {
    async fn call(&self, _: Context, sync: Sync) -> Result<SyncReply, StateError> {
        self.change(|shard| {
            shard.asked_after.push(sync.after);
            Self::fails(&mut shard.sync_failures)
        })?;
        let has_news = |shard: &Shard| {
            let after = sync.after as usize;
            !shard.is_silent && (after == 0 || after < shard.first || after < shard.changes.len())
        };
        self.until(has_news).await;
        let shard = self.1.lock().expect("no panic");
        let reset = sync.after == 0 || (sync.after as usize) < shard.first;
        let from = if reset { shard.first } else { sync.after as usize };
        Ok(SyncReply {
            reset,
            changes: shard.changes[from..].to_vec(),
            tip: Tip { head: 0, cut: 0, digest: B256::ZERO },
            env: BlockEnv {
                chain_id: 1,
                number: 0,
                timestamp: 0,
                randomness: B256::ZERO,
                base_fee: shard.base_fee,
                coinbase: Address::ZERO,
                gas_limit: 0,
            },
            hashes: Vec::new(),
            full: false,
        })
    }
}

#[async_trait]
impl Call<TellDropped> for FakeState {
    async fn call(&self, _: Context, told: TellDropped) -> Result<(), StateError> {
        self.change(|shard| shard.told.extend(told.txs));
        Ok(())
    }
}

struct World {
    state: FakeState,
    mempool: MempoolClient,
    _place: Place,
}

/// A shard with three rich senders and one change.
fn world_with(prepare: impl FnOnce(&mut Shard)) -> World {
    let state = FakeState(Arc::default(), Arc::default());
    state.change(|shard| {
        shard.accounts = (1..=3).map(|n| (who(n), basic(0, RICH))).collect();
        shard.changes.push(Change { number: 1, ..Change::default() });
        prepare(shard);
    });
    let place = Place::new("mempool");
    let links = Arc::new(state.clone());
    let local = Local::start(&place, 16, move || {
        let pool = Pool::new(config(Limits::default()));
        MempoolService::new(pool, links.clone(), links.clone(), links, Arc::new(|| 0))
    });
    let mempool = MempoolClient::new(local);
    World { state, mempool, _place: place }
}

impl World {
    fn new() -> Self {
        world_with(|_| {})
    }

    async fn submit(&self, txs: &[Tx]) -> Result<SubmitReply, MempoolError> {
        let submit = Submit { txs: txs.to_vec() };
        self.mempool.submit.call(Context::none(), submit).await
    }

    async fn put(&self, txs: &[Tx]) {
        let reply = self.submit(txs).await.expect("an answer");
        assert!(reply.refused.iter().all(Option::is_none), "{reply:?}");
    }

    async fn take(&self, session: u64, wait_ms: u64) -> Result<Vec<Tx>, MempoolError> {
        let take = Take { session, max_txs: 9, max_gas: u64::MAX, wait_ms };
        Ok(self.mempool.take.call(Context::none(), take).await?.txs)
    }

    async fn report(&self, tx: &Tx, end: End) {
        let ends = vec![TxEnd { tx: *tx.hash(), end }];
        let done = self.mempool.report.call(Context::none(), Report { ends });
        done.await.expect("an answer");
    }
}

fn pin(tx: &Tx) -> SenderTx {
    SenderTx { tx: *tx.hash(), sender: tx.sender(), nonce: tx.nonce() }
}

#[tokio::test]
async fn each_transaction_gets_its_answer_and_accounts_are_read_in_one_call() {
    let world = World::new();
    // The first answer makes the pool doubt whom it knows already.
    world.state.until(|shard| shard.asked_after.last() == Some(&1)).await;
    let (a, b) = (tx(who(1), 0, 10), tx(who(2), 0, 10));
    let (cheap, poor, next) = (tx(who(3), 0, 1), tx(who(4), 0, 10), tx(who(1), 1, 10));
    let batch = [a.clone(), cheap, b, poor, a, next];
    let refused = world.submit(&batch).await.expect("an answer").refused;
    assert_eq!(refused[0], None);
    assert!(matches!(refused[1], Some(Refused::Underpriced { .. })));
    assert_eq!(refused[2], None);
    assert!(matches!(refused[3], Some(Refused::InsufficientFunds { .. })));
    assert_eq!(refused[4], Some(Refused::AlreadyKnown));
    assert_eq!(refused[5], None);
    world.put(&[tx(who(1), 2, 10)]).await;
    let reads = world.state.change(|shard| shard.reads.clone());
    assert_eq!(reads, [[who(1), who(2), who(4)]], "who is known is not read again");
    let status = world.mempool.status.call(Context::none(), Status).await.expect("an answer");
    assert_eq!((status.pending, status.queued), (4, 0));
    assert_eq!(world.take(1, LONG_MS).await.map(|txs| txs.len()), Ok(4));
}

#[tokio::test]
async fn a_take_waits_until_there_is_something() {
    let world = World::new();
    let txs = [tx(who(1), 0, 10)];
    // The take is in the mailbox before the submission.
    let (taken, ()) = tokio::join!(world.take(1, LONG_MS), world.put(&txs));
    assert_eq!(taken, Ok(txs.to_vec()));
    assert_eq!(world.take(1, 5).await, Ok(vec![]), "its time passes");
    assert_eq!(world.take(1, 0).await, Ok(vec![]));
    let back = world.report(&txs[0], End::Returned);
    let (taken, ()) = tokio::join!(world.take(1, LONG_MS), back);
    assert_eq!(taken, Ok(txs.to_vec()), "a report wakes it too");
}

#[tokio::test]
async fn a_new_session_turns_the_old_one_away() {
    let world = World::new();
    let (old, new) = tokio::join!(world.take(1, LONG_MS), world.take(2, 0));
    assert_eq!(old, Err(MempoolError::OldSession { found: 1, newest: 2 }));
    assert_eq!(new, Ok(vec![]));
}

#[tokio::test]
async fn what_nobody_waits_for_any_more_is_given_to_the_next() {
    let world = World::new();
    {
        let gone = world.take(1, LONG_MS);
        tokio::pin!(gone);
        // Sent, and given up before there was an answer.
        assert!(futures::poll!(&mut gone).is_pending());
        world.mempool.status.call(Context::none(), Status).await.expect("an answer");
    }
    let txs = [tx(who(1), 0, 10)];
    world.put(&txs).await;
    assert_eq!(world.take(1, LONG_MS).await, Ok(txs.to_vec()));
}

#[tokio::test]
async fn nothing_is_released_before_the_state_has_said_what_is_under_way() {
    let world = world_with(|shard| shard.is_silent = true);
    let txs = [tx(who(1), 0, 10)];
    world.put(&txs).await;
    assert_eq!(world.take(1, 0).await, Ok(vec![]));
    let speak = async { world.state.change(|shard| shard.is_silent = false) };
    let (taken, ()) = tokio::join!(world.take(1, LONG_MS), speak);
    assert_eq!(taken, Ok(txs.to_vec()));
}

#[tokio::test]
async fn what_is_under_way_across_shards_comes_and_goes_with_the_state() {
    let world = World::new();
    let txs = [tx(who(1), 0, 10), tx(who(1), 1, 10)];
    world.put(&txs).await;
    world.state.push(Change { pinned: vec![pin(&txs[0])], ..Change::default() }).await;
    assert_eq!(world.take(1, 0).await, Ok(txs[1..].to_vec()), "the first one is not given out");
    let other = tx(who(1), 0, 99);
    let reply = world.submit(std::slice::from_ref(&other)).await.expect("an answer");
    assert_eq!(reply.refused, [Some(Refused::UnderWay)]);
    let dropped = Some("it cannot run".to_owned());
    let ended = vec![Ended { tx: pin(&txs[0]), dropped, gas_used: 0 }];
    world.state.push(Change { ended, cut: Some(1), ..Change::default() }).await;
    world.put(std::slice::from_ref(&other)).await;
    assert_eq!(world.take(1, LONG_MS).await, Ok(vec![other]), "its nonce is free again");
}

#[tokio::test]
async fn a_state_that_cannot_be_reached_is_asked_again() {
    let world = world_with(|shard| shard.sync_failures = 3);
    let txs = [tx(who(1), 0, 10)];
    world.state.until(|shard| shard.sync_failures == 0).await;
    world.put(&txs).await;
    assert_eq!(world.take(1, LONG_MS).await, Ok(txs.to_vec()));

    world.state.change(|shard| shard.unreadable = Some(who(2)));
    let error = world.submit(&[tx(who(2), 0, 10)]).await.map(|reply| reply.refused);
    assert!(matches!(error, Err(MempoolError::State { .. })), "{error:?}");
    world.state.change(|shard| shard.unreadable = None);
    world.put(&[tx(who(2), 0, 10)]).await;
}

#[tokio::test]
async fn a_state_that_starts_over_is_followed_from_nothing() {
    let world = World::new();
    let txs = [tx(who(1), 0, 10)];
    world.put(&txs).await;
    world.state.push(Change { pinned: vec![pin(&txs[0])], ..Change::default() }).await;
    let reads = world.state.change(|shard| {
        // The end of it is among what is no longer kept.
        shard.accounts.insert(who(1), basic(1, RICH));
        shard.changes.extend((3..=5).map(|number| Change { number, ..Change::default() }));
        shard.first = 4;
        shard.reads.len()
    });
    world.state.until(|shard| shard.asked_after.last() == Some(&5)).await;
    world.state.until(|shard| shard.reads.len() > reads).await;
    let next = [tx(who(1), 1, 10)];
    world.put(&next).await;
    assert_eq!(world.take(1, LONG_MS).await, Ok(next.to_vec()));
}

#[tokio::test]
async fn a_missing_change_makes_the_pool_start_over() {
    let world = World::new();
    world.state.until(|shard| shard.asked_after.last() == Some(&1)).await;
    world.state.change(|shard| {
        shard.changes.push(Change { number: 3, ..Change::default() });
    });
    world
        .state
        .until(|shard| shard.asked_after.iter().filter(|after| **after == 0).count() == 2)
        .await;
}

#[tokio::test]
async fn after_a_dropped_transaction_the_account_is_read_again() {
    let world = World::new();
    let txs = [tx(who(1), 0, 10), tx(who(1), 1, 10)];
    world.put(&txs).await;
    assert_eq!(world.take(1, LONG_MS).await.map(|txs| txs.len()), Ok(2));
    world.report(&txs[1], End::Returned).await;
    // Its nonce was used by something that the pool knows nothing of.
    world.state.change(|shard| shard.accounts.insert(who(1), basic(1, RICH)));
    let (taken, ()) = tokio::join!(world.take(1, 0), world.report(&txs[0], dropped()));
    assert_eq!(taken, Ok(txs[1..].to_vec()));
    world.report(&txs[1], End::Returned).await;
    assert_eq!(world.take(1, LONG_MS).await, Ok(txs[1..].to_vec()));
}

#[tokio::test]
async fn the_base_fee_is_the_states() {
    let world = world_with(|shard| shard.base_fee = 50);
    let txs = [tx(who(1), 0, 49), tx(who(2), 0, 50)];
    world.put(&txs).await;
    world.state.until(|shard| shard.asked_after.last() == Some(&1)).await;
    assert_eq!(world.take(1, LONG_MS).await, Ok(txs[1..].to_vec()));
}

#[tokio::test]
async fn senders_are_told_of_what_will_not_run() {
    let world = World::new();
    let (gone, old, new) = (tx(who(1), 0, 10), tx(who(2), 0, 10), tx(who(2), 0, 20));
    world.put(&[gone.clone(), old.clone()]).await;
    assert_eq!(world.take(1, LONG_MS).await.map(|txs| txs.len()), Ok(2));
    world.report(&gone, End::Dropped { reason: "it cannot".into() }).await;
    world.report(&old, End::Returned).await;
    world.put(std::slice::from_ref(&new)).await;
    world.state.until(|shard| shard.told.len() == 2).await;
    let told = world.state.change(|shard| shard.told.clone());
    let replaced = format!("replaced by {}", new.hash());
    let expected = [(*gone.hash(), "it cannot".to_owned()), (*old.hash(), replaced)];
    assert_eq!(told, expected.map(|(tx, reason)| DroppedTx { tx, reason }));
}
