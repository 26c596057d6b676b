//! A run: a cluster, its clients, what is done to it, and what is left of it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use atoll_tests::{
    PATIENCE,
    audit::audit,
    processes::{Plan, Processes, until},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use tokio::{sync::watch, task::JoinSet};

use crate::{
    check::{Violation, check},
    client::{Client, Recorder},
    ending,
    faults::{Fault, Lengths, Tally, Tools},
    history::History,
    stage::Stage,
};

pub struct Options {
    /// The binary.
    pub atoll: PathBuf,
    pub seed: u64,
    /// For how long things are broken: until the round in which it is over has ended. Coming to rest
    /// takes more.
    pub length: Duration,
    pub faults: Vec<Fault>,
    pub clients: u32,
    /// Longest pause of a client between two things.
    pub think: Duration,
    pub lengths: Lengths,
    /// Where the history and the logs go if anything is wrong.
    pub keep: Option<PathBuf>,
}

pub struct Report {
    pub tally: Tally,
    pub history: History,
    pub violations: Vec<Violation>,
    /// Times from when everything was there again until a transaction on every shard was done.
    pub recoveries: Vec<Duration>,
}

/// Runs it all. An error says that the cluster did not come back, or left something broken.
pub async fn run(options: &Options) -> anyhow::Result<Report> {
    let stage = Arc::new(Stage::new(options.seed, options.clients)?);
    let mut plan = Plan::new(&options.atoll, stage.balances()?, stage.placement())?;
    let mut tools = Tools::new(&mut plan, &options.faults).await?;
    ensure!(!tools.faults.is_empty(), "nothing can be done here: {}", tools.tally);
    let mut cluster = Processes::start(plan).await?;
    let recorder = Recorder::new();
    let result = scenario(options, &stage, &mut cluster, &mut tools, &recorder).await;
    let wrong = result.as_ref().map_or(true, |(_, report)| !report.is_empty());
    if let (true, Some(dir)) = (wrong, &options.keep) {
        let history = match &result {
            Ok(((history, _), _)) => history.clone(),
            Err(_) => History { ops: recorder.take(), ..History::default() },
        };
        keep(&cluster, &history, dir)?;
    }
    let ((history, recoveries), violations) = result?;
    Ok(Report { tally: tools.tally.clone(), history, violations, recoveries })
}

type Outcome = ((History, Vec<Duration>), Vec<Violation>);

async fn scenario(
    options: &Options,
    stage: &Arc<Stage>,
    cluster: &mut Processes,
    tools: &mut Tools,
    recorder: &Recorder,
) -> anyhow::Result<Outcome> {
    let api = cluster.api.clone();
    stage.deploy(&api).await?;
    let (stop, stopped) = watch::channel(false);
    let mut clients = JoinSet::new();
    for number in 0..options.clients {
        let client =
            Client::new(number, api.clone(), stage.clone(), recorder.clone(), options.think)?;
        clients.spawn(client.run(stopped.clone()));
    }
    let (number, think) = (options.clients, Duration::ZERO);
    let mut probe = Client::new(number, api.clone(), stage.clone(), recorder.clone(), think)?;
    let mut order = StdRng::seed_from_u64(options.seed);
    let mut recoveries = Vec::new();
    let begun = Instant::now();
    let mut next: Vec<Fault> = Vec::new();
    // Whole rounds: each fault at least once.
    while recoveries.is_empty() || !next.is_empty() || begun.elapsed() < options.length {
        let fault = match next.pop() {
            Some(fault) => fault,
            None => {
                next = round(&tools.faults, &mut order);
                continue;
            }
        };
        // Of its own: how much an episode draws depends on how fast processes are.
        let episode = recoveries.len() as u64;
        let mut rng = StdRng::seed_from_u64(options.seed << 32 | episode);
        tools
            .inflict(fault, cluster, &mut rng, &options.lengths)
            .await
            .with_context(|| format!("after {:?}", tools.tally))?;
        tools.heal()?;
        let whole = Instant::now();
        recover(fault, cluster, tools, &mut probe, &stopped)
            .await
            .with_context(|| format!("it does not come back after {fault:?}"))?;
        recoveries.push(whole.elapsed());
        while let Some(ended) = clients.try_join_next() {
            ended?.context("a client")?;
        }
        // Some time in peace.
        let calm = options.lengths.episode.as_millis() as u64 / 4;
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..=calm))).await;
    }
    stop.send_replace(true);
    while let Some(ended) = clients.join_next().await {
        ended?.context("a client")?;
    }
    let history = ending::history(cluster, stage, recorder, &mut order).await?;
    cluster.stop().await?;
    audit(cluster, None)?;
    let violations = check(&history);
    Ok(((history, recoveries), violations))
}

/// Every fault once, in some order, with kills between.
fn round(faults: &[Fault], rng: &mut StdRng) -> Vec<Fault> {
    let mut others: Vec<_> = faults.iter().copied().filter(|f| *f != Fault::Kill).collect();
    others.shuffle(rng);
    if !faults.contains(&Fault::Kill) {
        return others;
    }
    let pairs = others.into_iter().flat_map(|fault| [fault, Fault::Kill]);
    let mut round: Vec<_> = pairs.collect();
    if round.is_empty() {
        round.push(Fault::Kill);
    }
    round
}

/// All processes run, and a transaction on all shards is done.
async fn recover(
    fault: Fault,
    cluster: &mut Processes,
    tools: &mut Tools,
    probe: &mut Client,
    stopped: &watch::Receiver<bool>,
) -> anyhow::Result<()> {
    // A process that a full disk ends may take a moment to do so.
    if fault == Fault::Disk {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    for (name, status) in cluster.ended()? {
        ensure!(fault == Fault::Disk, "{name} has ended by itself: {status}");
        tools.tally.ended_by_full_disk += 1;
        cluster.launch_one(&name)?;
    }
    cluster.ready().await?;
    let api = cluster.api.clone();
    let touched = tokio::time::timeout(PATIENCE, async {
        while !probe.touch_all(stopped).await? {}
        anyhow::Ok(())
    });
    match touched.await {
        Ok(touched) => touched,
        Err(_) => anyhow::bail!(
            "nothing is done on all shards after {PATIENCE:?}: {:?}",
            api.cluster().await
        ),
    }
}

/// Copies what helps to find out.
fn keep(cluster: &Processes, history: &History, dir: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    std::fs::write(dir.join("history.json"), serde_json::to_vec(history)?)?;
    for name in Plan::names() {
        std::fs::copy(cluster.log(&name), dir.join(format!("{name}.log")))?;
    }
    Ok(())
}

/// Waits until nothing is under way.
pub(crate) async fn quiet(cluster: &Processes) -> anyhow::Result<u64> {
    /// Beacon blocks in which nothing happens: by then priority fees have reached the coinbase.
    const IDLE: u64 = 8;
    let api = &cluster.api;
    let mut since = None;
    until("nothing is under way", async || {
        let Ok(now) = api.cluster().await else { return Ok(None) };
        if now.groups_open != 0 || now.intents_waiting != 0 {
            since = None;
            return Ok(None);
        }
        let first = *since.get_or_insert(now.beacon_head);
        Ok((now.beacon_head >= first + IDLE).then_some(now.beacon_head))
    })
    .await
}
