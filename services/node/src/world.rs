//! What a process has of the world around it: clocks, randomness, threads, disks, the network. A
//! simulation hands in another one, and runs everything else as it is.

use std::{net::SocketAddr, path::Path, sync::Arc};

use atoll_evm::Helpers;
use atoll_fabric::{
    Door, Machine, Place,
    tls::{self, Acceptor, Connector},
};
use atoll_gateway::Pool;
use atoll_state::TreeConfig;
use atoll_store::{Index, Log, Snapshots};
use atoll_types::B256;
use futures::future::BoxFuture;
use tokio::{net::TcpListener, task::JoinHandle};
use tonic::{
    service::Routes,
    transport::{Channel, Endpoint, server::Router},
};

use crate::{config::Config, place, storage};

/// The log of record, the index and the snapshots of one actor.
pub struct Storage {
    pub log: Box<dyn Log>,
    pub index: Arc<dyn Index>,
    pub snapshots: Snapshots,
}

/// A port that is being served.
pub struct Served {
    pub address: SocketAddr,
    pub task: JoinHandle<Result<(), tonic::transport::Error>>,
}

pub trait World: Send + Sync {
    /// Milliseconds since 1970.
    fn now_ms(&self) -> u64;

    fn random(&self) -> B256;

    /// Nanoseconds of a clock that only rises.
    fn nanos(&self) -> u64;

    fn machine(&self) -> Machine;

    /// Where actors stand that get a thread of their own, if there are threads.
    fn place(&self, name: &str) -> Place;

    /// Threads that help whoever runs a block, so that it runs on `threads` in all.
    fn helpers(&self, threads: usize) -> anyhow::Result<Arc<dyn Helpers>>;

    fn pool(&self, name: &'static str, threads: usize, queue: usize) -> anyhow::Result<Pool>;

    /// Opens what an actor keeps below `dir`.
    fn storage(&self, dir: &Path, config: &Config) -> anyhow::Result<Storage>;

    /// Where a shard's tree has the leaves that are not in memory.
    fn tree(&self, dir: &Path, leaf_bytes: usize) -> TreeConfig;

    /// A channel to another process, which connects when it is used.
    fn connect(&self, endpoint: Endpoint) -> Channel;

    /// The same with TLS.
    fn connect_tls(&self, endpoint: Endpoint, connector: Connector) -> Channel {
        connector.lazy(&endpoint)
    }

    /// Adds to what a port serves.
    fn routes(&self, routes: Routes) -> Routes {
        routes
    }

    /// Serves `router` until `stop` is done, in plain text or with `tls`.
    fn serve(
        &self,
        listen: SocketAddr,
        door: Door,
        tls: Option<Acceptor>,
        router: Router,
        stop: BoxFuture<'static, ()>,
    ) -> BoxFuture<'static, std::io::Result<Served>>;
}

/// The world of this process.
pub struct Process;

impl World for Process {
    fn now_ms(&self) -> u64 {
        place::now_ms()
    }

    fn random(&self) -> B256 {
        B256::from(rand::random::<[u8; 32]>())
    }

    fn nanos(&self) -> u64 {
        place::stopwatch()()
    }

    fn machine(&self) -> Machine {
        Machine::real()
    }

    fn place(&self, name: &str) -> Place {
        Place::new(name)
    }

    fn helpers(&self, threads: usize) -> anyhow::Result<Arc<dyn Helpers>> {
        place::helpers(threads)
    }

    fn pool(&self, name: &'static str, threads: usize, queue: usize) -> anyhow::Result<Pool> {
        Ok(Pool::start(name, threads, queue)?)
    }

    fn storage(&self, dir: &Path, config: &Config) -> anyhow::Result<Storage> {
        storage::open(dir, config)
    }

    fn tree(&self, dir: &Path, leaf_bytes: usize) -> TreeConfig {
        storage::tree(dir, leaf_bytes)
    }

    fn connect(&self, endpoint: Endpoint) -> Channel {
        tls::plain(&endpoint)
    }

    fn serve(
        &self,
        listen: SocketAddr,
        door: Door,
        tls: Option<Acceptor>,
        router: Router,
        stop: BoxFuture<'static, ()>,
    ) -> BoxFuture<'static, std::io::Result<Served>> {
        Box::pin(async move {
            let listener = TcpListener::bind(listen).await?;
            let address = listener.local_addr()?;
            let serving = router.serve_with_incoming_shutdown(door.open(listener, tls), stop);
            Ok(Served { address, task: tokio::spawn(serving) })
        })
    }
}
