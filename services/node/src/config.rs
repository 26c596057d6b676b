//! Configuration of a process: a TOML file, then the environment, then flags.

mod command;
mod reference;
mod tls;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use alloy_primitives::U64;
use anyhow::{Context as _, bail};
use atoll_evm::{Fork, Rules};
use atoll_journal::SnapshotConfig;
use atoll_store::Backend;
use atoll_types::{Address, B256, Bytes, Placement, ShardId, U256};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use command::ConfigCommand;
pub use reference::reference;
pub use tls::Tls;

/// Variables that override a key of the file: `ATOLL__CHAIN__SHARDS=4` is `chain.shards = 4`.
const ENVIRONMENT_PREFIX: &str = "ATOLL__";
/// What is repeated is told from what is new by receipts for far fewer rounds than this.
const LEAST_KEPT_ROUNDS: u64 = 4_096;

/// What one process runs, and where it finds the rest of the cluster.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The same for every process of a cluster.
    pub chain: Chain,
    /// Directory for everything that is kept, made if it is not there; a process with neither
    /// `[beacon]` nor a `state` writes nothing in it.
    pub data: PathBuf,
    /// The beacon, if it stands here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beacon: Option<Beacon>,
    /// Roles of shards that stand here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shard: Vec<Shard>,
    /// The public API, if it stands here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Gateway>,
    /// What operators ask of a running cluster, if it stands here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin: Option<Admin>,
    /// Where Prometheus finds what this process counts, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Metrics>,
    /// A port with nothing but health, for whoever has no certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// Where to find what does not stand here.
    #[serde(default)]
    pub address: Addresses,
    /// How much of everything.
    #[serde(default)]
    pub limits: Limits,
    /// How what is durable is kept.
    #[serde(default)]
    pub storage: Storage,
    /// What a process proves itself with, and whom it believes.
    #[serde(default)]
    pub tls: Tls,
}

/// What the chain began with.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Chain {
    /// EIP-155.
    pub chain_id: u64,
    /// Number of shards, 1 to 1024.
    pub shards: u16,
    /// Time of beacon block 0, in milliseconds since 1970.
    pub genesis_time_ms: u64,
    /// Gets the priority fees.
    #[serde(default = "coinbase")]
    #[schemars(with = "String")]
    pub coinbase: Address,
    /// Funds the ten development accounts, whose keys everybody has.
    #[serde(default)]
    pub development: bool,
    /// More accounts: address = "wei", decimal or 0x….
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, String>")]
    pub balances: BTreeMap<Address, String>,
    /// Addresses that do not stand where their hash would put them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, u16>")]
    pub placement: BTreeMap<Address, u16>,
    /// What else the chain begins with.
    #[serde(default, skip_serializing_if = "Beginning::is_usual")]
    pub genesis: Beginning,
}

/// What a chain begins with, where that is not the usual.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Beginning {
    /// `GASLIMIT`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gas_limit: Option<u64>,
    /// Number of development accounts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accounts: Option<u32>,
    /// Of the development accounts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mnemonic: Option<String>,
    /// Ethereum's rules that transactions run under.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hardfork: Option<Hardfork>,
    /// Accounts with more than a balance.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, Alloc>")]
    pub alloc: BTreeMap<Address, Alloc>,
}

/// A hard fork of Ethereum's that a chain may stay at.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Hardfork {
    Prague,
    Osaka,
}

impl Beginning {
    /// Those of the fork, or the newest.
    pub fn rules(&self) -> Rules {
        match self.hardfork {
            None => Rules::default(),
            Some(Hardfork::Prague) => Rules::of(Fork::PRAGUE),
            Some(Hardfork::Osaka) => Rules::of(Fork::OSAKA),
        }
    }

    fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}

fn no_code(code: &Bytes) -> bool {
    code.0.is_empty()
}

/// An account of the genesis, in the words of geth's `genesis.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Alloc {
    /// In wei.
    #[schemars(with = "String")]
    pub balance: U256,
    #[schemars(with = "String")]
    pub nonce: U64,
    #[serde(skip_serializing_if = "no_code")]
    #[schemars(with = "String")]
    pub code: Bytes,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, String>")]
    pub storage: BTreeMap<B256, B256>,
}

fn coinbase() -> Address {
    Address::repeat_byte(0xc0)
}

impl Chain {
    pub fn placement(&self) -> Placement {
        let exceptions = self.placement.iter().map(|(a, shard)| (*a, ShardId(*shard))).collect();
        Placement::new(self.shards, exceptions)
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Beacon {
    /// Where other processes reach it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
    /// Longest time between blocks while there is work, in milliseconds; 0: 50.
    pub block_ms: u64,
    /// Shortest time, for a block that is early because all open groups can be decided, in
    /// milliseconds; 0: 10.
    pub min_block_ms: u64,
    /// Time between blocks while there is none, in milliseconds; 0: 2000.
    pub heartbeat_ms: u64,
}

/// One of the four actors of a shard.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Mempool,
    Executor,
    State,
    Router,
}

impl Role {
    pub const ALL: [Self; 4] = [Self::Mempool, Self::Executor, Self::State, Self::Router];
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Shard {
    /// From 0.
    pub id: u16,
    /// Those that stand here.
    #[serde(default = "all_roles")]
    pub roles: Vec<Role>,
    /// Where other processes reach these roles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
}

fn all_roles() -> Vec<Role> {
    Role::ALL.to_vec()
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Gateway {
    /// Where clients reach it.
    pub listen: SocketAddr,
    /// Where wallets and Ethereum's tools reach it by JSON-RPC; not at all if this is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpc: Option<SocketAddr>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// Where operators reach it.
    pub listen: SocketAddr,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// Where `/metrics` is served over HTTP.
    pub listen: SocketAddr,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// Where it is asked.
    pub listen: SocketAddr,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Addresses {
    /// URL of the beacon, such as `https://beacon:6000`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beacon: Option<String>,
    /// One for each shard that does not wholly stand here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shard: Vec<ShardAddress>,
}

/// URLs of a shard's roles.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ShardAddress {
    /// From 0.
    pub id: u16,
    /// Of every role that is not named by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all: Option<String>,
    /// URL of its mempool, if not `all`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mempool: Option<String>,
    /// URL of its executor, if not `all`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executor: Option<String>,
    /// URL of its state, if not `all`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// URL of its router, if not `all`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub router: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Values that the state and the executor of a shard each keep in memory.
    pub cached_values: usize,
    /// Memory that a shard's index may use, in bytes.
    pub index_cache_bytes: u64,
    /// Memory that a shard's tree may use for leaves, in bytes: 64 for each key. Beyond it, they go to
    /// a file beside the log, which may be deleted while the process is down. Nodes above the leaves
    /// take some 32 bytes a key more.
    pub tree_cache_bytes: usize,
    /// Calls that an actor, or a link to one, has in progress at a time.
    pub actor_calls: usize,
    /// Transactions in a shard's block.
    pub block_txs: u32,
    /// Threads that recover signatures, and as many that run `Call`.
    pub recovery_threads: usize,
    /// Gas for which a sender's transactions may be run to predict them, before some of it is paid; a
    /// 1024th of it comes back with each round, and 16 times the gas of what is included. Above it,
    /// transactions that cross shards are dropped, and their sender is told.
    pub speculative_gas: u64,
    /// Threads that run a block or group where that is faster than one, that of the shard among them;
    /// all shards of the process share the others. 1: always one after another.
    pub execution_threads: usize,
    /// Time after which a call to another actor is given up, in milliseconds.
    pub call_timeout_ms: u64,
    /// Time after which a router does again what has had no effect, in milliseconds.
    pub refresh_ms: u64,
    /// Requests that one client address may make of the public gRPC API in a second, and as many at
    /// once; 0: as many as it likes. A stream counts as one.
    pub client_requests: u32,
    /// Time between saying "not serving" and closing the ports when a stop begins, in milliseconds:
    /// as long as those who look where to send requests take to notice.
    pub drain_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            cached_values: 1_000_000,
            index_cache_bytes: 64 << 20,
            tree_cache_bytes: 256 << 20,
            actor_calls: 4_096,
            block_txs: 1_024,
            recovery_threads: std::thread::available_parallelism().map_or(2, |n| n.get()),
            speculative_gas: 1 << 30,
            execution_threads: std::thread::available_parallelism().map_or(1, |n| n.get()),
            call_timeout_ms: 10_000,
            refresh_ms: 1_000,
            client_requests: 0,
            drain_ms: 0,
        }
    }
}

/// What keeps the index beside each log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum IndexKind {
    #[default]
    Sled,
    Redb,
}

impl IndexKind {
    pub(crate) fn backend(self) -> Backend {
        match self {
            Self::Sled => Backend::Sled,
            Self::Redb => Backend::Redb,
        }
    }
}

/// How what is durable is kept.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Storage {
    /// What keeps the index beside each log: `"sled"`, or `"redb"`, which is the better one for a state
    /// larger than `limits.index_cache_bytes` ([measured](decisions/0026-a-second-index.md)). To change
    /// it, stop the process, change this, start: the index is built again.
    pub index: IndexKind,
    /// Bytes of log after which a snapshot is taken, or as many as the last one has, whichever is
    /// more; 0: never for this reason.
    pub snapshot_log_bytes: u64,
    /// Cuts after which a snapshot is taken; 0: never for this reason.
    pub snapshot_cuts: u64,
    /// Snapshots kept, at least 2.
    pub snapshots_kept: usize,
    /// Newest rounds whose blocks, transactions and receipts are kept, at least 4096; 0: all.
    pub kept_rounds: u64,
    /// Length of a file of the log. Whole files are deleted behind snapshots.
    pub segment_bytes: u64,
    /// Bytes set aside on the volume of each log for what is under way when it fills up.
    pub reserve_bytes: u64,
    /// Changes are refused when the volume has less than this free.
    pub min_free_bytes: u64,
}

impl Default for Storage {
    fn default() -> Self {
        Self {
            index: IndexKind::default(),
            snapshot_log_bytes: 256 << 20,
            snapshot_cuts: 0,
            snapshots_kept: 2,
            kept_rounds: 0,
            segment_bytes: 64 << 20,
            reserve_bytes: 4 << 20,
            min_free_bytes: 256 << 20,
        }
    }
}

impl Storage {
    pub(crate) fn snapshots(&self) -> SnapshotConfig {
        SnapshotConfig {
            log_bytes: self.snapshot_log_bytes,
            cuts: self.snapshot_cuts,
            kept: self.snapshots_kept,
            rounds: self.kept_rounds,
            // More than the log has when it takes nothing any more.
            min_free_bytes: self.min_free_bytes / 4 * 5,
        }
    }
}

impl Config {
    /// Reads a file, then applies `ATOLL__…` variables, then `key=value` settings, each a dotted
    /// key of the file.
    pub fn load(
        path: &Path,
        environment: impl Iterator<Item = (String, String)>,
        settings: &[String],
    ) -> anyhow::Result<Self> {
        let place = || format!("in {}", path.display());
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the configuration file {}", path.display()))?;
        // Read once as it stands, so that an error shows its line.
        let from_file = toml::from_str::<Self>(&text);
        if let Err(error) = &from_file
            && error.message().starts_with("unknown field")
        {
            bail!("{error}{}\n{}", nearest_key(error.message()), place());
        }
        let mut table: toml::Table = toml::from_str(&text).with_context(place)?;
        let variables = environment.filter_map(|(name, value)| {
            let key = name.strip_prefix(ENVIRONMENT_PREFIX)?.to_lowercase().replace("__", ".");
            Some((key, value))
        });
        for (key, value) in variables {
            set(&mut table, &key, &value)
                .with_context(|| format!("environment variable for {key}"))?;
        }
        for setting in settings {
            let (key, value) = setting
                .split_once('=')
                .with_context(|| format!("--set {setting}: use --set key=value"))?;
            set(&mut table, key, value).with_context(|| format!("--set {setting}"))?;
        }
        let config: Self = table.try_into().map_err(|error: toml::de::Error| {
            anyhow::anyhow!("{error}{}\n{}", nearest_key(error.message()), place())
        })?;
        config.check().with_context(place)?;
        Ok(config)
    }

    /// Whether a role of a shard stands in this process.
    pub fn hosts(&self, shard: u16, role: Role) -> bool {
        self.shard.iter().any(|entry| entry.id == shard && entry.roles.contains(&role))
    }

    fn check(&self) -> anyhow::Result<()> {
        let shards = self.chain.shards;
        if shards == 0 || shards > 1_024 {
            bail!("chain.shards is {shards}; use 1 to 1024");
        }
        let named = self.shard.iter().map(|s| s.id).chain(self.address.shard.iter().map(|s| s.id));
        if let Some(id) =
            named.chain(self.chain.placement.values().copied()).find(|id| *id >= shards)
        {
            bail!(
                "there is no shard {id}: chain.shards is {shards}, so they are 0 to {}",
                shards - 1
            );
        }
        if (1..LEAST_KEPT_ROUNDS).contains(&self.storage.kept_rounds) {
            let kept = self.storage.kept_rounds;
            bail!("storage.kept_rounds is {kept}; use 0 for all, or {LEAST_KEPT_ROUNDS} or more");
        }
        if self.storage.snapshots_kept < 2 {
            bail!("storage.snapshots_kept is {}; use 2 or more", self.storage.snapshots_kept);
        }
        if self.storage.segment_bytes < 4_096 {
            bail!("storage.segment_bytes is {}; use 4096 or more", self.storage.segment_bytes);
        }
        if self.beacon.is_none() && self.shard.is_empty() && self.gateway.is_none() {
            bail!("nothing stands here: give [beacon], [[shard]] or [gateway]");
        }
        self.tls.check(self)?;
        for role in Role::ALL {
            for id in 0..shards {
                let count =
                    self.shard.iter().filter(|s| s.id == id && s.roles.contains(&role)).count();
                if count > 1 {
                    bail!(
                        "{role:?} of shard {id} stands here twice; name it in one [[shard]] only"
                    );
                }
            }
        }
        Ok(())
    }
}

fn set(table: &mut toml::Table, key: &str, value: &str) -> anyhow::Result<()> {
    let parsed = toml::from_str::<toml::Table>(&format!("value = {value}"))
        .ok()
        .and_then(|mut parsed| parsed.remove("value"))
        .unwrap_or_else(|| toml::Value::String(value.to_owned()));
    let (parents, name) = key.rsplit_once('.').map_or(("", key), |split| split);
    let mut at = table;
    for part in parents.split('.').filter(|part| !part.is_empty()) {
        let next = at.entry(part).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        at = next.as_table_mut().with_context(|| format!("{part} is not a table"))?;
    }
    at.insert(name.to_owned(), parsed);
    Ok(())
}

/// "; did you mean …?", for an error that names an unknown field and the known ones.
fn nearest_key(message: &str) -> String {
    let mut names = message.split('`').skip(1).step_by(2);
    let Some(unknown) = names.next().filter(|_| message.contains("unknown field")) else {
        return String::new();
    };
    let nearest = names.min_by_key(|known| distance(unknown, known));
    nearest.map(|known| format!("did you mean `{known}`?")).unwrap_or_default()
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = corner + usize::from(from != *to);
            corner = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(corner + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "data = \"d\"\n[chain]\nchain_id = 1\nshards = 2\ngenesis_time_ms = 5\n\
                        [beacon]\nblock_ms = 50\n";

    fn load(text: &str, environment: &[(&str, &str)], settings: &[&str]) -> anyhow::Result<Config> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("node.toml");
        std::fs::write(&path, text)?;
        let environment =
            environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<Vec<_>>();
        let settings: Vec<String> = settings.iter().map(|s| (*s).to_owned()).collect();
        Config::load(&path, environment.into_iter(), &settings)
    }

    #[test]
    fn environment_overrides_the_file_and_flags_override_both() {
        let config = load(
            GOOD,
            &[("ATOLL__CHAIN__SHARDS", "3"), ("ATOLL__CHAIN__CHAIN_ID", "9"), ("HOME", "/x")],
            &["chain.shards=4"],
        );
        let chain = config.map(|config| (config.chain.shards, config.chain.chain_id));
        assert_eq!(chain.ok(), Some((4, 9)));
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line_and_the_nearest_known_one() {
        let text = GOOD.replace("shards", "shard_s");
        let error = format!("{:#}", load(&text, &[], &[]).expect_err("it has an unknown key"));
        assert!(error.contains("line 4") && error.contains("did you mean `shards`?"), "{error}");
        let error = load(GOOD, &[], &["chain.chian_id=4"]).expect_err("it has an unknown key");
        assert!(format!("{error:#}").contains("did you mean `chain_id`?"), "{error:#}");
    }

    #[test]
    fn nonsense_is_refused_with_a_reason() {
        for (setting, reason) in [
            ("chain.shards=0", "use 1 to 1024"),
            ("chain.shards=many", "invalid type"),
            ("shard=[{id=7}]", "no shard 7"),
            ("shard=[{id=0},{id=0}]", "twice"),
            ("chain", "--set key=value"),
            ("storage.index=\"btree\"", "unknown variant `btree`"),
        ] {
            let error = load(GOOD, &[], &[setting]).expect_err(setting);
            assert!(format!("{error:#}").contains(reason), "{setting}: {error:#}");
        }
    }
}
