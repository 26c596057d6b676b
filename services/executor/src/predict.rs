//! Prediction: speculative runs on the newest state, to learn what a transaction uses.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use atoll_api::executor::{CodeWanted, ExecutorError, Predict, PredictReply, Prediction};
use atoll_evm::{Bytecode, Executor, Invalid, OnMissing, Outcome, StateView};
use atoll_types::{Address, B256, KECCAK_EMPTY, StateKey, StateValue, Tx};

use crate::shared::{Ground, Shared};

const MAX_PASSES: usize = 1_024;
/// Highest address that Ethereum has given to a precompile in the low range, and P256VERIFY's.
const PRECOMPILES: [u64; 2] = [0x11, 0x100];

/// Own values from the cache, others' as far as the caller knows them.
struct PredictView<'a> {
    shared: &'a Shared,
    known: &'a HashMap<StateKey, StateValue>,
}

impl StateView for PredictView<'_> {
    fn read(&self, key: &StateKey) -> Option<StateValue> {
        if self.shared.is_own(key) {
            return self.shared.cache().get(key);
        }
        self.known.get(key).copied()
    }

    fn code(&self, hash: &B256) -> Option<Bytecode> {
        self.shared.code(hash)
    }
}

/// Predicts a batch of transactions, each on the newest state.
pub(crate) async fn predict(
    shared: Arc<Shared>,
    request: Predict,
) -> Result<PredictReply, ExecutorError> {
    let ground = shared.ground.subscribe().wait_for(Option::is_some).await.map(|g| g.clone());
    let Ok(Some(ground)) = ground else {
        return Err(ExecutorError::State { reason: "it has not been heard from".into() });
    };
    let handle = tokio::runtime::Handle::current();
    let runner = shared.clone();
    let work = move || {
        runner.counts.predictions.measure(|| predict_all(&runner, &ground, request, &handle))
    };
    let reply = tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| ExecutorError::State { reason: e.to_string() })??;
    let needs = |prediction: &&Prediction| matches!(prediction, Prediction::Needs { .. });
    let needs = reply.predictions.iter().filter(needs).count();
    shared.counts.predictions.done(1, reply.predictions.len() - needs);
    Ok(reply)
}

/// On the blocking pool.
fn predict_all(
    shared: &Shared,
    ground: &Ground,
    request: Predict,
    handle: &tokio::runtime::Handle,
) -> Result<PredictReply, ExecutorError> {
    let known: HashMap<StateKey, StateValue> = request.known.into_iter().collect();
    let view = PredictView { shared, known: &known };
    let mut evm = Executor::new(&ground.env);
    let mut predictions: Vec<Option<Prediction>> = vec![None; request.txs.len()];
    let mut absent = HashSet::new();
    for _ in 0..MAX_PASSES {
        let (mut keys, mut codes) = (HashSet::new(), HashSet::new());
        for (tx, slot) in request.txs.iter().zip(&mut predictions) {
            if slot.is_none() {
                match one(&view, &mut evm, tx, &absent) {
                    Ok(prediction) => *slot = Some(prediction),
                    Err(fetch) => {
                        keys.extend(fetch.keys);
                        codes.extend(fetch.codes);
                    }
                }
            }
        }
        if keys.is_empty() && codes.is_empty() {
            break;
        }
        let (keys, codes) = (keys.into_iter().collect(), codes.into_iter().collect());
        absent.extend(handle.block_on(shared.fetch(keys, codes))?);
    }
    let lost =
        || Prediction::Invalid { reason: "it uses too much to predict".into(), nonce_ahead: false };
    let predictions = predictions.into_iter().map(|p| p.unwrap_or_else(lost)).collect();
    Ok(PredictReply { predictions })
}

/// What has to be fetched from this shard's own state before a prediction can go on.
struct Fetch {
    keys: Vec<StateKey>,
    codes: Vec<B256>,
}

/// Predicts one transaction. `absent` are hashes of code that this shard's state does not have.
fn one(
    view: &PredictView<'_>,
    evm: &mut Executor,
    tx: &Tx,
    absent: &HashSet<B256>,
) -> Result<Prediction, Fetch> {
    let placed = match plain_payment(view, tx) {
        Payment::Unknown(key) => {
            return Ok(Prediction::Needs { keys: vec![key], codes: Vec::new() });
        }
        Payment::Credit => true,
        Payment::No => false,
    };
    let run = if placed { evm.debit(tx, view) } else { evm.transact(tx, view, OnMissing::Assume) };
    match run.outcome {
        Outcome::Executed(_) => Ok(Prediction::Uses { keys: run.used, credit: placed }),
        Outcome::Invalid(invalid) => Ok(Prediction::Invalid {
            nonce_ahead: matches!(invalid, Invalid::NonceTooHigh { .. }),
            reason: invalid.to_string(),
        }),
        Outcome::Missing => {
            let (own, foreign): (Vec<_>, Vec<_>) =
                run.missing.into_iter().partition(|key| view.shared.is_own(key));
            let (here, elsewhere): (Vec<B256>, Vec<B256>) =
                run.missing_codes.into_iter().partition(|hash| !absent.contains(hash));
            if !own.is_empty() || !here.is_empty() {
                return Err(Fetch { keys: own, codes: here });
            }
            let owner = |hash: &B256| {
                let has = |key: &&StateKey| {
                    matches!(key, StateKey::Code(_))
                        && view.read(key).is_some_and(|value| value.code().hash == *hash)
                };
                run.used.all().find(has).map(StateKey::address)
            };
            let wanted = |hash: B256| owner(&hash).map(|account| CodeWanted { hash, account });
            let codes = elsewhere.into_iter().filter_map(wanted).collect();
            Ok(Prediction::Needs { keys: foreign, codes })
        }
    }
}

enum Payment {
    /// Whether it is one depends on this key of another shard.
    Unknown(StateKey),
    /// A plain payment to an account of another shard without code.
    Credit,
    No,
}

fn plain_payment(view: &PredictView<'_>, tx: &Tx) -> Payment {
    let Some(to) = tx.to() else { return Payment::No };
    let code = StateKey::Code(to);
    // With input it may be a call of a contract whose creation the shard of `to` has yet to see.
    let plain = tx.input().is_empty() && !tx.authorizes() && !is_precompile(&to);
    if !plain || view.shared.is_own(&code) {
        return Payment::No;
    }
    match view.known.get(&code) {
        None => Payment::Unknown(code),
        Some(value) if value.code().hash == KECCAK_EMPTY => Payment::Credit,
        Some(_) => Payment::No,
    }
}

fn is_precompile(address: &Address) -> bool {
    let (high, low) = address.split_at(12);
    let low = u64::from_be_bytes(low.try_into().unwrap_or([0; 8]));
    high.iter().all(|byte| *byte == 0) && (low <= PRECOMPILES[0] || low == PRECOMPILES[1])
}
