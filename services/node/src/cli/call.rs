//! `atoll call`: runs a call on the state of all shards at one cut, and decodes what it returns.

use alloy_dyn_abi::DynSolValue;
use alloy_json_abi::Function;
use alloy_primitives::{Address, Bytes, U256, hex};
use anyhow::{Context, bail, ensure};
use atoll_wire::v1::{CallOutcome, CallRequest, CallResponse};
use clap::Args;
use serde_json::{Value, json};

use super::client::{self, Client};
use super::parse::{self, typed};
use super::show::{Report, Rows};
use super::{abi, amount, key, receipt, show, target::Target};

/// What `atoll call` can be told.
#[derive(Args, Clone, Debug)]
pub struct CallArgs {
    /// The contract
    #[arg(long, value_name = "ADDRESS", value_parser = typed(parse::address))]
    pub to: Address,

    /// The function and what it returns, such as "balanceOf(address)(uint256)"
    #[arg(required_unless_present = "data")]
    pub signature: Option<String>,

    /// Its arguments: numbers (5, -5, 1.5ether), true, 0x…, text, [1,2], (1,true)
    #[arg(allow_negative_numbers = true)]
    pub args: Vec<String>,

    /// Call data in hex, in place of a function
    #[arg(long, value_name = "0x…", conflicts_with = "signature", value_parser = typed(parse::bytes))]
    pub data: Option<Bytes>,

    /// Who calls: an address or the number of a development account [default: the zero address]
    #[arg(long, value_name = "ADDRESS|0..9")]
    pub from: Option<String>,

    /// Ether to send along, such as 1.5ether
    #[arg(long, value_name = "AMOUNT", default_value = "0", value_parser = typed(amount::wei))]
    pub value: U256,

    /// Gas limit [default: the most that the gateway allows]
    #[arg(long)]
    pub gas: Option<u64>,

    /// Read no state older than this cut [default: the newest that a command has seen]
    #[arg(long, value_name = "CUT")]
    pub min_cut: Option<u64>,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Runs a call and shows what it returned. An error if it reverts or halts.
pub async fn run(args: CallArgs, target: Target) -> anyhow::Result<()> {
    let function = args.signature.as_deref().map(abi::function).transpose()?;
    let data = match (&function, args.data) {
        (Some(function), _) => abi::encode_call(function, &args.args)?,
        (None, data) => data.context("a function or --data is needed")?,
    };
    let from = args.from.as_deref().map(caller).transpose()?;
    let client = Client::connect(&target).await?.with_min_cut(args.min_cut);
    let request = CallRequest {
        from: from.map(|from| client::bytes(from.as_slice())).unwrap_or_default(),
        to: client::bytes(args.to.as_slice()),
        data: data.0,
        value: client::bytes(&args.value.to_be_bytes_trimmed_vec()),
        gas: args.gas.unwrap_or(0),
        min_cut: 0,
    };
    let report = CallReport::read(args.to, function, client.call(request).await?)?;
    if report.reply.outcome() == CallOutcome::Succeeded || args.json {
        show::print(&report, args.json)?;
    }
    report.check()
}

pub(super) fn caller(text: &str) -> anyhow::Result<Address> {
    match text.parse::<u8>() {
        Ok(index) if text.len() == 1 => Ok(key::development(index)?.address()),
        _ => parse::address(text).context("--from is neither an address nor 0..9"),
    }
}

/// What a call gave.
pub(super) struct CallReport {
    to: Address,
    function: Option<Function>,
    values: Vec<DynSolValue>,
    reply: CallResponse,
}

impl CallReport {
    pub fn read(
        to: Address,
        function: Option<Function>,
        reply: CallResponse,
    ) -> anyhow::Result<Self> {
        let mut values = Vec::new();
        if let (Some(function), CallOutcome::Succeeded) = (&function, reply.outcome()) {
            ensure!(
                !reply.return_data.is_empty() || function.outputs.is_empty(),
                "the call returned nothing: {to} has no contract with {} at cut {}; see `atoll \
                 account {to}`",
                function.signature(),
                reply.cut
            );
            values = abi::decode(function, &reply.return_data)?;
        }
        Ok(Self { to, function, values, reply })
    }

    /// An error if the call did not succeed.
    pub fn check(&self) -> anyhow::Result<()> {
        let (to, cut) = (self.to, self.reply.cut);
        match self.reply.outcome() {
            CallOutcome::Succeeded => Ok(()),
            CallOutcome::Reverted => {
                let reason = show::printable(&abi::revert_reason(&self.reply.return_data));
                bail!("the call of {to} reverted at cut {cut}: {reason}")
            }
            CallOutcome::Halted | CallOutcome::Unspecified => {
                let message = show::printable(&self.reply.message);
                bail!("the call of {to} failed at cut {cut}: {message}")
            }
        }
    }

    fn name(&self, index: usize) -> String {
        let output = self.function.as_ref().and_then(|function| function.outputs.get(index));
        match output.map(|output| output.name.as_str()) {
            Some(name) if !name.is_empty() => name.to_owned(),
            _ if self.values.len() == 1 => "result".into(),
            _ => format!("result {index}"),
        }
    }
}

impl Report for CallReport {
    fn text(&self) -> String {
        let mut rows = Rows::default();
        for (index, value) in self.values.iter().enumerate() {
            rows.push(self.name(index), abi::text(value));
        }
        if self.values.is_empty() {
            rows.push("result", hex::encode_prefixed(&self.reply.return_data));
        }
        rows.push("gas", self.reply.gas_used.to_string());
        rows.push("cut", self.reply.cut.to_string());
        rows.text()
    }

    fn json(&self) -> Value {
        let reply = &self.reply;
        let outcome = match reply.outcome() {
            CallOutcome::Succeeded => "succeeded",
            CallOutcome::Reverted => "reverted",
            CallOutcome::Halted | CallOutcome::Unspecified => "halted",
        };
        let reverted = reply.outcome() == CallOutcome::Reverted;
        json!({
            "to": self.to.to_string(),
            "outcome": outcome,
            "values": self.values.iter().map(abi::json).collect::<Vec<_>>(),
            "return_data": hex::encode_prefixed(&reply.return_data),
            "revert_reason": reverted.then(|| abi::revert_reason(&reply.return_data)),
            "halt_reason": (outcome == "halted").then_some(&reply.message),
            "gas_used": reply.gas_used,
            "logs": receipt::logs_json(&reply.logs),
            "cut": reply.cut,
        })
    }
}
