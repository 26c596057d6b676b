//! What a stopped cluster has left on disk.

use std::{path::Path, sync::Arc};

use anyhow::ensure;
use atoll_commit::OwnerConfig;
use atoll_state::{Core, CoreConfig};
use atoll_store::{FileLog, Index, LogOptions, MemoryIndex, SledIndex};
use atoll_types::{ShardId, U256};

use crate::processes::{Processes, SHARDS, SPLIT, role_name, shard_name};

/// Opens the data of every shard and checks it: `fence-ends`, `conservation` and `determinism`.
/// `burned` is what clients have worked out.
pub fn audit(cluster: &Processes, burned: U256) -> anyhow::Result<()> {
    let genesis = cluster.genesis()?;
    let mut sum = U256::ZERO;
    for id in 0..SHARDS {
        let name = match id {
            SPLIT => role_name(atoll::config::Role::State),
            _ => shard_name(id),
        };
        let dir = cluster.data(&name).join(shard_name(id));
        let config = CoreConfig {
            owner: OwnerConfig {
                chain_id: cluster.plan.chain.chain_id,
                shard: ShardId(id),
                placement: cluster.placement(),
                max_shared: 1,
            },
            genesis: genesis.block.clone(),
            accounts: genesis.accounts.clone(),
            cached_values: 10_000,
        };
        let stopped = open(&config, &dir, Arc::new(SledIndex::open(&dir.join("index"), 1 << 20)?))?;
        let owner = stopped.owner();
        ensure!(owner.fenced().next().is_none(), "shard {id} has fenced keys");
        ensure!(owner.open_groups().next().is_none(), "shard {id} has open groups");
        ensure!(owner.own_shared().next().is_none(), "shard {id} has shared transactions");
        ensure!(owner.held_credits().is_zero(), "shard {id} holds credits");
        ensure!(owner.fees().is_zero(), "shard {id} holds fees");
        sum += owner.burned();
        let replayed = open(&config, &dir, Arc::new(MemoryIndex::default()))?;
        ensure!(stopped.tip() == replayed.tip(), "shard {id} is another one after a replay");
    }
    ensure!(sum == burned, "the shards have burned {sum} wei, receipts say {burned}");
    Ok(())
}

fn open(config: &CoreConfig, dir: &Path, index: Arc<dyn Index>) -> anyhow::Result<Core> {
    let options = LogOptions { max_record_bytes: 64 << 20, ..LogOptions::default() };
    let mut log = FileLog::open(&dir.join("log"), options)?;
    Ok(Core::open(config, &mut log, index)?)
}
