//! An executor's side of the protocol: gathers what groups need, says when they can be run, and
//! passes values in flight on to the executors of later groups.
//!
//! Nothing here is durable: what is lost is asked for again, and the same leases give the same
//! results.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use alloy_primitives::keccak256;
use atoll_types::{
    B256, BlockEnv, Bytes, Flight, GroupDigest, GroupId, GroupToRun, InFlight, KeySet, LateAsk,
    LateLease, Lease, Part, PartMessage, Placement, PlannedGroup, ShardId, SharedTx, StateKey,
    StateValue, TxRef, U256, Want, Write, group_digest,
};
use serde::Serialize;

use crate::planted::{Bug, Planted};

/// Leases kept of groups whose plan has not been seen yet.
const MAX_EARLY: usize = 16_384;
/// Wants kept of groups that have no result yet.
const MAX_WANTS: usize = 16_384;
/// How often a group may ask for late leases. What it lacks after that is a wrong prediction.
const MAX_LATE_PASSES: u32 = 8;
/// How often an owner is asked again for a late lease before that counts as refused.
const MAX_LATE_AGAIN: u32 = 3;

/// A group with all that it needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ready {
    pub group: PlannedGroup,
    pub env: BlockEnv,
    /// In the order in which they run.
    pub txs: Vec<SharedTx>,
    /// Every leased value, those in flight and payments under way among them.
    pub values: Vec<Write>,
    /// Where each code may be found: the owner of the account that has it.
    pub codes: Vec<(ShardId, B256)>,
    pub late: LateKeys,
}

/// What has become of the keys that a run asked for beyond its leases.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LateKeys {
    /// May be written too.
    pub writes: Vec<StateKey>,
    /// Whoever needs one of these was predicted wrongly.
    pub refused: Vec<StateKey>,
    /// How often the group was run and found to need more.
    pub passes: u32,
}

/// What an input makes an executor do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecutorEffect {
    /// Run it, and hand in what it gives with [`Executor::ran`].
    Run(Box<Ready>),
    /// Ask another executor for values in flight.
    Want { to: ShardId, want: Want },
    /// Send values in flight.
    Flight { to: ShardId, flight: Flight },
    /// Ask an owner, perhaps this shard itself, for late leases.
    Late { to: ShardId, ask: LateAsk },
}

#[derive(Clone, Debug, Default, Serialize)]
struct Gathering {
    group: Option<GroupToRun>,
    leases: BTreeMap<ShardId, Lease>,
    /// Values that other executors have sent, with the result that they are of.
    landed: BTreeMap<(GroupId, StateKey), (StateValue, B256)>,
}

impl Gathering {
    fn in_flight(&self) -> impl Iterator<Item = &InFlight> {
        self.leases.values().flat_map(|lease| &lease.in_flight)
    }
}

/// A group that waits for late leases.
#[derive(Clone, Debug, Serialize)]
struct Asking {
    ready: Ready,
    /// What each owner has been asked for and has not answered.
    asked: BTreeMap<ShardId, KeySet>,
    /// How often it was asked again.
    again: u32,
}

/// A group that was run.
#[derive(Clone, Debug, Serialize)]
struct Ended {
    parts: Vec<Part>,
    digest: Option<B256>,
    /// Whether the shard's log has it. Until then nothing of it may leave.
    kept: bool,
}

impl Asking {
    fn effects(&self) -> impl Iterator<Item = ExecutorEffect> {
        let group = self.ready.group.id;
        self.asked.iter().map(move |(to, keys)| {
            let ask = LateAsk { group, keys: keys.clone() };
            ExecutorEffect::Late { to: *to, ask }
        })
    }
}

impl Ended {
    fn digest(&mut self) -> B256 {
        let manifest = || {
            let hash = |part: &Part| (part.owner, part.hash());
            let manifest: Vec<_> = self.parts.iter().map(hash).collect();
            let part = self.parts.first();
            part.map_or(B256::ZERO, |p| group_digest(p.chain_id, p.epoch, p.group, &manifest))
        };
        *self.digest.get_or_insert_with(manifest)
    }

    /// Code that the group has created, as far as these values name it.
    fn codes(&self, values: &[Write]) -> Vec<Bytes> {
        let named = values.iter().filter(|(key, _)| matches!(key, StateKey::Code(_)));
        let named: HashSet<B256> = named.map(|(_, value)| value.code().hash).collect();
        if named.is_empty() {
            return Vec::new();
        }
        let all = self.parts.iter().flat_map(|part| &part.codes);
        all.filter(|code| named.contains(&keccak256(code))).cloned().collect()
    }

    fn value(&self, key: &StateKey) -> Option<StateValue> {
        let find = |part: &Part| {
            let at = part.writes.binary_search_by_key(key, |(key, _)| *key).ok()?;
            Some(part.writes[at].1)
        };
        self.parts.iter().find_map(find)
    }
}

/// The state machine of the groups that one shard executes.
#[derive(Clone, Debug, Serialize)]
pub struct Executor {
    shard: ShardId,
    gathering: BTreeMap<GroupId, Gathering>,
    /// Groups under way, with what they were given in flight.
    running: BTreeMap<GroupId, Vec<GroupDigest>>,
    asking: BTreeMap<GroupId, Asking>,
    ended: BTreeMap<GroupId, Ended>,
    /// Groups here that wait for the result of a group that runs here.
    waiting: BTreeMap<GroupId, BTreeSet<GroupId>>,
    /// What others want of groups that have no durable result.
    wants: BTreeMap<GroupId, Vec<(ShardId, Want)>>,
    wants_held: usize,
    #[serde(skip)]
    bug: Bug,
}

impl Executor {
    pub fn new(shard: ShardId) -> Self {
        Self {
            shard,
            gathering: BTreeMap::new(),
            running: BTreeMap::new(),
            asking: BTreeMap::new(),
            ended: BTreeMap::new(),
            waiting: BTreeMap::new(),
            wants: BTreeMap::new(),
            wants_held: 0,
            bug: Bug::default(),
        }
    }

    /// Gives it a bug.
    #[cfg(feature = "planted")]
    pub fn plant(&mut self, bug: Planted) {
        self.bug.plant(bug);
    }

    fn is_known(&self, id: GroupId) -> bool {
        self.running.contains_key(&id) || self.ended.contains_key(&id)
    }

    /// A plan of which this shard is the executor. Repeated plans change nothing.
    pub fn plan(&mut self, group: GroupToRun) -> Vec<ExecutorEffect> {
        let id = group.group.id;
        if self.is_known(id) {
            return Vec::new();
        }
        self.gathering.entry(id).or_default().group = Some(group);
        self.try_run(id).into_iter().collect()
    }

    /// A lease. If the group's plan is not known yet, it waits for it. One that came again takes the
    /// place of the one before: what was in flight then may be known now.
    pub fn lease(&mut self, lease: Lease) -> Vec<ExecutorEffect> {
        let id = lease.group;
        let is_new = !self.gathering.contains_key(&id);
        if self.is_known(id) || (is_new && self.gathering.len() >= MAX_EARLY) {
            return Vec::new();
        }
        let mut effects = Vec::new();
        for flight in &lease.in_flight {
            if flight.executor == self.shard {
                self.waiting.entry(flight.group).or_default().insert(id);
            }
        }
        effects.extend(self.wants_of(&lease));
        self.gathering.entry(id).or_default().leases.insert(lease.from, lease);
        effects.extend(self.try_run(id));
        effects
    }

    /// Requests for what a lease says is in flight from other executors.
    fn wants_of(&self, lease: &Lease) -> Vec<ExecutorEffect> {
        let mut sources: BTreeMap<(ShardId, GroupId), Vec<StateKey>> = BTreeMap::new();
        for flight in lease.in_flight.iter().filter(|flight| flight.executor != self.shard) {
            sources.entry((flight.executor, flight.group)).or_default().push(flight.key);
        }
        let want = |((to, source), keys)| {
            let want = Want { source, to: lease.group, keys };
            ExecutorEffect::Want { to, want }
        };
        sources.into_iter().map(want).collect()
    }

    /// Another executor's request. If the result is not durable yet, it is answered when it is.
    pub fn want(&mut self, from: ShardId, want: Want) -> Option<ExecutorEffect> {
        if let Some(ended) = self.ended.get_mut(&want.source).filter(|ended| ended.kept) {
            return Some(flight(from, &want, ended));
        }
        if self.wants_held < MAX_WANTS {
            let wants = self.wants.entry(want.source).or_default();
            if !wants.iter().any(|(shard, held)| *shard == from && *held == want) {
                wants.push((from, want));
                self.wants_held += 1;
            }
        }
        None
    }

    /// Values in flight from the executor of their group.
    pub fn flight(&mut self, from: ShardId, flight: Flight) -> Option<ExecutorEffect> {
        let Flight { source, mut digest, to, mut values, codes: _ } = flight;
        if self.bug.is(Planted::OtherSource) {
            digest = B256::ZERO;
            values.iter_mut().for_each(|(key, value)| *value = key.absent());
        }
        let gathering = self.gathering.get_mut(&to)?;
        let meant = |f: &&InFlight| (f.group, f.executor) == (source, from);
        let expected: HashSet<StateKey> =
            gathering.in_flight().filter(meant).map(|flight| flight.key).collect();
        for (key, value) in values.into_iter().filter(|(key, _)| expected.contains(key)) {
            gathering.landed.insert((source, key), (value, digest));
        }
        self.try_run(to)
    }

    /// What running a group has given. The parts are told what they were made from. `None`: the group
    /// is not under way here, and the parts must not be used.
    pub fn ran(&mut self, id: GroupId, parts: &mut [Part]) -> Option<Vec<ExecutorEffect>> {
        let sources = self.running.remove(&id)?;
        for part in parts.iter_mut() {
            part.sources.clone_from(&sources);
        }
        self.ended.insert(id, Ended { parts: parts.to_vec(), digest: None, kept: false });
        Some(self.wake(id))
    }

    /// A run needs more than it was leased: asks for it, and has the group run again with what it
    /// gets.
    pub fn lacks(
        &mut self,
        mut ready: Ready,
        keys: &KeySet,
        placement: &Placement,
    ) -> Vec<ExecutorEffect> {
        let id = ready.group.id;
        ready.late.passes += 1;
        if ready.late.passes > MAX_LATE_PASSES {
            ready.late.refused.extend(keys.all());
            return vec![ExecutorEffect::Run(Box::new(ready))];
        }
        let mut asked: BTreeMap<ShardId, KeySet> = BTreeMap::new();
        for key in &keys.reads {
            asked.entry(placement.owner_of(key)).or_default().reads.push(*key);
        }
        for key in &keys.writes {
            asked.entry(placement.owner_of(key)).or_default().writes.push(*key);
        }
        let asking = Asking { ready, asked, again: 0 };
        let effects = asking.effects().collect();
        self.asking.insert(id, asking);
        effects
    }

    /// An owner's answer to a request for late leases.
    pub fn late(&mut self, lease: LateLease) -> Option<ExecutorEffect> {
        let id = lease.group;
        let asking = self.asking.get_mut(&id)?;
        asking.asked.remove(&lease.from)?;
        let LateLease { reads, writes, refused, .. } = lease;
        let ready = &mut asking.ready;
        ready.late.writes.extend(writes.iter().map(|(key, _)| *key));
        ready.late.refused.extend(refused);
        // A value that was leased before may be in flight, or have a payment added to it.
        let before = ready.values.len();
        for (key, value) in reads.into_iter().chain(writes) {
            if ready.values[..before].binary_search_by_key(&key, |(key, _)| *key).is_err() {
                ready.values.push((key, value));
            }
            if let StateKey::Code(_) = key {
                ready.codes.push((lease.from, value.code().hash));
            }
        }
        ready.values.sort_unstable_by_key(|(key, _)| *key);
        if !asking.asked.is_empty() {
            return None;
        }
        let Asking { ready, .. } = self.asking.remove(&id)?;
        Some(ExecutorEffect::Run(Box::new(ready)))
    }

    /// Groups here that have waited for a group.
    fn wake(&mut self, source: GroupId) -> Vec<ExecutorEffect> {
        let waiting = self.waiting.remove(&source).unwrap_or_default();
        waiting.into_iter().filter_map(|id| self.try_run(id)).collect()
    }

    /// The result that the shard's log holds of a group: the first one that it was given. From now
    /// on others may have its values.
    pub fn kept(&mut self, id: GroupId, result: &[PartMessage]) -> Vec<ExecutorEffect> {
        let digest = result.first().map(PartMessage::digest);
        let parts = result.iter().map(|message| message.part.clone()).collect();
        self.running.remove(&id);
        self.gathering.remove(&id);
        let mut ended = Ended { parts, digest, kept: true };
        let wants = self.wants.remove(&id).unwrap_or_default();
        self.wants_held -= wants.len();
        let mut effects: Vec<_> =
            wants.iter().map(|(from, want)| flight(*from, want, &mut ended)).collect();
        self.ended.insert(id, ended);
        effects.extend(self.wake(id));
        effects
    }

    /// A group could not be run, or its result not be kept: what it needs is asked for again.
    pub fn gave_up(&mut self, id: GroupId) {
        self.running.remove(&id);
        if self.ended.get(&id).is_some_and(|ended| !ended.kept) {
            self.ended.remove(&id);
        }
    }

    fn try_run(&mut self, id: GroupId) -> Option<ExecutorEffect> {
        let gathering = self.gathering.get(&id)?;
        let group = gathering.group.as_ref()?;
        let owners = &group.group.owners;
        if !owners.iter().all(|owner| gathering.leases.contains_key(owner)) {
            return None;
        }
        let leases = || gathering.leases.iter().filter(|(from, _)| owners.contains(from));
        let mut values: BTreeMap<StateKey, StateValue> = BTreeMap::new();
        let mut codes = Vec::new();
        let mut sources: BTreeMap<GroupId, B256> = BTreeMap::new();
        for (from, lease) in leases() {
            values.extend(lease.values.iter().copied());
            for flight in &lease.in_flight {
                let (value, digest) = if flight.executor == self.shard {
                    let ended = self.ended.get_mut(&flight.group)?;
                    (ended.value(&flight.key)?, ended.digest())
                } else {
                    *gathering.landed.get(&(flight.group, flight.key))?
                };
                values.insert(flight.key, value);
                sources.insert(flight.group, digest);
            }
            let code = |key: &StateKey| match (key, values.get(key)) {
                (StateKey::Code(_), Some(value)) => Some((*from, value.code().hash)),
                _ => None,
            };
            let leased = lease.values.iter().map(|(key, _)| key);
            codes.extend(leased.chain(lease.in_flight.iter().map(|f| &f.key)).filter_map(code));
        }
        for credit in leases().flat_map(|(_, lease)| &lease.credits) {
            let account = values.get_mut(&StateKey::Basic(credit.account))?;
            *account = StateValue::Basic(paid(account, credit.amount));
        }
        let sent = leases().flat_map(|(_, lease)| &lease.bodies);
        let bodies: HashMap<TxRef, &SharedTx> =
            group.txs.iter().chain(sent).map(|tx| (tx.reference(), tx)).collect();
        let body = |tx: &TxRef| bodies.get(tx).copied().cloned();
        let txs = group.group.txs.iter().map(body).collect::<Option<Vec<_>>>()?;
        let ready = Ready {
            txs,
            values: values.into_iter().collect(),
            codes,
            group: group.group.clone(),
            env: group.env,
            late: LateKeys::default(),
        };
        self.gathering.remove(&id);
        let sources = sources.into_iter().map(|(group, digest)| GroupDigest { group, digest });
        self.running.insert(id, sources.collect());
        Some(ExecutorEffect::Run(Box::new(ready)))
    }

    /// The leases that are missing of groups whose plan is known, and those that may tell more by
    /// now: their values are in flight.
    pub fn missing(&self) -> Vec<(GroupId, ShardId)> {
        let planned = self.gathering.iter().filter_map(|(id, gathering)| {
            let owners = &gathering.group.as_ref()?.group.owners;
            let lacks = |owner: &&ShardId| {
                gathering.leases.get(*owner).is_none_or(|lease| !lease.in_flight.is_empty())
            };
            Some(owners.iter().filter(lacks).map(|owner| (*id, *owner)))
        });
        planned.flatten().collect()
    }

    /// Requests for values in flight and for late leases that have not been answered, to be made again.
    /// Who does not answer for long refuses: the owner may be away, and the group is not to hang on
    /// what nobody predicted.
    pub fn again(&mut self) -> Vec<ExecutorEffect> {
        let planned = self.gathering.values().filter(|gathering| gathering.group.is_some());
        let leases = planned.flat_map(|gathering| gathering.leases.values());
        let mut effects: Vec<_> = leases.flat_map(|lease| self.wants_of(lease)).collect();
        let gives_up = |_: &GroupId, asking: &mut Asking| {
            asking.again += 1;
            asking.again > MAX_LATE_AGAIN
        };
        for (_, Asking { mut ready, asked, .. }) in self.asking.extract_if(.., gives_up) {
            ready.late.refused.extend(asked.values().flat_map(KeySet::all));
            effects.push(ExecutorEffect::Run(Box::new(ready)));
        }
        effects.extend(self.asking.values().flat_map(Asking::effects));
        effects
    }

    /// Whether the durable result of a group is known here.
    pub fn is_kept(&self, id: GroupId) -> bool {
        self.ended.get(&id).is_some_and(|ended| ended.kept)
    }

    /// Forgets groups that are decided, given the ones that were open at a cut, and early leases of
    /// rounds long past.
    pub fn keep_only(&mut self, open: &HashSet<GroupId>, cut: u64) {
        let may_be_open = |id: &GroupId| open.contains(id) || id.round > cut;
        let early = |id: &GroupId| id.round + 64 > cut;
        self.gathering
            .retain(|id, gathering| may_be_open(id) || (gathering.group.is_none() && early(id)));
        self.ended.retain(|id, _| may_be_open(id));
        self.asking.retain(|id, _| {
            let keeps = may_be_open(id);
            if !keeps {
                self.running.remove(id);
            }
            keeps
        });
        self.waiting.retain(|id, _| may_be_open(id) || early(id));
        self.wants.retain(|id, _| may_be_open(id) || early(id));
        self.wants_held = self.wants.values().map(Vec::len).sum();
    }
}

fn flight(to: ShardId, want: &Want, ended: &mut Ended) -> ExecutorEffect {
    let value = |key: &StateKey| Some((*key, ended.value(key)?));
    let values: Vec<Write> = want.keys.iter().filter_map(value).collect();
    let codes = ended.codes(&values);
    let (source, digest) = (want.source, ended.digest());
    ExecutorEffect::Flight { to, flight: Flight { source, digest, to: want.to, values, codes } }
}

fn paid(account: &StateValue, amount: U256) -> atoll_types::Basic {
    let mut basic = account.basic();
    // No wei is created, so balances cannot exceed the genesis supply.
    basic.balance = basic.balance.saturating_add(amount);
    basic
}
