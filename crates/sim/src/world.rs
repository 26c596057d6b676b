//! Shards and a beacon in one place, moved forward tick by tick.

use std::{collections::BTreeMap, sync::Arc};

use atoll_commit::{BeaconRecord, OwnerConfig, Planner, PlannerConfig};
use atoll_evm::CodeCache;
use atoll_invariants::{Property, Violation};
use atoll_types::{
    Address, Anchor, B256, Basic, Bytes, CodeRef, Intent, KeySet, Placement, Receipt, ShardId,
    SharedTx, StateKey, StateValue, Tx, U256, Write, digest,
};

use crate::{
    ledger::{Input, Ledger},
    network::{Conditions, Network, SLOW_TICKS},
    predict::{Newest, Prediction, predict},
    rng::Rng,
    shard::{Job, Message, Shard},
};

/// Milliseconds of the beacon's clock that one tick stands for.
const TICK_MS: u64 = 300;
/// Ticks after which the beacon makes a block though there is no work.
const IDLE_TICKS: u64 = 6;
/// Ticks after which a shard does again what is open.
const REFRESH_TICKS: u64 = 10;
/// How often a slow shard does nothing of what it could do, in percent.
const SLOW_IDLE: u8 = 95;
/// How many cuts ago the values may have been current that a stale prediction is made on.
const MAX_STALE_CUTS: u64 = 6;
/// Most beacon blocks that a shard handles at one tick.
const MAX_CUTS: u64 = 4;

/// An account before the first block.
#[derive(Clone, Debug, Default)]
pub struct Account {
    pub basic: Basic,
    pub code: Bytes,
    pub storage: BTreeMap<U256, U256>,
}

/// What a world is made of.
#[derive(Clone, Debug)]
pub struct Config {
    pub seed: u64,
    pub placement: Placement,
    pub planner: PlannerConfig,
    pub genesis: BTreeMap<Address, Account>,
    /// Rounds for which a shared transaction may wait to be planned.
    pub valid_rounds: u64,
    pub conditions: Conditions,
}

#[derive(Clone, Debug)]
enum Envelope {
    Shard(ShardId, Message),
    Beacon { intents: Vec<Intent>, anchor: Anchor },
}

/// A cluster without clocks, threads and disks: a function of its configuration and of when which
/// transactions are submitted.
pub struct World {
    config: Config,
    rng: Rng,
    genesis: Vec<Write>,
    codes: Arc<CodeCache>,
    shards: Vec<Shard>,
    planner: Planner,
    chain: Vec<BeaconRecord>,
    network: Network<Envelope>,
    now: u64,
    last_block: u64,
    slow: Option<usize>,
    #[cfg(feature = "planted")]
    planted: Option<atoll_commit::Planted>,
}

impl World {
    pub fn new(config: Config) -> Self {
        let codes = Arc::new(CodeCache::new(usize::MAX));
        let mut genesis = Vec::new();
        for (address, account) in &config.genesis {
            genesis.push((StateKey::Basic(*address), StateValue::Basic(account.basic)));
            if !account.code.is_empty() {
                let hash = codes.insert(account.code.clone()).hash_slow();
                let code = StateValue::Code(CodeRef { hash, incarnation: 0 });
                genesis.push((StateKey::Code(*address), code));
            }
            let slot = |(slot, word): (&U256, &U256)| {
                (StateKey::Slot(*address, 0, *slot), StateValue::Slot(*word))
            };
            genesis.extend(account.storage.iter().map(slot));
        }
        let mut world = Self {
            rng: Rng::new(config.seed),
            genesis,
            codes,
            shards: Vec::new(),
            planner: Planner::new(config.planner.clone()),
            chain: Vec::new(),
            network: Network::new(),
            now: 0,
            last_block: 0,
            slow: None,
            #[cfg(feature = "planted")]
            planted: None,
            config,
        };
        let ids = world.config.placement.all();
        let shard = |id| Shard::new(world.fresh(id), world.codes.clone());
        let shards = ids.map(shard).collect();
        world.shards = shards;
        world
    }

    /// A shard's state at the beginning.
    fn fresh(&self, shard: ShardId) -> Ledger {
        let Config { placement, planner, .. } = &self.config;
        let config = OwnerConfig {
            chain_id: planner.chain_id,
            shard,
            placement: placement.clone(),
            max_shared: 10_000,
        };
        let beacon = Planner::new(planner.clone()).head().clone();
        #[cfg_attr(not(feature = "planted"), expect(unused_mut))]
        let mut ledger = Ledger::new(config, &beacon, &self.genesis, self.codes.clone());
        #[cfg(feature = "planted")]
        if let Some(bug) = self.planted {
            ledger.owner.plant(bug);
        }
        ledger
    }

    /// Gives every state machine a bug.
    #[cfg(feature = "planted")]
    pub fn plant(&mut self, bug: atoll_commit::Planted) {
        self.planted = Some(bug);
        self.planner.plant(bug);
        self.shards.iter_mut().for_each(|shard| shard.plant(bug));
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// Beacon blocks from number 1.
    pub fn chain(&self) -> &[BeaconRecord] {
        &self.chain
    }

    /// Code by its hash.
    pub fn code(&self, hash: &B256) -> Option<Bytes> {
        self.codes.get(hash).map(|code| code.original_bytes())
    }

    /// Every final receipt.
    pub fn receipts(&self) -> impl Iterator<Item = &Receipt> {
        self.shards.iter().flat_map(|shard| &shard.ledger.receipts)
    }

    /// The newest value of a key.
    pub fn value(&self, key: &StateKey) -> StateValue {
        let owner = usize::from(self.config.placement.owner_of(key).0);
        self.shards.get(owner).map_or(key.absent(), |shard| shard.ledger.value(key))
    }

    /// Changes how bad the world is.
    pub fn set_conditions(&mut self, conditions: Conditions) {
        self.config.conditions = conditions;
        self.slow = None;
    }

    /// Offers a transaction to its sender's shard. False if that has one with the same nonce, or is
    /// past it.
    pub fn submit(&mut self, tx: Tx) -> bool {
        let home = usize::from(self.config.placement.owner(&tx.sender()).0);
        let past = self.value(&StateKey::Basic(tx.sender())).basic().nonce > tx.nonce();
        self.shards.get_mut(home).is_some_and(|shard| !past && shard.pool.add(tx))
    }

    /// Runs until nothing is under way. Transactions that wait for an earlier nonce stay where they
    /// are. An error names the property that is broken; having not ended after `max_ticks` breaks
    /// `fence-ends`.
    pub fn settle(&mut self, max_ticks: u64) -> Result<(), Violation> {
        for _ in 0..max_ticks {
            if self.is_quiet() {
                return Ok(());
            }
            self.tick()?;
        }
        let detail = format!("traffic has not ended after {max_ticks} ticks");
        Err(Violation { property: Property::FenceEnds, detail })
    }

    fn is_quiet(&self) -> bool {
        let head = self.planner.head().number();
        let at_head = |shard: &Shard| shard.ledger.owner.cut_number() == head;
        self.planner.open() == 0
            && self.planner.waiting() == 0
            && self.shards.iter().all(|shard| at_head(shard) && shard.is_quiet())
    }

    /// One step of everybody.
    pub fn tick(&mut self) -> Result<(), Violation> {
        self.now += 1;
        if self.now.is_multiple_of(SLOW_TICKS) {
            let slow = self.rng.percent(self.config.conditions.slow);
            let at = self.rng.below(self.shards.len() as u64) as usize;
            self.slow = slow.then_some(at);
        }
        self.deliver()?;
        let first = self.rng.below(self.shards.len() as u64) as usize;
        for step in 0..self.shards.len() {
            self.act((first + step) % self.shards.len())?;
        }
        if !self.rng.percent(self.config.conditions.idle) {
            self.make_block();
        }
        if self.rng.basis_points(self.config.conditions.beacon_crashes) {
            self.crash_beacon()?;
        }
        Ok(())
    }

    fn idles(&mut self, at: usize) -> bool {
        let slow = self.slow == Some(at);
        self.rng.percent(if slow { SLOW_IDLE } else { self.config.conditions.idle })
    }

    /// What a shard does at a tick, each of it unless it idles.
    fn act(&mut self, at: usize) -> Result<(), Violation> {
        if self.rng.basis_points(self.config.conditions.shard_crashes) {
            let fresh = self.fresh(self.shards[at].id());
            self.shards[at].crash(fresh)?;
            #[cfg(feature = "planted")]
            if let Some(bug) = self.planted {
                self.shards[at].plant(bug);
            }
        }
        if self.rng.basis_points(self.config.conditions.forgetful) {
            self.shards[at].pool.forget_handed_out();
        }
        if !self.idles(at) {
            self.follow(at)?;
        }
        if !self.idles(at) {
            let late = self.rng.percent(self.config.conditions.late);
            self.shards[at].build(&mut self.rng, late)?;
        }
        if !self.idles(at) {
            self.shards[at].send_leases()?;
        }
        while !self.idles(at)
            && let Some(job) = self.shards[at].jobs.pop_front()
        {
            self.predict(at, job)?;
        }
        if (self.now + at as u64).is_multiple_of(REFRESH_TICKS) {
            self.shards[at].refresh()?;
        }
        self.post(at);
        if !self.idles(at) {
            self.announce(at);
        }
        Ok(())
    }

    /// Handles beacon blocks.
    fn follow(&mut self, at: usize) -> Result<(), Violation> {
        for _ in 0..1 + self.rng.below(MAX_CUTS) {
            let shard = &mut self.shards[at];
            let next = shard.ledger.owner.cut_number() as usize;
            let Some(record) = self.chain.get(next) else { break };
            shard.cut(&record.block)?;
        }
        Ok(())
    }

    fn predict(&mut self, at: usize, job: Job) -> Result<(), Violation> {
        let owner = &self.shards[at].ledger.owner;
        let (env, cut, origin) = (owner.env(), owner.cut_number(), owner.shard());
        let is_stale = self.rng.percent(self.config.conditions.stale);
        let behind = 1 + self.rng.below(MAX_STALE_CUTS);
        let view = Newest {
            here: origin,
            others_at: if is_stale { cut.saturating_sub(behind).max(1) } else { u64::MAX },
            shards: &self.shards,
            placement: &self.config.placement,
            codes: &self.codes,
        };
        let tx = match &job {
            Job::New(tx) => tx,
            Job::Again(shared) => &shared.tx,
        };
        let sender = StateKey::Basic(tx.sender());
        let ahead = &self.shards[at].ahead;
        let (mut prediction, effects) = predict(tx, (&env, cut), &view, ahead);
        let tx = tx.clone();
        if let Prediction::Uses(keys) = &mut prediction
            && self.rng.percent(self.config.conditions.blind)
        {
            *keys = without_some(keys, &sender, &mut self.rng);
        }
        let last_valid_round = cut + self.config.valid_rounds;
        let shard = &mut self.shards[at];
        if let Some((credit, effects)) = effects {
            shard.ahead.note(&tx, credit, &effects, cut);
        }
        match (job, prediction) {
            (Job::New(tx), Prediction::Credit(_)) => shard.debits.push_back(tx),
            (Job::New(tx), Prediction::Uses(keys)) => {
                // Higher than that of any earlier life: each attempt takes a round.
                let attempt = u32::try_from(cut + 1).unwrap_or(u32::MAX);
                let (wrong, absences, silences) = (0, 0, 0);
                shard.share(SharedTx {
                    tx,
                    origin,
                    attempt,
                    wrong,
                    absences,
                    silences,
                    keys,
                    last_valid_round,
                })?;
            }
            (Job::Again(before), Prediction::Credit(keys) | Prediction::Uses(keys)) => {
                let keys = if before.wrong > 0 { keys.union(&before.keys) } else { keys };
                shard.share(SharedTx { keys, last_valid_round, ..before })?;
            }
            (Job::New(tx), Prediction::Invalid { nonce_ahead: true, .. }) => {
                shard.pool.give_back(tx.hash());
            }
            (Job::New(tx), Prediction::Invalid { reason, .. }) => shard.drop_tx(&tx, reason),
            // An earlier nonce of the sender is on its way.
            (Job::Again(before), Prediction::Invalid { nonce_ahead: true, .. })
                if before.last_valid_round > cut => {}
            (Job::Again(before), _) if !shard.ledger.owner.may_withdraw(before.reference()) => {}
            (Job::Again(before), Prediction::Invalid { reason, .. }) => {
                let effects = shard.log(Input::Withdraw(before.reference()))?;
                shard.ahead.end(&before.tx.sender(), before.tx.nonce(), before.tx.hash());
                if !effects.dropped.is_empty() {
                    shard.drop_tx(&before.tx, reason);
                }
            }
        }
        Ok(())
    }

    fn post(&mut self, at: usize) {
        for (to, message) in std::mem::take(&mut self.shards[at].outbox) {
            self.send(&Envelope::Shard(to, message));
        }
    }

    /// Tells the beacon what a shard has to say.
    fn announce(&mut self, at: usize) {
        let shard = &mut self.shards[at];
        let announced = std::mem::take(&mut shard.announced);
        let anchor = shard.anchor();
        self.send(&Envelope::Beacon { intents: announced, anchor });
    }

    fn send(&mut self, envelope: &Envelope) {
        self.network.send(envelope, self.now, &self.config.conditions, &mut self.rng);
    }

    fn deliver(&mut self) -> Result<(), Violation> {
        while let Some(envelope) = self.network.arrived(self.now) {
            match envelope {
                Envelope::Shard(to, message) => {
                    let at = usize::from(to.0);
                    self.shards[at].receive(message)?;
                    self.post(at);
                }
                Envelope::Beacon { intents, anchor } => {
                    self.planner.anchor(anchor);
                    if self.planner.has_room(intents.len()) {
                        intents.into_iter().for_each(|intent| {
                            self.planner.announce(intent);
                        });
                    }
                }
            }
        }
        Ok(())
    }

    fn make_block(&mut self) {
        let since = self.now - self.last_block;
        let early = since < u64::from(self.config.conditions.block_ticks);
        if early || (!self.planner.has_work() && since < IDLE_TICKS) {
            return;
        }
        self.last_block = self.now;
        let time_ms = self.config.planner.genesis_time_ms + TICK_MS * self.now;
        let randomness = digest("atoll/sim", &(self.config.seed, self.now));
        self.chain.push(self.planner.make(time_ms, randomness));
    }

    fn crash_beacon(&mut self) -> Result<(), Violation> {
        let mut again = Planner::new(self.config.planner.clone());
        #[cfg(feature = "planted")]
        if let Some(bug) = self.planted {
            again.plant(bug);
        }
        self.chain.iter().for_each(|record| again.apply(record));
        if again.head() != self.planner.head() || again.open() != self.planner.open() {
            let detail = "the beacon replayed is another one".to_owned();
            return Err(Violation { property: Property::Determinism, detail });
        }
        self.planner = again;
        Ok(())
    }

    /// Checks what has to hold once everything has settled: every group was decided once and holds
    /// no fence, no wei was made or lost at any cut, and every shard's log gives its state.
    pub fn check(&mut self) -> Result<(), Violation> {
        self.fences_end()?;
        self.money_is_conserved()?;
        for at in 0..self.shards.len() {
            let fresh = self.fresh(self.shards[at].id());
            self.shards[at].crash(fresh)?;
        }
        Ok(())
    }

    fn fences_end(&self) -> Result<(), Violation> {
        let broken = |detail| Err(Violation { property: Property::FenceEnds, detail });
        for shard in &self.shards {
            if let Some(key) = shard.ledger.owner.fenced().next() {
                return broken(format!("shard {} still fences {key:?}", shard.id()));
            }
        }
        let mut open = std::collections::BTreeSet::new();
        for record in &self.chain {
            for decision in &record.block.decisions {
                if !open.remove(&decision.group) {
                    return broken(format!("group {} is decided twice", decision.group));
                }
            }
            open.extend(record.block.plan.iter().map(|group| group.id));
        }
        match open.first() {
            Some(group) => broken(format!("group {group} is not decided")),
            None => Ok(()),
        }
    }

    /// At each cut, all shards having passed that one and no later one.
    fn money_is_conserved(&self) -> Result<(), Violation> {
        let purses = |cut: usize| self.shards.iter().filter_map(move |shard| shard.purses.get(cut));
        let genesis: U256 = purses(0).map(|purse| purse.here).sum();
        for cut in 1..=self.chain.len() {
            let here: U256 = purses(cut).map(|purse| purse.here).sum();
            let sent: U256 = purses(cut).map(|purse| purse.sent).sum();
            let received: U256 = purses(cut).map(|purse| purse.received).sum();
            if here.wrapping_add(sent) != genesis.wrapping_add(received) {
                let detail = format!(
                    "at cut {cut} there are {here} wei, {sent} sent and {received} received, \
                     {genesis} at the beginning"
                );
                return Err(Violation { property: Property::Conservation, detail });
            }
        }
        Ok(())
    }
}

/// A key set that lacks about a quarter of its keys, but not the sender's.
fn without_some(keys: &KeySet, sender: &StateKey, rng: &mut Rng) -> KeySet {
    let mut some = |keys: &[StateKey]| -> Vec<StateKey> {
        keys.iter().filter(|key| *key == sender || !rng.percent(25)).copied().collect()
    };
    KeySet::new(some(&keys.reads), some(&keys.writes))
}
