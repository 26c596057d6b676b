//! Which undecided groups may write a key.

use std::collections::BTreeMap;

use atoll_types::{GroupId, StateKey};
use serde::{Deserialize, Serialize};

/// For each fenced key, the undecided groups that may write it, in the order of the plan. Each takes
/// the value that the one before it leaves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Fences(BTreeMap<StateKey, Vec<GroupId>>);

impl Fences {
    pub fn contains(&self, key: &StateKey) -> bool {
        self.0.contains_key(key)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn keys(&self) -> impl Iterator<Item = &StateKey> {
        self.0.keys()
    }

    /// The group whose value of a key is the newest.
    pub fn last(&self, key: &StateKey) -> Option<GroupId> {
        self.0.get(key)?.last().copied()
    }

    /// Groups that may write a key, oldest first.
    pub fn of(&self, key: &StateKey) -> &[GroupId] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    /// Returns true if the key was free.
    pub fn add(&mut self, key: StateKey, group: GroupId) -> bool {
        let groups = self.0.entry(key).or_default();
        groups.push(group);
        groups.len() == 1
    }

    /// Returns true if the key is free now, and was not.
    pub fn remove(&mut self, key: &StateKey, group: GroupId) -> bool {
        let Some(groups) = self.0.get_mut(key) else {
            return false;
        };
        groups.retain(|other| *other != group);
        let free = groups.is_empty();
        if free {
            self.0.remove(key);
        }
        free
    }
}
