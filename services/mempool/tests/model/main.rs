//! Random histories against a model that does everything with plain scans.

mod plain;
#[path = "../support/mod.rs"]
mod support;

use std::collections::{BTreeMap, HashSet};

use alloy_primitives::{Address, B256, Bytes, U256};
use atoll_api::mempool::{End, Refused, TxEnd};
use atoll_api::state::{Change, Ended, SenderTx};
use atoll_mempool::Pool;
use atoll_types::{StateKey, StateValue, Tx};
use plain::{EXPIRY_MS, Entry, Mark, Model, limits};
use rand::{Rng, SeedableRng, rngs::StdRng};
use support::*;

const SENDERS: u8 = 7;

struct Run {
    rng: StdRng,
    pool: Pool,
    model: Model,
    now_ms: u64,
    cut: u64,
    /// Left the pool for good, unless it came in again.
    removed: HashSet<B256>,
    refusals: BTreeMap<&'static str, u64>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let accounts = (1..=SENDERS).map(|n| (who(n), basic(0, 40_000_000)));
        Self {
            rng: StdRng::seed_from_u64(seed),
            pool: pool(limits()),
            model: Model { accounts: accounts.collect(), ..Model::default() },
            now_ms: 0,
            cut: 0,
            removed: HashSet::new(),
            refusals: BTreeMap::new(),
        }
    }

    fn step(&mut self) {
        let before: HashSet<B256> = self.model.txs.iter().map(|e| *e.tx.hash()).collect();
        match self.rng.random_range(0..100) {
            0..65 => self.submit(),
            65..73 => self.take(),
            73..85 => self.report(),
            85..93 => self.change(),
            93..98 => {
                self.model.base_fee = self.rng.random_range(0..60);
                self.pool.base_fee(self.model.base_fee);
            }
            _ => self.expire(),
        }
        let after: HashSet<B256> = self.model.txs.iter().map(|e| *e.tx.hash()).collect();
        for gone in before.difference(&after) {
            assert!(!self.pool.contains(gone), "{gone} is still there");
            self.removed.insert(*gone);
        }
        self.removed.retain(|hash| !after.contains(hash));
        self.model.check(&self.pool);
    }

    fn any_sender(&mut self) -> Address {
        who(self.rng.random_range(1..=SENDERS))
    }

    fn any_tx(&mut self) -> Option<Entry> {
        if self.model.txs.is_empty() {
            return None;
        }
        let place = self.rng.random_range(0..self.model.txs.len());
        Some(self.model.txs[place].clone())
    }

    fn submit(&mut self) {
        let sender = self.any_sender();
        let account = self.model.accounts[&sender];
        let reach = if self.rng.random_ratio(1, 4) { 12 } else { 5 };
        let ahead = self.rng.random_range(0..reach);
        let cap = self.rng.random_range(3..100);
        let large = self.rng.random_ratio(1, 8);
        let tx = Draft {
            cap,
            tip: self.rng.random_range(0..=cap),
            gas: if large { 50_000 } else { 21_000 + self.rng.random_range(0..9) },
            value: self.rng.random_range(0..3_000_000),
            input: Bytes::from(vec![0; if large { 400 } else { 0 }]),
            ..draft((account.nonce + ahead).saturating_sub(self.rng.random_range(0..2)), 0)
        };
        let mut tx = tx.by(sender);
        if let Some(known) = self.any_tx().filter(|_| self.rng.random_ratio(1, 20)) {
            tx = known.tx;
        }
        let (sender, account) = (tx.sender(), self.model.accounts[&tx.sender()]);
        let expected = self.model.refusal(&tx);
        let result = submit(&mut self.pool, &tx, account, self.now_ms);
        if expected.is_none() && !self.model.admit(&tx, self.now_ms) {
            assert!(matches!(result, Err(Refused::MempoolFull { .. })), "{result:?}");
        } else {
            assert_eq!(result.clone().err(), expected);
            let own = self.model.of(sender);
            let cost = own.iter().fold(U256::ZERO, |sum, entry| sum + entry.tx.max_cost());
            assert!(result.is_err() || cost <= account.balance && own.len() <= 6);
        }
        if let Err(refused) = result {
            let reason = match refused {
                Refused::AlreadyKnown => "already known",
                Refused::NonceTooLow { .. } => "nonce too low",
                Refused::NonceTooFar { .. } => "nonce too far",
                Refused::InsufficientFunds { .. } => "funds",
                Refused::Underpriced { .. } => "underpriced",
                Refused::ReplacementUnderpriced { .. } => "replacement",
                Refused::UnderWay => "under way",
                Refused::MempoolFull { .. } => "pool full",
                Refused::SenderFull { .. } => "sender full",
                other => panic!("{other}"),
            };
            *self.refusals.entry(reason).or_default() += 1;
        }
    }

    fn take(&mut self) {
        let session = self.model.session + u64::from(self.rng.random_ratio(1, 10));
        let max_txs = self.rng.random_range(0..12);
        let max_gas = self.rng.random_range(20_000..300_000);
        let before = self.model.txs.clone();
        let renewed = session > self.model.session;
        let expected = self.model.take(session, max_txs, max_gas);
        let released = self.pool.take(session, max_txs as u32, max_gas, self.now_ms);
        assert_eq!(released.as_ref(), Ok(&expected));
        assert!(expected.iter().map(Tx::gas_limit).sum::<u64>() <= max_gas);
        for tx in &expected {
            let sender = tx.sender();
            assert!(!self.removed.contains(tx.hash()), "{tx:?} was removed");
            let earlier = |other: &&Tx| other.sender() == sender && *other != tx;
            let released: Vec<u64> = expected
                .iter()
                .take_while(|other| *other != tx)
                .filter(earlier)
                .map(Tx::nonce)
                .collect();
            let away = |nonce: u64| {
                before.iter().any(|entry| {
                    let stays =
                        entry.mark == Mark::Escalated || entry.mark == Mark::Taken && !renewed;
                    stays && entry.tx.sender() == sender && entry.tx.nonce() == nonce
                })
            };
            for nonce in self.model.accounts[&sender].nonce..tx.nonce() {
                let pinned = self.model.pins.contains_key(&(sender, nonce));
                assert!(pinned || released.contains(&nonce) || away(nonce), "a gap before {tx:?}");
            }
        }
    }

    fn report(&mut self) {
        let Some(Entry { tx, mark, .. }) = self.any_tx() else {
            return;
        };
        if mark == Mark::Free && self.rng.random_ratio(9, 10) {
            return;
        }
        let pinned = self.model.pins.get(&(tx.sender(), tx.nonce())) == Some(tx.hash());
        let end = match self.rng.random_range(0..10) {
            0..5 => {
                let account = self.model.accounts.get_mut(&tx.sender()).expect("a sender");
                account.nonce = account.nonce.max(tx.nonce() + 1);
                account.balance -= tx.max_cost().min(account.balance);
                self.model.remove(tx.hash());
                self.model.prune(tx.sender());
                End::Included
            }
            5..7 => {
                self.model.set(&tx, Mark::Escalated);
                End::Escalated
            }
            7..9 => {
                if !pinned {
                    self.model.set(&tx, Mark::Free);
                }
                End::Returned
            }
            _ => {
                self.model.remove(tx.hash());
                dropped()
            }
        };
        // Twice: a report may be repeated.
        let ends = [0, 1].map(|_| TxEnd { tx: *tx.hash(), end: end.clone() });
        self.pool.report(&ends, self.now_ms);
    }

    fn change(&mut self) {
        self.cut += 1;
        let mut change = Change { cut: Some(self.cut), ..Change::default() };
        let pin = self.model.pins.iter().next().map(|(place, tx)| (*place, *tx));
        match (self.rng.random_range(0..6), pin) {
            (0..2, _) => {
                let escalated = self.model.txs.iter().find(|e| e.mark == Mark::Escalated);
                let Some(tx) = escalated.map(|entry| entry.tx.clone()) else {
                    return;
                };
                let (sender, nonce) = (tx.sender(), tx.nonce());
                self.model.pins.insert((sender, nonce), *tx.hash());
                change.pinned.push(SenderTx { tx: *tx.hash(), sender, nonce });
            }
            (2..5, Some(((sender, nonce), tx))) => {
                self.model.pins.remove(&(sender, nonce));
                self.model.remove(&tx);
                let receipt = self.rng.random_ratio(2, 3);
                if receipt {
                    let account = self.model.accounts.get_mut(&sender).expect("a sender");
                    account.nonce = account.nonce.max(nonce + 1);
                    self.model.prune(sender);
                }
                let dropped = (!receipt).then(|| "no".to_owned());
                change.ended.push(Ended {
                    tx: SenderTx { tx, sender, nonce },
                    dropped,
                    gas_used: 0,
                });
            }
            _ => {
                let sender = self.any_sender();
                let moved = self.rng.random_range(0..3) / 2;
                let account = self.model.accounts.get_mut(&sender).expect("a sender");
                account.nonce += moved;
                account.balance = U256::from(self.rng.random_range(0..60_000_000u64));
                let value = StateValue::Basic(*account);
                change.writes.push((StateKey::Basic(sender), value));
                self.model.prune(sender);
            }
        }
        self.pool.change(&change, self.now_ms);
    }

    /// What has expired is not predicted, but it must have been of no use for long enough.
    fn expire(&mut self) {
        self.now_ms += self.rng.random_range(0..EXPIRY_MS);
        self.pool.expire(self.now_ms, usize::MAX);
        // Children of what expires can no longer run either, but have more time.
        let (stay, gone): (Vec<_>, _) = self
            .model
            .txs
            .clone()
            .into_iter()
            .partition(|entry| self.pool.contains(entry.tx.hash()));
        for entry in gone {
            let useless = !self.model.is_runnable(&entry) || self.model.path_price(&entry) < 0;
            let old = self.now_ms >= entry.admitted_ms + EXPIRY_MS;
            assert!(useless && old && entry.mark == Mark::Free, "{entry:?} expired");
            assert!(!self.model.has_pin(entry.tx.sender()));
        }
        self.model.txs = stay;
    }
}

#[test]
fn random_histories_are_those_of_the_model() {
    let only = std::env::var("ATOLL_SEED").ok().and_then(|seed| seed.parse::<u64>().ok());
    let seeds = only.map_or(0..150, |seed| seed..seed + 1);
    let mut seen = BTreeMap::<_, u64>::new();
    for seed in seeds {
        println!("ATOLL_SEED={seed}");
        let mut run = Run::new(seed);
        for _ in 0..400 {
            run.step();
        }
        let metrics = run.pool.metrics();
        for (what, count) in run.refusals {
            *seen.entry(what).or_default() += count;
        }
        for (what, count) in [
            ("taken", metrics.taken.get()),
            ("evicted", metrics.evicted.get()),
            ("expired", metrics.expired.get()),
            ("replaced", metrics.replaced.get()),
        ] {
            *seen.entry(what).or_default() += count;
        }
    }
    println!("{seen:?}");
    // Else the histories would not reach the rules that they are to test.
    let reached = seen.values().filter(|count| **count >= 50).count();
    assert!(only.is_some() || reached >= 12, "{seen:?}");
}
