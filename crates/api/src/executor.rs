//! `executor`: runs transactions of one shard: its local blocks, predictions, and groups.

use atoll_fabric::Fault;
use atoll_types::{
    B256, BlockEnv, GroupResult, KeySet, PlannedGroup, SharedTx, StateKey, Tx, Write,
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
}

#[derive(Clone, Debug)]
pub struct RunGroupsReply {
    /// Of the groups that ran; the others are left out.
    pub results: Vec<GroupResult>,
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
