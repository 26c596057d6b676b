//! The parallel executor against the sequential one: whatever the threads do, every attempt and what
//! the block changes are the same. Prints its seed; `ATOLL_SEED` sets it, `ATOLL_ROUNDS` how many blocks.

mod common;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use alloy_primitives::{Address, B256, U256, hex};
use atoll_evm::{
    BlockExecutor, Bytecode, Changes, Clock, Crew, Empty, Fees, Helpers, Hint, Mode, Nobody,
    Outcome, Overlay, Parallel, Parallelism, Policy, Sequential, StateView,
};
use atoll_types::{KeySet, StateKey, StateValue, Tx};
use common::{
    programs::{plan, program, rounds, seed},
    *,
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

/// A state of which some keys are not there, and one makes whoever reads it panic.
struct Partial {
    state: Overlay<'static, Empty>,
    absent: Vec<StateKey>,
    poison: Option<StateKey>,
}

impl StateView for Partial {
    fn read(&self, key: &StateKey) -> Option<StateValue> {
        assert!(self.poison != Some(*key), "a planted defect");
        if self.absent.contains(key) { None } else { self.state.read(key) }
    }

    fn code(&self, hash: &B256) -> Option<Bytecode> {
        self.state.code(hash)
    }
}

/// What happens with a transaction of a block.
#[derive(Clone)]
struct Step {
    tx: Tx,
    mode: Mode,
    /// It is never attempted, though it was announced.
    skipped: bool,
    /// Its effects are not kept; it is included as failed.
    unfenced: bool,
    keys: Option<KeySet>,
}

impl Step {
    fn hint(&self) -> Hint<'_> {
        Hint { tx: &self.tx, mode: self.mode, keys: self.keys.as_ref() }
    }
}

struct Case {
    base: Arc<Partial>,
    fees: Fees,
    steps: Vec<Step>,
    /// Where the list is announced anew.
    passes: Vec<usize>,
}

/// Runs a case as whoever builds a block or group does. Everything that can be seen of it.
fn drive<B: BlockExecutor>(case: &Case, mut block: B) -> (Vec<String>, Changes) {
    let mut seen = Vec::new();
    for (from, to) in case.passes.iter().zip(&case.passes[1..]) {
        let steps = &case.steps[*from..*to];
        block.prepare(&steps.iter().map(Step::hint).collect::<Vec<_>>());
        for step in steps.iter().filter(|step| !step.skipped) {
            let mut run = block.attempt(&step.tx, step.mode);
            if step.unfenced {
                seen.push(format!("{run:?}"));
                run = block.attempt(&step.tx, Mode::Fail);
            }
            if let Outcome::Executed(effects) = &run.outcome {
                block.keep(effects);
            }
            seen.push(format!("{run:?}"));
        }
    }
    (seen, block.finish())
}

fn sequential(case: &Case) -> (Vec<String>, Changes) {
    drive(case, Sequential::new(&env(), Default::default(), case.fees, &*case.base))
}

fn parallel(case: &Case, lanes: &Parallelism) -> (Vec<String>, Changes) {
    drive(case, Parallel::new(&env(), Default::default(), case.fees, &case.base, lanes))
}

fn crew(count: usize) -> Arc<dyn Helpers> {
    let start = |work| std::thread::Builder::new().spawn(work).map(drop);
    Arc::new(Crew::new(count, start).expect("threads"))
}

/// A clock that says anything, so that every decision is made now and then.
fn erratic(seed: u64) -> Clock {
    let state = AtomicU64::new(seed);
    Arc::new(move || {
        let word = state.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        (word ^ (word >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 44
    })
}

/// Every way to run in parallel that is tried.
fn lanes(seed: u64) -> Vec<(&'static str, Parallelism)> {
    let clock = || erratic(seed);
    let always = |helpers| Parallelism::with_policy(helpers, clock(), Policy::Always);
    vec![
        ("nobody", Parallelism::none()),
        ("forced, nobody", always(Arc::new(Nobody))),
        ("forced, one", always(crew(1))),
        ("forced, three", always(crew(3))),
        ("adaptive, one", Parallelism::new(crew(1), clock())),
        ("adaptive, three", Parallelism::new(crew(3), clock())),
    ]
}

/// A block of random transactions of few senders on few contracts.
fn case(seed: u64, counts: &mut Counts) -> Case {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut world = World::new();
    let contracts: Vec<_> = (20..28).map(account).collect();
    let mut addresses = contracts.clone();
    addresses.extend((1..=7).map(|key| signer(key).address()));
    addresses.extend([account(98), account(99), Address::with_last_byte(4)]);
    addresses.push(Address::left_padding_from(&hex!("bbbb")));
    if rng.random_bool(0.4) {
        addresses.push(COINBASE);
    }
    for key in 1..=5 {
        world.put(signer(key).address(), 0, RICH, &[]);
    }
    for contract in &contracts {
        let code = program(&mut rng, &addresses);
        let balance = U256::from(rng.random_range(0..2_000u64));
        world.put(*contract, 1, balance, &code);
        world.store(*contract, U256::ONE, U256::from(5));
    }
    if rng.random() {
        world.put(COINBASE, 0, U256::from(rng.random_range(0..9u64)), &[]);
    }
    let mut nonces: BTreeMap<Address, u64> = BTreeMap::new();
    let count = rng.random_range(1..50);
    let mut steps = Vec::new();
    for _ in 0..count {
        let nonce = |of: Address| nonces.get(&of).copied().unwrap_or(0);
        let mut plan = plan(&mut rng, &nonce, &addresses, 5);
        if rng.random_bool(0.3) {
            // A plain payment.
            plan.to = Some(*addresses.choose(&mut rng).expect("an address"));
            plan.input = Default::default();
        }
        let skipped = rng.random_bool(0.03);
        if !skipped {
            *nonces.entry(plan.from).or_default() = plan.nonce + 1;
        }
        let mode = if rng.random_bool(0.05) { Mode::Debit } else { Mode::Transact };
        let unfenced = rng.random_bool(0.03);
        steps.push(Step { tx: plan.tx(), mode, skipped, unfenced, keys: None });
    }
    if rng.random_bool(0.3) {
        predict(&mut steps, &world);
    }
    let key = |rng: &mut StdRng| {
        let address = *addresses.choose(rng).expect("an address");
        match rng.random_range(0..3) {
            0 => StateKey::Basic(address),
            1 => StateKey::Code(address),
            _ => StateKey::Slot(address, 0, U256::from(rng.random_range(0..6u64))),
        }
    };
    let absent = if rng.random_bool(0.3) { vec![key(&mut rng), key(&mut rng)] } else { vec![] };
    let poison = rng.random_bool(0.2).then(|| key(&mut rng));
    let fees = *[Fees::After, Fees::WhenUsed, Fees::AtOnce].choose(&mut rng).expect("one");
    let mut passes = vec![0, count];
    if rng.random_bool(0.3) {
        passes.insert(1, rng.random_range(0..=count));
    }
    *counts.entry("transactions").or_default() += count;
    let base = Arc::new(Partial { state: world.state, absent, poison });
    Case { base, fees, steps, passes }
}

/// Key sets as a router has them: of runs on the state before, so that some are wrong.
fn predict(steps: &mut [Step], world: &World) {
    let mut evm = atoll_evm::Executor::new(&env());
    for step in steps {
        let run = evm.transact(&step.tx, &world.state, atoll_evm::OnMissing::Assume);
        step.keys = Some(run.used);
    }
}

fn count_kinds(seen: &[String], counts: &mut Counts) {
    for run in seen {
        let kinds = [
            ("executed", "outcome: Executed"),
            ("failed", "status: false"),
            ("missing", "outcome: Missing"),
            ("invalid", "outcome: Invalid"),
            ("panicked", "makes the executor panic"),
            ("created", "contract: Some"),
        ];
        for (kind, _) in kinds.iter().filter(|(_, text)| run.contains(text)) {
            *counts.entry(kind).or_default() += 1;
        }
    }
}

#[test]
fn random_blocks_are_as_if_run_one_after_another() {
    // Planted panics need not be told of.
    std::panic::set_hook(Box::new(|info| {
        let text = info.payload_as_str().unwrap_or_default();
        if !text.contains("a planted defect") {
            eprintln!("{info}");
        }
    }));
    let seed = seed();
    let lanes = lanes(seed);
    let mut counts = Counts::default();
    for round in 0..rounds(150) {
        let case = case(seed.wrapping_add(round), &mut counts);
        let (seen, changes) = sequential(&case);
        count_kinds(&seen, &mut counts);
        for (name, lanes) in &lanes {
            let (ours, changed) = parallel(&case, lanes);
            for (index, (ours, theirs)) in ours.iter().zip(&seen).enumerate() {
                let fees = case.fees;
                assert_eq!(ours, theirs, "{name}, {fees:?}, round {round}, attempt {index}");
            }
            assert_eq!((ours.len(), changed), (seen.len(), changes.clone()), "{name}");
        }
    }
    println!("{counts:?}");
    for kind in ["executed", "failed", "missing", "invalid", "panicked", "created"] {
        assert!(counts.contains_key(kind), "no {kind} among {counts:?}");
    }
}
