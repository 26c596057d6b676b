//! The newest receipts, kept once for all watchers. Each watcher has a place in it; whoever is so
//! slow that its place is gone loses its seat there and then, even if it never reads again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use alloy_primitives::map::HashMap;
use atoll_fabric::watch;

use crate::feed::{Batch, Event};

/// Batches of limited size in all, and the watchers' places among them.
pub(crate) struct Backlog {
    limit_bytes: usize,
    watchers: usize,
    inner: Mutex<Inner>,
    newest: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    /// Number of the batch at the front.
    first: u64,
    batches: VecDeque<(Arc<Batch>, usize)>,
    size_bytes: usize,
    /// For each watcher the number of the batch that it gets next.
    seats: HashMap<u64, u64>,
    last_seat: u64,
}

/// Why a watcher gets nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    TooSlow,
    Stopping,
}

/// One watcher's place.
pub(crate) struct Seat {
    backlog: Arc<Backlog>,
    number: u64,
    newest: watch::Receiver<u64>,
}

impl Backlog {
    pub fn new(limit_bytes: usize, watchers: usize) -> Self {
        Self { limit_bytes, watchers, inner: Mutex::default(), newest: watch::Sender::new(0) }
    }

    /// Begins to watch; `None` if there are as many watchers as there may be.
    pub fn watch(self: &Arc<Self>) -> Option<Seat> {
        let newest = self.newest.subscribe();
        let mut inner = self.lock();
        if inner.seats.len() >= self.watchers {
            return None;
        }
        inner.last_seat += 1;
        let (number, next) = (inner.last_seat, inner.next());
        inner.seats.insert(number, next);
        Some(Seat { backlog: self.clone(), number, newest })
    }

    /// Whether anyone watches.
    pub fn is_watched(&self) -> bool {
        !self.lock().seats.is_empty()
    }

    /// Adds a batch, and makes room for it at the expense of the slowest watchers.
    pub fn push(&self, batch: Arc<Batch>) {
        let mut guard = self.lock();
        let inner = &mut *guard;
        if inner.seats.is_empty() {
            inner.first = inner.next();
            inner.batches.clear();
            inner.size_bytes = 0;
            return;
        }
        let size = batch.events.iter().map(Event::size_bytes).sum();
        inner.batches.push_back((batch, size));
        inner.size_bytes += size;
        let wanted = inner.seats.values().copied().min().unwrap_or(0);
        // The newest one stays, however large it is.
        while inner.batches.len() > 1
            && (inner.first < wanted || inner.size_bytes > self.limit_bytes)
        {
            let gone = inner.batches.pop_front().map_or(0, |(_, size)| size);
            inner.size_bytes -= gone;
            inner.first += 1;
        }
        let (before, first) = (inner.seats.len(), inner.first);
        inner.seats.retain(|_, next| *next >= first);
        let dropped = before - inner.seats.len();
        let next = inner.next();
        drop(guard);
        if dropped > 0 {
            tracing::info!(dropped, "watchers are too slow");
        }
        self.newest.send_replace(next);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Number of the batch that comes next.
    fn next(&self) -> u64 {
        self.first + self.batches.len() as u64
    }
}

impl Seat {
    /// The next batch, as soon as there is one. Nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> Result<Arc<Batch>, End> {
        loop {
            {
                let mut guard = self.backlog.lock();
                let inner = &mut *guard;
                let next = inner.seats.get_mut(&self.number).ok_or(End::TooSlow)?;
                let index = usize::try_from(*next - inner.first).unwrap_or(usize::MAX);
                if let Some((batch, _)) = inner.batches.get(index) {
                    *next += 1;
                    return Ok(batch.clone());
                }
            }
            self.newest.changed().await.map_err(|_| End::Stopping)?;
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.backlog.lock().seats.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::B256;

    use super::*;

    fn batch(events: usize) -> Arc<Batch> {
        let event = |_| Event::Finalized { tx: B256::ZERO, sender: None, cut: 1 };
        Arc::new(Batch { lost: 0, events: (0..events).map(event).collect() })
    }

    #[tokio::test]
    async fn a_slow_watcher_loses_its_seat_and_the_others_miss_nothing() {
        let backlog = Arc::new(Backlog::new(10 * 128, 2));
        let mut slow = backlog.watch().expect("a seat");
        let mut fast = backlog.watch().expect("a seat");
        assert!(backlog.watch().is_none(), "two seats are the limit");
        for size in 1..=20 {
            backlog.push(batch(size));
            let got = fast.next().await.expect("the fast one keeps up");
            assert_eq!(got.events.len(), size);
        }
        assert!(backlog.lock().size_bytes <= 20 * 128);
        assert_eq!(slow.next().await.err(), Some(End::TooSlow));
        let mut third = backlog.watch().expect("the slow one's seat is free");
        backlog.push(batch(3));
        assert_eq!(third.next().await.map(|batch| batch.events.len()), Ok(3));
    }

    #[tokio::test]
    async fn nothing_is_kept_for_nobody() {
        let backlog = Arc::new(Backlog::new(10 * 128, 2));
        let seat = backlog.watch().expect("a seat");
        backlog.push(batch(1));
        drop(seat);
        backlog.push(batch(1));
        assert!(backlog.lock().batches.is_empty());
        let mut late = backlog.watch().expect("a seat");
        backlog.push(batch(2));
        assert_eq!(late.next().await.map(|batch| batch.events.len()), Ok(2));
    }
}
