//! What has to be true in the end: from any state, if messages arrive, nobody crashes and everybody
//! gets on with it, all that was begun ends.

use std::collections::BTreeSet;

use atoll_invariants::Property;

use crate::{
    ledger::Broken,
    model::CommitModel,
    scenario::Bounds,
    world::{Action, World},
};

/// Beacon blocks within which all traffic has to end.
const BLOCKS: u64 = 40;
/// Steps between two blocks, at the most.
const STEPS: u32 = 2_000;

/// Brings a world to the end of all traffic by a fair schedule, and checks it there. Returns it.
pub fn finish(model: &CommitModel, world: &World) -> Result<World, Broken> {
    let bounds = Bounds {
        blocks: u64::MAX,
        attempts: u32::MAX,
        late_anchors: false,
        late_sharing: model.bounds.late_sharing,
        late_leases: model.bounds.late_leases,
        ..Bounds::default()
    };
    let mut world = World { crashes: 0, beacon_crashes: 0, strays: 0, ..world.clone() };
    // Whoever stops at the end of the bounds may crash there, too.
    replay(model, &mut world, &bounds)?;
    for _ in 0..BLOCKS {
        world.refresh(model.around(), &bounds);
        advance(model, &mut world, &bounds)?;
        if is_quiet(model, &world) {
            check_end(model, &world)?;
            return Ok(world);
        }
        model.step(&mut world, &bounds, &Action::Block);
    }
    let open: Vec<String> = world.shards.iter().map(|shard| shard.describe()).collect();
    Err(Broken::new(Property::FenceEnds, format!("traffic does not end: {}", open.join("; "))))
}

/// Everything but new blocks.
fn advance(model: &CommitModel, world: &mut World, bounds: &Bounds) -> Result<(), Broken> {
    for _ in 0..STEPS {
        let mut steps = Vec::new();
        model.steps(world, bounds, &mut steps);
        let Some(step) = steps.into_iter().find(|step| *step != Action::Block) else {
            return world.broken.clone().map_or(Ok(()), Err);
        };
        model.step(world, bounds, &step);
    }
    Err(Broken::new(Property::FenceEnds, "steps without end between two blocks"))
}

fn replay(model: &CommitModel, world: &mut World, bounds: &Bounds) -> Result<(), Broken> {
    if model.planted.is_none() {
        for at in 0..world.shards.len() {
            let id = world.shards[at].id();
            model.step(world, bounds, &Action::Crash(id));
        }
        model.step(world, bounds, &Action::CrashBeacon);
    }
    world.broken.clone().map_or(Ok(()), Err)
}

fn is_quiet(model: &CommitModel, world: &World) -> bool {
    let head = world.beacon.head();
    let ended = |shard: &std::sync::Arc<crate::shard::Shard>| {
        let owner = &shard.ledger.owner;
        owner.cut_number() == head
            && owner.own_shared().next().is_none()
            && owner.open_groups().next().is_none()
            && owner.credit_receivers().all(|to| owner.credits_after(to, 0).next().is_none())
            && owner.held_credits().is_zero()
            && owner.fees().is_zero()
    };
    let told: BTreeSet<_> = world
        .shards
        .iter()
        .flat_map(|shard| shard.ledger.history.receipts.iter().map(|receipt| receipt.tx))
        .collect();
    world.shards.iter().all(ended)
        && world.beacon.planner.open() == 0
        && world.beacon.planner.waiting() == 0
        && world.compared == head
        && told.len() == model.scenario.txs.len()
}

fn check_end(model: &CommitModel, world: &World) -> Result<(), Broken> {
    for shard in &world.shards {
        let owner = &shard.ledger.owner;
        if owner.fenced().next().is_some() || !owner.anchor().acks.is_empty() {
            return Err(Broken::new(Property::FenceEnds, shard.describe()));
        }
    }
    for (at, (tx, _)) in model.scenario.txs.iter().enumerate() {
        let home = world.shard(model.scenario.home(at));
        let receipts = home.ledger.history.receipts.iter();
        let sent = model.scenario.txs.iter().filter(|(other, _)| other.sender() == tx.sender());
        let nonce = home.ledger.value(&atoll_types::StateKey::Basic(tx.sender())).basic().nonce;
        if nonce != sent.count() as u64 {
            let detail = format!("the nonce of {} is {nonce}", tx.sender());
            return Err(Broken::new(Property::NonceOrder, detail));
        }
        if receipts.filter(|receipt| receipt.tx == *tx.hash()).count() != 1 {
            let detail = format!("transaction {at} has no receipt or two");
            return Err(Broken::new(Property::ExactlyOnce, detail));
        }
    }
    Ok(())
}
