//! Credits: value on its way between shards, exactly once by (source, receiver, sequence).

use atoll_types::{
    Credit, CreditKind, Receipt, Refusal, Settlement, ShardId, StateKey, StateValue, U256,
};

use super::{Checked, EpochWrite, Incoming, Owner, Sent, cut::Cells};

impl Owner {
    /// Gives a credit its number and keeps it until it is settled.
    pub(super) fn send(&mut self, mut credit: Credit, receipt: Option<Receipt>) {
        let outgoing = self.outgoing.entry(credit.to).or_default();
        outgoing.newest += 1;
        credit.seq = outgoing.newest;
        credit.from = self.config.shard;
        if let CreditKind::Payment { tx } = credit.kind {
            self.paying.insert(tx, (credit.to, credit.seq));
        }
        outgoing.open.push_back(Sent { credit, receipt, returned: false });
    }

    /// Checks credits from another shard, without changing anything.
    pub fn check_credits(&self, from: ShardId, credits: &[Credit]) -> Checked {
        let here = self.config.shard;
        let mut newest = self.incoming.get(&from).map_or(0, |incoming| incoming.received);
        for credit in credits {
            let owner = self.config.placement.owner(&credit.account);
            if credit.to != here || owner != here {
                return Err(Refusal::NotOwner { owner, here });
            }
            if credit.from != from {
                return Err(Refusal::Malformed {
                    what: format!("credit of shard {}", credit.from),
                });
            }
            if credit.seq > newest + 1 {
                return Err(Refusal::CreditGap { from, found: credit.seq, newest });
            }
            newest = newest.max(credit.seq);
        }
        Ok(())
    }

    /// Up to which number credits of a shard are held.
    pub fn received(&self, from: ShardId) -> u64 {
        self.incoming.get(&from).map_or(0, |incoming| incoming.received)
    }

    /// Keeps credits that were checked; repeated ones change nothing. Returns the receipts of
    /// payments that ended with them.
    pub fn receive(&mut self, from: ShardId, credits: &[Credit]) -> Vec<(Receipt, u64)> {
        let incoming = self.incoming.entry(from).or_default();
        for credit in credits {
            if credit.seq != incoming.received + 1 {
                continue;
            }
            incoming.received = credit.seq;
            incoming.held.push_back(*credit);
            if let CreditKind::Returned { tx } = credit.kind
                && let Some((to, seq)) = self.paying.get(&tx)
                && *to == from
                && let Some(outgoing) = self.outgoing.get_mut(&from)
                && let Some(sent) = outgoing.find(*seq)
            {
                sent.returned = true;
            }
        }
        self.end_settled(from)
    }

    /// Notes what became of credits sent. Returns the receipts of payments that ended.
    pub fn settle(&mut self, settlement: Settlement) -> Vec<(Receipt, u64)> {
        let Some(outgoing) = self.outgoing.get_mut(&settlement.by) else {
            return Vec::new();
        };
        if outgoing.settlements.back().is_none_or(|held| held.up_to < settlement.up_to) {
            outgoing.settlements.truncate(1);
            outgoing.settlements.push_back(settlement);
        }
        self.end_settled(settlement.by)
    }

    /// Whether a settlement says something new.
    pub fn is_news(&self, settlement: &Settlement) -> bool {
        self.outgoing.get(&settlement.by).is_some_and(|outgoing| {
            outgoing.open.front().is_some_and(|sent| sent.credit.seq <= settlement.up_to)
                && outgoing.settlements.back().is_none_or(|held| held.up_to < settlement.up_to)
        })
    }

    fn end_settled(&mut self, by: ShardId) -> Vec<(Receipt, u64)> {
        let received = self.received(by);
        let Some(outgoing) = self.outgoing.get_mut(&by) else {
            return Vec::new();
        };
        let mut ended = Vec::new();
        let met = |settlement: &mut Settlement| settlement.returned_up_to <= received;
        while let Some(Settlement { up_to, cut, .. }) = outgoing.settlements.pop_front_if(met) {
            while let Some(sent) = outgoing.open.pop_front_if(|sent| sent.credit.seq <= up_to) {
                if let CreditKind::Payment { tx } = sent.credit.kind {
                    self.paying.remove(&tx);
                }
                if let Some(mut receipt) = sent.receipt {
                    receipt.executed.status = !sent.returned;
                    ended.push((receipt, cut));
                }
            }
        }
        ended
    }

    /// What this shard can tell each other one about the credits that it sent here.
    pub fn settlements(&self) -> Vec<Settlement> {
        let settle = |(from, incoming): (&ShardId, &Incoming)| {
            let waiting = self.undelivered.iter().filter(|credit| credit.from == *from);
            let up_to = waiting.map(|credit| credit.seq - 1).fold(incoming.due, u64::min);
            let returned_up_to = self.outgoing.get(from).map_or(0, |outgoing| outgoing.newest);
            let by = self.config.shard;
            Settlement { by, from: *from, up_to, returned_up_to, cut: self.cut }
        };
        let others = self.incoming.iter().filter(|(from, _)| **from != self.config.shard);
        others.map(settle).filter(|settlement| settlement.up_to > 0).collect()
    }

    /// Deposits every credit that is due and whose account is not fenced, at cut `cut`.
    pub(super) fn deposit_due(&mut self, due: Vec<Credit>, cut: u64, cells: &mut Cells<'_>) {
        let mut later = Vec::new();
        for credit in std::mem::take(&mut self.undelivered).into_iter().chain(due) {
            let keys = [StateKey::Basic(credit.account), StateKey::Code(credit.account)];
            if keys.iter().any(|key| self.fences.contains_key(key)) {
                later.push(credit);
                continue;
            }
            let payment = matches!(credit.kind, CreditKind::Payment { .. });
            if payment && cells.read(&keys[1]).code().hash != atoll_types::KECCAK_EMPTY {
                self.send_back(&credit);
            } else {
                deposit(&keys[0], credit.amount, cut, cells);
            }
        }
        self.undelivered = later;
    }

    /// The receiver has code: running it is not what a payment does, so the value goes back.
    fn send_back(&mut self, credit: &Credit) {
        let CreditKind::Payment { tx } = credit.kind else {
            return;
        };
        let back = Credit {
            to: credit.from,
            account: credit.payer,
            payer: credit.payer,
            kind: CreditKind::Returned { tx },
            ..*credit
        };
        self.send(back, None);
    }

    /// Sends the fees gathered since the last cut to the coinbase. Returns the credit if the
    /// coinbase is this shard's own.
    pub(super) fn pay_fees(&mut self) -> Option<Credit> {
        let amount = std::mem::take(&mut self.fees);
        if amount.is_zero() {
            return None;
        }
        let account = self.env.coinbase;
        let to = self.config.placement.owner(&account);
        let from = self.config.shard;
        let kind = CreditKind::Fees;
        let credit = Credit { from, to, seq: 1, account, payer: account, amount, kind };
        if to == from {
            return Some(credit);
        }
        self.send(credit, None);
        None
    }
}

fn deposit(key: &StateKey, amount: U256, cut: u64, cells: &mut Cells<'_>) {
    let mut basic = cells.read(key).basic();
    // No wei is created, so balances cannot exceed the genesis supply and the sum cannot overflow;
    // saturating keeps a broken genesis from taking the shard down.
    basic.balance = basic.balance.saturating_add(amount);
    let epoch = cut.saturating_sub(1);
    cells.write(EpochWrite { key: *key, value: StateValue::Basic(basic), epoch });
}
