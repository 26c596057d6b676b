//! N shards and a beacon on a network that delays, repeats, loses and reorders.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use atoll_commit::{BeaconRecord, Owner, OwnerConfig, Planner, PlannerConfig};
use atoll_types::{
    Address, Anchor, B256, GroupId, Intent, KeySet, Placement, ShardId, StateKey, Tx, TxRef, U256,
    Verdict, Write,
};

use crate::{
    ledger::{Ledger, Message},
    serial,
    shard::Shard,
    toy::{BALANCE, CHAIN, Cast, Program, Rng, transaction},
};

#[derive(Clone)]
enum Envelope {
    Shard(ShardId, Message),
    Beacon { intents: Vec<Intent>, anchor: Anchor },
}

/// What happened, to know that what is to be tested has been.
#[derive(Debug, Default)]
pub struct Seen(pub BTreeMap<&'static str, u64>);

impl Seen {
    pub fn add(&mut self, what: &'static str, count: u64) {
        *self.0.entry(what).or_default() += count;
    }
}

pub struct World {
    rng: Rng,
    placement: Placement,
    cast: Cast,
    genesis: Vec<Write>,
    config: PlannerConfig,
    shards: Vec<Shard>,
    planner: Planner,
    /// What it was after each block.
    planners: Vec<Planner>,
    chain: Vec<BeaconRecord>,
    /// Every transaction that was ever submitted.
    submitted: Vec<Tx>,
    network: BTreeMap<(u64, u64), Envelope>,
    step: u64,
    sent: u64,
    /// Percent of messages lost, repeated, and late.
    trouble: (usize, usize, usize),
    /// A shard that hardly gets anywhere for a while.
    slow: Option<usize>,
    nonces: BTreeMap<Address, u64>,
    /// What was planned in which round.
    keys: HashMap<(u64, TxRef), KeySet>,
    pub seen: Seen,
}

pub fn planner_config(shards: u16, coinbase: Address) -> PlannerConfig {
    PlannerConfig {
        group_gas: 1_200,
        round_gas: 3_000,
        round_txs: 24,
        max_waiting: 200,
        abort_after: 12,
        max_chain: 4,
        max_lag: 18,
        ..PlannerConfig::new(CHAIN, shards, coinbase, 1_000)
    }
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng(seed);
        let shards = 2 + rng.below(3) as u16;
        let placement = Placement::new(shards, BTreeMap::new());
        let cast = Cast::new(&placement, 4, 2);
        let mut config = planner_config(shards, cast.coinbase);
        config.bundle_gas = [0, 600, 1_200][rng.below(3)];
        let planner = Planner::new(config.clone());
        let mut world = Self {
            genesis: cast.genesis(),
            shards: Vec::new(),
            trouble: (rng.below(20), rng.below(20), rng.below(40)),
            rng,
            placement,
            cast,
            config,
            planners: vec![planner.clone()],
            planner,
            chain: Vec::new(),
            submitted: Vec::new(),
            network: BTreeMap::new(),
            step: 0,
            sent: 0,
            slow: None,
            nonces: BTreeMap::new(),
            keys: HashMap::new(),
            seen: Seen::default(),
        };
        world.shards = (0..shards).map(|id| Shard::new(world.fresh(ShardId(id)))).collect();
        world
    }

    /// A shard's state at the beginning.
    fn fresh(&self, shard: ShardId) -> Ledger {
        let placement = self.placement.clone();
        let config = OwnerConfig { chain_id: CHAIN, shard, placement, max_shared: 1_000 };
        let mine = |(key, _): &&Write| self.placement.owner_of(key) == shard;
        let values: Vec<Write> = self.genesis.iter().filter(mine).copied().collect();
        let block = Planner::new(self.config.clone()).head().clone();
        Ledger::new(config, &block, &values)
    }

    /// `restored`: now and then the whole cluster goes back to a cut.
    pub fn run(&mut self, steps: u64, restored: bool) {
        for _ in 0..steps {
            if restored && self.rng.below(70) == 0 {
                self.restore();
            }
            if self.rng.percent(12) {
                self.submit();
            }
            self.one_step();
        }
        // From here on everybody gets on with it, and all that was begun has to end.
        self.trouble = (0, 0, 0);
        for _ in 0..30_000 {
            if self.is_quiet() {
                return;
            }
            self.slow = None;
            self.one_step();
        }
        let head = self.planner.head().number();
        for shard in &self.shards {
            println!(
                "{} (jobs {}, pool {:?})\n",
                shard.ledger.face(),
                shard.jobs.len(),
                shard.pool
            );
        }
        panic!("traffic does not end by round {head}");
    }

    fn is_quiet(&self) -> bool {
        let head = self.planner.head().number();
        let at_head = |shard: &Shard| shard.ledger.owner.cut_number() == head;
        self.shards.iter().all(|shard| shard.is_quiet() && at_head(shard))
            && self.planner.open() == 0
            && self.planner.waiting() == 0
    }

    fn one_step(&mut self) {
        self.step += 1;
        if self.step.is_multiple_of(150) {
            let slow = self.rng.below(2 * self.shards.len());
            self.slow = (slow < self.shards.len()).then_some(slow);
        }
        let at = self.rng.below(self.shards.len());
        let asleep = self.slow == Some(at) && self.rng.percent(95);
        match self.rng.below(100) {
            0..=5 => self.make_block(),
            6..=39 if !asleep => self.cut(at),
            40..=51 if !asleep => self.build(at),
            52..=69 if !asleep => self.predict(at),
            70..=73 if !asleep => self.shards[at].refresh(),
            74..=79 => self.announce(at),
            80 if self.step.is_multiple_of(7) => self.crash(at),
            81 if self.step.is_multiple_of(7) => self.crash_beacon(),
            _ => {}
        }
        self.post(at);
        self.deliver();
    }

    fn submit(&mut self) {
        let (senders, contracts) = (self.cast.senders.clone(), self.cast.contracts.clone());
        let rng = &mut self.rng;
        let sender = rng.pick(&senders);
        let place = |rng: &mut Rng| {
            let hot = rng.percent(30);
            (if hot { contracts[0] } else { rng.pick(&contracts) }, rng.below(3) as u8)
        };
        let mut program = Program::default();
        if rng.percent(60) {
            program.reads = (0..rng.below(3)).map(|_| place(rng)).collect();
            program.writes = (0..1 + rng.below(2)).map(|_| place(rng)).collect();
        }
        if rng.percent(15) {
            program.dynamic = Some((place(rng), contracts.clone()));
        }
        if rng.percent(50) || program.writes.is_empty() {
            let to = match rng.below(10) {
                0 => self.cast.coinbase,
                1 => rng.pick(&contracts),
                _ => rng.pick(&senders),
            };
            program.transfer = Some((to, rng.below(50) as u64));
        }
        let gas = 50 + rng.below(400) as u64;
        let nonce = self.nonces.entry(sender).or_default();
        let tx = transaction(sender, *nonce, gas, &program);
        *nonce += 1;
        self.submitted.push(tx.clone());
        let home = usize::from(self.placement.owner(&sender).0);
        self.shards[home].pool.entry(sender).or_default().push_back(tx);
    }

    fn make_block(&mut self) {
        let now_ms = self.config.genesis_time_ms + 10 * self.step;
        let randomness = B256::from(U256::from(self.step));
        let mut replica = self.planner.clone();
        let record = replica.propose(now_ms, randomness);
        for intent in &record.intents {
            let origin = &self.shards[usize::from(intent.origin.0)].ledger.owner;
            let held = origin.own_shared().find(|shared| shared.reference() == intent.tx);
            self.keys.insert((record.block.number(), intent.tx), held.unwrap().keys.clone());
        }
        replica.apply(&record);
        assert_eq!(self.planner.make(now_ms, randomness), record, "proposed and applied");
        let state = |planner: &Planner| (planner.waiting(), planner.open(), planner.has_work());
        assert_eq!(state(&self.planner), state(&replica));
        // Nothing is planned again, and all else comes out the same.
        let next = |planner: &Planner| planner.propose(now_ms + 2_000, randomness);
        assert_eq!(next(&self.planner), next(&replica));
        self.chain.push(record);
        self.planners.push(self.planner.clone());
    }

    /// A backup at a cut that all have passed, restored: everybody goes back to it.
    pub fn restore(&mut self) {
        let passed = self.shards.iter().map(|shard| shard.ledger.owner.cut_number()).min();
        // Mostly a recent one: a shard may lag far behind another one then.
        let passed = passed.unwrap_or(0);
        let cut = passed.saturating_sub(self.rng.below(6) as u64);
        if cut == 0 {
            return;
        }
        self.seen.add("restored", 1);
        let mut owners: Vec<Owner> = Vec::new();
        for at in 0..self.shards.len() {
            let fresh = self.fresh(ShardId(at as u16));
            owners.push(self.shards[at].go_back(fresh, cut));
        }
        let before: Vec<U256> = owners.iter().map(Owner::held_credits).collect();
        Owner::reconcile(&mut owners).unwrap();
        let after = owners.iter().map(Owner::held_credits);
        let unheard = before.iter().zip(after).filter(|(before, after)| *before != after);
        self.seen.add("unheard credits", unheard.count() as u64);
        self.planners.truncate(cut as usize + 1);
        self.planner = self.planners[cut as usize].clone();
        self.chain.truncate(cut as usize);
        self.network.clear();
        let decided = self.chain.iter().flat_map(|record| &record.block.decisions);
        let decided: HashSet<GroupId> = decided.map(|decision| decision.group).collect();
        for (shard, owner) in self.shards.iter_mut().zip(owners) {
            self.seen.add("restored open", owner.open_groups().count() as u64);
            shard.restore(owner, &decided);
            shard.pool.clear();
        }
        // Clients send again what they have no receipt of.
        for tx in &self.submitted {
            let home = &mut self.shards[usize::from(self.placement.owner(&tx.sender()).0)];
            let next = home.ledger.value(&StateKey::Basic(tx.sender())).basic().nonce;
            if tx.nonce() >= next {
                home.pool.entry(tx.sender()).or_default().push_back(tx.clone());
            }
        }
        self.money_is_conserved();
    }

    fn cut(&mut self, at: usize) {
        for _ in 0..1 + self.rng.below(5) {
            let next = self.shards[at].ledger.owner.cut_number() as usize;
            let Some(record) = self.chain.get(next) else { return };
            let effects = self.shards[at].cut(&record.block);
            self.seen.add("returned", effects.returned.len() as u64);
            let expired = effects.dropped.iter().filter(|(_, why)| why.starts_with("not ordered"));
            self.seen.add("expired", expired.count() as u64);
            self.announce(at);
        }
    }

    fn build(&mut self, at: usize) {
        let contracts = self.cast.contracts.clone();
        self.shards[at].build(&mut self.rng, &|address| contracts.contains(address));
    }

    fn predict(&mut self, at: usize) {
        if self.shards[at].jobs.is_empty() {
            return;
        }
        let newest: Vec<_> = self.shards.iter().map(|shard| shard.ledger.values.clone()).collect();
        let world = |key: &StateKey| {
            let owner = usize::from(self.placement.owner_of(key).0);
            newest[owner].get(key).copied().unwrap_or(key.absent())
        };
        let cut = self.shards[at].ledger.owner.cut_number();
        self.shards[at].predict(cut, 40, &world);
    }

    /// Tells the beacon what a shard has to say.
    fn announce(&mut self, at: usize) {
        let shard = &mut self.shards[at];
        let intents =
            shard.announced.drain(..).map(|shared| shared.intent(&self.placement)).collect();
        let anchor = shard.ledger.owner.anchor();
        self.send(Envelope::Beacon { intents, anchor });
    }

    fn post(&mut self, at: usize) {
        for (to, message) in std::mem::take(&mut self.shards[at].outbox) {
            self.send(Envelope::Shard(to, message));
        }
    }

    fn send(&mut self, envelope: Envelope) {
        let (lost, repeated, late) = self.trouble;
        if self.rng.percent(lost) {
            return;
        }
        let copies = 1 + usize::from(self.rng.percent(repeated));
        for _ in 0..copies {
            let delay =
                1 + self.rng.below(4) + usize::from(self.rng.percent(late)) * self.rng.below(200);
            self.sent += 1;
            self.network.insert((self.step + delay as u64, self.sent), envelope.clone());
        }
    }

    fn deliver(&mut self) {
        while let Some(entry) = self.network.first_entry()
            && entry.key().0 <= self.step
        {
            match entry.remove() {
                Envelope::Shard(to, message) => {
                    let at = usize::from(to.0);
                    // A slow shard is slow to listen, too.
                    if self.slow == Some(at) && self.rng.percent(80) {
                        self.sent += 1;
                        let later = self.step + 20;
                        self.network.insert((later, self.sent), Envelope::Shard(to, message));
                        continue;
                    }
                    self.shards[at].receive(message);
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
    }

    fn crash(&mut self, at: usize) {
        self.seen.add("shard restarts", 1);
        let fresh = self.fresh(ShardId(at as u16));
        self.shards[at].crash(fresh);
    }

    fn crash_beacon(&mut self) {
        self.seen.add("beacon restarts", 1);
        let mut again = Planner::new(self.config.clone());
        self.chain.iter().for_each(|record| again.apply(record));
        assert_eq!(again.head(), self.planner.head());
        assert_eq!(again.open(), self.planner.open());
        // Nobody has said anything: there is nothing to take in.
        assert_eq!(again.propose(u64::MAX / 2, B256::ZERO).anchors, Vec::new());
        self.planner = again;
    }

    /// Every property that can be told from outside.
    pub fn check(&mut self) {
        self.fences_end();
        self.money_is_conserved();
        self.each_transaction_counts_once();
        self.serial();
        for at in 0..self.shards.len() {
            let fresh = self.fresh(ShardId(at as u16));
            let shard = &mut self.shards[at];
            shard.crash(fresh);
            for (rule, count) in &shard.counts {
                self.seen.add(rule, *count);
            }
            self.seen.add("credits kept back", shard.stuck_credits);
        }
        for decision in self.chain.iter().flat_map(|record| &record.block.decisions) {
            let commit = matches!(decision.verdict, Verdict::Commit { .. });
            self.seen.add(if commit { "commits" } else { "aborts" }, 1);
        }
    }

    fn fences_end(&self) {
        for shard in &self.shards {
            let owner = &shard.ledger.owner;
            assert_eq!(owner.fenced().count(), 0, "fence-ends");
            assert_eq!(owner.anchor().acks, Vec::new(), "fence-ends");
        }
        let mut open = BTreeSet::new();
        for record in &self.chain {
            for decision in &record.block.decisions {
                assert!(open.remove(&decision.group), "decided once: {}", decision.group);
            }
            let undecided = open.iter().map(|group: &GroupId| group.round).min();
            assert_eq!(record.block.settled, undecided.unwrap_or(record.block.number()));
            open.extend(record.block.plan.iter().map(|group| group.id));
        }
        assert!(open.is_empty(), "every group is decided");
    }

    /// At each cut, all shards having passed that one and no later one.
    fn money_is_conserved(&self) {
        let genesis = U256::from(BALANCE) * U256::from(self.cast.senders.len());
        for cut in 1..=self.chain.len() {
            let purses = || self.shards.iter().map(|shard| &shard.purses[cut]);
            let here: U256 = purses().map(|purse| purse.here).sum();
            let sent: U256 = purses().map(|purse| purse.sent).sum();
            let received: U256 = purses().map(|purse| purse.received).sum();
            assert_eq!(here + sent, genesis + received, "conservation at cut {cut}");
        }
    }

    fn each_transaction_counts_once(&mut self) {
        let mut nonces: HashMap<Address, u64> = HashMap::new();
        let mut receipts: Vec<_> =
            self.shards.iter().flat_map(|shard| shard.ledger.receipts.iter()).collect();
        receipts.sort_by_key(|receipt| (receipt.sender, receipt.nonce));
        for receipt in receipts {
            let next = nonces.entry(receipt.sender).or_default();
            assert_eq!(receipt.nonce, *next, "nonce-order, exactly-once: {receipt:?}");
            *next += 1;
        }
        for (sender, next) in nonces {
            let home = &self.shards[usize::from(self.placement.owner(&sender).0)];
            let account = home.ledger.value(&StateKey::Basic(sender)).basic();
            assert_eq!(account.nonce, next, "every transaction that counts has a receipt");
        }
    }

    fn serial(&mut self) {
        let world = (&self.placement, &self.cast, self.genesis.as_slice());
        let seen = serial::check(world, &self.chain, &self.shards, &self.keys);
        for (what, count) in seen.0 {
            self.seen.add(what, count);
        }
    }
}
