//! Real processes on loopback: load, kill -9 in the middle of it, stop, start again, and what an
//! operator gets wrong.

mod keeping;
mod ledger;
mod ports;
mod rolling;
mod tls;
mod traffic;

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, ensure};
use atoll::config::Role;
use atoll_load::LoadArgs;
use atoll_tests::{
    audit::audit,
    processes::{BEACON, Plan, Process, Processes, role_name, shard_name, until},
};
use atoll_types::Address;
use atoll_wire::v1::TransactionReceipt;
use clap::Parser;

use crate::{
    ledger::{Acks, balance_the_books},
    traffic::{COUNT, Traffic},
};

/// The binary.
const ATOLL: &str = env!("CARGO_BIN_EXE_atoll");

/// Runs a scenario. If it fails, the panic comes while the processes are there, so that they show
/// what they have logged.
async fn on(
    mut cluster: Processes,
    scenario: impl AsyncFnOnce(&mut Processes) -> anyhow::Result<()>,
) {
    if let Err(error) = scenario(&mut cluster).await {
        panic!("{error:?}");
    }
}

/// A cluster whose genesis has these accounts besides the development ones.
async fn start(
    balances: BTreeMap<Address, String>,
    placement: BTreeMap<Address, u16>,
) -> anyhow::Result<Processes> {
    Processes::start(Plan::new(ATOLL.as_ref(), balances, placement)?).await
}

#[derive(Parser)]
struct Load {
    #[command(flatten)]
    args: LoadArgs,
}

async fn load(url: &str, workload: &str, seed: &str) -> anyhow::Result<()> {
    let line = ["load", "--target", url, "--workload", workload, "--seed", seed];
    let rate = ["--accounts", "24", "--cross", "50", "--rate", "60", "--duration", "2s"];
    let rest = ["--warmup", "0s", "--drain", "90s", "--streams", "2"];
    let load = Load::try_parse_from(line.into_iter().chain(rate).chain(rest))?;
    let summary = atoll_load::run(load.args, std::future::pending::<()>()).await?;
    ensure!(summary.failures.is_empty() && summary.finals == summary.offered, "{summary}");
    ensure!(summary.cross_share > Some(0.25), "{summary}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn load_keeps_the_supply_and_a_restarted_cluster_goes_on() {
    let cluster = start(BTreeMap::new(), BTreeMap::new()).await.expect("a cluster");
    on(cluster, async |cluster| {
        let acks = Acks::watch(&cluster.api).await?;
        for (workload, seed) in [("transfer", "1"), ("erc20", "2"), ("multihop", "3")] {
            load(&cluster.url(), workload, seed).await.context(workload)?;
        }
        ensure!(acks.lost() == 0, "receipts were missed");
        acks.hold(&cluster.api).await?;
        balance_the_books(cluster, &acks.complete(cluster).await?).await?;

        let before = cluster.api.cluster().await?;
        cluster.stop().await?;
        cluster.launch(&Processes::all()).await?;
        cluster.ready().await?;
        let api = cluster.api.clone();
        until("the heads go on", async || {
            let now = api.cluster().await?;
            let further = now.beacon_head > before.beacon_head;
            let pairs = now.shards.iter().zip(&before.shards);
            let mut all = pairs.map(|(now, then)| (now.head >= then.head, now.cut > then.cut));
            Ok((further && all.all(|on| on == (true, true))).then_some(()))
        })
        .await?;
        acks.hold(&cluster.api).await?;
        load(&cluster.url(), "multihop", "4").await.context("after the restart")?;
        let now = cluster.api.cluster().await?;
        let mut heads = now.shards.iter().zip(&before.shards);
        ensure!(heads.all(|(now, then)| now.head > then.head), "{before:?}, then {now:?}");
        acks.hold(&cluster.api).await?;
        let burned = balance_the_books(cluster, &acks.complete(cluster).await?).await?;
        cluster.stop().await?;
        audit(cluster, Some(burned))
    })
    .await;
}

/// Once the load is over: no fence is left, what clients were told holds, the books balance, and so
/// do the directories after a stop.
async fn all_is_there(
    traffic: &mut Traffic,
    cluster: &mut Processes,
    acks: &Acks,
    earlier: &[TransactionReceipt],
) -> anyhow::Result<()> {
    let api = cluster.api.clone();
    traffic.touch_what_was_hot(&api).await.context("a fence is left")?;
    acks.hold(&api).await.context("an acknowledgement did not hold")?;
    acks.still(&api, earlier).await.context("a receipt from earlier did not hold")?;
    let receipts = traffic.receipts(&api).await?;
    traffic.check_links(cluster, &receipts).await?;
    let burned = balance_the_books(cluster, &receipts).await?;
    cluster.stop().await?;
    audit(cluster, Some(burned))
}

/// Who is killed, and which shard has to go on without: executed only, or final.
struct Blow {
    victims: Vec<String>,
    goes_on: Option<(u16, bool)>,
}

async fn killed_under_load(blow: Blow) {
    let mut traffic = Traffic::new().expect("keys");
    let cluster = start(traffic.balances(), traffic.placement()).await;
    on(cluster.expect("a cluster"), async |cluster| {
        let api = cluster.api.clone();
        traffic.deploy(&api).await.context("deploy")?;
        let acks = Acks::watch(&api).await?;
        let mut load = traffic.start(&api, 7)?;
        acks.reach(COUNT / 5).await?;
        cluster.kill(&blow.victims)?;
        let killed_at = acks.count();
        ensure!(killed_at < COUNT, "the load was over before anything was killed");
        if let Some((shard, is_final)) = blow.goes_on {
            traffic.probe(&api, shard, is_final).await.context("a shard does not go on")?;
        }
        cluster.launch(&blow.victims).await?;
        while let Some(sender) = load.join_next().await {
            let sent = sender?;
            // Says so if a process has ended by itself.
            cluster.is_running()?;
            sent.context("the load does not finish")?;
        }
        cluster.ready().await?;
        all_is_there(&mut traffic, cluster, &acks, &[]).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_shard_killed_under_load() {
    let victims = vec![shard_name(1)];
    killed_under_load(Blow { victims, goes_on: Some((0, true)) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_of_a_split_shard_killed_under_load() {
    let victims = vec![role_name(Role::State)];
    killed_under_load(Blow { victims, goes_on: Some((0, true)) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_split_shard_can_lose_killed_under_load() {
    let victims = [Role::Mempool, Role::Executor, Role::Router].map(role_name).to_vec();
    killed_under_load(Blow { victims, goes_on: Some((1, true)) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_beacon_killed_under_load() {
    let victims = vec![BEACON.to_owned()];
    killed_under_load(Blow { victims, goes_on: Some((0, false)) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_killed_under_load() {
    let victims = Processes::all();
    killed_under_load(Blow { victims, goes_on: None }).await;
}

/// Power cuts of the machine that everything stands on, if the data is on a file system that can do
/// them: `docs/reliability.md` says how.
#[tokio::test(flavor = "multi_thread")]
async fn the_power_is_cut_under_load() {
    const CUTS: usize = 4;
    let Some(switch) = std::env::var_os("ATOLL_POWER") else {
        println!("skipped: ATOLL_POWER does not name the switch of a forgetful file system");
        return;
    };
    let seed: u64 = std::env::var("ATOLL_SEED").map_or(1, |seed| seed.parse().expect("a number"));
    let mut traffic = Traffic::new().expect("keys");
    let cluster = start(traffic.balances(), traffic.placement()).await;
    on(cluster.expect("a cluster"), async |cluster| {
        let api = cluster.api.clone();
        traffic.deploy(&api).await.context("deploy")?;
        let acks = Acks::watch(&api).await?;
        let mut load = traffic.start(&api, seed)?;
        for cut in 1..=CUTS {
            acks.reach(COUNT * cut / (CUTS + 1)).await?;
            cluster.kill(&Processes::all())?;
            let seed = seed * 1_000 + cut as u64;
            std::fs::write(&switch, seed.to_string()).context("the switch")?;
            cluster.launch(&Processes::all()).await?;
            cluster.ready().await.with_context(|| format!("after the cut with seed {seed}"))?;
            acks.hold(&api).await.context("an acknowledgement did not hold")?;
        }
        while let Some(sender) = load.join_next().await {
            sender?.context("the load does not finish")?;
        }
        all_is_there(&mut traffic, cluster, &acks, &[]).await
    })
    .await;
}

/// A process with a beacon and nothing else.
fn lone_beacon(dir: &Path, chain: &str) -> std::io::Result<std::path::PathBuf> {
    let file = dir.join("beacon.toml");
    let data = dir.join("data");
    let text = format!("data = {data:?}\n\n[chain]\n{chain}\n\n[beacon]\n\n");
    let shard = "[[address.shard]]\nid = 0\nall = \"http://127.0.0.1:1\"\n";
    std::fs::write(&file, text + shard)?;
    Ok(file)
}

const CHAIN: &str = "chain_id = 1\nshards = 1\ngenesis_time_ms = 5";

#[tokio::test]
async fn a_second_process_on_a_data_directory_is_refused() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let config = lone_beacon(dir.path(), CHAIN)?;
    let mut first =
        Process::start(ATOLL.as_ref(), "first", &config, &dir.path().join("first.log"))?;
    first.started().await?;
    let mut second =
        Process::start(ATOLL.as_ref(), "second", &config, &dir.path().join("second.log"))?;
    assert_eq!(second.ended().await?.code(), Some(1));
    let (logged, log) = (second.logged(), dir.path().join("data/beacon"));
    for words in ["error: ", "cannot open", "is in use by another process", &log.to_string_lossy()]
    {
        assert!(logged.contains(words), "{words:?} is not in {logged}");
    }
    // The first one is unharmed, and when it has gone another one can have the directory.
    first.terminate()?;
    assert_eq!(first.ended().await?.code(), Some(0));
    let mut third =
        Process::start(ATOLL.as_ref(), "third", &config, &dir.path().join("third.log"))?;
    third.started().await
}

#[tokio::test]
async fn a_configuration_with_an_unknown_key_is_refused() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let config = lone_beacon(dir.path(), &CHAIN.replace("shards", "shard_s"))?;
    let mut process = Process::start(ATOLL.as_ref(), "process", &config, &dir.path().join("log"))?;
    assert_eq!(process.ended().await?.code(), Some(1));
    let logged = process.logged();
    for words in ["error: ", "line 5", "shard_s", "did you mean `shards`?", "beacon.toml"] {
        assert!(logged.contains(words), "{words:?} is not in {logged}");
    }
    assert!(!dir.path().join("data").exists(), "it has begun before it read everything");
    Ok(())
}
