//! A path from the root to where a key stands or would stand.

use alloc::vec::Vec;
use core::fmt;

use crate::{EMPTY, Hash, Key, Value, inner, leaf};

/// Longest path: the bits of a key hash.
pub const MAX_DEPTH: usize = 256;

/// What the path of a key ends at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The key's own leaf: it is there.
    Own,
    /// A subtree without keys: it is not there.
    Empty,
    /// A subtree with this other key alone: it is not there.
    Other { key_hash: Hash, value_hash: Hash },
}

/// A proof of membership or absence. Encoded ([`Proof::encode`]) as a byte (0 own leaf, 1 empty, 2
/// other leaf), for the last its key hash and value hash, and the siblings, 32 bytes each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    pub end: End,
    /// Hashes of the subtrees beside the path, that of the root's child first.
    pub siblings: Vec<Hash>,
}

/// Why a proof does not show what it is to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invalid {
    /// The value is of another kind than the key.
    Kind,
    /// It proves presence where absence is claimed, or the other way.
    Claim,
    /// More siblings than a key hash has bits.
    TooDeep,
    /// The other leaf does not stand on the path of the key, or is the key's own.
    OtherPath,
    /// It leads to another root.
    Root,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kind => "the value is of another kind than the key",
            Self::Claim => "it proves presence where absence is claimed, or absence for a value",
            Self::TooDeep => "its path is longer than a key hash",
            Self::OtherPath => "the leaf that it ends at does not stand on the key's path",
            Self::Root => "it leads to another root",
        })
    }
}

impl core::error::Error for Invalid {}

/// Bytes that are not an encoded proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an encoded proof")
    }
}

impl core::error::Error for Malformed {}

/// Bit `depth` of a hash, most significant first; false past its end.
pub fn bit(hash: &Hash, depth: usize) -> bool {
    hash.get(depth / 8).is_some_and(|byte| byte & (0x80 >> (depth % 8)) != 0)
}

/// How many leading bits two hashes share.
fn shared_bits(a: &Hash, b: &Hash) -> usize {
    let differ = a.iter().zip(b).position(|(a, b)| a != b);
    differ.map_or(MAX_DEPTH, |at| 8 * at + (a[at] ^ b[at]).leading_zeros() as usize)
}

/// Whether, in the state of which `root` is the root, `key` holds `value`; `None` that it is not there,
/// which is the same as its default value. At most 259 hashes.
///
/// # Errors
/// What is wrong with the proof, the first thing that is found.
pub fn verify(root: &Hash, key: &Key, value: Option<&Value>, proof: &Proof) -> Result<(), Invalid> {
    if value.is_some_and(|value| !key.holds(value)) {
        return Err(Invalid::Kind);
    }
    let depth = proof.siblings.len();
    if depth > MAX_DEPTH {
        return Err(Invalid::TooDeep);
    }
    let value = value.filter(|value| **value != key.default_value());
    let key_hash = key.hash();
    let end = match (&proof.end, value) {
        (End::Own, Some(value)) => leaf(&key_hash, &value.hash()),
        (End::Empty, None) => EMPTY,
        (End::Other { key_hash: other, value_hash }, None) => {
            let shared = shared_bits(other, &key_hash);
            if shared < depth || shared == MAX_DEPTH {
                return Err(Invalid::OtherPath);
            }
            leaf(other, value_hash)
        }
        _ => return Err(Invalid::Claim),
    };
    // Two empty subtrees have no node above them: a longer path to the same would be another proof.
    if end == EMPTY && proof.siblings.last() == Some(&EMPTY) {
        return Err(Invalid::Root);
    }
    let up = |below: Hash, (depth, beside): (usize, &Hash)| match bit(&key_hash, depth) {
        false => inner(&below, beside),
        true => inner(beside, &below),
    };
    let found = proof.siblings.iter().enumerate().rev().fold(end, up);
    if found == *root { Ok(()) } else { Err(Invalid::Root) }
}

impl Proof {
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(65 + 32 * self.siblings.len());
        match &self.end {
            End::Own => bytes.push(0),
            End::Empty => bytes.push(1),
            End::Other { key_hash, value_hash } => {
                bytes.push(2);
                bytes.extend_from_slice(key_hash);
                bytes.extend_from_slice(value_hash);
            }
        }
        self.siblings.iter().for_each(|sibling| bytes.extend_from_slice(sibling));
        bytes
    }

    /// Each proof has one encoding, of at most 8,257 bytes; nothing else is taken.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (kind, mut rest) = bytes.split_first().ok_or(Malformed)?;
        let end = match kind {
            0 => End::Own,
            1 => End::Empty,
            2 => {
                let (key_hash, after) = rest.split_first_chunk().ok_or(Malformed)?;
                let (value_hash, after) = after.split_first_chunk().ok_or(Malformed)?;
                rest = after;
                End::Other { key_hash: *key_hash, value_hash: *value_hash }
            }
            _ => return Err(Malformed),
        };
        let (siblings, odd) = rest.as_chunks::<32>();
        if !odd.is_empty() || siblings.len() > MAX_DEPTH {
            return Err(Malformed);
        }
        Ok(Self { end, siblings: siblings.to_vec() })
    }
}
