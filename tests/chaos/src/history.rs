//! What clients saw: everything that the checker knows.

use std::collections::BTreeMap;

use atoll_types::{Address, B256};
use serde::{Deserialize, Serialize};

/// Microseconds since the run began.
pub type At = u64;

/// What clients knew before they began.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct World {
    pub books: u16,
    /// Accounts of each book.
    pub accounts: u16,
    /// What each account of a book begins with.
    pub balance: u64,
    /// Who is only ever paid, and begins with nothing.
    pub purses: Vec<Address>,
}

/// One thing that a client asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Op {
    /// Each client does one thing after another, and nothing after what it does not know the end of.
    pub client: u32,
    pub begun: At,
    pub ended: At,
    pub action: Action,
    /// If it was a transaction.
    pub tx: Option<Tx>,
    pub end: End,
    /// What receipts of it said, apart from how firm they are.
    pub told: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tx {
    pub hash: B256,
    pub sender: Address,
    pub nonce: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// All at once. Without a transaction: reads at one cut.
    Steps(Vec<Step>),
    Move(Move),
    /// Wei to a purse.
    Pay {
        to: Address,
        wei: u64,
    },
    /// Reads every balance of every book at one cut.
    Totals,
    /// Reads an account as its shard has it.
    Account(Address),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// No value is appended twice.
    Append {
        list: u64,
        value: u64,
    },
    Read {
        list: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    pub from: Place,
    pub to: Place,
    pub amount: u64,
}

/// An account of a book.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub book: u16,
    pub account: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// It was done.
    Ok(Seen),
    /// It was carried out, and did nothing.
    Reverted,
    /// It will never be carried out.
    Refused,
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seen {
    Nothing,
    /// One for each step that reads, in their order.
    Lists(Vec<Vec<u64>>),
    /// Book by book.
    Balances(Vec<u64>),
    Account {
        nonce: u64,
        balance: u64,
    },
}

/// What was there when everything had come to rest.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Ending {
    /// Of every transaction that is final: whether it did something, and what its receipt says.
    pub receipts: BTreeMap<B256, (bool, String)>,
    pub lists: BTreeMap<u64, Vec<u64>>,
    pub balances: Vec<u64>,
    /// Of everyone who has sent anything.
    pub nonces: BTreeMap<Address, u64>,
    pub purses: BTreeMap<Address, u64>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct History {
    pub world: World,
    pub ops: Vec<Op>,
    pub ending: Ending,
}

impl History {
    /// Whether a transaction took effect, as far as anybody can know: what nobody was told the end of
    /// did if it has a receipt at last.
    pub fn took_effect(&self, op: &Op) -> bool {
        match (&op.end, &op.tx) {
            (End::Ok(_), _) => true,
            (End::Unknown, Some(tx)) => self.ending.receipts.get(&tx.hash).is_some_and(|r| r.0),
            _ => false,
        }
    }

    /// Transactions that somebody was told the end of.
    pub fn acknowledged(&self) -> usize {
        let told = |op: &&Op| op.tx.is_some() && matches!(op.end, End::Ok(_) | End::Reverted);
        self.ops.iter().filter(told).count()
    }
}
