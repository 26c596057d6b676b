//! JSON-RPC as it is on the wire, so that bad requests can be made too.

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use crate::{PATIENCE, api::RETRY};

/// A client of JSON-RPC.
#[derive(Clone, Copy, Debug)]
pub struct Rpc(pub SocketAddr);

impl Rpc {
    /// Sends a body as it is. Returns status and body of the answer.
    pub async fn post(&self, body: &[u8]) -> anyhow::Result<(u16, String)> {
        let mut stream = TcpStream::connect(self.0).await?;
        let head = format!(
            "POST / HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
             connection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        // Who refuses a long body need not read it.
        let _ = stream.write_all(body).await;
        let mut answer = Vec::new();
        let read = timeout(PATIENCE, stream.read_to_end(&mut answer)).await?;
        if let Err(error) = read {
            ensure!(!answer.is_empty(), "no answer: {error}");
        }
        let answer = String::from_utf8(answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP")?;
        let status = head.split(' ').nth(1).context("no status")?.parse()?;
        if head.to_lowercase().contains("transfer-encoding: chunked") {
            return Ok((status, unchunked(body)?));
        }
        Ok((status, body.to_owned()))
    }

    /// The whole answer to a request.
    pub async fn ask(&self, method: &str, params: Value) -> anyhow::Result<Value> {
        let request = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let (_, body) = self.post(request.to_string().as_bytes()).await?;
        serde_json::from_str(&body).with_context(|| format!("{method} answers {body}"))
    }

    /// The result of a request that has to succeed.
    pub async fn get(&self, method: &str, params: Value) -> anyhow::Result<Value> {
        let answer = self.ask(method, params).await?;
        answer.get("result").cloned().with_context(|| format!("{method} answers {answer}"))
    }

    /// Code and message of a request that has to fail.
    pub async fn fail(&self, method: &str, params: Value) -> anyhow::Result<(i64, String)> {
        let answer = self.ask(method, params).await?;
        let error = answer.get("error").with_context(|| format!("{method} answers {answer}"))?;
        let message = error["message"].as_str().context("no message")?;
        Ok((error["code"].as_i64().context("no code")?, message.to_owned()))
    }

    pub async fn number(&self, method: &str) -> anyhow::Result<u64> {
        quantity(&self.get(method, json!([])).await?)
    }

    /// Waits until a block is closed.
    pub async fn closed(&self, number: u64) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let latest = self.number("eth_blockNumber").await?;
            if latest >= number {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "block {number} is not closed, {latest} is");
            sleep(RETRY).await;
        }
    }

    /// Waits for a transaction's receipt.
    pub async fn receipt(&self, hash: &str) -> anyhow::Result<Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let receipt = self.get("eth_getTransactionReceipt", json!([hash])).await?;
            if !receipt.is_null() {
                return Ok(receipt);
            }
            ensure!(Instant::now() < deadline, "{hash} has no receipt");
            sleep(RETRY).await;
        }
    }
}

/// A number as JSON-RPC has it.
pub fn quantity(value: &Value) -> anyhow::Result<u64> {
    let text = value.as_str().with_context(|| format!("{value} is no quantity"))?;
    Ok(u64::from_str_radix(text.trim_start_matches("0x"), 16)?)
}

fn unchunked(mut rest: &str) -> anyhow::Result<String> {
    let mut body = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16)?;
        if size == 0 {
            break;
        }
        body.push_str(after.get(..size).context("a chunk is cut short")?);
        rest = after.get(size + 2..).context("a chunk has no end")?;
    }
    Ok(body)
}
