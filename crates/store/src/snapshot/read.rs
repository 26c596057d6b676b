use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use super::{HEADER_BYTES, MAGIC, MAX_FRAME, REMEDY, Summary, VERSION};
use crate::StoreError;
use crate::log::frame::{self, FRAME_BYTES, Flaw};

/// What a snapshot holds, in the order of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A piece of what its owner says of the whole.
    Meta(&'a [u8]),
    Entry(&'a [u8], &'a [u8]),
}

/// Reads a snapshot through. What `on` is shown is whole, but only the summary says that all is.
///
/// # Errors
/// [`StoreError::Corrupt`] where it is not what was written, and the errors of `on`.
pub fn read<E: From<StoreError>>(
    path: &Path,
    on: &mut dyn FnMut(Item<'_>) -> Result<(), E>,
) -> Result<Summary, E> {
    let file = File::open(path).map_err(|e| StoreError::io("open", path, &e))?;
    let mut reader = Reader { path, input: BufReader::new(file), at: 0, buffer: Vec::new() };
    let number = reader.header()?;
    let (mut chain, mut entries) = (0, 0);
    let mut hasher = blake3::Hasher::new();
    let mut last: Vec<u8> = Vec::new();
    loop {
        let start = reader.at;
        chain = reader.frame(number, chain)?;
        let payload = &reader.buffer[FRAME_BYTES..];
        match payload.split_first() {
            Some((b'Z', end)) => {
                let said = end.split_first_chunk::<8>();
                let holds = said.is_some_and(|(count, digest)| {
                    u64::from_le_bytes(*count) == entries
                        && *digest == *hasher.finalize().as_bytes()
                });
                if !holds {
                    return Err(reader.corrupt(start, "its end is not that of its content").into());
                }
                break;
            }
            Some((b'M', piece)) => on(Item::Meta(piece))?,
            Some((b'E', mut rest)) => {
                while let Some((key, value, more)) = entry(rest) {
                    if entries > 0 && key <= &last[..] {
                        return Err(reader.corrupt(start, "entries are out of order").into());
                    }
                    on(Item::Entry(key, value))?;
                    last.clear();
                    last.extend_from_slice(key);
                    entries += 1;
                    rest = more;
                }
                if !rest.is_empty() {
                    return Err(reader.corrupt(start, "an entry is incomplete").into());
                }
            }
            _ => return Err(reader.corrupt(start, "a frame of an unknown kind").into()),
        }
        hasher.update(payload);
    }
    let bytes = reader.at;
    if reader.more()? {
        return Err(reader.corrupt(bytes, "something follows its end").into());
    }
    Ok(Summary { number, bytes, entries, digest: *hasher.finalize().as_bytes() })
}

struct Reader<'a> {
    path: &'a Path,
    input: BufReader<File>,
    at: u64,
    /// The newest frame, with its head.
    buffer: Vec<u8>,
}

impl Reader<'_> {
    fn header(&mut self) -> Result<u64, StoreError> {
        let mut header = [0; HEADER_BYTES];
        if !self.fill(&mut header)? {
            return Err(self.corrupt(0, "its header is incomplete"));
        }
        let (body, check) = header.split_at(HEADER_BYTES - 4);
        if crc32fast::hash(body).to_le_bytes() != check {
            return Err(self.corrupt(0, "its header does not match its checksum"));
        }
        if body[..8] != MAGIC {
            return Err(self.corrupt(0, "this is no snapshot of Atoll"));
        }
        if body[8..12] != VERSION.to_le_bytes() {
            return Err(self.corrupt(0, "it was written by another version of the software"));
        }
        let number = body[12..].try_into().map(u64::from_le_bytes);
        let number = number.map_err(|_| self.corrupt(0, "its header is incomplete"))?;
        let named = self.path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
        if named.is_some_and(|named| named != number) {
            return Err(self.corrupt(0, "its name is that of another snapshot"));
        }
        Ok(number)
    }

    fn frame(&mut self, salt: u64, chain: u32) -> Result<u32, StoreError> {
        let start = self.at;
        let mut head = [0; FRAME_BYTES];
        if !self.fill(&mut head)? {
            return Err(self.corrupt(start, "it ends before its end"));
        }
        let flawed = |this: &Self, flaw: Flaw| this.corrupt(start, flaw.describe());
        let size = frame::payload_len(salt, &head).map_err(|flaw| flawed(self, flaw))?;
        if size > MAX_FRAME {
            return Err(self.corrupt(start, "a frame is longer than any may be"));
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        buffer.extend_from_slice(&head);
        buffer.resize(FRAME_BYTES + size, 0);
        let filled = self.fill(&mut buffer[FRAME_BYTES..]);
        self.buffer = buffer;
        if !filled? {
            return Err(self.corrupt(start, "it ends within a frame"));
        }
        let decoded = frame::decode(salt, chain, &self.buffer).map(|record| record.chain);
        decoded.map_err(|flaw| flawed(self, flaw))
    }

    /// False if the file ends before.
    fn fill(&mut self, bytes: &mut [u8]) -> Result<bool, StoreError> {
        match self.input.read_exact(bytes) {
            Ok(()) => {
                self.at += bytes.len() as u64;
                Ok(true)
            }
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(e) => Err(StoreError::io("read", self.path, &e)),
        }
    }

    fn more(&mut self) -> Result<bool, StoreError> {
        self.fill(&mut [0])
    }

    fn corrupt(&self, offset: u64, what: &str) -> StoreError {
        let what = format!("{what}. {REMEDY}");
        StoreError::Corrupt { file: self.path.to_path_buf(), offset, what }
    }
}

/// The first entry of a payload, and what follows it.
fn entry(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (key, rest) = bytes.split_first_chunk::<4>()?;
    let (value, rest) = rest.split_first_chunk::<4>()?;
    let (key, rest) = rest.split_at_checked(u32::from_le_bytes(*key) as usize)?;
    let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*value) as usize)?;
    Some((key, value, rest))
}
