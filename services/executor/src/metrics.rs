//! What the process's metrics are told of an executor, when somebody asks for its counts.

use atoll_api::executor::ExecutorStatsReply;
use atoll_telemetry::metrics::{is_installed, set, set_count, table};

use crate::shared::Shared;

pub(crate) fn publish(shared: &Shared, stats: &ExecutorStatsReply) {
    if !is_installed() {
        return;
    }
    let shard = shared.shard().to_string();
    let labels = |first: &str| [first.to_owned(), shard.clone()];
    let ExecutorStatsReply { local, groups, predictions, wrong } = *stats;
    for (work, done) in [("local", local), ("group", groups), ("predict", predictions)] {
        set_count(&table::WORK_BATCHES, &labels(work), done.batches);
        set(&table::WORK_CPU, &labels(work), done.cpu_ns as f64 / 1e9);
    }
    set_count(&table::TRANSACTIONS, &labels("local"), local.items);
    set_count(&table::TRANSACTIONS, &labels("group"), groups.items);
    set_count(&table::PREDICTIONS_WRONG, &labels("")[1..], wrong);
    let (held, limit) = (shared.cache().len(), shared.config.cached_values);
    set_count(&table::CACHE_ENTRIES, &labels("executor"), held as u64);
    set_count(&table::CACHE_LIMIT, &labels("executor"), limit as u64);
}
