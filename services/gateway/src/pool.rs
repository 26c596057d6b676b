//! Threads for work that would keep an async thread busy: signature recovery and calls.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use atoll_fabric::Machine;
use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

/// Why a pool gave no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// Nothing was done.
    #[error("{pool} has {limit} jobs waiting, its limit; retry after a pause")]
    Full { pool: &'static str, limit: usize },
    /// The job panicked. The thread goes on.
    #[error("a job of {pool} panicked; report it")]
    Panicked { pool: &'static str },
}

/// A fixed number of threads, and a queue of limited length before them. Copies share both. The
/// threads end when the last copy is dropped and the queue is empty.
#[derive(Clone)]
pub struct Pool(Arc<Owner>, Option<Machine>);

/// Signature recovery.
pub type RecoveryPool = Pool;

struct Owner {
    shared: Arc<Shared>,
    name: &'static str,
    queue_limit: usize,
}

struct Shared {
    queue: Mutex<Queue>,
    ready: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    closed: bool,
}

impl Pool {
    /// Starts `threads` threads (at least one) called `name`; at most `queue_limit` jobs wait.
    ///
    /// # Errors
    /// Those of the operating system that refuses a thread.
    pub fn start(name: &'static str, threads: usize, queue_limit: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared { queue: Mutex::default(), ready: Condvar::new() });
        // Made first, so that threads that did start end if one does not.
        let owner = Owner { shared: shared.clone(), name, queue_limit };
        for _ in 0..threads.max(1) {
            let shared = shared.clone();
            std::thread::Builder::new().name(name.to_owned()).spawn(move || shared.work(name))?;
        }
        Ok(Self(Arc::new(owner), None))
    }

    /// Without threads: jobs are run by a machine that is simulated.
    pub fn simulated(name: &'static str, machine: Machine) -> Self {
        let shared = Arc::new(Shared { queue: Mutex::default(), ready: Condvar::new() });
        Self(Arc::new(Owner { shared, name, queue_limit: 0 }), Some(machine))
    }

    /// Runs `job` on one of the threads and waits for its result. A job whose caller has gone
    /// before it began is skipped.
    ///
    /// # Errors
    /// [`PoolError`], at once if the queue is full.
    pub async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PoolError> {
        let pool = self.0.name;
        if let Some(machine) = &self.1 {
            return machine.run(job).await.map_err(|_| PoolError::Panicked { pool });
        }
        let (answer, waiting) = oneshot::channel();
        let job: Job = Box::new(move || {
            if !answer.is_closed() {
                let _ = answer.send(job());
            }
        });
        {
            let mut queue = self.0.shared.lock();
            let limit = self.0.queue_limit;
            if queue.jobs.len() >= limit {
                return Err(PoolError::Full { pool, limit });
            }
            queue.jobs.push_back(job);
        }
        self.0.shared.ready.notify_one();
        waiting.await.map_err(|_| PoolError::Panicked { pool })
    }
}

impl Shared {
    // A panic cannot come while the lock is held: jobs run outside of it.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, pool: &'static str) {
        loop {
            let mut queue = self.lock();
            let job = loop {
                if let Some(job) = queue.jobs.pop_front() {
                    break job;
                }
                if queue.closed {
                    return;
                }
                queue = self.ready.wait(queue).unwrap_or_else(PoisonError::into_inner);
            };
            drop(queue);
            if catch_unwind(AssertUnwindSafe(job)).is_err() {
                tracing::error!(pool, "job panicked");
            }
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.ready.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_full_queue_refuses_and_a_panic_ends_only_its_job() {
        let pool = Pool::start("test", 1, 1).expect("threads");
        let (release, held) = mpsc::channel::<()>();
        let (begun, beginning) = oneshot::channel();
        let mut busy = Box::pin(pool.run(move || {
            let _ = begun.send(());
            let _ = held.recv();
        }));
        assert!(futures::poll!(&mut busy).is_pending());
        beginning.await.expect("the first job begins");
        let mut queued = Box::pin(pool.run(|| panic!("on purpose")));
        assert!(futures::poll!(&mut queued).is_pending());
        let refused = pool.run(|| ()).await;
        assert_eq!(refused, Err(PoolError::Full { pool: "test", limit: 1 }));
        release.send(()).expect("the first job waits");
        assert_eq!(busy.await, Ok(()));
        assert_eq!(queued.await, Err::<(), _>(PoolError::Panicked { pool: "test" }));
        assert_eq!(pool.run(|| 7).await, Ok(7));
    }
}
