//! What the process's metrics are told of a state: at each cut.

use atoll_telemetry::metrics::{Timer, is_installed, set_count, table};
use atoll_types::BeaconBlock;

use crate::{actor::StateService, values::MOST_WAITING};

/// Blocks whose time to the cut that takes them in is measured. A beacon that is away has none of more.
const MAX_UNANCHORED: usize = 4_096;

impl StateService {
    /// A local block was appended.
    pub(crate) fn appended(&mut self, timer: Timer) {
        if is_installed() && self.unanchored.len() < MAX_UNANCHORED {
            let owner = self.core.owner();
            timer.stage("append", owner.shard());
            self.unanchored.push_back((owner.head(), timer));
        }
    }

    /// The newest local block that a beacon block takes in, if it takes in any.
    pub(crate) fn anchored(&self, block: &BeaconBlock) -> Option<u64> {
        let here = self.core.owner().shard();
        let own = block.anchors.iter().find(|anchored| anchored.shard == here);
        own.map(|anchored| anchored.head)
    }

    /// A cut was passed that takes in local blocks up to `anchored`.
    pub(crate) fn publish(&mut self, anchored: Option<u64>) {
        if !is_installed() {
            return;
        }
        let up_to = anchored.unwrap_or(0);
        let owner = self.core.owner();
        while let Some((_, timer)) = self.unanchored.pop_front_if(|(block, _)| *block <= up_to) {
            timer.stage("anchor", owner.shard());
        }
        let shard = [owner.shard().to_string()];
        let cut = owner.cut_number();
        set_count(&table::STATE_CUT, &shard, cut);
        set_count(&table::STATE_HEAD, &shard, owner.head());
        set_count(&table::STATE_FENCES, &shard, owner.fence_count() as u64);
        let oldest = owner.open_groups().next().map_or(cut, |(plan, _)| plan.id.round);
        set_count(&table::STATE_FENCE_AGE, &shard, cut.saturating_sub(oldest));
        set_count(&table::STATE_GROUPS_OPEN, &shard, owner.open_groups().count() as u64);
        let values = &self.core.values;
        set_count(&table::STATE_INDEX_WAITING, &shard, values.waiting() as u64);
        set_count(&table::STATE_INDEX_LIMIT, &shard, MOST_WAITING as u64);
        let [shard] = shard;
        let of_cache = ["state".to_owned(), shard.clone()];
        set_count(&table::CACHE_ENTRIES, &of_cache, values.cached() as u64);
        set_count(&table::CACHE_LIMIT, &of_cache, values.capacity() as u64);
        let of_log = ["state".to_owned(), shard];
        set_count(&table::LOG_WRITTEN, &of_log, self.journal.bytes());
        set_count(&table::LOG_FULL, &of_log, u64::from(self.journal.is_low()));
    }
}
