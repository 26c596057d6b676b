//! Leases and fences at a group's cut.

use atoll_types::{GroupId, InFlight, KeySet, Lease, PlannedGroup, SharedTx, StateKey, Write};

use crate::planted::Planted;

use super::{CutEffects, Group, Owner, Phase, cut::Cells};

impl Owner {
    /// Fences and leases what a planned group needs of this shard, at this instant of its history.
    pub(super) fn open_group(
        &mut self,
        plan: &PlannedGroup,
        cells: &Cells<'_>,
        effects: &mut CutEffects,
    ) {
        let here = self.config.shard;
        if !plan.owners.contains(&here) {
            self.others.insert(plan.id, plan.executor);
            return;
        }
        let txs: Vec<&SharedTx> = self.bodies(plan).collect();
        let mine = |key: &&StateKey| self.config.placement.owner_of(key) == here;
        let reads = txs.iter().flat_map(|tx| tx.keys.reads.iter().filter(mine));
        let writes = txs.iter().flat_map(|tx| tx.keys.writes.iter().filter(mine));
        let keys = KeySet::new(reads.copied(), writes.copied());
        let bodies = self.bodies_for_executor(plan, &txs);
        let taken = |key: &StateKey| self.fences.last(key).filter(|id| id.round >= plan.id.round);
        if let Some((key, other)) = keys.all().find_map(|key| Some((key, taken(key)?))) {
            effects.violations.push(format!("groups {} and {other} share {key:?}", plan.id));
            return self.cannot_open(plan, effects);
        }
        for tx in &plan.txs {
            // A shard that is behind may hold the next attempt already: the group was aborted
            // since, and what it does here until that cut has no effect.
            let held = self.shared.get_mut(&tx.hash);
            if let Some(shared) = held.filter(|held| held.tx.attempt == tx.attempt) {
                shared.phase = Phase::Planned(plan.id);
            }
        }
        let lease = self.lease_at_cut(plan, &keys, bodies, cells);
        for key in keys.writes.iter().filter(|_| !self.bug.is(Planted::SkipFence)) {
            if self.fences.add(*key, plan.id) {
                effects.fenced.push(*key);
            }
        }
        effects.opened.push(plan.clone());
        let (env, plan) = (self.env, plan.clone());
        let group = Group { plan, env, keys, lease, granted: Vec::new(), result: None, part: None };
        self.groups.insert(group.plan.id, group);
    }

    fn lease_at_cut(
        &mut self,
        plan: &PlannedGroup,
        keys: &KeySet,
        bodies: Vec<SharedTx>,
        cells: &Cells<'_>,
    ) -> Lease {
        let (mut values, mut in_flight): (Vec<Write>, Vec<InFlight>) = Default::default();
        for key in keys.all() {
            match self.fences.last(key).and_then(|id| self.groups.get(&id)) {
                None => values.push((*key, cells.read(key))),
                Some(source) => {
                    let (group, executor) = (source.plan.id, source.plan.executor);
                    in_flight.push(InFlight { key: *key, group, executor });
                }
            }
        }
        values.sort_unstable_by_key(|(key, _)| *key);
        in_flight.sort_unstable_by_key(|flight| flight.key);
        for flight in &in_flight {
            let dependants = self.flights.entry(flight.group).or_default();
            if dependants.last() != Some(&plan.id) {
                dependants.push(plan.id);
            }
        }
        let written = in_flight.iter().map(|flight| flight.key);
        let written: Vec<_> =
            written.filter(|key| keys.writes.binary_search(key).is_ok()).collect();
        Lease {
            chain_id: self.config.chain_id,
            epoch: self.config.placement.epoch,
            group: plan.id,
            from: self.config.shard,
            values,
            in_flight,
            credits: self.travelling(&written),
            bodies,
        }
    }

    /// What the executor lacks: transactions that do not concern its shard. The lowest-numbered
    /// owner of each sends it.
    fn bodies_for_executor(&self, plan: &PlannedGroup, txs: &[&SharedTx]) -> Vec<SharedTx> {
        if plan.executor == self.config.shard {
            return Vec::new();
        }
        let lacks = |tx: &&SharedTx| {
            let owners = || tx.keys.all().map(|key| self.config.placement.owner_of(key));
            owners().all(|owner| owner != plan.executor)
                && owners().min() == Some(self.config.shard)
        };
        txs.iter().copied().filter(lacks).cloned().collect()
    }

    /// What [`Planted::LeaseAfterCut`] does.
    pub(super) fn show_in_leases(&mut self, writes: &[Write]) {
        for lease in self.groups.values_mut().map(|group| &mut group.lease) {
            for (key, value) in &mut lease.values {
                let newer = writes.iter().find(|(written, _)| written == key);
                *value = newer.map_or(*value, |(_, newer)| *newer);
            }
        }
    }

    /// A group is decided: what was in flight from it is known from now on, to whoever asks for a
    /// lease again.
    pub(super) fn land(&mut self, source: GroupId, cells: &Cells<'_>) {
        for id in self.flights.remove(&source).unwrap_or_default() {
            let Some(Group { lease, .. }) = self.groups.get_mut(&id) else { continue };
            let landed = lease.in_flight.extract_if(.., |flight| flight.group == source);
            lease.values.extend(landed.map(|flight| (flight.key, cells.read(&flight.key))));
            lease.values.sort_unstable_by_key(|(key, _)| *key);
        }
    }
}
