//! Reads the bodies of requests before anything else is done for them: within a time, and only so
//! many bytes at a time over all connections.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::{BodyExt as _, Limited};
use jsonrpsee::core::BoxError;
use jsonrpsee::server::{HttpBody, HttpRequest, HttpResponse, http};
use tokio::sync::Semaphore;
use tower::{Layer, Service};

use crate::RpcLimits;

/// Has bodies read.
#[derive(Clone, Debug)]
pub(crate) struct Bodies {
    room: Arc<Semaphore>,
    time: Duration,
    most: u32,
}

impl Bodies {
    pub fn new(limits: &RpcLimits) -> Self {
        // In KiB; the longest body fits.
        let room = (limits.bodies_bytes.max(limits.request_bytes as usize)) / 1024 + 1;
        let room = Arc::new(Semaphore::new(room.min(Semaphore::MAX_PERMITS)));
        Self { room, time: limits.body_time, most: limits.request_bytes }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct WithBodies<S> {
    inner: S,
    bodies: Bodies,
}

impl<S> Layer<S> for Bodies {
    type Service = WithBodies<S>;

    fn layer(&self, inner: S) -> WithBodies<S> {
        WithBodies { inner, bodies: self.clone() }
    }
}

impl<S, B> Service<HttpRequest<B>> for WithBodies<S>
where
    S: Service<HttpRequest<HttpBody>, Response = HttpResponse> + Clone + Send + 'static,
    S::Future: Send,
    B: tonic::codegen::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Response = HttpResponse;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: HttpRequest<B>) -> Self::Future {
        let (mut inner, bodies) = (self.inner.clone(), self.bodies.clone());
        std::mem::swap(&mut inner, &mut self.inner);
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            // Without its length it counts as the longest.
            let told = body.size_hint().exact();
            let size = told.unwrap_or(u64::from(bodies.most));
            if size > u64::from(bodies.most) {
                return Ok(last(http::response::too_large(bodies.most)));
            }
            let kib = u32::try_from(size.div_ceil(1024)).unwrap_or(u32::MAX);
            let Ok(_room) = bodies.room.try_acquire_many(kib) else {
                return Ok(refused(503, "too many bytes of requests are under way\n"));
            };
            let body = Limited::new(body, bodies.most as usize);
            let body = match tokio::time::timeout(bodies.time, body.collect()).await {
                Ok(Ok(body)) => body.to_bytes(),
                Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
                    return Ok(last(http::response::too_large(bodies.most)));
                }
                Ok(Err(_)) => return Ok(refused(400, "the body broke off\n")),
                Err(_) => return Ok(refused(408, "the body took too long\n")),
            };
            inner.call(HttpRequest::from_parts(parts, HttpBody::from(body.to_vec()))).await
        })
    }
}

fn refused(status: u16, text: &'static str) -> HttpResponse {
    let mut response = HttpResponse::new(HttpBody::from(text));
    if let Ok(status) = status.try_into() {
        *response.status_mut() = status;
    }
    last(response)
}

/// After this answer the connection is closed: what is left of the body is not read.
fn last(mut response: HttpResponse) -> HttpResponse {
    if let Ok(close) = "close".parse() {
        response.headers_mut().insert("connection", close);
    }
    response
}
