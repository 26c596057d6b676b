//! One run: builds the cluster of a seed, breaks it, heals it, and looks at what is left.

use std::{collections::BTreeMap, fs::File, path::Path, sync::Arc, time::Duration};

use alloy_primitives::B256;
use anyhow::Context as _;
use atoll::{check, config::Chain};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use crate::{
    client::{self, Book, Phase},
    driver::Driver,
    faults::{self, Counts},
    layout::Layout,
    machine::{BEGIN_MS, Host, scratch},
    oracle,
    planted::Planted,
    trace::Trace,
    traffic::Cast,
};

/// What a run is told.
#[derive(Clone, Debug)]
pub struct Options {
    pub seed: u64,
    /// How long things break, on the simulated clock.
    pub chaos: Duration,
    pub accounts: usize,
    /// How long what was begun may take once all is healed, on the simulated clock.
    pub patience: Duration,
    /// The only kind of fault that there is to be.
    pub only: Option<String>,
    /// A bug, for tests of the simulation itself.
    pub planted: Option<Planted>,
}

impl Options {
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            chaos: Duration::from_secs(30),
            accounts: 6,
            patience: Duration::from_secs(300),
            only: None,
            planted: None,
        }
    }
}

/// What came of a run.
#[derive(Debug)]
pub struct Report {
    pub seed: u64,
    pub layout: Layout,
    /// On the simulated clock.
    pub time: Duration,
    pub faults: Counts,
    /// Answers "executed" and "final" that clients were given.
    pub acknowledged: u64,
    /// How often clients have read all books at one cut.
    pub cuts_read: u64,
    /// What was compared with one machine.
    pub compared: Counts,
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
    let named = |path: String| File::create(format!("{path}.{}", options.seed));
    let file = std::env::var("SIM_TRACE").ok().map(named).transpose()?;
    let trace = Trace::new(file);
    let mut random = StdRng::seed_from_u64(options.seed);
    let shards = random.random_range(2..=3);
    let split = random.random_bool(0.4).then(|| random.random_range(0..shards));
    let hasty = random.random_bool(0.3);
    let layout = Layout { shards, split, hasty };
    let cast = Cast::new(options.seed, options.accounts, shards)?;
    let chain = layout.chain(&cast);
    let mut hosts = Vec::new();
    for place in layout.places() {
        let config = layout.config(&place, &chain, dir.path());
        hosts.push(Arc::new(Host::new(&place.name, config, random.random(), trace.clone())));
    }
    hosts.iter().for_each(|host| host.disk.plant(options.planted));
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
        sim.host(host.name.clone(), move || host.clone().begin());
    }
    let book = Book::new(options.accounts, chain.placement());
    let (clients, seed, noted) = (book.clone(), options.seed, trace.clone());
    sim.client("client", async move {
        if let Err(error) = client::run(clients.clone(), cast, seed, noted).await {
            clients.violation(format!("progress: a client cannot go on: {error:#}"));
            clients.phase.set(Phase::Done);
        }
        Ok(())
    });
    let only = options.only.as_deref();
    let events = faults::draw(&mut random, hosts.len(), layout.disks(), options.chaos, only);
    let counts = Counts::default();
    let mut driver = Driver {
        sim,
        hosts,
        layout,
        book: book.clone(),
        trace: trace.clone(),
        random,
        counts,
        patience: options.patience,
        up_at: BTreeMap::new(),
        heal_at: Vec::new(),
        armed: 0,
    };
    Planted::plant(options.planted);
    let carried_out = driver.carry_out(events, options.chaos);
    Planted::plant(None);
    carried_out?;
    let time = driver.sim.elapsed();
    let counts = driver.counts.clone();
    let disks: Vec<_> =
        driver.hosts[1..layout.disks()].iter().map(|host| host.disk.clone()).collect();
    drop(driver);
    look(dir.path(), &chain, &book)?;
    let compared = if book.phase.get() == Phase::Done && book.violations.borrow().is_empty() {
        oracle::compare(&chain, &disks, &book)?
    } else {
        Counts::default()
    };
    let violations = book.violations.borrow().clone();
    let acknowledged = book.acknowledged.get();
    let (seed, cuts_read, trace) = (options.seed, book.cuts_read.get(), trace.digest());
    Ok(Report {
        seed,
        layout,
        time,
        faults: counts,
        acknowledged,
        cuts_read,
        compared,
        violations,
        trace,
    })
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
