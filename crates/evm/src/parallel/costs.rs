//! What running transactions has cost so far, by which is decided whether others are to help.
//!
//! Nothing in here can change a result. Threads write over one another's figures now and then.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use alloy_primitives::TxKind;
use atoll_types::{Address, StateKey, Tx};

use super::crew::Helpers;
use crate::Hint;

/// Nanoseconds from any point in the past.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Kinds of calls that are told apart: by callee and selector, as far as their hashes differ.
const KINDS: usize = 4096;
/// Blocks are told apart by how long their transactions take, in powers of two of nanoseconds.
const SIZES: usize = 24;
/// What shares are told in.
const WHOLE: u32 = 1 << 12;

/// Below this mean cost it shows whether the lead runs a transaction itself or looks whether a result is
/// good, and results are good whatever the order in which they come about.
const CHEAP_NS: u64 = 12_000;

/// When transactions of a block are run many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// When that has been found to be faster.
    Adaptive,
    /// Always, and no transaction any other way. For tests.
    Always,
}

/// Threads to help, and what is known of when they do: one for each kind of work, for as long as the
/// process lives.
pub struct Parallelism {
    pub(crate) helpers: Arc<dyn Helpers>,
    pub(crate) clock: Clock,
    pub(crate) policy: Policy,
    /// For hashes of keys.
    pub(crate) seed: u64,
    kinds: Box<[Kind]>,
    sizes: [Size; SIZES],
    /// Nanoseconds from calling helpers to the first one's start.
    wake_ns: AtomicU64,
}

/// A kind of calls.
#[derive(Default)]
struct Kind {
    /// Zero: not known.
    cost_ns: AtomicU32,
    conflicts: AtomicU32,
}

/// Time that blocks of some size take, everything included that whoever builds them does: of what
/// their transactions take by themselves.
#[derive(Default)]
struct Size {
    alone: Mean,
    aided: Mean,
    blocks: AtomicU32,
}

/// Of a block's share, and of how many blocks.
#[derive(Default)]
struct Mean {
    share: AtomicU32,
    count: AtomicU32,
}

/// What is expected of a block whatever way it is run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Estimate {
    size: usize,
    pub total_ns: u64,
}

/// How a block is to be run with help.
pub(crate) struct Plan {
    /// As of [`super::board::Board::new`].
    pub after: Vec<Option<u32>>,
    pub kinds: Vec<u16>,
    /// As of [`super::board::Board::new`].
    pub stride: usize,
}

impl Parallelism {
    /// Decides by what `clock` says.
    pub fn new(helpers: Arc<dyn Helpers>, clock: Clock) -> Self {
        Self::with_policy(helpers, clock, Policy::Adaptive)
    }

    pub fn with_policy(helpers: Arc<dyn Helpers>, clock: Clock, policy: Policy) -> Self {
        Self {
            helpers,
            clock,
            policy,
            seed: std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0),
            kinds: (0..KINDS).map(|_| Kind::default()).collect(),
            sizes: Default::default(),
            wake_ns: AtomicU64::new(0),
        }
    }

    /// Everything on the calling thread.
    pub fn none() -> Self {
        Self::new(Arc::new(super::crew::Nobody), Arc::new(|| 0))
    }

    /// A look at a few of a block's transactions, which costs next to nothing.
    pub(crate) fn estimate(&self, hints: &[Hint<'_>]) -> Estimate {
        const LOOKS: usize = 16;
        let some = hints.iter().step_by(hints.len().div_ceil(LOOKS).max(1));
        let looks = some.len().max(1) as u64;
        let mean = some.map(|hint| self.cost(kind(hint.tx))).sum::<u64>() / looks;
        let size = (mean.max(1).ilog2() as usize).min(SIZES - 1);
        Estimate { size, total_ns: mean * hints.len() as u64 }
    }

    /// How a block is to be run with help; `None` if it is faster without.
    pub(crate) fn plan(&self, hints: &[Hint<'_>], estimate: Estimate) -> Option<Plan> {
        let list = || hints.iter().map(|hint| kind(hint.tx)).collect::<Vec<u16>>();
        if self.policy == Policy::Always {
            let kinds = list();
            return Some(Plan { after: self.order(hints, &kinds), kinds, stride: 0 });
        }
        let Estimate { size, total_ns } = estimate;
        if self.helpers.count() == 0 || hints.len() < 2 {
            return None;
        }
        let wake_ns = self.wake_ns();
        if total_ns <= 4 * wake_ns {
            // Nothing measures it while nobody is called: it is forgotten bit by bit.
            self.wake_ns.store(wake_ns - wake_ns.div_ceil(64), Ordering::Relaxed);
            return None;
        }
        let threads = 1 + self.helpers.idle() as u64;
        if threads < 2 || !self.sizes[size].pays() {
            return None;
        }
        let kinds = list();
        let costs: Vec<u64> = kinds.iter().map(|kind| self.cost(*kind)).collect();
        let after = self.order(hints, &kinds);
        // The longest chain of those that wait for one another.
        let mut ends: Vec<u64> = Vec::with_capacity(costs.len());
        for (cost, after) in costs.iter().zip(&after) {
            let start = after.and_then(|at| ends.get(at as usize).copied()).unwrap_or(0);
            ends.push(start + cost);
        }
        let longest = ends.iter().copied().max().unwrap_or(0);
        let total: u64 = costs.iter().sum();
        // A fifth less is the least that is worth the trouble.
        let least = longest.max(total / threads);
        let stride = if total / (hints.len() as u64) < CHEAP_NS { threads as usize } else { 0 };
        (5 * least < 4 * total).then_some(Plan { after, kinds, stride })
    }

    /// For each transaction the last one before it that is expected to write what it reads.
    fn order(&self, hints: &[Hint<'_>], kinds: &[u16]) -> Vec<Option<u32>> {
        if hints.iter().all(|hint| hint.keys.is_some()) {
            return by_keys(hints);
        }
        let mut accounts: HashMap<Address, u32, alloy_primitives::map::FbBuildHasher<20>> =
            HashMap::default();
        let mut calls: HashMap<u16, u32> = HashMap::new();
        let mut after = Vec::with_capacity(hints.len());
        for ((index, hint), kind) in (0..).zip(hints).zip(kinds) {
            let mut last = accounts.insert(hint.tx.sender(), index);
            // What a sender is paid changes what it has.
            if let Some(to) = hint.tx.to()
                && !hint.tx.value().is_zero()
            {
                accounts.insert(to, index);
            }
            let conflicts = self.kinds[usize::from(*kind)].conflicts.load(Ordering::Relaxed);
            if conflicts > WHOLE / 2 {
                last = last.max(calls.insert(*kind, index));
            }
            after.push(last);
        }
        after
    }

    /// In nanoseconds; zero if nothing like it has been run.
    pub(crate) fn cost(&self, kind: u16) -> u64 {
        let known = |kind: usize| u64::from(self.kinds[kind].cost_ns.load(Ordering::Relaxed));
        let own = known(usize::from(kind));
        if own == 0 { known(ANY) } else { own }
    }

    /// Learns what one took on a thread that ran it and nothing else.
    pub(crate) fn ran(&self, kind: u16, took_ns: u64) {
        let took = u32::try_from(took_ns).unwrap_or(u32::MAX).max(1);
        for kind in [usize::from(kind), ANY] {
            let cost = &self.kinds[kind].cost_ns;
            let old = cost.load(Ordering::Relaxed);
            cost.store(if old == 0 { took } else { blend(old, took, 8) }, Ordering::Relaxed);
        }
    }

    /// Learns whether what was run ahead was of use.
    pub(crate) fn tried(&self, kind: u16, useful: bool) {
        let conflicts = &self.kinds[usize::from(kind)].conflicts;
        let old = conflicts.load(Ordering::Relaxed);
        // It takes a few in a row to be believed, and is forgotten sooner or later.
        conflicts.store(blend(old, if useful { 0 } else { WHOLE }, 4), Ordering::Relaxed);
    }

    /// Learns what a block took.
    pub(crate) fn took(&self, estimate: Estimate, aided: bool, took_ns: u64) {
        let share = (took_ns * u64::from(WHOLE)).checked_div(estimate.total_ns);
        let Some(share) = share.filter(|_| self.helpers.count() > 0) else { return };
        let size = &self.sizes[estimate.size];
        let known = if aided { &size.aided } else { &size.alone };
        known.add(u32::try_from(share).unwrap_or(u32::MAX).max(1));
    }

    /// How long it takes until a helper begins, as far as that is known.
    pub(crate) fn wake_ns(&self) -> u64 {
        self.wake_ns.load(Ordering::Relaxed)
    }

    /// Learns how long it took until a helper began.
    pub(crate) fn woke(&self, took_ns: u64) {
        let old = self.wake_ns.load(Ordering::Relaxed);
        let new = if old == 0 { took_ns } else { (7 * old + took_ns.min(8 * old)) / 8 };
        self.wake_ns.store(new, Ordering::Relaxed);
    }
}

/// Stands for all kinds together.
const ANY: usize = 0;
const PAYMENT: u16 = 1;
const CREATION: u16 = 2;

pub(crate) fn kind(tx: &Tx) -> u16 {
    let TxKind::Call(to) = alloy_consensus::Transaction::kind(tx.envelope()) else {
        return CREATION;
    };
    let [a, b, c, d, ..] = tx.input()[..] else { return PAYMENT };
    let (selector, address) = (u32::from_be_bytes([a, b, c, d]), to.as_slice());
    let low = u32::from_be_bytes([address[16], address[17], address[18], address[19]]);
    let mixed = (low ^ selector.rotate_left(16)).wrapping_mul(0x9e37_79b1) >> 16;
    let first = u32::from(CREATION) + 1;
    // Below `KINDS`.
    (first + mixed % (KINDS as u32 - first)) as u16
}

impl Mean {
    fn add(&self, share: u32) {
        let (old, count) = (self.share.load(Ordering::Relaxed), self.count.load(Ordering::Relaxed));
        // Whatever else the machine does makes a block slower, never faster.
        let new = match count {
            0 => share,
            _ if share < old => blend(old, share, 2),
            _ => blend(old, share.min(old.saturating_mul(2)), 8),
        };
        self.share.store(new, Ordering::Relaxed);
        self.count.store(count.saturating_add(1), Ordering::Relaxed);
    }
}

impl Size {
    /// Whether help pays for blocks of this size. Now and then the other way is taken, for a look.
    fn pays(&self) -> bool {
        /// Blocks of each kind before any is believed: the first ones find cold memory, and threads
        /// that sleep.
        const TRIES: u32 = 4;
        const LOOK: u32 = 256;
        let both = [&self.alone, &self.aided];
        let [alone, aided] = both.map(|mean| mean.count.load(Ordering::Relaxed));
        if alone.min(aided) < TRIES {
            return aided < alone;
        }
        let [alone, aided] = both.map(|mean| u64::from(mean.share.load(Ordering::Relaxed)));
        let count = self.blocks.fetch_add(1, Ordering::Relaxed);
        let soon = (3..LOOK).contains(&count) && count.is_power_of_two();
        let look = soon || count % LOOK == LOOK - 1;
        // A little less would be nothing but chance.
        (32 * aided < 31 * alone) != look
    }
}

/// Moves a mean by a part of the way.
fn blend(old: u32, new: u32, parts: u32) -> u32 {
    let moved = i64::from(old) + (i64::from(new) - i64::from(old)) / i64::from(parts);
    // Between the two.
    moved as u32
}

/// By the sets of keys: what one writes and a later one uses. Whoever is only paid conflicts with
/// nobody, so an account's balance counts for its sender alone.
fn by_keys(hints: &[Hint<'_>]) -> Vec<Option<u32>> {
    let mut writers = alloy_primitives::map::HashMap::<StateKey, u32>::default();
    let mut after = Vec::with_capacity(hints.len());
    for (index, hint) in (0..).zip(hints) {
        let own = StateKey::Basic(hint.tx.sender());
        let counts = |key: &&StateKey| !matches!(key, StateKey::Basic(_)) || **key == own;
        let Some(keys) = hint.keys else { continue };
        after.push(keys.all().filter(counts).filter_map(|key| writers.get(key)).max().copied());
        writers.extend(keys.writes.iter().map(|key| (*key, index)));
    }
    after
}
