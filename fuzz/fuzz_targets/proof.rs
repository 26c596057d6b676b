//! Proofs that were changed, and bytes that pass for one: nothing but what the tree holds is proven.
//! The first byte chooses a key, the second a value, the third whether a true proof is edited.
#![no_main]

mod edits;

use std::sync::LazyLock;

use atoll_proof::{Hash, Key, Proof, Value, verify};
use atoll_tree::{Change, Config, MemoryScratch, Tree};
use libfuzzer_sys::fuzz_target;

const KEYS: u8 = 16;

struct Whole {
    root: Hash,
    proofs: Vec<Vec<u8>>,
}

fn key(number: u8) -> Key {
    Key::Basic([number; 20])
}

fn value(number: u8) -> Value {
    let mut balance = [0; 32];
    balance[31] = number;
    Value::Basic { nonce: u64::from(number) + 1, balance }
}

/// What a key holds: every second one nothing.
fn held(number: u8) -> Option<Value> {
    number.is_multiple_of(2).then(|| value(number))
}

static WHOLE: LazyLock<Whole> = LazyLock::new(|| {
    let scratch = Box::new(MemoryScratch::default());
    let mut tree = Tree::new(Config::with_leaf_bytes(1 << 20), scratch).expect("a tree");
    let change =
        |number| Change { key: key(number).hash(), value: held(number).map(|value| value.hash()) };
    let root = tree.update((0..KEYS).map(change).collect()).expect("memory");
    let mut proof = |number| tree.prove(&key(number).hash()).expect("memory").encode();
    Whole { root, proofs: (0..KEYS).map(&mut proof).collect() }
});

fuzz_target!(|input: &[u8]| {
    let Some(([which, claimed, edited], rest)) = input.split_first_chunk() else { return };
    let which = which % KEYS;
    let bytes = match edited % 2 {
        0 => edits::edit(&WHOLE.proofs[usize::from(which)], rest),
        _ => rest.to_vec(),
    };
    let Ok(proof) = Proof::decode(&bytes) else { return };
    assert_eq!(proof.encode(), bytes, "one encoding");
    let claimed = (claimed % 4 != 0).then(|| value(*claimed));
    if verify(&WHOLE.root, &key(which), claimed.as_ref(), &proof).is_ok() {
        assert_eq!(claimed.map(|value| value.hash()), held(which).map(|value| value.hash()));
    }
});
