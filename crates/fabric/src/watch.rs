//! A value that many may wait to see changed. tokio has one too, which wakes those who wait in an order
//! that it draws from a generator of its own, so that a simulation does not come out the same. This one
//! wakes them in the order in which they came.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The only sender has gone: the value will not change any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the value will not change any more")]
pub struct Closed;

struct Shared<T> {
    state: Mutex<State<T>>,
    came: Notify,
    receivers: AtomicUsize,
}

struct State<T> {
    value: T,
    /// Counts the changes.
    version: u64,
    closed: bool,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Changes the value. There is one.
pub struct Sender<T>(Arc<Shared<T>>);

/// Waits for changes of the value.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    /// The version that this one has seen.
    seen: u64,
}

impl<T> Sender<T> {
    pub fn new(value: T) -> Self {
        let state = Mutex::new(State { value, version: 0, closed: false });
        Self(Arc::new(Shared { state, came: Notify::new(), receivers: AtomicUsize::new(0) }))
    }

    /// Somebody who has seen the value as it is.
    pub fn subscribe(&self) -> Receiver<T> {
        self.0.receivers.fetch_add(1, Ordering::Relaxed);
        Receiver { shared: self.0.clone(), seen: self.0.lock().version }
    }

    pub fn receiver_count(&self) -> usize {
        self.0.receivers.load(Ordering::Relaxed)
    }

    /// Changes the value, and wakes those who wait if `change` says that it has.
    pub fn send_if_modified(&self, change: impl FnOnce(&mut T) -> bool) -> bool {
        let mut state = self.0.lock();
        let changed = change(&mut state.value);
        state.version += u64::from(changed);
        drop(state);
        if changed {
            self.0.came.notify_waiters();
        }
        changed
    }

    pub fn send_modify(&self, change: impl FnOnce(&mut T)) {
        self.send_if_modified(|value| {
            change(value);
            true
        });
    }

    pub fn send_replace(&self, value: T) {
        self.send_modify(|old| *old = value);
    }

    /// What `look` makes of the value.
    pub fn with<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.0.lock().value)
    }

    pub fn get(&self) -> T
    where
        T: Clone,
    {
        self.with(T::clone)
    }
}

impl<T: Default> Default for Sender<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.came.notify_waiters();
    }
}

impl<T> Receiver<T> {
    /// Waits for a change since the last one that this receiver was told of. Nothing is lost if the
    /// future is dropped.
    pub async fn changed(&mut self) -> Result<(), Closed> {
        loop {
            // Before the look at the value: what comes between the two is not missed.
            let came = self.shared.came.notified();
            {
                let state = self.shared.lock();
                if state.version != self.seen {
                    self.seen = state.version;
                    return Ok(());
                }
                if state.closed {
                    return Err(Closed);
                }
            }
            came.await;
        }
    }

    /// The value as it is, once it is as wanted.
    pub async fn wait_for(&mut self, mut is_wanted: impl FnMut(&T) -> bool) -> Result<T, Closed>
    where
        T: Clone,
    {
        loop {
            {
                let state = self.shared.lock();
                self.seen = state.version;
                if is_wanted(&state.value) {
                    return Ok(state.value.clone());
                }
            }
            self.changed().await?;
        }
    }

    /// The value, which counts as seen.
    pub fn get_and_update(&mut self) -> T
    where
        T: Clone,
    {
        let state = self.shared.lock();
        self.seen = state.version;
        state.value.clone()
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.receivers.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::task::LocalSet;

    use super::*;

    #[tokio::test]
    async fn those_who_wait_go_on_in_the_order_in_which_they_came() {
        let (sender, order) = (Sender::new(0), Arc::new(Mutex::new(Vec::new())));
        let set = LocalSet::new();
        for number in 0..50 {
            let (mut receiver, order) = (sender.subscribe(), order.clone());
            set.spawn_local(async move {
                let value = receiver.wait_for(|value| *value == 2).await;
                order.lock().expect("not poisoned").push((number, value));
            });
        }
        assert_eq!(sender.receiver_count(), 50);
        set.run_until(tokio::task::yield_now()).await;
        sender.send_replace(1);
        set.run_until(tokio::task::yield_now()).await;
        assert!(!sender.send_if_modified(|_| false));
        sender.send_modify(|value| *value += 1);
        set.await;
        let all: Vec<_> = (0..50).map(|number| (number, Ok(2))).collect();
        assert_eq!(*order.lock().expect("not poisoned"), all);
        assert_eq!(sender.receiver_count(), 0);
    }

    #[tokio::test]
    async fn a_change_before_the_wait_is_not_missed_and_the_end_is_told() {
        let sender = Sender::new(0);
        let mut receiver = sender.subscribe();
        sender.send_replace(7);
        assert_eq!(receiver.changed().await, Ok(()));
        assert_eq!((receiver.get_and_update(), sender.get()), (7, 7));
        assert!(futures::poll!(std::pin::pin!(receiver.changed())).is_pending());
        sender.send_replace(8);
        drop(sender);
        assert_eq!(receiver.changed().await, Ok(()));
        assert_eq!(receiver.changed().await, Err(Closed));
        assert_eq!(receiver.wait_for(|value| *value == 8).await, Ok(8));
        assert_eq!(receiver.wait_for(|value| *value == 9).await, Err(Closed));
    }
}
