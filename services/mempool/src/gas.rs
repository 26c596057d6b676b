//! Gas that a transaction needs before its first instruction.

use alloy_consensus::Transaction as _;
use atoll_types::Tx;

const BASE: u64 = 21_000;
const CREATION: u64 = 32_000;
/// EIP-3860, for each 32 bytes of init code.
const INIT_CODE_WORD: u64 = 2;
/// EIP-2028: a zero byte is one token, another four.
const TOKEN: u64 = 4;
/// EIP-7623.
const FLOOR_TOKEN: u64 = 10;
/// EIP-2930.
const LISTED_ADDRESS: u64 = 2_400;
const LISTED_SLOT: u64 = 1_900;
/// EIP-7702.
const AUTHORIZATION: u64 = 25_000;

/// The least gas limit with which Ethereum (Prague and later) lets the transaction run. Linear in
/// its size, which is bounded, so nothing overflows.
pub fn intrinsic_gas(tx: &Tx) -> u64 {
    let envelope = tx.envelope();
    let input = envelope.input();
    let zeros = input.iter().filter(|byte| **byte == 0).count() as u64;
    let tokens = zeros + 4 * (input.len() as u64 - zeros);
    let mut gas = BASE + TOKEN * tokens;
    if envelope.is_create() {
        gas += CREATION + INIT_CODE_WORD * (input.len() as u64).div_ceil(32);
    }
    if let Some(list) = envelope.access_list() {
        let slots: usize = list.0.iter().map(|item| item.storage_keys.len()).sum();
        gas += LISTED_ADDRESS * list.0.len() as u64 + LISTED_SLOT * slots as u64;
    }
    if let Some(authorizations) = envelope.authorization_list() {
        gas += AUTHORIZATION * authorizations.len() as u64;
    }
    gas.max(BASE + FLOOR_TOKEN * tokens)
}
