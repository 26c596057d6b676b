//! `atoll stats`: what shards and beacon have counted since they were started.

use atoll_wire::v1::GetStatsResponse;
use atoll_wire::v1::get_stats_response::{Beacon, Refused, Shard, Traffic, Work};
use clap::Args;
use serde_json::{Value, json};

use super::client::Client;
use super::show::{Align, Report, Rows};
use super::{show, target::Target};

/// What `atoll stats` can be told.
#[derive(Args, Clone, Debug)]
pub struct StatsArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Shows what has been counted.
pub async fn run(args: StatsArgs, target: Target) -> anyhow::Result<()> {
    let client = Client::connect(&target).await?;
    let reply = client.stats().await?;
    show::print(&StatsReport { url: client.url().to_owned(), reply }, args.json)
}

/// What has been counted.
pub(super) struct StatsReport {
    pub url: String,
    pub reply: GetStatsResponse,
}

fn seconds(cpu_ns: u64) -> String {
    format!("{:.3} s", cpu_ns as f64 / 1e9)
}

fn bytes(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..10_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

/// Number of transactions, and the processor time that they took.
fn work(work: Option<Work>) -> [String; 2] {
    let work = work.unwrap_or_default();
    [work.transactions.to_string(), seconds(work.cpu_ns)]
}

/// Requests and replies together.
fn messages(traffic: Option<Traffic>) -> [String; 2] {
    let traffic = traffic.unwrap_or_default();
    let count = traffic.requests + traffic.replies;
    [count.to_string(), bytes(traffic.request_bytes + traffic.reply_bytes)]
}

fn refused(counts: &[Refused]) -> String {
    let each = counts.iter().map(|refused| format!("{} {}", refused.rule, refused.count));
    match counts {
        [] => "-".into(),
        _ => each.collect::<Vec<_>>().join(", "),
    }
}

impl StatsReport {
    fn beacon(&self, rows: &mut Rows) {
        let beacon = self.reply.beacon.clone().unwrap_or_default();
        if !beacon.reachable {
            return rows.push("beacon", "does not answer");
        }
        let Beacon { blocks, intents, groups, transactions, commits, aborts, cpu_ns, .. } = beacon;
        let (blocks, intents) = (show::count(blocks, "block"), show::count(intents, "intent"));
        rows.push("beacon", format!("{blocks}, {intents}, {} of CPU time", seconds(cpu_ns)));
        let (groups, txs) =
            (show::count(groups, "group"), show::count(transactions, "transaction"));
        rows.push("groups", format!("{groups} of {txs}, {commits} committed, {aborts} aborted"));
        rows.push("refused", refused(&beacon.refused));
    }

    /// One column a shard.
    fn shards(&self) -> String {
        let shards = &self.reply.shards;
        let names: Vec<String> = shards.iter().map(|shard| shard.number.to_string()).collect();
        let mut columns = vec![("shard", Align::Left)];
        columns.extend(names.iter().map(|name| (name.as_str(), Align::Right)));
        let mut rows: Vec<Vec<String>> = Vec::new();
        let mut row = |name: &str, cell: &dyn Fn(&Shard) -> String| {
            let cell = |shard: &Shard| if shard.reachable { cell(shard) } else { "?".into() };
            rows.push(std::iter::once(name.to_owned()).chain(shards.iter().map(cell)).collect());
        };
        row("local transactions", &|shard| work(shard.local)[0].clone());
        row("  CPU time", &|shard| work(shard.local)[1].clone());
        row("transactions in groups", &|shard| work(shard.groups)[0].clone());
        row("  CPU time", &|shard| work(shard.groups)[1].clone());
        row("predictions", &|shard| work(shard.predictions)[0].clone());
        row("  CPU time", &|shard| work(shard.predictions)[1].clone());
        row("wrong predictions", &|shard| shard.wrong.to_string());
        row("values in flight sent", &|shard| shard.flights.to_string());
        row("late leases asked for", &|shard| shard.late_asks.to_string());
        row("  keys refused", &|shard| shard.late_refused.to_string());
        row("escalated", &|shard| shard.escalated.to_string());
        row("credits", &|shard| shard.credits.to_string());
        row("intents", &|shard| shard.intents.to_string());
        row("messages: deliver", &|shard| messages(shard.deliver)[0].clone());
        row("  bytes", &|shard| messages(shard.deliver)[1].clone());
        row("messages: fetch", &|shard| messages(shard.fetch)[0].clone());
        row("  bytes", &|shard| messages(shard.fetch)[1].clone());
        row("messages: announce", &|shard| messages(shard.announce)[0].clone());
        row("  bytes", &|shard| messages(shard.announce)[1].clone());
        row("messages: blocks", &|shard| messages(shard.blocks)[0].clone());
        row("  bytes", &|shard| messages(shard.blocks)[1].clone());
        row("refused", &|shard| refused(&shard.refused));
        show::table(&columns, &rows)
    }
}

impl Report for StatsReport {
    fn text(&self) -> String {
        let mut rows = Rows::default();
        rows.push("cluster", &self.url);
        self.beacon(&mut rows);
        format!("{}\n\n{}", rows.text(), self.shards())
    }

    fn json(&self) -> Value {
        let beacon = self.reply.beacon.clone().unwrap_or_default();
        json!({
            "target": self.url,
            "beacon": {
                "reachable": beacon.reachable,
                "blocks": beacon.blocks,
                "intents": beacon.intents,
                "groups": beacon.groups,
                "transactions": beacon.transactions,
                "commits": beacon.commits,
                "aborts": beacon.aborts,
                "cpu_ns": beacon.cpu_ns,
                "refused": refused_json(&beacon.refused),
            },
            "shards": self.reply.shards.iter().map(shard_json).collect::<Vec<_>>(),
        })
    }
}

fn refused_json(counts: &[Refused]) -> Value {
    counts.iter().map(|refused| (refused.rule.clone(), json!(refused.count))).collect()
}

fn shard_json(shard: &Shard) -> Value {
    let work = |work: Option<Work>| {
        let Work { batches, transactions, cpu_ns } = work.unwrap_or_default();
        json!({ "batches": batches, "transactions": transactions, "cpu_ns": cpu_ns })
    };
    let traffic = |traffic: Option<Traffic>| {
        let traffic = traffic.unwrap_or_default();
        json!({
            "requests": traffic.requests,
            "request_bytes": traffic.request_bytes,
            "replies": traffic.replies,
            "reply_bytes": traffic.reply_bytes,
        })
    };
    json!({
        "number": shard.number,
        "reachable": shard.reachable,
        "local": work(shard.local),
        "groups": work(shard.groups),
        "predictions": work(shard.predictions),
        "wrong": shard.wrong,
        "flights": shard.flights,
        "late_asks": shard.late_asks,
        "late_refused": shard.late_refused,
        "escalated": shard.escalated,
        "credits": shard.credits,
        "intents": shard.intents,
        "deliver": traffic(shard.deliver),
        "fetch": traffic(shard.fetch),
        "announce": traffic(shard.announce),
        "blocks": traffic(shard.blocks),
        "refused": refused_json(&shard.refused),
    })
}
