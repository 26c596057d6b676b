//! Late leases: keys that a run turns out to need beyond what its group was leased.

use atoll_types::{
    GroupId, KeySet, LateAsk, LateLease, Lease, PlannedGroup, Refusal, ShardId, StateKey,
    StateValue, Write,
};

use super::{Checked, Group, Owner};
use crate::{Touched, planted::Planted};

/// An owner's answer to a request for late leases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Late {
    pub lease: LateLease,
    /// Keys that the group gets to write now, with their values: to be logged before the answer is
    /// given, with [`Owner::grant`].
    pub fresh: Vec<Write>,
    /// Why keys are refused.
    pub refused: Vec<Refusal>,
}

impl Owner {
    /// Answers a request for late leases, without changing the owner. `value_at` reads at a cut that
    /// was passed, if its values are still kept.
    ///
    /// A value is that of the group's cut. It may be read unless an earlier group may still change it,
    /// or one of the same round has; and written unless anything else has used it since: that would have had to see the write.
    pub fn late(
        &self,
        from: ShardId,
        ask: &LateAsk,
        touched: &mut Touched,
        value_at: &dyn Fn(&StateKey, u64) -> Option<StateValue>,
    ) -> Late {
        let (group, here) = (ask.group, self.config.shard);
        let (reads, writes, refused) = Default::default();
        let mut late = Late {
            lease: LateLease { group, from: here, reads, writes, refused },
            fresh: Vec::new(),
            refused: Vec::new(),
        };
        for (key, write) in ask
            .keys
            .reads
            .iter()
            .map(|key| (key, false))
            .chain(ask.keys.writes.iter().map(|key| (key, true)))
        {
            match self.late_key(group, from, (key, write), touched, value_at) {
                Ok((value, is_fresh)) => {
                    touched.note(key, group.round, Some(group));
                    let list = if write { &mut late.lease.writes } else { &mut late.lease.reads };
                    list.push((*key, value));
                    if is_fresh {
                        late.fresh.push((*key, value));
                    }
                }
                Err(rule) => {
                    late.lease.refused.push(*key);
                    late.refused.push(rule);
                }
            }
        }
        late
    }

    /// The value of one key, and whether it has to be fenced now.
    fn late_key(
        &self,
        id: GroupId,
        from: ShardId,
        (key, write): (&StateKey, bool),
        touched: &Touched,
        value_at: &dyn Fn(&StateKey, u64) -> Option<StateValue>,
    ) -> Checked<(StateValue, bool)> {
        self.check_late(id, from, key, write)?;
        let granted = self.groups.get(&id).map_or(&[][..], |group| &group.granted);
        if let Some((_, value)) = granted.iter().find(|(granted, _)| granted == key) {
            return Ok((*value, false));
        }
        let no = |why: &str| Refusal::NotLate { group: id, key: *key, why: why.to_owned() };
        let used = !touched.is_untouched(key, id);
        if write && used && !self.bug.is(Planted::LateAfterUse) {
            return Err(no("it was used since the group's cut"));
        }
        let value = value_at(key, id.round).ok_or_else(|| no("its value is not kept any more"))?;
        Ok((value, write))
    }

    /// Checks that a key may be leased late to a group that `executor` runs, as far as fences tell:
    /// no other group may have made its value uncertain.
    fn check_late(&self, id: GroupId, executor: ShardId, key: &StateKey, write: bool) -> Checked {
        let (owner, here) = (self.config.placement.owner_of(key), self.config.shard);
        if owner != here {
            return Err(Refusal::NotOwner { owner, here });
        }
        let planned = self.groups.get(&id).map(|group| group.plan.executor);
        let expected = planned.or_else(|| self.others.get(&id).copied());
        let expected = expected.ok_or(Refusal::GroupNotOpen { group: id })?;
        if executor != expected {
            return Err(Refusal::NotExecutor { group: id, found: executor, expected });
        }
        let mut others = self.fences.of(key).iter().filter(|other| **other != id);
        let mut conflict = others.find(|other| write || other.round <= id.round);
        if self.bug.is(Planted::LateDespiteFence) {
            conflict = None;
        }
        let changed = self.changed.get(&id.round).and_then(|keys| keys.get(key));
        let changed = changed.filter(|index| **index < id.index);
        if let Some(index) = changed.filter(|_| !self.bug.is(Planted::LateDespiteCommit)) {
            let why = format!("group {} has written it", GroupId { index: *index, ..id });
            return Err(Refusal::NotLate { group: id, key: *key, why });
        }
        conflict.map_or(Ok(()), |other| {
            let why = format!("group {other} may write it");
            Err(Refusal::NotLate { group: id, key: *key, why })
        })
    }

    /// Leases keys late to be written, which were checked, with their values at the group's cut.
    /// Returns those that local transactions may no longer touch.
    pub fn grant(&mut self, id: GroupId, values: &[Write]) -> Vec<StateKey> {
        if !self.groups.contains_key(&id) {
            let Some(executor) = self.others.get(&id) else {
                return Vec::new();
            };
            let group = self.late_group(id, *executor);
            self.groups.insert(id, group);
        }
        self.granted_at = self.cut;
        let mut fenced = Vec::new();
        let Some(group) = self.groups.get_mut(&id) else {
            return fenced;
        };
        for (key, value) in values {
            group.granted.push((*key, *value));
            if self.fences.add(*key, id) {
                fenced.push(*key);
            }
        }
        let keys = values.iter().map(|(key, _)| *key);
        group.keys = group.keys.union(&KeySet::new([], keys));
        fenced
    }

    /// What this shard knows of a group in whose plan it is no owner.
    fn late_group(&self, id: GroupId, executor: ShardId) -> Group {
        let (owners, txs) = (Vec::new(), Vec::new());
        let lease = Lease {
            chain_id: self.config.chain_id,
            epoch: self.config.placement.epoch,
            group: id,
            from: self.config.shard,
            values: Vec::new(),
            in_flight: Vec::new(),
            credits: Vec::new(),
            bodies: Vec::new(),
        };
        Group {
            plan: PlannedGroup { id, executor, owners, txs, gas: 0 },
            env: self.env,
            keys: KeySet::default(),
            lease,
            granted: Vec::new(),
            result: None,
            part: None,
        }
    }
}
