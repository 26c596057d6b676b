//! Snapshots of a shard: captured at a cut, written beside the actor.

use atoll_api::state::{
    PIECE_BYTES, ReadSnapshot, SnapshotPiece, SnapshotTaken, StateError, TakeSnapshot,
};
use atoll_fabric::{Context, Cx, Handle, Reply};
use atoll_journal::{GoOn, Keeper, Snapshotting, Taken, snapshot};
use atoll_store::{SnapshotWriter, StoreError};
use atoll_types::{B256, encode};

use crate::{actor::StateService, core::Captured, rounds::is_past};

impl StateService {
    /// Takes a snapshot if one is due at the cut that has just been passed. The log record after the
    /// cut's is the first one that is not in it.
    pub(crate) fn passed_cut(&mut self, cx: &mut Cx<'_, Self>) {
        let cut = self.core.owner().cut_number();
        let (bytes, low) = (self.journal.bytes(), self.journal.is_low());
        let Some(keeper) = &mut self.keeper else { return };
        let due = keeper.is_due(cut, bytes, low);
        let wanted = keeper.passed(cut);
        if due {
            let keep = keeper.keeps_from(cut);
            let mut captured = self.core.capture(self.log_next, keep);
            let write =
                move |writer: &mut SnapshotWriter, go_on: GoOn<'_>| captured.write(writer, go_on);
            snapshot(self, cx, (cut, self.log_next, wanted), write);
        } else if wanted {
            self.tell(cut, |cut| match low {
                true => Err(StateError::NoSnapshot { cut, reason: "the volume is full".into() }),
                false => Err(StateError::SnapshotBusy { cut }),
            });
        }
    }

    /// Answers those who wait for a snapshot at a cut.
    fn tell(&mut self, cut: u64, answer: impl Fn(u64) -> Result<SnapshotTaken, StateError>) {
        for (cut, reply) in self.snapshots.extract_if(.., |(at, _)| *at <= cut) {
            reply.send(answer(cut));
        }
    }
}

impl Captured {
    pub(crate) fn write(
        &mut self,
        writer: &mut SnapshotWriter,
        go_on: GoOn<'_>,
    ) -> Result<(), StoreError> {
        writer.meta(&encode(&self.rest))?;
        while let Some(entries) = self.view.next()? {
            go_on()?;
            for (key, value) in &entries {
                if is_past(self.rest.kept_from, key, value) {
                    self.view.forget(key)?;
                } else {
                    writer.entry(key, value)?;
                }
            }
        }
        Ok(())
    }
}

impl Snapshotting for StateService {
    fn keeper(&mut self) -> Option<&mut Keeper> {
        self.keeper.as_mut()
    }

    fn taken(&mut self, at: u64, taken: Result<Taken, StoreError>) {
        self.core.values.release();
        self.tell(at, |cut| match &taken {
            Ok(taken) if taken.cut == cut => Ok(told(*taken)),
            Ok(_) => Err(StateError::SnapshotBusy { cut }),
            Err(error) => Err(StateError::NoSnapshot { cut, reason: error.to_string() }),
        });
    }
}

fn told(taken: Taken) -> SnapshotTaken {
    let atoll_store::Summary { number, bytes, digest, .. } = taken.summary;
    SnapshotTaken { number, bytes, digest: B256::new(digest) }
}

impl Handle<TakeSnapshot> for StateService {
    fn handle(
        &mut self,
        take: TakeSnapshot,
        _: Context,
        reply: Reply<TakeSnapshot>,
        _: &mut Cx<'_, Self>,
    ) {
        let (cut, newest) = (take.cut, self.core.owner().cut_number());
        let no = |reason: &str| StateError::NoSnapshot { cut, reason: reason.to_owned() };
        let Some(keeper) = &mut self.keeper else {
            return reply.err(no("none are taken here"));
        };
        if let Some(taken) = keeper.at(cut) {
            return reply.ok(told(taken));
        }
        // Not only when the cut comes: so nobody else takes one for nothing.
        if keeper.is_busy(cut) {
            return reply.err(StateError::SnapshotBusy { cut });
        }
        self.snapshots.retain(|(_, reply)| !reply.is_abandoned());
        // Whoever asks again while it is being written waits for it.
        if cut <= newest && !keeper.is_writing(cut) {
            return reply.err(no(&format!("cut {newest} has been passed")));
        }
        if cut > newest && !keeper.ask(cut) {
            return reply.err(no("too many are asked for"));
        }
        self.snapshots.push((cut, reply));
    }
}

impl Handle<ReadSnapshot> for StateService {
    fn handle(
        &mut self,
        read: ReadSnapshot,
        _: Context,
        reply: Reply<ReadSnapshot>,
        cx: &mut Cx<'_, Self>,
    ) {
        let Some(keeper) = &self.keeper else {
            let reason = "no snapshots are taken here".to_owned();
            return reply.err(StateError::Storage { reason });
        };
        let snapshots = keeper.snapshots().clone();
        let piece = move || snapshots.piece(read.number, read.offset, PIECE_BYTES);
        let read = cx.machine().run(piece);
        cx.spawn(read, move |_, piece, _| {
            let failed = |reason: String| StateError::Storage { reason };
            reply.send(match piece {
                Ok(Ok((piece, _))) => Ok(SnapshotPiece { piece: piece.into() }),
                Ok(Err(error)) => Err(failed(error.to_string())),
                Err(error) => Err(failed(error.to_string())),
            });
        });
    }
}
