//! What a stopped cluster has left on disk.

use anyhow::ensure;
use atoll::check::inspect;
use atoll_types::U256;

use crate::processes::{BEACON, Processes, SHARDS, SPLIT, role_name, shard_name};

/// The process that holds a shard's state.
pub fn holder(shard: u16) -> String {
    match shard {
        SPLIT => role_name(atoll::config::Role::State),
        _ => shard_name(shard),
    }
}

/// Checks the data of the beacon and of every shard, as `atoll check` does: `determinism`. And that
/// nothing is open: `fence-ends`, `conservation`. `burned` is what clients have worked out, if they
/// have.
pub fn audit(cluster: &Processes, burned: Option<U256>) -> anyhow::Result<()> {
    let chain = &cluster.plan.chain;
    let beacon = inspect(&cluster.data(BEACON), Some(chain))?;
    ensure!(beacon.whole, "{}", serde_json::to_string_pretty(&beacon)?);
    let mut sum = U256::ZERO;
    for id in 0..SHARDS {
        let dir = cluster.data(&holder(id)).join(shard_name(id));
        let report = inspect(&dir, Some(chain))?;
        let shown = serde_json::to_string_pretty(&report)?;
        ensure!(report.whole, "{shown}");
        let count = |what| report.parts[0].findings.iter().filter(|f| f.what == what).count();
        ensure!(count("snapshot") >= 2, "no snapshots: {shown}");
        ensure!(!shown.contains("records, 1 to"), "the log was not cut: {shown}");
        ensure!(shown.contains("as snapshot and log lead to"), "no index: {shown}");
        let Some(owner) = &report.parts[0].owner else { anyhow::bail!("no state: {shown}") };
        ensure!(owner.fenced().next().is_none(), "shard {id} has fenced keys");
        ensure!(owner.open_groups().next().is_none(), "shard {id} has open groups");
        ensure!(owner.own_shared().next().is_none(), "shard {id} has shared transactions");
        ensure!(owner.held_credits().is_zero(), "shard {id} holds credits");
        ensure!(owner.fees().is_zero(), "shard {id} holds fees");
        sum += owner.burned();
    }
    if let Some(burned) = burned {
        ensure!(sum == burned, "the shards have burned {sum} wei, receipts say {burned}");
    }
    Ok(())
}
