//! The beacon: the real [`Planner`] and the chain that it has made.

use std::{collections::BTreeSet, sync::Arc};

use atoll_commit::{BeaconRecord, Planner};
use atoll_invariants::Property;
use atoll_types::{Anchor, B256, BeaconBlock, SharedTx, Verdict};

use crate::{
    canonical::{combine, fingerprint},
    ledger::Broken,
    scenario::Scenario,
};

/// Time does not pass: it moves the base fee and nothing else.
const NOW_MS: u64 = 1_000;

/// A beacon block in the chain.
#[derive(Debug)]
pub struct Link {
    pub block: Arc<BeaconBlock>,
    record: BeaconRecord,
    /// Hash of what the block makes shards do.
    pub semantics: u64,
}

/// The beacon.
#[derive(Clone)]
pub struct Beacon {
    pub planner: Planner,
    pub chain: Vec<Arc<Link>>,
    /// How far the newest anchor of each shard is, and its hash. Lost in a crash.
    heard: Vec<(Progress, u64)>,
    /// References of intents that were heard. Lost in a crash.
    known: BTreeSet<(B256, u32)>,
    history: u64,
    hash: u64,
}

impl Beacon {
    /// A beacon at block 0.
    pub fn new(scenario: &Scenario) -> Self {
        let mut beacon = Self {
            planner: planner(scenario),
            chain: Vec::new(),
            heard: vec![Default::default(); usize::from(scenario.planner.shards)],
            known: BTreeSet::new(),
            history: 0,
            hash: 0,
        };
        beacon.seal();
        beacon
    }

    /// Hash of the beacon.
    pub fn fingerprint(&self) -> u64 {
        self.hash
    }

    /// Has to follow every change.
    pub fn seal(&mut self) {
        self.hash = combine([fingerprint(&self.planner), self.history, fingerprint(&self.heard)]);
    }

    /// Number of the newest block.
    pub fn head(&self) -> u64 {
        self.planner.head().number()
    }

    /// The block after a number.
    pub fn after(&self, cut: u64) -> Option<&Arc<Link>> {
        self.chain.get(usize::try_from(cut).ok()?)
    }

    /// Whether an anchor says anything new.
    pub fn listens(&self, anchor: &Anchor) -> bool {
        let (newest, heard) = self.heard[usize::from(anchor.shard.0)];
        progress(anchor) >= newest && fingerprint(anchor) != heard
    }

    /// Whether an anchor is older than one that was heard.
    pub fn is_old(&self, anchor: &Anchor) -> bool {
        progress(anchor) < self.heard[usize::from(anchor.shard.0)].0
    }

    /// Whether an intent is one that was not heard.
    pub fn knows(&self, tx: &SharedTx) -> bool {
        self.known.contains(&(*tx.tx.hash(), tx.attempt))
    }

    /// Takes a shard's anchor.
    pub fn anchor(&mut self, anchor: Anchor) {
        if self.listens(&anchor) {
            self.note(&anchor);
        }
        self.planner.anchor(anchor);
    }

    fn note(&mut self, anchor: &Anchor) {
        self.heard[usize::from(anchor.shard.0)] = (progress(anchor), fingerprint(anchor));
    }

    /// Takes an intent.
    pub fn announce(&mut self, scenario: &Scenario, shared: &SharedTx) {
        self.known.insert((*shared.tx.hash(), shared.attempt));
        self.planner.announce(shared.intent(&scenario.placement));
    }

    /// Makes the next block.
    pub fn block(&mut self) -> Result<(), Broken> {
        let open = self.planner.open();
        let record = self.planner.make(NOW_MS, B256::ZERO);
        let block = record.block.clone();
        if open + block.plan.len() - block.decisions.len() != self.planner.open() {
            let detail = "a decision on a group that is not open";
            return Err(Broken::new(Property::FenceEnds, detail));
        }
        let said = (&block.decisions, &block.credits, &block.plan, &block.dropped, block.settled);
        let semantics = fingerprint(&(block.number(), said));
        self.history = combine([self.history, semantics]);
        self.chain.push(Arc::new(Link { block, record, semantics }));
        Ok(())
    }

    /// Loses what is not durable, and starts again from the chain.
    pub fn crash(&mut self, scenario: &Scenario) -> Result<(), Broken> {
        let replay = || {
            let mut planner = planner(scenario);
            self.chain.iter().for_each(|link| planner.apply(&link.record));
            planner
        };
        let again = replay();
        let same = fingerprint(&again) == fingerprint(&replay())
            && (again.head(), again.open()) == (self.planner.head(), self.planner.open());
        if !same {
            return Err(Broken::new(Property::Determinism, "replay gives another beacon"));
        }
        self.planner = again;
        self.known.clear();
        self.heard.fill(Default::default());
        for link in self.chain.clone() {
            link.record.anchors.iter().for_each(|anchor| self.note(anchor));
        }
        Ok(())
    }

    /// Groups that were committed.
    pub fn commits(&self) -> usize {
        let commits = |verdict: &Verdict| matches!(verdict, Verdict::Commit { .. });
        let ends = self.chain.iter().flat_map(|link| &link.block.decisions);
        ends.filter(|end| commits(&end.verdict)).count()
    }
}

fn planner(scenario: &Scenario) -> Planner {
    #[cfg_attr(not(feature = "planted"), expect(unused_mut, reason = "it may get a bug"))]
    let mut planner = Planner::new(scenario.planner.clone());
    #[cfg(feature = "planted")]
    if let Some(bug) = scenario.bug {
        planner.plant(bug);
    }
    planner
}

/// What rises with everything that a shard reports, as the planner has it.
type Progress = (u64, u64, u64);

fn progress(anchor: &Anchor) -> Progress {
    let received: u64 = anchor.credits_received.iter().map(|(_, seq)| *seq).sum();
    (anchor.cut, anchor.head, anchor.acks.len() as u64 + received)
}
