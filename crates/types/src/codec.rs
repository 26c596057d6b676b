//! The one binary encoding of records on disk and of what is hashed: postcard, which is canonical
//! for these types (no maps, no floats).

use std::cell::Cell;

use alloy_primitives::B256;
use serde::{Serialize, de::DeserializeOwned};

/// Bytes that are not a record of the expected type.
#[derive(Debug, thiserror::Error)]
#[error("cannot read a {expected} from {length} bytes: {reason}")]
pub struct CodecError {
    /// Name of the type that was expected.
    pub expected: &'static str,
    /// Length of the input in bytes.
    pub length: usize,
    /// What the decoder says.
    pub reason: String,
}

/// Most that a thread keeps of the memory that it encodes in.
const KEPT_BYTES: usize = 1 << 20;

thread_local! {
    /// Where records are encoded: a vector that grows with each would be moved again and again.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Encodes a record.
pub fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    encoded(record, <[u8]>::to_vec)
}

/// Hands a record's encoding on.
fn encoded<T: Serialize, R>(record: &T, then: impl FnOnce(&[u8]) -> R) -> R {
    // Taken out, so that a record that encodes another one in itself finds an empty one.
    let mut scratch = SCRATCH.take();
    scratch.clear();
    // Writing to a growing vector fails only for types that postcard cannot represent (maps of
    // unknown length); none of the types here is one, and every record type has a round-trip test.
    let scratch = postcard::to_extend(record, scratch)
        .expect("records contain only types that postcard represents");
    let result = then(&scratch);
    if scratch.capacity() <= KEPT_BYTES {
        SCRATCH.set(scratch);
    }
    result
}

/// Encodes a record behind what `bytes` has, so that its owner may give them room once.
pub fn encode_behind<T: Serialize>(bytes: Vec<u8>, record: &T) -> Vec<u8> {
    postcard::to_extend(record, bytes).expect("records contain only types that postcard represents")
}

/// Decodes a record; trailing bytes are an error.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let failed = |reason: String| CodecError {
        expected: std::any::type_name::<T>(),
        length: bytes.len(),
        reason,
    };
    let (record, rest) = postcard::take_from_bytes(bytes).map_err(|e| failed(e.to_string()))?;
    if rest.is_empty() { Ok(record) } else { Err(failed(format!("{} bytes too many", rest.len()))) }
}

/// BLAKE3 of `domain`, a zero byte and the encoded record: for all that is not Ethereum's to define,
/// since it takes a fraction of Keccak's time. The domain keeps hashes of different kinds of record
/// apart.
pub fn digest<T: Serialize>(domain: &str, record: &T) -> B256 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(domain.as_bytes());
    hasher.update(&[0]);
    encoded(record, |bytes| {
        hasher.update(bytes);
    });
    B256::new(*hasher.finalize().as_bytes())
}
