//! Whatever the number of shards: receipts, logs, gas and final state are those of one machine that
//! runs the serial order of the protocol page with plain revm.
//!
//! `ATOLL_SEED` gives another program, `ATOLL_ROUNDS` the number of transactions of each sender.

use atoll_tests::{
    check::{compare, program, run},
    compare::differences,
    here::Here,
    history::History,
    order::{self, Arrival, Place, Step, serial_order},
    program::Program,
    replay::{self, Replay},
};
use atoll_wire::v1::{TransactionFinality as Finality, TransactionKind};

/// Transactions of each sender.
const ROUNDS: usize = 6;

/// On a cluster of its own.
async fn check(program: Program) -> anyhow::Result<(order::Counts, replay::Counts)> {
    let here = Here::start(&program.shape()).await?;
    let txs = run(&program, &here).await?;
    let counts = compare(&program, &here, txs).await?;
    here.stop().await;
    Ok(counts)
}

/// With a beacon at its usual pace, and with a hasty one.
async fn check_twice(shards: u16) -> anyhow::Result<()> {
    for (program, name) in [
        (program(shards, u64::from(shards), ROUNDS)?, "usual"),
        (program(shards, 100 + u64::from(shards), ROUNDS)?.hasty(), "hasty"),
    ] {
        let (order, replay) = check(program).await?;
        // What the test is about has to have happened.
        let crossed = order.groups > 0 && order.credits > 0 && order.late > 0;
        assert_eq!(crossed, shards > 1, "{name}: {order:?} {replay:?}");
        assert!(order.local > 0 && replay.failed > 0 && replay.created > 20, "{name}: {replay:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_shard() -> anyhow::Result<()> {
    check_twice(1).await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_shards() -> anyhow::Result<()> {
    check_twice(2).await
}

#[tokio::test(flavor = "multi_thread")]
async fn four_shards() -> anyhow::Result<()> {
    check_twice(4).await
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_shards() -> anyhow::Result<()> {
    check_twice(8).await
}

/// An oracle that cannot fail says nothing.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_changed_is_found() -> anyhow::Result<()> {
    let program = program(3, 7, ROUNDS)?;
    let here = Here::start(&program.shape()).await?;
    let history = History::of(&here, program.run(&here).await?).await?;
    let (steps, _) = serial_order(&history)?;
    let found = async |history: &History, steps: &[Step]| {
        let replay = Replay::run(history, steps);
        let state = differences(&here.api, history, &replay).await?;
        anyhow::Ok((replay.differences, state))
    };
    assert_eq!(found(&history, &steps).await?, Default::default(), "seed {}", program.seed);

    // A receipt says something else. What was dropped has none.
    let ended = history.txs.iter().filter(|(_, tx)| tx.receipt.finality() == Finality::Final);
    for (hash, tx) in ended.take(20) {
        let mut changed = history.clone();
        let receipt = &mut changed.txs.get_mut(hash).expect("it is one of them").receipt;
        match (receipt.logs.first_mut(), receipt.gas_used % 3) {
            (Some(log), 0) => log.data = log.data.iter().map(|byte| !byte).collect(),
            (Some(_), _) => receipt.logs.clear(),
            (None, 0) => receipt.gas_used += 1,
            (None, _) => receipt.status = !receipt.status,
        }
        let (receipts, _) = found(&changed, &steps).await?;
        assert!(!receipts.is_empty(), "another receipt of {hash} is not noticed: {tx:?}");
    }

    // A deposit is lost.
    let payments = steps
        .iter()
        .enumerate()
        .filter(|(_, step)| matches!(step, Step::Deposit { credit, .. } if credit.tx().is_some()));
    let payment = payments.map(|(at, _)| at).next().expect("somebody was paid");
    let mut without = steps.clone();
    without.remove(payment);
    let (receipts, state) = found(&history, &without).await?;
    assert!(!receipts.is_empty() && !state.is_empty(), "a lost deposit is not noticed");

    // Fees are lost.
    let fees = |step: &Step| match step {
        Step::Deposit { credit: credit @ Arrival::Sent(_), .. } => credit.tx().is_none(),
        _ => false,
    };
    let mut without = steps.clone();
    let at = without.iter().rposition(fees).expect("there were fees");
    without.remove(at);
    let (receipts, state) = found(&history, &without).await?;
    assert!(!state.is_empty() && !receipts.is_empty(), "lost fees are not noticed");

    // A transaction of a group took no effect, or took it first of all.
    let group = |step: &Step| match step {
        Step::Run { tx, place: Place::Group { .. }, .. } => history.txs[tx].receipt.status,
        _ => false,
    };
    let at = steps.iter().rposition(group).expect("there were groups");
    let mut changed = steps.clone();
    let step = changed.remove(at);
    let (_, state) = found(&history, &changed).await?;
    assert!(!state.is_empty(), "a lost transaction is not noticed");
    changed.insert(0, step);
    let (receipts, _) = found(&history, &changed).await?;
    assert!(!receipts.is_empty(), "another order is not noticed");

    // A receipt says that the transaction ran elsewhere.
    let mut changed = history.clone();
    let local = |tx: &&mut atoll_tests::history::Ended| tx.receipt.kind() == TransactionKind::Local;
    let tx = changed.txs.values_mut().find(local).expect("there were local ones");
    tx.receipt.index += 1;
    assert!(serial_order(&changed).is_err(), "another place is not noticed");

    here.stop().await;
    Ok(())
}
