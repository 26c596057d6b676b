//! How the pool follows the shard's state: accounts, transactions across shards, time.

use std::collections::HashSet;
use std::ops::Bound;

use alloy_primitives::Address;
use atoll_api::state::{Change, Ended, SenderTx};
use atoll_types::{Basic, StateKey, StateValue};

use crate::core::Pool;
use crate::sender::{Mark, Place};

impl Pool {
    /// Whether a transaction of this sender can be judged only once its account has been read.
    pub fn must_read(&self, address: &Address) -> bool {
        let sender = self.senders.get(address);
        sender.is_none_or(|sender| sender.stale || sender.account.is_none())
    }

    /// Remembers these senders until [`Pool::release`], to be called before their accounts are
    /// read: what happens to them meanwhile tells whether the answer is out of date.
    pub fn hold(&mut self, senders: &[Address]) {
        for address in senders {
            self.senders.entry(*address).or_default().readers += 1;
        }
    }

    /// Undoes one [`Pool::hold`].
    pub fn release(&mut self, senders: &[Address]) {
        for address in senders {
            if let Some(sender) = self.senders.get_mut(address) {
                sender.readers = sender.readers.saturating_sub(1);
            }
            self.forget_if_idle(address);
        }
    }

    /// Takes in accounts that were read when `cut` was the newest cut. What is older than what the
    /// pool knows is passed over; such a sender is read again at its next transaction.
    pub fn learn(&mut self, accounts: &[(Address, Basic)], cut: u64, now_ms: u64) {
        for (address, account) in accounts {
            let Some(sender) = self.senders.get_mut(address) else {
                continue;
            };
            let behind = cut < sender.as_of_cut;
            let known = sender.account;
            if known.is_some_and(|known| behind || account.nonce < known.nonce) {
                sender.stale = true;
                continue;
            }
            sender.as_of_cut = cut.max(sender.as_of_cut);
            sender.was_read = true;
            sender.stale = false;
            if behind {
                self.doubt(address);
            }
            self.set_account(address, *account, now_ms);
        }
    }

    /// Senders whose accounts should be read, at most `limit`: those of transactions that turned
    /// out wrong, then in turns those that have transactions of which none can go on. That heals
    /// what the pool cannot see: payments from other accounts of the shard, nonces used by an
    /// EIP-7702 delegate, reports that were lost.
    pub fn doubtful(&mut self, limit: usize) -> Vec<Address> {
        let mut doubtful = Vec::new();
        while doubtful.len() < limit
            && let Some(address) = self.urgent.pop_first()
        {
            if self.senders.get(&address).is_some_and(|s| s.stale) {
                doubtful.push(address);
            }
        }
        let room = limit - doubtful.len();
        let from = (Bound::Excluded(self.stuck_from), Bound::Unbounded);
        let until = (Bound::Unbounded, Bound::Included(self.stuck_from));
        let turn = self.stuck.range(from).chain(self.stuck.range(until));
        let urgent: HashSet<_> = doubtful.iter().copied().collect();
        doubtful.extend(turn.filter(|sender| !urgent.contains(*sender)).take(room));
        if room > 0 {
            self.stuck_from = doubtful.last().copied().unwrap_or_default();
        }
        doubtful
    }

    /// Whether [`Pool::doubtful`] has senders that should not wait.
    pub fn is_in_doubt(&self) -> bool {
        !self.urgent.is_empty()
    }

    /// Forgets what is under way across shards and doubts every account: the changes that follow
    /// start from nothing. O(n log n), but only when the state service or this one has started.
    pub fn reset(&mut self, now_ms: u64) {
        self.synced = true;
        self.pins.clear();
        let mut senders: Vec<_> = self.senders.keys().copied().collect();
        senders.sort_unstable();
        for address in senders {
            if let Some(sender) = self.senders.get_mut(&address) {
                sender.as_of_cut = 0;
            }
            for place in self.escalated(&address) {
                self.set_mark(place, Mark::Escalated, now_ms);
            }
            self.doubt(&address);
            self.reindex(&address, now_ms);
        }
    }

    /// Follows a change of the shard's state that the executor did not report.
    pub fn change(&mut self, change: &Change, now_ms: u64) {
        for ended in &change.ended {
            self.ended(ended, change.cut, now_ms);
        }
        for (key, value) in &change.writes {
            if let (StateKey::Basic(address), StateValue::Basic(account)) = (key, value) {
                self.wrote(address, *account, change.cut, now_ms);
            }
        }
        for SenderTx { tx, sender, nonce } in &change.pinned {
            self.pins.entry(*sender).or_default().insert(*nonce, *tx);
            if let Some(&place) = self.by_hash.get(tx) {
                self.set_mark(place, Mark::Escalated, now_ms);
            }
            self.reindex(sender, now_ms);
        }
    }

    /// Sets the base fee in wei. O(m log n) for the m transactions whose price it affects in
    /// another way than the base fee before.
    pub fn base_fee(&mut self, base_fee: u64) {
        self.set_base_fee(base_fee);
    }

    /// Whether the volume of the shard's data is full. Nothing is taken then: it would wait for an
    /// operator, and be lost with the pool.
    pub fn set_full(&mut self, full: bool) {
        self.full = full;
    }

    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Looks at most `limit` transactions through that are due, and drops those that cannot run.
    /// True if there are more.
    pub fn expire(&mut self, now_ms: u64, limit: usize) -> bool {
        for _ in 0..limit {
            let Some(&(due_ms, address, nonce)) = self.due.first() else {
                return false;
            };
            if due_ms > now_ms {
                return false;
            }
            self.look_at_due((address, nonce), now_ms);
        }
        self.due.first().is_some_and(|first| first.0 <= now_ms)
    }

    fn look_at_due(&mut self, place: Place, now_ms: u64) {
        let (address, nonce) = place;
        let base_fee = self.base_fee;
        let waits = self.pins.contains_key(&address);
        let sender = self.senders.get(&address);
        let Some(pooled) = sender.and_then(|sender| sender.txs.get(&nonce)) else {
            return;
        };
        let (mark, hash) = (pooled.mark, *pooled.tx.hash());
        match mark {
            Mark::Taken => self.set_mark(place, mark, now_ms),
            Mark::Escalated if self.is_pinned(place, &hash) => self.set_mark(place, mark, now_ms),
            Mark::Escalated => {
                self.metrics.escalations_lost.add(1);
                self.set_mark(place, Mark::Free, now_ms);
                self.reindex(&address, now_ms);
            }
            Mark::Free if waits || pooled.runnable && pooled.path.above(base_fee) >= 0 => {
                self.set_mark(place, mark, now_ms);
            }
            Mark::Free => {
                if let Some(pooled) = self.detach(place) {
                    let minutes = self.config.limits.expiry_ms / 60_000;
                    self.drop_tx(&pooled.tx, format!("could not run for {minutes} minutes"));
                }
                self.metrics.expired.add(1);
                self.reindex(&address, now_ms);
                self.forget_if_idle(&address);
            }
        }
    }

    fn ended(&mut self, Ended { tx, dropped, .. }: &Ended, cut: Option<u64>, now_ms: u64) {
        let address = &tx.sender;
        if let Some(pins) = self.pins.get_mut(address) {
            if pins.get(&tx.nonce) == Some(&tx.tx) {
                pins.remove(&tx.nonce);
            }
            if pins.is_empty() {
                self.pins.remove(address);
            }
        }
        if let Some(&place) = self.by_hash.get(&tx.tx) {
            self.detach(place);
        }
        let Some(sender) = self.senders.get_mut(address) else {
            return;
        };
        if cut.is_some_and(|cut| cut > sender.as_of_cut) {
            sender.as_of_cut = cut.unwrap_or_default();
            sender.was_read = false;
        }
        if dropped.is_none()
            && let Some(account) = &mut sender.account
        {
            account.nonce = account.nonce.max(tx.nonce.saturating_add(1));
        }
        self.prune(address);
        // The values that follow from it are in the same change, as a rule.
        self.doubt(address);
        self.reindex(address, now_ms);
        self.forget_if_idle(address);
    }

    fn wrote(&mut self, address: &Address, account: Basic, cut: Option<u64>, now_ms: u64) {
        let Some(sender) = self.senders.get_mut(address) else {
            return;
        };
        let (newest, was_read) = (sender.as_of_cut, sender.was_read);
        if cut.is_some_and(|cut| cut < newest || cut == newest && was_read) {
            return;
        }
        if sender.account.is_some_and(|known| account.nonce < known.nonce) {
            // Local blocks after that cut have been reported on already.
            self.doubt(address);
            return;
        }
        sender.as_of_cut = cut.unwrap_or(newest);
        sender.was_read = false;
        sender.stale = false;
        self.set_account(address, account, now_ms);
        self.forget_if_idle(address);
    }

    fn set_account(&mut self, address: &Address, account: Basic, now_ms: u64) {
        if let Some(sender) = self.senders.get_mut(address) {
            sender.account = Some(account);
        }
        self.prune(address);
        self.reindex(address, now_ms);
    }

    /// Takes out what a nonce has gone past. The sender has to be reindexed after.
    pub(crate) fn prune(&mut self, address: &Address) {
        while let Some(sender) = self.senders.get(address)
            && let Some((&nonce, _)) = sender.txs.first_key_value()
            && nonce < sender.nonce()
        {
            self.detach((*address, nonce));
        }
    }

    /// Has the account read soon.
    pub(crate) fn doubt(&mut self, address: &Address) {
        if let Some(sender) = self.senders.get_mut(address) {
            sender.stale = true;
            self.urgent.insert(*address);
        }
    }

    fn escalated(&self, address: &Address) -> Vec<Place> {
        let sender = self.senders.get(address);
        let txs = sender.into_iter().flat_map(|sender| &sender.txs);
        txs.filter(|(_, pooled)| pooled.mark == Mark::Escalated)
            .map(|(&nonce, _)| (*address, nonce))
            .collect()
    }
}
