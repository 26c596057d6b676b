//! Backup, restore and check, with real processes.

use std::{path::Path, process::Command};

use anyhow::{Context as _, ensure};
use atoll::backup::{BackupArgs, RestoreArgs, backup, restore};
use atoll_tests::{
    audit::holder,
    processes::{BEACON, Process, Processes, SHARDS, shard_name, until},
};
use atoll_wire::v1::{TransactionFinality, TransactionReceipt};

use crate::{
    ATOLL, all_is_there,
    ledger::Acks,
    lone_beacon, on, start,
    traffic::{COUNT, Traffic},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_under_load_restores_a_cluster_that_goes_on() {
    let mut traffic = Traffic::new().expect("keys");
    let cluster = start(traffic.balances(), traffic.placement()).await;
    on(cluster.expect("a cluster"), async |cluster| {
        let api = cluster.api.clone();
        traffic.deploy(&api).await.context("deploy")?;
        let acks = Acks::watch(&api).await?;
        let mut load = traffic.start(&api, 11)?;
        acks.reach(COUNT / 4).await?;
        let is_final =
            |receipt: &TransactionReceipt| receipt.finality() == TransactionFinality::Final;
        let before: Vec<_> = acks.all().into_iter().filter(is_final).collect();
        ensure!(before.len() > COUNT / 8, "too little is final: {}", before.len());
        let dir = tempfile::tempdir()?;
        let out = dir.path().join("backup");
        backup(BackupArgs {
            out: out.clone(),
            admin: Some(cluster.admin()),
            tls: Default::default(),
        })
        .await?;
        ensure!(acks.count() < COUNT, "the load was over before the backup was");
        acks.reach(COUNT / 2).await?;
        // Everything is lost.
        load.abort_all();
        while load.join_next().await.is_some() {}
        drop(acks);
        cluster.kill(&Processes::all())?;
        restore_all(cluster, &out)?;
        cluster.launch(&Processes::all()).await?;
        cluster.ready().await?;
        let again = Acks::watch(&api).await?;
        again.still(&api, &before).await.context("a receipt from before the backup")?;
        // Clients send again what they have no receipt of, and go on.
        traffic.bring_about_all(&api).await.context("the load does not go on")?;
        all_is_there(&mut traffic, cluster, &again, &before).await
    })
    .await;
}

/// Puts every part of a backup where its process keeps it.
fn restore_all(cluster: &Processes, out: &Path) -> anyhow::Result<()> {
    let shards = (0..SHARDS).map(|id| (holder(id), shard_name(id)));
    for (process, part) in shards.chain([(BEACON.to_owned(), BEACON.to_owned())]) {
        let data = cluster.data(&process);
        let args = RestoreArgs { backup: out.to_owned(), data: data.clone(), only: vec![part] };
        let refused = restore(&args).expect_err("there is something");
        ensure!(refused.to_string().contains("not empty"), "{refused}");
        std::fs::remove_dir_all(&data)?;
        restore(&args)?;
    }
    Ok(())
}

fn check(dir: &Path, config: &Path) -> anyhow::Result<(bool, String)> {
    let mut command = Command::new(ATOLL);
    let ended = command.arg("check").arg(dir).arg("--config").arg(config).output()?;
    let said = [&ended.stdout[..], &ended.stderr[..]].concat();
    Ok((ended.status.success(), String::from_utf8(said)?))
}

#[tokio::test]
async fn check_names_what_is_damaged_and_changes_nothing() -> anyhow::Result<()> {
    for index in ["sled", "redb"] {
        check_names_damage(index).await.context(index)?;
    }
    Ok(())
}

async fn check_names_damage(index: &str) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let config = lone_beacon(
        dir.path(),
        "chain_id = 1\nshards = 1\ngenesis_time_ms = 5\n\n[storage]\nsnapshot_cuts = 2\nsegment_bytes = 4096",
    )?;
    let text = std::fs::read_to_string(&config)?
        .replace("[beacon]", "[beacon]\nheartbeat_ms = 20")
        .replace("[storage]", &format!("[storage]\nindex = \"{index}\""));
    std::fs::write(&config, &text)?;
    let data = dir.path().join("data");
    let snapshots = data.join("beacon/snapshots");
    let mut process = Process::start(ATOLL.as_ref(), "beacon", &config, &dir.path().join("log"))?;
    process.started().await?;
    until("snapshots are taken and the log is cut", async || {
        let found = std::fs::read_dir(&snapshots)?.count();
        let first = data.join("beacon/log/00000000000000000001.log");
        Ok((found >= 2 && !first.exists()).then_some(()))
    })
    .await?;
    let (whole, said) = check(&data, &config)?;
    ensure!(!whole && said.contains("in use by another process"), "{said}");
    process.terminate()?;
    ensure!(process.ended().await?.code() == Some(0));
    // A stop while a block is being synced leaves no marker.
    std::fs::write(&config, text.replace("heartbeat_ms = 20", "heartbeat_ms = 500"))?;
    until("a stop leaves its marker", async || {
        let (whole, said) = check(&data, &config)?;
        ensure!(whole, "{said}");
        if said.contains("as snapshot and log lead to") {
            return Ok(Some(()));
        }
        let mut process =
            Process::start(ATOLL.as_ref(), "beacon", &config, &dir.path().join("more"))?;
        process.started().await?;
        process.terminate()?;
        ensure!(process.ended().await?.code() == Some(0));
        Ok(None)
    })
    .await?;
    let (whole, said) = check(&data, &config)?;
    ensure!(whole && said.contains("as snapshot and log lead to"), "{said}");
    let newest = |below: &str, ending: &str| -> anyhow::Result<std::path::PathBuf> {
        let entries = std::fs::read_dir(data.join("beacon").join(below))?;
        let mut paths =
            entries.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<Vec<_>>>()?;
        paths.retain(|path| path.to_string_lossy().ends_with(ending));
        paths.sort();
        paths.pop().with_context(|| format!("nothing in {below}"))
    };
    let oldest_log = {
        let entries = std::fs::read_dir(data.join("beacon/log"))?;
        let mut paths = entries.map(|e| Ok(e?.path())).collect::<anyhow::Result<Vec<_>>>()?;
        paths.retain(|path| path.extension().is_some_and(|ending| ending == "log"));
        paths.sort();
        paths.remove(0)
    };
    let mut generations: Vec<_> = std::fs::read_dir(data.join("beacon/index"))?
        .map(|entry| Ok(entry?.path().join("db")))
        .collect::<anyhow::Result<_>>()?;
    generations.retain(|path| path.exists());
    let generation = generations.pop().context("no index")?;
    for (path, finding) in
        [(newest("snapshots", ".snap")?, "snapshot"), (oldest_log, "log"), (generation, "index")]
    {
        let good = std::fs::read(&path)?;
        let mut bad = good.clone();
        bad[good.len() / 2] ^= 0x10;
        std::fs::write(&path, &bad)?;
        let (whole, said) = check(&data, &config)?;
        ensure!(!whole, "{}: {said}", path.display());
        ensure!(said.contains(&format!("BAD {finding}")), "{}: {said}", path.display());
        ensure!(finding == "index" || said.contains("damaged at byte"), "{said}");
        ensure!(std::fs::read(&path)? == bad, "it has changed {}", path.display());
        std::fs::write(&path, &good)?;
    }
    let (whole, said) = check(&data, &config)?;
    ensure!(whole, "{said}");
    // A damaged newest snapshot, and no index: the start takes the one before it.
    let path = newest("snapshots", ".snap")?;
    let mut bytes = std::fs::read(&path)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, &bytes)?;
    std::fs::remove_dir_all(data.join("beacon/index"))?;
    let mut process = Process::start(ATOLL.as_ref(), "beacon", &config, &dir.path().join("again"))?;
    process.started().await?;
    ensure!(process.logged().contains("using the one before it"), "{}", process.logged());
    process.terminate()?;
    ensure!(process.ended().await?.code() == Some(0));
    let (whole, said) = check(&data, &config)?;
    ensure!(whole, "{said}");
    Ok(())
}
