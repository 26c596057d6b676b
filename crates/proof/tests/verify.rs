//! Proofs from a naive tree, by the definition, and everything that is done to them.

use std::collections::BTreeMap;

use atoll_proof::{
    EMPTY, End, Hash, Invalid, Key, MAX_DEPTH, Proof, Value, bit, inner, leaf, verify,
};
use proptest::prelude::*;

/// Hashes of a key and its value; of a subtree in the order of the key hashes.
type Leaf = (Hash, Hash);
type Leaves = Vec<Leaf>;

fn hash_of(leaves: &[Leaf], depth: usize) -> Hash {
    match leaves {
        [] => EMPTY,
        [(key, value)] => leaf(key, value),
        _ => {
            let (left, right) = split(leaves, depth);
            inner(&hash_of(left, depth + 1), &hash_of(right, depth + 1))
        }
    }
}

fn split(leaves: &[Leaf], depth: usize) -> (&[Leaf], &[Leaf]) {
    leaves.split_at(leaves.partition_point(|(key, _)| !bit(key, depth)))
}

fn prove(mut leaves: &[Leaf], key: &Key) -> Proof {
    let key = key.hash();
    let mut siblings = Vec::new();
    while leaves.len() > 1 {
        let depth = siblings.len();
        let (left, right) = split(leaves, depth);
        let (on, beside) = if bit(&key, depth) { (right, left) } else { (left, right) };
        siblings.push(hash_of(beside, depth + 1));
        leaves = on;
    }
    let end = match leaves {
        [(other, _)] if *other == key => End::Own,
        [(other, value)] => End::Other { key_hash: *other, value_hash: *value },
        _ => End::Empty,
    };
    Proof { end, siblings }
}

fn leaves_of(state: &BTreeMap<Key, Value>) -> Leaves {
    let kept = state.iter().filter(|(key, value)| **value != key.default_value());
    let mut leaves: Leaves = kept.map(|(key, value)| (key.hash(), value.hash())).collect();
    leaves.sort_unstable();
    leaves
}

/// Few different keys, so that they meet; defaults among the values.
fn key() -> impl Strategy<Value = Key> {
    (0..3_u8, 0..20_u8, 0..2_u32, 0..3_u8).prop_map(|(kind, address, incarnation, slot)| {
        let address = [address; 20];
        match kind {
            0 => Key::Basic(address),
            1 => Key::Code(address),
            _ => Key::Slot { address, incarnation, slot: [slot; 32] },
        }
    })
}

fn value_for(key: &Key, number: u8) -> Value {
    match key {
        Key::Basic(_) => Value::Basic { nonce: u64::from(number / 2), balance: [number; 32] },
        Key::Code(_) if number == 0 => key.default_value(),
        Key::Code(_) => Value::Code { hash: [number; 32], incarnation: 1 },
        Key::Slot { .. } => Value::Slot([number; 32]),
    }
}

fn state() -> impl Strategy<Value = BTreeMap<Key, Value>> {
    prop::collection::vec((key(), 0..4_u8), 0..60).prop_map(|entries| {
        entries.into_iter().map(|(key, number)| (key, value_for(&key, number))).collect()
    })
}

proptest! {
    #[test]
    fn what_is_there_is_proved_and_nothing_else(state in state(), asked in key()) {
        let leaves = leaves_of(&state);
        let root = hash_of(&leaves, 0);
        let proof = prove(&leaves, &asked);
        let held = state.get(&asked).copied().unwrap_or(asked.default_value());
        prop_assert_eq!(verify(&root, &asked, Some(&held), &proof), Ok(()));
        let absent = held == asked.default_value();
        prop_assert_eq!(verify(&root, &asked, None, &proof).is_ok(), absent);
        for number in 0..5 {
            let other = value_for(&asked, number);
            prop_assert_eq!(verify(&root, &asked, Some(&other), &proof).is_ok(), other == held);
        }
        prop_assert_eq!(Proof::decode(&proof.encode()), Ok(proof));
    }

    #[test]
    fn a_changed_proof_is_refused(
        state in state(), asked in key(), at in any::<prop::sample::Index>(), flip in 0..8_u8,
    ) {
        let leaves = leaves_of(&state);
        let root = hash_of(&leaves, 0);
        let held = state.get(&asked).copied().unwrap_or(asked.default_value());
        let proof = prove(&leaves, &asked);
        let bytes = proof.encode();
        let mut changed = vec![bytes.clone(); 4];
        changed[0][at.index(bytes.len())] ^= 1 << flip;
        changed[1].truncate(at.index(bytes.len()));
        changed[2].extend([0; 32]);
        let first = bytes.len() - 32 * proof.siblings.len();
        changed[3].splice(first..first, [0; 32]);
        for bytes in changed {
            if let Ok(changed) = Proof::decode(&bytes) {
                let verdict = verify(&root, &asked, Some(&held), &changed);
                prop_assert!(verdict.is_err(), "{changed:?} for {proof:?}");
            }
        }
        // For another key, or under another root.
        for other in state.keys().filter(|other| **other != asked) {
            let theirs = prove(&leaves, other);
            if theirs != proof {
                prop_assert!(verify(&root, &asked, Some(&held), &theirs).is_err());
            }
        }
        let mut elsewhere = root;
        elsewhere[at.index(32)] ^= 1 << flip;
        prop_assert_eq!(verify(&elsewhere, &asked, Some(&held), &proof), Err(Invalid::Root));
    }

    #[test]
    fn no_input_makes_it_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..10_000), root in any::<Hash>(),
        asked in key(), number in any::<u8>(),
    ) {
        if let Ok(proof) = Proof::decode(&bytes) {
            prop_assert_eq!(proof.encode(), bytes);
            prop_assert!(verify(&root, &asked, None, &proof).is_err());
            prop_assert!(verify(&root, &asked, Some(&value_for(&asked, number)), &proof).is_err());
            prop_assert!(verify(&EMPTY, &asked, None, &proof).is_err());
        }
    }
}

#[test]
fn a_proof_of_any_length_is_refused_or_verified() {
    let key = Key::Basic([1; 20]);
    let empty = |depth: usize| Proof { end: End::Empty, siblings: vec![EMPTY; depth] };
    assert_eq!(verify(&EMPTY, &key, None, &empty(0)), Ok(()));
    assert_eq!(verify(&EMPTY, &key, None, &empty(1)), Err(Invalid::Root));
    assert_eq!(verify(&EMPTY, &key, None, &empty(MAX_DEPTH)), Err(Invalid::Root));
    assert_eq!(verify(&EMPTY, &key, None, &empty(MAX_DEPTH + 1)), Err(Invalid::TooDeep));
    let other = End::Other { key_hash: key.hash(), value_hash: [2; 32] };
    let own = Proof { end: other, siblings: vec![] };
    assert_eq!(verify(&EMPTY, &key, None, &own), Err(Invalid::OtherPath));
    assert_eq!(verify(&EMPTY, &key, Some(&Value::Slot([1; 32])), &own), Err(Invalid::Kind));
}
