//! A shard's values in memory, with their history.

use std::collections::BTreeMap;

use atoll_commit::EpochWrite;
use atoll_types::{StateKey, StateValue, U256, Write};

/// The values of one shard: the newest of each key and those before it, by epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Values {
    cells: BTreeMap<StateKey, Vec<(u64, StateValue)>>,
}

impl Values {
    /// What was there before the first cut.
    pub fn new(genesis: impl IntoIterator<Item = Write>) -> Self {
        Self { cells: genesis.into_iter().map(|(key, value)| (key, vec![(0, value)])).collect() }
    }

    /// The newest value.
    pub fn get(&self, key: &StateKey) -> StateValue {
        let newest = self.cells.get(key).and_then(|history| history.last());
        newest.map_or(key.absent(), |(_, value)| *value)
    }

    /// The value at a cut: the last one with an epoch below it.
    pub fn at(&self, key: &StateKey, cut: u64) -> StateValue {
        let history = self.cells.get(key).map_or(&[][..], Vec::as_slice);
        let before = history.iter().rev().find(|(epoch, _)| *epoch < cut || cut == 0);
        before.map_or(key.absent(), |(_, value)| *value)
    }

    /// Adds a write. False if it comes after one of a later epoch: then no cut has a state.
    #[must_use]
    pub fn write(&mut self, write: &EpochWrite) -> bool {
        let history = self.cells.entry(write.key).or_default();
        let in_order = history.last().is_none_or(|(epoch, _)| *epoch <= write.epoch);
        history.push((write.epoch, write.value));
        in_order
    }

    /// Every key that was ever written, with its newest value, ascending.
    pub fn newest(&self) -> impl Iterator<Item = (&StateKey, StateValue)> {
        self.cells.keys().map(|key| (key, self.get(key)))
    }

    /// Every write that was made, key by key, with its epoch.
    pub fn history(&self) -> impl Iterator<Item = (&StateKey, u64, StateValue)> {
        let writes = |(key, history)| {
            let history: &Vec<_> = history;
            history.iter().map(move |(epoch, value)| (key, *epoch, *value))
        };
        self.cells.iter().flat_map(writes)
    }

    /// The sum of all balances, in wei.
    pub fn balances(&self) -> U256 {
        self.newest().fold(U256::ZERO, |sum, (_, value)| sum.wrapping_add(value.basic().balance))
    }
}
