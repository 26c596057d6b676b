//! Which waiting transactions a round takes, and which of them form one group.

use alloy_primitives::map::{Entry, HashMap};
use atoll_types::{GroupId, Intent, ShardId, ShardKeys};
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
    /// Sum of gas limits in a group that unites what shares no key.
    pub bundle_gas: u64,
}

/// What a round takes, in groups as planned, before they have ids. Flat: a round has transactions by the
/// thousand, and most of its groups have one.
pub(crate) struct Drafts<'a> {
    pub groups: Vec<Draft>,
    /// Transactions in the order of the groups, those of a group as they came: where each stands among
    /// those that wait, and the intent.
    pub members: Vec<(usize, &'a Intent)>,
}

/// One of them.
pub(crate) struct Draft {
    pub executor: ShardId,
    pub owners: Owners,
    pub gas: u64,
    /// How many transactions it has.
    pub count: usize,
    /// How much gas it may have.
    cap: u64,
    /// Undecided groups that write what it uses, for each such key the last one; ascending.
    behind: SmallVec<[GroupId; 1]>,
}

/// Shards, ascending.
pub(crate) type Owners = SmallVec<[ShardId; 2]>;

/// Takes what can run in a round, oldest first, and unites what shares a key that either writes; then
/// what shares nothing but its fate, up to `bundle_gas`.
///
/// `waiting` gives intents with their places. `undecided` says how many undecided groups write a key, and
/// which is the last one: whatever uses a key that has `max_chain` waits. `absent` says whether nothing
/// may be planned on a shard: what touches such a one waits without being looked at, and only its
/// sender's later transactions wait for it.
pub(crate) fn draft<'a>(
    waiting: impl Iterator<Item = (usize, &'a Intent)>,
    undecided: impl Fn(u64) -> Chain,
    absent: impl Fn(ShardId) -> bool,
    caps: Caps,
) -> Drafts<'a> {
    let mut round = Round::with_room(waiting.size_hint().1.unwrap_or(0).min(caps.round_txs));
    let mut stranded: HashMap<u64, u64> = HashMap::default();
    let mut looked_at = 0;
    for (position, intent) in waiting {
        let later = !stranded.is_empty()
            && stranded.get(&intent.sender).is_some_and(|first| *first < intent.nonce);
        if later || intent.keys.iter().any(|keys| absent(keys.shard)) {
            let first = stranded.entry(intent.sender).or_insert(intent.nonce);
            *first = intent.nonce.min(*first);
            continue;
        }
        if looked_at == caps.scan {
            break;
        }
        looked_at += 1;
        let from = round.look_up(intent, &undecided);
        if !round.admit(position, intent, from, caps) {
            round.block(intent, from);
        }
    }
    round.finish(caps.bundle_gas)
}

/// How many undecided groups write a key, and the last of them.
pub(crate) type Chain = (usize, Option<GroupId>);

/// What earlier intents that stay behind do with a key: whoever conflicts with them waits too, so that
/// nobody is overtaken for ever.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Blocked {
    No,
    Read,
    Written,
}

/// One key in a round: who writes it, or who reads it while nobody does. A writer is in one group
/// with everybody who uses the key, so it stands for them all.
struct Use {
    writer: Option<u32>,
    readers: SmallVec<[u32; 2]>,
    blocked: Blocked,
    chain: Chain,
}

/// A transaction taken into the round.
struct Taken<'a> {
    position: usize,
    intent: &'a Intent,
    /// Where the uses of its keys begin in the list of them.
    from: usize,
    /// Another one of its group, or itself: a union-find forest.
    parent: usize,
    /// Gas of its group, and how much that may have, if it stands for the group.
    gas: (u64, u64),
}

/// Groups as sets of a union-find forest over the transactions taken so far.
struct Round<'a> {
    taken: Vec<Taken<'a>>,
    round_gas: u64,
    /// Where each key's use stands.
    at: HashMap<u64, u32>,
    uses: Vec<Use>,
    /// Of each intent that was looked at, its keys' uses: for each owner those read, then those written.
    used: Vec<u32>,
}

impl<'a> Round<'a> {
    /// For about so many transactions.
    fn with_room(txs: usize) -> Self {
        // Most use four keys, of which they share one.
        Self {
            taken: Vec::with_capacity(txs),
            round_gas: 0,
            at: HashMap::with_capacity_and_hasher(3 * txs, Default::default()),
            uses: Vec::with_capacity(3 * txs),
            used: Vec::with_capacity(4 * txs),
        }
    }

    /// Finds the uses of an intent's keys. Returns where they begin.
    fn look_up(&mut self, intent: &Intent, undecided: impl Fn(u64) -> Chain) -> usize {
        let from = self.used.len();
        for key in intent.keys.iter().flat_map(|keys| keys.reads.iter().chain(&keys.writes)) {
            // A round looks at far fewer than 2^32 keys.
            let next = self.uses.len() as u32;
            let at = *self.at.entry(*key).or_insert(next);
            if at == next {
                let chain = undecided(*key);
                let (blocked, readers) = (Blocked::No, SmallVec::new());
                self.uses.push(Use { writer: None, readers, blocked, chain });
            }
            self.used.push(at);
        }
        from
    }

    /// The uses that an intent looked up, and whether it writes.
    fn uses_of(&self, intent: &Intent, from: usize) -> impl Iterator<Item = (&Use, bool)> {
        let of = |(at, is_write): (&u32, bool)| (&self.uses[*at as usize], is_write);
        self.used[from..].iter().zip(kinds(intent)).map(of)
    }

    fn root(&mut self, mut node: usize) -> usize {
        while self.taken[node].parent != node {
            let parent = self.taken[node].parent;
            let above = self.taken[parent].parent;
            self.taken[node].parent = above;
            node = above;
        }
        node
    }

    /// Takes an intent into the round, unless a cap or an earlier one says that it has to wait.
    fn admit(&mut self, position: usize, intent: &'a Intent, from: usize, caps: Caps) -> bool {
        let first = self.taken.is_empty();
        if self.taken.len() >= caps.round_txs
            || (!first && self.round_gas.saturating_add(intent.gas_limit) > caps.round_gas)
        {
            return false;
        }
        // Transactions of the round with which it shares a key that either writes.
        let mut joined: SmallVec<[usize; 4]> = SmallVec::new();
        for (uses, is_write) in self.uses_of(intent, from) {
            let waits = match uses.blocked {
                Blocked::No => false,
                Blocked::Read => is_write,
                Blocked::Written => true,
            };
            if waits || uses.chain.0 >= caps.max_chain {
                return false;
            }
            joined.extend(uses.writer.map(|node| node as usize));
            if is_write {
                joined.extend(uses.readers.iter().map(|node| *node as usize));
            }
        }
        for node in &mut joined {
            *node = self.root(*node);
        }
        joined.sort_unstable();
        joined.dedup();
        let alone = (intent.gas_limit, caps.group_gas.checked_shr(intent.halvings).unwrap_or(0));
        let (gas, cap) = joined
            .iter()
            .map(|root| self.taken[*root].gas)
            .fold(alone, |a, b| (a.0.saturating_add(b.0), a.1.min(b.1)));
        if !joined.is_empty() && gas > cap {
            return false;
        }
        let node = self.taken.len();
        self.taken.push(Taken { position, intent, from, parent: node, gas: (gas, cap) });
        self.round_gas = self.round_gas.saturating_add(intent.gas_limit);
        for root in joined {
            self.taken[root].parent = node;
        }
        for (at, is_write) in self.used[from..].iter().zip(kinds(intent)) {
            let uses = &mut self.uses[*at as usize];
            if is_write {
                uses.writer = Some(node as u32);
                uses.readers.clear();
            } else if uses.writer.is_none() {
                uses.readers.push(node as u32);
            }
        }
        true
    }

    /// Notes what an intent uses that stays behind.
    fn block(&mut self, intent: &Intent, from: usize) {
        for (at, is_write) in self.used[from..].iter().zip(kinds(intent)) {
            let blocked = &mut self.uses[*at as usize].blocked;
            match is_write {
                true => *blocked = Blocked::Written,
                false if *blocked == Blocked::No => *blocked = Blocked::Read,
                false => {}
            }
        }
    }

    fn finish(mut self, bundle_gas: u64) -> Drafts<'a> {
        const NONE: usize = usize::MAX;
        let mut draft_of = vec![NONE; self.taken.len()];
        let mut drafts: Vec<Draft> = Vec::with_capacity(self.taken.len());
        for node in 0..self.taken.len() {
            let root = self.root(node);
            if draft_of[root] == NONE {
                draft_of[root] = drafts.len();
                let (gas, cap) = self.taken[root].gas;
                let (executor, owners) = (ShardId::default(), Owners::new());
                let behind = SmallVec::new();
                drafts.push(Draft { executor, owners, gas, count: 0, cap, behind });
            }
            draft_of[node] = draft_of[root];
            let draft = &mut drafts[draft_of[node]];
            let Taken { intent, from, .. } = self.taken[node];
            draft.count += 1;
            draft.owners.extend(intent.keys.iter().map(|keys| keys.shard));
            draft.behind.extend(self.uses_of(intent, from).filter_map(|(uses, _)| uses.chain.1));
        }
        let by_draft = in_order(&draft_of, drafts.iter().map(|draft| draft.count));
        let mut rest = &by_draft[..];
        for draft in &mut drafts {
            draft.owners.sort_unstable();
            draft.owners.dedup();
            draft.behind.sort_unstable();
            draft.behind.dedup();
            let (members, behind) = rest.split_at(draft.count);
            rest = behind;
            draft.executor = match members {
                [alone] => first_of(self.taken[*alone].intent),
                _ => busiest(members.iter().map(|node| self.taken[*node].intent)),
            };
        }
        let (groups, bundle_of) = bundle(drafts, bundle_gas);
        draft_of.iter_mut().for_each(|draft| *draft = bundle_of[*draft]);
        let order = in_order(&draft_of, groups.iter().map(|group| group.count));
        let member = |node: usize| (self.taken[node].position, self.taken[node].intent);
        Drafts { groups, members: order.into_iter().map(member).collect() }
    }
}

/// Of each key of an intent, whether it is written.
fn kinds(intent: &Intent) -> impl Iterator<Item = bool> {
    let kinds = |count: usize, is_write| std::iter::repeat_n(is_write, count);
    let of = move |keys: &ShardKeys| {
        kinds(keys.reads.len(), false).chain(kinds(keys.writes.len(), true))
    };
    intent.keys.iter().flat_map(of)
}

/// What belongs to group 0, then what belongs to group 1, and so on: `group_of` each, and their `counts`.
fn in_order(group_of: &[usize], counts: impl Iterator<Item = usize>) -> Vec<usize> {
    let begins = counts.scan(0, |at, count| Some(std::mem::replace(at, *at + count)));
    let mut next: Vec<usize> = begins.collect();
    let mut order = vec![0; group_of.len()];
    for (item, group) in group_of.iter().enumerate() {
        order[next[*group]] = item;
        next[*group] += 1;
    }
    order
}

/// Unites groups that share nothing but their fate: the same executor, the same owners, the same
/// undecided groups before them. They are leased, run, acknowledged and decided at the same moments
/// anyway; as one group they cost it once. At most `bundle_gas` in what comes of it. Also returns which
/// of them each has become a part of.
fn bundle(drafts: Vec<Draft>, bundle_gas: u64) -> (Vec<Draft>, Vec<usize>) {
    let mut bundles: Vec<Draft> = Vec::with_capacity(drafts.len());
    let mut bundle_of = Vec::with_capacity(drafts.len());
    let mut filling: HashMap<(ShardId, Owners, SmallVec<[GroupId; 1]>), usize> = HashMap::default();
    for draft in drafts {
        let next = bundles.len();
        match filling.entry((draft.executor, draft.owners.clone(), draft.behind.clone())) {
            Entry::Vacant(new) => {
                new.insert(next);
            }
            Entry::Occupied(mut open) => {
                let bundle = &mut bundles[*open.get()];
                let gas = bundle.gas.saturating_add(draft.gas);
                let cap = bundle.cap.min(draft.cap);
                if gas <= cap.min(bundle_gas) {
                    (bundle.gas, bundle.cap) = (gas, cap);
                    bundle.count += draft.count;
                    bundle_of.push(*open.get());
                    continue;
                }
                open.insert(next);
            }
        }
        bundle_of.push(next);
        bundles.push(draft);
    }
    (bundles, bundle_of)
}

/// Puts each sender's transactions, at the places that they have, into the order of their nonces: they
/// may have come in another one.
pub(crate) fn in_nonce_order(members: &mut [(usize, &Intent)]) {
    let places = members.iter().enumerate().map(|(place, (_, intent))| (intent.sender, place));
    let mut places: SmallVec<[(u64, usize); 32]> = places.collect();
    places.sort_unstable();
    for own in places.chunk_by(|a, b| a.0 == b.0).filter(|own| own.len() > 1) {
        let mut intents: Vec<_> = own.iter().map(|(_, place)| members[*place]).collect();
        if !intents.is_sorted_by_key(|(_, intent)| intent.nonce) {
            intents.sort_by_key(|(_, intent)| intent.nonce);
            own.iter().zip(intents).for_each(|((_, place), intent)| members[*place] = intent);
        }
    }
}

/// The owner of the key that most transactions use, written ones first: that key never moves.
fn busiest<'a>(intents: impl Iterator<Item = &'a Intent>) -> ShardId {
    let mut uses: SmallVec<[(u64, bool, ShardId); 8]> = SmallVec::new();
    intents.for_each(|intent| uses.extend(keys_of(intent)));
    uses.sort_unstable();
    let of_key = uses.chunk_by(|a, b| a.0 == b.0);
    let busy = of_key.map(|uses| {
        let writes = uses.iter().filter(|(_, is_write, _)| *is_write).count();
        (writes, uses.len(), uses[0].0, uses[0].2)
    });
    busy.max().map(|(.., shard)| shard).unwrap_or_default()
}

/// The same of one transaction, which uses each of its keys once.
fn first_of(intent: &Intent) -> ShardId {
    let key = keys_of(intent).max_by_key(|(key, is_write, shard)| (*is_write, *key, *shard));
    key.map(|(.., shard)| shard).unwrap_or_default()
}

/// Every key of an intent, whether it is written, and its owner.
fn keys_of(intent: &Intent) -> impl Iterator<Item = (u64, bool, ShardId)> {
    intent.keys.iter().flat_map(|keys| {
        let of = |is_write| move |key: &u64| (*key, is_write, keys.shard);
        keys.writes.iter().map(of(true)).chain(keys.reads.iter().map(of(false)))
    })
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
        let mut members: Vec<(usize, &Intent)> = intents.iter().enumerate().collect();
        in_nonce_order(&mut members);
        let order: Vec<_> = members.iter().map(|(_, i)| (i.sender, i.nonce)).collect();
        assert_eq!(order, [(7, 1), (1, 5), (7, 2), (8, 0), (7, 3), (1, 6)]);
    }
}
