//! Requests and replies of `beacon`.

use atoll_fabric::Malformed;
use atoll_types::{Fingerprints, Intent, IntentKeys, ShardKeys, TxRef};
use atoll_wire::v1 as wire;

use super::{MAX_SMALL_ITEMS, Proto, messages, plain};
use crate::beacon::{
    Announce, AnnounceReply, BeaconStats, BeaconStatsReply, Blocks, BlocksReply, Head, HeadReply,
    ReadBeaconSnapshot, TakeBeaconSnapshot,
};
use crate::state::{SnapshotPiece, SnapshotTaken};

messages! {
    Announce => AnnounceRequest {
        from: plain, intents: list, anchor: optional, earlier_acks: plain,
    }
    AnnounceReply => AnnounceResponse { whole: plain }
    Blocks => BlocksRequest { after: plain, max: plain, wait_ms: plain }
    BlocksReply => BlocksResponse { blocks: list }
    Head => HeadRequest {}
    HeadReply => HeadResponse { block: required, intents_waiting: plain, groups_open: plain }
    BeaconStats => BeaconStatsRequest {}
    BeaconStatsReply => BeaconStatsResponse {
        blocks: plain, intents: plain, groups: plain, txs: plain, commits: plain, aborts: plain,
        cpu_ns: plain, refused: list,
    }
    TakeBeaconSnapshot => TakeBeaconSnapshotRequest { block: plain }
    SnapshotTaken => TakeBeaconSnapshotResponse { number: plain, bytes: plain, digest: plain }
    ReadBeaconSnapshot => ReadBeaconSnapshotRequest { number: plain, offset: plain }
    SnapshotPiece => ReadBeaconSnapshotResponse { piece: plain }
}

impl Proto<wire::Intent> for Intent {
    fn into_wire(self) -> wire::Intent {
        let (mut owners, mut keys) = (Vec::new(), Vec::new());
        for of in self.keys {
            // A message has fewer keys than fit.
            let counts = [of.reads.len() as u32, of.writes.len() as u32];
            owners.extend([of.shard.into_wire(), counts[0], counts[1]]);
            keys.extend(of.reads);
            keys.extend(of.writes);
        }
        wire::Intent {
            hash: self.tx.hash.into_wire(),
            attempt: self.tx.attempt,
            origin: self.origin.into_wire(),
            sender: self.sender,
            nonce: self.nonce,
            gas_limit: self.gas_limit,
            last_valid_round: self.last_valid_round,
            halvings: self.halvings,
            owners,
            keys,
        }
    }

    fn from_wire(wire: wire::Intent) -> Result<Self, Malformed> {
        let hash = plain::decode(wire.hash, "hash")?;
        Ok(Self {
            tx: TxRef { hash, attempt: wire.attempt },
            origin: plain::decode(wire.origin, "origin")?,
            sender: wire.sender,
            nonce: wire.nonce,
            gas_limit: wire.gas_limit,
            last_valid_round: wire.last_valid_round,
            halvings: wire.halvings,
            keys: unpack(&wire.owners, &wire.keys)?,
        })
    }
}

/// The keys of each owner.
fn unpack(owners: &[u32], mut keys: &[u64]) -> Result<IntentKeys, Malformed> {
    if keys.len() > MAX_SMALL_ITEMS {
        let expected = format!("a list of at most {MAX_SMALL_ITEMS} items, not {}", keys.len());
        return Err(Malformed::new("keys", expected));
    }
    let (owners, rest) = owners.as_chunks::<3>();
    if !rest.is_empty() {
        return Err(Malformed::new("owners", "three numbers for each owner"));
    }
    let mut take = |count: u32| {
        let (taken, left) = keys.split_at_checked(count as usize)?;
        keys = left;
        Some(Fingerprints::from_slice(taken))
    };
    let mut unpacked = IntentKeys::with_capacity(owners.len());
    for [shard, reads, writes] in owners {
        let shard = plain::decode(*shard, "owners")?;
        let (Some(reads), Some(writes)) = (take(*reads), take(*writes)) else {
            return Err(Malformed::new("keys", "as many as the owners have"));
        };
        unpacked.push(ShardKeys { shard, reads, writes });
    }
    match keys {
        [] => Ok(unpacked),
        _ => Err(Malformed::new("keys", "as many as the owners have")),
    }
}
