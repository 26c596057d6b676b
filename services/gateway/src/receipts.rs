//! `GetReceipt` and `WatchReceipts`.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::{Address, B256};
use atoll_api::state::{Lookup, ReceiptEvent, StateError, TxStatus};
use atoll_fabric::Context;
use atoll_types::{Finality, ShardId};
use atoll_wire::v1::get_receipt_request::Wait as Until;
use atoll_wire::v1::{
    GetReceiptRequest, TransactionFinality, TransactionReceipt, WatchReceiptsRequest,
    WatchReceiptsResponse,
};
use futures::future;
use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tonic::Status;

use crate::backlog::{End, Seat};
use crate::convert;
use crate::feed::{Batch, Event, Hub, Notice};
use crate::outcome::exhausted;
use crate::query::status_of;
use crate::{Limits, ShardLinks};

/// Receipts of one response of a watch, about, in bytes: half of what clients take by default.
const RESPONSE_BYTES: usize = 2 << 20;
/// What is left of a request's time for the answer after a wait.
const ANSWER_TIME: Duration = Duration::from_secs(1);

/// What every request for receipts shares.
pub(crate) struct Receipts {
    pub hub: Arc<Hub>,
    pub shards: Arc<[ShardLinks]>,
    pub limits: Limits,
    pub waiters: Arc<Semaphore>,
}

/// The responses of one watch.
pub(crate) type Watched = BoxStream<'static, Result<WatchReceiptsResponse, Status>>;

impl Receipts {
    pub async fn get(
        &self,
        request: GetReceiptRequest,
        context: Context,
    ) -> Result<TransactionReceipt, Status> {
        let tx = convert::read_hash("hash", &request.hash)?;
        let until = match Until::try_from(request.wait) {
            Ok(Until::Unspecified | Until::None) => None,
            Ok(Until::Executed) => Some(Finality::Executed),
            Ok(Until::Final) => Some(Finality::Final),
            Err(_) => {
                let wait = request.wait;
                return Err(Status::invalid_argument(format!(
                    "field `wait` must be NONE, EXECUTED or FINAL, it is {wait}"
                )));
            }
        };
        let status = match until {
            None => self.look_up(tx, context).await?,
            Some(until) => {
                let limit = self.limits.waiters;
                let _place = self
                    .waiters
                    .try_acquire()
                    .map_err(|_| exhausted(format!("{limit} requests wait, the limit")))?;
                let deadline = Instant::now() + self.patience(request.timeout_ms);
                self.wait(tx, until, deadline, context).await?
            }
        };
        match status {
            Some(status) => Ok(self.told(tx, status)),
            None => Err(Status::not_found(format!("transaction {tx} is not known to any shard"))),
        }
    }

    /// How long a request may wait.
    fn patience(&self, timeout_ms: u64) -> Duration {
        let longest = self.limits.patience().saturating_sub(ANSWER_TIME);
        match timeout_ms {
            0 => longest,
            _ => longest.min(Duration::from_millis(timeout_ms)),
        }
    }

    /// What is known once it is enough or the deadline has come.
    async fn wait(
        &self,
        tx: B256,
        until: Finality,
        deadline: Instant,
        context: Context,
    ) -> Result<Option<TxStatus>, Status> {
        let mut wait = self.hub.wait(tx);
        let mut status = self.look_up(tx, context.clone()).await?;
        while !is_enough(status.as_ref(), until) {
            match tokio::time::timeout_at(deadline, wait.notice.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(Status::unavailable("the gateway is stopping")),
                Err(_) => return Ok(status),
            }
            let Notice { status: told, look_up } = wait.notice.get_and_update();
            if told.is_some() {
                status = told;
            }
            if look_up && !is_enough(status.as_ref(), until) {
                status = self.look_up(tx, context.clone()).await?;
            }
        }
        Ok(status)
    }

    /// Asks the sender's shard or, if that is not known, all of them. `None` if nobody knows it.
    pub async fn look_up(&self, tx: B256, context: Context) -> Result<Option<TxStatus>, Status> {
        if let Some(origin) = self.hub.recent.get(&tx) {
            let found = self.ask(origin.shard, tx, context.clone()).await;
            // The pool has it, or it had not come further when it was asked.
            return Ok(Some(
                found.map_err(|error| status_of(&error, &context))?.unwrap_or(TxStatus::Pending),
            ));
        }
        let shards = 0..self.shards.len();
        let asked = shards.map(|shard| {
            self.ask(ShardId(u16::try_from(shard).unwrap_or(u16::MAX)), tx, context.clone())
        });
        let mut failed = None;
        for found in future::join_all(asked).await {
            match found {
                Ok(Some(status)) => return Ok(Some(status)),
                Ok(None) => {}
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(None), |error| Err(status_of(&error, &context)))
    }

    async fn ask(
        &self,
        shard: ShardId,
        tx: B256,
        context: Context,
    ) -> Result<Option<TxStatus>, StateError> {
        let lookup = &self.shards[usize::from(shard.0)].lookup;
        let reply = lookup.call(context, Lookup { txs: vec![tx] }).await?;
        Ok(reply.statuses.into_iter().next().flatten())
    }

    fn told(&self, tx: B256, status: TxStatus) -> TransactionReceipt {
        let sender = || self.hub.recent.get(&tx).map(|origin| origin.sender);
        match status {
            TxStatus::Pending => convert::bare(tx, TransactionFinality::Pending, sender()),
            TxStatus::Done(event) => convert::receipt(&event),
            TxStatus::Dropped { reason } => TransactionReceipt {
                dropped_reason: reason,
                ..convert::bare(tx, TransactionFinality::Dropped, sender())
            },
        }
    }

    /// Waits until every shard's receipts are followed.
    pub async fn follows(&self) {
        self.hub.follows(self.shards.len()).await;
    }

    pub fn watch(&self, request: WatchReceiptsRequest) -> Result<Watched, Status> {
        let (found, limit) =
            (request.senders.len() + request.hashes.len(), self.limits.watch_filter);
        if found > limit {
            return Err(Status::invalid_argument(format!(
                "{found} senders and hashes, the limit is {limit}"
            )));
        }
        let filter = Filter::new(&request)?;
        let limit = self.limits.watchers;
        let seat = self
            .hub
            .backlog
            .watch()
            .ok_or_else(|| exhausted(format!("{limit} watchers are there, the limit")))?;
        let watcher = Watcher { seat, filter, batch: None };
        Ok(stream::unfold(Some(watcher), |watcher| async move {
            let mut watcher = watcher?;
            match watcher.next().await {
                Ok(response) => Some((Ok(response), Some(watcher))),
                Err(End::TooSlow) => Some((Err(too_slow()), None)),
                Err(End::Stopping) => {
                    Some((Err(Status::unavailable("the gateway is stopping")), None))
                }
            }
        })
        .boxed())
    }
}

fn too_slow() -> Status {
    Status::resource_exhausted(
        "this stream was read too slowly; watch again, and look up what was missed",
    )
}

fn is_enough(status: Option<&TxStatus>, until: Finality) -> bool {
    match status {
        Some(TxStatus::Done(event)) => event.finality >= until,
        Some(TxStatus::Dropped { .. }) => true,
        Some(TxStatus::Pending) | None => false,
    }
}

/// Which events a watcher gets, and how much of them.
struct Filter {
    all: bool,
    senders: HashSet<Address>,
    hashes: HashSet<B256>,
    compact: bool,
}

impl Filter {
    fn new(request: &WatchReceiptsRequest) -> Result<Self, Status> {
        let senders = request.senders.iter();
        let hashes = request.hashes.iter();
        Ok(Self {
            all: request.senders.is_empty() && request.hashes.is_empty(),
            senders: senders
                .map(|sender| convert::read_address("senders", sender))
                .collect::<Result<_, _>>()?,
            hashes: hashes
                .map(|hash| convert::read_hash("hashes", hash))
                .collect::<Result<_, _>>()?,
            compact: request.compact,
        })
    }

    fn wants(&self, event: &Event) -> bool {
        self.all
            || event.sender().is_some_and(|sender| self.senders.contains(&sender))
            || self.hashes.contains(&event.tx())
    }

    fn told(&self, event: &Event) -> TransactionReceipt {
        let sender = event.sender().filter(|_| !self.compact);
        match event {
            Event::Receipt(event) => self.executed(event),
            Event::Finalized { tx, cut, .. } => TransactionReceipt {
                cut: *cut,
                ..convert::bare(*tx, TransactionFinality::Final, sender)
            },
            Event::Dropped { tx, reason, .. } => TransactionReceipt {
                dropped_reason: reason.clone(),
                ..convert::bare(*tx, TransactionFinality::Dropped, sender)
            },
        }
    }

    fn executed(&self, event: &ReceiptEvent) -> TransactionReceipt {
        if self.compact { convert::compact(event) } else { convert::receipt(event) }
    }
}

struct Watcher {
    seat: Seat,
    filter: Filter,
    /// What of the last batch was too long for one response begins at this event.
    batch: Option<(Arc<Batch>, usize)>,
}

impl Watcher {
    /// The next response that has anything in it.
    async fn next(&mut self) -> Result<WatchReceiptsResponse, End> {
        loop {
            let (batch, from) = match self.batch.take() {
                Some(rest) => rest,
                None => (self.seat.next().await?, 0),
            };
            let mut response = WatchReceiptsResponse {
                lost: if from == 0 { batch.lost } else { 0 },
                ..WatchReceiptsResponse::default()
            };
            let mut size_bytes = 0;
            for (index, event) in batch.events.iter().enumerate().skip(from) {
                if !self.filter.wants(event) {
                    continue;
                }
                let size = event.size_bytes();
                if size_bytes > 0 && size_bytes + size > RESPONSE_BYTES {
                    self.batch = Some((batch.clone(), index));
                    break;
                }
                size_bytes += size;
                response.receipts.push(self.filter.told(event));
            }
            if !response.receipts.is_empty() || response.lost > 0 {
                return Ok(response);
            }
        }
    }
}
