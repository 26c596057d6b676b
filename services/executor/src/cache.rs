//! The executor's copy of its shard's values: as of a cut and a block, bounded, and dropped at need.

use alloy_primitives::map::{HashMap, HashSet};
use atoll_api::state::{Change, ReadReply};
use atoll_types::{StateKey, StateValue, Write};

/// Values of one shard's keys, in two generations: when the young one is full it becomes the old
/// one, and the old one is dropped.
pub(crate) struct Cache {
    young: HashMap<StateKey, StateValue>,
    old: HashMap<StateKey, StateValue>,
    capacity: usize,
    /// Newest cut and block whose changes are in the values.
    cut: u64,
    head: u64,
    /// Keys that undecided groups may write.
    fenced: HashSet<StateKey>,
}

impl Cache {
    pub fn new(capacity: usize) -> Self {
        Self {
            young: HashMap::default(),
            old: HashMap::default(),
            capacity: capacity.max(2) / 2,
            cut: 0,
            head: 0,
            fenced: HashSet::default(),
        }
    }

    /// Values held; one that is in both generations counts twice.
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    pub fn get(&self, key: &StateKey) -> Option<StateValue> {
        self.young.get(key).or_else(|| self.old.get(key)).copied()
    }

    pub fn is_fenced(&self, key: &StateKey) -> bool {
        self.fenced.contains(key)
    }

    fn put(&mut self, key: StateKey, value: StateValue) {
        if self.young.len() >= self.capacity {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    /// Takes in what was read from the state, unless the cache has moved on since: then what it
    /// knows is newer, and what it does not know is to be read again.
    pub fn fill(&mut self, keys: &[StateKey], reply: &ReadReply) {
        if reply.cut < self.cut || reply.head < self.head {
            return;
        }
        for (key, value) in keys.iter().zip(&reply.values) {
            if self.get(key).is_none() {
                self.put(*key, *value);
            }
        }
    }

    /// Takes in the writes of a block, before it is appended.
    pub fn apply(&mut self, number: u64, writes: &[Write]) {
        self.head = self.head.max(number);
        writes.iter().for_each(|(key, value)| self.put(*key, *value));
    }

    /// Forgets the writes of a block that was refused. The next one has the same number.
    pub fn undo(&mut self, number: u64, writes: &[Write]) {
        self.head = self.head.min(number.saturating_sub(1));
        for (key, _) in writes {
            self.young.remove(key);
            self.old.remove(key);
        }
    }

    /// Takes in what changed on the shard; with `reset`, from nothing.
    pub fn change(&mut self, reset: bool, head: u64, changes: &[Change]) {
        if reset {
            *self = Self::new(2 * self.capacity);
            self.head = head;
        }
        for change in changes {
            if let Some(cut) = change.cut {
                self.cut = cut;
            }
            change.writes.iter().for_each(|(key, value)| self.put(*key, *value));
            for key in &change.unfenced {
                self.fenced.remove(key);
            }
            self.fenced.extend(&change.fenced);
        }
    }
}
