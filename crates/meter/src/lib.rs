//! Counters of a running service: how often something happened, and the processor time it took.
//!
//! They are read now and then and written all the time, from any thread: no counter waits for
//! another, so values read together may differ by what happened in between.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::time::{ClockId, clock_gettime};

/// Processor time that the calling thread has used so far, in nanoseconds.
pub fn thread_cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    // Neither is ever negative for this clock.
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// How often something happened.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, count: usize) {
        self.0.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Work of one kind: in how many batches it was done, on how many items, in how much processor
/// time.
#[derive(Debug, Default)]
pub struct Work {
    batches: Counter,
    items: Counter,
    cpu_ns: AtomicU64,
}

/// What a [`Work`] has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkDone {
    pub batches: u64,
    pub items: u64,
    pub cpu_ns: u64,
}

impl Work {
    /// Runs a part of the work on this thread. Time in which the thread waits is not counted.
    pub fn measure<T>(&self, work: impl FnOnce() -> T) -> T {
        let before = thread_cpu_ns();
        let result = work();
        let used = thread_cpu_ns().saturating_sub(before);
        self.cpu_ns.fetch_add(used, Ordering::Relaxed);
        result
    }

    /// Notes what was achieved.
    pub fn done(&self, batches: usize, items: usize) {
        self.batches.add(batches);
        self.items.add(items);
    }

    pub fn get(&self) -> WorkDone {
        WorkDone {
            batches: self.batches.get(),
            items: self.items.get(),
            cpu_ns: self.cpu_ns.load(Ordering::Relaxed),
        }
    }
}

/// Counters by name, for what happens rarely.
#[derive(Debug, Default)]
pub struct Tally(Mutex<BTreeMap<&'static str, u64>>);

impl Tally {
    pub fn add(&self, name: &'static str) {
        // A count is whole whatever a thread that panicked has left.
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(name).or_default() += 1;
    }

    /// Every name that has been counted, ascending.
    pub fn get(&self) -> Vec<(String, u64)> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn time_is_that_of_the_work_and_not_of_waiting() {
        let (busy, idle) = (Work::default(), Work::default());
        // Until it has used a millisecond, however long that takes on a busy machine.
        busy.measure(|| {
            let start = thread_cpu_ns();
            while thread_cpu_ns() - start < 1_000_000 {}
        });
        idle.measure(|| {
            let (never, forever) = std::sync::mpsc::channel::<()>();
            assert!(forever.recv_timeout(Duration::from_millis(20)).is_err());
            drop(never);
        });
        assert!(busy.get().cpu_ns >= 1_000_000);
        assert!(idle.get().cpu_ns < 10_000_000, "{:?}", idle.get());
        busy.done(1, 3);
        busy.done(2, 4);
        let done = busy.get();
        assert_eq!((done.batches, done.items), (3, 7));
    }

    #[test]
    fn names_are_counted_apart() {
        let tally = Tally::default();
        ["b", "a", "b"].into_iter().for_each(|name| tally.add(name));
        assert_eq!(tally.get(), [("a".to_owned(), 1), ("b".to_owned(), 2)]);
    }
}
