//! What calls of a contract are likely to use of other shards: fetched before a prediction instead
//! of one after the other as its run comes to ask for them.
//!
//! So is what a transaction's access list names (EIP-2930).
//!
//! A hint that is wrong costs a value that nobody reads; what is predicted is what the run uses.

use std::collections::{BTreeMap, HashMap, VecDeque};

use alloy_consensus::Transaction as _;
use atoll_types::{Address, B256, StateKey, Tx};

/// Calls of one contract that are remembered.
const WINDOW: usize = 8;
/// Contracts that are remembered; with more, all are forgotten.
const MAX_CONTRACTS: usize = 1_024;
/// Keys of one call that are remembered.
const MAX_KEYS: usize = 256;

/// Keys of one access list that are fetched.
const MAX_LISTED: usize = 256;
/// Keys of all access lists of a batch that are fetched.
const MAX_LISTED_TOGETHER: usize = 4_096;

/// Keys that are named by access lists and are `foreign`. A slot is that of the first incarnation of
/// its account, which nearly all are of; of others the prediction asks for itself.
pub(crate) fn listed<'a>(
    txs: impl Iterator<Item = &'a Tx>,
    foreign: impl Fn(&StateKey) -> bool,
) -> Vec<StateKey> {
    let keys = |tx: &'a Tx| {
        let items = tx.envelope().access_list().into_iter().flat_map(|list| &list.0);
        let keys = items.flat_map(|item| {
            let slot = |slot: &B256| StateKey::Slot(item.address, 0, (*slot).into());
            std::iter::once(StateKey::Code(item.address)).chain(item.storage_keys.iter().map(slot))
        });
        keys.take(MAX_LISTED)
    };
    txs.flat_map(keys).filter(foreign).take(MAX_LISTED_TOGETHER).collect()
}

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
            let mut users: BTreeMap<StateKey, usize> = BTreeMap::new();
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
    use alloy_consensus::{SignableTransaction as _, TxEip2930, TxEnvelope, TxLegacy};
    use alloy_eips::{
        Encodable2718 as _,
        eip2930::{AccessList, AccessListItem},
    };
    use alloy_primitives::{Bytes, TxKind, U256, b256};

    use super::*;

    /// A transaction of anybody; only where it goes and whether it has input matters.
    fn tx(to: Address, input: &'static [u8]) -> Tx {
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

    #[test]
    fn of_an_access_list_so_much_is_fetched_and_only_from_others() {
        let with = |items: Vec<AccessListItem>| {
            let unsigned = TxEip2930 { access_list: AccessList(items), ..TxEip2930::default() };
            let signature = alloy_primitives::Signature::new(U256::ONE, U256::ONE, false);
            let raw = TxEnvelope::from(unsigned.into_signed(signature)).encoded_2718();
            Tx::trusted(raw.into(), Address::ZERO, None).expect("a transaction")
        };
        let item = |address: Address, slots: usize| AccessListItem {
            address,
            storage_keys: (0..slots).map(|slot| B256::from(U256::from(slot))).collect(),
        };
        let [own, other] = [1, 2].map(Address::repeat_byte);
        let foreign = |key: &StateKey| key.address() != own;
        let few = with(vec![item(own, 3), item(other, 2)]);
        let slot = |n: u64| StateKey::Slot(other, 0, U256::from(n));
        let keys = listed([&few].into_iter(), foreign);
        assert_eq!(keys, [StateKey::Code(other), slot(0), slot(1)]);
        let much = with(vec![item(other, 2 * MAX_LISTED)]);
        assert_eq!(listed([&much].into_iter(), foreign).len(), MAX_LISTED);
        let batch = std::iter::repeat_n(&much, 100);
        assert_eq!(listed(batch, foreign).len(), MAX_LISTED_TOGETHER);
        assert_eq!(listed([&tx(other, &[1])].into_iter(), foreign), []);
    }
}
