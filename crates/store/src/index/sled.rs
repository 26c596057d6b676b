use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::mem;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::{Entries, Index, MAX_KEY_BYTES, check_entry, clean};
use crate::StoreError;
use crate::disk::{self, DirLock};

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
        let number = generations(dir)?.into_iter().max().unwrap_or(1);
        Self::open_generation(dir, cache_bytes, number, lock)
    }

    /// Whether the index in `dir` is as a clean stop has left it; `None` if none has. Changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when it is open elsewhere.
    pub fn is_as_left(dir: &Path) -> Result<Option<bool>, StoreError> {
        let _lock = DirLock::take(dir)?;
        let number = generations(dir)?.into_iter().max().unwrap_or(1);
        clean::holds(dir, &generation_dir(dir, number))
    }

    /// Like [`SledIndex::open`], but without reading what is there: it is removed.
    ///
    /// # Errors
    /// Those of [`SledIndex::open`].
    pub fn open_empty(dir: &Path, cache_bytes: u64) -> Result<Self, StoreError> {
        let lock = DirLock::take(dir)?;
        clean::remove(dir)?;
        // Not an old number: threads of a sled that failed in this process may still write there.
        let number = generations(dir)?.into_iter().max().map_or(1, |last| last + 1);
        Self::open_generation(dir, cache_bytes, number, lock)
    }

    fn open_generation(
        dir: &Path,
        cache_bytes: u64,
        number: u64,
        lock: DirLock,
    ) -> Result<Self, StoreError> {
        let marked = clean::verify(dir, &generation_dir(dir, number))?;
        let failed = Arc::new(AtomicBool::new(false));
        let generation = open_sled(dir, number, cache_bytes, &failed)?;
        remove_generations_below(dir, number)?;
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
        guarded(&self.dir, op, f).inspect_err(|e| {
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
        remove_generations_below(&self.dir, number)
    }

    fn mark_clean(&self, payload: &[u8]) -> Result<(), StoreError> {
        let state = self.write();
        self.call("flush", || state.db.flush())?;
        // Before the file is there: if writing it fails half-way, a later write still removes it.
        self.marked.store(true, Ordering::Release);
        clean::write(&self.dir, &generation_dir(&self.dir, state.number), payload)
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
    let path = generation_dir(dir, number);
    let cache_bytes = cache_bytes.max(MIN_CACHE_BYTES);
    let config = sled::Config::new().path(&path).cache_capacity(cache_bytes).flush_every_ms(None);
    let db = guarded(&path, "open", || config.open())?;
    let released = Released { file: path.join("db"), failed: Arc::clone(failed) };
    let generation = Generation { number, db, _released: released };
    disk::sync(dir)?;
    Ok(generation)
}

fn guarded<T>(
    path: &Path,
    op: &'static str,
    f: impl FnOnce() -> sled::Result<T>,
) -> Result<T, StoreError> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(sled::Error::Io(e))) if !means_damage(e.kind()) => Err(StoreError::io(op, path, &e)),
        Ok(Err(e)) => Err(corrupt(path, &format!("sled could not {op} it: {e}"))),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            let text = text.unwrap_or("no message");
            Err(corrupt(path, &format!("sled could not {op} it and panicked: {text}")))
        }
    }
}

fn means_damage(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

/// Damage in the index, which can always be rebuilt. sled does not say where in its files.
fn corrupt(path: &Path, what: &str) -> StoreError {
    let what = format!("{what}. Wipe this index and rebuild it from the log");
    StoreError::Corrupt { file: path.to_path_buf(), offset: 0, what }
}

/// The stored form of a value: a CRC-32 of key and value, then the value.
fn seal(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(4 + value.len());
    sealed.extend_from_slice(&entry_crc(key, value).to_le_bytes());
    sealed.extend_from_slice(value);
    sealed
}

fn unseal<'a>(key: &[u8], sealed: &'a [u8]) -> Option<&'a [u8]> {
    let (crc, value) = sealed.split_first_chunk()?;
    (entry_crc(key, value) == u32::from_le_bytes(*crc)).then_some(value)
}

fn entry_crc(key: &[u8], value: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key);
    hasher.update(value);
    hasher.finalize()
}

fn generation_dir(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("g{number}"))
}

fn generations(dir: &Path) -> Result<Vec<u64>, StoreError> {
    let mut numbers = Vec::new();
    for path in disk::list(dir)? {
        let name = path.file_name().and_then(OsStr::to_str);
        let digits = name.and_then(|name| name.strip_prefix('g'));
        numbers.extend(digits.and_then(|digits| digits.parse::<u64>().ok()));
    }
    Ok(numbers)
}

fn remove_generations_below(dir: &Path, limit: u64) -> Result<(), StoreError> {
    for number in generations(dir)?.into_iter().filter(|number| *number < limit) {
        let path = generation_dir(dir, number);
        fs::remove_dir_all(&path).map_err(|e| StoreError::io("remove", &path, &e))?;
    }
    disk::sync(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_sled_is_damage_and_a_full_disk_is_not() {
        let path = Path::new("index");
        let panicked = guarded::<()>(path, "open", || panic!("page 7 is gone"));
        let text = panicked.unwrap_err().to_string();
        assert!(text.contains("page 7 is gone") && text.contains("rebuild it"), "{text}");
        let full =
            guarded::<()>(
                path,
                "write",
                || Err(io::Error::from(io::ErrorKind::StorageFull).into()),
            );
        assert!(matches!(full, Err(StoreError::Full { .. })), "{full:?}");
    }

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
