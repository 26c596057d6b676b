//! Work that falls into parts which have nothing to do with one another.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use atoll_types::Tx;

use super::{Parallelism, costs, crew::Job};

/// Parts of which each thread takes the next one.
struct Parts<T, R, F> {
    items: Vec<T>,
    run: F,
    next: AtomicUsize,
    results: Vec<Mutex<Option<R>>>,
}

impl<T, R, F: Fn(&T) -> R> Parts<T, R, F> {
    fn one(&self, index: usize) {
        let result = (self.run)(&self.items[index]);
        // Whoever is first; another one is the same.
        self.slot(index).get_or_insert(result);
    }

    fn slot(&self, index: usize) -> std::sync::MutexGuard<'_, Option<R>> {
        self.results[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= self.items.len() {
                return;
            }
            self.one(index);
        }
    }
}

impl Parallelism {
    /// Runs every part, with help if what they take together is worth it; what it gives, in order.
    /// `run` has to give the same however often and wherever it is called: a part that another thread
    /// is at when this one has nothing else to do is run here too.
    pub fn each<T, R>(
        &self,
        items: Vec<T>,
        takes_ns: u64,
        run: impl Fn(&T) -> R + Send + Sync + 'static,
    ) -> Vec<R>
    where
        T: Send + Sync + 'static,
        R: Send + 'static,
    {
        let worth = takes_ns > 4 * self.wake_ns();
        let called_for = items.len() > 1 && worth && self.helpers.count() > 0;
        let results = items.iter().map(|_| Mutex::new(None)).collect();
        let parts = Arc::new(Parts { items, run, next: AtomicUsize::new(0), results });
        if called_for {
            let theirs = parts.clone();
            let job: Job = Arc::new(move || {
                // What panics is left to the one that asked.
                let _ = catch_unwind(AssertUnwindSafe(|| theirs.work()));
            });
            self.helpers.call(parts.items.len() - 1, &job);
        }
        parts.work();
        let all = 0..parts.items.len();
        all.map(|index| {
            if let Some(result) = parts.slot(index).take() {
                return result;
            }
            (parts.run)(&parts.items[index])
        })
        .collect()
    }

    /// What transactions are expected to take; zero if nothing is known of them.
    pub fn takes_ns<'t>(&self, txs: impl Iterator<Item = &'t Tx>) -> u64 {
        txs.map(|tx| self.cost(costs::kind(tx))).sum()
    }
}
