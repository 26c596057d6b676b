//! Credits: value on its way between shards, exactly once by (source, receiver, sequence).

use std::collections::BTreeMap;

use atoll_types::{
    Credit, CreditKind, Receipt, Refusal, Settlement, ShardId, StateKey, StateValue, U256,
};

use crate::planted::Planted;

use super::{Checked, CutEffects, EpochWrite, Incoming, Owner, Sent, cut::Cells};

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

    /// The first round with a payment to another shard that has not ended.
    pub fn oldest_payment(&self) -> Option<u64> {
        let round = |sent: &Sent| sent.receipt.as_ref().map(|receipt| receipt.round);
        self.outgoing.values().filter_map(|outgoing| outgoing.open.iter().find_map(round)).min()
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

    /// Credits that are due and not in their accounts: those that wait for the end of a fence, and
    /// those that travel with a lease.
    pub(super) fn due_and_waiting(&self) -> impl Iterator<Item = &Credit> {
        let travelling = self.groups.values().flat_map(|group| &group.lease.credits);
        self.undelivered.values().flatten().chain(travelling)
    }

    /// What this shard can tell each other one about the credits that it sent here.
    pub fn settlements(&self) -> Vec<Settlement> {
        let mut oldest: BTreeMap<ShardId, u64> = BTreeMap::new();
        for credit in self.due_and_waiting() {
            let seq = oldest.entry(credit.from).or_insert(credit.seq);
            *seq = credit.seq.min(*seq);
        }
        let settle = |(from, incoming): (&ShardId, &Incoming)| {
            let up_to = oldest.get(from).map_or(incoming.due, |seq| incoming.due.min(seq - 1));
            let returned_up_to = self.outgoing.get(from).map_or(0, |outgoing| outgoing.newest);
            let by = self.config.shard;
            Settlement { by, from: *from, up_to, returned_up_to, cut: self.cut }
        };
        let others = self.incoming.iter().filter(|(from, _)| **from != self.config.shard);
        others.map(settle).filter(|settlement| settlement.up_to > 0).collect()
    }

    /// Deposits every credit that is due and whose account is not fenced, at cut `cut`.
    pub(super) fn deposit_due(
        &mut self,
        due: Vec<Credit>,
        cut: u64,
        cells: &mut Cells<'_>,
        effects: &mut CutEffects,
    ) {
        let waiting = std::mem::take(&mut self.undelivered);
        for credit in waiting.into_values().flatten().chain(due) {
            let [basic, code] = [StateKey::Basic(credit.account), StateKey::Code(credit.account)];
            let payment = matches!(credit.kind, CreditKind::Payment { .. });
            let code_may_change = payment && self.fences.contains(&code);
            effects.deposits.extend([basic, code]);
            if payment && !code_may_change && has_code(&cells.read(&code)) {
                self.send_back(&credit);
            } else if code_may_change || self.fences.contains(&basic) {
                self.undelivered.entry(credit.account).or_default().push(credit);
            } else {
                deposit(&basic, credit.amount, cut, cells);
                if self.bug.is(Planted::DepositTwice) {
                    deposit(&basic, credit.amount, cut, cells);
                }
            }
        }
    }

    /// Credits that can travel with a lease: its group writes their account, whose balance is in
    /// flight, and nothing else may change whether the account has code.
    pub(super) fn travelling(&mut self, in_flight: &[StateKey]) -> Vec<Credit> {
        let mut credits = Vec::new();
        for key in in_flight {
            let StateKey::Basic(account) = key else { continue };
            let code_may_change = self.fences.contains(&StateKey::Code(*account));
            let Some(waiting) = self.undelivered.get_mut(account) else { continue };
            let travels = |credit: &mut Credit| {
                !code_may_change || !matches!(credit.kind, CreditKind::Payment { .. })
            };
            credits.extend(waiting.extract_if(.., travels));
            if waiting.is_empty() {
                self.undelivered.remove(account);
            }
        }
        credits
    }

    /// Credits whose group was aborted wait as before.
    pub(super) fn wait_again(&mut self, credits: Vec<Credit>) {
        for credit in credits.into_iter().filter(|_| !self.bug.is(Planted::LoseTravelling)) {
            self.undelivered.entry(credit.account).or_default().push(credit);
        }
    }

    /// The receiver has code: running it is not what a payment does, so the value goes back.
    fn send_back(&mut self, credit: &Credit) {
        let CreditKind::Payment { tx } = credit.kind else {
            return;
        };
        if self.bug.is(Planted::LoseReturned) {
            return;
        }
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

fn has_code(value: &StateValue) -> bool {
    value.code().hash != atoll_types::KECCAK_EMPTY
}

fn deposit(key: &StateKey, amount: U256, cut: u64, cells: &mut Cells<'_>) {
    let mut basic = cells.read(key).basic();
    // No wei is created, so balances cannot exceed the genesis supply and the sum cannot overflow;
    // saturating keeps a broken genesis from taking the shard down.
    basic.balance = basic.balance.saturating_add(amount);
    let epoch = cut.saturating_sub(1);
    cells.write(EpochWrite { key: *key, value: StateValue::Basic(basic), epoch });
}
