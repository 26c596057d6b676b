//! Who may come in, and who has to go for it.

use atoll_api::mempool::Refused;
use atoll_types::Tx;

use crate::config::Limits;
use crate::core::Pool;
use crate::gas::intrinsic_gas;
use crate::price::Price;
use crate::sender::{Mark, Place, Pooled, Sender};

/// Where an admission would put a transaction.
struct Newcomer<'a> {
    tx: &'a Tx,
    /// The transaction that it replaces.
    old_size: Option<usize>,
    /// Nothing but the sender's earlier transactions keeps it from running.
    executable: bool,
    /// Effective price of running it and what comes before it.
    price: i128,
}

impl Pool {
    /// All that can be said of a transaction without its sender's account. Refusals are counted.
    ///
    /// # Errors
    /// Why the transaction is not taken.
    pub fn check(&self, tx: &Tx) -> Result<(), Refused> {
        let result = self.try_check(tx);
        if let Err(refused) = &result {
            self.metrics.count_refused(refused);
        }
        result
    }

    /// Takes in a transaction that [`Pool::check`] has passed. The sender's account must be known,
    /// see [`Pool::must_read`]; one that is not counts as empty. Refusals are counted.
    ///
    /// # Errors
    /// Why the transaction is not taken. The pool is then as it was.
    pub fn admit(&mut self, tx: Tx, now_ms: u64) -> Result<(), Refused> {
        let sender = tx.sender();
        let result = self.try_admit(tx, now_ms);
        if let Err(refused) = &result {
            self.metrics.count_refused(refused);
            self.forget_if_idle(&sender);
        }
        result
    }

    fn try_check(&self, tx: &Tx) -> Result<(), Refused> {
        let limits = &self.config.limits;
        let sender = tx.sender();
        let owner = self.config.placement.owner(&sender);
        if owner != self.config.shard {
            return Err(Refused::WrongShard { owner, here: self.config.shard });
        }
        let pin = self.pins.get(&sender).and_then(|pins| pins.get(&tx.nonce()));
        if self.by_hash.contains_key(tx.hash()) || pin == Some(tx.hash()) {
            return Err(Refused::AlreadyKnown);
        }
        if self.full {
            return Err(Refused::VolumeFull { shard: self.config.shard });
        }
        let (found, limit) = (tx.gas_limit(), limits.max_tx_gas());
        if found > limit {
            return Err(Refused::GasLimit { found, limit });
        }
        let needed = intrinsic_gas(tx);
        if found < needed {
            return Err(Refused::IntrinsicGas { found, needed });
        }
        let (found, minimum) = (tx.max_fee_per_gas(), limits.min_fee_per_gas);
        if found < minimum {
            return Err(Refused::Underpriced { found, minimum });
        }
        if pin.is_some() {
            return Err(Refused::UnderWay);
        }
        Ok(())
    }

    fn try_admit(&mut self, tx: Tx, now_ms: u64) -> Result<(), Refused> {
        // Again: the same transaction may have come in while the account was read.
        self.try_check(&tx)?;
        let (address, nonce) = (tx.sender(), tx.nonce());
        let limits = &self.config.limits;
        let sender = self.senders.entry(address).or_default();
        let account = sender.account.unwrap_or_default();
        if nonce < account.nonce {
            return Err(Refused::NonceTooLow { next: account.nonce, found: nonce });
        }
        if nonce - account.nonce > limits.max_nonce_gap {
            return Err(Refused::NonceTooFar {
                next: account.nonce,
                found: nonce,
                limit: limits.max_nonce_gap,
            });
        }
        let old = sender.txs.get(&nonce);
        if let Some(old) = old {
            check_replacement(&old.tx, old.mark, &tx, limits.replacement_percent)?;
        }
        let old_cost = old.map(|old| old.cost).unwrap_or_default();
        let old_size = old.map(Pooled::size);
        // Against all of the sender's transactions, later ones too: so a replacement cannot take
        // from its descendants what they need.
        let cost = tx.max_cost();
        let want = (sender.cost - old_cost).saturating_add(cost);
        if want > account.balance {
            return Err(Refused::InsufficientFunds { have: account.balance, want });
        }
        let own_tail = match old {
            None if sender.txs.len() >= limits.max_sender_txs => Some(
                own_queued_tail(sender, nonce)
                    .ok_or(Refused::SenderFull { limit: limits.max_sender_txs as u64 })?,
            ),
            _ => None,
        };
        let executable = nonce <= sender.run_end;
        let before = sender.txs.range(..nonce).next_back();
        let own = Price::of(&tx);
        let path = match before {
            Some((_, before)) if executable => before.path.min(own),
            _ => own,
        };
        let newcomer = Newcomer { tx: &tx, old_size, executable, price: path.above(self.base_fee) };
        self.make_room(&newcomer, own_tail, now_ms)?;
        if let Some(old) = self.detach((address, nonce)) {
            self.drop_tx(&old.tx, format!("replaced by {}", tx.hash()));
            self.metrics.replaced.add(1);
        }
        self.arrivals += 1;
        let pooled = Pooled {
            cost,
            arrival: self.arrivals,
            mark: Mark::Free,
            runnable: false,
            path,
            due_ms: now_ms.saturating_add(self.config.limits.expiry_ms),
            tx,
        };
        self.attach(pooled);
        self.reindex(&address, now_ms);
        self.metrics.admitted.add(1);
        Ok(())
    }

    /// Pushes out what has to go for a newcomer: `own_tail` of its sender, then the cheapest tails
    /// of senders with a nonce missing, then the cheapest tails of the others. All or nothing.
    fn make_room(
        &mut self,
        newcomer: &Newcomer<'_>,
        own_tail: Option<u64>,
        now_ms: u64,
    ) -> Result<(), Refused> {
        let sender = newcomer.tx.sender();
        let mut out = Vec::new();
        let mut next = own_tail.map(|nonce| (sender, nonce));
        loop {
            if let Some(place) = next.take() {
                out.extend(self.detach(place));
                self.reindex(&place.0, now_ms);
            }
            let Some((limit, unit)) = self.exceeded_with(newcomer) else {
                break;
            };
            next = self.victim(newcomer);
            if next.is_none() {
                for pooled in out.into_iter().rev() {
                    let address = pooled.tx.sender();
                    self.attach(pooled);
                    self.reindex(&address, now_ms);
                }
                let unit = unit.to_owned();
                return Err(Refused::MempoolFull { limit, unit });
            }
        }
        self.metrics.evicted.add(out.len());
        for pooled in out {
            let address = pooled.tx.sender();
            self.drop_tx(&pooled.tx, "pushed out of a full mempool".to_owned());
            if address != sender {
                self.forget_if_idle(&address);
            }
        }
        Ok(())
    }

    /// The limit that the pool would be over with the newcomer.
    fn exceeded_with(&self, newcomer: &Newcomer<'_>) -> Option<(u64, &'static str)> {
        let Limits { max_txs, max_bytes, .. } = self.config.limits;
        let txs = self.by_hash.len() + usize::from(newcomer.old_size.is_none());
        let size_bytes =
            self.size_bytes + newcomer.tx.raw().len() - newcomer.old_size.unwrap_or_default();
        if txs > max_txs {
            Some((max_txs as u64, "transactions"))
        } else if size_bytes > max_bytes {
            Some((max_bytes as u64, "bytes"))
        } else {
            None
        }
    }

    /// What goes first. What cannot run gives way to what can; apart from that only a higher price
    /// pushes out, and nothing that could run gives way to what cannot. The newcomer's own sender
    /// is left alone: the newcomer may build on what would go.
    fn victim(&self, newcomer: &Newcomer<'_>) -> Option<Place> {
        let sender = newcomer.tx.sender();
        let can_run = newcomer.executable && newcomer.price >= 0;
        let queued = self.queued_tails.worst(sender);
        let mut victim = queued.filter(|(price, _)| can_run || *price < newcomer.price);
        if victim.is_none() && newcomer.executable {
            let pending = self.pending_tails.worst(sender);
            victim = pending.filter(|(price, _)| *price < newcomer.price);
        }
        let (_, address) = victim?;
        let (tail, _) = self.senders.get(&address)?.placed.tail?;
        Some((address, tail.nonce))
    }
}

fn check_replacement(old: &Tx, mark: Mark, new: &Tx, percent: u32) -> Result<(), Refused> {
    if mark != Mark::Free {
        return Err(Refused::UnderWay);
    }
    let raised = |fee: u128| {
        let rise = fee.saturating_mul(u128::from(percent)).div_ceil(100);
        fee.saturating_add(rise)
    };
    for (old, found) in
        [(old.max_fee_per_gas(), new.max_fee_per_gas()), (old.priority_fee(), new.priority_fee())]
    {
        let needed = raised(old);
        if found < needed {
            return Err(Refused::ReplacementUnderpriced { found, needed });
        }
    }
    Ok(())
}

/// The sender's last transaction, if it cannot run and comes after `nonce`: a sender with many
/// far-ahead transactions can still fill the gap before them.
fn own_queued_tail(sender: &Sender, nonce: u64) -> Option<u64> {
    let (tail, runnable) = sender.placed.tail?;
    (!runnable && tail.nonce > nonce).then_some(tail.nonce)
}
