//! `atoll cluster`: shards, cuts and the beacon, and which shards own addresses.

use alloy_primitives::{Address, U256};
use anyhow::ensure;
use atoll_wire::v1::GetClusterResponse;
use clap::Args;
use serde_json::{Value, json};

use super::client::Client;
use super::parse::{self, typed};
use super::show::{Align, Report, Rows};
use super::{amount, show, target::Target};

/// What `atoll cluster` can be told.
#[derive(Args, Clone, Debug)]
pub struct ClusterArgs {
    /// Show which shards own these addresses
    #[arg(long, num_args = 1.., value_name = "ADDRESS", value_parser = typed(parse::address))]
    pub placement: Vec<Address>,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Shows how the cluster stands.
pub async fn run(args: ClusterArgs, target: Target) -> anyhow::Result<()> {
    let client = Client::connect(&target).await?;
    let reply = client.cluster(&args.placement).await?;
    let report = ClusterReport::read(client.url(), args.placement, reply)?;
    show::print(&report, args.json)
}

/// How a cluster stands.
pub(super) struct ClusterReport {
    url: String,
    coinbase: Option<Address>,
    placement: Vec<(Address, u32)>,
    reply: GetClusterResponse,
}

impl ClusterReport {
    pub fn read(
        url: &str,
        addresses: Vec<Address>,
        reply: GetClusterResponse,
    ) -> anyhow::Result<Self> {
        ensure!(
            addresses.len() == reply.owners.len(),
            "asked for the shards of {} addresses, {url} answered {}",
            addresses.len(),
            reply.owners.len()
        );
        Ok(Self {
            url: url.to_owned(),
            coinbase: parse::reply_address("coinbase", &reply.coinbase)?,
            placement: addresses.into_iter().zip(reply.owners.iter().copied()).collect(),
            reply,
        })
    }

    fn shards(&self) -> String {
        let columns = [
            ("shard", Align::Right),
            ("head", Align::Right),
            ("cut", Align::Right),
            ("lag", Align::Right),
            ("state", Align::Left),
        ];
        let row = |shard: &atoll_wire::v1::get_cluster_response::Shard| {
            let state = if shard.reachable { "ok" } else { "does not answer" };
            vec![
                shard.number.to_string(),
                shard.head.to_string(),
                shard.cut.to_string(),
                shard.lag.to_string(),
                state.into(),
            ]
        };
        show::table(&columns, &self.reply.shards.iter().map(row).collect::<Vec<_>>())
    }
}

impl Report for ClusterReport {
    fn text(&self) -> String {
        let reply = &self.reply;
        let mut rows = Rows::default();
        let (url, chain, version) = (&self.url, reply.chain_id, &reply.version);
        rows.push("cluster", format!("{url}, chain {chain}, version {version}"));
        let (head, settled) = (reply.beacon_head, reply.settled);
        let base_fee = amount::show(U256::from(reply.base_fee));
        rows.push("beacon", format!("block {head}, settled {settled}, base fee {base_fee}"));
        let intents = show::count(reply.intents_waiting, "intent");
        let groups = show::count(reply.groups_open, "group");
        rows.push("cross-shard", format!("{intents} waiting, {groups} open"));
        let mut text = format!("{}\n\n{}", rows.text(), self.shards());
        if !self.placement.is_empty() {
            let columns = [("address", Align::Left), ("shard", Align::Right)];
            let row =
                |(address, shard): &(Address, u32)| vec![address.to_string(), shard.to_string()];
            let rows: Vec<_> = self.placement.iter().map(row).collect();
            text += &format!("\n\n{}", show::table(&columns, &rows));
        }
        text
    }

    fn json(&self) -> Value {
        let reply = &self.reply;
        let limits = reply.limits.unwrap_or_default();
        let shard = |shard: &atoll_wire::v1::get_cluster_response::Shard| {
            json!({
                "number": shard.number,
                "reachable": shard.reachable,
                "head": shard.head,
                "cut": shard.cut,
                "lag": shard.lag,
            })
        };
        let placed = |(address, shard): &(Address, u32)| json!({ "address": address.to_string(), "shard": shard });
        json!({
            "target": self.url,
            "chain_id": reply.chain_id,
            "version": reply.version,
            "coinbase": self.coinbase.map(|coinbase| coinbase.to_string()),
            "beacon_head": reply.beacon_head,
            "settled": reply.settled,
            "base_fee": reply.base_fee.to_string(),
            "gas_limit": reply.gas_limit,
            "placement_epoch": reply.placement_epoch,
            "intents_waiting": reply.intents_waiting,
            "groups_open": reply.groups_open,
            "shards": reply.shards.iter().map(shard).collect::<Vec<_>>(),
            "placement": self.placement.iter().map(placed).collect::<Vec<_>>(),
            "limits": {
                "batch_transactions": limits.batch_transactions,
                "transaction_bytes": limits.transaction_bytes,
                "message_bytes": limits.message_bytes,
                "call_gas": limits.call_gas,
                "connection_streams": limits.connection_streams,
                "request_timeout_ms": limits.request_timeout_ms,
                "watchers": limits.watchers,
            },
        })
    }
}
