//! Every metric of Atoll, declared once: docs/metrics.md and the names that dashboards may use are made of
//! this.

use super::{Kind, Metric};

/// Bounds for times in seconds, as OpenTelemetry's conventions give them for calls.
const CALLS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
/// Bounds for stages, of which many take less than a millisecond.
const STAGES: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    10.0,
];
/// Bounds for rounds of the beacon.
const ROUNDS: &[f64] = &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 12.0, 20.0, 50.0, 100.0, 200.0];

macro_rules! metrics {
    ($($id:ident: $kind:expr, $name:literal, $unit:literal, [$($label:literal),*],
        $meaning:literal;)*) => {
        $(pub static $id: Metric = Metric {
            name: $name,
            kind: $kind,
            unit: $unit,
            labels: &[$($label),*],
            meaning: $meaning,
        };)*
        /// All of them, by name.
        pub static ALL: &[&Metric] = &[$(&$id),*];
    };
}

use Kind::{Counter, Gauge, Histogram};

metrics! {
    BEACON_BLOCKS: Counter, "atoll.beacon.blocks", "{block}", [],
        "Blocks that the beacon has made.";
    BEACON_CPU: Counter, "atoll.beacon.cpu.time", "s", [],
        "Processor time of the beacon's thread and of writing its log.";
    BEACON_GROUPS: Counter, "atoll.beacon.groups", "{group}", ["verdict"],
        "Groups of transactions across shards: `planned`, and decided as `commit` or `abort`.";
    BEACON_GROUPS_OPEN: Gauge, "atoll.beacon.groups.open", "{group}", [],
        "Groups that no block has decided.";
    BEACON_HEIGHT: Gauge, "atoll.beacon.height", "{block}", [],
        "Number of the newest beacon block.";
    BEACON_INTENTS: Counter, "atoll.beacon.intents", "{intent}", [],
        "Intents that the beacon was told of and did not know.";
    BEACON_INTENTS_WAITING: Gauge, "atoll.beacon.intents.waiting", "{intent}", [],
        "Intents that wait to be planned.";
    BEACON_INTENTS_LIMIT: Gauge, "atoll.beacon.intents.waiting.limit", "{intent}", [],
        "How many may wait before announcements are refused.";
    BEACON_REFUSED: Counter, "atoll.beacon.refused", "{announcement}", ["reason"],
        "Announcements of shards that the beacon has refused.";
    BEACON_ROUNDS_OPEN: Gauge, "atoll.beacon.rounds.open", "{round}", [],
        "Rounds in flight: how many blocks ago the oldest open group was planned.";
    BEACON_TRANSACTIONS: Counter, "atoll.beacon.transactions", "{transaction}", [],
        "Transactions in planned groups; one that is planned again counts again.";
    CACHE_ENTRIES: Gauge, "atoll.cache.entries", "{entry}", ["cache", "shard"],
        "Values that a shard's state (`state`) and executor (`executor`) keep in memory.";
    CACHE_LIMIT: Gauge, "atoll.cache.entries.limit", "{entry}", ["cache", "shard"],
        "How many they may keep.";
    GROUP_ROUNDS: Histogram(ROUNDS), "atoll.group.rounds", "{round}", ["verdict"],
        "Rounds from a group's plan to its decision.";
    LOG_FULL: Gauge, "atoll.log.full", "1", ["service", "shard"],
        "1 while the volume of a log is full and changes are refused.";
    LOG_SYNC: Histogram(STAGES), "atoll.log.sync.duration", "s", ["service", "shard"],
        "Time to write and sync what one pass over a log of record has.";
    LOG_WRITTEN: Counter, "atoll.log.written", "By", ["service", "shard"],
        "Bytes of records given to a log of record, with those that it had since its last snapshot when it was opened.";
    MEMPOOL_EVENTS: Counter, "atoll.mempool.events", "{transaction}", ["event", "shard"],
        "Transactions by what happened to them in the pool: `admitted`, `replaced`, `evicted`, `expired`, `taken`, `escalation_lost`.";
    MEMPOOL_REFUSED: Counter, "atoll.mempool.refused", "{transaction}", ["reason", "shard"],
        "Transactions that the pool has refused.";
    MEMPOOL_SIZE: Gauge, "atoll.mempool.size", "By", ["shard"],
        "Encoded size of what is in the pool.";
    MEMPOOL_SIZE_LIMIT: Gauge, "atoll.mempool.size.limit", "By", ["shard"],
        "Above it the cheapest are pushed out.";
    MEMPOOL_TXS: Gauge, "atoll.mempool.transactions", "{transaction}", ["state", "shard"],
        "Transactions in the pool: `pending` can run, `queued` wait for an earlier nonce, `under_way` were taken.";
    MEMPOOL_TXS_LIMIT: Gauge, "atoll.mempool.transactions.limit", "{transaction}", ["shard"],
        "How many there may be in all.";
    PREDICTIONS_WRONG: Counter, "atoll.predictions.wrong", "{transaction}", ["shard"],
        "Transactions of groups that used keys outside their set: each takes another attempt.";
    ROUTER_EVENTS: Counter, "atoll.router.events", "{event}", ["event", "shard"],
        "`escalated`: transactions that did not fit a local block; `intent`: intents announced, repeated ones included; `flight`: groups whose values went ahead of a decision; `late_asked`, `late_refused`: leases asked for after the cut, and keys refused.";
    ROUTER_IO: Counter, "atoll.router.io", "By", ["link", "direction", "shard"],
        "Encoded bytes of those messages, measured on a sample.";
    ROUTER_MESSAGES: Counter, "atoll.router.messages", "{message}", ["link", "direction", "shard"],
        "Messages of a shard's router: `deliver` and `fetch` to other shards, `announce` and `blocks` to the beacon; `request` or `reply`.";
    ROUTER_QUEUE: Gauge, "atoll.router.queue", "{transaction}", ["shard"],
        "Transactions that wait to be predicted.";
    ROUTER_QUEUE_LIMIT: Gauge, "atoll.router.queue.limit", "{transaction}", ["shard"],
        "How many may wait.";
    ROUTER_REFUSED: Counter, "atoll.router.refused", "{message}", ["rule", "shard"],
        "Messages of other shards, and parts of messages, that broke a rule. `group_not_open`, `old_attempt` and `credit_gap` came twice or late, and are harmless.";
    SHARD_LAG: Gauge, "atoll.shard.lag", "{block}", ["shard"],
        "Blocks that a shard is behind the beacon, as the beacon has heard.";
    STAGE: Histogram(STAGES), "atoll.stage.duration", "s", ["stage", "shard"],
        "Time of one batch in a stage. Gateway: `recover`, `submit`; pool: `admit`; executor: `execute` (a local block, run), `run` (groups); state: `append`, `anchor` (from a local block to the cut at which it is final), `apply` (a cut: decided groups applied, new ones leased); router: `predict`, `share` (until all owners hold it and it is announced); beacon: `order` (making a block), `decide` (from a group's plan to its decision).";
    STATE_CUT: Gauge, "atoll.state.cut", "{block}", ["shard"],
        "Newest beacon block that a shard has passed.";
    STATE_FENCES: Gauge, "atoll.state.fences", "{key}", ["shard"],
        "Keys that local transactions may not touch, because an open group may write them.";
    STATE_FENCE_AGE: Gauge, "atoll.state.fence.age", "{round}", ["shard"],
        "How many cuts ago the oldest open group of a shard was planned; 0 if none is open.";
    STATE_GROUPS_OPEN: Gauge, "atoll.state.groups.open", "{group}", ["shard"],
        "Open groups that a shard owns keys of.";
    STATE_HEAD: Gauge, "atoll.state.head", "{block}", ["shard"],
        "Number of the newest local block.";
    STATE_INDEX_WAITING: Gauge, "atoll.state.index.waiting", "{entry}", ["shard"],
        "How far the index is behind the log: entries that are not in it yet.";
    STATE_INDEX_LIMIT: Gauge, "atoll.state.index.waiting.limit", "{entry}", ["shard"],
        "Above it local blocks are refused until the index has caught up.";
    SERIES_DROPPED: Counter, "atoll.telemetry.series.dropped", "{measurement}", ["metric"],
        "Measurements that were left out because a metric has too many combinations of labels.";
    TRANSACTIONS: Counter, "atoll.transactions", "{transaction}", ["kind", "shard"],
        "Transactions carried out: `local` in a block of one shard, `group` in an attempt across shards, run by this shard, `credit` handed over as payments to another shard (those are in `local` of the sender's shard, too).";
    WORK_BATCHES: Counter, "atoll.work.batches", "{batch}", ["work", "shard"],
        "Batches of an executor: `local` blocks, `group`s run, requests to `predict`.";
    WORK_CPU: Counter, "atoll.work.cpu.time", "s", ["work", "shard"],
        "Processor time that they took.";
    PROCESS_CPU: Counter, "process.cpu.time", "s", ["cpu.mode"],
        "Processor time of the process, `user` and `system`.";
    PROCESS_MEMORY: Gauge, "process.memory.usage", "By", [],
        "Memory of the process that is resident.";
    PROCESS_VIRTUAL: Gauge, "process.memory.virtual", "By", [],
        "Memory of the process that is mapped.";
    PROCESS_THREADS: Gauge, "process.thread.count", "{thread}", [],
        "Threads of the process.";
    PROCESS_FILES: Gauge, "process.unix.file_descriptor.count", "{file_descriptor}", [],
        "Files and connections that the process has open.";
    PROCESS_UPTIME: Gauge, "process.uptime", "s", [],
        "Time since the process was started.";
    RPC: Histogram(CALLS), "rpc.server.call.duration", "s",
        ["rpc.system.name", "rpc.method", "rpc.response.status_code"],
        "Time from a call's arrival to the end of its answer, by OpenTelemetry's conventions. Long polls (`Blocks`, `Feed`, `Sync`, `Watch`, `Take`) last as long as nothing happens.";
}
