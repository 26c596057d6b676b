//! A rolling restart: every process of a cluster is stopped and started again under load, in turn.

use std::{
    fmt::{self, Display},
    sync::atomic::Ordering,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use atoll_tests::{
    PATIENCE,
    processes::{GATEWAY, Processes, until},
};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout_at},
};

use crate::{
    all_is_there,
    ledger::{Acks, REFUSED, TRIED},
    on, start,
    traffic::Traffic,
};

/// Those who send when the load begins: while all do, there is much of it to come.
const SENDERS: usize = 12;

/// What clients saw of the restart of one process.
struct Seen {
    name: String,
    /// From SIGTERM to the end.
    stopping: Duration,
    /// From SIGTERM until its health says that it is ready.
    away: Duration,
    /// Longest time without an acknowledgement, from SIGTERM until some came after it was ready.
    stall: Duration,
    /// Submissions, and those that were not taken.
    tried: u64,
    refused: u64,
}

impl Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, stopping, away, stall, tried, refused } = self;
        let share = 100.0 * *refused as f64 / (*tried).max(1) as f64;
        let ms = Duration::as_millis;
        write!(
            f,
            "{name:<18} stopped in {:>5} ms, away {:>6} ms, stall {:>6} ms, {refused:>4} of {tried:>4} \
             submissions refused ({share:.1} %)",
            ms(stopping),
            ms(away),
            ms(stall)
        )
    }
}

/// The longest time between two acknowledgements.
async fn longest_pause(acks: &Acks, until: tokio::sync::oneshot::Receiver<()>) -> Duration {
    let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
    let mut until = std::pin::pin!(until);
    let mut known = acks.count();
    loop {
        tokio::select! {
            _ = &mut until => return longest.max(last.elapsed()),
            more = acks.reach(known + 1) => {
                longest = longest.max(last.elapsed());
                last = Instant::now();
                known = if more.is_ok() { acks.count() } else { known };
            }
        }
    }
}

/// Stops a process and starts it again; waits until it is ready and acknowledgements come.
async fn restart(cluster: &mut Processes, acks: &Acks, name: &str) -> anyhow::Result<Seen> {
    let counted = || (TRIED.load(Ordering::Relaxed), REFUSED.load(Ordering::Relaxed));
    let before = counted();
    let (over, until_over) = tokio::sync::oneshot::channel();
    let began = Instant::now();
    let work = async {
        cluster.end(name).await?;
        let stopping = began.elapsed();
        cluster.launch_one(name)?;
        ready(cluster, name).await?;
        let away = began.elapsed();
        acks.reach(acks.count() + 5).await.context("nothing is acknowledged any more")?;
        let _ = over.send(());
        anyhow::Ok((stopping, away))
    };
    let (done, stall) = tokio::join!(work, longest_pause(acks, until_over));
    let (stopping, away) = done.with_context(|| format!("{name} is restarted"))?;
    let after = counted();
    let (tried, refused) = (after.0 - before.0, after.1 - before.1);
    Ok(Seen { name: name.to_owned(), stopping, away, stall, tried, refused })
}

/// Waits until the health of a process says that it is ready.
async fn ready(cluster: &mut Processes, name: &str) -> anyhow::Result<()> {
    let url = format!("http://{}", cluster.plan.listen[name]);
    let endpoint = tonic::transport::Endpoint::from_shared(url)?;
    let mut client = tonic_health::pb::health_client::HealthClient::new(endpoint.connect_lazy());
    until("it is ready", async || {
        cluster.is_running()?;
        let service = "ready".to_owned();
        let reply = client.check(tonic_health::pb::HealthCheckRequest { service }).await;
        let serving = tonic_health::pb::health_check_response::ServingStatus::Serving;
        Ok(reply.is_ok_and(|reply| reply.into_inner().status() == serving).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_process_restarted_in_turn_under_load() {
    let mut traffic = Traffic::new().expect("keys");
    let cluster = start(traffic.balances(), traffic.placement()).await;
    on(cluster.expect("a cluster"), async |cluster| {
        let api = cluster.api.clone();
        traffic.deploy(&api).await.context("deploy")?;
        let acks = Acks::watch(&api).await?;
        let mut load = JoinSet::new();
        let mut seed = 44;
        // As an operator would: what is behind first, the gateway last.
        let mut names = Processes::all();
        names.sort_by_key(|name| name == GATEWAY);
        for name in names {
            // Enough of it for the next restart.
            if going_on(&mut load)? < SENDERS {
                finish(&mut load).await?;
                load = traffic.start(&api, seed)?;
                seed += 1;
                acks.reach(acks.count() + 5).await?;
            }
            let seen = restart(cluster, &acks, &name).await?;
            println!("{seen}");
            ensure!(going_on(&mut load)? > 0, "the load was over before {name} was ready");
        }
        finish(&mut load).await?;
        cluster.ready().await?;
        all_is_there(&mut traffic, cluster, &acks, &[]).await
    })
    .await;
}

/// How many senders have not had everything carried out.
fn going_on(load: &mut JoinSet<anyhow::Result<()>>) -> anyhow::Result<usize> {
    while let Some(sent) = load.try_join_next() {
        sent?.context("the load does not finish")?;
    }
    Ok(load.len())
}

/// Waits until every sender has had everything carried out.
async fn finish(load: &mut JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while let Some(sent) = timeout_at(deadline, load.join_next()).await? {
        sent?.context("the load does not finish")?;
    }
    Ok(())
}
