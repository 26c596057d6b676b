//! In which order the intents of one sender go to the beacon.

use std::collections::BTreeMap;

use atoll_types::{Address, B256, Intent, SharedTx, TxRef};

/// A transaction under way that the beacon does not know of.
#[derive(Debug)]
struct Turn {
    tx: TxRef,
    /// Set once every owner holds it.
    intent: Option<Intent>,
}

/// Own transactions that are shared, or came back, and are not announced. Each waits for the sender's
/// earlier ones: planned before them it would only come back, again and again for as long as an owner
/// of an earlier one cannot be reached.
///
/// Nothing here is durable: what it forgets is announced out of turn, which costs an attempt.
#[derive(Debug, Default)]
pub struct Turns(BTreeMap<Address, BTreeMap<(u64, B256), Turn>>);

impl Turns {
    /// A transaction has to be announced: the own state holds it, or it came back.
    pub fn wait(&mut self, shared: &SharedTx) {
        let of_sender = self.0.entry(shared.tx.sender()).or_default();
        let turn = Turn { tx: shared.reference(), intent: None };
        of_sender.insert((shared.tx.nonce(), *shared.tx.hash()), turn);
    }

    /// Every owner holds a transaction. Returns what can be announced now, in the sender's order.
    pub fn held(&mut self, sender: &Address, intent: Intent) -> Vec<Intent> {
        let of_sender = self.0.get_mut(sender);
        let turn = of_sender.and_then(|turns| turns.get_mut(&(intent.nonce, intent.tx.hash)));
        let Some(turn) = turn.filter(|turn| turn.tx == intent.tx) else { return vec![intent] };
        turn.intent = Some(intent);
        self.next(sender)
    }

    /// A transaction has ended. Returns what can be announced without it.
    pub fn leave(&mut self, sender: &Address, nonce: u64, tx: &B256) -> Vec<Intent> {
        if let Some(turns) = self.0.get_mut(sender) {
            turns.remove(&(nonce, *tx));
        }
        self.next(sender)
    }

    /// Those that wait for something: who to ask about.
    pub fn waiting(&self) -> impl Iterator<Item = (Address, u64, B256)> {
        let places = |(sender, turns): (&Address, &BTreeMap<(u64, B256), Turn>)| {
            let sender = *sender;
            turns.keys().map(move |(nonce, tx)| (sender, *nonce, *tx)).collect::<Vec<_>>()
        };
        self.0.iter().flat_map(places)
    }

    fn next(&mut self, sender: &Address) -> Vec<Intent> {
        let mut ready = Vec::new();
        let Some(turns) = self.0.get_mut(sender) else { return ready };
        while let Some(first) = turns.first_entry()
            && first.get().intent.is_some()
        {
            ready.extend(first.remove().intent);
        }
        if turns.is_empty() {
            self.0.remove(sender);
        }
        ready
    }
}

#[cfg(test)]
mod tests {
    use atoll_types::{Bytes, KeySet, Placement, ShardId, StateKey, Tx};

    use super::*;

    const WHO: Address = Address::repeat_byte(1);

    /// A legacy payment of nobody; the signature is not looked at.
    fn shared(nonce: u8, attempt: u32) -> SharedTx {
        let mut raw = alloy_primitives::hex!(
            "f85f010a82520894000000000000000000000000000000000000000101801ba0\
             1111111111111111111111111111111111111111111111111111111111111111a0\
             1111111111111111111111111111111111111111111111111111111111111111"
        );
        raw[2] = nonce;
        let tx = Tx::trusted(Bytes::from(raw.to_vec()), WHO, None);
        SharedTx {
            tx: tx.expect("it is a well-formed transaction"),
            origin: ShardId(0),
            attempt,
            wrong: 0,
            absences: 0,
            silences: 0,
            keys: KeySet::new([], [StateKey::Basic(WHO)]),
            last_valid_round: 100,
        }
    }

    fn held(turns: &mut Turns, shared: &SharedTx) -> Vec<u64> {
        let intent = shared.intent(&Placement::new(1, BTreeMap::new()));
        turns.held(&WHO, intent).into_iter().map(|intent| intent.nonce).collect()
    }

    #[test]
    fn later_ones_wait_for_those_before_them() {
        let mut turns = Turns::default();
        let [first, second, third] = [1, 2, 3].map(|nonce| shared(nonce, 1));
        [&third, &first, &second].into_iter().for_each(|shared| turns.wait(shared));
        assert!(held(&mut turns, &third).is_empty());
        assert_eq!(held(&mut turns, &first), [1]);
        assert_eq!(held(&mut turns, &second), [2, 3]);
        // The first one comes back; an answer to its earlier attempt is of no use to it.
        let again = shared(1, 2);
        let fourth = shared(4, 1);
        turns.wait(&again);
        turns.wait(&fourth);
        assert!(held(&mut turns, &fourth).is_empty());
        assert_eq!(held(&mut turns, &first), [1]);
        assert_eq!(turns.waiting().count(), 2);
        assert_eq!(held(&mut turns, &again), [1, 4]);
        assert_eq!(turns.waiting().count(), 0);
        assert_eq!(held(&mut turns, &second), [2], "what was forgotten waits for nothing");
    }

    #[test]
    fn what_ends_lets_others_go() {
        let mut turns = Turns::default();
        let [first, second] = [1, 2].map(|nonce| shared(nonce, 1));
        [&first, &second].into_iter().for_each(|shared| turns.wait(shared));
        assert!(held(&mut turns, &second).is_empty());
        let gone: Vec<_> = turns.waiting().take(1).collect();
        assert_eq!(gone, [(WHO, 1, *first.tx.hash())]);
        let go = turns.leave(&WHO, 1, first.tx.hash());
        assert_eq!(go.iter().map(|intent| intent.nonce).collect::<Vec<_>>(), [2]);
        assert_eq!(turns.waiting().count(), 0);
    }
}
