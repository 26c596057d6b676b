//! How many connections a port has, and how long one may take to say that it speaks HTTP/2, with its
//! TLS handshake if it has one. What comes after that, the server's own limits and pings bound.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{Stream, stream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Sleep,
};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::{Connected, TcpConnectInfo};

use crate::tls::{Acceptor, Handshake, Role, Seen};

/// Bytes that a client of HTTP/2 begins with (RFC 9113, section 3.4), and the header of a frame.
const GREETING_BYTES: usize = 24 + 9;
/// After a failure to accept: the process may have too many files open.
const PAUSE: Duration = Duration::from_millis(50);

/// What a port lets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Door {
    /// Connections at a time. More are closed at once.
    pub connections: usize,
    /// Time for a connection to begin as HTTP/2 does.
    pub greeting: Duration,
}

impl Door {
    /// The connections that come to `listener`, in plain text or with `tls`. Never ends, and never
    /// fails.
    pub fn open(
        self,
        listener: TcpListener,
        tls: Option<Acceptor>,
    ) -> impl Stream<Item = io::Result<Guest>> + Send {
        let seats = Arc::new(Semaphore::new(self.connections));
        stream::unfold((listener, seats, tls), move |(listener, seats, tls)| async move {
            loop {
                let (socket, from) = match listener.accept().await {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(PAUSE).await;
                        continue;
                    }
                };
                let Ok(seat) = seats.clone().try_acquire_owned() else {
                    tracing::debug!(limit = self.connections, "a connection too many is closed");
                    continue;
                };
                // With Nagle's algorithm a reply in two packets waits 40 ms for the caller's
                // acknowledgement. Where it cannot be switched off the connection is gone.
                if socket.set_nodelay(true).is_err() {
                    continue;
                }
                let visit = TcpConnectInfo {
                    local_addr: socket.local_addr().ok(),
                    remote_addr: Some(from),
                };
                let Some((line, seen)) = Line::of(socket, tls.as_ref()) else { continue };
                let greeting = Some((0, Box::pin(tokio::time::sleep(self.greeting))));
                let visit = Visit { tcp: visit, seen };
                let guest = Guest { line, greeting, visit, _seat: seat };
                return Some((Ok(guest), (listener, seats, tls)));
            }
        })
    }
}

/// Who has come, for whoever answers a request: an extension of it.
#[derive(Clone, Debug)]
pub struct Visit {
    pub tcp: TcpConnectInfo,
    seen: Option<Seen>,
}

impl Visit {
    /// The roles that the caller's certificate names: none on a port that asks for no certificate.
    pub fn roles(&self) -> Arc<[Role]> {
        self.seen.as_ref().map(Seen::roles).unwrap_or_default()
    }
}

enum Line {
    Plain(TcpStream),
    Shaking(Box<Handshake>, Acceptor),
    Secure(Box<TlsStream<TcpStream>>),
    /// The handshake has failed.
    Gone,
}

impl Line {
    fn of(socket: TcpStream, tls: Option<&Acceptor>) -> Option<(Self, Option<Seen>)> {
        let Some(tls) = tls else { return Some((Self::Plain(socket), None)) };
        match tls.begin(socket) {
            Ok((handshake, seen)) => {
                Some((Self::Shaking(Box::new(handshake), tls.clone()), Some(seen)))
            }
            Err(error) => {
                tracing::warn!(%error, "cannot begin a TLS handshake");
                None
            }
        }
    }
}

/// A connection that was let in.
pub struct Guest {
    line: Line,
    /// Bytes read so far, and when there must have been enough of them. `None` when there were.
    greeting: Option<(usize, Pin<Box<Sleep>>)>,
    visit: Visit,
    _seat: OwnedSemaphorePermit,
}

impl Guest {
    /// Goes on with the handshake, if there is one to be done: no task waits for one. Whoever reads or
    /// writes does.
    fn poll_line(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&mut Line>> {
        if let Line::Shaking(handshake, tls) = &mut self.line {
            let late = self.greeting.as_mut();
            let late = late.is_some_and(|(_, late)| late.as_mut().poll(cx).is_ready());
            let shaken = match Pin::new(&mut **handshake).poll(cx) {
                Poll::Pending if late => Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the handshake was not over in time",
                )),
                Poll::Pending => return Poll::Pending,
                Poll::Ready(shaken) => shaken,
            };
            match shaken {
                Ok(stream) => self.line = Line::Secure(Box::new(stream)),
                Err(error) => {
                    if let Some(seen) = &self.visit.seen {
                        tls.failed(self.visit.tcp.remote_addr, seen, &error);
                    }
                    self.line = Line::Gone;
                    return Poll::Ready(Err(error));
                }
            }
        }
        match &mut self.line {
            Line::Gone => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
            line => Poll::Ready(Ok(line)),
        }
    }
}

/// Calls a function of either kind of stream, once there is one.
macro_rules! on_line {
    ($guest:ident, $cx:ident, $stream:ident => $call:expr) => {
        match std::task::ready!($guest.poll_line($cx))? {
            Line::Plain($stream) => $call,
            Line::Secure($stream) => $call,
            Line::Shaking(..) | Line::Gone => Poll::Pending,
        }
    };
}

impl AsyncRead for Guest {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = on_line!(self, cx, stream => Pin::new(stream).poll_read(cx, buffer));
        let Some((read, late)) = &mut self.greeting else { return polled };
        *read += buffer.filled().len() - before;
        if *read >= GREETING_BYTES {
            self.greeting = None;
        } else if late.as_mut().poll(cx).is_ready() {
            let error = "the connection did not begin as HTTP/2 does in time";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, error)));
        }
        polled
    }
}

impl AsyncWrite for Guest {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        on_line!(self, cx, stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_line!(self, cx, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.line {
            Line::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Line::Secure(stream) => Pin::new(stream).poll_shutdown(cx),
            Line::Shaking(..) | Line::Gone => Poll::Ready(Ok(())),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        on_line!(self, cx, stream => Pin::new(stream).poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.line {
            Line::Plain(stream) => stream.is_write_vectored(),
            Line::Secure(stream) => stream.is_write_vectored(),
            // rustls takes several slices at once.
            Line::Shaking(..) | Line::Gone => true,
        }
    }
}

impl Connected for Guest {
    type ConnectInfo = Visit;

    fn connect_info(&self) -> Visit {
        self.visit.clone()
    }
}
