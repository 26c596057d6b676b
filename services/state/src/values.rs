//! Committed values: a bounded working set in memory over the index on disk.

use std::sync::Arc;

use alloy_primitives::{keccak256, map::HashMap};
use atoll_store::{Index, StoreError};
use atoll_types::{B256, Bytes, StateKey, StateValue, U256, decode, encode};
use serde::de::DeserializeOwned;

use crate::{
    events::Kept,
    rounds::{self, Place},
    view::{Putter, Undo, View},
};

/// Receipts and codes that are gathered before they are put: so many that, sorted, several fall into
/// one page.
const GATHERED: usize = 16_384;
/// Their size, at which they are put however few they are.
const GATHERED_BYTES: usize = 16 << 20;
/// What may wait for an index that is slower than the shard, in the same measures.
pub(crate) const MOST_WAITING: usize = 16 * GATHERED;
const MOST_WAITING_BYTES: usize = 8 * GATHERED_BYTES;
/// Values that are gathered before they are put: one that is written again and again is put once.
const GATHERED_VALUES: usize = 65_536;

/// How a receipt is kept under the hash of its transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KeptAt {
    /// Here, encoded.
    Here(Vec<u8>),
    /// With its transaction.
    Place(Place),
}

impl KeptAt {
    fn len(&self) -> usize {
        match self {
            Self::Here(bytes) => bytes.len(),
            Self::Place(_) => Place::BYTES,
        }
    }

    fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Here(bytes) => bytes.clone(),
            Self::Place(place) => place.to_bytes().to_vec(),
        }
    }

    fn from_bytes(bytes: Vec<u8>) -> Self {
        match bytes.as_slice().try_into() {
            Ok(place) => Self::Place(Place::from_bytes(place)),
            Err(_) => Self::Here(bytes),
        }
    }
}

/// Entries that are not in the index yet. They are encoded when they are put.
#[derive(Debug, Default)]
pub(crate) struct Entries {
    values: HashMap<StateKey, StateValue>,
    receipts: HashMap<B256, KeptAt>,
    codes: HashMap<B256, Bytes>,
    /// What else is kept, encoded.
    records: HashMap<Vec<u8>, Vec<u8>>,
    /// Of receipts, codes and records, those that were put over included.
    bytes: usize,
}

impl Entries {
    fn put_receipt(&mut self, tx: B256, kept: KeptAt) {
        self.bytes += kept.len();
        self.receipts.insert(tx, kept);
    }

    fn put_code(&mut self, hash: B256, code: Bytes) {
        self.bytes += code.len();
        self.codes.insert(hash, code);
    }

    fn put_record(&mut self, key: Vec<u8>, record: Vec<u8>) {
        self.bytes += key.len() + record.len();
        self.records.insert(key, record);
    }

    pub fn len(&self) -> usize {
        self.values.len() + self.receipts.len() + self.codes.len() + self.records.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[cfg(test)]
    pub fn of_receipts(receipts: impl Iterator<Item = (B256, Vec<u8>)>) -> Self {
        let receipts = receipts.map(|(tx, kept)| (tx, KeptAt::Here(kept))).collect();
        Self { receipts, ..Self::default() }
    }

    /// As the index has them, in the order of their keys: neighbours share its pages.
    pub fn encoded(&self) -> atoll_store::Entries {
        let values = self.values.iter().map(|(key, value)| (value_key(key), encode(value)));
        let receipts = self.receipts.iter().map(|(tx, kept)| (receipt_key(tx), kept.to_bytes()));
        let codes = self.codes.iter().map(|(hash, code)| (code_key(hash), code.to_vec()));
        let records = self.records.iter().map(|(key, record)| (key.clone(), record.clone()));
        let mut entries: Vec<_> = values.chain(receipts).chain(codes).chain(records).collect();
        entries.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        entries
    }

    /// Takes out the kinds of which there are many.
    fn take_due(&mut self) -> Self {
        let mut due = Self::default();
        let many = self.receipts.len() + self.codes.len() + self.records.len() >= GATHERED;
        if many || self.bytes >= GATHERED_BYTES {
            due.bytes = std::mem::take(&mut self.bytes);
            due.receipts = std::mem::take(&mut self.receipts);
            due.codes = std::mem::take(&mut self.codes);
            due.records = std::mem::take(&mut self.records);
        }
        if self.values.len() >= GATHERED_VALUES {
            due.values = std::mem::take(&mut self.values);
        }
        due
    }

    /// Puts later entries over these.
    fn extend(&mut self, later: Self) {
        self.values.extend(later.values);
        self.receipts.extend(later.receipts);
        self.codes.extend(later.codes);
        self.records.extend(later.records);
        self.bytes += later.bytes;
    }
}

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
    /// Written of late.
    dirty: Entries,
    /// Written before those, and shared with a snapshot; they are put first.
    frozen: Option<Arc<Entries>>,
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
            young: HashMap::default(),
            old: HashMap::default(),
            capacity: capacity.max(2) / 2,
            codes: HashMap::default(),
            dirty: Entries::default(),
            frozen: None,
            flushing: Arc::default(),
            undo: None,
        }
    }

    /// Everything that is found by key, as of now, for as long as [`Values::release`] is not called.
    pub fn capture(&mut self) -> View {
        let undo = Arc::new(Undo::default());
        self.undo = Some(undo.clone());
        let mut newest = std::mem::take(&mut self.dirty);
        // Rare: the one before has not been put yet.
        if let Some(frozen) = self.frozen.take() {
            let mut both = Entries {
                values: frozen.values.clone(),
                receipts: frozen.receipts.clone(),
                codes: frozen.codes.clone(),
                records: frozen.records.clone(),
                bytes: frozen.bytes,
            };
            both.extend(newest);
            newest = both;
        }
        let newest = Arc::new(newest);
        self.frozen = Some(newest.clone());
        View::new(self.index.clone(), [self.flushing.clone(), newest], undo)
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

    /// What waits for the index, the newest first.
    fn newest(&self) -> impl Iterator<Item = &Entries> {
        [Some(&self.dirty), self.frozen.as_deref(), Some(&*self.flushing)].into_iter().flatten()
    }

    /// The newest value of a key.
    pub fn get(&mut self, key: &StateKey) -> Result<StateValue, StoreError> {
        if let Some(value) = self.young.get(key) {
            return Ok(*value);
        }
        let value = match self.old.get(key) {
            Some(value) => *value,
            None => match self.newest().find_map(|entries| entries.values.get(key)) {
                Some(value) => *value,
                None => {
                    let found = self.indexed::<StateValue>(&value_key(key))?;
                    found.filter(|value| key.holds(value)).unwrap_or_else(|| key.absent())
                }
            },
        };
        self.remember(*key, value);
        Ok(value)
    }

    pub fn set(&mut self, key: StateKey, value: StateValue) {
        self.dirty.values.insert(key, value);
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
        let found = match self.newest().find_map(|entries| entries.codes.get(hash)) {
            Some(code) => Some(code.clone()),
            None => self.index.get(&code_key(hash))?.map(Bytes::from),
        };
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
        self.dirty.put_code(hash, code.clone());
        self.remember_code(hash, code.clone());
        Ok(true)
    }

    fn remember_code(&mut self, hash: B256, code: Bytes) {
        if self.codes.len() >= MAX_CODES {
            self.codes.clear();
        }
        self.codes.insert(hash, code);
    }

    /// How the receipt of a transaction is kept, if there is one.
    pub fn receipt_at(&self, tx: &B256) -> Result<Option<KeptAt>, StoreError> {
        match self.newest().find_map(|entries| entries.receipts.get(tx)) {
            Some(kept) => Ok(Some(kept.clone())),
            None => Ok(self.index.get(&receipt_key(tx))?.map(KeptAt::from_bytes)),
        }
    }

    /// The receipt of a transaction.
    pub fn receipt(&self, tx: &B256) -> Result<Option<Kept>, StoreError> {
        match self.receipt_at(tx)? {
            None => Ok(None),
            Some(KeptAt::Here(bytes)) => decode(&bytes).map(Some).map_err(corrupt),
            Some(KeptAt::Place(place)) => rounds::receipt_in(self, place).map(Some),
        }
    }

    pub fn put_receipt(&mut self, kept: &Kept) {
        self.dirty.put_receipt(kept.receipt.tx, KeptAt::Here(encode(kept)));
    }

    /// The receipt of a transaction is kept with it.
    pub fn place_receipt(&mut self, tx: B256, place: Place) {
        self.dirty.put_receipt(tx, KeptAt::Place(place));
    }

    /// A record under a key of its own.
    pub fn find<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>, StoreError> {
        match self.newest().find_map(|entries| entries.records.get(key)) {
            Some(bytes) => decode(bytes).map(Some).map_err(corrupt),
            None => self.indexed(key),
        }
    }

    pub fn put(&mut self, key: Vec<u8>, record: Vec<u8>) {
        self.dirty.put_record(key, record);
    }

    fn indexed<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>, StoreError> {
        let found = self.index.get(key)?;
        found.map(|bytes| decode(&bytes).map_err(corrupt)).transpose()
    }

    /// Values in memory; one that is in both generations counts twice.
    pub fn cached(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// How many values there may be.
    pub fn capacity(&self) -> usize {
        2 * self.capacity
    }

    /// How many entries wait for the index.
    pub fn waiting(&self) -> usize {
        self.dirty.len() + self.frozen.as_ref().map_or(0, |frozen| frozen.len())
    }

    /// Whether so much waits for the index that no more may be added.
    pub fn is_behind(&self) -> bool {
        let waiting = [Some(&self.dirty), self.frozen.as_deref()].into_iter().flatten();
        self.waiting() >= MOST_WAITING
            || waiting.map(|entries| entries.bytes).sum::<usize>() >= MOST_WAITING_BYTES
    }

    /// The entries of which enough are gathered, to be put into the index, unless those taken before are
    /// not put yet.
    pub fn take_due(&mut self) -> Option<Arc<Entries>> {
        self.take(Entries::take_due)
    }

    /// All that were written, or the first part of them.
    pub fn take_entries(&mut self) -> Option<Arc<Entries>> {
        self.take(std::mem::take)
    }

    fn take(&mut self, of: fn(&mut Entries) -> Entries) -> Option<Arc<Entries>> {
        if !self.flushing.is_empty() {
            return None;
        }
        let taken = match self.frozen.take().filter(|frozen| !frozen.is_empty()) {
            Some(frozen) => frozen,
            None => Arc::new(of(&mut self.dirty)),
        };
        if taken.is_empty() {
            return None;
        }
        self.flushing = taken.clone();
        Some(taken)
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

pub(crate) fn corrupt(what: impl ToString) -> StoreError {
    StoreError::Corrupt { file: "index".into(), offset: 0, what: what.to_string() }
}

/// Of keys of receipts.
pub(crate) const RECEIPT: u8 = b'r';

fn value_key(key: &StateKey) -> Vec<u8> {
    entry_key(b's', &encode(key))
}

fn receipt_key(tx: &B256) -> Vec<u8> {
    entry_key(RECEIPT, tx.as_slice())
}

fn code_key(hash: &B256) -> Vec<u8> {
    entry_key(b'c', hash.as_slice())
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

#[cfg(test)]
mod tests {
    use atoll_store::MemoryIndex;
    use atoll_types::Address;

    use super::*;

    fn key(n: usize) -> StateKey {
        StateKey::Slot(Address::ZERO, 0, U256::from(n))
    }

    fn word(n: usize) -> StateValue {
        StateValue::Slot(U256::from(n))
    }

    fn put(values: &mut Values, entries: Option<Arc<Entries>>) -> Result<usize, StoreError> {
        let Some(entries) = entries else { return Ok(0) };
        values.putter().put_all(&entries)?;
        values.entries_put();
        Ok(entries.len())
    }

    #[test]
    fn a_value_is_gathered_and_the_newest_one_counts() -> Result<(), StoreError> {
        let index = MemoryIndex::new();
        // A cache of next to nothing: values are found where they wait.
        let mut values = Values::new(Arc::new(index.clone()), 2);
        for round in 0..3 {
            (0..100).for_each(|n| values.set(key(n), word(n + round)));
        }
        assert_eq!((values.waiting(), values.take_due().is_none()), (100, true));
        let _first = values.capture();
        values.set(key(1), word(50));
        assert_eq!(values.get(&key(1))?, word(50));
        let _second = values.capture();
        values.set(key(2), word(60));
        assert_eq!([values.get(&key(0))?, values.get(&key(1))?], [word(2), word(50)]);
        // What a snapshot has is put first, and the rest waits until there is enough.
        let due = values.take_due();
        assert_eq!(values.get(&key(99))?, word(101), "on its way");
        assert_eq!(put(&mut values, due)?, 100);
        assert_eq!([values.waiting(), usize::from(values.take_due().is_some())], [1, 0]);
        assert_eq!([values.get(&key(1))?, values.get(&key(2))?], [word(50), word(60)]);
        (0..GATHERED_VALUES).for_each(|n| values.set(key(n), word(7)));
        let due = values.take_due();
        assert_eq!(put(&mut values, due)?, GATHERED_VALUES);
        assert_eq!([values.get(&key(0))?, values.get(&key(2))?], [word(7), word(7)]);
        assert!(index.get(&value_key(&key(5)))?.is_some());
        Ok(())
    }

    #[test]
    fn large_records_are_put_before_they_are_many_and_no_more_are_taken_than_may_wait()
    -> Result<(), StoreError> {
        let mut values = Values::new(Arc::new(MemoryIndex::new()), 2);
        let record = |values: &mut Values, n: usize| {
            values.put(entry_key(b'x', &n.to_be_bytes()), vec![7; 1 << 20]);
        };
        (0..15).for_each(|n| record(&mut values, n));
        assert!(values.take_due().is_none());
        (15..17).for_each(|n| record(&mut values, n));
        let due = values.take_due();
        assert_eq!(due.as_ref().map(|due| due.len()), Some(17));
        // While they are on their way, more gather, up to the limit.
        (0..127).for_each(|n| record(&mut values, n));
        assert!(!values.is_behind());
        record(&mut values, 127);
        record(&mut values, 128);
        assert!(values.is_behind());
        assert_eq!(put(&mut values, due)?, 17);
        let due = values.take_due();
        assert!(due.is_some() && !values.is_behind());
        Ok(())
    }
}
