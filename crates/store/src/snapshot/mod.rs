//! Snapshots: files that stand for all records of a log below a number.
//!
//! ```text
//! header  magic 8 | version u32 | number u64 | check u32
//! frames  as those of a log, with `number` as their salt: length, chain, crc, check, payload
//! ```
//!
//! The first byte of a payload says what it holds: `M` a piece of what its owner says of the whole,
//! `E` entries of the index (key length u32, value length u32, key, value), ascending by key over
//! the whole file, `Z` the end: the number of entries (u64) and the BLAKE3 of all payloads before.
//! Nothing follows the end, and a file without it is none. All numbers are little endian.
//!
//! A snapshot is written under another name, synced, renamed, and its directory synced: under its
//! own name it is whole, or the disk has damaged it since.

mod read;
mod write;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use read::{Item, read as read_snapshot};
pub use write::SnapshotWriter;

use crate::disk::{self, Files, NoFiles, RealFiles};
use crate::{Log, StoreError};

const MAGIC: [u8; 8] = *b"ATOLLSNP";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 24;
/// Bytes of a frame at which the next one is begun. One entry always fits.
const FRAME_TARGET: usize = 256 << 10;
/// No frame is longer than one entry of the longest key and value, and a full frame before it.
const MAX_FRAME: usize = 16 << 20;

/// What is done with an entry that is read: its key and its value.
pub type OnEntry<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> Result<(), StoreError>;

/// A snapshot as found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The number of the first log record that is not in it.
    pub number: u64,
    pub path: PathBuf,
    pub bytes: u64,
}

/// What a whole snapshot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The number of the first log record that is not in it.
    pub number: u64,
    pub bytes: u64,
    pub entries: u64,
    /// BLAKE3 of its content.
    pub digest: [u8; 32],
}

/// The snapshots of one log, in a directory of their own.
#[derive(Clone)]
pub struct Snapshots {
    dir: PathBuf,
    files: Arc<dyn Files>,
}

impl Snapshots {
    /// Opens the directory, creating it if need be, and removes what a crash has left half done. The
    /// caller holds the lock of the log.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        Self::with_files(dir, Arc::new(RealFiles))
    }

    /// The same, with file operations that may fail.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn with_files(dir: &Path, files: Arc<dyn Files>) -> Result<Self, StoreError> {
        disk::create_dir(dir)?;
        for path in disk::list(dir)? {
            if path.extension().is_some_and(|extension| extension == "new") {
                disk::remove_file(dir, &path)?;
            }
        }
        // A name that a crash left unsynced is made durable before anything is built on it.
        disk::sync(dir)?;
        Ok(Self { dir: dir.to_path_buf(), files })
    }

    /// Those in a directory that is only looked at.
    #[must_use]
    pub fn frozen(dir: &Path) -> Self {
        Self { dir: dir.to_path_buf(), files: Arc::new(NoFiles) }
    }

    /// Where they are.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Refuses to go on if the volume has less room than this, in bytes.
    ///
    /// # Errors
    /// [`StoreError::Full`].
    pub fn check_room(&self, least: u64) -> Result<(), StoreError> {
        match disk::free_bytes(&self.dir) {
            Some(free) if free < least => {
                Err(StoreError::Full { op: "write a snapshot in", path: self.dir.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Those that there are, oldest first, whole or not.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn list(&self) -> Result<Vec<Snapshot>, StoreError> {
        list(&self.dir)
    }

    /// Begins one that stands for all records below `number`.
    ///
    /// # Errors
    /// [`StoreError::Full`] and [`StoreError::Io`], as for every later step: the attempt is given
    /// up, and nothing else is harmed.
    pub fn begin(&self, number: u64) -> Result<SnapshotWriter, StoreError> {
        SnapshotWriter::begin(&self.dir, number, self.files.clone())
    }

    /// Moves a damaged one out of the way, for whoever wants to look at it.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn set_aside(&self, snapshot: &Snapshot) -> Result<PathBuf, StoreError> {
        let aside = snapshot.path.with_extension("damaged");
        self.files
            .rename(&snapshot.path, &aside)
            .map_err(|e| StoreError::io("rename", &snapshot.path, &e))?;
        self.sync()?;
        Ok(aside)
    }

    /// A piece of one, and its whole length.
    ///
    /// # Errors
    /// [`StoreError::Io`], also if there is no such snapshot.
    pub fn piece(
        &self,
        number: u64,
        offset: u64,
        max: usize,
    ) -> Result<(Vec<u8>, u64), StoreError> {
        let path = path_of(&self.dir, number);
        let piece = File::open(&path).and_then(|file| {
            let size = file.metadata()?.len();
            let mut bytes = vec![0; max.min(size.saturating_sub(offset) as usize)];
            file.read_exact_at(&mut bytes, offset)?;
            Ok((bytes, size))
        });
        piece.map_err(|e| StoreError::io("read", &path, &e))
    }

    /// Removes all but the newest `kept` (at least 2) and those numbered `spared`. Returns the number
    /// of the record from which on the log has to be kept, so that each of the newest is a start.
    ///
    /// # Errors
    /// [`StoreError::Io`]; what is kept stays whole.
    pub fn prune(&self, kept: usize, spared: &[u64]) -> Result<Option<u64>, StoreError> {
        let mut found = self.list()?;
        let kept = found.split_off(found.len().saturating_sub(kept.max(2)));
        for old in found.iter().filter(|old| !spared.contains(&old.number)) {
            match self.files.remove(&old.path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(StoreError::io("remove", &old.path, &e));
                }
                _ => {}
            }
        }
        self.sync()?;
        Ok(kept.first().filter(|_| kept.len() >= 2).map(|oldest| oldest.number))
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.files.sync_dir(&self.dir).map_err(|e| StoreError::io("sync", &self.dir, &e))
    }
}

/// The snapshots in `dir`, oldest first, whole or not.
fn list(dir: &Path) -> Result<Vec<Snapshot>, StoreError> {
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for path in disk::list(dir)? {
        let is_one = path.extension().is_some_and(|extension| extension == "snap");
        let number = path.file_stem().and_then(OsStr::to_str).and_then(|stem| stem.parse().ok());
        let Some(number) = number.filter(|number| is_one && path_of(dir, *number) == path) else {
            continue;
        };
        let bytes = fs::metadata(&path).map_err(|e| StoreError::io("read", &path, &e))?.len();
        found.push(Snapshot { number, path, bytes });
    }
    found.sort_by_key(|snapshot| snapshot.number);
    Ok(found)
}

fn path_of(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:020}.snap"))
}

impl Snapshots {
    /// The newest whole snapshot from which the log leads on, which has been read through once.
    /// Damaged ones are handed to `damaged`. `None` if there is none and none is needed: the log
    /// goes back to its first record.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if there is no way to what the log ends with.
    pub fn newest_whole(
        &self,
        log: &dyn Log,
        damaged: &mut dyn FnMut(&Snapshot, &StoreError),
    ) -> Result<Option<(Snapshot, Summary)>, StoreError> {
        let mut broken: Option<StoreError> = None;
        for snapshot in self.list()?.into_iter().rev() {
            match read::read(&snapshot.path, &mut |_| Ok::<_, StoreError>(())) {
                Ok(summary) => {
                    return match self.check_joins(&snapshot, log) {
                        Ok(()) => Ok(Some((snapshot, summary))),
                        Err(apart) => Err(broken.unwrap_or(apart)),
                    };
                }
                Err(error @ StoreError::Corrupt { .. }) => {
                    damaged(&snapshot, &error);
                    broken.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        if log.first() == 1 {
            return Ok(None);
        }
        Err(broken.unwrap_or_else(|| {
            let what = format!(
                "the log begins with record {}, and there is no snapshot of those before. {REMEDY}",
                log.first()
            );
            StoreError::Corrupt { file: self.dir.clone(), offset: 0, what }
        }))
    }

    fn check_joins(&self, snapshot: &Snapshot, log: &dyn Log) -> Result<(), StoreError> {
        let Snapshot { number, path, .. } = snapshot;
        let (first, next) = (log.first(), log.next());
        if (first..=next).contains(number) {
            return Ok(());
        }
        let what = format!(
            "it stands for the records below {number}, and the log beside it has those from {first} \
             to {}: they do not join. {REMEDY}",
            next.saturating_sub(1)
        );
        Err(StoreError::Corrupt { file: path.clone(), offset: 0, what })
    }
}

/// How a state is had again that neither snapshot nor log leads to.
const REMEDY: &str = "Nothing was changed. Check the disk, move this directory aside, and restore the \
                      whole cluster from a backup (`atoll restore`)";
