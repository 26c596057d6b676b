//! Transactions that come one by one. Those that arrive at the same time go on together: first to the
//! recovery pool, then, shard by shard, to the mempools. A shard that hangs holds up only its own.

use std::sync::Arc;

use atoll_types::{ShardId, TraceContext, Tx};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;

use crate::Limits;
use crate::outcome::Offered;
use crate::submit::{Raw, Submitter, size_kib};

/// Transactions that go on together, at most.
const MICRO_BATCH: usize = 1024;
/// Micro-batches under way at a time at one place: while they are, the next one grows.
const MICRO_BATCHES: usize = 4;

/// The largest transaction.
const LARGEST_KIB: usize = atoll_types::MAX_TX_BYTES / 1024 + 1;

/// Where the end of a transaction is told, and the room that it takes until then.
struct Caller {
    answer: oneshot::Sender<Offered>,
    size_kib: u32,
    _room: OwnedSemaphorePermit,
}

/// As it came.
struct Arrived {
    raw: Raw,
    caller: Caller,
}

/// Its shard is known.
struct Recovered {
    tx: Tx,
    caller: Caller,
    _shard_room: OwnedSemaphorePermit,
}

/// The way in for single transactions.
pub(crate) struct Singles {
    room: Arc<Semaphore>,
    queue: mpsc::Sender<Arrived>,
}

/// The way on to one shard.
struct ShardQueue {
    room: Arc<Semaphore>,
    queue: mpsc::Sender<Recovered>,
}

impl Singles {
    /// Starts a task for recovery and one for each shard; `tasks` keeps them.
    pub fn start(submitter: &Arc<Submitter>, tasks: &mut JoinSet<()>) -> Self {
        let room = room_kib(&submitter.limits);
        // The semaphores are the limits: whatever is in a queue holds one of their permits.
        let shards = (0..).take(submitter.shards.len()).map(|shard| {
            let (queue, waiting) = mpsc::channel(room);
            let submitter = submitter.clone();
            tasks.spawn(in_batches(waiting, move |batch| {
                offer(submitter.clone(), ShardId(shard), batch)
            }));
            let room = Arc::new(Semaphore::new((room / 2).max(LARGEST_KIB)));
            ShardQueue { room, queue }
        });
        let shards: Arc<[ShardQueue]> = shards.collect();
        let (queue, waiting) = mpsc::channel(room);
        let submitter = submitter.clone();
        tasks.spawn(in_batches(waiting, move |batch| {
            recover(submitter.clone(), shards.clone(), batch)
        }));
        let room = Arc::new(Semaphore::new(room));
        Self { room, queue }
    }

    /// Offers one transaction and waits for its end.
    pub async fn submit(&self, bytes: &[u8], trace: Option<TraceContext>) -> Offered {
        let raw = match Raw::new(bytes, trace) {
            Ok(raw) => raw,
            Err(refused) => return refused,
        };
        let size_kib = size_kib(&[bytes]);
        let Ok(room) = self.room.clone().try_acquire_many_owned(size_kib) else {
            return Offered::overloaded("too many transactions are under way; retry after a pause");
        };
        let (answer, end) = oneshot::channel();
        let caller = Caller { answer, size_kib, _room: room };
        let stopping = || Offered::overloaded("the gateway is stopping; try another one");
        if self.queue.try_send(Arrived { raw, caller }).is_err() {
            return stopping();
        }
        end.await.unwrap_or_else(|_| stopping())
    }
}

/// Takes everything waiting as one batch, again and again.
async fn in_batches<T, F>(mut waiting: mpsc::Receiver<T>, work: impl Fn(Vec<T>) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut under_way = JoinSet::new();
    loop {
        while under_way.len() >= MICRO_BATCHES {
            under_way.join_next().await;
        }
        let mut batch = Vec::new();
        if waiting.recv_many(&mut batch, MICRO_BATCH).await == 0 {
            return;
        }
        while under_way.try_join_next().is_some() {}
        under_way.spawn(work(batch));
    }
}

async fn recover(submitter: Arc<Submitter>, shards: Arc<[ShardQueue]>, batch: Vec<Arrived>) {
    // Nobody wants to know of those whose callers have gone.
    let batch = batch.into_iter().filter(|one| !one.caller.answer.is_closed());
    let (raws, callers): (Vec<_>, Vec<_>) = batch.map(|one| (Ok(one.raw), one.caller)).unzip();
    let recovered = submitter.recover(raws).await;
    for (tx, caller) in recovered.into_iter().zip(callers) {
        let tx = match tx {
            Ok(tx) => tx,
            Err(refused) => {
                caller.end(refused);
                continue;
            }
        };
        let shard = submitter.placement.owner(&tx.sender());
        let ShardQueue { room, queue } = &shards[usize::from(shard.0)];
        let Ok(shard_room) = room.clone().try_acquire_many_owned(caller.size_kib) else {
            caller.end(Offered::overloaded(format!(
                "too many transactions for shard {shard} are under way; retry after a pause"
            )));
            continue;
        };
        // Refused only once the gateway is stopping; the caller then finds that out by itself.
        let _ = queue.try_send(Recovered { tx, caller, _shard_room: shard_room });
    }
}

async fn offer(submitter: Arc<Submitter>, shard: ShardId, batch: Vec<Recovered>) {
    let (txs, callers): (Vec<_>, Vec<_>) =
        batch.into_iter().map(|one| (one.tx, (one.caller, one._shard_room))).unzip();
    // Every transaction carries its own trace.
    let offered = submitter.offer(shard, None, txs).await;
    for ((caller, _shard_room), offered) in callers.into_iter().zip(offered) {
        caller.end(offered);
    }
}

impl Caller {
    /// Tells the end; a caller that has gone does not want to know.
    fn end(self, offered: Offered) {
        let _ = self.answer.send(offered);
    }
}

/// Room for single transactions, in KiB: a quarter. Apart from that of streams, which wait for room
/// and would starve those that do not.
fn room_kib(limits: &Limits) -> usize {
    (limits.submit_bytes / 1024 / 4).max(LARGEST_KIB)
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::*;

    #[tokio::test]
    async fn what_waits_while_others_are_under_way_goes_on_together() {
        let (queue, waiting) = mpsc::channel(64);
        let (sizes, mut begun) = mpsc::unbounded_channel();
        let (open, gate) = watch::channel(false);
        let work = move |batch: Vec<u32>| {
            let mut gate = gate.clone();
            sizes.send(batch.len()).expect("the test listens");
            async move {
                gate.wait_for(|open| *open).await.expect("the test goes on");
            }
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(in_batches(waiting, work));
        // As many as go on at a time, one by one.
        for one in 0..MICRO_BATCHES {
            queue.send(one as u32).await.expect("it listens");
            assert_eq!(begun.recv().await, Some(1));
        }
        for one in 0..50 {
            queue.send(one).await.expect("there is room");
            // Time for the task to do what it must not.
            tokio::task::yield_now().await;
        }
        assert_eq!(queue.capacity(), 14, "none is taken while so many are under way");
        open.send_replace(true);
        assert_eq!(begun.recv().await, Some(50));
    }
}
