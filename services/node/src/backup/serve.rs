//! The side of a running process: has all states take a snapshot at one cut, and passes them on.

use std::{pin::Pin, time::Duration};

use anyhow::{Context as _, bail};
use atoll_api::{
    beacon::{BeaconClient, BeaconError, Head, ReadBeaconSnapshot, TakeBeaconSnapshot},
    state::{ReadSnapshot, SnapshotTaken, StateClient, StateError, TakeSnapshot},
};
use atoll_fabric::{Context, Link, Rpc};
use atoll_wire::v1::{
    BackupRequest, BackupResponse,
    admin_service_server::{AdminService, AdminServiceServer},
    backup_response::{Begin, File, Item},
};
use tokio::sync::{Mutex, mpsc};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, async_trait};

use crate::config::Chain;

/// Cuts from the newest one to that of the first attempt: every state has to hear of it before it is
/// there. Each attempt looks twice as far.
const FIRST_MARGIN: u64 = 4;
const ATTEMPTS: u32 = 8;
/// How long snapshots that are being written already are waited for: hours, for a state that large.
const PATIENCE: Duration = Duration::from_secs(4 * 3600);
/// How long one call waits before it is repeated.
const WAIT: Duration = Duration::from_secs(20);
/// Calls that wait for a snapshot, one after another: hours, for a state that large.
const CALLS: u32 = 720;
const PAUSE: Duration = Duration::from_millis(500);
/// Pieces on their way to a slow reader.
const QUEUE: usize = 4;

/// Answers an operator.
pub(crate) struct Admin {
    beacon: BeaconClient,
    states: Vec<StateClient>,
    chain: Chain,
    /// One backup at a time.
    busy: std::sync::Arc<Mutex<()>>,
}

/// A gRPC service that takes backups through these links.
pub(crate) fn server(
    beacon: BeaconClient,
    states: Vec<StateClient>,
    chain: Chain,
) -> AdminServiceServer<Admin> {
    AdminServiceServer::new(Admin { beacon, states, chain, busy: Default::default() })
}

type Sender = mpsc::Sender<Result<BackupResponse, Status>>;

#[async_trait]
impl AdminService for Admin {
    type BackupStream = Pin<Box<dyn Stream<Item = Result<BackupResponse, Status>> + Send>>;

    async fn backup(
        &self,
        _: Request<BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        let Ok(alone) = self.busy.clone().try_lock_owned() else {
            return Err(Status::resource_exhausted("another backup is being taken; wait for it"));
        };
        let (sender, receiver) = mpsc::channel(QUEUE);
        let work = Work {
            beacon: self.beacon.clone(),
            states: self.states.clone(),
            chain: self.chain.clone(),
            patience: PATIENCE,
            pause: PAUSE,
        };
        tokio::spawn(async move {
            let _alone = alone;
            let done = tokio::select! {
                done = work.stream(&sender) => done,
                () = sender.closed() => Err(anyhow::anyhow!("its reader has gone")),
            };
            if let Err(error) = done {
                tracing::warn!(error = format!("{error:#}"), "no backup");
                // The reader may be gone.
                let _ = sender.send(Err(Status::unavailable(format!("{error:#}")))).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

struct Work {
    beacon: BeaconClient,
    states: Vec<StateClient>,
    chain: Chain,
    patience: Duration,
    /// Between two questions.
    pause: Duration,
}

/// Why there are no snapshots at a cut.
#[derive(Debug)]
enum Missed {
    /// This one is writing another.
    Busy(String),
    Failed(anyhow::Error),
}

impl Work {
    async fn stream(&self, sender: &Sender) -> anyhow::Result<()> {
        let (cut, beacon, states) = self.take().await?;
        let chain = serde_json::to_string(&self.chain)?;
        send(sender, Item::Begin(Begin { cut, chain })).await?;
        begin(sender, "beacon", &beacon).await?;
        let read = |offset| ReadBeaconSnapshot { number: beacon.number, offset };
        pass_on(sender, "beacon", beacon.bytes, &self.beacon.read_snapshot, read, |p| p.piece.0)
            .await?;
        for (id, taken) in states.iter().enumerate() {
            let name = format!("shard-{id}");
            begin(sender, &name, taken).await?;
            let read = |offset| ReadSnapshot { number: taken.number, offset };
            let link = &self.states[id].read_snapshot;
            pass_on(sender, &name, taken.bytes, link, read, |piece| piece.piece.0).await?;
        }
        Ok(())
    }

    /// Snapshots of all at one cut. An attempt is one that nobody was busy for.
    async fn take(&self) -> anyhow::Result<(u64, SnapshotTaken, Vec<SnapshotTaken>)> {
        let mut busy = String::new();
        let taking = async {
            let mut attempt = 0;
            loop {
                self.until_idle(&mut busy).await;
                let head = self.beacon.head.call(Context::none().with_timeout(WAIT), Head).await;
                let head = head.context("the beacon does not answer")?.block.number();
                let cut = head + (FIRST_MARGIN << attempt);
                match self.take_at(cut).await {
                    Ok((beacon, states)) => return Ok((cut, beacon, states)),
                    Err(Missed::Busy(who)) => busy = who,
                    Err(Missed::Failed(error)) if attempt + 1 == ATTEMPTS => {
                        return Err(error).context("no cut was found that all take");
                    }
                    Err(Missed::Failed(_)) => attempt += 1,
                }
                tracing::info!(cut, "no snapshots at this cut; trying a later one");
                tokio::time::sleep(self.pause).await;
            }
        };
        let taken = tokio::time::timeout(self.patience, taking).await;
        taken.unwrap_or_else(|_| {
            let who = if busy.is_empty() { "nobody" } else { &busy };
            let patience = self.patience;
            bail!("no backup within {patience:?}; last to be busy with another snapshot: {who}")
        })
    }

    /// Waits until nobody writes a snapshot; notes who does.
    async fn until_idle(&self, busy: &mut String) {
        // About a cut that was passed long ago: the answer is whether another is being written.
        let context = || Context::none().with_timeout(WAIT);
        loop {
            let states = self.states.iter().map(|state| async {
                let answer = state.take_snapshot.call(context(), TakeSnapshot { cut: 0 }).await;
                matches!(answer, Err(StateError::SnapshotBusy { .. }))
            });
            let beacon = self.beacon.take_snapshot.call(context(), TakeBeaconSnapshot { block: 0 });
            let (beacon, states) = futures::join!(beacon, futures::future::join_all(states));
            if let Some(id) = states.iter().position(|is_busy| *is_busy) {
                *busy = format!("shard {id}");
            } else if matches!(beacon, Err(BeaconError::SnapshotBusy { .. })) {
                "the beacon".clone_into(busy);
            } else {
                return;
            }
            tokio::time::sleep(self.pause).await;
        }
    }

    async fn take_at(&self, cut: u64) -> Result<(SnapshotTaken, Vec<SnapshotTaken>), Missed> {
        let states = self.states.iter().enumerate().map(|(id, state)| async move {
            let no = |error: &StateError| {
                matches!(error, StateError::NoSnapshot { .. } | StateError::SnapshotBusy { .. })
            };
            let taken = ask(&state.take_snapshot, || TakeSnapshot { cut }, no).await;
            taken.map_err(|error| {
                let who = format!("shard {id}");
                match error {
                    StateError::SnapshotBusy { .. } => Missed::Busy(who),
                    error => Missed::Failed(anyhow::Error::from(error).context(who)),
                }
            })
        });
        let beacon = async {
            let no = |error: &BeaconError| {
                matches!(error, BeaconError::NoSnapshot { .. } | BeaconError::SnapshotBusy { .. })
            };
            let taken =
                ask(&self.beacon.take_snapshot, || TakeBeaconSnapshot { block: cut }, no).await;
            taken.map_err(|error| match error {
                BeaconError::SnapshotBusy { .. } => Missed::Busy("the beacon".to_owned()),
                error => Missed::Failed(anyhow::Error::from(error).context("the beacon")),
            })
        };
        let all = futures::future::try_join_all(states);
        let (beacon, states) = futures::future::try_join(beacon, all).await?;
        Ok((beacon, states))
    }
}

/// Asks until there is an answer.
async fn ask<M>(
    link: &Link<M>,
    message: impl Fn() -> M,
    no: impl Fn(&M::Error) -> bool,
) -> Result<SnapshotTaken, M::Error>
where
    M: Rpc<Reply = SnapshotTaken>,
{
    let mut calls = 0;
    loop {
        let context = Context::none().with_timeout(WAIT);
        match link.call(context, message()).await {
            Ok(taken) => return Ok(taken),
            Err(error) if no(&error) || calls >= CALLS => return Err(error),
            Err(_) => calls += 1,
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn begin(sender: &Sender, name: &str, taken: &SnapshotTaken) -> anyhow::Result<()> {
    let SnapshotTaken { number, bytes, digest } = taken.clone();
    let (name, digest) = (name.to_owned(), bytes::Bytes::copy_from_slice(digest.as_slice()));
    send(sender, Item::File(File { name, number, bytes, digest })).await
}

/// Passes a snapshot on, piece by piece.
async fn pass_on<M: Rpc>(
    sender: &Sender,
    name: &str,
    bytes: u64,
    link: &Link<M>,
    read: impl Fn(u64) -> M,
    piece_of: impl Fn(M::Reply) -> bytes::Bytes,
) -> anyhow::Result<()> {
    let mut offset = 0;
    let mut failures = 0;
    while offset < bytes {
        let context = Context::none().with_timeout(WAIT);
        match link.call(context, read(offset)).await {
            Ok(reply) => {
                let piece = piece_of(reply);
                if piece.is_empty() {
                    bail!("the snapshot of {name} ends at byte {offset} of {bytes}");
                }
                offset += piece.len() as u64;
                send(sender, Item::Piece(piece)).await?;
            }
            Err(error) if failures >= 5 => return Err(error).context(name.to_owned()),
            Err(_) => {
                failures += 1;
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    Ok(())
}

async fn send(sender: &Sender, item: Item) -> anyhow::Result<()> {
    let sent = sender.send(Ok(BackupResponse { item: Some(item) })).await;
    sent.ok().context("the reader of the backup has gone")
}

#[cfg(test)]
mod tests;
