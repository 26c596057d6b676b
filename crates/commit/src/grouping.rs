//! Which waiting transactions a round takes, and which of them form one group.

use alloy_primitives::map::HashMap;
use atoll_types::{GroupId, Intent, ShardId};
use smallvec::SmallVec;

/// Bounds of one round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caps {
    /// Sum of gas limits in a group, unless one transaction alone exceeds it.
    pub group_gas: u64,
    /// Sum of gas limits in a round, likewise.
    pub round_gas: u64,
    pub round_txs: usize,
    /// Undecided groups that may write one key.
    pub max_chain: usize,
    /// How many waiting intents are looked at.
    pub scan: usize,
}

/// A group as planned, before it has an id.
pub(crate) struct Draft {
    /// Positions in the list of waiting intents, ascending.
    pub members: SmallVec<[usize; 1]>,
    pub executor: ShardId,
    pub owners: Owners,
    /// Whether undecided groups write what it uses.
    pub is_behind: bool,
    pub gas: u64,
    /// How much gas it may have.
    cap: u64,
}

/// Shards, ascending.
pub(crate) type Owners = SmallVec<[ShardId; 2]>;

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
        if self.keys.is_empty() {
            return false;
        }
        intent.keys.iter().any(|keys| {
            keys.reads.iter().any(|key| self.keys.get(key) == Some(&true))
                || keys.writes.iter().any(|key| self.keys.contains_key(key))
        })
    }
}

/// Takes what can run in a round, oldest first, and unites what shares a key that either writes.
///
/// `chain` says how many undecided groups write a key: whatever uses one that has `max_chain` waits.
/// `absent` says whether nothing may be planned on a shard: what touches such a one waits without
/// being looked at, and only its sender's later transactions wait for it.
pub(crate) fn draft<'a>(
    waiting: impl Iterator<Item = &'a Intent>,
    chain: impl Fn(u64) -> usize,
    absent: impl Fn(ShardId) -> bool,
    caps: Caps,
) -> Vec<Draft> {
    let mut round = Round::with_room(waiting.size_hint().0.min(caps.round_txs));
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
        let used = intent.keys.iter().flat_map(|keys| keys.reads.iter().chain(&keys.writes));
        let longest = used.map(|key| chain(*key)).max().unwrap_or(0);
        if longest >= caps.max_chain
            || blocked.conflicts(intent)
            || !round.admit(position, intent, longest > 0, caps)
        {
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
    readers: SmallVec<[usize; 2]>,
}

/// Groups as sets of a union-find forest over the transactions taken so far.
struct Round<'a> {
    taken: Vec<(usize, &'a Intent)>,
    /// Of each transaction, whether undecided groups write what it uses.
    is_behind: Vec<bool>,
    parent: Vec<usize>,
    /// Gas of each group, and how much it may have.
    gas: Vec<(u64, u64)>,
    round_gas: u64,
    uses: HashMap<u64, Use>,
}

impl<'a> Round<'a> {
    /// For about so many transactions.
    fn with_room(txs: usize) -> Self {
        Self {
            taken: Vec::with_capacity(txs),
            is_behind: Vec::with_capacity(txs),
            parent: Vec::with_capacity(txs),
            gas: Vec::with_capacity(txs),
            round_gas: 0,
            // Most write a key of each of two shards.
            uses: HashMap::with_capacity_and_hasher(2 * txs, Default::default()),
        }
    }

    fn root(&mut self, mut node: usize) -> usize {
        while self.parent[node] != node {
            self.parent[node] = self.parent[self.parent[node]];
            node = self.parent[node];
        }
        node
    }

    /// Takes an intent into the round, unless a cap says that it has to wait.
    fn admit(&mut self, position: usize, intent: &'a Intent, is_behind: bool, caps: Caps) -> bool {
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
        self.is_behind.push(is_behind);
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
                self.uses.insert(*key, Use { writer: Some(node), readers: SmallVec::new() });
            }
        }
        true
    }

    /// Transactions of the round with which an intent shares a key that either writes.
    fn neighbours(&self, intent: &Intent) -> SmallVec<[usize; 4]> {
        let mut found = SmallVec::new();
        for keys in &intent.keys {
            for key in &keys.reads {
                found.extend(self.uses.get(key).and_then(|uses| uses.writer));
            }
            for key in &keys.writes {
                if let Some(uses) = self.uses.get(key) {
                    found.extend(uses.writer);
                    found.extend_from_slice(&uses.readers);
                }
            }
        }
        found
    }

    fn finish(mut self) -> Vec<Draft> {
        const NONE: usize = usize::MAX;
        let mut draft_of = vec![NONE; self.taken.len()];
        let mut drafts: Vec<Draft> = Vec::new();
        for node in 0..self.taken.len() {
            let root = self.root(node);
            let intent = self.taken[node].1;
            if draft_of[root] == NONE {
                draft_of[root] = drafts.len();
                let (gas, cap) = self.gas[root];
                drafts.push(Draft {
                    members: SmallVec::new(),
                    executor: ShardId::default(),
                    owners: Owners::new(),
                    is_behind: false,
                    gas,
                    cap,
                });
            }
            let draft = &mut drafts[draft_of[root]];
            draft.members.push(node);
            draft.owners.extend(intent.keys.iter().map(|keys| keys.shard));
            draft.is_behind |= self.is_behind[node];
        }
        for draft in &mut drafts {
            draft.owners.sort_unstable();
            draft.owners.dedup();
            draft.executor = busiest(draft.members.iter().map(|node| self.taken[*node].1));
            for member in &mut draft.members {
                *member = self.taken[*member].0;
            }
        }
        drafts
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
    let mut filling: HashMap<(ShardId, Owners, Vec<GroupId>), usize> = HashMap::default();
    for draft in drafts {
        let behind = if draft.is_behind { behind(&draft) } else { Vec::new() };
        let like = (draft.executor, draft.owners.clone(), behind);
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

/// Puts each sender's transactions, at the places that they have, into the order of their nonces: they
/// may have come in another one.
pub(crate) fn in_nonce_order(members: &mut [&Intent]) {
    let places = members.iter().enumerate().map(|(place, intent)| (intent.sender, place));
    let mut places: SmallVec<[(u64, usize); 32]> = places.collect();
    places.sort_unstable();
    for own in places.chunk_by(|a, b| a.0 == b.0).filter(|own| own.len() > 1) {
        let mut intents: Vec<&Intent> = own.iter().map(|(_, place)| members[*place]).collect();
        if !intents.is_sorted_by_key(|intent| intent.nonce) {
            intents.sort_by_key(|intent| intent.nonce);
            own.iter().zip(intents).for_each(|((_, place), intent)| members[*place] = intent);
        }
    }
}

/// The owner of the key that most transactions use, written ones first: that key never moves.
fn busiest<'a>(intents: impl Iterator<Item = &'a Intent>) -> ShardId {
    let mut uses: SmallVec<[(u64, bool, ShardId); 8]> = SmallVec::new();
    for keys in intents.flat_map(|intent| &intent.keys) {
        uses.extend(keys.writes.iter().map(|key| (*key, true, keys.shard)));
        uses.extend(keys.reads.iter().map(|key| (*key, false, keys.shard)));
    }
    uses.sort_unstable();
    let of_key = uses.chunk_by(|a, b| a.0 == b.0);
    let busy = of_key.map(|uses| {
        let writes = uses.iter().filter(|(_, is_write, _)| *is_write).count();
        (writes, uses.len(), uses[0].0, uses[0].2)
    });
    busy.max().map(|(.., shard)| shard).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use atoll_types::{B256, TxRef};

    use super::*;

    #[test]
    fn transactions_of_a_sender_are_in_the_order_of_their_nonces() {
        let intent = |(sender, nonce): (u64, u64)| Intent {
            tx: TxRef { hash: B256::ZERO, attempt: 1 },
            origin: ShardId(0),
            sender,
            nonce,
            gas_limit: 1,
            last_valid_round: 9,
            halvings: 0,
            keys: Default::default(),
        };
        let intents = [(7, 3), (1, 5), (7, 1), (8, 0), (7, 2), (1, 6)].map(intent);
        let mut members: Vec<&Intent> = intents.iter().collect();
        in_nonce_order(&mut members);
        let order: Vec<_> = members.iter().map(|intent| (intent.sender, intent.nonce)).collect();
        assert_eq!(order, [(7, 1), (1, 5), (7, 2), (8, 0), (7, 3), (1, 6)]);
    }
}
