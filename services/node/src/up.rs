//! `atoll up`: a whole cluster in one process, for development.

use std::{
    fs::File,
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use crate::{
    cli::target::is_own_file,
    cluster::{Cluster, all_here},
    config::{Admin, Chain, Config},
    genesis::{DEVELOPMENT_MNEMONIC, development_keys},
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
    #[arg(long, default_value_t = 31_337)]
    pub chain_id: u64,
    /// Where operators reach it, for `atoll backup`; port 0 picks a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    pub admin: SocketAddr,
    /// Longest time between beacon blocks while there is work, in milliseconds.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub block_ms: u64,
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
        config.admin = Some(Admin { listen: self.admin });
        if let Some(beacon) = &mut config.beacon {
            beacon.block_ms = self.block_ms;
        }
        Ok(config)
    }

    fn check(&self, chain: &Chain) -> anyhow::Result<()> {
        let begun = (chain.shards, chain.chain_id);
        if begun != (self.shards, self.chain_id) {
            bail!(
                "{} holds a chain of {} shards with chain id {}, not of {} with {}; give these, \
                 another --data directory, or --fresh to begin anew",
                self.data.display(),
                begun.0,
                begun.1,
                self.shards,
                self.chain_id,
            );
        }
        Ok(())
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
        let chain = development_chain(self.chain_id, self.shards);
        write_chain(&self.data, &chain)?;
        Ok(chain)
    }
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
        format!("  chain id  {}", config.chain.chain_id),
        format!("  data      {}", config.data.display()),
        String::new(),
        "  Development accounts. Everybody has these keys: never send value to them.".to_owned(),
        format!("  mnemonic  {DEVELOPMENT_MNEMONIC}"),
    ];
    for (index, key) in development_keys()?.iter().enumerate() {
        let shard = cluster.placement.owner(&key.address());
        let secret = alloy_primitives::hex::encode_prefixed(key.to_bytes());
        lines.push(format!("  ({index}) {}  shard {shard}  {secret}", key.address()));
    }
    lines.push(String::new());
    lines.push("  Ctrl-C stops it; started again, it goes on where it was.".to_owned());
    Ok(lines.join("\n"))
}
