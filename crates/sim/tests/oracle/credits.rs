//! Credits on the one machine: when they reach their accounts, and what becomes of payments.

use atoll_types::{Address, BeaconBlock, Credit, CreditKind, StateKey, U256};

use crate::order::{Found, Order, is_fenced};

/// A credit at its receiver.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Arrival {
    Sent(Credit),
    /// The fees of the coinbase's own shard.
    OwnFees(U256),
}

impl Arrival {
    /// The account that it changes, and what must not change meanwhile.
    pub(crate) fn keys(&self, coinbase: Address) -> (StateKey, StateKey) {
        let account = match self {
            Self::Sent(credit) => credit.account,
            Self::OwnFees(_) => coinbase,
        };
        (StateKey::Basic(account), StateKey::Code(account))
    }

    pub(crate) fn is_payment(&self) -> bool {
        matches!(self, Self::Sent(Credit { kind: CreditKind::Payment { .. }, .. }))
    }
}

/// A payment between shards that has left its payer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Payment {
    OnItsWay,
    Arrived,
    /// The account has code: the value goes back.
    Refused,
    Returned,
}

impl Order<'_> {
    pub(crate) fn deposit_due(&mut self, at: usize, block: &BeaconBlock) -> Found {
        let shard = &mut self.shards[at];
        let mut due = std::mem::take(&mut shard.undelivered);
        let old = due.len();
        for credits in block.credits.iter().filter(|credits| credits.to == shard.id) {
            let held = shard.held.entry(credits.from).or_default();
            while let Some(credit) = held.pop_front_if(|held| held.seq <= credits.up_to) {
                due.push(Arrival::Sent(credit));
            }
        }
        let (id, txs) = (shard.id, std::mem::take(&mut shard.fees));
        if !txs.is_empty() {
            let mut sum = std::mem::take(&mut shard.gathered);
            for tx in &txs {
                let tip = self.machine.tips.get(tx);
                sum += *tip.ok_or_else(|| format!("fee of {tx} left before it ran"))?;
            }
            if self.world.config().placement.owner(&block.env.coinbase) == id {
                due.extend((!sum.is_zero()).then_some(Arrival::OwnFees(sum)));
            } else if !sum.is_zero() {
                self.fees.entry(id).or_default().push(Some(sum));
            }
        }
        for (arrival, index) in due.into_iter().zip(0..) {
            let (basic, code) = arrival.keys(self.machine.coinbase);
            let shard = &mut self.shards[at];
            let cut = block.number();
            let fenced = |key| shard.open.values().any(|keys| is_fenced(keys, key, cut));
            let code_may_change = arrival.is_payment() && fenced(&code);
            let goes_back = arrival.is_payment() && self.machine.has_code(&basic.address());
            if code_may_change || (!goes_back && fenced(&basic)) {
                self.counts.add("credits kept back", usize::from(index >= old));
                shard.undelivered.push(arrival);
            } else {
                self.arrive(&arrival)?;
            }
        }
        Ok(())
    }

    pub(crate) fn arrive(&mut self, arrival: &Arrival) -> Found {
        match arrival {
            Arrival::Sent(credit) => self.deposit(credit),
            Arrival::OwnFees(sum) => {
                self.machine.give(self.machine.coinbase, *sum);
                Ok(())
            }
        }
    }

    fn deposit(&mut self, credit: &Credit) -> Found {
        let tx = match credit.kind {
            CreditKind::Fees => {
                let sent = self.world.shards()[usize::from(credit.from.0)].sent();
                let is_earlier = |other: &&Credit| {
                    other.kind == CreditKind::Fees
                        && other.to == credit.to
                        && other.seq < credit.seq
                };
                let place = sent.values().filter(is_earlier).count();
                let fees = self.fees.entry(credit.from).or_default();
                let sum = fees.get_mut(place).and_then(Option::take);
                if sum != Some(credit.amount) || credit.account != self.machine.coinbase {
                    return Err(format!("fees {credit:?}, one machine: {sum:?}"));
                }
                self.machine.give(credit.account, credit.amount);
                return Ok(());
            }
            CreditKind::Payment { tx } | CreditKind::Returned { tx } => tx,
        };
        let payment = self.txs.get(&tx).zip(self.payments.get(&tx).copied());
        let Some((body, stage)) = payment else {
            return Err(format!("{credit:?} arrived and was not debited"));
        };
        let returns = matches!(credit.kind, CreditKind::Returned { .. });
        let said = (credit.account, credit.payer, credit.amount);
        let (to, from) = (body.to().unwrap_or_default(), body.sender());
        let expected = (if returns { from } else { to }, from, body.value());
        let ready = if returns { Payment::Refused } else { Payment::OnItsWay };
        if said != expected || stage != ready {
            return Err(format!("{credit:?} arrived for {expected:?}, which is {stage:?}"));
        }
        let next = if returns {
            self.counts.add("payments sent back", 1);
            Payment::Returned
        } else if self.machine.has_code(&to) {
            Payment::Refused
        } else {
            Payment::Arrived
        };
        self.payments.insert(tx, next);
        if next != Payment::Refused {
            self.machine.give(expected.0, credit.amount);
        }
        Ok(())
    }

    pub(crate) fn credits_have_ended(&self) -> Found {
        for (tx, payment) in &self.payments {
            let told = self.receipts.get(tx).is_some_and(|receipt| receipt.executed.status);
            let ended = matches!(payment, Payment::Arrived | Payment::Returned);
            if !ended || told != (*payment == Payment::Arrived) {
                return Err(format!("payment {tx} is {payment:?}, its receipt says {told}"));
            }
        }
        if let Some(sum) = self.fees.values().flatten().flatten().next() {
            return Err(format!("fees of {sum} wei never arrived"));
        }
        Ok(())
    }
}
