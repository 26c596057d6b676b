//! From a transaction that does not fit its shard to an intent: predict, share, announce.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use atoll_api::{
    executor::{Debit, Predict, Prediction},
    mempool::{End, Report, TxEnd},
    router::Fetch,
    state::{Refusal, Share, Withdraw},
};
use atoll_fabric::Beat;
use atoll_telemetry::{Stage, metrics::Timer, stages};
use atoll_types::{Address, B256, Intent, ShardId, SharedTx, StateKey, Tx, Write};
use tokio::sync::oneshot;

use crate::{
    assemble::fetch_codes,
    hints::listed,
    jobs::Job,
    shared::{Shared, lock},
};

/// Fetches from other shards in one prediction at the most. A chain of calls takes about three for
/// each contract: its code hash, its code, its slots.
const MAX_FETCHES: usize = 1_024;
/// Transactions of one batch whose keys are remembered.
const MAX_NOTED: usize = 64;
const RETRY: Duration = Duration::from_millis(100);
/// Between two batches: what comes meanwhile shares its fetches.
const BATCH_GAP: Duration = Duration::from_millis(4);

/// Predicts whatever waits, in batches, several at a time.
pub(crate) async fn escalate(shared: Arc<Shared>) {
    let mut beat = Beat::every(BATCH_GAP);
    loop {
        shared.job_came.notified().await;
        loop {
            beat.wait().await;
            // Never closed.
            let Ok(permit) = shared.predicting.clone().acquire_owned().await else { return };
            let batch = shared.jobs().take(shared.config.max_batch);
            if batch.is_empty() {
                break;
            }
            let shared = shared.clone();
            tokio::task::spawn_local(async move {
                one_batch(&shared, batch).await;
                drop(permit);
            });
        }
    }
}

async fn one_batch(shared: &Arc<Shared>, batch: Vec<Job>) {
    let txs: Vec<Tx> = batch.iter().map(|job| job.tx().clone()).collect();
    let senders: Vec<Address> = txs.iter().map(Tx::sender).collect();
    let predictions = {
        let (_stages, timer) = (stages("predict", shared.shard(), &txs), Timer::start());
        let predictions = predict(shared, txs).await;
        timer.stage("predict", shared.shard());
        predictions
    };
    let predictions = match predictions {
        Ok(predictions) => predictions,
        Err(reason) => {
            tracing::warn!(reason, count = batch.len(), "cannot predict; trying again");
            tokio::time::sleep(RETRY).await;
            shared.jobs().done(senders);
            return shared.add_jobs(batch);
        }
    };
    let mut sorted = Sorted { first_lost: first_lost(&batch, &predictions), ..Sorted::default() };
    for (job, prediction) in batch.into_iter().zip(predictions) {
        sorted.add(shared, job, prediction);
    }
    let Sorted { debits, mut ends, withdrawn, first, again, .. } = sorted;
    withdraw(shared, withdrawn).await;
    ends.extend(debit(shared, debits).await);
    let timer = (!first.is_empty() || !again.is_empty()).then(Timer::start);
    let (sharing, unshared) = share(shared, first).await;
    // What is not shared again stays in the outbox, for the refresh.
    let (sharing_again, _) = share(shared, again).await;
    // What comes next of these senders finds what is under way.
    shared.jobs().done(senders);
    shared.job_came.notify_one();
    ends.extend(unshared);
    report(shared, ends).await;
    announce_when_held(shared, sharing.into_iter().chain(sharing_again)).await;
    if let Some(timer) = timer {
        timer.stage("share", shared.shard());
    }
}

/// For each sender the first nonce of which nothing could be said in the end: later ones may only have
/// waited for it.
fn first_lost(batch: &[Job], predictions: &[Prediction]) -> HashMap<Address, u64> {
    let mut first = HashMap::new();
    for (job, prediction) in batch.iter().zip(predictions) {
        if matches!(prediction, Prediction::Needs { .. }) {
            let (sender, nonce) = (job.tx().sender(), job.tx().nonce());
            let lowest = first.entry(sender).or_insert(nonce);
            *lowest = nonce.min(*lowest);
        }
    }
    first
}

/// What is to be done with a batch.
#[derive(Default)]
struct Sorted {
    debits: Vec<Tx>,
    ends: Vec<TxEnd>,
    withdrawn: Vec<Withdraw>,
    /// To be shared for the first time.
    first: Vec<SharedTx>,
    /// To be shared again.
    again: Vec<SharedTx>,
    first_lost: HashMap<Address, u64>,
}

/// A number above those of any earlier life of the same transaction (one that was dropped and sent
/// once more): each attempt takes a round, so an earlier life's numbers are at most today's cut.
fn first_attempt(cut: u64) -> u32 {
    u32::try_from(cut.saturating_add(1)).unwrap_or(u32::MAX)
}

impl Sorted {
    fn add(&mut self, shared: &Shared, job: Job, prediction: Prediction) {
        let last_valid_round = shared.cut.get() + shared.config.valid_rounds;
        match (job, prediction) {
            (Job::New { tx, .. }, Prediction::Uses { credit: true, .. }) => self.debits.push(tx),
            (Job::New { tx, .. }, Prediction::Uses { keys, .. }) => self.first.push(SharedTx {
                tx,
                origin: shared.shard(),
                attempt: first_attempt(shared.cut.get()),
                wrong: 0,
                absences: 0,
                silences: 0,
                keys,
                last_valid_round,
            }),
            (Job::Again(before), Prediction::Uses { keys, .. }) => {
                let keys = if before.wrong > 0 { keys.union(&before.keys) } else { keys };
                self.again.push(SharedTx { keys, last_valid_round, ..before });
            }
            // An earlier nonce of the sender is on its way, or was lost on it.
            (Job::New { tx, waits_since }, Prediction::Invalid { nonce_ahead: true, .. }) => {
                let (hash, cut) = (*tx.hash(), shared.cut.get());
                if !shared.jobs().wait(tx, waits_since, cut) {
                    self.ends.push(TxEnd { tx: hash, end: End::Returned });
                }
            }
            (Job::New { tx, .. }, Prediction::Invalid { reason, .. }) => {
                self.ends.push(TxEnd { tx: *tx.hash(), end: End::Dropped { reason } });
            }
            // An earlier nonce of the sender is on its way: the refresh predicts it again.
            (Job::Again(before), Prediction::Invalid { nonce_ahead: true, .. })
                if before.last_valid_round > shared.cut.get() => {}
            (Job::Again(before), Prediction::Invalid { reason, .. }) => {
                self.withdrawn.push(Withdraw { tx: before.reference(), reason });
            }
            (Job::New { tx, .. }, Prediction::Refused { reason }) => {
                self.ends.push(TxEnd { tx: *tx.hash(), end: End::Dropped { reason } });
            }
            // It has been taken: the refresh predicts it again.
            (Job::Again(_), Prediction::Refused { .. }) => {}
            // `predict` does not return these.
            (job, Prediction::Needs { .. }) => {
                let reason = "it uses too much of other shards to predict".to_owned();
                let first = self.first_lost.get(&job.tx().sender()).copied();
                let nonce_ahead = first.is_some_and(|first| first < job.tx().nonce());
                self.add(shared, job, Prediction::Invalid { reason, nonce_ahead });
            }
        }
    }
}

/// Predicts, fetching from other shards what is found to be needed.
async fn predict(shared: &Arc<Shared>, txs: Vec<Tx>) -> Result<Vec<Prediction>, String> {
    let mut done: Vec<Option<Prediction>> = vec![None; txs.len()];
    let mut known: BTreeMap<StateKey, Write> = BTreeMap::new();
    let mut likely = Wanted::default();
    likely.add(shared, lock(&shared.hints).keys(txs.iter()), Vec::new());
    let foreign = |key: &StateKey| shared.placement().owner_of(key) != shared.shard();
    likely.add(shared, listed(txs.iter(), foreign), Vec::new());
    likely.fetch(shared, &mut known).await?;
    for round in 0..=MAX_FETCHES {
        let open: Vec<usize> = (0..txs.len()).filter(|at| done[*at].is_none()).collect();
        let ask = Predict {
            txs: open.iter().map(|at| txs[*at].clone()).collect(),
            known: known.values().copied().collect(),
        };
        let reply = shared.executor.predict.call(shared.context(), ask).await;
        let predictions = reply.map_err(|e| e.to_string())?.predictions;
        if predictions.len() != open.len() {
            return Err("the executor has predicted another number of transactions".into());
        }
        let mut wanted = Wanted::default();
        for (at, prediction) in open.into_iter().zip(predictions) {
            match prediction {
                Prediction::Needs { keys, codes } if round < MAX_FETCHES => {
                    wanted.add(shared, keys, codes);
                }
                other => done[at] = Some(other),
            }
        }
        // Nothing may be wanted of one that is open: what it used changed while it ran.
        if done.iter().all(Option::is_some) {
            break;
        }
        wanted.fetch(shared, &mut known).await?;
    }
    note_uses(shared, &txs, &done);
    let gone = || Prediction::Needs { keys: Vec::new(), codes: Vec::new() };
    Ok(done.into_iter().map(|prediction| prediction.unwrap_or_else(gone)).collect())
}

/// Remembers what the last calls of each contract use of other shards.
fn note_uses(shared: &Shared, txs: &[Tx], predictions: &[Option<Prediction>]) {
    let mut hints = lock(&shared.hints);
    for (tx, prediction) in txs.iter().zip(predictions).rev().take(MAX_NOTED) {
        if let Some(Prediction::Uses { keys, .. }) = prediction {
            let foreign = |key: &&StateKey| shared.placement().owner_of(key) != shared.shard();
            hints.note(tx, keys.all().filter(foreign).copied());
        }
    }
}

/// What predictions need of other shards.
#[derive(Default)]
struct Wanted {
    keys: BTreeMap<ShardId, BTreeSet<StateKey>>,
    codes: BTreeMap<ShardId, BTreeSet<B256>>,
}

impl Wanted {
    fn add(
        &mut self,
        shared: &Shared,
        keys: Vec<StateKey>,
        codes: Vec<atoll_api::executor::CodeWanted>,
    ) {
        for key in keys {
            self.keys.entry(shared.placement().owner_of(&key)).or_default().insert(key);
        }
        for code in codes {
            let owner = shared.placement().owner(&code.account);
            self.codes.entry(owner).or_default().insert(code.hash);
        }
    }

    /// One message to each shard, all at once.
    async fn fetch(
        self,
        shared: &Arc<Shared>,
        known: &mut BTreeMap<StateKey, Write>,
    ) -> Result<(), String> {
        let reads = self.keys.into_iter().map(|(to, keys)| async move {
            let keys: Vec<StateKey> = keys.into_iter().collect();
            let ask = Fetch { from: shared.shard(), keys: keys.clone(), ..Fetch::default() };
            let peer = shared.peers.get(&to).ok_or_else(|| format!("no shard {to}"))?;
            let reply = peer.client.fetch.call(shared.context(), ask).await;
            Ok::<_, String>((keys, reply.map_err(|e| format!("shard {to}: {e}"))?.values))
        });
        for read in futures::future::join_all(reads).await {
            let (keys, values) = read?;
            known.extend(keys.into_iter().zip(values).map(|(key, value)| (key, (key, value))));
        }
        for (from, hashes) in self.codes {
            fetch_codes(shared, from, hashes.into_iter().collect()).await?;
        }
        Ok(())
    }
}

async fn withdraw(shared: &Arc<Shared>, withdrawn: Vec<Withdraw>) {
    for withdraw in withdrawn {
        if let Err(error) = shared.state.withdraw.call(shared.context(), withdraw).await {
            // It stays in the outbox as returned and is predicted again by the refresh.
            tracing::warn!(%error, "cannot withdraw a transaction; trying again");
        }
    }
}

/// Hands payments to the executor; those it does not take go back to the pool.
async fn debit(shared: &Arc<Shared>, txs: Vec<Tx>) -> Vec<TxEnd> {
    if txs.is_empty() {
        return Vec::new();
    }
    shared.counts.credits.add(txs.len());
    let hashes: Vec<B256> = txs.iter().map(|tx| *tx.hash()).collect();
    match shared.executor.debit.call(shared.context(), Debit { txs }).await {
        Ok(()) => Vec::new(),
        Err(error) => {
            tracing::warn!(%error, "executor takes no payments; back to the pool");
            tokio::time::sleep(RETRY).await;
            hashes.into_iter().map(|tx| TxEnd { tx, end: End::Returned }).collect()
        }
    }
}

async fn report(shared: &Arc<Shared>, ends: Vec<TxEnd>) {
    if ends.is_empty() {
        return;
    }
    if let Err(error) = shared.mempool.report.call(shared.context(), Report { ends }).await {
        tracing::warn!(%error, "cannot report to the pool");
    }
}

/// A transaction that the own state holds, and that other owners may not hold yet.
pub(crate) struct Sharing {
    sender: Address,
    intent: Intent,
    /// What the other owners say.
    held: Vec<oneshot::Receiver<bool>>,
    _stage: Stage,
}

/// Data before order: shares transactions, first with the own state. Also returns how those have ended
/// that it does not hold.
pub(crate) async fn share(shared: &Arc<Shared>, txs: Vec<SharedTx>) -> (Vec<Sharing>, Vec<TxEnd>) {
    let (mut sharing, mut unshared) = (Vec::with_capacity(txs.len()), Vec::new());
    if txs.is_empty() {
        return (sharing, unshared);
    }
    let stages: Vec<Stage> =
        txs.iter().map(|tx| Stage::enter("share", shared.shard(), &tx.tx)).collect();
    let reply = shared.state.share.call(shared.context(), Share { txs: txs.clone() }).await;
    let refused = match reply {
        Ok(reply) => reply.refused,
        Err(error) => {
            tracing::warn!(%error, "cannot share transactions; trying again");
            tokio::time::sleep(RETRY).await;
            let back = txs.iter().map(|tx| TxEnd { tx: *tx.tx.hash(), end: End::Returned });
            return (sharing, back.collect());
        }
    };
    for ((tx, refused), stage) in txs.into_iter().zip(refused).zip(stages) {
        match refused {
            None => {
                lock(&shared.turns).wait(&tx);
                sharing.push(Sharing {
                    sender: tx.tx.sender(),
                    intent: tx.intent(shared.placement()),
                    held: share_with(shared, &tx),
                    _stage: stage,
                });
            }
            // It is held already, as another attempt.
            Some(Refusal::OldAttempt { .. }) => {}
            Some(rule) => {
                shared.counts.refused.add(rule.rule());
                let end = End::Dropped { reason: rule.to_string() };
                unshared.push(TxEnd { tx: *tx.tx.hash(), end });
            }
        }
    }
    (sharing, unshared)
}

/// An intent is announced once every owner holds its transaction durably, and not before those of the
/// sender's earlier transactions. One that is not held everywhere is shared again by the refresh.
pub(crate) async fn announce_when_held(
    shared: &Arc<Shared>,
    sharing: impl Iterator<Item = Sharing>,
) {
    let mut intents = Vec::new();
    for Sharing { sender, intent, held, _stage } in sharing {
        let all = futures::future::join_all(held).await;
        if all.into_iter().all(|held| held == Ok(true)) {
            intents.extend(lock(&shared.turns).held(&sender, intent));
        }
    }
    announce(shared, intents);
}

pub(crate) fn announce(shared: &Shared, intents: Vec<Intent>) {
    if !intents.is_empty() {
        shared.counts.intents.add(intents.len());
        shared.announcements.intents(intents);
    }
}

/// Sends a transaction to its other owners. Each says when it holds it.
fn share_with(shared: &Shared, tx: &SharedTx) -> Vec<oneshot::Receiver<bool>> {
    let owners = tx.keys.owners(shared.placement());
    let others = owners.iter().filter_map(|owner| shared.peers.get(owner));
    others.map(|peer| peer.outbound.share(tx.clone())).collect()
}
