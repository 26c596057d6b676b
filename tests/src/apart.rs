//! A shard that stands apart from the rest of a cluster, reached over the network, so that it can be
//! stopped and started while the rest goes on.

use std::{
    net::{SocketAddr, TcpListener},
    sync::atomic::{AtomicU16, Ordering},
};

use anyhow::{Context as _, bail};
use atoll::{
    cluster::{Cluster, all_here},
    config::{Config, ShardAddress},
};

use crate::here::{Here, Shape};

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

/// A port of this machine that nobody listens on, below those that the kernel gives to outgoing
/// connections.
fn free_port() -> anyhow::Result<SocketAddr> {
    const FIRST: u16 = 10_000;
    const COUNT: u16 = 5_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Where to begin: not where another run of these tests does.
    let start = (std::process::id() % u32::from(COUNT)) as u16;
    for _ in 0..COUNT {
        let offset = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + start.wrapping_mul(97).wrapping_add(offset) % COUNT;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no port is free")
}
