//! `atoll up`: a whole cluster in one process, for development.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    str::FromStr,
};

use alloy_primitives::{Address, U64};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use crate::{
    cli::target::is_own_file,
    cluster::{Cluster, all_here},
    config::{Admin, Alloc, Beginning, Chain, Config, Hardfork, Metrics},
    genesis::{DEVELOPMENT_MNEMONIC, MAX_DEVELOPMENT_ACCOUNTS, keys_are_public, keys_of_chain},
    place::now_ms,
};

/// File that says what a data directory was begun with.
const CHAIN_FILE: &str = "chain.json";
const CHAIN_FILE_NEW: &str = "chain.json.new";

/// Starts a cluster of several shards in this process, on loopback.
#[derive(Clone, Debug, clap::Args)]
pub struct UpArgs {
    /// Number of shards. A data directory keeps the number that it was begun with.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub shards: u16,
    /// Where everything is kept [default: .atoll below the current directory].
    #[arg(long, env = "ATOLL_DATA", default_value = ".atoll", hide_default_value = true)]
    pub data: PathBuf,
    /// Forget what is in the data directory and begin anew.
    #[arg(long)]
    pub fresh: bool,
    /// Where the public gRPC API listens.
    #[arg(long, default_value = "127.0.0.1:50051")]
    pub listen: SocketAddr,
    /// Where wallets and Ethereum's tools reach it by JSON-RPC, HTTP and WebSocket; `off`: not at all
    /// [default: 127.0.0.1:8545, or not at all if that is taken].
    #[arg(long)]
    pub rpc: Option<OptionalPort>,
    /// Of the chain [default: that of --genesis, else 31337]. A data directory keeps the one that it
    /// was begun with.
    #[arg(long)]
    pub chain_id: Option<u64>,
    /// Gas limit of a block.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1_000_000..=1 << 40))]
    pub gas_limit: Option<u64>,
    /// Number of development accounts [default: 10].
    #[arg(long, value_parser = clap::value_parser!(u32).range(0..=i64::from(MAX_DEVELOPMENT_ACCOUNTS)))]
    pub accounts: Option<u32>,
    /// Of the development accounts [default: the one that every tool has]. With another one they are
    /// funded, but their keys are not shown, JSON-RPC does not sign for them, and pages in a browser
    /// may not call it.
    #[arg(long)]
    pub mnemonic: Option<String>,
    /// Begin with the accounts of a file in geth's `genesis.json` format, besides the development ones.
    #[arg(long, value_name = "FILE")]
    pub genesis: Option<PathBuf>,
    /// Ethereum's rules that transactions run under, from the beginning on [default: osaka].
    #[arg(long, value_enum)]
    pub hardfork: Option<Hardfork>,
    /// Where operators reach it, for `atoll backup`; port 0 picks a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    pub admin: SocketAddr,
    /// Where Prometheus finds what the cluster counts, at /metrics; `off`: nothing is counted
    /// [default: 127.0.0.1:9464, or nothing if that is taken].
    #[arg(long, value_name = "ADDRESS|off")]
    pub metrics: Option<OptionalPort>,
    /// Longest time between beacon blocks while there is work, in milliseconds.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub block_ms: u64,
}

/// The chain id of every tool's development chain.
const DEVELOPMENT_CHAIN: u64 = 31_337;

/// Where Ethereum's tools look for a node.
const USUAL_RPC: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8545);

/// Where collectors look for metrics.
const USUAL_METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9464);

/// Where something is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionalPort(pub Option<SocketAddr>);

impl FromStr for OptionalPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self(None)),
            _ => text.parse().map(|at| Self(Some(at))).map_err(|_| "use IP:PORT or `off`".into()),
        }
    }
}

/// What is read of geth's `genesis.json`.
#[derive(Deserialize)]
struct GethGenesis {
    #[serde(default, rename = "gasLimit")]
    gas_limit: Option<U64>,
    #[serde(default)]
    config: GethConfig,
    #[serde(default)]
    alloc: BTreeMap<Address, Alloc>,
}

/// What is read of its `config`.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct GethConfig {
    chain_id: Option<u64>,
}

/// What a data directory was begun with.
#[derive(Serialize, Deserialize)]
struct Begun {
    chain: Chain,
}

impl UpArgs {
    /// The configuration of the cluster: begun anew, or as the data directory was begun.
    pub fn config(&self) -> anyhow::Result<Config> {
        let file = self.data.join(CHAIN_FILE);
        if self.fresh && self.data.exists() {
            clear(&self.data, &file)?;
        }
        let chain = match read_chain(&self.data)? {
            Some(chain) => {
                self.check(&chain)?;
                chain
            }
            None => self.begin()?,
        };
        let mut config = all_here(chain, &self.data, self.listen);
        if let Some(gateway) = &mut config.gateway {
            gateway.rpc = match self.rpc {
                Some(OptionalPort(rpc)) => rpc,
                None => if_free(USUAL_RPC),
            };
        }
        let metrics = self.metrics.map_or_else(|| if_free(USUAL_METRICS), |OptionalPort(at)| at);
        config.metrics = metrics.map(|listen| Metrics { listen });
        config.admin = Some(Admin { listen: self.admin });
        if let Some(beacon) = &mut config.beacon {
            beacon.block_ms = self.block_ms;
        }
        Ok(config)
    }

    fn check(&self, chain: &Chain) -> anyhow::Result<()> {
        let begun = (chain.shards, chain.chain_id);
        let (mut asked, chain_id) = self.beginning()?;
        // A later start need not name the file again.
        let chain_id = chain_id.unwrap_or(chain.chain_id);
        if begun != (self.shards, chain_id) {
            bail!(
                "{} holds a chain of {} shards with chain id {}, not of {} with {}; give these, \
                 another --data directory, or --fresh to begin anew",
                self.data.display(),
                begun.0,
                begun.1,
                self.shards,
                chain_id,
            );
        }
        if self.genesis.is_none() {
            asked.alloc = chain.genesis.alloc.clone();
        }
        let same = asked.gas_limit.is_none_or(|_| asked.gas_limit == chain.genesis.gas_limit)
            && asked.accounts.is_none_or(|_| asked.accounts == chain.genesis.accounts)
            && (asked.mnemonic.is_none() || asked.mnemonic == chain.genesis.mnemonic)
            && asked.hardfork.is_none_or(|_| asked.hardfork == chain.genesis.hardfork)
            && asked.alloc == chain.genesis.alloc;
        if !same {
            bail!(
                "{} was begun with another gas limit or hard fork, other accounts or another genesis; leave these \
                 flags out, give another --data directory, or --fresh to begin anew",
                self.data.display(),
            );
        }
        Ok(())
    }

    /// What the chain is to begin with, as far as it is not the usual, and its id.
    fn beginning(&self) -> anyhow::Result<(Beginning, Option<u64>)> {
        let mut chain_id = self.chain_id;
        let mut beginning = Beginning {
            gas_limit: self.gas_limit,
            accounts: self.accounts,
            mnemonic: self.mnemonic.clone(),
            hardfork: self.hardfork,
            ..Beginning::default()
        };
        if let Some(file) = &self.genesis {
            let bytes = std::fs::read(file)
                .with_context(|| format!("cannot read the genesis in {}", file.display()))?;
            let genesis: GethGenesis = serde_json::from_slice(&bytes)
                .with_context(|| format!("{} is no genesis in geth's format", file.display()))?;
            beginning.gas_limit = beginning.gas_limit.or(genesis.gas_limit.map(|gas| gas.to()));
            beginning.alloc = genesis.alloc;
            chain_id = chain_id.or(genesis.config.chain_id);
        }
        Ok((beginning, chain_id))
    }

    fn begin(&self) -> anyhow::Result<Chain> {
        std::fs::create_dir_all(&self.data)
            .with_context(|| format!("cannot make {}", self.data.display()))?;
        // What the other commands keep may lie in the same place.
        let foreign = |entry: &std::io::Result<std::fs::DirEntry>| {
            entry.as_ref().is_ok_and(|entry| {
                let name = entry.file_name();
                // The second is of a beginning that was cut short.
                !is_own_file(&name.to_string_lossy()) && name != CHAIN_FILE_NEW
            })
        };
        if std::fs::read_dir(&self.data)?.any(|entry| foreign(&entry)) {
            bail!(
                "{} is not empty and has no {CHAIN_FILE}; give another --data directory",
                self.data.display()
            );
        }
        let (beginning, chain_id) = self.beginning()?;
        let mut chain = development_chain(chain_id.unwrap_or(DEVELOPMENT_CHAIN), self.shards);
        chain.genesis = beginning;
        write_chain(&self.data, &chain)?;
        Ok(chain)
    }
}

/// A second cluster beside the first one is no mistake.
fn if_free(at: SocketAddr) -> Option<SocketAddr> {
    TcpListener::bind(at).is_ok().then_some(at)
}

/// A chain that begins now, with the development accounts.
pub(crate) fn development_chain(chain_id: u64, shards: u16) -> Chain {
    Chain {
        chain_id,
        shards,
        genesis_time_ms: now_ms(),
        coinbase: alloy_primitives::Address::repeat_byte(0xc0),
        development: true,
        balances: Default::default(),
        placement: Default::default(),
        genesis: Default::default(),
    }
}

/// Says what a data directory was begun with.
pub(crate) fn write_chain(data: &Path, chain: &Chain) -> anyhow::Result<()> {
    let file = data.join(CHAIN_FILE);
    let begun = serde_json::to_vec_pretty(&Begun { chain: chain.clone() })?;
    // Wholly or not at all, whatever happens to the power.
    let new = data.join(CHAIN_FILE_NEW);
    let written = File::create(&new).and_then(|mut to| {
        to.write_all(&begun)?;
        to.sync_all()?;
        std::fs::rename(&new, &file)?;
        File::open(data)?.sync_all()
    });
    written.with_context(|| format!("cannot write {}", file.display()))
}

/// What a data directory was begun with, if it says so.
pub(crate) fn read_chain(data: &Path) -> anyhow::Result<Option<Chain>> {
    let file = data.join(CHAIN_FILE);
    match std::fs::read(&file) {
        Ok(bytes) => {
            let begun: Begun = serde_json::from_slice(&bytes)
                .with_context(|| format!("{} is broken", file.display()))?;
            Ok(Some(begun.chain))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
    }
}

/// Removes what a cluster has left in its data directory, and nothing else.
fn clear(data: &Path, file: &Path) -> anyhow::Result<()> {
    if !file.exists() {
        bail!("{} has no {CHAIN_FILE}: it is no data directory, nothing removed", data.display());
    }
    for entry in std::fs::read_dir(data)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name == "beacon" || name.starts_with("shard-") {
            std::fs::remove_dir_all(&path)
                .with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    std::fs::remove_file(file).with_context(|| format!("cannot remove {}", file.display()))
}

/// What is shown when a cluster has started.
pub fn banner(cluster: &Cluster, config: &Config) -> anyhow::Result<String> {
    let address = cluster.gateway.context("the public API does not stand here")?;
    let mut lines = vec![
        format!("Atoll {}: {} shards", env!("CARGO_PKG_VERSION"), config.chain.shards),
        String::new(),
        format!("  gRPC      http://{address}  (atoll.v1.LedgerService, reflection, health)"),
        match cluster.rpc {
            Some(rpc) => format!("  JSON-RPC  http://{rpc}  (and ws://{rpc})"),
            None => {
                format!("  JSON-RPC  off, or {USUAL_RPC} is taken; --rpc ADDRESS names another")
            }
        },
        match cluster.metrics {
            Some(metrics) => format!("  metrics   {metrics}/metrics  (for Prometheus)"),
            None => format!("  metrics   off, or {USUAL_METRICS} is taken; --metrics ADDRESS"),
        },
        format!("  chain id  {}", config.chain.chain_id),
        format!("  data      {}", config.data.display()),
        String::new(),
    ];
    let public = keys_are_public(&config.chain);
    if public {
        let warning = "Development accounts. Everybody has these keys: never send value to them.";
        lines.push(format!("  {warning}"));
        lines.push(format!("  mnemonic  {DEVELOPMENT_MNEMONIC}"));
    } else {
        lines.push("  Accounts of your mnemonic. JSON-RPC does not sign for them.".to_owned());
    }
    for (index, key) in keys_of_chain(&config.chain)?.iter().enumerate() {
        let shard = cluster.placement.owner(&key.address());
        let mut line = format!("  ({index}) {}  shard {shard}", key.address());
        if public {
            let secret = alloy_primitives::hex::encode_prefixed(key.to_bytes());
            line.push_str(&format!("  {secret}"));
        }
        lines.push(line);
    }
    lines.push(String::new());
    lines.push("  Ctrl-C stops it; started again, it goes on where it was.".to_owned());
    Ok(lines.join("\n"))
}
