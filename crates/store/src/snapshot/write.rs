use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{FRAME_TARGET, HEADER_BYTES, MAGIC, Summary, VERSION, path_of};
use crate::StoreError;
use crate::disk::Files;
use crate::log::frame;

/// A snapshot being written, under another name than its own.
pub struct SnapshotWriter {
    files: Arc<dyn Files>,
    dir: PathBuf,
    number: u64,
    temp: PathBuf,
    file: File,
    chain: u32,
    bytes: u64,
    entries: u64,
    hasher: blake3::Hasher,
    /// The payload that gathers.
    payload: Vec<u8>,
    frame: Vec<u8>,
    published: bool,
}

impl SnapshotWriter {
    pub(super) fn begin(
        dir: &Path,
        number: u64,
        files: Arc<dyn Files>,
    ) -> Result<Self, StoreError> {
        let temp = path_of(dir, number).with_extension("snap.new");
        let file = files.create(&temp).map_err(|e| StoreError::io("create", &temp, &e))?;
        let mut writer = Self {
            files,
            dir: dir.to_path_buf(),
            number,
            temp,
            file,
            chain: 0,
            bytes: 0,
            entries: 0,
            hasher: blake3::Hasher::new(),
            payload: Vec::new(),
            frame: Vec::new(),
            published: false,
        };
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend_from_slice(&MAGIC);
        header.extend_from_slice(&VERSION.to_le_bytes());
        header.extend_from_slice(&number.to_le_bytes());
        let check = crc32fast::hash(&header);
        header.extend_from_slice(&check.to_le_bytes());
        writer.write(&header)?;
        Ok(writer)
    }

    /// What the owner says of the whole. Comes before all entries.
    ///
    /// # Errors
    /// See [`Snapshots::begin`](super::Snapshots::begin).
    pub fn meta(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        for piece in bytes.chunks(FRAME_TARGET) {
            self.start(b'M')?;
            self.payload.extend_from_slice(piece);
        }
        self.end_frame()
    }

    /// An entry; they come in ascending order of their keys.
    ///
    /// # Errors
    /// See [`Snapshots::begin`](super::Snapshots::begin).
    pub fn entry(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let size = key.len() + value.len() + 8;
        if self.payload.len() + size > FRAME_TARGET || self.payload.first() != Some(&b'E') {
            self.start(b'E')?;
        }
        // Lengths that an index takes fit.
        self.payload.extend_from_slice(&(key.len() as u32).to_le_bytes());
        self.payload.extend_from_slice(&(value.len() as u32).to_le_bytes());
        self.payload.extend_from_slice(key);
        self.payload.extend_from_slice(value);
        self.entries += 1;
        Ok(())
    }

    /// Bytes written so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Ends the file and makes it durable, still under another name.
    ///
    /// # Errors
    /// See [`Snapshots::begin`](super::Snapshots::begin).
    pub fn finish(&mut self) -> Result<Summary, StoreError> {
        self.start(b'Z')?;
        let digest = *self.hasher.finalize().as_bytes();
        self.payload.extend_from_slice(&self.entries.to_le_bytes());
        self.payload.extend_from_slice(&digest);
        self.end_frame()?;
        self.files.sync(&self.file).map_err(|e| StoreError::io("sync", &self.temp, &e))?;
        let Self { number, bytes, entries, .. } = *self;
        Ok(Summary { number, bytes, entries, digest })
    }

    /// Gives it its name. What it stands for has to be durable in the log.
    ///
    /// # Errors
    /// See [`Snapshots::begin`](super::Snapshots::begin).
    pub fn publish(mut self) -> Result<PathBuf, StoreError> {
        let path = path_of(&self.dir, self.number);
        let renamed = self.files.rename(&self.temp, &path);
        renamed.map_err(|e| StoreError::io("rename", &self.temp, &e))?;
        self.published = true;
        self.files.sync_dir(&self.dir).map_err(|e| StoreError::io("sync", &self.dir, &e))?;
        Ok(path)
    }

    fn start(&mut self, kind: u8) -> Result<(), StoreError> {
        self.end_frame()?;
        self.payload.push(kind);
        Ok(())
    }

    fn end_frame(&mut self) -> Result<(), StoreError> {
        if self.payload.is_empty() {
            return Ok(());
        }
        self.hasher.update(&self.payload);
        let mut frame = std::mem::take(&mut self.frame);
        self.chain = frame::encode(self.number, self.chain, &self.payload, &mut frame);
        self.payload.clear();
        let written = self.write(&frame);
        self.frame = frame;
        written
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let written: io::Result<()> = self.files.write(&mut self.file, bytes);
        written.map_err(|e| StoreError::io("write", &self.temp, &e))?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        if !self.published {
            // One that stays is removed at the next start.
            let _ = self.files.remove(&self.temp);
        }
    }
}
