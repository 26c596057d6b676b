//! Anchors as shards send them: acknowledgements that came with an earlier anchor are left out, for
//! there may be one for each transaction that crosses shards, and each stays until the shard has
//! passed the decision.

use std::collections::{BTreeMap, HashMap};

use atoll_types::{Anchor, BeaconBlock, GroupAck, GroupId, ShardId};

/// Blocks whose decisions are remembered. A shard further behind sends its anchors whole.
const MAX_BLOCKS: usize = 1_024;

/// What the newest anchor of a shard acknowledges.
#[derive(Default)]
struct Told {
    cut: u64,
    /// Ascending by group.
    acks: Vec<GroupAck>,
}

/// Makes anchors whole again. A cache: what it does not know is asked for.
#[derive(Default)]
pub(crate) struct Acks {
    told: HashMap<ShardId, Told>,
    /// By block; each list is ascending.
    decided: BTreeMap<u64, Vec<GroupId>>,
}

impl Acks {
    /// Notes what a block decides: whoever passes it acknowledges these groups no more.
    pub fn decided(&mut self, block: &BeaconBlock) {
        if !block.decisions.is_empty() {
            let groups = block.decisions.iter().map(|decision| decision.group);
            self.decided.insert(block.number(), groups.collect());
        }
        if self.decided.len() > MAX_BLOCKS {
            self.decided.pop_first();
        }
    }

    /// The whole anchor; `None` if some of the `earlier` acknowledgements are not known.
    pub fn whole(&mut self, mut anchor: Anchor, earlier: u32) -> Option<Anchor> {
        let told = self.told.entry(anchor.shard).or_default();
        // It was on its way for long. The planner has a newer one.
        if anchor.cut < told.cut {
            return Some(anchor);
        }
        if earlier == 0 {
            told.acks.clear();
        }
        if told.cut < anchor.cut {
            let passed = self.decided.range(told.cut + 1..=anchor.cut);
            let is_open = |ack: &GroupAck| {
                passed.clone().all(|(_, groups)| groups.binary_search(&ack.group).is_err())
            };
            told.acks.retain(is_open);
            told.cut = anchor.cut;
        }
        let count = anchor.acks.len() + earlier as usize;
        told.acks.append(&mut anchor.acks);
        told.acks.sort_by_key(|ack| ack.group);
        // Of two on one group the newer one, which came later.
        told.acks.dedup_by(|newer, older| {
            let is_same = newer.group == older.group;
            if is_same {
                std::mem::swap(newer, older);
            }
            is_same
        });
        // Whatever is known was acknowledged, so as many are the same ones.
        if told.acks.len() != count {
            return None;
        }
        anchor.acks.clone_from(&told.acks);
        Some(anchor)
    }
}

#[cfg(test)]
mod tests {
    use atoll_types::{Address, B256, BlockEnv, Decision, Verdict};

    use super::*;

    fn group(index: u32) -> GroupId {
        GroupId { round: 1, index }
    }

    fn anchor(cut: u64, acks: &[u32]) -> Anchor {
        let ack = |index: &u32| GroupAck {
            group: group(*index),
            digest: B256::repeat_byte(*index as u8),
            sources: Vec::new(),
            late: Vec::new(),
        };
        Anchor {
            shard: ShardId(3),
            head: 0,
            cut,
            digest: B256::ZERO,
            gas_used: 0,
            acks: acks.iter().map(ack).collect(),
            credits_sent: Vec::new(),
            credits_received: Vec::new(),
            root: None,
        }
    }

    fn block(number: u64, decided: &[u32]) -> BeaconBlock {
        let verdict = Verdict::Commit { digest: B256::ZERO, late: Vec::new() };
        let decision = |index: &u32| Decision { group: group(*index), verdict: verdict.clone() };
        BeaconBlock {
            env: BlockEnv {
                chain_id: 1,
                number,
                timestamp: 0,
                randomness: B256::ZERO,
                base_fee: 0,
                coinbase: Address::ZERO,
                gas_limit: 0,
            },
            time_ms: 0,
            parent: B256::ZERO,
            epoch: 0,
            decisions: decided.iter().map(decision).collect(),
            credits: Vec::new(),
            plan: Vec::new(),
            dropped: Vec::new(),
            anchors: Vec::new(),
            settled: 0,
        }
    }

    #[test]
    fn what_was_told_is_put_back_until_the_shard_has_passed_the_decision() {
        let mut acks = Acks::default();
        assert_eq!(acks.whole(anchor(1, &[1, 2]), 0), Some(anchor(1, &[1, 2])));
        assert_eq!(acks.whole(anchor(1, &[3]), 2), Some(anchor(1, &[1, 2, 3])));
        acks.decided(&block(2, &[1, 2]));
        // Not passed yet: the shard still counts them.
        assert_eq!(acks.whole(anchor(1, &[]), 3), Some(anchor(1, &[1, 2, 3])));
        assert_eq!(acks.whole(anchor(2, &[4]), 1), Some(anchor(2, &[3, 4])));
        // Told twice, since the answer was lost.
        assert_eq!(acks.whole(anchor(2, &[4]), 1), Some(anchor(2, &[3, 4])));
        assert_eq!(acks.whole(anchor(5, &[9]), 0), Some(anchor(5, &[9])));
    }

    #[test]
    fn what_is_not_known_is_asked_for() {
        let mut acks = Acks::default();
        assert_eq!(acks.whole(anchor(1, &[3]), 2), None);
        assert_eq!(acks.whole(anchor(1, &[1, 2, 3]), 0), Some(anchor(1, &[1, 2, 3])));
        // Decided before this beacon was started: it does not know that the shard has dropped one.
        assert_eq!(acks.whole(anchor(2, &[]), 2), None);
        assert_eq!(acks.whole(anchor(2, &[2, 3]), 0), Some(anchor(2, &[2, 3])));
    }
}
