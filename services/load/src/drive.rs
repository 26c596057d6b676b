//! Sends a schedule of signed transactions and follows them to their end.

use std::{collections::VecDeque, time::Duration};

use alloy_primitives::{Address, B256};
use anyhow::bail;
use tokio::{
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep_until, timeout},
};

use crate::{
    counted::Counted,
    flight::{Flight, Outgoing},
    report::progress,
    schedule::Schedule,
    sign::{Chunk, Signed},
    stats::{Stats, cpu_seconds},
    streams,
    wire::{Answer, Cluster, Event, Link},
};

/// No more often than this all outstanding transactions are asked for after the stream of receipts
/// lost some.
const ASK_INTERVAL: Duration = Duration::from_secs(2);
/// How long it may take to ask for what is outstanding at the end.
const LAST_ASK: Duration = Duration::from_secs(10);

/// What the streams report.
pub enum News {
    Answers(Vec<(B256, Answer)>),
    Receipts(Vec<Event>),
    /// Receipts were missed.
    Missed,
    /// The receipts that were asked for one by one have all come.
    Asked,
    /// A stream cannot go on.
    Broken(anyhow::Error),
}

/// How to drive.
pub struct Plan<'a> {
    pub schedule: Schedule,
    /// Most unfinished transactions.
    pub window: usize,
    /// Most unfinished transactions of one account.
    pub per_account: u32,
    /// How long to wait after the last was sent; without a duration, after the first was.
    pub drain: Duration,
    /// What the progress lines call it.
    pub name: &'a str,
    /// Stop at the first failure.
    pub fail_fast: bool,
    /// No progress lines.
    pub quiet: bool,
}

/// What came out.
#[derive(Debug)]
pub struct Outcome {
    pub stats: Stats,
    /// Cores that this process used during the measured time.
    pub cpu_cores: f64,
    /// Times that the stream of receipts missed some.
    pub missed: u64,
    /// What the cluster has counted in the measured time, if it says.
    pub counted: Option<Counted>,
}

/// Sends what `source` gives. `senders` holds the address of each account. Ends early, but in order,
/// when `stop` becomes true.
pub async fn drive(
    cluster: &Cluster,
    senders: &[Address],
    source: mpsc::Receiver<Chunk>,
    plan: Plan<'_>,
    stop: &mut watch::Receiver<bool>,
) -> anyhow::Result<Outcome> {
    let (news_out, news) = mpsc::unbounded_channel();
    // Dropped at the end, which ends the streams.
    let mut tasks = JoinSet::new();
    let batch = cluster.chain.batch;
    let streams = match &cluster.link {
        Link::Grpc(grpc) => streams::open(grpc, batch, senders, &news_out, &mut tasks).await?,
        Link::Rpc(node) => node.open(batch, &news_out, &mut tasks).await?,
    };
    let start = Instant::now();
    let begin = start + plan.schedule.warmup;
    let end = plan.schedule.end().map(|end| start + end);
    let stats = Stats::new(end.map(|end| (begin, end)));
    let mut driver = Driver {
        flight: Flight::new(stats, senders.len(), streams.len(), plan.per_account),
        cluster,
        source: Some(source),
        buffer: VecDeque::new(),
        index: 0,
        start,
        end,
        streams,
        news,
        news_out,
        missed: 0,
        asking: false,
        ask_all: false,
        ask_after: start,
        cpu: Cpu::default(),
        counting: Vec::new(),
        begin,
        plan,
    };
    driver.send(stop).await?;
    driver.drain(stop).await?;
    Ok(driver.finish().await)
}

/// CPU time at the ends of the measured time.
#[derive(Default)]
struct Cpu {
    begin: Option<(Instant, f64)>,
    end: Option<(Instant, f64)>,
}

/// A question to the cluster that nothing waits for before the end.
type Counting = JoinHandle<Option<Counted>>;

struct Driver<'a> {
    flight: Flight,
    cluster: &'a Cluster,
    /// `None` once it has ended.
    source: Option<mpsc::Receiver<Chunk>>,
    buffer: VecDeque<Signed>,
    /// Number of the next transaction.
    index: u64,
    start: Instant,
    begin: Instant,
    end: Option<Instant>,
    streams: Vec<mpsc::UnboundedSender<Vec<Outgoing>>>,
    news: mpsc::UnboundedReceiver<News>,
    news_out: mpsc::UnboundedSender<News>,
    missed: u64,
    asking: bool,
    ask_all: bool,
    ask_after: Instant,
    cpu: Cpu,
    /// What the cluster says at the ends of the measured time.
    counting: Vec<Counting>,
    plan: Plan<'a>,
}

impl Driver<'_> {
    /// Sends until the schedule, or what there is to send, ends.
    async fn send(&mut self, stop: &mut watch::Receiver<bool>) -> anyhow::Result<()> {
        let deadline = match self.end {
            Some(end) => end,
            None => self.start + self.plan.drain,
        };
        let mut tick = self.start;
        loop {
            let now = Instant::now();
            let next = self.offer_due(now)?.min(deadline);
            self.turn(now)?;
            if self.cpu.begin.is_none() && now >= self.begin {
                self.cpu.begin = Some((now, cpu_seconds()));
                self.count();
            }
            if now >= tick {
                self.show(now);
                tick = now + Duration::from_secs(1);
            }
            let all = self.source.is_none() && self.buffer.is_empty();
            if all || now >= deadline || *stop.borrow() {
                break;
            }
            let starved = self.buffer.is_empty();
            let wake = self.next_wake(next.min(tick));
            tokio::select! {
                news = self.news.recv() => self.take(news)?,
                chunk = async { self.source.as_mut()?.recv().await }, if starved => match chunk {
                    Some(chunk) => self.buffer.extend(chunk?),
                    None => self.source = None,
                },
                () = sleep_until(wake) => {}
                _ = stop.changed() => {}
            }
        }
        let now = Instant::now();
        self.cpu.end = Some((now, cpu_seconds()));
        self.count();
        if *stop.borrow() {
            self.flight.stats.cut_short(now);
        } else {
            let unsent = self.plan.schedule.measured_from(self.index);
            self.flight.stats.fail("unsent", unsent);
        }
        Ok(())
    }

    /// Offers what is due and has room. When the next one will be, if it is known.
    fn offer_due(&mut self, now: Instant) -> anyhow::Result<Instant> {
        let far = now + Duration::from_secs(3_600);
        while self.flight.moving() < self.plan.window {
            let due = match self.plan.schedule.due(self.index) {
                Some(due) => self.start + due,
                None => now,
            };
            if self.end.is_some_and(|end| due >= end) {
                return Ok(far);
            }
            if due > now {
                return Ok(due);
            }
            if self.buffer.is_empty()
                && let Some(source) = &mut self.source
                && let Ok(chunk) = source.try_recv()
            {
                self.buffer.extend(chunk?);
            }
            let Some(signed) = self.buffer.pop_front() else {
                return Ok(far);
            };
            self.flight.offer(signed, due, now);
            self.index += 1;
        }
        Ok(far)
    }

    /// Waits for what is outstanding.
    async fn drain(&mut self, stop: &mut watch::Receiver<bool>) -> anyhow::Result<()> {
        let from = self.end.map_or(self.start, |_| Instant::now());
        let deadline = from + self.plan.drain;
        let stopped = *stop.borrow_and_update();
        let mut tick = from + Duration::from_secs(1);
        loop {
            let now = Instant::now();
            self.turn(now)?;
            if now >= tick {
                self.show(now);
                tick = now + Duration::from_secs(1);
            }
            // Asked to stop while sending: wait for what was sent. Asked again, or while waiting: end.
            if self.flight.outstanding() == 0 || stop.has_changed().unwrap_or(stopped) {
                return Ok(());
            }
            if now >= deadline {
                break;
            }
            let wake = self.next_wake(deadline.min(tick));
            tokio::select! {
                news = self.news.recv() => self.take(news)?,
                () = sleep_until(wake) => {}
                changed = stop.changed(), if !stopped => { changed.ok(); return Ok(()) }
            }
        }
        let outstanding = self.flight.sent();
        if let Ok(events) = timeout(LAST_ASK, self.cluster.receipts(outstanding)).await {
            events.iter().for_each(|event| self.flight.receipt(event));
        }
        Ok(())
    }

    /// Asks the cluster what it has counted, beside everything else.
    fn count(&mut self) {
        if self.plan.schedule.duration.is_some() {
            let cluster = self.cluster.clone();
            self.counting.push(tokio::spawn(async move { cluster.counted().await }));
        }
    }

    async fn finish(self) -> Outcome {
        let cores = |(from, before): (Instant, f64), (to, after): (Instant, f64)| {
            let elapsed = to.saturating_duration_since(from).as_secs_f64();
            if elapsed > 0.0 { (after - before) / elapsed } else { 0.0 }
        };
        let cpu_cores = self.cpu.begin.zip(self.cpu.end).map(|(a, b)| cores(a, b));
        let mut counted = Vec::new();
        for asked in self.counting {
            counted.push(asked.await.ok().flatten());
        }
        let counted = match counted[..] {
            [Some(before), Some(after)] => after.since(&before),
            _ => None,
        };
        Outcome {
            stats: self.flight.close(),
            cpu_cores: cpu_cores.unwrap_or(0.0),
            missed: self.missed,
            counted,
        }
    }

    /// Everything but new transactions: retries, writes, questions.
    fn turn(&mut self, now: Instant) -> anyhow::Result<()> {
        self.flight.wake(now);
        for (stream, batch) in self.flight.outbox() {
            // A stream that is gone has reported why.
            self.streams[stream].send(batch).ok();
        }
        if !self.asking {
            let mut hashes = self.flight.unclear();
            if self.ask_all && now >= self.ask_after {
                self.ask_all = false;
                self.ask_after = now + ASK_INTERVAL;
                hashes = self.flight.sent();
            }
            if !hashes.is_empty() {
                self.ask(hashes);
            }
        }
        if self.plan.fail_fast
            && let Some(reason) = &self.flight.stats.first_failure
        {
            bail!("{reason}");
        }
        Ok(())
    }

    /// Asks for receipts one by one, beside everything else.
    fn ask(&mut self, hashes: Vec<B256>) {
        self.asking = true;
        let (cluster, news) = (self.cluster.clone(), self.news_out.clone());
        tokio::spawn(async move {
            // Whoever asked may have ended.
            news.send(News::Receipts(cluster.receipts(hashes).await)).ok();
            news.send(News::Asked).ok();
        });
    }

    fn next_wake(&self, other: Instant) -> Instant {
        let wake = self.flight.next_wake().unwrap_or(other);
        let ask = if self.ask_all { self.ask_after } else { other };
        wake.min(ask).min(other)
    }

    /// Takes what the streams have, at most a few thousand messages at a time.
    fn take(&mut self, first: Option<News>) -> anyhow::Result<()> {
        let mut next = first;
        let mut count = 0;
        while let Some(news) = next {
            let now = Instant::now();
            match news {
                News::Answers(answers) => {
                    for (hash, answer) in answers {
                        self.flight.answered(&hash, &answer, now);
                    }
                }
                News::Receipts(events) => {
                    events.iter().for_each(|event| self.flight.receipt(event));
                }
                News::Missed => {
                    self.missed += 1;
                    self.ask_all = true;
                }
                News::Asked => self.asking = false,
                News::Broken(error) => return Err(error),
            }
            count += 1;
            next = if count < 4_096 { self.news.try_recv().ok() } else { None };
        }
        Ok(())
    }

    fn show(&self, now: Instant) {
        if self.plan.quiet {
            return;
        }
        let elapsed = now.duration_since(self.start).as_secs();
        let outstanding = self.flight.outstanding();
        progress(&format!(
            "{}: {elapsed} s, {} sent, {outstanding} outstanding, {} failed",
            self.plan.name,
            self.index,
            self.flight.stats.failed(),
        ));
    }
}
