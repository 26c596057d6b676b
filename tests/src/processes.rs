//! A cluster of `atoll node` processes on loopback: a beacon, two shards that stand in one process
//! each, one that stands in four, and a gateway.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, bail, ensure};
use atoll::{
    config::{
        Addresses, Admin, Beacon, Chain, Config, Gateway, IndexKind, Limits, Role, Shard,
        ShardAddress, Storage, Tls,
    },
    genesis::Genesis,
};
use atoll_types::{Address, Placement};
use atoll_wire::v1::ledger_service_client::LedgerServiceClient;
use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};
use tonic::transport::Endpoint;

use crate::{CHAIN_ID, PATIENCE, api::Api};

/// Number of shards. The last one is split.
pub const SHARDS: u16 = 3;
/// The shard of which each role is a process.
pub const SPLIT: u16 = SHARDS - 1;

pub const BEACON: &str = "beacon";
pub const GATEWAY: &str = "gateway";
/// Where the gateway's process serves operators.
pub const ADMIN: &str = "admin";
/// What clients are called where it says who reaches whom.
pub const CLIENT: &str = "client";

/// Clusters run one after another: each of them keeps a machine busy.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// Time between two looks at something that a process has to do.
const LOOK: Duration = Duration::from_millis(20);

/// A port of this machine that nobody listens on. They are taken from below those that the kernel
/// gives to outgoing connections: else one of these could take the port of a process that is
/// restarted, or connect to itself.
pub fn free_port() -> anyhow::Result<SocketAddr> {
    const FIRST: u16 = 15_000;
    const COUNT: u16 = 17_000;
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

/// Waits until `look` finds something.
pub async fn until<T>(
    what: &str,
    mut look: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        ensure!(Instant::now() < deadline, "{what}: not after {PATIENCE:?}");
        tokio::time::sleep(LOOK).await;
    }
}

/// A process, killed when it is dropped. If the test has failed by then, what it logged is shown.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Runs `atoll node` with the binary `atoll`; what it logs is added to `log`.
    pub fn start(atoll: &Path, name: &str, config: &Path, log: &Path) -> anyhow::Result<Self> {
        Self::start_by(Command::new(atoll), name, config, log, &BTreeMap::new())
    }

    /// As [`Process::start`]; `command` runs the binary with the arguments that are added to it.
    fn start_by(
        mut command: Command,
        name: &str,
        config: &Path,
        log: &Path,
        variables: &BTreeMap<String, String>,
    ) -> anyhow::Result<Self> {
        let file = File::options().create(true).append(true).open(log)?;
        let ours = |name: &str| name.starts_with("ATOLL_") || name.starts_with("OTEL_");
        for (name, _) in std::env::vars().filter(|(name, _)| ours(name)) {
            command.env_remove(name);
        }
        let child = command
            .args(["node", "--config"])
            .arg(config)
            .envs([("RUST_LOG", "info"), ("NO_COLOR", "1")])
            .envs(variables)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// Everything that it has logged.
    pub fn logged(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until it has ended by itself.
    pub async fn ended(&mut self) -> anyhow::Result<ExitStatus> {
        let what = format!("{} ends", self.name);
        until(&what, async || Ok(self.child.try_wait()?)).await
    }

    /// Fails if it has ended.
    pub fn is_running(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("{} has ended: {status}", self.name),
            None => Ok(()),
        }
    }

    /// Waits until it says that it has started.
    pub async fn started(&mut self) -> anyhow::Result<()> {
        let what = format!("{} starts", self.name);
        until(&what, async || {
            self.is_running()?;
            Ok(self.logged().contains("started").then_some(()))
        })
        .await
    }

    /// SIGKILL: it cannot do anything about it.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.is_running()?;
        self.child.kill()?;
        ensure!(self.child.wait()?.signal() == Some(9), "{} has ended otherwise", self.name);
        Ok(())
    }

    /// SIGTERM.
    pub fn terminate(&mut self) -> anyhow::Result<()> {
        self.signal("TERM")
    }

    /// Sends a signal, such as `STOP`.
    pub fn signal(&mut self, name: &str) -> anyhow::Result<()> {
        self.is_running()?;
        let kill = format!("kill -{name} {}", self.child.id());
        ensure!(Command::new("sh").args(["-c", &kill]).status()?.success(), "cannot `{kill}`");
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let logged = self.logged();
            let lines: Vec<_> = logged.lines().collect();
            let last = &lines[lines.len().saturating_sub(30)..];
            eprintln!("--- {} logged last:\n{}", self.name, last.join("\n"));
        }
    }
}

/// What all processes of a cluster are told, and where each of them runs.
pub struct Plan {
    /// The binary.
    pub atoll: PathBuf,
    pub chain: Chain,
    pub storage: Storage,
    /// Where each process listens.
    pub listen: BTreeMap<String, SocketAddr>,
    /// Where the first process reaches the second one, if not where that listens.
    pub detours: BTreeMap<(String, String), SocketAddr>,
    /// Where a process keeps its data, if not in a directory of the cluster's.
    pub data: BTreeMap<String, PathBuf>,
    /// Variables of the environment of every process.
    pub variables: BTreeMap<String, String>,
    /// The network namespace that a process runs in, if not in that of its caller.
    pub namespaces: BTreeMap<String, String>,
    /// Directory of the certificates and keys of all processes, if they speak TLS: `NAME.pem`,
    /// `NAME.key` and `authority.pem`.
    pub certificates: Option<PathBuf>,
}

/// The name of a process that runs one role of the split shard.
pub fn role_name(role: Role) -> String {
    format!("shard-{SPLIT}-{role:?}").to_lowercase()
}

pub fn shard_name(shard: u16) -> String {
    format!("shard-{shard}")
}

impl Plan {
    /// Everything on loopback; the genesis has these accounts besides the development ones.
    pub fn new(
        atoll: &Path,
        balances: BTreeMap<Address, String>,
        placement: BTreeMap<Address, u16>,
    ) -> anyhow::Result<Self> {
        let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let chain = Chain {
            chain_id: CHAIN_ID,
            shards: SHARDS,
            genesis_time_ms: since.as_millis() as u64,
            coinbase: Address::repeat_byte(0xc0),
            development: true,
            balances,
            placement,
            genesis: Default::default(),
        };
        // So often that every restart goes through a snapshot, and that logs are cut.
        let storage = Storage {
            snapshot_cuts: 7,
            segment_bytes: 16 << 10,
            reserve_bytes: 1 << 20,
            ..Storage::default()
        };
        let names = Self::names().into_iter().chain([ADMIN.to_owned()]);
        let listen = names.map(|name| Ok((name, free_port()?)));
        Ok(Self {
            atoll: atoll.to_owned(),
            chain,
            storage,
            listen: listen.collect::<anyhow::Result<_>>()?,
            detours: BTreeMap::new(),
            data: BTreeMap::new(),
            variables: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            certificates: None,
        })
    }

    /// The names of all processes.
    pub fn names() -> Vec<String> {
        let whole = (0..SHARDS).filter(|shard| *shard != SPLIT).map(shard_name);
        let split = Role::ALL.into_iter().map(role_name);
        let others = [BEACON, GATEWAY].map(str::to_owned);
        whole.chain(split).chain(others).collect()
    }

    /// Where `from` reaches `to`.
    fn url(&self, from: &str, to: &str) -> String {
        let detour = self.detours.get(&(from.to_owned(), to.to_owned()));
        let secure = self.certificates.is_some() && to != GATEWAY;
        let scheme = if secure { "https" } else { "http" };
        format!("{scheme}://{}", detour.unwrap_or(&self.listen[to]))
    }

    fn addresses(&self, from: &str) -> Addresses {
        let shard = |id| {
            let role = |role| (id == SPLIT).then(|| self.url(from, &role_name(role)));
            ShardAddress {
                id,
                all: (id != SPLIT).then(|| self.url(from, &shard_name(id))),
                mempool: role(Role::Mempool),
                executor: role(Role::Executor),
                state: role(Role::State),
                router: role(Role::Router),
            }
        };
        let beacon = Some(self.url(from, BEACON));
        Addresses { beacon, shard: (0..SHARDS).map(shard).collect() }
    }

    /// The configuration of one process.
    fn config(&self, name: &str, data: &Path) -> Config {
        let listen = self.listen[name];
        let mut config = Config {
            chain: self.chain.clone(),
            data: data.to_owned(),
            beacon: None,
            shard: Vec::new(),
            gateway: None,
            admin: None,
            metrics: None,
            health: None,
            address: self.addresses(name),
            limits: Limits::default(),
            // Some of each index.
            storage: Storage {
                index: match name == BEACON || name == shard_name(1) {
                    true => IndexKind::Redb,
                    false => IndexKind::Sled,
                },
                ..self.storage.clone()
            },
            tls: match &self.certificates {
                // Some tests have networks of their own.
                None => Tls { plain_text: true, ..Tls::default() },
                Some(dir) => Tls {
                    certificate: Some(dir.join(format!("{name}.pem"))),
                    key: Some(dir.join(format!("{name}.key"))),
                    authority: Some(dir.join("authority.pem")),
                    ..Tls::default()
                },
            },
        };
        let shard = |id, roles: &[Role]| Shard { id, roles: roles.to_vec(), listen: Some(listen) };
        if name == BEACON {
            config.beacon = Some(Beacon { listen: Some(listen), ..Beacon::default() });
        } else if name == GATEWAY {
            config.gateway = Some(Gateway { listen, rpc: None });
            config.admin = Some(Admin { listen: self.listen[ADMIN] });
        } else if let Some(id) = (0..SHARDS).find(|id| shard_name(*id) == name) {
            config.shard.push(shard(id, &Role::ALL));
        } else if let Some(role) = Role::ALL.into_iter().find(|role| role_name(*role) == name) {
            config.shard.push(shard(SPLIT, &[role]));
        }
        config
    }
}

/// A running cluster.
pub struct Processes {
    pub api: Api,
    pub plan: Plan,
    running: HashMap<String, Process>,
    dir: TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Processes {
    /// Starts all processes of a plan.
    pub async fn start(plan: Plan) -> anyhow::Result<Self> {
        let alone = ONE_AT_A_TIME.lock().await;
        let dir = tempfile::tempdir()?;
        // A connection on which nothing arrives any more has to be given up.
        let look = Duration::from_secs(3);
        let endpoint = Endpoint::from_shared(plan.url(CLIENT, GATEWAY))?
            .tcp_nodelay(true)
            .connect_timeout(look)
            .http2_keep_alive_interval(look)
            .keep_alive_timeout(look)
            .keep_alive_while_idle(true);
        let api = Api { client: LedgerServiceClient::new(endpoint.connect_lazy()) };
        let running = HashMap::new();
        let mut cluster = Self { api, plan, running, dir, _alone: alone };
        for name in Plan::names() {
            let config = cluster.plan.config(&name, &cluster.data(&name));
            std::fs::write(cluster.config(&name), toml::to_string(&config)?)?;
        }
        cluster.launch(&Self::all()).await?;
        cluster.ready().await?;
        Ok(cluster)
    }

    /// Waits until every shard is there and follows the beacon.
    pub async fn ready(&mut self) -> anyhow::Result<()> {
        let (api, running) = (self.api.clone(), &mut self.running);
        until("all shards answer", async || {
            running.values_mut().try_for_each(Process::is_running)?;
            let Ok(cluster) = api.cluster().await else { return Ok(None) };
            let all = cluster.shards.len() == usize::from(SHARDS);
            let here = cluster.shards.iter().all(|shard| shard.reachable && shard.cut > 0);
            Ok((all && here).then_some(()))
        })
        .await
    }

    pub fn url(&self) -> String {
        self.plan.url(CLIENT, GATEWAY)
    }

    /// Where operators reach it.
    pub fn admin(&self) -> String {
        self.plan.url(CLIENT, ADMIN)
    }

    pub fn placement(&self) -> Placement {
        self.plan.chain.placement()
    }

    pub fn genesis(&self) -> anyhow::Result<Genesis> {
        Genesis::new(&self.plan.chain)
    }

    /// Where a process keeps its data.
    pub fn data(&self, name: &str) -> PathBuf {
        let own = self.plan.data.get(name).cloned();
        own.unwrap_or_else(|| self.dir.path().join(name))
    }

    fn config(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.toml"))
    }

    /// What a process has logged in all its lives.
    pub fn log(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.log"))
    }

    /// A process that runs.
    pub fn process(&mut self, name: &str) -> anyhow::Result<&mut Process> {
        self.running.get_mut(name).with_context(|| format!("no {name} runs"))
    }

    pub fn is_running(&mut self) -> anyhow::Result<()> {
        self.running.values_mut().try_for_each(Process::is_running)
    }

    /// Those that have ended by themselves, with what they ended with. They are forgotten, so that they
    /// can be launched again.
    pub fn ended(&mut self) -> anyhow::Result<Vec<(String, ExitStatus)>> {
        let mut ended = Vec::new();
        for (name, process) in &mut self.running {
            if let Some(status) = process.child.try_wait()? {
                ended.push((name.clone(), status));
            }
        }
        for (name, _) in &ended {
            self.running.remove(name);
        }
        Ok(ended)
    }

    /// The names of all processes.
    pub fn all() -> Vec<String> {
        Plan::names()
    }

    /// kill -9 of several processes.
    pub fn kill(&mut self, names: &[String]) -> anyhow::Result<()> {
        for name in names {
            self.running.remove(name).with_context(|| format!("no {name} runs"))?.kill()?;
        }
        Ok(())
    }

    /// Stops one process with SIGTERM; it has to end with code 0.
    pub async fn end(&mut self, name: &str) -> anyhow::Result<()> {
        let mut process = self.running.remove(name).with_context(|| format!("no {name} runs"))?;
        process.terminate()?;
        let status = process.ended().await?;
        ensure!(status.code() == Some(0), "{name}: {status} after SIGTERM");
        Ok(())
    }

    /// Starts processes that do not run; a gateway when the others listen, so that it misses none
    /// of their receipts.
    pub async fn launch(&mut self, names: &[String]) -> anyhow::Result<()> {
        let (gateway, others): (Vec<_>, Vec<_>) = names.iter().partition(|name| *name == GATEWAY);
        for name in &others {
            self.launch_one(name)?;
        }
        for name in gateway {
            for other in &others {
                let address = self.plan.listen[*other];
                until("a process listens", async || {
                    self.running.values_mut().try_for_each(Process::is_running)?;
                    Ok(TcpStream::connect(address).is_ok().then_some(()))
                })
                .await?;
            }
            self.launch_one(name)?;
        }
        Ok(())
    }

    /// Starts a process that does not run, and waits for nothing.
    pub fn launch_one(&mut self, name: &str) -> anyhow::Result<()> {
        let command = match self.plan.namespaces.get(name) {
            None => Command::new(&self.plan.atoll),
            Some(namespace) => {
                // It becomes the binary: signals for it reach the process.
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(&self.plan.atoll);
                command
            }
        };
        let (config, log) = (self.config(name), self.log(name));
        let process = Process::start_by(command, name, &config, &log, &self.plan.variables)?;
        self.running.insert(name.to_owned(), process);
        Ok(())
    }

    /// Stops everything with SIGTERM; each process has to end with code 0.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        // From the outside in, as an operator would.
        let order = |name: &str| match name {
            GATEWAY => 0,
            BEACON => 3,
            name if name == role_name(Role::State) => 2,
            _ => 1,
        };
        let mut running: Vec<_> = self.running.drain().collect();
        running.sort_by_key(|(name, _)| order(name));
        for (name, mut process) in running {
            process.terminate()?;
            let status = process.ended().await?;
            ensure!(status.code() == Some(0), "{name}: {status} after SIGTERM");
            ensure!(process.logged().contains("stopping"), "{name} does not say that it stops");
        }
        Ok(())
    }
}
