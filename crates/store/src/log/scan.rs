//! Reading the segments of a log: what is whole, what is a torn tail, what is damage.

use std::fs::{self, File};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::frame::{self, Flaw, HEADER_BYTES, Header};
use crate::StoreError;
use crate::disk;

/// What [`FileLog::open`](super::FileLog::open) found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    pub records: u64,
    pub segments: usize,
    /// Bytes of a torn tail that were cut off; 0 after a clean stop.
    pub cut_bytes: u64,
    /// Where the log was cut.
    pub cut: Option<(PathBuf, u64)>,
}

impl Opened {
    fn torn(&mut self, path: &Path, offset: u64, size: u64) {
        self.cut_bytes = size - offset;
        self.cut = Some((path.to_path_buf(), offset));
    }
}

/// A segment file: the number of its first record, and where it is.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub first: u64,
    pub path: PathBuf,
}

/// The place in a log up to which everything has been verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub salt: u64,
    pub chain: u32,
    /// Number of the next record.
    pub next: u64,
    /// Offset of the next record in the last segment; 0 when that has no header yet.
    pub end: u64,
}

pub(super) fn segment_path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{first:020}.log"))
}

/// The segments in `dir`, oldest first.
pub(super) fn list(dir: &Path) -> Result<Vec<Segment>, StoreError> {
    let mut segments = Vec::new();
    for path in disk::list(dir)? {
        if path.extension().is_none_or(|extension| extension != "log") {
            continue;
        }
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        match stem.and_then(|stem| stem.parse().ok()) {
            Some(first) if segment_path(dir, first) == path => {
                segments.push(Segment { first, path });
            }
            _ => return Err(corrupt(&path, 0, "this name is not that of a segment")),
        }
    }
    segments.sort_by_key(|segment| segment.first);
    Ok(segments)
}

/// Verifies all segments, and cuts a torn tail off the last one if it is to `mend`. `start` is where
/// an empty log starts.
pub(super) fn recover(
    segments: &mut Vec<Segment>,
    start: Position,
    mend: bool,
) -> Result<(Position, Opened), StoreError> {
    let mut at = start;
    let mut opened = Opened::default();
    // Segments before it may have been deleted: what they held is in a snapshot.
    at.next = segments.first().map_or(start.next, |segment| segment.first);
    let first = at.next;
    for (i, segment) in segments.iter().enumerate() {
        let place = Place { first: i == 0, last: i + 1 == segments.len(), mend };
        at = recover_segment(segment, at, place, &mut opened)?;
    }
    if at.end == 0 {
        segments.pop();
    }
    opened.records = at.next - first;
    opened.segments = segments.len();
    Ok((at, opened))
}

/// Where a segment stands, and whether it may be changed.
#[derive(Clone, Copy)]
struct Place {
    first: bool,
    last: bool,
    mend: bool,
}

fn recover_segment(
    segment: &Segment,
    before: Position,
    Place { first, last, mend }: Place,
    opened: &mut Opened,
) -> Result<Position, StoreError> {
    let path = &segment.path;
    let bytes = read(path)?;
    // Records are written only after the header has been synced, so that a bad header with nothing
    // behind it is a segment whose creation was interrupted, and with something behind it damage.
    if last && bytes.len() <= HEADER_BYTES && Header::decode(&bytes).is_err() {
        opened.torn(path, 0, bytes.len() as u64);
        if mend {
            cut(path, 0)?;
        }
        return Ok(Position { end: 0, ..before });
    }
    let at = enter(segment, &bytes, (!first).then_some(before), before.next)?;
    let (at, flaw) = walk(&bytes, at, &mut |_, _| ControlFlow::Continue(()));
    let Some(flaw) = flaw else { return Ok(at) };
    if !last || flaw == Flaw::Misplaced {
        return Err(flawed(path, at, flaw));
    }
    if let Some(offset) = frame::find(at.salt, &bytes, at.end as usize + 1) {
        let what = format!(
            "record {}: {}, and byte {offset} starts a whole record, so that this is not a torn tail",
            at.next,
            flaw.describe()
        );
        return Err(corrupt(path, at.end, &what));
    }
    opened.torn(path, at.end, bytes.len() as u64);
    if mend {
        cut(path, at.end)?;
    }
    Ok(at)
}

/// Checks the header of a segment against what came before it (if known) and its name.
pub(super) fn enter(
    segment: &Segment,
    bytes: &[u8],
    before: Option<Position>,
    next: u64,
) -> Result<Position, StoreError> {
    let path = &segment.path;
    let header = Header::decode(bytes).map_err(|what| corrupt(path, 0, what))?;
    if segment.first != next {
        let what = format!("records {next} to {} are missing", segment.first.saturating_sub(1));
        return Err(corrupt(path, 0, &what));
    }
    let follows = before.is_none_or(|at| at.salt == header.salt && at.chain == header.chain);
    if header.first != next || !follows {
        return Err(corrupt(path, 0, "the segment does not follow from the one before it"));
    }
    Ok(Position { salt: header.salt, chain: header.chain, next, end: HEADER_BYTES as u64 })
}

/// Shows the records from `at` on; returns where it stopped, and the flaw if that is not the end.
pub(super) fn walk(
    bytes: &[u8],
    mut at: Position,
    f: &mut dyn FnMut(u64, &[u8]) -> ControlFlow<()>,
) -> (Position, Option<Flaw>) {
    while (at.end as usize) < bytes.len() {
        let record = match frame::decode(at.salt, at.chain, &bytes[at.end as usize..]) {
            Ok(record) => record,
            Err(flaw) => return (at, Some(flaw)),
        };
        let number = at.next;
        at.chain = record.chain;
        at.next += 1;
        at.end += record.size() as u64;
        if f(number, record.payload).is_break() {
            break;
        }
    }
    (at, None)
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, StoreError> {
    fs::read(path).map_err(|e| StoreError::io("read", path, &e))
}

pub(super) fn flawed(path: &Path, at: Position, flaw: Flaw) -> StoreError {
    corrupt(path, at.end, &format!("record {}: {}", at.next, flaw.describe()))
}

/// Damage in the log of record, which only another copy can mend.
pub(super) fn corrupt(path: &Path, offset: u64, what: &str) -> StoreError {
    let what = format!(
        "{what}. Nothing was changed. Check the disk, move this directory aside, and restore it \
         from a replica or a backup, or start with an empty one to rebuild from peers"
    );
    StoreError::Corrupt { file: path.to_path_buf(), offset, what }
}

/// Takes everything from `offset` on off the file; at 0, the file itself.
fn cut(path: &Path, offset: u64) -> Result<(), StoreError> {
    if offset == 0 {
        let dir = path.parent().expect("a segment is in a directory");
        return disk::remove_file(dir, path);
    }
    let file = File::options().write(true).open(path);
    file.and_then(|file| file.set_len(offset).and_then(|()| file.sync_all()))
        .map_err(|e| StoreError::io("cut the torn tail of", path, &e))
}
