//! Data before order: transactions that every owner holds before the beacon orders them.

use atoll_types::{B256, Refusal, SharedTx, TxRef};

use crate::planted::Planted;

use super::{Checked, Owner, Phase, Shared};

impl Owner {
    /// Checks a shared transaction, without changing anything. `Ok(false)`: it is held already.
    ///
    /// All owners have to hold the same key set of an attempt, and hold it as long: what differs from
    /// what is held is refused.
    pub fn check_share(&self, shared: &SharedTx) -> Checked<bool> {
        let here = self.config.shard;
        let sender_home = self.config.placement.owner(&shared.tx.sender());
        if shared.origin != sender_home {
            return Err(Refusal::NotOwner { owner: sender_home, here: shared.origin });
        }
        let concerns = |key| self.config.placement.owner_of(key) == here;
        if !shared.keys.all().any(concerns) {
            return Err(Refusal::NotOwner { owner: shared.origin, here });
        }
        let sorted = |keys: &[_]| keys.is_sorted_by(|a, b| a < b);
        if !sorted(&shared.keys.reads) || !sorted(&shared.keys.writes) {
            return Err(Refusal::Malformed { what: "key sets are not sorted".into() });
        }
        if shared.last_valid_round <= self.cut {
            return Err(Refusal::Expired { last: shared.last_valid_round, cut: self.cut });
        }
        match self.shared.get(shared.tx.hash()) {
            Some(held) if held.tx.attempt > shared.attempt => {
                let attempt = held.tx.attempt;
                Err(Refusal::OldAttempt { tx: *shared.tx.hash(), attempt })
            }
            Some(held) if held.tx.attempt == shared.attempt => match held.phase {
                Phase::Returned { .. } => Ok(true),
                Phase::Shared | Phase::Planned(_) if held.tx == *shared => Ok(false),
                Phase::Shared | Phase::Planned(_) => {
                    Err(Refusal::OldAttempt { tx: *shared.tx.hash(), attempt: shared.attempt })
                }
            },
            // At home an attempt has to end before there is another one, which comes back with its
            // number. Elsewhere the end may not be known yet.
            Some(held) if shared.origin == here => {
                let attempt = held.tx.attempt;
                Err(Refusal::OldAttempt { tx: *shared.tx.hash(), attempt })
            }
            Some(_) => Ok(true),
            None if self.shared.len() as u64 >= self.config.max_shared => {
                Err(Refusal::TooManyShared { limit: self.config.max_shared })
            }
            None => Ok(true),
        }
    }

    /// Keeps a shared transaction that was checked. Returns true if it is an own one that was not
    /// held before: its sender is pinned from now on.
    pub fn share(&mut self, shared: SharedTx) -> bool {
        let hash = *shared.tx.hash();
        let (sender, nonce) = (shared.tx.sender(), shared.tx.nonce());
        let own = shared.origin == self.config.shard;
        let before = self.shared.insert(hash, Shared { tx: shared, phase: Phase::Shared });
        let new = own && before.is_none();
        if new && !self.bug.is(Planted::ForgetPin) {
            self.pinned.entry(sender).or_default().insert((nonce, hash));
        }
        new
    }

    /// An own transaction that waits to be predicted again, for this attempt.
    fn returned_one(&self, tx: TxRef) -> Option<&SharedTx> {
        let waits = |held: &&Shared| {
            matches!(held.phase, Phase::Returned { .. }) && held.tx.attempt == tx.attempt
        };
        self.shared.get(&tx.hash).filter(waits).map(|held| &held.tx)
    }

    /// Whether an own transaction that came back can be given up: as long as an earlier one of its
    /// sender is under way, nobody knows what it could do.
    pub fn may_withdraw(&self, tx: TxRef) -> bool {
        self.returned_one(tx).is_some_and(|shared| self.one_before(shared).is_none())
    }

    /// Gives up an own transaction that came back. Returns it if there was such a one.
    pub fn withdraw(&mut self, tx: TxRef) -> Option<SharedTx> {
        if self.returned_one(tx).is_some() { self.forget(&tx.hash) } else { None }
    }

    /// The sender's transaction under way before an own one.
    pub(super) fn one_before(&self, shared: &SharedTx) -> Option<&Shared> {
        let nonces = self.pinned.get(&shared.tx.sender())?;
        let (_, before) = nonces.range(..(shared.tx.nonce(), B256::ZERO)).next_back()?;
        self.shared.get(before)
    }

    /// Drops a shared transaction; unpins its sender if it is an own one.
    pub(super) fn forget(&mut self, hash: &B256) -> Option<SharedTx> {
        let shared = self.shared.remove(hash)?.tx;
        if shared.origin == self.config.shard {
            let sender = shared.tx.sender();
            if let Some(nonces) = self.pinned.get_mut(&sender) {
                nonces.remove(&(shared.tx.nonce(), *hash));
                if nonces.is_empty() {
                    self.pinned.remove(&sender);
                }
            }
        }
        Some(shared)
    }
}
