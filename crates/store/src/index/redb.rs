use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use redb::{Database, Durability, ReadOnlyTable, ReadableDatabase as _, TableDefinition};

use super::entry::{seal, unseal};
use super::generation::Files;
use super::guard::{Failure, corrupt, guarded};
use super::{Entries, Index, MAX_KEY_BYTES, check_entry, clean};
use crate::StoreError;
use crate::disk::{self, DirLock};

const FILES: Files = Files::Redb;
const TABLE: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("entries");
const FILE: &str = "db";
/// Entries that wait in memory for a transaction, in bytes: one for each would copy a path of pages each
/// time.
const WAITING_BYTES: usize = 1 << 20;
/// What an entry takes in memory beside its bytes, about.
const ENTRY_BYTES: usize = 100;
/// Bytes put between syncs. redb gives the room of old pages to new ones only after a sync.
const SYNC_BYTES: usize = 64 << 20;

/// An index on redb, in a directory that it locks.
///
/// Entries are gathered and written some thousands at a time, without a sync: what an index lacks
/// after a crash, the log has. What has no valid marker of a clean stop is not even opened: the
/// index begins anew. redb verifies pages only when it repairs, so values have a checksum here too.
pub struct RedbIndex {
    dir: PathBuf,
    cache_bytes: usize,
    /// What is not in the database yet. Held for an instant only.
    recent: RwLock<Recent>,
    /// Held by whoever changes the database, the marker or the generation.
    writer: Mutex<Writer>,
    /// `None` while there is a marker: redb changes its file when it opens it.
    db: RwLock<Option<Database>>,
    /// A call has failed: redb is not called any more, for nobody knows what it has done.
    broken: AtomicBool,
    _lock: DirLock,
}

/// Values, sealed; `None` for what was removed.
type Waiting = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

#[derive(Default)]
struct Recent {
    waiting: Waiting,
    /// Being written; older than `waiting`.
    writing: Arc<Waiting>,
}

struct Writer {
    number: u64,
    waiting_bytes: usize,
    unsynced_bytes: usize,
    /// Whether there is a marker of a clean stop, which a write has to remove first.
    marked: bool,
}

impl fmt::Debug for RedbIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedbIndex").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl RedbIndex {
    /// Opens the index in `dir`; an empty one if there is none, or if it was not stopped cleanly. redb
    /// uses up to `cache_bytes` of memory for its pages.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when it is open elsewhere; [`StoreError::Corrupt`] when redb cannot
    /// read its file: [`RedbIndex::open_empty`] is the way out.
    pub fn open(dir: &Path, cache_bytes: u64) -> Result<Self, StoreError> {
        let lock = DirLock::take(dir)?;
        let newest = FILES.newest(dir)?;
        if let Some(number) = newest
            && clean::verify(dir, &FILES.of(dir, number))?
        {
            return Self::open_generation(dir, cache_bytes, number, true, lock);
        }
        clean::remove(dir)?;
        let number = newest.map_or(1, |last| last + 1);
        Self::open_generation(dir, cache_bytes, number, false, lock)
    }

    /// Like [`RedbIndex::open`], but without reading what is there: it is removed.
    ///
    /// # Errors
    /// Those of [`RedbIndex::open`].
    pub fn open_empty(dir: &Path, cache_bytes: u64) -> Result<Self, StoreError> {
        let lock = DirLock::take(dir)?;
        clean::remove(dir)?;
        let number = FILES.newest(dir)?.map_or(1, |last| last + 1);
        Self::open_generation(dir, cache_bytes, number, false, lock)
    }

    fn open_generation(
        dir: &Path,
        cache_bytes: u64,
        number: u64,
        marked: bool,
        lock: DirLock,
    ) -> Result<Self, StoreError> {
        let cache_bytes = usize::try_from(cache_bytes).unwrap_or(usize::MAX);
        let db = open_redb(dir, number, cache_bytes)?;
        FILES.keep_only(dir, number)?;
        let writer = Writer { number, waiting_bytes: 0, unsynced_bytes: 0, marked };
        Ok(Self {
            dir: dir.to_path_buf(),
            cache_bytes,
            recent: RwLock::default(),
            writer: Mutex::new(writer),
            db: RwLock::new(Some(db)),
            broken: AtomicBool::new(false),
            _lock: lock,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call<T>(
        &self,
        op: &'static str,
        f: impl FnOnce() -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        if self.broken.load(Ordering::Acquire) {
            return Err(StoreError::poisoned(&self.dir, "redb has failed"));
        }
        let result = guarded("redb", &self.dir, op, || f().map_err(failure));
        result.inspect_err(|_| self.broken.store(true, Ordering::Release))
    }

    fn db(&self) -> RwLockReadGuard<'_, Option<Database>> {
        self.db.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_db(&self, db: Option<Database>) -> Option<Database> {
        std::mem::replace(&mut *self.db.write().unwrap_or_else(PoisonError::into_inner), db)
    }

    /// Asks the database, which a clean stop has closed.
    fn with_db<T>(
        &self,
        writer: &mut Writer,
        op: &'static str,
        f: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        if self.db().is_none() {
            self.unmark(writer)?;
            self.set_db(Some(open_redb(&self.dir, writer.number, self.cache_bytes)?));
        }
        match self.db().as_ref() {
            Some(db) => self.call(op, || f(db)),
            None => Err(StoreError::poisoned(&self.dir, "closed without its writer")),
        }
    }

    fn unmark(&self, writer: &mut Writer) -> Result<(), StoreError> {
        clean::remove(&self.dir)?;
        writer.marked = false;
        Ok(())
    }

    fn change(&self, key: &[u8], sealed: Option<Vec<u8>>) -> Result<(), StoreError> {
        if self.broken.load(Ordering::Acquire) {
            return Err(StoreError::poisoned(&self.dir, "redb has failed"));
        }
        let mut writer = self.lock();
        if writer.marked {
            self.unmark(&mut writer)?;
        }
        writer.waiting_bytes += key.len() + sealed.as_ref().map_or(0, Vec::len) + ENTRY_BYTES;
        let mut recent = self.recent.write().unwrap_or_else(PoisonError::into_inner);
        recent.waiting.insert(key.to_vec(), sealed);
        drop(recent);
        if writer.waiting_bytes >= WAITING_BYTES {
            self.write_out(&mut writer, false)?;
        }
        Ok(())
    }

    /// Brings what waits into the database. Who reads meanwhile finds it in memory.
    fn write_out(&self, writer: &mut Writer, sync: bool) -> Result<(), StoreError> {
        let mut recent = self.recent.write().unwrap_or_else(PoisonError::into_inner);
        recent.writing = Arc::new(std::mem::take(&mut recent.waiting));
        let writing = recent.writing.clone();
        drop(recent);
        if writing.is_empty() && !sync {
            return Ok(());
        }
        let unsynced_bytes = writer.unsynced_bytes + writer.waiting_bytes;
        let sync = sync || unsynced_bytes >= SYNC_BYTES;
        self.with_db(writer, "write", |db| transact(db, &writing, sync))?;
        writer.unsynced_bytes = if sync { 0 } else { unsynced_bytes };
        writer.waiting_bytes = 0;
        let mut recent = self.recent.write().unwrap_or_else(PoisonError::into_inner);
        recent.writing = Arc::default();
        Ok(())
    }

    /// A view of all entries put so far.
    fn table(&self) -> Result<Table, StoreError> {
        let mut writer = self.lock();
        self.write_out(&mut writer, false)?;
        self.with_db(&mut writer, "read", |db| Ok(db.begin_read()?.open_table(TABLE)?))
    }

    fn open_value(&self, key: &[u8], sealed: &[u8]) -> Result<Vec<u8>, StoreError> {
        let value = unseal(key, sealed);
        value
            .map(<[u8]>::to_vec)
            .ok_or_else(|| corrupt(&self.dir, "a value does not match its checksum"))
    }

    /// Shows entries from a key on, until `f` has enough.
    fn scan(&self, from: Bound<&[u8]>, f: OnSealed<'_>) -> Result<(), StoreError> {
        let table = self.table()?;
        let mut found =
            self.call("read", || Ok(table.range::<&[u8]>((from, Bound::Unbounded))?))?;
        while let Some((key, sealed)) = self.call("read", || Ok(found.next().transpose()?))? {
            if !f(key.value(), sealed.value())? {
                break;
            }
        }
        Ok(())
    }
}

/// Gets a key and a sealed value; whether to go on.
type OnSealed<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> Result<bool, StoreError>;
type Table = ReadOnlyTable<&'static [u8], &'static [u8]>;

impl Index for RedbIndex {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let recent = self.recent.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(sealed) = recent.waiting.get(key).or_else(|| recent.writing.get(key)) {
            let sealed = sealed.as_ref();
            return sealed.map(|sealed| self.open_value(key, sealed)).transpose();
        }
        drop(recent);
        let read = |db: &Database| {
            // The value is not to outlive the transaction: its page may be written to then.
            let table = db.begin_read()?.open_table(TABLE)?;
            let sealed = table.get(key)?.map(|sealed| sealed.value().to_vec());
            Ok(sealed)
        };
        let db = self.db();
        let sealed = match db.as_ref() {
            Some(db) => self.call("read", || read(db))?,
            None => {
                drop(db);
                self.with_db(&mut self.lock(), "read", read)?
            }
        };
        sealed.map(|sealed| self.open_value(key, &sealed)).transpose()
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        check_entry(key, value)?;
        self.change(key, Some(seal(key, value)))
    }

    fn delete(&self, key: &[u8]) -> Result<(), StoreError> {
        StoreError::check_size(key.len(), MAX_KEY_BYTES)?;
        self.change(key, None)
    }

    fn scan_prefix(
        &self,
        prefix: &[u8],
        f: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<(), StoreError> {
        self.scan(Bound::Included(prefix), &mut |key, sealed| {
            let within = key.starts_with(prefix);
            if within {
                f(key, &self.open_value(key, sealed)?);
            }
            Ok(within)
        })
    }

    fn scan_after(&self, after: &[u8], max: usize) -> Result<Entries, StoreError> {
        let mut entries = Vec::new();
        self.scan(Bound::Excluded(after), &mut |key, sealed| {
            if entries.len() < max {
                entries.push((key.to_vec(), self.open_value(key, sealed)?));
            }
            Ok(entries.len() < max)
        })?;
        Ok(entries)
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.write_out(&mut self.lock(), false)
    }

    fn wipe(&self) -> Result<(), StoreError> {
        let mut writer = self.lock();
        self.unmark(&mut writer)?;
        let number = writer.number + 1;
        let fresh = open_redb(&self.dir, number, self.cache_bytes)?;
        let mut recent = self.recent.write().unwrap_or_else(PoisonError::into_inner);
        *recent = Recent::default();
        let old = self.set_db(Some(fresh));
        drop(recent);
        *writer = Writer { number, waiting_bytes: 0, unsynced_bytes: 0, marked: false };
        self.broken.store(false, Ordering::Release);
        // redb may panic in closing what it panicked on.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(old)));
        FILES.keep_only(&self.dir, number)
    }

    fn mark_clean(&self, payload: &[u8]) -> Result<(), StoreError> {
        let mut writer = self.lock();
        self.write_out(&mut writer, true)?;
        // Closing writes to the file, which is not to change any more.
        if let Some(db) = self.set_db(None) {
            self.call("close", || Ok(db.close()?))?;
        }
        // Before the file is there: if writing it fails half-way, a later write still removes it.
        writer.marked = true;
        clean::write(&self.dir, &FILES.of(&self.dir, writer.number), payload)
    }

    fn take_clean(&self) -> Result<Option<Vec<u8>>, StoreError> {
        let mut writer = self.lock();
        let payload = clean::take(&self.dir)?;
        writer.marked = false;
        Ok(payload)
    }
}

fn open_redb(dir: &Path, number: u64, cache_bytes: usize) -> Result<Database, StoreError> {
    let path = FILES.of(dir, number);
    fs::create_dir_all(&path).map_err(|e| StoreError::io("create", &path, &e))?;
    let db = guarded("redb", &path, "open", || {
        let mut builder = Database::builder();
        let db = builder.set_cache_size(cache_bytes).create(path.join(FILE));
        let db = db.map_err(|error| failure(error.into()))?;
        // So that readers find the table.
        transact(&db, &Waiting::new(), false).map_err(failure)?;
        Ok(db)
    })?;
    disk::sync(dir)?;
    Ok(db)
}

/// Writes entries in one transaction.
fn transact(db: &Database, entries: &Waiting, sync: bool) -> Result<(), redb::Error> {
    let mut transaction = db.begin_write()?;
    let durability = if sync { Durability::Immediate } else { Durability::None };
    transaction.set_durability(durability)?;
    let mut table = transaction.open_table(TABLE)?;
    for (key, sealed) in entries {
        match sealed {
            Some(sealed) => drop(table.insert(key.as_slice(), sealed.as_slice())?),
            None => drop(table.remove(key.as_slice())?),
        }
    }
    drop(table);
    Ok(transaction.commit()?)
}

fn failure(error: redb::Error) -> Failure {
    match error {
        redb::Error::Io(error) => Failure::Io(error),
        error => Failure::Damage(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_called_after_a_failure_until_a_wipe() {
        let dir = tempfile::tempdir().unwrap();
        let index = RedbIndex::open(dir.path(), 0).unwrap();
        index.put(b"k", b"v").unwrap();
        assert!(index.call::<()>("read", || panic!("damage")).is_err());
        assert!(matches!(index.get(b"other"), Err(StoreError::Poisoned { .. })));
        assert!(matches!(index.put(b"k", b"v"), Err(StoreError::Poisoned { .. })));
        assert!(matches!(index.mark_clean(b""), Err(StoreError::Poisoned { .. })));
        index.wipe().unwrap();
        assert_eq!(index.get(b"k").unwrap(), None);
        index.put(b"k", b"v").unwrap();
    }

    #[test]
    fn what_waits_what_is_written_and_what_was_removed_read_alike() {
        let dir = tempfile::tempdir().unwrap();
        let index = RedbIndex::open(dir.path(), 0).unwrap();
        let value = vec![7; 1 << 12];
        // Several transactions, of which some are over old values.
        for round in 0..3u8 {
            for key in 0..600u32 {
                index.put(&key.to_be_bytes(), &[&[round], &value[..]].concat()).unwrap();
            }
            for key in (0..600u32).step_by(7) {
                index.delete(&key.to_be_bytes()).unwrap();
            }
            for key in 0..600u32 {
                let held = index.get(&key.to_be_bytes()).unwrap();
                let first = held.map(|held| held[0]);
                assert_eq!(first, (key % 7 != 0).then_some(round), "key {key}");
            }
        }
        assert_eq!(index.scan_after(&[], 1_000).unwrap().len(), 600 - 86);
    }
}
