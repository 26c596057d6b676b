//! Lets pages of any origin call a development node: browsers ask first.

use std::pin::Pin;
use std::task::{Context, Poll};

use jsonrpsee::server::{HttpBody, HttpRequest, HttpResponse};
use tower::{Layer, Service};

/// Answers preflight requests and marks answers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cors {
    pub any_origin: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct WithCors<S> {
    inner: S,
    any_origin: bool,
}

impl<S> Layer<S> for Cors {
    type Service = WithCors<S>;

    fn layer(&self, inner: S) -> WithCors<S> {
        WithCors { inner, any_origin: self.any_origin }
    }
}

impl<S, B> Service<HttpRequest<B>> for WithCors<S>
where
    S: Service<HttpRequest<B>, Response = HttpResponse>,
    S::Future: Send + 'static,
    S::Error: 'static,
{
    type Response = HttpResponse;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: HttpRequest<B>) -> Self::Future {
        if !self.any_origin {
            return Box::pin(self.inner.call(request));
        }
        if request.method() == "OPTIONS" {
            return Box::pin(async { Ok(mark(HttpResponse::new(HttpBody::empty()))) });
        }
        let answer = self.inner.call(request);
        Box::pin(async move { Ok(mark(answer.await?)) })
    }
}

fn mark(mut response: HttpResponse) -> HttpResponse {
    for (name, value) in [
        ("access-control-allow-origin", "*"),
        ("access-control-allow-methods", "POST, GET, OPTIONS"),
        ("access-control-allow-headers", "*"),
        ("access-control-max-age", "86400"),
    ] {
        if let Ok(value) = value.parse() {
            response.headers_mut().insert(name, value);
        }
    }
    response
}
