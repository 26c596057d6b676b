//! `atoll load`: puts load on a running cluster through its public API and measures what it does.
//!
//! - **Open loop.** With `--rate N` every transaction has an instant at which it is due, fixed before
//!   the run; latency counts from there, however late it could be sent. With `--rate max` a
//!   transaction is due when there is room in the window of unfinished ones, so throughput is what
//!   to look at.
//! - **Signed before.** Transactions are signed before the clock starts, up to `--presign`.
//! - **Nothing hidden.** Each transaction that was due is counted once: final and succeeded, or under
//!   its reason in `failures`: `reverted`, `dropped`, `unresolved` (taken, not final when the drain
//!   ended), `unanswered` (sent, no answer), `refused_…` (for good), `skipped` (an earlier nonce of its
//!   account can never run), `unsent` (due, but the window or the signing held it back to the end).
//!   Refusals and retries are counted besides.
//! - **Two ways in.** `--via rpc` sends the same over JSON-RPC to any Ethereum node. It is told of an
//!   end by its block, so executed is final there, and what only Atoll tells is left out.
//! - **Refusals.** What may pass (a full pool, a shard that does not answer) is tried again after a
//!   pause, and later nonces of the account wait for it: their latency keeps counting. Anything else
//!   retires the account.

mod args;
mod contracts;
mod counted;
mod drive;
mod flight;
mod report;
mod rpc;
mod schedule;
mod setup;
mod sign;
mod stats;
mod streams;
#[cfg(test)]
mod tests;
mod wire;
mod workload;

use std::{
    future::Future,
    hash::{BuildHasher, Hasher, RandomState},
};

use alloy_primitives::TxKind;
use anyhow::Context;
use tokio::sync::watch;

pub use args::{DEV_MNEMONIC, LoadArgs, Rate, Via, Workload, duration};
pub use counted::{Costs, ExecutorCpu, PerTransaction};
pub use report::{ClusterInfo, Config, Generator, Latencies, Latency, PerStage, Summary};
pub use setup::payee;

use drive::{Plan, drive};
use schedule::Schedule;
use setup::Ready;
use sign::{Planned, Signing};
use wire::Cluster;
use workload::Actors;

/// Prepares, sends, waits for what is outstanding and sums up. When `cancel` is ready, the setup
/// fails; sending ends early and what was measured so far is summed up.
pub async fn run(args: LoadArgs, cancel: impl Future) -> anyhow::Result<Summary> {
    run_measured(args, cancel, async || Ok(())).await
}

/// The same, and lets `begin` end after everything is prepared and before the first transaction is
/// sent: what has been used until then is no cost of the load.
pub async fn run_measured(
    args: LoadArgs,
    cancel: impl Future,
    begin: impl AsyncFnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<Summary> {
    args.check()?;
    let (stop, mut stopped) = watch::channel(false);
    let work = work(args, &mut stopped, begin);
    tokio::pin!(work, cancel);
    tokio::select! {
        result = &mut work => return result,
        _ = cancel => stop.send_replace(true),
    };
    work.await
}

async fn work(
    args: LoadArgs,
    stop: &mut watch::Receiver<bool>,
    begin: impl AsyncFnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<Summary> {
    let seed = args.seed.unwrap_or_else(new_seed);
    let cluster = Cluster::connect(&args).await?;
    args.progress(&format!(
        "{}: chain {}, {} shards, version {}; seed {seed}",
        args.target, cluster.chain.chain_id, cluster.chain.shards, cluster.chain.version
    ));
    if args.cross > 0.0 && cluster.chain.shards == 1 {
        args.progress("there is one shard: nothing can cross");
    }
    let ready = setup::prepare(&cluster, &args, seed, stop).await?;
    let senders = ready.world.addresses().to_vec();
    let signing = presign(&args, seed, ready).await?;
    let plan = Plan {
        schedule: Schedule {
            rate: args.rate,
            warmup: args.warmup,
            duration: Some(args.duration),
            planned: args.planned(),
        },
        window: args.window(),
        per_account: u32::MAX,
        drain: args.drain,
        name: "load",
        fail_fast: false,
        quiet: args.quiet,
    };
    begin().await?;
    let outcome =
        drive(&cluster, &senders, signing.ready, plan, stop).await.context("the run broke off")?;
    Ok(Summary::new(args, seed, &cluster, outcome))
}

/// A number that nobody has used: the standard library's hash keys are random.
fn new_seed() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Signs the run's transactions, or as many of them as may wait.
async fn presign(args: &LoadArgs, seed: u64, ready: Ready) -> anyhow::Result<Signing> {
    let Ready { world, payees, keys, mut nonces, contracts, fees } = ready;
    let (mut calls, mut rng) = workload::calls(
        args.workload,
        Actors {
            senders: &world,
            payees: payees.as_ref().unwrap_or(&world),
            contracts: &contracts,
        },
        args.cross,
        args.zipf,
        seed,
    )?;
    let planned = args.planned().unwrap_or(u64::MAX);
    let plan = (0..planned).map(move |_| {
        let call = calls.next(&mut rng);
        let nonce = &mut nonces[call.sender as usize];
        *nonce += 1;
        Planned {
            sender: call.sender,
            nonce: *nonce - 1,
            to: TxKind::Call(call.to),
            value: call.value,
            input: call.input,
            gas_limit: call.gas_limit,
        }
    });
    let mut signing = Signing::start(plan, keys, fees, args.presign);
    let mut shown = 0;
    let show = |signed| {
        if signed >= shown + 50_000 {
            shown = signed;
            args.progress(&format!("signed {signed} transactions"));
        }
    };
    signing.ahead(planned, show).await;
    Ok(signing)
}
