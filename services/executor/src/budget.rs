//! What predictions cost their senders: gas that was run speculatively and not paid for.

use std::collections::HashMap;

use atoll_types::Address;

/// Gas that a transaction pays for gives back so many times as much: it was predicted a few times, and
/// ran once.
const PAID: u64 = 16;
/// The part of the limit that comes back with each cut.
const CUTS: u64 = 1_024;
/// Senders with debts that are remembered; with more, those with the smallest debts are forgotten.
const MAX_SENDERS: usize = 1 << 16;

#[derive(Clone, Copy, Debug)]
struct Debt {
    gas: u64,
    /// The cut as of which that was.
    cut: u64,
}

/// Speculative gas of each sender.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: u64,
    debts: HashMap<Address, Debt>,
}

impl Budget {
    pub fn new(limit: u64) -> Self {
        Self { limit, debts: HashMap::new() }
    }

    /// Whether a transaction of a sender may be predicted.
    ///
    /// # Errors
    /// Why not, for the sender.
    pub fn check(&self, sender: &Address, cut: u64) -> Result<(), String> {
        let (owed, limit, a_cut) = (self.owed(sender, cut), self.limit, self.a_cut());
        if owed < limit {
            return Ok(());
        }
        Err(format!(
            "speculative gas of the sender is used up: its transactions were run for {owed} gas to \
             predict what they use, and have not paid for it; limit {limit}. Send it again later: \
             {a_cut} gas come back with each round, and {PAID} times what its transactions pay for"
        ))
    }

    /// A prediction has run for so much gas.
    pub fn spend(&mut self, sender: Address, gas: u64, cut: u64) {
        if gas == 0 {
            return;
        }
        if self.debts.len() >= MAX_SENDERS && !self.debts.contains_key(&sender) {
            self.forget_half(cut);
        }
        let owed = self.owed(&sender, cut).saturating_add(gas);
        self.debts.insert(sender, Debt { gas: owed, cut });
    }

    /// A transaction of a sender was included.
    pub fn paid(&mut self, sender: &Address, gas: u64) {
        if let Some(debt) = self.debts.get_mut(sender) {
            debt.gas = debt.gas.saturating_sub(gas.saturating_mul(PAID));
            if debt.gas == 0 {
                self.debts.remove(sender);
            }
        }
    }

    /// Whether nobody owes anything.
    pub fn is_clear(&self) -> bool {
        self.debts.is_empty()
    }

    fn a_cut(&self) -> u64 {
        (self.limit / CUTS).max(1)
    }

    fn owed(&self, sender: &Address, cut: u64) -> u64 {
        let owed = |debt: &Debt| {
            let back = cut.saturating_sub(debt.cut).saturating_mul(self.a_cut());
            debt.gas.saturating_sub(back)
        };
        self.debts.get(sender).map_or(0, owed)
    }

    fn forget_half(&mut self, cut: u64) {
        let mut debts: Vec<(u64, Address)> =
            self.debts.keys().map(|sender| (self.owed(sender, cut), *sender)).collect();
        debts.sort_unstable();
        for (_, sender) in &debts[..debts.len().div_ceil(2)] {
            self.debts.remove(sender);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHO: Address = Address::repeat_byte(1);

    #[test]
    fn what_is_not_paid_for_adds_up_and_comes_back() {
        let mut budget = Budget::new(10_240);
        budget.spend(WHO, 10_239, 5);
        assert_eq!(budget.check(&WHO, 5), Ok(()));
        budget.spend(WHO, 1, 5);
        let refused = budget.check(&WHO, 5).expect_err("it is used up");
        assert!(refused.contains("limit 10240") && refused.contains("10240 gas"), "{refused}");
        assert_eq!(budget.check(&Address::ZERO, 5), Ok(()), "others have their own");
        // With a cut, and with what is paid.
        assert_eq!((budget.check(&WHO, 6), budget.owed(&WHO, 6)), (Ok(()), 10_230));
        budget.spend(WHO, 20_000, 6);
        budget.paid(&WHO, 1_000);
        assert_eq!(budget.owed(&WHO, 6), 30_230 - 16_000);
        assert_eq!(budget.owed(&WHO, 2_000), 0);
        budget.paid(&WHO, u64::MAX);
        assert!(budget.is_clear());
    }

    #[test]
    fn it_remembers_so_many_senders_and_no_more() {
        let mut budget = Budget::new(1_000);
        let sender = |n: usize| Address::left_padding_from(&n.to_be_bytes());
        budget.spend(WHO, 1_000, 1);
        (0..2 * MAX_SENDERS).for_each(|n| budget.spend(sender(n), 1, 1));
        assert!(budget.debts.len() <= MAX_SENDERS);
        assert!(budget.check(&WHO, 1).is_err(), "who owes most is not forgotten");
    }
}
