use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Log, LogOptions};
use crate::StoreError;

/// A log in memory for tests and simulations. Clones share one "disk".
#[derive(Clone, Debug, Default)]
pub struct MemoryLog {
    disk: Arc<Mutex<Disk>>,
}

#[derive(Debug, Default)]
struct Disk {
    /// Records that were cut off the front.
    cut: usize,
    records: Vec<Vec<u8>>,
    /// Of all that there ever were.
    synced: usize,
}

impl MemoryLog {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What a power cut does: every record that was not synced is gone.
    pub fn crash(&self) {
        let mut disk = self.disk();
        let kept = disk.synced - disk.cut;
        disk.records.truncate(kept);
    }

    /// The number of records that a crash would leave.
    #[must_use]
    pub fn synced(&self) -> u64 {
        self.disk().synced as u64
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log for MemoryLog {
    fn append(&mut self, record: &[u8]) -> Result<u64, StoreError> {
        let limit = LogOptions::default().max_record_bytes as usize;
        StoreError::check_size(record.len(), limit)?;
        let mut disk = self.disk();
        disk.records.push(record.to_vec());
        Ok((disk.cut + disk.records.len()) as u64)
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        let mut disk = self.disk();
        disk.synced = disk.cut + disk.records.len();
        Ok(())
    }

    fn next(&self) -> u64 {
        let disk = self.disk();
        (disk.cut + disk.records.len()) as u64 + 1
    }

    fn first(&self) -> u64 {
        self.disk().cut as u64 + 1
    }

    fn cut(&mut self, before: u64) -> Result<(), StoreError> {
        let mut disk = self.disk();
        let count = (before.saturating_sub(1) as usize).min(disk.synced).saturating_sub(disk.cut);
        disk.records.drain(..count);
        disk.cut += count;
        Ok(())
    }

    fn visit(
        &self,
        from: u64,
        f: &mut dyn FnMut(u64, &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        // Copied, so that `f` may use another handle to the same log.
        let (first, records) = (self.first(), self.disk().records.clone());
        for (number, record) in (first..).zip(&records).skip_while(|(number, _)| *number < from) {
            if f(number, record).is_break() {
                break;
            }
        }
        Ok(())
    }
}
