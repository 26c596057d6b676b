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
