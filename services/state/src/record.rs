//! What the shard's log holds: every input of its state machine, in the order of its history.

use atoll_types::{
    B256, BeaconBlock, Bytes, Credit, GroupId, GroupResult, LocalBlock, PartMessage, Settlement,
    ShardId, SharedTx, TxRef, Write,
};
use serde::{Deserialize, Serialize};

/// One input.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Record {
    /// The first record: what the chain began with.
    Genesis {
        digest: B256,
    },
    Block(LocalBlock),
    Cut(BeaconBlock),
    Share(Vec<SharedTx>),
    Withdraw {
        tx: TxRef,
        reason: String,
    },
    Results(Vec<GroupResult>),
    Parts(Vec<PartMessage>),
    Credits {
        from: ShardId,
        credits: Vec<Credit>,
    },
    Settle(Settlement),
    /// Keys leased late to groups, to be written.
    Grants(Vec<(GroupId, Vec<Write>)>),
    /// Code of other shards, kept for groups that run here.
    Codes(Vec<Bytes>),
    /// Transactions that make the executor panic.
    Quarantine(Vec<B256>),
}
