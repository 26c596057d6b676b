//! One run: builds the cluster of a seed, breaks it, heals it, and looks at what is left.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    path::Path,
    rc::Rc,
    str::FromStr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use alloy_primitives::{Address, B256};
use anyhow::Context as _;
use atoll::{
    check,
    config::{
        Addresses, Beacon, Chain, Config, Gateway, Limits, Role, Shard, ShardAddress, Storage,
    },
};
use atoll_tests::{CHAIN_ID, wallet::Wallet};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use turmoil::Sim;

use crate::{
    client::{self, BEGIN_WEI, Book, Phase},
    faults::{self, Counts, Event, Fault},
    machine::{BEGIN_MS, Host, scratch},
    trace::Trace,
};

/// How long a process that is stopped in good order may take.
const STOPPING: Duration = Duration::from_secs(8);
const PORT: u16 = 7_000;

/// A bug that is put into the disks, for tests of the simulation itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// Disks say that they have synced, and have not.
    NoSync,
    /// What was appended is not in the log before the next sync.
    LateLog,
}

impl Planted {
    const ALL: [(Self, &str); 2] = [(Self::NoSync, "no-sync"), (Self::LateLog, "late-log")];
}

impl fmt::Display for Planted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = Self::ALL.iter().find(|(bug, _)| bug == self);
        f.write_str(named.map_or("", |(_, name)| name))
    }
}

impl FromStr for Planted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = Self::ALL.iter().find(|(_, name)| *name == text);
        named.map(|(bug, _)| *bug).ok_or_else(|| format!("{text} is not among {:?}", Self::ALL))
    }
}

/// What a run is told.
#[derive(Clone, Debug)]
pub struct Options {
    pub seed: u64,
    /// How long things break, on the simulated clock.
    pub chaos: Duration,
    pub accounts: usize,
    /// How long what was begun may take once all is healed, on the simulated clock.
    pub patience: Duration,
    pub planted: Option<Planted>,
    /// A bug in the protocol, for the same reason.
    #[cfg(feature = "planted")]
    pub in_protocol: Option<atoll_commit::Planted>,
}

impl Options {
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            chaos: Duration::from_secs(30),
            accounts: 6,
            patience: Duration::from_secs(300),
            planted: None,
            #[cfg(feature = "planted")]
            in_protocol: None,
        }
    }
}

/// What came of a run.
#[derive(Debug)]
pub struct Report {
    pub seed: u64,
    pub shards: u16,
    /// On the simulated clock.
    pub time: Duration,
    pub faults: Counts,
    /// Answers "executed" and "final" that clients were given.
    pub acknowledged: u64,
    pub violations: Vec<String>,
    /// How many events there were, and their digest.
    pub trace: (u64, B256),
}

/// Carries out a run.
///
/// # Errors
/// If the simulation itself does not work; what the cluster gets wrong is in the report.
pub fn run(options: &Options) -> anyhow::Result<Report> {
    let dir = scratch()?;
    let file = std::env::var_os("SIM_TRACE").map(File::create).transpose()?;
    let trace = Trace::new(file);
    let mut random = StdRng::seed_from_u64(options.seed);
    let shards = random.random_range(2..=3);
    let wallets = client::wallets(options.seed, options.accounts)?;
    let chain = chain(&wallets, shards);
    let mut hosts = Vec::new();
    for name in names(shards) {
        let config = config(&name, &chain, dir.path());
        hosts.push(Arc::new(Host::new(&name, config, random.random(), trace.clone())));
    }
    for (host, planted) in hosts.iter().zip(std::iter::repeat(options.planted)) {
        host.disk.plant(planted);
    }
    let mut sim = turmoil::Builder::new()
        .rng_seed(random.random())
        .simulation_duration(Duration::from_secs(24 * 3_600))
        .epoch(std::time::UNIX_EPOCH + Duration::from_millis(BEGIN_MS))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(random.random_range(2..20)))
        .tcp_capacity(1 << 16)
        .enable_random_order()
        .build();
    for host in &hosts {
        let host = host.clone();
        sim.host(host.name.clone(), move || host.clone().run());
    }
    let book = Book::new(options.accounts);
    let (clients, seed, noted) = (book.clone(), options.seed, trace.clone());
    sim.client("client", async move {
        if let Err(error) = client::run(clients.clone(), wallets, seed, noted).await {
            clients.violation(format!("progress: a client cannot go on: {error:#}"));
            clients.phase.set(Phase::Done);
        }
        Ok(())
    });
    let disks = hosts.len() - 1;
    let events = faults::draw(&mut random, hosts.len(), disks, options.chaos);
    let counts = Counts::default();
    let mut driver = Driver {
        sim,
        hosts,
        book: book.clone(),
        trace: trace.clone(),
        random,
        counts,
        patience: options.patience,
        up_at: BTreeMap::new(),
        heal_at: Vec::new(),
    };
    #[cfg(feature = "planted")]
    atoll_commit::plant_everywhere(options.in_protocol);
    driver.carry_out(events, options.chaos)?;
    #[cfg(feature = "planted")]
    atoll_commit::plant_everywhere(None);
    let time = driver.sim.elapsed();
    let counts = driver.counts.clone();
    drop(driver);
    look(dir.path(), &chain, &book)?;
    let violations = book.violations.borrow().clone();
    let acknowledged = book.acknowledged.get();
    let (seed, trace) = (options.seed, trace.digest());
    Ok(Report { seed, shards, time, faults: counts, acknowledged, violations, trace })
}

/// Names of the machines: those with disks first.
fn names(shards: u16) -> Vec<String> {
    let shards = (0..shards).map(|id| format!("shard-{id}"));
    ["beacon".to_owned()].into_iter().chain(shards).chain(["gateway".to_owned()]).collect()
}

fn chain(wallets: &[Wallet], shards: u16) -> Chain {
    Chain {
        chain_id: CHAIN_ID,
        shards,
        genesis_time_ms: BEGIN_MS,
        coinbase: Address::repeat_byte(0xc0),
        development: false,
        balances: wallets.iter().map(|w| (w.address(), BEGIN_WEI.to_string())).collect(),
        placement: client::contracts(wallets, shards).into_iter().collect(),
    }
}

fn config(name: &str, chain: &Chain, data: &Path) -> Config {
    let listen = Some(([0, 0, 0, 0], PORT).into());
    let shard = name.strip_prefix("shard-").and_then(|id| id.parse().ok());
    let others = (0..chain.shards).filter(|id| Some(*id) != shard);
    let address = |id| ShardAddress {
        id,
        all: Some(format!("http://shard-{id}:{PORT}")),
        ..ShardAddress::default()
    };
    let is_beacon = name == "beacon";
    Config {
        chain: chain.clone(),
        data: data.to_owned(),
        beacon: is_beacon.then(|| Beacon { listen, ..Beacon::default() }),
        shard: shard
            .map(|id| Shard { id, roles: Role::ALL.to_vec(), listen })
            .into_iter()
            .collect(),
        gateway: (name == "gateway").then(|| Gateway { listen: ([0, 0, 0, 0], 50_051).into() }),
        admin: None,
        address: Addresses {
            beacon: (!is_beacon).then(|| format!("http://beacon:{PORT}")),
            shard: others.map(address).collect(),
        },
        limits: Limits { execution_threads: 1, recovery_threads: 1, ..Limits::default() },
        storage: Storage {
            snapshot_log_bytes: 64 << 10,
            segment_bytes: 16 << 10,
            reserve_bytes: 0,
            min_free_bytes: 0,
            ..Storage::default()
        },
    }
}

/// What moves a run forward.
struct Driver<'a> {
    sim: Sim<'a>,
    hosts: Vec<Arc<Host>>,
    book: Rc<Book>,
    trace: Trace,
    random: StdRng,
    counts: Counts,
    patience: Duration,
    /// Machines that are down, and when they come up again.
    up_at: BTreeMap<usize, Duration>,
    /// What is broken, and when it is whole again.
    heal_at: Vec<(Duration, Fault)>,
}

impl Driver<'_> {
    fn carry_out(&mut self, events: Vec<Event>, chaos: Duration) -> anyhow::Result<()> {
        let patience = self.sim.elapsed() + self.patience;
        if !self.until(patience, |driver| driver.book.phase.get() >= Phase::Chaos)? {
            return Ok(());
        }
        let begin = self.sim.elapsed();
        let mut events = events.into_iter().peekable();
        while self.sim.elapsed() < begin + chaos {
            if self.book.phase.get() == Phase::Done {
                return Ok(());
            }
            while let Some(event) = events.next_if(|e| begin + e.at <= self.sim.elapsed()) {
                self.break_something(event)?;
            }
            if !self.step()? {
                return Ok(());
            }
        }
        self.heal_all();
        self.book.phase.set(Phase::Healed);
        let patience = self.sim.elapsed() + self.patience;
        if !self.until(patience, |driver| driver.book.are_all_idle())? {
            return Ok(());
        }
        for host in 0..self.hosts.len() {
            let lasts = Duration::from_millis(self.random.random_range(1..1_000));
            self.down(host, lasts, true)?;
        }
        self.book.phase.set(Phase::Audit);
        let patience = self.sim.elapsed() + self.patience;
        if !self.until(patience, |driver| driver.book.phase.get() == Phase::Done)? {
            return Ok(());
        }
        self.wind_up()
    }

    /// Stops everything in good order: the beacon first, so that all shards come to its last cut.
    fn wind_up(&mut self) -> anyhow::Result<()> {
        let last = self.hosts.len() - 1;
        for host in [0, last].into_iter().chain(1..last) {
            self.hosts[host].stop.store(true, Ordering::Relaxed);
            let patience = self.sim.elapsed() + STOPPING;
            let stopped = |driver: &Self| driver.hosts[host].stopped.load(Ordering::Relaxed);
            if !self.until(patience, stopped)? {
                return Ok(());
            }
            let pause = self.sim.elapsed() + Duration::from_secs(2);
            self.until(pause, |driver| driver.sim.elapsed() >= pause)?;
        }
        for host in &self.hosts {
            host.kill();
            self.sim.crash(host.name.clone());
        }
        Ok(())
    }

    /// Steps until something is so. Noted as a violation if it is not in time.
    fn until(&mut self, deadline: Duration, is_so: impl Fn(&Self) -> bool) -> anyhow::Result<bool> {
        while !is_so(self) {
            if self.sim.elapsed() > deadline {
                let (phase, waits) = (self.book.phase.get(), self.book.waits());
                self.book.violation(format!("progress: none in {phase:?}; {waits}"));
                return Ok(false);
            }
            if !self.step()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// One millisecond. False if a process does not start, which is a violation.
    fn step(&mut self) -> anyhow::Result<bool> {
        let now = self.sim.elapsed();
        let due: Vec<usize> =
            self.up_at.iter().filter(|(_, at)| **at <= now).map(|(host, _)| *host).collect();
        for host in due {
            self.up_at.remove(&host);
            self.note("up", host);
            self.sim.bounce(self.hosts[host].name.clone());
        }
        while let Some(at) = self.heal_at.iter().position(|(at, _)| *at <= now) {
            let (_, fault) = self.heal_at.swap_remove(at);
            self.heal(fault);
        }
        self.sim.step().map_err(|error| anyhow::anyhow!("{error}"))?;
        for host in 0..self.hosts.len() {
            if let Some(reason) = self.hosts[host].take_ended() {
                tracing::info!(reason, host, "a process has ended by itself");
                self.counts.add("ended");
                let lasts = Duration::from_millis(self.random.random_range(100..3_000));
                self.down(host, lasts, false)?;
            }
            if let Some(error) = self.hosts[host].failed() {
                let name = &self.hosts[host].name;
                self.book.violation(format!("determinism: {name} does not start: {error}"));
                return Ok(false);
            }
            let is_wanted = self.book.phase.get() < Phase::Audit;
            if is_wanted && self.hosts[host].stopped.load(Ordering::Relaxed) {
                self.down(host, Duration::from_millis(50), false)?;
            }
        }
        Ok(true)
    }

    fn note(&self, what: &str, host: usize) {
        self.trace.note_at(self.sim.elapsed(), &self.hosts[host].name, what, &[]);
    }

    fn down(&mut self, host: usize, lasts: Duration, power: bool) -> anyhow::Result<()> {
        let up = self.sim.elapsed() + lasts;
        self.note(if power { "loses power" } else { "is killed" }, host);
        let machine = self.hosts[host].clone();
        machine.kill();
        machine.stopped.store(false, Ordering::Relaxed);
        self.sim.crash(machine.name.clone());
        if power {
            let lost = machine.disk.cut_power(&mut self.random).context("a simulated disk")?;
            if lost > 0 {
                self.counts.add("bytes-lost");
            }
        }
        self.up_at.insert(host, up);
        Ok(())
    }

    fn break_something(&mut self, event: Event) -> anyhow::Result<()> {
        let Event { lasts, fault, .. } = event;
        self.counts.add(fault.kind());
        tracing::info!(?fault, ?lasts, at = ?self.sim.elapsed(), "breaks");
        self.trace.note_at(self.sim.elapsed(), "driver", &format!("{fault:?}"), &[]);
        let name = |host: usize| self.hosts[host].name.clone();
        match fault {
            Fault::Kill { host } => return self.down(host, lasts, false),
            Fault::PowerCut { host } => return self.down(host, lasts, true),
            Fault::Stop { host } => self.hosts[host].stop.store(true, Ordering::Relaxed),
            Fault::Partition { a, b } => self.sim.partition(name(a), name(b)),
            Fault::OneWay { from, to } => self.sim.partition_oneway(name(from), name(to)),
            Fault::Delay { a, b, by_ms } => {
                self.sim.set_link_latency(name(a), name(b), Duration::from_millis(by_ms));
            }
            Fault::Hold { a, b } => self.sim.hold(name(a), name(b)),
            Fault::Slow { host, most_ms } => {
                self.hosts[host].slow_us.store(most_ms * 1_000, Ordering::Relaxed);
            }
            Fault::FailedSync { host } => self.hosts[host].disk.fail_sync(),
            Fault::Full { host } => self.hosts[host].disk.set_full(true),
            Fault::Clock { host, by_ms } => {
                self.hosts[host].skew_ms.store(by_ms, Ordering::Relaxed);
            }
        }
        self.heal_at.push((self.sim.elapsed() + lasts, fault));
        Ok(())
    }

    fn heal(&mut self, fault: Fault) {
        let name = |host: usize| self.hosts[host].name.clone();
        match fault {
            Fault::Partition { a, b } => self.sim.repair(name(a), name(b)),
            Fault::OneWay { from, to } => self.sim.repair_oneway(name(from), name(to)),
            Fault::Delay { a, b, .. } => {
                self.sim.set_link_latency(name(a), name(b), Duration::from_millis(5));
            }
            Fault::Hold { a, b } => self.sim.release(name(a), name(b)),
            Fault::Slow { host, .. } => self.hosts[host].slow_us.store(500, Ordering::Relaxed),
            Fault::Full { host } => self.hosts[host].disk.set_full(false),
            Fault::Clock { host, .. } => self.hosts[host].skew_ms.store(0, Ordering::Relaxed),
            Fault::Kill { .. }
            | Fault::PowerCut { .. }
            | Fault::Stop { .. }
            | Fault::FailedSync { .. } => {}
        }
    }

    fn heal_all(&mut self) {
        for (_, fault) in std::mem::take(&mut self.heal_at) {
            self.heal(fault);
        }
        let now = self.sim.elapsed();
        self.up_at.values_mut().for_each(|at| *at = now.min(*at));
    }
}

/// Runs the logs again, offline: they are whole, come to the same, hold every wei, and fence nothing.
fn look(dir: &Path, chain: &Chain, book: &Book) -> anyhow::Result<()> {
    if book.phase.get() != Phase::Done || !book.violations.borrow().is_empty() {
        return Ok(());
    }
    let report = check::inspect(dir, Some(chain)).context("cannot read what is left")?;
    let findings = report.parts.iter().flat_map(|part| &part.findings).chain(&report.together);
    for finding in findings.clone().filter(|finding| !finding.whole) {
        let property = if finding.what == "supply" { "conservation" } else { "determinism" };
        book.violation(format!("{property}: {}: {}", finding.what, finding.text));
    }
    if !findings.clone().any(|finding| finding.what == "supply") {
        book.violation("conservation: shards did not come to one cut".to_owned());
    }
    for owner in report.parts.iter().filter_map(|part| part.owner.as_ref()) {
        let fenced: Vec<_> = owner.fenced().collect();
        if !fenced.is_empty() {
            let shard = owner.shard();
            book.violation(format!("fence-ends: shard {shard} still fences {fenced:?}"));
        }
    }
    Ok(())
}
