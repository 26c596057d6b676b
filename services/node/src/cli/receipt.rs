//! `atoll receipt`: what became of a transaction.

use std::time::Duration;

use alloy_primitives::{Address, B256, U256, hex};
use anyhow::{bail, ensure};
use atoll_wire::v1::{
    TransactionFinality, TransactionKind, TransactionReceipt, get_receipt_request,
};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::client::{Client, has_come};
use super::parse::{self, typed};
use super::show::{Report, Rows};
use super::{abi, amount, show, target::Target};

/// What to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Wait {
    /// Until the beacon has anchored or decided it
    Final,
    /// Until it is executed and durable on its shard
    Executed,
    /// Do not wait
    None,
}

impl Wait {
    pub(super) fn wire(self) -> get_receipt_request::Wait {
        match self {
            Self::Final => get_receipt_request::Wait::Final,
            Self::Executed => get_receipt_request::Wait::Executed,
            Self::None => get_receipt_request::Wait::None,
        }
    }
}

/// What `atoll receipt` can be told.
#[derive(Args, Clone, Debug)]
pub struct ReceiptArgs {
    /// Hash of the transaction
    #[arg(value_parser = typed(parse::hash))]
    pub hash: B256,

    /// What to wait for
    #[arg(long, value_enum, default_value_t = Wait::None)]
    pub wait: Wait,

    /// How long to wait, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60,
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: u64,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Shows what became of a transaction. An error if it did not come as far as was waited for.
pub async fn run(args: ReceiptArgs, target: Target) -> anyhow::Result<()> {
    let client = Client::connect(&target).await?;
    let (wait, time) = (args.wait.wire(), Duration::from_secs(args.timeout));
    let receipt = client.receipt(args.hash, wait, time, false).await?;
    let report = ReceiptReport::read(&receipt)?;
    show::print(&report, args.json)?;
    ensure!(
        has_come(&receipt, wait),
        "transaction {} is still {} after {} s: ask again, or see `atoll cluster` for a shard \
         that is behind",
        args.hash,
        report.finality(),
        args.timeout
    );
    Ok(())
}

/// A receipt that is shown.
#[derive(Clone, Debug)]
pub(super) struct ReceiptReport {
    hash: B256,
    receipt: TransactionReceipt,
    price: U256,
    contract: Option<Address>,
    sender: Option<Address>,
    /// Known once it is executed, or if it was sent from here.
    nonce: Option<u64>,
    to: Option<Address>,
}

impl ReceiptReport {
    pub fn read(receipt: &TransactionReceipt) -> anyhow::Result<Self> {
        let executed = is_executed(receipt);
        Ok(Self {
            hash: parse::reply_hash("hash", &receipt.hash)?,
            receipt: receipt.clone(),
            price: parse::reply_number("effective_gas_price", &receipt.effective_gas_price)?,
            contract: parse::reply_address("contract_address", &receipt.contract_address)?,
            sender: parse::reply_address("sender", &receipt.sender)?,
            nonce: executed.then_some(receipt.nonce),
            to: parse::reply_address("to", &receipt.to)?,
        })
    }

    /// Fills in what was signed: the gateway tells it only of what is executed.
    pub fn with_signed(self, sender: Address, nonce: u64, to: Option<Address>) -> Self {
        Self { sender: Some(sender), nonce: Some(nonce), to, ..self }
    }

    pub fn hash(&self) -> B256 {
        self.hash
    }

    pub fn finality(&self) -> &'static str {
        match self.receipt.finality() {
            TransactionFinality::Executed => "executed",
            TransactionFinality::Final => "final",
            TransactionFinality::Dropped => "dropped",
            TransactionFinality::Pending | TransactionFinality::Unspecified => "pending",
        }
    }

    /// An error if it was dropped or failed.
    pub fn check(&self) -> anyhow::Result<()> {
        let hash = self.hash;
        match self.success() {
            _ if self.receipt.finality() == TransactionFinality::Dropped => {
                let reason = show::printable(&self.receipt.dropped_reason);
                bail!("transaction {hash} was dropped: {reason}; it had no effect")
            }
            Some(false) => bail!(
                "transaction {hash} failed: {}; it changed nothing, its gas is paid",
                show::printable(&self.reason())
            ),
            _ => Ok(()),
        }
    }

    /// Whether it did what it should; `None` as long as that is open.
    fn success(&self) -> Option<bool> {
        let receipt = &self.receipt;
        let open = receipt.kind() == TransactionKind::Credit
            && receipt.finality() != TransactionFinality::Final;
        (is_executed(receipt) && !open).then_some(receipt.status)
    }

    fn reason(&self) -> String {
        abi::revert_reason(&self.receipt.return_data)
    }

    fn kind(&self) -> Option<&'static str> {
        match self.receipt.kind() {
            TransactionKind::Unspecified => None,
            TransactionKind::Local => Some("local"),
            TransactionKind::Credit => Some("credit"),
            TransactionKind::Group => Some("group"),
        }
    }

    fn fee(&self) -> U256 {
        self.price.saturating_mul(U256::from(self.receipt.gas_used))
    }

    fn result(&self) -> String {
        let receipt = &self.receipt;
        let finality = self.finality();
        match self.success() {
            Some(true) => format!("succeeded, {finality} (cut {})", receipt.cut),
            Some(false) => format!("failed: {}, {finality} (cut {})", self.reason(), receipt.cut),
            None if receipt.dropped_reason.is_empty() => finality.to_owned(),
            None => format!("{finality}: {}", receipt.dropped_reason),
        }
    }

    fn place(&self) -> String {
        let receipt = &self.receipt;
        match (receipt.kind(), receipt.group_index) {
            (TransactionKind::Group, Some(group)) => {
                format!("group {group} of round {}, all or nothing on its shards", receipt.round)
            }
            (TransactionKind::Credit, _) => format!("credit, debited in block {}", receipt.block),
            _ => format!("{}, in block {}", self.kind().unwrap_or("-"), receipt.block),
        }
    }
}

impl Report for ReceiptReport {
    fn text(&self) -> String {
        let receipt = &self.receipt;
        let mut rows = Rows::default();
        rows.push("hash", self.hash.to_string());
        rows.push("result", self.result());
        if is_executed(receipt) {
            rows.push("shards", show::list(&receipt.shards));
            rows.push("kind", self.place());
        }
        match (self.sender, self.nonce) {
            (Some(sender), Some(nonce)) => rows.push("from", format!("{sender} (nonce {nonce})")),
            (Some(sender), None) => rows.push("from", sender.to_string()),
            (None, _) => {}
        }
        if let Some(to) = self.to {
            rows.push("to", to.to_string());
        }
        if let Some(contract) = self.contract {
            rows.push("contract", contract.to_string());
        }
        if is_executed(receipt) {
            let (price, fee) = (amount::show(self.price), amount::show(self.fee()));
            rows.push("gas", format!("{} at {price} = {fee}", receipt.gas_used));
        }
        if !receipt.return_data.is_empty() && self.contract.is_none() && receipt.status {
            rows.push("returned", show::bytes(&receipt.return_data));
        }
        for log in &receipt.logs {
            let topic = log.topics.first().map_or("no topic".into(), hex::encode_prefixed);
            let size = show::count(log.data.len() as u64, "byte");
            rows.push("log", format!("{} {topic} {size}", show::address(&log.address)));
        }
        rows.text()
    }

    fn json(&self) -> Value {
        let receipt = &self.receipt;
        let executed = is_executed(receipt);
        let dropped = receipt.finality() == TransactionFinality::Dropped;
        let success = self.success();
        json!({
            "hash": self.hash,
            "finality": self.finality(),
            "success": success,
            "revert_reason": (success == Some(false)).then(|| self.reason()),
            "dropped_reason": dropped.then_some(&receipt.dropped_reason),
            "sender": self.sender.map(|sender| sender.to_string()),
            "nonce": self.nonce,
            "to": self.to.map(|to| to.to_string()),
            "contract_address": self.contract.map(|contract| contract.to_string()),
            "kind": self.kind(),
            "shards": receipt.shards,
            "round": executed.then_some(receipt.round),
            "group_index": receipt.group_index,
            "block": executed.then_some(receipt.block),
            "index": executed.then_some(receipt.index),
            "cut": executed.then_some(receipt.cut),
            "gas_used": executed.then_some(receipt.gas_used),
            "effective_gas_price": executed.then(|| self.price.to_string()),
            "fee": executed.then(|| self.fee().to_string()),
            "return_data": hex::encode_prefixed(&receipt.return_data),
            "logs": logs_json(&receipt.logs),
        })
    }
}

/// Events for programs.
pub(super) fn logs_json(logs: &[atoll_wire::v1::TransactionLog]) -> Value {
    let log = |log: &atoll_wire::v1::TransactionLog| {
        json!({
            "address": show::address(&log.address),
            "topics": log.topics.iter().map(hex::encode_prefixed).collect::<Vec<_>>(),
            "data": hex::encode_prefixed(&log.data),
        })
    };
    logs.iter().map(log).collect()
}

fn is_executed(receipt: &TransactionReceipt) -> bool {
    matches!(receipt.finality(), TransactionFinality::Executed | TransactionFinality::Final)
}
