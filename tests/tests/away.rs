//! While a shard is away, groups that it takes part in are aborted, and come back. What comes out is
//! that of one machine.

use std::sync::atomic::{AtomicBool, Ordering};

use atoll_tests::{
    apart::Apart,
    check::{compare, program, run},
    here::Here,
    history::follow,
};
use atoll_types::{BeaconBlock, ShardId, Verdict};

/// The shard that goes away.
const AWAY: u16 = 1;
/// Transactions of each sender.
const ROUNDS: usize = 8;
/// Groups that commit while the world is set up.
const SET_UP: usize = 60;
/// Blocks after which the shard comes back if nothing is aborted: nothing may be planned on it.
const MOST_BLOCKS: usize = 500;

fn verdicts(blocks: &[BeaconBlock], abort: bool) -> usize {
    let decisions = blocks.iter().flat_map(|block| &block.decisions);
    decisions.filter(|decision| matches!(decision.verdict, Verdict::Abort(_)) == abort).count()
}

/// Stops the shard and starts it again, until `done`.
async fn disturb(here: &Here, apart: &mut Apart, done: &AtomicBool) -> anyhow::Result<()> {
    let mut blocks = vec![here.cluster.genesis.block.clone()];
    let mut commits = SET_UP;
    while !done.load(Ordering::Relaxed) {
        follow(here, &mut blocks).await?;
        // One that takes part in a group which has just begun.
        let newest = blocks.last().map_or(&[][..], |block| &block.plan);
        let begun = newest.iter().any(|group| group.owners.contains(&ShardId(AWAY)));
        if verdicts(&blocks, false) < commits || !begun {
            continue;
        }
        let (first, aborts) = (blocks.len(), verdicts(&blocks, true));
        apart.stop().await;
        while verdicts(&blocks, true) == aborts && blocks.len() < first + MOST_BLOCKS {
            follow(here, &mut blocks).await?;
        }
        apart.start().await?;
        commits = verdicts(&blocks, false) + 10;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_with_an_absent_shard_are_aborted_and_come_back() -> anyhow::Result<()> {
    let program = program(3, 9, ROUNDS)?.hasty();
    let (here, mut apart) = Here::start_with_apart(&program.shape(), AWAY).await?;
    let done = AtomicBool::new(false);
    let running = async {
        let txs = run(&program, &here).await;
        done.store(true, Ordering::Relaxed);
        txs
    };
    let (txs, ()) = tokio::try_join!(running, disturb(&here, &mut apart, &done))?;
    let (order, _) = compare(&program, &here, txs).await?;
    apart.stop().await;
    here.stop().await;
    assert!(order.aborts > 0, "nothing was aborted: {order:?}");
    Ok(())
}
