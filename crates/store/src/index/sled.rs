use std::fmt;
use std::fs::File;
use std::mem;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::entry::{seal, unseal};
use super::generation::Files;
use super::guard::{Failure, corrupt, guarded};
use super::{Entries, Index, MAX_KEY_BYTES, check_entry, clean};
use crate::StoreError;
use crate::disk::{self, DirLock};

const FILES: Files = Files::Sled;

/// sled panics when asked for next to no cache.
const MIN_CACHE_BYTES: u64 = 1 << 20;

/// An index on sled 0.34, in a directory that it locks.
///
/// sled's flush waits for the pages of its file but does not fsync, so that a power cut can take
/// what was flushed. Only [`Index::mark_clean`] fsyncs; without its marker the index is suspect.
/// The marker also has a checksum of all files, verified at opening: sled itself opens damaged
/// files without an error and with entries missing. Both read the files once, at disk speed.
///
/// sled's files are in a folder per generation (`g1`, `g2`, ...); a wipe starts the next one, so that
/// it works on damaged files too.
///
/// Entries are written one by one on purpose: loops of sled batches of 2,000 keys took 1.26 GB.
pub struct SledIndex {
    dir: PathBuf,
    cache_bytes: u64,
    /// Held for reading by every write to sled, for writing while the marker or generation changes.
    state: RwLock<Generation>,
    /// Whether there is a marker of a clean stop, which a write has to remove first.
    marked: AtomicBool,
    /// sled has panicked or met damage, and is not called any more.
    broken: AtomicBool,
    /// A call has failed in any way. sled may then never let go of its files.
    failed: Arc<AtomicBool>,
    _lock: DirLock,
}

struct Generation {
    number: u64,
    db: sled::Db,
    /// Dropped after `db`, as fields are in order.
    _released: Released,
}

/// Waits when dropped until sled's own threads have let go of its main file: they go on for a
/// while after the last handle is dropped, with the file locked, and could still write.
struct Released {
    file: PathBuf,
    failed: Arc<AtomicBool>,
}

impl Drop for Released {
    fn drop(&mut self) {
        if !self.failed.load(Ordering::Acquire)
            && let Ok(file) = File::open(&self.file)
        {
            // Failing to lock only means that a quick reopening may be refused.
            let _ = file.lock();
        }
    }
}

impl fmt::Debug for SledIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledIndex").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl SledIndex {
    /// Opens the index in `dir`, creating it if there is none. sled uses up to `cache_bytes` of
    /// memory for its pages (and some more for its own tables).
    ///
    /// # Errors
    /// [`StoreError::Locked`] when it is open elsewhere; [`StoreError::Corrupt`] when sled cannot
    /// read its files: [`SledIndex::open_empty`] is the way out.
    pub fn open(dir: &Path, cache_bytes: u64) -> Result<Self, StoreError> {
        let lock = DirLock::take(dir)?;
        let number = FILES.newest(dir)?.unwrap_or(1);
        Self::open_generation(dir, cache_bytes, number, lock)
    }

    /// Like [`SledIndex::open`], but without reading what is there: it is removed.
    ///
    /// # Errors
    /// Those of [`SledIndex::open`].
    pub fn open_empty(dir: &Path, cache_bytes: u64) -> Result<Self, StoreError> {
        let lock = DirLock::take(dir)?;
        clean::remove(dir)?;
        // Not an old number: threads of a sled that failed in this process may still write there.
        let number = FILES.newest(dir)?.map_or(1, |last| last + 1);
        Self::open_generation(dir, cache_bytes, number, lock)
    }

    fn open_generation(
        dir: &Path,
        cache_bytes: u64,
        number: u64,
        lock: DirLock,
    ) -> Result<Self, StoreError> {
        let marked = clean::verify(dir, &FILES.of(dir, number))?;
        let failed = Arc::new(AtomicBool::new(false));
        let generation = open_sled(dir, number, cache_bytes, &failed)?;
        FILES.keep_only(dir, number)?;
        Ok(Self {
            dir: dir.to_path_buf(),
            cache_bytes,
            state: RwLock::new(generation),
            marked: AtomicBool::new(marked),
            broken: AtomicBool::new(false),
            failed,
            _lock: lock,
        })
    }

    fn read(&self) -> RwLockReadGuard<'_, Generation> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Generation> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a call into sled, which panics on some kinds of damage; it is not used after that.
    fn call<T>(
        &self,
        op: &'static str,
        f: impl FnOnce() -> sled::Result<T>,
    ) -> Result<T, StoreError> {
        if self.broken.load(Ordering::Acquire) {
            return Err(StoreError::poisoned(&self.dir, "sled panicked on damaged files"));
        }
        guarded("sled", &self.dir, op, || f().map_err(failure)).inspect_err(|e| {
            self.failed.store(true, Ordering::Release);
            if matches!(e, StoreError::Corrupt { .. }) {
                self.broken.store(true, Ordering::Release);
            }
        })
    }

    /// Runs a write to sled, after removing the marker of a clean stop if there is one.
    fn change(
        &self,
        op: &'static str,
        f: impl FnOnce(&sled::Db) -> sled::Result<Option<sled::IVec>>,
    ) -> Result<(), StoreError> {
        let mut state = self.read();
        while self.marked.load(Ordering::Acquire) {
            drop(state);
            self.unmark(&self.write())?;
            state = self.read();
        }
        self.call(op, || f(&state.db)).map(drop)
    }

    fn unmark(&self, _exclusive: &Generation) -> Result<(), StoreError> {
        clean::remove(&self.dir)?;
        self.marked.store(false, Ordering::Release);
        Ok(())
    }

    fn open_value(&self, key: &[u8], sealed: &[u8]) -> Result<Vec<u8>, StoreError> {
        let value = unseal(key, sealed);
        value
            .map(<[u8]>::to_vec)
            .ok_or_else(|| corrupt(&self.dir, "a value does not match its checksum"))
    }
}

impl Index for SledIndex {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let state = self.read();
        let sealed = self.call("read", || state.db.get(key))?;
        sealed.map(|sealed| self.open_value(key, &sealed)).transpose()
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        check_entry(key, value)?;
        let sealed = seal(key, value);
        self.change("write", |db| db.insert(key, sealed))
    }

    fn delete(&self, key: &[u8]) -> Result<(), StoreError> {
        StoreError::check_size(key.len(), MAX_KEY_BYTES)?;
        self.change("write", |db| db.remove(key))
    }

    fn scan_prefix(
        &self,
        prefix: &[u8],
        f: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<(), StoreError> {
        let db = self.read().db.clone();
        let mut entries = db.scan_prefix(prefix);
        while let Some((key, sealed)) = self.call("read", || entries.next().transpose())? {
            f(&key, &self.open_value(&key, &sealed)?);
        }
        Ok(())
    }

    fn scan_after(&self, after: &[u8], max: usize) -> Result<Entries, StoreError> {
        let db = self.read().db.clone();
        let mut found = db.range::<&[u8], _>((Bound::Excluded(after), Bound::Unbounded));
        let mut entries = Vec::new();
        while entries.len() < max
            && let Some((key, sealed)) = self.call("read", || found.next().transpose())?
        {
            entries.push((key.to_vec(), self.open_value(&key, &sealed)?));
        }
        Ok(entries)
    }

    fn flush(&self) -> Result<(), StoreError> {
        let state = self.read();
        self.call("flush", || state.db.flush()).map(drop)
    }

    fn wipe(&self) -> Result<(), StoreError> {
        let mut state = self.write();
        self.unmark(&state)?;
        let number = state.number + 1;
        let fresh = open_sled(&self.dir, number, self.cache_bytes, &self.failed)?;
        let old = mem::replace(&mut *state, fresh);
        self.broken.store(false, Ordering::Release);
        // Unlocked first: dropping the old one waits for scans of it, which may call `get`.
        drop(state);
        // sled may panic once more in dropping what it panicked on.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(old)));
        FILES.keep_only(&self.dir, number)
    }

    fn mark_clean(&self, payload: &[u8]) -> Result<(), StoreError> {
        let state = self.write();
        self.call("flush", || state.db.flush())?;
        // Before the file is there: if writing it fails half-way, a later write still removes it.
        self.marked.store(true, Ordering::Release);
        clean::write(&self.dir, &FILES.of(&self.dir, state.number), payload)
    }

    fn take_clean(&self) -> Result<Option<Vec<u8>>, StoreError> {
        let _exclusive = self.write();
        let payload = clean::take(&self.dir)?;
        self.marked.store(false, Ordering::Release);
        Ok(payload)
    }
}

fn open_sled(
    dir: &Path,
    number: u64,
    cache_bytes: u64,
    failed: &Arc<AtomicBool>,
) -> Result<Generation, StoreError> {
    let path = FILES.of(dir, number);
    let cache_bytes = cache_bytes.max(MIN_CACHE_BYTES);
    let config = sled::Config::new().path(&path).cache_capacity(cache_bytes).flush_every_ms(None);
    let db = guarded("sled", &path, "open", || config.open().map_err(failure))?;
    let released = Released { file: path.join("db"), failed: Arc::clone(failed) };
    let generation = Generation { number, db, _released: released };
    disk::sync(dir)?;
    Ok(generation)
}

fn failure(error: sled::Error) -> Failure {
    match error {
        sled::Error::Io(error) => Failure::Io(error),
        error => Failure::Damage(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_called_after_damage_until_a_wipe() {
        let dir = tempfile::tempdir().unwrap();
        let index = SledIndex::open(dir.path(), 0).unwrap();
        index.put(b"k", b"v").unwrap();
        assert!(index.call::<()>("read", || panic!("damage")).is_err());
        assert!(matches!(index.get(b"k"), Err(StoreError::Poisoned { .. })));
        assert!(matches!(index.put(b"k", b"v"), Err(StoreError::Poisoned { .. })));
        assert!(matches!(index.mark_clean(b""), Err(StoreError::Poisoned { .. })));
        index.wipe().unwrap();
        assert_eq!(index.get(b"k").unwrap(), None);
        index.put(b"k", b"v").unwrap();
    }
}
