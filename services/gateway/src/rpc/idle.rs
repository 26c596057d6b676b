//! Ends connections on which nothing moves.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// A connection that fails once no byte has gone either way for some time.
pub(crate) struct Idle<I> {
    inner: I,
    limit: Duration,
    moved: Instant,
    alarm: Pin<Box<Sleep>>,
}

impl<I> Idle<I> {
    pub fn new(inner: I, limit: Duration) -> Self {
        let (moved, alarm) = (Instant::now(), Box::pin(tokio::time::sleep(limit)));
        Self { inner, limit, moved, alarm }
    }

    /// What waits fails when nothing has moved for too long.
    fn waits(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        while self.alarm.as_mut().poll(context).is_ready() {
            let due = self.moved + self.limit;
            if Instant::now() >= due {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the connection is idle"));
            }
            self.alarm.as_mut().reset(due);
        }
        Ok(())
    }

    fn wrote(
        &mut self,
        context: &mut Context<'_>,
        polled: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match polled {
            Poll::Ready(written) => {
                self.moved = Instant::now();
                Poll::Ready(written)
            }
            Poll::Pending => {
                self.waits(context).map_or_else(|e| Poll::Ready(Err(e)), |()| Poll::Pending)
            }
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Idle<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.inner).poll_read(context, buffer) {
            Poll::Ready(read) => {
                self.moved = Instant::now();
                Poll::Ready(read)
            }
            Poll::Pending => {
                self.waits(context).map_or_else(|e| Poll::Ready(Err(e)), |()| Poll::Pending)
            }
        }
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Idle<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.wrote(context, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write_vectored(context, slices);
        self.wrote(context, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_a_connection_on_which_nothing_moves_ends() {
        let (mut far, near) = tokio::io::duplex(4);
        let mut near = Idle::new(near, Duration::from_secs(60));
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_secs(59)).await;
            far.write_all(b"ab").await.expect("it listens");
            near.read_exact(&mut [0; 2]).await.expect("it was not idle");
        }
        let begin = Instant::now();
        let error = near.read_u8().await.expect_err("nothing comes");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(begin.elapsed().as_secs(), 60);
        // Nor does one that does not read its answers stay.
        let (_far, near) = tokio::io::duplex(4);
        let error = Idle::new(near, Duration::from_secs(60)).write_all(b"abcdef").await;
        assert_eq!(error.expect_err("nobody reads").kind(), io::ErrorKind::TimedOut);
    }
}
