//! The obligation to answer a call.

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::call::Rpc;

/// What a caller waits for.
pub(crate) type Answer<M> = oneshot::Receiver<Result<<M as Rpc>::Reply, <M as Rpc>::Error>>;

/// The obligation to answer one call, now or later.
///
/// The call counts against the service's limit for as long as this exists. Dropped without an
/// answer, it gives the caller [`Fault::Stopped`](crate::Fault::Stopped).
#[must_use = "a dropped reply tells the caller that the service stopped"]
pub struct Reply<M: Rpc> {
    // First, so that it is given back first: a caller that has its answer can call again.
    permit: OwnedSemaphorePermit,
    answer: oneshot::Sender<Result<M::Reply, M::Error>>,
}

impl<M: Rpc> Reply<M> {
    pub(crate) fn new(permit: OwnedSemaphorePermit) -> (Self, Answer<M>) {
        let (answer, waiting) = oneshot::channel();
        (Self { permit, answer }, waiting)
    }

    /// Answers. An answer to a caller that has gone is dropped.
    pub fn send(self, result: Result<M::Reply, M::Error>) {
        drop(self.permit);
        let _ = self.answer.send(result);
    }

    /// Answers with success.
    pub fn ok(self, value: M::Reply) {
        self.send(Ok(value));
    }

    /// Answers with the service's error, or with a [`Fault`](crate::Fault).
    pub fn err(self, error: impl Into<M::Error>) {
        self.send(Err(error.into()));
    }

    /// Whether the caller has gone: its deadline passed, or it dropped the call.
    pub fn is_abandoned(&self) -> bool {
        self.answer.is_closed()
    }
}
