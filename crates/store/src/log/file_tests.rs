//! Failures of the file itself, which cannot be had from a real one.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::Replay;

#[derive(Clone, Default)]
struct Switches {
    full: Arc<AtomicBool>,
    no_write: Arc<AtomicBool>,
    no_sync: Arc<AtomicBool>,
    no_set_len: Arc<AtomicBool>,
    /// The disk is full only as long as this file is there.
    reserve: Option<PathBuf>,
}

struct BadFile {
    file: File,
    on: Switches,
}

fn fail_if(on: &AtomicBool, kind: io::ErrorKind) -> io::Result<()> {
    if on.load(Ordering::Relaxed) { Err(kind.into()) } else { Ok(()) }
}

impl RawFile for BadFile {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let room = self.on.reserve.as_ref().is_some_and(|reserve| !reserve.exists());
        if self.on.full.load(Ordering::Relaxed) && !room {
            FileExt::write_all_at(&self.file, &bytes[..bytes.len() / 2], offset)?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        fail_if(&self.on.no_write, io::ErrorKind::Other)?;
        FileExt::write_all_at(&self.file, bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        fail_if(&self.on.no_sync, io::ErrorKind::Other)?;
        self.file.sync_data()
    }

    fn set_len(&self, size_bytes: u64) -> io::Result<()> {
        fail_if(&self.on.no_set_len, io::ErrorKind::Other)?;
        self.file.set_len(size_bytes)
    }
}

fn bad_log(dir: &Path) -> (FileLog, Switches) {
    let mut log = FileLog::open(dir, LogOptions::default()).unwrap();
    let file = File::options().write(true).open(log.path()).unwrap();
    let on = Switches::default();
    log.file = Box::new(BadFile { file, on: on.clone() });
    (log, on)
}

fn records(log: &FileLog) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    log.replay::<StoreError>(1, &mut |_, record| {
        records.push(record.to_vec());
        Ok(())
    })
    .unwrap();
    records
}

fn assert_poisoned(log: &mut FileLog) {
    assert!(matches!(log.append(b"x"), Err(StoreError::Poisoned { .. })));
    assert!(matches!(log.sync(), Err(StoreError::Poisoned { .. })));
    let replayed = log.replay::<StoreError>(1, &mut |_, _| Ok(()));
    assert!(matches!(replayed, Err(StoreError::Poisoned { .. })));
}

#[test]
fn a_failed_sync_poisons_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, on) = bad_log(dir.path());
    log.append(b"one").unwrap();
    on.no_sync.store(true, Ordering::Relaxed);
    assert!(matches!(log.sync(), Err(StoreError::Io { op: "sync", .. })));
    on.no_sync.store(false, Ordering::Relaxed);
    assert_poisoned(&mut log);
}

#[test]
fn a_full_disk_refuses_the_record_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, on) = bad_log(dir.path());
    log.append(b"one").unwrap();
    on.full.store(true, Ordering::Relaxed);
    assert!(matches!(log.append(b"two"), Err(StoreError::Full { .. })));
    assert_eq!(records(&log), [b"one"]);
    log.sync().unwrap();
    on.full.store(false, Ordering::Relaxed);
    assert_eq!(log.append(b"three").unwrap(), 2);
    log.sync().unwrap();
    drop(log);
    let log = FileLog::open(dir.path(), LogOptions::default()).unwrap();
    assert_eq!(log.opened().cut_bytes, 0);
    assert_eq!(records(&log), [b"one".to_vec(), b"three".to_vec()]);
}

#[test]
fn a_half_written_record_that_cannot_be_taken_back_poisons() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, on) = bad_log(dir.path());
    on.full.store(true, Ordering::Relaxed);
    on.no_set_len.store(true, Ordering::Relaxed);
    assert!(matches!(log.append(b"two"), Err(StoreError::Full { .. })));
    assert_poisoned(&mut log);
}

#[test]
fn a_failed_write_poisons() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, on) = bad_log(dir.path());
    on.no_write.store(true, Ordering::Relaxed);
    assert!(matches!(log.append(b"two"), Err(StoreError::Io { .. })));
    on.no_write.store(false, Ordering::Relaxed);
    assert_poisoned(&mut log);
}

#[test]
fn what_was_set_aside_lets_a_full_disk_take_what_was_begun() {
    let dir = tempfile::tempdir().unwrap();
    let options = LogOptions { reserve_bytes: 4_096, ..LogOptions::default() };
    let mut log = FileLog::open(dir.path(), options).unwrap();
    let reserve = dir.path().join("reserve");
    let file = File::options().write(true).open(log.path()).unwrap();
    let on = Switches { reserve: Some(reserve.clone()), ..Switches::default() };
    log.file = Box::new(BadFile { file, on: on.clone() });
    on.full.store(true, Ordering::Relaxed);
    assert!(reserve.exists() && !log.is_low());
    log.append(b"begun").unwrap();
    log.sync().unwrap();
    assert!(!reserve.exists());
    // Here there is room for it again at once; on a full disk this is where it stays low.
    assert!(!log.is_low() && reserve.exists());
    drop(log);
    let log = FileLog::open(dir.path(), LogOptions::default()).unwrap();
    assert_eq!(records(&log), [b"begun".to_vec()]);
}
