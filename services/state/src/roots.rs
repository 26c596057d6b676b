//! The root of the shard's state at settled cuts, and the tree behind it.
//!
//! The state at a cut `c` is what was written with an epoch below `c`. It is complete once a beacon
//! block names `c`, or a later cut, as settled: whatever is written from then on has a higher epoch. So
//! writes gather here by their epochs. At the first beacon block of each second the settled cut that it
//! names is *due*: a function of the beacon's chain, so that all shards take the same cuts, and a
//! replay computes what the first run has told.
//!
//! The tree is changed by a [`Job`] that runs beside the actor. The next one begins when a beacon block
//! has taken in the last root, so that proofs of a published root can be had, and no more than one
//! job's writes gather while the beacon is away.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use alloy_primitives::map::HashMap;
use atoll_proof::Proof;
use atoll_store::{Index, StoreError};
use atoll_tree::{Change, Config, MemoryScratch, PageError, Scratch, Tree};
use atoll_types::{B256, BeaconBlock, ShardId, StateKey, StateRoot, StateValue, decode};
use serde::{Deserialize, Serialize};

/// Roots told and not yet seen in a beacon block, at the most.
const KEPT_ROOTS: usize = 1_024;
/// Changes made at a time while a tree is built.
const BUILD_BATCH: usize = 100_000;

/// Where a tree keeps the pages that are not in memory. Asked for each time a tree is begun.
pub type NewScratch = Arc<dyn Fn() -> std::io::Result<Box<dyn Scratch>> + Send + Sync>;

/// How the tree uses memory and disk.
#[derive(Clone)]
pub struct TreeConfig {
    /// Memory for leaves, in bytes.
    pub leaf_bytes: usize,
    pub scratch: NewScratch,
}

impl Default for TreeConfig {
    /// Everything in memory.
    fn default() -> Self {
        let scratch = || Ok(Box::<MemoryScratch>::default() as Box<dyn Scratch>);
        Self { leaf_bytes: usize::MAX, scratch: Arc::new(scratch) }
    }
}

/// Why there is no root, or not the right one.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Page(#[from] PageError),
    #[error("an entry of the index cannot be read: {0}")]
    Entry(String),
    #[error(
        "the root of shard {shard} at cut {cut} comes out as {found}, and beacon block {block} holds {told}, as this shard has told it. Its log or this program is not what it was: restore the shard's data from a backup, or start the version that wrote it"
    )]
    Other { shard: ShardId, cut: u64, found: B256, told: B256, block: u64 },
}

/// What a key held before it was first written, and what it holds now.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Written {
    before: StateValue,
    now: StateValue,
}

type Writes = HashMap<StateKey, Written>;

/// Adds a later write of a key.
fn add(writes: &mut Writes, key: StateKey, later: Written) {
    writes.entry(key).and_modify(|written| written.now = later.now).or_insert(later);
}

/// The tree, and the cut that it stands at.
struct Standing {
    cut: u64,
    tree: Tree,
}

/// What brings the tree to a later cut.
#[derive(Clone)]
pub(crate) struct Job {
    cut: u64,
    writes: Arc<Writes>,
    standing: Arc<Mutex<Standing>>,
}

impl Job {
    /// Changes the tree, unless that was done.
    pub fn run(&self) -> Result<StateRoot, PageError> {
        let mut standing = lock(&self.standing);
        if standing.cut < self.cut {
            let writes = self.writes.iter().map(|(key, written)| change((key, &written.now)));
            standing.tree.update(writes.collect())?;
            standing.cut = self.cut;
        }
        Ok(StateRoot { cut: standing.cut, root: standing.tree.root().into() })
    }
}

/// The tree is of no use any more; a restart builds another one.
fn unusable(error: PageError) -> StoreError {
    StoreError::Poisoned { path: "tree".into(), cause: error.to_string() }
}

fn lock(standing: &Mutex<Standing>) -> MutexGuard<'_, Standing> {
    standing.lock().unwrap_or_else(PoisonError::into_inner)
}

fn change((key, value): (&StateKey, &StateValue)) -> Change {
    let there = *value != key.absent();
    Change { key: key.in_tree().hash(), value: there.then(|| value.in_tree().hash()) }
}

/// What a clean stop and a snapshot keep. The tree itself is built again from the values beside it: they
/// are those of its cut, but for what was written since.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Stopped {
    newest: StateRoot,
    published: Option<(StateRoot, u64)>,
    timestamp: u64,
    running: Option<(u64, Vec<(StateKey, Written)>)>,
    due: Option<(u64, Vec<(StateKey, Written)>)>,
    pending: Vec<(u64, Vec<(StateKey, Written)>)>,
}

impl Stopped {
    /// What keys held at the tree's cut that were written since.
    fn held(&self) -> HashMap<StateKey, StateValue> {
        let jobs = self.running.iter().chain(&self.due).chain(&self.pending);
        let mut held = HashMap::default();
        for (key, written) in jobs.flat_map(|(_, writes)| writes) {
            held.entry(*key).or_insert(written.before);
        }
        held
    }
}

pub(crate) struct Roots {
    shard: ShardId,
    standing: Arc<Mutex<Standing>>,
    /// Writes that are not in a job, by epoch.
    pending: BTreeMap<u64, Writes>,
    /// Of the newest beacon block.
    timestamp: u64,
    /// The cut that the next job goes to, and what was written up to it.
    due: Option<(u64, Writes)>,
    running: Option<Job>,
    newest: StateRoot,
    /// Computed and not yet published, by cut.
    told: BTreeMap<u64, B256>,
    /// The newest root that a beacon block has taken in, and the block.
    published: Option<(StateRoot, u64)>,
}

impl Roots {
    /// Of a shard without state.
    pub fn new(shard: ShardId, config: &TreeConfig) -> Result<Self, RootError> {
        Ok(Self::on(shard, 0, new_tree(config)?))
    }

    fn on(shard: ShardId, cut: u64, tree: Tree) -> Self {
        let newest = StateRoot { cut, root: tree.root().into() };
        Self {
            shard,
            standing: Arc::new(Mutex::new(Standing { cut, tree })),
            pending: BTreeMap::new(),
            timestamp: 0,
            due: None,
            running: None,
            newest,
            told: BTreeMap::from([(newest.cut, newest.root)]),
            published: None,
        }
    }

    /// Takes the state of the genesis: the root at cut 0.
    pub fn begin(&mut self, state: &[(StateKey, StateValue)]) -> Result<(), RootError> {
        let mut standing = lock(&self.standing);
        for some in state.chunks(BUILD_BATCH) {
            standing.tree.update(some.iter().map(|(key, value)| change((key, value))).collect())?;
        }
        let root = standing.tree.root().into();
        drop(standing);
        self.computed(StateRoot { cut: 0, root });
        Ok(())
    }

    /// What was left by a clean stop or is in a snapshot, with the tree of the values in the index:
    /// `None` if they are not what they were.
    pub fn open(
        shard: ShardId,
        config: &TreeConfig,
        stopped: Stopped,
        index: &dyn Index,
    ) -> Result<Option<Self>, RootError> {
        let tree = match build(config, index, &stopped.held()) {
            Err(RootError::Entry(_) | RootError::Store(StoreError::Corrupt { .. })) => {
                return Ok(None);
            }
            built => built?,
        };
        if B256::from(tree.root()) != stopped.newest.root {
            return Ok(None);
        }
        let mut roots = Self::on(shard, stopped.newest.cut, tree);
        roots.published = stopped.published;
        roots.timestamp = stopped.timestamp;
        let map = |(cut, writes): (u64, Vec<_>)| (cut, writes.into_iter().collect());
        roots.due = stopped.running.map(map);
        roots.catch_up()?;
        roots.due = stopped.due.map(map);
        roots.pending = stopped.pending.into_iter().map(map).collect();
        Ok(Some(roots))
    }

    /// What is to be kept of it as it is now. A job that is under way counts as not begun.
    pub fn stop(&self) -> Stopped {
        let list = |writes: &Writes| writes.iter().map(|(key, written)| (*key, *written)).collect();
        Stopped {
            newest: self.newest,
            published: self.published,
            timestamp: self.timestamp,
            running: self.running.as_ref().map(|job| (job.cut, list(&job.writes))),
            due: self.due.as_ref().map(|(cut, writes)| (*cut, list(writes))),
            pending: self.pending.iter().map(|(epoch, writes)| (*epoch, list(writes))).collect(),
        }
    }

    /// Notes a write. Those of one key come in the order of their epochs.
    pub fn note(&mut self, key: StateKey, (before, now): (StateValue, StateValue), epoch: u64) {
        add(self.pending.entry(epoch).or_default(), key, Written { before, now });
    }

    /// Follows a beacon block after its cut: what is due, and what was published.
    ///
    /// # Errors
    /// [`RootError::Other`] if another root was published than this shard has.
    pub fn cut(&mut self, block: &BeaconBlock) -> Result<(), RootError> {
        if block.env.timestamp > self.timestamp {
            self.timestamp = block.env.timestamp;
            let newest = self.due.as_ref().map_or(self.target(), |(cut, _)| *cut);
            if block.settled > newest {
                let later = self.pending.split_off(&block.settled);
                let (cut, writes) = self.due.get_or_insert_default();
                *cut = block.settled;
                let complete = std::mem::replace(&mut self.pending, later);
                for (key, written) in complete.into_values().flatten() {
                    add(writes, key, written);
                }
            }
        }
        let mine = block.anchors.iter().find(|anchored| anchored.shard == self.shard);
        match mine.and_then(|anchored| anchored.root) {
            Some(root) => self.publish(root, block.number()),
            None => Ok(()),
        }
    }

    /// The cut that the tree is at, or on its way to.
    fn target(&self) -> u64 {
        self.running.as_ref().map_or(self.newest.cut, |job| job.cut)
    }

    fn publish(&mut self, root: StateRoot, block: u64) -> Result<(), RootError> {
        // Jobs of a replay do not wait for one another: it knows more roots than were told.
        if let Some(found) = self.told.get(&root.cut).filter(|found| **found != root.root) {
            let StateRoot { cut, root: told } = root;
            return Err(RootError::Other { shard: self.shard, cut, found: *found, told, block });
        }
        self.told = self.told.split_off(&root.cut);
        if self.published.is_none_or(|(newest, _)| newest.cut < root.cut) {
            self.published = Some((root, block));
        }
        Ok(())
    }

    /// Begins what is due, if the root before it was published.
    pub fn next_job(&mut self) -> Option<Job> {
        let waits = self.published.is_none_or(|(root, _)| root.cut < self.newest.cut);
        if self.running.is_some() || waits { None } else { self.begin_job() }
    }

    fn begin_job(&mut self) -> Option<Job> {
        let (cut, writes) = self.due.take()?;
        let job = Job { cut, writes: Arc::new(writes), standing: self.standing.clone() };
        self.running = Some(job.clone());
        Some(job)
    }

    /// Does at once what is due: for a replay.
    pub fn catch_up(&mut self) -> Result<(), RootError> {
        if let Some(job) = self.begin_job() {
            let root = job.run()?;
            self.done(root);
        }
        Ok(())
    }

    /// A job has ended with this root.
    pub fn done(&mut self, root: StateRoot) {
        self.running = None;
        self.computed(root);
    }

    fn computed(&mut self, root: StateRoot) {
        self.newest = root;
        self.told.insert(root.cut, root.root);
        if self.told.len() > KEPT_ROOTS {
            self.told.pop_first();
        }
    }

    /// The newest root.
    pub fn newest(&self) -> StateRoot {
        self.newest
    }

    /// The published root that proofs can be had under, and its block; `None` while there is none of
    /// this cut or a later one.
    pub fn provable(&self, min_cut: u64) -> Option<(StateRoot, u64)> {
        let (root, block) = self.published?;
        let stands = self.running.is_none() && root.root == self.newest.root;
        (stands && root.cut >= min_cut).then_some((root, block))
    }

    /// A proof of what a key holds at the newest root. Not to be called while a job runs: it would wait.
    pub fn prove(&self, key: &StateKey) -> Result<Proof, StoreError> {
        lock(&self.standing).tree.prove(&key.in_tree().hash()).map_err(unusable)
    }
}

fn new_tree(config: &TreeConfig) -> Result<Tree, RootError> {
    let scratch = (config.scratch)().map_err(PageError::from)?;
    Ok(Tree::new(Config::with_leaf_bytes(config.leaf_bytes), scratch)?)
}

/// The tree of the values in the index, but for keys that `held` another one.
fn build(
    config: &TreeConfig,
    index: &dyn Index,
    held: &HashMap<StateKey, StateValue>,
) -> Result<Tree, RootError> {
    let mut tree = new_tree(config)?;
    let mut failed = None;
    let mut changes: Vec<Change> = Vec::new();
    index.scan_prefix(b"s", &mut |key, value| {
        let entry = || Ok((decode::<StateKey>(&key[1..])?, decode::<StateValue>(value)?));
        match entry() {
            Ok((key, value)) => changes.push(change((&key, &value))),
            Err(error) => {
                let error: atoll_types::CodecError = error;
                failed = Some(RootError::Entry(error.to_string()));
            }
        }
        if changes.len() >= BUILD_BATCH
            && let Err(error) = tree.update(std::mem::take(&mut changes))
        {
            failed = Some(error.into());
        }
    })?;
    changes.extend(held.iter().map(change));
    if let Some(error) = failed {
        return Err(error);
    }
    tree.update(changes)?;
    Ok(tree)
}
