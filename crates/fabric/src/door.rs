//! How many connections a port has, and how long one may take to say that it speaks HTTP/2. What
//! comes after that, the server's own limits and pings bound.

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
use tonic::transport::server::{Connected, TcpConnectInfo};

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
    /// The connections that come to `listener`. Never ends, and never fails.
    pub fn open(self, listener: TcpListener) -> impl Stream<Item = io::Result<Guest>> + Send {
        let seats = Arc::new(Semaphore::new(self.connections));
        stream::unfold((listener, seats), move |(listener, seats)| async move {
            loop {
                let socket = match listener.accept().await {
                    Ok((socket, _)) => socket,
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
                let greeting = Some((0, Box::pin(tokio::time::sleep(self.greeting))));
                return Some((Ok(Guest { socket, greeting, _seat: seat }), (listener, seats)));
            }
        })
    }
}

/// A connection that was let in.
#[derive(Debug)]
pub struct Guest {
    socket: TcpStream,
    /// Bytes read so far, and when there must have been enough of them. `None` when there were.
    greeting: Option<(usize, Pin<Box<Sleep>>)>,
    _seat: OwnedSemaphorePermit,
}

impl AsyncRead for Guest {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.socket).poll_read(cx, buffer);
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
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}

impl Connected for Guest {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.socket.connect_info()
    }
}
