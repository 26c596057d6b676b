//! Opens what a process keeps on disk.

use std::{fs::File, path::Path, sync::Arc};

use anyhow::Context as _;
use atoll_state::TreeConfig;
use atoll_store::{FileLog, LogOptions, Snapshots, StoreError};
use atoll_tree::{FileScratch, Scratch};

use crate::{
    config::{self, Config},
    world::Storage,
};

/// Longest record of a log, in bytes.
const MAX_RECORD_BYTES: u32 = 64 << 20;

/// How the log of an actor is kept.
pub(crate) fn log_options(config: &config::Storage) -> LogOptions {
    LogOptions {
        max_record_bytes: MAX_RECORD_BYTES,
        salt: rand::random(),
        segment_bytes: config.segment_bytes,
        reserve_bytes: config.reserve_bytes,
        min_free_bytes: config.min_free_bytes,
        ..LogOptions::default()
    }
}

/// Opens `dir/log`, `dir/index` and `dir/snapshots`. A broken index is begun anew; a broken log is
/// refused.
pub(crate) fn open(dir: &Path, config: &Config) -> anyhow::Result<Storage> {
    let index_cache_bytes = config.limits.index_cache_bytes;
    // Whoever opens a directory makes it, so that a power cut does not take it away again.
    let (log_dir, index_dir) = (dir.join("log"), dir.join("index"));
    let options = log_options(&config.storage);
    let log = FileLog::open(&log_dir, options)
        .with_context(|| format!("cannot open the log of record in {}", log_dir.display()))?;
    let backend = config.storage.index.backend();
    let index = match backend.open(&index_dir, index_cache_bytes) {
        Err(StoreError::Corrupt { what, .. }) => {
            tracing::warn!(dir = %index_dir.display(), what, "index is broken; rebuilding it");
            backend.open_empty(&index_dir, index_cache_bytes)
        }
        other => other,
    };
    let index =
        index.with_context(|| format!("cannot open the index in {}", index_dir.display()))?;
    // Behind the lock of the log.
    let snapshots_dir = dir.join("snapshots");
    let snapshots = Snapshots::open(&snapshots_dir)
        .with_context(|| format!("cannot open the snapshots in {}", snapshots_dir.display()))?;
    Ok(Storage { log: Box::new(log), index, snapshots })
}

/// Leaves of a shard's tree that are not in memory go to `dir/tree`. What an earlier process has left
/// there is of no use.
pub(crate) fn tree(dir: &Path, leaf_bytes: usize) -> TreeConfig {
    let path = dir.join("tree");
    let scratch = move || {
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(true).open(&path)?;
        Ok(Box::new(FileScratch::new(file)) as Box<dyn Scratch>)
    };
    TreeConfig { leaf_bytes, scratch: Arc::new(scratch) }
}
