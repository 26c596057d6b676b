//! A shard's cut: decisions, then credits, then leases, at one instant of its history.

use std::collections::{BTreeSet, HashMap};

use atoll_types::{
    AbortCause, B256, BeaconBlock, CreditsDue, Decision, GroupId, KeySet, Part, PlannedGroup,
    Receipt, SharedTx, StateKey, StateValue, TxOutcome, TxRef, Verdict, digest,
};

use crate::planted::Planted;

use super::{Codes, EpochWrite, Group, KEPT_HASHES, Owner, OwnerError, Phase};

/// Binary logarithm of the most cuts for which a transaction stays away that touches a missing shard.
const MAX_BACKOFF: u32 = 8;

/// Why an attempt had no effect.
enum Failed<'a> {
    /// It used these keys beyond its own.
    Wrong(KeySet),
    Aborted(&'a AbortCause),
    /// Nothing that says anything about the next attempt.
    Otherwise,
}

/// What a cut did, for the caller to carry out.
#[derive(Clone, Debug, Default)]
pub struct CutEffects {
    /// In the order in which they take effect.
    pub writes: Vec<EpochWrite>,
    pub codes: Codes,
    /// Receipts of own senders' transactions in groups that committed. They are final.
    pub receipts: Vec<Receipt>,
    /// Own transactions that have to be predicted again.
    pub returned: Vec<SharedTx>,
    /// Own transactions that ended without a receipt, and why.
    pub dropped: Vec<(SharedTx, String)>,
    /// Own transactions that ended with a receipt.
    pub ended: Vec<SharedTx>,
    /// Groups planned here that this shard has to lease to.
    pub opened: Vec<PlannedGroup>,
    /// Keys that local transactions may no longer touch.
    pub fenced: Vec<StateKey>,
    /// Keys that they may touch again.
    pub unfenced: Vec<StateKey>,
    /// Keys that deposits have read or written, in the order of their epoch: that before the cut.
    pub deposits: Vec<StateKey>,
    /// Number of this shard's newest block that the beacon has anchored.
    pub anchored: Option<u64>,
    /// Plans that could not be leased to because data was missing: the beacon broke a rule.
    pub violations: Vec<String>,
}

/// Values as they are within a cut.
pub(super) struct Cells<'a> {
    view: &'a dyn Fn(&StateKey) -> StateValue,
    changed: HashMap<StateKey, StateValue>,
    writes: Vec<EpochWrite>,
}

impl Cells<'_> {
    pub(super) fn read(&self, key: &StateKey) -> StateValue {
        self.changed.get(key).copied().unwrap_or_else(|| (self.view)(key))
    }

    pub(super) fn write(&mut self, write: EpochWrite) {
        self.changed.insert(write.key, write.value);
        self.writes.push(write);
    }
}

impl Owner {
    /// Checks that a beacon block is the next one, without changing anything.
    pub fn check_cut(&self, block: &BeaconBlock) -> Result<(), OwnerError> {
        let number = block.number();
        if number != self.cut + 1 {
            return Err(OwnerError::CutGap { found: number, newest: self.cut });
        }
        if block.parent != self.beacon || block.env.chain_id != self.config.chain_id {
            return Err(OwnerError::OtherChain(number));
        }
        for Decision { group, verdict } in &block.decisions {
            let (Some(open), Verdict::Commit { digest, late }) = (self.groups.get(group), verdict)
            else {
                continue;
            };
            let here = self.config.shard;
            if !open.plan.owners.contains(&here) && !late.contains(&here) {
                continue;
            }
            if open.part.as_ref().is_none_or(|(_, held)| held != digest) {
                let what = format!("its part of group {group} with digest {digest}");
                return Err(OwnerError::NotHeld { number, what });
            }
        }
        for due in block.credits.iter().filter(|due| due.to == self.config.shard) {
            if self.received(due.from) < due.up_to {
                let what = format!("credits of shard {} up to {}", due.from, due.up_to);
                return Err(OwnerError::NotHeld { number, what });
            }
        }
        Ok(())
    }

    /// Handles a beacon block that was checked. `view` reads values as of all inputs before.
    pub fn cut(
        &mut self,
        block: &BeaconBlock,
        view: &dyn Fn(&StateKey) -> StateValue,
    ) -> CutEffects {
        let number = block.number();
        let mut effects = CutEffects::default();
        let mut cells = Cells { view, changed: HashMap::new(), writes: Vec::new() };
        let mut freed = BTreeSet::new();
        for decision in &block.decisions {
            self.decide(decision, &mut cells, &mut effects, &mut freed);
        }
        let mut due = self.take_due(&block.credits);
        due.extend(self.pay_fees());
        self.deposit_due(due, number, &mut cells, &mut effects);
        for tx in &block.dropped {
            self.drop_expired(tx, number, &mut effects);
        }
        self.cut = number;
        self.bring_back(&mut effects);
        self.beacon = block.hash();
        if self.hashes.len() >= KEPT_HASHES {
            self.hashes.pop_front();
        }
        self.hashes.push_back(self.beacon);
        self.env = block.env;
        for group in &block.plan {
            self.open_group(group, &cells, &mut effects);
        }
        self.drop_stale(&mut effects);
        self.finish(block, cells, freed, &mut effects);
        effects
    }

    fn finish(
        &mut self,
        block: &BeaconBlock,
        cells: Cells<'_>,
        freed: BTreeSet<StateKey>,
        effects: &mut CutEffects,
    ) {
        let mine = |anchored: &&atoll_types::Anchored| anchored.shard == self.config.shard;
        effects.anchored = block.anchors.iter().find(mine).map(|anchored| anchored.head);
        effects.unfenced = freed.into_iter().filter(|key| !self.fences.contains(key)).collect();
        debug_assert!(
            self.changed.keys().all(|round| self.is_open(*round, 0)),
            "what groups have changed is kept for rounds that are decided"
        );
        effects.writes = cells.writes;
        let writes: Vec<_> = effects.writes.iter().map(|w| (w.key, w.value)).collect();
        self.digest = digest("atoll/cut", &(self.digest, self.beacon, writes));
    }

    fn decide(
        &mut self,
        decision: &Decision,
        cells: &mut Cells<'_>,
        effects: &mut CutEffects,
        freed: &mut BTreeSet<StateKey>,
    ) {
        let id = decision.group;
        self.others.remove(&id);
        if let Some(group) = self.groups.remove(&id) {
            self.close(decision, group, cells, effects, freed);
        }
        if !self.is_open(id.round, 0) {
            self.changed.remove(&id.round);
        }
    }

    /// The end of a group that uses keys of this shard.
    fn close(
        &mut self,
        decision: &Decision,
        group: Group,
        cells: &mut Cells<'_>,
        effects: &mut CutEffects,
        freed: &mut BTreeSet<StateKey>,
    ) {
        let id = decision.group;
        match (&decision.verdict, group.part) {
            (Verdict::Commit { late, .. }, Some((message, _)))
                if group.plan.owners.contains(&self.config.shard)
                    || late.contains(&self.config.shard) =>
            {
                if self.bug.is(Planted::DecideTwice) {
                    self.commit(&group.plan, message.part.clone(), cells, effects);
                }
                self.commit(&group.plan, message.part, cells, effects);
            }
            // A late lease that the result made no use of: `check_cut` has refused a commit without
            // the part of an owner.
            (Verdict::Commit { .. }, _) => {}
            (Verdict::Abort(cause), _) => {
                for tx in &group.plan.txs {
                    self.come_back(tx, Failed::Aborted(cause), effects);
                }
                self.wait_again(group.lease.credits);
            }
        }
        let keeps =
            self.bug.is(Planted::KeepFence) && matches!(decision.verdict, Verdict::Abort(_));
        for key in group.keys.writes.iter().filter(|_| !keeps) {
            if self.fences.remove(key, id) {
                freed.insert(*key);
            }
        }
        self.land(id, cells);
    }

    /// Whether a group of a round, from an index on, is undecided.
    fn is_open(&self, round: u64, from: u32) -> bool {
        let rest = GroupId { round, index: from }..=GroupId { round, index: u32::MAX };
        self.groups.range(rest.clone()).next().is_some() || self.others.range(rest).next().is_some()
    }

    fn commit(
        &mut self,
        plan: &PlannedGroup,
        part: Part,
        cells: &mut Cells<'_>,
        effects: &mut CutEffects,
    ) {
        let GroupId { round, index } = plan.id;
        let is_seen = self.is_open(round, index);
        for (key, value) in part.writes {
            if cells.read(&key) != value {
                cells.write(EpochWrite { key, value, epoch: round });
                if is_seen {
                    let first = self.changed.entry(round).or_default().entry(key).or_insert(index);
                    *first = index.min(*first);
                }
            }
        }
        effects.codes.extend(part.codes);
        self.fees += part.fees;
        self.burned += part.burned;
        self.gas_used += part.receipts.iter().map(|r| r.executed.gas_used).sum::<u64>();
        effects.receipts.extend(part.receipts);
        let mut outcomes: HashMap<B256, TxOutcome> = part.outcomes.into_iter().collect();
        for tx in &plan.txs {
            // A slow owner may hold the next attempt already.
            if self.shared.get(&tx.hash).is_none_or(|held| held.tx.attempt != tx.attempt) {
                continue;
            }
            match outcomes.remove(&tx.hash) {
                // Another shard's sender, or it has its receipt.
                None => {
                    self.forget(&tx.hash);
                }
                Some(TxOutcome::Executed) => effects.ended.extend(self.forget(&tx.hash)),
                Some(TxOutcome::Invalid { reason }) => {
                    effects.dropped.extend(self.forget(&tx.hash).map(|shared| (shared, reason)));
                }
                Some(TxOutcome::Behind) => self.come_back(tx, Failed::Otherwise, effects),
                Some(TxOutcome::Wrong { missing }) => {
                    self.come_back(tx, Failed::Wrong(missing), effects);
                }
            }
        }
    }

    /// An attempt ended without effect. An own transaction waits to be predicted again; another
    /// shard's is forgotten: it will be shared again.
    fn come_back(&mut self, tx: &TxRef, failed: Failed<'_>, effects: &mut CutEffects) {
        let Some(shared) = self.shared.get(&tx.hash).filter(|held| held.tx.attempt == tx.attempt)
        else {
            return;
        };
        let away = self.earlier_one_stays_away(&shared.tx);
        let Some(shared) = self.shared.get_mut(&tx.hash) else {
            return;
        };
        if shared.tx.origin != self.config.shard {
            self.shared.remove(&tx.hash);
            return;
        }
        // Decisions of a cut are handled before it counts as passed.
        let now = self.cut + 1;
        let mut from = away.unwrap_or(now).max(now);
        shared.tx.attempt += 1;
        match failed {
            Failed::Wrong(missing) => {
                shared.tx.wrong += 1;
                shared.tx.keys = shared.tx.keys.union(&missing);
            }
            Failed::Aborted(AbortCause::Missing(missing)) => {
                let owners = shared.tx.keys.owners(&self.config.placement);
                if owners.iter().any(|owner| missing.contains(owner)) {
                    shared.tx.absences += 1;
                    from = from.max(now + (1 << shared.tx.absences.min(MAX_BACKOFF)));
                }
            }
            Failed::Aborted(AbortCause::Silent) => shared.tx.silences += 1,
            Failed::Aborted(AbortCause::Dependant) | Failed::Otherwise => {}
        }
        shared.phase = Phase::Returned { from };
        if from == now {
            effects.returned.push(shared.tx.clone());
        } else {
            self.delayed.entry(from).or_default().push(tx.hash);
        }
    }

    /// The cut until which the sender's transaction before this one stays away: this one could take
    /// effect no earlier.
    fn earlier_one_stays_away(&self, tx: &SharedTx) -> Option<u64> {
        match self.one_before(tx)?.phase {
            Phase::Returned { from } => Some(from),
            Phase::Shared | Phase::Planned(_) => None,
        }
    }

    /// Own transactions that have stayed away long enough.
    fn bring_back(&mut self, effects: &mut CutEffects) {
        let later = self.delayed.split_off(&(self.cut + 1));
        for hash in std::mem::replace(&mut self.delayed, later).into_values().flatten() {
            let waits = |s: &&super::Shared| matches!(s.phase, Phase::Returned { from } if from <= self.cut);
            effects.returned.extend(self.shared.get(&hash).filter(waits).map(|s| s.tx.clone()));
        }
    }

    fn take_due(&mut self, due: &[CreditsDue]) -> Vec<atoll_types::Credit> {
        let mut credits = Vec::new();
        for due in due.iter().filter(|due| due.to == self.config.shard) {
            let incoming = self.incoming.entry(due.from).or_default();
            incoming.due = incoming.due.max(due.up_to);
            while let Some(credit) = incoming.held.pop_front_if(|held| held.seq <= due.up_to) {
                credits.push(credit);
            }
        }
        credits
    }

    /// Without this owner's acknowledgement the group can only be aborted, and nothing here will
    /// notice: its transactions come back now.
    pub(super) fn cannot_open(&mut self, plan: &PlannedGroup, effects: &mut CutEffects) {
        for tx in &plan.txs {
            self.come_back(tx, Failed::Otherwise, effects);
        }
    }

    /// Drops what the beacon has dropped, unless it began anew since: a shard that is behind may
    /// hold that already.
    fn drop_expired(&mut self, tx: &TxRef, cut: u64, effects: &mut CutEffects) {
        let waits = |shared: &super::Shared| {
            shared.phase == Phase::Shared
                && shared.tx.attempt == tx.attempt
                && shared.tx.last_valid_round < cut
        };
        if self.shared.get(&tx.hash).is_some_and(waits) {
            self.drop_shared(&tx.hash, effects);
        }
    }

    /// Forgets what no later block can plan: the last valid round has passed. Looks at all shared
    /// transactions once in 64 cuts.
    fn drop_stale(&mut self, effects: &mut CutEffects) {
        if !self.cut.is_multiple_of(64) {
            return;
        }
        let stale = |shared: &&super::Shared| {
            shared.phase == Phase::Shared && shared.tx.last_valid_round < self.cut
        };
        let gone: Vec<B256> =
            self.shared.values().filter(stale).map(|shared| *shared.tx.tx.hash()).collect();
        gone.iter().for_each(|hash| self.drop_shared(hash, effects));
    }

    fn drop_shared(&mut self, hash: &B256, effects: &mut CutEffects) {
        let here = self.config.shard;
        let Some(shared) = self.forget(hash) else {
            return;
        };
        if shared.origin == here {
            let reason = format!("not ordered by round {}", shared.last_valid_round);
            effects.dropped.push((shared, reason));
        }
    }
}
