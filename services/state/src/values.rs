//! Committed values: a bounded working set in memory over the index on disk.

use std::{collections::HashMap, sync::Arc};

use alloy_primitives::keccak256;
use atoll_store::{Index, StoreError};
use atoll_types::{B256, Bytes, StateKey, StateValue, decode, encode};

/// Index entries not yet handed to the index.
pub(crate) type Entries = HashMap<Vec<u8>, Vec<u8>>;

/// Everything of the shard that is found by key.
pub(crate) struct Values {
    index: Arc<dyn Index>,
    /// Recently used values in two generations: when the young one is full it becomes the old one,
    /// and the old one is dropped.
    young: HashMap<StateKey, StateValue>,
    old: HashMap<StateKey, StateValue>,
    /// Values a generation holds at the most.
    capacity: usize,
    codes: HashMap<B256, Bytes>,
    /// Written since the last [`Values::take_entries`].
    dirty: Entries,
    /// On their way to the index.
    flushing: Arc<Entries>,
}

/// Codes kept in memory at the most; contracts are few and code is shared.
const MAX_CODES: usize = 4_096;

impl Values {
    pub fn new(index: Arc<dyn Index>, capacity: usize) -> Self {
        Self {
            index,
            young: HashMap::new(),
            old: HashMap::new(),
            capacity: capacity.max(2) / 2,
            codes: HashMap::new(),
            dirty: Entries::new(),
            flushing: Arc::default(),
        }
    }

    pub fn index(&self) -> &Arc<dyn Index> {
        &self.index
    }

    /// The newest value of a key.
    pub fn get(&mut self, key: &StateKey) -> Result<StateValue, StoreError> {
        if let Some(value) = self.young.get(key) {
            return Ok(*value);
        }
        let value = match self.old.get(key) {
            Some(value) => *value,
            None => {
                let found = self.find::<StateValue>(&entry_key(b's', &encode(key)))?;
                found.filter(|value| key.holds(value)).unwrap_or_else(|| key.absent())
            }
        };
        self.remember(*key, value);
        Ok(value)
    }

    pub fn set(&mut self, key: StateKey, value: StateValue) {
        self.dirty.insert(entry_key(b's', &encode(&key)), encode(&value));
        self.remember(key, value);
    }

    fn remember(&mut self, key: StateKey, value: StateValue) {
        if self.young.len() >= self.capacity {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    pub fn code(&mut self, hash: &B256) -> Result<Option<Bytes>, StoreError> {
        if let Some(code) = self.codes.get(hash) {
            return Ok(Some(code.clone()));
        }
        let found = self.find_bytes(&entry_key(b'c', hash.as_slice()))?.map(Bytes::from);
        if let Some(code) = &found {
            self.remember_code(*hash, code.clone());
        }
        Ok(found)
    }

    /// Keeps code under its hash. Returns whether it was unknown.
    pub fn put_code(&mut self, code: &Bytes) -> Result<bool, StoreError> {
        let hash = keccak256(code);
        if self.code(&hash)?.is_some() {
            return Ok(false);
        }
        self.dirty.insert(entry_key(b'c', hash.as_slice()), code.to_vec());
        self.remember_code(hash, code.clone());
        Ok(true)
    }

    fn remember_code(&mut self, hash: B256, code: Bytes) {
        if self.codes.len() >= MAX_CODES {
            self.codes.clear();
        }
        self.codes.insert(hash, code);
    }

    /// A record kept beside the state, such as a receipt.
    pub fn find<T: serde::de::DeserializeOwned>(
        &self,
        key: &[u8],
    ) -> Result<Option<T>, StoreError> {
        let Some(bytes) = self.find_bytes(key)? else {
            return Ok(None);
        };
        let corrupt = |e: atoll_types::CodecError| StoreError::Corrupt {
            file: "index".into(),
            offset: 0,
            what: e.to_string(),
        };
        decode(&bytes).map(Some).map_err(corrupt)
    }

    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.dirty.insert(key, value);
    }

    fn find_bytes(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        if let Some(bytes) = self.dirty.get(key).or_else(|| self.flushing.get(key)) {
            return Ok(Some(bytes.clone()));
        }
        self.index.get(key)
    }

    /// How many entries wait for the index.
    pub fn waiting(&self) -> usize {
        self.dirty.len()
    }

    /// The entries to be put into the index, unless those taken before are not put yet.
    pub fn take_entries(&mut self) -> Option<Arc<Entries>> {
        if self.dirty.is_empty() || !self.flushing.is_empty() {
            return None;
        }
        self.flushing = Arc::new(std::mem::take(&mut self.dirty));
        Some(self.flushing.clone())
    }

    /// Puts the entries taken into the index, for when it is not known whether their writer did.
    pub fn entries_put_again(&mut self) -> Result<(), StoreError> {
        put_all(self.index.as_ref(), &self.flushing)?;
        self.entries_put();
        Ok(())
    }

    /// The entries taken are in the index.
    pub fn entries_put(&mut self) {
        self.flushing = Arc::default();
    }
}

/// Puts entries into an index one by one: sled's memory grows without bound on large batches.
pub(crate) fn put_all(index: &dyn Index, entries: &Entries) -> Result<(), StoreError> {
    entries.iter().try_for_each(|(key, value)| index.put(key, value))
}

/// The index key of a kind of record.
pub(crate) fn entry_key(kind: u8, name: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + name.len());
    key.push(kind);
    key.extend_from_slice(name);
    key
}
