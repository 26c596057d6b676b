//! The parallel executor's core under schedules chosen at random, by shuttle: whatever the threads do
//! when, the lead's results are those of running one after another. And with its check of what a result
//! depends on left out, they are not.

mod sync {
    pub use shuttle::{
        hint::spin_loop,
        sync::{
            Mutex, MutexGuard,
            atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering},
        },
        thread::yield_now,
    };
    pub use std::sync::PoisonError;
}

#[path = "../src/parallel/ahead.rs"]
#[allow(dead_code)]
mod ahead;
#[path = "../src/parallel/board.rs"]
#[allow(dead_code)]
mod board;
#[path = "../src/parallel/memory.rs"]
#[allow(dead_code)]
mod memory;

use std::{collections::BTreeMap, sync::Arc};

use ahead::{Ahead, Dependencies, Kept, Loose, Tried};
use alloy_primitives::{Address, U256};
use atoll_types::{Basic, StateKey, StateValue, Write};
use memory::Trace;
use rand::{Rng, SeedableRng, rngs::StdRng};

/// Reads some slots, writes their sum and its own number to some, and pays somebody.
#[derive(Clone, Debug)]
struct Program {
    reads: Vec<StateKey>,
    writes: Vec<StateKey>,
    pays: Option<StateKey>,
}

#[derive(Debug)]
struct Output {
    writes: Vec<Write>,
    dependencies: Dependencies,
}

impl Tried for Output {
    fn dependencies(&self) -> &Dependencies {
        &self.dependencies
    }

    fn writes(&self) -> &[Write] {
        &self.writes
    }
}

type State = BTreeMap<StateKey, StateValue>;

fn slot(number: u64) -> StateKey {
    StateKey::Slot(Address::ZERO, 0, U256::from(number))
}

fn value(state: &State, key: &StateKey) -> StateValue {
    state.get(key).copied().unwrap_or_else(|| key.absent())
}

impl Program {
    fn random(rng: &mut StdRng) -> Self {
        let mut slots = |most: usize| -> Vec<StateKey> {
            let count = rng.random_range(0..=most);
            let mut slots: Vec<_> = (0..count).map(|_| slot(rng.random_range(0..3))).collect();
            slots.sort_unstable();
            slots.dedup();
            slots
        };
        let (reads, writes) = (slots(2), slots(2));
        let pays = rng.random_bool(0.5).then_some(StateKey::Basic(Address::ZERO));
        Self { reads, writes, pays }
    }

    fn run(&self, index: usize, mut read: impl FnMut(&StateKey) -> (StateValue, Trace)) -> Output {
        let mut dependencies = Dependencies::default();
        let mut sum = U256::from(index + 1);
        for key in &self.reads {
            let (value, trace) = read(key);
            sum = sum.wrapping_mul(U256::from(31)).wrapping_add(value.slot());
            dependencies.exact.push(trace);
        }
        let mut writes: Vec<Write> = Vec::new();
        if let Some(key) = self.pays {
            let (value, trace) = read(&key);
            dependencies.loose.push(Loose { trace, key, value: Some(value) });
            let Basic { nonce, balance } = value.basic();
            let balance = balance + U256::from(index + 1);
            writes.push((key, StateValue::Basic(Basic { nonce, balance })));
        }
        writes.extend(self.writes.iter().map(|key| (*key, StateValue::Slot(sum))));
        Output { writes, dependencies }
    }
}

/// What a block does, one after another. Those of `dropped` are run and not kept.
fn serial(programs: &[Program], dropped: usize) -> (Vec<Vec<Write>>, State) {
    let (mut results, mut state) = (Vec::new(), start());
    for (index, program) in programs.iter().enumerate() {
        let read = |key: &StateKey| (value(&state, key), Trace::default());
        let output = program.run(index, read);
        if index != dropped {
            state.extend(output.writes.iter().copied());
        }
        results.push(output.writes);
    }
    (results, state)
}

fn start() -> State {
    let rich = Basic { nonce: 1, balance: U256::from(7) };
    State::from([(StateKey::Basic(Address::ZERO), StateValue::Basic(rich))])
}

/// The same with help, as `Parallel` leads it. `check`: whether results are looked at before they are
/// taken.
fn led(
    programs: &Arc<Vec<Program>>,
    dropped: usize,
    helpers: usize,
    check: bool,
) -> (Vec<Vec<Write>>, State) {
    let after = vec![None; programs.len()];
    let ahead = Arc::new(Ahead::<Output>::new(after, helpers % 2 * 2, 1));
    let run = |ahead: &Ahead<Output>, programs: &[Program], index: usize| {
        let base = start();
        let output = programs[index].run(index, |key| {
            let (known, trace) = ahead.memory.before(key, index);
            (known.unwrap_or_else(|| value(&base, key)), trace)
        });
        ahead.put(index, output);
    };
    let threads: Vec<_> = (0..helpers)
        .map(|_| {
            let (ahead, programs) = (ahead.clone(), programs.clone());
            shuttle::thread::spawn(move || {
                let patient = |looks| {
                    shuttle::thread::yield_now();
                    looks < 20
                };
                ahead.board.help(|index| run(&ahead, &programs, index), patient);
            })
        })
        .collect();
    let (mut kept, mut state, mut results) = (Kept::default(), start(), Vec::new());
    for (index, program) in programs.iter().enumerate() {
        ahead.board.advance(index);
        let mut patience = 3;
        let patient = || {
            patience -= 1;
            patience > 0
        };
        let nothing = Kept::default();
        let now = |key: &StateKey| Some(value(&state, key));
        let trust = if check { &kept } else { &nothing };
        let found =
            ahead.settle(index, (trust, now), |other| run(&ahead, programs, other), patient);
        let (writes, guessed) = match found {
            Some(Ok((mut output, moved))) => {
                for (key, value) in &moved {
                    for write in output.writes.iter_mut().filter(|write| write.0 == *key) {
                        write.1 = *value;
                    }
                }
                (output.writes, Some(moved))
            }
            _ => (program.run(index, |key| (value(&state, key), Trace::default())).writes, None),
        };
        if index != dropped {
            state.extend(writes.iter().copied());
            match guessed {
                Some(moved) => {
                    ahead.keep_result(&mut kept, index, &writes);
                    ahead.keep(&mut kept, index, &moved);
                }
                None => ahead.keep(&mut kept, index, &writes),
            }
        }
        results.push(writes);
    }
    ahead.board.close();
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    (results, state)
}

fn seed() -> u64 {
    let given = std::env::var("ATOLL_SEED").ok();
    #[allow(clippy::disallowed_methods, reason = "the seed is drawn here")]
    let seed = given.map_or_else(rand::random, |text| text.parse().expect("a number"));
    println!("ATOLL_SEED={seed}");
    seed
}

/// Tries many schedules of many blocks.
fn explore(blocks: u64, check: bool) {
    let seed = seed();
    for block in 0..blocks {
        let mut rng = StdRng::seed_from_u64(seed.wrapping_add(block));
        let count = rng.random_range(2..7);
        let programs: Arc<Vec<_>> =
            Arc::new((0..count).map(|_| Program::random(&mut rng)).collect());
        // Often one that is not kept.
        let (dropped, helpers) = (rng.random_range(0..2 * count), rng.random_range(1..4));
        let expected = serial(&programs, dropped);
        shuttle::check_random(
            move || assert_eq!(led(&programs, dropped, helpers, check), expected),
            60,
        );
    }
}

#[test]
fn any_schedule_gives_the_serial_result() {
    explore(40, true);
}

#[test]
fn a_check_that_is_left_out_is_found() {
    let explored = std::panic::catch_unwind(|| explore(40, false));
    assert!(
        explored.is_err(),
        "results that depend on other values were taken, and nobody noticed"
    );
}
