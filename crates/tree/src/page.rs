//! The leaves under one prefix.

use atoll_proof::{EMPTY, End, Hash, Proof, bit, inner, leaf};

/// Bytes of a leaf in a scratch.
pub(crate) const LEAF_BYTES: usize = 64;

/// Hashes of a key and of its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    pub key: Hash,
    pub value: Hash,
}

/// The two halves of sorted leaves that share their first `depth` bits.
pub(crate) fn halves(leaves: &[Leaf], depth: usize) -> (&[Leaf], &[Leaf]) {
    leaves.split_at(leaves.partition_point(|leaf| !bit(&leaf.key, depth)))
}

/// The hash of the subtree of sorted leaves that share their first `depth` bits. Two keys differ within
/// 256 bits, so it ends.
pub(crate) fn hash_of(leaves: &[Leaf], depth: usize) -> Hash {
    match leaves {
        [] => EMPTY,
        [one] => leaf(&one.key, &one.value),
        _ => {
            let (left, right) = halves(leaves, depth);
            inner(&hash_of(left, depth + 1), &hash_of(right, depth + 1))
        }
    }
}

/// Continues a path, which stands at `siblings.len()`, to its end.
pub(crate) fn prove(mut leaves: &[Leaf], key: &Hash, mut siblings: Vec<Hash>) -> Proof {
    while leaves.len() > 1 {
        let depth = siblings.len();
        let (left, right) = halves(leaves, depth);
        let (on, beside) = if bit(key, depth) { (right, left) } else { (left, right) };
        siblings.push(hash_of(beside, depth + 1));
        leaves = on;
    }
    let end = match leaves {
        [one] if one.key == *key => End::Own,
        [one] => End::Other { key_hash: one.key, value_hash: one.value },
        _ => End::Empty,
    };
    Proof { end, siblings }
}

pub(crate) fn find<'a>(leaves: &'a [Leaf], key: &Hash) -> Option<&'a Leaf> {
    leaves.binary_search_by_key(key, |leaf| leaf.key).ok().and_then(|at| leaves.get(at))
}

pub(crate) fn encode(leaves: &[Leaf]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(LEAF_BYTES * leaves.len());
    for leaf in leaves {
        bytes.extend_from_slice(&leaf.key);
        bytes.extend_from_slice(&leaf.value);
    }
    bytes
}

pub(crate) fn decode(bytes: &[u8]) -> Box<[Leaf]> {
    let (hashes, _) = bytes.as_chunks::<32>();
    let (pairs, _) = hashes.as_chunks::<2>();
    pairs.iter().map(|[key, value]| Leaf { key: *key, value: *value }).collect()
}
