//! What a call is: a request, its context, and something that answers it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use atoll_types::TraceContext;

use crate::error::{Malformed, RpcError};

/// What travels beside a request: its place in a trace and the moment its caller stops waiting.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// The span that this call is a child of; `None` if the trace is not sampled.
    pub trace: Option<TraceContext>,
    /// When the caller stops waiting; `None` leaves it to the transport, see [`Call::call`].
    pub deadline: Option<Instant>,
}

impl Context {
    /// No trace and no deadline.
    pub const fn none() -> Self {
        Self { trace: None, deadline: None }
    }

    /// The same context with a deadline at most `timeout` from now. An earlier one stays.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        if let Some(at) = now().checked_add(timeout) {
            self.deadline = Some(self.deadline.map_or(at, |earlier| earlier.min(at)));
        }
        self
    }

    /// Time left until the deadline, zero once it has passed; `None` without a deadline.
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline.map(|at| at.saturating_duration_since(now()))
    }

    /// Whether the deadline has passed.
    pub fn expired(&self) -> bool {
        self.remaining() == Some(Duration::ZERO)
    }

    /// The output of `future`, or `None` if the deadline comes first.
    pub(crate) async fn bound<F: Future>(&self, future: F) -> Option<F::Output> {
        match self.deadline {
            Some(at) => tokio::time::timeout_at(at.into(), future).await.ok(),
            None => Some(future.await),
        }
    }
}

/// Tokio's clock rather than the system's, so that a test that pauses time pauses deadlines too.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// One request of a service, tied to the protobuf messages that carry it between processes.
pub trait Rpc: Send + Sized + 'static {
    /// What the service answers.
    type Reply: Send + 'static;
    /// The error enum of the service.
    type Error: RpcError;
    /// The request as a protobuf message.
    type Wire: prost::Message + Default + 'static;
    /// The reply as a protobuf message.
    type WireReply: prost::Message + Default + 'static;
    /// gRPC path, as in `/atoll.v1.StateService/Append`.
    const PATH: &'static str;

    /// Encodes a request.
    fn into_wire(self) -> Self::Wire;

    /// Validates and decodes a request. This is the one place where a request is validated.
    fn from_wire(wire: Self::Wire) -> Result<Self, Malformed>;

    /// Encodes a reply.
    fn reply_into_wire(reply: Self::Reply) -> Self::WireReply;

    /// Validates and decodes a reply.
    fn reply_from_wire(wire: Self::WireReply) -> Result<Self::Reply, Malformed>;
}

/// Something that answers a request: an actor here, or a service in another process.
#[async_trait]
pub trait Call<M: Rpc>: Send + Sync {
    /// Sends `message` and waits for the answer, at most until the deadline of `context`. Without
    /// one, a call in this process waits as long as the actor takes, and a call to another process
    /// as long as its [`Remote`](crate::Remote) says.
    ///
    /// # Errors
    /// The service's own error, or a [`Fault`](crate::Fault) as that error. Dropping the future
    /// takes a request back only if the service has not begun it.
    async fn call(&self, context: Context, message: M) -> Result<M::Reply, M::Error>;
}

/// What a caller holds: where the service stands was decided when this was made.
pub type Link<M> = Arc<dyn Call<M>>;
