//! A service in another process, called over gRPC.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Semaphore;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use crate::call::{Call, Context, Rpc};
use crate::error::{Fault, Malformed};
use crate::serve::TRACEPARENT;

/// Longest message, in bytes, that a [`Remote`] sends or takes unless told otherwise. A server has
/// to be given the same limit.
pub const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// A link to services behind a gRPC channel: a [`Call`] for every request. Copies share the
/// channel and the limit.
#[derive(Clone)]
pub struct Remote {
    channel: Channel,
    permits: Arc<Semaphore>,
    limit: usize,
    timeout: Duration,
    max_message_bytes: usize,
}

impl Remote {
    /// Admits `limit` calls at a time; more get [`Fault::Overloaded`]. A call without a deadline
    /// waits for `default_timeout`.
    pub fn new(channel: Channel, limit: usize, default_timeout: Duration) -> Self {
        Self {
            channel,
            permits: Arc::new(Semaphore::new(limit)),
            limit,
            timeout: default_timeout,
            max_message_bytes: MAX_MESSAGE_BYTES,
        }
    }

    /// The same link with another limit on the length of a request and of a reply.
    pub fn with_max_message_bytes(mut self, max_message_bytes: usize) -> Self {
        self.max_message_bytes = max_message_bytes;
        self
    }

    fn request<W: prost::Message>(&self, context: &Context, wire: W) -> Result<Request<W>, Fault> {
        if wire.encoded_len() > self.max_message_bytes {
            let expected = format!("at most {} bytes long in all", self.max_message_bytes);
            return Err(Malformed::new("", expected).into());
        }
        let mut request = Request::new(wire);
        if let Some(timeout) = context.remaining() {
            request.set_timeout(timeout);
        }
        if let Some(trace) = context.trace.and_then(|trace| trace.header().parse().ok()) {
            request.metadata_mut().insert(TRACEPARENT, trace);
        }
        Ok(request)
    }
}

#[async_trait]
impl<M: Rpc> Call<M> for Remote {
    async fn call(&self, context: Context, message: M) -> Result<M::Reply, M::Error> {
        tracing::trace!(path = M::PATH, "call to another process");
        let context = match context.deadline {
            Some(_) => context,
            None => context.with_timeout(self.timeout),
        };
        if context.expired() {
            return Err(Fault::DeadlineExceeded.into());
        }
        let _permit = self.permits.try_acquire().map_err(|_| Fault::Overloaded {
            service: service_of(M::PATH).into(),
            limit: self.limit,
        })?;
        let request = self.request(&context, message.into_wire())?;
        let mut grpc = Grpc::new(self.channel.clone())
            .max_decoding_message_size(self.max_message_bytes)
            .max_encoding_message_size(self.max_message_bytes);
        match context.bound(grpc.ready()).await {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                return Err(Fault::Unreachable { reason: chain(&error) }.into());
            }
            None => return Err(Fault::DeadlineExceeded.into()),
        }
        let codec = ProstCodec::<M::Wire, M::WireReply>::default();
        let exchange = grpc.unary(request, PathAndQuery::from_static(M::PATH), codec);
        match context.bound(exchange).await {
            Some(Ok(response)) => M::reply_from_wire(response.into_inner()).map_err(|malformed| {
                let reason = format!("the reply of {} is of no use: {malformed}", M::PATH);
                Fault::Internal { reason }.into()
            }),
            Some(Err(status)) => Err(error_of::<M>(&status)),
            None => {
                let reason = format!("{} did not answer before the deadline", M::PATH);
                Err(Fault::Unknown { reason }.into())
            }
        }
    }
}

/// The error that the service sent or, if the status is not from a service, what the status means.
fn error_of<M: Rpc>(status: &Status) -> M::Error {
    tracing::debug!(path = M::PATH, %status, "call to another process failed");
    if !status.details().is_empty()
        && let Ok(error) = serde_json::from_slice(status.details())
    {
        return error;
    }
    fault_of(M::PATH, status).into()
}

/// A status without details is from the transport or from something between the two processes.
/// It counts as a failure only where it shows that the service never saw the call.
fn fault_of(path: &'static str, status: &Status) -> Fault {
    let reason = format!("{path}: {:?}: {}", status.code(), chain(status));
    match status.code() {
        Code::Unavailable if never_sent(status) => Fault::Unreachable { reason },
        Code::ResourceExhausted => Fault::Overloaded { service: service_of(path).into(), limit: 0 },
        Code::InvalidArgument => Malformed::new("", format!("accepted by {reason}")).into(),
        Code::Unimplemented
        | Code::NotFound
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::FailedPrecondition => Fault::Internal { reason },
        _ => Fault::Unknown { reason },
    }
}

fn never_sent(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// An error and its causes; the outermost alone is often just "transport error".
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// `atoll.v1.StateService` of `/atoll.v1.StateService/Append`.
fn service_of(path: &'static str) -> &'static str {
    path.trim_start_matches('/').split('/').next().unwrap_or(path)
}
