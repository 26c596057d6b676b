//! Hashes of beacon blocks, for `BLOCKHASH`.

use std::collections::HashMap;

use atoll_types::B256;

/// Hashes that are remembered; see `Owner::block_hash` for how long they may be needed.
const KEPT: u64 = 8_192;

/// The newest ones that the state has told.
#[derive(Debug, Default)]
pub(crate) struct Hashes(HashMap<u64, B256>);

impl Hashes {
    /// Takes in the hashes up to that of block `newest`.
    pub fn add(&mut self, newest: u64, hashes: &[B256]) {
        for (hash, number) in hashes.iter().rev().zip((0..=newest).rev()) {
            self.0.insert(number, *hash);
        }
        if self.0.len() as u64 > 2 * KEPT {
            self.0.retain(|number, _| number + KEPT > newest);
        }
    }

    pub fn get(&self, number: u64) -> Option<B256> {
        self.0.get(&number).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_come_last_and_the_oldest_are_forgotten() {
        let hash = |n: u64| B256::left_padding_from(&n.to_be_bytes());
        let mut hashes = Hashes::default();
        hashes.add(2, &[hash(0), hash(1), hash(2)]);
        hashes.add(3, &[hash(3)]);
        hashes.add(3, &[]);
        assert_eq!([0, 1, 2, 3, 4].map(|n| hashes.get(n)), {
            [Some(hash(0)), Some(hash(1)), Some(hash(2)), Some(hash(3)), None]
        });
        (4..=3 * KEPT).for_each(|n| hashes.add(n, &[hash(n)]));
        assert!(hashes.0.len() as u64 <= 2 * KEPT && hashes.get(2 * KEPT).is_some());
    }
}
