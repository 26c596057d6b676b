//! Blocks run one transaction after another and with the help of other threads:
//! `cargo bench -p atoll-evm --bench blocks`. `ATOLL_THREADS` sets how many threads there are, 2 by
//! default.
#![allow(clippy::disallowed_methods, reason = "a measurement reads the clock")]

mod paired;
mod world;

use std::{sync::Arc, time::Duration, time::Instant};

use atoll_evm::{
    BlockExecutor, Changes, Clock, Crew, Empty, Fees, Hint, Mode, Outcome, Overlay, Parallel,
    Parallelism, Sequential,
};
use atoll_types::Tx;
use criterion::{Criterion, criterion_group, criterion_main};
use paired::Paired;
use world::{World, env};

/// As the binary has it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

type State = Overlay<'static, Empty>;

fn clock() -> Clock {
    let start = Instant::now();
    Arc::new(move || start.elapsed().as_nanos() as u64)
}

fn run<B: BlockExecutor>(mut block: B, txs: &[Tx]) -> Changes {
    let hint = |tx| Hint { tx, mode: Mode::Transact, keys: None };
    block.prepare(&txs.iter().map(hint).collect::<Vec<_>>());
    for tx in txs {
        let run = block.attempt(tx, Mode::Transact);
        let Outcome::Executed(effects) = &run.outcome else { panic!("{run:?}") };
        assert!(effects.executed.status, "{run:?}");
        block.keep(effects);
    }
    block.finish()
}

fn measure(bench: &mut Criterion, name: &str, (world, txs): (World, Vec<Tx>)) {
    let threads = std::env::var("ATOLL_THREADS").map_or(2, |text| text.parse().expect("a number"));
    let start = |work| std::thread::Builder::new().spawn(work).map(drop);
    let crew = Arc::new(Crew::new(threads - 1, start).expect("threads"));
    let lanes = Parallelism::new(crew, clock());
    let base: Arc<State> = Arc::new(world.state);
    let (env, rules) = (env(), Default::default());
    let alone = || run(Sequential::new(&env, rules, Fees::WhenUsed, &*base), &txs);
    let aided = || run(Parallel::new(&env, rules, Fees::WhenUsed, &base, &lanes), &txs);
    assert_eq!(alone(), aided());
    let mut paired = Paired::default();
    bench.bench_function(name, |bench| {
        bench.iter_custom(|count| {
            let turn = |_| paired.turn(&mut || drop(alone()), &mut || drop(aided()));
            (0..count).map(turn).sum()
        });
    });
    paired.tell(name, txs.len());
}

fn blocks(bench: &mut Criterion) {
    measure(bench, "payments", World::payments(1_000));
    measure(bench, "token transfers", World::token_transfers(1_000));
    measure(bench, "token transfers, 50 a block", World::token_transfers(50));
    measure(bench, "swaps on as many pairs", World::swaps(300, 300));
    measure(bench, "swaps on 8 pairs", World::swaps(300, 8));
    measure(bench, "swaps on one pair", World::swaps(300, 1));
    measure(bench, "one swap", World::swaps(1, 1));
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(5));
    targets = blocks
}
criterion_main!(benches);
