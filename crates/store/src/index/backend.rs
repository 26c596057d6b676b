use std::path::Path;
use std::sync::Arc;

use super::generation::Files;
use super::{Index, RedbIndex, SledIndex, clean};
use crate::StoreError;
use crate::disk::DirLock;

/// What keeps an index on disk. The files of one are of no use to another: it begins anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    Sled,
    Redb,
}

impl Backend {
    pub const ALL: [Self; 2] = [Self::Sled, Self::Redb];

    /// Opens the index in `dir`, creating it if there is none, with up to `cache_bytes` of memory for
    /// pages.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when it is open elsewhere; [`StoreError::Corrupt`] when its files cannot
    /// be read: [`Backend::open_empty`] is the way out.
    pub fn open(self, dir: &Path, cache_bytes: u64) -> Result<Arc<dyn Index>, StoreError> {
        Ok(match self {
            Self::Sled => Arc::new(SledIndex::open(dir, cache_bytes)?),
            Self::Redb => Arc::new(RedbIndex::open(dir, cache_bytes)?),
        })
    }

    /// Like [`Backend::open`], but without reading what is there: it is removed.
    ///
    /// # Errors
    /// Those of [`Backend::open`].
    pub fn open_empty(self, dir: &Path, cache_bytes: u64) -> Result<Arc<dyn Index>, StoreError> {
        Ok(match self {
            Self::Sled => Arc::new(SledIndex::open_empty(dir, cache_bytes)?),
            Self::Redb => Arc::new(RedbIndex::open_empty(dir, cache_bytes)?),
        })
    }

    /// Whose files lie in `dir`; `None` if nobody's do.
    ///
    /// # Errors
    /// Those of reading the directory.
    pub fn found(dir: &Path) -> Result<Option<Self>, StoreError> {
        for backend in Self::ALL {
            if backend.files().newest(dir)?.is_some() {
                return Ok(Some(backend));
            }
        }
        Ok(None)
    }

    /// Whether the index in `dir` is as a clean stop has left it; `None` if none has. Changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when it is open elsewhere.
    pub fn is_as_left(self, dir: &Path) -> Result<Option<bool>, StoreError> {
        let _lock = DirLock::take(dir)?;
        let number = self.files().newest(dir)?.unwrap_or(1);
        clean::holds(dir, &self.files().of(dir, number))
    }

    fn files(self) -> Files {
        match self {
            Self::Sled => Files::Sled,
            Self::Redb => Files::Redb,
        }
    }
}
