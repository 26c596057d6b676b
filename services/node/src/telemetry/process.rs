//! Metrics of the process, from what the kernel says of it.

use atoll_telemetry::metrics::{set, set_count, table};

/// Where there is no such file, nothing is told.
pub(super) fn publish() {
    if let Ok(stat) = std::fs::read_to_string("/proc/self/stat") {
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
        if let Some(found) = Stat::read(&stat, &uptime) {
            set(&table::PROCESS_CPU, &["user".to_owned()], found.user);
            set(&table::PROCESS_CPU, &["system".to_owned()], found.system);
            set_count(&table::PROCESS_THREADS, &[], found.threads);
            set_count(&table::PROCESS_VIRTUAL, &[], found.virtual_bytes);
            set(&table::PROCESS_UPTIME, &[], found.uptime);
        }
    }
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    if let Some(pages) = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()) {
        set_count(&table::PROCESS_MEMORY, &[], pages * rustix::param::page_size() as u64);
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        set_count(&table::PROCESS_FILES, &[], files.count() as u64);
    }
}

#[derive(Debug, PartialEq)]
struct Stat {
    user: f64,
    system: f64,
    threads: u64,
    virtual_bytes: u64,
    uptime: f64,
}

impl Stat {
    fn read(stat: &str, uptime: &str) -> Option<Self> {
        // The name may hold anything, also a parenthesis.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        // Numbered from 3, as in proc(5).
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let now: f64 = uptime.split(' ').next()?.parse().ok()?;
        Some(Self {
            user: field(14)? as f64 / ticks,
            system: field(15)? as f64 / ticks,
            threads: field(20)?,
            virtual_bytes: field(23)?,
            uptime: (now - field(22)? as f64 / ticks).max(0.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_any_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 200 100 0 0 20 0 9 0 1000 4096 5";
        let found = Stat::read(stat, "30.0 1.0").expect("it is well-formed");
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        assert_eq!((found.user, found.system), (200.0 / ticks, 100.0 / ticks));
        assert_eq!((found.threads, found.virtual_bytes), (9, 4096));
        assert_eq!(Stat::read("nonsense", ""), None);
    }
}
