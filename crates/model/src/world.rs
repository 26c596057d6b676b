//! A state of the world: shards, beacon, and what is on its way between them.

use std::{
    collections::BTreeMap,
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use atoll_invariants::Property;
use atoll_types::{B256, Decision, GroupId, PlannedGroup, ShardId, StateKey, StateValue, Verdict};

use crate::{
    beacon::Beacon,
    ledger::{Broken, Ledger},
    message::{Content, Message, Network},
    scenario::{Bounds, Scenario},
    serial,
    shard::{Around, Said, Shard},
};

/// One step of the world.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// A client's transaction reaches its shard, which runs it or begins to share it.
    Submit(usize),
    /// A transaction that came back is predicted and shared again.
    Predict(ShardId, B256),
    /// What a shard has to say reaches the beacon.
    Announce(ShardId),
    /// The beacon makes a block.
    Block,
    /// A shard handles its next beacon block.
    Cut(ShardId),
    /// An executor runs a group; whether its unsure transactions take effect.
    Run(ShardId, GroupId, bool),
    /// A result becomes durable, and its parts are sent.
    Keep(ShardId, GroupId),
    /// A message arrives.
    Deliver(Arc<Message>),
    /// A shard that does not execute a group sends parts of it.
    Stray(ShardId, GroupId),
    /// A shard stops and starts again.
    Crash(ShardId),
    /// The beacon stops and starts again.
    CrashBeacon,
}

/// The state of everything.
#[derive(Clone)]
pub struct World {
    pub shards: Vec<Arc<Shard>>,
    pub beacon: Arc<Beacon>,
    pub network: Network,
    pub crashes: u8,
    pub beacon_crashes: u8,
    pub strays: u8,
    /// Newest cut up to which all is compared with one machine.
    pub compared: u64,
    /// The first property found not to hold.
    pub broken: Option<Broken>,
}

impl World {
    /// The world in which the early transactions are with the beacon.
    pub fn new(around: Around<'_>, bounds: &Bounds) -> Self {
        let scenario = around.scenario;
        let beacon = Beacon::new(scenario);
        let fresh = |shard| Arc::new(Shard::new(scenario, fresh(scenario, shard)));
        let mut world = Self {
            shards: scenario.placement.all().map(fresh).collect(),
            beacon: Arc::new(beacon),
            network: Network::default(),
            crashes: bounds.crashes,
            beacon_crashes: bounds.beacon_crashes,
            strays: bounds.strays,
            compared: 0,
            broken: None,
        };
        let eager = Bounds { late_sharing: false, ..bounds.clone() };
        for at in &scenario.early {
            world.submit(around, &eager, *at);
            world.announce(around, scenario.home(*at), false);
        }
        world
    }

    /// A shard.
    pub fn shard(&self, id: ShardId) -> &Shard {
        &self.shards[usize::from(id.0)]
    }

    /// Hash of the state.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = std::hash::DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }

    /// Notes a property that does not hold.
    fn fail(&mut self, broken: Broken) {
        self.broken.get_or_insert(broken);
    }

    /// The newest value of every key of every shard.
    fn values(&self, scenario: &Scenario) -> impl Fn(&StateKey) -> StateValue + use<> {
        let (shards, placement) = (self.shards.clone(), scenario.placement.clone());
        move |key| shards[usize::from(placement.owner_of(key).0)].ledger.value(key)
    }

    fn edit(
        &mut self,
        around: Around<'_>,
        bounds: &Bounds,
        id: ShardId,
        step: impl FnOnce(&mut Shard) -> Said,
    ) {
        let shard = Arc::make_mut(&mut self.shards[usize::from(id.0)]);
        let said = step(shard);
        shard.seal();
        match said {
            Ok(messages) => self.post(around, bounds, messages),
            Err(broken) => self.fail(broken),
        }
    }

    /// Sends messages. Those of kinds that are not late arrive now.
    fn post(&mut self, around: Around<'_>, bounds: &Bounds, messages: Vec<Message>) {
        for message in messages {
            let is_late = match message.content {
                Content::Part(_) | Content::Anchor(_) => true,
                Content::Share(_)
                | Content::Held { .. }
                | Content::Credit(_)
                | Content::Settle(_) => bounds.late_sharing,
                Content::Lease(_)
                | Content::Want { .. }
                | Content::Flight { .. }
                | Content::Late { .. }
                | Content::LateLease(_) => bounds.late_leases,
            };
            if is_late {
                self.network.send(message);
            } else {
                let to = message.shard;
                self.edit(around, bounds, to, |shard| shard.receive(around, &message.content));
            }
        }
    }

    /// Hands a transaction to its shard.
    pub fn submit(&mut self, around: Around<'_>, bounds: &Bounds, at: usize) {
        let values = self.values(around.scenario);
        let home = around.scenario.home(at);
        self.edit(around, bounds, home, |shard| shard.submit(around, at, &values));
    }

    /// Predicts a transaction again.
    pub fn predict(&mut self, around: Around<'_>, bounds: &Bounds, at: ShardId, tx: &B256) {
        let values = self.values(around.scenario);
        self.edit(around, bounds, at, |shard| shard.predict(around.scenario, tx, &values));
    }

    /// Tells the beacon what a shard has to say. Its anchor comes by itself if anchors are late.
    pub fn announce(&mut self, around: Around<'_>, id: ShardId, late_anchors: bool) {
        let mut anchor = self.shard(id).ledger.owner.anchor();
        if around.planted == Some(crate::model::Planted::CommitBeforeAcks) {
            for shard in &self.shards {
                anchor.acks.extend(shard.ledger.owner.anchor().acks);
            }
            anchor.acks.sort_unstable_by_key(|ack| ack.group);
            anchor.acks.dedup_by_key(|ack| ack.group);
        }
        let announced = self.shard(id).announced();
        let beacon = Arc::make_mut(&mut self.beacon);
        if !late_anchors {
            beacon.anchor(anchor);
        }
        announced.iter().for_each(|shared| beacon.announce(around.scenario, shared));
        beacon.seal();
    }

    /// Whether a shard has anything to tell the beacon.
    pub fn has_news(&self, shard: &Shard, late_anchors: bool) -> bool {
        (!late_anchors && self.beacon.listens(&shard.ledger.owner.anchor()))
            || shard.announced().iter().any(|shared| !self.beacon.knows(shared))
    }

    /// Has the beacon make a block.
    pub fn block(&mut self) {
        let beacon = Arc::make_mut(&mut self.beacon);
        let made = beacon.block();
        beacon.seal();
        if let Err(broken) = made {
            self.fail(broken);
        }
    }

    /// Has a shard handle its next beacon block.
    pub fn cut(&mut self, around: Around<'_>, bounds: &Bounds, id: ShardId) {
        let Some(link) = self.beacon.after(self.shard(id).ledger.owner.cut_number()).cloned()
        else {
            return;
        };
        self.edit(around, bounds, id, |shard| shard.cut(around, &link));
        self.check(around.scenario);
    }

    /// Has an executor run a group that is ready.
    pub fn run(&mut self, around: Around<'_>, bounds: &Bounds, id: ShardId, run: (GroupId, bool)) {
        self.edit(around, bounds, id, |shard| shard.run(around, run.0, run.1));
    }

    /// Makes a result durable.
    pub fn keep(&mut self, around: Around<'_>, bounds: &Bounds, id: ShardId, group: GroupId) {
        self.edit(around, bounds, id, |shard| shard.keep(around, group));
    }

    /// Has every shard do again what is open.
    pub fn refresh(&mut self, around: Around<'_>, bounds: &Bounds) {
        for id in around.scenario.placement.all() {
            self.edit(around, bounds, id, |shard| shard.refresh(around));
        }
    }

    /// Has a message arrive.
    pub fn deliver(&mut self, around: Around<'_>, bounds: &Bounds, message: &Message) {
        if let Content::Anchor(anchor) = &message.content {
            let beacon = Arc::make_mut(&mut self.beacon);
            beacon.anchor(anchor.clone());
            beacon.seal();
            return;
        }
        self.edit(around, bounds, message.shard, |shard| {
            if is_for_executor(&message.content) {
                shard.heard.insert(message.id());
            }
            shard.receive(around, &message.content)
        });
    }

    /// Whether a message would change anything now.
    pub fn listens(&self, message: &Message) -> bool {
        let shard = self.shard(message.shard);
        match &message.content {
            Content::Anchor(anchor) => self.beacon.listens(anchor),
            content if is_for_executor(content) => !shard.heard.contains(&message.id()),
            content => shard.listens(content),
        }
    }

    /// Has a shard that does not execute a group say what an executor would.
    pub fn stray(&mut self, id: ShardId, group: GroupId) {
        let Some(plan) = self.shard(id).ledger.owner.plan(group).cloned() else { return };
        let parts = plan.owners.iter().map(|owner| {
            let part = crate::toy::empty_part(&plan, *owner);
            atoll_types::Part { executor: id, ..part }
        });
        let parts: Vec<_> = parts.collect();
        let manifest: Vec<_> = parts.iter().map(|part| (part.owner, part.hash())).collect();
        for part in parts.into_iter().filter(|part| part.owner != id) {
            let message = atoll_types::PartMessage { part, manifest: manifest.clone() };
            self.network.send(Message::new(message.part.owner, Content::Part(message)));
        }
        self.strays -= 1;
    }

    /// Stops a shard and starts it again.
    pub fn crash(&mut self, around: Around<'_>, bounds: &Bounds, id: ShardId) {
        let fresh = fresh(around.scenario, id);
        self.edit(around, bounds, id, |shard| shard.crash(around, fresh));
        // The others are asked again for what it had from them.
        if !bounds.late_leases {
            self.refresh(around, bounds);
        }
    }

    /// Stops the beacon and starts it again.
    pub fn crash_beacon(&mut self, around: Around<'_>) {
        let beacon = Arc::make_mut(&mut self.beacon);
        let again = beacon.crash(around.scenario);
        beacon.seal();
        if let Err(broken) = again {
            self.fail(broken);
        }
    }

    /// Sends the anchors that are new.
    pub fn post_anchors(&mut self) {
        for shard in self.shards.clone() {
            let anchor = shard.ledger.owner.anchor();
            self.network.send(Message::new(shard.id(), Content::Anchor(anchor)));
        }
    }

    /// The block that has decided a group.
    fn decided_at(&self, group: GroupId) -> Option<u64> {
        let decides = |link: &&Arc<crate::beacon::Link>| {
            link.block.decisions.iter().any(|decision| decision.group == group)
        };
        self.beacon.chain.iter().find(decides).map(|link| link.block.number())
    }

    /// Forgets messages that can have no effect any more.
    pub fn collect(&mut self) {
        let world = self.clone();
        self.network.retain(|message| {
            let owner = &world.shard(message.shard).ledger.owner;
            // A decided group never opens again.
            let open =
                |group: GroupId| world.decided_at(group).is_none_or(|at| owner.cut_number() < at);
            let runs = |group: GroupId| open(group) && owner.result(group).is_none();
            match &message.content {
                // A group that has its result never runs again.
                Content::Lease(lease) => runs(lease.group),
                Content::Flight { flight, .. } => runs(flight.to),
                Content::LateLease(lease) => runs(lease.group),
                Content::Want { want, .. } => open(want.source),
                Content::Late { ask, .. } => open(ask.group),
                // A part once held stays.
                Content::Part(part) => {
                    let group = part.part.group;
                    let waits = || owner.awaited().any(|plan| plan.id == group);
                    owner.cut_number() < group.round || (open(group) && waits())
                }
                Content::Credit(credit) => credit.seq > owner.received(credit.from),
                Content::Settle(settlement) => owner.is_news(settlement),
                // A beacon that forgets what it has heard may hear it again.
                Content::Anchor(anchor) => world.beacon_crashes > 0 || !world.beacon.is_old(anchor),
                Content::Share(_) | Content::Held { .. } => true,
            }
        });
    }

    /// Checks what can be checked as soon as a shard has passed a cut.
    fn check(&mut self, scenario: &Scenario) {
        if self.broken.is_some() {
            return;
        }
        let checks = [conservation(self, scenario), atomicity(self), exactly_once(self)];
        for check in checks {
            if let Err(broken) = check {
                return self.fail(broken);
            }
        }
        let cuts = self.shards.iter().map(|shard| shard.ledger.owner.cut_number());
        let settled = |cut: u64| {
            let before = usize::try_from(cut).ok()?.checked_sub(1)?;
            self.beacon.chain.get(before).map(|link| link.block.settled)
        };
        let common = cuts.map(|cut| settled(cut).unwrap_or(0)).min().unwrap_or(0);
        if common > self.compared {
            self.compared = common;
            if let Err(broken) = serial::check(scenario, self, common) {
                self.fail(broken);
            }
        }
    }
}

fn is_for_executor(content: &Content) -> bool {
    matches!(
        content,
        Content::Lease(_)
            | Content::Want { .. }
            | Content::Flight { .. }
            | Content::Late { .. }
            | Content::LateLease(_)
    )
}

fn fresh(scenario: &Scenario, shard: ShardId) -> Ledger {
    let genesis = atoll_commit::Planner::new(scenario.planner.clone()).head().clone();
    Ledger::new(scenario, shard, &genesis)
}

/// At the newest cut that all shards have passed; the others were checked when they were it.
fn conservation(world: &World, scenario: &Scenario) -> Result<(), Broken> {
    let cut = world.shards.iter().map(|shard| shard.ledger.history.purses.len() - 1).min();
    let cut = cut.unwrap_or(0);
    let purses = || world.shards.iter().map(|shard| &shard.ledger.history.purses[cut]);
    let here: atoll_types::U256 = purses().map(|purse| purse.here).sum();
    let sent: atoll_types::U256 = purses().map(|purse| purse.sent).sum();
    let received: atoll_types::U256 = purses().map(|purse| purse.received).sum();
    if here + sent == scenario.supply + received {
        return Ok(());
    }
    let detail = format!(
        "at cut {cut}: {here} wei here and {sent} sent, {} at first and {received} received",
        scenario.supply
    );
    Err(Broken::new(Property::Conservation, detail))
}

fn atomicity(world: &World) -> Result<(), Broken> {
    let mut ends: BTreeMap<GroupId, (ShardId, Option<B256>)> = BTreeMap::new();
    for shard in &world.shards {
        for (group, end) in &shard.ledger.history.ended {
            let (first, other) = ends.entry(*group).or_insert((shard.id(), *end));
            if other != end {
                let detail =
                    format!("group {group}: shard {first} {other:?}, shard {} {end:?}", shard.id());
                return Err(Broken::new(Property::Atomicity, detail));
            }
        }
    }
    // Whoever has passed a commit has applied it.
    let plans: BTreeMap<GroupId, &PlannedGroup> =
        world.beacon.chain.iter().flat_map(|link| &link.block.plan).map(|p| (p.id, p)).collect();
    for link in &world.beacon.chain {
        for Decision { group, verdict } in &link.block.decisions {
            let (Verdict::Commit { digest, late }, Some(plan)) = (verdict, plans.get(group)) else {
                continue;
            };
            for owner in plan.owners.iter().chain(late) {
                let ledger = &world.shard(*owner).ledger;
                let passed = ledger.owner.cut_number() >= link.block.number();
                if passed && ledger.history.ended.get(group) != Some(&Some(*digest)) {
                    let detail = format!("shard {owner} has not applied group {group}");
                    return Err(Broken::new(Property::Atomicity, detail));
                }
            }
        }
    }
    Ok(())
}

fn exactly_once(world: &World) -> Result<(), Broken> {
    let mut nonces: BTreeMap<_, Vec<u64>> = BTreeMap::new();
    for receipt in world.shards.iter().flat_map(|shard| &shard.ledger.history.receipts) {
        nonces.entry(receipt.sender).or_default().push(receipt.nonce);
    }
    for (sender, mut nonces) in nonces {
        nonces.sort_unstable();
        if nonces.windows(2).any(|pair| pair[0] == pair[1]) {
            let detail = format!("two receipts for one nonce of {sender}: {nonces:?}");
            return Err(Broken::new(Property::ExactlyOnce, detail));
        }
    }
    Ok(())
}

impl Hash for World {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.shards.iter().for_each(|shard| shard.fingerprint().hash(state));
        self.beacon.fingerprint().hash(state);
        self.network.fingerprint().hash(state);
        (self.crashes, self.beacon_crashes, self.strays).hash(state);
        self.broken.as_ref().map(|broken| broken.property).hash(state);
    }
}

impl PartialEq for World {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint() == other.fingerprint()
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cuts: Vec<u64> =
            self.shards.iter().map(|shard| shard.ledger.owner.cut_number()).collect();
        write!(f, "beacon at {}, shards at {cuts:?}", self.beacon.head())?;
        if let Some(Broken { property, detail }) = &self.broken {
            write!(f, "; {property} does not hold: {detail}")?;
        }
        Ok(())
    }
}
