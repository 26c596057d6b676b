//! Values by key and transaction: what each transaction of a block finds that runs before its turn.

use std::hash::{BuildHasherDefault, Hasher};

use atoll_types::{StateKey, StateValue, Write};

use crate::sync::{AtomicU64, Mutex, MutexGuard, Ordering, PoisonError};

/// Enough that threads rarely meet.
const STRIPES: usize = 64;
/// Words of the filter, of 64 bits each.
const FILTER: usize = 1024;
/// The end of a chain of versions.
const NONE: u32 = u32::MAX;

/// Says which write of a block a value is: 0 is none of them, 1 is from before the list of
/// transactions, and each transaction has two: what it wrote when it ran ahead of its turn, and what it
/// wrote at its turn.
pub(crate) type Version = u32;

pub(crate) const FROM_BEFORE: Version = 1;

pub(crate) fn guessed(index: usize) -> Version {
    2 * (index as u32 + 1)
}

pub(crate) fn settled(index: usize) -> Version {
    guessed(index) + 1
}

/// The hash of a key, and which write of it somebody read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Trace {
    pub spot: u64,
    pub version: Version,
}

/// A map by [`spot`].
pub(crate) type SpotMap<V> = std::collections::HashMap<u64, V, BuildHasherDefault<AsIs>>;

#[derive(Default)]
pub(crate) struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = word;
    }
}

/// What the transactions of a block write, each as of its place in the block: the results of those
/// that are kept, and of those that were only tried. A guess at what a transaction will find, and
/// cheap to be wrong about.
pub(crate) struct Memory {
    seed: u64,
    /// A bit for each spot that was ever written.
    filter: Box<[AtomicU64]>,
    stripes: Box<[Mutex<Stripe>]>,
}

#[derive(Default)]
struct Stripe {
    /// The newest version of the keys of each spot.
    newest: SpotMap<u32>,
    nodes: Vec<Node>,
}

struct Node {
    key: StateKey,
    value: StateValue,
    version: Version,
    /// The one before it by version, of this or another key.
    older: u32,
}

impl Memory {
    /// For about so many writes. `seed` is one that nobody can guess.
    pub fn new(seed: u64, writes: usize) -> Self {
        let each = writes / STRIPES + 1;
        let stripe = |_| {
            let newest = SpotMap::with_capacity_and_hasher(each, Default::default());
            Mutex::new(Stripe { newest, nodes: Vec::with_capacity(each) })
        };
        Self {
            seed,
            filter: (0..FILTER).map(|_| AtomicU64::new(0)).collect(),
            stripes: (0..STRIPES).map(stripe).collect(),
        }
    }

    /// The hash of a key. Two keys that share one are taken to conflict.
    pub fn spot(&self, key: &StateKey) -> u64 {
        match key {
            StateKey::Basic(address) => fold(self.seed ^ 1, address.as_slice()),
            StateKey::Code(address) => fold(self.seed ^ 2, address.as_slice()),
            StateKey::Slot(address, incarnation, slot) => {
                let account =
                    fold(self.seed ^ 3 ^ u64::from(*incarnation) << 8, address.as_slice());
                slot.as_limbs().iter().fold(account, |hash, limb| mix(hash ^ limb))
            }
        }
    }

    /// What the last transaction before `index` has left under a key, if one has written it.
    pub fn before(&self, key: &StateKey, index: usize) -> (Option<StateValue>, Trace) {
        let spot = self.spot(key);
        let none = Trace { spot, version: 0 };
        let (word, bit) = filter(spot);
        if self.filter[word].load(Ordering::Relaxed) & bit == 0 {
            return (None, none);
        }
        let stripe = self.stripe(spot);
        let mut at = stripe.newest.get(&spot).copied().unwrap_or(NONE);
        while let Some(node) = stripe.nodes.get(at as usize) {
            if node.version < guessed(index) && node.key == *key {
                return (Some(node.value), Trace { spot, version: node.version });
            }
            at = node.older;
        }
        (None, none)
    }

    /// Puts down a write, in place of what its transaction is said to have written before.
    pub fn put(&self, version: Version, (key, value): &Write) -> u64 {
        let spot = self.spot(key);
        let (word, bit) = filter(spot);
        if self.filter[word].load(Ordering::Relaxed) & bit == 0 {
            self.filter[word].fetch_or(bit, Ordering::Relaxed);
        }
        self.stripe(spot).put(spot, version, *key, *value);
        spot
    }

    /// Takes back what a transaction was said to write.
    pub fn retract<'k>(&self, index: usize, keys: impl IntoIterator<Item = &'k StateKey>) {
        for key in keys {
            let spot = self.spot(key);
            self.stripe(spot).remove(spot, guessed(index), key);
        }
    }

    fn stripe(&self, spot: u64) -> MutexGuard<'_, Stripe> {
        // By other bits than a map goes by. Nothing in here panics halfway.
        self.stripes[(spot >> 48) as usize % STRIPES].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn filter(spot: u64) -> (usize, u64) {
    ((spot >> 32) as usize % FILTER, 1 << (spot >> 58))
}

fn fold(seed: u64, bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(seed, |hash, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        mix(hash ^ u64::from_le_bytes(word))
    })
}

/// A folded multiplication, as of wyhash.
fn mix(word: u64) -> u64 {
    let wide = u128::from(word ^ 0x2d35_8dcc_aa6c_78a5) * u128::from(0x8bb8_4b93_962e_acc9_u64);
    (wide >> 64) as u64 ^ wide as u64
}

/// Whether two versions are of one transaction.
fn same_place(a: Version, b: Version) -> bool {
    a / 2 == b / 2
}

impl Stripe {
    fn put(&mut self, spot: u64, version: Version, key: StateKey, value: StateValue) {
        let next = self.nodes.len() as u32;
        let newest = self.newest.entry(spot).or_insert(NONE);
        let (mut newer, mut at) = (None, *newest);
        while let Some(node) = self.nodes.get_mut(at as usize) {
            if same_place(node.version, version) && node.key == key {
                (node.version, node.value) = (version, value);
                return;
            }
            if node.version < version {
                break;
            }
            (newer, at) = (Some(at), node.older);
        }
        match newer.and_then(|newer| self.nodes.get_mut(newer as usize)) {
            Some(newer) => newer.older = next,
            None => *newest = next,
        }
        self.nodes.push(Node { key, value, version, older: at });
    }

    fn remove(&mut self, spot: u64, version: Version, key: &StateKey) {
        let Some(newest) = self.newest.get_mut(&spot) else { return };
        let (mut newer, mut at) = (None, *newest);
        while let Some(node) = self.nodes.get(at as usize) {
            let older = node.older;
            if same_place(node.version, version) && node.key == *key {
                match newer.and_then(|newer: u32| self.nodes.get_mut(newer as usize)) {
                    Some(newer) => newer.older = older,
                    None => *newest = older,
                }
                return;
            }
            (newer, at) = (Some(at), older);
        }
    }
}
