//! Where in the directory of an index the files of a database lie: in a folder per generation. A wipe
//! starts the next one, so that it works on damaged files too.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::StoreError;
use crate::disk;

/// Whose files they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Files {
    Sled,
    Redb,
}

impl Files {
    const ALL: [Self; 2] = [Self::Sled, Self::Redb];

    fn letter(self) -> char {
        match self {
            Self::Sled => 'g',
            Self::Redb => 'r',
        }
    }

    pub fn of(self, dir: &Path, number: u64) -> PathBuf {
        dir.join(format!("{}{number}", self.letter()))
    }

    pub fn newest(self, dir: &Path) -> Result<Option<u64>, StoreError> {
        Ok(self.all(dir)?.into_iter().max())
    }

    /// Removes every folder of any database but that of one generation, and of later ones.
    pub fn keep_only(self, dir: &Path, number: u64) -> Result<(), StoreError> {
        for files in Self::ALL {
            let old = files.all(dir)?;
            for old in old.into_iter().filter(|old| files != self || *old < number) {
                let path = files.of(dir, old);
                fs::remove_dir_all(&path).map_err(|e| StoreError::io("remove", &path, &e))?;
            }
        }
        disk::sync(dir)
    }

    fn all(self, dir: &Path) -> Result<Vec<u64>, StoreError> {
        let mut numbers = Vec::new();
        for path in disk::list(dir)? {
            let name = path.file_name().and_then(OsStr::to_str);
            let digits = name.and_then(|name| name.strip_prefix(self.letter()));
            numbers.extend(digits.and_then(|digits| digits.parse::<u64>().ok()));
        }
        Ok(numbers)
    }
}
