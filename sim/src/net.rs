//! gRPC over the simulated network. Every byte is in the trace.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use futures::Stream;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::{Channel, Endpoint, Uri, server::Connected};
use turmoil::net::{TcpListener, TcpStream};

use crate::trace::Trace;

/// One end of a connection.
pub struct Wire {
    stream: TcpStream,
    at: String,
    trace: Trace,
}

impl Wire {
    fn new(stream: TcpStream, at: &str, trace: Trace) -> Self {
        let port = stream.local_addr().map_or(0, |address| address.port());
        Self { stream, at: format!("{at}:{port}"), trace }
    }
}

impl Connected for Wire {
    type ConnectInfo = ();

    fn connect_info(&self) -> Self::ConnectInfo {}
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if let Poll::Ready(Ok(count)) = &written {
            self.trace.note(&self.at, "sends", &bytes[..*count]);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A channel of machine `at` that connects when it is used.
pub fn connect(endpoint: &Endpoint, at: &str, trace: &Trace) -> Channel {
    let (at, trace) = (at.to_owned(), trace.clone());
    endpoint.connect_with_connector_lazy(tower::service_fn(move |uri: Uri| {
        let (at, trace) = (at.clone(), trace.clone());
        async move {
            let host = uri.host().ok_or(io::ErrorKind::InvalidInput)?;
            let port = uri.port_u16().ok_or(io::ErrorKind::InvalidInput)?;
            let stream = TcpStream::connect((host, port)).await?;
            Ok::<_, io::Error>(TokioIo::new(Wire::new(stream, &at, trace)))
        }
    }))
}

/// Connections that come in at a port.
pub fn incoming(
    listener: TcpListener,
    at: &str,
    trace: &Trace,
) -> impl Stream<Item = io::Result<Wire>> + use<> {
    let (at, trace) = (at.to_owned(), trace.clone());
    futures::stream::unfold(listener, move |listener| {
        let (at, trace) = (at.clone(), trace.clone());
        async move {
            let accepted = listener.accept().await;
            let wire = accepted.map(|(stream, _)| Wire::new(stream, &at, trace));
            Some((wire, listener))
        }
    })
}
