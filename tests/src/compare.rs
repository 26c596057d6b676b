//! Compares the final state of a cluster, as the public API tells it, with that of one machine.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::{Address, U256};
use atoll_state::Record;
use atoll_types::{KECCAK_EMPTY, StateKey};
use futures::{StreamExt as _, TryStreamExt as _, stream};

use crate::{
    api::Api,
    history::History,
    replay::{Expected, Replay},
};

const REQUESTS: usize = 64;

/// Differences in words: of accounts, of storage, of the sum of all balances.
pub async fn differences(
    api: &Api,
    history: &History,
    replay: &Replay<'_>,
) -> anyhow::Result<Vec<String>> {
    let mut expected = replay.accounts();
    for key in written(history) {
        let account = expected.entry(key.address()).or_insert_with(absent);
        if let StateKey::Slot(_, _, slot) = key {
            account.storage.entry(slot).or_default();
        }
    }
    let found = read(api, &expected).await?;
    let mut differences = Vec::new();
    for (address, expected) in &expected {
        let found = &found[address];
        if found != expected {
            differences.push(format!("account {address}: {found:?}, one machine: {expected:?}"));
        }
    }
    let supply: U256 = history.genesis.values().map(|account| account.balance).sum();
    let balances: U256 = found.values().map(|account| account.balance).sum();
    let burned = replay.burned();
    if balances + burned != supply {
        differences.push(format!("{balances} wei, {burned} burned, {supply} at the beginning"));
    }
    Ok(differences)
}

fn absent() -> Expected {
    Expected { code_hash: KECCAK_EMPTY, ..Expected::default() }
}

/// Every key that any shard has ever written.
fn written(history: &History) -> BTreeSet<StateKey> {
    let writes = |record: &'_ Record| -> Vec<StateKey> {
        match record {
            Record::Block(block) => block.writes.iter().map(|(key, _)| *key).collect(),
            Record::Results(results) => {
                let parts = results.iter().flat_map(|result| &result.parts);
                parts.flat_map(|part| &part.writes).map(|(key, _)| *key).collect()
            }
            _ => Vec::new(),
        }
    };
    history.shards.iter().flatten().flat_map(writes).collect()
}

/// The accounts and slots of `wanted`, as the cluster has them.
async fn read(
    api: &Api,
    wanted: &BTreeMap<Address, Expected>,
) -> anyhow::Result<BTreeMap<Address, Expected>> {
    let account = |(address, wanted): (Address, Expected)| async move {
        let account = api.account(address, 0).await?;
        let mut storage = BTreeMap::new();
        for slot in wanted.storage.into_keys() {
            storage.insert(slot, api.storage(address, slot, 0).await?);
        }
        let (nonce, balance, code_hash) = (account.nonce, account.balance, account.code_hash);
        anyhow::Ok((address, Expected { nonce, balance, code_hash, storage }))
    };
    let all: Vec<_> = wanted.clone().into_iter().map(account).collect();
    stream::iter(all).buffer_unordered(REQUESTS).try_collect().await
}
