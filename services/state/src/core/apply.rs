//! What each record does. The same code runs when it is logged and when it is replayed.

use std::{cell::RefCell, collections::HashMap, sync::Arc};

use atoll_api::state::{Change, Ended, FeedEvent, ReceiptEvent, StateError};
use atoll_commit::{CutEffects, EpochWrite};
use atoll_store::StoreError;
use atoll_types::{
    B256, BeaconBlock, Finality, KeySet, LocalBlock, PANICS, PlannedGroup, Receipt, ReceiptKind,
    SharedTx, StateKey,
};

use super::{Core, refused, storage};
use crate::{changes::sender_tx, events::Kept, record::Record, rounds};

impl Core {
    /// Checks a record against the state, as its operation did, and applies it.
    pub(super) fn replay(&mut self, record: Record) -> Result<(), StateError> {
        match &record {
            Record::Block(block) => self.owner.check_block(block, &[]).map_err(refused)?,
            Record::Cut(block) => self.owner.check_cut(block).map_err(refused)?,
            _ => {}
        }
        self.apply(&record).map(|_| ()).map_err(storage)
    }

    /// Applies a record. Returns own transactions that came back and groups that were opened.
    pub(super) fn apply(
        &mut self,
        record: &Record,
    ) -> Result<(Vec<SharedTx>, Vec<PlannedGroup>), StoreError> {
        match record {
            Record::Genesis { .. } => {}
            Record::Block(block) => self.apply_block(block)?,
            Record::Cut(block) => return self.apply_cut(block),
            Record::Share(txs) => self.apply_share(txs),
            Record::Withdraw { tx, reason } => {
                if let Some(shared) = self.owner.withdraw(*tx) {
                    self.ended(Vec::new(), vec![(shared, reason.clone())], Change::default());
                }
            }
            Record::Results(results) => {
                for result in results {
                    self.owner.keep_result(result.group, result.parts.clone());
                }
            }
            Record::Parts(parts) => {
                parts.iter().for_each(|part| self.owner.keep_part(part.clone()));
            }
            Record::Credits { from, credits } => {
                let ended = self.owner.receive(*from, credits);
                self.payments_ended(ended);
            }
            Record::Settle(settlement) => {
                let ended = self.owner.settle(*settlement);
                self.payments_ended(ended);
            }
            Record::Grants(grants) => {
                let fenced = grants.iter().flat_map(|(id, values)| self.owner.grant(*id, values));
                let fenced: Vec<StateKey> = fenced.collect();
                if !fenced.is_empty() {
                    self.changes.push(Change { fenced, ..Change::default() });
                }
            }
            Record::Quarantine(txs) => self.put_away(txs.clone()),
            Record::Codes(codes) => {
                for code in codes {
                    self.values.put_code(code)?;
                }
            }
        }
        Ok(Default::default())
    }

    fn write(&mut self, write: EpochWrite) -> Result<(), StoreError> {
        let held = self.values.get(&write.key)?;
        self.history.note(write.key, held, write.epoch);
        self.values.set(write.key, write.value);
        self.roots.note(write.key, (held, write.value), write.epoch);
        Ok(())
    }

    fn apply_block(&mut self, block: &LocalBlock) -> Result<(), StoreError> {
        for (key, value) in &block.writes {
            self.write(EpochWrite { key: *key, value: *value, epoch: block.round })?;
        }
        for code in &block.codes {
            self.values.put_code(code)?;
        }
        self.owner.append(block);
        rounds::note_block(&mut self.values, block)?;
        let mut txs = Vec::with_capacity(block.txs.len());
        for local in &block.txs {
            // A payment to another shard has its receipt when it is known how it ended.
            if local.receipt.kind == ReceiptKind::Local {
                txs.push(local.receipt.tx);
                self.tell(local.receipt.clone(), block.round + 1, Finality::Executed);
            }
        }
        self.events.add_block(block.number, txs);
        Ok(())
    }

    fn apply_cut(
        &mut self,
        block: &BeaconBlock,
    ) -> Result<(Vec<SharedTx>, Vec<PlannedGroup>), StoreError> {
        let failed = RefCell::new(None);
        let values = RefCell::new(&mut self.values);
        let view = |key: &StateKey| {
            values.borrow_mut().get(key).unwrap_or_else(|error| {
                failed.replace(Some(error));
                key.absent()
            })
        };
        let effects = self.owner.cut(block, &view);
        if let Some(error) = failed.into_inner() {
            return Err(error);
        }
        self.finish_cut(block, effects)
    }

    fn finish_cut(
        &mut self,
        block: &BeaconBlock,
        effects: CutEffects,
    ) -> Result<(Vec<SharedTx>, Vec<PlannedGroup>), StoreError> {
        let number = block.number();
        for violation in &effects.violations {
            tracing::error!(round = number, violation, "the beacon broke a rule of the protocol");
        }
        self.note_cut(number, &effects);
        for write in &effects.writes {
            self.write(*write)?;
        }
        for code in &effects.codes {
            self.values.put_code(code)?;
        }
        let gas: HashMap<B256, u64> =
            effects.receipts.iter().map(|r| (r.tx, r.executed.gas_used)).collect();
        rounds::note_groups(&mut self.values, &effects.receipts, &effects.ended)?;
        for receipt in effects.receipts {
            // What it did is of the cut after its round, but other shards show it from this one on.
            self.keep(receipt, number, Finality::Final);
        }
        if let Some(head) = effects.anchored {
            self.events.anchor(head, number);
        }
        // One that only made an executor of a group panic: it comes back as dropped.
        let panicked = effects.dropped.iter().filter(|(_, why)| why == PANICS);
        self.put_away(panicked.map(|(shared, _)| *shared.tx.hash()).collect());
        let change = Change {
            cut: Some(number),
            writes: effects.writes.iter().map(|w| (w.key, w.value)).collect(),
            fenced: effects.fenced,
            unfenced: effects.unfenced,
            ..Change::default()
        };
        let ended = effects.ended.iter().map(|shared| {
            let gas_used = gas.get(shared.tx.hash()).copied().unwrap_or(0);
            Ended { tx: sender_tx(shared), dropped: None, gas_used }
        });
        self.ended(ended.collect(), effects.dropped, change);
        self.history.prune(number);
        self.wrong_root = self.roots.cut(block).err();
        Ok((effects.returned, effects.opened))
    }

    /// What a cut has used, for late leases.
    fn note_cut(&mut self, number: u64, effects: &CutEffects) {
        // State at this cut has the deposits, and no group of this round.
        let deposits = effects.deposits.iter().map(|key| (key, number.saturating_sub(1)));
        let writes = effects.writes.iter().map(|write| (&write.key, write.epoch));
        for (key, epoch) in deposits.chain(writes) {
            self.touched.note(key, epoch, None);
        }
        for plan in &effects.opened {
            let keys = self.owner.keys(plan.id).into_iter().flat_map(KeySet::all);
            keys.for_each(|key| self.touched.note(key, number, Some(plan.id)));
        }
    }

    fn put_away(&mut self, mut txs: Vec<B256>) {
        txs.retain(|tx| self.quarantine.add(*tx));
        for tx in &txs {
            tracing::error!(%tx, "this transaction makes the executor panic; it is not run again");
            self.events.drop_tx(*tx, PANICS.to_owned());
        }
        if !txs.is_empty() {
            self.changes.push(Change { quarantined: txs, ..Change::default() });
        }
    }

    fn apply_share(&mut self, txs: &[SharedTx]) {
        let mut pinned = Vec::new();
        for shared in txs {
            if self.owner.share(shared.clone()) {
                pinned.push(sender_tx(shared));
            }
        }
        if !pinned.is_empty() {
            self.changes.push(Change { pinned, ..Change::default() });
        }
    }

    /// Tells the followers how own shared transactions ended, with the rest of a change.
    fn ended(&mut self, ended: Vec<Ended>, dropped: Vec<(SharedTx, String)>, mut change: Change) {
        change.ended = ended;
        for (shared, reason) in dropped {
            let (tx, dropped) = (sender_tx(&shared), Some(reason.clone()));
            change.ended.push(Ended { tx, dropped, gas_used: 0 });
            self.events.drop_tx(*shared.tx.hash(), reason);
        }
        self.changes.push(change);
    }

    fn payments_ended(&mut self, ended: Vec<(Receipt, u64)>) {
        for (receipt, cut) in ended {
            self.ended_at = self.ended_at.max(cut);
            self.keep(receipt, cut, Finality::Final);
        }
    }

    fn keep(&mut self, receipt: Receipt, cut: u64, finality: Finality) {
        let kept = Kept { receipt, cut };
        self.values.put_receipt(&kept);
        let Kept { receipt, cut } = kept;
        self.tell(receipt, cut, finality);
    }

    fn tell(&mut self, receipt: Receipt, cut: u64, finality: Finality) {
        let event = ReceiptEvent { receipt, finality, cut };
        self.events.push(FeedEvent::Receipt(Arc::new(event)));
    }
}
