//! The entries of an index as of one instant, read while later ones are put.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use atoll_store::{Index, StoreError};

use crate::values::Entries;

/// Entries read at a time. Meanwhile none is put.
const PIECE: usize = 512;

/// What entries held before they were put over, for the keys that a [`View`] has not read yet.
#[derive(Default)]
pub(crate) struct Undo(Mutex<Before>);

#[derive(Default)]
struct Before {
    /// Read up to this key.
    read: Vec<u8>,
    held: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl Undo {
    fn lock(&self) -> MutexGuard<'_, Before> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts entries into an index.
pub(crate) struct Putter {
    pub index: Arc<dyn Index>,
    pub undo: Option<Arc<Undo>>,
}

impl Putter {
    /// Puts entries one by one: sled's memory grows without bound on large batches.
    pub fn put_all(&self, entries: &Entries) -> Result<(), StoreError> {
        for (key, value) in &entries.encoded() {
            let Some(undo) = &self.undo else {
                self.index.put(key, value)?;
                continue;
            };
            let mut before = undo.lock();
            if *key > before.read && !before.held.contains_key(key) {
                let held = self.index.get(key)?;
                before.held.insert(key.clone(), held);
            }
            self.index.put(key, value)?;
        }
        Ok(())
    }
}

/// Entries as of the instant at which it was made, if whatever is put since is put by a [`Putter`] that
/// has its [`Undo`].
pub(crate) struct View {
    index: Arc<dyn Index>,
    /// Not in the index then, or on their way to it; the later ones go over the earlier ones.
    shared: Vec<Arc<Entries>>,
    /// The same as the index would have them, as soon as they are read.
    newer: BTreeMap<Vec<u8>, Vec<u8>>,
    undo: Arc<Undo>,
    done: bool,
}

impl View {
    /// `newer` are entries that go over those of the index, the later ones over the earlier ones. They
    /// are encoded by whoever reads, which the actor does not wait for.
    pub fn new(index: Arc<dyn Index>, newer: [Arc<Entries>; 2], undo: Arc<Undo>) -> Self {
        Self { index, shared: newer.into(), newer: BTreeMap::new(), undo, done: false }
    }

    /// Deletes one of the entries that were read. They are not put again: nobody asks for them any more.
    pub fn forget(&self, key: &[u8]) -> Result<(), StoreError> {
        self.index.delete(key)
    }

    /// The next entries in the order of their keys; `None` at the end.
    pub fn next(&mut self) -> Result<Option<atoll_store::Entries>, StoreError> {
        if self.done {
            return Ok(None);
        }
        for entries in self.shared.drain(..) {
            self.newer.extend(entries.encoded());
        }
        let mut before = self.undo.lock();
        let found = self.index.scan_after(&before.read, PIECE)?;
        self.done = found.len() < PIECE;
        let from = Bound::Excluded(before.read.clone());
        let to = match found.last() {
            Some((last, _)) if !self.done => Bound::Included(last.clone()),
            _ => Bound::Unbounded,
        };
        let mut piece = BTreeMap::new();
        for (key, value) in found {
            match before.held.remove(&key) {
                Some(held) => piece.extend(held.map(|held| (key, held))),
                None => drop(piece.insert(key, value)),
            }
        }
        if let Bound::Included(last) = &to {
            before.read.clone_from(last);
        } else {
            // Nothing is to be kept for this view any more: no key is above.
            before.read = vec![u8::MAX; atoll_store::MAX_KEY_BYTES + 1];
            before.held.clear();
        }
        drop(before);
        let newer = self.newer.range::<Vec<u8>, _>((from, to));
        piece.extend(newer.map(|(key, value)| (key.clone(), value.clone())));
        Ok(Some(piece.into_iter().collect()))
    }
}

#[cfg(test)]
mod tests {
    use atoll_store::MemoryIndex;

    use super::*;

    fn entries(range: std::ops::Range<u32>, value: u8) -> Entries {
        let name = |key: u32| atoll_types::B256::left_padding_from(&key.to_be_bytes());
        Entries::of_receipts(range.map(|key| (name(key), vec![value])))
    }

    #[test]
    fn what_is_put_later_does_not_show() -> Result<(), StoreError> {
        let index: Arc<dyn Index> = Arc::new(MemoryIndex::new());
        Putter { index: index.clone(), undo: None }.put_all(&entries(0..2_000, 1))?;
        let undo = Arc::new(Undo::default());
        let newer = [entries(1_000..1_010, 2), entries(1_005..1_020, 3)].map(Arc::new);
        let mut view = View::new(index.clone(), newer, undo.clone());
        let mut seen = Vec::new();
        let putter = Putter { index, undo: Some(undo) };
        let mut round = 4;
        while let Some(piece) = view.next()? {
            assert!(piece.len() <= PIECE + 20);
            seen.extend(piece);
            // Over what was read, over what was not, new ones behind; twice.
            putter.put_all(&entries(0..3_000, round))?;
            round += 1;
        }
        let mut expected: BTreeMap<_, _> = entries(0..2_000, 1).encoded().into_iter().collect();
        expected.extend(entries(1_000..1_010, 2).encoded());
        expected.extend(entries(1_005..1_020, 3).encoded());
        assert_eq!(seen, expected.into_iter().collect::<Vec<_>>());
        assert!(round > 6, "it was read in pieces");
        Ok(())
    }
}
