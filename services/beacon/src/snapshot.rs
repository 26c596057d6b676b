//! Snapshots of the chain: captured at a block, written beside the actor.

use atoll_api::{
    beacon::{BeaconError, ReadBeaconSnapshot, TakeBeaconSnapshot},
    state::{PIECE_BYTES, SnapshotPiece, SnapshotTaken},
};
use atoll_fabric::{Context, Cx, Handle, Reply};
use atoll_journal::{GoOn, Keeper, Snapshotting, Taken, snapshot};
use atoll_store::{SnapshotWriter, StoreError};
use atoll_types::B256;

use crate::actor::BeaconService;

impl BeaconService {
    /// Takes a snapshot if one is due at the block that has just been made. The log record after the
    /// block's is the first one that is not in it.
    pub(crate) fn made(&mut self, cx: &mut Cx<'_, Self>) {
        let block = self.core.planner().head().number();
        let (bytes, low) = (self.journal.bytes(), self.journal.is_low());
        let Some(keeper) = &mut self.keeper else { return };
        let due = keeper.is_due(block, bytes, low);
        let wanted = keeper.passed(block);
        if due {
            let keep = keeper.keeps_from(block);
            let captured = self.core.capture(self.log_next, keep);
            let write =
                |writer: &mut SnapshotWriter, go_on: GoOn<'_>| captured.write(writer, go_on);
            snapshot(self, cx, (block, self.log_next, wanted), write);
        } else if wanted {
            self.tell(block, |block| match low {
                true => Err(BeaconError::NoSnapshot { block, reason: "the volume is full".into() }),
                false => Err(BeaconError::SnapshotBusy { block }),
            });
        }
    }

    /// Answers those who wait for a snapshot at a block.
    fn tell(&mut self, block: u64, answer: impl Fn(u64) -> Result<SnapshotTaken, BeaconError>) {
        for (block, reply) in self.snapshots.extract_if(.., |(at, _)| *at <= block) {
            reply.send(answer(block));
        }
    }
}

impl Snapshotting for BeaconService {
    fn keeper(&mut self) -> Option<&mut Keeper> {
        self.keeper.as_mut()
    }

    fn taken(&mut self, at: u64, taken: Result<Taken, StoreError>) {
        self.tell(at, |block| match &taken {
            Ok(taken) if taken.cut == block => Ok(told(*taken)),
            Ok(_) => Err(BeaconError::SnapshotBusy { block }),
            Err(error) => Err(BeaconError::NoSnapshot { block, reason: error.to_string() }),
        });
    }
}

fn told(taken: Taken) -> SnapshotTaken {
    let atoll_store::Summary { number, bytes, digest, .. } = taken.summary;
    SnapshotTaken { number, bytes, digest: B256::new(digest) }
}

impl Handle<TakeBeaconSnapshot> for BeaconService {
    fn handle(
        &mut self,
        take: TakeBeaconSnapshot,
        _: Context,
        reply: Reply<TakeBeaconSnapshot>,
        _: &mut Cx<'_, Self>,
    ) {
        let (block, newest) = (take.block, self.core.planner().head().number());
        let no = |reason: &str| BeaconError::NoSnapshot { block, reason: reason.to_owned() };
        let Some(keeper) = &mut self.keeper else {
            return reply.err(no("none are taken here"));
        };
        if let Some(taken) = keeper.at(block) {
            return reply.ok(told(taken));
        }
        // Not only when the block comes: so nobody else takes one for nothing.
        if keeper.is_busy(block) {
            return reply.err(BeaconError::SnapshotBusy { block });
        }
        self.snapshots.retain(|(_, reply)| !reply.is_abandoned());
        // Whoever asks again while it is being written waits for it.
        if block <= newest && !keeper.is_writing(block) {
            return reply.err(no(&format!("block {newest} has been made")));
        }
        if block > newest && !keeper.ask(block) {
            return reply.err(no("too many are asked for"));
        }
        self.snapshots.push((block, reply));
    }
}

impl Handle<ReadBeaconSnapshot> for BeaconService {
    fn handle(
        &mut self,
        read: ReadBeaconSnapshot,
        _: Context,
        reply: Reply<ReadBeaconSnapshot>,
        cx: &mut Cx<'_, Self>,
    ) {
        let Some(keeper) = &self.keeper else {
            let reason = "no snapshots are taken here".to_owned();
            return reply.err(BeaconError::Storage { reason });
        };
        let snapshots = keeper.snapshots().clone();
        let piece = move || snapshots.piece(read.number, read.offset, PIECE_BYTES);
        let read = cx.machine().run(piece);
        cx.spawn(read, move |_, piece, _| {
            let failed = |reason: String| BeaconError::Storage { reason };
            reply.send(match piece {
                Ok(Ok((piece, _))) => Ok(SnapshotPiece { piece: piece.into() }),
                Ok(Err(error)) => Err(failed(error.to_string())),
                Err(error) => Err(failed(error.to_string())),
            });
        });
    }
}
