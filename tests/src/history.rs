//! What a cluster has recorded: its beacon's blocks, its shards' logs, and what clients were told.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::Arc,
};

use alloy_consensus::{TxEnvelope, transaction::SignerRecoverable as _};
use alloy_eips::Decodable2718 as _;
use alloy_primitives::{Address, B256};
use anyhow::{Context as _, bail, ensure};
use atoll_api::{
    beacon::{Blocks, Head},
    state::{Outbox, Sync, Watch},
};
use atoll_fabric::Context;
use atoll_state::{GenesisAccount, Record};
use atoll_store::{FileLog, LogOptions, Replay as _, StoreError};
use atoll_types::{BeaconBlock, Placement, ShardId, decode};
use atoll_wire::v1::TransactionReceipt;
use tokio::time::Instant;

use crate::{PATIENCE, here::Here, wallet::Signed};

/// A transaction that a client sent, and how it was told that it ended.
#[derive(Clone, Debug)]
pub struct Ended {
    pub envelope: TxEnvelope,
    pub sender: Address,
    /// Final or dropped.
    pub receipt: TransactionReceipt,
}

impl Ended {
    pub fn new(tx: &Signed, receipt: TransactionReceipt) -> anyhow::Result<Self> {
        let envelope = TxEnvelope::decode_2718(&mut &tx.raw[..])?;
        Ok(Self { sender: envelope.recover_signer()?, envelope, receipt })
    }
}

/// Everything that the serial order follows from.
#[derive(Clone)]
pub struct History {
    pub placement: Placement,
    /// Accounts at the beginning.
    pub genesis: BTreeMap<Address, GenesisAccount>,
    /// From block 0 on.
    pub beacon: Vec<BeaconBlock>,
    /// The log of each shard.
    pub shards: Vec<Vec<Record>>,
    pub txs: HashMap<B256, Ended>,
}

impl History {
    /// Waits until nothing is under way any more, then copies what the cluster has recorded.
    pub async fn of(here: &Here, txs: Vec<Ended>) -> anyhow::Result<Self> {
        let mut beacon = quiet(here).await?;
        let genesis = &here.cluster.genesis.accounts;
        let shards = (0..here.config.chain.shards).map(|shard| {
            let dir = here.config.data.join(format!("shard-{shard}")).join("log");
            read_log(&dir).with_context(|| format!("cannot read the log of shard {shard}"))
        });
        let shards = shards.collect::<anyhow::Result<Vec<_>>>()?;
        let cuts = shards.iter().flatten().filter_map(|record| match record {
            Record::Cut(block) => Some(block.number()),
            _ => None,
        });
        let newest = cuts.max().unwrap_or(0);
        while beacon.last().is_some_and(|block| block.number() < newest) {
            follow(here, &mut beacon).await?;
        }
        let count = txs.len();
        let txs: HashMap<B256, Ended> =
            txs.into_iter().map(|tx| (*tx.envelope.tx_hash(), tx)).collect();
        ensure!(txs.len() == count, "a transaction was sent twice");
        Ok(Self {
            placement: here.cluster.placement.clone(),
            genesis: genesis.iter().map(|account| (account.address, account.clone())).collect(),
            beacon,
            shards,
            txs,
        })
    }

    pub fn owner(&self, address: &Address) -> ShardId {
        self.placement.owner(address)
    }
}

/// Follows the beacon until nothing is under way: no group, no credit, no fee, no fence. Returns its
/// blocks.
async fn quiet(here: &Here) -> anyhow::Result<Vec<BeaconBlock>> {
    let deadline = Instant::now() + PATIENCE;
    let mut blocks = vec![here.cluster.genesis.block.clone()];
    follow(here, &mut blocks).await?;
    // Fees of what ran before this block leave their shards at the next cut.
    let first = here.cluster.beacon.head.call(context(), Head).await?.block.number() + 1;
    loop {
        follow(here, &mut blocks).await?;
        let Some(open) = under_way(here, &blocks, first).await? else {
            return Ok(blocks);
        };
        if Instant::now() >= deadline {
            bail!("still under way after {PATIENCE:?}: {open}");
        }
    }
}

fn context() -> Context {
    Context::none().with_timeout(PATIENCE)
}

/// Adds the blocks that came since; waits for one if none did.
pub async fn follow(here: &Here, blocks: &mut Vec<BeaconBlock>) -> anyhow::Result<()> {
    loop {
        let ask = Blocks { after: blocks.len() as u64 - 1, max: 256, wait_ms: 10_000 };
        let new = here.cluster.beacon.blocks.call(context(), ask).await?.blocks;
        let full = new.len() == 256;
        blocks.extend(new.into_iter().map(Arc::unwrap_or_clone));
        if !full {
            return Ok(());
        }
    }
}

/// Something that is under way, in words.
async fn under_way(
    here: &Here,
    blocks: &[BeaconBlock],
    first: u64,
) -> anyhow::Result<Option<String>> {
    let head = here.cluster.beacon.head.call(context(), Head).await?;
    if head.intents_waiting + head.groups_open > 0 {
        let (intents, groups) = (head.intents_waiting, head.groups_open);
        return Ok(Some(format!("{intents} intents and {groups} groups at the beacon")));
    }
    let mut due: HashMap<(ShardId, ShardId), (u64, u64)> = HashMap::new();
    for (block, credits) in blocks.iter().flat_map(|b| b.credits.iter().map(move |c| (b, c))) {
        due.insert((credits.from, credits.to), (credits.up_to, block.number()));
    }
    let mut cuts = Vec::new();
    for clients in &here.cluster.shards {
        let outbox = clients.state.outbox.call(context(), Outbox).await?;
        let counts = [
            ("groups to run", outbox.open.run.len()),
            ("leases", outbox.open.leases.len()),
            ("returned transactions", outbox.open.returned.len()),
            ("unplanned transactions", outbox.unplanned.len()),
            ("results", outbox.results.len()),
            ("awaited groups", outbox.awaited.len()),
            ("credits", outbox.credits.len()),
        ];
        if let Some((what, count)) = counts.into_iter().find(|(_, count)| *count > 0) {
            return Ok(Some(format!("{count} {what} at a shard")));
        }
        let ask = Watch { version: 0, credits_after: Vec::new(), wait_ms: 0 };
        cuts.push(clients.state.watch.call(context(), ask).await?.anchor);
    }
    for anchor in &cuts {
        if anchor.cut < first {
            return Ok(Some(format!("shard {} is at cut {}", anchor.shard, anchor.cut)));
        }
        for (to, sent) in &anchor.credits_sent {
            let (up_to, block) = due.get(&(anchor.shard, *to)).copied().unwrap_or_default();
            if up_to < *sent || cuts[usize::from(to.0)].cut < block {
                return Ok(Some(format!("credits from {} to {to}: {sent} sent", anchor.shard)));
            }
        }
    }
    Ok(None)
}

/// Fails if a key is fenced or a sender pinned on any shard.
pub async fn no_fence_is_left(here: &Here) -> anyhow::Result<()> {
    for (clients, shard) in here.cluster.shards.iter().zip(0..) {
        let ask = Sync { after: 0, wait_ms: 0, full: false };
        let reply = clients.state.sync.call(context(), ask).await?;
        ensure!(reply.reset, "shard {shard} does not start over");
        for change in reply.changes {
            ensure!(change.fenced.is_empty(), "shard {shard} fences {:?}", change.fenced);
            ensure!(change.pinned.is_empty(), "shard {shard} pins {:?}", change.pinned);
        }
    }
    Ok(())
}

/// The records of a log that may be in use: of a copy, since a log is opened by one at a time.
fn read_log(dir: &Path) -> anyhow::Result<Vec<Record>> {
    let copy = tempfile::tempdir()?;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        std::fs::copy(entry.path(), copy.path().join(entry.file_name()))?;
    }
    let options = LogOptions { max_record_bytes: 64 << 20, ..LogOptions::default() };
    let log = FileLog::open(copy.path(), options)?;
    let mut records = Vec::new();
    let mut failed = None;
    log.replay(1, &mut |number, bytes| -> Result<(), StoreError> {
        match decode(bytes) {
            Ok(record) => records.push(record),
            Err(error) => {
                failed.get_or_insert((number, error));
            }
        }
        Ok(())
    })?;
    match failed {
        Some((number, error)) => Err(error).with_context(|| format!("record {number}")),
        None => Ok(records),
    }
}
