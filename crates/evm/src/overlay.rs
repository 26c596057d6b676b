use alloy_primitives::{
    Address, B256, Bytes,
    map::{HashMap, hash_map::Entry},
};
use atoll_types::{StateKey, StateValue, Write};

use crate::{Bytecode, Effects, StateView, bytecode};

/// Changes on top of a view: what the next transaction of a block sees.
#[derive(Debug)]
pub struct Overlay<'a, V: StateView + ?Sized> {
    base: &'a V,
    writes: HashMap<StateKey, StateValue>,
    codes: HashMap<B256, Bytecode>,
    new_codes: Vec<Bytes>,
}

impl<V: StateView + ?Sized> Clone for Overlay<'_, V> {
    fn clone(&self) -> Self {
        Self {
            base: self.base,
            writes: self.writes.clone(),
            codes: self.codes.clone(),
            new_codes: self.new_codes.clone(),
        }
    }
}

impl<'a, V: StateView + ?Sized> Overlay<'a, V> {
    /// No changes yet.
    pub fn new(base: &'a V) -> Self {
        Self { base, writes: HashMap::default(), codes: HashMap::default(), new_codes: Vec::new() }
    }

    /// Adds what a transaction did. The fee is not paid to anybody.
    pub fn apply(&mut self, effects: &Effects) {
        self.writes.extend(effects.writes.iter().copied());
        for raw in &effects.codes {
            self.insert_code(raw.clone());
        }
    }

    /// Sets one key.
    pub fn set(&mut self, key: StateKey, value: StateValue) {
        self.writes.insert(key, value);
    }

    /// Adds code; returns its hash.
    pub fn insert_code(&mut self, raw: Bytes) -> B256 {
        let code = bytecode(raw);
        let hash = code.hash_slow();
        if let Entry::Vacant(entry) = self.codes.entry(hash) {
            self.new_codes.push(code.original_bytes());
            entry.insert(code);
        }
        hash
    }

    /// What was set so far.
    pub(crate) fn written(&self) -> &HashMap<StateKey, StateValue> {
        &self.writes
    }

    /// Code added so far, by hash.
    pub(crate) fn created(&self) -> &HashMap<B256, Bytecode> {
        &self.codes
    }

    /// Code added so far, each once, in the order in which it came.
    pub fn codes(&self) -> &[Bytes] {
        &self.new_codes
    }

    /// The last value of each key that differs from the base, sorted by key. A key that the base
    /// does not have counts as different.
    pub fn into_writes(self) -> Vec<Write> {
        let base = self.base;
        let changed = |(key, value): &Write| base.read(key).as_ref() != Some(value);
        let mut writes: Vec<Write> = self.writes.into_iter().filter(changed).collect();
        writes.sort_unstable_by_key(|(key, _)| *key);
        writes
    }
}

impl<V: StateView + ?Sized> StateView for Overlay<'_, V> {
    fn read(&self, key: &StateKey) -> Option<StateValue> {
        self.writes.get(key).copied().or_else(|| self.base.read(key))
    }

    fn code(&self, hash: &B256) -> Option<Bytecode> {
        self.codes.get(hash).cloned().or_else(|| self.base.code(hash))
    }

    fn block_hash(&self, number: u64) -> Option<B256> {
        self.base.block_hash(number)
    }

    fn has_storage(&self, address: &Address) -> bool {
        self.base.has_storage(address)
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::U256;

    use super::*;
    use crate::Empty;

    #[test]
    fn writes_that_end_where_they_began_are_dropped() {
        let key = |byte| StateKey::Slot(Address::repeat_byte(byte), 0, U256::ZERO);
        let word = |word: u64| StateValue::Slot(U256::from(word));
        let mut below = Overlay::new(&Empty);
        below.set(key(1), word(5));
        let mut above = Overlay::new(&below);
        above.set(key(3), word(1));
        above.set(key(2), word(7));
        above.set(key(1), word(6));
        assert_eq!(above.read(&key(1)), Some(word(6)));
        above.set(key(1), word(5));
        above.set(key(4), word(0));
        assert_eq!(above.into_writes(), [(key(2), word(7)), (key(3), word(1))]);
        assert_eq!(below.read(&key(1)), Some(word(5)));
    }
}
