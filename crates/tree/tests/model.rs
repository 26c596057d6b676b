//! Against a sorted map hashed by definition: whatever is done to the tree, its root and its proofs are
//! those of the set of leaves that it holds.

use std::collections::BTreeMap;

use atoll_proof::{EMPTY, End, Hash, Key, Proof, Value, bit, inner, leaf, verify};
use atoll_tree::{Change, Config, MemoryScratch, PageError, Scratch, Tree};
use proptest::prelude::*;

type Model = BTreeMap<Key, Value>;

fn leaves_of(model: &Model) -> Vec<(Hash, Hash)> {
    let mut leaves: Vec<_> = model.iter().map(|(key, value)| (key.hash(), value.hash())).collect();
    leaves.sort_unstable();
    leaves
}

fn hash_of(leaves: &[(Hash, Hash)], depth: usize) -> Hash {
    match leaves {
        [] => EMPTY,
        [(key, value)] => leaf(key, value),
        _ => {
            let (left, right) =
                leaves.split_at(leaves.partition_point(|(key, _)| !bit(key, depth)));
            inner(&hash_of(left, depth + 1), &hash_of(right, depth + 1))
        }
    }
}

fn key(number: u16) -> Key {
    let mut address = [0; 20];
    address[..2].copy_from_slice(&(number / 3).to_be_bytes());
    match number % 3 {
        0 => Key::Basic(address),
        1 => Key::Code(address),
        _ => Key::Slot { address, incarnation: 1, slot: [7; 32] },
    }
}

fn value_of(key: &Key, number: u8) -> Value {
    match key {
        Key::Basic(_) => Value::Basic { nonce: number.into(), balance: [0; 32] },
        Key::Code(_) if number == 0 => key.default_value(),
        Key::Code(_) => Value::Code { hash: [number; 32], incarnation: 0 },
        Key::Slot { .. } => Value::Slot([number; 32]),
    }
}

/// A value of 0 is the default: the key goes.
type Batch = Vec<(u16, u8)>;

fn batches(keys: u16) -> impl Strategy<Value = Vec<Batch>> {
    prop::collection::vec(prop::collection::vec((0..keys, 0..4_u8), 0..120), 1..8)
}

fn apply(tree: &mut Tree, model: &mut Model, batch: &Batch) -> Result<Hash, PageError> {
    let mut changes = Vec::new();
    for (number, value) in batch {
        let key = key(*number);
        let value = value_of(&key, *value);
        let there = value != key.default_value();
        changes.push(Change { key: key.hash(), value: there.then(|| value.hash()) });
        if there {
            model.insert(key, value);
        } else {
            model.remove(&key);
        }
    }
    tree.update(changes)
}

fn every_proof_verifies(tree: &mut Tree, model: &Model, keys: u16) -> Result<(), TestCaseError> {
    let root = tree.root();
    for number in 0..keys + 20 {
        let key = key(number);
        let held = model.get(&key);
        let proof = tree.prove(&key.hash()).unwrap();
        prop_assert_eq!(verify(&root, &key, held, &proof), Ok(()));
        prop_assert_eq!(tree.get(&key.hash()).unwrap(), held.map(Value::hash));
        let other = value_of(&key, 9);
        prop_assert!(verify(&root, &key, Some(&other), &proof).is_err());
        prop_assert_eq!(verify(&root, &key, None, &proof).is_ok(), held.is_none());
    }
    Ok(())
}

proptest! {
    #[test]
    fn a_tree_is_its_leaves(
        batches in batches(300), page_leaves in 1..9_usize, resident_pages in 0..20_usize,
    ) {
        let config = Config { page_leaves, resident_pages };
        let mut tree = Tree::new(config, Box::<MemoryScratch>::default()).unwrap();
        let mut model = Model::new();
        for batch in &batches {
            let root = apply(&mut tree, &mut model, batch).unwrap();
            prop_assert_eq!(root, hash_of(&leaves_of(&model), 0));
            prop_assert_eq!(tree.len() as usize, model.len());
        }
        every_proof_verifies(&mut tree, &model, 300)?;
        // Everything goes again, and leaves no nodes behind.
        let all: Batch = (0..300).map(|number| (number, 0)).collect();
        prop_assert_eq!(apply(&mut tree, &mut model, &all).unwrap(), EMPTY);
        prop_assert!(tree.is_empty());
        let before = tree.memory().upper;
        for batch in &batches {
            apply(&mut tree, &mut model, batch).unwrap();
        }
        prop_assert_eq!(tree.memory().upper, before, "nodes and slots are used again");
    }

    #[test]
    fn how_pages_are_cut_makes_no_difference(batches in batches(1_000)) {
        let roots = [(2, 4), (3, 1_000), (32, 5), (1_000, 1_000)].map(|(page_leaves, resident_pages)| {
            let config = Config { page_leaves, resident_pages };
            let mut tree = Tree::new(config, Box::<MemoryScratch>::default()).unwrap();
            let mut model = Model::new();
            batches.iter().map(|batch| apply(&mut tree, &mut model, batch).unwrap()).collect::<Vec<_>>()
        });
        for other in &roots[1..] {
            prop_assert_eq!(other, &roots[0]);
        }
    }

    #[test]
    fn every_changed_proof_fails(
        batch in prop::collection::vec((0..300_u16, 0..4_u8), 0..200), asked in 0..320_u16,
        flip in 0..8_u8,
    ) {
        let config = Config { page_leaves: 4, resident_pages: 100 };
        let mut tree = Tree::new(config, Box::<MemoryScratch>::default()).unwrap();
        let mut model = Model::new();
        let root = apply(&mut tree, &mut model, &batch).unwrap();
        let key = key(asked);
        let held = model.get(&key);
        let proof = tree.prove(&key.hash()).unwrap();
        let bytes = proof.encode();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << flip;
            if let Ok(changed) = Proof::decode(&changed) {
                prop_assert!(verify(&root, &key, held, &changed).is_err(), "byte {at} of {proof:?}");
            }
        }
        for gone in 0..proof.siblings.len() {
            let mut changed = proof.clone();
            changed.siblings.remove(gone);
            prop_assert!(verify(&root, &key, held, &changed).is_err());
        }
        let empty = Proof { end: End::Empty, ..proof.clone() };
        prop_assert!(empty == proof || verify(&root, &key, None, &empty).is_err());
    }
}

/// Keys whose hashes share many bits: somebody has searched for them.
#[test]
fn leaves_that_share_a_long_prefix_stay_in_small_pages() {
    let config = Config { page_leaves: 2, resident_pages: 4 };
    let mut tree = Tree::new(config, Box::<MemoryScratch>::default()).unwrap();
    let leaves: Vec<(Hash, Hash)> = (0..9)
        .map(|number: u8| {
            let mut key = [0xaa; 32];
            key[31] ^= number;
            (key, [number; 32])
        })
        .collect();
    let changes = leaves.iter().map(|(key, value)| Change { key: *key, value: Some(*value) });
    let mut sorted = leaves.clone();
    sorted.sort_unstable();
    assert_eq!(tree.update(changes.collect()).unwrap(), hash_of(&sorted, 0));
    let changes = leaves.iter().map(|(key, _)| Change { key: *key, value: None });
    assert_eq!(tree.update(changes.collect()).unwrap(), EMPTY);
}

/// Gives back other bytes than were written, from some write on.
struct Bad(MemoryScratch, u32);

impl Scratch for Bad {
    fn read(&mut self, offset: u64, into: &mut [u8]) -> std::io::Result<()> {
        self.0.read(offset, into)
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        let mut bytes = bytes.to_vec();
        self.1 = self.1.saturating_sub(1);
        if let Some(last) = bytes.last_mut().filter(|_| self.1 == 0) {
            *last ^= 1;
        }
        self.0.write(offset, &bytes)
    }
}

#[test]
fn a_damaged_page_is_noticed_and_never_used() {
    let config = Config { page_leaves: 4, resident_pages: 4 };
    let mut tree = Tree::new(config, Box::new(Bad(MemoryScratch::default(), 40))).unwrap();
    let mut model = Model::new();
    let all: Batch = (0..300).map(|number| (number, 1)).collect();
    apply(&mut tree, &mut model, &all).unwrap();
    let damaged = (0..300).filter(|number| {
        let proof = tree.prove(&key(*number).hash());
        matches!(proof, Err(PageError::Damaged { .. }))
    });
    assert!(damaged.count() > 0);
}
