//! Results: what an executor made of a group, and what an owner checks before it keeps its part.

use atoll_types::{GroupId, Part, PartMessage, Refusal, ShardId, StateKey};

use crate::planted::Planted;

use super::{Checked, Owner};

impl Owner {
    /// Checks a part, without changing anything. `Ok(false)`: this very one is held already.
    pub fn check_part(&self, message: &PartMessage) -> Checked<bool> {
        let part = &message.part;
        let (here, id) = (self.config.shard, part.group);
        if part.chain_id != self.config.chain_id {
            return Err(Refusal::WrongChain {
                found: part.chain_id,
                expected: self.config.chain_id,
            });
        }
        if part.epoch != self.config.placement.epoch {
            let expected = self.config.placement.epoch;
            return Err(Refusal::WrongEpoch { found: part.epoch, expected });
        }
        if part.owner != here {
            return Err(Refusal::NotForThisShard { group: id, found: part.owner, expected: here });
        }
        let group = self.groups.get(&id).ok_or(Refusal::GroupNotOpen { group: id })?;
        let expected = group.plan.executor;
        if part.executor != expected {
            return Err(Refusal::NotExecutor { group: id, found: part.executor, expected });
        }
        let owners = message.manifest.iter().map(|(owner, _)| *owner);
        let listed = message.manifest.iter().find(|(owner, _)| *owner == here);
        let hash_holds =
            listed.is_some_and(|(_, hash)| *hash == part.hash()) || self.bug.is(Planted::OtherPart);
        if !covers(owners, &group.plan.owners) || !hash_holds {
            return Err(Refusal::ManifestMismatch { group: id });
        }
        for (key, value) in &part.writes {
            if group.keys.writes.binary_search(key).is_err() || !key.holds(value) {
                return Err(Refusal::OutsideFence { group: id, key: *key });
            }
        }
        let written = |key: &StateKey| part.writes.binary_search_by_key(key, |(k, _)| *k).is_ok();
        // An executor that has started again may do without a key that it was leased late.
        let granted = |key: &StateKey| group.granted.iter().any(|(granted, _)| granted == key);
        let lacking = |key: &&StateKey| !written(key) && !granted(key);
        if let Some(key) = group.keys.writes.iter().find(lacking) {
            return Err(Refusal::LacksFenced { group: id, key: *key });
        }
        if let Some((_, held)) = &group.part {
            let same = *held == message.digest();
            return if same { Ok(false) } else { Err(Refusal::OtherResult { group: id }) };
        }
        Ok(true)
    }

    /// Keeps a part that was checked.
    pub fn keep_part(&mut self, message: PartMessage) {
        if let Some(group) = self.groups.get_mut(&message.part.group) {
            let digest = message.digest();
            group.part = Some((message, digest));
        }
    }

    /// The result held of a group that this shard executes.
    pub fn result(&self, group: GroupId) -> Option<&[PartMessage]> {
        self.groups.get(&group)?.result.as_deref()
    }

    /// Checks that this shard may keep a result of a group.
    pub fn check_result(&self, id: GroupId, parts: &[Part]) -> Checked {
        let group = self.groups.get(&id).ok_or(Refusal::GroupNotOpen { group: id })?;
        let (found, expected) = (self.config.shard, group.plan.executor);
        if found != expected {
            return Err(Refusal::NotExecutor { group: id, found, expected });
        }
        let fits = |part: &Part| part.group == id && part.executor == expected;
        let owners = parts.iter().map(|part| part.owner);
        if !parts.iter().all(fits) || !covers(owners, &group.plan.owners) {
            return Err(Refusal::Malformed { what: format!("result is not one of group {id}") });
        }
        Ok(())
    }

    /// Keeps the result of a group that this shard executes, and its own part of it. The first one
    /// stays.
    pub fn keep_result(&mut self, id: GroupId, parts: Vec<Part>) {
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        if group.result.is_some() {
            return;
        }
        let manifest: Vec<_> = parts.iter().map(|part| (part.owner, part.hash())).collect();
        let message = |part| PartMessage { part, manifest: manifest.clone() };
        let mut messages: Vec<PartMessage> = parts.into_iter().map(message).collect();
        let here = self.config.shard;
        if self.bug.is(Planted::OtherPart)
            && let Some(other) = messages.iter_mut().find(|message| message.part.owner != here)
            && let Some((key, value)) = other.part.writes.first_mut()
        {
            *value = key.absent();
        }
        let own = messages.iter().find(|message| message.part.owner == here).cloned();
        group.result = Some(messages);
        // An own part that breaks a rule is not kept, as another owner would not keep its one: the
        // group is never acknowledged, and ends by an abort.
        if let Some(own) = own.filter(|own| self.check_part(own) == Ok(true)) {
            self.keep_part(own);
        }
    }

    /// Results of open groups, part by part.
    pub fn results(&self) -> impl Iterator<Item = &PartMessage> {
        self.groups.values().filter_map(|group| group.result.as_ref()).flatten()
    }
}

/// Whether a result's owners, ascending, are those of the plan, and perhaps more by late leases.
fn covers(owners: impl Iterator<Item = ShardId>, planned: &[ShardId]) -> bool {
    let owners: Vec<ShardId> = owners.collect();
    owners.is_sorted_by(|a, b| a < b) && planned.iter().all(|owner| owners.contains(owner))
}
