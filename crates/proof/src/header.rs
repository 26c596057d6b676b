//! What a verifier needs of a beacon block.

use alloc::vec::Vec;

use crate::Hash;

/// The root of a shard's state at a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StateRoot {
    pub cut: u64,
    pub root: Hash,
}

/// What a beacon block has taken in of a shard's anchor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor {
    pub shard: u16,
    /// Number of the shard's newest block.
    pub head: u64,
    /// Newest cut that the shard had passed.
    pub cut: u64,
    /// Digest of the shard's chain up to there.
    pub digest: Hash,
    /// The newest root that the shard has computed, of a cut that is settled.
    pub root: Option<StateRoot>,
}

/// A beacon block, with a digest for all that a verifier need not see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub chain_id: u64,
    pub number: u64,
    /// Digest of everything in the block but its anchors.
    pub body: Hash,
    /// At most one a shard.
    pub anchors: Vec<Anchor>,
}

impl Header {
    /// The hash of the block.
    pub fn hash(&self) -> Hash {
        Self::hash_parts(self.chain_id, self.number, &self.body, self.anchors.iter().copied())
    }

    /// The root of a shard that stands in the block.
    pub fn root_of(&self, shard: u16) -> Option<StateRoot> {
        self.anchors.iter().find(|anchor| anchor.shard == shard).and_then(|anchor| anchor.root)
    }

    /// The hash of a block of these parts: BLAKE3 with the key `atoll/beacon-block/1` (zeros up to 32
    /// bytes) over chain id, number, body and then each anchor: shard (2 bytes), head, cut (8 bytes
    /// each), digest, and 0, or 1 with cut and hash of the root. Numbers are big-endian.
    pub fn hash_parts(
        chain_id: u64,
        number: u64,
        body: &Hash,
        anchors: impl Iterator<Item = Anchor>,
    ) -> Hash {
        let mut hasher = blake3::Hasher::new_keyed(b"atoll/beacon-block/1\0\0\0\0\0\0\0\0\0\0\0\0");
        hasher.update(&chain_id.to_be_bytes());
        hasher.update(&number.to_be_bytes());
        hasher.update(body);
        for Anchor { shard, head, cut, digest, root } in anchors {
            let mut bytes = [0; 91];
            bytes[..2].copy_from_slice(&shard.to_be_bytes());
            bytes[2..10].copy_from_slice(&head.to_be_bytes());
            bytes[10..18].copy_from_slice(&cut.to_be_bytes());
            bytes[18..50].copy_from_slice(&digest);
            let mut length = 51;
            if let Some(StateRoot { cut, root }) = root {
                bytes[50] = 1;
                bytes[51..59].copy_from_slice(&cut.to_be_bytes());
                bytes[59..].copy_from_slice(&root);
                length = 91;
            }
            hasher.update(&bytes[..length]);
        }
        *hasher.finalize().as_bytes()
    }
}
