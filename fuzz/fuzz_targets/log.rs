//! A log of record whose file has changed: refused, or a beginning of what was appended. An even first
//! byte edits a whole log, an odd one stands for a file that is nothing but the rest.
#![no_main]

mod edits;

use std::{fs, path::PathBuf, sync::LazyLock};

use atoll_store::{FileLog, FrozenLog, Log as _, LogOptions, Replay as _, StoreError};
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

struct Whole {
    dir: TempDir,
    file: PathBuf,
    bytes: Vec<u8>,
}

static WHOLE: LazyLock<Whole> = LazyLock::new(|| {
    let dir =
        tempfile::tempdir_in(if PathBuf::from("/dev/shm").is_dir() { "/dev/shm" } else { "." })
            .expect("a directory");
    let mut log = FileLog::open(dir.path(), LogOptions::default()).expect("a new log");
    for number in 0..RECORDS {
        log.append(&record(number)).expect("room");
    }
    log.sync().expect("a disk");
    drop(log);
    let mut files = fs::read_dir(dir.path()).expect("it is there");
    let file = files
        .find_map(|entry| {
            let path = entry.expect("an entry").path();
            path.extension().is_some_and(|ending| ending == "log").then_some(path)
        })
        .expect("a segment");
    let bytes = fs::read(&file).expect("it is there");
    Whole { dir, file, bytes }
});

const RECORDS: u64 = 12;

fn record(number: u64) -> Vec<u8> {
    (0..number * 7).map(|byte| (byte * 31 + number) as u8).collect()
}

fuzz_target!(|input: &[u8]| {
    let Some((kind, rest)) = input.split_first() else { return };
    let is_edit = kind % 2 == 0;
    let bytes = if is_edit { edits::edit(&WHOLE.bytes, rest) } else { rest.to_vec() };
    fs::write(&WHOLE.file, &bytes).expect("room");
    let Ok(log) = FrozenLog::open(WHOLE.dir.path()) else { return };
    let mut expected = 0;
    let seen = log.replay::<StoreError>(log.first(), &mut |number, bytes| {
        if is_edit {
            assert_eq!((number, bytes), (expected + 1, &record(expected)[..]));
        }
        expected += 1;
        Ok(())
    });
    assert!(!is_edit || expected <= RECORDS && (seen.is_err() || log.next() == expected + 1));
});
