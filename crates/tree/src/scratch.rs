//! Where pages go that are not in memory.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Room for pages. What was written may be forgotten when the process ends.
pub trait Scratch: Send {
    /// Fills `into` with what was written at `offset` last.
    ///
    /// # Errors
    /// As of a file. The tree that asked is of no use after one.
    fn read(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()>;

    /// # Errors
    /// As of a file. The tree that wrote is of no use after one.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
}

/// A file. Nothing is synced: the operating system may keep it in memory as long as it likes.
#[derive(Debug)]
pub struct FileScratch(File);

impl FileScratch {
    /// On a file that is open for reading and writing; what is in it is of no interest.
    pub fn new(file: File) -> Self {
        Self(file)
    }
}

impl Scratch for FileScratch {
    fn read(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(into, offset)
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }
}

/// In memory, for tests.
#[derive(Clone, Debug, Default)]
pub struct MemoryScratch(HashMap<u64, Vec<u8>>);

impl Scratch for MemoryScratch {
    fn read(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let bytes = self.0.get(&offset).and_then(|bytes| bytes.get(..into.len()));
        into.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.insert(offset, bytes.to_vec());
        Ok(())
    }
}
