//! What is durable: the log of record, and an index that can be rebuilt from it.
//!
//! The log ([`Log`], [`FileLog`]) is the only source of truth: what [`Log::sync`] has returned for
//! is kept. The index ([`Index`], kept by a [`Backend`]) makes it quick to look things up and may be lost
//! at any time: a caller that finds no marker of a clean stop ([`Index::take_clean`]), or meets
//! [`StoreError::Corrupt`] in it, wipes it and replays the log. A snapshot ([`Snapshots`]) stands for
//! all records of the log below a number, so that these need not be kept.
//!
//! Nothing here starts a thread, reads a clock or draws a random number, except that sled keeps
//! threads of its own for writing.

mod disk;
mod error;
mod faulty;
mod index;
mod log;
mod snapshot;

pub use disk::{Files, RealFiles};
pub use error::StoreError;
pub use faulty::{Call, Faults, FaultyFiles, FaultyIndex, FaultyLog};
pub use index::{
    Backend, Entries, Index, MAX_KEY_BYTES, MAX_VALUE_BYTES, MemoryIndex, RedbIndex, SledIndex,
};
pub use log::{FileLog, FrozenLog, Log, LogOptions, MemoryLog, OnRecord, Opened, Replay};
pub use snapshot::{Item, OnEntry, Snapshot, SnapshotWriter, Snapshots, Summary, read_snapshot};
