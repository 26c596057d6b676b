//! What an actor is, and what becomes of one that panics.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::call::{Context, Rpc};
use crate::local::Cx;
use crate::machine::{Machine, message};
use crate::reply::Reply;

/// An actor. It stands on the thread it was made on, so it need not be `Send`; no two of its
/// handlers run at once.
///
/// A panic in any of its code ends the process: its state is then neither what it was nor what it
/// was to be.
pub trait Service: Sized + 'static {
    /// Name of the service in errors and logs.
    const NAME: &'static str;

    /// Runs before the first message.
    fn started(&mut self, _cx: &mut Cx<'_, Self>) {}

    /// Runs after the last message: the actor was stopped, its last [`Local`](crate::Local) was
    /// dropped, or its [`Place`](crate::Place) stopped. What is left in the mailbox is dropped.
    fn stopped(&mut self) {}
}

/// A request that an actor handles.
pub trait Handle<M: Rpc>: Service {
    /// Handles one request. Must not block: what takes time goes to [`Cx::spawn`] or to a pool,
    /// and `reply` is kept until it is done.
    ///
    /// Not called for a request whose deadline has passed or whose caller has gone.
    fn handle(&mut self, message: M, context: Context, reply: Reply<M>, cx: &mut Cx<'_, Self>);
}

/// Runs the code of an actor; a panic in it ends the process.
pub(crate) fn guard<T>(machine: &Machine, service: &'static str, run: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| end_process(machine, service, panic))
}

/// In this crate's unit tests the panic goes on instead.
pub(crate) fn end_process(
    machine: &Machine,
    service: &'static str,
    panic: Box<dyn Any + Send>,
) -> ! {
    let panic_message = message(&*panic);
    tracing::error!(service, panic_message, "actor panicked; ending the process");
    if cfg!(test) {
        std::panic::resume_unwind(panic);
    }
    machine.end(panic_message)
}
