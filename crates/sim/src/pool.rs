//! Transactions of a shard's senders that are not known to have ended.

use std::collections::{BTreeMap, HashSet};

use atoll_types::{Address, B256, Tx};

/// By sender and nonce. What was handed to the prediction is away: it comes back or ends.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pool {
    txs: BTreeMap<Address, BTreeMap<u64, Tx>>,
    away: HashSet<B256>,
}

impl Pool {
    /// Takes a transaction, unless the sender has one with this nonce.
    pub fn add(&mut self, tx: Tx) -> bool {
        let nonces = self.txs.entry(tx.sender()).or_default();
        let new = !nonces.contains_key(&tx.nonce());
        nonces.entry(tx.nonce()).or_insert(tx);
        new
    }

    pub fn senders(&self) -> Vec<Address> {
        self.txs.keys().copied().collect()
    }

    /// The transaction with this nonce, and whether it is away.
    pub fn get(&self, sender: &Address, nonce: u64) -> Option<(&Tx, bool)> {
        let tx = self.txs.get(sender)?.get(&nonce)?;
        Some((tx, self.away.contains(tx.hash())))
    }

    /// Forgets what has an earlier nonce than the account. Returns it.
    pub fn settle(&mut self, sender: &Address, nonce: u64) -> Vec<Tx> {
        let Some(nonces) = self.txs.get_mut(sender) else {
            return Vec::new();
        };
        let later = nonces.split_off(&nonce);
        let gone = std::mem::replace(nonces, later);
        if nonces.is_empty() {
            self.txs.remove(sender);
        }
        for tx in gone.values() {
            self.away.remove(tx.hash());
        }
        gone.into_values().collect()
    }

    pub fn hand_out(&mut self, tx: &B256) {
        self.away.insert(*tx);
    }

    pub fn give_back(&mut self, tx: &B256) {
        self.away.remove(tx);
    }

    /// True if it was here.
    pub fn remove(&mut self, tx: &Tx) -> bool {
        self.away.remove(tx.hash());
        match self.txs.get_mut(&tx.sender()) {
            Some(nonces) if nonces.get(&tx.nonce()) == Some(tx) => {
                nonces.remove(&tx.nonce()).is_some()
            }
            _ => false,
        }
    }

    /// What was handed out may be lost with the process that had it.
    pub fn forget_handed_out(&mut self) {
        self.away.clear();
    }
}
