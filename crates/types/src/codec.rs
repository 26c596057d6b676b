//! The one binary encoding of records on disk and of what is hashed: postcard, which is canonical
//! for these types (no maps, no floats).

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

/// Encodes a record.
pub fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    // Writing to a growing vector fails only for types that postcard cannot represent (maps of
    // unknown length); none of the types here is one, and every record type has a round-trip test.
    postcard::to_stdvec(record).expect("records contain only types that postcard represents")
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
    hasher.update(&encode(record));
    B256::new(*hasher.finalize().as_bytes())
}
