//! One load on a fresh cluster, and what it cost.
//!
//! Counters and processor time are read before the load begins and after its last transaction is
//! final, so setup is left out and nothing under way is missed.

use std::{collections::BTreeMap, future::pending, time::Duration};

use alloy_consensus::crypto::secp256k1::recover_signer;
use alloy_primitives::keccak256;
use alloy_signer::SignerSync as _;
use anyhow::{Context as _, anyhow, bail, ensure};
use atoll_load::{DEV_MNEMONIC, LoadArgs, Rate, Summary, Via};
use atoll_wire::v1::{
    GetStatsResponse,
    get_stats_response::{Shard, Traffic, Work},
};

use super::{
    BenchArgs,
    cluster::{Cluster, Used},
    loads::{FEW_ACCOUNTS, Pace, Payees, Plan, Turn},
};
use crate::genesis::development_keys;

/// Most transactions signed ahead, about 0.5 kB each.
const MOST_SIGNED: f64 = 1_000_000.0;
/// A rate that no load at full pace reaches: as many are signed ahead.
const FULL_RATE: f64 = 40_000.0;
/// Signatures recovered at a time, and how often: the median counts.
const RECOVERIES: u32 = 32;
const RECOVERY_ROUNDS: usize = 25;

/// What one load gave. Times are processor time for each transaction that succeeded.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    pub tps: f64,
    pub executed_tps: f64,
    /// Of the cluster's process.
    pub cpu_us: f64,
    /// Of threads that run local blocks and groups; the same for predictions.
    pub run_us: f64,
    pub predict_us: f64,
    /// Of the beacon, for each transaction that it ordered, bytes likewise; no number if there was none.
    pub beacon_us: f64,
    pub beacon_bytes: f64,
    /// Between shards, for each transaction that crossed; no number if none did.
    pub shard_messages: f64,
    pub shard_bytes: f64,
    /// Transactions in a group.
    pub group: f64,
    pub wrong: f64,
    pub aborts: f64,
    /// In milliseconds; no number if there was none of the kind.
    pub executed_p50: f64,
    pub final_p50: f64,
    pub final_p99: f64,
    pub cross_p50: f64,
    pub cross_p99: f64,
    /// Transactions that were due, that were refused (each time that one was), and that did not
    /// succeed.
    pub offered: f64,
    pub refused: f64,
    pub failed: f64,
    pub reasons: BTreeMap<String, u64>,
    /// Of one signature, before and after the load.
    pub recovery_us: f64,
    /// Bytes of memory after the load, and the most ever.
    pub resident: f64,
    pub peak: f64,
    /// Accounts of the genesis.
    pub payees: f64,
}

/// Sums of what services have counted that matter here.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Counts {
    run_ns: f64,
    predict_ns: f64,
    beacon_ns: f64,
    ordered: f64,
    into_beacon_bytes: f64,
    shard_messages: f64,
    shard_bytes: f64,
    grouped: f64,
    groups: f64,
    wrong: f64,
    aborts: f64,
}

/// Runs a load of this turn, whose pace may follow from an earlier one.
pub async fn measure(args: &BenchArgs, plan: &Plan, turn: &Turn) -> anyhow::Result<Measured> {
    let rate = match plan.pace {
        Pace::Full => Rate::Max,
        Pace::Of(other, times) => {
            let other = turn.of(other).context("the load that gives the pace was not measured")?;
            Rate::PerSecond((other.tps * times).max(1.0))
        }
    };
    let payees = match plan.payees {
        Payees::None => 0,
        Payees::Few => FEW_ACCOUNTS,
        Payees::Many => args.state_accounts,
    };
    let before = recovery().await?;
    let mut cluster = Cluster::start(plan.shards.unwrap_or(args.shards), payees).await?;
    let load = load_args(args, plan, rate, payees, cluster.url());
    let result = tokio::select! {
        result = load_on(&cluster, load) => result,
        () = cluster.gone() => Err(anyhow!("no cluster any more")),
    };
    let mut measured = match result {
        Ok(measured) => measured,
        Err(error) => bail!("{error:#}; {}", cluster.last_words()),
    };
    drop(cluster);
    measured.recovery_us = (before + recovery().await?) / 2.0;
    measured.payees = f64::from(payees);
    Ok(measured)
}

/// What the generator is told.
fn load_args(args: &BenchArgs, plan: &Plan, rate: Rate, payees: u32, target: &str) -> LoadArgs {
    let seconds = args.duration.as_secs_f64();
    let signed = (rate.per_second().unwrap_or(FULL_RATE) * seconds).clamp(1.0, MOST_SIGNED) as u32;
    LoadArgs {
        tls_authority: None,
        target: target.to_owned(),
        via: Via::Grpc,
        batch: 1_000,
        workload: plan.workload,
        accounts: args.accounts,
        payees: (payees > 0).then_some(payees),
        cross: plan.cross,
        zipf: 0.0,
        rate,
        duration: args.duration,
        warmup: Duration::ZERO,
        // What an overload leaves behind is not waited for any longer than anything else.
        drain: args.duration.max(Duration::from_secs(30)),
        setup_timeout: Duration::from_secs(600),
        streams: 8,
        // At a given rate, everything that is due is sent, or held back by its account's refusals.
        window: rate.per_second().map(|_| u32::MAX),
        presign: signed,
        hops: 3,
        seed: Some(1),
        mnemonic: DEV_MNEMONIC.to_owned(),
        json: false,
        quiet: true,
    }
}

async fn load_on(cluster: &Cluster, load: LoadArgs) -> anyhow::Result<Measured> {
    let mut begin = None;
    let summary = atoll_load::run_measured(load, pending::<()>(), async || {
        begin = Some((Counts::of(&cluster.stats().await?), cluster.used()?));
        Ok(())
    })
    .await?;
    let (counts, used) = begin.context("the load never began")?;
    let after = (Counts::of(&cluster.stats().await?), cluster.used()?);
    ensure!(
        summary.finals > 0,
        "no transaction succeeded: {}",
        summary.first_failure.as_deref().unwrap_or("none was sent")
    );
    Ok(Measured::new(&summary, &after.0.since(&counts), &used, &after.1))
}

impl Measured {
    fn new(summary: &Summary, spent: &Counts, before: &Used, after: &Used) -> Self {
        let finals = summary.finals as f64;
        // For each of none: no number, and shown as none.
        let each = |count: f64, of: f64| if of > 0.0 { count / of } else { f64::NAN };
        let crossed = (finals * summary.cross_share.unwrap_or(0.0)).round();
        let latency = &summary.latency_ms;
        let any = |ms: f64| if ms > 0.0 { ms } else { f64::NAN };
        Self {
            tps: summary.tps.finals,
            executed_tps: summary.tps.executed,
            cpu_us: (after.cpu_seconds - before.cpu_seconds) / finals * 1e6,
            run_us: spent.run_ns / finals / 1e3,
            predict_us: spent.predict_ns / finals / 1e3,
            beacon_us: each(spent.beacon_ns, spent.ordered) / 1e3,
            beacon_bytes: each(spent.into_beacon_bytes, spent.ordered),
            shard_messages: each(spent.shard_messages, crossed),
            shard_bytes: each(spent.shard_bytes, crossed),
            group: spent.grouped / spent.groups.max(1.0),
            wrong: spent.wrong,
            aborts: spent.aborts,
            executed_p50: any(latency.local_executed.map_or(0.0, |l| l.p50)),
            final_p50: any(latency.finals.p50),
            final_p99: any(latency.finals.p99),
            cross_p50: any(latency.cross_final.map_or(0.0, |l| l.p50)),
            cross_p99: any(latency.cross_final.map_or(0.0, |l| l.p99)),
            offered: summary.offered as f64,
            refused: summary.refusals.values().sum::<u64>() as f64,
            failed: summary.failures.values().sum::<u64>() as f64,
            reasons: summary.failures.clone(),
            resident: after.resident,
            peak: after.peak,
            ..Self::default()
        }
    }
}

impl Counts {
    fn of(reply: &GetStatsResponse) -> Self {
        let mut sum = Self::default();
        if let Some(beacon) = &reply.beacon {
            sum.beacon_ns = beacon.cpu_ns as f64;
            sum.ordered = beacon.transactions as f64;
            sum.aborts = beacon.aborts as f64;
        }
        for shard in &reply.shards {
            sum.add(shard);
        }
        sum
    }

    fn add(&mut self, shard: &Shard) {
        let cpu = |work: Option<Work>| work.unwrap_or_default().cpu_ns as f64;
        let traffic = |traffic: Option<Traffic>| traffic.unwrap_or_default();
        let groups = shard.groups.unwrap_or_default();
        self.run_ns += cpu(shard.local) + cpu(shard.groups);
        self.predict_ns += cpu(shard.predictions);
        self.grouped += groups.transactions as f64;
        self.groups += groups.batches as f64;
        self.wrong += shard.wrong as f64;
        for sent in [traffic(shard.deliver), traffic(shard.fetch)] {
            self.shard_messages += (sent.requests + sent.replies) as f64;
            self.shard_bytes += (sent.request_bytes + sent.reply_bytes) as f64;
        }
        for sent in [traffic(shard.announce), traffic(shard.blocks)] {
            self.into_beacon_bytes += sent.request_bytes as f64;
        }
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            run_ns: self.run_ns - before.run_ns,
            predict_ns: self.predict_ns - before.predict_ns,
            beacon_ns: self.beacon_ns - before.beacon_ns,
            ordered: self.ordered - before.ordered,
            into_beacon_bytes: self.into_beacon_bytes - before.into_beacon_bytes,
            shard_messages: self.shard_messages - before.shard_messages,
            shard_bytes: self.shard_bytes - before.shard_bytes,
            grouped: self.grouped - before.grouped,
            groups: self.groups - before.groups,
            wrong: self.wrong - before.wrong,
            aborts: self.aborts - before.aborts,
        }
    }
}

/// Processor time of one recovery, in µs, on one thread: what the gateway does with the hash of a
/// decoded transaction.
async fn recovery() -> anyhow::Result<f64> {
    tokio::task::spawn_blocking(recovery_here).await?
}

fn recovery_here() -> anyhow::Result<f64> {
    let keys = development_keys()?;
    let key = keys.first().context("there are no development keys")?;
    let mut signed = Vec::new();
    for number in 0..RECOVERIES {
        let hash = keccak256(number.to_le_bytes());
        signed.push((key.sign_hash_sync(&hash)?, hash));
    }
    let mut rounds = Vec::new();
    for _ in 0..RECOVERY_ROUNDS {
        let before = atoll_meter::thread_cpu_ns();
        for (signature, hash) in &signed {
            ensure!(recover_signer(signature, *hash)? == key.address(), "a wrong signer");
        }
        rounds.push((atoll_meter::thread_cpu_ns() - before) as f64);
    }
    let spread = super::report::Spread::of(rounds).context("nothing was measured")?;
    Ok(spread.median / f64::from(RECOVERIES) / 1e3)
}

#[cfg(test)]
mod tests {
    use atoll_wire::v1::get_stats_response::Beacon;

    use super::*;

    #[test]
    fn counts_are_summed_over_the_shards_and_subtracted() {
        let reply = |times: u64| {
            let traffic = |n: u64| {
                let n = n * times;
                Some(Traffic { requests: n, request_bytes: 10 * n, replies: n, reply_bytes: n })
            };
            let work = |n: u64| {
                Some(Work { batches: times, transactions: n * times, cpu_ns: 1_000 * n * times })
            };
            let shard = Shard {
                deliver: traffic(2),
                fetch: traffic(1),
                announce: traffic(5),
                blocks: traffic(1),
                local: work(7),
                groups: work(2),
                predictions: work(1),
                wrong: times,
                ..Shard::default()
            };
            let beacon = Beacon {
                cpu_ns: 8 * times,
                transactions: 3 * times,
                aborts: times,
                ..Beacon::default()
            };
            GetStatsResponse { shards: vec![shard.clone(), shard], beacon: Some(beacon) }
        };
        let spent = Counts::of(&reply(3)).since(&Counts::of(&reply(2)));
        let expected = Counts {
            run_ns: 18_000.0,
            predict_ns: 2_000.0,
            beacon_ns: 8.0,
            ordered: 3.0,
            into_beacon_bytes: 120.0,
            shard_messages: 12.0,
            shard_bytes: 66.0,
            grouped: 4.0,
            groups: 2.0,
            wrong: 2.0,
            aborts: 1.0,
        };
        assert_eq!(spent, expected);
    }
}
