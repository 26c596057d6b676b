//! The transition system: which steps a state has, where they lead, and what has to hold.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use atoll_invariants::Property as Named;
use stateright::{Model, Property};

use crate::{
    finish,
    ledger::{Broken, DATA_BEFORE_ORDER, SETTLED_READS},
    scenario::{Bounds, Scenario},
    shard::Around,
    situations::Situation,
    toy::short,
    world::{Action, World},
};

/// A mistake put into what surrounds the state machines, to see that it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// A shard acknowledges before its log is synced: a crash loses the newest entry.
    AckBeforeSync,
    /// The beacon takes the acknowledgement of one owner for that of all.
    CommitBeforeAcks,
    /// A restart applies the newest commit once more.
    CommitTwice,
    /// Local blocks do not look at fences.
    FenceIgnored,
    /// An executor reads its own shard's keys when it runs, not at the cut.
    LateLease,
    /// An executor runs a group in another order than the plan's.
    OtherOrder,
    /// A credit that comes back is taken in without its value.
    ReturnLost,
}

/// A scenario within bounds.
pub struct CommitModel {
    pub scenario: Scenario,
    pub bounds: Bounds,
    pub planted: Option<Planted>,
    extra: Vec<Property<Self>>,
    /// How states end that have no further step.
    ends: Mutex<HashMap<u64, Option<Broken>>>,
}

impl CommitModel {
    /// The model of a scenario.
    pub fn new(scenario: Scenario, bounds: Bounds) -> Self {
        let ends = Mutex::new(HashMap::new());
        Self { scenario, bounds, planted: None, extra: Vec::new(), ends }
    }

    /// With a mistake.
    pub fn plant(mut self, planted: Planted) -> Self {
        self.planted = Some(planted);
        self
    }

    /// With situations that have to be reached.
    pub fn reaches(mut self, situations: &[Situation]) -> Self {
        let sometimes = situations.iter().map(|(name, shows)| Property::sometimes(name, *shows));
        self.extra.extend(sometimes);
        self
    }

    /// What does not change.
    pub fn around(&self) -> Around<'_> {
        let reruns = self.bounds.reruns;
        Around { scenario: &self.scenario, planted: self.planted, reruns }
    }

    /// The first property that does not hold in a state, or, if no step leads out of it, that does
    /// not hold on a fair way to the end of all traffic.
    pub fn verdict(&self, world: &World) -> Option<Broken> {
        if world.broken.is_some() {
            return world.broken.clone();
        }
        let quiet = world.beacon.head() >= self.bounds.blocks || !world.beacon.planner.has_work();
        if !quiet {
            return None;
        }
        let print = world.fingerprint();
        let ends = || self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(end) = ends().get(&print) {
            return end.clone();
        }
        let mut actions = Vec::new();
        self.actions(world, &mut actions);
        let end = if actions.is_empty() { finish::finish(self, world).err() } else { None };
        ends().insert(print, end.clone());
        end
    }

    fn breaks(&self, world: &World, property: &'static str) -> bool {
        self.verdict(world).is_some_and(|broken| broken.property == property)
    }

    /// Adds the steps that a state has within some bounds.
    pub fn steps(&self, world: &World, bounds: &Bounds, steps: &mut Vec<Action>) {
        if world.broken.is_some() {
            return;
        }
        for at in 0..self.scenario.txs.len() {
            if world.shard(self.scenario.home(at)).may_submit(&self.scenario, at) {
                steps.push(Action::Submit(at));
            }
        }
        for shard in &world.shards {
            let (id, owner) = (shard.id(), &shard.ledger.owner);
            steps.extend(shard.returned(bounds.attempts).map(|tx| Action::Predict(id, tx.hash)));
            if owner.cut_number() < world.beacon.head() {
                steps.push(Action::Cut(id));
            }
            if world.has_news(shard, bounds.late_anchors) {
                steps.push(Action::Announce(id));
            }
            steps.extend(shard.ran.keys().map(|group| Action::Keep(id, *group)));
            for (group, ready) in &shard.ready {
                steps.push(Action::Run(id, *group, true));
                if ready.txs.iter().any(|tx| self.scenario.program(tx.tx.hash()).unsure) {
                    steps.push(Action::Run(id, *group, false));
                }
            }
            for (plan, _) in owner.open_groups() {
                if world.strays > 0 && plan.executor != id {
                    steps.push(Action::Stray(id, plan.id));
                }
            }
            if world.crashes > 0 && (bounds.idle_crashes || shard.has_volatile()) {
                steps.push(Action::Crash(id));
            }
        }
        if world.beacon.head() < bounds.blocks && world.beacon.planner.has_work() {
            steps.push(Action::Block);
        }
        for message in world.network.iter() {
            if world.listens(message) {
                steps.push(Action::Deliver(message.clone()));
            }
        }
        if world.beacon_crashes > 0 {
            steps.push(Action::CrashBeacon);
        }
    }

    /// Takes a step.
    pub fn step(&self, world: &mut World, bounds: &Bounds, action: &Action) {
        let around = self.around();
        match action {
            Action::Submit(at) => world.submit(around, bounds, *at),
            Action::Predict(at, tx) => world.predict(around, bounds, *at, tx),
            Action::Announce(at) => world.announce(around, *at, bounds.late_anchors),
            Action::Block => world.block(),
            Action::Cut(at) => world.cut(around, bounds, *at),
            Action::Run(at, group, sure) => world.run(around, bounds, *at, (*group, *sure)),
            Action::Keep(at, group) => world.keep(around, bounds, *at, *group),
            Action::Deliver(message) => world.deliver(around, bounds, message),
            Action::Stray(at, group) => world.stray(*at, *group),
            Action::Crash(at) => {
                world.crashes = world.crashes.saturating_sub(1);
                world.crash(around, bounds, *at);
            }
            Action::CrashBeacon => {
                world.beacon_crashes = world.beacon_crashes.saturating_sub(1);
                world.crash_beacon(around);
            }
        }
        if bounds.late_anchors {
            world.post_anchors();
        }
        if bounds.collect {
            world.collect();
        }
    }
}

macro_rules! always {
    ($($name:expr),* $(,)?) => {
        vec![$(Property::always($name, |model: &CommitModel, world| !model.breaks(world, $name))),*]
    };
}

impl Model for CommitModel {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self.around(), &self.bounds)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        self.steps(world, &self.bounds, actions);
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        self.step(&mut next, &self.bounds, &action);
        Some(next)
    }

    fn format_action(&self, action: &Action) -> String {
        let number = |hash: &atoll_types::B256| self.scenario.number(hash);
        match action {
            Action::Submit(at) => {
                let (tx, _) = &self.scenario.txs[*at];
                let home = self.scenario.home(*at);
                format!("transaction {at} ({}) reaches shard {home}", short(tx.hash()))
            }
            Action::Predict(at, tx) => {
                format!("shard {at} predicts transaction {} again", number(tx))
            }
            Action::Announce(at) => format!("the beacon hears shard {at}"),
            Action::Block => "the beacon makes a block".into(),
            Action::Cut(at) => format!("shard {at} passes its next cut"),
            Action::Run(at, group, true) => format!("shard {at} runs group {group}"),
            Action::Run(at, group, false) => {
                format!("shard {at} runs group {group} to another end")
            }
            Action::Keep(at, group) => {
                format!("shard {at} has the result of group {group} durable")
            }
            Action::Deliver(message) => message.to_string(),
            Action::Stray(at, group) => {
                format!("shard {at}, which does not execute group {group}, sends parts of it")
            }
            Action::Crash(at) => format!("shard {at} crashes and restarts"),
            Action::CrashBeacon => "the beacon crashes and restarts".into(),
        }
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = always![
            Named::Conservation.id(),
            Named::Atomicity.id(),
            Named::SerialEquivalence.id(),
            Named::ExactlyOnce.id(),
            Named::NonceOrder.id(),
            Named::FenceEnds.id(),
            Named::DurableAck.id(),
            Named::Determinism.id(),
            DATA_BEFORE_ORDER,
            SETTLED_READS,
        ];
        properties.extend(self.extra.iter().cloned());
        properties
    }
}
