//! A service in the caller's process: an actor on a thread, called through its mailbox.
//!
//! This is the only file that knows actix. Its mailbox is used without its bound (that counts
//! senders, not messages): what limits it is the permit that every call takes before it is posted.

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor as _, ActorContext as _, AsyncContext as _};
use async_trait::async_trait;
use tokio::sync::{Semaphore, watch};

use crate::call::{Call, Context, Rpc};
use crate::error::Fault;
use crate::machine::Machine;
use crate::reply::Reply;
use crate::service::{Handle, Service, guard};
use crate::work::{LocalTurn, Turn, Work};

/// Messages handled before the thread's timers and futures get a turn. Actix empties a mailbox
/// before it polls anything else, and one that refills as fast would keep them waiting for ever.
const MESSAGES_A_RUN: u32 = 64;

/// What an actor can do besides changing its state.
pub struct Cx<'a, S: Service> {
    work: &'a mut Work<S>,
    mailbox: &'a mut actix::Context<Host<S>>,
}

impl<S: Service> Cx<'_, S> {
    /// Runs `future` beside the actor, on its thread; `then` gets the result as a message. The
    /// future is dropped if the actor stops first.
    pub fn spawn<F, T>(&mut self, future: F, then: impl FnOnce(&mut S, T, &mut Cx<'_, S>) + 'static)
    where
        F: Future<Output = T> + 'static,
        T: 'static,
    {
        let actor = self.mailbox.address().downgrade();
        let notice = move || {
            if let Some(actor) = actor.upgrade() {
                actor.do_send(Due);
            }
        };
        let turn =
            |result| -> LocalTurn<S> { Box::new(move |service, cx| then(service, result, cx)) };
        self.work.spawn(future, turn, notice);
    }

    /// Runs `then` as a message, `delay` from now or later.
    pub fn after(&mut self, delay: Duration, then: impl FnOnce(&mut S, &mut Cx<'_, S>) + 'static) {
        self.spawn(tokio::time::sleep(delay), move |service, (), cx| then(service, cx));
    }

    /// What this actor stands on.
    pub fn machine(&self) -> &Machine {
        self.work.machine()
    }

    /// For other threads, to post what they did for this actor.
    pub fn handle(&self) -> Turns<S> {
        Turns(self.mailbox.address().downgrade())
    }

    /// Stops the actor after this handler. Callers still waiting get [`Fault::Stopped`].
    pub fn stop(&mut self) {
        self.mailbox.stop();
    }
}

/// Posts closures to an actor, from any thread. It does not keep the actor standing; closures for
/// one that has stopped are dropped, and any [`Reply`] in them with them.
///
/// Not counted against the limit of the service: post one for work that was admitted.
pub struct Turns<S: Service>(actix::WeakAddr<Host<S>>);

impl<S: Service> Turns<S> {
    /// Runs `turn` as a message, after those already in the mailbox.
    pub fn post(&self, turn: impl FnOnce(&mut S, &mut Cx<'_, S>) + Send + 'static) {
        if let Some(actor) = self.0.upgrade() {
            actor.do_send(Posted::<S>(Box::new(turn)));
        }
    }
}

impl<S: Service> Clone for Turns<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// The address of a running actor: a [`Call`] for every request it handles. The actor stops when
/// the last copy is dropped.
pub struct Local<S: Service> {
    actor: actix::Addr<Host<S>>,
    permits: Arc<Semaphore>,
    limit: usize,
    gone: watch::Receiver<()>,
}

impl<S: Service> Local<S> {
    /// Starts the actor that `make` makes on the thread of `place`. It admits `limit` calls at a
    /// time, counted until they are answered; more get [`Fault::Overloaded`].
    ///
    /// If `place` has stopped there is no actor, and every call gets [`Fault::Stopped`].
    pub fn start(place: &Place, limit: usize, make: impl FnOnce() -> S + Send + 'static) -> Self {
        let (alive, gone) = watch::channel(());
        let machine = place.machine.clone();
        let host = move || Host {
            service: guard(&machine, S::NAME, make),
            work: Work::new(machine),
            handled: 0,
            _alive: alive,
        };
        let actor = match &place.thread {
            Some(thread) => Host::start_in_arbiter(thread.system.arbiter(), |_| host()),
            None => host().start(),
        };
        Self { actor, permits: Arc::new(Semaphore::new(limit)), limit, gone }
    }

    /// For other threads, to post work to the actor that is not a request.
    pub fn turns(&self) -> Turns<S> {
        Turns(self.actor.downgrade())
    }

    /// Stops the actor after the messages already in its mailbox, and waits until it has.
    pub async fn stop(&self) {
        self.turns().post(|_, cx| cx.stop());
        // Never written to: an error says that the actor, and the sender with it, was dropped.
        let _ = self.gone.clone().changed().await;
    }
}

impl<S: Service> Clone for Local<S> {
    fn clone(&self) -> Self {
        Self {
            actor: self.actor.clone(),
            permits: self.permits.clone(),
            limit: self.limit,
            gone: self.gone.clone(),
        }
    }
}

#[async_trait]
impl<S: Handle<M>, M: Rpc> Call<M> for Local<S> {
    async fn call(&self, context: Context, message: M) -> Result<M::Reply, M::Error> {
        tracing::trace!(service = S::NAME, path = M::PATH, "call in process");
        if context.expired() {
            return Err(Fault::DeadlineExceeded.into());
        }
        let service = || S::NAME.to_owned();
        let Ok(permit) = self.permits.clone().try_acquire_owned() else {
            let (service, limit) = (service(), self.limit);
            return Err(Fault::Overloaded { service, limit }.into());
        };
        let (reply, answer) = Reply::new(permit);
        let ask = Ask(message, context.clone(), reply);
        self.actor.do_send(ask);
        match context.bound(answer).await {
            Some(Ok(result)) => result,
            Some(Err(_)) => {
                let service = service();
                Err(Fault::Stopped { service }.into())
            }
            None => {
                let reason = format!("{} did not answer before the deadline", S::NAME);
                Err(Fault::Unknown { reason }.into())
            }
        }
    }
}

/// Where actors stand: a thread, or in a simulation the task set of its process. Dropping it asks the
/// thread to stop.
pub struct Place {
    thread: Option<Thread>,
    machine: Machine,
}

/// Has an actix system of its own: an arbiter needs a system, and one cannot be started from inside
/// the caller's tokio runtime.
struct Thread {
    system: actix::System,
    gone: watch::Receiver<()>,
}

impl Place {
    /// Starts a thread called `name`. Works inside and outside of a tokio runtime.
    ///
    /// # Panics
    /// If the operating system refuses a thread or an event loop.
    pub fn new(name: &str) -> Self {
        let (ready, started) = std::sync::mpsc::channel();
        let (alive, gone) = watch::channel(());
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let _alive = alive;
                let runner = actix::System::with_tokio_rt(|| {
                    let mut builder = tokio::runtime::Builder::new_current_thread();
                    builder.enable_all().build().expect("no event loop for a thread of actors")
                });
                let _ = ready.send(actix::System::current());
                if let Err(error) = runner.run() {
                    tracing::error!(%error, "a thread of actors ended with an error");
                }
            })
            .expect("no thread for actors");
        let system = started.recv().expect("a thread of actors ended before it began");
        Self { thread: Some(Thread { system, gone }), machine: Machine::real() }
    }

    /// The local task set that the caller runs in, which is to be the only thing that runs actors of
    /// this place. They stop with it.
    pub fn here(machine: Machine) -> Self {
        Self { thread: None, machine }
    }

    /// Stops the thread and the actors on it, and waits until it has ended.
    pub async fn stop(&self) {
        if let Some(thread) = &self.thread {
            thread.system.stop();
            let _ = thread.gone.clone().changed().await;
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.system.stop();
    }
}

/// What actix sees of an actor: implementing its traits for `S` itself would not be coherent.
struct Host<S: Service> {
    service: S,
    work: Work<S>,
    handled: u32,
    _alive: watch::Sender<()>,
}

// Nothing in a host is pinned in place.
impl<S: Service> Unpin for Host<S> {}

impl<S: Service> Host<S> {
    fn turn(
        &mut self,
        mailbox: &mut actix::Context<Self>,
        turn: impl FnOnce(&mut S, &mut Cx<'_, S>),
    ) {
        let machine = self.work.machine().clone();
        let mut cx = Cx { work: &mut self.work, mailbox };
        guard(&machine, S::NAME, || turn(&mut self.service, &mut cx));
        self.handled = self.handled.wrapping_add(1);
        if self.handled.is_multiple_of(MESSAGES_A_RUN) {
            mailbox.wait(actix::fut::wrap_future::<_, Self>(tokio::task::yield_now()));
        }
    }
}

impl<S: Service> actix::Actor for Host<S> {
    type Context = actix::Context<Self>;

    fn started(&mut self, mailbox: &mut Self::Context) {
        // Actix also calls this for an actor that it drops unstarted.
        if mailbox.state() == actix::ActorState::Running {
            self.turn(mailbox, |service, cx| service.started(cx));
        }
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        tracing::debug!(service = S::NAME, "actor stopped");
        guard(self.work.machine(), S::NAME, || self.service.stopped());
    }
}

struct Ask<M: Rpc>(M, Context, Reply<M>);

impl<M: Rpc> actix::Message for Ask<M> {
    type Result = ();
}

impl<S: Handle<M>, M: Rpc> actix::Handler<Ask<M>> for Host<S> {
    type Result = ();

    fn handle(&mut self, ask: Ask<M>, mailbox: &mut Self::Context) {
        let Ask(message, context, reply) = ask;
        if context.expired() {
            reply.err(Fault::DeadlineExceeded);
        } else if !reply.is_abandoned() {
            self.turn(mailbox, |service, cx| service.handle(message, context, reply, cx));
        }
    }
}

struct Posted<S: Service>(Turn<S>);

impl<S: Service> actix::Message for Posted<S> {
    type Result = ();
}

impl<S: Service> actix::Handler<Posted<S>> for Host<S> {
    type Result = ();

    fn handle(&mut self, posted: Posted<S>, mailbox: &mut Self::Context) {
        self.turn(mailbox, posted.0);
    }
}

/// A future of the actor is done.
struct Due;

impl actix::Message for Due {
    type Result = ();
}

impl<S: Service> actix::Handler<Due> for Host<S> {
    type Result = ();

    fn handle(&mut self, _: Due, mailbox: &mut Self::Context) {
        if let Some(turn) = self.work.next() {
            self.turn(mailbox, turn);
        }
    }
}
