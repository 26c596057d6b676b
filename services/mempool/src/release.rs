//! What leaves the pool for the executor, and what comes back.

use alloy_primitives::{Address, B256};
use atoll_api::mempool::{End, MempoolError, TxEnd};
use atoll_types::Tx;

use crate::core::Pool;
use crate::sender::{Mark, Place};

/// Heads of senders that do not fit into the gas left are passed over, but no more than this many
/// in one take, lest a take with little room walk through the whole pool.
const MAX_PASSED_OVER: usize = 64;

/// The least that any transaction needs.
const LEAST_GAS: u64 = 21_000;

impl Pool {
    /// Whether [`Pool::take`] would have something to give, gas and session aside.
    pub fn has_ready(&self) -> bool {
        self.synced && self.ready.best().is_some_and(|(price, _)| price >= 0)
    }

    /// Releases what can run at the base fee: from the best effective priority fee down, each
    /// sender's in nonce order without gaps. At most `max_gas` in gas limits; also bounded by
    /// `max_take_txs` and `max_take_bytes`. What is released stays in the pool, marked, until it is
    /// reported on or a newer session comes.
    ///
    /// # Errors
    /// [`MempoolError::OldSession`] if a newer session has taken before.
    pub fn take(
        &mut self,
        session: u64,
        max_txs: u32,
        max_gas: u64,
        now_ms: u64,
    ) -> Result<Vec<Tx>, MempoolError> {
        if session < self.session {
            return Err(MempoolError::OldSession { found: session, newest: self.session });
        }
        if session > self.session {
            self.session = session;
            self.free_taken(now_ms);
        }
        if !self.synced {
            return Ok(Vec::new());
        }
        let limits = &self.config.limits;
        let max_txs = limits.max_take_txs.min(max_txs as usize);
        let (mut gas, mut size_bytes) = (max_gas, limits.max_take_bytes);
        let mut released = Vec::new();
        let mut touched = Vec::new();
        let mut passed_over = 0;
        while released.len() < max_txs && gas >= LEAST_GAS && passed_over < MAX_PASSED_OVER {
            let Some(address) = self.best_ready() else {
                break;
            };
            let Some(sender) = self.senders.get_mut(&address) else {
                break;
            };
            let Some(head) = sender.placed.head else {
                break;
            };
            let Some(pooled) = sender.txs.get_mut(&head.nonce) else {
                break;
            };
            if pooled.size() > size_bytes {
                break;
            }
            touched.push(address);
            let next = if pooled.tx.gas_limit() > gas {
                passed_over += 1;
                None
            } else {
                gas -= pooled.tx.gas_limit();
                size_bytes -= pooled.size();
                pooled.mark = Mark::Taken;
                released.push(pooled.tx.clone());
                sender.room -= 1;
                sender.head(head.nonce.saturating_add(1), self.pins.get(&address))
            };
            sender.placed.head = next;
            self.set_head(Some(head), next);
        }
        for address in once(touched) {
            self.reindex(&address, now_ms);
        }
        self.metrics.taken.add(released.len());
        Ok(released)
    }

    /// The sender of the best transaction that can be released and pays the base fee.
    fn best_ready(&self) -> Option<Address> {
        let (price, sender) = self.ready.best()?;
        (price >= 0).then_some(sender)
    }

    /// O(transactions taken); only when an executor has started.
    fn free_taken(&mut self, now_ms: u64) {
        for address in std::mem::take(&mut self.borrowers) {
            if let Some(sender) = self.senders.get_mut(&address) {
                let taken = sender.txs.values_mut().filter(|p| p.mark == Mark::Taken);
                taken.for_each(|pooled| pooled.mark = Mark::Free);
            }
            self.reindex(&address, now_ms);
        }
    }

    /// Takes in what became of transactions. Those that the pool does not know (any more) are
    /// passed over, so a report may be repeated.
    pub fn report(&mut self, ends: &[TxEnd], now_ms: u64) {
        let mut touched = Vec::new();
        for TxEnd { tx, end } in ends {
            let Some(&place) = self.by_hash.get(tx) else {
                continue;
            };
            touched.push(place.0);
            match end {
                End::Included => self.included(place),
                End::Escalated => self.set_mark(place, Mark::Escalated, now_ms),
                End::Returned if self.is_pinned(place, tx) => {}
                End::Returned => self.set_mark(place, Mark::Free, now_ms),
                End::Dropped { reason } => {
                    if let Some(pooled) = self.detach(place) {
                        self.drop_tx(&pooled.tx, reason.clone());
                    }
                    // The nonce may have been used by something that the pool did not see.
                    self.doubt(&place.0);
                }
            }
        }
        for address in once(touched) {
            self.reindex(&address, now_ms);
            self.forget_if_idle(&address);
        }
    }

    fn included(&mut self, place: Place) {
        let (address, nonce) = place;
        let Some(pooled) = self.detach(place) else {
            return;
        };
        let Some(sender) = self.senders.get_mut(&address) else {
            return;
        };
        // What it did cost and what came in beside it are not known here. This is the least that
        // can be left, until somebody reads the account.
        let mut account = sender.account.unwrap_or_default();
        account.balance = account.balance.saturating_sub(pooled.cost);
        account.nonce = account.nonce.max(nonce.saturating_add(1));
        sender.account = Some(account);
        sender.stale = true;
        self.prune(&address);
    }

    pub(crate) fn is_pinned(&self, (address, nonce): Place, tx: &B256) -> bool {
        let pin = self.pins.get(&address).and_then(|pins| pins.get(&nonce));
        pin == Some(tx)
    }

    /// The sender has to be reindexed after.
    pub(crate) fn set_mark(&mut self, place: Place, mark: Mark, now_ms: u64) {
        let (address, nonce) = place;
        let limits = &self.config.limits;
        let wait_ms =
            if mark == Mark::Escalated { limits.escalation_timeout_ms } else { limits.expiry_ms };
        let sender = self.senders.get_mut(&address);
        if let Some(pooled) = sender.and_then(|sender| sender.txs.get_mut(&nonce)) {
            pooled.mark = mark;
            self.due.remove(&(pooled.due_ms, address, nonce));
            pooled.due_ms = now_ms.saturating_add(wait_ms);
            self.due.insert((pooled.due_ms, address, nonce));
        }
    }
}

/// Each of them once, in an order that does not change from run to run.
fn once(mut touched: Vec<Address>) -> Vec<Address> {
    touched.sort_unstable();
    touched.dedup();
    touched
}
