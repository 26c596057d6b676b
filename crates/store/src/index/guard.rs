//! Calls into a database that can meet damage, and may panic on it.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use crate::StoreError;

/// Why a database did not do what it was asked.
pub(super) enum Failure {
    Io(io::Error),
    Damage(String),
}

/// Runs a call into the database `name`. A panic counts as damage.
pub(super) fn guarded<T>(
    name: &str,
    path: &Path,
    op: &'static str,
    f: impl FnOnce() -> Result<T, Failure>,
) -> Result<T, StoreError> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(Failure::Io(e))) if !means_damage(e.kind()) => Err(StoreError::io(op, path, &e)),
        Ok(Err(Failure::Io(e))) => Err(corrupt(path, &format!("{name} could not {op} it: {e}"))),
        Ok(Err(Failure::Damage(e))) => {
            Err(corrupt(path, &format!("{name} could not {op} it: {e}")))
        }
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            let text = text.unwrap_or("no message");
            Err(corrupt(path, &format!("{name} could not {op} it and panicked: {text}")))
        }
    }
}

fn means_damage(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

/// Damage in the index, which can always be rebuilt. Databases do not say where in their files.
pub(super) fn corrupt(path: &Path, what: &str) -> StoreError {
    let what = format!("{what}. Wipe this index and rebuild it from the log");
    StoreError::Corrupt { file: path.to_path_buf(), offset: 0, what }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_a_database_is_damage_and_a_full_disk_is_not() {
        let path = Path::new("index");
        let panicked = guarded::<()>("sled", path, "open", || panic!("page 7 is gone"));
        let text = panicked.unwrap_err().to_string();
        assert!(text.contains("page 7 is gone") && text.contains("rebuild it"), "{text}");
        let full = guarded::<()>("sled", path, "write", || {
            Err(Failure::Io(io::Error::from(io::ErrorKind::StorageFull)))
        });
        assert!(matches!(full, Err(StoreError::Full { .. })), "{full:?}");
    }
}
