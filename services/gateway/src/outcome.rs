//! What became of an offered transaction: enum, words and gRPC status.

use atoll_api::mempool::{MempoolError, Refused};
use atoll_fabric::Fault;
use atoll_types::{B256, TxError};
use atoll_wire::v1::SubmitOutcome;
use tonic::{Code, Status};

use crate::convert;
use crate::pool::PoolError;

/// Trailing metadata with the name of the outcome.
const OUTCOME: &str = "atoll-outcome";
/// Trailing metadata with a pause in milliseconds, as gRPC's retry policies read it.
const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// The end of one offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Offered {
    pub hash: Option<B256>,
    pub outcome: SubmitOutcome,
    /// Empty if it was taken.
    pub message: String,
}

impl Offered {
    pub fn taken(hash: B256) -> Self {
        Self { hash: Some(hash), outcome: SubmitOutcome::Taken, message: String::new() }
    }

    /// Too much is under way in the gateway itself.
    pub fn overloaded(message: impl Into<String>) -> Self {
        Self { hash: None, outcome: SubmitOutcome::Overloaded, message: message.into() }
    }

    pub fn unreadable(error: &TxError) -> Self {
        let outcome = match error {
            TxError::Oversized { .. }
            | TxError::Undecodable { .. }
            | TxError::TrailingBytes { .. } => SubmitOutcome::Undecodable,
            TxError::UnsupportedType { .. } => SubmitOutcome::UnsupportedType,
            TxError::WrongChain { .. } => SubmitOutcome::WrongChain,
            TxError::HighS | TxError::InvalidSignature => SubmitOutcome::InvalidSignature,
            TxError::EmptyAuthorizations | TxError::PriorityAboveMax { .. } => {
                SubmitOutcome::InvalidFields
            }
        };
        Self { hash: None, outcome, message: error.to_string() }
    }

    pub fn not_recovered(error: &PoolError) -> Self {
        let outcome = match error {
            PoolError::Full { .. } => SubmitOutcome::Overloaded,
            PoolError::Panicked { .. } => SubmitOutcome::Internal,
        };
        Self { hash: None, outcome, message: error.to_string() }
    }

    pub fn refused(hash: B256, refused: &Refused) -> Self {
        let outcome = match refused {
            Refused::AlreadyKnown => SubmitOutcome::AlreadyKnown,
            Refused::NonceTooLow { .. } => SubmitOutcome::NonceTooLow,
            Refused::NonceTooFar { .. } => SubmitOutcome::NonceTooFar,
            Refused::InsufficientFunds { .. } => SubmitOutcome::InsufficientFunds,
            Refused::Underpriced { .. } | Refused::ReplacementUnderpriced { .. } => {
                SubmitOutcome::Underpriced
            }
            Refused::UnderWay => SubmitOutcome::UnderWay,
            Refused::MempoolFull { .. } => SubmitOutcome::MempoolFull,
            Refused::SenderFull { .. } => SubmitOutcome::SenderFull,
            Refused::IntrinsicGas { .. } => SubmitOutcome::IntrinsicGas,
            Refused::GasLimit { .. } => SubmitOutcome::GasLimit,
            Refused::WrongShard { .. } => SubmitOutcome::Internal,
            Refused::VolumeFull { .. } => SubmitOutcome::VolumeFull,
        };
        Self { hash: Some(hash), outcome, message: refused.to_string() }
    }

    /// The shard did not answer the whole call.
    pub fn failed(hash: B256, error: &MempoolError) -> Self {
        let outcome = match error {
            MempoolError::Fault(fault) => match fault {
                Fault::Overloaded { .. } => SubmitOutcome::Overloaded,
                Fault::Unreachable { .. } | Fault::DeadlineExceeded => SubmitOutcome::Unavailable,
                Fault::Unknown { .. } | Fault::Stopped { .. } => SubmitOutcome::Unknown,
                Fault::Malformed(_) | Fault::Internal { .. } => SubmitOutcome::Internal,
            },
            MempoolError::State { .. } => SubmitOutcome::Unavailable,
            MempoolError::OldSession { .. } => SubmitOutcome::Internal,
        };
        Self { hash: Some(hash), outcome, message: error.to_string() }
    }

    /// `Ok` with the hash if it was taken.
    pub fn into_status(self) -> Result<B256, Status> {
        let (code, pause_ms) = code_of(self.outcome);
        if let (Code::Ok, Some(hash)) = (code, self.hash) {
            return Ok(hash);
        }
        let mut status = Status::new(code, self.message);
        let name = self.outcome.as_str_name();
        let name = name.strip_prefix("SUBMIT_OUTCOME_").unwrap_or(name);
        if let Ok(name) = name.parse() {
            status.metadata_mut().insert(OUTCOME, name);
        }
        if let Some(pause_ms) = pause_ms {
            push_back(&mut status, pause_ms);
        }
        Err(status)
    }

    pub fn into_wire(self) -> atoll_wire::v1::submit_transactions_response::Result {
        atoll_wire::v1::submit_transactions_response::Result {
            hash: self.hash.map(convert::hash).unwrap_or_default(),
            outcome: self.outcome.into(),
            message: self.message,
        }
    }
}

/// Tells the client to wait before it tries again.
pub(crate) fn push_back(status: &mut Status, pause_ms: u64) {
    status.metadata_mut().insert(PUSHBACK, pause_ms.into());
}

/// `RESOURCE_EXHAUSTED` with a pause.
pub(crate) fn exhausted(message: impl Into<String>) -> Status {
    let mut status = Status::resource_exhausted(message);
    push_back(&mut status, 100);
    status
}

/// The gRPC code of an outcome, and the pause in milliseconds after which another try may help.
fn code_of(outcome: SubmitOutcome) -> (Code, Option<u64>) {
    use SubmitOutcome::*;
    match outcome {
        Taken => (Code::Ok, None),
        AlreadyKnown => (Code::AlreadyExists, None),
        Undecodable | UnsupportedType | WrongChain | InvalidSignature | InvalidFields
        | IntrinsicGas | GasLimit => (Code::InvalidArgument, None),
        NonceTooLow | NonceTooFar | InsufficientFunds | Underpriced | UnderWay => {
            (Code::FailedPrecondition, None)
        }
        SenderFull | MempoolFull => (Code::ResourceExhausted, Some(1_000)),
        VolumeFull => (Code::ResourceExhausted, Some(5_000)),
        Overloaded => (Code::ResourceExhausted, Some(100)),
        Unavailable => (Code::Unavailable, Some(500)),
        Unknown => (Code::Unknown, Some(500)),
        Unspecified | Internal => (Code::Internal, None),
    }
}
