//! The end of groups: what is agreed on is committed, what hangs too long is aborted.

use alloy_primitives::map::{Entry, HashMap, HashSet};
use atoll_types::{
    AbortCause, Anchor, B256, Decision, GroupAck, GroupDigest, GroupId, ShardId, Verdict,
};

use crate::planted::Planted;

use super::{Open, Planner};

/// What has become of the groups whose values a result was made from.
enum Sources {
    Committed,
    Open,
    /// One of them was aborted, or has another result.
    Void,
}

impl Planner {
    /// Every open group that can be decided in block `number`. Ascending, so that a group comes after
    /// those that it takes values from.
    pub(super) fn decide(&self, number: u64) -> Vec<Decision> {
        let mut committed: HashMap<GroupId, B256> = HashMap::default();
        let mut aborted: HashSet<GroupId> = HashSet::default();
        let mut decisions = Vec::new();
        for (id, open) in &self.open {
            let is_behind_aborted = open.behind.iter().any(|source| aborted.contains(source));
            let verdict = if is_behind_aborted {
                Verdict::Abort(AbortCause::Dependant)
            } else if let Some((ack, late)) = self.agreed(*id, open) {
                match self.sources(&ack.sources, &committed) {
                    Sources::Committed => Verdict::Commit { digest: ack.digest, late },
                    Sources::Void => Verdict::Abort(AbortCause::Dependant),
                    Sources::Open => continue,
                }
            } else if open.since + self.config.abort_after <= number {
                Verdict::Abort(self.cause(*id, open))
            } else {
                continue;
            };
            if let Verdict::Commit { digest, .. } = &verdict {
                committed.insert(*id, *digest);
            } else {
                aborted.insert(*id);
            }
            decisions.push(Decision { group: *id, verdict });
        }
        decisions
    }

    /// Whether every open group can be decided now, and there is one.
    pub fn all_decidable(&self) -> bool {
        !self.open.is_empty() && self.open.iter().all(|(id, open)| self.agreed(*id, open).is_some())
    }

    /// What the executor's shard says of the result that every owner of a group has acknowledged,
    /// each having passed the group's cut; and the owners by late leases, who have too.
    fn agreed(&self, id: GroupId, open: &Open) -> Option<(&GroupAck, Vec<ShardId>)> {
        let said = self.ack(id, open.executor)?;
        let owners = open.owners.iter().chain(&said.late);
        let agrees = |owner: &ShardId| {
            let passed = self.newest_anchor(*owner).is_some_and(|anchor| anchor.cut >= id.round);
            passed && self.ack(id, *owner).is_some_and(|ack| ack.digest == said.digest)
        };
        let mut owners = owners;
        if self.bug.is(Planted::CommitEarly) {
            return Some((said, said.late.clone()));
        }
        owners.all(agrees).then(|| (said, said.late.clone()))
    }

    fn ack(&self, id: GroupId, shard: ShardId) -> Option<&GroupAck> {
        let acks = &self.newest_anchor(shard)?.acks;
        let at = acks.binary_search_by_key(&id, |ack| ack.group).ok()?;
        Some(&acks[at])
    }

    fn newest_anchor(&self, shard: ShardId) -> Option<&Anchor> {
        self.announced.get(usize::from(shard.0))?.as_deref()
    }

    fn sources(&self, sources: &[GroupDigest], now: &HashMap<GroupId, B256>) -> Sources {
        let mut all = Sources::Committed;
        for GroupDigest { group, digest } in sources {
            let committed = now.get(group).or_else(|| self.committed.get(group));
            match committed {
                Some(result) if result == digest || self.bug.is(Planted::OtherSource) => {}
                None if self.bug.is(Planted::CommitBeforeSource) => {}
                None if self.open.contains_key(group) => all = Sources::Open,
                Some(_) | None => return Sources::Void,
            }
        }
        all
    }

    /// Why a group hangs.
    fn cause(&self, id: GroupId, open: &Open) -> AbortCause {
        let follows = |owner: &ShardId| {
            let head = self.block.number();
            let cut = self.newest_anchor(*owner).map_or(0, |anchor| anchor.cut);
            cut >= id.round && cut + self.config.max_lag >= head
        };
        let missing: Vec<ShardId> =
            open.owners.iter().filter(|owner| !follows(owner)).copied().collect();
        if missing.is_empty() { AbortCause::Silent } else { AbortCause::Missing(missing) }
    }

    /// Takes a group that block `number` decides off the fences.
    pub(super) fn close(&mut self, decision: &Decision, number: u64) {
        let id = decision.group;
        let Some(open) = self.open.remove(&id) else {
            return;
        };
        for key in open.writes {
            if let Entry::Occupied(mut groups) = self.fenced.entry(key) {
                groups.get_mut().retain(|other| *other != id);
                if groups.get().is_empty() {
                    groups.remove();
                }
            }
        }
        for follower in self.followers.remove(&id).unwrap_or_default() {
            if let Some(open) = self.open.get_mut(&follower) {
                open.since = number;
            }
        }
        if let Verdict::Commit { digest, .. } = decision.verdict {
            self.committed.insert(id, digest);
            self.committed_at.push_back((number, id));
        }
    }

    /// Forgets the commits that no open group can name: a group takes values only from those that were
    /// undecided in its own round.
    pub(super) fn forget_commits(&mut self) {
        let oldest = self.open.keys().next().map_or(u64::MAX, |id| id.round);
        while let Some((_, id)) = self.committed_at.pop_front_if(|(number, _)| *number < oldest) {
            self.committed.remove(&id);
        }
    }
}
