//! What actors stand on: who does work that takes long, and what becomes of a process that cannot go
//! on. A simulation hands in its own, so that a run has one thread at a time and comes out the same.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::runtime::Handle;

/// A job has panicked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a job panicked: {0}")]
pub struct Panicked(String);

/// What a simulation decides.
pub trait Simulated: Send + Sync {
    /// How long a job waits before it is done, and how long its result is on its way.
    fn delays(&self) -> (Duration, Duration);

    /// The process has ended: nothing that it still does may have an effect.
    fn ended(&self, reason: &str);
}

/// A machine: copies are the same one.
#[derive(Clone, Default)]
pub struct Machine(Option<Arc<dyn Simulated>>);

/// The result of a job.
pub type Running<T> = Pin<Box<dyn Future<Output = Result<T, Panicked>> + Send>>;

impl Machine {
    /// This one: jobs run on tokio's blocking threads, and the end of the process is its end.
    pub fn real() -> Self {
        Self(None)
    }

    /// One that is simulated: jobs run on the thread that waits for them, or while it stands still.
    pub fn simulated(by: Arc<dyn Simulated>) -> Self {
        Self(Some(by))
    }

    /// Does what would hold up an actor. On a real machine it is begun now, and not given up.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Running<T> {
        match &self.0 {
            None => on_a_thread(job),
            Some(simulated) => {
                let (before, after) = simulated.delays();
                Box::pin(async move {
                    tokio::time::sleep(before).await;
                    let done = catch_unwind(AssertUnwindSafe(job));
                    tokio::time::sleep(after).await;
                    done.map_err(panicked)
                })
            }
        }
    }

    /// The same for a job that waits for others in between.
    pub fn run_waiting<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Waits) -> T + Send + 'static,
    ) -> Running<T> {
        let handle = Handle::current();
        match &self.0 {
            None => on_a_thread(move || job(&Waits(Wait::Blocking(handle)))),
            Some(simulated) => {
                let (before, after) = simulated.delays();
                Box::pin(async move {
                    tokio::time::sleep(before).await;
                    let done = InTurns::start(job, handle)?.await;
                    tokio::time::sleep(after).await;
                    done
                })
            }
        }
    }

    /// Ends the process: what is in memory is neither what it was nor what it was to be.
    pub fn end(&self, reason: &str) -> ! {
        match &self.0 {
            None => std::process::abort(),
            Some(simulated) => {
                simulated.ended(reason);
                resume_unwind(Box::new("the simulated process has ended"))
            }
        }
    }
}

fn on_a_thread<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> Running<T> {
    let done = tokio::task::spawn_blocking(job);
    Box::pin(async move { done.await.map_err(|error| Panicked(error.to_string())) })
}

fn panicked(panic: Box<dyn Any + Send>) -> Panicked {
    Panicked(message(&*panic).to_owned())
}

/// What a panic says.
pub(crate) fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// Lets a job wait for a future.
#[derive(Clone)]
pub struct Waits(Wait);

#[derive(Clone)]
enum Wait {
    Blocking(Handle),
    InTurns(Arc<Mutex<Turns>>),
}

impl Waits {
    /// The output of `future`. Only where a job runs.
    pub fn until<F: Future>(&self, future: F) -> F::Output {
        match &self.0 {
            Wait::Blocking(handle) => handle.block_on(future),
            Wait::InTurns(turns) => {
                let mut future = std::pin::pin!(future);
                loop {
                    let mut turns = turns.lock().unwrap_or_else(PoisonError::into_inner);
                    let waker = turns.waker.clone();
                    if let Poll::Ready(output) =
                        future.as_mut().poll(&mut Context::from_waker(&waker))
                    {
                        return output;
                    }
                    turns.pass();
                }
            }
        }
    }
}

impl fmt::Debug for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waits")
    }
}

/// The job's side of a job that runs in turns with whoever polls it.
struct Turns {
    /// Of whoever polls it.
    waker: Waker,
    polled: mpsc::Receiver<Waker>,
    pending: mpsc::Sender<()>,
}

impl Turns {
    /// Has the poller go on, and waits for the next poll. If the job was dropped it ends here.
    fn pass(&mut self) {
        let _ = self.pending.send(());
        match self.polled.recv() {
            Ok(waker) => self.waker = waker,
            Err(_) => resume_unwind(Box::new("nobody waits for this job any more")),
        }
    }
}

/// A job on a thread of its own that runs only while this future is being polled, and whose poller
/// stands still meanwhile.
struct InTurns<T> {
    /// Until it is dropped.
    poll: Option<mpsc::Sender<Waker>>,
    pending: mpsc::Receiver<()>,
    done: mpsc::Receiver<Result<T, Panicked>>,
}

impl<T: Send + 'static> InTurns<T> {
    fn start(
        job: impl FnOnce(&Waits) -> T + Send + 'static,
        handle: Handle,
    ) -> Result<Self, Panicked> {
        let (poll, polled) = mpsc::channel();
        let (tell_pending, pending) = mpsc::channel();
        let (tell_done, done) = mpsc::channel();
        let work = move || {
            // Timers and the clock are those of the simulated process.
            let _entered = handle.enter();
            let Ok(waker) = polled.recv() else { return };
            let turns = Arc::new(Mutex::new(Turns { waker, polled, pending: tell_pending }));
            let waits = Waits(Wait::InTurns(turns.clone()));
            let result = catch_unwind(AssertUnwindSafe(|| job(&waits)));
            let _ = tell_done.send(result.map_err(panicked));
            // Ends the wait of the poller, which looks for the result then.
            drop((waits, turns));
        };
        let started = std::thread::Builder::new().name("job".to_owned()).spawn(work);
        started.map_err(|error| Panicked(error.to_string()))?;
        Ok(Self { poll: Some(poll), pending, done })
    }
}

impl<T> Future for InTurns<T> {
    type Output = Result<T, Panicked>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(poll) = &self.poll {
            let _ = poll.send(cx.waker().clone());
        }
        match self.pending.recv() {
            Ok(()) => Poll::Pending,
            Err(_) => {
                let lost = || Err(Panicked("it was lost".to_owned()));
                Poll::Ready(self.done.recv().unwrap_or_else(|_| lost()))
            }
        }
    }
}

impl<T> Drop for InTurns<T> {
    /// A job that nobody waits for any more has ended when this has: it runs beside nothing.
    fn drop(&mut self) {
        self.poll = None;
        while self.pending.recv().is_ok() {}
        let _ = self.done.recv();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[derive(Default)]
    struct Still(AtomicBool);

    impl Simulated for Still {
        fn delays(&self) -> (Duration, Duration) {
            (Duration::from_secs(3_600), Duration::from_secs(3_600))
        }

        fn ended(&self, _: &str) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn simulated_jobs_wait_and_take_virtual_time_and_their_panics_are_told() {
        let still = Arc::new(Still::default());
        let machine = Machine::simulated(still.clone());
        let began = tokio::time::Instant::now();
        assert_eq!(machine.run(|| 7).await, Ok(7));
        let slept = machine.run_waiting(|waits| {
            waits.until(tokio::time::sleep(Duration::from_secs(3_600)));
            waits.until(tokio::task::yield_now());
            tokio::time::Instant::now()
        });
        assert!(slept.await.expect("no panic") >= began + Duration::from_secs(4 * 3_600));
        assert_eq!(began.elapsed().as_secs(), 5 * 3_600);
        let bad = machine.run_waiting(|_| -> u32 { panic!("on purpose") }).await;
        assert_eq!(bad, Err(Panicked("on purpose".to_owned())));
        let ending = machine.clone();
        assert!(machine.run(move || -> u32 { ending.end("it must") }).await.is_err());
        assert!(still.0.load(Ordering::Relaxed));
    }

    #[tokio::test]
    async fn a_job_that_nobody_waits_for_any_more_ends() {
        struct Told(mpsc::Sender<()>);
        impl Drop for Told {
            fn drop(&mut self) {
                let _ = self.0.send(());
            }
        }
        let (tell, told) = mpsc::channel();
        let job = move |waits: &Waits| {
            let _told = Told(tell);
            waits.until(std::future::pending::<()>());
        };
        let mut job = InTurns::start(job, Handle::current()).expect("a thread");
        assert!(futures::poll!(&mut job).is_pending());
        drop(job);
        told.recv().expect("what the job held was dropped");
    }

    #[tokio::test]
    async fn real_jobs_wait_on_their_threads() {
        let job = |waits: &Waits| waits.until(async { 7 });
        assert_eq!(Machine::real().run_waiting(job).await, Ok(7));
        assert_eq!(Machine::real().run(|| 8).await, Ok(8));
    }
}
