//! Random walks through worlds too large to be explored: more transactions, everything late,
//! everybody crashes.

use stateright::Model;

use crate::{
    finish,
    ledger::Broken,
    model::CommitModel,
    scenario::{Bounds, Builder, Scenario},
    toy::Program,
    world::{Action, World},
};

/// Deterministic random numbers (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((word ^ (word >> 31)) % limit.max(1) as u64) as usize
    }

    fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

/// A property that a walk has broken.
#[derive(Debug)]
pub struct Stumble {
    pub broken: Broken,
    /// One step a line.
    pub trace: String,
}

/// A random world of two or three shards and `txs` transactions on few accounts and slots.
pub fn random_scenario(seed: u64, txs: usize) -> Scenario {
    let mut random = Random(seed);
    let shards = 2 + random.below(2) as u16;
    let mut world = Builder::new("random", shards);
    let senders: Vec<_> = (0..4).map(|n| world.account(n % shards, 1 + n as u8)).collect();
    let contracts: Vec<_> = (0..3).map(|n| world.contract(n % shards, 11 + n as u8)).collect();
    for _ in 0..txs {
        let slot = |random: &mut Random| {
            let hot = random.percent(40);
            let contract = if hot { 0 } else { random.below(contracts.len()) };
            (contracts[contract], random.below(2) as u8)
        };
        let mut program = Program { unsure: random.percent(10), ..Program::default() };
        if random.percent(70) {
            program.reads = (0..random.below(3)).map(|_| slot(&mut random)).collect();
            program.writes = (0..1 + random.below(2)).map(|_| slot(&mut random)).collect();
        }
        if random.percent(20) {
            program.choice = Some((slot(&mut random), slot(&mut random), slot(&mut random)));
        }
        if random.percent(10) {
            program.peek = Some((slot(&mut random), slot(&mut random)));
        }
        if random.percent(40) || program.writes.is_empty() {
            let to = if random.percent(20) { &contracts } else { &senders };
            program.transfer = Some((to[random.below(to.len())], random.below(5) as u64));
        }
        let sender = senders[random.below(senders.len())];
        world.tx(sender, false, program);
    }
    world.fee(random.below(2) as u64).abort_after(3 + random.below(6) as u64).build()
}

/// Bounds of a random walk: nothing is eager, and crashes are many.
pub fn wild() -> Bounds {
    Bounds {
        blocks: 60,
        attempts: u32::MAX,
        crashes: 6,
        beacon_crashes: 3,
        late_anchors: true,
        late_sharing: true,
        late_leases: true,
        idle_crashes: true,
        reruns: true,
        strays: 2,
        collect: false,
    }
}

/// Walks so many steps, and then to the end of all traffic. Returns the world there.
pub fn walk(model: &CommitModel, seed: u64, steps: usize) -> Result<World, Box<Stumble>> {
    let mut random = Random(seed ^ 0x5eed);
    let mut world = World::new(model.around(), &model.bounds);
    let mut path = Vec::new();
    let mut actions = Vec::new();
    for _ in 0..steps {
        actions.clear();
        model.steps(&world, &model.bounds, &mut actions);
        repeat(&mut random, &world, &mut actions);
        let wanted = |action: &Action, random: &mut Random| match action {
            Action::Crash(_) | Action::CrashBeacon | Action::Stray(..) => random.percent(2),
            Action::Block => random.percent(20),
            _ => true,
        };
        actions.retain(|action| wanted(action, &mut random));
        if actions.is_empty() {
            continue;
        }
        let action = actions.swap_remove(random.below(actions.len()));
        model.step(&mut world, &model.bounds, &action);
        path.push(action);
        if let Some(broken) = world.broken.take() {
            return Err(stumble(model, &path, broken));
        }
    }
    finish::finish(model, &world).map_err(|broken| stumble(model, &path, broken))
}

/// Now and then a message comes again that nobody waits for.
fn repeat(random: &mut Random, world: &World, actions: &mut Vec<Action>) {
    let messages = world.network.iter().count();
    if messages > 0
        && random.percent(10)
        && let Some(message) = world.network.iter().nth(random.below(messages))
    {
        actions.push(Action::Deliver(message.clone()));
    }
}

fn stumble(model: &CommitModel, path: &[Action], broken: Broken) -> Box<Stumble> {
    let line =
        |(at, action): (usize, &Action)| format!("{:3}. {}\n", at + 1, model.format_action(action));
    Box::new(Stumble { broken, trace: path.iter().enumerate().map(line).collect() })
}
