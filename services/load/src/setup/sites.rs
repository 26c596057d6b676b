//! Where contracts are deployed: accounts whose first contract lands on a wanted shard.

use alloy_primitives::Address;
use alloy_signer_local::PrivateKeySigner;
use anyhow::ensure;

use crate::{sign::key, wire::Cluster};

/// Candidates looked at in one go.
const BATCH: u64 = 2_048;
/// Candidates after which the search is given up.
const MOST: u64 = 2_000_000;

/// An account that was never used, on the same shard as the contract that it creates first: so the
/// deployment is local.
#[derive(Clone)]
pub struct Site {
    pub key: PrivateKeySigner,
    pub contract: Address,
}

/// `wanted[shard]` sites on each shard.
pub async fn find(
    cluster: &Cluster,
    seed: u64,
    wanted: &[usize],
) -> anyhow::Result<Vec<Vec<Site>>> {
    let mut found: Vec<Vec<Site>> = vec![Vec::new(); wanted.len()];
    let mut next = 0;
    while found.iter().zip(wanted).any(|(sites, wanted)| sites.len() < *wanted) {
        ensure!(
            next < MOST,
            "found no addresses on some shards after {MOST} attempts: does every shard own some?"
        );
        let mut keys = Vec::new();
        for index in next..next + BATCH {
            keys.push(key("deployer", seed, index)?);
        }
        next += BATCH;
        let deployers: Vec<_> = keys.iter().map(|key| key.address()).collect();
        let contracts: Vec<_> = deployers.iter().map(|address| address.create(0)).collect();
        let homes = cluster.shards_of(&deployers).await?;
        let placed = cluster.shards_of(&contracts).await?;
        let mut picked = Vec::new();
        let mut counts: Vec<_> = found.iter().map(Vec::len).collect();
        for (index, (home, shard)) in homes.into_iter().zip(placed).enumerate() {
            let shard = usize::from(shard);
            if usize::from(home) == shard && counts[shard] < wanted[shard] {
                counts[shard] += 1;
                picked.push((index, shard));
            }
        }
        // A run with the same seed may have used them.
        let addresses: Vec<_> = picked.iter().map(|(index, _)| deployers[*index]).collect();
        let accounts = cluster.accounts(&addresses).await?;
        for ((index, shard), (nonce, _)) in picked.into_iter().zip(accounts) {
            if nonce == 0 {
                found[shard].push(Site { key: keys[index].clone(), contract: contracts[index] });
            }
        }
    }
    Ok(found)
}
