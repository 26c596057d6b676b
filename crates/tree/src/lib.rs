//! The tree behind a shard's root: [`atoll_proof`] says what it is, this crate keeps one up to date.
//!
//! The upper part is in memory, node by node. Below it stand *pages*: all leaves under one prefix of
//! the key hash, sorted, 64 bytes each, at most [`Config::page_leaves`]. Within a page no hash is kept;
//! they are computed from its leaves whenever one of them changes. A page that grows too large becomes
//! an inner node over two, and small neighbours become one again, so that nothing depends on how keys
//! are spread. The root is a function of the leaves alone, however they came to be in their pages.
//!
//! Pages that were used recently are in memory; the others are in a [`Scratch`], which may be lost: it
//! is of use to the running tree only. A page read from it is checked against its hash.
//!
//! In memory, for each key: 64 bytes while its page is, and always its share of a node and a slot. How
//! large pages are is a trade of one for the other and for time:
//! [decision 0024](../../../docs/decisions/0024-a-binary-tree-in-pages.md).
//!
//! No clock, no threads, no randomness.

mod page;
mod pages;
mod scratch;
mod tree;

pub use page::Leaf;
pub use pages::PageError;
pub use scratch::{FileScratch, MemoryScratch, Scratch};
pub use tree::{Change, Config, Memory, Tree};
