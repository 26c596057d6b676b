//! The gRPC code of each error, for callers that do not read its details.

use atoll_fabric::RpcError;
use tonic::Code;

use crate::{
    beacon::BeaconError,
    executor::ExecutorError,
    mempool::MempoolError,
    router::RouterError,
    state::{Refusal, StateError},
};

impl RpcError for MempoolError {
    fn code(&self) -> Code {
        match self {
            Self::OldSession { .. } => Code::FailedPrecondition,
            Self::State { .. } => Code::Unavailable,
            Self::Fault(fault) => fault.code(),
        }
    }
}

impl RpcError for ExecutorError {
    fn code(&self) -> Code {
        match self {
            Self::State { .. } => Code::Unavailable,
            Self::BadGroup { .. } => Code::InvalidArgument,
            Self::Fault(fault) => fault.code(),
        }
    }
}

impl RpcError for StateError {
    fn code(&self) -> Code {
        match self {
            Self::NotHead { .. }
            | Self::Fenced { .. }
            | Self::Pinned { .. }
            | Self::CutGap { .. }
            | Self::NoSnapshot { .. }
            | Self::SnapshotBusy { .. }
            | Self::OtherBeaconChain { .. }
            | Self::NotHeld { .. } => Code::FailedPrecondition,
            Self::CutTooOld { .. } | Self::CutAhead { .. } => Code::OutOfRange,
            Self::Pruned { .. } => Code::NotFound,
            Self::Refused(refusal) => refusal_code(refusal),
            Self::NoRoot { .. } => Code::Unavailable,
            Self::Storage { .. } => Code::Internal,
            Self::Full { .. } => Code::ResourceExhausted,
            Self::Fault(fault) => fault.code(),
        }
    }
}

impl RpcError for RouterError {
    fn code(&self) -> Code {
        match self {
            Self::NotForThisShard { .. } => Code::FailedPrecondition,
            Self::Refused(refusal) => refusal_code(refusal),
            Self::State { .. } => Code::Unavailable,
            Self::Fault(fault) => fault.code(),
        }
    }
}

impl RpcError for BeaconError {
    fn code(&self) -> Code {
        match self {
            Self::NoSuchShard { .. } | Self::BadIntent { .. } => Code::InvalidArgument,
            Self::TooManyIntents { .. } => Code::ResourceExhausted,
            Self::Pruned { .. } => Code::NotFound,
            Self::Storage { .. } => Code::Internal,
            Self::NoSnapshot { .. } | Self::SnapshotBusy { .. } => Code::FailedPrecondition,
            Self::Fault(fault) => fault.code(),
        }
    }
}

const fn refusal_code(refusal: &Refusal) -> Code {
    match refusal {
        Refusal::Malformed { .. } => Code::InvalidArgument,
        Refusal::TooManyShared { .. } => Code::ResourceExhausted,
        Refusal::WrongChain { .. }
        | Refusal::WrongEpoch { .. }
        | Refusal::GroupNotOpen { .. }
        | Refusal::NotExecutor { .. }
        | Refusal::NotForThisShard { .. }
        | Refusal::OutsideFence { .. }
        | Refusal::LacksFenced { .. }
        | Refusal::NotLate { .. }
        | Refusal::ManifestMismatch { .. }
        | Refusal::OtherResult { .. }
        | Refusal::CreditGap { .. }
        | Refusal::NotOwner { .. }
        | Refusal::OldAttempt { .. }
        | Refusal::Expired { .. } => Code::FailedPrecondition,
    }
}
