//! Starts the actors that a configuration names, and links each to the others, wherever they stand.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::Path,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use anyhow::Context as _;
use atoll_api::{
    beacon::BeaconClient, executor::ExecutorClient, mempool::MempoolClient, router::RouterClient,
    state::StateClient,
};
use atoll_beacon::{BeaconService, Cadence};
use atoll_evm::Helpers;
use atoll_executor::{ExecutorConfig, ExecutorService};
use atoll_fabric::{
    Local, Place, Remote,
    tls::{Connector, Role as Peer},
};
use atoll_gateway::{BeaconLinks, Clock, Ledger, Rpc, RpcConfig, RpcLinks, ShardLinks};
use atoll_mempool::MempoolService;
use atoll_router::{RouterConfig, RouterService};
use atoll_state::StateService;
use atoll_telemetry::metrics;
use atoll_types::{Placement, ShardId};
use tokio::task::JoinHandle;
use tonic::{service::RoutesBuilder, transport::Endpoint};

use crate::{
    backup,
    config::{Config, Role, Shard, ShardAddress},
    genesis::{Genesis, keys_are_public, keys_of_chain, sets_clock},
    listen::{Entrance, MAX_MESSAGE_BYTES, Port, internal_server},
    ready,
    secure::Secure,
    slot::Slot,
    telemetry::{Attributes, Gatherer, MetricsPort},
    world::{Process, World},
};

/// Links to the four actors of one shard.
#[derive(Clone)]
pub struct ShardClients {
    pub mempool: MempoolClient,
    pub executor: ExecutorClient,
    pub state: StateClient,
    pub router: RouterClient,
}

impl ShardClients {
    fn for_gateway(&self) -> ShardLinks {
        ShardLinks::new(&self.mempool, &self.executor, &self.state, &self.router)
    }
}

/// Where the actors of one shard will stand, if they stand here.
struct Slots {
    mempool: Slot<Local<MempoolService>>,
    executor: Slot<Local<ExecutorService>>,
    state: Slot<Local<StateService>>,
    router: Slot<Local<RouterService>>,
}

/// The part of a cluster that runs in this process.
pub struct Cluster {
    /// Links to every shard, in order.
    pub shards: Vec<ShardClients>,
    pub beacon: BeaconClient,
    pub genesis: Genesis,
    pub placement: Placement,
    world: Arc<dyn World>,
    /// Threads that all executors of the process share.
    helpers: Arc<dyn Helpers>,
    /// Where clients reach the public API, if it stands here.
    pub gateway: Option<SocketAddr>,
    /// Where Ethereum's tools reach it, if that stands here.
    pub rpc: Option<SocketAddr>,
    rpc_server: Option<Rpc>,
    /// The beacon's, if JSON-RPC may set it.
    clock_set: Option<Clock>,
    /// Where operators reach it, if that stands here.
    pub admin: Option<SocketAddr>,
    /// Where Prometheus reaches it, if it is told to.
    pub metrics: Option<SocketAddr>,
    metrics_port: Option<MetricsPort>,
    /// Closed from the outside in.
    ports: Vec<Port>,
    slots: Vec<Slots>,
    beacon_slot: Slot<Local<BeaconService>>,
    places: Vec<Place>,
    /// Who tells whether it is ready.
    ready: Option<JoinHandle<()>>,
    secure: Secure,
    /// Between saying "not serving" and closing the ports.
    drain: Duration,
}

impl Cluster {
    pub async fn start(config: &Config) -> anyhow::Result<Self> {
        Self::start_in(config, Arc::new(Process)).await
    }

    /// Starts it in a world that need not be this process's own.
    pub async fn start_in(config: &Config, world: Arc<dyn World>) -> anyhow::Result<Self> {
        if config.metrics.is_some() {
            // Before anything starts that counts.
            let clock = world.clone();
            metrics::install(Arc::new(move || clock.nanos()));
        }
        let genesis = Genesis::new(&config.chain)?;
        let placement = config.chain.placement();
        let clock = world.clone();
        let secure = Secure::open(config, Arc::new(move || clock.now_ms()))?;
        let slots: Vec<Slots> = (0..config.chain.shards).map(|_| Slots::new()).collect();
        let shards = slots
            .iter()
            .zip(0..)
            .map(|(slots, id)| slots.clients(config, &*world, &secure, id))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let beacon_slot = Slot::new();
        let beacon = match &config.beacon {
            Some(_) => BeaconClient::new(beacon_slot.clone()),
            None => {
                let url = config.address.beacon.as_deref();
                let url =
                    url.context("address.beacon is missing: the beacon does not stand here")?;
                let connector = secure.connector(Peer::Beacon)?;
                BeaconClient::new(remote(config, &*world, connector, url)?)
            }
        };
        let mut cluster = Self {
            shards,
            beacon,
            genesis,
            placement,
            helpers: world.helpers(config.limits.execution_threads)?,
            world,
            gateway: None,
            rpc: None,
            rpc_server: None,
            clock_set: None,
            admin: None,
            metrics: None,
            metrics_port: None,
            ports: Vec::new(),
            slots,
            beacon_slot,
            places: Vec::new(),
            ready: None,
            secure,
            drain: Duration::from_millis(config.limits.drain_ms),
        };
        cluster.start_beacon(config).await?;
        // States first: the others ask them at once.
        let place = |shard: &Shard| cluster.world.place(&format!("shard-{}", shard.id));
        let places: Vec<Place> = config.shard.iter().map(place).collect();
        for (shard, place) in config.shard.iter().zip(&places) {
            if shard.roles.contains(&Role::State) {
                cluster.start_state(config, shard.id, place)?;
            }
        }
        for (shard, place) in config.shard.iter().zip(&places) {
            cluster.start_shard(config, shard, place).await?;
        }
        cluster.places.extend(places);
        cluster.start_gateway(config).await?;
        cluster.start_admin(config).await?;
        cluster.start_metrics(config).await?;
        cluster.start_health(config).await?;
        Ok(cluster)
    }

    /// Has the health service of every port tell from now on whether this process is ready.
    pub fn tell_readiness(&mut self, config: &Config) {
        let needs = ready::Needs::of(config, &self.beacon, &self.shards);
        let reporters = self.ports.iter().map(|port| port.health.clone()).collect();
        self.ready = Some(tokio::spawn(needs.tell(reporters)));
    }

    fn clock(&self) -> Arc<dyn Fn() -> u64 + Send + Sync> {
        let world = self.world.clone();
        Arc::new(move || world.now_ms())
    }

    async fn start_beacon(&mut self, config: &Config) -> anyhow::Result<()> {
        let Some(beacon) = &config.beacon else { return Ok(()) };
        let dir = config.data.join("beacon");
        let mut storage = self.world.storage(&dir, config)?;
        let planner = self.genesis.planner.clone();
        let core = atoll_beacon::Core::open(
            planner,
            storage.log.as_mut(),
            storage.index,
            Some(&storage.snapshots),
        )
        .with_context(|| format!("cannot open the beacon in {}", dir.display()))?;
        let place = self.world.place("beacon");
        let usual = Cadence::default();
        let or = |given: u64, usual: u64| if given == 0 { usual } else { given };
        let cadence = Cadence {
            block_ms: or(beacon.block_ms, usual.block_ms),
            min_block_ms: or(beacon.min_block_ms, usual.min_block_ms),
            heartbeat_ms: or(beacon.heartbeat_ms, usual.heartbeat_ms),
        };
        let (log, snapshots) = (storage.log, storage.snapshots);
        let snapshotting = config.storage.snapshots();
        let (mut clock, world) = (self.clock(), self.world.clone());
        if sets_clock(config) {
            // What was set ahead stays so: time never falls.
            let ahead = core.planner().head().time_ms.saturating_sub(clock());
            let set = Clock { now_ms: clock, ahead_ms: Arc::new(AtomicU64::new(ahead)) };
            self.clock_set = Some(set.clone());
            clock = Arc::new(move || set.told_ms());
        }
        let randomness = Arc::new(move || world.random());
        self.beacon_slot.fill(Local::start(&place, config.limits.actor_calls, move || {
            BeaconService::new(core, log, cadence, clock, randomness)
                .with_snapshots(snapshots, snapshotting)
        }));
        self.places.push(place);
        if let Some(listen) = beacon.listen {
            let server = atoll_beacon::grpc::server(self.beacon.clone(), MAX_MESSAGE_BYTES);
            let names = ["atoll.v1.BeaconService"];
            let entrance = self.secure.entrance(&names, None)?;
            let port = Port::open(&*self.world, entrance, listen, &names, |routes| {
                routes.add_service(server);
            });
            self.ports.push(port.await?);
        }
        Ok(())
    }

    /// Starts every role but the state.
    async fn start_shard(
        &mut self,
        config: &Config,
        shard: &Shard,
        place: &Place,
    ) -> anyhow::Result<()> {
        for role in &shard.roles {
            match role {
                Role::State => {}
                Role::Mempool => self.start_mempool(config, shard.id, place),
                Role::Executor => self.start_executor(config, shard.id, place),
                Role::Router => self.start_router(config, shard.id, place),
            }
        }
        if let Some(listen) = shard.listen {
            let clients = self.shards[usize::from(shard.id)].clone();
            let roles = shard.roles.clone();
            let names: Vec<_> = roles.iter().map(|role| service_name(*role)).collect();
            let entrance = self.secure.entrance(&names, Some(shard.id))?;
            let port = Port::open(&*self.world, entrance, listen, &names, |routes| {
                roles.iter().for_each(|role| add_role(routes, *role, &clients));
            });
            self.ports.push(port.await?);
        }
        Ok(())
    }

    fn start_state(&self, config: &Config, id: u16, place: &Place) -> anyhow::Result<()> {
        let dir = config.data.join(format!("shard-{id}"));
        let mut storage = self.world.storage(&dir, config)?;
        let tree = self.world.tree(&dir, config.limits.tree_cache_bytes);
        let core = self.genesis.core_config(&config.chain, id, config.limits.cached_values, tree);
        let core = atoll_state::Core::open(
            &core,
            storage.log.as_mut(),
            storage.index,
            Some(&storage.snapshots),
        )
        .with_context(|| format!("cannot open shard {id} in {}", dir.display()))?;
        let (log, snapshots) = (storage.log, storage.snapshots);
        let snapshotting = config.storage.snapshots();
        let development = keys_are_public(&config.chain);
        let service = Local::start(place, config.limits.actor_calls, move || {
            let core = if development { core.for_development() } else { core };
            StateService::new(core, log).with_snapshots(snapshots, snapshotting)
        });
        self.slots[usize::from(id)].state.fill(service);
        Ok(())
    }

    fn start_mempool(&self, config: &Config, id: u16, place: &Place) {
        let state = self.shards[usize::from(id)].state.clone();
        let limits = atoll_mempool::Limits {
            block_gas_limit: self.genesis.planner.gas_limit,
            ..atoll_mempool::Limits::default()
        };
        let placement = std::sync::Arc::new(self.placement.clone());
        let pool = atoll_mempool::Config { shard: ShardId(id), placement, limits };
        let clock = self.clock();
        let service = Local::start(place, config.limits.actor_calls, move || {
            let pool = atoll_mempool::Pool::new(pool);
            MempoolService::new(pool, state.read, state.sync, state.tell_dropped, clock)
        });
        self.slots[usize::from(id)].mempool.fill(service);
    }

    fn start_executor(&self, config: &Config, id: u16, place: &Place) {
        let (clients, world) = (self.shards[usize::from(id)].clone(), self.world.clone());
        let executor = ExecutorConfig {
            rules: config.chain.genesis.rules(),
            shard: ShardId(id),
            placement: self.placement.clone(),
            max_block_txs: config.limits.block_txs,
            max_block_gas: self.genesis.planner.gas_limit,
            cached_values: config.limits.cached_values,
            max_debits: 16 * config.limits.block_txs as usize,
            speculative_gas: config.limits.speculative_gas,
            call_timeout: Duration::from_millis(config.limits.call_timeout_ms),
            helpers: self.helpers.clone(),
            stopwatch: Arc::new(move || world.nanos()),
            machine: self.world.machine(),
        };
        let session = self.world.now_ms();
        let service = Local::start(place, config.limits.actor_calls, move || {
            let ShardClients { mempool, state, router, .. } = clients;
            ExecutorService::new(executor, mempool, state, router, session)
        });
        self.slots[usize::from(id)].executor.fill(service);
    }

    fn start_router(&self, config: &Config, id: u16, place: &Place) {
        let clients = self.shards[usize::from(id)].clone();
        let others = self.shards.iter().zip(0..).filter(|(_, other)| *other != id);
        let peers: HashMap<ShardId, RouterClient> =
            others.map(|(clients, other)| (ShardId(other), clients.router.clone())).collect();
        let beacon = self.beacon.clone();
        let router = RouterConfig {
            refresh: Duration::from_millis(config.limits.refresh_ms),
            call_timeout: Duration::from_millis(config.limits.call_timeout_ms),
            ..RouterConfig::new(ShardId(id), config.chain.chain_id, self.placement.clone())
        };
        let service = Local::start(place, config.limits.actor_calls, move || {
            let ShardClients { mempool, executor, state, .. } = clients;
            RouterService::new(router, mempool, executor, state, beacon, peers)
        });
        self.slots[usize::from(id)].router.fill(service);
    }

    async fn start_gateway(&mut self, config: &Config) -> anyhow::Result<()> {
        let Some(gateway) = &config.gateway else { return Ok(()) };
        let limits = atoll_gateway::Limits::default();
        let threads = config.limits.recovery_threads;
        let ledger = Ledger::start(atoll_gateway::Config {
            chain_id: config.chain.chain_id,
            placement: self.placement.clone(),
            shards: self.shards.iter().map(ShardClients::for_gateway).collect(),
            beacon: BeaconLinks::new(&self.beacon),
            recovery: self.world.pool("recovery", threads, 1_024)?,
            calls: self.world.pool("calls", threads, 256)?,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            rules: config.chain.genesis.rules(),
            limits: limits.clone(),
        });
        if let Some(listen) = gateway.rpc {
            self.start_rpc(config, &ledger, listen).await?;
        }
        let names = ["atoll.v1.LedgerService"];
        let entrance = self.secure.public(limits.server(), limits.door)?;
        let port = Port::open(&*self.world, entrance, gateway.listen, &names, |routes| {
            routes.add_service(ledger.into_server());
        });
        let port = port.await?;
        self.gateway = Some(port.address);
        self.ports.push(port);
        Ok(())
    }

    async fn start_rpc(
        &mut self,
        config: &Config,
        ledger: &Ledger,
        listen: SocketAddr,
    ) -> anyhow::Result<()> {
        // Any page may have it sign in development, so never with keys that are somebody's own.
        let public = keys_are_public(&config.chain);
        let links = self.shards.iter().map(|shard| RpcLinks::new(&shard.mempool, &shard.state));
        let rpc = RpcConfig {
            listen,
            links: links.collect(),
            genesis: Arc::new(self.genesis.block.clone()),
            development: public,
            clock: self.clock_set.clone(),
            signers: if public { keys_of_chain(&config.chain)? } else { Vec::new() },
        };
        let rpc = Rpc::start(ledger, rpc).await;
        let rpc = rpc.with_context(|| {
            format!("cannot serve JSON-RPC at {listen}; give another port, or `off`")
        })?;
        self.rpc = Some(rpc.address);
        self.rpc_server = Some(rpc);
        Ok(())
    }

    async fn start_admin(&mut self, config: &Config) -> anyhow::Result<()> {
        let Some(admin) = &config.admin else { return Ok(()) };
        let states = self.shards.iter().map(|shard| shard.state.clone()).collect();
        let server = backup::server(self.beacon.clone(), states, config.chain.clone());
        let names = ["atoll.v1.AdminService"];
        let entrance = self.secure.entrance(&names, None)?;
        let port = Port::open(&*self.world, entrance, admin.listen, &names, |routes| {
            routes.add_service(server);
        });
        let port = port.await?;
        self.admin = Some(port.address);
        self.ports.push(port);
        Ok(())
    }

    async fn start_metrics(&mut self, config: &Config) -> anyhow::Result<()> {
        let Some(metrics) = &config.metrics else { return Ok(()) };
        let resource = Attributes::new(config, std::env::vars());
        let port = MetricsPort::open(metrics.listen, self.gatherer(config), resource).await?;
        tracing::info!(address = %port.address, "metrics are served");
        self.metrics = Some(port.address);
        self.metrics_port = Some(port);
        Ok(())
    }

    /// What asks the services of this process for their counts.
    pub fn gatherer(&self, config: &Config) -> Gatherer {
        Gatherer::new(config, &self.shards, &self.beacon)
    }

    async fn start_health(&mut self, config: &Config) -> anyhow::Result<()> {
        let Some(health) = &config.health else { return Ok(()) };
        let names = ready::names(config);
        let entrance = Entrance::plain(internal_server());
        let port = Port::open(&*self.world, entrance, health.listen, &names, |_| {});
        // Closed last: it says "not serving" for as long as it can.
        self.ports.insert(0, port.await?);
        Ok(())
    }

    /// Stops from the outside in, so that each actor can finish what it has taken on.
    pub async fn stop(mut self) {
        if let Some(ready) = self.ready.take() {
            ready.abort();
            // It must not say "ready" once a port has said the opposite.
            let _ = ready.await;
        }
        if let Some(port) = self.metrics_port.take() {
            port.close();
        }
        // Whoever looks for a process to talk to finds another one, and those that talk to this one go
        // on for as long as that takes.
        for port in &self.ports {
            port.drain().await;
        }
        tokio::time::sleep(self.drain).await;
        if let Some(rpc) = self.rpc_server.take() {
            rpc.stop().await;
        }
        while let Some(port) = self.ports.pop() {
            port.close().await;
        }
        // Those that call first, those that are called last.
        for slots in &self.slots {
            stop(&slots.executor).await;
        }
        for slots in &self.slots {
            stop(&slots.router).await;
        }
        for slots in &self.slots {
            stop(&slots.mempool).await;
            stop(&slots.state).await;
        }
        stop(&self.beacon_slot).await;
        for place in self.places {
            place.stop().await;
        }
    }
}

async fn stop<S: atoll_fabric::Service>(slot: &Slot<Local<S>>) {
    if let Some(local) = slot.get() {
        local.stop().await;
    }
}

impl Slots {
    fn new() -> Self {
        Self {
            mempool: Slot::new(),
            executor: Slot::new(),
            state: Slot::new(),
            router: Slot::new(),
        }
    }

    /// Links to a shard's actors: to those that stand here, and to the others by their address.
    fn clients(
        &self,
        config: &Config,
        world: &dyn World,
        secure: &Secure,
        id: u16,
    ) -> anyhow::Result<ShardClients> {
        let at = |role: Role| {
            let connector = secure.connector(Peer::Shard(id))?;
            remote(config, world, connector, &address(config, id, role)?)
        };
        Ok(ShardClients {
            mempool: match config.hosts(id, Role::Mempool) {
                true => MempoolClient::new(self.mempool.clone()),
                false => MempoolClient::new(at(Role::Mempool)?),
            },
            executor: match config.hosts(id, Role::Executor) {
                true => ExecutorClient::new(self.executor.clone()),
                false => ExecutorClient::new(at(Role::Executor)?),
            },
            state: match config.hosts(id, Role::State) {
                true => StateClient::new(self.state.clone()),
                false => StateClient::new(at(Role::State)?),
            },
            router: match config.hosts(id, Role::Router) {
                true => RouterClient::new(self.router.clone()),
                false => RouterClient::new(at(Role::Router)?),
            },
        })
    }
}

fn address(config: &Config, id: u16, role: Role) -> anyhow::Result<String> {
    let entry = config.address.shard.iter().find(|entry| entry.id == id);
    let named = |entry: &ShardAddress| {
        let own = match role {
            Role::Mempool => &entry.mempool,
            Role::Executor => &entry.executor,
            Role::State => &entry.state,
            Role::Router => &entry.router,
        };
        own.clone().or_else(|| entry.all.clone())
    };
    entry.and_then(named).with_context(|| {
        format!("{role:?} of shard {id} does not stand here and [[address.shard]] does not name it")
    })
}

fn remote(
    config: &Config,
    world: &dyn World,
    connector: Option<Connector>,
    url: &str,
) -> anyhow::Result<Remote> {
    let endpoint = Endpoint::from_shared(url.to_owned())
        .with_context(|| format!("{url} is no URL; use http://host:port"))?
        .tcp_nodelay(true)
        .connect_timeout(Duration::from_secs(2))
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(10));
    // Long polls wait up to half a minute by themselves; everything else brings its own deadline.
    let timeout = Duration::from_secs(60);
    let channel = match connector {
        Some(connector) => world.connect_tls(endpoint, connector),
        None => world.connect(endpoint),
    };
    Ok(Remote::new(channel, config.limits.actor_calls, timeout))
}

pub(crate) fn service_name(role: Role) -> &'static str {
    match role {
        Role::Mempool => "atoll.v1.MempoolService",
        Role::Executor => "atoll.v1.ExecutorService",
        Role::State => "atoll.v1.StateService",
        Role::Router => "atoll.v1.RouterService",
    }
}

fn add_role(routes: &mut RoutesBuilder, role: Role, clients: &ShardClients) {
    let max = MAX_MESSAGE_BYTES;
    match role {
        Role::Mempool => {
            routes.add_service(atoll_mempool::grpc::server(clients.mempool.clone(), max));
        }
        Role::Executor => {
            routes.add_service(atoll_executor::grpc::server(clients.executor.clone(), max));
        }
        Role::State => {
            routes.add_service(atoll_state::grpc::server(clients.state.clone(), max));
        }
        Role::Router => {
            routes.add_service(atoll_router::grpc::server(clients.router.clone(), max));
        }
    }
}

/// A configuration in which everything stands in this process.
pub fn all_here(chain: crate::config::Chain, data: &Path, gateway: SocketAddr) -> Config {
    Config {
        shard: (0..chain.shards)
            .map(|id| Shard { id, roles: Role::ALL.to_vec(), listen: None })
            .collect(),
        chain,
        data: data.to_owned(),
        beacon: Some(crate::config::Beacon::default()),
        gateway: Some(crate::config::Gateway { listen: gateway, rpc: None }),
        admin: None,
        metrics: None,
        health: None,
        address: crate::config::Addresses::default(),
        limits: crate::config::Limits::default(),
        storage: crate::config::Storage::default(),
        tls: crate::config::Tls::default(),
    }
}
