//! What a run gives: one object, as JSON or as a table.

use std::{collections::BTreeMap, fmt};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::{
    args::{LoadArgs, Via},
    counted::Costs,
    drive::Outcome,
    wire::Cluster,
};

/// The outcome of a run. Counts and latencies are those of transactions that were due within the
/// measured time.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    pub workload: crate::args::Workload,
    /// Transactions a second that were taken, executed and final within the measured time; the last
    /// two count those that succeeded.
    pub tps: PerStage<f64>,
    /// From when a transaction was due, not from when it was sent. Payments to another shard have a
    /// status only when they are final: that counts as executed too.
    pub latency_ms: Latencies,
    /// Share of the final transactions that touched more than one shard; `None` over JSON-RPC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cross_share: Option<f64>,
    /// Transactions by why they did not become final and succeed.
    pub failures: BTreeMap<String, u64>,
    /// Transactions that were due.
    pub offered: u64,
    /// Transactions that the cluster took.
    pub submitted: u64,
    /// Transactions that became final and succeeded.
    #[serde(rename = "final")]
    pub finals: u64,
    /// Attempts after a first one was refused or not answered.
    pub retries: u64,
    /// Refusals by reason, those that a retry made good included.
    pub refusals: BTreeMap<&'static str, u64>,
    /// The first failure in words.
    pub first_failure: Option<String>,
    /// `None` if the cluster does not say what it has counted, and over JSON-RPC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub costs: Option<Costs>,
    pub generator: Generator,
    pub cluster: ClusterInfo,
    pub config: Config,
}

/// One value for each stage of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PerStage<T> {
    pub submitted: T,
    pub executed: T,
    #[serde(rename = "final")]
    pub finals: T,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Latencies {
    pub executed: Latency,
    #[serde(rename = "final")]
    pub finals: Latency,
    /// Executed, of the transactions that touched one shard; `None` over JSON-RPC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_executed: Option<Latency>,
    /// Final, of those that touched more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cross_final: Option<Latency>,
}

/// Percentiles in milliseconds; all zero if there was nothing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Latency {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

/// How well the load generator itself did.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Generator {
    /// Cores that its process used during the measured time.
    pub cpu_cores: f64,
    /// From when transactions were due to when they were sent: large values mean that the generator,
    /// or its window, held the load back.
    pub lag_ms: Latency,
    /// Times that the stream of receipts missed some.
    pub receipts_missed: u64,
    /// Receipts that were asked for one by one in consequence; their latency is too high.
    pub receipts_asked: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct ClusterInfo {
    pub chain_id: u64,
    pub shards: u16,
    pub version: String,
}

#[derive(Clone, Debug, Serialize)]
pub struct Config {
    #[serde(flatten)]
    pub args: LoadArgs,
    /// The one given, or the one chosen.
    pub seed: u64,
    /// The one given, or the default.
    pub window: usize,
    /// Length of the measured time; shorter than asked for if the run was interrupted.
    pub measured_seconds: f64,
}

impl Latency {
    fn of(us: &Histogram<u64>) -> Self {
        if us.is_empty() {
            return Self { p50: 0.0, p90: 0.0, p99: 0.0, p999: 0.0, max: 0.0 };
        }
        let at = |quantile| us.value_at_quantile(quantile) as f64 / 1_000.0;
        Self {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: us.max() as f64 / 1_000.0,
        }
    }
}

impl Summary {
    pub(crate) fn new(args: LoadArgs, seed: u64, cluster: &Cluster, outcome: Outcome) -> Self {
        let Outcome { stats, cpu_cores, missed, counted } = outcome;
        let seconds = stats.seconds();
        let rate = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        let failed = |reason: &str| stats.failures.get(reason).copied().unwrap_or(0);
        let finals = stats.finals + failed("reverted");
        let tells_shards = args.via == Via::Grpc;
        Self {
            workload: args.workload,
            tps: PerStage {
                submitted: rate(stats.arrived.submitted),
                executed: rate(stats.arrived.executed),
                finals: rate(stats.arrived.finals),
            },
            latency_ms: Latencies {
                executed: Latency::of(&stats.executed_us),
                finals: Latency::of(&stats.final_us),
                local_executed: tells_shards.then(|| Latency::of(&stats.local_executed_us)),
                cross_final: tells_shards.then(|| Latency::of(&stats.cross_final_us)),
            },
            cross_share: tells_shards.then(|| stats.crossed as f64 / finals.max(1) as f64),
            costs: counted.map(|counted| Costs::new(&counted, &stats.arrived)),
            generator: Generator {
                cpu_cores,
                lag_ms: Latency::of(&stats.lag_us),
                receipts_missed: missed,
                receipts_asked: stats.asked,
            },
            cluster: ClusterInfo {
                chain_id: cluster.chain.chain_id,
                shards: cluster.chain.shards,
                version: cluster.chain.version.clone(),
            },
            config: Config { seed, window: args.window(), measured_seconds: seconds, args },
            offered: stats.offered,
            submitted: stats.submitted,
            finals: stats.finals,
            retries: stats.retries,
            first_failure: stats.first_failure,
            refusals: stats.refusals,
            failures: stats.failures,
        }
    }

    /// One line of JSON.
    pub fn json(&self) -> anyhow::Result<String> {
        Ok(serde_json::to_string(self)?)
    }

    /// Prints to standard output what `--json` asks for.
    pub fn print(&self) -> anyhow::Result<()> {
        if self.config.args.json {
            println!("{}", self.json()?);
        } else {
            print!("{self}");
        }
        Ok(())
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let args = &self.config.args;
        let (cluster, generator) = (&self.cluster, &self.generator);
        writeln!(
            f,
            "{:?}: {} accounts, {} % cross, zipf {}, rate {}, {:.1} s; {} shards, chain {}, version {}",
            self.workload,
            args.accounts,
            args.cross,
            args.zipf,
            args.rate,
            self.config.measured_seconds,
            cluster.shards,
            cluster.chain_id,
            cluster.version,
        )?;
        writeln!(
            f,
            "                {:>10} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}",
            "count", "tx/s", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms"
        )?;
        writeln!(f, "submitted       {:>10} {:>10.1}", self.submitted, self.tps.submitted)?;
        let row = |f: &mut fmt::Formatter<'_>, name, count: String, tps, l: &Latency| {
            writeln!(
                f,
                "{name:<15} {count:>10} {tps:>10} {:>10.2} {:>10.2} {:>10.2} {:>10.2} {:>10.2}",
                l.p50, l.p90, l.p99, l.p999, l.max
            )
        };
        let (latency, tps) = (&self.latency_ms, &self.tps);
        let rate = |tps: f64| format!("{tps:.1}");
        row(f, "executed", String::new(), rate(tps.executed), &latency.executed)?;
        row(f, "final", self.finals.to_string(), rate(tps.finals), &latency.finals)?;
        if let Some(latency) = &latency.local_executed {
            row(f, "local, executed", String::new(), String::new(), latency)?;
        }
        if let Some(latency) = &latency.cross_final {
            row(f, "cross, final", String::new(), String::new(), latency)?;
        }
        if let Some(share) = self.cross_share {
            writeln!(f, "crossed         {:>9.2}%", 100.0 * share)?;
        }
        if let Some(costs) = &self.costs {
            write!(f, "{costs}")?;
        }
        writeln!(
            f,
            "generator {:.2} cores, sent late by p99 {:.2} ms, max {:.2} ms; receipts missed {}, asked for {}",
            generator.cpu_cores,
            generator.lag_ms.p99,
            generator.lag_ms.max,
            generator.receipts_missed,
            generator.receipts_asked,
        )?;
        let list = |counts: &mut dyn Iterator<Item = (&str, &u64)>| {
            let each: Vec<_> = counts.map(|(reason, count)| format!("{reason} {count}")).collect();
            if each.is_empty() { "none".into() } else { each.join(", ") }
        };
        let failures = list(&mut self.failures.iter().map(|(k, v)| (k.as_str(), v)));
        let refusals = list(&mut self.refusals.iter().map(|(k, v)| (*k, v)));
        writeln!(f, "failures  {failures}")?;
        writeln!(f, "refusals  {refusals}; {} retries", self.retries)?;
        if let Some(reason) = &self.first_failure {
            writeln!(f, "          first: {reason}")?;
        }
        Ok(())
    }
}

/// A line on standard error.
pub fn progress(line: &str) {
    eprintln!("{line}");
}
