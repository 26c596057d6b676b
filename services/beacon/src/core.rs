//! The beacon's chain: the planner's state as a function of the log, and its blocks by number.

mod open;

use std::{collections::VecDeque, ops::Range, sync::Arc};

use atoll_api::beacon::{
    Announce, AnnounceReply, BeaconError, BeaconStatsReply, Blocks, BlocksReply, HeadReply,
};
use atoll_commit::{BeaconRecord, Planner};
use atoll_meter::Tally;
use atoll_store::{Index, StoreError};
use atoll_types::{B256, BeaconBlock, Intent, Verdict, decode, encode_behind};
use serde::{Deserialize, Serialize};

pub use self::open::{Rest, genesis_of, is_past};

use crate::acks::Acks;

/// Blocks kept in memory; older ones are read from the index.
const KEPT_BLOCKS: usize = 4_096;
/// Blocks that one answer holds at the most.
const MAX_BLOCKS: u32 = 256;

/// What the beacon's log holds.
#[derive(Serialize, Deserialize)]
enum Record {
    Genesis { digest: B256 },
    Block(BeaconRecord),
}

/// How a [`Record::Block`] begins.
const BLOCK_TAG: u8 = 1;

/// The state machine of the beacon service.
pub struct Core {
    planner: Planner,
    index: Arc<dyn Index>,
    recent: VecDeque<Arc<BeaconBlock>>,
    counts: BeaconStatsReply,
    refused: Tally,
    acks: Acks,
    /// The oldest block that is kept.
    kept_from: u64,
    /// Of the chain's beginning.
    genesis: B256,
    /// Bytes of log since the last snapshot, when this was opened.
    tail_bytes: u64,
    /// Length of the last record that was made.
    record_bytes: usize,
}

impl Core {
    pub fn planner(&self) -> &Planner {
        &self.planner
    }

    /// Takes what a shard announces.
    pub(crate) fn announce(&mut self, announce: Announce) -> Result<AnnounceReply, BeaconError> {
        let taken = self.take(announce);
        match &taken {
            Ok(AnnounceReply { whole: true }) => self.refused.add("anchor_not_whole"),
            Ok(_) => {}
            Err(error) => self.refused.add(error.rule()),
        }
        taken
    }

    fn take(&mut self, announce: Announce) -> Result<AnnounceReply, BeaconError> {
        let shards = self.planner.config().shards;
        let known = |shard: atoll_types::ShardId| shard.0 < shards;
        if !known(announce.from) {
            return Err(BeaconError::NoSuchShard { shard: announce.from, shards });
        }
        let mut whole = false;
        if let Some(anchor) = announce.anchor {
            if anchor.shard != announce.from {
                let what = format!("anchor of shard {} from shard {}", anchor.shard, announce.from);
                return Err(BeaconError::BadIntent { what });
            }
            match self.acks.whole(anchor, announce.earlier_acks) {
                Some(anchor) => self.planner.anchor(anchor),
                None => whole = true,
            }
        }
        if !self.planner.has_room(announce.intents.len()) {
            let limit = u64::from(self.planner.config().max_waiting);
            return Err(BeaconError::TooManyIntents { limit });
        }
        if let Some(what) = announce.intents.iter().find_map(|i| fault_of(i, announce.from, shards))
        {
            return Err(BeaconError::BadIntent { what });
        }
        let new = announce.intents.into_iter().map(|intent| self.planner.announce(intent));
        self.counts.intents += new.filter(|is_new| *is_new).count() as u64;
        Ok(AnnounceReply { whole })
    }

    /// Makes the next block. The bytes returned have to be durable before anybody is told.
    pub(crate) fn make(&mut self, now_ms: u64, randomness: B256) -> Result<Vec<u8>, StoreError> {
        let record = self.planner.make(now_ms, randomness);
        self.count(&record.block);
        self.observe_decisions(&record.block);
        self.acks.decided(&record.block);
        let (bytes, block) = self.encoded(&record);
        self.publish(record.block, &bytes[block])?;
        Ok(bytes)
    }

    /// The log record ([`Record::Block`]) of a block, and where the block itself stands in it: that is what
    /// the index keeps.
    fn encoded(&mut self, record: &BeaconRecord) -> (Vec<u8>, Range<usize>) {
        // Rounds are much like those before them.
        let mut bytes = Vec::with_capacity(self.record_bytes + self.record_bytes / 4);
        bytes.push(BLOCK_TAG);
        let BeaconRecord { block, intents, anchors } = record;
        let mut bytes = encode_behind(bytes, block);
        let block = 1..bytes.len();
        bytes = encode_behind(bytes, &(intents, anchors));
        self.record_bytes = bytes.len();
        (bytes, block)
    }

    fn count(&mut self, block: &BeaconBlock) {
        let commits =
            block.decisions.iter().filter(|d| matches!(d.verdict, Verdict::Commit { .. }));
        let commits = commits.count() as u64;
        self.counts.blocks += 1;
        self.counts.groups += block.plan.len() as u64;
        self.counts.txs += block.plan.iter().map(|group| group.txs.len() as u64).sum::<u64>();
        self.counts.commits += commits;
        self.counts.aborts += block.decisions.len() as u64 - commits;
    }

    /// What has been counted since the chain was opened; processor time is the shell's to add.
    pub(crate) fn stats(&self) -> BeaconStatsReply {
        BeaconStatsReply { refused: self.refused.get(), ..self.counts.clone() }
    }

    /// `bytes` are those of the block.
    fn publish(&mut self, block: Arc<BeaconBlock>, bytes: &[u8]) -> Result<(), StoreError> {
        self.index.put(&block.number().to_be_bytes(), bytes)?;
        self.recent.push_back(block);
        if self.recent.len() > KEPT_BLOCKS {
            self.recent.pop_front();
        }
        Ok(())
    }

    pub(crate) fn head(&self) -> HeadReply {
        HeadReply {
            block: Arc::clone(self.planner.head()),
            intents_waiting: self.planner.waiting() as u64,
            groups_open: self.planner.open() as u64,
        }
    }

    pub(crate) fn blocks(&self, asked: &Blocks) -> Result<BlocksReply, BeaconError> {
        let newest = self.planner.head().number();
        let last = newest.min(asked.after.saturating_add(u64::from(asked.max.min(MAX_BLOCKS))));
        let first = asked.after.saturating_add(1);
        if first < self.kept_from && first <= last {
            return Err(BeaconError::Pruned { asked: first, oldest: self.kept_from });
        }
        let numbers = first..=last;
        let blocks = numbers.map(|number| self.block(number)).collect::<Result<_, _>>()?;
        Ok(BlocksReply { blocks })
    }

    /// A block that is in memory.
    pub(crate) fn recent(&self, number: u64) -> Option<&Arc<BeaconBlock>> {
        let oldest = self.recent.front()?.number();
        self.recent.get(number.checked_sub(oldest)? as usize)
    }

    fn block(&self, number: u64) -> Result<Arc<BeaconBlock>, BeaconError> {
        if let Some(block) = self.recent(number) {
            return Ok(Arc::clone(block));
        }
        let failed = |reason: String| BeaconError::Storage { reason };
        let bytes = self.index.get(&number.to_be_bytes()).map_err(|e| failed(e.to_string()))?;
        let bytes = bytes.ok_or_else(|| failed(format!("block {number} is not in the index")))?;
        decode(&bytes).map(Arc::new).map_err(|e| failed(e.to_string()))
    }
}

/// What is wrong with an intent, if anything.
fn fault_of(intent: &Intent, from: atoll_types::ShardId, shards: u16) -> Option<String> {
    if intent.origin != from {
        return Some(format!("its origin is shard {}, it came from shard {from}", intent.origin));
    }
    if intent.keys.is_empty() || !intent.keys.is_sorted_by(|a, b| a.shard < b.shard) {
        return Some("its shards must be in ascending order, at least one".into());
    }
    if !intent.keys.iter().any(|keys| keys.shard == from) {
        return Some("it uses no key of its sender's shard".into());
    }
    if intent.keys.iter().any(|keys| keys.reads.is_empty() && keys.writes.is_empty()) {
        return Some("it names a shard of which it uses no key".into());
    }
    intent
        .keys
        .iter()
        .find(|keys| keys.shard.0 >= shards)
        .map(|keys| format!("it names shard {}, this cluster has {shards}", keys.shard))
}

#[cfg(test)]
mod tests {
    use atoll_commit::PlannerConfig;
    use atoll_journal::OpenError;
    use atoll_store::{Log, MemoryIndex, MemoryLog};
    use atoll_types::{Address, Anchor, Fingerprints, ShardId, ShardKeys, TxRef, encode};

    use super::*;

    fn config() -> PlannerConfig {
        PlannerConfig::new(7, 2, Address::ZERO, 1_000)
    }

    fn intent(name: u8) -> Intent {
        let keys = |shard| ShardKeys {
            shard: ShardId(shard),
            reads: Fingerprints::new(),
            writes: Fingerprints::from_slice(&[name.into()]),
        };
        Intent {
            tx: TxRef { hash: B256::repeat_byte(name), attempt: 1 },
            origin: ShardId(0),
            sender: name.into(),
            nonce: 0,
            gas_limit: 1,
            halvings: 0,
            last_valid_round: 100,
            keys: [keys(0), keys(1)].into(),
        }
    }

    fn anchor(cut: u64) -> Anchor {
        Anchor {
            shard: ShardId(0),
            head: cut,
            cut,
            digest: B256::ZERO,
            gas_used: cut,
            acks: Vec::new(),
            credits_sent: Vec::new(),
            credits_received: Vec::new(),
            root: None,
        }
    }

    fn announce(intents: Vec<Intent>, anchor: Option<Anchor>) -> Announce {
        Announce { from: ShardId(0), intents, anchor, earlier_acks: 0 }
    }

    fn open(
        log: &MemoryLog,
        index: &MemoryIndex,
        config: PlannerConfig,
    ) -> Result<Core, OpenError> {
        Core::open(config, &mut log.clone(), Arc::new(index.clone()), None)
    }

    fn make(core: &mut Core, log: &mut MemoryLog) -> Result<(), StoreError> {
        let record = core.make(2_000, B256::ZERO)?;
        log.append(&record)?;
        log.sync()
    }

    #[test]
    fn a_restart_tells_the_same_and_plans_nothing_twice() -> Result<(), Box<dyn std::error::Error>>
    {
        let (mut log, index) = (MemoryLog::new(), MemoryIndex::new());
        let mut core = open(&log, &index, config())?;
        for cut in 0..4 {
            core.announce(announce(vec![intent(cut as u8 + 1)], Some(anchor(cut))))?;
            make(&mut core, &mut log)?;
        }
        let all = Blocks { after: 0, max: 100, wait_ms: 0 };
        let (blocks, open_groups) = (core.blocks(&all)?.blocks, core.head().groups_open);
        assert_eq!((blocks.len(), open_groups), (4, 4));
        for clean in [false, true, true, false] {
            if clean {
                core.close(log.next(), 0)?;
            }
            log.append(b"torn")?;
            log.crash();
            core = open(&log, &index, config())?;
            assert_eq!(core.blocks(&all)?.blocks, blocks);
            assert_eq!(core.head().groups_open, open_groups);
            core.announce(announce(vec![intent(1)], None))?;
            assert_eq!(core.stats().intents, 0, "planned before");
            let next = core.planner().propose(3_000, B256::ZERO);
            assert_eq!(next.block.anchors, Vec::new(), "no anchor is taken in again");
        }
        core.close(log.next(), 0)?;
        // Bounds may change with either kind of start, what the chain began with may not.
        let bounds = PlannerConfig { max_waiting: 0, ..config() };
        core = open(&log, &index, bounds)?;
        let refused = core.announce(announce(vec![intent(9)], None));
        assert!(matches!(refused, Err(BeaconError::TooManyIntents { limit: 0 })));
        core.close(log.next(), 0)?;
        let other = PlannerConfig { shards: 3, ..config() };
        assert!(matches!(open(&log, &index, other), Err(OpenError::OtherGenesis { .. })));
        core = open(&log, &index, config())?;
        assert_eq!(core.blocks(&all)?.blocks, blocks, "a start that was refused does no harm");
        Ok(())
    }

    #[test]
    fn blocks_that_every_shard_has_passed_are_forgotten_at_a_snapshot()
    -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let snapshots = atoll_store::Snapshots::open(dir.path())?;
        let (mut log, index) = (MemoryLog::new(), MemoryIndex::new());
        let mut core = open(&log, &index, config())?;
        let of_shard = |shard: u16, cut| Announce {
            from: ShardId(shard),
            intents: Vec::new(),
            anchor: Some(Anchor { shard: ShardId(shard), ..anchor(cut) }),
            earlier_acks: 0,
        };
        let snapshot = |core: &mut Core, log: &mut MemoryLog, keep| {
            let number = log.next();
            let mut writer = snapshots.begin(number)?;
            core.capture(number, keep).write(&mut writer, &|| Ok(()))?;
            writer.finish()?;
            writer.publish()
        };
        for cut in 0..8 {
            core.announce(of_shard(0, cut))?;
            // The other one follows slowly.
            core.announce(of_shard(1, cut / 2))?;
            make(&mut core, &mut log)?;
        }
        snapshot(&mut core, &mut log, 6)?;
        let asked = |after| Blocks { after, max: 100, wait_ms: 0 };
        let pruned = |core: &Core, after| {
            matches!(core.blocks(&asked(after)), Err(BeaconError::Pruned { oldest: 3, .. }))
        };
        for clean in [false, true, false] {
            assert!(pruned(&core, 0) && pruned(&core, 1));
            assert_eq!(core.blocks(&asked(2))?.blocks.len(), 6);
            assert!(core.blocks(&asked(9))?.blocks.is_empty());
            if clean {
                core.close(log.next(), 0)?;
            }
            let (own, index) = (&mut log.clone(), Arc::new(index.clone()));
            core = Core::open(config(), own, index, Some(&snapshots))?;
        }
        Ok(())
    }

    #[test]
    fn a_record_is_encoded_as_it_is_read() -> Result<(), Box<dyn std::error::Error>> {
        let mut core = open(&MemoryLog::new(), &MemoryIndex::new(), config())?;
        core.announce(announce(vec![intent(1), intent(2)], Some(anchor(0))))?;
        let record = core.planner.make(2_000, B256::ZERO);
        let (bytes, block) = core.encoded(&record);
        assert_eq!(bytes[block], encode(&record.block));
        assert_eq!(bytes, encode(&Record::Block(record)));
        Ok(())
    }

    #[test]
    fn intents_that_make_no_sense_are_refused() -> Result<(), Box<dyn std::error::Error>> {
        let mut core = open(&MemoryLog::new(), &MemoryIndex::new(), config())?;
        let mut refused = |change: fn(&mut Intent)| {
            let mut intent = intent(1);
            change(&mut intent);
            core.announce(announce(vec![intent], None)).is_err()
        };
        assert!(!refused(|_| {}));
        assert!(refused(|intent| intent.origin = ShardId(1)));
        assert!(refused(|intent| intent.keys.clear()));
        assert!(refused(|intent| intent.keys.reverse()));
        assert!(refused(|intent| intent.keys[1].shard = ShardId(2)));
        assert!(refused(|intent| intent.keys[1].writes.clear()));
        assert!(refused(|intent| {
            intent.keys.remove(0);
        }));
        Ok(())
    }
}
