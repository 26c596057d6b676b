//! What a snapshot promises: whole or refused, whatever a crash or the disk has done to it.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use atoll_store::{
    Call, Faults, FaultyFiles, FileLog, Item, Log, LogOptions, MemoryLog, Snapshots, StoreError,
    Summary, read_snapshot,
};

const ENTRIES: u64 = 14;

fn value(number: u64, key: u64) -> Vec<u8> {
    vec![(number + key) as u8; (key * 13 % 50) as usize]
}

fn take(snapshots: &Snapshots, number: u64) -> Result<Summary, StoreError> {
    let mut writer = snapshots.begin(number)?;
    writer.meta(format!("as of {number}").as_bytes())?;
    for key in 0..ENTRIES {
        writer.entry(&key.to_be_bytes(), &value(number, key))?;
    }
    let summary = writer.finish()?;
    writer.publish()?;
    Ok(summary)
}

/// What a snapshot holds, if it is whole.
fn content(path: &Path) -> Result<(String, u64), StoreError> {
    let (mut meta, mut entries) = (Vec::new(), 0);
    let summary = read_snapshot(path, &mut |item| -> Result<(), StoreError> {
        match item {
            Item::Meta(piece) => meta.extend_from_slice(piece),
            Item::Entry(..) => entries += 1,
        }
        Ok(())
    })?;
    assert_eq!(summary.entries, entries);
    Ok((String::from_utf8(meta).unwrap(), entries))
}

fn log_of(records: u64, cut_before: u64) -> MemoryLog {
    let mut log = MemoryLog::new();
    for number in 1..=records {
        log.append(&number.to_le_bytes()).unwrap();
    }
    log.sync().unwrap();
    log.cut(cut_before).unwrap();
    log
}

fn no_damage(_: &atoll_store::Snapshot, error: &StoreError) {
    panic!("{error}");
}

#[test]
fn what_was_written_comes_back_and_old_ones_go() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::open(dir.path()).unwrap();
    assert_eq!(snapshots.newest_whole(&log_of(3, 0), &mut no_damage), Ok(None));
    for number in [5, 9, 12, 20] {
        let summary = take(&snapshots, number).unwrap();
        let (found, same) =
            snapshots.newest_whole(&log_of(30, 0), &mut no_damage).unwrap().unwrap();
        assert_eq!((found.number, same), (number, summary));
        assert_eq!(content(&found.path), Ok((format!("as of {number}"), ENTRIES)));
        let (piece, size) = snapshots.piece(number, 7, 10).unwrap();
        assert_eq!((&piece[..], size), (&fs::read(&found.path).unwrap()[7..17], found.bytes));
        assert_eq!(snapshots.piece(number, size + 3, 10).unwrap().0, Vec::<u8>::new());
    }
    // 9 is spared, and the log is kept for the newest two.
    assert_eq!(snapshots.prune(0, &[9]), Ok(Some(12)));
    let numbers: Vec<_> = snapshots.list().unwrap().iter().map(|found| found.number).collect();
    assert_eq!(numbers, [9, 12, 20]);
}

#[test]
fn one_alone_does_not_let_the_log_go() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::open(dir.path()).unwrap();
    take(&snapshots, 5).unwrap();
    assert_eq!(snapshots.prune(2, &[]), Ok(None));
}

#[test]
fn a_snapshot_and_a_log_that_do_not_join_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::open(dir.path()).unwrap();
    take(&snapshots, 10).unwrap();
    for (log, joins) in [
        (log_of(9, 0), true),
        (log_of(30, 10), true),
        (log_of(8, 0), false),
        (log_of(30, 11), false),
    ] {
        let found = snapshots.newest_whole(&log, &mut no_damage);
        assert_eq!(found.is_ok(), joins, "{found:?}");
    }
    let alone = Snapshots::open(&dir.path().join("none")).unwrap();
    let error = alone.newest_whole(&log_of(30, 11), &mut no_damage).unwrap_err().to_string();
    assert!(error.contains("record 11") && error.contains("atoll restore"), "{error}");
}

/// A failure at each step of taking a snapshot, as if the process had ended there: the next start
/// has the one before or the new one, whole, and nothing else is left over.
#[test]
fn a_crash_at_any_step_leaves_the_one_before_or_the_new_one() {
    let steps =
        [Call::Create, Call::Write, Call::SyncFile, Call::Rename, Call::SyncDir, Call::Remove];
    let mut seen = (0, 0);
    for step in steps {
        for nth in 1.. {
            let dir = tempfile::tempdir().unwrap();
            let faults = Faults::new();
            let files = Arc::new(FaultyFiles { faults: faults.clone() });
            let snapshots = Snapshots::with_files(dir.path(), files).unwrap();
            take(&snapshots, 3).unwrap();
            take(&snapshots, 10).unwrap();
            let error =
                StoreError::Io { op: "do", path: "disk".into(), reason: "as planned".into() };
            faults.fail_from(step, nth, error);
            let done = take(&snapshots, 20).and_then(|_| snapshots.prune(2, &[]));
            if done.is_ok() {
                break;
            }
            // What was not synced need not be there, or not wholly.
            let temp = dir.path().join(format!("{:020}.snap.new", 20));
            if let Ok(bytes) = fs::read(&temp) {
                fs::write(&temp, &bytes[..bytes.len() / 3]).unwrap();
            }
            drop(snapshots);
            let snapshots = Snapshots::open(dir.path()).unwrap();
            let log = log_of(30, 3);
            let (found, _) = snapshots.newest_whole(&log, &mut no_damage).unwrap().unwrap();
            match found.number {
                10 => seen.0 += 1,
                20 => seen.1 += 1,
                other => panic!("{step:?} {nth}: {other}"),
            }
            assert_eq!(content(&found.path).unwrap().0, format!("as of {}", found.number));
            let names = fs::read_dir(dir.path()).unwrap();
            let left = names.filter(|name| {
                name.as_ref().unwrap().path().extension().is_some_and(|ending| ending == "new")
            });
            assert_eq!(left.count(), 0, "{step:?} {nth}");
            take(&snapshots, 30).unwrap();
        }
    }
    assert!(seen.0 > 3 && seen.1 > 1, "{seen:?}");
}

#[test]
fn a_full_disk_gives_up_the_snapshot_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Faults::new();
    let files = Arc::new(FaultyFiles { faults: faults.clone() });
    let snapshots = Snapshots::with_files(dir.path(), files).unwrap();
    faults.fail(Call::Write, 2, StoreError::Full { op: "write", path: "disk".into() });
    assert!(matches!(take(&snapshots, 5), Err(StoreError::Full { .. })));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "its room is given back");
    take(&snapshots, 6).unwrap();
}

/// Every flipped bit, every zeroed 16 bytes, every length: noticed.
#[test]
fn whatever_the_disk_does_to_a_snapshot_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::open(dir.path()).unwrap();
    take(&snapshots, 5).unwrap();
    take(&snapshots, 9).unwrap();
    let path = snapshots.list().unwrap()[1].path.clone();
    let whole = fs::read(&path).unwrap();
    let log = log_of(30, 5);
    let mut cases: Vec<Vec<u8>> = Vec::new();
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        cases.push(bytes);
    }
    for at in (0..whole.len()).step_by(16) {
        let mut bytes = whole.clone();
        let end = (at + 16).min(bytes.len());
        bytes[at..end].fill(0);
        cases.push(bytes);
    }
    cases.extend((0..whole.len()).map(|length| whole[..length].to_vec()));
    cases.push([&whole[..], &[0]].concat());
    cases.push([&whole[..], &whole[..]].concat());
    for (case, bytes) in cases.iter().enumerate().filter(|(_, bytes)| **bytes != whole) {
        fs::write(&path, bytes).unwrap();
        let error = content(&path).unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{case}: {error}");
        if !case.is_multiple_of(100) {
            continue;
        }
        let mut damaged = Vec::new();
        let found = snapshots.newest_whole(&log, &mut |found, _| damaged.push(found.number));
        assert_eq!(found.unwrap().unwrap().0.number, 5, "{case}");
        assert_eq!(damaged, [9], "{case}");
        // The log does not reach back to the one before: refused, naming the file and the place.
        let short = log_of(30, 6);
        let refused = snapshots.newest_whole(&short, &mut |_, _| {}).unwrap_err().to_string();
        assert!(refused.contains("0009.snap") && refused.contains("at byte"), "{refused}");
    }
    fs::write(&path, &whole).unwrap();
    let other = path.with_file_name(format!("{:020}.snap", 11));
    fs::rename(&path, &other).unwrap();
    assert!(content(&other).is_err(), "under another name it stands for other records");
}

#[test]
fn a_damaged_one_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::open(dir.path()).unwrap();
    take(&snapshots, 5).unwrap();
    let aside = snapshots.set_aside(&snapshots.list().unwrap()[0]).unwrap();
    assert!(aside.exists() && snapshots.list().unwrap().is_empty());
    take(&snapshots, 5).unwrap();
}

const SMALL: LogOptions = LogOptions {
    segment_bytes: 128,
    max_record_bytes: 1_024,
    salt: 7,
    first: 1,
    reserve_bytes: 0,
    min_free_bytes: 0,
};

#[test]
fn a_log_is_cut_by_whole_segments_and_goes_on() {
    for before in 0..60 {
        let dir = tempfile::tempdir().unwrap();
        let mut log = FileLog::open(dir.path(), SMALL).unwrap();
        for number in 1..=40_u64 {
            log.append(&[number as u8; 20]).unwrap();
        }
        log.sync().unwrap();
        log.cut(before).unwrap();
        let first = log.first();
        assert!(first <= before.max(1) && first + 4 > before.min(40), "{before}: {first}");
        log.append(&[41; 20]).unwrap();
        log.sync().unwrap();
        drop(log);
        let log = FileLog::open(dir.path(), SMALL).unwrap();
        assert_eq!((log.first(), log.next()), (first, 42));
        assert_eq!(log.opened().records, 42 - first);
        let mut shown = Vec::new();
        log.visit(first, &mut |number, record| {
            assert_eq!(record, [number as u8; 20]);
            shown.push(number);
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
        assert!(shown.into_iter().eq(first..42));
        if first > 1 {
            let before = log.visit(first - 1, &mut |_, _| panic!("it is gone"));
            assert!(matches!(before, Err(StoreError::Corrupt { .. })));
        }
    }
}

#[test]
fn a_log_can_begin_behind_a_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let options = LogOptions { first: 77, ..SMALL };
    let mut log = FileLog::open(dir.path(), options).unwrap();
    assert_eq!((log.first(), log.next()), (77, 77));
    assert_eq!(log.append(b"a"), Ok(77));
    log.sync().unwrap();
    drop(log);
    let log = FileLog::open(dir.path(), SMALL).unwrap();
    assert_eq!((log.first(), log.next()), (77, 78));
}

#[test]
fn what_was_set_aside_is_given_up_last_and_had_again() {
    let dir = tempfile::tempdir().unwrap();
    let options = LogOptions { reserve_bytes: 100_000, ..SMALL };
    let mut log = FileLog::open(dir.path(), options).unwrap();
    let reserve = dir.path().join("reserve");
    assert_eq!(fs::metadata(&reserve).unwrap().len(), 100_000);
    assert!(!log.is_low());
    drop(log);
    // A volume never has so much.
    let options = LogOptions { min_free_bytes: u64::MAX / 16, ..options };
    let mut log = FileLog::open(dir.path(), options).unwrap();
    assert!(log.is_low());
    log.append(b"what was begun can be written").unwrap();
    log.sync().unwrap();
}
