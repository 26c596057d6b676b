//! Which waiting transactions a round takes, and which of them form one group.

use alloy_primitives::map::HashMap;
use atoll_types::{GroupId, Intent, ShardId};

/// Bounds of one round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caps {
    /// Sum of gas limits in a group, unless one transaction alone exceeds it.
    pub group_gas: u64,
    /// Sum of gas limits in a round, likewise.
    pub round_gas: u64,
    pub round_txs: usize,
    /// How many waiting intents are looked at.
    pub scan: usize,
}

/// A group as planned, before it has an id.
pub(crate) struct Draft {
    /// Positions in the list of waiting intents, ascending.
    pub members: Vec<usize>,
    pub executor: ShardId,
    /// Ascending.
    pub owners: Vec<ShardId>,
    pub gas: u64,
    /// How much gas it may have.
    cap: u64,
}

/// What earlier intents that stay behind use: whoever conflicts with them waits too, so that
/// nobody is overtaken for ever.
#[derive(Default)]
struct Blocked {
    /// Fingerprint → whether it is written.
    keys: HashMap<u64, bool>,
}

impl Blocked {
    fn add(&mut self, intent: &Intent) {
        for keys in &intent.keys {
            for key in &keys.reads {
                self.keys.entry(*key).or_insert(false);
            }
            for key in &keys.writes {
                self.keys.insert(*key, true);
            }
        }
    }

    fn conflicts(&self, intent: &Intent) -> bool {
        intent.keys.iter().any(|keys| {
            keys.reads.iter().any(|key| self.keys.get(key) == Some(&true))
                || keys.writes.iter().any(|key| self.keys.contains_key(key))
        })
    }
}

/// Takes what can run in a round, oldest first, and unites what shares a key that either writes.
///
/// `fenced` says whether as many undecided groups as there may be write a key: whatever uses such a
/// key waits.
/// `absent` says whether nothing may be planned on a shard: what touches such a one waits without
/// being looked at, and only its sender's later transactions wait for it.
pub(crate) fn draft<'a>(
    waiting: impl Iterator<Item = &'a Intent>,
    fenced: impl Fn(u64) -> bool,
    absent: impl Fn(ShardId) -> bool,
    caps: Caps,
) -> Vec<Draft> {
    let mut round = Round::default();
    let mut blocked = Blocked::default();
    let mut stranded: HashMap<u64, u64> = HashMap::default();
    let mut looked_at = 0;
    for (position, intent) in waiting.enumerate() {
        let later = stranded.get(&intent.sender).is_some_and(|first| *first < intent.nonce);
        if later || intent.keys.iter().any(|keys| absent(keys.shard)) {
            let first = stranded.entry(intent.sender).or_insert(intent.nonce);
            *first = intent.nonce.min(*first);
            continue;
        }
        if looked_at == caps.scan {
            break;
        }
        looked_at += 1;
        let fence = |keys: &[u64]| keys.iter().any(|key| fenced(*key));
        let held = intent.keys.iter().any(|keys| fence(&keys.reads) || fence(&keys.writes));
        if held || blocked.conflicts(intent) || !round.admit(position, intent, caps) {
            blocked.add(intent);
        }
    }
    round.finish()
}

/// One key in a round: who writes it, or who reads it while nobody does. A writer is in one group
/// with everybody who uses the key, so it stands for them all.
#[derive(Default)]
struct Use {
    writer: Option<usize>,
    readers: Vec<usize>,
}

/// Groups as sets of a union-find forest over the transactions taken so far.
#[derive(Default)]
struct Round<'a> {
    taken: Vec<(usize, &'a Intent)>,
    parent: Vec<usize>,
    /// Gas of each group, and how much it may have.
    gas: Vec<(u64, u64)>,
    round_gas: u64,
    uses: HashMap<u64, Use>,
}

impl<'a> Round<'a> {
    fn root(&mut self, mut node: usize) -> usize {
        while self.parent[node] != node {
            self.parent[node] = self.parent[self.parent[node]];
            node = self.parent[node];
        }
        node
    }

    /// Takes an intent into the round, unless a cap says that it has to wait.
    fn admit(&mut self, position: usize, intent: &'a Intent, caps: Caps) -> bool {
        let first = self.taken.is_empty();
        if self.taken.len() >= caps.round_txs
            || (!first && self.round_gas.saturating_add(intent.gas_limit) > caps.round_gas)
        {
            return false;
        }
        let mut joined = self.neighbours(intent);
        for node in &mut joined {
            *node = self.root(*node);
        }
        joined.sort_unstable();
        joined.dedup();
        let alone = (intent.gas_limit, caps.group_gas.checked_shr(intent.halvings).unwrap_or(0));
        let (gas, cap) = joined
            .iter()
            .map(|root| self.gas[*root])
            .fold(alone, |a, b| (a.0.saturating_add(b.0), a.1.min(b.1)));
        if !joined.is_empty() && gas > cap {
            return false;
        }
        let node = self.taken.len();
        self.taken.push((position, intent));
        self.parent.push(node);
        self.gas.push((gas, cap));
        self.round_gas = self.round_gas.saturating_add(intent.gas_limit);
        for root in joined {
            self.parent[root] = node;
        }
        for keys in &intent.keys {
            for key in &keys.reads {
                let uses = self.uses.entry(*key).or_default();
                if uses.writer.is_none() {
                    uses.readers.push(node);
                }
            }
            for key in &keys.writes {
                self.uses.insert(*key, Use { writer: Some(node), readers: Vec::new() });
            }
        }
        true
    }

    /// Transactions of the round with which an intent shares a key that either writes.
    fn neighbours(&self, intent: &Intent) -> Vec<usize> {
        let mut found = Vec::new();
        for keys in &intent.keys {
            for key in &keys.reads {
                found.extend(self.uses.get(key).and_then(|uses| uses.writer));
            }
            for key in &keys.writes {
                if let Some(uses) = self.uses.get(key) {
                    found.extend(uses.writer);
                    found.extend(&uses.readers);
                }
            }
        }
        found
    }

    fn finish(mut self) -> Vec<Draft> {
        let mut groups: HashMap<usize, usize> = HashMap::default();
        let mut drafts: Vec<(Vec<usize>, (u64, u64))> = Vec::new();
        for node in 0..self.taken.len() {
            let root = self.root(node);
            let group = *groups.entry(root).or_insert_with(|| {
                drafts.push((Vec::new(), self.gas[root]));
                drafts.len() - 1
            });
            drafts[group].0.push(node);
        }
        drafts
            .into_iter()
            .map(|(nodes, (gas, cap))| {
                let intents = || nodes.iter().map(|node| self.taken[*node].1);
                Draft {
                    executor: busiest(intents()),
                    owners: owners(intents()),
                    members: nodes.iter().map(|node| self.taken[*node].0).collect(),
                    gas,
                    cap,
                }
            })
            .collect()
    }
}

/// Unites groups that share nothing but their fate: the same executor, the same owners, the same
/// undecided groups before them (`behind`, ascending). They are leased, run, acknowledged and decided at
/// the same moments anyway; as one group they cost it once. At most `bundle_gas` in what comes of it.
pub(crate) fn bundle(
    drafts: Vec<Draft>,
    bundle_gas: u64,
    behind: impl Fn(&Draft) -> Vec<GroupId>,
) -> Vec<Draft> {
    let mut bundles: Vec<Draft> = Vec::new();
    let mut filling: HashMap<(ShardId, Vec<ShardId>, Vec<GroupId>), usize> = HashMap::default();
    for draft in drafts {
        let like = (draft.executor, draft.owners.clone(), behind(&draft));
        let open = filling.get(&like).copied();
        let gas = open.map_or(u64::MAX, |at| bundles[at].gas.saturating_add(draft.gas));
        let cap = open.map_or(0, |at| bundles[at].cap.min(draft.cap)).min(bundle_gas);
        match open {
            Some(at) if gas <= cap => {
                let bundle = &mut bundles[at];
                bundle.members.extend(draft.members);
                (bundle.gas, bundle.cap) = (gas, bundle.cap.min(draft.cap));
            }
            _ => {
                filling.insert(like, bundles.len());
                bundles.push(draft);
            }
        }
    }
    for bundle in &mut bundles {
        bundle.members.sort_unstable();
    }
    bundles
}

fn owners<'a>(intents: impl Iterator<Item = &'a Intent>) -> Vec<ShardId> {
    let mut owners: Vec<ShardId> =
        intents.flat_map(|intent| intent.keys.iter().map(|keys| keys.shard)).collect();
    owners.sort_unstable();
    owners.dedup();
    owners
}

/// The owner of the key that most transactions use, written ones first: that key never moves.
fn busiest<'a>(intents: impl Iterator<Item = &'a Intent>) -> ShardId {
    let mut counts: HashMap<u64, (u32, u32, ShardId)> = HashMap::default();
    for keys in intents.flat_map(|intent| &intent.keys) {
        for key in &keys.writes {
            let count = counts.entry(*key).or_insert((0, 0, keys.shard));
            count.0 += 1;
            count.1 += 1;
        }
        for key in &keys.reads {
            counts.entry(*key).or_insert((0, 0, keys.shard)).1 += 1;
        }
    }
    let best = counts.into_iter().max_by_key(|(key, (writes, all, _))| (*writes, *all, *key));
    best.map(|(_, (.., shard))| shard).unwrap_or_default()
}
