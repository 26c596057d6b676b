//! `executor`: runs transactions of one shard: its local blocks, predictions, and groups.

use atoll_fabric::Fault;
use atoll_meter::WorkDone;
use atoll_types::{
    B256, BlockEnv, GroupResult, KeySet, LateAsk, PlannedGroup, SharedTx, StateKey, Tx, Write,
};
use serde::{Deserialize, Serialize};

pub use crate::client::ExecutorClient;

/// Runs transactions speculatively on the newest state to learn what they use.
#[derive(Clone, Debug)]
pub struct Predict {
    pub txs: Vec<Tx>,
    /// Values of keys of other shards, as far as the caller has fetched them.
    pub known: Vec<Write>,
}

#[derive(Clone, Debug)]
pub struct PredictReply {
    /// In the order of the transactions.
    pub predictions: Vec<Prediction>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prediction {
    /// What it uses. A plain payment to an account of another shard without code is a credit.
    Uses { keys: KeySet, credit: bool },
    /// It cannot be said before these are fetched from the shards that own them.
    Needs {
        keys: Vec<StateKey>,
        /// Hashes of code that this shard does not have, with an account that has it.
        codes: Vec<CodeWanted>,
    },
    /// It cannot run on the newest state.
    Invalid { reason: String, nonce_ahead: bool },
    /// Predictions for its sender have cost more than its transactions pay for.
    Refused { reason: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeWanted {
    pub hash: B256,
    pub account: atoll_types::Address,
}

/// Puts payments to accounts of other shards, known to have no code, into the next local block.
#[derive(Clone, Debug)]
pub struct Debit {
    pub txs: Vec<Tx>,
}

/// Runs groups, each on its leased values and apart from the others.
#[derive(Clone, Debug)]
pub struct RunGroups {
    pub groups: Vec<GroupRun>,
}

/// A group and everything that it needs.
#[derive(Clone, Debug)]
pub struct GroupRun {
    pub group: PlannedGroup,
    pub env: BlockEnv,
    /// Placement epoch.
    pub epoch: u64,
    /// In the order of the plan.
    pub txs: Vec<SharedTx>,
    /// Every leased value. Code that they name is with this shard's state.
    pub values: Vec<Write>,
    /// Keys among them that were leased late to be written.
    pub late_writes: Vec<StateKey>,
    /// Keys that were refused: whoever needs one was predicted wrongly.
    pub refused: Vec<StateKey>,
}

#[derive(Clone, Debug)]
pub struct RunGroupsReply {
    /// Of the groups that ran; those that cannot are left out.
    pub results: Vec<GroupResult>,
    /// Groups that need more than they were leased.
    pub lacking: Vec<LateAsk>,
}

/// What the executor has counted since it was started.
#[derive(Clone, Copy, Debug)]
pub struct ExecutorStats;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExecutorStatsReply {
    /// Local blocks, and the transactions that they include.
    pub local: WorkDone,
    /// Groups, and the transactions in them.
    pub groups: WorkDone,
    /// Requests to predict, and the predictions that needed nothing more.
    pub predictions: WorkDone,
    /// Transactions of groups that used keys outside their set.
    pub wrong: u64,
}

/// Every error of the executor service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum ExecutorError {
    #[error("cannot reach the shard's state: {reason}")]
    State { reason: String },
    #[error("group cannot run: {what}")]
    BadGroup { what: String },
    #[error(transparent)]
    Fault(#[from] Fault),
}
