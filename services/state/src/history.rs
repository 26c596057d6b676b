//! Values as they were at recent cuts.

use std::collections::BTreeMap;

use alloy_primitives::map::HashMap;
use atoll_types::{StateKey, StateValue};

/// Cuts that can be read at, besides the newest. More than a group can stay undecided.
pub(crate) const KEPT_CUTS: u64 = 256;

/// For each epoch, what a key held before its first write of that epoch. A write is part of the
/// state at cut `c` if its epoch is less than `c`, so the value at `c` is what the key held before
/// its earliest write of an epoch that is not.
#[derive(Default)]
pub(crate) struct History {
    before: BTreeMap<u64, HashMap<StateKey, StateValue>>,
    /// Cuts before this one cannot be read at.
    oldest: u64,
}

impl History {
    /// Nothing is known of the time before cut `oldest`.
    pub fn starting_at(oldest: u64) -> Self {
        Self { before: BTreeMap::new(), oldest }
    }

    pub fn oldest(&self) -> u64 {
        self.oldest
    }

    /// Notes what a key held before a write. Writes of one key come in the order of their epochs.
    pub fn note(&mut self, key: StateKey, held: StateValue, epoch: u64) {
        self.before.entry(epoch).or_default().entry(key).or_insert(held);
    }

    /// What a key held at a cut, if it was written since.
    pub fn at(&self, cut: u64, key: &StateKey) -> Option<StateValue> {
        self.before.range(cut..).find_map(|(_, held)| held.get(key)).copied()
    }

    /// Forgets what only cuts older than the newest [`KEPT_CUTS`] need.
    pub fn prune(&mut self, newest_cut: u64) {
        let oldest = newest_cut.saturating_sub(KEPT_CUTS);
        if oldest > self.oldest {
            self.oldest = oldest;
            self.before = self.before.split_off(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_types::{Address, U256};

    #[test]
    fn a_cut_sees_writes_of_lower_epochs_only() {
        let key = StateKey::Slot(Address::ZERO, 0, U256::ZERO);
        let word = |n: u64| StateValue::Slot(U256::from(n));
        let mut history = History::default();
        history.note(key, word(0), 3);
        history.note(key, word(1), 3);
        history.note(key, word(2), 5);
        assert_eq!(history.at(3, &key), Some(word(0)));
        assert_eq!(history.at(4, &key), Some(word(2)));
        assert_eq!(history.at(5, &key), Some(word(2)));
        assert_eq!(history.at(6, &key), None);
        history.prune(KEPT_CUTS + 5);
        assert_eq!((history.oldest(), history.at(5, &key)), (5, Some(word(2))));
    }
}
