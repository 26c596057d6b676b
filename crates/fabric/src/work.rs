//! What an actor has going on besides its messages.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;

use futures::FutureExt as _;
use tokio::task::JoinSet;

use crate::local::Cx;
use crate::machine::Machine;
use crate::service::{Service, end_process};

/// A message that is code, from another thread.
pub(crate) type Turn<S> = Box<dyn FnOnce(&mut S, &mut Cx<'_, S>) + Send>;
/// A message that is code, from the thread of the actor.
pub(crate) type LocalTurn<S> = Box<dyn FnOnce(&mut S, &mut Cx<'_, S>)>;

/// Futures that run for an actor, and the turns left by those that are done. Their results stay on
/// the thread and need not be `Send`: only the notice that there is one passes through the mailbox.
///
/// Dropped with the actor, which ends the futures.
pub(crate) struct Work<S: Service> {
    machine: Machine,
    tasks: JoinSet<()>,
    due: Rc<RefCell<VecDeque<LocalTurn<S>>>>,
}

impl<S: Service> Work<S> {
    pub(crate) fn new(machine: Machine) -> Self {
        Self { machine, tasks: JoinSet::new(), due: Rc::default() }
    }

    pub(crate) fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Runs `future` on the local set of this thread, leaves the turn that `then` makes of its
    /// result, and gives `notice` of it.
    pub(crate) fn spawn<F>(
        &mut self,
        future: F,
        then: impl FnOnce(F::Output) -> LocalTurn<S> + 'static,
        notice: impl FnOnce() + 'static,
    ) where
        F: Future + 'static,
    {
        let (due, machine) = (self.due.clone(), self.machine.clone());
        self.tasks.spawn_local(async move {
            match AssertUnwindSafe(future).catch_unwind().await {
                Ok(result) => due.borrow_mut().push_back(then(result)),
                Err(panic) => end_process(&machine, S::NAME, panic),
            }
            notice();
        });
    }

    /// The turn that a notice was about.
    pub(crate) fn next(&mut self) -> Option<LocalTurn<S>> {
        while self.tasks.try_join_next().is_some() {}
        self.due.borrow_mut().pop_front()
    }
}
