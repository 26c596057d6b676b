//! The order in which transactions for a block are run.

use alloy_primitives::map::HashMap;
use atoll_types::Address;

/// Puts each sender's transactions into the order of their nonces, in the places that they have
/// together. One before its turn would send those that it waits for across shards with it, and payments
/// would come back in the same order for ever. `of` tells sender and nonce.
pub(crate) fn in_turn<T>(txs: Vec<T>, of: impl Fn(&T) -> (Address, u64)) -> Vec<T> {
    let keys: Vec<(Address, u64)> = txs.iter().map(of).collect();
    let mut last: HashMap<Address, u64> = HashMap::default();
    // As it nearly always is.
    if keys.iter().all(|(sender, nonce)| last.insert(*sender, *nonce).is_none_or(|l| l < *nonce)) {
        return txs;
    }
    let mut places: HashMap<Address, Vec<usize>> = HashMap::default();
    for (place, (sender, _)) in keys.iter().enumerate() {
        places.entry(*sender).or_default().push(place);
    }
    // Where what stands at each place goes to.
    let mut to = vec![0; txs.len()];
    for places in places.values() {
        let mut by_nonce = places.clone();
        by_nonce.sort_by_key(|place| keys[*place].1);
        for (place, from) in places.iter().zip(by_nonce) {
            to[from] = *place;
        }
    }
    let mut moved: Vec<(usize, T)> = to.into_iter().zip(txs).collect();
    moved.sort_unstable_by_key(|(place, _)| *place);
    moved.into_iter().map(|(_, tx)| tx).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_senders_transactions_are_in_turn_and_those_of_others_keep_their_places() {
        let of = |(sender, nonce): &(u8, u64)| (Address::repeat_byte(*sender), *nonce);
        let came = vec![(1, 7), (2, 3), (1, 5), (3, 0), (2, 2), (1, 6)];
        let turns = [(1, 5), (2, 2), (1, 6), (3, 0), (2, 3), (1, 7)];
        assert_eq!(in_turn(came, of), turns);
        assert_eq!(in_turn(Vec::new(), of), []);
    }
}
