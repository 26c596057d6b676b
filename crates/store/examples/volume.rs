//! Measures the store on the volume of a directory: `volume log|sled|redb [dir] [keys]`. Run it in release mode.
#![allow(clippy::disallowed_methods, reason = "a measurement reads the clock")]

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use atoll_store::{Backend, FileLog, Log, LogOptions, Replay, StoreError};

const GROUPS: usize = 1_000;
const GROUP: usize = 100;
const RECORD_BYTES: usize = 200;
const VALUE_BYTES: usize = 100;
const CACHE_BYTES: u64 = 64 << 20;
const PIECE: usize = 512;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let what = arguments.next().unwrap_or_else(|| "log".to_owned());
    let parent = arguments.next().unwrap_or_else(|| ".".to_owned());
    let keys = arguments.next().map_or(Ok(1_000_000), |keys| keys.parse())?;
    let dir = tempfile::tempdir_in(parent)?;
    match what.as_str() {
        "log" => measure_log(dir.path())?,
        "sled" => measure_index(Backend::Sled, keys, dir.path())?,
        "redb" => measure_index(Backend::Redb, keys, dir.path())?,
        _ => return Err("volume log, sled or redb".into()),
    }
    Ok(())
}

fn measure_log(dir: &Path) -> Result<(), StoreError> {
    let mut log = FileLog::open(dir, LogOptions::default())?;
    let record = [0x5a; RECORD_BYTES];
    let (mut groups, mut syncs) = (Vec::new(), Duration::ZERO);
    for _ in 0..GROUPS {
        let start = Instant::now();
        for _ in 0..GROUP {
            log.append(&record)?;
        }
        let appended = start.elapsed();
        log.sync()?;
        groups.push(start.elapsed());
        syncs += start.elapsed() - appended;
    }
    let total: Duration = groups.iter().sum();
    groups.sort();
    let rate = (GROUPS * GROUP) as f64 / total.as_secs_f64();
    println!(
        "log: {GROUPS} groups of {GROUP} records of {RECORD_BYTES} bytes, {rate:.0} records/s"
    );
    println!("  group p50 {:?} p99 {:?}", groups[GROUPS / 2], groups[GROUPS * 99 / 100]);
    println!("  append {:?} a record", (total - syncs) / (GROUPS * GROUP) as u32);
    drop(log);
    let start = Instant::now();
    let log = FileLog::open(dir, LogOptions::default())?;
    println!("  open and verify {} records: {:?}", log.opened().records, start.elapsed());
    let start = Instant::now();
    let mut size_bytes = 0;
    log.replay::<StoreError>(1, &mut |_, record| {
        size_bytes += record.len();
        Ok(())
    })?;
    println!("  replay {size_bytes} bytes: {:?}", start.elapsed());
    Ok(())
}

/// What an index costs, in a process of its own: memory is counted from its start.
fn measure_index(backend: Backend, keys: u64, dir: &Path) -> Result<(), StoreError> {
    let index = backend.open(dir, CACHE_BYTES)?;
    let value = [0x5a; VALUE_BYTES];
    let time = |what: &str, count: u64, f: &dyn Fn(u64) -> Result<(), StoreError>| {
        let start = Instant::now();
        (0..count).try_for_each(f)?;
        println!("  {what}: {:.2} us each", start.elapsed().as_secs_f64() * 1e6 / count as f64);
        Ok::<_, StoreError>(())
    };
    println!("{backend:?}, {keys} keys of 32 bytes, values of {VALUE_BYTES}:");
    time("insert", keys, &|i| index.put(&scattered_key(i), &value))?;
    let other = [0xa5; VALUE_BYTES];
    time("overwrite", keys, &|i| index.put(&scattered_key(keys - 1 - i), &other))?;
    time("get", keys, &|i| index.get(&scattered_key(i)).map(drop))?;
    let absent = |i| index.get(&scattered_key(keys + i)).map(drop);
    time("get what is not there", keys, &absent)?;
    let start = Instant::now();
    let (mut after, mut count) = (Vec::new(), 0);
    while let Some((last, _)) = index.scan_after(&after, PIECE)?.pop() {
        after = last;
        count += PIECE;
    }
    println!("  scan of all in pieces of {PIECE}: {:?} ({count})", start.elapsed());
    println!("  peak memory {}", peak_memory());
    let start = Instant::now();
    index.mark_clean(b"")?;
    println!("  clean stop: {:?}", start.elapsed());
    drop(index);
    println!("  on disk {} MB", size_bytes(dir) / 1_000_000);
    let start = Instant::now();
    let index = backend.open(dir, CACHE_BYTES)?;
    let opened = start.elapsed();
    let clean = index.take_clean()?.is_some();
    println!("  open again: {opened:?}, clean: {clean}");
    Ok(())
}

fn size_bytes(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => size_bytes(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    };
    entries.map(size).sum()
}

/// 32 bytes that differ for each `i` and are in no order.
fn scattered_key(i: u64) -> [u8; 32] {
    let mixed =
        i.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mut key = [0; 32];
    key[..8].copy_from_slice(&mixed.to_be_bytes());
    key[24..].copy_from_slice(&i.to_be_bytes());
    key
}

fn peak_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.map_or_else(|| "unknown".to_owned(), |line| line.trim().to_owned())
}
