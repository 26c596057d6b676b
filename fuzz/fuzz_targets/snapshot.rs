//! A snapshot whose file has changed is never read as whole. An even first byte edits one, an odd one
//! stands for a file that is nothing but the rest.
#![no_main]

mod edits;

use std::{fs, path::PathBuf, sync::LazyLock};

use atoll_store::{Snapshots, StoreError, read_snapshot};
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

struct Whole {
    _dir: TempDir,
    file: PathBuf,
    bytes: Vec<u8>,
}

static WHOLE: LazyLock<Whole> = LazyLock::new(|| {
    let dir =
        tempfile::tempdir_in(if PathBuf::from("/dev/shm").is_dir() { "/dev/shm" } else { "." })
            .expect("a directory");
    let snapshots = Snapshots::open(dir.path()).expect("a new directory");
    let mut writer = snapshots.begin(7).expect("a file");
    writer.meta(b"what an actor has beside its entries").expect("room");
    for key in 0..40u8 {
        writer.entry(&[key; 5], &vec![key; usize::from(key) * 3]).expect("room");
    }
    writer.finish().expect("room");
    let file = writer.publish().expect("a name");
    let bytes = fs::read(&file).expect("it is there");
    Whole { _dir: dir, file, bytes }
});

fuzz_target!(|input: &[u8]| {
    let Some((kind, rest)) = input.split_first() else { return };
    let bytes = if kind % 2 == 0 { edits::edit(&WHOLE.bytes, rest) } else { rest.to_vec() };
    fs::write(&WHOLE.file, &bytes).expect("room");
    let read = read_snapshot(&WHOLE.file, &mut |_| Ok::<_, StoreError>(()));
    assert!(read.is_err() || bytes == WHOLE.bytes, "a changed snapshot was read");
});
