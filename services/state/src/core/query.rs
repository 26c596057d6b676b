//! What can be asked without changing anything.

use atoll_api::state::{
    CutReply, GroupToRun, LeaseOut, Lookup, LookupReply, OutboxReply, Prove, ProveReply,
    ProvenCell, Read, ReadReply, Recall, RecallReply, StateError, SyncReply, TxStatus, Watch,
};
use atoll_types::{Anchor, B256, Credit, PANICS, PlannedGroup, SharedTx, StateKey, StateValue};

use super::{Core, storage};
use atoll_proof::verify;
use atoll_store::StoreError;

impl Core {
    pub(crate) fn read(&mut self, read: &Read) -> Result<ReadReply, StateError> {
        let newest = self.owner.cut_number();
        if let Some(asked) = read.at {
            if asked > newest {
                return Err(StateError::CutAhead { asked, newest });
            }
            let oldest = self.history.oldest();
            if asked < oldest {
                return Err(StateError::CutTooOld { asked, oldest });
            }
        }
        let mut values: Vec<StateValue> = Vec::with_capacity(read.keys.len());
        for key in &read.keys {
            let then = read.at.and_then(|cut| self.history.at(cut, key));
            values.push(match then {
                Some(value) => value,
                None => self.values.get(key).map_err(storage)?,
            });
        }
        let codes = read.codes.iter().map(|hash| self.values.code(hash));
        let codes = codes.collect::<Result<_, _>>().map_err(storage)?;
        Ok(ReadReply { values, codes, cut: newest, head: self.owner.head() })
    }

    /// What the beacon has to know.
    pub(crate) fn anchor(&self) -> Anchor {
        Anchor { root: Some(self.roots.newest()), ..self.owner.anchor() }
    }

    /// `None` while there is no published root that is new enough.
    pub(crate) fn prove(&mut self, prove: &Prove) -> Option<Result<ProveReply, StateError>> {
        let (root, block) = self.roots.provable(prove.min_cut)?;
        let code = match self.cell(StateKey::Code(prove.address))? {
            Ok(code) => code,
            Err(error) => return Some(Err(storage(error))),
        };
        let incarnation = code.cell.1.code().incarnation;
        let basic = self.cell(StateKey::Basic(prove.address))?;
        let mut cells = vec![basic, Ok(code)];
        for slot in &prove.slots {
            cells.push(self.cell(StateKey::Slot(prove.address, incarnation, *slot))?);
        }
        let cells = cells.into_iter().collect::<Result<_, _>>().map_err(storage);
        Some(cells.map(|cells| ProveReply { root, block, cells }))
    }

    /// A cell at the newest root. `None` if it was written since and what it held is not known any more,
    /// which can be so for a moment after a restart.
    fn cell(&mut self, key: StateKey) -> Option<Result<ProvenCell, StoreError>> {
        let root = self.roots.newest();
        let value = match self.history.at(root.cut, &key) {
            Some(value) => Ok(value),
            None => self.values.get(&key),
        };
        let (value, proof) = match (value, self.roots.prove(&key)) {
            (Ok(value), Ok(proof)) => (value, proof),
            (Err(error), _) | (_, Err(error)) => return Some(Err(error)),
        };
        let verdict = verify(&root.root.0, &key.in_tree(), Some(&value.in_tree()), &proof);
        verdict.ok().map(|()| Ok(ProvenCell { cell: (key, value), proof: proof.encode().into() }))
    }

    /// What the router has to carry out after a cut.
    pub(super) fn cut_reply(&self, returned: Vec<SharedTx>, opened: Vec<PlannedGroup>) -> CutReply {
        let mut reply = CutReply {
            cut: self.owner.cut_number(),
            returned,
            settlements: self.owner.settlements(),
            ..CutReply::default()
        };
        for plan in opened {
            let leased = plan.owners.contains(&self.owner.shard());
            if let Some(lease) = self.owner.lease(plan.id).filter(|_| leased) {
                reply.leases.push(LeaseOut { to: plan.executor, lease: lease.clone() });
            }
            if plan.executor == self.owner.shard() {
                reply.run.extend(self.group_to_run(&plan));
            }
        }
        reply
    }

    fn group_to_run(&self, plan: &PlannedGroup) -> Option<GroupToRun> {
        let (group, env) = self.owner.run(plan.id)?;
        Some(GroupToRun {
            txs: self.owner.bodies(group).cloned().collect(),
            group: group.clone(),
            env,
        })
    }

    /// What is open, whenever it was opened.
    pub(super) fn open_work(&self) -> CutReply {
        let open = self.owner.open_groups().map(|(plan, _)| plan.clone()).collect();
        self.cut_reply(self.owner.returned().cloned().collect(), open)
    }

    pub(crate) fn outbox(&self) -> OutboxReply {
        let receivers = self.owner.credit_receivers();
        OutboxReply {
            open: self.open_work(),
            unplanned: self.owner.unplanned().cloned().collect(),
            results: self.owner.results().cloned().collect(),
            awaited: self.owner.awaited().cloned().collect(),
            credits: receivers.flat_map(|to| self.owner.credits_after(to, 0)).collect(),
        }
    }

    pub(crate) fn recall(&self, recall: &Recall) -> RecallReply {
        let leases = recall.leases.iter().filter_map(|group| self.owner.lease(*group));
        let parts = recall.results.iter().filter_map(|group| self.owner.result(*group)).flatten();
        RecallReply {
            leases: leases.cloned().collect(),
            parts: parts.filter(|message| message.part.owner == recall.owner).cloned().collect(),
        }
    }

    /// Credits newer than those that a watcher has.
    pub(crate) fn credits_for(&self, watch: &Watch) -> Vec<Credit> {
        let known = |to| {
            let entry = watch.credits_after.iter().find(|(shard, _)| *shard == to);
            entry.map_or(0, |(_, after)| *after)
        };
        let receivers = self.owner.credit_receivers();
        receivers.flat_map(|to| self.owner.credits_after(to, known(to))).collect()
    }

    pub(crate) fn sync(&self, after: u64, full: bool) -> SyncReply {
        let changes = self.changes.after(after);
        let cuts =
            changes.as_ref().map(|changes| changes.iter().filter(|c| c.cut.is_some()).count());
        SyncReply {
            hashes: self.owner.block_hashes(cuts.unwrap_or(usize::MAX)).collect(),
            reset: changes.is_none(),
            changes: changes
                .unwrap_or_else(|| vec![self.changes.everything(&self.owner, &self.quarantine)]),
            tip: self.tip(),
            env: self.owner.env(),
            full,
        }
    }

    pub(crate) fn lookup(&self, lookup: &Lookup) -> Result<LookupReply, StateError> {
        let statuses = lookup.txs.iter().map(|tx| self.status(tx)).collect::<Result<_, _>>()?;
        Ok(LookupReply { statuses })
    }

    fn status(&self, tx: &B256) -> Result<Option<TxStatus>, StateError> {
        if let Some(kept) = self.values.receipt(tx).map_err(storage)? {
            return Ok(Some(TxStatus::Done(self.events.event(kept))));
        }
        if self.owner.is_pending(tx) {
            return Ok(Some(TxStatus::Pending));
        }
        if self.quarantine.contains(tx) {
            return Ok(Some(TxStatus::Dropped { reason: PANICS.to_owned() }));
        }
        let dropped = self.events.dropped(tx).cloned();
        Ok(dropped.map(|reason| TxStatus::Dropped { reason }))
    }
}
