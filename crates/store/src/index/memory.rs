use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::{Entries, Index, check_entry};
use crate::StoreError;

/// An index in memory for tests and simulations. Clones share one "disk".
#[derive(Clone, Debug, Default)]
pub struct MemoryIndex {
    disk: Arc<RwLock<Disk>>,
}

#[derive(Debug, Default)]
struct Disk {
    entries: BTreeMap<Vec<u8>, Vec<u8>>,
    clean: Option<Vec<u8>>,
}

impl MemoryIndex {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn read(&self) -> RwLockReadGuard<'_, Disk> {
        self.disk.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Disk> {
        self.disk.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Index for MemoryIndex {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.read().entries.get(key).cloned())
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        check_entry(key, value)?;
        let mut disk = self.write();
        disk.clean = None;
        disk.entries.insert(key.to_vec(), value.to_vec());
        Ok(())
    }

    fn delete(&self, key: &[u8]) -> Result<(), StoreError> {
        let mut disk = self.write();
        disk.clean = None;
        disk.entries.remove(key);
        Ok(())
    }

    fn scan_after(&self, after: &[u8], max: usize) -> Result<Entries, StoreError> {
        let disk = self.read();
        let behind = (Bound::Excluded(after.to_vec()), Bound::Unbounded);
        let entries = disk.entries.range::<Vec<u8>, _>(behind).take(max);
        Ok(entries.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn scan_prefix(
        &self,
        prefix: &[u8],
        f: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<(), StoreError> {
        let disk = self.read();
        let from = disk.entries.range(prefix.to_vec()..);
        for (key, value) in from.take_while(|(key, _)| key.starts_with(prefix)) {
            f(key, value);
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn wipe(&self) -> Result<(), StoreError> {
        *self.write() = Disk::default();
        Ok(())
    }

    fn mark_clean(&self, payload: &[u8]) -> Result<(), StoreError> {
        self.write().clean = Some(payload.to_vec());
        Ok(())
    }

    fn take_clean(&self) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.write().clean.take())
    }
}
