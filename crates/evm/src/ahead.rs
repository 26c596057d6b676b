//! What a sender's transactions that are under way are predicted to do: the ground on which its later
//! ones are predicted.
//!
//! A prediction only says which keys a transaction is likely to use, so all of this may be old, wrong
//! or lost: then an attempt ends without effect, or a transaction waits until those before it have
//! ended.

use std::collections::{BTreeMap, HashMap};

use alloy_primitives::Bytes;
use atoll_types::{Address, B256, Basic, StateKey, StateValue, Tx, Write};

use crate::{Effects, Overlay, StateView};

/// Cuts for which a prediction counts though nobody has said that its transaction is shared.
const UNSHARED_CUTS: u64 = 16;

/// One transaction's prediction.
#[derive(Clone, Debug)]
struct Predicted {
    tx: B256,
    /// It is a payment that a local block is going to debit.
    credit: bool,
    writes: Vec<Write>,
    codes: Vec<Bytes>,
    /// Held by its shard's state: it takes effect, unless it is dropped.
    shared: bool,
    /// The cut after which it was made.
    cut: u64,
}

impl Predicted {
    fn size(&self) -> usize {
        let codes = self.codes.iter().map(|code| code.len());
        1 + self.writes.len() + codes.sum::<usize>() / 64
    }
}

/// Predictions of transactions under way, by sender and nonce.
#[derive(Debug)]
pub struct Ahead {
    senders: HashMap<Address, BTreeMap<u64, Predicted>>,
    /// Of all predictions, in writes.
    size: usize,
    max_size: usize,
}

impl Ahead {
    /// Keeps so many writes at the most. Code counts as a write for each 64 bytes.
    pub fn new(max_size: usize) -> Self {
        Self { senders: HashMap::new(), size: 0, max_size }
    }

    /// Remembers a prediction, if there is room. `credit`: as the payer's side of a payment.
    pub fn note(&mut self, tx: &Tx, credit: bool, effects: &Effects, cut: u64) {
        let (sender, nonce) = (tx.sender(), tx.nonce());
        let old = self.take(&sender, nonce);
        let shared = old.is_some_and(|old| old.shared && old.tx == *tx.hash());
        let Effects { writes, codes, .. } = effects;
        let (writes, codes) = (writes.clone(), codes.clone());
        let new = Predicted { tx: *tx.hash(), credit, writes, codes, shared, cut };
        if self.size + new.size() <= self.max_size {
            self.size += new.size();
            self.senders.entry(sender).or_default().insert(nonce, new);
        }
    }

    /// A transaction is shared.
    pub fn share(&mut self, sender: &Address, nonce: u64, tx: &B256) {
        let of_sender = self.senders.get_mut(sender);
        let predicted = of_sender.and_then(|nonces| nonces.get_mut(&nonce));
        if let Some(predicted) = predicted.filter(|predicted| predicted.tx == *tx) {
            predicted.shared = true;
        }
    }

    /// A shared transaction has ended.
    pub fn end(&mut self, sender: &Address, nonce: u64, tx: &B256) {
        let of_sender = self.senders.get(sender);
        if of_sender.and_then(|nonces| nonces.get(&nonce)).is_some_and(|p| p.tx == *tx) {
            self.take(sender, nonce);
        }
    }

    /// It is not known any more what is shared.
    pub fn start_over(&mut self) {
        for predicted in self.senders.values_mut().flat_map(BTreeMap::values_mut) {
            predicted.shared = false;
        }
    }

    /// Forgets what was predicted a while before `cut` and never shared. Looks at everything once in
    /// [`UNSHARED_CUTS`] cuts.
    pub fn pass(&mut self, cut: u64) {
        if !cut.is_multiple_of(UNSHARED_CUTS) {
            return;
        }
        self.senders.retain(|_, nonces| {
            nonces.retain(|_, predicted| {
                let keep = predicted.shared || predicted.cut + UNSHARED_CUTS > cut;
                self.size -= if keep { 0 } else { predicted.size() };
                keep
            });
            !nonces.is_empty()
        });
    }

    fn take(&mut self, sender: &Address, nonce: u64) -> Option<Predicted> {
        let nonces = self.senders.get_mut(sender)?;
        let predicted = nonces.remove(&nonce)?;
        if nonces.is_empty() {
            self.senders.remove(sender);
        }
        self.size -= predicted.size();
        Some(predicted)
    }

    fn get(&self, sender: &Address, nonce: u64, cut: u64) -> Option<&Predicted> {
        let predicted = self.senders.get(sender)?.get(&nonce)?;
        (predicted.shared || predicted.cut + UNSHARED_CUTS > cut).then_some(predicted)
    }
}

/// What a run at some place of a sender's transactions can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Footing {
    /// All of the sender's earlier transactions have ended.
    Real,
    /// They are predicted.
    Predicted,
    /// What some of them do is not known: only what the run lacks is of use.
    Guessed,
}

/// One sender's transactions in the order of their nonces, on top of a state.
#[derive(Debug)]
pub struct Chain<'v, V: StateView + ?Sized> {
    sender: Address,
    overlay: Overlay<'v, V>,
    next: u64,
    footing: Footing,
    /// Payments are on their way to a local block, and nothing else is under way.
    credits: bool,
    shared: bool,
}

impl<'v, V: StateView + ?Sized> Chain<'v, V> {
    /// Begins with a sender's account as it is in `base`.
    pub fn new(base: &'v V, sender: Address, account: Basic) -> Self {
        Self {
            sender,
            overlay: Overlay::new(base),
            next: account.nonce,
            footing: Footing::Real,
            credits: false,
            shared: false,
        }
    }

    /// Puts what is predicted of the sender's transactions before `nonce` on top. False if there is one
    /// of which nothing is.
    pub fn reach(&mut self, nonce: u64, ahead: &Ahead, cut: u64) -> bool {
        while self.next < nonce {
            let Some(predicted) = ahead.get(&self.sender, self.next, cut) else { return false };
            self.put(predicted.credit, &predicted.writes, &predicted.codes);
        }
        true
    }

    /// Adds the next transaction.
    pub fn add(&mut self, credit: bool, effects: &Effects) {
        self.put(credit, &effects.writes, &effects.codes);
    }

    fn put(&mut self, credit: bool, writes: &[Write], codes: &[Bytes]) {
        writes.iter().for_each(|(key, value)| self.overlay.set(*key, *value));
        for code in codes {
            self.overlay.insert_code(code.clone());
        }
        self.next += 1;
        self.credits |= credit;
        self.shared |= !credit;
        if self.footing == Footing::Real {
            self.footing = Footing::Predicted;
        }
    }

    /// Leaves the next transaction out: what it does is not known.
    pub fn skip(&mut self) {
        let key = StateKey::Basic(self.sender);
        self.next += 1;
        let mut account = self.overlay.read(&key).map(|value| value.basic()).unwrap_or_default();
        account.nonce = self.next;
        self.overlay.set(key, StateValue::Basic(account));
        self.footing = Footing::Guessed;
    }

    /// The nonce that comes next.
    pub fn next(&self) -> u64 {
        self.next
    }

    pub fn footing(&self) -> Footing {
        self.footing
    }

    /// Whether the next transaction may be a payment that a local block debits: nothing before it goes
    /// across shards in another way.
    pub fn takes_credit(&self) -> bool {
        !self.shared
    }

    /// Whether a local block has to debit something before the next transaction can be shared.
    pub fn awaits_debit(&self) -> bool {
        self.credits && !self.shared
    }

    /// The state that the next transaction finds.
    pub fn state(&self) -> &Overlay<'v, V> {
        &self.overlay
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{U256, hex};
    use atoll_types::Executed;

    use super::*;
    use crate::Empty;

    const WHO: Address = Address::repeat_byte(1);

    /// A legacy payment; the signature is not looked at.
    fn tx(nonce: u8) -> Tx {
        let mut raw = hex!(
            "f85f010a82520894000000000000000000000000000000000000000101801ba0\
             1111111111111111111111111111111111111111111111111111111111111111a0\
             1111111111111111111111111111111111111111111111111111111111111111"
        );
        raw[2] = nonce;
        Tx::trusted(Bytes::from(raw.to_vec()), WHO, None).expect("it is a well-formed transaction")
    }

    fn effects(nonce: u64) -> Effects {
        let account = Basic { nonce: nonce + 1, balance: U256::from(100 - nonce) };
        Effects {
            executed: Executed {
                status: true,
                gas_used: 21_000,
                effective_gas_price: 1,
                logs: Vec::new(),
                contract: None,
                output: Bytes::new(),
            },
            writes: vec![(StateKey::Basic(WHO), StateValue::Basic(account))],
            codes: Vec::new(),
            fee: U256::ZERO,
            burned: U256::ZERO,
        }
    }

    fn reaches(ahead: &Ahead, nonce: u64, cut: u64) -> bool {
        let account = Basic { nonce: 1, balance: U256::from(100) };
        Chain::new(&Empty, WHO, account).reach(nonce, ahead, cut)
    }

    #[test]
    fn later_ones_stand_on_those_before_them() {
        let mut ahead = Ahead::new(10);
        (1..=3).for_each(|n| ahead.note(&tx(n), false, &effects(n.into()), 5));
        let mut chain = Chain::new(&Empty, WHO, Basic { nonce: 1, ..Basic::default() });
        assert_eq!(chain.footing(), Footing::Real);
        assert!(chain.reach(4, &ahead, 5) && !chain.reach(5, &ahead, 5));
        let account = chain.state().read(&StateKey::Basic(WHO)).expect("it is there").basic();
        assert_eq!((account.nonce, account.balance), (4, U256::from(97)));
        assert_eq!((chain.footing(), chain.takes_credit()), (Footing::Predicted, false));
        chain.skip();
        let account = chain.state().read(&StateKey::Basic(WHO)).expect("it is there").basic();
        assert_eq!((account.nonce, account.balance), (5, U256::from(97)));
        assert_eq!(chain.footing(), Footing::Guessed);
    }

    #[test]
    fn what_is_shared_counts_until_it_ends_and_the_rest_for_a_while() {
        let mut ahead = Ahead::new(10);
        (1..=2).for_each(|n| ahead.note(&tx(n), false, &effects(n.into()), 5));
        ahead.share(&WHO, 1, tx(1).hash());
        ahead.share(&WHO, 2, tx(1).hash());
        assert!(reaches(&ahead, 3, 5 + UNSHARED_CUTS - 1));
        assert!(reaches(&ahead, 2, 999) && !reaches(&ahead, 3, 5 + UNSHARED_CUTS));
        ahead.pass(20 * UNSHARED_CUTS);
        assert_eq!((ahead.size, ahead.senders.len()), (2, 1));
        // Predicted again, it is shared as before.
        ahead.note(&tx(1), false, &effects(1), 999);
        assert!(reaches(&ahead, 2, 9_999));
        ahead.end(&WHO, 1, tx(2).hash());
        assert!(reaches(&ahead, 2, 9_999));
        ahead.end(&WHO, 1, tx(1).hash());
        assert!(!reaches(&ahead, 2, 0));
        assert_eq!((ahead.size, ahead.senders.len()), (0, 0));
    }

    #[test]
    fn it_is_bounded_and_can_start_over() {
        let mut ahead = Ahead::new(5);
        (1..=3).for_each(|n| ahead.note(&tx(n), n == 1, &effects(n.into()), 0));
        assert!(reaches(&ahead, 3, 0) && !reaches(&ahead, 4, 0));
        (1..=2).for_each(|n| ahead.share(&WHO, n.into(), tx(n).hash()));
        ahead.start_over();
        ahead.pass(10 * UNSHARED_CUTS);
        assert_eq!((ahead.size, ahead.senders.len()), (0, 0));
    }

    #[test]
    fn payments_go_before_what_is_shared() {
        let mut chain = Chain::new(&Empty, WHO, Basic { nonce: 1, ..Basic::default() });
        assert!(chain.takes_credit() && !chain.awaits_debit());
        chain.add(true, &effects(1));
        assert!(chain.takes_credit() && chain.awaits_debit());
        chain.add(false, &effects(2));
        assert!(!chain.takes_credit() && !chain.awaits_debit());
    }
}
