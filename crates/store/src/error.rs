use std::io;
use std::path::{Path, PathBuf};

/// Why the store refused or failed. The text says what happened, where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error(
        "could not {op} {}: {reason}; check the volume and its permissions, then restart", path.display()
    )]
    Io { op: &'static str, path: PathBuf, reason: String },

    /// Damage that is not a torn tail. Nothing has been changed on disk; `what` ends with the
    /// remedy.
    #[error("{} is damaged at byte {offset}: {what}", file.display())]
    Corrupt { file: PathBuf, offset: u64, what: String },

    #[error(
        "{} is in use by another process; stop that one (`fuser {}/lock` names it) or give this \
         node a data directory of its own", dir.display(), dir.display()
    )]
    Locked { dir: PathBuf },

    /// The volume or the quota is full. The record or entry was not stored; reads go on.
    #[error("no space left to {op} {}; free some on that volume and try again", path.display())]
    Full { op: &'static str, path: PathBuf },

    #[error("{size} bytes are more than the limit of {limit}; split them or raise the limit")]
    TooLarge { size: u64, limit: u64 },

    /// An earlier failure left it unknown what is on disk, so every later call is refused.
    #[error(
        "{} refuses every call since an earlier failure ({cause}); stop this process and start it \
         again: nothing unsynced was acknowledged", path.display()
    )]
    Poisoned { path: PathBuf, cause: String },
}

impl StoreError {
    pub(crate) fn io(op: &'static str, path: &Path, error: &io::Error) -> Self {
        let path = path.to_path_buf();
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { op, path },
            _ => Self::Io { op, path, reason: error.to_string() },
        }
    }

    pub(crate) fn poisoned(path: &Path, cause: &str) -> Self {
        Self::Poisoned { path: path.to_path_buf(), cause: cause.to_owned() }
    }

    /// Refuses `size` when it is over `limit`, both in bytes.
    pub(crate) fn check_size(size: usize, limit: usize) -> Result<(), Self> {
        if size <= limit {
            return Ok(());
        }
        Err(Self::TooLarge { size: size as u64, limit: limit as u64 })
    }
}
