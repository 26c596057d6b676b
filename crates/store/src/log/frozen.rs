use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::Log;
use super::scan::{self, Opened, Position, Segment};
use crate::StoreError;
use crate::disk::DirLock;

/// A log that is only looked at: nothing on disk is changed, a torn tail is passed over.
pub struct FrozenLog {
    dir: PathBuf,
    segments: Vec<Segment>,
    at: Position,
    opened: Opened,
    _lock: DirLock,
}

impl FrozenLog {
    /// Opens the log in `dir` and verifies every record.
    ///
    /// # Errors
    /// Those of [`FileLog::open`](super::FileLog::open).
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let lock = DirLock::take(dir)?;
        let mut segments = scan::list(dir)?;
        let start = Position { salt: 0, chain: 0, next: 1, end: 0 };
        let (at, opened) = scan::recover(&mut segments, start, false)?;
        Ok(Self { dir: dir.to_path_buf(), segments, at, opened, _lock: lock })
    }

    /// What was found.
    #[must_use]
    pub fn opened(&self) -> &Opened {
        &self.opened
    }

    fn refused<T>(&self) -> Result<T, StoreError> {
        Err(StoreError::poisoned(&self.dir, "it is only looked at"))
    }
}

impl Log for FrozenLog {
    fn append(&mut self, _: &[u8]) -> Result<u64, StoreError> {
        self.refused()
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        self.refused()
    }

    fn next(&self) -> u64 {
        self.at.next
    }

    fn first(&self) -> u64 {
        self.segments.first().map_or(self.at.next, |segment| segment.first)
    }

    fn cut(&mut self, _: u64) -> Result<(), StoreError> {
        self.refused()
    }

    fn visit(
        &self,
        from: u64,
        f: &mut dyn FnMut(u64, &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let mut before = None;
        let mut stopped = false;
        for segment in &self.segments {
            let mut bytes = scan::read(&segment.path)?;
            let next = before.map_or(segment.first, |at: Position| at.next);
            let at = scan::enter(segment, &bytes, before, next)?;
            if self.segments.last().is_some_and(|last| last.first == segment.first) {
                // Without a torn tail.
                bytes.truncate(self.at.end as usize);
            }
            let (at, flaw) = scan::walk(&bytes, at, &mut |number, record| {
                if number < from {
                    return ControlFlow::Continue(());
                }
                let flow = f(number, record);
                stopped = flow.is_break();
                flow
            });
            if let Some(flaw) = flaw {
                return Err(scan::flawed(&segment.path, at, flaw));
            }
            if stopped {
                return Ok(());
            }
            before = Some(at);
        }
        Ok(())
    }
}
