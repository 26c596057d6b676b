//! Stages of sampled transactions that last from one cut to another: until the beacon has ordered them, and
//! until it has decided. Kept by the shard of their sender, for traces only.

use std::collections::HashMap;

use atoll_commit::Owner;
use atoll_telemetry::Stage;
use atoll_types::{B256, BeaconBlock, PlannedGroup, SharedTx, Tx, Verdict};

use crate::actor::StateService;

/// Transactions followed at a time; others lack these stages.
const MAX_FOLLOWED: usize = 4_096;

/// Those under way.
#[derive(Default)]
pub(crate) struct Traced {
    open: HashMap<B256, Stage>,
    /// Of those, what is final with the newest cut.
    pub finals: Vec<Tx>,
}

impl Traced {
    /// A transaction is shared: it waits to be ordered.
    pub fn shared(&mut self, owner: &Owner, shared: &SharedTx) {
        if shared.origin == owner.shard() {
            self.enter("order", owner, &shared.tx);
        }
    }

    fn enter(&mut self, name: &'static str, owner: &Owner, tx: &Tx) {
        if tx.trace().is_some() && self.open.len() < MAX_FOLLOWED {
            self.open.insert(*tx.hash(), Stage::enter(name, owner.shard(), tx));
        }
    }

    /// A block is about to decide groups.
    pub fn decide(&mut self, owner: &Owner, block: &BeaconBlock) {
        if self.open.is_empty() {
            return;
        }
        for decision in &block.decisions {
            let Some(plan) = owner.plan(decision.group) else { continue };
            for shared in owner.bodies(plan) {
                let followed = self.open.remove(shared.tx.hash()).is_some();
                if followed && matches!(decision.verdict, Verdict::Commit { .. }) {
                    self.finals.push(shared.tx.clone());
                }
            }
        }
    }

    /// Groups were planned.
    pub fn planned(&mut self, owner: &Owner, opened: &[PlannedGroup]) {
        if self.open.is_empty() {
            return;
        }
        for plan in opened {
            for shared in owner.bodies(plan) {
                // Ends the stage before it.
                if self.open.remove(shared.tx.hash()).is_some() {
                    self.enter("decide", owner, &shared.tx);
                }
            }
        }
    }
}

impl StateService {
    /// What a cut has decided is final as soon as the cut is durable.
    pub(crate) fn finals(&mut self) {
        let shard = self.core.owner().shard();
        let finals = self.core.traced.finals.drain(..);
        let stages: Vec<Stage> = finals.map(|tx| Stage::enter("final", shard, &tx)).collect();
        if !stages.is_empty() {
            self.journal.when_durable(move || drop(stages));
        }
    }
}
