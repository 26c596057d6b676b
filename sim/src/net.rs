//! gRPC over the simulated network. What is sent is in the trace.

use std::{
    collections::BTreeMap,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker, ready},
};

use futures::Stream;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::{Channel, Endpoint, Uri, server::Connected};
use turmoil::net::{TcpListener, TcpStream};

use crate::{frames::Frames, trace::Trace};

/// Whether a process is stopped, and who waits for it to go on.
#[derive(Default)]
pub struct Frozen {
    is: AtomicBool,
    waiting: Mutex<Vec<Waker>>,
}

impl Frozen {
    pub fn set(&self, is: bool) {
        self.is.store(is, Ordering::Relaxed);
        if !is {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.drain(..).for_each(Waker::wake);
        }
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        if !self.is.load(Ordering::Relaxed) {
            return Poll::Ready(());
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push(cx.waker().clone());
        Poll::Pending
    }
}

/// What a process has to do with the network.
#[derive(Clone)]
pub struct Card {
    at: String,
    trace: Trace,
    alive: Arc<AtomicBool>,
    frozen: Arc<Frozen>,
    opened: Arc<AtomicU64>,
    left: Arc<Mutex<BTreeMap<u64, TcpStream>>>,
}

impl Card {
    /// Of a process of machine `at` that lives as long as `alive` says.
    pub fn new(at: &str, trace: &Trace, alive: Arc<AtomicBool>, frozen: Arc<Frozen>) -> Self {
        let (at, trace) = (at.to_owned(), trace.clone());
        Self { at, trace, alive, frozen, opened: Arc::default(), left: Arc::default() }
    }

    /// Closes what the process left open when it ended, in the order in which it was opened: tokio drops
    /// the tasks of a runtime in one that depends on what else this process has run.
    pub fn close_left(&self) {
        let left = std::mem::take(&mut *self.left.lock().unwrap_or_else(PoisonError::into_inner));
        left.into_values().for_each(drop);
    }
}

/// One end of a connection.
pub struct Wire {
    /// Until it is dropped.
    stream: Option<TcpStream>,
    number: u64,
    at: String,
    card: Card,
    /// Of a server.
    frames: Option<Frames>,
}

impl Wire {
    fn new(stream: TcpStream, card: &Card, frames: Option<Frames>) -> Self {
        let port = stream.local_addr().map_or(0, |address| address.port());
        let number = card.opened.fetch_add(1, Ordering::Relaxed);
        let at = format!("{}:{port}", card.at);
        Self { stream: Some(stream), number, at, card: card.clone(), frames }
    }

    fn stream(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        self.stream.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if !self.card.alive.load(Ordering::Relaxed)
            && let Some(stream) = self.stream.take()
        {
            let mut left = self.card.left.lock().unwrap_or_else(PoisonError::into_inner);
            left.insert(self.number, stream);
        }
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
        ready!(self.card.frozen.poll(cx));
        self.stream()?.poll_read(cx, into)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.card.frozen.poll(cx));
        let written = self.stream()?.poll_write(cx, bytes);
        if let Poll::Ready(Ok(count)) = &written {
            let sent = &bytes[..*count];
            let kept = self.frames.as_mut().map(|frames| frames.take_in(sent));
            self.card.trace.note(&self.at, "sends", kept.as_deref().unwrap_or(sent));
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(cx)
    }
}

/// A channel that connects when it is used.
pub fn connect(endpoint: &Endpoint, card: &Card) -> Channel {
    let card = card.clone();
    endpoint.connect_with_connector_lazy(tower::service_fn(move |uri: Uri| {
        let card = card.clone();
        async move {
            let host = uri.host().ok_or(io::ErrorKind::InvalidInput)?;
            let port = uri.port_u16().ok_or(io::ErrorKind::InvalidInput)?;
            let stream = TcpStream::connect((host, port)).await?;
            Ok::<_, io::Error>(TokioIo::new(Wire::new(stream, &card, None)))
        }
    }))
}

/// Connections that come in at a port.
pub fn incoming(
    listener: TcpListener,
    card: &Card,
) -> impl Stream<Item = io::Result<Wire>> + use<> {
    let card = card.clone();
    futures::stream::unfold(listener, move |listener| {
        let card = card.clone();
        async move {
            let accepted = listener.accept().await;
            let wire =
                accepted.map(|(stream, _)| Wire::new(stream, &card, Some(Frames::default())));
            Some((wire, listener))
        }
    })
}
