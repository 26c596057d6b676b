//! What the process's metrics are told of a router, when somebody asks for its counts.

use atoll_api::router::RouterStatsReply;
use atoll_telemetry::metrics::{is_installed, set_count, table};

use crate::shared::Shared;

pub(crate) fn publish(shared: &Shared, stats: &RouterStatsReply) {
    if !is_installed() {
        return;
    }
    let shard = shared.shard().to_string();
    let labels = |first: &str| [first.to_owned(), shard.clone()];
    for (link, traffic) in [
        ("deliver", stats.deliver),
        ("fetch", stats.fetch),
        ("announce", stats.announce),
        ("blocks", stats.blocks),
    ] {
        for (direction, messages, bytes) in [
            ("request", traffic.requests, traffic.request_bytes),
            ("reply", traffic.replies, traffic.reply_bytes),
        ] {
            let labels = [link.to_owned(), direction.to_owned(), shard.clone()];
            set_count(&table::ROUTER_MESSAGES, &labels, messages);
            set_count(&table::ROUTER_IO, &labels, bytes);
        }
    }
    for (event, count) in [
        ("escalated", stats.escalated),
        ("intent", stats.intents),
        ("flight", stats.flights),
        ("late_asked", stats.late_asks),
        ("late_refused", stats.late_refused),
    ] {
        set_count(&table::ROUTER_EVENTS, &labels(event), count);
    }
    set_count(&table::TRANSACTIONS, &labels("credit"), stats.credits);
    for (rule, count) in &stats.refused {
        set_count(&table::ROUTER_REFUSED, &labels(rule), *count);
    }
    let one = [shard.clone()];
    set_count(&table::ROUTER_QUEUE, &one, shared.jobs().len() as u64);
    set_count(&table::ROUTER_QUEUE_LIMIT, &one, shared.config.max_jobs as u64);
}
