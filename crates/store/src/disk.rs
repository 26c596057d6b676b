//! The few file operations that decide what is durable.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::StoreError;

/// The file operations of the segment being written; a trait so that tests can make them fail.
pub(crate) trait RawFile: Send {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    fn sync_data(&self) -> io::Result<()>;
    fn set_len(&self, size_bytes: u64) -> io::Result<()>;
}

impl RawFile for File {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }

    fn set_len(&self, size_bytes: u64) -> io::Result<()> {
        File::set_len(self, size_bytes)
    }
}

/// Changes nothing: what would be put in order at a start stays as it is.
pub(crate) struct NoFiles;

impl Files for NoFiles {
    fn create(&self, _: &Path) -> io::Result<File> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn write(&self, _: &mut File, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync(&self, _: &File) -> io::Result<()> {
        Ok(())
    }

    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn remove(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
}

/// Holds a directory for this process alone, until dropped or the process ends.
#[derive(Debug)]
pub(crate) struct DirLock {
    _file: File,
}

impl DirLock {
    /// Creates `dir` if need be and locks it.
    pub(crate) fn take(dir: &Path) -> Result<Self, StoreError> {
        create_dir(dir)?;
        let path = dir.join("lock");
        let mut options = File::options();
        options.create(true).truncate(false).write(true);
        let file = options.open(&path).map_err(|e| StoreError::io("open", &path, &e))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(StoreError::Locked { dir: dir.to_path_buf() }),
            Err(TryLockError::Error(e)) => Err(StoreError::io("lock", &path, &e)),
        }
    }
}

const EIO: i32 = rustix::io::Errno::IO.raw_os_error();

/// Creates `dir` and what is missing above it, so that a power cut does not take it away again: nor
/// what somebody else has made, or an earlier process that was killed before it could sync.
pub(crate) fn create_dir(dir: &Path) -> Result<(), StoreError> {
    let Some(parent) = dir.parent() else { return Ok(()) };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let is_there = dir.is_dir();
    if parent != Path::new(".") {
        create_dir(parent)?;
    }
    match fs::create_dir(dir) {
        Err(e) if !is_there && e.kind() != io::ErrorKind::AlreadyExists => {
            Err(StoreError::io("create", dir, &e))
        }
        _ => match sync_dir(parent) {
            // Above what is ours, where it may not be allowed or known.
            Err(e) if is_there && e.raw_os_error() != Some(EIO) => Ok(()),
            synced => synced.map_err(|e| StoreError::io("sync", parent, &e)),
        },
    }
}

/// Makes names created in or removed from `dir` durable.
pub(crate) fn sync(dir: &Path) -> Result<(), StoreError> {
    sync_dir(dir).map_err(|e| StoreError::io("sync", dir, &e))
}

pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir).and_then(|dir| dir.sync_all())
}

/// Room on the volume of a directory; `None` if it does not say.
pub(crate) fn free_bytes(dir: &Path) -> Option<u64> {
    let volume = rustix::fs::statvfs(dir).ok()?;
    volume.f_bavail.checked_mul(volume.f_frsize)
}

/// The file operations that a snapshot is made with; a trait so that tests can make them fail.
pub trait Files: Send + Sync {
    fn create(&self, path: &Path) -> io::Result<File>;
    fn write(&self, file: &mut File, bytes: &[u8]) -> io::Result<()>;
    fn sync(&self, file: &File) -> io::Result<()>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
}

/// The file system as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFiles;

impl Files for RealFiles {
    fn create(&self, path: &Path) -> io::Result<File> {
        File::create(path)
    }

    fn write(&self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        io::Write::write_all(file, bytes)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        sync_dir(dir)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }
}

/// Makes every file below `dir`, and every name, durable. A file that is removed meanwhile, as sled does
/// in the background, may have given its content to a new one: then it begins again.
pub(crate) fn sync_tree(dir: &Path) -> Result<(), StoreError> {
    const TRIES: u32 = 16;
    for _ in 1..TRIES {
        match sync_below(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            ended => return ended.map_err(|error| StoreError::io("sync", dir, &error)),
        }
    }
    sync_below(dir).map_err(|error| StoreError::io("sync", dir, &error))
}

fn sync_below(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_below(&entry.path())?;
        } else {
            File::open(entry.path())?.sync_all()?;
        }
    }
    File::open(dir)?.sync_all()
}

/// All files below `dir`, in the order of their names.
pub(crate) fn files_below(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let mut files = Vec::new();
    for path in list(dir)? {
        if path.is_dir() {
            files.extend(files_below(&path)?);
        } else {
            files.push(path);
        }
    }
    Ok(files)
}

/// What is in `dir`, in the order of names.
pub(crate) fn list(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let entries = fs::read_dir(dir).map_err(|e| StoreError::io("list", dir, &e))?;
    let paths: io::Result<Vec<_>> = entries.map(|entry| Ok(entry?.path())).collect();
    let mut paths = paths.map_err(|e| StoreError::io("list", dir, &e))?;
    paths.sort();
    Ok(paths)
}

/// Removes the file at `path` durably; nothing happens if there is none.
pub(crate) fn remove_file(dir: &Path, path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(StoreError::io("remove", path, &e)),
        Ok(()) => sync(dir),
    }
}
