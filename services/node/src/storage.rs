//! Opens what a process keeps on disk.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use atoll_store::{FileLog, Index, LogOptions, SledIndex, StoreError};

/// The log of record and the index of one actor.
pub(crate) struct Storage {
    pub log: Box<FileLog>,
    pub index: Arc<dyn Index>,
}

/// Opens `dir/log` and `dir/index`. A broken index is begun anew; a broken log is refused.
pub(crate) fn open(dir: &Path, index_cache_bytes: u64) -> anyhow::Result<Storage> {
    let (log_dir, index_dir) = (sub(dir, "log")?, sub(dir, "index")?);
    let options =
        LogOptions { max_record_bytes: 64 << 20, salt: rand::random(), ..LogOptions::default() };
    let log = FileLog::open(&log_dir, options)
        .with_context(|| format!("cannot open the log of record in {}", log_dir.display()))?;
    let index = match SledIndex::open(&index_dir, index_cache_bytes) {
        Err(StoreError::Corrupt { what, .. }) => {
            tracing::warn!(dir = %index_dir.display(), what, "index is broken; rebuilding it");
            SledIndex::open_empty(&index_dir, index_cache_bytes)
        }
        other => other,
    };
    let index =
        index.with_context(|| format!("cannot open the index in {}", index_dir.display()))?;
    Ok(Storage { log: Box::new(log), index: Arc::new(index) })
}

fn sub(dir: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let path = dir.join(name);
    std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
    Ok(path)
}
