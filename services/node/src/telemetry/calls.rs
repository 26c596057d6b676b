//! How long the gRPC calls of a port take, by OpenTelemetry's conventions.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use atoll_telemetry::metrics::{Timer, table};
use atoll_types::TraceContext;
use futures::future::BoxFuture;
use tonic::{
    Code,
    codegen::{
        Body,
        http::{HeaderMap, Request, Response},
    },
};
use tower::{Layer, Service};

/// Measures every call.
#[derive(Clone, Copy)]
pub(crate) struct Calls;

impl<S> Layer<S> for Calls {
    type Service = Measured<S>;

    fn layer(&self, inner: S) -> Measured<S> {
        Measured(inner)
    }
}

#[derive(Clone)]
pub(crate) struct Measured<S>(S);

impl<S, B, R> Service<Request<B>> for Measured<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
{
    type Response = Response<Answer<R>>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let trace = request.headers().get("traceparent").and_then(|value| value.to_str().ok());
        let mut call = Under {
            timer: Timer::start(),
            method: request.uri().path().trim_start_matches('/').to_owned(),
            trace: trace.and_then(TraceContext::parse),
            code: None,
        };
        let answer = self.0.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            // An error without a body has its status here.
            call.code = code(answer.headers());
            Ok(answer.map(|body| Answer { body, call }))
        })
    }
}

/// A call that is counted when it is dropped.
struct Under {
    timer: Timer,
    method: String,
    trace: Option<TraceContext>,
    code: Option<Code>,
}

impl Drop for Under {
    fn drop(&mut self) {
        // Without a status the client has gone, or the port closes.
        let code = self.code.unwrap_or(Code::Cancelled);
        let method = std::mem::take(&mut self.method);
        // What does not exist has any name that a client likes.
        let method = if code == Code::Unimplemented { "_OTHER".to_owned() } else { method };
        let labels = || vec!["grpc".to_owned(), method, name(code).to_owned()];
        self.timer.stop(&table::RPC, labels, self.trace);
    }
}

/// The body of an answer.
pub(crate) struct Answer<R> {
    body: R,
    call: Under,
}

impl<R: Body + Unpin> Body for Answer<R> {
    type Data = R::Data;
    type Error = R::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<R::Data>, R::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(trailers) = frame.trailers_ref()
        {
            self.call.code = code(trailers).or(self.call.code);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

fn code(headers: &HeaderMap) -> Option<Code> {
    headers.get("grpc-status").map(|status| Code::from_bytes(status.as_bytes()))
}

fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
