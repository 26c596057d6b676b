//! Backups of a whole cluster at one cut: `docs/decisions/0023-backup-at-one-cut.md`.

mod restore;
mod serve;
mod take;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use atoll_types::B256;
use serde::{Deserialize, Serialize};

pub use self::restore::{RestoreArgs, restore};
pub(crate) use self::serve::server;
pub use self::take::{BackupArgs, backup};

use crate::config::Chain;

/// Name of the file that says what a backup is. It is written last.
const MANIFEST: &str = "backup.json";
/// Version of the format.
const FORMAT: u32 = 1;

/// What a backup is.
#[derive(Serialize, Deserialize)]
struct Manifest {
    format: u32,
    /// The cut that every file is of.
    cut: u64,
    chain: Chain,
    files: Vec<File>,
}

/// A snapshot in a backup.
#[derive(Clone, Serialize, Deserialize)]
struct File {
    /// Whose state it is: `beacon` or `shard-` and a number.
    name: String,
    /// Number of the first log record that is not in it.
    number: u64,
    bytes: u64,
    /// BLAKE3 of its content.
    digest: B256,
}

/// Whose states a chain has, in order.
fn names(chain: &Chain) -> impl Iterator<Item = String> {
    let shards = (0..chain.shards).map(|id| format!("shard-{id}"));
    std::iter::once("beacon".to_owned()).chain(shards)
}

fn path_of(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.snapshot"))
}

impl Manifest {
    fn read(dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join(MANIFEST);
        let bytes = std::fs::read(&path).with_context(|| {
            format!("{} has no {MANIFEST}: it is no backup, or one that broke off", dir.display())
        })?;
        let manifest: Self = serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is broken", path.display()))?;
        let format = manifest.format;
        ensure!(format == FORMAT, "{} has format {format}, not {FORMAT}", path.display());
        let listed = manifest.files.iter().map(|file| &file.name);
        ensure!(
            listed.eq(&names(&manifest.chain).collect::<Vec<_>>()),
            "{} does not list the beacon and every shard",
            path.display()
        );
        Ok(manifest)
    }
}

/// Whether a directory has nothing in it, or is not there.
fn is_empty(dir: &Path) -> anyhow::Result<bool> {
    match std::fs::read_dir(dir) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", dir.display())),
    }
}
