//! Bytes that a client sends as a transaction: refused, or what they say and nothing else.
#![no_main]

use atoll_types::{Bytes, Tx};
use libfuzzer_sys::fuzz_target;

/// That of the transaction in the corpus.
const CHAIN_ID: u64 = 1;

fuzz_target!(|bytes: &[u8]| {
    let raw = Bytes::copy_from_slice(bytes);
    let Ok(tx) = Tx::recover(raw.clone(), CHAIN_ID, None) else { return };
    let again = Tx::recover(raw, CHAIN_ID, None).expect("it was taken before");
    assert_eq!((tx.hash(), tx.sender()), (again.hash(), again.sender()));
    // Canonical: another encoding would be another hash of the same transaction.
    assert_eq!(*tx.hash(), alloy_primitives::keccak256(bytes));
});
