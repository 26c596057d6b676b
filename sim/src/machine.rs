//! A simulated machine and the process on it: the world that [`atoll::cluster::Cluster`] runs in.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use atoll::{
    config::Config,
    world::{Served, Storage, World},
};
use atoll_evm::{Helpers, Nobody};
use atoll_fabric::{Door, Machine, Place, Simulated, tls::Acceptor};
use atoll_gateway::Pool;
use atoll_state::TreeConfig;
use atoll_tree::MemoryScratch;
use atoll_types::B256;
use axum::{
    extract::Request,
    http::HeaderValue,
    middleware::{Next, from_fn},
    response::Response,
};
use futures::future::{BoxFuture, Either};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tonic::{
    service::Routes,
    transport::{Channel, Endpoint, server::Router},
};
use tower::util::MapResponseLayer;
use turmoil::net::TcpListener;

use crate::{
    disk::Disk,
    net::{self, Card, Frozen},
    trace::Trace,
};

/// Time of the simulation's beginning, in milliseconds since 1970.
pub const BEGIN_MS: u64 = 1_700_000_000_000;

/// A machine: what stays the same while processes on it come and go.
pub struct Host {
    pub name: String,
    pub config: Config,
    pub disk: Arc<Disk>,
    pub trace: Trace,
    /// How far its clock is off.
    pub skew_ms: AtomicI64,
    /// How long its jobs take at the most, in microseconds.
    pub slow_us: AtomicU64,
    /// How often a request that reaches it is done twice, in percent.
    pub repeats: AtomicU64,
    /// Until when its process is stopped, in microseconds since the beginning.
    frozen_until_us: AtomicU64,
    frozen: Arc<Frozen>,
    /// Whether the process on it is to stop in good order, and whether it has.
    pub stop: AtomicBool,
    pub stopped: AtomicBool,
    /// Why the process has ended by itself.
    ended: Mutex<Option<String>>,
    /// Why a process could not start.
    failed: Mutex<Option<String>>,
    /// That of the process on it, or of the last one.
    card: Mutex<Option<Card>>,
    /// Whether what is started next only closes what the last process left open.
    pub closing: AtomicBool,
    alive: Mutex<Arc<AtomicBool>>,
    random: Mutex<StdRng>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Host {
    pub fn new(name: &str, config: Config, seed: u64, trace: Trace) -> Self {
        Self {
            name: name.to_owned(),
            config,
            disk: Arc::default(),
            trace,
            skew_ms: AtomicI64::new(0),
            slow_us: AtomicU64::new(500),
            repeats: AtomicU64::new(0),
            frozen_until_us: AtomicU64::new(0),
            frozen: Arc::default(),
            stop: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            ended: Mutex::default(),
            failed: Mutex::default(),
            card: Mutex::default(),
            closing: AtomicBool::new(false),
            alive: Mutex::default(),
            random: Mutex::new(StdRng::seed_from_u64(seed)),
        }
    }

    /// From now on the process on it changes nothing.
    pub fn kill(&self) {
        lock(&self.alive).store(false, Ordering::Relaxed);
        lock(&self.ended).take();
    }

    /// Stops the process until it is continued, at the latest then.
    pub fn freeze(&self, until: Duration) {
        self.frozen_until_us.store(until.as_micros() as u64, Ordering::Relaxed);
        self.frozen.set(true);
    }

    /// Has it go on.
    pub fn thaw(&self) {
        self.frozen_until_us.store(0, Ordering::Relaxed);
        self.frozen.set(false);
    }

    /// Why the process has ended, if it has by itself.
    pub fn take_ended(&self) -> Option<String> {
        lock(&self.ended).take()
    }

    /// Why the last process did not start.
    pub fn failed(&self) -> Option<String> {
        lock(&self.failed).clone()
    }

    /// What the simulation starts on the machine.
    pub fn begin(self: Arc<Self>) -> impl Future<Output = turmoil::Result> + use<> {
        if self.closing.swap(false, Ordering::Relaxed) {
            if let Some(card) = &*lock(&self.card) {
                card.close_left();
            }
            return Either::Left(std::future::pending());
        }
        Either::Right(self.run())
    }

    /// The process: starts the services and keeps them until it is told to stop.
    async fn run(self: Arc<Self>) -> turmoil::Result {
        let alive = Arc::new(AtomicBool::new(true));
        *lock(&self.alive) = alive.clone();
        self.stop.store(false, Ordering::Relaxed);
        self.stopped.store(false, Ordering::Relaxed);
        let card = Card::new(&self.name, &self.trace, alive.clone(), self.frozen.clone());
        *lock(&self.card) = Some(card.clone());
        let world = Arc::new(Here { host: self.clone(), alive, card });
        match atoll::cluster::Cluster::start_in(&self.config, world).await {
            Ok(cluster) => {
                while !self.stop.load(Ordering::Relaxed) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                cluster.stop().await;
                self.stopped.store(true, Ordering::Relaxed);
            }
            Err(error) => *lock(&self.failed) = Some(format!("{error:#}")),
        }
        std::future::pending().await
    }

    fn random<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        draw(&mut lock(&self.random))
    }
}

/// The world of one process.
struct Here {
    host: Arc<Host>,
    alive: Arc<AtomicBool>,
    card: Card,
}

/// What its jobs take, and its end.
struct Jobs {
    host: Arc<Host>,
    alive: Arc<AtomicBool>,
}

impl Simulated for Jobs {
    fn delays(&self) -> (Duration, Duration) {
        let most = self.host.slow_us.load(Ordering::Relaxed);
        let draw = || self.host.random(|random| random.random_range(0..=most));
        let now = turmoil::sim_elapsed().unwrap_or_default().as_micros() as u64;
        let frozen = self.host.frozen_until_us.load(Ordering::Relaxed).saturating_sub(now);
        (Duration::from_micros(frozen + draw()), Duration::from_micros(draw()))
    }

    fn ended(&self, reason: &str) {
        if self.alive.swap(false, Ordering::Relaxed) {
            *lock(&self.host.ended) = Some(reason.to_owned());
        }
    }
}

impl World for Here {
    fn now_ms(&self) -> u64 {
        let now = turmoil::sim_elapsed().unwrap_or_default().as_millis() as u64;
        (BEGIN_MS + now).saturating_add_signed(self.host.skew_ms.load(Ordering::Relaxed))
    }

    fn random(&self) -> B256 {
        B256::from(self.host.random(|random| random.random::<[u8; 32]>()))
    }

    fn nanos(&self) -> u64 {
        0
    }

    fn machine(&self) -> Machine {
        let (host, alive) = (self.host.clone(), self.alive.clone());
        Machine::simulated(Arc::new(Jobs { host, alive }))
    }

    fn place(&self, _: &str) -> Place {
        Place::here(self.machine())
    }

    fn helpers(&self, _: usize) -> anyhow::Result<Arc<dyn Helpers>> {
        Ok(Arc::new(Nobody))
    }

    fn pool(&self, name: &'static str, _: usize, _: usize) -> anyhow::Result<Pool> {
        Ok(Pool::simulated(name, self.machine()))
    }

    fn storage(&self, dir: &Path, config: &Config) -> anyhow::Result<Storage> {
        let salt = self.host.random(|random| random.random());
        let trace = (&*self.host.name, &self.host.trace);
        let opened = self.host.disk.open(dir, config, salt, &self.alive, trace);
        opened.with_context(|| format!("cannot open {}", dir.display()))
    }

    fn tree(&self, _: &Path, leaf_bytes: usize) -> TreeConfig {
        let scratch = || Ok(Box::new(MemoryScratch::default()) as Box<dyn atoll_tree::Scratch>);
        TreeConfig { leaf_bytes, scratch: Arc::new(scratch) }
    }

    fn connect(&self, endpoint: Endpoint) -> Channel {
        net::connect(&endpoint, &self.card)
    }

    /// With a date in every answer, where the server would put that of the real clock, and some requests
    /// done twice.
    fn routes(&self, routes: Routes) -> Routes {
        let dated = MapResponseLayer::new(|mut response: Response| {
            let date = HeaderValue::from_static("Tue, 14 Nov 2023 22:13:20 GMT");
            response.headers_mut().insert("date", date);
            response
        });
        let host = self.host.clone();
        let repeated = from_fn(move |request, next| repeat(host.clone(), request, next));
        routes.into_axum_router().layer(repeated).layer(dated).into()
    }

    fn serve(
        &self,
        listen: SocketAddr,
        _: Door,
        _: Option<Acceptor>,
        router: Router,
        stop: BoxFuture<'static, ()>,
    ) -> BoxFuture<'static, std::io::Result<Served>> {
        let card = self.card.clone();
        Box::pin(async move {
            let listener = TcpListener::bind(listen).await?;
            let incoming = net::incoming(listener, &card);
            let serving = Box::pin(router.serve_with_incoming(incoming));
            // tonic would tell its connections of the end in an order that no seed decides. They end
            // with the process.
            let serving = async move {
                match futures::future::select(serving, stop).await {
                    Either::Left((ended, _)) => ended,
                    Either::Right(_) => Ok(()),
                }
            };
            Ok(Served { address: listen, task: tokio::spawn(serving) })
        })
    }
}

/// Does a request, and at times once more, at once or later: what the second one is told nobody hears.
async fn repeat(host: Arc<Host>, request: Request, next: Next) -> Response {
    let percent = host.repeats.load(Ordering::Relaxed);
    if percent == 0 || !host.random(|random| random.random_ratio(percent as u32, 100)) {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let body = match axum::body::to_bytes(body, 64 << 20).await {
        Ok(body) => body,
        Err(error) => {
            tracing::info!(%error, "a request that was to be repeated did not come whole");
            return Response::new(axum::body::Body::empty());
        }
    };
    let again = Request::from_parts(parts.clone(), body.clone().into());
    let wait = Duration::from_millis(host.random(|random| random.random_range(0..3_000)));
    let later = next.clone();
    tokio::spawn(async move {
        tokio::time::sleep(wait).await;
        let _ = tokio::time::timeout(Duration::from_secs(10), later.run(again)).await;
    });
    next.run(Request::from_parts(parts, body.into())).await
}

/// A fast directory for the disks of one run.
pub fn scratch() -> anyhow::Result<tempfile::TempDir> {
    let memory = PathBuf::from("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.context("no directory for simulated disks")
}
