//! Ethereum's JSON-RPC over HTTP, as this crate uses it: any node has what it needs.
//!
//! Transactions go in batches of `eth_sendRawTransaction`, one batch under way on a connection. What
//! became of them is read once for each block, with `eth_getBlockReceipts`.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use alloy_primitives::{Address, B256, U64, U256, hex};
use anyhow::{Context, bail, ensure};
use http_body_util::{BodyExt, Full};
use hyper::{Request, Uri, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json, value::RawValue};
use tokio::{
    net::TcpStream,
    sync::{Mutex, mpsc},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{
    drive::News,
    flight::Outgoing,
    streams::NewsSender,
    wire::{Answer, Chain, Event, Kind, Stage},
};

/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause before what failed is tried again.
const PAUSE: Duration = Duration::from_millis(200);
/// Pause between two questions for the newest block.
const POLL: Duration = Duration::from_millis(10);
/// Blocks whose receipts are asked for in one batch.
const BLOCKS: u64 = 8;
/// Questions in one batch.
const QUESTIONS: usize = 500;
/// Bytes of transactions in one batch, as hexadecimal text.
const BATCH_BYTES: usize = 2 << 20;

/// An Ethereum node, and one connection to it for each stream.
#[derive(Clone, Debug)]
pub struct Node {
    streams: Vec<Arc<Mutex<Http>>>,
    /// For everything but transactions and the receipts of blocks.
    asking: Arc<Mutex<Http>>,
    /// For the receipts of blocks.
    following: Arc<Mutex<Http>>,
}

/// A connection that is kept open, and opened again when it breaks.
#[derive(Debug)]
struct Http {
    target: Uri,
    sender: Option<http1::SendRequest<Full<bytes::Bytes>>>,
}

/// One answer of a batch.
#[derive(Deserialize)]
struct Reply<'a> {
    id: Option<u64>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    code: i64,
    message: String,
}

/// What is read of a receipt.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Receipt {
    transaction_hash: B256,
    status: U64,
    gas_used: U64,
}

impl Receipt {
    fn event(&self, at: Instant, asked: bool) -> Event {
        Event {
            hash: self.transaction_hash,
            stage: Stage::Final,
            status: !self.status.is_zero(),
            // A node without shards has one.
            kind: Kind::Local,
            shards: 1,
            gas_used: self.gas_used.to(),
            at,
            asked,
        }
    }
}

impl Http {
    fn new(target: &Uri) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self { target: target.clone(), sender: None }))
    }

    async fn open(&self) -> anyhow::Result<http1::SendRequest<Full<bytes::Bytes>>> {
        let host = self.target.host().context("the target has no host")?;
        let port = self.target.port_u16().unwrap_or(80);
        let socket = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
        socket.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(socket)).await?;
        // It ends with the sender.
        tokio::spawn(connection);
        Ok(sender)
    }

    /// Sends a body and gives the answer's.
    async fn post(&mut self, body: String) -> anyhow::Result<bytes::Bytes> {
        let asked = timeout(PATIENCE, async {
            let mut sender = match self.sender.take() {
                Some(sender) if !sender.is_closed() => sender,
                _ => self.open().await?,
            };
            let request = Request::post(self.target.path())
                .header(header::HOST, self.target.authority().map_or("", |a| a.as_str()))
                .header(header::CONTENT_TYPE, "application/json")
                .body(Full::from(body))?;
            sender.ready().await?;
            let response = sender.send_request(request).await?;
            let status = response.status();
            let answer = response.into_body().collect().await?.to_bytes();
            if !status.is_success() {
                let text = String::from_utf8_lossy(&answer[..answer.len().min(300)]).into_owned();
                bail!("HTTP status {status}: {text}");
            }
            self.sender = Some(sender);
            Ok(answer)
        });
        asked.await.unwrap_or_else(|_| bail!("no answer within {PATIENCE:?}"))
    }

    /// Asks several things at once; the answers in their order, `None` where there is none of the
    /// kind.
    async fn ask<T: DeserializeOwned>(
        &mut self,
        questions: &[(&str, Value)],
    ) -> anyhow::Result<Vec<Result<Option<T>, Refusal>>> {
        let asked = questions.iter().zip(0u64..).map(|((method, params), id)| {
            json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })
        });
        let body = self.post(Value::from_iter(asked).to_string()).await?;
        let mut answers = Vec::new();
        answers.resize_with(questions.len(), || Ok(None));
        for reply in replies(&body)? {
            let id = reply.id.and_then(|id| usize::try_from(id).ok());
            let Some(answer) = id.and_then(|id| answers.get_mut(id)) else { continue };
            *answer = match (reply.error, reply.result) {
                (Some(error), _) => Err(error),
                (None, Some(result)) => Ok(serde_json::from_str(result.get())?),
                (None, None) => Ok(None),
            };
        }
        Ok(answers)
    }

    /// One thing that has to be there.
    async fn one<T: DeserializeOwned>(&mut self, method: &str, params: Value) -> anyhow::Result<T> {
        let answer = self.ask(&[(method, params)]).await?.pop().unwrap_or(Ok(None));
        match answer {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => bail!("{method} has no answer"),
            Err(error) => bail!("{method}: {} ({})", error.message, error.code),
        }
    }
}

fn replies(body: &[u8]) -> anyhow::Result<Vec<Reply<'_>>> {
    serde_json::from_slice(body).or_else(|error| {
        // What is refused as a whole is answered by one object.
        let whole = serde_json::from_slice::<Reply<'_>>(body).ok().and_then(|reply| reply.error);
        match whole {
            Some(refused) => bail!("the batch was refused: {}", refused.message),
            None => Err(error).context("the answer is no JSON-RPC"),
        }
    })
}

impl Node {
    /// Connects `streams` times and asks what the node is.
    pub async fn connect(target: &str, streams: u16) -> anyhow::Result<(Self, Chain)> {
        let scheme = if target.contains("://") { "" } else { "http://" };
        let uri: Uri = format!("{scheme}{target}")
            .parse()
            .with_context(|| format!("--target {target} is not a URL such as http://host:8545"))?;
        ensure!(uri.scheme_str() == Some("http"), "--target {target} has to be http://");
        let node = Self {
            streams: (0..streams.max(1)).map(|_| Http::new(&uri)).collect(),
            asking: Http::new(&uri),
            following: Http::new(&uri),
        };
        let mut http = node.asking.lock().await;
        let chain_id: U64 = http
            .one("eth_chainId", json!([]))
            .await
            .with_context(|| format!("{target} does not answer JSON-RPC"))?;
        let version: String = http.one("web3_clientVersion", json!([])).await?;
        let block: Value = http.one("eth_getBlockByNumber", json!(["latest", false])).await?;
        let base_fee = U64::deserialize(&block["baseFeePerGas"]).context("no base fee")?;
        // Only Atoll knows this method.
        let question = [("atoll_getPlacement", json!([Address::ZERO]))];
        let placed: Option<Value> =
            http.ask(&question).await?.pop().and_then(|answer| answer.ok().flatten());
        let shards = placed.as_ref().and_then(|placed| placed["shards"].as_u64()).unwrap_or(1);
        let chain = Chain {
            chain_id: chain_id.to(),
            shards: u16::try_from(shards).context("too many shards")?,
            base_fee: base_fee.to(),
            batch: 1_000,
            version,
        };
        drop(http);
        Ok((node, chain))
    }

    /// Asks the same of many; each has to be there.
    async fn each<T: DeserializeOwned>(
        &self,
        questions: Vec<(&str, Value)>,
    ) -> anyhow::Result<Vec<T>> {
        let mut all = Vec::with_capacity(questions.len());
        let mut http = self.asking.lock().await;
        for some in questions.chunks(QUESTIONS) {
            for (answer, (method, _)) in http.ask(some).await?.into_iter().zip(some) {
                match answer {
                    Ok(answer) => {
                        all.push(answer.with_context(|| format!("{method} has no answer"))?);
                    }
                    Err(error) => bail!("{method}: {} ({})", error.message, error.code),
                }
            }
        }
        Ok(all)
    }

    /// The shards of addresses.
    pub async fn shards_of(&self, addresses: &[Address], shards: u16) -> anyhow::Result<Vec<u16>> {
        let questions = addresses.iter().map(|a| ("atoll_getPlacement", json!([a]))).collect();
        let placed: Vec<Value> = self.each(questions).await?;
        let placed = placed.iter().map(|placed| {
            let shard = placed["shard"].as_u64().and_then(|shard| u16::try_from(shard).ok());
            shard.filter(|shard| *shard < shards).context("an address is on no shard")
        });
        placed.collect()
    }

    /// Nonce and balance of each address.
    pub async fn accounts(&self, addresses: &[Address]) -> anyhow::Result<Vec<(u64, U256)>> {
        let of = |method| addresses.iter().map(move |a| (method, json!([a, "latest"]))).collect();
        let nonces: Vec<U64> = self.each(of("eth_getTransactionCount")).await?;
        let balances: Vec<U256> = self.each(of("eth_getBalance")).await?;
        Ok(nonces.into_iter().map(|nonce| nonce.to()).zip(balances).collect())
    }

    /// Receipts of transactions that have one.
    pub async fn receipts(&self, hashes: Vec<B256>) -> Vec<Event> {
        let mut http = self.asking.lock().await;
        let mut events = Vec::new();
        for some in hashes.chunks(QUESTIONS) {
            let questions: Vec<_> =
                some.iter().map(|hash| ("eth_getTransactionReceipt", json!([hash]))).collect();
            // Whoever asked finds that some are missing.
            let Ok(answers) = http.ask::<Receipt>(&questions).await else { continue };
            let at = Instant::now();
            let receipts = answers.into_iter().filter_map(|answer| answer.ok().flatten());
            events.extend(receipts.map(|receipt| receipt.event(at, true)));
        }
        events
    }

    /// Follows the chain, and opens a queue for each connection.
    pub async fn open(
        &self,
        batch: usize,
        news: &NewsSender,
        tasks: &mut JoinSet<()>,
    ) -> anyhow::Result<Vec<mpsc::UnboundedSender<Vec<Outgoing>>>> {
        let head: U64 = self.following.lock().await.one("eth_blockNumber", json!([])).await?;
        let (http, to) = (self.following.clone(), news.clone());
        tasks.spawn(async move { follow(&mut *http.lock().await, head.to::<u64>() + 1, to).await });
        let mut queues = Vec::new();
        for http in &self.streams {
            let (outgoing, queue) = mpsc::unbounded_channel();
            let (http, to) = (http.clone(), news.clone());
            tasks.spawn(async move { submit(&mut *http.lock().await, batch, queue, to).await });
            queues.push(outgoing);
        }
        Ok(queues)
    }
}

/// Tells the receipts of every block from `next` on.
async fn follow(http: &mut Http, mut next: u64, news: NewsSender) {
    loop {
        match blocks(http, next).await {
            Ok((events, after)) => {
                if after == next {
                    sleep(POLL).await;
                }
                next = after;
                if !events.is_empty() && news.send(News::Receipts(events)).is_err() {
                    return;
                }
            }
            Err(_) => {
                sleep(PAUSE).await;
                // What it missed is in the blocks, which it goes on with; the count tells of it.
                if news.send(News::Missed).is_err() {
                    return;
                }
            }
        }
    }
}

/// The receipts of a few blocks, and the number of the block after them.
async fn blocks(http: &mut Http, next: u64) -> anyhow::Result<(Vec<Event>, u64)> {
    let head: U64 = http.one("eth_blockNumber", json!([])).await?;
    let after = (head.to::<u64>() + 1).min(next + BLOCKS).max(next);
    if after == next {
        return Ok((Vec::new(), next));
    }
    let questions: Vec<_> = (next..after)
        .map(|number| ("eth_getBlockReceipts", json!([format!("{number:#x}")])))
        .collect();
    let answers: Vec<Result<Option<Vec<Receipt>>, _>> = http.ask(&questions).await?;
    let at = Instant::now();
    let mut events = Vec::new();
    for answer in answers {
        let receipts = answer.map_err(|error| anyhow::anyhow!("{}", error.message))?;
        let receipts = receipts.context("a block that is there has no receipts")?;
        events.extend(receipts.iter().map(|receipt| receipt.event(at, false)));
    }
    Ok((events, after))
}

/// Sends what comes, in order, in batches as large as they have become meanwhile.
async fn submit(
    http: &mut Http,
    batch: usize,
    mut queue: mpsc::UnboundedReceiver<Vec<Outgoing>>,
    news: NewsSender,
) {
    let mut backlog: Vec<Outgoing> = Vec::new();
    let mut begin = 0;
    loop {
        if begin == backlog.len() {
            backlog.clear();
            begin = 0;
            match queue.recv().await {
                Some(more) => backlog.extend(more),
                None => return,
            }
        }
        while let Ok(more) = queue.try_recv() {
            backlog.extend(more);
        }
        let (body, end) = batch_of(&backlog, begin, batch);
        let sent = &backlog[begin..end];
        let answered = http.post(body).await;
        let failed = answered.is_err();
        let answers = match answered.and_then(|body| read_answers(&body, sent.len())) {
            Ok(answers) => answers,
            Err(error) => {
                let lost = Answer::Refused {
                    code: "unknown",
                    message: format!("{error:#}"),
                    passes: true,
                };
                vec![lost; sent.len()]
            }
        };
        let hashes = sent.iter().map(|out| out.hash);
        if news.send(News::Answers(hashes.zip(answers).collect())).is_err() {
            return;
        }
        begin = end;
        if failed {
            sleep(PAUSE).await;
        }
    }
}

/// The body of a batch, and where what it leaves begins.
fn batch_of(backlog: &[Outgoing], begin: usize, most: usize) -> (String, usize) {
    let mut body = String::from("[");
    let mut end = begin;
    while let Some(next) = backlog.get(end)
        && end - begin < most
        && (end == begin || body.len() + 2 * next.raw.len() <= BATCH_BYTES)
    {
        let comma = if end == begin { "" } else { "," };
        let id = end - begin;
        // Writing to a string cannot fail.
        let _ = write!(
            body,
            r#"{comma}{{"jsonrpc":"2.0","id":{id},"method":"eth_sendRawTransaction","params":["0x"#
        );
        body.push_str(&hex::encode(&next.raw));
        body.push_str("\"]}");
        end += 1;
    }
    body.push(']');
    (body, end)
}

fn read_answers(body: &[u8], count: usize) -> anyhow::Result<Vec<Answer>> {
    let mut answers = vec![Answer::lost(); count];
    for reply in replies(body)? {
        let id = reply.id.and_then(|id| usize::try_from(id).ok());
        if let Some(answer) = id.and_then(|id| answers.get_mut(id)) {
            *answer = reply.error.map_or(Answer::Taken, refused);
        }
    }
    Ok(answers)
}

/// What the words of an error mean; nodes agree on them more or less.
fn refused(error: Refusal) -> Answer {
    let message = error.message.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|words| message.contains(words));
    if says(&["already known", "already imported"]) {
        return Answer::Taken;
    }
    let (code, passes) = if says(&["nonce too low"]) {
        ("nonce_too_low", false)
    } else if says(&["insufficient funds"]) {
        ("insufficient_funds", false)
    } else if says(&["underpriced", "fee cap", "less than block base fee"]) {
        ("underpriced", false)
    } else if says(&["gas limit", "gas too low"]) {
        ("gas_limit", false)
    } else if says(&["nonce too high", "nonce too far"]) {
        ("nonce_too_far", true)
    } else if says(&["of this sender"]) {
        ("sender_full", true)
    } else if error.code == -32005 || says(&["full", "limit", "retry", "try again", "overloaded"]) {
        ("overloaded", true)
    } else {
        ("refused", false)
    };
    Answer::Refused { code, message: error.message, passes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_bounded_and_answers_find_their_transactions() {
        let out = |n: u8| Outgoing { hash: B256::repeat_byte(n), raw: vec![n; 3].into() };
        let backlog: Vec<_> = (0..5).map(out).collect();
        let (body, end) = batch_of(&backlog, 1, 3);
        assert_eq!(end, 4);
        let sent: Vec<Value> = serde_json::from_str(&body).unwrap();
        assert_eq!(sent.len(), 3);
        assert_eq!((&sent[2]["id"], &sent[2]["params"][0]), (&json!(2), &json!("0x030303")));
        let body = json!([
            { "jsonrpc": "2.0", "id": 2, "error": { "code": -32000, "message": "nonce too low: 3" } },
            { "jsonrpc": "2.0", "id": 0, "result": B256::ZERO },
        ]);
        let answers = read_answers(body.to_string().as_bytes(), 3).unwrap();
        assert_eq!((&answers[0], &answers[1]), (&Answer::Taken, &Answer::lost()));
        assert!(matches!(
            &answers[2],
            Answer::Refused { code: "nonce_too_low", passes: false, .. }
        ));
        let whole =
            json!({ "jsonrpc": "2.0", "id": null, "error": { "code": -32010, "message": "no" } });
        let error = read_answers(whole.to_string().as_bytes(), 3).unwrap_err();
        assert_eq!(error.to_string(), "the batch was refused: no");
    }

    #[test]
    fn the_words_of_nodes_are_understood() {
        let answer = |code, message: &str| refused(Refusal { code, message: message.into() });
        assert_eq!(answer(-32000, "already known"), Answer::Taken);
        assert_eq!(answer(-32003, "transaction already imported"), Answer::Taken);
        for (code, message, expected) in [
            (-32005, "too many transactions are under way", ("overloaded", true)),
            (-32000, "txpool is full", ("overloaded", true)),
            (-32003, "Insufficient funds for gas * price + value", ("insufficient_funds", false)),
            (-32000, "replacement transaction underpriced", ("underpriced", false)),
            (-32000, "exceeds block gas", ("refused", false)),
        ] {
            let Answer::Refused { code, passes, .. } = answer(code, message) else {
                panic!("{message} was taken")
            };
            assert_eq!((code, passes), expected, "{message}");
        }
    }
}
