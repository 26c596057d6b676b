use std::collections::HashMap;

use atoll_evm::{Bytecode, Source, StateView, bytecode};
use atoll_types::{Address, B256, Basic, Bytes, StateKey, StateValue, U256, Write};

/// The state of a world. What was never set is absent.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    values: HashMap<StateKey, StateValue>,
    codes: HashMap<B256, Bytecode>,
    /// By number, for `BLOCKHASH`.
    pub block_hashes: HashMap<u64, B256>,
}

impl Memory {
    /// Sets one key. A value that is that of an absent key leaves no trace.
    pub fn set(&mut self, key: StateKey, value: StateValue) {
        if value == key.absent() {
            self.values.remove(&key);
        } else {
            self.values.insert(key, value);
        }
    }

    /// Sets many keys.
    pub fn extend(&mut self, writes: impl IntoIterator<Item = Write>) {
        writes.into_iter().for_each(|(key, value)| self.set(key, value));
    }

    /// Adds code; returns its hash.
    pub fn insert_code(&mut self, raw: Bytes) -> B256 {
        let code = bytecode(raw);
        let hash = code.hash_slow();
        self.codes.insert(hash, code);
        hash
    }

    /// The value of a key.
    pub fn get(&self, key: &StateKey) -> StateValue {
        self.values.get(key).copied().unwrap_or_else(|| key.absent())
    }

    /// Gives an account wei, from nowhere.
    pub fn give(&mut self, to: Address, amount: U256) {
        let key = StateKey::Basic(to);
        let Basic { nonce, balance } = self.get(&key).basic();
        let balance = balance.saturating_add(amount);
        self.set(key, StateValue::Basic(Basic { nonce, balance }));
    }

    /// Whether an account has a slot that is not zero.
    pub fn has_storage(&self, address: &Address) -> bool {
        let now = self.get(&StateKey::Code(*address)).code().incarnation;
        let here = |key: &StateKey| matches!(key, StateKey::Slot(of, incarnation, _) if of == address && *incarnation == now);
        self.values.keys().any(here)
    }

    /// Every key that is not absent, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&StateKey, &StateValue)> {
        self.values.iter()
    }
}

impl PartialEq for Memory {
    /// Whether every key has the same value.
    fn eq(&self, other: &Self) -> bool {
        self.values == other.values
    }
}

impl StateView for Memory {
    fn read(&self, key: &StateKey) -> Option<StateValue> {
        Some(self.get(key))
    }

    fn code(&self, hash: &B256) -> Option<Bytecode> {
        self.codes.get(hash).cloned()
    }

    fn block_hash(&self, number: u64) -> Option<B256> {
        self.block_hashes.get(&number).copied()
    }

    fn has_storage(&self, address: &Address) -> bool {
        self.has_storage(address)
    }
}

impl Source for Memory {
    fn code(&self, hash: &B256) -> Option<Bytecode> {
        self.codes.get(hash).cloned()
    }

    fn block_hash(&self, number: u64) -> Option<B256> {
        self.block_hashes.get(&number).copied()
    }

    fn has_storage(&self, address: &Address) -> bool {
        self.has_storage(address)
    }
}
