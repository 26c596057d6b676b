//! What an index promises; the same suite for each of them.

use std::fs;
use std::path::{Path, PathBuf};

use std::sync::Arc;

use atoll_store::{
    Backend, Call, Faults, FaultyIndex, Index, MAX_KEY_BYTES, MAX_VALUE_BYTES, MemoryIndex,
    StoreError,
};

const CACHE_BYTES: u64 = 4 << 20;

fn open(backend: Backend, dir: &Path) -> Arc<dyn Index> {
    backend.open(dir, CACHE_BYTES).unwrap()
}

/// Runs a test for each backend, in a directory of its own.
fn each(test: impl Fn(Backend, &Path)) {
    for backend in Backend::ALL {
        println!("{backend:?}");
        let dir = tempfile::tempdir().unwrap();
        test(backend, dir.path());
    }
}

/// Where the first files of a backend are, and where those after a wipe.
fn generation(backend: Backend, dir: &Path, number: u64) -> PathBuf {
    let letter = match backend {
        Backend::Sled => 'g',
        Backend::Redb => 'r',
    };
    dir.join(format!("{letter}{number}"))
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
fn each_backend_is_a_map_with_a_marker() {
    each(|backend, dir| {
        check_map(&*open(backend, &dir.join("map")));
        check_clean(&*open(backend, &dir.join("clean")));
    });
}

#[test]
fn each_comes_back_with_its_entries_and_its_marker() {
    each(comes_back);
}

fn comes_back(backend: Backend, dir: &Path) {
    for round in 0..10u32 {
        let index = open(backend, dir);
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
    each(|backend, dir| {
        open(backend, dir).mark_clean(b"1").unwrap();
        let index = open(backend, dir);
        assert_eq!(index.take_clean().unwrap().unwrap(), b"1");
        index.put(b"k", b"v").unwrap();
        index.flush().unwrap();
        drop(index);
        assert_eq!(open(backend, dir).take_clean().unwrap(), None);
    });
}

#[test]
fn a_write_without_taking_the_marker_still_ends_the_clean_stop() {
    each(|backend, dir| {
        open(backend, dir).mark_clean(b"1").unwrap();
        open(backend, dir).put(b"k", b"v").unwrap();
        assert_eq!(open(backend, dir).take_clean().unwrap(), None);
    });
}

#[test]
fn an_index_that_was_marked_goes_on() {
    each(|backend, dir| {
        let index = open(backend, dir);
        index.put(b"k", b"v").unwrap();
        index.mark_clean(b"1").unwrap();
        assert_eq!(index.get(b"k").unwrap().unwrap(), b"v");
        assert_eq!(entries(&*index, b"").len(), 1);
        index.put(b"l", b"w").unwrap();
        assert_eq!(index.take_clean().unwrap(), None);
        index.mark_clean(b"2").unwrap();
        drop(index);
        let index = open(backend, dir);
        assert_eq!(index.take_clean().unwrap().unwrap(), b"2");
        assert_eq!(entries(&*index, b"").len(), 2);
    });
}

#[test]
fn who_reads_meanwhile_sees_each_write_whole() {
    each(|backend, dir| {
        let index = open(backend, dir);
        let value = |round: u32| [&round.to_be_bytes()[..], &[7; 4_000]].concat();
        let keys: Vec<_> = (0..100u32).map(u32::to_be_bytes).collect();
        keys.iter().for_each(|key| index.put(key, &value(0)).unwrap());
        std::thread::scope(|threads| {
            let writer = threads.spawn(|| {
                for round in 1..=20 {
                    keys.iter().for_each(|key| index.put(key, &value(round)).unwrap());
                }
            });
            let mut seen = vec![0; keys.len()];
            while !writer.is_finished() {
                for (key, seen) in keys.iter().zip(&mut seen) {
                    let held = index.get(key).unwrap().expect("it was never removed");
                    let round = u32::from_be_bytes(held[..4].try_into().unwrap());
                    assert!(round >= *seen, "an older value after a newer one");
                    *seen = round;
                }
                assert_eq!(index.scan_after(&[], 200).unwrap().len(), keys.len());
            }
        });
    });
}

#[test]
fn the_files_of_another_backend_are_of_no_use() {
    for (one, other) in [(Backend::Sled, Backend::Redb), (Backend::Redb, Backend::Sled)] {
        let dir = tempfile::tempdir().unwrap();
        let index = open(one, dir.path());
        index.put(b"k", b"v").unwrap();
        index.mark_clean(b"1").unwrap();
        drop(index);
        assert_eq!(Backend::found(dir.path()).unwrap(), Some(one));
        assert_eq!(one.is_as_left(dir.path()).unwrap(), Some(true));
        let index = open(other, dir.path());
        assert_eq!(index.take_clean().unwrap(), None);
        assert_eq!(entries(&*index, b""), []);
        assert!(!generation(one, dir.path(), 1).exists());
        assert_eq!(Backend::found(dir.path()).unwrap(), Some(other));
    }
}

#[test]
fn a_damaged_marker_counts_as_none() {
    each(|backend, dir| {
        let index = open(backend, dir);
        index.mark_clean(b"record 7").unwrap();
        let path = dir.join("clean");
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
    });
}

#[test]
fn a_wrong_value_is_an_error_and_never_an_answer() {
    each(wrong_values);
}

fn wrong_values(backend: Backend, dir: &Path) {
    let index = open(backend, dir);
    index.put(b"k", b"value").unwrap();
    index.put(b"j", b"value").unwrap();
    drop_marked(index);
    let sealed = edit_raw(backend, dir, &|_, sealed| sealed.to_vec());
    let mut flipped = sealed.clone();
    flipped[6] ^= 1;
    let shorter = sealed[..sealed.len() - 1].to_vec();
    for wrong in [flipped, shorter, vec![1, 2], Vec::new()] {
        edit_raw(backend, dir, &|_, _| wrong.clone());
        let index = open(backend, dir);
        let refused = index.get(b"k").unwrap_err();
        assert!(matches!(refused, StoreError::Corrupt { .. }), "{refused:?}");
        assert!(refused.to_string().contains("rebuild it from the log"), "{refused}");
        let scanned = index.scan_prefix(b"k", &mut |_, _| panic!("a wrong value was shown"));
        assert!(matches!(scanned, Err(StoreError::Corrupt { .. })));
        drop_marked(index);
        edit_raw(backend, dir, &|_, _| sealed.clone());
    }
    edit_raw(backend, dir, &|other, _| other.to_vec());
    assert!(open(backend, dir).get(b"k").is_err(), "the value of another key");
}

fn drop_marked(index: Arc<dyn Index>) {
    index.mark_clean(b"").unwrap();
}

/// Gets the stored forms of the values at `j` and `k`.
type Edit<'a> = &'a dyn Fn(&[u8], &[u8]) -> Vec<u8>;

/// Replaces the stored form of the value at `k`, behind the back of the index; returns the old one.
/// The marker then fits what it has written.
fn edit_raw(backend: Backend, dir: &Path, edit: Edit<'_>) -> Vec<u8> {
    let path = generation(backend, dir, 1);
    let sealed = match backend {
        Backend::Sled => {
            let db = sled::Config::new().path(&path).flush_every_ms(None).open().unwrap();
            let sealed = db.get(b"k").unwrap().unwrap();
            let other = db.get(b"j").unwrap().unwrap();
            db.insert(b"k", edit(&other, &sealed)).unwrap();
            db.flush().unwrap();
            drop(db);
            // sled's threads keep the file locked for a while.
            fs::File::open(path.join("db")).unwrap().lock().unwrap();
            sealed.to_vec()
        }
        Backend::Redb => edit_redb(&path, edit),
    };
    mark_again(&path, dir);
    sealed
}

fn edit_redb(path: &Path, edit: Edit<'_>) -> Vec<u8> {
    use redb::ReadableTable as _;
    let definition = redb::TableDefinition::<&[u8], &[u8]>::new("entries");
    let db = redb::Database::open(path.join("db")).unwrap();
    let transaction = db.begin_write().unwrap();
    let mut table = transaction.open_table(definition).unwrap();
    let get = |table: &redb::Table<&[u8], &[u8]>, key: &[u8]| -> Vec<u8> {
        table.get(key).unwrap().unwrap().value().to_vec()
    };
    let (other, sealed) = (get(&table, b"j"), get(&table, b"k"));
    table.insert(&b"k"[..], &edit(&other, &sealed)[..]).unwrap();
    drop(table);
    transaction.commit().unwrap();
    db.close().unwrap();
    sealed
}

/// Writes the marker of a clean stop, as `clean.rs` has it, for files as they are.
fn mark_again(path: &Path, dir: &Path) {
    let mut hasher = crc32fast::Hasher::new();
    for file in files(path) {
        let content = fs::read(&file).unwrap();
        hasher.update(file.file_name().unwrap().as_encoded_bytes());
        hasher.update(&content);
        hasher.update(&(content.len() as u64).to_le_bytes());
    }
    let body = hasher.finalize().to_le_bytes();
    let marker = [crc32fast::hash(&body).to_le_bytes(), body].concat();
    fs::write(dir.join("clean"), marker).unwrap();
}

#[test]
fn an_index_has_one_owner() {
    each(|backend, dir| {
        let index = open(backend, dir);
        let refused = backend.open(dir, CACHE_BYTES).err();
        assert_eq!(refused, Some(StoreError::Locked { dir: dir.to_path_buf() }));
        drop(index);
        open(backend, dir);
    });
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.filter(|path| path.is_file()).collect();
    files.sort();
    files
}

#[test]
fn files_that_cannot_be_read_are_refused_or_harmless_and_a_fresh_start_works() {
    let mut refusals = 0;
    for (backend, step) in Backend::ALL.into_iter().flat_map(|b| (0..24).map(move |s| (b, s))) {
        let dir = tempfile::tempdir().unwrap();
        let index = open(backend, dir.path());
        for key in 0..200u32 {
            index.put(&key.to_be_bytes(), &[7; 100]).unwrap();
        }
        index.mark_clean(b"").unwrap();
        drop(index);
        for path in files(&generation(backend, dir.path(), 1)) {
            let mut bytes = fs::read(&path).unwrap();
            let used = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0) + 1;
            let at = used * step / 24;
            let end = (at + 64).min(bytes.len());
            bytes[at..end].fill(0x5a);
            fs::write(&path, bytes).unwrap();
        }
        match backend.open(dir.path(), CACHE_BYTES) {
            Ok(index) => {
                assert_eq!(index.take_clean().unwrap(), None, "damage went unnoticed");
                for key in 0..200u32 {
                    if let Ok(Some(value)) = index.get(&key.to_be_bytes()) {
                        assert_eq!(value, [7; 100]);
                    }
                }
                index.wipe().unwrap();
                assert_eq!(entries(&*index, b""), []);
            }
            Err(error) => {
                refusals += 1;
                assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
            }
        }
        let index = backend.open_empty(dir.path(), CACHE_BYTES).unwrap();
        assert_eq!(entries(&*index, b""), []);
        assert_eq!(index.take_clean().unwrap(), None);
    }
    assert!(refusals > 0, "the damage reached nothing that sled reads");
}

#[test]
fn a_flipped_bit_in_any_file_ends_the_clean_stop() {
    each(flipped_bits);
}

fn flipped_bits(backend: Backend, dir: &Path) {
    let index = open(backend, dir);
    for key in 0..200u32 {
        index.put(&key.to_be_bytes(), &[7; 100]).unwrap();
    }
    index.mark_clean(b"whole").unwrap();
    drop(index);
    let marker = fs::read(dir.join("clean")).unwrap();
    let path = generation(backend, dir, 1);
    let whole: Vec<_> =
        files(&path).into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    let restore = || {
        fs::remove_dir_all(generation(backend, dir, 2)).unwrap_or_default();
        fs::remove_dir_all(&path).unwrap_or_default();
        fs::create_dir_all(&path).unwrap();
        if backend == Backend::Sled {
            fs::create_dir_all(path.join("blobs")).unwrap();
        }
        for (path, bytes) in &whole {
            fs::write(path, bytes).unwrap();
        }
        fs::write(dir.join("clean"), &marker).unwrap();
    };
    for (damaged, bytes) in &whole {
        for step in 0..16 {
            restore();
            let mut flipped = bytes.clone();
            flipped[bytes.len() * step / 16] ^= 1 << (step % 8);
            fs::write(damaged, flipped).unwrap();
            match backend.open(dir, CACHE_BYTES) {
                Ok(index) => assert_eq!(index.take_clean().unwrap(), None),
                Err(error) => assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}"),
            }
        }
    }
    restore();
    assert_eq!(open(backend, dir).take_clean().unwrap().unwrap(), b"whole");
}

#[test]
fn a_wipe_is_kept_over_a_reopening_and_frees_the_files() {
    each(|backend, dir| {
        let index = open(backend, dir);
        index.put(b"k", b"v").unwrap();
        index.wipe().unwrap();
        index.put(b"new", b"v").unwrap();
        drop_marked(index);
        assert!(!generation(backend, dir, 1).exists());
        assert_eq!(entries(&*open(backend, dir), b""), [(b"new".to_vec(), b"v".to_vec())]);
    });
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
