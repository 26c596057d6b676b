//! One sender's account and transactions.

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256, U256};
use atoll_types::{Basic, Tx};

use crate::price::{Price, Rank};

/// Where a transaction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// In the pool only.
    Free,
    /// With the executor.
    Taken,
    /// On its way across shards.
    Escalated,
}

#[derive(Clone, Debug)]
pub(crate) struct Pooled {
    pub tx: Tx,
    /// The most that it can cost, in wei.
    pub cost: U256,
    pub arrival: u64,
    pub mark: Mark,
    /// Can run now or as soon as the sender's earlier ones have.
    pub runnable: bool,
    /// What is earned for each unit of gas by running it and all that must run before it.
    pub path: Price,
    /// When to see whether it has expired.
    pub due_ms: u64,
}

impl Pooled {
    pub fn size(&self) -> usize {
        self.tx.raw().len()
    }

    fn rank(&self, price: Price) -> Rank {
        Rank { price, arrival: self.arrival, sender: self.tx.sender(), nonce: self.tx.nonce() }
    }
}

/// Own transactions of the shard that are shared with others, by nonce.
pub(crate) type Pins = BTreeMap<u64, B256>;

/// What the pool's indices hold for a sender, and its part of the counts.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Placed {
    /// The transaction that can be released next.
    pub head: Option<Rank>,
    /// The transaction that can be evicted, and whether it is runnable.
    pub tail: Option<(Rank, bool)>,
    /// Runnable and free.
    pub pending: usize,
    /// Not runnable and free.
    pub queued: usize,
    pub taken: usize,
    pub escalated: usize,
    /// Has transactions, and none of them can go on unless the account changes.
    pub stuck: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Sender {
    /// `None` until read for the first time.
    pub account: Option<Basic>,
    /// The newest cut whose effects on `account` are known.
    pub as_of_cut: u64,
    /// `account` was read after that cut, rather than taken from the changes that it made.
    pub was_read: bool,
    /// The account may have changed in a way that the pool was not told of.
    pub stale: bool,
    /// Reads of the account that are in progress.
    pub readers: u32,
    pub txs: BTreeMap<u64, Pooled>,
    /// The most that all of `txs` can cost together, in wei.
    pub cost: U256,
    /// The first nonce that nothing runnable and nothing pinned has.
    pub run_end: u64,
    /// How many more may be under way.
    pub room: usize,
    pub placed: Placed,
}

impl Sender {
    pub fn nonce(&self) -> u64 {
        self.account.unwrap_or_default().nonce
    }

    /// Looks again at which transactions can run: consecutive nonces (those under way across shards
    /// count as there) as far as the balance lasts. Calls `requeued` for each free one that no longer can.
    /// Linear in the transactions of the sender, of which there are at most `max_sender_txs`.
    pub fn walk(
        &mut self,
        pins: Option<&Pins>,
        max_under_way: usize,
        mut requeued: impl FnMut(&mut Pooled),
    ) -> Placed {
        let pinned = |nonce: u64| pins.is_some_and(|pins| pins.contains_key(&nonce));
        let account = self.account.unwrap_or_default();
        let (mut next, mut left) = (account.nonce, account.balance);
        let mut run = true;
        let mut path: Option<Price> = None;
        let mut placed = Placed::default();
        for (&nonce, pooled) in &mut self.txs {
            while run && next < nonce && pinned(next) {
                next += 1;
            }
            let price = Price::of(&pooled.tx);
            run &= next == nonce && left >= pooled.cost;
            if run {
                next = nonce.saturating_add(1);
                left -= pooled.cost;
                path = Some(path.map_or(price, |path| path.min(price)));
                pooled.path = path.unwrap_or(price);
            } else {
                pooled.path = price;
            }
            if pooled.runnable && !run && pooled.mark == Mark::Free {
                requeued(pooled);
            }
            pooled.runnable = run;
            match pooled.mark {
                Mark::Free if run => placed.pending += 1,
                Mark::Free => placed.queued += 1,
                Mark::Taken => placed.taken += 1,
                Mark::Escalated => placed.escalated += 1,
            }
        }
        while run && pinned(next) {
            next += 1;
        }
        self.run_end = next;
        let away =
            |(nonce, pooled): &(&u64, &Pooled)| pooled.mark != Mark::Free && !pinned(**nonce);
        let pins_held = pins.map_or(0, Pins::len);
        self.room = max_under_way.saturating_sub(pins_held + self.txs.iter().filter(away).count());
        placed.head = self.head(account.nonce, pins);
        let last = self.txs.last_key_value();
        placed.tail = last
            .filter(|(nonce, pooled)| pooled.mark == Mark::Free && !pinned(**nonce))
            .map(|(_, pooled)| (pooled.rank(pooled.path), pooled.runnable));
        let under_way = placed.taken + placed.escalated + pins_held > 0;
        placed.stuck = placed.queued > 0 && placed.head.is_none() && !under_way;
        placed
    }

    /// The transaction that can be released next, from a nonce on: the first one that is not under
    /// way, if there is room for it.
    pub fn head(&self, from: u64, pins: Option<&Pins>) -> Option<Rank> {
        let pinned = |nonce: &u64| pins.is_some_and(|pins| pins.contains_key(nonce));
        let here = |(nonce, pooled): &(&u64, &Pooled)| pooled.mark == Mark::Free && !pinned(nonce);
        let (_, next) = self.txs.range(from..).find(here)?;
        (next.runnable && self.room > 0).then(|| next.rank(Price::of(&next.tx)))
    }

    /// True if the pool need not remember the sender.
    pub fn is_idle(&self) -> bool {
        self.txs.is_empty() && self.readers == 0
    }
}

/// Where a transaction is in the pool.
pub(crate) type Place = (Address, u64);
