//! Errors that any transport can produce, and what a service's own error enum has to offer.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// What a message got wrong: which field, and what was expected there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("malformed message: field `{field}` must be {expected}")]
pub struct Malformed {
    /// Dotted path from the message to the field, as in `block.txs[3].nonce`.
    pub field: String,
    /// What a valid field is, to follow the words "must be".
    pub expected: String,
}

impl Malformed {
    /// `expected` completes the sentence "the field must be …".
    pub fn new(field: impl Into<String>, expected: impl Into<String>) -> Self {
        Self { field: field.into(), expected: expected.into() }
    }

    /// The same complaint, seen from a message that has this one in its field `outer`.
    pub fn within(mut self, outer: &str) -> Self {
        let dot = if self.field.is_empty() || self.field.starts_with('[') { "" } else { "." };
        self.field = format!("{outer}{dot}{}", self.field);
        self
    }
}

/// What can go wrong with a call to any service, whatever it asks.
///
/// After `Overloaded`, `DeadlineExceeded`, `Unreachable` and `Malformed` the request has had no
/// effect. After `Unknown`, `Stopped` and `Internal` it may have had one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The service, or the link to it, has as many calls in progress as it admits.
    #[error("{service} is at its limit of {limit} calls in progress; retry after a pause")]
    Overloaded {
        /// Who refused: the name of the service, or for a link its gRPC name.
        service: String,
        /// Calls admitted at a time; 0 if whoever refused did not say.
        limit: usize,
    },
    /// The deadline passed before the service began.
    #[error("the deadline passed before the call was begun; retry with a later deadline")]
    DeadlineExceeded,
    /// Sent, but not answered: timed out, or the connection was lost.
    #[error(
        "{reason}; the call may or may not have taken effect: repeat it with the same \
         idempotency key, or look at the state"
    )]
    Unknown {
        /// What happened.
        reason: String,
    },
    /// No connection to the service; nothing was sent.
    #[error("could not reach the service: {reason}; retry after a pause")]
    Unreachable {
        /// What happened.
        reason: String,
    },
    /// The request is not valid, and will not become so.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The service stopped, or gave the request up, before it answered.
    #[error("{service} stopped before it answered; retry once it is back")]
    Stopped {
        /// Name of the service.
        service: String,
    },
    /// A bug, or two processes of different versions.
    #[error("internal error: {reason}; report it")]
    Internal {
        /// What happened.
        reason: String,
    },
}

impl Fault {
    /// The gRPC code that a service's error enum passes on for its faults.
    pub const fn code(&self) -> tonic::Code {
        match self {
            Self::Overloaded { .. } => tonic::Code::ResourceExhausted,
            Self::DeadlineExceeded => tonic::Code::DeadlineExceeded,
            Self::Unknown { .. } => tonic::Code::Unknown,
            Self::Unreachable { .. } | Self::Stopped { .. } => tonic::Code::Unavailable,
            Self::Malformed(_) => tonic::Code::InvalidArgument,
            Self::Internal { .. } => tonic::Code::Internal,
        }
    }
}

/// A service's one error enum. It travels as JSON in the details of a gRPC status.
pub trait RpcError:
    std::error::Error + From<Fault> + Serialize + DeserializeOwned + Clone + Send + Sync + 'static
{
    /// The gRPC code that callers other than [`Remote`](crate::Remote) see; never `Ok`.
    fn code(&self) -> tonic::Code;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_grows_outwards() {
        let nonce = Malformed::new("nonce", "at most 8 bytes");
        let path = nonce.within("[3]").within("txs").within("block").field;
        assert_eq!(path, "block.txs[3].nonce");
        assert_eq!(Malformed::new("", "present").within("block").field, "block");
    }

    #[test]
    fn a_fault_says_what_happened_where_and_what_to_do() {
        let fault = Fault::Overloaded { service: "state".into(), limit: 8 };
        assert_eq!(
            fault.to_string(),
            "state is at its limit of 8 calls in progress; retry after a pause"
        );
    }
}
