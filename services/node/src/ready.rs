//! Tells by gRPC health when a process is ready: a name of its own, apart from those of the roles,
//! which say that a port is open.

use std::time::Duration;

use atoll_api::{
    beacon::{BeaconClient, Head},
    state::{Read, StateClient},
};
use atoll_fabric::Context;
use tokio::time::MissedTickBehavior;
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{
    cluster::{ShardClients, service_name},
    config::Config,
};

/// The name that the health service of every port knows.
pub(crate) const NAME: &str = "ready";

/// A shard that has come so near to the beacon's head, in cuts, is caught up.
const NEAR: u64 = 8;
/// One that falls behind so far is no longer: some seconds of work.
const FAR: u64 = 256;
const LOOK: Duration = Duration::from_millis(500);
/// Enough for whoever answers at all.
const PATIENCE: Duration = Duration::from_secs(1);

/// The services that stand in a process.
pub(crate) fn names(config: &Config) -> Vec<&'static str> {
    let roles = config.shard.iter().flat_map(|shard| &shard.roles);
    let mut names: Vec<_> = roles.map(|role| service_name(*role)).collect();
    names.extend(config.beacon.as_ref().map(|_| "atoll.v1.BeaconService"));
    names.extend(config.gateway.as_ref().map(|_| "atoll.v1.LedgerService"));
    names
}

/// What a process has to have before it is ready.
pub(crate) struct Needs {
    beacon: BeaconClient,
    /// Of the shards that have a role here.
    own: Vec<StateClient>,
    /// Of all shards, for a process that only passes requests on to them.
    any: Vec<StateClient>,
}

/// What was found in one look.
#[derive(Debug, Default)]
struct Found {
    /// Number of the beacon's newest block, if it answers.
    head: Option<u64>,
    /// Newest cut of each shard with a role here, if its state answers.
    own: Vec<Option<u64>>,
    /// Whether a shard answers, if one is needed.
    any: bool,
}

impl Found {
    /// Whether the process is ready, which it was or was not before.
    ///
    /// A shard has to be near the head of the beacon, and may then fall behind some way. Without the
    /// beacon nobody knows how far it is, so it stays what it was: shards go on with what is local.
    /// Who only passes on is ready once it has reached somebody, and stays so: to take all gateways
    /// away because one shard is down would take the others' shards away too.
    fn is_ready(&self, was: bool) -> bool {
        if self.own.is_empty() {
            return was || (self.head.is_some() && self.any);
        }
        let allowed = if was { FAR } else { NEAR };
        self.own.iter().all(|cut| match (cut, self.head) {
            (Some(cut), Some(head)) => head.saturating_sub(*cut) <= allowed,
            (Some(_), None) => was,
            (None, _) => false,
        })
    }
}

impl Needs {
    pub fn of(config: &Config, beacon: &BeaconClient, shards: &[ShardClients]) -> Self {
        let here = |id| config.shard.iter().any(|shard| shard.id == id);
        let states = |own: bool| {
            let wanted = shards.iter().zip(0..).filter(|(_, id)| !own || here(*id));
            wanted.map(|(shard, _)| shard.state.clone()).collect::<Vec<_>>()
        };
        let own = states(true);
        // A beacon needs nobody.
        let any = if own.is_empty() && config.beacon.is_none() { states(false) } else { vec![] };
        Self { beacon: beacon.clone(), own, any }
    }

    async fn look(&self) -> Found {
        let head = self.beacon.head.call(Context::none().with_timeout(PATIENCE), Head);
        let (head, own, any) = tokio::join!(head, cuts(&self.own), cuts(&self.any));
        Found {
            head: head.ok().map(|reply| reply.block.number()),
            own,
            any: any.is_empty() || any.iter().any(Option::is_some),
        }
    }

    /// Tells it to these reporters, for ever.
    pub async fn tell(self, reporters: Vec<HealthReporter>) {
        let mut ready = false;
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let found = self.look().await;
            let now = found.is_ready(ready);
            if now == ready {
                continue;
            }
            ready = now;
            match ready {
                true => tracing::info!("ready"),
                false => tracing::warn!(?found, "not ready any more"),
            }
            let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
            for reporter in &reporters {
                reporter.set_service_status(NAME, status).await;
            }
        }
    }
}

/// The newest cuts of states, where they answer.
async fn cuts(states: &[StateClient]) -> Vec<Option<u64>> {
    let read = |state: &StateClient| {
        let nothing = Read { keys: vec![], codes: vec![], at: None, min_cut: 0 };
        let reply = state.read.clone();
        async move {
            let reply = reply.call(Context::none().with_timeout(PATIENCE), nothing).await;
            reply.ok().map(|reply| reply.cut)
        }
    };
    futures::future::join_all(states.iter().map(read)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_is_ready_once_it_has_caught_up_and_until_it_falls_far_behind() {
        let found = |head, cut| Found { head, own: vec![Some(1_000), cut], any: false };
        for (was, head, cut, is) in [
            (false, Some(1_000), Some(1_000 - NEAR), true),
            (false, Some(1_000), Some(999 - NEAR), false),
            (true, Some(1_000), Some(1_000 - FAR), true),
            (true, Some(1_000), Some(999 - FAR), false),
            // A block of the beacon's that it has and the head just read does not show.
            (false, Some(999), Some(1_000), true),
            // The beacon is away.
            (false, None, Some(1_000), false),
            (true, None, Some(1_000), true),
            // The state is away.
            (true, Some(1_000), None, false),
        ] {
            assert_eq!(found(head, cut).is_ready(was), is, "{was}, {head:?}, {cut:?}");
        }
    }

    #[test]
    fn a_gateway_is_ready_once_it_has_reached_somebody() {
        let found = |head, any| Found { head, own: vec![], any };
        assert!(!found(None, true).is_ready(false) && !found(Some(1), false).is_ready(false));
        assert!(found(Some(1), true).is_ready(false) && found(None, false).is_ready(true));
    }
}
