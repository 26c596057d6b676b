//! A shard that stands apart from the rest of a cluster, reached over the network, so that it can be
//! stopped and started while the rest goes on.

use anyhow::Context as _;
use atoll::{
    cluster::{Cluster, all_here},
    config::{Config, ShardAddress},
};

use crate::{
    here::{Here, Shape},
    processes::free_port,
};

/// The part of a cluster that is one shard.
pub struct Apart {
    config: Config,
    cluster: Option<Cluster>,
}

impl Apart {
    /// Stops the shard, if it runs.
    pub async fn stop(&mut self) {
        if let Some(cluster) = self.cluster.take() {
            cluster.stop().await;
        }
    }

    /// Starts the shard on what it has left, if it does not run.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        if self.cluster.is_none() {
            self.cluster = Some(Cluster::start(&self.config).await?);
        }
        Ok(())
    }
}

impl Here {
    /// A cluster of which one shard stands apart.
    pub async fn start_with_apart(shape: &Shape, shard: u16) -> anyhow::Result<(Self, Apart)> {
        let data = tempfile::tempdir().context("cannot make a directory for the cluster")?;
        let mut config = all_here(shape.chain(), data.path(), "127.0.0.1:0".parse()?);
        let mut addresses = Vec::new();
        for entry in &mut config.shard {
            let listen = free_port()?;
            entry.listen = Some(listen);
            let all = Some(format!("http://{listen}"));
            addresses.push(ShardAddress { id: entry.id, all, ..ShardAddress::default() });
        }
        let listen = free_port()?;
        let mut beacon = shape.beacon.clone();
        beacon.listen = Some(listen);

        let mut away = config.clone();
        away.shard.retain(|entry| entry.id == shard);
        away.beacon = None;
        away.gateway = None;
        away.address.beacon = Some(format!("http://{listen}"));
        away.address.shard = addresses.clone();

        config.shard.retain(|entry| entry.id != shard);
        config.beacon = Some(beacon);
        config.address.shard = addresses;

        let here = Self::open(config, data).await?;
        let mut apart = Apart { config: away, cluster: None };
        apart.start().await?;
        Ok((here, apart))
    }
}
