//! Prediction: speculative runs on the newest state, to learn what a transaction uses.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use atoll_api::executor::{CodeWanted, ExecutorError, Predict, PredictReply, Prediction};
use atoll_evm::{Bytecode, Chain, Executor, Footing, Invalid, OnMissing, Outcome, Run, StateView};
use atoll_fabric::Waits;
use atoll_types::{Address, B256, KECCAK_EMPTY, PANICS, StateKey, StateValue, Tx};

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

    fn block_hash(&self, number: u64) -> Option<B256> {
        self.shared.block_hash(number)
    }
}

/// Predicts a batch of transactions, each on the newest state after its sender's earlier ones that are
/// under way.
pub(crate) async fn predict(
    shared: Arc<Shared>,
    request: Predict,
) -> Result<PredictReply, ExecutorError> {
    let ground = shared.ground.subscribe().wait_for(Option::is_some).await;
    let Ok(Some(ground)) = ground else {
        return Err(ExecutorError::State { reason: "it has not been heard from".into() });
    };
    let hashes: Vec<B256> = request.txs.iter().map(|tx| *tx.hash()).collect();
    let runner = shared.clone();
    let work = move |waits: &Waits| {
        runner.counts.predictions.measure(|| predict_all(&runner, &ground, request, waits))
    };
    let reply = shared
        .config
        .machine
        .run_waiting(work)
        .await
        .map_err(|e| ExecutorError::State { reason: e.to_string() })??;
    let panicked = reply.predictions.iter().zip(&hashes).filter(|(prediction, _)| {
        matches!(prediction, Prediction::Invalid { reason, .. } if reason == PANICS)
    });
    shared.quarantine(panicked.map(|(_, hash)| *hash).collect()).await;
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
    waits: &Waits,
) -> Result<PredictReply, ExecutorError> {
    let known: HashMap<StateKey, StateValue> = request.known.into_iter().collect();
    let view = PredictView { shared, known: &known };
    let mut batch = Batch {
        shared,
        view: &view,
        evm: Executor::with_rules(&ground.env, shared.config.rules),
        cut: ground.tip.cut,
        txs: &request.txs,
        predictions: vec![None; request.txs.len()],
        absent: HashSet::new(),
        wanted: Wanted::default(),
    };
    let senders = by_sender(&request.txs);
    for _ in 0..MAX_PASSES {
        senders.iter().for_each(|(sender, places)| batch.of_sender(*sender, places));
        let Wanted { keys, codes } = std::mem::take(&mut batch.wanted);
        if keys.is_empty() && codes.is_empty() {
            break;
        }
        let (keys, codes) = (keys.into_iter().collect(), codes.into_iter().collect());
        batch.absent.extend(waits.until(shared.fetch(keys, codes))?);
    }
    let lost =
        || Prediction::Invalid { reason: "it uses too much to predict".into(), nonce_ahead: false };
    let predictions = batch.predictions.into_iter().map(|p| p.unwrap_or_else(lost)).collect();
    Ok(PredictReply { predictions })
}

/// Places of each sender's transactions, in the order of their nonces.
fn by_sender(txs: &[Tx]) -> Vec<(Address, Vec<usize>)> {
    let mut senders: Vec<(Address, Vec<usize>)> = Vec::new();
    let mut found: HashMap<Address, usize> = HashMap::new();
    for (place, tx) in txs.iter().enumerate() {
        let at = *found.entry(tx.sender()).or_insert_with(|| {
            senders.push((tx.sender(), Vec::new()));
            senders.len() - 1
        });
        senders[at].1.push(place);
    }
    senders.iter_mut().for_each(|(_, places)| places.sort_by_key(|place| txs[*place].nonce()));
    senders
}

/// What has to be fetched from this shard's own state before predictions can go on.
#[derive(Default)]
struct Wanted {
    keys: BTreeSet<StateKey>,
    codes: BTreeSet<B256>,
}

struct Batch<'a> {
    shared: &'a Shared,
    view: &'a PredictView<'a>,
    evm: Executor,
    cut: u64,
    txs: &'a [Tx],
    predictions: Vec<Option<Prediction>>,
    /// Hashes of code that this shard's state does not have.
    absent: HashSet<B256>,
    wanted: Wanted,
}

impl<'a> Batch<'a> {
    /// Predicts one sender's transactions, each after those before it.
    fn of_sender(&mut self, sender: Address, places: &[usize]) {
        let key = StateKey::Basic(sender);
        let Some(account) = self.view.read(&key).map(|value| value.basic()) else {
            self.wanted.keys.insert(key);
            return;
        };
        let pinned = self.shared.pinned().contains_key(&sender);
        let mut chain = Chain::new(self.view, sender, account);
        for &place in places {
            let open = matches!(self.predictions[place], None | Some(Prediction::Needs { .. }));
            if !open {
                continue;
            }
            let tx = &self.txs[place];
            if let Err(reason) = self.shared.budget().check(&sender, self.cut) {
                self.predictions[place] = Some(Prediction::Refused { reason });
                continue;
            }
            let (state, found) = (account.nonce, tx.nonce());
            let prediction = if found < state {
                let reason = Invalid::NonceTooLow { tx: found, state }.to_string();
                Some(Prediction::Invalid { reason, nonce_ahead: false })
            } else if chain.reach(found, &self.shared.ahead(), self.cut) && chain.next() == found {
                self.one(&mut chain, tx, pinned)
            } else {
                Some(behind("an earlier one is not on its way".into()))
            };
            let is_open = matches!(prediction, None | Some(Prediction::Needs { .. }));
            if is_open {
                chain.skip();
            }
            self.predictions[place] = prediction;
        }
    }

    /// Predicts one transaction. `None`: values of this shard are wanted first.
    fn one(
        &mut self,
        chain: &mut Chain<'a, PredictView<'a>>,
        tx: &Tx,
        pinned: bool,
    ) -> Option<Prediction> {
        let state = chain.state();
        // A pinned sender has nothing debited, nor has one whose account an undecided group may write:
        // a payment is a transaction like any other. No block could take the debit, and it would come
        // back at once, again and again.
        let fenced = self.shared.cache().is_fenced(&StateKey::Basic(tx.sender()));
        let payment = if pinned || fenced || !chain.takes_credit() {
            Payment::No
        } else {
            plain_payment(self.shared, state, tx)
        };
        let credit = match payment {
            Payment::Unknown(key) => return Some(needs(vec![key], Vec::new())),
            Payment::Credit => true,
            Payment::No => false,
        };
        if !credit && chain.awaits_debit() {
            return Some(behind("an earlier payment is not debited yet".into()));
        }
        if self.shared.quarantined().contains(tx.hash()) {
            return Some(panics());
        }
        // The executor is as good as new after a panic.
        let run = catch_unwind(AssertUnwindSafe(|| match credit {
            true => self.evm.debit(tx, state),
            false => self.evm.transact(tx, state, OnMissing::Assume),
        }));
        let Ok(run) = run else { return Some(panics()) };
        self.shared.budget().spend(tx.sender(), run.gas, self.cut);
        let guessed = chain.footing() == Footing::Guessed;
        Some(match run.outcome {
            Outcome::Missing => return self.missing(state, run),
            _ if guessed => needs(Vec::new(), Vec::new()),
            Outcome::Executed(effects) => {
                chain.add(credit, &effects);
                self.shared.ahead().note(tx, credit, &effects, self.cut);
                Prediction::Uses { keys: run.used, credit }
            }
            Outcome::Invalid(Invalid::NonceTooHigh { .. }) => behind("its nonce is ahead".into()),
            Outcome::Invalid(invalid) if chain.footing() == Footing::Real => {
                Prediction::Invalid { reason: invalid.to_string(), nonce_ahead: false }
            }
            // What those before it really do will tell.
            Outcome::Invalid(invalid) => behind(invalid.to_string()),
        })
    }

    /// What a run needs that is not at hand: of this shard, or of others.
    fn missing(&mut self, state: &dyn StateView, run: Run) -> Option<Prediction> {
        let (own, foreign): (Vec<_>, Vec<_>) =
            run.missing.into_iter().partition(|key| self.shared.is_own(key));
        let (here, elsewhere): (Vec<B256>, Vec<B256>) =
            run.missing_codes.into_iter().partition(|hash| !self.absent.contains(hash));
        if !own.is_empty() || !here.is_empty() {
            self.wanted.keys.extend(own);
            self.wanted.codes.extend(here);
            return None;
        }
        let owner = |hash: &B256| {
            let has = |key: &&StateKey| {
                matches!(key, StateKey::Code(_))
                    && state.read(key).is_some_and(|value| value.code().hash == *hash)
            };
            run.used.all().find(has).map(StateKey::address)
        };
        let wanted = |hash: B256| owner(&hash).map(|account| CodeWanted { hash, account });
        Some(needs(foreign, elsewhere.into_iter().filter_map(wanted).collect()))
    }
}

fn needs(keys: Vec<StateKey>, codes: Vec<CodeWanted>) -> Prediction {
    Prediction::Needs { keys, codes }
}

fn panics() -> Prediction {
    Prediction::Invalid { reason: PANICS.to_owned(), nonce_ahead: false }
}

fn behind(reason: String) -> Prediction {
    Prediction::Invalid { reason, nonce_ahead: true }
}

enum Payment {
    /// Whether it is one depends on this key of another shard.
    Unknown(StateKey),
    /// A plain payment to an account of another shard without code.
    Credit,
    No,
}

fn plain_payment(shared: &Shared, state: &dyn StateView, tx: &Tx) -> Payment {
    let Some(to) = tx.to() else { return Payment::No };
    let code = StateKey::Code(to);
    // With input it may be a call of a contract whose creation the shard of `to` has yet to see.
    let plain = tx.input().is_empty() && !tx.authorizes() && !is_precompile(&to);
    if !plain || shared.is_own(&code) {
        return Payment::No;
    }
    match state.read(&code) {
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
