use std::cell::Cell;
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::frame::{self, HEADER_BYTES, Header};
use super::reserve::Reserve;
use super::scan::{self, Opened, Position, Segment};
use super::{Log, LogOptions};
use crate::StoreError;
use crate::disk::{self, DirLock, RawFile};

/// The log of record in files of one directory, which it locks.
///
/// After [`StoreError::Io`] from a sync the process should end. Linux may by then show pages that
/// never reached the disk, so a disk that failed so is best replaced before the restart.
pub struct FileLog {
    dir: PathBuf,
    options: LogOptions,
    segments: Vec<Segment>,
    /// The last segment.
    file: Box<dyn RawFile>,
    at: Position,
    unsynced: bool,
    /// Bytes of the last segment that are durable.
    synced: u64,
    poisoned: Option<String>,
    opened: Opened,
    frame: Vec<u8>,
    reserve: Reserve,
    _lock: DirLock,
}

impl fmt::Debug for FileLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileLog").field("dir", &self.dir).field("at", &self.at).finish()
    }
}

impl FileLog {
    /// Opens the log in `dir`, creating it if there is none. Verifies every record, and cuts off
    /// a torn tail: see [`FileLog::opened`].
    ///
    /// # Errors
    /// [`StoreError::Locked`] when it is open elsewhere; [`StoreError::Corrupt`] for damage that
    /// is not a torn tail, in which case nothing is changed.
    pub fn open(dir: &Path, options: LogOptions) -> Result<Self, StoreError> {
        let lock = DirLock::take(dir)?;
        let mut segments = scan::list(dir)?;
        let start = Position { salt: options.salt, chain: 0, next: options.first, end: 0 };
        let (mut at, opened) = scan::recover(&mut segments, start, true)?;
        let file = match segments.last() {
            Some(segment) if at.end > 0 => reopen(&segment.path)?,
            _ => {
                let (segment, file) = create(dir, at)?;
                segments.push(segment);
                at.end = HEADER_BYTES as u64;
                file
            }
        };
        // Names that a crash left unsynced are made durable before anything is built on them.
        disk::sync(dir)?;
        Ok(Self {
            dir: dir.to_path_buf(),
            reserve: Reserve::take(dir, options.reserve_bytes, options.min_free_bytes)?,
            options,
            segments,
            file: Box::new(file),
            at,
            unsynced: false,
            synced: at.end,
            poisoned: None,
            opened,
            frame: Vec::new(),
            _lock: lock,
        })
    }

    /// What was found at opening.
    #[must_use]
    pub fn opened(&self) -> &Opened {
        &self.opened
    }

    /// The file being written, and how many bytes of it a power cut leaves: for whoever simulates
    /// one. All other files are durable.
    #[must_use]
    pub fn durable(&self) -> (&Path, u64) {
        (self.path(), self.synced)
    }

    fn check(&self) -> Result<(), StoreError> {
        match &self.poisoned {
            Some(cause) => Err(StoreError::poisoned(&self.dir, cause)),
            None => Ok(()),
        }
    }

    fn poison(&mut self, error: StoreError) -> StoreError {
        self.poisoned = Some(error.to_string());
        error
    }

    fn path(&self) -> &Path {
        &self.segments.last().expect("an open log has a segment").path
    }

    /// Goes on to a new segment. The one before is whole and synced from then on.
    fn roll(&mut self) -> Result<(), StoreError> {
        self.sync()?;
        match create(&self.dir, self.at) {
            Ok((segment, file)) => {
                self.segments.push(segment);
                self.file = Box::new(file);
                self.at.end = HEADER_BYTES as u64;
                self.synced = self.at.end;
                Ok(())
            }
            Err(full @ StoreError::Full { .. }) => {
                let path = scan::segment_path(&self.dir, self.at.next);
                match disk::remove_file(&self.dir, &path) {
                    Ok(()) => Err(full),
                    Err(e) => Err(self.poison(e)),
                }
            }
            Err(e) => Err(self.poison(e)),
        }
    }

    /// Takes a half-written record back when the disk is full; any other failure poisons.
    fn undo_append(&mut self, error: &io::Error) -> StoreError {
        let error = StoreError::io("append to", self.path(), error);
        if matches!(error, StoreError::Full { .. }) && self.file.set_len(self.at.end).is_ok() {
            return error;
        }
        self.poison(error)
    }

    /// Checks that the file still ends where this log has written to.
    fn check_end(&self, found: Option<Position>) -> Result<(), StoreError> {
        let found = found.expect("an open log has a segment");
        if found == self.at {
            return Ok(());
        }
        let what = format!("records from {} on have been removed or added", found.next);
        Err(scan::corrupt(self.path(), found.end, &what))
    }

    fn visit_segment(
        &self,
        i: usize,
        before: Option<Position>,
        f: &mut dyn FnMut(u64, &[u8]) -> ControlFlow<()>,
    ) -> Result<Position, StoreError> {
        let segment = &self.segments[i];
        let bytes = scan::read(&segment.path)?;
        let next = before.map_or(segment.first, |at| at.next);
        let at = scan::enter(segment, &bytes, before, next)?;
        let (at, flaw) = scan::walk(&bytes, at, f);
        match flaw {
            Some(flaw) => Err(scan::flawed(&segment.path, at, flaw)),
            None => Ok(at),
        }
    }
}

impl Log for FileLog {
    fn append(&mut self, record: &[u8]) -> Result<u64, StoreError> {
        match self.append_once(record) {
            Err(StoreError::Full { .. }) if self.reserve.release() => self.append_once(record),
            other => other,
        }
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        self.check()?;
        if self.unsynced {
            if let Err(e) = self.file.sync_data() {
                let error = StoreError::io("sync", self.path(), &e);
                return Err(self.poison(error));
            }
            self.unsynced = false;
            self.synced = self.at.end;
        }
        Ok(())
    }

    fn next(&self) -> u64 {
        self.at.next
    }

    fn first(&self) -> u64 {
        self.segments.first().map_or(self.at.next, |segment| segment.first)
    }

    fn cut(&mut self, before: u64) -> Result<(), StoreError> {
        self.check()?;
        // Each name is durably gone before the next, so that a crash leaves no gap.
        while self.segments.len() > 1 && self.segments[1].first <= before {
            disk::remove_file(&self.dir, &self.segments[0].path)?;
            self.segments.remove(0);
        }
        Ok(())
    }

    fn is_low(&mut self) -> bool {
        self.reserve.is_low()
    }

    fn visit(
        &self,
        from: u64,
        f: &mut dyn FnMut(u64, &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.check()?;
        if from >= self.at.next {
            return Ok(());
        }
        if from.max(1) < self.first() {
            let what = format!("records {from} to {} are not kept any more", self.first() - 1);
            return Err(scan::corrupt(&self.segments[0].path, 0, &what));
        }
        let stopped = Cell::new(false);
        let mut show = |number: u64, record: &[u8]| {
            if number < from {
                return ControlFlow::Continue(());
            }
            let flow = f(number, record);
            stopped.set(flow.is_break());
            flow
        };
        let after = self.segments.partition_point(|segment| segment.first <= from);
        let mut before = None;
        for i in after.saturating_sub(1)..self.segments.len() {
            before = Some(self.visit_segment(i, before, &mut show)?);
            if stopped.get() {
                return Ok(());
            }
        }
        self.check_end(before)
    }
}

impl FileLog {
    fn append_once(&mut self, record: &[u8]) -> Result<u64, StoreError> {
        self.check()?;
        StoreError::check_size(record.len(), self.options.max_record_bytes as usize)?;
        let size = (frame::FRAME_BYTES + record.len()) as u64;
        let empty = self.at.end == HEADER_BYTES as u64;
        if !empty && self.at.end + size > self.options.segment_bytes {
            self.roll()?;
        }
        let chain = frame::encode(self.at.salt, self.at.chain, record, &mut self.frame);
        self.unsynced = true;
        if let Err(e) = self.file.write_all_at(&self.frame, self.at.end) {
            return Err(self.undo_append(&e));
        }
        let number = self.at.next;
        self.at = Position { chain, next: number + 1, end: self.at.end + size, ..self.at };
        Ok(number)
    }
}

/// Opens the last segment for writing, and syncs what an earlier process may have left unsynced.
fn reopen(path: &Path) -> Result<File, StoreError> {
    let file = File::options().write(true).open(path);
    let file = file.map_err(|e| StoreError::io("open", path, &e))?;
    file.sync_all().map_err(|e| StoreError::io("sync", path, &e))?;
    Ok(file)
}

/// Creates the segment that starts at `at`: file, header, and both synced with the directory.
fn create(dir: &Path, at: Position) -> Result<(Segment, File), StoreError> {
    let path = scan::segment_path(dir, at.next);
    let file = File::options().write(true).create_new(true).open(&path);
    let file = file.map_err(|e| StoreError::io("create", &path, &e))?;
    let header = Header { first: at.next, chain: at.chain, salt: at.salt };
    RawFile::write_all_at(&file, &header.encode(), 0)
        .map_err(|e| StoreError::io("write the header of", &path, &e))?;
    file.sync_all().map_err(|e| StoreError::io("sync", &path, &e))?;
    disk::sync(dir)?;
    Ok((Segment { first: at.next, path }, file))
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
