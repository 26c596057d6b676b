//! Committed values: a bounded working set in memory over the index on disk.

use std::{collections::HashMap, sync::Arc};

use alloy_primitives::keccak256;
use atoll_store::{Index, StoreError};
use atoll_types::{B256, Bytes, StateKey, StateValue, U256, decode, encode};

use crate::view::{Putter, Undo, View};

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
    /// What a snapshot that is being taken has to see of the index.
    undo: Option<Arc<Undo>>,
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
            undo: None,
        }
    }

    /// Everything that is found by key, as of now, for as long as [`Values::release`] is not called.
    pub fn capture(&mut self) -> View {
        let undo = Arc::new(Undo::default());
        self.undo = Some(undo.clone());
        let newer = [self.flushing.clone(), Arc::new(self.dirty.clone())];
        View::new(self.index.clone(), newer, undo)
    }

    /// No snapshot is being taken any more.
    pub fn release(&mut self) {
        self.undo = None;
    }

    /// What puts the entries taken into the index.
    pub fn putter(&self) -> Putter {
        Putter { index: self.index.clone(), undo: self.undo.clone() }
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
        self.putter().put_all(&self.flushing)?;
        self.entries_put();
        Ok(())
    }

    /// The entries taken are in the index.
    pub fn entries_put(&mut self) {
        self.flushing = Arc::default();
    }
}

/// The index key of a kind of record.
pub(crate) fn entry_key(kind: u8, name: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + name.len());
    key.push(kind);
    key.extend_from_slice(name);
    key
}

/// The balance that an entry of the index holds, if it holds one.
pub fn entry_balance(key: &[u8], value: &[u8]) -> Option<U256> {
    let (kind, name) = key.split_first()?;
    let key: StateKey = decode(name).ok().filter(|_| *kind == b's')?;
    let value: StateValue = decode(value).ok().filter(|value| key.holds(value))?;
    matches!(key, StateKey::Basic(_)).then(|| value.basic().balance)
}
