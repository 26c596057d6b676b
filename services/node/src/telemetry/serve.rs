//! The port for Prometheus: `GET /metrics`, and nothing else.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use atoll_telemetry::metrics::text;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinHandle,
};

use super::{Attributes, Gatherer};

/// Connections answered at a time; more wait.
const CONNECTIONS: usize = 8;
/// Longest head of a request.
const MAX_HEAD_BYTES: usize = 8 << 10;
/// Time for a whole request.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time to wait when no connection can be had, such as for want of file descriptors.
const RETRY: Duration = Duration::from_millis(100);

/// A port that is being served.
pub(crate) struct MetricsPort {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl MetricsPort {
    pub async fn open(
        listen: SocketAddr,
        gatherer: Gatherer,
        resource: Attributes,
    ) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(listen).await.with_context(|| {
            format!("cannot serve metrics at {listen}; give another port in metrics.listen")
        })?;
        let address = listener.local_addr()?;
        let source = Arc::new((gatherer, resource));
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        let accept = async move {
            loop {
                // Never closed.
                let Ok(place) = room.clone().acquire_owned().await else { return };
                let Ok((stream, _)) = listener.accept().await else {
                    tokio::time::sleep(RETRY).await;
                    continue;
                };
                let source = source.clone();
                tokio::spawn(async move {
                    // Who is slow or goes away gets no answer.
                    let _ = tokio::time::timeout(PATIENCE, answer(stream, &source)).await;
                    drop(place);
                });
            }
        };
        Ok(Self { address, task: tokio::spawn(accept) })
    }

    pub fn close(self) {
        self.task.abort();
    }
}

/// One request a connection, in HTTP/1.1.
async fn answer(
    mut stream: TcpStream,
    (gatherer, resource): &(Gatherer, Attributes),
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() >= MAX_HEAD_BYTES || stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let (status, body) = match status(&head) {
        "200 OK" => {
            gatherer.gather().await;
            ("200 OK", text::render(resource.pairs()))
        }
        other => (other, format!("{other}: this port has GET /metrics\n")),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        text::CONTENT_TYPE,
        body.len(),
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

fn status(head: &[u8]) -> &'static str {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    let (method, target) = (words.next(), words.next().unwrap_or_default());
    let path = target.split(|byte| *byte == b'?').next();
    match (method, path) {
        (Some(b"GET"), Some(b"/metrics")) => "200 OK",
        (Some(b"GET"), _) => "404 Not Found",
        _ => "405 Method Not Allowed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_metrics_are_served() {
        assert_eq!(status(b"GET /metrics HTTP/1.1\r\n\r\n"), "200 OK");
        assert_eq!(status(b"GET /metrics?name=x HTTP/1.1\r\n"), "200 OK");
        assert_eq!(status(b"GET / HTTP/1.1\r\n"), "404 Not Found");
        assert_eq!(status(b"POST /metrics HTTP/1.1\r\n"), "405 Method Not Allowed");
        assert_eq!(status(b""), "405 Method Not Allowed");
    }
}
