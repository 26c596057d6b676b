//! A cluster in this process, on a directory and a port of its own.

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256, U256};
use anyhow::Context as _;
use atoll::{
    cluster::{Cluster, all_here},
    config::{Beacon, Chain, Config, Limits, Storage},
};
use atoll_api::{
    beacon::Head,
    mempool::Status,
    state::{Lookup, Outbox, Sync},
};
use atoll_fabric::Context;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::{
    CHAIN_ID, PATIENCE,
    api::{Api, RETRY},
};

/// Time of beacon block 0, in milliseconds since 1970: a round number in the past.
const GENESIS_TIME_MS: u64 = 1_700_000_000_000;

/// What a cluster begins with, besides the ten development accounts.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    pub shards: u16,
    /// In wei.
    pub balances: BTreeMap<Address, U256>,
    /// Shards of addresses that do not stand where their hash would put them.
    pub placement: BTreeMap<Address, u16>,
    pub beacon: Beacon,
    pub limits: Limits,
    pub storage: Storage,
    /// Serve JSON-RPC too.
    pub rpc: bool,
}

impl Shape {
    pub fn new(shards: u16) -> Self {
        Self { shards, ..Self::default() }
    }

    /// What every process of such a cluster is told.
    pub fn chain(&self) -> Chain {
        Chain {
            chain_id: CHAIN_ID,
            shards: self.shards,
            genesis_time_ms: GENESIS_TIME_MS,
            coinbase: Address::repeat_byte(0xc0),
            development: true,
            balances: self.balances.iter().map(|(a, wei)| (*a, wei.to_string())).collect(),
            placement: self.placement.clone(),
            genesis: Default::default(),
        }
    }
}

/// A running cluster.
pub struct Here {
    pub cluster: Cluster,
    pub config: Config,
    pub api: Api,
    data: TempDir,
}

impl Here {
    pub async fn start(shape: &Shape) -> anyhow::Result<Self> {
        let data = tempfile::tempdir().context("cannot make a directory for the cluster")?;
        let listen = "127.0.0.1:0".parse()?;
        let mut config = all_here(shape.chain(), data.path(), listen);
        config.beacon = Some(shape.beacon.clone());
        config.limits = shape.limits.clone();
        config.storage = shape.storage.clone();
        if let Some(gateway) = config.gateway.as_mut().filter(|_| shape.rpc) {
            gateway.rpc = Some(listen);
        }
        Self::open(config, data).await
    }

    /// Starts on what an earlier one has left.
    pub async fn open(config: Config, data: TempDir) -> anyhow::Result<Self> {
        let cluster = Cluster::start(&config).await?;
        let address = cluster.gateway.context("the cluster has no gateway")?;
        let api = Api::connect(&format!("http://{address}")).await?;
        Ok(Self { cluster, config, api, data })
    }

    /// Stops the cluster and starts it again on what it has left.
    pub async fn restart(self) -> anyhow::Result<Self> {
        let Self { cluster, config, data, .. } = self;
        cluster.stop().await;
        Self::open(config, data).await
    }

    /// Whether the sender's shard knows nothing of a transaction: it is in no block and not on its way
    /// across shards.
    pub async fn is_unknown(&self, sender: Address, tx: B256) -> anyhow::Result<bool> {
        let shard = usize::from(self.cluster.placement.owner(&sender).0);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let context = Context::none().with_timeout(PATIENCE);
            let ask = Lookup { txs: vec![tx] };
            match self.cluster.shards[shard].state.lookup.call(context, ask).await {
                Ok(known) => return Ok(known.statuses.iter().all(Option::is_none)),
                Err(error) if Instant::now() >= deadline => return Err(error.into()),
                Err(_) => tokio::time::sleep(RETRY).await,
            }
        }
    }

    /// What is under way on the shards and at the beacon, for whoever finds that something does not
    /// end.
    pub async fn describe(&self) -> anyhow::Result<String> {
        let context = || Context::none().with_timeout(PATIENCE);
        let head = self.cluster.beacon.head.call(context(), Head).await?;
        let mut lines = vec![format!(
            "beacon: block {}, {} intents, {} groups, settled {}",
            head.block.number(),
            head.intents_waiting,
            head.groups_open,
            head.block.settled
        )];
        for (clients, shard) in self.cluster.shards.iter().zip(0..) {
            let pool = clients.mempool.status.call(context(), Status).await?;
            let outbox = clients.state.outbox.call(context(), Outbox).await?;
            let ask = Sync { after: 0, wait_ms: 0, full: false };
            let sync = clients.state.sync.call(context(), ask).await?;
            lines.push(format!("shard {shard}: {:?}, {pool:?}", sync.tip));
            for change in sync.changes {
                lines.push(format!("  pinned {:?}, fenced {:?}", change.pinned, change.fenced));
            }
            lines.push(format!("  {outbox:?}"));
        }
        Ok(lines.join("\n"))
    }

    /// Stops the cluster. What it has kept is in the directory, which goes when it is dropped.
    pub async fn stop(self) -> TempDir {
        self.cluster.stop().await;
        self.data
    }
}
