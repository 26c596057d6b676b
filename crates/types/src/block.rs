//! Beacon blocks and shard blocks.

use alloy_primitives::{Address, B256, Bytes, U256};
use atoll_proof::Header;
use serde::{Deserialize, Serialize};

use crate::{Credit, GroupId, Receipt, ShardId, Tx, Write, digest};

/// What the EVM sees of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockEnv {
    pub chain_id: u64,
    /// `NUMBER`: the beacon block's.
    pub number: u64,
    /// `TIMESTAMP`, in seconds since 1970.
    pub timestamp: u64,
    /// `PREVRANDAO`.
    pub randomness: B256,
    /// `BASEFEE`, in wei.
    pub base_fee: u64,
    /// `COINBASE`.
    pub coinbase: Address,
    /// `GASLIMIT`.
    pub gas_limit: u64,
}

/// A transaction in a plan. The attempt tells which of its key sets the plan means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TxRef {
    pub hash: B256,
    /// Rises with each try, whatever ended the one before: a wrong prediction, an abort, a drop.
    pub attempt: u32,
}

/// Transactions of one round that conflict, and the shard that runs them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedGroup {
    pub id: GroupId,
    pub executor: ShardId,
    /// Every shard that owns a key of the group, ascending.
    pub owners: Vec<ShardId>,
    /// In the order in which they run.
    pub txs: Vec<TxRef>,
    /// Sum of the gas limits.
    pub gas: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Apply the result with this digest.
    Commit {
        digest: B256,
        /// Shards that became owners by late leases, and have their part.
        late: Vec<ShardId>,
    },
    /// Apply nothing.
    Abort(AbortCause),
}

/// Why a group is aborted: it says when its transactions come back, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AbortCause {
    /// These owners have not followed: what touches them comes back later each time.
    Missing(Vec<ShardId>),
    /// Everybody was there, and yet no result was acknowledged in time: the next groups of its
    /// transactions are smaller.
    Silent,
    /// A group that it took values from was aborted, or has another result.
    Dependant,
}

/// The end of a group. Nothing else decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    pub group: GroupId,
    pub verdict: Verdict,
}

/// Credits between two shards that are deposited at a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreditsDue {
    pub from: ShardId,
    pub to: ShardId,
    /// Sequence number of the last credit due; those before it are due too.
    pub up_to: u64,
}

/// The root of a shard's state at a settled cut: what [`atoll_proof`] defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateRoot {
    pub cut: u64,
    pub root: B256,
}

/// What the beacon has taken in of one shard's anchor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchored {
    pub shard: ShardId,
    /// Number of the shard's newest block.
    pub head: u64,
    /// Newest cut that the shard has passed.
    pub cut: u64,
    /// Digest of the shard's chain up to here.
    pub digest: B256,
    /// The newest root that the shard has told.
    pub root: Option<StateRoot>,
}

impl Anchored {
    fn in_header(&self) -> atoll_proof::Anchor {
        let root = |root: StateRoot| atoll_proof::StateRoot { cut: root.cut, root: root.root.0 };
        atoll_proof::Anchor {
            shard: self.shard.0,
            head: self.head,
            cut: self.cut,
            digest: self.digest.0,
            root: self.root.map(root),
        }
    }
}

/// A beacon block: the order of everything that crosses shards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeaconBlock {
    pub env: BlockEnv,
    /// Wall clock of the beacon in milliseconds since 1970; never falls from block to block.
    pub time_ms: u64,
    /// Hash of the block before it; zero for block 0.
    pub parent: B256,
    /// Placement epoch that the plan was made under.
    pub epoch: u64,
    pub decisions: Vec<Decision>,
    pub credits: Vec<CreditsDue>,
    pub plan: Vec<PlannedGroup>,
    /// Intents that will never be planned: their last valid round has passed.
    pub dropped: Vec<TxRef>,
    pub anchors: Vec<Anchored>,
    /// Newest cut whose earlier rounds are all decided in this block or before it.
    pub settled: u64,
}

impl BeaconBlock {
    /// Height.
    pub fn number(&self) -> u64 {
        self.env.number
    }

    /// The block's hash: what was ordered. It is made so that a verifier of proofs needs
    /// [`BeaconBlock::header`] only.
    pub fn hash(&self) -> B256 {
        let anchors = self.anchors.iter().map(Anchored::in_header);
        let Self { env, .. } = self;
        Header::hash_parts(env.chain_id, env.number, &self.body(), anchors).into()
    }

    /// What a verifier of proofs needs of the block.
    pub fn header(&self) -> Header {
        Header {
            chain_id: self.env.chain_id,
            number: self.env.number,
            body: self.body(),
            anchors: self.anchors.iter().map(Anchored::in_header).collect(),
        }
    }

    /// Digest of everything but the anchors.
    fn body(&self) -> atoll_proof::Hash {
        let Self { env, time_ms, parent, epoch, decisions, credits, plan, dropped, .. } = self;
        let rest = (env, time_ms, parent, epoch, decisions, credits, plan, dropped, self.settled);
        digest("atoll/beacon-block", &rest).0
    }
}

/// A transaction of a shard's block and its receipt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalTx {
    pub tx: Tx,
    pub receipt: Receipt,
}

/// A block of one shard, between two cuts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalBlock {
    pub shard: ShardId,
    /// From 1; cuts are not counted.
    pub number: u64,
    /// Digest of the shard's chain that the block extends.
    pub parent: B256,
    /// The newest cut before it; it runs with that beacon block's values.
    pub round: u64,
    pub txs: Vec<LocalTx>,
    /// Last value of every key that it changed.
    pub writes: Vec<Write>,
    /// Code that it created.
    pub codes: Vec<Bytes>,
    /// Credits to other shards, without sequence numbers (`seq` 0): the log gives those.
    pub credits: Vec<Credit>,
    /// Priority fees in wei, owed to the coinbase.
    pub fees: U256,
    /// Base fees in wei, burned.
    pub burned: U256,
}
