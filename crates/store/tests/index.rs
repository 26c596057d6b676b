//! What an index promises; the same suite for each of them.

use std::fs;
use std::path::{Path, PathBuf};

use atoll_store::{
    Call, Faults, FaultyIndex, Index, MAX_KEY_BYTES, MAX_VALUE_BYTES, MemoryIndex, SledIndex,
    StoreError,
};

const CACHE_BYTES: u64 = 4 << 20;

fn open(dir: &Path) -> SledIndex {
    SledIndex::open(dir, CACHE_BYTES).unwrap()
}

fn entries(index: &dyn Index, prefix: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut entries = Vec::new();
    index
        .scan_prefix(prefix, &mut |key, value| entries.push((key.to_vec(), value.to_vec())))
        .unwrap();
    entries
}

fn check_map(index: &dyn Index) {
    assert_eq!(index.get(b"a").unwrap(), None);
    for (key, value) in [("a1", "x"), ("b", ""), ("a0", "y"), ("a\u{7f}", "z"), ("", "root")] {
        index.put(key.as_bytes(), value.as_bytes()).unwrap();
    }
    index.put(b"a1", b"replaced").unwrap();
    index.delete(b"a0").unwrap();
    index.delete(b"never there").unwrap();
    index.flush().unwrap();
    assert_eq!(index.get(b"a1").unwrap().unwrap(), b"replaced");
    assert_eq!(index.get(b"b").unwrap().unwrap(), b"");
    assert_eq!(index.get(b"a0").unwrap(), None);
    let found = entries(index, b"a");
    assert_eq!(found, [(b"a1".to_vec(), b"replaced".to_vec()), (b"a\x7f".to_vec(), b"z".to_vec())]);
    assert_eq!(entries(index, b"").len(), 4);
    let long = vec![0; MAX_VALUE_BYTES + 1];
    assert!(matches!(index.put(b"k", &long), Err(StoreError::TooLarge { .. })));
    assert!(matches!(index.put(&long[..=MAX_KEY_BYTES], b"v"), Err(StoreError::TooLarge { .. })));
    index.wipe().unwrap();
    assert_eq!(entries(index, b""), []);
    index.put(b"after", b"wipe").unwrap();
    assert_eq!(entries(index, b"").len(), 1);
}

fn check_clean(index: &dyn Index) {
    assert_eq!(index.take_clean().unwrap(), None);
    index.mark_clean(b"record 7").unwrap();
    assert_eq!(index.take_clean().unwrap().unwrap(), b"record 7");
    assert_eq!(index.take_clean().unwrap(), None);
    let writes: [fn(&dyn Index); 3] = [
        |index| index.put(b"k", b"v").unwrap(),
        |index| index.delete(b"k").unwrap(),
        |index| index.wipe().unwrap(),
    ];
    for write in writes {
        index.mark_clean(b"").unwrap();
        write(index);
        assert_eq!(index.take_clean().unwrap(), None, "a write ends a clean stop");
    }
    index.mark_clean(b"").unwrap();
    assert_eq!(index.take_clean().unwrap().unwrap(), b"");
}

#[test]
fn memory_is_a_map_with_a_marker() {
    check_map(&MemoryIndex::new());
    check_clean(&MemoryIndex::new());
}

#[test]
fn sled_is_a_map_with_a_marker() {
    let dir = tempfile::tempdir().unwrap();
    check_map(&open(&dir.path().join("map")));
    check_clean(&open(&dir.path().join("clean")));
}

#[test]
fn sled_comes_back_with_its_entries_and_its_marker() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..10u32 {
        let index = open(dir.path());
        assert_eq!(index.take_clean().unwrap().is_some(), round > 0);
        for old in 0..round * 100 {
            assert_eq!(index.get(&old.to_be_bytes()).unwrap().unwrap(), old.to_le_bytes());
        }
        for new in round * 100..(round + 1) * 100 {
            index.put(&new.to_be_bytes(), &new.to_le_bytes()).unwrap();
        }
        index.mark_clean(b"stopped").unwrap();
    }
}

#[test]
fn a_stop_without_the_marker_is_recognised() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).mark_clean(b"1").unwrap();
    let index = open(dir.path());
    assert_eq!(index.take_clean().unwrap().unwrap(), b"1");
    index.put(b"k", b"v").unwrap();
    index.flush().unwrap();
    drop(index);
    assert_eq!(open(dir.path()).take_clean().unwrap(), None);
}

#[test]
fn a_write_without_taking_the_marker_still_ends_the_clean_stop() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).mark_clean(b"1").unwrap();
    open(dir.path()).put(b"k", b"v").unwrap();
    assert_eq!(open(dir.path()).take_clean().unwrap(), None);
}

#[test]
fn a_damaged_marker_counts_as_none() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(dir.path());
    index.mark_clean(b"record 7").unwrap();
    let path = dir.path().join("clean");
    let whole = fs::read(&path).unwrap();
    for byte in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[byte] ^= 4;
        for damaged in [&flipped[..], &whole[..byte]] {
            fs::write(&path, damaged).unwrap();
            assert_eq!(index.take_clean().unwrap(), None);
            assert!(!path.exists());
        }
    }
}

#[test]
fn a_wrong_value_is_an_error_and_never_an_answer() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(dir.path());
    index.put(b"k", b"value").unwrap();
    index.put(b"j", b"value").unwrap();
    drop(index);
    let sealed = edit_raw(dir.path(), |_, sealed| sealed.to_vec());
    let mut flipped = sealed.clone();
    flipped[6] ^= 1;
    let shorter = sealed[..sealed.len() - 1].to_vec();
    for wrong in [flipped, shorter, vec![1, 2], Vec::new()] {
        edit_raw(dir.path(), |_, _| wrong.clone());
        let index = open(dir.path());
        let refused = index.get(b"k").unwrap_err();
        assert!(matches!(refused, StoreError::Corrupt { .. }), "{refused:?}");
        assert!(refused.to_string().contains("rebuild it from the log"), "{refused}");
        let scanned = index.scan_prefix(b"k", &mut |_, _| panic!("a wrong value was shown"));
        assert!(matches!(scanned, Err(StoreError::Corrupt { .. })));
        drop(index);
        edit_raw(dir.path(), |_, _| sealed.clone());
    }
    edit_raw(dir.path(), |db, _| db.get(b"j").unwrap().unwrap().to_vec());
    assert!(open(dir.path()).get(b"k").is_err(), "the value of another key");
}

/// Replaces the stored form of the value at `k`, behind the back of the index; returns the old one.
fn edit_raw(dir: &Path, edit: impl Fn(&sled::Db, &[u8]) -> Vec<u8>) -> Vec<u8> {
    let db = sled::Config::new().path(dir.join("g1")).flush_every_ms(None).open().unwrap();
    let sealed = db.get(b"k").unwrap().unwrap();
    db.insert(b"k", edit(&db, &sealed)).unwrap();
    db.flush().unwrap();
    drop(db);
    // sled's threads keep the file locked for a while.
    fs::File::open(dir.join("g1/db")).unwrap().lock().unwrap();
    sealed.to_vec()
}

#[test]
fn sled_has_one_owner() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(dir.path());
    let refused = SledIndex::open(dir.path(), CACHE_BYTES).unwrap_err();
    assert_eq!(refused, StoreError::Locked { dir: dir.path().to_path_buf() });
    drop(index);
    open(dir.path());
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.is_file()).collect()
}

#[test]
fn files_that_sled_cannot_read_are_refused_or_harmless_and_a_fresh_start_works() {
    let mut refusals = 0;
    for step in 0..24 {
        let dir = tempfile::tempdir().unwrap();
        let index = open(dir.path());
        for key in 0..200u32 {
            index.put(&key.to_be_bytes(), &[7; 100]).unwrap();
        }
        index.mark_clean(b"").unwrap();
        drop(index);
        for path in files(&dir.path().join("g1")) {
            let mut bytes = fs::read(&path).unwrap();
            let used = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0) + 1;
            let at = used * step / 24;
            let end = (at + 64).min(bytes.len());
            bytes[at..end].fill(0x5a);
            fs::write(&path, bytes).unwrap();
        }
        match SledIndex::open(dir.path(), CACHE_BYTES) {
            Ok(index) => {
                assert_eq!(index.take_clean().unwrap(), None, "damage went unnoticed");
                for key in 0..200u32 {
                    if let Ok(Some(value)) = index.get(&key.to_be_bytes()) {
                        assert_eq!(value, [7; 100]);
                    }
                }
                index.wipe().unwrap();
                assert_eq!(entries(&index, b""), []);
            }
            Err(error) => {
                refusals += 1;
                assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
            }
        }
        let index = SledIndex::open_empty(dir.path(), CACHE_BYTES).unwrap();
        assert_eq!(entries(&index, b""), []);
        assert_eq!(index.take_clean().unwrap(), None);
    }
    assert!(refusals > 0, "the damage reached nothing that sled reads");
}

#[test]
fn a_flipped_bit_in_any_file_ends_the_clean_stop() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(dir.path());
    for key in 0..200u32 {
        index.put(&key.to_be_bytes(), &[7; 100]).unwrap();
    }
    index.mark_clean(b"whole").unwrap();
    drop(index);
    let marker = fs::read(dir.path().join("clean")).unwrap();
    let whole: Vec<_> = files(&dir.path().join("g1"))
        .into_iter()
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    let restore = || {
        fs::remove_dir_all(dir.path().join("g1")).unwrap();
        fs::create_dir_all(dir.path().join("g1/blobs")).unwrap();
        for (path, bytes) in &whole {
            fs::write(path, bytes).unwrap();
        }
        fs::write(dir.path().join("clean"), &marker).unwrap();
    };
    for (damaged, bytes) in &whole {
        for step in 0..16 {
            restore();
            let mut flipped = bytes.clone();
            flipped[bytes.len() * step / 16] ^= 1 << (step % 8);
            fs::write(damaged, flipped).unwrap();
            match SledIndex::open(dir.path(), CACHE_BYTES) {
                Ok(index) => assert_eq!(index.take_clean().unwrap(), None),
                Err(error) => assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}"),
            }
        }
    }
    restore();
    assert_eq!(open(dir.path()).take_clean().unwrap().unwrap(), b"whole");
}

#[test]
fn a_wipe_is_kept_over_a_reopening_and_frees_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(dir.path());
    index.put(b"k", b"v").unwrap();
    index.wipe().unwrap();
    index.put(b"new", b"v").unwrap();
    index.flush().unwrap();
    drop(index);
    assert!(!dir.path().join("g1").exists());
    assert_eq!(entries(&open(dir.path()), b""), [(b"new".to_vec(), b"v".to_vec())]);
}

#[test]
fn a_faulty_index_fails_as_planned() {
    let faults = Faults::new();
    let index = FaultyIndex::new(MemoryIndex::new(), faults.clone());
    let full = StoreError::Full { op: "write", path: "disk".into() };
    faults.fail_from(Call::Put, 2, full.clone());
    assert_eq!(index.put(b"a", b"1"), Ok(()));
    assert_eq!(index.put(b"b", b"2"), Err(full.clone()));
    assert_eq!(index.put(b"b", b"2"), Err(full.clone()));
    assert_eq!(index.get(b"a").unwrap().unwrap(), b"1", "reads go on");
    faults.heal(Call::Put);
    assert_eq!(index.put(b"b", b"2"), Ok(()));
    for call in [Call::Get, Call::Scan, Call::Flush, Call::Wipe, Call::MarkClean, Call::TakeClean] {
        faults.fail(call, 1, full.clone());
    }
    assert_eq!(index.get(b"a"), Err(full.clone()));
    assert_eq!(index.scan_prefix(b"", &mut |_, _| ()), Err(full.clone()));
    assert_eq!(index.flush(), Err(full.clone()));
    assert_eq!(index.wipe(), Err(full.clone()));
    assert_eq!(index.mark_clean(b""), Err(full.clone()));
    assert_eq!(index.take_clean(), Err(full));
    assert_eq!(index.get(b"a").unwrap().unwrap(), b"1", "each fails once");
}
