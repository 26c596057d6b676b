//! A connection to another process, in plain text or not.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

/// What a TLS server answers to plain text begins with this: an alert.
const ALERT: u8 = 0x15;

pub(super) enum Wire {
    /// Whether something has been read of it.
    Plain(TcpStream, bool),
    /// With what was read of it already.
    Secure(Box<TlsStream<TcpStream>>, Vec<u8>),
}

fn it_speaks_tls() -> io::Error {
    io::Error::other("it speaks TLS: write https:// in its URL")
}

/// Why a connection cannot be written to on which nothing has come: an alert may lie there unread.
fn why(socket: &mut TcpStream, cx: &mut Context<'_>, error: io::Error) -> Poll<io::Error> {
    let mut first = [0];
    let mut first = ReadBuf::new(&mut first);
    match Pin::new(socket).poll_read(cx, &mut first) {
        // The connection is dead, so this wakes at once.
        Poll::Pending => Poll::Pending,
        Poll::Ready(Ok(())) if first.filled() == [ALERT] => Poll::Ready(it_speaks_tls()),
        Poll::Ready(_) => Poll::Ready(error),
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(socket, begun) => {
                let before = buffer.filled().len();
                let polled = Pin::new(socket).poll_read(cx, buffer);
                if !*begun && let Some(first) = buffer.filled().get(before) {
                    *begun = true;
                    if *first == ALERT {
                        return Poll::Ready(Err(it_speaks_tls()));
                    }
                }
                polled
            }
            Self::Secure(_, first) if !first.is_empty() => {
                let length = first.len().min(buffer.remaining());
                buffer.put_slice(&first[..length]);
                first.drain(..length);
                Poll::Ready(Ok(()))
            }
            Self::Secure(stream, _) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(socket, begun) => match Pin::new(&mut *socket).poll_write(cx, bytes) {
                Poll::Ready(Err(error)) if !*begun => why(socket, cx, error).map(Err),
                polled => polled,
            },
            Self::Secure(stream, _) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(socket, _) => Pin::new(socket).poll_flush(cx),
            Self::Secure(stream, _) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(socket, _) => Pin::new(socket).poll_shutdown(cx),
            Self::Secure(stream, _) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(socket, begun) => {
                match Pin::new(&mut *socket).poll_write_vectored(cx, slices) {
                    Poll::Ready(Err(error)) if !*begun => why(socket, cx, error).map(Err),
                    polled => polled,
                }
            }
            Self::Secure(stream, _) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(socket, _) => socket.is_write_vectored(),
            Self::Secure(stream, _) => stream.is_write_vectored(),
        }
    }
}
