//! What is wrong with a request, in the codes and words that Ethereum's libraries look for.

use alloy_primitives::{Bytes, hex};
use jsonrpsee::types::ErrorObjectOwned;
use serde_json::Value;
use tonic::{Code, Status};

/// Codes of JSON-RPC 2.0, EIP-1474 and geth.
pub(crate) const INVALID_PARAMS: i32 = -32602;
const INTERNAL: i32 = -32603;
const SERVER: i32 = -32000;
const NOT_FOUND: i32 = -32001;
const LIMIT: i32 = -32005;
const REVERTED: i32 = 3;
/// EIP-4444: history that is not kept any more. Nothing else answers NOT_FOUND inside the cluster.
const PRUNED: i32 = 4444;
/// EIP-7966: the transaction was taken, and has no receipt yet.
const NO_RECEIPT_YET: i32 = 4;

/// An error that a client is told.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub code: i32,
    pub message: String,
    pub data: Option<Value>,
}

impl Failure {
    pub fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: None }
    }

    pub fn params(message: impl Into<String>) -> Self {
        Self::new(INVALID_PARAMS, message)
    }

    pub fn server(message: impl Into<String>) -> Self {
        Self::new(SERVER, message)
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(INTERNAL, message)
    }

    pub fn limit(message: impl Into<String>) -> Self {
        Self::new(LIMIT, message)
    }

    pub fn no_block() -> Self {
        Self::new(NOT_FOUND, "header not found")
    }

    pub fn no_receipt_yet(hash: alloy_primitives::B256, message: impl Into<String>) -> Self {
        let data = Some(Value::String(hash.to_string()));
        Self { data, ..Self::new(NO_RECEIPT_YET, message) }
    }

    /// With the revert data, and its reason where it is Solidity's `Error(string)`.
    pub fn reverted(output: &Bytes) -> Self {
        let message = match reason(output) {
            Some(reason) => format!("execution reverted: {reason}"),
            None => "execution reverted".to_owned(),
        };
        let data = Some(Value::String(hex::encode_prefixed(output)));
        Self { data, ..Self::new(REVERTED, message) }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let code = match status.code() {
            Code::InvalidArgument | Code::OutOfRange => INVALID_PARAMS,
            Code::NotFound => PRUNED,
            Code::ResourceExhausted => LIMIT,
            Code::Internal => INTERNAL,
            _ => SERVER,
        };
        Self::new(code, status.message())
    }
}

impl From<Failure> for ErrorObjectOwned {
    fn from(failure: Failure) -> Self {
        Self::owned(failure.code, failure.message, failure.data)
    }
}

/// What `Error(string)` or `Panic(uint256)` says.
fn reason(output: &[u8]) -> Option<String> {
    let (selector, rest) = output.split_at_checked(4)?;
    let word = |at: usize| {
        let (high, low) = rest.get(at..at.checked_add(32)?)?.split_at(24);
        let small = high.iter().all(|byte| *byte == 0);
        small.then_some(usize::try_from(u64::from_be_bytes(low.try_into().ok()?)).ok()?)
    };
    match selector {
        [0x08, 0xc3, 0x79, 0xa0] => {
            let at = word(0)?;
            let begin = at.checked_add(32)?;
            let text = rest.get(begin..begin.checked_add(word(at)?)?)?;
            Some(String::from_utf8_lossy(text).into_owned())
        }
        [0x4e, 0x48, 0x7b, 0x71] => Some(format!("panic code 0x{:02x}", word(0)?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_told_and_nonsense_is_not_believed() {
        let mut output = hex!("08c379a0").to_vec();
        output.extend([0; 31]);
        output.push(32);
        output.extend([0; 31]);
        output.push(3);
        output.extend(b"why");
        output.extend([0; 29]);
        let failure = Failure::reverted(&output.clone().into());
        assert_eq!((failure.code, failure.message.as_str()), (3, "execution reverted: why"));
        // A length beyond the end, and one that overflows.
        output[4 + 63] = 200;
        assert_eq!(Failure::reverted(&output.clone().into()).message, "execution reverted");
        output[4..68].fill(0xff);
        assert_eq!(Failure::reverted(&output.into()).message, "execution reverted");
    }
}
