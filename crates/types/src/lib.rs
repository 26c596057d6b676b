//! The nouns of Atoll: ids, state keys, transactions, receipts, blocks, and what shards say to one
//! another. No I/O, no clock, no randomness.

mod block;
mod codec;
mod commit;
mod ids;
mod key;
mod placement;
mod receipt;
mod refusal;
mod trace;
mod tx;

pub use alloy_primitives::{Address, B256, Bytes, Log, LogData, U256};
pub use block::{
    AbortCause, Anchored, BeaconBlock, BlockEnv, CreditsDue, Decision, LocalBlock, LocalTx,
    PlannedGroup, StateRoot, TxRef, Verdict,
};
pub use codec::{CodecError, decode, digest, encode, encode_behind};
pub use commit::{
    Anchor, Credit, CreditKind, Fingerprints, Flight, GroupAck, GroupDigest, GroupResult,
    GroupToRun, InFlight, Intent, IntentKeys, KeySet, LateAsk, LateLease, Lease, Part, PartMessage,
    Settlement, ShardKeys, SharedTx, TxOutcome, Want, group_digest,
};
pub use ids::{GroupId, ShardId};
pub use key::{Basic, CodeRef, KECCAK_EMPTY, StateKey, StateValue, Write};
pub use placement::{BUCKETS, Placement};
pub use receipt::{Executed, Finality, Receipt, ReceiptKind};
pub use refusal::{PANICS, Refusal};
pub use trace::TraceContext;
pub use tx::{MAX_TX_BYTES, Tx, TxError};
