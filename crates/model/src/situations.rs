//! Interleavings that look dangerous on paper. That they are reached is asserted; that they are
//! harmless follows from the properties, which hold everywhere.

use atoll_commit::Owner;
use atoll_types::{AbortCause, GroupId, PlannedGroup, Refusal, ShardId, Verdict};

use crate::{message::Content, model::CommitModel, shard::Shard, world::World};

/// A state that shows a situation.
pub type Situation = (&'static str, fn(&CommitModel, &World) -> bool);

/// A group was run on a value in flight, and the group that the value is from was run again since,
/// with another result.
pub const SOURCE_RUN_AGAIN: Situation = ("a forwarded value's group ran again", |_, world| {
    owners(world).any(|owner| {
        owner.results().flat_map(|message| &message.part.sources).any(|source| {
            let result = |owner: &Owner| Some(owner.result(source.group)?.first()?.digest());
            owners(world).filter_map(result).any(|digest| digest != source.digest)
        })
    })
});

/// All owners of a group but one have acknowledged its result, the beacon has heard it and made a
/// block since, and one still has no part.
pub const PART_LACKING: Situation = ("one owner lacks its part", |_, world| {
    planned(world).any(|plan| {
        let lacks =
            |id: &&ShardId| world.shard(**id).ledger.owner.awaited().any(|g| g.id == plan.id);
        let lacking = plan.owners.iter().filter(lacks).count();
        let acks = |id: &&ShardId| {
            let anchor = world.shard(**id).ledger.owner.anchor();
            anchor.acks.iter().any(|ack| ack.group == plan.id) && !world.beacon.listens(&anchor)
        };
        let acknowledged = plan.owners.iter().filter(acks).count();
        lacking == 1 && acknowledged + 1 == plan.owners.len() && world.beacon.head() > plan.id.round
    })
});

/// Owners have applied a commit that another owner has not heard of.
pub const COMMIT_BEHIND: Situation = ("one owner is behind a commit", |_, world| {
    planned(world).any(|plan| {
        let applied = |id: &&ShardId| {
            matches!(world.shard(**id).ledger.history.ended.get(&plan.id), Some(Some(_)))
        };
        let open = |id: &&ShardId| world.shard(**id).ledger.owner.plan(plan.id).is_some();
        plan.owners.iter().any(|id| applied(&id)) && plan.owners.iter().any(|id| open(&id))
    })
});

/// A credit is due to an account that an undecided group overwrites.
pub const CREDIT_WAITS: Situation = ("a credit waits for a group", |_, world| {
    world.shards.iter().any(|shard| {
        let owner = &shard.ledger.owner;
        let settled = |from: ShardId| {
            let settlements = owner.settlements();
            settlements.iter().find(|end| end.from == from).map_or(0, |end| end.up_to)
        };
        due(world, shard).any(|(from, up_to)| up_to > settled(from))
    })
});

/// A credit travels with the lease of a group whose key is in flight.
pub const CREDIT_TRAVELS: Situation = ("a credit travels with a lease", |_, world| {
    owners(world).flat_map(Owner::open_groups).any(|(_, lease)| !lease.credits.is_empty())
});

/// A payment came to a contract, and is on its way back.
pub const CREDIT_RETURNS: Situation = ("a credit goes back", |_, world| {
    let sent = world.shards.iter().flat_map(|shard| shard.ledger.history.sent.values());
    sent.into_iter().any(|c| matches!(c.kind, atoll_types::CreditKind::Returned { .. }))
});

/// Whoever reads at the newest cut, and not at the newest settled one, reads a value that an
/// undecided group of an earlier round is about to change.
pub const READ_UNDECIDED: Situation = ("a read at an undecided cut would change", |_, world| {
    world.shards.iter().any(|shard| {
        let owner = &shard.ledger.owner;
        let parts = world.shards.iter().flat_map(|shard| shard.ledger.owner.results());
        let earlier = parts.filter(|message| message.part.owner == shard.id()).filter(|message| {
            let group = message.part.group;
            owner.plan(group).is_some() && group.round < owner.cut_number()
        });
        let mut writes = earlier.flat_map(|message| &message.part.writes);
        writes.any(|(key, value)| shard.ledger.value_at(key, owner.cut_number()) != *value)
    })
});

/// A shard has not followed for a round in which it owns something, and later groups on the same hot
/// key have run on values in flight.
pub const ABSENT_UNDER_CHAIN: Situation =
    ("a chain of hot rounds under an absent shard", |_, world| {
        planned(world).any(|plan| {
            let absent = |id: &ShardId| world.shard(*id).ledger.owner.cut_number() < plan.id.round;
            let behind = |group: GroupId| {
                let leases = || owners(world).flat_map(Owner::open_groups);
                let flights = leases().filter(move |(_, lease)| {
                    lease.in_flight.iter().any(|flight| flight.group == group)
                });
                flights.map(|(plan, _)| plan.id).next()
            };
            plan.owners.iter().any(absent) && behind(plan.id).and_then(behind).is_some()
        })
    });

/// A group was aborted because a shard was missing, and one that was behind it with it.
pub const CHAIN_FALLS: Situation = ("a chain falls with its first group", |_, world| {
    world.beacon.chain.iter().any(|link| {
        let causes = || {
            link.block.decisions.iter().filter_map(|decision| match &decision.verdict {
                Verdict::Abort(cause) => Some(cause),
                Verdict::Commit { .. } => None,
            })
        };
        causes().any(|cause| matches!(cause, AbortCause::Missing(_)))
            && causes().any(|cause| *cause == AbortCause::Dependant)
    })
});

/// A group and one on its values in flight were committed in one block.
pub const CHAIN_COMMITS: Situation = ("a chain commits in one block", |_, world| {
    world.beacon.chain.iter().any(|link| {
        let ends = &link.block.decisions;
        let commits = |end: &&atoll_types::Decision| matches!(end.verdict, Verdict::Commit { .. });
        let mut rounds: Vec<u64> = ends.iter().filter(commits).map(|end| end.group.round).collect();
        rounds.dedup();
        rounds.len() > 1
    })
});

/// A group was run on values from another executor.
pub const FLIGHT: Situation = ("a value flies between executors", |_, world| {
    let parts = owners(world).flat_map(Owner::results).map(|message| &message.part);
    parts.into_iter().any(|part| {
        let source = |plan: &&PlannedGroup| part.sources.iter().any(|ack| ack.group == plan.id);
        planned(world).filter(source).any(|plan| plan.executor != part.executor)
    })
});

/// An executor lost a result before it was durable, ran the group again, and kept what it gave.
pub const RAN_AGAIN: Situation = ("an executor ran a group again", |_, world| {
    world
        .shards
        .iter()
        .any(|shard| shard.lost.iter().any(|group| shard.ledger.owner.result(*group).is_some()))
});

/// A part from a shard that does not execute the group is at an owner's door.
pub const STRAY_PART: Situation = ("a part from another shard", |_, world| {
    world.network.iter().any(|message| {
        let Content::Part(part) = &message.content else { return false };
        let refusal = world.shard(message.shard).ledger.owner.check_part(part);
        matches!(refusal, Err(Refusal::NotExecutor { .. }))
    })
});

/// A group got a key to write that nobody had predicted.
pub const LATE_GRANT: Situation = ("a late lease to write", |_, world| {
    let fences = |shard: &Shard| {
        let fences = shard.ledger.history.fences.values();
        fences.flat_map(|keys| keys.values()).any(|fence| fence.late)
    };
    world.shards.iter().any(|shard| fences(shard))
});

/// A shard that a plan does not name became an owner by a late lease, and its group was committed.
pub const LATE_OWNER: Situation = ("a late owner commits", |_, world| {
    let decisions = world.beacon.chain.iter().flat_map(|link| &link.block.decisions);
    decisions
        .into_iter()
        .any(|end| matches!(&end.verdict, Verdict::Commit { late, .. } if !late.is_empty()))
});

/// A prediction was wrong, and no late lease could help.
pub const LATE_REFUSED: Situation = ("a late lease is refused", |_, world| {
    owners(world).flat_map(Owner::results).flat_map(|message| &message.part.outcomes).any(|(_, end)| {
        matches!(end, atoll_types::TxOutcome::Wrong { missing } if missing.all().next().is_some())
    })
});

fn owners(world: &World) -> impl Iterator<Item = &Owner> {
    world.shards.iter().map(|shard| &shard.ledger.owner)
}

/// Every group that was planned.
fn planned(world: &World) -> impl Iterator<Item = &PlannedGroup> {
    world.beacon.chain.iter().flat_map(|link| &link.block.plan)
}

/// Up to which number credits of each shard were made due at a shard's newest cut.
fn due<'a>(world: &'a World, shard: &Shard) -> impl Iterator<Item = (ShardId, u64)> + use<'a> {
    let (id, cut) = (shard.id(), shard.ledger.owner.cut_number());
    let passed = world.beacon.chain.iter().filter(move |link| link.block.number() <= cut);
    let due = passed.flat_map(|link| &link.block.credits);
    due.filter(move |due| due.to == id).map(|due| (due.from, due.up_to))
}
