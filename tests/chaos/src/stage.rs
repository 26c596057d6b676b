//! The contracts and accounts that clients use: a book on each shard, a purse on each, wallets.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context as _, ensure};
use atoll_tests::{
    api::Api,
    contracts::book,
    processes::SHARDS,
    wallet::{Plan, Wallet},
};
use atoll_types::Address;
use rand::{Rng as _, rngs::StdRng};

use crate::history::World;

/// Accounts of a book.
pub const ACCOUNTS: u16 = 3;
const BALANCE: u64 = 1_000;
/// Lists that are written at a time.
const LISTS: usize = 5;
/// Appends to a list, after which another one takes its place: they are read as a whole.
const LENGTH: u64 = 20;
/// Wallets that a client may use up by not waiting for an answer.
pub const LIVES: u64 = 48;
const ETHER: u128 = 1_000_000_000_000_000_000;

pub struct Stage {
    pub seed: u64,
    clients: u32,
    deployer: Wallet,
    pub books: Vec<Address>,
    pub purses: Vec<Address>,
    lists: Mutex<Lists>,
    value: AtomicU64,
}

/// The lists that are written now, and how often each was.
struct Lists {
    active: Vec<(u64, u64)>,
    next: u64,
}

impl Stage {
    pub fn new(seed: u64, clients: u32) -> anyhow::Result<Self> {
        let deployer = Wallet::seeded("chaos deployer", seed, 0)?;
        let books = (0..u64::from(SHARDS)).map(|nonce| deployer.address().create(nonce));
        let purse = |shard| Ok(Wallet::seeded("chaos purse", seed, shard)?.address());
        let purses = (0..u64::from(SHARDS)).map(purse).collect::<anyhow::Result<_>>()?;
        let active = (0..LISTS as u64).map(|list| (list, 0)).collect();
        let lists = Mutex::new(Lists { active, next: LISTS as u64 });
        let value = AtomicU64::new(1);
        Ok(Self { seed, clients, books: books.collect(), purses, deployer, lists, value })
    }

    pub fn world(&self) -> World {
        World { books: SHARDS, accounts: ACCOUNTS, balance: BALANCE, purses: self.purses.clone() }
    }

    /// A client's wallet. The one after the last client's is for probes.
    pub fn wallet(&self, client: u32, life: u64) -> anyhow::Result<Wallet> {
        Wallet::seeded("chaos client", self.seed, u64::from(client) * LIVES + life)
    }

    /// What it needs at genesis.
    pub fn balances(&self) -> anyhow::Result<BTreeMap<Address, String>> {
        let all = (0..=self.clients).flat_map(|client| (0..LIVES).map(move |life| (client, life)));
        let funds = |address| (address, (100 * ETHER).to_string());
        let wallets = all.map(|(client, life)| Ok(funds(self.wallet(client, life)?.address())));
        wallets.chain([Ok(funds(self.deployer.address()))]).collect()
    }

    /// A book and a purse on each shard.
    pub fn placement(&self) -> BTreeMap<Address, u16> {
        let books = self.books.iter().copied().zip(0..);
        books.chain(self.purses.iter().copied().zip(0..)).collect()
    }

    pub async fn deploy(&self, api: &Api) -> anyhow::Result<()> {
        let mut deployer = self.deployer.clone();
        for address in &self.books {
            let tx = deployer.sign(&Plan::create(book(u64::from(ACCOUNTS), BALANCE)?))?;
            let receipts = api.carry_out(&[tx]).await.context("deploy")?;
            ensure!(receipts[0].contract_address == address.as_slice(), "{receipts:?}");
        }
        Ok(())
    }

    /// The book that keeps a list.
    pub fn book_of(&self, list: u64) -> Address {
        self.books[(list % u64::from(SHARDS)) as usize]
    }

    /// A list to append to, and a value that nobody else appends.
    pub fn append(&self, rng: &mut StdRng) -> (u64, u64) {
        let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        let at = rng.random_range(0..lists.active.len());
        let (list, count) = &mut lists.active[at];
        *count += 1;
        let (list, full) = (*list, *count >= LENGTH);
        if full {
            lists.active[at] = (lists.next, 0);
            lists.next += 1;
        }
        (list, self.value.fetch_add(1, Ordering::Relaxed))
    }

    /// Lists that are being written.
    pub fn active(&self) -> Vec<u64> {
        let lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        lists.active.iter().map(|(list, _)| *list).collect()
    }

    /// All lists that there ever were.
    pub fn all_lists(&self) -> std::ops::Range<u64> {
        0..self.lists.lock().unwrap_or_else(PoisonError::into_inner).next
    }
}
