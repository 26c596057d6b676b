//! States of all shards at one cut, made one state of the cluster.
//!
//! Each is the state right after the shard's own cut of that number, so shards have heard from
//! others that had passed it already. What such a message has left is taken back here: its sender, at
//! the cut, has not sent it. `docs/decisions/0023-backup-at-one-cut.md` says why nothing else is.

use atoll_types::{B256, CreditKind, PartMessage, ShardId};

use super::{Owner, Phase};

/// Why states are not those of one cluster at one cut.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotOne {
    #[error("the states are not those of shards 0 to {last}, one each, in order")]
    Shards { last: usize },
    #[error("shard {shard} stands at cut {cut} of beacon block {beacon}, another one elsewhere")]
    Cut { shard: ShardId, cut: u64, beacon: B256 },
    #[error("shard {to} has been paid credit {due} of shard {from}, which has sent {sent}")]
    Credits { from: ShardId, to: ShardId, due: u64, sent: u64 },
}

impl Owner {
    /// Takes back what shards have heard from others that had passed the cut. `owners` are those of
    /// all shards, in order.
    ///
    /// # Errors
    /// If they are not at one cut of one chain, or no protocol can have led there.
    pub fn reconcile(owners: &mut [Self]) -> Result<(), NotOne> {
        let last = owners.len().saturating_sub(1);
        let in_order = owners.iter().zip(0..).all(|(owner, id)| owner.shard() == ShardId(id));
        let Some(first) = owners.first().filter(|_| in_order) else {
            return Err(NotOne::Shards { last });
        };
        let place = (first.cut, first.beacon);
        if let Some(other) = owners.iter().find(|other| (other.cut, other.beacon) != place) {
            let (shard, cut, beacon) = (other.shard(), other.cut, other.beacon);
            return Err(NotOne::Cut { shard, cut, beacon });
        }
        for at in 0..owners.len() {
            let (before, rest) = owners.split_at_mut(at);
            let Some((owner, after)) = rest.split_first_mut() else { continue };
            for other in before.iter().chain(&*after) {
                owner.unhear(other)?;
            }
        }
        Ok(())
    }

    /// Takes back what `other` had not said when it stood at the cut.
    fn unhear(&mut self, other: &Self) -> Result<(), NotOne> {
        let (from, here) = (other.shard(), self.shard());
        let sent = other.outgoing.get(&here).map_or(0, |outgoing| outgoing.newest);
        if let Some(incoming) = self.incoming.get_mut(&from) {
            if incoming.due > sent {
                return Err(NotOne::Credits { from, to: here, due: incoming.due, sent });
            }
            incoming.received = incoming.received.min(sent);
            let mut unsent = Vec::new();
            while let Some(credit) = incoming.held.pop_back_if(|held| held.seq > sent) {
                unsent.push(credit);
            }
            for credit in unsent {
                if let CreditKind::Returned { tx } = credit.kind
                    && let Some((to, seq)) = self.paying.get(&tx)
                    && *to == from
                    && let Some(outgoing) = self.outgoing.get_mut(&from)
                    && let Some(paid) = outgoing.find(*seq)
                {
                    paid.returned = false;
                }
            }
        }
        // A settlement that waits may speak of credits that are not sent. They are told again.
        if let Some(outgoing) = self.outgoing.get_mut(&from) {
            outgoing.settlements.clear();
        }
        // A part of a result that its executor has not logged: it will run the group again, and may come
        // to another one.
        for (id, group) in self.groups.iter_mut().filter(|(_, group)| group.plan.executor == from) {
            let result =
                other.result(*id).and_then(|result| result.first()).map(PartMessage::digest);
            group.part.take_if(|(_, digest)| result != Some(*digest));
        }
        let unheard = |shared: &&super::Shared| {
            let said = other.shared.get(shared.tx.tx.hash()).map(|said| &said.tx);
            shared.tx.origin == from && shared.phase == Phase::Shared && said != Some(&shared.tx)
        };
        let gone: Vec<B256> =
            self.shared.values().filter(unheard).map(|shared| *shared.tx.tx.hash()).collect();
        for hash in gone {
            self.forget(&hash);
        }
        Ok(())
    }
}
