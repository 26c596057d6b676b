//! What `atoll load` can be told.

use std::{fmt, str::FromStr, time::Duration};

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use serde::{Serialize, Serializer};

use crate::report::progress;

/// The mnemonic of every Ethereum development chain.
pub const DEV_MNEMONIC: &str = "test test test test test test test test test test test junk";

/// Puts load on a running cluster through its public API, and measures it.
#[derive(Args, Clone, Debug, Serialize)]
pub struct LoadArgs {
    /// Endpoint of a gateway; of any Ethereum node with `--via rpc` [there: http://127.0.0.1:8545]
    #[arg(
        long,
        env = "ATOLL_TARGET",
        default_value = "http://127.0.0.1:50051",
        default_value_if("via", "rpc", "http://127.0.0.1:8545")
    )]
    pub target: String,

    /// For https://: PEM file with the authority of the gateway's certificate [default: those that the
    /// system trusts]
    #[arg(long, env = "ATOLL_TLS_AUTHORITY", value_name = "FILE")]
    pub tls_authority: Option<std::path::PathBuf>,
    /// The API that is used: `rpc` is Ethereum's JSON-RPC over HTTP
    #[arg(long, value_enum, default_value_t = Via::Grpc)]
    pub via: Via,

    /// Most transactions in one batch of a connection
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    #[serde(skip)]
    pub batch: u16,

    /// What the transactions do
    #[arg(long, value_enum, default_value_t = Workload::Transfer)]
    pub workload: Workload,

    /// Number of accounts that send
    #[arg(long, default_value_t = 1_000)]
    pub accounts: u32,

    /// Pay this many accounts without keys, whose addresses follow from their number, instead of
    /// those that send (transfer only)
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payees: Option<u32>,

    /// Share of transactions that touch more than one shard, in percent
    #[arg(long, default_value_t = 0.0, value_parser = percent)]
    pub cross: f64,

    /// Exponent of the Zipf distribution of the accounts that are paid (transfer, erc20), that
    /// trade (amm), or of the chains that are called (multihop); 0 is uniform
    #[arg(long, default_value_t = 0.0, value_parser = exponent)]
    pub zipf: f64,

    /// Transactions a second, sent when they are due whatever the cluster does; or `max`: as many
    /// as it finalises, with at most --window unfinished
    #[arg(long, default_value_t = Rate::PerSecond(1_000.0))]
    pub rate: Rate,

    /// How long to measure, such as `30s`, `500ms` or `2m`
    #[arg(long, default_value = "30s", value_parser = duration)]
    #[serde(serialize_with = "seconds")]
    pub duration: Duration,

    /// How long to send before measuring
    #[arg(long, default_value = "5s", value_parser = duration)]
    #[serde(serialize_with = "seconds")]
    pub warmup: Duration,

    /// How long to wait for outstanding transactions after the last was sent
    #[arg(long, default_value = "30s", value_parser = duration)]
    #[serde(serialize_with = "seconds")]
    pub drain: Duration,

    /// How long funding, deploying and approving may each take
    #[arg(long, default_value = "120s", value_parser = duration)]
    #[serde(serialize_with = "seconds")]
    pub setup_timeout: Duration,

    /// Connections; the transactions of one account all go over the same one
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub streams: u16,

    /// Most transactions sent and not finished at any time [default: 64 an account but at most
    /// 4096 with `--rate max`; else 200000]
    #[arg(long)]
    #[serde(skip)]
    pub window: Option<u32>,

    /// Most signed transactions held before they are sent (about 0.5 kB each). If the run needs
    /// more, signing goes on during the run
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub presign: u32,

    /// Shards that one multihop call goes through
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(2..=16))]
    pub hops: u16,

    /// The accounts and the order of everything follow from it [default: a new one]
    #[arg(long)]
    #[serde(skip)]
    pub seed: Option<u64>,

    /// Its first ten accounts pay for everything
    #[arg(long, env = "ATOLL_MNEMONIC", default_value = DEV_MNEMONIC, hide_env_values = true)]
    #[serde(skip)]
    pub mnemonic: String,

    /// Print one JSON object
    #[arg(long)]
    #[serde(skip)]
    pub json: bool,

    /// Say nothing on the way
    #[arg(long)]
    #[serde(skip)]
    pub quiet: bool,
}

impl LoadArgs {
    /// The most transactions that are sent and not finished.
    pub fn window(&self) -> usize {
        let default = match self.rate {
            Rate::Max => self.accounts.saturating_mul(64).min(4_096),
            Rate::PerSecond(_) => 200_000,
        };
        self.window.unwrap_or(default).max(1) as usize
    }

    /// Number of transactions of the whole run, if it is known before.
    pub fn planned(&self) -> Option<u64> {
        self.rate
            .per_second()
            .map(|rate| (rate * (self.warmup + self.duration).as_secs_f64()).ceil() as u64)
    }

    /// A line on standard error, unless nothing is to be said.
    pub(crate) fn progress(&self, line: &str) {
        if !self.quiet {
            progress(line);
        }
    }

    /// What clap cannot check.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        ensure!(self.accounts >= 2, "--accounts must be at least 2");
        ensure!(!self.duration.is_zero(), "--duration must be longer than zero");
        ensure!(
            self.payees.is_none() || self.workload == Workload::Transfer,
            "--payees is for --workload transfer"
        );
        Ok(())
    }
}

/// What the transactions of a run do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Workload {
    /// Payments; those to another shard are credits
    Transfer,
    /// Token transfers; one token on each shard
    Erc20,
    /// Swaps on one Uniswap V2 pair
    Amm,
    /// Calls through a chain of contracts on several shards
    Multihop,
    /// 50 % transfer, 30 % erc20, 15 % amm, 5 % multihop
    Mix,
}

/// How the cluster is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Via {
    /// Streams of Atoll's own API
    Grpc,
    /// Batches of `eth_sendRawTransaction`; receipts block by block
    Rpc,
}

/// How fast to send.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    PerSecond(f64),
    Max,
}

impl Rate {
    /// The rate, unless it is as fast as possible.
    pub fn per_second(&self) -> Option<f64> {
        match self {
            Self::PerSecond(rate) => Some(*rate),
            Self::Max => None,
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PerSecond(rate) => write!(f, "{rate}"),
            Self::Max => f.write_str("max"),
        }
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "max" {
            return Ok(Self::Max);
        }
        match text.parse::<f64>() {
            Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(Self::PerSecond(rate)),
            _ => Err("expected a number above 0, or `max`".into()),
        }
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::PerSecond(rate) => serializer.serialize_f64(*rate),
            Self::Max => serializer.serialize_str("max"),
        }
    }
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

fn number(text: &str, most: f64) -> anyhow::Result<f64> {
    let value: f64 = text.parse().context("not a number")?;
    ensure!((0.0..=most).contains(&value), "must be from 0 to {most}, not {text}");
    Ok(value)
}

fn percent(text: &str) -> anyhow::Result<f64> {
    number(text, 100.0)
}

fn exponent(text: &str) -> anyhow::Result<f64> {
    number(text, 10.0)
}

/// A time such as `30s`, `500ms` or `2m`.
pub fn duration(text: &str) -> anyhow::Result<Duration> {
    let digits = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (value, unit) = text.split_at(digits);
    let scale = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        _ => anyhow::bail!("unknown unit `{unit}`; use ms, s, m or h"),
    };
    Ok(Duration::from_secs_f64(number(value, 1e6)? * scale))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        load: LoadArgs,
    }

    fn parse(line: &str) -> Result<LoadArgs, clap::Error> {
        Cli::try_parse_from(line.split(' ')).map(|cli| cli.load)
    }

    #[test]
    fn reads_the_documented_command_line() {
        let args = parse(
            "load --target http://h:1 --workload amm --accounts 10 --cross 12.5 --zipf 1.1 \
             --rate max --duration 2m --json --seed 7 --warmup 500ms --streams 3"
                .trim(),
        );
        let args = args.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(args.workload, Workload::Amm);
        assert_eq!(args.duration, Duration::from_secs(120));
        assert_eq!(args.warmup, Duration::from_millis(500));
        assert_eq!((args.rate, args.planned()), (Rate::Max, None));
        assert_eq!(args.window(), 640);
        let args = parse("load --rate 250 --duration 10 --warmup 2").unwrap();
        assert_eq!(args.planned(), Some(3_000));
        assert_eq!((args.via, args.target.as_str()), (Via::Grpc, "http://127.0.0.1:50051"));
        let args = parse("load --via rpc").unwrap();
        assert_eq!((args.via, args.target.as_str()), (Via::Rpc, "http://127.0.0.1:8545"));
    }

    #[test]
    fn refuses_what_makes_no_sense() {
        for wrong in [
            "--cross 101",
            "--cross -1",
            "--rate 0",
            "--rate fast",
            "--duration 3y",
            "--duration -3s",
            "--zipf NaN",
            "--streams 0",
        ] {
            assert!(parse(&format!("load {wrong}")).is_err(), "{wrong}");
        }
    }
}
