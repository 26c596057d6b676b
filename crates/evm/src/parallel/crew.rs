//! A bounded number of threads that wait to help.

use std::{
    collections::VecDeque,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

/// What a thread is to do. It ends by itself once there is nothing more to do.
pub type Job = Arc<dyn Fn() + Send + Sync>;

/// Threads that may help the calling one.
pub trait Helpers: Send + Sync {
    /// How many there are.
    fn count(&self) -> usize;

    /// How many have nothing to do.
    fn idle(&self) -> usize;

    /// Has at most so many of them do the job, each at once or not at all. Says how many.
    fn call(&self, most: usize, job: &Job) -> usize;
}

/// No threads.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nobody;

impl Helpers for Nobody {
    fn count(&self) -> usize {
        0
    }

    fn idle(&self) -> usize {
        0
    }

    fn call(&self, _: usize, _: &Job) -> usize {
        0
    }
}

/// Threads that last: starting one costs more than a small block. They end when this is dropped.
pub struct Crew {
    inner: Arc<Inner>,
    count: usize,
}

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    /// Threads that wait for a job, of which there are no more than these.
    idle: usize,
    closed: bool,
}

impl State {
    fn free(&self) -> usize {
        self.idle - self.jobs.len()
    }
}

impl Crew {
    /// A crew of `count` threads, each of which `start` starts by running what it is given on it.
    pub fn new<E>(
        count: usize,
        mut start: impl FnMut(Box<dyn FnOnce() + Send>) -> Result<(), E>,
    ) -> Result<Self, E> {
        let crew = Self { inner: Arc::default(), count };
        for _ in 0..count {
            let inner = crew.inner.clone();
            start(Box::new(move || inner.work()))?;
        }
        Ok(crew)
    }
}

impl Helpers for Crew {
    fn count(&self) -> usize {
        self.count
    }

    fn idle(&self) -> usize {
        self.inner.lock().free()
    }

    fn call(&self, most: usize, job: &Job) -> usize {
        let mut state = self.inner.lock();
        let called = most.min(state.free());
        for _ in 0..called {
            state.jobs.push_back(job.clone());
            self.inner.changed.notify_one();
        }
        called
    }
}

impl Inner {
    // Nothing that is done under the lock panics.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut state = self.lock();
        while !state.closed {
            state.idle += 1;
            while state.jobs.is_empty() && !state.closed {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.idle -= 1;
            let Some(job) = state.jobs.pop_front() else { return };
            drop(state);
            // A job that panics is lost, its thread is not: whoever leads finds that nobody helps.
            let _ = catch_unwind(AssertUnwindSafe(|| job()));
            drop(job);
            state = self.lock();
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.inner.lock().closed = true;
        self.inner.changed.notify_all();
    }
}

impl fmt::Debug for Crew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crew").field("count", &self.count).finish_non_exhaustive()
    }
}
