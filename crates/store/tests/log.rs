//! What a log promises when nothing is damaged, and when calls fail.

use std::fs;
use std::path::Path;

use atoll_store::{
    Call, Faults, FaultyLog, FileLog, Log, LogOptions, MemoryLog, Replay, StoreError,
};

const SMALL: LogOptions = LogOptions {
    segment_bytes: 256,
    max_record_bytes: 1024,
    salt: 7,
    first: 1,
    reserve_bytes: 0,
    min_free_bytes: 0,
};

fn record(number: u64) -> Vec<u8> {
    let size = (number * 37 % 90) as usize;
    (0..size).map(|i| (number as usize * 31 + i) as u8).collect()
}

fn open(dir: &Path) -> FileLog {
    FileLog::open(dir, SMALL).unwrap()
}

fn replayed(log: &(impl Log + ?Sized), from: u64) -> Vec<(u64, Vec<u8>)> {
    let mut records = Vec::new();
    log.replay::<StoreError>(from, &mut |number, record| {
        records.push((number, record.to_vec()));
        Ok(())
    })
    .unwrap();
    records
}

fn expected(numbers: std::ops::Range<u64>) -> Vec<(u64, Vec<u8>)> {
    numbers.map(|number| (number, record(number))).collect()
}

fn io_error() -> StoreError {
    StoreError::Io { op: "sync", path: "disk".into(), reason: "input/output error".into() }
}

fn full() -> StoreError {
    StoreError::Full { op: "append to", path: "disk".into() }
}

#[test]
fn records_come_back_over_segments_and_reopenings() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("not/yet/there");
    for round in 0..5 {
        let mut log = open(&dir);
        assert_eq!(log.next(), round * 20 + 1);
        assert_eq!(log.opened().records, round * 20);
        assert_eq!(log.opened().cut_bytes, 0);
        for number in round * 20 + 1..=round * 20 + 20 {
            assert_eq!(log.append(&record(number)).unwrap(), number);
        }
        log.sync().unwrap();
        assert_eq!(replayed(&log, 0), expected(1..log.next()));
    }
    let log = open(&dir);
    assert!(log.opened().segments > 10);
    for from in 1..=101 {
        assert_eq!(replayed(&log, from), expected(from..101));
    }
    assert_eq!(replayed(&log, 500), []);
}

#[test]
fn segments_keep_to_their_size_and_take_one_long_record() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    for number in 1..=50 {
        log.append(&record(number)).unwrap();
    }
    for entry in fs::read_dir(dir.path()).unwrap() {
        assert!(entry.unwrap().metadata().unwrap().len() <= SMALL.segment_bytes);
    }
    log.append(&[1; 1024]).unwrap();
    log.append(&[2; 1024]).unwrap();
    drop(log);
    assert_eq!(replayed(&open(dir.path()), 51).len(), 2);
}

#[test]
fn a_record_over_the_limit_is_refused_and_the_log_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    let refused = log.append(&[0; 1025]).unwrap_err();
    assert_eq!(refused, StoreError::TooLarge { size: 1025, limit: 1024 });
    assert_eq!(log.append(b"fits").unwrap(), 1);
    drop(log);
    let lower = LogOptions { max_record_bytes: 2, ..SMALL };
    let log = FileLog::open(dir.path(), lower).unwrap();
    assert_eq!(replayed(&log, 1), [(1, b"fits".to_vec())]);
}

#[test]
fn replay_stops_at_the_first_error_of_the_caller() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    for number in 1..=30 {
        log.append(&record(number)).unwrap();
    }
    for stop in 1..=30 {
        let mut last = 0;
        let result = log.replay(1, &mut |number, _| {
            last = number;
            if number == stop { Err(full()) } else { Ok(()) }
        });
        assert_eq!((result, last), (Err(full()), stop));
    }
}

#[test]
fn a_directory_has_one_owner() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let refused = FileLog::open(dir.path(), SMALL).unwrap_err();
    assert_eq!(refused, StoreError::Locked { dir: dir.path().to_path_buf() });
    assert!(refused.to_string().contains("in use by another process"));
    drop(log);
    open(dir.path());
}

#[test]
fn memory_keeps_what_was_synced_over_a_crash() {
    let disk = MemoryLog::new();
    let mut log = disk.clone();
    for number in 1..=6 {
        log.append(&record(number)).unwrap();
        if number == 4 {
            log.sync().unwrap();
        }
    }
    assert_eq!((log.next(), disk.synced()), (7, 4));
    disk.crash();
    assert_eq!(replayed(&disk, 1), expected(1..5));
    assert_eq!(replayed(&disk, 3), expected(3..5));
    assert_eq!(disk.clone().append(b"x").unwrap(), 5);
}

#[test]
fn a_faulty_sync_poisons_and_what_it_covered_is_lost_in_the_crash() {
    let (disk, faults) = (MemoryLog::new(), Faults::new());
    let mut log: Box<dyn Log> = Box::new(FaultyLog::new(disk.clone(), faults.clone()));
    faults.fail(Call::Sync, 2, io_error());
    log.append(&record(1)).unwrap();
    log.sync().unwrap();
    log.append(&record(2)).unwrap();
    assert_eq!(log.sync(), Err(io_error()));
    assert!(matches!(log.sync(), Err(StoreError::Poisoned { .. })));
    assert!(matches!(log.append(b"x"), Err(StoreError::Poisoned { .. })));
    disk.crash();
    assert_eq!(replayed(&disk, 1), expected(1..2));
}

#[test]
fn a_faulty_append_poisons_unless_the_disk_is_full() {
    let faults = Faults::new();
    let mut log = FaultyLog::new(MemoryLog::new(), faults.clone());
    faults.fail_from(Call::Append, 2, full());
    assert_eq!(log.append(b"a"), Ok(1));
    assert_eq!(log.append(b"b"), Err(full()));
    assert_eq!(log.append(b"b"), Err(full()));
    assert_eq!(log.sync(), Ok(()));
    faults.heal(Call::Append);
    assert_eq!(log.append(b"b"), Ok(2));
    faults.fail(Call::Append, 1, io_error());
    assert_eq!(log.append(b"c"), Err(io_error()));
    assert!(matches!(log.append(b"c"), Err(StoreError::Poisoned { .. })));
}
