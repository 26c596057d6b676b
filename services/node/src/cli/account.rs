//! `atoll account`: what an account holds, and on which shard.

use alloy_primitives::{Address, B256, KECCAK256_EMPTY, U256};
use atoll_wire::v1::GetAccountResponse;
use clap::Args;
use serde_json::{Value, json};

use super::client::Client;
use super::parse::{self, typed};
use super::show::{Align, Report, Rows};
use super::{amount, key, show, target::Target};

/// What `atoll account` can be told.
#[derive(Args, Clone, Debug)]
pub struct AccountArgs {
    /// The account [default: the ten development accounts]
    #[arg(value_parser = typed(parse::address))]
    pub address: Option<Address>,

    /// Show this storage slot too, decimal or 0x…
    #[arg(long, requires = "address", value_parser = typed(parse::number))]
    pub slot: Option<U256>,

    /// Read no state older than this cut [default: the newest that a command has seen]
    #[arg(long, value_name = "CUT")]
    pub min_cut: Option<u64>,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Shows an account, or the development accounts.
pub async fn run(args: AccountArgs, target: Target) -> anyhow::Result<()> {
    let client = Client::connect(&target).await?.with_min_cut(args.min_cut);
    let Some(address) = args.address else {
        let mut accounts = Vec::new();
        for index in 0..key::DEVELOPMENT_ACCOUNTS {
            let address = key::development(index)?.address();
            accounts.push(Account::read(address, &client.account(address, false).await?)?);
        }
        return show::print(&Accounts(accounts), args.json);
    };
    let mut account = Account::read(address, &client.account(address, true).await?)?;
    if let Some(slot) = args.slot {
        let reply = client.storage(address, slot.into()).await?;
        account.slot = Some((slot, parse::reply_hash("value", &reply.value)?));
        account.cut = account.cut.max(reply.cut);
    }
    show::print(&account, args.json)
}

/// An account that is shown.
#[derive(Clone, Debug)]
pub(super) struct Account {
    pub address: Address,
    shard: u32,
    nonce: u64,
    balance: U256,
    code_hash: B256,
    /// In bytes.
    code_size: usize,
    cut: u64,
    /// Number and word.
    pub slot: Option<(U256, B256)>,
}

impl Account {
    pub fn read(address: Address, reply: &GetAccountResponse) -> anyhow::Result<Self> {
        Ok(Self {
            address,
            shard: reply.shard,
            nonce: reply.nonce,
            balance: parse::reply_number("balance", &reply.balance)?,
            code_hash: parse::reply_hash("code_hash", &reply.code_hash)?,
            code_size: reply.code.len(),
            cut: reply.cut,
            slot: None,
        })
    }
}

impl Report for Account {
    fn text(&self) -> String {
        let mut rows = Rows::default();
        rows.push("address", self.address.to_string());
        rows.push("shard", self.shard.to_string());
        rows.push("balance", amount::show(self.balance));
        rows.push("nonce", self.nonce.to_string());
        if self.code_hash != KECCAK256_EMPTY {
            let size = show::count(self.code_size as u64, "byte");
            rows.push("code", format!("{size}, hash {}", self.code_hash));
        }
        if let Some((slot, word)) = self.slot {
            rows.push(format!("slot {}", slot_name(slot)), word.to_string());
        }
        rows.push("cut", self.cut.to_string());
        rows.text()
    }

    fn json(&self) -> Value {
        let mut json = json!({
            "address": self.address.to_string(),
            "shard": self.shard,
            "balance": self.balance.to_string(),
            "nonce": self.nonce,
            "code_hash": self.code_hash,
            "code_size_bytes": self.code_size,
            "cut": self.cut,
        });
        if let Some((slot, word)) = self.slot {
            json["slot"] = json!({ "number": B256::from(slot), "value": word });
        }
        json
    }
}

pub(super) fn slot_name(slot: U256) -> String {
    if slot < U256::from(1_000_000) { slot.to_string() } else { format!("{slot:#x}") }
}

/// The development accounts.
pub(super) struct Accounts(pub Vec<Account>);

impl Report for Accounts {
    fn text(&self) -> String {
        let columns = [
            ("from", Align::Right),
            ("address", Align::Left),
            ("shard", Align::Right),
            ("balance", Align::Right),
            ("nonce", Align::Right),
        ];
        let row = |(index, account): (usize, &Account)| {
            vec![
                index.to_string(),
                account.address.to_string(),
                account.shard.to_string(),
                amount::show(account.balance),
                account.nonce.to_string(),
            ]
        };
        show::table(&columns, &self.0.iter().enumerate().map(row).collect::<Vec<_>>())
    }

    fn json(&self) -> Value {
        let account = |(index, account): (usize, &Account)| {
            json!({
                "from": index,
                "address": account.address.to_string(),
                "shard": account.shard,
                "balance": account.balance.to_string(),
                "nonce": account.nonce,
                "cut": account.cut,
            })
        };
        json!({ "accounts": self.0.iter().enumerate().map(account).collect::<Vec<_>>() })
    }
}
