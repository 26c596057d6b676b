//! The last changes that did not come from the shard's own blocks, for the executor and mempool.

use std::collections::VecDeque;

use atoll_api::state::{Change, SenderTx};
use atoll_commit::Owner;
use atoll_types::SharedTx;

use crate::quarantine::Quarantine;

/// Changes kept; a follower that is further behind starts over.
const KEPT: usize = 1_024;

pub(crate) struct Changes {
    kept: VecDeque<Change>,
    newest: u64,
}

impl Changes {
    /// Numbers go on from `newest`, which must rise from start to start, so that a follower of an
    /// earlier run is told to start over.
    pub fn starting_at(newest: u64) -> Self {
        Self { kept: VecDeque::new(), newest }
    }

    pub fn newest(&self) -> u64 {
        self.newest
    }

    pub fn push(&mut self, mut change: Change) {
        self.newest += 1;
        change.number = self.newest;
        self.kept.push_back(change);
        if self.kept.len() > KEPT {
            self.kept.pop_front();
        }
    }

    /// The changes after number `after`; `None` if the follower has to start over.
    pub fn after(&self, after: u64) -> Option<Vec<Change>> {
        let behind = self.newest.checked_sub(after)? as usize;
        if after == 0 || behind > self.kept.len() {
            return None;
        }
        Some(self.kept.iter().skip(self.kept.len() - behind).cloned().collect())
    }

    /// One change that says all that holds now, for a follower that starts over.
    pub fn everything(&self, owner: &Owner, quarantine: &Quarantine) -> Change {
        Change {
            number: self.newest,
            cut: Some(owner.cut_number()),
            fenced: owner.fenced().copied().collect(),
            pinned: owner.own_shared().map(sender_tx).collect(),
            quarantined: quarantine.all().copied().collect(),
            ..Change::default()
        }
    }
}

pub(crate) fn sender_tx(shared: &SharedTx) -> SenderTx {
    SenderTx { tx: *shared.tx.hash(), sender: shared.tx.sender(), nonce: shared.tx.nonce() }
}
