//! A cluster that a benchmark starts: `atoll up` as a process of its own, so that what it uses is
//! apart from what the generator uses.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use alloy_primitives::U256;
use anyhow::{Context as _, bail, ensure};
use atoll_wire::v1::{
    GetStatsRequest, GetStatsResponse, ledger_service_client::LedgerServiceClient,
};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use tonic::transport::{Channel, Endpoint};

use crate::up::{development_chain, write_chain};

/// How long a start may take, and how much longer for each thousand accounts of the genesis.
const START: Duration = Duration::from_secs(120);
const START_EACH_THOUSAND: Duration = Duration::from_millis(300);
/// Time between two looks at what it prints.
const LOOK: Duration = Duration::from_millis(20);
/// Time between two looks whether it is there.
const LOOK_FOR_END: Duration = Duration::from_millis(500);
/// Lines of its last words that are shown.
const LAST_LINES: usize = 10;
/// Linux counts in hundredths of a second on every architecture.
const TICKS_A_SECOND: f64 = 100.0;
/// What counters of many shards may take.
const REPLY_BYTES: usize = 64 << 20;
const CHAIN_ID: u64 = 31_337;

/// A running cluster.
pub struct Cluster {
    process: Process,
    url: String,
    client: LedgerServiceClient<Channel>,
}

/// Dropping it ends the process and removes its data.
struct Process {
    child: Child,
    // Removed after the process has ended: fields are dropped after `drop`.
    home: TempDir,
}

/// What a process has used.
#[derive(Clone, Copy, Debug)]
pub struct Used {
    pub cpu_seconds: f64,
    /// Bytes in memory now, and most of them ever.
    pub resident: f64,
    pub peak: f64,
}

impl Cluster {
    /// Starts a cluster whose genesis has `payees` accounts besides the development ones.
    pub async fn start(shards: u16, payees: u32) -> anyhow::Result<Self> {
        let home = tempfile::Builder::new().prefix("atoll-bench-").tempdir();
        let home = home.context("cannot make a directory for temporary files; see TMPDIR")?;
        let data = home.path().join("data");
        if payees > 0 {
            let mut chain = development_chain(CHAIN_ID, shards);
            let balance = U256::from(1).to_string();
            chain.balances =
                (0..payees).map(|number| (atoll_load::payee(number), balance.clone())).collect();
            fs::create_dir_all(&data)?;
            write_chain(&data, &chain)?;
        }
        let executable = std::env::current_exe().context("cannot find my own executable")?;
        let mut command = Command::new(&executable);
        let ours = |name: &str| name.starts_with("ATOLL_") || name.starts_with("OTEL_");
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(ours) {
                command.env_remove(name);
            }
        }
        let child = command
            .args(["up", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--rpc", "off"])
            // Figures do not depend on whether its port is free.
            .args(["--metrics", "off"])
            .args(["--shards", &shards.to_string(), "--data"])
            .arg(&data)
            .env("ATOLL_HOME", home.path())
            // Ctrl-C is for whoever started it: it ends what it has started.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(File::create(home.path().join("out"))?)
            .stderr(File::create(home.path().join("err"))?)
            .spawn()
            .with_context(|| format!("cannot run {}", executable.display()))?;
        let patience = START + START_EACH_THOUSAND * (payees / 1_000);
        let mut process = Process { child, home };
        let url = process.listening(patience).await?;
        let channel = Endpoint::from_shared(url.clone())?.tcp_nodelay(true).connect().await;
        let channel = channel.with_context(|| format!("cannot connect to the cluster at {url}"))?;
        let client = LedgerServiceClient::new(channel).max_decoding_message_size(REPLY_BYTES);
        Ok(Self { process, url, client })
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// What all services have counted.
    pub async fn stats(&self) -> anyhow::Result<GetStatsResponse> {
        let reply = self.client.clone().get_stats(GetStatsRequest {}).await;
        Ok(reply.context("the cluster does not say what it has counted")?.into_inner())
    }

    /// What the process has used so far.
    pub fn used(&self) -> anyhow::Result<Used> {
        let read = |name: &str| {
            let path = PathBuf::from(format!("/proc/{}/{name}", self.process.child.id()));
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        used(&read("stat")?, &read("status")?).context("/proc has another form than known")
    }

    /// Waits until the process has ended: the generator alone would go on trying for a while.
    pub async fn gone(&self) {
        // What has ended has no memory, so that there is nothing to read.
        while self.used().is_ok() {
            sleep(LOOK_FOR_END).await;
        }
    }

    /// Whether the process has ended, and what it said last: for whoever wonders why a load failed.
    pub fn last_words(&mut self) -> String {
        let ended = match self.process.child.try_wait() {
            Ok(Some(status)) => format!("the cluster has ended: {status}"),
            _ => "the cluster runs".to_owned(),
        };
        format!("{ended}{}", self.process.said())
    }
}

impl Process {
    /// Waits until it says where it listens.
    async fn listening(&mut self, patience: Duration) -> anyhow::Result<String> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("a cluster did not start ({status}){}", self.said());
            }
            let out = fs::read_to_string(self.home.path().join("out")).unwrap_or_default();
            if let Some(url) = address(&out) {
                return Ok(url);
            }
            let late = Instant::now() >= deadline;
            ensure!(!late, "a cluster did not start within {patience:?}{}", self.said());
            sleep(LOOK).await;
        }
    }

    /// The last lines of what it wrote to standard error.
    fn said(&self) -> String {
        let text = fs::read_to_string(self.home.path().join("err")).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        match &lines[lines.len().saturating_sub(LAST_LINES)..] {
            [] => "; it said nothing".to_owned(),
            last => format!("; it said last:\n  {}", last.join("\n  ")),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Its data are not wanted any more, so it need not end in order. Fails only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The endpoint in what `atoll up` prints, once that is complete.
fn address(printed: &str) -> Option<String> {
    printed.contains("Ctrl-C").then_some(())?;
    let word = printed.split_whitespace().find(|word| word.starts_with("http://"))?;
    Some(word.to_owned())
}

/// Reads /proc/…/stat and /proc/…/status.
fn used(stat: &str, status: &str) -> Option<Used> {
    // utime and stime are the 14th and 15th field; the 2nd, in parentheses, may hold spaces.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |field: usize| fields.get(field)?.parse::<f64>().ok();
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kibibytes = line.split_whitespace().nth(1)?.parse::<f64>().ok()?;
        Some(kibibytes * 1024.0)
    };
    Some(Used {
        cpu_seconds: (ticks(11)? + ticks(12)?) / TICKS_A_SECOND,
        resident: bytes("VmRSS")?,
        peak: bytes("VmHWM")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_and_what_proc_says_is_read() {
        let printed = "Atoll\n  gRPC      http://127.0.0.1:4711  (atoll.v1.LedgerService)\n";
        assert_eq!(address(printed), None, "not complete");
        let complete = format!("{printed}\n  Ctrl-C stops it");
        assert_eq!(address(&complete).as_deref(), Some("http://127.0.0.1:4711"));

        let stat = "7 (a name) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 9";
        let status = "Name:\tatoll\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        let read = used(stat, status).expect("it is well formed");
        assert_eq!((read.cpu_seconds, read.resident, read.peak), (3.0, 1_048_576.0, 2_097_152.0));
        assert!(used("", status).is_none() && used(stat, "").is_none());
    }
}
