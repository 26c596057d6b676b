//! Transactions ordered by what they pay above a base fee that moves.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::Address;
use atoll_types::Tx;

/// What a transaction offers for each unit of gas, in wei.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Price {
    /// Max fee per gas.
    cap: u128,
    /// Max priority fee per gas, at most `cap`.
    tip: u128,
}

impl Price {
    pub fn of(tx: &Tx) -> Self {
        let cap = tx.max_fee_per_gas();
        Self { cap, tip: tx.priority_fee().min(cap) }
    }

    /// What can be earned by running both: at any base fee, [`Price::above`] of the result is the
    /// lower one of the two.
    pub fn min(self, other: Self) -> Self {
        Self { cap: self.cap.min(other.cap), tip: self.tip.min(other.tip) }
    }

    /// Effective priority fee at a base fee, in wei. Negative: it cannot run.
    pub fn above(self, base_fee: u64) -> i128 {
        let signed = |fee: u128| i128::try_from(fee).unwrap_or(i128::MAX);
        signed(self.tip).min(signed(self.cap) - i128::from(base_fee))
    }

    /// Up to this base fee it is the tip that counts, from there on the cap.
    fn turn(self) -> u128 {
        self.cap - self.tip
    }
}

/// A transaction's place in a [`PriceIndex`]. The arrival number identifies it: first come, first
/// served among equal prices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rank {
    pub price: Price,
    pub arrival: u64,
    pub sender: Address,
    pub nonce: u64,
}

type Fee = (u128, Reverse<u64>, Address);

/// An ordered set of transactions. Insertion, removal, best and worst are O(log n). A new base fee
/// costs O(m log n) for the m transactions whose effective price changes its kind: below their
/// turning point all have their tip as price, above it all have cap − base fee, so within either
/// kind the order does not depend on the base fee.
#[derive(Debug, Default)]
pub(crate) struct PriceIndex {
    base_fee: u64,
    by_tip: BTreeSet<Fee>,
    by_cap: BTreeSet<Fee>,
    by_turn: BTreeMap<(u128, u64), Rank>,
}

impl PriceIndex {
    pub fn insert(&mut self, rank: Rank) {
        self.by_turn.insert((rank.price.turn(), rank.arrival), rank);
        let fee = fee_of(&rank, self.base_fee);
        self.kind(rank.price).insert(fee);
    }

    pub fn remove(&mut self, rank: Rank) {
        self.by_turn.remove(&(rank.price.turn(), rank.arrival));
        let fee = fee_of(&rank, self.base_fee);
        self.kind(rank.price).remove(&fee);
    }

    pub fn set_base_fee(&mut self, base_fee: u64) {
        let old = std::mem::replace(&mut self.base_fee, base_fee);
        let (from, to) = (old.min(base_fee), old.max(base_fee));
        let crossed = (u128::from(from), 0)..(u128::from(to), 0);
        for rank in self.by_turn.range(crossed).map(|(_, rank)| rank) {
            let before = fee_of(rank, old);
            let after = fee_of(rank, base_fee);
            if base_fee > old {
                self.by_tip.remove(&before);
                self.by_cap.insert(after);
            } else {
                self.by_cap.remove(&before);
                self.by_tip.insert(after);
            }
        }
    }

    /// The effective price and the sender of the transaction that pays most.
    pub fn best(&self) -> Option<(i128, Address)> {
        let tip = self.by_tip.last().map(|fee| self.by_tip_order(fee));
        let cap = self.by_cap.last().map(|fee| self.by_cap_order(fee));
        let (price, _, sender) = tip.max(cap)?;
        Some((price, sender))
    }

    /// The effective price and the sender of the transaction that pays least, other than those of
    /// `except`, of which there may be one.
    pub fn worst(&self, except: Address) -> Option<(i128, Address)> {
        let other = |fee: &&Fee| fee.2 != except;
        let tip = self.by_tip.iter().take(2).find(other);
        let cap = self.by_cap.iter().take(2).find(other);
        let tip = tip.map(|fee| self.by_tip_order(fee));
        let cap = cap.map(|fee| self.by_cap_order(fee));
        let (price, _, sender) = tip.into_iter().chain(cap).min()?;
        Some((price, sender))
    }

    fn kind(&mut self, price: Price) -> &mut BTreeSet<Fee> {
        if price.turn() >= u128::from(self.base_fee) { &mut self.by_tip } else { &mut self.by_cap }
    }

    fn by_tip_order(&self, &(tip, arrival, sender): &Fee) -> (i128, Reverse<u64>, Address) {
        let price = Price { cap: u128::MAX, tip };
        (price.above(0), arrival, sender)
    }

    fn by_cap_order(&self, &(cap, arrival, sender): &Fee) -> (i128, Reverse<u64>, Address) {
        let price = Price { cap, tip: cap };
        (price.above(self.base_fee), arrival, sender)
    }
}

fn fee_of(rank: &Rank, base_fee: u64) -> Fee {
    let Price { cap, tip } = rank.price;
    let fee = if rank.price.turn() >= u128::from(base_fee) { tip } else { cap };
    (fee, Reverse(rank.arrival), rank.sender)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    #[test]
    fn best_and_worst_are_those_of_a_plain_scan_at_every_base_fee() {
        let mut rng = StdRng::seed_from_u64(7);
        let mut index = PriceIndex::default();
        let mut all: Vec<Rank> = Vec::new();
        let mut base_fee = 0;
        for arrival in 0..4_000 {
            match rng.random_range(0..4) {
                0 if !all.is_empty() => {
                    let gone = all.swap_remove(rng.random_range(0..all.len()));
                    index.remove(gone);
                }
                1 => {
                    base_fee = rng.random_range(0..40);
                    index.set_base_fee(base_fee);
                }
                _ => {
                    let cap = rng.random_range(0..40);
                    let tip = rng.random_range(0..=cap);
                    let rank = Rank {
                        price: Price { cap, tip },
                        arrival,
                        sender: Address::left_padding_from(&arrival.to_be_bytes()),
                        nonce: 0,
                    };
                    index.insert(rank);
                    all.push(rank);
                }
            }
            let order = |rank: &&Rank| (rank.price.above(base_fee), Reverse(rank.arrival));
            let best = all.iter().max_by_key(order);
            let worst = all.iter().min_by_key(order);
            let plain = |rank: &Rank| (rank.price.above(base_fee), rank.sender);
            assert_eq!(index.best(), best.map(plain));
            assert_eq!(index.worst(Address::repeat_byte(9)), worst.map(plain));
            if let Some(worst) = worst {
                let rest = all.iter().filter(|rank| rank.arrival != worst.arrival);
                assert_eq!(index.worst(worst.sender), rest.min_by_key(order).map(plain));
            }
        }
    }
}
