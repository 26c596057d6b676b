//! Lets pages of any origin call a development node: browsers ask first. Elsewhere pages are refused:
//! browsers would let any page open a WebSocket to a port of its reader's own machine.

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
        if !self.any_origin && request.headers().contains_key("origin") {
            return Box::pin(async { Ok(refused()) });
        }
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

fn refused() -> HttpResponse {
    let text = "only on a development chain may pages in a browser call this port\n";
    let mut response = HttpResponse::new(HttpBody::from(text));
    if let Ok(status) = 403.try_into() {
        *response.status_mut() = status;
    }
    response
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

#[cfg(test)]
mod tests {
    use tower::ServiceExt as _;

    use super::*;

    async fn status(any_origin: bool, origin: Option<&str>) -> u16 {
        let inner = tower::service_fn(async |_: HttpRequest<HttpBody>| {
            Ok::<_, std::convert::Infallible>(HttpResponse::new(HttpBody::empty()))
        });
        let mut request = HttpRequest::new(HttpBody::empty());
        if let Some(origin) = origin.and_then(|origin| origin.parse().ok()) {
            request.headers_mut().insert("origin", origin);
        }
        let service = Cors { any_origin }.layer(inner);
        service.oneshot(request).await.expect("it cannot fail").status().as_u16()
    }

    #[tokio::test]
    async fn pages_reach_a_development_chain_only() {
        assert_eq!(status(false, None).await, 200);
        assert_eq!(status(false, Some("http://page.example")).await, 403);
        assert_eq!(status(true, Some("http://page.example")).await, 200);
    }
}
