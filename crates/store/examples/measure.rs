//! Measures the store on the volume of a directory: `measure [dir]`. Run it in release mode.
#![allow(clippy::disallowed_methods, reason = "a measurement reads the clock")]

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use atoll_store::{FileLog, Index, Log, LogOptions, Replay, SledIndex, StoreError};

const GROUPS: usize = 1_000;
const GROUP: usize = 100;
const RECORD_BYTES: usize = 200;
const PUTS: u64 = 200_000;
const VALUE_BYTES: usize = 100;
const CACHE_BYTES: u64 = 64 << 20;

fn main() -> Result<(), Box<dyn Error>> {
    let parent = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    let dir = tempfile::tempdir_in(parent)?;
    measure_log(&dir.path().join("log"))?;
    measure_index(&dir.path().join("index"))?;
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

fn measure_index(dir: &Path) -> Result<(), StoreError> {
    let index = SledIndex::open(dir, CACHE_BYTES)?;
    let value = [0x5a; VALUE_BYTES];
    let start = Instant::now();
    for i in 0..PUTS {
        index.put(&scattered_key(i), &value)?;
    }
    println!("sled: {PUTS} puts at random keys: {:?} each", start.elapsed() / PUTS as u32);
    let start = Instant::now();
    for i in 0..PUTS {
        index.get(&scattered_key(i))?;
    }
    println!("  get {:?} each", start.elapsed() / PUTS as u32);
    let start = Instant::now();
    index.mark_clean(b"")?;
    println!("  flush, fsync and marker: {:?}", start.elapsed());
    drop(index);
    let start = Instant::now();
    let index = SledIndex::open(dir, CACHE_BYTES)?;
    let opened = start.elapsed();
    let clean = index.take_clean()?.is_some();
    println!("  open again: {opened:?}, clean: {clean}; peak memory {}", peak_memory());
    Ok(())
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
