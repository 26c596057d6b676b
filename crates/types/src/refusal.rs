//! What a receiver says to a message that breaks a rule of the protocol.

use alloy_primitives::B256;
use serde::{Deserialize, Serialize};

use crate::{GroupId, ShardId, StateKey};

/// The rule that a message from another shard breaks. Refusing it is harmless.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Refusal {
    #[error("message is for chain {found}, this is chain {expected}")]
    WrongChain { found: u64, expected: u64 },
    #[error("message was made under placement epoch {found}, the epoch is {expected}")]
    WrongEpoch { found: u64, expected: u64 },
    #[error("group {group} is not open here: decided, or never planned")]
    GroupNotOpen { group: GroupId },
    #[error("shard {found} does not execute group {group}, shard {expected} does")]
    NotExecutor { group: GroupId, found: ShardId, expected: ShardId },
    #[error("part of group {group} is for shard {found}, this is shard {expected}")]
    NotForThisShard { group: GroupId, found: ShardId, expected: ShardId },
    #[error("part of group {group} writes {key:?}, which the group has not fenced here")]
    OutsideFence { group: GroupId, key: StateKey },
    #[error("part of group {group} does not hash to its place in the manifest")]
    ManifestMismatch { group: GroupId },
    #[error("another result of group {group} is already held")]
    OtherResult { group: GroupId },
    #[error("part of group {group} lacks {key:?}, which the group has fenced here")]
    LacksFenced { group: GroupId, key: StateKey },
    #[error("{key:?} cannot be leased late to group {group}: {why}")]
    NotLate { group: GroupId, key: StateKey, why: String },
    #[error("credit {found} from shard {from} does not follow {newest}")]
    CreditGap { from: ShardId, found: u64, newest: u64 },
    #[error("credit or key belongs to shard {owner}, this is shard {here}")]
    NotOwner { owner: ShardId, here: ShardId },
    #[error("transaction {tx} is shared already, as attempt {attempt}")]
    OldAttempt { tx: B256, attempt: u32 },
    #[error("at most {limit} transactions may wait to be ordered")]
    TooManyShared { limit: u64 },
    #[error("last valid round {last} has passed, the newest cut is {cut}")]
    Expired { last: u64, cut: u64 },
    #[error("malformed: {what}")]
    Malformed { what: String },
}

impl Refusal {
    /// The name of the rule, for counting.
    pub const fn rule(&self) -> &'static str {
        match self {
            Self::WrongChain { .. } => "wrong_chain",
            Self::WrongEpoch { .. } => "wrong_epoch",
            Self::GroupNotOpen { .. } => "group_not_open",
            Self::NotExecutor { .. } => "not_executor",
            Self::NotForThisShard { .. } => "not_for_this_shard",
            Self::OutsideFence { .. } => "outside_fence",
            Self::LacksFenced { .. } => "lacks_fenced",
            Self::NotLate { .. } => "not_late",
            Self::ManifestMismatch { .. } => "manifest_mismatch",
            Self::OtherResult { .. } => "other_result",
            Self::CreditGap { .. } => "credit_gap",
            Self::NotOwner { .. } => "not_owner",
            Self::OldAttempt { .. } => "old_attempt",
            Self::TooManyShared { .. } => "too_many_shared",
            Self::Expired { .. } => "expired",
            Self::Malformed { .. } => "malformed",
        }
    }
}

/// Why a transaction is dropped that makes the executor panic. Run again, it would do so again: its hash
/// is kept, and it is not run any more.
pub const PANICS: &str = "the transaction makes the executor panic; please report its hash";
