//! What the process's metrics are told of the beacon.

use atoll_api::beacon::BeaconStatsReply;
use atoll_telemetry::metrics::{is_installed, observe, set, set_count, table};
use atoll_types::{BeaconBlock, Verdict};

use crate::{actor::BeaconService, core::Core};

impl BeaconService {
    /// When somebody asks for its counts.
    pub(crate) fn publish(&self, stats: &BeaconStatsReply) {
        if !is_installed() {
            return;
        }
        set_count(&table::BEACON_BLOCKS, &[], stats.blocks);
        set_count(&table::BEACON_INTENTS, &[], stats.intents);
        set_count(&table::BEACON_TRANSACTIONS, &[], stats.txs);
        set(&table::BEACON_CPU, &[], stats.cpu_ns as f64 / 1e9);
        for (verdict, count) in
            [("planned", stats.groups), ("commit", stats.commits), ("abort", stats.aborts)]
        {
            set_count(&table::BEACON_GROUPS, &[verdict.to_owned()], count);
        }
        for (reason, count) in &stats.refused {
            set_count(&table::BEACON_REFUSED, std::slice::from_ref(reason), *count);
        }
        let planner = self.core.planner();
        let head = planner.head().number();
        set_count(&table::BEACON_HEIGHT, &[], head);
        set_count(&table::BEACON_GROUPS_OPEN, &[], planner.open() as u64);
        let oldest = planner.oldest_open().map_or(0, |group| head.saturating_sub(group.round));
        set_count(&table::BEACON_ROUNDS_OPEN, &[], oldest);
        set_count(&table::BEACON_INTENTS_WAITING, &[], planner.waiting() as u64);
        set_count(&table::BEACON_INTENTS_LIMIT, &[], u64::from(planner.config().max_waiting));
        for (shard, lag) in self.pace.lags(head) {
            set_count(&table::SHARD_LAG, &[shard.to_string()], lag);
        }
        let of_log = ["beacon".to_owned(), String::new()];
        set_count(&table::LOG_WRITTEN, &of_log, self.journal.bytes());
        set_count(&table::LOG_FULL, &of_log, u64::from(self.journal.is_low()));
    }
}

impl Core {
    /// How long the groups were open that a block decides.
    pub(crate) fn observe_decisions(&self, block: &BeaconBlock) {
        if !is_installed() {
            return;
        }
        let stage = ["decide".to_owned(), String::new()];
        for decision in &block.decisions {
            let verdict = match decision.verdict {
                Verdict::Commit { .. } => "commit",
                Verdict::Abort(_) => "abort",
            };
            let planned = decision.group.round;
            let rounds = block.number().saturating_sub(planned);
            observe(&table::GROUP_ROUNDS, &[verdict.to_owned()], rounds as f64, None);
            if let Some(planned) = self.recent(planned) {
                let time_ms = block.time_ms.saturating_sub(planned.time_ms);
                observe(&table::STAGE, &stage, time_ms as f64 / 1e3, None);
            }
        }
    }
}
