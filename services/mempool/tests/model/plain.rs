//! The pool once more, without indices.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};

use alloy_primitives::{Address, B256};
use atoll_api::mempool::Refused;
use atoll_mempool::{Limits, Pool};
use atoll_types::{Basic, Tx};

pub const EXPIRY_MS: u64 = 1500;
pub const UNDER_WAY: usize = 3;

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Mark {
    Free,
    Taken,
    Escalated,
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub tx: Tx,
    pub mark: Mark,
    pub arrival: u64,
    pub admitted_ms: u64,
}

#[derive(Default)]
pub struct Model {
    pub accounts: BTreeMap<Address, Basic>,
    pub txs: Vec<Entry>,
    pub pins: BTreeMap<(Address, u64), B256>,
    pub base_fee: u64,
    pub arrivals: u64,
    pub session: u64,
}

pub fn limits() -> Limits {
    Limits {
        max_txs: 20,
        max_bytes: 3_000,
        max_sender_txs: 6,
        max_sender_under_way: UNDER_WAY,
        max_nonce_gap: 9,
        min_fee_per_gas: 5,
        expiry_ms: EXPIRY_MS,
        escalation_timeout_ms: u64::MAX,
        ..Limits::default()
    }
}

impl Model {
    pub fn of(&self, sender: Address) -> Vec<&Entry> {
        let mut own: Vec<_> = self.txs.iter().filter(|e| e.tx.sender() == sender).collect();
        own.sort_by_key(|entry| entry.tx.nonce());
        own
    }

    pub fn price(&self, tx: &Tx) -> i128 {
        let above = tx.max_fee_per_gas() as i128 - i128::from(self.base_fee);
        above.min(tx.priority_fee() as i128)
    }

    /// Those of a sender that can run one after another, under way or not.
    pub fn run(&self, sender: Address) -> Vec<&Entry> {
        let account = self.accounts[&sender];
        let (mut nonce, mut left) = (account.nonce, account.balance);
        let mut run = Vec::new();
        for entry in self.of(sender) {
            while nonce < entry.tx.nonce() && self.pins.contains_key(&(sender, nonce)) {
                nonce += 1;
            }
            if nonce != entry.tx.nonce() || entry.tx.max_cost() > left {
                break;
            }
            left -= entry.tx.max_cost();
            nonce += 1;
            run.push(entry);
        }
        run
    }

    pub fn is_runnable(&self, entry: &Entry) -> bool {
        self.run(entry.tx.sender()).iter().any(|other| other.tx == entry.tx)
    }

    pub fn path_price(&self, entry: &Entry) -> i128 {
        let run = self.run(entry.tx.sender());
        let before = run.iter().filter(|other| other.tx.nonce() < entry.tx.nonce());
        let least = before.map(|other| self.price(&other.tx)).min();
        let own = self.price(&entry.tx);
        if self.is_runnable(entry) { least.map_or(own, |least| least.min(own)) } else { own }
    }

    pub fn has_pin(&self, sender: Address) -> bool {
        self.pins.keys().any(|(other, _)| *other == sender)
    }

    pub fn head(&self, sender: Address) -> Option<&Entry> {
        let is_pinned = |entry: &Entry| self.pins.contains_key(&(sender, entry.tx.nonce()));
        let own = self.of(sender);
        let handed_out = own.iter().filter(|entry| entry.mark != Mark::Free && !is_pinned(entry));
        let pins = self.pins.keys().filter(|(other, _)| *other == sender);
        if handed_out.count() + pins.count() >= UNDER_WAY {
            return None;
        }
        let next = own.into_iter().find(|entry| entry.mark == Mark::Free && !is_pinned(entry))?;
        self.is_runnable(next).then_some(next)
    }

    pub fn take(&mut self, session: u64, max_txs: usize, max_gas: u64) -> Vec<Tx> {
        if session > self.session {
            self.session = session;
            let taken = self.txs.iter_mut().filter(|entry| entry.mark == Mark::Taken);
            taken.for_each(|entry| entry.mark = Mark::Free);
        }
        let (mut gas, mut released, mut passed) = (max_gas, Vec::new(), HashSet::new());
        while released.len() < max_txs {
            let heads = self.accounts.keys().filter(|sender| !passed.contains(*sender));
            let best = heads
                .filter_map(|sender| self.head(*sender))
                .max_by_key(|entry| (self.price(&entry.tx), Reverse(entry.arrival)));
            let Some(best) = best.filter(|entry| self.price(&entry.tx) >= 0) else {
                break;
            };
            let tx = best.tx.clone();
            if tx.gas_limit() > gas {
                passed.insert(tx.sender());
                continue;
            }
            gas -= tx.gas_limit();
            self.set(&tx, Mark::Taken);
            released.push(tx);
        }
        released
    }

    pub fn set(&mut self, tx: &Tx, mark: Mark) {
        let entry = self.txs.iter_mut().find(|entry| entry.tx == *tx);
        entry.into_iter().for_each(|entry| entry.mark = mark);
    }

    pub fn remove(&mut self, hash: &B256) -> Option<Entry> {
        let place = self.txs.iter().position(|entry| entry.tx.hash() == hash)?;
        Some(self.txs.remove(place))
    }

    pub fn prune(&mut self, sender: Address) {
        let nonce = self.accounts[&sender].nonce;
        self.txs.retain(|entry| entry.tx.sender() != sender || entry.tx.nonce() >= nonce);
    }

    /// The refusal that the account or the sender's other transactions lead to.
    pub fn refusal(&self, tx: &Tx) -> Option<Refused> {
        let (sender, found) = (tx.sender(), tx.nonce());
        let Basic { nonce: next, balance } = self.accounts[&sender];
        let pin = self.pins.get(&(sender, found));
        if pin == Some(tx.hash()) || self.txs.iter().any(|entry| entry.tx == *tx) {
            return Some(Refused::AlreadyKnown);
        }
        if tx.max_fee_per_gas() < 5 {
            let found = tx.max_fee_per_gas();
            return Some(Refused::Underpriced { found, minimum: 5 });
        }
        if pin.is_some() {
            return Some(Refused::UnderWay);
        }
        if found < next {
            return Some(Refused::NonceTooLow { next, found });
        }
        if found > next + 9 {
            return Some(Refused::NonceTooFar { next, found, limit: 9 });
        }
        let own = self.of(sender);
        let old = own.iter().find(|entry| entry.tx.nonce() == found);
        if let Some(old) = old {
            if old.mark != Mark::Free {
                return Some(Refused::UnderWay);
            }
            for (old, found) in [
                (old.tx.max_fee_per_gas(), tx.max_fee_per_gas()),
                (old.tx.priority_fee(), tx.priority_fee()),
            ] {
                let needed = (old * 11).div_ceil(10);
                if found < needed {
                    return Some(Refused::ReplacementUnderpriced { found, needed });
                }
            }
        }
        let others = own.iter().filter(|entry| entry.tx.nonce() != found);
        let want = others.fold(tx.max_cost(), |sum, entry| sum + entry.tx.max_cost());
        if want > balance {
            return Some(Refused::InsufficientFunds { have: balance, want });
        }
        if old.is_none() && own.len() >= 6 && self.own_tail(tx).is_none() {
            return Some(Refused::SenderFull { limit: 6 });
        }
        None
    }

    pub fn can_go(&self, entry: &Entry) -> bool {
        let (sender, nonce) = (entry.tx.sender(), entry.tx.nonce());
        entry.mark == Mark::Free && !self.pins.contains_key(&(sender, nonce))
    }

    pub fn own_tail(&self, tx: &Tx) -> Option<Tx> {
        let last = (*self.of(tx.sender()).last()?).clone();
        let goes = self.can_go(&last) && !self.is_runnable(&last) && last.tx.nonce() > tx.nonce();
        goes.then_some(last.tx)
    }

    /// Admits what [`Model::refusal`] has nothing against; false if there is no room for it.
    pub fn admit(&mut self, tx: &Tx, now_ms: u64) -> bool {
        let before = self.txs.clone();
        let old = self.of(tx.sender()).into_iter().find(|entry| entry.tx.nonce() == tx.nonce());
        let old = old.map(|entry| *entry.tx.hash());
        if old.is_none() && self.of(tx.sender()).len() >= 6 {
            let tail = self.own_tail(tx).expect("a tail to go");
            self.remove(tail.hash());
        }
        if let Some(old) = old {
            self.remove(&old);
        }
        self.arrivals += 1;
        self.txs.push(Entry {
            tx: tx.clone(),
            mark: Mark::Free,
            arrival: self.arrivals,
            admitted_ms: now_ms,
        });
        while self.txs.len() > 20 || self.size_bytes() > 3_000 {
            let Some(victim) = self.victim(tx) else {
                self.txs = before;
                self.arrivals -= 1;
                return false;
            };
            self.remove(&victim);
        }
        true
    }

    pub fn victim(&self, newcomer: &Tx) -> Option<B256> {
        let entry = self.txs.iter().find(|entry| entry.tx == *newcomer)?;
        let (executable, price) = (self.is_runnable(entry), self.path_price(entry));
        let others = self.accounts.keys().filter(|sender| **sender != newcomer.sender());
        let tails = others.filter_map(|sender| self.of(*sender).last().copied());
        let tails: Vec<_> = tails.filter(|entry| self.can_go(entry)).collect();
        let worst = |runnable: bool| {
            let of_kind = tails.iter().filter(|entry| self.is_runnable(entry) == runnable);
            of_kind.min_by_key(|entry| (self.path_price(entry), Reverse(entry.arrival)))
        };
        let cheaper = |entry: &&&Entry| self.path_price(entry) < price;
        let queued = worst(false).filter(|entry| executable && price >= 0 || cheaper(entry));
        let pending = worst(true).filter(|entry| executable && cheaper(entry));
        queued.or(pending).map(|entry| *entry.tx.hash())
    }

    pub fn size_bytes(&self) -> usize {
        self.txs.iter().map(|entry| entry.tx.raw().len()).sum()
    }

    pub fn check(&self, pool: &Pool) {
        let status = pool.status();
        let count = |wanted: &dyn Fn(&Entry) -> bool| {
            self.txs.iter().filter(|entry| wanted(entry)).count() as u64
        };
        let is_free = |entry: &Entry| entry.mark == Mark::Free;
        assert_eq!(status.size_bytes, self.size_bytes() as u64);
        assert_eq!(status.under_way, count(&|entry| !is_free(entry)));
        assert_eq!(status.pending, count(&|e| is_free(e) && self.is_runnable(e)));
        assert_eq!(status.queued, count(&|e| is_free(e) && !self.is_runnable(e)));
        for entry in &self.txs {
            assert!(pool.contains(entry.tx.hash()), "{entry:?} is gone");
        }
        assert!(self.txs.len() <= 20 && status.size_bytes <= 3_000);
        let heads = self.accounts.keys().filter_map(|sender| self.head(*sender));
        let ready = heads.into_iter().any(|head| self.price(&head.tx) >= 0);
        assert_eq!(pool.has_ready(), ready);
    }
}
