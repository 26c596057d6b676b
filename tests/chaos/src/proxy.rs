//! A link between two processes that can be bad: a TCP proxy.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

/// Which way: from whoever connects, back to it, or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    There,
    Back,
    Both,
}

/// What a link does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Pass,
    /// Everything arrives, later.
    Delay(Duration),
    /// Connections are closed, and new ones as soon as they are made.
    Cut,
    /// Nothing arrives until the link is good again; then everything does, as TCP would send it again.
    Hold(Way),
    /// What is sent is taken and never arrives, and nobody is told. A connection that has lost
    /// something so never recovers, also when the link is good again.
    Swallow(Way),
}

impl Mode {
    fn hits(self, way: Way) -> bool {
        matches!(self, Self::Hold(hit) | Self::Swallow(hit) if hit == way || hit == Way::Both)
    }
}

/// A link. It ends when it is dropped.
pub struct Link {
    pub listen: SocketAddr,
    mode: watch::Sender<Mode>,
    task: JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Link {
    /// Whoever connects to `listen` reaches `to`.
    pub async fn open(listen: SocketAddr, to: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(listen).await.context("cannot listen for a link")?;
        let (mode, watched) = watch::channel(Mode::Pass);
        let task = tokio::spawn(async move {
            loop {
                // An error concerns one connection, or passes.
                match listener.accept().await {
                    Ok((stream, _)) => drop(tokio::spawn(carry(stream, to, watched.clone()))),
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        });
        Ok(Self { listen, mode, task })
    }

    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

/// Carries one connection until it ends or is cut.
async fn carry(from: TcpStream, to: SocketAddr, mut mode: watch::Receiver<Mode>) {
    if *mode.borrow() == Mode::Cut {
        return;
    }
    let Ok(to) = TcpStream::connect(to).await else { return };
    // Nagle's algorithm would be a fault of its own.
    if from.set_nodelay(true).and(to.set_nodelay(true)).is_err() {
        return;
    }
    let (from_read, from_write) = from.into_split();
    let (to_read, to_write) = to.into_split();
    let there = pump(from_read, to_write, Way::There, mode.clone());
    let back = pump(to_read, from_write, Way::Back, mode.clone());
    tokio::select! {
        () = there => {}
        () = back => {}
        // An error: the link is gone.
        _ = mode.wait_for(|mode| *mode == Mode::Cut) => {}
    }
}

/// Carries one direction until it ends. One that has lost something goes on for as long as the other
/// one does: nobody is told.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    way: Way,
    mut mode: watch::Receiver<Mode>,
) {
    let mut buffer = vec![0; 64 << 10];
    let mut lost = false;
    loop {
        let count = match from.read(&mut buffer).await {
            Ok(0) | Err(_) if lost => return std::future::pending().await,
            Ok(0) | Err(_) => return,
            Ok(count) => count,
        };
        let now = *mode.borrow_and_update();
        let held = matches!(now, Mode::Hold(_)) && now.hits(way);
        // An error: the link is gone.
        if held && mode.wait_for(|mode| !mode.hits(way)).await.is_err() {
            return;
        }
        match now {
            Mode::Delay(delay) => tokio::time::sleep(delay).await,
            Mode::Swallow(_) if now.hits(way) => lost = true,
            _ => {}
        }
        if !lost && to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link to somebody who sends everything back, and a connection over it.
    async fn echo() -> anyhow::Result<(Link, TcpStream)> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let to = listener.local_addr()?;
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (mut read, mut write) = stream.into_split();
                tokio::spawn(async move { tokio::io::copy(&mut read, &mut write).await });
            }
        });
        let listen = atoll_tests::processes::free_port()?;
        let link = Link::open(listen, to).await?;
        let stream = TcpStream::connect(listen).await?;
        Ok((link, stream))
    }

    async fn say(stream: &mut TcpStream, what: u8) -> anyhow::Result<()> {
        Ok(stream.write_all(&[what]).await?)
    }

    /// The next byte, `None` at the end, an error if nothing comes.
    async fn hear(stream: &mut TcpStream, patience: Duration) -> anyhow::Result<Option<u8>> {
        let mut byte = [0];
        let heard = tokio::time::timeout(patience, stream.read(&mut byte)).await?;
        Ok(heard.map_or(None, |count| (count == 1).then_some(byte[0])))
    }

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn a_link_passes_holds_swallows_and_cuts() -> anyhow::Result<()> {
        let (link, mut stream) = echo().await?;
        say(&mut stream, 1).await?;
        assert_eq!(hear(&mut stream, LONG).await?, Some(1));
        link.set(Mode::Delay(SHORT));
        say(&mut stream, 2).await?;
        assert_eq!(hear(&mut stream, LONG).await?, Some(2));
        for way in [Way::There, Way::Back, Way::Both] {
            link.set(Mode::Hold(way));
            say(&mut stream, 3).await?;
            assert!(hear(&mut stream, SHORT).await.is_err(), "{way:?}");
            link.set(Mode::Pass);
            assert_eq!(hear(&mut stream, LONG).await?, Some(3), "{way:?}");
        }
        link.set(Mode::Swallow(Way::There));
        say(&mut stream, 4).await?;
        assert!(hear(&mut stream, SHORT).await.is_err());
        link.set(Mode::Pass);
        say(&mut stream, 5).await?;
        assert!(hear(&mut stream, SHORT).await.is_err(), "it has recovered");
        let mut other = TcpStream::connect(link.listen).await?;
        say(&mut other, 6).await?;
        assert_eq!(hear(&mut other, LONG).await?, Some(6));
        link.set(Mode::Cut);
        assert_eq!(hear(&mut other, LONG).await?, None);
        assert_eq!(hear(&mut stream, LONG).await?, None);
        let mut refused = TcpStream::connect(link.listen).await?;
        assert_eq!(hear(&mut refused, LONG).await?, None);
        Ok(())
    }
}
