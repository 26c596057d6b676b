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
