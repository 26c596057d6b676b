//! The bytes of a segment: a header, then framed records. All numbers are little endian.
//!
//! ```text
//! header  magic 8 | version u32 | first record u64 | chain u32 | salt u64 | check u32
//! record  length u32 | chain u32 | crc u32 | check u32 | payload
//! ```
//!
//! `crc` covers the salt of the log, the chain value and the payload; `chain` is the crc of the
//! record before (0 for the first), so that a record cannot be left out, moved or swapped. `check`
//! covers what stands before it, and for a record the salt: a length is believed only with it, and
//! any record can be recognised without knowing the one before. That is how a torn tail (nothing
//! recognisable after it) is told from damage in the middle.

use crc32fast::Hasher;

pub(super) const HEADER_BYTES: usize = 36;
pub(crate) const FRAME_BYTES: usize = 16;

const MAGIC: [u8; 8] = *b"ATOLLLOG";
const VERSION: u32 = 2;

/// What a segment says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Number of the first record in it.
    pub first: u64,
    /// Chain value before that record.
    pub chain: u32,
    pub salt: u64,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.first.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.chain.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.salt.to_le_bytes());
        let check = crc32fast::hash(&bytes[..32]);
        bytes[32..].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        if bytes.len() < HEADER_BYTES {
            return Err("the header of the segment is incomplete");
        }
        if crc32fast::hash(&bytes[..32]) != u32_at(bytes, 32) {
            return Err("the header of the segment does not match its checksum");
        }
        if bytes[..8] != MAGIC {
            return Err("this is not a segment of an Atoll log");
        }
        if u32_at(bytes, 8) != VERSION {
            return Err("this log was written by another version of the software");
        }
        Ok(Self { first: u64_at(bytes, 12), chain: u32_at(bytes, 20), salt: u64_at(bytes, 24) })
    }
}

/// Why the bytes at an offset are not the record expected there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    Incomplete,
    Frame,
    Payload,
    /// A whole record, but not the one that follows the record before.
    Misplaced,
}

impl Flaw {
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Incomplete => "the record is incomplete",
            Self::Frame => "the length of the record does not match its checksum",
            Self::Payload => "the record does not match its checksum",
            Self::Misplaced => "the record does not follow from the one before it",
        }
    }
}

/// A record as found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'a> {
    pub payload: &'a [u8],
    /// Chain value before it, as it says itself.
    prev: u32,
    /// Chain value after it.
    pub chain: u32,
}

impl Record<'_> {
    pub(super) fn size(&self) -> usize {
        FRAME_BYTES + self.payload.len()
    }
}

/// Puts the framed `payload` into `frame` (replacing what was there); returns the new chain value.
pub(crate) fn encode(salt: u64, chain: u32, payload: &[u8], frame: &mut Vec<u8>) -> u32 {
    let size = u32::try_from(payload.len()).expect("the caller has checked it against a u32");
    let crc = payload_crc(salt, chain, payload);
    frame.clear();
    frame.extend_from_slice(&size.to_le_bytes());
    frame.extend_from_slice(&chain.to_le_bytes());
    frame.extend_from_slice(&crc.to_le_bytes());
    let check = frame_check(salt, frame);
    frame.extend_from_slice(&check.to_le_bytes());
    frame.extend_from_slice(payload);
    crc
}

/// The record at the start of `bytes` that follows `chain`.
pub(crate) fn decode(salt: u64, chain: u32, bytes: &[u8]) -> Result<Record<'_>, Flaw> {
    let record = recognise(salt, bytes)?;
    if record.prev == chain { Ok(record) } else { Err(Flaw::Misplaced) }
}

/// The length of the payload behind a head, for whoever reads a stream.
pub(crate) fn payload_len(salt: u64, head: &[u8; FRAME_BYTES]) -> Result<usize, Flaw> {
    let whole = frame_check(salt, &head[..12]) == u32_at(head, 12);
    whole.then(|| u32_at(head, 0) as usize).ok_or(Flaw::Frame)
}

/// Offset of the first whole record of this log at or after `from`, whatever precedes it.
pub(super) fn find(salt: u64, bytes: &[u8], from: usize) -> Option<usize> {
    (from..bytes.len().saturating_sub(FRAME_BYTES - 1))
        .find(|offset| recognise(salt, &bytes[*offset..]).is_ok())
}

fn recognise(salt: u64, bytes: &[u8]) -> Result<Record<'_>, Flaw> {
    let (frame, rest) = bytes.split_at_checked(FRAME_BYTES).ok_or(Flaw::Incomplete)?;
    if frame_check(salt, &frame[..12]) != u32_at(frame, 12) {
        return Err(Flaw::Frame);
    }
    let (size, prev, crc) = (u32_at(frame, 0), u32_at(frame, 4), u32_at(frame, 8));
    let payload = rest.get(..size as usize).ok_or(Flaw::Incomplete)?;
    if payload_crc(salt, prev, payload) != crc {
        return Err(Flaw::Payload);
    }
    Ok(Record { payload, prev, chain: crc })
}

fn payload_crc(salt: u64, chain: u32, payload: &[u8]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(&salt.to_le_bytes());
    hasher.update(&chain.to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

fn frame_check(salt: u64, frame: &[u8]) -> u32 {
    let mut bytes = [0; 20];
    bytes[..8].copy_from_slice(&salt.to_le_bytes());
    bytes[8..].copy_from_slice(frame);
    crc32fast::hash(&bytes)
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().expect("eight bytes"))
}
