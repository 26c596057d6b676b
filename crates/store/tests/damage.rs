//! Whatever happens to its files, a log refuses or gives a prefix of what was appended.

use std::fs;
use std::path::{Path, PathBuf};

use atoll_store::{FileLog, Log, LogOptions, Replay, StoreError};
use proptest::prelude::*;

const SMALL: LogOptions = LogOptions {
    segment_bytes: 160,
    max_record_bytes: 1024,
    salt: 7,
    first: 1,
    reserve_bytes: 0,
    min_free_bytes: 0,
};
const FRAME_BYTES: usize = 16;
const HEADER_BYTES: usize = 36;

fn sample() -> Vec<Vec<u8>> {
    let sizes = [20, 0, 33, 40, 20, 20, 7, 64, 1, 50, 7, 1, 2];
    sizes.iter().zip(1..).map(|(size, fill)| vec![fill; *size]).collect()
}

fn write_log(dir: &Path, records: &[Vec<u8>]) {
    let mut log = FileLog::open(dir, SMALL).unwrap();
    for record in records {
        log.append(record).unwrap();
    }
    log.sync().unwrap();
}

fn reopen(dir: &Path) -> Result<(FileLog, Vec<Vec<u8>>), StoreError> {
    let log = FileLog::open(dir, SMALL)?;
    let mut records = Vec::new();
    log.replay::<StoreError>(1, &mut |number, record| {
        records.push(record.to_vec());
        assert_eq!(number, records.len() as u64);
        Ok(())
    })?;
    Ok((log, records))
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.filter(|p| p.extension().is_some_and(|e| e == "log")).collect();
    files.sort();
    files
}

fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    segments(dir).into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

fn restore(dir: &Path, files: &[(PathBuf, Vec<u8>)]) {
    for path in segments(dir) {
        fs::remove_file(path).unwrap();
    }
    for (path, bytes) in files {
        fs::write(path, bytes).unwrap();
    }
}

fn assert_corrupt(dir: &Path, file: &Path) {
    match reopen(dir) {
        Err(error @ StoreError::Corrupt { .. }) => {
            let text = error.to_string();
            assert!(text.contains(file.to_str().unwrap()), "{text}");
            assert!(text.contains("restore it from a replica"), "{text}");
        }
        other => panic!("accepted damage to {}: {other:?}", file.display()),
    }
}

#[test]
fn a_tail_torn_at_any_byte_is_cut_and_the_log_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let records = sample();
    write_log(dir.path(), &records);
    let whole = contents(dir.path());
    let (path, bytes) = whole.last().unwrap();
    let last = bytes.len() - FRAME_BYTES - records.last().unwrap().len();
    for size in last..bytes.len() {
        restore(dir.path(), &whole);
        fs::write(path, &bytes[..size]).unwrap();
        let (mut log, found) = reopen(dir.path()).unwrap();
        assert_eq!(found, records[..records.len() - 1]);
        let cut = (size > last).then(|| (path.clone(), last as u64));
        assert_eq!(log.opened().cut_bytes, (size - last) as u64);
        assert_eq!(log.opened().cut, cut);
        assert_eq!(log.append(b"again").unwrap(), records.len() as u64);
        log.sync().unwrap();
        drop(log);
        let (log, found) = reopen(dir.path()).unwrap();
        assert_eq!((log.opened().cut_bytes, found.last().unwrap().as_slice()), (0, &b"again"[..]));
    }
}

#[test]
fn a_tail_of_zeros_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    write_log(dir.path(), &sample());
    let (path, mut bytes) = contents(dir.path()).pop().unwrap();
    bytes.extend_from_slice(&[0; 4096]);
    fs::write(&path, bytes).unwrap();
    let (log, found) = reopen(dir.path()).unwrap();
    assert_eq!((log.opened().cut_bytes, found), (4096, sample()));
}

#[test]
fn a_segment_whose_creation_was_interrupted_is_made_again() {
    for size in 0..HEADER_BYTES {
        for old in [0, 4] {
            let dir = tempfile::tempdir().unwrap();
            write_log(dir.path(), &sample()[..old]);
            let torn = dir.path().join(format!("{:020}.log", old + 1));
            let header = &contents(dir.path())[0].1[..size];
            fs::write(&torn, header).unwrap();
            let (mut log, found) = reopen(dir.path()).unwrap();
            assert_eq!((found.as_slice(), log.opened().cut_bytes), (&sample()[..old], size as u64));
            log.append(b"again").unwrap();
            drop(log);
            assert_eq!(reopen(dir.path()).unwrap().1.len(), old + 1);
        }
    }
}

#[test]
fn every_flipped_bit_is_refused_or_cut_with_the_tail() {
    let dir = tempfile::tempdir().unwrap();
    let records = sample();
    write_log(dir.path(), &records);
    let whole = contents(dir.path());
    let last_frames = whole.last().unwrap().1.len() - HEADER_BYTES;
    assert!(whole.len() >= 3 && last_frames > 50 + 4 * FRAME_BYTES, "the layout is interesting");
    for (file, (path, bytes)) in whole.iter().enumerate() {
        let tail = bytes.len() - FRAME_BYTES - records.last().unwrap().len();
        for bit in 0..bytes.len() * 8 {
            restore(dir.path(), &whole);
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            fs::write(path, &flipped).unwrap();
            if file + 1 == whole.len() && bit / 8 >= tail {
                let (log, found) = reopen(dir.path()).unwrap();
                assert_eq!(found, records[..records.len() - 1], "bit {bit}");
                assert_eq!(log.opened().cut_bytes, (bytes.len() - tail) as u64);
            } else {
                assert_corrupt(dir.path(), path);
                assert_eq!(fs::read(path).unwrap(), flipped, "a refusal changes nothing");
            }
        }
    }
}

#[test]
fn damage_since_the_opening_is_found_by_replay() {
    let dir = tempfile::tempdir().unwrap();
    write_log(dir.path(), &sample());
    let (log, _) = reopen(dir.path()).unwrap();
    for (path, bytes) in contents(dir.path()) {
        for byte in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[byte] ^= 0x10;
            fs::write(&path, &flipped).unwrap();
            let mut seen = Vec::new();
            let result = log.replay(1, &mut |_, record| {
                seen.push(record.to_vec());
                Ok::<_, StoreError>(())
            });
            assert!(matches!(result, Err(StoreError::Corrupt { .. })), "byte {byte}: {result:?}");
            assert!(sample().starts_with(&seen));
        }
        fs::write(&path, &bytes).unwrap();
    }
}

#[test]
fn a_segment_that_lost_whole_records_since_the_opening_is_found_by_replay() {
    let dir = tempfile::tempdir().unwrap();
    write_log(dir.path(), &sample());
    let (log, _) = reopen(dir.path()).unwrap();
    for (path, bytes) in contents(dir.path()) {
        fs::write(&path, &bytes[..HEADER_BYTES]).unwrap();
        let result = log.replay::<StoreError>(1, &mut |_, _| Ok(()));
        assert!(matches!(result, Err(StoreError::Corrupt { .. })), "{result:?}");
        fs::write(&path, &bytes).unwrap();
    }
}

#[test]
fn records_swapped_moved_or_left_out_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    write_log(dir.path(), &[vec![1; 8], vec![2; 8], vec![3; 8]]);
    let (path, bytes) = contents(dir.path()).pop().unwrap();
    let (header, body) = bytes.split_at(HEADER_BYTES);
    let [a, b, c] = [0, 1, 2].map(|i| &body[i * 24..(i + 1) * 24]);
    for order in [[b, a, c], [a, c, b], [a, a, b], [c, b, a]] {
        fs::write(&path, [header, &order.concat()].concat()).unwrap();
        assert_corrupt(dir.path(), &path);
    }
    for order in [[a, c], [b, c], [a, a]] {
        fs::write(&path, [header, &order.concat()].concat()).unwrap();
        assert_corrupt(dir.path(), &path);
    }
}

#[test]
fn segments_missing_swapped_or_of_another_log_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    write_log(dir.path(), &sample());
    let whole = contents(dir.path());
    for missing in 0..whole.len() - 1 {
        restore(dir.path(), &whole);
        fs::remove_file(&whole[missing].0).unwrap();
        assert_corrupt(dir.path(), &whole[missing + 1].0);
    }
    restore(dir.path(), &whole);
    fs::write(&whole[1].0, &whole[0].1).unwrap();
    assert_corrupt(dir.path(), &whole[1].0);

    let other = tempfile::tempdir().unwrap();
    let mut different = sample();
    different[0][0] ^= 1;
    write_log(other.path(), &different);
    restore(dir.path(), &whole);
    fs::write(&whole[1].0, &contents(other.path())[1].1).unwrap();
    assert_corrupt(dir.path(), &whole[1].0);

    restore(dir.path(), &whole);
    fs::write(dir.path().join("old.log"), b"").unwrap();
    assert_corrupt(dir.path(), &dir.path().join("old.log"));
}

#[test]
fn a_record_of_another_log_inside_a_torn_one_is_not_taken_for_a_whole_record() {
    let attacker = tempfile::tempdir().unwrap();
    let guess = LogOptions { salt: 8, ..SMALL };
    FileLog::open(attacker.path(), guess).unwrap().append(b"fake").unwrap();
    let fake = contents(attacker.path())[0].1[HEADER_BYTES..].to_vec();

    let dir = tempfile::tempdir().unwrap();
    write_log(dir.path(), &[b"first".to_vec(), [fake, vec![0; 9]].concat()]);
    let (path, bytes) = contents(dir.path()).pop().unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    assert_eq!(reopen(dir.path()).unwrap().1, [b"first"]);
}

#[derive(Clone, Debug)]
enum Damage {
    Truncate { file: usize, size: usize },
    Overwrite { file: usize, offset: usize, bytes: Vec<u8> },
    Copy { file: usize, from: usize, to: usize, size: usize },
    Remove { file: usize },
    Swap { file: usize, with: usize },
}

fn damage() -> impl Strategy<Value = Damage> {
    let (file, offset) = (0usize..8, 0usize..200);
    let some = prop::collection::vec(any::<u8>(), 1..60);
    prop_oneof![
        (file.clone(), offset.clone()).prop_map(|(file, size)| Damage::Truncate { file, size }),
        (file.clone(), offset.clone(), some).prop_map(|(file, offset, bytes)| Damage::Overwrite {
            file,
            offset,
            bytes
        }),
        (file.clone(), offset.clone(), offset, 1usize..100)
            .prop_map(|(file, from, to, size)| { Damage::Copy { file, from, to, size } }),
        file.clone().prop_map(|file| Damage::Remove { file }),
        (file.clone(), file).prop_map(|(file, with)| Damage::Swap { file, with }),
    ]
}

fn inflict(files: &mut Vec<(PathBuf, Vec<u8>)>, damage: Damage) {
    let count = files.len();
    if count == 0 {
        return;
    }
    match damage {
        Damage::Truncate { file, size } => files[file % count].1.truncate(size),
        Damage::Overwrite { file, offset, bytes } => {
            put(&mut files[file % count].1, offset, &bytes)
        }
        Damage::Copy { file, from, to, size } => {
            let target = &mut files[file % count].1;
            let piece: Vec<u8> = target.iter().skip(from).take(size).copied().collect();
            put(target, to, &piece);
        }
        Damage::Remove { file } => drop(files.remove(file % count)),
        Damage::Swap { file, with } => {
            let bytes = files[file % count].1.clone();
            let other = std::mem::replace(&mut files[with % count].1, bytes);
            files[file % count].1 = other;
        }
    }
}

fn put(target: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let offset = offset.min(target.len());
    let end = target.len().max(offset + bytes.len());
    target.resize(end, 0);
    target[offset..offset + bytes.len()].copy_from_slice(bytes);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_damage_gives_a_refusal_or_a_prefix(
        records in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..70), 0..14),
        damages in prop::collection::vec(damage(), 1..4),
    ) {
        let dir = tempfile::tempdir().unwrap();
        write_log(dir.path(), &records);
        let mut files = contents(dir.path());
        for damage in damages {
            inflict(&mut files, damage);
        }
        restore(dir.path(), &files);
        match reopen(dir.path()) {
            Ok((mut log, found)) => {
                prop_assert!(records.starts_with(&found));
                log.append(b"again").unwrap();
                drop(log);
                prop_assert_eq!(reopen(dir.path()).unwrap().1.len(), found.len() + 1);
            }
            Err(StoreError::Corrupt { .. }) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
}
