mod backend;
mod clean;
mod entry;
mod generation;
mod guard;
mod memory;
mod redb;
mod sled;

pub use self::backend::Backend;
pub use self::memory::MemoryIndex;
pub use self::redb::RedbIndex;
pub use self::sled::SledIndex;

use crate::StoreError;

/// Longest key of an index.
pub const MAX_KEY_BYTES: usize = 1 << 10;
/// Longest value of an index.
pub const MAX_VALUE_BYTES: usize = 8 << 20;

/// Entries of an index: keys and values.
pub type Entries = Vec<(Vec<u8>, Vec<u8>)>;

/// A map from key to value that can be rebuilt from the log: never the log of record.
pub trait Index: Send + Sync {
    /// # Errors
    /// [`StoreError::Corrupt`] rather than a value that is not what was put.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Not durable until [`Index::flush`], and against a power cut not before
    /// [`Index::mark_clean`].
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] over [`MAX_KEY_BYTES`] or [`MAX_VALUE_BYTES`].
    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), StoreError>;

    /// Nothing happens if there is no such key.
    fn delete(&self, key: &[u8]) -> Result<(), StoreError>;

    /// Shows the entries whose key starts with `prefix`, in the order of keys. `f` must not write
    /// to the index.
    fn scan_prefix(&self, prefix: &[u8], f: &mut dyn FnMut(&[u8], &[u8]))
    -> Result<(), StoreError>;

    /// Up to `max` entries behind the key `after`, in the order of keys; empty when there are none.
    ///
    /// # Errors
    /// Those of [`Index::get`].
    fn scan_after(&self, after: &[u8], max: usize) -> Result<Entries, StoreError>;

    /// Hands everything put so far to the operating system.
    fn flush(&self) -> Result<(), StoreError>;

    /// Removes every entry, and the marker of a clean stop.
    fn wipe(&self) -> Result<(), StoreError>;

    /// To be called last at a stop: makes everything put so far durable, and then a marker with
    /// `payload` (for instance the number of the last log record the index contains). A later
    /// write removes the marker again.
    fn mark_clean(&self, payload: &[u8]) -> Result<(), StoreError>;

    /// To be called first after opening: the payload of a clean stop; the marker is then durably
    /// gone. `None` means that the index may lack or have anything: wipe it and rebuild.
    fn take_clean(&self) -> Result<Option<Vec<u8>>, StoreError>;
}

fn check_entry(key: &[u8], value: &[u8]) -> Result<(), StoreError> {
    StoreError::check_size(key.len(), MAX_KEY_BYTES)?;
    StoreError::check_size(value.len(), MAX_VALUE_BYTES)
}
