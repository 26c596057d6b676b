//! What calls of a contract are likely to use of other shards: fetched before a prediction instead
//! of one after the other as its run comes to ask for them.
//!
//! A hint that is wrong costs a value that nobody reads; what is predicted is what the run uses.

use std::collections::{HashMap, VecDeque};

use atoll_types::{Address, StateKey, Tx};

/// Calls of one contract that are remembered.
const WINDOW: usize = 8;
/// Contracts that are remembered; with more, all are forgotten.
const MAX_CONTRACTS: usize = 1_024;
/// Keys of one call that are remembered.
const MAX_KEYS: usize = 256;

/// Keys of other shards that the last calls of each contract have used.
#[derive(Debug, Default)]
pub(crate) struct Hints {
    calls: HashMap<Address, VecDeque<Vec<StateKey>>>,
}

/// The contract that a transaction calls; payments differ in nothing but the account paid.
fn contract(tx: &Tx) -> Option<Address> {
    tx.to().filter(|_| !tx.input().is_empty())
}

impl Hints {
    /// Notes which keys of other shards a call has used.
    pub fn note(&mut self, tx: &Tx, foreign: impl Iterator<Item = StateKey>) {
        let Some(contract) = contract(tx) else { return };
        if self.calls.len() >= MAX_CONTRACTS && !self.calls.contains_key(&contract) {
            self.calls.clear();
        }
        let calls = self.calls.entry(contract).or_default();
        if calls.len() == WINDOW {
            calls.pop_front();
        }
        calls.push_back(foreign.take(MAX_KEYS).collect());
    }

    /// The keys that more than half of the last calls of the same contracts have used.
    pub fn keys<'a>(&self, txs: impl Iterator<Item = &'a Tx>) -> Vec<StateKey> {
        let mut contracts: Vec<Address> = txs.filter_map(contract).collect();
        contracts.sort_unstable();
        contracts.dedup();
        let mut keys = Vec::new();
        for calls in contracts.iter().filter_map(|contract| self.calls.get(contract)) {
            let mut users: HashMap<StateKey, usize> = HashMap::new();
            for key in calls.iter().flatten() {
                *users.entry(*key).or_default() += 1;
            }
            let likely = users.into_iter().filter(|(_, users)| 2 * users > calls.len());
            keys.extend(likely.map(|(key, _)| key));
        }
        keys
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{B256, Bytes, TxKind, U256, b256};

    use super::*;

    /// A transaction of anybody; only where it goes and whether it has input matters.
    fn tx(to: Address, input: &'static [u8]) -> Tx {
        use alloy_consensus::{SignableTransaction as _, TxEnvelope, TxLegacy};
        use alloy_eips::Encodable2718 as _;
        let unsigned = TxLegacy {
            chain_id: Some(1),
            nonce: 0,
            gas_price: 1,
            gas_limit: 100_000,
            to: TxKind::Call(to),
            value: U256::ZERO,
            input: Bytes::from_static(input),
        };
        let r = b256!("28ef61340bd939bc2195fe537567866003e1a15d3c71ff63e1590620aa636276");
        let s = b256!("67cbe9d8997f761aecb703304b3800ccf555c9f3dc64214b297fb1966a3b6d83");
        let signature = alloy_primitives::Signature::new(r.into(), s.into(), false);
        let raw = TxEnvelope::from(unsigned.into_signed(signature)).encoded_2718();
        Tx::recover(raw.into(), 1, None).expect("a transaction")
    }

    #[test]
    fn keys_of_most_calls_are_fetched_before_and_those_of_one_are_not() {
        let [token, payee] = [1, 2].map(Address::repeat_byte);
        let (call, payment) = (tx(token, &[1]), tx(payee, &[]));
        let slot = |n: u8| StateKey::Slot(token, 0, U256::from(n));
        let mut hints = Hints::default();
        assert_eq!(hints.keys([&call].into_iter()), []);
        for n in 1..=20 {
            hints.note(&call, [slot(0), slot(n)].into_iter());
            hints.note(&payment, [StateKey::Code(payee)].into_iter());
        }
        assert_eq!(hints.keys([&call, &payment, &call].into_iter()), [slot(0)]);
        // What they use has changed.
        (0..WINDOW).for_each(|_| hints.note(&call, [slot(9)].into_iter()));
        assert_eq!(hints.keys([&call].into_iter()), [slot(9)]);
        for n in 0..2 * MAX_CONTRACTS {
            let other = Address::from_word(B256::from(U256::from(n)));
            hints.calls.entry(other).or_default();
        }
        hints.note(&tx(Address::repeat_byte(7), &[1]), [].into_iter());
        assert_eq!(hints.calls.len(), 1);
    }
}
