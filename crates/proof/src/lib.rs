//! Proofs of what an account, its code or a slot held at a cut, and their verifier. No I/O, no
//! allocation but for what is decoded, no panic on any input.
//!
//! # The tree
//!
//! The state of a shard is a set of pairs of a [`Key`] and a [`Value`]; a key that holds its default
//! ([`Key::default_value`]) is not in it. The root of the shard is a function of that set alone:
//!
//! - A key stands at the path that its hash spells, most significant bit first: 0 is left, 1 right.
//! - The hash of a subtree without keys is 32 zero bytes.
//! - The hash of a subtree with one key is that key's leaf: `leaf(key hash ‖ value hash)`, however
//!   deep the subtree could go. So a path is about as long as the logarithm of the number of keys,
//!   and no longer than the longest prefix that two key hashes share, plus one.
//! - The hash of any other subtree is `inner(left ‖ right)`.
//!
//! Key hash, value hash, `leaf` and `inner` are BLAKE3 in its keyed mode, each with a key of its own
//! (derived from a name, see [`Domain`]) and each on 64 bytes or less: one compression.
//!
//! The shape is that of sparse Merkle trees in which a subtree with a single leaf is that leaf
//! (Dahlberg, Pulls, Peeters, "Efficient Sparse Merkle Trees", 2016; the Jellyfish tree of Diem, 2021).
//!
//! # Why a proof convinces
//!
//! Whoever holds the right root and gets `Ok` knows what the tree holds, if BLAKE3 has no collisions:
//!
//! - The four kinds of hash have different keys, so no leaf can be passed off as an inner node, nor
//!   the other way, nor a hash of a value as a node. 32 zero bytes are a hash of nothing.
//! - Hashing up a path fixes every node on it: the root binds both children of each inner node, and
//!   the place of a sibling follows from the key's own bits, not from the proof.
//! - The key's hash is in the leaf: a leaf found on the path tells which key it is of.
//! - *Membership*: the path of the key ends at its leaf with that value.
//! - *Absence*: the path ends at an empty subtree, or at the leaf of another key. A subtree whose hash
//!   is a leaf holds one key only, so in both cases the key, whose place is in that subtree, is
//!   nowhere else either.
//!
//! # From a shard's root to a beacon block
//!
//! A beacon block takes in anchors of shards ([`Anchor`]); each names the newest root that the shard
//! has computed and the cut that it is of. The hash of the block is made from a digest of its rest and
//! from these anchors, field by field, so that [`Header`] is all that a verifier needs of the block. What it has to
//! know otherwise is the hash of the block, from somebody whom it trusts.

#![no_std]

extern crate alloc;

mod header;
mod path;
mod state;

pub use header::{Anchor, Header, StateRoot};
pub use path::{End, Invalid, MAX_DEPTH, Malformed, Proof, bit, verify};
pub use state::{Domain, Hash, Key, Value, inner, leaf};

/// Root of a shard that holds nothing.
pub const EMPTY: Hash = [0; 32];
