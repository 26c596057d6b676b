//! The long calls: submission streams and streams of receipts. Each is a task that opens its call
//! again when it breaks.

use std::{collections::VecDeque, time::Duration};

use alloy_primitives::{Address, B256};
use anyhow::{Context, anyhow};
use atoll_wire::v1::{
    SubmitTransactionsRequest, SubmitTransactionsResponse, WatchReceiptsRequest,
    WatchReceiptsResponse,
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::{
    drive::News,
    flight::Outgoing,
    wire::{Answer, Client, Event, Grpc, MOST_ADDRESSES, may_reopen, transaction},
};

/// How long a call may take to open.
const OPEN: Duration = Duration::from_secs(10);
/// Pause before a broken call is opened again.
const PAUSE: Duration = Duration::from_millis(200);
/// Most bytes of transactions in one batch.
const BATCH_BYTES: usize = 1 << 20;

pub type NewsSender = mpsc::UnboundedSender<News>;

/// Follows the receipts of `senders` and opens a submission stream on each connection.
pub async fn open(
    grpc: &Grpc,
    batch: usize,
    senders: &[Address],
    news: &NewsSender,
    tasks: &mut JoinSet<()>,
) -> anyhow::Result<Vec<mpsc::UnboundedSender<Vec<Outgoing>>>> {
    watch_receipts(grpc, senders, news, tasks).await.context("cannot watch receipts")?;
    let mut streams = Vec::new();
    for client in &grpc.clients {
        streams.push(submit(client.clone(), batch, news, tasks).await?);
    }
    Ok(streams)
}

/// Opens a submission stream. What is sent to the channel is written in order, in batches as large as
/// they have become meanwhile.
async fn submit(
    client: Client,
    batch: usize,
    news: &NewsSender,
    tasks: &mut JoinSet<()>,
) -> anyhow::Result<mpsc::UnboundedSender<Vec<Outgoing>>> {
    let (outgoing, queue) = mpsc::unbounded_channel();
    let mut stream = Submission {
        client,
        batch,
        queue,
        backlog: VecDeque::new(),
        written: VecDeque::new(),
        news: news.clone(),
    };
    let call = stream.open().await.context("cannot open a submission stream")?;
    tasks.spawn(async move { stream.run(call).await });
    Ok(outgoing)
}

struct Submission {
    client: Client,
    batch: usize,
    queue: mpsc::UnboundedReceiver<Vec<Outgoing>>,
    backlog: VecDeque<Outgoing>,
    /// Hashes of the batches that were written and not answered.
    written: VecDeque<Vec<B256>>,
    news: NewsSender,
}

/// Both directions of an open call.
type Call = (mpsc::Sender<SubmitTransactionsRequest>, Streaming<SubmitTransactionsResponse>);

impl Submission {
    async fn open(&mut self) -> Result<Call, Status> {
        let (requests, receiver) = mpsc::channel(2);
        let call = self.client.submit_transactions(ReceiverStream::new(receiver));
        let responses = timeout(OPEN, call)
            .await
            .map_err(|_| Status::deadline_exceeded("the call did not open"))??;
        Ok((requests, responses.into_inner()))
    }

    /// Goes on until nobody sends any more.
    async fn run(mut self, mut call: Call) {
        loop {
            let Err(status) = self.carry(&mut call).await else {
                return;
            };
            // What was written may have been taken: it is sent again, which is safe.
            let lost = self.written.drain(..).flatten();
            let mut answers: Vec<_> = lost.map(|hash| (hash, Answer::lost())).collect();
            if !may_reopen(&status) {
                let error = anyhow!("submission stream ended: {status}");
                self.news.send(News::Broken(error)).ok();
                return;
            }
            loop {
                // What has not been written is answered too, so that retries are counted as such.
                answers.extend(self.backlog.drain(..).map(|out| (out.hash, Answer::lost())));
                self.news.send(News::Answers(std::mem::take(&mut answers))).ok();
                sleep(PAUSE).await;
                if let Ok(opened) = self.open().await {
                    call = opened;
                    break;
                }
                while let Ok(batch) = self.queue.try_recv() {
                    self.backlog.extend(batch);
                }
            }
        }
    }

    /// Writes and reads until the call breaks, or `Ok` when there is nothing more to write.
    async fn carry(&mut self, (requests, responses): &mut Call) -> Result<(), Status> {
        loop {
            let writing = !self.backlog.is_empty();
            tokio::select! {
                batch = self.queue.recv() => match batch {
                    Some(batch) => self.backlog.extend(batch),
                    None => return Ok(()),
                },
                permit = requests.reserve(), if writing => {
                    let permit = permit.map_err(|_| Status::unavailable("the call has ended"))?;
                    while let Ok(batch) = self.queue.try_recv() {
                        self.backlog.extend(batch);
                    }
                    permit.send(self.next_batch());
                }
                response = responses.message() => {
                    let ended = || Status::unavailable("the cluster ended the stream");
                    self.answered(response?.ok_or_else(ended)?);
                }
            }
        }
    }

    fn next_batch(&mut self) -> SubmitTransactionsRequest {
        let mut request = SubmitTransactionsRequest::default();
        let mut hashes = Vec::new();
        let mut size = 0;
        while let Some(next) = self.backlog.front()
            && hashes.len() < self.batch
            && (hashes.is_empty() || size + next.raw.len() <= BATCH_BYTES)
        {
            size += next.raw.len();
            hashes.push(next.hash);
            request.transactions.push(transaction(&next.raw));
            self.backlog.pop_front();
        }
        self.written.push_back(hashes);
        request
    }

    fn answered(&mut self, response: SubmitTransactionsResponse) {
        let hashes = self.written.pop_front().unwrap_or_default();
        let mut results = response.results.into_iter();
        let answers = hashes.into_iter().map(|hash| {
            let answer = results.next().map_or_else(Answer::lost, Answer::read);
            (hash, answer)
        });
        self.news.send(News::Answers(answers.collect())).ok();
    }
}

/// Follows the receipts of `senders`. When it returns, none of later submissions is missed.
async fn watch_receipts(
    grpc: &Grpc,
    senders: &[Address],
    news: &NewsSender,
    tasks: &mut JoinSet<()>,
) -> Result<(), Status> {
    for (index, chunk) in senders.chunks(MOST_ADDRESSES).enumerate() {
        let request = WatchReceiptsRequest {
            senders: chunk
                .iter()
                .map(|sender| bytes::Bytes::copy_from_slice(sender.as_slice()))
                .collect(),
            hashes: Vec::new(),
            compact: true,
        };
        let client = grpc.clients[index % grpc.clients.len()].clone();
        let stream = watch(client.clone(), request.clone()).await?;
        tasks.spawn(follow(client, request, stream, news.clone()));
    }
    Ok(())
}

async fn watch(
    mut client: Client,
    request: WatchReceiptsRequest,
) -> Result<Streaming<WatchReceiptsResponse>, Status> {
    let stream = timeout(OPEN, client.watch_receipts(request))
        .await
        .map_err(|_| Status::deadline_exceeded("the call did not open"))??;
    Ok(stream.into_inner())
}

async fn follow(
    client: Client,
    request: WatchReceiptsRequest,
    mut stream: Streaming<WatchReceiptsResponse>,
    news: NewsSender,
) {
    loop {
        let status = loop {
            match stream.message().await {
                Ok(Some(response)) => {
                    let at = Instant::now();
                    let receipts = response.receipts.iter();
                    let events = receipts.filter_map(|receipt| Event::read(receipt, at)).collect();
                    news.send(News::Receipts(events)).ok();
                    if response.lost > 0 {
                        news.send(News::Missed).ok();
                    }
                }
                Ok(None) => break Status::unavailable("the cluster ended the stream"),
                Err(status) => break status,
            }
        };
        if !may_reopen(&status) {
            let error = anyhow!("stream of receipts ended: {status}");
            news.send(News::Broken(error)).ok();
            return;
        }
        loop {
            sleep(PAUSE).await;
            if let Ok(opened) = watch(client.clone(), request.clone()).await {
                stream = opened;
                break;
            }
        }
        // Only now, so that nothing falls between the answers and the stream.
        if news.send(News::Missed).is_err() {
            return;
        }
    }
}
