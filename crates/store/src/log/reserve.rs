//! Room set aside on the volume of a log.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::StoreError;
use crate::disk;

/// A file of nothing, given up when the volume is full: what was begun before that can then be
/// written, and whatever was changed in memory becomes durable instead of hanging.
pub(super) struct Reserve {
    path: PathBuf,
    bytes: u64,
    min_free: u64,
    held: bool,
    low: bool,
}

impl Reserve {
    /// Sets the room aside. A volume that has none left is not refused: the log is low then.
    pub fn take(dir: &Path, bytes: u64, min_free: u64) -> Result<Self, StoreError> {
        let path = dir.join("reserve");
        let mut reserve = Self { path, bytes, min_free, held: false, low: false };
        match reserve.fill() {
            Ok(()) => reserve.held = true,
            Err(e) if is_full(&e) => reserve.forget(),
            Err(e) => return Err(StoreError::io("set room aside in", &reserve.path, &e)),
        }
        Ok(reserve)
    }

    /// Gives the room up. Returns whether there was any.
    pub fn release(&mut self) -> bool {
        let held = self.held && self.bytes > 0;
        if held {
            self.forget();
        }
        self.held = false;
        held
    }

    /// Whether the volume has too little room, or what was set aside is gone and cannot be had again.
    pub fn is_low(&mut self) -> bool {
        // Somewhat more than was too little, so that it does not come and go.
        let enough = if self.low { self.min_free / 8 * 9 } else { self.min_free };
        self.low = self.free().is_some_and(|free| free < enough);
        if !self.low && !self.held {
            self.held = self.fill().is_ok();
            if !self.held {
                self.forget();
            }
        }
        self.low || !self.held
    }

    /// `None` if the volume does not say: then only a failed write does.
    fn free(&self) -> Option<u64> {
        disk::free_bytes(self.path.parent()?)
    }

    fn forget(&self) {
        // One that stays takes room, and is filled up again at the next attempt.
        let _ = fs::remove_file(&self.path);
    }

    /// Written, not only made so long: a hole takes no room.
    fn fill(&self) -> io::Result<()> {
        if self.bytes == 0 {
            return Ok(());
        }
        if fs::metadata(&self.path).is_ok_and(|found| found.len() == self.bytes) {
            return Ok(());
        }
        let mut file = File::create(&self.path)?;
        let nothing = vec![0; (1 << 16).min(self.bytes as usize)];
        let mut left = self.bytes;
        while left > 0 {
            let count = left.min(nothing.len() as u64);
            file.write_all(&nothing[..count as usize])?;
            left -= count;
        }
        file.sync_all()?;
        self.path.parent().map_or(Ok(()), disk::sync_dir)
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
